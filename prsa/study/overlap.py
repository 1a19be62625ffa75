"""One encoder over many overlapping windows: what they share is computed once, wherever the windows lie.

Two thousand windows of 7 x 7 pixels, spread evenly over a test area, hold each pixel about ten times. A pass over the
whole scene would compute each once, too, but also all pixels between windows that lie far apart.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ROWS = 512  # pixels a layer is computed for at a time: what it gathers stays in the cache


class Windows:
    """An encoder over many windows of one table of pixels: what windows share is computed once.

    A 3x3 layer gives one value for every pixel that any window needs of it, whatever the number of windows around it.
    """

    def __init__(self, encoder: nn.Module, rows: torch.Tensor):
        """``rows`` (n, p, p): where in the table each window finds its pixels, row by row."""
        layers = list(encoder.layers)
        folded = [fuse_conv_bn_eval(a, b) for a, b in zip(layers, layers[1:]) if isinstance(b, nn.BatchNorm2d)]
        layers = [*folded, layers[-1]]
        self.weights = [layer.weight.permute(2, 3, 1, 0).flatten(0, 2) for layer in layers]  # (9 C or C, W)
        self.biases = [layer.bias for layer in layers]
        self.inputs, device, place = [], rows.device, rows.cpu().numpy()
        while place.shape[1] > 1:
            around = np.lib.stride_tricks.sliding_window_view(place, (3, 3), (1, 2))  # (n, p - 2, p - 2, 3, 3)
            _, first, found = np.unique(place[:, 1:-1, 1:-1], return_index=True, return_inverse=True)
            inputs = around[np.unravel_index(first, around.shape[:3])].reshape(-1, 9)  # (pixels, 9)
            self.inputs.append(torch.from_numpy(inputs).to(device))
            place = found.reshape(around.shape[:3])
        self.place = torch.from_numpy(place.ravel()).to(device)

    def __call__(self, table: torch.Tensor) -> torch.Tensor:
        """Normalised bands (pixels, C) -> z of every window (n, D)."""
        first, *inner, last = zip(self.weights, self.biases)
        x = torch.addmm(first[1], table, first[0]).relu_()
        for inputs, (weight, bias) in zip(self.inputs, inner, strict=True):
            parts = (x.index_select(0, i.flatten()).view(len(i), -1) for i in inputs.split(ROWS))  # (ROWS, 9 W)
            x = torch.cat([torch.addmm(bias, part, weight) for part in parts]).relu_()
        return torch.addmm(last[1], x, last[0]).index_select(0, self.place)
