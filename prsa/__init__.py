"""prsa: a reproducible study of PRSANet and of modality imbalance in multimodal land-cover classification."""

from .errors import PrsaError
from .scene import open_scene, save_scene
from .splits import split_scene

__all__ = ["PrsaError", "fit", "open_scene", "predict_map", "save_scene", "split_scene"]


def __getattr__(name):
    """`fit` and `predict_map` load torch only when they are used: tables and figures do without it."""
    if name == "fit":
        from .train import fit

        return fit
    if name == "predict_map":
        from .predict import predict_map

        return predict_map
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
