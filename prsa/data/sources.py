"""Open a scene by name or path: embedded, public benchmark or netCDF file."""

import os
import re
from pathlib import Path

import xarray as xr

from ..errors import PrsaError
from .benchmarks import BENCHMARKS, open_benchmark
from .scene import SUFFIXES, check_scene, file_name, read_netcdf
from .simulate import EMBEDDED, parse_name, simulate


def is_file(source: str | os.PathLike) -> bool:
    """Whether a source is meant as a file: a netCDF name, or something that lies on the disk, but none of our names."""
    text = str(source)
    if text in BENCHMARKS or text.split(":")[0] in EMBEDDED or len(text) > 4096:
        return False
    return Path(text).suffix.lower() in SUFFIXES or os.path.isfile(os.path.expanduser(text))


def open_scene(source: str | os.PathLike) -> xr.Dataset:
    """Open an embedded scene by name (``sim-sar:3``, ``sim-sar:3:0.8``), a public benchmark or a netCDF file.

    The attribute ``name`` of a scene from a file is the file's: an altered copy is never taken for the original.
    Raises `PrsaError` for a missing or damaged file, an unknown name or a scene that breaks the contract.
    """
    text = str(source)
    if text in BENCHMARKS:
        return open_benchmark(text)
    if text.split(":")[0] in EMBEDDED:
        return check_scene(simulate(*parse_name(text)), text)
    if not is_file(source):
        raise PrsaError(
            f"unknown scene {text[:200]!r}. Expected one of {', '.join(EMBEDDED)} (optionally with :seed and :dial), "
            f"{', '.join(BENCHMARKS)} (downloaded), or the path of a netCDF file ({', '.join(SUFFIXES)}). "
            "Rasters become a scene with prsa.scene_from_rasters."
        )
    path = Path(text).expanduser()
    if not os.path.isfile(path):
        raise PrsaError(
            f"no scene file at {path.resolve()}. Likely causes: a mistyped path (check: ls), or a relative one that "
            "counts from another folder. A scene is written as in data/README.md, 'Your own scene'."
        )
    scene = read_netcdf(path, path.name)
    stem = file_name(path.stem.replace(":", "-"))
    ours = re.match("|".join(map(re.escape, (*EMBEDDED, *BENCHMARKS))), stem)
    return check_scene(scene.assign_attrs(name=f"file-{stem}" if ours else stem), path.name)
