"""What the paper's abstract claims, tested on our reconstruction: one row per claim and group of scenes.

The rule, the smallest effects that matter and the first eight claims were written before the ledger was computed for
the first time, but after tables of accuracy and imbalance had been seen. Claims on update direction and degraded
sensors, the rank correlations and the groups of scenes were added later, before any of their numbers was computed. All
of them are ours: the abstract states neither a measure nor a size. `late` runs hold every modality trained alone;
*probe* is the linear probe of `prsa.metrics`; values of a curve are those of the last epoch unless stated.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import xarray as xr

from ..data.simulate import is_dial
from .intervals import CORRELATION, POINTS, UNBOUNDED, complete, difference, summarise
from .robustness import CLEAN, MISSING, conditions, strongest
from .scores import ALONE, BASELINE, FULL, Runs, branches, by_run, defaults, roles
from .text import DECIMALS, frame

VERDICTS = ("supported", "not supported", "reversed")
ALL = "all"  # in the place of a scene: over scenes, settings of the dial and seeds
UNITS = {  # unit of a measure -> smallest effect that matters, bounds of a difference
    "points": (0.5, POINTS),
    "0 to 1": (0.01, CORRELATION),
    "nats": (0.01, UNBOUNDED),
    "log2": (0.1, UNBOUNDED),
    "cosine": (0.05, (-2.0, 2.0)),
    "rank correlation": (0.1, CORRELATION),
}
SMALLEST = {unit: size for unit, (size, _) in UNITS.items()}
RULE = (
    "Every claim is turned into an effect that is positive where the claim holds, one value per scene and seed, "
    "paired by both. **supported**: the lower end of the 95 % interval is above 0 and the effect is at least the "
    f"smallest one that matters ({'; '.join(f'{unit}: {size:g}' for unit, size in SMALLEST.items())}). **reversed**: "
    "the upper end is below 0, however little. **not supported**: everything else, also when there is no interval. "
    "Effect and interval are rounded as in the written table first. Rows are not corrected for their number."
)
STARVED = "joint training holds branches back"
FACTOR = "the imbalance factor finds the branch held back"
PROTOTYPE = "the prototype loss helps branches"
DIRECTION = "the prototype loss points where the branch alone would go"
BALANCE = "rebalancing evens out the branches"
CATEGORIES = "SAGF ties fused features to categories"
AGREEMENT = "branches come to agree"
ACCURACY = "PRSANet is more accurate"
PUSH = "the push by the imbalance factor matters"
DEGRADED = "balance helps when the dominant sensor is degraded"
CLAIMS = {  # claim -> effect, and what to mind; in the order of the ledger
    STARVED: "Probe OA of the branch trained alone (late) minus inside concat, every modality. The abstract needs "
    "one such modality per scene.",
    FACTOR: "Inside concat: probe gap (alone minus joint) of the modality with the lowest imbalance factor minus "
    "the mean gap of the others; and Spearman's correlation of the falling factor with the gap of the same epoch on "
    "validation pixels (shadow heads), over epochs and modalities. Scene all: the same correlation over scenes, "
    "settings of the dial and modalities at the end, a value per seed. 0 where the factor knows nothing of the gap.",
    PROTOTYPE: "Probe OA of the branch inside concat+prm, and inside prsanet, minus inside concat, every modality, "
    "so that none is chosen by its result; slow marks the lowest mean imbalance factor in concat.",
    DIRECTION: "Cosine, on the features of a branch, with the gradient that it would get if it were trained alone from "
    "where it is (shadow heads), mean over epochs: of the prototype loss minus of the fused loss inside concat; of all "
    "losses inside concat+prm minus inside concat. Prototypes and shadow heads both classify one branch, so that some "
    "agreement is by construction.",
    BALANCE: "Mean over modalities of |log2 imbalance factor| in concat minus in concat+prm: 0 is balance, 1 a "
    "factor of 2 or 1/2. The loss trains what the factor is made of: this says that it works, not that it is good "
    "for anything.",
    CATEGORIES: "Linear CKA and eta squared of the fused features with the categories, sagf minus concat.",
    AGREEMENT: "Fall of the Jensen-Shannon divergence between the branches from the first to the last epoch of sagf "
    "(any training may do that), and its last value without minus with a part. Posteriors are those of the anchors "
    "with SAGF and of the prototypes without it, so only methods with the same kind are compared, never concat with "
    "sagf.",
    ACCURACY: "Test OA of prsanet minus that of concat, late, pmr, concat+prm and sagf.",
    PUSH: "Test OA of prsanet minus the same without the push that follows the imbalance factor (prsanet-no-push).",
    DEGRADED: "Test OA of prsanet minus that of concat with the dominant sensor degraded at the strongest setting, or "
    "missing; no retraining.",
}


def unit(measure: str) -> str:
    """Unit of a measure, the text in its last brackets: a key of `UNITS`."""
    return measure.rsplit("(", 1)[1].rstrip(")")


def verdict(effect: float, lo: float, hi: float, smallest: float = 0.0) -> str:
    """One of `VERDICTS` by `RULE`; ``smallest``: effect that matters. Without an interval (NaN) none is supported."""
    if lo > 0 and effect >= smallest:
        return "supported"
    return "reversed" if hi < 0 else "not supported"


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; NaN when a side does not vary."""
    return pd.Series(a.ravel()).rank().corr(pd.Series(b.ravel()).rank()) if np.ptp(a) and np.ptp(b) else np.nan


def _follows(alone: xr.Dataset, joint: xr.Dataset) -> float:
    """Correlation of the falling factor with the validation gap of the epoch, over epochs and modalities; or NaN."""
    gap = (alone["probe_accuracy"] - joint["probe_accuracy"]).sel(watched="val").values
    return _rank(-joint["rho"].values, gap) if np.isfinite(gap).all() else np.nan


def _effects(table: pd.DataFrame, inside: pd.DataFrame, degraded: pd.DataFrame) -> Iterator[tuple[str, str, dict]]:
    """Claim, measure and effect by (scene, seed), from one group's rows of `scores`, `branches` and `conditions`.

    No values where a method is absent.
    """

    def of(method: str, value: Callable[[xr.Dataset], float]) -> dict[tuple, float]:
        return {key: float(value(run)) for key, run in by_run(table[table["method"].eq(method)], "run").items()}

    def less(a: str, b: str, value: Callable[[xr.Dataset], float]) -> dict[tuple, float]:
        return difference(of(a, value), of(b, value))

    def branch(method: str, modality: str, column: str) -> dict[tuple, float]:
        return by_run(inside[inside["method"].eq(method) & inside["modality"].eq(modality)], column)

    def turning(source: str, modality: str) -> Callable[[xr.Dataset], float]:
        return lambda run: run["direction"].sel(source=source, modality=modality).mean()

    def oa(method: str, part: pd.DataFrame = table) -> dict[tuple, float]:
        return by_run(part[part["method"].eq(method)])

    concat = inside[inside["method"].eq(BASELINE)]
    role = roles(concat) if len(concat) else {}
    label = {m: f"{m} ({role[m]})" if m in role else m for m in table["modalities"].iloc[0]}
    for m, name in label.items():
        yield STARVED, f"probe OA of {name}: alone - in concat (points)", branch(BASELINE, m, "gap")
    lowest = {}
    for key, part in concat.groupby(["scene", "seed"], sort=False):
        slow = part["rho"].idxmin()
        lowest[key] = part["gap"][slow] - part["gap"].drop(slow).mean()
    yield FACTOR, "probe gap in concat: lowest factor - others (points)", lowest
    alone, joint = (by_run(table[table["method"].eq(method)], "run") for method in (ALONE, BASELINE))
    follows = {key: _follows(alone[key], run) for key, run in joint.items() if key in alone}
    yield FACTOR, "factor falls with the gap over epochs (rank correlation)", follows
    for method in ("concat+prm", FULL):
        for m, name in label.items():
            gain = difference(branch(method, m, "probe_oa"), branch(BASELINE, m, "probe_oa"))
            yield PROTOTYPE, f"probe OA of {name}: {method} - concat (points)", gain
    for m, name in label.items():
        toward = difference(of(BASELINE, turning("prototype", m)), of(BASELINE, turning("fused", m)))
        yield DIRECTION, f"direction of {name} in concat: prototype - fused loss (cosine)", toward
    for m, name in label.items():
        gain = less("concat+prm", BASELINE, turning("total", m))
        yield DIRECTION, f"direction of {name}: concat+prm - concat (cosine)", gain
    distance = less(BASELINE, "concat+prm", lambda run: np.abs(np.log2(run["rho"].values[-1])).mean())
    yield BALANCE, "distance from balance: concat - concat+prm (log2)", distance
    yield CATEGORIES, "linear CKA: sagf - concat (0 to 1)", less("sagf", BASELINE, lambda run: run["cka"])
    yield CATEGORIES, "eta squared: sagf - concat (0 to 1)", less("sagf", BASELINE, lambda run: run["eta2"])
    yield AGREEMENT, "JS in sagf: first - last epoch (nats)", of("sagf", lambda run: run["js"][0] - run["js"][-1])
    for without, method in ((BASELINE, "concat+prm"), ("prsanet-no-alignment", FULL)):
        yield AGREEMENT, f"JS at the end: {without} - {method} (nats)", less(without, method, lambda run: run["js"][-1])
    for other in (BASELINE, ALONE, "pmr", "concat+prm", "sagf", "prsanet-no-push"):
        claim = PUSH if other == "prsanet-no-push" else ACCURACY
        yield claim, f"OA: prsanet - {other} (points)", difference(oa(FULL), oa(other))
    dominant = degraded["modality"][~degraded["degradation"].isin([CLEAN, MISSING])].iloc[:1]
    steps = strongest(degraded[degraded["modality"].isin(dominant)])
    for (what, strength), part in steps.groupby(["degradation", "strength"], sort=False):
        name = what if what == MISSING else f"{what} {strength:g}"
        gain = difference(oa(FULL, part), oa(BASELINE, part))
        yield DEGRADED, f"OA, dominant sensor {name}: prsanet - concat (points)", gain


def _everywhere(inside: pd.DataFrame) -> dict[tuple, float]:
    """Per seed that all scenes have, the correlation of the falling factor with the probe gap over all of `branches`.

    Scenes with both concat and late, those of the dial as well; empty for fewer than two.
    """
    both = inside[inside["method"].eq(BASELINE) & inside["gap"].notna()]
    scenes = both["scene"].nunique()
    seeds = {seed: part for seed, part in both.groupby("seed") if part["scene"].nunique() == scenes > 1}
    return {(ALL, seed): _rank(-part["rho"].to_numpy(), part["gap"].to_numpy()) for seed, part in seeds.items()}


def ledger(runs: Runs) -> pd.DataFrame:
    """The abstract's claims on our reconstruction, each as an effect that is positive where the claim holds.

    One row per claim in the order of `CLAIMS`, group of scenes (or `ALL`) and measure; ``effect``, ``lo`` and ``hi`` in
    the unit that ``measure`` ends with, rounded; ``n``: pairs of scene and seed. A claim whose runs are absent has no
    row. Scenes of the dial count for the row `ALL` only. Runs without branches or of one modality are left out.
    """
    table = defaults(runs, ablations=True)
    table = table[table["joint"] | (table["method"].eq(ALONE) & table["modalities"].map(len).gt(1))]
    inside, degraded = branches(table), conditions(table)
    found: dict[str, list] = {claim: [] for claim in CLAIMS}

    def add(claim: str, scene: str, measure: str, values: dict[tuple, float]) -> None:
        if values := complete(values):
            smallest, bounds = UNITS[unit(measure)]
            numbers = [round(v, DECIMALS) + 0.0 for v in summarise(values, bounds).numbers]  # + 0.0: no negative zero
            found[claim].append((claim, scene, measure, *numbers, len(values), verdict(*numbers, smallest)))

    for group, here in table.loc[[not is_dial(scene) for scene in table["scene"]]].groupby("group", sort=False):
        parts = (part[part["scene"].isin(here["scene"])] for part in (inside, degraded))
        for claim, measure, values in _effects(here, *parts):
            add(claim, group, measure, values)
    add(FACTOR, ALL, "factor falls with the gap over scenes and dial (rank correlation)", _everywhere(inside))
    return frame("claims", [row for rows in found.values() for row in rows])


def matrix(table: pd.DataFrame) -> pd.DataFrame:
    """The ledger with a column ``row`` that is alike for all groups: a modality is named by its role alone."""
    rows = table["measure"].str.replace(r"\S+ \((slow|middle|fast)\)", r"the \1 branch", regex=True)
    return table.assign(row=rows)


def notes(table: pd.DataFrame) -> list[str]:
    """What stands beside a ledger: the rule, what chance would give (5 % of the intervals), how claims are measured."""
    chance = f"{len(table)} rows; without any effect, about {0.05 * table['lo'].count():.1f} intervals would exclude 0."
    return [RULE, chance, "\n".join(f"* {claim}: {CLAIMS[claim]}" for claim in dict.fromkeys(table["claim"]))]
