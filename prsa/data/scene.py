"""The scene contract ``prsa-scene-1``: check, open, save. Nothing else decides what a scene is.

A scene is one ``xarray.Dataset``: a variable per modality with dims ``(<modality>_band, y, x)``, ``label (y, x)``
(0 = unlabelled, 1..K), optionally ``split (y, x)`` (0 none, 1 train, 2 test) and, an addition of ours,
``validation (y, x)`` (1 = training-side pixels kept apart for validation). NaN or a variable's ``missing_value`` is no-data.
"""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import xarray as xr

from ..errors import PrsaError
from ..files import atomic_netcdf

SCHEMA = "prsa-scene-1"
RASTERS = ("label", "split", "validation")


def modalities(scene: xr.Dataset) -> list[str]:
    """Names of the modalities, in the order of the file."""
    return [str(name) for name, var in scene.data_vars.items() if var.dims == (f"{name}_band", "y", "x")]


def class_names(scene: xr.Dataset) -> list[str]:
    """The K category names; category k of ``label`` is ``class_names[k - 1]``."""
    return list(json.loads(scene.attrs["class_names"]))


def _as_float32(values: np.ndarray, missing=None) -> np.ndarray:
    """Float32 with NaN for ``missing`` and infinities, band by band; the same array, not a copy, when there is nothing to change."""

    def bad(plane):
        return np.isinf(plane) if missing is None else np.isinf(plane) | (plane == missing)

    if values.dtype == np.float32 and values.dtype.isnative and not any(bad(plane).any() for plane in values):
        return values
    clean = np.empty(values.shape, np.float32)
    for plane, raw in zip(clean, values):
        plane[:] = raw
        plane[bad(raw) | np.isinf(plane)] = np.nan
    return clean


def check_scene(scene: xr.Dataset, source: str = "scene") -> xr.Dataset:
    """Return the scene with float32 modalities and int labels, or raise `PrsaError` that names what breaks the contract.

    Modalities that are float32 and clean already share their memory with ``scene``: a large scene is not held twice.
    """

    def fail(expected: str, got: str, fix: str):
        raise PrsaError(f"{source}: expected {expected}, got {got}. Fix: {fix}.")

    if scene.attrs.get("schema") != SCHEMA:
        fail(
            f"the attribute schema={SCHEMA!r}",
            repr(scene.attrs.get("schema")),
            "write the scene as in the README, 'Your own scene'",
        )
    try:
        names = json.loads(scene.attrs["class_names"])
    except (KeyError, TypeError, ValueError):
        names = []
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) != len(names)
    ):
        fail(
            "class_names, a JSON list of K different names",
            repr(scene.attrs.get("class_names")),
            "set attrs['class_names'] = json.dumps([...])",
        )
    if "label" not in scene:
        fail("a variable label (y, x)", f"variables {list(scene.data_vars)}", "add the label raster (0 = unlabelled)")
    grid = scene.sizes.get("y"), scene.sizes.get("x")
    for raster in RASTERS:
        if raster not in scene:
            continue
        var = scene[raster]
        if var.dims != ("y", "x"):
            fail(
                f"{raster} with dims ('y', 'x')",
                f"{var.dims} of shape {var.shape}",
                "transpose or rename its dimensions",
            )
        if not np.issubdtype(var.dtype, np.integer):
            fail(f"{raster} of integer type", str(var.dtype), "cast it, with 0 for unlabelled or none")
    if not scene["label"].size:
        fail(
            "some labelled pixels", f"a label raster of shape {scene['label'].shape}", "check how the scene was cut out"
        )
    if scene.attrs.get("simulated", 0) not in (0, 1):
        fail(
            "the attribute simulated to be 0 or 1",
            repr(scene.attrs["simulated"]),
            "set attrs['simulated'] = 0 for a real scene",
        )
    top = {"label": len(names), "split": 2, "validation": 1}
    for raster in RASTERS:
        if raster in scene:
            low, high = int(scene[raster].min()), int(scene[raster].max())
            if low < 0 or high > top[raster]:
                fail(
                    f"{raster} between 0 and {top[raster]}",
                    f"{low} to {high}",
                    "map unlabelled pixels to 0 and check the class list",
                )
    if not int(scene["label"].max()):
        fail("some labelled pixels", "label is 0 everywhere", "check the label raster")
    strange = [str(n) for n, v in scene.data_vars.items() if n not in RASTERS and v.dims != (f"{n}_band", "y", "x")]
    if strange:
        got = ", ".join(f"{n} {scene[n].dims} {scene[n].shape}" for n in strange)
        fail(
            f"every modality on one grid with dims ('<name>_band', 'y', 'x') = (bands, {grid[0]}, {grid[1]})",
            got,
            "resample it to the label grid and name its dimensions after the modality",
        )
    found = modalities(scene)
    if len(found) < 2:
        fail("two or more modalities", f"{len(found)} ({found})", "add the second sensor as its own variable")

    clean = scene.copy()
    for name in found:
        var = scene[name]
        if not (np.issubdtype(var.dtype, np.floating) or np.issubdtype(var.dtype, np.integer)):
            fail(f"{name} numeric", str(var.dtype), "store reflectances, decibels or metres as numbers")
        values = _as_float32(
            var.values, var.attrs.get("missing_value")
        )  # the attribute is there in a file opened without decoding
        dead = np.array([band for band, plane in enumerate(values) if np.isnan(plane).all()])
        if dead.size:
            fail(f"data in every band of {name}", f"only no-data in band(s) {dead.tolist()[:8]}", "drop these bands")
        clean[name] = var.dims, values, {k: v for k, v in var.attrs.items() if k != "missing_value"}
    attrs = {"title": source, "license": "not stated", "citation": "not stated", "simulated": 0, "name": source}
    clean.attrs = attrs | scene.attrs
    clean.attrs["simulated"] = int(clean.attrs["simulated"])
    clean.attrs["name"] = (
        re.sub(r"[^\w.:-]+", "-", str(clean.attrs["name"])).strip("-.")[:60] or "scene"
    )  # it becomes part of file names
    return clean


def save_scene(scene: xr.Dataset, path: str | os.PathLike) -> Path:
    """Check the scene and write it as compressed netCDF 4, all or nothing."""
    path = Path(path)
    clean = check_scene(scene, path.name)
    atomic_netcdf(clean, path)
    return path


def scene_hash(scene: xr.Dataset) -> str:
    """SHA-256 over names, shapes and values of the modalities and rasters: two scenes with one hash train alike."""
    digest = hashlib.sha256(scene.attrs["class_names"].encode())
    for name in [*modalities(scene), *(r for r in RASTERS if r in scene)]:
        values = np.ascontiguousarray(scene[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values)
    return digest.hexdigest()
