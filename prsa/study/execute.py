"""How the runs of a plan are executed: what is missing, by an executor, each run written all or nothing."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from .. import files
from ..config import METHODS
from ..data.simulate import is_dial
from ..errors import PrsaError
from . import runs
from .plan import Plan, RunSpec, Source
from .pool import pool
from .progress import bar

_opened = lru_cache(maxsize=2)(Source)  # in a worker: large scenes must not pile up


def model_path(path: Path) -> Path:
    """Where the model of the run stored at ``path`` is kept, if it is."""
    return path.with_suffix(".safetensors")


def train(spec: RunSpec, path: Path, device: str = "auto", keep_model: bool = False) -> Path:
    """Train and store one run, unless another process did so in the meantime; its network too, if asked to."""
    import torch  # where it is needed only

    from ..mapping import save_model
    from .fit import fit

    torch.set_num_threads(1)  # whatever the environment says: sums in the order of one thread
    if runs.is_finished(path) and (not keep_model or model_path(path).is_file()):
        return path
    source = _opened(spec.scene)
    if source.path(spec).name != path.name:
        raise PrsaError(
            f"the scene {spec.scene} is no longer what was planned: the file, or the package, changed meanwhile. "
            "Fix: start again; in a notebook, make a new Plan."
        )
    split, changed = source.split(source.config(spec)), dict(spec.overrides)
    run, model = fit(source.scene, spec.method, split, spec.seed, spec.training_preset, device, None, False, **changed)
    if keep_model:
        save_model(model, model_path(path))
    return runs.save_run(run.assign_attrs(run_id=path.stem.rsplit("__", 1)[1]), path)


def run(
    plan: Plan,
    specs: list[RunSpec] | None = None,
    jobs: int | None = None,
    device: str = "auto",
    on_round: Callable[[int], None] | None = None,
    keep_models: bool = False,
    executor: Callable = pool,
) -> list[Path]:
    """Train what is missing of these runs (default: ``plan.specs``) and return all paths, in the order of ``specs``.

    ``jobs`` processes (default: the cores) with one thread each; ``on_round(seed)`` is called when all runs of a seed
    without overrides and outside the dial are there. ``keep_models``: store every network beside its run, for
    `prsa.load_model`; a finished run without it is trained again, to the same numbers. ``executor``: `pool`, or one of
    `prsa.study.cluster`. An interrupted call goes on where it stopped, and two at once do no harm. Raises `PrsaError`
    for jobs < 1, bad specs, a run that failed and workers that died.
    """
    specs = plan.specs if specs is None else specs
    if jobs is not None and jobs < 1:
        raise PrsaError(f"JOBS: expected 1 or more, got {jobs}.")
    where = {spec: plan.path(spec) for spec in specs}
    for folder in {path.parent for path in where.values()}:
        files.sweep(folder)
    # A classical classifier has no file that is safe to open.
    kept = {spec for spec in where if keep_models and "classifier" not in METHODS.get(spec.method, ())}
    missing = set(plan.missing(where))
    todo = [spec for spec in where if spec in missing or spec in kept and not model_path(where[spec]).is_file()]
    if not todo:
        return [where[spec] for spec in specs]
    rounds = {s.seed: {t for t in todo if t.seed == s.seed and not t.overrides and not is_dial(t.scene)} for s in todo}
    calls = [(spec, where[spec], device, spec in kept) for spec in todo]
    with bar(len(where), len(where) - len(todo)) as line, executor(train, plan, jobs, calls) as finished:
        for spec, state in finished:
            line.set_postfix_str(state, refresh=False)
            line.update()
            if spec in rounds[spec.seed]:
                rounds[spec.seed].remove(spec)
                if not rounds[spec.seed] and on_round:
                    on_round(spec.seed)
    return [where[spec] for spec in specs]
