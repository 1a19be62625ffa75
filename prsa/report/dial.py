"""The imbalance dial: accuracy, probe gaps and imbalance factors while a simulated scene goes from balanced (0) to
strongly imbalanced (1).

What the dial turns is said in `prsa.data.simulate`. A kind at two settings is the same landscape, and its runs start
from the same random numbers. There is one landscape per kind, so intervals over seeds speak of training on it, not of
other scenes. All measures are ours.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from .. import metrics
from ..data.scene import modalities
from ..data.simulate import CONFIGS, EMBEDDED, is_dial, parse_name
from ..data.splits import TRAIN
from .diagnostics import area_drift
from .intervals import CORRELATION, POINTS, summarise
from .scores import BASELINE, branches, by_run, defaults, lead
from .text import frame

Runs = Iterable[xr.Dataset] | pd.DataFrame


def setting(scene: str) -> tuple[str, float] | None:
    """Kind and dial of a scene by its name; None for scenes that are no part of the dial: not simulated, or another
    seed than 0.
    """
    if scene.partition(":")[0] not in EMBEDDED:
        return None
    kind, seed, dial = parse_name(scene)
    return None if seed else (kind, CONFIGS[kind].dial if dial is None else dial)


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `scores` without those seeds of the dial that lack a method at some setting: tables are written while a
    study still runs.
    """
    at = pd.DataFrame([setting(scene) or ("", np.nan) for scene in table["scene"]], table.index, ["kind", "dial"])
    at = at.assign(method=table["method"], seed=table["seed"], turned=[is_dial(scene) for scene in table["scene"]])
    turned = at[at["turned"] & at["kind"].ne("")]
    pairs = turned.groupby("kind")[["dial", "method"]].nunique().prod(axis=1)
    whole = turned.groupby(["kind", "seed"]).size()
    whole = whole.index[whole.eq(whole.index.get_level_values("kind").map(pairs))]
    keys = pd.MultiIndex.from_frame(at[["kind", "seed"]])
    return table[~at["turned"] | at["kind"].eq("") | keys.isin(whole)]


def _turned(table: pd.DataFrame) -> pd.DataFrame:
    """The `finished` rows of scenes of the dial with columns kind and dial, by both; of a kind's own setting those that
    the others have, too.
    """
    table = finished(table)
    table = table.loc[[setting(scene) is not None for scene in table["scene"]]]
    kinds, dials = ([setting(scene)[i] for scene in table["scene"]] for i in (0, 1))
    table = table.assign(kind=kinds, dial=dials, place=[EMBEDDED.index(kind) for kind in kinds])
    keys = pd.Series(list(zip(table["kind"], table["method"], table["seed"])), table.index, dtype=object)
    table = table[keys.isin(keys[[is_dial(scene) for scene in table["scene"]]])]
    return table.sort_values(["place", "dial"], kind="stable", ignore_index=True)


def dial(runs: Runs) -> pd.DataFrame:
    """Simulated scenes with the imbalance dial at several settings (0 balanced, 1 strong), one landscape per kind. OA
    in points, mean ± sd over seeds; difference in OA to concat, paired by seed; imbalance factor at the last epoch;
    probe gap: OA of a linear probe on the branch trained alone minus inside the method. A method without branches
    inside has no modality.

    A kind's own name counts as its default setting, where other settings were trained as well. Raises `PrsaError` when
    a seed of a method has no run of concat or of late.
    """
    table, rows = _turned(defaults(runs, ablations=True)), []
    inside = branches(table)
    for (kind, at, method), part in table[table["family"].ne("single")].groupby(["kind", "dial", "method"], sort=False):
        about = kind, at, method, len(part), *metrics.mean_sd(part["oa"]), *lead(part, table, BASELINE).numbers
        own = inside[inside["method"].eq(method) & inside["scene"].eq(part["scene"].iloc[0])]
        for m, branch in own.groupby("modality", sort=False):
            rows.append((*about, m, branch["rho"].mean(), *summarise(by_run(branch, "gap"), POINTS).numbers))
        if own.empty:
            rows.append((*about, "", np.nan, np.nan, np.nan, np.nan))
    return frame("dial", rows)


def trend(runs: Runs) -> pd.DataFrame:
    """Spearman's rank correlation of the dial's setting with fused OA, with its lead over concat, with the distance of
    the imbalance factor from balance (|log2|) and with the probe gap: mean over seeds, each of which has one
    correlation over the settings.

    No interval over two settings, where a correlation is only a sign on which seeds agree by chance; no rows for a kind
    with one setting or a measure that could not be taken. Raises `PrsaError` as `dial`, and when a method has other
    seeds at some setting.
    """
    table, rows = _turned(defaults(runs, ablations=True)), []
    inside = _turned(branches(table))
    fused = table[table["family"].ne("single")].assign(modality="")
    base = by_run(fused[fused["method"].eq(BASELINE)])
    ahead = fused["oa"] - [base.get(key, np.nan) for key in zip(fused["scene"], fused["seed"])]
    measures = [
        fused.assign(measure="fused OA", value=fused["oa"]),
        fused.assign(measure="lead over concat", value=ahead)[fused["method"].ne(BASELINE)],
        inside.assign(measure="distance from balance", value=np.abs(np.log2(inside["rho"].astype(float)))),
        inside.assign(measure="probe gap", value=inside["gap"]),
    ]
    for (kind, method), here in pd.concat(measures).groupby(["kind", "method"], sort=False):
        for (measure, modality), part in here.groupby(["measure", "modality"], sort=False):
            found = part.pivot(index="seed", columns="dial", values="value")  # (seed, setting)
            if found.shape[1] < 2 or found.isna().any(axis=None):
                continue
            mean, *bounds = summarise(
                {(kind, seed): _correlation(found.columns, row) for seed, row in found.iterrows()}, CORRELATION
            ).numbers
            bounds = bounds if found.shape[1] > 2 else (np.nan, np.nan)
            rows.append((kind, method, measure, modality, *found.shape[::-1], mean, *bounds))
    return frame("trend", rows)


def _correlation(dials, values) -> float:
    """Spearman's rank correlation; 0 for values that do not change."""
    return float(stats.spearmanr(dials, values).statistic) if np.ptp(values) > 0 else 0.0


def sensors(scenes: dict[float, tuple[xr.Dataset, xr.DataArray]]) -> pd.DataFrame:
    """What the dial does to the data of one kind: setting -> (scene, split) in, a row per setting and modality out.

    Columns dial, modality; ``separability``: share of the variance of single training pixels that lies between the
    classes, bands standardised (0 to 1); ``drift``: median over classes of `prsa.report.diagnostics.area_drift`, in
    units of a class's own spread.
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
