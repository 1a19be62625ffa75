"""Raster files, polygons and label rasters become one scene on one grid, or one error in words."""

import json
import os
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from tiny_rasters import CRS, PLACE, box, write, write_shapes

import prsa
from prsa.data.layers import Grid, Layer
from prsa.data.rasters import open_windowed, scene_from_rasters, show, summary
from prsa.errors import PrsaError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PendingDeprecationWarning")
QUIET = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def two(tmp_path):
    """Files of two sensors on one grid of 12 x 16 pixels: ms with 3 bands of whole numbers, sar with 2 of float64."""
    g = np.random.default_rng(0)
    ms, sar = g.integers(1, 3000, (3, 12, 16)).astype(np.int16), g.normal(-10, 3, (2, 12, 16))
    return {"ms": write(tmp_path / "ms.tif", ms), "sar": write(tmp_path / "sar.tif", sar)}


@pytest.fixture
def polygons(tmp_path):
    """Four polygons of two classes, clear of each other."""
    shapes = [box(1, 1, 4, 4), box(6, 1, 9, 4), box(1, 6, 4, 10), box(10, 6, 15, 11)]
    return write_shapes(tmp_path / "areas.gpkg", shapes, {"class": np.array(["wood", "lake", "lake", "wood"])})


def everything(opened, name):
    return opened.read(name, slice(0, opened.shape[0]), slice(0, opened.shape[1]))


def only(raster):
    """What is read of one raster file."""
    with open_windowed({"m": raster}) as opened:
        return everything(opened, "m")


# ---- reading


@pytest.mark.parametrize(
    "driver, name", [("GTiff", "a.tif"), ("ENVI", "a.img"), ("JP2OpenJPEG", "a.jp2"), ("VRT", "a.vrt")]
)
def test_every_format_gives_the_same_values_and_grid(tmp_path, driver, name):
    values = np.arange(3 * 70 * 80, dtype=np.int16).reshape(3, 70, 80)
    path = write(tmp_path / "first.tif", values)
    if driver == "VRT":
        rasterio.shutil.copy(path, tmp_path / name, driver="VRT")
    elif driver != "GTiff":
        options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
        path = write(tmp_path / name, values, driver=driver, **options)
    else:
        path.rename(tmp_path / name)
    with open_windowed({"m": tmp_path / name}) as opened:
        assert opened.shape == (70, 80) and opened.sizes == {"y": 70, "x": 80, "m_band": 3}
        assert opened.crs == rasterio.crs.CRS.from_string(CRS) and opened.transform.almost_equals(PLACE)
        read = everything(opened, "m")
    assert read.dtype == np.float32 and (read == values).all()


@pytest.mark.parametrize("form", ["npy", "npy-last", "mat", "mat73", "mat-two"])
def test_arrays_take_the_grid_of_a_raster(tmp_path, two, form):
    values = np.random.default_rng(1).normal(size=(2, 12, 16)).astype("f4")
    path, name = tmp_path / f"lidar.{form[:3]}", tmp_path / f"lidar.{form[:3]}"
    if form.startswith("npy"):
        np.save(path, np.moveaxis(values, 0, 2) if form == "npy-last" else values)
    elif form == "mat73":
        with h5py.File(path, "w") as file:
            file["heights"] = np.moveaxis(values, 0, 2).T
    else:
        scipy.io.savemat(path, {"heights": values} | ({"other": values} if form == "mat-two" else {"note": "a text"}))
        name = f"{path}|heights"
    with open_windowed(two | {"lidar": name}) as opened:
        assert (everything(opened, "lidar") == values).all()
        assert (opened.read("lidar", slice(2, 5), slice(3, 9)) == values[:, 2:5, 3:9]).all()


@pytest.mark.parametrize(
    "unit, factor, written", [("Nanometers", 1, True), ("Micrometers", 1e-3, True), ("", 1, False), ("", 1e-3, False)]
)
def test_wavelengths_and_bad_bands_of_an_envi_header(tmp_path, unit, factor, written):
    values = np.arange(4 * 12 * 16, dtype=np.float32).reshape(4, 12, 16)
    path, header = write(tmp_path / "hsi.img", values, driver="ENVI"), tmp_path / "hsi.hdr"
    waves = np.array([450.5, 550, 1400, 2200])
    lines = [f"wavelength = {{{', '.join(str(w * factor) for w in waves)}}}", "bbl = {1, 1, 0, 1}"]
    lines += [f"wavelength units = {unit}"] * written
    text = header.read_text().replace("Band 2", "Höhe") + "\n".join(lines) + "\n"
    header.write_text(text, encoding="latin-1")  # as old programs write it
    sar = write(tmp_path / "sar.tif", values[:1])
    scene = scene_from_rasters({"hsi": path, "sar": sar})
    np.testing.assert_allclose(scene["wavelength"], waves[[0, 1, 3]], rtol=1e-6)
    assert scene["wavelength"].dims == ("hsi_band",) and scene["wavelength"].attrs["units"] == "nm"
    assert (scene["hsi"].values == values[[0, 1, 3]]).all()
    assert json.loads(scene.attrs["rasters"])["modalities"]["hsi"]["bands_left_out"] == [3]


def test_a_sensor_may_come_in_several_files_and_its_bands_keep_their_names(tmp_path, two):
    names = []
    for i in range(2):
        path = write(tmp_path / f"b{i}.tif", np.full((12, 16), i + 1, np.uint16))
        with rasterio.open(path, "r+") as file:
            file.set_band_description(1, f"B{i + 2}")
            file.units = ("1e-4",)
        names.append(path)
    scene = scene_from_rasters({"s2": names, "sar": two["sar"]})
    assert scene["s2_band"].values.tolist() == ["B2", "B3"] and scene["s2"].attrs["units"] == "1e-4"
    assert [float(band[0, 0]) for band in scene["s2"]] == [1, 2] and scene["s2"].attrs["kind"] == "multispectral"
    assert json.loads(scene.attrs["rasters"])["modalities"]["s2"]["files"] == ["b0.tif", "b1.tif"]


# ---- no-data

GAP = np.s_[2:4, 5:9]


def mask_of_dataset(path, values):
    with rasterio.open(write(path, values), "r+") as file:
        mask = np.full(values.shape[1:], 255, np.uint8)
        mask[GAP] = 0
        file.write_mask(mask)


def alpha(path, values):
    opaque = np.full((1, *values.shape[1:]), 255, np.int16)
    opaque[0][GAP] = 0
    with rasterio.open(write(path, np.concatenate([values, opaque])), "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]


def gap(mark, kind, **profile):
    def make(path, values):
        values = values.astype(kind)
        values[(slice(None), *GAP)] = mark
        write(path, values, **profile)

    return make


SPELLINGS = {
    "declared": gap(-9999, "i2", nodata=-9999),
    "declared, lowest float": gap(-3.4028234663852886e38, "f4", nodata=-3.4028234663852886e38),
    "declared, unsigned": gap(65535, "u2", nodata=65535),
    "not a number": gap(np.nan, "f4"),
    "infinite": gap(np.inf, "f8"),
    "undeclared -9999": gap(-9999, "i2"),
    "undeclared lowest float": gap(-3.4028234663852886e38, "f8"),
    "declared another": gap(-9999, "f4", nodata=-1),
    "mask of the dataset": mask_of_dataset,
    "alpha band": alpha,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_data_has_many_spellings(tmp_path, two, spelling):
    path = tmp_path / "gap.tif"
    values = np.random.default_rng(2).integers(1, 100, (2, 12, 16)).astype("i2")
    SPELLINGS[spelling](path, values)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scene = scene_from_rasters({"a": path, "sar": two["sar"]})
    empty = np.zeros((2, 12, 16), bool)
    empty[(slice(None), *GAP)] = True
    assert (np.isnan(scene["a"].values) == empty).all() and (scene["a"].values[~empty] == values[~empty]).all()
    assert any("no sensor measures" in str(w.message) for w in said) == (
        "undeclared" in spelling or spelling in ("infinite", "declared another")
    )
    assert summary(scene)["sensors"][0]["no_data"] == round(8 / 192, 6)


@pytest.mark.parametrize("nodata", [-9999, None])
def test_scale_and_offset_are_applied_after_no_data(tmp_path, nodata):
    values = np.array([[-9999, 100], [200, 300]], np.int16)
    path = write(tmp_path / "a.tif", values, nodata=nodata)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.01,), (5.0,)
    np.testing.assert_allclose(only(path)[0], [[np.nan, 6], [7, 8]])


@pytest.mark.parametrize("nodata, kept", [(None, False), (np.nan, True)])
def test_a_file_can_say_that_a_suspicious_value_is_measured(tmp_path, nodata, kept):
    values = np.random.default_rng(0).normal(size=(12, 16)).astype("f4")
    values[0, 0] = -9999
    path = write(tmp_path / "a.tif", values, nodata=nodata)
    assert (only(path)[0, 0, 0] == -9999) == kept
    scene = scene_from_rasters({"a": path, "b": write(tmp_path / "b.tif", values[::-1])})
    assert (scene["a"].values[0, 0, 0] == -9999) == kept


def test_depths_of_the_sea_are_no_sentinels(tmp_path):
    values = np.linspace(-5000, 10, 12 * 16).reshape(12, 16).astype("f4")
    values[3, 3] = -999
    assert not np.isnan(only(write(tmp_path / "a.tif", values))).any()


# ---- one grid


def placed(tmp_path, two, values, transform, crs=CRS, **profile):
    """Values of a raster brought to the grid of `two`, and what the report says of it."""
    path = write(tmp_path / "other.tif", values, transform, crs, **profile)
    with open_windowed({"ms": two["ms"], "other": path}) as opened:
        return everything(opened, "other")[0], opened.report()["other"]


def test_grids_that_differ_by_rounding_are_one_grid(tmp_path, two):
    values = np.random.default_rng(0).normal(size=(12, 16)).astype("f4")
    read, report = placed(tmp_path, two, values, Affine(10, 0, 700000 + 4e-10, 0, -10, 5700000 - 4e-10))
    assert (read == values).all() and report["how"] == "as it is" and report["begins_at"] == [0, 0]


def test_a_larger_raster_on_the_same_pixels_is_cut_out_untouched(tmp_path, two):
    values = np.random.default_rng(0).normal(size=(40, 50)).astype("f4")
    read, report = placed(tmp_path, two, values, PLACE * Affine.translation(-7, -3))
    assert (read == values[3:15, 7:23]).all() and (report["how"], report["begins_at"]) == ("cut out", [-7, -3])
    read, report = placed(tmp_path, two, values[:8, :8], PLACE * Affine.translation(4, -2))
    assert (read[:6, 4:12] == values[2:8, :8]).all() and np.isnan(read).sum() == 12 * 16 - 48
    assert report["overlap"] == 0.25


def test_half_a_pixel_off_is_interpolated_and_finer_pixels_are_averaged(tmp_path, two):
    values = np.random.default_rng(0).normal(size=(40, 50)).astype("f4")
    read, report = placed(tmp_path, two, values, PLACE * Affine.translation(-6.5, -3.5))
    mean = (values[:-1, :-1] + values[1:, :-1] + values[:-1, 1:] + values[1:, 1:]) / 4
    np.testing.assert_allclose(read, mean[3:15, 6:22], atol=1e-5)
    assert (report["how"], report["begins_at"], report["pixel_size"]) == ("bilinear", [-6.5, -3.5], 1.0)
    fine = np.random.default_rng(0).normal(size=(60, 80)).astype("f4")
    read, report = placed(tmp_path, two, fine, PLACE * Affine.scale(0.2))
    np.testing.assert_allclose(read, fine.reshape(12, 5, 16, 5).mean((1, 3)), atol=1e-5)
    assert (report["how"], report["pixel_size"]) == ("average", 0.2)


@pytest.mark.parametrize("turn", [0, 20])
def test_another_reference_system_and_a_rotated_raster_land_where_they_belong(tmp_path, two, turn):
    x, y = rasterio.warp.transform(CRS, "EPSG:4326", [700080], [5699940])
    there = (
        Affine.translation(x[0], y[0])
        * Affine.rotation(turn)
        * Affine.scale(1e-4, -1e-4)
        * Affine.translation(-60, -60)
    )
    columns, rows = np.meshgrid(np.arange(120) + 0.5, np.arange(120) + 0.5)
    lon, lat = there * (columns, rows)
    east, _ = rasterio.warp.transform("EPSG:4326", CRS, lon.ravel(), lat.ravel())
    read, report = placed(tmp_path, two, np.reshape(east, (120, 120)), there, "EPSG:4326")
    expected = 700000 + 10 * (np.arange(16) + 0.5)
    assert np.abs(read - expected).max() < 1  # metre, of 10: GDAL's kernels are not exact between pixels
    assert report["crs"] == "EPSG:4326" and report["overlap"] == 1.0


@QUIET
@given(st.tuples(*[st.integers(0, 1099)] * 4), st.sampled_from([0.3, 1.0, 2.5]))
def test_windows_of_a_resampled_raster_are_cut_from_one_whole(tmp_path_factory, edges, size):
    folder = tmp_path_factory.getbasetemp() / f"windows{size}"
    if not folder.is_dir():
        folder.mkdir()
        g, n = np.random.default_rng(0), int(300 * size)
        write(folder / "big.tif", np.zeros((1100, 1100), np.uint8))
        near = Affine.translation(400.37, 380.21) * Affine.rotation(3) * Affine.scale(1 / size)
        write(folder / "other.tif", g.normal(size=(n, n)).astype("f4"), PLACE * near)
    (top, bottom), (left, right) = sorted(edges[:2]), sorted(edges[2:])
    with open_windowed({"big": folder / "big.tif", "other": folder / "other.tif"}) as opened:
        window = slice(top, bottom + 1), slice(left, right + 1)
        part, whole = opened.read("other", *window), everything(opened, "other")
    np.testing.assert_array_equal(part, whole[(slice(None), *window)])


def test_a_grid_from_south_to_north_keeps_its_direction(tmp_path):
    values, up = np.arange(12 * 16, dtype="f4").reshape(12, 16), Affine(10, 0, 700000, 0, 10, 5699880)
    first = write(tmp_path / "up.tif", values[::-1], up)
    scene = scene_from_rasters({"up": first, "down": write(tmp_path / "down.tif", values)})
    assert scene["y"].values[0] == 5699885 and (np.diff(scene["y"]) > 0).all()
    np.testing.assert_allclose(scene["down"].values, scene["up"].values, atol=1e-4)


def test_rasters_without_any_coordinates_are_matched_by_rows_and_columns(tmp_path, two):
    bare = write(tmp_path / "bare.tif", np.ones((12, 16), "f4"), None, None)
    scene = scene_from_rasters({"a": bare, "b": bare})
    assert not {"x", "y", "spatial_ref"} & set(scene.coords)
    scene = scene_from_rasters(two | {"bare": bare})
    assert "taken to be" in json.loads(scene.attrs["rasters"])["modalities"]["bare"]["assumed"]


def test_the_grid_may_be_that_of_any_sensor(tmp_path, two):
    fine = write(tmp_path / "fine.tif", np.ones((24, 32), "f4"), PLACE * Affine.scale(0.5))
    scene = scene_from_rasters(two | {"fine": fine}, grid="fine")
    assert scene.sizes["y"] == 24 and float(scene["x"][1] - scene["x"][0]) == 5
    assert json.loads(scene.attrs["rasters"])["grid"] == "fine"


def bad_rasters(folder, two):
    """Name -> (rasters, grid, words of the error)."""
    ms, ones = two["ms"], np.ones((12, 16), "f4")
    far = write(folder / "far.tif", ones, Affine(10, 0, 10000, 0, -10, 10000))
    bare = write(folder / "bare.tif", np.ones((5, 6), "f4"), None, None)
    nocrs = write(folder / "nocrs.tif", ones, PLACE * Affine.translation(3, 0), None)
    turned = write(folder / "turned.tif", ones, PLACE * Affine.rotation(10))
    (folder / "text.tif").write_text("no raster")
    (folder / "cut.tif").write_bytes(Path(ms).read_bytes()[:300])
    gcps = [GroundControlPoint(r, c, 700000 + c * 10, 5700000 - r * 10) for r, c in ((0, 0), (0, 16), (12, 0))]
    points = write(folder / "gcp.tif", ones, None, None)
    with rasterio.open(points, "r+") as file:
        file.gcps = gcps, rasterio.crs.CRS.from_string(CRS)
    np.save(folder / "small.npy", np.ones((3, 3)))
    np.save(folder / "object.npy", np.array([{}], object))
    return {
        "a text": ({"ms": folder / "text.tif"}, None, "GDAL reads"),
        "missing": ({"ms": folder / "nowhere.tif"}, None, "nowhere.tif"),
        "cut short": ({"ms": folder / "cut.tif"}, None, "GDAL reads"),
        "a folder": ({"ms": folder}, None, "GDAL reads"),
        "elsewhere": ({"ms": ms, "far": far}, None, "no overlap"),
        "no coordinates": ({"ms": ms, "bare": bare}, None, "5 x 6 pixels"),
        "no CRS": ({"ms": ms, "nocrs": nocrs}, None, "edit-info --crs"),
        "rotated grid": ({"turned": turned, "ms": ms}, None, "rotated"),
        "ground control points": ({"ms": points}, None, "ground control points"),
        "complex": ({"ms": write(folder / "slc.tif", ones.astype("c8"))}, None, "complex"),
        "array of another size": ({"ms": ms, "a": folder / "small.npy"}, None, "(3, 3)"),
        "array of objects": ({"ms": ms, "a": folder / "object.npy"}, None, "small.npy".replace("small", "object")),
        "array as grid": ({"a": folder / "small.npy", "ms": ms}, None, "coordinates"),
        "nothing": ({}, None, "per modality"),
        "unknown grid": ({"ms": ms}, "sar", "'sar'"),
        "one sensor": ({"ms": ms}, None, "two or more modalities"),
    }


@pytest.mark.parametrize("case", range(16))
def test_bad_rasters_are_refused_in_words(tmp_path, two, case):
    name, (rasters, grid, words) = list(bad_rasters(tmp_path, two).items())[case]
    with pytest.raises(PrsaError, match=".") as caught:
        scene_from_rasters(rasters, grid=grid)
    assert words in str(caught.value) and len(str(caught.value)) <= 900, name


# ---- labels from polygons


@pytest.mark.parametrize("kind, crs", [("gpkg", CRS), ("shp", CRS), ("geojson", "EPSG:4326"), ("fgb", "EPSG:3857")])
def test_polygons_of_every_format_and_reference_system_give_the_same_labels(tmp_path, two, kind, crs):
    shapes = [box(0.6, 0.6, 4.4, 4.4), box(6, 1, 9.2, 4.7), box(10, 6, 15, 11)]
    moved = [shapely.transform(s, lambda xy: np.column_stack(rasterio.warp.transform(CRS, crs, *xy.T))) for s in shapes]
    path = write_shapes(
        tmp_path / f"areas.{kind}", moved, {"class": np.array(["森林", "вода", "森林"])}, crs, "Polygon"
    )
    scene = scene_from_rasters(two, path, "class")
    expected = np.zeros((12, 16), int)
    expected[1:4, 1:4], expected[1:5, 6:9], expected[6:11, 10:15] = 2, 1, 2
    assert (scene["label"].values == expected).all()
    assert json.loads(scene.attrs["class_names"]) == ["вода", "森林"]
    assert len(np.unique(scene["polygon"])) == 4 and ((scene["polygon"] > 0) == (scene["label"] > 0)).all()


@QUIET
@given(arrays.arrays(float, (5, 2), elements=st.floats(-6, 22, width=16)), st.booleans())
def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre(tmp_path, points, up):
    transform = Affine(10, 0, 700000, 0, 10, 5699880) if up else PLACE
    hull = shapely.MultiPoint(points).convex_hull
    if hull.geom_type != "Polygon":
        return
    grid = Grid(None, transform, 12, 16)
    shape = shapely.transform(hull, lambda xy: np.column_stack(transform * tuple(xy.T)))
    path = write_shapes(tmp_path / "one.gpkg", [shape], {"class": np.array(["a"])}, None, append=False)
    rows, columns = np.mgrid[:12, :16] + 0.5
    inside = shapely.contains_xy(hull, columns, rows)
    edge = shapely.dwithin(hull.exterior, shapely.points(columns, rows), 1e-3)
    try:
        label = prsa.data.labels.read_labels(path, grid, "class").label
    except PrsaError as error:
        assert not (inside & ~edge).any() and "pixel centre" in " ".join(str(error).split())
    else:
        assert ((label == 1) == inside)[~edge].all()


BOXES = st.lists(
    st.tuples(
        *[st.integers(-3, 18)] * 2, *[st.integers(1, 7)] * 2, st.sampled_from("ab"), st.sampled_from(["", "test"])
    ),
    min_size=1,
    max_size=9,
)


@QUIET
@given(BOXES)
def test_overlapping_polygons_against_a_loop_over_pixels(tmp_path, boxes):
    shapes = [box(x, y, x + w, y + h) for x, y, w, h, *_ in boxes]
    columns = {"class": np.array([b[4] for b in boxes]), "split": np.array([b[5] for b in boxes])}
    path = write_shapes(tmp_path / "boxes.gpkg", shapes, columns, append=False)
    claims = {
        (r, c): [i for i, (x, y, w, h, *_) in enumerate(boxes) if x <= c < x + w and y <= r < y + h]
        for r in range(12)
        for c in range(16)
    }
    unit = list(range(len(boxes)))
    shared = {(i, j) for claim in claims.values() for i in claim for j in claim if boxes[i][4:] == boxes[j][4:]}
    for _ in boxes:
        for i, j in shared:
            unit[i] = unit[j] = min(unit[i], unit[j])
    clear = {p: claim[0] for p, claim in claims.items() if claim and len({boxes[i][4:] for i in claim}) == 1}
    try:
        found = prsa.data.labels.read_labels(path, Grid(rasterio.CRS.from_string(CRS), PLACE, 12, 16), "class")
    except PrsaError:
        assert not clear
        return
    label, expected = found.label, np.zeros((12, 16), object)
    for pixel, i in clear.items():
        expected[pixel] = boxes[i][4]
    assert (np.array([0, *found.names], object)[label] == expected).all()
    pairs = {(unit[clear[p]], int(found.polygon[p])) for p in clear}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == found.polygon.max()
    if found.split is not None:
        assert all((found.split[p] == 2) == (boxes[i][5] == "test") for p, i in clear.items())


def labelled(tmp_path, two, shapes, columns, column="class", **how):
    path = write_shapes(tmp_path / "areas.gpkg", shapes, {k: np.array(v) for k, v in columns.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scene = scene_from_rasters(two, path, column, **how)
    return scene, json.loads(scene.attrs["rasters"])["labels"]


def test_overlaps_of_one_class_are_one_unit_and_of_two_classes_unlabelled(tmp_path, two):
    shapes = [box(0, 0, 4, 4), box(2, 2, 6, 6), box(5, 5, 9, 9), box(12, 0, 16, 3)]
    scene, report = labelled(tmp_path, two, shapes, {"class": ["a", "a", "b", "b"]})
    label, polygon = scene["label"].values, scene["polygon"].values
    assert label[5, 5] == 0 and report["overlaps_left_unlabelled"] == {"a / b": 1}
    assert len(np.unique(polygon[label == 1])) == 1 and len(np.unique(polygon[label == 2])) == 2
    assert report["units"] == 3


def test_parts_points_repairs_and_what_cannot_be_used_are_reported(tmp_path, two):
    bow = shapely.transform(
        shapely.Polygon([(8, 0), (12, 4), (12, 0), (8, 4)]), lambda p: np.column_stack(PLACE * tuple(p.T))
    )
    shapes = [
        shapely.MultiPolygon([box(0, 0, 2, 2), box(4, 0, 6, 2)]),
        shapely.Point(PLACE * (14.2, 9.7)),
        bow,
        box(40, 40, 44, 44),
        box(0.6, 8.6, 1.4, 9.4),
        shapely.Polygon(),
        box(6, 8, 8, 10),
    ]
    scene, report = labelled(tmp_path, two, shapes, {"class": ["a", "b", "b", "a", "a", "a", ""]})
    assert scene["label"].values[9, 14] == 2 and scene["label"].values[8:10, 6:8].max() == 0
    assert len(np.unique(scene["polygon"].values[:2, :6])) == 3
    assert {k: report[k] for k in ("repaired_geometries", "outside", "without_a_pixel_centre", "empty_geometries")} == {
        "repaired_geometries": 1, "outside": 1, "without_a_pixel_centre": 1, "empty_geometries": 1,
    }  # fmt: skip
    assert report["without_a_class"] == 1


@pytest.mark.parametrize("values", [[10, 2, 2], [10.0, 2.0, 2.0]])
def test_class_numbers_are_sorted_as_numbers_and_may_get_names(tmp_path, two, values):
    shapes = [box(0, 0, 4, 4), box(6, 0, 9, 4), box(0, 6, 4, 9)]
    assert prsa.data.scene.class_names(labelled(tmp_path, two, shapes, {"class": values})[0]) == ["2", "10"]
    scene, report = labelled(tmp_path, two, shapes, {"class": values}, classes={10: "lake", 2: "wood", 3: "ice"})
    assert prsa.data.scene.class_names(scene) == ["lake", "wood"] and report["classes_without_pixels"] == ["ice"]
    assert scene["label"].values[0, 0] == 1


def test_a_split_column_is_used(tmp_path, two):
    shapes = [box(0, 0, 4, 4), box(6, 0, 9, 4), box(0, 6, 4, 9), box(3, 8, 6, 10)]
    columns = {"class": ["a"] * 4, "Split": ["Train", "test", "validation", ""]}
    scene, report = labelled(tmp_path, two, shapes, columns)
    assert [int(scene["split"][p]) for p in ((0, 0), (0, 6), (6, 0), (9, 4))] == [1, 2, 1, 0]
    assert int(scene["validation"][6, 0]) == 1 and int(scene["validation"].sum()) == 11
    assert report["overlaps_left_unlabelled"] == {"a (train and test)": 1} and int(scene["label"][8, 3]) == 0


def test_polygons_stay_whole_in_the_split_of_the_scene(tmp_path):
    g = np.random.default_rng(0)
    rasters = {n: write(tmp_path / f"{n}.tif", g.normal(size=(1, 80, 80)).astype("f4")) for n in ("ms", "dem")}
    shapes = [box(x, y, x + 6, y + 6) for y in range(2, 76, 15) for x in range(2, 76, 15)]
    path = write_shapes(tmp_path / "a.gpkg", shapes, {"class": np.array(list("abcde") * 5)})
    scene = scene_from_rasters(rasters, path, "class")
    part = prsa.split_scene(scene, radius=2).values
    polygon = scene["polygon"].values
    assert all(len(np.unique(part[polygon == k])) == 1 for k in range(1, 26)) and {1, 3} <= set(np.unique(part))


def bad_labels(folder, two):
    """Name -> (arguments of labels, words of the error)."""

    def shapes(name, geometries, columns=None, crs=CRS, **more):
        columns = columns or {"class": np.array(["a"] * len(geometries)), "id": np.arange(len(geometries))}
        return write_shapes(folder / name, geometries, columns, crs, **more)

    good = [box(0, 0, 4, 4)]
    line = shapely.LineString([PLACE * (0, 0), PLACE * (5, 5)])
    both = shapes("both.gpkg", good, layer="first")
    shapes("both.gpkg", good, layer="second", append=True)
    (folder / "text.geojson").write_text("{")
    (folder / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (folder / "names.json").write_text("[1, 2")
    (folder / "names.csv").write_text("1,water\njust one field\n")
    many = shapes("many.gpkg", good * 300, {"class": np.arange(300)})
    folds = shapes("s.gpkg", good, {"class": np.array(["a"]), "split": np.array(["fold1"])})
    two_bands = write(folder / "two.tif", np.ones((2, 12, 16), np.uint8))
    real = write(folder / "real.tif", np.full((12, 16), 1.5, "f4"))
    zero = write(folder / "zero.tif", np.zeros((12, 16), np.uint8))
    codes = write(folder / "codes.tif", np.full((12, 16), 7, np.uint8))
    return {
        "missing": ((folder / "nowhere.gpkg", "class"), "nowhere.gpkg"),
        "a text": ((folder / "text.geojson", "class"), "GDAL reads"),
        "no features": ((folder / "none.geojson", "class"), "no feature"),
        "empty": ((shapes("empty.gpkg", [shapely.Polygon()]), "class"), "only empty"),
        "column missing": ((shapes("a.gpkg", good), "klass"), "class, id"),
        "column not named": ((shapes("b.gpkg", good, {"x": np.array(["a"]), "y": np.array(["b"])}),), "x, y"),
        "outside": ((shapes("far.gpkg", [box(100, 100, 104, 104)]), "class"), "outside"),
        "lines": ((shapes("mixed.gpkg", [*good, line]), "class"), "1 of type linestring"),
        "layers": ((both, "class"), "|layername=first"),
        "column of identifiers": ((many, "class"), "identifiers"),
        "split of other words": ((folds, "class"), "fold1"),
        "no class at all": ((shapes("n.gpkg", good, {"class": np.array([""])}), "class"), "none"),
        "value without a name": ((shapes("c.gpkg", good), "class", {"b": "B"}), "{'a': ''}"),
        "names that are no JSON": ((codes, None, folder / "names.json"), "JSON"),
        "names that are no CSV": ((codes, None, folder / "names.csv"), "just one field"),
        "names without names": ((codes, None, {7: ""}), "none"),
        "column of a raster": ((codes, "class"), "raster"),
        "several bands": ((two_bands,), "one band"),
        "measurements": ((real,), "whole class numbers"),
        "nothing labelled": ((zero,), "none"),
        "other codes": ((codes, None, {1: "water"}), "7"),
    }  # fmt: skip


@pytest.mark.parametrize("case", range(21))
def test_bad_labels_are_refused_in_words(tmp_path, two, case):
    name, (labels, words) = list(bad_labels(tmp_path, two).items())[case]
    with pytest.raises(PrsaError) as caught:
        scene_from_rasters(two, *labels)
    assert words in str(caught.value) and len(str(caught.value)) <= 900, name


def test_a_side_without_reference_system(tmp_path, two):
    path = write_shapes(tmp_path / "a.gpkg", [box(0, 0, 4, 4)], {"class": np.array(["a"])}, None)
    assert "taken to be" in json.loads(scene_from_rasters(two, path, "class").attrs["rasters"])["labels"]["assumed"]
    bare = write(tmp_path / "bare.tif", np.ones((12, 16), "f4"), None, None)
    known = write_shapes(tmp_path / "b.gpkg", [box(0, 0, 4, 4)], {"class": np.array(["a"])})
    with pytest.raises(PrsaError, match="rasters have none"):
        scene_from_rasters({"a": bare, "b": bare}, known, "class")


# ---- labels from rasters

CODES = np.array([[0, 1, 5], [5, 5, 255], [-1, 1, 1]])


@pytest.mark.parametrize(
    "kind, nodata, classes, names, expected",
    [
        ("i2", None, None, ["1", "5", "255"], [[0, 1, 2], [2, 2, 3], [0, 1, 1]]),
        ("i2", 255, None, ["0", "1", "5"], [[1, 2, 3], [3, 3, 0], [0, 2, 2]]),
        ("f8", -1, {5: "lake", 0: "", 1: "wood", 255: "lake"}, ["lake", "wood"], [[0, 2, 1], [1, 1, 1], [0, 2, 2]]),
        ("i4", 255, {"1": "a", "5": "b"}, ["a", "b"], [[0, 1, 2], [2, 2, 0], [0, 1, 1]]),
    ],
)
def test_any_integers_label(tmp_path, kind, nodata, classes, names, expected):
    two = {
        n: write(tmp_path / f"{n}.tif", np.random.default_rng(0).normal(size=(3, 3)).astype("f4")) for n in ("a", "b")
    }
    path = write(tmp_path / "codes.tif", CODES.astype(kind), nodata=nodata)
    scene = scene_from_rasters(two, path, classes=classes)
    assert prsa.data.scene.class_names(scene) == names and scene["label"].values.tolist() == expected
    assert "polygon" not in scene


@pytest.mark.parametrize(
    "name, text",
    [
        ("names.json", '{"1": "Wald", "5": "Wiese", "9": "Eis"}'),
        ("list.json", '["Wald", "", "", "", "Wiese"]'),
        ("names.csv", "value,name\n1,Wald\n5,Wiese\n"),
        ("excel.csv", "\ufeff1;Wald;grün\r\n5;Wiese;gelb\r\n"),
    ],
)
def test_names_from_a_file(tmp_path, two, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    codes = write(tmp_path / "codes.tif", np.where(np.arange(192).reshape(12, 16) % 2, 1, 5).astype("u1"))
    assert prsa.data.scene.class_names(scene_from_rasters(two, codes, classes=tmp_path / name)) == ["Wald", "Wiese"]


PAM = "<PAMDataset><PAMRasterBand band='1'>{}</PAMRasterBand></PAMDataset>"
NAMES = "".join(f"<Category>{name}</Category>" for name in ("Unclassified", "water", "wood"))
TABLE = (
    "<GDALRasterAttributeTable>"
    "<FieldDefn index='0'><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>"
    "<FieldDefn index='1'><Name>Class</Name><Type>2</Type><Usage>2</Usage></FieldDefn>"
    "<Row index='0'><F>1</F><F>water</F></Row><Row index='1'><F>2</F><F>wood</F></Row></GDALRasterAttributeTable>"
)


@pytest.mark.parametrize("form", ["categories", "attribute table", "ENVI"])
def test_names_from_the_raster_itself(tmp_path, two, form):
    values = (np.arange(192).reshape(12, 16) % 3).astype("u1")
    if form == "ENVI":
        path, header = write(tmp_path / "l.img", values, driver="ENVI"), tmp_path / "l.hdr"
        lines = "classes = 3\nclass names = {Unclassified, water, wood}\nclass lookup = {0,0,0,0,0,255,0,255,0}\n"
        header.write_text(header.read_text().replace("ENVI Standard", "ENVI Classification") + lines)
    else:
        path = write(tmp_path / "l.tif", values)
        (tmp_path / "l.tif.aux.xml").write_text(
            PAM.format(f"<CategoryNames>{NAMES}</CategoryNames>" if form == "categories" else TABLE)
        )
    scene = scene_from_rasters(two, path)
    assert prsa.data.scene.class_names(scene) == ["water", "wood"] and (scene["label"].values == values).all()


def test_labels_on_another_grid_take_the_nearest_value(tmp_path, two):
    codes = np.kron(np.random.default_rng(0).integers(1, 4, (3, 4)), np.ones((1, 1), int)).astype("u1")
    path = write(tmp_path / "codes.tif", codes, PLACE * Affine.scale(4))
    scene = scene_from_rasters(two, path)
    assert (scene["label"].values == np.kron(codes, np.ones((4, 4), int))).all()
    assert json.loads(scene.attrs["rasters"])["labels"]["how"] == "nearest"


# ---- the scene


def test_a_scene_keeps_its_place_and_says_what_was_done(tmp_path, two, polygons):
    with pytest.warns(UserWarning, match="fewer than 30"):
        scene = scene_from_rasters(two, polygons, "class", title="T", license="L", name="place")
    prsa.save_scene(scene, tmp_path / "scene.nc")
    again = prsa.open_scene(tmp_path / "scene.nc")
    assert (
        again.drop_attrs().equals(scene.drop_attrs()) and again.attrs["title"] == "T" and again.attrs["license"] == "L"
    )
    assert rasterio.crs.CRS.from_wkt(again["spatial_ref"].attrs["crs_wkt"]).to_epsg() == 32718
    assert (float(again["x"][0]), float(again["y"][0])) == (700005, 5699995)
    facts = json.loads(again.attrs["summary"])
    assert facts["classes"] == [
        {"name": "lake", "pixels": 21, "polygons": 2},
        {"name": "wood", "pixels": 34, "polygons": 2},
    ]
    assert [s["bands"] for s in facts["sensors"]] == [3, 2] and facts["unlabelled"] == 137
    text = show(again)
    assert (
        "EPSG:32718" in text
        and "brought to the grid of ms" in text
        and "areas.gpkg" in text
        and str(tmp_path) not in text
    )
    assert "no labels" in show(scene_from_rasters(two))


def test_one_polygon_is_warned_of(tmp_path, two):
    path = write_shapes(tmp_path / "a.gpkg", [box(0, 0, 8, 8)], {"class": np.array(["a"])})
    with pytest.warns(UserWarning, match="has one polygon"):
        scene_from_rasters(two, path, "class")


@QUIET
@given(st.binary(max_size=400), st.sampled_from([".tif", ".geojson", ".npy", ".mat", ".gpkg", ".vrt"]), st.booleans())
def test_any_bytes_are_refused_in_words(tmp_path, two, content, suffix, magic):
    path = tmp_path / f"any{suffix}"
    head = {".tif": b"II*\0", ".npy": b"\x93NUMPY\x01\0", ".gpkg": b"SQLite format 3\0", ".vrt": b"<VRTDataset"}
    path.write_bytes((head.get(suffix, b"") if magic else b"") + content)
    for call in (lambda: scene_from_rasters(two | {"other": path}), lambda: scene_from_rasters(two, path, "class")):
        with pytest.raises(PrsaError) as caught:
            call()
        assert len(str(caught.value)) <= 900


# ---- two real places


@pytest.fixture
def real():
    """The folder of PRSA_REAL_RASTERS."""
    folder = os.environ.get("PRSA_REAL_RASTERS")
    if not folder or not Path(folder, "para").is_dir():
        pytest.skip("no rasters of real places: set PRSA_REAL_RASTERS to a folder with them")
    return Path(folder)


def test_polygons_of_para(real):
    place = real / "para"
    rasters = {"ms": place / "sentinel2.tif", "dem": place / "srtm.tif"}
    facts = summary(scene_from_rasters(rasters, place / "training_polygons.geojson", "class"))
    counted = {c["name"]: (c["pixels"], c["polygons"]) for c in facts["classes"]}
    assert counted == {"dryout": (204, 4), "forest": (1056, 8), "village": (614, 9), "water": (496, 4)}


def test_labels_of_chile_and_its_grids_that_differ_by_rounding(real):
    files = {"ms": "S2L2A.tif", "sar": "S1RTC.tif", "dem": "DEM.tif"}
    rasters = {name: real / "chile" / file for name, file in files.items()}
    names = {1: "water", 2: "trees", 3: "flooded", 4: "crops", 5: "built", 9: "rangeland", 8: "clouds"}
    scene = scene_from_rasters(rasters, real / "chile" / "LULC.tif", classes=names)
    report = json.loads(scene.attrs["rasters"])
    assert {part["how"] for part in report["modalities"].values()} == {"as it is"}
    assert [c["pixels"] for c in summary(scene)["classes"]] == [3127, 10396, 90, 21213, 11742, 3608]
    with rasterio.open(rasters["sar"]) as file:
        assert (scene["sar"].values == file.read().astype("f4")).all()
    assert Layer(rasters["ms"]).grid.crs.to_epsg() == 32718
