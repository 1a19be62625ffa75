"""From rasters and labels as people have them (GeoTIFF, ENVI, polygons drawn in a GIS) to a scene."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ..errors import PrsaError
from . import grid as place
from .labels import Classes, read_labels
from .layers import crs_name
from .scene import check_scene, class_names, modalities
from .windowed import Windowed, open_windowed

__all__ = ["open_windowed", "scene_from_rasters", "show", "summary"]

KINDS = {
    "hyperspectral": ("hsi", "hs", "hyperspectral"),
    "multispectral": ("ms", "msi", "s2", "sentinel2", "landsat", "multispectral", "optical"),
    "sar": ("sar", "s1", "sentinel1", "radar"),
    "lidar": ("lidar", "als"),
    "dsm": ("dsm", "dem", "dtm", "chm", "ndsm", "height", "elevation"),
    "rgb": ("rgb", "ortho"),
}
FEW = 30  # labelled pixels: fewer say little of a class


def scene_from_rasters(
    rasters: Mapping[str, str | os.PathLike | Sequence],
    labels: str | os.PathLike | None = None,
    column: str | None = None,
    classes: Classes | None = None,
    grid: str | None = None,
    **attrs: str,
) -> xr.Dataset:
    """A scene (`prsa.data.scene`) from raster files and polygons or a label raster.

    ``rasters``: a file per modality, e.g. ``{"ms": "S2.tif", "sar": "S1.tif"}``, or a list of files whose bands are put
    one after another; ``grid``: the modality whose pixels the scene has (default: the first), the others are brought to
    it as `prsa.data.windowed` says. ``labels``: polygons or points with the class in ``column``, or a raster of class
    numbers; ``classes``: their names, see `prsa.data.labels.read_labels`. ``attrs``: title, name, license, citation.

    What was done to the files is in the attribute ``rasters`` and what the scene holds in ``summary``, both JSON;
    `show` gives them as text. Warns of classes with few pixels or one polygon, and of values that no sensor measures.
    Raises `PrsaError` for files that cannot be read or placed, and for a scene that breaks the contract. Source: ours.
    """
    with open_windowed(rasters, grid) as opened:
        _check_memory(opened)
        everything = slice(0, opened.shape[0]), slice(0, opened.shape[1])
        data = {name: ((f"{name}_band", "y", "x"), opened.read(name, *everything)) for name in opened.layers}
        scene = xr.Dataset(data, _coordinates(opened))
        for name in opened.layers:
            scene[name].attrs = _attributes(opened, name, scene)
        report = {"grid": grid or next(iter(opened.layers)), "modalities": opened.report()}
        undeclared = opened.undeclared()
    names = []
    if labels is not None:
        found = read_labels(labels, opened.grid, column, classes)
        names, report["labels"] = found.names, found.report
        for raster in ("label", "polygon", "split", "validation"):
            if getattr(found, raster) is not None:
                scene[raster] = ("y", "x"), getattr(found, raster)
    title = " + ".join(sorted({Path(f).stem for part in report["modalities"].values() for f in part["files"]}))
    scene.attrs = {"title": title[:200]} | attrs | {"class_names": json.dumps(names, ensure_ascii=False)}
    scene.attrs["rasters"] = json.dumps(report, ensure_ascii=False)
    scene = check_scene(scene, str(attrs.get("name", "scene")))
    facts = summary(scene)
    for text in (*undeclared, *facts["warnings"]):
        warnings.warn(text, stacklevel=2)
    return scene.assign_attrs(summary=json.dumps(facts, ensure_ascii=False))


def _check_memory(opened: Windowed) -> None:
    pixels = opened.shape[0] * opened.shape[1]
    needed = 4 * pixels * sum(n for name, n in opened.sizes.items() if name.endswith("_band"))
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else np.inf
    if needed > 0.8 * there:
        raise PrsaError(
            f"a scene of {opened.shape[0]} x {opened.shape[1]} pixels takes {needed / 2**30:.1f} GB, this machine has "
            f"{there / 2**30:.1f} GB. Fix: cut the rasters to the area of the labels, e.g. gdal_translate -projwin, "
            "and train on that; a saved model maps the large rasters window by window (prsa map --modality)."
        )


def _coordinates(opened: Windowed) -> dict:
    """Where the pixels lie, as CF and rioxarray write it, and what the bands are."""
    coords = {axis: (axis, values) for axis, values in opened.grid.coordinates().items()}
    if opened.crs is not None:
        wkt, transform = opened.crs.to_wkt(), " ".join(repr(v) for v in opened.transform.to_gdal())
        coords["spatial_ref"] = (), 0, {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": transform}
    for name in opened.layers:
        if bands := opened.names(name):
            coords[f"{name}_band"] = bands
        if "wavelength" not in coords and (found := opened.wavelengths(name)):
            coords["wavelength"] = f"{name}_band", found, {"units": "nm"}
    return coords


def _attributes(opened: Windowed, name: str, scene: xr.Dataset) -> dict:
    word = name.lower().split("_")[0]
    attrs = {"kind": next((kind for kind, words in KINDS.items() if word in words), "other"), "long_name": name}
    waves = opened.wavelengths(name)
    if attrs["kind"] == "other" and waves:
        attrs["kind"] = "hyperspectral" if len(waves) > 20 else "multispectral"
    if waves and f"{name}_band" not in scene["wavelength"].dims:  # there is one coordinate, of the first that has any
        attrs["wavelength_nm"] = waves
    if units := opened.units(name):
        attrs["units"] = units
    if opened.measured(name):
        attrs["nodata"] = np.nan
    return attrs


def summary(scene: xr.Dataset) -> dict:
    """What a scene holds: its grid, classes with pixels and polygons, sensors with bands, units, values and no-data."""
    label, names = scene["label"].values, class_names(scene)
    pixels = np.bincount(label.ravel(), minlength=len(names) + 1)
    classes = [{"name": name, "pixels": int(n)} for name, n in zip(names, pixels[1:])]
    if "polygon" in scene:
        owners = np.unique(np.stack([label.ravel(), scene["polygon"].values.ravel()])[:, label.ravel() > 0], axis=1)
        for k, found in enumerate(classes, 1):
            found["polygons"] = int((owners[0] == k).sum())
    sensors = []
    for name in modalities(scene):
        values = scene[name].values
        low, high = (float(end.reduce(values, axis=None)) for end in (np.fmin, np.fmax))
        empty = float(np.isnan(values).mean()) if np.isnan(values.min()) else 0.0
        sensors.append(
            {
                "name": name,
                "kind": str(scene[name].attrs.get("kind", "other")),
                "bands": len(values),
                "units": str(scene[name].attrs.get("units", "not stated")),
                "lowest": low,
                "highest": high,
                "no_data": round(empty, 6),
            }
        )
    said = [
        f"class {c['name']!r} has {c['pixels']} labelled pixels, fewer than {FEW}: its accuracy will say little"
        for c in classes
        if c["pixels"] < FEW
    ]
    said += [
        f"class {c['name']!r} has one polygon: it cannot be both trained on and tested unless the polygon is cut"
        for c in classes
        if c.get("polygons") == 1
    ]
    return {
        "rows": scene.sizes["y"],
        "columns": scene.sizes["x"],
        "unlabelled": int(pixels[0]),
        "classes": classes,
        "sensors": sensors,
        "warnings": said,
    }


def show(scene: xr.Dataset) -> str:
    """`summary` without its warnings, and what was done to the files, as text to print."""
    facts = summary(scene)
    lines = [f"{scene.attrs['title']}: {facts['rows']} x {facts['columns']} pixels{_where(scene)}", ""]
    sensors = [
        [
            s["name"],
            s["kind"],
            s["bands"],
            s["units"],
            f"{s['lowest']:.6g}",
            f"{s['highest']:.6g}",
            f"{s['no_data']:.2%}",
        ]
        for s in facts["sensors"]
    ]
    lines += _table(["sensor", "kind", "bands", "units", "lowest", "highest", "no-data"], sensors)
    classes = [[c["name"], c["pixels"], *([c["polygons"]] if "polygons" in c else [])] for c in facts["classes"]]
    if classes:
        head = ["class", "pixels", *(["polygons"] if "polygon" in scene else [])]
        lines += ["", *_table(head, classes), f"unlabelled: {facts['unlabelled']} pixels"]
    else:
        lines += ["", "no labels: an area that can be mapped"]
    done = json.loads(scene.attrs.get("rasters", "{}"))
    if done:
        lines += ["", f"brought to the grid of {done['grid']}:"]
        lines += [f"  {name}: {_placed(part)}" for name, part in done["modalities"].items()]
        lines += [f"  labels: {_words(done['labels'])}"] if "labels" in done else []
    return "\n".join(lines)


def _where(scene: xr.Dataset) -> str:
    if "x" not in scene.coords:
        return ", without coordinates"
    size = " x ".join(f"{abs(float(scene[a][1] - scene[a][0])):.6g}" for a in ("x", "y") if scene.sizes[a] > 1)
    name = place.crs_name(scene)
    wkt = scene[name].attrs.get("crs_wkt") or scene[name].attrs.get("spatial_ref", "") if name else ""
    try:
        return f" of {size} ({crs_name(CRS.from_user_input(wkt) if wkt else None)})"
    except CRSError:  # a text of somebody else's
        return f" of {size} (a CRS that GDAL does not know)"


def _placed(report: Mapping) -> str:
    """How a modality came to the grid; files that came in different ways one after another."""
    if "each" in report:
        each = zip(report["files"], report["each"])
        return "; ".join(_placed(part | {"files": [file]}) for file, part in each)
    column, row = report["begins_at"]
    said = [f"{', '.join(report['files'])} ({report['crs']}) {report['how']}"]
    if report["how"] != "as it is":
        said.append(f"its first pixel at column {column:g}, row {row:g}")
    if report["pixel_size"] != 1:
        said.append(f"its pixels {report['pixel_size']:g} times as wide")
    if report["overlap"] < 1:
        said.append(f"it covers {report['overlap']:.2%}")
    rest = {key: report[key] for key in ("bands_left_out", "assumed") if key in report}
    return ", ".join([*said, *([_words(rest)] if rest else [])])


def _words(report: Mapping) -> str:
    """A report as `name value, name value`; nested ones in brackets."""

    def text(value):
        if isinstance(value, Mapping):
            return "(" + _words(value) + ")"
        return " ".join(map(text, value)) if isinstance(value, (list, tuple)) else str(value)

    return ", ".join(f"{key.replace('_', ' ')} {text(value)}" for key, value in report.items())


def _table(head: list[str], rows: list[list]) -> list[str]:
    cells = [head, *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [
        "  ".join(row[0].ljust(widths[0]) if i == 0 else row[i].rjust(widths[i]) for i in range(len(head)))
        for row in cells
    ]
