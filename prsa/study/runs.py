"""The run file ``prsa-run-1``: identity, schema, atomic save, and what is missing of a grid. No torch here.

A run is one (scene, method, seed) trained once. Its file is named after its identity, the hash of config, scene, split, seed and
schema version; a finished run is never trained again and a damaged file counts as missing.
"""

import hashlib
import json
from pathlib import Path

import xarray as xr

from ..errors import PrsaError
from ..files import atomic_netcdf

SCHEMA = "prsa-run-1"
CODE = 3  # raise when training or evaluation changes what a run contains: older files are then retrained
FORMAT = {
    "engine": "scipy",
    "format": "NETCDF3_64BIT",
}  # opens 20 times faster than netCDF 4, and a study opens hundreds of runs
COORDS = ("epoch", "modality", "class", "predicted", "head", "part", "watched", "term", "source", "condition")
DIMS = {
    "confusion": ("head", "part", "class", "predicted"),
    "probe_confusion": ("modality", "class", "predicted"),
    "loss": ("epoch", "term"),
    "s": ("epoch", "modality"),
    "rho": ("epoch", "modality"),
    "beta": ("epoch", "modality"),
    "grad_norm": ("epoch", "modality"),
    "grad_cosine": ("epoch", "modality"),
    "branch_accuracy": ("epoch", "watched", "modality"),
    "probe_accuracy": ("epoch", "watched", "modality"),
    "direction": ("epoch", "source", "modality"),
    "degraded_confusion": ("condition", "class", "predicted"),
    "accuracy": ("epoch", "watched"),
    "js": ("epoch",),
    "prototypes": ("modality", "class", "feature"),
    "features": ("sample", "modality", "feature"),
    "fused_features": ("sample", "fused_feature"),
    "sample_label": ("sample",),
    "cka": (),
    "eta2": (),
    "map": ("y", "x"),
    "confidence": ("y", "x"),
}
ATTRS = (
    "schema",
    "run_id",
    "scene",
    "scene_title",
    "simulated",
    "method",
    "variant",
    "overrides",
    "seed",
    "preset",
    "config",
    "scene_hash",
    "split_hash",
    "split_kind",
    "n_train",
    "n_val",
    "n_test",
    "params",
    "macs_patch",
    "macs_pixel",
    "probed",
    "epoch_used",
    "seconds",
    "samples_per_s",
    "versions",
)


def run_id(config_json: str, method: str, seed: int, scene_hash: str, split_hash: str) -> str:
    """Identity of a run: 16 hexadecimal digits of a SHA-256."""
    text = json.dumps([SCHEMA, CODE, json.loads(config_json), method, seed, scene_hash, split_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _content_hash(run: xr.Dataset) -> str:
    """SHA-256 over variables, coordinates and attributes, whatever the byte order and width of the numbers: the file itself has no checksum."""
    digest = hashlib.sha256()
    for name in sorted(run.variables):
        values = run[name].values
        if values.dtype.kind in "OSUT":
            content = "\n".join(map(str, values.ravel())).encode()
        else:
            content = values.astype("<f8" if values.dtype.kind == "f" else "<i8").tobytes()
        digest.update(name.encode() + content)
    attrs = {key: str(value) for key, value in run.attrs.items() if key != "content"}
    digest.update(json.dumps(attrs, sort_keys=True).encode())
    return digest.hexdigest()


def check_run(run: xr.Dataset, source: str = "run") -> xr.Dataset:
    """Return the run, or raise `PrsaError` that names the first thing missing or misshapen."""
    for what, wanted, have in (
        ("variable", DIMS, run.data_vars),
        ("coordinate", COORDS, run.coords),
        ("attribute", ATTRS, run.attrs),
    ):
        missing = [name for name in wanted if name not in have]
        if missing:
            raise PrsaError(
                f"{source}: expected the {what}s of {SCHEMA}, got none named {', '.join(missing)}. Delete the file and train again."
            )
    for name, dims in DIMS.items():
        if run[name].dims != dims:
            raise PrsaError(
                f"{source}: expected {name} with dims {dims}, got {run[name].dims}. Delete the file and train again."
            )
    return run


def save_run(run: xr.Dataset, path: Path) -> Path:
    """Check and write, all or nothing, with a hash of the content."""
    check_run(run, path.name)
    atomic_netcdf(run.assign_attrs(content=_content_hash(run)), path, **FORMAT)
    return path


def load_run(path: Path) -> xr.Dataset:
    """Read a run file into memory. Raises `PrsaError` when it is missing, damaged or not a run."""
    if not path.is_file():
        raise PrsaError(
            f"expected a run file at {path}, found none. Train it first (notebook 03_train or make reproduce)."
        )
    try:
        with xr.open_dataset(path, engine=FORMAT["engine"]) as file:
            run = file.load().map(lambda v: v.astype(v.dtype.newbyteorder("=")), keep_attrs=True)
    except Exception as error:  # a truncated file can fail in many ways
        raise PrsaError(f"{path.name} is damaged ({type(error).__name__}). Run again: it is trained anew.") from error
    check_run(run, path.name)
    if run.attrs.get("content") != _content_hash(run):
        raise PrsaError(f"{path.name} is damaged (its content does not match its hash). Run again: it is trained anew.")
    return run


def is_finished(path: Path) -> bool:
    """Whether a readable, complete run lies at this path."""
    try:
        load_run(path)
    except PrsaError:
        return False
    return True
