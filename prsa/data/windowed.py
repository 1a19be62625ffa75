"""Rasters on disk, brought to one pixel grid and read window by window; nothing larger than the window is held.

The rule: a raster whose pixels are those of the grid, up to whole pixels and rounding, is cut out and never resampled;
any other is averaged where the grid's pixels are 1.5 times as wide as its own or more, and interpolated bilinearly
where not; labels take the nearest value.
"""

import math
import os
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.errors
import rasterio.shutil
import rasterio.warp
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling

from ..errors import PrsaError
from .nodata import HUGE, SENTINELS, equal

NOISE = 0.01  # pixels: grids that lie closer at every corner are one grid
COARSER = 1.5  # times as wide as a raster's own pixels: from here on the grid's pixels are averages
BLOCK = 512  # pixels on a side: resampling always works on whole blocks, so that a value does not depend on the window
BLOCK_BYTES = 2**27  # resampled blocks kept per raster
BROKEN = (rasterio.errors.RasterioError, OSError, UnicodeDecodeError)  # a damaged file, however GDAL says so
ARRAYS = (".npy", ".mat")  # files without a grid of their own


def crs_name(crs: CRS | None) -> str:
    """A coordinate reference system in a word or two."""
    if crs is None:
        return "no CRS"
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt().partition('"')[2].partition('"')[0][:60] or "a CRS without a name"


@dataclass(frozen=True)
class Grid:
    """``height`` x ``width`` pixels; ``transform`` takes (column, row) of a corner to coordinates in ``crs``."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def placed(self) -> bool:
        """Whether the grid lies anywhere: a plain picture has neither a CRS nor a transform."""
        return self.crs is not None or self.transform != Affine.identity()

    def coordinates(self) -> dict[str, np.ndarray]:
        """Pixel centres along x and y; nothing for a grid that lies nowhere."""
        if not self.placed:
            return {}
        t = self.transform
        return {"x": t.c + t.a * (np.arange(self.width) + 0.5), "y": t.f + t.e * (np.arange(self.height) + 0.5)}

    def pixels(self, x, y, crs: CRS | None) -> np.ndarray:
        """Columns and rows (2, n), fractions included, of coordinates in ``crs`` (None: in this grid's)."""
        if crs is not None and self.crs is not None and crs != self.crs:
            x, y = rasterio.warp.transform(crs, self.crs, x, y)
        return np.array(~self.transform * (np.asarray(x, float), np.asarray(y, float)))

    def of(self, other: "Grid", columns, rows) -> np.ndarray:
        """Columns and rows (2, n) in this grid of columns and rows of another one."""
        return self.pixels(*(other.transform * (np.asarray(columns, float), np.asarray(rows, float))), other.crs)

    def outline(self, other: "Grid") -> shapely.Geometry:
        """The area of another grid in columns and rows of this one."""
        step = np.linspace(0, 1, 21)
        edge = np.concatenate([step, np.ones(21), step[::-1], np.zeros(21)])
        points = self.of(other, edge * other.width, np.roll(edge, 21) * other.height)
        points = points[:, np.isfinite(points).all(0)]
        return shapely.Polygon(points.T).buffer(0) if points.shape[1] > 3 else shapely.Polygon()

    def describe(self) -> str:
        """Extent and CRS in words."""
        (left, right), (top, bottom) = zip(self.transform * (0, 0), self.transform * (self.width, self.height))
        return f"x {left:.6g} to {right:.6g}, y {bottom:.6g} to {top:.6g} ({crs_name(self.crs)})"


def short(path: str | os.PathLike) -> str:
    """A path as messages name it."""
    text = str(path)
    return text if len(text) <= 100 else f"...{text[-97:]}"


def _unreadable(path, error: Exception, what: str = "raster") -> PrsaError:
    return PrsaError(
        f"{short(path)}: expected a {what} that GDAL reads, got: {str(error)[-200:]}. Likely causes: a wrong path, a "
        "file of another kind under this name, an incomplete copy, or PROJ_DATA, PROJ_LIB or GDAL_DATA of another "
        f"program (QGIS, conda) in the environment. Check: rio info {short(Path(str(path)).name)}. Fix: name the "
        "right file, copy it again, or unset these variables."
    )


class _Cleaned:
    """What all layers share: NaN for values that no sensor measures, by the rules of `prsa.data.nodata`."""

    def __init__(self, path: str | os.PathLike, dtype: str):
        self.path, self.dtype, self.lock = str(path), np.dtype(dtype), threading.Lock()
        self.taken: set[float] = set()  # values that nobody declared and no sensor measures: read as no-data
        self.left_out: list[int] = []  # bands
        self.units: set[str] = set()
        self.wavelengths: list[float] | None = None
        self.nodata: float | None = None

    def clean(self, out: np.ndarray, raw: np.ndarray, band: int, nodata: float | None = None) -> None:
        """Set ``out`` (h, w) to NaN where ``raw`` is ``nodata`` or impossible; no-data value NaN says: all measured."""
        if nodata is not None:
            out[equal(raw, nodata)] = np.nan
        low, high = np.fmin.reduce(raw, axis=None), np.fmax.reduce(raw, axis=None)
        bad = np.abs(raw.astype(np.float64)) >= HUGE if low <= -HUGE or high >= HUGE else np.zeros(raw.shape, bool)
        if low <= max(SENTINELS) and not (nodata is not None and np.isnan(nodata)):
            for mark in self.sentinels[band]:
                bad |= raw == mark
        bad &= ~np.isnan(out)
        if bad.any():
            self.taken |= {float(value) for value in np.unique(raw[bad])}
            out[bad] = np.nan

    @cached_property
    def sentinels(self) -> list[list[float]]:
        """Marks that lie far below all other values of a band, seen on a thinned-out copy of the raster."""
        found = []
        for plane in self.thin(max(1, math.ceil(max(self.grid.height, self.grid.width) / 1024))):
            usual = plane[~np.isin(plane, SENTINELS) & (np.abs(plane.astype(np.float64)) < HUGE)]
            found.append([mark for mark in SENTINELS if not usual.size or usual.min() > mark / 2])
        return found


class Layer(_Cleaned):
    """One raster file as numbers with NaN for no-data: what its own mask, no-data values, scale and offset say.

    Bands that are a mask (alpha) or bad by an ENVI header (``bbl``) are left out.
    """

    def __init__(self, path: str | os.PathLike, dtype: str = "float32", what: str = "raster"):
        super().__init__(path, dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                self.file = rasterio.open(os.path.expanduser(path))
                self.grid = Grid(self.file.crs, self.file.transform, self.file.height, self.file.width)
        except BROKEN as error:
            raise _unreadable(path, error, what) from error
        file, envi = self.file, self.file.tags(ns="ENVI")
        if not file.count and file.subdatasets:
            inside = ", ".join(file.subdatasets)[:300]
            raise PrsaError(
                f"{short(path)}: expected one raster, got a container of several: {inside}. Fix: name one of them."
            )
        if file.gcps[0] and not self.grid.placed:
            raise PrsaError(
                f"{short(path)}: expected pixels on a regular grid, got {len(file.gcps[0])} ground control points. "
                f"Fix: rectify it first, e.g. gdalwarp {short(Path(self.path).name)} rectified.tif"
            )
        if any(np.dtype(kind).kind == "c" for kind in file.dtypes):
            raise PrsaError(
                f"{short(path)}: expected real numbers, got complex ones ({file.dtypes[0]}). Fix: write the intensity "
                "(or its logarithm, dB) as a raster of its own."
            )
        bad = envi.get("bbl", "").strip("{} ").split(",")
        bad = {i for i, flag in enumerate(bad, 1) if flag.strip() in ("0", "0.0")} if len(bad) == file.count else set()
        alpha = {i for i, meaning in enumerate(file.colorinterp, 1) if meaning == ColorInterp.alpha}
        self.left_out = sorted(bad | alpha)
        self.bands = [i for i in file.indexes if i not in bad | alpha]
        if not self.bands:
            raise PrsaError(f"{short(path)}: expected bands with values, got none beside masks and bad bands (bbl).")
        self.nodata = file.nodatavals[self.bands[0] - 1]
        try:
            self.names = [file.descriptions[i - 1] for i in self.bands]
        except UnicodeDecodeError:  # a header in an encoding of its own, e.g. Latin 1
            self.names = [None] * len(self.bands)
        self.units = {unit for i in self.bands if (unit := file.units[i - 1])}
        self.wavelengths = self._wavelengths(envi)
        flags = [flag for i in self.bands for flag in file.mask_flag_enums[i - 1]]
        self.masked = MaskFlags.per_dataset in flags and not alpha
        self.alpha = min(alpha, default=None)

    def _wavelengths(self, envi: dict) -> list[float] | None:
        """In nm; None where not every band states one. Values below 100 are micrometres, whatever is written beside."""
        listed = [text for text in envi.get("wavelength", "").strip("{} ").split(",") if text.strip()]
        if len(listed) == self.file.count:
            texts = [listed[i - 1] for i in self.bands]
        else:
            texts = [self.file.tags(i, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM", "") for i in self.bands]
        try:
            values = [float(text) for text in texts]
        except ValueError:
            return None
        return [round(1000 * v, 4) for v in values] if min(values) < 100 else values

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        """Values (bands, rows, cols) of the file's own grid, NaN for no-data and outside of it."""
        out = np.full((len(self.bands), rows.stop - rows.start, cols.stop - cols.start), np.nan, self.dtype)
        top, bottom = max(rows.start, 0), min(rows.stop, self.grid.height)
        left, right = max(cols.start, 0), min(cols.stop, self.grid.width)
        if top < bottom and left < right:
            inside = out[:, top - rows.start : bottom - rows.start, left - cols.start : right - cols.start]
            with self.lock:  # GDAL's files are for one thread at a time
                self._fill(inside, ((top, bottom), (left, right)))
        return out

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _fill(self, out: np.ndarray, window: tuple) -> None:
        file = self.file
        try:
            values = file.read(self.bands, window=window)
            shown = file.read_masks(self.bands, window=window) if self.masked else None
            shown = file.read(self.alpha, window=window) if self.alpha else shown
        except BROKEN as error:
            raise _unreadable(self.path, error) from error
        for k, (band, raw, i) in enumerate(zip(out, values, self.bands)):
            scale, offset = file.scales[i - 1], file.offsets[i - 1]
            band[:] = raw if (scale, offset) == (1, 0) else raw * scale + offset
            self.clean(band, raw, k, file.nodatavals[i - 1])
        if shown is not None:
            out[np.broadcast_to(shown == 0, out.shape)] = np.nan

    def thin(self, step: int) -> np.ndarray:
        """Every so many-th value."""
        return self.file.read(self.bands, out_shape=(len(self.bands), *(-(-n // step) for n in self.file.shape)))

    def tables(self) -> list[ElementTree.Element]:
        """What GDAL knows of the bands as XML: categories and attribute tables, which rasterio does not hand out."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "copy.vrt")
            rasterio.shutil.copy(self.file, copy, driver="VRT")
            return ElementTree.parse(copy).findall("VRTRasterBand")


class ArrayLayer(_Cleaned):
    """A numeric array of a .npy or .mat file, (rows, columns), (bands, rows, columns) or (rows, columns, bands).

    It has no place of its own, so it must have the rows and columns of ``grid``. ``file.mat|name`` is one of several.
    """

    def __init__(self, path: str, grid: Grid, dtype: str = "float32"):
        super().__init__(path, dtype)
        self.grid = grid
        name, _, key = self.path.partition("|")
        arrays = _arrays(Path(name).expanduser())
        shape = grid.height, grid.width
        fitting = {k: a for k, a in arrays.items() if k == key or (not key and shape in (a.shape[:2], a.shape[-2:]))}
        if len(fitting) != 1 or shape not in ((a := fitting.popitem()[1]).shape[:2], a.shape[-2:]):
            got = ", ".join(f"{k} {a.shape}" for k, a in arrays.items())[:200] or "no numeric array"
            raise PrsaError(
                f"{short(path)}: expected one array of {shape[0]} rows and {shape[1]} columns, those of the grid, got "
                f"{got}. Fix: name another grid, choose an array as file.mat|name, or write it as GeoTIFF with its "
                "coordinates."
            )
        a = a if a.ndim == 3 else a[None]
        self.values = a if a.shape[1:] == shape else np.moveaxis(a, 2, 0)
        self.bands = list(range(1, len(self.values) + 1))
        self.names = [None] * len(self.bands)

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        """Values (bands, rows, cols)."""
        out = self.values[:, rows, cols].astype(self.dtype)
        for k, band in enumerate(out):
            self.clean(band, self.values[k, rows, cols], k)
        return out

    def thin(self, step: int) -> np.ndarray:
        """Every so many-th value."""
        return self.values[:, ::step, ::step]

    def close(self) -> None:
        """Nothing is open."""


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of two or three axes in a .npy or .mat file, by name."""
    try:
        if path.suffix.lower() == ".npy":
            found = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            found = _mat(path)
    except Exception as error:  # every reader raises its own kind for a damaged file
        raise PrsaError(
            f"{short(path)}: expected a readable {path.suffix} file, got {type(error).__name__}: {str(error)[:300]}. "
            "Check the path, or copy or write the file again."
        ) from error
    return {k: a for k, a in found.items() if isinstance(a, np.ndarray) and a.dtype.kind in "iufb" and a.ndim in (2, 3)}


def _mat(path: Path) -> dict[str, np.ndarray]:
    import h5py
    import scipy.io

    if not h5py.is_hdf5(path):
        return scipy.io.loadmat(path)
    with h5py.File(path) as file:  # version 7.3, with MATLAB's axes reversed
        return {k: v[()].T for k, v in file.items() if isinstance(v, h5py.Dataset)}


class Placed:
    """A layer on a grid. ``how``: "as it is", "cut out", "average", "bilinear" or "nearest"; ``report``: what was done.

    Raises `PrsaError` where the layer has no place, or does not overlap the grid.
    """

    def __init__(self, layer: Layer | ArrayLayer, grid: Grid, labels: bool = False):
        self.layer, self.grid, own = layer, grid, layer.grid
        own = _assumed(layer.path, own, grid)
        self.own, assumed = own, own is not layer.grid
        overlap = grid.outline(own).intersection(shapely.box(0, 0, grid.width, grid.height)).area / (
            grid.width * grid.height
        )
        if not overlap > 0:
            raise PrsaError(
                f"{short(layer.path)}: no overlap with the grid. Expected to cover {grid.describe()}, got "
                f"{own.describe()}. Likely causes: another place, a wrong CRS, or coordinates in another unit. Check "
                "both with rio info. Fix: name the right file, or write the right CRS with: rio edit-info --crs "
                "EPSG:<code> <file>"
            )
        columns, rows = np.array([[0, 0, 1, 1], [0, 1, 0, 1]]) * [[own.width], [own.height]]
        corners = grid.of(own, columns, rows)
        middle = grid.of(own, own.width / 2 + np.array([0, 1, 0]), own.height / 2 + np.array([0, 0, 1]))
        sides = middle[:, 1:] - middle[:, :1]  # a pixel of the layer, in pixels of the grid
        size = math.sqrt(abs(np.linalg.det(sides)))
        shift = np.round(corners[:, :1])
        if (np.abs(corners - [columns, rows] - shift) <= NOISE).all():  # False for corners without a place, too
            self.shift = shift[:, 0].astype(int)  # where the layer begins, in pixels of the grid
            same = (own.height, own.width) == (grid.height, grid.width) and not self.shift.any()
            self.how = "as it is" if same else "cut out"
        else:
            self.how = "nearest" if labels else "average" if size * COARSER < 1 else "bilinear"
            blocks = max(BLOCK_BYTES // (BLOCK * BLOCK * layer.dtype.itemsize * len(layer.bands)), 4)
            self.block = lru_cache(blocks)(self._block)
        self.report = {
            "file": Path(layer.path).name,
            "crs": crs_name(own.crs),
            "how": self.how,
            "begins_at": [round(float(v), 3) + 0.0 for v in corners[:, 0]],  # column and row of the grid
            "pixel_size": round(size, 4),  # in pixels of the grid
            "overlap": round(min(overlap, 1.0), 4),
        }
        if layer.left_out:
            self.report["bands_left_out"] = list(layer.left_out)
        if assumed:
            self.report["assumed"] = "no CRS of its own: taken to be the grid's"

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        """Values (bands, rows, cols) of the grid, NaN for no-data."""
        if self.how in ("as it is", "cut out"):
            x, y = self.shift
            return self.layer.read(slice(rows.start - y, rows.stop - y), slice(cols.start - x, cols.stop - x))
        out = np.empty((len(self.layer.bands), rows.stop - rows.start, cols.stop - cols.start), self.layer.dtype)
        for top in range(rows.start // BLOCK * BLOCK, rows.stop, BLOCK):
            for left in range(cols.start // BLOCK * BLOCK, cols.stop, BLOCK):
                ys = slice(max(top, rows.start), min(top + BLOCK, rows.stop))
                xs = slice(max(left, cols.start), min(left + BLOCK, cols.stop))
                part = self.block(top, left)[:, ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
                out[:, ys.start - rows.start : ys.stop - rows.start, xs.start - cols.start : xs.stop - cols.start] = (
                    part
                )
        return out

    def _block(self, top: int, left: int) -> np.ndarray:
        """The resampled block that begins here."""
        grid, own = self.grid, self.own
        part = Grid(grid.crs, grid.transform * Affine.translation(left, top), BLOCK, BLOCK)
        out = np.full((len(self.layer.bands), BLOCK, BLOCK), np.nan, self.layer.dtype)
        bounds = own.outline(part).bounds
        margin = 3 + 3 * int(1 / self.report["pixel_size"])
        if not bounds:  # the block lies where the layer's CRS has no place
            return out
        left, top, right, bottom = (int(b) for b in np.floor(bounds))
        rows = slice(max(top - margin, 0), min(bottom + margin, own.height))
        cols = slice(max(left - margin, 0), min(right + margin, own.width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return out
        values = self.layer.read(rows, cols)
        crs = own.crs or CRS.from_epsg(3857)  # plain coordinates: any flat CRS, the same on both sides
        for band, plane in zip(out, values):  # one by one: no-data of one band says nothing of the next
            rasterio.warp.reproject(
                plane,
                band,
                src_transform=own.transform * Affine.translation(cols.start, rows.start),
                src_crs=crs,
                src_nodata=np.nan,
                dst_transform=part.transform,
                dst_crs=grid.crs or crs,
                dst_nodata=np.nan,
                resampling=Resampling[self.how],
                tolerance=NOISE,
            )
        return out


def _assumed(path: str, own: Grid, grid: Grid) -> Grid:
    """The layer's grid, or the one it must be taken to have. Raises `PrsaError` when it could be anywhere."""
    if (own.crs is None) == (grid.crs is None) and own.placed == grid.placed:
        if own.placed or (own.height, own.width) == (grid.height, grid.width):
            return own
    elif (own.height, own.width) == (grid.height, grid.width):
        moved = Grid(grid.crs, own.transform, own.height, own.width)
        if not own.placed or np.abs(grid.outline(moved).symmetric_difference(grid.outline(grid)).area) < 1:
            return grid
    raise PrsaError(
        f"{short(path)}: expected a raster with a CRS and a place on the grid ({grid.describe()}, "
        f"{grid.height} x {grid.width} pixels), got {own.describe()}, {own.height} x {own.width} pixels. Without them, "
        "it is taken only when it has the grid's own rows and columns. "
        "Fix: write them, e.g. rio edit-info --crs EPSG:<code> <file>, or name another grid."
    )


class Windowed:
    """Several modalities on one grid, read from disk window by window.

    ``sizes`` as those of a scene ("y", "x", "<modality>_band"); ``crs``, ``transform`` and ``shape`` of the grid.
    """

    def __init__(self, grid: Grid, layers: dict[str, list[Placed]]):
        self.grid, self.layers = grid, layers
        self.crs, self.transform, self.shape = grid.crs, grid.transform, (grid.height, grid.width)
        self.sizes = {"y": grid.height, "x": grid.width} | {
            f"{name}_band": sum(len(p.layer.bands) for p in placed) for name, placed in layers.items()
        }

    def read(self, modality: str, rows: slice, cols: slice) -> np.ndarray:
        """Values (bands, rows, cols) float32; NaN is no-data. Any thread may call."""
        parts = [placed.read(rows, cols) for placed in self.layers[modality]]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def names(self, modality: str) -> list[str] | None:
        """Descriptions of the bands; None unless all have one and no two have the same."""
        names = [name for layer in self._layers(modality) for name in layer.names]
        return names if all(names) and len(set(names)) == len(names) else None

    def wavelengths(self, modality: str) -> list[float] | None:
        """In nm; None unless every file states them."""
        found = [layer.wavelengths for layer in self._layers(modality)]
        return [w for part in found for w in part] if all(found) else None

    def units(self, modality: str) -> str | None:
        """The unit of all bands; None unless it is stated and the same for all."""
        units = {unit for layer in self._layers(modality) for unit in layer.units}
        return units.pop() if len(units) == 1 else None

    def measured(self, modality: str) -> bool:
        """Whether all files say that every value is one (their no-data value is NaN)."""
        return all(layer.nodata is not None and np.isnan(layer.nodata) for layer in self._layers(modality))

    def report(self) -> dict[str, dict]:
        """How every modality was brought to the grid, in plain values."""
        out = {}
        for name, placed in self.layers.items():
            first, *others = [{k: v for k, v in p.report.items() if k != "file"} for p in placed]
            files = [p.report["file"] for p in placed]
            same = all(other == first for other in others)
            out[name] = {"files": files} | (first if same else {"each": [first, *others]})
        return out

    def undeclared(self) -> list[str]:
        """Sentences about values that were taken as no-data though no file declares them, among all that was read."""
        return [
            f"{short(layer.path)} holds {', '.join(f'{v:g}' for v in sorted(layer.taken)[:5])}, which no sensor "
            "measures: taken as no-data. To keep it, declare it a value: rio edit-info --nodata nan <file>"
            for placed in self.layers.values()
            for layer in (p.layer for p in placed)
            if layer.taken
        ]

    def _layers(self, modality: str) -> list:
        return [placed.layer for placed in self.layers[modality]]

    def close(self) -> None:
        """Close the files."""
        for name in self.layers:
            for layer in self._layers(name):
                layer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def open_windowed(rasters: Mapping[str, str | os.PathLike | Sequence], grid: str | None = None) -> Windowed:
    """Open rasters for windowed reading on the grid of one of them (default: the first).

    ``rasters``: a file per modality, or several whose bands are put one after another; anything GDAL reads, and .npy
    or .mat arrays with the rows and columns of the grid. Raises `PrsaError` for what cannot be read or brought to the
    grid. Source: ours.
    """
    files = {name: [f] if isinstance(f, (str, os.PathLike)) else list(f) for name, f in rasters.items()}
    if not files or not all(files.values()):
        raise PrsaError(
            f"expected a raster per modality, got {dict(rasters)}. Fix: e.g. {{'ms': 'S2.tif', 'sar': 'S1.tif'}}."
        )
    grid = next(iter(files)) if grid is None else grid
    if grid not in files:
        raise PrsaError(f"grid: expected one of the modalities {', '.join(files)}, got {grid!r}.")
    opened = {name: [None if _is_array(f) else Layer(f) for f in found] for name, found in files.items()}
    base = next((layer for layer in opened[grid] if layer), None)
    if base is None:
        raise PrsaError(
            f"grid: expected a raster with coordinates as {grid!r}, got {short(files[grid][0])}. "
            "Fix: name a modality whose file has a grid, e.g. a GeoTIFF."
        )
    target = base.grid
    if target.transform.b or target.transform.d:
        raise PrsaError(
            f"{short(base.path)}: expected a grid whose rows run along x, got a rotated one "
            f"({tuple(target.transform)[:6]}). Fix: name another modality as the grid, or turn it: gdalwarp "
            f"{short(Path(base.path).name)} upright.tif"
        )
    return Windowed(
        target,
        {
            name: [Placed(layer or ArrayLayer(file, target), target) for layer, file in zip(opened[name], files[name])]
            for name in files
        },
    )


def open_array(path, grid: Grid, dtype: str = "float32") -> ArrayLayer | None:
    """The array in a file, or None when the file is of no such kind."""
    return ArrayLayer(path, grid, dtype) if _is_array(path) else None


def _is_array(path) -> bool:
    return Path(str(path).partition("|")[0]).suffix.lower() in ARRAYS
