"""The run file ``prsa-run-1``: identity, schema, and saving all or nothing. No torch here.

A run is one (scene, method, seed) trained once. Its file is named after its identity, the hash of config, scene, split,
seed and schema version; a finished run is never trained again and a damaged file counts as missing.
"""

import ast
import hashlib
import importlib.metadata
import io
import json
import platform
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr

from ..errors import PrsaError
from ..files import whole

SCHEMA = "prsa-run-1"
CODE = 5  # raise when training or evaluation changes what a run contains: older files are then retrained
# This format opens 20 times faster than netCDF 4, and a study opens hundreds of runs.
FORMAT = {"engine": "scipy", "format": "NETCDF3_64BIT"}
VARIABLES = {  # name: type and dimensions
    "confusion": ("i4", "head part class predicted"),  # pixels, of every map: fused, then each branch alone
    "probe_confusion": ("i4", "modality class predicted"),  # test pixels, of a linear classifier on one branch's z
    "loss": ("f8", "epoch term"),  # the summands of the objective, mean over the epoch's batches
    "s": ("f8", "epoch modality"),  # optimisation degree, imbalance factor, push
    "rho": ("f8", "epoch modality"),
    "beta": ("f8", "epoch modality"),
    "grad_norm": ("f8", "epoch modality"),  # of an encoder's parameters
    "grad_cosine": ("f8", "epoch modality"),  # between the prototype and the fused loss, on z
    "branch_accuracy": ("f8", "epoch watched modality"),  # fractions, of training batches and validation pixels
    "probe_accuracy": ("f8", "epoch watched modality"),
    "direction": ("f8", "epoch source modality"),  # cosine with the gradient of the branch trained alone
    "accuracy": ("f8", "epoch watched"),
    "js": ("f8", "epoch"),  # Jensen-Shannon divergence of the branches, nats
    "degraded_confusion": ("i4", "condition class predicted"),  # test pixels, see `prsa.study.degrade`
    "prototypes": ("f4", "modality class feature"),
    "features": ("f4", "sample modality feature"),  # z of test pixels, evenly spaced; in a file 16 bits
    "sample_label": ("i4", "sample"),
    "cka": ("f8", ""),  # of fused features and labels
    "eta2": ("f8", ""),  # separability of the classes in the fused features
    "map": ("i2", "y x"),  # 1..K, 0 where nothing was predicted
    "confidence": ("f4", "y x"),  # probability of the class chosen; in a file in steps of 1 / 254
}
DIMS = {name: tuple(dims.split()) for name, (_, dims) in VARIABLES.items()}
COORDS = ("epoch", "modality", "class", "predicted", "head", "part", "watched", "term", "source", "condition")
ATTRS = (
    *("schema", "run_id", "scene", "scene_title", "simulated", "method", "variant", "overrides", "seed", "preset"),
    *("config", "scene_hash", "split_hash", "split_kind", "n_train", "n_val", "n_test", "params", "macs_patch"),
    *("macs_pixel", "probed", "epoch_used", "seconds", "samples_per_s", "versions"),
)
PARTS = ("train", "val", "test")
# The rest of the study only executes.
CODE_ROOMS = ("config", "metrics", "data", "network", "training", "comparators", "mapping")
CODE_ROOMS += ("study/fit", "study/evaluate", "study/degrade", "study/overlap", "study/runs")

# Names of ``condition``: CLEAN, "hsi noise 0.5" (modality, degradation, strength), "sar missing".
CLEAN = "none"
CLOUD, NOISE, BANDS, MISSING = "cloud shadow", "noise", "band loss", "missing"
STRENGTHS = {
    CLOUD: (0.3, 0.6, 0.9),  # share of the direct light that the cloud takes
    NOISE: (0.5, 1.0, 2.0),  # sd of Gaussian noise, in units of each band's sd over the training pixels
    BANDS: (0.25, 0.5, 0.75),  # share of the bands that are no-data
}


def assemble(values: dict[str, np.ndarray], coords: dict[str, list], attrs: dict) -> xr.Dataset:
    """A run of these variables; those that were not measured are blank (0 where integers, else NaN), of length 1 in
    dimensions that nothing else has: the file format knows no length 0.
    """
    sizes = {dim: len(labels) for dim, labels in coords.items()}
    sizes |= {dim: n for name, array in values.items() for dim, n in zip(DIMS[name], np.shape(array), strict=True)}

    def variable(name: str, dtype: str) -> tuple:
        if name in values:
            return DIMS[name], np.asarray(values[name]).astype(dtype)
        blank = 0 if dtype.startswith("i") else np.nan
        return DIMS[name], np.full([sizes.get(dim, 1) for dim in DIMS[name]], blank, dtype)

    return xr.Dataset({name: variable(name, dtype) for name, (dtype, _) in VARIABLES.items()}, coords, attrs)


@cache
def versions() -> dict[str, str]:
    """What numbers depend on beside the settings: Python, packages, and our own code without its comments."""
    found = {name: importlib.metadata.version(name) for name in ("torch", "numpy", "scikit-learn", "xarray")}
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(
        path for room in CODE_ROOMS for path in [*package.glob(f"{room}.py"), *package.glob(f"{room}/*.py")]
    ):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return {"python": platform.python_version(), **found, "code": digest.hexdigest()[:12]}


def run_id(config_json: str, method: str, seed: int, scene_hash: str, split_hash: str) -> str:
    """Identity of a run: 16 hexadecimal digits of a SHA-256."""
    text = json.dumps([SCHEMA, CODE, json.loads(config_json), method, seed, scene_hash, split_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _seal(data: bytes) -> bytes | None:
    """The content of a run file with its SHA-256, taken with zeros in its place, in the attribute ``content``.

    It covers every byte of the file, which has no checksum of its own. None where there is no such attribute.
    """
    head, mark, tail = bytes(data).partition(b"content" + b"\0\0\0\0\2\0\0\0@")  # name, type: text, length: 64
    if not mark:
        return None
    digest = hashlib.sha256(b"".join([head, mark, b"0" * 64, tail[64:]])).hexdigest()
    return b"".join([head, mark, digest.encode(), tail[64:]])


def check_run(run: xr.Dataset, source: str = "run") -> xr.Dataset:
    """Return the run, or raise `PrsaError` that names what is missing or the first variable that is misshapen."""
    for what, wanted, have in (
        ("variable", DIMS, run.data_vars),
        ("coordinate", COORDS, run.coords),
        ("attribute", ATTRS, run.attrs),
    ):
        missing = [name for name in wanted if name not in have]
        if missing:
            raise PrsaError(
                f"{source}: expected the {what}s of {SCHEMA}, got none named {', '.join(missing)}. "
                "Delete the file and train again."
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
    largest = float(np.nan_to_num(np.abs(run["features"].values)).max()) or 1.0
    encoding = {  # most of a run are these three; packed by the CF conventions, which xarray undoes
        "map": {"dtype": "i1" if run["map"].max() < 128 else "i2"},
        "confidence": {"dtype": "i1", "scale_factor": 1 / 254, "add_offset": 0.5, "_FillValue": -128},
        "features": {"dtype": "i2", "scale_factor": largest / 32767, "_FillValue": -32768},
    }
    with whole(path) as temporary:
        temporary.write_bytes(_seal(run.assign_attrs(content="0" * 64).to_netcdf(**FORMAT, encoding=encoding)))
    return path


def _read(path: Path) -> bytes:
    """The undamaged content of a run file, verified in a millisecond."""
    if not path.is_file():
        raise PrsaError(
            f"expected a run file at {path}, found none. Train it first (notebook 03_train or make reproduce)."
        )
    data = path.read_bytes()
    if data != _seal(data):
        raise PrsaError(f"{path.name} is damaged (its content does not match its hash). Run again: it is trained anew.")
    return data


def load_run(path: Path) -> xr.Dataset:
    """Read a run file into memory. Raises `PrsaError` when it is missing, damaged or not a run."""
    with xr.open_dataset(io.BytesIO(_read(path)), engine=FORMAT["engine"]) as file:
        run = check_run(file.load(), path.name)
    for name in run.data_vars:  # the file's numbers are big-endian
        run[name].variable.values = run[name].values.astype(VARIABLES[name][0])
    return run


def is_finished(path: Path) -> bool:
    """Whether a complete, undamaged run lies at this path; much faster than `load_run`."""
    try:
        return bool(_read(path))
    except PrsaError:
        return False
