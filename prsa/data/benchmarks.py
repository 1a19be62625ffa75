"""The public benchmarks: where they come from, what their files must hold, and the reader that turns them into scenes.

``python -m prsa.data.benchmarks houston2013 ...`` (``make data``) downloads, verifies, reads and stores them;
`open_benchmark` does the same on demand. Archives and members lie in ``data/raw/<name>/``, scenes in ``data/cache/``.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import xarray as xr

from .. import files
from ..errors import PrsaError
from .download import fetch
from .scene import SCHEMA, check_scene, read_netcdf, save_scene

READER = 1  # raise when the reader changes what a scene holds: older caches are then built again


@dataclass(frozen=True)
class Member:
    """A variable in a file; ``key`` leads into structs by dots, ``sha256`` is empty where none is public."""

    path: str
    key: str
    sha256: str = ""


@dataclass(frozen=True)
class Sensor:
    """One modality as its file holds it."""

    kind: str
    bands: int
    long_name: str
    units: str = "1"
    surplus: int = 0  # bands at the end that measure nothing on the ground and are left out


@dataclass(frozen=True)
class Benchmark:
    """A public data set.

    Roles of ``members``: a modality's name; ``label`` (whole map), or ``train`` and ``test`` (a label raster each);
    ``train_index`` and ``test_index`` (0-based rows and columns); ``names`` and ``wavelength`` (in the file itself).
    ``train``, ``test``, ``labelled``: known pixels per class, or their sum.
    """

    name: str
    title: str
    url: str
    sha256: str
    members: dict[str, Member]
    grid: tuple[int, int]  # rows, columns
    sensors: dict[str, Sensor]
    classes: tuple[str, ...]
    licence: str
    citation: str
    train: tuple[int, ...] | int | None = None
    test: tuple[int, ...] | int | None = None
    labelled: tuple[int, ...] | None = None
    wavelength: tuple[float, float] | None = None  # nm, centre of the first and the last band, evenly spaced


# ---- the reader


def read_mat(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    """MATLAB variables with MATLAB's axes: v5 to v7 by scipy, v7.3 (HDF5, axes reversed) by h5py."""
    try:
        try:
            found = scipy.io.loadmat(path, variable_names=keys, struct_as_record=False)
        except NotImplementedError:
            with h5py.File(path) as file:
                found = {key: file[key][()].T for key in keys if key in file}
    except Exception as error:  # both libraries raise many kinds for a damaged file
        raise PrsaError(
            f"{path}: expected a readable MATLAB file, got {type(error).__name__}: {str(error)[:200]}. "
            "Fix: delete it and run again."
        ) from error
    return found


def _need(holds: bool, what: str, expected: object, got: object) -> None:
    if not holds:
        raise PrsaError(
            f"{what}: expected {expected}, got {got}. This is not the file the reader was written for. Fix: get the "
            "original, or write the scene yourself as in data/README.md, 'Your own scene'."
        )


def _inner(value: object) -> object:
    """What stands in a struct array, in a cell or in both; of several, the first."""
    while isinstance(value, np.ndarray) and value.dtype == object:
        value = value.flat[0]
    return value


def _contents(bench: Benchmark, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every role with its values; files of one path are read once, and one is held at a time."""
    for path, items in groupby(bench.members.items(), key=lambda item: item[1].path):
        items = list(items)
        found = read_mat(folder / path, list({member.key.split(".")[0] for _, member in items}))
        for role, member in items:
            first, *rest = member.key.split(".")
            _need(first in found, str(folder / path), f"the variable(s) {first}", "none of that name")
            value = found[first]
            for field in rest:
                value = getattr(_inner(value), field, None)
                _need(value is not None, f"{bench.name}, {role}", f"the field {member.key}", f"none called {field}")
            yield role, value


def _bands_first(bench: Benchmark, name: str, values: np.ndarray) -> np.ndarray:
    """(y, x, band) of any type -> float32 (band, y, x), band by band: the only copy."""
    sensor = bench.sensors[name]
    values = values[..., None] if values.ndim == 2 else values
    expected = (*bench.grid, sensor.bands)
    _need(values.shape == expected, f"{bench.name}, {name} (rows, columns, bands)", expected, values.shape)
    out = np.empty((sensor.bands - sensor.surplus, *bench.grid), np.float32)
    for band in range(len(out)):
        out[band] = values[..., band]
    return out


def _labels(bench: Benchmark, role: str, values: np.ndarray) -> np.ndarray:
    """A label raster as int16 with 0 = unlabelled (-1 in some files)."""
    what = f"{bench.name}, {role}"
    _need(values.shape == bench.grid, f"{what} (rows, columns)", bench.grid, values.shape)
    label = np.where(values == -1, 0, values)
    good = (label == np.round(label)).all() and label.min() >= 0 and label.max() <= len(bench.classes)
    _need(good, what, f"whole numbers from 0 to {len(bench.classes)}", f"{label.min()} to {label.max()}")
    return label.astype(np.int16)


def _mark(bench: Benchmark, key: str, pairs: np.ndarray, code: int, label: np.ndarray, split: np.ndarray) -> None:
    """Write a part of the split: 0-based (row, column) pairs (n, 2)."""
    what = f"{bench.name}, {key}"
    _need(pairs.ndim == 2 and pairs.shape[1] == 2, what, "pairs of row and column (n, 2)", pairs.shape)
    low, high = pairs.min(0).tolist(), pairs.max(0).tolist()
    inside = min(low) >= 0 and high[0] < bench.grid[0] and high[1] < bench.grid[1]
    got = f"rows {low[0]} to {high[0]}, columns {low[1]} to {high[1]}"
    _need(inside, what, f"0-based rows and columns on a grid of {bench.grid}", got)
    rows, columns = pairs.astype(np.int64).T
    bare = int((label[rows, columns] == 0).sum())
    got = f"{bare} listed pixels without one (rows and columns swapped, or counted from 1?)"
    _need(not bare, what, "a label at every listed pixel", got)
    taken = len(rows) - len(np.unique(rows * bench.grid[1] + columns)) + int((split[rows, columns] > 0).sum())
    _need(not taken, what, "every pixel listed once", f"{taken} listed again")
    split[rows, columns] = code


def _check_counts(bench: Benchmark, label: np.ndarray, split: np.ndarray) -> None:
    parts = {"training": (bench.train, split == 1), "test": (bench.test, split == 2)}
    for what, (expected, pixels) in (parts | {"labelled": (bench.labelled, label > 0)}).items():
        got = np.bincount(label[pixels], minlength=len(bench.classes) + 1)[1:]
        if isinstance(expected, int):
            what = f"{bench.name}, {what} pixels (a number from the literature)"
            _need(got.sum() == expected, what, expected, got.sum())
        elif expected:
            pairs = zip(bench.classes, got.tolist(), expected)
            wrong = ", ".join(f"{name} {n} instead of {m}" for name, n, m in pairs if n != m)
            _need(not wrong, f"{bench.name}, {what} pixels per class", sum(expected), f"{got.sum()}: {wrong}")


def build(bench: Benchmark, folder: Path) -> xr.Dataset:
    """The scene in a folder of verified members. Raises `PrsaError` when shapes, labels or counts are not as known."""
    values, rasters, other = {}, {}, {}
    for role, raw in _contents(bench, folder):
        if role in bench.sensors:
            values[role] = _bands_first(bench, role, raw)
        elif role in ("label", "train", "test"):
            rasters[role] = _labels(bench, role, raw)
        else:
            other[role] = raw
    split = np.zeros(bench.grid, np.int8)
    if "label" in rasters:
        label = rasters["label"]
        for code, key in ((1, "train_index"), (2, "test_index")):
            if key in other:
                _mark(bench, key, other[key], code, label, split)
    else:
        train, test = rasters["train"], rasters["test"]
        both = int(((train > 0) & (test > 0)).sum())
        _need(not both, f"{bench.name}, pixels in both label rasters", 0, both)
        label, split[train > 0], split[test > 0] = train + test, 1, 2
    _check_counts(bench, label, split)
    names = [str(np.squeeze(_inner(name))) for name in np.ravel(other.get("names", []))]
    spectrum = other.get("wavelength", bench.wavelength and np.linspace(*bench.wavelength, len(values["hsi"])))
    scene = xr.Dataset(
        {
            name: (
                (f"{name}_band", "y", "x"),
                values[name],
                {"kind": s.kind, "long_name": s.long_name, "units": s.units},
            )
            for name, s in bench.sensors.items()
        },
        attrs={
            "schema": SCHEMA,
            "name": bench.name,
            "title": bench.title,
            # The file's own names win: the text beside that of MUUFL swaps classes 7 and 8.
            "class_names": json.dumps(names if len(set(names)) == len(bench.classes) else bench.classes),
            "license": bench.licence,
            "citation": bench.citation,
            "simulated": 0,
            **_source(bench),
        },
    )
    scene["label"] = ("y", "x"), label
    if split.any():
        scene["split"] = ("y", "x"), split
    if spectrum is not None and np.size(spectrum) == len(values["hsi"]):
        scene = scene.assign_coords(wavelength=("hsi_band", np.ravel(spectrum).astype(np.float64), {"units": "nm"}))
    return check_scene(scene, bench.name)


# ---- the facts

_DIST = "https://github.com/songyz2019/rs-fusion-datasets-dist/releases/download/v1.0.0/"
_TRENTO = "Trento-b4afc449ce5d6936ddc04fe267d86f9f35536afd/"
_MUUFL = (
    "MUUFLGulfport-0.1/MUUFLGulfportSceneLabels/muufl_gulfport_campus_1_hsi_220_label.mat",
    "69420a72866dff4a858ae503e6e2981af46f406a4ad8f4dd642efa43feb59edc",
)
_HONG = (
    "Hong, D. et al. (2021): Multimodal remote sensing benchmark datasets for land cover classification with a shared "
    "and specific feature learning model. ISPRS J. Photogramm. Remote Sens. 178, 68-80"
)
_UNSTATED = "not stated with the archive; ask the owners before you redistribute"
_SENTINEL1 = Sensor("sar", 4, "Sentinel-1, polarimetric features")


def _split(names: str) -> tuple[str, ...]:
    return tuple(names.split(", "))


def _indexed(stem: str, second: str, digests: str) -> dict[str, Member]:
    """Members of the archives with a file per sensor, one of labels and one of indices; digests in this order."""
    key, members = stem.rsplit("/", 1)[1], {}
    for role, part, digest in zip(("hsi", second, "label"), ("hsi", second, "gt"), digests.split()):
        members[role] = Member(f"{stem}_{part}.mat", f"{key}_{part}", digest)
    index = f"{stem}_index.mat", digests.split()[3]
    return members | {f"{part}_index": Member(index[0], f"{key}_{part}", index[1]) for part in ("train", "test")}


_ALL = (
    Benchmark(
        "houston2013",
        "Houston 2013, University of Houston campus",
        _DIST + "houston2013-mmr.zip",
        "7a2d719d12f49f1984e6f28821254cd6b217ba85599780a093ed3388ae1fd762",
        {
            role: Member(f"Houston2013/{stem}.mat", stem, digest)
            for role, stem, digest in (
                ("hsi", "HSI", "6a0edba3c224df411623ed5774fc34e91929ab341709859b2f56cc38dbb3c6fd"),
                ("lidar", "LiDAR", "7aa956e7c371fd29a495f0cb9bb8f572aaa4065fcfeda2b3e854a5cef74b35ad"),
                ("train", "TRLabel", "96ce863eaf4dc548c3140a480dee33c812d46194ae5ed345fed6e71a3d72b527"),
                ("test", "TSLabel", "46bd849d556c80ed67b33f23dd288eafa7ac9f97a847390be373b702b0bf5a45"),
            )
        },
        (349, 1905),
        {"hsi": Sensor("hyperspectral", 144, "CASI-1500"), "lidar": Sensor("lidar", 1, "LiDAR surface height", "m")},
        _split(
            "Healthy grass, Stressed grass, Synthetic grass, Trees, Soil, Water, Residential, Commercial, Road, "
            "Highway, Railway, Parking Lot 1, Parking Lot 2, Tennis Court, Running Track"
        ),
        "IEEE GRSS Data Fusion Contest 2013 data; users may not redistribute it",
        "Debes, C. et al. (2014): Hyperspectral and LiDAR data fusion: outcome of the 2013 GRSS Data Fusion Contest. "
        "IEEE J-STARS 7(6), 2405-2418",
        train=(198, 190, 192, 188, 186, 182, 196, 191, 193, 191, 181, 192, 184, 181, 187),
        test=(1053, 1064, 505, 1056, 1056, 143, 1072, 1053, 1059, 1036, 1054, 1041, 285, 247, 473),
        wavelength=(364.0, 1046.1),
    ),
    Benchmark(
        "augsburg",
        "Augsburg, HySpex and Sentinel-1",
        _DIST + "augsburg-ouc.zip",
        "4d853be609eca98a5fb23ccd711bcd0985b7db86a6e89f53f461e1643a7ab6ae",
        _indexed(
            "Augsburg/augsburg",
            "sar",
            "2f13839d7840b32f55e0489d6934776dcfded7f678e23a9d8c2c092573946583 "
            "cd1dbfad2346f47e51d105b05e11aaefc872fe487a94bdc2913f4eaee3f8e82b "
            "065df71257f06c075ff3b37327c0fba75cc9146015a0f095a093fd12b9eaacbe "
            "8bc57037447cb42dbf3a8478d42d4bc217a53a6a0b349c2d67db8c660bef2f43",
        ),
        (332, 485),
        {"hsi": Sensor("hyperspectral", 180, "HySpex"), "sar": _SENTINEL1},
        _split("Forest, Residential, Industrial, Low Plants, Allotment, Commercial, Water"),
        _UNSTATED,
        _HONG,
        train=(146, 264, 21, 248, 52, 7, 23),
        test=(13361, 30065, 3830, 26609, 523, 1638, 1507),
    ),
    Benchmark(
        "berlin",
        "Berlin, simulated EnMAP and Sentinel-1",
        _DIST + "berlin-ouc.zip",
        "5fdd156b0283bddab3cf9916f34d3d6b3a2ceb68e7c38c3f8022292199aafcf8",
        _indexed(
            "Berlin/berlin",
            "sar",
            "580f397d9f249b4ec3f02b8cc570d910d765afa9f77b17d8a4f4799edee94b1f "
            "a6cf2f86db7f1a02c340e813a7b46f9c6c58e297e1eb9b5fa19ed49244b2b8a7 "
            "dd9286cd565535857721627878de3cbebffa2dacc625b539474d16cba3a7343e "
            "1a66ec454ea95bbf5782525d9fcf9a04412a948b7b3aa6919ed324516d42a8b5",
        ),
        (1723, 476),
        {"hsi": Sensor("hyperspectral", 244, "EnMAP, simulated from HyMap"), "sar": _SENTINEL1},
        _split("Forest, Residential, Industrial, Low Plants, Soil, Allotment, Commercial, Water"),
        _UNSTATED,
        _HONG,
        train=2820,  # both from the literature
        test=461851,
    ),
    Benchmark(
        "trento",
        "Trento, rural area south of the city",
        "https://github.com/tyust-dayu/Trento/archive/b4afc449ce5d6936ddc04fe267d86f9f35536afd.zip",
        "b203331b039d994015c4137753f15973cb638046532b8dced6064888bf970631",
        {
            "hsi": Member(_TRENTO + "Italy_hsi.mat", "data"),
            "lidar": Member(
                _TRENTO + "Italy_lidar.mat", "data", "a04dc90368d6a7b4f9d3936024ba9fef4105456c090daa14fff31b8b79e94ab1"
            ),
            "label": Member(
                _TRENTO + "allgrd.mat", "mask_test", "7e3fb2a2ea22c2661dfc768db3cb93c9643b324e7e64fadedfa57f5edbf1818f"
            ),
        },
        (166, 600),
        {"hsi": Sensor("hyperspectral", 63, "AISA Eagle"), "lidar": Sensor("lidar", 2, "LiDAR rasters")},
        _split("Apple trees, Buildings, Ground, Woods, Vineyard, Roads"),
        _UNSTATED,
        "Rasti, B., Ghamisi, P., Gloaguen, R. (2017): Hyperspectral and LiDAR fusion using extinction profiles and "
        "total variation component analysis. IEEE TGRS 55(7), 3997-4007",
        labelled=(4034, 2903, 479, 9123, 10501, 3174),
    ),
    Benchmark(
        "muufl",
        "MUUFL Gulfport, campus 1",
        "https://github.com/GatorSense/MUUFLGulfport/archive/refs/tags/v0.1.zip",
        "2219e6259e3ad80521a8a7ff879916624efa61eb6df1bfd80538f6f2d4befa2c",
        {
            role: Member(_MUUFL[0], f"hsi.{field}", _MUUFL[1])
            for role, field in (
                ("hsi", "Data"),
                ("lidar", "Lidar.z"),
                ("label", "sceneLabels.labels"),
                ("names", "sceneLabels.Materials_Type"),
                ("wavelength", "info.wavelength"),
            )
        },
        (325, 220),
        {
            "hsi": Sensor("hyperspectral", 64, "CASI-1500 reflectance"),
            "lidar": Sensor("lidar", 2, "LiDAR rasters of the first flight", "m"),
        },
        _split(
            "trees, mostly grass, mixed ground surface, dirt and sand, road, water, building shadow, buildings, "
            "sidewalk, yellow curb, cloth panels"
        ),
        "MIT, citation required",
        "Gader, P. et al. (2013): MUUFL Gulfport hyperspectral and LiDAR airborne data set. Univ. of Florida, "
        "REP-2013-570; Du, X., Zare, A. (2017): Scene label ground truth map for MUUFL Gulfport data set. Univ. of "
        "Florida, 20170417",
    ),
    Benchmark(
        "houston2018",
        "Houston 2018, University of Houston and surroundings",
        _DIST + "houston2018-ouc.zip",
        "bc1e046cc00b82661441888b17327b38946a0da33951eb4ebb7d0a4e0ca3cfa2",
        _indexed(
            "Houston2018/houston",
            "lidar",
            "35a4a9a2bad193740274c6388f18284fc586a2ef5bde579368796fbeec2a58ea "
            "a55fa2d99684078dd0d8039b2ca1349190d86766426a25e8dff7fbd5df036d9b "
            "93f268e576fcf149fab8cb71b4a79691b420e9a3f369f0cbc73e2029639f6286 "
            "2d513db197f105b6b82e7039909878862fbe48750a93184017f22ab8f288d0b3",
        ),
        (1202, 4768),
        {
            "hsi": Sensor("hyperspectral", 50, "CASI-1500, its 48 spectral bands", surplus=2),
            "lidar": Sensor("lidar", 1, "LiDAR raster"),
        },
        _split(
            "Healthy grass, Stressed grass, Artificial turf, Evergreen trees, Deciduous trees, Bare earth, Water, "
            "Residential buildings, Non-residential buildings, Roads, Sidewalks, Crosswalks, Major thoroughfares, "
            "Highways, Railways, Paved parking lots, Unpaved parking lots, Cars, Trains, Stadium seats"
        ),
        "IEEE GRSS Data Fusion Contest 2018 data; licence not stated with the archive",
        "Xu, Y. et al. (2019): Advanced multi-sensor optical remote sensing for urban land use and land cover "
        "classification: outcome of the 2018 IEEE GRSS Data Fusion Contest. IEEE J-STARS 12(6), 1709-1724",
        wavelength=(374.4, 1047.1),
    ),
)
BENCHMARKS: dict[str, Benchmark] = {bench.name: bench for bench in _ALL}


# ---- from a name to a scene


def _source(bench: Benchmark) -> dict:
    return {"source": bench.url, "source_sha256": bench.sha256, "reader": READER}


def _cached(bench: Benchmark, path: Path) -> xr.Dataset | None:
    """The stored scene, or None when there is none, it is damaged or it was made from another archive or reader."""
    if not path.is_file():
        return None
    try:
        scene = read_netcdf(path, path.name)  # every compressed piece carries a checksum
        if any(scene.attrs.get(key) != value for key, value in _source(bench).items()):
            return None
        return check_scene(scene, bench.name)
    except PrsaError as error:
        print(f"{path} is damaged, and built again: {error}", file=sys.stderr)
        return None


def open_benchmark(name: str) -> xr.Dataset:
    """Open a public benchmark; the first time it is downloaded, verified, read and stored in ``data/cache``.

    Raises `PrsaError` for an unknown name, and when a file can neither be found nor downloaded (saying what to put
    where) or is not the known one.
    """
    if name not in BENCHMARKS:
        raise PrsaError(f"unknown benchmark {name!r}. Expected one of {', '.join(BENCHMARKS)}.")
    bench = BENCHMARKS[name]
    path = files.data() / "cache" / f"{name}.nc"
    scene = _cached(bench, path)
    if scene is None:
        if path.parent.is_dir():
            files.sweep(path.parent)
        notice = f"{bench.title}\n  licence: {bench.licence}\n  please cite: {bench.citation}"
        members = {member.path: member.sha256 for member in bench.members.values()}
        scene = build(bench, fetch(files.data() / "raw" / name, bench.url, bench.sha256, members, notice))
        save_scene(scene, path)
    return scene


def main(argv: list[str] | None = None) -> int:
    """``python -m prsa.data.benchmarks NAME ...``: make these available; 0, or 2 when one failed."""
    names = sys.argv[1:] if argv is None else argv
    if not names:
        print(f'Name what to download: make data SCENES="houston2013 augsburg". Known: {", ".join(BENCHMARKS)}.')
    failed = 0
    for name in names:
        if name.startswith("sim-") or name.endswith(".nc"):
            print(f"{name}: nothing to download")
            continue
        try:
            scene = open_benchmark(name)
        except PrsaError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 2
            continue
        parts = "no official split: blocks"
        if "split" in scene:
            parts = f"{int((scene['split'] == 1).sum())} training, {int((scene['split'] == 2).sum())} test"
        labelled, where = int((scene["label"] > 0).sum()), files.data() / "cache" / f"{name}.nc"
        print(f"{name}: {dict(scene.sizes)}, {labelled} labelled pixels ({parts}), in {where}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
