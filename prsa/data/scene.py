"""The scene contract ``prsa-scene-1``: `check_scene` is the one gate, which every public function passes.

A scene is one ``xarray.Dataset`` on one pixel grid: a variable per modality with dims ``(<modality>_band, y, x)``;
``label (y, x)``, 0 = unlabelled, 1..K (may be missing in an area that is only mapped); optionally ``split (y, x)``
(0 none, 1 train, 2 test), ``validation (y, x)`` (1 = training pixels kept apart for validation) and ``polygon (y, x)``
(number of the polygon that a label comes from, 0 = none: a split never cuts one). NaN is no-data. The whole contract
is in ``data/README.md``.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from .. import files
from ..errors import PrsaError
from . import grid, nodata

SCHEMA = "prsa-scene-1"
RASTERS = ("label", "split", "validation", "polygon")
TAKEN = {*RASTERS, "y", "x", "spatial_ref", "wavelength"}  # names that mean something else
MOST = 255  # classes: maps are bytes
SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf")
README = "write the scene as in data/README.md, 'Your own scene'"


def modalities(scene: xr.Dataset) -> list[str]:
    """Names of the modalities, in the order of the file."""
    return [str(name) for name, var in scene.data_vars.items() if var.dims == (f"{name}_band", "y", "x")]


def class_names(scene: xr.Dataset) -> list[str]:
    """The K category names; category k of ``label`` is ``class_names[k - 1]``. Empty for an area without labels."""
    return list(json.loads(scene.attrs["class_names"]))


def check_names(scene: xr.Dataset) -> None:
    """Raise `PrsaError` for a modality that results could not tell from the fused head. Methods' names go before it."""
    if "fused" in modalities(scene):
        fix = "Fix: scene = scene.rename(fused='other', fused_band='other_band')"
        raise PrsaError(
            f"expected another name of modality 'fused', which is the network's own head in results. {fix}."
        )


def refuse(source: str, expected: str, got: object, advice: str) -> None:
    """Raise the `PrsaError` of a scene: what was expected, what was got, likely causes with their fix."""
    text = " ".join((got if isinstance(got, str) else repr(got)).split())
    text = text if len(text) <= 160 else f"{text[:157]}..."
    raise PrsaError(f"{source[:80]}: expected {expected}, got {text}. {advice}"[:900])


def _names_of(scene: xr.Dataset, fail: Callable) -> str:
    """Class names as a JSON list, from one or from a list of texts."""
    given = scene.attrs.get("class_names")
    try:
        names = json.loads(given) if isinstance(given, str) else list(given)
    except (TypeError, ValueError):
        names = None
    if given is None:  # an area without labels; with labels, they have no name and are refused
        return "[]"
    good = isinstance(names, list) and all(isinstance(n, str) and n.strip() for n in names)
    if not good or len(set(names)) != len(names) or not names and given != "[]":
        fix = "Fix: scene.attrs['class_names'] = json.dumps([...]), a name for each of 1 to K."
        fail("class_names, a JSON list of K different names", given, fix)
    if len(names) > MOST:
        fix = "Fix: put classes together; a map holds one byte a pixel."
        fail(f"at most {MOST} classes", f"{len(names)} class_names", fix)
    return given if isinstance(given, str) else json.dumps(names)


def _raster(var: xr.DataArray, top: int | None, fail: Callable) -> np.ndarray:
    """Whole numbers (y, x), 0 where nothing is said (no-data, NaN)."""
    name = str(var.name)
    if set(var.dims) != {"y", "x"}:
        fail(f"{name} with dims ('y', 'x')", f"{var.dims} of shape {var.shape}", "Fix: rename its dimensions.")
    values = var.transpose("y", "x").values
    if values.dtype.kind not in "iufb":
        fail(f"{name} of integer type", values.dtype, "Fix: cast it, with 0 for unlabelled or none.")
    marks, ((scale, offset),) = nodata.declared(var, 1, fail)[0], nodata.packing(var, 1, fail)
    none = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for mark in marks:
        none |= nodata.equal(values, mark)
    if values.dtype.kind in "fb" or none.any() or (scale, offset) != (1.0, 0.0):
        exact = np.where(none, 0.0, values.astype(np.float64) * scale + offset)
        if (exact != np.round(exact)).any() or np.abs(exact).max(initial=0) > 2**31 - 1:
            fix = (
                "Likely cause: a float raster that was resampled or rescaled. Fix: take the nearest value, cast to int."
            )
            fail(f"{name} of integer type", f"{var.dtype} with other values than whole numbers", fix)
        kind = values.dtype.newbyteorder("=") if values.dtype.kind in "iu" else np.int32
        values = exact.astype(kind if (exact >= 0).all() else np.int32)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or (top is not None and high > top):
        odd = low if low < 0 else high
        causes = {
            "label": f"Likely causes: {odd} marks unlabelled pixels (check: where it lies; fix: "
            f"scene.label.attrs['nodata'] = {odd}); a legend's codes do not run from 1 to K (check: "
            "np.unique(scene.label, return_counts=True); fix: renumber them); class_names lacks names (fix: add them).",
            "split": "Codes are 0 none, 1 train, 2 test. Fix: renumber; validation pixels have a raster of their own.",
        }
        limit = "0 or more" if top is None else f"between 0 and {top}"
        fail(f"{name} {limit}", f"{low} to {high}", causes.get(name, "Fix: set pixels outside to 0."))
    return values


def _modality(name: str, var: xr.DataArray, source: str, fail: Callable) -> np.ndarray:
    """Float32 (band, y, x) with NaN for no-data."""
    simple = name.isprintable() and not re.search("[/,=]", name) and name == name.strip() and 0 < len(name) <= 60
    if name in TAKEN or not simple:
        rule = (
            "a raster or coordinate has that name" if name in TAKEN else "not printable, longer than 60, or with / , ="
        )
        fix = f"Fix: scene = scene.rename({{{name!r}: 'other', {name + '_band'!r}: 'other_band'}})."
        fail(f"another name of modality {name[:40]!r}", rule, fix)
    values = var.transpose(f"{name}_band", "y", "x").values
    if values.dtype.kind not in "iuf":
        fail(f"{name} numeric", values.dtype, "Fix: store reflectances, decibels or metres as numbers.")
    values = nodata.unpack(var, values, source, fail)
    dead = [band for band, plane in enumerate(values) if np.isnan(plane[0, 0]) and np.isnan(plane).all()]
    if dead:
        fail(
            f"data in every band of {name}",
            f"only no-data in band(s) {dead[:8]}",
            "Likely causes: the sensor does not cover this area (check: all bands are listed); the producer masks "
            "these bands out (check: the product's guide); a no-data attribute names a value of the data (check: "
            f"scene[{name!r}].attrs). Fix: drop these bands, take another area, or correct the attribute.",
        )
    return values


def check_scene(scene: xr.Dataset, source: str = "") -> xr.Dataset:
    """Return the scene in the one form that the package works on, or raise `PrsaError` that names what is wrong.

    Modalities become float32 ``(<name>_band, y, x)`` with NaN for no-data in every spelling (`prsa.data.nodata`),
    rasters whole numbers, ``label`` all 0 where there is none, wavelengths nm; coordinates and CRS are those of
    `prsa.data.grid`, attributes complete. ``source`` names the scene in errors and in warnings (`UserWarning`: values
    that no sensor measures). What is clean already shares its memory with the result: a large scene is not held twice.

    Every public function calls this on what it gets. Nothing is marked "checked before", because no mark notices values
    that are changed in place: they are looked at each time, in 0.1 to 0.3 s per GB, a sixth of what the hash takes.
    """
    if not isinstance(scene, xr.Dataset):
        raise PrsaError(
            f"expected a scene, an xarray.Dataset, got {type(scene).__name__}. Fix: prsa.open_scene opens a file or a "
            f"simulated scene by name; for arrays, {README}."
        )
    source = source or str(scene.attrs.get("name", "scene"))
    fail = partial(refuse, source)
    if scene.attrs.get("schema", SCHEMA) != SCHEMA:
        fail(f"the attribute schema={SCHEMA!r}", scene.attrs["schema"], f"Fix: {README}.")
    place, known = grid.crs_name(scene), {"y", "x", *(f"{n}_band" for n in scene.data_vars if n not in RASTERS)}
    scene = scene.isel({d: 0 for d, n in scene.sizes.items() if n == 1 and d not in known}, drop=True)  # a time, a band
    variables = {n: v for n, v in scene.data_vars.items() if n != place}
    strange = [
        f"{n} {v.dims} {v.shape}"
        for n, v in variables.items()
        if n not in RASTERS and (set(v.dims) != {f"{n}_band", "y", "x"} or not v.size)
    ]
    shape = scene.sizes.get("y", 0), scene.sizes.get("x", 0)
    if strange or not all(shape):
        fail(
            f"every modality on one grid with dims ('<name>_band', 'y', 'x') = (bands, {shape[0]}, {shape[1]})",
            ", ".join(strange) or f"a scene of {shape[0]} x {shape[1]} pixels",
            "Fix: resample it to the grid of the others, name its dimensions after the modality (a raster dsm (y, x): "
            "scene['dsm'] = scene['dsm'].expand_dims('dsm_band')); drop variables that are no sensor.",
        )
    if len(variables.keys() - set(RASTERS)) < 2:
        found = sorted(map(str, variables.keys() - set(RASTERS)))
        fail("two or more modalities", f"{len(found)} ({found})", "Fix: add the second sensor as its own variable.")
    names = _names_of(scene, fail)
    top = {"label": len(json.loads(names)), "split": 2, "validation": 1}
    data, everywhere = {}, {key: value for key, value in scene.attrs.items() if nodata.is_key(key)}
    for name, var in variables.items():
        if name in RASTERS:
            data[name] = ("y", "x"), _raster(var, top.get(name), fail), nodata.plain(var.attrs)
        else:
            var = var.assign_attrs(everywhere | var.attrs)
            values = _modality(str(name), var, source, fail)
            attrs = nodata.plain(var.attrs) | ({"nodata": np.nan} if nodata.is_measured(var) else {})
            data[str(name)] = (f"{name}_band", "y", "x"), values, attrs
    data.setdefault("label", (("y", "x"), np.zeros(shape, np.uint8)))
    try:
        simulated = int(scene.attrs.get("simulated", 0))
    except (TypeError, ValueError):
        simulated = -1
    if simulated not in (0, 1):
        fail("the attribute simulated to be 0 or 1", scene.attrs["simulated"], "Fix: set it to 0 for a real scene.")
    coords = grid.coordinates(scene, fail)
    used = ("geotransform", "transform") * ("y" in coords) + ("crs",) * ("spatial_ref" in coords)
    attrs = {"title": source, "license": "not stated", "citation": "not stated", "name": source, "schema": SCHEMA}
    attrs |= {key: value for key, value in nodata.plain(scene.attrs).items() if key not in used}
    attrs |= {"class_names": names, "simulated": simulated, "name": file_name(attrs["name"])}
    clean = xr.Dataset(data, coords, attrs)
    grid.check_stripes(clean, modalities(clean), fail)
    return clean


def file_name(text: object) -> str:
    """A name as it may stand in file names: letters and digits of any script, no path, 60 at most."""
    return re.sub(r"[^\w.:-]+", "-", str(text)).strip("-.")[:60] or "scene"


def empty_pixels(scene: xr.Dataset) -> np.ndarray:
    """Where no sensor has any value, bool (y, x): such pixels are never trained on nor tested, and are mapped as 0."""
    empty = np.ones((scene.sizes["y"], scene.sizes["x"]), bool)
    for name in modalities(scene):
        for plane in scene[name].values:
            if not empty.any():
                return empty
            empty &= np.isnan(plane)
    return empty


def save_scene(scene: xr.Dataset, path: str | os.PathLike) -> Path:
    """Check the scene and write it as compressed netCDF 4, all or nothing; read back before it gets its name.

    Raises `PrsaError` for a scene that breaks the contract, a file name that is not netCDF's, and a disk that fails.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise PrsaError(f"{path.name}: expected a file name that ends in {', '.join(SUFFIXES)}. Fix: {path.stem}.nc.")
    clean = check_scene(scene, path.name)
    encoding = {n: {"zlib": True, "complevel": 4} for n in clean.data_vars}
    for name in clean.data_vars if "spatial_ref" in clean.coords else ():
        encoding[name]["grid_mapping"] = "spatial_ref"
    with files.whole(path) as temporary:
        temporary.write_bytes(clean.to_netcdf(engine="h5netcdf", encoding=encoding))
        back = check_scene(read_netcdf(temporary, path.name), path.name)
        if not back.equals(clean):
            raise PrsaError(f"{path}: what was written could not be read back alike. Likely cause: a failing disk.")
    return path


def read_netcdf(path: Path, name: str) -> xr.Dataset:
    """A netCDF file in memory, its numbers as they are stored: `check_scene` unpacks them. Raises `PrsaError`."""
    import h5netcdf

    h5netcdf.File._writable = False  # lacking in a damaged file, so that closing it printed a traceback
    try:
        with xr.open_dataset(path, mask_and_scale=False, decode_times=False, decode_coords="all") as file:
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if file.nbytes > memory:  # a small file can hold it, compressed
                sizes = f"({memory / 1e9:.0f} GB), got {file.nbytes / 1e9:.0f} GB"
                raise PrsaError(
                    f"{name}: expected a scene that fits into memory {sizes}. Fix: cut the scene; to map large "
                    "rasters, prsa map reads them window by window."
                )
            return file.load()
    except PrsaError:
        raise
    except Exception as error:  # every backend raises its own kind for a damaged file
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise PrsaError(
            f"{name}: expected a readable netCDF file, got {got}. Likely causes: it was not copied whole (check: its "
            "size; fix: copy it again); it is of another kind (check: ncdump -h)."
        ) from error


def scene_hash(scene: xr.Dataset) -> str:
    """SHA-256 over names, shapes and values of the modalities and rasters: two scenes with one hash train alike."""
    digest = hashlib.sha256(scene.attrs["class_names"].encode())
    for name in [*modalities(scene), *(r for r in RASTERS if r in scene)]:
        values = np.ascontiguousarray(scene[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values)
    return digest.hexdigest()
