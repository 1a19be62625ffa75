"""What is no-data: every spelling that files use, and values that no sensor measures. Source of the rules: ours.

Declared    ``missing_value``, ``_FillValue``, ``nodata``, ``nodatavals``, ``nodata_value``, ``data ignore value``: an
            attribute, or an encoding of values that are not packed; a number, text or a list. ``nodatavals`` as
            long as the bands says one value per band, any other list says values of all bands.
Invalid     outside ``valid_min``, ``valid_max``, ``valid_range``: in packed numbers, as CF has them. No-data, with a
            warning.
Impossible  infinities, and magnitudes from `HUGE` up: what GIS and netCDF fill with (-3.4e38, 1e20). No-data,
            with a warning.
Sentinels   one of `SENTINELS` as a band's lowest value, no other value of the band being below half of it. No-data;
            a warning. The attribute ``nodata`` = NaN says that it is measured.
Strange     a value at the end of a band, in two pixels or more, farther from all others than `TIMES` their range (once
            for `FULL`, where integers end); a sentinel that was scaled with the data, as -0.9999; 0 or one of `FULL` in
            every band of more than `SHARE` of the pixels. Kept; a warning.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import xarray as xr

KEYS = {"missingvalue", "fillvalue", "nodata", "nodatavals", "nodatavalue", "nodatavalues", "dataignorevalue"}
VALID = ("valid_min", "valid_max", "valid_range")
PACKING = ("scale_factor", "add_offset", "_Unsigned")
INTERNAL = ("grid_mapping", "coordinates", "dtype", "CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST")  # of netCDF
HUGE = 1e18
SENTINELS = (-999.0, -9999.0, -99999.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0)
SCALED = frozenset(np.float32(s / f) for s in SENTINELS for f in (10, 100, 1000, 10_000))
FULL = (255.0, 32767.0, 65535.0, 2147483647.0, 4294967295.0, 9999.0, 99999.0)
TIMES, SHARE = 10, 0.005
SAMPLE = 4096  # values of a band that are looked at before all of them are
LEVELS = 8  # a band of fewer values holds classes or counts


def is_key(name: object) -> bool:
    """Whether an attribute of this name declares no-data."""
    return re.sub(r"[^a-z]", "", str(name).lower()) in KEYS


def is_measured(var: xr.DataArray) -> bool:
    """Whether the attribute ``nodata``, NaN, says that every value is a measurement."""
    return str(var.attrs.get("nodata")).lower() == "nan"


def plain(attrs: dict) -> dict:
    """Attributes as netCDF takes them, without those that said how numbers are packed or what is no-data."""
    kept = {}
    for key, value in attrs.items():
        if is_key(key) or key in (*PACKING, *VALID, *INTERNAL) or value is None:
            continue
        if isinstance(value, (bool, np.bool_)):
            value = int(value)
        elif isinstance(value, (list, tuple, np.ndarray)) and np.size(value) and np.asarray(value).dtype.kind in "iuf":
            value = np.ravel(value)
        elif not isinstance(value, (float, np.floating, np.integer)) and not (
            type(value) is int and abs(value) < 2**63
        ):
            value = value if isinstance(value, str) else json.dumps(value, default=str)
            value = value.replace("\0", "").encode("utf-8", "replace").decode()
        kept[str(key).replace("/", "-") or "-"] = value
    return kept


def numbers(value: object) -> list[float]:
    """Numbers however they were written: -9999, "-9999", "[-9999.0, nan]", (0, 0), None. Else a ValueError."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        words = re.split(r"[\s,;]+", value.strip("[](){} "))
        return [float(word) for word in words if word.lower() not in ("", "none")]
    return [] if value is None else np.ravel(np.asarray(value, float)).tolist()


def declared(var: xr.DataArray, bands: int, fail: Callable) -> list[list[float]]:
    """The declared no-data values of every band."""
    packed = any(key in var.encoding for key in PACKING)  # then the encoding speaks of the packed numbers
    marks: list[list[float]] = [[] for _ in range(bands)]
    for key, value in [*var.attrs.items(), *(() if packed else var.encoding.items())]:
        if not is_key(key):
            continue
        try:
            found = numbers(value)
        except (TypeError, ValueError):
            fix = f"It says which value is no-data. Fix: scene[{var.name!r}].attrs[{key!r}] = that number."
            fail(f"a number in the attribute {key} of {var.name}", value, fix)
        each = len(found) == bands and str(key).lower().startswith("nodataval") and str(key).lower().endswith("s")
        for band, mark in enumerate(marks):
            mark += [found[band]] if each else found
    return marks


def packing(var: xr.DataArray, bands: int, fail: Callable) -> list[tuple[float, float]]:
    """Scale and offset of every band, as attributes of packed numbers say them."""
    pairs = []
    for key, default in (("scale_factor", 1.0), ("add_offset", 0.0)):
        try:
            pairs.append(np.broadcast_to(numbers(var.attrs.get(key, default)) or [default], bands).tolist())
        except (TypeError, ValueError):
            expected = f"{key} of {var.name} to be one number, or one per band"
            fail(expected, var.attrs[key], "Fix: correct or remove the attribute.")
    return list(zip(*pairs))


def valid(var: xr.DataArray, dtype: np.dtype, fail: Callable) -> tuple[float, float]:
    """Least and largest valid value, in the numbers of an array of this type. Of unpacked numbers: unpacked, too."""
    found = {}
    for key in VALID:
        try:
            found[key] = numbers(var.attrs.get(key))
        except (TypeError, ValueError):
            found[key] = [np.nan] * 3  # refused below
        if len(found[key]) not in (0, 2 if key == "valid_range" else 1):
            fail(f"numbers in the attribute {key} of {var.name}", var.attrs[key], "Fix: correct or remove it.")
    low, high = found["valid_range"] or [*(found["valid_min"] or [-np.inf]), *(found["valid_max"] or [np.inf])]
    keys = {"scale_factor": 1, "add_offset": 0}
    scale, offset = (numbers(var.encoding.get(key, plain))[0] for key, plain in keys.items())
    return tuple(sorted(unsigned(end, dtype) * scale + offset for end in (low, high)))


def unsigned(mark: float, dtype: np.dtype) -> float:
    """A mark as it looks in an unsigned type, in which a negative one has wrapped around."""
    return mark + 2.0 ** (8 * dtype.itemsize) if dtype.kind == "u" and -np.inf < mark < 0 else mark


def equal(values: np.ndarray, mark: float) -> np.ndarray:
    """Where values are a mark, which may have been rounded to float32, or have wrapped around in an unsigned type."""
    mark = unsigned(mark, values.dtype)
    with np.errstate(over="ignore"):
        return (values == mark) | (values == np.float32(mark))


def _extremes(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value, NaN left out; NaN when there is no other. Fast where there is no NaN at all."""
    if not values.size:
        return np.nan, np.nan
    low, high = values.min(), values.max()
    if low != low:
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    return float(low), float(high)


def _is_strange(values: np.ndarray, end: float, other: float) -> bool:
    """Whether the values at one end of a band (flat, finite or NaN) stand apart from all the others."""
    sample = values[:: max(1, values.size // SAMPLE)]
    for look, ends in ((sample, (end, other)), (values, (end,))):  # a quick look, then the truth
        rest = look[~np.isin(look, ends) & (look == look)]
        if len(np.unique(rest[:SAMPLE])) < LEVELS:
            return False
        near, far = (rest.min(), rest.max()) if end < other else (rest.max(), rest.min())
        scaled = end < other and np.float32(end) in SCALED and near > end / 2
        if not scaled and abs(end - float(near)) <= (1 if end in FULL else TIMES) * abs(float(far) - float(near)):
            return False
    return int((values == end).sum()) > 1


def unpack(var: xr.DataArray, values: np.ndarray, source: str, fail: Callable) -> np.ndarray:
    """Physical values (bands, y, x) as float32 with NaN for no-data; the same array, not a copy, when nothing changes.

    Warns of no-data that nobody declared.
    """
    bands = len(values)
    if str(var.attrs.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
        values = values.view(values.dtype.str.replace("i", "u"))
    marks, pairs = declared(var, bands, fail), packing(var, bands, fail)
    measured, (least, most), outside = is_measured(var), valid(var, values.dtype, fail), 0
    as_is = values.dtype == np.float32 and values.dtype.isnative and set(pairs) == {(1.0, 0.0)}
    out = values if as_is else np.empty(values.shape, np.float32)
    taken, kept, ends = Counter(), Counter(), []
    for band, (raw, (scale, offset)) in enumerate(zip(values, pairs)):
        low, high = _extremes(raw)
        bad = np.zeros((), bool)  # grows to (y, x) with the first hit: most bands have none
        for mark in marks[band]:
            bad = bad | equal(raw, mark)
        if low < least or high > most:
            wrong = ((raw < least) | (raw > most)) & ~bad
            bad, outside = bad | wrong, outside + int(wrong.sum())
        if low <= -HUGE or high >= HUGE:
            huge = (np.abs(raw.astype(np.float64)) >= HUGE) & ~bad
            bad = bad | huge
            taken.update(raw[huge & np.isfinite(raw)].tolist())
        rest = raw.ravel()
        if bad.any():
            rest = raw[~bad]
            low, high = _extremes(rest)
        while not measured and low in SENTINELS and _extremes(others := rest[rest != low])[0] > low / 2:
            taken[low] += rest.size - others.size
            bad = bad | (raw == low)
            rest, (low, high) = others, _extremes(others)
        if not measured and low < high:
            both = (low, high), (high, low)
            kept.update({end: int((rest == end).sum()) for end, other in both if _is_strange(rest, end, other)})
        ends.append((low, high))
        if out is values and bad.any():
            out = values.copy()
        if out is not values:
            with np.errstate(over="ignore"):  # of what is no-data
                out[band] = raw if (scale, offset) == (1.0, 0.0) else raw * np.float64(scale) + np.float64(offset)
            out[band][np.broadcast_to(bad, raw.shape)] = np.nan
    for same in map(set, zip(*ends)):
        end = same.pop()
        if not same and not measured and bands > 1 and end in (0.0, *FULL) and end not in kept:
            everywhere = int((values == end).all(0).sum())
            if everywhere > SHARE * values[0].size:
                kept[end] = everywhere * bands
    if outside:
        share, limits = f"{100 * outside / values.size:.2g} % of the values of {var.name}", f"{least:g} to {most:g}"
        fix = "If they are measured: remove these attributes."
        text = f"{share} are not within valid_range, valid_min, valid_max ({limits}): taken as no-data. {fix}"
        warnings.warn(f"{source}: {text}", stacklevel=2)
    attrs = f"scene[{var.name!r}].attrs['nodata']"
    for counts, text in (
        (taken, f"no sensor measures this: it is taken as no-data. If it is measured: {attrs} = float('nan')."),
        (kept, f"is this no-data? It is kept. If it is: {attrs} = that value; if it is measured: = float('nan')."),
    ):
        if counts:
            listed = ", ".join(f"{value:g} ({100 * n / values.size:.2g} %)" for value, n in counts.most_common(5))
            warnings.warn(f"{source}: {var.name} holds {listed} of its values; {text}", stacklevel=2)
    return out
