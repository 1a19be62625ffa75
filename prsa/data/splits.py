"""Train / validation / test splits, each with a hash and the name of its kind.

``fixed``   the scene's own split; validation is the scene's own ``validation`` or whole groups of its training pixels.
            Named ``fixed (leaking)`` when more than `LEAKING` of the test windows hold training pixels.
``blocks``  spatially disjoint blocks, whole polygons where the scene knows them; training pixels whose patch window
            would reach a held-out pixel are dropped.
``random``  single pixels at random: for teaching only, test patches overlap training patches ("leaking").
``own``     made by the user and handed to `prsa.fit`; named ``own (leaking)`` as above.
"""

import hashlib
import warnings

import numpy as np
import xarray as xr
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..errors import PrsaError, check_whole
from .scene import check_scene, class_names, empty_pixels

KINDS = ("auto", "fixed", "blocks", "random")
TRAIN, VAL, TEST = 1, 2, 3
SHARES = np.array([0.40, 0.15, 0.45])  # of every class, for blocks and random
VAL_SHARE = 0.2  # of the training pixels of a fixed split without its own validation
DRAWS = 10_000  # candidate assignments looked at
DRAW_CELLS = 20_000_000  # assignments x groups held at once: with very many groups, fewer assignments are looked at
LEAKING = 0.05  # share of test windows with training pixels above which a split is called leaking


def split_scene(scene: xr.Dataset, kind: str = "auto", seed: int = 0, radius: int = 3) -> xr.DataArray:
    """Assign every labelled pixel to a part.

    Parameters: ``kind`` one of `KINDS` ("auto": the scene's own split, else blocks); ``seed`` draws the assignment (a
    split the scene fixes completely ignores it); ``radius`` is the largest patch radius in pixels that must not reach
    a held-out pixel (blocks). Pixels where no sensor has data take no part, with a warning.
    Returns ``(y, x)`` int8: 0 none, 1 train, 2 validation, 3 test, with attrs ``kind``, ``seed``, ``radius``, ``hash``.
    Raises `PrsaError` for a scene that breaks the contract or has no labels, an unknown kind, a missing ``split`` and a
    class without training pixels; warns of a class without test pixels. Source: ours.
    """
    if kind not in KINDS:
        raise PrsaError(f"unknown split kind {kind!r}. Expected one of {', '.join(KINDS)}.")
    check_whole(seed=seed, radius=radius)
    scene = check_scene(scene)
    if "validation" in scene and "split" not in scene:
        raise PrsaError(
            "this scene has a raster validation, but no raster split. Expected both or none: validation says which "
            "training pixels are kept apart. Fix: add split (1 train, 2 test), or scene.drop_vars('validation')."
        )
    if kind == "auto":
        kind = "fixed" if "split" in scene else "blocks"
    label, polygon = _usable(scene), scene["polygon"].values if "polygon" in scene else None
    rng = np.random.default_rng([seed, 0x5917])
    if kind == "fixed":
        part = _fixed(scene, label, polygon, radius, rng)
    else:
        part = _blocks(label, polygon, radius, rng) if kind == "blocks" else _random(label, rng)
    part = np.where(label > 0, part, 0).astype(np.int8)
    _require_every_class(class_names(scene), label, part, kind)
    return _named(part, kind, seed, radius, polygon)


def check_split(scene: xr.Dataset, split: xr.DataArray, radius: int = 3) -> xr.DataArray:
    """A split as `split_scene` makes them, from one that may be the user's own or edited; ``scene`` is checked already.

    Raises `PrsaError` when it does not fit the scene.
    """
    if isinstance(split, xr.DataArray) and set(split.dims) == {"y", "x"}:
        split = split.transpose("y", "x")
    part = np.asarray(split)
    shape, coding = scene["label"].shape, "0 none, 1 train, 2 validation, 3 test"
    if part.shape != shape or part.dtype.kind not in "iu" or not np.isin(part, range(4)).all():
        values = np.unique(part)[:6].tolist() if part.dtype.kind in "iuf" else "no numbers"
        raise PrsaError(
            f"expected a split (y, x) on the scene's grid {shape} with codes {coding}; got {part.dtype} {part.shape} "
            f"with {values}. Fix: make it with prsa.split_scene; a scene's own raster split has other codes (2 = test)."
        )
    label = _usable(scene)
    part = np.where(label > 0, part, 0).astype(np.int8)
    attrs = getattr(split, "attrs", {})
    if attrs.get("hash") == hashlib.sha256(part.tobytes()).hexdigest() and {"kind", "seed", "radius"} <= attrs.keys():
        return split
    _require_every_class(class_names(scene), label, part, "own")
    return _named(part, "own", 0, radius, scene["polygon"].values if "polygon" in scene else None)


def _named(part, kind, seed, radius, polygon) -> xr.DataArray:
    if kind in ("fixed", "own") and leaking_share(part, radius, polygon) > LEAKING:
        kind += " (leaking)"
    digest, long_name = hashlib.sha256(part.tobytes()).hexdigest(), "0 none, 1 train, 2 validation, 3 test"
    attrs = {"long_name": long_name, "kind": kind, "seed": seed, "radius": radius, "hash": digest}
    return xr.DataArray(part, dims=("y", "x"), name="part", attrs=attrs)


def leaking_share(part: np.ndarray, radius: int, polygon: np.ndarray | None = None) -> float:
    """Share of the test pixels whose window holds a training pixel, or whose polygon has one; 0 without test pixels."""
    train, test = part == TRAIN, part == TEST
    near = ndimage.maximum_filter(train.view(np.uint8), size=2 * radius + 1) > 0
    if polygon is not None:
        near |= np.isin(polygon, np.setdiff1d(polygon[train], 0))
    return float(near[test].mean()) if test.any() else 0.0


def _usable(scene: xr.Dataset) -> np.ndarray:
    """Labels (y, x) of pixels where a sensor has data."""
    label = scene["label"].values.astype(np.int64)
    if not label.any():
        raise PrsaError(
            "expected labelled pixels, got none: label is missing or 0 everywhere. Such a scene can be mapped, not "
            "split or trained on. Fix: add the raster label (0 = unlabelled, 1 to K) and class_names."
        )
    empty = empty_pixels(scene) & (label > 0)
    if empty.any():
        warnings.warn(
            f"{scene.attrs['name']}: {int(empty.sum())} of {int((label > 0).sum())} labelled pixels have no data in "
            "any sensor: they take no part in training and test.",
            stacklevel=3,
        )
    return np.where(empty, 0, label)


def part_counts(label: np.ndarray, part: np.ndarray, n_classes: int) -> np.ndarray:
    """Labelled pixels per part (train, validation, test) and class: int array (3, K)."""
    code = np.where((label > 0) & (part > 0), (part.astype(np.int64) - 1) * n_classes + label, 0)
    return np.bincount(code.ravel(), minlength=3 * n_classes + 1)[1:].reshape(3, n_classes)


def _require_every_class(names: list[str], label: np.ndarray, part: np.ndarray, kind: str) -> None:
    counts = part_counts(label, part, len(names))
    present = np.bincount(label.ravel(), minlength=len(names) + 1)[1:] > 0
    missing = [str(n) for n, here in zip(names, present) if not here]
    if missing:
        raise PrsaError(
            f"expected labelled pixels of every class, got none for {_listed(missing)}. Likely causes: labels count "
            f"from 0, but 0 means unlabelled (check: label 0 covers {names[0][:40]!r}; fix: label + 1); class_names "
            "has a name for 0, such as background (check: its first name; fix: remove it); the class is not in this "
            "scene (check: np.unique(scene.label, return_counts=True); fix: remove its name, renumber those above it)."
        )
    for row, what in ((TRAIN, "training"), (TEST, "test")):
        if not counts[row - 1].any():
            raise PrsaError(
                f"the {kind} split has no {what} pixel at all. Expected some of every class. Likely causes: other "
                "codes in the raster split (check: np.unique; 1 is train, 2 is test; fix: renumber it, or "
                "kind='blocks'); all labels lie close together (check: their map; fix: label elsewhere)."
            )
    if missing := [n for n, count in zip(names, counts[TRAIN - 1]) if not count]:
        raise PrsaError(
            f"expected training pixels of every class, got none for {_listed(missing)} (split kind {kind!r}). Likely "
            "causes: the training area has none (check: the map of labels; fix: label some in the training area, or "
            "kind='blocks'); too few pixels or polygons to share out (fix: label more, or put classes together)."
        )
    if untested := [n for n, count in zip(names, counts[TEST - 1]) if not count]:
        warnings.warn(
            f"no test pixels of {_listed(untested)}: nothing is known of the accuracy of that class, and averages over "
            f"classes are over the other {len(names) - len(untested)}.",
            stacklevel=3,
        )


def _listed(names: list[str]) -> str:
    return ", ".join(n[:40] for n in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _fixed(scene, label, polygon, radius, rng):
    if "split" not in scene:
        raise PrsaError("kind='fixed' expects a variable split (y, x), got none in this scene. Use kind='blocks'.")
    own = scene["split"].values
    part = np.choose(own, [0, TRAIN, TEST]).astype(np.int8)
    if "validation" in scene:
        part[(own == 1) & (scene["validation"].values > 0)] = VAL
        return part
    train = (own == 1) & (label > 0)
    # Pixels whose windows overlap stay together: a validation window then shares nothing with a training window.
    reach = ndimage.maximum_filter(train.view(np.uint8), size=2 * radius + 1)
    groups, n = _joined(*ndimage.label(reach, structure=np.ones((3, 3))), polygon)
    if n < 10:  # one large area: cut it into blocks instead
        groups, n = _whole(*_grid(label.shape, max(2 * radius + 2, min(label.shape) // 12)), polygon)
    counts = _group_counts(groups, label * train, n, label.max())
    total = counts.sum(0)
    draws = rng.random((_draws(n), n)) < rng.uniform(0.05, 2 * VAL_SHARE, size=(_draws(n), 1))
    held = draws.astype(np.int64) @ counts
    share = held / np.maximum(total, 1)
    score = np.abs(share - VAL_SHARE).sum(1) + 10 * (held > total // 2).sum(1)
    best = draws[score.argmin()]
    part[np.concatenate([[False], best])[groups] & train] = VAL
    counts_left = total - best.astype(np.int64) @ counts
    for k in np.flatnonzero((counts_left == 0) & (total > 0)) + 1:  # a class in one group only is trained on
        back = train & (label == k)
        part[back if polygon is None else train & np.isin(groups, groups[back])] = TRAIN
    return part


def _draws(n: int) -> int:
    return min(DRAWS, max(DRAW_CELLS // n, 100))


def _grid(shape, size):
    rows, cols = -(-shape[0] // size), -(-shape[1] // size)
    block = (np.arange(shape[0]) // size)[:, None] * cols + (np.arange(shape[1]) // size)[None]
    return block + 1, rows * cols


def _whole(groups, n, polygon):
    """Every polygon becomes a group of its own."""
    if polygon is None:
        return groups, n
    numbers, rank = np.unique(np.append(0, polygon), return_inverse=True)
    return np.where(polygon > 0, n + rank[1:].reshape(polygon.shape), groups), n + len(numbers) - 1


def _joined(groups, n, polygon):
    """Groups that share a polygon become one."""
    if polygon is None or not n:
        return groups, n
    numbers, rank = np.unique(polygon, return_inverse=True)
    both = (groups > 0) & (polygon > 0)
    edges = groups[both] - 1, n + rank.reshape(polygon.shape)[both]
    size = n + len(numbers)
    _, component = connected_components(coo_matrix((np.ones(both.sum()), edges), shape=(size, size)), directed=False)
    numbers, component = np.unique(component[:n], return_inverse=True)
    return np.append(0, component + 1)[groups], len(numbers)


def _group_counts(groups, label, n, k):
    """Labelled pixels per group and class, (n, K)."""
    code = np.where((groups > 0) & (label > 0), (groups - 1) * k + label, 0)
    return np.bincount(code.ravel(), minlength=n * k + 1)[1:].reshape(n, k)


def _with_buffer(part, label, radius):
    """Drop training pixels whose window of this radius contains a held-out labelled pixel."""
    held = ((part == VAL) | (part == TEST)) & (label > 0)
    near = ndimage.maximum_filter(held.view(np.uint8), size=2 * radius + 1) > 0
    return np.where((part == TRAIN) & near, 0, part)


def _imbalance(counts, total):
    """How far the shares of classes are from `SHARES`, as log ratios: rare ones count alike. (..., 3, K) -> (...)"""
    share = counts / np.maximum(total, 1)
    ratio = np.log((share + 0.01) / (SHARES[:, None] + 0.01))
    empty = 20 * (counts[..., TRAIN - 1, :] == 0) + 10 * (counts[..., TEST - 1, :] == 0)
    return ((np.abs(ratio).sum(-2) + empty) * (total > 0)).sum(-1)


def _blocks(label, polygon, radius, rng):
    k = int(label.max())
    total = np.bincount(label.ravel(), minlength=k + 1)[1:]
    short = min(label.shape)
    best = (np.inf, None)
    for size in sorted({max(2 * radius + 2, short // n) for n in (5, 6, 8, 10)}, reverse=True):
        groups, n = _whole(*_grid(label.shape, size), polygon)
        counts = _group_counts(groups, label, n, k)
        used = counts.sum(1) > 0
        draws = rng.choice([TRAIN, VAL, TEST], p=SHARES, size=(_draws(n), n))
        sums = np.stack([(draws == p).astype(np.int64) @ counts for p in (TRAIN, VAL, TEST)], axis=1)  # (draws, 3, K)
        for row in np.argsort(_imbalance(sums, total), kind="stable")[:100]:
            lookup = np.concatenate([[0], np.where(used, draws[row], 0)])
            part = _with_buffer(lookup[groups], label, radius)
            score = _imbalance(part_counts(label, part, k), total)
            if score < best[0]:
                best = score, part
    return best[1]


def _random(label, rng):
    part = np.zeros(label.shape, np.int8)
    order = rng.permutation(label.size)
    flat = label.ravel()[order]
    for k in range(1, int(label.max()) + 1):
        members = order[flat == k]
        cuts = np.round(np.cumsum(SHARES)[:2] * members.size).astype(int)
        cuts[0] = max(cuts[0], min(1, members.size))
        part.ravel()[members[: cuts[0]]] = TRAIN
        part.ravel()[members[cuts[0] : cuts[1]]] = VAL
        part.ravel()[members[cuts[1] :]] = TEST
    return part


def check_reach(split: xr.DataArray, sides: dict[str, int]) -> None:
    """Raise `PrsaError` when windows of these sides reach from one part of a split in blocks into another."""
    side = max(sides.values())
    if split.attrs.get("kind") == "blocks" and side // 2 > split.attrs["radius"]:
        raise PrsaError(
            f"the split keeps {split.attrs['radius']} pixels between parts, but patch {side} reaches {side // 2}. "
            f"Fix: split_scene(scene, radius={side // 2})."
        )


def evenly(index: np.ndarray, most: int) -> np.ndarray:
    """``index`` (n,), or ``most`` of its entries evenly spaced."""
    return index if len(index) <= most else index[np.linspace(0, len(index) - 1, most).astype(int)]
