"""Figures of the speed benchmark: what training and mapping make of the machine, beside the usual pipelines (`record.bench`), and how both grow
with the size of the task (`record.scaling`). Reports and tables in, figures out.
"""

import json

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from prsa import files
from prsa.errors import PrsaError
from prsa.figures.style import METHOD_COLOURS, legend_below, panels, save, styled

OURS, USUAL = METHOD_COLOURS["prsanet"], "#444444"
VERBS = {"training": "train", "mapping": "map"}
FILES = ("training.json", "mapping.json", "scaling.csv", "scaling_exponents.csv")
TASKS = {"training": (OURS, "o", "training step"), "mapping": ("#0072B2", "s", "map")}
QUANTITIES = {"seconds": "time (s)", "memory_mb": "added memory (MB)"}
AGAINST = {"pixels": "pixels (batch, map)", "bands": "bands of hsi", "classes": "classes", "modalities": "modalities"}


@styled
def roofline(reports: dict[str, dict]) -> Figure:
    """Share of the machine's matrix-product rate, log axis: a line per task from the usual pipeline to this one, with their ratio of speed.

    ``reports``: "training" and "mapping" -> report of `record.bench.report`. Of a map only the operations that a whole-scene map needs count, for
    both pipelines, so that the distance of two points is their ratio of speed; open points count the operations that patch by patch repeats too.
    Raises `PrsaError` when the reports hold no ratios.
    """
    rows = [(name, row) for name in VERBS for row in reports.get(name, {}).get("ratios", [])]
    if not rows:
        raise PrsaError(
            f"expected ratios of training or mapping, got none in the reports {', '.join(reports) or '(none)'}. Fix: make bench."
        )
    fig, axs = panels(1, 1, 1.1 + 0.3 * len(rows))
    ax = axs[0, 0]
    for i, (_, row) in enumerate(rows):
        ours, usual = row["share_of_matmul"], row["usual_share_of_matmul"]
        ax.plot([usual, ours], [i, i], color="#bbbbbb", zorder=1)
        ax.plot(usual, i, "s", color=USUAL, markersize=6)
        ax.plot(ours, i, "o", color=OURS, markersize=7)
        if "usual_busy_share" in row:
            ax.plot(row["usual_busy_share"], i, "s", color=USUAL, markerfacecolor="none", markersize=10)
        ax.annotate(
            f"{row['ratio']:.3g}×",
            (1.02, i),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            fontweight="bold",
            color=OURS,
        )
    ax.axvline(1, color="#000000", linewidth=1)
    ax.set_xscale("log")
    low = min(row["usual_share_of_matmul"] for _, row in rows)
    ax.set_xlim(min(0.6 * low, 0.1), 1.3 * max(1, *(row["share_of_matmul"] for _, row in rows)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    ax.set_yticks(range(len(rows)), [f"{VERBS[name]} {row['method']}, patch {row['patch']}" for name, row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("share of the machine's matrix-product rate")
    entries = [("o", OURS, OURS, 7, "prsa"), ("s", USUAL, USUAL, 6, "usual pipeline")]
    if any("usual_busy_share" in row for _, row in rows):
        entries.append(("s", USUAL, "none", 10, "usual, repeated work counted"))
    legend_below(
        fig,
        [
            Line2D(
                [], [], linestyle="", marker=marker, color=colour, markerfacecolor=face, markersize=size, label=label
            )
            for marker, colour, face, size, label in entries
        ],
    )
    return fig


@styled
def scaling(table: pd.DataFrame, fitted: pd.DataFrame) -> Figure:
    """Seconds and added memory of a training step and of a map against each size, log axes, a line per task with its fitted exponent and 95 % interval.

    ``table`` and ``fitted``: `record.scaling.sizes` and `record.scaling.exponents`. Memory that is not positive is not drawn. Raises `PrsaError`
    for an empty table.
    """
    if table.empty:
        raise PrsaError("expected sizes in the scaling table, got none. Fix: make bench.")
    names = list(dict.fromkeys(table["against"]))
    fig, axs = panels(len(names), 2, 0.6 + 1.35 * len(names), sharey="col")
    power = fitted.set_index(["task", "against", "quantity"]).dropna()
    for j, (quantity, title) in enumerate(QUANTITIES.items()):
        axs[0, j].set_title(f"{title}; exponent")
        for ax, against in zip(axs[:, j], names):
            for row, (task, (colour, marker, _)) in enumerate(TASKS.items()):
                part = table[(table["task"] == task) & (table["against"] == against) & (table[quantity] > 0)]
                ax.plot(part["size"], part[quantity], color=colour, marker=marker, markersize=4)
                if (task, against, quantity) in power.index:
                    value, low, high = power.loc[(task, against, quantity)].round(2) + 0.0  # no "-0.00"
                    ax.text(
                        0.03,
                        0.97 - 0.16 * row,
                        f"{value:.2f} [{low:.2f}, {high:.2f}]",
                        color=colour,
                        transform=ax.transAxes,
                        fontsize=8,
                        va="top",
                    )
            ax.set(xscale="log", yscale="log", xlabel=AGAINST[against])
            if against != "pixels":
                sizes = sorted(set(table.loc[table["against"] == against, "size"]))
                ax.set_xticks(sizes, [str(size) for size in sizes])
                ax.set_xticks([], minor=True)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high * (high / low) ** 0.5)  # room for the exponents
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    legend_below(
        fig,
        [
            Line2D([], [], color=colour, marker=marker, markersize=4, label=label)
            for colour, marker, label in TASKS.values()
        ],
    )
    return fig


def main() -> None:
    """Draw the last benchmark to ``speed`` and ``scaling`` (.png, .pdf) in ``results/bench``. Raises `PrsaError` when there is none."""
    folder = files.results("full") / "bench"
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise PrsaError(f"expected {', '.join(FILES)} in {folder}, got no {' and no '.join(missing)}. Fix: make bench.")
    save(roofline({name: json.loads((folder / f"{name}.json").read_text()) for name in VERBS}), folder / "speed")
    save(
        scaling(*(pd.read_csv(folder / f"{name}.csv") for name in ("scaling", "scaling_exponents"))), folder / "scaling"
    )


if __name__ == "__main__":
    main()
