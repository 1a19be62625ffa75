"""From a trained network to a land-cover map."""

from .passes import predict_map, scene_features, visit_logits

__all__ = ["predict_map", "scene_features", "visit_logits"]
