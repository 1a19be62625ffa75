"""Every number of the robustness table by hand from invented run files, what is left out, and what the figure shows."""

import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from synthetic import counts, make_run

from prsa.errors import PrsaError
from prsa.figures import robustness_plots
from prsa.figures.style import METHOD_COLOURS
from prsa.report import groups, robustness

FALL = {"none": 0.0, "hsi noise 0.5": 5.0, "hsi noise 2": 20.0, "hsi missing": 50.0, "sar missing": 10.0}
_BASE = {}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def run(method, seed=0, scene="one", oa=80.0, fall=FALL, names=("hsi", "sar"), **options):
    """A run file with chosen OA (points) on clean pixels and its fall under each condition."""
    key = method, scene, names, str(options)
    if key not in _BASE:
        _BASE[key] = make_run(scene, method, 0, names, classes=2, epochs=2, size=12, **options)
    one = _BASE[key].drop_vars(["degraded_confusion", "condition"]).assign_coords(condition=list(fall))
    one["degraded_confusion"] = (
        ("condition", "class", "predicted"),
        np.stack([counts(oa - lost) for lost in fall.values()]),
    )
    return one.assign_attrs(_BASE[key].attrs | {"seed": seed})


def row(table, method, degradation, strength=None, modality=None):
    found = table[table["method"].eq(method) & table["degradation"].eq(degradation)]
    for column, value in (("strength", strength), ("modality", modality)):
        found = found if value is None else found[found[column].eq(value)]
    (only,) = found.itertuples()
    return only


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


def test_a_condition_of_no_modality_is_an_error():
    with pytest.raises(PrsaError, match="one of the modalities hsi, sar, got 'lidar missing'"):
        robustness.parse("lidar missing", ["hsi", "sar"])


def test_differences_losses_and_interval_by_hand():
    """OA 86 and 90 against 80 and 82, falls of 10 against 20: under noise differences of 16 and 18; half width 12.706 sqrt(2) / sqrt(2)."""
    milder = FALL | {"hsi noise 2": 10.0}
    runs = [
        run("concat", 0, oa=80.0),
        run("concat", 1, oa=82.0),
        run("prsanet", 1, oa=90.0, fall=milder),
        run("prsanet", 0, oa=86.0, fall=milder),
    ]
    table = robustness.robustness(runs)
    assert tuple(table.columns) == robustness.COLUMNS
    assert (
        ",".join(table.columns)
        == "group,method,modality,degradation,strength,n_scenes,n_seeds,oa_mean,d_oa,d_oa_lo,d_oa_hi,loss_mean"
    )
    clean, noisy = row(table, "prsanet", "none"), row(table, "prsanet", "noise", 2.0)
    assert (clean.oa_mean, clean.loss_mean, clean.modality, clean.strength) == (
        88.0,
        0.0,
        "",
        0.0,
    ) and clean.d_oa == pytest.approx(7.0)
    assert (noisy.oa_mean, noisy.n_scenes, noisy.n_seeds, noisy.modality) == (pytest.approx(78.0), 1, 2, "hsi")
    assert noisy.loss_mean == pytest.approx(10.0) and noisy.d_oa == pytest.approx(17.0)
    assert (noisy.d_oa_lo, noisy.d_oa_hi) == (
        pytest.approx(17 - 12.706, abs=1e-3),
        pytest.approx(17 + 12.706, abs=1e-3),
    )
    base = row(table, "concat", "noise", 2.0)
    assert (base.d_oa, base.d_oa_lo, base.d_oa_hi) == (0, 0, 0) and base.loss_mean == pytest.approx(20.0)
    gone = row(table, "prsanet", "missing", modality="sar")
    assert (gone.strength, gone.loss_mean) == (1.0, pytest.approx(10.0))


def test_scenes_of_a_kind_are_one_group_with_a_bootstrap_over_scenes():
    gains = {("sim-sar", 0): 4.0, ("sim-sar", 1): 6.0, ("sim-sar:1", 0): -1.0, ("sim-sar:1", 1): 1.0}
    runs = [
        run(m, seed, scene, oa=70.0 + (gain if m == "sagf" else 0))
        for (scene, seed), gain in gains.items()
        for m in ("concat", "sagf")
    ]
    table = robustness.robustness(runs + [run(m, 0, "other", oa=50.0) for m in ("concat", "sagf")])
    assert list(dict.fromkeys(table["group"])) == ["sim-sar", "other"]
    first = row(table[table["group"].eq("sim-sar")], "sagf", "missing", modality="hsi")
    wanted = groups.interval(gains)
    assert (first.d_oa, first.d_oa_lo, first.d_oa_hi, first.n_scenes, first.n_seeds) == pytest.approx(
        wanted
    ) and wanted[3:] == (2, 2)
    alone = row(table[table["group"].eq("other")], "sagf", "none")
    assert alone.d_oa == 0 and np.isnan(alone.d_oa_lo) and np.isnan(alone.d_oa_hi) and alone.n_seeds == 1


def test_rows_are_by_group_condition_and_method():
    runs = [run(m, 0, scene) for scene in ("two", "one") for m in ("prsanet", "pmr", "concat", "late")]
    table = robustness.robustness(runs)
    assert table["group"].drop_duplicates().tolist() == ["two", "one"]
    assert table["method"].tolist()[:4] == ["late", "concat", "prsanet", "pmr"] and len(table) == 2 * len(FALL) * 4
    assert [f"{m} {d} {s:g}".strip() for m, d, s in table[["modality", "degradation", "strength"]].values[:20:4]] == [
        "none 0",
        "hsi noise 0.5",
        "hsi noise 2",
        "hsi missing 1",
        "sar missing 1",
    ]
    pd.testing.assert_frame_equal(table, robustness.robustness(runs[:4][::-1] + runs[4:][::-1]))


def test_dials_overrides_and_runs_without_branches_are_left_out():
    good = [run(m, s) for m in ("concat", "prsanet") for s in (0, 1)]
    other = [
        run("prsanet", 7, overrides={"lambda_p": 3.0}),
        make_run("one", "mft", 0, classes=2, epochs=2, size=12),
        run("concat", 9).assign_attrs(probed=0),
        *(run(m, 0, "sim-sar:0:0.4") for m in ("concat", "prsanet")),
        run("hsi", 0, "single", names=("hsi",), fall={"none": 0.0, "hsi missing": 9.0}),
    ]
    pd.testing.assert_frame_equal(robustness.robustness(other + good), robustness.robustness(good))
    assert robustness.robustness(other).empty


@pytest.mark.parametrize(
    "runs, message",
    [
        (
            lambda: [run("concat", 0), run("prsanet", 0), run("prsanet", 1)],
            "a run of concat beside every other one, got none on one with seed 1",
        ),
        (lambda: [run("prsanet", 0)], "a run of concat .* got none on one with seed 0"),
        (lambda: [run("concat", 0), run("concat", 0)], "concat on one with seed 0 twice"),
        (
            lambda: [run("concat", s, scene) for scene, s in (("sim-tri", 0), ("sim-tri", 1), ("sim-tri:1", 0))],
            "the same seeds for every scene",
        ),
    ],
)
def test_what_cannot_be_paired_is_an_error_and_nothing_is_written(runs, message, tmp_path):
    with pytest.raises(PrsaError, match=message):
        robustness.robustness(runs())
    with pytest.raises(PrsaError, match=message):
        robustness.write(runs(), tmp_path)
    assert not list(tmp_path.iterdir())


def study(seeds=3, methods=("late", "concat", "pmr", "prsanet", "prsanet-no-push")):
    return [
        make_run(scene, m, s, size=12, epochs=2)
        for scene in ("sim-sar", "sim-sar:1")
        for m in methods
        for s in range(seeds)
    ]


def test_strongest_and_dominant():
    table = robustness.robustness(study())
    assert robustness.dominant(table, "sim-sar") == "hsi"
    top = robustness.strongest(table)
    assert set(zip(top["modality"], top["degradation"], top["strength"])) == {
        ("hsi", "cloud shadow", 0.9),
        ("hsi", "noise", 2.0),
        ("hsi", "band loss", 0.75),
        ("hsi", "missing", 1.0),
        ("sar", "missing", 1.0),
    }
    assert len(top) == 5 * 5


def test_written_table_comes_back_and_reads_well(tmp_path):
    runs = study() + [run(m, 0, "real", simulated=0) for m in ("concat", "prsanet")]  # 2,000 pixels
    paths = robustness.write(iter(runs), tmp_path / "deep")
    table, back = (
        robustness.robustness(runs),
        pd.read_csv(paths[0], keep_default_na=False, na_values={"d_oa_lo": [""], "d_oa_hi": [""]}),
    )
    assert [p.name for p in paths] == ["robustness.csv", "robustness.md"] and len(back) == len(table)
    pd.testing.assert_frame_equal(back, table, atol=1e-3, check_dtype=False)
    text = paths[1].read_text()
    assert (
        text.startswith(robustness.NOTE) and "At most 2,000 test pixels of a run. Simulated groups: sim-sar.\n" in text
    )
    assert text.count("\n| ") == len(table) + 2
    line = row(robustness.robustness(runs[-2:]), "prsanet", "noise", 0.5)
    assert (
        "| real | prsanet | hsi | noise | 0.5 | 1 | 1 | 75.0 | +0.0 | 5.0 |" in text
        and line.loss_mean == pytest.approx(5.0)
    )
    assert "| difference in OA | loss |" in text and "-0.0 |" not in text


def test_words_are_those_of_the_evaluation():
    from prsa.study import degrade

    assert (degrade.CLEAN, degrade.MISSING) == (robustness.CLEAN, robustness.MISSING)
    assert list(degrade.STRENGTHS) == list(robustness_plots.AXES) and all(
        kind in robustness.NOTE for kind in (*degrade.STRENGTHS, degrade.MISSING)
    )


def test_no_torch_is_needed():
    code = "import sys, prsa.robustness, prsa.robustness_plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figure_shows_the_tables_numbers():
    table = robustness.robustness(study())
    fig = robustness_plots.robustness(table)
    above, below = np.array(fig.axes).reshape(2, 4)
    assert [ax.get_title() for ax in above] == ["hsi: cloud shadow", "hsi: noise", "hsi: band loss", "missing"]
    assert [ax.get_xlabel() for ax in below[:3]] == list(robustness_plots.AXES.values())
    methods = ["late", "concat", "prsanet", "pmr"]
    methods = [m for m in dict.fromkeys(table["method"]) if m in methods]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == methods, "ablations are left out"
    for ax, under, kind in zip(above, below, ("cloud shadow", "noise", "band loss")):
        lines = {to_hex(line.get_color()): line for line in ax.lines}
        for method in methods:
            rows = table[table["method"].eq(method) & table["degradation"].isin(["none", kind])].sort_values("strength")
            line = lines[to_hex(robustness_plots.looks(methods)[method][0])]
            np.testing.assert_allclose(line.get_xdata(), rows["strength"])
            np.testing.assert_allclose(line.get_ydata(), rows["oa_mean"])
        assert len(under.containers) == len(methods) - 1, "concat is the line at 0"
        bars = under.containers[[m for m in methods if m != "concat"].index("prsanet")]
        rows = table[table["method"].eq("prsanet") & table["degradation"].isin(["none", kind])].sort_values("strength")
        np.testing.assert_allclose(bars.lines[0].get_ydata(), rows["d_oa"])
        np.testing.assert_allclose(
            [segment[:, 1] for segment in bars.lines[2][0].get_segments()], rows[["d_oa_lo", "d_oa_hi"]]
        )
    assert [t.get_text() for t in below[3].get_xticklabels()] == ["hsi", "sar"]
    dots = next(line for line in above[3].lines if to_hex(line.get_color()) == METHOD_COLOURS["prsanet"].lower())
    gone = table[table["method"].eq("prsanet") & table["degradation"].eq("missing")]
    np.testing.assert_allclose(dots.get_ydata(), gone["oa_mean"])
    assert dots.get_linestyle() == "None" and (np.round(dots.get_xdata()) == [0, 1]).all()
    assert "2 scenes and 3 seeds" in fig.legends[0].get_title().get_text()


def test_methods_without_a_colour_of_their_own_differ():
    names = ["concat", "aux", "js", "mmpareto", "prsanet", "ogm-ge"]
    looks = robustness_plots.looks(names)
    assert (
        len({colour for colour, _ in looks.values()}) == len(names) and looks["prsanet"][0] == METHOD_COLOURS["prsanet"]
    )


def test_one_seed_has_no_bars_and_long_ones_are_cut_and_said_so():
    alone = robustness_plots.robustness(robustness.robustness([run("concat"), run("prsanet", oa=85.0)]))
    assert "no intervals" in alone.legends[0].get_title().get_text() and not any(
        bar.has_yerr for ax in alone.axes for bar in ax.containers
    )
    base = [run("concat", s) for s in (0, 1)]
    wild = robustness_plots.robustness(
        robustness.robustness(base + [run("prsanet", s, oa=85.0 + 6 * s) for s in (0, 1)])
    )
    assert (
        "cut at the frame" in wild.legends[0].get_title().get_text()
        and max(abs(v) for v in wild.axes[2].get_ylim()) < 30
    )
    calm = robustness_plots.robustness(robustness.robustness(base + [run("prsanet", s, oa=85.0) for s in (0, 1)]))
    assert "cut" not in calm.legends[0].get_title().get_text()


def test_figure_of_an_unknown_group_is_an_error():
    table = robustness.robustness([run("concat", 0, scene) for scene in ("one", "two")])
    for group in (None, "three"):
        with pytest.raises(PrsaError, match="groups \\(one, two\\), got"):
            robustness_plots.robustness(table, group)
    assert robustness_plots.robustness(table, "two").legends
