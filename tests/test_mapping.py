"""Maps equal the network patch by patch, from memory and from disk; models as files; GeoTIFF; areas."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import safetensors.torch
import torch
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from tiny import CLASSES, SMALL, every_patch, make_scene, make_trainer, weights

from prsa import PrsaError, fit, load_model, predict_map, save_model, save_scene, scene_from_rasters, split_scene
from prsa.config import METHODS
from prsa.files import ROOT
from prsa.mapping import land_cover, passes, predict, saved, windows
from prsa.mapping.area import adjusted, pixel_areas
from prsa.mapping.windows import Block, SceneSource, pieces
from prsa.network.fusion import FUSIONS
from prsa.study import execute
from prsa.study.plan import Plan, RunSpec

UTM, NORTH_UP = CRS.from_epsg(32718), Affine(10, 0, 400_000, 0, -10, 5_700_000)


def trained(modalities=("hsi", "sar"), **overrides):
    """A scene far from zero and with missing data, and a network with no parameter left at its start of zero."""
    scene = make_scene(modalities)
    scene["hsi"] = scene["hsi"] + 1000
    scene["hsi"][2, 3:6, 4:9] = np.nan
    trainer = make_trainer(scene, "concat", **overrides)
    trainer.epoch(1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.shared_parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return scene, trainer.model.eval()


def placed(scene, transform=NORTH_UP, crs=UTM):
    """The scene somewhere on Earth, its bands with names or wavelengths."""
    x = transform.c + transform.a * (np.arange(scene.sizes["x"]) + 0.5)
    y = transform.f + transform.e * (np.arange(scene.sizes["y"]) + 0.5)
    wkt = crs.to_wkt()
    about = {"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": " ".join(map(repr, transform.to_gdal()))}
    wavelength = ("hsi_band", np.linspace(450, 950, scene.sizes["hsi_band"]), {"units": "nm"})
    return scene.assign_coords(x=x, y=y, spatial_ref=((), 0, about), wavelength=wavelength, sar_band=["VV", "VH"])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A scene with a place, pixels without data and a border in all of it, a model of it, and rasters of its values."""
    scene, folder = placed(make_scene()), tmp_path_factory.mktemp("kept")
    for m in ("hsi", "sar"):
        scene[m][:, 12:15, 20:30] = np.nan
        like = {"driver": "GTiff", "dtype": "float32", "nodata": np.nan, "crs": UTM, "transform": NORTH_UP}
        with rasterio.open(folder / f"{m}.tif", "w", **like, count=len(scene[m]), height=40, width=48) as file:
            file.write(scene[m].values)
    split = split_scene(scene, "blocks", radius=2)
    run, model = fit(scene, "prsanet", split, preset="quick", **SMALL)
    save_model(model, folder / "model.safetensors")
    return scene, split, run, model, folder


@pytest.mark.parametrize("modalities", [("hsi", "sar"), ("hsi", "sar", "dsm")], ids=len)
@pytest.mark.parametrize("overrides", [*({"fusion": f} for f in (*FUSIONS, "late")), {"fusion": "sagf", "vote": 0.5}])
def test_logits_are_those_of_every_patch(modalities, overrides, monkeypatch):
    monkeypatch.setattr(passes, "STEP", 5)  # the last step of a tile is shorter
    scene, model = trained(modalities, patch="hsi=5,sar=3" + (",dsm=7" if "dsm" in modalities else ""), **overrides)
    everything = slice(0, 40), slice(0, 48)
    with torch.inference_mode():
        expected = model(every_patch(model, scene))["logits"].T.view(-1, 40, 48)
        logits, block = passes.tile_logits(model), Block(SceneSource(scene), model.modalities, *everything, 0)
        got = torch.full_like(expected, torch.nan)
        for rows, cols in pieces(*everything, 17, 17):
            for here, values in logits(block, rows, cols):
                assert torch.isnan(got[:, here, cols]).all()  # every pixel once
                got[:, here, cols] = values
    assert expected.std() > 0.2
    torch.testing.assert_close(got.log_softmax(0), expected.log_softmax(0), atol=1e-4, rtol=0)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_the_map_depends_neither_on_threads_nor_on_tiles(three_threads, monkeypatch):
    scene, model = trained(fusion="sagf")
    before, many = weights(model), [predict_map(model, scene, probabilities=True)]
    monkeypatch.setattr(predict, "TILE", (7, 11))
    many.insert(0, predict_map(model, scene, probabilities=True))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    one = predict_map(model, scene, probabilities=True)
    xr.testing.assert_identical(one, many[0])
    np.testing.assert_allclose(many[0]["probability"], many[1]["probability"], atol=1e-5)
    np.testing.assert_allclose(one["probability"].sum("class"), 1, atol=1e-5)
    np.testing.assert_array_equal(one["land_cover"], one["probability"].argmax("class") + 1)
    np.testing.assert_array_equal(one["land_cover"].confidence, one["probability"].max("class"))
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_what_a_tile_raises_is_raised(three_threads, monkeypatch):
    def keep(part, place, p, empty):
        assert torch.get_num_threads() == 1
        raise ValueError("tile")

    monkeypatch.setattr(predict.Part, "keep", keep)
    with pytest.raises(ValueError, match="tile"):
        predict_map(*reversed(trained()))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("method", ["prsanet", "sar", "endnet", "rf-spatial"])
def test_blocks_and_no_data(method, monkeypatch):
    scene = make_scene()
    settings = SMALL | {"epochs": 1} if method != "rf-spatial" else {"patch": 5}
    model = fit(scene, method, split_scene(scene, "blocks", radius=2), preset="quick", **settings)[1]
    scene["hsi"][:, 2:9, 30:41] = np.nan
    scene["sar"][:, 4:9, 30:48] = np.nan
    whole = predict_map(model, scene, probabilities=True)
    empty = np.isnan(scene["sar"]).all("sar_band") & (np.isnan(scene["hsi"]).all("hsi_band") | (method == "sar"))
    np.testing.assert_array_equal(whole["land_cover"] == 0, empty)
    for values in (whole["land_cover"].confidence, whole["probability"]):
        np.testing.assert_array_equal(np.isnan(values), empty.broadcast_like(values))
    monkeypatch.setattr(windows, "BLOCK", 16)
    monkeypatch.setattr(windows, "BLOCK_VALUES", 1)
    read = []
    monkeypatch.setattr(SceneSource, "read", (lambda old: lambda *a: read.append(a) or old(*a))(SceneSource.read))
    parts = predict_map(model, scene, probabilities=True)
    assert len(read) == 9 * len(model.modalities) and max(a[2].stop - a[2].start for a in read) == 20
    np.testing.assert_array_equal(parts["land_cover"], whole["land_cover"])
    np.testing.assert_allclose(parts["probability"], whole["probability"], atol=1e-5)


def test_a_map_has_the_place_of_the_scene_and_the_classes_of_the_model(kept):
    scene, _, _, model, _ = kept
    cover = predict_map(model, scene.assign_attrs(class_names=json.dumps(CLASSES[::-1])))
    for name in ("x", "y", "spatial_ref"):
        xr.testing.assert_identical(cover[name].variable, scene[name].variable)
    assert json.loads(cover.attrs["class_names"]) == CLASSES and cover.attrs["grid_mapping"] == "spatial_ref"
    area = scene[["hsi", "sar"]].drop_attrs(deep=False).drop_vars(["x", "y", "spatial_ref"])  # labels of nobody
    np.testing.assert_array_equal(predict_map(model, area), cover)


def _shift(scene, nm):
    return scene.assign_coords(wavelength=("hsi_band", scene["wavelength"].values + nm, {"units": "nm"}))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.isel(hsi_band=[0, 1, 2, 3, 5, 4]), r"hsi: expected.*order.*isel\(hsi_band=\[0, 1, 2, 3, 5, 4\]\)"),
        (lambda s: s.isel(sar_band=[1, 0]), r"sar: .*\['VH', 'VV'\].*isel\(sar_band=\[1, 0\]\)"),
        (lambda s: _shift(s, 60), "hsi: expected the wavelengths.*6 of 6 bands, first 510.0 nm instead of 450.0 nm"),
        (lambda s: s.isel(hsi_band=slice(5)), "'hsi': 6.*got.*'hsi': 5"),
        (lambda s: s.rename(sar="dsm", sar_band="dsm_band"), "expected modalities and bands.*'sar': 2.*got.*'dsm': 2"),
    ],
)
def test_other_sensors_are_refused_in_words(kept, change, message):
    with pytest.raises(PrsaError, match=message) as error:
        predict_map(kept[3], change(kept[0]))
    assert len(str(error.value)) <= 900


@pytest.mark.parametrize("other", [None, (1, 2), {}])
def test_what_is_no_model_or_no_scene_is_said(other, kept, tmp_path):
    for call in (lambda: predict_map(other, kept[0]), lambda: save_model(other, tmp_path / "m"),
                 lambda: land_cover(other, kept[0], tmp_path / "map.tif")):  # fmt: skip
        with pytest.raises(PrsaError, match="expected a model.*run, model = prsa.fit"):
            call()
    for call in (lambda: predict_map(kept[3], other), lambda: land_cover(kept[3], other, tmp_path / "map.tif")):
        with pytest.raises(PrsaError, match="expected a (scene|raster)"):
            call()


def test_wavelengths_of_the_same_sensor_elsewhere_are_taken(kept):
    scene, model = kept[0], kept[3]
    xr.testing.assert_equal(predict_map(model, _shift(scene, 3)).variable, predict_map(model, scene).variable)


@pytest.mark.parametrize("factor", [1e-4, 1, 1e4])
def test_values_in_another_unit_are_a_warning(factor, kept):
    scene = kept[0].assign(hsi=kept[0]["hsi"] * factor)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        predict_map(kept[3], scene)
    assert [str(w.message)[:4] for w in found if "another unit" in str(w.message)] == ["hsi:"] * (factor != 1)


# Models as files


@pytest.mark.parametrize("method", [m for m, settings in METHODS.items() if "classifier" not in settings] + ["hsi"])
def test_a_saved_model_draws_the_same_map(method, tmp_path):
    scene = placed(make_scene())
    split = split_scene(scene, "blocks", radius=2)
    run, model = fit(scene, method, split, preset="quick", **SMALL | {"epochs": 1})
    path = save_model(model, tmp_path / "model.safetensors")
    back = load_model(path)
    xr.testing.assert_identical(predict_map(back, scene, True), predict_map(model, scene, True))
    assert path.read_bytes() == save_model(back, tmp_path / "again.safetensors").read_bytes()
    assert back.config == model.config and back.classes == CLASSES and not back.training and list(tmp_path.iterdir())
    card, counts = back.card, run["confusion"].sel(head="fused", part="test").values
    assert (card["method"], card["scene"]["name"]) == (method, "tiny") and card["split"]["hash"] == split.attrs["hash"]
    assert card["test"]["pixels"] == counts.sum() and card["test"]["OA"] == counts.trace() / counts.sum()
    assert card["modalities"]["hsi"]["wavelength_nm"] == scene["wavelength"].values.tolist()
    np.testing.assert_array_equal(card["modalities"]["hsi"]["mean"], model.statistics()["hsi"][0])


def _header(path, change):
    """Write the file again with a changed header, its hash included."""
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["prsa"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(header)
    header["sha256"] = saved._digest(header, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"prsa": json.dumps(header)}))


HARM = {  # what happens to the file, and what its reader is told
    "gone": (lambda p: p.unlink(), "got no such file"),
    "empty": (lambda p: p.write_bytes(b""), "cannot read.*incomplete or damaged"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot read.*incomplete or damaged"),
    "picture": (lambda p: p.write_bytes(b"\x89PNG" * 999), "cannot read.*another kind of file"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "cannot read"),
    "foreign": (lambda p: p.write_bytes(safetensors.torch.save({"a": torch.ones(3)})), "of another program"),
    "version": (
        lambda p: _header(p, lambda h: h.update(format="prsa-model-9")),
        "'prsa-model-9' where.*'prsa-model-1'",
    ),
    "setting": (lambda p: _header(p, lambda h: h["config"].update(deep=3)), "unknown setting 'deep'"),
    "less": (lambda p: _header(p, lambda h: h["config"].pop("width")), "settings are missing"),
    "width": (lambda p: _header(p, lambda h: h["config"].update(width=7)), "other tensors"),
    "huge": (lambda p: _header(p, lambda h: h["config"].update(width=10**9)), "fit no network"),
    "patch": (lambda p: _header(p, lambda h: h["config"].update(patch=10**9 + 1)), "windows too large"),
    "code": (lambda p: _header(p, lambda h: h["config"].update(network="os:system")), "may not choose what code runs"),
    "card": (lambda p: _header(p, lambda h: h["card"]["modalities"].pop("sar")), "fit no network"),
    "nothing": (lambda p: _header(p, dict.clear), "KeyError"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_harmed_model_is_one_clear_error(harm, kept, tmp_path):
    path = shutil.copy(kept[4] / "model.safetensors", tmp_path / "m.safetensors")
    HARM[harm][0](path)
    with pytest.raises(PrsaError, match=HARM[harm][1]) as error:
        load_model(path)
    assert len(str(error.value)) <= 900


def test_one_byte_flipped_anywhere_is_seen(kept, tmp_path):
    good, path = (kept[4] / "model.safetensors").read_bytes(), tmp_path / "m.safetensors"
    for place in [*range(8), *np.linspace(8, len(good) - 1, 40).astype(int)]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(PrsaError):
            load_model(path)


def test_what_cannot_be_saved_says_why(tmp_path, kept):
    forest = fit(kept[0], "rf", kept[1], preset="quick")[1]
    for model, message in ((forest, "classical classifier.*fit it again"), (trained()[1], "attribute card")):
        with pytest.raises(PrsaError, match=message):
            save_model(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_runs_of_a_study_keep_their_models_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    scene = str(save_scene(make_scene(), tmp_path / "tiny.nc"))
    small = tuple(sorted((SMALL | {"epochs": 1}).items()))
    specs = [RunSpec(scene, "concat", 0, "quick", small), RunSpec(scene, "rf", 0, "quick", (("patch", 5),))]
    plan = Plan([scene], 1, [], "quick")
    first, forest = execute.run(plan, specs, 1)
    assert not execute.model_path(first).exists()
    (run,) = plan.open(specs[:1])
    assert execute.run(plan, specs, 1, keep_models=True) == [first, forest]
    assert not execute.model_path(forest).exists()
    cover = predict_map(load_model(execute.model_path(first)), plan.scenes["tiny"])
    np.testing.assert_array_equal(cover, run["map"])
    xr.testing.assert_identical(plan.open(specs[:1])[0].drop_attrs(), run.drop_attrs())
    execute.run(plan, specs, 1, keep_models=True, executor=None)  # nothing is missing


# Maps as files

STRANGER = """
import sys, json, rasterio
with rasterio.open("land_cover.tif") as file:
    assert (file.count, file.dtypes, file.nodata) == (1, ("uint8",), 0)
    assert file.crs.to_epsg() == 32718 and tuple(file.transform)[:6] == (10, 0, 400000, 0, -10, 5700000)
    assert json.loads(file.tags()["class_names"]) == ["water", "forest", "field", "roof"]
    assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and file.descriptions == ("land cover",)
    table, values = file.colormap(1), file.read(1)
    assert [table[k] for k in (0, 1, 4)] == [(0, 0, 0, 0), (255, 0, 128, 255), (0, 0, 255, 255)]
    assert values.shape == (40, 48) and set(values.ravel()) <= {0, 1, 2, 3, 4} and (values[12:15, 20:30] == 0).all()
assert not any(name.startswith("prsa") for name in sys.modules)
"""


def test_a_stranger_opens_the_map(kept, tmp_path):
    colours = ["#ff0080", (0, 1, 0), (0.5, 0.5, 0.5), "#0000FF"]
    land_cover(kept[3], kept[0], tmp_path / "land_cover.tif", colours=colours)
    subprocess.run([sys.executable, "-I", "-W", "error", "-c", STRANGER], cwd=tmp_path, check=True)
    if shutil.which("gdalinfo"):
        told = subprocess.run(["gdalinfo", "land_cover.tif"], cwd=tmp_path, capture_output=True, text=True).stdout
        assert "Warning" not in told
        for expected in ("LAYOUT=COG", "Categories:\n      0: no data\n      1: water\n", "1: 255,0,128,255"):
            assert expected in told


def test_rasters_on_disk_give_the_pixels_of_the_scene_in_memory(kept, tmp_path):
    scene, split, run, model, folder = kept
    expected = predict_map(model, scene, probabilities=True)
    rasters, done = {m: folder / f"{m}.tif" for m in ("hsi", "sar")}, []
    for name, source in (("disk", rasters), ("memory", scene)):
        land_cover(model, source, tmp_path / f"{name}.tif", True, True, on_part=lambda *n: done.append(n))
        for suffix, values in (("", expected.land_cover), ("_confidence", expected.confidence), ("_probability", None)):
            with rasterio.open(tmp_path / f"{name}{suffix}.tif") as file:
                values = expected.probability if values is None else values
                np.testing.assert_array_equal(file.read().squeeze(), values.values)
                assert file.crs == UTM and file.transform == NORTH_UP
                assert suffix == "" or np.isnan(file.nodata)
                assert suffix != "_probability" or file.descriptions == tuple(CLASSES)
    assert done == [(1920, 1920)] * 2
    table = pd.read_csv(tmp_path / "area.csv").set_index(["map", "class"])
    assert len(table) == 12
    counts, memory = run["confusion"].sel(head="fused", part="test").values, table.loc["memory.tif"]
    assert memory["test_pixels"].tolist() == [*counts.sum(0), counts.sum(), 0]
    assert memory.loc["no data", ["pixels", "area_ha"]].tolist() == [30, 0.3]
    assert np.isnan(table.loc[("disk.tif", "water"), "users_accuracy"])
    land_cover(model, rasters, tmp_path / "disk.tif")
    assert len(pd.read_csv(tmp_path / "area.csv")) == 12 and not (tmp_path / "disk_confidence.tif").exists()


@pytest.mark.parametrize("south_up", [False, True])
def test_real_rasters_keep_their_place(south_up, tmp_path):
    folder = Path(os.environ.get("PRSA_REAL_RASTERS", ""), "para")
    if not (folder / "sentinel2.tif").is_file():
        pytest.skip("no para/sentinel2.tif: set PRSA_REAL_RASTERS to a folder with the real rasters")
    files = {"ms": folder / "sentinel2.tif", "dem": folder / "srtm.tif"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few polygons
        scene = scene_from_rasters(files, folder / "training_polygons.geojson", "class")
    model = fit(scene, "prsanet", preset="quick", **SMALL | {"epochs": 1, "patch": 3})[1]
    turned = scene.isel(y=slice(None, None, -1)) if south_up else scene
    table = land_cover(model, turned, tmp_path / "map.tif")
    with rasterio.open(files["ms"]) as given, rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs == given.crs and file.transform.almost_equals(given.transform, 1e-12)
        if not south_up:
            land_cover(model, files, tmp_path / "disk.tif")
            np.testing.assert_array_equal(rasterio.open(tmp_path / "disk.tif").read(), file.read())
        np.testing.assert_array_equal(file.read(1), predict_map(model, turned).sortby("y", ascending=False))
    assert table["area_ha"].iloc[4] == pytest.approx(237 * 247 * 0.00993, rel=1e-2)  # 10 m less 1 % in degrees


KILLED = """
import os, signal, sys, prsa, xarray as xr
from prsa.mapping import land_cover
model = prsa.load_model(sys.argv[1] + "/model.safetensors")
rasters = {m: f"{sys.argv[1]}/{m}.tif" for m in ("hsi", "sar")}
land_cover(model, rasters, sys.argv[2] + "/map.tif", on_part=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_nothing_half_written_has_the_name_of_a_map(kept, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        land_cover(kept[3], kept[0], tmp_path / "map.tif", True, True, on_part=stop)
    assert not list(tmp_path.iterdir())
    command = [sys.executable, "-c", KILLED, kept[4], tmp_path]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert all(re.fullmatch(r"\..*\.tmp", path.name) for path in tmp_path.iterdir())  # what `files.sweep` removes
    land_cover(kept[3], kept[0], tmp_path / "map.tif")


@pytest.mark.parametrize(
    "name, how, message",
    [
        ("map.nc", {}, "ends in .tif.*map.tif"),
        ("map.tif", {"colours": ["#ffffff"]}, "expected 4, one per class"),
        ("map.tif", {"colours": ["red"] * 4}, "'#rrggbb'"),
        ("file/map.tif", {}, "cannot write.*a file or broken link stands"),
    ],
)
def test_a_map_that_cannot_be_written_says_why(name, how, message, kept, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PrsaError, match=message):
        land_cover(kept[3], kept[0], tmp_path / name, **how)
    (tmp_path / "area.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PrsaError, match="area.csv: expected areas"):
        land_cover(kept[3], kept[0], tmp_path / "map.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["area.csv", "file"]


def test_a_scene_without_a_place_and_one_with_a_wrong_system(kept, tmp_path):
    plain = kept[0].drop_vars(["x", "y", "spatial_ref"])
    table = land_cover(kept[3], plain, tmp_path / "map.tif")
    assert table["pixels"].iloc[4:].tolist() == [1890, 30] and table["area_ha"].isna().all()
    assert "adjusted_ha" not in table and table["users_accuracy"].iloc[4] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        assert rasterio.open(tmp_path / "map.tif").crs is None
    wrong = kept[0].assign_coords(spatial_ref=((), 0, {"crs_wkt": "PROJCRS[...]"}))
    with pytest.raises(PrsaError, match="coordinate reference system that GDAL knows.*write_crs"):
        land_cover(kept[3], wrong, tmp_path / "map.tif")


# Areas


def test_areas_are_those_of_the_worked_example():
    """Olofsson et al. 2014, section 5, table 8: 10 million pixels of 30 m; deforestation 21,158 +- 6,158 ha."""
    counts = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
    found = adjusted(counts, np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09)
    half = {key: 1.96 * value for key, value in found.items() if key.endswith("_se")}
    np.testing.assert_allclose(found["area"], [21_158, 11_686, 285_770, 581_386], atol=1)
    np.testing.assert_allclose(half["area_se"], [6_158, 3_756, 15_510, 16_282], atol=1)
    for key, values, errors in (
        ("users", [0.88, 0.73, 0.93, 0.96], [0.07, 0.10, 0.04, 0.02]),
        ("producers", [0.75, 0.85, 0.93, 0.96], [0.21, 0.25, 0.03, 0.02]),
        ("overall", 0.95, 0.02),
    ):
        np.testing.assert_array_equal(np.round(found[key], 2), values)
        np.testing.assert_array_equal(np.round(half[f"{key}_se"], 2), errors)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, areas = np.random.default_rng(0), np.array([50.0, 300.0, 650.0])
    share = np.array([[0.8, 0.15, 0.05], [0.05, 0.9, 0.05], [0.02, 0.08, 0.9]])
    truth, inside = areas @ share, 0
    for _ in range(1000):
        found = adjusted(np.stack([rng.multinomial(400, p) for p in share]), areas)
        inside += np.abs(found["area"] - truth) < 1.96 * found["area_se"]
    assert (np.abs(inside / 1000 - 0.95) < 0.03).all()


def test_a_mapped_class_without_test_pixels_leaves_areas_open():
    found = adjusted(np.array([[5, 1, 0], [0, 7, 2], [0, 0, 0]]), np.array([10.0, 20.0, 5.0]))
    assert np.isnan(found["area"]).all() and np.isnan(found["overall"]) and found["users"][0] == 5 / 6
    unmapped = adjusted(np.array([[5, 1, 0], [0, 7, 2], [0, 0, 0]]), np.array([10.0, 20.0, 0.0]))
    assert unmapped["area"].sum() == pytest.approx(30) and unmapped["area"][2] == pytest.approx(20 * 2 / 9)


def test_pixels_are_measured_where_they_lie():
    hectares, basis = pixel_areas(NORTH_UP, UTM, (3, 4))
    np.testing.assert_allclose(hectares, 0.01)
    assert basis == "the plane of the map's projection"
    half_degrees = Affine(0.5, 0, -180, 0, -0.5, 90)
    globe, basis = pixel_areas(half_degrees, CRS.from_epsg(4326), (360, 720))
    assert 720 * globe.sum() == pytest.approx(51_006_562_172, rel=1e-5)  # of WGS 84, in hectares
    assert basis == "the ellipsoid, row by row"
    mercator = pixel_areas(Affine(10, 0, 0, 0, -10, 8_399_738), CRS.from_epsg(3857), (2, 2))[0]  # 60 degrees north
    np.testing.assert_allclose(mercator, 0.01 * 0.5**2, rtol=0.01)
    assert np.isnan(pixel_areas(NORTH_UP, None, (2, 2))[0]).all()
