"""The study room: plans, run files, evaluation by hand, degraded sensors; real processes, and real kills of them."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import as_completed
from pathlib import Path
from stat import S_IFLNK

import nbformat
import numpy as np
import pytest
import torch
import xarray as xr
from nbclient import NotebookClient
from synthetic import make_scene as wide_scene
from tiny import CLASSES, SMALL, every_patch, make_scene, make_trainer

from prsa import PrsaError, config, figures, files, fit, metrics, predict_map, report, save_scene, split_scene, study
from prsa.config import METHODS, make_config, to_json
from prsa.data import simulate
from prsa.data.patches import PatchSource, normalise
from prsa.data.scene import scene_hash
from prsa.data.splits import TEST, TRAIN, VAL
from prsa.network.encoders import Encoder
from prsa.study import (
    Plan,
    RunSpec,
    archive,
    degrade,
    evaluate,
    execute,
    overlap,
    plan,
    pool,
    progress,
    provenance,
    run,
    runs,
)
from prsa.study.plan import ABLATIONS, COMPARATORS, DIAL, DIAL_METHODS, SENSITIVITY, STUDY, dial_grid, grid

NAMES = ("hsi", "sar", "dsm")
OVERRIDES = {"epochs": 2, "features": 5, "patch": 5, "width": 6}


def small_specs(scene, methods=("late", "prsanet"), seeds=2, **overrides):
    changed = tuple(sorted((OVERRIDES | overrides).items()))
    return [RunSpec(str(scene), method, seed, "quick", changed) for seed in range(seeds) for method in methods]


def assert_same_runs(a, b):
    """All variables, coordinates and attributes of two lists of run files, except what a clock measured."""
    for one, other in zip(map(runs.load_run, a), map(runs.load_run, b), strict=True):
        clock = dict.fromkeys(("seconds", "samples_per_s", "content"))
        xr.testing.assert_identical(one.assign_attrs(clock), other.assign_attrs(clock))


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    return save_scene(make_scene(NAMES), tmp_path_factory.mktemp("scene") / "tiny.nc")


@pytest.fixture(scope="module")
def finished(scene_file, tmp_path_factory):
    """A small grid trained by two processes: results folder, specs, paths."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRSA_RESULTS", str(folder))
        specs = small_specs(scene_file, ("late", "prsanet", "s2enet"))
        return folder, specs, run(Plan([str(scene_file)], 1, [], "quick"), specs, 2, "cpu")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def small(scene_file, results):
    """A plan of the tiny scene in an empty results folder."""
    return Plan([str(scene_file)], 1, [], "quick")


# What a study is made of


def test_a_study_goes_seed_by_seed():
    specs = grid(["sim-sar", "sim-lidar"], ["sagf", "concat", "late"], 2, "quick")
    places = [(s, scene, m) for s in (0, 1) for scene in ("sim-sar", "sim-lidar") for m in ("sagf", "concat", "late")]
    assert [(s.seed, s.scene, s.method) for s in specs] == places
    assert all(s.preset == "quick" and s.overrides == () for s in specs)


def test_the_whole_study_with_ablations_and_sensitivity():
    specs = grid(["sim-sar:1", "sim-sar", "sim-lidar"], None, 6)
    main, firsts = [s for s in specs if not s.overrides], {"sim-sar:1", "sim-lidar"}
    for scene in ("sim-sar:1", "sim-sar", "sim-lidar"):
        here = {(s.method, s.seed) for s in main if s.scene == scene}
        ablations = {(m, seed) for m in ABLATIONS for seed in range(5)} if scene in firsts else set()
        assert here == {(m, seed) for m in STUDY for seed in range(6)} | ablations, (
            "ablations: first of a kind, 5 seeds"
        )
    assert {"sum", "gated", "cross-attention", "prsanet-no-push"} <= set(ABLATIONS)
    changed = [s for s in specs if s.overrides]
    assert {(s.scene, s.method) for s in changed} == {("sim-sar:1", "prsanet")} and {s.seed for s in changed} == {0, 1}
    assert {s.overrides for s in changed} == {((k, v),) for k, values in SENSITIVITY.items() for v in values}
    assert len(specs) == len(set(specs)) and [s.seed for s in main] == sorted(s.seed for s in main)
    assert {s.method for s in grid(["sim-sar"], None, 1, "quick")} == set(STUDY)


def test_all_is_the_study_and_everything_it_is_compared_with():
    everything = {s.method for s in grid(["sim-sar"], ["all"], 1)}
    assert everything == {*STUDY, *COMPARATORS} == set(METHODS) - set(ABLATIONS) > {"rf", "svm", "mft", "ogm-ge"}
    assert {s.method for s in grid(["sim-sar"], ["prsanet"], 1)} == {"late", "concat", "prsanet"}, "tables need these"
    assert len(grid(["sim-sar", "sim-sar"], [], 1)) == 2, "a scene named twice is one scene"


def test_the_dial_holds_every_setting_of_the_simulated_kinds():
    specs = dial_grid(["sim-lidar", "mine.nc", "sim-sar:3", "sim-tri", "sim-lidar"], 6)
    names = [simulate.scene_name(kind, 0, d) for kind in ("sim-lidar", "sim-tri") for d in DIAL]
    assert specs == [RunSpec(n, m, seed) for n in names for seed in (0, 1) for m in DIAL_METHODS] and len(DIAL) == 6
    assert [len({s.seed for s in dial_grid(["sim-sar"], n)}) for n in (1, 5, 6, 9, 30)] == [1, 1, 2, 3, 3]
    quick = dial_grid(["sim-sar"], 5, "quick")
    assert quick == [RunSpec(f"sim-sar:0:{d}", m, 0, "quick") for d in (0, 1) for m in DIAL_METHODS]


BAD = [
    (dict(seeds=0), "SEEDS: expected 1 or more, got 0"),
    (dict(scenes=[]), "at least one scene, got none.*sim-sar"),
    (dict(methods=["prsanet", "nope"]), "unknown method 'nope'.*concat"),
    (dict(methods=["all", "concat"]), "unknown method 'all'"),
    (dict(preset="huge"), "unknown preset 'huge'"),
    (dict(scenes=["nowhere.nc"]), "no scene file at"),
    (dict(scenes=["nowhere"]), "unknown scene 'nowhere'"),
    (dict(scenes=["a/tiny.nc", "b/tiny.nc"]), "SCENES: expected different names, got 'tiny' twice.*b"),
]


@pytest.mark.parametrize("changed, message", BAD, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_a_bad_plan_leaves_nothing_behind(tmp_path, results, monkeypatch, changed, message):
    monkeypatch.chdir(tmp_path)
    for folder in "ab":
        save_scene(make_scene(), tmp_path / folder / "tiny.nc")
    with pytest.raises(PrsaError, match=message):
        Plan(**({"scenes": ["sim-sar"], "seeds": 1, "preset": "quick"} | changed))
    assert not results.exists()


def test_bad_calls_leave_nothing_behind(small, results):
    for call, message in (
        (lambda: run(small, jobs=0), "JOBS: expected 1 or more, got 0"),
        (lambda: run(small, [RunSpec("sim-sar", "nope", 0)]), "unknown method 'nope'"),
        (lambda: run(small, [RunSpec("nowhere.nc", "concat", 0)]), "no scene file at"),
    ):
        with pytest.raises(PrsaError, match=message):
            call()
    assert not results.exists()


def test_a_plan_opens_each_scene_once_and_keeps_the_data_of_its_own(scene_file, results, monkeypatch):
    opened, hashed, drawn = [], [], []
    for name, seen in (("open_scene", opened), ("scene_hash", hashed), ("split_scene", drawn)):
        real = getattr(plan, name)
        monkeypatch.setattr(plan, name, lambda *a, real=real, seen=seen: (seen.append(a), real(*a))[1])
    monkeypatch.chdir(scene_file.parent)
    made = Plan(["tiny.nc", "sim-sar", "./tiny.nc"], 2, None, "quick")
    assert made.sources == [str(scene_file), "sim-sar"], "a path is absolute: notebooks have another working directory"
    for _ in range(2):
        assert len({made.path(s) for s in made.specs + made.dial}) == len(made.specs + made.dial) == 32
        assert len(made.missing()) == 24 and len(made.missing(made.dial)) == 8
    assert [len(opened), len(hashed), len(drawn)] == [4, 4, 4]
    assert list(made.scenes) == list(made.splits) == ["tiny", "sim-sar"]
    assert [s.scene is None for s in made._sources.values()] == [False, False, True, True], "dial scenes are many"
    assert made.splits["sim-sar"].attrs["kind"] == "fixed" and not results.exists()
    with pytest.raises(PrsaError, match="expected 24 finished runs, 24 are missing, first tiny__late__s0.*reproduce"):
        made.open()


def test_a_path_is_a_name_for_one_run(small, scene_file, results):
    base = small_specs(scene_file)[0]
    changes = {"seed": 1}, {"method": "sagf"}, {"overrides": ()}, {"preset": "full"}, {"overrides": (("lr", 0.01),)}
    where = [small.path(spec) for spec in [base, *(dataclasses.replace(base, **change) for change in changes)]]
    assert len(set(where)) == 6 and where[0].parent == results / "quick" / "runs" and where[0].suffix == ".nc"
    assert where[4].parent == results / "runs" and where[0].name.startswith("tiny__late__s0__")
    default = RunSpec(f"sim-sar:0:{simulate.CONFIGS['sim-sar'].dial:g}", "concat", 0)
    assert small.path(default) == small.path(RunSpec("sim-sar", "concat", 0)), "a dial's own setting is the study's run"
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.seed = 3


@pytest.mark.parametrize("name", ["../up", "a b:c", "<b>x</b>", "x" * 200, "地"])
def test_the_name_of_a_scene_cannot_lead_elsewhere(tmp_path, results, name):
    file = save_scene(make_scene(name=name), tmp_path / f"{name.replace('/', '')}.nc")
    path = plan.Source(str(file)).path(small_specs(file)[0])
    assert path.parent == results / "quick" / "runs" and len(path.name) < 250 and not set("/<>: ") & set(path.name)


def test_a_changed_file_is_another_scene_in_the_same_session(tmp_path, results):
    path, other = tmp_path / "a.nc", tmp_path / "other" / "a.nc"
    save_scene(make_scene(seed=0), path), save_scene(make_scene(seed=0), other)
    first, copy = Plan([str(path)], 1, [], "quick"), Plan([str(other)], 1, [], "quick")
    assert [p.name for p in map(first.path, first.specs)] == [p.name for p in map(copy.path, copy.specs)], "content"
    (before, _), _ = study.scene_and_split(str(path), "quick"), save_scene(make_scene(seed=1), path)
    after, _ = study.scene_and_split(str(path), "quick")
    new = Plan([str(path)], 1, [], "quick")
    assert not np.array_equal(before["hsi"], after["hsi"]) and new.path(new.specs[0]) != first.path(first.specs[0])
    np.testing.assert_array_equal(new.scenes["a"]["hsi"], after["hsi"])
    with pytest.raises(PrsaError, match="no longer what was planned.*new Plan"):
        execute.train(first.specs[0], first.path(first.specs[0]), "cpu")
    assert not results.exists()


# Execution


def test_one_process_gives_what_two_give(finished, small):
    _, specs, where = finished
    alone = run(small, specs, 1, "cpu")
    assert [p.name for p in alone] == [p.name for p in where] and not set(alone) & set(where)
    assert_same_runs(alone, where)
    assert sorted(alone[0].parent.iterdir()) == sorted(alone), "no stray file"


def test_runs_carry_their_names_and_are_opened_in_order_once(finished, small, monkeypatch):
    folder, specs, where = finished
    monkeypatch.setenv("PRSA_RESULTS", str(folder))
    loaded, real = [], runs.load_run
    monkeypatch.setattr(runs, "load_run", lambda path: (loaded.append(path), real(path))[1])
    for spec, path, found in zip(specs, where, small.open(specs), strict=True):
        attrs = found.attrs
        assert (attrs["method"], attrs["seed"], attrs["preset"], attrs["scene"]) == (*spec_of(spec), "quick", "tiny")
        assert json.loads(attrs["overrides"]) == dict(spec.overrides) and path.stem.endswith(attrs["run_id"])
    assert [r.attrs["run_id"] for r in small.open(specs[::-1])] == [p.stem[-16:] for p in where[::-1]]
    assert loaded == where, "each file once"
    os.utime(where[0])
    assert small.open(specs[:1]) and loaded == [*where, where[0]], "a file that changed is opened again"


def spec_of(spec):
    return spec.method, spec.seed


def test_finished_runs_are_never_trained_again(finished, small, monkeypatch):
    folder, specs, where = finished
    monkeypatch.setenv("PRSA_RESULTS", str(folder))
    before = {path: path.stat().st_mtime_ns for path in where}
    monkeypatch.setattr(pool, "ProcessPoolExecutor", lambda *a, **k: pytest.fail("nothing is missing"))
    assert run(small, specs, 2) == where and run(small, specs[::-1] + specs[:1]) == where[::-1] + where[:1]
    assert all(execute.train(spec, path, "cpu") == path for spec, path in zip(specs, where)), "nor by a late worker"
    assert before == {path: path.stat().st_mtime_ns for path in where}


def copied(where, results):
    """The finished files in another results folder."""
    target = results / "quick" / "runs"
    target.mkdir(parents=True)
    return [Path(target / path.name) for path in where if (target / path.name).write_bytes(path.read_bytes())]


def test_only_damaged_and_missing_runs_are_redone(finished, small, results):
    _, specs, where = finished
    here = copied(where, results)
    here[0].write_bytes(here[1].read_bytes()[:-1000])
    here[2].unlink()
    stale, fresh = here[0].parent / ".abc.tmp", here[0].parent / ".def.tmp"
    for file in (stale, fresh):
        file.write_bytes(b"half a run")
    os.utime(stale, (time.time() - 3600,) * 2)
    before = {path: path.stat().st_mtime_ns for path in here if path.exists()}
    assert small.missing(specs) == [specs[0], specs[2]]
    assert run(small, specs, 1, "cpu") == here and small.missing(specs) == []
    assert {p for p in before if p.stat().st_mtime_ns == before[p]} == set(here) - {here[0], here[2]}
    assert_same_runs(here, where)
    assert not stale.exists() and fresh.exists(), "another process may be writing the one that is fresh"


def test_a_run_that_fails_does_not_take_the_others_along(finished, small, scene_file):
    _, specs, where = finished
    bad = small_specs(scene_file, ("concat",), 1, lr=1e30)
    with pytest.raises(PrsaError, match="diverged"):
        run(small, specs[:1] + bad + specs[1:2], 1, "cpu")
    assert not small.path(bad[0]).exists() and small.missing(specs[:1]) == []
    assert_same_runs([small.path(specs[0])], where[:1])


def children():
    """Process numbers of the worker processes of this one."""
    return {int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if _parent(p) == os.getpid()}


def _parent(stat):
    try:
        fields = stat.read_text().rsplit(")", 1)[1].split()
        command = stat.with_name("cmdline").read_bytes()
    except OSError:
        return None
    return int(fields[1]) if b"spawn_main" in command and fields[0] not in "ZX" else None


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")


@needs_proc
def test_a_killed_worker_is_a_clear_error(finished, small):
    _, specs, where = finished

    def kill_one():
        while not (workers := children()):
            time.sleep(0.01)
        os.kill(workers.pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(PrsaError, match="a training process was killed.*run again"):
        run(small, specs, 1, "cpu")
    killer.join()
    assert_same_runs(run(small, specs[:1], 1, "cpu"), where[:1])


def test_a_round_is_announced_once_when_its_runs_are_there(small, finished, scene_file, monkeypatch):
    from concurrent.futures import Future

    class Here:
        def __init__(self, jobs, function, calls):
            self.futures = {Future(): call for call in calls}

        def __enter__(self):
            for future in self.futures:
                future.set_result(None)
            return self.futures

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(pool, "workers", Here)
    plain = [RunSpec(str(scene_file), m, seed, "quick") for seed in range(3) for m in ("late", "concat", "prsanet")]
    announced = []
    run(small, plain + small_specs(scene_file, seeds=4), 1, "cpu", announced.append)
    assert sorted(announced) == [0, 1, 2], "seed 3 has only runs with overrides"


def test_a_run_uses_one_thread_whatever_the_environment_says(finished, small, monkeypatch):
    _, specs, where = finished
    torch.set_num_threads(2)
    path = execute.train(specs[1], small.path(specs[1]), "cpu")
    assert torch.get_num_threads() == 1
    assert_same_runs([path], where[1:2])


def test_progress_is_lines_in_a_log_and_a_bar_on_a_terminal(capsys, monkeypatch, two):
    with progress.bar(3, 1) as line:
        line.update(2)
    out, err = capsys.readouterr()
    assert "3/3" in err and "\r" not in err and err.endswith("\n") and not out
    fit(two, "concat", preset="quick", device="cpu", **SMALL)
    assert capsys.readouterr() == ("", ""), "nobody watches"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(two, "concat", preset="quick", device="cpu", **SMALL)
    err = capsys.readouterr().err
    assert "\r" in err and "0/2" in err and "2/2" in err and "epoch" in err
    fit(two, "concat", preset="quick", device="cpu", progress=False, **SMALL)
    assert capsys.readouterr().err == ""


PROGRESS = """
from prsa.study.progress import bar
for show in (True, None):
    with bar(3, 1, "epoch", show) as line:
        line.update(2)
"""


@pytest.mark.parametrize("log", [False, True], ids=["in JupyterLab", "in the driver"])
def test_progress_in_a_notebook_is_a_widget_or_lines_and_never_a_red_box(log, monkeypatch):
    monkeypatch.delenv("PRSA_LOG", raising=False)
    if log:
        monkeypatch.setenv("PRSA_LOG", "1")
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRESS)])
    outputs = NotebookClient(nb, kernel_name="prsa", timeout=60).execute().cells[0].outputs
    assert not [output for output in outputs if output.get("name") == "stderr"]
    widgets = [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    lines = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert (len(widgets), lines.count("3/3")) == ((0, 1) if log else (2, 0))


def test_a_disk_that_takes_no_more_is_one_clear_error(small, finished, scene_file, results):
    """In a process whose files may not grow beyond 20 kB: the same error code path as a full disk."""
    done = script(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: run(plan, specs, 2, 'cpu')\n"
        "except PrsaError as error: print(error)",
        finished[1][:2],
    )
    out, err = done.communicate()
    assert "cannot write" in out and "files may not grow" in out and "Fix" in out and len(out) < 900
    assert "Traceback" not in err and list((results / "quick" / "runs").iterdir()) == []


SCRIPT = """
import json, signal, sys
from prsa import PrsaError
from prsa.study import Plan, RunSpec, run
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    specs = [RunSpec(*s[:4], tuple(map(tuple, s[4]))) for s in json.loads(sys.argv[1])]
    plan = Plan([specs[0].scene], 1, [], "quick")
"""


def script(body, specs):
    """A process of its own group that does something with a plan and specs."""
    code = SCRIPT + "".join(f"    {line}\n" for line in body.splitlines())
    command = [sys.executable, "-c", code, json.dumps([dataclasses.astuple(s) for s in specs])]
    environment = os.environ | {"PYTHONPATH": str(files.ROOT)}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipe)


def alive(group):
    """Process numbers of a group, the dead not yet collected left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None or condition(), f"ended by itself: {process.communicate()}"
        assert time.monotonic() < end, "the study does not get on"
        time.sleep(0.02)


RUN = "run(plan, specs, 2, 'cpu')"


@needs_proc
def test_kill_9_of_everything_three_times_then_again(finished, small, results):
    _, specs, where = finished
    folder, kept, rng = results / "quick" / "runs", {}, np.random.default_rng()
    for more in (0, 1, 2):  # runs finished since the last kill
        process = script(RUN, specs)
        wanted = min(len(kept) + more, len(specs) - 1)
        try:
            if more:
                wait_for(lambda n=wanted: len([*folder.glob("*.nc")]) >= n, process)
            else:
                wait_for(lambda pid=process.pid: len(alive(pid)) > 2, process)
            time.sleep(rng.uniform(0, 0.05 if more else 0.5))  # written in place, it would be half a file now
        finally:
            kill_group(process)
        now = {path: path.stat().st_mtime_ns for path in folder.glob("*.nc")}
        assert len(now) >= wanted and kept.items() <= now.items(), "finished runs are not trained again"
        assert all(map(runs.is_finished, now)), "a file with a run's name is a whole run"
        kept = now
    again = run(small, specs, 1, "cpu")
    assert set(kept) <= set(again) and {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_runs(again, where)


@needs_proc
def test_two_calls_at_once_do_no_harm(finished, small):
    _, specs, where = finished
    processes = [script(RUN, specs[:4]) for _ in range(2)]
    assert [(p.communicate()[0], p.returncode) for p in processes] == [("", 0)] * 2
    here = [small.path(spec) for spec in specs[:4]]
    assert_same_runs(here, where[:4])
    assert sorted(here[0].parent.iterdir()) == sorted(here)


@needs_proc
@pytest.mark.parametrize("moment, sent", [("start", "KILL"), ("work", "KILL"), ("start", "INT"), ("work", "INT")])
def test_no_worker_outlives_its_parent(finished, small, results, moment, sent):
    _, specs, _ = finished
    endless = (("epochs", 9000), ("max_steps", 0), *sorted(OVERRIDES.items())[1:])
    endless = [dataclasses.replace(spec, overrides=endless) for spec in specs[:2]]
    process = script(RUN, endless if moment == "start" else specs[:2] + endless)
    try:
        wait_for(lambda: len(alive(process.pid)) > 2, process)
        if moment == "start":  # the workers exist, but have not yet loaded torch
            time.sleep(0.3)
        else:
            wait_for(lambda: len(list(results.rglob("*.nc"))) == 2, process)
            time.sleep(0.5)
        send, number = (os.kill if sent == "KILL" else os.killpg), getattr(signal, f"SIG{sent}")
        send(process.pid, number)  # a terminal sends Ctrl-C to the whole group
        err = process.communicate(timeout=120)[1]
        assert err.count("Traceback") == (sent == "INT") and "SpawnProcess" not in err, "the workers say nothing"
        end = time.monotonic() + 20
        while alive(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert not alive(process.pid), f"orphans: {alive(process.pid)}"
    finally:
        kill_group(process)
    assert not any(small.path(s).exists() for s in endless) and not list(results.rglob(".*.tmp"))


def test_an_error_lets_what_has_begun_come_to_its_end(tmp_path):
    calls = [("raise",), (str(tmp_path / "slow"),), (str(tmp_path / "waiting"),)]
    with pytest.raises(ZeroDivisionError), pool.workers(2, work, calls) as futures:
        for future in as_completed(futures):
            future.result()
    assert [path.name for path in tmp_path.iterdir()] in (["slow"], ["slow", "waiting"])


def work(what):
    time.sleep(1 if what != "raise" else 0)
    return 1 / 0 if what == "raise" else Path(what).write_text("done")


# The run file


@pytest.fixture(scope="module", params=["prsanet", "late"])
def studied(request):
    """Scene, split, run, model, and the model's answer to every single patch."""
    scene = make_scene(NAMES)
    split = split_scene(scene, "random")
    made, model = fit(scene, request.param, split, 2, "quick", "cpu", **SMALL)
    with torch.no_grad():
        return scene, split, made.assign_attrs(run_id="0123456789abcdef"), model, model(every_patch(model, scene))


def test_a_run_file_comes_back_as_it_was(tmp_path, studied):
    """To the last digit, but for two variables that are packed; once packed, they stay as they are."""
    made, path = studied[2], tmp_path / "deep" / "a.nc"
    back = runs.load_run(runs.save_run(made, path))
    assert len(back.attrs.pop("content")) == 64 and runs.is_finished(path)
    packed = ["confidence", "features"]
    xr.testing.assert_identical(back.drop_vars(packed), made.drop_vars(packed))
    np.testing.assert_allclose(back["confidence"], made["confidence"], atol=0.51 / 254, rtol=0)
    np.testing.assert_allclose(back["features"], made["features"], atol=2e-5 * np.abs(made["features"]).max(), rtol=0)
    again = runs.load_run(runs.save_run(back, tmp_path / "deep" / "b.nc"))
    xr.testing.assert_identical(again.drop_attrs(deep=False), back.drop_attrs(deep=False))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.nc", "b.nc"]


def test_packing_keeps_what_is_at_the_edge(tmp_path, studied):
    """No prediction, probabilities 0 and 1, more classes than a signed byte counts, features that are all 0."""
    made = studied[2].copy(deep=True)
    made["confidence"].values.flat[:3], made["map"].values.flat[:2] = [np.nan, 0, 1], [0, 255]
    made["features"].values[:] = 0
    back = runs.load_run(runs.save_run(made, tmp_path / "a.nc"))
    np.testing.assert_array_equal(back["confidence"].values.flat[:3], [np.nan, 0, 1])
    xr.testing.assert_identical(back[["map", "features"]].drop_attrs(), made[["map", "features"]].drop_attrs())


def test_a_run_of_the_study_takes_at_most_200_kb(tmp_path, studied):
    """As large as on an embedded scene: three sensors, 160 x 160 pixels, 12 classes, features of 64 numbers."""
    sizes = {"y": 160, "x": 160, "sample": evaluate.KEPT_FEATURES, "feature": 64, "class": 12, "predicted": 12}
    sizes |= {"epoch": 20, "condition": 13}
    made = studied[2].pad({d: (0, n - studied[2].sizes[d]) for d, n in sizes.items()}, mode="wrap")
    for name, (dtype, _) in runs.VARIABLES.items():
        made[name] = made[name].astype(dtype)
    assert runs.save_run(made, tmp_path / "a.nc").stat().st_size < 200_000


def test_a_trained_run_follows_the_schema_and_describes_itself(studied):
    scene, split, made, model, _ = studied
    assert set(runs.check_run(made).data_vars) == set(runs.VARIABLES) and set(made.coords) == set(runs.COORDS)
    for name, (dtype, dims) in runs.VARIABLES.items():
        assert made[name].dtype == dtype and made[name].dims == tuple(dims.split()), name
    attrs = made.attrs
    assert set(runs.ATTRS) <= set(attrs) and json.loads(attrs["overrides"]) == SMALL
    assert not any(isinstance(v, bool | dict | list | None) for v in attrs.values()), "netCDF refuses these"
    assert list(made["head"].values) == ["fused", *NAMES] and list(made["class"].values) == CLASSES
    for name, code in (("n_train", TRAIN), ("n_val", VAL), ("n_test", TEST)):
        assert attrs[name] == int((split.values == code).sum())
    assert attrs["scene_hash"] == scene_hash(scene) and attrs["split_hash"] == split.attrs["hash"]
    assert (attrs["split_kind"], attrs["scene"], attrs["simulated"]) == ("random", "tiny", 1)
    assert attrs["params"] == sum(p.numel() for p in model.parameters()) and attrs["macs_pixel"] < attrs["macs_patch"]
    assert {"torch", "numpy"} <= set(json.loads(attrs["versions"])) and attrs["seconds"] > 0 < attrs["samples_per_s"]


def test_anything_missing_or_transposed_is_named(tmp_path, studied):
    made = studied[2]
    for name in (*runs.DIMS, *runs.COORDS, *runs.ATTRS):
        broken = made.drop_vars(name) if name in made.variables else made.copy()
        broken.attrs = {k: v for k, v in made.attrs.items() if k != name}
        with pytest.raises(PrsaError, match=f"a.nc: expected the .*got none named {name}. Delete the file"):
            runs.save_run(broken, tmp_path / "a.nc")
    for name, dims in runs.DIMS.items():
        if len(dims) > 1:
            with pytest.raises(PrsaError, match=f"expected {name} with dims"):
                runs.save_run(made.assign({name: made[name].transpose(*dims[::-1])}), tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_no_damage_goes_unseen(tmp_path, studied):
    """Missing, cut off anywhere, any byte flipped, edited with xarray: none passes for the run."""
    path = runs.save_run(studied[2], tmp_path / "a.nc")
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    places = {*range(0, len(whole), len(whole) // 40), len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}
    broken = [whole[: int(share * len(whole))] for share in (0, 0.01, 0.3, 0.7, 0.95, 0.999)]
    broken += [whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :] for place in places]
    edits = (
        lambda r: r["confusion"].values.__setitem__((0, 2, 0, 0), 10**6),
        lambda r: r["prototypes"].values.__imul__(1.0001),
        lambda r: r.attrs.update(seed=7),
        lambda r: r.update({"modality": ["a", "b", "c"]}),
        lambda r: r.attrs.update(content="0" * 64),
        lambda r: r.attrs.pop("content"),
    )
    for edit in edits:
        edit(edited := runs.load_run(path).copy(deep=True))
        broken.append(bytes(edited.to_netcdf(**runs.FORMAT)))
    for data in broken:
        (tmp_path / "b.nc").write_bytes(data)
        with pytest.raises(PrsaError, match="b.nc is damaged.*trained anew"):
            runs.load_run(tmp_path / "b.nc")
        assert not runs.is_finished(tmp_path / "b.nc")
    for nothing in (tmp_path / "c.nc", tmp_path):
        with pytest.raises(PrsaError, match="expected a run file at .*, found none"):
            runs.load_run(nothing)


def test_a_failing_write_leaves_the_old_run(tmp_path, studied, monkeypatch):
    path = runs.save_run(studied[2], tmp_path / "a.nc")
    before = path.read_bytes()
    for number, error in ((28, PrsaError), (None, OSError)):
        monkeypatch.setattr(os, "replace", lambda *_, n=number: (_ for _ in ()).throw(OSError(n, "no")))
        with pytest.raises(error):
            runs.save_run(studied[2].assign_attrs(seed=9), path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_identity_moves_with_everything_that_makes_a_run(monkeypatch):
    settings = to_json(make_config("prsanet"))
    base = settings, "prsanet", 0, "scene", "split"
    others = [(to_json(make_config("prsanet", lambda_p=0.5)), *base[1:]), (settings, "sagf", *base[2:])]
    others += [
        (*base[:2], 1, *base[3:]),
        (*base[:3], "scenf", "split"),
        (*base[:4], "spliu"),
        (*base[:3], "split", "scene"),
    ]
    identities = {runs.run_id(*other) for other in [base, *others]}
    shuffled = json.dumps(dict(reversed(json.loads(settings).items())))
    assert runs.run_id(*base) == runs.run_id(shuffled, *base[1:]), "the order of the settings is no part of a run"
    for name, value in (("SCHEMA", "prsa-run-2"), ("CODE", -1)):
        with monkeypatch.context() as patch:
            patch.setattr(runs, name, value)
            identities.add(runs.run_id(*base))
    assert len(identities) == 9 and all(len(i) == 16 and int(i, 16) >= 0 for i in identities)


# Evaluation, worked out again from single patches and loops


def counted(truth, predicted):
    table = np.zeros((4, 4), int)
    for t, p in zip(truth, predicted, strict=True):
        table[t - 1, p - 1] += 1
    return table


def test_confusion_of_every_head_and_part(studied):
    scene, split, made, _, out = studied
    own = out["branch"] if made.attrs["method"] == "late" else out["prototype"]
    answers = {"fused": out["logits"].argmax(1)} | {m: own[:, i].argmax(1) for i, m in enumerate(NAMES)}
    label, part = scene["label"].values.ravel(), split.values.ravel()
    for head, answer in answers.items():
        for name, code in zip(runs.PARTS, (TRAIN, VAL, TEST)):
            chosen = (part == code) & (label > 0)
            wanted = counted(label[chosen], answer.numpy()[chosen] + 1)
            ours = made["confusion"].sel(head=head, part=name).values
            assert ours.sum(1).tolist() == wanted.sum(1).tolist(), "rows are the truth"
            assert abs(ours - wanted).sum() <= 2, "but for a tie between two classes, as the patches say"


def test_map_and_confidence_are_those_of_predict_map(studied):
    scene, split, made, model, _ = studied
    cover = predict_map(model, scene)
    assert (made["map"].values != cover.values).sum() <= 2, "but for a tie: a map multiplies out what is linear"
    np.testing.assert_allclose(made["confidence"], cover.confidence, rtol=0, atol=1e-5)
    inside = (split.values == TEST) & (scene["label"].values > 0)
    wanted = counted(scene["label"].values[inside], made["map"].values[inside])
    np.testing.assert_array_equal(made["confusion"].sel(head="fused", part="test"), wanted)


def test_features_and_probes_are_of_evenly_taken_test_pixels(studied):
    scene, split, made, model, out = studied
    label, part = scene["label"].values.ravel(), split.values.ravel()
    test, train, z, f = np.flatnonzero(part == TEST), part == TRAIN, out["z"].numpy(), out["f"].numpy()
    kept = evaluate.KEPT_FEATURES
    chosen = test[np.linspace(0, len(test) - 1, kept).astype(int)] if len(test) > kept else test
    np.testing.assert_array_equal(made["sample_label"], label[chosen])
    np.testing.assert_allclose(made["features"], z[chosen], atol=1e-4)
    np.testing.assert_array_equal(made["prototypes"], model.bank.means)
    for i, m in enumerate(NAMES):
        wanted = counted(label[test], metrics.linear_probe(z[train, i], label[train], z[test, i]))
        ours = made["probe_confusion"].sel(modality=m).values
        assert ours.sum(1).tolist() == wanted.sum(1).tolist()
        assert abs(ours - wanted).sum() <= 0.04 * len(test), "but for rounding in the features"
    assert float(made["cka"]) == pytest.approx(metrics.linear_cka(f[test], np.eye(4)[label[test] - 1]), abs=1e-3)
    assert float(made["eta2"]) == pytest.approx(metrics.eta_squared(f[test], label[test]), abs=1e-3)


def test_curves_are_in_their_bounds(studied):
    made = studied[2]
    for name in ("accuracy", "branch_accuracy", "probe_accuracy"):
        assert ((made[name] >= 0) & (made[name] <= 1)).all()
    assert float(made["probe_accuracy"].isel(epoch=-1).min()) > 0.1
    known = made["direction"].sel(source=["prototype", "total"]).values
    late = made.attrs["method"] == "late"
    assert (np.abs(known) <= 1 + 1e-6).all() and np.isnan(made["direction"].sel(source="fused")).all() == late


@pytest.mark.parametrize("method", ["s2enet", "rf"])
def test_a_comparator_leaves_a_run_of_the_same_schema(two, method, tmp_path):
    """Counts worked out again from predictions; the file comes back; what a comparator has no branch for is NaN."""
    split = split_scene(two, radius=2)
    made, model = fit(two, method, split, 3, "quick", "cpu", **SMALL)
    assert (made.attrs["probed"], made.attrs["seed"], made.attrs["method"]) == (0, 3, method)
    whole, label = predict_map(model, two).values, two["label"].values
    for code, part in enumerate(runs.PARTS, 1):
        inside = (split.values == code) & (label > 0)
        wanted = counted(label[inside], whole[inside])
        np.testing.assert_array_equal(made["confusion"].sel(head="fused", part=part), wanted)
        np.testing.assert_array_equal(made["map"].values[inside], whole[inside])
    outside = split.values == 0
    assert (made["map"].values[outside] == 0).all() and np.isnan(made["confidence"].values[outside]).all()
    for name in ("s", "rho", "prototypes", "branch_accuracy", "probe_accuracy", "direction", "cka", "eta2"):
        assert np.isnan(made[name].values).all()
    assert made["condition"].values.tolist() == ["none"] and not made["degraded_confusion"].values.any()
    again = runs.load_run(runs.save_run(made.assign_attrs(run_id="0" * 16), tmp_path / "run.nc"))
    np.testing.assert_array_equal(again["confusion"], made["confusion"])
    trained = method == "s2enet"  # it has a history, the forest has none
    assert np.isfinite(made["loss"].sel(term="fused")).all() == trained and made.sizes["epoch"] == 1 + trained


def test_everything_that_is_compared_goes_the_whole_way(tmp_path, results, monkeypatch):
    """METHODS=all: training, run file, tables, figures; budget and split are the same for all."""
    monkeypatch.setitem(config.PRESETS, "quick", {"epochs": 1, "patch": 5, "width": 6, "features": 8, "batch": 64})
    made = Plan([str(save_scene(make_scene(NAMES), tmp_path / "tiny.nc"))], 2, ["all"], "quick")
    for spec in made.specs:
        execute.train(spec, made.path(spec), "cpu")
    found = made.open()
    assert {r.attrs["method"] for r in found} == {*STUDY, *COMPARATORS} and len(found) == len(made.specs)
    for name in ("split_hash", "scene_hash", "n_train", "n_test"):
        assert len({r.attrs[name] for r in found}) == 1, name
    for r in found:
        settings = METHODS[r.attrs["method"]]
        assert r.attrs["probed"] == (not {"network", "classifier"} & settings.keys()) and r.attrs["params"] > 0
        assert r["confusion"].sel(head="fused").sum() == sum(r.attrs[f"n_{part}"] for part in runs.PARTS)
        budget = {json.loads(r.attrs["config"])[name] for name in ("epochs", "patch")}
        assert "classifier" in settings or (budget == {1, 5} and r.attrs["epoch_used"] == 1)
    tables = report.write_all(found, made.scenes, made.splits, tmp_path / "tables")
    for name in ("accuracy", "ranking", "complexity"):
        assert set(tables[name]["method"]) - set(NAMES) == {*STUDY, *COMPARATORS}, name
    inside = set(tables["imbalance"]["method"])
    assert not {"mft", "svm"} & inside and {"ogm-ge", "mmpareto"} <= inside
    assert not tables["accuracy"].drop(columns=["d_oa", "d_oa_lo", "d_oa_hi"]).isna().any(axis=None)
    drawn = figures.write_all(tables, found, tmp_path / "figures", made.scenes, made.splits)
    assert drawn and all(path.stat().st_size > 1000 for path in drawn)


# Degraded sensors, worked out by hand


@pytest.fixture(scope="module")
def scene():
    return make_scene(NAMES).pipe(lambda s: s.assign(hsi=s["hsi"].assign_attrs(kind="hyperspectral")))


def trained(scene, method, seed=0, **options):
    split = split_scene(scene, radius=2)
    trainer = make_trainer(scene, method, seed, split, **options)
    trainer.run()
    return trainer.model, split


@pytest.fixture(scope="module")
def concat(scene):
    return trained(scene, "concat", epochs=6)


def test_each_degradation_by_hand():
    """Reflectance 0.2 and 0.4 at 450 and 900 nm, of which 0.28 and 0.105 of the light are the sky's."""
    two_bands = make_scene().isel(hsi_band=[0, 1]).assign_coords(wavelength=("hsi_band", [450.0, 900.0]))
    mean, std = torch.tensor([0.1, 0.5]), torch.tensor([0.05, 0.2])
    table = normalise(torch.tensor([[0.2, 0.4], [float("nan"), 0.4]]), mean, std)
    found = dict(degrade.degradations(two_bands, "hsi", table, mean, std))
    shaded = [0.2 * (1 - 0.6 * 0.72), 0.4 * (1 - 0.6 * 0.895)]
    wanted = [[(shaded[0] - 0.1) / 0.05, (shaded[1] - 0.5) / 0.2], [0.0, (shaded[1] - 0.5) / 0.2]]
    torch.testing.assert_close(found["hsi cloud shadow 0.6"], torch.tensor(wanted), msg="no-data stays no-data")
    (lost,) = np.flatnonzero(~found["hsi band loss 0.5"].any(0))
    assert torch.equal(found["hsi band loss 0.5"][:, 1 - lost], table[:, 1 - lost])


def test_a_cloud_takes_more_of_the_red_than_of_the_blue(scene):
    wide = wide_scene()[0]
    direct, wavelength = degrade.direct_share(wide, "hsi").numpy(), wide["wavelength"].values
    assert (np.diff(direct) > 0).all() and 0.6 < direct[0] < 0.75 and 0.85 < direct[-1] < 0.92
    np.testing.assert_allclose(direct, 1 - (0.08 + 0.2 * (450 / wavelength) ** 3), rtol=1e-6)
    simulated = simulate.simulate("sim-sar", 100)
    np.testing.assert_allclose(degrade.direct_share(simulated, "hsi"), 1 - simulate.DIFFUSE, rtol=1e-6)
    middle = np.interp(700, simulate.WAVELENGTH, 1 - simulate.DIFFUSE)
    np.testing.assert_allclose(degrade.direct_share(simulated, "sar"), [middle] * 2, rtol=1e-4, err_msg="not its bands")
    np.testing.assert_allclose(degrade.direct_share(scene, "hsi"), [middle] * 6, rtol=1e-4, err_msg="none stated")
    assert degrade.dominant(scene, ["dsm", "sar", "hsi"]) == "hsi" and degrade.dominant(scene, ["dsm", "sar"]) == "dsm"


def test_noise_is_one_draw_for_all_strengths_and_lost_bands_are_nested():
    table = torch.ones(4000, 24)
    table[7] = 0
    before, here = table.clone(), (torch.zeros(24), torch.ones(24))
    found = dict(degrade.degradations(wide_scene()[0], "hsi", table, *here))
    assert len(found) == 9 and torch.equal(table, before), "the clean bands are not written over"
    draws = [(found[f"hsi noise {sd:g}"] - table)[8:] / sd for sd in runs.STRENGTHS["noise"]]
    for draw in draws:
        assert draw.std(0).numpy() == pytest.approx(np.ones(24), rel=0.06) and draw.mean(0).abs().max() < 0.06
        torch.testing.assert_close(draw, draws[0], rtol=0, atol=1e-5)
    assert np.abs(np.corrcoef(draws[0].T.numpy()) - np.eye(24)).max() < 0.08, "bands are independent"
    assert not found["hsi noise 2"][7].any(), "no-data stays no-data"
    lost = [set(np.flatnonzero(~found[f"hsi band loss {s:g}"].any(0).numpy())) for s in runs.STRENGTHS["band loss"]]
    assert [len(bands) for bands in lost] == [6, 12, 18] and lost[0] < lost[1] < lost[2] and lost[1] != set(range(12))
    assert (found["hsi band loss 0.75"][8:, sorted(set(range(24)) - lost[2])] == 1).all()
    one, again, other = (
        dict(degrade.degradations(make_scene(name=name), "hsi", table[:20, :6], here[0][:6], here[1][:6]))
        for name in ("a", "a", "b")
    )
    assert all(torch.equal(one[key], again[key]) for key in one) and not torch.equal(
        one["hsi noise 1"], other["hsi noise 1"]
    )


def test_conditions_and_counts(scene, concat, monkeypatch):
    model, split = concat
    names, counts = degrade.degraded_counts(model.train(), scene, split)
    degraded = [f"hsi {kind} {strength:g}" for kind, values in runs.STRENGTHS.items() for strength in values]
    assert names == ["none", *degraded, "hsi missing", "sar missing", "dsm missing"] and not model.training
    test = np.flatnonzero(split.values.ravel() == TEST)
    truth = scene["label"].values.ravel()
    assert (counts.sum(2) == np.bincount(truth[test], minlength=5)[1:]).all(), "every test pixel once"
    monkeypatch.setattr(degrade, "PIXELS", 30)
    monkeypatch.setattr(overlap, "ROWS", 7)
    _, few = degrade.degraded_counts(model, scene, split)
    chosen = truth[test[np.linspace(0, len(test) - 1, 30).astype(int)]]
    assert (few.sum(2) == np.bincount(chosen, minlength=5)[1:]).all(), "at most so many, evenly spaced"
    with pytest.raises(PrsaError, match="expected test pixels .* got none. Use a split"):
        degrade.degraded_counts(model, scene, split.where(split != TEST, 0))


@pytest.mark.parametrize("method", ["late", "concat", "prsanet"])
def test_clean_and_missing_are_the_models_own_answers(scene, method, monkeypatch):
    """Worked out again from windows: missing is zeros after normalisation; only the degraded modality changes."""
    model, split = trained(scene, method)
    test = np.flatnonzero(split.values.ravel() == TEST)
    seen, classify = [], model.classify
    with monkeypatch.context() as patch:
        patch.setattr(model, "classify", lambda z: (seen.append(z.clone()), classify(z))[1])
        names, counts = degrade.degraded_counts(model, scene, split)
    seen, counts = dict(zip(names, seen, strict=True)), dict(zip(names, counts, strict=True))
    for condition, z in seen.items():
        for i, m in enumerate(NAMES):
            same = torch.equal(z[:, i], seen["none"][:, i])
            assert same != condition.startswith(m + " "), f"{m} under {condition}"
    x = {m: values[test] for m, values in every_patch(model, scene).items()}
    truth = scene["label"].values.ravel()[test]
    cases = {"none": {}} | {f"{m} missing": {m: torch.zeros_like(x[m])} for m in NAMES}
    for condition, changed in cases.items():
        with torch.no_grad():
            out = model(x | changed)
        torch.testing.assert_close(seen[condition], out["z"], rtol=1e-4, atol=1e-4)
        wanted = counted(truth, out["logits"].argmax(1).numpy() + 1)
        assert abs(counts[condition] - wanted).sum() <= 2, "but for a tie between two classes"
    assert not np.array_equal(counts["hsi missing"], counts["none"])


@pytest.mark.parametrize("side", [3, 7])
def test_what_windows_share_is_computed_once_and_every_window_gets_its_own_answer(side):
    """Dense, scattered, repeated and reflected windows: as the encoder says of each; one row per pixel and layer."""
    torch.manual_seed(0)
    encoder = Encoder(6, side, 8, 5).train()
    for _ in range(3):
        encoder(2 + torch.randn(20, 6, side, side))  # statistics of batch normalisation
    scene, encoder = make_scene(), encoder.eval()
    moments = {"hsi": (torch.zeros(6), torch.ones(6))}
    block = (np.arange(10, 20)[:, None] * 48 + np.arange(10, 20)).ravel()
    for centres in (block, np.array([0, 47, 900, 1919, 900])):
        source = PatchSource(scene, {"hsi": side}, moments, centres)
        windows = overlap.Windows(encoder, source.rows["hsi"].view(-1, side, side))
        with torch.no_grad():
            wanted = encoder(source.gather(torch.arange(len(centres)))["hsi"]).flatten(1)
            torch.testing.assert_close(windows(source.tables["hsi"]), wanted, rtol=1e-4, atol=1e-5)
        if len(centres) == 100:
            assert [len(i) for i in windows.inputs] == [(10 + s) ** 2 for s in range(side - 3, -1, -2)]


def test_a_pixel_is_degraded_alike_in_all_windows_methods_and_seeds(scene, monkeypatch):
    """What the encoders are given, put back on the scene's grid: one value per pixel and band."""
    given, grids, split = [], [], split_scene(scene, radius=2)

    class Seen(overlap.Windows):
        def __init__(self, encoder, rows):
            super().__init__(encoder, rows)
            self.rows = rows

        def __call__(self, table):
            if table.shape[1] == 6:
                given.append(table[self.rows].permute(0, 3, 1, 2))
            return super().__call__(table)

    monkeypatch.setattr(degrade, "Windows", Seen)
    test = np.flatnonzero(split.values.ravel() == TEST)
    inside = np.isin(test // 48, range(2, 38)) & np.isin(test % 48, range(2, 46))
    for method, seed in (("concat", 0), ("prsanet", 5)):
        given.clear()
        names, _ = degrade.degraded_counts(make_trainer(scene, method, seed, split).model, scene, split)
        windows = torch.stack(given)  # (condition, n, C, p, p)
        assert len(windows) == len(names) - 3, "a missing sensor is one window"
        grid = np.full((len(windows), 6, 40, 48), np.nan, np.float32)
        for w, centre in zip(windows[:, inside].swapaxes(0, 1).numpy(), test[inside]):
            y, x = divmod(centre, 48)
            there = grid[:, :, y - 2 : y + 3, x - 2 : x + 3]
            assert ((there == w) | np.isnan(there)).all(), "a window before this one showed another value"
            grid[:, :, y - 2 : y + 3, x - 2 : x + 3] = w
        grids.append(grid)
    np.testing.assert_array_equal(*grids)
    assert np.isfinite(grids[0]).any()


def test_damage_costs_accuracy_where_the_modality_is_all_there_is():
    scene = make_scene(noise=0.3).pipe(lambda s: s.assign(hsi=s["hsi"].assign_attrs(kind="hyperspectral")))
    model, split = trained(scene, "late", epochs=12, only=["hsi"])
    names, counts = degrade.degraded_counts(model, scene, split)
    oa = {name: np.trace(c) / c.sum() for name, c in zip(names, counts)}
    assert oa["none"] > 0.9 and oa["hsi missing"] < 0.6 and "sar missing" not in names
    assert oa["hsi noise 2"] < oa["hsi noise 0.5"] <= oa["none"] and oa["hsi band loss 0.75"] < oa["none"]


# Where a number comes from


def test_a_line_names_a_set_of_runs_by_names_and_contents(finished, tmp_path):
    where = finished[2]
    text = provenance.line(where)
    assert re.fullmatch(r"6 runs, set [0-9a-f]{8}, (commit [0-9a-f]{7,}( with changes)?|prsa .+)", text), text
    assert provenance.line([*where[::-1], where[0]]) == text != provenance.line(where[1:]), "a set has no order"
    copies = [tmp_path / path.name for path in where]
    for path, copy in zip(where, copies):
        copy.write_bytes(path.read_bytes())
    assert provenance.line(copies) == text, "nor a folder"
    copies[0].write_bytes(copies[1].read_bytes())
    assert provenance.line(copies) != text
    with pytest.raises(PrsaError, match="expected 6 run files, 1 are missing, first tiny__late"):
        copies[0].unlink() or provenance.line(copies)
    assert provenance.attributes(where[0]) == dict(runs.load_run(where[0]).attrs)


def test_tables_and_figures_name_their_runs(tmp_path, results):
    made = Plan(["sim-sar", "sim-tri"], 2, None, "quick")
    extra = RunSpec("sim-sar", "prsanet", 0, "quick", (("lr", 0.1),)), RunSpec("sim-sar", "gated", 0, "quick")
    made.specs += extra
    of = provenance.groups(made)
    assert len(of["study"]) == 24 and extra[1] in of["ablation"] and not {*extra} & {*of["study"]}
    assert extra[0] in of["sensitivity"] and {s.method for s in of["sensitivity"]} == {"prsanet"}
    assert of["dial"] == made.dial and {*of["claims"]} == {*of["ablation"], *made.dial} and of["scenes"] == []
    assert {s.scene for s in of["scene sim-tri"]} == {"sim-tri"}
    stems = {stem: table for stem, table, *_ in figures.OF_TABLES}
    names = [
        "accuracy_ranking",
        "dial_sim-sar",
        "probe_gap_sim-sar",
        "pca_sim-sar",
        "map_concat_sim-tri",
        "leave_one_out",
    ]
    found = provenance.of_figures(names, stems, made)
    assert [*found.values()] == ["study", "dial", "ablation", "scene sim-sar", "scene sim-tri", "ablation"]
    drawn = [Path(f"{name}.{kind}") for name in names for kind in ("png", "pdf")]
    provenance.record(made, made.specs[:3], ["accuracy"], drawn, figures.OF_TABLES, results / "tables")
    for name in ("accuracy", "accuracy_ranking"):
        assert provenance.runs_of(name, results) == sorted(
            results / "runs" / made.path(spec).name for spec in made.specs[:3]
        )
    with pytest.raises(PrsaError, match="expected a table or figure of .*, got 'acuracy'. There are: accuracy, fig"):
        provenance.runs_of("acuracy", results)


# An archive of runs


def make_zip(path, entries, manifest=None, **form):
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in entries}
    made = {"format": archive.FORMAT, "preset": "quick", "runs": hashes}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
        file.writestr(archive.MANIFEST, json.dumps(made if manifest is None else manifest))
    return path


def test_what_was_packed_comes_back_whole(finished, small, results, tmp_path, monkeypatch):
    folder, specs, where = finished
    with monkeypatch.context() as patch:
        patch.setenv("PRSA_RESULTS", str(folder))
        there = Plan(small.sources, 1, [], "quick")
        assert archive.pack(there, [*specs, *there.specs], tmp_path / "a.zip") == (6, 2)
    copied(where[:1], results)
    said = []
    new = archive.unpack(tmp_path / "a.zip", said.append)
    assert len(new) == 5 and "5 runs taken in, 1 were there already" in said[0] and small.missing(specs) == []
    assert all((results / "quick" / "runs" / path.name).read_bytes() == path.read_bytes() for path in where)
    assert archive.unpack(tmp_path / "a.zip", said.append) == []
    with pytest.raises(PrsaError, match="expected finished runs to pack, got none of 2"):
        archive.pack(small, small.specs, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()


def test_a_strangers_archive_writes_nothing_that_is_no_run(finished, results, tmp_path, monkeypatch):
    good = finished[2][0]
    name, data = good.name, good.read_bytes()
    other = name.replace("__late__", "__prsanet__")
    resealed = runs._seal(data.replace(b"late", b"lane"))
    bad = {
        "parent": [("../" + name, data)], "absolute": [("/tmp/" + name, data)], "folder": [("a/" + name, data)],
        "back": [("..\\" + name, data)], "no run": [("evil.py", b"import os")], "pickle": [("a.pkl", b"cos\nsystem")],
        "twice": [(name, data), (name, data)], "other run": [(other, data)], "changed": [(name, resealed)],
        "broken": [(name, data[:-100])], "text": [(name, b"CDF\x02" + b"\xff" * 100)], "empty": [(name, b"")],
    }  # fmt: skip
    for case, entries in bad.items():
        path = make_zip(tmp_path / "bad.zip", entries)
        with pytest.raises(PrsaError) as caught:
            archive.unpack(path, print)
        assert len(str(caught.value)) < 900, case
    link = zipfile.ZipInfo(name)
    link.external_attr = (S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(make_zip(tmp_path / "bad.zip", []), "w") as file:  # a link is a text that names its target
        target = b"/etc/passwd"
        file.writestr(link, target)
        made = {"format": archive.FORMAT, "preset": "quick", "runs": {name: hashlib.sha256(target).hexdigest()}}
        file.writestr(archive.MANIFEST, json.dumps(made))
    with pytest.raises(PrsaError, match="got other or broken content"):
        archive.unpack(tmp_path / "bad.zip", print)
    manifests = ([], {}, {"format": "other", "preset": "quick", "runs": {}}, [1], "x")
    good_one = {"format": archive.FORMAT, "preset": "../..", "runs": {name: hashlib.sha256(data).hexdigest()}}
    for manifest in (*manifests, good_one, good_one | {"preset": "full", "runs": {name: "0" * 64}}):
        with pytest.raises(PrsaError, match="manifest"):
            archive.unpack(make_zip(tmp_path / "bad.zip", [(name, data)], manifest), print)
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    for path in (tmp_path / "bad.zip", tmp_path / "none.zip", tmp_path):
        with pytest.raises(PrsaError, match="expected an archive of"):
            archive.unpack(path, print)
    assert not results.exists() and not (tmp_path / name).exists()


def test_a_bomb_is_refused_before_it_goes_off(finished, results, tmp_path, monkeypatch):
    good = finished[2][0]
    monkeypatch.setattr(archive, "LARGEST", 10**6)
    with pytest.raises(PrsaError, match="run files of at most 1000000 bytes"):
        archive.unpack(make_zip(tmp_path / "a.zip", [(good.name, bytes(2 * 10**6))]), print)
    path = make_zip(tmp_path / "a.zip", [(good.name, bytes(10**6))])
    packed = path.read_bytes()
    lied = packed.replace((10**6).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(lied)
    with pytest.raises(PrsaError, match="expected an archive of make pack, got BadZipFile|broken content"):
        archive.unpack(path, print)
    path.write_bytes(packed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(PrsaError, match="its runs take 0.0 GB, 0.0 GB are free here"):
        archive.unpack(path, print)
    monkeypatch.setattr(archive, "MOST", 0)
    with pytest.raises(PrsaError, match="at most 0 run files"):
        archive.unpack(path, print)
    assert not results.exists()


def test_verify_finds_a_number_that_was_not_measured(finished, small, results):
    _, specs, where = finished
    copied(where[:2], results)
    assert [line.split(": ")[1] for line in archive.verify(small, specs[:2], 5, 1)] == ["the same"] * 2
    path = small.path(specs[1])
    made = runs.load_run(path)
    made["confusion"].values[0, 2] += np.eye(4, dtype=int) * 50
    runs.save_run(made, path)
    said = []
    with pytest.raises(PrsaError, match="1 of 1 runs differ when they are trained again"):
        said += archive.verify(small, specs[1:2], 1, 1)
    assert "confusion" in archive.compared(runs.load_run(path), runs.load_run(where[1]))
    for n, of in ((0, specs), (1, specs[2:])):
        with pytest.raises(PrsaError, match="N: expected 1 or more, and finished runs"):
            list(archive.verify(small, of, n, 1))
