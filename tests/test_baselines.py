"""Published comparison networks: sizes worked out by hand, what they compute against naive loops, and what all of them must be able to do."""

import math

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from prsa.comparators import networks
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
from prsa.config import make_config
from prsa.data.splits import split_scene
from prsa.errors import PrsaError
from prsa.study.evaluate import evaluate_pixels

METHODS = {"endnet": EndNet, "coupled-cnn": CoupledCNN, "s2enet": S2ENet, "mft": MFT}
every = pytest.mark.parametrize("method", METHODS)


def make(method, bands=None, k=4, seed=0, patch=5, **extra):
    return METHODS[method](
        bands or {"hsi": 6, "sar": 2}, [f"class {i}" for i in range(k)], make_config(method, patch=patch), seed, **extra
    )


def batch(net, n=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, c, net.sides[m], net.sides[m], generator=g) for m, c in net.bands.items()}


def counted(net):
    return sum(p.numel() for p in net.parameters())


# sizes


def test_parameters_of_endnet():
    # Layer sizes 16-32-64-128, 128, 64-K and 64-32-16-C of the authors' code; they state no count. A norm has two numbers per channel.
    k, expected = 5, 0
    for c in (60, 2):
        expected += c * 16 + 16 * 32 + 32 * 64 + 64 * 128 + 2 * (16 + 32 + 64 + 128)
        expected += (128 + 1) * 64 + (64 + 1) * 32 + (32 + 1) * 16 + (16 + 1) * c
    expected += 256 * 128 + 2 * 128 + 128 * 64 + 2 * 64 + (64 + 1) * k
    assert counted(make("endnet", {"hsi": 60, "lidar": 2}, k)) == expected


def test_parameters_of_coupled_cnn():
    # 32, 64 and 128 kernels, the last two sets shared; no count is stated. Ours: the projection to 20 and a norm per modality.
    k = 5
    branches = 60 * 20 + 9 * 20 * 32 + 9 * 2 * 32 + 2 * 2 * (32 + 64 + 128)
    assert (
        counted(make("coupled-cnn", {"hsi": 60, "lidar": 2}, k))
        == branches + 9 * 32 * 64 + 9 * 64 * 128 + 3 * (128 + 1) * k
    )
    small = make("coupled-cnn", {"hsi": 20, "lidar": 2}, k)
    assert counted(small) == branches - 60 * 20 + 9 * 32 * 64 + 9 * 64 * 128 + 3 * (128 + 1) * k, (
        "20 bands need no projection"
    )


def test_parameters_of_s2enet():
    # 128-64-32 and 8-16-32 kernels, transformations of 16 and 32 channels, weights of 49 pixels and 32 channels; no count is stated.
    k = 5
    encoders = 9 * (60 * 128 + 128 * 64 + 64 * 32 + 2 * 8 + 8 * 16 + 16 * 32) + 2 * (128 + 64 + 32 + 8 + 16 + 32)
    enhancement = 2 * (32 * 16 + 2 * 16) + 2 * (32 * 32 + 2 * 32) + 49 + 32
    assert (
        counted(make("s2enet", {"hsi": 60, "lidar": 2}, k, patch=7))
        == encoders + enhancement + 64 * 32 + 2 * 32 + (32 + 1) * k
    )


@pytest.mark.parametrize("bands, classes, published", [(144, 15, 313_071), (63, 6, 263_526)])
def test_parameters_of_mft_are_those_its_authors_print(bands, classes, published):
    # Their summary leaves the tokenisation weights and the position out; ours has no bias in front of the four batch norms (8, 64, 64, 64).
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
    attention = (
        (8 + 2 * 5 * 8) * 8 * 64 + 2 * 8 * 5 * 64 + 512 * 64
    )  # q of one token, k and v of five, in 8 heads; scores and mix; output
    assert net.complexity()["macs_patch"] == conv + tokens + 2 * (attention + 2 * 5 * 64 * 512) + 64 * 5


# what they compute


@pytest.mark.parametrize("bands", [1, 5, 9, 12])
def test_spectral_convolution_is_the_3d_convolution(bands):
    layer, x = Spectral3D(bands).eval(), torch.randn(3, bands, 5, 5)
    depth = min(9, bands)
    weight = layer.layers[0].weight.view(8, 3, 3, depth).permute(0, 3, 1, 2)[:, None]  # (8, 1, depth, 3, 3)
    expected = F.conv3d(x[:, None], weight, padding=(0, 1, 1)).relu() / math.sqrt(
        1 + 1e-5
    )  # (3, 8, n, 5, 5), the norm still at 0 and 1
    assert layer.outputs == 8 * (bands - depth + 1)
    for memory in (torch.contiguous_format, torch.channels_last):
        assert torch.allclose(layer(x.contiguous(memory_format=memory)), expected.flatten(1, 2), atol=1e-5)


@pytest.mark.parametrize("inputs, groups", [(16, 16), (24, 8), (1088, 16), (440, 8)])
def test_hetconv_groups(inputs, groups):
    layer = HetConv(inputs, 64)
    assert layer.grouped.groups == groups and layer.grouped.weight.shape == (64, inputs // groups, 3, 3)
    x = torch.randn(2, inputs, 3, 3)
    part = inputs // groups
    first = F.conv2d(x[:, :part], layer.grouped.weight[:1], padding=1)[:, 0] + (x * layer.pointwise.weight[:1]).sum(
        1
    )  # channel 0 alone
    assert torch.allclose(layer.eval()(x)[:, 0], first.relu() / math.sqrt(1 + 1e-5), atol=1e-4)


def test_tokens_are_weighted_means_of_pixels():
    layer, x = Tokens(6, 2), torch.randn(3, 6, 2, 2)
    got = layer(x)
    for b in range(3):
        pixels = [x[b, :, i, j] for i in range(2) for j in range(2)]
        for t in range(2):
            scores = [(layer.score.weight[t] @ v).item() for v in pixels]
            weights = [math.exp(s) / sum(math.exp(q) for q in scores) for s in scores]
            assert torch.allclose(
                got[b, t], sum(w * (layer.value.weight @ v) for w, v in zip(weights, pixels)), atol=1e-5
            )


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
    assert net.cls.keys() == {"sar", "dsm"}
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
    outputs = torch.tensor(
        [[[1.0, 0], [1, 0], [0, 1]], [[0, 1], [0, 1], [0, 1]], [[1, 0], [0, 1], [1, 0]]]
    )  # (3 outputs, 3 samples, 2)
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
        second, third = net.norms[m]
        half = nn.MaxPool2d(2)
        h[m] = nn.Sequential(
            net.first[m], half, net.second, second, nn.ReLU(), half, net.third, third, nn.ReLU(), half
        )(x[m]).flatten(1)
        assert h[m].shape == (8, 128)
    expected = torch.stack([net.heads[0](h["hsi"] + h["sar"]), net.heads[1](h["hsi"]), net.heads[2](h["sar"])])
    assert torch.allclose(net(x)["outputs"], expected, atol=1e-5)


def test_coupled_kernels_are_shared():
    net = make("coupled-cnn", {"hsi": 3, "sar": 3}).eval()
    net.first["sar"].load_state_dict(net.first["hsi"].state_dict())
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(net.features(x, "hsi"), net.features(x, "sar"))


def test_endnet_reconstructs_the_centre():
    net = make("endnet").eval()
    x, y = batch(net), torch.zeros(8, dtype=torch.long)
    for m, decoder in net.decoders.items():  # a decoder that always says 1
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


# what all of them must be able to do


@every
def test_overfits_64_samples(method, two):
    net = make(method)
    statistics = {m: (two[m].values.mean((1, 2)), two[m].values.std((1, 2))) for m in net.modalities}
    for m, (mean, std) in statistics.items():
        net.get_buffer(f"mean_{m}").copy_(torch.from_numpy(mean))
        net.get_buffer(f"std_{m}").copy_(torch.from_numpy(std))
    label = two["label"].values.ravel()
    chosen = np.random.default_rng(0).choice(np.flatnonzero(label), 64, replace=False)
    x, y = (
        {m: v[chosen] for m, v in tiny.every_patch(net, two).items()},
        torch.from_numpy(label[chosen].astype(np.int64) - 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    torch.manual_seed(0)  # dropout
    accuracy = 0.0
    for _ in range(8):
        net.train()
        for _ in range(20):
            optimizer.zero_grad()
            sum(net.terms(net(x), x, y).values()).backward()
            optimizer.step()
        accuracy = (net.eval()(x)["logits"].argmax(1) == y).float().mean().item()
        if accuracy == 1:
            break
    assert accuracy == 1


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
    one, same, other = (tiny.weights(make(method, seed=s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before), "the global stream is left alone"
    tiny.assert_same_weights(one, same)
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
        expected = net.eval()({m: v[centres] for m, v in tiny.every_patch(net, three).items()})["logits"].softmax(1)
    np.testing.assert_allclose(np.concatenate(p), expected, atol=1e-5)


@every
def test_trains_with_the_common_loop(method, three):
    config = make_config(method, "quick", **(tiny.SMALL | {"epochs": 3}))
    split = split_scene(three, "blocks", radius=2)
    runs = []
    for _ in range(2):
        trainer = NetworkTrainer(three, split, config, 3, torch.device("cpu"))
        assert type(trainer.model) is METHODS[method] and trainer.run() == 3
        runs.append(trainer)
    loss = [
        record["loss"] for record in runs[0].history
    ]  # (term,) each: fused, alignment, prototype, auxiliary, rebalancing
    assert loss[-1][0] < loss[0][0]
    assert np.isfinite(loss[0][3]) == (method in ("endnet", "coupled-cnn"))
    tiny.assert_same_weights(*(tiny.weights(trainer.model) for trainer in runs), what="a repeated run")
    counts = evaluate_pixels(runs[0].model, three, split, runs[0].history)["confusion"].values[0]  # (part, K, K)
    assert np.trace(counts[2]) / counts[2].sum() > 0.4, "four classes: chance is a quarter"
