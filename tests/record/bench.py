"""Speed on this machine as a share of its convolution rate: `make bench` writes results/bench. Never a timed test.

Beside it the usual way, a `Dataset` that cuts one patch per item, and a map predicted patch by patch: same network,
same process. The scene is noise of a stated size, because speed does not depend on what the pixels show.
"""

import functools
import json
import multiprocessing
import os
import platform
import resource
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
from prsa.data.splits import TRAIN, split_scene
from prsa.mapping import predict_map
from prsa.network.prsanet import PRSANet
from prsa.study.fit import fit
from prsa.study.plan import COMPARATORS, STUDY
from prsa.training.loop import Trainer, pick_device

BANDS = {"hsi": 144, "lidar": 1}  # of Houston2013
CLASSES, SHAPE, SMALL, REPEATS = 15, (512, 512), (96, 96), 5
AREA, CROP = 512, 64  # pixels on a side: of the maps, and of the crop that is predicted patch by patch
METHODS = "concat", "prsanet"
TARGETS = {"training": {7: 0.4, 11: 0.6}, "mapping": {7: 0.8, 11: 0.8}}  # patch -> share of the convolution rate


def noise_scene(shape: tuple[int, int] = SHAPE, bands: dict = BANDS, classes: int = CLASSES) -> xr.Dataset:
    """A contract scene of Gaussian noise of this shape (y, x), with 2,000 training pixels."""
    rng = np.random.default_rng(0)
    label = rng.integers(1, classes + 1, size=shape).astype(np.int16)
    split = np.zeros(shape, np.int8)
    split.ravel()[rng.choice(split.size, 4000, replace=False)] = np.repeat([1, 2], 2000)
    names = json.dumps([f"class {k}" for k in range(1, classes + 1)])
    attrs = {"schema": "prsa-scene-1", "name": "noise", "title": "noise", "class_names": names, "simulated": 1}
    values = {m: rng.standard_normal(size=(n, *shape), dtype=np.float32) for m, n in bands.items()}
    return xr.Dataset(
        {m: ((f"{m}_band", "y", "x"), v) for m, v in values.items()}
        | {"label": (("y", "x"), label), "split": (("y", "x"), split)},
        attrs=attrs | {"license": "none", "citation": "none"},
    )


def clock(device: torch.device):
    """Seconds that other work on the machine does not lengthen: of the processor, where one thread does everything."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def seconds(call, device: torch.device) -> float:
    """Of one call, to its end on the device."""
    now = clock(device)
    start = now()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return now() - start


def rates(device: torch.device, size: int = 1024, repeats: int = 20) -> dict[str, float]:
    """Multiply-accumulates per second of a float32 matrix product, best of ``repeats``, by both routines of torch.

    On a CPU ``product`` is BLAS and ``convolution`` (1 x 1, on 32 images) is oneDNN; which is faster depends on the
    processor, by a factor of two on some. ``size``: a multiple of 32.
    """
    a = torch.randn(size, size, device=device)
    images = a.view(32, 1, -1, size).permute(0, 3, 1, 2)  # (32, size, 1, size / 32), channels last
    calls = {"product": lambda: a @ a, "convolution": lambda: F.conv2d(images, a[:, :, None, None])}
    for call in calls.values():
        seconds(call, device)
    return {name: size**3 / min(seconds(call, device) for _ in range(repeats)) for name, call in calls.items()}


def measured(call, device: torch.device, repeats: int) -> tuple[float, float]:
    """Seconds of a call and the convolution rate beside it, before and after: of the repetition with the median share
    of that rate, so that what slows the machine down meets both."""
    found = []
    for _ in range(repeats):
        before, took, after = rates(device, repeats=5), seconds(call, device), rates(device, repeats=5)
        found.append((took, max(before["convolution"], after["convolution"])))
    return sorted(found, key=np.prod)[repeats // 2]


class UsualDataset(Dataset):
    """The usual pipeline: an item is one window per modality, cut from arrays, turned and mirrored, and its class.

    The scene is standardised and reflected at its border once, beforehand. ``centres``: flat indices (n,) of the
    pixels; ``statistics[m]``: mean and deviation per band; ``rng`` draws the symmetry, None leaves items as they lie.
    """

    def __init__(self, scene, sides: dict[str, int], statistics: dict, centres: np.ndarray, rng=None):
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
    """One epoch of cross-entropy on the fused logits, the loss of ``concat``: forward, backward and step per batch."""
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model({m: v.to(device) for m, v in x.items()})["logits"], y.to(device)).backward()
        optimizer.step()


@torch.inference_mode()
def patch_map(model: PRSANet, scene: xr.Dataset, batch: int = 256) -> np.ndarray:
    """The usual map: the network sees the window of every pixel; probabilities (K, y, x).

    Batches of 128 and 256 are about equally fast on the machine of the reference; larger ones wait for memory.
    """
    model.eval()
    shape, device = (scene.sizes["y"], scene.sizes["x"]), next(model.parameters()).device
    statistics = {m: tuple(s.cpu() for s in pair) for m, pair in model.statistics().items()}
    patches = PatchSource(scene, model.sides, statistics, np.arange(np.prod(shape)), device)
    index = torch.arange(np.prod(shape), device=device)
    pieces = [model(patches.gather(part))["logits"].softmax(1) for part in index.split(batch)]
    return torch.cat(pieces).cpu().T.reshape(-1, *shape).numpy()


def _row(task: str, method: str, patch: int, ours: tuple, usual: tuple, work: tuple, macs: int, saved: float) -> dict:
    """A row of the table. ``ours`` and ``usual``: as `measured`; ``work``: samples or pixels of either call; ``macs``:
    what one of them needs (of a map, in one pass); ``saved``: the ratio that equal use of the machine would give."""
    rate, other = (n / took for n, (took, _) in zip(work, (ours, usual)))
    return {
        "task": task,
        "method": method,
        "patch": patch,
        "threads": torch.get_num_threads(),
        "per_s": round(rate),
        "gmacs_per_s": rate * macs / 1e9,
        "convolution_gmacs_per_s": ours[1] / 1e9,
        "share_of_rate": rate * macs / ours[1],
        "target": TARGETS[task][patch],
        "usual_per_s": round(other),
        "ratio": rate / other,
        "operations_ratio": saved,
    }


def _training_pair(scene: xr.Dataset, split: xr.DataArray, method: str, patch: int, device: torch.device):
    """A `Trainer`, a call that trains its next epoch, and one that trains the same network for one the usual way."""
    config, numbers = make_config(method, patch=patch, epochs=REPEATS + 1), iter(range(1, REPEATS + 2))
    trainer = Trainer(scene, split, config, 0, device)
    statistics = {m: tuple(s.cpu().numpy() for s in pair) for m, pair in trainer.model.statistics().items()}
    model = PRSANet(trainer.model.bands, trainer.model.classes, config, 0, statistics).to(device)
    centres = np.flatnonzero(split.values == TRAIN)
    dataset = UsualDataset(scene, model.sides, statistics, centres, np.random.default_rng(0))
    loader = DataLoader(dataset, batch_size=config.batch, shuffle=True, num_workers=0, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    usual = functools.partial(usual_epoch, model, loader, optimizer, device)
    return trainer, lambda: trainer.epoch(next(numbers)), usual


def training(scene: xr.Dataset, device: torch.device) -> list[dict]:
    """Whole training steps of `Trainer` and of the usual pipeline around the same network, batches of 128.

    Both leave the last, smaller batch out. Beyond its steps, the Trainer measures gradients and validation accuracy;
    the usual pipeline trains by cross-entropy alone.
    """
    rows, split = [], split_scene(scene)
    for method in METHODS:
        for patch in TARGETS["training"]:
            trainer, ours, usual = _training_pair(scene, split, method, patch, device)
            ours(), usual()
            work = [trainer.batches * trainer.config.batch] * 2
            macs = 3 * trainer.model.complexity()["macs_patch"]  # forward, and twice that backward
            both = measured(ours, device, REPEATS), measured(usual, device, 1)
            rows.append(_row("training", method, patch, *both, work, macs, 1))
    return rows


def mapping(scene: xr.Dataset, device: torch.device) -> list[dict]:
    """`predict_map` and `patch_map` with the same network."""
    rows, split = [], split_scene(scene)
    area, crop = (scene.isel(y=slice(n), x=slice(n)) for n in (AREA, CROP))
    work = [area["label"].size, crop["label"].size]
    for method in METHODS:
        for patch in TARGETS["mapping"]:
            trainer = Trainer(scene, split, make_config(method, patch=patch, epochs=1), 0, device)
            trainer.epoch(1)  # a batch norm that was never trained would not show an error in folding it away
            model, macs = trainer.model.eval(), trainer.model.complexity()
            predict_map(model, crop)
            ours = measured(functools.partial(predict_map, model, area), device, REPEATS)
            usual = measured(functools.partial(patch_map, model, crop), device, 1)
            saved = macs["macs_patch"] / macs["macs_pixel"]
            rows.append(_row("mapping", method, patch, ours, usual, work, macs["macs_pixel"], saved))
    return rows


def speed(scene: xr.Dataset, device: torch.device, cores: int) -> pd.DataFrame:
    """Training with one thread, as the study trains, and maps with one and with all."""
    rows = []
    for threads, tasks in {cores: (mapping,), 1: (training, mapping)}.items():
        torch.set_num_threads(threads)
        rows += [row for task in tasks for row in task(scene, device)]
    return pd.DataFrame(rows)


def peak_memory() -> float:
    """Largest resident memory of this process so far, GB."""
    status = Path("/proc/self/status")  # first, because Linux carries a parent's peak over into ru_maxrss
    if status.is_file():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def method_row(method: str) -> dict:
    """One method in a fresh process: training and mapping speed with all cores, and the memory it adds at its peak.

    Classical classifiers: training pixels per second of the whole fit, the search on a grid included.
    """
    scene = noise_scene(SMALL, BANDS, CLASSES)
    split = split_scene(scene)
    torch.set_num_threads(os.cpu_count() or 1)
    before = peak_memory()
    run, model = fit(scene, method, split, device="cpu", epochs=4)
    start, repeats = time.perf_counter(), 0
    while repeats < REPEATS and (repeats == 0 or time.perf_counter() - start < 10):
        predict_map(model, scene)
        repeats += 1
    seconds = (time.perf_counter() - start) / repeats
    rate = run.attrs["n_train"] / run.attrs["seconds"] if make_config(method).classifier else run.attrs["samples_per_s"]
    return {
        "method": method,
        **{name: int(run.attrs[name]) for name in ("params", "macs_patch", "macs_pixel")},
        "train_per_s": round(rate),
        "map_per_s": round(np.prod(SMALL) / seconds),
        "memory_gb": round(peak_memory() - before, 3),
    }


def in_fresh_processes(function, arguments: list[tuple]) -> pd.DataFrame:
    """A row per call, each in a fresh process, because peak memory only grows; all from one with torch loaded."""
    context, rows = multiprocessing.get_context("forkserver"), []
    context.set_forkserver_preload([__name__])
    for given in arguments:
        with ProcessPoolExecutor(1, context) as pool:
            rows.append(pool.submit(function, *given).result())
        print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, name: str) -> None:
    """A measured table as ``results/bench/<name>.csv``."""
    text = table.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    files.write_text(text, files.results("full") / "bench" / f"{name}.csv")


def main() -> None:
    """Training and mapping beside the machine's rate, all methods, then what `record.scaling` and `record.shares`
    measure."""
    from record import scaling, shares  # not above: their libraries would count in the memory that others measure

    device, scene, cores = pick_device("auto"), noise_scene(), os.cpu_count() or 1
    write(speed(scene, device, cores), "speed")
    torch.set_num_threads(cores)
    machine = {"cores": cores, "device": str(device), "python": platform.python_version(), "torch": torch.__version__}
    machine["matmul_gmacs_per_s"] = {name: round(rate / 1e9, 1) for name, rate in rates(device).items()}
    files.write_text(json.dumps(machine, indent=1) + "\n", files.results("full") / "bench" / "machine.json")
    write(in_fresh_processes(method_row, [(method,) for method in (*STUDY, *COMPARATORS)]), "complexity")
    scaling.main()
    shares.main()


if __name__ == "__main__":
    main()
