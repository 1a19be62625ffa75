"""The laws of speed and memory are fitted to what was measured, and what is compared does the same work; no time is ever tested."""

import json
import os

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import xarray as xr
from matplotlib import pyplot as plt
from prsa.ensemble import Ensemble, can_train_together
from record import bench_plots, scaling
from tiny import make_scene, make_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from prsa import split_scene
from prsa.comparators.networks import NetworkTrainer
from prsa.config import METHODS, make_config
from prsa.errors import PrsaError
from prsa.study.plan import COMPARATORS, STUDY

SIZES = {"pixels": (16, 32, 64), "bands": (2, 4, 8)}


@pytest.fixture(autouse=True)
def threads():
    """What is measured sets the number of threads; the other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sizes_table():
    """A table as `record.scaling.sizes` makes it, of known powers: training 1 and 0.5, mapping 2; a map adds no memory."""
    rows = [
        {
            "task": task,
            "against": against,
            "size": size,
            "seconds": 1e-3 * size**power,
            "memory_mb": 3 * size**0.5 if task == "training" else 0.0,
        }
        for against, values in SIZES.items()
        for task, power in (("training", 1), ("mapping", 2))
        for size in values
    ]
    return pd.DataFrame(rows)


def test_exponents_are_those_of_the_powers():
    fitted = scaling.exponents(sizes_table()).set_index(["task", "against", "quantity"])
    for against in SIZES:
        assert fitted.loc[("training", against, "seconds"), "exponent"] == pytest.approx(1)
        assert fitted.loc[("training", against, "memory_mb"), "exponent"] == pytest.approx(0.5)
        assert fitted.loc[("mapping", against, "seconds"), "exponent"] == pytest.approx(2)
        assert fitted.loc[("mapping", against, "memory_mb")].isna().all()


def test_interval_of_an_exponent_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        size = np.array([1, 2, 4, 8, 16])
        table = pd.DataFrame(
            {
                "task": "map",
                "against": "bands",
                "size": size,
                "seconds": size**0.7 * np.exp(0.1 * rng.normal(size=5)),
                "memory_mb": 0.0,
            }
        )
        row = scaling.exponents(table).iloc[0]
        held += row["exponent_lo"] < 0.7 < row["exponent_hi"]
    assert 0.91 < held / 300 < 0.98


@pytest.mark.parametrize(
    "task, against, size",
    [("training", "pixels", 50), ("training", "modalities", 3), ("mapping", "pixels", 4900), ("mapping", "bands", 7)],
)
def test_a_row_is_of_the_stated_task(monkeypatch, task, against, size):
    for name, value in {"SIDE": 90, "EACH": 2, "BANDS": {"hsi": 5, "lidar": 1}, "CLASSES": 4, "REPEATS": 1}.items():
        monkeypatch.setattr(scaling, name, value)
    trained, mapped = [], []
    trainer, predict = scaling.Trainer, scaling.predict_map
    monkeypatch.setattr(scaling, "Trainer", lambda *args: trained.append(args) or trainer(*args))
    monkeypatch.setattr(
        scaling, "predict_map", lambda model, scene: mapped.append((model, scene)) or predict(model, scene)
    )
    row = scaling.measure(task, against, size, threads=1)
    assert (
        (row["task"], row["against"], row["size"]) == (task, against, size)
        and row["seconds"] > 0
        and row["memory_mb"] >= 0
    )
    if task == "training":
        scene, _, config, *_ = trained[1]  # after the small task that loads the libraries
        assert not mapped and config.batch == (50 if against == "pixels" else 128)
        assert {name: n for name, n in scene.sizes.items() if "band" in name} == (
            {"hsi_band": 5, "lidar_band": 1} if against == "pixels" else {f"m{i}_band": 2 for i in range(3)}
        )
    else:
        model, scene = mapped[-1]
        assert not trained and len(mapped) == 4 and scene["label"].size == (4900 if against == "pixels" else 90 * 90)
        assert model.bands["hsi"] == (5 if against == "pixels" else 7) and model.config.fusion == "sagf"


def test_peak_is_forgotten():
    if not os.path.exists("/proc/self/clear_refs"):
        pytest.skip("no /proc/self/clear_refs")
    scaling.forget_peak()
    before = scaling.peak_memory()
    held = np.ones(5 * 10**7)
    assert scaling.peak_memory() - before > 0.3
    del held
    scaling.forget_peak()
    assert scaling.peak_memory() - before < 0.1


def test_workers_count_runs_after_the_first_of_each(monkeypatch, tmp_path):
    monkeypatch.setenv("PRSA_RESULTS", "mine")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    finished = {
        1: [1010, 1014, 1018],
        2: [1012, 1013, 1018, 1018, 1023, 1023],
    }  # a run takes 4 s alone and 5 s beside another
    calls = []

    def grid(specs, jobs, device):
        calls.append((len(set(specs)), jobs, device, os.environ["PRSA_RESULTS"]))
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        files = [tmp_path / f"{jobs}-{i}" for i in range(len(specs))]
        for file, at in zip(files, finished[jobs]):
            file.touch()
            os.utime(file, (at, at))
        return files

    monkeypatch.setattr(scaling, "run_grid", grid)
    monkeypatch.setattr(scaling, "ROUNDS", 2)
    monkeypatch.setattr(scaling.time, "time", lambda: 1000)
    rows = scaling.workers(2)
    assert (
        [call[:3] for call in calls] == [(3, 1, "cpu"), (6, 2, "cpu")]
        and "mine" not in {call[3] for call in calls}
        and calls[0][3] != calls[1][3]
    )
    assert os.environ["PRSA_RESULTS"] == "mine" and "OMP_NUM_THREADS" not in os.environ
    assert [(row["workers"], row["runs_per_hour"], row["first_s"]) for row in rows] == [(1, 900, 10), (2, 1440, 13)]
    assert [row["ratio"] for row in rows] == [1.0, 0.8] and json.loads(json.dumps(rows)) == rows


def test_seeds_are_timed_both_ways_in_whole_steps(monkeypatch):
    monkeypatch.setattr(scaling, "noise_scene", lambda shape: make_scene(shape=shape))
    monkeypatch.setattr(scaling, "SIDE", 40)
    monkeypatch.setattr(scaling, "ENSEMBLES", ((3, 16),))
    counted = []
    step = scaling.Trainer.step
    monkeypatch.setattr(
        scaling.Trainer,
        "step",
        lambda self, x, y, first: counted.append((type(self).__name__, *y.shape)) or step(self, x, y, first),
    )
    (row,) = scaling.ensembles(1)
    assert (row["seeds"], row["batch"], row["threads"], row["device"]) == (3, 16, 1, "cpu")
    assert (
        row["ratio"] == pytest.approx(row["batched_samples_per_s"] / row["single_samples_per_s"], rel=0.01)
        and json.loads(json.dumps(row)) == row
    )
    single, batched = counted.count(("Trainer", 16)), counted.count(("Ensemble", 3, 16))
    assert single == 3 * batched > 0, "both ways take the same steps"


@pytest.mark.parametrize("name, runs", [("mixed", 1), ("together", 3)])
def test_a_faster_way_is_compared_run_by_run(monkeypatch, name, runs):
    monkeypatch.setattr(scaling, "BESIDE_SCENES", (7, 8))
    monkeypatch.setattr(scaling, "EMBEDDED", ("sim-sar", "sim-tri"))
    monkeypatch.setattr(scaling, "open_scene", lambda source: make_scene(name=source))
    monkeypatch.setattr(scaling, "split_scene", lambda scene: split_scene(scene, "random"))
    asked = []

    def run(seconds, right):
        counts = np.zeros((1, 1, 2, 2), int)
        counts[0, 0] = [[right, 10 - right], [0, 10]]
        return xr.Dataset(
            {"confusion": (("head", "part", "class", "predicted"), counts)},
            {"head": ["fused"], "part": ["val"]},
            {"seconds": seconds},
        )

    def fit(scene, method, split, seed=0, device="auto", mixed=False):
        asked.append((seed, device, mixed))
        return run(2 if mixed else 6, 8 if mixed else 6), None

    monkeypatch.setattr(scaling, "fit", fit)
    monkeypatch.setattr(
        scaling, "fit_together", lambda scene, method, split, seeds, device: [(run(2, 8), None) for _ in seeds]
    )
    table = scaling.beside(name)
    assert table.columns.tolist() == ["scene", "ratio", "val_oa", f"val_oa_{name}"] and table["scene"].tolist() == [
        "sim-sar:7",
        "sim-tri:7",
    ]
    assert (
        table["ratio"].tolist() == [3, 3]
        and table["val_oa"].tolist() == [80, 80]
        and table[f"val_oa_{name}"].tolist() == [90, 90]
    )
    assert [a for a in asked if not a[2]][:runs] == [(seed, "cpu", False) for seed in range(runs)] and len(asked) == (
        6 if name == "mixed" else 9
    ), "the first scene is done twice, once to warm up"
    assert torch.get_num_threads() == 1


def test_profile_shares_add_up_to_one(monkeypatch):
    part = np.zeros((50, 80), np.int8)
    part[:, :4], part[:, 20:24], part[:, 50:] = 1, 1, 2
    monkeypatch.setattr(scaling, "noise_scene", lambda shape: make_scene(shape=(50, 80), split=part))
    table = scaling.profile()
    assert set(zip(table["task"], table["patch"])) == {
        (task, patch) for task in ("training", "mapping") for patch in (7, 11)
    }
    for _, part in table.groupby(["task", "patch"]):
        assert part["share"].sum() == pytest.approx(1, abs=1e-3) and part["operation"].iloc[-1] == "all others"
        assert (part["share"].iloc[:-1] >= scaling.SHOWN - 1e-4).all() and part["operation"].str.contains(
            "convolution"
        ).any()


def test_figure_shows_every_size_with_its_exponent():
    table = sizes_table()
    figure = bench_plots.scaling(table, scaling.exponents(table))
    assert len(figure.axes) == 2 * len(SIZES)
    ax = figure.axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_title() == "time (s); exponent"
    training, mapping = ax.lines
    np.testing.assert_allclose(training.get_xydata(), [(n, 1e-3 * n) for n in SIZES["pixels"]])
    np.testing.assert_allclose(mapping.get_xydata(), [(n, 1e-3 * n**2) for n in SIZES["pixels"]])
    assert [text.get_text() for text in ax.texts] == ["1.00 [1.00, 1.00]", "2.00 [2.00, 2.00]"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.50 [0.50, 0.50]"]  # the memory of a map has none
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training step", "map"]
    with pytest.raises(PrsaError, match="expected sizes.*make bench"):
        bench_plots.scaling(table.iloc[:0], scaling.exponents(table))
    plt.close(figure)


class ReadsBack(TorchDispatchMode):
    """Counts operations whose result the host must wait for on a GPU: a value as a Python number, a shape that depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.WAITS or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "method, seeds",
    [(name, 1) for name in (*STUDY, *COMPARATORS) if not METHODS[name].get("classifier")]
    + [(name, 2) for name in (*STUDY, *COMPARATORS) if can_train_together(make_config(name))],
)
def test_no_step_reads_back_from_the_device(monkeypatch, method, seeds):
    """On a CPU, because reading back is a property of the operations; the record of an epoch is read after its last step."""
    monkeypatch.setattr(
        torch.nn.functional, "one_hot", lambda y, k: (y[:, None] == torch.arange(k)).long()
    )  # torch's checks its input, on CPUs only
    if METHODS[method].get("network"):
        monkeypatch.setattr(tiny, "Trainer", NetworkTrainer)
    trainer = make_trainer(make_scene(), method)
    if seeds > 1:
        trainer = Ensemble(
            make_scene(), split_scene(make_scene(), "blocks", radius=2), trainer.config, [0, 1], torch.device("cpu")
        )
    step = trainer.step
    with ReadsBack() as sentinel:
        torch.ones(2)[torch.tensor([True, False])].sum().item()
    assert sentinel.seen == ["index", "_local_scalar_dense"]
    sentinel.seen.clear()

    def watched(x, y, first):
        with sentinel:
            return step(x, y, first)

    trainer.step = watched
    trainer.epoch(1)
    assert not sentinel.seen
