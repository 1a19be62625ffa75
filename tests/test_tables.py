"""Tables against numbers worked out from the runs by hand, and the files they are written to."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from synthetic import COMPARATORS, LONG_NAMES, make_run, make_scene, make_study

from prsa.errors import PrsaError
from prsa.report import tables

SCENES = {"sim-sar": ("hsi", "sar"), "plots": ("hsi", "lidar", "rgb")}


@pytest.fixture(scope="module")
def runs():
    return make_study(SCENES, seeds=3)


@pytest.fixture(scope="module")
def world():
    made = {name: make_scene(name, modalities, simulated=int(name == "sim-sar")) for name, modalities in SCENES.items()}
    return {n: m[0] for n, m in made.items()}, {n: m[1] for n, m in made.items()}


@pytest.fixture(scope="module")
def scores(runs):
    return tables.scores(runs)


def naive_oa(run, head="fused"):
    counts = run["confusion"].sel(head=head, part="test").values
    return 100 * sum(counts[k, k] for k in range(len(counts))) / counts.sum()


def pick(runs, scene, method, variant=""):
    return [r for r in runs if (r.attrs["scene"], r.attrs["method"], r.attrs["variant"]) == (scene, method, variant)]


def test_accuracy_has_the_agreed_columns_rows_and_numbers(runs, scores):
    table = tables.accuracy(scores)
    assert (
        ",".join(table.columns)
        == "scene,simulated,method,family,n_seeds,oa_mean,oa_sd,aa_mean,aa_sd,kappa_mean,kappa_sd,d_oa,d_oa_lo,d_oa_hi"
    )
    fused = ["late", "concat", "concat+prm", "sagf", "prsanet"]
    assert table["method"].tolist() == ["hsi", "sar", *fused, "hsi", "lidar", "rgb", *fused]
    assert table["family"].tolist()[:7] == ["single", "single", "late"] + ["study"] * 4
    row = table.set_index(["scene", "method"]).loc[("sim-sar", "prsanet")]
    ours, base = ([naive_oa(r) for r in pick(runs, "sim-sar", m)] for m in ("prsanet", "concat"))
    assert (
        row["n_seeds"] == 3
        and row["oa_mean"] == pytest.approx(np.mean(ours))
        and row["oa_sd"] == pytest.approx(np.std(ours, ddof=1))
    )
    interval = stats.ttest_rel(ours, base).confidence_interval(0.95)
    assert row["d_oa"] == pytest.approx(np.mean(ours) - np.mean(base))
    assert (row["d_oa_lo"], row["d_oa_hi"]) == (pytest.approx(interval.low), pytest.approx(interval.high))
    alone = [naive_oa(r, "lidar") for r in pick(runs, "plots", "late")]
    assert table.set_index(["scene", "method"]).loc[("plots", "lidar"), "oa_mean"] == pytest.approx(np.mean(alone))


def test_order_and_families_of_methods_and_unknown_ones_last():
    mixed = (
        "zebra",
        "svm",
        "mft",
        "prsanet",
        "late",
        "rf-spatial",
        "ogm-ge",
        "concat",
        "aux",
        "endnet",
        "prsanet-no-alignment",
    )
    table = tables.accuracy(tables.scores(make_study(seeds=1, methods=mixed, lambdas=())))
    assert table["method"].tolist() == [
        "hsi",
        "sar",
        "late",
        "concat",
        "prsanet",
        "aux",
        "ogm-ge",
        "endnet",
        "mft",
        "svm",
        "rf-spatial",
        "zebra",
    ]
    pairs = [[name] * 2 for name in ("study", "rebalancing", "network", "classical")]
    assert table["family"].tolist() == ["single", "single", "late", *sum(pairs, []), "other"]
    kinds = {
        kind: [m for m in COMPARATORS if tables.family(m) == kind] for kind in ("rebalancing", "network", "classical")
    }
    assert kinds["rebalancing"] == ["aux", "ogm-ge", "pmr", "pmr-code", "mmpareto", "js", "modality-dropout"]
    assert kinds["network"] == ["endnet", "coupled-cnn", "s2enet", "mft"] and kinds["classical"] == [
        "rf",
        "svm",
        "rf-spatial",
        "svm-spatial",
    ]


def test_comparators_without_branches_leave_the_tables_of_branches_alone(world, tmp_path):
    """With every comparator trained, the tables about branches hold the same rows as without those that have none."""
    some = ("late", "concat", "prsanet", "prsanet-no-push")
    everything = [
        run
        for name, modalities in SCENES.items()
        for seed in (0, 1)
        for method in (*some, *COMPARATORS)
        for run in [make_run(name, method, seed, modalities, size=24)]
    ]
    assert {tables.family(r.attrs["method"]) for r in everything if not r.attrs["probed"]} == {"network", "classical"}
    scores, probed = tables.scores(everything), tables.scores([r for r in everything if r.attrs["probed"]])
    for make in (tables.imbalance, tables.ablation, tables.sensitivity):
        pd.testing.assert_frame_equal(make(scores), make(probed))
        assert not make(scores).isna().any(axis=None)
    assert {"aux", "modality-dropout"} <= set(tables.imbalance(scores)["method"])
    cost = tables.complexity(scores)
    assert cost.loc[cost["scene"].eq("plots"), "method"].tolist() == [*some, *COMPARATORS]
    assert set(tables.per_class(scores)["method"]) >= set(COMPARATORS)


def test_a_sensor_trained_on_its_own_is_listed_with_its_cost():
    table = tables.scores([make_run(method="concat"), make_run(method="sar", modalities=("sar",))])
    assert tables.accuracy(table)[["method", "family"]].to_numpy().tolist() == [["sar", "single"], ["concat", "study"]]
    assert tables.complexity(table)["method"].tolist() == ["sar", "concat"] and set(
        tables.imbalance(table)["method"]
    ) == {"concat"}


def test_pairing_is_by_seed_not_by_position(runs, scores):
    shuffled = runs.copy()
    random.Random(1).shuffle(shuffled)
    pd.testing.assert_frame_equal(
        tables.accuracy(tables.scores(sorted(shuffled, key=lambda r: r.attrs["scene"], reverse=True))),
        tables.accuracy(scores),
    )


def test_unequal_seeds_raise():
    runs = [make_run(method="concat", seed=s) for s in (0, 1)] + [make_run(method="prsanet", seed=s) for s in (0, 2)]
    with pytest.raises(PrsaError, match=r"\[0, 2\] and \[0, 1\].*missing seeds"):
        tables.accuracy(tables.scores(runs))
    late = [make_run(method="late", seed=0)]
    with pytest.raises(PrsaError, match="sim-sar concat with sim-sar late"):
        tables.imbalance(tables.scores(runs[:2] + late))


def test_a_run_given_twice_raises():
    with pytest.raises(PrsaError, match="twice"):
        tables.scores([make_run(seed=3), make_run(seed=3)])


def test_one_seed_and_no_baseline_leave_gaps():
    table = tables.accuracy(tables.scores(make_study(seeds=1)))
    assert table[["oa_sd", "d_oa_lo", "d_oa_hi"]].isna().all(axis=None) and table["d_oa"].notna().all()
    alone = tables.accuracy(tables.scores([make_run(method="prsanet", seed=s) for s in range(3)]))
    assert alone[["d_oa", "d_oa_lo"]].isna().all(axis=None) and alone["oa_sd"].notna().all()


def test_per_class_numbers(runs, scores):
    table = tables.per_class(scores).set_index(["scene", "method", "class"])
    counts = [r["confusion"].sel(head="fused", part="test").values for r in pick(runs, "plots", "sagf")]
    values = [100 * c[4, 4] / c[4].sum() for c in counts]
    row = table.loc[("plots", "sagf", LONG_NAMES[4])]
    assert (
        row["n_test"] == counts[0][4].sum()
        and row["accuracy_mean"] == pytest.approx(np.mean(values))
        and row["accuracy_sd"] == pytest.approx(np.std(values, ddof=1))
    )
    assert len(table) == (7 + 8) * 8
    run = make_run(seed=0)
    run["confusion"].loc[{"class": LONG_NAMES[2], "part": "test"}] = 0
    row = tables.per_class(tables.scores([run])).set_index("class").loc[LONG_NAMES[2]]
    assert row["n_test"] == 0 and np.isnan(row["accuracy_mean"])


def test_imbalance_numbers(runs, scores):
    table = tables.imbalance(scores)
    assert (
        ",".join(table.columns)
        == "scene,method,modality,rho_final,branch_oa_joint,probe_oa_joint,probe_oa_alone,probe_gap"
    )
    assert "late" not in set(table["method"]) and set(
        table.loc[table["method"].eq("concat") & table["scene"].eq("plots"), "modality"]
    ) == {"hsi", "lidar", "rgb"}
    row = table.set_index(["scene", "method", "modality"]).loc[("sim-sar", "concat", "sar")]
    joint, late = pick(runs, "sim-sar", "concat"), pick(runs, "sim-sar", "late")

    def probe(run):
        counts = run["probe_confusion"].sel(modality="sar").values
        return 100 * np.trace(counts) / counts.sum()

    assert row["rho_final"] == pytest.approx(np.mean([r["rho"].values[-1, 1] for r in joint]))
    assert row["branch_oa_joint"] == pytest.approx(np.mean([naive_oa(r, "sar") for r in joint]))
    assert row["probe_oa_joint"] == pytest.approx(np.mean([probe(r) for r in joint]))
    assert row["probe_oa_alone"] == pytest.approx(np.mean([probe(r) for r in late]))
    assert row["probe_gap"] == pytest.approx(np.mean([probe(a) - probe(j) for a, j in zip(late, joint)]))


def test_ablation_compares_with_both_ends(runs, scores):
    table = tables.ablation(scores).set_index(["scene", "variant"])
    assert table.loc["sim-sar"].index.tolist() == [
        "concat",
        "concat+prm",
        "sagf",
        "prsanet",
        "prsanet-no-alignment",
        "prsanet-no-prototype",
    ]
    row = table.loc[("plots", "prsanet-no-alignment")]
    ours, full, base = (
        np.array([naive_oa(r) for r in pick(runs, "plots", m)]) for m in ("prsanet-no-alignment", "prsanet", "concat")
    )
    assert (row["d_concat"], row["d_prsanet"]) == (
        pytest.approx((ours - base).mean()),
        pytest.approx((ours - full).mean()),
    )
    assert row["cka"] == pytest.approx(np.mean([float(r["cka"]) for r in pick(runs, "plots", "prsanet-no-alignment")]))
    assert row["js_final"] == pytest.approx(
        np.mean([r["js"].values[-1] for r in pick(runs, "plots", "prsanet-no-alignment")])
    )


def test_sensitivity_is_paired_with_the_default_of_its_seeds():
    default = [make_run(seed=s) for s in range(5)]
    varied = [make_run(seed=s, overrides={"lambda_p": v}) for v in (10.0, 0.25) for s in (0, 1, 2)]
    same = [make_run(seed=s, overrides={"lambda_p": 1.0}) for s in (0, 1, 2)]  # an override that says the default
    other = [make_run(seed=s, overrides={"fusion": "sum"}) for s in (3, 4)]
    table = tables.sensitivity(tables.scores(default + varied + same + other))
    assert table[["parameter", "value", "n_seeds"]].to_numpy().tolist() == [
        ["fusion", "sagf", 2],
        ["fusion", "sum", 2],
        ["lambda_p", "0.25", 3],
        ["lambda_p", "1", 3],
        ["lambda_p", "10", 3],
    ]
    rows = table.set_index("value")
    low, reference = (np.array([naive_oa(r) for r in part]) for part in (varied[3:], default[:3]))
    assert rows.loc["0.25", "d_oa"] == pytest.approx((low - reference).mean())
    assert rows.loc["1", ["oa_mean", "d_oa"]].tolist() == [pytest.approx(reference.mean()), 0]
    with pytest.raises(PrsaError, match="lambda_p=0.25.*missing seeds"):
        tables.sensitivity(tables.scores(default[:2] + varied))


def test_datasets_and_complexity(world, scores):
    table = tables.datasets(*world)
    split = world[1]["plots"].values
    assert table.iloc[1].tolist() == [
        "plots",
        "Invented plots",
        0,
        "hsi 24; lidar 1; rgb 6",
        60,
        60,
        8,
        *((split == code).sum() for code in (1, 2, 3)),
        "blocks",
        "MIT",
    ]
    cost = tables.complexity(scores)
    assert cost["method"].tolist()[:7] == [
        "late",
        "concat",
        "concat+prm",
        "sagf",
        "prsanet",
        "prsanet-no-alignment",
        "prsanet-no-prototype",
    ]
    assert cost.iloc[0].tolist() == ["sim-sar", "late", 41_400, 900_000, 50_000]


def test_files_are_the_same_whatever_the_order_of_runs(runs, world, tmp_path):
    shuffled = runs.copy()
    random.Random(0).shuffle(shuffled)
    first, second = tables.write_all(runs, *world, tmp_path / "a"), tables.write_all(shuffled, *world, tmp_path / "b")
    assert sorted(p.name for p in first) == sorted(f"{t}.{e}" for t in tables.COLUMNS for e in ("csv", "md", "tex"))
    for a, b in zip(first, second):
        assert a.name == b.name and a.read_bytes() == b.read_bytes()
        assert "second" not in a.read_text() and "nan" not in a.read_text()  # no timing, no raw missing value
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in first}  # no temporary file left
    written = pd.read_csv(tmp_path / "a" / "accuracy.csv")
    pd.testing.assert_frame_equal(written, tables.accuracy(tables.scores(runs)).round(3), check_dtype=False)


def test_nothing_is_written_when_a_table_fails(world, tmp_path):
    with pytest.raises(PrsaError):
        tables.write_all([make_run(method="concat", seed=0), make_run(seed=1)], *world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_runs_give_headers_only(tmp_path):
    tables.write_all([], {}, {}, tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(tables.COLUMNS) == set(tables.NOTES)
    for name, columns in tables.COLUMNS.items():
        assert (tmp_path / f"{name}.csv").read_text() == columns + "\n"
    assert (tmp_path / "sensitivity.md").read_text().count("\n") == 4


def test_readable_markdown_and_latex(tmp_path):
    row = ["a_b|c", 1, "concat", "study", 3, 81.24, 0.35, 80.0, np.nan, 0.5, 0.1, -0.0001, -0.04, 1.25]
    frame = pd.DataFrame([row], columns=tables.COLUMNS["accuracy"].split(","))
    text = tables.readable(frame)
    assert text.iloc[0].tolist() == [
        "a_b|c",
        "yes",
        "concat",
        "study",
        "3",
        "81.2 ± 0.3",
        "80.0",
        "0.5 ± 0.1",
        "+0.0 [0.0, 1.2]",
    ]
    assert "| a_b\\|c | yes |" in tables.markdown(text)
    assert r"a\_b|c & yes & concat & study & 3 & 81.2 $\pm$ 0.3 & 80.0 & 0.5 $\pm$ 0.1" in tables._latex(text)


def test_tables_and_figures_need_no_torch():
    # the package's own __init__ offers `fit` and so loads torch; these modules must not need it themselves
    code = (
        "import sys, types; package = sys.modules['prsa'] = types.ModuleType('prsa'); package.__path__ = [sys.argv[1]]; "
        "import prsa.metrics, prsa.tables, prsa.plots, prsa.maps, prsa.published, prsa.claims, prsa.robustness, prsa.dial; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(Path(tables.__file__).parent)]).returncode == 0


def test_runs_read_from_netcdf_give_the_same_tables(tmp_path):
    runs = [make_run(method=method) for method in ("late", "concat", "prsanet")] + [
        make_run(overrides={"lambda_p": 3.0})
    ]
    read = []
    for run in runs:
        run.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
        read.append(xr.load_dataset(tmp_path / "run.nc", engine="h5netcdf"))
    first, second = tables.scores(runs), tables.scores(read)
    for make in (
        tables.accuracy,
        tables.per_class,
        tables.ranking,
        tables.ablation,
        tables.imbalance,
        tables.sensitivity,
        tables.complexity,
    ):
        pd.testing.assert_frame_equal(make(second), make(first))
