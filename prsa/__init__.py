"""prsa: a reproducible study of PRSANet and of modality imbalance in multimodal land-cover classification.

Rooms, each looking only at those above it (``tests/test_house.py`` keeps the order):

errors, files, config, metrics  the one exception; folders and whole writes; settings; numbers from counts
data         the scene contract, where scenes come from, splits without leaks, patches
network      encoders, fusion, prototypes, losses, PRSANet; the equations, numbered once
training     the objective, the rule that weights it, the loop
comparators  what PRSANet is compared with: rebalancing rules, published networks, classical classifiers
mapping      a trained network over a whole scene: maps, GeoTIFF, models as files
study        the plan of runs, their execution, evaluation and files
report       run files to tables and claims: no torch
figures      tables and run files to pictures: no torch
course       exercises that check themselves, and their copies
reproduce    the whole study in one command
lab          JupyterLab on a copy of the notebooks, the first picture, slides
cli          the command `prsa`
"""

from importlib import import_module

from .errors import PrsaError

_HOMES = {  # the rooms of the other public names: entered when a name is used, so that `prsa --help` answers at once
    "scene_from_rasters": "data.rasters",
    "open_scene": "data.sources",
    "save_scene": "data.scene",
    "split_scene": "data.splits",
    "fit": "study.fit",
    "predict_map": "mapping",
    "save_model": "mapping",
    "load_model": "mapping",
}
__all__ = ["PrsaError", *_HOMES]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_HOMES})
