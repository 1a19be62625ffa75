"""Tables over the scenes of a kind, against numbers worked out by hand."""

import numpy as np
import pytest
from synthetic import counts, make_run

from prsa.report import evaluation, tables


def run(scene, method, seed, oa=80.0, probe=(60.0, 40.0), rho=(2.0, 0.5)):
    one = make_run(scene, method, 0, classes=2, epochs=2, size=12).copy(deep=True)
    one["confusion"].loc[{"head": "fused", "part": "test"}] = counts(oa)
    one["probe_confusion"].values[:] = [counts(p) for p in probe]
    one["rho"].values[:] = rho
    return one.assign_attrs(seed=seed)


def study():
    """Gains of prsanet of 3, 5 on one scene of the kind and -1, 2 on the other; a dial scene and an override that must not count."""
    gains = {"sim-sar": (3.0, 5.0), "sim-sar:1": (-1.0, 2.0), "real": (1.0, 1.5)}
    runs = [
        r
        for scene, values in gains.items()
        for s, d in enumerate(values)
        for r in (
            run(scene, "concat", s, 80.0),
            run(scene, "prsanet", s, 80.0 + d, (61.0, 47.0)),
            run(scene, "late", s, 70.0, (60.5, 50.0)),
        )
    ]
    return runs + [run("sim-sar:0:0.4", m, 0, 10.0) for m in ("concat", "prsanet")]


def test_evaluation_pairs_by_scene_and_seed():
    table = evaluation.evaluation(tables.scores(study()))
    assert list(table.columns) == list(evaluation.COLUMNS) and list(dict.fromkeys(table["group"])) == [
        "sim-sar",
        "real",
    ]
    row = table[table["group"].eq("sim-sar") & table["method"].eq("prsanet")].iloc[0]
    assert (
        (row["n_scenes"], row["n_seeds"]) == (2, 2)
        and row["d_oa"] == pytest.approx(2.25)
        and row["oa_mean"] == pytest.approx(82.25)
    )
    assert (
        row["d_oa_lo"] < 0.5 < 4 < row["d_oa_hi"]
        and row["d_aa"] == pytest.approx(2.25)
        and row["kappa_mean"] == pytest.approx(64.5)
    )
    real = table[table["group"].eq("real") & table["method"].eq("prsanet")].iloc[0]
    assert (real["n_scenes"], real["n_seeds"]) == (1, 2) and real["d_oa"] == pytest.approx(1.25)
    assert real["d_oa_hi"] - real["d_oa"] == pytest.approx(
        12.706 * 0.25, abs=1e-3
    )  # Student's t, sd 0.3536 over 2 seeds
    base = table[table["method"].eq("concat")]
    assert (base[["d_oa", "d_oa_lo", "d_oa_hi"]] == 0).all(axis=None)
    assert {"hsi", "sar"} <= set(table["method"]) and set(table[table["method"].eq("hsi")]["family"]) == {"single"}


def test_a_difference_uses_only_the_pairs_that_both_have():
    runs = [
        r
        for r in study()
        if not (r.attrs["method"] == "concat" and r.attrs["scene"] == "sim-sar" and r.attrs["seed"] == 1)
    ]
    row = evaluation.evaluation(tables.scores(runs)).set_index(["group", "method"]).loc[("sim-sar", "prsanet")]
    assert row["d_oa"] == pytest.approx((3 - 1) / 2) and row["oa_mean"] == pytest.approx(82.25)


def test_recovery_is_the_share_of_the_gap_that_is_closed():
    """Gaps in concat 0.5 (hsi) and 10 (sar); in prsanet -0.5 and 3: 70 % of the second closed, the first too small to speak of."""
    table = evaluation.recovery(tables.scores(study())).set_index(["group", "method", "modality"])
    sar, hsi = table.loc[("sim-sar", "prsanet", "sar")], table.loc[("sim-sar", "prsanet", "hsi")]
    assert sar["role"] == "slow" and hsi["role"] == "fast"
    assert (sar["gap_concat"], sar["gap"]) == (pytest.approx(10), pytest.approx(3)) and sar[
        "recovered"
    ] == pytest.approx(0.7)
    assert hsi["gap"] == pytest.approx(-0.5) and np.isnan(hsi["recovered"])
    assert table.loc[("sim-sar", "concat", "sar"), "recovered"] == pytest.approx(0) and set(
        table.index.get_level_values("method")
    ) == {"concat", "prsanet"}


def test_no_recovery_without_the_branches_alone():
    assert evaluation.recovery(tables.scores([r for r in study() if r.attrs["method"] != "late"])).empty
