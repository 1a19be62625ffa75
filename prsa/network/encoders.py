"""One fully convolutional encoder per modality, without padding: a patch pass and a whole-scene pass agree."""

import torch
from torch import nn


class Encoder(nn.Module):
    """x (B, C, p, p) -> z (B, D, 1, 1); x (B, C, H + p - 1, W + p - 1) -> (B, D, H, W). Source: METHOD 1 (ours).

    A 1x1 spectral mixing layer, 3x3 layers without padding until the window is 1x1, then a linear layer.
    No normalisation on z itself, and nothing depends on the patch border.
    """

    def __init__(self, bands: int, side: int, width: int = 64, features: int = 64):
        super().__init__()
        layers = []
        for channels, kernel in [(bands, 1)] + [(width, 3)] * (side // 2):
            layers += [nn.Conv2d(channels, width, kernel, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.Conv2d(width, features, 1))
        self.layers = nn.Sequential(*layers)
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates per patch, and per pixel of a large map."""
        side, per_patch, per_pixel = self.side, 0, 0
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                side -= layer.kernel_size[0] - 1
                per_pixel += layer.weight.numel()
                per_patch += layer.weight.numel() * side * side
        return per_patch, per_pixel
