"""Run files to tables, each as CSV, Markdown and LaTeX. Finished runs only: no torch, no training.

scores       the runs as two long tables: a row per run and method, a row per branch
intervals    the one summary of paired numbers: estimate, interval, how it was made
tables       the tables of the study, a function each
claims       the abstract's claims as a ledger of verdicts
robustness   degraded and missing sensors
dial         the imbalance dial
leakage      what a split leaks, and accuracy against distance
published    numbers of the literature beside ours
diagnostics  drift between areas, calibration
text         the columns of every table; CSV, Markdown, LaTeX
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import xarray as xr

from ..data.simulate import is_dial
from ..study.teaching import holds
from . import claims, dial, leakage, published, robustness, tables, text
from .scores import scores


def make_all(
    runs: Iterable[xr.Dataset], scenes: dict[str, xr.Dataset], splits: dict[str, xr.DataArray]
) -> dict[str, pd.DataFrame]:
    """Every table of `prsa.report.text.COLUMNS`, by name; notes for its reader are in ``attrs``, see `text.page`.

    ``scenes`` and ``splits``: by name, in the order of the rows. Runs of the imbalance dial count for the tables dial,
    trend and claims only, unless ``scenes`` names their scene. A table that no run is of has no rows; published needs
    the repository. Raises `PrsaError` when runs cannot be paired or one is given twice.
    """
    place = {name: i for i, name in enumerate(scenes)}
    runs = sorted(runs, key=lambda run: (place.get(run.attrs["scene"], len(place)), run.attrs["scene"]))
    found = scores(runs)
    study = found.loc[[name in scenes or not is_dial(name) for name in found["scene"]]]
    both = found.loc[study.index.union(dial.turned(found).index)]
    audited = [run for run in study["run"][~study["family"].isin(["single", "ablation"])] if holds(run, "map")]
    per_run = (tables.accuracy, tables.evaluation, tables.recovery, tables.per_class, tables.ranking, tables.ablation)
    per_run += (tables.imbalance, tables.sensitivity, tables.complexity, robustness.robustness)
    makers = {"datasets": (tables.datasets, scenes, splits)} | {make.__name__: (make, study) for make in per_run}
    makers |= {"dial": (dial.dial, both), "trend": (dial.trend, both), "claims": (claims.ledger, both)}
    makers |= {"leakage": (leakage.leakage, audited, scenes, splits.values())}
    made = {name: make(*of) for name, (make, *of) in makers.items()}
    notes = {name: [text.note(make)] for name, (make, *_) in makers.items()}
    notes["claims"] += claims.notes(made["claims"])
    if published.PUBLISHED.is_file():
        literature = made["accuracy"], made["datasets"], pd.read_csv(published.PUBLISHED)
        made["published"] = published.published(*literature)
        notes["published"] = [text.note(published.published), *published.reasons(*literature[1:]).values()]
    leaking = study["scene"][study["split"].str.contains("leaking")].unique().tolist()
    for name, table in made.items():
        intervals = [text.INTERVALS] * any(column.endswith("lo") for column in table)
        table.attrs = {"notes": [*notes[name], *intervals, *remarks(study)], "leaking": leaking}
    return made


def write_all(
    runs: Iterable[xr.Dataset], scenes: dict[str, xr.Dataset], splits: dict[str, xr.DataArray], folder: Path
) -> dict[str, pd.DataFrame]:
    """`make_all`, then each table as .csv, .md and .tex in a folder: nothing is written when one cannot be made."""
    made = make_all(runs, scenes, splits)
    for name, table in made.items():
        text.write(name, table, Path(folder))
    return made


def remarks(study: pd.DataFrame) -> list[str]:
    """What a reader must know of the scenes: simulated or not, a leaking split, classes without test pixels."""
    simulated = ", ".join(map(text.escaped, study["group"][study["simulated"].eq(1)].unique()))
    found = [f"Simulated: {simulated or 'none'}."]
    for scene, part in study.groupby("scene", sort=False):
        name, first = text.escaped(scene), part.iloc[0]
        if "leaking" in first["split"]:
            found.append(f"The split of {name} leaks: test patches hold training pixels, so accuracies are too high.")
        there = first["counts"].sum(1) > 0
        if not there.all():
            gone = ", ".join(map(text.escaped, first["run"]["class"].values[~there]))
            found.append(f"{name}: no test pixels of {gone}, so AA is over {there.sum()} of {there.size} classes.")
    return found
