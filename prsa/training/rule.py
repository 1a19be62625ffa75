"""PRM: the push of every modality's prototype loss, and the hooks by which another rule may balance modalities."""

import torch

from ..config import Config
from ..network.prototypes import push


class Rule:
    """PRM with IIPL, ours: b + beta_m of eq. (14); the base of all other rules (`prsa.comparators.rebalancing`).

    The training loop sets ``progress``, the share of the epochs up to and including the present one, 0 to 1.
    """

    def __init__(self, config: Config):
        self.config, self.progress = config, 0.0

    def keep(self, batch: int, modalities: int, rng: torch.Generator) -> torch.Tensor | None:
        """Factors (B, M) of z on its way into the fusion, drawn on the CPU from ``rng``; None leaves it alone."""
        return None

    def weights(self, s: torch.Tensor) -> torch.Tensor:
        """Push (M,) of the modalities' prototype losses from their smoothed optimisation degrees s (M,)."""
        return self.config.base + (push(s) if self.config.rebalance else torch.zeros_like(s))

    def terms(self, out: dict, y: torch.Tensor, s: torch.Tensor) -> dict[str, torch.Tensor]:
        """L_rule of eq. (16): {"rebalancing": a scalar}, or nothing; ``out``: dict of `PRSANet.classify`, y (B,)."""
        return {}

    def to_encoders(
        self, model, encoded: torch.Tensor, on_z: dict[str, torch.Tensor], y: torch.Tensor, rng: torch.Generator
    ) -> None:
        """Fill ``.grad`` of the encoders. ``encoded`` (B, M, D) carries their graph; ``on_z`` holds the gradient of
        every summand of L on z (B, M, D), under the names of `prsa.training.objective.TERMS`, and of L itself,
        ``total``."""
        encoded.backward(on_z["total"])
