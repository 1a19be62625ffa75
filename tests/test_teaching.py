"""The runs to learn from are there, whole, of today's plan, and no study takes them for its own."""

import json
import shutil

import numpy as np
import pytest
from record import teaching as record

from prsa import files, report
from prsa.data.simulate import EMBEDDED
from prsa.errors import PrsaError
from prsa.study import Plan, RunSpec, runs
from prsa.study import teaching as teach
from prsa.study.plan import Source


@pytest.fixture(scope="module")
def opened():
    return teach.open_study()


def test_every_run_is_there_whole_and_of_todays_plan(opened):
    specs, sources = list(dict.fromkeys([*opened.specs, *opened.dial])), {}
    assert {path.name for path in teach.FOLDER.iterdir()} == {opened.path(spec).name for spec in specs}
    for spec, run in zip(specs, opened.open(specs), strict=True):
        source = sources.get(spec.scene) or sources.setdefault(spec.scene, Source(spec.scene))
        assert opened.path(spec).name == f"{source.path(spec).stem}.slim.nc", "another identity: make teaching"
        assert run.attrs["run_id"] == source.path(spec).stem.rpartition("__")[2]
        blank = set(run.attrs["slim"].split())
        assert blank == set(runs.DIMS) - record.kept(spec), "marked, and no more than that is blank"
        filled = {name for name in run.data_vars if np.nan_to_num(run[name].values).any()}
        assert not blank & filled and {"confusion", "s", "rho"} <= filled
        assert all(teach.holds(run, name) != (name in blank) for name in runs.DIMS)


def test_intervals_are_real(opened):
    found = report.tables.accuracy(opened.open())
    prsanet = found[found["method"].eq("prsanet")]
    assert set(prsanet["scene"]) == set(EMBEDDED) and prsanet[["d_oa_lo", "d_oa_hi"]].notna().all(axis=None)
    assert prsanet["n_seeds"].eq(teach.SEEDS).all()


def test_no_study_takes_them_for_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    shutil.copytree(teach.FOLDER, tmp_path / "runs")
    plan = Plan(["sim-sar"], 1, ["concat"])
    assert plan.missing() == plan.specs


def test_a_study_of_ones_own_is_opened_by_one_word(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    with pytest.raises(PrsaError, match="make quick"):
        teach.open_study("latest")
    plan = Plan(["sim-sar", "sim-lidar"], 2, ["concat"], "quick")
    note = teach.write_note(plan, 2, ["concat"], "quick")
    assert note == files.results("quick") / "study.json" and json.loads(note.read_text())["scenes"] == plan.sources
    for word in ("latest", "quick"):
        again = teach.open_study(word)
        assert again.specs == plan.specs and again.missing() == plan.specs
    assert teach.open_study("latest", ["sim-lidar"]).sources == ["sim-lidar"]
    with pytest.raises(PrsaError, match="no study.json"):
        teach.open_study("full")


def test_wrong_words_are_told():
    with pytest.raises(PrsaError, match="one of teaching, latest"):
        teach.open_study("teach")
    with pytest.raises(PrsaError, match="make reproduce SCENES"):
        teach.open_study("teaching", ["muufl_crop"])
    plan = teach.open_study("teaching", ["sim-sar"])
    assert list(plan.scenes) == ["sim-sar"] and plan.splits["sim-sar"].attrs["kind"]
    assert plan.missing([RunSpec("sim-sar", "svm", 0)])


def test_what_the_answers_of_the_notebooks_say_is_what_these_runs_show(opened):
    runs = report.scores(opened.open())
    ledger = report.claims.ledger(runs)

    def verdicts(words):
        return set(ledger.loc[ledger["measure"].str.contains(words, regex=False), "verdict"])

    assert verdicts("OA: prsanet - concat (") == {"supported"} == verdicts("JS at the end")  # notebook 09
    assert set(ledger.loc[ledger["claim"].isin([report.claims.PROTOTYPE, report.claims.DIRECTION]), "verdict"]) == {
        "supported"
    }
    assert verdicts("dominant sensor noise") == {"reversed"}  # notebooks 09 and 10
    gap = report.tables.recovery(runs).query("method == 'concat'").set_index(["group", "role"])["gap"]
    assert all(gap[kind, "fast"] > gap[kind, "slow"] for kind in ("sim-sar", "sim-tri"))  # notebook 06
    assert abs(gap["sim-lidar", "fast"] - gap["sim-lidar", "slow"]) < 1
    corners = report.tables.ablation(runs).pivot(index="scene", columns="variant", values="oa_mean")
    assert corners.idxmin(axis=1).eq("concat").all()  # notebook 05
