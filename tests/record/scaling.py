"""How speed and memory grow with the scene, with worker processes and with seeds trained as one, and where the time goes: part of `make bench`.

Writes ``scaling.csv`` and ``scaling_exponents.csv`` (sizes), ``grid.json`` (workers and seeds) and ``profile.csv`` (operations) into results/bench.
"""

import functools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from prsa.ensemble import Ensemble, fit_together
from record.bench import BANDS, CLASSES, noise_scene, peak_memory
from scipy import stats

from prsa import files, metrics
from prsa.config import Config, make_config
from prsa.data.scene import class_names, modalities
from prsa.data.simulate import EMBEDDED
from prsa.data.sources import open_scene
from prsa.data.splits import split_scene
from prsa.files import write_text
from prsa.mapping import predict_map
from prsa.network.prsanet import PRSANet
from prsa.study.execute import run_grid
from prsa.study.fit import fit
from prsa.study.plan import RunSpec
from prsa.training.loop import Trainer, pick_device

METHOD, SIDE, REPEATS = (
    "prsanet",
    128,
    5,
)  # of all sizes: the method, pixels on a side of the scene, and how often a time is taken (the least counts)
# What grows, all else equal: pixels of a batch or a map, bands of the larger modality, classes, and modalities of `EACH` bands.
SIZES = {
    "pixels": {"training": (32, 64, 128, 256, 512), "mapping": (64**2, 90**2, 128**2, 181**2, 256**2)},
    "bands": dict.fromkeys(("training", "mapping"), (18, 36, 72, 144, 288)),
    "classes": dict.fromkeys(("training", "mapping"), (4, 8, 16, 32, 64)),
    "modalities": dict.fromkeys(("training", "mapping"), (2, 3, 4, 6, 8)),
}
EACH = 36
ROUNDS = 4  # runs per worker whose time counts, after its first
TARGET = 0.9  # of k times the runs per hour of one worker
ENSEMBLES = ((2, 128), (4, 32), (4, 128))  # seeds, and patches of each seed's batch
BESIDE_SCENES, TOGETHER = (
    (100, 104),
    (0, 1, 2),
)  # development scenes of every kind that a faster way of training is tried on; seeds that are batched
SHOWN = 0.01  # operations below this share of the time are summed up


def forget_peak() -> None:
    """Let `record.bench.peak_memory` start again from what the process holds now; only Linux can."""
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
    bands = (
        {f"m{i}": EACH for i in range(size)}
        if against == "modalities"
        else BANDS | ({"hsi": size} if against == "bands" else {})
    )
    batch = {"batch": size} if (task, against) == ("training", "pixels") else {}
    config = make_config(METHOD, epochs=REPEATS + 1, max_steps=0, **batch)
    scene = noise_scene((side, side), bands, size if against == "classes" else CLASSES)
    _seconds(
        task,
        noise_scene((SIDE, SIDE), {"a": 1, "b": 1}, 2),
        make_config(METHOD, epochs=1 + REPEATS, width=8, features=8),
    )
    forget_peak()
    before, seconds = peak_memory(), _seconds(task, scene, config)
    return {
        "task": task,
        "against": against,
        "size": size,
        "seconds": seconds,
        "memory_mb": 1000 * (peak_memory() - before),
    }


def sizes() -> pd.DataFrame:
    """The scaling table: a row per task and size, see `measure`, with all cores."""
    context = multiprocessing.get_context(
        "forkserver"
    )  # a process per row, because peak memory only grows, all from one that has torch loaded
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
            rows.append(
                {
                    "task": task,
                    "against": against,
                    "quantity": quantity,
                    **dict(zip(("exponent", "exponent_lo", "exponent_hi"), fitted)),
                }
            )
    return pd.DataFrame(rows)


def workers(cores: int) -> list[dict]:
    """Runs per hour of short runs of equal cost with 1, 2, 4 .. ``cores`` worker processes, as `prsa.study.execute.run_grid` trains them, in an empty folder.

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
        rows.append(
            {
                "workers": jobs,
                "runs": len(done),
                "runs_per_hour": round(3600 * rate),
                "first_s": round(done[jobs - 1] - start, 1),
                "ratio": round(rate / (jobs * rows[0]["runs_per_hour"] / 3600), 3) if rows else 1.0,
                "target": TARGET,
            }
        )
    return rows


def ensembles(threads: int) -> list[dict]:
    """Samples per second of whole training steps of several seeds, one after the other and as one batched network (`prsa.ensemble`), and their
    ratio; epochs taken in turn, the least seconds count, the first time left out. On the GPU when there is one."""
    torch.set_num_threads(threads)
    device, scene = pick_device("auto"), noise_scene((SIDE, SIDE))
    split, rows = split_scene(scene), []
    for seeds, batch in ENSEMBLES:
        config = make_config(METHOD, batch=batch, epochs=REPEATS + 1, max_steps=0)
        single = [Trainer(scene, split, config, seed, device) for seed in range(seeds)]
        batched, seconds = Ensemble(scene, split, config, list(range(seeds)), device), []
        for number in range(1, REPEATS + 2):
            for trainers in (single, [batched]):
                start = time.perf_counter()
                for trainer in trainers:
                    trainer.epoch(number)
                seconds.append(time.perf_counter() - start)
        rates = [seeds * batched.batches * batched.size / min(seconds[i::2]) for i in (2, 3)]
        rows.append(
            {
                "seeds": seeds,
                "batch": batch,
                "threads": threads,
                "device": str(device),
                "single_samples_per_s": round(rates[0]),
                "batched_samples_per_s": round(rates[1]),
                "ratio": round(rates[1] / rates[0], 3),
            }
        )
    return rows


def profile() -> pd.DataFrame:
    """Time of every operation in an epoch and in a map, patch 7 and 11, one thread: task, patch, operation, ms, share, calls."""
    torch.set_num_threads(1)
    scene, rows = noise_scene((2 * SIDE, 2 * SIDE)), []
    split = split_scene(scene, radius=5)
    for patch in (7, 11):
        trainer = Trainer(scene, split, make_config(METHOD, patch=patch, epochs=2), 0, torch.device("cpu"))
        trainer.epoch(1)
        for task, call in (
            ("training", lambda: trainer.epoch(2)),
            ("mapping", lambda: predict_map(trainer.model, scene)),
        ):
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
                call()
            events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
            total = sum(event.self_cpu_time_total for event in events)
            large = [event for event in events if event.self_cpu_time_total >= SHOWN * total]
            shown = [(event.key.removeprefix("aten::"), event.self_cpu_time_total, event.count) for event in large]
            shown.append(
                (
                    "all others",
                    total - sum(time for _, time, _ in shown),
                    sum(event.count for event in events[len(large) :]),
                )
            )
            rows += [
                {
                    "task": task,
                    "patch": patch,
                    "operation": name,
                    "ms": round(time / 1000, 1),
                    "share": round(time / total, 4),
                    "calls": calls,
                }
                for name, time, calls in shown
            ]
    return pd.DataFrame(rows)


def _mixed(scene: xr.Dataset, split: xr.DataArray) -> tuple[list[xr.Dataset], list[xr.Dataset]]:
    return tuple([fit(scene, METHOD, split, device="cpu", mixed=half)[0]] for half in (False, True))


def _together(scene: xr.Dataset, split: xr.DataArray) -> tuple[list[xr.Dataset], list[xr.Dataset]]:
    return (
        [fit(scene, METHOD, split, seed, device="cpu")[0] for seed in TOGETHER],
        [run for run, _ in fit_together(scene, METHOD, split, TOGETHER, device="cpu")],
    )


BESIDE = {"mixed": _mixed, "together": _together}


def beside(name: str) -> pd.DataFrame:
    """Training in the study's way beside a faster one, on development scenes, one thread: a row per scene, ``ratio`` of speed and both OA of the
    validation pixels in points. "mixed": encoders in bfloat16; "together": the seeds `TOGETHER` as one batched network.

    Written to ``mixed.csv`` or ``together.csv`` by ``python -m record.scaling NAME`` (ten minutes; no part of `make bench`)."""
    torch.set_num_threads(1)
    rows, warm = [], False
    for source in (f"{kind}:{seed}" for kind in EMBEDDED for seed in range(*BESIDE_SCENES)):
        scene = open_scene(source)
        split = split_scene(scene)
        if not warm:  # the first steps of either way load and choose kernels
            warm = BESIDE[name](scene, split)
        pair = BESIDE[name](scene, split)
        oa = [
            np.mean(
                [
                    float(metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="val").values)))
                    for run in runs
                ]
            )
            for runs in pair
        ]
        seconds = [sum(run.attrs["seconds"] for run in runs) for runs in pair]
        rows.append({"scene": source, "ratio": seconds[0] / seconds[1], "val_oa": oa[0], f"val_oa_{name}": oa[1]})
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure all of it and write the files; see the module."""
    out, cores = files.results("full") / "bench", os.cpu_count() or 1
    table = sizes()
    write_text(table.to_csv(index=False, float_format="%.4g", lineterminator="\n"), out / "scaling.csv")
    write_text(
        exponents(table).to_csv(index=False, float_format="%.3f", lineterminator="\n"), out / "scaling_exponents.csv"
    )
    grid = {
        "cores": cores,
        "workers": workers(cores),
        "ensembles": [row for threads in sorted({1, cores}) for row in ensembles(threads)],
    }
    write_text(json.dumps(grid, indent=1) + "\n", out / "grid.json")
    write_text(profile().to_csv(index=False, lineterminator="\n"), out / "profile.csv")
    print(exponents(table).to_string(index=False), *grid["workers"], *grid["ensembles"], sep="\n  ")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        chosen = sys.argv[1]
        if chosen not in BESIDE:
            sys.exit(
                f"error: expected {' or '.join(BESIDE)}, got {chosen!r}. Fix: python -m record.scaling {next(iter(BESIDE))}"
            )
        write_text(
            beside(chosen).to_csv(index=False, float_format="%.4g", lineterminator="\n"),
            files.results("full") / "bench" / f"{chosen}.csv",
        )
    else:
        main()
