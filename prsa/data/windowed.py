"""Rasters on disk, brought to one pixel grid and read window by window; nothing larger than the window is held.

The rule: a raster whose pixels are those of the grid, up to whole pixels and rounding, is cut out and never resampled;
any other is averaged where the grid's pixels are 1.5 times as wide as its own or more, and interpolated bilinearly
where not; labels take the nearest value.
"""

import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio.warp
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling

from ..errors import PrsaError
from .layers import ArrayLayer, Grid, Layer, crs_name, is_array, short

NOISE = 0.01  # pixels: grids that lie closer at every corner are one grid
COARSER = 1.5  # times as wide as a raster's own pixels: from here on the grid's pixels are averages
BLOCK = 512  # pixels on a side: resampling always works on whole blocks, so that a value does not depend on the window
BLOCK_BYTES = 2**27  # resampled blocks kept per raster


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
    opened = {name: [None if is_array(f) else Layer(f) for f in found] for name, found in files.items()}
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
