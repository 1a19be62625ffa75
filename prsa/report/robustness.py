"""Accuracy when a modality is degraded or missing at test time, from finished run files: one row per group, condition and method (no torch).

What the conditions are is said in `prsa.study.degrade`; groups of scenes and their intervals are those of `prsa.report.groups`. Source: ours.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..data.simulate import group_of, is_dial
from ..errors import PrsaError
from . import groups, tables

COLUMNS = (
    "group",
    "method",
    "modality",
    "degradation",
    "strength",
    "n_scenes",
    "n_seeds",
    "oa_mean",
    "d_oa",
    "d_oa_lo",
    "d_oa_hi",
    "loss_mean",
)
CLEAN, MISSING = "none", "missing"
NOTE = (
    "Accuracy of the trained networks when a modality is degraded or missing at test time, without training again. OA in points on test "
    "pixels, evenly spaced, mean over scenes and seeds; difference in OA to concat under the same condition, paired by scene and seed, with its 95 % "
    "interval (several scenes: bootstrap over scenes, then seeds; one scene: Student's t over seeds); loss: fall of OA from the clean pixels (none). "
    "Strength: cloud shadow, share of the direct light taken away; noise, sd in units of each band's sd over the training pixels; "
    "band loss, share of the bands without data; missing, all bands without data. No data is the mean of the training pixels."
)


def parse(condition: str, modalities: Iterable[str]) -> tuple[str, str, float]:
    """Modality, degradation and strength of a condition's name: "hsi noise 0.5" -> ("hsi", "noise", 0.5).

    "none" -> ("", "none", 0), "sar missing" -> ("sar", "missing", 1). Raises `PrsaError` for a name that starts with no modality.
    """
    if condition == CLEAN:
        return "", CLEAN, 0.0
    found = [m for m in modalities if condition.startswith(f"{m} ")]
    if not found:
        raise PrsaError(
            f"expected a condition of one of the modalities {', '.join(modalities)}, got {condition!r}. "
            "Delete the run file and train again."
        )
    modality = max(found, key=len)  # one name may begin with another
    what = condition[len(modality) + 1 :]
    if what == MISSING:
        return modality, MISSING, 1.0
    degradation, _, strength = what.rpartition(" ")
    return modality, degradation, float(strength)


def _tested(runs: Iterable[xr.Dataset]) -> list[xr.Dataset]:
    """Runs with several branches, without overrides, not of the imbalance dial."""
    return [
        run
        for run in runs
        if int(run.attrs["probed"])
        and not run.attrs.get("variant")
        and run.sizes["modality"] > 1
        and not is_dial(run.attrs["scene"])
    ]


def _accuracies(runs: list[xr.Dataset]) -> dict[str, dict[tuple, dict[str, dict[tuple[str, int], float]]]]:
    """group -> condition as of `parse` -> method -> (scene, seed) -> OA in points. Raises `PrsaError` for a run given twice."""
    found: dict = {}
    for run in sorted(runs, key=lambda run: int(run.attrs["seed"])):
        scene, method, key = run.attrs["scene"], run.attrs["method"], (run.attrs["scene"], int(run.attrs["seed"]))
        names = [str(m) for m in run["modality"].values]
        oa = metrics.points(metrics.oa(run["degraded_confusion"].values))
        for condition, value in zip(run["condition"].values, oa, strict=True):
            of = (
                found.setdefault(group_of(scene), {})
                .setdefault(parse(str(condition), names), {})
                .setdefault(method, {})
            )
            if key in of:
                raise PrsaError(
                    f"expected every run once, got {method} on {scene} with seed {key[1]} twice. Pass each run once."
                )
            of[key] = float(value)
    return found


def robustness(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """The table (`COLUMNS`): by group in order of first appearance, condition in the order of the runs, then method.

    ``modality`` is empty for the clean pixels (``degradation`` none, ``strength`` 0); a missing modality has strength 1. OA, ``d_oa`` with its 95 %
    interval and ``loss_mean`` are in points. Ignores runs with overrides, with `probed` 0, of one modality, and of the imbalance dial. Raises
    `PrsaError` when a run has no concat of its scene and seed to be paired with, the scenes of a group differ in seeds, or a run is given twice.
    """
    runs, rows = _tested(runs), []
    found = _accuracies(runs)
    for group in dict.fromkeys(group_of(run.attrs["scene"]) for run in runs):
        for condition, of in found[group].items():
            for method in tables.method_order(of, ()):
                values, baseline, clean = of[method], of.get(tables.BASELINE, {}), found[group]["", CLEAN, 0.0][method]
                alone = [key for key in values if key not in baseline]
                if alone:
                    raise PrsaError(
                        f"expected a run of {tables.BASELINE} beside every other one, got none on {alone[0][0]} with seed {alone[0][1]}. "
                        "Run the missing seeds."
                    )
                *difference, n_scenes, n_seeds = groups.interval(
                    {key: value - baseline[key] for key, value in values.items()}
                )
                loss = np.mean([clean[key] - value for key, value in values.items()])
                rows.append(
                    (group, method, *condition, n_scenes, n_seeds, np.mean(list(values.values())), *difference, loss)
                )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def dominant(table: pd.DataFrame, group: str) -> str:
    """The modality of a group that is degraded in steps."""
    return table[table["group"].eq(group) & ~table["degradation"].isin([CLEAN, MISSING])]["modality"].iloc[0]


def strongest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at the highest strength of each degradation, without the clean ones."""
    top = table.groupby(["group", "modality", "degradation"])["strength"].transform("max")
    return table[table["strength"].eq(top) & table["degradation"].ne(CLEAN)]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text, see `prsa.report.tables.readable`."""
    loss = [f"{round(v, 1) + 0.0:.1f}" for v in table["loss_mean"]]  # + 0.0: no negative zero
    return tables.readable(table.assign(strength=[f"{v:g}" for v in table["strength"]], loss_mean=loss))


def write(runs: Iterable[xr.Dataset], folder) -> list[Path]:
    """Write robustness.csv and robustness.md into a folder and return both paths. Raises `PrsaError` as `robustness`, with nothing written."""
    runs = _tested(runs)
    table = robustness(runs)
    simulated = dict.fromkeys(group_of(run.attrs["scene"]) for run in runs if int(run.attrs["simulated"]))
    pixels = max((int(run["degraded_confusion"].sel(condition=CLEAN).sum()) for run in runs), default=0)
    note = f"{NOTE} At most {pixels:,} test pixels of a run. Simulated groups: {', '.join(simulated) or 'none'}."
    return [
        tables.write_text(tables.csv_text(table), Path(folder) / "robustness.csv"),
        tables.write_text(f"{note}\n\n{tables.markdown(readable(table))}", Path(folder) / "robustness.md"),
    ]
