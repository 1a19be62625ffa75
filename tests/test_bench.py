"""The benchmark measures what it says; its figures are never tested."""

import json

import pytest
import torch

from prsa import bench
from prsa.config import make_config
from prsa.scene import check_scene


def test_noise_scene_is_a_scene_of_the_stated_size():
    scene = check_scene(bench.noise_scene((90, 70), {"hsi": 5, "sar": 2}, classes=4))
    assert dict(scene.sizes) == {"hsi_band": 5, "sar_band": 2, "y": 90, "x": 70}
    assert int((scene["split"] == 1).sum()) == 2000 and int(scene["label"].max()) == 4


@pytest.mark.parametrize("measure, rate", [("training", "samples_per_s"), ("mapping", "pixels_per_s")])
def test_rows_hold_every_method_and_a_rate(monkeypatch, measure, rate):
    monkeypatch.setattr(bench, "REPEATS", 1)
    scene = bench.noise_scene((90, 70), {"hsi": 5, "sar": 2}, classes=4)
    rows = getattr(bench, measure)(scene, torch.device("cpu"), threads=1)
    assert {row["method"] for row in rows} == {"concat", "prsanet"}
    assert all(row[rate] >= row[f"median_{rate}"] > 0 and row["share_of_matmul"] > 0 for row in rows)
    assert json.loads(json.dumps(rows)) == rows
    if measure == "training":
        assert {row["batch"] for row in rows} == {64, 128, 256} and {row["features"] for row in rows} == {make_config("concat").features}
