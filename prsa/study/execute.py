"""How the runs of a plan are executed: resumable, atomic, one process per core."""

import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ..data.simulate import is_dial
from ..errors import PrsaError
from . import runs
from .plan import RunSpec, _preset, resolve, run_path


def _worker_setup():
    """One thread per process, and no orphan: a worker whose parent was killed ends itself, also while it is still loading torch."""
    parent = multiprocessing.parent_process().pid  # not getppid(): the parent may be gone already

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def train_run(spec: RunSpec, device: str = "auto") -> Path:
    """Train and store one run (whatever is there is replaced)."""
    from .fit import fit

    _, scene, split = resolve(spec)
    path = run_path(spec)
    run, _ = fit(scene, spec.method, split, spec.seed, _preset(spec.scene, spec.preset), device, **dict(spec.overrides))
    run.attrs["run_id"] = path.stem.rsplit("__", 1)[1]
    return runs.save_run(run, path)


class Progress:
    """One line with the time left: rewritten on a terminal, a new line now and then elsewhere."""

    def __init__(self, total: int, done: int):
        self.total, self.done, self.skipped, self.start = total, done, done, time.monotonic()
        self.live, self.last = sys.stderr.isatty(), 0.0

    def step(self, spec: RunSpec):
        self.done += 1
        now = time.monotonic()
        left = (now - self.start) / (self.done - self.skipped) * (self.total - self.done)
        text = (
            f"run {self.done}/{self.total}: {spec.scene} {spec.method} seed {spec.seed}, about {left / 60:.1f} min left"
        )
        if self.live:
            print(
                "\r" + text[: shutil.get_terminal_size().columns - 1].ljust(shutil.get_terminal_size().columns - 1),
                end="",
                file=sys.stderr,
                flush=True,
            )
            if self.done == self.total:
                print(file=sys.stderr)
        elif now - self.last > 30 or self.done == self.total:
            print(text, file=sys.stderr, flush=True)
            self.last = now


def run_grid(
    specs: list[RunSpec], jobs: int | None = None, device: str = "auto", on_round: Callable[[int], None] | None = None
) -> list[Path]:
    """Train what is missing of these runs and return all paths, in the order of ``specs``.

    ``jobs`` processes (default: the cores) with one thread each; ``on_round(seed)`` is called when all runs of a seed without overrides
    and outside the dial are there. An interrupted grid goes on where it stopped. Raises `PrsaError` for jobs < 1, bad specs and workers that died.
    """
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    if jobs < 1:
        raise PrsaError(f"JOBS: expected 1 or more, got {jobs}.")
    where = {spec: run_path(spec) for spec in specs}
    for folder in {path.parent for path in where.values()}:
        for stale in folder.glob(".*.tmp"):  # left by a killed process
            if time.time() - stale.stat().st_mtime > 600:
                stale.unlink(missing_ok=True)
    todo = [spec for spec in dict.fromkeys(specs) if not runs.is_finished(where[spec])]
    rounds = {
        seed: {s for s in todo if s.seed == seed and not s.overrides and not is_dial(s.scene)}
        for seed in sorted({s.seed for s in specs})
    }
    progress = Progress(len(where), len(where) - len(todo))

    def finished(spec):
        progress.step(spec)
        left = rounds[spec.seed]
        if spec in left:
            left.remove(spec)
            if not left and on_round:
                on_round(spec.seed)

    if todo:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the workers import numpy and torch
        with ProcessPoolExecutor(min(jobs, len(todo)), multiprocessing.get_context("spawn"), _worker_setup) as pool:
            try:
                futures = {pool.submit(train_run, spec, device): spec for spec in todo}
                for future in as_completed(futures):
                    future.result()
                    finished(futures[future])
            except BrokenProcessPool as error:
                raise PrsaError(
                    "a training process was killed (out of memory?). Finished runs are kept: run again, with a smaller JOBS if memory is short."
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    return [where[spec] for spec in specs]
