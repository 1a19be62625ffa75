"""A claim that is frozen before its runs exist: its hash chooses the scene that it is tested on (ours).

Whoever changes a word of the claim gets another scene, which nobody has trained on yet. So a claim cannot be fitted to
its test, and a second try shows: each leaves a dated file in ``course/claims`` of the results folder.
"""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import xarray as xr

from .. import files, metrics
from ..config import METHODS
from ..data.simulate import EMBEDDED
from ..errors import PrsaError
from ..report.claims import verdict
from ..report.intervals import POINTS, difference, summarise
from ..report.text import DECIMALS
from ..study import Plan, run
from .check import Answer, MisfitError

MEASURES = {"OA": metrics.oa, "AA": metrics.aa, "kappa": metrics.kappa}  # of test pixels, in points
FIELDS = ("sentence", "kind", "measure", "method", "other", "sign", "smallest")
SEEDS = 3  # the fewest that give an interval
SMALL = (("features", 16), ("width", 16))  # of the networks: a test takes seconds
FIRST, SCENES = 1000, 9000  # seeds of the scenes drawn from: far from those of the study and of its development


def complete(claim: dict) -> str:
    """What is wrong with a claim; empty when it can be tested.

    ``sentence``: in words; ``kind``: of scene; ``measure``: one of `MEASURES`; ``method`` and ``other``: the effect is
    method minus other; ``sign``: +1 or -1; ``smallest``: effect that matters, points, more than 0.
    """
    if not isinstance(claim, dict) or set(claim) != set(FIELDS):
        return f"expected a dict with {', '.join(FIELDS)}"
    wrong = {
        "sentence": not (isinstance(claim["sentence"], str) and len(claim["sentence"].split()) >= 4),
        "kind": claim["kind"] not in EMBEDDED,
        "measure": claim["measure"] not in MEASURES,
        "method": claim["method"] not in METHODS,
        "other": claim["other"] not in METHODS or claim["other"] == claim["method"],
        "sign": claim["sign"] not in (1, -1),
        "smallest": not (isinstance(claim["smallest"], (int, float)) and 0 < claim["smallest"] < 100),
    }
    return ", ".join(name for name, bad in wrong.items() if bad)


def digest(claim: dict) -> str:
    """The hash of a claim: 16 hexadecimal digits of a SHA-256 over its canonical JSON."""
    return hashlib.sha256(json.dumps(claim, sort_keys=True).encode()).hexdigest()[:16]


def freeze(claim: dict) -> str:
    """Write down a claim with the date and return its hash. Raises `PrsaError` when it cannot be tested."""
    if problem := complete(claim):
        raise PrsaError(
            f"expected a claim that can be tested, got one with a wrong {problem}. See its table of fields."
        )
    path = files.results() / "course" / "claims" / f"{digest(claim)}.json"
    if not path.is_file():
        text = {"frozen": datetime.now(UTC).isoformat(timespec="seconds"), "claim": claim}
        files.write_text(json.dumps(text, indent=1) + "\n", path)
    return digest(claim)


def scene_of(frozen: str, kind: str) -> str:
    """Name of the scene that a hash chooses."""
    return f"{kind}:{FIRST + int(frozen, 16) % SCENES}"


def trial(claim: dict, frozen: str, jobs: int | None = None) -> dict[str, list[xr.Dataset]]:
    """Train both methods of a frozen claim on the scene of its hash: `SEEDS` seeds, quick preset, `SMALL` networks.

    Returns method -> runs by seed; finished runs are opened. Raises `PrsaError` when the claim is not the frozen one.
    """
    if digest(claim) != frozen:
        raise PrsaError(
            f"expected the claim of the hash {frozen}, got one of {digest(claim)}: it was changed after it was frozen. "
            "Fix: put the old words back, or freeze the new claim and say that it is your second."
        )
    methods = [claim["method"], claim["other"]]
    plan = Plan([scene_of(frozen, claim["kind"])], SEEDS, methods, "quick")
    small = [replace(spec, overrides=SMALL) for spec in plan.specs]
    specs = {method: [spec for spec in small if spec.method == method] for method in methods}
    run(plan, [spec for own in specs.values() for spec in own], jobs)
    return {method: plan.open(own) for method, own in specs.items()}


def effects(claim: dict, runs: dict[str, list[xr.Dataset]]) -> dict[tuple[str, int], float]:
    """(scene, seed) -> effect in points, positive where the claim holds."""

    def of(method):
        counts = {
            (one.attrs["scene"], int(one.attrs["seed"])): one["confusion"].sel(head="fused", part="test").values
            for one in runs[method]
        }
        return {key: float(metrics.points(MEASURES[claim["measure"]](c))) for key, c in counts.items()}

    return {key: claim["sign"] * v for key, v in difference(of(claim["method"]), of(claim["other"])).items()}


def e7_complete(claim) -> Answer:
    """Whether a claim can be tested."""
    problem = complete(claim)
    return Answer(lambda _: not problem, f"this cannot be used: {problem}.")


def e7_frozen(claim: dict) -> Answer:
    """The hash of a claim."""
    return Answer(digest(claim), "the hash does not belong to this claim: was the claim changed after it was frozen?")


def e7_effects(claim: dict, runs: dict) -> Answer:
    """The effects as an answer, by seed."""
    if not runs:
        raise MisfitError("there are no runs yet: freeze the claim first")
    right = {seed: value for (_, seed), value in effects(claim, runs).items()}
    slips = (({seed: -value for seed, value in right.items()}, "the sign: method minus other, times the sign."),)
    return Answer(right, "measure of method minus measure of other, seed by seed, times the sign.", slips)


def e7_interval(claim: dict, runs: dict) -> Answer:
    """Estimate, lo and hi, rounded as in the ledger."""
    return Answer(
        [round(v, DECIMALS) for v in summarise(effects(claim, runs), POINTS).numbers], "summarise(...).numbers"
    )


def e7_verdict(claim: dict, runs: dict) -> Answer:
    """The verdict by the rule of the ledger."""
    rule = "supported: lo > 0 and the effect is large enough. reversed: hi < 0. Everything else: not supported."
    return Answer(verdict(*e7_interval(claim, runs).right, claim["smallest"]), rule)
