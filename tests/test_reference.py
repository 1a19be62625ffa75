"""The README's numbers are those of results/reference."""

import json

import pandas as pd
import pytest
from synthetic import SKILL, make_run, make_study

from prsa import evaluation, paths, reference, tables
from prsa.errors import PrsaError

README = (paths.ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_blocks_are_made_from_the_reference_files():
    assert reference.with_blocks(README) == README, "run make reference"


def evaluated(tmp_path, runs):
    (tmp_path / "tables").mkdir(exist_ok=True)
    tables.write_text(tables.csv_text(evaluation.evaluation(tables.scores(runs))), tmp_path / "tables" / "evaluation.csv")
    return reference.results_block(tmp_path)


SCENES = {"sim-sar": ("hsi", "sar"), "sim-sar:1": ("hsi", "sar"), "muufl": ("hsi", "lidar")}


def test_results_block_has_a_pair_of_columns_per_group(tmp_path):
    runs = make_study({k: v for k, v in SCENES.items() if k != "muufl"}, seeds=3, lambdas=()) + make_study({"muufl": SCENES["muufl"]}, seeds=3, lambdas=(), simulated=0)
    text = evaluated(tmp_path, runs)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["method", "sim-sar: OA", "sim-sar: to concat", "muufl: OA", "muufl: to concat"]
    assert [row[0] for row in rows[2:]] == ["hsi", "sar", "lidar", *SKILL]
    assert "`sim-sar` (2 simulated scenes, 3 seeds), `muufl` (real, 3 seeds)" in text
    assert rows[3][3:] == ["–", "–"] and rows[2 + 3 + list(SKILL).index("concat")][2] == "–"  # no SAR in the second group; concat is the reference
    table = pd.read_csv(tmp_path / "tables" / "evaluation.csv").set_index(["group", "method"])
    row = table.loc[("sim-sar", "prsanet")]
    assert rows[-1][1:3] == [f"{row['oa_mean']:.1f}", f"{row['d_oa']:+.1f} [{row['d_oa_lo']:.1f}, {row['d_oa_hi']:.1f}]"]


def test_results_block_shows_the_study_only(tmp_path):
    runs = make_study(SCENES, seeds=2, lambdas=())
    more = [make_run(name, method, seed, modalities) for name, modalities in SCENES.items() for seed in range(2) for method in ("mft", "aux", "rf")]
    assert evaluated(tmp_path, runs) == evaluated(tmp_path, runs + more)


def test_comparison_block_says_place_lead_and_cost(tmp_path):
    folder = tmp_path / "comparison" / "tables"
    folder.mkdir(parents=True)
    (folder.parent / "timing.json").write_text(json.dumps({"minutes": 31.4, "seeds": 3, "cores": 2}))
    (folder / "datasets.csv").write_text("scene,simulated\na,1\nb,0\n")
    (folder / "accuracy.csv").write_text("scene,simulated,method,family,oa_mean,oa_sd\na,1,hsi,single,10,1\na,1,mft,network,61.25,1\na,1,prsanet,study,60,2\nb,0,mft,network,50,1\n")
    (folder / "ranking.csv").write_text("method,family,n_scenes,n_seeds,rank_mean,rank_lo,rank_hi,oa_mean,d_oa,d_oa_lo,d_oa_hi\n"
                                        "mft,network,2,3,1.25,1,2,55,-1.5,-3,0.5\nprsanet,study,2,3,1.75,1,2,53,0,0,0\n")
    text = reference.comparison_block(tmp_path)
    assert "2 methods, 2 scenes, 3 seeds" in text and "31 minutes on 2 cores" in text and "`prsanet` (1.8) is number 2" in text
    assert "`mft` is -1.5 [-3.0, 0.5] points" in text and "a (simulated)" in text and "b (real)" in text and "| 61.2 ± 1.0 | 50.0 ± 1.0 |" in text
    assert "hsi" not in text


def test_speed_block_reads_the_measurements(tmp_path):
    (tmp_path / "bench").mkdir()
    timing = {"minutes": 7.2, "first_table_minutes": 1.3, "runs": 11, "cores": 3, "device": "cpu"}
    (tmp_path / "timing.json").write_text(json.dumps(timing))
    rows = [{"method": "prsanet", "threads": 3, "samples_per_s": 1234, "pixels_per_s": 98765}, {"method": "concat", "threads": 3, "samples_per_s": 9999, "pixels_per_s": 1}]
    for name in ("training", "mapping"):
        (tmp_path / "bench" / f"{name}.json").write_text(json.dumps({"machine": {"cores": 3}, "bands": {"hsi": 5, "sar": 2}, "rows": rows}))
    text = reference.speed_block(tmp_path)
    assert all(part in text for part in ("3 CPU cores", "7 minutes", "11 runs", "1.3 minutes", "5 + 2 bands", "1,234 patches", "98,765 pixels")) and "9,999" not in text


@pytest.mark.parametrize("broken", [README.replace("<!-- speed:end -->", ""), README + "<!-- results:begin -->\n"])
def test_missing_or_doubled_markers_are_named(broken):
    with pytest.raises(PrsaError, match="once each"):
        reference.with_blocks(broken)
