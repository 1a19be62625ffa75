"""The README's own code runs as printed."""

import ast
import re

import numpy as np
from tiny import SMALL

import prsa
from prsa import config, files
from prsa.comparators import rebalancing

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", files.ROOT.joinpath("README.md").read_text(encoding="utf-8"), re.S | re.M
)


def block(start):
    (found,) = [b for b in BLOCKS if b.lstrip().startswith(start)]
    return found


def test_the_example_of_a_new_method_is_short_and_trains(two, monkeypatch):
    rule, line = block("class Surgery"), block('"surgery"')
    assert len((rule + line).splitlines()) < 20
    scope = dict(vars(rebalancing))
    exec(rule, scope)
    monkeypatch.setattr(rebalancing, "Surgery", scope["Surgery"], raising=False)
    monkeypatch.setitem(config.METHODS, "surgery", ast.literal_eval("{" + line + "}")["surgery"])
    split = prsa.split_scene(two, radius=2)
    ours, _ = prsa.fit(two, "surgery", split, preset="quick", device="cpu", **SMALL)
    plain, _ = prsa.fit(two, "concat+prm", split, preset="quick", device="cpu", **(SMALL | {"rebalance": True}))
    assert ours.attrs["method"] == "surgery" and np.isfinite(ours["loss"].sel(term="prototype")).all()
    assert not np.array_equal(ours["prototypes"], plain["prototypes"])  # the hook was called


def test_the_four_calls(monkeypatch):
    code, taken = block("import prsa\n\nscene = prsa.open_scene"), {}
    fit = prsa.fit
    monkeypatch.setattr(prsa, "fit", lambda *a, **k: fit(*a, **(k | {"preset": "quick", "epochs": 1, "device": "cpu"})))
    exec(code, taken)
    assert taken["run"].attrs["schema"] == "prsa-run-1" and taken["land_cover"].dims == ("y", "x")


def test_a_scene_of_ones_own(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(1, 4, (6, 6)), np.ones((8, 8), int))
    given = {
        "hsi": rng.normal(size=(5, 48, 48)) + label,
        "lidar": rng.normal(size=(1, 48, 48)),
        "label": label,
        "names": ["a", "b", "c"],
    }
    monkeypatch.chdir(tmp_path)
    exec(block("import json\nimport xarray"), given)
    assert prsa.open_scene("my_scene.nc").attrs["title"] == "My scene"
