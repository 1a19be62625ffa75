"""Train / validation / test splits that do not leak, each with a hash.

``fixed``   the scene's own split; validation is the scene's own ``validation`` raster or whole groups of its training pixels.
``blocks``  spatially disjoint blocks; training pixels whose patch window would reach a held-out pixel are dropped.
``random``  single pixels at random: for teaching only, test patches overlap training patches ("leaking").
"""

import hashlib

import numpy as np
import xarray as xr
from scipy import ndimage

from ..errors import PrsaError
from .scene import class_names

KINDS = ("auto", "fixed", "blocks", "random")
TRAIN, VAL, TEST = 1, 2, 3
SHARES = np.array([0.40, 0.15, 0.45])  # of every class, for blocks and random
VAL_SHARE = 0.2  # of the training pixels of a fixed split without its own validation
DRAWS = 10_000  # candidate assignments looked at
DRAW_CELLS = 20_000_000  # assignments x groups held at once: fewer are looked at when training pixels lie scattered over a large scene


def split_scene(scene: xr.Dataset, kind: str = "auto", seed: int = 0, radius: int = 3) -> xr.DataArray:
    """Assign every labelled pixel to a part.

    Parameters: ``kind`` one of `KINDS` ("auto": the scene's own split, else blocks); ``seed`` draws the assignment (a split the scene
    fixes completely ignores it); ``radius`` is the largest patch radius in pixels that must not reach a held-out pixel (blocks).
    Returns ``(y, x)`` int8: 0 none, 1 train, 2 validation, 3 test, with attrs ``kind``, ``seed``, ``radius``, ``hash``.
    Raises `PrsaError` for an unknown kind, a missing ``split`` or a class without training or test pixels. Source: ours.
    """
    if kind not in KINDS:
        raise PrsaError(f"unknown split kind {kind!r}. Expected one of {', '.join(KINDS)}.")
    if kind == "auto":
        kind = "fixed" if "split" in scene else "blocks"
    label = scene["label"].values.astype(np.int64)
    rng = np.random.default_rng([seed, 0x5917])
    if kind == "fixed":
        part = _fixed(scene, label, radius, rng)
    elif kind == "blocks":
        part = _blocks(label, radius, rng)
    else:
        part = _random(label, rng)
    part = np.where(label > 0, part, 0).astype(np.int8)
    _require_every_class(scene, label, part, kind)
    digest = hashlib.sha256(part.tobytes()).hexdigest()
    attrs = {
        "long_name": "0 none, 1 train, 2 validation, 3 test",
        "kind": kind,
        "seed": seed,
        "radius": radius,
        "hash": digest,
    }
    return xr.DataArray(part, dims=("y", "x"), name="part", attrs=attrs)


def part_counts(label: np.ndarray, part: np.ndarray, n_classes: int) -> np.ndarray:
    """Labelled pixels per part (train, validation, test) and class: int array (3, K)."""
    code = np.where((label > 0) & (part > 0), (part.astype(np.int64) - 1) * n_classes + label, 0)
    return np.bincount(code.ravel(), minlength=3 * n_classes + 1)[1:].reshape(3, n_classes)


def _require_every_class(scene, label, part, kind):
    counts = part_counts(label, part, len(class_names(scene)))
    present = np.bincount(label.ravel(), minlength=counts.shape[1] + 1)[1:] > 0
    for row, what in ((TRAIN, "training"), (TEST, "test")):
        if not counts[row - 1].any():
            raise PrsaError(
                f"the {kind} split has no {what} pixel at all. Expected some of every class; check the scene's split raster or use kind='blocks'."
            )
    missing = [name for name, n, here in zip(class_names(scene), counts[TRAIN - 1], present) if here and not n]
    if missing or not present.all():
        missing = missing or [n for n, here in zip(class_names(scene), present) if not here]
        raise PrsaError(
            f"expected training pixels of every class, got none for {', '.join(missing)} (split kind {kind!r}). "
            "Label some in the training area, or remove the class from class_names and renumber the labels."
        )


def _fixed(scene, label, radius, rng):
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
    groups, n = ndimage.label(reach, structure=np.ones((3, 3)))
    if n < 10:  # one large area: cut it into blocks instead
        groups, n = _grid(label.shape, max(2 * radius + 2, min(label.shape) // 12))
    counts = _group_counts(groups, label * train, n, label.max())
    total = counts.sum(0)
    n_draws = min(DRAWS, max(DRAW_CELLS // n, 100))
    draws = rng.random((n_draws, n)) < rng.uniform(0.05, 2 * VAL_SHARE, size=(n_draws, 1))
    held = draws.astype(np.int64) @ counts
    share = held / np.maximum(total, 1)
    score = np.abs(share - VAL_SHARE).sum(1) + 10 * (held > total // 2).sum(1)
    best = draws[score.argmin()]
    part[np.concatenate([[False], best])[groups] & train] = VAL
    counts_left = total - best.astype(np.int64) @ counts
    for k in np.flatnonzero((counts_left == 0) & (total > 0)) + 1:  # a class in one group only is trained on
        part[train & (label == k)] = TRAIN
    return part


def _grid(shape, size):
    rows, cols = -(-shape[0] // size), -(-shape[1] // size)
    block = (np.arange(shape[0]) // size)[:, None] * cols + (np.arange(shape[1]) // size)[None]
    return block + 1, rows * cols


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
    """How far the shares of every class are from `SHARES`, as log ratios so that rare classes count alike. (..., 3, K) -> (...)"""
    share = counts / np.maximum(total, 1)
    ratio = np.log((share + 0.01) / (SHARES[:, None] + 0.01))
    empty = 10 * (counts[..., TRAIN - 1, :] == 0) + 10 * (counts[..., TEST - 1, :] == 0)
    return ((np.abs(ratio).sum(-2) + empty) * (total > 0)).sum(-1)


def _blocks(label, radius, rng):
    k = int(label.max())
    total = np.bincount(label.ravel(), minlength=k + 1)[1:]
    short = min(label.shape)
    best = (np.inf, None)
    for size in sorted({max(2 * radius + 2, short // n) for n in (5, 6, 8, 10)}, reverse=True):
        groups, n = _grid(label.shape, size)
        counts = _group_counts(groups, label, n, k)
        used = counts.sum(1) > 0
        draws = rng.choice([TRAIN, VAL, TEST], p=SHARES, size=(DRAWS, n))
        sums = np.stack([(draws == p).astype(np.int64) @ counts for p in (TRAIN, VAL, TEST)], axis=1)  # (DRAWS, 3, K)
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
