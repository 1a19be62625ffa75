"""Every method's own setting: as many trials for all, chosen on validation pixels, and the one in use is the one chosen."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from record import tuning

from prsa import files
from prsa.config import METHODS
from prsa.study import plan


def test_every_method_with_a_setting_of_its_own_gets_as_many_trials_on_development_scenes():
    classical = {m for m, settings in METHODS.items() if "classifier" in settings}
    assert set(tuning.TRIALS) == {*plan.STUDY, *plan.COMPARATORS} - {"concat", "late"} - classical
    assert {len(set(values)) for _, values in tuning.TRIALS.values()} == {3}
    assert all(100 <= int(scene.split(":")[1]) < 120 for scene in tuning.SCENES)
    assert len(tuning.specs()) == 3 * len(tuning.TRIALS) * len(tuning.SCENES)


def fake_run(right_val, right_test):
    counts = np.zeros((1, 3, 2, 2), int)
    for part, right in enumerate((0, right_val, right_test)):
        counts[0, part] = [[right, 100 - right], [0, 0]]
    return xr.Dataset(
        {"confusion": (("head", "part", "class", "predicted"), counts)},
        coords={"head": ["fused"], "part": ["train", "val", "test"]},
    )


def test_the_highest_validation_accuracy_is_chosen_and_the_test_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(tuning, "SCENES", ("a", "b"))
    monkeypatch.setattr(tuning, "TRIALS", {"prsanet": ("lambda_p", (0.3, 1.0, 3.0))})
    runs = [
        fake_run(*pair) for pair in ((50, 99), (70, 10), (60, 60), (60, 99), (44, 10), (54, 60))
    ]  # means 55, 57, 57
    table = tuning.table(runs, tuning.specs())
    assert (
        list(table["val_oa"]) == [55.0, 57.0, 57.0]
        and list(table["chosen"]) == [0, 1, 0]
        and list(table["in_use"]) == [1, 0, 0]
    )
    assert list(table["n_scenes"]) == [2, 2, 2]


KEPT = files.ROOT / "results" / "reference" / "tuning.csv"


def test_what_is_in_use_is_what_was_chosen():
    kept = pd.read_csv(KEPT)
    for method, (setting, values) in tuning.TRIALS.items():
        rows = kept[kept["method"].eq(method)]
        assert list(rows["setting"]) == [setting] * 3 and list(rows["value"]) == list(values), method
        best = rows.loc[rows["val_oa"].idxmax()]
        assert rows["chosen"].sum() == 1 and best["chosen"] == 1 and rows["chosen"].equals(rows["in_use"]), method
        assert getattr(tuning.make_config(method), setting) == pytest.approx(best["value"]), method
