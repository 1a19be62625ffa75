"""The study's tables, one function each; the first paragraph of its docstring is the note that stands beside the table.

Every function takes run files or their `prsa.report.scores`. OA, AA, kappa and differences are in points; sd is over
seeds (ddof 1). Rows are ordered by scene and method, never by the order in which runs were finished; what cannot be
told is NaN, empty in the files.
"""

import json

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..data.leakage import kind_label
from ..data.scene import class_names, modalities
from .intervals import POINTS, complete, paired, summarise
from .scores import BASELINE, CORNERS, FULL, Runs, branches, by_run, defaults, lead, roles, scores
from .text import frame

WORTH = 1.0  # points of probe gap below which a share of it means nothing


def datasets(scenes: dict[str, xr.Dataset], splits: dict[str, xr.DataArray]) -> pd.DataFrame:
    """Scenes: bands per modality, grid in pixels, labelled pixels of each part."""
    rows = []
    for name, scene in scenes.items():
        bands = "; ".join(f"{m} {scene[m].shape[0]}" for m in modalities(scene))
        parts = [int((splits[name] == code).sum()) for code in (1, 2, 3)]
        split, licence = kind_label(str(splits[name].attrs.get("kind", ""))), scene.attrs.get("license", "not stated")
        about = scene.attrs["title"], int(scene.attrs["simulated"]), bands, *scene["label"].shape
        rows.append((name, *about, len(class_names(scene)), *parts, split, licence))
    return frame("datasets", rows)


def accuracy(runs: Runs) -> pd.DataFrame:
    """Test pixels, points, mean ± sd over seeds; difference in OA to concat, paired by seed."""
    table, rows = defaults(runs), []
    for (scene, method), part in table.groupby(["scene", "method"], sort=False):
        spread = [v for column in ("oa", "aa", "kappa") for v in metrics.mean_sd(part[column])]
        about = scene, part["simulated"].iloc[0], method, part["family"].iloc[0], len(part)
        rows.append((*about, *spread, *lead(part, table, BASELINE).numbers))
    return frame("accuracy", rows)


def evaluation(runs: Runs) -> pd.DataFrame:
    """Test pixels, points, mean over the scenes of a group and seeds; differences in OA and AA to concat, paired by
    scene and seed.
    """
    table, rows = defaults(runs), []
    for (group, method), part in table.groupby(["group", "method"], sort=False):
        oa, aa, kappa = (summarise(by_run(part, column), (0, 100)) for column in ("oa", "aa", "kappa"))
        gains = [v for column in ("oa", "aa") for v in lead(part, table, BASELINE, column).numbers]
        about = group, part["simulated"].iloc[0], method, part["family"].iloc[0], oa.n_scenes, oa.n_seeds
        rows.append((*about, *oa.numbers, aa.estimate, kappa.estimate, *gains))
    return frame("evaluation", rows)


def per_class(runs: Runs) -> pd.DataFrame:
    """Recall of each class (share of its test pixels found), points, mean ± sd over seeds; empty for a class without
    test pixels.
    """
    rows = []
    for (scene, method), part in defaults(runs).groupby(["scene", "method"], sort=False):
        counts = np.stack(part["counts"].tolist())  # (seed, K, K)
        recall = metrics.points(metrics.per_class(counts))  # (seed, K)
        for k, name in enumerate(part["run"].iloc[0]["class"].values):
            seen = recall[:, k][np.isfinite(recall[:, k])]
            pixels = int(round(counts[:, k].sum() / len(counts)))
            rows.append((scene, method, str(name), pixels, *metrics.mean_sd(seen)))
    return frame("per_class", rows)


def ranking(runs: Runs) -> pd.DataFrame:
    """Mean rank of OA (1 = best) within each scene and seed, among the methods that every scene has; OA in points;
    difference in OA: prsanet minus the method, paired by scene and seed.

    Best first, without single modalities and ablations; no rows for fewer than two methods.
    """
    table, rows = defaults(runs), []
    table = table[table["family"].ne("single")]
    family, n = dict(zip(table["method"], table["family"])), table["scene"].nunique()
    oa = table.pivot(index=["scene", "seed"], columns="method", values="oa")[list(family)]
    oa = oa[[m for m in oa if oa[m].dropna().index.get_level_values("scene").nunique() == n]].dropna()
    oa = oa[oa.index.get_level_values("seed").map(oa.groupby("seed").size()) == n]
    place = oa.rank(axis=1, ascending=False)
    for method in oa if len(oa) and oa.shape[1] > 1 else ():
        rank = summarise(place[method], (1, oa.shape[1]))
        ahead = paired(oa[FULL], oa[method], POINTS).numbers if FULL in oa else (np.nan,) * 3
        counts = rank.n_scenes, rank.n_seeds
        rows.append((method, family[method], *counts, *rank.numbers, oa[method].mean(), *ahead))
    return frame("ranking", rows).sort_values("rank_mean", kind="stable", ignore_index=True)


def ablation(runs: Runs) -> pd.DataFrame:
    """OA in points, mean ± sd over seeds; differences to concat and to prsanet, paired by seed; linear CKA and eta
    squared of the fused features with the categories; Jensen-Shannon divergence of the branches at the last epoch
    (nats).

    Rows: fusion and rebalancing each off and on, the plain fusions, and prsanet without one of its parts.
    """
    table, rows = defaults(runs, ablations=True), []
    chosen = table[table["method"].isin([*CORNERS, "pmr"]) | table["family"].eq("ablation")]
    for (scene, method), part in chosen.groupby(["scene", "method"], sort=False):
        gains = [v for other in (BASELINE, FULL) for v in lead(part, table, other).numbers]
        measured = [np.mean([run[name].values.flat[-1] for run in part["run"]]) for name in ("cka", "eta2", "js")]
        rows.append((scene, method, len(part), *metrics.mean_sd(part["oa"]), *gains, *measured))
    return frame("ablation", rows)


def imbalance(runs: Runs) -> pd.DataFrame:
    """Means over seeds: imbalance factor at the last epoch; test OA in points of the branch (prototypes) and of linear
    probes on the branch trained jointly and alone; probe gap: alone minus joint.
    """
    means = (
        branches(runs)
        .groupby(["scene", "method", "modality"], sort=False)[["rho", "branch_oa", "probe_oa", "alone_oa", "gap"]]
        .mean()
    )
    return frame("imbalance", means.reset_index().itertuples(index=False))


def recovery(runs: Runs) -> pd.DataFrame:
    """Probe gap: test OA in points of a linear probe on the branch trained alone minus inside the method, in concat and
    in the method, paired by scene and seed; recovered: share of concat's gap that the method closes, where that gap is
    a point or more. Role: by the imbalance factor in concat.

    No rows for a group without late or concat.
    """
    rows = []
    for group, here in branches(runs).groupby("group", sort=False):
        concat = here[here["method"].eq(BASELINE)]
        for m, role in (roles(concat) if concat["gap"].notna().any() else {}).items():
            before = by_run(concat[concat["modality"].eq(m)], "gap")
            for method, part in here[here["modality"].eq(m)].groupby("method", sort=False):
                gap = summarise(by_run(part, "gap"), POINTS)
                base = np.mean([before[key] for key in complete(by_run(part, "gap")) if key in before])
                share = 1 - gap.estimate / base if base >= WORTH else np.nan
                rows.append((group, method, m, role, gap.n_scenes, gap.n_seeds, base, *gap.numbers, share))
    return frame("recovery", rows)


def sensitivity(runs: Runs) -> pd.DataFrame:
    """OA of prsanet in points, mean ± sd over seeds, with one setting changed; difference in OA to the default, paired
    by seed.

    The default's own value has a row as well, over the seeds of the others.
    """
    table, rows = scores(runs), []
    varied = table[table["variant"].ne("") & table["method"].eq(FULL)]
    changes = [json.loads(run.attrs["overrides"]) for run in varied["run"]]
    varied = varied.assign(parameter=["+".join(sorted(change)) for change in changes], change=changes)
    for (scene, parameter), part in varied.groupby(["scene", "parameter"], sort=False):
        names = parameter.split("+")
        tried = [here for _, here in part.groupby("variant", sort=False)]
        entries = {tuple(here["change"].iloc[0][n] for n in names): here for here in tried}
        own = table[table["variant"].eq("") & table["method"].eq(FULL) & table["scene"].eq(scene)]
        if len(own):
            config = json.loads(own["run"].iloc[0].attrs["config"])
            entries[tuple(config[n] for n in names)] = own[own["seed"].isin(part["seed"])]
        for value in sorted(entries, key=lambda v: [(isinstance(x, str), x) for x in v]):
            here = entries[value]
            text = "+".join(f"{v:g}" if isinstance(v, (int, float)) else str(v) for v in value)
            rows.append(
                (scene, parameter, text, len(here), *metrics.mean_sd(here["oa"]), *lead(here, table, FULL).numbers)
            )
    return frame("sensitivity", rows)


def complexity(runs: Runs) -> pd.DataFrame:
    """Trainable parameters; multiply-accumulate operations (MACs) per patch and per pixel of a whole-scene map.
    Classical classifiers, first seed: stored numbers; multiply-accumulates (svm) or comparisons (rf) per pixel, without
    the features.

    A late run counts all its networks.
    """
    table = defaults(runs, ablations=True)
    own = table.loc[[run.attrs["method"] == method for run, method in zip(table["run"], table["method"])]]
    first = own.drop_duplicates(["scene", "method"])
    costs = [tuple(int(run.attrs[a]) for a in ("params", "macs_patch", "macs_pixel")) for run in first["run"]]
    return frame("complexity", [(*row, *cost) for row, cost in zip(first[["scene", "method"]].values, costs)])
