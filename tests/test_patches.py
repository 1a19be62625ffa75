"""Patch gathering, border reflection, symmetries and normalisation against numpy."""

import numpy as np
import pytest
import torch
from tiny import make_scene

from prsa.data.patches import PatchSource, band_statistics, dihedral_offsets, normalise, reflect_index, upload
from prsa.errors import PrsaError

SIDES = {"hsi": 7, "sar": 3, "dsm": 5}


@pytest.mark.parametrize("size", [2, 3, 5, 48])
@pytest.mark.parametrize("before, after", [(0, 0), (1, 1), (3, 5), (11, 9), (0, 7)])
def test_reflect_index_is_numpys_reflect(size, before, after):
    np.testing.assert_array_equal(
        reflect_index(-before, size + after, size), np.pad(np.arange(size), (before, after), "reflect")
    )


def test_reflect_index_of_a_part_and_of_a_single_pixel():
    whole = reflect_index(-6, 20, 9)
    for start in range(-6, 15):
        np.testing.assert_array_equal(reflect_index(start, start + 5, 9), whole[start + 6 : start + 11])
    assert not reflect_index(-3, 4, 1).any(), "a raster of one row repeats it"


@pytest.mark.parametrize("side, stride", [(3, 3), (3, 10), (5, 54), (7, 13)])
def test_offsets_are_the_eight_symmetries_of_the_square(side, stride):
    found, r = dihedral_offsets(side, stride), side // 2
    image = np.arange(side * side).reshape(side, side)  # no symmetry of its own
    flat = np.array([(dy + r) * side + dx + r for dy in range(-r, r + 1) for dx in range(-r, r + 1)])
    value = {dy * stride + dx: (dy + r) * side + dx + r for dy in range(-r, r + 1) for dx in range(-r, r + 1)}
    shown = {tuple(value[o] for o in row) for row in found}
    wanted = {tuple(np.rot90(w, k).ravel()) for w in (image, image.T) for k in range(4)}
    assert found.shape == (8, side * side) and shown == wanted and len(wanted) == 8
    assert [value[o] for o in found[0]] == flat.tolist(), "symmetry 0 leaves the window as it is"


def naive_window(scene, name, side, y, x, mean, std):
    """(C, side, side) around a pixel, pixel by pixel."""
    height, width, r = scene.sizes["y"], scene.sizes["x"], side // 2
    window = np.zeros((scene[name].shape[0], side, side), np.float32)

    def fold(i, n):
        while not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i

    for i in range(side):
        for j in range(side):
            window[:, i, j] = (scene[name].values[:, fold(y + i - r, height), fold(x + j - r, width)] - mean) / std
    return np.where(np.isnan(window), 0, window)


@pytest.fixture
def source():
    """Scene with no-data, statistics, centres that include all corners, and their patches."""
    scene = make_scene(("hsi", "sar", "dsm"), shape=(13, 11))
    scene["hsi"].values[2, 4:6, 3] = np.nan
    scene["sar"].values[:, 0, 0] = np.nan
    train = np.random.default_rng(0).random((13, 11)) < 0.4
    statistics = {m: band_statistics(scene, m, train) for m in SIDES}
    centres = np.array([0, 10, 12 * 11, 13 * 11 - 1, 5 * 11 + 4, 5 * 11 + 5, 3, 8 * 11])
    return scene, statistics, centres, PatchSource(scene, SIDES, statistics, centres)


def test_gather_against_naive_windows(source):
    scene, statistics, centres, patches = source
    index = torch.tensor([3, 0, 0, 5, 1, 7, 2, 6, 4])
    batch = patches.gather(index)
    for name, side in SIDES.items():
        assert batch[name].shape == (9, scene[name].shape[0], side, side) and batch[name].dtype == torch.float32
        for b, i in enumerate(index.tolist()):
            wanted = naive_window(scene, name, side, *divmod(int(centres[i]), 11), *statistics[name])
            np.testing.assert_array_equal(batch[name][b].numpy(), wanted, err_msg=f"{name} {i}")


def test_symmetries_turn_the_whole_window_of_every_modality_alike(source):
    scene, statistics, centres, patches = source
    for i in (4, 5):  # away from the border, whose reflection is symmetric
        plain = {m: w[0].numpy() for m, w in patches.gather(torch.tensor([i])).items()}
        turned = patches.gather(torch.full((8,), i), torch.arange(8))
        by_symmetry = {}
        for name in SIDES:
            images = {
                f"{flip}{k}": np.rot90(w, k, (1, 2))
                for flip, w in (("", plain[name]), ("mirror ", plain[name][:, :, ::-1]))
                for k in range(4)
            }
            for symmetry in range(8):
                names = {
                    label for label, image in images.items() if np.array_equal(image, turned[name][symmetry].numpy())
                }
                assert names, f"symmetry {symmetry} of {name} is no symmetry of the square"
                by_symmetry.setdefault(symmetry, names)
                by_symmetry[symmetry] = by_symmetry[symmetry] & names
        assert all(len(names) == 1 for names in by_symmetry.values()), "modalities must turn together"
        assert len(set().union(*by_symmetry.values())) == 8


def test_only_needed_pixels_are_kept():
    scene = make_scene(shape=(60, 60))
    statistics = {m: band_statistics(scene, m, np.ones((60, 60), bool)) for m in ("hsi", "sar")}
    patches = PatchSource(scene, {"hsi": 5, "sar": 3}, statistics, np.array([30 * 60 + 30, 30 * 60 + 31]))
    assert patches.tables["hsi"].shape == (30, 6) and patches.tables["sar"].shape == (12, 2)


def test_band_statistics_leave_no_data_and_other_pixels_out():
    scene = make_scene()
    train = np.random.default_rng(1).random((40, 48)) < 0.3
    scene["hsi"].values[1][np.random.default_rng(2).random((40, 48)) < 0.5] = np.nan
    scene["hsi"].values[:, ~train] += 1e4
    scene["hsi"].values[3] = 7.0
    mean, std = band_statistics(scene, "hsi", train)
    assert mean.dtype == std.dtype == np.float32
    for c in range(6):
        used = [float(v) for v in scene["hsi"].values[c][train] if not np.isnan(v)]
        m = sum(used) / len(used)
        assert mean[c] == pytest.approx(m, rel=1e-6)
        assert std[c] == pytest.approx(
            1.0 if c == 3 else (sum((v - m) ** 2 for v in used) / len(used)) ** 0.5, rel=1e-6
        )


def test_a_band_without_data_on_training_pixels_is_an_error():
    scene, train = make_scene(), np.zeros((40, 48), bool)
    train[:10] = True
    scene["sar"].values[1, :10] = np.nan
    with pytest.raises(PrsaError, match=r"modality sar: expected data.*got only no-data in band\(s\) \[1\]. Drop"):
        band_statistics(scene, "sar", train)


def test_normalise_puts_no_data_at_the_mean():
    values = torch.tensor([[1.0, torch.nan], [5.0, 4.0]])
    assert normalise(values, torch.tensor([3.0, 0.0]), torch.tensor([2.0, 8.0])).tolist() == [[-1.0, 0.0], [1.0, 0.5]]


def test_upload_waits_for_nobody_on_a_gpu():
    """Pinned memory and a copy that does not block; elsewhere a plain copy."""
    calls = []

    class Drawn:
        def pin_memory(self):
            calls.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            calls.append((device.type, non_blocking))
            return "there"

    assert upload(Drawn(), torch.device("cuda")) == "there" and calls == ["pinned", ("cuda", True)]
    values = torch.arange(3)
    assert torch.equal(upload(values, torch.device("cpu")), values)
