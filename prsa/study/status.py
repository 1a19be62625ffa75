"""What of a study is there, what is missing, and what was made by other code or packages than those installed now."""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from . import runs
from .plan import Plan

MADE_OF = "runs.json"  # beside the tables: the names of the run files that they were made of


def other_versions(found: Iterable[xr.Dataset]) -> list[str]:
    """A line for everything that numbers depend on and that was another one when these runs were trained."""
    now, counts = runs.versions(), Counter()
    for run in found:
        then = json.loads(run.attrs["versions"])
        counts.update((name, then.get(name, "unknown")) for name in now if then.get(name) != now[name])
    return [
        f"{n} runs were trained with {name} {then}, now it is {now[name]}: numbers may differ a little. "
        "Delete these runs to train them again."
        for (name, then), n in counts.items()
    ]


def status(plan: Plan, tables: Path, names: Iterable[str], jobs: int) -> list[str]:
    """Lines about runs and versions, and one per table: up to date, missing runs with the time they take, or stale.

    ``tables``: the folder; ``names``: of all tables; ``jobs``: processes at a time. Nothing is trained or written.
    """
    everything = list(dict.fromkeys(plan.specs + plan.dial))
    missing = set(plan.missing(everything))
    found = {spec: run for spec in everything if spec not in missing for run in plan.open([spec])}
    seconds = defaultdict(list)
    for spec, run in found.items():
        seconds[spec.method].append(float(run.attrs["seconds"]))
    known = {method: statistics.mean(values) for method, values in seconds.items()}
    usual = statistics.mean(known.values()) if known else float("nan")

    def lacking(specs) -> str:
        gone = [spec for spec in specs if spec in missing]
        minutes = sum(known.get(spec.method, usual) for spec in gone) / jobs / 60
        time = f", about {minutes:.1f} min of training" if known else ""
        return f"{len(gone)} of {len(specs)} runs are missing{time}" if gone else ""

    made = tables / MADE_OF
    old = set(json.loads(made.read_text())) if made.is_file() else set()
    new = {plan.path(spec).name for spec in found}
    stale = f"stale: {len(new - old)} runs are not in it" if new - old else ""
    stale = stale or (f"stale: {len(old - new)} runs of another study or code are in it" if old - new else "")
    lines = [lacking(everything) or f"all {len(everything)} runs are there", *other_versions(found.values())]
    for name in names:
        plain = [spec for spec in plan.specs if not spec.overrides]
        of = {"sensitivity": plan.specs, "dial": plan.dial, "trend": plan.dial, "claims": everything}.get(name, plain)
        gone = "" if (tables / f"{name}.csv").is_file() else "not written yet"
        lines.append(f"{name:12} {lacking(of) or gone or stale or 'up to date'}")
    return lines
