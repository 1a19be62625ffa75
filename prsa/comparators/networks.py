"""Published networks of the field: one class each, written anew from paper and architecture; every deviation is stated.

They share budget, batches, augmentation and optimiser with all other methods (`NetworkTrainer`), take any number of
bands and classes, and are trained from scratch. Layer sizes, dropout and loss weights are those of the code that the
authors published. What differs in all four and is not repeated below: bands are standardised on the training pixels
(the authors' data lie in 0..1, as we read it), a layer in front of a batch norm has no bias (the norm takes it out
again), layers start from PyTorch's default random weights, optimiser and weight decay are the study's, and the first
modality of a scene plays the role of the papers' HSI.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

from ..config import Config
from ..data.patches import PatchSource
from ..errors import PrsaError
from ..network.base import PerModality, PixelNetwork, stream, stream_seed
from ..training.loop import SOURCES, TERMS, Trainer

GATHERED, CHUNK = 4096, 256  # patches kept and predicted at a time


class Network(PixelNetwork):
    """Base: a network of patches. Subclasses write `build`, `forward` and, with further losses, `terms`."""

    def __init__(
        self, bands: dict[str, int], classes: list[str], config: Config, seed: int = 0, statistics: dict | None = None
    ):
        """Arguments as in `PixelNetwork`; ``seed`` of the first weights. Raises `PrsaError` for a single modality."""
        super().__init__(bands, classes, config, statistics)
        if len(bands) < 2:
            raise PrsaError(
                f"{type(self).__name__} fuses modalities: expected two or more, got {list(bands)}. "
                "Fix: a scene with a second modality, or the method named like the modality, which trains it alone."
            )
        with stream(seed, "init", type(self).__name__):
            self.build()

    def build(self) -> None:
        """Make the layers from ``bands``, ``sides`` and ``classes``; random numbers come from the run's own stream."""
        raise NotImplementedError

    def forward(self, x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """x[m] (B, C_m, p, p), standardised -> dict with at least ``logits`` (B, K)."""
        raise NotImplementedError

    def terms(self, out: dict, x: dict[str, torch.Tensor], y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss terms (scalars, weighted as their authors do), the classification under ``fused``; y (B,) in 0..K-1."""
        return {"fused": F.cross_entropy(out["logits"], y)}

    def complexity(self) -> dict[str, int]:
        """Parameters and multiply-accumulates of one patch; a map takes one patch per pixel."""
        device = next(self.parameters()).device
        x = {m: torch.zeros(1, n, self.sides[m], self.sides[m], device=device) for m, n in self.bands.items()}
        macs = self.macs(lambda: self(x))
        return {"params": sum(p.numel() for p in self.parameters()), "macs_patch": macs, "macs_pixel": macs}

    @torch.inference_mode()
    def probabilities(self, scene: xr.Dataset, centres: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``part, p``: a part of the pixels ``centres`` (flat indices), and the probabilities (n, K) there."""
        self.eval()
        device = next(self.parameters()).device
        statistics = {m: tuple(s.cpu() for s in pair) for m, pair in self.statistics().items()}
        for start in range(0, len(centres), GATHERED):
            part = centres[start : start + GATHERED]
            source = PatchSource(scene, self.sides, statistics, part, device)
            chunks = torch.arange(len(part), device=device).split(CHUNK)
            yield part, torch.cat([self(source.gather(chunk))["logits"].softmax(1) for chunk in chunks]).cpu().numpy()


def dense(inputs: int, *outputs: int) -> nn.Sequential:
    """Fully connected layers of the given sizes, each with batch norm and ReLU: (B, inputs) -> (B, outputs[-1])."""
    sizes = zip((inputs, *outputs), outputs)
    layers = [layer for a, b in sizes for layer in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*layers)


def conv(inputs: int, outputs: int, kernel: int = 3, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution that keeps the window, batch norm, activation: (B, inputs, p, p) -> (B, outputs, p, p)."""
    kernels = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(kernels, nn.BatchNorm2d(outputs), activation())


class EndNet(Network):
    """D. Hong et al.: Deep Encoder-Decoder Networks for Classification of Hyperspectral and LiDAR Data. IEEE GRSL 19,
    2022 (online 2020), doi 10.1109/LGRS.2020.3017414; code danfenghong/IEEE_GRSL_EndNet. Any number of modalities, any
    patch: only its centre pixel is read.

    ::

        h^m = f(f(f(f(x^m))))                  f = ReLU BN W, sizes C_m - 16 - 32 - 64 - 128
        v = f([h^1 .. h^M])                    fused feature, 128
        logits = W f(v)                        sizes 128 - 64 - K
        x'^m = W s(W s(W s(W v)))              s = sigmoid, sizes 128 - 64 - 32 - 16 - C_m
        L = CE(logits, y) + sum_m mean (x'^m - x^m)^2

    Ours: the last layer of a decoder is linear, because our inputs are not confined to 0..1; a raster comes as it is,
    where the authors' LiDAR has 21 bands made from one. Predictions do not run the decoders: `complexity` counts their
    parameters, not their multiply-accumulates.
    """

    def build(self):
        self.encoders = PerModality({m: dense(n, 16, 32, 64, 128) for m, n in self.bands.items()})
        self.fuse = dense(128 * len(self.bands), 128)
        self.head = nn.Sequential(dense(128, 64), nn.Linear(64, len(self.classes)))
        self.decoders = PerModality({m: self.decoder(n) for m, n in self.bands.items()})

    def decoder(self, bands: int) -> nn.Sequential:
        """v (B, 128) -> x'^m at the centre (B, C_m)."""
        inner = [layer for size in (128, 64, 32) for layer in (nn.Linear(size, size // 2), nn.Sigmoid())]
        return nn.Sequential(*inner, nn.Linear(16, bands))

    def centre(self, x: dict[str, torch.Tensor], m: str) -> torch.Tensor:
        """x[m] (B, C_m, p, p) -> its centre pixel (B, C_m)."""
        return x[m][:, :, self.sides[m] // 2, self.sides[m] // 2]

    def forward(self, x):
        h = torch.cat([encoder(self.centre(x, m)) for m, encoder in self.encoders.items()], dim=1)  # (B, 128 M)
        fused = self.fuse(h)  # (B, 128)
        return {"logits": self.head(fused), "fused": fused}

    def terms(self, out, x, y):
        errors = [F.mse_loss(decoder(out["fused"]), self.centre(x, m)) for m, decoder in self.decoders.items()]
        return super().terms(out, x, y) | {"reconstruction": sum(errors)}


class CoupledCNN(Network):
    """R. Hang et al.: Classification of Hyperspectral and LiDAR Data Using Coupled CNNs. IEEE TGRS, 2020, arXiv
    2002.01144; code RenlongHang/Coupled-CNNs. Any number of modalities, any patch, which may differ between modalities.

    ::

        h^m = g_3(g_2(g_1^m(x^m)))             g = max pool ReLU BN (3x3 convolution), 32, 64 and 128 channels
        o_m = W_m h^m,  o_0 = W_0 sum_m h^m    feature-level fusion by the sum (the paper also has maximum and stack)
        logits = sum_j u_j * o_j               decision-level fusion, j = 0..M, u_jk = right_jk / sum_i right_ik
        L = CE(o_0, y) + 0.01 sum_m CE(o_m, y)

    g_2 and g_3 are shared; right_jk is the number of training samples of class k that output j gets right; dropout 0.5
    after g_2 and g_3. Pooling is 2x2, the third over all that is left, which is 2x2 for the authors' patch of 11; a
    window of one pixel is not pooled any further (patch 7 after g_2).

    Ours: instead of 20 principal components of the HSI, a modality of more than 20 bands goes through a learned linear
    1x1 convolution to 20. The shared layers share their kernels but keep a batch norm per modality: in the authors'
    code one norm serves both, whose running mean mixes the modalities and so differs between training and evaluation.
    The counts ``right`` are gathered while training goes on, fading by 5 % per batch, not by a pass over the training
    set afterwards; the logits are what is weighted, as in the authors' code.
    """

    COMPONENTS, AUXILIARY, FADING = 20, 0.01, 0.95

    def build(self):
        k, first = len(self.classes), {}
        for m, n in self.bands.items():
            project = [nn.Conv2d(n, self.COMPONENTS, 1, bias=False)] if n > self.COMPONENTS else []
            first[m] = nn.Sequential(*project, conv(min(n, self.COMPONENTS), 32))
        self.first = PerModality(first)
        self.second, self.third = (nn.Conv2d(n, 2 * n, 3, padding=1, bias=False) for n in (32, 64))
        self.norms = PerModality({m: nn.ModuleList([nn.BatchNorm2d(64), nn.BatchNorm2d(128)]) for m in self.bands})
        self.drop = nn.Dropout(0.5)
        self.heads = nn.ModuleList(nn.Linear(128, k) for _ in range(1 + len(self.bands)))
        self.register_buffer("right", torch.zeros(1 + len(self.bands), k))

    def features(self, x: torch.Tensor, m: str) -> torch.Tensor:
        """h^m (B, 128) of the modality m, x (B, C_m, p, p)."""

        def halve(h):
            return F.max_pool2d(h, 2) if h.shape[2] > 1 else h

        second, third = self.norms[m]
        h = halve(self.first[m](x))
        h = self.drop(halve(F.relu(second(self.second(h)))))
        return self.drop(F.relu(third(self.third(h))).amax((2, 3)))

    def forward(self, x):
        h = torch.stack([self.features(x[m], m) for m in self.modalities])  # (M, B, 128)
        outputs = torch.stack([head(v) for head, v in zip(self.heads, [h.sum(0), *h])])  # (1 + M, B, K)
        share = (self.right + 1e-5) / (self.right + 1e-5).sum(0)  # equal while no output has been right
        return {"logits": (share[:, None] * outputs).sum(0), "outputs": outputs}

    def terms(self, out, x, y):
        fused, *single = out["outputs"]
        if self.training:
            hits = (out["outputs"].argmax(2) == y).float()  # (1 + M, B)
            self.right.mul_(self.FADING).add_(hits @ F.one_hot(y, len(self.classes)).float())
        single = self.AUXILIARY * sum(F.cross_entropy(o, y) for o in single)
        return {"fused": F.cross_entropy(fused, y), "single": single}


class S2ENet(Network):
    """S. Fang et al.: S2ENet: Spatial-Spectral Cross-Modal Enhancement Network for Classification of Hyperspectral and
    LiDAR Data. IEEE GRSL, 2022; code likyoo/Multimodal-Remote-Sensing-Toolkit.

    ::

        a = g(g(g(x^1))), b = g(g(g(x^2)))     g = ReLU BN (3x3 convolution); 128, 64, 32 and 8, 16, 32 channels
        a' = a * (T_1(a)^T T_2(b) w)^T         spatial: a factor per pixel of a; T = sigmoid BN (1x1), 16 channels
        b' = b * (T_3(b) T_4(a)^T v)           spectral: a factor per channel of b; T_3, T_4 of 32 channels
        logits = W mean_pixels g_1([a', b'])   g_1 = ReLU BN (1x1 convolution), 64 - 32

    As matrices a and b are 32 x N, N = p^2 pixels; w (N) and v (32) are learned.
    Ours: the products with w and v are done from the right, which gives the same factors without the N x N affinities.
    With more than two modalities x^2 holds the bands of all but the first. Patches of different sides are cropped to
    the smallest, around the same centre. Layers that the authors' code makes and never uses are left out.
    """

    def build(self):
        first, *others = self.bands.values()
        self.side = min(self.sides.values())
        self.hsi = nn.Sequential(conv(first, 128), conv(128, 64), conv(64, 32))
        self.other = nn.Sequential(conv(sum(others), 8), conv(8, 16), conv(16, 32))
        self.spatial = nn.ModuleList(conv(32, 16, 1, nn.Sigmoid) for _ in range(2))  # T_1, T_2
        self.spectral = nn.ModuleList(conv(32, 32, 1, nn.Sigmoid) for _ in range(2))  # T_3, T_4
        self.pixels, self.channels = nn.Linear(self.side**2, 1, bias=False), nn.Linear(32, 1, bias=False)  # w, v
        self.merge, self.head = conv(64, 32, 1), nn.Linear(32, len(self.classes))

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """The centre window of x (B, C, p, p)."""
        edge = (x.shape[2] - self.side) // 2
        return x[:, :, edge : edge + self.side, edge : edge + self.side]

    def forward(self, x):
        first, *others = (self.crop(x[m]) for m in self.modalities)
        a, b = self.hsi(first), self.other(torch.cat(others, dim=1))  # (B, 32, p, p)
        (t1, t2), (t3, t4) = self.spatial, self.spectral
        t1, t2, t3, t4 = (t(v).flatten(2) for t, v in ((t1, a), (t2, b), (t3, b), (t4, a)))  # (B, 16 or 32, N)
        per_pixel = t1.transpose(1, 2) @ self.pixels(t2)  # (B, N, 1)
        per_channel = t3 @ self.channels(t4.transpose(1, 2))  # (B, 32, 1)
        a = a * per_pixel.view(-1, 1, self.side, self.side)  # (B, 32, p, p)
        enhanced = torch.cat([a, b * per_channel[..., None]], dim=1)  # (B, 64, p, p)
        return {"logits": self.head(self.merge(enhanced).mean((2, 3)))}


class Spectral3D(nn.Module):
    """MFT's 3-D convolution, 8 filters, batch norm, ReLU: (B, C, p, p) -> (B, 8 n, p, p), n = C - depth + 1.

    Computed as a 1-D convolution along the bands of every pixel, its 9 neighbours as channels: the same weights and
    result, without five-dimensional weights, which cannot be stored channels last."""

    def __init__(self, bands: int, filters: int = 8, depth: int = 9):
        super().__init__()
        self.outputs = filters * (bands - min(depth, bands) + 1)
        kernels = nn.Conv1d(9, filters, min(depth, bands), bias=False)
        self.layers = nn.Sequential(kernels, nn.BatchNorm1d(filters), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        around = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)  # (B, C, p, p, 3, 3)
        h = self.layers(around.permute(0, 2, 3, 4, 5, 1).reshape(-1, 9, x.shape[1]))  # (B p p, 8, n)
        h = h.reshape(len(x), *x.shape[2:], -1)  # (B, p, p, 8 n), filter by filter, as the grouped convolution expects
        return h.permute(0, 3, 1, 2)  # (B, 8 n, p, p)


class HetConv(nn.Module):
    """Grouped 3x3 plus pointwise convolution, batch norm, ReLU: (B, inputs, p, p) -> (B, outputs, p, p)."""

    def __init__(self, inputs: int, outputs: int, groups: int = 16):
        super().__init__()
        self.grouped = nn.Conv2d(inputs, outputs, 3, padding=1, groups=math.gcd(inputs, groups), bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.grouped(x) + self.pointwise(x)))


class Tokens(nn.Module):
    """Channel tokenisation softmax_pixels(W_a X)^T (X W_v) of the pixels X: (B, D, p, p) -> (B, n, D)."""

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.score, self.value = nn.Linear(width, tokens, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.flatten(2).transpose(1, 2)  # (B, p p, D)
        return self.score(pixels).softmax(1).transpose(1, 2) @ self.value(pixels)


class CrossPatchLayer(nn.Module):
    """Transformer layer in which only the first token asks (mCrossPA): tokens (B, n + 1, D) -> the same shape.

    The D / H numbers of a head are mapped to D by weights that all heads share, and the answer is added to every token:
    both as we read the authors' code."""

    def __init__(self, width: int, heads: int = 8, hidden: int = 512, dropout: float = 0.1):
        super().__init__()
        self.heads, part = heads, width // heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(part, width, bias=False) for _ in range(3))
        self.out, self.drop = nn.Linear(heads * width, width), nn.Dropout(dropout)
        inner = nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout)
        self.mlp = nn.Sequential(*inner, nn.Linear(hidden, width), nn.Dropout(dropout))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        parts = self.norm(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, n + 1, D / H)
        scores = self.query(parts[:, :, :1]) @ self.key(parts).transpose(2, 3)  # (B, H, 1, n + 1)
        weights = (scores / parts.shape[3] ** 0.5).softmax(3)
        answer = (weights @ self.value(parts)).transpose(1, 2).flatten(2)  # (B, 1, H D)
        tokens = tokens + self.drop(self.out(answer))
        return tokens + self.mlp(self.mlp_norm(tokens))


class MFT(Network):
    """S. K. Roy et al.: Multimodal Fusion Transformer for Remote Sensing Image Classification. IEEE TGRS 61, 2023,
    arXiv 2203.16952; code AnkurDeria/MFT. Any patch, which may differ between modalities.

    ::

        X_1 = HetConv(ReLU BN Conv3D(x^1))     8 filters, 9 bands x 3 x 3; HetConv: 3x3 in 16 groups + 1x1, 64 channels
        X_2 = GELU BN (3x3 convolution) x^2    64 channels
        t = softmax(W_a X)^T X W_v             4 tokens of X_1, one of X_2: CLS
        z = [CLS, t_1 .. t_4] + position       then two layers: z <- z + mCrossPA(LN z), z <- z + MLP(LN z)
        mCrossPA(z) = W [softmax(q k^T / sqrt(D / H)) v]    q of CLS alone, k and v of all tokens; D = 64, H = 8 heads
        logits = W LN z_CLS                    MLP 64 - 512 - 64; dropout 0.1 on z, after the attention and in the MLP

    HetConv has 8 groups where 16 do not divide its inputs. The tokens are the channel tokenisation of the authors'
    code. Ours: with several other modalities, each with layers of its own, CLS is the mean of their tokens; with fewer
    than 9 bands the 3-D filters span all of them.
    """

    WIDTH, TOKENS, LAYERS = 64, 4, 2

    def build(self):
        (_, bands), *others = self.bands.items()
        width, spectral = self.WIDTH, Spectral3D(bands)
        self.patches = nn.Sequential(spectral, HetConv(spectral.outputs, width), Tokens(width, self.TOKENS))
        self.cls = PerModality({m: nn.Sequential(conv(n, width, 3, nn.GELU), Tokens(width, 1)) for m, n in others})
        self.position = nn.Parameter(torch.randn(1, 1 + self.TOKENS, width))
        self.layers = nn.Sequential(nn.Dropout(0.1), *(CrossPatchLayer(width) for _ in range(self.LAYERS)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(self.classes))

    def forward(self, x):
        cls = torch.stack([tokens(x[m]) for m, tokens in self.cls.items()]).mean(0)  # (B, 1, D)
        z = self.layers(torch.cat([cls, self.patches(x[self.modalities[0]])], dim=1) + self.position)  # (B, 1 + n, D)
        return {"logits": self.head(self.norm(z[:, 0]))}


class NetworkTrainer(Trainer):
    """The same loop for a `Network`, trained on the loss that it states itself."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.s = self.unknown

    def epoch(self, number):
        with torch.random.fork_rng():  # dropout layers draw from the global stream
            torch.manual_seed(stream_seed(self.seed, "dropout", str(number)))
            return super().epoch(number)

    def step(self, x, y):
        out, unknown = self.model(x), self.unknown
        terms = self.model.terms(out, x, y)
        sum(terms.values()).backward()
        others = [value.detach() for name, value in terms.items() if name != "fused"]
        shown = {"fused": terms["fused"].detach()} | ({"auxiliary": sum(others)} if others else {})
        measures = ("grad_norm", "grad_cosine", "branch_accuracy", "probe_accuracy")
        return dict.fromkeys(measures, unknown) | {
            "loss": torch.stack([shown.get(term, unknown[0]) for term in TERMS]),
            "direction": unknown.expand(len(SOURCES), -1),
            "accuracy": (out["logits"].argmax(1) == y).float().mean(),
            "js": unknown[0],
        }

    def branches(self, out, y):
        return self.unknown

    probes = branches
