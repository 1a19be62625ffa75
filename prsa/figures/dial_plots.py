"""The figures of the imbalance dial (`prsa.report.dial`): tables in, figures out (no torch)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from scipy import stats

from ..data.simulate import CONFIGS
from ..errors import PrsaError
from .style import MARKERS, error_lengths, legend_below, method_colour, modality_colours, panels, styled

AXIS, ENDS = "imbalance dial", "(simulated); dial: 0 balanced, 1 strong"
ASIDE = 0.014  # of the dial, between the error bars of two methods


def _looks(methods) -> dict[str, dict]:
    """Method -> colour, line and marker; the last is drawn on top."""
    return {
        m: dict(color=method_colour(m), linestyle=line, marker=mark, markersize=4, zorder=2 + 0.1 * k)
        for k, (m, line, mark) in enumerate(zip(methods, ("--", "-", "-.", "-") * len(methods), MARKERS * len(methods)))
    }


def _dial_axis(ax, own: float):
    ax.set_xlim(-0.06, 1.06)
    ax.xaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.axvline(own, color="#666666", linestyle=":", linewidth=0.9, zorder=1)


def _ratio_axis(ax):
    """Powers of two, 1 in the middle."""
    ax.set_yscale("log", base=2)
    low, high = ax.get_ylim()
    far = max(2.2, high, 1 / low)
    ax.set_ylim(1 / far, far)
    ax.yaxis.set_major_locator(FixedLocator([2.0**k for k in range(-8, 9) if 1 / far < 2.0**k < far]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if v >= 1 else f"1/{1 / v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _lines(ax, part: pd.DataFrame, looks: dict, value: str, bounds):
    """A line per method over the dial; ``bounds`` maps its rows to (low, high), None: no error bars."""
    for k, (method, look) in enumerate(looks.items()):
        rows = part[part["method"].eq(method)]
        if rows[value].isna().all():
            continue
        spread = error_lengths(rows[value], *bounds(rows)) if bounds else None
        ax.errorbar(
            rows["dial"] + ASIDE * (k - (len(looks) - 1) / 2), rows[value], spread, capsize=1.5, elinewidth=0.9, **look
        )


def _oa_bounds(rows):
    half = (
        stats.t.ppf(0.975, np.maximum(rows["n_seeds"] - 1, 1)) * rows["oa_sd"] / np.sqrt(rows["n_seeds"])
    )  # no sd with one seed
    return rows["oa_mean"] - half, rows["oa_mean"] + half


def _one(table: pd.DataFrame, kind: str | None) -> tuple[str, pd.DataFrame]:
    kinds = list(dict.fromkeys(table["kind"]))
    kind = kinds[0] if kind is None and len(kinds) == 1 else kind
    if kind not in kinds:
        raise PrsaError(
            f"expected one of the table's kinds ({', '.join(kinds) or 'none'}), got {kind!r}. Pass kind=... or run that dial."
        )
    return kind, table[table["kind"].eq(kind)]


@styled
def curves(table: pd.DataFrame, kind: str | None = None) -> Figure:
    """`prsa.report.dial.table` of one kind over the dial, a line per method: fused OA on top, probe gap and imbalance factor of every modality below.

    Error bars are 95 % Student t intervals over seeds; the dotted line is the kind's default setting. A panel that nothing was measured for is
    left out. Raises `PrsaError` unless ``kind`` is one of the table's.
    """
    kind, table = _one(table, kind)
    names = [m for m in dict.fromkeys(table["modality"]) if m]
    looks = _looks(list(dict.fromkeys(table["method"])))
    own = CONFIGS[kind].dial
    rows = (
        [("probe_gap", "probe gap (points):\nOA alone - inside"), ("rho", "imbalance factor ρ\n(1 = balanced)")]
        if names
        else []
    )
    rows = [(value, label) for value, label in rows if table[value].notna().any()]
    fig, axs = panels(
        1 + len(rows), max(len(names), 1), 1.9 + 1.65 * len(rows) + 0.9, max(4.5, 1.75 * len(names)), sharex=True
    )
    grid = axs[0, 0].get_gridspec()
    for ax in axs[0]:
        ax.remove()
    top = fig.add_subplot(grid[0, :])
    _lines(top, table.drop_duplicates(["dial", "method"]), looks, "oa_mean", _oa_bounds)
    _dial_axis(top, own)
    top.set_ylabel("fused OA (%)")
    for line, (value, label) in zip(axs[1:], rows):
        for ax, m in zip(line, names):
            ax.sharey(line[0])
            bounds = (lambda rows: (rows["probe_gap_lo"], rows["probe_gap_hi"])) if value == "probe_gap" else None
            _lines(ax, table[table["modality"].eq(m)], looks, value, bounds)
            ax.axhline(1 if value == "rho" else 0, color="#222222", linewidth=0.9, zorder=1)
            _dial_axis(ax, own)
            ax.set_title(f"{m} branch")
            ax.tick_params(labelleft=ax is line[0])
        line[0].set_ylabel(label)
        if value == "rho":
            _ratio_axis(line[0])
    for ax in axs[-1] if rows else [top]:
        ax.set_xlabel(AXIS)
    marks = [Line2D([], [], label=m, **look) for m, look in looks.items()]
    n = int(table["n_seeds"].min())
    legend_below(
        fig,
        [*marks, Line2D([], [], color="#666666", linestyle=":", linewidth=0.9, label="default setting")],
        f"{kind} {ENDS}\n" + (f"means and 95 % intervals over {n} seeds" if n > 1 else "one seed"),
    )
    return fig


@styled
def sensors(table: pd.DataFrame, kind: str) -> Figure:
    """`prsa.report.dial.sensors` of one kind: what single training pixels say of the classes, and how far classes move to the test area, a line per modality."""
    colours = modality_colours(dict.fromkeys(table["modality"]))
    fig, axs = panels(1, 2, 2.7)
    for ax, value, label in zip(
        axs[0],
        ("separability", "drift"),
        ("separability in training\n(0 to 1)", "drift to the test area\n(sd within the class)"),
    ):
        for (m, colour), marker in zip(colours.items(), MARKERS):
            part = table[table["modality"].eq(m)]
            ax.plot(part["dial"], part[value], marker=marker, markersize=4, color=colour)
        _dial_axis(ax, CONFIGS[kind].dial)
        ax.set(ylim=(0, 1 if value == "separability" else None), xlabel=AXIS, ylabel=label)
        ax.yaxis.set_major_locator(MaxNLocator(5))
    marks = [
        Line2D([], [], label=m, color=c, marker=marker, markersize=4)
        for (m, c), marker in zip(colours.items(), MARKERS)
    ]
    legend_below(
        fig,
        [*marks, Line2D([], [], color="#666666", linestyle=":", linewidth=0.9, label="default setting")],
        f"{kind} {ENDS}",
    )
    return fig
