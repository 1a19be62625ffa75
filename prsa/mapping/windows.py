"""What a map is made from, a scene in memory or rasters on disk, read in blocks and cut into tiles with a halo."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
import xarray as xr

from ..data.patches import reflect_index

BLOCK = 256  # rows read at a time, and what their columns are a multiple of: whole tiles of most files
BLOCK_VALUES = 2**24  # pixels x bands read at a time: 64 MB, whatever the scene


class Source(Protocol):
    """Values of several modalities on one grid; ``sizes`` as those of a scene: "y", "x" and "<modality>_band"."""

    sizes: Mapping[str, int]

    def names(self, modality: str) -> list[str] | None:
        """Names of the bands, None where they are not known."""

    def wavelengths(self, modality: str) -> list[float] | None:
        """Wavelengths of the bands in nm, None where they are not known."""

    def read(self, modality: str, rows: slice, cols: slice) -> np.ndarray:
        """Values (bands, rows, cols) float32; NaN is no-data."""


class SceneSource:
    """A scene in memory as a `Source`; nothing is copied."""

    def __init__(self, scene: xr.Dataset):
        self.scene, self.sizes = scene, scene.sizes

    def names(self, modality: str) -> list[str] | None:
        """Names of the bands, where the scene has them."""
        names = self.scene.coords.get(f"{modality}_band")
        return names.values.tolist() if names is not None and names.dtype.kind in "UO" else None

    def wavelengths(self, modality: str) -> list[float] | None:
        """Wavelengths of the bands in nm, where the scene has them."""
        found = self.scene.coords.get("wavelength")
        return found.values.tolist() if found is not None and found.dims == (f"{modality}_band",) else None

    def read(self, modality: str, rows: slice, cols: slice) -> np.ndarray:
        return self.scene[modality][:, rows, cols].values


class Block:
    """The values of a source in ``rows`` x ``cols`` and ``halo`` pixels around, reflected at the scene's border."""

    def __init__(self, source: Source, modalities: list[str], rows: slice, cols: slice, halo: int):
        self.rows, self.cols = rows, cols
        self.height, self.width = source.sizes["y"], source.sizes["x"]
        self.top, self.left = max(rows.start - halo, 0), max(cols.start - halo, 0)
        window = (
            slice(self.top, min(rows.stop + halo, self.height)),
            slice(self.left, min(cols.stop + halo, self.width)),
        )
        self.values = {m: source.read(m, *window) for m in modalities}

    def cut(self, modality: str, rows: slice, cols: slice, centre: np.ndarray | float = 0.0) -> np.ndarray:
        """Values (C, h, w) less ``centre`` (C, 1, 1): of rows x cols, which may reach beyond the scene by the halo."""
        values = self.values[modality]
        window = np.empty((len(values), rows.stop - rows.start, cols.stop - cols.start), np.float32)
        for y, from_y in _runs(rows, self.height, self.top):
            for x, from_x in _runs(cols, self.width, self.left):
                np.subtract(values[:, from_y, from_x], centre, out=window[:, y, x])
        return window

    def empty(self, rows: slice, cols: slice) -> np.ndarray:
        """True (h, w) where no band of any modality has a value."""
        nothing = np.ones((rows.stop - rows.start, cols.stop - cols.start), bool)
        y, x = slice(rows.start - self.top, rows.stop - self.top), slice(cols.start - self.left, cols.stop - self.left)
        for values in self.values.values():
            for band in values[:, y, x]:
                nothing &= np.isnan(band)
                if not nothing.any():
                    return nothing
        return nothing


def _runs(wanted: slice, size: int, first: int) -> Iterator[tuple[slice, slice]]:
    """Where in a window, and where in values that begin at ``first``: what lies in 0..size-1 at once, and the pixels
    beyond, which are reflected, one by one."""
    start, stop = max(wanted.start, 0), min(wanted.stop, size)
    if start < stop:
        yield slice(start - wanted.start, stop - wanted.start), slice(start - first, stop - first)
    for here, there in enumerate(reflect_index(wanted.start, wanted.stop, size) - first):
        if not 0 <= here + wanted.start < size:
            yield slice(here, here + 1), slice(there, there + 1)


def pieces(rows: slice, cols: slice, height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Cut rows x cols into pieces of at most height x width, row by row."""
    for y in range(rows.start, rows.stop, height):
        for x in range(cols.start, cols.stop, width):
            yield slice(y, min(y + height, rows.stop)), slice(x, min(x + width, cols.stop))


def blocks(source: Source, modalities: list[str], halo: int) -> Iterator[Block]:
    """All blocks of a source, row by row, each read when it is asked for."""
    bands = sum(source.sizes[f"{m}_band"] for m in modalities)
    width = max(BLOCK_VALUES // (bands * BLOCK) // BLOCK, 1) * BLOCK
    for rows, cols in pieces(slice(0, source.sizes["y"]), slice(0, source.sizes["x"]), BLOCK, width):
        yield Block(source, modalities, rows, cols, halo)
