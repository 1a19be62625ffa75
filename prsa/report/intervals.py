"""The one summary of paired numbers: estimate, 95 % interval, how many, and how the interval was made.

Every table, figure and notebook uses it. Values are given by (scene, seed). Several scenes speak about new scenes: a
bootstrap draws scenes first and seeds within them. One scene speaks about new training runs on it: Student's t over
seeds. With too few values there is no interval, and the summary says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

UNBOUNDED = (-np.inf, np.inf)
POINTS = (-100.0, 100.0)  # of a difference of accuracies
CORRELATION = (-1.0, 1.0)
FEWEST = 3  # seeds of one scene, or scenes of a group, from which an interval says anything
DRAWS = 10_000  # of the bootstrap
Values = Mapping[tuple[str, int], float]  # (scene, seed) -> value; a series with this index will do


@dataclass(frozen=True)
class Summary:
    """Mean over scenes and seeds, its 95 % interval (NaN: none), over how many of either, and the interval's method."""

    estimate: float
    lo: float
    hi: float
    n_scenes: int
    n_seeds: int
    method: str

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Estimate and both ends of the interval, as tables store them."""
        return self.estimate, self.lo, self.hi

    def text(self, decimals: int = 1, sign: str = "+") -> str:
        """``+1.2 [0.3, 2.1]``, or ``+1.2 (no interval: fewer than three seeds)``; ``sign="-"``: a plus is not shown."""
        if np.isnan(self.estimate):
            return self.method
        return text(*self.numbers, decimals, sign) + ("" if np.isfinite(self.lo) else f" ({self.method})")

    __str__ = text


def number(value: float, decimals: int, sign: str = "-") -> str:
    """A rounded number as text, never a negative zero; empty for a missing one."""
    return "" if np.isnan(value) else format(round(float(value), decimals) + 0.0, f"{sign}.{decimals}f")


def text(estimate: float, lo: float, hi: float, decimals: int = 1, sign: str = "+") -> str:
    """``+1.2 [0.3, 2.1]`` from the three numbers of a table; without brackets where there is no interval."""
    bounds = f" [{number(lo, decimals)}, {number(hi, decimals)}]" if np.isfinite(lo) else ""
    return number(estimate, decimals, sign) + bounds


def complete(values: Values) -> dict[tuple[str, int], float]:
    """The finite values, of the seeds that every scene has."""
    found = {key: float(value) for key, value in values.items() if np.isfinite(value)}
    scenes = dict.fromkeys(scene for scene, _ in found)
    return {key: value for key, value in found.items() if all((scene, key[1]) in found for scene in scenes)}


def summarise(values: Values, bounds: tuple[float, float] = UNBOUNDED) -> Summary:
    """Mean and 95 % interval of the `complete` values; ``bounds``: what the quantity can be at most. Source: ours.

    Three or more scenes: percentiles of a bootstrap with a fixed stream; bootstrapped means keep to the bounds by
    themselves. One scene with three or more seeds: Student's t, cut at the bounds; for `CORRELATION` it is taken on
    Fisher's z = artanh r, where the half-width of r is divided by 1 - r^2 (delta method), and brought back. Otherwise
    no interval (NaN): two values, or two scenes, do not say how far the next one may lie. No values: all NaN.
    """
    values = complete(values)
    scenes, seeds = (list(dict.fromkeys(key[i] for key in values)) for i in (0, 1))
    if not values:
        return Summary(np.nan, np.nan, np.nan, 0, 0, "nothing to compare")
    table = np.array([[values[scene, seed] for seed in seeds] for scene in scenes])  # (scene, seed)
    mean, lo, hi = float(table.mean()), np.nan, np.nan
    if len(scenes) >= FEWEST:
        method, rng = "bootstrap over scenes, then seeds", np.random.default_rng(0)
        drawn = rng.integers(len(scenes), size=(DRAWS, len(scenes), 1))
        inner = rng.integers(len(seeds), size=(DRAWS, *table.shape))
        lo, hi = np.percentile(table[drawn, inner].mean((1, 2)), [2.5, 97.5])
    elif len(scenes) == 1 and len(seeds) >= FEWEST:
        method = "Student's t over seeds"
        half = stdtrit(table.size - 1, 0.975) * table.std(ddof=1) / np.sqrt(table.size) * np.array([-1, 1])
        if bounds == CORRELATION and abs(mean) < 1:
            lo, hi = np.tanh(np.arctanh(mean) + half / (1 - mean**2))
        else:
            lo, hi = np.clip(mean + half, *bounds)
    else:
        method = "no interval: " + ("fewer than three seeds" if len(scenes) == 1 else "two scenes")
    return Summary(mean, float(lo), float(hi), len(scenes), len(seeds), method)


def difference(a: Values, b: Values) -> dict[tuple[str, int], float]:
    """a - b by (scene, seed), where both have a value: such runs start from the same random numbers."""
    a, b = dict(a.items()), dict(b.items())
    return {key: value - b[key] for key, value in a.items() if key in b}


def paired(a: Values, b: Values, bounds: tuple[float, float] = UNBOUNDED) -> Summary:
    """`summarise` of the `difference` a - b."""
    return summarise(difference(a, b), bounds)


def critical_difference(n_methods: int, n_scenes: int, alpha: float = 0.05) -> float:
    """Nemenyi: mean ranks of two of k methods on N scenes differ when they are q sqrt(k (k + 1) / (6 N)) or more apart.

    q: quantile of the Studentised range for infinite degrees of freedom, divided by sqrt(2). Scenes count, not runs:
    seeds of one scene are not independent. Source: Demsar, JMLR 7 (2006).
    """
    from scipy import stats

    q = stats.studentized_range.ppf(1 - alpha, n_methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_scenes)))
