"""From a trained network and its history to a run dataset: counts, curves, prototypes, probes, features and the map."""

import json

import numpy as np
import torch
import xarray as xr

from .. import metrics
from ..config import to_json
from ..data.scene import class_names, scene_hash
from ..data.splits import TEST, TRAIN, VAL, evenly, part_counts
from ..mapping import scene_features
from ..network.prsanet import PRSANet
from ..training.loop import SOURCES, TERMS, WATCHED
from .degrade import degraded_counts
from .runs import CLEAN, DIMS, PARTS, SCHEMA, assemble, versions

PROBE_TRAIN, PROBE_TEST = 3000, 20_000  # pixels used at most by probes and separability
KEPT_FEATURES = 256  # test pixels whose features are stored for figures


@torch.inference_mode()
def evaluate(model: PRSANet, scene: xr.Dataset, split: xr.DataArray, history: list[dict]) -> xr.Dataset:
    """One whole-scene pass, then everything the study stores of a run: ``prsa-run-1``, see `prsa.study.runs`."""
    names, shape, k = model.modalities, split.shape, len(class_names(scene))
    label, part = _flat(scene, split)
    train = evenly(np.flatnonzero(part == TRAIN), PROBE_TRAIN)
    test = evenly(np.flatnonzero(part == TEST), PROBE_TEST)
    chosen = np.concatenate([train, test])
    slot = np.full(label.size, -1, np.int64)
    slot[chosen] = np.arange(len(chosen))
    slot = slot.reshape(shape)

    maps = np.zeros((1 + len(names), *shape), np.uint8)  # fused, then every modality
    confidence = np.zeros(shape, np.float32)
    z = np.zeros((len(chosen), len(names), model.config.features), np.float32)
    f = None
    for rows, cols, z_here in scene_features(model, scene):
        out = model.classify(z_here)
        size = rows.stop - rows.start, cols.stop - cols.start
        p, top = out["logits"].softmax(1).max(1)
        confidence[rows, cols] = p.view(size).cpu().numpy()
        maps[0, rows, cols] = (top + 1).view(size).cpu().numpy()
        maps[1:, rows, cols] = (model.branch_logits(out).argmax(2) + 1).T.reshape(-1, *size).cpu().numpy()
        here = slot[rows, cols].ravel()
        inside = here >= 0
        if f is None:
            f = np.zeros((len(chosen), out["f"].shape[1]), np.float32)
        z[here[inside]] = z_here.cpu().numpy()[inside]
        f[here[inside]] = out["f"].cpu().numpy()[inside]

    n, truth = len(train), label[test]
    probes = [metrics.linear_probe(z[:n, i], label[train], z[n:, i]) for i in range(len(names))]
    shown = evenly(np.arange(len(test)), KEPT_FEATURES)
    conditions, degraded = degraded_counts(model, scene, split)
    measured = {
        "confusion": [_counts(label, part, cover, k) for cover in maps],
        "probe_confusion": [metrics.confusion(truth, answer, k) for answer in probes],
        "degraded_confusion": degraded,
        "prototypes": model.bank.means.cpu().numpy(),
        "features": z[n:][shown],
        "sample_label": truth[shown],
        "cka": metrics.linear_cka(f[n:], np.eye(k)[truth - 1]),
        "eta2": metrics.eta_squared(f[n:], truth),
        "map": maps[0],
        "confidence": confidence,
    }
    return _run(model, scene, split, history, measured, ["fused", *names], conditions, probed=1)


def evaluate_pixels(model, scene: xr.Dataset, split: xr.DataArray, history: list[dict]) -> xr.Dataset:
    """The run of a comparator that has no branch per modality to look into: only the pixels of the split are predicted.

    ``model`` states ``modalities``, ``classes``, ``config``, ``complexity()`` and ``probabilities(scene, centres)``.
    The map holds 0 and the confidence NaN outside the split, for a comparator pays for every pixel. Whatever belongs
    to branches is blank. Returns ``prsa-run-1`` with ``probed`` 0.
    """
    label, part = _flat(scene, split)
    cover, confidence = np.zeros(label.size, np.uint8), np.full(label.size, np.nan, np.float32)
    for pixels, p in model.probabilities(scene, np.flatnonzero(part > 0)):
        cover[pixels], confidence[pixels] = p.argmax(1) + 1, p.max(1)
    measured = {
        "confusion": [_counts(label, part, cover, len(class_names(scene)))],
        "map": cover.reshape(split.shape),
        "confidence": confidence.reshape(split.shape),
    }
    return _run(model, scene, split, history, measured, ["fused"], [CLEAN], probed=0)


def _flat(scene: xr.Dataset, split: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Label and part of every pixel, (H W,) each."""
    return scene["label"].values.ravel().astype(np.int64), split.values.ravel()


def _counts(label: np.ndarray, part: np.ndarray, cover: np.ndarray, k: int) -> np.ndarray:
    """Confusion counts (part, K, K) of a map."""
    cover = cover.ravel()
    return np.stack([metrics.confusion(label[part == code], cover[part == code], k) for code in (TRAIN, VAL, TEST)])


def _run(model, scene, split, history, measured, heads, conditions, probed) -> xr.Dataset:
    """The run dataset of what was measured, with the curves of the history and all that names and describes a run."""
    curves = {key: np.stack([r[key] for r in history]) for key in DIMS if history and key in history[0]}
    coords = {
        "epoch": np.arange(1, max(len(history), 1) + 1),
        "modality": model.modalities,
        "class": class_names(scene),
        "predicted": class_names(scene),
        "head": heads,
        "part": list(PARTS),
        "watched": list(WATCHED),
        "term": list(TERMS),
        "source": list(SOURCES),
        "condition": conditions,
    }
    n_train, n_val, n_test = part_counts(*_flat(scene, split), len(class_names(scene))).sum(1).tolist()
    attrs = {
        "schema": SCHEMA,
        "scene": scene.attrs["name"],
        "scene_title": scene.attrs["title"],
        "simulated": int(scene.attrs["simulated"]),
        "config": to_json(model.config),
        "scene_hash": scene_hash(scene),
        "split_hash": split.attrs["hash"],
        "split_kind": split.attrs["kind"],
        "n_train": n_train,
        "n_val": n_val,
        "n_test": n_test,
        **model.complexity(),
        "versions": json.dumps(versions()),
        "probed": probed,
    }
    return assemble(curves | measured, coords, attrs)
