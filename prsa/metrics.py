"""Numbers derived from counts and features: agreement, separability, probes.

Confusion matrices have shape (..., K, K), rows = truth, columns = prediction, and hold counts. The functions of them
return fractions (kappa: -1 to 1), shape (...); `points` is the one conversion to what tables show.
"""

import numpy as np
from scipy import special

from .errors import PrsaError

PROBE_C = 0.1  # inverse L2 strength of the linear probe: one fixed value for every branch, method and scene


def confusion(truth, predicted, n_classes: int) -> np.ndarray:
    """Counts (K, K) int64 of labels 1..K given as two arrays of one shape; raises `PrsaError` for other labels or
    shapes.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise PrsaError(
            f"expected truth and prediction of one shape, got {truth.shape=} and {predicted.shape=}. "
            "Select the same pixels in both."
        )
    for name, labels in (("truth", truth), ("predicted", predicted)):
        if labels.size and not (1 <= labels.min() and labels.max() <= n_classes):
            raise PrsaError(
                f"expected {name} labels in 1..{n_classes}, got {labels.min()} to {labels.max()}. "
                "Leave unlabelled pixels (0) out."
            )
    cell = (truth.astype(np.int64).ravel() - 1) * n_classes + predicted.astype(np.int64).ravel() - 1
    return np.bincount(cell, minlength=n_classes**2).reshape(n_classes, n_classes)


def points(fraction):
    """Fraction -> points (0 to 100), the unit of every accuracy, kappa and difference in tables and figures."""
    return 100.0 * np.asarray(fraction, dtype=float)


def _ratio(numerator, denominator):
    """Elementwise quotient as float64, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)[()]


def per_class(counts) -> np.ndarray:
    """Producer's accuracy (recall) of every class, (..., K); NaN for a class without truth pixels."""
    counts = np.asarray(counts)
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1))


def oa(counts):
    """Overall accuracy, (...); NaN for empty counts."""
    counts = np.asarray(counts)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def aa(counts):
    """Average accuracy: mean of `per_class` over the classes that have truth pixels, (...); NaN for empty counts."""
    recall = per_class(counts)
    return _ratio(np.nansum(recall, -1), np.isfinite(recall).sum(-1))


def kappa(counts):
    """Cohen's kappa, (...); NaN where chance agreement is 1 (one class, always predicted) or counts are empty."""
    counts = np.asarray(counts, dtype=float)
    total = counts.sum((-2, -1))
    chance = _ratio((counts.sum(-1) * counts.sum(-2)).sum(-1), total**2)
    return _ratio(oa(counts) - chance, 1 - chance)


def mean_sd(values) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof 1) of a 1-d array; sd is NaN for one value, both are NaN for none."""
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else np.nan


def linear_cka(features, onehot) -> float:
    """Linear centred kernel alignment of features (n, D) with one-hot labels (n, K): 0 to 1 (Kornblith et al., ICML
    2019).

    NaN when either side does not vary.
    """
    x, y = (np.asarray(v, dtype=float) - np.mean(v, axis=0, dtype=float) for v in (features, onehot))
    return float(_ratio(np.sum((x.T @ y) ** 2), np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def eta_squared(features, labels) -> float:
    """Share of the sum of squares of features (n, D) that lies between the classes of labels (n,), 0 to 1."""
    x, labels = np.asarray(features, dtype=float), np.asarray(labels)
    x = x - x.mean(0)
    between = sum((labels == k).sum() * np.sum(x[labels == k].mean(0) ** 2) for k in np.unique(labels))
    return float(_ratio(between, np.sum(x**2)))


def jensen_shannon(posteriors) -> np.ndarray:
    """Jensen-Shannon divergence, in nats, of M category posteriors per sample: (n, M, K) -> (n,), 0 to log M."""
    p = np.asarray(posteriors, dtype=float)
    return special.entr(p.mean(1)).sum(-1) - special.entr(p).sum(-1).mean(1)


def linear_probe(train_x, train_y, test_x) -> np.ndarray:
    """Labels (n_test,) that a linear classifier on frozen features predicts: how much of the classes a branch encodes.

    Multinomial logistic regression (L2, C = `PROBE_C`) on features standardised by the training part: train_x (n, D),
    train_y (n,), test_x (n_test, D). Deterministic. One class in training: it is predicted everywhere.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train_x, train_y, test_x = np.asarray(train_x, np.float64), np.asarray(train_y), np.asarray(test_x, np.float64)
    shapes = train_x.shape, train_y.shape, test_x.shape
    if train_x.ndim != 2 or not len(train_y) or shapes[0][:1] != shapes[1] or shapes[0][1:] != shapes[2][1:]:
        raise PrsaError(
            f"expected features (n, D) with labels (n,), got {train_x.shape=}, {train_y.shape=}, {test_x.shape=}. "
            "Probe one branch at a time."
        )
    if (train_y == train_y[0]).all():
        return np.full(len(test_x), train_y[0])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PROBE_C, tol=1e-3, max_iter=200))
    return model.fit(train_x, train_y).predict(test_x)
