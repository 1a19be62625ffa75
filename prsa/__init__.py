"""prsa: a reproducible study of PRSANet and of modality imbalance in multimodal land-cover classification."""

from .errors import PrsaError
from .predict import predict_map
from .scene import open_scene, save_scene
from .splits import split_scene
from .train import fit

__all__ = ["PrsaError", "fit", "open_scene", "predict_map", "save_scene", "split_scene"]
