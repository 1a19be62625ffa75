"""Where a number comes from: the run files behind every table and figure, and one line that names them.

The driver writes `MADE_OF` beside the tables: the run files of every group of runs, and the group of every table and
figure. ``prsa runs accuracy`` prints the files of one of them.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

from scipy.io import netcdf_file

from .. import files
from ..errors import PrsaError
from .plan import ABLATIONS, Plan, RunSpec

MADE_OF = "runs.json"  # beside the tables
PLAIN = re.compile(r"[^\w.+-]")  # what the names of figures have no place for
STUDY = "study"  # the group of every table that is not among these
GROUPS = {"datasets": "scenes", "sensitivity": "sensitivity", "dial": "dial", "trend": "dial", "claims": "claims"}
GROUPS |= dict.fromkeys(("ablation", "imbalance", "recovery", "complexity"), "ablation")


def groups(plan: Plan) -> dict[str, list[RunSpec]]:
    """The runs of a plan that the tables of each group are made of, and those that the figures of each scene show."""
    plain = [spec for spec in plan.specs if not spec.overrides]
    changed = {spec.scene for spec in plan.specs if spec.overrides}
    found = {"scenes": [], STUDY: [spec for spec in plain if spec.method not in ABLATIONS], "ablation": plain}
    found["sensitivity"] = [spec for spec in plan.specs if spec.scene in changed and spec.method == "prsanet"]
    found |= {"dial": plan.dial, "claims": list(dict.fromkeys(plain + plan.dial))}
    own = zip(plan.sources, plan.scenes, strict=True)
    return found | {f"scene {name}": [spec for spec in plain if spec.scene == source] for source, name in own}


def of_figures(names: Iterable[str], stems: dict[str, str], plan: Plan) -> dict[str, str]:
    """Group of each figure, as ``figures/name``: that of the table it shows, or that of its scene.

    ``stems``: how the names of a table's figures begin -> the table.
    """
    found = {}
    for name in names:
        shown = [stem for stem in stems if name == stem or name.startswith(f"{stem}_")]
        here = [scene for scene in plan.scenes if name.endswith(f"_{PLAIN.sub('-', scene)}")]
        group = GROUPS.get(stems[shown[0]], STUDY) if shown else f"scene {max(here, key=len)}" if here else STUDY
        found[f"figures/{name}"] = group
    return found


def record(
    plan: Plan, specs: Iterable[RunSpec], tables: Iterable[str], drawn: Iterable[Path], kinds: Iterable, folder: Path
) -> None:
    """Write `MADE_OF`: those of these runs that each group has, and the group of each table and figure.

    ``drawn``: the files of the figures; ``kinds``: how the names of a table's figures begin, that table, and more.
    """
    group = {name: GROUPS.get(name, STUDY) for name in tables}
    group |= of_figures(dict.fromkeys(path.stem for path in drawn), {stem: table for stem, table, *_ in kinds}, plan)
    there = set(specs)
    made = {name: sorted(plan.path(s).name for s in own if s in there) for name, own in groups(plan).items()}
    scenes = {name: plan.source(source).hash for name, source in zip(plan.scenes, plan.sources, strict=True)}
    files.write_text(json.dumps({"groups": made, "scenes": scenes, "of": group}, indent=1) + "\n", folder / MADE_OF)


def recorded(folder: Path) -> dict:
    """What `record` wrote into a folder of tables; empty where it wrote nothing."""
    made = folder / MADE_OF
    found = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else {}
    return found if isinstance(found, dict) else {}  # earlier versions wrote a list


def attributes(path: Path) -> dict:
    """The attributes of a finished run, without its arrays: ten times faster than `runs.load_run`."""
    with netcdf_file(path, mmap=True) as file:
        return {key: v.decode() if isinstance(v, bytes) else v for key, v in file._attributes.items()}


def runs_of(name: str, results: Path) -> list[Path]:
    """The run files of a table or figure in a results folder. Raises `PrsaError` for one that was not written."""
    found = recorded(results / "tables")
    name = name if name in found.get("of", ()) else f"figures/{name}"
    if name not in found.get("of", ()):
        known = ", ".join(sorted(found.get("of", ()))) or "none; make reproduce and make quick write them"
        raise PrsaError(
            f"expected a table or figure of {results}, got {name.removeprefix('figures/')!r}. There are: {known[:600]}."
        )
    return [results / "runs" / file for file in found["groups"][found["of"][name]]]


@cache
def commit() -> str:
    """ "commit 2972c6f" where the package lies in its repository, else its version, "prsa 0.1.0"."""
    ask = ("git", "-C", str(files.ROOT))
    try:
        inside, head = (
            subprocess.run([*ask, "rev-parse", *what], capture_output=True, text=True, check=True).stdout.strip()
            for what in (["--show-prefix"], ["--short", "HEAD"])
        )
        changed = subprocess.run([*ask, "diff", "--quiet", "HEAD", "--", "prsa"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        inside = "no repository"
    return f"prsa {version('prsa')}" if inside else f"commit {head}{' with changes' if changed else ''}"


@cache
def _digest(path: Path, time: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def line(paths: Iterable[Path]) -> str:
    """One line for a set of run files: "305 runs, set 3fa9c1d2, commit 2972c6f".

    The set is a hash of the files' names and contents, in any order. Raises `PrsaError` for a file that is not there.
    """
    paths = sorted({Path(path) for path in paths}, key=lambda path: path.name)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise PrsaError(f"expected {len(paths)} run files, {len(missing)} are missing, first {missing[0]}.")
    stats = [path.stat() for path in paths]
    text = "".join(f"{path.name} {_digest(path, s.st_mtime_ns, s.st_size)}\n" for path, s in zip(paths, stats))
    return f"{len(paths)} runs, set {hashlib.sha256(text.encode()).hexdigest()[:8]}, {commit()}"
