"""Studies to read: the runs that come with the repository, to learn from in seconds, and those of the reader.

The teaching runs are ordinary run files of the full settings, but slim: of most of them the large variables are blank,
and the attribute ``slim`` names these. They end in ``.slim.nc``, so that no study takes them for runs of its own.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import xarray as xr

from .. import files
from ..data.simulate import EMBEDDED, scene_name
from ..errors import PrsaError
from .plan import DIAL_SEEDS, Plan, RunSpec, grid

FOLDER = files.ROOT / "results" / "reference" / "teaching" / "runs"
METHODS = ("late", "concat", "concat+prm", "sagf", "prsanet")
SEEDS = 10
DIAL_METHODS = ("late", "concat", "prsanet")
DIAL_SETTINGS = (0.0, 0.4, 1.0)  # and each kind's own
STUDIES = ("teaching", "latest", "full", "quick")
NOTE = "study.json"  # in a results folder: what the study there was made of


class _Opened(Mapping):
    """Names of scenes -> what ``make`` opens; each is opened when it is asked for, as that takes a second."""

    def __init__(self, names: list[str], make: Callable):
        self.names, self.make = names, make

    def __getitem__(self, name: str):
        if name not in self.names:
            raise KeyError(name)
        return self.make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Teaching(Plan):
    """The plan of the teaching runs, of some or all kinds of simulated scenes; see `Plan`. Nothing can be trained."""

    def __init__(self, scenes: list[str]):
        self.sources = list(scenes)
        self.specs = grid(self.sources, list(METHODS), SEEDS)
        names = (scene_name(kind, 0, setting) for kind in self.sources for setting in DIAL_SETTINGS)
        names = sorted({*self.sources, *names}, key=lambda name: (self.sources.index(name.partition(":")[0]), name))
        self.dial = [
            RunSpec(name, method, seed) for name in names for seed in range(DIAL_SEEDS) for method in DIAL_METHODS
        ]
        self.scenes = _Opened(self.sources, lambda name: self.source(name).scene)
        self.splits = _Opened(self.sources, self._split)
        self._sources, self._paths, self._runs = {}, {}, {}

    def _split(self, name: str) -> xr.DataArray:
        source = self.source(name)
        return source.split(source.config(RunSpec(name, "concat", 0)))

    def path(self, spec: RunSpec) -> Path:
        """The slim file of a run, found by scene, method and seed: a test compares its identity with today's plan."""
        if spec not in self._paths:
            start = name_of(spec)
            self._paths[spec] = next(FOLDER.glob(f"{start}__*.slim.nc"), FOLDER / f"{start}__missing.slim.nc")
        return self._paths[spec]


def name_of(spec: RunSpec) -> str:
    """How the name of a run file of a simulated scene begins."""
    return f"{spec.scene.replace(':', '-')}__{spec.method}__s{spec.seed}"


def holds(run: xr.Dataset, variable: str) -> bool:
    """Whether a run has this variable, or it was left blank because the run is slim."""
    return variable not in run.attrs.get("slim", "").split()


def write_note(plan: Plan, seeds: int, methods: list[str] | None, preset: str) -> Path:
    """Write down what a study is made of, so that `open_study` can open it by one word."""
    made = {"scenes": plan.sources, "seeds": seeds, "methods": methods, "preset": preset}
    return files.write_text(json.dumps(made, indent=1) + "\n", files.results(preset) / NOTE)


def open_study(study: str = "teaching", scenes: list[str] | None = None) -> Plan:
    """The plan of a study whose runs are there: "teaching", "full", "quick", or "latest", the newer of these two.

    ``scenes``: only these of its scenes (default: all). Raises `PrsaError` for an unknown study or scene, and for a
    study that was not made here.
    """
    if study not in STUDIES:
        raise PrsaError(f"study: expected one of {', '.join(STUDIES)}, got {study!r}.")
    made = {"scenes": list(EMBEDDED)} if study == "teaching" else _note(study)
    chosen = made["scenes"] if scenes is None else list(scenes)
    if unknown := [name for name in chosen if name not in made["scenes"]]:
        raise PrsaError(
            f"expected scenes of the study {study!r} ({', '.join(made['scenes'])}), got {', '.join(unknown)}. "
            "Choose among these, or train a study of your own: make reproduce SCENES=..., then study = 'latest'."
        )
    return Teaching(chosen) if study == "teaching" else Plan(chosen, made["seeds"], made["methods"], made["preset"])


def _note(study: str) -> dict:
    """What `write_note` wrote for a study."""
    presets = ("full", "quick") if study == "latest" else (study,)
    notes = [path for path in (files.results(preset) / NOTE for preset in presets) if path.is_file()]
    if not notes:
        raise PrsaError(
            f"expected a study in {files.results(presets[0])}, found no {NOTE}. Likely cause: none was made here yet. "
            "Fix: make reproduce (or make quick, in minutes), or study = 'teaching' for the runs that come with prsa."
        )
    return json.loads(max(notes, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8"))
