"""The driver of the study: what papermill lets pass must stop here. Notebooks and kernels are real, and tiny."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest

from prsa import files, reproduce
from prsa.errors import PrsaError


@pytest.fixture(scope="module", autouse=True)
def kernel(tmp_path_factory):
    """The kernel `prsa` is this interpreter, registered where JUPYTER_PATH is searched first, whatever else is installed."""
    prefix = tmp_path_factory.mktemp("kernel")
    subprocess.run(
        [sys.executable, "-m", "ipykernel", "install", "--prefix", prefix, "--name", reproduce.KERNEL],
        check=True,
        capture_output=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(prefix / "share" / "jupyter"))
        yield


def notebook(path, *cells, parameters="seeds = 1\nscenes = ['sim-sar']"):
    nb = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "prsa", "display_name": "Python (prsa)", "language": "python"}}
    )
    nb.cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, cells),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def texts(path):
    return "".join(
        output.get("text", "") for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_parameters_arrive_and_the_notebook_runs_in_its_folder(tmp_path):
    show = "import os, sys\nprint(seeds, scenes, methods, os.getcwd(), sys.executable)"
    path = notebook(
        tmp_path / "in {x}" / "01_a.ipynb",
        show,
        parameters="seeds = 1\nscenes = []\nmethods = None  # those of the study",
    )
    out = tmp_path / "out {x}" / "a.ipynb"
    assert reproduce.run_notebook(path, out, {"seeds": np.float64(3), "scenes": ["/a 'b\".nc"], "methods": None}) == out
    assert texts(out).split("\n")[0] == f"""3.0 ['/a \\'b".nc'] None {path.parent} {sys.executable}"""
    assert names(out.parent) == ["a.ipynb"]


def test_a_kernel_that_is_ended_has_nothing_to_say(tmp_path):
    """A kernel that is interrupted on its way out would log an error, in one notebook of a dozen."""
    path = notebook(tmp_path / "01_a.ipynb", "print('level', get_ipython().kernel.parent.log_level)")
    assert "level 50" in texts(reproduce.run_notebook(path, tmp_path / "a.ipynb", {}))


def test_unknown_parameter_is_refused_before_anything_is_written(tmp_path):
    path, out = notebook(tmp_path / "01_a.ipynb"), tmp_path / "out" / "a.ipynb"
    with pytest.raises(PrsaError, match=r"01_a.ipynb: unknown parameter sceens.*declares scenes, seeds"):
        reproduce.run_notebook(path, out, {"sceens": ["sim-tri"]})
    assert not out.parent.exists()


@pytest.mark.parametrize(
    "line",
    [
        "seeds: int = 5  # runs = scenes x methods x seeds",
        "seeds = 5 if len('a') == 1 else 2",
        "seeds: int | None = 5",
        "seeds = (",
    ],
)
def test_a_parameter_papermill_does_not_see_is_refused(tmp_path, line):
    with pytest.raises(PrsaError, match="01_a.ipynb: .*one plain literal per line"):
        reproduce.declared(notebook(tmp_path / "01_a.ipynb", parameters=line))


def test_parameters_papermill_reads_are_accepted(tmp_path):
    path = notebook(
        tmp_path / "01_a.ipynb",
        parameters="seeds = 5  # per scene; e.g. five\nscenes = ['sim-sar',\n          'sim-tri']\nmethods = None",
    )
    assert reproduce.declared(path) == {"seeds", "scenes", "methods"}
    assert reproduce.declared(notebook(tmp_path / "02_b.ipynb", parameters="")) == set()


@pytest.mark.parametrize(
    "value", [(1, 2), np.int64(3), np.arange(2), {1: 2}, float("nan"), {1, 2}, ["a", (1,)]], ids=repr
)
def test_values_papermill_would_spoil_are_refused(value):
    with pytest.raises(PrsaError, match="notebook parameter seeds"):
        reproduce.plain({"seeds": value})


def test_numpy_float_becomes_a_float():
    assert type(reproduce.plain({"x": np.float64(0.5)})["x"]) is float


def test_a_failing_cell_leaves_no_output_under_the_final_name(tmp_path):
    path, out = (
        notebook(tmp_path / "01_a.ipynb", "print('before')", "assert seeds > 1, 'too few seeds'"),
        tmp_path / "out" / "01_a.ipynb",
    )
    reproduce.run_notebook(path, out, {"seeds": 2})
    with pytest.raises(
        PrsaError,
        match=r"01_a.ipynb failed in cell 4 \(In \[4\], .*\): AssertionError: too few seeds\n.*01_a.failed.ipynb",
    ):
        reproduce.run_notebook(path, out, {"seeds": 1})
    assert names(out.parent) == ["01_a.failed.ipynb"]  # the copy of the first call would pass for this one's
    assert "before" in texts(out.parent / "01_a.failed.ipynb")
    reproduce.run_notebook(path, out, {"seeds": 2})
    assert names(out.parent) == ["01_a.ipynb"]


def test_a_kernel_that_dies_or_is_missing_is_an_error_without_output(tmp_path):
    path, out = notebook(tmp_path / "01_a.ipynb", "import os\nos._exit(1)"), tmp_path / "out" / "a.ipynb"
    with pytest.raises(PrsaError, match="kernel died"):
        reproduce.run_notebook(path, out, {})
    with pytest.raises(PrsaError, match="no-such.*make env"):
        reproduce.run_notebook(path, out, {}, kernel="no-such")
    assert names(out.parent) == []


def test_notebooks_get_what_they_declare_and_one_failure_stops_no_other(tmp_path):
    good = notebook(
        tmp_path / "01_good.ipynb",
        "import os\nprint('seeds', seeds, os.environ['OMP_NUM_THREADS'])",
        parameters="seeds = 1",
    )
    bad = notebook(tmp_path / "02_bad.ipynb", "1 / 0", parameters="jobs = 1")
    last = notebook(tmp_path / "03_last.ipynb", "print('last')", parameters="")
    said, results = [], tmp_path / "results"
    with pytest.raises(PrsaError, match=r"1 of 3 notebooks failed:\n02_bad.ipynb.*ZeroDivisionError"):
        reproduce.run_notebooks([good, bad, last], results, {"seeds": 7, "jobs": 2}, 2, said.append)
    assert names(results / "notebooks") == ["01_good.ipynb", "02_bad.failed.ipynb", "03_last.ipynb"]
    assert names(results / "report") == ["01_good.html", "03_last.html"]
    assert f"seeds 7 {max(1, reproduce.cores() // 2)}" in texts(results / "notebooks" / "01_good.ipynb")
    assert "seeds 7" in (results / "report" / "01_good.html").read_text()
    assert sorted(line.split(" after")[0] for line in said) == [
        "  01_good.ipynb: done",
        "  02_bad.ipynb: failed",
        "  03_last.ipynb: done",
    ]


def test_an_interrupt_ends_every_notebook_and_leaves_nothing(tmp_path):
    path = notebook(
        tmp_path / "01_slow.ipynb",
        f"open({str(tmp_path / 'started')!r}, 'w').write(str(__import__('os').getpid()))",
        "import time\ntime.sleep(300)",
    )
    # a parent started in the background of a script hands down an ignored SIGINT
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from prsa.reproduce import run_notebooks; from pathlib import Path; run_notebooks([Path({str(path)!r})], Path({str(tmp_path / 'r')!r}), {{}}, 1)"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=files.ROOT, stderr=subprocess.PIPE)
    _until(lambda: (tmp_path / "started").is_file() and (tmp_path / "started").read_text())
    driver.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in driver.communicate(timeout=120)[1]
    kernel = int((tmp_path / "started").read_text())
    _until(lambda: not _alive(kernel))
    assert names(tmp_path / "r" / "notebooks") == [] and names(tmp_path / "r" / "report") == []


def _until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def _alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:  # a zombie has ended
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


BAD_INPUT = [
    (["--seeds", "0"], "SEEDS: expected 1 or more, got 0"),
    (["--seeds", "many"], "--seeds: invalid int value"),
    (["--jobs", "0"], "JOBS: expected 1 or more, got 0"),
    (["--scenes", "sim-radar"], "unknown scene 'sim-radar'"),
    (["--scenes", "nowhere/scene.nc"], "no scene file at"),
    (["--methods", "prsanett"], "unknown method 'prsanett'"),
    (["--device", "gpu"], "device 'gpu' is not usable"),
    (["--preset", "huge"], "invalid choice"),
    (["--together", "maybe"], "invalid choice"),
    (["--scene", "sim-sar"], "unrecognized arguments"),
]


@pytest.mark.parametrize(
    "arguments, message", BAD_INPUT, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    assert reproduce.main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and message in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "results").exists()


def test_a_damaged_scene_file_ends_the_process_with_code_2(tmp_path):
    (tmp_path / "scene.nc").write_bytes(b"no netCDF")
    done = subprocess.run(
        [sys.executable, "-m", "prsa.reproduce", "--scenes", tmp_path / "scene.nc"],
        cwd=files.ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PRSA_RESULTS": str(tmp_path / "results")},
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: scene.nc: expected a readable netCDF file")
        and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "given, together",
    [([], None), (["--together", "auto"], None), (["--together", "yes"], True), (["--together", "no"], False)],
)
def test_together_reaches_the_grid(tmp_path, monkeypatch, given, together):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    asked = []

    def grid(specs, jobs, device, on_round, together):
        asked.append(together)
        raise PrsaError("far enough")

    monkeypatch.setattr("prsa.study.execute.run_grid", grid)
    assert reproduce.main(["--preset", "quick", *given]) == 2 and asked == [together]


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "reproduce", interrupted)
    assert reproduce.main([]) == 130 and "Finished runs are kept" in capsys.readouterr().err


def test_relative_scene_files_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        reproduce._absolute("a/scene.nc") == str(tmp_path / "a" / "scene.nc")
        and reproduce._absolute("sim-sar:3") == "sim-sar:3"
    )
