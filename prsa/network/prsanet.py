"""PRSANet: encoders, fusion, prototype bank and heads put together; returns a dict of named intermediates."""

import zlib

import torch
from torch import nn

from ..config import Config
from ..errors import PrsaError
from .encoders import Encoder
from .fusion import FUSIONS
from .prototypes import PrototypeBank


def stream_seed(seed: int, *names: str) -> int:
    """Seed of a named random stream: switching a method on does not move the numbers another stream draws."""
    return zlib.crc32(" ".join([str(seed), *names]).encode())


class PRSANet(nn.Module):
    """Any number of modalities from two up (one is allowed: a network trained alone).

    ``bands``: modality -> number of bands. ``statistics``: modality -> (mean, std) per band, stored as buffers so that the model can map
    a raw scene. With ``config`` at its defaults this is the concatenation baseline.
    """

    def __init__(
        self, bands: dict[str, int], classes: list[str], config: Config, seed: int = 0, statistics: dict | None = None
    ):
        super().__init__()
        if config.fusion != "late" and config.fusion not in FUSIONS:
            raise PrsaError(f"unknown fusion {config.fusion!r}. Expected one of {', '.join(FUSIONS)} or late.")
        if config.vote and config.fusion != "sagf":
            raise PrsaError(
                f"vote={config.vote} asks the branches about the anchors: expected fusion='sagf', got {config.fusion!r}. Fix: vote=0."
            )
        self.config, self.bands, self.classes = config, dict(bands), list(classes)
        self.modalities = list(bands)
        self.sides = config.patches(self.modalities)
        n, k, d = len(bands), len(classes), config.features

        def made(build, *names):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream_seed(seed, "init", *names))
                return build()

        self.encoders = nn.ModuleDict(
            {m: made(lambda m=m: Encoder(bands[m], self.sides[m], config.width, d), m) for m in bands}
        )
        self.bank = PrototypeBank(n, k, d, config.momentum, config.metric, config.tau_p)
        self.fusion = self.head = None
        if config.fusion != "late":
            extra = (
                {"tau": config.tau_s, "rounds": config.rounds, "anchors": config.anchors}
                if config.fusion == "sagf"
                else {}
            )
            self.fusion = made(lambda: FUSIONS[config.fusion](n, d, k, **extra), "fusion")
            self.head = made(lambda: nn.Linear(self.fusion.size, k), "head")
        self.branch_heads = nn.ModuleDict()
        if config.fusion == "late" or config.lambda_aux:
            self.branch_heads = nn.ModuleDict({m: made(lambda: nn.Linear(d, k), "branch", m) for m in bands})
        for m in bands:
            mean, std = statistics[m] if statistics else (torch.zeros(bands[m]), torch.ones(bands[m]))
            self.register_buffer(f"mean_{m}", torch.as_tensor(mean))
            self.register_buffer(f"std_{m}", torch.as_tensor(std))
        self._check_partition()

    def statistics(self) -> dict[str, tuple]:
        """Modality -> (mean, std) per band used for normalisation."""
        return {m: (self.get_buffer(f"mean_{m}"), self.get_buffer(f"std_{m}")) for m in self.modalities}

    def shared_parameters(self) -> list[nn.Parameter]:
        """Everything after z: fusion and heads."""
        inside = {id(p) for p in self.encoders.parameters()}
        return [p for p in self.parameters() if id(p) not in inside]

    def _check_partition(self):
        parts = [list(self.encoders[m].parameters()) for m in self.modalities] + [self.shared_parameters()]
        ids = [id(p) for part in parts for p in part]
        assert len(ids) == len(set(ids)) == len(list(self.parameters())), (
            "every parameter belongs to exactly one modality or is shared"
        )

    def encode(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """x[m] (B, C_m, p_m, p_m) -> z (B, M, D)."""
        return torch.stack([self.encoders[m](x[m]).flatten(1) for m in self.modalities], dim=1)

    def classify(self, z: torch.Tensor, drop: torch.Tensor | None = None, keep: torch.Tensor | None = None) -> dict:
        """z (B, M, D) -> dict: ``logits`` (B, K) to predict with, ``fused`` (B, K) of the fused head alone, which the loss trains, ``f``, ``branch`` (B, M, K) if there are branch heads, ``prototype`` (B, M, K), and the fusion's own.

        ``drop`` (B, F): dropout mask already scaled, made by the caller's own random stream; ``keep`` (B, M): factors of z that only the fusion sees.
        """
        out = {"prototype": self.bank.logits(z)}
        if self.branch_heads:
            # contiguous: the product then rounds alike whatever M, and a net trained alone equals its branch of "late" to the bit
            out["branch"] = torch.stack(
                [self.branch_heads[m](z[:, i].contiguous()) for i, m in enumerate(self.modalities)], dim=1
            )  # (B, M, K)
        if self.fusion is None:
            return out | {"f": z.flatten(1), "logits": out["branch"].log_softmax(2).sum(1)}
        seen = z if keep is None else z * keep[:, :, None]
        out |= self.fusion(seen, self.bank.means) if self.config.fusion == "sagf" else self.fusion(seen)
        f = out["f"] if drop is None else out["f"] * drop
        logits = self.head(f)  # (B, K)
        if "bonus" in out:
            logits = logits + out["bonus"]
        voted = logits
        if self.config.vote:
            voted = logits.log_softmax(1) + self.config.vote * out["S"].log_softmax(2).mean(1)
        return out | {"fused": logits, "logits": voted}

    def forward(self, x: dict[str, torch.Tensor]) -> dict:
        """x[m] (B, C_m, p_m, p_m) -> the dict of `classify` with ``z`` (B, M, D)."""
        z = self.encode(x)
        return {"z": z} | self.classify(z)

    def branch_logits(self, out: dict) -> torch.Tensor:
        """What each modality says on its own (B, M, K): its own head when trained alone, else the prototype classifier."""
        return out["branch"] if self.fusion is None else out["prototype"]

    def complexity(self) -> dict[str, int]:
        """Parameters, multiply-accumulates per patch and per pixel of a map (matrix products of encoders, fusion and heads)."""
        n, k, d = len(self.modalities), len(self.classes), self.config.features
        after = n * d * k if self.fusion is None else self.head.weight.numel()
        if self.config.fusion == "sagf":
            after += self.config.rounds * n * (d * d + d * k + n * k + k * d + n * d + 2 * d * d)
        elif self.config.fusion == "cross-attention":
            after += n * (3 * d * d + 2 * n * d)  # query, key, value; scores and their mix
        elif self.fusion is not None:
            after += sum(p.numel() for p in self.fusion.parameters() if p.ndim == 2)
        patch, pixel = (sum(v) for v in zip(*(self.encoders[m].macs() for m in self.modalities)))
        return {
            "params": sum(p.numel() for p in self.parameters()),
            "macs_patch": patch + after,
            "macs_pixel": pixel + after,
        }
