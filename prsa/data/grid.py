"""Where pixels lie and what bands measure: coordinates and CRS as CF and rioxarray have them, wavelengths in nm."""

import itertools
from collections.abc import Callable

import numpy as np
import xarray as xr

from .nodata import numbers, plain

CLOSE = 0.05  # of the usual step: coordinates nearer than this are one place, written with other last digits
STRIPES = 0.2  # of the rows that each of two sensors lacks while the other has them
WAVELENGTHS = ("wavelength", "wavelengths", "wavelength_nm", "center_wavelength")


def crs_name(scene: xr.Dataset) -> str | None:
    """Name of the variable that holds the coordinate reference system, if there is one."""
    named = [str(v.attrs.get("grid_mapping", v.encoding.get("grid_mapping", ""))) for v in scene.variables.values()]
    for name in dict.fromkeys([n.split(":")[0] for n in named] + ["spatial_ref", "crs"]):
        if name in scene.variables and not scene[name].ndim:
            return name
    return next((str(n) for n, v in scene.variables.items() if not v.ndim and "grid_mapping_name" in v.attrs), None)


def _wkt(text: str, fail: Callable) -> str:
    from rasterio.crs import CRS  # a heavy library, needed for scenes that give their CRS as text
    from rasterio.errors import CRSError

    try:
        return CRS.from_user_input(text).to_wkt()
    except CRSError:
        fail(
            "the attribute crs to be one that GDAL knows", text, "Fix: scene.attrs['crs'] = 'EPSG:32633', or remove it."
        )


def _affine(value: object, gdal: bool) -> tuple[float, ...]:
    """(a, b, c, d, e, f) of x = a column + b row + c, y = d column + e row + f, from GDAL's order or that one."""
    values = numbers(value)
    return tuple(values[i] for i in ((1, 2, 0, 4, 5, 3) if gdal else range(6)))


def _place(scene: xr.Dataset, crs: dict, fail: Callable) -> dict[str, np.ndarray]:
    """Pixel centres y and x: the scene's coordinates, or what an unrotated affine transform in an attribute says."""
    centres = {name: _numbers_of(scene[name]) for name in ("y", "x") if name in scene.coords}
    for key, value in (crs | scene.attrs).items():
        if key not in ("geotransform", "GeoTransform", "transform") or centres:
            continue
        try:
            a, b, c, d, e, f = _affine(value, gdal=key != "transform")
        except (IndexError, TypeError, ValueError):
            fail(f"six numbers in the attribute {key}", value, "Fix: correct or remove it.")
        if b == d == 0 and a and e:
            rows, columns = scene.sizes["y"], scene.sizes["x"]
            centres = {"y": f + e * (np.arange(rows) + 0.5), "x": c + a * (np.arange(columns) + 0.5)}
    return centres


def _check_centres(name: str, values: np.ndarray, fail: Callable) -> None:
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        fix = f"Fix: scene = scene.drop_vars({name!r}), or correct it."
        fail(f"finite numbers in the coordinate {name}", values[:3], fix)
    steps = np.diff(values.astype(np.float64))
    if not (steps >= 0).all() and not (steps <= 0).all():
        fail(f"a coordinate {name} that only rises or only falls", values[:5], f"Fix: scene = scene.sortby({name!r}).")
    steps = np.abs(steps)
    usual = np.median(np.sort(steps)[len(steps) // 2 :]) if steps.size else 0.0
    if close := int((steps <= CLOSE * usual).sum()):
        fail(
            f"one coordinate {name} per {'row' if name == 'y' else 'column'}, about {usual:.6g} apart",
            f"{close} pairs that are nearly or exactly the same, of {values.size}",
            "Likely cause: the sensors' coordinates differ in the last digits, and xarray took them for other places "
            "(check: the scene has more pixels than each file, and no-data in stripes). Fix: give all rasters the "
            f"coordinate of one before they are put together: lidar = lidar.assign_coords({name}=hsi[{name!r}]). "
            "Other cause: tiles that overlap were joined. Fix: cut the overlap.",
        )


def _numbers_of(var: xr.DataArray) -> np.ndarray:
    """Values of a coordinate, unpacked where its attributes say so."""
    scale, offset = (numbers(var.attrs[key])[0] if key in var.attrs else None for key in ("scale_factor", "add_offset"))
    return var.values if scale is offset is None else var.values * (scale or 1.0) + (offset or 0.0)


def wavelengths(scene: xr.Dataset, fail: Callable) -> xr.DataArray | None:
    """The coordinate ``wavelength`` in nm, given in metres, micrometres or nm, as a coordinate or as an attribute."""
    found = scene.coords.get("wavelength")
    if found is None:
        for name, var in scene.data_vars.items():
            size = scene.sizes.get(f"{name}_band", 0)
            key = next((key for key in WAVELENGTHS if size > 1 and np.size(var.attrs.get(key)) == size), None)
            if key:
                found = xr.DataArray(numbers(var.attrs[key]), dims=f"{name}_band")
                break
        else:
            return None
    fix = "Fix: scene = scene.drop_vars('wavelength'), or give the bands' wavelengths in nm."
    if found.ndim != 1 or found.dtype.kind not in "iuf" or not str(found.dims[0]).endswith("_band"):
        fail("numbers in the coordinate wavelength, one per band", f"{found.dtype} with dims {found.dims}", fix)
    values = _numbers_of(found).astype(np.float64)
    if not (values > 0).all() or not np.isfinite(values).all():
        fail("wavelengths above 0", values[:3], fix)
    # Optical sensors measure from 200 nm: 0.2 micrometres, 2e-7 m. The unit that is written beside is often wrong.
    factor = 1e9 if values.min() < 1e-3 else 1e3 if values.min() < 100 else 1.0
    return xr.DataArray(values * factor, dims=found.dims, attrs=plain(found.attrs) | {"units": "nm"})


def coordinates(scene: xr.Dataset, fail: Callable) -> dict[str, xr.DataArray | xr.Variable]:
    """All coordinates of a scene as it is kept; raises through ``fail`` where they contradict the pixels.

    ``y``, ``x`` (pixel centres), ``spatial_ref`` (CRS as WKT, with the attribute ``GeoTransform`` where it was given),
    ``wavelength`` in nm, and other numbers or texts along the scene's dimensions as they are.
    """
    name = crs_name(scene)
    crs = dict(scene[name].attrs) if name else {}
    if not crs and isinstance(text := scene.attrs.get("crs"), str):
        wkt = _wkt(text, fail)
        crs = {"crs_wkt": wkt, "spatial_ref": wkt}
    centres = _place(scene, crs, fail)
    if "GeoTransform" in crs and centres:
        a, _, c, _, e, f = _affine(crs["GeoTransform"], gdal=True)
        here = [c + a / 2 - centres["x"][0], f + e / 2 - centres["y"][0]] if len(centres) == 2 else [np.inf]
        if np.abs(here).max() > CLOSE * max(abs(a), abs(e)):  # of the raster that this one was cut from
            del crs["GeoTransform"]
    kept = {}
    for key, var in scene.coords.items():
        text = var.dtype.kind in "US" or var.dtype == object and all(isinstance(v, str) for v in var.values.ravel())
        if key not in ("y", "x", "wavelength", "spatial_ref", name) and (text or var.dtype.kind in "iuf"):
            kept[key] = xr.Variable(var.dims, var.values, plain(var.attrs))
    for key, values in centres.items():
        _check_centres(key, values, fail)
        kept[key] = xr.Variable(key, values, plain(scene[key].attrs) if key in scene.coords else {})
    if crs:
        kept["spatial_ref"] = xr.Variable((), 0, plain(crs))
    if (found := wavelengths(scene, fail)) is not None:
        kept["wavelength"] = found.variable
    return kept


def check_stripes(scene: xr.Dataset, names: list[str], fail: Callable) -> None:
    """Sensors that lack each other's rows or columns, one by one, lie on shifted grids that xarray put side by side."""
    for axis, what in ((1, "x"), (0, "y")):
        empty = {}
        for m in names:
            first = scene[m].values[0]
            if np.isnan(first.min()):
                empty[m] = np.isnan(first).all(axis)
        for a, b in itertools.combinations(empty, 2):
            lack = empty[a] & ~empty[b], empty[b] & ~empty[a]
            n = len(empty[a])
            if (
                min(mask.sum() for mask in lack) > STRIPES * n
                and (np.diff(lack[0].astype(int)) != 0).sum() > STRIPES * n
            ):
                other = "y" if what == "x" else "x"
                fail(
                    f"{a} and {b} on one pixel grid",
                    f"no-data in stripes: one lacks the {'rows' if other == 'y' else 'columns'} that the other has",
                    f"Likely cause: their coordinates {other} are shifted by a part of a pixel, and xarray kept both. "
                    "Fix: resample one to the grid of the other first, as prsa.scene_from_rasters does.",
                )
