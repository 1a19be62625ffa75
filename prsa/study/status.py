"""What of a study is there, what is missing, and what is stale: made with other settings, scenes, code or packages."""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..config import to_json
from . import runs
from .plan import Plan, RunSpec
from .provenance import attributes, groups, recorded


def changes(attrs: dict) -> list[str]:
    """ "torch 1.0, now 2.6" for all that numbers depend on and that was another one when this run was trained."""
    now, then = runs.versions(), json.loads(attrs["versions"])
    return [f"{name} {then.get(name, 'unknown')}, now {now[name]}" for name in now if then.get(name) != now[name]]


def other_versions(found: Iterable[dict]) -> list[str]:
    """A line for everything that numbers depend on and another one when these runs (attributes) were trained."""
    counts = Counter(change for attrs in found for change in changes(attrs))
    return [
        f"{n} runs were trained with {what}: numbers may differ a little. Delete these runs to train them again."
        for what, n in counts.items()
    ]


def _difference(attrs: dict, plan: Plan, spec: RunSpec) -> str:
    """Why a run of the same scene, method and seed is not the one that is planned."""
    source = plan.source(spec.scene)
    config = source.config(spec)
    old, new = json.loads(attrs["config"]), json.loads(to_json(config))
    if attrs["scene_hash"] != source.hash:
        return "another scene: its file or its simulation changed"
    if changed := [f"{k} {old.get(k, 'unknown')}, now {v}" for k, v in new.items() if old.get(k, "unknown") != v]:
        return f"other settings: {'; '.join(changed)[:120]}"
    return (
        "another split"
        if attrs["split_hash"] != source.split(config).attrs["hash"]
        else "an earlier version of the code"
    )


class _Look:
    """What the run files of a plan say, read once."""

    def __init__(self, plan: Plan, specs: list[RunSpec]):
        self.plan, self.folder = plan, plan.path(specs[0]).parent
        missing = set(plan.missing(specs))
        self.found = {spec: attributes(plan.path(spec)) for spec in specs if spec not in missing}
        self.by_key = {plan.path(spec).name.rpartition("__")[0]: spec for spec in specs if not spec.overrides}
        planned = {plan.path(spec).name for spec in specs}
        self.others = defaultdict(list)  # files of a scene, method and seed that are not planned, default runs only
        for path in sorted(self.folder.glob("*.nc")) if self.folder.is_dir() else ():
            if path.name not in planned:
                self.others[path.name.rpartition("__")[0]].append(path)
        seconds = defaultdict(list)
        for spec, attrs in self.found.items():
            seconds[spec.method].append(float(attrs["seconds"]))
        self.seconds = {method: statistics.mean(values) for method, values in seconds.items()}

    def why(self, name: str) -> str:
        """Why a run file of this name is not among those planned."""
        key = name.rpartition("__")[0]
        path, spec = self.folder / name, self.by_key.get(key)
        if spec is None or not runs.is_finished(path):
            return "not planned, or deleted"
        attrs = attributes(path)
        return "not planned" if attrs["overrides"] != "{}" else _difference(attrs, self.plan, spec)

    def lacking(self, specs: list[RunSpec], jobs: int) -> str:
        """How many of the runs are missing, how long they take, and what similar ones there are."""
        gone = [spec for spec in specs if spec not in self.found]
        if not gone:
            return ""
        usual = statistics.mean(self.seconds.values()) if self.seconds else 0
        minutes = sum(self.seconds.get(spec.method, usual) for spec in gone) / jobs / 60
        time = f", about {minutes:.1f} min of training" if self.seconds else ""
        old = (self.others.get(self.plan.path(s).name.rpartition("__")[0]) for s in gone if not s.overrides)
        old = _counted(self.why(paths[-1].name) for paths in old if paths)
        return f"{len(gone)} of {len(specs)} runs are missing{time}{f'; there are {old}' if old else ''}"

    def stale(self, specs: list[RunSpec], made: list[str] | None) -> str:
        """What a table made of the files of these names does not hold or should not, and what made its runs."""
        old, new = set(made or ()), {self.plan.path(spec).name for spec in specs}
        if old - new:
            return f"stale: it holds {_counted(map(self.why, sorted(old - new)))}"
        if new - old:
            return f"stale: {len(new - old)} runs are not in it"
        then = _counted(f"trained with {what}" for s in specs if s in self.found for what in changes(self.found[s]))
        return f"stale: {then}" if then else ""


def _counted(reasons: Iterable[str]) -> str:
    """ "3 runs (other settings: lr 0.1, now 0.2), ..." with the most frequent first, three at most."""
    counts = Counter(reasons).most_common()
    return ", ".join(f"{n} runs ({reason})" for reason, n in counts[:3]) + (", ..." if len(counts) > 3 else "")


def status(plan: Plan, results: Path, tables: dict[str, str], jobs: int) -> list[str]:
    """Lines about runs and versions, and one per table and figure: up to date, missing runs with the time they take, or
    stale and why.

    ``tables``: group of runs of every table, see `prsa.study.provenance`; ``jobs``: processes at a time. Nothing is
    trained or written.
    """
    everything = list(dict.fromkeys(plan.specs + plan.dial))
    look, of, made = _Look(plan, everything), groups(plan), recorded(results / "tables")
    known = tables | made.get("of", {})
    where = {name: f"{name}.png" if "/" in name else f"tables/{name}.csv" for name in known}
    gone = {name for name in known if not (results / where[name]).is_file()}
    missing = {group: look.lacking(own, jobs) for group, own in of.items()}
    stale = {group: look.stale(own, made.get("groups", {}).get(group)) for group, own in of.items()}
    hashes = {name: plan.source(source).hash for name, source in zip(plan.scenes, plan.sources, strict=True)}
    if made.get("scenes", hashes) != hashes:
        stale["scenes"] = "stale: other scenes, or a scene changed"
    lines = [look.lacking(everything, jobs) or f"all {len(everything)} runs are there"]
    lines += other_versions(look.found.values())
    for name, group in known.items():
        there = "not written yet" if name in gone else stale.get(group, "stale: of another study")
        lines.append(f"{name:12} {missing.get(group) or there or 'up to date'}")
    return lines
