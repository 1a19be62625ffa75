"""The tree of the repository, and everything that is written whole or not at all."""

import os
import tempfile
from pathlib import Path

import xarray as xr

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"


def results(preset: str = "full") -> Path:
    """Folder of a preset's results; the quick preset never shares one with the full study.

    The environment variable ``PRSA_RESULTS`` moves both elsewhere (tests use it).
    """
    base = Path(os.environ.get("PRSA_RESULTS") or ROOT / "results").resolve()
    return base if preset == "full" else base / preset


def data() -> Path:
    """Folder of downloaded and cached scenes; the environment variable ``PRSA_DATA`` moves it."""
    return Path(os.environ.get("PRSA_DATA") or DATA).resolve()


def atomic_netcdf(data: xr.Dataset, path: Path, **how) -> None:
    """Write to a temporary name beside ``path``, then rename: a reader never sees half a file. ``how``: engine and format, else compressed netCDF 4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(handle)
    if not how:
        how = {
            "engine": "h5netcdf",
            "encoding": {
                n: {"zlib": True, "complevel": 4} for n, v in data.variables.items() if v.ndim and v.dtype.kind in "iuf"
            },
        }
    try:
        data.to_netcdf(name, **how)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(text: str, path: Path) -> Path:
    """Write through a temporary name beside ``path``: a reader never sees half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    return path
