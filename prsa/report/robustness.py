"""Accuracy when a modality is degraded or missing at test time; how: see `prsa.study.degrade`. Source: ours."""

from collections.abc import Iterable

import pandas as pd

from .. import metrics
from ..errors import PrsaError
from ..study.runs import CLEAN, MISSING
from .intervals import difference, summarise
from .scores import BASELINE, Runs, by_run, defaults, lead
from .text import frame


def parse(condition: str, modalities: Iterable[str]) -> tuple[str, str, float]:
    """Modality, degradation and strength of a condition's name: "hsi noise 0.5" -> ("hsi", "noise", 0.5).

    "none" -> ("", "none", 0), "sar missing" -> ("sar", "missing", 1). Raises `PrsaError` for a name of no modality.
    """
    if condition == CLEAN:
        return "", CLEAN, 0.0
    found = [m for m in modalities if condition.startswith(f"{m} ")]
    if not found:
        raise PrsaError(
            f"expected a condition of one of the modalities {', '.join(modalities)}, got {condition!r}. "
            "Delete the run file and train again."
        )
    modality = max(found, key=len)  # one name may begin with another
    what, _, strength = condition[len(modality) + 1 :].rpartition(" ")
    return (modality, what, float(strength)) if what else (modality, MISSING, 1.0)


def conditions(runs: Runs) -> pd.DataFrame:
    """One row per default run with several branches and condition: scene, group, method, seed, the three of `parse`,
    and oa in points.
    """
    rows, table = [], defaults(runs, ablations=True)
    for row in table[table["family"].ne("single")].itertuples():
        if int(row.run.attrs["probed"]) and len(row.modalities) > 1:
            oa = metrics.points(metrics.oa(row.run["degraded_confusion"].values))
            for name, value in zip(row.run["condition"].values, oa, strict=True):
                about = row.scene, row.group, row.method, row.variant, row.seed
                rows.append((*about, *parse(str(name), row.modalities), float(value)))
    return pd.DataFrame(rows, columns="scene group method variant seed modality degradation strength oa".split())


def robustness(runs: Runs) -> pd.DataFrame:
    """OA in points when a modality is degraded or missing at test time, without training again, on evenly spaced test
    pixels; difference in OA to concat under the same condition, paired by scene and seed; loss: fall of OA from the
    clean pixels (none). Strength: cloud shadow, share of the direct light taken away; noise, sd in units of each band's
    sd over the training pixels; band loss, share of the bands without data; missing, all of them. No data is the mean
    of the training pixels.
    """
    table, rows = conditions(runs), []
    for group, here in table.groupby("group", sort=False):
        clean = {m: by_run(part) for m, part in here[here["degradation"].eq(CLEAN)].groupby("method")}
        for condition, those in here.groupby(["modality", "degradation", "strength"], sort=False):
            for method, part in those.groupby("method", sort=False):
                oa, loss = summarise(by_run(part)), summarise(difference(clean[method], by_run(part)))
                numbers = oa.n_scenes, oa.n_seeds, oa.estimate, *lead(part, those, BASELINE).numbers
                rows.append((group, method, *condition, *numbers, loss.estimate))
    return frame("robustness", rows)


def dominant(table: pd.DataFrame, group: str) -> str:
    """The modality of a group that is degraded in steps."""
    return table[table["group"].eq(group) & ~table["degradation"].isin([CLEAN, MISSING])]["modality"].iloc[0]


def strongest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at the highest strength of each degradation, without the clean ones."""
    top = table.groupby(["group", "modality", "degradation"])["strength"].transform("max")
    return table[table["strength"].eq(top) & table["degradation"].ne(CLEAN)]
