"""What git keeps of a full run: small tables, figures and measurements, and the texts made from them.

`make reference` runs this after `make reproduce`, with or without METHODS=all, `make bench` and `make tune`. The tables
of METHODS=all are kept in ``comparison`` beside those of the study. A test compares both README files with the tables.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from prsa import files
from prsa.errors import PrsaError
from prsa.report.intervals import text as effect
from prsa.reproduce import DEFAULTS
from prsa.study.plan import dial_grid, grid

REFERENCE = files.ROOT / "results" / "reference"
STUDY = ("tables/*.csv", "figures/group_differences.png", "figures/claims.png", "figures/robustness_*.png")
STUDY = (*STUDY, "figures/dial_*.png", "timing.json")
COMPARISON = tuple(f"tables/{name}.csv" for name in ("datasets", "accuracy", "ranking", "complexity"))
COMPARISON = (*COMPARISON, "figures/accuracy_ranking.png", "figures/rank_intervals.png")
PLACES = ("places/tables/accuracy.csv", "places/tables/datasets.csv")
MEASURED = (
    *PLACES,
    "bench/*.csv",
    "bench/*.json",
    "bench/*.png",
    "tuning.csv",
    "research.csv",
    "campaign.csv",
    "machines.csv",
)
OTHERS = ("concat", "late", "pmr", "concat+prm", "sagf")  # what prsanet is compared with, one by one


def markdown(rows: list[dict]) -> str:
    """A Markdown table: a line per dict, in the order of the first one's keys; what a row lacks is a dash."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row.get(c, "–") for c in columns] for row in rows)]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _table(reference: Path, *names: str) -> list[pd.DataFrame]:
    return [pd.read_csv(reference / f"{name}.csv") for name in names]


def _claims(ledger: pd.DataFrame, measure: str) -> dict[str, str]:
    """Group -> effect with interval of a measure of the ledger of claims."""
    rows = ledger[ledger["measure"].eq(f"{measure} (points)")].set_index("scene")[["effect", "lo", "hi"]]
    return {name: effect(*row) for name, row in rows.iterrows()}


def headline(reference: Path) -> str:
    """A row per group of scenes: late fusion, concatenation, prsanet, and by how much it is ahead."""
    evaluation, ledger = _table(reference, "tables/evaluation", "tables/claims")
    leads = {other: _claims(ledger, f"OA: prsanet - {other}") for other in ("concat", "late")}
    rows = []
    for name, part in evaluation.groupby("group", sort=False):
        oa, first = part.set_index("method")["oa_mean"], part.iloc[0]
        kind = f"{first['n_scenes']} simulated" if first["simulated"] else "real"
        rows.append(
            {"scenes": f"`{name}` ({kind})"}
            | {f"`{method}`": f"{oa[method]:.1f}" for method in ("late", "concat", "prsanet")}
            | {f"`prsanet` minus `{other}`": lead.get(name, "–") for other, lead in leads.items()}
        )
    return (
        f"Test accuracy (OA, points), mean over scenes and {evaluation['n_seeds'].iloc[0]} seeds, "
        f"with 95 % intervals.\n\n{markdown(rows)}"
    )


def results(reference: Path) -> str:
    """Mean OA per method and group, and its difference to concat."""
    (evaluation,) = _table(reference, "tables/evaluation")
    methods = {m: None for family in ("single", "late", "study", "rebalancing") for m in _of(evaluation, family)}
    means, leads = ([{"method": f"`{method}`"} for method in methods] for _ in range(2))
    for name, part in evaluation.groupby("group", sort=False):
        part = part.set_index("method")
        for mean, lead, method in zip(means, leads, methods):
            mean[name] = lead[name] = "–"
            if method in part.index:
                mean[name] = f"{part.loc[method, 'oa_mean']:.1f}"
                lead[name] = effect(*part.loc[method, ["d_oa", "d_oa_lo", "d_oa_hi"]])
    leads = [lead for lead in leads if lead["method"] != "`concat`"]
    return f"Test OA, points:\n\n{markdown(means)}\nDifference to `concat`, points:\n\n{markdown(leads)}"


def _of(evaluation: pd.DataFrame, family: str) -> list[str]:
    return list(dict.fromkeys(evaluation.loc[evaluation["family"].eq(family), "method"]))


def findings(reference: Path) -> str:
    """A row per question and a column per group: leads of prsanet, recovered branches, degraded sensors, verdicts."""
    evaluation, recovery, ledger = _table(reference, "tables/evaluation", "tables/recovery", "tables/claims")
    ours = evaluation[evaluation["method"].eq("prsanet")].set_index("group")
    slow = recovery[recovery["method"].eq("prsanet") & recovery["role"].eq("slow") & recovery["recovered"].notna()]
    degraded = ledger.loc[ledger["measure"].str.startswith("OA, dominant sensor"), "measure"].drop_duplicates()
    rows = {f"`prsanet` minus `{other}`": _claims(ledger, f"OA: prsanet - {other}") for other in OTHERS}
    rows |= {
        "`prsanet` minus `concat`, AA": {name: effect(*row) for name, row in ours.filter(regex="^d_aa").iterrows()},
        "slow branch: share of its probe gap closed, of points": {
            row.group: f"{row.modality} {100 * row.recovered:.0f} % of {row.gap_concat:.1f}"
            for row in slow.itertuples()
        },
        "`prsanet` minus `prsanet-no-push`": _claims(ledger, "OA: prsanet - prsanet-no-push"),
    }
    for measure in degraded:
        what = (
            measure.removeprefix("OA, dominant sensor ").partition(":")[0].replace("missing", "dominant sensor missing")
        )
        rows[f"{what}: `prsanet` minus `concat`"] = _claims(ledger, measure.removesuffix(" (points)"))
    groups, count = list(ours.index), ledger["verdict"].value_counts()
    told = ", ".join(f"{count.get(verdict, 0)} {verdict}" for verdict in ("supported", "not supported", "reversed"))
    table = [{"": name} | {group: row.get(group, "–") for group in groups} for name, row in rows.items()]
    return f"`tables/claims.csv` has {len(ledger)} rows: {told}.\n\n{markdown(table)}"


def comparison(reference: Path) -> str:
    """Every method: OA per scene, mean rank, and by how much prsanet is ahead of it."""
    names = (f"comparison/tables/{name}" for name in ("accuracy", "ranking", "datasets"))
    accuracy, ranking, datasets = _table(reference, *names)
    rows = []
    for row in ranking.itertuples():
        scenes = accuracy[accuracy["method"].eq(row.method)].set_index("scene")
        lead = "0" if row.method == "prsanet" else effect(row.d_oa, row.d_oa_lo, row.d_oa_hi)
        rank = f"{row.rank_mean:.1f} [{row.rank_lo:.1f}, {row.rank_hi:.1f}]"
        rows.append(
            {"method": f"`{row.method}`", "family": row.family, "mean rank": rank, "`prsanet` minus it": lead}
            | {name: f"{part.oa_mean:.1f} ± {part.oa_sd:.1f}" for name, part in scenes.iterrows()}
        )
    names = list(ranking["method"])
    best = ranking[ranking["method"].ne("prsanet")].iloc[0]
    return (
        f"{len(names)} methods, {len(datasets)} scenes, {ranking['n_seeds'].iloc[0]} seeds. By mean rank `prsanet` "
        f"({ranking['rank_mean'][names.index('prsanet')]:.1f}) is number {names.index('prsanet') + 1}; the best of "
        f"the others is `{best['method']}` ({best['rank_mean']:.1f}), and `prsanet` minus `{best['method']}` is "
        f"{effect(best['d_oa'], best['d_oa_lo'], best['d_oa_hi'])} points of OA.\n\n{markdown(rows)}"
    )


def places(reference: Path) -> str:
    """Five real places, two of them made from raster files: their splits, OA per method, and what prsanet adds."""
    accuracy, datasets = _table(reference, "places/tables/accuracy", "places/tables/datasets")
    about = [
        {"place": f"`{r.scene}`", "what": r.title, "sensors and bands": r.modalities, "classes": r.classes}
        | {"pixels trained on": f"{r.train:,}", "validation": f"{r.val:,}", "test": f"{r.test:,}", "split": r.split}
        for r in datasets.itertuples()
    ]
    rows = []
    by = accuracy.set_index(["method", "scene"])
    for method in dict.fromkeys(accuracy["method"]):
        row = {"OA, points": f"`{method}`"}
        for scene in datasets["scene"]:
            there = (method, scene) in by.index
            row[scene] = f"{by.oa_mean[method, scene]:.1f} ± {by.oa_sd[method, scene]:.1f}" if there else "–"
        rows.append(row)
    ours = by.loc["prsanet", ["d_oa", "d_oa_lo", "d_oa_hi"]]
    lead = {"OA, points": "`prsanet` minus `concat`"} | {scene: effect(*row) for scene, row in ours.iterrows()}
    ahead, behind = (", ".join(f"`{name}`" for name in ours.index[of]) for of in (ours.d_oa_lo > 0, ours.d_oa_hi < 0))
    return (
        f"{markdown(about)}\n{markdown([*rows, lead])}\n`prsanet` minus `concat` excludes 0 above on "
        f"{ahead or 'none'}, below on {behind or 'none'}.\n"
    )


def commands(reference: Path) -> str:
    """The two commands, and what they took when they were timed (make test: by hand, its last line in tests.json)."""
    timing, tests = (json.loads((reference / f"{name}.json").read_text()) for name in ("timing", "tests"))
    scenes, seeds = DEFAULTS["full"]
    runs = len({*grid(list(scenes), None, seeds), *dial_grid(list(scenes), seeds)})
    took = f"{timing['minutes']:.0f} minutes on {timing['cores']} CPU cores, the first table after"
    took = f"{took} {timing['first_table_minutes']:.0f}, once the environment is there"
    measured = took if timing["runs"] == runs else f"a study of {timing['runs']} of them took {took}"
    minutes = f"{tests['seconds'] / 60:.0f} minutes"
    return (
        f"```\nmake reproduce  # every run, table, figure and notebook -> results/\n"
        f"make test       # unit tests, then every notebook with its defaults; about {minutes}\n```\n\n"
        f"`make reproduce` trains {runs} runs: {measured}.\n"
    )


def speed(reference: Path) -> str:
    """The benchmark: shares of the convolution rate, before and after, worker processes, growth with the size."""
    names = ("speed", "workers", "scaling_exponents", "complexity")
    table, workers, growth, complexity = _table(reference, *(f"bench/{name}" for name in names))
    rows = [
        {
            "task": r.task,
            "method": f"`{r.method}`",
            "patch": r.patch,
            "threads": r.threads,
            "per second": f"{r.per_s:,} {'pixels' if r.task == 'mapping' else 'samples'}",
            "share of the convolution rate": f"{100 * r.share_of_rate:.0f} %",
            "target": f"{100 * r.target:.0f} %",
            "times the usual way": f"{r.ratio:.3g}",
            "operations saved (times)": f"{r.operations_ratio:.3g}",
        }
        for r in table.itertuples()
    ]
    grid = ", ".join(f"{r.runs_per_hour:,} with {r.workers} ({r.ratio:.2f} of the ideal)" for r in workers.itertuples())
    powers = {}
    for r in growth[growth["quantity"].eq("seconds")].itertuples():
        row = powers.setdefault(r.against, {"exponent of time against": r.against})
        row[r.task] = f"{r.exponent:.2f} [{r.exponent_lo:.2f}, {r.exponent_hi:.2f}]"
    trained = complexity.set_index("method").loc["prsanet", "train_per_s"]
    (tile,) = _table(reference, "bench/tile")
    tile = tile.iloc[0]
    return (
        f"{markdown(rows)}\nAt 144 + 1 bands `prsanet` trains {trained:,} patches of 7 x 7 per second. Runs per hour "
        f"by worker processes: {grid}.\n\nA Sentinel tile from disk ({tile['side']:,.0f} x {tile['side']:,.0f} pixels, "
        f"14 bands of two sensors): {tile['seconds']:.0f} s and at most {tile['peak_mb']:,.0f} MB, "
        f"{100 * tile['ratio']:.0f} % of the speed per pixel of a scene in memory "
        f"(`python -m record.tile`).\n\n{markdown(list(powers.values()))}"
    ) + _changes(reference)


def _changes(reference: Path) -> str:
    """What the last work on speed changed, and where the time of a run goes, as far as they were measured."""
    names = ("before_after", "equal", "profile")
    text, changed, equal, profile = "", *(reference / "bench" / f"{name}.csv" for name in names)
    if changed.is_file():
        rows = [
            {"one thread": r.quantity, "before": f"{r.before:.3g}", "after": f"{r.after:.3g}"}
            | {"after / before": f"{r.after_over_before:.2f}"}
            for r in pd.read_csv(changed).itertuples()
        ]
        text += f"\n{markdown(rows)}"
    if equal.is_file():
        rows = [
            {
                "newer minus older": r.quantity,
                "runs": r.runs,
                "the same to the last digit": f"{r.same:,} of {r.values:,}",
            }
            | {"mean": f"{r.mean:+.2f} [{r.lo:.2f}, {r.hi:.2f}]", "largest": f"{r.largest:.2f}"}
            for r in pd.read_csv(equal).itertuples()
        ]
        text += f"\n{markdown(rows)}"
    if profile.is_file():
        table = pd.read_csv(profile)
        parts = list(table.columns[table.columns.get_loc("seconds") + 1 :])
        rows = [
            {"run": f"`{r['method']}`, {r['scene']}", "seconds": f"{r['seconds']:.1f}"}
            | {part: f"{100 * r[part] / r['seconds']:.0f} %" for part in parts}
            for r in table.to_dict("records")
        ]
        text += f"\n{markdown(rows)}"
    return text


def reliability(reference: Path) -> str:
    """How far the same run differs on other processors, and what the campaign found, once it was run."""
    machines, accuracy = _table(reference, "machines", "tables/accuracy")
    other = machines[machines["difference"].ne(0)]
    worst, square = other.loc[other["difference"].abs().idxmax()], (other["difference"] ** 2).mean()
    seeds = accuracy.set_index(["scene", "method"])["oa_sd"]
    usual = seeds.loc[list(zip(other["scene"], other["method"]))].mean()
    same = machines.groupby("setting")["difference"].agg(lambda differences: not differences.any())
    same = ", ".join(name for name in machines["setting"].unique()[1:] if same[name])
    tolerance = {n: 3 * (square / n) ** 0.5 for n in (1, 9, 30)}
    campaign = reference / "campaign.csv"
    rows = pd.read_csv(campaign, keep_default_na=False).to_dict("records") if campaign.is_file() else []
    means = ", ".join(f"{points:.1f} points for n = {n}" for n, points in tolerance.items())
    where = f"`{worst['scene']}`, `{worst['method']}`, {worst['setting']}"
    return (
        f"No difference at all: {same}. Where there is one, the largest of one run's OA is "
        f"{abs(worst['difference']):.1f} points ({where}); root mean square over {len(other)} runs: {square**0.5:.1f}. "
        f"Deviation of the same methods over seeds: {usual:.1f} points.\n\n"
        "**Tolerance.** On another processor a mean of n runs is the same within three times that root mean square "
        f"over the root of n: {means} (one run; three scenes with three seeds; with ten).\n"
    ) + (f"\n{markdown(rows)}" if rows else "")


TEXTS = {  # file -> the blocks in it
    files.ROOT / "README.md": (commands, headline),
    REFERENCE / "README.md": (results, findings, comparison, places, speed, reliability),
}


def with_blocks(path: Path, text: str, reference: Path = REFERENCE) -> str:
    """The file's text with its generated blocks renewed. Raises `PrsaError` unless all markers are there once."""
    for make in TEXTS[path]:
        begin, end = f"<!-- {make.__name__}:begin -->\n", f"<!-- {make.__name__}:end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise PrsaError(f"{path.name}: expected {begin.strip()} and {end} once each. Fix: put them back.")
        head, rest = text.split(begin)
        text = head + begin + make(reference) + end + rest.split(end)[1]
    return text


def main() -> int:
    """Copy what is kept of the last full run and of the measurements, renew the texts; returns the exit code."""
    folder, wanted, target = files.results("full"), STUDY, REFERENCE
    accuracy = folder / "tables" / "accuracy.csv"
    if accuracy.is_file() and "network" in set(pd.read_csv(accuracy)["family"]):
        wanted, target = COMPARISON, REFERENCE / "comparison"
    missing = [pattern for pattern in wanted if not list(folder.glob(pattern))]
    if missing:
        fix = "Fix: make reproduce, from nothing, to its end"
        print(f"error: expected {', '.join(missing)} in {folder}, found none. {fix}", file=sys.stderr)
        return 2
    for where, patterns in ((target, wanted), (REFERENCE, MEASURED)):
        for path in (path for pattern in patterns for path in folder.glob(pattern)):
            copy = where / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    for path in TEXTS:
        files.write_text(with_blocks(path, path.read_text(encoding="utf-8")), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
