"""Figures of run files: what happens in training, and what branches make of the classes. Bands: ± sd over seeds."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ..errors import PrsaError
from ..report.intervals import summarise
from ..report.scores import probe_oa
from .shapes import curve, grid, ratio_axis, row_panels, rows, zero
from .style import FUSED, class_looks, legend_below, looks_of, panels, styled


def select(runs: Iterable[xr.Dataset], method: str, scene: str | None = None) -> list[xr.Dataset]:
    """Runs of a method without overrides, by seed; raises `PrsaError` for none, or for those of several scenes."""
    runs = list(runs)
    own = [run for run in runs if run.attrs["method"] == method and not run.attrs.get("variant")]
    found = [run for run in own if scene in (None, run.attrs["scene"])]
    if len({run.attrs["scene"] for run in found}) != 1:
        have = ", ".join(sorted({f"{run.attrs['scene']}/{run.attrs['method']}" for run in runs}))
        raise PrsaError(
            f"expected runs of {method!r} on {scene or 'one scene'}, got {have or 'no runs'}. "
            "Either they are not trained (run that method first) or of several scenes (pass scene=...)."
        )
    return sorted(found, key=lambda run: int(run.attrs["seed"]))


def _curves(ax, runs: list[xr.Dataset], look: dict, variable: str, scale: float = 1, **where):
    series = np.stack([scale * run[variable].sel(where).values for run in runs])  # (seed, epoch)
    curve(ax, runs[0]["epoch"], series, look)
    ax.set_xlabel("epoch")


def _seeds(runs: list) -> str:
    return f"mean ± sd over {len(runs)} seeds" if len(runs) > 1 else "one seed"


@styled
def learning_curves(runs, method: str = "prsanet", scene: str | None = None) -> Figure:
    """Accuracy of the fused network and of every branch (prototype classifier) over the epochs of training."""
    runs = select(runs, method, scene)
    looks = looks_of(runs[0]["modality"].values.tolist())
    figure, (axes,) = panels(1, 2, 2.9, sharey=True)
    for ax, part, title in zip(axes, ("train", "val"), ("training pixels", "validation pixels")):
        _curves(ax, runs, FUSED, "accuracy", 100, watched=part)
        for m, look in looks.items():
            _curves(ax, runs, look, "branch_accuracy", 100, watched=part, modality=m)
        ax.set_title(title)
    axes[0].set_ylabel("accuracy (%)")
    branches = {f"{m} branch": look for m, look in looks.items()}
    legend_below(figure, {"fused": FUSED} | branches, f"{method}, {_seeds(runs)}")
    return figure


@styled
def imbalance_factor(runs, methods=("concat", "concat+prm", "prsanet"), scene: str | None = None) -> Figure:
    """Imbalance factor of every modality over the epochs of training, a line per method."""
    chosen, looks = {method: select(runs, method, scene) for method in methods}, looks_of(methods)
    names = chosen[methods[0]][0]["modality"].values.tolist()
    figure, (axes,) = panels(1, len(names), 2.9, sharey=True)
    for ax, m in zip(axes, names):
        for method, part in chosen.items():
            _curves(ax, part, looks[method], "rho", modality=m)
        ax.set_title(m)
        ratio_axis(ax)
    axes[0].set_ylabel("imbalance factor ρ (ratio)")
    legend_below(figure, looks, f"1 = balanced; {_seeds(chosen[methods[0]])}")
    return figure


@styled
def gradients(runs, methods=("concat", "prsanet"), scene: str | None = None) -> Figure:
    """Gradient norm of every encoder (above) and cosine between the gradients of fused and prototype loss (below)."""
    chosen = {method: select(runs, method, scene) for method in methods}
    looks = looks_of(chosen[methods[0]][0]["modality"].values.tolist())
    figure, axes = panels(2, len(methods), 4.4, sharey="row", sharex=True)
    for column, (method, part) in zip(axes.T, chosen.items()):
        for ax, variable in zip(column, ("grad_norm", "grad_cosine")):
            for m, look in looks.items():
                _curves(ax, part, look, variable, modality=m)
        column[0].set(title=method, xlabel="")
    axes[0, 0].set(ylabel="gradient norm (no unit)", ylim=(0, None))
    axes[1, 0].set_ylabel("cosine of fused-loss and\nprototype-loss gradients")
    zero(axes[1], across=True)
    legend_below(figure, looks, _seeds(chosen[methods[0]]))
    return figure


@styled
def branch_agreement(runs, methods=("concat", "sagf", "prsanet"), scene: str | None = None) -> Figure:
    """Jensen-Shannon divergence between the class probabilities of the branches over the epochs: 0 = they agree."""
    chosen, looks = {method: select(runs, method, scene) for method in methods}, looks_of(methods)
    figure, ((ax,),) = panels(1, 1, 3.2)
    for method, part in chosen.items():
        _curves(ax, part, looks[method], "js")
    ax.set(ylabel="JS divergence of branches (nats)", ylim=(0, None))
    legend_below(figure, looks, _seeds(chosen[methods[0]]))
    return figure


@styled
def fusion_alignment(runs, methods=("concat", "sagf", "concat+prm", "prsanet"), scene: str | None = None) -> Figure:
    """How far the fused features follow the classes, 0 (not at all) to 1: linear CKA with the classes, eta squared."""
    parts, looks = {}, looks_of(methods)
    for variable, title in (("cka", "linear CKA"), ("eta2", "eta squared")):
        values = [{("", run.attrs["seed"]): float(run[variable]) for run in select(runs, m, scene)} for m in methods]
        found = [summarise(of, (0, 1)) for of in values]
        parts[title] = pd.DataFrame(
            [(m, *of.numbers) for m, of in zip(methods, found)], columns=["method", "mean", "lo", "hi"]
        )
    words = f"0 = independent of the classes, 1 = determined by them\n{found[0].method}"
    figure = row_panels(parts, ("method", "mean", "lo", "hi"), lambda row: looks[row.method], words, sharey=True)
    figure.axes[0].set_xlim(0, 1)
    return figure


@styled
def alone_or_joint(joint: xr.Dataset, alone) -> Figure:
    """Every branch trained alone and inside a joint network: optimisation degree s over epochs, then a linear probe.

    ``alone``: a late run, or runs of one modality each. Raises `PrsaError` when none is of a modality of ``joint``.
    """
    by = {m: run for run in (alone if isinstance(alone, list) else [alone]) for m in run["modality"].values.tolist()}
    names = [m for m in joint["modality"].values.tolist() if m in by and joint.sizes["modality"] > 1]
    if not names:
        raise PrsaError(
            f"expected a run of several modalities, then runs of these alone, got {joint['modality'].values.tolist()} "
            f"and {list(by)}. Either the order is wrong (pass the joint run first) or the scene is another."
        )
    method = joint.attrs["method"]
    looks = {"alone": looks_of(["late"])["late"], f"inside {method}": looks_of([method])[method]}
    figure, axes = grid(len(names) + 1, 4, 2.4, 2.0)
    for of, look in zip((by, dict.fromkeys(names, joint)), looks.values()):
        for ax, m in zip(axes, names):
            _curves(ax, [of[m]], look, "s", modality=m)
            ax.set(title=f"{m} branch", ylim=(0, 1))
        rows(axes[-1], names, [probe_oa(of[m], m) for m in names], *[[np.nan] * len(names)] * 2, [look] * len(names))
    axes[0].set_ylabel("optimisation degree s (0 to 1)")
    axes[-1].set(title="linear probe", xlabel="test OA (%)", xlim=(0, 100))
    legend_below(figure, looks)
    return figure


def _unit(x) -> np.ndarray:
    x = np.asarray(x, float)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _plane(z: np.ndarray, prototypes: np.ndarray, kind: str):
    """Features (n, D) and prototypes (K, D) on the unit sphere -> both in a plane, and the labels of its axes."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if kind == "pca":
        pca = PCA(2, svd_solver="full").fit(z)
        words = [f"PC {i} ({100 * s:.0f} % of variance)" for i, s in enumerate(pca.explained_variance_ratio_, 1)]
        return pca.transform(z), pca.transform(prototypes), words
    if kind != "tsne":
        raise PrsaError(f"expected kind 'pca' or 'tsne', got {kind!r}. Choose one of the two.")
    together = np.concatenate([z, prototypes])
    flat = TSNE(2, perplexity=min(30, (len(together) - 1) / 3), init="pca", random_state=0).fit_transform(together)
    return flat[: len(z)], flat[len(z) :], ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]


@styled
def feature_planes(run: xr.Dataset, kind: str = "pca") -> Figure:
    """Test features of every branch (marks) and its prototypes (stars) in a plane: PCA, or t-SNE with a fixed seed."""
    names, looks = run["modality"].values.tolist(), class_looks(run["class"].values.tolist(), dash=False)
    star = {"marker": "*", "markersize": 11, "markeredgecolor": "black", "markeredgewidth": 0.8, "linestyle": "none"}
    figure, axes = grid(len(names), 2, 3.0, 3.4)
    for ax, m in zip(axes, names):
        prototypes = run["prototypes"].sel(modality=m).values.astype(float)
        seen = np.flatnonzero(np.isfinite(prototypes).all(1) & (np.abs(prototypes).sum(1) > 0))
        marks, stars, words = _plane(_unit(run["features"].sel(modality=m)), _unit(prototypes[seen]), kind)
        for k, look in enumerate(looks.values()):
            ax.plot(*marks[run["sample_label"].values == k + 1].T, **look | {"markersize": 3.5, "alpha": 0.7})
        for k, place in zip(seen, stars):
            ax.plot(*place, **star, color=list(looks.values())[k]["color"])
        ax.set(title=m, xlabel=words[0], ylabel=words[1])
    legend_below(figure, looks | {"prototype": star | {"color": "white"}})
    return figure


def similarity(runs: list[xr.Dataset], modality: str) -> np.ndarray:
    """Cosine similarity (K, K) between the prototypes of a branch, mean over the runs."""
    unit = [_unit(run["prototypes"].sel(modality=modality)) for run in runs]
    return np.mean([u @ u.T for u in unit], axis=0)


@styled
def prototype_similarities(runs: list[xr.Dataset]) -> Figure:
    """Cosine similarity between the class prototypes of every branch, mean over runs: what a sensor confuses."""
    import seaborn as sns

    modalities, classes = runs[0]["modality"].values.tolist(), runs[0]["class"].values.tolist()
    figure, axes = grid(len(modalities), 2, 3.2, 3.2, layout="compressed", sharey=True, sharex=True)
    for ax, m in zip(axes, modalities):
        sns.heatmap(similarity(runs, m), vmin=-1, vmax=1, cmap="vlag", square=True, cbar=False, ax=ax, linewidths=0.4)
        ax.set_xticks(np.arange(len(classes)) + 0.5, classes, rotation=90)
        ax.set_yticks(np.arange(len(classes)) + 0.5, classes, rotation=0)
        ax.tick_params(length=0, labelsize=7, labelbottom=True)
        ax.set_title(f"{m} prototypes")
    figure.colorbar(axes[0].collections[0], ax=axes, label="cosine similarity", shrink=0.8)
    return figure
