"""Semantic-alignment graph fusion (SAGF) and the plain fusions it is compared with.

All are made from the numbers of modalities M, features D and classes K and a temperature (SAGF's alone), and take
z (B, M, D). They return a dict: ``f`` (B, size); SAGF's has ``S``, ``A`` (B, M, K), ``G`` (B, M, M), ``bonus`` (B, K).
"""

import torch
import torch.nn.functional as F
from torch import nn


class Concat(nn.Module):
    """f = [z^1 .. z^M]: eq. (6) with h^m = z^m."""

    def __init__(self, modalities: int, features: int, classes: int, tau: float = 0.1):
        super().__init__()
        self.size = modalities * features

    def forward(self, z: torch.Tensor) -> dict:
        return {"f": z.flatten(1)}  # (B, M D)


class Sum(nn.Module):
    """eq. (18)."""

    def __init__(self, modalities: int, features: int, classes: int, tau: float = 0.1):
        super().__init__()
        self.size = features

    def forward(self, z: torch.Tensor) -> dict:
        return {"f": z.sum(1)}  # (B, D)


class Gated(nn.Module):
    """eq. (19)."""

    def __init__(self, modalities: int, features: int, classes: int, tau: float = 0.1):
        super().__init__()
        self.size = features
        self.gate = nn.Linear(modalities * features, modalities * features)

    def forward(self, z: torch.Tensor) -> dict:
        gate = torch.sigmoid(self.gate(z.flatten(1))).view_as(z)  # (B, M, D)
        return {"f": (gate * z).sum(1)}  # (B, D)


class CrossAttention(nn.Module):
    """eq. (20): one attention layer over the M modalities of a sample, with a residual."""

    def __init__(self, modalities: int, features: int, classes: int, tau: float = 0.1):
        super().__init__()
        self.size = modalities * features
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)

    def forward(self, z: torch.Tensor) -> dict:
        mixed = F.scaled_dot_product_attention(self.query(z), self.key(z), self.value(z))  # (B, M, D)
        return {"f": (z + mixed).flatten(1)}  # (B, M D)


class SAGF(nn.Module):
    """Semantic-alignment graph fusion, eq. (2) to (6) and the last term of eq. (7), ours."""

    def __init__(self, modalities: int, features: int, classes: int, tau: float = 0.1):
        super().__init__()
        self.size, self.tau = modalities * features, tau
        self.project = nn.Parameter(torch.empty(modalities, features, features))  # P_m
        for matrix in self.project:
            nn.init.orthogonal_(matrix)
        self.anchors = nn.Parameter(F.normalize(torch.randn(classes, features), dim=1))  # a_k
        self.from_category = nn.Parameter(torch.zeros(features, features))  # W_c
        self.from_modality = nn.Parameter(torch.zeros(features, features))  # W_g
        self.bonus = nn.Parameter(torch.zeros(()))  # g

    def forward(self, z: torch.Tensor) -> dict:
        u = torch.einsum("bmd,mde->bme", z, self.project)  # (B, M, D)
        S = F.normalize(u, dim=2) @ F.normalize(self.anchors, dim=1).T / self.tau  # (B, M, K), eq. (2)
        A = S.softmax(2)  # eq. (3)
        G = A @ A.transpose(1, 2)  # (B, M, M)
        G = G / G.sum(2, keepdim=True)  # eq. (4)
        h = z + (A @ self.anchors) @ self.from_category + (G @ u) @ self.from_modality  # (B, M, D), eq. (5)
        return {"f": h.flatten(1), "S": S, "A": A, "G": G, "bonus": self.bonus * S.mean(1)}  # (B, M D), .., (B, K)


FUSIONS = {"concat": Concat, "sum": Sum, "gated": Gated, "cross-attention": CrossAttention, "sagf": SAGF}
