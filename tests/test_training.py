"""Training: the objective written again as one backward pass, what may be seen, what is remembered, and its edges."""

import numpy as np
import pytest
import torch
from tiny import BANDS, CLASSES, OWN, SMALL, assert_same_weights, in_double, make_scene, make_trainer, weights
from torch import nn

from prsa import fit, predict_map, split_scene
from prsa.config import METHODS, make_config
from prsa.data.splits import TEST, TRAIN, VAL
from prsa.errors import PrsaError
from prsa.network.base import stream_seed
from prsa.training.loop import SMOOTHING, SOURCES, pick_device
from prsa.training.objective import TERMS, gradients, objective, summands, terms_of
from prsa.training.shadow import ShadowHeads

TIMINGS = ("seconds", "samples_per_s")
PATCHES = {"two": "hsi=7,sar=3", "three": "hsi=3,sar=9,dsm=5"}
kinds = pytest.mark.parametrize("kind", ["two", "three"])


def tiny_fit(scene, method="prsanet", split=None, seed=0, **options):
    return fit(scene, method, split, seed, "quick", "cpu", **(SMALL | options))


def assert_same_run(a, b):
    assert set(a.variables) == set(b.variables) and a.attrs.keys() == b.attrs.keys()
    for name in a.variables:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)
    first, second = ({k: v for k, v in run.attrs.items() if k not in TIMINGS} for run in (a, b))
    assert first == second


def cross_entropy(logits, y):
    return nn.functional.cross_entropy(logits, y)


# --- the objective ---------------------------------------------------------------------------------------------------

EVERYTHING = {"lambda_p": 0.7, "lambda_sa": 0.6, "lambda_aux": 0.5, "base": 0.5}
VARIANTS = [(method, {}) for method in OWN] + [
    ("prsanet", EVERYTHING),
    ("prsanet", {"lambda_p": 2.0, "base": 0.0, "lambda_aux": 1.0}),
    ("prsanet", {"lambda_p": 1.0, "metric": "euclidean", "lambda_sa": 1.0}),
    ("prsanet", {"lambda_p": 1.0, "rebalance": False, "lambda_aux": 0.2}),
    ("concat+prm", {"fusion": "cross-attention"}),
    ("concat+prm", {"fusion": "gated"}),
]


def naive_losses(model, z, y, s):
    """The summands of eq. (16) that are on, with loops over modalities; and the prototype loss without its weight."""
    c, names = model.config, model.modalities
    loss, q = {}, model.bank.logits(z)
    beta = [min(max(float(s.max() / s[i]) - 1, 0), 1) if c.rebalance else 0 for i in range(len(names))]
    weight = [c.base + b if c.lambda_p else 1 for b in beta]  # off, its gradient is measured all the same
    plain = sum(w * cross_entropy(q[:, i], y) for i, w in enumerate(weight))
    if model.fusion is not None:
        out = model.fusion(z)
        loss["fused"] = cross_entropy(model.head(out["f"]) + out.get("bonus", 0), y)
        if c.lambda_sa and "S" in out:
            each = [cross_entropy(out["S"][:, i], y) for i in range(len(names))]
            loss["alignment"] = c.lambda_sa * sum(each) / len(names)
    if c.fusion == "late" or c.lambda_aux:
        each = [cross_entropy(model.branch_heads[m](z[:, i]), y) for i, m in enumerate(names)]
        loss["auxiliary"] = c.lambda_aux * sum(each)
    if c.lambda_p:
        loss["prototype"] = c.lambda_p * plain
    return loss, plain


def naive_epoch(trainer, streams, s):
    """One epoch as a single backward pass through the whole network; returns its record."""
    model, names, rows = trainer.model.train(), trainer.model.modalities, []
    order = torch.randperm(trainer.n_train, generator=streams["order"])
    turn = torch.randint(8, (trainer.n_train,), generator=streams["symmetry"])
    size = min(trainer.config.batch, trainer.n_train)
    for b in range(trainer.n_train // size):
        chosen = order[b * size : (b + 1) * size]
        y, z = trainer.y[chosen], model.encode(trainer.patches.gather(chosen, turn[b * size : (b + 1) * size]))
        model.bank.update(z.detach(), y)
        with torch.no_grad():
            p = [model.bank.logits(z)[:, i].softmax(1).gather(1, y[:, None]).mean() for i in range(len(names))]
        degree = torch.stack(p)
        s = degree if s is None else SMOOTHING * s + (1 - SMOOTHING) * degree
        loss, plain = naive_losses(model, z, y, s)
        against = loss["fused"] if "fused" in loss else loss["auxiliary"]
        ours, theirs = (torch.autograd.grad(v, z, retain_graph=True)[0] for v in (plain, against))
        products = [(ours[:, i] * theirs[:, i]).sum() for i in range(len(names))]
        cosine = [v / ours[:, i].norm() / theirs[:, i].norm() for i, v in enumerate(products)]
        trainer.optimizer.zero_grad()
        sum(loss.values()).backward()
        norm = [torch.sqrt(sum((p.grad**2).sum() for p in model.encoders[m].parameters())) for m in names]
        trainer.optimizer.step()
        trainer.schedule.step()
        # a modality without any push has no prototype gradient
        row = {"grad_norm": torch.stack(norm), "grad_cosine": torch.stack(cosine).nan_to_num()}
        rows.append(row | {name: value.detach() for name, value in loss.items()})
    return {key: torch.stack([row[key] for row in rows]).mean(0).numpy() for key in rows[0]} | {"s": s}


@kinds
@pytest.mark.parametrize("method, options", VARIANTS)
def test_two_epochs_equal_one_backward_pass_written_again(request, kind, method, options):
    scene, seed, s = request.getfixturevalue(kind), 4, None
    split = split_scene(scene, "random")
    ours, other = (in_double(make_trainer(scene, method, seed, split, batch=48, **options)) for _ in range(2))
    streams = {name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("order", "symmetry")}
    for number in (1, 2):
        record, wanted = ours.epoch(number), naive_epoch(other, streams, s)
        s = wanted["s"]
        for key, rtol in (("s", 1e-6), ("grad_norm", 1e-6), ("grad_cosine", 1e-5)):
            np.testing.assert_allclose(record[key], wanted[key], rtol=rtol, atol=1e-7, err_msg=key)
        told = [wanted.get(term, np.nan) for term in TERMS]
        np.testing.assert_allclose(record["loss"], told, rtol=1e-6, err_msg="a term that is off is NaN")
    for name, value in weights(ours.model).items():
        torch.testing.assert_close(value, other.model.state_dict()[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method, options", [("prsanet", EVERYTHING), ("pmr", {"strength": 0.3}), ("late", {})])
def test_gradients_are_those_of_the_objective(three, dtype, method, options):
    """Of every summand on its own, of their sum, and of the parameters that the modalities share."""
    model, rule = (t := make_trainer(three, method, **options)).model.to(dtype), t.rule
    rule.progress = 0.1
    x = {m: v.to(dtype) for m, v in t.patches.gather(torch.arange(20)).items()}
    z, y, s = model.encode(x).detach().requires_grad_(), t.y[:20], torch.tensor([0.8, 0.5, 0.3], dtype=dtype)
    model.bank.update(z.detach(), y)
    terms = terms_of(model, rule, model.classify(z), y, s)
    on_z, plain = gradients(terms, z, model.shared_parameters())
    shared = [p.grad for p in model.shared_parameters()]
    model.zero_grad()
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    wanted, unweighted = naive_losses(model, z, y, s)
    if method == "pmr":  # the restraint of the fast branches
        wanted["rebalancing"] = rule.terms(model.classify(z), y, s)["rebalancing"]
    assert on_z.keys() == wanted.keys() | {"total"} == summands(terms).keys() | {"total"}
    for name, value in wanted.items():
        torch.testing.assert_close(summands(terms)[name], value, **close)
        torch.testing.assert_close(on_z[name], torch.autograd.grad(value, z, retain_graph=True)[0], **close)
    torch.testing.assert_close(plain, torch.autograd.grad(unweighted, z, retain_graph=True)[0], **close)
    total = objective(terms)
    torch.testing.assert_close(total, sum(wanted.values()), **close)
    torch.testing.assert_close(on_z["total"], torch.autograd.grad(total, z, retain_graph=True)[0], **close)
    parameters = model.shared_parameters()
    for ours, theirs in zip(shared, torch.autograd.grad(total, parameters, allow_unused=True)):
        assert (ours is None) == (theirs is None) and (ours is None or torch.allclose(ours, theirs, **close))
    lone = torch.autograd.grad(terms["prototype"].loss, parameters, allow_unused=True)
    assert all(g is None for g in lone), "fusion and heads are not in the way of the prototype loss"


def test_the_stored_terms_are_the_summands_of_the_objective(three):
    trainer, seen = make_trainer(three, "prsanet", **EVERYTHING), []
    measure = trainer.measure
    trainer.measure = lambda terms, *rest: (seen.append(float(objective(terms))), measure(terms, *rest))[1]
    record = trainer.epoch(1)
    assert np.nansum(record["loss"]) == pytest.approx(np.mean(seen), rel=1e-6)


TERMS_OFF = {"fusion": "concat", "lambda_sa": 0.0, "lambda_p": 0.0, "lambda_aux": 0.0, "vote": 0.0}


@kinds
def test_prsanet_with_every_term_off_is_concat_bit_for_bit(request, kind):
    """Coefficients of the terms keep PRSANet's values: with the weights at zero they must not matter."""
    scene = request.getfixturevalue(kind)
    split = split_scene(scene, "random")
    assert make_config("prsanet", **TERMS_OFF) != make_config("concat")
    base, plain = fit(scene, "concat", split, 1, "quick", **SMALL)
    ours, model = fit(scene, "prsanet", split, 1, "quick", **SMALL, **TERMS_OFF)
    assert_same_weights(weights(model), weights(plain))
    for name in base.data_vars:
        np.testing.assert_array_equal(ours[name].values, base[name].values, err_msg=name)


def plain_windows(scene, train, sides):
    """x[m] (n, 8, p, p, C): the window of every training pixel in its eight symmetries, standardised, all by hand."""
    windows = {}
    for m, side in sides.items():
        r, values = side // 2, scene[m].values
        used = values[:, train].astype(np.float64)
        mean, std = (v.astype(np.float32)[:, None, None] for v in (used.mean(1), used.std(1)))
        cube = np.pad(((values - mean) / std).transpose(1, 2, 0), ((r, r), (r, r), (0, 0)), "reflect")
        rows = []
        for y, x in np.argwhere(train):
            w = cube[y : y + side, x : x + side]
            rows.append([np.rot90(w, k) for k in range(4)] + [np.rot90(w[:, ::-1], k) for k in range(4)])
        windows[m] = torch.from_numpy(np.array(rows))
    return windows


class Plain(nn.Module):
    """Concatenation network as anyone would write it."""

    def __init__(self, bands, sides, seed):
        super().__init__()
        width, d = SMALL["width"], SMALL["features"]
        self.nets = nn.ModuleDict()
        for m, n in bands.items():
            torch.manual_seed(stream_seed(seed, "init", m))
            layers = [nn.Conv2d(n, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            for _ in range(sides[m] // 2):
                layers += [nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            self.nets[m] = nn.Sequential(*layers, nn.Conv2d(width, d, 1), nn.Flatten())
        torch.manual_seed(stream_seed(seed, "init", "head"))
        self.head = nn.Linear(len(bands) * d, len(CLASSES))

    def forward(self, x):
        return self.head(torch.cat([net(x[m]) for m, net in self.nets.items()], dim=1))


@kinds
def test_concat_equals_a_plain_network_and_loop_bit_for_bit(request, kind):
    """Only the schedule (learning rate and betas per step) is taken from the trainer; all else is written again."""
    scene, seed, size = request.getfixturevalue(kind), 3, SMALL["batch"]
    split, options = split_scene(scene, "random"), {"patch": PATCHES[kind], "lr": 0.01}
    trainer, clock = (make_trainer(scene, "concat", seed, split, **options) for _ in range(2))
    sides, bands = trainer.model.sides, {m: BANDS[m] for m in trainer.model.modalities}
    net = Plain(bands, sides, seed).to(memory_format=torch.channels_last)
    train = split.values == TRAIN
    windows, y = plain_windows(scene, train, sides), torch.from_numpy(scene["label"].values[train].astype(np.int64) - 1)
    order, symmetry = (torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("order", "symmetry"))
    optimizer, n = torch.optim.AdamW(net.parameters(), fused=True), int(train.sum())
    for _ in range(SMALL["epochs"]):
        shuffled, turned = torch.randperm(n, generator=order), torch.randint(8, (n,), generator=symmetry)
        for b in range(n // size):
            chosen, turn = shuffled[b * size : (b + 1) * size], turned[b * size : (b + 1) * size]
            now = clock.optimizer.param_groups[0]
            optimizer.param_groups[0] |= {k: now[k] for k in ("lr", "betas", "weight_decay", "eps")}
            optimizer.zero_grad()
            x = {m: w[chosen, turn].permute(0, 3, 1, 2) for m, w in windows.items()}
            cross_entropy(net(x), y[chosen]).backward()
            optimizer.step()
            clock.optimizer.step()
            clock.schedule.step()
    trainer.run()
    assert_same_weights(
        {
            f"{i}.{name.removeprefix('layers.')}": value
            for i, encoder in enumerate(trainer.model.encoders)
            for name, value in weights(encoder).items()
        },
        {f"{i}.{n}": v for i, part in enumerate(net.nets.values()) for n, v in weights(part).items()},
    )
    assert_same_weights(weights(trainer.model.head), weights(net.head))


# --- randomness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prsanet", "late", "modality-dropout"])
def test_two_runs_are_identical_whatever_the_callers_random_state(three, method):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, first = tiny_fit(three, method, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    np.random.seed(2)
    b, second = tiny_fit(three, method, seed=3)
    assert_same_run(a, b)
    assert_same_weights(weights(first), weights(second))
    assert not np.array_equal(a["confidence"], tiny_fit(three, method, seed=4)[0]["confidence"])


def test_no_method_changes_the_batches_or_their_augmentation(two):
    split, drawn = split_scene(two, "random"), []
    for method, options in [(m, {}) for m in (*OWN, "modality-dropout")] + [("prsanet", EVERYTHING)]:
        trainer, calls = make_trainer(two, method, 2, split, **options), []
        gather = trainer.patches.gather

        def recorded(index, symmetry=None, gather=gather, calls=calls):
            if symmetry is not None:
                calls.append((index.tolist(), symmetry.tolist()))
            return gather(index, symmetry)

        trainer.patches.gather = recorded
        trainer.run()
        drawn.append(calls)
    first, *others = drawn
    assert len(first) == trainer.batches * trainer.epochs and all(calls == first for calls in others)
    index = sum((i for i, _ in first[: trainer.batches]), [])
    assert len(set(index)) == len(index) > trainer.n_train - trainer.config.batch, "every pixel at most once an epoch"
    assert {s for _, symmetry in first for s in symmetry} == set(range(8))


def test_a_modality_alone_is_its_branch_of_late_bit_for_bit(three):
    split, log_p = split_scene(three, "random"), 0
    late, model = tiny_fit(three, "late", split, 5)
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
    np.testing.assert_allclose(late["confidence"], (np.exp(log_p) / np.exp(log_p).sum(0)).max(0), atol=1e-4)


# --- what is remembered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OWN)
def test_history_says_what_happened(three, method):
    run, model = tiny_fit(three, method, epochs=3)
    c, s = model.config, run["s"].values
    on = {
        "fused": c.fusion != "late",
        "alignment": c.lambda_sa > 0 and c.fusion == "sagf",
        "prototype": c.lambda_p > 0,
        "auxiliary": c.lambda_aux > 0,
        "rebalancing": False,
    }
    for term in TERMS:
        assert (np.isfinite(run["loss"].sel(term=term)) == on[term]).all(), term
    assert ((s > 0) & (s < 1)).all() and s.shape == (3, 3)
    others = (s.sum(1, keepdims=True) - s) / 2
    np.testing.assert_allclose(run["rho"], s / others, rtol=1e-5)
    np.testing.assert_allclose(run["beta"], np.clip(s.max(1, keepdims=True) / s - 1, 0, 1), atol=1e-5)
    assert (run["grad_norm"] > 0).all() and (abs(run["grad_cosine"]) <= 1 + 1e-6).all()
    assert ((run["js"] >= 0) & (run["js"] <= np.log(3))).all()
    assert np.isfinite(run["branch_accuracy"]).all() and ((run["accuracy"] >= 0) & (run["accuracy"] <= 1)).all()
    assert run["epoch"].values.tolist() == [1, 2, 3] and run.attrs["epoch_used"] == 3


def test_learning_happens_and_the_last_epoch_is_kept(two):
    seen = {}
    trainer = make_trainer(two, split=split_scene(two, "random"), epochs=8)
    assert trainer.run(lambda number, record: seen.update({number: weights(trainer.model)})) == 8
    assert list(seen) == list(range(1, 9)) and not trainer.model.training
    assert_same_weights(weights(trainer.model), seen[8])
    fused = [record["loss"][TERMS.index("fused")] for record in trainer.history]
    assert fused[-1] < 0.7 * fused[0]
    assert trainer.history[-1]["accuracy"][1] > 0.6, "four classes, separable but for noise"


def test_validation_record_is_the_accuracy_of_the_model_on_validation_pixels(two):
    trainer = make_trainer(two, split=split_scene(two, "random"))
    record = trainer.epoch(1)
    held = torch.arange(trainer.n_train, trainer.n_train + trainer.n_held)
    with torch.no_grad():
        out, y = trainer.model.eval()(trainer.patches.gather(held)), trainer.y[held]

    def share(logits):
        return pytest.approx((logits.argmax(1) == y).double().mean().item())

    assert record["accuracy"][1] == share(out["logits"])
    for i in range(2):
        assert record["branch_accuracy"][1, i] == share(out["prototype"][:, i])
        assert record["probe_accuracy"][1, i] == share(
            out["z"][:, i] @ trainer.shadow.weight[i] + trainer.shadow.bias[i]
        )


# --- what may be seen ------------------------------------------------------------------------------------------------


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
    radius, rng = 3, np.random.default_rng(0)
    split, changed = split_scene(three, "blocks", radius=radius), three.copy(deep=True)
    windows = np.zeros(split.shape, bool)
    for y, x in np.argwhere(split.values == TRAIN):
        windows[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = True
    assert (~windows).sum() > 300 and not windows[split.values == TEST].any()
    for m in ("hsi", "sar", "dsm"):
        changed[m].values[:, ~windows] = rng.normal(100, 50, changed[m].values[:, ~windows].shape)
    for method in ("prsanet", "late"):
        (_, first), (_, second) = (tiny_fit(s, method, split, patch="hsi=7,sar=5,dsm=3") for s in (three, changed))
        assert_same_weights(weights(first), weights(second), method)


def test_statistics_come_from_training_pixels_only():
    scene = make_scene(noise=0.1)
    split = split_scene(scene, "random")
    train = split.values == TRAIN
    scene["hsi"].values[:, ~train] += 1000
    mean, std = make_trainer(scene, split=split).model.statistics()["hsi"]
    used = scene["hsi"].values[:, train].astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), used.mean(1), rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), used.std(1), rtol=1e-4)


# --- edges -----------------------------------------------------------------------------------------------------------


def test_the_number_of_steps_is_capped(two):
    trainer = make_trainer(two, epochs=9, max_steps=25)
    assert trainer.n_train // trainer.config.batch == trainer.batches and 1 < trainer.batches < 25
    trainer.run()
    assert len(trainer.history) == trainer.epochs == int(np.ceil(25 / trainer.batches)) < 9
    assert trainer.optimizer.param_groups[0]["lr"] < 0.01 * trainer.config.lr, "the schedule ends with the training"
    assert [make_trainer(two, epochs=n, max_steps=most).epochs for n, most in ((9, 0), (2, 10_000))] == [9, 2]


@pytest.mark.parametrize("method", [name for name, changed in METHODS.items() if not changed.get("classifier")])
def test_without_validation_pixels(two, method):
    split = split_scene(two, "random")
    split.values[split.values == VAL] = 0
    run, _ = tiny_fit(two, method, split)
    assert run.attrs["n_val"] == 0 and np.isfinite(run["accuracy"].sel(watched="train")).all()
    for name in ("accuracy", "branch_accuracy", "probe_accuracy"):
        assert np.isnan(run[name].sel(watched="val")).all(), name


@pytest.mark.parametrize("method", ["prsanet", "s2enet"])
@pytest.mark.parametrize("lr", [1e20, 1e38])
def test_divergence_is_an_error_at_once(two, method, lr):
    calls = []
    with pytest.raises(PrsaError, match="diverged in epoch 1 of 2.*a smaller lr") as error:
        fit(two, method, preset="quick", on_epoch=lambda *_: calls.append(1), **(SMALL | {"lr": lr}))
    assert not calls and len(str(error.value)) < 900


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
    run, model = tiny_fit(two, split=split, batch=8, lambda_aux=1.0)
    assert np.isfinite(run["loss"].sel(term=["fused", "auxiliary"])).all() and np.isfinite(run["prototypes"]).all()
    assert run["confusion"].sel(head="fused", part="train").sum("predicted").values[3] == 1


def test_defaults_of_fit(three):
    run, _ = fit(three, split=split_scene(three), preset="quick", width=4, features=4, epochs=1)
    told = {"method": "prsanet", "seed": 0, "split_kind": "blocks", "preset": "quick"}
    assert told.items() <= run.attrs.items()
    run, _ = fit(three, "concat", preset="quick", patch=11, width=4, features=4, epochs=1)
    assert run.attrs["split_hash"] == split_scene(three, "auto", 0, radius=5).attrs["hash"], "follows the patch"
    assert run.attrs["variant"] == "epochs=1,features=4,patch=11,width=4"


def without_class(scene, code=2):
    split = split_scene(scene, "random")
    split.values[(scene["label"].values == code) & (split.values == TRAIN)] = 0
    return split


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s: fit(s, "nope"), "unknown method 'nope'"),
        (lambda s: fit(s, "dsm"), "unknown method 'dsm'"),
        (lambda s: fit(s, seed=1.5), "seed: expected a whole number, 0 or more, got 1.5"),
        (lambda s: fit(s, seed="0"), "seed: expected a whole number, 0 or more, got '0'"),
        (lambda s: fit(s, seed=-1), "seed: expected a whole number, 0 or more, got -1"),
        (lambda s: fit(s, preset="nope"), "unknown preset"),
        (lambda s: fit(s, epocs=3), "unknown setting 'epocs'"),
        (lambda s: fit(s, rule="prsa.training.rule:Nobody"), "setting rule.*Nobody"),
        (lambda s: fit(s, network="prsa.network.encoders:Encoder"), "setting network: expected a subclass"),
        (lambda s: fit(s, classifier="prsa.comparators.classical:nobody"), "setting classifier.*nobody"),
        (lambda s: fit(s, fusion="glue"), "unknown fusion 'glue'"),
        (lambda s: fit(s, device="nonsense"), "device 'nonsense' is not usable.*DEVICE=auto"),
        (lambda s: pick_device("cuda:99"), "DEVICE=cpu"),
        (lambda s: pick_device("meta"), "DEVICE=cpu"),
        (
            lambda s: fit(s, split=split_scene(s, "blocks", radius=2), patch="hsi=3,sar=9"),
            "patch 9 reaches 4.*radius=4",
        ),
        (lambda s: fit(s, split=without_class(s)), "expected training pixels of every class.*forest"),
        (lambda s: fit(s.assign_attrs(class_names='["one"]', label=0)), "class_names|label"),
    ],
)
def test_errors_of_fit_come_before_any_training(two, call, message, monkeypatch):
    monkeypatch.setattr("prsa.training.loop.Trainer.epoch", lambda *_: pytest.fail("trained"))
    with pytest.raises(PrsaError, match=message) as error:
        call(two)
    assert len(str(error.value)) < 900


def test_more_classes_than_a_map_can_hold_and_a_single_one(two):
    many = two.assign_attrs(class_names=str([f"class {i}" for i in range(256)]).replace("'", '"'))
    one = two.assign_attrs(class_names='["land"]').assign(label=(two["label"] > 0).astype(np.int16))
    for scene, message in ((many, "255"), (one, "two or more classes")):
        for method in ("prsanet", "mft", "svm"):
            with pytest.raises(PrsaError, match=message):
                fit(scene, method, preset="quick")


# --- shadow heads ----------------------------------------------------------------------------------------------------

M, D, K, B = 3, 5, 4, 17


def heads(steps=6, lr=1e-2, seed=0):
    config = make_config("concat", features=D, lr=lr, weight_decay=0.0)
    return ShadowHeads(M, K, config, steps, torch.Generator().manual_seed(seed), "cpu")


def double_heads():
    shadow = heads()
    for parameter in (shadow.weight, shadow.bias):
        parameter.data = parameter.data.double()
    rng = torch.Generator().manual_seed(1)
    return shadow, torch.randn(B, M, D, generator=rng, dtype=torch.float64), torch.randint(K, (B,), generator=rng)


def test_direction_accuracy_and_step_of_shadow_heads_against_a_loop_over_samples():
    shadow, z, y = double_heads()
    shadow.bias.data = torch.linspace(-1, 1, M * K, dtype=torch.float64).view(M, 1, K)
    weight, bias, rate = shadow.weight.detach().clone(), shadow.bias.detach(), shadow.optimizer.param_groups[0]["lr"]
    wanted, gradient, right = torch.zeros_like(z), torch.zeros_like(weight), np.zeros(M)
    for i in range(B):
        for m in range(M):
            logits = z[i, m] @ weight[m] + bias[m, 0]
            p = logits.exp() / logits.exp().sum()
            right[m] += int(logits.argmax() == y[i])
            p[y[i]] -= 1
            wanted[i, m] = weight[m] @ p / B
            gradient[m] += torch.outer(z[i, m], p) / B
    z.requires_grad_()
    direction, accuracy = shadow.step(z, y)
    torch.testing.assert_close(direction, wanted, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(accuracy, right / B, rtol=1e-6)
    assert 0 < right.min() and right.max() < B, "a case in which the accuracies say something"
    # AdamW without decay moves every number of its first step against the sign of its gradient, by the learning rate
    torch.testing.assert_close(shadow.weight.detach() - weight, -rate * gradient.sign(), rtol=1e-4, atol=1e-12)
    assert shadow.optimizer.param_groups[0]["lr"] != rate, "the schedule has moved"
    assert z.grad is None and not direction.requires_grad and not accuracy.requires_grad


def test_shadow_heads_learn_separable_features_each_of_its_own_modality():
    rng = torch.Generator().manual_seed(2)
    y = torch.arange(240) % K
    z = 4 * torch.eye(K, D)[y][:, None] + 0.3 * torch.randn(240, M, D, generator=rng)
    z[:, 1] = torch.randn(240, D, generator=rng)  # one modality knows nothing
    shadow = heads(steps=150, lr=5e-2)
    first = shadow.accuracy(z, y)
    for _ in range(150):
        _, last = shadow.step(z, y)
    accuracy = shadow.accuracy(z, y)
    assert accuracy[0] == accuracy[2] == 1 and accuracy[1] < 0.6 and first.max() < 0.9
    torch.testing.assert_close(accuracy, last, atol=0.02, rtol=0)


def test_start_of_shadow_heads_is_drawn_from_the_given_stream():
    a, b, other = heads(seed=3), heads(seed=3), heads(seed=4)
    assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, other.weight)
    assert a.weight.abs().max() <= D**-0.5 and a.weight.std() > 0.4 * D**-0.5 and not a.bias.any()


@pytest.mark.parametrize("method", ["prsanet", "late", "modality-dropout"])
def test_the_network_is_the_same_bit_for_bit_whether_they_step_or_not(three, method, monkeypatch):
    split, trained = split_scene(three, "random"), []
    for steps in (True, False):
        trainer = make_trainer(three, method, 1, split)
        if not steps:
            monkeypatch.setattr(trainer.shadow, "step", lambda z, y: (torch.zeros_like(z), torch.zeros(z.shape[1])))
        trainer.run()
        trained.append((weights(trainer.model), [record["loss"] for record in trainer.history]))
    assert_same_weights(*(state for state, _ in trained), method)
    np.testing.assert_array_equal(*(loss for _, loss in trained))


def test_alone_the_way_of_the_branch_is_that_of_late():
    """In "late" nothing but a linear head stands behind a branch: once both heads have learnt, both want the same."""
    scene = make_scene(noise=0.3)
    trainer = make_trainer(scene, "late", split=split_scene(scene, "random"), epochs=40, lr=2e-2)
    trainer.run()
    first, last = (trainer.history[i]["direction"] for i in (0, -1))
    total, fused = SOURCES.index("total"), SOURCES.index("fused")
    assert (last[total] > 0.8).all() and (last[total] <= 1 + 1e-6).all() and (first[total] < 0.5).all()
    assert np.isnan(first[fused]).all(), "a term that is off has no direction"
    concat = make_trainer(scene, "concat").epoch(1)["direction"]
    np.testing.assert_allclose(concat[total], concat[fused], rtol=1e-6, err_msg="concat has no other loss")
