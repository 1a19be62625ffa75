"""The map as a cloud-optimised GeoTIFF that a GIS shows with names and colours, written window by window."""

import colorsys
import errno
import json
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from ..data.scene import check_scene, class_names, scene_hash
from ..data.splits import KINDS, TEST, split_scene
from ..data.windowed import open_windowed
from ..errors import PrsaError
from ..files import CAUSES, whole
from .area import area_table, pixel_areas
from .predict import map_parts
from .sensors import check_model
from .windows import BLOCK, SceneSource, Source

CACHE = 2**28  # bytes of files that GDAL keeps: a row of a tiled file's blocks, whatever the scene
AREAS = "area.csv"
GDAL_ERRORS = (RasterioError, rasterio._err.CPLE_BaseError)


def _place(source: Source) -> tuple[CRS | None, Affine]:
    """CRS and affine transform of a source; of a scene, what its coordinates say, and pixel numbers without any."""
    if not isinstance(source, SceneSource):
        return source.crs, source.transform
    scene = source.scene
    about = scene["spatial_ref"].attrs if "spatial_ref" in scene.coords else {}
    wkt = about.get("crs_wkt") or about.get("spatial_ref")
    try:
        crs = CRS.from_wkt(wkt) if wkt else None
    except CRSError as error:
        raise PrsaError(
            f"expected a coordinate reference system that GDAL knows, got {str(wkt)[:200]!r}. Fix: correct it, e.g. "
            "scene = scene.rio.write_crs('EPSG:32718'), or map without it: scene.drop_vars('spatial_ref')."
        ) from error
    if "GeoTransform" in about:
        return crs, Affine.from_gdal(*map(float, about["GeoTransform"].split()))
    if not {"x", "y"} <= set(scene.coords) or min(scene.sizes["x"], scene.sizes["y"]) < 2:
        return crs, Affine.identity()
    (x, a), (y, e) = ((v[0], (v[-1] - v[0]) / (len(v) - 1)) for v in (scene["x"].values, scene["y"].values))
    return crs, Affine(a, 0, x - a / 2, 0, e, y - e / 2)


def _colours(given: Sequence | None, n: int) -> dict[int, tuple[int, int, int, int]]:
    """Colour table: class -> red, green, blue, opacity, 0 to 255; no data is transparent."""
    golden = 0.618  # steps of the golden ratio round the circle of hues: neighbours in the list differ most
    wheel = (colorsys.hsv_to_rgb(k * golden % 1, 0.6, 0.9 - 0.3 * (k % 2)) for k in range(n))
    chosen = list(wheel if given is None else given)
    if len(chosen) != n:
        raise PrsaError(f"colours: expected {n}, one per class of the model, got {len(chosen)}.")
    try:
        values = [
            list(bytes.fromhex(c.lstrip("#"))) if isinstance(c, str) else [round(255 * v) for v in c] for c in chosen
        ]
        return {0: (0, 0, 0, 0)} | {k: (r, g, b, 255) for k, (r, g, b) in enumerate(values, 1)}
    except (TypeError, ValueError) as error:
        raise PrsaError(
            f"colours: expected '#rrggbb' or three numbers 0 to 1 for every class, got {chosen[:3]!r}."
        ) from error


def _categories(names: list[str]) -> str:
    """Names of the values of band 1, for the file in which GDAL looks for them: inside a GeoTIFF they have no place."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    found = ElementTree.SubElement(band, "CategoryNames")
    for name in ["no data", *names]:
        printable = "".join(c if c.isprintable() else " " for c in name)
        ElementTree.SubElement(found, "Category").text = printable
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


class _Growing:
    """A GeoTIFF that grows by windows under a temporary name and becomes a cloud-optimised one at its end."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        shape: tuple[int, int],
        crs: CRS | None,
        transform: Affine,
        bands: Sequence[str],
        dtype: str = "float32",
        nodata: float = np.nan,
        colours: dict | None = None,
    ):
        self.flip = transform.e > 0 and not transform.is_identity  # a scene from south to north: a GIS wants it turned
        if self.flip:
            transform = transform * Affine(1, 0, 0, 0, -1, shape[0])
        kind = {"driver": "GTiff", "dtype": dtype, "nodata": nodata, "crs": crs, "transform": transform}
        size = {"count": len(bands), "height": shape[0], "width": shape[1]}
        tiles = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER"}
        self.name = stack.enter_context(NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp")).name
        self.file = stack.enter_context(rasterio.open(self.name, "w", **kind, **size, **tiles))
        self.file.descriptions = bands
        if colours:
            self.file.write_colormap(1, colours)
        self.seen: list[tuple[Window, int]] = []

    def write(self, rows: slice, cols: slice, values: np.ndarray) -> None:
        """values (count, h, w) of rows x cols of the scene."""
        top = self.file.height - rows.stop if self.flip else rows.start
        values = np.ascontiguousarray(values[:, ::-1] if self.flip else values)
        window = Window(cols.start, top, values.shape[2], values.shape[1])
        self.file.write(values, window=window)
        self.seen.append((window, zlib.crc32(values)))

    def finish(self, target: Path, resampling: str) -> None:
        """Write the cloud-optimised file with its overviews, and read it back."""
        self.file.close()
        how = {"compress": "DEFLATE", "predictor": "YES", "overview_resampling": resampling, "num_threads": "ALL_CPUS"}
        rasterio.shutil.copy(self.name, target, driver="COG", bigtiff="IF_SAFER", **how)
        with rasterio.open(target) as file:
            if any(zlib.crc32(file.read(window=window)) != crc for window, crc in self.seen):
                raise RasterioError("what was written cannot be read back alike")


def _test_labels(model, scene, split: xr.DataArray | None) -> np.ndarray | None:
    """Classes (y, x) of the test pixels of a split, 0 elsewhere: of the given one, or of the model's own."""
    if not isinstance(scene, xr.Dataset):
        return None
    card = getattr(model, "card", {})
    if split is None and card and card["split"]["kind"] in KINDS and card["scene"]["hash"] == scene_hash(scene):
        own = split_scene(scene, **{key: card["split"][key] for key in ("kind", "seed", "radius")})
        split = own if own.attrs["hash"] == card["split"]["hash"] else None
    if split is None:
        return None
    if (here := class_names(scene)) != model.classes:
        raise PrsaError(
            f"split: expected test pixels of the model's classes ({', '.join(model.classes)[:200]}), got those of "
            f"others ({', '.join(here)[:200]}). Fix: give the scene the model's class_names and renumber its labels, "
            "or map it without a split."
        )
    return np.where(split.values == TEST, scene["label"].values, 0)


def _other_maps(path: Path) -> list[pd.DataFrame]:
    """What the table beside a map says of other maps in the folder."""
    beside = path.with_name(AREAS)
    if not beside.is_file():
        return []
    try:
        table = pd.read_csv(beside)
        here = {file.name for file in path.parent.iterdir()}
        return [table[table["map"].isin(here - {path.name})]]
    except (KeyError, ValueError) as error:
        raise PrsaError(
            f"{beside}: expected areas of prsa's maps, got another table. Fix: choose another folder."
        ) from error


@contextmanager
def _disk(path: Path):
    """Errors in writing as a `PrsaError`; those of GDAL do not say what is wrong with the disk."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a scene without a place gives a map without one
            yield
    except (OSError, *GDAL_ERRORS) as error:
        number = errno.ENOSPC if isinstance(error, GDAL_ERRORS) else error.errno
        cause = CAUSES.get(number, CAUSES[errno.ENOSPC])
        raise PrsaError(
            f"cannot write {path}: {str(error)[:300]}. Likely cause: {cause}; or choose another folder. "
            "Nothing half-written is left."
        ) from error


def land_cover(
    model,
    scene: xr.Dataset | dict[str, str | os.PathLike] | Source,
    path: str | os.PathLike,
    confidence: bool = False,
    probabilities: bool = False,
    colours: Sequence | None = None,
    split: xr.DataArray | None = None,
    on_part: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Write the land-cover map as a cloud-optimised GeoTIFF, all or nothing, and a table of areas beside it.

    ``scene``: a scene, or rasters {modality: file}, the first being the grid; these are read window by window, and
    memory does not follow their size. The band holds 1..K and 0 for no data, and has a colour table; the names of the
    classes stand in ``<path>.aux.xml``, where GDAL and QGIS look for them, and in the file's own metadata.
    ``confidence``, ``probabilities``: also ``<stem>_confidence.tif`` and ``<stem>_probability.tif``, a band per class,
    float32. ``colours``: "#rrggbb" or three numbers 0 to 1 per class. ``split``: whose test pixels tell the accuracy;
    the default is the model's own on the scene it was trained on. ``on_part(done, all)`` is called with pixels.
    Returns the table, kept as ``area.csv`` with those of other maps in the folder, see `prsa.mapping.area.area_table`.
    Raises `PrsaError` for other sensors than the model's and for a disk that does not take the files.
    """
    check_model(model)
    path, k = Path(path), len(model.classes)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise PrsaError(f"{path.name}: expected a file name that ends in .tif. Fix: {path.stem}.tif.")
    if isinstance(scene, dict):
        with open_windowed(scene) as source:
            return land_cover(model, source, path, confidence, probabilities, colours, split, on_part)
    if hasattr(scene, "read"):
        source = scene
    else:
        scene = check_scene(scene)
        source = SceneSource(scene)
    truth, others = _test_labels(model, scene, split), _other_maps(path)
    (crs, transform), shape = _place(source), (source.sizes["y"], source.sizes["x"])
    hectares, basis = pixel_areas(transform, crs, shape)
    looks = {
        "": {"dtype": "uint8", "nodata": 0, "colours": _colours(colours, k), "bands": ["land cover"]},
        "_confidence": {"bands": ["probability of the chosen class"]},
        "_probability": {"bands": model.classes},
    }
    targets = {suffix: path.with_name(f"{path.stem}{suffix}{path.suffix}") for suffix in looks}
    wanted = [""] + ["_confidence"] * confidence + ["_probability"] * probabilities
    rows, counts = np.zeros((shape[0], 1 + k), np.int64), np.zeros((1 + k, 1 + k), np.int64)
    with _disk(path), ExitStack() as stack:
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
        growing = {s: _Growing(stack, path.parent, shape, crs, transform, **looks[s]) for s in wanted}
        growing[""].file.update_tags(class_names=json.dumps(model.classes, ensure_ascii=False))
        for part in map_parts(model, source, probabilities):
            layers = {"": part.cover[None], "_confidence": part.confidence[None], "_probability": part.probability}
            for suffix, file in growing.items():
                file.write(part.rows, part.cols, layers[suffix])
            here = rows[part.rows]
            cell = np.arange(len(here))[:, None] * (1 + k) + part.cover
            here += np.bincount(cell.ravel(), minlength=here.size).reshape(here.shape)
            if truth is not None:
                pair = truth[part.rows, part.cols].astype(np.int64) * (1 + k) + part.cover
                counts += np.bincount(pair.ravel(), minlength=counts.size).reshape(counts.shape)
            if on_part:
                on_part(int(rows.sum()), shape[0] * shape[1])
        table = area_table(path.name, model.classes, rows, hectares, basis, counts[1:, 1:])
        # Each gets its name when the stack is left, the map last: where there is a map, everything of it is there.
        for suffix, file in growing.items():
            file.finish(stack.enter_context(whole(targets[suffix])), "AVERAGE" if suffix else "MODE")
        names = stack.enter_context(whole(path.with_name(path.name + ".aux.xml")))
        names.write_text(_categories(model.classes), encoding="utf-8")
        areas = stack.enter_context(whole(path.with_name(AREAS)))
        pd.concat([*others, table]).to_csv(areas, index=False)
    for suffix in targets.keys() - set(wanted):  # of an earlier map of this name
        targets[suffix].unlink(missing_ok=True)
    return table
