"""Semantic-alignment graph fusion (SAGF) and the plain fusions it is compared with.

Every fusion takes z (B, M, D) and returns a dict: ``f`` (B, F) fused feature; SAGF adds ``S`` (B, M, K) modality-to-category
edges, ``A`` (B, M, K) what each modality thinks the pixel is, ``G`` (B, M, M) agreement of meaning, ``bonus`` (B, K) for the logits.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import PrsaError

ANCHORS = ("learned", "simplex", "prototype")


class Concat(nn.Module):
    """f = [z^1 .. z^M]."""

    def __init__(self, modalities: int, features: int, classes: int):
        super().__init__()
        self.size = modalities * features

    def forward(self, z: torch.Tensor) -> dict:
        return {"f": z.flatten(1)}  # (B, M D)


class Sum(nn.Module):
    """f = sum_m z^m."""

    def __init__(self, modalities: int, features: int, classes: int):
        super().__init__()
        self.size = features

    def forward(self, z: torch.Tensor) -> dict:
        return {"f": z.sum(1)}  # (B, D)


class Gated(nn.Module):
    """f = sum_m sigmoid(w_m [z^1 .. z^M]) * z^m."""

    def __init__(self, modalities: int, features: int, classes: int):
        super().__init__()
        self.size = features
        self.gate = nn.Linear(modalities * features, modalities * features)

    def forward(self, z: torch.Tensor) -> dict:
        gate = torch.sigmoid(self.gate(z.flatten(1))).view_as(z)  # (B, M, D)
        return {"f": (gate * z).sum(1)}  # (B, D)


class CrossAttention(nn.Module):
    """One self-attention layer over the M modality tokens with a residual, concatenated."""

    def __init__(self, modalities: int, features: int, classes: int):
        super().__init__()
        self.size = modalities * features
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)

    def forward(self, z: torch.Tensor) -> dict:
        mixed = F.scaled_dot_product_attention(self.query(z), self.key(z), self.value(z))  # (B, M, D)
        return {"f": (z + mixed).flatten(1)}  # (B, M D)


class SAGF(nn.Module):
    """Semantic-alignment graph fusion, METHOD 2 (ours): M modality nodes and K category anchors per sample.

    W_c, W_g and g start at zero, so training starts from plain concatenation. ``anchors``: "learned" parameters; "simplex", fixed directions
    that are all equally far from each other; "prototype", the mean over modalities of the projected prototypes, which carry no gradient.
    """

    def __init__(
        self, modalities: int, features: int, classes: int, tau: float = 0.1, rounds: int = 1, anchors: str = "learned"
    ):
        super().__init__()
        if anchors not in ANCHORS:
            raise PrsaError(f"unknown anchors {anchors!r}. Expected one of {', '.join(ANCHORS)}.")
        if anchors == "simplex" and classes > features:
            raise PrsaError(
                f"anchors='simplex' needs as many features as classes: expected features >= {classes}, got {features}."
            )
        self.size, self.kind = modalities * features, anchors
        self.tau, self.rounds = tau, rounds
        self.project = nn.Parameter(torch.empty(modalities, features, features))  # P_m
        for matrix in self.project:
            nn.init.orthogonal_(matrix)
        start = F.normalize(torch.randn(classes, features), dim=1)  # a_k
        if anchors == "learned":
            self.anchors = nn.Parameter(start)
        else:
            basis = torch.linalg.qr(start.T).Q.T if anchors == "simplex" else torch.zeros_like(start)
            self.register_buffer(
                "anchors", F.normalize(basis - basis.mean(0), dim=1)
            )  # prototypes: replaced in every pass
        self.from_category = nn.Parameter(torch.zeros(features, features))  # W_c
        self.from_modality = nn.Parameter(torch.zeros(features, features))  # W_g
        self.bonus = nn.Parameter(torch.zeros(()))  # g

    def forward(self, z: torch.Tensor, prototypes: torch.Tensor | None = None) -> dict:
        """``prototypes`` (M, K, D) are looked at with anchors="prototype" only."""
        h = z  # (B, M, D)
        nodes = self.anchors
        if self.kind == "prototype":
            nodes = F.normalize(F.normalize(prototypes, dim=2) @ self.project, dim=2).mean(0)  # (K, D)
        anchors = F.normalize(nodes, dim=1)  # (K, D)
        for _ in range(self.rounds):
            u = torch.einsum("bmd,mde->bme", h, self.project)  # (B, M, D)
            S = F.normalize(u, dim=2) @ anchors.T / self.tau  # (B, M, K)
            A = S.softmax(2)
            G = A @ A.transpose(1, 2)  # (B, M, M)
            G = G / G.sum(2, keepdim=True)
            h = h + (A @ nodes) @ self.from_category + (G @ u) @ self.from_modality  # (B, M, D)
        return {"f": h.flatten(1), "S": S, "A": A, "G": G, "bonus": self.bonus * S.mean(1)}


FUSIONS = {"concat": Concat, "sum": Sum, "gated": Gated, "cross-attention": CrossAttention, "sagf": SAGF}
