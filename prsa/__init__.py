"""prsa: a reproducible study of PRSANet and of modality imbalance in multimodal land-cover classification.

Rooms, each looking only at those above it (``tests/test_house.py`` keeps the order):

errors, files, config, metrics  the one exception; folders and whole writes; settings; numbers from counts
data         the scene contract, where scenes come from, splits without leaks, patches
network      encoders, fusion, prototypes, losses, PRSANet; the equations, numbered once
training     the objective, the rule that weights it, the loop
comparators  what PRSANet is compared with: rebalancing rules, published networks, classical classifiers
mapping      a trained network over a whole scene
study        the plan of runs, their execution, evaluation and files
report       run files to tables and claims: no torch
figures      tables and run files to pictures: no torch
reproduce    the whole study in one command
"""

from .data.scene import save_scene
from .data.sources import open_scene
from .data.splits import split_scene
from .errors import PrsaError

__all__ = ["PrsaError", "fit", "open_scene", "predict_map", "save_scene", "split_scene"]


def __getattr__(name):
    """`fit` and `predict_map` load torch only when they are used: tables and figures do without it."""
    if name == "fit":
        from .study.fit import fit

        return fit
    if name == "predict_map":
        from .mapping import predict_map

        return predict_map
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
