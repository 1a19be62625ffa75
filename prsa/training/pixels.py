"""What a method may learn from: training and validation pixels of a split, checked before anything is trained."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..data.patches import band_statistics
from ..data.scene import class_names, modalities
from ..data.splits import TRAIN, VAL, evenly
from ..errors import PrsaError

MOST_CLASSES = 255  # a map holds 0..255
LARGEST = 1e18  # of a standardised value: its square must be a float32


@dataclass(frozen=True)
class Pixels:
    """``bands``: modality -> number of bands; ``statistics``: modality -> (mean, std) per band, (C,) each, over
    training pixels; ``train`` and ``held`` (n,): flat indices of training and validation pixels; ``label`` (H W,): 0
    unlabelled, 1..K."""

    bands: dict[str, int]
    classes: list[str]
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]
    train: np.ndarray
    held: np.ndarray
    label: np.ndarray

    @classmethod
    def of(cls, scene: xr.Dataset, split: xr.DataArray, most_held: int, only: list[str] | None = None) -> "Pixels":
        """The pixels of a split, at most ``most_held`` of them for validation; ``only`` these modalities.

        Raises `PrsaError` for too many classes, a class or band without training data, and values too large to train
        on.
        """
        names, classes = only or modalities(scene), class_names(scene)
        part, label = split.values.ravel(), scene["label"].values.ravel().astype(np.int64)
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise PrsaError(
                f"expected 2 to {MOST_CLASSES} classes, got {len(classes)}. Likely causes: label holds numbers of objects, not of "
                "classes (then there are about as many as objects); or all is one class. Fix: group them, list them in class_names."
            )
        train = np.flatnonzero(part == TRAIN)
        counts = np.bincount(label[train], minlength=len(classes) + 1)
        missing = [name for name, n in zip(classes, counts[1:]) if not n]
        if missing or counts[0]:
            got = f"none for {', '.join(missing)[:200]}" if missing else f"{counts[0]} unlabelled ones"
            raise PrsaError(
                f"expected labelled training pixels (split code {TRAIN}) of every class, got {got}. Likely causes: the split was made for "
                "other labels (then its hash differs from split_scene's); the class lies outside the training area (draw it). "
                "Fix: split_scene(scene), or another split raster, or leave the class out of class_names and renumber the labels."
            )
        mask = (part == TRAIN).reshape(split.shape)
        statistics = {m: band_statistics(scene, m, mask) for m in names}
        for m, (mean, std) in statistics.items():
            largest = np.nanmax(np.abs(scene[m].values), axis=(1, 2), initial=0)  # (C,)
            bad = np.flatnonzero(~((largest + np.abs(mean)) / std < LARGEST))
            if bad.size:
                raise PrsaError(
                    f"modality {m}: expected values that fit 32-bit arithmetic, got up to {largest[bad].max():.3g} in band(s) "
                    f"{bad[:8].tolist()}. Likely cause: a no-data number that the file does not declare (look at the largest and "
                    "smallest values). Fix: set them to NaN."
                )
        held = evenly(np.flatnonzero(part == VAL), most_held)
        return cls({m: scene.sizes[f"{m}_band"] for m in names}, classes, statistics, train, held, label)
