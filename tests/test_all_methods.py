"""Everything that is compared goes the whole way on a tiny scene: training, run file, tables, figures."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from tiny import make_scene

from prsa import config, save_scene
from prsa.figures import table_plots
from prsa.report import tables
from prsa.study import plan, runs


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Source of a scene and the opened runs of METHODS=all with two seeds."""
    folder = tmp_path_factory.mktemp("all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRSA_RESULTS", str(folder / "results"))
        patch.setitem(config.PRESETS, "quick", {"epochs": 1, "patch": 5, "width": 6, "features": 8, "batch": 64})
        source = str(save_scene(make_scene(("hsi", "sar", "dsm"), name="tiny"), folder / "tiny.nc"))
        specs = plan.grid([source], ["all"], 2, "quick")
        for spec in specs:
            plan.train_runs((spec,), "cpu")
        yield source, specs, plan.open_runs(specs)


def test_every_method_leaves_a_run_of_its_own(everything):
    _, specs, found = everything
    assert {run.attrs["method"] for run in found} == {*plan.STUDY, *plan.COMPARATORS} and len(found) == len(specs)
    assert len({run.attrs["run_id"] for run in found}) == len(specs)
    for run in found:
        settings = config.METHODS[run.attrs["method"]]
        assert (
            run.attrs["probed"] == int(not {"network", "classifier"} & settings.keys())
            and run.attrs["params"] > 0
            and run.attrs["macs_pixel"] > 0
        )
        assert runs.check_run(run)["confusion"].sel(head="fused").sum() == sum(
            run.attrs[f"n_{part}"] for part in ("train", "val", "test")
        )


def test_budget_and_split_are_the_same_for_all(everything):
    for name in ("split_hash", "scene_hash", "n_train", "n_test"):
        assert len({run.attrs[name] for run in everything[2]}) == 1, name
    trained = [run for run in everything[2] if "classifier" not in config.METHODS[run.attrs["method"]]]
    for name in ("epochs", "batch", "patch", "max_steps"):
        assert len({getattr(config.make_config(run.attrs["method"], "quick"), name) for run in trained}) == 1, name
    assert {run.attrs["epoch_used"] for run in trained} == {1}


def test_tables_and_figures_hold_every_method(everything, tmp_path):
    source, _, found = everything
    scene, split = plan.scene_and_split(source, "quick")
    written = tables.write_all(found, {"tiny": scene}, {"tiny": split}, tmp_path)
    table = {path.stem: pd.read_csv(path) for path in written if path.suffix == ".csv"}
    methods = {*plan.STUDY, *plan.COMPARATORS}
    assert (
        set(table["accuracy"]["method"]) == methods | {"hsi", "sar", "dsm"}
        and set(table["ranking"]["method"]) == methods
    )
    assert set(table["complexity"]["method"]) == methods and not table["accuracy"].isna().any(axis=None)
    assert not {"mft", "svm", "rf"} & set(table["imbalance"]["method"]) and {"ogm-ge", "mmpareto"} <= set(
        table["imbalance"]["method"]
    )
    for draw in (
        table_plots.accuracy_rankings(table["accuracy"]),
        table_plots.rank_intervals(table["ranking"]),
        table_plots.critical_difference(tables.scores(found)),
    ):
        draw.figure.canvas.draw()
        plt.close(draw.figure)
