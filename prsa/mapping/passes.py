"""A PRSANet over many pixels at once: every encoder runs once per tile, fully convolutional, equal to the patch pass.

Four things make it fast on a CPU: every thread has a tile of its own, so that none waits for another inside a
convolution; a tile is wide, and its rows pass in steps that stay in the cache, each layer keeping the last rows of the
step before; what is linear behind the last ReLU of an encoder is multiplied out once; and classes lie before pixels,
because softmax over a short last axis is slow.
"""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..network.fusion import SAGF, Concat
from ..network.prsanet import PRSANet
from .windows import Block, SceneSource, pieces

TILE = 128, 256  # rows and columns: of the pixels that are computed, 2 to 5 % belong to a neighbour as well
STEP = 32  # rows that pass the layers at a time: megabytes, whatever the scene


class _Encoder:
    """A trained encoder for raw values, both normalisations and ``matrix`` (D, N), a product with z, folded into it."""

    def __init__(self, encoder: nn.Module, mean: torch.Tensor, std: torch.Tensor, matrix: torch.Tensor | None = None):
        layers = list(copy.deepcopy(encoder).eval().layers)
        folded = [fuse_conv_bn_eval(a, b) for a, b in zip(layers, layers[1:]) if isinstance(b, nn.BatchNorm2d)]
        first, *self.inner = (conv.to(memory_format=torch.channels_last) for conv in folded)
        self.mean, self.device = mean.cpu().numpy()[:, None, None], mean.device
        self.first = first.bias, (first.weight.flatten(1) / std).T.contiguous()
        weight, bias = layers[-1].weight.flatten(1), layers[-1].bias
        self.last = (bias, weight) if matrix is None else (matrix.T @ bias, matrix.T @ weight)

    def __call__(self, block: Block, modality: str, rows: slice, cols: slice) -> Iterator[torch.Tensor]:
        """Yield z or its product, (N, h w), of `STEP` rows after the other; no-data counts as the training mean."""
        r, (bias, weight), (last_bias, last) = len(self.inner), self.first, self.last
        columns, height = slice(cols.start - r, cols.stop + r), min(STEP, rows.stop - rows.start) + 2 * r
        width, new, known = columns.stop - columns.start, rows.start - r, 0
        inputs = [torch.empty(height, width - 2 * i, len(bias), device=self.device) for i in range(r)]  # of each layer
        for stop in (min(top + STEP, rows.stop) for top in range(rows.start, rows.stop, STEP)):
            window = torch.from_numpy(block.cut(modality, slice(new, stop + r), columns, self.mean))  # (C, h, width)
            x = window.to(self.device).nan_to_num_(nan=0.0).flatten(1).T
            x = torch.addmm(bias, x, weight).view(-1, width, len(bias))  # (h, width, W)
            for conv, before in zip(self.inner, inputs):
                end = known + len(x)
                torch.clamp_min(x, 0, out=before[known:end])
                x = conv(before[:end].permute(2, 0, 1)[None])[0].permute(1, 2, 0)  # two rows and columns less
                before[:2] = before[end - 2 : end].clone()
            new, known = stop + r, 2
            yield torch.addmm(last_bias[:, None], last, x.relu_().flatten(0, 1).T)


def _encoders(model: PRSANet, matrices: list) -> Callable[[Block, slice, slice], Iterator[tuple[slice, tuple]]]:
    """All encoders, each with its matrix: from a tile to the rows of every step and, per modality, (N, h w)."""
    statistics = model.statistics()
    each = {m: _Encoder(model.encoders[m], *statistics[m], matrix) for m, matrix in zip(model.modalities, matrices)}

    def steps(block: Block, rows: slice, cols: slice) -> Iterator[tuple[slice, tuple]]:
        here = (slice(top, min(top + STEP, rows.stop)) for top in range(rows.start, rows.stop, STEP))
        return zip(here, zip(*(encoder(block, m, rows, cols) for m, encoder in each.items())))

    return steps


@torch.inference_mode()
def scene_features(model: PRSANet, scene: xr.Dataset) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield ``rows, cols, z`` part by part of a scene of the model's sensors, z (rows * cols, M, D)."""
    encoders = _encoders(model, [None] * len(model.modalities))
    whole = slice(0, scene.sizes["y"]), slice(0, scene.sizes["x"])
    block = Block(SceneSource(scene), model.modalities, *whole, halo=0)
    for rows, cols in pieces(*whole, *TILE):
        for here, parts in encoders(block, rows, cols):
            yield here, cols, torch.stack([z.T for z in parts], dim=1)


@torch.inference_mode()
def tile_logits(model: PRSANet) -> Callable[[Block, slice, slice], Iterator[tuple[slice, torch.Tensor]]]:
    """The function from a block and the rows and columns of a tile to an iterator over its rows: some of them, and
    logits (K, h, w) of eq. (17) or (21) there, up to a number per pixel; any thread may call it."""
    matrices, readout = _readout(model.eval())
    encoders = _encoders(model, matrices)
    return lambda block, rows, cols: (
        (here, readout(parts).view(-1, here.stop - here.start, cols.stop - cols.start))
        for here, parts in encoders(block, rows, cols)
    )


def _readout(model: PRSANet) -> tuple[list, Callable[[tuple[torch.Tensor, ...]], torch.Tensor]]:
    """A product with z per modality, (D, N) or None, and the function from the products (N, P) to logits (K, P)."""
    if isinstance(model.fusion, SAGF):
        return _sagf(model)
    if model.fusion is None or isinstance(model.fusion, Concat):
        heads = model.branch_heads if model.fusion is None else [model.head]
        bias = sum(head.bias for head in heads)[:, None]
        matrices = [part for head in heads for part in head.weight.T.split(model.config.features)]
        return matrices, lambda parts: sum(parts) + bias
    unfolded = [None] * len(model.modalities)
    return unfolded, lambda parts: model.head(model.fusion(torch.stack([z.T for z in parts], dim=1))["f"]).T


def _sagf(model: PRSANet) -> tuple[list, Callable[[tuple[torch.Tensor, ...]], torch.Tensor]]:
    """`_readout` of `prsa.network.fusion.SAGF`, eqs. (2) to (7) and (17): all but A and G is linear in z.

    With H_m the head's rows for modality m, logits = w + sum_m (z_m H_m + A_m (a W_c H_m)
    + sum_n G_mn (z_n P_n W_g H_m)) + (g + v) mean_m S_m, where S_m = (z_m P_m) a' / (tau_s |z_m P_m|): what the
    logarithms of eq. (17) subtract is the same for all classes of a pixel.
    """
    fusion, heads = model.fusion, model.head.weight.T.chunk(len(model.modalities))  # (D, K) each
    d, k = heads[0].shape
    anchors = F.normalize(fusion.anchors, dim=1).T / fusion.tau  # (D, K)
    matrices = [
        torch.cat([p, p @ anchors, h, *(p @ fusion.from_modality @ other for other in heads)], dim=1)
        for p, h in zip(fusion.project, heads)
    ]
    category = [(fusion.anchors @ fusion.from_category @ h).T for h in heads]  # (K, K)
    vote = (fusion.bonus + model.config.vote) / len(heads)

    def logits(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        lengths = [torch.linalg.vector_norm(part[:d], dim=0) for part in parts]  # |z_m P_m|
        # (K, P) per modality; messages[m][n] from n to m
        S, own, *messages = zip(*(part[d:].split(k) for part in parts))
        S = [s / length.clamp(min=1e-12) for s, length in zip(S, lengths)]  # the least is F.normalize's
        A = [s.softmax(0) for s in S]
        out = model.head.bias[:, None] + vote * sum(S)
        for m, a in enumerate(A):
            G = [(a * other).sum(0) for other in A]
            out += own[m] + category[m] @ a + sum(g * message for g, message in zip(G, messages[m])) / sum(G)
        return out

    return matrices, logits
