"""Run files to tables, each as CSV, Markdown and LaTeX. Reads finished runs only: no torch, no training.

scores       the runs as two long tables: a row per run and method, a row per branch
intervals    the one summary of paired numbers: estimate, interval, how it was made; ranks
tables       the tables of the study, a function each
claims       the abstract's claims as a ledger of verdicts
robustness   degraded and missing sensors
dial         the imbalance dial
leakage      what a split leaks, and accuracy against distance
published    numbers of the literature beside ours
diagnostics  drift between areas, calibration
text         columns of every table; CSV, Markdown, LaTeX
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..data.simulate import is_dial
from . import claims, dial, leakage, published, robustness, tables, text
from .scores import scores


def write_all(
    runs: Iterable[xr.Dataset], scenes: dict[str, xr.Dataset], splits: dict[str, xr.DataArray], folder: Path
) -> dict[str, pd.DataFrame]:
    """Write every table of `prsa.report.text.COLUMNS` as .csv, .md and .tex into a folder; returns name -> table.

    ``scenes`` and ``splits``: by name, in the order of the rows. Runs of the imbalance dial count for the tables dial,
    trend and claims only, unless ``scenes`` names their scene. A table without runs has no rows. Raises `PrsaError`,
    with nothing written, when runs cannot be paired or a run is given twice.
    """
    place = {name: i for i, name in enumerate(scenes)}
    runs = sorted(runs, key=lambda run: (place.get(run.attrs["scene"], len(place)), run.attrs["scene"]))
    everything = dial.finished(scores(runs))
    study = everything[[name in scenes or not is_dial(name) for name in everything["scene"]]]
    made = {"datasets": tables.datasets(scenes, splits)}
    about = {"datasets": [text.note(tables.datasets)]}
    per_run = (tables.accuracy, tables.evaluation, tables.recovery, tables.per_class, tables.ranking, tables.ablation)
    per_run += (tables.imbalance, tables.sensitivity, tables.complexity, robustness.robustness)
    for make in (*per_run, dial.dial, dial.trend, claims.ledger):
        name = "claims" if make is claims.ledger else make.__name__
        made[name] = make(study if make in per_run else everything)
        about[name] = [text.note(make)]
    about["claims"] += claims.notes(made["claims"])
    audited = study[study["family"].ne("ablation")]["run"]
    made["leakage"] = leakage.leakage({id(run): run for run in audited}.values(), scenes, splits.values())
    about["leakage"] = [text.note(leakage.leakage)]
    if published.PUBLISHED.is_file():
        literature = pd.read_csv(published.PUBLISHED)
        made["published"] = published.published(made["accuracy"], made["datasets"], literature)
        about["published"] = [text.note(published.published), *published.reasons(made["datasets"], literature).values()]
    leaking = set(made["leakage"]["scene"][made["leakage"]["share_overlap"] > 0])
    for name, table in made.items():
        text.write(name, table, Path(folder), about[name] + remarks(study, leaking), leaking)
    return made


def remarks(study: pd.DataFrame, leaking: Iterable[str] = ()) -> list[str]:
    """What a reader must know about the scenes behind any table: simulated or not, leaking splits, classes without test
    pixels.
    """
    found = [f"Simulated: {', '.join(study['group'][study['simulated'].eq(1)].unique()) or 'none'}."]
    found += [
        f"The split of {name} leaks: test patches hold training pixels, so its accuracies are too high."
        for name in leaking
    ]
    for scene, part in study.groupby("scene", sort=False):
        first = part.iloc[0]
        names, there = first["run"]["class"].values, first["counts"].sum(1) > 0
        if not there.all():
            gone = ", ".join(map(str, names[~there]))
            found.append(
                f"{scene}: no test pixels of {gone}, so AA is over {int(np.sum(there))} of {len(names)} classes."
            )
    return found
