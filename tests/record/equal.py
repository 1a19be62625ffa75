"""Runs of two versions of the code, pair by pair: ``results/bench/equal.csv``. What work on speed must not change.

``PYTHONPATH=tests python -m record.equal OLDER NEWER``: two folders of run files (whole or slim). Runs are paired by
scene, method and seed. A row per quantity: how many values are the same to the last digit, the mean difference (newer
minus older) with its 95 % interval (Student's t over scenes), and the largest.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from record.bench import write

from prsa import metrics
from prsa.report.intervals import summarise

CURVES = ("loss", "s", "rho", "beta", "accuracy", "branch_accuracy", "js", "direction", "grad_norm")
COUNTS = {
    "OA of every map and part, points": "confusion",
    "OA with degraded sensors, points": "degraded_confusion",
    "OA of linear probes, points": "probe_confusion",
}


def values(run: xr.Dataset) -> dict[str, np.ndarray]:
    """Curves, and the accuracies of all counts in points, each flat."""
    curves = np.concatenate([run[name].values.ravel() for name in CURVES])
    return {"curves of training": curves} | {
        name: metrics.points(metrics.oa(run[counts].values)).ravel() for name, counts in COUNTS.items()
    }


def compare(older: Path, newer: Path) -> pd.DataFrame:
    """A row per quantity; one number per scene is the mean over its runs."""
    named = [{tuple(p.name.split("__")[:3]): p for p in sorted(folder.glob("*.nc"))} for folder in (older, newer)]
    found: dict[str, dict] = {}
    for key in sorted(named[0].keys() & named[1].keys()):
        pair = []
        for files in named:
            with xr.open_dataset(files[key], engine="scipy") as run:
                pair.append(values(run.load()))
        for name, old in pair[0].items():
            both = np.isfinite(old) & np.isfinite(pair[1][name])
            found.setdefault(name, {}).setdefault(key[0], []).append((pair[1][name] - old)[both])
    rows = []
    for name, scenes in found.items():
        every = np.concatenate([part for parts in scenes.values() for part in parts])
        scene_means = {(s, 0): float(np.concatenate(parts).mean()) for s, parts in scenes.items() if np.size(parts[0])}
        mean, lo, hi = summarise(scene_means).numbers
        rows.append(
            (name, sum(map(len, scenes.values())), every.size, int((every == 0).sum()), mean, lo, hi, abs(every).max())
        )
    return pd.DataFrame(rows, columns=["quantity", "runs", "values", "same", "mean", "lo", "hi", "largest"])


if __name__ == "__main__":
    write(table := compare(*map(Path, sys.argv[1:3])), "equal")
    print(table.to_string(index=False))
