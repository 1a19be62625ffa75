"""One training loop, one history; nothing method-specific inside."""

import json
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from . import losses
from .classical import Classifier
from .config import Config, make_config, named
from .errors import PrsaError
from .model import PRSANet, stream_seed
from .patches import PatchSource, band_statistics
from .prototypes import imbalance_factor, optimisation_degree, push
from .rebalance import Rule
from .scene import class_names, modalities
from .shadow import ShadowHeads
from .splits import TRAIN, VAL, check_reach, evenly, split_scene

TERMS = ("fused", "alignment", "prototype", "auxiliary", "rebalancing")
WATCHED = ("train", "val")
SOURCES = ("fused", "prototype", "total")  # gradients on z that are compared with the direction of the branch trained alone
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
    rule: torch.Generator

    @classmethod
    def of(cls, seed: int) -> "Streams":
        return cls(*(torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("order", "symmetry", "dropout", "rule")))


def loss_terms(model: PRSANet, rule: Rule, z: torch.Tensor, y: torch.Tensor, s: torch.Tensor, drop: torch.Tensor | None = None,
               keep: torch.Tensor | None = None) -> tuple[dict, dict]:
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


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine per modality between two gradients on z, (B, M, D) each -> (M,)."""
    return F.cosine_similarity(a.transpose(0, 1).flatten(1), b.transpose(0, 1).flatten(1), dim=1)


class Trainer:
    """State of one run: model, data on the device, streams, history. ``mixed``: encoders in bfloat16 (forward and backward), all else in float32."""

    def __init__(self, scene: xr.Dataset, split: xr.DataArray, config: Config, seed: int, device: torch.device, only: list[str] | None = None,
                 mixed: bool = False):
        self.config, self.device, self.mixed = config, device, mixed
        names = only or modalities(scene)
        label, part = scene["label"].values.ravel(), split.values.ravel()
        train = (part == TRAIN).reshape(split.shape)
        statistics = {m: band_statistics(scene, m, train) for m in names}
        build = named("network", config.network) if config.network else PRSANet
        self.model = build({m: scene.sizes[f"{m}_band"] for m in names}, class_names(scene), config, seed, statistics).to(device)
        self.model.to(memory_format=torch.channels_last)
        self.rule = named("rule", config.rule)(config)
        check_reach(split, self.model.sides)
        centres = np.flatnonzero(part == TRAIN)
        held = evenly(np.flatnonzero(part == VAL), VAL_CAP)
        self.patches = PatchSource(scene, self.model.sides, statistics, np.concatenate([centres, held]), device)
        self.y = torch.from_numpy(label[np.concatenate([centres, held])].astype(np.int64) - 1).to(device)
        self.n_train, self.n_held = len(centres), len(held)
        self.streams = Streams.of(seed)
        self.batches = max(1, self.n_train // config.batch)
        self.epochs = config.epochs if not config.max_steps else min(config.epochs, -(-config.max_steps // self.batches))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        steps = max(self.epochs * self.batches + 1, 6)  # OneCycleLR divides by zero when the rise is one step, a fifth of 5
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, config.lr, total_steps=steps, pct_start=0.2)
        self.shadow = ShadowHeads(len(names), config.features, len(class_names(scene)), config.lr, config.weight_decay, steps,
                                  torch.Generator().manual_seed(stream_seed(seed, "shadow")), device)
        self.s = torch.zeros(len(names), device=device)
        self.history: list[dict] = []
        self.rule.history = self.history

    def epoch(self, number: int) -> dict:
        """Train one epoch (1-based) and return its record of numpy values; nothing is read back from the device before its end."""
        config = self.config
        self.model.train()
        order = torch.randperm(self.n_train, generator=self.streams.order)
        symmetry = torch.randint(8, (self.n_train,), generator=self.streams.symmetry)
        order, symmetry = order.to(self.device), symmetry.to(self.device)
        size = min(config.batch, self.n_train)
        self.rule.progress = number / self.epochs
        rows = []
        for b in range(self.batches):
            index = order[b * size:(b + 1) * size]
            x, y = self.patches.gather(index, symmetry[b * size:(b + 1) * size]), self.y[index]
            self.optimizer.zero_grad(set_to_none=True)
            rows.append(self._step(x, y, first=number == 1 and b == 0))
            self.optimizer.step()
            self.schedule.step()
        record = {key: torch.stack([row[key] for row in rows]).mean(0) for key in rows[0]}
        record = {key: value.cpu().numpy() for key, value in record.items()}
        held = self._validate()
        record["branch_accuracy"] = np.stack([record["branch_accuracy"], held["branch"]])  # (watched, M)
        record["probe_accuracy"] = np.stack([record["probe_accuracy"], held["probe"]])
        record["accuracy"] = np.stack([record["accuracy"], held["fused"]])
        s = self.s.cpu()
        record |= {"s": s.numpy(), "rho": imbalance_factor(s).numpy() if len(s) > 1 else np.ones(1), "beta": push(s).numpy()}
        self.history.append(record)
        return record

    def _step(self, x: dict[str, torch.Tensor], y: torch.Tensor, first: bool) -> dict[str, torch.Tensor]:
        """Gradients of all parameters for one batch, and what is measured of it."""
        model, config = self.model, self.config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            encoded = model.encode(x)  # (B, M, D)
        encoded = encoded.float() if self.mixed else encoded
        z = encoded.detach().requires_grad_()
        model.bank.update(encoded.detach(), y)
        with torch.no_grad():
            degree = optimisation_degree(model.bank.logits(encoded), y)
        self.s = degree if first else SMOOTHING * self.s + (1 - SMOOTHING) * degree
        drop = None
        if config.dropout and model.fusion is not None:
            drop = torch.rand((len(y), model.fusion.size), generator=self.streams.dropout) >= config.dropout
            drop = (drop / (1 - config.dropout)).to(self.device)
        keep = self.rule.keep(len(y), len(model.modalities), self.streams.rule)
        terms, out = loss_terms(model, self.rule, z, y, self.s, drop, keep if keep is None else keep.to(self.device))
        on_z = step_gradients(model, terms, z, free=config.phase >= self.rule.progress)
        self.rule.to_encoders(model, encoded, on_z, y, self.streams.rule)
        norms = torch.stack([torch.nn.utils.get_total_norm([p.grad for p in model.encoders[m].parameters()]) for m in model.modalities])
        alone, probe = self.shadow.step(encoded, y)
        return self._measure(terms, out, on_z, norms, y) | {"probe_accuracy": probe, "direction": self._directions(on_z, alone)}

    def _directions(self, on_z: dict[str, torch.Tensor], alone: torch.Tensor) -> torch.Tensor:
        """Cosine (source, M) between each gradient on z and that of the branch trained alone; NaN for a term that is off."""
        unknown = torch.full((alone.shape[1],), torch.nan, device=self.device)
        return torch.stack([_cosine(on_z[name], alone) if name in on_z else unknown for name in SOURCES])

    @torch.no_grad()
    def _measure(self, terms, out, on_z, norms, y):
        nan = torch.full((), torch.nan, device=self.device)
        branch = self.model.branch_logits(out)  # (B, M, K)
        posterior = out["A"] if "A" in out else branch.softmax(2)
        return {
            "loss": torch.stack([terms[t] if t in terms and (t != "prototype" or self.config.lambda_p) else nan for t in TERMS]),
            "grad_norm": norms,
            "grad_cosine": _cosine(on_z["prototype"], on_z.get("fused", on_z.get("auxiliary"))),
            "branch_accuracy": self._branches(out, y),
            "accuracy": (out["logits"].argmax(1) == y).float().mean(),
            "js": losses.jensen_shannon(posterior).mean(),
        }

    def _branches(self, out: dict, y: torch.Tensor) -> torch.Tensor:
        """Accuracy (M,) of what each modality says on its own."""
        return (self.model.branch_logits(out).argmax(2) == y[:, None]).float().mean(0)

    @torch.no_grad()
    def _validate(self) -> dict:
        """Accuracy of the fused head and of every branch on the watched validation pixels (NaN without any)."""
        if not self.n_held:
            return {"fused": np.nan} | dict.fromkeys(("branch", "probe"), np.full(len(self.model.modalities), np.nan))
        self.model.eval()
        index = torch.arange(self.n_train, self.n_train + self.n_held, device=self.device)
        out, y = self.model(self.patches.gather(index)), self.y[index]
        return {"fused": (out["logits"].argmax(1) == y).float().mean().item(), "branch": self._branches(out, y).cpu().numpy(),
                "probe": self._probes(out, y).cpu().numpy()}

    def _probes(self, out: dict, y: torch.Tensor) -> torch.Tensor:
        """Accuracy (M,) of the shadow heads."""
        return self.shadow.accuracy(out["z"], y)

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


class NetworkTrainer(Trainer):
    """The same batches, augmentation, optimiser and schedule for a network of `prsa.baselines`, trained on the loss terms it states itself."""

    def __init__(self, scene: xr.Dataset, split: xr.DataArray, config: Config, seed: int, device: torch.device, only: list[str] | None = None):
        super().__init__(scene, split, config, seed, device, only)
        self.seed, self.s = seed, torch.full_like(self.s, torch.nan)

    def epoch(self, number: int) -> dict:
        with torch.random.fork_rng():  # dropout layers draw from the global stream
            torch.manual_seed(stream_seed(self.seed, "dropout", str(number)))
            return super().epoch(number)

    def _step(self, x, y, first):
        out = self.model(x)
        terms = self.model.terms(out, x, y)
        sum(terms.values()).backward()
        others = [value.detach() for name, value in terms.items() if name != "fused"]
        shown = {"fused": terms["fused"].detach()} | ({"auxiliary": sum(others)} if others else {})
        unknown = self._branches(out, y)
        return {"loss": torch.stack([shown.get(t, unknown[0]) for t in TERMS]), "grad_norm": unknown, "grad_cosine": unknown,
                "branch_accuracy": unknown, "probe_accuracy": unknown, "direction": unknown.expand(len(SOURCES), -1),
                "accuracy": (out["logits"].argmax(1) == y).float().mean(), "js": unknown[0]}

    def _branches(self, out, y):
        return torch.full((len(self.model.modalities),), torch.nan, device=self.device)

    _probes = _branches


def fit(scene: xr.Dataset, method: str = "prsanet", split: xr.DataArray | None = None, seed: int = 0, preset: str = "full",
        device: str = "auto", on_epoch=None, mixed: bool = False, **overrides) -> tuple[xr.Dataset, "PRSANet | Network | Classifier"]:
    """Train one network or classifier and evaluate it.

    ``method``: a name of `prsa.config.METHODS`, or the name of a modality to train that one alone; ``split``: from `split_scene` (default:
    "auto"); ``mixed``: train the encoders of a PRSANet in bfloat16, faster and not bit for bit the study's run; ``overrides``: fields of `Config`.
    Returns the run (``prsa-run-1``, see `prsa.runs`) and the trained model in eval mode.
    Raises `PrsaError` for unknown names, splits that leak into the chosen patch and diverged training.
    """
    from .evaluate import evaluate, evaluate_pixels

    alone = method in modalities(scene)
    config = make_config("late" if alone else method, preset, **overrides)
    if mixed and (config.network or config.classifier):
        raise PrsaError(f"mixed precision is for the encoders of a PRSANet, got method {method!r}. Fix: mixed=False.")
    changed = overrides | ({"mixed": True} if mixed else {})
    split = split_scene(scene, radius=max(config.patches(modalities(scene)).values()) // 2) if split is None else split
    start = time.perf_counter()
    if config.classifier:
        model, chosen, samples = Classifier(scene, split, config, seed), 0, 0
        seconds = time.perf_counter() - start
        run = evaluate_pixels(model, scene, split, [])
    else:
        where = scene, split, config, seed, pick_device(device), [method] if alone else None
        trainer = NetworkTrainer(*where) if config.network else Trainer(*where, mixed)
        start = time.perf_counter()
        model, chosen, samples = trainer.model, trainer.run(on_epoch), trainer.epochs * trainer.batches * min(config.batch, trainer.n_train)
        seconds = time.perf_counter() - start
        run = (evaluate_pixels if config.network else evaluate)(model, scene, split, trainer.history)
    run.attrs |= {"method": method, "seed": seed, "preset": preset, "overrides": json.dumps(changed, sort_keys=True), "epoch_used": chosen,
                  "variant": ",".join(f"{k}={v}" for k, v in sorted(changed.items())),
                  "seconds": seconds, "samples_per_s": samples / seconds}
    return run, model
