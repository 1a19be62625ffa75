"""Scenes small enough to train on in a second, for the tests of the core."""

import json

import numpy as np
import torch
import xarray as xr

from prsa.config import METHODS, make_config
from prsa.data.patches import PatchSource
from prsa.data.splits import split_scene
from prsa.study.plan import ABLATIONS, STUDY
from prsa.training.loop import Trainer

BANDS = {"hsi": 6, "sar": 2, "dsm": 1}
CLASSES = ["water", "forest", "field", "roof"]
OWN = tuple(
    m for m in (*STUDY, *ABLATIONS, "aux") if "rule" not in METHODS[m]
)  # methods under the default rule, which the tests of the loop write out again
SMALL = {
    "patch": 5,
    "width": 6,
    "features": 5,
    "epochs": 2,
    "batch": 32,
}  # settings of a run that takes a fraction of a second


def make_scene(modalities=("hsi", "sar"), shape=(40, 48), parcel=4, seed=0, noise=1.0, name="tiny", **rasters):
    """Square parcels of four classes, a tenth of the pixels unlabelled; modalities see the classes through noise."""
    rng = np.random.default_rng(seed)
    field = rng.integers(1, len(CLASSES) + 1, (-(-shape[0] // parcel), -(-shape[1] // parcel)))
    cover = np.kron(field, np.ones((parcel, parcel), int))[: shape[0], : shape[1]]
    label = np.where(rng.random(shape) < 0.1, 0, cover).astype(np.int16)
    data = {}
    for m in modalities:
        levels = rng.normal(size=(BANDS[m], len(CLASSES) + 1))
        values = levels[:, cover] + noise * rng.normal(size=(BANDS[m], *shape))
        data[m] = (
            (f"{m}_band", "y", "x"),
            (3 * values + 10).astype(np.float32),
            {"kind": m, "units": "1", "long_name": f"invented {m}"},
        )
    data["label"] = ("y", "x"), label
    for raster, values in rasters.items():
        data[raster] = ("y", "x"), np.asarray(values, np.int8)
    attrs = {
        "schema": "prsa-scene-1",
        "title": "Tiny invented scene",
        "class_names": json.dumps(CLASSES),
        "license": "MIT",
        "citation": "none",
        "simulated": 1,
        "name": name,
    }
    return xr.Dataset(data, attrs=attrs)


def make_trainer(scene, method="prsanet", seed=0, split=None, only=None, **overrides):
    """A `Trainer` as `fit` makes it, before its first epoch."""
    config = make_config(method, "quick", **(SMALL | overrides))
    split = (
        split_scene(scene, "blocks", radius=max(config.patches([str(m) for m in BANDS if m in scene]).values()) // 2)
        if split is None
        else split
    )
    return Trainer(scene, split, config, seed, torch.device("cpu"), only)


def in_double(trainer):
    """The same trainer in double precision, so that two ways of computing agree to many digits."""
    trainer.model.double()
    for parameter in (trainer.shadow.weight, trainer.shadow.bias):
        parameter.data = parameter.data.double()
    trainer.patches.tables = {m: t.double() for m, t in trainer.patches.tables.items()}
    return trainer


def weights(model):
    """Parameters and buffers by name, detached copies."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_weights(a, b, what=""):
    """Bit for bit, NaN not allowed."""
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), (
            f"{what} {name} differs by {(a[name].double() - b[name].double()).abs().max():.2e}"
        )


def every_patch(model, scene):
    """x[m] (H W, C, p, p): the window of every pixel of the scene, normalised as the model does."""
    centres = np.arange(scene.sizes["y"] * scene.sizes["x"])
    statistics = {m: tuple(s.numpy() for s in pair) for m, pair in model.statistics().items()}
    return PatchSource(scene, model.sides, statistics, centres).gather(torch.arange(len(centres)))
