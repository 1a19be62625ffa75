"""Prototype bank, non-parametric classifier and imbalance factor against loops, and against PMR's equations by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from prsa.network.prototypes import PrototypeBank, imbalance_factor, optimisation_degree, push

B, K, D = 6, 4, 3
both = pytest.mark.parametrize("dtype, M", list(itertools.product([torch.float32, torch.float64], [2, 3])))
BATCHES = [
    [0, 0, 1, 0, 1, 1],
    [1, 2, 2, 2, 2, 2],
    [0, 1, 0, 1, 2, 0],
]  # category 3 never comes, 2 comes late, 0 is away once


def draw(*shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def close(value, oracle):
    assert value.dtype == oracle.dtype
    torch.testing.assert_close(
        value,
        oracle,
        **({"rtol": 2e-4, "atol": 2e-5} if value.dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}),
    )


def filled_bank(M, dtype, **options):
    bank = PrototypeBank(M, K, D, **options).to(dtype)
    bank.means.copy_(draw(M, K, D, dtype=dtype, seed=9))
    return bank


@both
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("mu", [0.9, 0.0, 0.25])
def test_update(dtype, M, metric, mu):
    bank = PrototypeBank(M, K, D, mu, metric).to(dtype)
    memory = {}
    for step, y in enumerate(BATCHES):
        z = draw(B, M, D, dtype=dtype, seed=step)
        bank.update(z, torch.tensor(y))
        for m in range(M):
            for k in set(y):
                members = [z[b, m] / (z[b, m].norm() if metric == "cosine" else 1) for b in range(B) if y[b] == k]
                mean = sum(members) / len(members)
                memory[m, k] = (
                    mu * memory[m, k] + (1 - mu) * mean if (m, k) in memory else mean
                )  # the first sight copies
    assert bank.seen.tolist() == [True, True, True, False]
    for m in range(M):
        for k in range(3):
            close(bank.means[m, k], memory[m, k])
        assert not bank.means[m, 3].any(), "a category never seen has no prototype"


def test_an_absent_category_keeps_its_prototype_to_the_bit():
    bank = PrototypeBank(2, K, D)
    bank.update(draw(B, 2, D, dtype=torch.float32), torch.tensor(BATCHES[0]))
    before = bank.means.clone()
    bank.update(draw(B, 2, D, dtype=torch.float32, seed=1), torch.tensor(BATCHES[1]))
    assert torch.equal(bank.means[:, 0], before[:, 0]) and not torch.equal(bank.means[:, 1], before[:, 1])


def test_update_leaves_no_gradient_and_travels_with_the_state():
    bank = PrototypeBank(2, K, D)
    z = draw(B, 2, D, dtype=torch.float32).requires_grad_()
    bank.update(z, torch.tensor(BATCHES[0]))
    assert not bank.means.requires_grad and not list(bank.parameters())
    other = PrototypeBank(2, K, D)
    other.load_state_dict(bank.state_dict())
    for b in (bank, other):
        b.update(z.detach() + 1, torch.tensor(BATCHES[2]))
    assert torch.equal(bank.means, other.means) and torch.equal(bank.seen, other.seen)


@both
@pytest.mark.parametrize("metric, tau", [("cosine", 0.3), ("cosine", 1.0), ("euclidean", 0.3)])
def test_logits(dtype, M, metric, tau):
    bank = filled_bank(M, dtype, metric=metric, tau=tau)
    z = draw(B, M, D, dtype=dtype).requires_grad_()
    rows = []
    for b in range(B):
        for m in range(M):
            for k in range(K):
                c = bank.means[m, k]
                if metric == "cosine":
                    rows.append(sum(z[b, m] * c) / (torch.sqrt(sum(z[b, m] ** 2)) * torch.sqrt(sum(c**2))) / tau)
                else:
                    rows.append(-torch.sqrt(sum((z[b, m] - c) ** 2)))
    oracle, ours = torch.stack(rows).view(B, M, K), bank.logits(z)
    close(ours, oracle)
    mix = draw(B, M, K, dtype=dtype, seed=3)
    close(torch.autograd.grad((mix * ours).sum(), z)[0], torch.autograd.grad((mix * oracle).sum(), z)[0])


def test_euclidean_logits_of_a_real_batch_size():
    """Large batches must not lose the small distances that decide (a matrix-product shortcut would)."""
    torch.manual_seed(0)
    bank = PrototypeBank(2, 15, 64, metric="euclidean")
    bank.means.copy_(5 + torch.randn(2, 15, 64))
    z = bank.means[:, torch.arange(128) % 15].transpose(0, 1) + 1e-3 * torch.randn(128, 2, 64)
    exact = -(z.double()[:, :, None] - bank.means.double()).norm(dim=3)
    assert (bank.logits(z).double() - exact).abs().max() < 1e-4


def test_prototypes_seen_give_a_similarity_of_one_with_themselves():
    bank = filled_bank(3, torch.float64)
    similarity = bank.similarity()
    for m, j, k in itertools.product(range(3), range(K), range(K)):
        a, b = bank.means[m, j], bank.means[m, k]
        assert similarity[m, j, k].item() == pytest.approx((a @ b / a.norm() / b.norm()).item(), abs=1e-12)


@both
def test_optimisation_degree(dtype, M):
    logits, y = draw(B, M, K, dtype=dtype).requires_grad_(), torch.tensor(BATCHES[1])
    rows = []
    for m in range(M):
        rows.append(sum(torch.exp(logits[b, m, y[b]]) / sum(torch.exp(v) for v in logits[b, m]) for b in range(B)) / B)
    oracle, ours = torch.stack(rows), optimisation_degree(logits, y)
    close(ours, oracle)
    mix = torch.arange(1, M + 1, dtype=dtype)
    close(torch.autograd.grad((mix * ours).sum(), logits)[0], torch.autograd.grad((mix * oracle).sum(), logits)[0])


@both
def test_imbalance_factor_and_push(dtype, M):
    s = torch.tensor([0.55, 0.4, 0.7][:M], dtype=dtype, requires_grad=True)
    rho = torch.stack([s[m] / (sum(s[n] for n in range(M) if n != m) / (M - 1)) for m in range(M)])
    beta = torch.stack([torch.clamp(max(s) / s[m] - 1, 0, 1) for m in range(M)])
    mix = torch.arange(1, M + 1, dtype=dtype)
    for ours, oracle in ((imbalance_factor(s), rho), (push(s), beta)):
        close(ours, oracle)
        close(torch.autograd.grad((mix * ours).sum(), s)[0], torch.autograd.grad((mix * oracle).sum(), s)[0])


@pytest.mark.parametrize(
    "s, rho, beta",
    [
        ((0.8, 0.5), (1.6, 0.625), (0.0, 0.6)),  # modality 1 leads: rho_1 = 0.8 / 0.5; modality 2 is pushed by 1.6 - 1
        ((0.5, 0.8), (0.625, 1.6), (0.6, 0.0)),
        ((0.9, 0.2), (4.5, 2 / 9), (0.0, 1.0)),  # 4.5 - 1 is clipped at 1
        ((0.4, 0.4), (1.0, 1.0), (0.0, 0.0)),
    ],
)
def test_two_modalities_are_equations_8_and_11_of_pmr(s, rho, beta):
    s = torch.tensor(s, dtype=torch.float64)
    assert imbalance_factor(s).tolist() == pytest.approx(rho)
    assert push(s).tolist() == pytest.approx(beta)
    r = s[0] / s[1]  # PMR eq. 8 by the letter; eq. 11: clip(0, 1 / rho - 1, 1) for the slow one
    assert imbalance_factor(s).tolist() == pytest.approx([float(r), float(1 / r)])
    assert push(s).tolist() == pytest.approx([min(max(float(1 / r) - 1, 0), 1), min(max(float(r) - 1, 0), 1)])


def test_three_modalities_by_hand():
    s = torch.tensor([0.6, 0.3, 0.4], dtype=torch.float64)
    assert imbalance_factor(s).tolist() == pytest.approx([0.6 / 0.35, 0.3 / 0.5, 0.4 / 0.45])
    assert push(s).tolist() == pytest.approx([0.0, 1.0, 0.5])
    assert (imbalance_factor(s) < 1).tolist() == [False, True, True]


def test_the_classifier_is_the_softmax_of_the_logits():
    """s of a perfectly placed batch: every z on its own prototype, prototypes at right angles, cosine 1 against 0."""
    bank = PrototypeBank(2, K, K, tau=0.5)
    bank.update(torch.eye(K)[:, None].expand(K, 2, K), torch.arange(K))
    s = optimisation_degree(bank.logits(7 * torch.eye(K)[:, None].expand(K, 2, K)), torch.arange(K))
    assert s.tolist() == pytest.approx([math.exp(2) / (math.exp(2) + 3)] * 2)
    assert F.cosine_similarity(bank.means[0], torch.eye(K)).tolist() == pytest.approx([1.0] * K)
