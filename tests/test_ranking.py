"""Ranks and critical differences against the example worked out in Demsar (JMLR 7, 2006, table 6) and numbers done by hand."""

import numpy as np
import pandas as pd
import pytest
from synthetic import COMPARATORS, make_run, make_scene, make_study

from prsa import metrics
from prsa.errors import PrsaError
from prsa.report import ranking, tables

# AUC of four decision trees on 14 data sets; the ranks printed beside them have the means 3.143, 2.000, 2.893 and 1.964
DEMSAR_RANKS = np.array(
    [
        [4, 3, 2, 1],
        [1, 2, 3, 4],
        [4, 1, 2, 3],
        [4, 1, 3, 2],
        [4, 2, 3, 1],
        [1, 2.5, 4, 2.5],
        [3, 2, 4, 1],
        [2.5, 2.5, 4, 1],
        [4, 3, 2, 1],
        [2.5, 2.5, 2.5, 2.5],
        [4, 2.5, 1, 2.5],
        [3, 2, 4, 1],
        [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)
SCENES = {"a": ("hsi", "sar"), "b": ("hsi", "sar"), "c": ("hsi", "sar")}


def table_of(oa, families=None):
    """A frame as `tables.scores` makes it, from {(scene, method): [OA per seed]}."""
    rows = [
        (scene, method, (families or {}).get(method, "study"), "", seed, value)
        for (scene, method), values in oa.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["scene", "method", "family", "variant", "seed", "oa"])


def test_ranks_are_highest_first_and_ties_share():
    assert ranking.ranks([[0.9, 0.7, 0.9, 0.1]]).tolist() == [[1.5, 3, 1.5, 4]]
    values = np.random.default_rng(0).integers(0, 6, (3, 4, 7))
    naive = [
        [[1 + sum(o > v for o in row) + (sum(o == v for o in row) - 1) / 2 for v in row] for row in plane]
        for plane in values
    ]
    np.testing.assert_array_equal(ranking.ranks(values), naive)


def test_friedman_on_the_example_of_the_paper():
    assert DEMSAR_RANKS.mean(0).round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    n, k = DEMSAR_RANKS.shape
    chi2 = 12 * n / (k * (k + 1)) * (np.sum(DEMSAR_RANKS.mean(0) ** 2) - k * (k + 1) ** 2 / 4)
    assert chi2 == pytest.approx(9.28, abs=0.005)  # the paper's number, which takes no account of ties
    ties = 3 * (2**3 - 2) + (4**3 - 4)  # three pairs and one row of four
    corrected = chi2 / (1 - ties / (n * k * (k**2 - 1)))
    density = np.linspace(corrected, 200, 2_000_001)  # chi-squared with 3 degrees of freedom, integrated
    p = np.trapezoid(np.sqrt(density) * np.exp(-density / 2) / np.sqrt(2 * np.pi), density)
    assert ranking.friedman(-DEMSAR_RANKS) == pytest.approx(p, rel=1e-4) and 0.01 < p < 0.02


@pytest.mark.parametrize("k, q", [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_the_paper_s_quantiles(k, q):
    assert ranking.critical_difference(k, 6) / np.sqrt(k * (k + 1) / 36) == pytest.approx(q, abs=1e-3)


def test_critical_difference_of_the_example():
    assert ranking.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert ranking.critical_difference(4, 14, alpha=0.1) == pytest.approx(2.291 * np.sqrt(4 * 5 / (6 * 14)), abs=0.001)
    assert ranking.groups([1.964, 2.0, 2.893, 3.143], 1.25) == [(0, 3)]  # at 0.05 the post-hoc test sees no difference


def test_groups_are_the_largest_and_hold_two_at_least():
    assert ranking.groups([1, 2, 3, 6, 6.5, 9], 2.0) == [
        (0, 1),
        (1, 2),
        (3, 4),
    ]  # a distance of just the critical difference is told apart
    assert ranking.groups([1, 2, 3], 5) == [(0, 2)] and ranking.groups([1, 4, 8], 2) == []
    assert ranking.groups([1, 1.5, 2.4, 3.2], 1.5) == [(0, 2), (2, 3)]
    rng = np.random.default_rng(1)
    for _ in range(50):
        mean, cd = np.sort(rng.uniform(1, 9, 7)), rng.uniform(0.2, 6)
        close = [(i, j) for i in range(7) for j in range(i + 1, 7) if mean[j] - mean[i] < cd]
        naive = [(i, j) for i, j in close if not any((a, b) != (i, j) and a <= i and b >= j for a, b in close)]
        assert ranking.groups(mean, cd) == naive


def test_the_table_by_hand():
    oa = {
        ("a", "prsanet"): [80, 70],
        ("a", "late"): [78, 74],
        ("a", "rf"): [60, 60],
        ("b", "prsanet"): [90, 92],
        ("b", "late"): [90, 88],
        ("b", "rf"): [70, 72],
    }
    table = ranking.ranking(table_of(oa, {"late": "late", "rf": "classical"}))
    assert list(table.columns) == list(ranking.COLUMNS) == tables.COLUMNS["ranking"].split(",")
    assert table["method"].tolist() == ["prsanet", "late", "rf"] and table["family"].tolist() == [
        "study",
        "late",
        "classical",
    ]
    assert table["rank_mean"].tolist() == [(1 + 2 + 1.5 + 1) / 4, (2 + 1 + 1.5 + 2) / 4, 3]
    assert table["d_oa"].tolist() == [0, (2 - 4 + 0 + 4) / 4, (20 + 10 + 20 + 20) / 4]
    assert table["oa_mean"].tolist() == [83, 82.5, 65.5] and set(table["n_scenes"]) == set(table["n_seeds"]) == {2}
    late = table.set_index("method").loc["late"]
    assert (late["rank_lo"], late["rank_hi"]) == metrics.hierarchical_bootstrap(
        [[2, 1], [1.5, 2]], np.random.default_rng(0)
    )[1:]
    assert (late["d_oa_lo"], late["d_oa_hi"]) == metrics.hierarchical_bootstrap(
        [[2, -4], [0, 4]], np.random.default_rng(0)
    )[1:]
    text = tables.readable(table, "ranking")
    assert (
        text["prsanet minus it"][0] == "0"
        and text["prsanet minus it"][2].startswith("+17.5 [")
        and text["mean rank"][2] == "3.0 [3.0, 3.0]"
    )


def test_only_methods_of_all_scenes_and_their_common_seeds_are_ranked():
    oa = {
        ("a", "concat"): [1, 2, 3],
        ("a", "mft"): [2, 3, 4],
        ("a", "rf"): [9, 9, 9],
        ("b", "concat"): [5, 6],
        ("b", "mft"): [4, 7],
    }
    table = ranking.ranking(table_of(oa))
    assert table["method"].tolist() == ["mft", "concat"] and set(table["n_seeds"]) == {2}
    assert table["rank_mean"].tolist() == [1.25, 1.75] and table["oa_mean"].tolist() == [4, 3.5]
    assert (
        table[["d_oa", "d_oa_lo", "d_oa_hi"]].isna().all(axis=None)
    )  # without prsanet there is nothing to state its lead over


def test_default_runs_of_methods_only():
    runs = make_study(
        SCENES, seeds=2, methods=("late", "concat", "prsanet", "prsanet-no-push", "mft", "rf"), lambdas=(0.3,)
    )
    scores = tables.scores(runs)
    table = ranking.ranking(scores)
    assert sorted(table["method"]) == ["concat", "late", "mft", "prsanet", "rf"]  # no sensor, no ablation
    wide = scores[scores["variant"].eq("") & scores["method"].isin(table["method"])].pivot(
        index=["scene", "seed"], columns="method", values="oa"
    )
    np.testing.assert_allclose(
        table.set_index("method")["rank_mean"], wide.rank(axis=1, ascending=False).mean()[table["method"]]
    )
    pd.testing.assert_frame_equal(ranking.ranking(tables.scores(runs[::-1])), table)


def test_one_scene_one_seed_and_too_few_methods():
    one = tables.ranking(tables.scores([make_run(method=m) for m in ("concat", "prsanet", "mft")]))
    assert one["rank_mean"].tolist() == [1, 2, 3] and one["d_oa"].notna().all()
    assert one[["rank_lo", "rank_hi", "d_oa_lo", "d_oa_hi"]].isna().all(axis=None)
    assert tables.readable(one, "ranking")["mean rank"].tolist() == ["1.0", "2.0", "3.0"]
    seeds = tables.ranking(tables.scores([make_run(method=m, seed=s) for m in ("concat", "prsanet") for s in range(4)]))
    assert seeds[["rank_lo", "d_oa_hi"]].notna().all(axis=None)
    apart = [make_run(method="concat", seed=0), make_run(method="mft", seed=1)]
    for runs in ([], [make_run()], [make_run("a", "concat"), make_run("b", "mft")], apart):
        none = tables.ranking(tables.scores(runs))
        assert none.empty and list(none.columns) == list(ranking.COLUMNS)


def test_ranking_is_written_with_the_other_tables(tmp_path):
    runs = [
        make_run(name, method, seed, size=24)
        for name in "ab"
        for seed in (0, 1)
        for method in ("late", "concat", "prsanet", *COMPARATORS)
    ]
    with pytest.raises(PrsaError, match="split"):  # of the leakage table: the scenes are not given
        tables.write_all(runs, {}, {}, tmp_path / "none")
    made = {name: make_scene(name, size=24) for name in "ab"}
    tables.write_all(runs, {n: m[0] for n, m in made.items()}, {n: m[1] for n, m in made.items()}, tmp_path)
    written = pd.read_csv(tmp_path / "ranking.csv")
    assert len(written) == 3 + len(COMPARATORS) and written["rank_mean"].is_monotonic_increasing
    text = (tmp_path / "ranking.md").read_text()
    assert "prsanet minus it" in text and "mean rank" in text and "nan" not in text
