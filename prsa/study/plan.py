"""The plan of a study: which runs it has, of which scenes, and where each run is stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from .. import files
from ..config import METHODS, Config, make_config, to_json
from ..data.benchmarks import BENCHMARKS
from ..data.scene import modalities, scene_hash
from ..data.simulate import EMBEDDED, firsts, scene_name
from ..data.sources import is_file, open_scene
from ..data.splits import split_scene
from ..errors import PrsaError
from . import runs

STUDY = ("late", "concat", "pmr", "concat+prm", "sagf", "prsanet")
FUSION_ABLATIONS = ("sum", "gated", "cross-attention")  # in the place of the concatenation
ABLATIONS = (*FUSION_ABLATIONS, *(name for name in METHODS if name.startswith("prsanet-no-")))
COMPARATORS = tuple(name for name in METHODS if name not in (*STUDY, *ABLATIONS))  # trained by METHODS=all
SENSITIVITY = {"lambda_p": (0.1, 1.0), "base": (0.0, 3.0), "tau_p": (0.1, 1.0), "lambda_sa": (0.1, 1.0)}
SENSITIVITY_SEEDS, ABLATION_SEEDS = 2, 5  # at most: on the first scene of the study, and on the first of every group
DIAL = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # settings of the imbalance dial, see `prsa.data.simulate`
DIAL_METHODS = ("late", "concat", "pmr", "prsanet")
DIAL_SEEDS = 3  # at most, and a third of the study's: the dial has many settings


@dataclass(frozen=True)
class RunSpec:
    """One run of a study; ``overrides`` are fields of `Config` as sorted (name, value) pairs."""

    scene: str
    method: str
    seed: int
    preset: str = "full"
    overrides: tuple = ()

    @property
    def training_preset(self) -> str:
        """Public benchmarks have a full-size preset of their own; results still belong to the full study."""
        return "benchmark" if self.preset == "full" and self.scene in BENCHMARKS else self.preset


class Source:
    """A scene that was opened once, with the splits and identities of its runs.

    All runs of a scene share one split: seeds vary initialisation, batches and augmentation only. ``scene`` may be set
    to None to free its memory; what names runs is kept.
    """

    def __init__(self, source: str):
        self.source, self.scene = source, open_scene(source)
        self.name, self.modalities = self.scene.attrs["name"], modalities(self.scene)
        self.hash, self._splits = scene_hash(self.scene), {}

    def split(self, config: Config) -> xr.DataArray:
        """The split for the largest window of a config."""
        radius = max(config.patches(self.modalities).values()) // 2
        if radius not in self._splits:
            scene = open_scene(self.source) if self.scene is None else self.scene
            self._splits[radius] = split_scene(scene, "auto", 0, radius)
        return self._splits[radius]

    def config(self, spec: RunSpec) -> Config:
        """The settings of a run of this scene. Raises `PrsaError` for an unknown method, preset or override."""
        return make_config(spec.method, spec.training_preset, **dict(spec.overrides))

    def path(self, spec: RunSpec) -> Path:
        """Where a run of this scene is, or will be, stored."""
        config = self.config(spec)
        split_hash = self.split(config).attrs["hash"]
        identity = runs.run_id(to_json(config), spec.method, spec.seed, self.hash, split_hash)
        name = f"{self.name.replace(':', '-')}__{spec.method}__s{spec.seed}__{identity}.nc"
        return files.results(spec.preset) / "runs" / name


class Plan:
    """A study: its scenes, opened once, and the runs it needs.

    ``scenes``: names or paths, see `open_scene`; ``seeds``: runs per scene and method; ``methods``: see `grid`.
    Attributes: ``sources``: the names and absolute paths of the scenes; ``scenes`` and ``splits``: scene name -> what
    was opened; ``specs``: the runs of study, ablations and sensitivity; ``dial``: those of the imbalance dial, only
    where ``methods`` is None. A scene file that is changed later needs a new plan. Raises `PrsaError` for whatever does
    not exist or fit, with nothing written.
    """

    def __init__(self, scenes: list[str], seeds: int, methods: list[str] | None = None, preset: str = "full"):
        self.sources = list(dict.fromkeys(_absolute(source) for source in scenes))
        self.specs = grid(self.sources, methods, seeds, preset)
        self.dial = dial_grid(self.sources, seeds, preset) if methods is None else []
        self.scenes: dict[str, xr.Dataset] = {}
        self.splits: dict[str, xr.DataArray] = {}
        self._sources, self._paths, self._runs = {}, {}, {}
        for name in self.sources:
            source = self._sources[name] = Source(name)
            if source.name in self.scenes:
                raise PrsaError(
                    f"SCENES: expected different names, got {source.name!r} twice, the second from {name}. "
                    "Fix: rename one of the files."
                )
            self.scenes[source.name] = source.scene
            self.splits[source.name] = source.split(source.config(RunSpec(name, "concat", 0, preset)))

    def path(self, spec: RunSpec) -> Path:
        """Where the run of this spec is, or will be, stored; the spec may be of a scene outside the plan, too."""
        if spec not in self._paths:
            source = self.source(spec.scene)
            self._paths[spec] = source.path(spec)
            if spec.scene not in self.sources:
                source.scene = None  # those of the dial are many
        return self._paths[spec]

    def source(self, name: str) -> Source:
        """What was opened under a name or path that a spec holds; opened now for a scene outside the plan."""
        if name not in self._sources:
            self._sources[name] = Source(name)
        return self._sources[name]

    def missing(self, specs: Iterable[RunSpec] | None = None) -> list[RunSpec]:
        """Those of the specs (default: ``specs``), each once, that have no whole run file yet."""
        specs = dict.fromkeys(self.specs if specs is None else specs)
        return [spec for spec in specs if not self._look(self.path(spec), load=False)]

    def open(self, specs: Iterable[RunSpec] | None = None) -> list[xr.Dataset]:
        """The finished runs of the specs (default: ``specs``), in order; each file is opened once and kept.

        Raises `PrsaError` that counts and names what is missing.
        """
        where = [self.path(spec) for spec in (self.specs if specs is None else specs)]
        missing = [path.name for path in where if not self._look(path, load=True)]
        if missing:
            raise PrsaError(
                f"expected {len(where)} finished runs, {len(missing)} are missing, first {missing[0]}. Train them: "
                "make reproduce, or notebook 03_train."
            )
        return [self._runs[path][1] for path in where]

    def _look(self, path: Path, load: bool) -> bool:
        """Whether a whole run lies at a path; keeps it if asked to ``load``. A changed file is looked at again."""
        if not path.is_file():
            return False
        stamp = path.stat().st_mtime_ns, path.stat().st_size
        if self._runs.get(path, (None,))[0] != stamp:
            if not runs.is_finished(path):
                return False
            self._runs[path] = stamp, None
        if load and self._runs[path][1] is None:
            self._runs[path] = stamp, runs.load_run(path)
        return True


def _absolute(source: str) -> str:
    """Notebooks have another working directory: the path of a file becomes absolute, names stay."""
    return str(Path(source).expanduser().resolve()) if is_file(source) else str(source)


def grid(scenes: list[str], methods: list[str] | None = None, seeds: int = 5, preset: str = "full") -> list[RunSpec]:
    """The runs of a study, seed by seed so that a first table is there early; those of the dial are `dial_grid`'s.

    ``methods=None``: the study's; in the full preset with ablations on the first scene of every group and sensitivity
    on the first of all. ``["all"]``: the study's and everything they are compared with. Raises `PrsaError` for
    seeds < 1, no scene, and unknown methods.
    """
    if seeds < 1:
        raise PrsaError(f"SEEDS: expected 1 or more, got {seeds}.")
    if not scenes:
        raise PrsaError(f"SCENES: expected at least one scene, got none. Embedded scenes: {', '.join(EMBEDDED)}.")
    chosen = STUDY if methods is None else (*STUDY, *COMPARATORS) if methods == ["all"] else methods
    for name in chosen:
        make_config(name, preset)
    always = [name for name in ("late", "concat") if name not in chosen]  # what every table compares with
    scenes = list(dict.fromkeys(scenes))
    whole = methods is None and preset == "full"
    extra = dict.fromkeys(firsts(scenes), ABLATIONS) if whole else {}
    specs = [
        RunSpec(scene, method, seed, preset)
        for seed in range(seeds)
        for scene in scenes
        for method in (*always, *chosen, *(extra.get(scene, ()) if seed < ABLATION_SEEDS else ()))
    ]
    if whole:
        specs += [
            RunSpec(scenes[0], "prsanet", seed, preset, ((key, value),))
            for seed in range(min(seeds, SENSITIVITY_SEEDS))
            for key, values in SENSITIVITY.items()
            for value in values
        ]
    return list(dict.fromkeys(specs))


def dial_grid(scenes: list[str], seeds: int = 5, preset: str = "full") -> list[RunSpec]:
    """The runs of the imbalance dial: of every simulated kind among ``scenes``, at every setting of `DIAL`.

    A kind's own setting is the scene of the study itself, and so are its runs. Other scenes give no runs. A third of
    ``seeds``, one at least and `DIAL_SEEDS` at most; the quick preset keeps to both ends and one seed. Raises
    `PrsaError` for seeds < 1.
    """
    if seeds < 1:
        raise PrsaError(f"SEEDS: expected 1 or more, got {seeds}.")
    settings, repeats = ((DIAL[0], DIAL[-1]), 1) if preset == "quick" else (DIAL, min(max(1, seeds // 3), DIAL_SEEDS))
    names = [scene_name(kind, 0, dial) for kind in dict.fromkeys(scenes) if kind in EMBEDDED for dial in settings]
    return [RunSpec(name, method, seed, preset) for name in names for seed in range(repeats) for method in DIAL_METHODS]


def scene_and_split(source: str, preset: str = "full") -> tuple[xr.Dataset, xr.DataArray]:
    """A scene and the split that all its runs share."""
    opened = Source(_absolute(source))
    return opened.scene, opened.split(opened.config(RunSpec(opened.source, "concat", 0, preset)))
