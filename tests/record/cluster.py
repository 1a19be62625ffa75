"""What a cluster costs beside the pool of one machine, and how quickly a large study is handled; `make cluster`.

Writes ``results/bench/cluster.csv``: runs per hour and processor seconds of both executors, in pairs, because a machine
is rarely idle; the time to recognise finished runs and to plan many; what a scheduler and a disk do per run.
"""

import functools
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import pandas as pd
from record.bench import in_fresh_processes, peak_memory, write

from prsa.study import cluster, execute, pool, runs
from prsa.study.plan import Plan, Source

JOBS, ROUNDS, PAIRS = 2, 10, 5  # workers; runs per worker whose time counts, after its first; repetitions
SECONDS = 3.0  # of a run: short ones, so that what comes on top weighs more than in the study
FINISHED, PLANNED = 2000, 10_000
COLUMNS = ["quantity", "value", "unit", "target"]


def one() -> Path:
    """A run that was trained once."""
    study = Plan(["sim-sar"], 1, ["concat"], "quick")
    return execute.train(study.specs[1], study.path(study.specs[1]), "cpu")


def stand_in(spec, path: Path, device: str, keep_model: bool, like: Path) -> Path:
    """Takes as long as a short run, whatever else the machine does, and writes a run file as large as one."""
    end = time.monotonic() + SECONDS
    runs.is_finished(path)
    time.sleep(max(0.0, end - time.monotonic()))
    path.write_bytes(like.read_bytes())
    return path


def rate(executor, like: Path) -> tuple[float, float]:
    """Runs per hour of `stand_in` in an empty folder, and processor seconds per run of all processes, start included.

    The first run of every worker, with its start and its check, does not count for the runs per hour.
    """
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, PRSA_RESULTS=folder):
        study = Plan(["sim-sar"], JOBS * (1 + ROUNDS), ["concat"], "quick")
        calls = [(spec, study.path(spec), "cpu", False) for spec in study.specs if spec.method == "concat"]
        calls[0][1].parent.mkdir(parents=True)
        before = processor()
        with executor(functools.partial(stand_in, like=like), study, JOBS, calls) as finished:
            assert len(list(finished)) == len(calls)
        used, done = processor() - before, sorted(call[1].stat().st_mtime for call in calls)
    return 3600 * (len(done) - JOBS) / (done[-1] - done[JOBS - 1]), used / len(calls)


def processor() -> float:
    """Processor seconds of this process and of those it started that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def large(finished: int, planned: int, like: Path) -> dict:
    """In a fresh process: seconds to plan so many runs and to see which are finished, and memory, GB.

    Finished ones are copies of one real run file: their content is read and verified as that of others.
    """
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, PRSA_RESULTS=folder):
        data = like.read_bytes()
        many = Plan(["sim-sar"], planned // 2, ["concat"], "quick")
        many.path(many.specs[0]).parent.mkdir(parents=True)
        for spec in many.specs[:finished]:
            many.path(spec).write_bytes(data)
        start, used = time.perf_counter(), time.process_time()
        plan = Plan(["sim-sar"], planned // 2, ["concat"], "quick")
        missing = plan.missing()
        seconds, used = time.perf_counter() - start, time.process_time() - used
        assert len(plan.specs) == planned and len(missing) == planned - finished
    return {
        "finished": finished,
        "planned": planned,
        "seconds": seconds,
        "processor_s": used,
        "memory_gb": peak_memory(),
    }


def costs(like: Path) -> list[tuple]:
    """What grows with the number of workers: a task through the scheduler, a run file, the opening of a scene."""
    from distributed import Client, LocalCluster

    with LocalCluster(1, threads_per_worker=1, memory_limit=0, dashboard_address=":0") as machine:
        with Client(machine, set_as_default=False) as client:
            client.submit(abs, 0, pure=False).result()
            start, ticks = time.perf_counter(), 500
            for number in range(ticks):
                client.submit(abs, number, pure=False).result()
            through = (time.perf_counter() - start) / ticks
            start = time.perf_counter()
            for _ in range(50):
                client.scheduler_info()
            look = (time.perf_counter() - start) / 50
    start = time.process_time()
    Source("sim-sar")
    opening = time.process_time() - start
    seconds, size = float(runs.load_run(like).attrs["seconds"]), like.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for number in range(20):
            runs.save_run(runs.load_run(like), Path(folder, f"{number}.nc"))
        saving = (time.perf_counter() - start) / 20
    return [
        ("one task through the scheduler, one at a time", 1000 * through, "ms", ""),
        ("one look at the workers", 1000 * look, "ms", ""),
        ("opening a simulated scene (processor)", opening, "s", ""),
        ("training of a quick run", seconds, "s", ""),
        ("a run file", size / 1e6, "MB", ""),
        ("reading and writing a run file", 1000 * saving, "ms", ""),
    ]


def paired(like: Path) -> list[tuple]:
    """`rate` of the pool and of Dask, in turns."""
    on_cluster, pairs = cluster.executor("local", lambda _: None), []
    for number in range(PAIRS):
        order = (pool.pool, on_cluster) if number % 2 == 0 else (on_cluster, pool.pool)
        found = {executor: rate(executor, like) for executor in order}
        pairs.append((*found[pool.pool], *found[on_cluster]))
        print(*(round(value, 2) for value in pairs[-1]), flush=True)
    return pairs


def table(pairs: list[tuple], many: pd.DataFrame, each: list[tuple]) -> pd.DataFrame:
    """What `paired`, `large` and `costs` have measured, with the targets."""
    hour, cpu, c_hour, c_cpu = (statistics.median(values) for values in zip(*pairs))
    (known, planned, both) = many.to_dict("records")
    beside = "processor seconds per run beside training, start included"
    rows = [
        (f"runs of {SECONDS:g} s per hour, pool of {JOBS}", hour, "1/h", ""),
        (f"runs of {SECONDS:g} s per hour, Dask with {JOBS} workers", c_hour, "1/h", ""),
        ("ratio of runs per hour, median of pairs", statistics.median(p[2] / p[0] for p in pairs), "", ">= 0.95"),
        (f"{beside}: pool", cpu, "s", ""),
        (f"{beside}: Dask", c_cpu, "s", ""),
        (f"{FINISHED} finished runs recognised", known["seconds"], "s", "< 10"),
        (f"{FINISHED} finished runs recognised (processor)", known["processor_s"], "s", ""),
        (f"{PLANNED} runs planned", planned["seconds"], "s", "< 30"),
        (f"{PLANNED} runs planned, {FINISHED} of them finished: memory", both["memory_gb"], "GB", "< 1"),
    ]
    return pd.DataFrame(rows + each, columns=COLUMNS)


def main() -> None:
    """Measure all of it and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, PRSA_RESULTS=folder):
            like = one()
        sizes = (FINISHED, FINISHED), (0, PLANNED), (FINISHED, PLANNED)
        pairs = paired(like)
        found = table(pairs, in_fresh_processes(large, [(*size, like) for size in sizes]), costs(like))
    print(found.to_string(index=False))
    write(found, "cluster")


if __name__ == "__main__":
    main()
