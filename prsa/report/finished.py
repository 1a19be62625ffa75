"""What is done with the finished runs of a study beside its tables: their state, an archive, a check of some."""

from collections.abc import Callable
from pathlib import Path

from .. import files
from ..study import archive
from ..study.plan import Plan
from ..study.provenance import GROUPS, STUDY
from ..study.status import status
from .text import COLUMNS


def inspect(
    study: Plan, jobs: int, state: bool, pack: Path | None, verify: int | None, say: Callable[[str], None] = print
) -> None:
    """Say the ``state`` of runs, tables and figures; ``pack`` the runs into a file; ``verify`` so many by training them
    again, ``jobs`` at a time. Raises `PrsaError` when there is nothing to pack, or a run comes out differently.
    """
    specs, preset = list(dict.fromkeys(study.specs + study.dial)), study.specs[0].preset
    if pack:
        there, missing = archive.pack(study, specs, pack)
        say(f"{there} runs in {pack} ({pack.stat().st_size / 1e6:.0f} MB); {missing} are missing")
    for line in archive.verify(study, specs, verify, jobs) if verify is not None else ():
        say(line)
    if state:
        tables = {name: GROUPS.get(name, STUDY) for name in COLUMNS}
        say("\n".join(status(study, files.results(preset), tables, jobs)))
