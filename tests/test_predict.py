"""The map of logits, whose linear layers are multiplied out and whose tiles lie on threads, equals the network patch by patch."""

import numpy as np
import pytest
import torch
from tiny import every_patch, make_scene, make_trainer, weights

from prsa.mapping import predict_map, visit_logits
from prsa.network.fusion import ANCHORS, FUSIONS

SETTINGS = [{"fusion": fusion} for fusion in (*FUSIONS, "late")] + [
    {"fusion": "sagf", "rounds": 2},
    {"fusion": "sagf", "vote": 0.5},
    *({"fusion": "sagf", "anchors": anchors} for anchors in ANCHORS),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(modalities=("hsi", "sar"), **overrides):
    """A scene far from zero and with missing data, and a network after an epoch on it, with no parameter left at its start of zero."""
    scene = make_scene(modalities)
    scene["hsi"] = scene["hsi"] + 1000
    scene["hsi"][2, 3:6, 4:9] = np.nan
    trainer = make_trainer(scene, "concat", **overrides)
    trainer.epoch(1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.shared_parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return scene, trainer.model.eval()


def whole(model, scene, tile=17):
    logits = torch.full((len(model.classes), scene.sizes["y"], scene.sizes["x"]), torch.nan)

    def use(place, values):
        assert torch.isnan(logits[:, *place]).all()  # every pixel once
        logits[:, *place] = values

    visit_logits(model, scene, use, tile)
    return logits


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("modalities", [("hsi", "sar"), ("hsi", "sar", "dsm")], ids=len)
@pytest.mark.parametrize("overrides", SETTINGS, ids=lambda s: " ".join(map(str, s.values())))
def test_logits_are_those_of_every_patch(threads, modalities, overrides):
    scene, model = trained(modalities, patch="hsi=5,sar=3" + (",dsm=7" if "dsm" in modalities else ""), **overrides)
    with torch.no_grad():
        expected = model(every_patch(model, scene))["logits"].T.view(-1, 40, 48)
    assert expected.std() > 0.2
    torch.set_num_threads(threads)
    torch.testing.assert_close(whole(model, scene), expected, atol=1e-4, rtol=0)


def test_threads_are_as_before_and_what_a_tile_raises_is_raised():
    scene, model = trained()
    before = weights(model)
    torch.set_num_threads(3)

    def refuse(place, values):
        assert torch.get_num_threads() == 1
        raise ValueError(f"tile {place[0].start}")

    with pytest.raises(ValueError, match="tile 0"):
        visit_logits(model, scene, refuse)
    assert torch.get_num_threads() == 3
    predict_map(model, scene, tile=7)
    assert torch.get_num_threads() == 3 and all(
        torch.equal(value, before[name]) for name, value in weights(model).items()
    )


def test_the_map_does_not_depend_on_tiles():
    scene, model = trained(fusion="sagf")
    maps = [predict_map(model, scene, probabilities=True, tile=tile) for tile in (7, 48)]
    np.testing.assert_allclose(maps[0]["probability"], maps[1]["probability"], atol=1e-5)
    np.testing.assert_allclose(maps[0]["probability"].sum("class"), 1, atol=1e-5)
