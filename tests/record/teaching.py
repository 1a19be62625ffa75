"""The runs to learn from: train them by the full settings, keep slim copies in ``results/reference/teaching``.

``PYTHONPATH=tests python -m record.teaching [JOBS]``: runs that a results folder has already are not trained again.
Large variables are blank in most copies, see `kept`; everything else is whole, and so is the identity.
"""

import sys

import xarray as xr

from prsa import files
from prsa.data.simulate import EMBEDDED, is_dial
from prsa.report.scores import FULL
from prsa.study import Plan, RunSpec, run
from prsa.study.runs import CLEAN, DIMS, assemble, load_run, save_run
from prsa.study.teaching import FOLDER, METHODS, SEEDS, Teaching

HEAVY = ("features", "sample_label", "map", "confidence", "prototypes")
SHOWN = {"concat": {"map", "confidence"}, "prsanet": {"map", "confidence", "features", "sample_label"}}  # of seed 0


def kept(spec: RunSpec) -> set[str]:
    """Variables of a run that its slim copy has."""
    rest = set(DIMS) - set(HEAVY)
    if is_dial(spec.scene):
        return rest - {"degraded_confusion"}
    shown = SHOWN.get(spec.method, set()) if spec.seed == 0 else set()
    return rest | shown | ({"prototypes"} if spec.method == FULL else set())


def slim(full: xr.Dataset, keep: set[str]) -> xr.Dataset:
    """A copy of a run in which all but these variables are blank; the attribute ``slim`` names those left out."""
    gone = sorted(set(DIMS) - keep)
    coords = {name: full[name].values for name in full.coords}
    if "degraded_confusion" in gone:
        coords["condition"] = [CLEAN]
    attrs = {name: value for name, value in full.attrs.items() if name != "content"}
    return assemble({name: full[name].values for name in keep}, coords, attrs | {"slim": " ".join(gone)})


def main(jobs: str = "2") -> int:
    """Train what is missing, write the slim copies, remove others; returns the exit code."""
    plan, teaching = Plan(list(EMBEDDED), SEEDS, list(METHODS)), Teaching(list(EMBEDDED))
    specs = list(dict.fromkeys([*teaching.specs, *teaching.dial]))
    run(plan, specs, int(jobs), "cpu")
    written = set()
    for spec in specs:
        path = plan.path(spec)
        out = FOLDER / f"{path.stem}.slim.nc"
        save_run(slim(load_run(path), kept(spec)), out)
        written.add(out)
    for old in {*FOLDER.glob("*.nc")} - written:
        old.unlink()
    size = sum(path.stat().st_size for path in written) / 2**20
    print(f"{len(written)} runs, {size:.1f} MiB in {FOLDER.relative_to(files.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
