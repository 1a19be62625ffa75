"""The README's numbers are those of results/reference."""

import json

import pandas as pd
import pytest
from record import reference
from synthetic import SKILL, make_run, make_study

from prsa import files
from prsa.errors import PrsaError
from prsa.report import claims, evaluation, tables

README = (files.ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_blocks_are_made_from_the_reference_files():
    assert reference.with_blocks(README) == README, "run make reference"


def evaluated(tmp_path, runs):
    (tmp_path / "tables").mkdir(exist_ok=True)
    tables.write_text(
        tables.csv_text(evaluation.evaluation(tables.scores(runs))), tmp_path / "tables" / "evaluation.csv"
    )
    return reference.results_block(tmp_path)


SCENES = {"sim-sar": ("hsi", "sar"), "sim-sar:1": ("hsi", "sar"), "muufl": ("hsi", "lidar")}


def test_results_block_has_a_pair_of_columns_per_group(tmp_path):
    runs = make_study({k: v for k, v in SCENES.items() if k != "muufl"}, seeds=3, lambdas=()) + make_study(
        {"muufl": SCENES["muufl"]}, seeds=3, lambdas=(), simulated=0
    )
    text = evaluated(tmp_path, runs)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", "sim-sar: OA", "sim-sar: to concat", "muufl: OA", "muufl: to concat"]
    assert [row[0] for row in rows[2:]] == ["hsi", "sar", "lidar", *SKILL]
    assert "`sim-sar` (2 simulated scenes, 3 seeds), `muufl` (real, 3 seeds)" in text
    assert (
        rows[3][3:] == ["–", "–"] and rows[2 + 3 + list(SKILL).index("concat")][2] == "–"
    )  # no SAR in the second group; concat is the reference
    table = pd.read_csv(tmp_path / "tables" / "evaluation.csv").set_index(["group", "method"])
    row = table.loc[("sim-sar", "prsanet")]
    assert rows[-1][1:3] == [
        f"{row['oa_mean']:.1f}",
        f"{row['d_oa']:+.1f} [{row['d_oa_lo']:.1f}, {row['d_oa_hi']:.1f}]",
    ]


def test_results_block_shows_the_study_only(tmp_path):
    runs = make_study(SCENES, seeds=2, lambdas=())
    more = [
        make_run(name, method, seed, modalities)
        for name, modalities in SCENES.items()
        for seed in range(2)
        for method in ("mft", "aux", "rf")
    ]
    assert evaluated(tmp_path, runs) == evaluated(tmp_path, runs + more)


def test_comparison_block_says_place_and_lead(tmp_path):
    folder = tmp_path / "comparison" / "tables"
    folder.mkdir(parents=True)
    (folder / "datasets.csv").write_text("scene,simulated\na,1\nb,0\n")
    (folder / "accuracy.csv").write_text(
        "scene,simulated,method,family,oa_mean,oa_sd\na,1,hsi,single,10,1\na,1,mft,network,61.25,1\na,1,prsanet,study,60,2\nb,0,mft,network,50,1\n"
    )
    (folder / "ranking.csv").write_text(
        "method,family,n_scenes,n_seeds,rank_mean,rank_lo,rank_hi,oa_mean,d_oa,d_oa_lo,d_oa_hi\n"
        "mft,network,2,3,1.25,1,2,55,-1.5,-3,0.5\nprsanet,study,2,3,1.75,1,2,53,0,0,0\n"
    )
    text = reference.comparison_block(tmp_path)
    assert "2 methods, 2 scenes, 3 seeds" in text and "`prsanet` (1.8) is number 2" in text
    assert (
        "`mft` is -1.5 [-3.0, 0.5] points" in text
        and "a (simulated)" in text
        and "b (real)" in text
        and "| 61.2 ± 1.0 | 50.0 ± 1.0 |" in text
    )
    assert "hsi" not in text


def test_speed_block_reads_the_measurements(tmp_path):
    (tmp_path / "bench").mkdir()
    timing = {"minutes": 7.2, "first_table_minutes": 1.3, "runs": 11, "cores": 3, "device": "cpu"}
    (tmp_path / "timing.json").write_text(json.dumps(timing))
    rows = [
        {"method": "prsanet", "threads": 3, "samples_per_s": 1234, "pixels_per_s": 98765},
        {"method": "concat", "threads": 3, "samples_per_s": 9999, "pixels_per_s": 1},
    ]
    for name in ("training", "mapping"):
        (tmp_path / "bench" / f"{name}.json").write_text(
            json.dumps({"machine": {"cores": 3}, "bands": {"hsi": 5, "sar": 2}, "rows": rows})
        )
    text = reference.speed_block(tmp_path)
    assert (
        all(
            part in text
            for part in (
                "3 CPU cores",
                "7 minutes",
                "11 runs",
                "1.3 minutes",
                "5 + 2 bands",
                "1,234 patches",
                "98,765 pixels",
            )
        )
        and "9,999" not in text
    )


def test_bench_block_reads_ratios_workers_and_exponents(tmp_path):
    (tmp_path / "bench").mkdir()
    ratio = {"method": "concat", "patch": 7, "ratio": 12.5, "share_of_matmul": 0.666}
    (tmp_path / "bench" / "mapping.json").write_text(
        json.dumps({"ratios": [ratio | {"pixels_per_s": 123456, "target": 50, "operations_ratio": 12.7}]})
    )
    (tmp_path / "bench" / "training.json").write_text(json.dumps({"ratios": [ratio | {"samples_per_s": 7890}]}))
    grid = {
        "workers": [
            {"workers": 1, "runs_per_hour": 1000, "ratio": 1.0},
            {"workers": 2, "runs_per_hour": 1900, "ratio": 0.95},
        ],
        "ensembles": [{"seeds": 4, "batch": 32, "threads": 2, "device": "cpu", "ratio": 0.86}],
    }
    for name, gain in (("mixed", 1), ("together", -1)):
        (tmp_path / "bench" / f"{name}.csv").write_text(
            f"scene,ratio,val_oa,val_oa_{name}\na,1.2,70,{70 + gain}\nb,1.2,71,{71 + gain}\nc,1.2,72,{72 + gain}\n"
        )
    for name, ms in (("profile_before", (3000, 1000)), ("profile", (1500, 300))):
        (tmp_path / "bench" / f"{name}.csv").write_text(
            "task,patch,operation,ms,share,calls\n"
            + "".join(
                f"mapping,7,{operation},{value},0.5,1\n"
                for operation, value in zip(("mkldnn_convolution", "all others"), ms)
            )
        )
    (tmp_path / "bench" / "grid.json").write_text(json.dumps(grid))
    (tmp_path / "bench" / "scaling_exponents.csv").write_text(
        "task,against,quantity,exponent,exponent_lo,exponent_hi\ntraining,pixels,seconds,0.912,0.8,1\n"
        "training,pixels,memory_mb,7,7,7\nmapping,pixels,seconds,1,0.9,1.1\n"
    )
    text = reference.bench_block(tmp_path)
    assert (
        "| mapping | concat | 7 | 123,456 pixels | 12.5 | 50 | 12.7 | 67 % |" in text
        and "| training | concat | 7 | 7,890 samples | 12.5 | 3 | 1 | 67 % |" in text
    )
    assert (
        "1,900 runs per hour with 2 (0.95 of 2 times one)" in text
        and "after the other (cpu): 0.86 (4 seeds, batch 32, threads: 2)" in text
    )
    assert (
        "bfloat16 (3 scenes) 1.20 [1.20, 1.20] times the speed, +1.0 [1.0, 1.0] points" in text
        and "batched network (3 scenes) 1.20 [1.20, 1.20] times the speed, -1.0" in text
    )
    assert "| a map | 7 | 4.00 | 75 % | 1.80 | 83 % |" in text
    assert "| pixels | 1.00 [0.90, 1.10] | 0.91 [0.80, 1.00] |" in text


def test_findings_block_answers_every_question_per_group(tmp_path):
    runs = make_study(SCENES, seeds=3, lambdas=())
    scored = tables.scores(runs)
    for name, table in (
        ("evaluation", evaluation.evaluation(scored)),
        ("recovery", evaluation.recovery(scored)),
        ("claims", claims.ledger(runs)),
    ):
        tables.write_text(tables.csv_text(table), tmp_path / "tables" / f"{name}.csv")
    text, ledger = reference.findings_block(tmp_path), pd.read_csv(tmp_path / "tables" / "claims.csv")
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for cells in (line.split("|") for line in text.splitlines() if line.startswith("|"))
    }
    row = ledger[ledger["measure"].eq("OA: prsanet - concat (points)") & ledger["scene"].eq("sim-sar")].iloc[0]
    assert (
        rows["`prsanet` minus `concat`"][0] == f"{row['effect']:+.1f} [{row['lo']:.1f}, {row['hi']:.1f}]"
        and len(rows["`prsanet` minus `concat`"]) == 2
    )
    recovered = (
        pd.read_csv(tmp_path / "tables" / "recovery.csv")
        .query("method == 'prsanet' and role == 'slow' and group == 'muufl'")
        .iloc[0]
    )
    assert rows["slow branch: share of its probe gap closed, of points"][1].startswith(
        f"{recovered['modality']} {100 * recovered['recovered']:.0f} %"
    )
    assert (
        "noise 2: `prsanet` minus `concat`" in rows
        and "`prsanet` minus `pmr`" in rows
        and rows["`prsanet` minus `pmr`"] == ["–", "–"]
    )
    assert f"{len(ledger)} rows: {ledger['verdict'].eq('supported').sum()} supported" in text


@pytest.mark.parametrize("broken", [README.replace("<!-- speed:end -->", ""), README + "<!-- results:begin -->\n"])
def test_missing_or_doubled_markers_are_named(broken):
    with pytest.raises(PrsaError, match="once each"):
        reference.with_blocks(broken)
