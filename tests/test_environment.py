"""One environment, two ways to it: pyproject.toml, requirements.lock, environment.yml and the Makefile agree."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from prsa.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NEEDS = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]]
DIRECT = [Requirement(text) for text in NEEDS]
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}


def test_the_lock_holds_exact_public_versions_and_nothing_of_a_machine():
    wrong = [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert not wrong, "expected name==version without build tag, URL or marker"
    text = (ROOT / "requirements.lock").read_text()
    assert len(LOCK) == len(LINES) > 20 and "://" not in text and "--index" not in text
    assert not re.search(r"^(nvidia|cuda|triton)", text, re.M)


@pytest.mark.parametrize("need", DIRECT, ids=lambda need: need.name)
def test_a_dependency_is_locked_within_its_bounds_and_each_bound_says_why(need):
    assert need.specifier and need.specifier.contains(LOCK[canonicalize_name(need.name)])
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    line = next(line for line in lines if line.strip().startswith((f'"{need.name}>', f'"{need.name}<')))
    for bound in need.specifier:
        assert re.search(rf"\b{re.escape(bound.version)}:", line.partition("#")[2]), f"no reason for {bound}"


def test_the_lock_is_the_closure_of_the_dependencies():
    todo, seen = list(DIRECT), set()
    while todo:
        need = todo.pop()
        key = canonicalize_name(need.name), frozenset(need.extras)
        if key in seen:
            continue
        seen.add(key)
        for other in map(Requirement, metadata.requires(need.name) or []):
            if other.marker is None or any(other.marker.evaluate({"extra": e}) for e in need.extras or {""}):
                todo.append(other)
    closure = {name for name, _ in seen if not re.match("nvidia|cuda|triton", name)}  # those come with torch for CUDA
    assert set(LOCK) == closure, f"only locked: {set(LOCK) - closure}; only needed: {closure - set(LOCK)}"


def test_installed_versions_are_the_locked_ones():
    there = {name: Version(metadata.version(name)).public for name in LOCK}
    wrong = {name: version for name, version in there.items() if version != Version(LOCK[name]).public}
    assert not wrong, f"expected the versions of requirements.lock, got {wrong}. Fix: make env"


def test_the_editable_install_brought_the_kernel():
    """Binder, JupyterHub and conda install by environment.yml alone; the Makefile adds nothing to that."""
    installed = Path(sys.prefix) / "share" / "jupyter" / "kernels" / "prsa" / "kernel.json"
    assert installed.read_text() == (ROOT / "prsa" / "kernel.json").read_text(), "Fix: make env"
    assert json.loads(installed.read_text())["argv"][0] == "python", "Jupyter puts its own in the place of this"


def test_the_code_imports_only_declared_packages():
    text = "\n".join(file.read_text() for file in (ROOT / "prsa").rglob("*.py"))
    names = set(re.findall(r"^\s*(?:import|from) ([a-z_0-9]+)", text, re.M)) - set(sys.stdlib_module_names) - {"prsa"}
    known = metadata.packages_distributions()
    third = {canonicalize_name(known[name][0]) for name in names if name in known}
    build = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    assert third <= {canonicalize_name(need.name) for need in DIRECT + build}, "declare it, with a reason for its bound"


def test_conda_brings_python_only_and_pip_the_same_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge", "nodefaults"] and conda["name"] == PROJECT["project"]["name"]
    python, *rest = conda["dependencies"]
    assert rest == ["pip", {"pip": ["-r requirements.lock", "-e ."]}] and python.startswith("python=")
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(python.split("=")[1])


def test_citation_and_licence_agree_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["project"]["version"], PROJECT["project"]["license"])
    (paper,) = citation["references"]
    assert paper["title"].startswith("Prototypical Rebalancing") and (paper["start"], paper["end"]) == (27582, 27596)


# -- the Makefile, with programs that only write down how they were called --

FAKE_PYTHON = """#!/bin/sh
echo "$0 $*" >> "{log}"
echo "$PYTHONPATH" > "{log}.path"
case "$*" in *ensurepip*) exit {version_ok};; esac
case "$*" in "-m venv "*) mkdir -p "$3/bin"; touch "$3/pyvenv.cfg"; cp "$0" "$3/bin/python";; esac
case "$*" in *"$FAIL_ON"*) [ -z "$FAIL_ON" ] || exit 3;; esac
"""
FAKE_CONDA = """#!/bin/sh
echo "$0 $* yes=$CONDA_ALWAYS_YES" >> "{log}"
while [ "$1" != --prefix ]; do shift; done
mkdir -p "$2/bin" "$2/conda-meta" && cp "$(dirname "$0")/fake-python" "$2/bin/python"
"""


@pytest.fixture
def project(tmp_path):
    """A function that runs make in a copy of the project's top level, below a folder with an odd name.

    Only these programs and the system's are on PATH.
    """
    folder, programs, log = tmp_path / 'a "project\'s" (2) & $copy', tmp_path / "programs", tmp_path / "log"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    theirs = ("MAKE", "CONDA", "SCENES", "SEEDS", "JOBS", "METHODS", "DEVICE", "PORT", "CLUSTER", "FILE")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(theirs)}
    clean |= {"PATH": f"{programs}:/usr/bin:/bin", "FAIL_ON": ""}

    def run(*arguments, have=(), version_ok=0, **environment):
        log.write_text("")
        shutil.rmtree(programs, ignore_errors=True)
        programs.mkdir()
        for name in ("python3.11", "python3.12", "python3.13", "python3", "fake-python", *have):
            text = FAKE_CONDA if name in ("conda", "mamba") else FAKE_PYTHON
            (programs / name).write_text(text.format(log=log, version_ok=version_ok))
            (programs / name).chmod(0o755)
        how = {"cwd": folder, "env": clean | environment, "stdin": subprocess.DEVNULL}
        done = subprocess.run(["make", *arguments], text=True, capture_output=True, **how)
        calls = log.read_text().replace(f"{programs}/", "").splitlines()
        done.calls = [line for line in calls if "ensurepip" not in line]
        return done

    run.folder, run.path = folder, log.with_suffix(".path")
    return run


PIP = ".env/bin/python -m pip install -qq --disable-pip-version-check"
AFTER = [f"{PIP} -r requirements.lock", f"{PIP} --no-deps --no-build-isolation -e ."]
QUICK = ".env/bin/python -m prsa.reproduce --device auto --preset quick"


@pytest.mark.parametrize("have, used", [(["conda"], "conda"), (["conda", "mamba"], "mamba")])
def test_make_env_with_conda_fills_a_prefix_in_the_project_and_uses_its_python(project, have, used):
    done = project("env", have=have)
    assert done.returncode == 0, done.stderr
    assert done.calls == [f"{used} env create --quiet --prefix .env --file environment.yml yes=true", *AFTER]
    assert project("env", have=have).calls == []  # complete: nothing to do
    assert project("quick", have=have).calls == [QUICK]


def test_make_env_without_conda_uses_venv_and_the_lock(project):
    done = project("env", "CONDA=", have=["conda"])
    assert done.returncode == 0, done.stderr
    assert done.calls == ["python3.11 -m venv .env", *AFTER]
    assert len(done.stdout.splitlines()) == 2


def test_an_interrupted_installation_is_not_taken_for_finished(project):
    done = project("env", FAIL_ON="requirements.lock")
    assert done.returncode != 0 and done.calls[-1].endswith("-r requirements.lock")
    assert project("quick", FAIL_ON="--no-deps").returncode != 0
    done = project("quick")
    assert done.returncode == 0 and done.calls == ["python3.11 -m venv .env", *AFTER, QUICK]


def test_a_changed_lock_is_installed_in_place_and_a_moved_folder_again(project):
    assert project("env").returncode == 0
    os.utime(project.folder / ".env" / ".complete", (1, 1))
    assert project("env").calls == AFTER  # what runs in the environment keeps it
    (project.folder / ".env" / ".complete").write_text("/elsewhere\n")
    assert project("env").calls == ["python3.11 -m venv .env", *AFTER]


def test_a_folder_that_is_no_environment_is_never_removed(project):
    secret = project.folder / ".env" / "secret"
    secret.parent.mkdir()
    secret.touch()
    done = project("env")
    assert done.returncode == 2 and "is no Python environment" in done.stderr and secret.exists()


def test_no_usable_python_is_one_clear_message(project):
    done = project("env", version_ok=1)
    assert done.returncode == 2 and done.calls == ["python3 -V"]
    assert "expected mamba, conda or Python 3.11 or newer" in done.stderr


def test_make_help_is_the_default_and_lists_every_target(project):
    done = project()
    assert done.returncode == 0 and done.stdout == project("help").stdout and done.calls == []
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", ""), re.M)[1].split()
    for name in set(targets) - {"help"}:
        assert re.search(rf"^make {name} +\w", done.stdout, re.M), name
    for name in ("SCENES", "SEEDS", "JOBS", "DEVICE", "METHODS"):
        assert re.search(rf"^  {name} ", done.stdout, re.M), name


def test_make_passes_every_variable_on_and_refuses_mistyped_ones(project):
    project("env")
    scenes = "sim-sar 'my scenes/scene (2).nc' it`s.nc"
    done = project("reproduce", f"SCENES={scenes}", "SEEDS=3", "JOBS=2", "DEVICE=cpu", "METHODS=concat prsanet")
    assert done.calls == [
        f".env/bin/python -m prsa.reproduce --device cpu --scenes {scenes} --seeds 3 --jobs 2 "
        "--methods concat prsanet --preset full"
    ]
    done = project("reproduce", "CLUSTER=my cluster's.yaml")
    assert done.calls == [".env/bin/python -m prsa.reproduce --device auto --cluster my cluster's.yaml --preset full"]
    assert project("unpack", "FILE=a b.zip").calls == [".env/bin/python -m prsa.reproduce --unpack a b.zip"]
    assert project("pack").calls[0].endswith("--preset full --pack results/runs.zip")
    assert project("verify", "N=3").calls[0].endswith("--preset full --verify 3")
    done = project("reproduce", "SCENE=sim-sar")
    assert done.returncode == 2 and "unknown variable SCENE." in done.stderr and done.calls == []


def test_the_commands_of_newcomers_and_lecturers(project):
    project("env")
    assert project("lab", "PORT=9999").calls == [".env/bin/python -m prsa.lab --port 9999"]
    assert project("demo", "SCENES=a b.nc").calls == [".env/bin/python -m prsa.lab demo --device auto --scenes a b.nc"]
    assert project("slides").calls == [".env/bin/python -m prsa.lab slides"]


def test_maintainers_modules_are_found(project):
    project("env")
    for target in ("bench", "tune", "reference", "campaign", "machines"):
        (call,) = project(target).calls
        module = call.split("record.")[1].split()[0]
        assert (ROOT / "tests" / "record" / f"{module}.py").is_file()
        assert f"-m record.{module}" in call and project.path.read_text() == f"{project.folder}/tests\n"


def test_make_fails_when_the_command_fails(project):
    project("env")
    for target in ("quick", "reproduce", "test", "data", "lint", "bench"):
        done = project(target, FAIL_ON="-m")
        assert done.returncode != 0 and len(done.calls) == 1, target


def test_make_test_runs_tests_and_notebooks_in_processes_with_a_file_each_and_the_named_kernel(project):
    project("env")
    (call,) = project("test").calls
    assert call.startswith(".env/bin/python -m pytest -q -n 2 --dist loadfile ") and call.endswith(" tests notebooks")
    assert "--nbval-lax --nbval-kernel-name prsa" in call
    assert "--ignore=notebooks/course" in call, "tests/test_course.py executes the exercises"
    assert " -n 5 " in project("test", "JOBS=5").calls[0]


def test_make_course_writes_the_copies(project):
    project("env")
    assert project("course").calls == [".env/bin/python -m prsa.course"]


def test_data_readme_gives_source_and_hash_of_every_benchmark_file():
    from prsa.data.benchmarks import BENCHMARKS

    text = (ROOT / "data" / "README.md").read_text()
    for name, bench in BENCHMARKS.items():
        section = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
        for wanted in (bench.url, bench.sha256, *(member.sha256 for member in bench.members.values())):
            assert wanted in section, f"data/README.md, {name}: {wanted} is missing"
