"""Figures of whole scenes: what the sensors see, the labels and the split, and what a run made of them (no torch)."""

import numpy as np
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .. import metrics
from ..data.leakage import kind_label
from ..data.scene import class_names, modalities
from .style import WIDTH, class_colours, legend_below, panels, styled

NONE_COLOUR = "#F4F4F4"  # unlabelled or without data
SPLIT = {
    "train": "#303030",
    "validation": "#7C7C7C",
    "test": "#BDBDBD",
}  # codes 1, 2, 3; greys, because no class is grey
VERDICT = {"right": "#C8C8C8", "wrong": "#000000"}
FALSE_COLOUR = (840.0, 660.0, 560.0)  # nm shown as red, green, blue: vegetation turns red
HEIGHT_WORDS = ("lidar", "dsm", "dtm", "chm", "height")


def _stretch(bands: np.ndarray) -> np.ndarray:
    """Bands (3, y, x) -> picture (y, x, 3), each stretched between its 2nd and 98th percentile; no-data becomes `NONE_COLOUR`."""
    low, high = np.nanpercentile(bands, [2, 98], axis=(1, 2), keepdims=True)
    picture = np.clip((bands - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.where(np.isfinite(bands).all(0), picture, int(NONE_COLOUR[1:3], 16) / 255).transpose(1, 2, 0)


def _decibel(var: xr.DataArray) -> np.ndarray:
    """Backscatter in dB: as it is if the units say so or if it has negative values, else 10 log10."""
    values = var.values.astype(float)
    if "db" in str(var.attrs.get("units", "")).lower() or np.nanmin(values) < 0:
        return values
    return 10 * np.log10(np.maximum(values, 1e-10))


def _wavelengths(var: xr.DataArray):
    return var["wavelength"].values.astype(float) if "wavelength" in var.coords else None


def picture(scene: xr.Dataset, modality: str) -> tuple[np.ndarray, str, str]:
    """A modality as a picture: (y, x, 3) composite or (y, x) single band; title; colour bar label ("" for composites)."""
    var = scene[modality]
    kind, units = str(var.attrs.get("kind", "")), str(var.attrs.get("units", "1"))
    bands = var.values.astype(float)
    if kind == "sar":
        bands = _decibel(var)
        if len(bands) == 1:
            return bands[0], modality, "backscatter (dB)"
        if len(bands) == 2:
            return _stretch(np.stack([bands[0], bands[1], bands[0] - bands[1]])), f"{modality}: 1, 2, ratio (dB)", ""
        return _stretch(bands[:3]), f"{modality}: bands 1 to 3 (dB)", ""
    if len(bands) < 3 or kind in ("dsm", "lidar"):
        quantity = (
            "height"
            if kind in ("dsm", "lidar") or any(word in modality.lower() for word in HEIGHT_WORDS)
            else str(var.attrs.get("long_name", "value"))
        )
        return bands[0], modality, f"{quantity} ({'no unit' if units in ('1', '') else units})"
    if kind == "rgb":
        return _stretch(bands[:3]), f"{modality}: true colour", ""
    waves = _wavelengths(var)
    if waves is not None:
        chosen = [int(np.argmin(np.abs(waves - w))) for w in FALSE_COLOUR]
        return _stretch(bands[chosen]), f"{modality}: " + ", ".join(f"{waves[i]:.0f}" for i in chosen) + " nm", ""
    chosen = [int(share * (len(bands) - 1)) for share in (0.75, 0.45, 0.2)]
    return _stretch(bands[chosen]), f"{modality}: bands " + ", ".join(str(i + 1) for i in chosen), ""


def _codes(ax, values, colours, title):
    """Integer raster (y, x) with 0 = `NONE_COLOUR` and code k in ``colours[k - 1]``."""
    ax.imshow(
        values,
        cmap=ListedColormap([NONE_COLOUR, *colours]),
        vmin=-0.5,
        vmax=len(colours) + 0.5,
        interpolation="nearest",
    )
    ax.set_title(title)


def _band(fig, ax, values, title, label, **options):
    image = ax.imshow(np.ma.masked_invalid(values), interpolation="nearest", **options)
    ax.set_facecolor(NONE_COLOUR)
    ax.set_title(title)
    fig.colorbar(image, ax=ax, label=label, shrink=0.85, pad=0.02)


def _grid(count: int, shape: tuple[int, int], entries: int):
    """Figure and ``count`` image axes: wide scenes are stacked, others stand in two columns; room for a legend below."""
    aspect = shape[1] / shape[0]
    cols = 1 if aspect > 2.2 else 2
    rows = -(-count // cols)
    height = rows * (0.86 * WIDTH / cols / aspect + 0.42) + 0.17 * -(-entries // 2) + 0.2
    fig, axs = panels(rows, cols, min(height, 10.0), layout="compressed")
    for i, ax in enumerate(axs.flat):
        if i >= count:
            ax.set_axis_off()
        ax.grid(False)
        ax.locator_params(nbins=4)
        below, left = i + cols >= count, i % cols == 0
        ax.tick_params(labelbottom=below, labelleft=left)
        ax.set(xlabel="column (pixels)" if below else "", ylabel="row (pixels)" if left else "")
    return fig, list(axs.flat[:count])


def _class_patches(names):
    return [
        Patch(facecolor=c, edgecolor="#888888", linewidth=0.4, label=n)
        for n, c in zip(names, class_colours(len(names)))
    ]


@styled
def scene_gallery(scene: xr.Dataset, split: xr.DataArray) -> Figure:
    """Every modality, the labels and the split of a scene, with one legend of classes and parts (labelled pixels of each)."""
    names, sensors = class_names(scene), modalities(scene)
    fig, axs = _grid(len(sensors) + 2, scene["label"].shape, len(names) + 3)
    for ax, m in zip(axs, sensors):
        values, title, bar = picture(scene, m)
        if bar:
            _band(fig, ax, values, title, bar, cmap="gray" if "dB" in bar else "cividis")
        else:
            ax.imshow(values, interpolation="nearest")
            ax.set_title(title)
    _codes(axs[-2], scene["label"].values, class_colours(len(names)), "labels")
    _codes(axs[-1], split.values, SPLIT.values(), f"split ({kind_label(split.attrs.get('kind', 'given'))})")
    parts = [
        Patch(facecolor=c, edgecolor="#888888", linewidth=0.4, label=f"{part}: {int((split == code).sum()):,} px")
        for code, (part, c) in enumerate(SPLIT.items(), 1)
    ]
    legend_below(fig, _class_patches(names) + parts)
    return fig


@styled
def maps_panel(scene: xr.Dataset, run: xr.Dataset, split: xr.DataArray | None = None) -> Figure:
    """Ground truth, classification, errors and confidence of a run; with ``split`` the errors are those on test pixels only."""
    names, truth, land = class_names(scene), scene["label"].values, run["map"].values
    shown = truth > 0 if split is None else (split.values == 3) & (truth > 0)
    oa = metrics.points(metrics.oa(metrics.confusion(truth[shown], land[shown], len(names))))
    fig, axs = _grid(4, truth.shape, len(names) + 2)
    _codes(axs[0], truth, class_colours(len(names)), "ground truth")
    _codes(axs[1], land, class_colours(len(names)), f"{run.attrs['method']}, seed {run.attrs['seed']}")
    where = "labelled" if split is None else "test"
    _codes(axs[2], np.where(shown, 1 + (land != truth), 0), VERDICT.values(), f"errors, {where} pixels (OA {oa:.1f} %)")
    _band(fig, axs[3], run["confidence"].values, "confidence", "probability (0 to 1)", cmap="cividis", vmin=0, vmax=1)
    verdict = [Patch(facecolor=c, edgecolor="#888888", linewidth=0.4, label=n) for n, c in VERDICT.items()]
    legend_below(fig, _class_patches(names) + verdict)
    return fig
