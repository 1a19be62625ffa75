"""Normalisation on training pixels and patch gathering in one indexing operation, dihedral augmentation included."""

import numpy as np
import torch
import xarray as xr

from ..errors import PrsaError


def reflect_index(start: int, stop: int, size: int) -> np.ndarray:
    """Positions start..stop-1 folded back into 0..size-1 by reflection, the edge not repeated (numpy's "reflect")."""
    period = max(2 * (size - 1), 1)
    folded = np.abs(np.arange(start, stop)) % period
    return np.minimum(folded, period - folded)


def band_statistics(scene: xr.Dataset, name: str, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per band over the training pixels ``train`` (y, x) bool, no-data left out.

    Both float32 (C,); a constant band gets deviation 1. Raises `PrsaError` for a band without any training value.
    """
    values = scene[name].values[:, train].astype(np.float64)  # (C, n)
    valid = np.isfinite(values)
    count = valid.sum(1)
    if not count.all():
        dead = np.flatnonzero(count == 0).tolist()
        raise PrsaError(
            f"modality {name}: expected data at training pixels in every band, got only no-data in band(s) {dead[:8]}. "
            "Likely causes: the bands are masked out (fix: drop them), or the sensor does not cover the training area "
            "(check: its no-data beside the split; fix: another split)."
        )
    mean = np.where(valid, values, 0).sum(1) / count
    std = np.sqrt(np.where(valid, (values - mean[:, None]) ** 2, 0).sum(1) / count)
    return mean.astype(np.float32), np.where(std > 1e-12, std, 1).astype(np.float32)


def normalise(values: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(..., C) -> standardised (..., C); no-data becomes 0, the training mean."""
    return torch.nan_to_num((values - mean) / std, nan=0.0)


def dihedral_offsets(side: int, stride: int) -> np.ndarray:
    """Flat offsets of a window's pixels for the 8 symmetries of the square: int64 (8, side * side)."""
    r = side // 2
    window = (np.arange(-r, r + 1)[:, None] * stride + np.arange(-r, r + 1)[None]).astype(np.int64)
    return np.stack([np.rot90(w, k).ravel() for w in (window, window[:, ::-1]) for k in range(4)])


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers made on the CPU, on the device; neither the host nor the device waits for the other."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class PatchSource:
    """Windows around chosen pixels of a scene, resident on one device.

    Only pixels that some window needs are kept (reflected at the border), one row of bands each, so that memory
    follows the number of chosen pixels and not the scene.
    """

    def __init__(
        self, scene: xr.Dataset, sides: dict[str, int], statistics: dict[str, tuple], centres: np.ndarray, device="cpu"
    ):
        """``centres``: flat indices (n,) into the (y, x) grid; ``statistics[m]``: mean and std of `band_statistics`."""
        height, width = scene.sizes["y"], scene.sizes["x"]
        self.sides = sides
        self.tables, self.rows, self.offsets = {}, {}, {}
        for name, side in sides.items():
            r = side // 2
            stride = width + 2 * r
            source = (
                reflect_index(-r, height + r, height)[:, None] * width + reflect_index(-r, width + r, width)[None]
            ).ravel()
            start = (centres // width + r) * stride + centres % width + r  # centres on the padded grid
            offsets = dihedral_offsets(side, stride)
            needed = np.zeros(source.size, bool)
            needed[(start[:, None] + offsets[0]).ravel()] = True
            flat = scene[name].values.reshape(scene[name].shape[0], -1)
            values = torch.from_numpy(np.ascontiguousarray(flat[:, source[needed]].T))  # (rows, C)
            mean, std = (torch.as_tensor(s) for s in statistics[name])
            self.tables[name] = normalise(values, mean, std).to(device)
            lookup = np.cumsum(needed) - 1
            self.rows[name] = torch.from_numpy(lookup[start[:, None] + offsets[0]]).to(device)  # (n, side * side)
            symmetric = np.argsort(offsets[0])[np.searchsorted(np.sort(offsets[0]), offsets)]
            self.offsets[name] = torch.from_numpy(symmetric).to(device)  # (8, side * side)

    def gather(self, index: torch.Tensor, symmetry: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """``index`` (B,) into the chosen pixels, ``symmetry`` (B,) in 0..7 -> (B, C, p, p), channels last."""
        batch = {}
        for name, side in self.sides.items():
            rows = self.rows[name][index]  # (B, p*p)
            if symmetry is not None:
                rows = rows.gather(1, self.offsets[name][symmetry])
            pixels = self.tables[name].index_select(0, rows.flatten())  # several times as fast as indexing by a matrix
            batch[name] = pixels.view(len(index), side, side, pixels.shape[1]).permute(0, 3, 1, 2)  # (B, C, p, p)
        return batch
