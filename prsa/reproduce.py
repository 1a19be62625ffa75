"""The whole study in one command: runs, tables, figures, notebooks and their HTML copies (``make reproduce``).

Everything is checked before anything is written, and everything is written whole or not at all. One call at a time
works in a results folder: a second one waits, then finds the runs of the first.
"""

import argparse
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from . import files
from .errors import PrsaError
from .study.archive import unpack
from .study.cluster import executor
from .study.execute import run
from .study.plan import Plan
from .study.pool import cores, pool, workers
from .study.provenance import attributes, record
from .study.status import other_versions
from .study.teaching import write_note

KERNEL = "prsa"  # comes with the package, see pyproject.toml
_EVALUATION = tuple(f"sim-{kind}{seed}" for kind in ("sar", "lidar", "tri") for seed in ("", ":1", ":2"))
DEFAULTS = {"full": (_EVALUATION, 3), "quick": (("sim-sar",), 2)}  # preset: scenes, seeds


def _literal(path: Path) -> str:
    """papermill fills in its parameters where a path holds braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def declared(path: Path) -> set[str]:
    """Names in the notebook's cell tagged ``parameters``, as papermill finds them."""
    from papermill import inspect_notebook

    if not path.is_file():
        raise PrsaError(f"no notebook at {path}. Check the path.")
    try:
        return set(inspect_notebook(_literal(path)))
    except Exception as error:  # json and nbformat raise their own kinds
        raise PrsaError(f"{path.name}: expected a notebook, got {type(error).__name__}: {error}") from error


def run_notebook(path: Path, out: Path, parameters: dict, kernel: str = KERNEL) -> Path:
    """Execute a notebook in its folder into ``out``, which exists afterwards only if every cell succeeded.

    Raises `PrsaError` for parameters the notebook does not declare, an unknown kernel, and a failing cell; then the
    executed copy up to that cell is kept beside ``out`` as ``*.failed.ipynb``.
    """
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    path, out, known = Path(path).resolve(), Path(out).resolve(), declared(path)
    if unknown := sorted(set(parameters) - known):
        raise PrsaError(f"{path.name}: unknown parameter {', '.join(unknown)}; declared: {', '.join(sorted(known))}.")
    failed = out.with_name(f"{out.stem}.failed.ipynb")
    for old in (out, failed):  # an older copy must not pass for this one
        old.unlink(missing_ok=True)
    # Without the encryption, which kernels of this age offer, each prints a warning, and calls its end an error.
    quiet = {
        "config": Config(KernelManager={"transport_encryption": "auto"}),
        "extra_arguments": ["--log-level=CRITICAL"],
        "progress_bar": False,
    }
    with files.whole(out) as temporary:
        try:
            execute_notebook(
                _literal(path), _literal(temporary), parameters, kernel_name=kernel, cwd=path.parent, **quiet
            )
        except PapermillExecutionError as error:
            files.write_text(temporary.read_text(encoding="utf-8"), failed)
            raise PrsaError(
                f"{path.name} failed in cell {error.cell_index + 1} (In [{error.exec_count}], "
                f"{error.source.strip().splitlines()[0]!r}): {error.ename}: {error.evalue[:600]}\n"
                f"    executed up to there: {failed}"
            ) from error
        except NoSuchKernel as error:
            raise PrsaError(
                f"{path.name}: expected the Jupyter kernel {kernel!r}, found none. Fix: make env"
            ) from error
        except DeadKernelError as error:
            raise PrsaError(f"{path.name}: its kernel died (out of memory?). Fix: run again, smaller JOBS.") from error
    return out


def _execute(path: Path, results: Path, parameters: dict, threads: int) -> float:
    """One notebook, in a process of its own; returns the seconds it took."""
    start = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": str(threads), "JUPYTER_PREFER_ENV_PATH": "1", "PRSA_LOG": "1"}  # for the kernel
    warnings.simplefilter("ignore")  # of what papermill depends on
    chosen = {name: value for name, value in parameters.items() if name in declared(path)}
    run_notebook(path, results / "notebooks" / path.name, chosen)
    return time.monotonic() - start


def run_notebooks(
    notebooks: list[Path], results: Path, parameters: dict, jobs: int, say: Callable[[str], None] = print
) -> None:
    """Execute notebooks that do not depend on each other, ``jobs`` at a time; each gets those of the parameters that it
    declares. Executed copies go to ``results/notebooks``, then all to HTML in ``results/report``.

    The others go on when one fails; then raises `PrsaError` that names all that failed.
    """
    from .report import pages

    calls, failed = [(path, results, parameters, max(1, cores() // jobs)) for path in notebooks], []
    with workers(min(jobs, len(calls)), _execute, calls) as futures:
        for future in as_completed(futures):
            name = futures[future][0].name
            try:
                say(f"  {name}: done after {future.result():.0f} s")
            except (PrsaError, BrokenProcessPool) as error:
                killed = "a notebook's process was killed (out of memory?). Fix: run again with a smaller JOBS."
                say(f"  {error if isinstance(error, PrsaError) else f'{name}: {killed}'}")
                failed.append(name)
    pages.write_all(results, [path.stem for path in notebooks])
    if failed:
        raise PrsaError(f"{len(failed)} of {len(notebooks)} notebooks failed, see above: {', '.join(sorted(failed))}.")


def listed(text: str) -> list[str]:
    """Scenes of a command line, ``text``: names and files separated by spaces, in quotes where they hold some.

    A file that is there needs no quotes. Ours, because make hands its variables on as one text.
    """

    def there(name):
        return os.path.isfile(os.path.expanduser(name))

    if there(text):
        return [text]
    try:
        parts = shlex.split(text)
    except ValueError:  # a quotation mark that is part of a name
        parts = text.split()
    found = []
    while parts:
        n = next((n for n in range(len(parts), 1, -1) if there(" ".join(parts[:n]))), 1)
        found.append(" ".join(parts[:n]))
        parts = parts[n:]
    return found


_say = partial(print, flush=True)


def reproduce(
    scenes: list[str],
    seeds: int,
    jobs: int | None,
    device: str,
    methods: list[str] | None,
    preset: str,
    cluster: str = "",
) -> Path:
    """Check everything, train what is missing, write tables and figures after every round of seeds, execute the
    notebooks; returns the results folder. Raises `PrsaError`; before the first run starts, nothing has been written.
    """
    from . import figures, report
    from .training.loop import pick_device

    start, asked, jobs = time.monotonic(), jobs, cores() if jobs is None else jobs
    if jobs < 1:
        raise PrsaError(f"JOBS: expected 1 or more, got {jobs}.")
    execute = executor(cluster, _say) if cluster else pool
    here = str(pick_device("auto" if cluster else device))
    device = str(pick_device(device)) if cluster in ("", "local") else device
    study = Plan(scenes, seeds, methods, preset)
    specs = list(dict.fromkeys(study.specs + study.dial))
    notebooks = sorted(files.NOTEBOOKS.glob("[0-9A][0-9]_*.ipynb"))  # A: appendices
    for notebook in notebooks:
        declared(notebook)  # what is no notebook is told now, not after the training
    results, first, written = files.results(preset), [], []  # minutes until the first table, runs of the last ones

    def write(seed: int | None = None) -> None:
        """Tables and figures of the seeds that are complete."""
        lacking = {spec.seed for spec in study.missing(s for s in study.specs if not s.overrides)}
        late = {*study.missing(specs), *(spec for spec in specs if spec.seed in lacking)}
        there = [spec for spec in specs if spec not in late]
        if there != written:
            found = study.open(there)
            tables = report.write_all(found, study.scenes, study.splits, results / "tables")
            _only(tables, results / "tables")
            drawn = figures.write_all(tables, found, results / "figures", study.scenes, study.splits)
            record(study, there, tables, drawn, figures.OF_TABLES, results / "tables")
            written[:] = there
            first.append((time.monotonic() - start) / 60)
        if seed is not None:
            _say(f"seed {seed} finished: tables of {seeds - len(lacking)} of {seeds} seeds in {results / 'tables'}")

    with files.explained(results), files.held(results, _say):
        files.sweep(results)
        missing = set(study.missing(specs))
        for line in other_versions(attributes(study.path(spec)) for spec in specs if spec not in missing):
            _say(line)
        at = f"CLUSTER={cluster}" if cluster else f"{jobs} at a time"
        _say(f"{len(specs)} runs ({', '.join(study.scenes)}; {seeds} seeds; preset {preset}), {at}")
        write_note(study, seeds, methods, preset)
        if missing and not cluster:
            figures.demo.draw(study, results, partial(run, study, jobs=jobs, device=device), _say)
            if not study.missing(spec for spec in specs if spec.seed == 0 and not spec.overrides):
                write(0)  # in a small study, these were all of the first seed
        run(study, specs, asked, device, write, executor=execute)
        write()
        _say(f"executing {len(notebooks)} notebooks")
        settings = {"seeds": seeds, "preset": preset, "study": preset, "jobs": jobs, "device": here}
        run_notebooks(notebooks, results, settings | {"scenes": study.sources, "methods": methods}, jobs, _say)
        _only({path.stem for path in notebooks}, results / "notebooks")
        minutes = (time.monotonic() - start) / 60
        if len(missing) == len(specs) and not cluster:  # the time of a resumed study says nothing
            timing = {"minutes": round(minutes, 1), "first_table_minutes": round(first[0], 1), "runs": len(specs)}
            timing |= {"scenes": list(study.scenes), "seeds": seeds, "jobs": jobs, "cores": cores(), "device": device}
            files.write_text(json.dumps(timing, indent=1) + "\n", results / "timing.json")
    _say(f"done in {minutes:.1f} min. In {results}:\n  tables/     CSV, Markdown, LaTeX\n  figures/    PNG, PDF")
    _say("  notebooks/  executed copies\n  report/     the same as HTML: open index.html")
    return results


def _only(names: Iterable[str], folder: Path) -> None:
    """Remove what an earlier study left in a folder that this one does not make."""
    for path in folder.glob("[!.]*"):
        if path.stem not in names and path.suffix in (".csv", ".md", ".tex", ".ipynb"):
            path.unlink(missing_ok=True)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise PrsaError(f"{message}. See make help, or python -m prsa.reproduce --help.")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for a problem the user can fix, 130 after Ctrl-C."""
    parser = _Parser(prog="python -m prsa.reproduce", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--preset", choices=tuple(DEFAULTS), default="full", help="full: the study; quick: the same in minutes")
    add("--scenes", nargs="+", help="names of embedded scenes or .nc files (default: by preset)")
    add("--seeds", type=int, help="runs per scene and method (default: 3; quick: 2)")
    add("--jobs", type=int, help="processes at a time (default: one per core)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    add("--methods", nargs="+", help="methods to compare (default: those of the study)")
    add(
        "--cluster",
        default="",
        help="train on: local (Dask workers here), tcp://host:8786, or a dask-jobqueue YAML file",
    )
    add("--status", action="store_true", help="say what is there, missing or stale; train and write nothing")
    add("--pack", metavar="FILE", type=Path, help="write the finished runs into one file")
    add("--unpack", metavar="FILE", type=Path, help="take the runs of such a file in, after checking them")
    add("--verify", metavar="N", type=int, help="train N random finished runs again and compare")
    try:
        given = parser.parse_args(arguments)
        scenes, seeds = DEFAULTS[given.preset]
        scenes = [name for text in given.scenes or scenes for name in listed(text)]
        seeds = seeds if given.seeds is None else given.seeds
        if given.unpack:
            unpack(given.unpack, _say)
        elif given.status or given.pack or given.verify is not None:
            from .report.finished import inspect

            study = Plan(scenes, seeds, given.methods, given.preset)
            inspect(study, given.jobs or cores(), given.status, given.pack, given.verify, _say)
        else:
            reproduce(scenes, seeds, given.jobs, given.device, given.methods, given.preset, given.cluster)
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted. Finished runs are kept: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
