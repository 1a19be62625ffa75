"""Speed of training and mapping on this machine: `make bench` writes results/bench, with what `record.scaling` measures. Never a timed test.

The scene is noise of a stated size, because speed does not depend on what the pixels show. Both are also compared, in the same process and with
the same network, with the usual way: a `Dataset` that cuts one patch per item, and a map predicted patch by patch.
``python -m record.bench memory`` measures the peak memory of one epoch and a map at the full size of the two largest benchmarks; it takes about
ten minutes on one core.
"""

import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import xarray as xr
from torch.utils.data import DataLoader, Dataset

from prsa import files
from prsa.config import make_config
from prsa.data.patches import PatchSource
from prsa.data.scene import check_scene, class_names, modalities
from prsa.data.splits import TRAIN, split_scene
from prsa.files import write_text
from prsa.mapping import predict_map, visit_logits
from prsa.network.prsanet import PRSANet
from prsa.report.tables import markdown, readable
from prsa.study.fit import fit
from prsa.study.plan import COMPARATORS, STUDY
from prsa.training.loop import Trainer, pick_device

BANDS = {"hsi": 144, "lidar": 1}
CLASSES, SHAPE, SMALL, REPEATS = 15, (512, 512), (96, 96), 3
AREA, CROP = (
    256,
    64,
)  # pixels on a side: of the maps that are compared, and of the crop that is also predicted patch by patch
TARGETS = {7: 50, 11: 100}  # patch -> how many times faster than patch by patch a map is meant to be
METHODS_NOTE = (
    "All methods on the same noise: 144 + 1 bands, 15 classes, patch 7, 2,000 training pixels, batch 128, all cores. Trainable parameters; multiply-accumulate "
    "operations per patch and per pixel of a map (classical ones: see prsa.classical); training samples and map pixels per second; peak memory added by "
    "training and a map of 96 x 96 pixels. Classical: training pixels per second of the whole fit, grid included."
)
LARGE = {"berlin": ((1723, 476), {"hsi": 244, "sar": 4}, 8), "houston2018": ((1202, 4768), {"hsi": 50, "lidar": 1}, 20)}


def noise_scene(shape: tuple[int, int] = SHAPE, bands: dict = BANDS, classes: int = CLASSES) -> xr.Dataset:
    """A contract scene of Gaussian noise of this shape (y, x), with 2,000 training pixels."""
    rng = np.random.default_rng(0)
    label = rng.integers(1, classes + 1, size=shape).astype(np.int16)
    split = np.zeros(shape, np.int8)
    split.ravel()[rng.choice(split.size, 4000, replace=False)] = np.repeat([1, 2], 2000)
    data = {
        m: ((f"{m}_band", "y", "x"), rng.standard_normal(size=(n, *shape), dtype=np.float32)) for m, n in bands.items()
    }
    attrs = {
        "schema": "prsa-scene-1",
        "name": "noise",
        "title": "noise",
        "class_names": json.dumps([f"class {k}" for k in range(1, classes + 1)]),
        "simulated": 1,
        "license": "none",
        "citation": "none",
    }
    return xr.Dataset(data | {"label": (("y", "x"), label), "split": (("y", "x"), split)}, attrs=attrs)


def _seconds(call, device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _alternating(ours, usual, device: torch.device) -> tuple[float, float]:
    """Least seconds of each of two calls, taken in turn `REPEATS` times, so that other load on the machine meets both."""
    return tuple(np.min([[_seconds(ours, device), _seconds(usual, device)] for _ in range(REPEATS)], axis=0))


def _short(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def matmul_rates(device: torch.device, size: int = 1024, repeats: int = 20) -> dict[str, float]:
    """Multiply-accumulates per second of a float32 matrix product of this size, best of ``repeats``, by the two routines that torch has for it.

    On a CPU ``product`` is BLAS and ``convolution`` (1 x 1, on 32 images) is oneDNN; which is faster depends on the processor, by a factor of two
    on some. ``size``: a multiple of 32.
    """
    a = torch.randn(size, size, device=device)
    images = a.view(32, 1, -1, size).permute(0, 3, 1, 2)  # (32, size, 1, size / 32), channels last
    calls = {"product": lambda: a @ a, "convolution": lambda: F.conv2d(images, a[:, :, None, None])}
    for call in calls.values():
        _seconds(call, device)
    return {name: size**3 / min(_seconds(call, device) for _ in range(repeats)) for name, call in calls.items()}


def training(scene: xr.Dataset, device: torch.device, threads: int, ceiling: float) -> list[dict]:
    """Samples per second of whole training steps (gather, augment, forward, all gradients, optimiser), best of `REPEATS` epochs.

    Shares are those of ``ceiling``, multiply-accumulates per second of the whole machine, whatever ``threads``.
    """
    torch.set_num_threads(threads)
    rows, split = [], split_scene(scene)
    for method in ("concat", "prsanet"):
        for batch in (64, 128, 256):
            trainer = Trainer(scene, split, make_config(method, batch=batch, epochs=REPEATS + 1), 0, device)
            seconds = [_seconds(lambda: trainer.epoch(number), device) for number in range(1, REPEATS + 2)]
            samples = trainer.batches * batch
            macs = 3 * trainer.model.complexity()["macs_patch"]  # forward, and twice that backward
            rate = samples / min(seconds[1:])
            rows.append(
                {
                    "method": method,
                    "batch": batch,
                    "threads": threads,
                    "patch": 7,
                    "features": 64,
                    "samples_per_s": round(rate),
                    "median_samples_per_s": round(samples / float(np.median(seconds[1:]))),
                    "share_of_matmul": _short(rate * macs / ceiling),
                }
            )
    return rows


def mapping(scene: xr.Dataset, device: torch.device, threads: int, ceiling: float) -> list[dict]:
    """Pixels per second of a whole-scene map with normalisation, fusion, argmax and confidence, best of `REPEATS`; ``ceiling`` as in `training`."""
    torch.set_num_threads(threads)
    rows, split = [], split_scene(scene)
    for method in ("concat", "prsanet"):
        model = Trainer(scene, split, make_config(method, epochs=1), 0, device).model
        seconds = [_seconds(lambda: predict_map(model, scene), device) for _ in range(REPEATS)]
        pixels = scene.sizes["y"] * scene.sizes["x"]
        rate = pixels / min(seconds)
        rows.append(
            {
                "method": method,
                "threads": threads,
                "patch": 7,
                "pixels": pixels,
                "pixels_per_s": round(rate),
                "median_pixels_per_s": round(pixels / float(np.median(seconds))),
                "share_of_matmul": _short(rate * model.complexity()["macs_pixel"] / ceiling),
            }
        )
    return rows


class UsualDataset(Dataset):
    """The usual pipeline, to compare with: an item is one window per modality, cut from numpy arrays, turned and mirrored, and its class.

    The scene is standardised and reflected at its border once, beforehand. ``centres``: flat indices (n,) of the pixels; ``statistics[m]``: mean
    and deviation per band; ``rng`` draws the symmetry of an item, None leaves it as it lies in the scene.
    """

    def __init__(
        self,
        scene: xr.Dataset,
        sides: dict[str, int],
        statistics: dict,
        centres: np.ndarray,
        rng: np.random.Generator | None = None,
    ):
        self.sides, self.rng, self.images = sides, rng, {}
        self.y, self.x = np.unravel_index(centres, scene["label"].shape)
        self.labels = scene["label"].values[self.y, self.x].astype(np.int64) - 1
        for m, side in sides.items():
            mean, std = (np.asarray(s)[:, None, None] for s in statistics[m])
            values = np.nan_to_num((scene[m].values - mean) / std)
            self.images[m] = np.pad(values, ((0, 0), (side // 2, side // 2), (side // 2, side // 2)), mode="reflect")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[dict[str, torch.Tensor], int]:
        """Modality -> window (C, p, p) float32, and the class 0..K-1."""
        y, x, item = self.y[i], self.x[i], {}
        turns, mirror = self.rng.integers((4, 2)) if self.rng else (0, 0)
        for m, side in self.sides.items():
            window = self.images[m][:, y : y + side, x : x + side]
            window = np.rot90(window[:, :, ::-1] if mirror else window, turns, (1, 2))
            item[m] = torch.from_numpy(np.ascontiguousarray(window))
        return item, self.labels[i]


def usual_epoch(model: PRSANet, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """One epoch of plain cross entropy on the fused logits, the loss of ``concat``: a forward and a backward pass and a step per batch."""
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model({m: v.to(device) for m, v in x.items()})["logits"], y.to(device)).backward()
        optimizer.step()


def training_ratios(scene: xr.Dataset, device: torch.device, threads: int, ceiling: float) -> list[dict]:
    """`Trainer` and the usual pipeline around the same network: samples per second, their ratio and their shares of ``ceiling``.

    Both take the same batches of 128 and leave the last, smaller one out. Beyond its steps, the Trainer measures gradients and validation accuracy.
    """
    torch.set_num_threads(threads)
    rows, split = [], split_scene(scene)
    for patch in TARGETS:
        config = make_config("concat", patch=patch, epochs=REPEATS + 1)
        trainer = Trainer(scene, split, config, 0, device)
        statistics = {m: tuple(s.cpu().numpy() for s in pair) for m, pair in trainer.model.statistics().items()}
        model = PRSANet(trainer.model.bands, trainer.model.classes, config, 0, statistics).to(device)
        dataset = UsualDataset(
            scene, model.sides, statistics, np.flatnonzero(split.values == TRAIN), np.random.default_rng(0)
        )
        loader = DataLoader(dataset, batch_size=config.batch, shuffle=True, num_workers=0, drop_last=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        numbers = iter(range(1, REPEATS + 2))
        ours, usual = (lambda: trainer.epoch(next(numbers))), (lambda: usual_epoch(model, loader, optimizer, device))
        ours(), usual()
        seconds = _alternating(ours, usual, device)
        rates = [trainer.batches * config.batch / s for s in seconds]
        shares = [rate * 3 * model.complexity()["macs_patch"] / ceiling for rate in rates]
        rows.append(
            {
                "method": "concat",
                "patch": patch,
                "batch": config.batch,
                "threads": threads,
                "samples_per_s": round(rates[0]),
                "usual_samples_per_s": round(rates[1]),
                "ratio": _short(rates[0] / rates[1]),
                "share_of_matmul": _short(shares[0]),
                "usual_share_of_matmul": _short(shares[1]),
            }
        )
    return rows


@torch.inference_mode()
def map_logits(model: PRSANet, scene: xr.Dataset) -> torch.Tensor:
    """Logits (y, x, K) of every pixel as `predict_map` computes them, on the CPU."""
    logits = torch.zeros(len(model.classes), scene.sizes["y"], scene.sizes["x"])

    def keep(place: tuple, values: torch.Tensor) -> None:
        logits[:, *place] = values.cpu()

    visit_logits(model, scene, keep)
    return logits.movedim(0, -1)


@torch.inference_mode()
def patch_map(model: PRSANet, scene: xr.Dataset, batch: int = 256) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """The usual map, to compare with: the network sees the window of every pixel. Land cover (y, x) 1..K, confidence (y, x), logits (y, x, K).

    Batches of 128 and 256 are about equally fast on the machine of the reference; larger ones wait for memory."""
    model.eval()
    shape, device = (scene.sizes["y"], scene.sizes["x"]), next(model.parameters()).device
    statistics = {m: tuple(s.cpu() for s in pair) for m, pair in model.statistics().items()}
    patches = PatchSource(scene, model.sides, statistics, np.arange(np.prod(shape)), device)
    pieces = [
        model(patches.gather(index))["logits"] for index in torch.arange(np.prod(shape), device=device).split(batch)
    ]
    logits = torch.cat(pieces).cpu().view(*shape, -1)
    confidence, cover = logits.softmax(2).max(2)
    return (cover + 1).numpy().astype(np.uint8), confidence.numpy(), logits


def mapping_ratios(scene: xr.Dataset, device: torch.device, threads: int, ceiling: float) -> list[dict]:
    """`predict_map` and `patch_map` with the same network: pixels per second, their ratio, its target, and the largest difference of their logits.

    ``operations_ratio``: multiply-accumulates of the patch-by-patch map over those of the whole-scene map, the ratio that equal hardware use would
    give. Shares of ``ceiling`` count what a whole-scene map needs, for both; ``usual_busy_share`` counts all that the patch-by-patch map does.
    """
    torch.set_num_threads(threads)
    rows, split = [], split_scene(scene)
    area, crop = (scene.isel(y=slice(n), x=slice(n)) for n in (AREA, CROP))
    for method in ("concat", "prsanet"):
        for patch, target in TARGETS.items():
            trainer = Trainer(scene, split, make_config(method, patch=patch, epochs=1), 0, device)
            trainer.epoch(1)  # a batch norm that was never trained would not show an error in folding it away
            model, macs = trainer.model, trainer.model.complexity()
            difference = float((map_logits(model, crop) - patch_map(model, crop)[2]).abs().max())
            seconds = _alternating(lambda: predict_map(model, area), lambda: patch_map(model, crop), device)
            pixels = [part.sizes["y"] * part.sizes["x"] for part in (area, crop)]
            rates = [n / s for n, s in zip(pixels, seconds)]
            rows.append(
                {
                    "method": method,
                    "patch": patch,
                    "threads": threads,
                    "pixels": pixels[0],
                    "usual_pixels": pixels[1],
                    "pixels_per_s": round(rates[0]),
                    "usual_pixels_per_s": round(rates[1]),
                    "ratio": _short(rates[0] / rates[1]),
                    "target": target,
                    "operations_ratio": _short(macs["macs_patch"] / macs["macs_pixel"]),
                    "max_logit_difference": _short(difference),
                    "share_of_matmul": _short(rates[0] * macs["macs_pixel"] / ceiling),
                    "usual_share_of_matmul": _short(rates[1] * macs["macs_pixel"] / ceiling),
                    "usual_busy_share": _short(rates[1] * macs["macs_patch"] / ceiling),
                }
            )
    return rows


MEASURES = {"training": (training, training_ratios), "mapping": (mapping, mapping_ratios)}


def report(name: str, scene: xr.Dataset, device: torch.device) -> dict:
    """All that is measured of "training" or "mapping": the machine, ``rows`` with one thread and with all, ``ratios`` with all."""
    measure, compare = MEASURES[name]
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    matmul = matmul_rates(device)
    ceiling = max(matmul.values())  # the machine's: a share of the slower routine could be above one
    rows = [row for threads in sorted({1, cores}) for row in measure(scene, device, threads, ceiling)]
    ratios = compare(scene, device, cores, ceiling)
    return {
        "machine": {
            "cores": cores,
            "device": str(device),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "matmul_gmacs_per_s": round(ceiling / 1e9, 1),
            "routines_gmacs_per_s": {name: round(rate / 1e9, 1) for name, rate in matmul.items()},
        },
        "bands": {m: scene.sizes[f"{m}_band"] for m in modalities(scene)},
        "classes": len(class_names(scene)),
        "rows": rows,
        "ratios": ratios,
        "peak_memory_gb": round(peak_memory(), 2),
    }


def _large(name: str) -> dict:
    shape, bands, classes = LARGE[name]
    start = time.perf_counter()
    scene = check_scene(noise_scene(shape, bands, classes))
    made = peak_memory()
    _, model = fit(scene, "concat", split_scene(scene, radius=5), device="cpu", epochs=1, patch=11)
    trained = time.perf_counter()
    predict_map(model, scene)
    peak = peak_memory()
    return {
        "size_of": name,
        "shape": shape,
        "bands": bands,
        "scene_gb": round(made, 2),
        "peak_gb": round(peak, 2),
        "scene_epoch_evaluation_s": round(trained - start),
        "map_s": round(time.perf_counter() - trained),
        "threads": torch.get_num_threads(),
    }


def peak_memory() -> float:
    """Largest resident memory of this process so far, GB. Linux carries the peak of the parent over into ``ru_maxrss``, so /proc goes first."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _method(method: str) -> dict:
    """One method in this fresh process: training and mapping speed with all cores, and the memory it adds to scene and libraries at its peak."""
    scene = noise_scene(SMALL)
    split = split_scene(scene)
    torch.set_num_threads(os.cpu_count() or 1)
    before = peak_memory()
    run, model = fit(scene, method, split, device="cpu", epochs=4, epoch_choice="final")
    start, repeats = time.perf_counter(), 0
    while repeats < REPEATS and (repeats == 0 or time.perf_counter() - start < 10):
        predict_map(model, scene)
        repeats += 1
    seconds = (time.perf_counter() - start) / repeats
    config, peak = make_config(method), peak_memory()
    return {
        "method": method,
        **{name: int(run.attrs[name]) for name in ("params", "macs_patch", "macs_pixel")},
        "train_per_s": round(
            (run.attrs["n_train"] / run.attrs["seconds"]) if config.classifier else run.attrs["samples_per_s"]
        ),
        "map_per_s": round(scene.sizes["y"] * scene.sizes["x"] / seconds),
        "memory_gb": round(peak - before, 3),
    }


def methods() -> None:
    """All methods at the bands of Houston2013, patch 7, batch 128: parameters, operations, speed, memory; into ``complexity.csv`` and ``.md``."""
    rows = []
    for method in (*STUDY, *COMPARATORS):
        with ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as pool:  # a process each: peak memory only grows
            rows.append(pool.submit(_method, method).result())
        print(rows[-1], flush=True)
    frame, out = pd.DataFrame(rows), files.results("full") / "bench"
    write_text(frame.to_csv(index=False, lineterminator="\n"), out / "complexity.csv")
    write_text(f"{METHODS_NOTE}\n\n{markdown(readable(frame))}", out / "complexity.md")


def memory() -> None:
    """Peak memory of opening, one epoch, evaluation and a map at full benchmark size, each in a process of its own."""
    rows = []
    for name in LARGE:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(_large, name).result())
        print(rows[-1])
    write_text(json.dumps(rows, indent=1) + "\n", files.results("full") / "bench" / "memory.json")


def main() -> None:
    """Measure training and mapping with all cores (and one), then what `record.scaling` does, then all methods; write the files and figures."""
    from record import (
        bench_plots,
        scaling,  # not above: their libraries would count in the memory that other processes measure
    )

    device, scene = pick_device("auto"), noise_scene()
    for name in MEASURES:
        measured = report(name, scene, device)
        write_text(json.dumps(measured, indent=1) + "\n", files.results("full") / "bench" / f"{name}.json")
        print(name, *measured["rows"], *measured["ratios"], sep="\n  ")
    scaling.main()
    bench_plots.main()
    methods()


if __name__ == "__main__":
    memory() if sys.argv[1:] == ["memory"] else main()
