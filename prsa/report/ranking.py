"""Which method is ahead over several scenes: ranks with intervals, and what a critical-difference figure needs (no torch).

Ranks, Friedman test and Nemenyi's critical difference as in Demsar, "Statistical comparisons of classifiers over multiple data sets",
JMLR 7 (2006); the intervals are ours. OA in points; rank 1 is the best.
"""

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from .. import metrics

REFERENCE = "prsanet"  # whose lead over every method the table states
COLUMNS = (
    "method",
    "family",
    "n_scenes",
    "n_seeds",
    "rank_mean",
    "rank_lo",
    "rank_hi",
    "oa_mean",
    "d_oa",
    "d_oa_lo",
    "d_oa_hi",
)


def ranks(values) -> np.ndarray:
    """Ranks along the last axis of values (..., k) of which higher is better: 1 to k, ties share their mean rank."""
    return stats.rankdata(-np.asarray(values, dtype=float), axis=-1)


def friedman(values) -> float:
    """p value of Friedman's test that k methods are alike on N scenes, values (N, k), N >= 2, k >= 3: chi-squared, corrected for ties.

    Cautious with few scenes: the chi-squared approximation then keeps p too high.
    """
    return float(stats.friedmanchisquare(*np.asarray(values, dtype=float).T).pvalue)


def critical_difference(n_methods: int, n_scenes: int, alpha: float = 0.05) -> float:
    """Nemenyi: mean ranks of two of k methods on N scenes differ when they are q sqrt(k (k + 1) / (6 N)) or more apart.

    q is the quantile of the Studentised range for infinite degrees of freedom, divided by sqrt(2). N counts scenes, not runs: seeds of one
    scene are not independent.
    """
    q = stats.studentized_range.ppf(1 - alpha, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_scenes)))


def groups(mean_ranks, difference: float) -> list[tuple[int, int]]:
    """First and last position of every largest group of methods less than ``difference`` apart; mean_ranks (k,) ascending."""
    mean_ranks = np.asarray(mean_ranks, dtype=float)
    last = np.searchsorted(mean_ranks, mean_ranks + difference) - 1  # of those that go with each method
    return [(i, int(j)) for i, j in enumerate(last) if j > i and (i == 0 or last[i - 1] < j)]


def common(table: pd.DataFrame) -> xr.DataArray:
    """OA (scene, seed, method) of the default runs in `prsa.report.tables.scores`: methods that every scene has, seeds that all of these have.

    Without single modalities and ablations; methods in the table's order. Sizes may be 0.
    """
    table = table[table["variant"].eq("") & ~table["family"].isin(["single", "ablation"])]
    oa = table.set_index(["scene", "seed", "method"])["oa"].astype(float).to_xarray()
    oa = oa.isel(method=oa.notnull().any("seed").all("scene").values)
    oa = oa.isel(seed=oa.notnull().all(["scene", "method"]).values)
    return oa.sel(
        {"method": [m for m in dict.fromkeys(table["method"]) if m in oa["method"]]}
    )  # `method` as a keyword is sel's own


def ranking(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method of `common`, best first (`COLUMNS`): mean rank and OA, and the lead of prsanet over it, paired by scene and seed.

    Ranks are taken within every (scene, seed). Intervals: 95 %, `metrics.hierarchical_bootstrap` over scenes, then seeds, the same draws for
    all methods; NaN for one scene with one seed. No rows for fewer than two methods.
    """
    oa = common(table)
    if oa.sizes["method"] < 2 or not oa.sizes["seed"]:
        return pd.DataFrame(columns=list(COLUMNS))
    placed = oa.copy(data=ranks(oa))
    family = dict(zip(table["method"], table["family"]))

    def interval(values: xr.DataArray) -> tuple[float, float, float]:
        return metrics.hierarchical_bootstrap(values.transpose("scene", "seed"), np.random.default_rng(0))

    rows = []
    for method in oa["method"].values.tolist():
        here = {"method": method}
        lead = interval(oa.sel({"method": REFERENCE}) - oa.sel(here)) if REFERENCE in oa["method"] else (np.nan,) * 3
        rows.append(
            (
                method,
                family[method],
                oa.sizes["scene"],
                oa.sizes["seed"],
                *interval(placed.sel(here)),
                float(oa.sel(here).mean()),
                *lead,
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("rank_mean", kind="stable", ignore_index=True)
