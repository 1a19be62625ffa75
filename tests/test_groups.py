"""Which scenes count together, and the interval over them, worked out by hand."""

import numpy as np
import pytest
from synthetic import make_run

from prsa import metrics
from prsa.data.simulate import firsts, group_of, is_dial
from prsa.errors import PrsaError
from prsa.report import groups


@pytest.mark.parametrize(
    "scene, name, dial",
    [
        ("sim-sar", "sim-sar", False),
        ("sim-sar:2", "sim-sar", False),
        ("sim-tri:0:0.4", "sim-tri:0:0.4", True),
        ("sim-lidar:1:1", "sim-lidar:1:1", True),
        ("muufl", "muufl", False),
        ("/a:b/c:d.nc", "/a:b/c:d.nc", False),
    ],
)
def test_scenes_of_a_kind_are_a_group_and_the_dial_is_none(scene, name, dial):
    assert group_of(scene) == name and is_dial(scene) == dial


def test_the_first_scene_of_every_group():
    assert firsts(["sim-sar:0:0.2", "sim-sar:1", "muufl", "sim-sar", "sim-tri", "sim-tri:1"]) == [
        "sim-sar:1",
        "muufl",
        "sim-tri",
    ]


def test_roles_follow_the_mean_factor_at_the_end():
    runs = [make_run("one", "concat", s, ("hsi", "lidar", "rgb"), classes=2, epochs=2, size=12) for s in (0, 1)]
    for run, last in zip(
        runs, ((1.0, 0.6, 1.4), (1.2, 0.8, 0.8))
    ):  # means 1.1, 0.7, 1.1 -> the later of equals counts as fast
        run["rho"].values[:] = [(9.0, 9.0, 0.1), last]
    assert groups.roles(runs) == {"hsi": "middle", "lidar": "slow", "rgb": "fast"}


def test_complete_keeps_the_finite_values_of_seeds_that_every_scene_has():
    values = {("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 3.0, ("b", 0): 4.0, ("b", 1): np.nan, ("b", 2): 6.0}
    assert groups.complete(values) == {("a", 0): 1.0, ("a", 2): 3.0, ("b", 0): 4.0, ("b", 2): 6.0}


def test_one_scene_has_an_interval_over_seeds_and_several_a_bootstrap_over_scenes():
    one = {("a", s): v for s, v in enumerate((1.0, 2.0, 3.0))}
    assert groups.interval(one) == (*metrics.mean_interval([1.0, 2.0, 3.0]), 1, 3)
    two = one | {("b", s): v for s, v in enumerate((5.0, 6.0, 10.0))}
    expected = metrics.hierarchical_bootstrap([[1.0, 2.0, 3.0], [5.0, 6.0, 10.0]], np.random.default_rng(0))
    assert groups.interval(two) == (*expected, 2, 3) and expected[1] < 3 < expected[2]
    shuffled = dict(sorted(two.items(), key=lambda item: -item[0][1]))
    assert groups.interval(shuffled)[0] == pytest.approx(expected[0])


def test_unpaired_seeds_are_an_error():
    with pytest.raises(PrsaError, match="same seeds for every scene, got 3 values of 2 scenes and 2 seeds"):
        groups.interval({("a", 0): 1.0, ("a", 1): 1.0, ("b", 0): 1.0})
    with pytest.raises(PrsaError, match="got 0 values"):
        groups.interval({})
