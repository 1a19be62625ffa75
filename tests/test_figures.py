"""Figures are tested by what they show: numbers in marks and lines, scales, names, colours for every eye, files."""

import subprocess
import sys
import warnings

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from synthetic import COMPARATORS, LONG_NAMES, SKILL, make_run, make_scene, make_study, make_world

from prsa import figures, files, metrics, report
from prsa.config import METHODS
from prsa.data.landscape import NAMES
from prsa.data.simulate import CONFIGS
from prsa.errors import PrsaError
from prsa.figures import demo, scenes, style, tables, training
from prsa.report.claims import unit
from prsa.report.diagnostics import area_drift
from prsa.report.intervals import critical_difference, summarise
from prsa.report.scores import probe_oa

TWO, THREE = ("hsi", "sar"), ("hsi", "lidar", "rgb")
REFERENCE = files.ROOT / "results" / "reference" / "tables"


@pytest.fixture(scope="module")
def runs():
    return make_study(seeds=3)


@pytest.fixture(scope="module")
def tri():
    return make_study({"plots": THREE}, seeds=1, classes=12)


@pytest.fixture(scope="module")
def made(runs):
    """The tables of three seeds on one scene."""
    return report.make_all(runs, *make_world({"sim-sar": TWO}))


@pytest.fixture(scope="module")
def many():
    """The tables of all methods on three scenes with two seeds."""
    places = {"sim-sar": TWO, "plots": ("hsi", "lidar"), "other": TWO}
    some = make_study(places, 2, (*SKILL, *COMPARATORS), (), size=24)
    return report.make_all(some, *make_world(places, size=24))


@pytest.fixture(scope="module")
def reference():
    """The tables that git keeps of the full study."""
    found = {path.stem: pd.read_csv(path) for path in REFERENCE.glob("*.csv")}
    return found | {name: found[name].fillna({"modality": ""}) for name in ("dial", "robustness")}


def of(runs, method):
    return [r for r in runs if r.attrs["method"] == method and not r.attrs["variant"]]


def mean_of(runs, method, variable, **where):
    return np.mean([r[variable].sel(where).values for r in of(runs, method)], axis=0)


def entries(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title(figure):
    return figure.legends[0].get_title().get_text()


def bars(container, axis):
    """Both ends of every bar, (n, 2), NaN where there is none."""
    ends = [np.reshape(segment, (-1, 2))[:, axis] for segment in container.lines[2][0].get_segments()]
    return np.array([end if end.size else (np.nan, np.nan) for end in ends])


def rows(ax):
    """Label -> (mark, low, high) of a panel of rows, from top to bottom; of shared rows the first panel has labels."""
    labels = [t.get_text() for t in ax.get_yticklabels()] or [t.get_text() for t in ax.figure.axes[0].get_yticklabels()]
    place = {len(labels) - 1 - k: label for k, label in enumerate(labels)}
    marks = {place[bar.lines[0].get_ydata()[0]]: bar for bar in ax.containers}
    return {label: (bar.lines[0].get_xdata()[0], *bars(bar, 0)[0]) for label, bar in marks.items()}


def lines(ax):
    """Colour and marker of every line with error bars -> x, y, ends of its bars."""
    return {
        (bar.lines[0].get_color(), bar.lines[0].get_marker()): (*bar.lines[0].get_data(orig=False), bars(bar, 1))
        for bar in ax.containers
    }


def key(look):
    return look["color"], look["marker"]


# Colours


def ciede2000(one, two):
    """Difference of two colours in CIELAB: Sharma, Wu and Dalal, Color Research and Application 30 (2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 1.5 - 0.5 * np.sqrt(c**7 / (c**7 + 25**7))
    c1, c2 = np.hypot(g * a1, b1), np.hypot(g * a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, g * a1)) % 360, np.degrees(np.arctan2(b2, g * a2)) % 360
    turn = 0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if c1 * c2 == 0 else (h1 + turn / 2) % 360
    lightness, chroma = (l1 + l2) / 2 - 50, (c1 + c2) / 2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    t = 1 + sum(w * np.cos(np.radians(n * h + shift)) for w, n, shift in waves)
    dl = (l2 - l1) / (1 + 0.015 * lightness**2 / np.sqrt(20 + lightness**2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    angle = np.radians(60 * np.exp(-(((h - 275) / 25) ** 2)))
    return np.sqrt(dl**2 + dc**2 + dh**2 - 2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(angle) * dc * dh)


@pytest.mark.parametrize(
    "one, two, difference",  # of the data published with the paper
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ],
)
def test_the_measure_of_colour_differences_gives_the_published_numbers(one, two, difference):
    assert ciede2000(one, two) == pytest.approx(difference, abs=1e-4) == ciede2000(two, one)


def lab(colour, eye):
    rgb = np.array(to_rgb(colour))
    linear = np.clip(eye @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1, 1.089]]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


EYES = (
    np.eye(3),
    np.array(  # the second is a deuteranope's: Machado, Oliveira and Fernandes 2009, severity 1, linear RGB
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
)


def closest(colours):
    """The smallest difference between any two colours, for either eye, and the two."""
    pairs = [(a, b) for i, a in enumerate(colours) for b in colours[:i]]
    return min((ciede2000(lab(a, eye), lab(b, eye)), a, b) for a, b in pairs for eye in EYES)


@pytest.mark.parametrize(
    "looks",
    [
        [style.FUSED, *style.looks_of(["hsi", "sar", "lidar", "rgb", "dem", "thermal"]).values()],
        [style.FUSED, *style.looks_of(["lidar", "dsm", "chm", "ms", "hsi"]).values()],
        [*style.looks_of([m for m in METHODS if m in style.METHODS]).values()],
        [*style.looks_of(METHODS).values()],
        [look for look, _ in style.FAMILIES.values()],
        [look for look, _ in tables.VERDICTS.values()],
        [*tables.SPLITS.values()],
        [*style.class_looks(NAMES).values()],
        [*style.class_looks(NAMES, dash=False).values()],
        [*style.class_looks(LONG_NAMES).values()],
    ],
)
def test_all_that_can_meet_in_a_figure_of_lines_or_marks_is_told_apart_by_a_deuteranope(looks):
    for i, one in enumerate(looks):
        for two in looks[:i]:
            other = (one["linestyle"], one["marker"]) != (two["linestyle"], two["marker"])
            assert other or closest([one["color"], two["color"]])[0] >= 20, (one, two)


def test_colours_of_the_study_do_not_lean_on_markers_alone():
    for known in (style.METHODS, {m: style.MODALITIES[m] for m in ("hsi", "sar", "lidar", "dem", "rgb")}):
        assert closest([look["color"] for look in known.values()])[0] >= 20


@pytest.mark.parametrize(
    "names, least",
    [(NAMES, 12), (LONG_NAMES, 8), ([f"species {k}" for k in range(12)], 8), (["not water", "water"], 20)],
)
def test_classes_of_a_map_keep_a_distance_for_every_eye(names, least):
    """A map has no dashes or markers, but a legend in the order of its codes; 12 is clear side by side, 8 just so."""
    colours = style.class_colours(names)
    assert len(set(colours)) == len(names) and closest([style.NONE_COLOUR, *colours])[0] >= least
    assert closest(list(scenes.SPLIT.values()))[0] >= 20 and closest(list(scenes.VERDICT.values()))[0] >= 20
    assert closest([pale for _, pale in tables.VERDICTS.values()])[0] >= 8  # and bold numbers


@pytest.mark.parametrize(
    "name, means",
    [
        ("asphalt road", lambda r, g, b: max(r, g, b) - min(r, g, b) < 0.05 and r < 0.6),
        ("grass", lambda r, g, b: g > r > b and g > 0.8),
        ("conifers", lambda r, g, b: g > max(r, b) and g < 0.4),
        ("deciduous trees", lambda r, g, b: g > b > r and 0.4 < g < 0.8),
        ("crops", lambda r, g, b: min(r, g) > 0.8 and b < 0.5),
        ("water", lambda r, g, b: b > g > r),
        ("buildings", lambda r, g, b: r > 2 * max(g, b)),
        ("bare soil", lambda r, g, b: r > g > b and r < 0.6),
        ("building shadow", lambda r, g, b: max(r, g, b) < 0.3),
        ("street", lambda r, g, b: max(r, g, b) - min(r, g, b) < 0.05),  # no tree
    ],
)
def test_class_colours_mean_something(name, means):
    assert (
        means(*to_rgb(style.class_colours([name])[0]))
        and style.class_colours([name, "x"])[0] == style.class_colours([name])[0]
    )


def test_many_classes_and_names_get_colours_of_their_own():
    assert len(set(style.class_colours([f"grass {k}" for k in range(40)]))) == 40
    assert len(style.class_colours(map(str, range(300)))) == 300
    assert list(style.looks_of(map(str, range(60)))) == [str(k) for k in range(60)]
    assert style.looks_of(["a", "sar"])["sar"] == style.MODALITIES["sar"]


# Style, fonts, files


def drawn(figure):
    return figure._repr_mimebundle_()[0]["image/png"]


def test_the_users_matplotlibrc_changes_nothing_and_stays_as_it_was(tmp_path):
    scene, split = make_scene()
    before, plain = dict(matplotlib.rcParams), scenes.scene_gallery(scene, split)
    theirs = {"image.origin": "lower", "text.usetex": True, "font.size": 30, "axes.grid": False, "savefig.dpi": 20}
    with matplotlib.rc_context(theirs):
        mine = scenes.scene_gallery(scene, split)
        assert drawn(mine) == drawn(plain) and mine.axes[0].get_ylim() == plain.axes[0].get_ylim() == (59.5, -0.5)
        mine.savefig(tmp_path / "direct.png")
        mine.draw_without_rendering()
        assert {k: matplotlib.rcParams[k] for k in theirs} == theirs
    plain.savefig(tmp_path / "plain.png")
    assert (tmp_path / "direct.png").read_bytes() == (tmp_path / "plain.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def named(*names):
    table = pd.DataFrame({"modality": "hsi", "class": names, "code": range(1, len(names) + 1), "drift": 1.0})
    return tables.drift_plot(table)


def test_class_names_in_other_scripts_get_a_font_that_has_them(monkeypatch):
    style._fonts.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = named("\u210a", "grass")  # a letter that comes with matplotlib, in another font
        drawn(figure)
    assert len(figure.legends[0].get_texts()[0].get_fontfamily()) > 1
    monkeypatch.setattr(style.font_manager.fontManager, "ttflist", [])
    with pytest.warns(UserWarning, match="no installed font has '数林'.*Fix: install") as told:
        drawn(named("林", "数"))
        drawn(named("数", "林"))
    assert len(told) == 1
    style._fonts.cache_clear()


def test_saved_files_are_whole_and_repeatable(runs, tmp_path, monkeypatch):
    first = style.save(training.branch_agreement(runs), tmp_path / "a" / "agreement.v1")
    assert [p.name for p in first] == ["agreement.v1.png", "agreement.v1.pdf"] == [p.name for p in first if p.is_file()]
    second = style.save(training.branch_agreement(runs), tmp_path / "b" / "agreement.v1")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second] and b"CreationDate" not in first[
        1
    ].read_bytes()
    monkeypatch.setattr(style.Picture, "savefig", lambda self, file, **_: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        style.save(training.branch_agreement(runs), tmp_path / "c" / "agreement")
    assert not list(tmp_path.glob("c/*"))


def test_a_figure_shows_itself_in_a_notebook_with_its_text(runs):
    data, about = training.branch_agreement(runs)._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and about["image/png"]["alt"] == data["text/plain"]
    assert data["text/plain"].startswith("Jensen-Shannon divergence") and "concat; sagf; prsanet" in data["text/plain"]


def test_no_torch_is_needed():
    code = "import sys, prsa.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=files.ROOT).returncode == 0


def test_text_is_readable_at_half_page_width_and_rows_do_not_touch(runs, many):
    figure = training.learning_curves(runs)
    texts = [t for ax in figure.axes for t in (ax.title, ax.xaxis.label, *ax.get_xticklabels())]
    assert min(t.get_fontsize() for t in texts) * 85 / 25.4 / figure.get_figwidth() >= 5.9
    for figure in (tables.accuracy_rankings(many["accuracy"]), tables.rank_intervals(many["ranking"])):
        figure.draw_without_rendering()
        for ax in figure.axes:
            boxes = [t.get_window_extent() for t in ax.get_yticklabels()]
            assert all(above.y0 >= below.y1 for above, below in zip(boxes, boxes[1:])) and min(b.x0 for b in boxes) >= 0


# All figures of a study


def test_a_study_writes_all_its_figures_with_texts_and_removes_those_of_an_earlier_one(
    runs, made, tmp_path, monkeypatch
):
    texts = {}
    monkeypatch.setattr(
        figures, "save", lambda figure, stem: texts.update({stem.name: figure.alt}) or style.save(figure, stem)
    )
    (tmp_path / "gallery_old.png").write_bytes(b"of an earlier study")
    (tmp_path / "note.txt").write_text("of the user")
    written = figures.write_all(made, runs, tmp_path, *make_world({"sim-sar": TWO}))
    of_scene = "ablation leave_one_out accuracy_ranking group_differences rank_intervals claims".split()
    of_scene += [f"{name}_sim-sar" for name in "probe_gap sensitivity claims robustness gallery spectra drift".split()]
    of_scene += [
        f"{name}_sim-sar" for name in "imbalance_factor gradients branch_agreement fusion_alignment pca tsne".split()
    ]
    of_scene += [f"{name}_{method}_sim-sar" for name in ("learning_curves", "map") for method in ("concat", "prsanet")]
    of_scene += ["similarity_sim-sar", "confidence_sim-sar", "first_look_sim-sar"]
    assert {p.name for p in written} == {f"{name}.{kind}" for name in of_scene for kind in ("png", "pdf")}
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in written} | {"note.txt"}
    for name, text in texts.items():
        compared = "prsanet" if "_prsanet_" in name else "concat"
        compared = "road" if name.split("_")[0] in "pca tsne similarity gallery spectra drift ".split() else compared
        compared = {"leave_one_out": "prsanet-no-", "sensitivity_sim-sar": "lambda_p"}.get(name, compared)
        assert compared in text and text[0].isupper() and "`" not in text and len(text) < 2500, (name, text)


def test_names_of_scenes_stay_in_the_folder_and_nothing_gives_nothing(reference, tmp_path):
    table = reference["robustness"].query("group == 'sim-sar'").assign(group="../a/b c")
    assert [p.name for p in figures.write_all({"robustness": table}, None, tmp_path)][0] == "robustness_..-a-b-c.png"
    assert figures.write_all({"ranking": reference["ranking"][:0]}, None, tmp_path) == [] == list(tmp_path.iterdir())


def test_figures_are_redrawn_from_the_committed_tables(tmp_path):
    for name in ("ranking", "dial", "claims"):
        table = pd.read_csv(REFERENCE / f"{name}.csv")
        column = {"dial": "kind", "claims": "scene"}.get(name)
        (table[table[column].isin(["sim-tri", "all"])] if column else table).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    names = ["claims", "claims_sim-tri", "dial_sim-tri", "rank_intervals"]
    assert sorted(p.stem for p in figures.redraw(tmp_path, tmp_path / "out") if p.suffix == ".png") == names


# Tables


def check_rows(ax, table, label, columns):
    shown = rows(ax)
    assert list(shown) == table[label].tolist()
    np.testing.assert_allclose(list(shown.values()), table[list(columns)], rtol=1e-9)


def test_accuracy_is_ranked_in_every_panel(many):
    figure, table = tables.accuracy_rankings(many["accuracy"]), many["accuracy"]
    assert [ax.get_title() for ax in figure.axes] == ["sim-sar (simulated)", "plots (simulated)", "other (simulated)"]
    for ax, (_, part) in zip(figure.axes, table.groupby("scene", sort=False)):
        part = part.sort_values("oa_mean", ascending=False)
        part = part.assign(lo=part["oa_mean"] - part["oa_sd"], hi=part["oa_mean"] + part["oa_sd"])
        check_rows(ax, part, "method", ("oa_mean", "lo", "hi"))
        for bar, family in zip(ax.containers, part["family"]):
            assert (bar.lines[0].get_color(), bar.lines[0].get_marker()) == key(style.FAMILIES[family][0])
    families = ("single", "late", "study", "rebalancing", "network", "classical")
    assert entries(figure) == [style.FAMILIES[family][1] for family in families] and "sd over seeds" in title(figure)


def test_differences_stand_on_one_scale(reference):
    table = reference["evaluation"]
    figure = tables.group_differences(table)
    assert len(figure.axes) == 5 and len({ax.get_xlim() for ax in figure.axes}) == 1
    part = table[table["group"].eq("sim-lidar") & table["family"].ne("single") & table["method"].ne("concat")]
    check_rows(figure.axes[1], part, "method", ("d_oa", "d_oa_lo", "d_oa_hi"))
    assert "3 scenes and 10 seeds" in figure.axes[1].get_title() and "real" in figure.axes[3].get_title()
    figure = tables.probe_gap(reference["recovery"], "sim-sar")
    assert len({ax.get_xlim() for ax in figure.axes}) == 1 and figure.axes[1].get_title() == "sar (slow in concat)"
    part = reference["recovery"].query("group == 'sim-sar' and modality == 'hsi'")
    check_rows(figure.axes[0], part, "method", ("gap", "gap_lo", "gap_hi"))
    with pytest.raises(PrsaError, match="expected a group of the table .*sim-tri.*, got 'mars'"):
        tables.probe_gap(reference["recovery"], "mars")


def test_ranks_with_the_critical_difference(many, made):
    table = many["ranking"]
    (ax,) = tables.rank_intervals(table).axes
    check_rows(ax, table, "method", ("rank_mean", "rank_lo", "rank_hi"))
    assert table["rank_mean"].is_monotonic_increasing and "3 scenes and 2 seeds" in title(ax.figure)
    (grey,) = ax.patches
    assert (
        grey.get_width() == pytest.approx(critical_difference(len(table), 3))
        and grey.get_x() == table["rank_mean"].min()
    )
    (one,) = tables.rank_intervals(made["ranking"]).axes
    assert not one.patches, "one scene"
    assert "nothing to compare" in title(tables.rank_intervals(table[:0]))


def test_ablations_show_the_table(reference, made):
    for stem, table in (("concat", reference["ablation"]), ("prsanet", made["ablation"])):
        figure = tables.ablation_bars(table, reference=stem)
        less = table["variant"].str.startswith("prsanet-no-")
        first = table[
            table["scene"].eq("sim-sar") & (less if stem == "prsanet" else ~less & table["variant"].ne("concat"))
        ]
        check_rows(figure.axes[0], first, "variant", (f"d_{stem}", f"d_{stem}_lo", f"d_{stem}_hi"))
    assert [ax.get_title() for ax in tables.ablation_bars(reference["ablation"], "idtrees").axes] == ["idtrees"]


def test_one_seed_has_no_bars(tri):
    found = report.make_all(tri, *make_world({"plots": THREE}, classes=12))
    for figure in (tables.ablation_bars(found["ablation"]), tables.accuracy_rankings(found["accuracy"])):
        assert np.isnan([bounds for ax in figure.axes for _, *bounds in rows(ax).values()]).all()
        assert "sd" not in title(figure)


def test_sensitivity_has_a_panel_per_parameter(reference):
    table = reference["sensitivity"]
    figure = tables.sensitivity_curves(table)
    assert [ax.get_title() for ax in figure.axes] == list(dict.fromkeys(table["parameter"]))
    for ax, (_, part) in zip(figure.axes, table.groupby("parameter", sort=False)):
        check_rows(ax, part.assign(value=part["value"].astype(str)), "value", ("d_oa", "d_oa_lo", "d_oa_hi"))


def test_verdicts_have_a_coloured_cell_per_row_of_the_ledger(reference):
    ledger = reference["claims"]
    (ax,) = tables.verdicts(ledger).axes
    assert len(ax.patches) == len(ax.texts) == len(ledger)
    for verdict, (_, pale) in tables.VERDICTS.items():
        cells = [i for i, patch in enumerate(ax.patches) if patch.get_facecolor()[:3] == to_rgb(pale)]
        assert len(cells) == ledger["verdict"].eq(verdict).sum()
        assert {ax.texts[i].get_fontweight() for i in cells} <= {"normal" if verdict == "not supported" else "bold"}
    words = [t.get_text() for t in ax.get_yticklabels()]
    assert words[:2] == [ledger["claim"].iloc[0], "probe OA of the fast branch: alone - in concat (points)"]
    assert ax.texts[0].get_text() == f"{ledger['effect'].iloc[0]:+.1f}"


def test_forest_has_a_panel_per_unit_and_a_mark_per_row(reference):
    ledger = reference["claims"]
    part = ledger[ledger["scene"].isin(["sim-lidar", "all"])]
    figure = tables.forest(ledger, "sim-lidar")
    assert {ax.get_xlabel() for ax in figure.axes} == {f"effect ({u})" for u in map(unit, part["measure"])}
    shown = [line for ax in figure.axes for line in rows(ax).values()]
    np.testing.assert_allclose(sorted(shown), sorted(map(tuple, part[["effect", "lo", "hi"]].to_numpy())))
    labels = [t.get_text() for ax in figure.axes for t in ax.get_yticklabels()]
    assert labels[:2] == [part["claim"].iloc[0], "probe OA of hsi (fast): alone - in concat"]
    assert any(label.startswith("all   factor falls") for label in labels)
    assert tables.forest(ledger[:0]).axes, "no claims, no error"


def test_robustness_shows_accuracy_above_and_differences_below(reference, many):
    table = reference["robustness"].query("group == 'sim-tri' and not method.str.startswith('prsanet-no-')")
    figure = tables.robustness(reference["robustness"], "sim-tri")
    above, below = np.reshape(figure.axes, (2, 4))
    assert [ax.get_title() for ax in above] == ["hsi: cloud shadow", "hsi: noise", "hsi: band loss", "missing"]
    assert entries(figure) == list(dict.fromkeys(table["method"])) and "3 scenes and 10 seeds" in title(figure)
    own = table.query("method == 'prsanet' and degradation in ['none', 'noise']").sort_values("strength")
    x, y, _ = lines(above[1])[key(style.METHODS["prsanet"])]
    np.testing.assert_allclose(x, own["strength"], atol=0.1)
    np.testing.assert_allclose(y, own["oa_mean"])
    _, y, bars = lines(below[1])[key(style.METHODS["prsanet"])]
    np.testing.assert_allclose(y, own["d_oa"])
    np.testing.assert_allclose(bars, own[["d_oa_lo", "d_oa_hi"]])
    assert key(style.METHODS["concat"]) not in lines(below[1]), "concat is the line at 0"
    assert [t.get_text() for t in below[3].get_xticklabels()] == ["hsi", "sar", "dsm"]
    _, y, _ = lines(above[3])[key(style.METHODS["late"])]
    np.testing.assert_allclose(y, table.query("method == 'late' and degradation == 'missing'")["oa_mean"])
    assert set(entries(tables.robustness(many["robustness"], "plots"))) == set(style.METHODS), "of many, the study's"
    with pytest.raises(PrsaError, match="sim-lidar"):
        tables.robustness(reference["robustness"])


@pytest.mark.parametrize("kind, branches", [("sim-sar", TWO), ("sim-tri", ("hsi", "sar", "dsm"))])
def test_the_dial_has_curves_of_accuracy_lead_gap_and_factor(reference, kind, branches):
    table = reference["dial"].query("kind == @kind")
    figure = tables.curves(reference["dial"], kind)
    assert len(figure.axes) == 2 + 2 * len(branches)
    gaps, factors = figure.axes[2 : 2 + len(branches)], figure.axes[2 + len(branches) :]
    for panels in (gaps, factors):
        assert [ax.get_title() for ax in panels] == [f"{m} branch" for m in branches]
        assert len({ax.get_ylim() for ax in panels}) == 1, "branches are compared"
    once = table.query("method == 'prsanet'").drop_duplicates("dial")
    np.testing.assert_allclose(lines(figure.axes[0])[key(style.METHODS["prsanet"])][1], once["oa_mean"])
    np.testing.assert_allclose(lines(figure.axes[1])[key(style.METHODS["prsanet"])][2], once[["d_oa_lo", "d_oa_hi"]])
    own = table.query("method == 'concat' and modality == 'sar'")
    x, y, bars = lines(gaps[1])[key(style.METHODS["concat"])]
    np.testing.assert_allclose(x, own["dial"], atol=0.03)
    np.testing.assert_allclose(y, own["probe_gap"])
    np.testing.assert_allclose(bars, own[["probe_gap_lo", "probe_gap_hi"]])
    low, high = factors[0].get_ylim()
    assert factors[0].get_yscale() == "log" and low * high == pytest.approx(1), "balance in the middle"
    for ax in figure.axes:
        assert any(line.get_linestyle() == ":" and set(line.get_xdata()) == {CONFIGS[kind].dial} for line in ax.lines)
    late = tables.curves(table.query("method == 'late'"))
    assert [ax.get_ylabel() for ax in late.axes] == ["fused OA (%)", "OA minus concat (points)"]


def test_drift_shows_every_class_and_the_median():
    table = area_drift(*make_scene())
    figure = tables.drift_plot(table)
    marks = sorted(line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1)
    np.testing.assert_allclose(marks, sorted(table["drift"]))
    bars = {line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 2}
    assert bars == set(table.groupby("modality")["drift"].median())
    assert len(entries(figure)) == table["class"].nunique() + 1


def test_marks_of_confidence_are_as_large_as_their_share():
    table = pd.DataFrame({"confidence": [0.3, 0.65, 0.95], "accuracy": [1.0, 0.2, 0.9], "share": [0.004, 0.246, 0.75]})
    ax = tables.confidence_plot({"concat": table}).axes[0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), table[["confidence", "accuracy"]])
    np.testing.assert_allclose(ax.collections[0].get_sizes() / 200, table["share"])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.65, 0.95])  # a handful of pixels is no curve


def test_the_warning_shows_both_splits_and_the_leak():
    base = {"scene": "s", "simulated": 0, "method": "concat", "radius": 3}
    kinds = (("blocks", 0.0, 84.5), ("random (leaking)", 0.996, 95.7))
    found = [base | {"split_kind": k, "share_overlap": s, "oa_all_mean": oa, "oa_all_sd": 1.0} for k, s, oa in kinds]
    near = [("blocks", 4, 87.0, 2.0), ("blocks", 16, 80.0, np.nan), ("random (leaking)", 1, 96.0, 0.5)]
    distances = pd.DataFrame([base | dict(zip(("split_kind", "nearest", "oa_mean", "oa_sd"), row)) for row in near])
    left, right = (figure := tables.warning(pd.DataFrame(found), distances)).axes
    assert [t.get_text() for t in left.texts] == ["95.7\n(99.6 % leak)", "84.5\n(0 % leak)"]
    assert entries(figure) == ["random (leaking)", "blocks"]
    np.testing.assert_allclose(lines(right)[key(tables.SPLITS["blocks"])][:2], [[4, 16], [87, 80]])
    assert right.patches[0].get_extents().transformed(right.transData.inverted()).x1 == pytest.approx(3.5)
    with pytest.raises(PrsaError, match="method of the table"):
        tables.warning(pd.DataFrame(found), pd.concat([distances, distances.assign(method="prsanet")]))


# Training


def test_learning_curves_show_the_mean_and_one_standard_deviation(runs):
    figure = training.learning_curves(runs)
    for ax, part in zip(figure.axes, ("train", "val")):
        assert len(ax.lines) == 3 == len(ax.collections)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * mean_of(runs, "prsanet", "accuracy", watched=part))
        branch = np.stack([100 * r["branch_accuracy"].sel(watched=part, modality="sar") for r in of(runs, "prsanet")])
        np.testing.assert_allclose(ax.lines[2].get_ydata(), branch.mean(0))
        top = ax.collections[2].get_paths()[0].vertices[:, 1].max()
        assert top == pytest.approx((branch.mean(0) + branch.std(0, ddof=1)).max())
    assert entries(figure) == ["fused", "hsi branch", "sar branch"] and "3 seeds" in title(figure)


def test_the_imbalance_factor_has_a_panel_per_modality_and_balance_in_the_middle(runs, tri):
    figure = training.imbalance_factor(runs)
    assert [ax.get_title() for ax in figure.axes] == list(TWO) and entries(figure) == [
        "concat",
        "concat+prm",
        "prsanet",
    ]
    for ax, m in zip(figure.axes, TWO):
        for line, method in zip(ax.lines, ("concat", "concat+prm", "prsanet")):
            np.testing.assert_allclose(line.get_ydata(), mean_of(runs, method, "rho", modality=m))
            assert line.get_color() == style.METHODS[method]["color"]
        assert list(ax.lines[3].get_ydata()) == [1, 1] and np.prod(ax.get_ylim()) == pytest.approx(1)
    one = training.imbalance_factor(tri, ("concat", "prsanet"))
    assert (
        [ax.get_title() for ax in one.axes] == list(THREE) and not one.axes[0].collections and "one seed" in title(one)
    )


def test_gradients_of_two_methods_have_one_scale(runs):
    norm, other, cosine, _ = training.gradients(runs).axes
    assert (norm.get_title(), other.get_title()) == ("concat", "prsanet") and norm.get_ylim() == other.get_ylim()
    np.testing.assert_allclose(other.lines[1].get_ydata(), mean_of(runs, "prsanet", "grad_norm", modality="sar"))
    np.testing.assert_allclose(cosine.lines[0].get_ydata(), mean_of(runs, "concat", "grad_cosine", modality="hsi"))
    blind = make_run(method="concat")
    blind["grad_cosine"][:] = np.nan
    assert len(training.gradients([blind], ("concat",)).axes[1].lines) == 1, "not measured: only the line at 0"


def test_agreement_and_alignment_show_means_and_intervals(runs):
    ax = training.branch_agreement(runs).axes[0]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), mean_of(runs, "sagf", "js"))
    figure = training.fusion_alignment(runs, ("concat", "sagf"))
    assert [ax.get_title() for ax in figure.axes] == ["linear CKA", "eta squared"] and "correlation" not in figure.alt
    for ax, variable in zip(figure.axes, ("cka", "eta2")):
        for method in ("concat", "sagf"):
            values = {("", r.attrs["seed"]): float(r[variable]) for r in of(runs, method)}
            np.testing.assert_allclose(rows(ax)[method], summarise(values, (0, 1)).numbers)


def test_alone_or_joint_shows_every_branch_of_both():
    joint, late = make_run(method="concat"), make_run(method="late")
    figure = training.alone_or_joint(joint, late)
    assert [ax.get_title() for ax in figure.axes] == ["hsi branch", "sar branch", "linear probe"]
    for ax, m in zip(figure.axes, TWO):
        for line, run in zip(ax.lines, (late, joint)):
            np.testing.assert_allclose(line.get_ydata(), run["s"].sel(modality=m))
    marks = [bar.lines[0].get_xdata()[0] for bar in figure.axes[2].containers]
    np.testing.assert_allclose(marks, [probe_oa(run, m) for run in (late, joint) for m in TWO])
    assert entries(figure) == ["alone", "inside concat"]
    assert len(training.alone_or_joint(joint, [late.sel(modality=["sar"])]).axes) == 2
    with pytest.raises(PrsaError, match="pass the joint run first"):
        training.alone_or_joint(late.sel(modality=["sar"]), joint)


@pytest.mark.parametrize("kind, label", [("pca", "% of variance"), ("tsne", "no unit")])
def test_feature_planes_show_every_sample_and_prototype(tri, kind, label):
    figure = training.feature_planes(tri[-1], kind)
    assert [ax.get_title() for ax in figure.axes] == list(THREE) and entries(figure) == [*LONG_NAMES, "prototype"]
    for ax in figure.axes:
        assert [len(line.get_xdata()) for line in ax.lines] == [30] * 12 + [1] * 12
        assert label in ax.get_xlabel() and label in ax.get_ylabel()
    for one, two in zip(figure.axes[0].lines, training.feature_planes(tri[-1], kind).axes[0].lines):
        np.testing.assert_array_equal(one.get_xydata(), two.get_xydata())


def test_the_pca_plane_is_the_projection_of_unit_features_without_unseen_prototypes():
    run = make_run()
    run["prototypes"][0, 3] = np.nan
    ax = training.feature_planes(run).axes[0]
    z = run["features"].sel(modality="hsi").values
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    first, shown = (left * scale)[run["sample_label"].values == 1, 0], ax.lines[0].get_xdata()
    assert min(np.abs(shown - first).max(), np.abs(shown + first).max()) < 1e-6
    assert f"{100 * scale[0] ** 2 / (scale**2).sum():.0f} %" in ax.get_xlabel() and len(ax.lines) == 8 + 7
    with pytest.raises(PrsaError, match="pca"):
        training.feature_planes(run, "umap")


def test_similarity_is_the_mean_cosine_and_names_the_classes(runs):
    own = of(runs, "prsanet")
    figure = training.prototype_similarities(own)
    naive = np.zeros((8, 8))
    for run in own:
        c = run["prototypes"].sel(modality="sar").values
        for i in range(8):
            for j in range(8):
                naive[i, j] += c[i] @ c[j] / np.linalg.norm(c[i]) / np.linalg.norm(c[j]) / len(own)
    np.testing.assert_allclose(np.reshape(figure.axes[1].collections[0].get_array(), (8, 8)), naive, atol=1e-6)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["hsi prototypes", "sar prototypes"]
    for ticks in (figure.axes[0].get_yticklabels(), figure.axes[1].get_xticklabels()):
        assert [t.get_text() for t in ticks] == LONG_NAMES[:8]


def test_the_first_look_shows_what_each_branch_loses(runs):
    figure = demo.first_look(runs)
    (ax,) = figure.axes
    want = {m: {k: np.mean([probe_oa(run, m) for run in of(runs, k)]) for k in demo.METHODS} for m in TWO}
    sums = {k: mean_of(runs, k, "confusion", part="test", head="fused") for k in demo.METHODS}
    want["all"] = {k: 100 * np.trace(sums[k]) / sums[k].sum() for k in demo.METHODS}
    for k, row in enumerate(want.values()):
        marks = [line.get_xdata()[0] for line in ax.lines if line.get_ydata()[0] == len(want) - 1 - k]
        np.testing.assert_allclose(marks, list(row.values()))
        said = {text.get_text() for text in ax.texts if text.get_position()[1] == len(want) - 1 - k}
        assert {f"{row[method] - row['late']:+.1f}" for method in ("concat", "prsanet")} <= said
    worst = max(TWO, key=lambda m: want[m]["late"] - want[m]["concat"])
    lost = want[worst]["late"] - want[worst]["concat"]
    assert f"the {worst} branch is left behind most" in ax.get_title() if lost > 0 else "no branch" in ax.get_title()
    assert ax.get_title().split()[1] in figure.alt and "means over 3 seeds" in title(figure)
    assert "one training each" in title(demo.first_look([of(runs, "late")[0], of(runs, "concat")[0]]))


def test_runs_that_are_missing_or_of_several_scenes_are_named(runs):
    with pytest.raises(PrsaError, match="expected runs of 'ogm-ge' on one scene, got .*sim-sar/concat"):
        training.learning_curves(runs, "ogm-ge")
    with pytest.raises(PrsaError, match="one scene, got other/prsanet"):
        training.learning_curves([*runs, make_run("other")])
    assert len(training.select([*runs, make_run("other")], "prsanet", "other")) == 1


# Scenes


def images(figure):
    return {ax.get_title(): ax.images[0].get_array() for ax in figure.axes if ax.images}


@pytest.mark.parametrize("modalities, classes", [(TWO, 8), (THREE, 12)])
def test_the_gallery_shows_sensors_labels_and_split(modalities, classes):
    scene, split = make_scene(modalities=modalities, classes=classes)
    figure = scenes.scene_gallery(scene, split)
    shown = images(figure)
    assert len(shown) == len(modalities) + 2 and "hsi: 843, 661, 557 nm" in shown
    np.testing.assert_array_equal(shown["labels"], scene["label"])
    np.testing.assert_array_equal(shown["split (blocks)"], split)
    parts = [f"{part}: {int((split == k).sum()):,} px" for k, part in enumerate(scenes.SPLIT, 1)]
    assert entries(figure) == LONG_NAMES[:classes] + parts
    labels = next(ax for ax in figure.axes if ax.get_title() == "labels").images[0]
    assert labels.cmap(labels.norm(5))[:3] == to_rgb(style.class_colours(LONG_NAMES[:classes])[4])
    if "lidar" in modalities:
        np.testing.assert_allclose(shown["lidar"], scene["lidar"][0])
        assert "height (m)" in [ax.get_ylabel() for ax in figure.axes]


def test_pictures_of_sensors():
    scene, _ = make_scene(wavelength=False)
    assert scenes.picture(scene, "hsi")[1] == "hsi: bands 18, 11, 5"
    linear = scene.assign(sar=10 ** (scene["sar"] / 10))
    linear["sar"].attrs = {"kind": "sar", "units": "1"}
    np.testing.assert_allclose(
        scenes.picture(linear, "sar")[0], scenes.picture(scene, "sar")[0], atol=1e-3
    )  # both in dB
    values, _, bar = scenes.picture(linear.isel(sar_band=[0]), "sar")
    np.testing.assert_allclose(values, scene["sar"][0], atol=1e-3)
    assert bar == "backscatter (dB)"
    holes = scene.copy(deep=True)
    holes["hsi"][:, 3, 4] = np.nan
    assert scenes.picture(holes, "hsi")[0][3, 4] == pytest.approx(to_rgb(style.NONE_COLOUR))


def test_maps_show_truth_map_errors_and_confidence():
    scene, split = make_scene(classes=12)
    run = make_run(classes=12)
    figure, test = scenes.maps_panel(scene, run, split), split.values == 3
    right = (run["map"].values == scene["label"].values)[test]
    truth, land, errors, confidence = images(figure).values()
    np.testing.assert_array_equal(truth, scene["label"])
    np.testing.assert_array_equal(land, run["map"])
    np.testing.assert_array_equal(confidence, run["confidence"])
    assert (errors[~test] == 0).all() and (errors[test] == np.where(right, 1, 2)).all()
    shown = metrics.confusion(scene["label"].values[test], run["map"].values[test], 12)
    assert f"errors, test pixels (OA {100 * metrics.oa(shown):.1f} %)" in images(figure)
    assert entries(figure) == [*LONG_NAMES, "right", "wrong"]
    everywhere = list(images(scenes.maps_panel(scene, run)).values())[2]
    assert ((everywhere > 0) == (scene["label"].values > 0)).all()


def test_spectra_show_the_means_of_both_parts():
    scene, split = make_scene()
    figure = scenes.class_spectra(scene, split)
    k = next(k for k in range(1, 9) if all(((split == part) & (scene["label"] == k)).any() for part in (1, 3)))
    for ax, part in zip(figure.axes, (1, 3)):
        inside = (split.values == part) & (scene["label"].values == k)
        np.testing.assert_allclose(ax.lines[k - 1].get_ydata(), scene["hsi"].values[:, inside].mean(1), rtol=1e-5)
        np.testing.assert_allclose(ax.lines[k - 1].get_xdata(), scene["wavelength"])
    assert entries(figure) == LONG_NAMES[:8] and figure.axes[0].get_xlabel() == "wavelength (nm)"
    assert scenes.class_spectra(*make_scene(wavelength=False)).axes[0].get_xlabel() == "hsi band"
