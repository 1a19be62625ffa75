"""Leakage audit of a split: do test windows hold training pixels, and is the accuracy better near them?"""

import numpy as np
import xarray as xr
from scipy import ndimage

from .. import metrics
from ..errors import PrsaError
from .splits import TEST, TRAIN, VAL


def kind_label(kind: str) -> str:
    """Name of a split kind in tables and figures: ``random`` never appears without its warning."""
    return "random (leaking)" if kind == "random" else kind


def distance_to_training(split: xr.DataArray) -> np.ndarray:
    """Chebyshev distance in pixels to the nearest training pixel, int (y, x). Raises `PrsaError` when there is none."""
    train = split.values == TRAIN
    if not train.any():
        raise PrsaError("expected training pixels (1) in the split, got none. Fix: make it with split_scene.")
    return ndimage.distance_transform_cdt(~train, metric="chessboard")


def audit(scene: xr.Dataset, split: xr.DataArray, radius: int, predicted: np.ndarray | None = None) -> dict:
    """What one split leaks through windows of this radius, and what that does to the accuracy of a map (y, x).

    Returns ``n_test``, ``share_overlap`` and ``share_val_overlap`` (fractions of the test and validation pixels whose
    window contains a training pixel), ``distance_median`` of the test pixels; with a map ``oa_all``, ``oa_clean`` (test
    pixels that do not leak) and ``oa_overlap`` (those that do) in points; NaN where there is no such pixel. Raises
    `PrsaError` for other grids.
    """
    shape = scene["label"].shape
    for what, got in (("split", split.shape), ("map", shape if predicted is None else np.shape(predicted))):
        if got != shape:
            raise PrsaError(f"expected a {what} on the scene's grid {shape}, got {got}. Pass the {what} of this scene.")
    distance = distance_to_training(split)
    test, val = split.values == TEST, split.values == VAL
    near = distance <= radius

    def share(mask, of):
        return float(mask[of].mean()) if of.any() else np.nan

    out = {
        "n_test": int(test.sum()),
        "share_overlap": share(near, test),
        "share_val_overlap": share(near, val),
        "distance_median": float(np.median(distance[test])) if test.any() else np.nan,
    }
    if predicted is not None:
        right = np.asarray(predicted) == scene["label"].values
        out |= {
            f"oa_{name}": float(metrics.points(share(right, test & part)))
            for name, part in (("all", True), ("clean", ~near), ("overlap", near))
        }
    return out
