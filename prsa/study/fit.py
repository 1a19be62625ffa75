"""Train one network or classifier and evaluate it: what `prsa.fit` is."""

import json
import time
from collections.abc import Callable

import torch
import xarray as xr

from ..comparators.networks import NetworkTrainer
from ..config import METHODS, make_config
from ..data.scene import check_names, check_scene, modalities
from ..data.splits import check_split, split_scene
from ..errors import check_whole
from ..mapping import model_card
from ..training.loop import Trainer, pick_device
from .evaluate import evaluate, evaluate_pixels
from .progress import bar


def fit(
    scene: xr.Dataset,
    method: str = "prsanet",
    split: xr.DataArray | None = None,
    seed: int = 0,
    preset: str = "full",
    device: str = "auto",
    on_epoch: Callable[[int, dict], None] | None = None,
    progress: bool | None = None,
    **overrides,
) -> tuple[xr.Dataset, torch.nn.Module]:
    """Train one network or classifier and evaluate it.

    ``method``: a name of `prsa.config.METHODS`, or the name of a modality to train that one alone; ``split``: from
    `split_scene` (default: "auto"); ``on_epoch(number, record)`` is called after every epoch; ``progress``: show a bar
    (None: on a terminal and in JupyterLab); ``overrides``: fields of `Config`. Returns the run (``prsa-run-1``, see
    `prsa.study.runs`) and the trained model: a network in eval mode, or a `prsa.comparators.classical.Classifier`.
    Raises `PrsaError` for a scene that breaks the contract, unknown names, a seed that is no whole number, splits that
    leak into the chosen patch and diverged training.
    """
    check_whole(seed=seed)
    scene = check_scene(scene)
    check_names(scene)
    alone = method in modalities(scene) and method not in METHODS
    config = make_config("late" if alone else method, preset, **overrides)
    radius = max(config.patches(modalities(scene)).values()) // 2
    split = split_scene(scene, radius=radius) if split is None else check_split(scene, split, radius)
    start, chosen, samples, history = time.perf_counter(), 0, 0, []
    if config.classifier:
        from ..comparators.classical import Classifier

        model = Classifier(scene, split, config, seed)
    else:
        with bar(config.epochs, unit="epoch", show=progress) as line:

            def after(number, record):
                line.update()
                if on_epoch:
                    on_epoch(number, record)

            build = NetworkTrainer if config.network else Trainer
            trainer = build(scene, split, config, seed, pick_device(device), [method] if alone else None)
            model, history = trainer.model, trainer.history
            if trainer.epochs != line.total:
                line.reset(trainer.epochs)
            start, samples = time.perf_counter(), trainer.epochs * trainer.batches * trainer.size
            chosen = trainer.run(after)
    seconds = time.perf_counter() - start
    run = (evaluate_pixels if config.network or config.classifier else evaluate)(model, scene, split, history)
    run.attrs |= {
        "method": method,
        "seed": seed,
        "preset": preset,
        "overrides": json.dumps(overrides, sort_keys=True),
        "variant": ",".join(f"{k}={v}" for k, v in sorted(overrides.items())),
        "epoch_used": chosen,
        "seconds": seconds,
        "samples_per_s": samples / seconds,
    }
    model.card = model_card(model, run, scene, split)
    return run, model
