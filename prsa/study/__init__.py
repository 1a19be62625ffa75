"""A study: which runs it has (`plan`), their training (`execute`, `fit`) in processes (`pool`) or on a `cluster`, what
is measured (`evaluate`, `degrade`), how it is stored (`runs`, `archive`) and what is stale (`status`, `provenance`).

    study = Plan(["sim-sar"], seeds=2, preset="quick")  # opens every scene once
    run(study)                                          # trains what is missing
    datasets = study.open()                             # the run files, each read once
"""

from .execute import run
from .plan import Plan, RunSpec, scene_and_split

__all__ = ["Plan", "RunSpec", "run", "scene_and_split"]
