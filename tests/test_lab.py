"""A reader's own copies of the notebooks, and JupyterLab as `make lab` starts it."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from prsa import files, lab
from prsa.errors import PrsaError


def write(path, *sources, output=""):
    cells = [new_code_cell(source, id=f"c{i}") for i, source in enumerate(sources)]
    if output:
        cells[0].outputs = [new_output("stream", text=output)]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def read(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_a_copy_stays_the_readers_and_a_new_version_is_offered(tmp_path):
    ours, work = tmp_path / "notebooks", tmp_path / "work"
    write(ours / "00_a.ipynb", "one"), write(ours / "01_b.ipynb", "one")
    assert lab.copies(ours, work) == [f"2 notebooks copied to {work}"]
    assert lab.copies(ours, work) == [] and read(work / "00_a.ipynb") == ["one"]

    write(work / "00_a.ipynb", "one", output="saved by JupyterLab")
    write(work / "01_b.ipynb", "mine", output="saved by JupyterLab")
    assert lab.copies(ours, work) == [], "the originals are as they were"
    assert "saved" in (work / "00_a.ipynb").read_text()

    write(ours / "00_a.ipynb", "two"), write(ours / "01_b.ipynb", "two")
    said = lab.copies(ours, work)
    assert said == [
        f"{work / '00_a.ipynb'}: a new version; you had not changed yours",
        f"{work / '01_b.ipynb'} has changes of yours and stays; its new version is beside it: 01_b.new.ipynb",
    ]
    assert read(work / "00_a.ipynb") == ["two"] == read(work / "01_b.new.ipynb") and read(work / "01_b.ipynb") == [
        "mine"
    ]
    assert lab.copies(ours, work) == [], "offered once"

    write(work / "01_b.new.ipynb", "two", "mine again")
    write(ours / "01_b.ipynb", "three")
    assert lab.copies(ours, work)[0].endswith("01_b.new1.ipynb")
    assert read(work / "01_b.new.ipynb") == ["two", "mine again"] and read(work / "01_b.new1.ipynb") == ["three"]
    write(ours / "01_b.ipynb", "four")
    assert lab.copies(ours, work)[0].endswith("01_b.new1.ipynb") and read(work / "01_b.new1.ipynb") == ["four"]
    (work / "00_a.ipynb").unlink()
    (work / "01_b.ipynb").write_text("no notebook any more")
    lab.copies(ours, work)
    assert read(work / "00_a.ipynb") == ["two"] and (work / "01_b.ipynb").read_text() == "no notebook any more"


def test_copies_of_an_earlier_version_of_the_command_are_kept(tmp_path):
    ours, work = tmp_path / "notebooks", tmp_path / "work"
    write(ours / "00_a.ipynb", "ours"), write(work / "00_a.ipynb", "theirs")
    assert "stays" in lab.copies(ours, work)[0] and read(work / "00_a.ipynb") == ["theirs"]


def test_the_copies_are_those_of_the_repository(tmp_path):
    lab.copies(files.NOTEBOOKS, tmp_path)
    for path in files.NOTEBOOKS.glob("*.ipynb"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    for path in files.NOTEBOOKS.glob("course/*.ipynb"):
        copied = nbformat.read(tmp_path / "course" / path.name, as_version=4)
        solutions = [c for c in copied.cells if "solution" in c.metadata.get("tags", []) and c.cell_type == "code"]
        assert solutions and all("..." in cell.source for cell in solutions), path.name


def test_a_port_that_is_taken_is_one_clear_error():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PrsaError, match=f"PORT: expected a free port, got {port}.*Fix: make lab PORT="):
            lab._port(port)
    with pytest.raises(PrsaError, match="got 99999"):
        lab._port(99999)
    assert lab._port(port) == port and lab.PORT <= lab._port(None) < lab.PORT + 100


def test_jupyterlab_starts_says_where_and_serves_the_copies_with_the_kernel(tmp_path):
    """In a copy of the repository's form, as root too, without a screen."""
    code = "import sys; from pathlib import Path; from prsa import files, lab\nfiles.HOME = Path(sys.argv[1])\n"
    code += "sys.exit(lab.main(['--port', sys.argv[2]]))"
    port = lab._port(None)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "DISPLAY"))}
    command = [sys.executable, "-c", code, tmp_path, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean)
    try:
        said = [process.stdout.readline() for _ in range(3)]
        address = re.search(rf"http://localhost:{port}/lab/tree/work/00_start_here.ipynb\?token=(\w+)", "".join(said))

        def get(path):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}?token={address[1]}", timeout=10).read()

        for _ in range(300):
            try:
                found = json.loads(get("api/contents/work/00_start_here.ipynb"))
                break
            except urllib.error.URLError:
                assert process.poll() is None, process.stdout.read()
                time.sleep(0.1)
        assert found["type"] == "notebook" and (tmp_path / "work" / "00_start_here.ipynb").is_file()
        assert "prsa" in json.loads(get("api/kernelspecs"))["kernelspecs"]
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents", timeout=10)
    finally:
        process.terminate()
        process.wait(30)
