"""Open a scene by name or path: embedded, public benchmark or netCDF file."""

import os
from pathlib import Path

import xarray as xr

from ..errors import PrsaError
from .benchmarks import BENCHMARKS, open_benchmark
from .scene import check_scene
from .simulate import EMBEDDED, parse_name, simulate


def open_scene(source: str | os.PathLike) -> xr.Dataset:
    """Open an embedded scene by name (``sim-sar``, ``sim-sar:3``, ``sim-sar:3:0.8``), a public benchmark or a netCDF file.

    Raises `PrsaError` for a missing or damaged file, an unknown name or a scene that breaks the contract.
    """
    text = str(source)
    if text in BENCHMARKS:
        return open_benchmark(text)
    if text.split(":")[0] in EMBEDDED:
        return check_scene(simulate(*parse_name(text)), text)
    path = Path(text).expanduser()
    if path.suffix != ".nc":
        raise PrsaError(
            f"unknown scene {text!r}. Expected one of {', '.join(EMBEDDED)} (optionally with :seed and :dial), "
            f"{', '.join(BENCHMARKS)} (downloaded), or the path of a .nc file."
        )
    if not path.is_file():
        raise PrsaError(
            f"no scene file at {path.resolve()}. Check the path, or write one as in the README, 'Your own scene'."
        )
    try:
        with xr.open_dataset(path) as file:
            scene = file.load()
    except Exception as error:  # every backend raises its own kind for a damaged file
        raise PrsaError(
            f"{path.name}: expected a readable netCDF file, got {type(error).__name__}: {error}. Copy or write the file again."
        ) from error
    scene.attrs.setdefault("name", path.stem)
    return check_scene(scene, path.name)
