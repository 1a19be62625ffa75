"""Leakage audit: do test windows hold training pixels, and is the accuracy better near them?

A network sees a window around each pixel. A test pixel *leaks* when its window contains a training pixel, that is, when
its Chebyshev distance to the nearest training pixel is at most the patch radius: the network was then trained on part
of what it is tested on, and on its neighbour's label. Source: ours.
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

DISTANCE_COLUMNS = "scene simulated split_kind method radius nearest farthest n_seeds n_test oa_mean oa_sd".split()
EDGES = (1, *(n * 2**k for k in range(9) for n in (2, 3)), 1024, 1 << 31)  # pixels; a bin is edge <= distance < next
FEW = 20  # test pixels below which the accuracy in a distance bin is not looked at


def radius_of(run: xr.Dataset) -> int:
    """Largest patch radius of a run, in pixels."""
    config = Config(patch=json.loads(run.attrs["config"]).get("patch", Config.patch))
    return max(config.patches([str(m) for m in run["modality"].values]).values()) // 2


def _groups(
    runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]
) -> Iterator[tuple[tuple, int, list]]:
    """Scene, simulated, split kind and method; radius; the default runs, each with its scene and its split, which is
    found by its hash.
    """
    by_hash = {split.attrs["hash"]: split for split in splits}
    groups: dict[tuple, list] = {}
    for run in runs:
        attrs = run.attrs
        if attrs.get("variant"):
            continue
        if attrs["scene"] not in scenes or attrs["split_hash"] not in by_hash:
            raise PrsaError(
                f"{attrs['method']} on {attrs['scene']}: expected its scene and the split of hash "
                f"{attrs['split_hash'][:12]}, got scenes {', '.join(scenes)} and splits "
                f"{', '.join(h[:12] for h in by_hash)}. Pass them too."
            )
        key = attrs["scene"], int(attrs["simulated"]), attrs["split_kind"], attrs["method"]
        groups.setdefault(key, []).append((run, scenes[attrs["scene"]], by_hash[attrs["split_hash"]]))
    place = {name: i for i, name in enumerate(scenes)}
    for key in sorted(groups, key=lambda k: (place[k[0]], k[2], k[3])):
        scene, simulated, kind, method = key
        radii = {radius_of(run) for run, *_ in groups[key]}
        if len(radii) > 1:
            raise PrsaError(
                f"{method} on {scene}: expected runs of one patch size, got radii {sorted(radii)}. Audit them apart."
            )
        yield (scene, simulated, kind_label(kind), method), radii.pop(), groups[key]


def leakage(
    runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]
) -> pd.DataFrame:
    """Share of test and validation pixels whose patch holds a training pixel, median distance of the test pixels to the
    nearest one (pixels); test OA in points of all, of those without (clean) and of those with a training pixel in the
    patch (overlap), mean ± sd over seeds.

    One row per scene, split kind and method. ``splits``: every split the runs were trained with, in any order. Raises
    `PrsaError` when one is missing.
    """
    rows = []
    for about, radius, group in _groups(runs, scenes, splits):
        audits = [audit(scene, split, radius, run["map"].values) for run, scene, split in group]
        found = pd.DataFrame(audits).assign(n_train=[int((split == TRAIN).sum()) for *_, split in group])
        numbers = [round(found[c].mean()) for c in ("n_train", "n_test")]
        shares = [found[c].mean() for c in ("share_overlap", "share_val_overlap", "distance_median")]
        accuracy = [v for c in ("oa_all", "oa_clean", "oa_overlap") for v in metrics.mean_sd(found[c].dropna())]
        rows.append((*about, len(group), radius, *numbers, *shares, *accuracy))
    return frame("leakage", rows)


def by_distance(
    runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]
) -> pd.DataFrame:
    """Test accuracy against the distance to the nearest training pixel (`DISTANCE_COLUMNS`), in bins ``nearest`` to
    ``farthest`` pixels.

    Mean and sd over the seeds with at least `FEW` test pixels in a bin; bins that fewer than half of the seeds reach
    are left out.
    """
    rows = []
    for about, radius, group in _groups(runs, scenes, splits):
        n, right = np.zeros((2, len(group), len(EDGES) - 1))
        for i, (run, scene, split) in enumerate(group):
            test = split.values == TEST
            bins = np.digitize(distance_to_training(split)[test], EDGES) - 1
            hit = run["map"].values[test] == scene["label"].values[test]
            n[i], right[i] = (np.bincount(bins, weights, len(EDGES) - 1) for weights in (None, hit))
        for b in np.flatnonzero((n >= FEW).mean(0) >= 0.5):
            some = n[:, b] >= FEW
            oa = metrics.points(right[some, b] / n[some, b])
            edges = EDGES[b], EDGES[b + 1] - 1
            rows.append((*about, radius, *edges, int(some.sum()), round(n[some, b].mean()), *metrics.mean_sd(oa)))
    return pd.DataFrame(rows, columns=DISTANCE_COLUMNS)
