"""Which scenes count together, and one interval for all that is paired by scene and seed (no torch).

Simulated scenes of one kind at its default dial are draws of one population: ``sim-sar``, ``sim-sar:1`` and ``sim-sar:2`` make the group
``sim-sar``. Any other scene is a group of its own. Scenes of the imbalance dial (``sim-sar:0:0.4``) are varied on purpose and belong to none.
"""

import numpy as np
import xarray as xr

from .. import metrics
from ..errors import PrsaError


def roles(concat: list[xr.Dataset]) -> dict[str, str]:
    """Modality -> slow, fast or middle, by its mean imbalance factor at the end of runs of concat."""
    names = concat[0]["modality"].values.tolist()
    order = sorted(names, key=lambda m: np.mean([float(run["rho"].sel(modality=m).isel(epoch=-1)) for run in concat]))
    return dict.fromkeys(names, "middle") | {order[-1]: "fast", order[0]: "slow"}


def complete(values: dict[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """The finite values of (scene, seed) -> value, of the seeds that every scene has."""
    values = {key: value for key, value in values.items() if np.isfinite(value)}
    scenes = dict.fromkeys(scene for scene, _ in values)
    return {key: value for key, value in values.items() if all((scene, key[1]) in values for scene in scenes)}


def interval(values: dict[tuple[str, int], float]) -> tuple[float, float, float, int, int]:
    """Mean of (scene, seed) -> value, its 95 % interval, scenes and seeds.

    Several scenes: bootstrap over scenes, then seeds, with a fixed stream; one scene: Student's t over seeds, which speaks of that scene only.
    NaN bounds for one value. Raises `PrsaError` when the scenes do not have the same seeds.
    """
    scenes, seeds = (list(dict.fromkeys(key[i] for key in values)) for i in (0, 1))
    if len(values) != len(scenes) * len(seeds) or not values:
        raise PrsaError(
            f"expected the same seeds for every scene, got {len(values)} values of {len(scenes)} scenes and {len(seeds)} seeds. Run the missing seeds."
        )
    if len(scenes) == 1:
        numbers = metrics.mean_interval(list(values.values()))
    else:
        numbers = metrics.hierarchical_bootstrap(
            [[values[scene, seed] for seed in seeds] for scene in scenes], np.random.default_rng(0)
        )
    return *numbers, len(scenes), len(seeds)
