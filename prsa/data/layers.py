"""One raster file, or an array without a grid of its own, as numbers with NaN for no-data; and the grid it lies on."""

import math
import os
import tempfile
import threading
import warnings
from dataclasses import dataclass
from functools import cached_property
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
from rasterio.enums import ColorInterp, MaskFlags

from ..errors import PrsaError
from .nodata import HUGE, SENTINELS, equal

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


def open_array(path, grid: Grid, dtype: str = "float32") -> ArrayLayer | None:
    """The array in a file, or None when the file is of no such kind."""
    return ArrayLayer(path, grid, dtype) if is_array(path) else None


def is_array(path) -> bool:
    """Whether a file, by its name, holds arrays."""
    return Path(str(path).partition("|")[0]).suffix.lower() in ARRAYS
