"""Run files -> tables: one data frame per table, each written as CSV, Markdown and LaTeX (no torch, no timings).

Accuracies, kappa and differences are in points. Spread is the sample standard deviation over seeds (ddof 1); a difference is
paired by seed and comes with its 95 % Student t interval. Missing values (one seed, no baseline) are empty in the CSV files.
Rows are ordered by scene, method and seed-independent keys, never by the order in which runs were finished.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from .. import metrics
from ..config import METHODS
from ..data.scene import class_names, modalities
from ..data.simulate import is_dial
from ..errors import PrsaError
from ..files import write_text
from . import leakage as audit
from .evaluation import COLUMNS as EVALUATION_COLUMNS
from .evaluation import RECOVERY as RECOVERY_COLUMNS
from .evaluation import evaluation, recovery
from .ranking import COLUMNS as RANKING_COLUMNS
from .ranking import ranking

BASELINE = "concat"
FUSED_METHODS = ("late", "concat", "pmr", "concat+prm", "sagf", "prsanet")  # of the study itself
ABLATION = "prsanet-no-"  # methods that exist only to be compared with prsanet
DECIMALS = 3  # of every float in the CSV files

COLUMNS = {
    "datasets": "scene,title,simulated,modalities,height,width,classes,train,val,test,split,licence",
    "accuracy": "scene,simulated,method,family,n_seeds,oa_mean,oa_sd,aa_mean,aa_sd,kappa_mean,kappa_sd,d_oa,d_oa_lo,d_oa_hi",
    "per_class": "scene,method,class,n_test,accuracy_mean,accuracy_sd",
    "evaluation": ",".join(EVALUATION_COLUMNS),
    "recovery": ",".join(RECOVERY_COLUMNS),
    "ranking": ",".join(RANKING_COLUMNS),
    "ablation": "scene,variant,n_seeds,oa_mean,oa_sd,d_concat,d_concat_lo,d_concat_hi,d_prsanet,d_prsanet_lo,d_prsanet_hi,cka,eta2,js_final",
    "imbalance": "scene,method,modality,rho_final,branch_oa_joint,probe_oa_joint,probe_oa_alone,probe_gap",
    "sensitivity": "scene,parameter,value,n_seeds,oa_mean,oa_sd,d_oa,d_oa_lo,d_oa_hi",
    "complexity": "scene,method,params,macs_patch,macs_pixel",
    "leakage": ",".join(audit.COLUMNS),
}
NOTES = {
    "datasets": "Scenes: bands per modality, grid in pixels, labelled pixels of each part.",
    "accuracy": "Test pixels, points, mean ± sd over seeds; difference in OA to concat, paired by seed, with its 95 % interval.",
    "per_class": "Accuracy of each class (share of its test pixels found), points, mean ± sd over seeds.",
    "evaluation": "Test pixels, points, mean over the scenes of a group and seeds; differences to concat, paired by scene and seed. 95 % intervals: bootstrap over "
    "scenes, then seeds; of a single scene Student's t over seeds.",
    "recovery": "Probe gap: test OA in points of a linear probe on the branch trained alone minus inside the method, in concat and in the method, paired by scene "
    "and seed, 95 % intervals as in evaluation; share of concat's gap that the method closes, where that gap is a point or more. Role: by the imbalance "
    "factor in concat.",
    "ranking": "Mean rank of OA over scenes and seeds among the methods that every scene has (1 = best) and OA in points; difference in OA "
    "of prsanet to the method, paired by scene and seed; 95 % intervals from a bootstrap over scenes, then seeds.",
    "ablation": "OA in points, mean ± sd over seeds; differences paired by the seeds that both have, with 95 % intervals; linear CKA and eta squared of the fused "
    "features with the categories; final Jensen-Shannon divergence of the branches (nats).",
    "imbalance": "Means over seeds: imbalance factor at the last epoch; test OA in points of the branch (prototypes) and of linear probes on the "
    "branch trained jointly and alone.",
    "sensitivity": "OA of prsanet in points, mean ± sd over seeds; difference to the default, paired by seed, with its 95 % interval.",
    "complexity": "Trainable parameters; multiply-accumulate operations per patch and per pixel of a whole-scene map. Classical classifiers, first "
    "seed: stored numbers; multiply-accumulates (svm) or comparisons (rf) per pixel, without the features.",
    "leakage": "Share of test and validation pixels whose patch holds a training pixel, median distance of the test pixels to the nearest one (pixels); "
    "test OA in points of all, of those without and of those with a training pixel in the patch, mean ± sd over seeds.",
}
HEADERS = {
    "oa": "OA",
    "aa": "AA",
    "kappa": "kappa",
    "d_oa": "difference in OA",
    "d_concat": "to concat",
    "d_prsanet": "to prsanet",
    "n_seeds": "seeds",
    "rank": "mean rank",
    "n_scenes": "scenes",
    "n_settings": "settings",
    "cka": "CKA",
    "eta2": "eta squared",
    "js_final": "JS (nats)",
    "rho_final": "imbalance factor",
    "rho": "imbalance factor",
    "branch_oa_joint": "branch OA",
    "probe_oa_joint": "probe OA, joint",
    "probe_oa_alone": "probe OA, alone",
    "probe_gap": "alone - joint",
    "n_test": "test pixels",
    "gap_concat": "gap in concat",
    "gap": "gap",
    "d_aa": "difference in AA",
    "n_train": "training pixels",
    "split_kind": "split",
    "share_overlap": "test overlap",
    "share_val_overlap": "validation overlap",
    "distance_median": "median distance",
    "oa_all": "OA, all",
    "oa_clean": "OA, no overlap",
    "oa_overlap": "OA, overlap",
    "params": "parameters",
    "macs_patch": "MACs per patch",
    "macs_pixel": "MACs per pixel",
    "train_per_s": "training samples per s",
    "map_per_s": "map pixels per s",
    "memory_gb": "peak memory (GB)",
}
OWN_HEADERS = {"ranking": {"d_oa": "prsanet minus it"}}  # where a column means something else in one table


def _frame(name: str, rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS[name].split(","))


def method_order(methods: Iterable[str], single: Iterable[str]) -> list[str]:
    """Sort methods: single modalities in the scene's order, then as in `prsa.config.METHODS`, then the others by name."""
    rank = {name: i for i, name in enumerate([*single, *METHODS])}
    return sorted(set(methods), key=lambda m: (rank.get(m, len(rank)), m))


def family(method: str) -> str:
    """Kind of a method: late, study, ablation, rebalancing, network (published) or classical, from its settings; other for an unknown name."""
    if method.startswith(ABLATION):
        return "ablation"
    if method not in METHODS:
        return "other"
    has = METHODS[method].get
    kinds = {
        "late": has("fusion") == "late",
        "classical": has("classifier"),
        "network": has("network"),
        "rebalancing": has("rule") or has("lambda_aux"),
    }
    return next((name for name, holds in kinds.items() if holds), "study")


def _heads(run: xr.Dataset) -> dict[str, np.ndarray]:
    """Test confusion (K, K) of every method a run stands for: a late run also holds each modality's net alone."""
    test = run["confusion"].sel(part="test")
    method = run.attrs["method"]
    names = {"fused": method} | ({str(m): str(m) for m in run["modality"].values} if method == "late" else {})
    return {name: test.sel(head=head).values for head, name in names.items()}


def scores(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """One row per run and method: scene, simulated, method, family, variant, seed, oa, aa, kappa (points), counts (K, K), run, modalities, joint.

    ``family``: see `family`, or single. ``joint`` is True for a network that fuses several modalities itself and has a branch per modality to look
    into. Sorted by scene (in order of first appearance), method, variant and seed; `PrsaError` if a run is given twice.
    """
    rows, order = [], {}
    for run in runs:
        attrs = run.attrs
        order.setdefault(attrs["scene"], len(order))
        names = tuple(str(m) for m in run["modality"].values)
        for method, counts in _heads(run).items():
            values = [float(metrics.points(f(counts))) for f in (metrics.oa, metrics.aa, metrics.kappa)]
            joint = method == attrs["method"] != "late" and len(names) > 1 and int(attrs["probed"]) == 1
            rows.append(
                (
                    attrs["scene"],
                    int(attrs["simulated"]),
                    method,
                    "single" if method in names else family(method),
                    attrs.get("variant", ""),
                    int(attrs["seed"]),
                    *values,
                    counts,
                    run,
                    names,
                    joint,
                )
            )
    table = pd.DataFrame(
        rows, columns="scene simulated method family variant seed oa aa kappa counts run modalities joint".split()
    )
    table = table.astype({"joint": bool})
    key = ["scene", "method", "variant", "seed"]
    twice = table[table.duplicated(key)]
    if len(twice):
        raise PrsaError(
            f"expected every run once, got {dict(twice.iloc[0][key])} twice. Give each scene its own name and pass each run once."
        )
    rank = {}
    for scene, part in table.groupby("scene", sort=False):
        single = max(part["modalities"], key=len)  # a run of one modality knows only its own
        rank |= {(scene, m): i for i, m in enumerate(method_order(part["method"], single))}
    table["rank"] = [rank[pair] for pair in zip(table["scene"], table["method"])]
    table["place"] = table["scene"].map(order)
    return table.sort_values(["place", "rank", "variant", "seed"], ignore_index=True).drop(columns=["place", "rank"])


def paired(table: pd.DataFrame, baseline: pd.DataFrame, column: str = "oa") -> tuple[float, float, float]:
    """Mean difference to the baseline rows over the same seeds, with its 95 % interval; all NaN if there is no baseline.

    Raises `PrsaError` when the seeds differ: nothing is dropped silently.
    """
    if baseline.empty:
        return np.nan, np.nan, np.nan
    a, b = table.set_index("seed")[column].sort_index(), baseline.set_index("seed")[column].sort_index()
    if list(a.index) != list(b.index):
        names = [
            f"{t.iloc[0]['scene']} {t.iloc[0]['method']} {t.iloc[0]['variant']}".strip() for t in (table, baseline)
        ]
        raise PrsaError(
            f"expected the same seeds to pair {names[0]} with {names[1]}, got {list(a.index)} and {list(b.index)}. Run the missing seeds."
        )
    return metrics.paired_difference(a.to_numpy(), b.to_numpy())


def _base(table: pd.DataFrame, ablations: bool) -> pd.DataFrame:
    """Rows without sensitivity variants and, on request, without ablation-only methods."""
    keep = table["variant"].eq("")
    return table[keep if ablations else keep & ~table["method"].str.startswith(ABLATION)]


def _defaults(runs: list[xr.Dataset]) -> list[xr.Dataset]:
    """Runs of the methods that are compared, without ablations."""
    return [run for run in runs if not run.attrs["method"].startswith(ABLATION)]


def _of(table: pd.DataFrame, scene: str, method: str) -> pd.DataFrame:
    return table[table["scene"].eq(scene) & table["method"].eq(method) & table["variant"].eq("")]


def accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """OA, AA, kappa and the paired difference to concat, from `scores`."""
    rows = []
    for (scene, method, kind), part in _base(table, ablations=False).groupby(["scene", "method", "family"], sort=False):
        agreement = [v for column in ("oa", "aa", "kappa") for v in metrics.mean_sd(part[column])]
        rows.append(
            (
                scene,
                part["simulated"].iloc[0],
                method,
                kind,
                len(part),
                *agreement,
                *paired(part, _of(table, scene, BASELINE)),
            )
        )
    return _frame("accuracy", rows)


def per_class(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every class and method, from `scores`; empty for a class without test pixels."""
    rows = []
    for (scene, method), part in _base(table, ablations=False).groupby(["scene", "method"], sort=False):
        counts = np.stack(part["counts"].tolist())  # (seed, K, K)
        recall = metrics.points(metrics.per_class(counts))
        for k, name in enumerate(part["run"].iloc[0]["class"].values):
            seen = recall[:, k][np.isfinite(recall[:, k])]
            rows.append(
                (scene, method, str(name), int(round(counts[:, k].sum() / len(counts))), *metrics.mean_sd(seen))
            )
    return _frame("per_class", rows)


def _final(series: xr.DataArray) -> float:
    return float(series.isel(epoch=-1))


def _over(part: pd.DataFrame, other: str, table: pd.DataFrame) -> tuple[float, float, float]:
    """`paired` difference of rows of one scene to another method over the seeds of the one that has fewer: ablations have few."""
    base = _of(table, part["scene"].iloc[0], other)
    return paired(part[part["seed"].isin(base["seed"])] if len(base) else part, base[base["seed"].isin(part["seed"])])


def ablation(table: pd.DataFrame) -> pd.DataFrame:
    """The four corners and prsanet-no-*, against concat and prsanet, with what the fusion claims measured, from `scores`."""
    rows = []
    chosen = _base(table, ablations=True)
    chosen = chosen[chosen["method"].isin(FUSED_METHODS[1:]) | chosen["method"].str.startswith(ABLATION)]
    for (scene, method), part in chosen.groupby(["scene", "method"], sort=False):
        claims = [
            np.mean([f(run) for run in part["run"]])
            for f in (lambda r: float(r["cka"]), lambda r: float(r["eta2"]), lambda r: _final(r["js"]))
        ]
        rows.append(
            (
                scene,
                method,
                len(part),
                *metrics.mean_sd(part["oa"]),
                *(v for other in (BASELINE, "prsanet") for v in _over(part, other, table)),
                *claims,
            )
        )
    return _frame("ablation", rows)


def imbalance(table: pd.DataFrame) -> pd.DataFrame:
    """Imbalance factor, branch and probe OA per modality of every joint method, from `scores`; alone = the late run of the seed."""
    rows = []
    joint = _base(table, ablations=True)
    for (scene, method), part in joint[joint["joint"]].groupby(["scene", "method"], sort=False):
        late = _of(table, scene, "late")
        late = late[late["seed"].isin(part["seed"])]  # ablations have fewer seeds
        for m in part["modalities"].iloc[0]:
            probes = [
                t.assign(
                    probe=[
                        float(metrics.points(metrics.oa(r["probe_confusion"].sel(modality=m).values))) for r in t["run"]
                    ]
                )
                for t in (part, late)
            ]
            branch = [metrics.points(metrics.oa(r["confusion"].sel(head=m, part="test").values)) for r in part["run"]]
            rows.append(
                (
                    scene,
                    method,
                    m,
                    np.mean([_final(r["rho"].sel(modality=m)) for r in part["run"]]),
                    np.mean(branch),
                    *(metrics.mean_sd(t["probe"])[0] for t in probes),
                    -paired(*probes, "probe")[0],
                )
            )
    return _frame("imbalance", rows)


def _lookup(config: dict, name: str):
    """Value of a setting in a config that may be nested; None if it has none of that name."""
    if name in config:
        return config[name]
    inner = (_lookup(value, name) for value in config.values() if isinstance(value, dict))
    return next((value for value in inner if value is not None), None)


def _text(value) -> str:
    return format(value, "g") if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """OA of every override against the default of the same seeds (its own row included), from `scores`."""
    rows = []
    varied = table[table["variant"].ne("")]
    varied = varied.assign(overrides=[json.loads(r.attrs["overrides"]) for r in varied["run"]])
    varied = varied.assign(parameter=["+".join(sorted(o)) for o in varied["overrides"]])
    for (scene, method, parameter), part in varied.groupby(["scene", "method", "parameter"], sort=False):
        name = parameter if method == "prsanet" else f"{method}: {parameter}"
        default = _of(table, scene, method)
        default = default[default["seed"].isin(part["seed"])]
        values = {variant: [o[key] for key in sorted(o)] for variant, o in zip(part["variant"], part["overrides"])}
        entries = [(values[variant], rows_of) for variant, rows_of in part.groupby("variant", sort=False)]
        if len(default):
            config = json.loads(default.iloc[0]["run"].attrs["config"])
            own = [_lookup(config, key.split(".")[-1]) for key in parameter.split("+")]
            entries = [(value, rows_of) for value, rows_of in entries if value != own] + [(own, default)]
        numeric = all(isinstance(v, (int, float)) for value, _ in entries for v in value)
        for value, rows_of in sorted(entries, key=lambda entry: entry[0] if numeric else [_text(v) for v in entry[0]]):
            same = default[default["seed"].isin(rows_of["seed"])]
            rows.append(
                (
                    scene,
                    name,
                    "+".join(_text(v) for v in value),
                    len(rows_of),
                    *metrics.mean_sd(rows_of["oa"]),
                    *paired(rows_of, same),
                )
            )
    return _frame("sensitivity", rows)


def complexity(table: pd.DataFrame) -> pd.DataFrame:
    """Parameters and operations of every trained method, from `scores`; a late run counts all its nets."""
    base, rows = _base(table, ablations=True), []
    trained = np.array([run.attrs["method"] == method for run, method in zip(base["run"], base["method"])], bool)
    for (scene, method), part in base[trained].groupby(["scene", "method"], sort=False):
        rows.append(
            (scene, method, *(int(part.iloc[0]["run"].attrs[a]) for a in ("params", "macs_patch", "macs_pixel")))
        )
    return _frame("complexity", rows)


def datasets(scenes: dict[str, xr.Dataset], splits: dict[str, xr.DataArray]) -> pd.DataFrame:
    """One row per scene; the split codes are 1 train, 2 validation, 3 test."""
    rows = []
    for name, scene in scenes.items():
        split = splits[name]
        bands = "; ".join(f"{m} {scene[m].shape[0]}" for m in modalities(scene))
        parts = [int((split == code).sum()) for code in (1, 2, 3)]
        rows.append(
            (
                name,
                scene.attrs["title"],
                int(scene.attrs["simulated"]),
                bands,
                *scene["label"].shape,
                len(class_names(scene)),
                *parts,
                audit.kind_label(str(split.attrs.get("kind", ""))),
                scene.attrs.get("license", "not stated"),
            )
        )
    return _frame("datasets", rows)


def _number(value: float, decimals: int, sign: str = "-") -> str:
    return (
        "" if pd.isna(value) else format(round(float(value), decimals) + 0.0, f"{sign}.{decimals}f")
    )  # + 0.0: no negative zero


def readable(table: pd.DataFrame, name: str = "") -> pd.DataFrame:
    """The same table as text: `x_mean`, `x_sd` become "81.2 ± 0.4", `d`, `d_lo`, `d_hi` become "+1.2 [0.3, 2.1]" (the reference: "0").

    `x_mean`, `x_lo`, `x_hi` have no sign. ``name``: the table's, for the headers that are its own.
    """
    table, out = table.round(DECIMALS), {}  # what the CSV file holds, so that both round alike
    headers = HEADERS | OWN_HEADERS.get(name, {})
    for column in table.columns:
        stem, values = column.removesuffix("_mean"), table[column]
        if column.endswith(("_sd", "_lo", "_hi")):
            continue  # shown with their mean or difference
        if f"{stem}_sd" in table:
            cells = [
                _number(m, 1) + (f" ± {_number(s, 1)}" if pd.notna(s) else "")
                for m, s in zip(values, table[f"{stem}_sd"])
            ]
        elif f"{stem}_lo" in table:
            bounds, sign = zip(table[f"{stem}_lo"], table[f"{stem}_hi"]), "+" if stem == column else "-"
            cells = [
                "0"
                if d == lo == hi == 0
                else _number(d, 1, sign) + (f" [{_number(lo, 1)}, {_number(hi, 1)}]" if pd.notna(lo) else "")
                for d, (lo, hi) in zip(values, bounds)
            ]
        elif column == "simulated":
            cells = ["yes" if v else "no" for v in values]
        elif values.dtype.kind == "f":
            cells = [
                _number(v, 1 if any(part in column for part in ("oa", "aa", "kappa", "gap")) else DECIMALS)
                for v in values
            ]
        else:
            cells = [f"{v:,}" if values.dtype.kind == "i" else str(v) for v in values]
        out[headers.get(stem, stem)] = [cell or "–" for cell in cells]
    return pd.DataFrame(out)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of the cells as they are; see `readable`."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |\n" for row in rows)


def _latex(table: pd.DataFrame) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "–": "--",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    } | {c: "\\" + c for c in "&%$#_{}"}

    def line(cells):
        return " & ".join("".join(special.get(c, c) for c in str(cell)) for cell in cells) + " \\\\\n"

    body = "".join(line(row) for row in table.itertuples(index=False))
    return f"\\begin{{tabular}}{{{'l' * len(table.columns)}}}\n\\toprule\n{line(table.columns)}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def csv_text(table: pd.DataFrame) -> str:
    text = table.copy().astype(object)
    for column in table.columns[[d.kind == "f" for d in table.dtypes]]:
        text[column] = [_number(v, DECIMALS) for v in table[column]]
    return text.to_csv(index=False, lineterminator="\n")


def write_all(
    run_datasets: Iterable[xr.Dataset], scenes: dict[str, xr.Dataset], splits: dict[str, xr.DataArray], out_dir
) -> list[Path]:
    """Write the tables of `COLUMNS` as .csv, .md and .tex and return their paths; scenes appear in the order of ``scenes``.

    Runs of the imbalance dial (`prsa.report.dial` has tables of its own) are left out, unless ``scenes`` names their scene.
    Raises `PrsaError`, with nothing written, when seeds cannot be paired or a run is given twice.
    """
    place = {name: i for i, name in enumerate(scenes)}
    asked = [run for run in run_datasets if run.attrs["scene"] in scenes or not is_dial(run.attrs["scene"])]
    runs = sorted(asked, key=lambda run: (place.get(run.attrs["scene"], len(place)), run.attrs["scene"]))
    table = scores(runs)
    tables = {"datasets": datasets(scenes, splits), "leakage": audit.leakage(_defaults(runs), scenes, splits.values())}
    for make in (accuracy, evaluation, recovery, per_class, ranking, ablation, imbalance, sensitivity, complexity):
        tables[make.__name__] = make(table)
    paths = []
    for name, frame in tables.items():
        text = readable(frame, name)
        paths.append(write_text(csv_text(frame), Path(out_dir) / f"{name}.csv"))
        paths.append(write_text(f"{NOTES[name]}\n\n{markdown(text)}", Path(out_dir) / f"{name}.md"))
        paths.append(
            write_text(
                f"% {NOTES[name]}\n% needs \\usepackage{{booktabs}}\n{_latex(text)}", Path(out_dir) / f"{name}.tex"
            )
        )
    return paths
