"""The driver, and what it writes: real notebooks, kernels, processes, kills and disks that take no more; all tiny."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from tiny import make_scene

from prsa import PrsaError, files, reproduce, save_scene
from prsa.study import runs


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"  # a zombie has ended
    except FileNotFoundError:
        return False


def python(code, *arguments, limit=None, group=False, **options):
    """A process of this interpreter; ``limit``: bytes that a file may grow to, as if the disk were full there."""
    environment = os.environ | {"PYTHONPATH": str(files.ROOT)} | options.pop("env", {})
    before = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment} | options
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, preexec_fn=before, start_new_session=group, **options)


# Whole or not at all


def test_what_is_written_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with files.whole(path) as temporary:
            temporary.write_text(text)
            assert names(path.parent) == sorted([temporary.name] + ["a.txt"] * (text == "second"))
            assert temporary.name[0] == "." and temporary.suffix == ".tmp", "no pattern of results finds it"
        assert path.read_text() == text and names(path.parent) == ["a.txt"] and path.stat().st_mode & 0o777 == 0o644
    for error in (RuntimeError("half"), ConnectionError("no network"), KeyboardInterrupt()):
        with pytest.raises(type(error)), files.whole(path) as temporary:
            temporary.write_text("half")
            raise error
        assert path.read_text() == "second" and names(path.parent) == ["a.txt"]


WHY = {
    errno.ENOSPC: "disk is full",
    errno.EDQUOT: "quota",
    errno.EROFS: "mounted read-only",
    errno.EACCES: "not yours to write",
    errno.EIO: "fault",
}


@pytest.mark.parametrize("number", WHY)
def test_a_disk_that_refuses_is_told_with_path_cause_and_fix(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    for call in ("tempfile.mkstemp", "pathlib.Path.write_text", "os.replace", "pathlib.Path.mkdir"):
        with monkeypatch.context() as patch, pytest.raises(PrsaError) as caught:
            patch.setattr(call, refuse)
            files.write_text("x", tmp_path / "a" / "b.txt")
        text = str(caught.value)
        assert str(tmp_path / "a" / "b.txt") in text and WHY[number] in text and os.strerror(number) in text
        assert "PRSA_RESULTS" in text and len(text) < 900 and names(tmp_path / "a") == []


def test_what_stands_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("x"), (tmp_path / "folder").mkdir(), (tmp_path / "link").symlink_to("nowhere")
    for path, message in (
        ("file/a.txt", "a file or broken link stands where a folder is needed"),
        ("file/deep/a.txt", "a file stands where a folder is needed"),
        ("link/a.txt", "broken link stands"),
        ("folder", "a folder stands where the file is to go"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(PrsaError, match=message):
            files.write_text("x", tmp_path / path)
    assert names(tmp_path) == ["file", "folder", "link"]


FULL = """
import sys
import matplotlib.pyplot as plt, numpy as np, xarray as xr
from pathlib import Path
from prsa import PrsaError, files, figures, open_scene, save_scene
out, wide = Path(sys.argv[1]), open_scene(sys.argv[2])
figure = plt.figure()
figure.gca().imshow(np.random.rand(300, 300))
for write in (
    lambda: files.write_text("x" * 30000, out / "a.md"),
    lambda: files.atomic_netcdf(xr.Dataset({"a": ("x", np.random.rand(10000))}), out / "b.nc"),
    lambda: save_scene(wide, out / "c.nc"),
    lambda: figures.save(figure, out / "d"),
):
    try:
        write()
    except PrsaError as error:
        print("files may not grow this large" in str(error))
"""


def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing_and_crashes_nothing(tmp_path):
    """HDF5 would end the process with a signal, and both netCDF libraries would print tracebacks."""
    wide, out = save_scene(make_scene(shape=(80, 80)), tmp_path / "wide.nc"), tmp_path / "out"
    out.mkdir()
    done = python(FULL, out, wide, limit=20000)
    assert (done.communicate(), done.returncode) == (("True\n" * 4, ""), 0) and names(out) == []


def test_a_relative_results_folder_is_one_place(tmp_path):
    """For the caller, after a change of folder, for child processes, for a kernel that a server started elsewhere."""
    inner = "from prsa import files; print(files.results(), files.data())"
    code = f"import os, subprocess, sys; from prsa import files; os.chdir('/'); {inner}; "
    code += f"print(subprocess.run([sys.executable, '-c', {inner!r}], capture_output=True, text=True).stdout)"
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir(), elsewhere.mkdir()
    where, environment = str(here / "my results"), {"PRSA_RESULTS": "my results", "PRSA_DATA": "../data"}
    kernel = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], cwd=sys.argv[2], env="
    kernel += "__import__('os').environ | {'JPY_PARENT_PID': str(__import__('os').getpid())})"
    for call in ((code,), (kernel, code, elsewhere)):
        out, err = python(*call, cwd=here, env=environment).communicate()
        assert out.split("\n")[:2] == [f"{where} {tmp_path / 'data'}"] * 2, err


HOLD = """
import sys, time
from pathlib import Path
from prsa import files
with files.held(Path(sys.argv[1]), lambda text: print(text, flush=True)):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_one_call_at_a_time_holds_a_folder_and_a_kill_frees_it(tmp_path):
    first = python(HOLD, tmp_path / "new", 300)
    assert first.stdout.readline() == "held\n"
    second = python(HOLD, tmp_path / "new", 0)
    assert "another call is at work" in second.stdout.readline() and second.poll() is None
    first.kill()
    assert second.communicate(timeout=60)[0] == "held\n" and second.returncode == 0
    first.communicate()


# Notebooks


@pytest.fixture(scope="module", autouse=True)
def kernel(tmp_path_factory):
    """The kernel `prsa` is this interpreter, registered where JUPYTER_PATH is searched first, whatever is installed."""
    prefix = tmp_path_factory.mktemp("kernel")
    install = [sys.executable, "-m", "ipykernel", "install", "--prefix", prefix, "--name", reproduce.KERNEL]
    subprocess.run(install, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(prefix / "share" / "jupyter"))
        yield


def notebook(path, *cells, parameters="seeds = 1\nscenes = ['sim-sar']"):
    spec = {"name": "prsa", "display_name": "Python (prsa)", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
    nb.cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    nb.cells += map(nbformat.v4.new_code_cell, cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def texts(path):
    outputs = (output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


def test_parameters_arrive_and_the_notebook_runs_in_its_folder(tmp_path):
    show = "import os, sys\nprint(seeds, scenes, methods, os.getcwd(), sys.executable)"
    show += "\nprint('level', get_ipython().kernel.parent.log_level)"
    given = "seeds = 1\nscenes = []\nmethods = None  # those of the study"
    path = notebook(tmp_path / "in {x}" / "01_a.ipynb", show, parameters=given)
    out = tmp_path / "out {x} (2)" / "a.ipynb"
    assert reproduce.run_notebook(path, out, {"seeds": 3, "scenes": ["/a 'b\".nc"], "methods": None}) == out
    first, level = texts(out).splitlines()
    assert first == f"""3 ['/a \\'b".nc'] None {path.parent} {sys.executable}"""
    assert level == "level 50", "a kernel that is interrupted on its way out has nothing to say"
    assert names(out.parent) == ["a.ipynb"]


def test_what_cannot_run_is_refused_before_anything_is_written(tmp_path):
    path, out = notebook(tmp_path / "01_a.ipynb"), tmp_path / "out" / "a.ipynb"
    with pytest.raises(PrsaError, match="01_a.ipynb: unknown parameter sceens; declared: scenes, seeds"):
        reproduce.run_notebook(path, out, {"sceens": ["sim-tri"]})
    (tmp_path / "02_b.ipynb").write_text("no notebook")
    for name, message in (("02_b.ipynb", "expected a notebook, got"), ("03_c.ipynb", "no notebook at")):
        with pytest.raises(PrsaError, match=message):
            reproduce.run_notebook(tmp_path / name, out, {})
    assert not out.parent.exists()


def test_a_failing_cell_leaves_no_output_under_the_final_name(tmp_path):
    path = notebook(tmp_path / "01_a.ipynb", "print('before')", "assert seeds > 1, 'too few seeds'")
    out = tmp_path / "out" / "01_a.ipynb"
    reproduce.run_notebook(path, out, {"seeds": 2})
    with pytest.raises(PrsaError, match=r"01_a.ipynb failed in cell 4 \(In \[4\], .*\): AssertionError: too few seeds"):
        reproduce.run_notebook(path, out, {"seeds": 1})
    assert names(out.parent) == ["01_a.failed.ipynb"], "the copy of the first call would pass for this one's"
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
    show = "import os\nprint('seeds', seeds, os.environ['OMP_NUM_THREADS'])"
    markdown = "from IPython.display import Markdown\nMarkdown('**<script>alert(1)</script>** & *roof*')"
    bad_names = "['<script>alert(2)</script>', '<img src=x onerror=alert(3)>', '<p onclick=alert(4)>', 'a < b']"
    styled = f"import pandas as pd\npd.DataFrame({{'class': {bad_names}}}).style"  # which does not escape
    good = notebook(tmp_path / "01_good.ipynb", show, markdown, styled, parameters="seeds = 1")
    bad = notebook(tmp_path / "02_bad.ipynb", "1 / 0", parameters="jobs = 1")
    last = notebook(tmp_path / "03_last.ipynb", "print('last')", parameters="")
    said, results = [], tmp_path / "results"
    with pytest.raises(PrsaError, match="1 of 3 notebooks failed, see above: 02_bad.ipynb"):
        reproduce.run_notebooks([good, bad, last], results, {"seeds": 7, "jobs": 2}, 2, said.append)
    assert names(results / "notebooks") == ["01_good.ipynb", "02_bad.failed.ipynb", "03_last.ipynb"]
    assert names(results / "report") == ["01_good.html", "03_last.html", "GLOSSARY.html", *REPORT[2:]]
    assert f"seeds 7 {max(1, reproduce.cores() // 2)}" in texts(results / "notebooks" / "01_good.ipynb")
    page = (results / "report" / "01_good.html").read_text()
    assert "seeds 7" in page and "<em>roof</em>" in page and "a &lt; b" in page and "<table" in page and "<td" in page
    assert not re.search(r"<script>\s*alert|<img src=.x|<[^>]*on(click|error)=", page), "a name is no HTML"
    assert [line.split(" after")[0] for line in sorted(said)][::2] == ["  01_good.ipynb: done", "  03_last.ipynb: done"]
    assert "02_bad.ipynb failed in cell 3" in sorted(said)[1] and "ZeroDivisionError" in sorted(said)[1]


@pytest.mark.parametrize("sent", ["INT", "KILL"])
def test_an_end_of_the_driver_ends_every_notebook_and_leaves_nothing(tmp_path, sent):
    mark = f"open({str(tmp_path / 'started')!r}, 'w').write(str(__import__('os').getpid()))"
    path = notebook(tmp_path / "01_slow.ipynb", mark, "import time\ntime.sleep(300)")
    code = "import signal, sys; from pathlib import Path; from prsa.reproduce import run_notebooks\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may be deaf to it\n"
    code += "if __name__ == '__main__': run_notebooks([Path(sys.argv[1])], Path(sys.argv[2]), {}, 1)"
    driver = python(code, path, tmp_path / "r", group=True)
    until(lambda: (tmp_path / "started").is_file() and (tmp_path / "started").read_text())
    send = os.killpg if sent == "INT" else os.kill  # a terminal sends Ctrl-C to the whole group
    send(driver.pid, getattr(signal, f"SIG{sent}"))
    err = driver.communicate(timeout=120)[1]
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == (sent == "INT")
    kernel = int((tmp_path / "started").read_text())
    until(lambda: not is_alive(kernel))
    assert [n for n in names(tmp_path / "r" / "notebooks") if n[0] != "."] == [] == names(tmp_path / "r" / "report")


# The whole study


BAD_INPUT = [
    (["--seeds", "0"], "SEEDS: expected 1 or more, got 0"),
    (["--seeds", "many"], "--seeds: invalid int value"),
    (["--jobs", "0"], "JOBS: expected 1 or more, got 0"),
    (["--scenes", "sim-radar"], "unknown scene 'sim-radar'"),
    (["--scenes", "nowhere/scene.nc"], "no scene file at"),
    (["--methods", "prsanett"], "unknown method 'prsanett'"),
    (["--device", "gpu"], "device 'gpu' is not usable"),
    (["--preset", "huge"], "invalid choice"),
    (["--scene", "sim-sar"], "unrecognized arguments"),
]


@pytest.mark.parametrize("arguments, message", BAD_INPUT, ids=lambda value: " ".join(value) * isinstance(value, list))
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    assert reproduce.main(["--preset", "quick", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and message in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "results").exists()


def test_scenes_of_a_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a scene (2).nc", "it's.nc"):
        (tmp_path / name).touch()
    assert reproduce.listed("a scene (2).nc") == ["a scene (2).nc"] and reproduce.listed("it's.nc") == ["it's.nc"]
    assert reproduce.listed("sim-sar a scene (2).nc sim-tri:3") == ["sim-sar", "a scene (2).nc", "sim-tri:3"]
    assert reproduce.listed("'b c.nc' sim-sar") == ["b c.nc", "sim-sar"]


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "reproduce", interrupted)
    assert reproduce.main([]) == 130 and "Finished runs are kept" in capsys.readouterr().err


DRIVE = """
import json, os, resource, sys
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np
from prsa import figures, files, reproduce
plt.imshow(np.random.rand(90, 90))
figures.write_all = lambda tables, runs, folder, *_: figures.save(plt.gcf(), folder / "one")  # a minute less
files.NOTEBOOKS = Path(sys.argv[1])
given = ["--preset", "quick", "--seeds", "1", "--methods", "concat", "--jobs", "1", "--scenes", sys.argv[2]]
if __name__ == "__main__":
    for results, limit, *more in json.loads(sys.argv[3]):
        os.environ["PRSA_RESULTS"] = results
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        code = reproduce.main([*given, *more])
        for stream in (sys.stdout, sys.stderr):
            print(f"end of a call: {code}", file=stream)
    sys.exit(code)
"""

END, FREE = "end of a call: ", resource.RLIM_INFINITY
REPORT = ["01_a.html", "02_b.html", "index.html", "tables.html"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a scene of an awkward name and two notebooks."""
    folder = tmp_path_factory.mktemp("a (room)")
    save_scene(make_scene(), folder / "scene (2) & co.nc")
    opened = "from prsa.study import Plan\nprint(len(Plan(scenes, seeds, ['concat'], preset).open()), 'runs')"
    long, given = "print('<' * 70_000)", "scenes = []\nseeds = 2\npreset = 'quick'"  # four times as long in HTML
    for name, cells in (("01_a", [opened, long]), ("02_b", [long])):
        notebook(folder / "notebooks" / f"{name}.ipynb", *cells, parameters=given)
    return folder


def drive(room, *calls, **options):
    """A process that calls the driver once or in turn; of each call: results folder, bytes that a file may grow to."""
    calls = json.dumps([[str(results), limit, *map(str, more)] for results, limit, *more in calls])
    return python(DRIVE, room / "notebooks", room / "scene (2) & co.nc", calls, **options)


def several(room, *calls):
    """Exit code, output and errors of every call."""
    out, err = drive(room, *calls).communicate()
    codes = [int(code) for code in re.findall(rf"{END}(\d+)\n", out)]
    assert len(codes) == len(calls), err
    return list(zip(codes, *(re.split(rf"{END}\d+\n", text) for text in (out, err))))


def tables(results):
    found = (results / "quick" / "tables").glob("[!.]*")
    return {path.name: path.read_bytes() for path in found if path.suffix in (".csv", ".md", ".tex")}


@pytest.fixture(scope="module")
def undisturbed(room, tmp_path_factory, kernel):
    """Results of a study into a folder with those of an earlier one."""
    results = tmp_path_factory.mktemp("results")
    for name in ("tables/old.csv", "notebooks/09_old.ipynb", "report/09_old.html"):
        (results / "quick" / name).parent.mkdir(parents=True)
        (results / "quick" / name).write_text("of an earlier study")
    (results / "quick" / "tables" / "notes.txt").write_text("mine")
    process = drive(room, (results, FREE, "--jobs", 2))
    out, err = process.communicate()
    assert process.returncode == 0 and "Traceback" not in err, out + err
    return results, out


def test_the_study_is_written_and_nothing_of_an_earlier_one_stays(undisturbed):
    results, out = undisturbed
    here = results / "quick"
    assert out.index("first look: ") < out.index("seed 0 finished") and list(
        (here / "figures").glob("first_look_*.png")
    )
    assert "2 runs (scene" in out and "seed 0 finished: tables of 1 of 1 seeds" in out and "done in" in out
    assert {"tables", "figures", "notebooks", "report", "runs", "timing.json", "study.json"} <= set(names(here))
    assert "notes.txt" in names(here / "tables") and not list(here.rglob("*old*")) and not list(here.rglob("*.tmp"))
    kinds = {suffix: {p.stem for p in (here / "tables").glob(f"*{suffix}")} for suffix in (".csv", ".md", ".tex")}
    assert kinds[".csv"] == kinds[".md"] == kinds[".tex"] > {"accuracy", "datasets", "claims"}
    assert {p.stem for p in (here / "figures").glob("*.png")} == {p.stem for p in (here / "figures").glob("*.pdf")}
    assert names(here / "report") == REPORT and len(names(here / "runs")) == 2
    assert "2 runs" in texts(here / "notebooks" / "01_a.ipynb"), "parameters arrive, the path is absolute"


def test_the_status_says_what_is_there_missing_or_stale(room, undisturbed, tmp_path, monkeypatch, capsys):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    monkeypatch.setattr(files, "NOTEBOOKS", room / "notebooks")
    given = ["--preset", "quick", "--seeds", "1", "--methods", "concat", "--scenes", str(room / "scene (2) & co.nc")]

    def asked(*arguments):
        assert reproduce.main([*given, "--status", *arguments]) == 0
        out, err = capsys.readouterr()
        return dict(line.split(maxsplit=1) for line in out.splitlines()), err

    lines, err = asked()
    assert lines["all"] == "2 runs are there" and lines["accuracy"] == lines["claims"] == "up to date", err
    lines, _ = asked("--seeds", "3")
    assert lines["accuracy"].startswith("4 of 6 runs are missing, about 0.") and lines["dial"] == "up to date"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "nothing is written"
    (path, _) = (tmp_path / "quick" / "runs").iterdir()
    run = runs.load_run(path)
    versions = json.dumps(json.loads(run.attrs["versions"]) | {"torch": "1.0"})
    runs.save_run(run.assign_attrs(versions=versions), path)
    (tmp_path / "quick" / "tables" / "ranking.csv").unlink()
    lines, _ = asked()
    assert lines["1"].startswith("runs were trained with torch 1.0, now 2.")
    assert lines["accuracy"].startswith("stale: 1 runs (trained with torch 1.0, now 2.")
    assert lines["figures/one"] == lines["accuracy"] and lines["datasets"] == "up to date"
    made = tmp_path / "quick" / "tables" / "runs.json"
    made.write_text(made.read_text().replace("__concat__", '__concat__s7__0123456789abcdef.nc", "__concat__'))
    lines, _ = asked()
    assert lines["accuracy"] == "stale: it holds 2 runs (not planned, or deleted)"
    assert lines["ranking"] == "not written yet"


def test_killed_anywhere_two_calls_at_once_go_on(room, undisturbed, tmp_path):
    """kill -9 of the driver, alone or with all it started, while it trains, writes tables, figures and notebooks; then
    two calls find a run, tables and notebooks to make.
    """
    here = tmp_path / "quick"
    moments = (
        lambda: list((here / "runs").glob(".*.tmp")) or names(here / "runs"),
        lambda: (here / "tables").is_dir(),
        lambda: list((here / "figures").glob("[!f]*")),  # the first look is there before the tables
        lambda: list((here / "notebooks").glob(".*.tmp")),
    )
    whole = tables(undisturbed[0])
    for i, moment in enumerate(moments):
        process = drive(room, (tmp_path, FREE), group=True)
        until(moment)
        (os.killpg if i % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
        assert tables(tmp_path).items() <= whole.items(), "a table is whole, or not there"
    next((here / "runs").glob("*concat*.nc")).unlink()
    processes = [drive(room, (tmp_path, FREE)) for _ in range(2)]
    outs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and "Traceback" not in str(outs)
    assert "another call is at work" in outs[0][0] + outs[1][0]
    for left in here.rglob(".*.tmp"):  # what was just killed is swept later: it might be at work
        left.unlink()
    assert tables(tmp_path) == whole and len(names(here / "runs")) == 2
    assert names(here / "report") == REPORT


FULL_AT = {"runs": 300, "tables": 300, "figures": 20_000, "report": 250_000}  # bytes that a file may grow to


def test_a_disk_that_is_full_is_exit_code_2_wherever_it_happens(room, undisturbed, tmp_path):
    for what in [what for what in FULL_AT if what != "runs"]:
        shutil.copytree(undisturbed[0] / "quick" / "runs", tmp_path / what / "quick" / "runs")
    calls = several(room, *((tmp_path / what, limit) for what, limit in FULL_AT.items()))
    for what, (code, out, err) in zip(FULL_AT, calls, strict=True):
        said = out + err
        assert code == 2 and "Traceback" not in said and err.splitlines()[-1].startswith("error: "), (what, said)
        assert f"cannot write {tmp_path / what / 'quick' / what}" in said, (what, said)
        assert "files may not grow this large" in said and not list((tmp_path / what).rglob("*.tmp")), what


def test_a_folder_that_cannot_be_made_and_a_damaged_scene_are_exit_code_2(room, tmp_path):
    (tmp_path / "file").write_text("x"), (tmp_path / "scene.nc").write_bytes(b"no netCDF")
    folders = [tmp_path / "file" / "results", "/sys/prsa"]
    damaged = tmp_path / "results", 10**9, "--scenes", tmp_path / "scene.nc"
    *refused, scene = several(room, *((where, 10**9) for where in folders), damaged)
    for where, (code, out, err) in zip(folders, refused, strict=True):
        assert code == 2 and err.startswith(f"error: cannot write {where}") and not out and err.count("\n") == 1
    assert scene[0] == 2 and scene[2].startswith("error: scene.nc: expected a readable netCDF file")
    assert "Traceback" not in scene[2] and names(tmp_path) == ["file", "scene.nc"]
