"""The experiment behind the warning figure: one network trained with a random (leaking) and with a disjoint split.

``PYTHONPATH=tests python -m record.leakage SCENE [SEEDS]`` writes tables and figure to ``results/leakage/<scene>``.
"""

import sys

from prsa import files
from prsa.data.sources import open_scene
from prsa.errors import PrsaError
from prsa.figures.style import save
from prsa.figures.tables import warning
from prsa.report.leakage import by_distance, leakage
from prsa.study.leakage import compare


def main(source: str, seeds: str = "5") -> int:
    """Train and write; 0, or 2 after an error."""
    try:
        scene = open_scene(source)
        name = scene.attrs["name"]
        runs, splits = compare(scene, int(seeds), "concat", "full", "auto")
        table, distances = leakage(runs, {name: scene}, splits), by_distance(runs, {name: scene}, splits)
        out = files.results("full") / "leakage" / name.replace(":", "-")
        for frame, file in ((table, "leakage.csv"), (distances, "leakage_by_distance.csv")):
            files.write_text(frame.to_csv(index=False, float_format="%.3f", lineterminator="\n"), out / file)
        save(warning(table, distances), out / "leakage")
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
