"""SAGF against a loop over samples, modalities and categories, in single and double precision, and the plain fusions."""

import itertools
import math

import pytest
import torch

from prsa.config import make_config
from prsa.errors import PrsaError
from prsa.network.fusion import FUSIONS, SAGF
from prsa.network.prsanet import PRSANet

B, K, D = 4, 3, 5
cases = pytest.mark.parametrize(
    "dtype, M, rounds", list(itertools.product([torch.float32, torch.float64], [2, 3], [1, 2]))
)


def opened(M, dtype, rounds=1, tau=0.4, seed=0):
    """A fusion whose zero parameters have moved."""
    torch.manual_seed(seed)
    fusion = SAGF(M, D, K, tau, rounds).to(dtype)
    with torch.no_grad():
        for name in ("from_category", "from_modality", "bonus"):
            parameter = getattr(fusion, name)
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64))
        fusion.anchors.mul_(torch.linspace(0.5, 2, K, dtype=dtype)[:, None])  # anchors need not stay on the sphere
    return fusion


def drawn(M, dtype, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, M, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def naive(fusion, z):
    """METHOD 2 with loops and scalars."""
    M = z.shape[1]
    P, a, Wc, Wg = fusion.project, fusion.anchors, fusion.from_category, fusion.from_modality
    found = {name: [] for name in ("f", "S", "A", "G", "bonus")}

    def cosine(u, v):
        return sum(u * v) / (torch.sqrt(sum(u * u)) * torch.sqrt(sum(v * v)))

    def apply(row, matrix):  # row vector times matrix
        return torch.stack([sum(row[i] * matrix[i, j] for i in range(D)) for j in range(D)])

    for b in range(z.shape[0]):
        h = [z[b, m] for m in range(M)]
        for _ in range(fusion.rounds):
            u = [apply(h[m], P[m]) for m in range(M)]
            S = [[cosine(u[m], a[k]) / fusion.tau for k in range(K)] for m in range(M)]
            A = [[torch.exp(S[m][k]) / sum(torch.exp(v) for v in S[m]) for k in range(K)] for m in range(M)]
            G = [[sum(A[m][k] * A[n][k] for k in range(K)) for n in range(M)] for m in range(M)]
            G = [[G[m][n] / sum(G[m]) for n in range(M)] for m in range(M)]
            h = [
                h[m]
                + apply(sum(A[m][k] * a[k] for k in range(K)), Wc)
                + apply(sum(G[m][n] * u[n] for n in range(M)), Wg)
                for m in range(M)
            ]
        found["f"].append(torch.cat(h))
        found["bonus"].append(torch.stack([fusion.bonus * sum(S[m][k] for m in range(M)) / M for k in range(K)]))
        for name, table in (("S", S), ("A", A), ("G", G)):
            found[name].append(torch.stack([torch.stack(row) for row in table]))
    return {name: torch.stack(rows) for name, rows in found.items()}


@cases
def test_sagf(dtype, M, rounds):
    fusion, z = opened(M, dtype, rounds), drawn(M, dtype)
    ours, oracle = fusion(z), naive(fusion, z)
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    leaves = {"z": z} | dict(fusion.named_parameters())
    for name, wanted in oracle.items():
        assert ours[name].dtype == dtype
        torch.testing.assert_close(ours[name], wanted, **tolerance)
        mix = torch.linspace(-1, 2, wanted.numel(), dtype=dtype).view(wanted.shape)
        gradients = [
            torch.autograd.grad((mix * value).sum(), leaves.values(), retain_graph=True, allow_unused=True)
            for value in (ours[name], wanted)
        ]
        for leaf, of_ours, of_naive in zip(leaves, *gradients):
            zero = torch.zeros_like(leaves[leaf])
            torch.testing.assert_close(
                zero if of_ours is None else of_ours,
                zero if of_naive is None else of_naive,
                **tolerance,
                msg=lambda text, leaf=leaf, name=name: f"gradient of {name} on {leaf}: {text}",
            )
            if name == "f" and leaf != "bonus":
                assert of_ours.abs().max() > 1e-6, f"the case is too easy: f has no gradient on {leaf}"


@pytest.mark.parametrize("M", [2, 3])
def test_edges_are_distributions(M):
    out = opened(M, torch.float64)(drawn(M, torch.float64))
    one = torch.ones(B, M, dtype=torch.float64)
    torch.testing.assert_close(out["A"].sum(2), one)
    torch.testing.assert_close(out["G"].sum(2), one)
    assert out["S"].abs().max() <= 1 / 0.4 + 1e-9, "a cosine over tau_s"


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.parametrize("rounds", [1, 2])
def test_at_the_start_it_is_concatenation_bit_for_bit(M, rounds):
    torch.manual_seed(0)
    fusion, z = SAGF(M, D, K, rounds=rounds), drawn(M, torch.float32)
    out = fusion(z)
    assert torch.equal(out["f"], FUSIONS["concat"](M, D, K)(z)["f"]) and not out["bonus"].any()
    bands = {"hsi": 6, "sar": 2, "dsm": 1}
    bands = dict(list(bands.items())[:M])
    x = {m: torch.randn(B, n, 5, 5) for m, n in bands.items()}
    models = [
        PRSANet(
            bands, ["a", "b", "c"], make_config("concat", "quick", patch=5, width=6, features=D, fusion=name)
        ).eval()
        for name in ("concat", "sagf")
    ]
    assert torch.equal(*(model(x)["logits"] for model in models)), "the same weights are drawn whatever the fusion"


def test_it_can_leave_the_start():
    torch.manual_seed(0)
    fusion = SAGF(2, D, K)
    out = fusion(drawn(2, torch.float32))
    (out["f"].sum() + out["bonus"].square().sum() + (out["bonus"] * torch.arange(3.0)).sum()).backward()
    for name in ("from_category", "from_modality", "bonus"):
        assert getattr(fusion, name).grad.abs().max() > 0, f"{name} would stay zero for ever"


def test_projections_start_orthogonal_and_anchors_on_the_sphere():
    torch.manual_seed(0)
    fusion = SAGF(3, D, K)
    for P in fusion.project:
        torch.testing.assert_close(P @ P.T, torch.eye(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(fusion.anchors.norm(dim=1), torch.ones(K))


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("M", [2, 3])
def test_a_sample_does_not_see_the_others(name, M):
    torch.manual_seed(0)
    fusion, z = FUSIONS[name](M, D, K), drawn(M, torch.float32).detach()
    whole = fusion(z)
    assert whole["f"].shape == (B, fusion.size)
    for b in range(B):
        for key, value in fusion(z[b : b + 1]).items():
            torch.testing.assert_close(value[0], whole[key][b], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("M", [2, 3])
def test_plain_fusions(M):
    z = drawn(M, torch.float64).detach()
    torch.manual_seed(0)
    made = {name: FUSIONS[name](M, D, K).double() for name in ("concat", "sum", "gated", "cross-attention")}
    gate, attend = made["gated"].gate, made["cross-attention"]
    for b in range(B):
        concat = torch.cat([z[b, m] for m in range(M)])
        open_ = torch.sigmoid(gate.weight @ concat + gate.bias).view(M, D)
        q, k, v = (
            [layer.weight @ z[b, m] + layer.bias for m in range(M)]
            for layer in (attend.query, attend.key, attend.value)
        )
        rows = []
        for m in range(M):
            edge = torch.stack([q[m] @ k[n] / math.sqrt(D) for n in range(M)]).softmax(0)
            rows.append(z[b, m] + sum(edge[n] * v[n] for n in range(M)))
        wanted = {
            "concat": concat,
            "sum": sum(z[b]),
            "gated": sum(open_[m] * z[b, m] for m in range(M)),
            "cross-attention": torch.cat(rows),
        }
        for name, value in wanted.items():
            torch.testing.assert_close(made[name](z)["f"][b], value)


def test_simplex_anchors_are_fixed_and_equally_far_apart():
    fusion = SAGF(2, D, K, anchors="simplex")
    cosines = fusion.anchors @ fusion.anchors.T
    torch.testing.assert_close(cosines, torch.where(torch.eye(K).bool(), 1.0, -1 / (K - 1)), atol=1e-5, rtol=0)
    assert "anchors" not in dict(fusion.named_parameters())
    with pytest.raises(PrsaError, match="features >= 7, got 5"):
        SAGF(2, D, 7, anchors="simplex")


def test_prototype_anchors_are_the_mean_of_the_projected_prototypes():
    torch.manual_seed(0)
    fusion, z, prototypes = SAGF(2, D, K, tau=0.4, anchors="prototype"), torch.randn(B, 2, D), torch.randn(2, K, D)
    S = fusion(z, prototypes)["S"]
    for b, m, k in itertools.product(range(B), range(2), range(K)):
        node = (
            sum((c := prototypes[n, k] / prototypes[n, k].norm() @ fusion.project[n]) / c.norm() for n in range(2)) / 2
        )
        u = z[b, m] @ fusion.project[m]
        assert S[b, m, k].item() == pytest.approx((u @ node / (u.norm() * node.norm()) / 0.4).item(), abs=1e-4)


def test_unknown_anchors_are_named():
    with pytest.raises(PrsaError, match="unknown anchors 'stars'.*simplex"):
        SAGF(2, D, K, anchors="stars")


def test_the_vote_changes_what_is_predicted_and_not_what_is_trained():
    torch.manual_seed(0)
    z = torch.randn(B, 2, 64)
    plain, voting = (
        PRSANet({"hsi": 6, "sar": 2}, list("abc"), make_config("prsanet", vote=vote)).eval().classify(z)
        for vote in (0.0, 2.0)
    )
    torch.testing.assert_close(plain["logits"], plain["fused"])
    torch.testing.assert_close(voting["fused"], plain["fused"])
    expected = (
        plain["fused"].log_softmax(1) + 2 * (plain["S"][:, 0].log_softmax(1) + plain["S"][:, 1].log_softmax(1)) / 2
    )
    torch.testing.assert_close(voting["logits"], expected)
    with pytest.raises(PrsaError, match="vote=1.0.*expected fusion='sagf', got 'concat'"):
        PRSANet({"hsi": 6, "sar": 2}, list("abc"), make_config("concat", vote=1.0))
