"""The grid of runs and how it is executed: resumable, atomic, one process per core."""

from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import xarray as xr

from .. import files
from ..config import METHODS, Config, make_config, to_json
from ..data.benchmarks import BENCHMARKS
from ..data.scene import modalities, scene_hash
from ..data.simulate import EMBEDDED, firsts, scene_name
from ..data.sources import open_scene
from ..data.splits import split_scene
from ..errors import PrsaError
from . import runs

STUDY = ("late", "concat", "pmr", "concat+prm", "sagf", "prsanet")
ABLATIONS = tuple(name for name in METHODS if name.startswith("prsanet-no-"))
COMPARATORS = tuple(name for name in METHODS if name not in (*STUDY, *ABLATIONS))  # trained by METHODS=all
SENSITIVITY = {"lambda_p": (0.1, 1.0), "base": (0.0, 3.0), "tau_p": (0.1, 1.0), "lambda_sa": (0.1, 1.0)}
SENSITIVITY_SEEDS, ABLATION_SEEDS = 2, 5  # at most: on the first scene of the study, and on the first of every group
DIAL = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # settings of the imbalance dial, see `prsa.data.simulate`
DIAL_METHODS = ("late", "concat", "pmr", "prsanet")
DIAL_SEEDS = 3  # at most, and a third of the study's: the dial has many settings


@dataclass(frozen=True)
class RunSpec:
    """One run of the grid; ``overrides`` are fields of `Config` as sorted (name, value) pairs."""

    scene: str
    method: str
    seed: int
    preset: str = "full"
    overrides: tuple = field(default=())


@lru_cache(maxsize=3)  # the embedded scenes; large ones must not pile up in a worker
def _scene(source: str) -> xr.Dataset:
    return open_scene(source)


@lru_cache(maxsize=64)
def _split(source: str, radius: int) -> xr.DataArray:
    return split_scene(_scene(source), "auto", 0, radius)


@cache  # a few words per scene: a grid asks for them again and again, in an order in which scenes do not stay open
def _facts(source: str) -> tuple[str, tuple[str, ...], str]:
    """Name, modalities and hash of a scene."""
    scene = _scene(source)
    return scene.attrs["name"], tuple(modalities(scene)), scene_hash(scene)


def _preset(source: str, preset: str) -> str:
    """Public benchmarks have a full-size preset of their own; results still belong to the full study."""
    return "benchmark" if preset == "full" and source in BENCHMARKS else preset


def scene_and_split(source: str, preset: str = "full") -> tuple[xr.Dataset, xr.DataArray]:
    """A scene and the split all its runs share: seeds vary initialisation, batches and augmentation only. Opened once per process."""
    return resolve(RunSpec(source, "concat", 0, preset))[1:]


def _config(spec: RunSpec) -> tuple[Config, int]:
    """Config of a run and the radius of its largest window."""
    config = make_config(spec.method, _preset(spec.scene, spec.preset), **dict(spec.overrides))
    return config, max(config.patches(list(_facts(spec.scene)[1])).values()) // 2


def resolve(spec: RunSpec) -> tuple[Config, xr.Dataset, xr.DataArray]:
    """Config, scene and split of a run; raises `PrsaError` for what does not exist or does not fit."""
    config, radius = _config(spec)
    return config, _scene(spec.scene), _split(spec.scene, radius)


def run_path(spec: RunSpec) -> Path:
    """Where the run of this spec is, or will be, stored."""
    (config, radius), (name, _, digest) = _config(spec), _facts(spec.scene)
    identity = runs.run_id(to_json(config), spec.method, spec.seed, digest, _split(spec.scene, radius).attrs["hash"])
    return files.results(spec.preset) / "runs" / f"{name.replace(':', '-')}__{spec.method}__s{spec.seed}__{identity}.nc"


def grid(scenes: list[str], methods: list[str] | None = None, seeds: int = 5, preset: str = "full") -> list[RunSpec]:
    """The runs of a study, seed by seed so that a first table is there early; those of the dial are `dial_grid`'s.

    ``methods=None``: the study's, with ablations on the first scene of every group and sensitivity on the first of all; ``["all"]``: the study's and everything they are compared with.

    Raises `PrsaError` for seeds < 1, no scene, and unknown methods.
    """
    if seeds < 1:
        raise PrsaError(f"SEEDS: expected 1 or more, got {seeds}.")
    if not scenes:
        raise PrsaError(f"SCENES: expected at least one scene, got none. Embedded scenes: {', '.join(EMBEDDED)}.")
    chosen = list(STUDY if methods is None else (*STUDY, *COMPARATORS) if methods == ["all"] else methods)
    for name in chosen:
        make_config(name, preset)
    if "concat" not in chosen:
        chosen.insert(0, "concat")  # every table compares with it
    if "late" not in chosen:
        chosen.insert(0, "late")  # the probe gap compares with branches trained alone
    scenes = list(dict.fromkeys(scenes))
    whole = methods is None and preset == "full"
    extra = dict.fromkeys(firsts(scenes), ABLATIONS) if whole else {}
    specs = [
        RunSpec(scene, method, seed, preset)
        for seed in range(seeds)
        for scene in scenes
        for method in (*chosen, *(extra.get(scene, ()) if seed < ABLATION_SEEDS else ()))
    ]
    if whole:
        specs += [
            RunSpec(scenes[0], "prsanet", seed, preset, ((key, value),))
            for seed in range(min(seeds, SENSITIVITY_SEEDS))
            for key, values in SENSITIVITY.items()
            for value in values
        ]
    return specs


def dial_grid(scenes: list[str], seeds: int = 5, preset: str = "full") -> list[RunSpec]:
    """The runs of the imbalance dial: those of ``scenes`` that are plain names of simulated kinds, at every setting of `DIAL`, by `DIAL_METHODS`.

    A kind's own setting is the scene of the study itself, and so are its runs. Other scenes give no runs. A third of ``seeds``, one at least and
    `DIAL_SEEDS` at most; the quick preset keeps to both ends and one seed. Raises `PrsaError` for seeds < 1.
    """
    if seeds < 1:
        raise PrsaError(f"SEEDS: expected 1 or more, got {seeds}.")
    settings, repeats = ((DIAL[0], DIAL[-1]), 1) if preset == "quick" else (DIAL, min(max(1, seeds // 3), DIAL_SEEDS))
    names = [scene_name(kind, 0, dial) for kind in dict.fromkeys(scenes) if kind in EMBEDDED for dial in settings]
    return [
        RunSpec(name, method, seed, preset) for name in names for seed in range(repeats) for method in DIAL_METHODS
    ]  # by scene: few are kept open


def open_runs(specs: list[RunSpec]) -> list[xr.Dataset]:
    """The finished runs of these specs, in order. Raises `PrsaError` that counts and names what is missing."""
    where = [run_path(spec) for spec in specs]
    missing = [path.name for path in where if not path.is_file()]
    if missing:
        raise PrsaError(
            f"expected {len(where)} finished runs, {len(missing)} are missing, first {missing[0]}. Train them: make reproduce, or notebook 03_train."
        )
    return [runs.load_run(path) for path in where]
