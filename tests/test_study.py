"""The grid of runs: order and errors, one result whatever the number of processes, and no harm from kill -9."""

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_scene

from prsa import files, save_scene
from prsa.config import METHODS
from prsa.errors import PrsaError
from prsa.study import plan, runs
from prsa.study.execute import _worker_setup, run_grid
from prsa.study.plan import (
    ABLATIONS,
    COMPARATORS,
    SENSITIVITY,
    SENSITIVITY_SEEDS,
    STUDY,
    RunSpec,
    grid,
    open_runs,
    run_path,
)

OVERRIDES = (("epochs", 2), ("features", 5), ("patch", 5), ("width", 6))
TIMINGS = ("seconds", "samples_per_s", "content")


def small_specs(scene, methods=("late", "prsanet"), seeds=2, **overrides):
    changed = tuple(sorted((dict(OVERRIDES) | overrides).items()))
    return [RunSpec(str(scene), method, seed, "quick", changed) for seed in range(seeds) for method in methods]


def assert_same_runs(a, b):
    """All variables, coordinates and attributes of two lists of run files, except what a clock measured."""
    for one, other in zip(a, b, strict=True):
        one, other = (runs.load_run(path) for path in (one, other))
        assert set(one.variables) == set(other.variables)
        for name in one.variables:
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)
        assert {k: v for k, v in one.attrs.items() if k not in TIMINGS} == {
            k: v for k, v in other.attrs.items() if k not in TIMINGS
        }


@pytest.fixture(scope="module")
def scene_file(tmp_path_factory):
    return save_scene(make_scene(("hsi", "sar", "dsm")), tmp_path_factory.mktemp("scene") / "tiny.nc")


@pytest.fixture(scope="module")
def finished(scene_file, tmp_path_factory):
    """The small grid trained by two processes: folder, specs, paths."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRSA_RESULTS", str(folder))
        specs = small_specs(scene_file, ("late", "prsanet", "sagf"))
        where = run_grid(specs, 2, "cpu")
    return folder, specs, where


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def test_a_study_goes_seed_by_seed():
    specs = grid(["sim-sar", "sim-lidar"], ["sagf", "concat", "late"], 2, "quick")
    assert [(s.seed, s.scene, s.method) for s in specs] == [
        (seed, scene, method)
        for seed in (0, 1)
        for scene in ("sim-sar", "sim-lidar")
        for method in ("sagf", "concat", "late")
    ]
    assert all(s.preset == "quick" and s.overrides == () for s in specs)


def test_the_whole_study_with_ablations_and_sensitivity():
    specs = grid(["sim-sar", "sim-lidar"], None, 3)
    main = [s for s in specs if not s.overrides]
    assert set(main) == {
        RunSpec(scene, method, seed)
        for scene in ("sim-sar", "sim-lidar")
        for method in (*STUDY, *ABLATIONS)
        for seed in range(3)
    }
    kinds = grid(["sim-sar:1", "sim-sar", "sim-lidar"], None, 1)  # ablations on the first scene of a kind
    assert {s.scene for s in kinds if s.method in ABLATIONS} == {"sim-sar:1", "sim-lidar"} and {
        s.scene for s in kinds if s.method == "concat"
    } > {"sim-sar"}
    changed = [s for s in specs if s.overrides]
    assert {s.overrides for s in changed} == {
        ((name, value),) for name, values in SENSITIVITY.items() for value in values
    }
    assert {(s.scene, s.method) for s in changed} == {("sim-sar", "prsanet")} and {s.seed for s in changed} == set(
        range(min(3, SENSITIVITY_SEEDS))
    )
    assert len(specs) == len(set(specs)) and [s.seed for s in main] == sorted(s.seed for s in main)
    quick = grid(["sim-sar"], None, 1, "quick")
    assert (
        {s.method for s in quick} == set(STUDY) and not any(s.overrides for s in quick) and set(STUDY) <= set(METHODS)
    )


def test_all_is_the_study_and_everything_it_is_compared_with():
    everything = {s.method for s in grid(["sim-sar"], ["all"], 1)}
    assert everything == {*STUDY, *COMPARATORS} == {m for m in METHODS if not m.startswith("prsanet-no-")}
    assert {"rf", "svm", "mft", "ogm-ge"} <= set(COMPARATORS)
    with pytest.raises(PrsaError, match="unknown method 'all'"):
        grid(["sim-sar"], ["all", "concat"], 1)


def test_what_every_table_needs_is_always_there():
    assert {s.method for s in grid(["sim-sar"], ["prsanet"], 1)} == {"late", "concat", "prsanet"}
    assert {s.method for s in grid(["sim-sar"], [], 1)} == {"late", "concat"}
    assert len(grid(["sim-sar", "sim-sar"], ["late", "concat"], 1)) == 2, "a scene named twice is one scene"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: grid(["sim-sar"], seeds=0), "SEEDS: expected 1 or more, got 0"),
        (lambda: grid(["sim-sar"], seeds=-2), "got -2"),
        (lambda: grid([]), "at least one scene, got none.*sim-sar"),
        (lambda: grid(["sim-sar"], ["prsanet", "nope"]), "unknown method 'nope'.*concat"),
        (lambda: grid(["sim-sar"], preset="huge"), "unknown preset 'huge'"),
        (lambda: run_grid(small_specs("nowhere.nc")), "no scene file at"),
        (lambda: run_grid([RunSpec("nowhere", "concat", 0)]), "unknown scene 'nowhere'"),
        (lambda: run_grid([], jobs=0), "JOBS: expected 1 or more, got 0"),
        (lambda: run_grid([], device="nonsense"), "device 'nonsense'"),
        (lambda: run_grid([RunSpec("sim-sar", "nope", 0)]), "unknown method 'nope'"),
    ],
)
def test_errors_of_the_grid_leave_nothing_behind(results, call, message):
    with pytest.raises(PrsaError, match=message):
        call()
    assert not results.exists()


def test_a_spec_is_a_name_for_one_run(scene_file, results):
    base = small_specs(scene_file)[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.seed = 3
    others = [
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, method="sagf"),
        dataclasses.replace(base, overrides=()),
        dataclasses.replace(base, preset="full"),
        dataclasses.replace(base, overrides=(*base.overrides, ("lr", 0.01))),
    ]
    where = [run_path(s) for s in (base, *others)]
    assert len(set(where)) == len(where) and run_path(base) == where[0]
    assert (
        where[0].parent == files.results("quick") / "runs"
        and where[4].parent == files.results("full") / "runs" == results / "runs"
    )
    assert where[0].name.startswith("tiny__late__s0__") and where[0].suffix == ".nc"


def test_a_changed_scene_is_another_run(tmp_path, results):
    files = [save_scene(make_scene(seed=seed), tmp_path / f"{seed}.nc") for seed in (0, 1)]
    same = save_scene(make_scene(seed=0), tmp_path / "copy.nc")
    first, second, third = (run_path(small_specs(f)[0]) for f in (*files, same))
    assert first != second and first == third, "the content of a scene counts, not where it lies"


@pytest.mark.parametrize("name", ["a/b", "../up", "a b:c", "x" * 300])
def test_the_name_of_a_scene_cannot_lead_elsewhere(tmp_path, results, name):
    path = run_path(small_specs(save_scene(make_scene(name=name), tmp_path / "mine.nc"))[0])
    assert path.parent == results / "quick" / "runs" and len(path.name) < 250


def test_one_process_gives_what_two_give(finished, results):
    _, specs, where = finished
    alone = run_grid(specs, 1, "cpu")
    assert [p.name for p in alone] == [p.name for p in where] and not set(alone) & set(where)
    assert_same_runs(alone, where)
    assert sorted(p.name for p in (results / "quick" / "runs").iterdir()) == sorted(p.name for p in alone), (
        "no stray file"
    )


def test_seeds_that_are_trained_together_are_the_same_runs(finished, scene_file, results):
    _, specs, where = finished
    alone = small_specs(scene_file, ("ogm-ge",))
    together = run_grid(specs + alone, 1, "cpu", together=True)
    assert [p.name for p in together[: len(where)]] == [p.name for p in where] and all(p.is_file() for p in together)
    for one, other in zip(together, where):
        one, other = (runs.load_run(path) for path in (one, other))
        assert one.attrs["trained_with"] == "0 1" and "trained_with" not in other.attrs
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-3)
        assert one.attrs["seed"] == other.attrs["seed"] and one.attrs["run_id"] == other.attrs["run_id"]
    assert not any("trained_with" in runs.load_run(path).attrs for path in together[len(where) :])


def test_a_task_is_a_run_or_all_missing_seeds_of_a_configuration():
    specs = [RunSpec("sim-sar", method, seed) for seed in (0, 1, 2) for method in ("prsanet", "mft", "rf", "mmpareto")]
    specs += [RunSpec("sim-sar", "prsanet", 0, "full", (("lambda_p", 1.0),)), RunSpec("sim-tri", "prsanet", 2)]
    assert plan.tasks(specs, False) == [(spec,) for spec in specs]
    grouped = plan.tasks(specs, True)
    assert sorted(sum(map(list, grouped), []), key=str) == sorted(specs, key=str)
    assert [[s.seed for s in group] for group in grouped if len(group) > 1] == [[0, 1, 2]] and grouped[0] == tuple(
        specs[0:12:4]
    )


@pytest.mark.parametrize(
    "device, together, expected",
    [("cpu", None, False), ("cuda", None, True), ("cpu", True, True), ("cuda", False, False), ("mps", None, False)],
)
def test_seeds_are_trained_together_on_a_cuda_device(finished, results, monkeypatch, device, together, expected):
    _, specs, _ = finished
    monkeypatch.setattr("prsa.training.loop.pick_device", lambda name: torch.device(name))
    asked = []
    monkeypatch.setattr(plan, "tasks", lambda specs, together: asked.append(together) or [])
    monkeypatch.setattr(
        plan, "ProcessPoolExecutor", lambda *a: contextlib.nullcontext(types.SimpleNamespace(shutdown=lambda **k: None))
    )
    run_grid(specs, 1, device, together=together)
    assert asked == [expected]


def test_runs_carry_their_names(finished):
    _, specs, where = finished
    for spec, path in zip(specs, where):
        run = runs.load_run(path)
        assert (run.attrs["method"], run.attrs["seed"], run.attrs["preset"], run.attrs["scene"]) == (
            spec.method,
            spec.seed,
            "quick",
            "tiny",
        )
        assert json.loads(run.attrs["overrides"]) == dict(spec.overrides) and path.stem.endswith(run.attrs["run_id"])


def test_finished_runs_are_opened_in_order_and_never_trained_again(finished, monkeypatch):
    folder, specs, where = finished
    monkeypatch.setenv("PRSA_RESULTS", str(folder))
    before = {path: path.stat().st_mtime_ns for path in where}
    monkeypatch.setattr(
        "prsa.study.ProcessPoolExecutor", lambda *a, **k: pytest.fail("nothing is missing, yet a process was started")
    )
    assert run_grid(specs, 2) == where and run_grid(specs[::-1] + specs[:1], 2) == where[::-1] + where[:1]
    assert before == {path: path.stat().st_mtime_ns for path in where}
    assert [r.attrs["run_id"] for r in open_runs(specs[::-1])] == [p.stem.rsplit("__", 1)[1] for p in where[::-1]]


def test_missing_runs_are_counted_and_named(finished, results):
    _, specs, where = finished
    with pytest.raises(
        PrsaError,
        match=f"expected {len(specs)} finished runs, {len(specs)} are missing, first {where[0].name}.*make reproduce",
    ):
        open_runs(specs)


def copied(where, folder):
    """The finished files in another results folder."""
    target = folder / "quick" / "runs"
    target.mkdir(parents=True)
    for path in where:
        (target / path.name).write_bytes(path.read_bytes())
    return [target / path.name for path in where]


def test_only_damaged_and_missing_runs_are_redone(finished, results):
    _, specs, where = finished
    here = copied(where, results)
    data = bytearray(here[1].read_bytes())
    here[0].write_bytes(data[: len(data) // 2])
    here[2].unlink()
    stale, fresh = here[0].parent / ".abc.tmp", here[0].parent / ".def.tmp"
    for file in (stale, fresh):
        file.write_bytes(bytes(data[:1000]))
    os.utime(stale, (time.time() - 3600,) * 2)
    before = {path: path.stat().st_mtime_ns for path in here if path.exists()}
    assert run_grid(specs, 1, "cpu") == here
    assert {p for p in before if p.stat().st_mtime_ns == before[p]} == set(here) - {here[0], here[2]}
    assert_same_runs(here, where)
    assert not stale.exists() and fresh.exists(), (
        "what a killed process left an hour ago goes; another process may be writing the other"
    )


def test_a_run_that_fails_does_not_take_the_others_along(finished, scene_file, results):
    _, specs, where = finished
    bad = small_specs(scene_file, ("concat",), 1, lr=1e30)
    with pytest.raises(PrsaError, match="diverged"):
        run_grid(specs[:1] + bad + specs[1:2], 1, "cpu")
    assert not run_path(bad[0]).exists()
    assert_same_runs([run_path(specs[0])], where[:1])


def test_a_killed_worker_is_a_clear_error(finished, results):
    _, specs, where = finished
    others = {child.pid for child in multiprocessing.active_children()}

    def kill_one():
        while not (new := [child for child in multiprocessing.active_children() if child.pid not in others]):
            time.sleep(0.01)
        new[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(PrsaError, match="a training process was killed.*run again"):
        run_grid(specs, 1, "cpu")
    killer.join()
    assert_same_runs(run_grid(specs[:1], 1, "cpu"), where[:1])


def test_a_round_is_announced_once_when_its_runs_are_there(scene_file, results, monkeypatch):
    class Here(concurrent.futures.Executor):
        def __init__(self, *options):
            pass

        def submit(self, function, spec, device):
            future = concurrent.futures.Future()
            future.set_result(None)
            return future

    done, announced = set(), []
    monkeypatch.setattr("prsa.study.ProcessPoolExecutor", Here)
    monkeypatch.setattr("prsa.execute.Progress.step", lambda self, spec: done.add(spec))
    plain = [
        RunSpec(str(scene_file), method, seed, "quick")
        for seed in range(3)
        for method in ("late", "concat", "sagf", "prsanet")
    ]

    def announce(seed):
        assert {s for s in plain if s.seed == seed} <= done
        announced.append(seed)

    run_grid(plain + small_specs(scene_file, seeds=4), 1, "cpu", announce)
    assert sorted(announced) == [0, 1, 2], "seed 3 has only runs with overrides"


def test_a_worker_uses_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _worker_setup) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1


PROC = Path("/proc/self/stat").exists()
needs_proc = pytest.mark.skipif(not PROC, reason="finds the processes of a group in /proc")
SCRIPT = (
    "import json, sys; from prsa.study import RunSpec, run_grid; "
    "run_grid([RunSpec(*s[:4], tuple(map(tuple, s[4]))) for s in json.loads(sys.argv[1])], 2, 'cpu')"
)


def start(specs):
    """The grid in a process group of its own."""
    text = json.dumps([dataclasses.astuple(s) for s in specs])
    environment = os.environ | {"PYTHONPATH": str(files.ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, text], env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )


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
    process.wait()


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None or condition(), f"the grid ended by itself with {process.returncode}"
        assert time.monotonic() < end, "the grid does not get on"
        time.sleep(0.02)


@needs_proc
def test_kill_9_of_everything_three_times_then_again(finished, results):
    _, specs, where = finished
    folder, kept, rng = results / "quick" / "runs", {}, np.random.default_rng()
    for more in (0, 1, 2):  # runs finished since the last kill
        process = start(specs)
        wanted = min(len(kept) + more, len(specs) - 1)
        try:
            wait_for(
                lambda: len(list(folder.glob("*.nc"))) >= wanted and (more or len(alive(process.pid)) >= 3), process
            )
            time.sleep(
                rng.uniform(0, 0.05 if more else 0.5)
            )  # soon after a file appeared: were it written in place, it would be half a file
        finally:
            kill_group(process)
        now = {path: path.stat().st_mtime_ns for path in folder.glob("*.nc")}
        assert len(now) >= wanted and kept.items() <= now.items(), "finished runs are not trained again"
        assert all(runs.is_finished(path) for path in now), "a file with a run's name is a whole run"
        kept = now
    assert set(kept) <= {run_path(s) for s in specs}
    again = run_grid(specs, 1, "cpu")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same_runs(again, where)


@needs_proc
@pytest.mark.parametrize("moment", ["start", "work"])
def test_no_worker_outlives_its_killed_parent(finished, results, moment):
    _, specs, _ = finished
    endless = [
        dataclasses.replace(s, overrides=(("epochs", 9000), ("max_steps", 0), *OVERRIDES[1:])) for s in specs[:2]
    ]
    process = start(endless if moment == "start" else specs[:2] + endless)
    try:
        wait_for(lambda: len(alive(process.pid)) >= 3, process)
        if moment == "start":  # the workers exist, but have not yet loaded torch
            time.sleep(0.3)
        else:
            wait_for(lambda: len(list(results.rglob("*.nc"))) == 2, process)
            time.sleep(0.5)
        assert len(alive(process.pid)) >= 3
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 5
        while alive(process.pid) and time.monotonic() < end:
            time.sleep(0.1)
        assert not alive(process.pid), f"orphans: {alive(process.pid)}"
    finally:
        kill_group(process)
    assert not any(run_path(s).exists() for s in endless)
