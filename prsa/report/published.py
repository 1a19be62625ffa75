"""Numbers of the literature beside ours: only for the same scene, official split and modalities, and the reason where
there are none.
"""

import re

import numpy as np
import pandas as pd

from .. import files
from .text import frame

PUBLISHED = files.ROOT / "results" / "reference" / "published.csv"  # numbers of the literature, see `published`


def _comparable(scene: pd.Series, literature: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of the literature with this scene's data set, official split and modalities, and why there are none ("" when
    there are).
    """
    none, name = literature[:0], scene["scene"]
    if scene["simulated"]:
        return none, f"{name} is simulated: nobody else has published numbers for it."
    rows = literature[literature["dataset"].str.lower().eq(name.lower())]
    if rows.empty:
        known = ", ".join(literature["dataset"].unique())
        return none, f"{name} is none of the data sets with published numbers ({known}); a crop is another scene."
    rows = rows[rows["protocol"].str.startswith("standard") & rows["train_samples"].notna()]
    if rows.empty:
        return (
            none,
            f"the published numbers of {name} are of random or unstated splits, with which ours may not be compared.",
        )
    train, test = scene["train"] + scene["val"], scene["test"]  # validation pixels are held out of the official ones
    same = rows["train_samples"].eq(train) & rows["test_samples"].eq(test)
    if not scene["split"].startswith("fixed") or not same.any():
        counts = dict.fromkeys(zip(rows["train_samples"], rows["test_samples"]))
        official = " or ".join(f"{a:.0f} training and {b:.0f}" for a, b in counts)
        return none, (
            f"{name} has another split here: expected the official {official} test pixels, got {train} "
            f"(validation included) and {test} of the kind {scene['split']}."
        )
    sensors = {part.split()[0].lower() for part in scene["modalities"].split(";")}
    rows = rows[same & rows["modalities"].map(lambda text: set(text.lower().split("+")) == sensors)]
    reason = f"no number published for the official split of {name} is of exactly {' + '.join(sorted(sensors))}."
    return rows, reason if rows.empty else ""


def published(accuracy: pd.DataFrame, datasets: pd.DataFrame, literature: pd.DataFrame) -> pd.DataFrame:
    """Numbers of the literature for the same scene, official split and modalities beside ours, where we train that
    method; OA in points. Training differs. Where the epoch was chosen on test pixels, the published number is too high.

    ``accuracy`` and ``datasets`` are tables of `prsa.report.tables`, ``literature`` is the file `PUBLISHED`. Only
    published networks and classical classifiers have a counterpart: our prsanet is a reconstruction. Without ours,
    method and ours are empty.
    """
    rows = []
    for _, scene in datasets.iterrows():
        mine = accuracy[accuracy["scene"].eq(scene["scene"]) & accuracy["family"].isin(["network", "classical"])]
        ours = {_letters(m): (m, oa, sd) for m, oa, sd in zip(mine["method"], mine["oa_mean"], mine["oa_sd"])}
        found = [
            (
                scene["scene"],
                *ours.get(_letters(o.method), ("", np.nan, np.nan)),
                o.method,
                o.oa,
                o.oa_sd,
                o.epoch_chosen_on,
                o.source,
            )
            for o in _comparable(scene, literature)[0].itertuples()
        ]
        rows += sorted(found, key=lambda row: row[1] == "")  # those with ours first
    return frame("published", rows)


def _letters(method: str) -> str:
    return re.sub(r"\W", "", method).lower()


def reasons(datasets: pd.DataFrame, literature: pd.DataFrame) -> dict[str, str]:
    """Scene -> one sentence that says why `published` has no row for it; scenes with rows are left out."""
    found = {scene["scene"]: _comparable(scene, literature)[1] for _, scene in datasets.iterrows()}
    return {name: reason for name, reason in found.items() if reason}
