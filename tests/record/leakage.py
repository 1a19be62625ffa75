"""The experiment behind the warning figure: one network trained with ``random`` and with ``blocks``."""

import argparse
import sys

from prsa import files, metrics
from prsa.data.leakage import kind_label
from prsa.data.sources import open_scene
from prsa.errors import PrsaError
from prsa.figures.leakage_plots import warning
from prsa.figures.style import save
from prsa.files import write_text
from prsa.report.leakage import by_distance, leakage
from prsa.study.leakage import compare


def main(argv: list[str] | None = None) -> int:
    """``python -m record.leakage SCENE``: tables and the warning figure in ``results/leakage/<scene>/``; 0, or 2 after an error."""

    parser = argparse.ArgumentParser(
        prog="python -m record.leakage",
        description="Accuracy with a random (leaking) and with a spatially disjoint split.",
    )
    parser.add_argument("scene", help="a name or a .nc file")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--method", default="concat")
    parser.add_argument("--preset", default="full")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(argv)
    try:
        scene = open_scene(options.scene)
        name = scene.attrs["name"]

        def told(run):
            print(
                f"{name}, {kind_label(run.attrs['split_kind'])}, seed {run.attrs['seed']}: "
                f"OA {metrics.points(metrics.oa(run['confusion'].sel(head='fused', part='test').values)):.1f} ({run.attrs['seconds']:.0f} s)",
                flush=True,
            )

        runs, splits = compare(scene, options.seeds, options.method, options.preset, options.device, told)
        table, distances = leakage(runs, {name: scene}, splits), by_distance(runs, {name: scene}, splits)
        out = files.results(options.preset) / "leakage" / name.replace(":", "-")
        for frame, file in ((table, "leakage.csv"), (distances, "leakage_by_distance.csv")):
            write_text(frame.to_csv(index=False, float_format="%.3f", lineterminator="\n"), out / file)
        save(warning(table, distances), out / "leakage")
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
