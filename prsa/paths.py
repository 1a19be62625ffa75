"""The only place that knows the tree of the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"


def results(preset: str = "full") -> Path:
    """Folder of a preset's results; the quick preset never shares one with the full study.

    The environment variable ``PRSA_RESULTS`` moves both elsewhere (tests use it).
    """
    base = Path(os.environ.get("PRSA_RESULTS") or ROOT / "results").resolve()
    return base if preset == "full" else base / preset


def data() -> Path:
    """Folder of downloaded and cached scenes; the environment variable ``PRSA_DATA`` moves it."""
    return Path(os.environ.get("PRSA_DATA") or DATA).resolve()
