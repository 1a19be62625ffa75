"""The network: map pass equals patch pass, samples do not see each other, the baseline is plain concatenation, costs are true."""

import numpy as np
import pytest
import torch
from tiny import BANDS, CLASSES, OWN, SMALL, assert_same_weights, every_patch, make_scene, make_trainer, weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prsa import fit, predict_map, split_scene
from prsa.config import Config, make_config
from prsa.data.splits import TRAIN
from prsa.errors import PrsaError
from prsa.mapping import scene_features
from prsa.network.encoders import Encoder
from prsa.network.fusion import FUSIONS
from prsa.network.base import stream_seed
from prsa.network.prsanet import PRSANet

PATCHES = {"two": "hsi=7,sar=3", "three": "hsi=3,sar=9,dsm=5"}


def scene_logits(model, scene, tile):
    """Fused and branch logits of the map pass, (H, W, K) and (H, W, M, K)."""
    height, width, k = scene.sizes["y"], scene.sizes["x"], len(model.classes)
    fused, branch = (
        torch.full((height, width, k), torch.nan),
        torch.full((height, width, len(model.modalities), k), torch.nan),
    )
    with torch.no_grad():
        for rows, cols, z in scene_features(model, scene, tile):
            out = model.classify(z)
            size = rows.stop - rows.start, cols.stop - cols.start
            fused[rows, cols] = out["logits"].view(*size, -1)
            branch[rows, cols] = model.branch_logits(out).view(*size, len(model.modalities), -1)
    return fused, branch


def assert_patch_equals_scene(model, scene, tiles):
    with torch.no_grad():
        out = model(every_patch(model, scene))
    assert out["logits"].std() > 0.1, "the case is too easy: all logits are alike"
    for tile in tiles:
        fused, branch = scene_logits(model, scene, tile)
        assert (fused.flatten(0, 1) - out["logits"]).abs().max() < 1e-4, f"tile {tile}"
        assert (branch.flatten(0, 1) - model.branch_logits(out)).abs().max() < 1e-4, f"tile {tile}"


def with_holes(scene, seed=0):
    """The scene with single no-data values and a stripe without data in one modality."""
    scene, rng = scene.copy(deep=True), np.random.default_rng(seed)
    for m in BANDS:
        if m in scene:
            scene[m].values[rng.random(scene[m].shape) < 0.02] = np.nan
    scene["hsi"].values[:, 10:12] = np.nan
    return scene


@pytest.fixture(scope="module")
def trained():
    """Models after a real short training, by (number of modalities, method)."""
    models = {}

    def get(kind, method):
        if (kind, method) not in models:
            scene = with_holes(make_scene(tuple(BANDS)[: 2 if kind == "two" else 3]))
            split = split_scene(scene, "random")
            models[kind, method] = (
                scene,
                fit(scene, method, split, preset="quick", **(SMALL | {"patch": PATCHES[kind]}))[1],
            )
        return models[kind, method]

    return get


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("method", ["prsanet", "concat", "late"])
def test_patch_pass_equals_scene_pass_on_every_pixel(trained, kind, method):
    scene, model = trained(kind, method)
    assert_patch_equals_scene(model, scene, tiles=(128, 17) if method != "prsanet" else (128, 48, 17, 7))


@pytest.mark.parametrize("shape, tile", [((9, 11), 128), ((5, 12), 3), ((4, 4), 1), ((1, 9), 4)])
def test_patch_pass_equals_scene_pass_on_scenes_smaller_than_the_window(trained, shape, tile):
    scene, model = trained("three", "prsanet")
    assert_patch_equals_scene(model, scene.isel(y=slice(10, 10 + shape[0]), x=slice(shape[1])), tiles=(tile,))


def test_map_is_the_argmax_of_the_patch_pass(trained):
    scene, model = trained("three", "prsanet")
    with torch.no_grad():
        p = model(every_patch(model, scene))["logits"].softmax(1)
    cover, both = predict_map(model, scene, tile=31), predict_map(model, scene, probabilities=True)
    top = p.topk(2, dim=1).values
    clear = ((top[:, 0] - top[:, 1]) > 1e-3).numpy()
    assert clear.mean() > 0.9 and cover.dtype == np.uint8 and set(np.unique(cover)) <= {1, 2, 3, 4}
    assert (cover.values.ravel()[clear] == (p.argmax(1) + 1).numpy()[clear]).all()
    np.testing.assert_allclose(cover.confidence.values.ravel(), top[:, 0].numpy(), atol=1e-4)
    np.testing.assert_allclose(both["probability"].values.reshape(4, -1), p.T.numpy(), atol=1e-4)
    np.testing.assert_array_equal(both["land_cover"], predict_map(model, scene))
    assert list(both["class"].values) == CLASSES


def test_folding_of_normalisation_left_the_model_alone(trained):
    scene, model = trained("two", "prsanet")
    before = weights(model)
    predict_map(model, scene)
    assert_same_weights(before, weights(model))


def test_a_foreign_scene_is_refused(trained):
    model = trained("two", "prsanet")[1]
    with pytest.raises(PrsaError, match="expected modalities and bands.*'sar': 2.*got.*'dsm': 1"):
        predict_map(model, make_scene(("hsi", "dsm")))
    with pytest.raises(PrsaError, match="'hsi': 6.*'hsi': 5"):
        predict_map(model, make_scene().isel(hsi_band=slice(5)))


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("method", OWN)
def test_a_prediction_depends_on_no_other_sample(trained, kind, method):
    scene, model = trained(kind, method)
    x = {m: v[:40] for m, v in every_patch(model, scene).items()}
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, shuffled = model(x), model({m: v[order] for m, v in x.items()})
        few = model({m: v[:3] for m, v in x.items()})
        other = model({m: torch.cat([v[:3], 100 * v[3:]]) for m, v in x.items()})
    for key in ("logits", "prototype", "z", "f"):
        torch.testing.assert_close(shuffled[key], whole[key][order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(few[key], whole[key][:3], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other[key][:3], whole[key][:3], atol=1e-5, rtol=1e-5)


def test_late_fusion_is_the_sum_of_log_probabilities(trained):
    scene, model = trained("three", "late")
    with torch.no_grad():
        out = model(every_patch(model, scene))
    single = [
        (out["z"][:, i] @ model.branch_heads[m].weight.T + model.branch_heads[m].bias).softmax(1)
        for i, m in enumerate(model.modalities)
    ]
    torch.testing.assert_close(out["logits"], sum(p.log() for p in single), atol=1e-5, rtol=1e-5)
    assert torch.equal(model.branch_logits(out), out["branch"])


TERMS_OFF = {
    "fusion": "concat",
    "lambda_sa": 0.0,
    "lambda_p": 0.0,
    "lambda_aux": 0.0,
    "phase": 0.0,
    "dropout": 0.0,
    "vote": 0.0,
}


@pytest.mark.parametrize("kind", ["two", "three"])
def test_prsanet_with_every_term_off_is_concat_bit_for_bit(request, kind):
    """Coefficients of the terms keep PRSANet's values: with the weights at zero they must not matter."""
    scene = request.getfixturevalue(kind)
    split = split_scene(scene, "random")
    assert make_config("prsanet", **TERMS_OFF) != make_config(
        "concat", **{k: v for k, v in TERMS_OFF.items() if k == "dropout"}
    )
    base, plain = fit(scene, "concat", split, 1, "quick", **SMALL, dropout=0.0)
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
        mean, std = used.mean(1).astype(np.float32), used.std(1).astype(np.float32)
        cube = np.pad(
            ((values - mean[:, None, None]) / std[:, None, None]).transpose(1, 2, 0),
            ((r, r), (r, r), (0, 0)),
            "reflect",
        )
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


@pytest.mark.parametrize("kind", ["two", "three"])
def test_concat_equals_a_plain_network_and_loop_bit_for_bit(request, kind):
    """Only the schedule (learning rate and betas per step) is taken from the trainer; network, data, loss and loop are written again."""
    scene, seed = request.getfixturevalue(kind), 3
    split = split_scene(scene, "random")
    options = {"patch": PATCHES[kind], "dropout": 0.0, "lr": 0.01}
    trainer = make_trainer(scene, "concat", seed, split, **options)
    sides, bands = trainer.model.sides, {m: BANDS[m] for m in trainer.model.modalities}
    net = Plain(bands, sides, seed).to(memory_format=torch.channels_last)
    train = split.values == TRAIN
    windows, y = plain_windows(scene, train, sides), torch.from_numpy(scene["label"].values[train].astype(np.int64) - 1)
    order, symmetry = (torch.Generator().manual_seed(stream_seed(seed, name)) for name in ("order", "symmetry"))
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    schedule = make_trainer(scene, "concat", seed, split, **options)
    n, size = int(train.sum()), SMALL["batch"]
    for _ in range(SMALL["epochs"]):
        shuffled, turned = torch.randperm(n, generator=order), torch.randint(8, (n,), generator=symmetry)
        for b in range(n // size):
            chosen, turn = shuffled[b * size : (b + 1) * size], turned[b * size : (b + 1) * size]
            x = {m: w[chosen, turn].permute(0, 3, 1, 2) for m, w in windows.items()}
            optimizer.param_groups[0] |= {
                k: v
                for k, v in schedule.optimizer.param_groups[0].items()
                if k in ("lr", "betas", "weight_decay", "eps")
            }
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y[chosen]).backward()
            optimizer.step()
            schedule.optimizer.step()
            schedule.schedule.step()
    trainer.run()
    ours = {name.replace(".layers.", "."): value for name, value in weights(trainer.model.encoders).items()} | {
        f"head.{name}": value for name, value in weights(trainer.model.head).items()
    }
    assert_same_weights(ours, {name.removeprefix("nets."): value for name, value in weights(net).items()})


@pytest.mark.parametrize("method", OWN)
def test_every_parameter_belongs_to_one_modality_or_is_shared(method):
    model = PRSANet(BANDS, CLASSES, make_config(method, **SMALL))
    owners = {
        name: [m for m in BANDS if any(p is q for q in model.encoders[m].parameters())]
        + ["shared"] * any(p is q for q in model.shared_parameters())
        for name, p in model.named_parameters()
    }
    assert all(len(o) == 1 for o in owners.values()), owners
    for name, (owner,) in owners.items():
        assert owner == (name.split(".")[1] if name.startswith("encoders.") else "shared")
    assert len(owners) == sum(len(list(model.encoders[m].parameters())) for m in BANDS) + len(model.shared_parameters())


def test_a_shared_tensor_breaks_the_partition():
    model = PRSANet({"hsi": 2, "sar": 2}, CLASSES, make_config("concat", **SMALL))
    model.encoders["hsi"].layers[0].weight = model.encoders["sar"].layers[0].weight
    with pytest.raises(AssertionError):
        model._check_partition()


@pytest.mark.parametrize("fusion", [*FUSIONS, "late"])
@pytest.mark.parametrize("M, rounds", [(2, 1), (3, 2)])
def test_complexity_against_counted_products(fusion, M, rounds):
    bands = dict(list(BANDS.items())[:M])
    model = PRSANet(
        bands, CLASSES, make_config("concat", fusion=fusion, rounds=rounds, patch="hsi=7,sar=3", width=12, features=10)
    ).eval()
    told = model.complexity()
    assert told["params"] == sum(
        int(np.prod(p.shape))
        for name, p in model.state_dict().items()
        if "running" not in name and "batches" not in name and not name.startswith(("bank.", "mean_", "std_"))
    )

    def products(call):
        with (
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            call()
        return counter.get_total_flops() / 2

    z = torch.randn(1, M, 10)
    if fusion == "late":
        after = products(lambda: [model.branch_heads[m](z[:, i]) for i, m in enumerate(bands)])
    else:
        after = products(lambda: model.head(model.fusion(z)["f"]))
    patch = sum(
        products(lambda m=m: model.encoders[m](torch.randn(1, bands[m], model.sides[m], model.sides[m]))) for m in bands
    )
    assert told["macs_patch"] == patch + after
    side, pixel = 1000, 0.0
    for m in bands:
        halo = side + model.sides[m] - 1
        pixel += (
            products(
                lambda m=m, halo=halo: Encoder(bands[m], model.sides[m], 12, 10).to("meta")(
                    torch.empty(1, bands[m], halo, halo, device="meta")
                )
            )
            / side**2
        )
    assert told["macs_pixel"] == pytest.approx(pixel + after, rel=0.01)


def test_weights_are_drawn_by_name():
    """Switching the fusion or adding a modality does not move the first weights of the rest, and the caller's random state is kept."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = PRSANet({"hsi": 6, "sar": 2}, CLASSES, make_config("concat", **SMALL), seed=1)
    more = PRSANet({"dsm": 1, "sar": 2, "hsi": 6}, CLASSES, make_config("sagf", **SMALL, lambda_aux=1.0), seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    for m in ("hsi", "sar"):
        assert_same_weights(weights(first.encoders[m]), weights(more.encoders[m]))
    other = PRSANet({"hsi": 6, "sar": 2}, CLASSES, make_config("concat", **SMALL), seed=2)
    assert not torch.equal(first.encoders["hsi"].layers[0].weight, other.encoders["hsi"].layers[0].weight)
    assert not torch.equal(first.encoders["hsi"].layers[3].weight, first.encoders["sar"].layers[3].weight)


def test_unknown_fusion_and_bad_patches():
    with pytest.raises(PrsaError, match="unknown fusion 'glue'.*sagf"):
        PRSANet(BANDS, CLASSES, make_config("concat", fusion="glue"))
    for patch, message in (
        (4, "odd window side >= 3, got 4"),
        (1, "got 1"),
        ("hsi=7,lidar=5", "modalities"),
        ("hsi=big", "modality=side"),
        ("hsi", "modality=side"),
    ):
        with pytest.raises(PrsaError, match=message):
            PRSANet(BANDS, CLASSES, make_config("concat", patch=patch))
    assert Config(patch="sar=3, dsm=9").patches(list(BANDS)) == {"hsi": Config().patch, "sar": 3, "dsm": 9}


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
    ],
)
def test_config_errors_name_what_was_expected(settings, message):
    with pytest.raises(PrsaError, match=message):
        make_config(**settings)


def test_real_scene_patch_pass_equals_scene_pass(real_scene):
    """One epoch on a real scene, then every pixel of a part of it."""
    split = split_scene(real_scene)
    run, model = fit(real_scene, "prsanet", split, preset="quick", width=16, features=16, epochs=1)
    assert (
        np.isfinite(run["loss"].sel(term="fused")).all()
        and int(run["confusion"].sel(head="fused", part="test").sum()) == run.attrs["n_test"]
    )
    assert set(np.unique(run["map"])) <= set(range(1, len(model.classes) + 1)) and run["map"].shape == split.shape
    crop = real_scene.isel(y=slice(0, 40), x=slice(0, 40))
    assert_patch_equals_scene(model, crop, tiles=(128, 23))
