"""The rooms of the package stand in one order, and every import looks only to rooms before its own: lazy imports included."""

import ast
import graphlib

from prsa.files import ROOT

ORDER = (
    "errors",
    "files",
    "config",
    "metrics",
    "data",
    "network",
    "training",
    "comparators",
    "mapping",
    "study",
    "report",
    "figures",
    "reproduce",
)
PACKAGE = ROOT / "prsa"


def imported(path):
    """Dotted modules of the package that a file imports, wherever in the file."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (
                (*here[: len(here) - node.level], *(node.module or "").split("."))
                if node.module
                else here[: len(here) - node.level]
            )
            for alias in node.names:
                inner = PACKAGE.joinpath(*base, alias.name)
                yield ".".join((*base, alias.name) if inner.is_dir() or inner.with_suffix(".py").is_file() else base)


FILES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p
    for p in sorted(PACKAGE.rglob("*.py"))
    if p.parent != PACKAGE or p.name != "__init__.py"
}


def test_every_file_stands_in_a_room_and_looks_only_down():
    assert {name.split(".")[0] for name in FILES} == set(ORDER)
    wrong = [
        f"{name} imports {target}"
        for name, path in FILES.items()
        for target in imported(path)
        if target and ORDER.index(target.split(".")[0]) > ORDER.index(name.split(".")[0])
    ]
    assert not wrong


def test_no_circle_between_files():
    list(
        graphlib.TopologicalSorter({name: set(imported(path)) - {name} for name, path in FILES.items()}).static_order()
    )
