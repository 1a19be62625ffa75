"""The tree of the repository, and everything that is written whole or not at all."""

import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

from .errors import PrsaError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
HOME = ROOT if (ROOT / "pyproject.toml").is_file() else Path.home() / "prsa"  # else: installed without the repository
CAUSES = {
    errno.ENOSPC: "the disk is full (df -h shows it). Fix: free some space",
    errno.EDQUOT: "your quota is used up (quota -s shows it). Fix: free some space",
    errno.EFBIG: "files may not grow this large (ulimit -f shows it). Fix: raise the limit",
    errno.EIO: "the disk has a fault (dmesg shows it). Fix: use another disk",
    errno.EROFS: "the disk is mounted read-only (mount shows it)",
    errno.EACCES: "the folder is not yours to write in (ls -ld shows it). Fix: ask for permission",
    errno.EPERM: "the folder is not yours to write in (ls -ld, lsattr show it). Fix: ask for permission",
    errno.ENOTDIR: "a file stands where a folder is needed (ls -l shows it). Fix: move the file away",
    errno.EEXIST: "a file or broken link stands where a folder is needed (ls -l shows it). Fix: move it away",
    errno.EISDIR: "a folder stands where the file is to go (ls -ld shows it). Fix: move the folder away",
    errno.ENAMETOOLONG: "the path is too long. Fix: choose a shorter one",
}


def _folder(variable: str, default: Path) -> Path:
    """The folder that an environment variable names, else the default.

    A relative one counts from where the user called, and is made absolute for all processes that are started from here:
    a notebook's working directory is its own, so the first kernel asks for that of the Jupyter server that started it.
    """
    given = Path(os.environ.get(variable) or default).expanduser()
    if not given.is_absolute():
        server = Path("/proc", os.environ.get("JPY_PARENT_PID", "self"), "cwd")
        given = (server if server.is_dir() else Path.cwd()) / given
        os.environ[variable] = str(given.resolve())
    return given.resolve()


def results(preset: str = "full") -> Path:
    """Folder of a preset's results; the quick preset never shares one with the full study.

    The environment variable ``PRSA_RESULTS`` moves both elsewhere (tests use it).
    """
    base = _folder("PRSA_RESULTS", HOME / "results")
    return base if preset == "full" else base / preset


def data() -> Path:
    """Folder of downloaded and cached scenes; the environment variable ``PRSA_DATA`` moves it."""
    return _folder("PRSA_DATA", HOME / "data")


results(), data()  # before anyone changes the working directory


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a `PrsaError` with the path, the cause and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno not in CAUSES:
            raise
        raise PrsaError(
            f"cannot write {path}: {error.strerror}. Likely cause: {CAUSES[error.errno]}; or choose another folder "
            "(PRSA_RESULTS for results, PRSA_DATA for scenes). Nothing half-written is left; finished runs are kept, "
            "and the same call goes on from there."
        ) from error


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it when the block succeeds and removed when it fails.

    A reader never sees half a file. The temporary name ends in ``.tmp``: tell the writer its format. HDF5 crashes when
    the disk is full in the middle of a file: let such libraries write to memory, and write the bytes here.
    Raises `PrsaError` with the path, the cause and the fix when the disk does not take it.
    """
    path = Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder against other processes that ask for it here; waits, and says so, while another one holds it.

    The system ends the hold with the block or the process.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another call is at work in {folder}: waiting for its end (Ctrl-C gives up)")
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                pass  # this disk knows no locks; whatever is written is whole without them, too
        yield


def atomic_netcdf(data: xr.Dataset, path: Path, **how) -> None:
    """Write all or nothing. ``how``: engine and format, else compressed netCDF 4."""
    if not how:
        numbers = {n for n, v in data.variables.items() if v.ndim and v.dtype.kind in "iuf"}
        how = {"engine": "h5netcdf", "encoding": {n: {"zlib": True, "complevel": 4} for n in numbers}}
    with whole(path) as temporary:
        temporary.write_bytes(data.to_netcdf(**how))


def write_text(text: str, path: Path) -> Path:
    """Write all or nothing, in UTF-8."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def sweep(folder: Path, age: float = 600) -> None:
    """Remove what killed processes left below a folder. What is younger (seconds) may belong to one at work."""
    for left in folder.rglob(".*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > age:
                left.unlink()
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
