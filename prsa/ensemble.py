"""Several seeds of one configuration trained together, as one batched network: what a GPU that a single small network leaves idle is good for.

Every seed keeps its own start, batches, augmentation, prototypes and history, and gets what training it alone would give, up to the rounding of
batched matrix products.
"""

import time
from collections.abc import Callable

import torch
import xarray as xr
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from .config import Config, named
from .errors import PrsaError
from .evaluate import evaluate
from .model import PRSANet
from .patches import upload
from .train import Choice, Streams, Trainer, label_run, pick_device, setting, with_factors


def can_train_together(config: Config) -> bool:
    """Whether networks of this configuration can be batched: those of `PRSANet`, under a rule that treats them alike."""
    return not (config.network or config.classifier) and named("rule", config.rule).together


class _Bound(nn.Module):
    """A model whose forward is any function of it: `functional_call` then lends the function the parameters of one seed."""

    def __init__(self, model: PRSANet):
        super().__init__()
        self.model = model

    def forward(self, function: Callable, *values):
        return function(self.model, *values)


class Ensemble(Trainer):
    """`Trainer` of several seeds at once. Whatever it holds of a batch has a dimension (seed,) in front of that of one network.

    ``models`` and ``histories`` are those of the seeds; the weights of the models are views of the batched ones. Raises `PrsaError` for a
    configuration that cannot be batched.
    """

    def __init__(self, scene: xr.Dataset, split: xr.DataArray, config: Config, seeds: list[int], device: torch.device, only: list[str] | None = None):
        if not can_train_together(config):
            raise PrsaError(f"expected a PRSANet and a rule that batches seeds, got network={config.network!r}, classifier={config.classifier!r}, "
                            f"rule={config.rule!r}. Fix: train its seeds one by one, with fit.")
        super().__init__(scene, split, config, seeds[0], device, only)
        self.models = [self.model, *(self.network(seed) for seed in seeds[1:])]
        self.histories: list[list[dict]] = [[] for _ in seeds]
        self.every_stream = [Streams.of(seed) for seed in seeds]
        parameters, buffers = stack_module_state([_Bound(model) for model in self.models])
        self.parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self.buffers = {name: value.clone() for name, value in buffers.items()}
        batched = self.parameters | self.buffers
        for i, model in enumerate(self.models):
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.data = batched[f"model.{name}"].data[i]
        self.bound = _Bound(self.model)
        self.optimise(self.parameters.values())
        self.shadow = self.shadow_heads(*seeds)
        self.s = self.s.expand(len(seeds), -1)
        self.rule.history = None  # a rule that reads it is of one network: better an error than the history of another seed

    def each(self, function, *values):
        def one(parameters, buffers, *values):
            return functional_call(self.bound, (parameters, buffers), (function, *values))

        return vmap(one)(self.parameters, self.buffers, *values)

    def draw(self, numbers):
        drawn = [numbers(streams) for streams in self.every_stream]
        return None if drawn[0] is None else upload(torch.stack(drawn), self.device)

    def batch(self, index, symmetry):
        windows = self.patches.gather(index.flatten(), symmetry.flatten())
        return {m: values.unflatten(0, index.shape) for m, values in windows.items()}

    def shared(self):
        return [value for name, value in self.parameters.items() if not name.startswith("model.encoders.")]

    def norms(self):
        gradients = {m: [p.grad for name, p in self.parameters.items() if name.startswith(f"model.encoders.{m}.")] for m in self.bands}
        return torch.stack([torch.stack([g.flatten(1).norm(dim=1) for g in parts]).norm(dim=0) for parts in gradients.values()], dim=1)

    def shadow_step(self, encoded, y):
        seeds, _, names, _ = encoded.shape
        direction, accuracy = self.shadow.step(encoded.transpose(0, 1).flatten(1, 2), y.repeat_interleave(names, 0))
        return direction.unflatten(1, (seeds, names)).transpose(0, 1), accuracy.view(seeds, names)

    def probes(self, out, y):
        return self.shadow.accuracy(out["z"].transpose(0, 1).flatten(1, 2), y).view(len(self.models), -1)

    def remember(self, record, s):
        records = [with_factors({key: values[i] for key, values in record.items()}, of_seed) for i, of_seed in enumerate(s)]
        for history, one in zip(self.histories, records):
            history.append(one)
        return records

    def run(self, on_epoch: Callable[[int, list[dict]], None] | None = None) -> list[int]:
        """Train all epochs; returns the epoch of the weights that every model ends with (1-based). The models are then independent."""
        choices = [Choice(model, self.config, self.epochs) for model in self.models]
        for number in range(1, self.epochs + 1):
            records = self.epoch(number)
            for choice, record in zip(choices, records):
                choice.see(number, record)
            if on_epoch:
                on_epoch(number, records)
        chosen = [choice.settle() for choice in choices]
        for model in self.models:
            for value in (*model.parameters(), *model.buffers()):
                value.data = value.data.clone()
        return chosen


def fit_together(scene: xr.Dataset, method: str = "prsanet", split: xr.DataArray | None = None, seeds: tuple[int, ...] = (0, 1, 2), preset: str = "full",
                 device: str = "auto", on_epoch=None, **overrides) -> list[tuple[xr.Dataset, PRSANet]]:
    """`prsa.fit` for several seeds at once; arguments and results as there, a pair for every seed.

    ``seconds`` of a run is its share of the time of all, ``samples_per_s`` the speed of all. Raises `PrsaError` as `fit` does, and for methods
    that `can_train_together` leaves out.
    """
    config, split, only = setting(scene, method, split, preset, overrides)
    trainer = Ensemble(scene, split, config, list(seeds), pick_device(device), only)
    start = time.perf_counter()
    chosen = trainer.run(on_epoch)
    seconds = (time.perf_counter() - start) / len(chosen)
    fitted = []
    for seed, model, history, epoch in zip(seeds, trainer.models, trainer.histories, chosen):
        run = evaluate(model, scene, split, history)
        label_run(run, method, seed, preset, overrides, epoch, seconds, trainer.epochs * trainer.batches * trainer.size)
        run.attrs["trained_with"] = " ".join(str(other) for other in seeds)
        fitted.append((run, model))
    return fitted
