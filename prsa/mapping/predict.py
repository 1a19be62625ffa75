"""Any trained model over a whole scene, block by block: class, confidence and probabilities of every pixel."""

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
import xarray as xr

from ..data.scene import check_scene
from ..network.prsanet import PRSANet
from .passes import TILE, tile_logits
from .sensors import Values, check_model, check_sensors
from .windows import Block, SceneSource, Source, blocks, pieces


class Part:
    """The map of ``rows`` x ``cols``, all no data at first: ``cover`` (h, w) 1..K or 0; ``confidence`` (h, w) and, if
    asked for, ``probability`` (K, h, w), NaN where there is no data."""

    def __init__(self, rows: slice, cols: slice, classes: int, probabilities: bool):
        shape = rows.stop - rows.start, cols.stop - cols.start
        self.rows, self.cols, self.cover = rows, cols, np.zeros(shape, np.uint8)
        self.confidence = np.full(shape, np.nan, np.float32)
        self.probability = np.full((classes, *shape), np.nan, np.float32) if probabilities else None

    def keep(self, place: tuple, p: torch.Tensor, empty: np.ndarray | bool) -> None:
        """Probabilities p (K, ...) of the pixels at ``place``; pixels that are ``empty`` (...) stay no data."""
        top, chosen = p.max(0)
        self.cover[place] = np.where(empty, 0, (chosen + 1).cpu().numpy())
        self.confidence[place] = np.where(empty, np.nan, top.cpu().numpy())
        if self.probability is not None:
            self.probability[:, *place] = np.where(empty, np.nan, p.cpu().numpy())


@contextlib.contextmanager
def _tile_threads(model: PRSANet) -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, each with one of torch's own; tiles not yet begun are dropped when one raises."""
    threads = torch.get_num_threads()
    count = threads if next(model.parameters()).device.type == "cpu" else 1
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _by_tiles(model: PRSANet, pool: ThreadPoolExecutor) -> Callable[[Block, Part], list[Future]]:
    """The function that lets the threads of the pool fill the part of a block."""
    logits = tile_logits(model)

    @torch.inference_mode()  # it holds for one thread only
    def work(block: Block, part: Part, rows: slice, cols: slice) -> None:
        x = slice(cols.start - block.cols.start, cols.stop - block.cols.start)
        for here, o in logits(block, rows, cols):
            y = slice(here.start - block.rows.start, here.stop - block.rows.start)
            part.keep((y, x), o.softmax(0), block.empty(here, cols))

    return lambda block, part: [pool.submit(work, block, part, *tile) for tile in pieces(block.rows, block.cols, *TILE)]


def _by_pixels(model, halo: int) -> Callable[[Block, Part], list[Future]]:
    """The same for a comparator, which fills the part itself, patch by patch or pixel by pixel."""

    def work(block: Block, part: Part) -> list[Future]:
        empty = block.empty(block.rows, block.cols)
        rows, cols = (slice(s.start - halo, s.stop + halo) for s in (block.rows, block.cols))
        values = {m: block.cut(m, rows, cols) for m in model.modalities}
        grown = xr.Dataset({m: ((f"{m}_band", "y", "x"), v) for m, v in values.items()})
        centres = np.flatnonzero(np.pad(~empty, halo))
        for pixels, p in model.probabilities(grown, centres):
            y, x = np.unravel_index(pixels, (grown.sizes["y"], grown.sizes["x"]))
            part.keep((y - halo, x - halo), torch.from_numpy(p).T, False)
        return []

    return work


def map_parts(model, source: Source, probabilities: bool = False) -> Iterator[Part]:
    """Yield the map of a source part by part, row by row; the next block is read while this one is computed.

    Memory follows the block, not the scene. Raises `PrsaError` for other sensors than the model's, and warns of values
    in another unit.
    """
    check_sensors(model, source)
    values = Values(model)
    halo, ours, before = max(model.sides.values()) // 2, isinstance(model, PRSANet), None
    with _tile_threads(model) if ours else contextlib.nullcontext() as pool:
        start = _by_tiles(model, pool) if ours else _by_pixels(model, halo)
        for block in chain(blocks(source, model.modalities, halo), [None]):
            if block:
                values.look(block)
                part = Part(block.rows, block.cols, len(model.classes), probabilities)
                now = part, start(block, part)
            if before:
                for done in before[1]:
                    done.result()  # raises what a tile raised
                yield before[0]
            before = now
    values.warn()


def predict_map(model, scene: xr.Dataset, probabilities: bool = False) -> xr.DataArray | xr.Dataset:
    """Land cover of every pixel on the scene's own coordinates: ``(y, x)``, 1..K, and 0 where no sensor has data.

    ``model``: what `prsa.fit` or `prsa.load_model` returns; the classes are the model's. A PRSANet runs over tiles, as
    many at a time as torch has threads, a comparator patch by patch or pixel by pixel. The probability of the chosen
    class is the coordinate ``confidence``. With ``probabilities=True`` a Dataset of ``land_cover`` and
    ``probability (class, y, x)`` float32. Raises `PrsaError` for a scene that breaks the contract, and for other
    sensors, bands or wavelengths than the model's.
    """
    check_model(model)
    scene = check_scene(scene)
    rows, cols = (slice(0, scene.sizes[axis]) for axis in ("y", "x"))
    whole = Part(rows, cols, len(model.classes), probabilities)
    for part in map_parts(model, SceneSource(scene), probabilities):
        place = part.rows, part.cols
        whole.cover[place], whole.confidence[place] = part.cover, part.confidence
        if probabilities:
            whole.probability[:, *place] = part.probability
    coords = {name: c for name, c in scene.coords.items() if set(c.dims) <= {"y", "x"}}
    about = {"long_name": "probability of the chosen class", "units": "1"}
    attrs = {"long_name": "land-cover class, 0 = no data", "class_names": json.dumps(model.classes, ensure_ascii=False)}
    if "spatial_ref" in coords:
        attrs["grid_mapping"] = "spatial_ref"
    land_cover = xr.DataArray(whole.cover, coords, ("y", "x"), "land_cover", attrs)
    land_cover = land_cover.assign_coords(confidence=(("y", "x"), whole.confidence, about))
    if not probabilities:
        return land_cover
    everything = (("class", "y", "x"), whole.probability)
    return xr.Dataset({"land_cover": land_cover, "probability": everything}, coords={"class": model.classes})
