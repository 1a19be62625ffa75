"""Figures are tested by what they show: data in lines, legends, units, colours, and files that are the same when drawn again."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from synthetic import COMPARATORS, LONG_NAMES, SKILL, make_run, make_scene, make_study

from prsa import metrics
from prsa.errors import PrsaError
from prsa.figures import maps, plots, style, table_plots
from prsa.report import ranking, tables

TWO, THREE = ("hsi", "sar"), ("hsi", "lidar", "rgb")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def runs():
    return make_study(seeds=3)


@pytest.fixture(scope="module")
def tri():
    return make_study({"plots": THREE}, seeds=1, classes=12)


@pytest.fixture(scope="module")
def many():
    """`tables.scores` of 20 methods on three scenes with two seeds."""
    scenes = {"sim-sar": TWO, "plots": ("hsi", "lidar"), "other": TWO}
    return tables.scores(make_study(scenes, 2, (*SKILL, *COMPARATORS), (), size=24))


@pytest.fixture(scope="module")
def scores(runs):
    return tables.scores(runs)


def mean_of(runs, method, variable, **where):
    chosen = [r for r in runs if r.attrs["method"] == method and not r.attrs["variant"]]
    return np.mean([r[variable].sel(where).values for r in chosen], axis=0)


def entries(legend):
    return [text.get_text() for text in legend.get_texts()]


def images(fig):
    return {ax.get_title(): ax.images[0].get_array() for ax in fig.axes if ax.images}


def test_learning_curves_show_the_mean_over_seeds(runs):
    fig = plots.learning_curves(runs)
    for ax, part in zip(fig.axes, ("train", "val")):
        assert len(ax.lines) == 3 and len(ax.collections) == 3  # fused and two branches, each with its band
        np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * mean_of(runs, "prsanet", "accuracy", watched=part))
        np.testing.assert_allclose(
            ax.lines[2].get_ydata(), 100 * mean_of(runs, "prsanet", "branch_accuracy", watched=part, modality="sar")
        )
        assert ax.get_xlabel() == "epoch"
    assert fig.axes[0].get_ylabel() == "accuracy (%)"
    assert (
        entries(fig.legends[0]) == ["fused", "hsi branch", "sar branch"]
        and "3 seeds" in fig.legends[0].get_title().get_text()
    )


def test_band_is_one_sample_standard_deviation(runs):
    ax = plots.imbalance_factor(runs, methods=("concat",)).axes[1]
    values = np.stack([r["rho"].sel(modality="sar") for r in runs if r.attrs["method"] == "concat"])
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx((values.mean(0) + values.std(0, ddof=1)).max())


def test_imbalance_factor_with_and_without_rebalancing(runs, tri):
    fig = plots.imbalance_factor(runs)
    assert [ax.get_title() for ax in fig.axes] == ["hsi", "sar"]
    for ax, m in zip(fig.axes, TWO):
        assert len(ax.lines) == 4 and list(ax.lines[3].get_ydata()) == [1, 1]  # three methods and the balance line
        for line, method in zip(ax.lines, ("concat", "concat+prm", "prsanet")):
            np.testing.assert_allclose(line.get_ydata(), mean_of(runs, method, "rho", modality=m))
            assert line.get_color() == style.METHOD_COLOURS[method]
        assert ax.get_yscale() == "log"
    assert "ratio" in fig.axes[0].get_ylabel() and entries(fig.legends[0]) == ["concat", "concat+prm", "prsanet"]
    one = plots.imbalance_factor(tri, methods=("concat", "prsanet"))
    assert [ax.get_title() for ax in one.axes] == list(THREE) and not one.axes[0].collections  # one seed: no band


def test_gradients_and_agreement(runs):
    norm, cosine = plots.gradients(runs).axes
    np.testing.assert_allclose(norm.lines[1].get_ydata(), mean_of(runs, "prsanet", "grad_norm", modality="sar"))
    np.testing.assert_allclose(cosine.lines[0].get_ydata(), mean_of(runs, "prsanet", "grad_cosine", modality="hsi"))
    assert "no unit" in norm.get_ylabel() and "cosine" in cosine.get_ylabel()
    ax = plots.branch_agreement(runs)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), mean_of(runs, "sagf", "js"))
    assert "nats" in ax.get_ylabel() and entries(ax.get_legend()) == ["concat", "sagf", "prsanet"]


def test_a_curve_that_was_not_measured_is_left_out():
    run = make_run(method="concat")
    run["grad_cosine"][:] = np.nan
    assert len(plots.gradients([run], "concat").axes[1].lines) == 1  # only the zero line


@pytest.mark.parametrize("kind, label", [("pca", "% of variance"), ("tsne", "no unit")])
def test_feature_plane(kind, label):
    run = make_run(modalities=THREE, classes=12)
    ax = plots.feature_plane(run, "rgb", kind)
    assert [len(c.get_offsets()) for c in ax.collections] == [30] * 12 + [
        12
    ]  # every sample in its class, then the prototypes
    assert (
        entries(ax.get_legend()) == [*LONG_NAMES, "prototype"] and label in ax.get_xlabel() and label in ax.get_ylabel()
    )
    again = plots.feature_plane(run, "rgb", kind)
    for a, b in zip(ax.collections, again.collections):
        np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())
    given = plt.subplots()[1]
    assert plots.feature_plane(run, "hsi", kind, given, legend=False) is given and given.get_legend() is None


def test_pca_plane_is_the_projection_of_unit_features():
    run = make_run()
    ax = plots.feature_plane(run, "hsi")
    z = run["features"].sel(modality="hsi").values
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    left, scale, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    first = (left * scale)[run["sample_label"].values == 1, 0]
    shown = ax.collections[0].get_offsets()[:, 0]
    assert min(np.abs(shown - first).max(), np.abs(shown + first).max()) < 1e-8
    assert f"{100 * scale[0] ** 2 / (scale**2).sum():.0f} %" in ax.get_xlabel()


def test_prototypes_never_seen_are_not_drawn():
    run = make_run()
    run["prototypes"][0, 3] = np.nan
    assert len(plots.feature_plane(run, "hsi").collections[-1].get_offsets()) == 7
    with pytest.raises(PrsaError, match="pca"):
        plots.feature_plane(run, "hsi", "umap")


def test_feature_planes_has_a_panel_per_modality_and_one_legend(tri):
    fig = plots.feature_planes(tri[-1])
    assert [ax.get_title() for ax in fig.axes] == list(THREE) and all(ax.get_legend() is None for ax in fig.axes)
    assert len(fig.legends) == 1 and entries(fig.legends[0])[:12] == LONG_NAMES


def test_prototype_similarity_is_the_mean_cosine(runs):
    chosen = [r for r in runs if r.attrs["method"] == "prsanet" and not r.attrs["variant"]]
    ax = plots.prototype_similarity(chosen, "sar")
    shown = np.asarray(ax.collections[0].get_array()).reshape(8, 8)
    naive = np.zeros((8, 8))
    for run in chosen:
        c = run["prototypes"].sel(modality="sar").values
        for i in range(8):
            for j in range(8):
                naive[i, j] += c[i] @ c[j] / np.linalg.norm(c[i]) / np.linalg.norm(c[j]) / len(chosen)
    np.testing.assert_allclose(shown, naive)
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"{name}  {k}" for k, name in enumerate(LONG_NAMES[:8], 1)]
    assert ax.figure.axes[1].get_ylabel() == "cosine similarity"
    fig = plots.prototype_similarities(chosen)
    assert [ax.get_title() for ax in fig.axes[:2]] == ["hsi prototypes", "sar prototypes"] and fig.axes[
        2
    ].get_ylabel() == "cosine similarity"
    assert entries(fig.legends[0]) == [f"{k}  {name}" for k, name in enumerate(LONG_NAMES[:8], 1)]


def test_fusion_correlation_shows_means_and_intervals(runs):
    ax = plots.fusion_correlation(runs, methods=("concat", "sagf"))
    for container, method in zip(ax.containers, ("concat", "sagf")):
        points, _, (bars,) = container.lines
        for k, v in enumerate(("cka", "eta2")):
            mean, low, high = metrics.mean_interval([float(r[v]) for r in runs if r.attrs["method"] == method])
            assert points.get_ydata()[k] == pytest.approx(mean)
            assert bars.get_segments()[k][:, 1] == pytest.approx([low, high])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["linear CKA", "eta squared"] and entries(
        ax.get_legend()
    ) == ["concat", "sagf"]
    one = plots.fusion_correlation([r for r in runs if r.attrs["seed"] == 0], methods=("concat", "sagf"))
    assert not one.containers[0].has_yerr


def test_accuracy_ranking_shows_the_table(scores):
    table = tables.accuracy(scores)
    ax = table_plots.accuracy_ranking(table)
    assert [t.get_text() for t in ax.get_yticklabels()] == table["method"].tolist()
    for container, row in zip(ax.containers, table.itertuples()):
        assert container.lines[0].get_xdata()[0] == pytest.approx(row.oa_mean)
        assert container.lines[2][0].get_segments()[0][:, 0] == pytest.approx(
            [row.oa_mean - row.oa_sd, row.oa_mean + row.oa_sd]
        )
    assert ax.get_xlabel() == "overall accuracy (%), mean ± sd over seeds" and ax.get_title() == "sim-sar (simulated)"


def test_families_of_methods_have_colours_markers_and_one_legend(many):
    table = tables.accuracy(many)
    fig = table_plots.accuracy_rankings(table)
    assert [ax.get_title() for ax in fig.axes] == ["sim-sar (simulated)", "plots (simulated)", "other (simulated)"]
    for ax, (_, part) in zip(fig.axes, table.groupby("scene", sort=False)):
        assert [t.get_text() for t in ax.get_yticklabels()] == part["method"].tolist()
        for container, row in zip(ax.containers, part.itertuples(), strict=True):
            colour, marker, _ = style.FAMILIES[row.family]
            assert (container.lines[0].get_color(), container.lines[0].get_marker()) == (colour, marker)
            assert container.lines[0].get_xdata()[0] == pytest.approx(row.oa_mean)
    assert len(fig.legends) == 1 and all(ax.get_legend() is None for ax in fig.axes)
    families = ["single", "late", "study", "rebalancing", "network", "classical"]
    assert entries(fig.legends[0]) == [style.FAMILIES[f][2] for f in families]
    assert len({style.FAMILIES[f][0] for f in families}) == 6
    assert entries(table_plots.accuracy_ranking(table, "plots").figure.legends[0]) == entries(fig.legends[0])


def test_many_methods_stay_legible(many):
    """Row labels do not touch each other, in every figure with a row per method."""
    for figure in (
        table_plots.accuracy_rankings(tables.accuracy(many)),
        table_plots.rank_intervals(tables.ranking(many)).figure,
    ):
        figure.draw_without_rendering()
        for ax in figure.axes:
            boxes = [t.get_window_extent() for t in ax.get_yticklabels()]
            assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:])) and min(b.x0 for b in boxes) >= 0


def test_rank_intervals_show_the_table(many, scores, tri):
    table = tables.ranking(many)
    ax = table_plots.rank_intervals(table)
    assert [t.get_text() for t in ax.get_yticklabels()] == table["method"].tolist() and len(table) == 20
    assert ax.get_yticks()[0] > ax.get_yticks()[-1]  # best on top
    for container, row in zip(ax.containers, table.itertuples(), strict=True):
        assert container.lines[0].get_xdata()[0] == pytest.approx(row.rank_mean)
        assert container.lines[2][0].get_segments()[0][:, 0] == pytest.approx([row.rank_lo, row.rank_hi])
        assert container.lines[0].get_color() == style.FAMILIES[row.family][0]
    assert (
        ax.get_xlabel() == "mean rank of OA (1 = best), 95 % interval\nover 3 scenes and 2 seeds"
        and len(ax.figure.legends) == 1
    )
    assert table_plots.rank_intervals(tables.ranking(scores)).get_xlabel().endswith("95 % interval\nover 3 seeds")
    one = table_plots.rank_intervals(tables.ranking(tables.scores(tri)))
    assert one.get_xlabel() == "mean rank of OA (1 = best)" and not any(c.has_xerr for c in one.containers)
    assert "two methods" in table_plots.rank_intervals(tables.ranking(tables.scores([]))).texts[0].get_text()


def test_critical_difference_figure(many):
    ax = table_plots.critical_difference(many)
    wide = many[many["family"].ne("single")].pivot_table(
        index="scene", columns="method", values="oa"
    )  # mean over seeds
    mean = wide.rank(axis=1, ascending=False).mean()
    labels = [t.get_text().split() for t in ax.texts[:20]]
    named = dict(pair if pair[0] in mean.index else pair[::-1] for pair in labels)
    assert named == {method: f"{rank:.1f}" for method, rank in mean.items()}
    difference = ranking.critical_difference(20, 3)
    bars = [line for line in ax.lines if line.get_linewidth() > 2]
    expected = ranking.groups(np.sort(mean), difference)
    assert [len(np.unique(line.get_ydata())) for line in bars] == [1] * len(expected)
    for line, (a, b) in zip(bars, expected):
        assert line.get_xdata() == pytest.approx(np.sort(mean)[[a, b]], abs=0.3)
    assert (
        np.ptp(ax.lines[-1].get_xdata()) == pytest.approx(difference)
        and ax.texts[20].get_text() == f"critical difference {difference:.1f}"
    )
    assert "over 3 scenes" in ax.get_title() and "p < 0.001" in ax.get_title() and ax.get_xticks()[0] == 1
    ax.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert len(ax.figure.legends) == 1


def test_critical_difference_of_little_evidence_is_a_sentence(many, scores):
    two = table_plots.critical_difference(
        many[many["scene"].isin(["plots", "other"]) & many["method"].isin(["concat", "prsanet", "late", "sagf", "mft"])]
    )
    assert len([line for line in two.lines if line.get_linewidth() > 2]) == 1 and "over 2 scenes" in two.get_title()
    for few, here in (
        (scores, "1 and 5"),
        (many[many["method"].isin(["concat", "mft"])], "3 and 2"),
        (tables.scores([]), "0 and 0"),
    ):
        ax = table_plots.critical_difference(few)
        assert (
            "2 scenes and 3 methods" in ax.texts[0].get_text()
            and f"here: {here}" in ax.texts[0].get_text()
            and not ax.lines
        )
    given = plt.subplots()[1]
    assert table_plots.critical_difference(many, given) is given and not given.figure.legends


def test_ablation_bars_show_the_table(scores):
    table = tables.ablation(scores)
    ax = table_plots.ablation_bars(table, reference="prsanet")
    kept = table[table["variant"] != "prsanet"]
    assert [t.get_text() for t in ax.get_yticklabels()] == kept["variant"].tolist()
    assert [p.get_width() for p in ax.patches] == pytest.approx(kept["d_prsanet"].tolist())
    lengths = [c.lines[2][0].get_segments()[0][:, 0].tolist() for c in ax.containers if hasattr(c, "has_xerr")]
    np.testing.assert_allclose(lengths, kept[["d_prsanet_lo", "d_prsanet_hi"]])
    assert ax.get_xlabel() == "difference in OA to prsanet (points), 95 % interval"


def test_one_seed_draws_no_error_bars(tri):
    scores = tables.scores(tri)
    for ax in (
        table_plots.ablation_bars(tables.ablation(scores)),
        table_plots.accuracy_ranking(tables.accuracy(scores)),
    ):
        assert not any(getattr(c, "has_xerr", False) for c in ax.containers)
        assert "interval" not in ax.get_xlabel() and "sd" not in ax.get_xlabel()  # nor words about them
    both = tables.accuracy(tables.scores([*tri, *make_study({"second": THREE}, seeds=1)]))
    assert table_plots.accuracy_rankings(both).legends[0].get_title().get_text() == ""


def test_sensitivity_curves(scores, runs):
    more = [make_run(seed=s, overrides={"tau_p": v}) for v in (0.1, 1.0) for s in range(3)]
    table = tables.sensitivity(tables.scores(runs + more))
    fig = table_plots.sensitivity_curves(table)
    assert [ax.get_xlabel() for ax in fig.axes] == ["lambda_p", "tau_p"]
    for ax, name in zip(fig.axes, ("lambda_p", "tau_p")):
        part = table[table["parameter"] == name]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), part["d_oa"])
        assert [t.get_text() for t in ax.get_xticklabels()] == part["value"].tolist()
        np.testing.assert_allclose(
            [s[:, 1] for s in ax.containers[0].lines[2][0].get_segments()], part[["d_oa_lo", "d_oa_hi"]]
        )
    assert "points" in fig.get_supylabel()
    empty = table_plots.sensitivity_curves(tables.sensitivity(tables.scores([])))
    assert empty.axes[0].texts[0].get_text() == "no sensitivity runs"


def test_what_is_missing_is_named(runs, scores):
    with pytest.raises(PrsaError, match="expected runs of 'ogm-ge', got .*sim-sar/concat"):
        plots.learning_curves(runs, "ogm-ge")
    with pytest.raises(PrsaError, match="one scene, got other, sim-sar"):
        plots.learning_curves([*runs, make_run("other")])
    with pytest.raises(PrsaError, match="sim-sar"):
        table_plots.accuracy_ranking(tables.accuracy(scores), "mars")


@pytest.mark.parametrize("modalities, classes", [(TWO, 8), (THREE, 12)])
def test_scene_gallery(modalities, classes):
    scene, split = make_scene(modalities=modalities, classes=classes)
    fig = maps.scene_gallery(scene, split)
    shown = images(fig)
    assert len(shown) == len(modalities) + 2 and "hsi: 843, 661, 557 nm" in shown
    np.testing.assert_array_equal(shown["labels"], scene["label"])
    np.testing.assert_array_equal(shown["split (blocks)"], split)
    parts = [
        f"{name}: {int((split == code).sum()):,} px" for name, code in (("train", 1), ("validation", 2), ("test", 3))
    ]
    assert len(fig.legends) == 1 and entries(fig.legends[0]) == LONG_NAMES[:classes] + parts
    colours = [to_hex(p.get_facecolor()).upper() for p in fig.legends[0].get_patches()]
    assert colours == [*style.CLASS_COLOURS[:classes], *maps.SPLIT.values()]
    labels = next(ax for ax in fig.axes if ax.get_title() == "labels").images[0]
    assert to_hex(labels.cmap(labels.norm(5))).upper() == style.CLASS_COLOURS[4]
    assert fig.axes[len(modalities)].get_xlabel() == "column (pixels)"
    if "lidar" in modalities:
        np.testing.assert_allclose(shown["lidar"], scene["lidar"][0])
        assert "height (m)" in [ax.get_ylabel() for ax in fig.axes]


def test_pictures_of_sensors():
    scene, _ = make_scene(modalities=("hsi", "sar"), wavelength=False)
    assert maps.picture(scene, "hsi")[1] == "hsi: bands 18, 11, 5"
    linear = scene.assign(
        sar=(
            ("sar_band", "y", "x"),
            (10 ** (scene["sar"].values / 10)).astype(np.float32),
            {"kind": "sar", "units": "1"},
        )
    )
    np.testing.assert_allclose(
        maps.picture(linear, "sar")[0], maps.picture(scene, "sar")[0], atol=1e-3
    )  # both end in dB
    one = linear.isel(sar_band=[0])
    values, _, bar = maps.picture(one, "sar")
    np.testing.assert_allclose(values, scene["sar"][0], atol=1e-3)
    assert bar == "backscatter (dB)"
    holes = scene.copy(deep=True)
    holes["hsi"][:, 3, 4] = np.nan
    assert maps.picture(holes, "hsi")[0][3, 4] == pytest.approx(to_rgb(maps.NONE_COLOUR))


def test_maps_panel():
    scene, split = make_scene(classes=12)
    run = make_run(classes=12)
    fig = maps.maps_panel(scene, run, split)
    test = split.values == 3
    right = (run["map"].values == scene["label"].values)[test]
    shown = images(fig)
    assert list(shown) == [
        "ground truth",
        "prsanet, seed 0",
        f"errors, test pixels (OA {100 * right.mean():.1f} %)",
        "confidence",
    ]
    truth, land, errors, confidence = shown.values()
    np.testing.assert_array_equal(truth, scene["label"])
    np.testing.assert_array_equal(land, run["map"])
    assert (errors[~test] == 0).all() and (errors[test] == np.where(right, 1, 2)).all()
    np.testing.assert_array_equal(confidence, run["confidence"])
    assert "probability (0 to 1)" in [ax.get_ylabel() for ax in fig.axes]
    assert entries(fig.legends[0]) == [*LONG_NAMES, "right", "wrong"]
    everywhere = images(maps.maps_panel(scene, run))
    assert ((list(everywhere.values())[2] > 0) == (scene["label"].values > 0)).all()


def _lab(linear):
    xyz = (
        np.clip(linear, 0, 1)
        @ np.array([[0.4125, 0.2127, 0.0193], [0.3576, 0.7152, 0.1192], [0.1804, 0.0722, 0.9503]])
        / [0.9505, 1, 1.0888]
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def test_class_colours_stay_apart_for_every_eye():
    protanopia = np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    )
    deuteranopia = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )  # Machado et al. 2009
    rgb = np.array([to_rgb(c) for c in style.class_colours(20)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for eye in (np.eye(3), protanopia, deuteranopia):
        lab = _lab(linear @ eye.T)
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(20)
        assert apart.min() > 14
    assert len({to_hex(c) for c in style.class_colours(30)}) == 30


def test_colours_of_modalities_never_collide():
    assert style.modality_colours(["hsi", "sar"]) == {"hsi": "#009E73", "sar": "#CC79A7"}
    many = style.modality_colours(["lidar", "dsm", "chm", "hsi", "thermal", "sar", "rgb"])
    assert len(set(many.values())) == 7 and many["lidar"] == "#E69F00"


def test_text_is_readable_at_half_page_width(runs):
    fig = plots.learning_curves(runs)
    shrink = 85 / 25.4 / fig.get_figwidth()
    texts = [
        t for ax in fig.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels())
    ] + fig.legends[0].get_texts()
    assert min(t.get_fontsize() for t in texts if t.get_text()) * shrink >= 5.9


def test_saved_files_are_whole_and_repeatable(runs, tmp_path):
    first = plots.save(plots.branch_agreement(runs), tmp_path / "a" / "agreement.v1")
    assert [p.name for p in first] == ["agreement.v1.png", "agreement.v1.pdf"] and {p.name for p in first} == {
        p.name for p in (tmp_path / "a").iterdir()
    }
    second = plots.save(plots.branch_agreement(runs).figure, tmp_path / "b" / "agreement.v1")
    for a, b in zip(first, second):
        assert a.read_bytes() == b.read_bytes()
    assert b"CreationDate" not in first[1].read_bytes()


def test_caller_settings_are_left_alone(runs):
    before = dict(plt.rcParams)
    plots.learning_curves(runs)
    assert dict(plt.rcParams) == before
