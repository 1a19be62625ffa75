"""How much land every class covers: counted on the map, and adjusted for the map's errors with the test pixels."""

import numpy as np
import pandas as pd
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from .. import metrics

Z = 1.959964  # standard errors on each side of a 95 % interval
RADIUS, FLATTENING = 6378137.0, 1 / 298.257223563  # of WGS 84, metres
DISTORTION = 0.01  # share by which a projection may change areas and still be measured in its own plane
INTERVALS = "95 %, the test pixels of a mapped class taken as a random sample of it"


def pixel_areas(transform: Affine, crs: CRS | None, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Hectares of a pixel in every row, (y,), and how they were measured; NaN without a place on Earth.

    In the plane of the projection, as a GIS does it; on the ellipsoid (WGS 84), at the middle of the row, where there
    is no plane (degrees) or it changes areas by more than 1 % (Web Mercator beyond 6 degrees of latitude).
    """
    if crs is None or not (crs.is_geographic or crs.is_projected):
        return np.full(shape[0], np.nan), "pixels only: no place on Earth"
    column, row = shape[1] / 2, np.arange(shape[0]) + 0.5
    steps = np.array([[-0.5, 0.5, 0, 0], [0, 0, -0.5, 0.5]])[:, None]  # a pixel to the left and right, above and below
    x, y = transform * (column + steps[0] + 0 * row[:, None], row[:, None] + steps[1])
    degrees = transform_points(crs, CRS.from_epsg(4326), x.ravel(), y.ravel())
    longitude, latitude = (np.radians(v).reshape(x.shape) for v in degrees)
    across, down = (
        (np.diff(longitude[:, i : i + 2])[:, 0], np.diff(latitude[:, i : i + 2])[:, 0]) for i in (0, 2)
    )  # radians
    eccentricity = FLATTENING * (2 - FLATTENING)
    curved = 1 - eccentricity * np.sin(latitude.mean(1)) ** 2
    square = RADIUS**2 * (1 - eccentricity) * np.cos(latitude.mean(1)) / curved**2  # m2 of a square radian here
    ellipsoid = square * np.abs(across[0] * down[1] - across[1] * down[0]) / 1e4
    if crs.is_projected:
        plane = abs(transform.determinant) * crs.linear_units_factor[1] ** 2 / 1e4
        if np.abs(plane / ellipsoid - 1).max() <= DISTORTION:
            return np.full(shape[0], plane), "the plane of the map's projection"
    return ellipsoid, "the ellipsoid, row by row"


def adjusted(counts: np.ndarray, areas: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy and true area of every class from a sample of a map, each with its standard error.

    ``counts`` (K, K): test pixels by mapped class (row) and true class (column), a random sample of every mapped class;
    ``areas`` (K,): what the map says. Returns ``users``, ``producers`` and ``area`` (K,) and ``overall`` (), fractions
    and the unit of ``areas``, and the same with ``_se``; NaN where a mapped class has too few test pixels to tell.
    Source: Olofsson et al., Remote Sensing of Environment 148, 2014, eqs. 1 to 11.
    """
    mapped, n = areas > 0, counts.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(mapped[:, None], counts / n[:, None], 0)  # of the true classes in a mapped one
        variance = np.where(mapped[:, None], share * (1 - share) / (n - 1)[:, None], 0)
        users, users_variance, total = np.diag(counts) / n, np.diag(variance), areas.sum()
        area = areas @ share
        producers = areas * np.diag(share) / area
        missed = areas[:, None] ** 2 * variance
        np.fill_diagonal(missed, 0)
        own = areas**2 * (1 - producers) ** 2 * users_variance
        return {
            "users": users,
            "users_se": np.sqrt(np.where(n > 1, users * (1 - users) / (n - 1), np.nan)),
            "producers": producers,
            "producers_se": np.sqrt(own + producers**2 * missed.sum(0)) / area,
            "area": area,
            "area_se": np.sqrt(areas**2 @ variance),
            "overall": areas @ np.diag(share) / total,
            "overall_se": np.sqrt(areas**2 @ users_variance) / total,
        }


def area_table(
    name: str, classes: list[str], rows: np.ndarray, hectares: np.ndarray, basis: str, counts: np.ndarray
) -> pd.DataFrame:
    """The table ``area.csv`` of a map: a row per class, for all classes and for no data.

    ``name`` of the map; ``rows`` (y, 1 + K): pixels of no data and of every class in each row of the map; ``hectares``
    and ``basis`` from `pixel_areas`; ``counts`` (K, K): test pixels by true (row) and mapped class, 0 without any.
    Accuracies are points, 0 to 100, for all classes the overall accuracy twice; ``*_lo`` and ``*_hi`` are the ends of
    the intervals. Test pixels of one polygon or block are alike: the truth lies outside more often than they say. Where
    all test pixels are right, the interval has no width, which is no proof.
    """
    pixels, area = rows.sum(0), hectares @ rows
    table = pd.DataFrame({"map": name, "class": [*classes, "all classes", "no data"], "measured_in": basis})
    for column, values in (("pixels", pixels), ("area_ha", area)):
        table.insert(2, column, [*values[1:], values[1:].sum(), values[0]])
    if not counts.sum():
        return table
    known = np.isfinite(area).all()
    found = adjusted(counts.T, area[1:] if known else pixels[1:].astype(float))
    table["test_pixels"] = [*counts.sum(0), counts.sum(), 0]
    for column in ("users", "producers"):
        value, error = (np.append(found[column + end], found["overall" + end]) for end in ("", "_se"))
        for end, shift in (("accuracy", 0), ("lo", -Z), ("hi", Z)):
            table[f"{column}_{end}"] = pd.Series(metrics.points(np.clip(value + shift * error, 0, 1)))
    for end, shift in (("ha", 0), ("lo", -Z), ("hi", Z)) if known else ():
        table[f"adjusted_{end}"] = pd.Series(np.clip(found["area"] + shift * found["area_se"], 0, area[1:].sum()))
    return table.assign(intervals=INTERVALS)
