"""Marks: what was handed in, executed again with the given cells and the checks of the source.

It runs the code of students: use a machine, a container or an account where that does no harm.
"""

import copy
import json
import os
import tempfile
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from traitlets.config import Config

from .. import files
from ..errors import PrsaError
from .copies import sources, student, tagged

SECONDS = 600  # for a cell


def restored(handed_in: nbformat.NotebookNode, source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """What was handed in, with every cell of the source that is no solution as it was handed out and in its place; a
    student's own cells stay."""
    notebook, before = copy.deepcopy(handed_in), None
    for given in student(source).cells:
        ids = [cell.get("id") for cell in notebook.cells]
        if given.id not in ids:  # deleted
            notebook.cells.insert(ids.index(before) + 1 if before else 0, given)
        elif not tagged(given, "solution"):
            notebook.cells[ids.index(given.id)] = given
        before = given.id
    notebook.metadata = copy.deepcopy(source.metadata)
    return notebook


def execute(notebook: nbformat.NotebookNode, name: str) -> dict:
    """Execute a notebook in a kernel and a results folder of its own; the score, or {} when it wrote none."""
    quiet = Config(KernelManager={"transport_encryption": "auto"})  # without, kernels of this age print a warning
    with tempfile.TemporaryDirectory() as home:
        client = NotebookClient(notebook, timeout=SECONDS, allow_errors=True, config=quiet)
        try:
            client.execute(env=os.environ | {"PRSA_RESULTS": home, "JUPYTER_PREFER_ENV_PATH": "1"}, cwd=home)
        except (CellTimeoutError, DeadKernelError):  # what was right before counts
            pass
        path = Path(home, "course", "scores", f"{name}.json")
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def grade(folder) -> pd.DataFrame:
    """Grade ``folder/<student>/E*.ipynb``; writes ``scores.csv`` and, per notebook, the score as JSON beside it.

    Columns student, notebook, score, possible (0: no notebook, or it could not be executed), attempted. Raises
    `PrsaError` when nothing was handed in.
    """
    folder, rows = Path(folder), []
    books = {path.name: nbformat.read(path, as_version=4) for path in sources()}
    found = sorted(path for path in folder.glob("*/E*.ipynb") if path.name in books)
    if not found:
        raise PrsaError(
            f"expected notebooks {folder}/<student>/E1_by_hand.ipynb and so on, found none. Check the folder."
        )
    for path in found:
        try:
            handed_in = nbformat.read(path, as_version=4)
        except Exception:  # what is no notebook raises kinds of json, of nbformat and of the system
            score = {}
        else:
            score = execute(restored(handed_in, books[path.name]), path.stem)
        extra = score.get("extra_data", {"possible": 0, "verdicts": {}})
        attempted = sum(verdict != "not attempted" for verdict in extra["verdicts"].values())
        rows.append((path.parent.name, path.stem, score.get("score", 0), extra["possible"], attempted))
        files.write_text(json.dumps(score, indent=1) + "\n", path.with_suffix(".json"))
    table = pd.DataFrame(rows, columns=["student", "notebook", "score", "possible", "attempted"])
    files.write_text(table.to_csv(index=False, lineterminator="\n"), folder / "scores.csv")
    return table
