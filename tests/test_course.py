"""The course: checks tell four verdicts apart, every solution is right, student copies hold none and never raise."""

import copy
import json
import os
import subprocess
import sys
import zipfile

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client import KernelManager
from nbclient import NotebookClient

from prsa import files
from prsa.course import __main__ as command
from prsa.course import answers, check, claim, copies, grading
from prsa.errors import PrsaError

SOURCES = copies.sources()
BOOKS = {path.stem: nbformat.read(path, as_version=4) for path in SOURCES}
NUMBERS = st.floats(-1e6, 1e6)


@pytest.fixture
def sheet(monkeypatch, tmp_path, capsys):
    """A score sheet of its own; returns the verdict of a check, and keeps what it said in ``sheet.said``."""
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))

    def verdict(make, *of, **options):
        check.start("T", {"x": 2, "y": 3})
        capsys.readouterr()
        make("x", *of, **options)
        verdict.said = capsys.readouterr().out
        return check.score()["extra_data"]["verdicts"]["x"]

    yield verdict
    check._sheet.update(notebook="", points={}, found={})


def verdict_of(make, *of, **options):
    """The same without a file: for many examples."""
    said = []
    settle, check._settle = check._settle, lambda name, verdict, note="": said.append((verdict, note))
    try:
        make("x", *of, **options)
    finally:
        check._settle = settle
    ((verdict, _),) = said
    return verdict


@given(NUMBERS, st.floats(-3, 3))
def test_a_number_is_right_within_the_tolerance_and_wrong_beyond(right, factor):
    scale = 0.01 * (1 + abs(right))
    wanted = check.RIGHT if abs(factor) < 0.99 else check.WRONG if abs(factor) > 1.01 else None
    got = verdict_of(check.number, right + factor * scale, right, tolerance=0.01)
    assert wanted in (None, got)


@pytest.mark.parametrize("value", ["1.0", [1.0], True, {"a": 1}, len, 1j, np.ones(2)])
def test_what_is_no_number_is_an_error_that_says_so(sheet, value):
    assert sheet(check.number, value, 1.0) == check.ERROR and "expected" in sheet.said


@pytest.mark.parametrize("value", [..., None, "...", " ", [1.0, ...], {"a": ...}, (1, (2, None)), np.array([..., 1])])
@pytest.mark.parametrize("make", [check.number, check.array, check.choice, check.function])
def test_a_placeholder_anywhere_is_not_attempted(sheet, make, value):
    def never():
        raise AssertionError("the right answer is computed only when there is something to compare")

    if make is check.function and not (value is ... or value is None or isinstance(value, str)):
        return
    answer = answers.e2_accuracy if make is check.function else never
    assert sheet(make, value, answer) == check.OPEN


def test_not_a_number_is_wrong_not_an_error(sheet):
    assert sheet(check.number, np.nan, 1.0) == check.WRONG and sheet(check.number, np.float32(1), 1.0) == check.RIGHT


@given(st.lists(NUMBERS, min_size=1, max_size=6), st.integers(0, 5))
def test_an_array_is_wrong_when_one_number_is_and_an_error_when_its_shape_is(right, place):
    wrong = np.array(right)
    wrong[place % len(right)] += 1 + 0.1 * abs(wrong[place % len(right)])
    assert verdict_of(check.array, list(right), right) == check.RIGHT
    assert verdict_of(check.array, wrong, np.array(right)) == check.WRONG
    assert verdict_of(check.array, [*right, 0.0], right) == check.ERROR
    keys = [str(n) for n in range(len(right))]
    assert verdict_of(check.array, dict(zip(keys[::-1], right[::-1])), dict(zip(keys, right))) == check.RIGHT
    assert verdict_of(check.array, dict(zip(keys[1:], right)), dict(zip(keys, right))) == check.ERROR


@given(st.lists(st.sampled_from(["hsi", "sar", "dsm", "lidar"]), unique=True), st.randoms())
def test_a_collection_of_names_has_no_order_and_no_capitals(names, random):
    mixed = [name.upper() for name in names]
    random.shuffle(mixed)
    assert verdict_of(check.choice, mixed, names) == check.RIGHT
    assert verdict_of(check.choice, [*names, "rgb"], names) == check.WRONG


def test_a_choice_among_options(sheet):
    sealed = check.sealed("x", "b")
    assert "b" not in sealed.removeprefix("sealed:")[:1] or sealed != check.sealed("y", "b"), "the name is the salt"
    assert sheet(check.choice, " B ", sealed, ("a", "b")) == check.RIGHT
    assert sheet(check.choice, "a", check.Answer(sealed, "think"), ("a", "b")) == check.WRONG and "think" in sheet.said
    assert sheet(check.choice, "z", sealed, ("a", "b")) == check.ERROR and "a, b" in sheet.said
    assert sheet(check.choice, np.True_, True) == check.RIGHT and sheet(check.choice, "yes", True) == check.ERROR
    assert sheet(check.choice, {"A": "SAR"}, {"A": "sar"}) == check.RIGHT


def test_a_function_is_compared_on_inputs_that_differ_each_time(sheet):
    seen = []

    def good(counts):
        seen.append(counts.copy())
        found = 100 * counts.trace() / counts.sum()
        counts[:] = 0  # what it does to its input harms nobody
        return found

    for _ in "ab":
        assert sheet(check.function, good, answers.e2_accuracy) == check.RIGHT
    assert len(seen) == 2 * check.TRIALS and not np.array_equal(seen[0], seen[check.TRIALS])
    known = iter([*seen[: check.TRIALS]])
    assert sheet(check.function, lambda counts: float(next(known)[0, 0]), answers.e2_accuracy) == check.WRONG
    assert f"of {check.TRIALS} random inputs" in sheet.said
    assert sheet(check.function, lambda counts: counts.trace() / counts.sum(), answers.e2_accuracy) == check.WRONG
    assert "times 100" in sheet.said, "a common slip has its own hint"


def test_a_function_that_raises_or_gives_something_else_is_an_error(sheet):
    def broken(counts):
        return counts.no_such_thing

    assert sheet(check.function, broken, answers.e2_accuracy) == check.ERROR
    assert "AttributeError" in sheet.said and "no_such_thing" in sheet.said, "the student's own line is shown"
    assert sheet(check.function, lambda counts: "much", answers.e2_accuracy) == check.ERROR
    assert sheet(check.function, lambda: 1, answers.e2_accuracy) == check.ERROR
    assert sheet(check.function, 3, answers.e2_accuracy) == check.ERROR and "function" in sheet.said

    def empty(counts):
        counts.trace()

    assert sheet(check.function, empty, answers.e2_accuracy) == check.OPEN and "return" in sheet.said
    sometimes = iter([1.0, *[None] * check.TRIALS])
    assert sheet(check.function, lambda counts: next(sometimes), answers.e2_accuracy) == check.ERROR


def test_the_score_is_json_in_the_form_of_gradescope_and_otter(sheet, tmp_path):
    sheet(check.number, 1, 1)
    check.number("y", 2, 1)
    kept = json.loads((tmp_path / "course" / "scores" / "T.json").read_text())
    assert kept == check.score() and kept["score"] == 2 and check.passed("x") and not check.passed("y")
    assert kept["extra_data"] == {"notebook": "T", "possible": 5, "verdicts": {"x": "right", "y": "wrong"}}
    for test in kept["tests"]:
        assert set(test) == {"name", "score", "max_score", "status", "output", "visibility"}
        assert (test["status"] == "passed") == (test["score"] == test["max_score"])
    with pytest.raises(PrsaError, match="expected a check of x, y"):
        check.number("z", 1, 1)


def test_without_a_score_sheet_a_check_only_prints(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    check.choice("predict", "sar", "sar")
    assert capsys.readouterr().out.startswith("right") and not list(tmp_path.iterdir())


def test_every_slip_of_a_function_is_wrong_on_its_inputs():
    own = [make for make in vars(answers).values() if getattr(make, "__module__", "") == answers.__name__]
    made = [make() for make in own if make.__name__[0] == "e" and not make.__code__.co_argcount]
    functions = [answer for answer in made if answer.inputs]
    assert len(functions) >= 9
    for answer in functions:
        assert verdict_of(check.function, answer.right, lambda a=answer: a, tolerance=0.15) == check.RIGHT
        for slip, _ in answer.slips:
            assert verdict_of(check.function, slip, lambda a=answer: a) == check.WRONG


@given(st.lists(st.floats(0.05, 0.95), min_size=2, max_size=4, unique=True))
def test_by_hand_answers_follow_the_equations_for_any_numbers(s):
    s = np.array(s)
    others = [np.delete(s, i).mean() for i in range(len(s))]
    assert np.allclose(answers.e1_factor(s).right, s / others)
    assert np.allclose(answers.e1_push(s).right, np.clip(s.max() / s - 1, 0, 1)) and answers.e1_fast(s).right == 0


def test_a_claim_is_frozen_before_its_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    mine = {"sentence": "sum is less accurate than concat", "kind": "sim-sar", "measure": "OA"}
    mine |= {"method": "sum", "other": "concat", "sign": -1, "smallest": 1.0}
    assert claim.complete(mine) == "" and claim.complete(mine | {"sign": 2, "kind": "x"}) == "kind, sign"
    frozen = claim.freeze(mine)
    (kept,) = (tmp_path / "course" / "claims").iterdir()
    assert kept.stem == frozen == claim.digest(mine) and json.loads(kept.read_text())["claim"] == mine
    changed = mine | {"smallest": 0.5}
    assert claim.scene_of(claim.digest(changed), "sim-sar") != claim.scene_of(frozen, "sim-sar")
    with pytest.raises(PrsaError, match="changed after it was frozen"):
        claim.trial(changed, frozen)
    with pytest.raises(PrsaError, match="wrong sign"):
        claim.freeze(mine | {"sign": 0})


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One real kernel, and the results folder that it writes to."""
    home = tmp_path_factory.mktemp("home")
    manager = KernelManager(kernel_name="prsa", transport_encryption="auto")
    env = os.environ | {"PRSA_RESULTS": str(home), "JUPYTER_PREFER_ENV_PATH": "1"}
    manager.start_kernel(env=env, cwd=str(home))
    yield manager, home
    manager.shutdown_kernel(now=True)


EMPTY = """
from prsa.course import claim
from prsa.study import run
claim.SMALL = ("epochs", 1), ("features", 8), ("width", 8)
claim.run = lambda plan, specs, jobs, run=run: run(plan, specs, 1)
get_ipython().run_line_magic("reset_selective", "-f .")
"""


def execute(kernel, books):
    """Execute notebooks one after the other in a kernel, emptied before each; name -> what they said, score.

    The trial of a claim trains one epoch in one process: what is right about it depends on neither.
    """
    (manager, home), found = kernel, {}
    empty = nbformat.v4.new_code_cell(EMPTY)
    for name, book in books.items():
        book = nbformat.v4.new_notebook(cells=copy.deepcopy([empty, *book.cells]), metadata=book.metadata)
        NotebookClient(book, km=manager, timeout=600).execute()  # raises for a cell that raises
        said = [o.get("text", "") for c in book.cells if c.cell_type == "code" for o in c.outputs]
        score = json.loads((home / "course" / "scores" / f"{name}.json").read_text())
        found[name] = "".join(said), score
    return found


def test_every_student_copy_is_not_attempted_and_never_raises(kernel):
    found = execute(kernel, {name: copies.student(book) for name, book in BOOKS.items()})
    for name, (said, score) in found.items():
        verdicts = score["extra_data"]["verdicts"]
        assert set(verdicts.values()) == {check.OPEN} and score["score"] == 0, (name, verdicts)
        assert said.count(check.OPEN) == len(verdicts), f"{name}: every check is run once"
    assert not (kernel[1] / "quick").exists(), "nothing is trained for who has answered nothing"


def test_every_solution_is_right(kernel):
    for name, (_, score) in execute(kernel, BOOKS).items():
        verdicts = score["extra_data"]["verdicts"]
        assert set(verdicts.values()) == {check.RIGHT}, (name, verdicts)
        assert score["score"] == score["extra_data"]["possible"] > 0


@pytest.mark.parametrize("name", BOOKS)
def test_a_source_is_valid_short_and_has_a_check_for_every_solution(name):
    book = BOOKS[name]
    nbformat.validate(book)
    text = {tag: [c for c in book.cells if copies.tagged(c, tag)] for tag in ("solution", "hint", "check")}
    assert {c.cell_type for c in text["hint"]} <= {"markdown"} and {c.cell_type for c in text["check"]} == {"code"}
    assert all(not c.outputs for c in book.cells if c.cell_type == "code") and len(text["check"]) >= 5
    assert max(len(c.source.splitlines()) for c in book.cells if c.cell_type == "code") <= 15
    start, end = book.cells[0].source, book.cells[-2].source
    assert "**Goal.**" in start and "| minutes |" in start and "| reads |" in start and "## Summary" in end


@pytest.mark.parametrize("name", BOOKS)
def test_a_student_copy_holds_no_solution(name):
    source, copied = BOOKS[name], copies.student(BOOKS[name])
    nbformat.validate(copied)
    assert copies.student(copied) == copied, "the zip holds student copies, and make lab makes copies of them"
    text = "\n".join(c.source for c in copied.cells)
    for cell in (c for c in source.cells if copies.tagged(c, "solution")):
        handed = copies.placeholder(cell.source) if cell.cell_type == "code" else ""
        lines = [line.strip() for line in cell.source.splitlines()]
        kept = [line for line in lines if len(line) > 8 and line in text and line not in handed]
        assert not kept, f"{name}: {kept}"
    hints = [c.source for c in copied.cells if copies.tagged(c, "hint")]
    assert all(hint.startswith("<details>") and hint.endswith("</details>") for hint in hints)
    assert [c.id for c in copied.cells if c.cell_type == "code"] == [
        c.id for c in source.cells if c.cell_type == "code"
    ]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(10**6, 10**9)), min_size=1, max_size=4))
def test_a_placeholder_keeps_names_and_no_value(pairs):
    code = "\n".join(f"{name} = f({value})\n_{name} = {value}" for name, value in pairs)
    assert copies.placeholder(code).splitlines() == [f"{name} = ..." for name, _ in pairs]


KEPT = '''# two numbers
import os
d = {"a": 1, "b": g(2)}
x, y = 1, 2


class A(B):
    """Doc."""

    n = 4

    def f(self, z):
        """Of z."""
        return z + 1

'''


def test_what_a_placeholder_keeps():
    code = f"{KEPT}\nfor i in d:\n    d[i] = 3\n\n\ndef _own():\n    pass"
    kept = copies.placeholder(code)
    assert kept.startswith('# two numbers\nd = {"a": ..., "b": ...}\nx = ...\ny = ...\n')
    assert 'class A(B):\n    """Doc."""\n    n = ...\n    def f(self, z):\n        """Of z."""\n        ...' in kept
    assert not any(digit in kept for digit in "1234") and "_own" not in kept and "for" not in kept
    compile(kept, "kept", "exec")


ALONE = """
import json, sys, prsa
print(prsa.__file__)
for cell in json.load(open("notebooks/course/E1_by_hand.ipynb"))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), globals())
"""


def test_the_copies_and_a_zip_that_runs_without_git(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path / "one")]) == 0
    copies.write(tmp_path / "two")
    archives = [tmp_path / name / "prsa-course.zip" for name in ("one", "two")]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    for kind in ("student", "instructor"):
        names = {path.name for path in (tmp_path / "one" / kind).iterdir()}
        assert names == {path.name for path in SOURCES} | {"README.md", "LICENSE-TEXT"}
    source = SOURCES[0].read_text(encoding="utf-8")
    assert (tmp_path / "one" / "instructor" / SOURCES[0].name).read_text(encoding="utf-8") == source
    with zipfile.ZipFile(archives[0]) as zipped:
        assert sum(entry.file_size for entry in zipped.infolist()) < 40e6
        inside = zipped.namelist()
        zipped.extractall(tmp_path)
    assert not any(".git/" in name or "__pycache__" in name or "instructor" in name for name in inside)
    home = tmp_path / "prsa-course"
    assert (home / "Makefile").is_file() and (home / "notebooks" / "00_start_here.ipynb").is_file()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PRSA", "PYTHON"))}
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=home, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(home)) and done.stdout.count(check.OPEN) == 9
    assert (home / "results" / "course" / "scores" / "E1_by_hand.json").is_file()


def test_what_was_handed_in_is_executed_with_the_checks_of_the_source(tmp_path, capsys):
    book = copy.deepcopy(BOOKS["E1_by_hand"])
    first, second = [c for c in book.cells if copies.tagged(c, "check")][:2]
    first.source, second.source = 'check.array("s", [1], [1])', "raise SystemExit"
    book.cells = [cell for cell in book.cells if "check.start" not in cell.source]
    solved = [c for c in book.cells if copies.tagged(c, "solution") and c.cell_type == "code"]
    solved[0].source, solved[1].source = "s = [1, 2]", "rho = 1 / 0"
    place = tmp_path / "ada" / "E1_by_hand.ipynb"
    files.write_text(nbformat.writes(book), place)
    files.write_text("no notebook", tmp_path / "bob" / "E1_by_hand.ipynb")
    assert grading.grade(tmp_path).to_dict("records") == [
        {"student": "ada", "notebook": "E1_by_hand", "score": 10, "possible": 12, "attempted": 8},
        {"student": "bob", "notebook": "E1_by_hand", "score": 0, "possible": 0, "attempted": 0},
    ]
    verdicts = json.loads(place.with_suffix(".json").read_text())["extra_data"]["verdicts"]
    assert (verdicts["s"], verdicts["rho"], verdicts["beta"]) == (check.WRONG, check.OPEN, check.RIGHT)
    assert (tmp_path / "scores.csv").read_text().splitlines()[1] == "ada,E1_by_hand,10,12,8"
    assert command.main(["--grade", str(tmp_path / "nobody")]) == 2 and "expected notebooks" in capsys.readouterr().err


def test_the_plan_names_every_exercise_with_its_minutes():
    text = (files.ROOT / copies.PLACE / "README.md").read_text(encoding="utf-8")
    for name, book in BOOKS.items():
        minutes = book.cells[0].source.partition("| minutes | ")[2].partition(" |")[0]
        assert f"| `{name}` | {'project' if 'project' in minutes else minutes} |" in text
