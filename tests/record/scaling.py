"""How time and memory grow with the scene, and runs per hour with worker processes: part of `make bench`.

Writes ``scaling.csv``, ``scaling_exponents.csv`` and their figure, and ``workers.csv``, into results/bench. The figure
also shows ``tile.csv`` where `record.tile` has left it there: a map of 10,980 x 10,980 pixels, read from disk.
"""

import functools
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import xarray as xr
from record import bench
from record.bench import BANDS, CLASSES, in_fresh_processes, noise_scene, peak_memory, rates, write
from scipy import stats

from prsa import files
from prsa.config import Config, make_config
from prsa.data.scene import class_names, modalities
from prsa.data.splits import split_scene
from prsa.mapping import predict_map
from prsa.network.prsanet import PRSANet
from prsa.study.execute import run
from prsa.study.plan import Plan
from prsa.training.loop import Trainer

# Of all sizes: the method, pixels on a side of the scene, and how often a time is taken (the least counts).
METHOD, SIDE, REPEATS = "prsanet", 128, 5
# What grows, all else equal: pixels of a batch or a map, bands of hsi, classes, modalities of `EACH` bands.
SIZES = {
    "pixels": {"training": (32, 64, 128, 256, 512), "mapping": (64**2, 128**2, 256**2, 512**2, 1024**2)},
    "bands": dict.fromkeys(("training", "mapping"), (18, 36, 72, 144, 288)),
    "classes": dict.fromkeys(("training", "mapping"), (4, 8, 16, 32, 64)),
    "modalities": dict.fromkeys(("training", "mapping"), (2, 3, 4, 6, 8)),
}
EACH = 36
NAMES = {"training": "training step", "mapping": "map"}
TARGETS = {task: bench.TARGETS[task][7] for task in NAMES}  # share of the convolution rate, patch 7
ROUNDS = 4  # runs per worker whose time counts, after its first
TARGET = 0.9  # of k times the runs per hour of one worker


def forget_peak() -> None:
    """Let `peak_memory` start again from what the process holds now; only Linux can."""
    reset = Path("/proc/self/clear_refs")
    if reset.is_file():
        reset.write_text("5")


def _seconds(task: str, scene: xr.Dataset, config: Config) -> tuple[float, int]:
    """Least seconds of a training step or of a map of the scene, the first time left out, and multiply-accumulates."""
    if task == "training":
        trainer = Trainer(scene, split_scene(scene), config, 0, torch.device("cpu"))
        calls, parts = [functools.partial(trainer.epoch, number) for number in range(1, REPEATS + 2)], trainer.batches
        macs = 3 * trainer.size * trainer.model.complexity()["macs_patch"]
    else:
        model = PRSANet({m: scene.sizes[f"{m}_band"] for m in modalities(scene)}, class_names(scene), config)
        calls, parts = [functools.partial(predict_map, model, scene)] * (REPEATS + 1), 1
        macs = scene["label"].size * model.complexity()["macs_pixel"]
    seconds = []
    for call in calls:
        start = time.perf_counter()
        call()
        seconds.append((time.perf_counter() - start) / parts)
    return min(seconds[1:]), macs


def size_row(task: str, against: str, size: int) -> dict:
    """In a fresh process, with all cores: least seconds of a training step or a map, its share of the convolution rate
    measured just after, and the memory it adds, MB.

    The scene, which lies in memory before, does not count, nor do libraries, which a small task has loaded before.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    side = round(size**0.5) if (task, against) == ("mapping", "pixels") else SIDE
    bands = BANDS | ({"hsi": size} if against == "bands" else {})
    if against == "modalities":
        bands = {f"m{i}": EACH for i in range(size)}
    batch = {"batch": size} if (task, against) == ("training", "pixels") else {}
    config = make_config(METHOD, epochs=REPEATS + 1, max_steps=0, **batch)
    scene = noise_scene((side, side), bands, size if against == "classes" else CLASSES)
    little = make_config(METHOD, epochs=REPEATS + 1, width=8, features=8)
    _seconds(task, noise_scene((SIDE, SIDE), {"a": 1, "b": 1}, 2), little)
    forget_peak()
    before, (seconds, macs) = peak_memory(), _seconds(task, scene, config)
    memory = 1000 * (peak_memory() - before)
    share = macs / seconds / rates(torch.device("cpu"))["convolution"]
    row = {"task": task, "against": against, "size": size, "seconds": seconds}
    return row | {"share_of_rate": share, "memory_mb": memory}


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Slope of the log of seconds and memory on the log of the size, least squares, with its 95 % interval.

    NaN below three positive values.
    """
    rows = []
    for (task, against), part in table.groupby(["task", "against"], sort=False):
        for quantity in ("seconds", "memory_mb"):
            there = part[part[quantity] > 0]
            fitted = [np.nan] * 3
            if len(there) >= 3:
                line = stats.linregress(np.log(there["size"]), np.log(there[quantity]))
                reach = stats.t.ppf(0.975, len(there) - 2) * line.stderr
                fitted = [line.slope, line.slope - reach, line.slope + reach]
            rows.append((task, against, quantity, *fitted))
    return pd.DataFrame(rows, columns=["task", "against", "quantity", "exponent", "exponent_lo", "exponent_hi"])


def workers(cores: int) -> pd.DataFrame:
    """Runs per hour of short runs with 1, 2, 4 .. ``cores`` processes, as the study trains them, in an empty folder.

    ``ratio``: to k times one worker. The first run of every worker, with start-up and the scene, does not count.
    """
    rows = []
    for jobs in sorted({*(2**i for i in range(cores.bit_length())), cores}):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, PRSA_RESULTS=folder):
            study = Plan(["sim-sar"], jobs * (1 + ROUNDS), ["concat"], "quick")
            specs = [spec for spec in study.specs if spec.method == "concat"]
            done = sorted(path.stat().st_mtime for path in run(study, specs, jobs, "cpu"))
        rate = 3600 * (len(done) - jobs) / (done[-1] - done[jobs - 1])
        rows.append((jobs, len(done), round(rate), round(rate / (jobs * (rows[0][2] if rows else rate)), 3), TARGET))
    return pd.DataFrame(rows, columns=["workers", "runs", "runs_per_hour", "ratio", "target"])


def figure(table: pd.DataFrame, fitted: pd.DataFrame, tile: pd.DataFrame):
    """Seconds, their share of the convolution rate and added memory against each size, a line per task, with the
    fitted exponents and the targets. ``tile``: rows of `record.tile`, of other bands and so not fitted."""
    from matplotlib.ticker import LogLocator, NullLocator

    from prsa.figures.style import legend_below, look, panels  # not above: they would count in the measured memory

    looks = {"training": look("#C23B0E", "-", "o"), "mapping": look("#0C77DC", "-", "s")}
    star = look("#0C77DC", "none", "*")
    names, power = list(dict.fromkeys(table["against"])), fitted.set_index(["task", "against", "quantity"])["exponent"]
    columns = {"seconds": "time (s)", "share_of_rate": "% of the convolution rate", "memory_mb": "added memory (MB)"}
    tile = tile.assign(size=tile["side"] ** 2, against="pixels") if len(tile) else pd.DataFrame({"against": []})
    fig, axs = panels(len(names), 3, 1 + 1.5 * len(names))
    for i, against in enumerate(names):
        for ax, (quantity, title) in zip(axs[i], columns.items()):
            ax.set_xscale("log")
            times = 100 if quantity == "share_of_rate" else 1
            for task, line in looks.items():
                part = table[table["task"].eq(task) & table["against"].eq(against) & table[quantity].gt(0)]
                ax.plot(part["size"], times * part[quantity], **line, markersize=4)
            if quantity in (part := tile[tile["against"].eq(against)]):
                ax.plot(part["size"], times * part[quantity], **star, markersize=9)
            if times == 1:
                ax.set_yscale("log")
                low, high = (float(v) for v in ax.get_ylim())
                ax.set_ylim(low, high * (high / low) ** 0.5)  # room for the exponents
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=5))
                ax.yaxis.set_major_formatter("{x:g}")
                ax.yaxis.set_minor_locator(NullLocator())
                for place, (task, line) in zip((0.97, 0.84), looks.items()):
                    text = f"exponent {power[task, against, quantity]:.2f}"
                    ax.text(0.04, place, text, transform=ax.transAxes, va="top", fontsize=7, color=line["color"])
            else:
                ax.set_ylim(0, 105)
                for task, target in TARGETS.items():
                    ax.axhline(100 * target, **looks[task] | {"linestyle": ":", "marker": ""})
            ax.set_title(title if i == 0 else "", fontsize=8)
            ax.set_xlabel({"pixels": "pixels (batch, map)", "bands": "bands of hsi"}.get(against, against))
            if against != "pixels":
                ticks = sorted(set(table.loc[table["against"].eq(against), "size"]))
                ax.set_xticks(ticks, [str(n) for n in ticks], fontsize=7)
                ax.set_xticks([], minor=True)
    entries = {name: looks[task] for task, name in NAMES.items()}
    entries |= {"map of a tile from disk": star} if len(tile) else {}
    legend_below(fig, entries | {"target": look("#000000", ":")})
    return fig


def main() -> None:
    """Measure all of it and write the files; see the module."""
    from prsa.figures.style import save, styled

    cases = [(task, against, n) for against, tasks in SIZES.items() for task, sizes in tasks.items() for n in sizes]
    table = in_fresh_processes(size_row, cases)
    fitted = exponents(table)
    for name, found in (("scaling", table), ("scaling_exponents", fitted), ("workers", workers(os.cpu_count() or 1))):
        write(found, name)
    folder = files.results("full") / "bench"
    tile = pd.read_csv(folder / "tile.csv") if (folder / "tile.csv").is_file() else pd.DataFrame()
    save(styled(figure)(table, fitted, tile), folder / "scaling")


if __name__ == "__main__":
    main()
