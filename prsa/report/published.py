"""Numbers of the literature beside ours: only for the same scene, official split and modalities, or why not."""

import re

import numpy as np
import pandas as pd

from .. import files
from .text import escaped, frame

PUBLISHED = files.ROOT / "results" / "reference" / "published.csv"  # numbers of the literature, see `published`


def _comparable(scene: pd.Series, literature: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of the literature with this scene's data set, official split and modalities, and why there are none."""
    name, known = escaped(scene["scene"]), ", ".join(literature["dataset"].unique())
    rows = literature[literature["dataset"].str.lower().eq(scene["scene"].lower())]
    official = rows[rows["protocol"].str.startswith("standard") & rows["train_samples"].notna()]
    train, test = scene["train"] + scene["val"], scene["test"]  # validation pixels are held out of the official ones
    same = official[official["train_samples"].eq(train) & official["test_samples"].eq(test)]
    sensors = {part.split()[0].lower() for part in scene["modalities"].split(";")}
    found = same[same["modalities"].map(lambda text: set(text.lower().split("+")) == sensors).astype(bool)]
    counts = dict.fromkeys(zip(official["train_samples"], official["test_samples"]))
    wanted = " or ".join(f"{a:.0f} training and {b:.0f}" for a, b in counts) + " test pixels"
    got = f"{train} (validation included) and {test} of the kind {scene['split']}"
    moved = same.empty or not scene["split"].startswith("fixed")
    reasons = {
        f"{name} is simulated: nobody else has published numbers for it.": scene["simulated"],
        f"{name} is none of the data sets with published numbers ({known}); a crop is another scene.": rows.empty,
        f"the published numbers of {name} are of random or unstated splits: ours may not be compared.": official.empty,
        f"{name} has another split here: expected the official {wanted}, got {got}.": moved,
        f"no number published for the official split of {name} is of exactly {' + '.join(sorted(sensors))}.": True,
    }
    return (
        (found, "") if len(found) and not moved else (found[:0], next(text for text, holds in reasons.items() if holds))
    )


def published(accuracy: pd.DataFrame, datasets: pd.DataFrame, literature: pd.DataFrame) -> pd.DataFrame:
    """Numbers of the literature for the same scene, official split and modalities beside ours, where we train that
    method; OA in points. Training differs. Where the epoch was chosen on test pixels, a published number is too high.

    ``accuracy`` and ``datasets``: tables of `prsa.report.tables`; ``literature``: the file `PUBLISHED`. Only published
    networks and classical classifiers have a counterpart: our prsanet is a reconstruction.
    """
    rows = []
    for _, scene in datasets.iterrows():
        mine = accuracy[accuracy["scene"].eq(scene["scene"]) & accuracy["family"].isin(["network", "classical"])]
        ours = {_letters(m): (m, oa, sd) for m, oa, sd in zip(mine["method"], mine["oa_mean"], mine["oa_sd"])}
        found = []
        for other in _comparable(scene, literature)[0].itertuples():
            own = ours.get(_letters(other.method), ("", np.nan, np.nan))
            theirs = other.method, other.oa, other.oa_sd, other.epoch_chosen_on, other.source
            found.append((scene["scene"], *own, *theirs))
        rows += sorted(found, key=lambda row: row[1] == "")  # those with ours first
    return frame("published", rows)


def _letters(method: str) -> str:
    return re.sub(r"\W", "", method).lower()


def reasons(datasets: pd.DataFrame, literature: pd.DataFrame) -> dict[str, str]:
    """Scene -> one sentence that says why `published` has no row for it; scenes with rows are left out."""
    found = {scene["scene"]: _comparable(scene, literature)[1] for _, scene in datasets.iterrows()}
    return {name: reason for name, reason in found.items() if reason}
