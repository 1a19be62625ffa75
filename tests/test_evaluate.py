"""What a run file says about a trained network, worked out again from single patches and loops."""

import json

import numpy as np
import pytest
import torch
from tiny import CLASSES, SMALL, every_patch, make_scene

from prsa import fit, metrics, predict_map, split_scene
from prsa.data.scene import scene_hash
from prsa.data.splits import TEST, TRAIN, VAL
from prsa.study.degrade import degraded_counts
from prsa.study.evaluate import KEPT_FEATURES, PARTS
from prsa.study.runs import load_run, save_run

NAMES = ("hsi", "sar", "dsm")


@pytest.fixture(scope="module", params=["prsanet", "late"])
def studied(request):
    """Scene, split, run, model, and the model's answer to every single patch."""
    scene = make_scene(NAMES)
    split = split_scene(scene, "random")
    run, model = fit(scene, request.param, split, 2, "quick", "cpu", **SMALL)
    with torch.no_grad():
        return scene, split, run, model, model(every_patch(model, scene))


def counted(truth, predicted):
    table = np.zeros((4, 4), int)
    for t, p in zip(truth, predicted, strict=True):
        table[t - 1, p - 1] += 1
    return table


def test_confusion_of_every_head_and_part(studied):
    scene, split, run, model, out = studied
    own = out["branch"] if run.attrs["method"] == "late" else out["prototype"]
    answers = {"fused": out["logits"].argmax(1)} | {m: own[:, i].argmax(1) for i, m in enumerate(NAMES)}
    label, part = scene["label"].values.ravel(), split.values.ravel()
    for head, answer in answers.items():
        for name, code in zip(PARTS, (TRAIN, VAL, TEST)):
            chosen = (part == code) & (label > 0)
            wanted = counted(label[chosen], answer.numpy()[chosen] + 1)
            ours = run["confusion"].sel(head=head, part=name).values
            assert ours.dtype.kind == "i" and ours.sum(1).tolist() == wanted.sum(1).tolist(), "rows are the truth"
            assert abs(ours - wanted).sum() <= 2, "but for a tie between two classes, as the patches say"


def test_map_and_confidence_are_those_of_predict_map(studied):
    scene, split, run, model, _ = studied
    cover = predict_map(model, scene)
    assert (run["map"].values != cover.values).sum() <= 2, (
        "but for a tie between two classes: a map multiplies out what is linear"
    )
    np.testing.assert_allclose(run["confidence"], cover.confidence, rtol=0, atol=1e-5)
    label, part = scene["label"].values, split.values
    inside = (part == TEST) & (label > 0)
    np.testing.assert_array_equal(
        run["confusion"].sel(head="fused", part="test"), counted(label[inside], run["map"].values[inside])
    )


def test_features_are_of_test_pixels_evenly_taken(studied):
    scene, split, run, model, out = studied
    test = np.flatnonzero(split.values.ravel() == TEST)
    chosen = test[np.linspace(0, len(test) - 1, KEPT_FEATURES).astype(int)] if len(test) > KEPT_FEATURES else test
    assert run.sizes["sample"] == len(chosen) == min(KEPT_FEATURES, len(test))
    np.testing.assert_array_equal(run["sample_label"], scene["label"].values.ravel()[chosen])
    np.testing.assert_allclose(run["features"], out["z"].numpy()[chosen], atol=1e-4)
    np.testing.assert_allclose(run["fused_features"], out["f"].numpy()[chosen], atol=1e-4)
    np.testing.assert_array_equal(run["prototypes"], model.bank.means)


def test_probes_learn_on_training_pixels_and_are_counted_on_test_pixels(studied):
    scene, split, run, model, out = studied
    label, part = scene["label"].values.ravel(), split.values.ravel()
    z, train, test = out["z"].numpy(), part == TRAIN, part == TEST
    for i, m in enumerate(NAMES):
        wanted = counted(label[test], metrics.linear_probe(z[train, i], label[train], z[test, i]))
        ours = run["probe_confusion"].sel(modality=m).values
        assert ours.sum(1).tolist() == np.bincount(label[test], minlength=5)[1:].tolist()
        assert abs(ours - wanted).sum() <= 0.04 * test.sum(), "but for rounding in the features"
    assert float(run["cka"]) == pytest.approx(
        metrics.linear_cka(out["f"].numpy()[test], np.eye(4)[label[test] - 1]), abs=1e-3
    )
    assert float(run["eta2"]) == pytest.approx(metrics.eta_squared(out["f"].numpy()[test], label[test]), abs=1e-3)


def test_counts_under_degradation_are_those_of_the_same_model_on_the_test_pixels(studied):
    scene, split, run, model, out = studied
    names, counts = degraded_counts(model, scene, split)
    assert (
        run["condition"].values.tolist() == names
        and names[0] == "none"
        and names[-3:] == [f"{m} missing" for m in NAMES]
    )
    np.testing.assert_array_equal(run["degraded_confusion"], counts)
    test = split.values.ravel() == TEST
    wanted = counted(scene["label"].values.ravel()[test], out["logits"].argmax(1).numpy()[test] + 1)
    assert test.sum() <= 2000 and abs(counts[0] - wanted).sum() <= 2, "but for a tie between two classes"


def test_curves_of_the_branches_probes_and_directions(studied):
    run = studied[2]
    assert run["probe_accuracy"].dims == run["branch_accuracy"].dims and run["source"].values.tolist() == [
        "fused",
        "prototype",
        "total",
    ]
    assert ((run["probe_accuracy"] >= 0) & (run["probe_accuracy"] <= 1)).all() and float(
        run["probe_accuracy"].isel(epoch=-1).min()
    ) > 0.1
    known = run["direction"].sel(source=["prototype", "total"]).values
    assert (np.abs(known) <= 1 + 1e-6).all() and np.isnan(run["direction"].sel(source="fused")).all() == (
        run.attrs["method"] == "late"
    )


def test_attributes(studied):
    scene, split, run, model, _ = studied
    for name, code in (("n_train", TRAIN), ("n_val", VAL), ("n_test", TEST)):
        assert run.attrs[name] == int((split.values == code).sum())
    assert run.attrs["scene_hash"] == scene_hash(scene) and run.attrs["split_hash"] == split.attrs["hash"]
    assert run.attrs["split_kind"] == "random" and run.attrs["scene"] == "tiny" and run.attrs["simulated"] == 1
    assert (
        run.attrs["params"] == sum(p.numel() for p in model.parameters())
        and run.attrs["macs_pixel"] < run.attrs["macs_patch"]
    )
    assert {"torch", "numpy"} <= set(json.loads(run.attrs["versions"])) and list(run["class"].values) == CLASSES
    assert run.attrs["seconds"] > 0 and run.attrs["samples_per_s"] > 0


@pytest.mark.parametrize("method", ["s2enet", "rf"])
def test_a_comparator_leaves_a_run_of_the_same_schema(two, method, tmp_path):
    """Counts worked out again from predictions; the file comes back; what a comparator has no branch for is NaN."""
    split = split_scene(two, radius=2)
    run, model = fit(two, method, split, 3, "quick", "cpu", **SMALL)
    assert run.attrs["probed"] == 0 and run.attrs["seed"] == 3 and run.attrs["method"] == method
    whole = predict_map(model, two)
    label = two["label"].values
    for code, part in enumerate(("train", "val", "test"), 1):
        inside = split.values == code
        counts = run["confusion"].sel(head="fused", part=part).values
        for k in range(len(CLASSES)):
            for j in range(len(CLASSES)):
                assert counts[k, j] == ((label == k + 1) & (whole.values == j + 1) & inside).sum()
        np.testing.assert_array_equal(run["map"].values[inside], whole.values[inside])
    outside = split.values == 0
    assert (run["map"].values[outside] == 0).all() and np.isnan(run["confidence"].values[outside]).all()
    unknown = ("s", "rho", "prototypes", "branch_accuracy", "probe_accuracy", "direction", "cka", "eta2")
    assert all(np.isnan(run[name].values).all() for name in unknown)
    assert run["condition"].values.tolist() == ["none"] and not run["degraded_confusion"].values.any()
    run.attrs["run_id"] = "0" * 16
    again = load_run(save_run(run, tmp_path / "run.nc"))
    np.testing.assert_array_equal(again["confusion"], run["confusion"])
    if method == "s2enet":  # it has a history, the forest has none
        assert (
            np.isfinite(run["loss"].sel(term="fused")).all()
            and np.isfinite(run["accuracy"]).all()
            and run.sizes["epoch"] == SMALL["epochs"]
        )
