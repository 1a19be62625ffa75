"""Every effect is worked out by hand from invented run files; the verdict is asked at the edges of its rule."""

import functools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from synthetic import counts, make_run

from prsa import metrics
from prsa.errors import PrsaError
from prsa.figures import claims_plots
from prsa.report import claims, tables

TWO, THREE = ("hsi", "sar"), ("hsi", "lidar", "rgb")
_BASE = {}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def run(
    method,
    seed,
    scene="one",
    names=TWO,
    oa=80.0,
    probe=(60.0, 40.0),
    rho=None,
    js=(0.3, 0.1),
    cka=0.5,
    eta2=0.4,
    direction=None,
    degraded=None,
    watched=None,
    **options,
):
    """A run file of two epochs with chosen numbers; rho and js are those of the last, and of the first and the last epoch.

    ``direction``: source -> cosine in both epochs, per modality; ``degraded``: condition -> OA in points; ``watched``: probe accuracy on validation
    pixels (epoch, modality), points.
    """
    key = method, scene, names, str(options)
    if key not in _BASE:
        _BASE[key] = make_run(scene, method, 0, names, classes=2, epochs=2, size=12, **options)
    one = _BASE[key].copy(deep=True)
    one["confusion"].loc[{"head": "fused", "part": "test"}] = counts(oa)
    one["probe_confusion"].values[:] = [counts(p) for p in probe]
    rho = rho or (1.0,) * len(names)
    one["rho"].values[:] = [rho[::-1], rho]  # the first epoch says the opposite
    one["js"].values[:] = js
    one["cka"], one["eta2"] = cka, eta2
    one["direction"].values[:] = 0.5
    for source, cosines in (direction or {}).items():
        one["direction"].loc[{"source": source}] = np.array([np.array(cosines) - 0.1, np.array(cosines) + 0.1])
    for condition in one["condition"].values.tolist():
        one["degraded_confusion"].loc[{"condition": condition}] = counts((degraded or {}).get(condition, 50.0))
    one["probe_accuracy"].loc[{"watched": "val"}] = np.array(watched or np.zeros((2, len(names)))) / 100
    return one.assign_attrs(seed=seed)


def rows(table, claim):
    return table[table["claim"].eq(claim)].set_index("measure")


def test_the_table_is_as_promised():
    table = claims.ledger([run("concat", s) for s in (0, 1)] + [run("late", s, probe=(62.0 + s, 41.0)) for s in (0, 1)])
    assert list(table.columns) == "claim,scene,measure,effect,lo,hi,n,verdict".split(",")
    assert set(table["claim"]) == {claims.STARVED, claims.FACTOR, claims.DIRECTION} and set(table["verdict"]) <= set(
        claims.VERDICTS
    )
    assert list(dict.fromkeys(table["claim"])) == [c for c in claims.CLAIMS if c in set(table["claim"])]
    assert all(claims.unit(m) in claims.SMALLEST for m in table["measure"])


def test_interval_worked_out_by_hand():
    """Gaps of 2 and 4 points: mean 3, sd sqrt(2), half width 12.706 sqrt(2) / sqrt(2)."""
    runs = [run("concat", s) for s in (0, 1)] + [run("late", s, probe=(62.0 + 2 * s, 40.0)) for s in (0, 1)]
    row = rows(claims.ledger(runs), claims.STARVED).loc["probe OA of hsi (slow): alone - in concat (points)"]
    assert (row["effect"], row["lo"], row["hi"], row["n"]) == (3.0, -9.706, 15.706, 2) and row[
        "verdict"
    ] == "not supported"


@pytest.mark.parametrize(
    "gap, expected",
    [
        ((2, 3, 4), "supported"),
        ((-2, -3, -4), "reversed"),
        ((1, 2, 3), "not supported"),
        ((-1, -2, -3), "not supported"),
    ],
)
def test_three_seeds_reach_a_verdict(gap, expected):
    """Means of 3 and 2 with sd 1: half width 4.303 / sqrt(3) = 2.484."""
    runs = [run("concat", s) for s in range(3)] + [run("late", s, probe=(60.0 + g, 40.0)) for s, g in enumerate(gap)]
    row = rows(claims.ledger(runs), claims.STARVED).loc["probe OA of hsi (slow): alone - in concat (points)"]
    assert row["verdict"] == expected and row["hi"] - row["effect"] == pytest.approx(2.484, abs=1e-3)


@pytest.mark.parametrize(
    "effect, lo, hi, n, smallest, expected",
    [
        (1.0, 0.001, 2.0, 2, 0.5, "supported"),
        (1.0, 0.0, 2.0, 2, 0.5, "not supported"),  # an interval that touches 0 holds it
        (0.5, 0.4, 0.6, 2, 0.5, "supported"),
        (0.499, 0.4, 0.6, 9, 0.5, "not supported"),  # surely positive, too small to matter
        (-1.0, -2.0, -0.001, 2, 0.5, "reversed"),
        (-0.01, -0.02, -0.005, 2, 0.5, "reversed"),  # a claim that states a gain is reversed by any loss
        (-1.0, -2.0, 0.0, 2, 0.5, "not supported"),
        (1.0, 0.5, 2.0, 1, 0.5, "not supported"),
        (-1.0, -2.0, -0.5, 1, 0.5, "not supported"),
        (1.0, np.nan, np.nan, 1, 0.0, "not supported"),
        (np.nan, np.nan, np.nan, 3, 0.0, "not supported"),
    ],
)
def test_verdict_at_the_edges_of_the_rule(effect, lo, hi, n, smallest, expected):
    assert claims.verdict(effect, lo, hi, n, smallest) == expected


def test_one_seed_supports_nothing():
    table = claims.ledger([run("concat", 0), run("late", 0, probe=(90.0, 90.0)), run("sagf", 0)])
    assert (
        table["n"].eq(1).all()
        and table["lo"].isna().all()
        and table["hi"].isna().all()
        and table["verdict"].eq("not supported").all()
    )
    assert rows(table, claims.STARVED)["effect"].tolist() == [30.0, 50.0] and claims.by_chance(table) == 0


def test_starved_is_alone_minus_joint_for_every_modality():
    runs = [run("concat", s, probe=(60.0, 40.0)) for s in range(3)] + [
        run("late", s, probe=(58.0, 47.0)) for s in range(3)
    ]
    found = rows(claims.ledger(runs), claims.STARVED)
    assert found["effect"].tolist() == [-2.0, 7.0] and found["verdict"].tolist() == ["reversed", "supported"]


@pytest.mark.parametrize(
    "rho, effect, expected",
    [((0.5, 1.0, 2.0), 10 - (4 + 1) / 2, "supported"), ((2.0, 1.0, 0.5), 1 - (10 + 4) / 2, "reversed")],
)
def test_the_factor_finds_the_gap_or_not(rho, effect, expected):
    """Gaps of 10, 4 and 1 points; the factor is lowest where the gap is largest, or smallest."""
    concat = [run("concat", s, "tri", THREE, probe=(60.0, 50.0, 40.0), rho=rho) for s in range(3)]
    late = [run("late", s, "tri", THREE, probe=(70.0, 54.0, 41.0)) for s in range(3)]
    row = rows(claims.ledger(concat + late), claims.FACTOR).loc["probe gap in concat: lowest factor - others (points)"]
    assert (row["scene"], row["effect"], row["n"], row["verdict"]) == ("tri", effect, 3, expected)


def test_the_factor_is_ranked_against_the_gap_epoch_by_epoch():
    """Factors (epoch, modality) 2, 0.5 then 0.5, 2. Gaps that are larger where the factor is lower: 1, 4 then 4, 1; correlation of the falling factor 1."""
    late = [run("late", s, watched=((61, 54), (64, 51))) for s in range(2)]
    concat = [run("concat", s, rho=(0.5, 2.0), watched=((60, 50), (60, 50))) for s in range(2)]
    row = rows(claims.ledger(late + concat), claims.FACTOR).loc[
        "factor falls with the gap over epochs (rank correlation)"
    ]
    assert row["effect"] == 1.0 and row["verdict"] == "supported"
    unwatched = [
        r.assign(probe_accuracy=r["probe_accuracy"] * np.nan) for r in concat
    ]  # a scene without validation pixels
    assert "factor falls with the gap over epochs (rank correlation)" not in set(
        claims.ledger(late + unwatched)["measure"]
    )


def test_the_factor_over_scenes_and_dial_is_one_correlation_per_seed():
    """At the end, factors and gaps of hsi and sar; the dial's scene counts here and nowhere else. Seed 2 is not there for every scene."""
    spec = {"one": ((0.5, 2.0), (9, 1)), "sim-sar:0:0.4": ((0.8, 1.25), (4, 2)), "two": ((1.0, 1.0), (3, 3))}
    runs = [
        r
        for scene, (rho, gap) in spec.items()
        for s in (0, 1)
        for r in (run("concat", s, scene, rho=rho), run("late", s, scene, probe=(60.0 + gap[0], 40.0 + gap[1])))
    ]
    extra = [run("concat", 2, "one", rho=(0.5, 2.0)), run("late", 2, "one", probe=(10.0, 90.0))]
    table = claims.ledger(runs + extra)
    (row,) = table[table["scene"].eq(claims.ALL)].itertuples()
    assert (
        row.claim == claims.FACTOR
        and row.n == 2
        and "sim-sar:0:0.4" not in set(table["scene"])
        and "sim-sar" not in set(table["scene"])
    )
    # factors 0.5 2 0.8 1.25 1 1 against gaps 9 1 4 2 3 3: the order is exactly opposite
    assert row.effect == 1.0 and (row.lo, row.hi) == (1.0, 1.0)
    assert not claims.ledger(runs[:4])["scene"].eq(claims.ALL).any()  # one scene needs no row over scenes


def test_scenes_of_a_kind_are_one_group_with_a_bootstrap_over_scenes_then_seeds():
    lead = {"sim-sar": (3.0, 5.0), "sim-sar:1": (-1.0, 2.0)}
    runs = [
        r
        for scene, values in lead.items()
        for s, d in enumerate(values)
        for r in (run("concat", s, scene), run("prsanet", s, scene, oa=80.0 + d))
    ]
    table = claims.ledger(runs)
    row = rows(table, claims.ACCURACY).loc["OA: prsanet - concat (points)"]
    _, lo, hi = metrics.hierarchical_bootstrap(np.array(list(lead.values())), np.random.default_rng(0))
    assert set(table["scene"]) == {"sim-sar"} and (row["effect"], row["n"]) == (2.25, 4)
    assert (row["lo"], row["hi"]) == (pytest.approx(lo, abs=1e-3), pytest.approx(hi, abs=1e-3))
    extra = [
        run("concat", 2, "sim-sar"),
        run("prsanet", 2, "sim-sar", oa=99.0),
    ]  # a seed that the other scene does not have
    assert rows(claims.ledger(runs + extra), claims.ACCURACY).loc["OA: prsanet - concat (points)", "effect"] == 2.25


def test_the_prototype_loss_is_judged_on_every_branch_and_marks_the_slow_one():
    runs = [run("concat", s, rho=(2.0, 0.5)) for s in range(3)] + [
        run("concat+prm", s, probe=(58.0, 49.0)) for s in range(3)
    ]
    found = rows(claims.ledger(runs), claims.PROTOTYPE)
    assert found.index.tolist() == [
        "probe OA of hsi (fast): concat+prm - concat (points)",
        "probe OA of sar (slow): concat+prm - concat (points)",
    ]
    assert found["effect"].tolist() == [-2.0, 9.0] and found["verdict"].tolist() == ["reversed", "supported"]


def test_direction_is_the_prototype_loss_against_the_fused_one_and_with_against_without():
    """Cosines are means over two epochs, which lie 0.1 below and above the number given."""
    concat = [
        run("concat", s, rho=(2.0, 0.5), direction={"fused": (0.3, 0.2), "prototype": (0.5, 0.1), "total": (0.3, 0.2)})
        for s in range(2)
    ]
    prm = [run("concat+prm", s, direction={"total": (0.7, 0.22)}) for s in range(2)]
    found = rows(claims.ledger(concat + prm), claims.DIRECTION)
    assert found["effect"].to_dict() == {
        "direction of hsi (fast) in concat: prototype - fused loss (cosine)": 0.2,
        "direction of sar (slow) in concat: prototype - fused loss (cosine)": -0.1,
        "direction of hsi (fast): concat+prm - concat (cosine)": 0.4,
        "direction of sar (slow): concat+prm - concat (cosine)": 0.02,
    }
    assert found["verdict"].tolist() == [
        "supported",
        "reversed",
        "supported",
        "not supported",
    ]  # 0.02 is too small to matter


def test_degraded_counts_the_strongest_setting_of_the_dominant_sensor():
    weak, strong = "hsi noise 0.5", "hsi noise 2"
    concat = [
        run("concat", s, degraded={weak: 90.0, strong: 40.0, "hsi missing": 20.0, "sar missing": 60.0})
        for s in range(2)
    ]
    ours = [
        run("prsanet", s, degraded={weak: 10.0, strong: 47.0, "hsi missing": 15.0, "sar missing": 61.0})
        for s in range(2)
    ]
    found = rows(claims.ledger(concat + ours), claims.DEGRADED)["effect"]
    assert found["OA, dominant sensor noise 2: prsanet - concat (points)"] == 7.0
    assert found["OA, dominant sensor missing: prsanet - concat (points)"] == -5.0
    assert len(found) == 4 and not found.index.str.contains("sar|0.5").any()


def test_the_modality_of_a_row_is_named_by_its_role_in_the_matrix():
    two = [run(m, s, "one", rho=(2.0, 0.5)) for m in ("concat", "late") for s in range(2)]
    three = [
        run(m, s, "tri", THREE, probe=(60.0, 50.0, 40.0), rho=(2.0, 0.5, 1.0))
        for m in ("concat", "late")
        for s in range(2)
    ]
    table = claims.matrix(claims.ledger(two + three))
    mine = table[table["claim"].eq(claims.STARVED)]
    assert list(mine["row"]) == [
        f"probe OA of the {role} branch: alone - in concat (points)"
        for role in ("fast", "slow", "fast", "slow", "middle")
    ]
    assert not table.duplicated(["claim", "row", "scene"]).any()


def test_balance_counts_doublings():
    """Factors of 4 and 1/2 are 2 and 1 doublings away, mean 1.5; with rebalancing 1 and 0, mean 0.5."""
    runs = [run("concat", s, rho=(4.0, 0.5)) for s in range(2)] + [
        run("concat+prm", s, rho=(2.0, 1.0)) for s in range(2)
    ]
    (row,) = rows(claims.ledger(runs), claims.BALANCE).itertuples()
    assert row.effect == 1.0 and row.verdict == "supported"


def test_correlation_with_the_categories_is_sagf_minus_concat():
    runs = [run("concat", s, cka=0.5, eta2=0.4) for s in range(2)] + [
        run("sagf", s, cka=0.625, eta2=0.395) for s in range(2)
    ]
    found = rows(claims.ledger(runs), claims.CATEGORIES)
    assert found.index.tolist() == ["linear CKA: sagf - concat (0 to 1)", "eta squared: sagf - concat (0 to 1)"]
    assert found["effect"].tolist() == [0.125, -0.005] and found["verdict"].tolist() == ["supported", "reversed"]


def test_agreement_never_compares_anchors_with_prototypes():
    spec = {
        "concat": (0.5, 0.4),
        "concat+prm": (0.5, 0.45),
        "sagf": (0.05, 0.2),
        "prsanet": (0.6, 0.1),
        "prsanet-no-alignment": (0.6, 0.15),
    }
    found = rows(
        claims.ledger([run(method, s, js=js) for method, js in spec.items() for s in range(2)]), claims.AGREEMENT
    )
    assert found["effect"].to_dict() == {
        "JS in sagf: first - last epoch (nats)": -0.15,
        "JS at the end: concat - concat+prm (nats)": -0.05,
        "JS at the end: prsanet-no-alignment - prsanet (nats)": 0.05,
    }
    assert found["verdict"].tolist() == ["reversed", "reversed", "supported"]


def test_accuracy_and_push_are_prsanet_minus_the_other():
    oa = {
        "late": 83.0,
        "concat": 79.0,
        "pmr": 78.0,
        "concat+prm": 81.0,
        "sagf": 81.8,
        "prsanet": 82.0,
        "prsanet-no-push": 82.5,
    }
    table = claims.ledger([run(method, s, oa=v) for method, v in oa.items() for s in range(2)])
    found = rows(table, claims.ACCURACY)
    assert found["effect"].to_dict() == {
        "OA: prsanet - concat (points)": 3.0,
        "OA: prsanet - late (points)": -1.0,
        "OA: prsanet - pmr (points)": 4.0,
        "OA: prsanet - concat+prm (points)": 1.0,
        "OA: prsanet - sagf (points)": 0.2,
    }
    assert found["verdict"].tolist() == [
        "supported",
        "reversed",
        "supported",
        "supported",
        "not supported",
    ]  # 0.2 points do not matter
    assert rows(table, claims.PUSH)["effect"].tolist() == [-0.5]


def test_claims_without_runs_are_left_out():
    assert set(claims.ledger([run("concat", 0), run("concat", 1)])["claim"]) == {
        claims.DIRECTION
    }  # which looks inside concat alone
    table = claims.ledger([run(m, s) for m in ("concat", "prsanet") for s in (0, 1)])
    assert set(table["claim"]) == {claims.PROTOTYPE, claims.DIRECTION, claims.ACCURACY, claims.DEGRADED}
    assert rows(table, claims.ACCURACY).index.tolist() == ["OA: prsanet - concat (points)"]


def test_a_scene_without_concat_keeps_what_needs_none():
    table = claims.ledger([run("concat", 0, "one"), run("prsanet", 0, "two"), run("sagf", 0, "two")])
    assert (
        set(table["scene"]) == {"one", "two"}
        and set(table[table["scene"].eq("one")]["claim"]) == {claims.DIRECTION}
        and "OA: prsanet - sagf (points)" in set(table["measure"])
    )


def test_only_seeds_of_both_sides_are_paired():
    runs = [run("concat", s, oa=70.0 + s) for s in (0, 1, 2)] + [run("prsanet", s, oa=75.0 + s) for s in (5, 2, 1)]
    (row,) = rows(claims.ledger(runs), claims.ACCURACY).itertuples()
    assert (row.effect, row.lo, row.hi, row.n) == (5.0, 5.0, 5.0, 2)


def test_unprobed_runs_variants_and_single_modalities_are_ignored():
    good = [run(m, s) for m in ("concat", "late") for s in (0, 1)]
    other = [
        run("concat", 0, probe=(10.0, 10.0), overrides={"lambda_p": 3.0}),
        make_run("one", "mft", 0, classes=2, epochs=2, size=12),
        *(run(m, 9).assign_attrs(probed=0) for m in ("concat", "late")),
        *(run(m, 8, "alone", ("hsi",), probe=(50.0,)) for m in ("concat", "late")),
    ]
    pd.testing.assert_frame_equal(claims.ledger(good + other), claims.ledger(good))


def test_no_concat_at_all_is_an_error_that_says_what_is_there():
    with pytest.raises(PrsaError, match="runs of concat.*got prsanet"):
        claims.ledger([run("prsanet", 0)])
    with pytest.raises(PrsaError, match="got none"):
        claims.ledger([])


def test_a_run_given_twice_is_an_error():
    with pytest.raises(PrsaError, match="twice"):
        claims.ledger([run("concat", 0), run("concat", 0)])


@functools.cache
def many():
    """Two scenes, the methods of the study, three seeds."""
    spec = {
        "late": (84.0, (65.0, 50.0)),
        "concat": (80.0, (60.0, 40.0)),
        "concat+prm": (82.0, (61.0, 45.0)),
        "sagf": (81.0, (59.0, 41.0)),
        "prsanet": (82.5, (61.0, 46.0)),
    }
    rng = np.random.default_rng(0)
    return [
        run(
            m,
            s,
            scene,
            oa=oa + rng.normal(),
            probe=tuple(p + rng.normal() for p in probe),
            rho=(1.6, 0.625),
            cka=0.5 + 0.02 * rng.random(),
        )
        for scene in ("one", "two")
        for m, (oa, probe) in spec.items()
        for s in range(3)
    ]


def test_order_of_runs_changes_nothing_but_the_order_of_scenes():
    runs = many()
    table = claims.ledger(runs)
    pd.testing.assert_frame_equal(
        table, claims.ledger(sorted(runs, key=lambda r: (r.attrs["scene"], -r.attrs["seed"])))
    )


def test_written_table_gives_the_same_verdicts(tmp_path):
    paths = claims.write(many(), tmp_path)
    assert [p.name for p in paths] == ["claims.csv", "claims.md"]
    table, back = claims.ledger(many()), pd.read_csv(paths[0])
    assert list(back.columns) == list(claims.COLUMNS) and len(back) == len(table)
    again = [
        claims.verdict(r.effect, r.lo, r.hi, r.n, claims.SMALLEST[claims.unit(r.measure)]) for r in back.itertuples()
    ]
    assert again == back["verdict"].tolist() == table["verdict"].tolist() and len(set(again)) > 1
    text = paths[1].read_text()
    assert claims.RULE in text and f"{len(table)} rows" in text and "Simulated scenes: one, two" in text
    assert text.count("\n| ") == len(table) + 2 and tables.readable(table).iloc[0]["effect"] in text


def test_nothing_is_written_when_nothing_can_be_said(tmp_path):
    with pytest.raises(PrsaError):
        claims.write([run("prsanet", 0)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_summary_and_rows_expected_by_chance():
    table = claims.ledger(many())
    counted = claims.summary(table)
    assert (
        counted["rows"].sum() == len(table)
        and counted[list(claims.VERDICTS)].sum(axis=1).tolist() == counted["rows"].tolist()
    )
    assert claims.by_chance(table) == pytest.approx(len(table) / 20)


def test_every_claim_says_what_is_compared():
    assert len(claims.CLAIMS) == 10 and all(len(text) > 40 for text in claims.CLAIMS.values())
    assert all(v in claims.RULE for v in claims.VERDICTS) and all(
        f"{u}: {s:g}" in claims.RULE for u, s in claims.SMALLEST.items()
    )


def test_forest_has_a_panel_per_unit_and_a_mark_per_row():
    table = claims.ledger(many())
    fig = claims_plots.forest(table)
    units = list(dict.fromkeys(map(claims.unit, table["measure"])))
    assert {ax.get_xlabel() for ax in fig.axes} == {claims_plots.AXES[u] for u in units}
    drawn = [bar for ax in fig.axes for bar in ax.containers]
    assert len(drawn) == len(table)
    points = next(ax for ax in fig.axes if ax.get_xlabel() == "effect (points)")
    mine = table[table["measure"].map(claims.unit).eq("points")]
    for bar, row in zip(points.containers, mine.itertuples()):
        assert (
            bar.lines[0].get_xdata()[0] == row.effect
            and to_hex(bar.lines[0].get_color()) == claims_plots.LOOKS[row.verdict][0].lower()
        )
        np.testing.assert_allclose(bar.lines[2][0].get_segments()[0][:, 0], [row.lo, row.hi])
    words = [t.get_text() for t in points.get_yticklabels()]
    assert words[0] == claims.STARVED and words[1] == "one   probe OA of hsi (fast): alone - in concat"
    assert len(words) == len(mine) + mine["claim"].nunique()


def test_forest_of_one_seed_has_no_bars_and_of_nothing_says_so():
    fig = claims_plots.forest(claims.ledger([run("concat", 0), run("late", 0)]))
    assert (
        not any(bar.has_xerr for ax in fig.axes for bar in ax.containers)
        and "no intervals" in fig.legends[0].get_title().get_text()
    )
    assert "no claim" in claims_plots.forest(claims.ledger([run("concat", 0)])[:0]).axes[0].texts[0].get_text()


def test_the_picture_of_verdicts_has_a_coloured_cell_per_row_of_the_ledger():
    table = claims.ledger(many())
    (ax,) = claims_plots.verdicts(table).axes
    assert len(ax.patches) == len(table) == len(ax.texts)
    colours = [to_hex(patch.get_facecolor()).upper() for patch in ax.patches]
    for verdict, colour in claims_plots.PALE.items():
        assert colours.count(colour.upper()) == table["verdict"].eq(verdict).sum()
    assert [t.get_text() for t in ax.get_xticklabels()] == list(dict.fromkeys(table["scene"]))
    first = table.iloc[0]
    assert (
        ax.texts[0].get_text() == f"{first['effect']:+.1f}"
        and ax.get_yticklabels()[1].get_text() == "probe OA of the fast branch: alone - in concat (points)"
    )
