"""What each degradation does to a pixel, worked out by hand; that it does it to all methods alike and to no other modality."""

import numpy as np
import pytest
import torch
from synthetic import make_scene as wide_scene
from tiny import CLASSES, make_scene, make_trainer

from prsa import split_scene
from prsa.data import simulate
from prsa.data.patches import normalise
from prsa.data.splits import TEST
from prsa.errors import PrsaError
from prsa.study import degrade
from prsa.study.degrade import (
    CLEAN,
    STRENGTHS,
    cloud_shadow,
    degradations,
    degraded_counts,
    direct_share,
    dominant,
    noisy,
    without_bands,
)

NAMES = ("hsi", "sar", "dsm")


def hyperspectral(scene):
    """The tiny scene with the kind that the contract knows."""
    scene["hsi"].attrs["kind"] = "hyperspectral"
    return scene


def trained(scene, method, seed=0, **options):
    split = split_scene(scene, radius=2)
    trainer = make_trainer(scene, method, seed, split, **options)
    trainer.run()
    return trainer.model, split


@pytest.fixture(scope="module")
def scene():
    return hyperspectral(make_scene(NAMES))


@pytest.fixture(scope="module")
def concat(scene):
    return trained(scene, "concat", epochs=6)


def seen_by(model, monkeypatch, scene, split):
    """z (M, D) of all pixels per condition, as it reaches the fusion."""
    seen, classify = [], model.classify
    with monkeypatch.context() as patch:
        patch.setattr(model, "classify", lambda z: (seen.append(z.clone()), classify(z))[1])
        names, counts = degraded_counts(model, scene, split)
    return dict(zip(names, seen, strict=True)), dict(zip(names, counts, strict=True))


def test_reflectance_under_a_cloud_by_hand():
    """Two bands of reflectance 0.2 and 0.4; a cloud takes half of a direct share of 0.8 and of 0.5: 0.12 and 0.3 are left."""
    mean, std = torch.tensor([0.1, 0.5]), torch.tensor([0.05, 0.2])
    table = normalise(torch.tensor([[0.2, 0.4], [float("nan"), 0.4]]), mean, std)
    shaded = cloud_shadow(table, mean, std, torch.tensor([0.8, 0.5]), 0.5)
    torch.testing.assert_close(
        shaded, torch.tensor([[(0.12 - 0.1) / 0.05, (0.3 - 0.5) / 0.2], [0.0, -1.0]])
    )  # no-data stays no-data


def test_nothing_taken_is_nothing_changed():
    table, mean, std = torch.randn(50, 4), torch.rand(4), torch.rand(4) + 0.5
    torch.testing.assert_close(cloud_shadow(table, mean, std, torch.full((4,), 0.9), 0.0), table, rtol=1e-5, atol=1e-6)
    assert torch.equal(noisy(table, torch.randn(50, 4), 0.0), table)
    assert (
        torch.equal(without_bands(table, torch.randperm(4), 0.0), table)
        and not without_bands(table, torch.randperm(4), 1.0).any()
    )


def test_a_cloud_takes_more_of_the_red_than_of_the_blue():
    scene = wide_scene()[0]
    direct = direct_share(scene, "hsi").numpy()
    wavelength = scene["wavelength"].values
    assert (np.diff(direct) > 0).all() and 0.6 < direct[0] < 0.75 and 0.85 < direct[-1] < 0.92
    for share, nm in zip(direct, wavelength):
        assert share == pytest.approx(1 - (0.08 + 0.2 * (450 / nm) ** 3))


def test_the_light_of_the_sky_is_that_of_the_simulated_scenes(scene):
    simulated = simulate.simulate("sim-sar", 100)
    np.testing.assert_allclose(direct_share(simulated, "hsi"), 1 - simulate.DIFFUSE, rtol=1e-6)
    middle = np.interp(700, simulate.WAVELENGTH, 1 - simulate.DIFFUSE)
    np.testing.assert_allclose(
        direct_share(simulated, "sar"), [middle] * 2, rtol=1e-4, err_msg="wavelengths are those of other bands"
    )
    np.testing.assert_allclose(
        direct_share(scene, "hsi"), [middle] * 6, rtol=1e-4, err_msg="the scene states no wavelengths"
    )


def test_noise_has_the_sd_it_says_and_one_draw_for_all_strengths():
    scene, table = make_scene(), torch.ones(4000, 6)
    found = dict(degradations(scene, "hsi", table, torch.zeros(6), torch.ones(6)))
    draws = [(found[f"hsi noise {sd:g}"] - table) / sd for sd in STRENGTHS["noise"]]
    for draw, sd in zip(draws, STRENGTHS["noise"]):
        assert (sd * draw).std(0).numpy() == pytest.approx(sd * np.ones(6), rel=0.05) and draw.mean(
            0
        ).abs().max() < 0.06
        torch.testing.assert_close(draw, draws[0], rtol=0, atol=1e-5)
    assert np.abs(np.corrcoef(draws[0].T.numpy()) - np.eye(6)).max() < 0.06, "bands are independent"
    table[7] = 0
    assert not dict(degradations(scene, "hsi", table, torch.zeros(6), torch.ones(6)))["hsi noise 2"][7].any(), (
        "no-data stays no-data"
    )


def test_lost_bands_are_nested_and_no_data_everywhere():
    found = dict(degradations(wide_scene()[0], "hsi", torch.ones(9, 24), torch.zeros(24), torch.ones(24)))
    lost = [
        set(np.flatnonzero(~found[f"hsi band loss {share:g}"].any(0).numpy()).tolist())
        for share in STRENGTHS["band loss"]
    ]
    assert [len(bands) for bands in lost] == [6, 12, 18] and lost[0] < lost[1] < lost[2]
    assert lost[1] != set(range(12)), "bands are drawn"
    for share, bands in zip(STRENGTHS["band loss"], lost):
        kept = [band for band in range(24) if band not in bands]
        assert (found[f"hsi band loss {share:g}"][:, kept] == 1).all()


def test_the_clean_bands_are_not_written_over():
    table = torch.randn(30, 6)
    before = table.clone()
    assert len(list(degradations(make_scene(), "hsi", table, torch.zeros(6), torch.ones(6)))) == 9 and torch.equal(
        table, before
    )


def test_scenes_and_degradations_have_streams_of_their_own():
    table, mean, std = torch.ones(20, 6), torch.zeros(6), torch.ones(6)
    one, again, other = (dict(degradations(make_scene(name=name), "hsi", table, mean, std)) for name in ("a", "a", "b"))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["hsi noise 1"], other["hsi noise 1"]) and torch.equal(
        one["hsi cloud shadow 0.6"], other["hsi cloud shadow 0.6"]
    )


def test_dominant_is_the_hyperspectral_modality_or_the_first(scene):
    assert dominant(scene, ["dsm", "sar", "hsi"]) == "hsi"
    assert dominant(scene, ["dsm", "sar"]) == "dsm"


def test_conditions_and_counts(scene, concat):
    names, counts = degraded_counts(concat[0], scene, concat[1])
    degraded = [f"hsi {kind} {strength:g}" for kind, strengths in STRENGTHS.items() for strength in strengths]
    assert names == [CLEAN, *degraded, "hsi missing", "sar missing", "dsm missing"]
    assert counts.shape == (len(names), len(CLASSES), len(CLASSES)) and counts.dtype.kind == "i"
    label, part = scene["label"].values, concat[1].values
    truth = np.bincount(label[part == TEST], minlength=5)[1:]
    assert (counts.sum(2) == truth).all(), "every test pixel once, rows are the truth"


def test_names_of_modalities_are_free():
    scene = make_scene(("hsi", "sar")).rename({"hsi": "spectral cube", "hsi_band": "spectral cube_band"})
    model, split = trained(scene, "concat", epochs=1)
    assert {"spectral cube noise 0.5", "spectral cube missing", "sar missing"} <= set(
        degraded_counts(model, scene, split)[0]
    )


def test_at_most_so_many_pixels_evenly_spaced(scene, concat, monkeypatch):
    monkeypatch.setattr(degrade, "PIXELS", 30)
    monkeypatch.setattr(degrade, "BATCH", 7)
    _, counts = degraded_counts(concat[0], scene, concat[1])
    test = np.flatnonzero(concat[1].values.ravel() == TEST)
    chosen = test[np.linspace(0, len(test) - 1, 30).astype(int)]
    assert (counts.sum(2) == np.bincount(scene["label"].values.ravel()[chosen], minlength=5)[1:]).all()


@pytest.mark.parametrize("method", ["late", "concat", "prsanet"])
def test_clean_and_missing_are_the_models_own_answers(scene, method, monkeypatch):
    """Worked out again from windows: missing is zeros after normalisation."""
    model, split = trained(scene, method)
    trainer = make_trainer(scene, method, split=split)
    test = np.flatnonzero(split.values.ravel() == TEST)
    seen, counts = seen_by(model, monkeypatch, scene, split)
    windows = degrade.PatchSource(
        scene, model.sides, {m: tuple(s.numpy() for s in pair) for m, pair in trainer.model.statistics().items()}, test
    )
    x = windows.gather(torch.arange(len(test)))
    truth = scene["label"].values.ravel()[test]
    cases = {CLEAN: {}} | {f"{m} missing": {m: torch.zeros_like(x[m])} for m in NAMES}
    for condition, changed in cases.items():
        with torch.no_grad():
            out = model(x | changed)
        torch.testing.assert_close(seen[condition], out["z"], rtol=1e-4, atol=1e-4)
        wanted = np.zeros((4, 4), int)
        for t, p in zip(truth, out["logits"].argmax(1).numpy()):
            wanted[t - 1, p] += 1
        assert abs(counts[condition] - wanted).sum() <= 2, "but for a tie between two classes"
    assert not np.array_equal(counts["hsi missing"], counts[CLEAN])


def test_only_the_degraded_modality_changes(scene, concat, monkeypatch):
    seen, _ = seen_by(concat[0], monkeypatch, scene, concat[1])
    for condition, z in seen.items():
        for i, m in enumerate(NAMES):
            same = torch.equal(z[:, i], seen[CLEAN][:, i])
            assert same != condition.startswith(m + " "), f"{m} under {condition}"


def test_a_pixel_is_degraded_alike_in_all_windows_methods_and_seeds(scene, monkeypatch):
    """What the encoders are given, put back on the scene's grid: one value per pixel and band, the same for two methods and seeds."""
    grids, split = [], split_scene(scene, radius=2)
    test = np.flatnonzero(split.values.ravel() == TEST)
    inside = np.isin(test // 48, range(2, 38)) & np.isin(test % 48, range(2, 46))
    for method, seed in (("concat", 0), ("prsanet", 5)):
        model = make_trainer(scene, method, seed, split).model
        given, encoder = [], model.encoders["hsi"]
        encoder.register_forward_hook(lambda module, args, out, given=given: given.append(args[0].clone()))
        names, _ = degraded_counts(model, scene, split)
        windows = torch.cat(given).view(len(names) - 2, len(test), 6, 5, 5)  # sar and dsm missing are not encoded
        grid = np.full((len(windows), 6, 40, 48), np.nan, np.float32)
        for w, centre in zip(windows[:, inside].swapaxes(0, 1).numpy(), test[inside]):
            y, x = divmod(centre, 48)
            there = grid[:, :, y - 2 : y + 3, x - 2 : x + 3]
            assert ((there == w) | np.isnan(there)).all(), "a window before this one showed another value"
            grid[:, :, y - 2 : y + 3, x - 2 : x + 3] = w
        grids.append(grid)
    np.testing.assert_array_equal(*grids)
    assert np.isfinite(grids[0]).any()


def test_damage_costs_accuracy_where_the_modality_is_all_there_is():
    scene = hyperspectral(make_scene(noise=0.3))
    model, split = trained(scene, "late", epochs=12, only=["hsi"])
    names, counts = degraded_counts(model, scene, split)
    oa = {name: np.trace(c) / c.sum() for name, c in zip(names, counts)}
    assert oa[CLEAN] > 0.9 and oa["hsi missing"] < 0.6 and set(names) == {*names} - {"sar missing"}
    assert oa["hsi noise 2"] < oa["hsi noise 0.5"] <= oa[CLEAN] and oa["hsi band loss 0.75"] < oa[CLEAN]


def test_a_network_that_was_training_is_looked_at_as_in_use(scene, concat):
    _, wanted = degraded_counts(concat[0], scene, concat[1])
    concat[0].train()
    _, counts = degraded_counts(concat[0], scene, concat[1])
    np.testing.assert_array_equal(counts, wanted)
    assert not concat[0].training


def test_a_split_without_test_pixels_is_an_error(scene, concat):
    with pytest.raises(PrsaError, match="expected test pixels .* got none. Use a split"):
        degraded_counts(concat[0], scene, concat[1].where(concat[1] != TEST, 0))
