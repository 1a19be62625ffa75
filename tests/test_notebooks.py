"""House rules of the notebooks, read from the committed files; `make test` executes them with nbval in a call of its own."""

import ast
import json
import re

import nbformat
import pytest

from prsa import files, reproduce

NOTEBOOKS = sorted(files.NOTEBOOKS.glob("*.ipynb"))
PARAMETERS = {"scenes", "seeds", "preset", "jobs", "device", "methods"}  # what `make reproduce` offers
LINES, PROSE = 20, 0.45  # of a code cell at most; share of markdown cells at least

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def test_the_notebooks_are_there_numbered_without_gaps():
    numbers = [int(path.name[:2]) for path in NOTEBOOKS if path.name[:2].isdigit()]
    assert numbers == list(range(len(numbers))) and len(numbers) >= 9, [path.name for path in NOTEBOOKS]


@each
def test_is_valid_and_committed_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for number, cell in enumerate(code(path), 1):
        assert not cell.outputs and cell.execution_count is None, (
            f"code cell {number} has outputs. Fix: clear all outputs before saving"
        )


@each
def test_names_the_kernel_of_the_project(path):
    assert read(path).metadata.get("kernelspec") == {
        "name": reproduce.KERNEL,
        "display_name": f"Python ({reproduce.KERNEL})",
        "language": "python",
    }, "a notebook that says python3 gets whichever kernel of that name is found first"


@each
def test_declares_plain_parameters_the_driver_knows(path):
    tagged = [cell.source for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "expected one code cell tagged parameters"
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(tagged[0]).body}
    assert reproduce.declared(path) == set(values), "papermill reads one plain literal per line: no second =, no |"
    assert set(values) <= PARAMETERS and json.loads(json.dumps(values)) == values


@each
def test_defaults_are_the_quick_preset(path):
    tagged = next(cell.source for cell in code(path) if "parameters" in cell.metadata.get("tags", []))
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in ast.parse(tagged).body}
    scenes, seeds = reproduce.DEFAULTS["quick"]
    quick = {"preset": "quick", "scenes": list(scenes), "seeds": seeds, "methods": None}
    assert {name: quick[name] for name in values if name in quick} == {
        name: values[name] for name in values if name in quick
    }


@each
def test_cells_are_short_and_prose_leads(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# "), "expected a title first"
    long = {
        number: count
        for number, cell in enumerate(cells)
        if cell.cell_type == "code" and (count := len(cell.source.splitlines())) > LINES
    }
    assert not long, f"cells with more than {LINES} lines: {long}. Fix: plotting and helpers live in the package"
    share = sum(cell.cell_type == "markdown" for cell in cells) / len(cells)
    assert share >= PROSE, f"{share:.0%} of the cells are prose, expected {PROSE:.0%}"


@each
def test_checks_itself(path):
    assert any(re.search(r"^\s*assert ", cell.source, re.M) for cell in code(path)), "nbval needs an assert to check"


@each
def test_paths_come_from_prsa_paths(path):
    for number, cell in enumerate(code(path), 1):
        assert not re.search(r"^\s*[%!]", cell.source, re.M), (
            f"code cell {number}: no magics or shell lines; they tie it to one shell and folder"
        )
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"(\.\.?/|/|~|(data|results|notebooks)/)", node.value), (
                    f"code cell {number}: {node.value!r}; the working directory differs by tool"
                )
            called = isinstance(node, ast.Attribute) and node.attr or isinstance(node, ast.Name) and node.id
            assert called not in {"getcwd", "cwd", "chdir", "__file__"}, (
                f"code cell {number}: {called}; the working directory differs by tool"
            )
