"""Prototypes, classifier without weights, imbalance factor and push: eq. (9) to (13), after PMR (Fan et al., 2023)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import PrsaError

METRICS = ("cosine", "euclidean")


class PrototypeBank(nn.Module):
    """Prototypes ``means`` c^m_k (M, K, D) of training features, eq. (9): never a gradient, never a validation or test
    pixel.

    A category that no batch has shown yet has its prototype at the origin: its cosine with everything is 0. In training
    that ends with its first batch, and a class without training pixels is refused (`prsa.training.pixels`).
    """

    def __init__(self, modalities, classes, features, momentum: float = 0.9, metric: str = "cosine", tau: float = 0.3):
        super().__init__()
        if metric not in METRICS:
            raise PrsaError(f"unknown metric {metric!r}. Expected one of {', '.join(METRICS)}.")
        self.momentum, self.metric, self.tau = momentum, metric, tau
        self.register_buffer("means", torch.zeros(modalities, classes, features))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    @torch.no_grad()
    def update(self, z: torch.Tensor, y: torch.Tensor) -> None:
        """z (B, M, D), y (B,) in 0..K-1. An absent category keeps its prototype; the first sight copies."""
        if self.metric == "cosine":
            z = F.normalize(z, dim=2)
        one_hot = F.one_hot(y, self.means.shape[1]).to(z.dtype)  # (B, K)
        count = one_hot.sum(0)  # (K,)
        batch = torch.einsum("bk,bmd->mkd", one_hot, z) / count.clamp(min=1)[:, None]  # (M, K, D)
        present = count > 0
        keep = self.momentum * self.seen.to(z.dtype)[:, None]  # (K, 1)
        self.means.copy_(torch.where(present[:, None], keep * self.means + (1 - keep) * batch, self.means))
        self.seen |= present

    def logits(self, z: torch.Tensor) -> torch.Tensor:
        """q of eq. (10): z (B, M, D) -> (B, M, K)."""
        if self.metric == "cosine":
            return torch.einsum("bmd,mkd->bmk", F.normalize(z, dim=2), F.normalize(self.means, dim=2)) / self.tau
        # The matrix-product shortcut that torch takes for large batches loses small distances in single precision.
        distance = torch.cdist(z.transpose(0, 1), self.means, compute_mode="donot_use_mm_for_euclid_dist")  # (M, B, K)
        return -distance.transpose(0, 1)  # (B, M, K)


def optimisation_degree(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """s of eq. (11), before smoothing: logits (B, M, K), y (B,) -> (M,). PMR eq. 7."""
    return logits.softmax(2)[torch.arange(len(y), device=y.device), :, y].mean(0)


def imbalance_factor(s: torch.Tensor) -> torch.Tensor:
    """rho of eq. (12): s (M,) -> (M,); below 1 the modality is slow. M = 2: PMR eq. 8."""
    others = (s.sum() - s) / (len(s) - 1)
    return s / others


def push(s: torch.Tensor) -> torch.Tensor:
    """beta of eq. (13): s (M,) -> (M,). M = 2: PMR eq. 11."""
    return (s.max() / s - 1).clamp(0, 1)
