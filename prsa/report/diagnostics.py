"""Measures that question data and results: drift between areas, probes, calibration. All ours (no torch)."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..data.scene import class_names, modalities
from ..data.splits import TEST, TRAIN

FEWEST = 10  # pixels of a class that an area needs before its mean is compared


def pixels_of(scene, split, modality, part, k):
    """Values (bands, n) of class k in a part."""
    return scene[modality].values[:, (split.values == part) & (scene["label"].values == k)].astype(float)


def area_drift(scene: xr.Dataset, split: xr.DataArray) -> pd.DataFrame:
    """How far each class moves from the training to the test area: columns modality, class, code (1..K), drift; a row per class with enough pixels.

    drift = root mean square over bands of (test mean - training mean) / sd, where sd is the spread of a band's training pixels within
    their class. 0: the areas look alike; 1: the class moved by as much as its own pixels differ. Source: ours.
    """
    rows = []
    for m in modalities(scene):
        values = {
            k: [pixels_of(scene, split, m, part, k) for part in (TRAIN, TEST)]
            for k in range(1, len(class_names(scene)) + 1)
        }
        enough = {k: pair for k, pair in values.items() if min(v.shape[1] for v in pair) >= FEWEST}
        if not enough:
            continue
        within = np.concatenate([train - np.nanmean(train, 1, keepdims=True) for train, _ in enough.values()], axis=1)
        sd = np.nanstd(within, axis=1)
        sd = np.where(sd > 0, sd, np.nan)
        for k, (train, test) in enough.items():
            shift = (np.nanmean(test, 1) - np.nanmean(train, 1)) / sd
            rows.append((m, class_names(scene)[k - 1], k, float(np.sqrt(np.nanmean(shift**2)))))
    return pd.DataFrame(rows, columns=["modality", "class", "code", "drift"])


def probe_accuracy(run: xr.Dataset) -> dict[str, float]:
    """Modality -> overall accuracy (points) of a linear probe on its frozen branch, test pixels."""
    return {
        str(m): float(metrics.points(metrics.oa(run["probe_confusion"].sel(modality=m).values)))
        for m in run["modality"].values
    }


def calibration(scene: xr.Dataset, split: xr.DataArray, runs: Iterable[xr.Dataset], bins: int = 10) -> pd.DataFrame:
    """Test pixels of the runs in equally wide bins of confidence: columns confidence (mean), accuracy, share (of the pixels), filled bins only.

    The expected calibration error is the sum of share * |accuracy - confidence| (Guo et al., ICML 2017).
    """
    test = (split.values == TEST) & (scene["label"].values > 0)
    runs = list(runs)
    confidence = np.concatenate([r["confidence"].values[test] for r in runs]).astype(float)
    right = np.concatenate([r["map"].values[test] == scene["label"].values[test] for r in runs])
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    mean = [np.bincount(place, weights=w, minlength=bins)[filled] / count[filled] for w in (confidence, right)]
    return pd.DataFrame({"confidence": mean[0], "accuracy": mean[1], "share": count[filled] / count.sum()})


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error of a `calibration` table, 0 to 1."""
    return float((table["share"] * (table["accuracy"] - table["confidence"]).abs()).sum())
