"""Small raster and vector files for the tests."""

import warnings

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine

CRS = "EPSG:32718"
PLACE = Affine(10, 0, 700000, 0, -10, 5700000)  # 10 m, north up


def write(path, values, transform=PLACE, crs=CRS, driver="GTiff", **profile):
    """A raster of values (bands, y, x); returns its path."""
    values = np.atleast_3d(values) if values.ndim == 3 else values[None]
    size = dict(zip(("count", "height", "width"), values.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver, dtype=values.dtype, crs=crs, transform=transform, **size, **profile
        ) as file:
            file.write(values)
    return path


def write_shapes(path, shapes, columns, crs=CRS, kind="Unknown", **more):
    """A vector file with these columns {name: values}; returns its path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyogrio.raw.write(
            path, np.array([shapely.to_wkb(s) for s in shapes], object), list(columns.values()), list(columns),
            geometry_type=kind, crs=crs, **more,
        )  # fmt: skip
    return path


def box(left, top, right, bottom):
    """A polygon over columns left to right and rows top to bottom of `PLACE`."""
    return shapely.transform(shapely.box(left, top, right, bottom), lambda xy: np.column_stack(PLACE * tuple(xy.T)))
