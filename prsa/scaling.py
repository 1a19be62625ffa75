"""How speed and memory grow with the scene, with worker processes and with seeds trained as one, and where the time goes: part of `make bench`.

Writes ``scaling.csv`` and ``scaling_exponents.csv`` (sizes), ``grid.json`` (workers and seeds) and ``profile.csv`` (operations) into results/bench.
"""

import copy
import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import xarray as xr
from scipy import stats
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from . import metrics, paths
from .bench import BANDS, CLASSES, noise_scene, peak_memory
from .config import Config, make_config
from .model import PRSANet
from .predict import predict_map
from .scene import class_names, modalities, open_scene
from .simulate import EMBEDDED
from .splits import split_scene
from .study import RunSpec, run_grid
from .tables import write_text
from .train import Trainer, fit

METHOD, SIDE, REPEATS = "prsanet", 128, 2  # of all sizes: the method, pixels on a side of the scene, and how often a time is taken (the least counts)
# What grows, all else equal: pixels of a batch or a map, bands of the larger modality, classes, and modalities of `EACH` bands.
SIZES = {"pixels": {"training": (32, 64, 128, 256, 512), "mapping": (64**2, 90**2, 128**2, 181**2, 256**2)},
         "bands": dict.fromkeys(("training", "mapping"), (18, 36, 72, 144, 288)),
         "classes": dict.fromkeys(("training", "mapping"), (4, 8, 16, 32, 64)),
         "modalities": dict.fromkeys(("training", "mapping"), (2, 3, 4, 6, 8))}
EACH = 36
ROUNDS = 4  # runs per worker whose time counts, after its first
TARGET = 0.9  # of k times the runs per hour of one worker
ENSEMBLES = ((2, 128), (4, 32), (4, 128))  # seeds, and patches of each seed's batch
MIXED_SCENES = 100, 104  # development scenes of every kind that mixed precision is tried on
SHOWN = 0.01  # operations below this share of the time are summed up


def forget_peak() -> None:
    """Let `prsa.bench.peak_memory` start again from what the process holds now; only Linux can."""
    reset = Path("/proc/self/clear_refs")
    if reset.is_file():
        reset.write_text("5")


def _seconds(task: str, scene: xr.Dataset, config: Config) -> float:
    """Least seconds of a training step or of a map of the scene, the first time left out."""
    if task == "training":
        trainer = Trainer(scene, split_scene(scene), config, 0, torch.device("cpu"))
        calls, parts = [functools.partial(trainer.epoch, number) for number in range(1, REPEATS + 2)], trainer.batches
    else:
        model = PRSANet({m: scene.sizes[f"{m}_band"] for m in modalities(scene)}, class_names(scene), config)
        calls, parts = [functools.partial(predict_map, model, scene)] * (REPEATS + 1), 1
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / parts)
    return min(seconds[1:])


def measure(task: str, against: str, size: int, threads: int) -> dict:
    """One row of the scaling table, in a process of its own: least seconds of a training step or a map, and the memory it adds, MB.

    The memory is that of a trainer and its epochs, or of maps. The scene, which lies in memory before, is left out, and so are the libraries,
    which a small task of the same kind has loaded before.
    """
    torch.set_num_threads(threads)
    side = round(size**0.5) if (task, against) == ("mapping", "pixels") else SIDE
    bands = {f"m{i}": EACH for i in range(size)} if against == "modalities" else BANDS | ({"hsi": size} if against == "bands" else {})
    batch = {"batch": size} if (task, against) == ("training", "pixels") else {}
    config = make_config(METHOD, epochs=REPEATS + 1, max_steps=0, **batch)
    scene = noise_scene((side, side), bands, size if against == "classes" else CLASSES)
    _seconds(task, noise_scene((SIDE, SIDE), {"a": 1, "b": 1}, 2), make_config(METHOD, epochs=1 + REPEATS, width=8, features=8))
    forget_peak()
    before, seconds = peak_memory(), _seconds(task, scene, config)
    return {"task": task, "against": against, "size": size, "seconds": seconds, "memory_mb": 1000 * (peak_memory() - before)}


def sizes() -> pd.DataFrame:
    """The scaling table: a row per task and size, see `measure`, with all cores."""
    context = multiprocessing.get_context("forkserver")  # a process per row, because peak memory only grows, all from one that has torch loaded
    context.set_forkserver_preload([__name__])
    rows = []
    for against, tasks in SIZES.items():
        for task, values in tasks.items():
            for size in values:
                with ProcessPoolExecutor(1, context) as pool:
                    rows.append(pool.submit(measure, task, against, size, os.cpu_count() or 1).result())
    return pd.DataFrame(rows)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Slope of the log of seconds and of memory on the log of the size, least squares, with its 95 % interval; NaN below three positive values."""
    rows = []
    for (task, against), part in table.groupby(["task", "against"], sort=False):
        for quantity in ("seconds", "memory_mb"):
            there = part[part[quantity] > 0]
            fitted = [np.nan] * 3
            if len(there) >= 3:
                line = stats.linregress(np.log(there["size"]), np.log(there[quantity]))
                reach = stats.t.ppf(0.975, len(there) - 2) * line.stderr
                fitted = [line.slope, line.slope - reach, line.slope + reach]
            rows.append({"task": task, "against": against, "quantity": quantity, **dict(zip(("exponent", "exponent_lo", "exponent_hi"), fitted))})
    return pd.DataFrame(rows)


def workers(cores: int) -> list[dict]:
    """Runs per hour of short runs of equal cost with 1, 2, 4 .. ``cores`` worker processes, as `prsa.study.run_grid` trains them, in an empty folder.

    ``ratio``: to k times one worker. The first run of every worker does not count: with start-up and opening the scene it took ``first_s`` seconds.
    """
    rows, kept = [], {name: os.environ.get(name) for name in ("PRSA_RESULTS", "OMP_NUM_THREADS")}
    for jobs in sorted({*(2**i for i in range(cores.bit_length())), cores}):
        specs = [RunSpec("sim-sar", "concat", seed, "quick") for seed in range(jobs * (1 + ROUNDS))]
        with tempfile.TemporaryDirectory() as folder:
            os.environ["PRSA_RESULTS"] = folder
            try:
                start = time.time()
                done = sorted(path.stat().st_mtime for path in run_grid(specs, jobs, "cpu"))
            finally:
                for name, value in kept.items():
                    os.environ.pop(name, None)
                    if value is not None:
                        os.environ[name] = value
        rate = (len(done) - jobs) / (done[-1] - done[jobs - 1])
        rows.append({"workers": jobs, "runs": len(done), "runs_per_hour": round(3600 * rate), "first_s": round(done[jobs - 1] - start, 1),
                     "ratio": round(rate / (jobs * rows[0]["runs_per_hour"] / 3600), 3) if rows else 1.0, "target": TARGET})
    return rows


def ensemble(seeds: int, batch: int) -> dict[str, Callable[[], tuple[torch.Tensor, dict]]]:
    """Loss and gradients of ``seeds`` networks of ``concat``, each on a batch of its own: one after the other, and as one batched network.

    Returns two functions without arguments, "single" and "batched", that give losses (seeds,) and gradients, name -> (seeds, ...). Batched, the
    convolutions are grouped over seeds (`torch.func.vmap`).
    """
    config, generator = make_config("concat"), torch.Generator().manual_seed(0)
    models = [PRSANet(BANDS, [str(k) for k in range(CLASSES)], config, seed).to(memory_format=torch.channels_last).train() for seed in range(seeds)]
    x = {m: torch.randn(seeds, batch, side, side, BANDS[m], generator=generator).permute(0, 1, 4, 2, 3) for m, side in models[0].sides.items()}
    y = torch.randint(CLASSES, (seeds, batch), generator=generator)

    def single() -> tuple[torch.Tensor, dict]:
        losses, gradients = [], []
        for i, model in enumerate(models):
            loss = F.cross_entropy(model({m: v[i] for m, v in x.items()})["logits"], y[i])
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
            losses.append(loss.detach())
        return torch.stack(losses), {name: torch.stack(each) for (name, _), each in zip(models[0].named_parameters(), zip(*gradients))}

    parameters, buffers = stack_module_state(copy.deepcopy(models))
    parameters = {name: value.detach() for name, value in parameters.items()}  # else autograd would follow every gradient once more
    network = copy.deepcopy(models[0])

    def loss_of(parameters, buffers, x, y):
        return F.cross_entropy(functional_call(network, (parameters, buffers), (x,))["logits"], y)

    def batched() -> tuple[torch.Tensor, dict]:
        gradients, losses = vmap(grad_and_value(loss_of))(parameters, buffers, x, y)
        return losses, gradients

    return {"single": single, "batched": batched}


def ensembles(threads: int) -> list[dict]:
    """Samples per second of `ensemble` either way, in turn, their ratio, and the largest difference of a gradient, relative to the largest entry."""
    torch.set_num_threads(threads)
    rows = []
    for seeds, batch in ENSEMBLES:
        calls = ensemble(seeds, batch)
        one, other = (call()[1] for call in calls.values())
        difference = max(float((one[name] - other[name]).abs().max() / one[name].abs().max()) for name in one)
        seconds = []
        for _ in range(REPEATS):
            for call in calls.values():
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
        single, batched = (seeds * batch / min(seconds[i::2]) for i in range(2))
        rows.append({"seeds": seeds, "batch": batch, "threads": threads, "single_samples_per_s": round(single),
                     "batched_samples_per_s": round(batched), "ratio": round(batched / single, 3), "max_gradient_difference": float(f"{difference:.2g}")})
    return rows


def profile() -> pd.DataFrame:
    """Share of every operation in the time of an epoch and of a map, patch 7 and 11, one thread: task, patch, operation, share, calls."""
    torch.set_num_threads(1)
    scene, rows = noise_scene((2 * SIDE, 2 * SIDE)), []
    split = split_scene(scene, radius=5)
    for patch in (7, 11):
        trainer = Trainer(scene, split, make_config(METHOD, patch=patch, epochs=2), 0, torch.device("cpu"))
        trainer.epoch(1)
        for task, call in (("training", lambda: trainer.epoch(2)), ("mapping", lambda: predict_map(trainer.model, scene))):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                call()
            events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
            total = sum(event.self_cpu_time_total for event in events)
            large = [event for event in events if event.self_cpu_time_total >= SHOWN * total]
            shown = [(event.key.removeprefix("aten::"), event.self_cpu_time_total / total, event.count) for event in large]
            shown.append(("all others", 1 - sum(share for _, share, _ in shown), sum(event.count for event in events[len(large):])))
            rows += [{"task": task, "patch": patch, "operation": name, "share": round(share, 4), "calls": calls} for name, share, calls in shown]
    return pd.DataFrame(rows)


def mixed() -> pd.DataFrame:
    """Training with encoders in bfloat16 beside float32, on development scenes, one thread: a row per scene, ``ratio`` of speed and both OA
    of the validation pixels in points. Written to ``mixed.csv`` by ``python -m prsa.scaling mixed`` (some minutes; no part of `make bench`)."""
    torch.set_num_threads(1)
    rows = []
    for name in (f"{kind}:{seed}" for kind in EMBEDDED for seed in range(*MIXED_SCENES)):
        scene = open_scene(name)
        split = split_scene(scene)
        runs = [fit(scene, METHOD, split, device="cpu", mixed=half)[0] for half in (False, True)]
        oa = [float(metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="val").values))) for run in runs]
        rows.append({"scene": name, "ratio": runs[1].attrs["samples_per_s"] / runs[0].attrs["samples_per_s"], "val_oa": oa[0], "val_oa_mixed": oa[1]})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure all of it and write the files; see the module."""
    out, cores = paths.results("full") / "bench", os.cpu_count() or 1
    table = sizes()
    write_text(table.to_csv(index=False, float_format="%.4g", lineterminator="\n"), out / "scaling.csv")
    write_text(exponents(table).to_csv(index=False, float_format="%.3f", lineterminator="\n"), out / "scaling_exponents.csv")
    grid = {"cores": cores, "workers": workers(cores), "ensembles": ensembles(cores)}
    write_text(json.dumps(grid, indent=1) + "\n", out / "grid.json")
    write_text(profile().to_csv(index=False, lineterminator="\n"), out / "profile.csv")
    print(exponents(table).to_string(index=False), *grid["workers"], *grid["ensembles"], sep="\n  ")


if __name__ == "__main__":
    if sys.argv[1:] == ["mixed"]:
        write_text(mixed().to_csv(index=False, float_format="%.4g", lineterminator="\n"), paths.results("full") / "bench" / "mixed.csv")
    else:
        main()
