"""The experiment that teaches what a leaking split does: one network trained with ``random`` and with ``blocks``."""

import hashlib

import numpy as np
import xarray as xr

from ..config import make_config
from ..data.scene import class_names, modalities
from ..data.splits import TRAIN, part_counts, split_scene
from ..errors import PrsaError
from .fit import fit


def thin(split: xr.DataArray, label: np.ndarray, counts: np.ndarray, seed: int) -> xr.DataArray:
    """The split with at most ``counts[k]`` training pixels of class k + 1, the others dropped at random."""
    part = split.values.copy()
    rng = np.random.default_rng([seed, 0x7417])
    for k, most in enumerate(counts, start=1):
        members = rng.permutation(np.flatnonzero((part == TRAIN) & (label == k)))
        part.ravel()[members[most:]] = 0
    return split.copy(data=part).assign_attrs(hash=hashlib.sha256(part.tobytes()).hexdigest())


def compare(
    scene: xr.Dataset, seeds: int = 5, method: str = "concat", preset: str = "full", device: str = "auto", **overrides
) -> tuple[list[xr.Dataset], list[xr.DataArray]]:
    """Train with ``random`` and with ``blocks``, each seed with its own split and as many training pixels per class.

    Returns ``runs, splits`` for `prsa.report.leakage`. Raises `PrsaError` as `fit` does.
    """
    if seeds < 1:
        raise PrsaError(f"seeds: expected 1 or more, got {seeds}.")
    label, k = scene["label"].values, len(class_names(scene))
    radius = max(make_config(method, preset, **overrides).patches(modalities(scene)).values()) // 2
    runs, splits = [], []
    for seed in range(seeds):
        pair = [split_scene(scene, kind, seed, radius) for kind in ("random", "blocks")]
        common = np.min([part_counts(label, split.values, k)[TRAIN - 1] for split in pair], axis=0)
        for split in pair:
            splits.append(thin(split, label, common, seed))
            runs.append(fit(scene, method, splits[-1], seed, preset, device, None, False, **overrides)[0])
            runs[-1].attrs["variant"] = ""  # overrides are the same for both kinds: nothing here is a sensitivity run
    return runs, splits
