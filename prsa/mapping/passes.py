"""Whole-scene maps: every encoder runs once, fully convolutional, over tiles with a halo; equal to the patch pass.

Three things make a map fast on a CPU: every thread has a tile of its own, so that none waits for another inside a convolution; what is linear
behind the last ReLU of an encoder is multiplied out once; and classes lie before pixels, because softmax over a short last axis is slow.
"""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..data.patches import reflect_index
from ..data.scene import class_names, modalities
from ..errors import PrsaError
from ..network.fusion import SAGF, Concat
from ..network.prsanet import PRSANet

TILE = 64  # pixels on a side: activations of one tile stay within megabytes (and the cache), whatever the scene


def _pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """1x1 convolution, x (h, w, C) -> (h, w, N), as h images of one row: torch has a slower routine for one image on one thread."""
    return F.conv2d(x.transpose(1, 2)[:, :, None], weight[:, :, None, None], bias)[:, :, 0].transpose(1, 2)


class _Encoder:
    """A trained encoder for raw tiles: both normalisations are folded into the convolutions, and so is ``matrix`` (D, N), a product with z."""

    def __init__(self, encoder: nn.Module, mean: torch.Tensor, std: torch.Tensor, matrix: torch.Tensor | None = None):
        layers = list(copy.deepcopy(encoder).eval().layers)
        folded = [fuse_conv_bn_eval(a, b) for a, b in zip(layers, layers[1:]) if isinstance(b, nn.BatchNorm2d)]
        first, *self.inner = (conv.to(memory_format=torch.channels_last) for conv in folded)
        self.mean = mean[:, None, None]
        self.first = first.weight.flatten(1) / std, first.bias
        weight, bias = layers[-1].weight.flatten(1), layers[-1].bias
        self.last = (weight, bias) if matrix is None else (matrix.T @ weight, matrix.T @ bias)

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        """block (C, h + p - 1, w + p - 1) -> z, or its product with the matrix, (h w, N); no-data counts as the training mean."""
        centred = torch.nan_to_num_(block - self.mean, nan=0.0)
        x = centred.flatten(1).T.contiguous().view(*block.shape[1:], -1)  # (h + p - 1, w + p - 1, C)
        x = _pointwise(x, *self.first).relu_().permute(2, 0, 1)[None]  # (1, W, h + p - 1, w + p - 1)
        for conv in self.inner:
            x = conv(x).relu_()
        return _pointwise(x[0].permute(1, 2, 0), *self.last).flatten(0, 1)  # (h w, N)


def check_sensors(model, scene: xr.Dataset) -> None:
    """Raise `PrsaError` when the scene's modalities and bands are not the model's."""
    wanted = {m: scene.sizes.get(f"{m}_band") for m in model.modalities}
    if wanted != model.bands:
        raise PrsaError(
            f"expected modalities and bands {model.bands}, got { ({m: scene.sizes[f'{m}_band'] for m in modalities(scene)}) } in the scene. "
            "Use a scene of the sensors the model was trained on."
        )


def _tiles(scene: xr.Dataset, tile: int) -> list[tuple[slice, slice]]:
    height, width = scene.sizes["y"], scene.sizes["x"]
    return [
        (slice(y, min(y + tile, height)), slice(x, min(x + tile, width)))
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]


def _passes(model: PRSANet, scene: xr.Dataset, matrices: list) -> Callable[[slice, slice], list[torch.Tensor]]:
    """The function from the rows and columns of a tile to what every encoder says of its pixels: per modality (h w, N), see `_Encoder`."""
    device, statistics = next(model.parameters()).device, model.statistics()
    encoders = {m: _Encoder(model.encoders[m], *statistics[m], matrix) for m, matrix in zip(model.modalities, matrices)}
    values = {m: scene[m].values for m in model.modalities}
    height, width = scene.sizes["y"], scene.sizes["x"]

    def run(rows: slice, cols: slice) -> list[torch.Tensor]:
        parts = []
        for m, encoder in encoders.items():
            r = model.sides[m] // 2
            iy, ix = (
                reflect_index(rows.start - r, rows.stop + r, height),
                reflect_index(cols.start - r, cols.stop + r, width),
            )
            window = values[m][:, iy.min() : iy.max() + 1, ix.min() : ix.max() + 1]
            if iy[-1] - iy[0] != len(iy) - 1 or ix[-1] - ix[0] != len(ix) - 1:  # folded at the scene's border
                window = window[:, (iy - iy.min())[:, None], ix - ix.min()]
            parts.append(encoder(torch.from_numpy(np.ascontiguousarray(window)).to(device)))
        return parts

    return run


@torch.inference_mode()
def scene_features(model: PRSANet, scene: xr.Dataset, tile: int = TILE) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield ``rows, cols, z`` for every tile; z (rows * cols, M, D). Memory follows the tile, not the scene.

    Raises `PrsaError` when the scene's modalities, bands or classes are not the model's.
    """
    check_sensors(model, scene)
    run = _passes(model, scene, [None] * len(model.modalities))
    for rows, cols in _tiles(scene, tile):
        yield rows, cols, torch.stack(run(rows, cols), dim=1)


def _readout(model: PRSANet) -> tuple[list, Callable[[list[torch.Tensor]], torch.Tensor]]:
    """A product with z per modality, (D, N) or None for z itself, and the function from the products of P pixels to their logits (K, P)."""
    if model.fusion is None:
        heads = [model.branch_heads[m] for m in model.modalities]
        return [h.weight.T for h in heads], lambda parts: sum(
            (p.T.contiguous() + h.bias[:, None]).log_softmax(0) for p, h in zip(parts, heads)
        )
    if isinstance(model.fusion, SAGF) and model.fusion.rounds == 1:
        return _sagf(model)
    if isinstance(model.fusion, Concat):
        return list(model.head.weight.T.chunk(len(model.modalities))), lambda parts: (
            sum(parts) + model.head.bias
        ).T.contiguous()
    return [None] * len(model.modalities), lambda parts: model.classify(torch.stack(parts, dim=1))[
        "logits"
    ].T.contiguous()


def _sagf(model: PRSANet) -> tuple[list, Callable[[list[torch.Tensor]], torch.Tensor]]:
    """`_readout` of one round of `prsa.network.fusion.SAGF`: with H_m the head's rows for modality m, all of its logits but A and G is linear in z.

    logits = b + sum_m (z_m H_m + A_m (a W_c H_m) + sum_n G_mn (z_n P_n W_g H_m)) + g mean_m S_m, where S_m = (z_m P_m) a' / (tau |z_m P_m|).
    """
    fusion, heads = model.fusion, model.head.weight.T.chunk(len(model.modalities))  # (D, K) each
    d, k = heads[0].shape
    nodes = fusion.anchors  # (K, D)
    if fusion.kind == "prototype":
        nodes = F.normalize(F.normalize(model.bank.means, dim=2) @ fusion.project, dim=2).mean(0)
    anchors = F.normalize(nodes, dim=1).T / fusion.tau  # (D, K)
    matrices = [
        torch.cat([p, p @ anchors, h, *(p @ fusion.from_modality @ other for other in heads)], dim=1)
        for p, h in zip(fusion.project, heads)
    ]
    category = [(nodes @ fusion.from_category @ h).T for h in heads]  # (K, K)

    def logits(parts: list[torch.Tensor]) -> torch.Tensor:
        lengths = [
            torch.linalg.vector_norm(part[:, :d], dim=1).clamp(min=1e-12) for part in parts
        ]  # |z_m P_m|; the least is F.normalize's
        S, own, *messages = zip(
            *(part[:, d:].T.contiguous().split(k) for part in parts)
        )  # (K, P) per modality; messages[m][n] from n to m
        S = [s / length for s, length in zip(S, lengths)]
        A = [s.softmax(0) for s in S]
        out = model.head.bias[:, None] + fusion.bonus * (sum(S) / len(S))
        for m, a in enumerate(A):
            G = [(a * other).sum(0) for other in A]
            out += own[m] + category[m] @ a + sum(g * message for g, message in zip(G, messages[m])) / sum(G)
        if model.config.vote:
            out = out.log_softmax(0) + model.config.vote * sum(s.log_softmax(0) for s in S) / len(S)
        return out

    return matrices, logits


@torch.inference_mode()
def visit_logits(
    model: PRSANet, scene: xr.Dataset, use: Callable[[tuple[slice, slice], torch.Tensor], None], tile: int = TILE
) -> None:
    """Call ``use((rows, cols), logits)`` with the fused logits (K, y, x) of every tile, from as many threads as torch has, in any order."""
    matrices, readout = _readout(model.eval())
    run = _passes(model, scene, matrices)

    @torch.inference_mode()  # it holds for one thread only
    def work(place: tuple[slice, slice]) -> None:
        rows, cols = place
        use(place, readout(run(rows, cols)).view(-1, rows.stop - rows.start, cols.stop - cols.start))

    threads = torch.get_num_threads()
    if threads == 1 or next(model.parameters()).device.type != "cpu":
        for place in _tiles(scene, tile):
            work(place)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, _tiles(scene, tile)):  # raises what a tile raised
                pass
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def predict_map(model, scene: xr.Dataset, probabilities: bool = False, tile: int = TILE) -> xr.DataArray | xr.Dataset:
    """Land cover of every pixel: ``(y, x)`` uint8, 1..K, with the confidence (probability of the chosen class) as coordinate ``confidence``.

    ``model``: what `prsa.fit` returns; a PRSANet runs once over tiles, as many at a time as torch has threads, a comparator patch by patch or
    pixel by pixel. With ``probabilities=True`` a Dataset of ``land_cover`` and ``probability (class, y, x)`` float32. Raises `PrsaError` for a
    foreign scene.
    """
    check_sensors(model, scene)
    shape = scene.sizes["y"], scene.sizes["x"]
    cover, confidence = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    everything = np.zeros((len(model.classes), *shape), np.float32) if probabilities else None

    def keep(place: tuple, p: torch.Tensor) -> None:  # p (K, ...)
        top, chosen = p.max(0)
        cover[place], confidence[place] = (chosen + 1).cpu().numpy(), top.cpu().numpy()
        if probabilities:
            everything[:, *place] = p.cpu().numpy()

    if isinstance(model, PRSANet):
        visit_logits(model, scene, lambda place, logits: keep(place, logits.softmax(0)), tile)
    else:
        for pixels, p in model.probabilities(scene, np.arange(cover.size)):
            keep(np.unravel_index(pixels, shape), torch.from_numpy(p).T)
    attrs = {"long_name": "land-cover class, 1..K", "class_names": scene.attrs["class_names"]}
    land_cover = xr.DataArray(cover, dims=("y", "x"), name="land_cover", attrs=attrs)
    land_cover = land_cover.assign_coords(
        confidence=(("y", "x"), confidence, {"long_name": "probability of the chosen class", "units": "1"})
    )
    if not probabilities:
        return land_cover
    return xr.Dataset(
        {"land_cover": land_cover, "probability": (("class", "y", "x"), everything)},
        coords={"class": class_names(scene)},
    )
