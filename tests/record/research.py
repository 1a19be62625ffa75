"""How PRSANet's configuration was found: every design choice tried on development scenes, and what it did to their validation pixels.

`make research` trains the runs and writes ``results/research.csv``, a row per run; notebook ``A1_design_choices`` reads it. First round: one
change at a time to `START`. Second round: what looked best, combined, on development scenes that the first round had not seen; third round: what was surely better there, once
more on new scenes. The rules below were
tried and are not part of any method. All of this is ours.
"""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from prsa import files, metrics
from prsa.comparators.rebalancing import ModalityDropout
from prsa.errors import PrsaError
from prsa.report import tables
from prsa.reproduce import cores
from prsa.study import execute, plan
from prsa.training.rule import Rule

KINDS = ("sim-sar", "sim-lidar", "sim-tri")
COLUMNS = ("round", "name", "scene", "seed", "modality", "val_oa", "probe_accuracy", "rho")
RULES = "prsa.research:"
START = {
    "lambda_p": 0.3,
    "base": 1.0,
    "tau_p": 0.3,
    "lambda_sa": 0.3,
    "tau_s": 0.1,
    "sigma": 0.0,
    "dropout": 0.0,
    "phase": 0.0,
    "vote": 0.0,
    "lambda_aux": 0.0,
    "rule": "prsa.training.rule:Rule",
    "strength": 0.0,
    "momentum": 0.9,
    "metric": "cosine",
    "rounds": 1,
    "anchors": "learned",
}


class Surgery(Rule):
    """The prototype gradient on z without its part against the fused one, per sample and modality."""

    def to_encoders(self, model, encoded, on_z, y, rng):
        ours, fused = self.config.lambda_p * on_z["prototype"], on_z["fused"]  # (B, M, D)
        against = (ours * fused).sum(2, keepdim=True).clamp(max=0)
        encoded.backward(on_z["total"] - against / (fused**2).sum(2, keepdim=True).clamp(min=1e-12) * fused)


class Window(Rule):
    """The prototype loss only in the first ``strength`` share of the epochs; negative: only after that share."""

    def weights(self, s):
        inside = (
            self.progress <= self.config.strength if self.config.strength > 0 else self.progress > -self.config.strength
        )
        return super().weights(s) * float(inside)


class Gated(Rule):
    """The prototype loss of a branch stops once its accuracy on the scene's validation pixels has not risen for ``strength`` epochs."""

    together = False

    def weights(self, s):
        weight, patience = super().weights(s), int(self.config.strength)
        if len(self.history) > patience:
            curve = np.stack([record["branch_accuracy"][1] for record in self.history])  # (epochs, M)
            rising = curve[-patience:].max(0) > curve[:-patience].max(0)
            weight = weight * torch.from_numpy(rising).to(weight)
        return weight


class FastDropout(ModalityDropout):
    """Modality dropout of the modality that is ahead: probability ``strength`` times its push-back clip(s_m / min_n s_n - 1, 0, 1)."""

    together = False

    def weights(self, s):
        self.ahead = (s / s.min() - 1).clamp(0, 1)
        return super().weights(s)

    def keep(self, batch, modalities, rng):
        drawn = torch.rand(batch, modalities, generator=rng)
        probability = self.config.strength * getattr(self, "ahead", torch.zeros(modalities)).cpu()
        return (drawn >= probability).float()  # the slowest is never ahead, so one always stays


@dataclass(frozen=True)
class Trial:
    """One thing that was tried: a method with overrides."""

    name: str
    method: str = "prsanet"
    overrides: tuple = ()


def _try(name: str, **overrides) -> Trial:
    return Trial(name, "prsanet", tuple(sorted((START | overrides).items())))


REFERENCES = (
    Trial("late", "late"),
    Trial("concat", "concat"),
    Trial("concat+prm", "concat+prm"),
    Trial("pmr", "pmr"),
    Trial("sagf", "sagf"),
)
FIRST = (
    *REFERENCES,
    _try("start"),
    _try("base weight 0", base=0.0),
    _try("base weight 3", base=3.0),
    _try("lambda_p 1", lambda_p=1.0),
    _try("lambda_p 3", lambda_p=3.0),
    _try("tau_p 0.1", tau_p=0.1),
    _try("tau_p 1", tau_p=1.0),
    _try("Euclidean prototypes", metric="euclidean"),
    _try("momentum 0.5", momentum=0.5),
    _try("momentum 0.99", momentum=0.99),
    _try("soft targets 0.5", sigma=0.5),
    _try("dropout 0.3 on f", dropout=0.3),
    _try("independent phase 0.25", phase=0.25),
    _try("independent phase 0.5", phase=0.5),
    _try("independent phase 1", phase=1.0),
    _try("prototype loss first half", rule=RULES + "Window", strength=0.5),
    _try("prototype loss second half", rule=RULES + "Window", strength=-0.5),
    _try("conflict projection on z", rule=RULES + "Surgery"),
    _try("validation-gated push", rule=RULES + "Gated", strength=3.0),
    _try("SAGF rounds 2", rounds=2),
    _try("simplex anchors", anchors="simplex"),
    _try("prototype anchors", anchors="prototype"),
    _try("lambda_sa 0.1", lambda_sa=0.1),
    _try("lambda_sa 1", lambda_sa=1.0),
    _try("lambda_sa 1, soft targets 0.5", lambda_sa=1.0, sigma=0.5),
    _try("tau_s 0.3", tau_s=0.3),
    _try("auxiliary heads 0.3", lambda_aux=0.3),
    _try("auxiliary heads 1", lambda_aux=1.0),
    _try("auxiliary heads 1, phase 0.5", lambda_aux=1.0, phase=0.5),
    _try("auxiliary heads 1, phase 1", lambda_aux=1.0, phase=1.0),
    _try("vote 1", vote=1.0),
    _try("vote 3", vote=3.0),
    _try("modality dropout 0.1", rule="prsa.comparators.rebalancing:ModalityDropout", strength=0.1),
    _try("modality dropout 0.3", rule="prsa.comparators.rebalancing:ModalityDropout", strength=0.3),
    _try("dropout of the fast modality 0.5", rule=RULES + "FastDropout", strength=0.5),
)
SECOND = (
    Trial("concat", "concat"),
    Trial("concat+prm", "concat+prm"),
    _try("start"),
    _try("lambda_p 1", lambda_p=1.0),
    _try("lambda_p 3", lambda_p=3.0),
    _try("vote 1", vote=1.0),
    _try("vote 1, lambda_p 1", vote=1.0, lambda_p=1.0),
    _try("vote 1, prototype anchors", vote=1.0, anchors="prototype"),
    _try("vote 1, modality dropout 0.1", vote=1.0, rule="prsa.comparators.rebalancing:ModalityDropout", strength=0.1),
)
THIRD = (
    Trial("concat", "concat"),
    _try("start"),
    _try("lambda_p 1", lambda_p=1.0),
    _try("vote 1", vote=1.0),
    _try("vote 1, lambda_p 1", vote=1.0, lambda_p=1.0),
)
ROUNDS = {
    1: (FIRST, range(100, 102)),
    2: (SECOND, range(104, 107)),
    3: (THIRD, range(107, 111)),
}  # round -> trials, seeds of development scenes


def specs(number: int) -> list[tuple[Trial, plan.RunSpec]]:
    """Trials and runs of a round, one training seed per scene."""
    trials, seeds = ROUNDS[number]
    return [
        (trial, plan.RunSpec(f"{kind}:{seed}", trial.method, 0, "full", trial.overrides))
        for seed in seeds
        for kind in KINDS
        for trial in trials
    ]


def rows(number: int, trial: Trial, run) -> list[tuple]:
    """A row per modality (`COLUMNS`): OA of the validation pixels and probe accuracy of the branch on the watched ones (points), imbalance factor."""
    oa = float(metrics.points(metrics.oa(run["confusion"].sel(head="fused", part="val").values)))
    last = run.isel(epoch=-1)
    return [
        (
            number,
            trial.name,
            run.attrs["scene"],
            int(run.attrs["seed"]),
            m,
            round(oa, 3),
            round(100 * float(last["probe_accuracy"].sel(watched="val", modality=m)), 3),
            round(float(last["rho"].sel(modality=m)), 3),
        )
        for m in run["modality"].values.tolist()
    ]


def main() -> int:
    """Train what is missing and write the table; returns the exit code."""
    found = []
    try:
        for number in ROUNDS:
            trials = specs(number)
            execute.run_grid([spec for _, spec in trials], cores())
            for trial, spec in trials:
                found += rows(number, trial, plan.open_runs([spec])[0])
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tables.write_text(
        pd.DataFrame(found, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n"),
        files.results("full") / "research.csv",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
