"""Numbers derived from counts and features: agreement, separability, probes.

Confusion matrices have shape (..., K, K), rows = truth, columns = prediction, and hold counts. The functions of them
return fractions (kappa: -1 to 1), shape (...); `points` is the one conversion to what tables show.
"""

import numpy as np
from scipy import special

from .errors import PrsaError

PROBE_C = 0.1  # inverse L2 strength of the linear probe: one fixed value for every branch, method and scene
PROBE_GRADIENT = 2e-4  # where its solution ends: accuracies move by less than 0.1 points after it


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
    train_y (n,), test_x (n_test, D). One class in training: it is predicted everywhere. Solved by L-BFGS in coordinates
    where the fixed bound of the Hessian (Boehning, AISM 1992) is the identity, which saves steps. Raises `PrsaError`
    for other shapes.
    """
    from scipy import optimize

    train_x, train_y, test_x = np.asarray(train_x, np.float64), np.asarray(train_y), np.asarray(test_x, np.float64)
    shapes = train_x.shape, train_y.shape, test_x.shape
    if train_x.ndim != 2 or not len(train_y) or shapes[0][:1] != shapes[1] or shapes[0][1:] != shapes[2][1:]:
        raise PrsaError(
            f"expected features (n, D) with labels (n,), got {train_x.shape=}, {train_y.shape=}, {test_x.shape=}. "
            "Probe one branch at a time."
        )
    classes, true = np.unique(train_y, return_inverse=True)
    if len(classes) == 1:
        return np.full(len(test_x), classes[0])
    mean, sd = train_x.mean(0), train_x.std(0)
    sd[sd <= 1e-9 * np.abs(mean)] = 1  # a dead feature
    train_x, test_x = (np.column_stack([(x - mean) / sd, np.ones(len(x))]) for x in (train_x, test_x))
    ridge = np.full(len(mean) + 1, 2.0 if len(classes) == 2 else 1.0)  # of two classes only the difference counts
    ridge[-1] = 0  # the intercept is free
    turn = np.linalg.inv(np.linalg.cholesky(PROBE_C / 2 * train_x.T @ train_x + np.diag(ridge))).T
    z, metric, at = train_x @ turn, turn.T @ (ridge[:, None] * turn), (true, np.arange(len(true)))
    z_t = np.ascontiguousarray(z.T)  # (D + 1, n)

    def objective(flat):
        v = flat.reshape(len(classes), -1)  # (K, D + 1)
        p = v @ z_t  # (K, n): a softmax over the first axis is faster
        p -= p.max(0)
        loss = -p[at].sum()
        np.exp(p, out=p)
        total = p.sum(0)
        p /= total
        p[at] -= 1
        pull = v @ metric
        loss = PROBE_C * (loss + np.log(total).sum()) + np.vdot(v, pull) / 2
        return loss, (PROBE_C * p @ z + pull).ravel()

    ends = {"gtol": PROBE_GRADIENT, "ftol": 0, "maxiter": 2000}
    found = optimize.minimize(objective, np.zeros(len(classes) * len(turn)), jac=True, method="L-BFGS-B", options=ends)
    return classes[(test_x @ turn @ found.x.reshape(len(classes), -1).T).argmax(1)]
