"""What git keeps of a full run: small tables, figures and measurements, and the README blocks made from them.

`make reference` runs this after `make reproduce`, with or without METHODS=all, `make bench` and `make tune`; a test compares the README with
``results/reference``. The tables of METHODS=all are kept in ``comparison`` beside those of the study itself.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from prsa import files, metrics
from prsa.errors import PrsaError
from prsa.report import tables

REFERENCE = files.ROOT / "results" / "reference"
STUDY = (
    "tables/*.csv",
    "figures/group_differences.png",
    "figures/claims.png",
    "figures/robustness_*.png",
    "figures/dial_*.png",
    "timing.json",
)
COMPARISON = (
    "tables/datasets.csv",
    "tables/accuracy.csv",
    "tables/ranking.csv",
    "tables/complexity.csv",
    "figures/accuracy_ranking.png",
    "figures/rank_intervals.png",
    "figures/critical_difference.png",
)
MEASURED = (
    "bench/training.json",
    "bench/mapping.json",
    "bench/complexity.csv",
    "bench/speed.png",
    "bench/scaling.csv",
    "bench/scaling_exponents.csv",
    "bench/scaling.png",
    "bench/grid.json",
    "bench/profile.csv",
    "bench/profile_before.csv",
    "bench/mixed.csv",
    "bench/together.csv",
    "tuning.csv",
    "research.csv",
)  # as far as there are any


def results_block(reference: Path) -> str:
    """OA per method and its difference to concat over the scenes of a kind, a pair of columns per group."""
    evaluation = pd.read_csv(reference / "tables" / "evaluation.csv")
    evaluation = evaluation[
        evaluation["method"].isin([*tables.FUSED_METHODS, *evaluation.loc[evaluation["family"].eq("single"), "method"]])
    ]
    single = dict.fromkeys(evaluation.loc[evaluation["family"].eq("single"), "method"])
    shown, groups = pd.DataFrame({"method": tables.method_order(evaluation["method"], single)}), []
    for name, part in evaluation.groupby("group", sort=False):
        cells = tables.readable(part).set_index("method").reindex(shown["method"])
        shown[f"{name}: OA"] = cells["OA"].str.partition(" [")[0].fillna("–").to_numpy()
        shown[f"{name}: to concat"] = [
            "–" if m == tables.BASELINE or pd.isna(cell) else cell for m, cell in cells["difference in OA"].items()
        ]
        first = part.iloc[0]
        kind = (
            f"{first['n_scenes']} simulated scene{'s' if first['n_scenes'] > 1 else ''}"
            if first["simulated"]
            else "real"
        )
        groups.append(f"`{name}` ({kind}, {first['n_seeds']} seeds)")
    return (
        f"Test OA in points, mean over scenes and seeds, and its difference to `concat`, paired by scene and seed, with its 95 % interval "
        f"(several scenes: bootstrap over scenes, then seeds; one scene: Student's t over seeds): {', '.join(groups)}.\n\n{tables.markdown(shown)}"
    )


def findings_block(reference: Path) -> str:
    """What the study found, a row per question and a column per group: leads of prsanet, recovered branches, degraded sensors, verdicts."""
    evaluation, recovery, ledger = (
        pd.read_csv(reference / "tables" / f"{name}.csv") for name in ("evaluation", "recovery", "claims")
    )
    groups = list(dict.fromkeys(evaluation["group"]))

    def effects(table: pd.DataFrame, column: str, stem: str) -> list[str]:
        cells = dict(
            zip(
                table[column],
                tables.readable(
                    table[[stem, f"{stem}_lo", f"{stem}_hi"]].rename(columns=lambda c: c.replace(stem, "d_oa"))
                ).iloc[:, 0],
            )
        )
        return [cells.get(name, "–") for name in groups]

    def claimed(measure: str) -> list[str]:
        rows = ledger[ledger["measure"].eq(f"{measure} (points)")].rename(
            columns={"effect": "d", "lo": "d_lo", "hi": "d_hi"}
        )
        return effects(rows, "scene", "d")

    slow = recovery[recovery["method"].eq("prsanet") & recovery["role"].eq("slow")].set_index("group").reindex(groups)
    shares = [
        "–" if pd.isna(row.recovered) else f"{row.modality} {100 * row.recovered:.0f} % of {row.gap_concat:.1f}"
        for row in slow.itertuples()
    ]
    lines = {
        f"`prsanet` minus `{other}`": claimed(f"OA: prsanet - {other}")
        for other in ("concat", "late", "pmr", "concat+prm", "sagf")
    }
    lines["`prsanet` minus `concat`, AA"] = effects(evaluation[evaluation["method"].eq("prsanet")], "group", "d_aa")
    lines["slow branch: share of its probe gap closed, of points"] = shares
    lines["`prsanet` minus `prsanet-no-push`"] = claimed("OA: prsanet - prsanet-no-push")
    for measure in dict.fromkeys(ledger.loc[ledger["measure"].str.startswith("OA, dominant sensor"), "measure"]):
        what = measure.removeprefix("OA, dominant sensor ").partition(":")[0]
        lines[f"{'dominant sensor missing' if what == 'missing' else what}: `prsanet` minus `concat`"] = claimed(
            measure.removesuffix(" (points)")
        )
    count = ledger["verdict"].value_counts()
    told = ", ".join(f"{count.get(verdict, 0)} {verdict}" for verdict in ("supported", "not supported", "reversed"))
    return (
        f"Points of test OA where nothing else is said, 95 % intervals as above. Degraded sensors at the strongest setting, without training again. The ledger "
        f"`claims.csv` has {len(ledger)} rows: {told}.\n\n{tables.markdown(pd.DataFrame(lines.values(), index=list(lines), columns=groups).rename_axis('').reset_index())}"
    )


def comparison_block(reference: Path) -> str:
    """Every method: OA per scene, mean rank, and by how much prsanet is ahead of it."""
    accuracy, ranking = (
        pd.read_csv(reference / "comparison" / "tables" / f"{name}.csv") for name in ("accuracy", "ranking")
    )
    datasets = pd.read_csv(reference / "comparison" / "tables" / "datasets.csv").set_index("scene")
    shown = tables.readable(ranking.drop(columns=["n_scenes", "n_seeds", "oa_mean"]), "ranking").set_index("method")
    for scene, part in accuracy.groupby("scene", sort=False):
        cells = tables.readable(part.drop(columns="family")).set_index("method")["OA"]
        shown[f"{scene} ({'simulated' if datasets.loc[scene, 'simulated'] else 'real'})"] = cells.reindex(
            shown.index
        ).fillna("–")
    ours, best = ranking.set_index("method").loc["prsanet"], ranking[ranking["method"].ne("prsanet")].iloc[0]
    place = int(ranking["method"].eq("prsanet").to_numpy().argmax()) + 1
    return (
        f"{len(ranking)} methods, {len(datasets)} scenes, {ours['n_seeds']:.0f} seeds. By mean rank "
        f"`prsanet` ({ours['rank_mean']:.1f}) is number {place}; the best of the others is `{best['method']}` ({best['rank_mean']:.1f}), and `prsanet` minus "
        f"`{best['method']}` is {shown.loc[best['method'], 'prsanet minus it']} points of OA. Test OA, mean ± sd over seeds; 95 % intervals from a bootstrap "
        f"over scenes, then seeds.\n\n{tables.markdown(shown.reset_index())}"
    )


def speed_block(reference: Path) -> str:
    """What the two commands and the network cost, from the timing file and the benchmark."""
    timing = json.loads((reference / "timing.json").read_text())
    bench = {name: json.loads((reference / "bench" / f"{name}.json").read_text()) for name in ("training", "mapping")}

    def best(name: str, column: str) -> str:
        machine = bench[name]["machine"]
        return f"{max(r[column] for r in bench[name]['rows'] if r['method'] == 'prsanet' and r['threads'] == machine['cores']):,}"

    bands = " + ".join(str(n) for n in bench["training"]["bands"].values())
    return (
        f"Measured on {timing['cores']} CPU cores ({timing['device']}) after installation: `make reproduce` {timing['minutes']:.0f} minutes for "
        f"{timing['runs']} runs, the first table after {timing['first_table_minutes']} minutes. `prsanet` at {bands} bands trains "
        f"{best('training', 'samples_per_s')} patches of 7 x 7 per second and maps {best('mapping', 'pixels_per_s')} pixels per second "
        f"({bench['training']['machine']['cores']} threads).\n"
    )


BESIDE = {"mixed": "encoders in bfloat16", "together": "three seeds as one batched network"}


def _beside(table: pd.DataFrame, name: str) -> str:
    """A faster way of training beside the study's, over scenes: speed and accuracy."""
    speed, oa = metrics.mean_interval(table["ratio"]), metrics.mean_interval(table[f"val_oa_{name}"] - table["val_oa"])
    return (
        f"{BESIDE[name]} ({len(table)} scenes) {speed[0]:.2f} [{speed[1]:.2f}, {speed[2]:.2f}] times the speed, "
        f"{oa[0]:+.1f} [{oa[1]:.1f}, {oa[2]:.1f}] points of OA"
    )


def _profile(folder: Path) -> str:
    """Time of an epoch and of a map before and after the work on speed, and the share of convolutions in it."""
    cells = {}
    for name, when in (("profile_before", "before"), ("profile", "now")):
        table = pd.read_csv(folder / f"{name}.csv")
        table["conv_ms"] = table["ms"].where(table["operation"].str.contains("conv"), 0)
        for (task, patch), part in table.groupby(["task", "patch"], sort=False):
            total = part["ms"].sum()
            cells.setdefault((task, str(patch)), {}).update(
                {
                    f"{when}, s": f"{total / 1000:.2f}",
                    f"{when}, in convolutions": f"{100 * part['conv_ms'].sum() / total:.0f} %",
                }
            )
    return tables.markdown(
        pd.DataFrame(
            [
                {"one thread": {"training": "an epoch", "mapping": "a map"}[task], "patch": patch, **row}
                for (task, patch), row in cells.items()
            ]
        )
    )


def bench_block(reference: Path) -> str:
    """The benchmark: both tasks beside the usual pipeline, where their time goes, workers, seeds trained as one, and how time grows with the size."""
    folder, rows = reference / "bench", []
    for name, what in (("mapping", "pixels"), ("training", "samples")):
        for r in json.loads((folder / f"{name}.json").read_text())["ratios"]:
            rows.append(
                (
                    name,
                    r["method"],
                    str(r["patch"]),
                    f"{r[f'{what}_per_s']:,} {what}",
                    f"{r['ratio']:g}",
                    f"{r.get('target', 3):g}",
                    f"{r.get('operations_ratio', 1):g}",
                    f"{100 * r['share_of_matmul']:.0f} %",
                )
            )
    table = pd.DataFrame(
        rows,
        columns=[
            "task",
            "method",
            "patch",
            "per second",
            "times the usual pipeline",
            "target",
            "operations saved (times)",
            "share of the matrix-product rate",
        ],
    )
    grid, growth = json.loads((folder / "grid.json").read_text()), pd.read_csv(folder / "scaling_exponents.csv")
    workers = ", ".join(
        f"{r['runs_per_hour']:,} runs per hour with {r['workers']} ({r['ratio']:.2f} of {r['workers']} times one)"
        for r in grid["workers"]
    )
    seeds = ", ".join(
        f"{r['ratio']:.2f} ({r['seeds']} seeds, batch {r['batch']}, threads: {r['threads']})" for r in grid["ensembles"]
    )
    beside = "; ".join(_beside(pd.read_csv(folder / f"{name}.csv"), name) for name in BESIDE)
    growth = growth[growth["quantity"].eq("seconds")].assign(
        cell=lambda t: [
            f"{a:.2f} [{b:.2f}, {c:.2f}]" for a, b, c in zip(t["exponent"], t["exponent_lo"], t["exponent_hi"])
        ]
    )
    shown = (
        growth.pivot(index="against", columns="task", values="cell")
        .reindex(dict.fromkeys(growth["against"]))
        .rename_axis("exponent of time against")
        .reset_index()
    )
    return (
        f"{tables.markdown(table)}\nWorker processes: {workers}. Several seeds as one batched network, as multiples of the speed of one after the other "
        f"({', '.join(dict.fromkeys(r['device'] for r in grid['ensembles']))}): {seeds}. Beside the study's way of training, validation pixels of development scenes, "
        f"one thread: {beside}.\n\n{_profile(folder)}\n{tables.markdown(shown)}"
    )


BLOCKS = {
    "bench": bench_block,
    "results": results_block,
    "findings": findings_block,
    "comparison": comparison_block,
    "speed": speed_block,
}


def with_blocks(readme: str, reference: Path = REFERENCE) -> str:
    """The README's text with its generated blocks renewed. Raises `PrsaError` when a pair of markers is not there exactly once."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        if readme.count(begin) != 1 or readme.count(end) != 1:
            raise PrsaError(
                f"README.md: expected {begin.strip()} and {end} once each. Put them back around the generated text."
            )
        head, rest = readme.split(begin)
        readme = head + begin + make(reference) + end + rest.split(end)[1]
    return readme


def main() -> int:
    """Copy what is kept of the last full run and of the measurements to ``results/reference``, renew the README; returns the exit code."""
    results, wanted, target = files.results("full"), STUDY, REFERENCE
    accuracy = results / "tables" / "accuracy.csv"
    if accuracy.is_file() and "network" in set(pd.read_csv(accuracy)["family"]):
        wanted, target = COMPARISON, REFERENCE / "comparison"
    missing = [pattern for pattern in wanted if not list(results.glob(pattern))]
    if missing:
        print(
            f"error: expected {', '.join(missing)} in {results}, found none. Fix: make reproduce, from nothing, to its end",
            file=sys.stderr,
        )
        return 2
    for folder, patterns in ((target, wanted), (REFERENCE, MEASURED)):
        for path in (path for pattern in patterns for path in results.glob(pattern)):
            copy = folder / path.relative_to(results)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    readme = files.ROOT / "README.md"
    readme.write_text(with_blocks(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
