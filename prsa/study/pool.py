"""The executor of one machine: a process per core, from the standard library.

joblib's loky keeps its workers after the call, with the environment and the scenes of that moment, and they outlive a
killed parent until their run is done.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ..errors import PrsaError
from .plan import Plan, RunSpec


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    with theirs, ours, ProcessPoolExecutor(jobs, context, _watch, (theirs,)) as processes:
        try:
            with deaf():
                futures = {processes.submit(function, *call): call for call in calls}
            yield futures
        except Exception:
            raise
        except BaseException:
            ours.close()
            raise
        finally:
            processes.shutdown(cancel_futures=True)


@contextmanager
def deaf() -> Iterator[None]:
    """Processes started in this block do not hear Ctrl-C, which a terminal sends to all: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def pool(
    function: Callable, plan: Plan, jobs: int | None, calls: list[tuple]
) -> Iterator[Iterator[tuple[RunSpec, str]]]:
    """The executor of this machine: calls a function, yields the run of each call that is finished and a word on it.

    Raises `PrsaError` for a process that was killed, and whatever the function raises.
    """
    try:
        with workers(min(jobs or cores(), len(calls)), function, calls) as futures:

            def finished():
                for future in as_completed(futures):
                    future.result()
                    spec = futures[future][0]
                    yield spec, f"{spec.scene} {spec.method} seed {spec.seed}"

            yield finished()
    except BrokenProcessPool as error:
        raise PrsaError(
            "a training process was killed (out of memory?). Finished runs are kept: run again, with a smaller JOBS if "
            "memory is short."
        ) from error
