"""Figures of the claims ledger (`prsa.report.claims`): effects with intervals, and all verdicts at a glance. Table in, figure out."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from ..report.claims import SMALLEST, matrix, unit
from .style import legend_below, panels, styled

LOOKS = {
    "supported": ("#0072B2", "o"),
    "not supported": ("#7F7F7F", "s"),
    "reversed": ("#D55E00", "D"),
}  # verdict -> colour, marker
AXES = {
    "points": "effect (points)",
    "0 to 1": "effect (scale from 0 to 1)",
    "nats": "effect (nats)",
    "log2": "effect (doublings)",
    "cosine": "effect (cosine)",
    "rank correlation": "rank correlation",
}
WIDE, LINE = 7.0, 0.175  # inches: width of the figure, height of a row


UNITS = {
    "points": "points",
    "0 to 1": "of 1",
    "nats": "nats",
    "log2": "doublings",
    "cosine": "cosine",
    "rank correlation": "correlation",
}
PALE = {"supported": "#CFE2F3", "not supported": "#EDEDED", "reversed": "#F9D3BE"}


@styled
def verdicts(ledger: pd.DataFrame) -> Figure:
    """The whole ledger as one picture: a row per effect, a column per group of scenes, the effect written in a cell coloured by its verdict."""
    table = matrix(ledger)
    names = list(dict.fromkeys(table["scene"]))
    lines = [
        line
        for claim, rows in table.groupby("claim", sort=False)
        for line in ((claim, None), *((claim, row) for row in dict.fromkeys(rows["row"])))
    ]
    fig, axs = panels(1, 1, LINE * (len(lines) + 3) + 0.4, 4.4 + 0.72 * len(names))
    ax, cells = axs[0, 0], table.set_index(["claim", "row", "scene"])
    labels = []
    for y, (claim, row) in enumerate(lines):
        labels.append(claim if row is None else f"{row.rsplit(' (', 1)[0]} ({UNITS[unit(row)]})")
        for x, name in enumerate(names):
            if row is not None and (claim, row, name) in cells.index:
                cell, decimals = cells.loc[(claim, row, name)], 1 if unit(row) == "points" else 2
                ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=PALE[cell["verdict"]], linewidth=0))
                ax.text(
                    x,
                    y,
                    f"{round(cell['effect'], decimals) + 0.0:+.{decimals}f}",
                    ha="center",
                    va="center",
                    fontsize=7.5,  # + 0.0: no negative zero
                    color=LOOKS[cell["verdict"]][0] if cell["verdict"] != "not supported" else "#444444",
                    fontweight="normal" if cell["verdict"] == "not supported" else "bold",
                )
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    ax.set_xticks(range(len(names)), names)
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(lines)), labels)
    for label, (_, row) in zip(ax.get_yticklabels(), lines):
        label.set_fontweight("bold" if row is None else "normal")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    legend_below(
        fig,
        [Patch(color=PALE[v], label=v) for v in PALE if v in set(ledger["verdict"])],
        "effect, positive where the claim holds",
    )
    return fig


def _lines(part: pd.DataFrame) -> list:
    """Rows of a panel from top to bottom: the name of a claim, then its rows."""
    return [
        line for claim, rows in part.groupby("claim", sort=False) for line in (claim, *rows.itertuples(index=False))
    ]


@styled
def forest(ledger: pd.DataFrame) -> Figure:
    """Effect and 95 % interval of every row of `prsa.report.claims.ledger`, by claim, coloured by verdict; a panel per unit. No interval: no bar.

    Right of the solid line at 0 a claim holds; the dotted line is the smallest effect that matters.
    """
    units = [u for u in SMALLEST if u in set(map(unit, ledger["measure"]))]
    lines = {u: _lines(ledger[ledger["measure"].map(unit).eq(u)]) for u in units}
    if not units:
        fig, axs = panels(1, 1, 1.0)
        axs[0, 0].set_axis_off()
        axs[0, 0].text(0.5, 0.5, "no claim could be tested with these runs", ha="center", transform=axs[0, 0].transAxes)
        return fig
    heights = [len(lines[u]) + 2.6 for u in units]  # 2.6 lines for the axis below
    fig, axs = panels(len(units), 1, LINE * sum(heights) + 0.5, WIDE, gridspec_kw={"height_ratios": heights})
    for ax, u in zip(axs[:, 0], units):
        _panel(ax, lines[u])
        ax.axvline(0, color="#222222", linewidth=0.9, zorder=1)
        ax.axvline(SMALLEST[u], color="#222222", linewidth=0.9, linestyle=":", zorder=1)
        ax.set_xlabel(AXES[u])
    marks = [Line2D([], [], color=c, marker=m, label=v) for v, (c, m) in LOOKS.items() if v in set(ledger["verdict"])]
    legend_below(
        fig,
        [*marks, Line2D([], [], color="#222222", linestyle=":", label="smallest effect that matters")],
        "95 % intervals" if ledger["lo"].notna().any() else "one seed: no intervals",
    )
    return fig


def _panel(ax, lines: list):
    place = np.arange(len(lines))[::-1]
    ax.set_yticks(
        place,
        [line if isinstance(line, str) else f"{line.scene}   {line.measure.rsplit(' (', 1)[0]}" for line in lines],
    )
    for y, line, label in zip(place, lines, ax.get_yticklabels()):
        if isinstance(line, str):
            label.set_fontweight("bold")
            continue
        colour, marker = LOOKS[line.verdict]
        spread = [[line.effect - line.lo], [line.hi - line.effect]] if np.isfinite(line.lo) else None
        ax.errorbar(line.effect, y, xerr=spread, fmt=marker, color=colour, markersize=4, linewidth=1.3, capsize=2)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.7, len(lines) - 0.3)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(7))
