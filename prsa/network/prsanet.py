"""PRSANet: encoders, fusion, prototype bank and heads put together; returns a dict of named intermediates."""

import torch
from torch import nn

from ..config import Config
from ..errors import PrsaError
from .base import PerModality, PixelNetwork, stream
from .encoders import Encoder
from .fusion import FUSIONS
from .prototypes import PrototypeBank


class PRSANet(PixelNetwork):
    """Any number of modalities from two up (one is allowed: a network trained alone). Arguments as in `PixelNetwork`.

    With ``config`` at its defaults this is the concatenation baseline. ``seed``: every part draws its first weights
    from a stream of its own, so switching one on does not move the others. Raises `PrsaError` for bad settings.
    """

    def __init__(
        self, bands: dict[str, int], classes: list[str], config: Config, seed: int = 0, statistics: dict | None = None
    ):
        super().__init__(bands, classes, config, statistics)
        if config.fusion not in (*FUSIONS, "late"):
            raise PrsaError(f"unknown fusion {config.fusion!r}. Expected one of {', '.join(FUSIONS)} or late.")
        if config.vote and config.fusion != "sagf":
            got = f"got {config.fusion!r}. Fix: vote=0."
            raise PrsaError(f"vote={config.vote} asks the branches about the anchors: expected fusion='sagf', {got}")
        m, k, d = len(bands), len(classes), config.features
        self.encoders = PerModality({name: self._encoder(name, seed) for name in bands})
        self.bank = PrototypeBank(m, k, d, config.momentum, config.metric, config.tau_p)
        self.fusion = self.head = None
        if config.fusion != "late":
            with stream(seed, "init", "fusion"):
                self.fusion = FUSIONS[config.fusion](m, d, k, config.tau_s)
            with stream(seed, "init", "head"):
                self.head = nn.Linear(self.fusion.size, k)
        branches = bands if config.fusion == "late" or config.lambda_aux else ()
        self.branch_heads = PerModality({name: self._branch_head(name, seed) for name in branches})
        inside = {id(p) for p in self.encoders.parameters()}
        self._shared = [p for p in self.parameters() if id(p) not in inside]  # once: a search takes 2 ms, a step 20
        self._check_partition()

    def _encoder(self, name: str, seed: int) -> Encoder:
        with stream(seed, "init", name):
            return Encoder(self.bands[name], self.sides[name], self.config.width, self.config.features)

    def _branch_head(self, name: str, seed: int) -> nn.Linear:
        with stream(seed, "init", "branch", name):
            return nn.Linear(self.config.features, len(self.classes))

    def shared_parameters(self) -> list[nn.Parameter]:
        """Everything after z: fusion and heads."""
        return self._shared

    def _check_partition(self):
        parts = [list(self.encoders[m].parameters()) for m in self.modalities] + [self.shared_parameters()]
        ids = [id(p) for part in parts for p in part]
        assert len(ids) == len(set(ids)) == len(list(self.parameters())), (
            "every parameter belongs to exactly one modality or is shared"
        )

    def encode(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """x[m] (B, C_m, p_m, p_m) -> z (B, M, D), eq. (1)."""
        return torch.stack([self.encoders[m](x[m]).flatten(1) for m in self.modalities], dim=1)  # (B, M, D)

    def classify(self, z: torch.Tensor, keep: torch.Tensor | None = None) -> dict:
        """z (B, M, D) -> dict: ``logits`` (B, K) to predict with, eq. (17) or (21); ``fused`` (B, K), eq. (7), which
        the loss trains; ``f``; ``branch`` (B, M, K) if there are branch heads; ``prototype`` (B, M, K), eq. (10); the
        fusion's own.

        ``keep`` (B, M): factors of z that only the fusion sees.
        """
        out = {"prototype": self.bank.logits(z)}
        if len(self.branch_heads):
            # contiguous: rounded alike whatever M, so that a net trained alone is its branch of "late" to the bit
            heads = [head(z[:, i].contiguous()) for i, head in enumerate(self.branch_heads)]
            out["branch"] = torch.stack(heads, dim=1)  # (B, M, K)
        if self.fusion is None:
            return out | {"f": z.flatten(1), "logits": out["branch"].log_softmax(2).sum(1)}  # (B, M D), (B, K)
        out |= self.fusion(z if keep is None else z * keep[:, :, None])
        fused = self.head(out["f"])  # (B, K)
        if "bonus" in out:
            fused = fused + out["bonus"]
        voted = fused
        if self.config.vote:
            voted = fused.log_softmax(1) + self.config.vote * out["S"].log_softmax(2).mean(1)  # (B, K)
        return out | {"fused": fused, "logits": voted}

    def forward(self, x: dict[str, torch.Tensor]) -> dict:
        """x[m] (B, C_m, p_m, p_m) -> the dict of `classify` with ``z`` (B, M, D)."""
        z = self.encode(x)
        return {"z": z} | self.classify(z)

    def branch_logits(self, out: dict) -> torch.Tensor:
        """What each modality says on its own (B, M, K): its head when trained alone, else the prototype classifier."""
        return out["branch"] if self.fusion is None else out["prototype"]

    def complexity(self) -> dict[str, int]:
        """Parameters, and multiply-accumulates of encoders, fusion and heads per patch and per pixel of a large map."""
        z = next(self.parameters()).new_zeros(1, len(self.bands), self.config.features)
        x = {m: z.new_zeros(1, n, self.sides[m], self.sides[m]) for m, n in self.bands.items()}
        after = self.macs(lambda: self._read_out(z))
        kernels = sum(p.numel() for p in self.encoders.parameters() if p.ndim == 4)  # one product per weight and pixel
        return {
            "params": sum(p.numel() for p in self.parameters()),
            "macs_patch": self.macs(lambda: self.encode(x)) + after,
            "macs_pixel": kernels + after,
        }

    def _read_out(self, z: torch.Tensor):
        """What a prediction needs of z (1, M, D), without the prototypes."""
        if self.fusion is None:
            return [head(z[:, i]) for i, head in enumerate(self.branch_heads)]
        return self.head(self.fusion(z)["f"])
