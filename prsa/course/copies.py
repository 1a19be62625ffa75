"""Copies of the exercises for students and instructors, and a zip: all from one source per exercise.

Cells of ``notebooks/course/E*.ipynb`` are tagged. ``solution``: in a student's copy names, signatures and the keys of
dicts stay, every value is ``...``; a solution in words is left out. ``hint``: folded (``<details>``). ``check``: stays.
Nothing is written by hand twice.

The zip runs without git and without the repository: it is the package, the teaching results, the notebooks and the
student copies in the form of the repository, so that ``make env`` and ``make lab`` work in it as they do there.
"""

import ast
import copy
import itertools
import json
import zipfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .. import files
from ..errors import PrsaError

PLACE = Path("notebooks", "course")  # of the sources; in the zip, of the student copies
TEXTS = ("README.md", "LICENSE-TEXT")
WHOLE = ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile", "LICENSE", "README.md", "CITATION.cff")
WHOLE += ("prsa", "notebooks", "data/README.md", "results/reference/teaching", "results/reference/tables")
FOLDED = "<details><summary>Hint</summary>"
DATE = (2025, 1, 1, 0, 0, 0)  # of every member of the zip: the same content gives the same bytes


def sources() -> list[Path]:
    """The exercises in their order. Raises `PrsaError` without the repository."""
    found = sorted((files.ROOT / PLACE).glob("E[0-9]*.ipynb"))
    if not found:
        raise PrsaError(f"expected exercises in {files.ROOT / PLACE}, found none. Fix: call it in the repository.")
    return found


def placeholder(code: str) -> str:
    """A solution without its values: names, signatures, docstrings, keys and the first comments stay.

    Names that begin with ``_`` and statements without a name are left out.
    """
    lines = code.splitlines()

    def stub(node: ast.stmt, indent: str = "") -> list[str]:
        if getattr(node, "name", "").startswith("_"):
            return []
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first = node.body[0]
            end = first.lineno - 1 if ast.get_docstring(node) is None else first.end_lineno
            methods = node.body if isinstance(node, ast.ClassDef) else []
            inner = [line for child in methods for line in stub(child, indent + "    ")]
            return [*lines[node.lineno - 1 : end], *(inner or [f"{indent}    ..."])]
        if isinstance(node, ast.Assign):
            names = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            return [f"{indent}{name} = {_dots(node.value)}" for name in names if not name.startswith("_")]
        return []

    kept = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    for node in ast.parse(code).body:
        kept += stub(node)
    return "\n".join(kept) or "..."


def _dots(value: ast.expr) -> str:
    """``...``, or a dict with its keys; one line for each where there are many."""
    if not isinstance(value, ast.Dict) or not all(isinstance(key, ast.Constant) for key in value.keys):
        return "..."
    items = [f"{json.dumps(key.value)}: ..." for key in value.keys]
    return "{" + ", ".join(items) + "}" if len(items) < 4 else "{\n    " + ",\n    ".join(items) + ",\n}"


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell.metadata.get("tags", [])


def student(notebook: NotebookNode) -> NotebookNode:
    """A student's copy; of a student's copy, the same."""
    notebook = copy.deepcopy(notebook)
    notebook.cells = [c for c in notebook.cells if not (tagged(c, "solution") and c.cell_type == "markdown")]
    for cell in notebook.cells:
        if tagged(cell, "solution"):
            cell.source = placeholder(cell.source)
        elif tagged(cell, "hint") and not cell.source.startswith(FOLDED):
            cell.source = f"{FOLDED}\n\n{cell.source}\n\n</details>"
    return notebook


def _members(root: Path):
    """Files of the repository that go into the zip, by their names in it."""
    for name in WHOLE:
        place = root / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
            if path.is_file() and not hidden and PLACE not in path.relative_to(root).parents:
                yield path.relative_to(root).as_posix(), path.read_bytes()
    for name in TEXTS:
        yield (PLACE / name).as_posix(), (root / PLACE / name).read_bytes()


def write(folder: Path | None = None) -> list[Path]:
    """Write ``student/``, ``instructor/`` and ``prsa-course.zip`` (default: ``course`` in the results); the paths."""
    folder = files.results() / "course" if folder is None else Path(folder)
    books = {path.name: nbformat.read(path, as_version=4) for path in sources()}
    students = {name: nbformat.writes(student(book)) + "\n" for name, book in books.items()}
    paths = [files.write_text(text, folder / "student" / name) for name, text in students.items()]
    paths += [
        files.write_text(nbformat.writes(book) + "\n", folder / "instructor" / name) for name, book in books.items()
    ]
    for name in TEXTS:
        text = (files.ROOT / PLACE / name).read_text(encoding="utf-8")
        paths += [files.write_text(text, folder / kind / name) for kind in ("student", "instructor")]
    members = dict(_members(files.ROOT)) | {(PLACE / name).as_posix(): text.encode() for name, text in students.items()}
    archive = folder / "prsa-course.zip"
    with files.whole(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in sorted(members.items()):
            entry = zipfile.ZipInfo(f"prsa-course/{name}", DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(entry, data)
    return [*paths, archive]
