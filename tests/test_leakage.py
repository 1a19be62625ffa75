"""The experiment that shows what a leaking split does: thinned splits, the comparison of both kinds."""

import hashlib

import numpy as np
import pytest
from tiny import SMALL, make_scene

from prsa.data.leakage import audit
from prsa.data.splits import split_scene
from prsa.errors import PrsaError
from prsa.report import leakage
from prsa.study.leakage import compare, thin


def test_thinning_takes_training_pixels_only_and_as_many_as_told():
    scene = make_scene()
    split, label = split_scene(scene, "random"), scene["label"].values
    thinned = thin(split, label, np.array([3, 5, 7, 10_000]), seed=0)
    counts = [int(((thinned.values == 1) & (label == k)).sum()) for k in (1, 2, 3, 4)]
    assert counts == [3, 5, 7, int(((split.values == 1) & (label == 4)).sum())]
    np.testing.assert_array_equal(thinned.values > 1, split.values > 1)
    assert thinned.attrs["hash"] == hashlib.sha256(thinned.values.tobytes()).hexdigest() != split.attrs["hash"]
    assert split.values.sum() != thinned.values.sum()
    assert (thin(split, label, np.array([3] * 4), 0).values != thin(split, label, np.array([3] * 4), 1).values).any()


def test_comparison_trains_both_kinds_on_equally_many_pixels_of_each_class(monkeypatch):
    scene = make_scene(noise=2.0)
    runs, splits = compare(scene, seeds=2, preset="quick", device="cpu", **SMALL)
    assert [(r.attrs["split_kind"], r.attrs["seed"]) for r in runs] == [
        ("random", 0),
        ("blocks", 0),
        ("random", 1),
        ("blocks", 1),
    ]
    label = scene["label"].values
    for a, b in ((0, 1), (2, 3)):
        assert [((splits[a].values == 1) & (label == k)).sum() for k in (1, 2, 3, 4)] == [
            ((splits[b].values == 1) & (label == k)).sum() for k in (1, 2, 3, 4)
        ]
    assert splits[1].attrs["hash"] != splits[3].attrs["hash"]
    table = leakage.leakage(runs, {"tiny": scene}, splits)
    blocks, random = (table[table["split_kind"] == kind].iloc[0] for kind in ("blocks", "random (leaking)"))
    assert blocks["share_overlap"] == 0 and random["share_overlap"] > 0.9 and blocks["n_train"] == random["n_train"]
    counts = runs[0]["confusion"].sel(head="fused", part="test").values
    assert audit(scene, splits[0], 2, runs[0]["map"].values)["oa_all"] == pytest.approx(
        100 * counts.trace() / counts.sum()
    )
    with pytest.raises(PrsaError, match="1 or more"):
        compare(scene, seeds=0)


@pytest.mark.parametrize("real_scene", ["muufl_crop"], indirect=True)
def test_random_beats_blocks_on_a_real_scene(real_scene):
    scene = real_scene
    runs, splits = compare(scene, seeds=1, device="cpu", width=16, features=16, epochs=6)
    table = leakage.leakage(runs, {scene.attrs["name"]: scene}, splits).set_index("split_kind")
    assert table.loc["random (leaking)", "share_overlap"] > 0.95 and table.loc["blocks", "share_overlap"] == 0
    assert table.loc["random (leaking)", "oa_all_mean"] > table.loc["blocks", "oa_all_mean"]
