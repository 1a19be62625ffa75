"""Classical classifiers of single pixels on stacked bands, with or without spatial features (scikit-learn, SciPy).

A function of a seed returns ``(estimator, grid)``; a `Config` names it:
``classifier="prsa.comparators.classical:rbf_svm"``. Everything else is the same for all of them and as for the
networks: the pixels trained on, standardisation, no-data, and the validation pixels as the only ones to choose by.
"""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from scipy import ndimage, special
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from ..config import Config, named
from ..data.patches import normalise, reflect_index
from ..data.splits import TRAIN, check_reach, evenly
from ..training.pixels import Pixels

COMPONENTS = 4  # of a modality that spatial features are made from; its bands when it has no more
GRID_PIXELS = 2000  # training and validation pixels, at most, that choose the grid point
CELLS = 2**23  # pixels x features held at once while predicting: below half a gigabyte with all copies


def random_forest(seed: int):
    """Random forest (Breiman, Machine Learning 2001) of 200 trees."""
    return RandomForestClassifier(200, random_state=seed), {"min_samples_leaf": [1, 4]}


def _by_root_of_count(x):
    return x / np.sqrt(x.shape[1])


def rbf_svm(seed: int):
    """Support vector machine with Gaussian kernel, one against one (Melgani and Bruzzone, TGRS 2004); not random.

    The grid's gamma is relative to 1 / number of features, scikit-learn's "scale" for standardised features.
    """
    svm = SVC(break_ties=True)  # a tie of votes goes to the largest decision value: prediction and confidence agree
    steps = [("standard", StandardScaler()), ("relative", FunctionTransformer(_by_root_of_count)), ("svm", svm)]
    return Pipeline(steps), {"svm__C": [10, 1, 100, 1000], "svm__gamma": [1.0, 0.1, 0.3, 3.0]}


def spatial_features(image: np.ndarray, side: int) -> np.ndarray:
    """Of the window of ``side`` pixels around a pixel: image (h + 2r, w + 2r, n), r = side // 2 -> (h, w, F) float32.

    Mean and standard deviation of the window, then opening and closing by the squares of half width 1 to r // 2 (the
    morphological profile of Benediktsson et al., TGRS 2005), each of n channels: F = (2 + 2 (r // 2)) n. Deviation: no
    reconstruction, because it reaches as far as an object does, while nothing here may reach farther than r, the
    distance a split keeps; an opening reaches two half widths.
    """
    r, image = side // 2, image.astype(np.float64)

    def mean(values):  # not `uniform_filter`: its running sum carries rounding in from outside the window
        for axis in (0, 1):
            values = ndimage.correlate1d(values, np.full(side, 1 / side), axis)
        return values

    local = mean(image)
    maps = [local, np.sqrt(np.maximum(mean(image**2) - local**2, 0))]
    for size in range(3, r + 2, 2):
        maps += [ndimage.grey_opening(image, (size, size, 1)), ndimage.grey_closing(image, (size, size, 1))]
    return np.concatenate(maps, axis=2)[r:-r, r:-r].astype(np.float32)


def class_probabilities(estimator, x: np.ndarray, n_classes: int) -> np.ndarray:
    """Features x (n, F) -> probabilities (n, K) float32 of the classes 1..K; 0 for a class the estimator never saw.

    An estimator without probabilities, as the SVM is, gets the softmax of its one-against-rest decision values: good
    for an order, not calibrated.
    """
    if hasattr(estimator, "predict_proba"):
        p = estimator.predict_proba(x)
    else:
        decision = estimator.decision_function(x)
        if decision.ndim == 1:  # of two classes
            decision = np.stack([np.zeros_like(decision), decision], 1)
        p = special.softmax(decision, axis=1)
    everything = np.zeros((len(x), n_classes), np.float32)
    everything[:, estimator.classes_ - 1] = p
    return everything


class Classifier:
    """A classifier fitted to the training pixels of a split when made; it predicts as a `Network` does.

    The features of a pixel are the bands of all modalities, standardised on training pixels, no-data at their mean;
    with ``config.spatial`` also `spatial_features` of every modality's first principal components in the window of its
    patch. The grid point with the best validation OA is kept (``point``: the first of equals, and the first of all
    without validation pixels) and fitted to all training pixels, never to validation pixels. Raises `PrsaError` for an
    unknown classifier, what `Pixels.of` refuses, and a split that the windows leak through.
    """

    def __init__(self, scene: xr.Dataset, split: xr.DataArray, config: Config, seed: int):
        estimator, grid = named("classifier", config.classifier)(seed)
        pixels = Pixels.of(scene, split, GRID_PIXELS)
        self.config, self.bands, self.classes = config, pixels.bands, pixels.classes
        self.modalities = list(self.bands)
        self.sides = config.patches(self.modalities)
        self._statistics = {m: tuple(map(torch.from_numpy, pair)) for m, pair in pixels.statistics.items()}
        self._axes = {}
        if config.spatial:
            check_reach(split, self.sides)
            train = split.values == TRAIN
            self._axes = {m: self._principal_axes(scene[m].values[:, train], m) for m in self.modalities}
        x, y = self._features_of(scene, pixels.train), pixels.label[pixels.train]
        points = list(ParameterGrid(grid))
        self.point = points[0]
        if len(pixels.held) and len(points) > 1:
            few = evenly(np.argsort(y, kind="stable"), GRID_PIXELS)  # in the order of classes: of every one its share
            x_held, y_held = self._features_of(scene, pixels.held), pixels.label[pixels.held]
            right = []
            for point in points:
                tried = clone(estimator).set_params(**point).fit(x[few], y[few])
                right.append((class_probabilities(tried, x_held, len(self.classes)).argmax(1) + 1 == y_held).mean())
            self.point = points[np.argmax(right)]
        self.estimator = clone(estimator).set_params(**self.point).fit(x, y)

    def _principal_axes(self, values: np.ndarray, m: str) -> np.ndarray:
        """Axes (C, n) of the first principal components of training values (C, pixels), or of the bands themselves."""
        if self.bands[m] <= COMPONENTS:
            return np.eye(self.bands[m])
        values = normalise(torch.from_numpy(values.T), *self._statistics[m]).double().numpy()
        axes = np.linalg.eigh(values.T @ values).eigenvectors[:, : -COMPONENTS - 1 : -1]
        return axes * np.where(
            axes.sum(0) < 0, -1, 1
        )  # the sign of an axis is free: fixed, as opening and closing differ by it

    def features(self, scene: xr.Dataset, start: int, stop: int) -> np.ndarray:
        """Features of all pixels of the rows start..stop-1, (rows, width, F) float32; the border is reflected."""
        found, width = [], scene.sizes["x"]
        for m in self.modalities:
            r = self.sides[m] // 2 if self.config.spatial else 0
            rows, cols = reflect_index(start - r, stop + r, scene.sizes["y"]), reflect_index(-r, width + r, width)
            block = torch.from_numpy(scene[m].values[:, rows[:, None], cols]).permute(1, 2, 0)
            block = normalise(block, *self._statistics[m]).numpy()
            found.append(block[r : len(rows) - r, r : len(cols) - r])
            if self.config.spatial:
                found.append(spatial_features(block @ self._axes[m], self.sides[m]))
        return np.concatenate(found, axis=2)

    def _pieces(self, scene: xr.Dataset, pixels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a part of the pixels (flat indices), ascending, and its features (n, F): as many as `CELLS` allows."""
        height, width, pixels = scene.sizes["y"], scene.sizes["x"], np.sort(pixels)
        count = self.features(scene, 0, 1).shape[2]
        size = max(CELLS // (width * count), 1)
        for start in range(0, height, size):
            part = pixels[slice(*np.searchsorted(pixels, (start * width, (start + size) * width)))]
            if len(part):
                rows = self.features(scene, start, min(start + size, height))
                yield part, rows.reshape(-1, count)[part - start * width]

    def _features_of(self, scene: xr.Dataset, pixels: np.ndarray) -> np.ndarray:
        """Features (n, F) of ascending pixels."""
        return np.concatenate([x for _, x in self._pieces(scene, pixels)])

    def probabilities(self, scene: xr.Dataset, centres: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``part, p``: some of the pixels ``centres`` (flat indices), `class_probabilities` (n, K) there."""
        for part, x in self._pieces(scene, centres):
            yield part, class_probabilities(self.estimator, x, len(self.classes))

    def complexity(self) -> dict[str, int]:
        """Stored numbers and work per pixel of the estimator, without the features.

        SVM: support vectors x features + coefficients, and the multiply-accumulates of the kernel. Forest: feature and
        threshold of every node, and, as it multiplies nothing, in place of multiply-accumulates the comparisons along
        the deepest path of every tree. Any other: 0.
        """
        last = self.estimator[-1] if isinstance(self.estimator, Pipeline) else self.estimator
        params = work = 0
        if hasattr(last, "support_vectors_"):
            work = last.support_vectors_.size
            params = work + last.dual_coef_.size + last.intercept_.size
        elif hasattr(last, "estimators_"):
            params = sum(2 * e.tree_.node_count for e in last.estimators_)
            work = sum(e.tree_.max_depth for e in last.estimators_)
        return {"params": int(params), "macs_patch": int(work), "macs_pixel": int(work)}
