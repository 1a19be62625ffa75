"""The few shapes that all figures are made of: lines with bands or bars, rows with intervals, images, a heat map.

A shape draws into axes; a figure is a short function that chooses what is drawn, and with which words.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from ..errors import PrsaError
from .style import INK, NONE_COLOUR, WIDTH, legend_below, panels


def one(table: pd.DataFrame, column: str, value: str | None) -> pd.DataFrame:
    """The rows with this value, by default the only one there is; raises `PrsaError` for any other."""
    known = list(dict.fromkeys(table[column]))
    value = known[0] if value is None and len(known) == 1 else value
    if value not in known:
        raise PrsaError(
            f"expected a {column} of the table ({', '.join(map(str, known)) or 'none'}), got {value!r}. "
            f"Either the name is mistyped (pass {column}=... from this list) or it was never run (run it first)."
        )
    return table[table[column].eq(value)].reset_index(drop=True)


def grid(count: int, cols: int, height: float, width: float, **options) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels of this size in inches, ``cols`` side by side."""
    cols = max(1, min(cols, count))
    lines = -(-count // cols)
    figure, axes = panels(lines, cols, lines * height + 0.5, max(WIDTH, width * cols), **options)
    for ax in axes.flat[count:]:
        ax.remove()
    return figure, list(axes.flat[:count])


def points(ax, x, look: dict, middle, low=np.nan, high=np.nan):
    """Marks joined by a line, with bars from ``low`` to ``high`` (NaN: none)."""
    middle = np.asarray(middle, float)
    ax.errorbar(x, middle, [middle - low, high - middle], capsize=2, elinewidth=0.9, **look)


def rows(ax, labels, middle, low, high, looks: list[dict]):
    """One row per label from top to bottom: a mark, and a bar from ``low`` to ``high`` (NaN: none)."""
    place = np.arange(len(labels))[::-1]
    for y, x, a, b, look in zip(place, middle, low, high, looks):
        ax.errorbar(x, y, xerr=[[x - a], [b - x]], capsize=2.5, linewidth=1.3, **look | {"linestyle": "none"})
    ax.set_yticks(place, labels)
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(5))


def row_panels(
    parts: dict[str, pd.DataFrame], columns: tuple, look: Callable, words: str, entries: dict | None = None, **options
) -> Figure:
    """A panel of `rows` per table: ``columns`` label, middle, low, high; ``look``: of its rows, named in ``entries``.

    All panels have one scale, unless ``sharex=False``: where lengths are compared, a panel's own scale misleads.
    """
    count = max(map(len, parts.values()), default=0)
    height = (0.28 if count <= 12 else 0.2) * count + 0.5  # inches; many rows stand closer
    figure, axes = grid(max(1, len(parts)), 3, height, 2.7, **{"sharex": True} | options)
    for ax, (title, part) in zip(axes, parts.items()):
        rows(ax, *(part[c] for c in columns), [look(row) for row in part.itertuples()])
        ax.set_title(title, fontsize=8)
        ax.tick_params(labelbottom=True)
    if not count:
        axes[0].set_axis_off()
    legend_below(figure, (entries or {}) if count else {}, words if count else "nothing to compare with these runs")
    return figure


def zero(axes, value: float = 0, across: bool = False):
    """The line at no difference: upright, or ``across``."""
    for ax in np.ravel(axes):
        (ax.axhline if across else ax.axvline)(value, color=INK, linewidth=0.9, zorder=1)


def curve(ax, x, series: np.ndarray, look: dict):
    """Mean of (seed, x) as a line, one standard deviation over seeds (ddof 1) as a band; nothing where all is NaN."""
    if np.isnan(series).all():
        return
    mean = series.mean(0)
    ax.plot(x, mean, markevery=max(1, len(mean) // 6), **look)
    if len(series) > 1:
        sd = series.std(0, ddof=1)
        ax.fill_between(x, mean - sd, mean + sd, color=look["color"], alpha=0.18, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def ratio_axis(ax):
    """Powers of two on the vertical axis, 1 in the middle."""
    ax.set_yscale("log", base=2)
    low, high = ax.get_ylim()
    far = max(2.2, high, 1 / low)
    ax.set_ylim(1 / far, far)
    ax.yaxis.set_major_locator(FixedLocator([2.0**k for k in range(-8, 9) if 1 / far < 2.0**k < far]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if v >= 1 else f"1/{1 / v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    zero(ax, 1, across=True)


def codes(ax, values: np.ndarray, colours: list[str], title: str):
    """Image of integers (y, x), row 0 on top: 0 is `NONE_COLOUR`, code k is ``colours[k - 1]``."""
    palette = ListedColormap([NONE_COLOUR, *colours])
    ax.imshow(values, cmap=palette, vmin=-0.5, vmax=len(colours) + 0.5, interpolation="nearest")
    ax.set_title(title)


def band(ax, values: np.ndarray, title: str, label: str, **options):
    """Image of one band (y, x) with its colour bar; NaN is `NONE_COLOUR`."""
    image = ax.imshow(np.ma.masked_invalid(values), interpolation="nearest", **options)
    ax.set(facecolor=NONE_COLOUR, title=title)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85, pad=0.02)
