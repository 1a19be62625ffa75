"""PRM: the weight of every modality's prototype loss, and the hooks through which another rule may balance the modalities."""

import torch

from ..config import Config
from ..network.prototypes import push


class Rule:
    """PRM with IIPL, METHOD 3 and 4 (ours): the weight of every modality's prototype loss; the base of all other rules.

    ``progress`` is the share of the epochs up to and including the present one, 0 to 1, and ``history`` the records of the finished ones; the
    training loop sets both. ``together``: several seeds may be trained as one batched network (`prsa.ensemble`). A rule with a
    ``to_encoders`` of its own is left out unless it says otherwise; one that reads ``history`` or keeps tensors between calls says False itself.
    """

    together = True

    def __init_subclass__(cls):
        if "to_encoders" in vars(cls) and "together" not in vars(cls):
            cls.together = False

    def __init__(self, config: Config):
        self.config, self.progress, self.history = config, 0.0, []

    def keep(self, batch: int, modalities: int, rng: torch.Generator) -> torch.Tensor | None:
        """Factors (B, M) of the features z on their way into the fusion, drawn on the CPU from ``rng``; None leaves them alone."""
        return None

    def weights(self, s: torch.Tensor) -> torch.Tensor:
        """Weights (M,) of the modalities' prototype losses from the smoothed optimisation degrees s (M,): b + beta_m."""
        return self.config.base + (push(s) if self.config.rebalance else torch.zeros_like(s))

    def terms(self, out: dict, y: torch.Tensor, s: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further loss terms, scalars that may be named ``rebalancing`` only; ``out`` is the dict of `PRSANet.classify`, y (B,)."""
        return {}

    def to_encoders(
        self, model, encoded: torch.Tensor, on_z: dict[str, torch.Tensor], y: torch.Tensor, rng: torch.Generator
    ) -> None:
        """Fill ``.grad`` of the encoders. ``encoded`` (B, M, D) carries their graph; ``on_z`` holds the gradient of every loss term on z
        (B, M, D) and their sum ``total``, the gradient that is propagated here."""
        encoded.backward(on_z["total"])
