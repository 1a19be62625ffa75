"""What all figures share: fonts, colours by role, figure sizes, legends outside the data, and files without dates.

Colours are colour-blind safe (Okabe and Ito 2008, extended); sizes suit half a page (about 85 mm) and up.
"""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 4.5  # inches; shrunk to half a page (85 mm), 9-point text is 6.7 points
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.5,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
    "pdf.fonttype": 42,
    "svg.hashsalt": "prsa",
}
# Okabe-Ito without black, then colours chosen greedily to keep the smallest CIELAB distance under normal vision, protanopia and deuteranopia.
CLASS_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
    "#3C1E00",
    "#000F87",
    "#5A0F4B",
    "#78FF96",
    "#0069F0",
    "#964B2D",
    "#C3A55A",
    "#695A69",
    "#96D2A5",
    "#3C96FF",
    "#1E3C87",
    "#871E3C",
    "#E1D2FF",
)
METHOD_COLOURS = {
    "late": "#7F7F7F",
    "concat": "#0072B2",
    "pmr": "#882255",
    "concat+prm": "#56B4E9",
    "sagf": "#999933",
    "prsanet": "#D55E00",
}
MODALITY_COLOURS = {
    "hsi": "#009E73",
    "sar": "#CC79A7",
    "lidar": "#E69F00",
    "dsm": "#E69F00",
    "chm": "#E69F00",
    "rgb": "#882255",
}
SPARE_COLOURS = ("#882255", "#44AA99", "#332288", "#E69F00", "#CC79A7", "#009E73", "#661100", "#6699CC")
# family of methods -> colour, marker, label; a late fusion and the single modalities are of the study and share its marker
FAMILIES = {
    "single": ("#44AA99", "o", "one modality"),
    "late": ("#7F7F7F", "o", "late fusion"),
    "study": ("#D55E00", "o", "fusions of the study"),
    "rebalancing": ("#882255", "s", "rebalancing methods"),
    "network": ("#332288", "^", "published networks"),
    "classical": ("#CC9900", "D", "classical classifiers"),
    "other": ("#444444", "v", "other methods"),
}
FUSED_COLOUR = "#000000"
MARKERS = "osD^vP"


def class_colours(n: int) -> list:
    """One colour per class; the first 20 are made to be told apart, more than that falls back to evenly spaced hues."""
    return list(CLASS_COLOURS[:n]) if n <= len(CLASS_COLOURS) else sns.color_palette("husl", n)


def modality_colours(names: Iterable[str]) -> dict[str, str]:
    """Modality -> colour, the sensor's own where it is free, else a spare one; never two alike in one figure."""
    taken: dict[str, str] = {}
    for i, name in enumerate(names):
        choices = [MODALITY_COLOURS.get(name), *SPARE_COLOURS, f"C{i}"]
        taken[name] = next(c for c in choices if c and c not in taken.values())
    return taken


def method_colour(method: str) -> str:
    """The method's fixed colour; ablations and unknown methods are dark grey, because the axis names them."""
    return METHOD_COLOURS.get(method, "#444444")


def family_handles(families: Iterable[str]) -> list[Line2D]:
    """Legend entries of the families that occur, in the order of `FAMILIES`."""
    there = set(families)
    return [
        Line2D([], [], linestyle="", marker=marker, color=c, label=label)
        for name, (c, marker, label) in FAMILIES.items()
        if name in there
    ]


def styled(draw: Callable) -> Callable:
    """Run a figure function under `STYLE` without changing the caller's settings."""

    @functools.wraps(draw)
    def inner(*args, **kwargs):
        with plt.rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def save(figure, stem) -> list[Path]:
    """Write ``stem``.png (150 dpi) and ``stem``.pdf, all or nothing and without dates, from a figure or one of its axes; returns both paths."""
    figure = figure if isinstance(figure, Figure) else figure.figure
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (
        ("png", {"Software": None}),
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
    ):
        path = stem.parent / f"{stem.name}.{kind}"
        handle, name = tempfile.mkstemp(dir=stem.parent, prefix=".", suffix=".tmp")
        os.close(handle)
        try:
            with plt.rc_context(STYLE):
                figure.savefig(name, format=kind, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
            os.chmod(name, 0o644)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
        paths.append(path)
    return paths


def panels(rows: int, cols: int, height: float, width: float = WIDTH, layout: str = "constrained", **options):
    """A figure and its axes as a 2-d array; ``layout`` "compressed" for panels of fixed aspect."""
    return plt.subplots(rows, cols, figsize=(width, height), layout=layout, squeeze=False, **options)


def axes(ax, height: float = 3.2, layout: str = "constrained"):
    """The axes given, or the only one of a new figure."""
    return panels(1, 1, height, layout=layout)[1][0, 0] if ax is None else ax


def columns(labels, width: float = WIDTH) -> int:
    """How many legend columns of 8-point text fit in a width in inches."""
    longest = max((len(str(label)) for label in labels), default=1)
    return max(1, min(len(labels), int((width - 0.2) / (0.055 * longest + 0.42))))


def legend_below(fig, handles, title=None):
    """The one legend of a figure, below all panels."""
    labels = [h.get_label() for h in handles]
    return fig.legend(
        handles, labels, loc="outside lower center", ncols=columns(labels, fig.get_figwidth()), title=title
    )


def legend_above(ax, handles, title=None):
    """The one legend of an axes, above it."""
    labels = [h.get_label() for h in handles]
    width = ax.get_position().width * ax.figure.get_figwidth() + 0.6
    return ax.legend(
        handles,
        labels,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.01),
        ncols=columns(labels, width),
        title=title,
        borderaxespad=0.2,
    )


def error_lengths(middle, low, high):
    """Lengths of error bars (2, n); None when there are none at all (one seed), so that no empty caps are drawn."""
    lengths = np.array([middle - low, high - middle], dtype=float)
    return lengths if np.isfinite(lengths).any() else None
