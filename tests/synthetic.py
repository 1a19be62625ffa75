"""Invented but plausible scenes and run files, so that tables and figures can be tested without training."""

import functools
import json

import numpy as np
import xarray as xr

from prsa.config import METHODS
from prsa.report.scores import family
from prsa.study.runs import CLEAN, MISSING, PARTS, STRENGTHS, assemble, check_run

LONG_NAMES = (
    "trees,mostly grass,mixed ground surface,road,building shadow,buildings,sidewalk,yellow curb,"
    "non-residential buildings,unpaved parking lot,water,major thoroughfares"
).split(",")
KINDS = {
    "hsi": ("hyperspectral", 24, "1"),
    "sar": ("sar", 2, "dB"),
    "lidar": ("lidar", 1, "m"),
    "dsm": ("dsm", 1, "m"),
    "rgb": ("rgb", 6, "1"),
}
TERMS = ["fused", "alignment", "prototype", "auxiliary", "rebalancing"]
COST = {"cloud shadow": (0.05, 0.12, 0.3), "noise": (0.04, 0.1, 0.25), "band loss": (0.02, 0.06, 0.15)}  # of concat
SKILL = {"late": 0.66, "concat": 0.70, "concat+prm": 0.715, "sagf": 0.72, "prsanet": 0.75}
COMPARATORS = tuple(m for m in METHODS if family(m) in ("rebalancing", "network", "classical"))


def make_scene(name="sim-sar", modalities=("hsi", "sar"), classes=8, size=60, simulated=1, wavelength=True, seed=0):
    """Scene with rectangular fields and its split (fixed, column blocks)."""
    rng = np.random.default_rng(seed)
    field = rng.integers(0, classes + 1, (6, 6))
    field.flat[:classes] = np.arange(1, classes + 1)
    label = np.kron(field, np.ones((size // 6, size // 6), int)).astype(np.int16)
    data = {"label": (("y", "x"), label)}
    for m in modalities:
        kind, bands, units = KINDS[m]
        levels = rng.normal(size=(bands, classes + 1)).cumsum(0)
        values = levels[:, label] + 0.4 * rng.normal(size=(bands, size, size))
        if kind == "sar":
            values = 3 * values - 12
        if kind in ("lidar", "dsm"):
            values = 5 + 3 * values
        about = {"kind": kind, "units": units, "long_name": f"invented {m}"}
        data[m] = (f"{m}_band", "y", "x"), values.astype(np.float32), about
    attrs = {"schema": "prsa-scene-1", "title": f"Invented {name}", "class_names": json.dumps(LONG_NAMES[:classes])}
    attrs |= {"license": "MIT", "citation": "none", "simulated": simulated, "name": name}
    scene = xr.Dataset(data, attrs=attrs)
    if wavelength and "hsi" in modalities:
        scene = scene.assign_coords(wavelength=("hsi_band", np.linspace(400, 1000, KINDS["hsi"][1]), {"units": "nm"}))
    part = np.zeros((size, size), np.int8)
    part[:, : size // 2], part[:, size // 2 : 2 * size // 3], part[:, 2 * size // 3 :] = 1, 2, 3
    about = {"kind": "blocks", "hash": f"split of {name}", "seed": 0, "radius": 3}
    return scene, xr.DataArray(np.where(label > 0, part, 0).astype(np.int8), dims=("y", "x"), attrs=about)


def make_world(scenes, **options):
    """Scenes and splits by name; ``scenes``: name -> modalities."""
    made = {name: make_scene(name, modalities, **options) for name, modalities in scenes.items()}
    return {name: one for name, (one, _) in made.items()}, {name: split for name, (_, split) in made.items()}


def _confusion(rng, skill, totals):
    k = len(totals)
    miss = rng.dirichlet(np.ones(k), k)
    return np.stack([rng.multinomial(n, skill * np.eye(k)[i] + (1 - skill) * miss[i]) for i, n in enumerate(totals)])


def make_run(
    scene="sim-sar",
    method="prsanet",
    seed=0,
    modalities=("hsi", "sar"),
    classes=8,
    epochs=20,
    overrides=None,
    simulated=1,
    size=60,
    shift=0.0,
):
    """One run file as `prsa.study.runs` would hold it; ``shift`` moves its overall accuracy (fraction)."""
    overrides = overrides or {}
    rng = np.random.default_rng([seed, *method.encode(), *json.dumps(overrides).encode(), *scene.encode()])
    n_mod, features, samples = len(modalities), 16, 30 * classes
    prm = "prm" in method or "prsanet" in method
    alone = prm or method == "late"
    level = 0.60 + 0.01 * COMPARATORS.index(method) if method in COMPARATORS else SKILL.get(method, 0.73)
    skill = level + shift + 0.01 * rng.normal()
    counts = np.zeros((n_mod + 1, 3, classes, classes), np.int64)
    for h in range(n_mod + 1):
        level = skill if h == 0 else skill - (0.1 if alone else 0.15) * h
        for p, (bonus, n) in enumerate(((0.2, 60), (0.08, 20), (0.0, 80))):
            counts[h, p] = _confusion(rng, min(level + bonus, 0.99), np.full(classes, n) + 7 * np.arange(classes))
    full = np.full(classes, 80)
    probe = [_confusion(rng, skill - (0.08 if alone else 0.14) * (m + 1), full) for m in range(n_mod)]

    t = np.linspace(0, 1, epochs)
    rise = 1 - np.exp(-4 * t)
    speed = np.linspace(1, 0.75 if prm else 0.45, n_mod)
    s = 0.1 + 0.8 * rise[:, None] * speed + 0.01 * rng.normal(size=(epochs, n_mod))
    others = [np.delete(s, m, 1).mean(1) if n_mod > 1 else s[:, m] for m in range(n_mod)]
    branch = np.stack([s, s - 0.12 + 0.02 * rng.normal(size=s.shape)], 1)
    on = {"fused": True, "alignment": "sagf" in method or "prsanet" in method, "prototype": prm}
    loss = [(2 - 1.6 * rise) * (0.5 + 0.2 * i) if on.get(n) else np.full(epochs, np.nan) for i, n in enumerate(TERMS)]

    more = rng.spawn(1)[0]
    toward = np.array([0.4, 0.85, 0.8 if prm else 0.5])[:, None] + 0 * speed  # cosines (source, M), falling by a third
    share, dominant = 0.7 if alone else 1, modalities[0]
    lost = {CLEAN: 0.0}
    for kind, costs in COST.items():
        lost |= {f"{dominant} {kind} {strength:g}": share * v for strength, v in zip(STRENGTHS[kind], costs)}
    lost |= {f"{dominant} {MISSING}": share * 0.4} | {f"{m} {MISSING}": 0.15 for m in modalities[1:]}
    degraded = [_confusion(more, max(skill - v, 0), full) for v in lost.values()]

    labels = np.arange(samples) % classes + 1
    centres = rng.normal(size=(n_mod, classes, features))
    spread = (0.5 + 0.3 * np.arange(n_mod))[:, None, None]
    z = centres[:, labels - 1] + spread * rng.normal(size=(n_mod, samples, features))  # (M, n, D)
    base = make_scene(scene, modalities, classes, size)[0]["label"].values
    land = np.where((base > 0) & (rng.random((size, size)) < skill), base, rng.integers(1, classes + 1, (size, size)))
    sagf = method in ("sagf", "prsanet") or method.startswith("prsanet-no-p")
    fall = np.exp(-2 * t)[:, None] * speed[::-1]
    measured = {
        "grad_norm": 2 * fall + 0.02 * rng.random((epochs, n_mod)),
        "grad_cosine": 0.6 * speed - 0.5 * t[:, None] + 0.05 * rng.normal(size=(epochs, n_mod)),
        "direction": (1 - t / 3)[:, None, None] * toward + 0.02 * more.normal(size=(epochs, 3, n_mod)),
        "accuracy": np.stack([0.2 + 0.75 * rise, 0.2 + 0.6 * rise], 1) + 0.01 * rng.normal(size=(epochs, 2)),
        "cka": 0.62 + 0.12 * sagf + 0.02 * rng.normal(),
        "eta2": 0.41 + 0.1 * sagf + 0.02 * rng.normal(),
        "confidence": rng.beta(5, 2, (size, size)),
        "confusion": counts,
        "probe_confusion": np.stack(probe),
        "loss": np.stack(loss, 1),
        "s": s,
        "rho": s / np.stack(others, 1),
        "beta": np.clip(s.max(1, keepdims=True) / s - 1, 0, 1),
        "branch_accuracy": branch,
        "probe_accuracy": branch + 0.05,
        "degraded_confusion": np.stack(degraded),
        "js": 0.5 * np.exp(-3 * t) + 0.02,
        "prototypes": centres / np.linalg.norm(centres, axis=2, keepdims=True),
        "features": z.transpose(1, 0, 2),
        "sample_label": labels,
        "map": land,
    }
    names = LONG_NAMES[:classes]
    coords = {"epoch": np.arange(1, epochs + 1), "modality": list(modalities), "class": names, "predicted": names}
    coords |= {"head": ["fused", *modalities], "part": list(PARTS), "watched": ["train", "val"], "term": TERMS}
    coords |= {"source": ["fused", "prototype", "total"], "condition": list(lost)}
    probed = family(method) not in ("network", "classical")
    if not probed:  # as it is for a method without branches to look into
        coords |= {"head": ["fused"], "condition": [CLEAN]}
        measured = {name: measured[name] for name in ("accuracy", "loss", "map", "confidence")}
        measured["confusion"] = counts[:1]
    attrs = {"schema": "prsa-run-1", "run_id": f"{scene}-{method}-{seed}", "scene": scene, "method": method}
    attrs |= {"scene_title": f"Invented {scene}", "simulated": simulated, "seed": seed, "preset": "quick"}
    attrs |= {"variant": ",".join(f"{k}={v}" for k, v in sorted(overrides.items())), "overrides": json.dumps(overrides)}
    attrs |= {"config": json.dumps({"lambda_p": 1.0, "tau_p": 0.3, "fusion": "sagf"} | overrides), "scene_hash": "0"}
    attrs |= {"split_hash": f"split of {scene}", "split_kind": "blocks", "n_train": 500, "n_val": 100, "n_test": 700}
    attrs |= {"params": 41_000 + 100 * len(method), "macs_patch": 900_000, "macs_pixel": 50_000, "probed": int(probed)}
    attrs |= {"epoch_used": epochs, "seconds": 3.0 + seed, "samples_per_s": 2500.0, "versions": "{}"}
    return check_run(assemble(measured, coords, attrs))


def counts(points):
    """Two classes of 1000 pixels each, of which so many points (multiples of 0.1) are right."""
    right = round(10 * points)
    return np.array([[right, 1000 - right], [1000 - right, right]])


@functools.cache
def _base(method, scene, names, overrides, simulated):
    return make_run(scene, method, 0, names, 2, 2, json.loads(overrides), simulated, 12)


def chosen(
    method,
    seed=0,
    scene="one",
    names=("hsi", "sar"),
    oa=80.0,
    probe=(60.0, 40.0, 50.0),
    rho=(2.0, 0.5, 1.0),
    js=(0.3, 0.1),
    cka=0.5,
    eta2=0.4,
    direction=None,
    degraded=None,
    watched=None,
    overrides=None,
    simulated=1,
):
    """A run file of two epochs and two classes with these numbers; rho is that of the last epoch, js of both.

    ``direction``: source -> cosine per modality, mean over epochs; ``degraded``: condition -> OA in points;
    ``watched``: probe accuracy on validation pixels (epoch, modality), points.
    """
    run = _base(method, scene, tuple(names), json.dumps(overrides or {}), simulated).copy(deep=True)
    n = len(names)
    run["confusion"].loc[{"head": "fused", "part": "test"}] = counts(oa)
    run["probe_confusion"].values[:] = [counts(points) for points in probe[:n]]
    run["rho"].values[:] = [rho[:n][::-1], rho[:n]]  # the first epoch says the opposite
    run["js"].values[:] = js
    run["cka"], run["eta2"] = cka, eta2
    run["direction"].values[:] = 0.5
    for source, cosines in (direction or {}).items():
        run["direction"].loc[{"source": source}] = np.array([np.array(cosines) - 0.1, np.array(cosines) + 0.1])
    if degraded is not None:
        run = run.drop_vars(["degraded_confusion", "condition"]).assign_coords(condition=list(degraded))
        run["degraded_confusion"] = (
            ("condition", "class", "predicted"),
            np.stack([counts(v) for v in degraded.values()]),
        )
    run["probe_accuracy"].loc[{"watched": "val"}] = np.array(watched or np.zeros((2, n))) / 100
    return run.assign_attrs(seed=seed)


def make_study(
    scenes=None,
    seeds=5,
    methods=(*SKILL, "prsanet-no-alignment", "prsanet-no-prototype"),
    lambdas=(0.3, 3.0),
    **options,
):
    """Runs of a small grid; ``scenes``: name -> modalities."""
    runs = []
    for name, modalities in (scenes or {"sim-sar": ("hsi", "sar")}).items():
        for seed in range(seeds):
            runs += [make_run(name, method, seed, modalities, **options) for method in methods]
            for v in lambdas:
                more = {"overrides": {"lambda_p": v}, "shift": -0.02} | options
                runs.append(make_run(name, "prsanet", seed, modalities, **more))
    return runs
