"""The figure of the robustness table (`prsa.report.robustness`): accuracy and difference to concat by strength of a degradation. Table in, figure out."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..errors import PrsaError
from ..report.robustness import CLEAN, MISSING, dominant
from ..report.tables import ABLATION, BASELINE
from .style import MARKERS, METHOD_COLOURS, SPARE_COLOURS, error_lengths, legend_below, panels, styled

AXES = {"cloud shadow": "direct light taken", "noise": "sd of noise (training sd)", "band loss": "share of bands lost"}
WIDE, HIGH = 8.0, 4.6  # inches


def looks(methods) -> dict[str, tuple[str, str]]:
    """Method -> colour and marker; methods without a colour of their own get a spare one."""
    spare = iter([c for c in SPARE_COLOURS if c not in METHOD_COLOURS.values()] * len(methods))
    return {
        method: (METHOD_COLOURS.get(method) or next(spare), MARKERS[i % len(MARKERS)])
        for i, method in enumerate(methods)
    }


@styled
def robustness(table: pd.DataFrame, group: str | None = None) -> Figure:
    """One group of `prsa.report.robustness.robustness`; above OA, below the difference to concat with its 95 % interval, ablations left out.

    A panel per degradation of the dominant modality over its strength, 0 being the clean pixels, and one for every modality missing. Raises
    `PrsaError` if ``group`` is not exactly one known group.
    """
    known = list(dict.fromkeys(table["group"]))
    group = known[0] if group is None and len(known) == 1 else group
    if group not in known:
        raise PrsaError(
            f"expected one of the table's groups ({', '.join(known) or 'none'}), got {group!r}. Pass group=... or run its scenes."
        )
    table = table[table["group"].eq(group) & ~table["method"].str.startswith(ABLATION)]
    main, style = dominant(table, group), looks(list(dict.fromkeys(table["method"])))
    kinds = [d for d in dict.fromkeys(table["degradation"]) if d not in (CLEAN, MISSING)]
    gone = table[table["degradation"].eq(MISSING)]
    names = list(dict.fromkeys(gone["modality"]))
    widths = {"width_ratios": [1] * len(kinds) + [0.3 + 0.35 * len(names)]}
    fig, axs = panels(2, len(kinds) + 1, HIGH, WIDE, sharey="row", sharex="col", gridspec_kw=widths)
    for col, kind in enumerate(kinds):
        part = table[table["degradation"].isin([CLEAN, kind])]
        strengths = sorted(set(part["strength"]))
        _column(axs[:, col], part, part["strength"], style, 0.09 * max(strengths), "-")
        axs[1, col].set_xticks(strengths, [f"{v:g}" for v in strengths])
        axs[1, col].set_xlabel(AXES.get(kind, "strength"))
        axs[0, col].set_title(f"{main}: {kind}")
    _column(axs[:, -1], gone, gone["modality"].map(names.index), style, 0.6, "none")
    axs[1, -1].set_xticks(range(len(names)), names)
    axs[1, -1].set(xlim=(-0.6, len(names) - 0.4), xlabel="modality missing")
    axs[0, -1].set_title(MISSING)
    axs[0, 0].set_ylabel("overall accuracy (%)")
    axs[1, 0].set_ylabel(f"difference to {BASELINE}\n(points)")
    cut = _keep_readable(axs[1, 0], table)
    n_scenes, n_seeds = int(table["n_scenes"].max()), int(table["n_seeds"].max())
    over = " and ".join(f"{n} {what}" for n, what in ((n_scenes, "scenes"), (n_seeds, "seeds")) if n > 1)
    bars = f"bars: 95 % intervals{', cut at the frame' if cut else ''}"
    title = f"{group}; mean over {over}, {bars}" if over else f"{group}; one scene and seed, no intervals"
    legend_below(
        fig, [Line2D([], [], color=c, marker=m, markersize=4, label=method) for method, (c, m) in style.items()], title
    )
    return fig


def _column(axs, part: pd.DataFrame, place: pd.Series, style: dict, spread: float, line: str):
    """OA above and difference below at ``place`` of every row; methods stand side by side within ``spread``, so that bars can be read."""
    for i, (method, (colour, marker)) in enumerate(style.items()):
        rows = part[part["method"].eq(method)].assign(place=place).sort_values("place")
        shift = spread * ((i + 0.5) / len(style) - 0.5)
        axs[0].plot(
            rows["place"] + (0 if line == "-" else shift),
            rows["oa_mean"],
            linestyle=line,
            color=colour,
            marker=marker,
            markersize=4,
        )
        if method != BASELINE:
            middle = rows["d_oa"].to_numpy(float)
            axs[1].errorbar(
                rows["place"] + shift,
                middle,
                error_lengths(middle, rows["d_oa_lo"], rows["d_oa_hi"]),
                linestyle=line,
                color=colour,
                marker=marker,
                markersize=3.5,
                linewidth=1.2,
                elinewidth=0.9,
            )
    axs[1].axhline(0, color=style.get(BASELINE, ("#666666",))[0], linewidth=1.2, zorder=1)
    for ax in axs:
        ax.grid(axis="x", visible=False)
        ax.yaxis.set_major_locator(MaxNLocator(6))


def _keep_readable(ax, table: pd.DataFrame) -> bool:
    """Limit the axis of differences to three times the range of the means: an interval of two seeds can be far longer. True if bars are cut."""
    low, high = min(table["d_oa"].min(), 0), max(table["d_oa"].max(), 0)
    room = max(high - low, 2.0)
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(bottom, low - room), min(top, high + room))
    return bool((table["d_oa_lo"].min() < low - room) or (table["d_oa_hi"].max() > high + room))
