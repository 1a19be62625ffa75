"""The first picture of a study: which branch is left behind by joint training, and does rebalancing bring it back?"""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from .. import metrics
from ..report.scores import probe_oa
from ..study.plan import Plan
from ..study.provenance import PLAIN
from .style import FAINT, legend_below, looks_of, panels, save, styled
from .training import select

METHODS = ("late", "concat", "prsanet")  # alone, joint, joint and rebalanced
WORDS = {"late": "trained alone", "concat": "inside concat (joint)", "prsanet": "inside prsanet (rebalanced)"}


def draw(study: Plan, results: Path, train: Callable[[list], object], say: Callable[[str], None] = print) -> None:
    """Train the first seed of `METHODS` on one scene of a study and save the first picture of it.

    ``train``: called with the runs that are needed, `prsa.study.run` for one.
    """
    scene = "sim-tri" if "sim-tri" in study.sources else study.sources[0]
    early = [s for s in study.specs if (s.scene, s.seed, s.overrides) == (scene, 0, ()) and s.method in METHODS]
    train(early)
    stem = results / "figures" / f"first_look_{PLAIN.sub('-', study.source(scene).name)}"
    say(f"first look: {save(first_look(study.open(early)), stem)[0]}")


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def _fused(run: xr.Dataset) -> float:
    return float(metrics.points(metrics.oa(run["confusion"].sel(part="test", head="fused").values)))


@styled
def first_look(runs: Iterable[xr.Dataset], scene: str | None = None) -> Figure:
    """Test accuracy of every branch trained alone and inside joint networks, and of all sensors together.

    ``runs``: of `METHODS` (those that are there, late and concat at least) on one ``scene``; means over their seeds.
    Raises `PrsaError` for runs of several scenes without a name.
    """
    runs = list(runs)
    chosen = {m: select(runs, m, scene) for m in METHODS if m in {run.attrs["method"] for run in runs}}
    joint, names = chosen["concat"][0], chosen["concat"][0]["modality"].values.tolist()
    lines = {f"{m} branch": {k: _mean(probe_oa(run, m) for run in own) for k, own in chosen.items()} for m in names}
    gaps = {m: lines[f"{m} branch"]["late"] - lines[f"{m} branch"]["concat"] for m in names}
    lines["all sensors"] = {k: _mean(map(_fused, own)) for k, own in chosen.items()}
    worst = max(gaps, key=gaps.get)
    looks = looks_of(METHODS)
    figure, ((ax,),) = panels(1, 1, 0.62 * len(lines) + 1.35, 6.2)
    side = blended_transform_factory(ax.transAxes, ax.transData)
    for y, values in zip(range(len(lines))[::-1], lines.values()):
        ax.annotate("", (values["concat"], y), (values["late"], y), arrowprops={"arrowstyle": "->", "color": FAINT})
        for method, x in values.items():
            ax.plot(x, y, **looks[method] | {"linestyle": "none", "markersize": 8})
    for place, method in zip((1.14, 1.3), [m for m in chosen if m != "late"]):
        of = {"transform": side, "ha": "right", "color": looks[method]["color"]}
        ax.text(place, len(lines) - 0.45, method, fontsize=8, va="bottom", **of)
        for y, values in zip(range(len(lines))[::-1], lines.values()):
            ax.text(place, y, f"{values[method] - values['late']:+.1f}", fontsize=9, va="center", **of)
    ax.text(
        1.3, len(lines) - 0.1, "points, minus alone", transform=side, fontsize=8, color=FAINT, ha="right", va="bottom"
    )
    ax.set_yticks(range(len(lines))[::-1], lines)
    ax.set(xlabel="test accuracy (%)", ylim=(-0.6, len(lines) - 0.4))
    ax.grid(axis="y", visible=False)
    ax.axhline(0.5, color=FAINT, linewidth=0.6)
    left = f"the {worst} branch is left behind most:\n{gaps[worst]:.1f} points below what it reaches alone"
    name = joint.attrs["scene"]
    ax.set_title(
        f"{name}: {left if gaps[worst] > 0 else 'no branch is left behind'}", x=0, ha="left", pad=18, fontsize=10
    )
    entries = {WORDS[method]: looks[method] | {"linestyle": "none"} for method in chosen}
    count = len(chosen["concat"])
    over = f"means over {count} seeds" if count > 1 else "one training each: an example, not a result"
    legend_below(figure, entries, f"{over}\nall sensors, trained alone: late fusion")
    return figure
