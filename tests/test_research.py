"""The record of the design research: what was promised is tried, on development scenes only, and the summary is right."""

import numpy as np
import pandas as pd
import pytest
import torch
from record import research
from tiny import make_trainer

from prsa import config, files
from prsa.errors import PrsaError
from prsa.figures import research_plots
from prsa.study import plan


def test_all_runs_are_on_development_scenes_and_rounds_share_none():
    seeds = [set(scenes) for _, scenes in research.ROUNDS.values()]
    assert all(100 <= seed < 120 for part in seeds for seed in part) and sum(map(len, seeds)) == len(set.union(*seeds))
    for number, (trials, scenes) in research.ROUNDS.items():
        specs = research.specs(number)
        assert len(specs) == len(trials) * len(scenes) * len(research.KINDS) and {"start", "concat"} <= {
            trial.name for trial in trials
        }
        assert len({trial.name for trial in trials}) == len(trials)
        for trial, spec in specs:
            config.make_config(trial.method, **dict(spec.overrides))


def test_one_change_at_a_time_in_the_first_round():
    for trial in research.FIRST:
        changed = {name for name, value in trial.overrides if research.START[name] != value}
        assert len(changed) <= 2 and (changed or trial.name == "start" or trial in research.REFERENCES)


def test_no_method_of_the_study_uses_a_rule_that_was_dropped():
    assert not any(str(settings.get("rule", "")).startswith(research.RULES) for settings in config.METHODS.values())


def test_conflict_projection_leaves_nothing_against_the_fused_gradient(two):
    trainer = make_trainer(two, "concat+prm", rule="prsa.research:Surgery", lambda_p=1.0)
    z = torch.randn(7, 2, 5, requires_grad=True)
    on_z = {"fused": torch.randn(7, 2, 5), "prototype": torch.randn(7, 2, 5)}
    on_z["total"] = on_z["fused"] + on_z["prototype"]
    trainer.rule.to_encoders(trainer.model, z, on_z, None, None)
    ours = z.grad - on_z["fused"]
    product, before = (ours * on_z["fused"]).sum(2), (on_z["prototype"] * on_z["fused"]).sum(2)
    assert (product > -1e-5).all() and (before < -0.1).any()
    torch.testing.assert_close(ours[before > 0], on_z["prototype"][before > 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strength, on", [(0.5, [1, 1, 0, 0]), (-0.5, [0, 0, 1, 1])])
def test_windows_switch_the_prototype_loss(two, strength, on):
    rule = make_trainer(two, "concat+prm", rule="prsa.research:Window", strength=strength).rule
    seen = []
    for rule.progress in (0.25, 0.5, 0.75, 1.0):
        seen.append(bool(rule.weights(torch.tensor([0.5, 0.5])).sum() > 0))
    assert seen == [bool(v) for v in on]


def test_a_gated_branch_is_pushed_while_its_validation_accuracy_rises(two):
    rule = make_trainer(two, "concat+prm", rule="prsa.research:Gated", strength=1.0).rule
    s = torch.tensor([0.5, 0.5])
    assert rule.weights(s).tolist() == [1, 1]
    rule.history.extend({"branch_accuracy": np.array([[0, 0], last])} for last in ([0.3, 0.3], [0.4, 0.2]))
    assert rule.weights(s).tolist() == [1, 0]


def test_only_the_fast_modality_is_dropped(two):
    rule = make_trainer(two, "concat+prm", rule="prsa.research:FastDropout", strength=0.5).rule
    rng = torch.Generator().manual_seed(0)
    assert rule.keep(50, 2, rng).all()
    rule.weights(torch.tensor([0.9, 0.3]))
    keep = rule.keep(1000, 2, rng)
    assert keep[:, 1].all() and 0.4 < keep[:, 0].mean() < 0.6


def trials():
    """Two kinds of two scenes; `better` is 2 and 1 points above the start on the one, 0 and -1 on the other."""
    rows = []
    for scene, gain in {"sim-sar:100": 2, "sim-sar:101": 1, "sim-tri:100": 0, "sim-tri:101": -1}.items():
        for name, oa, probe in (("start", 70, 50), ("concat", 68, 45), ("better", 70 + gain, 52)):
            rows += [(1, name, scene, 0, "hsi", oa, 80, 1.5), (1, name, scene, 0, "sar", oa, probe, 0.6)]
    return pd.DataFrame(rows, columns=list(research.COLUMNS))


def test_summary_by_hand():
    table = research_plots.summary(trials()).set_index(["name", "kind"])
    assert list(research_plots.summary(trials()).columns) == list(research_plots.SUMMARY)
    assert table.loc[("better", "sim-sar"), "d_start"] == 1.5 and table.loc[("better", "sim-tri"), "d_start"] == -0.5
    whole = table.loc[("better", "all")]
    assert (whole["d_start"], whole["d_concat"], whole["d_slow"], whole["n_scenes"]) == (0.5, 2.5, 7.0, 4)
    half = 3.182 * np.std([2, 1, 0, -1], ddof=1) / 2
    assert whole["d_start_hi"] - 0.5 == pytest.approx(half, abs=1e-3)
    with pytest.raises(PrsaError, match="trials of concat"):
        research_plots.summary(trials().query("name != 'concat'"))


def test_figure_has_a_row_per_trial_and_an_interval():
    fig = research_plots.trials(research_plots.summary(trials()), 1)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["concat", "better"]
    (bars,) = fig.axes[0].containers
    assert bars.lines[0].get_xdata().tolist() == [-2.0, 0.5]
    with pytest.raises(PrsaError, match="round 3"):
        research_plots.trials(research_plots.summary(trials()), 3)


def test_the_kept_record_holds_every_trial_and_what_is_in_use_was_tried_last():
    kept = pd.read_csv(files.ROOT / "results" / "reference" / "research.csv")
    wanted = {(number, trial.name, spec.scene) for number in research.ROUNDS for trial, spec in research.specs(number)}
    assert set(zip(kept["round"], kept["name"], kept["scene"])) == wanted
    used = config.make_config("prsanet")
    in_use = {name: getattr(used, name) for name in research.START}
    assert any(dict(trial.overrides) == in_use for trial in research.ROUNDS[max(research.ROUNDS)][0])


def test_a_run_becomes_a_row_per_modality(monkeypatch):
    from synthetic import make_run

    run = make_run("sim-sar:100", "prsanet", 0, classes=2, epochs=2, size=12)
    counts = np.zeros_like(run["confusion"].sel(head="fused").values)
    counts[1], counts[2] = [[30, 10], [10, 50]], [[0, 50], [50, 0]]  # the test pixels are all wrong, and not looked at
    run["confusion"].loc[{"head": "fused"}] = counts
    rows = research.rows(2, research.Trial("x"), run)
    assert [row[:6] for row in rows] == [(2, "x", "sim-sar:100", 0, m, 80.0) for m in ("hsi", "sar")]
    assert rows[1][7] == round(float(run["rho"].sel(modality="sar").isel(epoch=-1)), 3)


def test_specs_reach_the_study():
    assert all(
        isinstance(spec, plan.RunSpec) and spec.seed == 0
        for number in research.ROUNDS
        for _, spec in research.specs(number)
    )
