"""A map where it lies: drawn over its own coordinates."""

import json

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rasterio.crs import CRS
from rasterio.errors import CRSError

from .shapes import band, codes
from .style import WIDTH, class_colours, legend_below, panels, styled


@styled
def land_cover_map(land: xr.DataArray) -> Figure:
    """Land cover (y, x) and its confidence, as `prsa.predict_map` returns them, over the map's own coordinates."""
    names = json.loads(land.attrs["class_names"])
    colours, aspect = class_colours(names), land.sizes["x"] / land.sizes["y"]
    figure, axes = panels(1, 2, WIDTH / 2.4 / aspect + 0.8 + 0.17 * -(-len(names) // 4), layout="compressed")
    codes(axes[0, 0], land.values, colours, "land cover")
    sure = land["confidence"].values
    band(axes[0, 1], sure, "confidence", "probability (0 to 1)", cmap="cividis", vmin=0, vmax=1)
    unit = "pixels"
    if {"x", "y"} <= set(land.coords):
        left, right, top, bottom = (v for axis in ("x", "y") for v in _ends(land[axis].values))
        unit = _unit(land)
        for ax in axes.flat:
            ax.images[0].set_extent((left, right, bottom, top))
    for ax in axes.flat:
        ax.grid(visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(2))
        ax.ticklabel_format(useOffset=False, style="plain")
        ax.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})" if ax is axes[0, 0] else "")
    legend_below(figure, {name: {"color": colour, "linewidth": 6} for name, colour in zip(names, colours)})
    return figure


def _unit(land: xr.DataArray) -> str:
    """Unit of the coordinates, as the reference system has it."""
    wkt = land["spatial_ref"].attrs.get("crs_wkt", "") if "spatial_ref" in land.coords else ""
    try:
        crs = CRS.from_wkt(wkt)
    except CRSError:
        return "unit not stated"
    return crs.linear_units if crs.is_projected else "degrees"


def _ends(centres) -> tuple[float, float]:
    """Outer edges of the first and the last pixel."""
    half = (centres[-1] - centres[0]) / max(len(centres) - 1, 1) / 2
    return float(centres[0] - half), float(centres[-1] + half)
