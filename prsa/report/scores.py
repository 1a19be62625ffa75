"""Finished runs as two long tables that every other table is made from: a row per run and method, a row per branch.

``runs`` is everywhere either run files or their `scores`, so that who makes several tables reads the runs once.
Accuracies, kappa and probe gaps are in points.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..config import METHODS
from ..data.leakage import kind_label
from ..data.simulate import group_of
from ..errors import PrsaError
from .intervals import POINTS, Summary, paired

BASELINE, ALONE, FULL = "concat", "late", "prsanet"  # what all are compared with; branches trained alone; the method
CORNERS = (BASELINE, "concat+prm", "sagf", FULL)  # fusion and rebalancing, each off and on
COLUMNS = "scene group simulated split method family variant seed oa aa kappa joint counts run modalities".split()
BRANCHES = "scene group method seed modality rho branch_oa probe_oa alone_oa gap".split()
Runs = Iterable[xr.Dataset] | pd.DataFrame


def family(method: str) -> str:
    """Kind of a method, by its settings: late, study, ablation, rebalancing, network, classical; other if unknown."""
    settings = METHODS.get(method, {})
    kinds = {
        "ablation": method.startswith(f"{FULL}-no-") or settings.get("fusion") in ("sum", "gated", "cross-attention"),
        "other": method not in METHODS,
        "late": settings.get("fusion") == "late",
        "classical": "classifier" in settings,
        "network": "network" in settings,
        "rebalancing": "rule" in settings or "lambda_aux" in settings,
    }
    return next((name for name, holds in kinds.items() if holds), "study")


def method_order(methods: Iterable[str], single: Iterable[str] = ()) -> list[str]:
    """Methods sorted: single modalities in the scene's order, then as in `prsa.config.METHODS`, then others by name."""
    rank = {name: i for i, name in enumerate([*single, *METHODS])}
    return sorted(set(methods), key=lambda m: (rank.get(m, len(rank)), m))


def scores(runs: Runs) -> pd.DataFrame:
    """One row per run and method (`COLUMNS`), by scene in order of first appearance, method, variant and seed.

    A late run gives a row for each modality alone, too (``family`` single). ``group``: simulated scenes of a kind, or
    one scene. ``counts``: test confusion (K, K). ``variant``: overrides, empty for a default run. ``joint``: a network
    that fuses several modalities itself and has branches to look into. Raises `PrsaError` for a run given twice.
    """
    if isinstance(runs, pd.DataFrame):
        return runs
    rows = []
    for run in runs:
        attrs, names = run.attrs, tuple(str(m) for m in run["modality"].values)
        scene, own = attrs["scene"], attrs["method"]
        about = scene, group_of(scene), int(attrs["simulated"]), kind_label(attrs["split_kind"])
        for method, head in [(own, "fused"), *((m, m) for m in names if own == ALONE)]:
            kind = "single" if method in names else family(method)
            counts = run["confusion"].sel(head=head, part="test").values
            oa, aa, kappa = (float(metrics.points(f(counts))) for f in (metrics.oa, metrics.aa, metrics.kappa))
            joint = method == own != ALONE and len(names) > 1 and int(attrs["probed"]) == 1
            key = method, kind, attrs.get("variant", ""), int(attrs["seed"])
            rows.append((*about, *key, oa, aa, kappa, joint, counts, run, names))
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"joint": bool})
    twice = table[table.duplicated(["scene", "method", "variant", "seed"])]
    if len(twice):
        raise PrsaError(
            f"expected every run once, got {twice.iloc[0][['scene', 'method', 'variant', 'seed']].to_dict()} twice. "
            "Likely causes: two scenes of one name (compare their titles; rename one), or a run passed twice."
        )
    place = {}
    for scene, part in table.groupby("scene", sort=False):
        single = max(part["modalities"], key=len)  # a run of one modality knows only its own
        place |= {(scene, m): len(place) + i for i, m in enumerate(method_order(part["method"], single))}
    table["place"] = [place[pair] for pair in zip(table["scene"], table["method"])]
    return table.sort_values(["place", "variant", "seed"], ignore_index=True).drop(columns="place")


def defaults(runs: Runs, ablations: bool = False) -> pd.DataFrame:
    """The rows of `scores` without overrides and, unless asked for, without ablations."""
    table = scores(runs)
    return table[table["variant"].eq("") & (ablations | table["family"].ne("ablation"))]


def by_run(part: pd.DataFrame, column: str = "oa") -> dict[tuple[str, int], float]:
    """(scene, seed) -> value of a column, for `prsa.report.intervals`."""
    return dict(zip(zip(part["scene"], part["seed"]), part[column]))


def lead(part: pd.DataFrame, table: pd.DataFrame, other: str, column: str = "oa") -> Summary:
    """`paired` difference of one method's rows to another's default rows on the same scenes; NaN where there are none.

    Raises `PrsaError` when the other was trained there, but not with every seed: nothing is dropped silently.
    """
    base = table[table["method"].eq(other) & table["variant"].eq("") & table["scene"].isin(part["scene"])]
    ours, theirs = by_run(part, column), by_run(base, column)
    _all_there(ours, theirs, part["method"].iloc[0], other)
    return paired(ours, theirs, POINTS)


def _all_there(ours: Iterable, theirs: Iterable, method: str, other: str) -> None:
    scenes = {scene for scene, _ in theirs}
    missing = [key for key in ours if key not in theirs and key[0] in scenes]
    if missing:
        raise PrsaError(
            f"expected a run of {other} beside every run of {method}, got none on {missing[0][0]} with seed "
            f"{missing[0][1]}. Run the missing seeds."
        )


def probe_oa(run: xr.Dataset, modality: str) -> float:
    """Test OA in points of a linear probe on a frozen branch."""
    place = run["modality"].values.tolist().index(modality)  # faster than by label, and called thousands of times
    return float(metrics.points(metrics.oa(run["probe_confusion"].values[place])))


def branches(runs: Runs) -> pd.DataFrame:
    """One row per default joint run and modality (`BRANCHES`), in the order of `scores`.

    ``rho``: imbalance factor at the last epoch; ``branch_oa``: of the prototypes; ``probe_oa``: of a linear probe on
    the branch; ``alone_oa``: the same on the branch trained alone, the late run of this scene and seed; ``gap``: alone
    minus joint, NaN for a scene without late runs. Raises `PrsaError` when a scene has late runs, but not of this seed.
    """
    table, rows = defaults(runs, ablations=True), []
    late = by_run(table[table["method"].eq(ALONE)], "run")
    for method, part in table[table["joint"]].groupby("method"):
        _all_there(by_run(part), late, method, ALONE)
    for row in table[table["joint"]].itertuples():
        alone = late.get((row.scene, row.seed))
        probe = np.array([probe_oa(row.run, m) for m in row.modalities])
        own = np.array([np.nan if alone is None else probe_oa(alone, m) for m in row.modalities])
        counts = row.run["confusion"].sel(head=list(row.modalities), part="test").values
        columns = row.modalities, row.run["rho"].values[-1], metrics.points(metrics.oa(counts)), probe, own, own - probe
        rows += [(row.scene, row.group, row.method, row.seed, *values) for values in zip(*columns)]
    return pd.DataFrame(rows, columns=BRANCHES)


def roles(concat: pd.DataFrame) -> dict[str, str]:
    """Modality -> slow, middle or fast, by its mean imbalance factor in rows of `branches`."""
    order = concat.groupby("modality", sort=False)["rho"].mean().sort_values(kind="stable").index
    return dict.fromkeys(concat["modality"], "middle") | {order[-1]: "fast", order[0]: "slow"}
