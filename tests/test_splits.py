"""Splits: nothing leaks, nothing official moves, every class is trained on, one seed gives one split."""

import numpy as np
import pytest
from tiny import CLASSES, make_scene

from prsa.data.scene import class_names
from prsa.data.splits import KINDS, TEST, TRAIN, VAL, part_counts, split_scene
from prsa.errors import PrsaError


def leaks(part, label, radius, centres, held):
    """Held-out labelled pixels inside the window of a centre, looked up window by window."""
    found = 0
    for y, x in np.argwhere(centres):
        rows, cols = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
        found += int((np.isin(part[rows, cols], held) & (label[rows, cols] > 0)).sum())
    return found


@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape, parcel", [((64, 80), 4), ((70, 61), 5)])
def test_blocks_keep_held_out_pixels_out_of_training_windows(radius, seed, shape, parcel):
    scene = make_scene(shape=shape, parcel=parcel, seed=seed)
    split, label = split_scene(scene, "blocks", seed, radius), scene["label"].values
    assert leaks(split.values, label, radius, split.values == TRAIN, [VAL, TEST]) == 0
    counts = part_counts(label, split.values, len(CLASSES))
    assert (counts[[TRAIN - 1, TEST - 1]] > 0).all(), "every class in training and test"
    assert (counts.sum(1) > 0.04 * (label > 0).sum()).all() and counts.sum() > 0.5 * (label > 0).sum(), (
        "the buffer must not eat the scene"
    )
    assert not split.values[label == 0].any() and split.dtype == np.int8 and split.dims == ("y", "x")
    assert split.attrs["kind"] == "blocks" and split.attrs["radius"] == radius


def test_the_leakage_check_itself_can_fail():
    scene = make_scene(shape=(64, 80))
    label = scene["label"].values
    split = split_scene(scene, "random").values
    assert leaks(split, label, 2, split == TRAIN, [VAL, TEST]) > 1000
    split = split_scene(scene, "blocks", radius=2).values
    assert leaks(split, label, 6, split == TRAIN, [VAL, TEST]) > 0, "a window larger than the buffer reaches over"


@pytest.mark.parametrize("kind", ["blocks", "random", "fixed"])
def test_one_seed_gives_one_split(kind):
    scene = fixed_scene()[0]
    a, b, c = (split_scene(scene, kind, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert a.attrs == b.attrs and len(a.attrs["hash"]) == 64
    assert not np.array_equal(a, c) and a.attrs["hash"] != c.attrs["hash"]


def test_the_split_depends_on_labels_only():
    scene, other = make_scene(), make_scene(("hsi", "dsm"), noise=5.0)
    other["label"] = scene["label"]
    assert (
        split_scene(scene).attrs["hash"]
        == split_scene(other).attrs["hash"]
        != split_scene(make_scene(seed=1)).attrs["hash"]
    )


def fixed_scene(plots=6, side=12, gap=4, seed=0, **options):
    """Square plots on a lattice, a third of them for testing: what a field campaign gives. Returns the scene and the plot number per pixel."""
    scene = make_scene(shape=(plots * side, plots * side), parcel=2, seed=seed, **options)
    inside = np.zeros((side, side), bool)
    inside[gap // 2 : -gap // 2, gap // 2 : -gap // 2] = True
    inside, number = (
        np.tile(inside, (plots, plots)),
        np.kron(np.arange(plots**2).reshape(plots, plots), np.ones((side, side), int)),
    )
    test = np.isin(number, np.random.default_rng(seed).permutation(plots**2)[: plots**2 // 3])
    scene["label"] = scene["label"].dims, np.where(inside, scene["label"].values, 0)
    scene["split"] = ("y", "x"), np.where(inside, np.where(test, 2, 1), 0).astype(np.int8)
    return scene, number


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("radius", [1, 2])
def test_fixed_keeps_the_official_parts_and_holds_out_whole_groups(seed, radius):
    scene, plot = fixed_scene(gap=2 * radius + 2)
    label, own = scene["label"].values, scene["split"].values
    split = split_scene(scene, "fixed", seed, radius).values
    np.testing.assert_array_equal(split == TEST, (own == 2) & (label > 0))
    np.testing.assert_array_equal((split == TRAIN) | (split == VAL), (own == 1) & (label > 0))
    assert 0.1 < (split == VAL).sum() / ((own == 1) & (label > 0)).sum() < 0.35
    for number in range(plot.max() + 1):
        assert len(set(split[(plot == number) & (label > 0)].tolist())) <= 1, f"plot {number} is cut"
    windows = {part: np.zeros(label.shape, bool) for part in (TRAIN, VAL)}
    for part, mask in windows.items():
        for y, x in np.argwhere(split == part):
            mask[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
    assert not (windows[TRAIN] & windows[VAL]).any(), "a validation window shares no pixel with a training window"
    assert (part_counts(label, split, len(CLASSES))[TRAIN - 1] > 0).all()


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_fixed_keeps_pixels_with_overlapping_windows_together(radius):
    """Pairs of single training pixels whose windows share one column: the pair goes to one part."""
    scene, pitch = make_scene(shape=(90, 90), parcel=1), 6 * radius
    own = np.full((90, 90), 2)
    own[:72] = 0
    pairs = [((y, x), (y, x + 2 * radius)) for y in range(0, 72, pitch) for x in range(radius, 90 - 3 * radius, pitch)]
    for pair in pairs:
        for pixel in pair:
            own[pixel] = 1
    label = np.where(
        own == 1, np.arange(8100).reshape(90, 90) % 7 % 4 + 1, np.where(own == 2, scene["label"].values, 0)
    )
    scene = scene.assign(label=(("y", "x"), label), split=(("y", "x"), own))
    part = split_scene(scene, "fixed", 0, radius).values
    assert len(pairs) >= 10 and {part[a] for a, _ in pairs} == {TRAIN, VAL}
    assert all(part[a] == part[b] for a, b in pairs)


def test_a_rare_class_is_in_training_and_test_blocks():
    scene = make_scene(shape=(64, 80))
    label = scene["label"].values
    label[label == 4] = 1
    for y, x in ((2, 2), (30, 70), (55, 10)):
        label[y : y + 4, x : x + 4] = 4
    for seed in range(3):
        counts = part_counts(label, split_scene(scene, "blocks", seed).values, 4)
        assert counts[TRAIN - 1, 3] > 0 and counts[TEST - 1, 3] > 0, f"seed {seed}"


def test_a_class_in_one_group_only_is_trained_on():
    scene, plot = fixed_scene()
    label, own = scene["label"].values.copy(), scene["split"].values
    rare = next(n for n in range(plot.max() + 1) if (own[plot == n] == 1).any() and (label[plot == n] == 4).any())
    label[(label == 4) & (plot != rare) & (own == 1)] = 1
    scene["label"] = scene["label"].dims, label
    for seed in range(8):
        split = split_scene(scene, "fixed", seed, radius=1).values
        here = (label == 4) & (plot == rare)
        assert (split[here] == TRAIN).all(), f"seed {seed}"


@pytest.mark.parametrize("seed", [0, 1])
def test_fixed_with_one_large_training_area(seed):
    """No groups to hold out: validation is cut out in blocks, and still nothing official is lost."""
    scene = make_scene(shape=(60, 60), split=np.where(np.arange(60) < 36, 1, 2)[None].repeat(60, 0))
    label, own = scene["label"].values, scene["split"].values
    split = split_scene(scene, "fixed", seed).values
    np.testing.assert_array_equal(split == TEST, (own == 2) & (label > 0))
    np.testing.assert_array_equal((split == TRAIN) | (split == VAL), (own == 1) & (label > 0))
    assert 0.08 < (split == VAL).sum() / ((own == 1) & (label > 0)).sum() < 0.35
    assert (part_counts(label, split, len(CLASSES))[TRAIN - 1] > 0).all()


def test_the_scenes_own_validation_area_is_used_and_never_takes_test_pixels():
    scene = fixed_scene()[0]
    own, label = scene["split"].values, scene["label"].values
    area = np.zeros(own.shape, np.int8)
    area[:20] = 1  # covers test plots too
    scene["validation"] = ("y", "x"), area
    for seed in (0, 1):
        split = split_scene(scene, seed=seed).values
        np.testing.assert_array_equal(split == TEST, (own == 2) & (label > 0))
        np.testing.assert_array_equal(split == VAL, (own == 1) & (label > 0) & (area > 0))
        np.testing.assert_array_equal(split == TRAIN, (own == 1) & (label > 0) & (area == 0))


def test_random_takes_the_shares_of_every_class():
    scene = make_scene()
    split, label = split_scene(scene, "random").values, scene["label"].values
    counts = part_counts(label, split, len(CLASSES))
    np.testing.assert_allclose(counts / counts.sum(0), np.array([0.40, 0.15, 0.45])[:, None] * np.ones(4), atol=0.02)
    assert ((split > 0) == (label > 0)).all()


def test_random_trains_on_a_class_of_one_pixel():
    scene = make_scene()
    label = scene["label"].values
    label[tuple(np.argwhere(label == 4)[1:].T)] = 1
    split = split_scene(scene, "random").values
    assert split[label == 4].tolist() == [TRAIN]


def test_auto_is_the_scenes_own_split_else_blocks():
    assert (
        split_scene(make_scene()).attrs["kind"] == "blocks" and split_scene(fixed_scene()[0]).attrs["kind"] == "fixed"
    )
    assert split_scene(fixed_scene()[0], "blocks").attrs["kind"] == "blocks"


@pytest.mark.parametrize("kind", ["fixed", "blocks", "random"])
def test_a_class_without_any_pixel_is_named(kind):
    scene = fixed_scene()[0]
    scene["label"].values[scene["label"].values == 3] = 0
    with pytest.raises(PrsaError, match="training pixels of every class, got none for field.*remove the class"):
        split_scene(scene, kind)


def test_a_class_without_training_pixels_is_named():
    scene = fixed_scene()[0]
    scene["label"].values[(scene["label"].values == 2) & (scene["split"].values == 1)] = 0
    with pytest.raises(PrsaError, match=r"got none for forest \(split kind 'fixed'\).*Label some in the training area"):
        split_scene(scene)


def test_a_class_in_one_corner_cannot_be_split_into_blocks():
    """One pixel of a class cannot be in training and test; it is trained on or the error says so, never silently dropped."""
    scene = make_scene()
    label = scene["label"].values
    label[tuple(np.argwhere(label == 4)[1:].T)] = 1
    try:
        split = split_scene(scene, "blocks").values
    except PrsaError as error:
        assert "none for roof" in str(error)
    else:
        assert split[label == 4].tolist() == [TRAIN]


@pytest.mark.parametrize("part, what", [(1, "test"), (2, "training")])
def test_a_split_without_one_side_is_refused(part, what):
    scene = make_scene(split=np.full((40, 48), part))
    with pytest.raises(PrsaError, match=f"no {what} pixel at all.*kind='blocks'"):
        split_scene(scene)


def test_unknown_kind_and_missing_split():
    with pytest.raises(PrsaError, match="unknown split kind 'block'.*" + ", ".join(KINDS)):
        split_scene(make_scene(), "block")
    with pytest.raises(PrsaError, match="expects a variable split.*Use kind='blocks'"):
        split_scene(make_scene(), "fixed")


def test_part_counts_against_a_loop():
    rng = np.random.default_rng(0)
    label, part = rng.integers(0, 5, (20, 30)).astype(np.uint8), rng.integers(0, 4, (20, 30)).astype(np.int8)
    naive = np.zeros((3, 4), int)
    for k, p in zip(label.ravel(), part.ravel()):
        if k and p:
            naive[p - 1, k - 1] += 1
    np.testing.assert_array_equal(part_counts(label, part, 4), naive)


def test_splits_of_real_scenes(real_scene):
    split, label, k = split_scene(real_scene), real_scene["label"].values, len(class_names(real_scene))
    counts = part_counts(label, split.values, k)
    assert (counts[TRAIN - 1] > 0).all() and (counts[TEST - 1] > 0).all() and counts[VAL - 1].sum() > 0
    if "split" in real_scene:
        np.testing.assert_array_equal(split.values == TEST, (real_scene["split"].values == 2) & (label > 0))
        assert counts[[TRAIN - 1, VAL - 1]].sum() == ((real_scene["split"].values == 1) & (label > 0)).sum()
    else:
        for radius in (2, 3, 5):
            split = split_scene(real_scene, radius=radius).values
            assert leaks(split, label, radius, split == TRAIN, [VAL, TEST]) == 0
