"""A trained network as one file: tensors in safetensors, and a JSON header that says what they are.

The header (key ``prsa`` of the file's metadata) holds ``format``, ``classes``, ``bands``, ``config``, ``card`` (see
`model_card`) and ``sha256`` of everything else, header and tensors. Opening a file never runs code from it: no pickle,
and the network is one that `prsa.config.METHODS` names. The same model gives the same bytes.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import xarray as xr

from .. import metrics
from ..config import METHODS, Config, make_config, named
from ..errors import PrsaError
from ..files import whole
from ..network.prsanet import PRSANet
from .sensors import check_model
from .windows import SceneSource

FORMAT = "prsa-model-1"
WIDEST = 1001  # pixels: windows of a stranger's file beyond this are refused before a network is made for them


def model_card(model, run: xr.Dataset, scene: xr.Dataset, split: xr.DataArray) -> dict:
    """What is known of a trained model beside itself, for `save_model` and for maps: plain texts, numbers and lists.

    ``run``: as `prsa.fit` returns it. Method, seed, preset and overrides; scene and split with their hashes; bands per
    modality, their names, wavelengths (nm), kind and units where the scene says so, mean and deviation of the training
    pixels; accuracy on the test pixels; versions.
    """
    source, counts = SceneSource(scene), run["confusion"].sel(head="fused", part="test").values
    statistics = getattr(model, "statistics", dict)()
    return {
        **{key: run.attrs[key] for key in ("method", "seed", "preset")},
        "overrides": json.loads(run.attrs["overrides"]),
        "scene": {
            key: run.attrs[f"scene{tail}"] for key, tail in (("name", ""), ("title", "_title"), ("hash", "_hash"))
        },
        "split": {key: split.attrs.get(key) for key in ("kind", "seed", "radius", "hash")},
        "modalities": {
            m: {
                "bands": model.bands[m],
                "names": source.names(m),
                "wavelength_nm": source.wavelengths(m),
                **{key: str(scene[m].attrs[key]) for key in ("kind", "units") if key in scene[m].attrs},
                **{key: values.tolist() for key, values in zip(("mean", "std"), statistics.get(m, ()))},
            }
            for m in model.modalities
        },
        "test": {"pixels": int(counts.sum())}
        | {
            name: float(value) if np.isfinite(value := measure(counts)) else None
            for name, measure in (("OA", metrics.oa), ("AA", metrics.aa), ("kappa", metrics.kappa))
        },
        "versions": json.loads(run.attrs["versions"]),
    }


def _digest(header: dict, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the header without its own hash, and of the tensors."""
    rest = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def save_model(model, path: str | os.PathLike) -> Path:
    """Write a network that `prsa.fit` returned, all or nothing; `load_model` gives it back, and with it the same maps.

    Raises `PrsaError` for a classical classifier and for a network that `prsa.fit` did not make.
    """
    check_model(model)
    path = Path(path)
    if not isinstance(model, torch.nn.Module):
        raise PrsaError(
            f"cannot save {type(model).__name__}: expected a network, got a classical classifier, for which "
            "scikit-learn has no file format that is safe to open. Fix: keep scene, split and seed, and fit it again "
            "with prsa.fit: it takes seconds and gives the same classifier."
        )
    if not hasattr(model, "card"):
        raise PrsaError(
            "cannot save this network: expected the attribute card, which fit writes, got none. Fix: train with "
            "prsa.fit, or set model.card = prsa.mapping.model_card(model, run, scene, split)."
        )
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "classes": model.classes,
        "bands": model.bands,
        "config": dataclasses.asdict(model.config),
        "card": model.card,
    }
    header["sha256"] = _digest(header, tensors)
    with whole(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, {"prsa": json.dumps(header, ensure_ascii=False)}))
    return path


def load_model(path: str | os.PathLike):
    """The network that `save_model` wrote, in eval mode on the CPU, with its ``card``.

    Raises `PrsaError` for a file that is missing, damaged, of another program, or of another version of the format.
    """
    path = Path(path)

    def refuse(got: str, advice: str, error: Exception | None = None):
        raise PrsaError(f"{path}: expected a model written by prsa.save_model, got {got}. {advice}") from error

    again = "Fix: copy the file again, or train and save the model again."
    try:
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("prsa")
            # Copies: inside the file they are not aligned as torch's own, and products differ in the last bit.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except FileNotFoundError as error:
        refuse("no such file", "Check the path.", error)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        what = f"what safetensors cannot read ({str(error)[:100]})"
        refuse(what, f"Likely causes: another kind of file, or an incomplete or damaged copy. {again}", error)
    if text is None:
        refuse("a safetensors file of another program", "Only models of prsa hold the classes and sensors of a map.")
    try:
        header = json.loads(text)
        if header["format"] != FORMAT:
            refuse(
                f"the format {header['format']!r} where this version reads {FORMAT!r}",
                "Fix: open it with the version of prsa that wrote it, or train and save the model again.",
            )
        if header["sha256"] != _digest(header, tensors):
            refuse("one whose contents are not those that were written", f"The file is damaged or changed. {again}")
        model = _build(header, tensors)
    except PrsaError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"a header or tensors that fit no network of this version ({type(error).__name__}: {str(error)[:200]})"
        refuse(what, f"Likely causes: a version of prsa with other networks, or a changed file. {again}", error)
    return model


def _build(header: dict, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network of a header with these tensors."""
    config, classes, bands = make_config("concat", **header["config"]), header["classes"], header["bands"]
    if set(header["config"]) != {field.name for field in dataclasses.fields(Config)}:
        raise ValueError("settings are missing")
    if config.network and config.network not in {settings.get("network") for settings in METHODS.values()}:
        raise PrsaError(
            f"the model is a network {config.network!r}, expected one that prsa.config.METHODS names: a file may not "
            "choose what code runs. Fix: if the network is your own, enter its method in METHODS first."
        )
    if max(config.patches(list(bands)).values()) > WIDEST:
        raise ValueError("windows too large")
    with torch.device("meta"):  # nothing is allocated for numbers that the file gives anyway
        model = (named("network", config.network) if config.network else PRSANet)(bands, classes, config)
    if {n: (t.dtype, t.shape) for n, t in model.state_dict().items()} != {
        n: (t.dtype, t.shape) for n, t in tensors.items()
    }:
        raise ValueError("other tensors than those of the network")
    model.load_state_dict(tensors, assign=True)
    model.card = _checked(header["card"], bands)
    return model.to(memory_format=torch.channels_last).eval()


def _checked(card: dict, bands: dict[str, int]) -> dict:
    """The card, if maps can rely on what it says."""
    good = list(card["modalities"]) == list(bands) and {"kind", "seed", "radius", "hash"} <= card["split"].keys()
    for m, n in bands.items():
        names, nm = card["modalities"][m]["names"], card["modalities"][m]["wavelength_nm"]
        good &= names is None or len(names) == n and all(isinstance(name, str) for name in names)
        good &= nm is None or np.array(nm, float).shape == (n,)
    if not good or not isinstance(card["scene"]["hash"], str):
        raise ValueError("a card of other sensors")
    return card
