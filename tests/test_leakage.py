"""The leakage audit against brute force, its tables against numbers worked out by hand, and its figures."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib import pyplot as plt
from record import leakage as leakage_record
from synthetic import make_run
from tiny import SMALL, make_scene

from prsa.data.splits import split_scene
from prsa.errors import PrsaError
from prsa.figures import leakage_plots
from prsa.report import leakage
from prsa.study.leakage import compare, thin


def as_split(part, kind="fixed"):
    part = np.asarray(part, np.int8)
    return xr.DataArray(part, dims=("y", "x"), attrs={"kind": kind, "hash": hashlib.sha256(part.tobytes()).hexdigest()})


def as_run(scene, split, predicted, seed=0, method="concat", patch=3, **attrs):
    run = make_run(scene.attrs["name"], method, seed, size=6)[["confusion", "prototypes"]].assign(
        map=(("y", "x"), np.asarray(predicted, np.uint8))
    )
    return run.assign_attrs(
        split_hash=split.attrs["hash"],
        split_kind=split.attrs["kind"],
        config=f'{{"patch": {patch}}}',
        simulated=1,
        **attrs,
    )


@pytest.fixture
def line():
    """One row of ten labelled pixels: training at 0, validation at 1 and 9, test at 2, 3, 5 and 8. Predictions are right at 2, 3 and 8."""
    scene = make_scene(shape=(1, 10))
    scene["label"].values[:] = 1
    split = as_split([[1, 2, 3, 3, 0, 3, 0, 0, 3, 2]])
    predicted = [[1, 1, 1, 1, 1, 2, 1, 1, 1, 1]]
    return scene, split, predicted


@pytest.mark.parametrize("kind", ["random", "blocks"])
@pytest.mark.parametrize("radius", [1, 3])
def test_shares_equal_a_loop_over_windows(kind, radius):
    scene = make_scene()
    split = split_scene(scene, kind, seed=1, radius=2)
    part = split.values
    found = leakage.audit(scene, split, radius)
    for code, share in ((3, found["share_overlap"]), (2, found["share_val_overlap"])):
        held = [
            (part[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] == 1).any()
            for y, x in np.argwhere(part == code)
        ]
        assert share == pytest.approx(np.mean(held))
    assert found["n_test"] == (part == 3).sum()
    if kind == "blocks":
        assert (found["share_overlap"] == 0) == (radius <= 2)
    else:
        assert found["share_overlap"] > 0.9


def test_distance_is_chebyshev_to_the_nearest_training_pixel():
    split = as_split(np.where(np.random.default_rng(0).random((9, 13)) < 0.05, 1, 3))
    train = np.argwhere(split.values == 1)
    expected = [[min(max(abs(y - a), abs(x - b)) for a, b in train) for x in range(13)] for y in range(9)]
    np.testing.assert_array_equal(leakage.distance_to_training(split), expected)


def test_accuracy_of_leaking_and_clean_pixels(line):
    scene, split, predicted = line
    found = leakage.audit(scene, split, 2, predicted)
    assert found == {
        "n_test": 4,
        "share_overlap": 0.25,
        "share_val_overlap": 0.5,
        "distance_median": 4.0,
        "oa_all": 75.0,
        "oa_clean": pytest.approx(200 / 3),
        "oa_overlap": 100.0,
    }
    assert np.isnan(leakage.audit(scene, split, 1, predicted)["oa_overlap"])


def test_table_holds_mean_and_spread_over_seeds_and_marks_random_as_leaking(line):
    scene, split, predicted = line
    other = as_split([[1, 0, 3, 3, 0, 3, 0, 0, 3, 2]], "random")
    runs = [
        as_run(scene, split, predicted, 0),
        as_run(scene, split, [[1] * 10], 1),
        as_run(scene, other, predicted, 0),
        as_run(scene, split, [[2] * 10], 2, variant="lambda_p=3.0"),
    ]  # a sensitivity run is no row
    for order in (runs, runs[::-1]):
        table = leakage.leakage(order, {"tiny": scene}, [split, other])
        assert table.columns.tolist() == list(leakage.COLUMNS) and table["split_kind"].tolist() == [
            "fixed",
            "random (leaking)",
        ]
        row = table.iloc[0]
        assert (
            row["n_seeds"],
            row["radius"],
            row["n_train"],
            row["n_test"],
            row["share_overlap"],
            row["share_val_overlap"],
        ) == (2, 1, 1, 4, 0, 0.5)
        assert (
            row["oa_all_mean"] == 87.5
            and row["oa_all_sd"] == pytest.approx(25 / np.sqrt(2))
            and np.isnan(row["oa_overlap_mean"])
        )
        assert np.isnan(table.iloc[1]["oa_all_sd"])


def test_accuracy_by_distance_is_binned_exactly(line, monkeypatch):
    scene, split, predicted = line
    monkeypatch.setattr(leakage, "FEW", 1)
    table = leakage.by_distance(
        [as_run(scene, split, predicted, 0), as_run(scene, split, [[1] * 10], 1)], {"tiny": scene}, [split]
    )
    assert table[["nearest", "farthest", "n_test", "oa_mean"]].to_numpy().tolist() == [
        [2, 2, 1, 100],
        [3, 3, 1, 100],
        [4, 5, 1, 50],
        [8, 11, 1, 100],
    ]
    far = as_split([[0, 0, 1, 0, 0, 0, 0, 0, 3, 3]])
    table = leakage.by_distance(
        [as_run(scene, split, predicted, s) for s in (0, 1, 2)] + [as_run(scene, far, [[1] * 10], 3)],
        {"tiny": scene},
        [split, far],
    )
    assert table[["nearest", "n_seeds"]].to_numpy().tolist() == [
        [2, 3],
        [3, 3],
        [4, 3],
        [8, 3],
    ]  # one seed in four reaches 6 to 7
    monkeypatch.setattr(leakage, "FEW", 2)
    assert leakage.by_distance([as_run(scene, split, predicted)], {"tiny": scene}, [split]).empty


def test_what_does_not_belong_together_is_refused(line):
    scene, split, predicted = line
    run = as_run(scene, split, predicted)
    with pytest.raises(PrsaError, match="split of hash"):
        leakage.leakage([run], {"tiny": scene}, [])
    with pytest.raises(PrsaError, match="one patch size, got radii \\[1, 2\\]"):
        leakage.leakage([run, as_run(scene, split, predicted, 1, patch=5)], {"tiny": scene}, [split])
    with pytest.raises(PrsaError, match="scene's grid"):
        leakage.audit(scene, split, 1, np.ones((10, 1)))
    with pytest.raises(PrsaError, match="training pixels"):
        leakage.audit(scene, as_split(split.values * (split.values > 1)), 1)


def test_thinning_takes_training_pixels_only_and_as_many_as_told():
    scene = make_scene()
    split, label = split_scene(scene, "random"), scene["label"].values
    thinned = thin(split, label, np.array([3, 5, 7, 10_000]), seed=0)
    counts = [int(((thinned.values == 1) & (label == k)).sum()) for k in (1, 2, 3, 4)]
    assert counts == [3, 5, 7, int(((split.values == 1) & (label == 4)).sum())]
    np.testing.assert_array_equal(thinned.values > 1, split.values > 1)
    assert thinned.attrs["hash"] == hashlib.sha256(thinned.values.tobytes()).hexdigest() != split.attrs["hash"]
    assert split.values.sum() != thinned.values.sum()
    assert (thin(split, label, np.array([3] * 4), 0).values != thin(split, label, np.array([3] * 4), 1).values).any()


def test_comparison_trains_both_kinds_on_equally_many_pixels_of_each_class(monkeypatch):
    scene = make_scene(noise=2.0)
    seen = []
    runs, splits = compare(scene, seeds=2, preset="quick", device="cpu", on_run=seen.append, **SMALL)
    assert [(r.attrs["split_kind"], r.attrs["seed"]) for r in runs] == [
        ("random", 0),
        ("blocks", 0),
        ("random", 1),
        ("blocks", 1),
    ] and len(seen) == 4
    label = scene["label"].values
    for a, b in ((0, 1), (2, 3)):
        assert [((splits[a].values == 1) & (label == k)).sum() for k in (1, 2, 3, 4)] == [
            ((splits[b].values == 1) & (label == k)).sum() for k in (1, 2, 3, 4)
        ]
    assert splits[1].attrs["hash"] != splits[3].attrs["hash"]
    table = leakage.leakage(runs, {"tiny": scene}, splits)
    blocks, random = (table[table["split_kind"] == kind].iloc[0] for kind in ("blocks", "random (leaking)"))
    assert blocks["share_overlap"] == 0 and random["share_overlap"] > 0.9 and blocks["n_train"] == random["n_train"]
    counts = runs[0]["confusion"].sel(head="fused", part="test").values
    assert leakage.audit(scene, splits[0], 2, runs[0]["map"].values)["oa_all"] == pytest.approx(
        100 * counts.trace() / counts.sum()
    )
    with pytest.raises(PrsaError, match="1 or more"):
        compare(scene, seeds=0)


def figure_tables():
    base = {"scene": "s", "simulated": 0, "method": "concat", "radius": 3}
    table = pd.DataFrame(
        [
            base | {"split_kind": k, "share_overlap": s, "oa_all_mean": oa, "oa_all_sd": 1.0}
            for k, s, oa in (("blocks", 0.0, 84.5), ("random (leaking)", 0.996, 95.7))
        ]
    )
    distances = pd.DataFrame(
        [
            base | {"split_kind": k, "nearest": d, "oa_mean": oa, "oa_sd": sd}
            for k, d, oa, sd in (
                ("blocks", 4, 87.0, 2.0),
                ("blocks", 16, 80.0, np.nan),
                ("random (leaking)", 1, 96.0, 0.5),
            )
        ]
    )
    return table, distances


def test_warning_figure_shows_the_numbers_and_the_label():
    fig = leakage_plots.warning(*figure_tables())
    left, right = fig.axes[:2]
    assert [bar.get_height() for bar in left.patches] == [95.7, 84.5]
    assert [t.get_text() for t in left.get_xticklabels()] == ["random\n(leaking)", "blocks"]
    assert {"95.7", "84.5", "99.6 %\nleak", "0 %\nleak"} <= {t.get_text() for t in left.texts}
    assert {t.get_text() for t in fig.legends[0].get_texts()} == {"random (leaking)", "blocks"}
    shade = right.patches[0].get_extents().transformed(right.transData.inverted())
    assert shade.x1 == pytest.approx(3.5)
    plt.close(fig)


def test_distance_figure_draws_what_the_table_holds_and_asks_when_it_is_not_one_scene():
    _, distances = figure_tables()
    ax = leakage_plots.accuracy_against_distance(distances)
    drawn = {c.get_label(): c.lines[0].get_xydata().tolist() for c in ax.containers}
    assert drawn == {"blocks": [[4, 87], [16, 80]], "random (leaking)": [[1, 96]]}
    plt.close(ax.figure)
    two = pd.concat([distances, distances.assign(method="prsanet")])
    with pytest.raises(PrsaError, match="one scene and method"):
        leakage_plots.accuracy_against_distance(two)
    plt.close(leakage_plots.accuracy_against_distance(two, method="prsanet").figure)


def test_command_line_writes_tables_and_figure_or_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PRSA_RESULTS", str(tmp_path))
    monkeypatch.setattr("prsa.scene.open_scene", lambda source: make_scene())
    monkeypatch.setattr(
        leakage_record,
        "compare",
        lambda scene, seeds, method, preset, device, on_run, real=compare: real(
            scene, seeds, method, preset, device, on_run, **SMALL
        ),
    )
    assert leakage_record.main(["tiny", "--seeds", "1", "--preset", "quick"]) == 0
    folder = tmp_path / "quick" / "leakage" / "tiny"
    assert sorted(p.name for p in folder.iterdir()) == [
        "leakage.csv",
        "leakage.pdf",
        "leakage.png",
        "leakage_by_distance.csv",
    ]
    assert pd.read_csv(folder / "leakage.csv")["split_kind"].tolist() == ["blocks", "random (leaking)"]
    assert "random (leaking), seed 0: OA" in capsys.readouterr().out
    assert leakage_record.main(["tiny", "--method", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown method")


@pytest.mark.parametrize("real_scene", ["muufl_crop"], indirect=True)
def test_random_beats_blocks_on_a_real_scene(real_scene):
    scene = real_scene
    runs, splits = compare(scene, seeds=1, device="cpu", width=16, features=16, epochs=6)
    table = leakage.leakage(runs, {scene.attrs["name"]: scene}, splits).set_index("split_kind")
    assert table.loc["random (leaking)", "share_overlap"] > 0.95 and table.loc["blocks", "share_overlap"] == 0
    assert table.loc["random (leaking)", "oa_all_mean"] > table.loc["blocks", "oa_all_mean"]
