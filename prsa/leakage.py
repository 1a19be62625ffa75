"""The former place of `prsa.data.leakage`, kept for scripts that import it from here."""

from .data.leakage import audit, distance_to_training, kind_label

__all__ = ["audit", "distance_to_training", "kind_label"]
