"""Labels from polygons and points drawn in a GIS, or from a raster of class numbers.

Every polygon, part of a multi-polygon and point is one unit of sampling with a number of its own (``polygon``): pixels
of one unit are near copies of each other, so a split must not cut it. Rule: a pixel belongs to the polygon that holds
its centre, a point to the pixel that it lies in. Source: ours.
"""

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize

from ..errors import PrsaError
from .layers import ArrayLayer, Grid, Layer, crs_name, open_array, short
from .scene import MOST
from .windowed import Placed

SPLITS = {"train": 1, "training": 1, "1": 1, "test": 2, "testing": 2, "2": 2, "val": 3, "validation": 3, "3": 3}
BROKEN = (RuntimeError, ValueError, shapely.errors.GEOSException)  # a damaged file, or one of another kind
PARTS = {shapely.GeometryType.POLYGON: "polygon", shapely.GeometryType.POINT: "point"}

Classes = Mapping | Sequence[str] | str | os.PathLike


@dataclass
class Labels:
    """Labels on a grid: ``label`` (y, x), 0 = unlabelled, 1..K, and the ``names`` of the K classes.

    From polygons also ``polygon`` (y, x), 0 = none, and where a column says so ``split`` and ``validation`` (y, x) as
    in a scene. ``report``: what was read, assumed and left out.
    """

    label: np.ndarray
    names: list[str]
    polygon: np.ndarray | None = None
    split: np.ndarray | None = None
    validation: np.ndarray | None = None
    report: dict = field(default_factory=dict)


def read_labels(
    path: str | os.PathLike, grid: Grid, column: str | None = None, classes: Classes | None = None
) -> Labels:
    """Labels of a vector file (``column`` holds the class), a raster, or an array with the grid's rows and columns.

    ``classes`` names them: {value: name}, names of the values 1, 2, ..., or a JSON or CSV file (value, name) of this; a
    value whose name is empty is left unlabelled. Raises `PrsaError` for what cannot be read, placed or understood.
    """
    names = None if classes is None else _named(classes)
    vector = _open_vector(path)
    if vector is None:
        layer = open_array(path, grid, "float64") or Layer(path, "float64", "raster or vector file")
        if column is not None:
            raise PrsaError(
                f"{short(path)}: expected polygons, as column={column!r} is given, got a raster. Fix: leave the "
                "column out."
            )
        return _from_raster(path, layer, grid, names)
    return _from_polygons(str(path), *vector, grid, column, names)


def _key(value: object) -> str:
    """A class value as text; empty for none. 3, 3.0, "3" and " 3 " are one value."""
    if value is None or (isinstance(value, (float, np.floating)) and not math.isfinite(value)):
        return ""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def _named(classes: Classes) -> dict[str, str]:
    """{value: name} in the order given."""
    if isinstance(classes, (str, os.PathLike)):
        path = Path(classes).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
            classes = json.loads(text) if path.suffix.lower() == ".json" else _csv(text)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise PrsaError(
                f"classes: expected a JSON or CSV file of values and names at {short(path)}, got "
                f"{type(error).__name__}: "
                f'{str(error)[:200]}. Fix: {{"1": "water", "2": "trees"}} as .json, or lines like 1,water as .csv, in '
                "UTF-8."
            ) from error
    pairs = classes.items() if isinstance(classes, Mapping) else enumerate(classes, 1)
    names = {_key(value): _key(name) for value, name in pairs}
    if not any(names.values()):
        raise PrsaError("classes: expected values and their names, got none. Fix: e.g. {1: 'water', 2: 'trees'}.")
    return names


def _csv(text: str) -> dict[str, str]:
    first = text.partition("\n")[0]
    rows = [r for r in csv.reader(io.StringIO(text), delimiter=max(",;\t", key=first.count)) if any(map(str.strip, r))]
    short = [row for row in rows if len(row) < 2]
    if short:
        raise ValueError(f"a line with one field: {short[0][0]!r}")
    if rows and rows[0][0].strip().lower() in ("value", "values", "id", "code", "class", "label"):
        rows = rows[1:]
    return {value: name for value, name, *_ in rows}


def _classes(keys: Counter, names: dict[str, str] | None, source: str) -> tuple[dict[str, int], list[str], dict]:
    """The class number (0: unlabelled) of every value, the names of the K classes that occur, and a report.

    Raises `PrsaError` for values without a name where names are given, for none at all, and for too many.
    """
    if names is None:
        number = all(_is_number(key) for key in keys)
        names = {key: key for key in sorted(keys, key=float if number else str)}
    strange = sorted(set(keys) - set(names))
    if strange:
        raise PrsaError(
            f"{source}: expected values that classes names, got {', '.join(strange)[:150]} as well. It names "
            f"{', '.join(names)[:150]}. Fix: name them; to leave one unlabelled, give it an empty name: "
            f"{{{strange[0][:60]!r}: ''}}."
        )
    found = list(dict.fromkeys(name for value, name in names.items() if name and keys.get(value)))
    if not found:
        raise PrsaError(f"{source}: expected labels of some class, got none. Check the file and the names in classes.")
    if len(found) > MOST:
        raise PrsaError(
            f"{source}: expected at most {MOST} classes, got {len(found)}, first {', '.join(found)[:150]}. Likely "
            "causes: a column of identifiers, or a raster of measurements. Fix: name the column of the class, or "
            "join classes."
        )
    report = {}
    absent = [name for name in dict.fromkeys(names.values()) if name and name not in found]
    if absent:
        report["classes_without_pixels"] = absent
    alike = [name for name, n in Counter(" ".join(name.casefold().split()) for name in found).items() if n > 1]
    if alike:
        report["names_that_differ_in_case_or_spaces"] = alike
    return {key: found.index(names[key]) + 1 if names[key] else 0 for key in keys}, found, report


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# ---- rasters


def _from_raster(path, layer: Layer | ArrayLayer, grid: Grid, names: dict[str, str] | None) -> Labels:
    if len(layer.bands) != 1:
        raise PrsaError(
            f"{short(path)}: expected one band of class numbers, got {len(layer.bands)}. Fix: write the labels alone."
        )
    placed = Placed(layer, grid, labels=True)
    values = placed.read(slice(0, grid.height), slice(0, grid.width))[0]
    unique, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    finite = np.isfinite(unique)
    if (unique[finite] % 1).any():
        odd = unique[finite][unique[finite] % 1 != 0][0]
        raise PrsaError(
            f"{short(path)}: expected whole class numbers, got {odd:g}. Likely causes: a raster of measurements, or "
            "labels that were resampled by averaging. Fix: name the raster of class numbers, resampled with nearest."
        )
    report = dict(placed.report)
    categories = None if names else _categories(layer)
    if categories:
        names, report["names_from"] = categories, "the raster's own categories"
    nodata = getattr(layer, "nodata", None)
    keys = Counter({_key(v): int(n) for v, n in zip(unique[finite], counts[finite])})
    silent = {k for k in keys if k not in (names or {}) and (float(k) < 0 or (k == "0" and (names or nodata is None)))}
    if categories:  # a table that calls 0 nothing, or has no word for a value, leaves it unlabelled
        silent |= {k for k in keys if not names.get(k) or (k == "0" and names[k].casefold() in EMPTY)}
    if silent:
        report["taken_as_unlabelled"] = sorted(silent, key=float)
    if keys.get("0") and "0" not in silent and not names:
        report["note"] = f"0 is a class, as the no-data value is {_key(nodata)}"
    code, found, extra = _classes(Counter({k: n for k, n in keys.items() if k not in silent}), names, short(path))
    lookup = np.array([code.get(_key(v), 0) for v in unique], np.int16)
    return Labels(lookup[index].reshape(values.shape), found, report=report | extra)


EMPTY = ("", "0", "unclassified", "unlabelled", "unlabeled", "background", "no data", "nodata", "none")


def _categories(layer) -> dict[str, str] | None:
    """{value: name} of the raster's category names or attribute table, which GDAL keeps beside or inside the file."""
    if not isinstance(layer, Layer):
        return None
    for band in layer.tables():
        names = [(c.text or "").strip() for c in band.findall("CategoryNames/Category")]
        if any(names):
            return {str(value): name for value, name in enumerate(names)}
        fields = [f.findtext("Usage") for f in band.findall("GDALRasterAttributeTable/FieldDefn")]
        if "2" in fields and ({"5", "3"} & set(fields)):  # usages: 2 name, 5 value, 3 least value
            value, name = fields.index("5" if "5" in fields else "3"), fields.index("2")
            rows = [[f.text or "" for f in row.findall("F")] for row in band.findall("GDALRasterAttributeTable/Row")]
            return {_key(float(row[value])): row[name].strip() for row in rows if _is_number(row[value])}
    return None


# ---- polygons


def _open_vector(path) -> tuple[list[str], list, np.ndarray, str | None] | None:
    """Columns, their values, geometries and CRS of a vector file; None when GDAL reads no vectors from it.

    ``file.gpkg|layername=name``, as QGIS writes it, names one of several layers.
    """
    text, _, layer = os.path.expanduser(path).partition("|layername=")
    try:
        layers = {str(name): kind for name, kind in pyogrio.list_layers(text) if kind}
    except BROKEN:
        return None
    if not layers:
        return None
    if layer not in layers and (layer or len(layers) > 1):
        raise PrsaError(
            f"{short(path)}: expected one layer of polygons, the file has {', '.join(layers)[:200]}. "
            f"Fix: labels='{Path(text).name}|layername={next(iter(layers))}'."
        )
    try:
        meta, _, wkb, values = pyogrio.raw.read(text, layer=layer or next(iter(layers)), force_2d=True)
        return list(meta["fields"]), values, shapely.from_wkb(wkb, on_invalid="ignore"), meta["crs"]
    except BROKEN as error:
        raise PrsaError(
            f"{short(path)}: expected a vector file that GDAL reads, got: {str(error)[:200]}. Likely causes: an "
            "incomplete copy (a Shapefile is several files of one name), or a broken geometry. Fix: copy it again, "
            "or export it anew from the GIS."
        ) from error


def _column(path: str, fields: list[str], values: list, column: str | None) -> list:
    """The values of the class column."""
    if column is None:
        likely = [f for f in fields if f.lower() in ("class", "class_name", "label", "landcover", "land_cover")]
        column = likely[0] if len(likely) == 1 else fields[0] if len(fields) == 1 else None
    if column not in fields:
        raise PrsaError(
            f"{short(path)}: expected the column of the class, got column={column!r}. The file has "
            f"{', '.join(fields)[:300] or 'no columns at all'}. Fix: name one of them (a Shapefile cuts names after 10 "
            "letters)."
        )
    return values[fields.index(column)]


def _from_polygons(
    path: str, fields: list[str], values: list, shapes: np.ndarray, crs: str | None, grid: Grid, column, names
) -> Labels:
    if not len(shapes):
        raise PrsaError(
            f"{short(path)}: expected polygons, got no feature at all. Fix: save the layer with its polygons."
        )
    keys = [_key(value) for value in _column(path, fields, values, column)]
    splits = _splits(path, fields, values, len(keys))
    report = {"file": Path(path).name, "features": len(keys)}
    owners, parts = _parts(path, shapes, report)
    parts = _to_pixels(path, parts, crs, grid, report)
    nameless = [i for i in owners if not keys[i]]
    if nameless:
        report["without_a_class"] = len(set(nameless))
    code, found, extra = _classes(Counter(k for k in keys if k), names, short(path))
    units = [(code[keys[i]], splits[i] if splits else 0) if keys[i] else (0, 0) for i in owners]
    owner, firsts = _burn(parts, units, grid, report, found)
    if not owner.any():
        raise PrsaError(
            f"{short(path)}: expected polygons on the grid, {grid.describe()}, got all {len(parts)} outside of it or "
            f"without a pixel centre. Likely causes: another place, a wrong CRS ({crs or 'none stated'}), x and y "
            "exchanged. Check: open both in a GIS. Fix: name the right file, or set its right CRS."
        )
    lookup = np.array([(0, 0), *(units[part] for part in firsts)], np.int16)
    label, split = lookup[owner, 0], lookup[owner, 1]
    # Classes whose polygons all lie outside are no classes of this scene.
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=len(found) + 1)[1:])
    if len(present) < len(found):
        report["classes_without_pixels"] = extra.pop("classes_without_pixels", []) + [
            name for k, name in enumerate(found) if k not in present
        ]
        renumber = np.zeros(len(found) + 1, np.int16)
        renumber[present + 1] = np.arange(1, len(present) + 1)
        label, found = renumber[label], [found[k] for k in present]
    labels = Labels(label, found, owner, report=report | extra)
    if splits:
        labels.split = np.choose(split, [0, 1, 2, 1]).astype(np.int8)
        if 3 in split:
            labels.validation = (split == 3).astype(np.int8)
    return labels


def _splits(path: str, fields: list[str], values: list, n: int) -> list[int] | None:
    """1 train, 2 test, 3 validation, 0 none, of a column called split."""
    name = next((f for f in fields if f.lower() == "split"), None)
    if name is None:
        return None
    words = [_key(value).casefold() for value in values[fields.index(name)]]
    strange = sorted({word for word in words if word and word not in SPLITS})
    if strange:
        raise PrsaError(
            f"{short(path)}: expected train, test, validation or nothing in the column {name!r}, got "
            f"{', '.join(strange)[:150]}. Fix: use these words, or rename the column if it says something else."
        )
    return [SPLITS.get(word, 0) for word in words] if any(words) else None


def _parts(path: str, shapes: np.ndarray, report: dict) -> tuple[list[int], np.ndarray]:
    """Valid polygons and points, and the number of the feature of each."""
    empty = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    if empty.all():
        raise PrsaError(
            f"{short(path)}: expected polygons, got only empty geometries. "
            "Fix: save the layer with its polygons (in QGIS: finish editing, then export)."
        )
    broken = np.flatnonzero(~empty & ~shapely.is_valid(shapes))
    shapes = shapes.copy()
    shapes[broken] = shapely.make_valid(shapes[broken])
    owners, parts = [], []
    repaired = set(broken.tolist())
    for i in np.flatnonzero(~empty).tolist():
        for part in shapely.get_parts(shapely.get_parts(shapes[i])):
            edge = i in repaired and shapely.get_dimensions(part) < 2  # repairing cuts off lines without an area
            if not edge and not part.is_empty:
                owners.append(i)
                parts.append(part)
    kinds = Counter(shapely.GeometryType(kind).name.lower() for kind in shapely.get_type_id(parts))
    wrong = {kind: n for kind, n in kinds.items() if kind not in PARTS.values()}
    if wrong:
        raise PrsaError(
            f"{short(path)}: expected polygons or points, got "
            f"{', '.join(f'{n} of type {kind}' for kind, n in wrong.items())}. Lines have no pixels of their own. "
            "Fix: save only the polygons, or turn lines into polygons (in QGIS: Buffer)."
        )
    report |= {"parts": dict(kinds)}
    if empty.any():
        report["empty_geometries"] = int(empty.sum())
    if len(broken):
        report["repaired_geometries"] = len(broken)
    return owners, np.array(parts)


def _to_pixels(path: str, parts: np.ndarray, crs: str | None, grid: Grid, report: dict) -> np.ndarray:
    """The parts in columns and rows of the grid. Raises `PrsaError` when only one side says where it lies."""
    try:
        known = CRS.from_user_input(crs) if crs else None
    except CRSError as error:
        raise PrsaError(
            f"{short(path)}: expected a CRS that GDAL knows, got {crs[:80]}. Fix: save it with another CRS."
        ) from error
    report["crs"] = crs_name(known)
    if known and grid.crs is None:
        raise PrsaError(
            f"{short(path)}: expected polygons without a CRS, as the rasters have none, got {crs[:80]}. Fix: write the "
            "rasters' CRS into the file of the grid: rio edit-info --crs EPSG:<code> <file>"
        )
    if known is None and grid.crs is not None:
        report["assumed"] = "no CRS of its own: taken to be the grid's"
    return shapely.transform(parts, lambda xy: grid.pixels(xy[:, 0], xy[:, 1], known).T)


def _burn(
    parts: np.ndarray, units: list[tuple], grid: Grid, report: dict, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The unit of every pixel (y, x), 0 for none, and the first part of every unit (from 0).

    Parts of one class and split that overlap are one unit. Pixels that different ones claim belong to none.
    """
    owner = np.zeros((grid.height, grid.width), np.int32)
    root = np.arange(len(parts) + 1)
    disputed, pairs, outside, tiny = np.zeros(owner.shape, bool), Counter(), 0, 0
    boxes = shapely.bounds(parts)
    for i, (part, unit, box) in enumerate(zip(parts, units, boxes), 1):
        if not unit[0]:
            continue
        if not np.isfinite(box).all() or box[2] < 0 or box[3] < 0 or box[0] >= grid.width or box[1] >= grid.height:
            outside += 1
            continue
        left, top = max(int(box[0]), 0), max(int(box[1]), 0)
        shape = min(int(box[3]) + 1, grid.height) - top, min(int(box[2]) + 1, grid.width) - left
        inside = rasterize([part], shape, transform=Affine.translation(left, top), dtype=np.uint8) > 0
        tiny += not inside.any()
        window = slice(top, top + shape[0]), slice(left, left + shape[1])
        for j in np.unique(owner[window][inside]):
            if j and units[j - 1] == unit:
                root[_find(root, j)] = root[_find(root, i)] = min(_find(root, i), _find(root, j))
            elif j:
                both = inside & (owner[window] == j)
                disputed[window] |= both
                same = units[j - 1][0] == unit[0]
                one, other = sorted((names[units[j - 1][0] - 1], names[unit[0] - 1]))
                pairs[f"{one} (train and test)" if same else f"{one} / {other}"] += int(both.sum())
        owner[window][inside & (owner[window] == 0)] = i
    owner[disputed] = 0
    owner = np.array([_find(root, i) for i in range(len(root))])[owner]
    firsts = np.unique(owner[owner > 0])
    number = np.zeros(len(root), np.int32)
    number[firsts] = np.arange(1, len(firsts) + 1)
    for name, count in (("outside", outside), ("without_a_pixel_centre", tiny), ("units", len(firsts))):
        if count:
            report[name] = count
    if pairs:
        report["overlaps_left_unlabelled"] = dict(pairs.most_common(20))
    return number[owner], firsts - 1


def _find(root: np.ndarray, i: int) -> int:
    while root[i] != i:
        i = root[i]
    return int(i)
