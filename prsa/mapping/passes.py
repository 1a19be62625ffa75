"""A PRSANet over many pixels at once: every encoder runs once per tile, fully convolutional, equal to the patch pass.

Three things make it fast on a CPU: every thread has a tile of its own, so that none waits for another inside a
convolution; what is linear behind the last ReLU of an encoder is multiplied out once; and classes lie before pixels,
because softmax over a short last axis is slow.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..network.fusion import SAGF, Concat
from ..network.prsanet import PRSANet
from .windows import Block, SceneSource, pieces

TILE = 64  # pixels on a side: activations of one tile stay within megabytes (and the cache), whatever the scene


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """1x1 convolution, x (h, w, C) -> (h, w, N), as h images of one row: one image takes a slower routine of torch."""
    return F.conv2d(x.transpose(1, 2)[:, :, None], weight[:, :, None, None], bias)[:, :, 0].transpose(1, 2)


class _Encoder:
    """A trained encoder for raw values, both normalisations and ``matrix`` (D, N), a product with z, folded into it."""

    def __init__(self, encoder: nn.Module, mean: torch.Tensor, std: torch.Tensor, matrix: torch.Tensor | None = None):
        layers = list(copy.deepcopy(encoder).eval().layers)
        folded = [fuse_conv_bn_eval(a, b) for a, b in zip(layers, layers[1:]) if isinstance(b, nn.BatchNorm2d)]
        first, *self.inner = (conv.to(memory_format=torch.channels_last) for conv in folded)
        self.mean = mean[:, None, None]
        self.first = first.weight.flatten(1) / std, first.bias
        weight, bias = layers[-1].weight.flatten(1), layers[-1].bias
        self.last = (weight, bias) if matrix is None else (matrix.T @ weight, matrix.T @ bias)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """window (C, h + p - 1, w + p - 1) -> z or its product (h w, N); no-data counts as the training mean."""
        centred = torch.nan_to_num_(window - self.mean, nan=0.0)
        x = centred.flatten(1).T.contiguous().view(*window.shape[1:], -1)  # (h + p - 1, w + p - 1, C)
        x = _pointwise(x, *self.first).relu_().permute(2, 0, 1)[None]  # (1, W, h + p - 1, w + p - 1)
        for conv in self.inner:
            x = conv(x).relu_()
        return _pointwise(x[0].permute(1, 2, 0), *self.last).flatten(0, 1)  # (h w, N)


class _Encoders:
    """All encoders of a model, each with its matrix, for tiles of a block: per modality (h w, N)."""

    def __init__(self, model: PRSANet, matrices: list):
        self.sides, self.device, statistics = model.sides, next(model.parameters()).device, model.statistics()
        self.each = {m: _Encoder(model.encoders[m], *statistics[m], x) for m, x in zip(model.modalities, matrices)}

    def __call__(self, block: Block, rows: slice, cols: slice) -> list[torch.Tensor]:
        windows = (block.cut(m, rows, cols, self.sides[m] // 2) for m in self.each)
        return [
            encoder(torch.from_numpy(np.ascontiguousarray(window)).to(self.device))
            for encoder, window in zip(self.each.values(), windows)
        ]


@torch.inference_mode()
def scene_features(model: PRSANet, scene: xr.Dataset, tile: int = TILE) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield ``rows, cols, z`` for every tile of a scene of the model's sensors, z (rows * cols, M, D)."""
    encoders = _Encoders(model, [None] * len(model.modalities))
    whole = slice(0, scene.sizes["y"]), slice(0, scene.sizes["x"])
    block = Block(SceneSource(scene), model.modalities, *whole, halo=0)
    for rows, cols in pieces(*whole, tile, tile):
        yield rows, cols, torch.stack(encoders(block, rows, cols), dim=1)


@torch.inference_mode()
def tile_logits(model: PRSANet) -> Callable[[Block, slice, slice], torch.Tensor]:
    """The function from a block, rows and columns to the fused logits (K, h, w) there; any thread may call it."""
    matrices, readout = _readout(model.eval())
    encoders = _Encoders(model, matrices)
    return lambda block, rows, cols: readout(encoders(block, rows, cols)).view(
        -1, rows.stop - rows.start, cols.stop - cols.start
    )


def _readout(model: PRSANet) -> tuple[list, Callable[[list[torch.Tensor]], torch.Tensor]]:
    """A product with z per modality, (D, N) or None, and the function from the products (P, N) to logits (K, P)."""
    if model.fusion is None:
        heads = [model.branch_heads[m] for m in model.modalities]
        return [h.weight.T for h in heads], lambda parts: sum(
            (p.T.contiguous() + h.bias[:, None]).log_softmax(0) for p, h in zip(parts, heads)
        )
    if isinstance(model.fusion, SAGF):
        return _sagf(model)
    if isinstance(model.fusion, Concat):
        heads = model.head.weight.T.chunk(len(model.modalities))
        return list(heads), lambda parts: (sum(parts) + model.head.bias).T.contiguous()
    unfolded = [None] * len(model.modalities)
    return unfolded, lambda parts: model.classify(torch.stack(parts, dim=1))["logits"].T.contiguous()


def _sagf(model: PRSANet) -> tuple[list, Callable[[list[torch.Tensor]], torch.Tensor]]:
    """`_readout` of `prsa.network.fusion.SAGF`, eqs. (2) to (7) and (17): all but A and G is linear in z.

    With H_m the head's rows for modality m, logits = w + sum_m (z_m H_m + A_m (a W_c H_m)
    + sum_n G_mn (z_n P_n W_g H_m)) + g mean_m S_m, where S_m = (z_m P_m) a' / (tau_s |z_m P_m|).
    """
    fusion, heads = model.fusion, model.head.weight.T.chunk(len(model.modalities))  # (D, K) each
    d, k = heads[0].shape
    anchors = F.normalize(fusion.anchors, dim=1).T / fusion.tau  # (D, K)
    matrices = [
        torch.cat([p, p @ anchors, h, *(p @ fusion.from_modality @ other for other in heads)], dim=1)
        for p, h in zip(fusion.project, heads)
    ]
    category = [(fusion.anchors @ fusion.from_category @ h).T for h in heads]  # (K, K)

    def logits(parts: list[torch.Tensor]) -> torch.Tensor:
        lengths = [torch.linalg.vector_norm(part[:, :d], dim=1) for part in parts]  # |z_m P_m|
        # (K, P) per modality; messages[m][n] from n to m
        S, own, *messages = zip(*(part[:, d:].T.contiguous().split(k) for part in parts))
        S = [s / length.clamp(min=1e-12) for s, length in zip(S, lengths)]  # the least is F.normalize's
        A = [s.softmax(0) for s in S]
        out = model.head.bias[:, None] + fusion.bonus * (sum(S) / len(S))
        for m, a in enumerate(A):
            G = [(a * other).sum(0) for other in A]
            out += own[m] + category[m] @ a + sum(g * message for g, message in zip(G, messages[m])) / sum(G)
        if model.config.vote:
            out = out.log_softmax(0) + model.config.vote * sum(s.log_softmax(0) for s in S) / len(S)
        return out

    return matrices, logits
