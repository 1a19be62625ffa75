"""Train one network or classifier and evaluate it: what `prsa.fit` is."""

import json
import time

import torch
import xarray as xr

from ..comparators.classical import Classifier
from ..comparators.networks import NetworkTrainer
from ..config import Config, make_config
from ..data.scene import modalities
from ..data.splits import split_scene
from ..errors import PrsaError
from ..training.loop import Trainer, pick_device
from .evaluate import evaluate, evaluate_pixels


def setting(
    scene: xr.Dataset, method: str, split: xr.DataArray | None, preset: str, overrides: dict
) -> tuple[Config, xr.DataArray, list[str] | None]:
    """Config, split and, for a modality trained alone, its name: what the arguments of `fit` stand for."""
    alone = method in modalities(scene)
    config = make_config("late" if alone else method, preset, **overrides)
    split = split_scene(scene, radius=max(config.patches(modalities(scene)).values()) // 2) if split is None else split
    return config, split, [method] if alone else None


def label_run(
    run: xr.Dataset, method: str, seed: int, preset: str, changed: dict, chosen: int, seconds: float, samples: int
) -> None:
    """Write down what was trained, ``changed`` from the preset, and how fast."""
    run.attrs |= {
        "method": method,
        "seed": seed,
        "preset": preset,
        "overrides": json.dumps(changed, sort_keys=True),
        "epoch_used": chosen,
        "variant": ",".join(f"{k}={v}" for k, v in sorted(changed.items())),
        "seconds": seconds,
        "samples_per_s": samples / seconds,
    }


def fit(
    scene: xr.Dataset,
    method: str = "prsanet",
    split: xr.DataArray | None = None,
    seed: int = 0,
    preset: str = "full",
    device: str = "auto",
    on_epoch=None,
    mixed: bool = False,
    **overrides,
) -> tuple[xr.Dataset, torch.nn.Module | Classifier]:
    """Train one network or classifier and evaluate it.

    ``method``: a name of `prsa.config.METHODS`, or the name of a modality to train that one alone; ``split``: from `split_scene` (default:
    "auto"); ``mixed``: train the encoders of a PRSANet in bfloat16, faster and not bit for bit the study's run; ``overrides``: fields of `Config`.
    Returns the run (``prsa-run-1``, see `prsa.study.runs`) and the trained model in eval mode.
    Raises `PrsaError` for unknown names, splits that leak into the chosen patch and diverged training.
    """
    config, split, only = setting(scene, method, split, preset, overrides)
    if mixed and (config.network or config.classifier):
        raise PrsaError(f"mixed precision is for the encoders of a PRSANet, got method {method!r}. Fix: mixed=False.")
    start = time.perf_counter()
    if config.classifier:
        model, chosen, samples = Classifier(scene, split, config, seed), 0, 0
        seconds = time.perf_counter() - start
        run = evaluate_pixels(model, scene, split, [])
    else:
        where = scene, split, config, seed, pick_device(device), only
        trainer = NetworkTrainer(*where) if config.network else Trainer(*where, mixed)
        start = time.perf_counter()
        model, chosen, samples = trainer.model, trainer.run(on_epoch), trainer.epochs * trainer.batches * trainer.size
        seconds = time.perf_counter() - start
        run = (evaluate_pixels if config.network else evaluate)(model, scene, split, trainer.history)
    label_run(run, method, seed, preset, overrides | ({"mixed": True} if mixed else {}), chosen, seconds, samples)
    return run, model
