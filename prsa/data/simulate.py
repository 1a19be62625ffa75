"""Three simulated scenes of different sensors over one kind of landscape, deterministic by seed; the imbalance dial.

Landscape. A 2 m grid of 160 x 160 pixels: warped Voronoi parcels (fields, woods, shrub, paved lots, built-up blocks),
a stream and roads over rolling terrain; twelve land covers. Three flight lines cross it: training, validation and
test areas, 10 unlabelled pixels apart, so that even 11 x 11 windows of two areas share no pixel. Training labels are
small survey plots (about 130 pixels per class), validation and test areas are mapped wall to wall.

Hyperspectral image (`Optics`; 60 bands, 400-1000 nm, reflectance). A pixel's spectrum is a sloped continuum times
Beer-Lambert absorption by chlorophyll, iron oxide (below 570 nm, 870 nm), leaf water (970 nm) and aluminium (830 nm),
the shape of leaf models such as PROSPECT (Jacquemoud & Baret 1990). Amounts vary by object and pixel. Light is direct
plus blue-rich diffuse; direct light follows the slope of the surface and is cut by cast shadows and clouds. A
Gaussian point-spread function mixes neighbours; noise grows towards both ends of the detector. What atmosphere and
season leave depends on the *condition* c in [0, 1] of a pixel: gain, spectral tilt, haze, residual vapour at 940 nm,
chlorophyll loss (phenology), wetter soil, and the chance of a cloud shadow.

SAR (`Radar`; VV and VH in dB). Backscatter of the cover at 35 degrees, an offset per object (moisture, roughness),
fall-off with the local incidence angle, layover and radar shadow at height steps along range, gamma texture, thermal
noise, and multi-look speckle: intensity times Gamma(L, 1/L), so that its coefficient of variation is 1 / sqrt(L)
(Goodman 1976), independent in VV and VH. One pass at one time: the condition c does not touch it.

Heights (`Laser`). Surface = terrain + gabled or flat roofs + round or conical crowns. The LiDAR samples it with a
Poisson number of pulses per pixel (a pixel without one takes the nearest), reports the height above a ground model,
whose error grows as ground returns get scarce, and the intensity at the last wavelength. The DSM of ``sim-tri`` is
the surface itself with noise, terrain included.

The imbalance dial d in [0, 1], one mechanism per scene:
``sim-sar``, ``sim-tri``  How far the condition goes with the area: c = d a + (1 - d) u, where a is 0 in the training,
    0.5 in the validation and 1 in the test area, and u is a smooth field, uniform on [0, 1] everywhere. At 0 every
    area holds all conditions: harder to fit, but what is learnt carries over. At 1 training saw only c = 0: easy to
    fit, brittle. The looks of the SAR fall with it, from `Radar.looks` to `Radar.looks_strong`, geometrically.
``sim-lidar``  Pulses per pixel fall geometrically from `Laser.pulses` to `Laser.pulses_strong`: from a LiDAR that is
    informative alone to one that still tells a roof from a road. The condition stays a smooth field in all areas.

Seeds 0-9 are for evaluation, 100-119 for development. Parameters were set from the sensors' usual ranges and adjusted
on development seeds to the two regimes, with concatenation and single branches only. All numbers are ours.
"""

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import ndimage

from ..errors import PrsaError
from .landscape import CODE, GAP, NAMES, PIXEL, Landscape, cover_table, make_landscape, ranks, smooth_field, stream_key
from .scene import SCHEMA
from .splits import VAL

WAVELENGTH = np.linspace(400.0, 1000.0, 60)  # nm


@dataclass(frozen=True)
class Optics:
    """Hyperspectral image; the drift entries are their values at condition c = 1."""

    spread: float = 0.06  # sd of log amounts (brightness, pigments) between objects of a cover
    cover_sd: float = 0.04  # sd of the covered fraction between vegetated objects
    blur: float = 0.7  # px, sd of the point-spread function
    noise: float = 0.004  # reflectance, sd in the middle of the detector; three times as much at its ends
    sun: float = 50.0  # degrees, solar elevation
    gain: float = -0.08  # log gain: lower sun, imperfectly corrected
    tilt: float = 0.06  # log gain difference from 700 to 1000 nm; its sign is drawn per scene
    haze: float = 0.015  # reflectance offset at 450 nm
    vapour: float = 0.10  # optical depth left at 940 nm
    season: float = 0.25  # relative loss of chlorophyll
    wetness: float = 0.20  # relative darkening of soil
    clouds: float = 0.40  # fraction of pixels in cloud shadow
    cloud_depth: float = 0.65  # share of direct light a cloud takes


@dataclass(frozen=True)
class Radar:
    """SAR image."""

    looks: float = 12.0  # equivalent number of looks at dial 0
    looks_strong: float = 2.0  # at dial 1
    spread: float = 0.6  # dB, sd between objects of a cover, in each polarisation
    near: float = 34.0  # degrees, incidence at near range (first row)
    far: float = 37.0  # degrees, at far range (last row)
    bounce: float = 3.0  # gain of a wall facing the sensor, per 5 m of step
    floor: float = -30.0  # dB, thermal noise


@dataclass(frozen=True)
class Laser:
    """LiDAR or photogrammetric heights."""

    pulses: float = 8.0  # per pixel at dial 0
    pulses_strong: float = 0.12  # per pixel at dial 1
    noise: float = 0.15  # m, ranging error of a pulse (LiDAR) or matching error of a pixel (DSM)
    ground: float = 0.8  # m, sd of the ground model's error at one pulse per pixel; grows as 1 / sqrt(pulses)
    strength: float = 0.35  # sd of the log intensity of a pulse (footprint, incidence)


# Less drift, the same in all areas.
ONE_FLIGHT = dataclasses.replace(
    Optics(0.13, 0.08), noise=0.006, gain=-0.04, tilt=0.03, haze=0.008, vapour=0.05, season=0.10, clouds=0.05
)


@dataclass(frozen=True)
class SimSar:
    """HSI + SAR: imbalance by optimisation."""

    dial: float = 0.8  # default setting
    title: str = "Simulated hyperspectral image and two-band SAR"
    landscape: Landscape = Landscape()
    optics: Optics = Optics()
    radar: Radar = Radar()


@dataclass(frozen=True)
class SimLidar:
    """HSI + LiDAR: imbalance by information."""

    dial: float = 0.8  # default setting
    title: str = "Simulated hyperspectral image and LiDAR"
    landscape: Landscape = Landscape()
    optics: Optics = ONE_FLIGHT
    laser: Laser = Laser()


@dataclass(frozen=True)
class SimTri:
    """HSI + SAR + DSM: between the two."""

    dial: float = 0.7  # default setting
    title: str = "Simulated hyperspectral image, two-band SAR and surface model"
    landscape: Landscape = Landscape()
    optics: Optics = Optics()
    radar: Radar = Radar()
    laser: Laser = Laser(noise=0.4)  # photogrammetric surface


CONFIGS = {"sim-sar": SimSar(), "sim-lidar": SimLidar(), "sim-tri": SimTri()}
EMBEDDED = tuple(CONFIGS)


def parse_name(name: str) -> tuple[str, int, float | None]:
    """``"sim-sar:3:0.5"`` -> ``("sim-sar", 3, 0.5)``; left out: seed 0, the own dial (None). Raises `PrsaError`."""
    kind, *rest = str(name).split(":")
    form = f"expected KIND, KIND:SEED or KIND:SEED:DIAL with KIND one of {', '.join(EMBEDDED)}, got {name!r}"
    if kind not in EMBEDDED or len(rest) > 2:
        raise PrsaError(f"unknown scene: {form}. Check the name.")
    seed = rest[0] if rest else "0"
    if not (seed.isascii() and seed.isdigit()):
        raise PrsaError(f"bad scene seed: {form}. SEED is a whole number, 0 or more.")
    try:
        dial = float(rest[1]) if len(rest) == 2 else None
    except ValueError:
        raise PrsaError(f"bad dial: {form}. DIAL is a number between 0 and 1.") from None
    _check_dial(dial)
    return kind, int(seed), dial


def simulate(kind: str, seed: int = 0, dial: float | None = None, size: int = 160) -> xr.Dataset:
    """A simulated scene, ``prsa-scene-1``, with fixed ``split`` and ``validation``.

    Parameters: ``kind`` one of `EMBEDDED`; ``seed`` 0 or more; ``dial`` imbalance, 0 to 1 (None: the kind's own);
    ``size`` side of the grid in pixels, 120 or more. The same seed at another dial has the same landscape.
    Modalities, (band, y, x): ``hsi`` 60 reflectances; ``sar`` 2 in dB; ``lidar`` m and an intensity; ``dsm`` m.
    Raises `PrsaError` for an unknown kind or a value out of range. Source: ours, see the module's text.
    """
    if kind not in CONFIGS:
        raise PrsaError(f"unknown simulated scene {kind!r}. Expected one of {', '.join(EMBEDDED)}.")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise PrsaError(f"expected a scene seed that is a whole number, 0 or more, got {seed!r}. Example: {kind}:3.")
    if size < 120:
        raise PrsaError(f"expected a size of 120 pixels or more, got {size}. Smaller areas do not hold every class.")
    _check_dial(dial)
    config, seed = CONFIGS[kind], int(seed)
    setting = config.dial if dial is None else float(dial)
    land = make_landscape(config.landscape, kind, seed, size)
    optics_rng, radar_rng, laser_rng = (np.random.default_rng([*stream_key(kind, seed), n]) for n in (1, 2, 3))
    by_area = 0.0 if kind == "sim-lidar" else setting
    reflectance = _optics(config.optics, land, by_area, optics_rng)
    data = {"hsi": (reflectance, "hyperspectral", "reflectance", "1")}
    if kind in ("sim-sar", "sim-tri"):
        data["sar"] = _radar(config.radar, land, setting, radar_rng), "sar", "backscatter, VV and VH", "dB"
    if kind == "sim-lidar":
        heights = _lidar(config.laser, land, reflectance[-1], setting, laser_rng)
        data["lidar"] = heights, "lidar", "height above ground (m) and intensity", "m, 1"
    if kind == "sim-tri":
        surface = land["terrain"] + land["height"] + config.laser.noise * laser_rng.standard_normal((size, size))
        data["dsm"] = surface[None], "dsm", "surface elevation", "m"
    label, area = land["label"], land["area"]
    rasters = {}
    for name, (values, form, text, units) in data.items():
        attrs = {"kind": form, "long_name": text, "units": units}
        rasters[name] = (f"{name}_band", "y", "x"), values.astype(np.float32), attrs
    rasters["label"] = ("y", "x"), label.astype(np.int16)
    rasters["split"] = ("y", "x"), np.choose(area * (label > 0), [0, 1, 1, 2]).astype(np.int8)
    rasters["validation"] = ("y", "x"), ((area == VAL) & (label > 0)).astype(np.int8)
    return xr.Dataset(
        rasters,
        coords={"hsi_band": np.arange(WAVELENGTH.size), "wavelength": ("hsi_band", WAVELENGTH, {"units": "nm"})},
        attrs={
            "schema": SCHEMA,
            "name": scene_name(kind, seed, dial),
            "title": f"{config.title} (seed {seed}, dial {setting:g})",
            "class_names": json.dumps(NAMES),
            "license": "CC0-1.0",
            "citation": "Simulated by prsa.simulate",
            "simulated": 1,
            "seed": seed,
            "dial": setting,
        },
    )


def scene_name(kind: str, seed: int, dial: float | None) -> str:
    """The short name `parse_name` reads; a dial equal to the kind's default is left out."""
    if dial is not None and float(dial) != CONFIGS[kind].dial:
        return f"{kind}:{seed}:{dial:g}"
    return f"{kind}:{seed}" if seed else kind


def looks_at(radar: Radar, dial: float) -> float:
    """Equivalent number of looks at a dial setting."""
    return radar.looks ** (1 - dial) * radar.looks_strong**dial


def pulses_at(laser: Laser, dial: float) -> float:
    """LiDAR pulses per pixel at a dial setting."""
    return laser.pulses ** (1 - dial) * laser.pulses_strong**dial


def speckle(intensity: np.ndarray, looks: float, rng: np.random.Generator) -> np.ndarray:
    """Fully developed speckle on intensity: mean kept, coefficient of variation 1 / sqrt(looks), Goodman 1976."""
    return intensity * rng.gamma(looks, 1 / looks, intensity.shape)


def _check_dial(dial):
    if dial is not None and not 0 <= dial <= 1:  # NaN fails too
        raise PrsaError(f"expected a dial between 0 (balanced) and 1 (strongly imbalanced), got {dial}. Example: 0.5.")


def _gauss(centre, width):
    return np.exp(-0.5 * ((WAVELENGTH - centre) / width) ** 2)


CHLOROPHYLL = 1.0 * _gauss(435, 45) + 0.6 * _gauss(490, 28) + 0.28 * _gauss(570, 55)
CHLOROPHYLL += 0.45 * _gauss(635, 28) + 0.75 * _gauss(676, 20)
IRON = 1 / (1 + np.exp((WAVELENGTH - 570) / 25)) + 0.25 * _gauss(870, 45)
DIFFUSE = 0.08 + 0.20 * (WAVELENGTH / 450) ** -3.0  # share of sky light on flat ground in the sun
HAZE = (WAVELENGTH / 450) ** -1.6


def _spectrum(cover, thing_z, chlorophyll_left, spread):
    """Reflectance (N, bands) of pixels: cover codes (N,), object deviates (N, 3), chlorophyll left (N,)."""

    def amount(field):
        return cover_table(field)[cover][:, None]

    bright, pigment = np.exp(spread * thing_z[:, :1]), np.exp(spread * thing_z[:, 1:2])
    run = ((WAVELENGTH - 400) / 600)[None] ** amount("bend")
    continuum = amount("blue") + (amount("nir") - amount("blue")) * run
    depth = amount("chlorophyll") * pigment * chlorophyll_left[:, None] * CHLOROPHYLL + amount("iron") * pigment * IRON
    depth = depth + amount("leaf_water") * _gauss(970, 28) + amount("aluminium") * _gauss(830, 45)
    return bright * continuum * np.exp(-depth)


def _optics(config, land, by_area, rng):
    """Reflectance as delivered, (60, y, x)."""
    cover, thing, size = land["cover"], land["thing"], len(land["cover"])
    target = np.array([0.5, 0.0, 0.5, 1.0])[land["area"]]
    target = ndimage.uniform_filter(target, GAP, mode="nearest") * (land["area"] == 0) + target * (land["area"] > 0)
    condition = by_area * target + (1 - by_area) * ranks(smooth_field(rng, size, 9))
    z = rng.standard_normal((thing.max() + 1, 3))[thing].reshape(-1, 3)
    flat = cover.ravel()
    plants = cover_table("chlorophyll")[flat] > 1
    left = 1 - config.season * condition.ravel()
    pure = _spectrum(flat, z, left, config.spread)
    soil = _spectrum(np.full_like(flat, CODE["bare soil"]), z, left, config.spread)
    soil = soil * (1 - config.wetness * condition.reshape(-1, 1))
    green = np.where(plants, cover_table("green")[flat] + config.cover_sd * z[:, 2], 1.0)
    green = np.where(flat == CODE["bare soil"], 0.0, np.clip(green, 0, 1))[:, None]
    grain = np.exp(cover_table("texture")[cover] * smooth_field(rng, size, 0.6)).reshape(-1, 1)
    reflectance = (grain * (green * pure + (1 - green) * soil)).T.reshape(-1, size, size)

    cloud = ndimage.gaussian_filter((ranks(smooth_field(rng, size, 8)) < config.clouds * condition).astype(float), 1.0)
    direct = _sunlight(config, land) * (1 - config.cloud_depth * cloud)
    light = DIFFUSE[:, None, None] + (1 - DIFFUSE)[:, None, None] * direct
    tilt = config.tilt * rng.choice([-1, 1])
    gain = config.gain + tilt * (WAVELENGTH - 700) / 300 - config.vapour * _gauss(940, 18)
    observed = reflectance * light * np.exp(gain[:, None, None] * condition)
    observed = observed + config.haze * HAZE[:, None, None] * condition
    observed = ndimage.gaussian_filter(observed, (0, config.blur, config.blur))
    noise = config.noise * (1 + 2 * np.abs((WAVELENGTH - 700) / 300) ** 4)
    return observed + noise[:, None, None] * rng.standard_normal(observed.shape)


def _sunlight(config, land):
    """Direct light relative to flat ground, (y, x): cosine of incidence, zero in cast shadow. Sun in the south-east."""
    surface = land["terrain"] + land["height"]
    elevation = math.radians(config.sun)
    toward = np.array([0.8, 0.6])  # rows down, columns right
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(surface, 1.5), PIXEL)
    facing = -(slope_y * toward[0] + slope_x * toward[1])
    cosine = (math.sin(elevation) + math.cos(elevation) * facing) / np.sqrt(1 + slope_y**2 + slope_x**2)
    lit = np.ones_like(surface)
    for step in range(1, 8):
        blocker = ndimage.shift(surface, -step * toward, order=1, mode="nearest")
        lit *= blocker < surface + step * PIXEL * math.tan(elevation) + 0.5
    return np.clip(cosine / math.sin(elevation), 0.1, 1.5) * lit


def _radar(config, land, dial, rng):
    """Backscatter VV, VH in dB, (2, y, x); the sensor looks along the rows."""
    cover, thing, size = land["cover"], land["thing"], len(land["cover"])
    incidence = np.linspace(config.near, config.far, size)[:, None]
    terrain_slope = np.degrees(np.arctan(np.gradient(land["terrain"], PIXEL, axis=0)))
    decay = -cover_table("fall")[cover] * (incidence - terrain_slope - 35)
    step = np.diff(land["height"], axis=0, prepend=land["height"][:1])
    wall = 1 + config.bounce * np.clip(step, 0, 10) / 5
    hidden = np.where(ndimage.minimum_filter1d(step, 2, axis=0) < -3, 0.4, 1.0)
    offsets = config.spread * rng.standard_normal((2, thing.max() + 1))
    shape = cover_table("grain")[cover]
    bands = []
    for name, offset in zip(("vv", "vh"), offsets):
        linear = 10 ** ((cover_table(name)[cover] + decay + offset[thing]) / 10) * wall * hidden
        textured = linear * rng.gamma(shape, 1 / shape) + 10 ** (config.floor / 10)
        bands.append(10 * np.log10(speckle(textured, looks_at(config, dial), rng)))
    return np.stack(bands)


def _lidar(config, land, reflectance, dial, rng):
    """Height above the ground model (m) and intensity, (2, y, x)."""
    size, pulses = len(land["cover"]), pulses_at(config, dial)
    count = rng.poisson(pulses, (size, size))
    mean_of = np.sqrt(np.maximum(count, 1))
    height = land["height"] + config.noise * rng.standard_normal((size, size)) / mean_of
    intensity = np.maximum(reflectance, 0.005) * np.exp(config.strength * rng.standard_normal((size, size)) / mean_of)
    nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    ground = config.ground / math.sqrt(pulses) * smooth_field(rng, size, 6)
    return np.stack([height[tuple(nearest)] - ground, intensity[tuple(nearest)]])


def is_dial(scene: str) -> bool:
    """Whether this is the name of a simulated scene at another dial than its kind's default."""
    return scene.count(":") == 2 and scene.partition(":")[0] in EMBEDDED


def group_of(scene: str) -> str:
    """Name of the group of a scene, by its attribute ``name``."""
    kind = scene.partition(":")[0]
    return kind if kind in EMBEDDED and not is_dial(scene) else scene


def firsts(scenes: Iterable[str]) -> list[str]:
    """The first scene of every group, without the dial, in order."""
    found: dict[str, str] = {}
    for scene in scenes:
        if not is_dial(scene):
            found.setdefault(group_of(scene), scene)
    return list(found.values())
