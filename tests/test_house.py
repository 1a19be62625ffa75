"""The rooms of the package stand in one order and stay small; one tool keeps its form; the wheel holds all of it."""

import ast
import graphlib
import os
import shutil
import subprocess
import sys

import pytest

from prsa.files import ROOT

ORDER = (
    "kernel",
    "errors",
    "files",
    "config",
    "metrics",
    "data",
    "network",
    "training",
    "comparators",
    "mapping",
    "study",
)
ORDER = (*ORDER, "report", "figures", "course", "reproduce", "lab", "cli", "maps", "leakage")
PACKAGE, LIMIT = ROOT / "prsa", 7800  # lines, but for what came with new capabilities
NEW = {  # files of capabilities that came later: rasters and CRS, no-data in every spelling, maps as files, commands
    "data": ("rasters", "layers", "windowed", "labels", "grid", "nodata"),
    "mapping": ("saved", "geotiff", "area", "windows", "sensors"),
    "study": ("pool", "cluster", "schedulers", "provenance", "status", "archive", "teaching", "overlap"),
    "report": ("pages", "layout", "finished"),
    "figures": ("places", "demo", "playground"),
    "course": (),
    "cli": (),
    "kernel": (),
    "lab": (),
}
LAZY = {  # file or room -> what it imports inside a function, and why
    "cli": ".data .metrics .mapping .study .figures .reproduce .files",  # prsa --help answers at once
    "data.layers": "h5py scipy",  # only for files of MATLAB
    "data.scene": "h5netcdf",  # only for files
    "data.grid": "rasterio",  # heavy; only for scenes that give their CRS as text
    "figures.training": "sklearn seaborn",  # a second to load, used by one figure each
    "report.intervals": "scipy",  # its statistics take a second to load; one quantile needs them
    "metrics": "scipy",  # its optimisers take long to load, used by the probe alone
    "study.progress": "tqdm",  # the bar of JupyterLab takes half a second to load
    "study.cluster": "threadpoolctl .training",  # heavy; in a worker
    "study.schedulers": "dask distributed dask_jobqueue yaml",  # heavy; only for a cluster
    "study.fit": ".comparators",  # scikit-learn is a second to load, for classical classifiers alone
    "study.execute": "torch .fit .mapping",  # tables and figures know the plan of a study without torch
    "lab": "nbformat .course .report .reproduce .figures .study .training",  # each of its commands needs a few
    # mistyped arguments are answered at once
    "reproduce": "papermill jupyter_client nbclient traitlets nbformat nbconvert .report .figures .training",
}


def imported(path, tree=None):
    """Dotted modules of the package that a file (or a part of its syntax tree) imports, wherever in it."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) - node.level], *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                inner = PACKAGE.joinpath(*base, alias.name)
                yield ".".join((*base, alias.name) if inner.is_dir() or inner.with_suffix(".py").is_file() else base)


def dotted(path):
    """The name of a module in the package; a room's ``__init__`` is the room."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"}


def test_every_file_stands_in_a_room_and_looks_only_down():
    assert {name.split(".")[0] for name in FILES} <= set(ORDER)
    wrong = [
        f"{name} imports {target}"
        for name, path in FILES.items()
        for target in imported(path)
        if target and ORDER.index(target.split(".")[0]) > ORDER.index(name.split(".")[0])
    ]
    assert not wrong


def test_no_circle_between_files():
    graph = {name: set(imported(path)) - {name} for name, path in FILES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def lazy(path):
    """Top names of what a file imports inside functions; a leading dot for rooms and files of the package."""
    for function in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names = [node.module] if node.module else [alias.name for alias in node.names]
                yield from ("." * bool(node.level) + name.split(".")[0] for name in names)


def test_imports_inside_functions_have_a_reason():
    for name, path in FILES.items():
        reason = LAZY.get(name, LAZY.get(name.split(".")[0], "")).split()
        assert not [n for n in lazy(path) if n not in reason], f"{name}: import at the top, or say why not in LAZY"


def test_the_package_stays_small():
    new = {f"{room}.{file}" for room, names in NEW.items() for file in names} | {
        r for r, names in NEW.items() if not names
    }
    lines = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    old = {name: n for name, n in lines.items() if name not in new and name.split(".")[0] not in new}
    assert sum(old.values()) <= LIMIT, f"{sum(old.values())} lines, {LIMIT} allowed: {old}"


@pytest.mark.parametrize("task", ["check", "format --check"])
def test_ruff_has_nothing_to_say(task):
    command = [sys.executable, "-m", "ruff", *task.split(), "--no-cache", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr}Fix: make format"


def test_import_works_in_a_folder_that_holds_a_clone_of_the_same_name(tmp_path):
    (tmp_path / "prsa").symlink_to(ROOT)
    code = "import prsa; prsa.open_scene; from prsa.network.prsanet import PRSANet"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CALLS = """
import numpy as np, prsa
from prsa import files
scene = prsa.open_scene("sim-sar")
split = prsa.split_scene(scene)
run, model = prsa.fit(scene, "prsanet", split, preset="quick", device="cpu", epochs=1, width=8, features=8)
assert prsa.predict_map(model, scene).dims == ("y", "x")
prsa.save_scene(scene, "again.nc")
assert prsa.open_scene("again.nc").sizes == scene.sizes
print(prsa.__file__, files.results(), files.data(), sep="\\n")
if __name__ == "__main__":
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(kernel_name="prsa")  # the package brings it: what Binder and JupyterHub find
    client.execute_interactive("import sys; print(sys.executable)", timeout=60)
    manager.shutdown_kernel(now=True)
"""


def test_the_wheel_works_outside_the_repository(tmp_path):
    source, venv, home = tmp_path / "source", tmp_path / "venv", tmp_path / "home"
    source.mkdir(), home.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "prsa", ignore=shutil.ignore_patterns("__pycache__"))
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    python = venv / "bin" / "python"
    for command in (
        [sys.executable, "-m", "pip", "wheel", *quiet, "--no-build-isolation", "--wheel-dir", tmp_path, source],
        [sys.executable, "-m", "venv", "--without-pip", venv],
        [sys.executable, "-m", "pip", "--python", python, "install", *quiet, tmp_path / "prsa-0.1.0-py3-none-any.whl"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(installed))  # not the editable install: such files do not nest
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PRSA", "PYTHON"))}
    done = subprocess.run(
        [python, "-c", CALLS], cwd=home, env=clean | {"HOME": str(home)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    module, results, data, kernel = done.stdout.splitlines()
    assert kernel == str(python), "the kernel of another environment"
    assert module.startswith(str(packages)) and (results, data) == (f"{home}/prsa/results", f"{home}/prsa/data")
