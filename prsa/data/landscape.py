"""The land of the simulated scenes: covers, areas, parcels, buildings, roads, terrain and heights, deterministic by seed. Source: ours.

What the covers look like to the three sensors is part of `Cover`; the sensors themselves are in `prsa.data.simulate`, whose text describes the whole.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import PrsaError

TRAIN, VAL, TEST = 1, 2, 3  # codes of the areas
GAP = 10  # pixels between areas: twice the radius of an 11 x 11 window
PIXEL = 2.0  # m


@dataclass(frozen=True)
class Cover:
    """One land cover as the three sensors see it."""

    name: str
    blue: float  # continuum reflectance at 400 nm
    nir: float  # continuum reflectance at 1000 nm
    bend: float = 1.0  # exponent of the continuum between them: below 1 rises early
    chlorophyll: float = 0.0  # optical depth of the pigment bands
    iron: float = 0.0  # optical depth of the iron oxide bands
    leaf_water: float = 0.0  # optical depth of the 970 nm band
    aluminium: float = 0.0  # optical depth of the 830 nm band
    green: float = 1.0  # fraction of a pixel covered; the rest is soil
    texture: float = 0.05  # sd of log brightness from pixel to pixel
    height: float = 0.0  # m above ground, mean over objects
    height_sd: float = 0.0  # m, between objects
    vv: float = -12.0  # dB at 35 degrees
    vh: float = -20.0  # dB at 35 degrees
    fall: float = 0.12  # dB per degree of incidence: smooth surfaces fall faster than volumes
    grain: float = 20.0  # shape of the gamma texture of backscatter: small is rough


SOIL = Cover("bare soil", 0.07, 0.32, 0.8, iron=0.45, texture=0.07, vv=-12.5, vh=-22.5, fall=0.18)
COVERS = (
    Cover("water", 0.055, 0.012, 0.6, chlorophyll=0.15, texture=0.08, vv=-21.0, vh=-29.0, fall=0.35),
    SOIL,
    Cover("asphalt road", 0.075, 0.135, 0.7, texture=0.06, vv=-18.5, vh=-25.5, fall=0.25),
    Cover("concrete", 0.20, 0.34, 0.5, iron=0.15, texture=0.06, vv=-16.0, vh=-25.0, fall=0.22),
    Cover("bitumen roof", 0.060, 0.105, 0.8, texture=0.06, height=8.0, height_sd=2.5, vv=-9.5, vh=-20.5, grain=6.0),
    Cover(
        "tile roof", 0.17, 0.36, 0.6, iron=1.05, texture=0.08, height=6.0, height_sd=1.2, vv=-7.0, vh=-17.0, grain=6.0
    ),
    Cover(
        "metal roof",
        0.24,
        0.34,
        0.5,
        iron=0.08,
        aluminium=0.10,
        texture=0.07,
        height=7.5,
        height_sd=2.0,
        vv=-3.5,
        vh=-15.0,
        grain=6.0,
    ),
    Cover(
        "grass",
        0.34,
        0.40,
        1.0,
        1.9,
        leaf_water=0.12,
        green=0.80,
        texture=0.06,
        height=0.15,
        height_sd=0.05,
        vv=-14.0,
        vh=-20.5,
        fall=0.12,
    ),
    Cover(
        "crop",
        0.36,
        0.50,
        1.0,
        3.1,
        leaf_water=0.16,
        green=0.78,
        texture=0.06,
        height=0.9,
        height_sd=0.3,
        vv=-10.5,
        vh=-18.0,
        fall=0.08,
    ),
    Cover(
        "shrub",
        0.25,
        0.32,
        1.0,
        2.3,
        leaf_water=0.10,
        green=0.72,
        texture=0.12,
        height=2.6,
        height_sd=0.8,
        vv=-11.5,
        vh=-16.0,
        fall=0.06,
        grain=10.0,
    ),
    Cover(
        "deciduous trees",
        0.32,
        0.44,
        1.0,
        3.4,
        leaf_water=0.14,
        green=0.92,
        texture=0.14,
        height=11.0,
        height_sd=2.5,
        vv=-8.0,
        vh=-13.0,
        fall=0.04,
        grain=8.0,
    ),
    Cover(
        "conifers",
        0.15,
        0.21,
        1.0,
        2.8,
        leaf_water=0.12,
        green=0.92,
        texture=0.15,
        height=14.0,
        height_sd=3.0,
        vv=-9.5,
        vh=-14.5,
        fall=0.04,
        grain=8.0,
    ),
)
NAMES = tuple(cover.name for cover in COVERS)
CODE = {name: k for k, name in enumerate(NAMES, 1)}


@dataclass(frozen=True)
class Landscape:
    """Label map, areas and terrain."""

    parcel: float = 14.0  # px, typical parcel width
    road: float = 4.0  # px, road width
    stream: float = 6.0  # px, stream width
    relief: float = 4.0  # m, sd of the terrain
    shares: tuple = (0.44, 0.14, 0.42)  # width of the training, validation and test areas, gaps not counted
    plot: int = 2  # px, side of a survey plot in the training area
    per_class: int = 130  # labelled training pixels aimed at per class
    fewest: tuple = (50, 15, 60)  # smallest number of pixels of a class per area; else the map is drawn again


def stream_key(kind: str, seed: int) -> list[int]:
    """What starts the random streams of a scene."""
    return [zlib.crc32(kind.encode()), seed]


def smooth_field(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """Smooth Gaussian random field (size, size), zero mean, unit sd, correlation length in pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), length, mode="wrap")
    return (field - field.mean()) / field.std()


def ranks(field: np.ndarray) -> np.ndarray:
    """Ranks of a field (y, x) scaled to [0, 1]."""
    return field.ravel().argsort().argsort().reshape(field.shape) / (field.size - 1)


def cover_table(name: str) -> np.ndarray:
    """One property of all covers, indexed by class code (0 unused)."""
    return np.array([0.0, *(getattr(cover, name) for cover in COVERS)])


def make_landscape(config: Landscape, kind: str, seed: int, size: int) -> dict[str, np.ndarray]:
    """Draw maps until every class is present in every area; at most a handful of draws. Rasters (y, x) by name: label, area, heights and so on.

    Raises `PrsaError` when no draw holds every class.
    """
    for attempt in range(50):
        land = _draw_landscape(config, np.random.default_rng([*stream_key(kind, seed), 0, attempt]), size)
        counts = [
            np.bincount(land["label"][land["area"] == a], minlength=len(COVERS) + 1)[1:].min()
            for a in (TRAIN, VAL, TEST)
        ]
        if all(n >= least for n, least in zip(counts, config.fewest)):
            return land
    raise PrsaError(
        f"{kind}:{seed} found no map with every class in every area at size {size}. Use a larger size or another seed."
    )


def _draw_landscape(config, rng, size):
    y, x = np.mgrid[:size, :size].astype(float)
    area, starts = _areas(config, rng, size)
    warp_y, warp_x = 3 * smooth_field(rng, size, 8), 3 * smooth_field(rng, size, 8)
    # Parcels: nearest of jittered seeds, on warped coordinates; uses dealt out area by area, so that each has all of them.
    n = round(size / config.parcel)
    grid = (
        (
            np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
            + rng.uniform(0.1, 0.9, (n * n, 2))
        )
        * size
        / n
    )
    distance = (y + warp_y - grid[:, 0, None, None]) ** 2 + (x + warp_x - grid[:, 1, None, None]) ** 2
    parcel = distance.argmin(0)
    owner = area[np.clip(grid[:, 0].astype(int), 0, size - 1), np.clip(grid[:, 1].astype(int), 0, size - 1)]
    use = np.empty(n * n, int)
    deck = [CODE[c] for c in ("grass", "crop", "bare soil", "concrete", "shrub", "deciduous trees", "conifers")] + [
        0,
        0,
        0,
    ]  # 0: built-up
    for a in range(4):
        members = np.flatnonzero(owner == a)
        use[members] = np.resize(rng.permutation(deck), members.size)
    cover, thing = use[parcel], parcel.copy()
    built = cover == 0
    cover[built] = np.where(rng.random(n * n) < 0.6, CODE["grass"], CODE["concrete"])[parcel][built]
    # Lines: one road along each area, two across, a stream across.
    lines = [("x", start + width * rng.uniform(0.25, 0.75), "asphalt road", config.road) for start, width in starts]
    lines += [("y", size * p, "asphalt road", config.road) for p in rng.uniform((0.1, 0.65), (0.3, 0.9))]
    lines += [("y", size * rng.uniform(0.42, 0.52), "water", config.stream)]
    for k, (axis, centre, name, width) in enumerate(lines):
        across, along = (x + 0.4 * warp_x, y) if axis == "x" else (y + (1.5 if name == "water" else 0.4) * warp_y, x)
        on = np.abs(across - centre) < width / 2
        cover[on], thing[on], built[on] = CODE[name], n * n + 10 * k + (along[on] // 32).astype(int), False
    cover, thing = _buildings(rng, cover, thing, built, size)
    _, thing = np.unique(thing, return_inverse=True)
    thing = thing.reshape(size, size)
    terrain = config.relief * smooth_field(rng, size, 20)
    height = _heights(rng, cover, thing, size)
    label = np.where(area > 0, cover, 0)
    label[area == TRAIN] = _survey(config, rng, np.where(area == TRAIN, cover, 0))[area == TRAIN]
    return {"cover": cover, "thing": thing, "area": area, "label": label, "terrain": terrain, "height": height}


def _areas(config, rng, size):
    """Area code per pixel, (y, x), and (start, width) of each strip; half of the scenes have the training area on the right."""
    widths = np.round(np.array(config.shares) * (size - 2 * GAP)).astype(int)
    widths[2] = size - 2 * GAP - widths[:2].sum()
    starts = np.cumsum([0, *(widths[:2] + GAP)])
    row = np.zeros(size, int)
    for code, start, width in zip((TRAIN, VAL, TEST), starts, widths):
        row[start : start + width] = code
    if rng.random() < 0.5:
        row, starts = row[::-1], size - starts - widths
    return np.tile(row, (size, 1)), list(zip(starts, widths))


def _buildings(rng, cover, thing, built, size):
    """Rectangular roofs on built-up ground, two pixels apart."""
    free, roofs = built.copy(), [CODE[c] for c in ("bitumen roof", "tile roof", "metal roof")]
    spots = np.argwhere(built)
    first = thing.max() + 1
    for k, (top, left) in enumerate(spots[rng.integers(len(spots), size=1200)]):
        tall, wide = rng.integers(4, 10, 2)
        if top + tall < size and left + wide < size and free[top : top + tall, left : left + wide].all():
            cover[top : top + tall, left : left + wide] = roofs[k % 3]
            thing[top : top + tall, left : left + wide] = first + k
            free[max(top - 2, 0) : top + tall + 2, max(left - 2, 0) : left + wide + 2] = False
    return cover, thing


def _heights(rng, cover, thing, size):
    """Height over ground in m: objects of a cover differ, roofs of tile have a ridge, crowns are round or conical."""
    mean, sd = cover_table("height")[cover], cover_table("height_sd")[cover]
    height = np.maximum(mean + sd * np.clip(rng.standard_normal(thing.max() + 1), -2, 2)[thing], 0.3 * mean)
    tile = cover == CODE["tile roof"]
    ridge = ndimage.distance_transform_edt(tile)
    height = np.where(tile, height - 1.5 + 0.6 * np.minimum(ridge, 4), height)
    for name, spacing, cone in (("shrub", 2.5, 0.35), ("deciduous trees", 4.0, 0.30), ("conifers", 3.0, 0.55)):
        away = ndimage.distance_transform_edt(rng.random((size, size)) > 1 / spacing**2)
        height = np.where(cover == CODE[name], height * (1.1 - cone * np.minimum(away / spacing * 2, 1.5)), height)
    return height + 0.03 * np.abs(rng.standard_normal((size, size))) * (height > 0)


def _survey(config, rng, cover):
    """Training labels: square plots inside one cover, in random order until a class has its quota."""
    label = np.zeros_like(cover)
    for k in range(1, len(COVERS) + 1):
        inside = ndimage.binary_erosion(np.pad(cover == k, 1), np.ones((3, 3)))[1:-1, 1:-1]
        spots = np.argwhere(inside if inside.sum() > config.per_class else cover == k)
        for top, left in rng.permutation(spots):
            if (label == k).sum() >= config.per_class:
                break
            window = np.s_[max(top - 1, 0) : top - 1 + config.plot, max(left - 1, 0) : left - 1 + config.plot]
            label[window][cover[window] == k] = k
    return label
