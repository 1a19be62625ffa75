"""Metrics against hand-worked cases, naive loops and scikit-learn."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prsa import metrics, open_scene, split_scene
from prsa.config import make_config
from prsa.data.splits import TEST, TRAIN
from prsa.errors import PrsaError
from prsa.mapping import scene_features
from prsa.training.loop import Trainer

HAND = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])  # 10 pixels, 7 right, class 3 never true


def test_confusion_by_hand_and_by_loop():
    truth, predicted = np.array([1, 1, 2, 3, 3]), np.array([1, 2, 2, 1, 3])
    assert metrics.confusion(truth, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(1, 8, (2, 20, 30), dtype=np.uint8)
    naive = np.zeros((7, 7), int)
    for t, p in zip(truth.ravel(), predicted.ravel()):
        naive[t - 1, p - 1] += 1
    counts = metrics.confusion(truth, predicted, 7)
    assert counts.dtype == np.int64 and (counts == naive).all()
    assert (metrics.confusion(np.zeros(0, int), np.zeros(0, int), 4) == np.zeros((4, 4))).all()


@pytest.mark.parametrize("truth, predicted", [([0, 1], [1, 1]), ([1, 4], [1, 1]), ([1, 2], [1, 0]), ([1, 2], [1])])
def test_confusion_refuses(truth, predicted):
    with pytest.raises(PrsaError, match="expected"):
        metrics.confusion(truth, predicted, 3)


def test_agreement_by_hand():
    assert metrics.oa(HAND) == pytest.approx(0.7)
    assert metrics.per_class(HAND)[:2] == pytest.approx([0.75, 4 / 6])
    assert np.isnan(metrics.per_class(HAND)[2])
    assert metrics.aa(HAND) == pytest.approx((0.75 + 4 / 6) / 2)  # class 3 has no truth pixel
    assert metrics.kappa(HAND) == pytest.approx((0.7 - 0.5) / (1 - 0.5))  # chance = (4*5 + 6*5) / 100
    assert metrics.points(metrics.oa(HAND)) == pytest.approx(70.0)


def test_agreement_equals_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 10, 2000)
    predicted = np.where(rng.random(2000) < 0.6, truth, rng.integers(1, 10, 2000))
    counts = metrics.confusion(truth, predicted, 9)
    assert (counts == confusion_matrix(truth, predicted)).all()
    assert metrics.oa(counts) == pytest.approx((truth == predicted).mean())
    assert metrics.aa(counts) == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert metrics.kappa(counts) == pytest.approx(cohen_kappa_score(truth, predicted))


def test_agreement_over_leading_dimensions_and_empty_counts():
    stack = np.stack([HAND, np.zeros((3, 3), int), 2 * np.eye(3, dtype=int)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in (metrics.oa, metrics.aa, metrics.kappa):
            values = metric(stack)
            assert values[0] == pytest.approx(metric(HAND)) and np.isnan(values[1]) and values[2] == pytest.approx(1)
    assert np.isnan(metrics.kappa([[5, 0], [0, 0]]))  # chance agreement is 1


def test_mean_sd():
    assert metrics.mean_sd([1, 2, 3, 6]) == (3, pytest.approx(np.sqrt(14 / 3)))
    mean, sd = metrics.mean_sd([4.0])
    assert mean == 4 and np.isnan(sd)
    assert np.isnan(metrics.mean_sd([])).all()


def test_linear_cka_against_centred_gram_matrices():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40)
    x, y = rng.normal(size=(40, 6)) + labels[:, None], np.eye(4)[labels]
    centre = np.eye(40) - 1 / 40
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    assert metrics.linear_cka(x, y) == pytest.approx(np.sum(k * l) / np.sqrt(np.sum(k * k) * np.sum(l * l)))
    turned = y @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * 3 + 2  # rotation, scale, shift
    assert metrics.linear_cka(turned, y) == pytest.approx(1)
    assert np.isnan(metrics.linear_cka(np.ones((5, 2)), np.eye(5)))


def test_eta_squared_by_hand():
    # total sum of squares 20 about mean 3, between 2 * (2 - 3)^2 + 2 * (4 - 3)^2 = 4
    assert metrics.eta_squared(np.array([[0.0], [4.0], [2.0], [6.0]]), [1, 1, 2, 2]) == pytest.approx(4 / 20)
    labels = np.array([1, 1, 2, 2, 3])
    assert metrics.eta_squared(np.eye(3)[labels - 1], labels) == pytest.approx(1)
    assert np.isnan(metrics.eta_squared(np.ones((4, 2)), [1, 1, 2, 2]))


def test_jensen_shannon():
    disjoint = np.array([[[1.0, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]])
    assert metrics.jensen_shannon(disjoint) == pytest.approx([np.log(2), 0])
    p = np.random.default_rng(0).dirichlet(np.ones(5), (7, 3))
    for row, value in zip(p, metrics.jensen_shannon(p)):
        middle = row.mean(0)
        assert value == pytest.approx(np.mean([sum(q * np.log(q / middle)) for q in row]))


def test_linear_probe_separates_what_is_linear():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 13, 2400)
    x = rng.normal(size=(13, 64))[labels] + 0.3 * rng.normal(size=(2400, 64))
    x[:, 5], x[:, 6] = 7.0, 1e4 * x[:, 7]  # a dead and a badly scaled feature
    train, test = slice(2000), slice(2000, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = metrics.linear_probe(x[train], labels[train], x[test])
    assert (predicted == labels[test]).mean() > 0.95
    assert (predicted == metrics.linear_probe(x[train], labels[train], x[test])).all()
    by_chance = metrics.linear_probe(rng.normal(size=(2000, 64)), labels[train], x[test]) == labels[test]
    assert abs(by_chance.mean() - 1 / 12) < 0.08


def converged(train_x, train_y, test_x):
    """scikit-learn's solution of the same problem, iterated to its end."""
    solver = LogisticRegression(C=metrics.PROBE_C, tol=1e-9, max_iter=20_000)
    probe = make_pipeline(StandardScaler(), solver).fit(train_x.astype(float), train_y)  # it would stay with float32
    return probe.predict(test_x.astype(float))


@pytest.mark.parametrize("k", [2, 3, 17])
def test_linear_probe_of_random_features_is_the_converged_one(k):
    rng = np.random.default_rng(k)
    labels = rng.integers(1, k + 1, 4500)
    x = 3 + 0.4 * rng.normal(size=(k + 1, 32))[labels] + rng.normal(size=(4500, 32)) @ rng.normal(size=(32, 32))
    parts = x[:1500], labels[:1500], x[1500:]
    assert (metrics.linear_probe(*parts) == converged(*parts)).mean() >= 0.999


def assert_probes_converged(scene, method):
    """Of every branch of a network: test accuracy within 0.1 points, the same answer for 999 pixels of 1000."""
    split = split_scene(scene, radius=3)
    trainer = Trainer(scene, split, make_config(method, max_steps=20), 0, torch.device("cpu"))
    trainer.run()
    z = np.zeros((*split.shape, len(trainer.model.modalities), trainer.model.config.features), np.float32)
    for rows, cols, part in scene_features(trainer.model, scene):
        z[rows, cols] = part.view(z[rows, cols].shape)
    train, test, label = split.values == TRAIN, split.values == TEST, scene["label"].values
    for i, m in enumerate(trainer.model.modalities):
        parts = z[train][:, i], label[train], z[test][:, i]
        ours, wanted = metrics.linear_probe(*parts), converged(*parts)
        right = (ours == label[test]).mean() - (wanted == label[test]).mean()
        assert abs(right) <= 0.001 and (ours == wanted).mean() >= 0.999, f"{m}: {right}"


@pytest.mark.parametrize("name, method", [("sim-sar", "concat"), ("sim-tri:1", "late")])
def test_linear_probe_of_trained_branches_is_the_converged_one(name, method):
    assert_probes_converged(open_scene(name), method)


def test_linear_probe_of_a_real_scene_is_the_converged_one(real_scene):
    assert_probes_converged(real_scene, "prsanet")


def test_linear_probe_edges():
    assert metrics.linear_probe(np.ones((3, 2)), [4, 4, 4], np.zeros((2, 2))).tolist() == [4, 4]
    with pytest.raises(PrsaError, match="features"):
        metrics.linear_probe(np.ones((3, 2)), [1, 2, 1], np.zeros((2, 5)))
