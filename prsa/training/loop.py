"""One training loop, one history; nothing method-specific inside."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from ..config import Config, named
from ..data.patches import PatchSource, band_statistics, upload
from ..data.scene import class_names, modalities
from ..data.splits import TRAIN, VAL, check_reach, evenly
from ..errors import PrsaError
from ..network import losses
from ..network.prototypes import imbalance_factor, optimisation_degree, push
from ..network.prsanet import PRSANet, stream_seed
from .rule import Rule
from .shadow import ShadowHeads

TERMS = ("fused", "alignment", "prototype", "auxiliary", "rebalancing")
WATCHED = ("train", "val")
SOURCES = (
    "fused",
    "prototype",
    "total",
)  # gradients on z that are compared with the direction of the branch trained alone
VAL_CAP = 512  # validation pixels looked at per epoch
SMOOTHING = 0.9  # of the optimisation degree over batches


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" is the GPU when there is one. Raises `PrsaError` for a device this machine does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise PrsaError(
            f"device {device!r} is not usable here ({str(error).splitlines()[0]}). Use DEVICE=auto or DEVICE=cpu."
        ) from error


@dataclass
class Streams:
    """Named random streams of one seed; all on the CPU so that a run does not depend on the device."""

    order: torch.Generator
    symmetry: torch.Generator
    dropout: torch.Generator
    rule: torch.Generator

    @classmethod
    def of(cls, seed: int) -> "Streams":
        return cls(
            *(
                torch.Generator().manual_seed(stream_seed(seed, name))
                for name in ("order", "symmetry", "dropout", "rule")
            )
        )


def loss_terms(
    model: PRSANet,
    rule: Rule,
    z: torch.Tensor,
    y: torch.Tensor,
    s: torch.Tensor,
    drop: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> tuple[dict, dict]:
    """Weighted loss terms (scalars) of a batch and the model's dict. z (B, M, D), y (B,), s (M,) smoothed optimisation degrees.

    The prototype term is always computed, because its gradient is a measure of the study; its weight may be 0.
    """
    config = model.config
    out = model.classify(z, drop, keep)
    targets = losses.soft_targets(model.bank.similarity(), y, config.sigma, config.tau_t) if config.sigma else y
    weight = rule.weights(s) if config.lambda_p else torch.ones_like(s)
    terms = {"prototype": losses.prototype_loss(out["prototype"], targets, weight).mean()}
    if config.fusion != "late":
        terms["fused"] = losses.cross_entropy(out["fused"], y).mean()
    if config.lambda_sa and "S" in out:
        terms["alignment"] = config.lambda_sa * losses.alignment_loss(out["S"], targets).mean()
    if "branch" in out:
        terms["auxiliary"] = config.lambda_aux * losses.cross_entropy(out["branch"], y).sum(1).mean()
    return terms | rule.terms(out, y, s), out


def step_gradients(
    shared: list[torch.Tensor], terms: dict, z: torch.Tensor, lambda_p: float, free: bool
) -> dict[str, torch.Tensor]:
    """Gradient of every term on z (B, M, D); gradients of the parameters ``shared`` by the modalities are summed into their ``.grad``.

    ``free``: the independent phase, in which the fused loss trains only the fusion and the head. Of several networks side by side, terms, z and
    parameters have one more dimension in front.
    """
    on_z = {}
    for name, value in terms.items():
        inputs = [z] if name == "prototype" else [z, *shared]
        on_z[name], *rest = torch.autograd.grad(
            value, inputs, torch.ones_like(value), retain_graph=True, allow_unused=True
        )
        for parameter, gradient in zip(shared, rest):
            if gradient is not None:
                if (
                    gradient.stride() != parameter.stride()
                ):  # the fused optimiser reads both in the order in which they lie in memory
                    gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    wanted = {name: g for name, g in on_z.items() if name != "prototype"}
    if lambda_p:
        wanted["prototype"] = lambda_p * on_z["prototype"]
    if free:
        wanted.pop("fused", None)
    on_z["total"] = sum(wanted.values(), torch.zeros_like(z))
    return on_z


@torch.no_grad()
def follow(model: PRSANet, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Let the prototypes follow a batch, z (B, M, D) and y (B,), and say how far each modality is optimised by them: s (M,)."""
    model.bank.update(z, y)
    return optimisation_degree(model.bank.logits(z), y)


def with_factors(record: dict, s: torch.Tensor) -> dict:
    """The record of an epoch with its optimisation degrees s (M,), imbalance factors and pushes."""
    return record | {
        "s": s.numpy(),
        "rho": imbalance_factor(s).numpy() if len(s) > 1 else np.ones(1),
        "beta": push(s).numpy(),
    }


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine per modality between two gradients on z, (B, M, D) each -> (M,)."""
    return F.cosine_similarity(a.transpose(0, 1).flatten(1), b.transpose(0, 1).flatten(1), dim=1)


class Choice:
    """The epoch whose weights a model ends with: the last one, or the best on the validation pixels."""

    def __init__(self, model: PRSANet, config: Config, epochs: int):
        self.model, self.config, self.epoch, self.best, self.kept = model, config, epochs, -1.0, None

    def see(self, number: int, record: dict) -> None:
        """Look at an epoch (1-based) that has just ended."""
        if self.config.epoch_choice == "validation" and record["accuracy"][1] > self.best:
            self.best, self.epoch = float(record["accuracy"][1]), number
            self.kept = {k: v.clone() for k, v in self.model.state_dict().items()}

    def settle(self) -> int:
        """Give the model its weights and return their epoch. Raises `PrsaError` when training diverged."""
        if self.kept is not None:
            self.model.load_state_dict(self.kept)
        if not all(torch.isfinite(p).all() for p in self.model.parameters()):
            raise PrsaError(f"training diverged (weights are not finite) with lr={self.config.lr}. Try a smaller lr.")
        self.model.eval()
        return self.epoch


class Trainer:
    """State of one run: model, data on the device, streams, history. ``mixed``: encoders in bfloat16 (forward and backward), all else in float32."""

    def __init__(
        self,
        scene: xr.Dataset,
        split: xr.DataArray,
        config: Config,
        seed: int,
        device: torch.device,
        only: list[str] | None = None,
        mixed: bool = False,
    ):
        self.config, self.device, self.mixed = config, device, mixed
        names = only or modalities(scene)
        label, part = scene["label"].values.ravel(), split.values.ravel()
        train = (part == TRAIN).reshape(split.shape)
        self.bands, self.classes = {m: scene.sizes[f"{m}_band"] for m in names}, class_names(scene)
        self.statistics = {m: band_statistics(scene, m, train) for m in names}
        self.model = self.network(seed)
        self.rule = named("rule", config.rule)(config)
        check_reach(split, self.model.sides)
        centres = np.flatnonzero(part == TRAIN)
        held = evenly(np.flatnonzero(part == VAL), VAL_CAP)
        self.patches = PatchSource(scene, self.model.sides, self.statistics, np.concatenate([centres, held]), device)
        self.y = torch.from_numpy(label[np.concatenate([centres, held])].astype(np.int64) - 1).to(device)
        self.n_train, self.n_held = len(centres), len(held)
        self.streams = Streams.of(seed)
        self.size = min(config.batch, self.n_train)
        self.batches = max(1, self.n_train // config.batch)
        self.epochs = (
            config.epochs if not config.max_steps else min(config.epochs, -(-config.max_steps // self.batches))
        )
        self.optimise(self.model.parameters())
        self.shadow = self.shadow_heads(seed)
        self.s = torch.zeros(len(names), device=device)
        self.history: list[dict] = []
        self.rule.history = self.history

    def network(self, seed: int) -> PRSANet:
        """The untrained network of a seed, on the device."""
        build = named("network", self.config.network) if self.config.network else PRSANet
        return (
            build(self.bands, self.classes, self.config, seed, self.statistics)
            .to(self.device)
            .to(memory_format=torch.channels_last)
        )

    def optimise(self, parameters) -> None:
        """Optimiser and schedule of these parameters."""
        self.optimizer = torch.optim.AdamW(
            parameters, lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True
        )
        self.steps = max(
            self.epochs * self.batches + 1, 6
        )  # OneCycleLR divides by zero when the rise is one step, a fifth of 5
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, self.config.lr, total_steps=self.steps, pct_start=0.2
        )

    def shadow_heads(self, *seeds: int) -> ShadowHeads:
        """The shadow heads of these seeds, in one object."""
        return ShadowHeads(
            len(self.bands),
            self.config.features,
            len(self.classes),
            self.config.lr,
            self.config.weight_decay,
            self.steps,
            [torch.Generator().manual_seed(stream_seed(seed, "shadow")) for seed in seeds],
            self.device,
        )

    def each(self, function: Callable, *values):
        """``function(model, *values)``; of several networks side by side, of each with its own part of the values."""
        return function(self.model, *values)

    def draw(self, numbers: Callable[[Streams], torch.Tensor | None]) -> torch.Tensor | None:
        """Random numbers from the streams, on the device; None stays None."""
        drawn = numbers(self.streams)
        return None if drawn is None else upload(drawn, self.device)

    def batch(self, index: torch.Tensor, symmetry: torch.Tensor) -> dict[str, torch.Tensor]:
        """Windows (B, C, p, p) per modality around the pixels ``index`` (B,), turned and mirrored by ``symmetry`` (B,)."""
        return self.patches.gather(index, symmetry)

    def masks(self) -> dict[str, torch.Tensor]:
        """What multiplies features in the next batch, as far as anything does: ``drop`` (B, F) and ``keep`` (B, M) of `PRSANet.classify`."""
        share, fusion, masks = (
            self.config.dropout,
            self.model.fusion,
            {"keep": self.draw(lambda s: self.rule.keep(self.size, len(self.bands), s.rule))},
        )
        if share and fusion is not None:
            masks["drop"] = self.draw(
                lambda s: (torch.rand((self.size, fusion.size), generator=s.dropout) >= share) / (1 - share)
            )
        return {name: mask for name, mask in masks.items() if mask is not None}

    def epoch(self, number: int) -> dict:
        """Train one epoch (1-based) and return its record of numpy values; nothing is read back from the device before its end."""
        self.model.train()
        order = self.draw(lambda streams: torch.randperm(self.n_train, generator=streams.order))
        symmetry = self.draw(lambda streams: torch.randint(8, (self.n_train,), generator=streams.symmetry))
        self.rule.progress = number / self.epochs
        rows = []
        for b in range(self.batches):
            part = slice(b * self.size, (b + 1) * self.size)
            index = order[..., part]
            x, y = self.batch(index, symmetry[..., part]), self.y[index]
            self.optimizer.zero_grad(set_to_none=True)
            rows.append(self.step(x, y, first=number == 1 and b == 0))
            self.optimizer.step()
            self.schedule.step()
        record = {key: torch.stack([row[key] for row in rows]).mean(0) for key in rows[0]}
        record = {key: value.cpu().numpy() for key, value in record.items()}
        held = self.validate()
        for key, axis in (("branch_accuracy", -2), ("probe_accuracy", -2), ("accuracy", -1)):
            record[key] = np.stack([record[key], held[key]], axis)  # (watched, M), (watched,)
        return self.remember(record, self.s.cpu())

    def remember(self, record: dict, s: torch.Tensor) -> dict:
        """Keep the record of an epoch, completed by what follows from s (M,), and return it."""
        self.history.append(with_factors(record, s))
        return self.history[-1]

    def step(self, x: dict[str, torch.Tensor], y: torch.Tensor, first: bool) -> dict[str, torch.Tensor]:
        """Gradients of all parameters for one batch, and what is measured of it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            encoded = self.each(PRSANet.encode, x)  # (B, M, D)
        encoded = encoded.float() if self.mixed else encoded
        z = encoded.detach().requires_grad_()
        degree = self.each(follow, encoded.detach(), y)
        self.s = degree if first else SMOOTHING * self.s + (1 - SMOOTHING) * degree
        terms, out = self.each(
            lambda model, z, y, s, masks: loss_terms(model, self.rule, z, y, s, **masks), z, y, self.s, self.masks()
        )
        on_z = step_gradients(
            self.shared(), terms, z, self.config.lambda_p, free=self.config.phase >= self.rule.progress
        )
        self.rule.to_encoders(self.model, encoded, on_z, y, self.streams.rule)
        alone, probe = self.shadow_step(encoded, y)
        return self.each(self.measure, terms, out, on_z, alone, y) | {
            "grad_norm": self.norms(),
            "probe_accuracy": probe,
        }

    def shared(self) -> list[torch.Tensor]:
        """The parameters that are of no single modality."""
        return self.model.shared_parameters()

    def norms(self) -> torch.Tensor:
        """Norm of the gradient of every encoder (M,)."""
        return torch.stack(
            [torch.nn.utils.get_total_norm([p.grad for p in self.model.encoders[m].parameters()]) for m in self.bands]
        )

    def shadow_step(self, encoded: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A step of the shadow heads on the features (B, M, D): direction (B, M, D) and accuracy (M,)."""
        return self.shadow.step(encoded, y)

    @torch.no_grad()
    def measure(
        self, model: PRSANet, terms: dict, out: dict, on_z: dict, alone: torch.Tensor, y: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What is kept of a batch. ``alone`` (B, M, D): gradient on z if every branch were trained alone; ``direction`` (source, M) is the cosine
        of the others with it, NaN for a term that is off."""
        nan = torch.full((), torch.nan, device=self.device)
        posterior = out["A"] if "A" in out else model.branch_logits(out).softmax(2)
        return {
            "loss": torch.stack(
                [terms[t] if t in terms and (t != "prototype" or self.config.lambda_p) else nan for t in TERMS]
            ),
            "grad_cosine": _cosine(on_z["prototype"], on_z.get("fused", on_z.get("auxiliary"))),
            "branch_accuracy": self.branches(out, y),
            "accuracy": (out["logits"].argmax(1) == y).float().mean(),
            "js": losses.jensen_shannon(posterior).mean(),
            "direction": torch.stack(
                [_cosine(on_z[name], alone) if name in on_z else nan.expand(len(self.bands)) for name in SOURCES]
            ),
        }

    def branches(self, out: dict, y: torch.Tensor) -> torch.Tensor:
        """Accuracy (M,) of what each modality says on its own."""
        return (self.model.branch_logits(out).argmax(-1) == y[..., None]).float().mean(-2)

    @torch.no_grad()
    def validate(self) -> dict[str, np.ndarray]:
        """Accuracy of the fused head and of every branch and shadow head on the watched validation pixels (NaN without any)."""
        if not self.n_held:
            unknown = np.full(self.s.shape, np.nan)
            return {"accuracy": unknown[..., 0], "branch_accuracy": unknown, "probe_accuracy": unknown}
        self.model.eval()
        index = torch.arange(self.n_train, self.n_train + self.n_held, device=self.device)
        x, y = self.patches.gather(index), self.y[index]
        out = self.each(lambda model: model(x))
        held = {
            "accuracy": (out["logits"].argmax(-1) == y).float().mean(-1),
            "branch_accuracy": self.branches(out, y),
            "probe_accuracy": self.probes(out, y),
        }
        return {key: value.cpu().numpy() for key, value in held.items()}

    def probes(self, out: dict, y: torch.Tensor) -> torch.Tensor:
        """Accuracy (M,) of the shadow heads."""
        return self.shadow.accuracy(out["z"], y)

    def run(self, on_epoch=None) -> int:
        """Train all epochs; returns the epoch whose weights the model ends with (1-based)."""
        choice = Choice(self.model, self.config, self.epochs)
        for number in range(1, self.epochs + 1):
            record = self.epoch(number)
            choice.see(number, record)
            if on_epoch:
                on_epoch(number, record)
        return choice.settle()
