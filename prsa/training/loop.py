"""One training loop, one history; nothing method-specific inside."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

from ..config import Config, named
from ..data.patches import PatchSource, upload
from ..data.splits import check_reach
from ..errors import PrsaError
from ..network.base import PixelNetwork, stream_seed
from ..network.losses import jensen_shannon
from ..network.prototypes import imbalance_factor, optimisation_degree, push
from ..network.prsanet import PRSANet
from .objective import TERMS, gradients, summands, terms_of
from .pixels import Pixels
from .rule import Rule
from .shadow import ShadowHeads, one_cycle

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
        torch.zeros((), device=device).item()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise PrsaError(
            f"device {device!r} is not usable here ({str(error).splitlines()[0][:200]}). Use DEVICE=auto or DEVICE=cpu."
        ) from error


def streams(seed: int) -> dict[str, torch.Generator]:
    """Named random streams of one seed; all on the CPU so that a run does not depend on the device."""
    names = "order", "symmetry", "rule", "shadow"
    return {name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in names}


class Trainer:
    """State of one run: model, data on the device, streams, history. ``only``: of these modalities.

    Raises `PrsaError` before any training for names that do not exist, data that cannot be learnt from (`Pixels.of`)
    and a split whose parts the windows reach across.
    """

    def __init__(
        self,
        scene: xr.Dataset,
        split: xr.DataArray,
        config: Config,
        seed: int,
        device: torch.device,
        only: list[str] | None = None,
    ):
        self.config, self.seed, self.device = config, seed, device
        self.rule = named("rule", config.rule, Rule)(config)
        build = named("network", config.network, PixelNetwork) if config.network else PRSANet
        pixels = Pixels.of(scene, split, VAL_CAP, only)
        self.model = build(pixels.bands, pixels.classes, config, seed, pixels.statistics)
        self.model.to(device).to(memory_format=torch.channels_last)
        check_reach(split, self.model.sides)
        chosen = np.concatenate([pixels.train, pixels.held])
        self.patches = PatchSource(scene, self.model.sides, pixels.statistics, chosen, device)
        self.y = torch.from_numpy(pixels.label[chosen] - 1).to(device)
        self.n_train, self.n_held = len(pixels.train), len(pixels.held)
        self.size = min(config.batch, self.n_train)
        self.batches = self.n_train // self.size  # what is left over waits for the next epoch
        most = -(-config.max_steps // self.batches) if config.max_steps else config.epochs
        self.epochs = min(config.epochs, most)
        steps = max(self.epochs * self.batches + 1, 6)  # OneCycleLR cannot rise in one step, a fifth of 5
        self.optimizer, self.schedule = one_cycle(self.model.parameters(), config, steps)
        self.streams = streams(seed)
        self.shadow = ShadowHeads(len(pixels.bands), len(pixels.classes), config, steps, self.streams["shadow"], device)
        self.s: torch.Tensor | None = None  # (M,), eq. (11), smoothed
        self.history: list[dict] = []
        self.unknown = torch.full((len(pixels.bands),), torch.nan, device=device)  # what is not measured, per modality

    def run(self, on_epoch: Callable[[int, dict], None] | None = None) -> int:
        """Train all epochs, each followed by ``on_epoch(number, record)``; return their number, the model in eval mode.

        Raises `PrsaError` after the first epoch that leaves a weight which is not finite.
        """
        for number in range(1, self.epochs + 1):
            record = self.epoch(number)
            if not all(torch.isfinite(p).all() for p in self.model.parameters()):
                raise PrsaError(
                    f"training diverged in epoch {number} of {self.epochs}: expected finite weights, got others. "
                    f"Likely causes: a large learning rate (now lr={self.config.lr:g}; check with a tenth); a few "
                    "enormous values (check: maximum beside median of every band). Fix: a smaller lr, or set such "
                    "values to NaN."
                )
            if on_epoch:
                on_epoch(number, record)
        self.model.eval()
        return self.epochs

    def epoch(self, number: int) -> dict:
        """Train one epoch (1-based); return its record, numpy values that are read from the device at its end only."""
        self.model.train()
        order = upload(torch.randperm(self.n_train, generator=self.streams["order"]), self.device)
        symmetry = upload(torch.randint(8, (self.n_train,), generator=self.streams["symmetry"]), self.device)
        self.rule.progress = number / self.epochs
        rows = []
        for b in range(self.batches):
            part = slice(b * self.size, (b + 1) * self.size)
            x, y = self.patches.gather(order[part], symmetry[part]), self.y[order[part]]
            self.optimizer.zero_grad(set_to_none=True)
            rows.append(self.step(x, y))
            self.optimizer.step()
            self.schedule.step()
        record = {key: torch.stack([row[key] for row in rows]).mean(0).cpu().numpy() for key in rows[0]}
        for key, held in self.validate().items():
            record[key] = np.stack([record[key], held.cpu().numpy()])  # (watched,) or (watched, M)
        s = self.s.cpu()
        record |= {"s": s.numpy(), "beta": push(s).numpy()}
        record["rho"] = imbalance_factor(s).numpy() if len(s) > 1 else np.ones(1)
        self.history.append(record)
        return record

    def step(self, x: dict[str, torch.Tensor], y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of all parameters for one batch, x[m] (B, C_m, p_m, p_m) and y (B,), and what is measured of it."""
        encoded = self.model.encode(x)  # (B, M, D)
        z = encoded.detach().requires_grad_()
        degree = self.follow(z.detach(), y)
        self.s = degree if self.s is None else SMOOTHING * self.s + (1 - SMOOTHING) * degree
        keep = self.rule.keep(len(y), z.shape[1], self.streams["rule"])
        out = self.model.classify(z, keep if keep is None else upload(keep, self.device))
        terms = terms_of(self.model, self.rule, out, y, self.s)
        on_z, plain = gradients(terms, z, self.model.shared_parameters())
        self.rule.to_encoders(self.model, encoded, on_z, y, self.streams["rule"])
        alone, probe = self.shadow.step(encoded, y)
        with torch.no_grad():
            return self.measure(terms, out, on_z | {"prototype": plain}, alone, y) | {"probe_accuracy": probe}

    @torch.no_grad()
    def follow(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Let the prototypes follow a batch, z (B, M, D) and y (B,): eq. (9); then s of the batch (M,)."""
        self.model.bank.update(z, y)
        return optimisation_degree(self.model.bank.logits(z), y)

    def measure(
        self, terms: dict, out: dict, on_z: dict, alone: torch.Tensor, y: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What is kept of a batch. ``alone`` (B, M, D): gradient on z if every branch were trained alone; ``direction``
        (source, M) is the cosine of the others with it, NaN for a term that is off."""
        model, unknown, weighted = self.model, self.unknown, summands(terms)
        norms = [torch.nn.utils.get_total_norm([p.grad for p in encoder.parameters()]) for encoder in model.encoders]
        return {
            "loss": torch.stack([weighted.get(term, unknown[0]) for term in TERMS]),
            "grad_norm": torch.stack(norms),
            "grad_cosine": _cosine(on_z["prototype"], on_z.get("fused", on_z.get("auxiliary"))),
            "direction": torch.stack([_cosine(on_z[t], alone) if t in on_z else unknown for t in SOURCES]),
            "js": jensen_shannon(out["A"] if "A" in out else model.branch_logits(out).softmax(2)).mean(),
            "accuracy": (out["logits"].argmax(1) == y).float().mean(),
            "branch_accuracy": self.branches(out, y),
        }

    @torch.no_grad()
    def validate(self) -> dict[str, torch.Tensor]:
        """Accuracy of the fused head, every branch and shadow head on watched validation pixels; NaN without any."""
        if not self.n_held:
            return {"accuracy": self.unknown[0], "branch_accuracy": self.unknown, "probe_accuracy": self.unknown}
        self.model.eval()
        index = torch.arange(self.n_train, self.n_train + self.n_held, device=self.device)
        x, y = self.patches.gather(index), self.y[index]
        out = self.model(x)
        return {
            "accuracy": (out["logits"].argmax(1) == y).float().mean(),
            "branch_accuracy": self.branches(out, y),
            "probe_accuracy": self.probes(out, y),
        }

    def branches(self, out: dict, y: torch.Tensor) -> torch.Tensor:
        """Accuracy (M,) of what each modality says on its own."""
        return (self.model.branch_logits(out).argmax(2) == y[:, None]).float().mean(0)

    def probes(self, out: dict, y: torch.Tensor) -> torch.Tensor:
        """Accuracy (M,) of the shadow heads."""
        return self.shadow.accuracy(out["z"], y)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine per modality between two gradients on z, (B, M, D) each -> (M,)."""
    return F.cosine_similarity(a.transpose(0, 1).flatten(1), b.transpose(0, 1).flatten(1), dim=1)
