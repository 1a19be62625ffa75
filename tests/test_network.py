"""The network: its equations stand where they are cited, and each is compared with loops over plain numbers."""

import ast
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from tiny import BANDS, CLASSES, OWN, SMALL, assert_same_weights, make_scene, make_trainer, weights
from torch import nn

import prsa.network
from prsa import files, fit, predict_map
from prsa.config import Config, make_config, named
from prsa.errors import PrsaError
from prsa.network import losses
from prsa.network.base import PerModality
from prsa.network.encoders import Encoder
from prsa.network.fusion import FUSIONS, SAGF
from prsa.network.prototypes import PrototypeBank, imbalance_factor, optimisation_degree, push
from prsa.network.prsanet import PRSANet
from prsa.training.rule import Rule

B, K, D = 5, 4, 3
DTYPES = [torch.float32, torch.float64]
both = pytest.mark.parametrize("dtype, M", list(itertools.product(DTYPES, [2, 3])))
modalities = pytest.mark.parametrize("M", [2, 3])
Y = torch.tensor([0, 3, 3, 1, 2])


def draw(*shape, dtype=torch.float64, seed=0):
    """Random leaf tensor; drawn in double so that both precisions see one case."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def same(value, oracle, leaves=()):
    """Values agree, and so do the gradients of one combination of them on every leaf: {name: tensor}."""
    close = {"rtol": 1e-3, "atol": 1e-4} if value.dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    assert value.dtype == oracle.dtype and value.shape == oracle.shape
    torch.testing.assert_close(value, oracle, **close)
    if leaves:
        mix = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view(value.shape)
        pairs = (
            torch.autograd.grad((mix * v).sum(), list(leaves.values()), retain_graph=True) for v in (value, oracle)
        )
        for name, ours, naive in zip(leaves, *pairs):
            assert ours.abs().max() > 1e-6, f"the case is too easy: no gradient on {name}"
            torch.testing.assert_close(ours, naive, **close, msg=lambda text, name=name: f"gradient on {name}: {text}")


def log_softmax(row):
    total = sum(torch.exp(v) for v in row)
    return [torch.log(torch.exp(v) / total) for v in row]


def cosine(u, v):
    return sum(u * v) / (torch.sqrt(sum(u * u)) * torch.sqrt(sum(v * v)))


def table(rows):
    """Nested lists of scalars as one tensor."""
    return torch.stack([table(row) if isinstance(row, list) else row for row in rows])


def network(method="concat", bands=None, seed=0, **settings):
    return PRSANet(bands or BANDS, CLASSES, make_config(method, **(SMALL | settings)), seed)


# --- equations -------------------------------------------------------------------------------------------------------

CITED = re.compile(r"eq\. \(\d+\)(?:(?:,| to| and| or) \(\d+\))*")


def cited(text):
    found = CITED.findall(text)
    return {int(n) for place in found for n in re.findall(r"\((\d+)\)", place)}


def notebook_text(path):
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


def test_every_cited_equation_stands_in_the_network_and_in_the_notebook():
    stated = [int(n) for n in re.findall(r"^ +\((\d+)\)  ", prsa.network.__doc__, re.M)]
    assert stated == list(range(1, len(stated) + 1)), "each once, in order"
    notebooks = {path.name: notebook_text(path) for path in sorted((files.ROOT / "notebooks").rglob("*.ipynb"))}
    shown = [int(n) for n in re.findall(r"\\tag\{(\d+)\}", notebooks["02_model_and_losses.ipynb"])]
    assert sorted(shown) == stated, "notebook 02 shows the same equations"
    texts = {path.name: path.read_text(encoding="utf-8") for path in files.ROOT.joinpath("prsa").rglob("*.py")}
    for name, text in (texts | notebooks).items():
        assert cited(text) <= set(stated), name
        assert not re.search(r"\bMETHOD \d", text), name
    assert set(stated) <= set().union(*map(cited, texts.values())), "an equation that no code cites"


def test_every_forward_pass_says_its_shapes():
    """A line that changes the shape ends with the new one."""
    for path in sorted((files.ROOT / "prsa" / "network").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for function in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)):
            if function.name in ("forward", "classify", "encode", "update", "logits", "cross_entropy"):
                for line in text.splitlines()[function.lineno - 1 : function.end_lineno]:
                    if re.search(r"\.(flatten|view|transpose|unsqueeze|squeeze|permute)\(|torch\.stack\(", line):
                        assert re.search(r"# .*\(.*[BMK]", line), f"{path.name}: {line.strip()}"


# --- encoders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, 7])
def test_an_image_gives_at_every_pixel_what_its_patch_gives(side):
    torch.manual_seed(0)
    encoder, image = Encoder(5, side, 8, D), draw(2, 5, 9 + side - 1, 8 + side - 1, dtype=torch.float32)
    encoder(image)  # running statistics that are not 0 and 1
    encoder.eval()
    whole = encoder(image)
    assert whole.shape == (2, D, 9, 8)
    for y, x in itertools.product((0, 4, 8), (0, 5, 7)):
        patch = encoder(image[:, :, y : y + side, x : x + side])
        torch.testing.assert_close(patch[:, :, 0, 0], whole[:, :, y, x], rtol=1e-4, atol=1e-5)


# --- fusion ----------------------------------------------------------------------------------------------------------


def opened(M, dtype, tau=0.4):
    """A graph fusion whose zero parameters have moved; anchors need not stay on the sphere."""
    torch.manual_seed(0)
    fusion = SAGF(M, D, K, tau).to(dtype)
    with torch.no_grad():
        for name in ("from_category", "from_modality", "bonus"):
            parameter = getattr(fusion, name)
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64))
        fusion.anchors.mul_(torch.linspace(0.5, 2, K, dtype=dtype)[:, None])
    return fusion


def naive_sagf(fusion, z):
    """Equations (2) to (7) with loops and scalars."""
    M, P, a = z.shape[1], fusion.project, fusion.anchors
    found = {name: [] for name in ("f", "S", "A", "G", "bonus")}

    def apply(row, matrix):  # row vector times matrix
        return torch.stack([sum(row[i] * matrix[i, j] for i in range(D)) for j in range(D)])

    for sample in z:
        u = [apply(sample[m], P[m]) for m in range(M)]
        S = [[cosine(u[m], a[k]) / fusion.tau for k in range(K)] for m in range(M)]
        A = [[torch.exp(v) for v in log_softmax(row)] for row in S]
        G = [[sum(A[m][k] * A[n][k] for k in range(K)) for n in range(M)] for m in range(M)]
        G = [[g / sum(row) for g in row] for row in G]
        h = [
            sample[m]
            + apply(sum(A[m][k] * a[k] for k in range(K)), fusion.from_category)
            + apply(sum(G[m][n] * u[n] for n in range(M)), fusion.from_modality)
            for m in range(M)
        ]
        found["f"].append(torch.cat(h))
        found["bonus"].append([fusion.bonus * sum(S[m][k] for m in range(M)) / M for k in range(K)])
        for name, rows in (("S", S), ("A", A), ("G", G)):
            found[name].append(rows)
    return {name: table(rows) for name, rows in found.items()}


@both
def test_sagf(dtype, M):
    fusion, z = opened(M, dtype), draw(B, M, D, dtype=dtype, seed=1)
    ours, oracle = fusion(z), naive_sagf(fusion, z)
    leaves = {"z": z} | dict(fusion.named_parameters())
    reached = {
        "f": {*leaves} - {"bonus"},
        "bonus": {"z", "project", "anchors", "bonus"},
        **dict.fromkeys(("S", "A", "G"), {"z", "project", "anchors"}),
    }
    for name, wanted in oracle.items():
        same(ours[name], wanted, {leaf: leaves[leaf] for leaf in leaves if leaf in reached[name]})
    one = torch.ones(B, M, dtype=dtype)
    torch.testing.assert_close(ours["A"].sum(2), one)
    torch.testing.assert_close(ours["G"].sum(2), one)


@modalities
def test_sagf_starts_as_concatenation_bit_for_bit_and_can_leave_it(M):
    torch.manual_seed(0)
    fusion, z = SAGF(M, D, K), draw(B, M, D, dtype=torch.float32)
    out = fusion(z)
    assert torch.equal(out["f"], FUSIONS["concat"](M, D, K)(z)["f"]) and not out["bonus"].any()
    for P in fusion.project:
        torch.testing.assert_close(P @ P.T, torch.eye(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(fusion.anchors.norm(dim=1), torch.ones(K))
    (out["f"].sum() + (out["bonus"] * torch.arange(K)).sum()).backward()
    for name in ("from_category", "from_modality", "bonus"):
        assert getattr(fusion, name).grad.abs().max() > 0, f"{name} would stay zero for ever"
    bands = dict(list(BANDS.items())[:M])
    x = {m: torch.randn(B, n, 5, 5) for m, n in bands.items()}
    models = [network(fusion=name, bands=bands).eval() for name in ("concat", "sagf")]
    assert torch.equal(*(model(x)["logits"] for model in models)), "the same weights are drawn whatever the fusion"


@both
def test_plain_fusions(dtype, M):
    z = draw(B, M, D, dtype=dtype)
    torch.manual_seed(0)
    made = {name: FUSIONS[name](M, D, K).to(dtype) for name in ("concat", "sum", "gated", "cross-attention")}
    gate, attend, wanted = made["gated"].gate, made["cross-attention"], {name: [] for name in made}
    for sample in z:
        flat = torch.cat([sample[m] for m in range(M)])
        open_ = [1 / (1 + torch.exp(-(gate.weight[i] * flat).sum() - gate.bias[i])) for i in range(M * D)]
        layers = attend.query, attend.key, attend.value
        q, k, v = ([layer.weight @ sample[m] + layer.bias for m in range(M)] for layer in layers)
        edges = [[torch.exp(e) for e in log_softmax([q[m] @ k[n] / math.sqrt(D) for n in range(M)])] for m in range(M)]
        wanted["concat"].append(flat)
        wanted["sum"].append(sum(sample[m] for m in range(M)))
        wanted["gated"].append([sum(open_[m * D + d] * sample[m, d] for m in range(M)) for d in range(D)])
        mixed = [sample[m] + sum(edges[m][n] * v[n] for n in range(M)) for m in range(M)]
        wanted["cross-attention"].append(torch.cat(mixed))
    for name, rows in wanted.items():
        # the key's bias shifts all scores of a row alike
        leaves = {n: p for n, p in made[name].named_parameters() if n != "key.bias"}
        same(made[name](z)["f"], table(rows), {"z": z} | leaves)
        assert made[name].size == made[name](z)["f"].shape[1]


# --- losses ----------------------------------------------------------------------------------------------------------


@both
def test_losses(dtype, M):
    logits, weight = draw(B, M, K, dtype=dtype), torch.tensor([1.0, 1.6, 0.25][:M], dtype=dtype)
    rows = [[-log_softmax(logits[b, m])[Y[b]] for m in range(M)] for b in range(B)]
    leaves = {"logits": logits}
    same(losses.cross_entropy(logits, Y), table(rows), leaves)
    same(losses.cross_entropy(logits[:, 0], Y), table([row[0] for row in rows]), leaves)
    same(losses.alignment_loss(logits, Y), table([sum(row) / M for row in rows]), leaves)
    pushed = [sum(weight[m] * row[m] for m in range(M)) for row in rows]
    same(losses.prototype_loss(logits, Y, weight), table(pushed), leaves)


@both
def test_jensen_shannon(dtype, M):
    logits, rows = draw(B, M, K, dtype=dtype), []
    p = logits.softmax(2)
    for b in range(B):
        mean = [sum(p[b, m, k] for m in range(M)) / M for k in range(K)]
        rows.append(sum(p[b, m, k] * torch.log(p[b, m, k] / mean[k]) for m in range(M) for k in range(K)) / M)
    same(losses.jensen_shannon(p), table(rows), {"logits": logits})


def test_limits_of_the_losses():
    apart = torch.eye(3)[None].requires_grad_()  # three modalities, each sure of another category
    assert losses.jensen_shannon(apart).item() == pytest.approx(math.log(3), abs=1e-6)
    assert losses.jensen_shannon(apart[:, :1].expand(1, 3, 3)).item() == pytest.approx(0, abs=1e-7)
    extreme = torch.tensor([[1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    value = losses.cross_entropy(extreme, torch.tensor([1]))
    assert value.item() == pytest.approx(2e4)
    for loss, leaf in ((losses.jensen_shannon(apart), apart), (value, extreme)):
        assert torch.isfinite(torch.autograd.grad(loss.sum(), leaf)[0]).all()


# --- prototypes ------------------------------------------------------------------------------------------------------

BATCHES = [[0, 0, 1, 0, 1], [1, 2, 2, 2, 2], [0, 1, 0, 2, 0]]  # category 3 never comes, 2 comes late, 0 is away once


@both
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("mu", [0.9, 0.0, 0.25])
def test_prototypes_follow_the_batches(dtype, M, metric, mu):
    bank, memory = PrototypeBank(M, K, D, mu, metric).to(dtype), {}
    for step, y in enumerate(BATCHES):
        before, z = bank.means.clone(), draw(B, M, D, dtype=dtype, seed=step)
        bank.update(z, torch.tensor(y))
        for m, k in itertools.product(range(M), set(y)):
            members = [z[b, m] / (z[b, m].norm() if metric == "cosine" else 1) for b in range(B) if y[b] == k]
            mean = sum(members) / len(members)
            memory[m, k] = mu * memory[m, k] + (1 - mu) * mean if (m, k) in memory else mean  # the first sight copies
        away = [k for k in range(K) if k not in y]
        assert torch.equal(bank.means[:, away], before[:, away]), "an absent category keeps its prototype to the bit"
    assert bank.seen.tolist() == [True, True, True, False] and not bank.means.requires_grad
    for (m, k), mean in memory.items():
        same(bank.means[m, k], mean.detach())
    other = PrototypeBank(M, K, D, mu, metric).to(dtype)
    other.load_state_dict(bank.state_dict())
    for b in (bank, other):
        b.update(z + 1, torch.tensor(BATCHES[2]))
    assert torch.equal(bank.means, other.means), "what was seen travels with the weights"


@both
@pytest.mark.parametrize("metric, tau", [("cosine", 0.3), ("cosine", 1.0), ("euclidean", 0.3)])
def test_classifier_without_weights(dtype, M, metric, tau):
    bank, z = PrototypeBank(M, K, D, metric=metric, tau=tau).to(dtype), draw(B, M, D, dtype=dtype)
    bank.means.copy_(draw(M, K, D, dtype=dtype, seed=9).detach())

    def similarity(v, c):
        return cosine(v, c) / tau if metric == "cosine" else -torch.sqrt(sum((v - c) ** 2))

    rows = [[[similarity(z[b, m], bank.means[m, k]) for k in range(K)] for m in range(M)] for b in range(B)]
    same(bank.logits(z), table(rows), {"z": z})


def test_euclidean_logits_of_a_real_batch_size():
    """Large batches must not lose the small distances that decide (a matrix-product shortcut would)."""
    torch.manual_seed(0)
    bank = PrototypeBank(2, 15, 64, metric="euclidean")
    bank.means.copy_(5 + torch.randn(2, 15, 64))
    z = bank.means[:, torch.arange(128) % 15].transpose(0, 1) + 1e-3 * torch.randn(128, 2, 64)
    exact = -(z.double()[:, :, None] - bank.means.double()).norm(dim=3)
    assert (bank.logits(z).double() - exact).abs().max() < 1e-4


@both
def test_optimisation_degree_imbalance_factor_and_push(dtype, M):
    logits = draw(B, M, K, dtype=dtype)
    rows = [sum(torch.exp(log_softmax(logits[b, m])[Y[b]]) for b in range(B)) / B for m in range(M)]
    same(optimisation_degree(logits, Y), table(rows), {"logits": logits})
    s = torch.tensor([0.55, 0.4, 0.7][:M], dtype=dtype, requires_grad=True)
    rho = [s[m] / (sum(s[n] for n in range(M) if n != m) / (M - 1)) for m in range(M)]
    same(imbalance_factor(s), table(rho), {"s": s})
    same(push(s), table([torch.clamp(max(s) / s[m] - 1, 0, 1) for m in range(M)]), {"s": s})


@pytest.mark.parametrize(
    "s, rho, beta",
    [
        ((0.8, 0.5), (1.6, 0.625), (0.0, 0.6)),  # modality 1 leads: rho_1 = 0.8 / 0.5; modality 2 is pushed by 1.6 - 1
        ((0.9, 0.2), (4.5, 2 / 9), (0.0, 1.0)),  # 4.5 - 1 is clipped at 1
        ((0.4, 0.4), (1.0, 1.0), (0.0, 0.0)),
        ((0.6, 0.3, 0.4), (0.6 / 0.35, 0.3 / 0.5, 0.4 / 0.45), (0.0, 1.0, 0.5)),
    ],
)
def test_factor_and_push_by_hand(s, rho, beta):
    assert imbalance_factor(torch.tensor(s)).tolist() == pytest.approx(rho)
    assert push(torch.tensor(s)).tolist() == pytest.approx(beta)
    if len(s) == 2:  # PMR by the letter: eq. 8, and eq. 11, clip(0, 1 / rho - 1, 1) for the slow one
        r = s[0] / s[1]
        assert imbalance_factor(torch.tensor(s)).tolist() == pytest.approx([r, 1 / r])
        assert push(torch.tensor(s)).tolist() == pytest.approx([min(max(v - 1, 0), 1) for v in (1 / r, r)])


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OWN)
@modalities
def test_a_prediction_depends_on_no_other_sample(method, M):
    model = network(method, dict(list(BANDS.items())[:M]))
    x = {m: draw(40, n, model.sides[m], model.sides[m], dtype=torch.float32) for m, n in model.bands.items()}
    model.bank.update(model.encode(x), torch.arange(40) % K)  # and running statistics that are not 0 and 1
    model.eval()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, shuffled = model(x), model({m: v[order] for m, v in x.items()})
        other = model({m: torch.cat([v[:3], 100 * v[3:]]) for m, v in x.items()})
        few = model({m: v[:3] for m, v in x.items()})
    for key in ("logits", "prototype", "z", "f"):
        torch.testing.assert_close(shuffled[key], whole[key][order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(few[key], whole[key][:3], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other[key][:3], whole[key][:3], atol=1e-5, rtol=1e-5)


def test_late_fusion_is_the_sum_of_log_probabilities():
    model, z = network("late").eval(), draw(B, 3, SMALL["features"], dtype=torch.float32)
    out = model.classify(z)
    single = [(z[:, i] @ h.weight.T + h.bias).softmax(1) for i, h in enumerate(model.branch_heads)]
    torch.testing.assert_close(out["logits"], sum(p.log() for p in single), atol=1e-5, rtol=1e-5)
    assert torch.equal(model.branch_logits(out), out["branch"])


def test_the_vote_changes_what_is_predicted_and_not_what_is_trained():
    z = draw(B, 3, SMALL["features"], dtype=torch.float32)
    plain, voting = (network("prsanet", vote=vote).eval().classify(z) for vote in (0.0, 2.0))
    torch.testing.assert_close(plain["logits"], plain["fused"])
    torch.testing.assert_close(voting["fused"], plain["fused"])
    ballots = sum(plain["S"][:, m].log_softmax(1) for m in range(3)) / 3
    torch.testing.assert_close(voting["logits"], plain["fused"].log_softmax(1) + 2 * ballots)
    with pytest.raises(PrsaError, match="vote=1.0.*expected fusion='sagf', got 'concat'"):
        network(vote=1.0)


@modalities
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_prototype_loss_reaches_its_own_encoder_alone(M, metric):
    trainer = make_trainer(make_scene(tuple(BANDS)[:M]), lambda_p=1.0, lambda_aux=1.0, metric=metric)
    trainer.epoch(1)
    model, x, y = trainer.model, trainer.patches.gather(torch.arange(16)), trainer.y[:16]
    for i, own in enumerate(model.modalities):
        value = losses.prototype_loss(model(x)["prototype"], y, 1.5 * torch.eye(M)[i]).mean()
        inside = {id(p) for p in model.encoders[own].parameters()}
        for name, p in model.named_parameters():
            (gradient,) = torch.autograd.grad(value, p, retain_graph=True, allow_unused=True)
            if id(p) in inside:
                assert gradient is not None and (gradient.abs().max() > 0 or name.endswith("bias")), name
            else:
                assert gradient is None or not gradient.any(), f"the prototype loss of {own} reaches {name}"


@pytest.mark.parametrize("method", OWN)
def test_every_parameter_belongs_to_one_modality_or_is_shared(method):
    model = network(method)
    parts = [list(model.encoders[m].parameters()) for m in BANDS] + [model.shared_parameters()]
    names = {id(p): name for name, p in model.named_parameters()}
    for i, part in enumerate(parts):
        where = {names.pop(id(p)).rpartition(".layers.")[0] for p in part}
        assert where == ({f"encoders.{i}"} if i < 3 else {""})
    assert not names
    model.encoders["hsi"].layers[1].weight = model.encoders["sar"].layers[1].weight
    with pytest.raises(AssertionError):
        model._check_partition()


ODD_NAMES = ("keys", "type", "a.b", "", "0", "parameters", "Höhe über NN", "sum", "training", "bank")


@pytest.mark.parametrize("method", ["late", "prsanet", "mft", "coupled-cnn", "endnet"])
def test_modalities_may_have_any_name(method):
    plain, odd = (
        (named("network", make_config(method).network) if make_config(method).network else PRSANet)(
            {name: 2 + i for i, name in enumerate(names)}, CLASSES, make_config(method, **SMALL), 3
        )
        for names in (map(str, range(len(ODD_NAMES))), ODD_NAMES)
    )
    assert plain.state_dict().keys() == odd.state_dict().keys()
    x = {name: draw(6, 2 + i, 5, 5, dtype=torch.float32) for i, name in enumerate(ODD_NAMES)}
    assert odd(x)["logits"].shape == (6, K)
    assert list(odd.statistics()) == list(ODD_NAMES) and odd.complexity() == plain.complexity()


@pytest.mark.parametrize("names", [("keys", "a.b"), ("type", "bank"), ("aux", "sum")])
def test_a_scene_with_such_names_goes_the_whole_way(names):
    plain = make_scene(("hsi", "sar"))
    odd = plain.rename(
        {a: b for old, new in zip(("hsi", "sar"), names) for a, b in ((old, new), (f"{old}_band", f"{new}_band"))}
    )
    run, model = fit(odd, "prsanet", preset="quick", device="cpu", **SMALL)
    assert run["modality"].values.tolist() == list(names) and run.attrs["method"] == "prsanet"
    assert predict_map(model, odd).shape == odd["label"].shape


def test_a_module_per_modality_is_found_by_name():
    parts = PerModality({m: nn.Linear(n, 1) for m, n in BANDS.items()})
    assert [m for m, _ in parts.items()] == list(BANDS) and len(parts) == 3
    assert all(parts[m].in_features == n for m, n in BANDS.items())
    with pytest.raises(ValueError, match="lidar"):
        parts["lidar"]


def by_hand(fusion, M, k, d):
    """Products after the encoders: fusion and head."""
    heads = {"late": M * d * k, "sum": d * k, "gated": d * k}.get(fusion, M * d * k)
    inside = {
        "gated": (M * d) ** 2,
        "cross-attention": M * (3 * d * d + 2 * M * d),  # query, key, value; scores and their mix
        "sagf": M * (d * d + d * k + M * k + k * d + M * d + 2 * d * d),
    }
    return heads + inside.get(fusion, 0)


@pytest.mark.parametrize("fusion", [*FUSIONS, "late"])
@modalities
def test_complexity_by_hand(fusion, M):
    bands, w, d = dict(list(BANDS.items())[:M]), 12, 10
    sides = {"hsi": 7, "sar": 3, "dsm": 5}
    patch = ",".join(f"{m}={sides[m]}" for m in bands)
    model = network(fusion=fusion, bands=bands, patch=patch, width=w, features=d)
    told, training = model.complexity(), model.training
    pixel = sum(n * w + sides[m] // 2 * 9 * w * w + w * d for m, n in bands.items())
    windows = 0
    for m, n in bands.items():
        inner = [9 * w * w * (sides[m] - 2 * i) ** 2 for i in range(1, sides[m] // 2 + 1)]
        windows += n * w * sides[m] ** 2 + sum(inner) + w * d
    after = by_hand(fusion, M, len(CLASSES), d)
    assert told["macs_pixel"] == pixel + after and told["macs_patch"] == windows + after
    assert told["params"] == sum(p.numel() for p in model.parameters()) and model.training == training


def test_weights_are_drawn_by_name():
    """Switching the fusion or adding a modality does not move the first weights of the rest, or the caller's stream."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = network(bands={"hsi": 6, "sar": 2}, seed=1)
    more = network("sagf", {"dsm": 1, "sar": 2, "hsi": 6}, seed=1, lambda_aux=1.0)
    assert torch.equal(before, torch.random.get_rng_state())
    for m in ("hsi", "sar"):
        assert_same_weights(weights(first.encoders[m]), weights(more.encoders[m]))
    other = network(bands={"hsi": 6, "sar": 2}, seed=2)
    assert not torch.equal(first.encoders["hsi"].layers[0].weight, other.encoders["hsi"].layers[0].weight)
    assert not torch.equal(first.encoders["hsi"].layers[3].weight, first.encoders["sar"].layers[3].weight)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "nope"}, "unknown method 'nope'.*concat"),
        ({"preset": "huge"}, "unknown preset 'huge'.*quick"),
        ({"lambda": 1.0}, "unknown setting 'lambda'.*lambda_p"),
        ({"epochs": 2.5}, "epochs: expected int, got 2.5"),
        ({"lr": "high"}, "lr: expected float, got 'high'"),
        ({"batch": True}, "batch: expected int"),
        ({"rebalance": 1}, "rebalance: expected bool"),
        ({"fusion": 3}, "fusion: expected str"),
        ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
        ({"batch": 1}, "batch: expected 2 or more, as batch normalisation needs them, got 1"),
        ({"lambda_p": -0.1}, "lambda_p: expected 0 or more"),
        ({"tau_p": 0.0}, "tau_p: expected more than 0"),
        ({"lr": float("nan")}, "lr: expected more than 0"),
        ({"weight_decay": float("inf")}, "weight_decay: expected 0 or more"),
    ],
)
def test_config_errors_name_what_was_expected(settings, message):
    with pytest.raises(PrsaError, match=message):
        make_config(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"fusion": "glue"}, "unknown fusion 'glue'.*sagf"),
        ({"metric": "euclid"}, "unknown metric 'euclid'.*cosine, euclidean"),
        ({"patch": 4}, "odd window side >= 3, got 4"),
        ({"patch": 1}, "got 1"),
        ({"patch": "hsi=7,lidar=5"}, "modalities"),
        ({"patch": "hsi=big"}, "modality=side"),
        ({"patch": "hsi"}, "modality=side"),
    ],
)
def test_network_errors(settings, message):
    with pytest.raises(PrsaError, match=message):
        network(**settings)
    assert Config(patch="sar=3, dsm=9").patches(list(BANDS)) == {"hsi": Config().patch, "sar": 3, "dsm": 9}


@pytest.mark.parametrize(
    "name, base, message",
    [
        ("prsa.nowhere:Rule", Rule, "expected 'module:name'.*nowhere"),
        ("prsa.training.rule:Nobody", Rule, "expected 'module:name'.*Nobody"),
        ("prsa.training.rule:push", Rule, "expected a subclass of prsa.training.rule.Rule, got"),
        ("prsa.config:METHODS", None, "expected a function"),
    ],
)
def test_named_errors(name, base, message):
    with pytest.raises(PrsaError, match=f"setting rule: {message}"):
        named("rule", name, base)
    assert named("rule", Config().rule, Rule) is Rule


def test_batches_of_one_category_leave_the_others_at_the_origin():
    """Until its first batch a category's cosine with everything is 0: what the docstring of the bank says."""
    bank = PrototypeBank(2, K, D)
    z = draw(B, 2, D, dtype=torch.float32).detach()
    bank.update(z, torch.zeros(B, dtype=int))
    assert not bank.logits(z)[:, :, 1:].any() and np.isfinite(bank.logits(z).numpy()).all()
