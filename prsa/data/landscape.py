"""The land of the simulated scenes: covers, areas, parcels, buildings, roads and heights, deterministic by seed.

What the covers look like to the three sensors is part of `Cover`; the sensors themselves are in `prsa.data.simulate`,
whose text describes the whole. Source: ours.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import PrsaError
from .splits import TEST, TRAIN, VAL

GAP = 10  # pixels between areas: twice the radius of an 11 x 11 window
PIXEL = 2.0  # m


@dataclass(frozen=True)
class Cover:
    """One land cover as the three sensors see it."""

    name: str
    blue: float  # continuum reflectance at 400 nm
    nir: float  # continuum reflectance at 1000 nm
    bend: float  # exponent of the continuum between them: below 1 rises early
    chlorophyll: float  # optical depth of the pigment bands
    iron: float  # optical depth of the iron oxide bands
    leaf_water: float  # optical depth of the 970 nm band
    aluminium: float  # optical depth of the 830 nm band
    green: float  # fraction of a pixel covered; the rest is soil
    texture: float  # sd of log brightness from pixel to pixel
    height: float  # m above ground, mean over objects
    height_sd: float  # m, between objects
    vv: float  # dB at 35 degrees
    vh: float  # dB at 35 degrees
    fall: float  # dB per degree of incidence: smooth surfaces fall faster than volumes
    grain: float  # shape of the gamma texture of backscatter: small is rough


# Columns as in `Cover`.
_TABLE = """
    water           0.055 0.012 0.6 0.15    0    0   0    1 0.08    0    0   -21   -29 0.35 20
    bare-soil        0.07  0.32 0.8    0 0.45    0   0    1 0.07    0    0 -12.5 -22.5 0.18 20
    asphalt-road    0.075 0.135 0.7    0    0    0   0    1 0.06    0    0 -18.5 -25.5 0.25 20
    concrete          0.2  0.34 0.5    0 0.15    0   0    1 0.06    0    0   -16   -25 0.22 20
    bitumen-roof     0.06 0.105 0.8    0    0    0   0    1 0.06    8  2.5  -9.5 -20.5 0.12  6
    tile-roof        0.17  0.36 0.6    0 1.05    0   0    1 0.08    6  1.2    -7   -17 0.12  6
    metal-roof       0.24  0.34 0.5    0 0.08    0 0.1    1 0.07  7.5    2  -3.5   -15 0.12  6
    grass            0.34   0.4   1  1.9    0 0.12   0  0.8 0.06 0.15 0.05   -14 -20.5 0.12 20
    crop             0.36   0.5   1  3.1    0 0.16   0 0.78 0.06  0.9  0.3 -10.5   -18 0.08 20
    shrub            0.25  0.32   1  2.3    0  0.1   0 0.72 0.12  2.6  0.8 -11.5   -16 0.06 10
    deciduous-trees  0.32  0.44   1  3.4    0 0.14   0 0.92 0.14   11  2.5    -8   -13 0.04  8
    conifers         0.15  0.21   1  2.8    0 0.12   0 0.92 0.15   14    3  -9.5 -14.5 0.04  8
"""
COVERS = tuple(Cover(n.replace("-", " "), *map(float, rest)) for n, *rest in map(str.split, _TABLE.split("\n")[1:-1]))
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
    """Draw maps until every class is in every area. Rasters (y, x) by name: label, area, height and so on.

    Raises `PrsaError` when no draw holds every class.
    """
    for attempt in range(50):
        land = _draw_landscape(config, np.random.default_rng([*stream_key(kind, seed), 0, attempt]), size)
        by_area = (land["label"][land["area"] == a] for a in (TRAIN, VAL, TEST))
        counts = [np.bincount(label, minlength=len(COVERS) + 1)[1:].min() for label in by_area]
        if all(n >= least for n, least in zip(counts, config.fewest)):
            return land
    raise PrsaError(
        f"{kind}:{seed} found no map with every class in every area at size {size}. Use a larger size or another seed."
    )


def _draw_landscape(config, rng, size):
    y, x = np.mgrid[:size, :size].astype(float)
    area, starts = _areas(config, rng, size)
    warp_y, warp_x = 3 * smooth_field(rng, size, 8), 3 * smooth_field(rng, size, 8)
    # Parcels: nearest of jittered seeds, on warped coordinates; uses are dealt out area by area, so that each has all.
    n = round(size / config.parcel)
    corners = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    grid = (corners + rng.uniform(0.1, 0.9, (n * n, 2))) * size / n
    distance = (y + warp_y - grid[:, 0, None, None]) ** 2 + (x + warp_x - grid[:, 1, None, None]) ** 2
    parcel = distance.argmin(0)
    owner = area[np.clip(grid[:, 0].astype(int), 0, size - 1), np.clip(grid[:, 1].astype(int), 0, size - 1)]
    use = np.empty(n * n, int)
    deck = [CODE[c] for c in ("grass", "crop", "bare soil", "concrete", "shrub", "deciduous trees", "conifers")]
    deck += [0, 0, 0]  # built-up
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
    """Area code (y, x) and (start, width) of each strip; half of the scenes have the training area on the right."""
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
