"""The controls of the playground, set by code: what they show is what the runs say, and Train trains what is set."""

import numpy as np
import pytest
from synthetic import make_study
from tiny import make_scene

from prsa import PrsaError, fit, split_scene
from prsa.data.simulate import CONFIGS
from prsa.figures import playground
from prsa.report.scores import probe_oa

KINDS = {"sim-sar": ("hsi", "sar"), "sim-sar:0:0": ("hsi", "sar"), "sim-tri": ("hsi", "sar", "dsm")}


@pytest.fixture(scope="module")
def runs():
    return make_study(KINDS, 3, ("late", "concat", "prsanet"), ())


@pytest.fixture(scope="module")
def table(runs):
    return playground.numbers(runs)


def test_the_numbers_are_those_of_the_runs(runs, table):
    assert len(table) == 2 * (1 + 2 + 2) + (1 + 3 + 3) and set(table["n_seeds"]) == {3}
    row = table.query("kind == 'sim-sar' and dial == 0 and method == 'concat' and modality == 'sar'").iloc[0]
    own = {
        m: [r for r in runs if (r.attrs["scene"], r.attrs["method"]) == ("sim-sar:0:0", m)] for m in ("late", "concat")
    }
    gaps = [probe_oa(a, "sar") - probe_oa(j, "sar") for a, j in zip(own["late"], own["concat"], strict=True)]
    assert np.isclose(row["gap"], np.mean(gaps)) and row["gap_lo"] <= row["gap"] <= row["gap_hi"]
    assert np.isclose(row["rho"], np.mean([r["rho"].values[-1][1] for r in own["concat"]]))
    counts = [r["confusion"].sel(part="test", head="fused").values for r in own["concat"]]
    assert np.isclose(row["oa"], np.mean([100 * np.trace(c) / c.sum() for c in counts]))
    assert table.query("method == 'late'")[["gap", "rho"]].isna().all(axis=None)


def test_a_study_without_a_simulated_scene_shows_the_teaching_runs(monkeypatch, capsys, runs, table):
    """A study of one's own scene: it has no dial to turn, and the notebook must not fail for that."""

    class Own:
        specs, dial = ["own"], []

        def open(self, specs):
            return make_study({"mine": ("hsi", "sar")}, 2, simulated=0) if "own" in specs else runs

    class Taught(Own):
        specs = ["taught"]

    monkeypatch.setattr(playground, "open_study", lambda word: Taught() if word == "teaching" else Own())
    assert playground.of_study("quick").equals(table) and "no scene that the dial turns" in capsys.readouterr().out
    assert playground.of_study("teaching").equals(table) and not capsys.readouterr().out


def test_the_first_tab_follows_every_control(table):
    tab = playground.Browse(table)
    assert (tab.kind.value, tab.dial.value, tab.method.value) == ("sim-sar", CONFIGS["sim-sar"].dial, "prsanet")
    seen = {tab.picture.value}
    for control, value in (
        ("dial", 0.0),
        ("method", "concat"),
        ("sensor", "sar"),
        ("kind", "sim-tri"),
        ("sensor", "dsm"),
    ):
        getattr(tab, control).value = value
        assert tab.picture.value not in seen, control
        seen.add(tab.picture.value)
        here = table[table["kind"].eq(tab.kind.value) & table["dial"].eq(tab.dial.value)]
        row = here[here["method"].eq(tab.method.value) & here["modality"].eq(tab.sensor.value)].iloc[0]
        for number in (f"{row['oa']:.1f} [", f"gap {row['gap']:.1f} [", f"factor {row['rho']:.2f} ["):
            assert number in tab.words.value, (control, number)
        assert f"Its {tab.sensor.value} branch" in tab.words.value
        assert ("ahead of" in tab.words.value) == (row["rho"] > 1)
        assert ("interval holds 0" in tab.words.value) == (row["gap_lo"] <= 0 <= row["gap_hi"])
    assert tab.dial.options == ((f"{CONFIGS['sim-tri'].dial:g}", CONFIGS["sim-tri"].dial),)
    tab.method.value = "late"
    assert "trained alone" in tab.words.value


def test_scales_stay_while_the_dial_is_turned(table):
    figures = [playground.view(table, "sim-sar", dial, "concat", "sar") for dial in (0.0, CONFIGS["sim-sar"].dial)]
    limits = [[ax.get_xlim() for ax in figure.axes] for figure in figures]
    assert limits[0] == limits[1]
    with pytest.raises(PrsaError, match="expected a kind, dial and modality"):
        playground.view(table, "sim-sar", 0.33, "concat", "sar")


def test_the_static_figure_has_a_row_per_kind_and_sensor_on_one_scale(table):
    figure = playground.overview(table)
    labels = [ax.get_ylabel() for ax in figure.axes[::3]]
    assert labels == ["sim-sar\nhsi", "sim-sar\nsar", "sim-tri\nhsi", "sim-tri\nsar", "sim-tri\ndsm"]
    for column in range(3):
        assert len({ax.get_xlim() for ax in figure.axes[column::3]}) == 1
    titles = [ax.get_title() for ax in figure.axes]
    assert all(titles[:3]) and not any(titles[3:])
    assert "concat" in figure.alt


@pytest.fixture
def tab():
    scene = make_scene()
    return playground.Train(scene, split_scene(scene, "blocks", radius=3), fit, "cpu")


def test_train_trains_what_the_controls_say(tab):
    seen = []
    tab.picture.observe(lambda change: seen.append(change["new"]), "value")
    tab.lambda_p.value, tab.base.value, tab.epochs.value = 0.5, 2.0, 2
    tab.button.click()
    assert len(seen) == len(set(seen)) == 2 == tab.progress.value == tab.progress.max, "a curve grows with every epoch"
    assert tab.progress.bar_style == "success" and not tab.button.disabled
    same, _ = fit(tab.scene, "concat+prm", tab.split, 0, "quick", "cpu", lambda_p=0.5, base=2.0, epochs=2)
    assert same["confusion"].equals(tab.run["confusion"]) and tab.run.attrs["overrides"] == same.attrs["overrides"]
    first = tab.words.value
    for m in ("hsi", "sar"):
        assert f"{m} {probe_oa(same, m):.1f} %" in first
    tab.button.click()
    assert tab.words.value == first and len(tab.before) == len(tab.history) == 2, "the same numbers again"
    tab.lambda_p.value = 0
    tab.button.click()
    plain, _ = fit(tab.scene, "concat", tab.split, 0, "quick", "cpu", epochs=2)
    assert plain["confusion"].sel(head="fused").equals(tab.run["confusion"].sel(head="fused")), "0 is concat"


def test_noise_is_of_one_sensor_and_the_same_twice(tab):
    assert tab.noisy() is tab.scene
    tab.noise.value, tab.sensor.value = 2.0, "sar"
    once, again = tab.noisy(), tab.noisy()
    assert once["sar"].equals(again["sar"]) and once["hsi"].identical(tab.scene["hsi"])
    added = (once["sar"] - tab.scene["sar"]).std(("y", "x")) / tab.scene["sar"].std(("y", "x"))
    np.testing.assert_allclose(added, 2, rtol=0.1)
    assert once["sar"].attrs == tab.scene["sar"].attrs and once["sar"].dtype == tab.scene["sar"].dtype


def test_what_goes_wrong_is_said_in_the_tab(tab):
    tab.device = "no-such-device"
    tab.button.click()
    assert "error: device" in tab.words.value and tab.progress.bar_style == "danger" and not tab.button.disabled
