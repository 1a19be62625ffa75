"""Seeds trained as one batched network get what training them one by one gives, and everything else of a run is the same."""

import json

import numpy as np
import pytest
import torch
from tiny import SMALL, in_double, make_scene, make_trainer

from prsa import fit, predict_map, rebalance, research, runs, split_scene
from prsa.config import METHODS, make_config
from prsa.ensemble import Ensemble, can_train_together, fit_together
from prsa.errors import PrsaError
from prsa.splits import VAL

SEEDS = [3, 0, 11]
TOGETHER = [method for method in METHODS if can_train_together(make_config(method))]
VARIANTS = [(method, {}) for method in TOGETHER] + [
    ("prsanet", {"dropout": 0.4, "phase": 0.5, "sigma": 0.3, "lambda_aux": 0.5, "rounds": 2}),
    ("prsanet", {"anchors": "prototype", "metric": "euclidean", "epoch_choice": "validation", "epochs": 3}),
    ("concat+prm", {"fusion": "attention", "dropout": 0.2}), ("concat+prm", {"fusion": "gated"}),
]


class InDouble(Ensemble):
    """An ensemble in double precision."""

    def network(self, seed):
        return super().network(seed).double()

    def shadow_heads(self, *seeds):
        heads = super().shadow_heads(*seeds)
        for parameter in (heads.weight, heads.bias):
            parameter.data = parameter.data.double()
        return heads


@pytest.fixture(scope="module")
def three():
    return make_scene(("hsi", "sar", "dsm"))


def make_ensemble(scene, split, method, kind=InDouble, only=None, **overrides):
    ensemble = kind(scene, split, make_config(method, "quick", **(SMALL | overrides)), SEEDS, torch.device("cpu"), only)
    if kind is InDouble:
        ensemble.patches.tables = {m: values.double() for m, values in ensemble.patches.tables.items()}
    return ensemble


def assert_as_one_by_one(scene, method, overrides, only=None):
    split = split_scene(scene, "random")
    ensemble = make_ensemble(scene, split, method, only=only, **overrides)
    chosen = ensemble.run()
    starts = set()
    for seed, model, history, epoch in zip(SEEDS, ensemble.models, ensemble.histories, chosen, strict=True):
        single = in_double(make_trainer(scene, method, seed, split, only, **overrides))
        starts.add(float(single.model.encoders[list(single.bands)[0]].layers[0].weight.detach().sum()))
        assert single.run() == epoch and len(history) == len(single.history) == single.epochs
        for name, value in single.model.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
        for record, wanted in zip(history, single.history):
            assert record.keys() == wanted.keys()
            for key, value in wanted.items():
                np.testing.assert_allclose(record[key], value, rtol=1e-7, atol=1e-9, err_msg=key)
                assert record[key].shape == value.shape, key
        assert not model.training
    assert len(starts) == len(SEEDS), "every seed has a start of its own"


@pytest.mark.parametrize("method, overrides", VARIANTS)
def test_every_seed_is_trained_as_if_alone(three, method, overrides):
    assert_as_one_by_one(three, method, overrides)


def test_two_modalities_and_a_modality_alone_are_batched_too(three):
    assert_as_one_by_one(three[["hsi", "sar", "label"]], "prsanet", {})
    assert_as_one_by_one(three, "late", {}, only=["sar"])


def test_what_cannot_be_batched_says_so(three):
    split = split_scene(three, "random")
    for method in set(METHODS) - set(TOGETHER):
        with pytest.raises(PrsaError, match="a rule that batches seeds.*one by one, with fit"):
            make_ensemble(three, split, method, Ensemble)
    assert set(METHODS) - set(TOGETHER) == {"ogm-ge", "mmpareto", "endnet", "coupled-cnn", "s2enet", "mft", "rf", "svm", "rf-spatial", "svm-spatial"}


def test_a_rule_that_reaches_into_one_network_is_never_batched():
    rules = [kind for module in (rebalance, research) for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, rebalance.Rule)]
    own = {kind for kind in rules if kind.to_encoders is not rebalance.Rule.to_encoders}
    assert len(own) == 3 and not any(kind.together for kind in own) and not research.Gated.together and not research.FastDropout.together
    mine = type("Mine", (rebalance.Pmr,), {"to_encoders": lambda self, model, encoded, on_z, y, rng: None})
    assert not mine.together and not type("Heir", (mine,), {}).together and type("Sure", (mine,), {"together": True, "to_encoders": mine.to_encoders}).together
    assert {kind for kind in rules if kind.together} >= {rebalance.Rule, rebalance.Pmr, rebalance.ModalityDropout, research.Window}


def test_gradients_lie_in_memory_as_their_parameters_do(three):
    """The fused optimiser reads both side by side and does not look at strides."""
    ensemble = make_ensemble(three, split_scene(three, "random"), "prsanet", Ensemble, lambda_aux=0.5)
    ensemble.epoch(1)
    assert {name for name, p in ensemble.parameters.items() if p.grad is not None} == set(ensemble.parameters)
    for name, parameter in ensemble.parameters.items():
        assert parameter.grad.stride() == parameter.stride(), name


def test_models_follow_the_batched_weights_and_are_independent_in_the_end(three):
    ensemble = make_ensemble(three, split_scene(three, "random"), "prsanet", Ensemble)
    before = ensemble.models[1].head.weight.detach().clone()

    def look(number, records):
        assert not torch.equal(ensemble.models[1].head.weight, before)
        for name, value in ensemble.models[2].state_dict().items():
            assert torch.equal(value, (ensemble.parameters | ensemble.buffers)[f"model.{name}"][2]), name

    ensemble.run(look)
    kept = [model.head.weight.detach().clone() for model in ensemble.models]
    with torch.no_grad():
        ensemble.models[0].head.weight.zero_()
        ensemble.parameters["model.head.weight"].zero_()
    assert torch.equal(ensemble.models[1].head.weight, kept[1]) and torch.equal(ensemble.models[2].head.weight, kept[2])


def test_runs_are_those_of_fit(three):
    split = split_scene(three, "random")
    seen = []
    fitted = fit_together(three, "prsanet", split, (0, 1), "quick", "cpu", lambda number, records: seen.append((number, len(records))), **SMALL)
    assert seen == [(1, 2), (2, 2)] and len(fitted) == 2
    for seed, (run, model) in enumerate(fitted):
        single, _ = fit(three, "prsanet", split, seed, "quick", "cpu", **SMALL)
        run.attrs["run_id"] = single.attrs["run_id"] = "0"
        runs.check_run(run)
        different = {"seconds", "samples_per_s", "trained_with"}
        assert {k: v for k, v in run.attrs.items() if k not in different} == {k: v for k, v in single.attrs.items() if k not in different}
        assert run.attrs["trained_with"] == "0 1" and "trained_with" not in single.attrs and run.attrs["seconds"] > 0
        assert set(run.variables) == set(single.variables) and json.loads(run.attrs["overrides"]) == SMALL
        assert all(run[name].shape == single[name].shape for name in run.variables)
        np.testing.assert_allclose(run["loss"], single["loss"], rtol=1e-3, err_msg="single precision, after few steps")
        assert (predict_map(model, three).values == run["map"].values).mean() > 0.99


def test_without_validation_pixels(three):
    split = split_scene(three, "random")
    split.values[split.values == VAL] = 0
    for run, _ in fit_together(three, "prsanet", split, (0, 1), "quick", "cpu", **(SMALL | {"epoch_choice": "validation"})):
        assert run.attrs["n_val"] == 0 and run.attrs["epoch_used"] == SMALL["epochs"] and np.isfinite(run["accuracy"].sel(watched="train")).all()
        assert all(np.isnan(run[name].sel(watched="val")).all() for name in ("accuracy", "branch_accuracy", "probe_accuracy"))


def test_divergence_of_a_seed_is_an_error(three):
    with pytest.raises(PrsaError, match="diverged.*smaller lr"):
        fit_together(three, "concat", split_scene(three, "random"), (0, 1), "quick", "cpu", **(SMALL | {"lr": 1e38, "epoch_choice": "final"}))
