"""One fully convolutional encoder per modality, without padding: a patch pass and a whole-scene pass agree."""

import torch
from torch import nn


class Encoder(nn.Module):
    """E_m of eq. (1), ours: x (B, C, p, p) -> z (B, D, 1, 1); x (B, C, H + p - 1, W + p - 1) -> (B, D, H, W).

    A 1x1 spectral mixing layer, 3x3 layers without padding until the window is 1x1, then a linear layer. There is no
    normalisation on z itself, and nothing depends on the border of the patch.
    """

    def __init__(self, bands: int, side: int, width: int = 64, features: int = 64):
        super().__init__()
        layers = []
        for channels, kernel in [(bands, 1)] + [(width, 3)] * (side // 2):
            layers += [nn.Conv2d(channels, width, kernel, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(width, features, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)
