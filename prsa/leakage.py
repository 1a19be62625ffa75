"""Leakage audit: do test windows hold training pixels, and is the accuracy better near them? No torch unless something is trained.

A network sees a window around each pixel. A test pixel *leaks* when its window contains a training pixel, that is, when its Chebyshev distance
to the nearest training pixel is at most the patch radius: the network was then trained on part of what it is tested on, and on its neighbour's label.
Source: ours. ``python -m prsa.leakage SCENE`` trains one network with ``random`` and with ``blocks`` and writes what the difference is.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from scipy import ndimage

from . import metrics, paths
from .config import Config
from .errors import PrsaError
from .splits import TEST, TRAIN, VAL, part_counts, split_scene

COLUMNS = ("scene", "simulated", "split_kind", "method", "n_seeds", "radius", "n_train", "n_test", "share_overlap", "share_val_overlap",
           "distance_median", "oa_all_mean", "oa_all_sd", "oa_clean_mean", "oa_clean_sd", "oa_overlap_mean", "oa_overlap_sd")
DISTANCE_COLUMNS = ("scene", "simulated", "split_kind", "method", "radius", "nearest", "farthest", "n_seeds", "n_test", "oa_mean", "oa_sd")
EDGES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1 << 31)  # pixels; a bin is edge <= distance < next
FEW = 20  # test pixels below which the accuracy in a distance bin is not looked at


def kind_label(kind: str) -> str:
    """Name of a split kind in tables and figures: ``random`` never appears without its warning."""
    return "random (leaking)" if kind == "random" else kind


def distance_to_training(split: xr.DataArray) -> np.ndarray:
    """Chebyshev distance (pixels) of every pixel to the nearest training pixel, int (y, x). Raises `PrsaError` without training pixels."""
    train = split.values == TRAIN
    if not train.any():
        raise PrsaError("expected training pixels (1) in the split, got none. Fix: make it with split_scene.")
    return ndimage.distance_transform_cdt(~train, metric="chessboard")


def audit(scene: xr.Dataset, split: xr.DataArray, radius: int, predicted: np.ndarray | None = None) -> dict:
    """What one split leaks through windows of this radius, and with a map ``predicted (y, x)`` what that does to the test accuracy.

    Returns ``n_test``, ``share_overlap`` and ``share_val_overlap`` (fractions of the test and validation pixels whose window contains a
    training pixel), ``distance_median`` of the test pixels, and with a map ``oa_all``, ``oa_clean`` (test pixels that do not leak) and
    ``oa_overlap`` (those that do) in points; NaN where there is no such pixel. Raises `PrsaError` for other grids.
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

    out = {"n_test": int(test.sum()), "share_overlap": share(near, test), "share_val_overlap": share(near, val),
           "distance_median": float(np.median(distance[test])) if test.any() else np.nan}
    if predicted is not None:
        right = np.asarray(predicted) == scene["label"].values
        out |= {f"oa_{name}": float(metrics.points(share(right, test & part))) for name, part in (("all", True), ("clean", ~near), ("overlap", near))}
    return out


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
            raise PrsaError(f"run {attrs['run_id'] if 'run_id' in attrs else attrs['method']} of {attrs['scene']}: expected its scene and the split of hash "
                            f"{attrs['split_hash'][:12]}, got scenes {', '.join(scenes)} and splits {', '.join(h[:12] for h in by_hash)}. Pass them too.")
        key = attrs["scene"], int(attrs["simulated"]), attrs["split_kind"], attrs["method"]
        groups.setdefault(key, []).append((run, scenes[attrs["scene"]], by_hash[attrs["split_hash"]], radius_of(run)))
    place = {name: i for i, name in enumerate(scenes)}
    for key in sorted(groups, key=lambda k: (place[k[0]], k[2], k[3])):
        radii = {radius for *_, radius in groups[key]}
        if len(radii) > 1:
            raise PrsaError(f"{' '.join(map(str, key))}: expected runs of one patch size, got radii {sorted(radii)}. Audit them apart.")
        yield key, radii.pop(), sorted(groups[key], key=lambda item: int(item[0].attrs["seed"]))


def leakage(runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]) -> pd.DataFrame:
    """One row per scene, split kind and method (`COLUMNS`): shares as fractions, accuracies in points, mean and sd (ddof 1) over seeds.

    ``splits``: every split the runs were trained with, in any order. Raises `PrsaError` when one is missing.
    """
    rows = []
    for (scene, simulated, kind, method), radius, group in _groups(runs, scenes, splits):
        found = pd.DataFrame([audit(data, split, radius, run["map"].values) | {"n_train": int((split == TRAIN).sum())} for run, data, split, _ in group])
        numbers = [round(found[c].mean()) for c in ("n_train", "n_test")]
        shares = [found[c].mean() for c in ("share_overlap", "share_val_overlap", "distance_median")]
        accuracy = [v for c in ("oa_all", "oa_clean", "oa_overlap") for v in metrics.mean_sd(found[c].dropna())]
        rows.append((scene, simulated, kind_label(kind), method, len(group), radius, *numbers, *shares, *accuracy))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def by_distance(runs: Iterable[xr.Dataset], scenes: Mapping[str, xr.Dataset], splits: Iterable[xr.DataArray]) -> pd.DataFrame:
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
            right[i] = np.bincount(bins, run["map"].values[test] == data["label"].values[test], minlength=len(EDGES) - 1)
        enough = n >= FEW
        for b in np.flatnonzero(enough.mean(0) >= 0.5):
            some = enough[:, b]
            rows.append((scene, simulated, kind_label(kind), method, radius, EDGES[b], EDGES[b + 1] - 1, int(some.sum()), round(n[some, b].mean()),
                         *metrics.mean_sd(metrics.points(right[some, b] / n[some, b]))))
    return pd.DataFrame(rows, columns=list(DISTANCE_COLUMNS))


# ---- the experiment behind the warning figure

def thin(split: xr.DataArray, label: np.ndarray, counts: np.ndarray, seed: int) -> xr.DataArray:
    """The split with at most ``counts[k]`` training pixels of class k + 1, the others dropped at random; hash made anew."""
    part = split.values.copy()
    rng = np.random.default_rng([seed, 0x7417])
    for k, most in enumerate(counts, start=1):
        members = rng.permutation(np.flatnonzero((part == TRAIN) & (label == k)))
        part.ravel()[members[most:]] = 0
    return split.copy(data=part).assign_attrs(hash=hashlib.sha256(part.tobytes()).hexdigest())


def compare(scene: xr.Dataset, seeds: int = 5, method: str = "concat", preset: str = "full", device: str = "auto", on_run=None, **overrides):
    """Train with ``random`` and with ``blocks``, each seed with its own split and equally many training pixels per class.

    Returns ``runs, splits`` for `leakage` and `by_distance`; ``on_run(run)`` is called after each. Raises `PrsaError` as `fit` does.
    """
    from .config import make_config
    from .scene import class_names, modalities
    from .train import fit

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
            runs.append(fit(scene, method, splits[-1], seed, preset, device, **overrides)[0])
            runs[-1].attrs["variant"] = ""  # overrides are the same for both kinds: nothing here is a sensitivity run
            if on_run:
                on_run(runs[-1])
    return runs, splits


def main(argv: list[str] | None = None) -> int:
    """``python -m prsa.leakage SCENE``: tables and the warning figure in ``results/leakage/<scene>/``; 0, or 2 after an error."""
    from .leakage_plots import warning
    from .scene import open_scene
    from .style import save
    from .tables import write_text

    parser = argparse.ArgumentParser(prog="python -m prsa.leakage", description="Accuracy with a random (leaking) and with a spatially disjoint split.")
    parser.add_argument("scene", help="a name or a .nc file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--method", default="concat")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    try:
        scene = open_scene(options.scene)
        name = scene.attrs["name"]

        def told(run):
            print(f"{name}, {kind_label(run.attrs['split_kind'])}, seed {run.attrs['seed']}: "
                  f"OA {metrics.points(metrics.oa(run['confusion'].sel(head='fused', part='test').values)):.1f} ({run.attrs['seconds']:.0f} s)", flush=True)

        runs, splits = compare(scene, options.seeds, options.method, options.preset, options.device, told)
        table, distances = leakage(runs, {name: scene}, splits), by_distance(runs, {name: scene}, splits)
        out = paths.results(options.preset) / "leakage" / name.replace(":", "-")
        for frame, file in ((table, "leakage.csv"), (distances, "leakage_by_distance.csv")):
            write_text(frame.to_csv(index=False, float_format="%.3f", lineterminator="\n"), out / file)
        save(warning(table, distances), out / "leakage")
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
