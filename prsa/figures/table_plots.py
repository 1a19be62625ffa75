"""One function per figure of a table: accuracy, ranks, ablation, sensitivity (`prsa.report.tables` in, figure out; no torch).

A function that needs one axes takes ``ax`` (None: a new figure) and returns it; one that needs several returns the figure.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..errors import PrsaError
from ..report import ranking
from .style import (
    FAMILIES,
    METHOD_COLOURS,
    WIDTH,
    axes,
    error_lengths,
    family_handles,
    legend_below,
    method_colour,
    panels,
    styled,
)


def _rows(table: pd.DataFrame, scene: str | None) -> pd.DataFrame:
    """The rows of one scene; raises `PrsaError` if that is not exactly one known scene."""
    scenes = list(dict.fromkeys(table["scene"]))
    scene = scenes[0] if scene is None and len(scenes) == 1 else scene
    if scene not in scenes:
        raise PrsaError(
            f"expected one of the table's scenes ({', '.join(scenes) or 'none'}), got {scene!r}. Pass scene=... or run that scene."
        )
    return table[table["scene"].eq(scene)].reset_index(drop=True)


def _horizontal(ax, table, label, value, low, high, colours, markers=None):
    """One row per method from top to bottom, with error bars where they exist; bars from 0 without ``markers``."""
    place = np.arange(len(table))[::-1]
    middle = table[value].to_numpy(float)
    spread = np.array([middle - low, high - middle], dtype=float)
    if markers is None:
        ax.barh(place, middle, color=colours, height=0.62)
    for y, x, e, c, marker in zip(place, middle, spread.T, colours, markers or ["none"] * len(table)):
        whole = e[:, None] if np.isfinite(e).all() else None
        ax.errorbar(
            x,
            y,
            xerr=whole,
            fmt=marker,
            color="#222222" if markers is None else c,
            capsize=3,
            linewidth=1.3,
            markersize=5,
        )
    ax.set_yticks(place, table[label])
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(6))


def _by_family(ax, table, value, low, high):
    """`_horizontal` of methods with the colour and marker of their family."""
    _horizontal(
        ax,
        table,
        "method",
        value,
        low,
        high,
        [FAMILIES[f][0] for f in table["family"]],
        [FAMILIES[f][1] for f in table["family"]],
    )


def _height(rows: int) -> float:
    """Inches for so many labelled rows and one axis label; many rows stand closer."""
    return (0.28 if rows <= 12 else 0.2) * rows + 0.9


def _over_seeds(table: pd.DataFrame, words: str) -> str:
    """These words where there is more than one seed to be spread over."""
    return words if len(table) and table["n_seeds"].max() > 1 else ""


@styled
def accuracy_ranking(table: pd.DataFrame, scene: str | None = None, ax=None):
    """Overall accuracy of every method (mean ± sd over seeds), from the accuracy table, in the table's order; a colour per family."""
    table = _rows(table, scene)
    alone = ax is None
    ax = axes(ax, _height(len(table)) + 0.3)
    _by_family(ax, table, "oa_mean", table["oa_mean"] - table["oa_sd"], table["oa_mean"] + table["oa_sd"])
    note = " (simulated)" if table["simulated"].iloc[0] else ""
    ax.set(
        xlabel="overall accuracy (%)" + _over_seeds(table, ", mean ± sd over seeds"),
        title=table["scene"].iloc[0] + note,
    )
    if alone:
        legend_below(ax.figure, family_handles(table["family"]))
    return ax


@styled
def accuracy_rankings(table: pd.DataFrame) -> Figure:
    """`accuracy_ranking` of every scene of the accuracy table, in the table's order, up to three side by side."""
    scenes = list(dict.fromkeys(table["scene"]))
    cols = min(3, len(scenes))
    rows = -(-len(scenes) // cols)
    fig, axs = panels(
        rows, cols, rows * _height(int(table["scene"].value_counts().max())) + 0.4, max(WIDTH, 3.0 * cols)
    )
    for ax, scene in zip(axs.flat, scenes):
        accuracy_ranking(table, scene, ax)
        if cols > 1:  # the whole label would not fit below a narrow panel
            ax.set_xlabel("overall accuracy (%)")
    for ax in axs.flat[len(scenes) :]:
        ax.remove()
    legend_below(fig, family_handles(table["family"]), _over_seeds(table, "mean ± sd over seeds") if cols > 1 else None)
    return fig


@styled
def group_differences(table: pd.DataFrame) -> Figure:
    """Difference in OA to concat of every fused method with its 95 % interval, a panel per group of scenes, from the evaluation table."""
    table = table[table["family"].ne("single")]
    names = list(dict.fromkeys(table["group"]))
    methods = [m for m in dict.fromkeys(table["method"]) if m != "concat"]
    if not methods:
        return _only_text(axes(None, 1.0), "a difference to concat needs another method").figure
    cols = min(3, len(names))
    rows = -(-len(names) // cols)
    fig, axs = panels(rows, cols, rows * _height(len(methods)) + 0.4, max(WIDTH, 2.6 * cols), sharey=True)
    for ax, name in zip(axs.flat, names):
        part = table[table["group"].eq(name)].set_index("method").reindex(methods).reset_index()
        _horizontal(
            ax,
            part,
            "method",
            "d_oa",
            part["d_oa_lo"],
            part["d_oa_hi"],
            [method_colour(m) for m in methods],
            ["o"] * len(methods),
        )
        ax.axvline(0, color="#222222", linewidth=0.9, zorder=1)
        first = part.dropna(subset="n_scenes").iloc[0]
        scenes = f"{first['n_scenes']:.0f} scenes" if first["n_scenes"] > 1 else "1 scene"
        ax.set(
            title=f"{name} ({'simulated' if first['simulated'] else 'real'}, {scenes}, {first['n_seeds']:.0f} seeds)"
        )
        ax.title.set_fontsize(8)
    for ax in axs.flat[len(names) :]:
        ax.remove()
    fig.supxlabel("difference in OA to concat (points), mean and 95 % interval", fontsize=9)
    return fig


@styled
def rank_intervals(table: pd.DataFrame, ax=None):
    """Mean rank of every method with its 95 % interval, best on top, a colour per family, from the ranking table."""
    alone = ax is None
    ax = axes(ax, _height(max(1, len(table))) + 0.4)
    if table.empty:
        return _only_text(ax, "a ranking needs two methods on all scenes")
    _by_family(ax, table, "rank_mean", table["rank_lo"], table["rank_hi"])
    scenes, seeds = (int(table[c].iloc[0]) for c in ("n_scenes", "n_seeds"))
    over = " and ".join(f"{n} {what}" for n, what in ((scenes, "scenes"), (seeds, "seeds")) if n > 1)
    ax.set(
        xlabel="mean rank of OA (1 = best)" + (f", 95 % interval\nover {over}" if over else ""),
        xlim=(0.5, len(table) + 0.5),
    )
    if alone:
        legend_below(ax.figure, family_handles(table["family"]))
    return ax


def _only_text(ax, text: str):
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes)
    return ax


@styled
def critical_difference(scores: pd.DataFrame, ax=None):
    """Mean rank over scenes of every method that all scenes have, as in Demsar (JMLR 2006), from `tables.scores`; 1, on the left, is best.

    Ranks are of the mean OA over seeds. Bars join methods that the Nemenyi test (0.05) does not tell apart: their mean ranks are less than the
    critical difference apart, which stands above the axis. With fewer than 2 scenes or 3 methods the axes say so instead.
    """
    oa = ranking.common(scores).mean("seed")
    (n, k), names = (oa.sizes["scene"], oa.sizes["method"]), oa["method"].values
    if n < 2 or k < 3:
        return _only_text(
            axes(ax, 1.2), f"a comparison of ranks needs 2 scenes and 3 methods on all of them;\nhere: {n} and {k}"
        )
    values = oa.transpose("scene", "method").values
    mean = ranking.ranks(values).mean(0)
    order = np.argsort(mean, kind="stable")
    mean, names = mean[order], names[order]
    difference = ranking.critical_difference(k, n)
    bars = ranking.groups(mean, difference)
    family = dict(zip(scores["method"], scores["family"]))

    left = -(-k // 2)  # labels on the left: the better half, best on top; on the right the others, worst on top
    first = 0.45 * len(bars) + 0.9  # below the joining bars; heights in lines of text
    depth = first + left - 1
    alone = ax is None
    ax = axes(ax, 0.19 * (depth + 4) + 0.7)
    edge = 0.06 * (k - 1)
    for i, (x, name) in enumerate(zip(mean, names)):
        colour, marker, _ = FAMILIES[family[name]]
        y = -first - (i if i < left else k - 1 - i)
        end, side, label = (
            (1 - edge, "right", f"{name}  {x:.1f} ") if i < left else (k + edge, "left", f" {x:.1f}  {name}")
        )
        ax.plot([x, x, end], [0, y, y], color=colour, linewidth=0.9)
        ax.plot(x, 0, marker, color=colour, markersize=5, zorder=5, clip_on=False)
        ax.text(end, y, label, ha=side, va="center", fontsize=8)
    for i, (a, b) in enumerate(bars):
        ax.plot(
            [mean[a] - edge / 6, mean[b] + edge / 6],
            [-0.45 * (i + 1)] * 2,
            color="#222222",
            linewidth=2.6,
            solid_capstyle="butt",
            zorder=4,
        )
    ax.plot([1, 1 + difference], [2, 2], "|-", color="#222222", linewidth=1.3, markersize=6, clip_on=False)
    ax.text(1 + difference / 2, 2.2, f"critical difference {difference:.1f}", ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(1 - edge, k + edge), ylim=(-depth - 0.6, 3.2), yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.spines["top"].set(visible=True, position=("data", 0), bounds=(1, k))
    ax.xaxis.tick_top()
    ax.set_xticks(range(1, k + 1, max(1, round(k / 7))))
    ax.grid(visible=False)
    p = ranking.friedman(values)
    ax.set_title(
        f"mean rank of OA over {n} scenes (1 = best); Friedman test: p " + (f"= {p:.2g}" if p >= 0.001 else "< 0.001")
    )
    if alone:
        legend_below(ax.figure, family_handles(family[name] for name in names))
    return ax


@styled
def ablation_bars(table: pd.DataFrame, scene: str | None = None, reference: str = "concat", ax=None):
    """Difference in overall accuracy to ``reference`` ("concat" or "prsanet") with its 95 % interval, from the ablation table."""
    table = _rows(table, scene)
    table = table[table["variant"].ne(reference)].reset_index(drop=True)
    ax = axes(ax, 0.3 * len(table) + 0.9)
    colours = [method_colour(m) for m in table["variant"]]
    _horizontal(ax, table, "variant", f"d_{reference}", table[f"d_{reference}_lo"], table[f"d_{reference}_hi"], colours)
    ax.axvline(0, color="#222222", linewidth=0.9)
    ax.set(xlabel=f"difference in OA to {reference} (points)" + _over_seeds(table, ", 95 % interval"))
    ax.set_title(table["scene"].iloc[0] if len(table) else "")
    return ax


@styled
def sensitivity_curves(table: pd.DataFrame, scene: str | None = None) -> Figure:
    """Difference in overall accuracy to the default setting with its 95 % interval, a panel per parameter, from the sensitivity table."""
    table = _rows(table, scene) if len(table) else table
    names = list(dict.fromkeys(table["parameter"]))
    cols = min(2, max(1, len(names)))
    rows = max(1, -(-len(names) // cols))
    fig, axs = panels(rows, cols, 2.1 * rows + 0.5, sharey=True)
    for ax, name in zip(axs.flat, names):
        part = table[table["parameter"].eq(name)]
        place, middle = np.arange(len(part)), part["d_oa"].to_numpy(float)
        spread = error_lengths(middle, part["d_oa_lo"], part["d_oa_hi"])
        ax.errorbar(place, middle, spread, fmt="-o", color=METHOD_COLOURS["prsanet"], capsize=3, markersize=4)
        ax.axhline(0, color="#666666", linewidth=0.9, zorder=1)
        ax.set_xticks(place, [str(v) for v in part["value"]])
        ax.set(xlabel=f"{name}", xlim=(-0.4, len(part) - 0.6))
        ax.grid(axis="x", visible=False)
    for ax in axs.flat[len(names) :]:
        ax.set_axis_off()
    if not names:
        axs[0, 0].text(0.5, 0.5, "no sensitivity runs", ha="center", transform=axs[0, 0].transAxes)
    fig.supylabel("difference in OA to the default (points)", fontsize=9)
    return fig
