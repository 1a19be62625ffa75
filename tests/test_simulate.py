"""The simulated scenes are frozen, deterministic, honest to their statistics and free of leaks."""

import dataclasses
import hashlib
import json
import time

import numpy as np
import pytest
from scipy import ndimage

from prsa.data import landscape
from prsa.data import simulate as sim
from prsa.data.scene import check_scene, modalities
from prsa.errors import PrsaError

SCENES = {kind: sim.simulate(kind) for kind in sim.EMBEDDED}
KINDS = pytest.mark.parametrize("kind", sim.EMBEDDED)
SENSORS = {
    "sim-sar": {"hsi": 60, "sar": 2},
    "sim-lidar": {"hsi": 60, "lidar": 2},
    "sim-tri": {"hsi": 60, "sar": 2, "dsm": 1},
}

# Frozen: a change here is a change of the study's data and asks for every result again.
RASTERS = {
    "sim-sar": "c2abc89dad46d0cb947598a9bab37123ccfe5fa974bd853174738b44b269e1c3",
    "sim-lidar": "fad0bf127ce21bcd85e3cc149195cc7fdeea271591bec2315d1b79369c715e86",
    "sim-tri": "ed2df1006ca243552bd998c18f6dfb4e026c126c1b7e34631c19c80a350cb3fb",
}
PARAMETERS = {
    "sim-sar": "d51f76f7ab82add2b3ecc3767e681c9c6f808d2bf076d98631eee3f3d11cc1ed",
    "sim-lidar": "5d1d739b0a6f73635c68128724517d67ed18a3d9a41d5cadb4ca4c3569b9d43a",
    "sim-tri": "b0cd13c268bdcbe44617107175572730504c8d24de8c5d85563e8d24a24e2421",
}
MOMENTS = {  # see moments(): rows are bands
    "sim-sar": {
        "hsi": [
            [0.064785, 0.035157, 0.072892, 0.048988],
            [0.11774, 0.067479, 0.16896, 0.080661],
            [0.18649, 0.11317, 0.26714, 0.12134],
        ],
        "sar": [[-13.77, 5.7048, -13.768, 5.4871], [-20.104, 5.6598, -20.498, 5.5333]],
    },
    "sim-lidar": {
        "hsi": [
            [0.078946, 0.053821, 0.072555, 0.048748],
            [0.1692, 0.086036, 0.1679, 0.079666],
            [0.25896, 0.12808, 0.27543, 0.12344],
        ],
        "lidar": [[2.1194, 3.902, 2.427, 4.5193], [0.27338, 0.16892, 0.29246, 0.17013]],
    },
    "sim-tri": {
        "hsi": [
            [0.065303, 0.041466, 0.074555, 0.040822],
            [0.15025, 0.074985, 0.14164, 0.077882],
            [0.24432, 0.12516, 0.21848, 0.12324],
        ],
        "sar": [[-13.281, 5.4157, -13.776, 5.3853], [-19.771, 5.5218, -20.598, 5.5414]],
        "dsm": [[0.9048, 5.1865, 4.1678, 5.3196]],
    },
}


def parts(scene):
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


@KINDS
def test_scene_seed_0_is_frozen(kind):
    scene = SCENES[kind]
    assert parameters_hash(kind) == PARAMETERS[kind]
    assert rasters_hash(scene) == RASTERS[kind]
    for name in modalities(scene):
        np.testing.assert_allclose(moments(scene, name), MOMENTS[kind][name], rtol=2e-3, atol=2e-4)


@KINDS
def test_a_seed_gives_one_scene_and_another_seed_another(kind):
    again, other = sim.simulate(kind, 0), sim.simulate(kind, 1)
    assert again.identical(SCENES[kind])
    for name in ("label", *SENSORS[kind]):
        assert not np.array_equal(other[name].values, SCENES[kind][name].values)


@KINDS
def test_contract(kind):
    scene = check_scene(SCENES[kind])
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


@KINDS
@pytest.mark.parametrize("seed", [9, 119])
def test_every_class_in_every_area_and_no_shared_window(kind, seed):
    scene = sim.simulate(kind, seed)
    area = parts(scene)
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
    looks, texture = sim.looks_at(radar, dial), landscape.SOIL.grain
    expected = np.sqrt((1 + 1 / looks) * (1 + 1 / texture) - 1)  # product model: speckle times texture
    for band, decibel in zip(linear, (landscape.SOIL.vv, landscape.SOIL.vh)):
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
    """Distance between training and test means of the spectra, averaged over classes, in units of the sd within training."""
    label, hsi, area = scene["label"].values, scene["hsi"].values, parts(scene)
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


@KINDS
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


def test_names():
    assert sim.parse_name("sim-sar") == ("sim-sar", 0, None)
    assert sim.parse_name("sim-tri:12") == ("sim-tri", 12, None)
    assert sim.parse_name("sim-sar:3:0.5") == ("sim-sar", 3, 0.5)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sim",
        "sim-sarr",
        "sim-sar:",
        "sim-sar:x",
        "sim-sar:-1",
        "sim-sar:1.5",
        "sim-sar:1:",
        "sim-sar:1:a",
        "sim-sar:1:1.5",
        "sim-sar:1:-0.1",
        "sim-sar:1:nan",
        "sim-sar:1:0.5:2",
        "sim-sar:\u00b2",
        None,
    ],
)
def test_bad_names(name):
    with pytest.raises(PrsaError, match="expected|Expected"):
        sim.parse_name(name)


@pytest.mark.parametrize(
    "arguments",
    [("sim-x",), ("sim-sar", -1), ("sim-sar", 0.5), ("sim-sar", "one"), ("sim-sar", 0, 2.0), ("sim-sar", 0, None, 40)],
)
def test_bad_arguments(arguments):
    with pytest.raises(PrsaError, match="expected|Expected"):
        sim.simulate(*arguments)


def test_a_scene_takes_about_a_second():
    start = time.process_time()
    sim.simulate("sim-tri", 5)
    assert time.process_time() - start < 5  # generous: shared machines
