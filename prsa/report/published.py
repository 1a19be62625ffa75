"""Numbers of the literature beside ours: only for the same scene, official split and modalities, and the reason where there are none (no torch)."""

import re

import numpy as np
import pandas as pd

from .. import files

PUBLISHED = files.ROOT / "results" / "reference" / "published.csv"  # numbers of the literature, see `published`


def _comparable(scene: pd.Series, literature: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of the literature with this scene's data set, official split and modalities, and why there are none ("" when there are)."""
    none, name = literature[:0], scene["scene"]
    if scene["simulated"]:
        return none, f"{name} is simulated: nobody else has published numbers for it."
    rows = literature[literature["dataset"].str.lower().eq(name.lower())]
    if rows.empty:
        return (
            none,
            f"{name} is none of the data sets with published numbers ({', '.join(literature['dataset'].unique())}); a crop is another scene.",
        )
    rows = rows[
        rows["protocol"].str.match("standard(?!.*test set)") & rows["train_samples"].notna()
    ]  # no epochs chosen on test pixels
    if rows.empty:
        return (
            none,
            f"the published numbers of {name} are of random or unstated splits, with which ours may not be compared.",
        )
    train, test = (
        scene["train"] + scene["val"],
        scene["test"],
    )  # validation pixels are held out of the official training pixels
    same = rows["train_samples"].eq(train) & rows["test_samples"].eq(test)
    if scene["split"] != "fixed" or not same.any():
        official = " or ".join(
            dict.fromkeys(f"{a:.0f} training and {b:.0f}" for a, b in zip(rows["train_samples"], rows["test_samples"]))
        )
        return none, (
            f"{name} has another split here: expected the official {official} test pixels, got {train} (validation included) and {test} "
            f"of the kind {scene['split']}."
        )
    sensors = {part.split()[0].lower() for part in scene["modalities"].split(";")}
    rows = rows[same & rows["modalities"].map(lambda text: set(text.lower().split("+")) == sensors)]
    return rows, "" if len(
        rows
    ) else f"no number published for the official split of {name} is of exactly {' + '.join(sorted(sensors))}."


def published(accuracy: pd.DataFrame, datasets: pd.DataFrame, literature: pd.DataFrame) -> pd.DataFrame:
    """Numbers of the literature for the same scene, official split and modalities, beside ours where we train that method; OA in points.

    Columns scene, method, ours_oa, ours_sd (empty without ours), published_method, published_oa, published_sd, source. ``accuracy`` and
    ``datasets`` are tables of `prsa.report.tables`, ``literature`` is the file `PUBLISHED`. Only published networks and classical classifiers have a
    counterpart: our prsanet is a reconstruction.
    """
    rows = []
    for _, scene in datasets.iterrows():
        mine = accuracy[accuracy["scene"].eq(scene["scene"]) & accuracy["family"].isin(["network", "classical"])]
        ours = {_letters(m): (m, oa, sd) for m, oa, sd in zip(mine["method"], mine["oa_mean"], mine["oa_sd"])}
        found = [
            (
                scene["scene"],
                *ours.get(_letters(other.method), ("", np.nan, np.nan)),
                other.method,
                other.oa,
                other.oa_sd,
                other.source,
            )
            for other in _comparable(scene, literature)[0].itertuples()
        ]
        rows += sorted(found, key=lambda row: row[1] == "")  # those with ours first
    return pd.DataFrame(
        rows, columns="scene method ours_oa ours_sd published_method published_oa published_sd source".split()
    )


def _letters(method: str) -> str:
    return re.sub(r"\W", "", method).lower()


def reasons(datasets: pd.DataFrame, literature: pd.DataFrame) -> dict[str, str]:
    """Scene -> one sentence that says why `published` has no row for it; scenes with rows are left out."""
    found = {scene["scene"]: _comparable(scene, literature)[1] for _, scene in datasets.iterrows()}
    return {name: reason for name, reason in found.items() if reason}
