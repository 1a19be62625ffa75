"""The public benchmarks: where they come from, what their files must hold, and the readers that turn them into scenes.

``python -m prsa.data.benchmarks houston2013 ...`` (``make data``) downloads, verifies, reads and stores them; `open_benchmark` does the same on demand.
Archives and their members lie in ``data/raw/<name>/``, finished scenes in ``data/cache/<name>.nc``. A hash decides: files put there by hand are
used without a download when it is right, and nothing is stored under its final name before it is.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from .. import files
from ..errors import PrsaError
from .download import fetch, remove_leftovers
from .scene import SCHEMA, check_scene, save_scene

READER = 1  # raise when a reader changes what a scene holds: older caches are then built again


@dataclass(frozen=True)
class Member:
    """One file of an archive; ``sha256`` is empty where no complete hash is public: it is then taken from the verified archive only."""

    path: str
    keys: tuple[str, ...]
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
    """A public data set. ``train``, ``test``: pixels per class, or their sum where only that is known; ``labelled``: per class, without a split."""

    name: str
    title: str
    url: str
    sha256: str
    read: Callable  # (benchmark, folder) -> (values per modality, label, split or None, extra)
    members: dict[str, Member]  # role -> file; a modality's role is its name
    grid: tuple[int, int]  # rows, columns
    sensors: dict[str, Sensor]
    classes: tuple[str, ...]
    licence: str
    citation: str
    train: tuple[int, ...] | int | None = None
    test: tuple[int, ...] | int | None = None
    labelled: tuple[int, ...] | None = None
    wavelength: tuple[float, float] | None = None  # nm, centre of the first and the last band, evenly spaced
    mirrors: tuple[str, ...] = ()


# ---- containers


def read_mat(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """MATLAB variables with MATLAB's axes: v5 to v7 through scipy, v7.3 (HDF5, axes reversed) through h5py. Raises `PrsaError`."""
    import h5py
    import scipy.io

    try:
        try:
            found = scipy.io.loadmat(path, variable_names=list(keys), struct_as_record=False)
        except NotImplementedError:
            with h5py.File(path) as file:
                found = {key: file[key][()].T for key in keys if key in file}
    except Exception as error:  # both libraries raise many kinds for a damaged file
        raise PrsaError(
            f"{path}: expected a readable MATLAB file, got {type(error).__name__}: {error}. Delete it and run again."
        ) from error
    missing = [key for key in keys if key not in found]
    if missing:
        raise PrsaError(
            f"{path}: expected the variable(s) {', '.join(missing)}, got none of that name. Delete it and get the original file."
        )
    return {key: found[key] for key in keys}


def _need(holds: bool, what: str, expected, got) -> None:
    if not holds:
        raise PrsaError(
            f"{what}: expected {expected}, got {got}. This is not the file the reader was written for: get the original, "
            "or write the scene yourself as in the README, 'Your own scene'."
        )


def _bands_first(bench: Benchmark, name: str, values: np.ndarray) -> np.ndarray:
    """(y, x, band) of any type -> float32 (band, y, x), band by band: the only copy."""
    sensor = bench.sensors[name]
    values = values[..., None] if values.ndim == 2 else values
    _need(
        values.shape == (*bench.grid, sensor.bands),
        f"{bench.name}, {name} (rows, columns, bands)",
        (*bench.grid, sensor.bands),
        values.shape,
    )
    out = np.empty((sensor.bands - sensor.surplus, *bench.grid), np.float32)
    for band in range(len(out)):
        out[band] = values[..., band]
    return out


def _modalities(bench: Benchmark, folder: Path) -> dict[str, np.ndarray]:
    return {name: _bands_first(bench, name, _one(bench, folder, name)) for name in bench.sensors}


def _one(bench: Benchmark, folder: Path, role: str) -> np.ndarray:
    member = bench.members[role]
    return read_mat(folder / member.path, member.keys)[member.keys[0]]


def _labels(bench: Benchmark, what: str, values: np.ndarray) -> np.ndarray:
    """A label raster as int16 with 0 = unlabelled (-1 in some files)."""
    _need(values.shape == bench.grid, f"{bench.name}, {what} (rows, columns)", bench.grid, values.shape)
    label = np.where(values == -1, 0, values)
    _need(
        bool((label == np.round(label)).all()) and label.min() >= 0 and label.max() <= len(bench.classes),
        f"{bench.name}, {what}",
        f"whole numbers from 0 to {len(bench.classes)}",
        f"{label.min()} to {label.max()}",
    )
    return label.astype(np.int16)


# ---- readers, one per form of the public files


def read_rasters(bench: Benchmark, folder: Path):
    """Two label rasters, one for training and one for test pixels."""
    train, test = (_labels(bench, role, _one(bench, folder, role)) for role in ("train", "test"))
    both = int(((train > 0) & (test > 0)).sum())
    _need(not both, f"{bench.name}, pixels in both label rasters", 0, both)
    return _modalities(bench, folder), train + test, np.where(train > 0, 1, np.where(test > 0, 2, 0)), {}


def read_indices(bench: Benchmark, folder: Path):
    """A label raster and two lists of 0-based (row, column) pairs."""
    label = _labels(bench, "label", _one(bench, folder, "label"))
    split = np.zeros(bench.grid, np.int8)
    member = bench.members["index"]
    for code, (key, pairs) in enumerate(read_mat(folder / member.path, member.keys).items(), start=1):
        _need(
            pairs.ndim == 2 and pairs.shape[1] == 2,
            f"{bench.name}, {key}",
            "pairs of row and column (n, 2)",
            pairs.shape,
        )
        low, high = pairs.min(0).tolist(), pairs.max(0).tolist()
        inside = min(low) >= 0 and high[0] < bench.grid[0] and high[1] < bench.grid[1]
        _need(
            inside,
            f"{bench.name}, {key}",
            f"0-based rows and columns on a grid of {bench.grid}",
            f"rows {low[0]} to {high[0]}, columns {low[1]} to {high[1]}",
        )
        rows, columns = pairs.astype(np.int64).T
        bare = int((label[rows, columns] == 0).sum())
        _need(
            not bare,
            f"{bench.name}, {key}",
            "a label at every listed pixel",
            f"{bare} listed pixels without one (rows and columns swapped, or counted from 1?)",
        )
        taken = len(rows) - len(set((rows * bench.grid[1] + columns).tolist())) + int((split[rows, columns] > 0).sum())
        _need(not taken, f"{bench.name}, {key}", "every pixel listed once", f"{taken} listed again")
        split[rows, columns] = code
    return _modalities(bench, folder), label, split, {}


def read_map(bench: Benchmark, folder: Path):
    """One full label map; nobody published which pixels train."""
    return _modalities(bench, folder), _labels(bench, "label", _one(bench, folder, "label")), None, {}


def read_struct(bench: Benchmark, folder: Path):
    """MUUFL: one MATLAB struct with everything; -1 is unlabelled; LiDAR of the first of two flights."""

    def inner(value):  # a struct array, a cell or both around the struct
        while isinstance(value, np.ndarray) and value.dtype == object:
            value = value.flat[0]
        return value

    struct = inner(_one(bench, folder, "scene"))
    try:
        values = {"hsi": struct.Data, "lidar": inner(struct.Lidar).z}
        scene_labels, info = inner(struct.sceneLabels), inner(struct.info)
        label = _labels(bench, "sceneLabels.labels", scene_labels.labels)
    except AttributeError as error:
        raise PrsaError(
            f"{bench.name}: expected the fields Data, Lidar(1).z, sceneLabels.labels and info in the struct, got none: {error}. "
            "Delete the file and run again."
        ) from error
    extra = {}
    # The file's own names win: the text beside it swaps classes 7 and 8.
    names = [
        str(inner(name).item() if isinstance(inner(name), np.ndarray) else inner(name))
        for name in np.ravel(getattr(scene_labels, "Materials_Type", []))
    ]
    if len(set(names)) == len(bench.classes):
        extra["class_names"] = names
    wavelength = np.ravel(getattr(info, "wavelength", []))
    if wavelength.size == bench.sensors["hsi"].bands:
        extra["wavelength"] = wavelength.astype(np.float64)
    return {name: _bands_first(bench, name, v) for name, v in values.items()}, label, None, extra


# ---- the registry

_DIST = "https://github.com/songyz2019/rs-fusion-datasets-dist/releases/download/v1.0.0/"
_TRENTO = "Trento-b4afc449ce5d6936ddc04fe267d86f9f35536afd/"
_HONG = "Hong, D. et al. (2021): Multimodal remote sensing benchmark datasets for land cover classification with a shared and specific feature learning model. ISPRS J. Photogramm. Remote Sens. 178, 68-80"
_UNSTATED = "not stated with the archive; ask the owners before you redistribute"

_ALL = (
    Benchmark(
        "houston2013",
        "Houston 2013, University of Houston campus",
        _DIST + "houston2013-mmr.zip",
        "7a2d719d12f49f1984e6f28821254cd6b217ba85599780a093ed3388ae1fd762",
        read_rasters,
        {
            "hsi": Member(
                "Houston2013/HSI.mat", ("HSI",), "6a0edba3c224df411623ed5774fc34e91929ab341709859b2f56cc38dbb3c6fd"
            ),
            "lidar": Member(
                "Houston2013/LiDAR.mat", ("LiDAR",), "7aa956e7c371fd29a495f0cb9bb8f572aaa4065fcfeda2b3e854a5cef74b35ad"
            ),
            "train": Member(
                "Houston2013/TRLabel.mat",
                ("TRLabel",),
                "96ce863eaf4dc548c3140a480dee33c812d46194ae5ed345fed6e71a3d72b527",
            ),
            "test": Member(
                "Houston2013/TSLabel.mat",
                ("TSLabel",),
                "46bd849d556c80ed67b33f23dd288eafa7ac9f97a847390be373b702b0bf5a45",
            ),
        },
        (349, 1905),
        {"hsi": Sensor("hyperspectral", 144, "CASI-1500"), "lidar": Sensor("lidar", 1, "LiDAR surface height", "m")},
        (
            "Healthy grass",
            "Stressed grass",
            "Synthetic grass",
            "Trees",
            "Soil",
            "Water",
            "Residential",
            "Commercial",
            "Road",
            "Highway",
            "Railway",
            "Parking Lot 1",
            "Parking Lot 2",
            "Tennis Court",
            "Running Track",
        ),
        "IEEE GRSS Data Fusion Contest 2013 data; users may not redistribute it",
        "Debes, C. et al. (2014): Hyperspectral and LiDAR data fusion: outcome of the 2013 GRSS Data Fusion Contest. IEEE J-STARS 7(6), 2405-2418",
        train=(198, 190, 192, 188, 186, 182, 196, 191, 193, 191, 181, 192, 184, 181, 187),
        test=(1053, 1064, 505, 1056, 1056, 143, 1072, 1053, 1059, 1036, 1054, 1041, 285, 247, 473),
        wavelength=(364.0, 1046.1),
    ),
    Benchmark(
        "augsburg",
        "Augsburg, HySpex and Sentinel-1",
        _DIST + "augsburg-ouc.zip",
        "4d853be609eca98a5fb23ccd711bcd0985b7db86a6e89f53f461e1643a7ab6ae",
        read_indices,
        {
            "hsi": Member(
                "Augsburg/augsburg_hsi.mat",
                ("augsburg_hsi",),
                "2f13839d7840b32f55e0489d6934776dcfded7f678e23a9d8c2c092573946583",
            ),
            "sar": Member(
                "Augsburg/augsburg_sar.mat",
                ("augsburg_sar",),
                "cd1dbfad2346f47e51d105b05e11aaefc872fe487a94bdc2913f4eaee3f8e82b",
            ),
            "label": Member(
                "Augsburg/augsburg_gt.mat",
                ("augsburg_gt",),
                "065df71257f06c075ff3b37327c0fba75cc9146015a0f095a093fd12b9eaacbe",
            ),
            "index": Member(
                "Augsburg/augsburg_index.mat",
                ("augsburg_train", "augsburg_test"),
                "8bc57037447cb42dbf3a8478d42d4bc217a53a6a0b349c2d67db8c660bef2f43",
            ),
        },
        (332, 485),
        {"hsi": Sensor("hyperspectral", 180, "HySpex"), "sar": Sensor("sar", 4, "Sentinel-1, polarimetric features")},
        ("Forest", "Residential", "Industrial", "Low Plants", "Allotment", "Commercial", "Water"),
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
        read_indices,
        {
            "hsi": Member(
                "Berlin/berlin_hsi.mat",
                ("berlin_hsi",),
                "580f397d9f249b4ec3f02b8cc570d910d765afa9f77b17d8a4f4799edee94b1f",
            ),
            "sar": Member(
                "Berlin/berlin_sar.mat",
                ("berlin_sar",),
                "a6cf2f86db7f1a02c340e813a7b46f9c6c58e297e1eb9b5fa19ed49244b2b8a7",
            ),
            "label": Member(
                "Berlin/berlin_gt.mat",
                ("berlin_gt",),
                "dd9286cd565535857721627878de3cbebffa2dacc625b539474d16cba3a7343e",
            ),
            "index": Member(
                "Berlin/berlin_index.mat",
                ("berlin_train", "berlin_test"),
                "1a66ec454ea95bbf5782525d9fcf9a04412a948b7b3aa6919ed324516d42a8b5",
            ),
        },
        (1723, 476),
        {
            "hsi": Sensor("hyperspectral", 244, "EnMAP, simulated from HyMap"),
            "sar": Sensor("sar", 4, "Sentinel-1, polarimetric features"),
        },
        ("Forest", "Residential", "Industrial", "Low Plants", "Soil", "Allotment", "Commercial", "Water"),
        _UNSTATED,
        _HONG,
        train=2820,
        test=461851,
    ),  # from the literature
    Benchmark(
        "trento",
        "Trento, rural area south of the city",
        "https://github.com/tyust-dayu/Trento/archive/b4afc449ce5d6936ddc04fe267d86f9f35536afd.zip",
        "b203331b039d994015c4137753f15973cb638046532b8dced6064888bf970631",
        read_map,
        {
            "hsi": Member(_TRENTO + "Italy_hsi.mat", ("data",)),
            "lidar": Member(
                _TRENTO + "Italy_lidar.mat",
                ("data",),
                "a04dc90368d6a7b4f9d3936024ba9fef4105456c090daa14fff31b8b79e94ab1",
            ),
            "label": Member(
                _TRENTO + "allgrd.mat",
                ("mask_test",),
                "7e3fb2a2ea22c2661dfc768db3cb93c9643b324e7e64fadedfa57f5edbf1818f",
            ),
        },
        (166, 600),
        {"hsi": Sensor("hyperspectral", 63, "AISA Eagle"), "lidar": Sensor("lidar", 2, "LiDAR rasters")},
        ("Apple trees", "Buildings", "Ground", "Woods", "Vineyard", "Roads"),
        _UNSTATED,
        "Rasti, B., Ghamisi, P., Gloaguen, R. (2017): Hyperspectral and LiDAR fusion using extinction profiles and total variation component analysis. IEEE TGRS 55(7), 3997-4007",
        labelled=(4034, 2903, 479, 9123, 10501, 3174),
    ),
    Benchmark(
        "muufl",
        "MUUFL Gulfport, campus 1",
        "https://github.com/GatorSense/MUUFLGulfport/archive/refs/tags/v0.1.zip",
        "2219e6259e3ad80521a8a7ff879916624efa61eb6df1bfd80538f6f2d4befa2c",
        read_struct,
        {
            "scene": Member(
                "MUUFLGulfport-0.1/MUUFLGulfportSceneLabels/muufl_gulfport_campus_1_hsi_220_label.mat",
                ("hsi",),
                "69420a72866dff4a858ae503e6e2981af46f406a4ad8f4dd642efa43feb59edc",
            )
        },
        (325, 220),
        {
            "hsi": Sensor("hyperspectral", 64, "CASI-1500 reflectance"),
            "lidar": Sensor("lidar", 2, "LiDAR rasters of the first flight", "m"),
        },
        (
            "trees",
            "mostly grass",
            "mixed ground surface",
            "dirt and sand",
            "road",
            "water",
            "building shadow",
            "buildings",
            "sidewalk",
            "yellow curb",
            "cloth panels",
        ),
        "MIT, citation required",
        "Gader, P. et al. (2013): MUUFL Gulfport hyperspectral and LiDAR airborne data set. Univ. of Florida, REP-2013-570; Du, X., Zare, A. (2017): Scene label ground truth map for MUUFL Gulfport data set. Univ. of Florida, 20170417",
    ),
    Benchmark(
        "houston2018",
        "Houston 2018, University of Houston and surroundings",
        _DIST + "houston2018-ouc.zip",
        "bc1e046cc00b82661441888b17327b38946a0da33951eb4ebb7d0a4e0ca3cfa2",
        read_indices,
        {
            "hsi": Member(
                "Houston2018/houston_hsi.mat",
                ("houston_hsi",),
                "35a4a9a2bad193740274c6388f18284fc586a2ef5bde579368796fbeec2a58ea",
            ),
            "lidar": Member(
                "Houston2018/houston_lidar.mat",
                ("houston_lidar",),
                "a55fa2d99684078dd0d8039b2ca1349190d86766426a25e8dff7fbd5df036d9b",
            ),
            "label": Member(
                "Houston2018/houston_gt.mat",
                ("houston_gt",),
                "93f268e576fcf149fab8cb71b4a79691b420e9a3f369f0cbc73e2029639f6286",
            ),
            "index": Member(
                "Houston2018/houston_index.mat",
                ("houston_train", "houston_test"),
                "2d513db197f105b6b82e7039909878862fbe48750a93184017f22ab8f288d0b3",
            ),
        },
        (1202, 4768),
        {
            "hsi": Sensor("hyperspectral", 50, "CASI-1500, its 48 spectral bands", surplus=2),
            "lidar": Sensor("lidar", 1, "LiDAR raster"),
        },
        (
            "Healthy grass",
            "Stressed grass",
            "Artificial turf",
            "Evergreen trees",
            "Deciduous trees",
            "Bare earth",
            "Water",
            "Residential buildings",
            "Non-residential buildings",
            "Roads",
            "Sidewalks",
            "Crosswalks",
            "Major thoroughfares",
            "Highways",
            "Railways",
            "Paved parking lots",
            "Unpaved parking lots",
            "Cars",
            "Trains",
            "Stadium seats",
        ),
        "IEEE GRSS Data Fusion Contest 2018 data; licence not stated with the archive",
        "Xu, Y. et al. (2019): Advanced multi-sensor optical remote sensing for urban land use and land cover classification: outcome of the 2018 IEEE GRSS Data Fusion Contest. IEEE J-STARS 12(6), 1709-1724",
        wavelength=(374.4, 1047.1),
    ),
)
BENCHMARKS: dict[str, Benchmark] = {bench.name: bench for bench in _ALL}


# ---- from files to a scene


def _check_counts(bench: Benchmark, label: np.ndarray, split: np.ndarray | None) -> None:
    k = len(bench.classes)
    for what, expected, pixels in (
        ("training", bench.train, split == 1),
        ("test", bench.test, split == 2),
        ("labelled", bench.labelled, label > 0),
    ):
        if expected is None:
            continue
        got = np.bincount(label[pixels], minlength=k + 1)[1:]
        if isinstance(expected, int):
            _need(
                got.sum() == expected,
                f"{bench.name}, {what} pixels (a number from the literature)",
                expected,
                got.sum(),
            )
        else:
            wrong = [
                f"{name} {n} instead of {m}" for name, n, m in zip(bench.classes, got.tolist(), expected) if n != m
            ]
            _need(
                not wrong,
                f"{bench.name}, {what} pixels per class",
                f"{sum(expected)} in all",
                f"{got.sum()}: {', '.join(wrong)}",
            )


def build(bench: Benchmark, folder: Path) -> xr.Dataset:
    """The scene (``prsa-scene-1``) in a folder that holds the verified members. Raises `PrsaError` when shapes, labels or counts are not the known ones."""
    values, label, split, extra = bench.read(bench, folder)
    _check_counts(bench, label, split)
    data = {
        name: ((f"{name}_band", "y", "x"), values[name], {"kind": s.kind, "long_name": s.long_name, "units": s.units})
        for name, s in bench.sensors.items()
    }
    data["label"] = ("y", "x"), label
    if split is not None:
        data["split"] = ("y", "x"), split.astype(np.int8)
    scene = xr.Dataset(
        data,
        attrs={
            "schema": SCHEMA,
            "name": bench.name,
            "title": bench.title,
            "class_names": json.dumps(extra.get("class_names", bench.classes)),
            "license": bench.licence,
            "citation": bench.citation,
            "simulated": 0,
            **_source(bench),
        },
    )
    wavelength = extra.get("wavelength", bench.wavelength and np.linspace(*bench.wavelength, scene.sizes["hsi_band"]))
    if wavelength is not None:
        scene = scene.assign_coords(wavelength=("hsi_band", wavelength, {"units": "nm"}))
    return check_scene(scene, bench.name)


def _source(bench: Benchmark) -> dict:
    return {"source": bench.url, "source_sha256": bench.sha256, "reader": READER}


def _cached(bench: Benchmark, path: Path) -> xr.Dataset | None:
    """The stored scene, or None when there is none, it is damaged or it was made from another archive or by another reader."""
    if not path.is_file():
        return None
    try:
        with xr.open_dataset(path, engine="h5netcdf") as file:
            if any(file.attrs.get(key) != value for key, value in _source(bench).items()):
                return None
            scene = file.load()  # every compressed piece carries a checksum
        return check_scene(scene, path.name)
    except Exception as error:  # a damaged HDF5 file can fail in many ways
        print(f"{path} is damaged ({type(error).__name__}): it is built again.", file=sys.stderr)
        return None


def open_benchmark(name: str) -> xr.Dataset:
    """Open a public benchmark; the first time it is downloaded, verified, read and stored in ``data/cache``.

    Raises `PrsaError` for an unknown name, and when a file can neither be found nor downloaded (saying what to put where) or is not the known one.
    """
    if name not in BENCHMARKS:
        raise PrsaError(f"unknown benchmark {name!r}. Expected one of {', '.join(BENCHMARKS)}.")
    bench = BENCHMARKS[name]
    path = files.data() / "cache" / f"{name}.nc"
    scene = _cached(bench, path)
    if scene is None:
        remove_leftovers(path.parent)
        notice = f"{bench.title}\n  licence: {bench.licence}\n  please cite: {bench.citation}"
        folder = fetch(
            files.data() / "raw" / name,
            (bench.url, *bench.mirrors),
            bench.sha256,
            {member.path: member.sha256 for member in bench.members.values()},
            notice,
        )
        scene = build(bench, folder)
        save_scene(scene, path)
    return scene


def main(argv: list[str] | None = None) -> int:
    """``python -m prsa.data.benchmarks NAME ...``: make these scenes available; 0, or 2 when one failed (the others are still made)."""
    from .simulate import EMBEDDED

    names = sys.argv[1:] if argv is None else argv
    failed = 0
    if not names:
        print(f'Name what to download: make data SCENES="houston2013 augsburg berlin". Known: {", ".join(BENCHMARKS)}.')
    for name in names:
        if name.split(":")[0] in EMBEDDED or name.endswith(".nc"):
            print(f"{name}: nothing to download")
            continue
        try:
            scene = open_benchmark(name)
        except PrsaError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 2
            continue
        labelled = int((scene["label"] > 0).sum())
        parts = (
            ", ".join(f"{int((scene['split'] == code).sum())} {what}" for code, what in ((1, "training"), (2, "test")))
            if "split" in scene
            else "no official split: blocks"
        )
        print(
            f"{name}: {dict(scene.sizes)}, {labelled} labelled pixels ({parts}), in {files.data() / 'cache' / f'{name}.nc'}"
        )
    return failed


if __name__ == "__main__":
    sys.exit(main())
