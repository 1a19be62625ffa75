"""Scenes: the contract and its gate, no-data, coordinates, simulation, benchmarks, splits, leakage, patches."""

import dataclasses
import functools
import gc
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zipfile

import h5netcdf
import hypothesis
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import strategies as st
from scipy import ndimage
from tiny import CLASSES, make_scene
from tiny_benchmarks import BANDS, GRID, classes_of, make

import prsa
from prsa import files, open_scene, save_scene, split_scene
from prsa.data import benchmarks, download, landscape
from prsa.data import simulate as sim
from prsa.data.benchmarks import BENCHMARKS
from prsa.data.leakage import audit, distance_to_training, kind_label
from prsa.data.nodata import HUGE, SENTINELS, numbers
from prsa.data.patches import PatchSource, band_statistics, dihedral_offsets, normalise, reflect_index, upload
from prsa.data.scene import check_names, check_scene, class_names, empty_pixels, file_name, modalities, scene_hash
from prsa.data.simulate import EMBEDDED
from prsa.data.splits import KINDS, LEAKING, TEST, TRAIN, VAL, check_split, leaking_share, part_counts
from prsa.errors import PrsaError
from prsa.study import plan

NETCDF3 = {"engine": "scipy", "format": "NETCDF3_64BIT"}


def full_scene():
    """Two modalities with split and validation rasters."""
    split = np.zeros((40, 48), int)
    split[:, :24], split[:, 24:] = 1, 2
    validation = np.zeros((40, 48), int)
    validation[:8, :24] = 1
    return make_scene(split=split, validation=validation)


def without(*names):
    scene = make_scene().drop_vars([n for n in names if n in ("hsi", "sar", "label")])
    scene.attrs = {k: v for k, v in scene.attrs.items() if k not in names}
    return scene


def with_raster(name, values, dims=("y", "x"), **attrs):
    return make_scene().assign({name: (dims, values, attrs)})


def edited(edit, scene=None):
    scene = full_scene() if scene is None else scene
    edit(scene)
    return scene


def label_with(value):
    return edited(lambda s: s["label"].values.__setitem__((3, 4), value), make_scene())


def stripes():
    """Sensors whose coordinates differ by half a pixel, joined by xarray."""
    a, b = make_scene(("hsi",)), make_scene(("sar",)).drop_vars("label")
    a, b = a.assign_coords(y=10.0 * np.arange(40)), b.assign_coords(y=10.0 * np.arange(40) + 5)
    return xr.merge([a, b], join="outer", combine_attrs="override", compat="override")


def last_digits(seed=0):
    a, b = make_scene(("hsi",)), make_scene(("sar",)).drop_vars("label")
    x = 4e5 + 10.0 * np.arange(48)
    noise = 1e-9 * np.random.default_rng(seed).integers(0, 2, 48)
    a, b = a.assign_coords(x=x), b.assign_coords(x=x + noise)
    return xr.merge([a, b], join="outer", combine_attrs="override", compat="override")


LABEL = make_scene()["label"].values
MANY = json.dumps([f"class {n}" for n in range(256)])
BROKEN = {
    "schema of another kind": (
        make_scene().assign_attrs(schema="prsa-scene-2"),
        r"schema='prsa-scene-1', got prsa-scene-2",
    ),
    "labels without names": (without("class_names"), r"label between 0 and 0, got 0 to 4.*class_names lacks names"),
    "class names not JSON": (make_scene().assign_attrs(class_names="water, forest"), r"a JSON list.*got water, forest"),
    "class names twice": (make_scene().assign_attrs(class_names='["a", "b", "a", "c"]'), r"K different names"),
    "class names not text": (make_scene().assign_attrs(class_names="[1, 2, 3, 4]"), r"class_names, a JSON list"),
    "class names a JSON text": (
        make_scene().assign_attrs(class_names='"wide"'),
        r'class_names, a JSON list.*got "wide"',
    ),
    "class names a JSON object": (make_scene().assign_attrs(class_names='{"a": 1}'), r"class_names, a JSON list"),
    "class names a number": (make_scene().assign_attrs(class_names=4), r"class_names, a JSON list.*got 4"),
    "an empty class name": (make_scene().assign_attrs(class_names='["a", " ", "b", "c"]'), r"class_names, a JSON list"),
    "256 classes": (make_scene().assign_attrs(class_names=MANY), r"at most 255 classes, got 256"),
    "label with bands": (
        with_raster("label", np.stack([LABEL] * 2), ("label_band", "y", "x")),
        r"label with dims.*got \('label_band', 'y', 'x'\)",
    ),
    "label between classes": (
        with_raster("label", LABEL + 0.5),
        r"label of integer type, got float64 with other values",
    ),
    "label of text": (with_raster("label", LABEL.astype(str)), r"label of integer type, got dtype"),
    "label too high": (label_with(5), r"label between 0 and 4, got 0 to 5.*class_names lacks names"),
    "label negative": (label_with(-1), r"label between 0 and 4, got -1 to 4.*attrs\['nodata'\] = -1"),
    "split out of range": (
        with_raster("split", 3 * (LABEL > 0)),
        r"split between 0 and 2, got 0 to 3.*1 train, 2 test",
    ),
    "split on another grid": (with_raster("split", LABEL[:9] // 4, ("y2", "x")), r"split with dims.*got \('y2', 'x'\)"),
    "validation out of range": (with_raster("validation", LABEL), r"validation between 0 and 1, got 0 to 4"),
    "polygon negative": (with_raster("polygon", -LABEL), r"polygon 0 or more, got -4 to 0"),
    "another grid": (
        make_scene().drop_vars("sar").assign(sar=(("sar_band", "y2", "x2"), np.zeros((2, 20, 24), np.float32))),
        r"one grid.*\(bands, 40, 48\).*sar \('sar_band', 'y2', 'x2'\) \(2, 20, 24\).*resample",
    ),
    "modality without a band": (with_raster("dsm", 1.0 * LABEL), r"got dsm \('y', 'x'\) \(40, 48\).*expand_dims"),
    "foreign band name": (make_scene().rename_dims(sar_band="band"), r"got sar \('band', 'y', 'x'\) \(2, 40, 48\)"),
    "one modality": (without("sar"), r"two or more modalities, got 1 \(\['hsi'\]\)"),
    "no modality": (without("hsi", "sar"), r"two or more modalities, got 0"),
    "a band of no-data": (
        edited(lambda s: s["hsi"].values.__setitem__([1, 4], np.nan), make_scene()),
        r"data in every band of hsi, got only no-data in band\(s\) \[1, 4\].*drop",
    ),
    "modality of text": (
        with_raster("sar", np.full((2, 40, 48), "a"), ("sar_band", "y", "x")),
        r"sar numeric, got dtype",
    ),
    "complex numbers": (make_scene().assign(sar=make_scene()["sar"] * 1j), r"sar numeric, got dtype\('complex"),
    "simulated not a number": (make_scene().assign_attrs(simulated="perhaps"), r"simulated.*got perhaps"),
    "no pixels": (make_scene().isel(y=slice(0)), r"one grid.*\(bands, 0, 48\)"),
    "a path for a name": (make_scene().rename(sar="a/b", sar_band="a/b_band"), r"another name of modality 'a/b'"),
    "a coordinate's name": (make_scene().rename(sar="spatial_ref", sar_band="spatial_ref_band"), r"another name of"),
    "nodata in words": (
        edited(lambda s: s["sar"].attrs.update(nodata="clouds"), make_scene()),
        r"a number in the attribute nodata of sar, got clouds",
    ),
    "three scales of two bands": (
        edited(lambda s: s["sar"].attrs.update(scale_factor=[1, 2, 3]), make_scene()),
        r"scale_factor of sar to be one number, or one per band",
    ),
    "coordinates that differ in the last digits": (last_digits(), r"one coordinate x per column.*last digits"),
    "half a pixel between sensors": (stripes(), r"hsi and sar on one pixel grid, got no-data in stripes"),
    "coordinates without order": (
        make_scene().assign_coords(y=np.random.default_rng(0).permutation(40)),
        r"a coordinate y that only rises or only falls.*sortby",
    ),
    "one coordinate for all": (
        make_scene().assign_coords(x=np.zeros(48)),
        r"one coordinate x per column, about 0 apart",
    ),
    "coordinates of text": (
        make_scene().assign_coords(y=[f"row {i}" for i in range(40)]),
        r"finite numbers in the coord",
    ),
    "wavelengths below 0": (
        make_scene().assign_coords(wavelength=("hsi_band", np.linspace(-1, 1, 6))),
        r"wavelengths above 0",
    ),
    "an unknown CRS": (make_scene().assign_attrs(crs="my own"), r"attribute crs to be one that GDAL knows, got my own"),
    "half a transform": (
        make_scene().assign_attrs(geotransform=[0, 10, 0]),
        r"six numbers in the attribute geotransform",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_breaks_the_contract_is_named_with_expected_got_and_fix(case, tmp_path):
    scene, message = BROKEN[case]
    with pytest.raises(PrsaError, match=message) as caught:
        check_scene(scene, "mine.nc")
    text = str(caught.value)
    assert text.startswith("mine.nc: expected ") and ", got " in text and "fix: " in text.lower() and "\n" not in text
    assert len(text) <= 900
    with pytest.raises(PrsaError):
        save_scene(scene, tmp_path / "folder" / "mine.nc")
    assert not list(tmp_path.iterdir()), "nothing is written for a scene that is refused"
    for call in (split_scene, lambda s: prsa.fit(s, "concat", preset="quick")):
        with pytest.raises(PrsaError, match=message):
            call(scene)


@pytest.mark.parametrize("case", ["another grid", "label between classes", "one modality", "a band of no-data"])
def test_the_same_words_for_a_file(case, tmp_path):
    scene, message = BROKEN[case]
    scene.to_netcdf(tmp_path / "mine.nc", engine="h5netcdf")
    with pytest.raises(PrsaError, match="mine.nc: .*" + message):
        open_scene(tmp_path / "mine.nc")


@pytest.mark.parametrize("given", ["sim-sar", None, make_scene()["hsi"], np.zeros((2, 3, 4))])
def test_what_is_no_dataset(given):
    with pytest.raises(PrsaError, match=f"an xarray.Dataset, got {type(given).__name__}.*prsa.open_scene"):
        check_scene(given)


def test_messages_stay_short_whatever_the_scene_holds():
    names = [f"a very long name of a class, number {n:05d} of many that nobody would read" for n in range(200)]
    scene = make_scene().assign_attrs(class_names=json.dumps(names), name="n" * 5000)
    for wrong in (
        scene,
        scene.assign(label=scene["label"] + 300),
        scene.assign_attrs(class_names=json.dumps(names * 2)),
    ):
        with pytest.raises(PrsaError) as caught:
            split_scene(wrong)
        assert len(str(caught.value)) <= 900


# ---- what the gate makes of what users bring


def test_checking_changes_nothing_it_was_given_and_copies_nothing_that_is_clean():
    scene = full_scene()
    del scene.attrs["title"], scene.attrs["name"], scene.attrs["schema"]
    copy = scene.copy(deep=True)
    clean = check_scene(scene, "mine")
    xr.testing.assert_identical(scene, copy)
    assert clean.attrs["title"] == clean.attrs["name"] == "mine" and clean.attrs["license"] == "MIT"
    assert np.shares_memory(clean["hsi"].values, scene["hsi"].values)
    xr.testing.assert_identical(check_scene(clean), clean)
    bare = check_scene(without("license", "citation", "simulated"))
    assert bare.attrs["simulated"] == 0 and bare.attrs["license"] == "not stated"


@pytest.mark.parametrize("kind", ["<f8", ">f4", ">f8", "<f2", "i1", "<i2", ">i2", "<i4", "<i8", "u1", "<u2", ">u4"])
@pytest.mark.parametrize("order", [("hsi_band", "y", "x"), ("y", "x", "hsi_band"), ("x", "hsi_band", "y")])
def test_every_type_and_order_of_dimensions_is_read_right(kind, order):
    scene = make_scene()
    counts = np.clip(np.round(3 * scene["hsi"]), 0, 100)
    scene["hsi"] = counts.astype(kind).transpose(*order)
    scene["label"] = scene["label"].astype(kind).transpose("x", "y")
    clean = check_scene(scene)
    assert clean["hsi"].dtype == np.float32 and clean["hsi"].dims == ("hsi_band", "y", "x")
    np.testing.assert_array_equal(clean["hsi"].values, counts.values.astype(np.float32))
    np.testing.assert_array_equal(clean["label"].values, LABEL)
    assert clean["label"].dtype.kind in "iu" and clean["label"].dtype.isnative
    split_scene(scene)


def test_bands_of_length_one_bools_and_gaps_in_rasters():
    scene = full_scene()
    scene["label"] = scene["label"].expand_dims("band")
    scene["validation"] = scene["validation"].astype(bool)
    scene["split"] = scene["split"].astype(float).where(scene["split"] > 1)
    clean = check_scene(scene)
    np.testing.assert_array_equal(clean["label"].values, LABEL)
    assert set(np.unique(clean["split"])) == {0, 2} and clean["validation"].values.sum() == 8 * 24


def test_an_area_without_labels_is_a_scene_that_cannot_be_split(tmp_path):
    sensors = make_scene()[["hsi", "sar"]].drop_attrs()
    for area in (sensors, make_scene().assign(label=0 * make_scene()["label"]), without("label")):
        clean = open_scene(save_scene(area, tmp_path / "area.nc"))
        assert not clean["label"].any() and clean["hsi"].equals(make_scene()["hsi"])
        for call in (split_scene, lambda s: prsa.fit(s, "concat", preset="quick")):
            with pytest.raises(PrsaError, match="expected labelled pixels, got none.*mapped"):
                call(clean)
    assert class_names(check_scene(sensors)) == []


def test_names_that_mean_something_else_elsewhere(tmp_path):
    """A modality may be called like a method or a torch attribute; only the fused head's name is refused, by fit."""
    for name in ("aux", "concat", "keys", "type", "training", "Höhe über Grund", "a.b", "高さ"):
        scene = make_scene().rename(sar=name, sar_band=f"{name}_band")
        back = open_scene(save_scene(scene, tmp_path / "mine.nc"))
        assert modalities(back) == ["hsi", name]
        check_names(back)
    fused = make_scene().rename(sar="fused", sar_band="fused_band")
    with pytest.raises(PrsaError, match="another name of modality 'fused'.*rename"):
        prsa.fit(fused, "concat", preset="quick")
    names = json.dumps(["вода", "森林", "camp <b>", 'a "roof", flat'], ensure_ascii=False)
    back = open_scene(save_scene(make_scene().assign_attrs(class_names=names), tmp_path / "mine.nc"))
    assert class_names(back) == json.loads(names)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/root/x", "a\\..\\b", "..", "a\0b", "con\nfig", "<script>", "~/x", "x" * 300]
)
def test_names_cannot_leave_a_folder(name):
    safe = check_scene(make_scene(name=name)).attrs["name"]
    assert (
        safe == file_name(name.replace("\0", ""))
        and 0 < len(safe) <= 60
        and not set(safe) & set("/\\\0\n<>~")
        and safe.strip(".")
    )


# ---- no-data

FORMS = {
    "number": -9999,
    "numpy": np.int16(-9999),
    "text": "-9999",
    "text of a float": " -9999.0 ",
    "list": [-9999.0] * 6,
    "two values": [-9999, -7777],
    "text of a list": "(-9999.0, nan)",
    "with none": [None, -9999][1:],
}


@pytest.mark.parametrize(
    "key", ["missing_value", "_FillValue", "nodata", "nodatavals", "nodata_value", "data ignore value"]
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_declared_no_data_in_every_spelling(key, form, kind):
    scene = make_scene()
    holes = np.random.default_rng(0).random((6, 40, 48)) < 0.1
    counts = np.where(holes, -9999, np.round(100 * scene["hsi"].values)).astype(kind)
    scene["hsi"] = scene["hsi"].dims, counts, {key: FORMS[form], "kind": "hyperspectral"}
    with warnings.catch_warnings(action="error"):
        clean = check_scene(scene)
    assert clean["hsi"].attrs == {"kind": "hyperspectral"}
    np.testing.assert_array_equal(clean["hsi"].values, np.where(holes, np.nan, counts).astype(np.float32))


def test_no_data_per_band_and_in_unsigned_integers():
    scene = make_scene()
    counts = (100 + 10 * scene["sar"]).clip(1, 200).astype(np.uint8)
    counts.values[0, :3], counts.values[1, :5] = 0, 255
    scene["sar"] = counts.assign_attrs(nodatavals=(0.0, 255.0))
    empty = np.isnan(check_scene(scene)["sar"].values)
    assert empty.sum(axis=(1, 2)).tolist() == [3 * 48, 5 * 48]
    scene["sar"] = counts.assign_attrs(missing_value=np.int8(-1))  # 255, as a reader of signed bytes writes it
    assert np.isnan(check_scene(scene)["sar"].values).sum(axis=(1, 2)).tolist() == [0, 5 * 48]
    scene["sar"] = counts.astype(np.int16)
    assert np.isnan(check_scene(scene.assign_attrs(nodata=255))["sar"].values).sum() == 5 * 48, (
        "said for the whole scene"
    )
    assert numbers(None) == [] and np.isnan(numbers("NaN")[0]) and numbers(b"[1, 2]") == [1, 2]


VALID = {
    "range": {"valid_range": np.array([0, 2000], np.int16)},
    "ends": {"valid_min": "0", "valid_max": np.int16(2000)},
    "lower end": {"valid_min": 0},
}


@pytest.mark.parametrize("said", VALID)
def test_values_outside_the_valid_range_are_no_data_once_packed_or_not(tmp_path, said):
    scene, holes = make_scene(), np.random.default_rng(0).random((2, 40, 48)) < 0.1
    counts = np.where(holes, -4000, (100 * scene["sar"]).clip(0, 2000).round()).astype(np.int16)
    scene["sar"] = scene["sar"].dims, counts, VALID[said] | {"scale_factor": 0.01, "add_offset": 5.0}
    scene.to_netcdf(tmp_path / "packed.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "packed.nc", engine="h5netcdf") as decoded:
        given = {"decoded by xarray": decoded.load(), "as it lies": scene}
    for words, limits in zip(given, ("5 to", "0 to")):
        with pytest.warns(UserWarning, match=rf"10 % of the values of sar are not within valid_range.*\({limits}"):
            clean = check_scene(given[words])
        np.testing.assert_array_equal(np.isnan(clean["sar"].values), holes, err_msg=words)
        with warnings.catch_warnings(action="error"):
            assert check_scene(clean).equals(clean), "the limits spoke of other numbers than these"


def test_a_valid_range_that_is_none_is_told():
    scene = make_scene()
    for wrong in ([1, 2, 3], "low to high"):
        scene["sar"].attrs["valid_range"] = wrong
        with pytest.raises(PrsaError, match="numbers in the attribute valid_range of sar"):
            check_scene(scene)


def test_a_time_or_band_of_length_one_is_no_dimension():
    scene = make_scene()
    longer = scene.expand_dims("time").assign(label=scene["label"].expand_dims("band"))
    assert check_scene(longer).equals(check_scene(scene))
    with pytest.raises(PrsaError, match="one grid with dims"):
        check_scene(xr.concat([scene, scene], "time"))


@pytest.mark.parametrize("how", [{"engine": "h5netcdf"}, NETCDF3])
@pytest.mark.parametrize("decoded", [True, False])
def test_files_with_integers_and_a_missing_value(tmp_path, how, decoded):
    scene, holes = full_scene(), np.random.default_rng(0).random((6, 40, 48)) < 0.1
    counts = np.where(holes, -9999, np.round(100 * scene["hsi"].values)).astype(np.int16)
    scene["hsi"] = scene["hsi"].dims, counts, {"missing_value": np.int16(-9999), "kind": "hyperspectral"}
    path = tmp_path / "mine.nc"
    scene.to_netcdf(path, **how)
    with xr.open_dataset(path, mask_and_scale=decoded) as raw:
        loaded = raw.load()
    for back in (open_scene(path), check_scene(loaded), check_scene(scene)):
        np.testing.assert_array_equal(back["hsi"].values, np.where(holes, np.nan, counts).astype(np.float32))
        for raster in ("label", "split", "validation"):
            np.testing.assert_array_equal(back[raster].values, scene[raster].values)
    saved = open_scene(save_scene(scene, tmp_path / "again.nc"))
    np.testing.assert_array_equal(saved["hsi"].values, np.where(holes, np.nan, counts).astype(np.float32))


def test_packed_numbers_mean_the_same_in_memory_and_in_a_file(tmp_path):
    scene = make_scene()
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -32768}
    scene["hsi"].values[0, 0, 0] = np.nan
    scene.to_netcdf(tmp_path / "mine.nc", encoding={"hsi": packing}, engine="h5netcdf")
    with xr.open_dataset(tmp_path / "mine.nc", mask_and_scale=False) as raw:
        packed = raw.load()
    with xr.open_dataset(tmp_path / "mine.nc") as physical:
        unpacked = physical.load()
    unpacked["hsi"].values[3, 3, 3] = -32768  # the encoding speaks of the packed numbers
    for source in (open_scene(tmp_path / "mine.nc"), check_scene(packed)):
        np.testing.assert_allclose(source["hsi"].values, scene["hsi"].values, atol=0.0051)
    with pytest.warns(UserWarning, match="-32768"):
        check_scene(unpacked)
    unsigned = make_scene()
    bytes_ = (unsigned["sar"].clip(0, 20) * 10).astype(np.uint8)
    unsigned["sar"] = bytes_.astype(np.int8).assign_attrs(_Unsigned="true")
    np.testing.assert_array_equal(check_scene(unsigned)["sar"].values, bytes_.values.astype(np.float32))


IMPOSSIBLE = [np.inf, -np.inf, -3.4028235e38, 3.4028235e38, 1e20, -1e20, 9.96921e36, 1e30, -1.7976931348623157e308]


@pytest.mark.parametrize("value", [*IMPOSSIBLE, *SENTINELS])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_values_that_no_sensor_measures_are_no_data_and_said(value, kind):
    if kind == np.float32 and value == IMPOSSIBLE[-1]:
        value = IMPOSSIBLE[2]
    scene = make_scene()
    scene["sar"] = np.abs(100 * scene["sar"]).astype(kind)
    scene["sar"].values[0, :3, :8] = value
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clean = check_scene(scene, "mine")
    assert np.isnan(clean["sar"].values[0, :3, :8]).all() and np.isnan(clean["sar"].values).sum() == 24
    if np.isfinite(value):
        assert len(said) == 1 and "mine: sar holds" in str(said[0].message) and "0.62 %" in str(said[0].message)
    with warnings.catch_warnings(action="error"):
        check_scene(clean)
    if abs(value) < HUGE:  # the user's word counts more than a rule
        scene["sar"].attrs["nodata"] = np.nan
        with warnings.catch_warnings(action="error"):
            kept = check_scene(check_scene(scene))
        assert (kept["sar"].values[0, :3, :8] == np.float32(value)).all()


def test_int64_of_a_cast_nan_and_several_sentinels_at_once():
    scene = make_scene()
    scene["sar"] = (10 * scene["sar"]).astype(np.int64)
    scene["sar"].values[0, 0], scene["sar"].values[0, 1], scene["sar"].values[0, 2] = (
        np.iinfo(np.int64).min,
        -9999,
        -32768,
    )
    with pytest.warns(UserWarning, match="-9999.*taken as no-data"):
        clean = check_scene(scene)
    assert np.isnan(clean["sar"].values).sum() == 3 * 48


def test_real_extremes_are_not_sentinels():
    """Deep sea down to -9999 m, reflectances down to -999 and bright targets are measurements, and nothing is said."""
    scene = make_scene(("hsi", "sar", "dsm"))
    scene["dsm"].values[0] = np.linspace(-9999, 100, 40 * 48).reshape(40, 48)
    scene["hsi"].values[:] = np.linspace(-999, 9000, 6 * 40 * 48).reshape(6, 40, 48)
    scene["sar"].values[0, 0, 0] = 5000.0  # one pixel: a corner reflector
    with warnings.catch_warnings(action="error"):
        clean = check_scene(scene)
    assert all(np.array_equal(clean[m], scene[m]) for m in modalities(scene))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda s: s["sar"].values.__setitem__((0, slice(2)), 65535), "65535"),
        (lambda s: s["sar"].values.__setitem__((1, slice(2)), -5000), "-5000"),
        (lambda s: s["sar"].values.__setitem__((1, slice(2)), -0.9999), "-0.9999"),
        (lambda s: s["hsi"].values.__setitem__((slice(None), slice(2)), 0), r"hsi holds 0 \(5 %\)"),
    ],
)
def test_strange_values_are_kept_and_said(spoil, said):
    scene = make_scene()
    for m in ("hsi", "sar"):
        scene[m].values[:] = np.abs(scene[m].values) + 1
    scene = edited(spoil, scene)
    with pytest.warns(UserWarning, match=f"{said}.*is this no-data. It is kept"):
        clean = check_scene(scene)
    assert clean["sar"].equals(scene["sar"]) and clean["hsi"].equals(scene["hsi"])


def test_values_changed_in_place_are_noticed():
    scene = check_scene(make_scene())
    scene["sar"].values[0, :5] = -3.4e38
    scene["label"].values[0, 0] = 9
    with pytest.raises(PrsaError, match="label between 0 and 4"), pytest.warns(UserWarning, match="e[+]38"):
        split_scene(scene)


def swath():
    scene = make_scene()
    for m in ("hsi", "sar"):
        scene[m].values[:, :10] = np.nan
    scene["sar"].values[:, 10:14] = np.nan
    return scene


def test_labelled_pixels_without_any_data_take_no_part():
    scene = swath()
    assert (empty_pixels(scene) == (np.arange(40) < 10)[:, None]).all()
    for kind in ("blocks", "random"):
        with pytest.warns(
            UserWarning, match=f"{(LABEL[:10] > 0).sum()} of {(LABEL > 0).sum()} labelled pixels have no data"
        ):
            split = split_scene(scene, kind)
        assert not split.values[:10].any() and split.values[10:14].any(), "a pixel with one sensor is used"
    with pytest.warns(UserWarning, match="no data in any"):
        split = check_split(check_scene(scene), split_scene(make_scene(), "random"))
    assert not split.values[:10].any() and split.attrs["kind"].startswith("own")


# ---- coordinates


def placed(y=None, x=None):
    y, x = 5e6 - 10.0 * np.arange(40) if y is None else y, 4e5 + 10.0 * np.arange(48) if x is None else x
    wkt = 'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0]]'
    return make_scene().assign_coords(y=("y", y, {"units": "m"}), x=x, spatial_ref=((), 0, {"crs_wkt": wkt}))


@pytest.mark.parametrize("y", [np.arange(40.0), -np.arange(40.0)])
def test_coordinates_and_crs_are_kept_and_are_no_part_of_the_hash(tmp_path, y):
    scene = placed(y).assign_coords(
        lat=(("y", "x"), np.zeros((40, 48))), hsi_band=list("abcdef"), time=np.datetime64("2020")
    )
    back = open_scene(save_scene(scene, tmp_path / "mine.nc"))
    for name in ("y", "x", "lat", "hsi_band"):
        np.testing.assert_array_equal(back[name].values, scene[name].values)
    assert back["spatial_ref"].attrs == scene["spatial_ref"].attrs and back["y"].attrs["units"] == "m"
    assert scene_hash(back) == scene_hash(check_scene(make_scene()))
    xr.testing.assert_identical(open_scene(save_scene(back, tmp_path / "mine.nc")), back)
    with xr.open_dataset(tmp_path / "mine.nc", decode_coords="all") as others:  # as CF says it, for other programs
        assert others["hsi"].encoding["grid_mapping"] == "spatial_ref" and "spatial_ref" in others.coords


def test_other_spellings_of_the_place():
    gdal = make_scene().assign_attrs(crs="EPSG:32718", geotransform=[4e5, 10.0, 0.0, 5e6, 0.0, -10.0])
    affine = make_scene().assign_attrs(crs="EPSG:32718", transform=[10.0, 0.0, 4e5, 0.0, -10.0, 5e6])
    for scene in map(check_scene, (gdal, affine)):
        assert scene["x"].values[:2].tolist() == [400005, 400015] and scene["y"].values[1] == 4999985
        assert "UTM zone 18S" in scene["spatial_ref"].attrs["crs_wkt"]
        assert not {"crs", "geotransform", "transform"} & set(scene.attrs), (
            "a part of the scene would be placed wrongly"
        )
    rotated = check_scene(make_scene().assign_attrs(geotransform=[4e5, 10.0, 1.0, 5e6, 0.0, -10.0]))
    assert "x" not in rotated.coords and "geotransform" in rotated.attrs
    cf = make_scene().assign(crs=((), 0, {"grid_mapping_name": "transverse_mercator", "crs_wkt": "PROJCRS[...]"}))
    cf["hsi"].attrs["grid_mapping"] = "crs"
    assert check_scene(cf)["spatial_ref"].attrs["crs_wkt"] == "PROJCRS[...]" and "crs" not in check_scene(cf).variables
    whole = placed()
    whole["spatial_ref"].attrs["GeoTransform"] = "399995 10 0 5000005 0 -10"
    assert "GeoTransform" in check_scene(whole)["spatial_ref"].attrs
    assert "GeoTransform" not in check_scene(whole.isel(x=slice(5, None)))["spatial_ref"].attrs, "of another cut"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", [10.0, 9e-5])
def test_noise_in_the_last_digits_is_refused_and_gaps_are_not(seed, step):
    with pytest.raises(PrsaError, match="last digits"):
        check_scene(last_digits(seed))
    x = step * np.arange(48)
    x[20:] += 50 * step  # two crops side by side
    check_scene(placed(x=x))
    check_scene(placed(x=(717729.835 + 10 * np.arange(48)).astype(np.float32)))


def test_a_sensor_that_covers_less_is_no_shifted_grid():
    scene = make_scene(("hsi", "sar"))
    scene["hsi"].values[:, :15], scene["sar"].values[:, 25:] = np.nan, np.nan
    check_scene(scene)
    scene["hsi"].values[:, [1, 5, 30]] = np.nan  # lines that dropped out
    check_scene(scene)


@pytest.mark.parametrize("factor, unit", [(1, "nm"), (1e-3, "micrometers"), (1e-3, "nm"), (1e-9, "m"), (1e-3, None)])
def test_wavelengths_become_nanometres(tmp_path, factor, unit):
    wanted = np.linspace(400, 2500, 6)
    scene = make_scene().assign_coords(wavelength=("hsi_band", wanted * factor, {"units": unit} if unit else {}))
    for clean in (check_scene(scene), open_scene(save_scene(scene, tmp_path / "mine.nc"))):
        np.testing.assert_allclose(clean["wavelength"].values, wanted)
        assert clean["wavelength"].attrs["units"] == "nm" and clean["wavelength"].dims == ("hsi_band",)
    noted = edited(lambda s: s["hsi"].attrs.update(wavelength_nm=wanted), make_scene())
    np.testing.assert_allclose(check_scene(noted)["wavelength"].values, wanted)


# ---- files


@pytest.mark.parametrize("name", ["sim-sarr", "nowhere", "", "scene.tif", "sim_sar", "a" * 3000])
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(PrsaError, match="unknown scene") as caught:
        open_scene(name)
    text = str(caught.value)
    assert all(known in text for known in (*EMBEDDED, *BENCHMARKS, ".nc", "scene_from_rasters")) and len(text) <= 900


def test_missing_file_and_folder(tmp_path):
    (tmp_path / "folder.nc").mkdir()
    for path in (tmp_path / "none.nc", tmp_path / "folder.nc"):
        with pytest.raises(PrsaError, match=f"no scene file at {path}"):
            open_scene(path)


@pytest.mark.parametrize("suffix", [".NC", ".nc4", ".netcdf", ".cdf", ".Nc"])
def test_other_endings_of_netcdf_files(tmp_path, suffix):
    path = save_scene(make_scene(), tmp_path / f"Szene (2){suffix}")
    assert open_scene(path)["hsi"].equals(make_scene()["hsi"])
    path.rename(tmp_path / "no ending")
    assert open_scene(str(tmp_path / "no ending"))["hsi"].equals(make_scene()["hsi"])
    with pytest.raises(PrsaError, match="ends in .nc.*Fix: mine.nc"):
        save_scene(make_scene(), tmp_path / "mine.tif")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "head"])
def test_damaged_file(tmp_path, damage):
    path = save_scene(make_scene(), tmp_path / "mine.nc")
    whole = path.read_bytes()
    spoilt = {
        "empty": b"",
        "text": b"no raster\n" * 40,
        "cut": whole[: len(whole) // 2],
        "head": b"\0" * 64 + whole[64:],
    }
    path.write_bytes(spoilt[damage])
    with pytest.raises(PrsaError, match="mine.nc: expected a readable netCDF file"):
        open_scene(path)


def test_a_damaged_file_prints_no_traceback_of_a_library(tmp_path, monkeypatch):
    """h5netcdf closes what it could not open, in its destructor."""
    path, printed, refused = save_scene(make_scene(), tmp_path / "mine.nc"), [], 0
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(str(error.exc_value)))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, 9000, 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            open_scene(path)
        except PrsaError:
            refused += 1
    gc.collect()
    assert refused > 10 and not printed


def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path):
    with h5netcdf.File(tmp_path / "bomb.nc", "w") as file:
        file.dimensions = {"hsi_band": 6, "y": 10**6, "x": 10**6}
        file.create_variable("hsi", ("hsi_band", "y", "x"), "f4", chunks=(1, 1000, 1000), compression="gzip")
    with pytest.raises(PrsaError, match="fits into memory.*got 24000 GB"):
        open_scene(tmp_path / "bomb.nc")


@pytest.mark.parametrize("make_it", [make_scene, full_scene, lambda: make_scene(("sar", "dsm", "hsi"))])
def test_round_trip(tmp_path, make_it):
    scene = check_scene(make_it())
    path = save_scene(scene, tmp_path / "deep" / "mine.nc")
    back = open_scene(path)
    xr.testing.assert_identical(back, scene.assign_attrs(name="mine"))
    assert modalities(back) == modalities(scene), "the order of the modalities is part of the scene"
    assert scene_hash(back) == scene_hash(scene) and class_names(back) == CLASSES
    assert [p.name for p in path.parent.iterdir()] == ["mine.nc"]


FOREIGN = {"scale_factor": 1.0, "add_offset": 0.0, "_FillValue": 255, "grid_mapping": "spatial_ref", "dtype": "uint8"}
FOREIGN |= {"transform": (10.0, 0.0, 4e5, 0.0, -10.0, 5e6), "nothing": None, "flag": True, "words": ["a", "b"]}
FOREIGN |= {
    "deep": {"a": [1, None]},
    "big": 10**30,
    "complex": 1j,
    "text": "null\0byte \ud800",
    "none": [],
    "a/b": "path",
}
FOREIGN |= {"": "no name", "coordinates": "lon lat", "DIMENSION_LIST": 1, "list": [1, 2], "array": np.zeros((2, 2))}


def test_attributes_and_encodings_of_others_do_not_break_what_is_written(tmp_path):
    """What is written opens again, in the same form, whatever other programs left on the rasters."""
    scene = placed()
    for name in scene.data_vars:
        scene[name].attrs |= FOREIGN | ({} if name == "label" else {"_FillValue": np.nan})
        scene[name].encoding = {
            "dtype": "int8",
            "scale_factor": 3.0,
            "zlib": True,
            "chunksizes": (1, 1, 1),
            "source": "x.tif",
        }
    scene["label"] = scene["label"].astype(np.uint8).assign_attrs(scene["label"].attrs)
    scene["y"].attrs["_FillValue"] = np.nan
    scene.attrs |= FOREIGN
    back = open_scene(save_scene(scene, tmp_path / "mine.nc"))
    for name in ("hsi", "sar"):
        np.testing.assert_array_equal(back[name].values, make_scene()[name].values)
    np.testing.assert_array_equal(back["label"].values, LABEL)
    np.testing.assert_array_equal(back["y"].values, scene["y"].values)
    assert back["hsi"].attrs["flag"] == 1 and back["hsi"].attrs["words"] == '["a", "b"]'
    xr.testing.assert_identical(open_scene(save_scene(back, tmp_path / "mine.nc")), back)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-200], lambda data: make_scene(seed=2).to_netcdf(engine="h5netcdf")]
)
def test_a_write_that_cannot_be_read_back_is_refused(tmp_path, monkeypatch, spoil):
    path = save_scene(make_scene(seed=1), tmp_path / "mine.nc")
    before, written = path.read_bytes(), bytes(make_scene().to_netcdf(engine="h5netcdf"))
    wrong = bytes(spoil(written))
    monkeypatch.setattr(xr.Dataset, "to_netcdf", lambda self, **how: wrong)
    with pytest.raises(PrsaError, match="mine.nc"):
        save_scene(make_scene(), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["mine.nc"]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_failing_write_leaves_nothing_or_what_was_there(tmp_path, monkeypatch, existing, moment):
    path = tmp_path / "mine.nc"
    before = save_scene(make_scene(seed=1), path).read_bytes() if existing else None

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), {"write": "write_bytes", "rename": "replace"}[moment], full_disk)
    with pytest.raises(PrsaError, match="disk is full"):
        save_scene(make_scene(), path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == (["mine.nc"] if existing else [])
    assert not existing or path.read_bytes() == before


# ---- identity


def test_a_scene_from_a_file_has_the_files_name(tmp_path):
    """An altered copy never counts as the original, whatever its attributes say."""
    assert open_scene(save_scene(make_scene(), tmp_path / "valley.nc")).attrs["name"] == "valley"
    original = open_scene("sim-sar")
    for stem in ("sim-sar", "sim-sar:3", "sim-lidar-old", "houston2013"):
        copy = open_scene(save_scene(original, tmp_path / f"{stem}.nc"))
        assert copy.attrs["name"] == "file-" + stem.replace(":", "-") and copy.attrs["title"] == original.attrs["title"]
        assert not sim.is_dial(copy.attrs["name"]) and sim.group_of(copy.attrs["name"]) == copy.attrs["name"]


def test_a_file_changed_in_a_session_gives_the_new_data(tmp_path):
    scene = make_scene()
    first = open_scene(save_scene(scene, tmp_path / "a.nc"))
    scene["hsi"] = scene["hsi"] + 100
    second = open_scene(save_scene(scene, tmp_path / "a.nc"))
    assert float((second["hsi"] - first["hsi"]).mean()) == pytest.approx(100, rel=1e-5)


CHANGES = {
    "a value": lambda s: s["sar"].values.__setitem__((1, 5, 6), 0),
    "a label": lambda s: s["label"].values.__setitem__((5, 6), s["label"].values[5, 6] % 4 + 1),
    "the split": lambda s: s["split"].values.__setitem__((5, 6), 2),
    "the validation area": lambda s: s["validation"].values.__setitem__((20, 6), 1),
    "class names": lambda s: s.attrs.update(class_names=json.dumps(["a", *CLASSES[1:]])),
    "polygons": lambda s: s.update({"polygon": s["label"]}),
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
    assert len(first) == 64 and first == scene_hash(full_scene()) == scene_hash(check_scene(scene))
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
    assert scene_hash(scene.assign_attrs(title="Other", license="CC0").assign_coords(x=np.arange(48.0))) == first


@pytest.mark.filterwarnings("error")
def test_real_scenes_fulfil_the_contract(real_scene):
    xr.testing.assert_identical(check_scene(real_scene), real_scene)
    assert len(modalities(real_scene)) == (3 if "chm" in real_scene else 2)
    for m in modalities(real_scene):
        values = real_scene[m].values
        assert values.dtype == np.float32 and not np.isinf(values).any() and not (values == -9999).any()
    assert len(class_names(real_scene)) == int(real_scene["label"].max())


def test_the_code_of_the_data_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (files.ROOT / "data" / "README.md").read_text(encoding="utf-8"), re.S | re.M
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert split_scene(open_scene("mine.nc")).attrs["kind"] == "blocks"


def test_import_without_torch():
    code = "import sys, prsa; prsa.open_scene; prsa.split_scene; prsa.save_scene; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=files.ROOT)
    assert done.stdout.strip() == "False"


# ---- any scene: accepted with a sensible result, or refused by one PrsaError

TEXT = st.text(max_size=12)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.lists(st.floats(), max_size=3))
NUMBERS = ["f8", ">f4", "f2", "i1", "i2", ">i2", "i8", "u1", "u2", "?", "c8", "U2", "O", "M8[s]"]
STRANGE = [np.nan, np.inf, -3.4e38, -9999.0, 1e20, 0.0, 255.0, 65535.0, 1.0]
ODD = ["names", "types", "dims", "values", "marks", "rasters", "attrs", "class_names", "coords", "missing"]


@st.composite
def any_scene(draw):
    """A good scene, from 1 x 1 pixel and one pixel per class, with up to three kinds of oddities that users bring."""
    rng, odd = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.sets(st.sampled_from(ODD), max_size=3))
    height, width, k = draw(st.integers(1, 30)), draw(st.integers(1, 30)), draw(st.integers(1, 5))
    variables, names = {}, ["hsi", "sar", "dsm"][: draw(st.integers(2, 3))]
    if "names" in odd:
        names[-1] = draw(st.one_of(st.sampled_from(["fused", "aux", "keys", "a b", "label"]), TEXT))
    for name in names:
        values = rng.normal(50, 20, (draw(st.integers(1, 3)), height, width))
        for _ in range(draw(st.integers(1, 2)) if "values" in odd else 0):
            values[rng.random(values.shape) < draw(st.sampled_from([0.02, 0.5, 1.0]))] = draw(st.sampled_from(STRANGE))
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            kind = draw(st.sampled_from(NUMBERS)) if "types" in odd else "f4"
            values = (values.astype("i8") if kind[0] == "M" else values).astype(kind)
        keys = st.sampled_from(
            ["nodata", "_FillValue", "missing_value", "scale_factor", "grid_mapping", "units", "wavelength"]
        )
        attrs = draw(st.dictionaries(keys, VALUES, max_size=2)) if "marks" in odd else {}
        dims = f"{name}_band", "y", "x"
        variables[name] = xr.Variable(dims, values, attrs)
        if "dims" in odd:
            variables[name] = variables[name].transpose(*draw(st.permutations(dims)))
    rasters = {"label": k, "split": 2, "validation": 1, "polygon": 6}
    more = draw(st.lists(st.sampled_from(list(rasters)), max_size=4, unique=True)) if "rasters" in odd else []
    for raster in {"label", *more} - ({"label"} if "missing" in odd else set()):
        low, top = (
            (draw(st.sampled_from([-1, 0, 0])), rasters[raster] + draw(st.sampled_from([0, 0, 1]))) if more else (0, k)
        )
        kind = draw(st.sampled_from(["i2", "u1", "f4", ">i4", "?"])) if "types" in odd else "i2"
        attrs = draw(st.dictionaries(st.just("_FillValue"), VALUES, max_size=1)) if "marks" in odd else {}
        variables[raster] = ("y", "x"), rng.integers(low, top + 1, (height, width)).astype(kind), attrs
    attrs = {"class_names": json.dumps([f"c{i}" for i in range(k)])} | ({"schema": "prsa-scene-1"} if k % 2 else {})
    if "attrs" in odd:
        keys = st.sampled_from(["title", "simulated", "schema", "name", "crs", "geotransform", "license"])
        attrs |= draw(st.dictionaries(keys, VALUES, max_size=2))
    if "class_names" in odd:
        attrs["class_names"] = draw(VALUES)
    coords = {}
    for name, size in (("y", height), ("x", width)) if "coords" in odd else ():
        coords[name] = draw(
            st.sampled_from([np.arange(size), -10.0 * np.arange(size), rng.random(size), np.zeros(size)])
        )
    return xr.Dataset(variables, coords, attrs)


@hypothesis.settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(any_scene())
def test_any_scene_is_accepted_with_a_sensible_result_or_refused_by_one_error(tmp_path_factory, scene):
    folder = tmp_path_factory.mktemp("any")
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        try:
            clean = open_scene(save_scene(scene, folder / "any.nc"))
        except PrsaError as error:
            assert 20 < len(str(error)) <= 900 and not list(folder.iterdir())
            return
        assert len(modalities(clean)) >= 2 and clean["label"].dims == ("y", "x")
        assert all(clean[m].dtype == np.float32 and not np.isinf(clean[m]).any() for m in modalities(clean))
        xr.testing.assert_identical(check_scene(clean), clean)
        for kind in KINDS:
            try:
                split = split_scene(clean, kind, radius=2)
            except PrsaError as error:
                assert 20 < len(str(error)) <= 900
                continue
            counts = part_counts(clean["label"].values.astype(int), split.values, len(class_names(clean)))
            assert counts[TRAIN - 1].all() and counts[TEST - 1].any() and not split.values[empty_pixels(clean)].any()


# ---- simulated scenes

simulated = functools.cache(sim.simulate)  # not while tests are collected: every process does that
EACH = pytest.mark.parametrize("kind", sim.EMBEDDED)
SOIL = landscape.COVERS[sim.CODE["bare soil"] - 1]
SENSORS = {
    "sim-sar": {"hsi": 60, "sar": 2},
    "sim-lidar": {"hsi": 60, "lidar": 2},
    "sim-tri": {"hsi": 60, "sar": 2, "dsm": 1},
}

# Frozen: a change here is a change of the study's data and asks for every result again.
FROZEN = {
    "sim-sar": "c2abc89dad46d0cb947598a9bab37123ccfe5fa974bd853174738b44b269e1c3",
    "sim-lidar": "fad0bf127ce21bcd85e3cc149195cc7fdeea271591bec2315d1b79369c715e86",
    "sim-tri": "ed2df1006ca243552bd998c18f6dfb4e026c126c1b7e34631c19c80a350cb3fb",
}
PARAMETERS = {
    "sim-sar": "d51f76f7ab82add2b3ecc3767e681c9c6f808d2bf076d98631eee3f3d11cc1ed",
    "sim-lidar": "5d1d739b0a6f73635c68128724517d67ed18a3d9a41d5cadb4ca4c3569b9d43a",
    "sim-tri": "b0cd13c268bdcbe44617107175572730504c8d24de8c5d85563e8d24a24e2421",
}
MOMENTS = {  # see moments(): a row per band, sensor after sensor
    "sim-sar": """
        0.064785 0.035157 0.072892 0.048988
        0.11774 0.067479 0.16896 0.080661
        0.18649 0.11317 0.26714 0.12134
        -13.77 5.7048 -13.768 5.4871
        -20.104 5.6598 -20.498 5.5333""",
    "sim-lidar": """
        0.078946 0.053821 0.072555 0.048748
        0.1692 0.086036 0.1679 0.079666
        0.25896 0.12808 0.27543 0.12344
        2.1194 3.902 2.427 4.5193
        0.27338 0.16892 0.29246 0.17013""",
    "sim-tri": """
        0.065303 0.041466 0.074555 0.040822
        0.15025 0.074985 0.14164 0.077882
        0.24432 0.12516 0.21848 0.12324
        -13.281 5.4157 -13.776 5.3853
        -19.771 5.5218 -20.598 5.5414
        0.9048 5.1865 4.1678 5.3196""",
}


def areas(scene):
    label, split, validation = (scene[n].values for n in ("label", "split", "validation"))
    return {
        "train": (split == 1) & (validation == 0) & (label > 0),
        "val": (validation == 1) & (label > 0),
        "test": (split == 2) & (label > 0),
    }


def rasters_hash(scene):
    return hashlib.sha256(
        b"".join(scene[n].values.astype(np.int8).tobytes() for n in ("label", "split", "validation"))
    ).hexdigest()


def parameters_hash(kind):
    text = json.dumps(
        [dataclasses.asdict(sim.CONFIGS[kind]), [dataclasses.asdict(c) for c in landscape.COVERS]], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()


def moments(scene, name):
    """Mean and sd of the first, middle and last band, in the left and the right half of the image."""
    bands = scene[name].shape[0]
    values = scene[name].values[sorted({0, bands // 2, bands - 1})].astype(float)
    half = values.shape[-1] // 2
    return np.array([[v[:, :half].mean(), v[:, :half].std(), v[:, half:].mean(), v[:, half:].std()] for v in values])


@EACH
def test_scene_seed_0_is_frozen(kind):
    scene = simulated(kind)
    assert parameters_hash(kind) == PARAMETERS[kind]
    assert rasters_hash(scene) == FROZEN[kind]
    found, known = np.vstack([moments(scene, m) for m in modalities(scene)]), np.fromstring(MOMENTS[kind], sep=" ")
    np.testing.assert_allclose(found, known.reshape(-1, 4), rtol=2e-3, atol=2e-4)


@EACH
def test_a_seed_gives_one_scene_and_another_seed_another(kind):
    again, other = sim.simulate(kind, 0), sim.simulate(kind, 1)
    assert again.identical(simulated(kind))
    for name in ("label", *SENSORS[kind]):
        assert not np.array_equal(other[name].values, simulated(kind)[name].values)


@EACH
def test_simulated_scenes_keep_the_contract(kind):
    scene = check_scene(simulated(kind))
    assert {m: scene[m].shape[0] for m in modalities(scene)} == SENSORS[kind]
    assert (
        scene.attrs["simulated"] == 1 and scene.attrs["name"] == kind and scene.attrs["dial"] == sim.CONFIGS[kind].dial
    )
    assert scene["wavelength"].dims == ("hsi_band",) and scene["wavelength"].attrs["units"] == "nm"
    assert json.loads(scene.attrs["class_names"]) == list(sim.NAMES) and len(set(sim.NAMES)) == 12
    for name in SENSORS[kind]:
        assert np.isfinite(scene[name].values).all() and {"kind", "long_name", "units"} <= set(scene[name].attrs)
    assert (scene["split"].values[scene["label"].values == 0] == 0).all()
    assert (scene["split"].values[scene["validation"].values == 1] == 1).all()


@EACH
@pytest.mark.parametrize("seed", [9, 119])
def test_every_class_in_every_area_and_no_shared_window(kind, seed):
    scene = sim.simulate(kind, seed)
    area = areas(scene)
    for part, least in zip(("train", "val", "test"), landscape.Landscape().fewest):
        assert np.bincount(scene["label"].values[area[part]], minlength=13)[1:].min() >= least, part
    assert 1000 <= area["train"].sum() <= 2500 and area["val"].sum() >= 500 and area["test"].sum() >= 4000
    windows = {p: ndimage.maximum_filter(mask, size=11) for p, mask in area.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not (windows[a] & windows[b]).any(), f"11 x 11 windows of {a} and {b} overlap"


@pytest.mark.parametrize("looks", [1.0, 4.0, 10.0])
def test_speckle_statistics(looks):
    sample = sim.speckle(np.full(200_000, 0.3), looks, np.random.default_rng(0))
    assert sample.mean() == pytest.approx(0.3, rel=0.01)
    assert sample.std() / sample.mean() == pytest.approx(1 / np.sqrt(looks), rel=0.02)
    skewness = ((sample / sample.mean() - 1) ** 3).mean() / sample.var() ** 1.5 * sample.mean() ** 3
    assert skewness == pytest.approx(2 / np.sqrt(looks), rel=0.1)  # gamma, not a normal of the same spread


def flat_land(n=160):
    """One bare field on level ground: nothing but speckle, texture and range varies."""
    ones = np.ones((n, n), int)
    return {
        "cover": ones * sim.CODE["bare soil"],
        "thing": 0 * ones,
        "area": ones,
        "terrain": 0.0 * ones,
        "height": 0.0 * ones,
    }


@pytest.mark.parametrize("dial", [0.0, 1.0])
def test_sar_of_a_homogeneous_field_has_the_stated_looks(dial):
    radar = dataclasses.replace(sim.Radar(), near=35.0, far=35.0, spread=0.0, floor=-99.0)
    linear = 10 ** (sim._radar(radar, flat_land(), dial, np.random.default_rng(0)) / 10)
    looks, texture = sim.looks_at(radar, dial), SOIL.grain
    expected = np.sqrt((1 + 1 / looks) * (1 + 1 / texture) - 1)  # product model: speckle times texture
    for band, decibel in zip(linear, (SOIL.vv, SOIL.vh)):
        assert band.std() / band.mean() == pytest.approx(expected, rel=0.03)
        assert 10 * np.log10(band.mean()) == pytest.approx(decibel, abs=0.1)
    assert abs(np.corrcoef(linear.reshape(2, -1))[0, 1]) < 0.03


def test_spectra_show_the_features_of_their_materials():
    z = np.zeros((len(landscape.COVERS), 3))
    spectra = dict(zip(sim.NAMES, sim._spectrum(np.arange(1, 13), z, np.ones(12), 0.1)))
    at = {w: int(np.abs(sim.WAVELENGTH - w).argmin()) for w in (450, 550, 670, 800, 970, 1000)}
    for plant in ("grass", "crop", "shrub", "deciduous trees", "conifers"):
        s = spectra[plant]
        assert s[at[550]] > s[at[670]] and s[at[550]] > s[at[450]], "green peak"
        assert s[at[800]] > 4 * s[at[670]], "red edge"
        assert s[at[970]] < s[at[1000]], "leaf water"
    assert spectra["water"][at[800]] < spectra["water"][at[550]]
    assert spectra["tile roof"][at[670]] > 2 * spectra["tile roof"][at[450]], "iron oxide"
    assert all(0 < s.min() and s.max() < 0.6 for s in spectra.values())


def between_areas(scene):
    """Distance between training and test means of the spectra in sd within training, averaged over classes."""
    label, hsi, area = scene["label"].values, scene["hsi"].values, areas(scene)
    shifts = []
    for k in range(1, 13):
        train, test = (hsi[:, area[p] & (label == k)] for p in ("train", "test"))
        shifts.append(np.abs(train.mean(1) - test.mean(1)) / train.std(1))
    return float(np.mean(shifts))


@pytest.mark.parametrize("kind", ["sim-sar", "sim-tri"])
def test_dial_moves_the_optical_shift_between_areas_and_the_looks(kind):
    shift = np.mean(
        [[between_areas(sim.simulate(kind, seed, d)) for d in (0.0, 0.5, 1.0)] for seed in (100, 101)], axis=0
    )
    assert shift[0] < shift[1] < shift[2] and shift[2] > 1.5 * shift[0], shift
    looks = [sim.looks_at(sim.CONFIGS[kind].radar, d) for d in (0.0, 0.5, 1.0)]
    assert looks[0] > looks[1] > looks[2]
    assert looks[::2] == pytest.approx([sim.Radar().looks, sim.Radar().looks_strong])


def test_dial_thins_the_lidar_only():
    laser = sim.CONFIGS["sim-lidar"].laser
    assert [sim.pulses_at(laser, d) for d in (0.0, 1.0)] == pytest.approx([laser.pulses, laser.pulses_strong])
    truth = landscape.make_landscape(landscape.Landscape(), "sim-lidar", 100, 160)["height"]
    scenes = [sim.simulate("sim-lidar", 100, d) for d in (0.0, 0.5, 1.0)]
    errors = [float(np.sqrt(((s["lidar"].values[0] - truth) ** 2).mean())) for s in scenes]
    assert errors[0] < 0.5 and errors[0] < errors[1] < errors[2], errors
    np.testing.assert_array_equal(scenes[0]["hsi"].values, scenes[2]["hsi"].values)


@EACH
def test_dial_keeps_the_landscape_and_marks_the_name(kind):
    low, high = sim.simulate(kind, 3, 0.0), sim.simulate(kind, 3, 1.0)
    np.testing.assert_array_equal(low["label"].values, high["label"].values)
    assert low.attrs["name"] == f"{kind}:3:0" and sim.parse_name(high.attrs["name"]) == (kind, 3, 1.0)
    assert sim.simulate(kind, 3).attrs["name"] == f"{kind}:3"


def test_heights_separate_what_spectra_do_not():
    land = landscape.make_landscape(landscape.Landscape(), "sim-lidar", 100, 160)
    middle = {name: np.median(land["height"][land["cover"] == k]) for name, k in sim.CODE.items()}
    assert middle["asphalt road"] < 0.2 < 4 < middle["bitumen roof"]
    assert middle["grass"] < middle["crop"] < middle["shrub"] < middle["deciduous trees"]


def test_names_of_simulated_scenes():
    assert sim.parse_name("sim-sar") == ("sim-sar", 0, None)
    assert sim.parse_name("sim-tri:12") == ("sim-tri", 12, None)
    assert sim.parse_name("sim-sar:3:0.5") == ("sim-sar", 3, 0.5)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sim",
        "sim-sarr",
        None,
        *map("sim-sar:".__add__, ["", "x", "-1", "1.5", "1:", "1:a", "1:1.5", "1:-0.1", "1:nan"]),
    ]
    + ["sim-sar:1:0.5:2", "sim-sar:\u00b2"],
)
def test_bad_names_of_simulated_scenes(name):
    with pytest.raises(PrsaError, match="expected|Expected"):
        sim.parse_name(name)


@pytest.mark.parametrize(
    "arguments",
    [("sim-x",), ("sim-sar", -1), ("sim-sar", 0.5), ("sim-sar", "one"), ("sim-sar", 0, 2.0), ("sim-sar", 0, None, 40)],
)
def test_bad_arguments_of_simulate(arguments):
    with pytest.raises(PrsaError, match="expected|Expected"):
        sim.simulate(*arguments)


# ---- public benchmarks

SPLIT = ("houston2013", "augsburg", "berlin", "houston2018")
# Typed from the data sets' descriptions: grid, bands, classes, archive, totals.
KNOWN = {
    "houston2013": ((349, 1905), {"hsi": 144, "lidar": 1}, 15, "7a2d719d", (2832, 12197)),
    "augsburg": ((332, 485), {"hsi": 180, "sar": 4}, 7, "4d853be6", (761, 77533)),
    "berlin": ((1723, 476), {"hsi": 244, "sar": 4}, 8, "5fdd156b", (2820, 461851)),
    "trento": ((166, 600), {"hsi": 63, "lidar": 2}, 6, "b203331b", 30214),
    "muufl": ((325, 220), {"hsi": 64, "lidar": 2}, 11, "2219e625", None),
    "houston2018": ((1202, 4768), {"hsi": 50, "lidar": 1}, 20, "bc1e046c", None),
}
MEMBER_HASHES = {  # first digits, in the order of the registry
    "houston2013": "6a0edba3 7aa956e7 96ce863e 46bd849d",
    "augsburg": "2f13839d cd1dbfad 065df712 8bc57037 8bc57037",
    "berlin": "580f397d a6cf2f86 dd9286cd 1a66ec45 1a66ec45",
    "trento": "- a04dc903 7e3fb2a2",
    "muufl": " ".join(["69420a72"] * 5),
    "houston2018": "35a4a9a2 a55fa2d9 93f268e5 2d513db1 2d513db1",
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder, no waiting, no proxy and no network outside this machine."""
    monkeypatch.setenv("PRSA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(download, "TIMEOUT", 5)
    return tmp_path / "data"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """make(name, url, **options) registers a tiny data set: (entry, truth, archive). Without a url nothing answers."""

    def build(name, url="http://127.0.0.1:9/", **options):
        bench, truth, archive = make(name, tmp_path / "made", **options)
        bench = dataclasses.replace(bench, url=url + archive.name)
        monkeypatch.setitem(BENCHMARKS, name, bench)
        return bench, truth, archive

    return build


@pytest.fixture
def by_hand(data, tiny):
    """A tiny data set whose archive was put in place by hand."""

    def build(name, **options):
        bench, truth, archive = tiny(name, **options)
        target = data / "raw" / name / archive.name
        target.parent.mkdir(parents=True)
        shutil.copy(archive, target)
        return bench, truth, archive

    return build


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/made as /good/, /wrong/ (other bytes), /cut/ (half), /error/ (500), /gone/ (404); logs calls."""
    log = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            log.append(self.path)
            _, how, name = self.path.split("/")
            if how in ("error", "gone"):
                return self.send_error(500 if how == "error" else 404)
            body = (tmp_path / "made" / name).read_bytes()
            body = body[::-1] if how == "wrong" else body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if how == "cut" else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", log
        running.shutdown()


def listed(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- registry


@pytest.mark.parametrize("name", KNOWN)
def test_registry_holds_the_published_facts(name):
    grid, bands, classes, digest, totals = KNOWN[name]
    bench = BENCHMARKS[name]
    assert bench.grid == grid and {m: s.bands for m, s in bench.sensors.items()} == bands
    assert len(bench.classes) == len(set(bench.classes)) == classes
    assert bench.sha256.startswith(digest) and len(bench.sha256) == 64
    assert " ".join(m.sha256[:8] or "-" for m in bench.members.values()) == MEMBER_HASHES[name]
    assert all(len(m.sha256) in (0, 64) for m in bench.members.values())
    if isinstance(totals, tuple):
        assert tuple(n if isinstance(n, int) else sum(n) for n in (bench.train, bench.test)) == totals
        assert all(isinstance(n, int) or len(n) == classes for n in (bench.train, bench.test))
    elif totals:
        assert sum(bench.labelled) == totals
    else:
        assert bench.train is bench.test is bench.labelled is None
    assert bench.licence and bench.citation and bench.url.startswith("https://")


def test_names_that_public_loaders_get_wrong():
    assert BENCHMARKS["augsburg"].classes[4:] == ("Allotment", "Commercial", "Water")
    assert BENCHMARKS["muufl"].classes[6:8] == ("building shadow", "buildings")
    assert BENCHMARKS["houston2013"].train[0] == 198 and BENCHMARKS["houston2013"].test[0] == 1053


# ---- readers


@pytest.mark.parametrize(
    "name, hdf5", [(name, False) for name in KNOWN] + [(name, True) for name in KNOWN if name != "muufl"]
)  # muufl is a v5 struct
def test_tiny_files_read_to_the_right_scene(by_hand, name, hdf5):
    bench, truth, _ = by_hand(name, hdf5=hdf5)
    scene = open_scene(name)
    assert [m for m in bench.sensors] == [m for m in scene.data_vars if m not in ("label", "split")]
    for m, expected in truth["values"].items():
        assert scene[m].dtype == np.float32 and scene[m].dims == (f"{m}_band", "y", "x")
        np.testing.assert_array_equal(scene[m].values, expected)
        assert scene[m].attrs["kind"] == bench.sensors[m].kind
    label = (
        np.where(truth["split"] > 0, truth["label"], 0) if name == "houston2013" else truth["label"]
    )  # two rasters hold nothing else
    np.testing.assert_array_equal(scene["label"].values, label)
    assert classes_of(scene) == truth["classes"]
    assert scene.attrs["name"] == name and scene.attrs["simulated"] == 0
    assert scene.attrs["license"] == bench.licence and scene.attrs["citation"] == bench.citation
    if name in SPLIT:
        np.testing.assert_array_equal(scene["split"].values, truth["split"])
    else:
        assert "split" not in scene


def test_wavelengths_and_bands_that_are_no_spectrum(by_hand):
    for name, first, last, bands in (
        ("houston2013", 364.0, 1046.1, BANDS),
        ("houston2018", 374.4, 1047.1, BANDS - 2),
        ("muufl", 405.0, 1005.0, BANDS),
    ):
        by_hand(name)
        wavelength = open_scene(name)["wavelength"]
        assert wavelength.dims == ("hsi_band",) and wavelength.size == bands
        assert wavelength.values[[0, -1]].tolist() == [first, last]


@pytest.mark.parametrize("name", SPLIT)
def test_the_official_split_is_kept_bit_for_bit(by_hand, name):
    _, truth, _ = by_hand(name)
    part = split_scene(open_scene(name), radius=1)
    assert part.attrs["kind"] == "fixed (leaking)", "pixels of the tiny files are shuffled"
    np.testing.assert_array_equal(part.values == 3, truth["split"] == 2)
    np.testing.assert_array_equal((part.values == 1) | (part.values == 2), truth["split"] == 1)


@pytest.mark.parametrize(
    "name, spoil, told",
    [
        ("augsburg", "rows", "0-based rows and columns"),
        ("berlin", "bare", "1 listed pixels without one"),
        ("houston2018", "twice", "1 listed again"),
        ("berlin", "shape", str((*GRID, BANDS))),
        ("houston2013", "key", "the variable(s) HSI"),
        ("houston2013", "overlap", "both label rasters"),
        ("trento", "label", "whole numbers from 0 to 6"),
        ("muufl", "shape", "hsi (rows, columns, bands)"),
    ],
)
def test_files_that_are_not_the_known_ones_are_refused(by_hand, data, name, spoil, told):
    by_hand(name, spoil=spoil)
    with pytest.raises(PrsaError) as caught:
        open_scene(name)
    assert told in str(caught.value) and name.split("20")[0] in str(caught.value).lower()
    assert not (data / "cache").exists()


@pytest.mark.parametrize(
    "name, field", [("houston2013", "train"), ("augsburg", "test"), ("berlin", "train"), ("trento", "labelled")]
)
def test_wrong_counts_are_refused_and_named(by_hand, monkeypatch, data, name, field):
    bench, _, _ = by_hand(name)
    known = getattr(bench, field)
    wrong = known + 1 if isinstance(known, int) else (known[0], known[1] + 3, *known[2:])
    monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(bench, **{field: wrong}))
    with pytest.raises(PrsaError) as caught:
        open_scene(name)
    if isinstance(known, int):
        assert "literature" in str(caught.value) and f"expected {wrong}, got {known}" in str(caught.value)
    else:
        assert f"{bench.classes[1]} {known[1]} instead of {known[1] + 3}" in str(caught.value)
    assert not (data / "cache").exists()


# ---- download


def test_download_verify_store_and_reuse_without_network(data, tiny, server, capfd):
    url, log = server
    bench, truth, archive = tiny("augsburg", f"{url}/good/")
    scene = open_scene("augsburg")
    np.testing.assert_array_equal(scene["label"].values, truth["label"])
    told = capfd.readouterr().err
    assert bench.licence in told and bench.citation in told
    assert log == [f"/good/{archive.name}"]
    assert listed(data) == sorted(
        [
            "cache/augsburg.nc",
            f"raw/augsburg/{archive.name}",
            *{f"raw/augsburg/{m.path}" for m in bench.members.values()},
        ]
    )
    shutil.rmtree(data / "raw")
    assert open_scene("augsburg").equals(scene)
    assert len(log) == 1 and bench.licence not in capfd.readouterr().err


@pytest.mark.parametrize(
    "how, reason, requests",
    [("wrong", "hash", 2), ("cut", "IncompleteRead", 2), ("error", "500", 2), ("gone", "404", 2)],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do_and_the_next_one_works(
    data, tiny, server, monkeypatch, how, reason, requests
):
    url, log = server
    bench, truth, archive = tiny("berlin", f"{url}/{how}/")
    with pytest.raises(PrsaError) as caught:
        open_scene("berlin")
    message = str(caught.value)
    assert reason in message and bench.sha256 in message and str(data / "raw" / "berlin" / archive.name) in message
    assert "data/README.md" in message and len(message) <= 900
    assert len(log) == requests
    assert listed(data) == []
    monkeypatch.setitem(BENCHMARKS, "berlin", dataclasses.replace(bench, url=f"{url}/good/{archive.name}"))
    np.testing.assert_array_equal(open_scene("berlin")["label"].values, truth["label"])


def test_without_a_network_the_message_names_file_hash_and_place(data, tiny):
    bench, _, archive = tiny("trento")  # nothing listens on port 9
    with pytest.raises(PrsaError) as caught:
        open_scene("trento")
    message = str(caught.value)
    assert (
        "ConnectionError" in message
        and str(data / "raw" / "trento" / archive.name) in message
        and bench.sha256 in message
    )
    assert listed(data) == []


# ---- files placed by hand, damage


def test_members_placed_by_hand_are_enough(data, tiny, tmp_path):
    bench, truth, _ = tiny("houston2013")
    shutil.copytree(tmp_path / "made" / "unpacked", data / "raw" / "houston2013")
    np.testing.assert_array_equal(open_scene("houston2013")["split"].values, truth["split"])
    assert set(listed(data)) == {"cache/houston2013.nc", *(f"raw/houston2013/{m.path}" for m in bench.members.values())}


def test_a_wrong_member_is_not_believed(data, tiny, tmp_path):
    bench, _, _ = tiny("houston2013")
    shutil.copytree(tmp_path / "made" / "unpacked", data / "raw" / "houston2013")
    with open(data / "raw" / "houston2013" / bench.members["lidar"].path, "ab") as file:
        file.write(b"x")
    with pytest.raises(PrsaError, match="ConnectionError"):
        open_scene("houston2013")


def test_an_unhashed_member_counts_only_from_the_archive(data, tiny, tmp_path):
    tiny("trento")
    shutil.copytree(tmp_path / "made" / "unpacked", data / "raw" / "trento")
    with pytest.raises(PrsaError, match="ConnectionError"):
        open_scene("trento")


@pytest.mark.parametrize("what", ["missing", "hash"])
def test_an_archive_whose_members_differ_is_refused(by_hand, monkeypatch, data, what):
    bench, _, archive = by_hand("augsburg")
    changed = {"path": "Augsburg/other.mat"} if what == "missing" else {"sha256": "0" * 64}
    members = bench.members | {"sar": dataclasses.replace(bench.members["sar"], **changed)}
    monkeypatch.setitem(BENCHMARKS, "augsburg", dataclasses.replace(bench, members=members))
    with pytest.raises(
        PrsaError,
        match="without the member Augsburg/other.mat"
        if what == "missing"
        else "another SHA-256 of Augsburg/augsburg_sar",
    ):
        open_scene("augsburg")
    assert listed(data) == [f"raw/augsburg/{archive.name}"]


def test_a_damaged_archive_is_downloaded_again(data, tiny, server):
    url, log = server
    bench, truth, archive = tiny("augsburg", f"{url}/good/")
    placed = data / "raw" / "augsburg" / archive.name
    placed.parent.mkdir(parents=True)
    placed.write_bytes(archive.read_bytes()[:-7])
    np.testing.assert_array_equal(open_scene("augsburg")["label"].values, truth["label"])
    assert len(log) == 1


HOSTILE = ["/tmp/prsa-outside.txt", "a/../../../outside.txt", "link", "Trento/../../outside.txt"]


def hostile(archive):
    """An archive with members that would leave the folder, and a symbolic link."""
    with zipfile.ZipFile(archive, "a") as out:
        for name in HOSTILE:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == "link" else 0o100644) << 16
            out.writestr(info, "/etc/passwd")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def test_an_archive_cannot_write_outside_or_link_or_fill_the_disk(by_hand, data, monkeypatch, tmp_path):
    bench, truth, archive = by_hand("trento")
    placed = data / "raw" / "trento" / archive.name
    monkeypatch.setitem(BENCHMARKS, "trento", dataclasses.replace(bench, sha256=hostile(placed)))
    with monkeypatch.context() as small:
        small.setattr(download, "MOST", 1000)  # a bomb is told by the sizes that it states, before any is unpacked
        with pytest.raises(PrsaError, match="too many"):
            open_scene("trento")
    assert listed(data) == [f"raw/trento/{archive.name}"]
    np.testing.assert_array_equal(open_scene("trento")["label"].values, truth["label"])
    wanted = {f"raw/trento/{m.path}" for m in bench.members.values()}
    assert set(listed(data)) == {"cache/trento.nc", f"raw/trento/{archive.name}", *wanted}
    assert not [p for p in tmp_path.rglob("*") if p.is_symlink() or p.name == "outside.txt"]


def test_a_member_cannot_be_larger_than_the_archive_states(tmp_path):
    """Python's zipfile reads no more than the stated size: one that lies is damaged, not large."""
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.mat", bytes(10_000_000))
    content = archive.read_bytes().replace((10_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    archive.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(PrsaError, match="BadZipFile"):
        download.fetch(tmp_path, "http://127.0.0.1:9/bomb.zip", digest, {"a.mat": ""})
    assert listed(tmp_path) == ["bomb.zip"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "garbage", "older reader", "other archive"])
def test_a_damaged_or_outdated_cache_is_built_again(by_hand, data, monkeypatch, damage, capsys):
    bench, truth, _ = by_hand("berlin")
    scene = open_scene("berlin")
    cache = data / "cache" / "berlin.nc"
    good = cache.read_bytes()
    if damage == "cut":
        cache.write_bytes(good[: len(good) // 2])
    elif damage == "flipped":
        place = good.index(b"\x78\x5e") + 1000  # inside the first compressed piece
        cache.write_bytes(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
    elif damage == "garbage":
        cache.write_bytes(b"not a netCDF file")
    elif damage == "older reader":
        monkeypatch.setattr(benchmarks, "READER", benchmarks.READER + 1)
    else:
        monkeypatch.setitem(BENCHMARKS, "berlin", dataclasses.replace(bench, url=bench.url + "?v2"))
        (data / "raw" / "berlin" / bench.url.rsplit("/", 1)[1]).rename(
            data / "raw" / "berlin" / (bench.url.rsplit("/", 1)[1] + "?v2")
        )
    before = cache.stat().st_mtime_ns
    again = open_scene("berlin")
    np.testing.assert_array_equal(again["hsi"].values, truth["values"]["hsi"])
    assert again["label"].equals(scene["label"]) and cache.stat().st_mtime_ns > before
    assert ("damaged" in capsys.readouterr().err) == (damage in ("cut", "flipped", "garbage"))


def test_leftovers_of_a_killed_process_go_and_young_ones_stay(by_hand, data):
    by_hand("trento")
    old, young = data / "raw" / "trento" / "tmpab12cd", data / "raw" / "trento" / "tmpxy"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    open_scene("trento")
    assert not old.exists() and young.exists()


def test_validation_of_thousands_of_scattered_training_pixels_needs_little_memory():
    split = np.full((600, 600), 2, np.int8)
    split[::6, ::6] = 1  # 10,000 groups
    scene = make_scene(shape=split.shape, split=split)
    tracemalloc.start()
    part = split_scene(scene, radius=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400e6
    assert 0.15 < (part == 2).sum() / (split == 1).sum() < 0.25


# ---- command line


def test_command_line_makes_what_it_can_and_reports_the_rest(by_hand, data, tiny, capsys):
    by_hand("trento")
    tiny("berlin")
    assert benchmarks.main(["berlin", "trento", "sim-sar", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert "trento: " in out and "no official split: blocks" in out and "sim-sar: nothing to download" in out
    assert err.count("error: ") == 2 and "unknown benchmark 'nowhere'" in err and "berlin" in err
    assert (data / "cache" / "trento.nc").is_file()
    assert benchmarks.main(["trento"]) == 0 and benchmarks.main([]) == 0
    with pytest.raises(PrsaError, match="houston2018"):
        open_scene("houston")


def test_a_benchmark_is_studied_at_full_size(tmp_path, monkeypatch):
    """Patch 11 and 150 epochs with the full preset, a split whose buffer fits that patch, results of the full study."""
    path = str(save_scene(make_scene(), tmp_path / "tiny.nc"))
    monkeypatch.setattr(plan, "BENCHMARKS", {path: None})
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path / "results"))
    source, spec = plan.Source(path), plan.RunSpec(path, "prsanet", 0, "full")
    config = source.config(spec)
    assert (config.patch, config.epochs, config.max_steps) == (11, 150, 0)
    assert source.split(config).attrs["radius"] == 5 and source.path(spec).parent == files.results("full") / "runs"
    assert source.config(plan.RunSpec(path, "prsanet", 0, "quick")).patch == 7


# ---- splits


def leaks(part, label, radius, centres, held):
    """Held-out labelled pixels inside the window of a centre, looked up window by window."""
    found = 0
    for y, x in np.argwhere(centres):
        rows, cols = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
        found += int((np.isin(part[rows, cols], held) & (label[rows, cols] > 0)).sum())
    return found


@pytest.mark.parametrize("radius", [2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape, parcel", [((64, 80), 4), ((70, 61), 5)])
def test_blocks_keep_held_out_pixels_out_of_training_windows(radius, seed, shape, parcel):
    scene = make_scene(shape=shape, parcel=parcel, seed=seed)
    split, label = split_scene(scene, "blocks", seed, radius), scene["label"].values
    assert leaks(split.values, label, radius, split.values == TRAIN, [VAL, TEST]) == 0
    counts = part_counts(label, split.values, len(CLASSES))
    assert (counts[[TRAIN - 1, TEST - 1]] > 0).all(), "every class in training and test"
    assert (counts.sum(1) > 0.04 * (label > 0).sum()).all() and counts.sum() > 0.5 * (label > 0).sum(), (
        "the buffer must not eat the scene"
    )
    assert not split.values[label == 0].any() and split.dtype == np.int8 and split.dims == ("y", "x")
    assert split.attrs["kind"] == "blocks" and split.attrs["radius"] == radius


def test_the_leakage_check_itself_can_fail():
    scene = make_scene(shape=(64, 80))
    label = scene["label"].values
    split = split_scene(scene, "random").values
    assert leaks(split, label, 2, split == TRAIN, [VAL, TEST]) > 1000
    split = split_scene(scene, "blocks", radius=2).values
    assert leaks(split, label, 6, split == TRAIN, [VAL, TEST]) > 0, "a window larger than the buffer reaches over"


@pytest.mark.parametrize("kind", ["blocks", "random", "fixed"])
def test_one_seed_gives_one_split(kind):
    scene = fixed_scene()[0]
    a, b, c = (split_scene(scene, kind, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert a.attrs == b.attrs and len(a.attrs["hash"]) == 64
    assert not np.array_equal(a, c) and a.attrs["hash"] != c.attrs["hash"]


def test_the_split_depends_on_labels_only():
    scene, other = make_scene(), make_scene(("hsi", "dsm"), noise=5.0)
    other["label"] = scene["label"]
    assert (
        split_scene(scene).attrs["hash"]
        == split_scene(other).attrs["hash"]
        != split_scene(make_scene(seed=1)).attrs["hash"]
    )


def fixed_scene(plots=6, side=12, gap=4, seed=0, **options):
    """Square plots, a third of them for testing, as a field campaign gives them; and the plot number per pixel."""
    scene = make_scene(shape=(plots * side, plots * side), parcel=2, seed=seed, **options)
    inside = np.zeros((side, side), bool)
    inside[gap // 2 : -gap // 2, gap // 2 : -gap // 2] = True
    inside, number = (
        np.tile(inside, (plots, plots)),
        np.kron(np.arange(plots**2).reshape(plots, plots), np.ones((side, side), int)),
    )
    test = np.isin(number, np.random.default_rng(seed).permutation(plots**2)[: plots**2 // 3])
    scene["label"] = scene["label"].dims, np.where(inside, scene["label"].values, 0)
    scene["split"] = ("y", "x"), np.where(inside, np.where(test, 2, 1), 0).astype(np.int8)
    return scene, number


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("radius", [1, 2])
def test_fixed_keeps_the_official_parts_and_holds_out_whole_groups(seed, radius):
    scene, plot = fixed_scene(gap=2 * radius + 2)
    label, own = scene["label"].values, scene["split"].values
    split = split_scene(scene, "fixed", seed, radius).values
    np.testing.assert_array_equal(split == TEST, (own == 2) & (label > 0))
    np.testing.assert_array_equal((split == TRAIN) | (split == VAL), (own == 1) & (label > 0))
    assert 0.1 < (split == VAL).sum() / ((own == 1) & (label > 0)).sum() < 0.35
    for number in range(plot.max() + 1):
        assert len(set(split[(plot == number) & (label > 0)].tolist())) <= 1, f"plot {number} is cut"
    windows = {part: np.zeros(label.shape, bool) for part in (TRAIN, VAL)}
    for part, mask in windows.items():
        for y, x in np.argwhere(split == part):
            mask[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
    assert not (windows[TRAIN] & windows[VAL]).any(), "a validation window shares no pixel with a training window"
    assert (part_counts(label, split, len(CLASSES))[TRAIN - 1] > 0).all()


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_fixed_keeps_pixels_with_overlapping_windows_together(radius):
    """Pairs of single training pixels whose windows share one column: the pair goes to one part."""
    scene, pitch = make_scene(shape=(90, 90), parcel=1), 6 * radius
    own = np.full((90, 90), 2)
    own[:72] = 0
    pairs = [((y, x), (y, x + 2 * radius)) for y in range(0, 72, pitch) for x in range(radius, 90 - 3 * radius, pitch)]
    for pair in pairs:
        for pixel in pair:
            own[pixel] = 1
    label = np.where(
        own == 1, np.arange(8100).reshape(90, 90) % 7 % 4 + 1, np.where(own == 2, scene["label"].values, 0)
    )
    scene = scene.assign(label=(("y", "x"), label), split=(("y", "x"), own))
    part = split_scene(scene, "fixed", 0, radius).values
    assert len(pairs) >= 10 and {part[a] for a, _ in pairs} == {TRAIN, VAL}
    assert all(part[a] == part[b] for a, b in pairs)


def test_a_rare_class_is_in_training_and_test_blocks():
    scene = make_scene(shape=(64, 80))
    label = scene["label"].values
    label[label == 4] = 1
    for y, x in ((2, 2), (30, 70), (55, 10)):
        label[y : y + 4, x : x + 4] = 4
    for seed in range(3):
        counts = part_counts(label, split_scene(scene, "blocks", seed).values, 4)
        assert counts[TRAIN - 1, 3] > 0 and counts[TEST - 1, 3] > 0, f"seed {seed}"


def test_a_class_in_one_group_only_is_trained_on():
    scene, plot = fixed_scene()
    label, own = scene["label"].values.copy(), scene["split"].values
    rare = next(n for n in range(plot.max() + 1) if (own[plot == n] == 1).any() and (label[plot == n] == 4).any())
    label[(label == 4) & (plot != rare) & (own == 1)] = 1
    scene["label"] = scene["label"].dims, label
    for seed in range(8):
        split = split_scene(scene, "fixed", seed, radius=1).values
        here = (label == 4) & (plot == rare)
        assert (split[here] == TRAIN).all(), f"seed {seed}"


@pytest.mark.parametrize("seed", [0, 1])
def test_fixed_with_one_large_training_area(seed):
    """No groups to hold out: validation is cut out in blocks, and still nothing official is lost."""
    scene = make_scene(shape=(60, 60), split=np.where(np.arange(60) < 36, 1, 2)[None].repeat(60, 0))
    label, own = scene["label"].values, scene["split"].values
    split = split_scene(scene, "fixed", seed).values
    np.testing.assert_array_equal(split == TEST, (own == 2) & (label > 0))
    np.testing.assert_array_equal((split == TRAIN) | (split == VAL), (own == 1) & (label > 0))
    assert 0.08 < (split == VAL).sum() / ((own == 1) & (label > 0)).sum() < 0.35
    assert (part_counts(label, split, len(CLASSES))[TRAIN - 1] > 0).all()


def test_the_scenes_own_validation_area_is_used_and_never_takes_test_pixels():
    scene = fixed_scene()[0]
    own, label = scene["split"].values, scene["label"].values
    area = np.zeros(own.shape, np.int8)
    area[:20] = 1  # covers test plots too
    scene["validation"] = ("y", "x"), area
    for seed in (0, 1):
        split = split_scene(scene, seed=seed).values
        np.testing.assert_array_equal(split == TEST, (own == 2) & (label > 0))
        np.testing.assert_array_equal(split == VAL, (own == 1) & (label > 0) & (area > 0))
        np.testing.assert_array_equal(split == TRAIN, (own == 1) & (label > 0) & (area == 0))


def test_random_takes_the_shares_of_every_class():
    scene = make_scene()
    split, label = split_scene(scene, "random").values, scene["label"].values
    counts = part_counts(label, split, len(CLASSES))
    np.testing.assert_allclose(counts / counts.sum(0), np.array([0.40, 0.15, 0.45])[:, None] * np.ones(4), atol=0.02)
    assert ((split > 0) == (label > 0)).all()


def test_random_trains_on_a_class_of_one_pixel():
    scene = make_scene()
    label = scene["label"].values
    label[tuple(np.argwhere(label == 4)[1:].T)] = 1
    with pytest.warns(UserWarning, match="no test pixels of roof.*other 3"):
        split = split_scene(scene, "random").values
    assert split[label == 4].tolist() == [TRAIN]


def test_auto_is_the_scenes_own_split_else_blocks():
    assert (
        split_scene(make_scene()).attrs["kind"] == "blocks" and split_scene(fixed_scene()[0]).attrs["kind"] == "fixed"
    )
    assert split_scene(fixed_scene()[0], "blocks").attrs["kind"] == "blocks"


@pytest.mark.parametrize("kind", ["fixed", "blocks", "random"])
def test_a_class_without_any_pixel_is_named(kind):
    scene = fixed_scene()[0]
    scene["label"].values[scene["label"].values == 3] = 0
    with pytest.raises(PrsaError, match="labelled pixels of every class, got none for field.*count from 0.*background"):
        split_scene(scene, kind)


def test_a_class_without_training_pixels_is_named():
    scene = fixed_scene()[0]
    scene["label"].values[(scene["label"].values == 2) & (scene["split"].values == 1)] = 0
    with pytest.raises(PrsaError, match=r"got none for forest \(split kind 'fixed'\).*label some in the training area"):
        split_scene(scene)


def test_a_class_in_one_corner_cannot_be_split_into_blocks():
    """One pixel of a class cannot be in training and test; it is trained on, and said to be untested."""
    scene = make_scene()
    label = scene["label"].values
    label[tuple(np.argwhere(label == 4)[1:].T)] = 1
    with pytest.warns(UserWarning, match="no test pixels of roof"):
        split = split_scene(scene, "blocks").values
    assert split[label == 4].tolist() == [TRAIN]


@pytest.mark.parametrize("part, what", [(1, "test"), (2, "training")])
def test_a_split_without_one_side_is_refused(part, what):
    scene = make_scene(split=np.full((40, 48), part))
    with pytest.raises(PrsaError, match=f"no {what} pixel at all.*kind='blocks'"):
        split_scene(scene)


def test_unknown_kind_and_missing_split():
    with pytest.raises(PrsaError, match="unknown split kind 'block'.*" + ", ".join(KINDS)):
        split_scene(make_scene(), "block")
    with pytest.raises(PrsaError, match="expects a variable split.*Use kind='blocks'"):
        split_scene(make_scene(), "fixed")


def test_part_counts_against_a_loop():
    rng = np.random.default_rng(0)
    label, part = rng.integers(0, 5, (20, 30)).astype(np.uint8), rng.integers(0, 4, (20, 30)).astype(np.int8)
    naive = np.zeros((3, 4), int)
    for k, p in zip(label.ravel(), part.ravel()):
        if k and p:
            naive[p - 1, k - 1] += 1
    np.testing.assert_array_equal(part_counts(label, part, 4), naive)


def test_splits_of_real_scenes(real_scene):
    split, label, k = split_scene(real_scene), real_scene["label"].values, len(class_names(real_scene))
    counts = part_counts(label, split.values, k)
    assert (counts[TRAIN - 1] > 0).all() and (counts[TEST - 1] > 0).all() and counts[VAL - 1].sum() > 0
    if "split" in real_scene:
        np.testing.assert_array_equal(split.values == TEST, (real_scene["split"].values == 2) & (label > 0))
        assert counts[[TRAIN - 1, VAL - 1]].sum() == ((real_scene["split"].values == 1) & (label > 0)).sum()
    else:
        for radius in (2, 3, 5):
            split = split_scene(real_scene, radius=radius).values
            assert leaks(split, label, radius, split == TRAIN, [VAL, TEST]) == 0


# ---- whole polygons, splits of the user


def polygons(seed=0, n=24, side=72, multi=False):
    """Rectangles of one class each, some close together; ``multi``: every polygon has a second part elsewhere."""
    rng, taken = np.random.default_rng(seed), np.zeros((side, side), int)
    for number in range(1, n + 1):
        for _ in range(1 + multi):
            top, left, tall, wide = *rng.integers(0, side - 9, 2), *rng.integers(3, 9, 2)
            window = taken[top : top + tall, left : left + wide]
            window[window == 0] = number
    label = np.where(taken, (taken - 1) % 4 + 1, 0)
    scene = make_scene(shape=(side, side))
    return scene.assign(label=(("y", "x"), label), polygon=(("y", "x"), taken))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_no_polygon_is_cut(seed, multi, own):
    scene = polygons(seed, multi=multi)
    label, polygon = scene["label"].values, scene["polygon"].values
    if own:
        scene["split"] = ("y", "x"), np.where(polygon % 8 < 4, 1, 2) * (polygon > 0)
    split = split_scene(scene, seed=seed, radius=2)
    for number in range(1, polygon.max() + 1):
        assert len(set(split.values[(polygon == number) & (label > 0)].tolist()) - {0}) <= 1, f"polygon {number} is cut"
    assert set(np.unique(split)) == {0, TRAIN, VAL, TEST}
    if not own:
        assert leaks(split.values, label, 2, split.values == TRAIN, [VAL, TEST]) == 0


def test_labels_outside_polygons_go_by_blocks_and_one_polygon_of_a_class_is_trained_on():
    scene = polygons(n=20)
    label = np.where(scene["polygon"] > 0, scene["label"], 1)
    last = scene["polygon"].values == 20
    label[(label == 4) & ~last] = 2
    scene["label"] = ("y", "x"), label
    for seed in range(3):
        with pytest.warns(UserWarning, match="no test pixels of roof"):
            split = split_scene(scene, seed=seed, radius=1).values
        assert set(split[last].tolist()) <= {0, TRAIN} and (split[scene["polygon"].values == 0] == TEST).any()


def test_a_leaking_split_of_the_users_is_called_so():
    scene = make_scene()
    scattered = np.where(np.random.default_rng(0).random((40, 48)) < 0.3, 1, 2).astype(np.int8)
    halves = np.where(np.arange(48) < 20, 1, np.where(np.arange(48) < 26, 0, 2))[None].repeat(40, 0)
    for own, kind in ((scattered, "fixed (leaking)"), (halves, "fixed")):
        split = split_scene(scene.assign(split=(("y", "x"), own)))
        assert kind_label(split.attrs["kind"]) == kind
        share = audit(scene, split, 3)["share_overlap"]
        assert share == pytest.approx(leaking_share(split.values, 3)) and (share > LEAKING) == ("leaking" in kind)
        given = check_split(check_scene(scene), xr.DataArray(split.values, dims=("y", "x")))
        assert given.attrs["kind"] == kind.replace("fixed", "own") and given.attrs["hash"] == split.attrs["hash"]
    cut = polygons()
    cut["split"] = ("y", "x"), np.where(cut["polygon"] > 0, 1 + (np.arange(72) % 2)[None].repeat(72, 0), 0)
    assert split_scene(cut, radius=0).attrs["kind"] == "fixed (leaking)", "halves of one polygon lie on both sides"


def test_validation_without_split_is_refused():
    scene = full_scene().drop_vars("split")
    for kind in ("auto", "blocks", "random"):
        with pytest.raises(PrsaError, match="a raster validation, but no raster split.*drop_vars"):
            split_scene(scene, kind)


def test_a_split_of_the_users_is_checked_and_an_edited_one_gets_a_hash_of_its_own():
    scene = check_scene(make_scene())
    split = split_scene(scene, "random")
    assert check_split(scene, split).identical(split) and check_split(scene, split.T).identical(split)
    edited_split = split.copy()
    edited_split.values[:5] = 0
    again = check_split(scene, edited_split)
    assert again.attrs["kind"] == "own (leaking)" and again.attrs["hash"] != split.attrs["hash"]
    everywhere = check_split(scene, np.full((40, 48), 1, np.int8) + 2 * (np.arange(48) > 24))
    assert not everywhere.values[scene["label"].values == 0].any()
    for wrong, told in (
        (split.values[:5], "on the scene's grid"),
        (split.values + 3, "codes 0 none"),
        (split.values * 0.5, "codes 0 none"),
        (np.where(LABEL > 0, 1, 0), "no test pixel at all"),
        ("auto", "codes 0 none"),
    ):
        with pytest.raises(PrsaError, match=told):
            check_split(scene, wrong)
        with pytest.raises(PrsaError, match=told):
            prsa.fit(scene, "concat", wrong, preset="quick")


@pytest.mark.parametrize("options", [{"seed": -1}, {"seed": None}, {"radius": -1}, {"radius": 2.5}, {"kind": None}])
def test_bad_arguments_of_split_scene(options):
    with pytest.raises(PrsaError, match="xpected"):
        split_scene(make_scene(), **options)


@pytest.mark.parametrize("what", ["from 0", "background"])
def test_labels_counted_from_zero_are_not_answered_by_removing_a_class(what):
    scene = make_scene()
    label = np.where(LABEL > 0, LABEL, 1)
    if what == "from 0":
        scene["label"] = ("y", "x"), label - 1
    else:
        scene.attrs["class_names"] = json.dumps(["background", *CLASSES])
    with pytest.raises(PrsaError, match="none for roof.*count from 0.*fix: label [+] 1.*background.*not in this scene"):
        split_scene(scene)


# ---- leakage


def as_split(part, kind="fixed"):
    part = np.asarray(part, np.int8)
    return xr.DataArray(part, dims=("y", "x"), attrs={"kind": kind, "hash": hashlib.sha256(part.tobytes()).hexdigest()})


@pytest.fixture
def line():
    """Ten labelled pixels: training at 0, validation at 1 and 9, test at 2, 3, 5 and 8, right at 2, 3 and 8."""
    scene = make_scene(shape=(1, 10))
    scene["label"].values[:] = 1
    split = as_split([[1, 2, 3, 3, 0, 3, 0, 0, 3, 2]])
    predicted = [[1, 1, 1, 1, 1, 2, 1, 1, 1, 1]]
    return scene, split, predicted


@pytest.mark.parametrize("kind", ["random", "blocks"])
@pytest.mark.parametrize("radius", [1, 3])
def test_shares_equal_a_loop_over_windows(kind, radius):
    scene = make_scene()
    split = split_scene(scene, kind, seed=1, radius=2)
    part = split.values
    found = audit(scene, split, radius)
    for code, share in ((3, found["share_overlap"]), (2, found["share_val_overlap"])):
        held = [
            (part[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] == 1).any()
            for y, x in np.argwhere(part == code)
        ]
        assert share == pytest.approx(np.mean(held))
    assert found["n_test"] == (part == 3).sum()
    if kind == "blocks":
        assert (found["share_overlap"] == 0) == (radius <= 2)
    else:
        assert found["share_overlap"] > 0.9


def test_distance_is_chebyshev_to_the_nearest_training_pixel():
    split = as_split(np.where(np.random.default_rng(0).random((9, 13)) < 0.05, 1, 3))
    train = np.argwhere(split.values == 1)
    expected = [[min(max(abs(y - a), abs(x - b)) for a, b in train) for x in range(13)] for y in range(9)]
    np.testing.assert_array_equal(distance_to_training(split), expected)


def test_accuracy_of_leaking_and_clean_pixels(line):
    scene, split, predicted = line
    found = audit(scene, split, 2, predicted)
    assert found == {
        "n_test": 4,
        "share_overlap": 0.25,
        "share_val_overlap": 0.5,
        "distance_median": 4.0,
        "oa_all": 75.0,
        "oa_clean": pytest.approx(200 / 3),
        "oa_overlap": 100.0,
    }
    assert np.isnan(audit(scene, split, 1, predicted)["oa_overlap"])


def test_what_does_not_belong_together_is_refused_by_the_audit(line):
    scene, split, _ = line
    with pytest.raises(PrsaError, match="scene's grid"):
        audit(scene, split, 1, np.ones((10, 1)))
    with pytest.raises(PrsaError, match="training pixels"):
        audit(scene, as_split(split.values * (split.values > 1)), 1)
    assert kind_label("random") == "random (leaking)" and kind_label("fixed (leaking)") == "fixed (leaking)"


# ---- patches

SIDES = {"hsi": 7, "sar": 3, "dsm": 5}


@pytest.mark.parametrize("size", [2, 3, 5, 48])
@pytest.mark.parametrize("before, after", [(0, 0), (1, 1), (3, 5), (11, 9), (0, 7)])
def test_reflect_index_is_numpys_reflect(size, before, after):
    np.testing.assert_array_equal(
        reflect_index(-before, size + after, size), np.pad(np.arange(size), (before, after), "reflect")
    )


def test_reflect_index_of_a_part_and_of_a_single_pixel():
    whole = reflect_index(-6, 20, 9)
    for start in range(-6, 15):
        np.testing.assert_array_equal(reflect_index(start, start + 5, 9), whole[start + 6 : start + 11])
    assert not reflect_index(-3, 4, 1).any(), "a raster of one row repeats it"


@pytest.mark.parametrize("side, stride", [(3, 3), (3, 10), (5, 54), (7, 13)])
def test_offsets_are_the_eight_symmetries_of_the_square(side, stride):
    found, r = dihedral_offsets(side, stride), side // 2
    image = np.arange(side * side).reshape(side, side)  # no symmetry of its own
    flat = np.array([(dy + r) * side + dx + r for dy in range(-r, r + 1) for dx in range(-r, r + 1)])
    value = {dy * stride + dx: (dy + r) * side + dx + r for dy in range(-r, r + 1) for dx in range(-r, r + 1)}
    shown = {tuple(value[o] for o in row) for row in found}
    wanted = {tuple(np.rot90(w, k).ravel()) for w in (image, image.T) for k in range(4)}
    assert found.shape == (8, side * side) and shown == wanted and len(wanted) == 8
    assert [value[o] for o in found[0]] == flat.tolist(), "symmetry 0 leaves the window as it is"


def naive_window(scene, name, side, y, x, mean, std):
    """(C, side, side) around a pixel, pixel by pixel."""
    height, width, r = scene.sizes["y"], scene.sizes["x"], side // 2
    window = np.zeros((scene[name].shape[0], side, side), np.float32)

    def fold(i, n):
        while not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i

    for i in range(side):
        for j in range(side):
            window[:, i, j] = (scene[name].values[:, fold(y + i - r, height), fold(x + j - r, width)] - mean) / std
    return np.where(np.isnan(window), 0, window)


@pytest.fixture
def patched():
    """Scene with no-data, statistics, centres that include all corners, and their patches."""
    scene = make_scene(("hsi", "sar", "dsm"), shape=(13, 11))
    scene["hsi"].values[2, 4:6, 3] = np.nan
    scene["sar"].values[:, 0, 0] = np.nan
    train = np.random.default_rng(0).random((13, 11)) < 0.4
    statistics = {m: band_statistics(scene, m, train) for m in SIDES}
    centres = np.array([0, 10, 12 * 11, 13 * 11 - 1, 5 * 11 + 4, 5 * 11 + 5, 3, 8 * 11])
    return scene, statistics, centres, PatchSource(scene, SIDES, statistics, centres)


def test_gather_against_naive_windows(patched):
    scene, statistics, centres, patches = patched
    index = torch.tensor([3, 0, 0, 5, 1, 7, 2, 6, 4])
    batch = patches.gather(index)
    for name, side in SIDES.items():
        assert batch[name].shape == (9, scene[name].shape[0], side, side) and batch[name].dtype == torch.float32
        for b, i in enumerate(index.tolist()):
            wanted = naive_window(scene, name, side, *divmod(int(centres[i]), 11), *statistics[name])
            np.testing.assert_array_equal(batch[name][b].numpy(), wanted, err_msg=f"{name} {i}")


def test_symmetries_turn_the_whole_window_of_every_modality_alike(patched):
    scene, statistics, centres, patches = patched
    for i in (4, 5):  # away from the border, whose reflection is symmetric
        plain = {m: w[0].numpy() for m, w in patches.gather(torch.tensor([i])).items()}
        turned = patches.gather(torch.full((8,), i), torch.arange(8))
        by_symmetry = {}
        for name in SIDES:
            images = {
                f"{flip}{k}": np.rot90(w, k, (1, 2))
                for flip, w in (("", plain[name]), ("mirror ", plain[name][:, :, ::-1]))
                for k in range(4)
            }
            for symmetry in range(8):
                names = {
                    label for label, image in images.items() if np.array_equal(image, turned[name][symmetry].numpy())
                }
                assert names, f"symmetry {symmetry} of {name} is no symmetry of the square"
                by_symmetry.setdefault(symmetry, names)
                by_symmetry[symmetry] = by_symmetry[symmetry] & names
        assert all(len(names) == 1 for names in by_symmetry.values()), "modalities must turn together"
        assert len(set().union(*by_symmetry.values())) == 8


def test_only_needed_pixels_are_kept():
    scene = make_scene(shape=(60, 60))
    statistics = {m: band_statistics(scene, m, np.ones((60, 60), bool)) for m in ("hsi", "sar")}
    patches = PatchSource(scene, {"hsi": 5, "sar": 3}, statistics, np.array([30 * 60 + 30, 30 * 60 + 31]))
    assert patches.tables["hsi"].shape == (30, 6) and patches.tables["sar"].shape == (12, 2)


def test_band_statistics_leave_no_data_and_other_pixels_out():
    scene = make_scene()
    train = np.random.default_rng(1).random((40, 48)) < 0.3
    scene["hsi"].values[1][np.random.default_rng(2).random((40, 48)) < 0.5] = np.nan
    scene["hsi"].values[:, ~train] += 1e4
    scene["hsi"].values[3] = 7.0
    mean, std = band_statistics(scene, "hsi", train)
    assert mean.dtype == std.dtype == np.float32
    for c in range(6):
        used = [float(v) for v in scene["hsi"].values[c][train] if not np.isnan(v)]
        m = sum(used) / len(used)
        assert mean[c] == pytest.approx(m, rel=1e-6)
        assert std[c] == pytest.approx(
            1.0 if c == 3 else (sum((v - m) ** 2 for v in used) / len(used)) ** 0.5, rel=1e-6
        )


def test_a_band_without_data_on_training_pixels_is_an_error():
    scene, train = make_scene(), np.zeros((40, 48), bool)
    train[:10] = True
    scene["sar"].values[1, :10] = np.nan
    with pytest.raises(PrsaError, match=r"modality sar: expected data.*got only no-data in band\(s\) \[1\].*drop"):
        band_statistics(scene, "sar", train)


def test_normalise_puts_no_data_at_the_mean():
    values = torch.tensor([[1.0, torch.nan], [5.0, 4.0]])
    assert normalise(values, torch.tensor([3.0, 0.0]), torch.tensor([2.0, 8.0])).tolist() == [[-1.0, 0.0], [1.0, 0.5]]


def test_upload_waits_for_nobody_on_a_gpu():
    """Pinned memory and a copy that does not block; elsewhere a plain copy."""
    calls = []

    class Drawn:
        def pin_memory(self):
            calls.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            calls.append((device.type, non_blocking))
            return "there"

    assert upload(Drawn(), torch.device("cuda")) == "there" and calls == ["pinned", ("cuda", True)]
    values = torch.arange(3)
    assert torch.equal(upload(values, torch.device("cpu")), values)
