"""Figures of whole scenes: what the sensors see, the labels and the split, and what a run made of them."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from .. import metrics
from ..data.leakage import kind_label
from ..data.scene import class_names, modalities
from ..data.splits import TEST, TRAIN
from ..report.diagnostics import pixels_of
from .shapes import band, codes
from .style import NONE_COLOUR, WIDTH, class_colours, class_looks, legend_below, panels, styled

SPLIT = {"train": "#2D0A4E", "validation": "#8A4FBF", "test": "#D9C3EE"}  # codes 1, 2, 3; violet, because no class is
VERDICT = {"right": "#D9C3EE", "wrong": "#000000"}
FALSE_COLOUR = (840.0, 660.0, 560.0)  # nm shown as red, green, blue: vegetation turns red
HEIGHT = ("lidar", "dsm", "dtm", "chm", "dem", "height")


def _composite(bands: np.ndarray) -> np.ndarray:
    """Bands (3, y, x) -> (y, x, 3), stretched between their 2nd and 98th percentile; no-data becomes `NONE_COLOUR`."""
    low, high = np.nanpercentile(bands, [2, 98], axis=(1, 2), keepdims=True)
    image = np.clip((bands - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.where(np.isfinite(bands).all(0), image, int(NONE_COLOUR[1:3], 16) / 255).transpose(1, 2, 0)


def picture(scene: xr.Dataset, modality: str) -> tuple[np.ndarray, str, str]:
    """A modality as a picture: (y, x, 3) composite or (y, x) band; title; label of its colour bar (composites: "")."""
    var = scene[modality]
    kind, units = str(var.attrs.get("kind", "")), str(var.attrs.get("units", "1"))
    bands = var.values.astype(float)
    if kind == "sar":
        if "db" not in units.lower() and np.nanmin(bands) >= 0:
            bands = 10 * np.log10(np.maximum(bands, 1e-10))
        if len(bands) == 1:
            return bands[0], modality, "backscatter (dB)"
        three, words = (bands[:3], "3") if len(bands) > 2 else (np.stack([*bands, bands[0] - bands[1]]), "ratio")
        return _composite(three), f"{modality}: 1, 2, {words} (dB)", ""
    if len(bands) < 3 or kind in ("dsm", "lidar"):
        high = kind in ("dsm", "lidar") or any(word in modality.lower() for word in HEIGHT)
        what = "height" if high else str(var.attrs.get("long_name", "value"))
        return bands[0], modality, f"{what} ({'no unit' if units in ('1', '') else units})"
    if kind == "rgb":
        return _composite(bands[:3]), f"{modality}: true colour", ""
    if "wavelength" in var.coords:
        waves = var["wavelength"].values.astype(float)
        chosen = [int(np.argmin(np.abs(waves - w))) for w in FALSE_COLOUR]
        return _composite(bands[chosen]), f"{modality}: " + ", ".join(f"{waves[i]:.0f}" for i in chosen) + " nm", ""
    chosen = [int(share * (len(bands) - 1)) for share in (0.75, 0.45, 0.2)]
    return _composite(bands[chosen]), f"{modality}: bands " + ", ".join(str(i + 1) for i in chosen), ""


def _frames(count: int, shape: tuple[int, int], entries: int):
    """Figure and ``count`` image axes: wide scenes one below another, others in two columns; room for a legend."""
    aspect = shape[1] / shape[0]
    cols = 1 if aspect > 2.2 else 2
    lines = -(-count // cols)
    height = lines * (0.86 * WIDTH / cols / aspect + 0.42) + 0.17 * -(-entries // 2) + 0.2
    figure, axes = panels(lines, cols, min(height, 10.0), layout="compressed")
    for i, ax in enumerate(axes.flat):
        ax.set_axis_on() if i < count else ax.set_axis_off()
        ax.grid(visible=False)
        ax.locator_params(nbins=4)
        below, left = i + cols >= count, i % cols == 0
        ax.tick_params(labelbottom=below, labelleft=left)
        ax.set(xlabel="column (pixels)" if below else "", ylabel="row (pixels)" if left else "")
    return figure, list(axes.flat[:count])


def _patches(colours: dict[str, str]) -> list[Patch]:
    return [Patch(facecolor=c, edgecolor="#888888", linewidth=0.4, label=name) for name, c in colours.items()]


@styled
def scene_gallery(scene: xr.Dataset, split: xr.DataArray) -> Figure:
    """Every modality, the labels and the split of a scene, with the labelled pixels of each part."""
    names, sensors = class_names(scene), modalities(scene)
    figure, axes = _frames(len(sensors) + 2, scene["label"].shape, len(names) + 3)
    for ax, m in zip(axes, sensors):
        values, title, bar = picture(scene, m)
        if bar:
            band(ax, values, title, bar, cmap="gray" if "dB" in bar else "cividis")
        else:
            ax.imshow(values, interpolation="nearest")
            ax.set_title(title)
    codes(axes[-2], scene["label"].values, class_colours(names), "labels")
    codes(axes[-1], split.values, list(SPLIT.values()), f"split ({kind_label(split.attrs.get('kind', 'given'))})")
    parts = {f"{part}: {int((split == k).sum()):,} px": c for k, (part, c) in enumerate(SPLIT.items(), 1)}
    legend_below(figure, _patches(dict(zip(names, class_colours(names))) | parts))
    return figure


@styled
def maps_panel(scene: xr.Dataset, run: xr.Dataset, split: xr.DataArray | None = None) -> Figure:
    """Ground truth, classification, errors and confidence of a run; with a split, errors on test pixels only."""
    names, truth, land = class_names(scene), scene["label"].values, run["map"].values
    shown = truth > 0 if split is None else (split.values == TEST) & (truth > 0)
    oa = metrics.points(metrics.oa(metrics.confusion(truth[shown], land[shown], len(names))))
    figure, axes = _frames(4, truth.shape, len(names) + 2)
    codes(axes[0], truth, class_colours(names), "ground truth")
    codes(axes[1], land, class_colours(names), f"{run.attrs['method']}, seed {run.attrs['seed']}")
    where = "labelled" if split is None else "test"
    wrong = np.where(shown, 1 + (land != truth), 0)
    codes(axes[2], wrong, list(VERDICT.values()), f"errors, {where} pixels (OA {oa:.1f} %)")
    band(axes[3], run["confidence"].values, "confidence", "probability (0 to 1)", cmap="cividis", vmin=0, vmax=1)
    legend_below(figure, _patches(dict(zip(names, class_colours(names))) | VERDICT))
    return figure


@styled
def class_spectra(scene: xr.Dataset, split: xr.DataArray) -> Figure:
    """Mean of every class over the bands of the modality with most bands, in the training and in the test area."""
    name = max(modalities(scene), key=lambda m: scene[m].shape[0])
    var, looks = scene[name], class_looks(class_names(scene))
    spectral = "wavelength" in var.coords
    x = var["wavelength"].values if spectral else np.arange(1, var.shape[0] + 1)
    figure, axes = panels(1, 2, 3.4, 6.5, sharey=True)
    for ax, part, title in zip(axes[0], (TRAIN, TEST), ("training pixels", "test pixels")):
        for k, look in enumerate(looks.values(), 1):
            values = np.ma.masked_invalid(pixels_of(scene, split, name, part, k))
            ax.plot(x, values.mean(1).filled(np.nan), markevery=(2 * k, max(1, len(x) // 4)), **look)
        ax.set(title=title, xlabel="wavelength (nm)" if spectral else f"{name} band")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    units, what = str(var.attrs.get("units", "1")), str(var.attrs.get("long_name", name))
    what = what if len(what) <= 28 else f"{name} value"
    axes[0, 0].set_ylabel(f"{what} ({'no unit' if units in ('1', '') else units})")
    legend_below(figure, looks)
    return figure
