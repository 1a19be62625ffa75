"""A map of a whole Sentinel tile from disk: speed beside a scene in memory, and memory. Never a timed test.

``python -m record.tile RASTERS FOLDER [SIDE]``, in the folder tests. RASTERS holds chile/S2L2A.tif, chile/S1RTC.tif and
chile/LULC.tif, whose pixels are laid side by side, mirrored, to 12 bands of int16 and 2 of float32, SIDE x SIDE pixels
(default: 10,980, as a Sentinel-2 tile has). FOLDER takes 3 GB; ``results/bench/tile.csv`` gets the figures.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
import torch
import xarray as xr
from rasterio.windows import Window
from record import bench

import prsa
from prsa.data.windowed import open_windowed
from prsa.mapping import land_cover

SIDE, CROP, ROWS = 10_980, 1024, 512  # pixels: of the tile, of the scene in memory, written at a time
SENSORS = {"ms": ("S2L2A.tif", "int16"), "sar": ("S1RTC.tif", "float32")}


def write_tile(source: Path, target: Path, dtype: str, side: int) -> None:
    """A raster of side x side pixels, compressed in blocks as such files come, from a small one mirrored."""
    with rasterio.open(source) as file:
        values, profile = file.read().astype(dtype), file.profile
    at = [reflected(np.arange(side), n) for n in values.shape[1:]]
    profile |= {"driver": "GTiff", "height": side, "width": side, "dtype": dtype, "compress": "DEFLATE", "zlevel": 1}
    profile |= {"tiled": True, "blockxsize": ROWS, "blockysize": ROWS, "interleave": "band", "bigtiff": "YES"}
    with rasterio.open(target, "w", **profile, num_threads="ALL_CPUS") as file:
        for top in range(0, side, ROWS):
            rows = values[:, at[0][top : top + ROWS]][:, :, at[1]]
            file.write(rows, window=Window(0, top, side, rows.shape[1]))


def reflected(index: np.ndarray, n: int) -> np.ndarray:
    """Positions in 0..n-1, there and back again."""
    return np.minimum(index % (2 * n), 2 * n - 1 - index % (2 * n))


def in_memory(model, rasters: dict[str, str], side: int) -> tuple[float, float]:
    """Pixels per second, and per second of processor time, of `prsa.predict_map` of the tile's first corner."""
    with open_windowed(rasters) as opened:
        square = slice(0, side), slice(0, side)
        scene = xr.Dataset({m: ((f"{m}_band", "y", "x"), opened.read(m, *square)) for m in rasters})
    start, used = time.perf_counter(), time.process_time()
    prsa.predict_map(model, scene)
    return side**2 / (time.perf_counter() - start), side**2 / (time.process_time() - used)


def from_disk(folder: Path) -> None:
    """Map the tile, and print seconds, those of the processor, those before the last step, and the peak memory (MB)."""
    model, rasters, laps = prsa.load_model(folder / "model.safetensors"), files(folder), []
    start, used = time.perf_counter(), time.process_time()
    land_cover(model, rasters, folder / "land_cover.tif", on_part=lambda *_: laps.append(time.perf_counter() - start))
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "processor": processor, "before_cog": laps[-1], "peak_mb": peak}))


def files(folder: Path) -> dict[str, str]:
    """Modality -> raster of the tile."""
    return {m: str(folder / name) for m, (name, _) in SENSORS.items()}


def main(source: Path, folder: Path, side: int = SIDE) -> pd.DataFrame:
    """Write tile and model where they are missing, map both ways, and write the table.

    ``share_of_rate``: of the convolution rate with all threads, the better of those before and after the tile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, dtype in SENSORS.values():
        if not (folder / name).is_file() or rasterio.open(folder / name).width != side:
            write_tile(source / name, folder / name, dtype, side)
    if not (folder / "model.safetensors").is_file():
        small = {m: source / name for m, (name, _) in SENSORS.items()}
        scene = prsa.scene_from_rasters(small, source / "LULC.tif", name="chile")
        prsa.save_model(prsa.fit(scene, "prsanet", preset="quick")[1], folder / "model.safetensors")
    model = prsa.load_model(folder / "model.safetensors")
    cpu, macs = torch.device("cpu"), model.complexity()["macs_pixel"]
    rate = bench.rates(cpu)["convolution"]
    before = [in_memory(model, files(folder), min(side, CROP)) for _ in range(2)]
    command = [sys.executable, "-m", "record.tile", "map", folder]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    after = [in_memory(model, files(folder), min(side, CROP)) for _ in range(2)]
    rate = max(rate, bench.rates(cpu)["convolution"])
    memory, processor = np.median(before + after, axis=0)
    row = {"side": side, "threads": torch.get_num_threads(), **found, "pixels_per_s": side**2 / found["seconds"]}
    row |= {"in_memory_pixels_per_s": memory, "ratio": side**2 / found["seconds"] / memory}
    row |= {"gmacs_per_s": macs * row["pixels_per_s"] / 1e9, "share_of_rate": macs * row["pixels_per_s"] / rate}
    # Other load on the machine says less there.
    row["ratio_of_processor_time"] = side**2 / found["processor"] / processor
    table = pd.DataFrame([row]).round(3)
    bench.write(table, "tile")
    return table


if __name__ == "__main__":
    if sys.argv[1] == "map":
        from_disk(Path(sys.argv[2]))
    else:
        print(main(Path(sys.argv[1], "chile"), Path(sys.argv[2]), *map(int, sys.argv[3:])).T.to_string())
