"""What other processors may change: the same runs with other thread counts and instruction sets; `make machines`.

Sums in another order differ in the last digit, and training amplifies it. Environment variables let one processor act
as an older one. Writes ``results/machines.csv``, a row per setting and run.
"""

import json
import os
import subprocess
import sys

import pandas as pd

from prsa import files

RUNS = (("sim-sar", "concat"), ("sim-sar", "prsanet"), ("sim-lidar", "prsanet"))
SETTINGS = {
    "one thread": {},  # what every run of the study has
    "two threads": {"OMP_NUM_THREADS": "2"},
    "AVX2 only": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE4 only": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "BLAS of 2013": {"OPENBLAS_CORETYPE": "Haswell"},
    "BLAS of 2008": {"OPENBLAS_CORETYPE": "Nehalem"},
}
TRAIN = """import json, sys, prsa; from prsa import metrics
scene = prsa.open_scene(sys.argv[1]); run, _ = prsa.fit(scene, sys.argv[2], seed=0, device="cpu")
oa = metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="test").values))
print(json.dumps([float(oa), run["map"].values.tolist()]))"""


def train(scene: str, method: str, setting: dict[str, str]) -> tuple[float, list]:
    """Test OA in points and map of a run in a fresh process with these environment variables."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | setting
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, scene, method], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


def main() -> None:
    """Train, print and write the table: OA, its difference to one thread, and the share of the map that differs."""
    rows, base = [], {}
    for name, setting in SETTINGS.items():
        for run in RUNS:
            oa, land_cover = train(*run, setting)
            first, cover = base.setdefault(run, (oa, land_cover))
            pixels = pd.DataFrame(land_cover).ne(pd.DataFrame(cover)).to_numpy().mean()
            rows.append((name, *run, oa, oa - first, 100 * pixels))
            print(*rows[-1], flush=True)
    table = pd.DataFrame(rows, columns=["setting", "scene", "method", "oa", "difference", "other_pixels_percent"])
    print(f"largest difference in test OA: {table['difference'].abs().max():.2f} points")
    files.write_text(
        table.to_csv(index=False, float_format="%.3f", lineterminator="\n"), files.results("full") / "machines.csv"
    )


if __name__ == "__main__":
    main()
