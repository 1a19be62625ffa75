"""The command prsa: from files to a map as a stranger would check it, and errors as everywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tiny_rasters import box, write, write_shapes

import prsa
from prsa.cli import main
from prsa.figures.places import land_cover_map

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PendingDeprecationWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with ms.tif (4 bands), dem.tif and areas.gpkg: 64 polygons of 3 classes."""
    folder, g = tmp_path_factory.mktemp("place (1)"), np.random.default_rng(0)
    truth = np.kron(g.permutation(np.arange(64) % 3).reshape(8, 8), np.ones((8, 8), int))
    ms = 1000 + 300 * truth + g.normal(0, 90, (4, 64, 64))
    write(folder / "ms.tif", ms.astype(np.int16), nodata=-9999)
    write(folder / "dem.tif", (50 + 5 * truth + g.normal(0, 4, (64, 64))).astype("f4"))
    shapes = [box(8 * c + 1, 8 * r + 1, 8 * c + 7, 8 * r + 7) for r in range(8) for c in range(8)]
    names = np.array(["wood", "lake", "town"])[truth[::8, ::8].ravel()]
    write_shapes(folder / "areas.gpkg", shapes, {"class": names})
    return folder


def files(folder):
    return ["--modality", f"ms={folder}/ms.tif", "--modality", f"dem={folder}/dem.tif"]


@pytest.fixture(scope="module")
def scene(place):
    assert (
        main(["scene", "new", f"{place}/a.nc", *files(place), "--labels", f"{place}/areas.gpkg", "--column", "class"])
        == 0
    )
    return place / "a.nc"


@pytest.fixture(scope="module")
def model(place, scene):
    assert (
        main(
            [
                "fit",
                str(scene),
                "--method",
                "concat",
                "--preset",
                "quick",
                "--device",
                "cpu",
                "--out",
                f"{place}/m.safetensors",
            ]
        )
        == 0
    )
    return place / "m.safetensors"


def check_map(path, raster, names, model, scene):
    """Open a map as a stranger would: rasterio and gdalinfo, and compare it with the map in memory."""
    with rasterio.open(path) as file, rasterio.open(raster) as given:
        assert (
            file.crs == given.crs and file.transform.almost_equals(given.transform, 1e-9) and file.shape == given.shape
        )
        assert file.count == 1 and file.dtypes == ("uint8",) and file.nodata == 0
        cover, colours = file.read(1), file.colormap(1)
    assert len({colours[k][:3] for k in range(1, len(names) + 1)}) == len(names)
    with rasterio.Env():
        rasterio.shutil.copy(path, f"{path}.vrt", driver="VRT")
    text = Path(f"{path}.vrt").read_text(encoding="utf-8")
    assert all(f"<Category>{name}</Category>" in text for name in names)
    if shutil.which("gdalinfo"):
        info = subprocess.run(["gdalinfo", path], capture_output=True, text=True, check=True).stdout
        assert "LAYOUT=COG" in info and "Color Table" in info
        assert all(f"{k}: {name}" in info for k, name in enumerate(names, 1))
    land = prsa.predict_map(prsa.load_model(model), prsa.open_scene(scene))
    assert (cover == land.values).all()
    return cover


def test_from_files_to_a_map(place, scene, model, capsys):
    truth = prsa.open_scene(scene)["label"].values
    assert main(["map", str(model), str(scene), f"{place}/one/map.tif", "--confidence"]) == 0
    assert "all classes" in capsys.readouterr().out
    names = ["lake", "town", "wood"]
    cover = check_map(place / "one" / "map.tif", place / "ms.tif", names, model, scene)
    assert (cover[truth > 0] == truth[truth > 0]).mean() > 0.9
    assert main(["map", str(model), f"{place}/two/map.tif", *files(place)]) == 0
    assert (check_map(place / "two" / "map.tif", place / "ms.tif", names, model, scene) == cover).all()
    left = {p.name for p in (place / "one").iterdir()}
    assert left == {"map.tif", "map.tif.aux.xml", "map.tif.vrt", "map_confidence.tif", "area.csv"}


def test_what_a_scene_holds(scene, capsys):
    assert main(["scene", "show", str(scene)]) == main(["scene", "check", str(scene)]) == 0
    out = capsys.readouterr().out
    assert "EPSG:32718" in out and "lake" in out and "a scene of 3 classes" in out


def test_warnings_are_one_line_each(place, capsys):
    write_shapes(place / "few.gpkg", [box(0, 0, 3, 3)], {"class": np.array(["wood"])})
    assert main(["scene", "new", f"{place}/few.nc", *files(place), "--labels", f"{place}/few.gpkg"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("warning: class 'wood' has") for line in said)


WRONG = {
    "no command": ([], "required"),
    "unknown command": (["draw"], "draw"),
    "unknown option": (["scene", "show", "a.nc", "--colour"], "--colour"),
    "no rasters": (["scene", "new", "new.nc"], "--modality"),
    "no equals sign": (["scene", "new", "new.nc", "--modality", "ms.tif"], "NAME=FILE"),
    "missing raster": (["scene", "new", "new.nc", "--modality", "ms=nowhere.tif"], "nowhere.tif"),
    "not netCDF": (["scene", "new", "new.txt", *files(".")], ".nc"),
    "missing scene": (["scene", "show", "nowhere.nc"], "nowhere.nc"),
    "unknown method": (["fit", "a.nc", "--method", "magic", "--out", "new.safetensors"], "magic"),
    "unknown preset": (["fit", "a.nc", "--preset", "magic", "--out", "new.safetensors"], "magic"),
    "missing model": (["map", "nowhere.safetensors", "a.nc", "new.tif"], "nowhere.safetensors"),
    "a scene as model": (["map", "a.nc", "a.nc", "new.tif"], "prsa.save_model"),
    "no scene": (["map", "m.safetensors", "new.tif"], "--modality"),
    "scene and rasters": (["map", "m.safetensors", "a.nc", "new.tif", *files(".")], "--modality"),
    "other sensors": (["map", "m.safetensors", "new.tif", "--modality", "ms=dem.tif"], "sensors"),
    "no map format": (["map", "m.safetensors", "a.nc", "new.png"], ".tif"),
    "folder that is a file": (["map", "m.safetensors", "a.nc", "ms.tif/new.tif"], "ms.tif"),
    "reproduce": (["reproduce", "--seeds", "0"], "SEEDS"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_is_one_error_and_leaves_nothing(place, scene, model, capsys, monkeypatch, case):
    arguments, words = WRONG[case]
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    assert main(arguments) == 2
    said = capsys.readouterr()
    *_, error = said.err.splitlines()  # a progress bar may have begun
    assert error.startswith("error: ") and words in error and len(error) <= 907 and not said.out
    assert sorted(place.rglob("*")) == before


def test_ctrl_c_ends_with_130_and_leaves_nothing(place, scene, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("prsa.study.fit.fit", interrupt)
    assert main(["fit", str(scene), "--out", f"{place}/stopped.safetensors"]) == 130
    assert "interrupted" in capsys.readouterr().err and not (place / "stopped.safetensors").exists()


def test_help_answers_without_the_heavy_libraries():
    code = "import sys; from prsa.cli import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "prsa map model.safetensors" in done.stdout
    assert not {"numpy", "torch", "xarray", "rasterio", "pandas"} & set(
        done.stdout.split("[")[-1].replace("'", "").split(", ")
    )


def test_the_command_is_installed(scene):
    command = Path(sys.executable).with_name("prsa")
    done = subprocess.run([command, "scene", "check", scene], capture_output=True, text=True)
    assert done.returncode == 0 and "3 classes" in done.stdout


@pytest.mark.parametrize("name, sensors, labels", [
    ("para", {"ms": "sentinel2.tif", "dem": "srtm.tif"}, ["training_polygons.geojson", "--column", "class"]),
    ("chile", {"ms": "S2L2A.tif", "sar": "S1RTC.tif", "dem": "DEM.tif"}, ["LULC.tif", "--classes", "names.csv"]),
])  # fmt: skip
def test_real_places_go_from_files_to_a_map(tmp_path, monkeypatch, name, sensors, labels):
    folder = Path(os.environ.get("PRSA_REAL_RASTERS", ""), name)
    if not os.environ.get("PRSA_REAL_RASTERS") or not folder.is_dir():
        pytest.skip("no rasters of real places: set PRSA_REAL_RASTERS to a folder with them")
    monkeypatch.chdir(tmp_path)
    Path("names.csv").write_text("1,water\n2,trees\n3,flooded vegetation\n4,crops\n5,built area\n9,rangeland\n")
    modalities = [text for m, file in sensors.items() for text in ("--modality", f"{m}={folder / file}")]
    assert main(["scene", "new", "a.nc", *modalities, "--labels", str(folder / labels[0]), *labels[1:]]) == 0
    _, model = prsa.fit(prsa.open_scene("a.nc"), preset="quick", device="cpu", epochs=1, width=8, features=8)
    prsa.save_model(model, "m.safetensors")
    assert (
        main(["map", "m.safetensors", "a.nc", "map.tif"]) == main(["map", "m.safetensors", "b.tif", *modalities]) == 0
    )
    cover = check_map("map.tif", folder / sensors["ms"], model.classes, "m.safetensors", "a.nc")
    with rasterio.open("b.tif") as file:
        assert (file.read(1) == cover).all()


@pytest.mark.parametrize("reference", [True, False])
def test_the_map_is_drawn_over_its_coordinates(scene, model, reference):
    land = prsa.predict_map(prsa.load_model(model), prsa.open_scene(scene))
    land = land if reference else land.drop_vars(["x", "y", "spatial_ref"])
    figure = land_cover_map(land)
    cover, sure = figure.axes[0], figure.axes[1]
    assert cover.get_xlabel() == sure.get_xlabel() == f"x ({'metre' if reference else 'pixels'})"
    image = cover.images[0]
    assert (image.get_array() == land.values).all() and (sure.images[0].get_array() == land["confidence"].values).all()
    assert image.get_extent() == ([700000, 700640, 5699360, 5700000] if reference else [-0.5, 63.5, 63.5, -0.5])
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"lake", "town", "wood"}
