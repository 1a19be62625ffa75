"""Diagnostics against values computed by hand, and figures by what they show."""

import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic import make_run, make_scene, make_study

from prsa.errors import PrsaError
from prsa.figures import diagnostics, table_plots
from prsa.report import tables
from prsa.report.diagnostics import area_drift, calibration, calibration_error


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def striped(shift=0.0):
    """Two classes on 20 x 20 pixels, left half training, right half test; sensor a drifts by ``shift`` in class 2, sensor b never."""
    label = np.repeat([1, 2], 10)[:, None] * np.ones((20, 20), int)
    noise = np.tile([1.0, -1.0], (20, 10))  # sd 1 within every class and part
    a = noise + np.where((label == 2) & (np.arange(20) >= 10), shift, 0.0)
    scene = xr.Dataset(
        {
            "a": (("a_band", "y", "x"), np.stack([a, a])),
            "b": (("b_band", "y", "x"), noise[None]),
            "label": (("y", "x"), label),
        },
        attrs={"name": "striped", "class_names": json.dumps(["one", "two"])},
    )
    split = xr.DataArray(np.where(np.arange(20) < 10, 1, 3) * np.ones((20, 1), int), dims=("y", "x"))
    return scene, split


def test_area_drift_is_the_shift_in_training_deviations():
    table = area_drift(*striped(3.0)).set_index(["modality", "class"])["drift"]
    np.testing.assert_allclose(table[[("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")]], [0, 3, 0, 0], atol=1e-6)


def test_area_drift_leaves_out_rare_classes_and_no_data():
    scene, split = striped(3.0)
    scene["a"].values[:, 15, 0] = np.nan
    rare = split.where(~((scene["label"] == 2) & (split == 3)), 0)
    rare[15, 10:15] = 3  # five test pixels of class two are left
    assert set(area_drift(scene, rare)["class"]) == {"one"}
    assert np.isfinite(area_drift(scene, split)["drift"]).all()


def test_drift_plot_shows_every_class_and_the_median():
    table = area_drift(*make_scene())
    ax = diagnostics.drift_plot(table)
    shown = sorted(line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1)
    np.testing.assert_allclose(shown, sorted(table["drift"]))
    medians = {line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2}
    assert medians == set(table.groupby("modality")["drift"].median())
    assert "sd" in ax.get_xlabel() and len(ax.get_legend().get_texts()) == table["class"].nunique() + 1


def test_class_spectra_show_the_means_of_both_parts():
    scene, split = make_scene()
    fig = diagnostics.class_spectra(scene, split)
    k = next(k for k in range(1, 9) if all(((split == part) & (scene["label"] == k)).any() for part in (1, 3)))
    for ax, part in zip(fig.axes, (1, 3)):
        inside = (split.values == part) & (scene["label"].values == k)
        np.testing.assert_allclose(ax.lines[k - 1].get_ydata(), scene["hsi"].values[:, inside].mean(1), rtol=1e-5)
        np.testing.assert_allclose(ax.lines[k - 1].get_xdata(), scene["wavelength"])
        assert ax.get_xlabel() == "wavelength (nm)"
    assert len(fig.legends[0].get_texts()) == 8
    assert diagnostics.class_spectra(*make_scene(wavelength=False)).axes[0].get_xlabel() == "hsi band"


def test_alone_or_joint_shows_both_runs():
    joint, alone = make_run(method="concat"), make_run(method="late").sel(modality=["sar"])
    fig = diagnostics.alone_or_joint(joint, alone)
    np.testing.assert_allclose(fig.axes[0].lines[0].get_ydata(), alone["s"].sel(modality="sar"))
    np.testing.assert_allclose(fig.axes[0].lines[1].get_ydata(), joint["s"].sel(modality="sar"))
    counts = [run["probe_confusion"].sel(modality="sar").values for run in (alone, joint)]
    np.testing.assert_allclose(
        [bar.get_height() for bar in fig.axes[1].patches], [100 * np.trace(c) / c.sum() for c in counts]
    )
    with pytest.raises(PrsaError, match="a run of one modality"):
        diagnostics.alone_or_joint(alone, joint)


@pytest.mark.parametrize("modalities", [("hsi", "sar"), ("hsi", "lidar", "rgb")])
def test_probe_gap_shows_the_imbalance_table(modalities):
    table = tables.imbalance(tables.scores(make_study({"plots": modalities}, seeds=2)))
    fig = diagnostics.probe_gap(table)
    for ax, m in zip(fig.axes, modalities):
        part = table[table["modality"].eq(m)].set_index("method")
        marks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(marks, part["probe_oa_joint"][[t.get_text() for t in fig.axes[0].get_yticklabels()]])
        assert part["probe_oa_alone"].iloc[0] in [
            line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"
        ]
    with pytest.raises(PrsaError, match="mars"):
        diagnostics.probe_gap(table, "mars")


def test_calibration_counts_by_hand():
    scene, split = striped()
    test = split.values == 3
    land, confidence = np.where(test, scene["label"].values, 0).astype(np.uint8), np.full((20, 20), 0.95, np.float32)
    wrong = np.zeros((20, 20), bool)
    wrong[:5, 10:] = True  # 50 of the 200 test pixels, with confidence 0.65
    land[wrong], confidence[wrong] = 2, 0.65
    run = xr.Dataset({"map": (("y", "x"), land), "confidence": (("y", "x"), confidence)})
    table = calibration(scene, split, [run])
    np.testing.assert_allclose(table, [[0.65, 0, 0.25], [0.95, 1, 0.75]], atol=1e-6)
    assert calibration_error(table) == pytest.approx(0.25 * 0.65 + 0.75 * 0.05, abs=1e-6)
    ax = diagnostics.confidence_plot({"concat": table})
    np.testing.assert_allclose(ax.lines[0].get_xydata(), table[["confidence", "accuracy"]])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["concat"]


def test_full_confidence_falls_into_the_last_bin():
    scene, split = striped()
    run = xr.Dataset({"map": scene["label"], "confidence": (("y", "x"), np.ones((20, 20), np.float32))})
    assert calibration(scene, split, [run])["share"].tolist() == [1.0]


def test_accuracy_rankings_has_a_panel_per_scene():
    table = tables.accuracy(tables.scores(make_study({name: ("hsi", "sar") for name in ("a", "b", "c", "d")}, seeds=2)))
    fig = table_plots.accuracy_rankings(table)
    assert [ax.get_title() for ax in fig.axes] == [f"{name} (simulated)" for name in "abcd"]
    for ax, (_, part) in zip(fig.axes, table.groupby("scene", sort=False)):
        shown = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(shown, part["oa_mean"])
    assert (
        isinstance(table, pd.DataFrame) and len(table_plots.accuracy_rankings(table[table["scene"].eq("b")]).axes) == 1
    )
