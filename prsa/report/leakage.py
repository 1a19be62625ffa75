"""Leakage audit: do test windows hold training pixels, and is the accuracy better near them? No torch unless something is trained.

A network sees a window around each pixel. A test pixel *leaks* when its window contains a training pixel, that is, when its Chebyshev distance
to the nearest training pixel is at most the patch radius: the network was then trained on part of what it is tested on, and on its neighbour's label.
Source: ours.
"""

import json
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..config import Config
from ..data.leakage import audit, distance_to_training, kind_label
from ..data.splits import TEST, TRAIN
from ..errors import PrsaError

COLUMNS = (
    "scene",
    "simulated",
    "split_kind",
    "method",
    "n_seeds",
    "radius",
    "n_train",
    "n_test",
    "share_overlap",
    "share_val_overlap",
    "distance_median",
    "oa_all_mean",
    "oa_all_sd",
    "oa_clean_mean",
    "oa_clean_sd",
    "oa_overlap_mean",
    "oa_overlap_sd",
)
DISTANCE_COLUMNS = (
    "scene",
    "simulated",
    "split_kind",
    "method",
    "radius",
    "nearest",
    "farthest",
    "n_seeds",
    "n_test",
    "oa_mean",
    "oa_sd",
)
EDGES = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1 << 31,
)  # pixels; a bin is edge <= distance < next
FEW = 20  # test pixels below which the accuracy in a distance bin is not looked at


def radius_of(run: xr.Dataset) -> int:
    """Largest patch radius of a run, in pixels."""
    config = Config(patch=json.loads(run.attrs["config"]).get("patch", Config.patch))
    return max(config.patches([str(m) for m in run["modality"].values]).values()) // 2


def _groups(runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]):
    """Runs without overrides by (scene, split kind, method), each with its scene, split and radius; the split is found by its hash."""
    by_hash = {split.attrs["hash"]: split for split in splits}
    groups: dict[tuple, list] = {}
    for run in runs:
        attrs = run.attrs
        if attrs.get("variant"):
            continue
        if attrs["scene"] not in scenes or attrs["split_hash"] not in by_hash:
            raise PrsaError(
                f"run {attrs['run_id'] if 'run_id' in attrs else attrs['method']} of {attrs['scene']}: expected its scene and the split of hash "
                f"{attrs['split_hash'][:12]}, got scenes {', '.join(scenes)} and splits {', '.join(h[:12] for h in by_hash)}. Pass them too."
            )
        key = attrs["scene"], int(attrs["simulated"]), attrs["split_kind"], attrs["method"]
        groups.setdefault(key, []).append((run, scenes[attrs["scene"]], by_hash[attrs["split_hash"]], radius_of(run)))
    place = {name: i for i, name in enumerate(scenes)}
    for key in sorted(groups, key=lambda k: (place[k[0]], k[2], k[3])):
        radii = {radius for *_, radius in groups[key]}
        if len(radii) > 1:
            raise PrsaError(
                f"{' '.join(map(str, key))}: expected runs of one patch size, got radii {sorted(radii)}. Audit them apart."
            )
        yield key, radii.pop(), sorted(groups[key], key=lambda item: int(item[0].attrs["seed"]))


def leakage(
    runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]
) -> pd.DataFrame:
    """One row per scene, split kind and method (`COLUMNS`): shares as fractions, accuracies in points, mean and sd (ddof 1) over seeds.

    ``splits``: every split the runs were trained with, in any order. Raises `PrsaError` when one is missing.
    """
    rows = []
    for (scene, simulated, kind, method), radius, group in _groups(runs, scenes, splits):
        found = pd.DataFrame(
            [
                audit(data, split, radius, run["map"].values) | {"n_train": int((split == TRAIN).sum())}
                for run, data, split, _ in group
            ]
        )
        numbers = [round(found[c].mean()) for c in ("n_train", "n_test")]
        shares = [found[c].mean() for c in ("share_overlap", "share_val_overlap", "distance_median")]
        accuracy = [v for c in ("oa_all", "oa_clean", "oa_overlap") for v in metrics.mean_sd(found[c].dropna())]
        rows.append((scene, simulated, kind_label(kind), method, len(group), radius, *numbers, *shares, *accuracy))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_distance(
    runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]
) -> pd.DataFrame:
    """Test accuracy against the distance to the nearest training pixel (`DISTANCE_COLUMNS`), in bins ``nearest`` to ``farthest`` pixels.

    Mean and sd over the seeds with at least `FEW` test pixels in a bin; bins that fewer than half of the seeds reach are left out.
    """
    rows = []
    for (scene, simulated, kind, method), radius, group in _groups(runs, scenes, splits):
        n, right = np.zeros((2, len(group), len(EDGES) - 1))
        for i, (run, data, split, _) in enumerate(group):
            test = split.values == TEST
            bins = np.digitize(distance_to_training(split)[test], EDGES) - 1
            n[i] = np.bincount(bins, minlength=len(EDGES) - 1)
            right[i] = np.bincount(
                bins, run["map"].values[test] == data["label"].values[test], minlength=len(EDGES) - 1
            )
        enough = n >= FEW
        for b in np.flatnonzero(enough.mean(0) >= 0.5):
            some = enough[:, b]
            rows.append(
                (
                    scene,
                    simulated,
                    kind_label(kind),
                    method,
                    radius,
                    EDGES[b],
                    EDGES[b + 1] - 1,
                    int(some.sum()),
                    round(n[some, b].mean()),
                    *metrics.mean_sd(metrics.points(right[some, b] / n[some, b])),
                )
            )
    return pd.DataFrame(rows, columns=list(DISTANCE_COLUMNS))
