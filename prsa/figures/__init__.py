"""Tables, run files and scenes to pictures. No torch, and nothing is computed here that a table could hold.

style     fonts, colours, dashes and markers; saving; the text for who cannot see a figure
shapes    what figures are made of: lines with bands or bars, rows with intervals, images
tables    accuracy, ranks, ablations, claims, robustness, the imbalance dial, leakage
training  curves over epochs, features and prototypes
scenes    what sensors see, labels and splits, maps
demo      the first picture of a study
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ..data.simulate import firsts
from ..report import claims
from ..report.diagnostics import area_drift, calibration
from . import demo, scenes, tables, training
from .style import save

OF_TABLES = (  # name of figures, their table, its column that they differ in (none: one figure), and who draws them
    ("accuracy_ranking", "accuracy", None, tables.accuracy_rankings),
    ("group_differences", "evaluation", None, tables.group_differences),
    ("rank_intervals", "ranking", None, tables.rank_intervals),
    ("ablation", "ablation", None, tables.ablation_bars),
    ("leave_one_out", "ablation", None, functools.partial(tables.ablation_bars, reference="prsanet")),
    ("probe_gap", "recovery", "group", tables.probe_gap),
    ("sensitivity", "sensitivity", "scene", tables.sensitivity_curves),
    ("claims", "claims", None, tables.verdicts),
    ("claims", "claims", "scene", tables.forest),
    ("robustness", "robustness", "group", tables.robustness),
    ("dial", "dial", "kind", tables.curves),
)


def _of_tables(found: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    for stem, name, column, draw in OF_TABLES:
        table = found.get(name, ())
        if len(table) and column is None:
            yield stem, draw(table)
        for value in dict.fromkeys(table[column]) if len(table) and column else ():
            if value != claims.ALL:  # stands in the figure of every group
                yield f"{stem}_{value}", draw(table, value)


def _of_runs(runs: list[xr.Dataset]) -> Iterator[tuple[str, Figure]]:
    """The networks of one scene with branches to look into: how they learn, and what they learn."""
    have = list(dict.fromkeys(run.attrs["method"] for run in runs))

    def only(*methods):
        return [method for method in methods if method in have] or have[:1]

    name, main = runs[0].attrs["scene"], only("concat", "prsanet")
    if {"late", "concat"} <= {*have}:
        yield f"first_look_{name}", demo.first_look(runs, name)
    for method in main:
        yield f"learning_curves_{method}_{name}", training.learning_curves(runs, method)
    yield f"imbalance_factor_{name}", training.imbalance_factor(runs, only("concat", "concat+prm", "prsanet"))
    yield f"gradients_{name}", training.gradients(runs, main)
    corners = only("concat", "sagf", "concat+prm", "prsanet")
    yield f"branch_agreement_{name}", training.branch_agreement(runs, corners)
    yield f"fusion_alignment_{name}", training.fusion_alignment(runs, corners)
    last = training.select(runs, main[-1])
    for kind in ("pca", "tsne"):
        yield f"{kind}_{name}", training.feature_planes(last[0], kind)
    yield f"similarity_{name}", training.prototype_similarities(last)


def _of_scene(scene, split, runs: list[xr.Dataset]) -> Iterator[tuple[str, Figure]]:
    """A scene, and what the networks made of it."""
    name, found = scene.attrs["name"], {}
    yield f"gallery_{name}", scenes.scene_gallery(scene, split)
    yield f"spectra_{name}", scenes.class_spectra(scene, split)
    yield f"drift_{name}", tables.drift_plot(area_drift(scene, split))
    for method in dict.fromkeys(run.attrs["method"] for run in runs):
        own = training.select(runs, method)
        found[method] = calibration(scene, split, own)
        if method in ("concat", "prsanet"):
            yield f"map_{method}_{name}", scenes.maps_panel(scene, own[0], split)
    if found:
        yield f"confidence_{name}", tables.confidence_plot(found)


def write_all(
    found: Mapping[str, pd.DataFrame],
    runs: Iterable[xr.Dataset] | None,
    folder,
    opened: Mapping[str, xr.Dataset] | None = None,
    splits: Mapping[str, xr.DataArray] | None = None,
) -> list[Path]:
    """Write every figure that there is something for, as PNG and PDF, and remove all others; returns the paths.

    ``found``: name -> table, see `prsa.report.write_all`; ``runs``: those of the study, or None; ``opened`` and
    ``splits``: scene name -> scene, split. Runs and scenes are looked at on the first scene of every group.
    """
    folder, paths = Path(folder), []
    runs = [run for run in runs or () if not run.attrs.get("variant")]

    def figures():
        yield from _of_tables(found)
        for name in firsts(dict.fromkeys([*(opened or ()), *(run.attrs["scene"] for run in runs)])):
            here = [run for run in runs if run.attrs["scene"] == name and int(run.attrs["probed"])]
            yield from _of_runs(here) if here else ()
            yield from _of_scene(opened[name], splits[name], here) if name in (opened or ()) else ()

    for stem, figure in figures():
        paths += save(figure, folder / re.sub(r"[^\w.+-]", "-", stem))
    for old in {*folder.glob("*.png"), *folder.glob("*.pdf")} - {*paths}:
        old.unlink()
    return paths


def redraw(folder, out) -> list[Path]:
    """Write the figures of the tables in a folder (CSV files) to another one; returns the paths."""
    found = {path.stem: pd.read_csv(path) for path in sorted(Path(folder).glob("*.csv"))}
    found = {name: table.fillna({"modality": ""}) if "modality" in table else table for name, table in found.items()}
    return write_all(found, None, out)
