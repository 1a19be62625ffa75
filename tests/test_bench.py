"""The benchmark measures what it says, and the usual pipelines it compares with do the same work; its figures are never tested."""

import json
import os
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from record import bench, bench_plots, scaling
from test_scaling import sizes_table
from tiny import make_scene, make_trainer, weights
from torch.utils.data import DataLoader

from prsa.config import make_config
from prsa.data.patches import PatchSource, band_statistics
from prsa.data.scene import check_scene
from prsa.errors import PrsaError
from prsa.mapping import predict_map

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """A noise scene of 90 x 70 pixels, 5 + 2 bands, some 400 training pixels, measured once and with small maps."""
    for name, value in {"REPEATS": 1, "AREA": 20, "CROP": 8, "TARGETS": {3: 50, 5: 100}}.items():
        monkeypatch.setattr(bench, name, value)
    scene = bench.noise_scene((90, 70), {"hsi": 5, "sar": 2}, classes=4)
    scene["split"][20:] = 0
    return scene


def trained(method, **overrides):
    """A scene with missing data and a network after one epoch on it, its batch norms no longer those of the start."""
    scene = make_scene()
    scene["hsi"][2, 3:6, 4:9] = np.nan
    trainer = make_trainer(scene, method, **overrides)
    trainer.epoch(1)
    return scene, trainer.model


def dataset_and_source(sides, rng=None):
    scene = make_scene()
    scene["hsi"][2, 3:6, 4:9] = np.nan
    everywhere = np.ones((40, 48), bool)
    statistics = {m: band_statistics(scene, m, everywhere) for m in sides}
    centres = np.flatnonzero(scene["label"].values.ravel())[
        ::7
    ]  # the first row and the corner's neighbours are reflected
    return (
        scene,
        centres,
        bench.UsualDataset(scene, sides, statistics, centres, rng),
        PatchSource(scene, sides, statistics, centres),
    )


def test_noise_scene_is_a_scene_of_the_stated_size():
    scene = check_scene(bench.noise_scene((90, 70), {"hsi": 5, "sar": 2}, classes=4))
    assert dict(scene.sizes) == {"hsi_band": 5, "sar_band": 2, "y": 90, "x": 70}
    assert int((scene["split"] == 1).sum()) == 2000 and int(scene["label"].max()) == 4


@pytest.mark.parametrize("measure, rate", [("training", "samples_per_s"), ("mapping", "pixels_per_s")])
def test_rows_hold_every_method_and_a_rate(small, measure, rate):
    rows = getattr(bench, measure)(small, CPU, threads=1, ceiling=1e9)
    assert {row["method"] for row in rows} == {"concat", "prsanet"}
    assert all(row[rate] >= row[f"median_{rate}"] > 0 and row["share_of_matmul"] > 0 for row in rows)
    assert json.loads(json.dumps(rows)) == rows
    if measure == "training":
        assert {row["batch"] for row in rows} == {64, 128, 256} and {row["features"] for row in rows} == {
            make_config("concat").features
        }


@pytest.mark.parametrize("method", ["concat", "prsanet", "late"])
@pytest.mark.parametrize("patch", [5, "hsi=7,sar=3"])
def test_patch_by_patch_map_equals_the_map(method, patch):
    scene, model = trained(method, patch=patch)
    cover, confidence, logits = bench.patch_map(model.train(), scene, batch=100)
    mapped = predict_map(model, scene, probabilities=True)
    assert logits.shape == (40, 48, 4) and float(logits.std()) > 0.1
    np.testing.assert_allclose(logits.softmax(2).permute(2, 0, 1), mapped["probability"], atol=1e-4)
    np.testing.assert_allclose(confidence, mapped["land_cover"]["confidence"], atol=1e-4)
    torch.testing.assert_close(bench.map_logits(model, scene), logits, atol=1e-4, rtol=0)
    clear = np.sort(mapped["probability"].values, axis=0)
    clear = clear[-1] - clear[-2] > 1e-3
    assert clear.mean() > 0.9 and (cover == mapped["land_cover"].values)[clear].all() and cover.dtype == np.uint8


def test_items_are_the_windows_and_labels_of_the_pixels():
    scene, centres, dataset, source = dataset_and_source({"hsi": 5, "sar": 3})
    expected = source.gather(torch.arange(len(centres)))
    assert len(dataset) == len(centres) > 200
    for i, centre in enumerate(centres):
        window, label = dataset[i]
        assert label == int(scene["label"].values[divmod(centre, 48)]) - 1
        assert {m: (tuple(w.shape), w.dtype) for m, w in window.items()} == {
            "hsi": ((6, 5, 5), torch.float32),
            "sar": ((2, 3, 3), torch.float32),
        }
        for m in window:
            torch.testing.assert_close(window[m], expected[m][i], atol=1e-5, rtol=0)


def test_items_are_turned_by_all_eight_symmetries_alike_in_every_modality():
    _, _, dataset, source = dataset_and_source({"hsi": 5, "sar": 3}, np.random.default_rng(0))
    views = source.gather(torch.full((8,), 40), torch.arange(8))
    seen = set()
    for _ in range(100):
        window, _ = dataset[40]
        fits = [k for k in range(8) if all(torch.allclose(window[m], views[m][k], atol=1e-5) for m in window)]
        assert len(fits) == 1
        seen.update(fits)
    assert seen == set(range(8))


def test_usual_epoch_takes_the_steps_of_plain_cross_entropy():
    _, _, dataset, _ = dataset_and_source({"hsi": 5, "sar": 5})
    model, twin = (make_trainer(make_scene(), "concat").model for _ in range(2))
    loader = DataLoader(dataset, batch_size=100, drop_last=True)
    bench.usual_epoch(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), CPU)
    for b in range(len(dataset) // 100):
        items = [dataset[i] for i in range(100 * b, 100 * b + 100)]
        x = {m: torch.stack([item[m] for item, _ in items]) for m in ("hsi", "sar")}
        y = torch.tensor([label for _, label in items])
        p = twin.train()(x)["logits"].softmax(1)[torch.arange(100), y]
        gradients = torch.autograd.grad(-p.log().mean(), list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients):
                parameter -= 0.1 * gradient
    for name, value in weights(model).items():
        torch.testing.assert_close(value, weights(twin)[name], atol=1e-5, rtol=0, msg=name)


def test_training_ratios_are_of_the_same_work(small):
    rows = bench.training_ratios(small, CPU, threads=1, ceiling=1e9)
    assert [(row["method"], row["patch"], row["batch"]) for row in rows] == [("concat", 3, 128), ("concat", 5, 128)]
    for row in rows:
        assert (
            row["ratio"] == pytest.approx(row["samples_per_s"] / row["usual_samples_per_s"], rel=0.02)
            and row["ratio"] > 0
        )
        assert row["share_of_matmul"] / row["usual_share_of_matmul"] == pytest.approx(row["ratio"], rel=0.02)
    assert json.loads(json.dumps(rows)) == rows


def test_mapping_ratios_are_of_the_same_map(small):
    rows = bench.mapping_ratios(small, CPU, threads=1, ceiling=1e9)
    assert [(row["patch"], row["target"]) for row in rows] == 2 * [(3, 50), (5, 100)]
    assert [row["method"] for row in rows] == ["concat", "concat", "prsanet", "prsanet"]
    for row in rows:
        assert (row["pixels"], row["usual_pixels"]) == (20 * 20, 8 * 8) and 0 < row["max_logit_difference"] < 1e-4
        assert (
            row["ratio"] == pytest.approx(row["pixels_per_s"] / row["usual_pixels_per_s"], rel=0.02)
            and row["ratio"] > 0
        )
        assert row["share_of_matmul"] / row["usual_share_of_matmul"] == pytest.approx(row["ratio"], rel=0.02)
        assert row["usual_busy_share"] / row["usual_share_of_matmul"] == pytest.approx(
            row["operations_ratio"], rel=0.02
        )
    # patch 5, 5 + 2 bands, width and features 64, two 3 x 3 layers, 4 classes: by hand
    patch, pixel = 64 * 7 * 25 + 2 * 64 * 64 * (9 * 9 + 9 + 1) + 128 * 4, 64 * 7 + 2 * 64 * 64 * 19 + 128 * 4
    assert rows[1]["operations_ratio"] == pytest.approx(patch / pixel, rel=0.005)


def test_report_measures_the_machine_once_and_holds_rows_and_ratios(monkeypatch):
    calls, scene = [], bench.noise_scene((90, 70), {"hsi": 5, "sar": 2}, classes=4)
    monkeypatch.setattr(
        bench, "matmul_rates", lambda device: calls.append(device) or {"product": 2e9, "convolution": 5e9}
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)

    def rows(scene, device, threads, ceiling):
        return [{"threads": threads, "ceiling": ceiling}]

    monkeypatch.setitem(bench.MEASURES, "mapping", (rows, rows))
    report = bench.report("mapping", scene, CPU)
    assert calls == [CPU] and report["machine"]["cores"] == 2 and report["machine"]["matmul_gmacs_per_s"] == 5.0
    assert report["machine"]["routines_gmacs_per_s"] == {"product": 2.0, "convolution": 5.0}
    assert report["rows"] == [{"threads": n, "ceiling": 5e9} for n in (1, 2)] and report["ratios"] == [
        {"threads": 2, "ceiling": 5e9}
    ]
    assert report["bands"] == {"hsi": 5, "sar": 2} and report["classes"] == 4
    assert bench.MEASURES["training"] == (bench.training, bench.training_ratios)


def test_matmul_rates_are_the_best_of_their_repeats_of_the_same_product(monkeypatch):
    seconds, products = iter([9.0, 8.0, 0.5, 0.25, 1.0, 4.0, 3.0, 2.0]), []
    monkeypatch.setattr(bench, "_seconds", lambda call, device: products.append(call()) or next(seconds))
    assert bench.matmul_rates(CPU, size=64, repeats=3) == {
        "product": 64**3 / 0.25,
        "convolution": 64**3 / 2,
    }  # the first two calls warm up
    product, convolution = products[:2]  # both are 64 x 64 outputs of sums of 64 products
    assert product.numel() == convolution.numel() == 64 * 64 and convolution.shape[1] == 64


def reports():
    train = {"method": "concat", "patch": 7, "ratio": 2.5, "share_of_matmul": 0.5, "usual_share_of_matmul": 0.2}
    mapped = {
        "method": "prsanet",
        "patch": 11,
        "ratio": 100.0,
        "share_of_matmul": 0.6,
        "usual_share_of_matmul": 0.006,
        "usual_busy_share": 0.3,
    }
    return {"training": {"ratios": [train]}, "mapping": {"ratios": [mapped]}}


def test_figure_shows_the_shares_of_both_pipelines_and_their_ratio():
    figure = bench_plots.roofline(reports())
    ax = figure.axes[0]
    points = [line for line in ax.lines if line.get_marker() != "None"]
    shown = [
        (line.get_marker(), line.get_markerfacecolor() == "none", *line.get_xydata().ravel().tolist())
        for line in points
    ]
    assert shown == [
        ("s", False, 0.2, 0.0),
        ("o", False, 0.5, 0.0),
        ("s", False, 0.006, 1.0),
        ("o", False, 0.6, 1.0),
        ("s", True, 0.3, 1.0),
    ]
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] < 0.006 and ax.get_xlim()[1] > 1
    assert [label.get_text() for label in ax.get_yticklabels()] == ["train concat, patch 7", "map prsanet, patch 11"]
    assert [text.get_text() for text in ax.texts] == ["2.5×", "100×"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "prsa",
        "usual pipeline",
        "usual, repeated work counted",
    ]
    plt.close(figure)


def test_figures_are_saved_beside_the_reports_and_asks_for_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    (tmp_path / "bench").mkdir()
    for name, report in reports().items():
        (tmp_path / "bench" / f"{name}.json").write_text(json.dumps(report))
    table = sizes_table()
    table.to_csv(tmp_path / "bench" / "scaling.csv", index=False)
    with pytest.raises(PrsaError, match="no scaling_exponents.csv. Fix: make bench"):
        bench_plots.main()
    scaling.exponents(table).to_csv(tmp_path / "bench" / "scaling_exponents.csv", index=False)
    bench_plots.main()
    drawn = {f"{name}.{kind}" for name in ("speed", "scaling") for kind in ("png", "pdf")}
    assert {path.name for path in (tmp_path / "bench").iterdir()} == {*bench_plots.FILES, *drawn}
    with pytest.raises(PrsaError, match="expected ratios.*make bench"):
        bench_plots.roofline({"training": {"rows": []}})
    plt.close("all")


def test_a_row_of_the_complexity_table(monkeypatch):
    monkeypatch.setattr(bench, "SMALL", (64, 64))
    threads = torch.get_num_threads()
    row = bench._method("endnet")
    torch.set_num_threads(threads)
    assert list(row) == ["method", "params", "macs_patch", "macs_pixel", "train_per_s", "map_per_s", "memory_gb"]
    assert row["method"] == "endnet" and min(row[name] for name in list(row)[1:6]) > 0 and row["memory_gb"] >= 0


def test_peak_memory_is_that_of_the_process_and_grows_with_what_it_holds():
    code = "import numpy as np; from prsa.bench import peak_memory; a = peak_memory(); x = np.ones(10**8); print(a, peak_memory())"
    held = np.ones(15 * 10**7)  # 1.2 GB here, which the other process must not count
    before, after = map(
        float, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert held.nbytes > 1e9 and before < 0.9 and 0.7 < after - before < 0.9
