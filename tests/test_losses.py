"""Every loss against a loop over samples, modalities and categories: values and gradients, single and double precision."""

import itertools
import math

import pytest
import torch
from tiny import OWN, make_trainer

from prsa.network import losses
from prsa.training.loop import loss_terms, step_gradients

B, K = 5, 4
CASES = list(itertools.product([torch.float32, torch.float64], [2, 3]))
both = pytest.mark.parametrize("dtype, M", CASES)


def draw(*shape, dtype, seed=0, scale=1.0):
    """Random leaf tensor; drawn in double so that both precisions see one case."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def same(value, oracle, leaves):
    """Values agree, and so do the gradients of one random combination of them."""
    tolerance = {"rtol": 2e-4, "atol": 2e-5} if value.dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(value, oracle, **tolerance)
    mix = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).view(value.shape)
    for ours, naive in zip(
        torch.autograd.grad((mix * value).sum(), leaves, retain_graph=True),
        torch.autograd.grad((mix * oracle).sum(), leaves),
    ):
        assert ours.abs().max() > 1e-6, "the case is too easy: a gradient is zero"
        torch.testing.assert_close(ours, naive, **tolerance)


def naive_log_softmax(row):
    total = sum(torch.exp(v) for v in row)
    return [torch.log(torch.exp(v) / total) for v in row]


def naive_cross_entropy(row, target):
    return -sum(t * v for t, v in zip(target, naive_log_softmax(row)))


def one_hot(y, dtype):
    return [torch.tensor(float(k == y), dtype=dtype) for k in range(K)]


def distributions(*shape, dtype, seed=7):
    return draw(*shape, dtype=dtype, seed=seed).detach().softmax(-1)


@both
def test_fused_cross_entropy(dtype, M):
    logits, y = draw(B, K, dtype=dtype), torch.arange(B) % K
    oracle = torch.stack([naive_cross_entropy(logits[b], one_hot(int(y[b]), dtype)) for b in range(B)])
    same(losses.cross_entropy(logits, y), oracle, [logits])


@both
def test_cross_entropy_of_branches_with_categories_and_with_distributions(dtype, M):
    logits, y, t = draw(B, M, K, dtype=dtype), torch.arange(B) % K, distributions(B, M, K, dtype=dtype)
    hard = torch.stack(
        [
            torch.stack([naive_cross_entropy(logits[b, m], one_hot(int(y[b]), dtype)) for m in range(M)])
            for b in range(B)
        ]
    )
    soft = torch.stack([torch.stack([naive_cross_entropy(logits[b, m], t[b, m]) for m in range(M)]) for b in range(B)])
    same(losses.cross_entropy(logits, y), hard, [logits])
    same(losses.cross_entropy(logits, t), soft, [logits])


@both
@pytest.mark.parametrize("targets", ["categories", "distributions"])
def test_alignment_loss(dtype, M, targets):
    S, y, t = draw(B, M, K, dtype=dtype), torch.arange(B) % K, distributions(B, M, K, dtype=dtype)
    rows = []
    for b in range(B):
        of_branch = [
            naive_cross_entropy(S[b, m], one_hot(int(y[b]), dtype) if targets == "categories" else t[b, m])
            for m in range(M)
        ]
        rows.append(sum(of_branch) / M)
    same(losses.alignment_loss(S, y if targets == "categories" else t), torch.stack(rows), [S])


@both
@pytest.mark.parametrize("targets", ["categories", "distributions"])
def test_prototype_loss(dtype, M, targets):
    logits, y, t = draw(B, M, K, dtype=dtype), torch.arange(B) % K, distributions(B, M, K, dtype=dtype)
    weight = torch.tensor([1.0, 1.6, 0.25][:M], dtype=dtype)
    rows = []
    for b in range(B):
        of_branch = [
            weight[m]
            * naive_cross_entropy(logits[b, m], one_hot(int(y[b]), dtype) if targets == "categories" else t[b, m])
            for m in range(M)
        ]
        rows.append(sum(of_branch))
    same(losses.prototype_loss(logits, y if targets == "categories" else t, weight), torch.stack(rows), [logits])


@both
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0])
def test_soft_targets(dtype, M, sigma):
    prototypes, y, tau = draw(M, K, 3, dtype=dtype), torch.tensor([0, 3, 3, 1, 2]), 0.5
    unit = prototypes / prototypes.norm(dim=2, keepdim=True)
    similarity = unit @ unit.transpose(1, 2)
    rows = []
    for b in range(B):
        for m in range(M):
            own = prototypes[m, y[b]]
            cosine = [
                sum(own * other) / (torch.sqrt(sum(own**2)) * torch.sqrt(sum(other**2))) for other in prototypes[m]
            ]
            total = sum(torch.exp(c / tau) for c in cosine)
            rows += [(1 - sigma) * float(k == y[b]) + sigma * torch.exp(cosine[k] / tau) / total for k in range(K)]
    ours = losses.soft_targets(similarity, y, sigma, tau)
    assert ours.dtype == dtype and ours.shape == (B, M, K)
    if sigma:
        same(ours, torch.stack(rows).view(B, M, K), [prototypes])
    else:
        assert torch.equal(ours.detach(), torch.eye(K, dtype=dtype)[y][:, None].expand(B, M, K)), (
            "sigma = 0 gives exactly the hard targets"
        )
    torch.testing.assert_close(ours.sum(2), torch.ones(B, M, dtype=dtype))


@both
def test_jensen_shannon(dtype, M):
    logits = draw(B, M, K, dtype=dtype)
    p = logits.softmax(2)
    rows = []
    for b in range(B):
        mean = [sum(p[b, m, k] for m in range(M)) / M for k in range(K)]
        rows.append(sum(p[b, m, k] * torch.log(p[b, m, k] / mean[k]) for m in range(M) for k in range(K)) / M)
    same(losses.jensen_shannon(p), torch.stack(rows), [logits])


def test_jensen_shannon_limits():
    apart = torch.eye(3)[None]  # three modalities, each sure of another category
    assert losses.jensen_shannon(apart).item() == pytest.approx(math.log(3), abs=1e-6)
    assert losses.jensen_shannon(apart[:, :1].expand(1, 3, 3)).item() == pytest.approx(0, abs=1e-7)
    p = apart.clone().requires_grad_()
    losses.jensen_shannon(p).sum().backward()
    assert torch.isfinite(p.grad).all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    value = losses.cross_entropy(logits, torch.tensor([1]))
    assert value.item() == pytest.approx(2e4)
    value.backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("modalities", ["two", "three"])
@pytest.mark.parametrize("options", [{}, {"sigma": 0.5}, {"metric": "euclidean"}])
def test_prototype_loss_reaches_only_its_own_encoder(request, modalities, options):
    trainer = make_trainer(request.getfixturevalue(modalities), lambda_p=1.0, lambda_aux=1.0, **options)
    trainer.epoch(1)
    model, names = trainer.model, trainer.model.modalities
    x, y = trainer.patches.gather(torch.arange(16)), trainer.y[:16]
    for i, own in enumerate(names):
        logits = model(x)["prototype"]
        weight = torch.zeros(len(names))
        weight[i] = 1.5
        targets = losses.soft_targets(model.bank.similarity(), y, model.config.sigma, model.config.tau_t)
        value = losses.prototype_loss(logits, targets, weight).mean()
        parameters = dict(model.named_parameters())
        found = dict(zip(parameters, torch.autograd.grad(value, parameters.values(), allow_unused=True)))
        for name, gradient in found.items():
            if name.startswith(f"encoders.{own}."):
                assert gradient is not None and (gradient.abs().max() > 0 or name.endswith("bias")), name
            else:
                assert gradient is None or not gradient.any(), f"the prototype loss of {own} reaches {name}"
        assert not model.bank.means.requires_grad and not model.bank.similarity().requires_grad


def test_all_prototype_terms_together_leave_fusion_and_heads_alone(three):
    trainer = make_trainer(three, lambda_p=1.0, lambda_aux=1.0)
    model = trainer.model
    z = model.encode(trainer.patches.gather(torch.arange(16)))
    y = trainer.y[:16]
    model.bank.update(z.detach(), y)
    terms, _ = loss_terms(model, trainer.rule, z, y, torch.tensor([0.5, 0.4, 0.3]))
    assert all(g is None for g in torch.autograd.grad(terms["prototype"], model.shared_parameters(), allow_unused=True))
    z = z.detach().requires_grad_()
    terms, _ = loss_terms(model, trainer.rule, z, y, torch.tensor([0.5, 0.4, 0.3]))
    step_gradients(model.shared_parameters(), {"prototype": terms["prototype"]}, z, model.config.lambda_p, free=False)
    assert all(p.grad is None for p in model.shared_parameters())


@pytest.mark.parametrize("method", [m for m in OWN if m != "late"])
def test_weighted_terms_of_a_batch(three, method):
    """What the loop adds up is the objective of METHOD 5, written out again."""
    trainer = make_trainer(three, method)
    trainer.epoch(1)
    model, c = trainer.model, trainer.config
    z, y, s = (
        model.encode(trainer.patches.gather(torch.arange(20))).detach(),
        trainer.y[:20],
        torch.tensor([0.8, 0.5, 0.3]),
    )
    terms, out = loss_terms(model, trainer.rule, z, y, s)
    hard = torch.eye(len(model.classes))[y][:, None]
    cosine = model.bank.similarity()
    targets = [(1 - c.sigma) * hard[:, 0] + c.sigma * (cosine[i] / c.tau_t).softmax(1)[y] for i in range(3)]

    def entropy(logits, t):
        return -(t * logits.log_softmax(1)).sum(1).mean()

    torch.testing.assert_close(
        terms["fused"], entropy(out["fused"], hard[:, 0])
    )  # what is predicted with may hold a vote besides
    if c.lambda_sa:
        wanted = c.lambda_sa * sum(entropy(out["S"][:, i], targets[i]) for i in range(3)) / 3
        torch.testing.assert_close(terms["alignment"], wanted)
    else:
        assert "alignment" not in terms
    if c.lambda_p:
        beta = [0.0, 0.8 / 0.5 - 1, 1.0] if c.rebalance else [0.0] * 3
        wanted = sum((c.base + beta[i]) * entropy(model.bank.logits(z)[:, i], targets[i]) for i in range(3))
        torch.testing.assert_close(terms["prototype"], wanted)
    if c.lambda_aux:
        wanted = c.lambda_aux * sum(
            entropy(model.branch_heads[m](z[:, i]), hard[:, 0]) for i, m in enumerate(model.modalities)
        )
        torch.testing.assert_close(terms["auxiliary"], wanted)
    else:
        assert "auxiliary" not in terms
