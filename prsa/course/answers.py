"""What is right in the exercises: computed from the package and from the data of the notebook, with hints and slips.

A function per check, named after its notebook; it returns an `Answer`. Nothing is stored here that could be looked up:
numbers come from the study's own functions, and answers to questions of understanding are sealed.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import torch
import xarray as xr
from scipy import stats

from .. import metrics
from ..config import Config
from ..data.leakage import distance_to_training
from ..data.splits import TEST, TRAIN, leaking_share
from ..network.losses import prototype_loss
from ..network.prototypes import PrototypeBank, imbalance_factor, optimisation_degree, push
from ..report.intervals import POINTS, paired, summarise
from ..report.scores import probe_oa
from .check import Answer, MisfitError, is_open

EDGES = (1, 2, 4, 8, 16, 32)  # pixels, of the bins of E3
DRAWS = 10_000  # of the bootstrap of E4


QUESTIONS = {  # question -> sealed choice, hint
    "E2 why": ("sealed:fecbc5d730ecb769", "on which pixels is each of the two numbers measured?"),
    "E3 two clean splits": ("sealed:76c478ce18fb333f", "use what you have measured: overlap, pixels, distance."),
    "E3 which for a map": ("sealed:71770ee6944110c7", "the rest of the region is far from the labels."),
    "E4 why it shrinks": ("sealed:03e49aca8c221f51", "would it also happen if both methods were the same?"),
    "E4 what to print": ("sealed:92c13376057dde72", "look at the coverage, and at the width of the t interval."),
    "E5 what it shows": ("sealed:61ac049215b4a4d4", "how far apart are two seeds of one method? See E4."),
    "E6 small loss": ("sealed:ab77509f2717a1d0", "think of a network that uses one sensor only."),
    "E7 what it means": ("sealed:cb2b7135dca025a0", "read the rule: it is also the verdict without an interval."),
}


def question(name: str) -> Answer:
    """A question of understanding."""
    return Answer(*QUESTIONS[name])


def _of(function, values) -> np.ndarray:
    return function(torch.as_tensor(np.asarray(values, float))).numpy()


# E1: by hand


def e1_degree(p) -> Answer:
    """Optimisation degree (M,) of probabilities p (M, B) of the true class, eq. (11)."""
    p = np.asarray(p, float)
    slip = "the mean is over the pixels of a branch, not over the branches."
    return Answer(
        p.mean(1), "eq. (11): the mean over the pixels.", ((p.mean(0), slip),) if len(p) == p.shape[1] else ()
    )


def e1_factor(s) -> Answer:
    """Imbalance factor, eq. (12)."""
    s = np.asarray(s, float)
    right = _of(imbalance_factor, s)
    slips = (
        (s / s.sum(), "divide by the mean of the OTHERS, not by the sum of all."),
        (s / s.mean(), "divide by the mean of the OTHERS; the branch itself does not count."),
        (1 / right, "the quotient is upside down: own degree over the mean of the others."),
    )
    return Answer(right, "eq. (12): own degree over the mean of the others.", slips)


def e1_push(s) -> Answer:
    """Push, eq. (13)."""
    s = np.asarray(s, float)
    slips = (
        (s.max() / s, "eq. (13) subtracts 1."),
        (s.max() / s - 1, "eq. (13) clips: at most 1."),
        (1 - s / s.max(), "the quotient is upside down: max / own."),
    )
    return Answer(_of(push, s), "eq. (13): the largest degree over the own one, minus 1, clipped to 0..1.", slips)


def e1_fast(s) -> Answer:
    """Push of the fastest branch."""
    return Answer(e1_push(s).right[int(np.argmax(s))], "what is a number divided by itself, minus 1?")


def e1_three(s) -> Answer:
    """Factor and push of three sensors."""
    factor, push_ = e1_factor(s), e1_push(s)
    unclipped = {"rho": factor.right, "beta": push_.slips[1][0]}
    slips = (
        (unclipped, "beta is clipped: at most 1."),
        ({"rho": factor.slips[0][0], "beta": push_.right}, factor.slips[0][1]),
    )
    return Answer(
        {"rho": factor.right, "beta": push_.right}, "the mean of the TWO others; the largest of all three.", slips
    )


def e1_pushed(s, place: int) -> Answer:
    """Whether the branch at a place has a push."""
    return Answer(bool(e1_push(s).right[place] > 0), "beta compares with the fastest branch, not with the mean.")


def e1_unpushed(names: list[str], s) -> Answer:
    """Name of the branch without a push."""
    return Answer(names[int(np.argmin(e1_push(s).right))], "with b = 0 the weight of a branch is its beta.")


def e1_prototype(c, z, momentum) -> Answer:
    """Prototype (D,) after one update with features z (n, D) of its class, eq. (9)."""
    c, z = np.asarray(c, float), np.asarray(z, float)
    bank = PrototypeBank(1, 1, len(c), momentum).double()
    bank.means.copy_(torch.as_tensor(c)[None, None])
    bank.seen.fill_(True)
    bank.update(torch.as_tensor(z)[:, None], torch.zeros(len(z), dtype=torch.long))
    unit = (z / np.linalg.norm(z, axis=1, keepdims=True)).mean(0)
    slips = (
        (momentum * c + (1 - momentum) * z.mean(0), "divide every feature by its length first."),
        ((1 - momentum) * c + momentum * unit, "the momentum belongs to the OLD prototype."),
        (unit, "this is the mean of the batch; the old prototype keeps its share."),
    )
    return Answer(bank.means[0, 0].numpy(), "eq. (9): normalise, take the mean, then mix with the momentum.", slips)


def e1_loss(p, s, base) -> Answer:
    """L_p of one pixel, eq. (14), from the probabilities p (M,) of the true class and the degrees s (M,)."""
    p, push_ = np.asarray(p, float), e1_push(s).right
    logits = torch.as_tensor(np.stack([np.log(p), np.log(1 - p)], 1))[None]  # (1, M, 2): their softmax is p, 1 - p
    right = prototype_loss(logits, torch.zeros(1, dtype=torch.long), torch.as_tensor(base + push_)).item()
    ce = -np.log(p)
    slips = (
        (push_ @ ce, "the base b is missing: without it the fast branch gets nothing."),
        (ce.sum(), "the push is missing: the slow branch counts 1 + beta times."),
        ((base + push_) @ ce / np.log(10), "CE has the natural logarithm."),
        (-right, "CE is MINUS the logarithm."),
        (right / len(p), "eq. (14) is a sum over the modalities, not a mean."),
    )
    return Answer(right, "eq. (14): sum over m of (b + beta_m) times minus the logarithm of p.", slips)


# E2: who starves?


def _counts(rng) -> tuple[np.ndarray]:
    return (rng.integers(0, 40, (4, 4)),)


def e2_accuracy() -> Answer:
    """Overall accuracy in points of counts (K, K)."""
    slips = (
        (metrics.oa, "in points: times 100."),
        (lambda c: metrics.points(metrics.aa(c)), "this is AA, the mean over classes. OA counts pixels."),
        (lambda c: float(np.trace(c)), "divide by all pixels."),
    )
    return Answer(lambda c: metrics.points(metrics.oa(c)), "right pixels stand on the diagonal.", slips, _counts)


def _pair(rng) -> tuple[xr.Dataset, xr.Dataset, str]:
    names = ["hsi", "sar", "dsm"][: rng.integers(2, 4)]
    dims, coords = ("modality", "class", "predicted"), {"modality": names}
    pair = [
        xr.Dataset({"probe_confusion": (dims, rng.integers(0, 50, (len(names), 3, 3)))}, coords=coords) for _ in "ab"
    ]
    return *pair, str(rng.choice(names))


def e2_gap() -> Answer:
    """Probe gap in points of a run alone, a joint run and a modality."""

    def gap(alone, joint, modality):
        return probe_oa(alone, modality) - probe_oa(joint, modality)

    slip = lambda alone, joint, modality: -gap(alone, joint, modality)  # noqa: E731
    return Answer(gap, "OA of probe_confusion: alone minus joint.", ((slip, "the sign: alone MINUS joint."),), _pair)


def e2_gaps(inside) -> Answer:
    """(kind, modality) -> mean probe gap in concat; ``inside``: `prsa.report.scores.branches`."""
    concat = inside[inside["method"].eq("concat")]
    return Answer(concat.groupby(["group", "modality"])["gap"].mean().to_dict(), "mean over the seeds, in points.")


def e2_sure(inside) -> Answer:
    """The branches "kind modality" whose interval of the gap excludes 0."""
    found = []
    for (group, m), part in inside[inside["method"].eq("concat")].groupby(["group", "modality"]):
        gap = summarise(dict(zip(zip(part["scene"], part["seed"]), part["gap"])), POINTS)
        found += [f"{group} {m}"] * bool(gap.lo > 0 or gap.hi < 0)
    return Answer(found, "an interval excludes 0 when both ends have the same sign.")


def e2_named(inside, column: str, highest: bool) -> Answer:
    """kind -> the branch with the highest or lowest mean of a column in concat."""
    means = inside[inside["method"].eq("concat")].groupby(["group", "modality"])[column].mean().astype(float)
    found = {kind: (part.idxmax() if highest else part.idxmin())[1] for kind, part in means.groupby("group")}
    hint = "the slow branch has the LOWEST factor." if column == "rho" else "the branch with the largest mean gap."
    return Answer(found, hint)


def e2_always(inside) -> Answer:
    """Whether the slow branch has the largest gap in every kind."""
    right = e2_named(inside, "rho", False).right == e2_named(inside, "gap", True).right
    return Answer(bool(right), "compare your two dicts, kind by kind.")


# E3: leak


def _part(rng) -> tuple[np.ndarray, int]:
    part = rng.choice([0, 1, 3], size=(12, 14), p=[0.6, 0.1, 0.3]).astype(np.int8)
    part[0, 0], part[-1, -1] = TRAIN, TEST
    return part, int(rng.integers(1, 4))


def e3_overlap() -> Answer:
    """Share of the test pixels of a split (y, x) whose window of this radius holds a training pixel."""

    def of_all(part, radius):
        return leaking_share(part, radius) * (part == TEST).mean()

    slips = (
        (of_all, "the share is of the TEST pixels, not of all."),
        (lambda part, radius: 1 - leaking_share(part, radius), "the other way round: this is the clean share."),
        (lambda part, radius: leaking_share(part, radius - 1), "the window is 2 r + 1 pixels wide, r on every side."),
    )
    hint = "is a training pixel at most r rows and r columns away?"
    return Answer(leaking_share, hint, slips, _part)


def e3_share(part, radius: int = 3) -> Answer:
    """The same for one split."""
    return Answer(leaking_share(np.asarray(part), radius), "use your function on this split, with radius 3.")


def shares(part, label):
    """Of the labelled pixels: share for training, share for the test; of the others: share with a code. What cannot be
    counted is given back."""
    if is_open(part) or np.shape(part) != label.shape:
        return part
    part, there = np.asarray(part), label > 0
    return [(part[there] == TRAIN).mean(), (part[there] == TEST).mean(), (part[~there] != 0).mean()]


def e3_split() -> Answer:
    """What `shares` finds of a random split with 40 % for training."""
    slips = (([0.6, 0.4, 0.0], "40 % are for TRAINING."), ([0.4, 0.6, 1.0], "unlabelled pixels are 0."))
    return Answer([0.4, 0.6, 0.0], "labelled pixels: 1 or 3; unlabelled pixels: 0.", slips)


def _hits(rng) -> tuple[np.ndarray, np.ndarray]:
    part, _ = _part(rng)
    return distance_to_training(xr.DataArray(part)), part == TEST, rng.random(part.shape) < 0.7


def e3_accuracy() -> Answer:
    """OA in points per bin of `EDGES`, from distance (y, x), test (y, x) and hit (y, x)."""

    def reference(distance, test, hit):
        bins = np.digitize(distance[test], EDGES) - 1
        here = [hit[test][bins == b] for b in range(len(EDGES))]
        return np.array([100 * h.mean() if len(h) else np.nan for h in here])

    slip = lambda *of: reference(*of) / 100  # noqa: E731
    return Answer(reference, "test pixels only; NaN where a bin is empty.", ((slip, "in points: times 100."),), _hits)


# E4: seeds


def e4_leads(a, b) -> Answer:
    """Leads (seeds,) of one method over another, from their OA by seed in order."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    slips = ((b - a, "the sign: the method MINUS concat."), (np.sort(a) - np.sort(b), "keep the order of the seeds."))
    return Answer(a - b, "seed by seed: the same seed in both.", slips)


def e4_best(a, b) -> Answer:
    """The largest lead."""
    leads = e4_leads(a, b).right
    slips = ((np.max(a), "this is an accuracy; the lead is a difference."), (leads.mean(), "this is the mean lead."))
    slips += ((float(np.argmax(leads)), "this is the number of the seed; give its lead."),)
    return Answer(leads.max(), "the largest of your leads.", slips)


def e4_mean(a, b) -> Answer:
    """The mean lead."""
    leads = e4_leads(a, b).right
    return Answer(leads.mean(), "the mean of the differences.", ((leads.max(), "not the best one: the mean."),))


def e4_shrinks(looked_at: dict, new: dict) -> Answer:
    """Whether the mean lead of the new seeds is below the best of those looked at."""
    best, mean = e4_best(*looked_at.values()).right, e4_mean(*new.values()).right
    return Answer(bool(best > mean), "compare best_lead with new_lead.")


def t_interval(x) -> np.ndarray:
    """95 % interval (2,) of the mean by Student's t."""
    x = np.asarray(x, float)
    return x.mean() + stats.t.ppf([0.025, 0.975], len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))


def bootstrap(x) -> np.ndarray:
    """95 % interval (2,) of the mean by the percentiles of a bootstrap."""
    x, rng = np.asarray(x, float), np.random.default_rng(0)
    return np.percentile(rng.choice(x, (DRAWS, len(x))).mean(1), [2.5, 97.5])


def _few(rng) -> tuple[np.ndarray]:
    return (rng.normal(rng.normal(), 2, rng.integers(2, 8)),)


def e4_t() -> Answer:
    """Student's t as a function of x (n,)."""

    def normal(x):
        return x.mean() + np.array([-1.96, 1.96]) * x.std(ddof=1) / np.sqrt(len(x))

    def biased(x):
        return x.mean() + stats.t.ppf([0.025, 0.975], len(x) - 1) * x.std() / np.sqrt(len(x))

    slips = (
        (normal, "1.96 is for many values; for n values take stats.t.ppf(0.975, n - 1)."),
        (biased, "the standard deviation of a sample has ddof=1."),
    )
    return Answer(t_interval, "mean +- t * sd / sqrt(n).", slips, _few)


def e4_bootstrap() -> Answer:
    """The bootstrap; two draws of 10,000 agree to a tenth of the standard deviation."""
    return Answer(
        bootstrap, "draw n of the n values with replacement, take the mean; 10,000 times; percentiles.", (), _few
    )


def e4_two(a, b) -> Answer:
    """Both intervals of the first two leads."""
    leads = e4_leads(a, b).right[:2]
    return Answer({"t": t_interval(leads), "bootstrap": bootstrap(leads)}, "the leads of seeds 0 and 1: leads[:2].")


def e4_coverage(leads) -> Answer:
    """Coverage of both intervals over all pairs of seeds."""
    right = {"t": covered(t_interval, leads), "bootstrap": covered(bootstrap, leads)}
    return Answer(right, "the share of the pairs with lo <= mean of all leads <= hi.")


def covered(interval, leads) -> float:
    """Share of all pairs of seeds whose interval contains the mean over all seeds."""
    pairs, truth = itertools.combinations(np.asarray(leads, float), 2), np.mean(leads)
    return float(np.mean([lo <= truth <= hi for lo, hi in (interval(np.array(pair)) for pair in pairs)]))


# E5: write a rule


def _batch(rng) -> tuple[torch.Tensor, ...]:
    b, m, d, k = 8, int(rng.integers(2, 4)), 4, 3
    encoded, weight, bias = (torch.as_tensor(rng.normal(size=size)) for size in ((b, m, d), (k, m * d), (k,)))
    return encoded, weight, bias, torch.as_tensor(rng.integers(0, k, b))


def degrees(encoded, weight, bias, y) -> torch.Tensor:
    """s (M,) of OGM: what each modality's columns of the head say on their own."""
    batch, count, size = encoded.shape
    logits = torch.einsum("bmd,kmd->bmk", encoded, weight.view(-1, count, size)) + bias / count
    return optimisation_degree(logits, y)


def e5_degrees() -> Answer:
    """The same as an answer."""

    def whole_bias(encoded, weight, bias, y):
        return degrees(encoded, weight, bias * encoded.shape[1], y)

    slips = ((whole_bias, "each of the M modalities gets the M-th part of the bias."),)
    return Answer(degrees, "logits (B, M, K) by modality, softmax over K, the true class, mean over B.", slips, _batch)


def slow_down(rho, strength) -> torch.Tensor:
    """k (M,) of OGM: 1 - tanh(strength rho) where rho > 1, else 1."""
    return torch.where(rho > 1, 1 - torch.tanh(strength * rho), 1)


def e5_slow_down() -> Answer:
    """The same as an answer."""

    def draw(rng):
        return torch.as_tensor(rng.uniform(0.2, 3, int(rng.integers(2, 5)))), float(rng.uniform(0, 1))

    slips = (
        (lambda rho, a: 1 - torch.tanh(a * rho), "only where rho > 1: the slow branches keep their gradient."),
        (lambda rho, a: torch.where(rho > 1, torch.tanh(a * rho), 1), "1 minus tanh."),
    )
    return Answer(slow_down, "1 - tanh(strength * rho) where rho > 1, else 1.", slips, draw)


def toy_gradient(rule, encoded, weight, bias, y, total, strength) -> torch.Tensor | None:
    """What a rule lets through to toy features z (B, M, D) of the gradient ``total``; None when it does nothing."""
    z = encoded.clone().requires_grad_()
    names = ["hsi", "sar", "dsm"][: z.shape[1]]
    model = SimpleNamespace(head=SimpleNamespace(weight=weight, bias=bias), modalities=names, encoders={})
    rng = torch.Generator().manual_seed(0)
    rule(Config(strength=strength)).to_encoders(model, 1 * z, {"total": total, "fused": total}, y, rng)
    return z.grad


def gradient_of(rule):
    """`toy_gradient` of a rule, as a function of the rest."""
    return lambda *inputs: toy_gradient(rule, *inputs)


def trains(run) -> bool:
    """Whether the loss is finite and falls, and more test pixels are right than of the most frequent class."""
    loss, counts = run["loss"].sel(term="fused").values, run["confusion"].sel(head="fused", part="test").values
    return bool(np.isfinite(loss).all() and loss[-1] < loss[0] and np.trace(counts) > counts.sum(1).max())


def e5_gradient() -> Answer:
    """The gradient on toy z of OGM."""

    def draw(rng):
        batch = _batch(rng)
        return *batch, torch.as_tensor(rng.normal(size=batch[0].shape)), float(rng.uniform(0.1, 1))

    def reference(encoded, weight, bias, y, total, strength):
        return total * slow_down(imbalance_factor(degrees(encoded, weight, bias, y)), strength)[:, None]

    slips = (
        (lambda e, w, b, y, total, a: total, "this is the gradient of concat: nothing was slowed down."),
        (lambda e, w, b, y, total, a: total * slow_down(degrees(e, w, b, y), a)[:, None], "rho, not s, goes into k."),
    )
    return Answer(reference, "multiply on_z['total'] by k of its modality, then encoded.backward(...).", slips, draw)


# E6: a bad day


def _degraded(rng) -> tuple[xr.Dataset, str]:
    names = ["none", "hsi noise 2", "hsi missing"]
    counts = rng.integers(0, 40, (len(names), 3, 3))
    run = xr.Dataset({"degraded_confusion": (("condition", "class", "predicted"), counts)}, {"condition": names})
    return run, str(rng.choice(names))


def e6_accuracy() -> Answer:
    """OA in points of a run under a condition."""

    def reference(run, condition):
        return metrics.points(metrics.oa(run["degraded_confusion"].sel(condition=condition).values))

    slip = lambda run, condition: reference(run, "none")  # noqa: E731
    slips = ((slip, "this is the clean condition."), (lambda run, c: reference(run, c) / 100, "in points: times 100."))
    return Answer(reference, "select the condition, then as in E2.", slips, _degraded)


def e6_table(runs) -> Answer:
    """(method, condition) -> mean OA over seeds; ``runs``: method -> runs by seed, conditions -> names."""
    of = e6_accuracy().right
    conditions = [str(name) for name in next(iter(runs.values()))[0]["condition"].values]
    means = {(m, c): np.mean([of(run, c) for run in own]) for m, own in runs.items() for c in conditions}
    return Answer(means, "mean over the seeds, in points.")


def day(runs, method: str, condition: str) -> dict:
    """(scene, seed) -> OA of a method under a condition."""
    of = e6_accuracy().right
    return {(run.attrs["scene"], int(run.attrs["seed"])): float(of(run, condition)) for run in runs[method]}


def e6_choice(runs, condition: str) -> Answer:
    """A network that no other one is surely ahead of: the upper end of the lead of the others is above 0."""

    def good(chosen):
        if chosen not in runs:
            return False
        mine = day(runs, chosen, condition)
        return all(paired(day(runs, other, condition), mine, POINTS).lo <= 0 for other in runs if other != chosen)

    return Answer(good, "another network is surely ahead of yours on that day.")


def e6_interval(runs, method: str, other: str, condition: str) -> Answer:
    """Lead of one network over another on a day: estimate, lo, hi."""
    if method not in runs:
        raise MisfitError("it belongs to your choice: first choose a network")
    lead = np.array(paired(day(runs, method, condition), day(runs, other, condition), POINTS).numbers)
    slip = np.array([-lead[0], -lead[2], -lead[1]])
    return Answer(
        lead, "paired(a, b, POINTS).numbers, by (scene, seed).", ((slip, "the sign: yours MINUS the other."),)
    )


def e6_sure(leads: dict) -> Answer:
    """The days on which the lower end of the lead is above 0."""
    if is_open(leads):
        raise MisfitError("it needs all three intervals: compute them first")
    return Answer([day for day, lead in leads.items() if lead[1] > 0], "surely better: the LOWER end is above 0.")
