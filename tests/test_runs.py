"""The run file: identity, schema, and that no damage goes unseen."""

import json
import os

import numpy as np
import pytest
import xarray as xr
from synthetic import make_run
from tiny import SMALL, make_scene

from prsa import fit, split_scene
from prsa.config import make_config, to_json
from prsa.errors import PrsaError
from prsa.study.runs import ATTRS, COORDS, DIMS, FORMAT, check_run, is_finished, load_run, run_id, save_run


@pytest.fixture(scope="module")
def run():
    """A run as training leaves it, small."""
    scene = make_scene(("hsi", "sar", "dsm"))
    made, _ = fit(scene, "prsanet", split_scene(scene, "random"), 0, "quick", "cpu", **SMALL)
    made.attrs["run_id"] = "0123456789abcdef"
    return made


@pytest.mark.parametrize("kind", ["trained", "invented"])
def test_round_trip(tmp_path, run, kind):
    run = run if kind == "trained" else make_run().assign_attrs(epoch_used=3)
    path = save_run(run, tmp_path / "deep" / "a.nc")
    back = load_run(path)
    assert set(back.variables) == set(run.variables) and back.sizes == run.sizes
    for name in run.variables:
        assert back[name].dims == run[name].dims
        np.testing.assert_array_equal(back[name].values, run[name].values, err_msg=name)
        if name in DIMS and kind == "trained":
            assert back[name].dtype == run[name].dtype, name
    assert {k: back.attrs[k] for k in run.attrs} == run.attrs and is_finished(path)
    xr.testing.assert_identical(load_run(save_run(back, tmp_path / "b.nc")), back)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["a.nc", "b.nc"]


def test_a_trained_run_follows_the_schema(run):
    check_run(run)
    assert set(run.data_vars) == set(DIMS) and set(COORDS) <= set(run.coords) and set(ATTRS) <= set(run.attrs)
    assert json.loads(run.attrs["overrides"]) == SMALL and json.loads(run.attrs["config"])["epochs"] == SMALL["epochs"]
    assert list(run["head"].values) == ["fused", "hsi", "sar", "dsm"] and list(run["part"].values) == [
        "train",
        "val",
        "test",
    ]
    assert all(not isinstance(v, (bool, dict, list)) and v is not None for v in run.attrs.values()), (
        "netCDF refuses these"
    )


@pytest.mark.parametrize("name", [*DIMS, *COORDS, *ATTRS])
def test_anything_missing_is_named(tmp_path, run, name):
    broken = run.drop_vars(name) if name in run.variables else run.copy()
    broken.attrs = {k: v for k, v in run.attrs.items() if k != name}
    with pytest.raises(PrsaError, match=f"a.nc: expected the .*got none named {name}. Delete the file"):
        save_run(broken, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())
    broken.to_netcdf(tmp_path / "a.nc", **FORMAT)
    with pytest.raises(PrsaError, match=name):
        load_run(tmp_path / "a.nc")


@pytest.mark.parametrize("name", [n for n, dims in DIMS.items() if len(dims) > 1])
def test_transposed_variables_are_refused(run, name):
    dims = DIMS[name]
    with pytest.raises(PrsaError, match=f"expected {name} with dims"):
        check_run(run.assign({name: run[name].transpose(*dims[::-1])}))


def test_missing_file(tmp_path):
    with pytest.raises(PrsaError, match="expected a run file at .*a.nc, found none"):
        load_run(tmp_path / "a.nc")
    assert not is_finished(tmp_path / "a.nc") and not is_finished(tmp_path)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.7, 0.95, 0.999])
def test_a_truncated_file_is_damaged(tmp_path, run, share):
    path = save_run(run, tmp_path / "a.nc")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert not is_finished(path)
    with pytest.raises(PrsaError, match="a.nc is damaged.*trained anew"):
        load_run(path)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # h5netcdf closing what it could not open
def test_no_flipped_byte_changes_a_run_unseen(tmp_path, run):
    """Wherever a byte flips, the file is refused or reads exactly as before (padding)."""
    path = save_run(run, tmp_path / "a.nc")
    whole, wanted, refused = path.read_bytes(), load_run(path), 0
    places = np.unique(
        np.concatenate(
            [np.linspace(0, len(whole) - 1, 40).astype(int), np.random.default_rng(0).integers(0, len(whole), 20)]
        )
    )
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            back = load_run(path)
        except PrsaError:
            refused += 1
            continue
        try:
            xr.testing.assert_equal(back, wanted)
            assert back.attrs == wanted.attrs
        except AssertionError as error:
            raise AssertionError(f"byte {place} of {len(whole)} changed what is read: {error}") from None
    assert refused > 0.3 * len(places), "most of a file is content"


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r["confusion"].values.__setitem__((0, 2, 0, 0), 10**6),
        lambda r: r["map"].values.__setitem__((0, 0), 9),
        lambda r: r["prototypes"].values.__imul__(1.0001),
        lambda r: r.attrs.update(seed=7),
        lambda r: r.attrs.update(config="{}"),
        lambda r: r.update({"modality": ["a", "b", "c"]}),
        lambda r: r.attrs.update(content="0" * 64),
        lambda r: r.attrs.pop("content"),
    ],
)
def test_an_edited_file_does_not_pass_for_the_run(tmp_path, run, edit):
    back = load_run(save_run(run, tmp_path / "a.nc")).copy(deep=True)
    edit(back)
    back.to_netcdf(tmp_path / "a.nc", **FORMAT)
    assert not is_finished(tmp_path / "a.nc")


def test_a_failing_write_leaves_the_old_run(tmp_path, run, monkeypatch):
    path = save_run(run, tmp_path / "a.nc")
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError):
        save_run(run, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_identity_moves_with_everything_that_makes_a_run():
    config = to_json(make_config("prsanet"))
    base = config, "prsanet", 0, "scene", "split"
    others = [
        (to_json(make_config("prsanet", lambda_p=0.5)), *base[1:]),
        (config, "sagf", *base[2:]),
        (*base[:2], 1, *base[3:]),
        (*base[:3], "scenf", "split"),
        (*base[:4], "spliu"),
        (*base[:3], "split", "scene"),
    ]
    identities = {run_id(*o) for o in [base, *others]}
    assert len(identities) == 7 and all(len(i) == 16 and int(i, 16) >= 0 for i in identities)
    shuffled = json.dumps(dict(reversed(json.loads(config).items())))
    assert run_id(*base) == run_id(shuffled, *base[1:]), "the order of the settings is no part of a run"


def test_identity_moves_with_the_schema_and_the_code(monkeypatch):
    base = "{}", "prsanet", 0, "scene", "split"
    first = run_id(*base)
    for name, value in (("SCHEMA", "prsa-run-2"), ("CODE", -1)):
        monkeypatch.setattr(f"prsa.runs.{name}", value)
        assert run_id(*base) != first
        monkeypatch.undo()
