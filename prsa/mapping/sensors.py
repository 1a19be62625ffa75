"""Whether a scene comes from the sensors that a model learnt from, band by band, and in the same unit."""

import math
import warnings

import numpy as np

from ..errors import PrsaError
from .windows import Block, Source

SAMPLE, FEW = 4096, 100  # pixels of a block whose values are looked at, and how many say something
FAR, FLAT = 30, 0.05  # training deviations: values farther away, or all of them nearer together, are in another unit


def check_model(model) -> None:
    """Raise `PrsaError` for anything else than a trained model."""
    if not hasattr(model, "modalities") or not hasattr(model, "classes"):
        raise PrsaError(
            f"expected a model, as prsa.fit or prsa.load_model returns it, got {type(model).__name__}. "
            "Fix: fit returns two things: run, model = prsa.fit(scene); of a file: model = prsa.load_model(path)."
        )


def check_sensors(model, source: Source) -> None:
    """Raise `PrsaError` when modalities, bands, their names or their wavelengths are not those the model learnt from.

    Names and wavelengths are compared where both sides know them.
    """
    wanted = {m: source.sizes.get(f"{m}_band") for m in model.modalities}
    if wanted != model.bands:
        found = {str(d).removesuffix("_band"): n for d, n in source.sizes.items() if str(d).endswith("_band")}
        raise PrsaError(
            f"expected modalities and bands {model.bands}, got {found} in the scene. "
            "Use a scene of the sensors the model was trained on."
        )
    known = getattr(model, "card", {"modalities": {}})["modalities"]
    for m, told in known.items():
        names, here = told["names"], source.names(m)
        if names and here and names != here and sorted(names) == sorted(here):
            _refuse_order(m, [here.index(name) for name in names], f"{here[:6]} ...", f"{names[:6]} ...")
        if told["wavelength_nm"] and (found := source.wavelengths(m)):
            _check_wavelengths(m, np.array(told["wavelength_nm"]), np.array(found))


def _check_wavelengths(m: str, wanted: np.ndarray, found: np.ndarray) -> None:
    """Band by band: within 2 %, and nearer than halfway to the next band of the model."""
    between = np.abs(wanted[:, None] - wanted)
    np.fill_diagonal(between, np.inf)
    near = np.minimum(0.02 * wanted, between.min(1) / 2)
    wrong = np.flatnonzero(np.abs(found - wanted) > near)
    if not wrong.size:
        return
    texts = (" ".join(f"{nm:.0f}" for nm in some[:6]) + " ... nm" for some in (found, wanted))
    order = np.abs(wanted[:, None] - found).argmin(1)
    if len(set(order)) == len(order) and (np.abs(found[order] - wanted) <= near).all():
        _refuse_order(m, order.tolist(), *texts)
    i = wrong[0]
    raise PrsaError(
        f"{m}: expected the wavelengths the model was trained on, got others in {len(wrong)} of {len(wanted)} bands, "
        f"first {found[i]:.1f} nm instead of {wanted[i]:.1f} nm in band {i + 1}. Likely causes: another sensor, or "
        "other bands of it. Fix: give the model's bands, or train on this sensor."
    )


def _refuse_order(m: str, order: list[int], found: str, wanted: str) -> None:
    raise PrsaError(
        f"{m}: expected bands in the model's order ({wanted}), got the same in another ({found}). "
        f"Fix: scene = scene.isel({m}_band={order if len(order) <= 40 else 'their order'}); of rasters: rio stack "
        f"--bidx {','.join(str(i + 1) for i in order) if len(order) <= 40 else '...'}."
    )


class Values:
    """The values that a map is made from, followed block by block: are they in the unit that the model learnt?"""

    def __init__(self, model):
        known = getattr(model, "card", {"modalities": {}})["modalities"]
        self.known = {m: np.array([told["mean"], told["std"]]) for m, told in known.items() if "mean" in told}
        self.seen: dict[str, list] = {m: [] for m in self.known}

    def look(self, block: Block) -> None:
        """Take some pixels of a block into account."""
        for m, (mean, std) in self.known.items():
            step = max(1, math.isqrt(block.values[m][0].size // SAMPLE))
            sample = block.values[m][:, ::step, ::step].reshape(len(mean), -1)
            sample = (sample[:, np.isfinite(sample).all(0)].T - mean) / std  # (pixels, bands), in training deviations
            if len(sample) >= FEW:
                self.seen[m].append([sample.min(0), np.median(sample, 0), sample.max(0)])

    def warn(self) -> None:
        """Warn of a modality whose values are far from those of the training pixels, or all nearly one value."""
        for m, seen in self.seen.items():
            if not seen:
                continue
            low, middle, high = (take(part, 0) for take, part in zip((np.min, np.median, np.max), zip(*seen)))
            away, spread = np.median(np.abs(middle)), np.median(high - low)
            if away > FAR or (spread < FLAT and len(low) > 1):  # a single band may be flat: the height of a plain
                warnings.warn(
                    f"{m}: values lie {away:.2g} standard deviations from those the model was trained on, and spread "
                    f"over {spread:.2g}. Likely cause: another unit (reflectance 0 to 1 or 0 to 10,000, decibels or "
                    f"power); then the map is of no use. Check: model.card['modalities'][{m!r}]['mean'].",
                    stacklevel=3,
                )
