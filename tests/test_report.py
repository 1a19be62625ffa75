"""Every table against numbers worked out by hand from invented run files, and what is written of it."""

import ast
import functools
import hashlib
import itertools
import random
import re
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import tiny
import xarray as xr
from bs4 import BeautifulSoup
from nbconvert.filters import markdown2html
from scipy import stats
from synthetic import COMPARATORS, LONG_NAMES, chosen, make_run, make_scene, make_study, make_world

from prsa.data.splits import split_scene
from prsa.errors import PrsaError
from prsa.files import NOTEBOOKS
from prsa.report import claims, dial, intervals, leakage, make_all, published, robustness, tables, text, write_all
from prsa.report.diagnostics import area_drift, calibration, calibration_error
from prsa.report.intervals import CORRELATION, POINTS, Summary, complete, paired, summarise
from prsa.report.scores import branches, family, roles, scores
from prsa.study.leakage import compare, thin
from prsa.study.plan import DIAL_METHODS

SCENES = {"sim-sar": ("hsi", "sar"), "plots": ("hsi", "lidar", "rgb")}
TWO, THREE = ("hsi", "sar"), ("hsi", "lidar", "rgb")


@pytest.fixture(scope="module")
def runs():
    return make_study(SCENES, seeds=3)


@pytest.fixture(scope="module")
def world():
    return make_world(SCENES)


@pytest.fixture(scope="module")
def table(runs):
    return scores(runs)


def oa_of(run, head="fused"):
    counts = run["confusion"].sel(head=head, part="test").values
    return 100 * sum(counts[k, k] for k in range(len(counts))) / counts.sum()


def pick(runs, scene, method, variant=""):
    return [r for r in runs if (r.attrs["scene"], r.attrs["method"], r.attrs["variant"]) == (scene, method, variant)]


def only(found):
    (row,) = found.itertuples()
    return row


# ---- the paired summary


def drawn(scenes, seeds, seed=0):
    rng = np.random.default_rng(seed)
    return {(f"s{i}", j): rng.normal() for i in range(scenes) for j in range(seeds)}


def test_one_scene_has_student_s_interval_over_seeds():
    a = {("a", s): v for s, v in enumerate((70.0, 72, 75, 71, 78))}
    b = {("a", s): v for s, v in enumerate((68.0, 71, 70, 72, 73))}
    found = paired(a, dict(reversed(b.items())))  # by key, not by position
    assert found.estimate == pytest.approx(2.4)  # differences 2 1 5 -1 5, sd sqrt(6.8), t(0.975, 4) = 2.7764
    half = 2.7764 * np.sqrt(6.8 / 5)
    assert (found.lo, found.hi) == (pytest.approx(2.4 - half, abs=1e-3), pytest.approx(2.4 + half, abs=1e-3))
    assert (found.n_scenes, found.n_seeds, found.method) == (1, 5, "Student's t over seeds")
    assert paired(a, a).numbers == (0, 0, 0)


def test_three_scenes_have_a_bootstrap_over_scenes_then_seeds():
    between = {(f"s{i}", j): v for i, v in enumerate((-3.0, 0.0, 3.0, 6.0)) for j in range(5)}  # only scenes vary
    found = summarise(between)
    draws = np.random.default_rng(5).choice([-3, 0, 3, 6], (20_000, 4)).mean(1)
    assert found.estimate == 1.5 and found.method == "bootstrap over scenes, then seeds"
    assert found.numbers[1:] == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.3)
    assert found == summarise(between) and (found.n_scenes, found.n_seeds) == (4, 5)
    within = {(f"s{i}", j): v for j, v in enumerate(np.random.default_rng(2).normal(size=40)) for i in range(3)}
    spread = np.std([v for (scene, _), v in within.items() if scene == "s0"]) / np.sqrt(120)
    assert summarise(within).hi - summarise(within).estimate == pytest.approx(1.96 * spread, rel=0.1)


@pytest.mark.parametrize(
    "values, method",
    [
        (drawn(1, 1), "no interval: fewer than three seeds"),
        (drawn(1, 2), "no interval: fewer than three seeds"),
        (drawn(2, 10), "no interval: two scenes"),
        ({}, "nothing to compare"),
        ({("a", 0): np.nan}, "nothing to compare"),
        (drawn(1, 3), "Student's t over seeds"),
        (drawn(3, 1), "bootstrap over scenes, then seeds"),
    ],
)
def test_an_interval_needs_three_of_something(values, method):
    found = summarise(values)
    assert found.method == method and np.isfinite(found.lo) == np.isfinite(found.hi)
    assert np.isnan(found.lo) == (method.startswith("no"))
    assert np.isnan(found.estimate) == (method == "nothing to compare")


@pytest.mark.parametrize("bounds", [POINTS, CORRELATION, (0, 100), (1, 6)])
def test_intervals_stay_in_their_bounds(bounds):
    low, high = bounds
    rng = np.random.default_rng(0)
    for scenes, seeds, _ in itertools.product((1, 3), (3, 5), range(20)):
        values = {(i, j): rng.choice([low, high, rng.uniform(low, high)]) for i in range(scenes) for j in range(seeds)}
        found = summarise(values, bounds)
        assert low <= found.lo <= found.estimate <= found.hi <= high


def test_correlations_use_fisher_s_z_and_differences_are_cut():
    """r = 0.5, 0.7, 0.9: mean 0.7, half width 0.4968 on r and 0.4968 / 0.51 on z = 0.8673."""
    values = {("a", s): r for s, r in enumerate((0.5, 0.7, 0.9))}
    found = summarise(values, CORRELATION)
    half = 4.3027 * 0.2 / np.sqrt(3)
    assert found.numbers[1:] == pytest.approx([np.tanh(0.8673 - half / 0.51), np.tanh(0.8673 + half / 0.51)], abs=1e-3)
    assert summarise(dict.fromkeys(values, 1.0), CORRELATION).numbers == (1, 1, 1)
    assert summarise({("a", 0): 90.0, ("a", 1): 99.0, ("a", 2): 10.0}, POINTS).hi == 100
    small = {key: r / 100 for key, r in values.items()}
    assert summarise(small, CORRELATION).numbers == pytest.approx(summarise(small).numbers, abs=1e-6)


def test_values_count_where_both_sides_and_all_scenes_have_them():
    values = {("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 3.0, ("b", 0): 4.0, ("b", 1): np.nan, ("b", 2): 6.0}
    assert complete(values) == {("a", 0): 1.0, ("a", 2): 3.0, ("b", 0): 4.0, ("b", 2): 6.0}
    assert (summarise(values).n_scenes, summarise(values).n_seeds, summarise(values).estimate) == (2, 2, 3.5)
    assert paired(values, {("a", 0): 1.0, ("c", 0): 1.0}).numbers[0] == 0
    series = pd.Series(values)
    assert summarise(series) == summarise(values)


@pytest.mark.parametrize(
    "summary, decimals, shown",
    [
        (Summary(1.24, 0.26, 2.14, 1, 3, "t"), 1, "+1.2 [0.3, 2.1]"),
        (Summary(-0.001, -0.04, 0.04, 1, 3, "t"), 1, "+0.0 [0.0, 0.0]"),
        (Summary(-0.124, np.nan, np.nan, 1, 2, "no interval: fewer than three seeds"), 2, None),
        (Summary(np.nan, np.nan, np.nan, 0, 0, "nothing to compare"), 1, "nothing to compare"),
    ],
)
def test_a_summary_in_words(summary, decimals, shown):
    assert summary.text(decimals) == (shown or "-0.12 (no interval: fewer than three seeds)")
    assert decimals != 1 or str(summary) == summary.text()


@pytest.mark.parametrize("k, q", [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_the_quantiles_of_the_paper(k, q):
    assert intervals.critical_difference(k, 6) / np.sqrt(k * (k + 1) / 36) == pytest.approx(q, abs=1e-3)
    assert intervals.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)  # the paper's example
    assert intervals.critical_difference(4, 14, alpha=0.1) == pytest.approx(2.291 * np.sqrt(20 / 84), abs=0.001)


# ---- the two long tables


def test_families_and_order_of_methods_and_unknown_ones_last():
    mixed = "zebra svm mft prsanet late rf-spatial ogm-ge concat aux endnet prsanet-no-alignment gated".split()
    found = tables.accuracy(make_study(seeds=1, methods=mixed, lambdas=()))
    order = "hsi sar late concat prsanet aux ogm-ge endnet mft svm rf-spatial zebra".split()
    assert found["method"].tolist() == order
    pairs = [[name] * 2 for name in ("study", "rebalancing", "network", "classical")]
    assert found["family"].tolist() == ["single", "single", "late", *sum(pairs, []), "other"]
    kinds = {kind: [m for m in COMPARATORS if family(m) == kind] for kind in ("rebalancing", "network", "classical")}
    assert kinds["rebalancing"] == ["aux", "ogm-ge", "pmr", "pmr-code", "mmpareto", "js", "modality-dropout"]
    assert kinds["network"] == ["endnet", "coupled-cnn", "s2enet", "mft"]
    assert kinds["classical"] == ["rf", "svm", "rf-spatial", "svm-spatial"]
    assert {family(m) for m in ("sum", "gated", "cross-attention", "prsanet-no-push")} == {"ablation"}


def test_a_run_given_twice_or_without_its_partner_is_an_error(tmp_path):
    with pytest.raises(PrsaError, match="every run once, got.*'seed': 3.*twice"):
        scores([make_run(seed=3), make_run(seed=3)])
    apart = [make_run(method="concat", seed=s) for s in (0, 1)] + [make_run(seed=s) for s in (0, 2)]
    for make in (tables.accuracy, tables.evaluation, tables.ablation, robustness.robustness):
        with pytest.raises(
            PrsaError, match="a run of (concat|prsanet) beside every run of .*, got none on sim-sar with seed"
        ):
            make(apart)
    with pytest.raises(PrsaError, match="a run of late beside every run of concat, got none on sim-sar with seed 1"):
        branches([*apart[:2], make_run(method="late", seed=0)])
    with pytest.raises(PrsaError, match="concat beside"):
        write_all(apart, *make_world({"sim-sar": TWO}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_order_of_runs_does_not_matter(runs, table):
    shuffled = runs.copy()
    random.Random(1).shuffle(shuffled)
    again = scores(sorted(shuffled, key=lambda run: run.attrs["scene"], reverse=True))
    for make in (tables.accuracy, tables.ranking, claims.ledger):
        pd.testing.assert_frame_equal(make(again), make(table))


def test_branches_hold_probe_gaps_and_factors(runs, table):
    row = only(branches(table).query("scene == 'sim-sar' and method == 'concat' and modality == 'sar' and seed == 1"))
    joint, late = pick(runs, "sim-sar", "concat")[1], pick(runs, "sim-sar", "late")[1]

    def probe(run):
        counts = run["probe_confusion"].sel(modality="sar").values
        return 100 * np.trace(counts) / counts.sum()

    assert row.rho == joint["rho"].values[-1, 1] and row.branch_oa == pytest.approx(oa_of(joint, "sar"))
    assert (row.probe_oa, row.alone_oa) == (pytest.approx(probe(joint)), pytest.approx(probe(late)))
    assert row.gap == pytest.approx(probe(late) - probe(joint))
    assert branches([joint])[["alone_oa", "gap"]].isna().all(axis=None)


def test_roles_follow_the_mean_factor_at_the_end():
    last = (1.0, 0.6, 1.4), (1.2, 0.8, 0.8)  # means 1.1, 0.7, 1.1: the later of equals counts as fast
    made = branches([chosen("concat", s, names=THREE, rho=rho) for s, rho in enumerate(last)])
    assert roles(made) == {"hsi": "middle", "lidar": "slow", "rgb": "fast"}


# ---- the tables of the study


def test_accuracy_has_the_agreed_rows_and_numbers(runs, table):
    found = tables.accuracy(table)
    fused = ["late", "concat", "concat+prm", "sagf", "prsanet"]
    assert found["method"].tolist() == ["hsi", "sar", *fused, "hsi", "lidar", "rgb", *fused]
    assert found["family"].tolist()[:7] == ["single", "single", "late"] + ["study"] * 4
    row = found.set_index(["scene", "method"]).loc[("sim-sar", "prsanet")]
    ours, base = ([oa_of(r) for r in pick(runs, "sim-sar", m)] for m in ("prsanet", "concat"))
    assert (row["n_seeds"], row["oa_mean"]) == (3, pytest.approx(np.mean(ours)))
    assert row["oa_sd"] == pytest.approx(np.std(ours, ddof=1))
    interval = stats.ttest_rel(ours, base).confidence_interval(0.95)
    wanted = np.mean(ours) - np.mean(base), interval.low, interval.high
    assert row[["d_oa", "d_oa_lo", "d_oa_hi"]].tolist() == pytest.approx(wanted)
    alone = [oa_of(r, "lidar") for r in pick(runs, "plots", "late")]
    assert found.set_index(["scene", "method"]).loc[("plots", "lidar"), "oa_mean"] == pytest.approx(np.mean(alone))


def test_one_seed_and_no_baseline_leave_gaps():
    found = tables.accuracy(make_study(seeds=1))
    assert found[["oa_sd", "d_oa_lo", "d_oa_hi"]].isna().all(axis=None) and found["d_oa"].notna().all()
    two = tables.accuracy(make_study(seeds=2))
    assert two["oa_sd"].notna().all() and two[["d_oa_lo", "d_oa_hi"]].isna().all(axis=None)
    alone = tables.accuracy([make_run(method="prsanet", seed=s) for s in range(3)])
    assert alone[["d_oa", "d_oa_lo"]].isna().all(axis=None) and alone["oa_sd"].notna().all()


def test_a_sensor_trained_on_its_own_is_listed_with_its_cost():
    found = scores([make_run(method="concat"), make_run(method="sar", modalities=("sar",))])
    assert tables.accuracy(found)[["method", "family"]].values.tolist() == [["sar", "single"], ["concat", "study"]]
    assert tables.complexity(found)["method"].tolist() == ["sar", "concat"]
    assert set(tables.imbalance(found)["method"]) == {"concat"}


def test_per_class_numbers(runs, table):
    found = tables.per_class(table).set_index(["scene", "method", "class"])
    counts = [r["confusion"].sel(head="fused", part="test").values for r in pick(runs, "plots", "sagf")]
    values = [100 * c[4, 4] / c[4].sum() for c in counts]
    row = found.loc[("plots", "sagf", LONG_NAMES[4])]
    assert row.tolist() == pytest.approx([counts[0][4].sum(), np.mean(values), np.std(values, ddof=1)])
    assert len(found) == (7 + 8) * 8


def test_imbalance_is_the_mean_of_branches(table):
    found = tables.imbalance(table)
    assert "late" not in set(found["method"]) and set(found["method"]) >= {"concat", "prsanet-no-alignment"}
    means = branches(table).query("scene == 'plots' and method == 'sagf' and modality == 'rgb'").mean(numeric_only=True)
    row = found.set_index(["scene", "method", "modality"]).loc[("plots", "sagf", "rgb")]
    assert row.tolist() == pytest.approx(means[["rho", "branch_oa", "probe_oa", "alone_oa", "gap"]].tolist())


def test_ablation_compares_with_both_ends_and_holds_the_plain_fusions(runs, table):
    found = tables.ablation(table).set_index(["scene", "variant"])
    rows = "concat concat+prm sagf prsanet prsanet-no-alignment prsanet-no-prototype".split()
    assert found.loc["sim-sar"].index.tolist() == rows
    row, ours = found.loc[("plots", "prsanet-no-alignment")], pick(runs, "plots", "prsanet-no-alignment")
    for column, other in (("d_concat", "concat"), ("d_prsanet", "prsanet")):
        base = [oa_of(r) for r in pick(runs, "plots", other)]
        assert row[column] == pytest.approx(np.mean([oa_of(r) for r in ours]) - np.mean(base))
    for name in ("cka", "eta2"):
        assert row[name] == pytest.approx(np.mean([float(r[name]) for r in ours]))
    assert row["js_final"] == pytest.approx(np.mean([r["js"].values[-1] for r in ours]))
    fusions = [make_run(method=m, seed=s) for m in ("sum", "gated", "cross-attention") for s in (0, 1)]
    more = tables.ablation([r for r in runs if r.attrs["scene"] == "sim-sar"] + fusions)  # fewer seeds than concat
    row = more.set_index("variant").loc["gated"]
    pairs = [oa_of(r) - oa_of(b) for r, b in zip(fusions[2:4], pick(runs, "sim-sar", "concat"))]
    assert row["n_seeds"] == 2 and row["d_concat"] == pytest.approx(np.mean(pairs)) and np.isnan(row["d_concat_lo"])


def test_sensitivity_is_paired_with_the_default_of_its_seeds():
    default = [make_run(seed=s) for s in range(5)]
    varied = [make_run(seed=s, overrides={"lambda_p": v}) for v in (10.0, 0.25) for s in (0, 1, 2)]
    same = [make_run(seed=s, overrides={"lambda_p": 1.0}) for s in (0, 1, 2)]  # an override that says the default
    other = [make_run(seed=s, overrides={"fusion": "sum"}) for s in (3, 4)]
    found = tables.sensitivity(default + varied + same + other)
    assert found[["parameter", "value", "n_seeds"]].to_numpy().tolist() == [
        ["fusion", "sagf", 2],
        ["fusion", "sum", 2],
        ["lambda_p", "0.25", 3],
        ["lambda_p", "1", 3],
        ["lambda_p", "10", 3],
    ]
    rows = found.set_index("value")
    low, reference = (np.array([oa_of(r) for r in part]) for part in (varied[3:], default[:3]))
    assert rows.loc["0.25", "d_oa"] == pytest.approx((low - reference).mean())
    assert rows.loc["1", ["oa_mean", "d_oa"]].tolist() == [pytest.approx(reference.mean()), 0]
    with pytest.raises(PrsaError, match="got none on sim-sar with seed 2. Run the missing seeds"):
        tables.sensitivity(default[:2] + varied)


def test_datasets_and_complexity(world, table):
    found, split = tables.datasets(*world), world[1]["plots"].values
    about = ["plots", "Invented plots", 1, "hsi 24; lidar 1; rgb 6", 60, 60, 8]
    assert found.iloc[1].tolist() == [*about, *((split == code).sum() for code in (1, 2, 3)), "blocks", "MIT"]
    cost = tables.complexity(table)
    own = "late concat concat+prm sagf prsanet prsanet-no-alignment prsanet-no-prototype".split()
    assert cost["method"].tolist() == own * 2 and cost.iloc[0].tolist() == ["sim-sar", "late", 41_400, 900_000, 50_000]


def test_comparators_without_branches_leave_the_tables_of_branches_alone():
    """With every comparator trained, the tables about branches hold the same rows as without those that have none."""
    some = ("late", "concat", "prsanet", "prsanet-no-push")
    many = [
        make_run(name, method, seed, modalities, size=24)
        for name, modalities in SCENES.items()
        for seed in (0, 1)
        for method in (*some, *COMPARATORS)
    ]
    assert {family(r.attrs["method"]) for r in many if not r.attrs["probed"]} == {"network", "classical"}
    found, probed = scores(many), scores([r for r in many if r.attrs["probed"]])
    for make in (tables.imbalance, tables.ablation, tables.recovery, robustness.robustness, claims.ledger):
        pd.testing.assert_frame_equal(make(found), make(probed))
    assert {"aux", "modality-dropout"} <= set(tables.imbalance(found)["method"])
    cost = tables.complexity(found)
    assert cost.loc[cost["scene"].eq("plots"), "method"].tolist() == [*some, *COMPARATORS]
    assert set(tables.per_class(found)["method"]) >= set(COMPARATORS)
    assert len(tables.ranking(found)) == 3 + len(COMPARATORS)


# ---- groups of scenes

MAIN = ("prsanet", "concat")
GAINS = {"sim-sar": (3.0, 5.0), "sim-sar:1": (-1.0, 2.0), "sim-sar:2": (0.0, 3.0), "real": (1.0, 1.5)}


def grouped():
    """Gains of prsanet over concat on three scenes of a kind and a real one."""
    found = []
    for (scene, gains), seed in itertools.product(GAINS.items(), (0, 1)):
        found.append(chosen("concat", seed, scene))
        found.append(chosen("prsanet", seed, scene, oa=80.0 + gains[seed], probe=(61.0, 47.0)))
        found.append(chosen("late", seed, scene, oa=70.0, probe=(60.5, 50.0)))
    return found


def test_evaluation_pairs_by_scene_and_seed():
    found = tables.evaluation(grouped())
    assert list(dict.fromkeys(found["group"])) == ["sim-sar", "real"]
    row = found.set_index(["group", "method"]).loc[("sim-sar", "prsanet")]
    wanted = summarise({(scene, s): d for scene, of in GAINS.items() if scene != "real" for s, d in enumerate(of)})
    assert (row["n_scenes"], row["n_seeds"], row["oa_mean"], row["kappa_mean"]) == (3, 2, 82.0, pytest.approx(64.0))
    for name in ("d_oa", "d_aa"):
        assert row[[name, f"{name}_lo", f"{name}_hi"]].tolist() == pytest.approx(wanted.numbers)
    real = found.set_index(["group", "method"]).loc[("real", "prsanet")]
    assert (real["n_scenes"], real["n_seeds"], real["d_oa"]) == (1, 2, 1.25) and np.isnan(real["d_oa_lo"])
    base = found[found["method"].eq("concat")]
    assert (base["d_oa"] == 0).all() and (base["d_oa_lo"].iloc[0], base["d_oa_hi"].iloc[0]) == (0, 0)
    assert set(found[found["method"].isin(["hsi", "sar"])]["family"]) == {"single"}


def test_recovery_is_the_share_of_the_gap_that_is_closed():
    """Gaps in concat 0.5 (hsi) and 10 (sar), in prsanet -0.5 and 3: 70 % of the second; the first is too small."""
    found = tables.recovery(grouped()).set_index(["group", "method", "modality"])
    sar, hsi = found.loc[("sim-sar", "prsanet", "sar")], found.loc[("sim-sar", "prsanet", "hsi")]
    assert (sar["role"], hsi["role"]) == ("slow", "fast") and set(found.index.levels[1]) == {"concat", "prsanet"}
    assert sar[["gap_concat", "gap", "recovered"]].tolist() == pytest.approx([10, 3, 0.7])
    assert hsi["gap"] == pytest.approx(-0.5) and np.isnan(hsi["recovered"])
    assert found.loc[("sim-sar", "concat", "sar"), "recovered"] == pytest.approx(0)
    assert tables.recovery([r for r in grouped() if r.attrs["method"] != "late"]).empty


def ranked(oa, families=None):
    """Rows as of `scores`, from (scene, method) -> OA per seed."""
    rows = []
    for (scene, method), values in oa.items():
        rows += [(scene, method, (families or {}).get(method, "study"), "", s, float(v)) for s, v in enumerate(values)]
    return pd.DataFrame(rows, columns=["scene", "method", "family", "variant", "seed", "oa"])


def test_ranks_are_taken_within_scene_and_seed_and_averaged():
    oa = {("a", "prsanet"): [80, 70], ("a", "late"): [78, 74], ("a", "rf"): [60, 60]}
    oa |= {("b", "prsanet"): [90, 92], ("b", "late"): [90, 88], ("b", "rf"): [70, 72]}
    oa |= {("c", method): values for (scene, method), values in oa.items() if scene == "a"}
    found = tables.ranking(ranked(oa, {"late": "late", "rf": "classical"}))
    assert found[["method", "family"]].values.tolist() == [["prsanet", "study"], ["late", "late"], ["rf", "classical"]]
    assert found["rank_mean"].tolist() == pytest.approx([(1.5 + 1.25 + 1.5) / 3, (1.5 + 1.75 + 1.5) / 3, 3])
    assert found["d_oa"].tolist() == pytest.approx([0, (-1 + 2 - 1) / 3, (15 + 20 + 15) / 3])
    assert set(found["n_scenes"]) == {3} and set(found["n_seeds"]) == {2}
    late = found.iloc[1]
    places = {("a", 0): 2, ("a", 1): 1, ("b", 0): 1.5, ("b", 1): 2, ("c", 0): 2, ("c", 1): 1}
    assert late[["rank_mean", "rank_lo", "rank_hi"]].tolist() == pytest.approx(summarise(places).numbers)
    leads = {("a", 0): 2, ("a", 1): -4, ("b", 0): 0, ("b", 1): 4, ("c", 0): 2, ("c", 1): -4}
    assert late[["d_oa", "d_oa_lo", "d_oa_hi"]].tolist() == pytest.approx(summarise(leads).numbers)


def test_only_methods_of_all_scenes_and_their_common_seeds_are_ranked():
    oa = {("a", "concat"): [1, 2, 3], ("a", "mft"): [2, 3, 4], ("a", "rf"): [9, 9, 9]}
    found = tables.ranking(ranked(oa | {("b", "concat"): [5, 6], ("b", "mft"): [4, 7]}))
    assert found["method"].tolist() == ["mft", "concat"] and set(found["n_seeds"]) == {2}
    assert found["rank_mean"].tolist() == [1.25, 1.75] and found["oa_mean"].tolist() == [4, 3.5]
    assert found[["d_oa", "d_oa_lo"]].isna().all(axis=None)  # no prsanet, whose lead is stated


def test_sensors_and_ablations_are_not_ranked():
    made = make_study(SCENES, 2, ("late", "concat", "prsanet", "prsanet-no-push", "gated", "mft"), (0.3,))
    assert sorted(tables.ranking(made)["method"]) == ["concat", "late", "mft", "prsanet"]
    for few in ([], [make_run()], [make_run("a", "concat"), make_run("b", "mft")]):
        assert tables.ranking(few).empty


def one_pair():
    """Three seeds of `grouped`, and the answer of `paired` for prsanet - concat on some scenes."""
    made = grouped() + [chosen(m, 2, scene, oa=81.0) for scene in GAINS for m in ("late", *MAIN)]
    by = {m: {(r.attrs["scene"], r.attrs["seed"]): oa_of(r) for r in made if r.attrs["method"] == m} for m in MAIN}

    def answer(*scenes):
        ours, base = ({key: v for key, v in by[m].items() if key[0] in scenes} for m in MAIN)
        return paired(ours, base, POINTS)

    return made, answer


def test_every_table_gives_one_answer_for_one_pair():
    made, answer = one_pair()
    found = make_all(made, *make_world(dict.fromkeys(GAINS, TWO), classes=2, size=12))
    d = ["d_oa", "d_oa_lo", "d_oa_hi"]
    evaluation, accuracy = (found[name].set_index(list(found[name])[0]) for name in ("evaluation", "accuracy"))
    for group, scenes in (("sim-sar", list(GAINS)[:3]), ("real", ["real"])):
        wanted = answer(*scenes).numbers
        rows = evaluation[evaluation["method"].eq("prsanet")]
        assert rows.loc[group, d].tolist() == pytest.approx(wanted)
        row = found["claims"].set_index(["scene", "measure"]).loc[(group, "OA: prsanet - concat (points)")]
        assert row[["effect", "lo", "hi"]].tolist() == pytest.approx(wanted, abs=1e-3)
    for scene in GAINS:
        rows = accuracy[accuracy["method"].eq("prsanet")]
        assert rows.loc[scene, d].tolist() == pytest.approx(answer(scene).numbers)


@pytest.mark.parametrize("name", ["04_tables", "09_claims"])
def test_notebooks_show_the_answer_of_the_tables(name, monkeypatch):
    """Their code on invented runs: what is shown of prsanet - concat is what `paired` says."""
    made, answer = one_pair()

    class Study:
        scenes, splits = make_world(dict.fromkeys(GAINS, TWO), classes=2, size=12)
        specs, dial = (), ()

        def __init__(self, *_):
            pass

        def open(self, *_):
            return made

    shown, names = [], {}
    monkeypatch.setattr("prsa.study.teaching.open_study", Study)
    monkeypatch.setattr("IPython.display.display", shown.append)
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        body = ast.parse(cell.source).body if cell.cell_type == "code" else []
        value = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), name, "exec"), names)
        shown += [eval(compile(value, name, "eval"), names)] if value else []
    words = {str(cell) for found in shown if isinstance(found, pd.DataFrame) for cell in found.to_numpy().ravel()}
    kind, real = answer(*list(GAINS)[:3]), answer("real")
    assert {str(kind), str(real)} <= words and "[" in str(kind) and "[" in str(real)
    tables_shown = "".join(found for found in shown if isinstance(found, str))
    decimals = 1 if name == "04_tables" else 3
    assert kind.text(decimals) in tables_shown and real.text(decimals) in tables_shown


# ---- claims


def claimed(found, claim):
    return found[found["claim"].eq(claim)].set_index("measure")


def repeat(method, seeds=3, **options):
    return [chosen(method, s, **options) for s in range(seeds)]


@pytest.mark.parametrize(
    "gap, expected",
    [
        ((2, 3, 4), "supported"),
        ((-2, -3, -4), "reversed"),
        ((1, 2, 3), "not supported"),
        ((-1, -2, -3), "not supported"),
    ],
)
def test_three_seeds_reach_a_verdict(gap, expected):
    """Means of 3 and 2 with sd 1: half width 4.303 / sqrt(3) = 2.484."""
    made = repeat("concat") + [chosen("late", s, probe=(60.0 + g, 40.0)) for s, g in enumerate(gap)]
    row = claimed(claims.ledger(made), claims.STARVED).loc["probe OA of hsi (fast): alone - in concat (points)"]
    assert (row["effect"], row["n"], row["verdict"]) == (np.mean(gap), 3, expected)
    assert row["hi"] - row["effect"] == pytest.approx(2.484, abs=1e-3)


@pytest.mark.parametrize(
    "effect, lo, hi, smallest, expected",
    [
        (1.0, 0.001, 2.0, 0.5, "supported"),
        (1.0, 0.0, 2.0, 0.5, "not supported"),  # an interval that touches 0 holds it
        (0.5, 0.4, 0.6, 0.5, "supported"),
        (0.499, 0.4, 0.6, 0.5, "not supported"),  # surely positive, too small to matter
        (-1.0, -2.0, -0.001, 0.5, "reversed"),
        (-0.01, -0.02, -0.005, 0.5, "reversed"),  # a claim that states a gain is reversed by any loss
        (-1.0, -2.0, 0.0, 0.5, "not supported"),
        (1.0, np.nan, np.nan, 0.0, "not supported"),
        (np.nan, np.nan, np.nan, 0.0, "not supported"),
    ],
)
def test_verdict_at_the_edges_of_the_rule(effect, lo, hi, smallest, expected):
    assert claims.verdict(effect, lo, hi, smallest) == expected


def test_the_ledger_is_ordered_and_two_seeds_support_nothing():
    made = repeat("concat", 2) + repeat("late", 2, probe=(90.0, 90.0)) + repeat("sagf", 2)
    found = claims.ledger(made)
    assert list(dict.fromkeys(found["claim"])) == [c for c in claims.CLAIMS if c in set(found["claim"])]
    assert all(claims.unit(measure) in claims.UNITS for measure in found["measure"])
    assert found["n"].eq(2).all() and found["lo"].isna().all() and found["verdict"].eq("not supported").all()
    assert claimed(found, claims.STARVED)["effect"].tolist() == [30.0, 50.0]
    rule, chance, explained = claims.notes(found)
    assert rule == claims.RULE and chance.startswith(f"{len(found)} rows; without any effect, about 0.0 intervals")
    assert explained.count("\n") == found["claim"].nunique() - 1


@pytest.mark.parametrize("rho, effect", [((0.5, 1.0, 2.0), 10 - (4 + 1) / 2), ((2.0, 1.0, 0.5), 1 - (10 + 4) / 2)])
def test_the_factor_finds_the_gap_or_not(rho, effect):
    """Gaps of 10, 4 and 1 points; the factor is lowest where the gap is largest, or smallest."""
    made = repeat("concat", names=THREE, probe=(60.0, 50.0, 40.0), rho=rho)
    made += repeat("late", names=THREE, probe=(70.0, 54.0, 41.0))
    row = claimed(claims.ledger(made), claims.FACTOR).loc["probe gap in concat: lowest factor - others (points)"]
    assert (row["effect"], row["verdict"]) == (effect, "supported" if effect > 0 else "reversed")


def test_the_factor_is_ranked_against_the_gap_epoch_by_epoch():
    """Factors (epoch, modality) 2, 0.5 then 0.5, 2; gaps 1, 4 then 4, 1 are larger where the factor is lower."""
    late = repeat("late", watched=((61, 54), (64, 51)))
    concat = repeat("concat", rho=(0.5, 2.0), watched=((60, 50), (60, 50)))
    name = "factor falls with the gap over epochs (rank correlation)"
    row = claimed(claims.ledger(late + concat), claims.FACTOR).loc[name]
    assert row["effect"] == 1.0 and row["verdict"] == "supported"
    blind = [run.assign(probe_accuracy=run["probe_accuracy"] * np.nan) for run in concat]  # no validation pixels
    assert name not in set(claims.ledger(late + blind)["measure"])


def test_the_factor_over_scenes_and_dial_is_one_correlation_per_seed():
    """Factors 0.5 2 0.8 1.25 1 1 against gaps 9 1 4 2 3 3: exactly opposite. Seed 2 is not there for every scene."""
    spec = {"one": ((0.5, 2.0), (9, 1)), "sim-sar:0:0.4": ((0.8, 1.25), (4, 2)), "two": ((1.0, 1.0), (3, 3))}
    made = []
    for (scene, (rho, gap)), s in itertools.product(spec.items(), (0, 1)):
        made.append(chosen("concat", s, scene, rho=rho))
        made.append(chosen("late", s, scene, probe=(60.0 + gap[0], 40.0 + gap[1])))
    extra = [chosen("concat", 2, "one", rho=(0.5, 2.0)), chosen("late", 2, "one", probe=(10.0, 90.0))]
    found = claims.ledger(made + extra)
    row = only(found[found["scene"].eq(claims.ALL)])
    assert (row.claim, row.n, row.effect) == (claims.FACTOR, 2, 1.0) and set(found["scene"]) == {"one", "two", "all"}
    assert not claims.ledger(made[:4])["scene"].eq(claims.ALL).any()  # one scene needs no row over scenes


def test_prototypes_and_directions_are_judged_on_every_branch():
    """Cosines are means over two epochs, which lie 0.1 below and above the number given."""
    aim = {"fused": (0.3, 0.2), "prototype": (0.5, 0.1), "total": (0.3, 0.2)}
    made = repeat("concat", direction=aim)
    made += repeat("concat+prm", probe=(58.0, 49.0), direction={"total": (0.7, 0.22)})
    found = claims.ledger(made)
    moved = claimed(found, claims.PROTOTYPE)
    assert moved.index[0] == "probe OA of hsi (fast): concat+prm - concat (points)" and "sar (slow)" in moved.index[1]
    assert moved["effect"].tolist() == [-2.0, 9.0] and moved["verdict"].tolist() == ["reversed", "supported"]
    turned = claimed(found, claims.DIRECTION)
    assert turned.index[0] == "direction of hsi (fast) in concat: prototype - fused loss (cosine)"
    assert turned.index[3] == "direction of sar (slow): concat+prm - concat (cosine)"
    assert turned["effect"].tolist() == [0.2, -0.1, 0.4, 0.02]
    assert turned["verdict"].tolist() == ["supported", "reversed", "supported", "not supported"]  # 0.02 is too small


def test_balance_categories_and_agreement():
    """Factors of 4 and 1/2 are 2 and 1 doublings away, mean 1.5; with rebalancing 1 and 0, mean 0.5.

    Anchors are never compared with prototypes: no row of concat against sagf.
    """
    made = repeat("concat", rho=(4.0, 0.5), js=(0.5, 0.4)) + repeat("concat+prm", rho=(2.0, 1.0), js=(0.5, 0.45))
    made += repeat("sagf", js=(0.05, 0.2), cka=0.625, eta2=0.395) + repeat("prsanet", js=(0.6, 0.1))
    found = claims.ledger(made + repeat("prsanet-no-alignment", 2, js=(0.6, 0.15)))
    assert only(claimed(found, claims.BALANCE)).effect == 1.0
    assert claimed(found, claims.CATEGORIES)["effect"].tolist() == [0.125, -0.005]
    agreed = claimed(found, claims.AGREEMENT)
    assert agreed["effect"].tolist() == [-0.15, -0.05, 0.05] and not agreed.index.str.contains("concat - sagf").any()
    assert agreed.index[2] == "JS at the end: prsanet-no-alignment - prsanet (nats)"
    assert agreed["verdict"].tolist() == ["reversed", "reversed", "not supported"] and agreed["n"].tolist() == [3, 3, 2]


def test_accuracy_push_and_degraded_sensors_are_prsanet_minus_the_other():
    weak, strong = "hsi noise 0.5", "hsi noise 2"
    of_concat = {"none": 79.0, weak: 90.0, strong: 40.0, "hsi missing": 20.0, "sar missing": 60.0}
    of_ours = {"none": 82.0, weak: 10.0, strong: 47.0, "hsi missing": 15.0, "sar missing": 61.0}
    oa = {"late": 83.0, "pmr": 78.0, "concat+prm": 81.0, "sagf": 81.8, "prsanet-no-push": 82.5}
    made = [chosen(method, s, oa=v, degraded=of_concat) for method, v in oa.items() for s in range(3)]
    made += repeat("concat", oa=79.0, degraded=of_concat) + repeat("prsanet", oa=82.0, degraded=of_ours)
    found = claims.ledger(made)
    others = [name.removeprefix("OA: prsanet - ") for name in claimed(found, claims.ACCURACY).index]
    assert others == [f"{m} (points)" for m in ("concat", "late", "pmr", "concat+prm", "sagf")]
    assert claimed(found, claims.ACCURACY)["effect"].tolist() == [3.0, -1.0, 4.0, 1.0, 0.2]
    verdicts = ["supported", "reversed", "supported", "supported", "not supported"]  # 0.2 points do not matter
    assert claimed(found, claims.ACCURACY)["verdict"].tolist() == verdicts
    assert claimed(found, claims.PUSH)["effect"].tolist() == [-0.5]
    worst = claimed(found, claims.DEGRADED)["effect"]
    names = [f"OA, dominant sensor {what}: prsanet - concat (points)" for what in ("noise 2", "missing")]
    assert worst.to_dict() == dict(zip(names, (7.0, -5.0)))


def test_claims_that_cannot_be_tested_have_no_row():
    assert set(claims.ledger(repeat("concat"))["claim"]) == {claims.DIRECTION}  # which looks inside concat alone
    found = claims.ledger(repeat("concat") + repeat("prsanet"))
    assert set(found["claim"]) == {claims.PROTOTYPE, claims.DIRECTION, claims.ACCURACY, claims.DEGRADED}
    apart = claims.ledger([chosen("concat", 0, "one"), chosen("prsanet", 0, "two"), chosen("sagf", 0, "two")])
    assert set(apart[apart["scene"].eq("one")]["claim"]) == {claims.DIRECTION}
    assert "OA: prsanet - sagf (points)" in set(apart["measure"]) and claims.ledger([]).empty
    lead = [chosen(m, s, oa=v + s) for m, v, of in (("concat", 70, (0, 1, 2)), ("prsanet", 75, (5, 2, 1))) for s in of]
    row = only(claimed(claims.ledger(lead), claims.ACCURACY))
    assert (row.effect, row.n) == (5.0, 2)  # only pairs of both sides count
    good = repeat("concat") + repeat("late")
    other = [
        chosen("concat", 0, probe=(10.0, 10.0), overrides={"lambda_p": 3.0}),
        make_run("one", "mft", 0, classes=2, epochs=2, size=12),
        *(chosen(m, 8, "alone", names=("hsi",)) for m in ("concat", "late")),
    ]
    pd.testing.assert_frame_equal(claims.ledger(good + other), claims.ledger(good))


def test_a_modality_is_named_by_its_role_in_the_matrix():
    made = repeat("concat") + repeat("late")
    made += repeat("concat", scene="tri", names=THREE) + repeat("late", scene="tri", names=THREE)
    found = claims.matrix(claims.ledger(made))
    rows = [
        f"probe OA of the {role} branch: alone - in concat (points)" for role in "fast slow fast slow middle".split()
    ]
    assert found[found["claim"].eq(claims.STARVED)]["row"].tolist() == rows
    assert not found.duplicated(["claim", "row", "scene"]).any()


# ---- degraded sensors


FALL = {"none": 0.0, "hsi noise 0.5": 5.0, "hsi noise 2": 20.0, "hsi missing": 50.0, "sar missing": 10.0}


def degraded(method, seed=0, scene="one", oa=80.0, **fall):
    return chosen(method, seed, scene, oa=oa, degraded={name: oa - lost for name, lost in (FALL | fall).items()})


@pytest.mark.parametrize(
    "condition, expected",
    [
        ("none", ("", "none", 0.0)),
        ("sar missing", ("sar", "missing", 1.0)),
        ("hsi noise 0.5", ("hsi", "noise", 0.5)),
        ("hsi cloud shadow 0.9", ("hsi", "cloud shadow", 0.9)),
        ("hsi left band loss 0.25", ("hsi left", "band loss", 0.25)),
        ("hsi left missing", ("hsi left", "missing", 1.0)),
    ],
)
def test_names_of_conditions_are_read(condition, expected):
    assert robustness.parse(condition, ["hsi", "sar", "hsi left"]) == expected
    with pytest.raises(PrsaError, match="one of the modalities hsi, sar, got 'lidar missing'"):
        robustness.parse("lidar missing", ["hsi", "sar"])


def test_losses_and_differences_under_a_condition_by_hand():
    milder, lead = {"hsi noise 2": 10.0}, (6.0, 8.0, 10.0)
    made = [degraded("concat", s) for s in range(3)]
    made += [degraded("prsanet", s, oa=80.0 + v, **milder) for s, v in enumerate(lead)]
    found = robustness.robustness(made).set_index(["method", "modality", "degradation", "strength"])
    clean, noisy = found.loc[("prsanet", "", "none", 0.0)], found.loc[("prsanet", "hsi", "noise", 2.0)]
    assert clean[["oa_mean", "d_oa", "loss_mean", "n_scenes", "n_seeds"]].tolist() == pytest.approx([88, 8, 0, 1, 3])
    half = 4.3027 * 2 / np.sqrt(3)
    assert noisy[["oa_mean", "loss_mean"]].tolist() == pytest.approx([78, 10])
    assert noisy[["d_oa", "d_oa_lo", "d_oa_hi"]].tolist() == pytest.approx([18, 18 - half, 18 + half], abs=1e-3)
    base = found.loc[("concat", "hsi", "noise", 2.0)]
    assert base[["d_oa", "d_oa_lo", "d_oa_hi", "loss_mean"]].tolist() == [0, 0, 0, pytest.approx(20)]
    assert found.loc[("prsanet", "sar", "missing", 1.0), "loss_mean"] == pytest.approx(10)


def test_conditions_are_by_group_and_in_the_order_of_the_runs():
    made = [degraded(m, 0, scene) for scene in ("two", "one") for m in ("prsanet", "pmr", "concat", "late")]
    made += [degraded(m, 0, f"sim-sar:{i}") for i in range(1, 4) for m in ("concat", "sagf")]
    made += [chosen("prsanet", 7, overrides={"lambda_p": 3.0}), chosen("hsi", names=("hsi",), scene="single")]
    found = robustness.robustness(made)
    assert found["group"].unique().tolist() == ["two", "one", "sim-sar"]
    assert found["method"].tolist()[:4] == ["late", "concat", "prsanet", "pmr"]
    shown = found[["modality", "degradation", "strength"]].values[:20:4]
    names = ["none 0", "hsi noise 0.5", "hsi noise 2", "hsi missing 1", "sar missing 1"]
    assert [f"{m} {d} {s:g}".strip() for m, d, s in shown] == names
    assert set(found[found["group"].eq("sim-sar")]["n_scenes"]) == {3}
    assert robustness.dominant(found, "one") == "hsi"
    top = robustness.strongest(found[found["group"].eq("one")])
    worst = [("hsi", "noise", 2.0), ("hsi", "missing", 1.0), ("sar", "missing", 1.0)]
    assert set(zip(top["modality"], top["degradation"], top["strength"])) == {*worst}


# ---- the dial


SETTINGS = {"sim-sar:0:0": 0.0, "sim-sar:0:0.4": 0.4, "sim-sar": 0.8, "sim-sar:0:1": 1.0}


def turned(seeds=2, methods=DIAL_METHODS, scenes=SETTINGS):
    """Accuracy and the gap of hsi fall with the dial, the gap of sar and the distance from balance rise."""
    made = []
    for (scene, d), s, (k, m) in itertools.product(scenes.items(), range(seeds), enumerate(methods)):
        inside = {
            "probe": (60 - 5 * d, 40 - 8 * d),
            "rho": (2 ** (1 + d), 2 ** (-1 - d)),
            "oa": 90 - 10 * d + s + 2 * k,
        }
        alone = {"probe": (72 - 10 * d + s, 43 + s), "oa": 85 - 10 * d + s}
        made.append(chosen(m, s, scene, **(alone if m == "late" else inside)))
    return made


def test_the_dial_by_hand():
    """At 0.4, alone 68, 69, 70, inside 58: gaps 10, 11, 12; OA of pmr 90, 91, 92, of concat 88, 89, 90."""
    found = dial.dial(turned(3)).set_index(["kind", "dial", "method", "modality"])
    row = found.loc[("sim-sar", 0.4, "pmr", "hsi")]
    assert row[["n_seeds", "oa_mean", "oa_sd", "rho"]].tolist() == pytest.approx([3, 91, 1, 2**1.4])
    assert row[["d_oa", "d_oa_lo", "d_oa_hi"]].tolist() == pytest.approx([2, 2, 2])
    gap = row[["probe_gap", "probe_gap_lo", "probe_gap_hi"]].tolist()
    assert gap == pytest.approx([11, 11 - 2.484, 11 + 2.484], abs=1e-3)
    assert set(found.index.get_level_values("dial")) == {0.0, 0.4, 0.8, 1.0}  # a kind's name is its default setting
    assert found.loc[("sim-sar", 0.4, "late", ""), ["rho", "probe_gap"]].isna().all()
    without = dial.dial(turned(methods=("concat", "pmr")))
    assert without[["probe_gap", "probe_gap_lo"]].isna().all(axis=None) and without["rho"].notna().all()


def test_the_dial_takes_whole_seeds_of_its_own_scenes():
    made = turned(2)
    others = [chosen("concat", 0, scene) for scene in ("sim-sar:1", "plots", "sim-sar:1:0.4", "sim-tri")]
    others += [chosen("concat", 0, "sim-sar", overrides={"lr": 0.1}), chosen("sagf", 0, "sim-sar")]
    others += [chosen(m, 2, "sim-sar") for m in ("late", "concat")]  # the study has more seeds of the default setting
    pd.testing.assert_frame_equal(dial.dial(made + others), dial.dial(made))
    lacking = [
        r for r in made if (r.attrs["scene"], r.attrs["method"], r.attrs["seed"]) != ("sim-sar:0:0.4", "late", 1)
    ]
    pd.testing.assert_frame_equal(dial.dial(lacking), dial.dial(turned(1)))
    assert dial.dial(others).empty and dial.trend([]).empty


def test_correlations_have_the_sign_of_what_moves():
    found = dial.trend(turned(3)).set_index(["method", "measure", "modality"])
    assert set(found["n_settings"]) == {4} and set(found["n_seeds"]) == {3}
    concat = found["correlation"].loc["concat"]  # fused OA; distance from balance and probe gap of hsi, sar
    assert concat.tolist() == pytest.approx([-1, 1, 1, -1, 1]) and concat.index[-1] == ("probe gap", "sar")
    late = found["correlation"].loc["late"].to_dict()  # always 5 points behind
    assert late == pytest.approx({("fused OA", ""): -1, ("lead over concat", ""): 0})


def test_a_correlation_is_taken_seed_by_seed_and_then_averaged():
    """Ranks of three settings: 1 2 3 gives 1, 1 3 2 gives 1/2, all alike gives 0; over two settings, only a sign."""
    scenes, oa = ("sim-sar:0:0", "sim-sar:0:0.4", "sim-sar"), [(70, 71, 72), (70, 72, 71), (70, 70, 70)]
    made = [chosen("concat", s, scene, oa=of[i]) for s, of in enumerate(oa) for i, scene in enumerate(scenes)]
    row = dial.trend(made).iloc[0]
    wanted = summarise({("a", s): r for s, r in enumerate((1, 0.5, 0))}, CORRELATION).numbers
    assert row["measure"] == "fused OA" and row.iloc[-3:].tolist() == pytest.approx(wanted)
    two = dial.trend(turned(3, scenes={"sim-sar:0:0": 0.0, "sim-sar:0:1": 1.0}))
    assert np.allclose(two["correlation"].abs(), two["measure"].ne("lead over concat"))
    assert two[["correlation_lo", "correlation_hi"]].isna().all(axis=None)


def test_runs_of_the_dial_never_enter_the_tables_of_the_study():
    own, dials = turned(scenes={"sim-sar": 0.8}), turned(scenes={"sim-sar:0:0.4": 0.4})
    opened = make_world({"sim-sar": TWO}, classes=2, size=12)
    with_them, without = make_all(own + dials, *opened), make_all(own, *opened)
    for name in set(text.COLUMNS) - {"dial", "trend", "claims"}:
        pd.testing.assert_frame_equal(with_them[name], without[name])
    assert without["dial"].empty and len(with_them["dial"]) and len(with_them["claims"]) > len(without["claims"])
    asked = make_all(dials, *make_world({"sim-sar:0:0.4": TWO}, classes=2, size=12))
    assert set(asked["accuracy"]["scene"]) == {"sim-sar:0:0.4"}  # a study of that scene is asked for by its name


def test_separability_of_a_sensor_that_is_the_class_and_of_one_that_is_noise():
    scene, split = make_scene(classes=4)
    rng = np.random.default_rng(0)
    scene["hsi"][:] = 1000 * scene["label"].values + rng.normal(size=scene["hsi"].shape)
    scene["sar"][:] = rng.normal(size=scene["sar"].shape)
    found = dial.sensors({0.5: (scene, split)}).set_index("modality")["separability"]
    assert found["hsi"] == pytest.approx(1, abs=1e-3) and found["sar"] < 0.05


# ---- leakage


def as_split(part, kind="fixed"):
    part = np.asarray(part, np.int8)
    return xr.DataArray(part, dims=("y", "x"), attrs={"kind": kind, "hash": hashlib.sha256(part.tobytes()).hexdigest()})


def mapped(split, predicted, seed=0, patch=3, **attrs):
    run = chosen("concat", seed, "tiny")[["confusion", "prototypes"]].assign(
        map=(("y", "x"), np.asarray(predicted, np.uint8))
    )
    about = {"split_hash": split.attrs["hash"], "split_kind": split.attrs["kind"], "config": f'{{"patch": {patch}}}'}
    return run.assign_attrs(about | attrs)


@pytest.fixture
def line():
    """Ten labelled pixels: training at 0, validation at 1 and 9, test at 2, 3, 5 and 8, of which 5 is wrong."""
    scene = make_scene("tiny", classes=2, size=12)[0].isel(y=slice(1), x=slice(10))
    scene["label"].values[:] = 1
    return {"tiny": scene}, as_split([[1, 2, 3, 3, 0, 3, 0, 0, 3, 2]]), [[1, 1, 1, 1, 1, 2, 1, 1, 1, 1]]


def test_leakage_holds_mean_and_spread_over_seeds_and_marks_random(line):
    scenes, split, predicted = line
    other, right = as_split([[1, 0, 3, 3, 0, 3, 0, 0, 3, 2]], "random"), [[1] * 10]
    made = [
        mapped(split, predicted),
        mapped(split, right, 1),
        mapped(other, predicted),
        mapped(split, right, 2, patch=5),
    ]
    made.append(mapped(split, [[2] * 10], 3, variant="lambda_p=3.0"))  # a sensitivity run is no row
    for order in (made, made[::-1]):
        found = leakage.leakage(order, scenes, [split, other])
        assert found[["split_kind", "radius", "n_seeds"]].values.tolist() == [
            ["fixed", 1, 2],
            ["fixed", 2, 1],
            ["random (leaking)", 1, 1],
        ]
        row = found.iloc[0]
        assert row[["n_train", "n_test", "share_overlap", "share_val_overlap"]].tolist() == [1, 4, 0, 0.5]
        assert (row["oa_all_mean"], row["oa_all_sd"]) == (87.5, pytest.approx(25 / np.sqrt(2)))
        assert np.isnan(row["oa_overlap_mean"]) and np.isnan(found.iloc[1]["oa_all_sd"])
        assert found.iloc[1][["share_overlap", "oa_overlap_mean"]].tolist() == [0.25, 100]
    with pytest.raises(PrsaError, match="concat on tiny: expected its scene and the split of hash"):
        leakage.leakage(made, scenes, [])


def test_accuracy_by_distance_is_binned_exactly(line, monkeypatch):
    scenes, split, predicted = line
    monkeypatch.setattr(leakage, "FEW", 1)
    found = leakage.by_distance([mapped(split, predicted), mapped(split, [[1] * 10], 1)], scenes, [split])
    wanted = [[2, 2, 1, 100], [3, 3, 1, 100], [4, 5, 1, 50], [8, 11, 1, 100]]
    assert found[["nearest", "farthest", "n_test", "oa_mean"]].values.tolist() == wanted
    far = as_split([[0, 0, 1, 0, 0, 0, 0, 0, 3, 3]])
    made = [mapped(split, predicted, s) for s in (0, 1, 2)] + [mapped(far, [[1] * 10], 3)]
    found = leakage.by_distance(made, scenes, [split, far])  # one seed in four reaches 6 to 7
    assert found[["nearest", "n_seeds"]].values.tolist() == [[2, 3], [3, 3], [4, 3], [8, 3]]
    monkeypatch.setattr(leakage, "FEW", 2)
    assert leakage.by_distance(made[:1], scenes, [split]).empty


def test_both_kinds_are_trained_on_equally_many_pixels_of_each_class():
    scene = tiny.make_scene(noise=2.0)
    label = scene["label"].values
    made, splits = compare(scene, seeds=2, preset="quick", device="cpu", **tiny.SMALL)
    kinds = [(run.attrs["split_kind"], run.attrs["seed"]) for run in made]
    assert kinds == [("random", 0), ("blocks", 0), ("random", 1), ("blocks", 1)]
    counts = [[int(((split.values == 1) & (label == k)).sum()) for k in (1, 2, 3, 4)] for split in splits]
    assert counts[0] == counts[1] and counts[2] == counts[3] and len({split.attrs["hash"] for split in splits}) == 4
    found = leakage.leakage(made, {"tiny": scene}, splits).set_index("split_kind")
    assert found.loc["blocks", "share_overlap"] == 0 and found.loc["random (leaking)", "share_overlap"] > 0.9
    assert found["n_train"].nunique() == 1
    with pytest.raises(PrsaError, match="1 or more"):
        compare(scene, seeds=0)
    split = split_scene(scene, "random")
    few = thin(split, label, np.array([3, 5, 7, 10_000]), seed=0)
    there = [int(((part.values == 1) & (label == k)).sum()) for part, k in zip([few] * 3 + [split], (1, 2, 3, 4))]
    assert there == [3, 5, 7, int(((few.values == 1) & (label == 4)).sum())]
    np.testing.assert_array_equal(few.values > 1, split.values > 1)
    assert (thin(split, label, np.array([3] * 4), 0).values != thin(split, label, np.array([3] * 4), 1).values).any()


# ---- diagnostics


def striped(shift=0.0):
    """Two classes on 20 x 20 pixels, left half training, right half test; sensor a drifts by ``shift`` in class 2."""
    label = np.repeat([1, 2], 10)[:, None] * np.ones((20, 20), int)
    noise = np.tile([1.0, -1.0], (20, 10))  # sd 1 within every class and part
    a = noise + np.where((label == 2) & (np.arange(20) >= 10), shift, 0.0)
    data = {"a": (("a_band", "y", "x"), np.stack([a, a])), "b": (("b_band", "y", "x"), noise[None])}
    attrs = {"name": "striped", "class_names": '["one", "two"]'}
    split = xr.DataArray(np.where(np.arange(20) < 10, 1, 3) * np.ones((20, 1), int), dims=("y", "x"))
    return xr.Dataset(data | {"label": (("y", "x"), label)}, attrs=attrs), split


def test_area_drift_is_the_shift_in_training_deviations_of_classes_with_enough_pixels():
    scene, split = striped(3.0)
    found = area_drift(scene, split).set_index(["modality", "class"])["drift"]
    np.testing.assert_allclose(found[[("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")]], [0, 3, 0, 0], atol=1e-6)
    scene["a"].values[:, 15, 0] = np.nan
    rare = split.where(~((scene["label"] == 2) & (split == 3)), 0)
    rare[15, 10:15] = 3  # five test pixels of class two are left
    assert set(area_drift(scene, rare)["class"]) == {"one"} and np.isfinite(area_drift(scene, split)["drift"]).all()
    assert area_drift(scene, split * 0).empty


def test_calibration_counts_by_hand():
    scene, split = striped()
    test, wrong = split.values == 3, np.zeros((20, 20), bool)
    land, confidence = np.where(test, scene["label"].values, 0).astype(np.uint8), np.full((20, 20), 0.95, np.float32)
    wrong[:5, 10:] = True  # 50 of the 200 test pixels, with confidence 0.65
    land[wrong], confidence[wrong] = 2, 0.65
    run = xr.Dataset({"map": (("y", "x"), land), "confidence": (("y", "x"), confidence)})
    found = calibration(scene, split, [run])
    np.testing.assert_allclose(found, [[0.65, 0, 0.25], [0.95, 1, 0.75]], atol=1e-6)
    assert calibration_error(found) == pytest.approx(0.25 * 0.65 + 0.75 * 0.05, abs=1e-6)
    sure = run.assign(confidence=run["confidence"] * 0 + 1)
    assert calibration(scene, split, [sure])["share"].tolist() == [1.0]  # full confidence falls into the last bin


# ---- published numbers


@functools.cache
def literature():
    return pd.read_csv(published.PUBLISHED)


def benchmark(
    scene="houston2013", train=2300, val=532, test=12197, split="fixed", bands="hsi 144; lidar 1", simulated=0
):
    values = scene, "title", simulated, bands, 9, 9, 15, train, val, test, split, "licence"
    return dict(zip(text.COLUMNS["datasets"], values))


def measured(scene, **oa):
    rows = [(scene, m, family(m), v, 0.5) for m, v in oa.items()]
    return pd.DataFrame(rows, columns=["scene", "method", "family", "oa_mean", "oa_sd"])


def test_the_file_of_published_numbers():
    columns = "dataset modalities protocol train_samples test_samples method year oa oa_sd aa aa_sd kappa kappa_sd"
    assert literature().columns.tolist() == [*columns.split(), "epoch_chosen_on", "source"] and len(literature()) == 206
    needed = ["dataset", "modalities", "protocol", "method", "oa", "epoch_chosen_on", "source"]
    assert literature()[needed].notna().all(axis=None)
    numbers = literature()[["oa", "aa", "kappa"]]
    assert (((numbers > 1) & (numbers <= 100)) | numbers.isna()).all(axis=None)  # points, also kappa
    row = only(literature().query("dataset == 'Houston2013' and modalities == 'HSI+LiDAR' and oa_sd == 0.53"))
    assert (row.method, row.oa, row.aa, row.kappa, row.train_samples) == ("MFT", 89.80, 91.51, 88.93, 2832)


def test_published_numbers_stand_beside_ours_and_say_what_their_epoch_was_chosen_on():
    datasets = pd.DataFrame([benchmark(), benchmark("sim-sar", simulated=1)])
    ours = measured("houston2013", prsanet=90.0, mft=88.0, svm=80.0, endnet=85.0)
    found = published.published(pd.concat([ours, measured("sim-sar", mft=70.0)]), datasets, literature())
    assert set(found["scene"]) == {"houston2013"}
    both = found[found["method"].ne("")]
    assert sorted(both[["method", "ours_oa", "published_method", "published_oa"]].values.tolist()) == [
        ["mft", 88.0, "MFT", 87.03],
        ["mft", 88.0, "MFT", 89.8],
        ["svm", 80.0, "SVM", 71.94],
    ]
    assert both.index.tolist() == [0, 1, 2] and both["ours_sd"].eq(0.5).all()
    alone = found[found["method"].eq("")]
    assert {"RF", "ViT", "M2Heat"} <= set(alone["published_method"]) and alone["ours_oa"].isna().all()
    on_test = found[found["epoch_chosen_on"].str.startswith("test pixels")]
    marked = {"MFT", "MFT (channel tokenizer)", "ExViT", "ExViT (official run log)", "MSFMamba"}
    assert set(on_test["published_method"]) == marked
    assert not found["published_oa"].isin([95.11, 99.37, 94.77]).any()  # other or unstated splits
    assert "test pixels (official code)" in text.page(found)


def test_published_numbers_need_the_official_counts_kind_and_modalities():
    changes = [{}, {"train": 2285}, {"test": 12182}, {"split": "blocks"}, {"bands": "lidar 1; hsi 144"}]
    changes += [{"split": "fixed (leaking)"}, {"bands": "hsi 144"}]
    scenes = [pd.DataFrame([benchmark(**change)]) for change in changes]
    found = [published.published(measured("houston2013"), scene, literature()) for scene in scenes]
    n = len(found[0])
    assert n > 15 and [len(part) for part in found[:6]] == [n, 0, 0, 0, n, n]
    assert 0 < len(found[6]) < 20 and "Cross-HL" not in set(found[6]["published_method"])


@pytest.mark.parametrize(
    "scene, words",
    [
        (benchmark("sim-sar", simulated=1), ["simulated"]),
        (benchmark("muufl_crop"), ["none of the data sets"]),
        (
            benchmark("trento", 400, 100, 500, "blocks", "hsi 63; lidar 2"),
            ["819 training and 29395", "500 of the kind"],
        ),
        (benchmark("muufl", bands="hsi 64; lidar 2"), ["random or unstated"]),
        (benchmark("augsburg", 700, 61, 77533, bands="hsi 180; chm 1"), ["exactly chm + hsi"]),
        (benchmark(train=2285), ["2832 training and 12197 test pixels, got 2817 (validation included) and 12197"]),
        (benchmark(), []),
    ],
)
def test_reasons_why_no_published_number_is_shown(scene, words):
    found = published.reasons(pd.DataFrame([scene]), literature())
    assert list(found) == [scene["scene"]] * bool(words)
    for sentence in found.values():
        assert sentence.endswith(".") and "\n" not in sentence and all(part in sentence for part in words)


# ---- what is written


def test_files_are_the_same_whatever_the_order_of_runs(runs, world, tmp_path):
    shuffled = runs.copy()
    random.Random(0).shuffle(shuffled)
    made = write_all(runs, *world, tmp_path / "a")
    write_all(shuffled, *world, tmp_path / "b")
    names = sorted(f"{name}.{end}" for name in text.COLUMNS for end in ("csv", "md", "tex"))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names and set(made) == set(text.COLUMNS)
    for name in names:
        content = (tmp_path / "a" / name).read_text()
        assert content == (tmp_path / "b" / name).read_text()
        assert "second" not in content and not re.search(r"\bnan\b", content)  # no timing, no raw missing value
    for name, found in made.items():
        assert list(found) == text.COLUMNS[name]
        words = {column: str for column in found if found[column].dtype.kind not in "fi"}
        blank = {column: "" for column in found if column not in words}
        written = pd.read_csv(tmp_path / "a" / f"{name}.csv", dtype=words, keep_default_na=False, na_values=blank)
        pd.testing.assert_frame_equal(written, found.round(3), check_dtype=False)


def test_tables_that_no_run_is_of_have_headers_only(tmp_path):
    write_all([], {}, {}, tmp_path)
    for name, columns in text.COLUMNS.items():
        assert (tmp_path / f"{name}.csv").read_text() == ",".join(columns) + "\n"
        assert (tmp_path / f"{name}.md").read_text().count("\n| ---") == 1


def test_a_note_is_the_first_paragraph_of_the_docstring():
    assert text.note(tables.sensitivity).startswith("OA of prsanet in points") and "\n" not in text.note(claims.ledger)
    made = make_all([make_run(method="concat")], *make_world({"sim-sar": TWO}))
    for found in made.values():
        first, *_, last = found.attrs["notes"]
        assert first.endswith(".") and "Raises" not in first and last == "Simulated: sim-sar."
        assert (text.INTERVALS in found.attrs["notes"]) == any(column.endswith("lo") for column in found)


def test_means_differences_and_missing_values_as_text():
    row = ["a_b|c", 1, "concat", "study", 1234, 81.24, 0.35, 80.0, np.nan, np.nan, np.nan, -0.0001, -0.04, 1.25]
    found = text.readable(text.frame("accuracy", [row]))
    cells = ["a_b|c", "yes", "concat", "study", "1,234", "81.2 ± 0.3", "80.0", "–", "+0.0 [0.0, 1.2]"]
    assert found.iloc[0].tolist() == cells and found.columns.tolist()[4:6] == ["seeds", "OA"]
    ledger = text.readable(text.frame("claims", [("c", "s", "m (cosine)", 0.0123, -0.5, 0.61, 3, "not supported")]))
    assert ledger.iloc[0].tolist() == ["c", "s", "m (cosine)", "+0.012 [-0.500, 0.610]", "3", "not supported"]
    other = text.frame("published", [("h", "mft", 88.0, 0.5, "MFT", 87.03, np.nan, "not stated", "S")])
    assert text.readable(other).iloc[0].tolist() == ["h", "mft", "88.0 ± 0.5", "MFT", "87.0", "not stated", "S"]


ODD = ["a|b", "x_1_", "$5$ & <b>bold</b>", "*no* `code` [a](b)", "日本 Wälder ~^#%{}\\", "cut\nin two", "q\"u,o'te"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Tables of scenes and classes with odd names, on a leaking split, one class without test pixels."""
    folder, made, scenes, splits = tmp_path_factory.mktemp("odd"), [], {}, {}
    for name in ODD[:5]:
        scene, split = make_scene(name, classes=7, size=12)
        scenes[name], splits[name] = scene, split.assign_attrs(kind="fixed (leaking)")
        for method in ("late", "concat", "prsanet"):
            run = make_run(name, method, 0, classes=7, epochs=2, size=12)
            run = run.assign_coords({"class": ODD, "predicted": ODD}).assign_attrs(split_kind="fixed (leaking)")
            run["confusion"].loc[{"part": "test", "class": ODD[2]}] = 0
            made.append(run)
    write_all(made, scenes, splits, folder)
    return folder


def test_odd_names_survive_every_format(odd):
    flat = [" ".join(name.split()) for name in ODD]
    written = pd.read_csv(odd / "per_class.csv")
    assert written["class"].unique().tolist() == ODD and written["scene"].unique().tolist() == ODD[:5]
    page = BeautifulSoup(markdown2html((odd / "per_class.md").read_text()), "html.parser").table
    cells = [[cell.get_text().strip() for cell in row.find_all("td")] for row in page.find_all("tr")[1:]]
    assert list(dict.fromkeys(name for _, _, name, *_ in cells)) == flat
    assert list(dict.fromkeys(scene for scene, *_ in cells)) == [f"{name} (leaking split)" for name in flat[:5]]
    assert not page.find_all(["b", "em", "code", "a"])
    assert "$" not in (odd / "per_class.md").read_text()  # MathJax would typeset what stands between two
    latex = (odd / "per_class.tex").read_text()
    assert r"\$5\$ \& <b>bold</b>" in latex and r"x\_1\_" in latex and "日本 Wälder" in latex
    body = latex.partition("\\begin")[2]
    assert {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")} == {4}
    assert not re.search(r"(?<!\\)[$#%]", body.replace(r"$\pm$", ""))


def test_leaks_and_classes_without_test_pixels_are_said_in_every_table(odd):
    for name in set(text.COLUMNS):
        content = (odd / f"{name}.md").read_text()
        assert content.count("leaks: test patches hold training pixels") == 5
        assert content.count("no test pixels of <span>&#36;</span>5") == 5 and "AA is over 6 of 7 classes." in content
    for name in ("accuracy", "evaluation", "datasets", "leakage", "imbalance"):
        assert (
            "(leaking split)" in (odd / f"{name}.md").read_text()
            and "(leaking split)" in (odd / f"{name}.tex").read_text()
        )
    assert pd.read_csv(odd / "datasets.csv")["split"].unique().tolist() == ["fixed (leaking)"]
    gone = pd.read_csv(odd / "per_class.csv").query("`class` == @ODD[2]")
    assert gone["n_test"].eq(0).all() and gone["accuracy_mean"].isna().all()


def test_no_table_needs_torch_or_matplotlib():
    code = "import sys, prsa.report; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
