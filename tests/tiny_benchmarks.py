"""The six public archives in miniature: container, paths, keys, types, axes and quirks of the originals."""

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from prsa.data.benchmarks import BENCHMARKS

GRID = (14, 23)  # rows, columns: different, so that a transposed raster does not pass
BANDS = 6
TYPES = {
    "houston2013": ("uint16", "float32"),
    "augsburg": ("uint16", "float64"),
    "berlin": ("float64", "float64"),
    "trento": ("float32", "float32"),
    "muufl": ("float64", "float64"),
    "houston2018": ("uint16", "float32"),
}
SHADOW_FIRST = (
    "trees, mostly_grass, mixed ground surface, dirt and sand, road, water, building shadow, buildings, sidewalk, "
    "yellow curb, cloth panels (targets)"
).split(", ")


def save_v73(path: Path, variables: dict) -> None:
    """A MATLAB v7.3 file as MATLAB writes it: HDF5 behind a 512 byte header, axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, values in variables.items():
            file[key] = np.asarray(values).T
    with open(path, "r+b") as file:
        file.write(
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + (0x0200).to_bytes(2, "little") + b"IM"
        )


def _labels(k: int, rng):
    """Label, split of all labelled pixels but a few; 4 to 6 training pixels per class."""
    label = np.zeros(GRID, np.uint8)
    order = rng.permutation(label.size)
    label.ravel()[order] = np.arange(label.size) % (k + 1)
    split = np.zeros(GRID, np.int8)
    for c in range(1, k + 1):
        where = order[label.ravel()[order] == c]
        n = 4 + c % 3
        split.ravel()[where[:n]], split.ravel()[where[n:-1]] = 1, 2
    return label, split


def make(name: str, folder: Path, hdf5: bool = False, spoil: str = "", seed: int = 0):
    """Write the members of a tiny ``name`` below ``folder/unpacked`` and zip them: (its entry, truth, archive path).

    ``spoil`` breaks one thing: "rows" (an index outside the grid), "bare" (an index without label), "twice" (an index
    listed twice), "shape", "key", "overlap" (a pixel in both rasters) or "label" (a class too many).
    """
    rng = np.random.default_rng([seed, *name.encode()])
    bench, k = BENCHMARKS[name], len(BENCHMARKS[name].classes)
    sensors = {m: dataclasses.replace(s, bands=BANDS if m == "hsi" else s.bands) for m, s in bench.sensors.items()}
    values = {}
    for (m, sensor), kind in zip(sensors.items(), TYPES[name]):
        raw = rng.uniform(0, 4000 if kind == "uint16" else 1, (*GRID, sensor.bands)).astype(kind)
        values[m] = raw
    label, split = _labels(k, rng)
    truth = {
        "values": {
            m: np.moveaxis(v, 2, 0).astype(np.float32)[: v.shape[2] - sensors[m].surplus] for m, v in values.items()
        },
        "label": label.astype(int),
        "split": split,
    }
    if spoil == "shape":
        values["hsi"] = values["hsi"].transpose(1, 0, 2)
    if spoil == "label":
        label[0, 0] = k + 1
    flat = {m: v[..., 0] if v.shape[2] == 1 else v for m, v in values.items()}  # one band is stored without its axis
    member, content = bench.members, {}

    if name == "muufl":
        scene_labels = {
            "labels": np.where(label > 0, label.astype(float), -1.0),
            "Materials_Type": np.array(SHADOW_FIRST, dtype=object)[:, None],
        }
        lidar = np.zeros(
            (1, 2), dtype=[("x", object), ("y", object), ("z", object), ("info", object)]
        )  # a struct array, two flights
        for flight in range(2):
            lidar[0, flight]["z"] = values["lidar"] + 100 * flight
        struct = {
            "info": {"wavelength": np.linspace(405.0, 1005.0, BANDS)},
            "Data": values["hsi"],
            "Lidar": lidar,
            "sceneLabels": scene_labels,
            "RGB": np.zeros((*GRID, 3)),
        }
        content["hsi"] = {"hsi": struct}
    else:
        content = {m: {member[m].key: v} for m, v in flat.items()}
        if name == "houston2013":
            train, test = (np.where(split == code, label, 0).astype(np.uint8) for code in (1, 2))
            if spoil == "overlap":
                train[test > 0] = test[test > 0]
            content |= {"train": {"TRLabel": train}, "test": {"TSLabel": test}}
        else:
            content["label"] = {member["label"].key: label}
    if "train_index" in member:
        pairs = [rng.permutation(np.argwhere(split == code)).astype(np.int64) for code in (1, 2)]  # row, column from 0
        if spoil == "rows":
            pairs[1][0, 0] = GRID[0]
        if spoil == "bare":
            pairs[0][0] = np.argwhere(label == 0)[0]
        if spoil == "twice":
            pairs[1][0] = pairs[0][0]
        keys = [member[f"{part}_index"].key for part in ("train", "test")]
        everywhere = {keys[0].replace("train", "all"): np.argwhere(label >= 0)}
        content["train_index"] = dict(zip(keys, pairs)) | everywhere
    if spoil == "key":
        content["hsi"] = {"something_else": values["hsi"]}

    unpacked = folder / "unpacked"
    hashes = {}
    for role, variables in content.items():
        path = unpacked / member[role].path
        path.parent.mkdir(parents=True, exist_ok=True)
        save_v73(path, variables) if hdf5 else scipy.io.savemat(path, variables, do_compression=True)
        hashes[member[role].path] = hashlib.sha256(path.read_bytes()).hexdigest()
    archive = folder / bench.url.rsplit("/", 1)[1]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("../outside.txt", "a member nobody asked for")
        for role in content:
            out.write(unpacked / member[role].path, member[role].path)

    counts = [tuple(np.bincount(label[split == code], minlength=k + 1)[1 : k + 1].tolist()) for code in (1, 2)]
    known = {"train": counts[0], "test": counts[1]} if "train_index" in member or "train" in member else {}
    if isinstance(bench.train, int):
        known = {key: sum(n) for key, n in known.items()}
    if bench.labelled:
        known = {"labelled": tuple(np.bincount(label.ravel(), minlength=k + 1)[1 : k + 1].tolist())}
    tiny = dataclasses.replace(
        bench,
        grid=GRID,
        sensors=sensors,
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        **known,
        members={role: dataclasses.replace(m, sha256=m.sha256 and hashes[m.path]) for role, m in member.items()},
    )
    truth["classes"] = SHADOW_FIRST if name == "muufl" else list(bench.classes)
    return tiny, truth, archive


def classes_of(scene) -> list[str]:
    return json.loads(scene.attrs["class_names"])
