"""How the runs of a plan are executed: what is missing, one process per core, each run written all or nothing.

Processes come from the standard library: joblib's loky keeps its workers after the call, with the environment and the
scenes of that moment, and they outlive a killed parent until their run is done.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from .. import files
from ..config import METHODS
from ..data.simulate import is_dial
from ..errors import PrsaError
from . import runs
from .plan import Plan, RunSpec, Source
from .progress import bar

_opened = lru_cache(maxsize=2)(Source)  # in a worker: large scenes must not pile up


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model_path(path: Path) -> Path:
    """Where the model of the run stored at ``path`` is kept, if it is."""
    return path.with_suffix(".safetensors")


def train(spec: RunSpec, path: Path, device: str = "auto", keep_model: bool = False) -> Path:
    """Train and store one run, unless another process did so in the meantime; its network too, if asked to."""
    import torch  # where it is needed only

    from ..mapping import save_model
    from .fit import fit

    torch.set_num_threads(1)  # whatever the environment says: sums in the order of one thread
    if runs.is_finished(path) and (not keep_model or model_path(path).is_file()):
        return path
    source = _opened(spec.scene)
    if source.path(spec) != path:
        raise PrsaError(
            f"the scene {spec.scene} is no longer what was planned: the file, or the package, changed meanwhile. "
            "Fix: start again; in a notebook, make a new Plan."
        )
    split, changed = source.split(source.config(spec)), dict(spec.overrides)
    run, model = fit(source.scene, spec.method, split, spec.seed, spec.training_preset, device, None, False, **changed)
    if keep_model:
        save_model(model, model_path(path))
    return runs.save_run(run.assign_attrs(run_id=path.stem.rsplit("__", 1)[1]), path)


def _watch(lifeline) -> None:
    """In a worker: end this process when the other end of the pipe is closed, also by the death of the parent."""

    def wait():
        try:
            lifeline.recv()
        except EOFError:
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def workers(jobs: int, function: Callable, calls: Iterable[tuple]) -> Iterator[dict[Future, tuple]]:
    """Call a function in ``jobs`` processes; yields the futures, each with its arguments.

    An error lets the calls that have begun come to their end. Ctrl-C, or the death of this process, ends all of them at
    once.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before they import numpy
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with theirs, ours, ProcessPoolExecutor(jobs, context, _watch, (theirs,)) as pool:
        try:
            with _deaf():
                futures = {pool.submit(function, *call): call for call in calls}
            yield futures
        except Exception:
            raise
        except BaseException:
            ours.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started in this block do not hear Ctrl-C, which a terminal sends to all: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(
    plan: Plan,
    specs: list[RunSpec] | None = None,
    jobs: int | None = None,
    device: str = "auto",
    on_round: Callable[[int], None] | None = None,
    keep_models: bool = False,
) -> list[Path]:
    """Train what is missing of these runs (default: ``plan.specs``) and return all paths, in the order of ``specs``.

    ``jobs`` processes (default: the cores) with one thread each; ``on_round(seed)`` is called when all runs of a seed
    without overrides and outside the dial are there. ``keep_models``: store every network beside its run, for
    `prsa.load_model`; a finished run without it is trained again, to the same numbers. An interrupted call goes on
    where it stopped, and two at once do no harm. Raises `PrsaError` for jobs < 1, bad specs, a run that failed and
    workers that died.
    """
    specs, jobs = plan.specs if specs is None else specs, cores() if jobs is None else jobs
    if jobs < 1:
        raise PrsaError(f"JOBS: expected 1 or more, got {jobs}.")
    where = {spec: plan.path(spec) for spec in specs}
    for folder in {path.parent for path in where.values()}:
        files.sweep(folder)
    # A classical classifier has no file that is safe to open.
    kept = {spec for spec in where if keep_models and "classifier" not in METHODS.get(spec.method, ())}
    missing = set(plan.missing(where))
    todo = [spec for spec in where if spec in missing or spec in kept and not model_path(where[spec]).is_file()]
    if not todo:
        return [where[spec] for spec in specs]
    rounds = {s.seed: {t for t in todo if t.seed == s.seed and not t.overrides and not is_dial(t.scene)} for s in todo}
    calls = [(spec, where[spec], device, spec in kept) for spec in todo]
    try:
        with bar(len(where), len(where) - len(todo)) as line, workers(min(jobs, len(todo)), train, calls) as futures:
            for future in as_completed(futures):
                future.result()
                spec = futures[future][0]
                line.set_postfix_str(f"{spec.scene} {spec.method} seed {spec.seed}", refresh=False)
                line.update()
                if spec in rounds[spec.seed]:
                    rounds[spec.seed].remove(spec)
                    if not rounds[spec.seed] and on_round:
                        on_round(spec.seed)
    except BrokenProcessPool as error:
        raise PrsaError(
            "a training process was killed (out of memory?). Finished runs are kept: run again, with a smaller JOBS if "
            "memory is short."
        ) from error
    return [where[spec] for spec in specs]
