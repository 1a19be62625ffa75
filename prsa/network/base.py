"""What every network of the study has: named random streams, modules by modality, and the bands' mean and deviation."""

import zlib
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import Config


def stream_seed(seed: int, *names: str) -> int:
    """Seed of a named random stream: switching a method on does not move the numbers another stream draws."""
    return zlib.crc32(" ".join([str(seed), *names]).encode())


@contextmanager
def stream(seed: int, *names: str):
    """Inside, torch's global random numbers (CPU) are those of the named stream; outside they go on untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, *names))
        yield


class PerModality(nn.ModuleList):
    """One module per modality, found by its name, whatever that is: `nn.ModuleDict` refuses ``keys`` or ``a.b``."""

    def __init__(self, modules: dict[str, nn.Module]):
        super().__init__(modules.values())
        self.names = list(modules)

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(self.names.index(name))

    def items(self):
        return zip(self.names, self)


class Moments(nn.Module):
    """Mean and standard deviation (C,) of a modality's bands over training pixels: buffers that weights take along."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean))
        self.register_buffer("std", torch.as_tensor(std))


class PixelNetwork(nn.Module):
    """Base of all networks: which sensors it reads, in which windows, and how their bands are standardised.

    ``bands``: modality -> number of bands, in the order of the scene. ``statistics``: modality -> (mean, std) per band,
    (C,) each; without them bands are taken as they are. Raises `PrsaError` for a patch that `Config.patches` refuses.
    """

    def __init__(self, bands: dict[str, int], classes: list[str], config: Config, statistics: dict | None = None):
        super().__init__()
        self.config, self.bands, self.classes = config, dict(bands), list(classes)
        self.modalities = list(bands)
        self.sides = config.patches(self.modalities)
        plain = {m: (np.zeros(n, np.float32), np.ones(n, np.float32)) for m, n in bands.items()}
        self.moments = PerModality({m: Moments(*pair) for m, pair in (statistics or plain).items()})

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Modality -> (mean, std) per band used for standardisation."""
        return {m: (moments.mean, moments.std) for m, moments in self.moments.items()}

    def macs(self, call) -> int:
        """Multiply-accumulates of products and convolutions in ``call()``, counted by running it in eval mode."""
        training, counter = self.training, FlopCounterMode(display=False)
        self.eval()
        with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the others hide their products from the counter
            call()
        self.train(training)
        return counter.get_total_flops() // 2
