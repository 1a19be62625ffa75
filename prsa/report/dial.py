"""The imbalance dial: accuracy, probe gaps and imbalance factors while a simulated scene goes from balanced (0) to strongly imbalanced (1); no torch.

What the dial turns is said in `prsa.data.simulate`. A kind at two settings is the same landscape, and its runs start from the same random numbers.
There is one landscape per kind, so intervals over seeds speak of training on it, not of other scenes. All measures are ours; their definitions
and units are those of the study's other tables.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from .. import metrics
from ..data.scene import modalities
from ..data.simulate import CONFIGS, EMBEDDED, parse_name
from ..data.splits import TRAIN
from ..errors import PrsaError
from . import tables
from .diagnostics import area_drift, probe_accuracy

COLUMNS = (
    "kind",
    "dial",
    "method",
    "n_seeds",
    "oa_mean",
    "oa_sd",
    "d_oa",
    "d_oa_lo",
    "d_oa_hi",
    "modality",
    "rho",
    "probe_gap",
    "probe_gap_lo",
    "probe_gap_hi",
)
TREND = (
    "kind",
    "method",
    "measure",
    "modality",
    "n_settings",
    "n_seeds",
    "correlation",
    "correlation_lo",
    "correlation_hi",
)
MEASURES = {
    "oa": "fused OA",
    "lead": "lead over concat",
    "distance": "distance from balance",
    "gap": "probe gap",
}  # of `trend`; the first two have no modality
NOTE = (
    "Simulated scenes with the imbalance dial at several settings (0 balanced, 1 strong), one landscape per kind. OA of the fused network in points, "
    "mean ± sd over seeds; difference in OA to concat, and probe gap (OA of a linear probe on the branch trained alone minus inside the method), "
    "in points, paired by seed, with 95 % intervals; imbalance factor at the last epoch, mean over seeds. A method without branches inside has no modality."
)
TREND_NOTE = (
    "Spearman's rank correlation of the setting with fused OA, with its lead over concat, with the distance of the imbalance factor from balance "
    "(|log2|) and with the probe gap: mean over seeds, each of which has one correlation over the settings, with its 95 % interval."
)


def setting(scene: str) -> tuple[str, float] | None:
    """Kind and dial of a scene, by its attribute ``name``; None for scenes that are no part of the dial: not simulated, or another seed than 0."""
    if scene.partition(":")[0] not in EMBEDDED:
        return None
    kind, seed, dial = parse_name(scene)
    return None if seed else (kind, CONFIGS[kind].dial if dial is None else dial)


def _measured(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """A row per run and branch inside it (none: one row, modality ""), by kind, dial, method, seed: oa, lead and gap in points, rho, distance in doublings."""
    runs = [run for run in runs if setting(run.attrs["scene"]) and not run.attrs.get("variant")]
    place = {
        scene: (EMBEDDED.index(kind), dial)
        for scene in {run.attrs["scene"] for run in runs}
        for kind, dial in [setting(scene)]
    }
    found = tables.scores(sorted(runs, key=lambda run: place[run.attrs["scene"]]))
    alone = {
        scene: dict(zip(part["seed"], part["run"]))
        for scene, part in found[found["method"].eq("late")].groupby("scene")
    }
    concat = found[found["method"].eq("concat")].set_index(["scene", "seed"])["oa"]
    rows = []
    for row in found[found["family"].ne("single")].itertuples():
        late = alone.get(row.scene, {})
        if late and row.seed not in late:
            raise PrsaError(
                f"expected the branches alone (late) of {row.scene} for every seed of {row.method}, got seeds {sorted(late)}, "
                f"none for seed {row.seed}. Run the missing seeds."
            )
        key = (
            row.scene,
            *setting(row.scene),
            row.method,
            row.variant,
            row.seed,
            row.oa,
            row.oa - concat.get((row.scene, row.seed), np.nan),
        )
        if not row.joint:
            rows.append((*key, "", np.nan, np.nan, np.nan))
            continue
        inside, outside = probe_accuracy(row.run), probe_accuracy(late[row.seed]) if late else {}
        for m in row.modalities:
            rho = float(row.run["rho"].sel(modality=m).isel(epoch=-1))
            rows.append((*key, m, rho, abs(np.log2(rho)), outside.get(m, np.nan) - inside[m]))
    return pd.DataFrame(rows, columns="scene kind dial method variant seed oa lead modality rho distance gap".split())


def table(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """One row per kind, setting, method and modality (`COLUMNS`, see `NOTE`); a kind's own name counts as its default setting.

    Joint methods have a row per modality, late one with modality "". Missing: differences without concat, gaps without late, intervals with one
    seed. Ignores other scenes and runs with overrides. Raises `PrsaError` for a run given twice, and when the seeds of a method are not those of
    concat or have no late run.
    """
    rows = []
    for (kind, dial), here in _measured(runs).groupby(["kind", "dial"], sort=False):
        concat = here[here["method"].eq("concat")].drop_duplicates("seed")
        for (method, modality), part in here.groupby(["method", "modality"], sort=False):
            rows.append(
                (
                    kind,
                    dial,
                    method,
                    len(part),
                    *metrics.mean_sd(part["oa"]),
                    *tables.paired(part, concat),
                    modality,
                    part["rho"].mean(),
                    *metrics.mean_interval(part["gap"]),
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _correlation(dials, values) -> float:
    """Spearman's rank correlation; 0 for values that do not change."""
    return float(stats.spearmanr(dials, values).statistic) if np.ptp(values) > 0 else 0.0


def trend(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """Does a measure follow the dial? One row per kind, method, measure of `MEASURES` and modality (`TREND`, see `TREND_NOTE`), -1 to 1.

    The interval is Student's t over seeds, cut to [-1, 1]; over two settings a correlation is only a sign, on which seeds agree by chance, and has
    none. A kind with one setting has no rows, nor has a measure that could not be taken. Raises `PrsaError` as `table`, and when a method has
    other seeds at some setting.
    """
    rows = []
    for (kind, method), here in _measured(runs).groupby(["kind", "method"], sort=False):
        first = here[here["modality"].eq(here["modality"].iloc[0])].assign(modality="")
        whole = [("oa", first)] if method == "concat" else [("oa", first), ("lead", first)]
        parts = [
            *whole,
            *((measure, part) for measure in ("distance", "gap") for _, part in here.groupby("modality", sort=False)),
        ]
        for measure, part in parts:
            values = part.pivot(index="seed", columns="dial", values=measure)  # (seed, setting)
            if values.shape[1] < 2 or part[measure].isna().all():
                continue
            if values.isna().any(axis=None):
                raise PrsaError(
                    f"expected the same seeds of {method} at every setting of {kind}, got {len(part)} runs for {values.shape[0]} seeds and "
                    f"{values.shape[1]} settings. Run the missing seeds."
                )
            mean, *bounds = metrics.mean_interval([_correlation(values.columns, row) for row in values.to_numpy()])
            bounds = np.clip(bounds, -1, 1) if values.shape[1] > 2 else (np.nan, np.nan)
            rows.append((kind, method, MEASURES[measure], part["modality"].iloc[0], *values.shape[::-1], mean, *bounds))
    return pd.DataFrame(rows, columns=list(TREND))


def sensors(scenes: dict[float, tuple[xr.Dataset, xr.DataArray]]) -> pd.DataFrame:
    """What the dial does to the data of one kind: setting -> (scene, split) in, a row per setting and modality out.

    Columns dial, modality; ``separability``: share of the variance of single training pixels that lies between the classes, bands standardised
    (0 to 1); ``drift``: median over classes of `prsa.report.diagnostics.area_drift`, how far a class moves from training to test area in units of its own spread.
    """
    rows = []
    for dial, (scene, split) in sorted(scenes.items()):
        train = (split.values == TRAIN) & (scene["label"].values > 0)
        drift = area_drift(scene, split).groupby("modality")["drift"].median()
        for m in modalities(scene):
            pixels = scene[m].values[:, train].T.astype(float)  # (n, band)
            pixels = (pixels - pixels.mean(0)) / np.maximum(pixels.std(0), 1e-12)
            rows.append((dial, m, metrics.eta_squared(pixels, scene["label"].values[train]), drift[m]))
    return pd.DataFrame(rows, columns=["dial", "modality", "separability", "drift"])


def text(value: float, lo: float, hi: float, decimals: int = 1) -> str:
    """An effect with its sign and interval, without the interval when there is none."""
    return f"{value:+.{decimals}f}" + (f" [{lo:.{decimals}f}, {hi:.{decimals}f}]" if np.isfinite(lo) else "")


def readable(found: pd.DataFrame) -> pd.DataFrame:
    """`table` or `trend` as text, a setting as it is written in a scene's name."""
    if "correlation" in found:
        cells = [text(*row, 2) for row in found[["correlation", "correlation_lo", "correlation_hi"]].to_numpy(float)]
        found = found.drop(columns=["correlation", "correlation_lo", "correlation_hi"]).assign(correlation=cells)
    return tables.readable(_plain(found))


def _plain(found: pd.DataFrame) -> pd.DataFrame:
    return found.assign(dial=found["dial"].map("{:g}".format)) if "dial" in found else found


def write(runs: Iterable[xr.Dataset], folder) -> list[Path]:
    """Write dial.csv (`table`) and dial.md (`table` and `trend`) into a folder and return both paths.

    Raises `PrsaError`, with nothing written, as `table` and `trend` do and when none of the runs is of the dial.
    """
    runs = list(runs)
    found, followed = table(runs), trend(runs)
    if found.empty:
        raise PrsaError(
            f"expected runs of the imbalance dial (scenes {', '.join(EMBEDDED)} with seed 0), got none. Train those of study.dial_grid."
        )
    parts = [NOTE, tables.markdown(readable(found)), TREND_NOTE, tables.markdown(readable(followed))]
    return [
        tables.write_text(tables.csv_text(_plain(found)), Path(folder) / "dial.csv"),
        tables.write_text("\n\n".join(part.rstrip() for part in parts) + "\n", Path(folder) / "dial.md"),
    ]
