"""The imbalance dial: its grid, its table worked out by hand from invented run files, its rank correlations and its figures."""

import functools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from synthetic import make_run, make_scene

from prsa.data.simulate import CONFIGS
from prsa.errors import PrsaError
from prsa.figures import dial_plots, plots
from prsa.report import dial, tables
from prsa.study import plan
from prsa.study.plan import DIAL, DIAL_METHODS, DIAL_SEEDS, RunSpec, dial_grid

TWO, THREE = ("hsi", "sar"), ("hsi", "sar", "dsm")
SETTINGS = {"sim-sar:0:0": 0.0, "sim-sar:0:0.4": 0.4, "sim-sar": 0.8, "sim-sar:0:1": 1.0}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@functools.cache
def _base(method, scene, names):
    return make_run(scene, method, 0, names, classes=2, epochs=2, size=12)


def counts(points):
    """Two classes of 1000 pixels each, of which so many points (multiples of 0.1) are right."""
    right = round(10 * points)
    return np.array([[right, 1000 - right], [1000 - right, right]])


def run(method, seed=0, scene="sim-sar", names=TWO, oa=80.0, probe=(60.0, 40.0), rho=(2.0, 0.5)):
    """A run file of two epochs with chosen numbers; rho is that of the last epoch."""
    one = _base(method, scene, names).copy(deep=True)
    one["confusion"].loc[{"head": "fused", "part": "test"}] = counts(oa)
    one["probe_confusion"].values[:] = [counts(p) for p in probe]
    one["rho"].values[:] = [rho[::-1], rho]  # the first epoch says the opposite
    return one.assign_attrs(seed=seed)


def turned(seeds=2, methods=DIAL_METHODS, scenes=SETTINGS):
    """Accuracy and the gap of hsi fall with the dial, the gap of sar and the distance from balance rise, a little differently for every seed."""
    made = []
    for scene, d in scenes.items():
        for seed in range(seeds):
            made += [
                run(
                    m,
                    seed,
                    scene,
                    oa=90 - 10 * d + seed + 2 * k,
                    probe=(60 - 5 * d, 40 - 8 * d),
                    rho=(2 ** (1 + d), 2 ** (-1 - d)),
                )
                for k, m in enumerate(methods)
                if m != "late"
            ]
            made += (
                [run("late", seed, scene, oa=85 - 10 * d + seed, probe=(72 - 10 * d + seed, 43 + seed))]
                if "late" in methods
                else []
            )
    return made


def at(table, *key):
    return table.set_index(["kind", "dial", "method", "modality"]).loc[key]


# The grid.


def test_the_grid_holds_every_setting_method_and_seed_of_the_simulated_kinds_only():
    specs = dial_grid(["sim-lidar", "muufl_crop", "sim-sar:3", "sim-sar:0:0.5", "mine.nc", "sim-tri", "sim-lidar"], 6)
    expected = [
        RunSpec(f"{kind}:0:{d:g}" if d != CONFIGS[kind].dial else kind, method, seed)
        for kind in ("sim-lidar", "sim-tri")
        for d in DIAL
        for seed in (0, 1)
        for method in DIAL_METHODS
    ]
    assert (
        specs == expected
        and len(DIAL) == 6
        and "sim-lidar" in {s.scene for s in specs}
        and "sim-tri" not in {s.scene for s in specs}
    )
    assert dial_grid(["muufl_crop", "mine.nc"], 2) == []
    assert [len({s.seed for s in dial_grid(["sim-sar"], n)}) for n in (1, 3, 5, 6, 9, 30)] == [
        1,
        1,
        1,
        2,
        3,
        3,
    ] and DIAL_SEEDS == 3


def test_the_quick_dial_has_both_ends_and_one_seed():
    specs = dial_grid(["sim-sar"], 5, "quick")
    assert [(s.scene, s.method, s.seed, s.preset) for s in specs] == [
        (f"sim-sar:0:{d}", m, 0, "quick") for d in (0, 1) for m in DIAL_METHODS
    ]
    with pytest.raises(PrsaError, match="SEEDS: expected 1 or more, got 0"):
        dial_grid(["sim-sar"], 0, "quick")


@pytest.mark.parametrize("kind", ["sim-sar", "sim-lidar"])
def test_the_default_setting_is_the_run_of_the_study(kind, results):
    """The spec is the study's own, and naming the setting would lead to the same file."""
    default = CONFIGS[kind].dial
    assert default in DIAL
    whole = plan.grid([kind], None, 1)
    shared = [s for s in dial_grid([kind], 1) if s in whole]
    assert {(s.scene, s.method) for s in shared} == {(kind, m) for m in DIAL_METHODS if m in plan.STUDY} and len(
        shared
    ) >= 3
    named = RunSpec(f"{kind}:0:{default:g}", "concat", 0)
    assert plan.run_path(named) == plan.run_path(RunSpec(kind, "concat", 0))
    assert len({plan.run_path(s) for s in dial_grid([kind], 1)}) == len(DIAL) * len(DIAL_METHODS)


@pytest.mark.parametrize(
    "scene, expected",
    [
        ("sim-sar", ("sim-sar", 0.8)),
        ("sim-tri", ("sim-tri", 0.7)),
        ("sim-tri:0:0.4", ("sim-tri", 0.4)),
        ("sim-lidar:0:1", ("sim-lidar", 1.0)),
        ("sim-sar:1", None),
        ("sim-sar:1:0.4", None),
        ("muufl_crop", None),
        ("mine:0:0.4", None),
    ],
)
def test_a_setting_is_read_from_the_name_of_a_scene(scene, expected):
    assert dial.setting(scene) == expected


# The table.


def test_the_table_is_as_promised():
    table = dial.table(turned()[::-1])
    assert (
        ",".join(table.columns)
        == "kind,dial,method,n_seeds,oa_mean,oa_sd,d_oa,d_oa_lo,d_oa_hi,modality,rho,probe_gap,probe_gap_lo,probe_gap_hi"
    )
    assert table["dial"].drop_duplicates().tolist() == [0.0, 0.4, 0.8, 1.0], "whatever the order of the runs"
    one = table[table["dial"].eq(0.4)]
    assert one[["method", "modality"]].apply(tuple, axis=1).tolist() == [
        ("late", ""),
        *((m, s) for m in ("concat", "prsanet", "pmr") for s in TWO),
    ]
    late = one[one["method"].eq("late")].iloc[0]
    assert (
        late["oa_mean"] == pytest.approx(81.5)
        and late["d_oa"] == pytest.approx(81.5 - 88.5)
        and pd.isna(late["rho"])
        and pd.isna(late["probe_gap"])
    )


def test_numbers_worked_out_by_hand():
    """At 0.4, alone 68 and 69, inside 58: gaps 10 and 11, half width 12.706 / 2. OA of pmr 90 and 91, of concat 88 and 89."""
    row = at(dial.table(turned()), "sim-sar", 0.4, "pmr", "hsi")
    assert row["n_seeds"] == 2 and row["oa_mean"] == pytest.approx(90.5) and row["oa_sd"] == pytest.approx(np.sqrt(0.5))
    assert (row["d_oa"], row["d_oa_lo"], row["d_oa_hi"]) == pytest.approx((2, 2, 2)) and row["rho"] == pytest.approx(
        2**1.4
    )
    assert (row["probe_gap"], row["probe_gap_lo"], row["probe_gap_hi"]) == pytest.approx(
        (10.5, 10.5 - 6.353, 10.5 + 6.353), abs=1e-3
    )


def test_a_kind_stands_for_its_default_setting():
    table = dial.table(
        turned(scenes={"sim-sar:0:0.4": 0.4, "sim-sar": 0.8})
        + [run("concat", 0, "sim-tri", THREE, probe=(60, 50, 40), rho=(2, 1, 0.5))]
    )
    assert table.groupby("kind")["dial"].unique().map(list).to_dict() == {"sim-sar": [0.4, 0.8], "sim-tri": [0.7]}
    assert table["kind"].drop_duplicates().tolist() == ["sim-sar", "sim-tri"]
    assert table.loc[table["kind"].eq("sim-tri"), "modality"].tolist() == list(THREE)


def test_gaps_and_leads_are_paired_by_seed_and_not_by_position():
    made = [run("concat", s, oa=70 + s, probe=(60 + s, 40)) for s in (0, 7)] + [
        run("late", s, probe=(61 + s, 40)) for s in (7, 0)
    ]
    row = at(dial.table(made + [run("pmr", s, oa=72 + s) for s in (7, 0)]), "sim-sar", 0.8)
    assert row.loc[("concat", "hsi"), ["probe_gap", "probe_gap_lo", "probe_gap_hi"]].tolist() == pytest.approx(
        [1, 1, 1]
    )
    assert row.loc[("pmr", "hsi"), ["d_oa", "d_oa_lo", "d_oa_hi"]].tolist() == pytest.approx([2, 2, 2])


def test_alone_is_the_late_run_of_the_same_setting():
    made = turned(1, scenes={"sim-sar:0:0": 0.0, "sim-sar:0:1": 1.0})
    gaps = dial.table(made).query("method == 'concat' and modality == 'hsi'").set_index("dial")["probe_gap"]
    assert gaps.to_dict() == pytest.approx({0.0: 72 - 60, 1.0: 62 - 55})


def test_without_late_or_concat_there_are_gaps_in_the_table_but_no_error():
    table = dial.table(turned(methods=("concat", "pmr")))
    assert table[["probe_gap", "probe_gap_lo"]].isna().all(axis=None) and table["rho"].notna().all()
    alone = dial.table(turned(methods=("late", "pmr")))
    assert alone["d_oa"].isna().all() and alone.loc[alone["method"].eq("pmr"), "probe_gap"].notna().all()
    one = dial.table(turned(1))
    assert one[["oa_sd", "d_oa_lo", "probe_gap_lo"]].isna().all(axis=None) and one["oa_mean"].notna().all()


@pytest.mark.parametrize(
    "missing, message",
    [
        (
            "late",
            r"branches alone \(late\) of sim-sar:0:0.4 for every seed of concat, got seeds \[0\], none for seed 1",
        ),
        ("concat", r"same seeds to pair.*sim-sar:0:0.4.*got \[0, 1\] and \[0\]"),
    ],
)
def test_a_missing_seed_is_an_error_and_nothing_is_dropped(missing, message, tmp_path):
    made = [
        r for r in turned() if (r.attrs["scene"], r.attrs["method"], r.attrs["seed"]) != ("sim-sar:0:0.4", missing, 1)
    ]
    with pytest.raises(PrsaError, match=message):
        dial.write(made, tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_scenes_and_overrides_are_left_out_and_a_run_given_twice_is_an_error():
    made = turned()
    others = [
        run("concat", 0, "sim-sar:1"),
        run("concat", 0, "plots"),
        run("concat", 0, "sim-sar:1:0.4"),
        make_run("sim-sar", "concat", 0, TWO, classes=2, epochs=2, size=12, overrides={"lr": 0.1}),
    ]
    pd.testing.assert_frame_equal(dial.table(made + others), dial.table(made))
    assert dial.table(others).empty and dial.trend(others).empty and list(dial.table([]).columns) == list(dial.COLUMNS)
    with pytest.raises(PrsaError, match="every run once"):
        dial.table(made + made[:1])


# The rank correlations.


def by_measure(trend, method):
    return trend[trend["method"].eq(method)].set_index(["measure", "modality"])


def test_correlations_have_the_sign_of_what_moves():
    trend = dial.trend(turned(3))
    assert list(trend.columns) == list(dial.TREND) and set(trend["n_settings"]) == {4} and set(trend["n_seeds"]) == {3}
    concat = by_measure(trend, "concat")["correlation"]
    assert concat.to_dict() == pytest.approx(
        {
            ("fused OA", ""): -1,
            ("distance from balance", "hsi"): 1,
            ("distance from balance", "sar"): 1,
            ("probe gap", "hsi"): -1,
            ("probe gap", "sar"): 1,
        }
    )
    late = by_measure(trend, "late")["correlation"]
    assert late.to_dict() == pytest.approx({("fused OA", ""): -1, ("lead over concat", ""): 0}), (
        "always 5 points behind"
    )


def test_the_lead_is_over_concat_of_the_same_setting_and_seed():
    """Concat falls by 4 a step, pmr by 3 with seed 0 and by 5 with seed 1."""
    made = [
        run(m, seed, scene, oa=90 + 5 * seed - i * fall)
        for i, scene in enumerate(SETTINGS)
        for seed in (0, 1)
        for m, fall in (("concat", 4), ("pmr", (3, 5)[seed]))
    ]
    trend = dial.trend(made).query("measure == 'lead over concat'")
    assert trend["method"].tolist() == ["pmr"] and trend["correlation"].iloc[0] == pytest.approx(0)
    one = dial.trend([r for r in made if r.attrs["seed"] == 0]).query("measure == 'lead over concat'")
    assert one["correlation"].iloc[0] == pytest.approx(1)
    assert "lead over concat" not in set(dial.trend([r for r in made if r.attrs["method"] == "pmr"])["measure"])


def test_a_correlation_is_taken_seed_by_seed_and_then_averaged():
    """Ranks of three settings: 1 2 3 gives 1, 1 3 2 gives 1/2, all alike gives 0. Mean 1/2, sd 1/2, half width 4.303 / 2 / sqrt(3)."""
    oa = [(70, 71, 72), (70, 72, 71), (70, 70, 70)]
    made = [
        run("concat", seed, scene, oa=values[i])
        for seed, values in enumerate(oa)
        for i, scene in enumerate(("sim-sar:0:0", "sim-sar:0:0.4", "sim-sar"))
    ]
    row = by_measure(dial.trend(made), "concat").loc[("fused OA", "")]
    assert row["correlation"] == pytest.approx(0.5) and row["correlation_lo"] == pytest.approx(0.5 - 1.242, abs=1e-3)
    assert row["correlation_hi"] == 1, "1.742 is no correlation"


def test_two_settings_give_a_sign_and_one_gives_nothing():
    two = dial.trend(turned(3, scenes={"sim-sar:0:0": 0.0, "sim-sar:0:1": 1.0}))
    assert np.allclose(two["correlation"].abs(), two["measure"].ne("lead over concat")) and two[
        ["correlation_lo", "correlation_hi"]
    ].isna().all(axis=None)
    assert dial.trend(turned(3, scenes={"sim-sar": 0.8})).empty


def test_correlations_need_the_same_seeds_at_every_setting():
    made = [run("concat", seed, scene) for scene in SETTINGS for seed in (0, 1) if (scene, seed) != ("sim-sar", 1)]
    with pytest.raises(
        PrsaError, match="same seeds of concat at every setting of sim-sar, got 7 runs for 2 seeds and 4 settings"
    ):
        dial.trend(made)


# The scenes and the files.


def test_sensors_measure_what_the_dial_changes():
    scenes = {d: plan.scene_and_split(f"sim-sar:0:{d:g}") for d in (1.0, 0.0)}
    found = dial.sensors(scenes)
    assert found["dial"].tolist() == [0, 0, 1, 1] and found["modality"].tolist() == ["hsi", "sar"] * 2
    low, high = (found[found["dial"].eq(d)].set_index("modality") for d in (0, 1))
    assert (
        high.loc["hsi", "drift"] > low.loc["hsi", "drift"] + 0.3
        and high.loc["hsi", "separability"] > low.loc["hsi", "separability"]
    )
    assert high.loc["sar", "separability"] < low.loc["sar", "separability"] - 0.1


def test_separability_of_a_sensor_that_is_the_class_and_of_one_that_is_noise():
    scene, split = make_scene(classes=4)
    rng = np.random.default_rng(0)
    scene["hsi"][:] = 1000 * scene["label"].values + rng.normal(size=scene["hsi"].shape)
    scene["sar"][:] = rng.normal(size=scene["sar"].shape)
    found = dial.sensors({0.5: (scene, split)}).set_index("modality")["separability"]
    assert found["hsi"] == pytest.approx(1, abs=1e-3) and found["sar"] < 0.05


def test_written_files_hold_the_table_and_the_correlations(tmp_path):
    made = turned()
    csv, md = dial.write(made, tmp_path / "tables")
    assert (csv.name, md.name) == ("dial.csv", "dial.md") and sorted(p.name for p in csv.parent.iterdir()) == [
        "dial.csv",
        "dial.md",
    ]
    back, table = (
        pd.read_csv(
            csv, keep_default_na=False, na_values={c: "" for c in ("rho", "probe_gap", "probe_gap_lo", "probe_gap_hi")}
        ),
        dial.table(made),
    )
    pd.testing.assert_frame_equal(back, table.round(tables.DECIMALS), check_dtype=False, atol=1e-9)
    text = md.read_text()
    assert "| sim-sar | 0.4 | pmr | 2 | 90.5 ± 0.7 | +2.0 [2.0, 2.0] | hsi | 2.639 | +10.5 [4.1, 16.9] |" in text
    assert (
        "| sim-sar | concat | probe gap | sar | 4 | 2 | +1.00 [1.00, 1.00] |" in text
        and dial.NOTE in text
        and dial.TREND_NOTE in text
    )
    assert csv.read_bytes() == dial.write(made[::-1], tmp_path / "again")[0].read_bytes()


def test_nothing_is_written_without_runs_of_the_dial(tmp_path):
    with pytest.raises(PrsaError, match="expected runs of the imbalance dial.*sim-sar.*plan.dial_grid"):
        dial.write([run("concat", 0, "plots")], tmp_path)
    assert not list(tmp_path.iterdir())


def test_runs_of_the_dial_never_enter_the_tables_of_the_study(tmp_path):
    scene, split = make_scene("sim-sar", classes=2, size=12)
    own, dials = turned(scenes={"sim-sar": 0.8}), turned(scenes={"sim-sar:0:0.4": 0.4})
    with_them, without = (
        tables.write_all(made, {"sim-sar": scene}, {"sim-sar": split}, tmp_path / name)
        for made, name in ((own + dials, "a"), (own, "b"))
    )
    assert [p.read_bytes() for p in with_them] == [p.read_bytes() for p in without]
    asked = scene.assign_attrs(name="sim-sar:0:0.4"), split.assign_attrs(hash="split of sim-sar:0:0.4")
    tables.write_all(dials, *({"sim-sar:0:0.4": one} for one in asked), tmp_path / "c")
    assert set(pd.read_csv(tmp_path / "c" / "accuracy.csv")["scene"]) == {"sim-sar:0:0.4"}, (
        "a study of that scene is asked for by its name"
    )


# The figures.


def drawn(ax):
    """Method colour -> (x, y, error bars) of a panel."""
    return {
        bar.lines[0].get_color(): (
            *bar.lines[0].get_data(orig=False),
            bar.lines[2][0].get_segments() if bar.lines[2] else None,
        )
        for bar in ax.containers
    }


def test_curves_show_the_numbers_of_the_table():
    made = turned(3)
    for one in made:
        one["confusion"].loc[{"head": "fused", "part": "test"}] = counts(80 - one.attrs["seed"])  # mean 79, sd 1
    table = dial.table(made)
    fig = dial_plots.curves(table, "sim-sar")
    assert len(fig.axes) == 5
    colours = {m: look["color"] for m, look in dial_plots._looks(list(dict.fromkeys(table["method"]))).items()}
    assert len(set(colours.values())) == 4
    top = next(ax for ax in fig.axes if ax.get_ylabel().startswith("fused OA"))
    x, y, bars = drawn(top)[colours["prsanet"]]
    np.testing.assert_allclose(y, 79)
    np.testing.assert_allclose(x, [0, 0.4, 0.8, 1], atol=0.03)
    np.testing.assert_allclose(bars[0][:, 1], [79 - 4.303 / np.sqrt(3), 79 + 4.303 / np.sqrt(3)], atol=1e-3)
    gap = next(ax for ax in fig.axes if ax.get_ylabel().startswith("probe gap"))
    assert set(drawn(gap)) == set(colours.values()) - {colours["late"]}
    concat = table.query("method == 'concat' and modality == 'hsi'")
    np.testing.assert_allclose(drawn(gap)[colours["concat"]][1], concat["probe_gap"])
    np.testing.assert_allclose(
        drawn(gap)[colours["concat"]][2][0][:, 1], concat[["probe_gap_lo", "probe_gap_hi"]].iloc[0]
    )
    assert (
        "3 seeds" in fig.legends[0].get_title().get_text()
        and "sim-sar (simulated)" in fig.legends[0].get_title().get_text()
    )
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["late", "concat", "prsanet", "pmr", "default setting"]


def test_the_factor_is_on_a_log_axis_with_balance_in_the_middle():
    made = turned()
    for one in made:
        one["rho"] = one["rho"] / 2  # far below 1, little above
    fig = dial_plots.curves(dial.table(made))
    left = next(ax for ax in fig.axes if ax.get_ylabel().startswith("imbalance factor"))
    right = next(ax for ax in fig.axes if ax.get_title() == "sar branch" and ax.get_yscale() == "log")
    low, high = left.get_ylim()
    assert (
        left.get_yscale() == "log" and low * high == pytest.approx(1) and high >= 8 and right.get_ylim() == (low, high)
    )
    assert [left.yaxis.get_major_formatter()(v) for v in left.get_yticks()] == ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    np.testing.assert_allclose(next(iter(drawn(right).values()))[1], 2.0 ** -(2 + np.array([0, 0.4, 0.8, 1])))


def test_the_default_setting_is_marked_and_every_modality_has_its_panels():
    table = dial.table(
        [
            run(m, 0, f"sim-tri:0:{d}", THREE, probe=(60, 50, 40), rho=(2, 1, 0.5))
            for d in (0, 1)
            for m in ("late", "concat")
        ]
    )
    fig = dial_plots.curves(table, "sim-tri")
    assert sorted(ax.get_title() for ax in fig.axes) == sorted(["", *(f"{m} branch" for m in THREE for _ in range(2))])
    for ax in fig.axes:
        assert any(
            line.get_linestyle() == ":" and set(line.get_xdata()) == {CONFIGS["sim-tri"].dial} for line in ax.lines
        ), ax.get_title()
    assert "one seed" in fig.legends[0].get_title().get_text()


def test_panels_that_nothing_was_measured_for_are_left_out():
    without = dial_plots.curves(dial.table(turned(methods=("concat", "pmr"))))
    assert not any("gap" in ax.get_ylabel() for ax in without.axes) and any(
        "factor" in ax.get_ylabel() for ax in without.axes
    )
    late = dial_plots.curves(dial.table([run("late", 0, scene) for scene in SETTINGS]))
    assert [ax.get_ylabel() for ax in late.axes] == ["fused OA (%)"] and late.axes[0].get_xlabel() == dial_plots.AXIS


def test_a_kind_must_be_one_of_the_table(tmp_path):
    table = dial.table(turned())
    with pytest.raises(PrsaError, match="one of the table's kinds \\(sim-sar\\), got 'sim-tri'"):
        dial_plots.curves(table, "sim-tri")
    assert [p.name for p in plots.save(dial_plots.curves(table), tmp_path / "dial")] == ["dial.png", "dial.pdf"]


def test_the_figure_of_the_sensors_has_both_measures_of_every_modality():
    rows = pd.DataFrame(
        [(d, m, 0.5 + 0.1 * d, 0.2 + d) for d in (0.0, 1.0) for m in THREE],
        columns=["dial", "modality", "separability", "drift"],
    )
    fig = dial_plots.sensors(rows, "sim-tri")
    left, right = fig.axes
    assert left.get_ylim() == (0, 1) and right.get_ylim()[0] == 0
    for ax, values in ((left, [0.5, 0.6]), (right, [0.2, 1.2])):
        lines = [line for line in ax.lines if line.get_linestyle() == "-"]
        assert len(lines) == 3 and all(np.allclose(line.get_ydata(), values) for line in lines)
    assert {t.get_text() for t in fig.legends[0].get_texts()} == {*THREE, "default setting"}
