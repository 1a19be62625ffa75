"""Classical classifiers: features against naive windows, what they may see, how the grid point is chosen, and their runs."""

import json

import numpy as np
import pytest
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from tiny import make_scene

from prsa import fit, predict_map, split_scene
from prsa.comparators import classical
from prsa.comparators.classical import Classifier, class_probabilities, spatial_features
from prsa.config import METHODS, make_config
from prsa.data.patches import band_statistics
from prsa.data.splits import TEST, TRAIN, VAL
from prsa.errors import PrsaError
from prsa.study.runs import check_run, load_run, save_run

CLASSICAL = [m for m, settings in METHODS.items() if "classifier" in settings]
SIDES = {"hsi": 7, "sar": 3, "dsm": 5}
PATCHES = ",".join(f"{m}={side}" for m, side in SIDES.items())


class Recorder(KNeighborsClassifier):
    """Nearest neighbours that remember what every copy of them was fitted to."""

    fits = []

    def fit(self, x, y):
        Recorder.fits.append(y)
        return super().fit(x, y)


def neighbours(seed):
    return Recorder(), {"n_neighbors": [1, 7, 40]}


def tied(seed):
    return DummyClassifier(), {"strategy": ["most_frequent", "prior"]}


def made(scene, method="svm", split=None, seed=0, **overrides):
    split = split_scene(scene, "blocks", radius=3) if split is None else split
    return Classifier(scene, split, make_config(method, "quick", **({"patch": 5} | overrides)), seed)


def stub(scene, function, split=None, **overrides):
    return made(scene, "svm", split, classifier=f"{__name__}:{function.__name__}", **overrides)


def answers(model, scene, centres=None):
    """Probabilities (pixels of the scene, K), NaN where the model was not asked."""
    p = np.full((scene["label"].size, len(model.classes)), np.nan, np.float32)
    for part, values in model.probabilities(scene, np.arange(len(p)) if centres is None else centres):
        assert values.dtype == np.float32 and np.isnan(p[part]).all() and len(set(part)) == len(part)
        p[part] = values
    return p


def accuracy(model, scene, split, code):
    chosen = split.values.ravel() == code
    return np.mean(answers(model, scene)[chosen].argmax(1) + 1 == scene["label"].values.ravel()[chosen])


def parts(values, kind="fixed"):
    return xr.DataArray(
        np.asarray(values, np.int8), dims=("y", "x"), attrs={"kind": kind, "seed": 0, "radius": 3, "hash": "by hand"}
    )


def no_validation(split):
    """The same split with validation pixels in no part: nothing to choose, so one fit."""
    return parts(np.where(split.values == VAL, 0, split.values))


def all_features(model, scene):
    return model.features(scene, 0, scene.sizes["y"])


@pytest.mark.parametrize("method", CLASSICAL)
def test_separable_classes_are_found(method):
    scene = make_scene(noise=0.05)
    split = split_scene(scene, "random")
    assert accuracy(made(scene, method, split), scene, split, TEST) > (0.95 if "spatial" in method else 0.995)


@pytest.mark.parametrize("method", ["rf", "svm"])
def test_spatial_features_see_a_class_that_only_its_texture_tells(method):
    """Every pixel is -1 or 1 with probability 1/2; one class draws for every pixel, the other for every square of 4 x 4."""
    rng = np.random.default_rng(0)
    scene = make_scene(shape=(72, 48))
    label = np.kron(np.indices((6, 4)).sum(0) % 2, np.ones((12, 12), int)) + 1
    for m in ("hsi", "sar"):
        fine, coarse = rng.choice([-1.0, 1.0], (72, 48)), np.kron(rng.choice([-1.0, 1.0], (18, 12)), np.ones((4, 4)))
        scene[m].values[:] = np.where(label == 1, fine, coarse)
    scene["label"].values[:] = label
    split = parts(np.repeat([TRAIN, VAL, TEST], 24)[:, None] * np.ones((1, 48)))
    alone, spatial = (accuracy(made(scene, name, split), scene, split, TEST) for name in (method, f"{method}-spatial"))
    assert alone < 0.6 and spatial > 0.85


def naive_spatial(image, side):
    """The same from loops over windows; image (H, W, n) of a whole scene."""
    height, width, n = image.shape
    r = side // 2
    around = np.pad(image, ((2 * r, 2 * r), (2 * r, 2 * r), (0, 0)), "reflect")
    out = np.zeros((height, width, (2 + 2 * (r // 2)) * n))
    for y in range(height):
        for x in range(width):
            window = around[y + r : y + 3 * r + 1, x + r : x + 3 * r + 1]
            found = [window.mean((0, 1)), window.std((0, 1))]
            for h in range(1, r // 2 + 1):
                square = [(i, j) for i in range(-h, h + 1) for j in range(-h, h + 1)]

                def over(choose, i, j, h=h):
                    cy, cx = y + 2 * r + i, x + 2 * r + j
                    return choose(around[cy - h : cy + h + 1, cx - h : cx + h + 1], (0, 1))

                found += [
                    np.max([over(np.min, i, j) for i, j in square], 0),
                    np.min([over(np.max, i, j) for i, j in square], 0),
                ]
            out[y, x] = np.concatenate(found)
    return out


def test_features_of_every_modality_against_naive_windows():
    scene = make_scene(tuple(SIDES), shape=(17, 15))
    scene["hsi"].values[2, 4:6, 3] = np.nan
    split = split_scene(scene, "random")
    model = made(scene, "svm-spatial", split, patch=PATCHES)
    wanted = []
    for m, side in SIDES.items():
        mean, std = band_statistics(scene, m, split.values == TRAIN)
        bands = np.nan_to_num((np.moveaxis(scene[m].values, 0, 2) - mean) / std)
        wanted.append(bands)
        if m == "hsi":
            axes = PCA(classical.COMPONENTS).fit(bands[split.values == TRAIN]).components_.T
            bands = bands @ (axes * np.where(axes.sum(0) < 0, -1, 1))
        wanted.append(naive_spatial(bands, side))
    found = all_features(model, scene)
    assert found.dtype == np.float32 and [w.shape[2] for w in wanted] == [6, 16, 2, 4, 1, 4]
    np.testing.assert_allclose(found, np.concatenate(wanted, 2), atol=2e-5)
    np.testing.assert_array_equal(
        all_features(made(scene, "svm", split, patch=PATCHES), scene), np.concatenate(wanted[::2], 2)
    )


def test_spatial_features_by_hand():
    image = np.zeros((5, 5, 1))
    image[2, 2] = 1  # too small for the 3 x 3 square: opening removes it, closing keeps it
    np.testing.assert_allclose(spatial_features(image, 5)[0, 0], [1 / 25, 24**0.5 / 25, 0, 1], rtol=1e-6)
    image[1:4, 1:4] = 1  # the square itself
    np.testing.assert_allclose(spatial_features(image, 5)[0, 0], [9 / 25, 12 / 25, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("side", [3, 5, 7, 11])
@pytest.mark.parametrize("pixel", [(0, 0), (12, 13), (23, 5)])
def test_nothing_outside_the_window_reaches_a_pixel(side, pixel):
    scene = make_scene(shape=(24, 26))
    model = made(scene, "svm-spatial", split_scene(scene, "random"), patch=side)
    before, r = all_features(model, scene)[pixel], side // 2
    rows, cols = np.ogrid[:24, :26]
    distance = np.maximum(abs(rows - pixel[0]), abs(cols - pixel[1]))
    for far, same in ((distance > r, True), (distance == r, False)):
        other = scene.copy(deep=True)
        for m in ("hsi", "sar"):
            other[m].values[:, far] = 1e9 * np.random.default_rng(0).normal(size=(scene[m].shape[0], far.sum()))
        assert np.array_equal(all_features(model, other)[pixel], before) == same


@pytest.mark.parametrize("method", ["svm", "svm-spatial", "rf-spatial"])
def test_test_pixels_change_nothing(method):
    """Their labels, and values beyond the windows of training and validation pixels."""
    scene = make_scene(shape=(60, 24))
    split = parts(np.repeat([TRAIN, VAL, TEST], 20)[:, None] * (scene["label"].values > 0))
    other, rng = scene.copy(deep=True), np.random.default_rng(3)
    test, first = split.values == TEST, 42 if "spatial" in method else 40
    other["label"].values[test] = rng.integers(1, 5, test.sum())
    for m in ("hsi", "sar"):
        other[m].values[:, first:] = rng.normal(size=other[m].values[:, first:].shape)
    kept = np.flatnonzero((split.values.ravel() == TRAIN) | (split.values.ravel() == VAL))
    a, b = (made(s, method, split) for s in (scene, other))
    assert a.point == b.point and a.complexity() == b.complexity()
    np.testing.assert_array_equal(answers(a, scene, kept)[kept], answers(b, other, kept)[kept])


def test_validation_pixels_choose_the_grid_point_and_are_not_trained_on():
    scene = make_scene(noise=2.0)
    split = split_scene(scene, "random")
    held = split.values == VAL
    for n in (1, 7, 40):
        alone = stub(scene, neighbours, no_validation(split))
        assert alone.point == {"n_neighbors": 1}, "the first"
        alone.estimator.set_params(n_neighbors=n)
        other = scene.copy(deep=True)  # validation labels are what this grid point says
        other["label"].values[held] = answers(alone, scene)[held.ravel()].argmax(1) + 1
        Recorder.fits.clear()
        model = stub(other, neighbours, split)
        assert model.point == {"n_neighbors": n} and model.estimator.n_neighbors == n
        assert [len(y) for y in Recorder.fits] == 4 * [(split.values == TRAIN).sum()]
        np.testing.assert_array_equal(answers(model, other), answers(alone, scene))
    assert stub(scene, tied, split).point == {"strategy": "most_frequent"}, "the first of equals"


def test_few_pixels_choose_and_all_are_fitted(monkeypatch):
    monkeypatch.setattr(classical, "GRID_PIXELS", 60)
    scene = make_scene()
    split = split_scene(scene, "random")
    counts = np.bincount(scene["label"].values[split.values == TRAIN])[1:]
    Recorder.fits.clear()
    stub(scene, neighbours, split)
    *tried, last = Recorder.fits
    assert len(tried) == 3 and len(last) == counts.sum() > 60
    for y in tried:
        assert len(y) == 60
        np.testing.assert_allclose(np.bincount(y, minlength=5)[1:], 60 * counts / counts.sum(), atol=1.01)


@pytest.mark.parametrize("method", ["rf", "svm"])
@pytest.mark.parametrize("k", [2, 4])
def test_probabilities_sum_to_one_and_say_what_the_estimator_predicts(method, k):
    scene = make_scene(noise=3.0)
    split = no_validation(split_scene(scene, "random"))
    model = made(scene, method, parts(np.where(scene["label"] > k, 0, split)))
    p = answers(model, scene)
    x = all_features(model, scene).reshape(len(p), -1)
    assert p.min() >= 0 and not p[:, k:].any()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(p.argmax(1) + 1, model.estimator.predict(x))
    if (method, k) == ("svm", 4):
        assert (model.estimator.set_params(svm__break_ties=False).predict(x) != p.argmax(1) + 1).any(), (
            "tied votes are part of this test"
        )


def test_probabilities_of_two_classes_by_hand():
    class Decides:
        classes_ = np.array([2, 3])

        def decision_function(self, x):
            return x[:, 0]

    p = class_probabilities(Decides(), np.array([[0.0], [np.log(3)]]), 4)
    np.testing.assert_allclose(p, [[0, 0.5, 0.5, 0], [0, 0.25, 0.75, 0]], atol=1e-7)


@pytest.mark.parametrize("method", ["rf", "svm"])
def test_a_class_without_training_pixels_and_a_single_class(method):
    scene = make_scene()
    split = no_validation(split_scene(scene, "random"))
    p = answers(made(scene, method, parts(np.where((scene["label"] == 2) & (split == TRAIN), 0, split))), scene)
    assert not p[:, 1].any() and (p[:, [0, 2, 3]].max(0) > 0.5).all()
    one = made(scene, method, parts(np.where((scene["label"] != 3) & (split == TRAIN), 0, split)))
    np.testing.assert_array_equal(answers(one, scene), np.tile(np.float32([0, 0, 1, 0]), (scene["label"].size, 1)))
    assert set(one.complexity().values()) == {0}


@pytest.mark.parametrize("method", ["svm", "svm-spatial"])
def test_no_data_counts_as_the_training_mean(method):
    scene = make_scene()
    scene["hsi"].values[2][np.random.default_rng(0).random(scene["label"].shape) < 0.3] = np.nan
    scene["sar"].values[:, 5, 7] = np.nan
    split = split_scene(scene, "random")
    model, filled = made(scene, method, split), scene.copy(deep=True)
    for m in ("hsi", "sar"):
        mean = band_statistics(scene, m, split.values == TRAIN)[0]
        filled[m].values[:] = np.where(np.isnan(filled[m]), mean[:, None, None], filled[m])
    p = answers(model, scene)
    assert np.isfinite(p).all()
    np.testing.assert_array_equal(p, answers(model, filled))
    scene["sar"].values[1, split.values == TRAIN] = np.nan
    with pytest.raises(PrsaError, match="modality sar: expected data at training pixels"):
        made(scene, method, split)


@pytest.mark.parametrize("method", ["rf", "svm-spatial"])
def test_same_seed_same_classifier(method):
    scene = make_scene(noise=2.0, shape=(24, 24))
    split = no_validation(split_scene(scene, "random"))
    a, b, c = (answers(made(scene, method, split, seed), scene) for seed in (4, 4, 5))
    np.testing.assert_array_equal(a, b)
    assert np.array_equal(a, c) == ("svm" in method), "only the forest draws"


def test_rows_at_a_time_change_nothing(monkeypatch):
    scene = make_scene()
    model = made(scene, "svm-spatial", patch="hsi=7,sar=3")
    whole = answers(model, scene)
    monkeypatch.setattr(classical, "CELLS", 7 * 48 * all_features(model, scene).shape[2])
    assert len(list(model.probabilities(scene, np.arange(whole.shape[0])))) == 6
    np.testing.assert_allclose(answers(model, scene), whole, atol=1e-5)
    some = np.random.default_rng(0).permutation(whole.shape[0])[:50]
    p = answers(model, scene, some)
    np.testing.assert_allclose(p[some], whole[some], atol=1e-5)
    assert np.isnan(np.delete(p, some, 0)).all()


def test_complexity_counts():
    scene = make_scene()
    model = made(scene, "svm")
    support = sum(model.estimator["svm"].n_support_)
    assert model.complexity() == {
        "params": support * 8 + support * 3 + 6,
        "macs_patch": support * 8,
        "macs_pixel": support * 8,
    }
    forest = made(scene, "rf", no_validation(split_scene(scene, "random")))

    def walk(tree, node=0):
        """Nodes below and including this one, and comparisons to the deepest leaf."""
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            return 1, 0
        a, b = walk(tree, left), walk(tree, right)
        return 1 + a[0] + b[0], 1 + max(a[1], b[1])

    nodes, deepest = np.sum([walk(e.tree_) for e in forest.estimator.estimators_], 0)
    assert len(forest.estimator.estimators_) == 200 and forest.estimator.n_jobs in (None, 1)
    assert forest.complexity() == {"params": 2 * nodes, "macs_patch": deepest, "macs_pixel": deepest}
    assert all(type(n) is int for m in (model, forest) for n in m.complexity().values())


def test_windows_must_not_reach_over_the_gap_of_the_split():
    scene = make_scene()
    split = split_scene(scene, "blocks", radius=2)
    with pytest.raises(PrsaError, match="keeps 2 pixels between parts.*radius=3"):
        made(scene, "rf-spatial", split, patch="hsi=7,sar=3")
    made(scene, "svm", split, patch=7)  # single pixels reach nothing


def test_unknown_classifier():
    with pytest.raises(PrsaError, match="setting classifier: expected 'module:name'.*nobody"):
        made(make_scene(), classifier="prsa.comparators.classical:nobody")


@pytest.mark.parametrize("method", CLASSICAL)
def test_run_file_and_map(method, tmp_path):
    scene = make_scene(("hsi", "sar", "dsm"))
    split = split_scene(scene, "blocks", seed=1, radius=2)
    run, model = fit(scene, method, split, 3, "quick", "cpu", patch=5)
    run.attrs["run_id"] = "0123456789abcdef"
    loaded = load_run(save_run(check_run(run), tmp_path / "run.nc"))
    xr.testing.assert_equal(loaded, run)
    assert (
        loaded.attrs["method"] == method
        and json.loads(loaded.attrs["config"])["classifier"] == METHODS[method]["classifier"]
    )
    assert {name: loaded.attrs[name] for name in ("params", "macs_patch", "macs_pixel")} == model.complexity()
    cover = predict_map(model, scene)
    inside = split.values > 0
    np.testing.assert_array_equal(run["map"].values[inside], cover.values[inside])
    np.testing.assert_array_equal(run["confidence"].values[inside], cover.confidence.values[inside])
    assert not run["map"].values[~inside].any() and np.isnan(run["confidence"].values[~inside]).all()
    p = predict_map(model, scene, probabilities=True)["probability"]
    np.testing.assert_array_equal(p.argmax("class") + 1, cover)
    with pytest.raises(PrsaError, match="expected modalities and bands"):
        predict_map(model, make_scene())
