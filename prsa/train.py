"""One training loop, one history; nothing method-specific inside."""

import json
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from . import losses
from .config import Config, make_config
from .errors import PrsaError
from .model import PRSANet, stream_seed
from .patches import PatchSource, band_statistics
from .prototypes import imbalance_factor, optimisation_degree, push
from .scene import class_names, modalities
from .splits import TRAIN, VAL, split_scene

TERMS = ("fused", "alignment", "prototype", "auxiliary")
WATCHED = ("train", "val")
VAL_CAP = 512  # validation pixels looked at per epoch
SMOOTHING = 0.9  # of the optimisation degree over batches


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is the GPU when there is one. Raises `PrsaError` for a device this machine does not have."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        raise PrsaError(f"device {device!r} is not usable here ({str(error).splitlines()[0]}). Use DEVICE=auto or DEVICE=cpu.") from error


@dataclass
class Streams:
    """Named random streams of one seed; all on the CPU so that a run does not depend on the device."""

    order: torch.Generator
    symmetry: torch.Generator
    dropout: torch.Generator

    @classmethod
    def of(cls, seed: int) -> "Streams":
        return cls(*(torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("order", "symmetry", "dropout")))


def loss_terms(model: PRSANet, z: torch.Tensor, y: torch.Tensor, s: torch.Tensor, drop: torch.Tensor | None = None) -> tuple[dict, dict]:
    """Weighted loss terms (scalars) of a batch and the model's dict. z (B, M, D), y (B,), s (M,) smoothed optimisation degrees.

    The prototype term is always computed, because its gradient is a measure of the study; its weight may be 0.
    """
    config = model.config
    out = model.classify(z, drop)
    targets = losses.soft_targets(model.bank.similarity(), y, config.sigma, config.tau_t) if config.sigma else y
    weight = config.base + (push(s) if config.rebalance else torch.zeros_like(s))
    terms = {"prototype": losses.prototype_loss(out["prototype"], targets, weight if config.lambda_p else torch.ones_like(s)).mean()}
    if config.fusion != "late":
        terms["fused"] = losses.cross_entropy(out["logits"], y).mean()
    if config.lambda_sa and "S" in out:
        terms["alignment"] = config.lambda_sa * losses.alignment_loss(out["S"], targets).mean()
    if "branch" in out:
        terms["auxiliary"] = config.lambda_aux * losses.cross_entropy(out["branch"], y).sum(1).mean()
    return terms, out


def step_gradients(model: PRSANet, terms: dict, z: torch.Tensor, free: bool) -> dict[str, torch.Tensor]:
    """Gradient of every term on z (B, M, D); gradients of the shared parameters are summed into ``.grad``.

    ``free``: the independent phase, in which the fused loss trains only the fusion and the head.
    """
    shared = model.shared_parameters()
    on_z = {}
    for name, value in terms.items():
        inputs = [z] if name == "prototype" else [z, *shared]
        on_z[name], *rest = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(shared, rest):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    wanted = {name: g for name, g in on_z.items() if name != "prototype"}
    if model.config.lambda_p:
        wanted["prototype"] = model.config.lambda_p * on_z["prototype"]
    if free:
        wanted.pop("fused", None)
    on_z["total"] = sum(wanted.values(), torch.zeros_like(z))
    return on_z


class Trainer:
    """State of one run: model, data on the device, streams, history."""

    def __init__(self, scene: xr.Dataset, split: xr.DataArray, config: Config, seed: int, device: torch.device, only: list[str] | None = None):
        self.config, self.device = config, device
        names = only or modalities(scene)
        label, part = scene["label"].values.ravel(), split.values.ravel()
        train = (part == TRAIN).reshape(split.shape)
        statistics = {m: band_statistics(scene, m, train) for m in names}
        self.model = PRSANet({m: scene.sizes[f"{m}_band"] for m in names}, class_names(scene), config, seed, statistics).to(device)
        self.model.to(memory_format=torch.channels_last)
        if split.attrs.get("kind") == "blocks" and max(self.model.sides.values()) // 2 > split.attrs["radius"]:
            raise PrsaError(f"the split keeps {split.attrs['radius']} pixels between parts, but patch {max(self.model.sides.values())} reaches "
                            f"{max(self.model.sides.values()) // 2}. Fix: split_scene(scene, radius={max(self.model.sides.values()) // 2}).")
        centres = np.flatnonzero(part == TRAIN)
        held = np.flatnonzero(part == VAL)
        if len(held) > VAL_CAP:  # a fixed, evenly spaced subset
            held = held[np.linspace(0, len(held) - 1, VAL_CAP).astype(int)]
        self.patches = PatchSource(scene, self.model.sides, statistics, np.concatenate([centres, held]), device)
        self.y = torch.from_numpy(label[np.concatenate([centres, held])].astype(np.int64) - 1).to(device)
        self.n_train, self.n_held = len(centres), len(held)
        self.streams = Streams.of(seed)
        self.batches = max(1, self.n_train // config.batch)
        self.epochs = config.epochs if not config.max_steps else min(config.epochs, -(-config.max_steps // self.batches))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        steps = max(self.epochs * self.batches + 1, 6)  # OneCycleLR divides by zero when the rise is one step, a fifth of 5
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, config.lr, total_steps=steps, pct_start=0.2)
        self.s = torch.zeros(len(names), device=device)
        self.history: list[dict] = []

    def epoch(self, number: int) -> dict:
        """Train one epoch (1-based) and return its record of numpy values; nothing is read back from the device before its end."""
        model, config, m = self.model, self.config, self.model.modalities
        model.train()
        order = torch.randperm(self.n_train, generator=self.streams.order)
        symmetry = torch.randint(8, (self.n_train,), generator=self.streams.symmetry)
        order, symmetry = order.to(self.device), symmetry.to(self.device)
        size = min(config.batch, self.n_train)
        free = config.phase * self.epochs >= number
        rows = []
        for b in range(self.batches):
            index = order[b * size:(b + 1) * size]
            y = self.y[index]
            encoded = model.encode(self.patches.gather(index, symmetry[b * size:(b + 1) * size]))  # (B, M, D)
            z = encoded.detach().requires_grad_()
            model.bank.update(encoded.detach(), y)
            with torch.no_grad():
                degree = optimisation_degree(model.bank.logits(encoded), y)
            self.s = degree if number == 1 and b == 0 else SMOOTHING * self.s + (1 - SMOOTHING) * degree
            drop = None
            if config.dropout and model.fusion is not None:
                keep = torch.rand((len(index), model.fusion.size), generator=self.streams.dropout) >= config.dropout
                drop = (keep / (1 - config.dropout)).to(self.device)
            self.optimizer.zero_grad(set_to_none=True)
            terms, out = loss_terms(model, z, y, self.s, drop)
            on_z = step_gradients(model, terms, z, free)
            encoded.backward(on_z["total"])
            norms = torch.stack([torch.nn.utils.get_total_norm([p.grad for p in model.encoders[n].parameters()]) for n in m])
            self.optimizer.step()
            self.schedule.step()
            rows.append(self._measure(terms, out, on_z, norms, y))
        record = {key: torch.stack([row[key] for row in rows]).mean(0) for key in rows[0]}
        record = {key: value.cpu().numpy() for key, value in record.items()}
        held = self._validate()
        record["branch_accuracy"] = np.stack([record["branch_accuracy"], held["branch"]])  # (watched, M)
        record["accuracy"] = np.stack([record["accuracy"], held["fused"]])
        s = self.s.cpu()
        record |= {"s": s.numpy(), "rho": imbalance_factor(s).numpy() if len(m) > 1 else np.ones(1), "beta": push(s).numpy()}
        self.history.append(record)
        return record

    @torch.no_grad()
    def _measure(self, terms, out, on_z, norms, y):
        ours, other = on_z["prototype"], on_z.get("fused", on_z.get("auxiliary"))
        nan = torch.tensor(torch.nan, device=self.device)
        branch = self.model.branch_logits(out)  # (B, M, K)
        posterior = out["A"] if "A" in out else branch.softmax(2)
        return {
            "loss": torch.stack([terms[t] if t in terms and (t != "prototype" or self.config.lambda_p) else nan for t in TERMS]),
            "grad_norm": norms,
            "grad_cosine": F.cosine_similarity(ours.transpose(0, 1).flatten(1), other.transpose(0, 1).flatten(1), dim=1),
            "branch_accuracy": (branch.argmax(2) == y[:, None]).float().mean(0),
            "accuracy": (out["logits"].argmax(1) == y).float().mean(),
            "js": losses.jensen_shannon(posterior).mean(),
        }

    @torch.no_grad()
    def _validate(self) -> dict:
        """Accuracy of the fused head and of every branch on the watched validation pixels (NaN without any)."""
        if not self.n_held:
            return {"fused": np.nan, "branch": np.full(len(self.model.modalities), np.nan)}
        self.model.eval()
        index = torch.arange(self.n_train, self.n_train + self.n_held, device=self.device)
        out, y = self.model(self.patches.gather(index)), self.y[index]
        branch = (self.model.branch_logits(out).argmax(2) == y[:, None]).float().mean(0)
        return {"fused": (out["logits"].argmax(1) == y).float().mean().item(), "branch": branch.cpu().numpy()}

    def run(self, on_epoch=None) -> int:
        """Train all epochs; returns the epoch whose weights the model ends with (1-based)."""
        best, kept, chosen = -1.0, None, self.epochs
        for number in range(1, self.epochs + 1):
            record = self.epoch(number)
            if self.config.epoch_choice == "validation" and record["accuracy"][1] > best:
                best, chosen = float(record["accuracy"][1]), number
                kept = {k: v.clone() for k, v in self.model.state_dict().items()}
            if on_epoch:
                on_epoch(number, record)
        if kept is not None:
            self.model.load_state_dict(kept)
        if not all(torch.isfinite(p).all() for p in self.model.parameters()):
            raise PrsaError(f"training diverged (weights are not finite) with lr={self.config.lr}. Try a smaller lr.")
        self.model.eval()
        return chosen


def fit(scene: xr.Dataset, method: str = "prsanet", split: xr.DataArray | None = None, seed: int = 0, preset: str = "full",
        device: str = "auto", on_epoch=None, **overrides) -> tuple[xr.Dataset, PRSANet]:
    """Train one network and evaluate it.

    ``method``: a name of `prsa.config.METHODS`, or the name of a modality to train that one alone; ``split``: from `split_scene` (default:
    "auto"); ``overrides``: fields of `Config`. Returns the run (``prsa-run-1``, see `prsa.runs`) and the trained model in eval mode.
    Raises `PrsaError` for unknown names, splits that leak into the chosen patch and diverged training.
    """
    from .evaluate import evaluate

    alone = method in modalities(scene)
    config = make_config("late" if alone else method, preset, **overrides)
    split = split_scene(scene, radius=max(config.patches(modalities(scene)).values()) // 2) if split is None else split
    trainer = Trainer(scene, split, config, seed, pick_device(device), [method] if alone else None)
    start = time.perf_counter()
    chosen = trainer.run(on_epoch)
    seconds = time.perf_counter() - start
    run = evaluate(trainer.model, scene, split, trainer.history)
    run.attrs |= {"method": method, "seed": seed, "preset": preset, "overrides": json.dumps(overrides, sort_keys=True), "epoch_used": chosen,
                  "variant": ",".join(f"{k}={v}" for k, v in sorted(overrides.items())),
                  "seconds": seconds, "samples_per_s": trainer.epochs * trainer.batches * min(config.batch, trainer.n_train) / seconds}
    return run, trainer.model
