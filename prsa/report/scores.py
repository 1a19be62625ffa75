"""Finished runs as two long tables that every other table is made from: a row per run and method, a row per branch.

Accuracies, kappa and probe gaps are in points. ``runs`` is everywhere either the run files or their table `scores`, so
that a caller who makes several tables reads them once.
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

BASELINE = "concat"  # what every method is compared with
ALONE = "late"  # its runs hold every modality trained alone
FULL = "prsanet"
CORNERS = (BASELINE, "concat+prm", "sagf", FULL)  # fusion and rebalancing, each off and on
COLUMNS = (
    "scene group simulated split method family variant seed oa aa kappa counts run modalities joint".split()
)  # of `scores`
BRANCHES = "scene group method seed modality rho branch_oa probe_oa alone_oa gap".split()


def family(method: str) -> str:
    """Kind of a method by its settings: late, study, ablation, rebalancing, network (published), classical, or other
    for an unknown name.
    """
    settings = METHODS.get(method)
    if settings is None:
        return "ablation" if method.startswith(f"{FULL}-no-") else "other"
    kinds = {
        "late": settings.get("fusion") == "late",
        "ablation": method.startswith(f"{FULL}-no-") or settings.get("fusion") in ("sum", "gated", "cross-attention"),
        "classical": "classifier" in settings,
        "network": "network" in settings,
        "rebalancing": "rule" in settings or "lambda_aux" in settings,
    }
    return next((name for name, holds in kinds.items() if holds), "study")


def method_order(methods: Iterable[str], single: Iterable[str] = ()) -> list[str]:
    """Methods sorted: single modalities in the scene's order, then as in `prsa.config.METHODS`, then others by name."""
    rank = {name: i for i, name in enumerate([*single, *METHODS])}
    return sorted(set(methods), key=lambda m: (rank.get(m, len(rank)), m))


def scores(runs: Iterable[xr.Dataset] | pd.DataFrame) -> pd.DataFrame:
    """One row per run and method (`COLUMNS`), by scene in order of first appearance, method, variant and seed.

    A late run gives a row for each modality alone, too (``family`` single). ``group``: simulated scenes of one kind are
    one group, any other scene is its own. ``counts``: test confusion (K, K). ``variant``: overrides, empty for a
    default run. ``joint``: a network that fuses several modalities itself and has branches to look into. Raises
    `PrsaError` for a run given twice.
    """
    if isinstance(runs, pd.DataFrame):
        return runs
    rows = []
    for run in runs:
        attrs, names = run.attrs, tuple(str(m) for m in run["modality"].values)
        heads = {attrs["method"]: "fused"} | ({m: m for m in names} if attrs["method"] == ALONE else {})
        for method, head in heads.items():
            counts = run["confusion"].sel(head=head, part="test").values
            rows.append(
                {
                    "scene": attrs["scene"],
                    "group": group_of(attrs["scene"]),
                    "simulated": int(attrs["simulated"]),
                    "split": kind_label(attrs["split_kind"]),
                    "method": method,
                    "family": "single" if method in names else family(method),
                    "variant": attrs.get("variant", ""),
                    "seed": int(attrs["seed"]),
                    "oa": float(metrics.points(metrics.oa(counts))),
                    "aa": float(metrics.points(metrics.aa(counts))),
                    "kappa": float(metrics.points(metrics.kappa(counts))),
                    "counts": counts,
                    "run": run,
                    "modalities": names,
                    "joint": method == attrs["method"] != ALONE and len(names) > 1 and int(attrs["probed"]) == 1,
                }
            )
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"joint": bool})
    key = ["scene", "method", "variant", "seed"]
    twice = table[table.duplicated(key)]
    if len(twice):
        raise PrsaError(
            f"expected every run once, got {dict(twice.iloc[0][key])} twice. Likely causes: two scenes of one name "
            "(compare their titles; rename one), or a run passed twice (count the list; pass it once)."
        )
    place = {}
    for scene, part in table.groupby("scene", sort=False):
        single = max(part["modalities"], key=len)  # a run of one modality knows only its own
        place |= {(scene, m): len(place) + i for i, m in enumerate(method_order(part["method"], single))}
    table["place"] = [place[pair] for pair in zip(table["scene"], table["method"])]
    return table.sort_values(["place", "variant", "seed"], ignore_index=True).drop(columns="place")


def defaults(runs: Iterable[xr.Dataset] | pd.DataFrame, ablations: bool = False) -> pd.DataFrame:
    """The rows of `scores` without overrides and, unless asked for, without ablations."""
    table = scores(runs)
    return table[table["variant"].eq("") & (ablations | table["family"].ne("ablation"))]


def by_run(part: pd.DataFrame, column: str = "oa") -> dict[tuple[str, int], float]:
    """(scene, seed) -> value of a column, for `prsa.report.intervals`."""
    return dict(zip(zip(part["scene"], part["seed"]), part[column]))


def probe_oa(run: xr.Dataset, modality: str) -> float:
    """Test OA in points of a linear probe on a frozen branch."""
    place = (
        run["modality"].values.tolist().index(modality)
    )  # faster than a selection by label, of which there are thousands
    return float(metrics.points(metrics.oa(run["probe_confusion"].values[place])))


def branches(runs: Iterable[xr.Dataset] | pd.DataFrame) -> pd.DataFrame:
    """One row per default joint run and modality (`BRANCHES`), in the order of `scores`.

    ``rho``: imbalance factor at the last epoch; ``branch_oa``: of the prototypes, ``probe_oa``: of a linear probe on
    the branch, ``alone_oa``: the same probe on the branch trained alone (the late run of this scene and seed), ``gap``:
    alone minus joint; NaN for a scene without late runs. Raises `PrsaError` when a scene has late runs, but not of this
    seed.
    """
    table = defaults(runs, ablations=True)
    late = by_run(table[table["method"].eq(ALONE)], "run")
    rows = []
    for row in table[table["joint"]].itertuples():
        alone = late.get((row.scene, row.seed))
        if alone is None and row.scene in {scene for scene, _ in late}:
            raise PrsaError(
                f"expected the branches trained alone ({ALONE}) of {row.scene} for every seed of {row.method}, "
                f"got none for seed {row.seed}. Run the missing seeds."
            )
        probe = np.array([probe_oa(row.run, m) for m in row.modalities])
        own = np.array([np.nan if alone is None else probe_oa(alone, m) for m in row.modalities])
        branch = row.run["confusion"].sel(head=list(row.modalities), part="test").values
        columns = row.modalities, row.run["rho"].values[-1], metrics.points(metrics.oa(branch)), probe, own, own - probe
        rows += [(row.scene, row.group, row.method, row.seed, *values) for values in zip(*columns)]
    return pd.DataFrame(rows, columns=BRANCHES)


def roles(concat: pd.DataFrame) -> dict[str, str]:
    """Modality -> slow, middle or fast, by its mean imbalance factor in rows of `branches`."""
    names = list(dict.fromkeys(concat["modality"]))
    order = concat.groupby("modality", sort=False)["rho"].mean().sort_values(kind="stable").index
    return dict.fromkeys(names, "middle") | {order[-1]: "fast", order[0]: "slow"}


def lead(part: pd.DataFrame, table: pd.DataFrame, other: str, column: str = "oa") -> Summary:
    """`paired` difference of the rows of one method to those of another method on the same scenes; NaN where it has
    none.

    Raises `PrsaError` when the other method was trained there, but not with every seed: nothing is dropped silently.
    """
    base = table[table["method"].eq(other) & table["variant"].eq("") & table["scene"].isin(part["scene"])]
    ours, theirs = by_run(part, column), by_run(base, column)
    missing = [key for key in ours if theirs and key not in theirs]
    if missing:
        raise PrsaError(
            f"expected a run of {other} beside every run of {part['method'].iloc[0]}, got none on {missing[0][0]} with "
            f"seed {missing[0][1]}. Run the missing seeds."
        )
    return paired(ours, theirs, POINTS)
