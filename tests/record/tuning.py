"""How each method's own setting was chosen: as many trials for all, by the accuracy of validation pixels.

`make tune` repeats it on development scenes and writes ``results/tuning.csv``; a test compares the kept copy with
`prsa.config.METHODS`. Random forest and SVM choose on the validation pixels of every scene instead. Concatenation and
late fusion have no setting of their own. The values of both forms of PMR and of the networks were moved up once, by one
step, because the first choice was the highest of the three.
"""

import sys

import numpy as np
import pandas as pd

from prsa import files, metrics
from prsa.config import make_config
from prsa.errors import PrsaError
from prsa.study import cluster, execute, plan

SCENES = ("sim-sar:100", "sim-sar:101", "sim-lidar:100", "sim-lidar:101")
TRIALS = {  # method -> its setting and three values, about a factor of three apart around the published or usual one
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
    """One row per trial; ``val_oa``: OA of the validation pixels, points, mean over the scenes.

    ``chosen``: the highest of the method's trials (the first among equals); ``in_use``: what the study has.
    """
    oa = [metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="val").values)) for run in runs]
    keys = ["method", "setting", "value"]
    rows = pd.DataFrame([(spec.method, *spec.overrides[0]) for spec in of], columns=keys).assign(val_oa=np.float64(oa))
    found = rows.groupby(keys, sort=False)["val_oa"].agg(n_scenes="size", val_oa="mean").reset_index().round(3)
    best = found.groupby("method")["val_oa"].idxmax()
    used = [getattr(make_config(method), name) == value for method, name, value in found[keys].itertuples(index=False)]
    return found.assign(chosen=found.index.isin(best).astype(int), in_use=np.array(used).astype(int))


def main(where: str = "") -> int:
    """Train what is missing, on a cluster if one is named, and write the table; returns the exit code."""
    trials = specs()
    try:
        study = plan.Plan(list(SCENES), 1, list(TRIALS))
        execute.run(study, trials, executor=cluster.executor(where) if where else execute.pool)
        found = table(study.open(trials), trials)
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(found.to_string(index=False))
    files.write_text(found.to_csv(index=False, lineterminator="\n"), files.results("full") / "tuning.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
