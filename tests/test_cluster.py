"""The grid on a Dask cluster: real schedulers and workers, each a process of its own, and real kills of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext

import pytest
import yaml
from distributed import Client
from tiny import make_scene

from prsa import PrsaError, files, report, reproduce, save_scene
from prsa.study import Plan, cluster, run, runs, schedulers

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PRSA", "DASK"))}


def until(true, seconds=90):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Farm:
    """A scheduler and workers, each a process; all of them end with the block."""

    def __init__(self, folder):
        self.folder, self.file, self.processes, self.count = folder, folder / "scheduler.json", [], 0
        command = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        self.scheduler = self.start(*command, "--scheduler-file", self.file)
        self.address = json.loads(until(lambda: self.file.is_file() and self.file.read_text()))["address"]
        self.client = Client(self.address, set_as_default=False)

    def start(self, kind, *arguments, before="", package=files.ROOT):
        """``before``: shell commands of the new process; ``package``: the folder that holds its prsa."""
        program = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, arguments)]
        command = ["bash", "-c", f'{before}\nexec "$@"', "bash", *program]
        environment = CLEAN | {"PYTHONPATH": str(package)}
        self.processes.append(subprocess.Popen(command, env=environment, cwd=self.folder, **QUIET))
        return self.processes[-1]

    @contextmanager
    def worker(self, *more, **options):
        """A worker; yields its process and its address."""
        self.count += 1
        name = f"w{self.count}"
        form = ("--scheduler-file", self.file, "--host", "127.0.0.1", "--nthreads", 1, "--no-dashboard")
        process = self.start("worker", *form, "--no-nanny", "--name", name, *more, **options)
        try:
            yield process, until(lambda: self.named(name))
        finally:
            end(process)
            until(lambda: not self.named(name))

    def named(self, name):
        if self.scheduler.poll() is None:
            workers = self.client.scheduler_info()["workers"]
            return next((address for address, about in workers.items() if about["name"] == name), None)

    def close(self):
        self.client.close()
        for process in self.processes:
            end(process)


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    made = Farm(tmp_path_factory.mktemp("farm"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return save_scene(make_scene(shape=(24, 32)), tmp_path_factory.mktemp("scene") / "tiny.nc")


@pytest.fixture(scope="module")
def alone(scene, tmp_path_factory):
    """Tables of the local pool, and its run files."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRSA_RESULTS", str(folder))
        plan = planned(scene)
        return tables(plan, run(plan, jobs=1, device="cpu"), folder), plan


def planned(scene):
    return Plan([str(scene)], 2, ["concat"], "quick")


def tables(plan, paths, folder):
    assert all(map(runs.is_finished, paths))
    report.write_all(plan.open(), plan.scenes, plan.splits, folder / "tables")
    return {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}


@pytest.fixture(autouse=True)
def patience():
    """A call that waits for workers does so for ever; a test does not."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waited too long"))
    signal.alarm(200)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def bad_package(tmp_path):
    """A copy of the package with another comment in it."""
    shutil.copytree(files.ROOT / "prsa", tmp_path / "other" / "prsa", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / "prsa" / "config.py").open("a") as file:
        file.write("# changed\n")
    return tmp_path / "other"


def whole(results):
    """No stray file: tokens and temporary files are gone, and what has the name of a run is one."""
    found = [path for path in (results / "quick" / "runs").iterdir() if path.name != ".lock"]
    assert all(map(runs.is_finished, found)), found
    return {path.name: path.stat().st_mtime_ns for path in found}


def test_a_worker_with_another_package_is_refused_before_the_first_run(farm, scene, results, bad_package):
    with farm.worker(package=bad_package) as (_, address):
        with pytest.raises(PrsaError) as caught:
            run(planned(scene), executor=cluster.executor(farm.address))
    text = str(caught.value)
    assert text.startswith(f"worker {address} is refused: expected prsa (hash of its files) ") and "torch" not in text
    assert "Fix" in text and len(text) < 900 and whole(results) == {}


def mounted(folder):
    """Shell commands that put something over a folder in a namespace of their own, for each way to share nothing."""
    private = f"mount -t tmpfs none {folder}"
    writes = f"mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w && mount -t overlay -o lowerdir={folder},"
    return {"its reads": private, "its writes": f"{writes}upperdir=/mnt/u,workdir=/mnt/w none {folder}"}


@pytest.mark.parametrize("way, message", [("its reads", "does not see the results folder"),
                                          ("its writes", "this machine does not see what it wrote")])  # fmt: skip
def test_a_folder_that_is_not_shared_is_refused(farm, scene, results, monkeypatch, way, message):
    folder = results / "quick" / "runs"
    folder.mkdir(parents=True)
    over = f"unshare --mount --propagation private bash -c '{mounted(folder)[way]}'"
    if subprocess.run(["bash", "-c", over], capture_output=True).returncode:
        pytest.skip("may not mount anything here: call the tests as root")
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    before = f"""exec unshare --mount --propagation private bash -c '{mounted(folder)[way]}; exec "$@"' bash "$@" """
    with farm.worker(before=before) as (_, address), pytest.raises(PrsaError, match=message) as caught:
        run(planned(scene), executor=cluster.executor(farm.address))
    assert str(caught.value).startswith(f"worker {address} is refused") and whole(results) == {}


def test_a_killed_worker_and_new_ones_give_the_tables_of_the_local_pool(farm, scene, results, alone, bad_package):
    """kill -9 in the middle of a run; then one joins that is in order, and one that is not."""
    plan, said, joined = planned(scene), [], {}

    def disturb(process, address):
        until(lambda: any(key.startswith("task-") for key in farm.client.processing().get(address, ())))
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGKILL)
        with farm.worker(package=bad_package) as (_, joined["bad"]), farm.worker() as (_, joined["good"]):
            until(lambda: over.is_set() or done_by(joined["good"]) > 1)
            joined["runs"] = done_by(joined["good"]) - 1  # its check does not count
            over.wait()

    def count(dask_worker):
        return dask_worker.state.executed_count

    def done_by(address):
        return farm.client.run(count, workers=[address])[address]

    over = threading.Event()
    with farm.worker() as (first, address):
        helper = threading.Thread(target=disturb, args=(first, address))
        helper.start()
        try:
            paths = run(plan, executor=cluster.executor(farm.address, said.append))
        finally:
            over.set()
            helper.join()
    assert tables(plan, paths, results) == alone[0] and len(whole(results)) == 4
    assert any(f"on worker {address}: its worker left or was killed" in line and "again" in line for line in said), said
    assert any(line.startswith(f"worker {joined['bad']} is refused") for line in said) and joined["runs"] > 0, said
    for path, other in zip(paths, map(alone[1].path, alone[1].specs), strict=True):
        for name, values in runs.load_run(path).data_vars.items():
            assert values.values.tobytes() == runs.load_run(other)[name].values.tobytes(), name


def test_a_full_disk_on_one_worker_moves_its_runs(farm, scene, results, alone):
    """Its files may not grow beyond 40 kB: the same way through the code as a full disk, on one worker only."""
    plan, said = planned(scene), []
    with farm.worker(before="ulimit -f 40") as (_, full), farm.worker():
        paths = run(plan, executor=cluster.executor(farm.address, said.append))
    assert tables(plan, paths, results) == alone[0] and len(whole(results)) == 4
    assert any(f"on worker {full}: cannot write" in line and "files may not grow this large" in line for line in said)


def test_a_full_disk_on_all_is_exit_code_2_and_the_next_call_goes_on(farm, scene, results, alone, monkeypatch, capfd):
    folder = results / "quick" / "runs"
    folder.mkdir(parents=True)
    size = 1.5 * alone[1].path(alone[1].specs[0]).stat().st_size
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size:.0f}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small disk here: call the tests as root")
    monkeypatch.setattr(cluster, "RETRIES", 0)
    try:
        with farm.worker():
            given = ["--preset", "quick", "--scenes", str(scene), "--methods", "concat", "--seeds", "1"]
            assert reproduce.main([*given, "--cluster", farm.address]) == 2
            out, err = capfd.readouterr()
            assert "1 of 2 runs are missing: once more" in out and "Traceback" not in err
            assert "error: 1 of 2 runs failed, first tiny__" in err and "the disk is full (df -h shows it)" in err
            assert len(before := whole(results)) == 1
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            run(Plan([str(scene)], 1, ["concat"], "quick"), executor=cluster.executor(farm.address))
            assert len(whole(results)) == 2 and before.items() <= whole(results).items()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


DRIVE = """
import signal, sys
from prsa import reproduce
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(reproduce.main(["--preset", "quick", "--seeds", "40", "--methods", "concat", *sys.argv[1:]]))
"""


def drive(scene, where):
    command = [sys.executable, "-c", DRIVE, "--scenes", str(scene), "--cluster", where, "--jobs", "1"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(files.ROOT)}, **pipe)


@pytest.mark.parametrize("where", ["local", "running"])
def test_ctrl_c_keeps_what_is_finished_and_leaves_a_foreign_scheduler_running(farm, scene, results, where):
    with farm.worker() if where == "running" else nullcontext((farm.scheduler, "")) as (worker, _):
        process = drive(scene, "local" if where == "local" else farm.address)
        try:
            until(lambda: process.poll() is not None or list((results / "quick" / "runs").glob("*.nc")))
            os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all that it started
            out, err = process.communicate(timeout=60)
        finally:
            end(process)
        assert process.returncode == 130 and "Finished runs are kept" in err and "dashboard http" in out, out + err
        assert "Traceback" not in err and err.count("\n") < 6, err
        assert worker.poll() is None and farm.scheduler.poll() is None
    assert 0 < len(whole(results)) < 80


def test_the_scheduler_killed_is_exit_code_2_and_the_next_call_goes_on(scene, results, alone, tmp_path, capfd):
    own = Farm(tmp_path)
    try:
        with own.worker():

            def kill():
                until(lambda: list((results / "quick" / "runs").glob("*.nc")))
                own.client.close()  # this one would complain of the loss
                end(own.scheduler)

            killer = threading.Thread(target=kill)
            killer.start()
            given = ["--preset", "quick", "--scenes", str(scene), "--methods", "concat", "--seeds", "3"]
            assert reproduce.main([*given, "--cluster", own.address]) == 2
            killer.join()
            err = capfd.readouterr().err
            assert f"error: the connection to the scheduler at {own.address} is lost. Finished runs are kept" in err
            assert "Traceback" not in err and 0 < len(before := whole(results)) < 4
    finally:
        own.close()
    plan = planned(scene)
    paths = run(plan, jobs=1, executor=cluster.executor("local"))
    assert before.items() <= whole(results).items() and tables(plan, paths, results) == alone[0]


# A queueing system


SLURM = {"cores": 1, "memory": "1GB", "walltime": "00:20:00", "queue": "short", "account": "eo", "jobs": 1}


def written(path, system="slurm", **changed):
    path.write_text(yaml.safe_dump({system: SLURM | changed}))
    return path


def test_a_job_is_what_the_yaml_file_says(tmp_path):
    path = written(tmp_path / "q.yaml", cores=4, jobs=9, **{"job-script-prologue": ["module load python"]})
    made, options, jobs = schedulers.jobqueue(path)
    with made(**options) as queue:
        script = queue.job_script()
    for line in ("#SBATCH -p short", "#SBATCH -A eo", "#SBATCH --cpus-per-task=4", "#SBATCH -t 00:20:00"):
        assert line in script.splitlines()
    assert all(text in script for text in ("module load python", "--nthreads 1 ", "--nworkers 4 ")) and jobs == 9
    assert f"{sys.executable} -m distributed.cli.dask_worker" in script
    for system, mark in (("pbs", "#PBS -A eo"), ("sge", "#$ -q short")):
        given = {"account": "eo", "queue": "short"}
        path.write_text(yaml.safe_dump({"jobqueue": {system: {"cores": 2, "memory": "2GB", "jobs": 1} | (
            given if system == "pbs" else {"queue": "short"})}}))  # fmt: skip
        made, options, _ = schedulers.jobqueue(path)
        with made(**options) as queue:
            assert mark in queue.job_script()


@pytest.mark.parametrize("text, message", [
    ("slurm: {cores: 1, memory: 1GB, jobs: 1, walltme: '1:00'}", "unknown key walltme of slurm; known: .*walltime"),
    ("slurm: {cores: 4, processes: 2, memory: 1GB, jobs: 1}", "as many processes as cores .*got jobs 1, cores 4"),
    ("slurm: {cores: 4, memory: 1GB}", "expected jobs, cores and memory of a job"),
    ("slurm: {cores: 4, jobs: 1}", "expected jobs, cores and memory of a job.*memory None"),
    ("slrum: {cores: 4}", "expected a YAML file with one of slurm, pbs"),
    ("{", "expected a YAML file with one"), ("just text", "expected a YAML file"), ("", "expected a YAML file"),
])  # fmt: skip
def test_a_wrong_yaml_file_is_one_clear_error(tmp_path, results, scene, capsys, text, message):
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(PrsaError, match=message) as caught:
        cluster.executor(str(tmp_path / "q.yaml"))
    assert len(str(caught.value)) < 900
    assert reproduce.main(["--preset", "quick", "--scenes", str(scene), "--cluster", str(tmp_path / "q.yaml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not results.exists()


def test_an_address_without_scheduler_is_a_clear_error(scene, results, monkeypatch):
    monkeypatch.setattr(schedulers, "PATIENCE", 1)
    with pytest.raises(PrsaError, match="CLUSTER=tcp://127.0.0.1:9: no Dask scheduler answers"):
        run(planned(scene), executor=cluster.executor("tcp://127.0.0.1:9"))
    assert whole(results) == {}


def test_runs_go_through_a_queue(scene, results, tmp_path, monkeypatch, alone):
    """Of a queueing system only sbatch and scancel are ours: they start the job's script as a process, and end it."""
    submit = 'job=$(cat "$1"); setsid bash -c "$job" >/dev/null 2>&1 & echo "Submitted batch job $!"'
    commands = {"sbatch": submit, "scancel": "kill -- -$1"}
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(files.ROOT))
    monkeypatch.chdir(tmp_path)
    plan, said = planned(scene), []
    specs = plan.specs[:2]
    where = written(tmp_path / "q.yaml", interface="lo")
    for spec, path in zip(specs, run(plan, specs, executor=cluster.executor(str(where), said.append)), strict=True):
        mine, theirs = runs.load_run(path), runs.load_run(alone[1].path(spec))
        assert all(mine[name].values.tobytes() == theirs[name].values.tobytes() for name in runs.VARIABLES)
    assert said[0].startswith("scheduler tcp://127.0.0.1:") and "dashboard http://127.0.0.1:" in said[0]
