"""Accuracy and recovered branches by group of scenes, paired by scene and seed, with the interval of `prsa.report.groups` (no torch).

The tables of `prsa.report.tables` go scene by scene; these say what holds over the scenes of a kind. All in points unless stated.
"""

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..data.simulate import group_of, is_dial
from . import groups

COLUMNS = (
    "group",
    "simulated",
    "method",
    "family",
    "n_scenes",
    "n_seeds",
    "oa_mean",
    "oa_lo",
    "oa_hi",
    "aa_mean",
    "kappa_mean",
    "d_oa",
    "d_oa_lo",
    "d_oa_hi",
    "d_aa",
    "d_aa_lo",
    "d_aa_hi",
)
RECOVERY = (
    "group",
    "method",
    "modality",
    "role",
    "n_scenes",
    "n_seeds",
    "gap_concat",
    "gap",
    "gap_lo",
    "gap_hi",
    "recovered",
)
BASELINE, WORTH = "concat", 1.0  # points of probe gap below which a share of it means nothing


def _values(part: pd.DataFrame, column: str) -> dict[tuple, float]:
    return dict(zip(zip(part["scene"], part["seed"]), part[column].astype(float)))


def _less(a: dict[tuple, float], b: dict[tuple, float]) -> dict[tuple, float]:
    return groups.complete({key: a[key] - b[key] for key in a if key in b})


def _grouped(table: pd.DataFrame):
    """Group and default rows of `prsa.report.tables.scores`, dial left out, in order of first appearance."""
    table = table[table["variant"].eq("") & ~table["scene"].map(is_dial)]
    return table.groupby(table["scene"].map(group_of), sort=False)


def evaluation(table: pd.DataFrame) -> pd.DataFrame:
    """One row per group and method without ablations (`COLUMNS`), from `prsa.report.tables.scores`; differences to concat over what both have."""
    rows = []
    for name, here in _grouped(table[table["family"].ne("ablation")]):
        base = here[here["method"].eq(BASELINE)]
        for (method, family), part in here.groupby(["method", "family"], sort=False):
            oa = groups.complete(_values(part, "oa"))
            mean, low, high, n_scenes, n_seeds = groups.interval(oa)
            others = [np.mean(list(groups.complete(_values(part, column)).values())) for column in ("aa", "kappa")]
            differences = [_less(_values(part, column), _values(base, column)) for column in ("oa", "aa")]
            gained = [v for d in differences for v in (groups.interval(d)[:3] if d else (np.nan,) * 3)]
            rows.append(
                (name, part["simulated"].iloc[0], method, family, n_scenes, n_seeds, mean, low, high, *others, *gained)
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def recovery(table: pd.DataFrame) -> pd.DataFrame:
    """Probe gap (alone minus joint, test pixels) of every branch in concat and in every other joint method (`RECOVERY`), from `prsa.report.tables.scores`.

    ``role``: slow, middle or fast, by the imbalance factor in concat. ``recovered``: share of concat's gap that is closed, 1 minus the ratio of the means;
    NaN where concat's is below `WORTH` points. No rows for a group without late or concat.
    """
    rows = []
    for name, here in _grouped(table):
        runs = {
            m: dict(zip(zip(part["scene"], part["seed"]), part["run"]))
            for m, part in here.groupby("method", sort=False)
        }
        if not {"late", BASELINE} <= runs.keys():
            continue
        role = groups.roles(list(runs[BASELINE].values()))
        for m in role:
            gaps = {
                method: _gaps(runs["late"], runs[method], m) for method in dict.fromkeys(here[here["joint"]]["method"])
            }
            for method, gap in gaps.items():
                before = np.mean([gaps[BASELINE][key] for key in gap if key in gaps[BASELINE]])
                mean, low, high, n_scenes, n_seeds = groups.interval(gap)
                rows.append(
                    (
                        name,
                        method,
                        m,
                        role[m],
                        n_scenes,
                        n_seeds,
                        before,
                        mean,
                        low,
                        high,
                        1 - mean / before if before >= WORTH else np.nan,
                    )
                )
    return pd.DataFrame(rows, columns=list(RECOVERY))


def _gaps(alone: dict[tuple, xr.Dataset], joint: dict[tuple, xr.Dataset], modality: str) -> dict[tuple, float]:
    return groups.complete(
        {key: _probe(alone[key], modality) - _probe(run, modality) for key, run in joint.items() if key in alone}
    )


def _probe(run, modality: str) -> float:
    return float(metrics.points(metrics.oa(run["probe_confusion"].sel(modality=modality).values)))
