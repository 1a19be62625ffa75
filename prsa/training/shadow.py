"""Shadow heads: what a branch could do on its own now, and where it would go; they never touch the network."""

import torch
import torch.nn.functional as F

from ..config import Config


class ShadowHeads:
    """One linear classifier per modality on features that it does not train, learnt beside the network on the same
    batches. Ours.

    Its accuracy is a linear probe of the branch at every epoch. The gradient of its loss on z is the direction in which
    the branch would go if it were trained alone from where it is: nothing else would stand before the loss.
    """

    def __init__(self, modalities: int, classes: int, config: Config, steps: int, rng: torch.Generator, device):
        """``steps`` of the one-cycle schedule, at least 6; ``rng`` (CPU) draws the start."""
        start = 2 * torch.rand((modalities, config.features, classes), generator=rng) - 1
        start = start * config.features**-0.5  # as torch starts a linear layer
        self.weight = start.to(device).requires_grad_()  # (M, D, K)
        self.bias = torch.zeros((modalities, 1, classes), device=device, requires_grad=True)
        self.optimizer, self.schedule = one_cycle([self.weight, self.bias], config, steps)

    def _logits(self, z: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, z.transpose(0, 1), self.weight)  # (M, B, K)

    def step(self, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient on z (B, M, D) of the heads' cross entropy (batch mean, summed) and accuracy (M,); then a step."""
        z = z.detach().requires_grad_()
        logits = self._logits(z)
        loss = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="sum") / len(y)
        direction, self.weight.grad, self.bias.grad = torch.autograd.grad(loss, (z, self.weight, self.bias))
        self.optimizer.step()
        self.schedule.step()
        return direction, (logits.detach().argmax(2) == y).float().mean(1)

    @torch.no_grad()
    def accuracy(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """z (B, M, D), y (B,) -> accuracy per modality (M,)."""
        return (self._logits(z).argmax(2) == y).float().mean(1)


def one_cycle(parameters, config: Config, steps: int):
    """AdamW and its one-cycle learning rate over so many steps: the same for the network and the heads beside it."""
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps, pct_start=0.2)
