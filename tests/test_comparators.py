"""What PRSANet is compared with: rules, published networks and classical classifiers, against loops and by hand."""

import ast
import itertools
import json
import math
import re
import sys
import textwrap
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from tiny import SMALL, assert_same_weights, every_patch, make_scene, make_trainer, weights
from torch import nn

import prsa.comparators
from prsa import config, fit, predict_map, split_scene
from prsa.comparators import classical, networks
from prsa.comparators.classical import Classifier, class_probabilities
from prsa.comparators.networks import (
    MFT,
    CoupledCNN,
    CrossPatchLayer,
    EndNet,
    HetConv,
    NetworkTrainer,
    S2ENet,
    Spectral3D,
    Tokens,
)
from prsa.comparators.rebalancing import BranchAgreement, MMPareto, ModalityDropout, OgmGe, Pmr, PmrCode
from prsa.config import METHODS, make_config
from prsa.data.patches import band_statistics
from prsa.data.splits import TEST, TRAIN, VAL
from prsa.errors import PrsaError
from prsa.network.base import PerModality
from prsa.network.fusion import Concat
from prsa.study.evaluate import evaluate_pixels
from prsa.study.runs import check_run, load_run, save_run
from prsa.training.objective import TERMS, gradients, terms_of
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


def step_of(trainer, z, y, s=None, keep=None):
    """Gradients on z and summands as a step of the trainer takes them."""
    s = torch.full((z.shape[1],), 0.5, dtype=z.dtype) if s is None else s
    terms = terms_of(trainer.model, trainer.rule, trainer.model.classify(z, keep), y, s)
    return gradients(terms, z, trainer.model.shared_parameters())[0]


def prepared(method, M, **settings):
    """A trainer in double precision, one batch behind it: (trainer, encoded, gradients on z, y)."""
    trainer = make_trainer(make_scene(NAMES[:M]), method, **settings)
    model, index = trainer.model.double().train(), torch.arange(24)
    x, y = {m: v.double() for m, v in trainer.patches.gather(index).items()}, trainer.y[index]
    trainer.rule.progress = 0.1
    encoded = model.encode(x)
    model.bank.update(encoded.detach(), y)
    return trainer, encoded, step_of(trainer, encoded.detach().requires_grad_(), y), y


class Direct(nn.Module):
    """An encoder that is its own output: the gradient of its parameter is the gradient on z."""

    def __init__(self, values):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))


def direct(encoders, **parts):
    """A stand-in for the model with these encoders, and its z (1, M, D)."""
    encoders = PerModality({str(i): Direct(v) for i, v in enumerate(encoders)})
    model = SimpleNamespace(encoders=encoders, modalities=encoders.names, **parts)
    return model, torch.stack([e.weight.flatten() for e in encoders])[None]


# --- rules


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
    own = {(m, name): p for m, encoder in model.encoders.items() for name, p in encoder.named_parameters()}
    plain = dict(zip(own, torch.autograd.grad(encoded, list(own.values()), on_z["fused"], retain_graph=True)))
    trainer.rule.to_encoders(model, encoded, on_z, y, rng(3))
    k = naive_ogm(encoded.tolist(), y.tolist(), model.head.weight.tolist(), model.head.bias.tolist(), 0.6)
    assert min(k) < 1 == max(k)
    noise, kernels = rng(3), 0
    for m, factor in zip(model.modalities, k):
        for name, p in model.encoders[m].named_parameters():
            g = plain[m, name]
            if p.ndim == 4:
                kernels += 1
                g = factor * g + g.numpy().std() * torch.randn(p.shape, generator=noise, dtype=torch.float64)
            torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12, msg=f"{m} {name}")
            assert p.grad.stride() == p.stride()
    assert kernels == 4 * M  # patch 5: spectral layer, two 3x3 layers, the last


def test_ogm_ge_by_hand():
    """W_1 z^1 gives the true category ln 3 more than the other: s_1 = 3/4, s_2 = 1/2, rho = 3/2 and 2/3.

    A kernel of one weight has no spread, so no noise.
    """
    head = nn.Linear(2, 2).requires_grad_(False)
    head.weight.copy_(torch.tensor([[math.log(3), 0], [0, 0]]))
    head.bias.zero_()
    model, encoded = direct([[[[[1.0]]]], [[[[1.0]]]]], fusion=Concat(2, 1, 2), head=head)
    on_z = {"total": torch.tensor([[[2.0], [5.0]]])}
    rule_of(OgmGe, "ogm-ge", strength=0.3).to_encoders(model, encoded, on_z, torch.tensor([0]), rng())
    assert model.encoders["0"].weight.grad.item() == pytest.approx(2 * 0.5781010, rel=1e-6)  # 1 - tanh(0.45)
    assert model.encoders["1"].weight.grad.item() == 5


def test_ogm_ge_noise():
    """Spread and mean are those of the gradient before it is scaled, within 4 standard errors; the stream decides."""
    n, grads = 20000, []
    on_z = torch.linspace(-1, 3, n).reshape(1, 1, n).repeat(1, 2, 1)
    for seed in (1, 1, 2):
        start = [torch.zeros(n, 1, 1, 1).tolist()] * 2
        model, encoded = direct(start, fusion=Concat(2, n, 2), head=nn.Linear(2 * n, 2))
        rule_of(OgmGe, "ogm-ge").to_encoders(model, encoded, {"total": on_z.clone()}, torch.tensor([0]), rng(seed))
        grads.append(torch.stack([e.weight.grad.flatten() for e in model.encoders]))
    assert torch.equal(grads[0], grads[1]) and not torch.equal(grads[0], grads[2])
    noise, spread = grads[0].numpy() - np.linspace(-1, 3, n), 4 / math.sqrt(12)
    assert abs(noise.mean()) < 4 * spread / math.sqrt(2 * n)
    assert abs(noise.std() - spread) < 4 * spread / math.sqrt(4 * n)
    assert abs(np.corrcoef(noise)[0, 1]) < 4 / math.sqrt(n)


@pytest.mark.parametrize(
    "method, settings, message",
    [("ogm-ge", {"fusion": name}, f"expected fusion='concat', got '{name}'") for name in ("sagf", "sum")]
    + [
        ("ogm-ge", {"fusion": "late", "lambda_aux": 1.0}, "expected fusion='concat', got 'late'"),
        ("mmpareto", {"lambda_aux": 0.0}, "expected lambda_aux > 0 and a fusion other than 'late', got lambda_aux=0.0"),
        ("mmpareto", {"fusion": "late"}, "fusion other than 'late', got lambda_aux=1.0, fusion='late'"),
        ("js", {"lambda_aux": 0.0}, "expected lambda_aux > 0, got 0.0"),
    ],
)
def test_rules_say_what_they_need(two, method, settings, message):
    with pytest.raises(PrsaError, match=message):
        make_trainer(two, method, **settings).epoch(1)


@pytest.mark.parametrize("s", [(0.6, 0.4), (0.2, 0.7), (0.5, 0.5), (0.31, 0.3)])
def test_pmr_weights_are_the_published_ones(s):
    """Equation 11 of the paper as a case distinction, and the authors' code as another."""
    rho = s[0] / s[1]
    paper = (min(max(1 / rho - 1, 0), 1), 0) if rho < 1 else (0, min(max(rho - 1, 0), 1))
    code = (0, 1) if rho > 1 else (1, 0) if rho < 1 else (0, 0)
    s = torch.tensor(s, dtype=torch.float64)
    assert rule_of(Pmr, "pmr").weights(s).tolist() == pytest.approx(paper)
    assert rule_of(PmrCode, "pmr-code", strength=0.5).weights(s).tolist() == list(code)


def test_pmr_forms_of_three_modalities_and_the_window_of_the_code():
    s = torch.tensor([0.8, 0.5, 0.25], dtype=torch.float64)
    assert rule_of(Pmr, "pmr").weights(s).tolist() == pytest.approx([0, 0.6, 1])
    slow = [float(v < (s.sum().item() - v) / 2) for v in s.tolist()]
    pushed = [rule_of(PmrCode, "pmr-code", p, strength=0.6).weights(s).tolist() for p in (0.1, 0.6, 0.61, 1.0)]
    assert pushed == [slow, slow, [0] * 3, [0] * 3] and slow == [0, 1, 1]


def test_restraint_by_hand_and_only_in_the_first_fifth():
    """Two equal distances have the entropy ln 2; s = (0.6, 0.4) gives gamma = (0.5, 0), (0.4, 0.9) gives (0, 1)."""
    out, y = {"prototype": torch.zeros(3, 2, 2)}, torch.zeros(3, dtype=int)
    for s, gamma in (((0.6, 0.4), 0.5), ((0.4, 0.9), 1)):
        term = rule_of(Pmr, "pmr", strength=0.01).terms(out, y, torch.tensor(s))
        assert term.keys() == {"rebalancing"}
        assert term["rebalancing"].item() == pytest.approx(-0.01 * gamma * math.log(2))
    on = [bool(rule_of(Pmr, "pmr", p, strength=0.01).terms(out, y, torch.tensor(s))) for p in (0.05, 0.2, 0.25, 1.0)]
    assert on == [True, True, False, False] and not rule_of(Pmr, "pmr", strength=0.0).terms(out, y, torch.tensor(s))


@modalities
def test_restraint(M):
    logits = -torch.rand(7, M, 4, generator=rng(), dtype=torch.float64) * 5
    z = logits.clone().requires_grad_()
    s, y, expected = [0.5, 0.35, 0.3][:M], torch.zeros(7, dtype=int), 0
    rule = rule_of(Pmr, "pmr", strength=0.02)
    term = rule.terms({"prototype": z}, y, torch.tensor(s, dtype=torch.float64))["rebalancing"]
    for m in range(M):
        gamma = min(max(s[m] / min(s) - 1, 0), 1)
        for b in range(7):
            expected -= 0.02 * gamma * -sum(p * math.log(p) for p in posterior(logits[b, m].tolist())) / 7
    assert term.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(term, z)
    assert torch.isfinite(gradient).all() and (gradient[:, 0] != 0).any()
    assert not gradient[:, -1].any()  # the slowest is left alone


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
    """(1, 0) and (-1, 1): shares 3/5 and 2/5, shortest vector (0.2, 0.4), stretched to the length 1 of their sum.

    (1, 2) and (3, 0) agree: their plain sum. With nothing to learn, nothing is divided by zero.
    """
    model, encoded = direct([[0.0, 0.0]] * 3)
    f, u = torch.tensor([[[1.0, 0], [1, 2], [0, 0]]]), torch.tensor([[[-1.0, 1], [3, 0], [0, 0]]])
    on_z = {"fused": f, "auxiliary": u, "total": f + u}
    rule_of(MMPareto, "mmpareto", strength=1.5).to_encoders(model, encoded, on_z, torch.tensor([0]), rng())
    first, second, third = (e.weight.grad.tolist() for e in model.encoders)
    assert first == pytest.approx([1.5 * 0.2 / math.sqrt(0.2), 1.5 * 0.4 / math.sqrt(0.2)])
    assert second == pytest.approx([1.5 * 4, 1.5 * 2])
    assert third == [0, 0]


@modalities
def test_branch_agreement(M):
    branch = torch.randn(5, M, 4, generator=rng(), dtype=torch.float64)
    expected = 0
    for b in range(5):
        p = [posterior(branch[b, m].tolist()) for m in range(M)]
        mean = [sum(p[m][k] for m in range(M)) / M for k in range(4)]
        expected += 0.7 * sum(p[m][k] * math.log(p[m][k] / mean[k]) for m in range(M) for k in range(4)) / M / 5
    out, y = {"branch": branch}, torch.zeros(5, dtype=int)
    got = rule_of(BranchAgreement, "js", strength=0.7).terms(out, y, torch.ones(M))
    assert got.keys() == {"rebalancing"} and got["rebalancing"].item() == pytest.approx(expected, rel=1e-12)


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


def test_a_dropped_modality_gets_no_gradient_of_the_fused_loss(two):
    trainer, encoded, *_ = prepared("modality-dropout", 2)
    keep = trainer.rule.keep(24, 2, rng(1)).double()
    gradient = step_of(trainer, encoded.detach().requires_grad_(), trainer.y[:24], keep=keep)["total"]
    assert 0 < (keep == 0).sum() < 24
    assert torch.equal(gradient.abs().sum(2) == 0, keep == 0)


@modalities
@pytest.mark.parametrize("method", RULED)
def test_trains_and_repeats(method, M):
    """One real epoch, the first of five so that every window is open: finite, repeatable, and not the baseline."""
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
        trainer.streams["rule"].manual_seed(seed)
        trainer.epoch(1)
        heads.append(trainer.model.head.weight.detach())
    assert not torch.equal(*heads)


def test_the_example_of_a_new_method_runs_as_printed(two, monkeypatch):
    blocks = re.findall(r"::\n\n((?: {4}.*\n|\n)+)", prsa.comparators.__doc__)
    rule, entry = (textwrap.dedent(block) for block in blocks)
    module = ModuleType("surgery")
    exec(rule, vars(module))
    monkeypatch.setitem(sys.modules, "surgery", module)
    for name, settings in ast.literal_eval("{" + entry + "}").items():
        monkeypatch.setitem(config.METHODS, name, settings)
    split = split_scene(two, radius=2)
    ours, plain = (
        fit(two, method, split, preset="quick", device="cpu", **SMALL)[0] for method in ("surgery", "concat+prm")
    )
    assert ours.attrs["method"] == "surgery" and np.isfinite(ours["loss"].sel(term="prototype")).all()
    assert not np.array_equal(ours["prototypes"], plain["prototypes"]), "the hook was called"


# --- published networks

UNTRAINED = math.sqrt(1 + 1e-5)  # a batch norm still at mean 0 and variance 1 divides by it
PUBLISHED = {"endnet": EndNet, "coupled-cnn": CoupledCNN, "s2enet": S2ENet, "mft": MFT}
every = pytest.mark.parametrize("method", PUBLISHED)


def make(method, bands=None, k=4, seed=0, patch=5, **extra):
    return PUBLISHED[method](
        bands or {"hsi": 6, "sar": 2}, [f"class {i}" for i in range(k)], make_config(method, patch=patch), seed, **extra
    )


def batch(net, n=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, c, net.sides[m], net.sides[m], generator=g) for m, c in net.bands.items()}


def counted(net):
    return sum(p.numel() for p in net.parameters())


def sizes_of_endnet(c, k):
    """16-32-64-128, 128, 64-K and 64-32-16-C of the authors' code; a norm has two numbers per channel."""
    encoders = sum(n * 16 + 16 * 32 + 32 * 64 + 64 * 128 + 2 * (16 + 32 + 64 + 128) for n in c)
    decoders = sum(129 * 64 + 65 * 32 + 33 * 16 + 17 * n for n in c)
    return encoders + decoders + 256 * 128 + 2 * 128 + 128 * 64 + 2 * 64 + 65 * k


def sizes_of_coupled_cnn(c, k):
    """32, 64 and 128 kernels, the last two sets shared. Ours: the projection to 20 and a norm per modality."""
    branches = sum((n * 20 if n > 20 else 0) + 9 * min(n, 20) * 32 + 2 * (32 + 64 + 128) for n in c)
    return branches + 9 * 32 * 64 + 9 * 64 * 128 + 3 * 129 * k


def sizes_of_s2enet(c, k):
    """128-64-32 and 8-16-32 kernels, transformations of 16 and 32 channels, weights of 49 pixels and 32 channels."""
    kernels = 9 * (c[0] * 128 + 128 * 64 + 64 * 32 + c[1] * 8 + 8 * 16 + 16 * 32)
    norms = 2 * (128 + 64 + 32 + 8 + 16 + 32)
    enhancement = 2 * (32 * 16 + 2 * 16) + 2 * (32 * 32 + 2 * 32) + 49 + 32
    return kernels + norms + enhancement + 64 * 32 + 2 * 32 + 33 * k


@pytest.mark.parametrize("bands", [(60, 2), (20, 2)])
@pytest.mark.parametrize("sizes", [sizes_of_endnet, sizes_of_coupled_cnn, sizes_of_s2enet])
def test_parameters_are_those_of_the_authors_layers(sizes, bands):
    """They state no counts."""
    method = sizes.__name__.removeprefix("sizes_of_").replace("_", "-")
    assert counted(make(method, dict(zip(("hsi", "lidar"), bands)), 5, patch=7)) == sizes(bands, 5)


@pytest.mark.parametrize("bands, classes, published", [(144, 15, 313_071), (63, 6, 263_526)])
def test_parameters_of_mft_are_those_its_authors_print(bands, classes, published):
    """Their summary leaves out tokenisation and position; ours has no bias in front of four norms (8, 64, 64, 64)."""
    net = make("mft", {"hsi": bands, "lidar": 1}, classes, patch=11)
    tokenisation = 4 * 64 + 64 * 64 + 1 * 64 + 64 * 64
    position, biases = 5 * 64, 8 + 64 + 64 + 64
    assert counted(net) == published + tokenisation + position - biases


@pytest.mark.parametrize("mode", [True, False])
def test_multiply_accumulates_of_endnet(mode):
    net = make("endnet", {"hsi": 60, "lidar": 2}, 5).train(mode)
    encoders = sum(c * 16 + 16 * 32 + 32 * 64 + 64 * 128 for c in (60, 2))
    macs = encoders + 256 * 128 + 128 * 64 + 64 * 5
    assert net.complexity() == {"params": counted(net), "macs_patch": macs, "macs_pixel": macs}
    assert net.training == mode, "complexity leaves the mode alone"


def test_multiply_accumulates_of_mft_include_attention():
    net, n, pixels = make("mft", {"hsi": 60, "lidar": 2}, 5, patch=7), 60 - 8, 49
    conv = pixels * (8 * n * 81 + 64 * 9 * (8 * n // 16) + 64 * 8 * n + 64 * 2 * 9)
    tokens = sum(pixels * (t * 64 + 64 * 64 + t * 64) for t in (4, 1))
    # q of one token, k and v of five, in 8 heads; scores and mix; output
    attention = (8 + 2 * 5 * 8) * 8 * 64 + 2 * 8 * 5 * 64 + 512 * 64
    assert net.complexity()["macs_patch"] == conv + tokens + 2 * (attention + 2 * 5 * 64 * 512) + 64 * 5


@pytest.mark.parametrize("bands", [1, 5, 9, 12])
def test_spectral_convolution_is_the_3d_convolution(bands):
    layer, x = Spectral3D(bands).eval(), torch.randn(3, bands, 5, 5)
    depth = min(9, bands)
    weight = layer.layers[0].weight.view(8, 3, 3, depth).permute(0, 3, 1, 2)[:, None]  # (8, 1, depth, 3, 3)
    expected = F.conv3d(x[:, None], weight, padding=(0, 1, 1)).relu() / UNTRAINED  # (3, 8, n, 5, 5)
    assert layer.outputs == 8 * (bands - depth + 1)
    for memory in (torch.contiguous_format, torch.channels_last):
        assert torch.allclose(layer(x.contiguous(memory_format=memory)), expected.flatten(1, 2), atol=1e-5)


@pytest.mark.parametrize("inputs, groups", [(16, 16), (24, 8), (1088, 16), (440, 8)])
def test_hetconv_groups(inputs, groups):
    layer = HetConv(inputs, 64)
    assert layer.grouped.groups == groups and layer.grouped.weight.shape == (64, inputs // groups, 3, 3)
    x = torch.randn(2, inputs, 3, 3)
    grouped = F.conv2d(x[:, : inputs // groups], layer.grouped.weight[:1], padding=1)[:, 0]  # channel 0 alone
    expected = (grouped + (x * layer.pointwise.weight[:1]).sum(1)).relu() / UNTRAINED
    assert torch.allclose(layer.eval()(x)[:, 0], expected, atol=1e-4)


def test_tokens_are_weighted_means_of_pixels():
    layer, x = Tokens(6, 2), torch.randn(3, 6, 2, 2)
    got = layer(x)
    for b in range(3):
        pixels = [x[b, :, i, j] for i in range(2) for j in range(2)]
        for t in range(2):
            scores = [(layer.score.weight[t] @ v).item() for v in pixels]
            expected = sum(w * (layer.value.weight @ v) for w, v in zip(posterior(scores), pixels))
            assert torch.allclose(got[b, t], expected, atol=1e-5)


def test_only_the_first_token_asks():
    layer, tokens = CrossPatchLayer(8, heads=2, hidden=12).eval(), torch.randn(1, 4, 8)
    normed, answers = layer.norm(tokens)[0], []
    for h in (slice(0, 4), slice(4, 8)):
        q = layer.query.weight @ normed[0, h]  # (8,)
        scores = torch.stack([q @ (layer.key.weight @ t[h]) for t in normed]) / 2  # sqrt of 8 / 2 numbers
        answers.append(sum(w * (layer.value.weight @ t[h]) for w, t in zip(scores.softmax(0), normed)))
    z = tokens + layer.out(torch.cat(answers))
    assert torch.allclose(layer(tokens), z + layer.mlp(layer.mlp_norm(z)), atol=1e-5)


def test_class_token_comes_from_the_other_modalities():
    net = make("mft", {"hsi": 6, "sar": 2, "dsm": 1}).eval()
    net.layers = nn.Identity()  # the class token as it enters
    x = batch(net)
    cls = (net.cls["sar"](x["sar"]) + net.cls["dsm"](x["dsm"]))[:, 0] / 2 + net.position[0, 0]
    assert net.cls.names == ["sar", "dsm"]
    assert torch.allclose(net(x)["logits"], net.head(net.norm(cls)), atol=1e-5)


def test_enhancement_equals_the_full_affinities():
    net = make("s2enet").eval()
    x = batch(net, 3)
    a, b = net.hsi(x["hsi"]), net.other(x["sar"])
    t1, t2, t3, t4 = (t(v).flatten(2) for t, v in zip([*net.spatial, *net.spectral], [a, b, b, a]))
    pixels = torch.einsum("bcn,bcm,m->bn", t1, t2, net.pixels.weight[0])  # sum over m of the N x N affinity
    channels = torch.einsum("bcn,bdn,d->bc", t3, t4, net.channels.weight[0])  # sum over d of the 32 x 32 affinity
    merged = net.merge(torch.cat([a * pixels.view(3, 1, 5, 5), b * channels.view(3, 32, 1, 1)], 1))
    assert torch.allclose(net(x)["logits"], net.head(merged.mean((2, 3))), atol=1e-4)


def test_coupled_decision_weighs_outputs_by_what_they_got_right():
    net = make("coupled-cnn", k=2).eval()
    out = net(batch(net))
    assert torch.allclose(out["logits"], out["outputs"].mean(0), atol=1e-6), "no counts yet: the plain mean"
    net.right.copy_(torch.tensor([[6.0, 0.0], [3.0, 4.0], [1.0, 0.0]]))  # (fused, hsi, sar) x class
    out = net(batch(net))
    fused, hsi, sar = out["outputs"]
    expected = torch.stack([0.6 * fused[:, 0] + 0.3 * hsi[:, 0] + 0.1 * sar[:, 0], hsi[:, 1]], 1)
    assert torch.allclose(out["logits"], expected, atol=1e-4)


def test_coupled_counts_fade_and_are_gathered_in_training_only():
    net = make("coupled-cnn", k=2)
    sure = torch.tensor([[0, 0, 1], [1, 1, 1], [0, 1, 0]])  # of 3 outputs for 3 samples
    outputs = F.one_hot(sure, 2).float()
    y, hits = torch.tensor([0, 0, 1]), torch.tensor([[2.0, 1], [0, 1], [1, 0]])
    net.eval().terms({"outputs": outputs}, {}, y)
    assert not net.right.any()
    net.train().terms({"outputs": outputs}, {}, y)
    assert torch.equal(net.right, hits)
    terms = net.terms({"outputs": outputs}, {}, y)
    assert torch.allclose(net.right, 1.95 * hits)
    assert terms["fused"] == F.cross_entropy(outputs[0], y)
    assert torch.isclose(terms["single"], 0.01 * (F.cross_entropy(outputs[1], y) + F.cross_entropy(outputs[2], y)))


def test_coupled_outputs_at_the_published_patch():
    net = make("coupled-cnn", {"hsi": 3, "sar": 2}, patch=11).eval()
    x, h = batch(net), {}
    for m in x:
        (second, third), half, relu = net.norms[m], nn.MaxPool2d(2), nn.ReLU()
        layers = net.first[m], half, net.second, second, relu, half, net.third, third, relu, half
        h[m] = nn.Sequential(*layers)(x[m]).flatten(1)
        assert h[m].shape == (8, 128)
    expected = torch.stack([net.heads[0](h["hsi"] + h["sar"]), net.heads[1](h["hsi"]), net.heads[2](h["sar"])])
    assert torch.allclose(net(x)["outputs"], expected, atol=1e-5)


def test_endnet_reconstructs_the_centre():
    net = make("endnet").eval()
    x, y = batch(net), torch.zeros(8, dtype=torch.long)
    for decoder in net.decoders:  # that always says 1
        nn.init.zeros_(decoder[-1].weight)
        nn.init.ones_(decoder[-1].bias)
    expected = sum(np.mean((x[m][:, :, 2, 2].numpy() - 1) ** 2) for m in x)
    assert net.terms(net(x), x, y)["reconstruction"].item() == pytest.approx(expected, rel=1e-5)


@every
def test_pixels_that_are_looked_at(method):
    net = make(method, patch="hsi=7,sar=5").eval()
    x = {m: v.requires_grad_() for m, v in batch(net).items()}
    net(x)["logits"].sum().backward()
    seen = {m: v.grad.abs().amax((0, 1)) > 0 for m, v in x.items()}  # (p, p)
    inner = {"hsi": torch.zeros(7, 7, dtype=bool), "sar": torch.ones(5, 5, dtype=bool)}
    inner["hsi"][1:-1, 1:-1] = True
    for m, mask in seen.items():
        if method == "endnet":
            assert mask.sum() == 1 and mask[len(mask) // 2, len(mask) // 2]
        elif method == "s2enet":
            assert torch.equal(mask, inner[m])
        elif method == "mft":
            assert mask.all()
        else:  # pooling may leave an edge out
            assert mask.sum() > 1


@every
def test_overfits_64_samples(method, two):
    statistics = {m: (two[m].values.mean((1, 2)), two[m].values.std((1, 2))) for m in ("hsi", "sar")}
    net, label = make(method, statistics=statistics), two["label"].values.ravel()
    chosen = np.random.default_rng(0).choice(np.flatnonzero(label), 64, replace=False)
    x, y = {m: v[chosen] for m, v in every_patch(net, two).items()}, torch.from_numpy(label[chosen].astype(int) - 1)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    torch.manual_seed(0)  # dropout
    for step in range(160):
        optimizer.zero_grad()
        sum(net.train().terms(net(x), x, y).values()).backward()
        optimizer.step()
        if step % 20 == 19 and (net.eval()(x)["logits"].argmax(1) == y).all():
            return
    pytest.fail("not all 64 samples are learnt")


@every
def test_no_sample_depends_on_its_batch(method):
    net = make(method)
    x, y = batch(net, 12), torch.arange(12) % 4
    net.train().terms(net(x), x, y)  # running statistics that are not 0 and 1
    net.eval()
    together = net(x)["logits"]
    alone = torch.cat([net({m: v[i : i + 1] for m, v in x.items()})["logits"] for i in range(12)])
    assert torch.allclose(together, alone, atol=1e-5)


@every
@pytest.mark.parametrize(
    "bands, k, patch",
    [
        ({"hsi": 6, "sar": 2, "dsm": 1}, 3, 5),
        ({"hsi": 31, "lidar": 1}, 15, 7),
        ({"lidar": 1, "hsi": 25}, 2, 11),
        ({"a": 3, "b": 2, "c": 4, "d": 1}, 7, 3),
        ({"hsi": 9, "sar": 2}, 6, "hsi=3,sar=19"),
        ({"hsi": 10, "sar": 2, "dsm": 1}, 6, "hsi=5,sar=7,dsm=3"),
    ],
)
def test_any_bands_classes_modalities_and_patches(method, bands, k, patch):
    net = make(method, bands, k, patch=patch)
    x, y = batch(net, 5), torch.arange(5) % k
    out = net(x)
    terms = net.terms(out, x, y)
    assert out["logits"].shape == (5, k)
    assert "fused" in terms and all(v.ndim == 0 and torch.isfinite(v) for v in terms.values())
    assert net.complexity()["macs_patch"] > 0


@every
def test_gradients_reach_every_parameter(method):
    net = make(method, {"hsi": 12, "sar": 2, "dsm": 1})
    torch.manual_seed(0)
    x, y = batch(net, 64), torch.arange(64) % 4
    sum(net.terms(net(x), x, y).values()).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7]
    assert not dead


@every
def test_seeds(method):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (weights(make(method, seed=s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
    assert_same_weights(one, same)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@every
def test_one_modality_is_refused(method):
    with pytest.raises(PrsaError, match=r"expected two or more, got \['hsi'\]"):
        make(method, {"hsi": 6})


@every
def test_probabilities_are_those_of_the_patches(method, three, monkeypatch):
    monkeypatch.setattr(networks, "GATHERED", 100)
    monkeypatch.setattr(networks, "CHUNK", 30)
    statistics = {m: (three[m].values.mean((1, 2)), three[m].values.std((1, 2))) for m in ("hsi", "sar", "dsm")}
    net = make(method, {"hsi": 6, "sar": 2, "dsm": 1}, statistics=statistics)
    centres = np.random.default_rng(0).permutation(40 * 48)[:250]
    parts, p = zip(*net.probabilities(three, centres))
    assert [len(part) for part in parts] == [100, 100, 50] and np.array_equal(np.concatenate(parts), centres)
    with torch.no_grad():
        expected = net.eval()({m: v[centres] for m, v in every_patch(net, three).items()})["logits"].softmax(1)
    np.testing.assert_allclose(np.concatenate(p), expected, atol=1e-5)


@every
def test_trains_with_the_common_loop(method, three):
    settings, runs = make_config(method, "quick", **(SMALL | {"epochs": 3})), []
    split = split_scene(three, "blocks", radius=2)
    for _ in range(2):
        trainer = NetworkTrainer(three, split, settings, 3, torch.device("cpu"))
        assert type(trainer.model) is PUBLISHED[method] and trainer.run() == 3
        runs.append(trainer)
    first, *_, last = (dict(zip(TERMS, record["loss"])) for record in runs[0].history)
    assert last["fused"] < first["fused"]
    assert np.isfinite(first["auxiliary"]) == (method in ("endnet", "coupled-cnn"))
    assert_same_weights(*(weights(trainer.model) for trainer in runs), what="a repeated run")
    counts = evaluate_pixels(runs[0].model, three, split, runs[0].history)["confusion"].values[0]  # (part, K, K)
    assert np.trace(counts[2]) / counts[2].sum() > 0.4, "four classes: chance is a quarter"


# --- classical classifiers

CLASSICAL = [m for m, settings in METHODS.items() if "classifier" in settings]
SIDES = {"hsi": 7, "sar": 3, "dsm": 5}
PATCHES = ",".join(f"{m}={side}" for m, side in SIDES.items())


class Recorder(KNeighborsClassifier):
    """Nearest neighbours that remember what every copy of them was fitted to."""

    fits = []

    def fit(self, x, y):
        Recorder.fits.append(y)
        return super().fit(x, y)


def neighbours(seed):
    return Recorder(), {"n_neighbors": [1, 7, 40]}


def tied(seed):
    return DummyClassifier(), {"strategy": ["most_frequent", "prior"]}


def made(scene, method="svm", split=None, seed=0, **overrides):
    split = split_scene(scene, "blocks", radius=3) if split is None else split
    return Classifier(scene, split, make_config(method, "quick", **({"patch": 5} | overrides)), seed)


def stub(scene, function, split=None, **overrides):
    return made(scene, "svm", split, classifier=f"{__name__}:{function.__name__}", **overrides)


def answers(model, scene, centres=None):
    """Probabilities (pixels of the scene, K), NaN where the model was not asked."""
    p = np.full((scene["label"].size, len(model.classes)), np.nan, np.float32)
    for part, values in model.probabilities(scene, np.arange(len(p)) if centres is None else centres):
        assert values.dtype == np.float32 and np.isnan(p[part]).all() and len(set(part)) == len(part)
        p[part] = values
    return p


def accuracy(model, scene, split, code):
    chosen = split.values.ravel() == code
    return np.mean(answers(model, scene)[chosen].argmax(1) + 1 == scene["label"].values.ravel()[chosen])


def parts(values, kind="fixed"):
    attrs = {"kind": kind, "seed": 0, "radius": 3, "hash": "by hand"}
    return xr.DataArray(np.asarray(values, np.int8), dims=("y", "x"), attrs=attrs)


def no_validation(split):
    """The same split with validation pixels in no part: nothing to choose, so one fit."""
    return parts(np.where(split.values == VAL, 0, split.values))


def all_features(model, scene):
    return model.features(scene, 0, scene.sizes["y"])


@pytest.mark.parametrize("method", CLASSICAL)
def test_separable_classes_are_found(method):
    scene = make_scene(noise=0.05)
    split = split_scene(scene, "random")
    assert accuracy(made(scene, method, split), scene, split, TEST) > (0.95 if "spatial" in method else 0.995)


@pytest.mark.parametrize("method", ["rf", "svm"])
def test_spatial_features_see_a_class_that_only_its_texture_tells(method):
    """Pixels are -1 or 1 with probability 1/2; one class draws for every pixel, the other for squares of 4 x 4."""
    rng = np.random.default_rng(0)
    scene = make_scene(shape=(72, 48))
    label = np.kron(np.indices((6, 4)).sum(0) % 2, np.ones((12, 12), int)) + 1
    for m in ("hsi", "sar"):
        fine, coarse = rng.choice([-1.0, 1.0], (72, 48)), np.kron(rng.choice([-1.0, 1.0], (18, 12)), np.ones((4, 4)))
        scene[m].values[:] = np.where(label == 1, fine, coarse)
    scene["label"].values[:] = label
    split = parts(np.repeat([TRAIN, VAL, TEST], 24)[:, None] * np.ones((1, 48)))
    alone, spatial = (accuracy(made(scene, name, split), scene, split, TEST) for name in (method, f"{method}-spatial"))
    assert alone < 0.6 and spatial > 0.85


def naive_spatial(image, side):
    """The same from loops over windows; image (H, W, n) of a whole scene."""
    height, width, n = image.shape
    r = side // 2
    around = np.pad(image, ((2 * r, 2 * r), (2 * r, 2 * r), (0, 0)), "reflect")
    out = np.zeros((height, width, (2 + 2 * (r // 2)) * n))

    def square(choose, y, x, h):
        return choose(around[y - h : y + h + 1, x - h : x + h + 1], (0, 1))

    for y, x in np.ndindex(height, width):
        cy, cx = y + 2 * r, x + 2 * r
        found = [square(np.mean, cy, cx, r), square(np.std, cy, cx, r)]
        for h in range(1, r // 2 + 1):
            inside = list(itertools.product(range(cy - h, cy + h + 1), range(cx - h, cx + h + 1)))
            found.append(np.max([square(np.min, *place, h) for place in inside], 0))
            found.append(np.min([square(np.max, *place, h) for place in inside], 0))
        out[y, x] = np.concatenate(found)
    return out


def test_features_of_every_modality_against_naive_windows():
    scene = make_scene(tuple(SIDES), shape=(17, 15))
    scene["hsi"].values[2, 4:6, 3] = np.nan
    split = split_scene(scene, "random")
    model = made(scene, "svm-spatial", split, patch=PATCHES)
    wanted = []
    for m, side in SIDES.items():
        mean, std = band_statistics(scene, m, split.values == TRAIN)
        bands = np.nan_to_num((np.moveaxis(scene[m].values, 0, 2) - mean) / std)
        wanted.append(bands)
        if m == "hsi":
            axes = PCA(classical.COMPONENTS).fit(bands[split.values == TRAIN]).components_.T
            bands = bands @ (axes * np.where(axes.sum(0) < 0, -1, 1))
        wanted.append(naive_spatial(bands, side))
    found = all_features(model, scene)
    assert found.dtype == np.float32 and [w.shape[2] for w in wanted] == [6, 16, 2, 4, 1, 4]
    np.testing.assert_allclose(found, np.concatenate(wanted, 2), atol=2e-5)
    bands_alone = all_features(made(scene, "svm", split, patch=PATCHES), scene)
    np.testing.assert_array_equal(bands_alone, np.concatenate(wanted[::2], 2))


@pytest.mark.parametrize("side", [3, 5, 7, 11])
@pytest.mark.parametrize("pixel", [(0, 0), (12, 13), (23, 5)])
def test_nothing_outside_the_window_reaches_a_pixel(side, pixel):
    scene = make_scene(shape=(24, 26))
    model = made(scene, "svm-spatial", split_scene(scene, "random"), patch=side)
    before, r = all_features(model, scene)[pixel], side // 2
    rows, cols = np.ogrid[:24, :26]
    distance = np.maximum(abs(rows - pixel[0]), abs(cols - pixel[1]))
    for far, same in ((distance > r, True), (distance == r, False)):
        other = scene.copy(deep=True)
        for m in ("hsi", "sar"):
            other[m].values[:, far] = 1e9 * np.random.default_rng(0).normal(size=(scene[m].shape[0], far.sum()))
        assert np.array_equal(all_features(model, other)[pixel], before) == same


@pytest.mark.parametrize("method", ["svm", "svm-spatial", "rf-spatial"])
def test_test_pixels_change_nothing(method):
    """Their labels, and values beyond the windows of training and validation pixels."""
    scene = make_scene(shape=(60, 24))
    split = parts(np.repeat([TRAIN, VAL, TEST], 20)[:, None] * (scene["label"].values > 0))
    other, rng = scene.copy(deep=True), np.random.default_rng(3)
    test, first = split.values == TEST, 42 if "spatial" in method else 40
    other["label"].values[test] = rng.integers(1, 5, test.sum())
    for m in ("hsi", "sar"):
        other[m].values[:, first:] = rng.normal(size=other[m].values[:, first:].shape)
    kept = np.flatnonzero((split.values.ravel() == TRAIN) | (split.values.ravel() == VAL))
    a, b = (made(s, method, split) for s in (scene, other))
    assert a.point == b.point and a.complexity() == b.complexity()
    np.testing.assert_array_equal(answers(a, scene, kept)[kept], answers(b, other, kept)[kept])


def test_validation_pixels_choose_the_grid_point_and_are_not_trained_on():
    scene = make_scene(noise=2.0)
    split = split_scene(scene, "random")
    held = split.values == VAL
    for n in (1, 7, 40):
        alone = stub(scene, neighbours, no_validation(split))
        assert alone.point == {"n_neighbors": 1}, "the first"
        alone.estimator.set_params(n_neighbors=n)
        other = scene.copy(deep=True)  # validation labels are what this grid point says
        other["label"].values[held] = answers(alone, scene)[held.ravel()].argmax(1) + 1
        Recorder.fits.clear()
        model = stub(other, neighbours, split)
        assert model.point == {"n_neighbors": n} and model.estimator.n_neighbors == n
        assert [len(y) for y in Recorder.fits] == 4 * [(split.values == TRAIN).sum()]
        np.testing.assert_array_equal(answers(model, other), answers(alone, scene))
    assert stub(scene, tied, split).point == {"strategy": "most_frequent"}, "the first of equals"


def test_few_pixels_choose_and_all_are_fitted(monkeypatch):
    monkeypatch.setattr(classical, "GRID_PIXELS", 60)
    scene = make_scene()
    split = split_scene(scene, "random")
    counts = np.bincount(scene["label"].values[split.values == TRAIN])[1:]
    Recorder.fits.clear()
    stub(scene, neighbours, split)
    *tried, last = Recorder.fits
    assert len(tried) == 3 and len(last) == counts.sum() > 60
    for y in tried:
        assert len(y) == 60
        np.testing.assert_allclose(np.bincount(y, minlength=5)[1:], 60 * counts / counts.sum(), atol=1.01)


@pytest.mark.parametrize("method", ["rf", "svm"])
@pytest.mark.parametrize("k", [2, 4])
def test_probabilities_sum_to_one_and_say_what_the_estimator_predicts(method, k):
    scene = make_scene(noise=3.0)
    split = no_validation(split_scene(scene, "random"))
    model = made(scene, method, parts(np.where(scene["label"] > k, 0, split)))
    p = answers(model, scene)
    x = all_features(model, scene).reshape(len(p), -1)
    assert p.min() >= 0 and not p[:, k:].any()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(p.argmax(1) + 1, model.estimator.predict(x))
    if (method, k) == ("svm", 4):
        votes = model.estimator.set_params(svm__break_ties=False).predict(x)
        assert (votes != p.argmax(1) + 1).any(), "tied votes are part of this test"


def test_probabilities_of_two_classes_by_hand():
    class Decides:
        classes_ = np.array([2, 3])

        def decision_function(self, x):
            return x[:, 0]

    p = class_probabilities(Decides(), np.array([[0.0], [np.log(3)]]), 4)
    np.testing.assert_allclose(p, [[0, 0.5, 0.5, 0], [0, 0.25, 0.75, 0]], atol=1e-7)


@pytest.mark.parametrize("method", ["svm", "svm-spatial"])
def test_no_data_counts_as_the_training_mean(method):
    scene = make_scene()
    scene["hsi"].values[2][np.random.default_rng(0).random(scene["label"].shape) < 0.3] = np.nan
    scene["sar"].values[:, 5, 7] = np.nan
    split = split_scene(scene, "random")
    model, filled = made(scene, method, split), scene.copy(deep=True)
    for m in ("hsi", "sar"):
        mean = band_statistics(scene, m, split.values == TRAIN)[0]
        filled[m].values[:] = np.where(np.isnan(filled[m]), mean[:, None, None], filled[m])
    p = answers(model, scene)
    assert np.isfinite(p).all()
    np.testing.assert_array_equal(p, answers(model, filled))
    scene["sar"].values[1, split.values == TRAIN] = np.nan
    with pytest.raises(PrsaError, match="modality sar: expected data at training pixels"):
        made(scene, method, split)


@pytest.mark.parametrize("method", ["rf", "svm-spatial"])
def test_same_seed_same_classifier(method):
    scene = make_scene(noise=2.0, shape=(24, 24))
    split = no_validation(split_scene(scene, "random"))
    a, b, c = (answers(made(scene, method, split, seed), scene) for seed in (4, 4, 5))
    np.testing.assert_array_equal(a, b)
    assert np.array_equal(a, c) == ("svm" in method), "only the forest draws"


def test_rows_at_a_time_change_nothing(monkeypatch):
    scene = make_scene()
    model = made(scene, "svm-spatial", patch="hsi=7,sar=3")
    whole = answers(model, scene)
    monkeypatch.setattr(classical, "CELLS", 7 * 48 * all_features(model, scene).shape[2])
    assert len(list(model.probabilities(scene, np.arange(whole.shape[0])))) == 6
    np.testing.assert_allclose(answers(model, scene), whole, atol=1e-5)
    some = np.random.default_rng(0).permutation(whole.shape[0])[:50]
    p = answers(model, scene, some)
    np.testing.assert_allclose(p[some], whole[some], atol=1e-5)
    assert np.isnan(np.delete(p, some, 0)).all()


def test_complexity_counts():
    scene = make_scene()
    model = made(scene, "svm")
    support = sum(model.estimator["svm"].n_support_)
    work = {"macs_patch": support * 8, "macs_pixel": support * 8}
    assert model.complexity() == {"params": support * 8 + support * 3 + 6} | work
    forest = made(scene, "rf", no_validation(split_scene(scene, "random")))

    def walk(tree, node=0):
        """Nodes below and including this one, and comparisons to the deepest leaf."""
        left, right = tree.children_left[node], tree.children_right[node]
        if left < 0:
            return 1, 0
        a, b = walk(tree, left), walk(tree, right)
        return 1 + a[0] + b[0], 1 + max(a[1], b[1])

    nodes, deepest = np.sum([walk(e.tree_) for e in forest.estimator.estimators_], 0)
    assert len(forest.estimator.estimators_) == 200 and forest.estimator.n_jobs in (None, 1)
    assert forest.complexity() == {"params": 2 * nodes, "macs_patch": deepest, "macs_pixel": deepest}
    assert all(type(n) is int for m in (model, forest) for n in m.complexity().values())


def test_windows_must_not_reach_over_the_gap_of_the_split():
    scene = make_scene()
    split = split_scene(scene, "blocks", radius=2)
    with pytest.raises(PrsaError, match="keeps 2 pixels between parts.*radius=3"):
        made(scene, "rf-spatial", split, patch="hsi=7,sar=3")
    made(scene, "svm", split, patch=7)  # single pixels reach nothing


@pytest.mark.parametrize("method", CLASSICAL)
def test_run_file_and_map(method, tmp_path):
    scene = make_scene(("hsi", "sar", "dsm"))
    split = split_scene(scene, "blocks", seed=1, radius=2)
    run, model = fit(scene, method, split, 3, "quick", "cpu", patch=5)
    run.attrs["run_id"] = "0123456789abcdef"
    loaded = load_run(save_run(check_run(run), tmp_path / "run.nc"))
    xr.testing.assert_equal(loaded.drop_vars("confidence"), run.drop_vars("confidence"))
    np.testing.assert_allclose(loaded["confidence"], run["confidence"], atol=0.51 / 254, rtol=0)  # it is packed
    assert json.loads(loaded.attrs["config"])["classifier"] == METHODS[method]["classifier"]
    assert {name: loaded.attrs[name] for name in ("params", "macs_patch", "macs_pixel")} == model.complexity()
    cover = predict_map(model, scene)
    inside = split.values > 0
    np.testing.assert_array_equal(run["map"].values[inside], cover.values[inside])
    np.testing.assert_array_equal(run["confidence"].values[inside], cover.confidence.values[inside])
    assert not run["map"].values[~inside].any() and np.isnan(run["confidence"].values[~inside]).all()
    p = predict_map(model, scene, probabilities=True)["probability"]
    np.testing.assert_array_equal(p.argmax("class") + 1, cover)
    with pytest.raises(PrsaError, match="expected modalities and bands"):
        predict_map(model, make_scene())
