"""What a newcomer and a lecturer start: JupyterLab on a copy of the notebooks, the first picture, slides.

``python -m prsa.lab``, ``python -m prsa.lab demo``, ``python -m prsa.lab slides`` (make lab, demo, slides).
"""

import argparse
import hashlib
import itertools
import json
import os
import secrets
import socket
import sys
from functools import partial
from pathlib import Path

from . import files
from .errors import PrsaError

FIRST = "00_start_here.ipynb"  # what JupyterLab opens
SLIDES = ("00", "06", "11")  # notebooks that a lecture is made of
VERSIONS = ".versions.json"  # beside the copies: which version of each notebook was offered last
PORT = 8888


def _state(text: str) -> str:
    """A hash of what a reader edits: the cells without their outputs. Of a file that is no notebook, of all of it."""
    try:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    except (ValueError, KeyError, TypeError):
        cells = text
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def _original(path: Path) -> str:
    """The text of a notebook as a reader gets it: of an exercise, the student's copy."""
    text = path.read_text(encoding="utf-8")
    if path.parent.name != "course":
        return text
    import nbformat

    from .course.copies import student

    return nbformat.writes(student(nbformat.reads(text, as_version=4))) + "\n"


def copies(notebooks: Path, work: Path) -> list[str]:
    """Bring a reader's own copies up to date; returns what there is to say.

    Saved outputs are no change. A copy whose cells were changed is never touched: a new version of its notebook is put
    beside it, as ``NAME.new.ipynb``. Raises `PrsaError` when the disk does not take them.
    """
    record = work / VERSIONS
    known, said, fresh = json.loads(record.read_text()) if record.is_file() else {}, [], 0
    for path in [*sorted(notebooks.glob("*.ipynb")), *sorted(notebooks.glob("course/*.ipynb"))]:
        name, text = path.relative_to(notebooks).as_posix(), _original(path)
        new, last, mine = _state(text), known.get(name), work / name
        theirs = _state(mine.read_text(encoding="utf-8")) if mine.is_file() else None
        if theirs in (None, last) and theirs != new:
            files.write_text(text, mine)
            fresh += theirs is None
            said += [f"{mine}: a new version; you had not changed yours"] * bool(theirs)
        elif theirs != new and last != new:
            names = (mine.with_suffix(f".new{n or ''}.ipynb") for n in itertools.count())
            beside = next(p for p in names if not p.is_file() or _state(p.read_text(encoding="utf-8")) == last)
            files.write_text(text, beside)
            said.append(f"{mine} has changes of yours and stays; its new version is beside it: {beside.name}")
        known[name] = new
    files.write_text(json.dumps(known, indent=1) + "\n", record)
    return [*([f"{fresh} notebooks copied to {work}"] * bool(fresh)), *said]


def _port(asked: int | None) -> int:
    """The port that was asked for, else the first free one."""
    for port in [asked] if asked is not None else range(PORT, PORT + 100):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", port))
            except (OSError, OverflowError):
                continue
            return port
    raise PrsaError(
        f"PORT: expected a free port, got {asked or PORT}. Either another program uses it (ss -tlnp shows which), or "
        "it is out of range or reserved. Fix: make lab PORT=8890"
    )


def command(port: int) -> list[str]:
    """How JupyterLab is started: the repository is its root, so that results can be seen; in a container for all."""
    call = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={files.HOME}", f"--port={port}"]
    call += [f"--LabApp.default_url=/lab/tree/work/{FIRST}", "--LabApp.news_url=None"]  # nothing is fetched
    call += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    call += ["--ServerApp.port_retries=0", "--ServerApp.log_level=WARN"]
    contained = any(Path(sign).exists() for sign in ("/.dockerenv", "/run/.containerenv"))
    root = hasattr(os, "getuid") and os.getuid() == 0
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    call += ["--ip=0.0.0.0"] * contained + ["--allow-root"] * root
    return call + ["--no-browser"] * (contained or root or not screen)


def lab(port: int | None = None) -> None:
    """Bring the copies up to date, say the address, and become JupyterLab."""
    if not files.NOTEBOOKS.is_dir():
        raise PrsaError(f"expected the notebooks in {files.NOTEBOOKS}, found none. Fix: call it in the repository.")
    port = _port(port)
    for line in copies(files.NOTEBOOKS, files.HOME / "work"):
        print(line)
    os.environ.setdefault("JUPYTER_TOKEN", secrets.token_hex(16))
    address = f"http://localhost:{port}/lab/tree/work/{FIRST}?token={os.environ['JUPYTER_TOKEN']}"
    print(f"JupyterLab will be at {address}\nin a few seconds. Ctrl-C, twice, ends it.", flush=True)
    os.chdir(files.HOME)
    os.execv(sys.executable, command(port))


def slides(results: Path, jobs: int | None = None) -> list[Path]:
    """Slides of `SLIDES` from their executed copies; what has none yet is executed with its defaults."""
    import nbformat

    from .report import pages
    from .reproduce import declared, run_notebook

    out, done = results / "slides", []
    os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "PRSA_LOG": "1"}  # for the kernel
    for path in [path for name in SLIDES for path in files.NOTEBOOKS.glob(f"{name}_*.ipynb")]:
        copy = results / "notebooks" / path.name
        if not copy.is_file():
            given = {"jobs": jobs} if jobs and "jobs" in declared(path) else {}
            copy = run_notebook(path, out / path.name, given)
        nb = nbformat.read(copy, as_version=4)
        done.append(pages.slides(nb, out / f"{path.stem}.html", pages.source(nb, results)))
        print(f"slides: {done[-1]}", flush=True)
    return done


def demo(scenes: list[str], jobs: int | None = None, device: str = "auto") -> None:
    """The first picture of a study of these scenes, see `prsa.figures.demo`."""
    from .figures.demo import draw
    from .study import Plan, run
    from .training.loop import pick_device

    study, results, device = Plan(scenes, 1), files.results(), str(pick_device(device))
    with files.explained(results), files.held(results, print):
        draw(study, results, partial(run, study, jobs=jobs, device=device))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, 2 for a problem the user can fix, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m prsa.lab", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("lab", "demo", "slides"), default="lab")
    parser.add_argument("--port", type=int, help=f"of JupyterLab (default: the first free one from {PORT})")
    parser.add_argument("--scenes", nargs="+", help="for demo: names of embedded scenes or .nc files; the first counts")
    parser.add_argument("--jobs", type=int, help="processes at a time (default: one per core)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    given = parser.parse_args(arguments)
    try:
        if given.what == "lab":
            lab(given.port)
        elif given.what == "slides":
            slides(files.results(), given.jobs)
        else:
            from .reproduce import listed

            demo([name for text in given.scenes or ["sim-tri"] for name in listed(text)], given.jobs, given.device)
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
