"""Figures that question data and results: spectra by area, drift between areas, what joint training costs a branch, whether confidence can
be trusted. No torch. All measures here are ours; conventions as in `prsa.figures.plots`.
"""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..data.scene import class_names, modalities
from ..data.splits import TEST, TRAIN
from ..errors import PrsaError
from ..report.diagnostics import pixels_of, probe_accuracy
from .style import (
    MARKERS,
    WIDTH,
    axes,
    class_colours,
    legend_above,
    legend_below,
    method_colour,
    modality_colours,
    panels,
    styled,
)


@styled
def class_spectra(scene: xr.Dataset, split: xr.DataArray) -> Figure:
    """Mean of every class over the bands of the modality with most bands: training pixels left, test pixels right."""
    name = max(modalities(scene), key=lambda m: scene[m].shape[0])
    var, names = scene[name], class_names(scene)
    spectral = "wavelength" in var.coords
    x = var["wavelength"].values if spectral else np.arange(1, var.shape[0] + 1)
    fig, axs = panels(1, 2, 3.1, sharey=True)
    styles = ("-", "--", "-.", ":")
    for ax, part, title in zip(axs[0], (TRAIN, TEST), ("training pixels", "test pixels")):
        for k, colour in enumerate(class_colours(len(names)), 1):
            values = pixels_of(scene, split, name, part, k)
            valid = np.isfinite(values)
            mean = np.divide(
                np.where(valid, values, 0).sum(1), valid.sum(1), out=np.full(len(values), np.nan), where=valid.any(1)
            )
            ax.plot(x, mean, styles[(k - 1) % 4], color=colour)
        ax.set(title=title, xlabel="wavelength (nm)" if spectral else f"{name} band")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    units = str(var.attrs.get("units", "1"))
    what = str(var.attrs.get("long_name", name))
    axs[0, 0].set_ylabel(
        f"{what if len(what) <= 28 else name + ' value'} ({'no unit' if units in ('1', '') else units})"
    )
    legend_below(
        fig,
        [
            Line2D([], [], color=c, linestyle=styles[k % 4], label=n)
            for k, (n, c) in enumerate(zip(names, class_colours(len(names))))
        ],
    )
    return fig


@styled
def drift_plot(drift: pd.DataFrame, ax=None):
    """`area_drift` with one row per modality: a mark per class, a bar at the median."""
    names = list(dict.fromkeys(drift["modality"]))
    classes = drift.drop_duplicates("code").sort_values("code").set_index("code")["class"]
    looks = {
        k: dict(
            marker=MARKERS[(k - 1) % len(MARKERS)],
            color=class_colours(classes.index.max())[k - 1],
            linestyle="",
            markersize=5,
        )
        for k in classes.index
    }
    ax = axes(ax, 0.45 * len(names) + 1.6)
    for y, m in enumerate(names[::-1]):
        part = drift[drift["modality"].eq(m)].set_index("code")["drift"]
        for k, value in part.items():
            ax.plot(value, y + 0.05 * (k % 5 - 2), **looks[k])
        ax.plot([part.median()] * 2, [y - 0.32, y + 0.32], color="#222222", linewidth=2)
    ax.set_yticks(range(len(names)), names[::-1])
    ax.set(
        xlabel="drift from training to test area (sd within the class)", xlim=(0, None), ylim=(-0.5, len(names) - 0.5)
    )
    ax.grid(axis="y", visible=False)
    marks = [Line2D([], [], label=name, **looks[k]) for k, name in classes.items()]
    legend_above(ax, [*marks, Line2D([], [], color="#222222", linewidth=2, label="median")])
    return ax


@styled
def alone_or_joint(joint: xr.Dataset, alone: xr.Dataset) -> Figure:
    """One branch trained alone and inside a joint network: optimisation degree s over epochs, and linear probes on both at the end.

    ``alone``: a run of one modality; ``joint``: a run that holds this modality among others. Raises `PrsaError` otherwise.
    """
    m = str(alone["modality"].values[0])
    if alone.sizes["modality"] != 1 or m not in joint["modality"].values:
        raise PrsaError(
            f"expected a run of one modality and a joint run that holds it, got {alone['modality'].values.tolist()} and "
            f"{joint['modality'].values.tolist()}. Pass the joint run first."
        )
    looks = {
        "alone": (alone, modality_colours([m])[m], "--"),
        "joint": (joint, method_colour(joint.attrs["method"]), "-"),
    }
    fig, axs = panels(1, 2, 2.7)
    for i, (label, (run, colour, style)) in enumerate(looks.items()):
        axs[0, 0].plot(run["epoch"], run["s"].sel(modality=m), style, color=colour)
        height = probe_accuracy(run)[m]
        axs[0, 1].bar(i, height, color=colour, width=0.6)
        axs[0, 1].text(i, height + 1, f"{height:.1f}", ha="center")
    axs[0, 0].set(xlabel="epoch", ylabel="optimisation degree s (0 to 1)", ylim=(0, None), title="while training")
    axs[0, 0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axs[0, 1].set_xticks([0, 1], looks)
    axs[0, 1].set(ylabel="linear probe, test OA (%)", title="after training", ylim=(0, 100))
    axs[0, 1].grid(axis="x", visible=False)
    handles = [
        Line2D(
            [],
            [],
            color=c,
            linestyle=s,
            label=f"{m} {label}" + (f" ({joint.attrs['method']})" if label == "joint" else ""),
        )
        for label, (_, c, s) in looks.items()
    ]
    legend_below(fig, handles)
    return fig


@styled
def probe_gap(table: pd.DataFrame, scene: str | None = None) -> Figure:
    """Linear probes per modality from the imbalance table: a mark per joint method, a dashed line for the branch trained alone."""
    scenes = list(dict.fromkeys(table["scene"]))
    scene = scenes[0] if scene is None and len(scenes) == 1 else scene
    table = table[table["scene"].eq(scene)]
    if table.empty:
        raise PrsaError(
            f"expected one of the table's scenes ({', '.join(scenes) or 'none'}), got {scene!r}. Pass scene=... or run that scene."
        )
    names, methods = list(dict.fromkeys(table["modality"])), list(dict.fromkeys(table["method"]))
    fig, axs = panels(1, len(names), 0.3 * len(methods) + 1.3, max(WIDTH, 1.6 * len(names) + 1.2), sharey=True)
    for ax, m in zip(axs[0], names):
        part = table[table["modality"].eq(m)].set_index("method")
        alone = part["probe_oa_alone"].iloc[0]
        for y, method in enumerate(methods[::-1]):
            joint = part["probe_oa_joint"].get(method, np.nan)
            ax.plot([alone, joint], [y, y], color="#bbbbbb", linewidth=1.2, zorder=1)
            ax.plot(joint, y, "o", color=method_colour(method), markersize=6)
        if np.isfinite(alone):
            ax.axvline(alone, color="#222222", linestyle="--", linewidth=1.2, zorder=1)
        ax.set_yticks(range(len(methods)), methods[::-1])
        ax.set(title=m, xlabel="probe OA (%)", ylim=(-0.5, len(methods) - 0.5))
        ax.margins(x=0.15)
        ax.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        ax.grid(axis="y", visible=False)
    handles = [
        Line2D([], [], linestyle="", marker="o", color="#666666", label="inside the joint network"),
        Line2D([], [], color="#222222", linestyle="--", label="same encoder trained alone"),
    ]
    legend_below(fig, handles, "means over seeds")
    return fig


@styled
def confidence_plot(tables: dict[str, pd.DataFrame], ax=None):
    """Accuracy against confidence, a line per method (method -> `calibration` table); below the diagonal the maps promise too much."""
    ax = axes(ax, 3.6)
    for (method, table), style, marker in zip(
        tables.items(), ("-", "--", "-.", ":") * len(tables), MARKERS * len(tables)
    ):
        ax.plot(
            table["confidence"],
            table["accuracy"],
            style + marker,
            color=method_colour(method),
            markersize=4,
            label=method,
        )
    ax.plot([0, 1], [0, 1], color="#666666", linewidth=0.9, zorder=1)
    ax.set(
        xlabel="confidence: highest probability (0 to 1)",
        ylabel="share of test pixels that are right (0 to 1)",
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
    )
    legend_above(ax, ax.get_lines()[:-1], "the diagonal: confidence equals accuracy")
    return ax
