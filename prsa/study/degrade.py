"""Accuracy of a trained network when a modality is degraded or missing at test time, without training again (ours).

The dominant modality is the hyperspectral one, or the first if there is none. It is put under a cloud, gets noise or
loses bands; and every modality goes missing once. A degradation changes the normalised bands of a pixel once, for all
windows that hold it, and leaves no-data as it is. What is random comes from a stream of scene and degradation, so that
all methods and seeds of a scene see the same pixels degraded alike, and a stronger degradation goes further along the
same draw. The strengths are those of `prsa.study.runs.STRENGTHS`.
"""

import numpy as np
import torch
import xarray as xr

from .. import metrics
from ..data.patches import PatchSource
from ..data.splits import TEST, evenly
from ..errors import PrsaError
from ..network.base import stream_seed
from ..network.prsanet import PRSANet
from .overlap import Windows
from .runs import BANDS, CLEAN, CLOUD, MISSING, NOISE, STRENGTHS

PIXELS = 2000  # test pixels at most
MIDDLE = 700.0  # nm, in the place of a wavelength where the scene states none


def dominant(scene: xr.Dataset, names: list[str]) -> str:
    """The first of these modalities of kind hyperspectral, or else the first."""
    return next((m for m in names if scene[m].attrs.get("kind") == "hyperspectral"), names[0])


def direct_share(scene: xr.Dataset, name: str) -> torch.Tensor:
    """Share (C,) of the light on flat ground in the sun that a cloud can take.

    It is 1 minus the blue-rich light of the sky, as in `prsa.data.simulate`, by the coordinate ``wavelength`` (nm) of
    the bands; one share for all bands where there is none.
    """
    wavelength = np.full(scene[name].shape[0], MIDDLE)
    if "wavelength" in scene.coords and scene["wavelength"].dims == (f"{name}_band",):
        wavelength = scene["wavelength"].values.astype(float)
    return torch.as_tensor(0.92 - 0.20 * (wavelength / 450) ** -3.0, dtype=torch.float32)


def degradations(scene: xr.Dataset, name: str, table: torch.Tensor, mean: torch.Tensor, std: torch.Tensor):
    """Yield the name of every degradation of the dominant modality ``name`` and its normalised bands (n, C).

    ``table`` (n, C): the clean ones; mean, std (C,): of the normalisation. No-data, 0, stays. `MISSING` is not among
    them.
    """

    def stream(degradation: str) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(0, scene.attrs["name"], degradation))

    direct = direct_share(scene, name).to(table.device)
    draw = torch.randn(table.shape, generator=stream(NOISE)).to(table.device)
    order = torch.randperm(table.shape[1], generator=stream(BANDS)).to(table.device)
    change = {
        CLOUD: lambda depth: ((table * std + mean) * (1 - depth * direct) - mean) / std,  # of the reflectance
        NOISE: lambda sd: table + sd * draw,
        BANDS: lambda share: table.index_fill(1, order[: round(share * len(order))], 0),
    }
    for degradation, strengths in STRENGTHS.items():
        for strength in strengths:
            yield f"{name} {degradation} {strength:g}", torch.where(table == 0, table, change[degradation](strength))


@torch.inference_mode()
def degraded_counts(model: PRSANet, scene: xr.Dataset, split: xr.DataArray) -> tuple[list[str], np.ndarray]:
    """Names of the conditions ("none", "hsi noise 0.5", ...) and the fused head's counts (condition, K, K) under each.

    On `PIXELS` test pixels at most, evenly spaced. Only the degraded modality is encoded again. Raises `PrsaError`
    without test pixels.
    """
    model.eval()
    test = evenly(np.flatnonzero(split.values.ravel() == TEST), PIXELS)
    if not len(test):
        raise PrsaError(
            "expected test pixels (code 3) in the split, got none. Use a split with a test part, for example from "
            "split_scene."
        )
    truth = scene["label"].values.ravel()[test]
    statistics = model.statistics()
    device = next(model.parameters()).device
    moments = {m: tuple(s.cpu() for s in pair) for m, pair in statistics.items()}
    source = PatchSource(scene, model.sides, moments, test, device)
    encoders = {
        m: Windows(model.encoders[m], source.rows[m].view(len(test), side, side)) for m, side in model.sides.items()
    }
    clean = {m: encoder(source.tables[m]) for m, encoder in encoders.items()}

    def counts(changed: dict[str, torch.Tensor]) -> np.ndarray:
        z = torch.stack([(clean | changed)[m] for m in model.modalities], dim=1)  # (n, M, D)
        return metrics.confusion(truth, model.classify(z)["logits"].argmax(1).cpu().numpy() + 1, len(model.classes))

    found = {CLEAN: counts({})}
    worst = dominant(scene, model.modalities)
    for condition, table in degradations(scene, worst, source.tables[worst], *statistics[worst]):
        found[condition] = counts({worst: encoders[worst](table)})
    for m, side in model.sides.items():
        nothing = source.tables[m].new_zeros(1, model.bands[m], side, side)  # one window stands for all
        found[f"{m} {MISSING}"] = counts({m: model.encoders[m](nothing).flatten(1).expand_as(clean[m])})
    return list(found), np.stack(list(found.values()))
