"""Every setting of a run in one frozen dataclass, the presets, and what a method switches on."""

import dataclasses
import json
import pkgutil
from dataclasses import dataclass

from .errors import PrsaError


@dataclass(frozen=True)
class Config:
    """Defaults are the concatenation baseline: every term of PRSANet is off. Equations: `prsa.network`."""

    # encoders, eq. (1)
    patch: int | str = 7  # odd window side in pixels; "hsi=7,lidar=11" sets it per modality
    width: int = 64  # channels of the hidden layers
    features: int = 64  # D, size of z^m
    # fusion
    fusion: str = "concat"  # one of prsa.network.fusion.FUSIONS, or "late": networks trained apart, eq. (21)
    tau_s: float = 0.1  # temperature of the edges S, eq. (2)
    vote: float = 0.0  # v of eq. (17), at prediction only
    # objective, eq. (16)
    lambda_sa: float = 0.0  # weight of the semantic alignment loss, eq. (8)
    lambda_p: float = 0.0  # weight of the intermodal independent prototype loss, eq. (14)
    lambda_aux: float = 0.0  # weight of the auxiliary heads, eq. (15)
    base: float = 0.0  # b of eq. (14)
    rebalance: bool = True  # let the imbalance factor add beta_m, eq. (13), to b
    rule: str = "prsa.training.rule:Rule"  # "module:class" that balances the modalities; the default is PRM
    strength: float = 0.0  # the one own setting of another rule: its alpha, gamma, weight or probability
    tau_p: float = 0.3  # temperature of the prototype classifier, eq. (10)
    momentum: float = 0.9  # mu of the prototypes, eq. (9)
    metric: str = "cosine"  # or "euclidean", PMR's form of eq. (9) and (10)
    # comparators in the place of encoders and fusion
    network: str = ""  # "module:class" of a published network, see prsa.comparators.networks
    classifier: str = ""  # "module:function" of a classical classifier, see prsa.comparators.classical
    spatial: bool = False  # classical classifiers: add local statistics and morphological profiles to the bands
    # training
    epochs: int = 20
    max_steps: int = 300  # fewer epochs where they would take more steps than this; 0 = no limit
    batch: int = 128
    lr: float = 4e-3  # peak of the one-cycle schedule
    weight_decay: float = 1e-2

    def patches(self, modalities: list[str]) -> dict[str, int]:
        """Window side per modality. Raises `PrsaError` when one is not an odd number >= 3 or names no modality."""
        sides = dict.fromkeys(modalities, 7)
        if isinstance(self.patch, int):
            sides = dict.fromkeys(modalities, self.patch)
        else:
            for item in self.patch.split(","):
                name, _, side = item.rpartition("=")
                if name.strip() not in sides or not side.strip().isdecimal():
                    raise PrsaError(f"patch={self.patch!r}: expected 'modality=side,...' with modalities {modalities}.")
                sides[name.strip()] = int(side)
        for name, side in sides.items():
            if side < 3 or side % 2 == 0:
                raise PrsaError(f"patch of {name}: expected an odd window side >= 3, got {side}.")
        return sides


PRESETS: dict[str, dict] = {
    "full": {},
    "quick": {"epochs": 6},
    "benchmark": {"epochs": 150, "patch": 11, "max_steps": 0},  # full-size public scenes
}

_PRM = {"lambda_p": 1.0, "base": 1.0}
_SAGF = {"fusion": "sagf", "lambda_sa": 0.3}
_PRSANET = _SAGF | _PRM | {"lambda_p": 0.3, "vote": 1.0}
_PMR = {"lambda_p": 3.0, "metric": "euclidean"}
_RULES = "prsa.comparators.rebalancing:"
_NETWORKS = "prsa.comparators.networks:"
_CLASSICAL = "prsa.comparators.classical:"
METHODS: dict[str, dict] = {
    "late": {"fusion": "late", "lambda_aux": 1.0},
    "concat": {},
    "concat+prm": _PRM,
    "sagf": _SAGF,
    "prsanet": _PRSANET,
    "prsanet-no-alignment": _PRSANET | {"lambda_sa": 0.0},
    "prsanet-no-push": _PRSANET | {"rebalance": False},
    "prsanet-no-base": _PRSANET | {"base": 0.0},
    "prsanet-no-vote": _PRSANET | {"vote": 0.0},
    # plain fusions, to compare with the concatenation and the graph: every term of PRSANet off
    "sum": {"fusion": "sum"},
    "gated": {"fusion": "gated"},
    "cross-attention": {"fusion": "cross-attention"},
    # rebalancing methods on the encoders and the concatenation of all others
    "aux": {"lambda_aux": 0.3},
    "ogm-ge": {"rule": _RULES + "OgmGe", "strength": 0.1},
    "pmr": _PMR | {"rule": _RULES + "Pmr", "strength": 0.01},
    "pmr-code": _PMR | {"rule": _RULES + "PmrCode", "momentum": 0.2, "strength": 2 / 3},
    "mmpareto": {"rule": _RULES + "MMPareto", "lambda_aux": 1.0, "strength": 1.5},
    "js": {"rule": _RULES + "BranchAgreement", "lambda_aux": 1.0, "strength": 0.1},
    "modality-dropout": {"rule": _RULES + "ModalityDropout", "strength": 0.1},
    # published networks
    "endnet": {"network": _NETWORKS + "EndNet", "lr": 1e-2},
    "coupled-cnn": {"network": _NETWORKS + "CoupledCNN"},
    "s2enet": {"network": _NETWORKS + "S2ENet", "lr": 1.5e-3},
    "mft": {"network": _NETWORKS + "MFT"},
    # classical classifiers of single pixels
    "rf": {"classifier": _CLASSICAL + "random_forest"},
    "svm": {"classifier": _CLASSICAL + "rbf_svm"},
    "rf-spatial": {"classifier": _CLASSICAL + "random_forest", "spatial": True},
    "svm-spatial": {"classifier": _CLASSICAL + "rbf_svm", "spatial": True},
}

_LEAST = dict.fromkeys(("width", "features", "epochs"), (1, "1 or more"))
_LEAST |= dict.fromkeys(("tau_s", "tau_p", "lr"), (1e-30, "more than 0"))
_LEAST["batch"] = 2, "2 or more, as batch normalisation needs them"


def make_config(method: str = "prsanet", preset: str = "full", **overrides) -> Config:
    """Preset, then method, then overrides. Raises `PrsaError` for an unknown name and a wrong type or number."""
    if preset not in PRESETS:
        raise PrsaError(f"unknown preset {preset!r}. Expected one of {', '.join(PRESETS)}.")
    if method not in METHODS:
        raise PrsaError(f"unknown method {method!r}. Expected one of {', '.join(METHODS)}.")
    known = {f.name: f.default for f in dataclasses.fields(Config)}
    for key, value in overrides.items():
        if key not in known:
            raise PrsaError(f"unknown setting {key!r}. Expected one of {', '.join(known)}.")
        kinds = (int, str) if key == "patch" else (int, float) if isinstance(known[key], float) else type(known[key])
        if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(known[key], bool)):
            raise PrsaError(f"setting {key}: expected {type(known[key]).__name__}, got {value!r}.")
        least, what = _LEAST.get(key, (0, "0 or more"))
        if not isinstance(value, str) and key != "strength" and not least <= value < float("inf"):
            raise PrsaError(f"setting {key}: expected {what}, got {value}.")
    return Config(**(PRESETS[preset] | METHODS[method] | overrides))


def named(setting: str, name: str, base: type | None = None):
    """The function, or class below ``base``, that "module:name" stands for. Raises `PrsaError` when there is none."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PrsaError(
            f"setting {setting}: expected 'module:name' of a class or function, got {name!r} ({error})."
        ) from error
    if not (callable(found) if base is None else isinstance(found, type) and issubclass(found, base)):
        wanted = f"a subclass of {base.__module__}.{base.__name__}" if base else "a function"
        raise PrsaError(f"setting {setting}: expected {wanted}, got {name!r}, which is {found!r:.200}.")
    return found


def to_json(config: Config) -> str:
    """Canonical text of a config: sorted keys, so that it can be hashed."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)
