"""House rules of the notebooks, read from the committed files; `make test` executes them."""

import ast
import re
from collections import Counter

import nbformat
import pytest

from prsa import files, network, reproduce

NOTEBOOKS = sorted(files.NOTEBOOKS.glob("*.ipynb"))
PARAMETERS = {"scenes", "seeds", "preset", "jobs", "device", "methods", "study"}  # what `make reproduce` offers
READERS = tuple(f"{number:02}_" for number in range(4, 12))  # open a study and train nothing
OWN = {"rasters", "labels", "column", "classes", "method"}  # what the notebook on a reader's own files asks for
LINES, CODE, PROSE, CELLS = 15, 970, 0.5, range(20, 43)  # of a code cell, of all but those on new matters; share; count
NEW = ("12_", "13_")
SHORT = ("13_",)  # the playground: its controls say the rest

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
    quick = {"preset": "quick", "scenes": list(scenes), "seeds": seeds}
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
    enough = len(cells) in CELLS or path.name.startswith(SHORT)
    assert share >= PROSE and enough, f"{len(cells)} cells, {share:.0%} of them prose"
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


@each
def test_those_that_read_a_study_open_the_teaching_runs_and_train_nothing(path):
    if not path.name.startswith(READERS):
        assert path.name.startswith(SHORT) or "open_study" not in "".join(cell.source for cell in code(path))
        return
    assert parameters(path) == ['study = "teaching"']
    trees = [ast.parse(cell.source) for cell in code(path)]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    called = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "open_study" in used and not {"fit", "run", "execute"} & (used | called - {"run"})


@each
def test_every_prediction_is_answered_below_what_settles_it(path):
    said = re.findall(
        r"\*\*Predict\*\*|<summary>Answer</summary>|\bchoice\(|^figure$",
        "\n".join(
            "figure" if cell.cell_type == "code" and "choice(" not in cell.source else cell.source
            for cell in read(path).cells
        ),
        re.M,
    )
    open_, seen = False, False
    for what in said:
        if what == "**Predict**":
            assert not open_, "two predictions without an answer between them"
            open_, seen = True, False
        elif what == "figure":
            seen = True
        else:
            assert open_ and seen, "an answer without a prediction, or before the cell that settles it"
            open_ = False
    assert not open_, "the last prediction has no answer"


@each
def test_ends_with_where_to_go_and_answers_are_well_formed(path):
    last = read(path).cells[-1].source
    assert re.search(r"^\*\*Next:\*\* ", last, re.M), "expected a line **Next:** at the end"
    for cell in read(path).cells:
        assert cell.source.count("<details>") == cell.source.count("</details>")
        assert "<details>" not in cell.source or "</summary>\n\n" in cell.source, "Markdown needs the empty line"


def test_the_glossary_has_every_symbol_of_the_equations_and_the_terms_a_reader_needs():
    text = (files.NOTEBOOKS / "GLOSSARY.md").read_text(encoding="utf-8")
    named = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    known = {symbol for cell in named for symbol in re.findall(r"`([^`]+)`", cell)}
    heads = known | {re.split("[_^]", symbol)[0] for symbol in known}
    equations = re.findall(r"^ *\(\d+\)  (.*?)(?: {2,}|$)", network.__doc__, re.M)
    assert len(equations) == 22
    words = {word for line in equations for word in re.findall(r"[A-Za-z]+(?:[_^][a-z]+)*", line)}
    greek = {"tau", "rho", "beta", "lambda", "mu", "JS", "KL", "CE"}
    symbols = {word for word in words if len(head := re.split("[_^]", word)[0]) == 1 or head in greek}
    assert len(symbols) > 40
    exact = {word for word in symbols if word.startswith(("L_", "lambda_", "tau_", "W_"))}
    assert not exact - known and not {re.split("[_^]", word)[0] for word in symbols} - heads
    terms = "temperature cross-entropy SAR LiDAR DSM HSI vote looks shadow~head prototype anchor patch split drift"
    terms += " dial OA AA kappa recall probe~gap imbalance~factor optimisation~degree push interval paired CKA JS"
    terms += " eta~squared calibration"
    missing = [term for term in terms.split() if not any(term.replace("~", " ") in cell for cell in named)]
    assert not missing, missing


@each
def test_the_glossary_is_one_click_away(path):
    assert "(GLOSSARY.md)" in read(path).cells[0].source
