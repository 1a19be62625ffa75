"""What only maintainers run measures what it says; the texts are made from the reference files. No time is tested."""

import functools
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from record import before, bench, equal, reference, scaling, shares, tuning
from synthetic import make_run
from tiny import SMALL, make_scene, make_trainer, weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import prsa
from prsa.comparators.networks import NetworkTrainer
from prsa.config import METHODS, make_config
from prsa.data.patches import PatchSource, band_statistics
from prsa.errors import PrsaError
from prsa.files import ROOT
from prsa.mapping import predict_map
from prsa.study import plan
from prsa.study.runs import save_run
from prsa.training.loop import Trainer

CPU = torch.device("cpu")
RATES = {"per_s", "usual_per_s", "ratio", "share_of_rate", "gmacs_per_s"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Scenes, maps and repeats small enough for a test; what sets the number of threads does it for this test only."""
    for module, name, value in (
        (bench, "REPEATS", 1),
        (bench, "AREA", 20),
        (bench, "CROP", 8),
        (bench, "TARGETS", {"training": {3: 0.4, 5: 0.6}, "mapping": {3: 0.8, 5: 0.8}}),
        (bench, "rates", functools.partial(bench.rates, size=64, repeats=1)),
        (bench, "SMALL", (64, 64)),
        (bench, "BANDS", {"hsi": 5, "lidar": 1}),
        (bench, "CLASSES", 4),
        (scaling, "SIDE", 90),
        (scaling, "EACH", 2),
        (scaling, "BANDS", {"hsi": 5, "lidar": 1}),
        (scaling, "CLASSES", 4),
        (scaling, "REPEATS", 1),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def gappy():
    """A tiny scene with missing data."""
    scene = make_scene()
    scene["hsi"][2, 3:6, 4:9] = np.nan
    return scene


def items(sides, rng=None):
    """The usual data set and the package's patches of the same pixels."""
    scene = gappy()
    statistics = {m: band_statistics(scene, m, np.ones((40, 48), bool)) for m in sides}
    centres = np.flatnonzero(scene["label"].values.ravel())[::7]  # windows of the first row are reflected
    usual = bench.UsualDataset(scene, sides, statistics, centres, rng)
    return usual, PatchSource(scene, sides, statistics, centres)


@pytest.mark.parametrize("method", ["concat", "prsanet", "late"])
@pytest.mark.parametrize("patch", [5, "hsi=7,sar=3"])
def test_the_map_patch_by_patch_is_the_map(method, patch):
    scene = gappy()
    trainer = make_trainer(scene, method, patch=patch)
    trainer.epoch(1)
    usual = bench.patch_map(trainer.model.train(), scene, batch=100)
    mapped = predict_map(trainer.model, scene, probabilities=True)["probability"]
    assert usual.shape == mapped.shape == (4, 40, 48) and usual.std() > 0.02
    np.testing.assert_allclose(usual, mapped, atol=1e-4)


def test_usual_items_are_windows_turned_by_all_eight_symmetries():
    sides = {"hsi": 5, "sar": 3}
    plain, source = items(sides)
    expected = source.gather(torch.arange(len(plain)))
    for i in range(len(plain)):
        for m, window in plain[i][0].items():
            torch.testing.assert_close(window, expected[m][i], atol=1e-5, rtol=0)
    turned, _ = items(sides, np.random.default_rng(0))
    views, seen = source.gather(torch.full((8,), 40), torch.arange(8)), set()
    for _ in range(100):
        window, _ = turned[40]
        (view,) = [k for k in range(8) if all(torch.allclose(window[m], views[m][k], atol=1e-5) for m in window)]
        seen.add(view)
    assert seen == set(range(8))


def test_a_usual_epoch_takes_the_steps_of_cross_entropy():
    dataset, _ = items({"hsi": 5, "sar": 5})
    model, twin = (make_trainer(make_scene(), "concat").model for _ in range(2))
    loader = DataLoader(dataset, batch_size=100, drop_last=True)
    bench.usual_epoch(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), CPU)
    for x, y in loader:
        p = twin.train()(x)["logits"].softmax(1)[torch.arange(100), y]
        gradients = torch.autograd.grad(-p.log().mean(), list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients):
                parameter -= 0.1 * gradient
    for name, value in weights(model).items():
        torch.testing.assert_close(value, weights(twin)[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("measure", [bench.training, bench.mapping])
def test_rows_compare_the_same_work(measure, monkeypatch):
    monkeypatch.setattr(bench, "rates", lambda device, repeats: {"convolution": 1e9})
    scene = bench.noise_scene((90, 70), {"hsi": 5, "sar": 2}, classes=4)
    scene["split"][20:] = 0
    rows = measure(scene, CPU)
    assert [(row["task"], row["patch"]) for row in rows] == [(measure.__name__, patch) for patch in (3, 5)] * 2
    for row in rows:
        assert min(row[name] for name in RATES) > 0
        assert row["per_s"] / row["usual_per_s"] == pytest.approx(row["ratio"], rel=0.01)
        assert row["share_of_rate"] == pytest.approx(row["gmacs_per_s"]) and row["convolution_gmacs_per_s"] == 1
    if measure is bench.mapping:  # patch 5, 5 + 2 bands, width and features 64, two 3 x 3 layers, 4 classes: by hand
        patch = 64 * 7 * 25 + 2 * 64 * 64 * (9 * 9 + 9 + 1) + 128 * 4
        pixel = 64 * 7 + 2 * 64 * 64 * 19 + 128 * 4
        assert rows[1]["operations_ratio"] == pytest.approx(patch / pixel)
        assert rows[1]["gmacs_per_s"] == pytest.approx(pixel * rows[1]["per_s"] / 1e9, rel=0.01)


def test_matmul_rates_are_the_best_of_their_repeats_of_the_same_product(monkeypatch):
    seconds, products = iter([9.0, 8.0, 0.5, 0.25, 1.0, 4.0, 3.0, 2.0]), []  # the first two calls warm up
    monkeypatch.setattr(bench, "seconds", lambda call, device: products.append(call()) or next(seconds))
    rates = bench.rates(CPU, size=64, repeats=3)
    assert rates == {"product": 64**3 / 0.25, "convolution": 64**3 / 2}
    assert products[0].numel() == products[1].numel() == 64 * 64 and products[1].shape[1] == 64


def test_the_repetition_with_the_median_share_counts(monkeypatch):
    took, speeds = iter([2.0, 3.0, 4.0]), iter([10, 8, 5, 6, 2, 1])  # products 20, 18, 8
    monkeypatch.setattr(bench, "seconds", lambda call, device: next(took))
    monkeypatch.setattr(bench, "rates", lambda device, repeats: {"convolution": next(speeds)})
    assert bench.measured(None, CPU, 3) == (3.0, 6)


class Waits(TorchDispatchMode):
    """Notes operations whose result a host waits for on a GPU: a Python number, a shape that depends on values."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", [m for m in (*plan.STUDY, *plan.COMPARATORS) if "classifier" not in METHODS[m]])
def test_no_training_step_waits_for_the_device(two, monkeypatch, method):
    """On a CPU, because waiting is a property of the operations; the record of an epoch is read after its last step."""
    waits = Waits()
    with waits:
        torch.ones(2)[torch.tensor([True, False])].sum().item()
    assert waits.seen == ["index", "_local_scalar_dense"]
    waits.seen.clear()
    # torch's own checks its input, on CPUs only
    monkeypatch.setattr(torch.nn.functional, "one_hot", lambda y, k: (y[:, None] == torch.arange(k)).long())
    kind = NetworkTrainer if METHODS[method].get("network") else Trainer
    step = kind.step

    def watched(*given, **options):
        with waits:
            return step(*given, **options)

    monkeypatch.setattr(kind, "step", watched)
    prsa.fit(two, method, prsa.split_scene(two, radius=2), device="cpu", **SMALL | {"epochs": 1})
    assert not waits.seen


@pytest.mark.parametrize("method", ["concat", "rf"])
def test_a_row_of_the_complexity_table(method):
    row = bench.method_row(method)
    assert list(row) == ["method", "params", "macs_patch", "macs_pixel", "train_per_s", "map_per_s", "memory_gb"]
    assert min(row[name] for name in list(row)[1:6]) > 0 and row["memory_gb"] >= 0


def test_peak_memory_is_that_of_the_process_and_can_be_forgotten():
    code = "import numpy as np; from record.bench import peak_memory; a = peak_memory(); x = np.ones(10**8)"
    code += (
        "; b = peak_memory(); del x; from record.scaling import forget_peak; forget_peak(); print(a, b, peak_memory())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, held, after = map(float, done.stdout.split())
    assert 0.7 < held - before < 0.9 and (after - before < 0.2 or not os.path.exists("/proc/self/clear_refs"))


def powers():
    """A table of known powers: training 1 and 0.5, mapping 2; a map adds no memory."""
    rows = [
        (task, against, n, 1e-3 * n**power, 3 * n**0.5 * (task == "training"))
        for against in ("pixels", "bands")
        for task, power in (("training", 1), ("mapping", 2))
        for n in (16, 32, 64)
    ]
    return pd.DataFrame(rows, columns=["task", "against", "size", "seconds", "memory_mb"])


def test_exponents_are_those_of_the_powers_and_their_interval_holds_the_truth():
    fitted = scaling.exponents(powers()).set_index(["task", "against", "quantity"])["exponent"].sort_index()
    assert fitted["training", "bands", "seconds"] == pytest.approx(1)
    assert fitted["training", "pixels", "memory_mb"] == pytest.approx(0.5)
    assert fitted["mapping", "pixels", "seconds"] == pytest.approx(2) and fitted["mapping", "bands"].isna()["memory_mb"]
    rng, n, held = np.random.default_rng(0), 2.0 ** np.arange(5), 0
    for _ in range(300):
        table = pd.DataFrame({"task": "map", "against": "bands", "size": n, "memory_mb": 0.0})
        row = scaling.exponents(table.assign(seconds=n**0.7 * np.exp(0.1 * rng.normal(size=5)))).iloc[0]
        held += row["exponent_lo"] < 0.7 < row["exponent_hi"]
    assert 0.91 < held / 300 < 0.98


@pytest.mark.parametrize(
    "task, against, size, wanted",
    [
        ("training", "pixels", 50, {"batch": 50, "hsi": 5}),
        ("training", "modalities", 3, {"batch": 128, "m2": 2}),
        ("mapping", "pixels", 4900, {"y": 70, "hsi": 5}),
        ("mapping", "bands", 7, {"y": 90, "hsi": 7}),
    ],
)
def test_a_size_is_measured_of_the_stated_task(monkeypatch, task, against, size, wanted):
    seen, real = [], scaling._seconds
    monkeypatch.setattr(scaling, "_seconds", lambda *given: seen.append(given) or real(*given))
    row = scaling.size_row(task, against, size)
    did, scene, config = seen[1]  # after the small task that loads the libraries
    has = {name.removesuffix("_band"): n for name, n in scene.sizes.items()} | {"batch": config.batch}
    assert (row["task"], row["against"], row["size"]) == (task, against, size) == (did, against, size)
    assert wanted.items() <= has.items() and min(row["seconds"], row["share_of_rate"]) > 0
    assert row["memory_mb"] > -1, "a page or two may be given back in between"


def test_two_versions_are_compared_pair_by_pair(tmp_path):
    for side, gain in (("older", 0), ("newer", 100)):
        (tmp_path / side).mkdir()
        for scene in ("sim-sar", "sim-lidar", "sim-tri"):
            run = make_run(scene, "concat")
            run["probe_confusion"][0, 0, 0] += gain
            save_run(run, tmp_path / side / f"{scene}__concat__s0__{side}.nc")
    table = equal.compare(tmp_path / "older", tmp_path / "newer").set_index("quantity")
    probes = table.drop(index="OA of linear probes, points")
    assert (probes["same"] == probes["values"]).all() and (probes[["mean", "lo", "hi", "largest"]] == 0).all(axis=None)
    probe = table.loc["OA of linear probes, points"]
    assert (probe["runs"], probe["same"]) == (3, probe["values"] - 3) and 0 < probe["lo"] < probe["mean"] < probe["hi"]


def test_the_parts_of_a_run_are_all_of_it(monkeypatch):
    monkeypatch.setattr(
        shares, "scene_and_split", lambda name: (make_scene(), prsa.split_scene(make_scene(), radius=3))
    )
    monkeypatch.setattr(shares, "EPOCHS", 2)
    row = shares.row("tiny", "prsanet")
    assert sum(row[part] for part in shares.PARTS) == pytest.approx(row["seconds"])
    assert min(row[part] for part in shares.PARTS if part != "other time in convolutions") > 0
    figure = shares.figure(pd.DataFrame([row]))
    assert sum(bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(row["seconds"])


def test_the_figure_of_the_scaling_law_shows_every_share():
    table = powers().assign(share_of_rate=0.5)
    tile = pd.DataFrame({"side": [100], "seconds": [9.0], "share_of_rate": [0.7]})
    axes = scaling.figure(table, scaling.exponents(table), tile).axes
    shown = [y for line in axes[1].lines for y in line.get_ydata()]
    assert shown[:6] == [50] * 6 and 70 in np.round(shown)


def test_before_and_after_are_measured_with_their_own_package(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "prsa", tmp_path / "prsa", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(before, "SIDE", 64)
    for clone in (ROOT, tmp_path):
        (quantity, rate), *_ = before.measured(clone, "maps", ["concat"]).items()
        assert quantity == "map, concat (pixels per s)" and rate > 0
    (tmp_path / "prsa" / "__init__.py").rename(tmp_path / "prsa" / "gone.py")
    (tmp_path / "prsa").rename(tmp_path / "gone")
    with pytest.raises(subprocess.CalledProcessError):
        before.measured(tmp_path, "imports", [])


def test_every_setting_gets_as_many_trials_on_development_scenes():
    classical = {m for m, settings in METHODS.items() if "classifier" in settings}
    assert set(tuning.TRIALS) == {*plan.STUDY, *plan.COMPARATORS} - {"concat", "late"} - classical
    assert {len(set(values)) for _, values in tuning.TRIALS.values()} == {3}
    assert all(100 <= int(scene.split(":")[1]) < 120 for scene in tuning.SCENES)


def test_the_highest_validation_accuracy_is_chosen_and_the_test_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(tuning, "SCENES", ("a", "b"))
    monkeypatch.setattr(tuning, "TRIALS", {"prsanet": ("lambda_p", (0.3, 1.0, 3.0))})
    runs = []
    for right in ((50, 99), (70, 10), (60, 60), (60, 99), (44, 10), (54, 60)):  # validation means 55, 57, 57
        counts = np.array([[[[n, 100 - n], [0, 0]] for n in (0, *right)]])
        coords = {"head": ["fused"], "part": ["train", "val", "test"]}
        runs.append(xr.Dataset({"confusion": (("head", "part", "class", "predicted"), counts)}, coords))
    table = tuning.table(runs, tuning.specs())
    assert list(table["val_oa"]) == [55, 57, 57] and list(table["n_scenes"]) == [2, 2, 2]
    assert list(table["chosen"]) == [0, 1, 0] and list(table["in_use"]) == [1, 0, 0]


def test_what_is_in_use_is_what_was_chosen():
    kept = pd.read_csv(reference.REFERENCE / "tuning.csv")
    for method, (setting, values) in tuning.TRIALS.items():
        rows = kept[kept["method"].eq(method)]
        assert list(rows["setting"]) == [setting] * 3 and list(rows["value"]) == list(values), method
        best = rows.loc[rows["val_oa"].idxmax()]
        assert rows["chosen"].sum() == 1 and best["chosen"] == 1 and rows["chosen"].equals(rows["in_use"]), method
        assert getattr(make_config(method), setting) == pytest.approx(best["value"]), method


def test_the_finished_search_can_be_repeated_and_ended_with_what_is_in_use():
    search = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("SEARCH")).split()[
        -1
    ]
    if (ROOT / ".git").exists() and not (ROOT / ".git" / "shallow").exists():
        subprocess.run(["git", "cat-file", "-e", f"{search}:prsa/research.py"], cwd=ROOT, check=True)
    kept = pd.read_csv(reference.REFERENCE / "research.csv")
    scenes = kept.groupby("round")["scene"].agg(set)
    assert sum(map(len, scenes)) == len(set.union(*scenes)), "a round is asked on scenes that no other has seen"
    assert all(100 <= int(scene.split(":")[1]) < 120 for scene in set.union(*scenes))
    used = make_config("prsanet")
    assert (used.vote, used.lambda_p, used.lambda_sa) == (1.0, 0.3, 0.3)  # "vote 1" to the start of the search
    assert "vote 1" in set(kept.loc[kept["round"].eq(3), "name"])


@pytest.mark.parametrize("path", reference.TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_made_from_the_reference_files(path):
    text = path.read_text(encoding="utf-8")
    assert reference.with_blocks(path, text) == text, "run make reference"
    with pytest.raises(PrsaError, match="once each"):
        reference.with_blocks(path, text + f"<!-- {reference.TEXTS[path][0].__name__}:begin -->\n")


def test_blocks_say_what_the_tables_hold():
    folder = reference.REFERENCE
    table = pd.read_csv(folder / "tables" / "evaluation.csv").set_index(["group", "method"])
    d, low, high = table.loc[("sim-tri", "sagf"), ["d_oa", "d_oa_lo", "d_oa_hi"]]
    assert f"| {d:+.1f} [{low:.1f}, {high:.1f}] |" in reference.results(folder)
    ledger = pd.read_csv(folder / "tables" / "claims.csv").set_index(["measure", "scene"])
    d, low, high = ledger.loc[("OA: prsanet - late (points)", "idtrees"), ["effect", "lo", "hi"]]
    for block in (reference.headline, reference.findings):
        assert f"| {d:+.1f} [{low:.1f}, {high:.1f}] |" in block(folder)
    best = pd.read_csv(folder / "comparison" / "tables" / "ranking.csv").iloc[0]
    assert f"| `{best['method']}` | {best['family']} | {best['rank_mean']:.1f} [" in reference.comparison(folder)
