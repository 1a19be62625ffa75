"""The training loop: the same objective written as one backward pass, what it may see, what it remembers, and its edges."""

import json

import numpy as np
import pytest
import torch
from tiny import OWN, SMALL, assert_same_weights, in_double, make_scene, make_trainer, weights

from prsa import fit, predict_map, split_scene
from prsa.config import METHODS, make_config
from prsa.data.splits import TEST, TRAIN, VAL
from prsa.errors import PrsaError
from prsa.network.base import stream_seed
from prsa.training.loop import SMOOTHING, TERMS, Trainer, pick_device

TIMINGS = ("seconds", "samples_per_s")


def tiny_fit(scene, method="prsanet", split=None, seed=0, **options):
    return fit(scene, method, split, seed, "quick", "cpu", **(SMALL | options))


def assert_same_run(a, b):
    assert set(a.variables) == set(b.variables) and a.attrs.keys() == b.attrs.keys()
    for name in a.variables:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)
    assert {k: v for k, v in a.attrs.items() if k not in TIMINGS} == {
        k: v for k, v in b.attrs.items() if k not in TIMINGS
    }


def naive_epoch(trainer, streams, number, s):
    """One epoch of METHOD 3 to 5 as a single backward pass through the whole network, with loops over modalities; returns its record."""
    model, c, names = trainer.model, trainer.config, trainer.model.modalities
    model.train()
    order = torch.randperm(trainer.n_train, generator=streams["order"])
    turn = torch.randint(8, (trainer.n_train,), generator=streams["symmetry"])
    size, rows = min(c.batch, trainer.n_train), []
    for b in range(trainer.n_train // size):
        chosen = order[b * size : (b + 1) * size]
        y, z = trainer.y[chosen], model.encode(trainer.patches.gather(chosen, turn[b * size : (b + 1) * size]))
        model.bank.update(z.detach(), y)
        with torch.no_grad():
            degree = torch.stack(
                [model.bank.logits(z)[:, i].softmax(1).gather(1, y[:, None]).mean() for i in range(len(names))]
            )
        s = degree if s is None else SMOOTHING * s + (1 - SMOOTHING) * degree
        one_hot = torch.eye(len(model.classes), dtype=z.dtype)[y]
        similarity = model.bank.similarity()
        keep = (
            torch.rand((size, model.fusion.size), generator=streams["dropout"]) >= c.dropout
            if c.dropout and model.fusion
            else 1
        )

        def fused_loss(z, keep=keep, y=y):
            out = model.fusion(z)
            return torch.nn.functional.cross_entropy(
                model.head(out["f"] * keep / (1 - c.dropout)) + out.get("bonus", 0), y
            )

        loss = {}
        if model.fusion is not None:
            loss["fused"] = fused_loss(z.detach() if number <= c.phase * trainer.epochs else z)
        heads, S = [model.branch_heads[m](z[:, i]) for i, m in enumerate(names)] if model.branch_heads else None, None
        if c.lambda_sa and c.fusion == "sagf":
            S = model.fusion(z)["S"]
            loss["alignment"] = 0
        if heads:
            loss["auxiliary"] = 0
        loss["prototype"] = 0
        for i in range(len(names)):
            soft = (similarity[i] / c.tau_t).softmax(1)[y]
            target = (1 - c.sigma) * one_hot + c.sigma * soft
            if S is not None:
                loss["alignment"] = (
                    loss["alignment"] - c.lambda_sa / len(names) * (target * S[:, i].log_softmax(1)).sum(1).mean()
                )
            if heads:
                loss["auxiliary"] = loss["auxiliary"] + c.lambda_aux * torch.nn.functional.cross_entropy(heads[i], y)
            beta = min(max(float(s.max() / s[i]) - 1, 0), 1) if c.rebalance else 0
            weight = c.base + beta if c.lambda_p else 1  # without the term, its gradient is measured all the same
            loss["prototype"] = (
                loss["prototype"] - weight * (target * model.bank.logits(z)[:, i].log_softmax(1)).sum(1).mean()
            )
        against = loss["auxiliary"] if c.fusion == "late" else fused_loss(z)
        ours, theirs = (torch.autograd.grad(v, z, retain_graph=True)[0] for v in (loss["prototype"], against))
        cosine = torch.stack(
            [(ours[:, i] * theirs[:, i]).sum() / ours[:, i].norm() / theirs[:, i].norm() for i in range(len(names))]
        )
        cosine = cosine.nan_to_num()  # a modality without any push has no prototype gradient
        trainer.optimizer.zero_grad()
        sum(value * (c.lambda_p if name == "prototype" else 1) for name, value in loss.items()).backward()
        norm = [torch.sqrt(sum((p.grad**2).sum() for p in model.encoders[m].parameters())) for m in names]
        trainer.optimizer.step()
        trainer.schedule.step()
        rows.append(
            {"loss": {k: v.item() for k, v in loss.items()}, "grad_norm": torch.stack(norm), "grad_cosine": cosine}
        )
    record = {key: torch.stack([r[key] for r in rows]).mean(0) for key in ("grad_norm", "grad_cosine")} | {"s": s}
    record["loss"] = {k: np.mean([r["loss"][k] for r in rows]) for k in rows[0]["loss"]}
    return record


VARIANTS = [(method, {}) for method in OWN] + [
    (
        "prsanet",
        {
            "lambda_p": 0.7,
            "lambda_sa": 0.6,
            "lambda_aux": 0.5,
            "base": 0.5,
            "sigma": 0.3,
            "phase": 0.0,
            "dropout": 0.0,
            "rounds": 2,
        },
    ),
    ("prsanet", {"lambda_p": 2.0, "base": 0.0, "lambda_aux": 1.0, "phase": 0.5, "dropout": 0.0}),
    ("prsanet", {"lambda_p": 1.0, "metric": "euclidean", "phase": 1.0, "dropout": 0.0, "lambda_sa": 1.0}),
    ("prsanet", {"lambda_p": 1.0, "rebalance": False, "dropout": 0.4, "phase": 0.5, "lambda_aux": 0.2}),
    ("concat+prm", {"fusion": "cross-attention", "dropout": 0.2, "phase": 0.0}),
    ("concat+prm", {"fusion": "gated", "dropout": 0.0, "phase": 0.0}),
]


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("method, options", VARIANTS)
def test_two_epochs_equal_one_backward_pass_written_again(request, kind, method, options):
    scene, seed = request.getfixturevalue(kind), 4
    split = split_scene(scene, "random")
    ours, other = (in_double(make_trainer(scene, method, seed, split, batch=48, **options)) for _ in range(2))
    streams = {
        name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("order", "symmetry", "dropout")
    }
    s = None
    for number in (1, 2):
        record = ours.epoch(number)
        wanted = naive_epoch(other, streams, number, s)
        s = wanted["s"]
        for key in ("s", "grad_norm"):
            np.testing.assert_allclose(record[key], wanted[key].numpy(), rtol=1e-6, err_msg=key)
        np.testing.assert_allclose(record["grad_cosine"], wanted["grad_cosine"].numpy(), rtol=1e-5, atol=1e-7)
        told = dict(zip(TERMS, record["loss"]))
        for term in TERMS:
            if term in wanted["loss"] and (term != "prototype" or ours.config.lambda_p):
                assert told[term] == pytest.approx(wanted["loss"][term], rel=1e-6), term
            else:
                assert np.isnan(told[term]), f"{term} is off and has no loss"
    for name, value in weights(ours.model).items():
        torch.testing.assert_close(
            value, other.model.state_dict()[name], rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("method", ["prsanet", "late"])
def test_two_runs_are_identical(three, method):
    (a, first), (b, second) = (tiny_fit(three, method, seed=3) for _ in range(2))
    assert_same_run(a, b)
    assert_same_weights(weights(first), weights(second))
    other, _ = tiny_fit(three, method, seed=4)
    assert not np.array_equal(a["confidence"], other["confidence"])


def test_the_callers_random_state_neither_matters_nor_moves(two):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, _ = tiny_fit(two, dropout=0.3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(2)
    assert_same_run(a, tiny_fit(two, dropout=0.3)[0])


def test_no_method_changes_the_batches_or_their_augmentation(two):
    split, drawn = split_scene(two, "random"), {}
    for method, options in [(m, {}) for m in OWN] + [("prsanet", {"dropout": 0.5, "sigma": 0.5, "lambda_aux": 1.0})]:
        trainer, calls = make_trainer(two, method, 2, split, **options), []
        gather = trainer.patches.gather

        def recorded(index, symmetry=None, gather=gather, calls=calls):
            if symmetry is not None:
                calls.append((index.tolist(), symmetry.tolist()))
            return gather(index, symmetry)

        trainer.patches.gather = recorded
        trainer.run()
        drawn[method, *options] = calls
    first, *others = drawn.values()
    assert len(first) == trainer.batches * trainer.epochs and all(calls == first for calls in others)
    index = sum((i for i, _ in first[: trainer.batches]), [])
    assert len(set(index)) == len(index) > trainer.n_train - trainer.config.batch, (
        "an epoch shows every pixel at most once"
    )
    assert {s for _, symmetry in first for s in symmetry} == set(range(8))


def test_a_modality_alone_is_its_branch_of_late_bit_for_bit(three):
    split = split_scene(three, "random")
    late, model = tiny_fit(three, "late", split, 5)
    log_p = 0
    for i, m in enumerate(model.modalities):
        run, alone = tiny_fit(three, m, split, 5)
        assert_same_weights(weights(alone.encoders[m]), weights(model.encoders[m]), m)
        assert_same_weights(weights(alone.branch_heads[m]), weights(model.branch_heads[m]), m)
        assert torch.equal(alone.bank.means[0], model.bank.means[i])
        for head in ("fused", m):
            np.testing.assert_array_equal(run["confusion"].sel(head=head), late["confusion"].sel(head=m))
        np.testing.assert_array_equal(run["probe_confusion"].sel(modality=m), late["probe_confusion"].sel(modality=m))
        for name in ("grad_norm", "s", "branch_accuracy"):
            np.testing.assert_allclose(run[name].sel(modality=m), late[name].sel(modality=m), rtol=1e-5, err_msg=name)
        assert run.attrs["method"] == m and list(run["head"].values) == ["fused", m]
        log_p = log_p + np.log(predict_map(alone, three, probabilities=True)["probability"].values)
    clear = np.diff(np.sort(log_p, axis=0), axis=0)[-1] > 1e-3
    np.testing.assert_array_equal(late["map"].values[clear], log_p.argmax(0)[clear] + 1)
    assert clear.mean() > 0.9
    together = np.exp(log_p) / np.exp(log_p).sum(0)
    np.testing.assert_allclose(late["confidence"], together.max(0), atol=1e-4)


def test_in_the_independent_phase_branches_learn_as_if_alone(three):
    """Auxiliary heads and a phase over all epochs: the fused loss trains its own parts, the encoders are those of late fusion."""
    split, off = split_scene(three, "random"), {"lambda_p": 0.0, "lambda_sa": 0.0, "dropout": 0.0, "lambda_aux": 1.0}
    _, late = tiny_fit(three, "late", split, 1)
    for fusion in ("concat", "sagf"):
        start = weights(make_trainer(three, "concat", 1, split, fusion=fusion, **off, phase=1.0).model)
        _, joint = tiny_fit(three, "concat", split, 1, fusion=fusion, **off, phase=1.0)
        assert_same_weights(weights(joint.encoders), weights(late.encoders))
        assert not torch.equal(joint.head.weight, start["head.weight"]), "the head learns all the while"
        _, free = tiny_fit(three, "concat", split, 1, fusion=fusion, **off, phase=0.0)
        assert not torch.equal(free.encoders["sar"].layers[0].weight, late.encoders["sar"].layers[0].weight)


@pytest.mark.parametrize("method", OWN)
def test_history_says_what_happened(three, method):
    run, model = tiny_fit(three, method, epochs=3)
    c = model.config
    on = {
        "fused": c.fusion != "late",
        "alignment": c.lambda_sa > 0 and c.fusion == "sagf",
        "prototype": c.lambda_p > 0,
        "auxiliary": c.lambda_aux > 0,
        "rebalancing": False,
    }
    for term in TERMS:
        values = run["loss"].sel(term=term).values
        assert np.isfinite(values).all() if on[term] else np.isnan(values).all(), term
    s = run["s"].values
    assert ((s > 0) & (s < 1)).all() and s.shape == (3, 3)
    for e in range(3):
        for m in range(3):
            assert run["rho"].values[e, m] == pytest.approx(s[e, m] / np.delete(s[e], m).mean(), rel=1e-5)
            assert run["beta"].values[e, m] == pytest.approx(np.clip(s[e].max() / s[e, m] - 1, 0, 1), abs=1e-5)
    assert (run["grad_norm"] > 0).all() and (abs(run["grad_cosine"]) <= 1 + 1e-6).all()
    assert ((run["js"] >= 0) & (run["js"] <= np.log(3))).all()
    assert np.isfinite(run["branch_accuracy"]).all() and ((run["accuracy"] >= 0) & (run["accuracy"] <= 1)).all()
    assert run["epoch"].values.tolist() == [1, 2, 3] and run.attrs["epoch_used"] == (
        3 if c.epoch_choice == "final" else run.attrs["epoch_used"]
    )


def test_learning_happens(two):
    split = split_scene(two, "random")
    run, _ = tiny_fit(two, "prsanet", split, epochs=8)
    fused = run["loss"].sel(term="fused").values
    assert fused[-1] < 0.7 * fused[0]
    counts = run["confusion"].sel(head="fused", part="test").values
    assert np.trace(counts) / counts.sum() > 0.6, "four classes, separable but for noise"


def test_validation_record_is_the_accuracy_of_the_model_on_validation_pixels(two):
    trainer = make_trainer(two, split=split_scene(two, "random"))
    record = trainer.epoch(1)
    held = torch.arange(trainer.n_train, trainer.n_train + trainer.n_held)
    with torch.no_grad():
        out = trainer.model.eval()(trainer.patches.gather(held))
    y = trainer.y[held]
    assert record["accuracy"][1] == pytest.approx((out["logits"].argmax(1) == y).double().mean().item())
    for i in range(2):
        assert record["branch_accuracy"][1, i] == pytest.approx(
            (out["prototype"][:, i].argmax(1) == y).double().mean().item()
        )
        probe = out["z"][:, i] @ trainer.shadow.weight[i] + trainer.shadow.bias[i]
        assert record["probe_accuracy"][1, i] == pytest.approx((probe.argmax(1) == y).double().mean().item())


@pytest.mark.parametrize("method", ["late", "concat", "prsanet"])
def test_labels_of_held_out_pixels_do_not_reach_the_weights(two, method):
    split = split_scene(two, "random")
    shuffled, rng = two.copy(deep=True), np.random.default_rng(0)
    for part in (VAL, TEST):
        inside = split.values == part
        shuffled["label"].values[inside] = rng.permutation(shuffled["label"].values[inside])
    (a, first), (b, second) = (tiny_fit(s, method, split) for s in (two, shuffled))
    assert_same_weights(weights(first), weights(second))
    np.testing.assert_array_equal(a["loss"], b["loss"])
    assert not np.array_equal(a["accuracy"].sel(watched="val"), b["accuracy"].sel(watched="val"))


def test_values_outside_training_windows_do_not_reach_the_weights(three):
    radius = 3
    split = split_scene(three, "blocks", radius=radius)
    windows = np.zeros(split.shape, bool)
    for y, x in np.argwhere(split.values == TRAIN):
        windows[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
    assert (~windows).sum() > 300 and not windows[split.values == TEST].any()
    changed, rng = three.copy(deep=True), np.random.default_rng(0)
    for m in ("hsi", "sar", "dsm"):
        changed[m].values[:, ~windows] = rng.normal(100, 50, changed[m].values[:, ~windows].shape)
    for method in ("prsanet", "late"):
        (_, first), (_, second) = (tiny_fit(s, method, split, patch="hsi=7,sar=5,dsm=3") for s in (three, changed))
        assert_same_weights(weights(first), weights(second), method)


@pytest.mark.parametrize(
    "told, best", [([0.2, 0.9, 0.5, 0.1], 2), ([0.3, 0.3, 0.3, 0.3], 1), ([0.1, 0.2, 0.3, 0.4], 4)]
)
def test_validation_chooses_the_epoch(two, monkeypatch, told, best):
    trainer, seen = make_trainer(two, epochs=4, batch=64, epoch_choice="validation"), {}
    script = iter(told)
    monkeypatch.setattr(
        trainer,
        "validate",
        lambda: {"accuracy": next(script), "branch_accuracy": np.zeros(2), "probe_accuracy": np.zeros(2)},
    )
    chosen = trainer.run(lambda number, record: seen.update({number: weights(trainer.model)}))
    assert chosen == best
    assert_same_weights(weights(trainer.model), seen[best])
    if best < 4:
        assert not torch.equal(seen[best]["head.weight"], seen[4]["head.weight"])


def test_the_final_epoch_is_used_otherwise(two):
    trainer, seen = make_trainer(two, epochs=3, epoch_choice="final"), {}
    assert trainer.run(lambda number, record: seen.update({number: weights(trainer.model)})) == 3 and list(seen) == [
        1,
        2,
        3,
    ]
    assert_same_weights(weights(trainer.model), seen[3])


def test_the_number_of_steps_is_capped(two):
    trainer = make_trainer(two, epochs=9, max_steps=25)
    assert trainer.n_train // trainer.config.batch == trainer.batches and 1 < trainer.batches < 25
    trainer.run()
    assert len(trainer.history) == trainer.epochs == int(np.ceil(25 / trainer.batches)) < 9
    assert trainer.optimizer.param_groups[0]["lr"] < 0.01 * trainer.config.lr, "the schedule ends with the training"
    assert (
        make_trainer(two, epochs=9, max_steps=0).epochs == 9
        and make_trainer(two, epochs=2, max_steps=10_000).epochs == 2
    )


@pytest.mark.parametrize("method", [name for name, changed in METHODS.items() if not changed.get("classifier")])
def test_without_validation_pixels(two, method):
    split = split_scene(two, "random")
    split.values[split.values == VAL] = 0
    run, _ = tiny_fit(two, method, split, epoch_choice="validation")
    assert (
        run.attrs["n_val"] == 0
        and run.attrs["epoch_used"] == SMALL["epochs"]
        and np.isfinite(run["accuracy"].sel(watched="train")).all()
    )
    for name in ("accuracy", "branch_accuracy", "probe_accuracy"):
        assert np.isnan(run[name].sel(watched="val")).all(), name


@pytest.mark.parametrize("lr", [1e20, 1e38])
def test_divergence_is_an_error(two, lr):
    with pytest.raises(PrsaError, match="diverged.*smaller lr"):
        tiny_fit(two, lr=lr, epoch_choice="final")


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5])
def test_a_batch_larger_than_the_training_set(two, epochs):
    """One step per epoch on all training pixels, whatever the number of epochs."""
    run, model = tiny_fit(two, batch=100_000, epochs=epochs)
    assert np.isfinite(run["loss"].sel(term="fused")).all() and run.sizes["epoch"] == epochs


def test_classes_absent_from_a_batch_and_a_class_of_one_pixel(two):
    split, label = split_scene(two, "random"), two["label"].values
    rare = (label == 4) & (split.values == TRAIN)
    rare[tuple(np.argwhere(rare)[0])] = False
    split.values[rare] = 0
    assert ((split.values == TRAIN) & (label == 4)).sum() == 1
    run, model = tiny_fit(two, split=split, batch=8, lambda_aux=1.0, sigma=0.3)
    assert np.isfinite(run["loss"].sel(term=["fused", "auxiliary"])).all() and np.isfinite(run["prototypes"]).all()
    assert run["confusion"].sel(head="fused", part="train").sum("predicted").values[3] == 1


@pytest.mark.parametrize("method", ["concat", "sagf"])
def test_a_phase_without_any_branch_loss_leaves_the_encoders_as_they_are(two, method):
    trainer = make_trainer(two, method, phase=1.0, lambda_sa=0.0, lambda_p=0.0, lambda_aux=0.0, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in trainer.model.encoders.named_parameters()}
    head = trainer.model.head.weight.detach().clone()
    trainer.epoch(1)
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.encoders.named_parameters())
    assert not torch.equal(trainer.model.head.weight, head)


def test_a_split_that_leaks_into_the_window_is_refused(two):
    split = split_scene(two, "blocks", radius=2)
    with pytest.raises(PrsaError, match="keeps 2 pixels.*patch 9 reaches 4.*radius=4"):
        tiny_fit(two, split=split, patch="hsi=3,sar=9")


def test_defaults_of_fit(three):
    run, _ = fit(three, split=split_scene(three), preset="quick", width=4, features=4, epochs=1)
    assert (
        run.attrs["method"] == "prsanet"
        and run.attrs["seed"] == 0
        and run.attrs["split_kind"] == "blocks"
        and run.attrs["preset"] == "quick"
    )
    run, _ = fit(three, "concat", preset="quick", patch=11, width=4, features=4, epochs=1)
    assert run.attrs["split_hash"] == split_scene(three, "auto", 0, radius=5).attrs["hash"], (
        "the split follows the patch"
    )
    assert run.attrs["variant"] == "epochs=1,features=4,patch=11,width=4"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: fit(s, "nope"), "unknown method 'nope'"),
        (lambda s: fit(s, "dsm"), "unknown method 'dsm'"),
        (lambda s: fit(s, preset="nope"), "unknown preset"),
        (lambda s: fit(s, epocs=3), "unknown setting 'epocs'"),
        (lambda s: fit(s, device="nonsense"), "device 'nonsense' is not usable.*DEVICE=auto"),
        (lambda s: pick_device("cuda:99"), "DEVICE=cpu"),
    ],
)
def test_errors_of_fit(two, call, message):
    with pytest.raises(PrsaError, match=message):
        call(two)


def test_statistics_come_from_training_pixels_only():
    scene = make_scene(noise=0.1)
    split = split_scene(scene, "random")
    train = split.values == TRAIN
    scene["hsi"].values[:, ~train] += 1000
    model = make_trainer(scene, split=split).model
    mean, std = model.statistics()["hsi"]
    used = scene["hsi"].values[:, train].astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), used.mean(1), rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), used.std(1), rtol=1e-4)


def test_mixed_precision_trains_the_encoders_in_bfloat16_and_nothing_else(two, monkeypatch):
    trainer, plain = (
        Trainer(
            two, split_scene(two, radius=2), make_config("prsanet", "quick", **SMALL), 0, torch.device("cpu"), mixed=m
        )
        for m in (True, False)
    )
    seen = []
    hook = trainer.model.encoders["hsi"].layers[0].register_forward_hook(lambda layer, x, out: seen.append(out.dtype))
    trainer.run(), plain.run()
    hook.remove()
    assert (
        seen[0] == torch.bfloat16
        and seen[-1] == torch.float32
        and {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    )
    assert all(value.dtype != torch.bfloat16 for value in weights(trainer.model).values())
    ours, theirs = trainer.model.head.weight, plain.model.head.weight
    assert (
        not torch.equal(ours, theirs) and (ours - theirs).abs().max() < 0.2 * theirs.abs().max()
    )  # rounding, not another network


def test_a_mixed_run_never_passes_for_one_of_the_study(two):
    run, _ = fit(two, "concat", split_scene(two, radius=2), preset="quick", device="cpu", mixed=True, **SMALL)
    assert "mixed=True" in run.attrs["variant"] and json.loads(run.attrs["overrides"])["mixed"] is True
    with pytest.raises(PrsaError, match="mixed precision.*got method 'mft'"):
        fit(two, "mft", preset="quick", device="cpu", mixed=True)
