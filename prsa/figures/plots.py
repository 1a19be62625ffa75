"""One function per figure of curves and features (tables: `prsa.figures.table_plots`, maps: `prsa.figures.maps`). No torch, no training: run files in, figure out.

A function that needs one axes takes ``ax`` (None: a new figure) and returns it; one that needs several returns the figure. `save` writes
either. Bands are mean ± sd over seeds (ddof 1), error bars are 95 % Student t intervals unless the axis says otherwise.
"""

from collections.abc import Iterable

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from .. import metrics
from ..errors import PrsaError
from .style import (
    FUSED_COLOUR,
    MARKERS,
    axes,
    class_colours,
    error_lengths,
    legend_above,
    legend_below,
    method_colour,
    modality_colours,
    panels,
    save,
    styled,
)

__all__ = [
    "branch_agreement",
    "feature_plane",
    "feature_planes",
    "fusion_correlation",
    "gradients",
    "imbalance_factor",
    "learning_curves",
    "prototype_similarities",
    "prototype_similarity",
    "save",
]


def select(runs: Iterable[xr.Dataset], method: str, scene: str | None = None) -> list[xr.Dataset]:
    """Default runs (no overrides) of a method in order of seed; raises `PrsaError` if there are none or they are of several scenes."""
    runs = list(runs)
    found = [
        r
        for r in runs
        if r.attrs["method"] == method and not r.attrs.get("variant") and scene in (None, r.attrs["scene"])
    ]
    if not found:
        have = sorted({f"{r.attrs['scene']}/{r.attrs['method']}" for r in runs})
        raise PrsaError(
            f"expected runs of {method!r}{f' on {scene}' if scene else ''}, got {', '.join(have) or 'no runs'}. Run that method first."
        )
    scenes = sorted({r.attrs["scene"] for r in found})
    if len(scenes) > 1:
        raise PrsaError(f"expected runs of one scene, got {', '.join(scenes)}. Pass scene=... to choose.")
    return sorted(found, key=lambda r: int(r.attrs["seed"]))


def _curve(ax, runs, variable, colour, label, style="-", scale=1.0, **where):
    """Mean line over seeds with its sd band; a series that was not measured (all NaN) is left out."""
    series = xr.concat([r[variable].sel(where) for r in runs], "seed", join="exact").transpose("seed", "epoch")
    values, epoch = scale * series.values, series["epoch"].values
    if np.isnan(values).all():
        return None
    mean = values.mean(0)
    (line,) = ax.plot(epoch, mean, style, color=colour, label=label)
    if len(values) > 1:
        sd = values.std(0, ddof=1)
        ax.fill_between(epoch, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return line


def _seeds(runs) -> str:
    return f"mean ± sd over {len(runs)} seeds" if len(runs) > 1 else "one seed"


def _ratio_axis(ax):
    ax.set_yscale("log", base=2)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.45), max(high, 2.2))  # so that at least 1/2, 1 and 2 are named
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


@styled
def learning_curves(runs, method: str = "prsanet", scene: str | None = None) -> Figure:
    """Accuracy over epochs of the fused head and of every branch (prototype classifier): training left, validation right."""
    runs = select(runs, method, scene)
    colours = modality_colours(runs[0]["modality"].values.tolist())
    fig, axs = panels(1, 2, 2.9, sharey=True)
    for ax, part, title in zip(axs[0], ("train", "val"), ("training pixels", "validation pixels")):
        lines = [_curve(ax, runs, "accuracy", FUSED_COLOUR, "fused", scale=100, watched=part)]
        lines += [
            _curve(ax, runs, "branch_accuracy", c, f"{m} branch", scale=100, watched=part, modality=m)
            for m, c in colours.items()
        ]
        ax.set_title(title)
        ax.set_xlabel("epoch")
    axs[0, 0].set_ylabel("accuracy (%)")
    handles = [
        Line2D([], [], color=FUSED_COLOUR, label="fused"),
        *(Line2D([], [], color=c, label=f"{m} branch") for m, c in colours.items()),
    ]
    legend_below(fig, handles, f"{method}, {_seeds(runs)}")
    return fig


@styled
def imbalance_factor(runs, methods=("concat", "concat+prm", "prsanet"), scene: str | None = None) -> Figure:
    """Imbalance factor rho_m over epochs, a panel per modality and a line per method, on a log axis with the balance line at 1."""
    chosen = {method: select(runs, method, scene) for method in methods}
    first = chosen[methods[0]]
    names = first[0]["modality"].values.tolist()
    fig, axs = panels(1, len(names), 2.9, sharey=True)
    for ax, m in zip(axs[0], names):
        for method, style in zip(methods, ("-", "--", "-.", ":") * len(methods)):
            _curve(ax, chosen[method], "rho", method_colour(method), method, style, modality=m)
        ax.axhline(1, color="#666666", linewidth=0.9, zorder=1)
        _ratio_axis(ax)
        ax.set_title(m)
        ax.set_xlabel("epoch")
    axs[0, 0].set_ylabel("imbalance factor ρ (ratio)")
    handles = [
        Line2D([], [], color=method_colour(k), linestyle=s, label=k)
        for k, s in zip(methods, ("-", "--", "-.", ":") * len(methods))
    ]
    legend_below(fig, handles, f"1 = balanced; {_seeds(first)}")
    return fig


@styled
def gradients(runs, method: str = "prsanet", scene: str | None = None) -> Figure:
    """Gradient norm of every encoder and cosine between the fused-loss and prototype-loss gradients on z, over epochs."""
    runs = select(runs, method, scene)
    colours = modality_colours(runs[0]["modality"].values.tolist())
    fig, axs = panels(1, 2, 2.9)
    for ax, variable, label in zip(
        axs[0],
        ("grad_norm", "grad_cosine"),
        ("gradient norm (no unit)", "cosine between fused-loss\nand prototype-loss gradients"),
    ):
        for m, c in colours.items():
            _curve(ax, runs, variable, c, m, modality=m)
        ax.set_ylabel(label)
        ax.set_xlabel("epoch")
    axs[0, 0].set_ylim(bottom=0)
    axs[0, 1].axhline(0, color="#666666", linewidth=0.9, zorder=1)
    legend_below(fig, [Line2D([], [], color=c, label=m) for m, c in colours.items()], f"{method}, {_seeds(runs)}")
    return fig


@styled
def branch_agreement(runs, methods=("concat", "sagf", "prsanet"), scene: str | None = None, ax=None):
    """Jensen-Shannon divergence between the branches' category posteriors over epochs: 0 = the branches agree."""
    ax = axes(ax, 3.0)
    chosen = {method: select(runs, method, scene) for method in methods}
    lines = [
        _curve(ax, part, "js", method_colour(k), k, s)
        for (k, part), s in zip(chosen.items(), ("-", "--", "-.", ":") * len(methods))
    ]
    ax.set_ylabel("JS divergence of branches (nats)")
    ax.set_ylim(bottom=0)
    legend_above(ax, [line for line in lines if line], _seeds(chosen[methods[0]]))
    return ax


def _plane(features, prototypes, kind):
    """Features (n, D) and prototypes (K, D) on the unit sphere -> both in a plane, axis labels."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    z = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if kind == "pca":
        pca = PCA(2, svd_solver="full").fit(z)
        share = 100 * pca.explained_variance_ratio_
        return (
            pca.transform(z),
            pca.transform(prototypes),
            [f"PC {i + 1} ({s:.0f} % of variance)" for i, s in enumerate(share)],
        )
    if kind != "tsne":
        raise PrsaError(f"expected kind 'pca' or 'tsne', got {kind!r}. Choose one of the two.")
    together = np.concatenate([z, prototypes])
    flat = TSNE(2, perplexity=min(30, (len(together) - 1) / 3), init="pca", random_state=0).fit_transform(together)
    return flat[: len(z)], flat[len(z) :], ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]


def _class_handles(names, prototype=True):
    marks = [
        Line2D([], [], linestyle="", marker=MARKERS[k % len(MARKERS)], color=c, label=n)
        for k, (n, c) in enumerate(zip(names, class_colours(len(names))))
    ]
    return (
        marks
        + [
            Line2D(
                [],
                [],
                linestyle="",
                marker="*",
                markersize=10,
                color="white",
                markeredgecolor="black",
                label="prototype",
            )
        ]
        * prototype
    )


@styled
def feature_plane(run: xr.Dataset, modality: str, kind: str = "pca", ax=None, legend: bool = True):
    """Test features of a branch (dots) and its prototypes (stars) on the unit sphere, projected by PCA or t-SNE with a fixed seed."""
    ax = axes(ax, 4.2)
    names = run["class"].values.tolist()
    features, labels = run["features"].sel(modality=modality).values.astype(float), run["sample_label"].values
    prototypes = run["prototypes"].sel(modality=modality).values.astype(float)
    seen = np.flatnonzero(np.isfinite(prototypes).all(1) & (np.abs(prototypes).sum(1) > 0))
    prototypes = prototypes[seen] / np.linalg.norm(prototypes[seen], axis=1, keepdims=True)
    points, stars, labels_xy = _plane(features, prototypes, kind)
    for k, colour in enumerate(class_colours(len(names))):
        mine = points[labels == k + 1]
        ax.scatter(
            *mine.T, s=9, marker=MARKERS[k % len(MARKERS)], color=colour, alpha=0.65, linewidths=0, label=names[k]
        )
    ax.scatter(
        *stars.T,
        s=110,
        marker="*",
        c=[class_colours(len(names))[k] for k in seen],
        edgecolors="black",
        linewidths=0.8,
        zorder=3,
        label="prototype",
    )
    ax.set(xlabel=labels_xy[0], ylabel=labels_xy[1], title=modality)
    if legend:
        ax.set_title("")
        legend_above(ax, _class_handles(names), f"{modality} branch")
    return ax


@styled
def feature_planes(run: xr.Dataset, kind: str = "pca") -> Figure:
    """`feature_plane` of every modality side by side with one class legend."""
    names = run["modality"].values.tolist()
    cols = min(len(names), 2)
    rows = -(-len(names) // cols)
    fig, axs = panels(rows, cols, 2.4 * rows + 0.9)
    for ax, m in zip(axs.flat, names):
        feature_plane(run, m, kind, ax, legend=False)
    for ax in axs.flat[len(names) :]:
        ax.remove()
    legend_below(fig, _class_handles(run["class"].values.tolist()))
    return fig


def _similarity(prototypes):
    unit = prototypes / np.maximum(np.linalg.norm(prototypes, axis=-1, keepdims=True), 1e-12)
    return unit @ unit.T


@styled
def prototype_similarity(runs, modality: str, ax=None, names: bool = True, bar: bool = True):
    """Cosine similarity between the prototypes of a branch, mean over the given runs: which classes does this sensor confuse?

    Classes are numbered on both axes; ``names`` adds their names on the vertical one.
    """
    runs = [runs] if isinstance(runs, xr.Dataset) else list(runs)
    classes = runs[0]["class"].values.tolist()
    ax = axes(ax, 3.6, "compressed")
    matrix = np.mean([_similarity(r["prototypes"].sel(modality=modality).values.astype(float)) for r in runs], axis=0)
    numbers = [str(k + 1) for k in range(len(classes))]
    across = [
        n if len(classes) < 10 or k % 2 == 0 else "" for k, n in enumerate(numbers)
    ]  # two-digit numbers would touch
    sns.heatmap(
        matrix,
        ax=ax,
        vmin=-1,
        vmax=1,
        cmap="vlag",
        square=True,
        xticklabels=across,
        cbar=bar,
        linewidths=0.4,
        yticklabels=[f"{n}  {k}" for k, n in zip(numbers, classes)] if names else numbers,
        cbar_kws={"label": "cosine similarity", "shrink": 0.8},
    )
    ax.tick_params(axis="both", length=0, rotation=0)
    ax.set(title=f"{modality} prototypes", xlabel="class number", ylabel="" if names else "class number")
    return ax


@styled
def prototype_similarities(runs) -> Figure:
    """`prototype_similarity` of every modality with one colour bar and the numbers of the classes below."""
    runs = [runs] if isinstance(runs, xr.Dataset) else list(runs)
    modalities, classes = runs[0]["modality"].values.tolist(), runs[0]["class"].values.tolist()
    cols = min(2, len(modalities))
    rows = -(-len(modalities) // cols)
    fig, axs = panels(rows, cols, 2.35 * rows + 0.06 * len(classes) + 0.2, layout="compressed")
    used = list(axs.flat[: len(modalities)])
    for ax, m in zip(used, modalities):
        prototype_similarity(runs, m, ax, names=False, bar=False)
        ax.tick_params(labelsize=7)
    for ax in axs.flat[len(modalities) :]:
        ax.set_axis_off()
    fig.colorbar(used[0].collections[0], ax=used, label="cosine similarity", shrink=0.8)
    legend_below(fig, [Line2D([], [], linestyle="", label=f"{k}  {name}") for k, name in enumerate(classes, 1)])
    return fig


@styled
def fusion_correlation(runs, methods=("concat", "sagf", "concat+prm", "prsanet"), scene: str | None = None, ax=None):
    """Correlation of the fused features with the categories, without (concat) and with SAGF: linear CKA and eta squared, 95 % intervals."""
    ax = axes(ax, 3.0)
    measures = {"cka": "linear CKA", "eta2": "eta squared"}
    chosen = {method: select(runs, method, scene) for method in methods}
    offsets = np.linspace(-0.24, 0.24, len(methods)) if len(methods) > 1 else [0.0]
    marks = []
    for (method, part), dx, marker in zip(chosen.items(), offsets, MARKERS * len(methods)):
        means, lows, highs = np.array([metrics.mean_interval([float(r[v]) for r in part]) for v in measures]).T
        spread = error_lengths(means, lows, highs)
        marks.append(
            ax.errorbar(
                np.arange(2) + dx, means, spread, fmt=marker, color=method_colour(method), capsize=3, label=method
            )
        )
    ax.set_xticks([0, 1], list(measures.values()))
    ax.set(xlim=(-0.5, 1.5), ylim=(0, 1), ylabel="correlation with classes (0 to 1)")
    ax.grid(axis="x", visible=False)
    n = len(chosen[methods[0]])
    legend_above(ax, marks, f"mean and 95 % interval over {n} seeds" if n > 1 else "one seed")
    return ax
