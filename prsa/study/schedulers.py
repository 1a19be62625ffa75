"""Where a Dask scheduler comes from: it runs already, belongs to this machine, or fills a queueing system."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

from ..errors import PrsaError
from .pool import deaf

PATIENCE = 10.0  # seconds for a scheduler to answer, and for a shared file to be seen
SYSTEMS = {"slurm": "SLURM", "pbs": "PBS", "sge": "SGE", "lsf": "LSF", "htcondor": "HTCondor", "oar": "OAR"}
SYSTEMS |= {"moab": "Moab"}


def jobqueue(path: Path) -> tuple[type, dict, int]:
    """What a YAML file says: the name of a queueing system, below it the settings that dask-jobqueue has for it, and
    ``jobs``, how many are kept in the queue. One worker process per core of a job.

    Returns the class of the cluster, its arguments and the number of jobs. Raises `PrsaError` for anything else.
    """
    import dask_jobqueue
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = found.get("jobqueue", found)
        ((system, given),) = found.items()
        options = {str(key).replace("-", "_"): value for key, value in given.items()}
        made = getattr(dask_jobqueue, f"{SYSTEMS[system]}Cluster")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, ValueError, KeyError) as error:
        raise PrsaError(
            f"{path}: expected a YAML file with one of {', '.join(SYSTEMS)} and its settings below it, got "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}. See prsa/study/README.md."
        ) from error
    known = {name for part in (*made.job_cls.__mro__, *made.__mro__) for name in inspect.signature(part).parameters}
    known = {*known - {"scheduler", "name", "args", "kwargs", "job_kwargs", "base_class_kwargs", "job_cls"}, "jobs"}
    if unknown := sorted(options.keys() - known):
        raise PrsaError(f"{path}: unknown key {', '.join(unknown)} of {system}; known: {', '.join(sorted(known))}.")
    jobs, each = options.pop("jobs", 0), options.get("cores")
    options = {"processes": each} | options
    numbers = isinstance(jobs, int) and jobs > 0 and isinstance(each, int) and each == options["processes"]
    if not (numbers and options.get("memory")):
        raise PrsaError(
            f"{path}: expected jobs, cores and memory of a job, and as many processes as cores (a run uses one), got "
            f"jobs {jobs}, cores {each}, memory {options.get('memory')}, processes {options['processes']}."
        )
    return made, options, jobs


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask writes no log in this block: what matters is said by `prsa.study.cluster`."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def connected(where: str, jobs: int, gpu: bool) -> Iterator:
    """A client of the scheduler at ``where``; one that was started for it ends with the block."""
    import dask
    from distributed import Client, LocalCluster

    with _quiet(), ExitStack() as opened:
        try:
            with warnings.catch_warnings(), dask.config.set({"distributed.comm.timeouts.connect": f"{PATIENCE}s"}):
                warnings.simplefilter("ignore")  # of versions: `prsa.study.cluster.check` looks at them
                resource_tracker.ensure_running()  # its start would undo the next line
                with deaf():  # a terminal sends Ctrl-C to its workers, too
                    own = None
                    if where == "local":
                        form = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": ":0"}
                        form |= {"resources": {"GPU": 1}} if gpu else {}
                        made = LocalCluster(n_workers=jobs, silence_logs=logging.CRITICAL, **form)
                        own = opened.enter_context(made)
                    elif "://" not in where:
                        queue, options, number = jobqueue(Path(where))
                        own = opened.enter_context(queue(**options))
                        own.adapt(minimum_jobs=number, maximum_jobs=number)  # an ended job has a successor
                    client = Client(own or where, timeout=PATIENCE, set_as_default=False)
                    opened.enter_context(client)
        except (OSError, ValueError, TypeError) as error:
            what = "no Dask scheduler answers. Check that dask scheduler runs, and use the address that it prints"
            what = what if "://" in where else "the scheduler cannot be started"
            raise PrsaError(f"CLUSTER={where}: {what} ({' '.join(str(error).split())[:300]}).") from error
        yield client
