"""The imbalance dial: accuracy, probe gaps and imbalance factors from balanced (0) to strongly imbalanced scenes (1).

What the dial turns is said in `prsa.data.simulate`. A kind at two settings is the same landscape, and its runs start
from the same random numbers. There is one landscape per kind, so intervals speak of training on it. Measures are ours.
"""

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..data.scene import modalities
from ..data.simulate import CONFIGS, EMBEDDED, is_dial, parse_name
from ..data.splits import TRAIN
from .diagnostics import area_drift
from .intervals import CORRELATION, POINTS, summarise
from .scores import BASELINE, Runs, branches, by_run, defaults, lead
from .text import frame


def setting(scene: str) -> tuple[str, float] | None:
    """Kind and dial of a scene by its name; None if it is not simulated or has another seed than 0: not of the dial."""
    if scene.partition(":")[0] not in EMBEDDED:
        return None
    kind, seed, dial = parse_name(scene)
    return None if seed else (kind, CONFIGS[kind].dial if dial is None else dial)


def turned(runs: Runs) -> pd.DataFrame:
    """Default rows of `prsa.report.scores` of the dial's scenes, with columns kind and dial, by both.

    A kind's own name is its default setting. Only seeds that every method has at every setting: tables are written
    while a study still runs, and the study itself has more seeds and methods at the default setting.
    """
    table = defaults(runs, ablations=True)
    table = table.assign(at=table["scene"].map(setting)).dropna(subset="at")
    table = table.assign(kind=[kind for kind, _ in table["at"]], dial=[dial for _, dial in table["at"]])
    parts = [table[:0]]
    for kind in EMBEDDED:
        here = table[table["kind"].eq(kind)].sort_values("dial", kind="stable")
        here = here[here["method"].isin(here["method"][[is_dial(scene) for scene in here["scene"]]])]
        pairs = here[["dial", "method"]].nunique().prod()
        parts.append(here[here.groupby("seed")["seed"].transform("size").eq(pairs)])
    return pd.concat(parts)


def dial(runs: Runs) -> pd.DataFrame:
    """Simulated scenes with the imbalance dial at several settings (0 balanced, 1 strong), one landscape per kind. OA
    in points, mean ± sd over seeds; difference in OA to concat, paired by seed; imbalance factor at the last epoch;
    probe gap: OA of a linear probe on the branch trained alone minus inside the method. A method without branches
    inside has no modality.
    """
    table, rows = turned(runs), []
    inside = branches(table)
    for (kind, at, method), part in table[table["family"].ne("single")].groupby(["kind", "dial", "method"], sort=False):
        about = kind, at, method, len(part), *metrics.mean_sd(part["oa"]), *lead(part, table, BASELINE).numbers
        own = inside[inside["method"].eq(method) & inside["scene"].isin(part["scene"])]
        for m, branch in own.groupby("modality", sort=False):
            rows.append((*about, m, branch["rho"].mean(), *summarise(by_run(branch, "gap"), POINTS).numbers))
        if own.empty:
            rows.append((*about, "", np.nan, np.nan, np.nan, np.nan))
    return frame("dial", rows)


def trend(runs: Runs) -> pd.DataFrame:
    """Spearman's rank correlation of the dial's setting with fused OA, with its lead over concat, with the distance of
    the imbalance factor from balance (|log2|) and with the probe gap: mean over seeds, each of which has one
    correlation over the settings.

    0 for values that do not change. No interval over two settings, where a correlation is only a sign on which seeds
    agree by chance. No rows for a measure that could not be taken.
    """
    table, rows = turned(runs), []
    inside = branches(table).merge(table[["scene", "kind", "dial"]].drop_duplicates(), on="scene")
    fused = table[table["family"].ne("single")].assign(modality="")
    base = by_run(fused[fused["method"].eq(BASELINE)])
    ahead = fused["oa"] - [base.get(key, np.nan) for key in zip(fused["scene"], fused["seed"])]
    measures = [
        fused.assign(measure="fused OA", value=fused["oa"]),
        fused.assign(measure="lead over concat", value=ahead)[fused["method"].ne(BASELINE)],
        inside.assign(measure="distance from balance", value=inside["rho"].astype(float).map(np.log2).abs()),
        inside.assign(measure="probe gap", value=inside["gap"]),
    ]
    for (kind, method), here in pd.concat(measures).groupby(["kind", "method"], sort=False):
        for (measure, modality), part in here.groupby(["measure", "modality"], sort=False):
            found = part.pivot(index="seed", columns="dial", values="value")  # (seed, setting)
            if found.isna().any(axis=None):
                continue
            rank = {(kind, s): v.rank().corr(v.index.to_series().rank()) for s, v in found.iterrows() if np.ptp(v)}
            every = summarise({(kind, seed): 0.0 for seed in found.index} | rank, CORRELATION)
            bounds = every.numbers[1:] if found.shape[1] > 2 else (np.nan, np.nan)
            rows.append((kind, method, measure, modality, *found.shape[::-1], every.estimate, *bounds))
    return frame("trend", rows)


def sensors(scenes: dict[float, tuple[xr.Dataset, xr.DataArray]]) -> pd.DataFrame:
    """What the dial does to the data of one kind: setting -> (scene, split) in, a row per setting and modality out.

    Columns dial, modality; ``separability``: share of the variance of single training pixels that lies between the
    classes, bands standardised (0 to 1); ``drift``: median over classes of `area_drift`.
    """
    rows = []
    for at, (scene, split) in sorted(scenes.items()):
        train = (split.values == TRAIN) & (scene["label"].values > 0)
        drift = area_drift(scene, split).groupby("modality")["drift"].median()
        for m in modalities(scene):
            pixels = scene[m].values[:, train].T.astype(float)  # (n, band)
            pixels = (pixels - pixels.mean(0)) / np.maximum(pixels.std(0), 1e-12)
            rows.append((at, m, metrics.eta_squared(pixels, scene["label"].values[train]), drift[m]))
    return pd.DataFrame(rows, columns=["dial", "modality", "separability", "drift"])
