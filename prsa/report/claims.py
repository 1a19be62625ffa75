"""What the paper's abstract claims, tested on our reconstruction: one row per claim and group of scenes.

The rule, the smallest effects that matter and the first eight claims were written before the ledger was computed for
the first time, but after tables of accuracy and imbalance had been seen. Claims on update direction and degraded
sensors, the rank correlations and the groups of scenes were added later, before any of their numbers was computed. All
of them are ours: the abstract states neither a measure nor a size. `late` runs hold every modality trained alone;
*probe* is the linear probe of `prsa.metrics`; values of a curve are those of the last epoch unless stated.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from ..data.simulate import is_dial
from .intervals import CORRELATION, POINTS, UNBOUNDED, complete, difference, summarise
from .robustness import CLEAN, MISSING, conditions, strongest
from .scores import ALONE, BASELINE, FULL, branches, by_run, defaults, roles
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
    "validation pixels (shadow heads), over epochs and modalities. Scene `all`: the same correlation over scenes, "
    "settings of the dial and modalities at the end, a value per seed. 0 where the factor knows nothing of the gap.",
    PROTOTYPE: "Probe OA of the branch inside concat+prm, and inside prsanet, minus inside concat, every modality, "
    "so that none is chosen by its result; `slow` marks the lowest mean imbalance factor in concat, the one that "
    "the abstract speaks of.",
    DIRECTION: "Cosine, on the features of a branch, with the gradient that it would get if it were trained alone "
    "from where it is (shadow heads), mean over epochs: of the prototype loss minus of the fused loss inside "
    "concat; of all losses inside concat+prm minus inside concat. Prototypes and shadow heads both classify one "
    "branch, so that some agreement is by construction.",
    BALANCE: "Mean over modalities of |log2 imbalance factor| in concat minus in concat+prm: 0 is balance, 1 a "
    "factor of 2 or 1/2. The loss trains what the factor is made of, so this says that it works, not that it is "
    "good for anything.",
    CATEGORIES: "Linear CKA and eta squared of the fused features with the categories, sagf minus concat.",
    AGREEMENT: "Fall of the Jensen-Shannon divergence between the branches from the first to the last epoch of sagf "
    "(any training may do that), and its last value without minus with a part. Posteriors are those of the anchors "
    "with SAGF and of the prototypes without it, so only methods with the same kind are compared, never concat with "
    "sagf.",
    ACCURACY: "Test OA of prsanet minus that of concat, late, pmr, concat+prm and sagf.",
    PUSH: "Test OA of prsanet minus the same without the push that follows the imbalance factor (prsanet-no-push).",
    DEGRADED: "Test OA of prsanet minus that of concat with the dominant sensor degraded at the strongest setting, "
    "or missing; no retraining.",
}


def unit(measure: str) -> str:
    """Unit of a measure, the text in its last brackets: a key of `UNITS`."""
    return measure.rsplit("(", 1)[1].rstrip(")")


def verdict(effect: float, lo: float, hi: float, smallest: float = 0.0) -> str:
    """One of `VERDICTS`, see `RULE`; ``smallest``: effect that matters, all in one unit. Without an interval (NaN)
    nothing is supported.
    """
    if lo > 0 and effect >= smallest:
        return "supported"
    return "reversed" if hi < 0 else "not supported"


def by_chance(table: pd.DataFrame) -> float:
    """How many rows of a ledger would have an interval without 0 if there were no effect at all: 5 % of the rows with
    an interval.
    """
    return 0.05 * int(table["lo"].notna().sum())


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; NaN when a side does not vary."""
    return float(stats.spearmanr(a.ravel(), b.ravel()).statistic) if np.ptp(a) and np.ptp(b) else np.nan


def _follows(alone: xr.Dataset, joint: xr.Dataset) -> float:
    """Correlation of the falling factor with the validation gap of the same epoch, over epochs and modalities; NaN
    without validation pixels.
    """
    gap = (alone["probe_accuracy"] - joint["probe_accuracy"]).sel(watched="val").values
    return _rank(-joint["rho"].values, gap) if np.isfinite(gap).all() else np.nan


def _js(run: xr.Dataset, epoch: int = -1) -> float:
    return float(run["js"].isel(epoch=epoch))


def _effects(table: pd.DataFrame, inside: pd.DataFrame, degraded: pd.DataFrame) -> Iterator[tuple[str, str, dict]]:
    """Claim, measure and effect by (scene, seed), from the rows of one group in `scores`, `branches` and `conditions`;
    no values: a method is absent.
    """

    def runs(method: str) -> dict[tuple, xr.Dataset]:
        return by_run(table[table["method"].eq(method)], "run")

    def of(method: str, value: Callable[[xr.Dataset], float]) -> dict[tuple, float]:
        return {key: value(run) for key, run in runs(method).items()}

    def less(a: str, b: str, value: Callable[[xr.Dataset], float]) -> dict[tuple, float]:
        return difference(of(a, value), of(b, value))

    def branch(method: str, modality: str, column: str) -> dict[tuple, float]:
        return by_run(inside[inside["method"].eq(method) & inside["modality"].eq(modality)], column)

    def turning(source: str, modality: str) -> Callable[[xr.Dataset], float]:
        return lambda run: float(run["direction"].sel(source=source, modality=modality).mean())

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
    late = runs(ALONE)
    follows = {key: _follows(late[key], run) for key, run in runs(BASELINE).items() if key in late}
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
    gain = less(BASELINE, "concat+prm", lambda run: float(np.abs(np.log2(run["rho"].values[-1])).mean()))
    yield BALANCE, "distance from balance: concat - concat+prm (log2)", gain
    yield CATEGORIES, "linear CKA: sagf - concat (0 to 1)", less("sagf", BASELINE, lambda run: float(run["cka"]))
    yield CATEGORIES, "eta squared: sagf - concat (0 to 1)", less("sagf", BASELINE, lambda run: float(run["eta2"]))
    yield AGREEMENT, "JS in sagf: first - last epoch (nats)", of("sagf", lambda run: _js(run, 0) - _js(run))
    for without, method in ((BASELINE, "concat+prm"), ("prsanet-no-alignment", FULL)):
        yield AGREEMENT, f"JS at the end: {without} - {method} (nats)", less(without, method, _js)
    oa = {method: by_run(part) for method, part in table.groupby("method")}
    for other in (BASELINE, ALONE, "pmr", "concat+prm", "sagf", "prsanet-no-push"):
        claim = PUSH if other == "prsanet-no-push" else ACCURACY
        yield claim, f"OA: prsanet - {other} (points)", difference(oa.get(FULL, {}), oa.get(other, {}))
    dominant = degraded[~degraded["degradation"].isin([CLEAN, MISSING])]["modality"].iloc[:1]
    steps = strongest(degraded[degraded["modality"].isin(dominant)])
    for (what, strength), part in steps.groupby(["degradation", "strength"], sort=False):
        values = [by_run(part[part["method"].eq(method)]) for method in (FULL, BASELINE)]
        name = what if what == MISSING else f"{what} {strength:g}"
        yield DEGRADED, f"OA, dominant sensor {name}: prsanet - concat (points)", difference(*values)


def _everywhere(inside: pd.DataFrame) -> dict[tuple, float]:
    """Per seed, the correlation of the falling factor with the probe gap at the end over scenes, dial settings and
    modalities.

    Scenes with both concat and late; the seeds that all of these have. Empty for fewer than two scenes.
    """
    both = inside[inside["method"].eq(BASELINE) & inside["gap"].notna()]
    scenes = both["scene"].nunique()
    seeds = {seed: part for seed, part in both.groupby("seed") if part["scene"].nunique() == scenes > 1}
    return {(ALL, seed): _rank(-part["rho"].to_numpy(), part["gap"].to_numpy()) for seed, part in seeds.items()}


def _row(claim: str, scene: str, measure: str, values: dict[tuple, float]) -> tuple:
    smallest, bounds = UNITS[unit(measure)]
    numbers = [round(v, DECIMALS) + 0.0 for v in summarise(values, bounds).numbers]  # + 0.0: no negative zero
    return claim, scene, measure, *numbers, len(values), verdict(*numbers, smallest)


def ledger(runs: Iterable[xr.Dataset] | pd.DataFrame) -> pd.DataFrame:
    """The abstract's claims on our reconstruction.

    One row per claim in the order of `CLAIMS`, then group of scenes (``scene``: its name, or `ALL`), then measure.
    ``effect``, ``lo`` and ``hi`` are in the unit named last in ``measure``, rounded; ``n``: pairs of scene and seed
    that both sides have. A claim whose runs are absent has no row. Scenes of the dial count for the row `ALL` only.
    Ignores runs with overrides, without branches to look into and of one modality.
    """
    table = defaults(runs, ablations=True)
    table = table[table["joint"] | (table["method"].eq(ALONE) & table["modalities"].map(len).gt(1))]
    inside, degraded = branches(table), conditions(table)
    found: dict[str, list] = {claim: [] for claim in CLAIMS}
    for group, here in table[~table["scene"].map(is_dial).astype(bool)].groupby("group", sort=False):
        parts = (part[part["scene"].isin(here["scene"])] for part in (inside, degraded))
        for claim, measure, values in _effects(here, *parts):
            if values := complete(values):
                found[claim].append(_row(claim, group, measure, values))
    if everywhere := complete(_everywhere(inside)):
        measure = "factor falls with the gap over scenes and dial (rank correlation)"
        found[FACTOR].append(_row(FACTOR, ALL, measure, everywhere))
    return frame("claims", [row for rows in found.values() for row in rows])


def matrix(table: pd.DataFrame) -> pd.DataFrame:
    """The ledger with a column ``row`` that is alike for all groups: the modality is named by its role (slow, middle,
    fast) alone.
    """
    rows = table["measure"].str.replace(r"\S+ \((slow|middle|fast)\)", r"the \1 branch", regex=True)
    return table.assign(row=rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """How many rows of a ledger have each verdict: claim, rows and `VERDICTS`, a row per claim that has any."""
    counts = pd.crosstab(table["claim"], table["verdict"]).reindex(index=table["claim"].unique(), columns=VERDICTS)
    counts = counts.fillna(0).astype(int)
    counts.insert(0, "rows", counts.sum(axis=1))
    return counts.rename_axis(columns=None).reset_index()


def notes(table: pd.DataFrame) -> list[str]:
    """What stands beside a written ledger: the rule, how much chance would give, and how each claim is measured."""
    chance = (
        f"{len(table)} rows; if nothing had any effect, about {by_chance(table):.1f} intervals would still exclude 0."
    )
    return [RULE, chance, "\n".join(f"* {claim}: {CLAIMS[claim]}" for claim in dict.fromkeys(table["claim"]))]
