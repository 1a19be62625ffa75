"""Any trained model over a whole scene, block by block: class, confidence and probabilities of every pixel."""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from ..data.scene import check_scene
from ..errors import PrsaError
from ..network.prsanet import PRSANet
from .passes import TILE, tile_logits
from .windows import Block, SceneSource, Source, blocks, pieces


@dataclass
class Part:
    """The map of a block: ``cover`` (h, w), 1..K, 0 for no data; ``confidence`` (h, w), ``probability`` (K, h, w)."""

    rows: slice
    cols: slice
    cover: np.ndarray
    confidence: np.ndarray
    probability: np.ndarray | None

    @classmethod
    def of(cls, block: Block, classes: int, probabilities: bool) -> "Part":
        """An empty map of the block, all of it no data."""
        shape = block.rows.stop - block.rows.start, block.cols.stop - block.cols.start
        everything = np.full((classes, *shape), np.nan, np.float32) if probabilities else None
        confidence = np.full(shape, np.nan, np.float32)
        return cls(block.rows, block.cols, np.zeros(shape, np.uint8), confidence, everything)

    def keep(self, place: tuple, p: torch.Tensor, empty: np.ndarray) -> None:
        """Probabilities p (K, ...) of the pixels at ``place``; pixels that are ``empty`` (...) stay no data."""
        top, chosen = p.max(0)
        self.cover[place] = np.where(empty, 0, (chosen + 1).cpu().numpy())
        self.confidence[place] = np.where(empty, np.nan, top.cpu().numpy())
        if self.probability is not None:
            self.probability[:, *place] = np.where(empty, np.nan, p.cpu().numpy())


def check_sensors(model, source: Source) -> None:
    """Raise `PrsaError` when modalities, bands, their names or their wavelengths are not those the model learnt from.

    Names and wavelengths are compared where both sides know them.
    """
    wanted = {m: source.sizes.get(f"{m}_band") for m in model.modalities}
    if wanted != model.bands:
        found = {str(d).removesuffix("_band"): n for d, n in source.sizes.items() if str(d).endswith("_band")}
        raise PrsaError(
            f"expected modalities and bands {model.bands}, got {found} in the scene. "
            "Use a scene of the sensors the model was trained on."
        )
    known = getattr(model, "card", {"modalities": {}})["modalities"]
    for m, told in known.items():
        names, here = told["names"], source.names(m)
        if names and here and names != here and sorted(names) == sorted(here):
            _refuse_order(m, [here.index(name) for name in names], f"{here[:6]} ...", f"{names[:6]} ...")
        if told["wavelength_nm"] and (found := source.wavelengths(m)):
            _check_wavelengths(m, np.array(told["wavelength_nm"]), np.array(found))


def _check_wavelengths(m: str, wanted: np.ndarray, found: np.ndarray) -> None:
    """Band by band: within 2 %, and nearer than halfway to the next band of the model."""
    between = np.abs(wanted[:, None] - wanted)
    np.fill_diagonal(between, np.inf)
    near = np.minimum(0.02 * wanted, between.min(1) / 2)
    wrong = np.flatnonzero(np.abs(found - wanted) > near)
    if not wrong.size:
        return
    texts = (" ".join(f"{nm:.0f}" for nm in some[:6]) + " ... nm" for some in (found, wanted))
    order = np.abs(wanted[:, None] - found).argmin(1)
    if len(set(order)) == len(order) and (np.abs(found[order] - wanted) <= near).all():
        _refuse_order(m, order.tolist(), *texts)
    i = wrong[0]
    raise PrsaError(
        f"{m}: expected the wavelengths the model was trained on, got others in {len(wrong)} of {len(wanted)} bands, "
        f"first {found[i]:.1f} nm instead of {wanted[i]:.1f} nm in band {i + 1}. Likely causes: another sensor, or "
        "other bands of it. Fix: give the model's bands, or train on this sensor."
    )


def _refuse_order(m: str, order: list[int], found: str, wanted: str) -> None:
    raise PrsaError(
        f"{m}: expected bands in the model's order ({wanted}), got the same in another ({found}). "
        f"Fix: scene = scene.isel({m}_band={order if len(order) <= 40 else 'their order'}); of rasters: rio stack "
        f"--bidx {','.join(str(i + 1) for i in order) if len(order) <= 40 else '...'}."
    )


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


def _by_tiles(model: PRSANet, pool: ThreadPoolExecutor, tile: int) -> Callable[[Block, Part], list[Future]]:
    """The function that lets the threads of the pool fill the part of a block."""
    logits = tile_logits(model)

    @torch.inference_mode()  # it holds for one thread only
    def work(block: Block, part: Part, rows: slice, cols: slice) -> None:
        place = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in ((rows, block.rows), (cols, block.cols)))
        part.keep(place, logits(block, rows, cols).softmax(0), block.empty(rows, cols))

    return lambda block, part: [pool.submit(work, block, part, *t) for t in pieces(block.rows, block.cols, tile, tile)]


def _by_pixels(model, halo: int) -> Callable[[Block, Part], list[Future]]:
    """The same for a comparator, which fills the part itself, patch by patch or pixel by pixel."""

    def work(block: Block, part: Part) -> list[Future]:
        empty = block.empty(block.rows, block.cols)
        values = {m: block.cut(m, block.rows, block.cols, halo) for m in model.modalities}
        grown = xr.Dataset({m: ((f"{m}_band", "y", "x"), v) for m, v in values.items()})
        centres = np.flatnonzero(np.pad(~empty, halo))
        for pixels, p in model.probabilities(grown, centres):
            y, x = np.unravel_index(pixels, (grown.sizes["y"], grown.sizes["x"]))
            part.keep((y - halo, x - halo), torch.from_numpy(p).T, np.zeros(len(pixels), bool))
        return []

    return work


def map_parts(model, source: Source, probabilities: bool = False, tile: int = TILE) -> Iterator[Part]:
    """Yield the map of a source part by part, row by row; the next block is read while this one is computed.

    Memory follows the block, not the scene. Raises `PrsaError` for other sensors than the model's.
    """
    check_sensors(model, source)
    halo = max(model.sides.values()) // 2
    ours = isinstance(model, PRSANet)
    with _tile_threads(model) if ours else contextlib.nullcontext() as pool:
        start = _by_tiles(model, pool, tile) if ours else _by_pixels(model, halo)
        begun: deque[tuple[Part, list[Future]]] = deque()
        for block in blocks(source, model.modalities, halo):
            part = Part.of(block, len(model.classes), probabilities)
            begun.append((part, start(block, part)))
            if len(begun) > 1:
                yield _done(*begun.popleft())
        while begun:
            yield _done(*begun.popleft())


def _done(part: Part, tiles: list[Future]) -> Part:
    """The part when all its tiles are; raises what a tile raised."""
    for tile in tiles:
        tile.result()
    return part


def predict_map(model, scene: xr.Dataset, probabilities: bool = False, tile: int = TILE) -> xr.DataArray | xr.Dataset:
    """Land cover of every pixel on the scene's own coordinates: ``(y, x)``, 1..K, and 0 where no sensor has data.

    ``model``: what `prsa.fit` or `prsa.load_model` returns; the classes are the model's. A PRSANet runs over tiles, as
    many at a time as torch has threads, a comparator patch by patch or pixel by pixel. The probability of the chosen
    class is the coordinate ``confidence``. With ``probabilities=True`` a Dataset of ``land_cover`` and
    ``probability (class, y, x)`` float32. Raises `PrsaError` for a scene that breaks the contract, and for other
    sensors, bands or wavelengths than the model's.
    """
    scene = check_scene(scene)
    shape, classes = (scene.sizes["y"], scene.sizes["x"]), len(model.classes)
    whole = Part.of(Block(SceneSource(scene), [], slice(0, shape[0]), slice(0, shape[1]), 0), classes, probabilities)
    for part in map_parts(model, SceneSource(scene), probabilities, tile):
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
