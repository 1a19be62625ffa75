"""The scene contract: what is refused and in which words, no-data, file formats, atomic writing, the hash."""

import json
import os

import numpy as np
import pytest
import xarray as xr
from tiny import CLASSES, make_scene

from prsa import open_scene, save_scene
from prsa.data.scene import check_scene, class_names, modalities, scene_hash
from prsa.data.simulate import EMBEDDED
from prsa.errors import PrsaError
from prsa.files import atomic_netcdf


def full_scene():
    """Two modalities with split and validation rasters."""
    split = np.zeros((40, 48), int)
    split[:, :24], split[:, 24:] = 1, 2
    validation = np.zeros((40, 48), int)
    validation[:8, :24] = 1
    return make_scene(split=split, validation=validation)


def changed(**attrs):
    scene = make_scene()
    scene.attrs |= attrs
    return scene


def without(*names):
    scene = make_scene().drop_vars([n for n in names if n in ("hsi", "sar", "label")])
    scene.attrs = {k: v for k, v in scene.attrs.items() if k not in names}
    return scene


def with_raster(name, values, dims=("y", "x")):
    return make_scene().assign({name: (dims, values)})


def label_with(value):
    values = make_scene()["label"].values.copy()
    values[3, 4] = value
    return with_raster("label", values)


def dead_band():
    scene = make_scene()
    scene["hsi"].values[4] = np.nan
    scene["hsi"].values[1] = np.inf
    return scene


def other_grid():
    return make_scene().drop_vars("sar").assign(sar=(("sar_band", "y2", "x2"), np.zeros((2, 20, 24), np.float32)))


label = make_scene()["label"].values
BROKEN = {
    "schema missing": (without("schema"), r"schema='prsa-scene-1'.*got None"),
    "schema of another kind": (changed(schema="prsa-scene-2"), r"schema='prsa-scene-1'.*got 'prsa-scene-2'"),
    "class names missing": (without("class_names"), r"class_names, a JSON list.*got None.*json.dumps"),
    "class names not JSON": (changed(class_names="water, forest"), r"class_names, a JSON list.*got 'water, forest'"),
    "class names twice": (changed(class_names=json.dumps(["a", "b", "a", "c"])), r"K different names"),
    "class names not text": (changed(class_names=json.dumps([1, 2, 3, 4])), r"class_names, a JSON list"),
    "class names a JSON text": (changed(class_names=json.dumps("wide")), r"class_names, a JSON list.*got '\"wide\"'"),
    "class names a JSON object": (
        changed(class_names=json.dumps(dict.fromkeys(CLASSES, 1))),
        r"class_names, a JSON list",
    ),
    "class names empty": (changed(class_names="[]"), r"class_names, a JSON list"),
    "class names a number": (changed(class_names=4), r"class_names, a JSON list.*got 4"),
    "no label": (without("label"), r"a variable label \(y, x\), got variables \['hsi', 'sar'\]"),
    "label transposed": (
        with_raster("label", label.T, ("x", "y")),
        r"label with dims \('y', 'x'\), got \('x', 'y'\) of shape \(48, 40\)",
    ),
    "label with a band": (
        with_raster("label", label[None], ("label_band", "y", "x")),
        r"label with dims.*got \('label_band', 'y', 'x'\)",
    ),
    "label of floats": (with_raster("label", label.astype(float)), r"label of integer type, got float64.*cast"),
    "label too high": (label_with(5), r"label between 0 and 4, got 0 to 5"),
    "label negative": (label_with(-1), r"label between 0 and 4, got -1 to 4"),
    "label empty": (with_raster("label", 0 * label), r"labelled pixels, got label is 0 everywhere"),
    "split out of range": (with_raster("split", 3 * (label > 0)), r"split between 0 and 2, got 0 to 3"),
    "split of floats": (with_raster("split", 1.0 * (label > 0)), r"split of integer type"),
    "split on another grid": (with_raster("split", label[:9] // 4, ("y2", "x")), r"split with dims.*got \('y2', 'x'\)"),
    "validation out of range": (with_raster("validation", label), r"validation between 0 and 1, got 0 to 4"),
    "another grid": (
        other_grid(),
        r"one grid.*\(bands, 40, 48\).*sar \('sar_band', 'y2', 'x2'\) \(2, 20, 24\).*resample",
    ),
    "modality without a band": (
        with_raster("dsm", 1.0 * label),
        r"dims \('<name>_band', 'y', 'x'\).*got dsm \('y', 'x'\) \(40, 48\)",
    ),
    "foreign band name": (make_scene().rename_dims(sar_band="band"), r"got sar \('band', 'y', 'x'\) \(2, 40, 48\)"),
    "one modality": (without("sar"), r"two or more modalities, got 1 \(\['hsi'\]\)"),
    "no modality": (without("hsi", "sar"), r"two or more modalities, got 0"),
    "bands of no-data": (dead_band(), r"data in every band of hsi, got only no-data in band\(s\) \[1, 4\].*drop"),
    "modality of text": (
        make_scene().assign(sar=(("sar_band", "y", "x"), np.full((2, 40, 48), "a"))),
        r"sar numeric, got <U1",
    ),
    "simulated not a number": (changed(simulated="perhaps"), r"simulated.*got 'perhaps'"),
    "no pixels": (make_scene().isel(y=slice(0)), r"labelled pixels, got a label raster of shape \(0, 48\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_contract_is_named_with_expected_got_and_fix(case, tmp_path):
    scene, message = BROKEN[case]
    with pytest.raises(PrsaError, match=message) as caught:
        check_scene(scene, "mine.nc")
    text = str(caught.value)
    assert text.startswith("mine.nc: expected ") and ", got " in text and " Fix: " in text and "\n" not in text
    with pytest.raises(PrsaError):
        save_scene(scene, tmp_path / "folder" / "mine.nc")
    assert not list(tmp_path.iterdir()), "nothing is written for a scene that is refused"


@pytest.mark.parametrize(
    "case", ["another grid", "label of floats", "schema missing", "one modality", "bands of no-data"]
)
def test_the_same_words_for_a_file(case, tmp_path):
    scene, message = BROKEN[case]
    scene.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    with pytest.raises(PrsaError, match="mine.nc: .*" + message):
        open_scene(tmp_path / "mine.nc")


@pytest.mark.parametrize("name", ["sim-sarr", "nowhere", "", "scene.tif", "sim_sar"])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(PrsaError, match="unknown scene") as caught:
        open_scene(name)
    assert (
        repr(name) in str(caught.value)
        and all(known in str(caught.value) for known in EMBEDDED)
        and ".nc" in str(caught.value)
    )


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.nc", tmp_path / "folder.nc"):
        (tmp_path / "folder.nc").mkdir(exist_ok=True)
        with pytest.raises(PrsaError, match=f"no scene file at {path}"):
            open_scene(path)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "head"])
def test_damaged_file(tmp_path, damage):
    path = save_scene(make_scene(), tmp_path / "mine.nc")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"not a raster\n" * 40,
            "cut": whole[: len(whole) // 2],
            "head": b"\0" * 64 + whole[64:],
        }[damage]
    )
    with pytest.raises(PrsaError, match="mine.nc: expected a readable netCDF file"):
        open_scene(path)


@pytest.mark.parametrize(
    "make", [make_scene, full_scene, lambda: make_scene(("sar", "hsi")), lambda: make_scene(("sar", "dsm", "hsi"))]
)
def test_round_trip(tmp_path, make):
    scene = check_scene(make())
    path = save_scene(scene, tmp_path / "deep" / "mine.nc")
    back = open_scene(path)
    xr.testing.assert_identical(back, scene.assign_attrs(back.attrs))
    assert modalities(back) == modalities(scene), "the order of the modalities is part of the scene"
    assert scene_hash(back) == scene_hash(scene) and class_names(back) == CLASSES
    assert {k: back.attrs[k] for k in scene.attrs} == scene.attrs
    again = open_scene(save_scene(back, path))
    xr.testing.assert_identical(again, back)
    assert [p.name for p in path.parent.iterdir()] == ["mine.nc"]


def test_wavelengths_survive(tmp_path):
    scene = make_scene().assign_coords(wavelength=("hsi_band", np.linspace(400, 900, 6), {"units": "nm"}))
    back = open_scene(save_scene(scene, tmp_path / "mine.nc"))
    xr.testing.assert_identical(back["wavelength"], scene["wavelength"])


@pytest.mark.parametrize("form", ["netCDF3", "netCDF4"])
@pytest.mark.parametrize("decoded", [True, False])
def test_integers_with_a_missing_value(tmp_path, form, decoded):
    scene, holes = full_scene(), np.random.default_rng(0).random((6, 40, 48)) < 0.1
    counts = np.where(holes, -9999, np.round(100 * scene["hsi"].values)).astype(np.int16)
    scene["hsi"] = scene["hsi"].dims, counts, {"missing_value": np.int16(-9999), "kind": "hyperspectral"}
    path = tmp_path / "mine.nc"
    scene.to_netcdf(path, engine="scipy" if form == "netCDF3" else "h5netcdf")
    if decoded:
        back = open_scene(path)
    else:
        with xr.open_dataset(path, mask_and_scale=False) as raw:
            assert raw["hsi"].dtype == np.int16
            back = check_scene(raw.load())
    assert (
        back["hsi"].dtype == np.float32
        and back["hsi"].attrs["kind"] == "hyperspectral"
        and "missing_value" not in back["hsi"].attrs
    )
    np.testing.assert_array_equal(back["hsi"].values, np.where(holes, np.nan, counts).astype(np.float32))
    for raster in ("label", "split", "validation"):
        assert np.issubdtype(back[raster].dtype, np.integer)
        np.testing.assert_array_equal(back[raster].values, scene[raster].values)
    saved = open_scene(save_scene(back, tmp_path / "again.nc"))
    np.testing.assert_array_equal(saved["hsi"].values, back["hsi"].values)


def test_scaled_integers_are_read_as_physical_values(tmp_path):
    scene = make_scene()
    scene.to_netcdf(
        tmp_path / "mine.nc",
        encoding={"hsi": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -32768}},
        engine="h5netcdf",
    )
    np.testing.assert_allclose(open_scene(tmp_path / "mine.nc")["hsi"].values, scene["hsi"].values, atol=0.0051)


def test_infinities_and_double_precision_become_single_with_no_data(tmp_path):
    scene = make_scene()
    values = scene["sar"].values.astype(np.float64)
    values[0, 3, 4], values[1, 0, 0], values[1, 2, 2] = np.inf, -np.inf, np.nan
    scene["sar"] = scene["sar"].dims, values
    clean = check_scene(scene)
    assert clean["sar"].dtype == np.float32 and np.isnan(clean["sar"].values).sum() == 3
    single = make_scene()
    single["sar"].values[0, 3, 4] = np.inf
    before = single["sar"].values.copy()
    assert np.isnan(check_scene(single)["sar"].values[0, 3, 4])
    np.testing.assert_array_equal(single["sar"].values, before, err_msg="the caller's scene is left alone")


def test_checking_changes_nothing_it_was_given():
    scene = full_scene()
    del scene.attrs["title"], scene.attrs["name"]
    copy = scene.copy(deep=True)
    clean = check_scene(scene, "mine")
    xr.testing.assert_identical(scene, copy)
    assert clean.attrs["title"] == clean.attrs["name"] == "mine" and clean.attrs["license"] == "MIT"
    bare = without("license", "citation", "simulated")
    assert check_scene(bare).attrs["simulated"] == 0 and check_scene(bare).attrs["license"] == "not stated"


def test_a_file_without_a_name_gets_its_own(tmp_path):
    scene = without("name")
    scene.to_netcdf(tmp_path / "valley.nc", engine="h5netcdf")
    assert open_scene(tmp_path / "valley.nc").attrs["name"] == "valley"
    assert open_scene(str(tmp_path / "valley.nc")).attrs["title"] == "Tiny invented scene"


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failing_write_leaves_nothing_or_what_was_there(tmp_path, monkeypatch, existing, moment):
    path = tmp_path / "mine.nc"
    if existing:
        save_scene(make_scene(seed=1), path)
        before = path.read_bytes()

    def full_disk(self, name, *args, **options):
        with open(name, "wb") as file:
            file.write(b"half a file")
        raise OSError(28, "No space left on device")

    def no_rename(*names):
        raise OSError("cannot rename")

    monkeypatch.setattr(*((xr.Dataset, "to_netcdf", full_disk) if moment == "write" else (os, "replace", no_rename)))
    with pytest.raises(OSError):
        save_scene(make_scene(), path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["mine.nc"] if existing else [])
    if existing:
        assert path.read_bytes() == before


def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch):
    """The final name appears by renaming a complete file beside it, readable by others."""
    seen, replace = [], os.replace

    def watched(source, target):
        seen.append((os.path.dirname(source), os.path.basename(source), os.path.exists(target)))
        with xr.open_dataset(source, engine="h5netcdf") as file:
            seen.append(file.load().sizes["y"])
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    atomic_netcdf(make_scene(), tmp_path / "mine.nc")
    (folder, name, there), rows = seen
    assert folder == str(tmp_path) and name.startswith(".") and not name.endswith(".nc") and not there and rows == 40
    assert (tmp_path / "mine.nc").stat().st_mode & 0o777 == 0o644


def edited(edit):
    scene = full_scene()
    edit(scene)
    return scene


CHANGES = {
    "a value": lambda s: s["sar"].values.__setitem__((1, 5, 6), 0),
    "a label": lambda s: s["label"].values.__setitem__((5, 6), s["label"].values[5, 6] % 4 + 1),
    "the split": lambda s: s["split"].values.__setitem__((5, 6), 2),
    "the validation area": lambda s: s["validation"].values.__setitem__((20, 6), 1),
    "class names": lambda s: s.attrs.update(class_names=json.dumps(["a", *CLASSES[1:]])),
    "two pixels swapped": lambda s: s["hsi"].values.__setitem__(
        (0, slice(0, 2), 0), s["hsi"].values[0, 1::-1, 0].copy()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_moves_with(change):
    assert scene_hash(edited(CHANGES[change])) != scene_hash(full_scene())


def test_the_hash_moves_with_rasters_names_and_shape_and_with_nothing_else():
    scene = full_scene()
    first = scene_hash(scene)
    assert len(first) == 64 and first == scene_hash(full_scene())
    variants = [
        scene.drop_vars("validation"),
        scene.drop_vars(["split", "validation"]),
        scene.isel(x=slice(47)),
        make_scene(seed=1),
        scene.rename({"sar": "dsm", "sar_band": "dsm_band"}),
        scene[["sar", "hsi", "label", "split", "validation"]].assign_attrs(scene.attrs),
    ]
    hashes = {scene_hash(v) for v in variants}
    assert len(hashes) == len(variants) and first not in hashes
    assert scene_hash(scene.assign_attrs(title="Other", license="CC0")) == first


@pytest.mark.filterwarnings("error")
def test_real_scenes_fulfil_the_contract(real_scene):
    xr.testing.assert_identical(check_scene(real_scene), real_scene)
    assert len(modalities(real_scene)) == (3 if "chm" in real_scene else 2)
    for m in modalities(real_scene):
        values = real_scene[m].values
        assert values.dtype == np.float32 and not np.isinf(values).any() and not (values == -9999).any()
    assert len(class_names(real_scene)) == int(real_scene["label"].max())
