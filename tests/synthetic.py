"""Invented but plausible scenes and run files, so that tables and figures can be tested without training."""

import json

import numpy as np
import xarray as xr

from prsa.config import METHODS

LONG_NAMES = [
    "trees",
    "mostly grass",
    "mixed ground surface",
    "road",
    "building shadow",
    "buildings",
    "sidewalk",
    "yellow curb",
    "non-residential buildings",
    "unpaved parking lot",
    "water",
    "major thoroughfares",
]
KINDS = {
    "hsi": ("hyperspectral", 24, "1"),
    "sar": ("sar", 2, "dB"),
    "lidar": ("lidar", 1, "m"),
    "dsm": ("dsm", 1, "m"),
    "rgb": ("rgb", 6, "1"),
}
TERMS = ["fused", "alignment", "prototype", "auxiliary", "rebalancing"]
DEGRADED = {
    "cloud shadow": ((0.3, 0.05), (0.6, 0.12), (0.9, 0.3)),
    "noise": ((0.5, 0.04), (1, 0.1), (2, 0.25)),
    "band loss": ((0.25, 0.02), (0.5, 0.06), (0.75, 0.15)),
    "missing": ((None, 0.4),),
}  # strength and the accuracy it costs concat
SKILL = {"late": 0.66, "concat": 0.70, "concat+prm": 0.715, "sagf": 0.72, "prsanet": 0.75}
COMPARATORS = tuple(name for name in METHODS if name not in SKILL and not name.startswith("prsanet-no-"))


def make_scene(name="sim-sar", modalities=("hsi", "sar"), classes=8, size=60, simulated=1, wavelength=True, seed=0):
    """Scene with rectangular fields and its split (fixed, column blocks)."""
    rng = np.random.default_rng(seed)
    field = rng.integers(0, classes + 1, (6, 6))
    field.flat[:classes] = np.arange(1, classes + 1)
    label = np.kron(field, np.ones((size // 6, size // 6), int)).astype(np.int16)
    data = {}
    for m in modalities:
        kind, bands, units = KINDS[m]
        levels = rng.normal(size=(bands, classes + 1)).cumsum(0)
        values = levels[:, label] + 0.4 * rng.normal(size=(bands, size, size))
        if kind == "sar":
            values = 3 * values - 12
        if kind in ("lidar", "dsm"):
            values = 5 + 3 * values
        data[m] = (
            (f"{m}_band", "y", "x"),
            values.astype(np.float32),
            {"kind": kind, "units": units, "long_name": f"invented {m}"},
        )
    data["label"] = ("y", "x"), label
    scene = xr.Dataset(
        data,
        attrs={
            "schema": "prsa-scene-1",
            "title": f"Invented {name}",
            "class_names": json.dumps(LONG_NAMES[:classes]),
            "license": "MIT",
            "citation": "none",
            "simulated": simulated,
            "name": name,
        },
    )
    if wavelength and "hsi" in modalities:
        scene = scene.assign_coords(wavelength=("hsi_band", np.linspace(400, 1000, KINDS["hsi"][1]), {"units": "nm"}))
    part = np.zeros((size, size), np.int8)
    part[:, : size // 2], part[:, size // 2 : 2 * size // 3], part[:, 2 * size // 3 :] = 1, 2, 3
    split = xr.DataArray(
        np.where(label > 0, part, 0).astype(np.int8),
        dims=("y", "x"),
        attrs={"kind": "blocks", "hash": f"split of {name}", "seed": 0, "radius": 3},
    )
    return scene, split


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
    head, names = ["fused", *modalities], LONG_NAMES[:classes]
    prm = "prm" in method or "prsanet" in method
    level = 0.60 + 0.01 * COMPARATORS.index(method) if method in COMPARATORS else SKILL.get(method, 0.73)
    skill = level + shift + 0.01 * rng.normal()
    counts = np.zeros((n_mod + 1, 3, classes, classes), np.int64)
    for h in range(n_mod + 1):
        level = skill if h == 0 else skill - (0.1 if prm or method == "late" else 0.15) * h
        for p, (bonus, n) in enumerate(((0.2, 60), (0.08, 20), (0.0, 80))):
            counts[h, p] = _confusion(rng, min(level + bonus, 0.99), np.full(classes, n) + 7 * np.arange(classes))
    probe = np.stack(
        [
            _confusion(rng, skill - (0.08 if prm or method == "late" else 0.14) * (m + 1), np.full(classes, 80))
            for m in range(n_mod)
        ]
    )

    t = np.linspace(0, 1, epochs)
    rise = 1 - np.exp(-4 * t)
    speed = np.linspace(1, 0.75 if prm else 0.45, n_mod)
    s = 0.1 + 0.8 * rise[:, None] * speed + 0.01 * rng.normal(size=(epochs, n_mod))
    rho = (
        np.stack([s[:, m] / np.delete(s, m, 1).mean(1) for m in range(n_mod)], 1) if n_mod > 1 else np.ones((epochs, 1))
    )
    beta = np.clip(s.max(1, keepdims=True) / s - 1, 0, 1)
    branch = np.stack([s, s - 0.12 + 0.02 * rng.normal(size=s.shape)], 1)
    on = {
        "fused": True,
        "alignment": "sagf" in method or "prsanet" in method,
        "prototype": prm,
        "auxiliary": False,
        "rebalancing": False,
    }
    loss = np.stack(
        [(2 - 1.6 * rise) * (0.5 + 0.2 * i) if on[term] else np.full(epochs, np.nan) for i, term in enumerate(TERMS)], 1
    )

    more = rng.spawn(1)[0]
    toward = np.array([0.4, 0.85, 0.8 if prm else 0.5])[:, None] + 0 * speed  # cosines (source, M), falling by a third
    share = 0.7 if prm or method == "late" else 1
    loss_of = (
        {"none": 0.0}
        | {
            f"{modalities[0]} {kind}" + (f" {strength:g}" if strength else ""): share * cost
            for kind, costs in DEGRADED.items()
            for strength, cost in costs
        }
        | {f"{m} missing": 0.15 for m in modalities[1:]}
    )
    degraded = np.stack([_confusion(more, max(skill - lost, 0), np.full(classes, 80)) for lost in loss_of.values()])

    labels = np.arange(samples) % classes + 1
    centres = rng.normal(size=(n_mod, classes, features))
    z = centres[:, labels - 1] + (0.5 + 0.3 * np.arange(n_mod))[:, None, None] * rng.normal(
        size=(n_mod, samples, features)
    )
    prototypes = centres / np.linalg.norm(centres, axis=2, keepdims=True)
    base = make_scene(scene, modalities, classes, size)[0]["label"].values
    land = np.where((base > 0) & (rng.random((size, size)) < skill), base, rng.integers(1, classes + 1, (size, size)))
    sagf = method in ("sagf", "prsanet") or method.startswith("prsanet-no-p")
    run = xr.Dataset(
        {
            "confusion": (("head", "part", "class", "predicted"), counts),
            "probe_confusion": (("modality", "class", "predicted"), probe),
            "loss": (("epoch", "term"), loss),
            "s": (("epoch", "modality"), s),
            "rho": (("epoch", "modality"), rho),
            "beta": (("epoch", "modality"), beta),
            "grad_norm": (
                ("epoch", "modality"),
                2 * np.exp(-2 * t)[:, None] * speed[::-1] + 0.02 * rng.random((epochs, n_mod)),
            ),
            "grad_cosine": (
                ("epoch", "modality"),
                0.6 * speed - 0.5 * t[:, None] + 0.05 * rng.normal(size=(epochs, n_mod)),
            ),
            "branch_accuracy": (("epoch", "watched", "modality"), branch),
            "probe_accuracy": (("epoch", "watched", "modality"), branch + 0.05),
            "direction": (
                ("epoch", "source", "modality"),
                (1 - t / 3)[:, None, None] * toward + 0.02 * more.normal(size=(epochs, 3, n_mod)),
            ),
            "degraded_confusion": (("condition", "class", "predicted"), degraded),
            "accuracy": (
                ("epoch", "watched"),
                np.stack([0.2 + 0.75 * rise, 0.2 + 0.6 * rise], 1) + 0.01 * rng.normal(size=(epochs, 2)),
            ),
            "js": (("epoch",), 0.5 * np.exp(-3 * t) + 0.02),
            "prototypes": (("modality", "class", "feature"), prototypes),
            "features": (("sample", "modality", "feature"), z.transpose(1, 0, 2)),
            "fused_features": (("sample", "fused_feature"), z.transpose(1, 0, 2).reshape(samples, -1)),
            "sample_label": (("sample",), labels),
            "cka": ((), 0.62 + 0.12 * sagf + 0.02 * rng.normal()),
            "eta2": ((), 0.41 + 0.1 * sagf + 0.02 * rng.normal()),
            "map": (("y", "x"), land.astype(np.uint8)),
            "confidence": (("y", "x"), rng.beta(5, 2, (size, size)).astype(np.float32)),
        },
        coords={
            "epoch": np.arange(1, epochs + 1),
            "modality": list(modalities),
            "class": names,
            "predicted": names,
            "head": head,
            "part": ["train", "val", "test"],
            "watched": ["train", "val"],
            "term": TERMS,
            "source": ["fused", "prototype", "total"],
            "condition": list(loss_of),
        },
        attrs={
            "schema": "prsa-run-1",
            "run_id": f"{scene}-{method}-{seed}",
            "scene": scene,
            "scene_title": f"Invented {scene}",
            "simulated": simulated,
            "method": method,
            "variant": ",".join(f"{k}={v}" for k, v in sorted(overrides.items())),
            "overrides": json.dumps(overrides),
            "seed": seed,
            "preset": "quick",
            "config": json.dumps({"lambda_p": 1.0, "tau_p": 0.3, "fusion": "sagf"} | overrides),
            "scene_hash": "0",
            "split_hash": f"split of {scene}",
            "split_kind": "blocks",
            "n_train": 500,
            "n_val": 100,
            "n_test": 700,
            "params": 41_000 + 100 * len(method),
            "macs_patch": 900_000,
            "macs_pixel": 50_000,
            "probed": 1,
            "epoch_used": epochs,
            "seconds": 3.0 + seed,
            "samples_per_s": 2500.0,
            "versions": "{}",
        },
    )
    own = METHODS.get(method, {})
    return _unprobed(run, 0 if "classifier" in own else epochs) if "classifier" in own or "network" in own else run


def _unprobed(run, epochs):
    """The run as it is for a method without branches to look into, with a history of so many epochs."""
    run = run.isel(epoch=slice(epochs), sample=slice(0), feature=slice(0), fused_feature=slice(0)).sel(
        head=["fused"], condition=["none"]
    )
    curves = (
        "s",
        "rho",
        "beta",
        "grad_norm",
        "grad_cosine",
        "branch_accuracy",
        "probe_accuracy",
        "direction",
        "js",
        "cka",
        "eta2",
    )
    unknown = {name: run[name] * np.nan for name in curves}
    return run.assign(
        unknown | {name: 0 * run[name] for name in ("probe_confusion", "degraded_confusion")}
    ).assign_attrs(probed=0, epoch_used=epochs)


def counts(points):
    """Two classes of 1000 pixels each, of which so many points (multiples of 0.1) are right."""
    right = round(10 * points)
    return np.array([[right, 1000 - right], [1000 - right, right]])


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
            runs += [
                make_run(name, "prsanet", seed, modalities, overrides={"lambda_p": v}, shift=-0.02, **options)
                for v in lambdas
            ]
    return runs
