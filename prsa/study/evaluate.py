"""From a trained network and its history to a run dataset: counts, curves, prototypes, probes, features and the map."""

import importlib.metadata
import json

import numpy as np
import torch
import xarray as xr

from .. import metrics
from ..config import to_json
from ..data.scene import class_names, scene_hash
from ..data.splits import TEST, TRAIN, evenly, part_counts
from ..mapping import scene_features
from ..network.prsanet import PRSANet
from ..training.loop import SOURCES, TERMS, WATCHED
from .degrade import CLEAN, degraded_counts
from .runs import SCHEMA

PARTS = ("train", "val", "test")
PROBE_TRAIN, PROBE_TEST = 3000, 20_000  # pixels used at most by probes and separability
KEPT_FEATURES = 400  # test pixels whose features are stored for figures


@torch.inference_mode()
def evaluate(model: PRSANet, scene: xr.Dataset, split: xr.DataArray, history: list[dict]) -> xr.Dataset:
    """One whole-scene pass, then everything the study stores of a run; schema in `prsa.study.runs`. Returns ``prsa-run-1``."""
    names, classes, shape = model.modalities, class_names(scene), split.shape
    k = len(classes)
    label, part = scene["label"].values.ravel().astype(np.int64), split.values.ravel()
    train = evenly(np.flatnonzero(part == TRAIN), PROBE_TRAIN)
    test = evenly(np.flatnonzero(part == TEST), PROBE_TEST)
    chosen = np.concatenate([train, test])
    slot = np.full(label.size, -1, np.int64)
    slot[chosen] = np.arange(len(chosen))
    grid = np.arange(label.size).reshape(shape)

    maps = np.zeros((1 + len(names), *shape), np.uint8)  # fused, then every modality
    confidence = np.zeros(shape, np.float32)
    z_kept = np.zeros((len(chosen), len(names), model.config.features), np.float32)
    f_kept = None
    for rows, cols, z in scene_features(model, scene):
        out = model.classify(z)
        size = rows.stop - rows.start, cols.stop - cols.start
        p, top = out["logits"].softmax(1).max(1)
        confidence[rows, cols] = p.view(size).cpu().numpy()
        maps[0, rows, cols] = (top + 1).view(size).cpu().numpy()
        maps[1:, rows, cols] = (model.branch_logits(out).argmax(2) + 1).T.reshape(-1, *size).cpu().numpy()
        here = slot[grid[rows, cols].ravel()]
        inside = here >= 0
        if f_kept is None:
            f_kept = np.zeros((len(chosen), out["f"].shape[1]), np.float32)
        z_kept[here[inside]] = z.cpu().numpy()[inside]
        f_kept[here[inside]] = out["f"].cpu().numpy()[inside]

    counts = np.zeros((1 + len(names), len(PARTS), k, k), np.int64)
    for i, code in enumerate((1, 2, 3)):
        pixels = part == code
        for h in range(len(maps)):
            counts[h, i] = metrics.confusion(label[pixels], maps[h].ravel()[pixels], k)
    n_train, truth = len(train), label[test]
    probe = np.stack(
        [
            metrics.confusion(truth, metrics.linear_probe(z_kept[:n_train, i], label[train], z_kept[n_train:, i]), k)
            for i in range(len(names))
        ]
    )
    shown = evenly(np.arange(len(test)), KEPT_FEATURES)
    conditions, degraded = degraded_counts(model, scene, split)
    curve = {key: np.stack([record[key] for record in history]).astype(np.float64) for key in history[0]}
    run = xr.Dataset(
        {
            "confusion": (("head", "part", "class", "predicted"), counts.astype(np.int32)),
            "probe_confusion": (("modality", "class", "predicted"), probe.astype(np.int32)),
            "loss": (("epoch", "term"), curve["loss"]),
            **{key: (("epoch", "modality"), curve[key]) for key in ("s", "rho", "beta", "grad_norm", "grad_cosine")},
            **{key: (("epoch", "watched", "modality"), curve[key]) for key in ("branch_accuracy", "probe_accuracy")},
            "direction": (("epoch", "source", "modality"), curve["direction"]),
            "degraded_confusion": (("condition", "class", "predicted"), degraded.astype(np.int32)),
            "accuracy": (("epoch", "watched"), curve["accuracy"]),
            "js": (("epoch",), curve["js"]),
            "prototypes": (("modality", "class", "feature"), model.bank.means.cpu().numpy()),
            "features": (("sample", "modality", "feature"), z_kept[n_train:][shown]),
            "fused_features": (("sample", "fused_feature"), f_kept[n_train:][shown]),
            "sample_label": (("sample",), truth[shown].astype(np.int32)),
            "cka": metrics.linear_cka(f_kept[n_train:], np.eye(k)[truth - 1]),
            "eta2": metrics.eta_squared(f_kept[n_train:], truth),
            "map": (("y", "x"), maps[0].astype(np.int8)),
            "confidence": (("y", "x"), confidence),
        },
        coords={
            "epoch": np.arange(1, len(history) + 1),
            "modality": names,
            "class": classes,
            "predicted": classes,
            "head": ["fused", *names],
            "part": list(PARTS),
            "watched": list(WATCHED),
            "term": list(TERMS),
            "source": list(SOURCES),
            "condition": conditions,
        },
    )
    return run.assign_attrs(_identity(model, scene, split), probed=1)


def _identity(model, scene: xr.Dataset, split: xr.DataArray) -> dict:
    """The attributes every run has, whatever was trained."""
    n = part_counts(scene["label"].values.ravel().astype(np.int64), split.values.ravel(), len(class_names(scene))).sum(
        1
    )
    return {
        "schema": SCHEMA,
        "scene": scene.attrs["name"],
        "scene_title": scene.attrs["title"],
        "simulated": int(scene.attrs["simulated"]),
        "config": to_json(model.config),
        "scene_hash": scene_hash(scene),
        "split_hash": split.attrs["hash"],
        "split_kind": split.attrs["kind"],
        "n_train": int(n[0]),
        "n_val": int(n[1]),
        "n_test": int(n[2]),
        **model.complexity(),
        "versions": json.dumps(
            {p: importlib.metadata.version(p) for p in ("torch", "numpy", "scikit-learn", "xarray")}
        ),
    }


def evaluate_pixels(model, scene: xr.Dataset, split: xr.DataArray, history: list[dict]) -> xr.Dataset:
    """The run of a comparator that has no branch per modality to look into: predictions of the split's pixels, everything else NaN.

    ``model`` states ``modalities``, ``classes``, ``config``, ``complexity()`` and ``probabilities(scene, centres)``. The map holds 0 and
    the confidence NaN outside the split: a comparator pays for every pixel. Returns ``prsa-run-1`` with ``probed`` 0.
    """
    names, classes = model.modalities, class_names(scene)
    k, m, epochs = len(classes), len(names), max(len(history), 1)  # the file format has no dimension of length 0
    label, part = scene["label"].values.ravel().astype(np.int64), split.values.ravel()
    cover, confidence = np.zeros(label.size, np.int8), np.full(label.size, np.nan, np.float32)
    for pixels, p in model.probabilities(scene, np.flatnonzero(part > 0)):
        cover[pixels], confidence[pixels] = p.argmax(1) + 1, p.max(1)
    counts = np.stack([metrics.confusion(label[part == code], cover[part == code], k) for code in (1, 2, 3)])

    def curve(key: str, *shape: int) -> np.ndarray:
        return (
            np.stack([record[key] for record in history]).astype(np.float64)
            if history
            else np.full((1, *shape), np.nan)
        )

    run = xr.Dataset(
        {
            "confusion": (("head", "part", "class", "predicted"), counts[None].astype(np.int32)),
            "probe_confusion": (("modality", "class", "predicted"), np.zeros((m, k, k), np.int32)),
            "loss": (("epoch", "term"), curve("loss", len(TERMS))),
            **{key: (("epoch", "modality"), curve(key, m)) for key in ("s", "rho", "beta", "grad_norm", "grad_cosine")},
            **{
                key: (("epoch", "watched", "modality"), curve(key, len(WATCHED), m))
                for key in ("branch_accuracy", "probe_accuracy")
            },
            "direction": (("epoch", "source", "modality"), curve("direction", len(SOURCES), m)),
            "degraded_confusion": (("condition", "class", "predicted"), np.zeros((1, k, k), np.int32)),
            "accuracy": (("epoch", "watched"), curve("accuracy", len(WATCHED))),
            "js": (("epoch",), curve("js")),
            "prototypes": (("modality", "class", "feature"), np.full((m, k, 1), np.nan, np.float32)),
            "features": (("sample", "modality", "feature"), np.full((1, m, 1), np.nan, np.float32)),
            "fused_features": (("sample", "fused_feature"), np.full((1, 1), np.nan, np.float32)),
            "sample_label": (("sample",), np.zeros(1, np.int32)),
            "cka": np.nan,
            "eta2": np.nan,
            "map": (("y", "x"), cover.reshape(split.shape)),
            "confidence": (("y", "x"), confidence.reshape(split.shape)),
        },
        coords={
            "epoch": np.arange(1, epochs + 1),
            "modality": names,
            "class": classes,
            "predicted": classes,
            "head": ["fused"],
            "part": list(PARTS),
            "watched": list(WATCHED),
            "term": list(TERMS),
            "source": list(SOURCES),
            "condition": [CLEAN],
        },
    )
    return run.assign_attrs(_identity(model, scene, split), probed=0)
