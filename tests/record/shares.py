"""What the seconds of a run of the study are spent on: part of `make bench`, which writes results/bench/profile.*.

One thread, processor seconds. The rule: a run is what a worker does for it, from opening the scene to its file.
`prsa.study.fit.evaluate` is evaluation, what comes before and after `Trainer.run` and it is input and output. Within
training, diagnostics are what only watches: `Trainer.measure`, `Trainer.validate` and the shadow heads. The share of
convolutions and matrix products in the rest is that of their own time in `torch.profiler`, over an epoch of the same
settings: three times the multiply-accumulates of a forward pass at the convolution rate of the machine is arithmetic,
what else these operations take is "other time in convolutions", and all that is left is small operations.
"""

import contextlib
import functools
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import pandas as pd
import torch
from record.bench import in_fresh_processes, rates, write

from prsa import files
from prsa.study import fit as fitting
from prsa.study import runs
from prsa.study.plan import scene_and_split
from prsa.training.loop import Trainer
from prsa.training.shadow import ShadowHeads

SCENES, METHODS = ("sim-sar", "sim-lidar", "sim-tri"), ("concat", "prsanet")
EPOCHS, PROFILED = 0, 1  # of the whole run (0: the study's) and of the one with the profiler
WATCHING = [(Trainer, "measure"), (Trainer, "validate"), (ShadowHeads, "step")]
PRODUCTS = "conv", "mm", "bmm"  # in the name of an operation that multiplies
PARTS = {  # as they lie in a bar, and their colours
    "arithmetic at the convolution rate": "#0C77DC",
    "other time in convolutions": "#6BCAFD",
    "small operations": "#D1AF00",
    "diagnostics": "#E9B338",
    "evaluation": "#763E5D",
    "input and output": "#95928D",
}


class Watch:
    """Processor seconds of functions, by name, while they are wrapped by it; a call inside another counts once."""

    def __init__(self):
        self.seconds, self.inside = {}, False

    def around(self, name: str, function):
        """The function, timed under a name."""

        @functools.wraps(function)
        def timed(*given, **options):
            outer, self.inside = self.inside, name == "diagnostics"
            start = time.process_time()
            try:
                return function(*given, **options)
            finally:
                took, self.inside = time.process_time() - start, outer
                if not outer:
                    self.seconds[name] = self.seconds.get(name, 0.0) + took

        return timed


@contextlib.contextmanager
def watched():
    """Inside, training, diagnostics and evaluation are timed; yields the `Watch`."""
    watch, wrapped = Watch(), [(Trainer, "run", "training"), (fitting, "evaluate", "evaluation")]
    wrapped += [(kind, name, "diagnostics") for kind, name in WATCHING]
    with contextlib.ExitStack() as stack:
        for kind, name, part in wrapped:
            stack.enter_context(mock.patch.object(kind, name, watch.around(part, getattr(kind, name))))
        yield watch


def products(trainer: Trainer, epochs: int) -> float:
    """Share of the time of training, diagnostics left out, that convolutions and matrix products take."""
    with contextlib.ExitStack() as stack:
        for kind, name in WATCHING:
            stack.enter_context(mock.patch.object(kind, name, marked(getattr(kind, name))))
        profiler = stack.enter_context(torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]))
        with torch.profiler.record_function("training"):
            for number in range(1, epochs + 1):
                trainer.epoch(number)
    events = profiler.events()
    (whole,) = (event.cpu_time_total for event in events if event.name == "training")
    watching = [event.time_range for event in events if event.name == "diagnostics"]
    products = sum(
        event.self_cpu_time_total
        for event in events
        if any(part in event.name for part in PRODUCTS)
        and not any(span.start <= event.time_range.start <= span.end for span in watching)
    )
    return products / (whole - sum(span.end - span.start for span in watching))


def marked(function):
    """The function inside a range that the profiler calls diagnostics."""

    @functools.wraps(function)
    def inside(*given, **options):
        with torch.profiler.record_function("diagnostics"):
            return function(*given, **options)

    return inside


def row(name: str, method: str) -> dict:
    """One run in this process: seconds of each of `PARTS`, and the rate that arithmetic is measured by."""
    torch.set_num_threads(1)
    settings = {"epochs": EPOCHS} if EPOCHS else {}
    scene, split = scene_and_split(name)
    fitting.fit(scene, method, split, device="cpu", epochs=1)  # libraries load, once per process
    rate = rates(torch.device("cpu"))["convolution"]
    with watched() as watch, tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        scene, split = scene_and_split(name)
        run, model = fitting.fit(scene, method, split, device="cpu", **settings)
        runs.save_run(run.assign_attrs(run_id="0" * 16), Path(folder, "run.nc"))
        whole = time.process_time() - start
    rate = max(rate, rates(torch.device("cpu"))["convolution"])
    samples = run.attrs["samples_per_s"] * run.attrs["seconds"]
    training, diagnostics, evaluation = (watch.seconds[part] for part in ("training", "diagnostics", "evaluation"))
    trainer = Trainer(scene, split, model.config, 0, torch.device("cpu"))
    inside = (training - diagnostics) * products(trainer, PROFILED)
    arithmetic = min(inside, 3 * samples * model.complexity()["macs_patch"] / rate)
    seconds = [arithmetic, inside - arithmetic, training - diagnostics - inside, diagnostics, evaluation]
    told = dict(zip(PARTS, [*seconds, whole - training - evaluation]))
    return {"scene": name, "method": method, "convolution_gmacs_per_s": rate / 1e9, "seconds": whole, **told}


def figure(table: pd.DataFrame):
    """One bar per run, cut into its parts, seconds; the longer ones hold their share of the run in per cent."""
    from prsa.figures.style import panels  # not above: it would count in what others measure

    fig, ((ax,),) = panels(1, 1, 1.2 + 0.36 * len(table))
    for i, run in enumerate(table.to_dict("records")):
        left = 0.0
        for part, colour in PARTS.items():
            width = max(run[part], 0.0)
            ax.barh(i, width, left=left, height=0.7, color=colour, label=part if i == 0 else None)
            if width > 0.082 * table["seconds"].max():  # the text has room
                text = f"{100 * width / run['seconds']:.0f} %"
                dark = "white" if part in ("arithmetic at the convolution rate", "evaluation") else "black"
                ax.text(left + width / 2, i, text, ha="center", va="center", fontsize=7, color=dark)
            left += width
    ax.set_yticks(range(len(table)), [f"{r.method}, {r.scene}" for r in table.itertuples()])
    ax.invert_yaxis()
    ax.set_xlabel("processor seconds of one run; in the bars % of it")
    ax.grid(visible=False, axis="y")
    fig.legend(loc="outside lower center", ncols=2)
    return fig


def main() -> None:
    """Measure every run in a process of its own and write the table and its figure."""
    from prsa.figures.style import save, styled

    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        table = in_fresh_processes(row, [(scene, method) for method in METHODS for scene in SCENES])
    write(table, "profile")
    save(styled(figure)(table), files.results("full") / "bench" / "profile")


if __name__ == "__main__":
    main()
