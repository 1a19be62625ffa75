"""What every method learns from: the training and validation pixels of a split."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..data.patches import band_statistics
from ..data.scene import class_names, modalities
from ..data.splits import TRAIN, VAL, evenly
from ..errors import PrsaError


@dataclass(frozen=True)
class Pixels:
    """Modalities with their numbers of bands and their (mean, std), (C,) each, over training pixels; classes; flat
    indices (n,) of the training and the ``held`` validation pixels; ``label`` (H W,), 0 unlabelled, 1..K."""

    bands: dict[str, int]
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]
    classes: list[str]
    train: np.ndarray
    held: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, scene: xr.Dataset, split: xr.DataArray, most_held: int, only: list[str] | None = None) -> "Pixels":
        """Of a checked scene and split, at most ``most_held`` for validation; ``only`` these modalities.

        Raises `PrsaError` for a single class and for a band without training data."""
        names, classes, part = only or modalities(scene), class_names(scene), split.values.ravel()
        if len(classes) < 2:
            raise PrsaError(f"expected two or more classes to tell apart, got {classes}. Fix: label what is not of it.")
        statistics = {m: band_statistics(scene, m, split.values == TRAIN) for m in names}
        train, held = np.flatnonzero(part == TRAIN), evenly(np.flatnonzero(part == VAL), most_held)
        bands, label = {m: scene.sizes[f"{m}_band"] for m in names}, scene["label"].values.ravel()
        return cls(bands, statistics, classes, train, held, label.astype(np.int64))
