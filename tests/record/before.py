"""This code beside an older commit of it, on one machine: ``results/bench/before_after.csv``. Never a timed test.

``python -m record.before CLONE``, in the folder tests; CLONE is a second clone of the project at the older commit, e.g.
``git worktree add --detach CLONE c9161d7``. The code of both is called by this file, in fresh processes of one Python
environment and one thread, before and after in turn, so that other load meets both; a figure is the median of `PAIRS`.
Seconds are the processor's, but for the start of a worker, which waits. About 8 minutes on an idle machine.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENES, METHODS = ("sim-sar", "sim-lidar", "sim-tri"), ("concat", "prsanet")
PAIRS, SIDE = 3, 512  # repetitions; pixels on a side of the mapped scene
EPOCHS = 0  # of a run whose time counts; 0: the study's
HERE = Path(__file__).resolve().parents[2]


def imports() -> dict[str, float]:
    """Seconds until the package, and what trains a run, are there."""
    start = time.process_time()
    importlib.import_module("prsa")
    package = time.process_time() - start
    importlib.import_module("prsa.study.fit")
    return {"import prsa (s)": package, "import prsa.study.fit (s)": time.process_time() - start}


def ready() -> float:
    """In a worker: the clock when it could begin a run."""
    importlib.import_module("prsa.study.fit")
    return time.time()


def worker() -> dict[str, float]:
    """Seconds from the call of a pool until its process could begin a run."""
    from prsa.study.pool import workers

    start = time.time()
    with workers(1, ready, [()]) as futures:
        (future,) = futures
        return {"a worker is ready after (s, waiting)": future.result() - start}


def study(scene: str, method: str) -> dict[str, float]:
    """Seconds of training and of evaluation of a run, their share, and the size of its file."""
    import torch

    from prsa.study import fit, runs
    from prsa.study.plan import scene_and_split
    from prsa.training.loop import Trainer

    torch.set_num_threads(1)
    opened, split = scene_and_split(scene)
    importlib.import_module("sklearn.linear_model")  # which evaluation loads when it first needs it
    seconds = {}

    def timed(name, function):
        def call(*given, **options):
            start = time.process_time()
            result = function(*given, **options)
            seconds[name] = time.process_time() - start
            return result

        return call

    Trainer.run, fit.evaluate = timed("training", Trainer.run), timed("evaluation", fit.evaluate)
    start = time.process_time()
    run, _ = fit.fit(opened, method, split, device="cpu", **({"epochs": EPOCHS} if EPOCHS else {}))
    whole, where = time.process_time() - start, f"{method}, {scene}"
    with tempfile.TemporaryDirectory() as folder:
        path = runs.save_run(run.assign_attrs(run_id="0" * 16), Path(folder, "run.nc"))
        size = path.stat().st_size / 1e6
    return {
        f"training, {where} (s)": seconds["training"],
        f"evaluation, {where} (s)": seconds["evaluation"],
        f"evaluation, share of the run, {where}": seconds["evaluation"] / whole,
        f"run file, {where} (MB)": size,
    }


def maps(method: str) -> dict[str, float]:
    """Pixels per second of a map of a scene in memory."""
    import torch
    from record.bench import noise_scene

    from prsa.config import make_config
    from prsa.data.splits import split_scene
    from prsa.mapping import predict_map
    from prsa.training.loop import Trainer

    torch.set_num_threads(1)
    scene = noise_scene((SIDE, SIDE))
    model = Trainer(scene, split_scene(scene), make_config(method), 0, torch.device("cpu")).model.eval()
    predict_map(model, scene.isel(x=slice(SIDE // 4)))
    start = time.process_time()
    predict_map(model, scene)
    return {f"map, {method} (pixels per s)": SIDE**2 / (time.process_time() - start)}


def draw(folder: str) -> dict[str, float]:
    """Seconds to write the figures of the same small study, whose runs lie in a folder; trains what is missing."""
    from prsa import figures, report
    from prsa.study.execute import run
    from prsa.study.plan import Plan

    os.environ["PRSA_RESULTS"] = folder
    plan = Plan(["sim-sar"], 1, list(METHODS), "quick")
    run(plan, jobs=1, device="cpu")
    found = plan.open()
    tables = report.write_all(found, plan.scenes, plan.splits, Path(folder, "tables"))
    start = time.process_time()
    paths = figures.write_all(tables, found, Path(folder, "figures"), plan.scenes, plan.splits)
    seconds = time.process_time() - start
    return {"figures of a small study (s)": seconds, "figures of a small study (files)": len(paths)}


def measured(clone: Path, name: str, given: list) -> dict[str, float]:
    """What a function of this file returns in a fresh process with the package of a clone."""
    here = Path(__file__).resolve()
    environment = os.environ | {"PYTHONPATH": f"{clone}{os.pathsep}{here.parents[1]}", "OMP_NUM_THREADS": "1"}
    constants = {name: globals()[name] for name in ("SIDE", "EPOCHS")}
    command = [sys.executable, "-W", "ignore", here, json.dumps([str(clone), name, given, constants])]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=clone)
    return json.loads(done.stdout.splitlines()[-1])


def calls(folder: str) -> list[tuple[str, list]]:
    """Functions of this file with their arguments."""
    found = [("imports", []), ("worker", []), *(("study", [s, m]) for s in SCENES for m in METHODS)]
    return [*found, *(("maps", [method]) for method in METHODS), ("draw", [folder])]


def main(clone: Path) -> None:
    """Measure both and write the table."""
    import pandas as pd
    from record.bench import write

    sides, rows = {"before": clone, "after": HERE}, {}
    with tempfile.TemporaryDirectory() as folder:
        folders = {side: str(Path(folder, side)) for side in sides}
        for side, where in sides.items():
            measured(where, "draw", [folders[side]])  # trains the runs, and matplotlib lists its fonts once
        for pair in range(PAIRS):
            for number in range(len(calls(folder))):
                for side in sorted(sides, reverse=pair % 2 == 0):
                    name, given = calls(folders[side])[number]
                    for quantity, value in measured(sides[side], name, given).items():
                        rows.setdefault(quantity, {}).setdefault(side, []).append(value)
                        print(side, quantity, f"{value:.4g}", flush=True)
    table = pd.DataFrame(
        [{"quantity": name} | {side: statistics.median(of[side]) for side in sides} for name, of in rows.items()]
    )
    table["after_over_before"] = table["after"] / table["before"]
    write(table.assign(pairs=PAIRS), "before_after")


if __name__ == "__main__":
    if sys.argv[1].startswith("["):
        where, function, arguments, settings = json.loads(sys.argv[1])
        globals().update(settings)
        result = globals()[function](*arguments)
        assert Path(importlib.import_module("prsa").__file__).is_relative_to(where), "another package was measured"
        print(json.dumps(result))
    else:
        main(Path(sys.argv[1]).resolve())
