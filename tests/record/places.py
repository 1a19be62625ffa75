"""The study's methods on real places: two made from raster files by `prsa.scene_from_rasters`, three given as scenes.

``PYTHONPATH=tests python -m record.places RASTERS SCENES [--seeds 5] [--preset full] [--jobs 2] [--only para chile]``,
with the folders of real rasters and of real scenes. Polygons stay whole, other scenes are split into blocks or bring
their own split. Writes every table of the study to ``results/places/tables``; what was trained before is
not trained again.
"""

import argparse
import sys
from pathlib import Path

import prsa
from prsa import files
from prsa.data.rasters import show
from prsa.errors import PrsaError
from prsa.report import write_all
from prsa.study import execute
from prsa.study.plan import STUDY, Plan

LAND = {1: "water", 2: "trees", 3: "flooded vegetation", 4: "crops", 5: "built area", 9: "rangeland"}
RASTERS = {
    "para": (
        {"ms": "sentinel2.tif", "dem": "srtm.tif"},
        {"labels": "training_polygons.geojson", "column": "class", "title": "Para, Brazil: Sentinel-2 and SRTM"},
    ),
    "chile": (
        {"ms": "S2L2A.tif", "sar": "S1RTC.tif", "dem": "DEM.tif"},
        {"labels": "LULC.tif", "classes": LAND, "title": "Araucania, Chile: Sentinel-2, Sentinel-1 and DEM"},
    ),
}
SCENES = ("terramesh_chile", "sen1floods11_spain", "rstoolbox_sen2")


def sources(rasters: Path, scenes: Path, only: list[str], folder: Path) -> list[str]:
    """Paths of the scenes; those of raster files are made first, and described."""
    found = []
    for name in only:
        if name in RASTERS:
            sensors, how = RASTERS[name]
            how = how | {"labels": rasters / name / how["labels"], "name": name}
            scene = prsa.scene_from_rasters({m: rasters / name / file for m, file in sensors.items()}, **how)
            print(show(scene), end="\n\n")
            found.append(str(prsa.save_scene(scene, folder / f"{name}.nc")))
        else:
            found.append(str(scenes / f"{name}.nc"))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing and write the tables; 0, or 2 after an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rasters", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--preset", default="full")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--only", nargs="+", default=[*RASTERS, *SCENES], choices=[*RASTERS, *SCENES])
    given = parser.parse_args(arguments)
    out = files.results(given.preset) / "places"
    try:
        plan = Plan(sources(given.rasters, given.scenes, given.only, out), given.seeds, list(STUDY), given.preset)
        execute.run(plan, jobs=given.jobs)
        tables = write_all(plan.open(), plan.scenes, plan.splits, out / "tables")
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(tables["accuracy"].to_string(index=False), f"\nwritten to {out / 'tables'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
