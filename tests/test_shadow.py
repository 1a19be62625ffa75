"""Shadow heads against a loop over samples, what they learn, and that the network never feels them."""

import numpy as np
import pytest
import torch
from tiny import assert_same_weights, make_scene, make_trainer, weights

from prsa import split_scene
from prsa.training.loop import SOURCES
from prsa.training.shadow import ShadowHeads

M, D, K, B = 3, 5, 4, 17


def heads(steps=6, lr=1e-2, modalities=M, decay=0.0, seed=0):
    return ShadowHeads(modalities, D, K, lr, decay, steps, [torch.Generator().manual_seed(seed)], "cpu")


def in_double(shadow):
    for parameter in (shadow.weight, shadow.bias):
        parameter.data = parameter.data.double()
    return shadow


def drawn(seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(B, M, D, generator=rng, dtype=torch.float64), torch.randint(K, (B,), generator=rng)


def blobs(n=240, seed=2):
    """Features (n, M, D) whose classes are far apart in every modality, and labels."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % K
    centres = 4 * torch.nn.functional.one_hot(torch.arange(K), D).float()
    return centres[y][:, None] + 0.3 * torch.randn(n, M, D, generator=rng), y


def test_direction_and_accuracy_against_a_loop_over_samples():
    shadow, (z, y) = in_double(heads()), drawn()
    weight, bias = shadow.weight.detach().clone(), torch.linspace(-1, 1, M * K, dtype=torch.float64).view(M, 1, K)
    shadow.bias.data = bias.clone()
    wanted, right = torch.zeros_like(z), np.zeros(M)
    for i in range(B):
        for m in range(M):
            logits = np.array([float(z[i, m] @ weight[m, :, k] + bias[m, 0, k]) for k in range(K)])
            p = np.exp(logits) / np.exp(logits).sum()
            for k in range(K):
                wanted[i, m] += (p[k] - float(k == y[i])) * weight[m, :, k] / B
            right[m] += logits.argmax() == y[i]
    direction, accuracy = shadow.step(z, y)
    torch.testing.assert_close(direction, wanted, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(accuracy, right / B, rtol=1e-6)
    assert 0 < right.min() and right.max() < B, "a case in which the accuracies say something"


def test_a_step_follows_the_gradient_of_the_heads():
    """AdamW without decay moves every number of its first step against the sign of its gradient, by the learning rate of the schedule."""
    shadow, (z, y) = in_double(heads()), drawn()
    before, rate = shadow.weight.detach().clone(), shadow.optimizer.param_groups[0]["lr"]
    gradient = torch.zeros_like(before)
    for i in range(B):
        for m in range(M):
            p = (z[i, m] @ before[m]).softmax(0)
            p[y[i]] -= 1
            gradient[m] += torch.outer(z[i, m], p) / B
    shadow.step(z, y)
    torch.testing.assert_close(shadow.weight.detach() - before, -rate * gradient.sign(), rtol=1e-4, atol=1e-12)
    assert shadow.optimizer.param_groups[0]["lr"] != rate, "the schedule has moved"


def test_features_and_labels_are_only_read():
    shadow, (z, y) = in_double(heads()), drawn()
    z.requires_grad_()
    kept, labels = z.detach().clone(), y.clone()
    direction, accuracy = shadow.step(z, y)
    assert z.grad is None and torch.equal(z, kept) and torch.equal(y, labels)
    assert not direction.requires_grad and not accuracy.requires_grad


def test_separable_features_are_learnt_and_every_modality_has_its_own_head():
    z, y = blobs()
    z[:, 1] = torch.randn(z[:, 1].shape, generator=torch.Generator().manual_seed(9))  # one modality knows nothing
    shadow = heads(steps=150, lr=5e-2)
    first = shadow.accuracy(z, y)
    for _ in range(150):
        _, last = shadow.step(z, y)
    accuracy = shadow.accuracy(z, y)
    assert accuracy[0] == accuracy[2] == 1 and accuracy[1] < 0.6 and first.max() < 0.9
    torch.testing.assert_close(accuracy, last, atol=0.02, rtol=0)


def test_start_is_drawn_from_the_given_stream():
    a, b, other = heads(seed=3), heads(seed=3), heads(seed=4)
    assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, other.weight)
    assert a.weight.abs().max() <= D**-0.5 and a.weight.std() > 0.4 * D**-0.5 and not a.bias.any()


@pytest.mark.parametrize("method", ["prsanet", "concat", "late", "modality-dropout"])
def test_the_network_is_the_same_bit_for_bit_whether_they_step_or_not(three, method, monkeypatch):
    split = split_scene(three, "random")
    trained = []
    for steps in (True, False):
        trainer = make_trainer(three, method, 1, split)
        if not steps:
            monkeypatch.setattr(trainer.shadow, "step", lambda z, y: (torch.zeros_like(z), torch.zeros(z.shape[1])))
        start = trainer.shadow.weight.detach().clone()
        trainer.run()
        assert torch.equal(trainer.shadow.weight, start) != steps
        trained.append((weights(trainer.model), [record["loss"] for record in trainer.history]))
    assert_same_weights(*(state for state, _ in trained), method)
    np.testing.assert_array_equal(*(loss for _, loss in trained))


def test_alone_the_way_of_the_branch_is_that_of_late():
    """In "late" nothing but a linear head stands behind a branch, so that once both heads have learnt, both want the same of the features."""
    scene = make_scene(noise=0.3)
    trainer = make_trainer(scene, "late", split=split_scene(scene, "random"), epochs=40, lr=2e-2)
    trainer.run()
    first, last = (trainer.history[i]["direction"][SOURCES.index("total")] for i in (0, -1))
    assert (last > 0.8).all() and (last <= 1 + 1e-6).all() and (first < 0.5).all()


def test_a_term_that_is_off_has_no_direction(two):
    late, concat = (make_trainer(two, method) for method in ("late", "concat"))
    ours, theirs = late.epoch(1)["direction"], concat.epoch(1)["direction"]
    assert np.isnan(ours[SOURCES.index("fused")]).all() and np.isfinite(theirs).all()
    np.testing.assert_allclose(
        theirs[SOURCES.index("total")], theirs[SOURCES.index("fused")], rtol=1e-6, err_msg="concat has no other loss"
    )
