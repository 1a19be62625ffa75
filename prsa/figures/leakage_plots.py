"""Figures of the leakage audit (`prsa.report.leakage`): accuracy against the distance to training, and the warning figure. Tables in, figure out."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from ..errors import PrsaError
from .style import WIDTH, axes, legend_below, panels, styled

COLOURS = {"random (leaking)": "#D55E00", "blocks": "#0072B2", "fixed": "#000000"}
MARKERS = {"random (leaking)": "X", "blocks": "o", "fixed": "s"}


def _one(table: pd.DataFrame, scene, method) -> pd.DataFrame:
    part = table[
        (table["scene"] == scene if scene else True)
        & (table["method"] == method if method else True)
        & np.ones(len(table), bool)
    ]
    if part.empty or part[["scene", "method"]].drop_duplicates().shape[0] > 1:
        have = (
            ", ".join(f"{s}/{m}" for s, m in table[["scene", "method"]].drop_duplicates().itertuples(index=False))
            or "none"
        )
        raise PrsaError(
            f"expected the rows of one scene and method, got {have}. Pass scene=... and method=... to choose."
        )
    return part


@styled
def accuracy_against_distance(distances: pd.DataFrame, scene: str | None = None, method: str | None = None, ax=None):
    """OA of the test pixels against their distance to the nearest training pixel, a line per split kind, mean ± sd over seeds.

    The shaded side is where a test window contains a training pixel. ``distances`` is the table of `prsa.report.leakage.by_distance`.
    """
    part = _one(distances, scene, method)
    ax = axes(ax)
    ax.set_xscale("log", base=2)
    for kind, rows in part.groupby("split_kind", sort=True):
        colour = COLOURS.get(kind, "#444444")
        x = rows["nearest"].to_numpy(float)
        ax.errorbar(
            x,
            rows["oa_mean"],
            rows["oa_sd"].fillna(0),
            color=colour,
            marker=MARKERS.get(kind, "D"),
            markersize=4,
            capsize=2,
            linewidth=1.4,
            label=kind,
        )
    edge = float(part["radius"].iloc[0]) + 0.5
    ax.axvspan(0.8, edge, color="#999999", alpha=0.2, linewidth=0)
    last = float(part["nearest"].max())
    ax.set_xlim(0.8, max(1.3 * last, 2 * edge))
    ticks = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if t <= 1.3 * max(last, edge)]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("distance to nearest training pixel")
    ax.set_ylabel("test OA (points)")
    return ax


@styled
def warning(
    table: pd.DataFrame, distances: pd.DataFrame, scene: str | None = None, method: str | None = None
) -> Figure:
    """One network, two splits. Left: test OA per split kind with its sd over seeds; right: the same against the distance to training.

    ``table`` and ``distances`` are those of `prsa.report.leakage.leakage` and `by_distance`.
    """
    part = _one(table, scene, method).sort_values("split_kind", ascending=False)
    fig, axs = panels(1, 2, 2.9, width=1.25 * WIDTH, sharey=True, gridspec_kw={"width_ratios": [1, 2]})
    left, right = axs[0]
    for i, row in enumerate(part.itertuples(index=False)):
        left.bar(i, row.oa_all_mean, 0.62, color=COLOURS.get(row.split_kind, "#444444"))
        left.errorbar(i, row.oa_all_mean, np.nan_to_num(row.oa_all_sd), color="#000000", capsize=3, linewidth=1)
        left.annotate(
            f"{row.oa_all_mean:.1f}",
            (i, row.oa_all_mean + np.nan_to_num(row.oa_all_sd)),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        left.annotate(
            f"{100 * row.share_overlap:.3g} %\nleak",
            (i, 4),
            ha="center",
            va="bottom",
            fontsize=8,
            color="#ffffff",
            fontweight="bold",
        )
    left.set_xticks(range(len(part)), [kind.replace(" ", "\n") for kind in part["split_kind"]])
    left.set_ylim(0, 105)
    left.set_ylabel("test OA (points)")
    left.set_title("all test pixels")
    left.grid(axis="x", visible=False)
    accuracy_against_distance(distances, part["scene"].iloc[0], part["method"].iloc[0], ax=right)
    right.set_ylabel("")
    right.set_title("by distance; grey: window holds training pixels")
    handles, labels = right.get_legend_handles_labels()
    for handle, label in zip(handles, labels):
        handle.set_label(label)
    legend_below(fig, handles)
    return fig
