"""Shadow heads: what a branch could do on its own now, and where it would go; they look at the network and never touch it."""

import torch
import torch.nn.functional as F


class ShadowHeads:
    """One linear classifier per modality on features that it does not train, learnt beside the network on the same batches. Source: ours.

    Its accuracy is a linear probe of the branch at every epoch. The gradient of its loss on z is the direction in which the branch would go if it
    were trained alone from where it is: there, nothing but such a head stands between the features and the loss.
    """

    def __init__(
        self,
        modalities: int,
        features: int,
        classes: int,
        lr: float,
        weight_decay: float,
        steps: int,
        rngs: list[torch.Generator],
        device,
    ):
        """``steps`` of the one-cycle schedule, at least 6; one of ``rngs`` draws the start (CPU). More of them make as many sets of heads, which
        know nothing of each other: M is then the number of all heads, and every head has labels of its own, y (M, B)."""
        bound = features**-0.5  # as torch starts a linear layer
        start = torch.cat(
            [(2 * torch.rand((modalities, features, classes), generator=rng) - 1) * bound for rng in rngs]
        )
        self.weight = start.to(device).requires_grad_()  # (M, D, K)
        self.bias = torch.zeros((len(start), 1, classes), device=device, requires_grad=True)
        self.optimizer = torch.optim.AdamW([self.weight, self.bias], lr=lr, weight_decay=weight_decay, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, total_steps=steps, pct_start=0.2)

    def _logits(self, z: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, z.transpose(0, 1), self.weight)  # (M, B, K)

    def step(self, z: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient on z (B, M, D) of the heads' cross entropy (batch mean, sum over modalities) and accuracy (M,); then one step. y (B,) or (M, B)."""
        z = z.detach().requires_grad_()
        logits = self._logits(z)
        loss = (
            F.cross_entropy(logits.flatten(0, 1), y.expand(logits.shape[:2]).flatten(), reduction="sum") / y.shape[-1]
        )
        direction, self.weight.grad, self.bias.grad = torch.autograd.grad(loss, (z, self.weight, self.bias))
        self.optimizer.step()
        self.schedule.step()
        return direction, (logits.detach().argmax(2) == y).float().mean(1)

    @torch.no_grad()
    def accuracy(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """z (B, M, D), y (B,) or (M, B) -> accuracy per modality (M,)."""
        return (self._logits(z).argmax(2) == y).float().mean(1)
