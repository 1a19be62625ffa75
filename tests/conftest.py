"""Fixtures of the core's tests: tiny scenes, and the real ones where the machine has them."""

import os
from pathlib import Path

import pytest
import torch
from tiny import make_scene

from prsa.data.sources import open_scene

LONG = "test_cluster test_reproduce test_course 03_train test_figures 01_data test_data test_mapping test_study".split()


def pytest_collection_modifyitems(items):
    """The longest files first: with a process per file, none of them is left alone at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums in the order of one thread: what the study's processes do, and fast for tiny tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two():
    """Tiny scene of two modalities, 40 x 48 pixels, 6 + 2 bands, 4 classes, no split of its own."""
    return make_scene()


@pytest.fixture
def three():
    """The same with a third modality of one band."""
    return make_scene(("hsi", "sar", "dsm"))


@pytest.fixture(params=["muufl_crop", "idtrees"])
def real_scene(request):
    """A real scene from the folder in PRSA_REAL_SCENES."""
    folder = os.environ.get("PRSA_REAL_SCENES")
    path = Path(folder or "", f"{request.param}.nc")
    if not folder or not path.is_file():
        pytest.skip(f"no {request.param}.nc: set PRSA_REAL_SCENES to a folder with the real scenes")
    return open_scene(path)
