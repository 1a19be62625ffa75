"""Does the study survive kills, two calls at once, a full disk, flipped bytes and odd scenes? `make campaign`.

``PYTHONPATH=tests python -m record.campaign [KILLS] [SCENES]`` (100 and 500: about an hour) prints a table and writes
``results/campaign.csv``, a row per kind of trial: tries, faults, the first fault. A study is killed five times, each
time while it writes another kind of file; then it is called to its end, and its tables must be byte for byte those of
an undisturbed one, else all five kills count as faults. Linux; a full disk needs the rights of root.
"""

import functools
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest.mock
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import xarray as xr
from tiny import make_scene
from tiny_benchmarks import make

import prsa
from prsa import files
from prsa.data.benchmarks import BENCHMARKS, open_benchmark
from prsa.data.download import fetch
from prsa.errors import PrsaError
from prsa.study.runs import is_finished

GOOD, MAPPED, REFUSED = "as expected", "mapped", "refused"
# Only the notebooks' folder is another: one short notebook instead of all.
DRIVER = """import pathlib, sys; from prsa import files, reproduce
files.NOTEBOOKS = pathlib.Path(sys.argv[1]); sys.exit(reproduce.main(sys.argv[2:]))"""
FETCH = "import json, pathlib, sys; from prsa.data.download import fetch; a = json.loads(sys.argv[1])\n"
FETCH += "fetch(pathlib.Path(a[0]), *a[1:])"
MOMENTS = {"run file": "runs", "table": "tables", "figure": "figures", "notebook": "notebooks", "report": "report"}


class Study:
    """Calls of the same small study into folders below ``home``."""

    def __init__(self, home: Path):
        self.home, self.books = home, home / "books"
        self.books.mkdir()
        prsa.save_scene(make_scene(shape=(60, 60), parcel=6), home / "scene.nc")
        parameters = nbformat.v4.new_code_cell('scenes = ["sim-sar"]\npreset = "quick"')
        parameters.metadata["tags"] = ["parameters"]
        cells = [parameters, nbformat.v4.new_code_cell("import prsa; prsa.open_scene(scenes[0])")]
        book = nbformat.v4.new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "prsa", "display_name": "prsa", "language": "python"}}
        )
        nbformat.write(book, self.books / "00_short.ipynb")
        self.whole = home / "whole"
        code, errors = self.finish(self.start(self.whole))
        assert code == 0, errors

    def start(self, folder: Path) -> subprocess.Popen:
        words = "--preset quick --seeds 1 --methods concat --jobs 2 --device cpu --scenes".split()
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, self.books, *words, self.home / "scene.nc"],
            env=os.environ | {"PRSA_RESULTS": str(folder), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def finish(process: subprocess.Popen) -> tuple[int, str]:
        try:
            errors = process.communicate(timeout=1800)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            return 1, "still at work after half an hour"
        return process.returncode, errors

    def tables(self, folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (folder / "quick" / "tables").glob("[!.]*")}

    def again(self, folder: Path) -> str:
        """Call the study again, to its end: `GOOD`, or what is wrong."""
        code, errors = self.finish(self.start(folder))
        if code or "Traceback" in errors:
            return f"the next call ends with {code}: {errors.strip()[-200:]}"
        same = self.tables(folder) == self.tables(self.whole)
        books = {p.name for p in (folder / "quick" / "notebooks").glob("[!.]*")} == {"00_short.ipynb"}
        return GOOD if same and books else "other tables" if not same else "other notebooks"


def kill(study: Study, moment: str, victim: str, folder: Path) -> str:
    """Call the study; kill -9 while a file of this kind is being written (the second or later one by chance)."""
    place, process, seen = folder / "quick" / MOMENTS[moment], study.start(folder), set()
    wanted = random.randint(1, 1 if moment in ("notebook", "report") else 3 if moment != "run file" else 2)
    while process.poll() is None and len(seen) < wanted:
        seen |= {p.name for p in place.glob(".*.tmp")} if place.is_dir() else set()
        time.sleep(0.0005)
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    workers = [p for p in children if "spawn_main" in " ".join(p.cmdline()[-3:])] or children
    doomed = [] if victim == "driver" else [random.choice(workers)] if victim == "worker" and workers else children
    for pid in [p.pid for p in doomed] + ([process.pid] if victim != "worker" else []):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    code, errors = study.finish(process)
    if victim == "worker" and (code not in (0, 2) or "Traceback" in errors):
        return f"the driver ends with {code}: {errors.strip()[-200:]}"
    return "orphans are at work 20 seconds later" if psutil.wait_procs(children, timeout=20)[1] else GOOD


def kills(study: Study, victims: list[str], folder: Path) -> str:
    """One study, killed at every moment; what the call after the last kill makes of it."""
    for moment, victim in zip(MOMENTS, victims, strict=True):
        outcome = kill(study, moment, victim, folder)
        if outcome != GOOD:
            return f"{moment}: {outcome}"
    return study.again(folder)


def two_at_once(study: Study, folder: Path) -> str:
    ends = [study.finish(process) for process in [study.start(folder), study.start(folder)]]
    wrong = [end for end in ends if end[0] or "Traceback" in end[1]]
    return str(wrong[0])[:200] if wrong else study.again(folder)


def full_disk(study: Study, part: float, folder: Path) -> str:
    """A disk that takes this part of what the study writes; then one that takes all."""
    need = sum(-(-p.stat().st_size // 4096) * 4096 for p in study.whole.rglob("*") if p.is_file())
    folder.mkdir()
    size = f"size={int(part * need)}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        return f"skipped: {mounted.stderr.strip()}"
    try:
        code, errors = study.finish(study.start(folder))
        if code != 2 or "Traceback" in errors or "error: " not in errors:
            return f"ends with {code}: {errors.strip()[-200:]}"
        subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
        return study.again(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def flipped(path: Path, part: int) -> bytes:
    """The bytes of a file with one bit flipped in this tenth of it."""
    data = bytearray(path.read_bytes())
    data[int((part + random.random()) * len(data) / 10)] ^= 1 << random.randrange(8)
    return bytes(data)


def only_error(call) -> str:
    """`GOOD` when the call raises one `PrsaError` of at most 900 characters and prints no traceback."""
    printed = []
    try:
        with unittest.mock.patch("sys.unraisablehook", printed.append):
            call()
    except PrsaError as error:
        wrong = f"a message of {len(str(error))} characters" if len(str(error)) > 900 else ""
        return "prints a traceback" if printed else wrong or GOOD
    except Exception:
        return traceback.format_exc()[-200:]
    return "accepted"


def flip_run(study: Study, part: int, folder: Path) -> str:
    shutil.copytree(study.whole, folder)
    path = sorted((folder / "quick" / "runs").glob("*.nc"))[0]
    path.write_bytes(flipped(path, part))
    return "taken for whole" if is_finished(path) else study.again(folder)


def flip_cache(part: int, folder: Path) -> str:
    """The finished scene of a benchmark: refused, or made again from its archive; never another scene."""
    os.environ["PRSA_DATA"] = str(folder / "data")
    tiny, _, archive = make("trento", folder)
    raw = folder / "data" / "raw" / "trento"
    raw.mkdir(parents=True)
    shutil.move(archive, raw)
    BENCHMARKS["trento"] = tiny
    before, path = open_benchmark("trento").load(), folder / "data" / "cache" / "trento.nc"
    path.write_bytes(flipped(path, part))
    found = []
    outcome = only_error(lambda: found.append(open_benchmark("trento").load()))
    return (GOOD if found[0].identical(before) else "another scene, without a word") if found else outcome


def flip_archive(part: int, folder: Path) -> str:
    tiny, _, archive = make("trento", folder)
    archive.write_bytes(flipped(archive, part))
    members = {member.path: "" for member in tiny.members.values()}
    outcome = only_error(lambda: fetch(folder, f"http://127.0.0.1:9/{archive.name}", tiny.sha256, members))
    return outcome if not any((folder / name).exists() for name in members) else "unpacked"


def flip_scene(study: Study, part: int, folder: Path) -> str:
    """A scene file of the user has no checksum: opened or refused, nothing else."""
    folder.mkdir()
    path = folder / "scene.nc"
    path.write_bytes(flipped(study.home / "scene.nc", part))
    outcome = only_error(lambda: prsa.open_scene(path).load())
    return GOOD if outcome == "accepted" else outcome


def kill_download(folder: Path) -> str:
    """Kill while an archive comes in; the next call has all of it."""
    served = folder / "served"
    served.mkdir(parents=True)
    content = random.randbytes(4 << 20)
    with zipfile.ZipFile(served / "a.zip", "w") as out:
        out.writestr("m.bin", content)
    digests = [hashlib.sha256(data).hexdigest() for data in ((served / "a.zip").read_bytes(), content)]
    handler = functools.partial(_Quiet, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *_: None  # the killed one's connection breaks
        threading.Thread(target=server.serve_forever, daemon=True).start()
        given = [str(folder / "raw"), f"http://127.0.0.1:{server.server_port}/a.zip", digests[0], {"m.bin": digests[1]}]
        process = subprocess.Popen([sys.executable, "-c", FETCH, json.dumps(given)], stderr=subprocess.DEVNULL)
        while process.poll() is None and not list((folder / "raw").glob("*")):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.wait()
        done = subprocess.run([sys.executable, "-c", FETCH, json.dumps(given)], capture_output=True, text=True)
        server.shutdown()
    whole = not done.returncode and (folder / "raw" / "m.bin").read_bytes() == content
    return GOOD if whole else done.stderr[-200:]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def odd_scene(rng: np.random.Generator) -> xr.Dataset:
    """A scene of random size, types, names, dimensions, missing values and classes; some break the contract."""

    def now_and_then(odd, usual, share=0.1):
        return odd if rng.random() < share else usual

    shape = now_and_then(tuple(rng.integers(1, 12, 2)), tuple(rng.integers(30, 70, 2)))
    names = rng.permutation(["hsi", "sar", "dem", "é", "a b", "concat", "label2", now_and_then("fused", "rgb"), "ms"])
    names = [str(name) for name in names[: now_and_then(1, int(rng.integers(2, 4)))]]
    names[0] = now_and_then("x", names[0], 0.03)
    classes = now_and_then(1, int(rng.integers(2, 7)))
    blocks = rng.integers(0, classes + now_and_then(2, 1, 0.05), (shape[0] // 5 + 1, shape[1] // 5 + 1))
    label = np.kron(blocks, np.ones((5, 5), int))[: shape[0], : shape[1]]
    data = {"label": (("y", "x"), label.astype(rng.choice(["i2", "u1", "f4", "i8", ">i4"])))}
    for m in names:
        values = rng.normal(100, 30, (int(rng.integers(1, 6)), *shape)) + 9 * label
        kind = rng.choice(["f4", "f8", "i2", "u1", "i8", ">f4"])
        hole = now_and_then(rng.random(shape) < rng.choice([0.02, 0.5, 1]), label < 0, 0.3)
        values[:, hole] = rng.choice([np.nan, np.inf, -9999, -3.4e38]) if "f" in kind else 0
        values = np.clip(values, 0, 255) if kind == "u1" else values
        mark = {rng.choice(["nodata", "_FillValue", "missing_value"]): rng.choice([-9999, 0])}
        order = now_and_then(rng.permutation(3), range(3), 0.3)
        dims = [(f"{m}_band", "y", "x")[i] for i in order]
        data[m] = (dims, values.astype(kind).transpose(*order), now_and_then(mark, {}, 0.3))
    if rng.random() < 0.1:
        data[str(rng.choice(["split", "validation"]))] = (("y", "x"), rng.integers(0, 3, shape).astype("i1"))
    attrs = {"schema": "prsa-scene-1", "title": "odd", "class_names": json.dumps([f"c{k}" for k in range(classes)])}
    return xr.Dataset(data, attrs=attrs | {"license": "x", "citation": "x", "simulated": 0})


def try_scene(seed: int) -> str:
    """Through the gate, a training and a map: `MAPPED` sensibly, or `REFUSED` by one `PrsaError`."""
    scene, mapped = odd_scene(np.random.default_rng(seed)), []

    def use():
        small = {"epochs": 1, "width": 4, "features": 4, "patch": 3, "batch": 16}
        _, model = prsa.fit(scene, "prsanet", preset="quick", device="cpu", **small)
        mapped.append(prsa.predict_map(model, scene))

    outcome = only_error(use)
    if not mapped:
        return REFUSED if outcome == GOOD else outcome
    cover, classes = mapped[0], len(json.loads(scene.attrs["class_names"]))
    good = (
        cover.dims == ("y", "x")
        and cover.shape == scene["label"].shape
        and set(np.unique(cover)) <= {*range(classes + 1)}
    )
    return MAPPED if good else f"a map {cover.shape} of classes up to {int(cover.max())}"


def main(count: str = "100", scenes: str = "500") -> int:
    """All of it; prints and writes a row per kind; 0 when nothing went wrong."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        study, trials, fresh = Study(home), [], iter(home / str(n) for n in range(10**6))
        for n in range(int(count) // len(MOMENTS)):
            victims = [("worker", "driver", "both")[(n + i) % 3] for i in range(len(MOMENTS))]
            names = [(f"kill of {victim}", moment) for victim, moment in zip(victims, MOMENTS)]
            trials.append((names, functools.partial(kills, study, victims)))
        one = [("kill", "download", kill_download)] * max(1, int(count) // 10)
        one += [("two calls at once", "same folder", functools.partial(two_at_once, study))]
        one += [("full disk", "results", functools.partial(full_disk, study, n / 11)) for n in range(1, 11)]
        flips = {"run file": functools.partial(flip_run, study), "cache": flip_cache, "archive": flip_archive}
        flips["scene file"] = functools.partial(flip_scene, study)
        one += [("flipped bit", what, functools.partial(call, n)) for what, call in flips.items() for n in range(10)]
        one += [("odd scene", "", lambda _, n=n: try_scene(n)) for n in range(int(scenes))]
        rows = []
        for names, call in [*trials, *(([(what, where)], call) for what, where, call in one)]:
            folder = next(fresh)
            outcome = call(folder)
            rows += [(what, where or outcome, outcome) for what, where in names]
            print(*names, outcome, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    table = pd.DataFrame(rows, columns=["what", "where", "outcome"])
    fault = ~table["outcome"].isin([GOOD, MAPPED, REFUSED]) & ~table["outcome"].str.startswith("skipped")
    table = table.assign(fault=fault, first_fault=table["outcome"].where(fault))
    columns = {"tries": ("fault", "size"), "faults": ("fault", "sum"), "first": ("first_fault", "first")}
    found = table.groupby(["what", "where"], sort=False).agg(**columns)
    print(found.to_string())
    files.write_text(found.to_csv(lineterminator="\n"), files.results("full") / "campaign.csv")
    return int(fault.any())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
