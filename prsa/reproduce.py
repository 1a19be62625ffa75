"""The whole study in one command: runs, tables, notebooks and their HTML copies (``python -m prsa.reproduce``, ``make reproduce``).

Everything is checked before anything is written. Notebooks go through papermill behind a guard, because papermill only warns about an
unknown parameter, reads the parameters cell with a regular expression, and leaves an output file behind when a cell fails.
"""

import argparse
import ast
import json
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

from . import files
from .errors import PrsaError

KERNEL = "prsa"  # registered by `make env` inside the environment
_EVALUATION = tuple(f"sim-{kind}{seed}" for kind in ("sar", "lidar", "tri") for seed in ("", ":1", ":2"))
DEFAULTS = {"full": (_EVALUATION, 3), "quick": (("sim-sar",), 2)}  # preset: scenes, seeds


def plain(parameters: dict) -> dict:
    """The parameters after a JSON round trip. Raises `PrsaError` for a value that would not come back as it went in.

    papermill writes a tuple as a string and crashes on NumPy scalars when it saves, after the notebook has run.
    """
    for name, value in parameters.items():
        try:
            back = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise PrsaError(
                f"notebook parameter {name}: expected plain values (str, int, float, bool, None, list, dict), got {value!r} "
                f"({type(value).__name__}). Fix: convert it, e.g. with int(), float() or .tolist()."
            ) from error
        if back != value:
            raise PrsaError(
                f"notebook parameter {name}: expected lists and str keys, got {value!r}. Fix: convert it with list() or str()."
            )
    return json.loads(json.dumps(parameters))


def _literal(path: Path) -> str:
    """papermill fills in its parameters where a path holds braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def declared(path: Path) -> set[str]:
    """Names in the notebook's cell tagged ``parameters``, as papermill finds them.

    Raises `PrsaError` when papermill sees other names than Python does: then a value would be injected without its being checked.
    """
    import nbformat
    from papermill import inspect_notebook

    try:
        notebook = nbformat.read(path, as_version=4)
    except FileNotFoundError as error:
        raise PrsaError(f"no notebook at {path}. Check the path.") from error
    except Exception as error:  # json and nbformat raise their own kinds
        raise PrsaError(f"{path.name}: expected a notebook, got {type(error).__name__}: {error}") from error
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if not cells:
        return set()
    fix = "Fix: one plain literal per line, no second '=' and no '|', not even in a comment."
    try:
        lines = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise PrsaError(f"{path.name}: the parameters cell is no Python ({error.msg}). {fix}") from error
    python = {
        target.id
        for line in lines
        if isinstance(line, (ast.Assign, ast.AnnAssign))
        for target in getattr(line, "targets", [getattr(line, "target", None)])
        if isinstance(target, ast.Name)
    }
    papermill = set(inspect_notebook(_literal(path)))
    if papermill != python:
        raise PrsaError(
            f"{path.name}: papermill reads the parameters {sorted(papermill)}, Python reads {sorted(python)}. {fix}"
        )
    return python


def run_notebook(path: Path, out: Path, parameters: dict, kernel: str = KERNEL, cwd: Path | None = None) -> Path:
    """Execute a notebook with these parameters into ``out``, which exists afterwards only if every cell succeeded.

    ``cwd`` is the working directory of the cells: the notebook's folder, as in JupyterLab, unless stated. Raises `PrsaError` for
    parameters the notebook does not declare, values that are not plain, an unknown kernel, and a failing cell; then the executed copy up
    to that cell is kept beside ``out`` as ``*.failed.ipynb``.
    """
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook
    from traitlets.config import Config

    path, out = Path(path).resolve(), Path(out).resolve()
    values, known = plain(parameters), declared(path)
    unknown = sorted(set(values) - known)
    if unknown:
        raise PrsaError(
            f"{path.name}: unknown parameter {', '.join(unknown)}. The notebook declares {', '.join(sorted(known)) or 'none'}."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary, failed = out.with_name(f".{out.stem}.{os.getpid()}.tmp.ipynb"), out.with_name(f"{out.stem}.failed.ipynb")
    for old in (out, failed):  # an older copy must not pass for this one
        old.unlink(missing_ok=True)
    try:
        # Without the encryption, which kernels of this age offer, each prints a warning; now and then one calls its regular end an error.
        execute_notebook(
            _literal(path),
            _literal(temporary),
            values,
            kernel_name=kernel,
            language="python",
            progress_bar=False,
            cwd=cwd or path.parent,
            config=Config(KernelManager={"transport_encryption": "auto"}),
            extra_arguments=["--log-level=CRITICAL"],
        )
        os.replace(temporary, out)
    except PapermillExecutionError as error:
        os.replace(temporary, failed)
        first = error.source.strip().splitlines()[0]
        raise PrsaError(
            f"{path.name} failed in cell {error.cell_index + 1} (In [{error.exec_count}], {first!r}): {error.ename}: {error.evalue}\n"
            f"  executed up to there: {failed}"
        ) from error
    except NoSuchKernel as error:
        raise PrsaError(
            f"{path.name}: expected the Jupyter kernel {kernel!r}, found none of that name. Fix: make env"
        ) from error
    except DeadKernelError as error:
        raise PrsaError(
            f"{path.name}: its kernel died (out of memory?). Fix: run again with a smaller JOBS."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return out


def to_html(notebook: Path, out: Path) -> Path:
    """Write an executed notebook as one HTML file, figures included, all or nothing."""
    from nbconvert import HTMLExporter

    out.parent.mkdir(parents=True, exist_ok=True)
    body, _ = HTMLExporter(embed_images=True).from_filename(str(notebook))
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(body, encoding="utf-8")
    os.replace(temporary, out)
    return out


def _execute(path: Path, results: Path, parameters: dict, threads: int, answer) -> None:
    """One notebook and its HTML copy in a process of its own; sends None or the message of the error."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches every process of the terminal; the parent ends this one
    parent = multiprocessing.parent_process().sentinel
    threading.Thread(
        target=lambda: (wait([parent]), os._exit(1)), daemon=True
    ).start()  # no orphan when the parent is killed
    os.environ.update(OMP_NUM_THREADS=str(threads), JUPYTER_PREFER_ENV_PATH="1")  # inherited by the kernel
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of nbconvert's and papermill's dependencies
    report = results / "report" / f"{path.stem}.html"
    report.unlink(missing_ok=True)
    try:
        chosen = {name: value for name, value in parameters.items() if name in declared(path)}
        to_html(run_notebook(path, results / "notebooks" / path.name, chosen), report)
        answer.send(None)
    except PrsaError as error:
        answer.send(str(error))


def run_notebooks(
    notebooks: list[Path], results: Path, parameters: dict, jobs: int, say: Callable[[str], None] = print
) -> list[Path]:
    """Execute notebooks that do not depend on each other, ``jobs`` at a time; each gets those of the parameters it declares.

    Executed copies go to ``results/notebooks``, HTML copies to ``results/report``; returns the latter. One process per notebook, so that
    an interrupt ends them all. The others go on when one fails; then raises `PrsaError` that names every failure.
    """
    for stale in (results / "notebooks").glob(".*.tmp.ipynb"):  # left by a killed process
        stale.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    threads = max(1, cores() // jobs)
    waiting, running, errors = list(notebooks), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                path = waiting.pop(0)
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_execute, args=(path, results, parameters, threads, send))
                process.start()
                send.close()
                running[receive] = process, path, time.monotonic()
            for ready in wait(list(running)):
                process, path, start = running.pop(ready)
                try:
                    error = ready.recv()
                except EOFError:
                    error = (
                        f"{path.name}: its process ended without an answer (traceback above; killed if there is none)."
                    )
                process.join()
                ready.close()
                errors += [error] if error else []
                say(f"  {path.name}: {'failed' if error else 'done'} after {time.monotonic() - start:.0f} s")
    finally:
        for process, path, _ in running.values():
            process.terminate()
            process.join()
            (results / "notebooks" / f".{path.stem}.{process.pid}.tmp.ipynb").unlink(missing_ok=True)
    if errors:
        raise PrsaError(f"{len(errors)} of {len(notebooks)} notebooks failed:\n" + "\n".join(errors))
    return [results / "report" / f"{path.stem}.html" for path in notebooks]


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _absolute(scene: str) -> str:
    """Kernels have another working directory: paths become absolute, names stay."""
    return str(Path(scene).expanduser().resolve()) if scene.endswith(".nc") else scene


def reproduce(scenes: list[str], seeds: int, jobs: int, device: str, methods: list[str] | None, preset: str) -> Path:
    """Check everything, train what is missing, write tables after every round of seeds, execute the notebooks; returns the results folder.

    Raises `PrsaError`; before the first run starts, nothing has been written then.
    """
    from .report import tables
    from .study import execute, plan
    from .training.loop import pick_device

    start = time.monotonic()
    if jobs < 1:
        raise PrsaError(f"JOBS: expected 1 or more, got {jobs}.")
    pick_device(device)
    scenes = [_absolute(scene) for scene in scenes]
    specs = plan.grid(scenes, methods, seeds, preset)
    dial = plan.dial_grid(scenes, seeds, preset) if methods is None else []
    everything = list(dict.fromkeys(specs + dial))
    opened, splits = {}, {}
    for source in dict.fromkeys(scenes):
        scene, split = plan.scene_and_split(source, preset)
        name = scene.attrs["name"]
        if name in opened:
            raise PrsaError(
                f"SCENES: expected different names, got {name!r} twice, the second from {source}. Fix: change the file's attribute 'name'."
            )
        opened[name], splits[name] = scene, split
    notebooks = sorted(files.NOTEBOOKS.glob("[0-9A][0-9]_*.ipynb"))  # A: appendices
    for notebook in notebooks:
        declared(notebook)
    results = files.results(preset)

    def write_tables(*_):
        missing = {spec.seed for spec in specs if not spec.overrides and not plan.run_path(spec).is_file()}
        there = [spec for spec in specs if spec.seed not in missing and plan.run_path(spec).is_file()]
        tables.write_all(plan.open_runs(there), opened, splits, results / "tables")
        return len({spec.seed for spec in there})

    first = []  # minutes until the first table

    def on_round(seed):
        first.append((time.monotonic() - start) / 60)
        print(
            f"{chr(10) * sys.stderr.isatty()}seed {seed} finished: tables of {write_tables()} of {seeds} seeds in {results / 'tables'}",
            flush=True,
        )

    print(f"{len(everything)} runs ({', '.join(opened)}; {seeds} seeds; preset {preset}), {jobs} at a time", flush=True)
    fresh = not any(plan.run_path(spec).is_file() for spec in everything)
    execute.run_grid(everything, jobs, device, on_round)
    write_tables()
    print(f"executing {len(notebooks)} notebooks", flush=True)
    parameters = {
        "scenes": scenes,
        "seeds": seeds,
        "preset": preset,
        "jobs": jobs,
        "device": device,
        "methods": methods,
    }
    run_notebooks(notebooks, results, parameters, jobs, lambda line: print(line, flush=True))
    minutes = (time.monotonic() - start) / 60
    if fresh:  # the time of a resumed study says nothing
        timing = {
            "minutes": round(minutes, 1),
            "first_table_minutes": round(first[0], 1),
            "runs": len(everything),
            "scenes": list(opened),
            "seeds": seeds,
            "jobs": jobs,
            "cores": cores(),
            "device": str(pick_device(device)),
        }
        files.write_text(json.dumps(timing, indent=1) + "\n", results / "timing.json")
    print(
        f"done in {minutes:.1f} min. In {results}:\n  tables/     CSV, Markdown, LaTeX\n  figures/    PNG, PDF\n"
        "  notebooks/  executed copies\n  report/     the same as HTML",
        flush=True,
    )
    return results


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise PrsaError(f"{message}. See make help, or python -m prsa.reproduce --help.")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for a problem the user can fix, 130 after Ctrl-C."""
    parser = _Parser(prog="python -m prsa.reproduce", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--preset", choices=tuple(DEFAULTS), default="full", help="full: the study; quick: the same in minutes"
    )
    parser.add_argument("--scenes", nargs="+", help="names of embedded scenes or .nc files (default: by preset)")
    parser.add_argument("--seeds", type=int, help="runs per scene and method (default: 3; quick: 2)")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes at a time (default: one per core)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--methods", nargs="+", help="methods to compare (default: those of the study)")
    try:
        given = parser.parse_args(arguments)
        scenes, seeds = DEFAULTS[given.preset]
        reproduce(
            [name for text in given.scenes or scenes for name in listed(text)],
            seeds if given.seeds is None else given.seeds,
            given.jobs,
            given.device,
            given.methods,
            given.preset,
        )
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted. Finished runs are kept: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
