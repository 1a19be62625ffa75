"""The record of the design research (`record.research`) as table and figure: what a choice did to validation pixels of development scenes (no torch)."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import files, metrics
from ..errors import PrsaError
from .style import METHOD_COLOURS, panels, styled

START = "start"  # the configuration that one change at a time is made to
SUMMARY = (
    "round",
    "name",
    "kind",
    "n_scenes",
    "val_oa_mean",
    "d_start",
    "d_start_lo",
    "d_start_hi",
    "d_concat",
    "d_concat_lo",
    "d_concat_hi",
    "d_slow",
)
ALL = "all"


def read() -> pd.DataFrame:
    """The trials of `make research` of this clone, else those kept with the repository. Raises `PrsaError` when there are none."""
    own, kept = files.results("full") / "research.csv", files.ROOT / "results" / "reference" / "research.csv"
    for path in (own, kept):
        if path.is_file():
            return pd.read_csv(path)
    raise PrsaError(f"expected trials in {own} or {kept}, found none. Fix: make research")


def _paired(values: pd.Series, base: pd.Series) -> tuple[float, float, float]:
    """Mean difference over the scenes that both have, with its 95 % Student t interval."""
    scenes = values.index.intersection(base.index)
    return metrics.paired_difference(values[scenes].to_numpy(), base[scenes].to_numpy())


def summary(trials: pd.DataFrame) -> pd.DataFrame:
    """One row per round, trial and kind of scene, and one over all kinds (`SUMMARY`), in the order of the trials.

    OA of validation pixels in points; differences to `START` and to concat paired by scene, 95 % Student t intervals over scenes; ``d_slow``: mean
    difference to concat in the probe accuracy of the branch with the lowest imbalance factor in concat, points. Raises `PrsaError` without concat.
    """
    if not trials["name"].eq("concat").any():
        raise PrsaError(
            f"expected trials of concat to compare with, got {', '.join(dict.fromkeys(trials['name'])) or 'none'}. Fix: make research"
        )
    trials = trials.assign(kind=trials["scene"].str.partition(":")[0])
    rows = []
    for number, here in trials.groupby("round", sort=False):
        base = here[here["name"].eq("concat")]
        slow = base.loc[base.groupby("scene")["rho"].idxmin()].set_index("scene")[["modality", "probe_accuracy"]]
        for name, trial in here.groupby("name", sort=False):
            for kind in (*dict.fromkeys(here["kind"]), ALL):
                part = trial if kind == ALL else trial[trial["kind"].eq(kind)]
                oa = part.groupby("scene")["val_oa"].first()
                against = [
                    here[here["name"].eq(other)].groupby("scene")["val_oa"].first() for other in (START, "concat")
                ]
                mine = part.set_index("scene")
                mine = mine[mine["modality"].eq(slow["modality"].reindex(mine.index))]["probe_accuracy"]
                rows.append(
                    (
                        number,
                        name,
                        kind,
                        len(oa),
                        oa.mean(),
                        *_paired(oa, against[0]),
                        *_paired(oa, against[1]),
                        (mine - slow["probe_accuracy"].reindex(mine.index)).mean(),
                    )
                )
    return pd.DataFrame(rows, columns=list(SUMMARY))


@styled
def trials(table: pd.DataFrame, number: int) -> Figure:
    """Difference to `START` of every trial of a round over all kinds (mark, 95 % interval over scenes) and of each kind (small marks), from `summary`."""
    table = table[table["round"].eq(number)]
    names = [name for name in dict.fromkeys(table["name"]) if name != START]
    if not names:
        raise PrsaError(f"expected trials of round {number}, got none. Rounds: {sorted(set(table['round']))}.")
    fig, axs = panels(1, 1, 0.19 * len(names) + 0.9, 6.2)
    ax, place = axs[0, 0], np.arange(len(names))
    kinds = [kind for kind in dict.fromkeys(table["kind"]) if kind != ALL]
    for kind, marker, colour in zip(kinds, "sv^D", ("#009E73", "#E69F00", "#CC79A7", "#56B4E9")):
        values = table[table["kind"].eq(kind)].set_index("name")["d_start"].reindex(names)
        ax.plot(values, place, marker, color=colour, markersize=3.5, linestyle="", label=kind)
    whole = table[table["kind"].eq(ALL)].set_index("name").reindex(names)
    spread = np.array([whole["d_start"] - whole["d_start_lo"], whole["d_start_hi"] - whole["d_start"]])
    ax.errorbar(
        whole["d_start"],
        place,
        xerr=spread,
        fmt="o",
        color=METHOD_COLOURS["prsanet"],
        capsize=2,
        linewidth=1.3,
        markersize=5,
        label="all, 95 % interval",
        zorder=4,
    )
    ax.axvline(0, color="#222222", linewidth=0.9, zorder=1)
    ax.set_yticks(place, names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(7))
    ax.set_xlabel(f"validation OA minus that of {START} (points), {int(whole['n_scenes'].max())} development scenes")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(kinds) + 1)
    return fig
