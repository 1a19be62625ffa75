"""The rooms of the package stand in one order and stay small; one tool keeps its form; the wheel holds all of it."""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from prsa.files import ROOT

ORDER = ("errors", "files", "config", "metrics", "data", "network", "training", "comparators", "mapping", "study")
ORDER = (*ORDER, "report", "figures", "course", "reproduce", "cli")
PACKAGE, LIMIT = ROOT / "prsa", 5500  # lines, but for what came with new capabilities
NEW = (
    "data.rasters",
    "data.labels",
    "data.windowed",
    "figures.places",
    "mapping.windows",
    "mapping.sensors",
    "mapping.saved",
    "mapping.geotiff",
    "mapping.area",
    "study.cluster",
    "course",
    "cli",
)
LAZY = {  # room -> what it imports inside a function, and why
    "data": "h5py scipy pooch requests: only for benchmarks that are not in the cache and MATLAB files; "
    ".simulate: names for a message; rasterio: heavy, for a CRS given as text",
    "metrics": "sklearn: a second to load, used by the probe alone",
    "figures": "sklearn: a second to load, used by one figure",
    "study": "torch .fit .mapping: tables and figures import the plan without torch",
    "reproduce": "nbformat papermill jupyter_client nbclient traitlets nbconvert .report .study .training .figures: "
    "usage and mistyped arguments are answered at once",
    "cli": "the room of each command: prsa --help answers at once",
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


def test_imports_inside_functions_have_a_reason():
    for name, path in FILES.items():
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
        inner = [n for f in functions for n in ast.walk(f) if isinstance(n, ast.Import | ast.ImportFrom)]
        names = [
            n.names[0].name if isinstance(n, ast.Import) else "." * bool(n.level) + (n.module or "") for n in inner
        ]
        reason = LAZY.get(name.split(".")[0], "")
        missing = [n for n in names if n.split(".")[0 if n[0] != "." else 1] not in re.findall(r"\w+", reason)]
        assert not missing or name == "cli", f"{name}: {missing}; import them at the top, or say why not in LAZY"


def test_the_package_stays_small():
    lines = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    old = {name: n for name, n in lines.items() if not name.startswith(NEW)}
    assert sum(old.values()) <= LIMIT, f"{sum(old.values())} lines, {LIMIT} allowed: {old}"


@pytest.mark.parametrize("task", ["check", "format --check"])
def test_ruff_has_nothing_to_say(task):
    command = [sys.executable, "-m", "ruff", *task.split(), "--no-cache", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr}Fix: make format"


def test_import_works_in_a_folder_that_holds_a_clone_of_the_same_name(tmp_path):
    (tmp_path / "prsa").symlink_to(ROOT)
    for code in ("import prsa; prsa.open_scene", "from prsa.network.prsanet import PRSANet"):
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
    module, results, data = done.stdout.splitlines()
    assert module.startswith(str(packages)) and (results, data) == (f"{home}/prsa/results", f"{home}/prsa/data")
