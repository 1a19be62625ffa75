"""House rules of the notebooks, read from the committed files; `make test` executes them in a call of its own."""

import ast
import re
from collections import Counter

import nbformat
import pytest

from prsa import files, reproduce

NOTEBOOKS = sorted(files.NOTEBOOKS.glob("*.ipynb"))
PARAMETERS = {"scenes", "seeds", "preset", "jobs", "device", "methods"}  # what `make reproduce` offers
OWN = {"rasters", "labels", "column", "classes", "method"}  # what the notebook on a reader's own files asks for
LINES, CODE, PROSE, CELLS = 15, 970, 0.5, range(20, 43)  # of a code cell, of all but those on new matters; share; count
NEW = ("12_",)

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def parameters(path):
    return [cell.source for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]


def test_the_notebooks_are_there_numbered_without_gaps():
    numbers = [int(path.name[:2]) for path in NOTEBOOKS if path.name[:2].isdigit()]
    assert numbers == list(range(len(numbers))) and len(numbers) >= 12, [path.name for path in NOTEBOOKS]


@each
def test_is_valid_without_outputs_and_names_the_kernel_of_the_project(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for number, cell in enumerate(code(path), 1):
        assert not cell.outputs and cell.execution_count is None, f"code cell {number} has outputs. Fix: clear them"
    kernel = {"name": reproduce.KERNEL, "display_name": f"Python ({reproduce.KERNEL})", "language": "python"}
    assert notebook.metadata.kernelspec == kernel, "python3 is whichever kernel of that name is found first"


@each
def test_parameters_are_plain_known_to_the_driver_and_those_of_the_quick_preset(path):
    sources = parameters(path)
    assert len(sources) == 1 or path.name.startswith("A"), "expected one code cell tagged parameters"
    lines = [line for source in sources for line in ast.parse(source).body]
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    assert set(values) == reproduce.declared(path), "papermill's parser wants one plain literal per line"
    scenes, seeds = reproduce.DEFAULTS["quick"]
    quick = {"preset": "quick", "scenes": list(scenes), "seeds": seeds, "methods": None}
    known = PARAMETERS | (OWN if path.name.startswith("12_") else set())
    assert set(values) <= known and {n: v for n, v in values.items() if n in quick}.items() <= quick.items()


@each
def test_cells_are_short_and_prose_leads(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# "), "expected a title first"
    long = {n: len(c.source.splitlines()) for n, c in enumerate(cells) if c.cell_type == "code"}
    long = {n: count for n, count in long.items() if count > LINES}
    assert not long, f"cells with more than {LINES} lines: {long}. Fix: plotting and helpers live in the package"
    share = sum(cell.cell_type == "markdown" for cell in cells) / len(cells)
    assert share >= PROSE and len(cells) in CELLS, f"{len(cells)} cells, {share:.0%} of them prose"
    assert any(re.search(r"^\s*assert ", cell.source, re.M) for cell in code(path)), "nbval needs an assert to check"


def test_code_is_little_and_no_helper_is_defined_twice():
    lines, helpers = 0, Counter()
    for path in NOTEBOOKS:
        for cell in code(path):
            lines += len(cell.source.splitlines()) * (not path.name.startswith(NEW))
            helpers.update(n.name for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.FunctionDef))
    assert not [name for name, count in helpers.items() if count > 1]
    assert lines <= CODE, f"{lines} lines of code in cells"


@each
def test_works_in_any_working_directory(path):
    for number, cell in enumerate(code(path), 1):
        assert not re.search(r"^\s*[%!]", cell.source, re.M), f"code cell {number}: no magics or shell lines"
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                relative = re.match(r"(\.\.?/|/|~|(data|results|notebooks)/)", node.value)
                assert not relative, f"code cell {number}: {node.value!r}; the working directory differs by tool"
            called = isinstance(node, ast.Attribute) and node.attr or isinstance(node, ast.Name) and node.id
            assert called not in {"getcwd", "cwd", "chdir", "__file__"}, f"code cell {number}: {called}"
