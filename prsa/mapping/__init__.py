"""A trained network over a whole scene, from memory or from disk, and the network as a file.

windows   what a map is made from: a scene, or rasters on disk, in blocks that are cut into tiles with a halo
passes    the fast pass of a PRSANet over a tile, equal to its patch pass
sensors   whether the bands of a scene are those of a model
predict   `predict_map`: any model over a scene in memory; `map_parts`: part by part, whatever the size
saved     `save_model`, `load_model`: safetensors and a JSON header, no pickle
geotiff   `land_cover`: the map as a cloud-optimised GeoTIFF with names and colours
area      hectares per class, and what the test pixels say of them (Olofsson et al. 2014)
"""

from .geotiff import land_cover
from .passes import scene_features
from .predict import predict_map
from .saved import load_model, model_card, save_model

__all__ = ["land_cover", "load_model", "model_card", "predict_map", "save_model", "scene_features"]
