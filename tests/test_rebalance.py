"""Every rebalancing rule against loops over plain numbers, one case of each by hand, and what a training with it may and may not change."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import assert_same_weights, make_scene, make_trainer, weights
from torch import nn

from prsa.comparators.rebalancing import BranchAgreement, MMPareto, ModalityDropout, OgmGe, Pmr, PmrCode
from prsa.config import METHODS, make_config
from prsa.errors import PrsaError
from prsa.network.fusion import Concat
from prsa.training.loop import TERMS, loss_terms, step_gradients
from prsa.training.rule import Rule

NAMES = ("hsi", "sar", "dsm")
RULED = [name for name, settings in METHODS.items() if "rule" in settings]
modalities = pytest.mark.parametrize("M", [2, 3])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rule_of(kind, method="concat", progress=0.1, **settings):
    rule = kind(make_config(method, **settings))
    rule.progress = progress
    return rule


def posterior(logits):
    """Softmax of a list of numbers."""
    top = max(logits)
    e = [math.exp(v - top) for v in logits]
    return [v / sum(e) for v in e]


def gradients(trainer, terms, z):
    """Gradients on z as a step of the trainer takes them."""
    return step_gradients(trainer.shared(), terms, z, trainer.config.lambda_p, free=False)


def prepared(method, M, **settings):
    """A trainer in double precision, one batch behind it: (trainer, encoded, gradients on z, y)."""
    trainer = make_trainer(make_scene(NAMES[:M]), method, **settings)
    model = trainer.model.double().train()
    index = torch.arange(24)
    x, y = {m: v.double() for m, v in trainer.patches.gather(index).items()}, trainer.y[index]
    trainer.rule.progress = 0.1
    encoded = model.encode(x)
    model.bank.update(encoded.detach(), y)
    z = encoded.detach().requires_grad_()
    terms, _ = loss_terms(model, trainer.rule, z, y, torch.full((M,), 0.5, dtype=z.dtype))
    return trainer, encoded, gradients(trainer, terms, z), y


class Direct(nn.Module):
    """An encoder that is its own output: the gradient of its parameter is the gradient on z."""

    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))


def direct(encoders, **parts):
    """A stand-in for the model with these encoders, and its z (1, M, D)."""
    encoders = nn.ModuleDict({str(i): Direct(v) for i, v in enumerate(encoders)})
    model = SimpleNamespace(encoders=encoders, modalities=list(encoders), **parts)
    return model, torch.stack([e.weight.flatten() for e in encoders.values()])[None]


# --- the default rule --------------------------------------------------------------------------------------------------------------


@modalities
def test_default_rule_is_the_concatenation_baseline(M):
    """Whatever the settings of the rule say, without lambda_p no bit moves; nor for PMR without its two terms."""
    scene = make_scene(NAMES[:M])
    runs = [
        make_trainer(scene, "concat"),
        make_trainer(scene, "concat", rule="prsa.training.rule:Rule", strength=0.7, base=2.0, rebalance=False),
        make_trainer(scene, "concat", rule="prsa.comparators.rebalancing:Pmr"),
        make_trainer(scene, "modality-dropout", strength=0.0),
    ]
    for trainer in runs:
        trainer.epoch(1)
        trainer.epoch(2)
        assert_same_weights(weights(runs[0].model), weights(trainer.model), trainer.config.rule)


def test_concatenation_is_one_plain_backward_pass(two):
    """The gradients of all parameters, against the whole network differentiated at once."""
    trainer, encoded, on_z, y = prepared("concat", 2)
    model = trainer.model
    trainer.rule.to_encoders(model, encoded, on_z, y, rng())
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    out = model({m: v.double() for m, v in trainer.patches.gather(torch.arange(24)).items()})
    nn.functional.cross_entropy(out["logits"], y).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-9, atol=1e-12, msg=name)


# --- OGM-GE ------------------------------------------------------------------------------------------------------------------------


def naive_ogm(z, y, weight, bias, alpha):
    """k_m of z (B, M, D), all nested lists."""
    B, M, D = len(z), len(z[0]), len(z[0][0])
    s = []
    for m in range(M):
        total = 0
        for b in range(B):
            logits = [bias[k] / M + sum(weight[k][m * D + d] * z[b][m][d] for d in range(D)) for k in range(len(bias))]
            total += posterior(logits)[y[b]]
        s.append(total / B)
    rho = [s[m] / (sum(s[n] for n in range(M) if n != m) / (M - 1)) for m in range(M)]
    return [1 - math.tanh(alpha * r) if r > 1 else 1 for r in rho]


@modalities
def test_ogm_ge(M):
    trainer, encoded, on_z, y = prepared("ogm-ge", M, strength=0.6)
    model = trainer.model
    plain = dict(
        zip(
            dict(model.encoders.named_parameters()),
            torch.autograd.grad(encoded, list(model.encoders.parameters()), on_z["fused"], retain_graph=True),
        )
    )
    trainer.rule.to_encoders(model, encoded, on_z, y, rng(3))
    k = naive_ogm(encoded.tolist(), y.tolist(), model.head.weight.tolist(), model.head.bias.tolist(), 0.6)
    assert min(k) < 1 == max(k)
    noise, kernels = rng(3), 0
    for m, factor in zip(model.modalities, k):
        for name, p in model.encoders[m].named_parameters():
            g = plain[f"{m}.{name}"]
            if p.ndim == 4:
                kernels += 1
                g = factor * g + g.numpy().std() * torch.randn(p.shape, generator=noise, dtype=torch.float64)
            torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12, msg=f"{m} {name}")
            assert p.grad.stride() == p.stride()
    assert kernels == 4 * M  # patch 5: spectral layer, two 3x3 layers, the last


def test_ogm_ge_by_hand():
    """W_1 z^1 gives the true category ln 3 more than the other: s_1 = 3/4, s_2 = 1/2, rho = 3/2 and 2/3. A kernel of one weight has no spread."""
    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[math.log(3), 0], [0, 0]]))
        head.bias.zero_()
    model, encoded = direct([[[[[1.0]]]], [[[[1.0]]]]], fusion=Concat(2, 1, 2), head=head)
    rule_of(OgmGe, "ogm-ge", strength=0.3).to_encoders(
        model, encoded, {"total": torch.tensor([[[2.0], [5.0]]])}, torch.tensor([0]), rng()
    )
    assert model.encoders["0"].weight.grad.item() == pytest.approx(2 * 0.5781010, rel=1e-6)  # 1 - tanh(0.45)
    assert model.encoders["1"].weight.grad.item() == 5


def test_ogm_ge_noise():
    """Spread and mean of the added noise are those of the gradient before it is scaled, within 4 standard errors; the stream decides it."""
    n, grads = 20000, []
    for seed in (1, 1, 2):
        values = torch.linspace(-1, 3, n).reshape(1, n, 1, 1)
        head = nn.Linear(2 * n, 2)
        model, encoded = direct([torch.zeros(n, 1, 1, 1).tolist()] * 2, fusion=Concat(2, n, 2), head=head)
        on_z = values.reshape(1, 1, n).repeat(1, 2, 1)
        rule_of(OgmGe, "ogm-ge").to_encoders(model, encoded, {"total": on_z}, torch.tensor([0]), rng(seed))
        grads.append(torch.stack([e.weight.grad.flatten() for e in model.encoders.values()]))
    assert torch.equal(grads[0], grads[1]) and not torch.equal(grads[0], grads[2])
    noise, spread = grads[0].numpy() - np.linspace(-1, 3, n), 4 / math.sqrt(12)
    assert abs(noise.mean()) < 4 * spread / math.sqrt(2 * n) and abs(noise.std() - spread) < 4 * spread / math.sqrt(
        4 * n
    )
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / math.sqrt(n)


@pytest.mark.parametrize("fusion", ["sagf", "sum", "cross-attention", "late"])
def test_ogm_ge_refuses_other_fusions(two, fusion):
    with pytest.raises(PrsaError, match=f"expected fusion='concat', got '{fusion}'"):
        make_trainer(two, "ogm-ge", fusion=fusion, lambda_aux=float(fusion == "late")).epoch(1)


# --- PMR ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("s", [(0.6, 0.4), (0.2, 0.7), (0.5, 0.5), (0.31, 0.3)])
def test_pmr_weights_are_the_published_ones(s):
    """Equation 11 of the paper as a case distinction, and the authors' code as another."""
    rho = s[0] / s[1]
    paper = (min(max(1 / rho - 1, 0), 1), 0) if rho < 1 else (0, min(max(rho - 1, 0), 1))
    code = (0, 1) if rho > 1 else (1, 0) if rho < 1 else (0, 0)
    s = torch.tensor(s, dtype=torch.float64)
    assert rule_of(Pmr, "pmr").weights(s).tolist() == pytest.approx(paper)
    assert rule_of(PmrCode, "pmr-code", strength=0.5).weights(s).tolist() == list(code)


def test_pmr_forms_of_three_modalities():
    s = torch.tensor([0.8, 0.5, 0.25], dtype=torch.float64)
    assert rule_of(Pmr, "pmr").weights(s).tolist() == pytest.approx([0, 0.6, 1])
    slow = [float(v < (s.sum().item() - v) / 2) for v in s.tolist()]
    assert rule_of(PmrCode, "pmr-code", strength=0.5).weights(s).tolist() == slow == [0, 1, 1]


def test_window_of_the_official_code():
    s = torch.tensor([0.6, 0.4])
    assert [rule_of(PmrCode, "pmr-code", p, strength=0.6).weights(s).tolist() for p in (0.1, 0.6, 0.61, 1.0)] == [
        [0, 1],
        [0, 1],
        [0, 0],
        [0, 0],
    ]


def test_restraint_by_hand():
    """Two equal distances have the entropy ln 2; s = (0.6, 0.4) gives gamma = (0.5, 0)."""
    out, y = {"prototype": torch.zeros(3, 2, 2)}, torch.zeros(3, dtype=int)
    term = rule_of(Pmr, "pmr", strength=0.01).terms(out, y, torch.tensor([0.6, 0.4]))
    assert term.keys() == {"rebalancing"} and term["rebalancing"].item() == pytest.approx(-0.01 * 0.5 * math.log(2))
    assert rule_of(Pmr, "pmr", strength=0.01).terms(out, y, torch.tensor([0.4, 0.9]))[
        "rebalancing"
    ].item() == pytest.approx(-0.01 * math.log(2))


@modalities
def test_restraint(M):
    logits = -torch.rand(7, M, 4, generator=rng(), dtype=torch.float64) * 5
    z = logits.clone().requires_grad_()
    s = [0.5, 0.35, 0.3][:M]
    term = rule_of(Pmr, "pmr", strength=0.02).terms(
        {"prototype": z}, torch.zeros(7, dtype=int), torch.tensor(s, dtype=torch.float64)
    )["rebalancing"]
    expected = 0
    for m in range(M):
        gamma = min(max(s[m] / min(s) - 1, 0), 1)
        for b in range(7):
            expected -= 0.02 * gamma * -sum(p * math.log(p) for p in posterior(logits[b, m].tolist())) / 7
    assert term.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(term, z)
    assert torch.isfinite(gradient).all() and (gradient[:, 0] != 0).any()
    assert not gradient[:, -1].any()  # the slowest is left alone


def test_restraint_only_in_the_first_fifth():
    out, y, s = {"prototype": torch.zeros(3, 2, 2)}, torch.zeros(3, dtype=int), torch.tensor([0.6, 0.4])
    assert [bool(rule_of(Pmr, "pmr", p, strength=0.01).terms(out, y, s)) for p in (0.05, 0.2, 0.25, 1.0)] == [
        True,
        True,
        False,
        False,
    ]
    assert rule_of(Pmr, "pmr", strength=0.0).terms(out, y, s) == {}


def test_restraint_in_training(two):
    """A term that no head takes part in: it raises the entropy of the fast branch, and the head's own gradient stays that of the fused loss."""
    grads = {}
    for strength in (0.0, 1.0):
        trainer, encoded, on_z, y = prepared("pmr", 2, strength=strength)
        z = encoded.detach().requires_grad_()
        trainer.model.zero_grad()
        terms, _ = loss_terms(trainer.model, trainer.rule, z, y, torch.tensor([0.6, 0.3], dtype=z.dtype))
        on_z = gradients(trainer, terms, z)
        grads[strength] = on_z["total"], trainer.model.head.weight.grad
    assert torch.equal(grads[0.0][1], grads[1.0][1])
    assert torch.equal(grads[0.0][0][:, 1], grads[1.0][0][:, 1]) and not torch.equal(
        grads[0.0][0][:, 0], grads[1.0][0][:, 0]
    )
    torch.testing.assert_close(grads[1.0][0], grads[0.0][0] + on_z["rebalancing"])


def test_the_two_forms_train_differently(two):
    """Even with one momentum and no restraint."""
    paper = make_trainer(two, "pmr", strength=0.0)
    code = make_trainer(two, "pmr-code", strength=1.0, momentum=paper.config.momentum)
    none = make_trainer(two, "pmr-code", strength=0.0, momentum=paper.config.momentum)
    concat = make_trainer(two, "concat", metric="euclidean")
    heads = []
    for trainer in (paper, code, none, concat):
        trainer.epoch(1)
        heads.append(trainer.model.head.weight.detach())
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])
    torch.testing.assert_close(heads[2], heads[3])  # outside the window nothing but the fused loss


# --- MMPareto ----------------------------------------------------------------------------------------------------------------------


def shortest(f, u):
    """Share of f in the shortest vector between two lists, by ternary search."""
    low, high = 0.0, 1.0
    for _ in range(200):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        length = [sum((t * x + (1 - t) * v) ** 2 for x, v in zip(f, u)) for t in (a, b)]
        low, high = (low, b) if length[0] < length[1] else (a, high)
    return (low + high) / 2


@modalities
def test_mmpareto(M):
    """Modality 0 is made to disagree; the others agree."""
    trainer, encoded, on_z, y = prepared("mmpareto", M, strength=1.7)
    model = trainer.model
    on_z = dict(on_z, auxiliary=on_z["auxiliary"].clone())
    on_z["auxiliary"][:, 0] = -0.3 * on_z["fused"][:, 0] + 0.2 * on_z["auxiliary"][:, 0]
    on_z["auxiliary"][:, 1:] += on_z["fused"][:, 1:]
    on_z["total"] = on_z["fused"] + on_z["auxiliary"]
    parameters = list(model.encoders.parameters())
    f, u = (
        dict(zip(parameters, torch.autograd.grad(encoded, parameters, on_z[t], retain_graph=True)))
        for t in ("fused", "auxiliary")
    )
    trainer.rule.to_encoders(model, encoded, on_z, y, rng())
    signs = []
    for m in model.modalities:
        own = list(model.encoders[m].parameters())
        a, b = ([v for p in own for v in side[p].flatten().tolist()] for side in (f, u))
        dot = sum(v * w for v, w in zip(a, b))
        signs.append(dot > 0)
        share = 0.5 if dot > 0 else shortest(a, b)
        new = [2 * share * v + 2 * (1 - share) * w for v, w in zip(a, b)]
        factor = 1.7 * math.sqrt(sum((v + w) ** 2 for v, w in zip(a, b)) / sum(v * v for v in new))
        got = torch.cat([p.grad.flatten() for p in own]).numpy()
        np.testing.assert_allclose(got, factor * np.array(new), rtol=1e-5, atol=1e-6 * np.abs(got).max())
        assert got @ np.array(a) > 0 and got @ np.array(b) > 0, "a step against one of the two losses"
        assert all(p.grad.stride() == p.stride() for p in own)
    assert signs == [False] + [True] * (M - 1)


def test_mmpareto_by_hand():
    """(1, 0) and (-1, 1): shares 3/5 and 2/5, shortest vector (0.2, 0.4), stretched to the length 1 of their sum. (1, 2) and (3, 0) agree."""
    model, encoded = direct([[0.0, 0.0]] * 3)
    f, u = torch.tensor([[[1.0, 0], [1, 2], [0, 0]]]), torch.tensor([[[-1.0, 1], [3, 0], [0, 0]]])
    on_z = {"fused": f, "auxiliary": u, "total": f + u}
    rule_of(MMPareto, "mmpareto", strength=1.5).to_encoders(model, encoded, on_z, torch.tensor([0]), rng())
    first, second, third = (e.weight.grad.tolist() for e in model.encoders.values())
    assert first == pytest.approx([1.5 * 0.2 / math.sqrt(0.2), 1.5 * 0.4 / math.sqrt(0.2)])
    assert second == pytest.approx([1.5 * 4, 1.5 * 2])
    assert third == [0, 0]  # nothing to learn, nothing divided by zero


def test_mmpareto_is_the_plain_sum_where_gradients_agree(two):
    trainer, encoded, on_z, y = prepared("mmpareto", 2, strength=1.5)
    on_z = dict(on_z, auxiliary=2.5 * on_z["fused"], total=3.5 * on_z["fused"])
    parameters = list(trainer.model.encoders.parameters())
    plain = torch.autograd.grad(encoded, parameters, on_z["total"], retain_graph=True)
    trainer.rule.to_encoders(trainer.model, encoded, on_z, y, rng())
    for p, g in zip(parameters, plain):
        torch.testing.assert_close(p.grad, 1.5 * g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("settings", [{"lambda_aux": 0.0}, {"fusion": "late"}])
def test_mmpareto_needs_two_losses(two, settings):
    with pytest.raises(PrsaError, match="expected lambda_aux > 0 and a fusion other than 'late', got"):
        make_trainer(two, "mmpareto", **settings).epoch(1)


# --- branch agreement --------------------------------------------------------------------------------------------------------------


@modalities
def test_branch_agreement(M):
    branch = torch.randn(5, M, 4, generator=rng(), dtype=torch.float64)
    expected = 0
    for b in range(5):
        p = [posterior(branch[b, m].tolist()) for m in range(M)]
        mean = [sum(p[m][k] for m in range(M)) / M for k in range(4)]
        expected += 0.7 * sum(p[m][k] * math.log(p[m][k] / mean[k]) for m in range(M) for k in range(4)) / M / 5
    got = rule_of(BranchAgreement, "js", strength=0.7).terms(
        {"branch": branch}, torch.zeros(5, dtype=int), torch.ones(M)
    )
    assert got.keys() == {"rebalancing"} and got["rebalancing"].item() == pytest.approx(expected, rel=1e-12)


@modalities
def test_branch_agreement_by_hand(M):
    """Sure of different categories: log M. Sure of the same: 0. Both with a finite gradient."""
    for logits, value in ((1e4 * torch.eye(M, 3)[None], math.log(M)), (1e4 * torch.eye(3)[:1].expand(1, M, 3), 0)):
        logits = logits.clone().requires_grad_()
        term = rule_of(BranchAgreement, "js", strength=2.0).terms(
            {"branch": logits}, torch.zeros(1, dtype=int), torch.ones(M)
        )["rebalancing"]
        assert term.item() == pytest.approx(2 * value, abs=1e-6)
        assert torch.isfinite(torch.autograd.grad(term, logits)[0]).all()


def test_branch_agreement_needs_heads(two):
    with pytest.raises(PrsaError, match="expected lambda_aux > 0, got 0.0"):
        make_trainer(two, "js", lambda_aux=0.0).epoch(1)


# --- modality dropout --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("M, p", list(itertools.product([2, 3], [0.0, 0.2, 0.7, 1.0])))
def test_modality_dropout(M, p):
    """Never all; every modality and every pair as often as the definition says, within 4 standard errors."""
    n = 20000
    keep = rule_of(ModalityDropout, "modality-dropout", strength=p).keep(n, M, rng(5))
    assert keep.shape == (n, M) and set(keep.unique().tolist()) <= {0.0, 1.0}
    assert (keep.sum(1) >= 1).all()
    alone = p**M / M
    for share, expected in (
        [(keep[:, m].mean().item(), 1 - p + alone) for m in range(M)]
        + [((keep[:, m] * (keep.sum(1) == 1)).mean().item(), (1 - p) * p ** (M - 1) + alone) for m in range(M)]
        + [((keep[:, 0] * keep[:, 1]).mean().item(), (1 - p) ** 2)]
    ):
        assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / n) + 1e-9


def test_modality_dropout_by_hand():
    """Uniform numbers of the stream, compared with p one by one; a row of losses keeps the one drawn next."""
    drawn, chosen = rng(11), []
    u = torch.rand(40, 2, generator=drawn).tolist()
    one = torch.randint(2, (40,), generator=drawn).tolist()
    for row, single in zip(u, one):
        kept = [float(v >= 0.6) for v in row]
        chosen.append(kept if any(kept) else [float(m == single) for m in range(2)])
    assert rule_of(ModalityDropout, "modality-dropout", strength=0.6).keep(40, 2, rng(11)).tolist() == chosen
    assert [1, 0] in chosen and [0, 1] in chosen and [1, 1] in chosen


def test_a_dropped_modality_gets_no_gradient_of_the_fused_loss(two):
    trainer, encoded, *_ = prepared("modality-dropout", 2)
    z, y = encoded.detach().requires_grad_(), trainer.y[:24]
    keep = trainer.rule.keep(24, 2, rng(1)).double()
    terms, _ = loss_terms(trainer.model, trainer.rule, z, y, torch.ones(2, dtype=z.dtype), keep=keep)
    gradient = gradients(trainer, terms, z)["total"]
    assert 0 < (keep == 0).sum() < 24
    assert torch.equal(gradient.abs().sum(2) == 0, keep == 0)


# --- all of them -------------------------------------------------------------------------------------------------------------------


@modalities
@pytest.mark.parametrize("method", RULED)
def test_trains_and_repeats(method, M):
    """One real epoch, the first of five so that every window is open: finite, the same from the same seed, and not the baseline."""
    scene, strength = make_scene(NAMES[:M]), METHODS[method].get("strength", 0.5)
    assert issubclass(type(make_trainer(scene, method).rule), Rule)
    twice = [make_trainer(scene, method, epochs=5, strength=strength) for _ in range(2)]
    records = [trainer.epoch(1) for trainer in twice]
    first, second = (weights(trainer.model) for trainer in twice)
    assert all(torch.isfinite(v).all() for v in first.values())
    assert_same_weights(first, second, method)
    assert np.isfinite(records[0]["loss"][TERMS.index("rebalancing")]) == (method in ("pmr", "js"))
    other = make_trainer(scene, "aux" if METHODS[method].get("lambda_aux") else "concat", epochs=5)
    other.epoch(1)
    assert not torch.equal(first["head.weight"], other.model.head.weight)


@pytest.mark.parametrize("method", ["ogm-ge", "modality-dropout"])
def test_another_stream_is_another_training(two, method):
    """Only the rule's stream differs."""
    heads = []
    for seed in (0, 1):
        trainer = make_trainer(two, method)
        trainer.streams.rule.manual_seed(seed)
        trainer.epoch(1)
        heads.append(trainer.model.head.weight.detach())
    assert not torch.equal(*heads)
