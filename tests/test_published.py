"""Published numbers stand beside ours on the same scene, split and sensors only."""

import pandas as pd

from prsa.report import published, tables

LITERATURE = pd.read_csv(published.PUBLISHED)


def benchmark(
    scene="houston2013", train=2300, val=532, test=12197, split="fixed", modalities="hsi 144; lidar 1", simulated=0
):
    return dict(
        zip(
            tables.COLUMNS["datasets"].split(","),
            (scene, "title", simulated, modalities, 9, 9, 15, train, val, test, split, "licence"),
        )
    )


def measured(scene, **oa):
    rows = [(scene, m, tables.family(m), v, 0.5) for m, v in oa.items()]
    return pd.DataFrame(rows, columns=["scene", "method", "family", "oa_mean", "oa_sd"])


def test_the_file_of_published_numbers():
    columns = (
        "dataset modalities protocol train_samples test_samples method year oa oa_sd aa aa_sd kappa kappa_sd source"
    )
    assert len(LITERATURE) == 206 and LITERATURE.columns.tolist() == columns.split()
    assert LITERATURE[["dataset", "modalities", "protocol", "method", "oa", "source"]].notna().all(axis=None)
    numbers = LITERATURE[["oa", "aa", "kappa"]]
    assert (((numbers > 1) & (numbers <= 100)) | numbers.isna()).all(
        axis=None
    )  # points, also where a source prints kappa as a fraction
    row = LITERATURE.query(
        "dataset == 'Houston2013' and modalities == 'HSI+LiDAR' and method == 'MFT' and oa_sd == 0.53"
    ).iloc[0]
    assert row[["oa", "aa", "aa_sd", "kappa", "kappa_sd", "train_samples", "test_samples"]].tolist() == [
        89.80,
        91.51,
        0.40,
        88.93,
        0.59,
        2832,
        12197,
    ]


def test_published_numbers_stand_beside_ours_on_the_same_split_only():
    datasets = pd.DataFrame([benchmark(), benchmark("sim-sar", simulated=1)])
    ours = pd.concat(
        [measured("houston2013", prsanet=90.0, mft=88.0, svm=80.0, endnet=85.0), measured("sim-sar", mft=70.0)]
    )
    table = published.published(ours, datasets, LITERATURE)
    assert (
        table.columns.tolist()
        == "scene method ours_oa ours_sd published_method published_oa published_sd source".split()
    )
    assert set(table["scene"]) == {"houston2013"}
    both = table[table["method"].ne("")]
    assert sorted(both[["method", "ours_oa", "published_method", "published_oa"]].to_numpy().tolist()) == [
        ["mft", 88.0, "MFT", 87.03],
        ["mft", 88.0, "MFT", 89.8],
        ["svm", 80.0, "SVM", 71.94],
    ]
    assert both.index.tolist() == [0, 1, 2] and both["ours_sd"].eq(0.5).all()
    alone = table[table["method"].eq("")]
    assert {"RF", "ViT", "ExViT", "M2Heat"} <= set(alone["published_method"]) and alone["ours_oa"].isna().all()
    assert "ExViT (official run log)" not in set(table["published_method"])  # its epoch was chosen on the test pixels
    assert not table["published_oa"].isin([95.11, 99.37, 94.77]).any()  # other or unstated splits
    assert table["source"].str.len().min() > 5


def test_published_numbers_need_the_official_counts_kind_and_modalities():
    scenes = [
        benchmark(),
        benchmark(train=2285, val=532),
        benchmark(test=12182),
        benchmark(split="blocks"),
        benchmark(modalities="hsi 144"),
        benchmark(modalities="lidar 1; hsi 144"),
    ]
    found = [len(published.published(measured("houston2013"), pd.DataFrame([scene]), LITERATURE)) for scene in scenes]
    assert found[0] > 15 and found[1:4] == [0, 0, 0] and found[5] == found[0]
    hsi_only = published.published(measured("houston2013"), pd.DataFrame([scenes[4]]), LITERATURE)
    assert 0 < len(hsi_only) < 20 and "Cross-HL" not in set(hsi_only["published_method"])


def test_reasons_why_no_published_number_is_shown():
    scenes = [
        benchmark(),
        benchmark("sim-sar", simulated=1),
        benchmark("muufl_crop"),
        benchmark("trento", 400, 100, 500, "blocks", "hsi 63; lidar 2"),
        benchmark("muufl", modalities="hsi 64; lidar 2"),
        benchmark("augsburg", 700, 61, 77533, modalities="hsi 180; chm 1"),
    ]
    reasons = published.reasons(pd.DataFrame(scenes), LITERATURE)
    assert list(reasons) == ["sim-sar", "muufl_crop", "trento", "muufl", "augsburg"]
    assert (
        "simulated" in reasons["sim-sar"]
        and "none of the data sets" in reasons["muufl_crop"]
        and "random or unstated" in reasons["muufl"]
    )
    assert all(part in reasons["trento"] for part in ("819 training and 29395", "got 500", "500 of the kind blocks"))
    assert "exactly chm + hsi" in reasons["augsburg"]
    assert not any("\n" in text or not text.endswith(".") for text in reasons.values())
    swapped = published.reasons(pd.DataFrame([benchmark(train=2285)]), LITERATURE)["houston2013"]
    assert "2832 training and 12197 test pixels, got 2817 (validation included) and 12197" in swapped
