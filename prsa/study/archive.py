"""The finished runs of a study as one file: `pack`, `unpack` after checking everything, `verify` by training again.

The file is a ZIP of run files and a manifest of their SHA-256. `unpack` treats it as a stranger's: names are plain
names of run files, so that nothing lands outside the folder; what is unpacked is counted while it is read; a run must
be what its name and its own hash say. Nothing in it is executed or unpickled. Hashes say that the file is whole and
consistent, not that its numbers were measured: `verify` does.
"""

import hashlib
import json
import random
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.io import netcdf_file

from .. import files, metrics
from ..errors import PrsaError
from . import runs
from .execute import train
from .plan import Plan, RunSpec
from .pool import pool

FORMAT, MANIFEST = "prsa-runs-1", "manifest.json"
NAME = re.compile(r"[\w.+-]{1,200}__[\w.+-]{1,64}__s\d{1,9}__[0-9a-f]{16}\.nc", re.ASCII)
MOST, LARGEST = 100_000, 2**28  # runs in an archive; bytes of one file in it
CLOCK = ("seconds", "samples_per_s", "versions", "content")  # attributes that differ when a run is trained again


def pack(plan: Plan, specs: Iterable[RunSpec], file: Path) -> tuple[int, int]:
    """Write the finished ones of these runs into a file; returns how many, and how many were missing.

    Raises `PrsaError` when none is finished, or when one of them is damaged meanwhile.
    """
    specs = list(dict.fromkeys(specs))
    missing = {*plan.missing(specs)}
    paths = sorted(plan.path(spec) for spec in specs if spec not in missing)
    if not paths:
        raise PrsaError(f"expected finished runs to pack, got none of {len(specs)}. Train them: make reproduce.")
    with files.whole(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        hashes = {}
        for path in paths:
            data = path.read_bytes()
            hashes[path.name] = hashlib.sha256(data).hexdigest()
            archive.writestr(path.name, data)
        manifest = {"format": FORMAT, "preset": specs[0].preset, "runs": hashes}
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
    return len(paths), len(missing)


def unpack(file: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Take the runs of an archive in, those that are there already left as they are; returns the new paths.

    The whole archive is checked before the first run is written. Raises `PrsaError` for whatever is wrong with it.
    """
    file = Path(file).expanduser()
    try:
        with zipfile.ZipFile(file) as archive:
            preset, hashes = _manifest(archive, file)
            folder = files.results(preset) / "runs"
            new = [name for name in hashes if not runs.is_finished(folder / name)]
            size = sum(archive.getinfo(name).file_size for name in hashes)
            free = shutil.disk_usage(next(p for p in folder.parents if p.is_dir())).free
            if size > 0.9 * free:
                raise PrsaError(f"{file.name}: its runs take {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free here.")
            for name in hashes:
                _checked(archive, name, hashes[name])
            for name in new:
                data = _checked(archive, name, hashes[name])
                with files.whole(folder / name) as part:
                    part.write_bytes(data)
    except FileNotFoundError as error:
        raise PrsaError(f"expected an archive of runs at {file}, found none. Check the path.") from error
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise PrsaError(f"{file.name}: expected an archive of make pack, got {why[:200]}.") from error
    say(f"{len(new)} runs taken in, {len(hashes) - len(new)} were there already: {folder}")
    return [folder / name for name in new]


def _manifest(archive: zipfile.ZipFile, file: Path) -> tuple[str, dict[str, str]]:
    """Preset, and name -> SHA-256 of the runs; raises `PrsaError` unless names, sizes and manifest are in order."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    wrong = [name for name in names if name != MANIFEST and not NAME.fullmatch(name)]
    if wrong or len({*names}) < len(names) or MANIFEST not in names or len(names) > MOST + 1:
        first = f", first {wrong[0][:80]!r}" if wrong else ""
        raise PrsaError(
            f"{file.name}: expected one {MANIFEST} and at most {MOST} run files with different names of the form "
            f"scene__method__s0__0123456789abcdef.nc, got {len(names)} entries, {len(wrong)} with other names{first}."
        )
    if large := [entry.filename for entry in entries if entry.file_size > LARGEST]:
        raise PrsaError(f"{file.name}: expected run files of at most {LARGEST} bytes, got {large[0]}.")
    try:
        found = json.loads(_read(archive, MANIFEST))
        preset, hashes = found["preset"], found["runs"]
        fits = found["format"] == FORMAT and preset in ("full", "quick") and {*hashes} == {*names} - {MANIFEST}
    except (ValueError, TypeError, KeyError, RecursionError):
        fits = False
    if not fits:
        raise PrsaError(f"{file.name}: expected a manifest {FORMAT} that names every run in the archive, got another.")
    return preset, hashes


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry, never more of it than its stated size, whatever it holds."""
    size = archive.getinfo(name).file_size
    with archive.open(name) as stream:
        data = stream.read(size + 1)
    if len(data) != size:
        raise zipfile.BadZipFile(f"{name} has not the size that it states")
    return data


def _checked(archive: zipfile.ZipFile, name: str, digest: str) -> bytes:
    """A run file of the archive; raises `PrsaError` unless it is the run that manifest, name and file say."""
    data = _read(archive, name)
    try:
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError("another hash")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(data)
            with netcdf_file(path, mmap=True) as file:  # a header can claim the same bytes many times: count first
                claimed = sum(variable.data.nbytes for variable in file.variables.values())
                if {*file.variables} - {*runs.VARIABLES, *runs.COORDS} or claimed > len(data):
                    raise ValueError("another size, or other variables")
            a = runs.load_run(path).attrs
        identity = runs.run_id(a["config"], a["method"], int(a["seed"]), a["scene_hash"], a["split_hash"])
        form = f"{a['scene'].replace(':', '-')}__{a['method']}__s{int(a['seed'])}__{identity}.nc"
    except Exception as error:  # a stranger's bytes may break the reader in any way
        raise PrsaError(f"{name}: expected the run of the manifest, got other or broken content.") from error
    if form != name:
        raise PrsaError(f"{name}: by its content it is {form[:160]}. The archive is not taken in.")
    return data


def verify(plan: Plan, specs: Iterable[RunSpec], n: int, jobs: int, device: str = "cpu") -> Iterator[str]:
    """Train ``n`` random finished runs again, beside the study, and compare every number; yields a line each.

    Raises `PrsaError` at the end when one differs, or at the start when none is finished or n < 1.
    """
    missing = {*plan.missing(specs)}
    there = [spec for spec in dict.fromkeys(specs) if spec not in missing]
    if n < 1 or not there:
        raise PrsaError(f"N: expected 1 or more, and finished runs, got N={n} and {len(there)} finished runs.")
    chosen, differ = random.sample(there, min(n, len(there))), 0
    with tempfile.TemporaryDirectory() as folder:
        calls = [(spec, Path(folder, plan.path(spec).name), device, False) for spec in chosen]
        with pool(train, plan, jobs, calls) as finished:
            for spec, _ in finished:
                name = plan.path(spec).name
                said = compared(runs.load_run(plan.path(spec)), runs.load_run(Path(folder, name)))
                differ += said != "the same"
                yield f"{name}: {said}"
    if differ:
        raise PrsaError(
            f"{differ} of {len(chosen)} runs differ when they are trained again. Likely causes: other packages or code "
            "(make status names them), another kind of processor or device (differences of a point or so, see make "
            "machines), or numbers that were not measured (larger ones)."
        )


def compared(old: xr.Dataset, new: xr.Dataset) -> str:
    """ "the same", or what differs between two runs, but for time and versions, and by how many points of test OA."""
    parts = [name for name in runs.VARIABLES if not _equal(old[name], new[name])]
    parts += [name for name in runs.ATTRS if name not in CLOCK and old.attrs[name] != new.attrs[name]]
    oa = [metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="test").values)) for run in (old, new)]
    said = f"{len(parts)} parts differ ({', '.join(parts[:3])}), test OA by {oa[1] - oa[0]:+.2f} points"
    return said if parts else "the same"


def _equal(a: xr.DataArray, b: xr.DataArray) -> bool:
    return a.shape == b.shape and np.array_equal(a.values, b.values, equal_nan=a.dtype.kind == "f")
