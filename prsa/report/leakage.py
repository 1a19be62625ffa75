"""Leakage audit: do test windows hold training pixels, and is the accuracy better near them? Source: ours.

A network sees a window around each pixel. A test pixel *leaks* when its Chebyshev distance to the nearest training
pixel is at most the patch radius: the network was then trained on part of what it is tested on.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..config import Config
from ..data.leakage import audit, distance_to_training, kind_label
from ..data.splits import TEST, TRAIN
from ..errors import PrsaError
from .text import frame

DISTANCES = "scene simulated split_kind method radius nearest farthest n_seeds n_test oa_mean oa_sd".split()
EDGES = (1, *(n * 2**k for k in range(9) for n in (2, 3)), 1024, 1 << 31)  # pixels; a bin is edge <= distance < next
FEW = 20  # test pixels below which the accuracy in a distance bin is not looked at
Scenes, Splits = Mapping[str, xr.Dataset], Iterable[xr.DataArray]


def radius_of(run: xr.Dataset) -> int:
    """Largest patch radius of a run, in pixels."""
    config = Config(patch=json.loads(run.attrs["config"]).get("patch", Config.patch))
    return max(config.patches([str(m) for m in run["modality"].values]).values()) // 2


def _alike(runs: Iterable[xr.Dataset], scenes: Scenes, splits: Splits) -> Iterator[tuple[tuple, list]]:
    """What default runs share (scene, simulated, split kind, method, radius), and each with its scene and its split."""
    by_hash, found = {split.attrs["hash"]: split for split in splits}, {}
    for run in runs:
        of = run.attrs
        if of.get("variant"):
            continue
        if of["scene"] not in scenes or of["split_hash"] not in by_hash:
            raise PrsaError(
                f"{of['method']} on {of['scene']}: expected its scene and the split of hash {of['split_hash'][:12]}, "
                f"got scenes {', '.join(scenes)} and splits {', '.join(h[:12] for h in by_hash)}. Pass them too."
            )
        key = of["scene"], int(of["simulated"]), kind_label(of["split_kind"]), of["method"], radius_of(run)
        found.setdefault(key, []).append((run, scenes[of["scene"]], by_hash[of["split_hash"]]))
    place = {name: i for i, name in enumerate(scenes)}
    for key in sorted(found, key=lambda key: (place[key[0]], *key[2:])):
        yield key, found[key]


def leakage(runs: Iterable[xr.Dataset], scenes: Scenes, splits: Splits) -> pd.DataFrame:
    """Share of test and validation pixels whose patch holds a training pixel, median distance of the test pixels to the
    nearest one (pixels); test OA in points of all, of those without (clean) and of those with a training pixel in the
    patch (overlap), mean ± sd over seeds.

    ``splits``: every split the runs were trained with, in any order. Raises `PrsaError` when one is missing.
    """
    rows = []
    for (*about, radius), group in _alike(runs, scenes, splits):
        audits = [audit(scene, split, radius, run["map"].values) for run, scene, split in group]
        found = pd.DataFrame(audits).assign(n_train=[int((split == TRAIN).sum()) for *_, split in group])
        numbers = [round(found[c].mean()) for c in ("n_train", "n_test")]
        shares = [found[c].mean() for c in ("share_overlap", "share_val_overlap", "distance_median")]
        accuracy = [v for c in ("oa_all", "oa_clean", "oa_overlap") for v in metrics.mean_sd(found[c].dropna())]
        rows.append((*about, len(group), radius, *numbers, *shares, *accuracy))
    return frame("leakage", rows)


def by_distance(runs: Iterable[xr.Dataset], scenes: Scenes, splits: Splits) -> pd.DataFrame:
    """Test accuracy against the distance to the nearest training pixel (`DISTANCES`), in bins nearest to farthest.

    Over the seeds with at least `FEW` test pixels in a bin; bins that fewer than half of the seeds reach are left out.
    """
    rows = []
    for about, group in _alike(runs, scenes, splits):
        n, right = np.zeros((2, len(group), len(EDGES) - 1))
        for i, (run, scene, split) in enumerate(group):
            test = split.values == TEST
            bins = np.digitize(distance_to_training(split)[test], EDGES) - 1
            hit = run["map"].values[test] == scene["label"].values[test]
            n[i], right[i] = (np.bincount(bins, weights, len(EDGES) - 1) for weights in (None, hit))
        for b in np.flatnonzero((n >= FEW).mean(0) >= 0.5):
            some = n[:, b] >= FEW
            oa = metrics.mean_sd(metrics.points(right[some, b] / n[some, b]))
            rows.append((*about, EDGES[b], EDGES[b + 1] - 1, int(some.sum()), round(n[some, b].mean()), *oa))
    return pd.DataFrame(rows, columns=DISTANCES)
