"""How each method's own setting was chosen: as many trials for all, on development scenes, by the OA of their validation pixels.

`make tune` repeats it and writes ``results/tuning.csv``; a test compares the kept copy with `prsa.config.METHODS`. Random forest and SVM
choose on the validation pixels of every scene instead, see `prsa.comparators.classical`. Concatenation and late fusion have no setting of their own.
The values of both forms of PMR and of the networks were moved up once, by one step, because the first choice was the highest of the three.
"""

import sys

import pandas as pd

from prsa import files, metrics
from prsa.config import make_config
from prsa.errors import PrsaError
from prsa.report import tables
from prsa.reproduce import cores
from prsa.study import execute, plan

SCENES = ("sim-sar:100", "sim-sar:101", "sim-lidar:100", "sim-lidar:101")
TRIALS = {  # method -> its own setting and three values, about a factor of three apart around the published or usual one
    "concat+prm": ("lambda_p", (0.3, 1.0, 3.0)),
    "sagf": ("lambda_sa", (0.1, 0.3, 1.0)),
    "prsanet": ("lambda_p", (0.3, 1.0, 3.0)),
    "aux": ("lambda_aux", (0.3, 1.0, 3.0)),
    "ogm-ge": ("strength", (0.1, 0.3, 1.0)),
    "pmr": ("lambda_p", (1.0, 3.0, 10.0)),
    "pmr-code": ("lambda_p", (1.0, 3.0, 10.0)),
    "mmpareto": ("strength", (1.0, 1.5, 2.0)),
    "js": ("strength", (0.1, 0.3, 1.0)),
    "modality-dropout": ("strength", (0.1, 0.2, 0.4)),
    "endnet": ("lr", (1.5e-3, 4e-3, 1e-2)),
    "coupled-cnn": ("lr", (1.5e-3, 4e-3, 1e-2)),
    "s2enet": ("lr", (1.5e-3, 4e-3, 1e-2)),
    "mft": ("lr", (1.5e-3, 4e-3, 1e-2)),
}


def specs() -> list[plan.RunSpec]:
    """The runs of all trials, one seed each."""
    return [
        plan.RunSpec(scene, method, 0, "full", ((name, value),))
        for scene in SCENES
        for method, (name, values) in TRIALS.items()
        for value in values
    ]


def table(runs, of: list[plan.RunSpec]) -> pd.DataFrame:
    """One row per trial: ``method,setting,value,n_scenes,val_oa,chosen,in_use``; validation OA in points, mean over the scenes.

    ``chosen``: the highest of the method's trials (the first among equals); ``in_use``: the value of `prsa.config.METHODS`.
    """
    rows = [
        (
            spec.method,
            *spec.overrides[0],
            float(metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="val").values))),
        )
        for spec, run in zip(of, runs)
    ]
    frame = pd.DataFrame(rows, columns=["method", "setting", "value", "val_oa"])
    frame = (
        frame.groupby(["method", "setting", "value"], sort=False)["val_oa"]
        .agg(n_scenes="size", val_oa="mean")
        .reset_index()
    )
    frame["val_oa"] = frame["val_oa"].round(3)
    frame["chosen"] = [
        int(i == frame.loc[frame["method"].eq(m), "val_oa"].idxmax()) for i, m in frame["method"].items()
    ]
    frame["in_use"] = [
        int(getattr(make_config(m), name) == value)
        for m, name, value in frame[["method", "setting", "value"]].itertuples(index=False)
    ]
    return frame


def main() -> int:
    """Train what is missing and write the table; returns the exit code."""
    trials = specs()
    try:
        execute.run_grid(trials, cores())
        found = table(plan.open_runs(trials), trials)
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(found.to_string(index=False))
    tables.write_text(found.to_csv(index=False, lineterminator="\n"), files.results("full") / "tuning.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
