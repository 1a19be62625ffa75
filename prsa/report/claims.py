"""What the paper's abstract claims, tested on our reconstruction from finished run files: one row per claim and group of scenes (no torch, no training).

The verdicts, the smallest effects that matter and the first eight claims were written before the ledger was computed for the first time, but after
tables of accuracy and imbalance had been seen. Claims on update direction and degraded sensors, the rank correlations and the groups of scenes
(`prsa.report.groups`) with their bootstrap were added later, before any of their numbers was computed. All of them are ours: the abstract states neither a
measure nor a size. `late` runs hold every modality trained alone; *probe* is the linear probe of `prsa.metrics`; values of a curve are those of
the last epoch unless stated.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from .. import metrics
from ..data.simulate import group_of, is_dial
from ..errors import PrsaError
from . import groups, robustness, tables

COLUMNS = ("claim", "scene", "measure", "effect", "lo", "hi", "n", "verdict")
VERDICTS = ("supported", "not supported", "reversed")
ALL = "all"  # in the place of a scene: over scenes and seeds
SMALLEST = {
    "points": 0.5,
    "0 to 1": 0.01,
    "nats": 0.01,
    "log2": 0.1,
    "cosine": 0.05,
    "rank correlation": 0.1,
}  # unit of a measure -> smallest effect that matters

RULE = (
    "Every claim is turned into an effect that is positive where the claim holds, one value per scene and seed, paired by both. The 95 % interval of "
    "a group of scenes is a bootstrap over its scenes, then seeds, which is optimistic with as few as three scenes; of a single scene it is "
    "Student's t over seeds. "
    "**supported**: the lower end is above 0 and the effect is at least the smallest one that matters "
    f"({'; '.join(f'{unit}: {size:g}' for unit, size in SMALLEST.items())}). "
    "**reversed**: the upper end is below 0, however little. "
    "**not supported**: everything else, also when there are fewer than two pairs and so no interval. "
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
    STARVED: "Probe OA of the branch trained alone (late) minus inside concat, every modality. The abstract needs one such modality per scene.",
    FACTOR: "Inside concat: probe gap (alone minus joint) of the modality with the lowest imbalance factor minus the mean gap of the others; and "
    "Spearman's correlation of the falling factor with the gap of the same epoch on validation pixels (shadow heads), over epochs and "
    "modalities. Scene `all`: the same correlation over scenes, settings of the dial and modalities at the end, a value per seed. 0 where the factor "
    "knows nothing of the gap.",
    PROTOTYPE: "Probe OA of the branch inside concat+prm, and inside prsanet, minus inside concat, every modality, so that none is chosen by its result; "
    "`slow` marks the lowest mean imbalance factor in concat, the one that the abstract speaks of.",
    DIRECTION: "Cosine, on the features of a branch, with the gradient that it would get if it were trained alone from where it is (shadow heads), mean "
    "over epochs: of the prototype loss minus of the fused loss inside concat; of all losses inside concat+prm minus inside concat. Prototypes and "
    "shadow heads both classify one branch, so that some agreement is by construction.",
    BALANCE: "Mean over modalities of |log2 imbalance factor| in concat minus in concat+prm: 0 is balance, 1 a factor of 2 or 1/2. "
    "The loss trains what the factor is made of, so this says that it works, not that it is good for anything.",
    CATEGORIES: "Linear CKA and eta squared of the fused features with the categories, sagf minus concat.",
    AGREEMENT: "Fall of the Jensen-Shannon divergence between the branches from the first to the last epoch of sagf (any training may do that), and "
    "its last value without minus with a part. Posteriors are those of the anchors with SAGF and of the prototypes without it, so only "
    "methods with the same kind are compared, never concat with sagf.",
    ACCURACY: "Test OA of prsanet minus that of concat, late, pmr, concat+prm and sagf.",
    PUSH: "Test OA of prsanet minus the same without the push that follows the imbalance factor (prsanet-no-push).",
    DEGRADED: "Test OA of prsanet minus that of concat with the dominant sensor degraded at the strongest setting, or missing; no retraining.",
}


def unit(measure: str) -> str:
    """Unit of a measure, the text in its last brackets: a key of `SMALLEST`."""
    return measure.rsplit("(", 1)[1].rstrip(")")


def verdict(effect: float, lo: float, hi: float, n: int, smallest: float = 0.0) -> str:
    """One of `VERDICTS`, see `RULE`; ``n`` paired seeds, ``smallest`` relevant effect, all in one unit. NaN supports nothing."""
    if n >= 2 and lo > 0 and effect >= smallest:
        return "supported"
    return "reversed" if n >= 2 and hi < 0 else "not supported"


def by_chance(table: pd.DataFrame) -> float:
    """How many rows of a ledger would have an interval without 0 if there were no effect at all: 5 % of the rows with an interval."""
    return 0.05 * int(table["lo"].notna().sum())


def _probe(run: xr.Dataset, modality: str) -> float:
    return float(metrics.points(metrics.oa(run["probe_confusion"].sel(modality=modality).values)))


def _oa(run: xr.Dataset) -> float:
    return float(metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="test").values)))


def _rho(run: xr.Dataset, modality: str) -> float:
    return float(run["rho"].sel(modality=modality).isel(epoch=-1))


def _js(run: xr.Dataset, epoch: int = -1) -> float:
    return float(run["js"].isel(epoch=epoch))


def _imbalance(run: xr.Dataset) -> float:
    """Mean distance of the modalities from balance, in doublings."""
    return float(np.abs(np.log2(run["rho"].isel(epoch=-1).values)).mean())


def _extra_gap(alone: xr.Dataset, joint: xr.Dataset) -> float:
    """Probe gap of the modality with the lowest imbalance factor minus the mean gap of the others, points."""
    gap = {m: _probe(alone, m) - _probe(joint, m) for m in joint["modality"].values.tolist()}
    slow = gap.pop(min(gap, key=lambda m: _rho(joint, m)))
    return slow - float(np.mean(list(gap.values())))


def _rank(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; NaN when a side does not vary."""
    return float(stats.spearmanr(a.ravel(), b.ravel()).statistic) if np.ptp(a) and np.ptp(b) else np.nan


def _follows(alone: xr.Dataset, joint: xr.Dataset) -> float:
    """Correlation of the falling factor with the validation gap of the same epoch, over epochs and modalities; NaN without validation pixels."""
    gap = (alone["probe_accuracy"] - joint["probe_accuracy"]).sel(watched="val").values
    return _rank(-joint["rho"].values, gap) if np.isfinite(gap).all() else np.nan


def _direction(run: xr.Dataset, source: str, modality: str) -> float:
    """Cosine of a gradient with that of the branch alone, mean over epochs."""
    return float(run["direction"].sel(source=source, modality=modality).mean())


def _degraded(run: xr.Dataset, condition: str) -> float:
    return float(metrics.points(metrics.oa(run["degraded_confusion"].sel(condition=condition).values)))


def _strongest(run: xr.Dataset) -> dict[str, str]:
    """What is done to the dominant sensor at its strongest, e.g. "noise 2", and the name of that condition in the run file; and "missing"."""
    names, found = run["modality"].values.tolist(), {}
    conditions = {name: robustness.parse(name, names) for name in run["condition"].values.tolist()}
    dominant = next(
        (m for m, what, _ in conditions.values() if what not in (robustness.CLEAN, robustness.MISSING)), None
    )
    for name, (m, what, strength) in conditions.items():
        if m == dominant and strength >= found.get(what, ("", 0.0))[1]:
            found[what] = name, strength
    return {name.removeprefix(f"{dominant} "): name for name, _ in found.values()}


def _effects(of: dict[str, dict[tuple, xr.Dataset]]) -> Iterator[tuple[str, str, dict[tuple, float]]]:
    """Claim, measure and effect per (scene, seed), from the runs of one group: method -> (scene, seed) -> run. No pairs: a method is absent."""

    def paired(a: str, b: str, effect) -> dict[tuple, float]:
        first, second = of.get(a, {}), of.get(b, {})
        return {key: effect(first[key], second[key]) for key in sorted(first.keys() & second.keys())}

    def less(value, *where):
        return lambda a, b: value(a, *where) - value(b, *where)

    concat = of.get("concat", {})
    first = next(iter(next(iter(of.values())).values()))
    names = first["modality"].values.tolist()
    role = groups.roles(list(concat.values())) if concat else {}
    label = {m: f"{m} ({role[m]})" if m in role else m for m in names}
    for m in names:
        yield STARVED, f"probe OA of {label[m]}: alone - in concat (points)", paired("late", "concat", less(_probe, m))
    yield FACTOR, "probe gap in concat: lowest factor - others (points)", paired("late", "concat", _extra_gap)
    yield FACTOR, "factor falls with the gap over epochs (rank correlation)", paired("late", "concat", _follows)
    for method in ("concat+prm", "prsanet"):
        for m in names:
            yield (
                PROTOTYPE,
                f"probe OA of {label[m]}: {method} - concat (points)",
                paired(method, "concat", less(_probe, m)),
            )
    for m in names:
        toward = {key: _direction(run, "prototype", m) - _direction(run, "fused", m) for key, run in concat.items()}
        yield DIRECTION, f"direction of {label[m]} in concat: prototype - fused loss (cosine)", toward
    for m in names:
        yield (
            DIRECTION,
            f"direction of {label[m]}: concat+prm - concat (cosine)",
            paired("concat+prm", "concat", less(_direction, "total", m)),
        )
    yield BALANCE, "distance from balance: concat - concat+prm (log2)", paired("concat", "concat+prm", less(_imbalance))
    for key, text in (("cka", "linear CKA"), ("eta2", "eta squared")):
        yield CATEGORIES, f"{text}: sagf - concat (0 to 1)", paired("sagf", "concat", less(lambda run: float(run[key])))
    yield (
        AGREEMENT,
        "JS in sagf: first - last epoch (nats)",
        {key: _js(run, 0) - _js(run) for key, run in of.get("sagf", {}).items()},
    )
    for without, method in (("concat", "concat+prm"), ("prsanet-no-alignment", "prsanet")):
        yield AGREEMENT, f"JS at the end: {without} - {method} (nats)", paired(without, method, less(_js))
    for other in ("concat", "late", "pmr", "concat+prm", "sagf"):
        yield ACCURACY, f"OA: prsanet - {other} (points)", paired("prsanet", other, less(_oa))
    yield PUSH, "OA: prsanet - prsanet-no-push (points)", paired("prsanet", "prsanet-no-push", less(_oa))
    for what, condition in _strongest(first).items():
        yield (
            DEGRADED,
            f"OA, dominant sensor {what}: prsanet - concat (points)",
            paired("prsanet", "concat", less(_degraded, condition)),
        )


def _row(claim: str, scene: str, measure: str, values: dict[tuple, float]) -> tuple:
    rounded = [round(float(v), tables.DECIMALS) + 0.0 for v in groups.interval(values)[:3]]  # + 0.0: no negative zero
    return claim, scene, measure, *rounded, len(values), verdict(*rounded, len(values), SMALLEST[unit(measure)])


def _everywhere(of: dict[tuple, dict[str, xr.Dataset]]) -> dict[tuple, float]:
    """Per seed, the correlation of the falling factor with the probe gap at the end over scenes, dial settings and modalities.

    ``of``: (scene, seed) -> method -> run. Scenes with both concat and late; the seeds that all of these have. Empty for fewer than two scenes.
    """
    both = {key: runs for key, runs in of.items() if {"concat", "late"} <= runs.keys()}
    scenes = {scene: {seed for name, seed in both if name == scene} for scene, _ in both}
    if len(scenes) < 2:
        return {}
    factor, gap, values = {}, {}, {}
    for (scene, seed), runs in both.items():
        names = runs["concat"]["modality"].values.tolist()
        factor.setdefault(seed, []).extend(-_rho(runs["concat"], m) for m in names)
        gap.setdefault(seed, []).extend(_probe(runs["late"], m) - _probe(runs["concat"], m) for m in names)
    for seed in sorted(set.intersection(*scenes.values())):
        values[ALL, seed] = _rank(np.array(factor[seed]), np.array(gap[seed]))
    return values


def _tested(runs: Iterable[xr.Dataset]) -> list[xr.Dataset]:
    """Runs with several branches to look into, without overrides."""
    return [
        run for run in runs if int(run.attrs["probed"]) and not run.attrs.get("variant") and run.sizes["modality"] > 1
    ]


def ledger(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """The ledger (`COLUMNS`), by claim in the order of `CLAIMS`, then group of scenes in order of first appearance, then measure.

    ``scene`` is a group of `prsa.report.groups` or `ALL`; ``effect``, ``lo`` and ``hi`` are in the unit named last in ``measure``, rounded to
    `prsa.report.tables.DECIMALS`; ``n``: pairs of scene and seed that both sides have. A claim whose runs are absent has no row. Scenes of the dial count
    for the row `ALL` only. Ignores runs with overrides, with `probed` 0 and of one modality. Raises `PrsaError` when no concat is left, and for a run
    given twice.
    """
    table = tables.scores(_tested(runs))
    table = table[
        table["method"].eq([run.attrs["method"] for run in table["run"]])
    ]  # without the single nets of a late run
    if not table["method"].eq("concat").any():
        have = ", ".join(dict.fromkeys(table["method"])) or "none"
        raise PrsaError(
            f"expected runs of concat, with which most claims are tested, got {have}. Train them: make reproduce, or notebook 03_train."
        )
    found: dict[str, list] = {claim: [] for claim in CLAIMS}
    for name, here in table[~table["scene"].map(is_dial)].groupby(table["scene"].map(group_of), sort=False):
        of = {
            method: dict(zip(zip(part["scene"], part["seed"]), part["run"]))
            for method, part in here.groupby("method", sort=False)
        }
        for claim, measure, values in _effects(of):
            values = groups.complete(values)
            if values:
                found[claim].append(_row(claim, name, measure, values))
    by_run = {key: dict(zip(part["method"], part["run"])) for key, part in table.groupby(["scene", "seed"], sort=False)}
    everywhere = groups.complete(_everywhere(by_run))
    if everywhere:
        found[FACTOR].append(
            _row(FACTOR, ALL, "factor falls with the gap over scenes and dial (rank correlation)", everywhere)
        )
    return pd.DataFrame([row for claim_rows in found.values() for row in claim_rows], columns=list(COLUMNS))


def matrix(table: pd.DataFrame) -> pd.DataFrame:
    """The ledger with a column ``row`` that is alike for all groups: the modality is named by its role (slow, middle, fast) alone."""
    return table.assign(
        row=[re.sub(r"\S+ \((slow|middle|fast)\)", r"the \1 branch", measure) for measure in table["measure"]]
    )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """How many rows of a ledger have each verdict: claim, rows and `VERDICTS`, a row per claim that has any."""
    counts = [
        (claim, len(part), *(int(part["verdict"].eq(v).sum()) for v in VERDICTS))
        for claim, part in table.groupby("claim", sort=False)
    ]
    return pd.DataFrame(counts, columns=["claim", "rows", *VERDICTS])


def write(runs: Iterable[xr.Dataset], folder) -> list[Path]:
    """Write the ledger as claims.csv and claims.md into a folder and return both paths. Raises `PrsaError` as `ledger`, with nothing written."""
    runs = _tested(runs)
    table = ledger(runs)
    simulated = dict.fromkeys(run.attrs["scene"] for run in runs if int(run.attrs["simulated"]))
    note = (
        f"The abstract's claims on our reconstruction. {RULE} {len(table)} rows; if nothing had any effect, about {by_chance(table):.1f} "
        f"intervals would still exclude 0, half of them on either side. Simulated scenes: {', '.join(simulated) or 'none'}."
    )
    effects = "".join(f"* {claim}: {CLAIMS[claim]}\n" for claim in dict.fromkeys(table["claim"]))
    return [
        tables.write_text(tables.csv_text(table), Path(folder) / "claims.csv"),
        tables.write_text(
            f"{note}\n\n{effects}\n{tables.markdown(tables.readable(table))}", Path(folder) / "claims.md"
        ),
    ]
