"""Checks of answers: `number`, `choice`, `array`, `function` tell *right*, *wrong* with a hint, *not attempted* and
*error* (the function raised; a wrong type or shape) apart. No check raises for what a student wrote.

`start` names a notebook's checks with their points. After every check the score is written to
``course/scores/<notebook>.json`` in the results folder, in the form of ``results.json`` of Gradescope, which
Otter-Grader writes as well: ``score``, and ``tests`` with ``name``, ``score``, ``max_score``, ``status``, ``output``,
``visibility`` each. Points possible and the four verdicts stand in ``extra_data``, which that form leaves free.
Without `start` (in the notebooks of the study) checks only print.

How honest is it? A student's copy holds no answer: `prsa.course.answers` computes it from the package and the same
data, functions are called on random inputs that change each time, and questions of understanding are compared as a
salted hash. This keeps answers out of sight, not out of reach: who reads the package finds how they are computed, a
hash with four options is guessed in four tries, and a score is a text file. So scores are for learning. For marks,
``python -m prsa.course --grade FOLDER`` executes what was handed in again, with the check cells of the source.
"""

import copy
import hashlib
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import files
from ..errors import PrsaError

RIGHT, WRONG, OPEN, ERROR = "right", "wrong", "not attempted", "error"
TRIALS = 20  # random inputs of a function
KINDS = {str: "a name (text)", bool: "True or False", frozenset: "a list of names", dict: "a dict of names"}
_sheet: dict[str, Any] = {"notebook": "", "points": {}, "found": {}}


class Answer(NamedTuple):
    """What is right, a hint, and common slips: (wrong value or function, what to say about it).

    ``right``: a value; for `choice` also a text of `sealed`, or a function that says whether a choice is right; for
    `function` the reference, with ``inputs(rng)`` that draws its arguments.
    """

    right: Any
    hint: str = ""
    slips: tuple = ()
    inputs: Callable | None = None


class MisfitError(Exception):
    """An answer that cannot be compared: its type or shape."""


def start(notebook: str, points: dict[str, int]) -> None:
    """Begin a notebook: its checks by name, with the points of each; whatever was checked before is forgotten."""
    _sheet.update(notebook=notebook, points=dict(points), found={name: (OPEN, "") for name in points})
    files.write_text(json.dumps(score(), indent=1) + "\n", _path())
    print(f"{notebook}: {len(points)} checks, {sum(points.values())} points")


def number(name: str, value, answer, tolerance: float = 5e-3) -> None:
    """Compare a number: right within ``tolerance`` x (1 + size of the right one); two decimals are enough."""
    _judge(name, value, answer, lambda v, right: _close(v, right, tolerance))


def array(name: str, value, answer, tolerance: float = 5e-3) -> None:
    """Compare numbers of one shape, or a dict of them with the same keys; ``tolerance`` as for `number`."""
    _judge(name, value, answer, lambda v, right: _close(v, right, tolerance))


def choice(name: str, value, answer, options: tuple = ()) -> None:
    """Compare a name, yes or no (a bool), a collection of names in any order, or a dict of names.

    ``options``: all that can be chosen; anything else is an error.
    """

    def same(v, right):
        v, allowed = _name(v), {_name(option) for option in options}
        chosen = v.values() if isinstance(v, dict) else v if isinstance(v, frozenset) else [v]
        if options and not set(chosen) <= allowed:
            raise MisfitError(f"expected one of {', '.join(map(str, options))}, got {value!r:.80}")
        if callable(right):
            return bool(right(v))
        if isinstance(right, str) and right.startswith("sealed:"):
            return sealed(name, v) == right
        if type(v) is not type(_name(right)):
            wanted = KINDS.get(type(_name(right)), "a number")
            raise MisfitError(f"expected {wanted}, got {value!r:.80}")
        return v == _name(right)

    _judge(name, value, answer, same)


def function(name: str, value: Callable, answer, tolerance: float = 1e-6) -> None:
    """Compare a function with the reference on `TRIALS` random inputs, drawn anew at every call.

    A function that gives nothing back is not attempted.
    """
    if not is_open(value) and not callable(value):
        return _settle(name, ERROR, f"expected a function, got {type(value).__name__}")
    answer, rng = _answer(answer), np.random.default_rng()
    drawn = [answer.inputs(rng) for _ in range(TRIALS)]
    try:
        got = [... if is_open(value) else value(*copy.deepcopy(inputs)) for inputs in drawn]
    except Exception as error:  # whatever a student's code raises
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        where = f" (line {lines[0].lineno}: {lines[0].line})" if lines else ""
        return _settle(name, ERROR, f"the function raised {type(error).__name__}: {error}{where}")
    if all(map(is_open, got)):
        return _settle(name, OPEN, "" if is_open(value) else "the function gives nothing back (return ...)")

    def same(results, reference):
        return [_close(r, reference(*copy.deepcopy(inputs)), tolerance) for r, inputs in zip(results, drawn)]

    _judge(name, tuple(got), answer, same, attempted=True)


def passed(*names: str) -> bool:
    """Whether these checks were right when they were last run, for cells that build on them; says so if not."""
    lacking = [name for name in names if _sheet["found"].get(name, (OPEN, ""))[0] != RIGHT]
    if lacking:
        print(f"This cell waits for: {', '.join(lacking)}")
    return not lacking


def score() -> dict:
    """The score of the notebook that was started, as it is written."""
    points, found = _sheet["points"], _sheet["found"]
    tests = []
    for name, possible in points.items():
        verdict, note = found[name]
        ok = verdict == RIGHT
        got = {"score": possible if ok else 0, "max_score": possible, "status": "passed" if ok else "failed"}
        tests.append({"name": name, **got, "output": f"{verdict}. {note}".strip(), "visibility": "visible"})
    verdicts = {name: found[name][0] for name in points}
    extra = {"notebook": _sheet["notebook"], "possible": sum(points.values()), "verdicts": verdicts}
    return {"score": sum(test["score"] for test in tests), "tests": tests, "extra_data": extra}


def report() -> None:
    """Print points and where the score lies."""
    now = score()
    print(f"{now['score']} of {now['extra_data']['possible']} points. Score: {_path()}")


def sealed(name: str, option) -> str:
    """A choice as a salted hash; the salt is the name of the check."""
    return "sealed:" + hashlib.sha256(f"prsa {name}: {_name(option)}".encode()).hexdigest()[:16]


def _path():
    return files.results() / "course" / "scores" / f"{_sheet['notebook']}.json"


def _settle(name: str, verdict: str, note: str = "") -> None:
    if _sheet["points"]:
        if name not in _sheet["points"]:
            raise PrsaError(
                f"expected a check of {', '.join(_sheet['points'])}, got {name!r}. Run the notebook's start."
            )
        _sheet["found"][name] = verdict, note
        files.write_text(json.dumps(score(), indent=1) + "\n", _path())
    print(f"{verdict:13}  {name}" + (f": {note}" if note else ""))


def _judge(name: str, value, answer, same: Callable, attempted: bool = False) -> None:
    if not attempted and is_open(value):
        return _settle(name, OPEN)
    try:
        answer = _answer(answer)
        agree = np.ravel(same(value, answer.right))
        if agree.all():
            return _settle(name, RIGHT)
        hint = next((note for slip, note in answer.slips if np.all(same(value, slip))), answer.hint)
    except MisfitError as error:
        return _settle(name, ERROR, str(error))
    count = f"{(~agree).sum()} of {agree.size} random inputs. " if agree.size > 1 else ""
    _settle(name, WRONG, count + (f"Hint: {hint}" if hint else ""))


def _answer(answer) -> Answer:
    answer = answer() if callable(answer) else answer
    return answer if isinstance(answer, Answer) else Answer(answer)


def is_open(value) -> bool:
    """Whether a placeholder is still there, anywhere in the value."""
    if value is None or value is ... or (isinstance(value, str) and value.strip() in ("", "...")):
        return True
    if isinstance(value, Mapping):
        return any(map(is_open, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)) or getattr(value, "dtype", None) == object:
        return any(map(is_open, np.ravel(value) if hasattr(value, "dtype") else value))
    return False


def _numbers(value, right) -> np.ndarray:
    """The value as an array with the shape, or the keys, of the right one; raises `MisfitError`."""
    if isinstance(right, Mapping):
        if not isinstance(value, Mapping) or set(value) != set(right):
            got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise MisfitError(f"expected a dict with the keys {sorted(map(str, right))}, got {got}"[:400])
        return np.concatenate([_numbers(value[key], right[key]).ravel() for key in right] or [np.zeros(0)])
    value = value.detach() if hasattr(value, "detach") else value
    wanted = f"numbers of shape {np.shape(right)}" if np.ndim(right) else "a number"
    try:
        found = np.asarray(value)
    except ValueError:  # a ragged list
        raise MisfitError(f"expected {wanted}, got {value!s:.60}") from None
    if found.dtype.kind not in "iuf" or found.shape != np.shape(right):
        got = (
            f"numbers of shape {found.shape}" if found.dtype.kind in "iuf" else f"{type(value).__name__} {value!s:.60}"
        )
        raise MisfitError(f"expected {wanted}, got {got}")
    return found.astype(float)


def _close(value, right, tolerance: float) -> bool:
    value, right = _numbers(value, right), _numbers(right, right)
    return bool(np.allclose(value, right, tolerance, tolerance, equal_nan=True))


def _name(value):
    """A choice in the form that is compared: text in small letters, collections without order."""
    if isinstance(value, Mapping):
        return {str(key): _name(v) for key, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return frozenset(_name(v) for v in value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return value.strip().lower() if isinstance(value, str) else value
