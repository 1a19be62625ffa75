"""Measures that question data and results: drift between areas, calibration. All ours unless stated."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from ..data.scene import class_names, modalities
from ..data.splits import TEST, TRAIN

FEWEST = 10  # pixels of a class that an area needs before its mean is compared


def pixels_of(scene: xr.Dataset, split: xr.DataArray, modality: str, part: int, k: int) -> np.ndarray:
    """Values (bands, n) of class k in a part."""
    return scene[modality].values[:, (split.values == part) & (scene["label"].values == k)].astype(float)


def area_drift(scene: xr.Dataset, split: xr.DataArray) -> pd.DataFrame:
    """How far each class moves from the training to the test area: columns modality, class, code (1..K), drift.

    drift = root mean square over bands of (test mean - training mean) / sd, where sd is the spread of a band's training
    pixels within their class. 0: the areas look alike; 1: the class moved by as much as its own pixels differ.
    """
    rows, names = [], class_names(scene)
    for m in modalities(scene):
        pairs = {k: [pixels_of(scene, split, m, part, k) for part in (TRAIN, TEST)] for k in range(1, len(names) + 1)}
        pairs = {k: pair for k, pair in pairs.items() if min(v.shape[1] for v in pair) >= FEWEST}
        within = [train - np.nanmean(train, 1, keepdims=True) for train, _ in pairs.values()]
        sd = np.nanstd(np.concatenate(within, axis=1), axis=1) if within else np.nan
        for k, (train, test) in pairs.items():
            shift = (np.nanmean(test, 1) - np.nanmean(train, 1)) / np.where(sd > 0, sd, np.nan)
            rows.append((m, names[k - 1], k, float(np.sqrt(np.nanmean(shift**2)))))
    return pd.DataFrame(rows, columns=["modality", "class", "code", "drift"])


def calibration(scene: xr.Dataset, split: xr.DataArray, runs: Iterable[xr.Dataset], bins: int = 10) -> pd.DataFrame:
    """Test pixels of the runs in equally wide bins of confidence: columns confidence (mean), accuracy, share.

    Filled bins only; share: of the pixels. The expected calibration error is the sum of share * |accuracy - confidence|
    (Guo et al., ICML 2017).
    """
    test = (split.values == TEST) & (scene["label"].values > 0)
    seen = [(run["confidence"].values[test], run["map"].values[test] == scene["label"].values[test]) for run in runs]
    pixels = pd.DataFrame(np.hstack(seen).T.astype(float), columns=["confidence", "accuracy"])
    place = np.minimum((pixels["confidence"] * bins).astype(int), bins - 1)
    found = pixels.groupby(place).mean()
    return found.assign(share=place.value_counts(normalize=True).sort_index()).reset_index(drop=True)


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error of a `calibration` table, 0 to 1."""
    return float((table["share"] * (table["accuracy"] - table["confidence"]).abs()).sum())
