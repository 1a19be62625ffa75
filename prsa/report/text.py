"""What each table holds, and tables as CSV (to compute with), Markdown (to read) and LaTeX (to print).

Nothing that depends on the speed of a machine enters them, so the same runs give the same bytes.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..files import write_text
from .intervals import number, text

DECIMALS = 3  # of every float in the CSV files
COLUMNS = {
    "datasets": "scene title simulated modalities height width classes train val test split licence",
    "accuracy": "scene simulated method family n_seeds oa_mean oa_sd aa_mean aa_sd kappa_mean kappa_sd "
    "d_oa d_oa_lo d_oa_hi",
    "evaluation": "group simulated method family n_scenes n_seeds oa_mean oa_lo oa_hi aa_mean kappa_mean "
    "d_oa d_oa_lo d_oa_hi d_aa d_aa_lo d_aa_hi",
    "recovery": "group method modality role n_scenes n_seeds gap_concat gap gap_lo gap_hi recovered",
    "per_class": "scene method class n_test accuracy_mean accuracy_sd",
    "ranking": "method family n_scenes n_seeds rank_mean rank_lo rank_hi oa_mean d_oa d_oa_lo d_oa_hi",
    "ablation": "scene variant n_seeds oa_mean oa_sd d_concat d_concat_lo d_concat_hi "
    "d_prsanet d_prsanet_lo d_prsanet_hi cka eta2 js_final",
    "imbalance": "scene method modality rho_final branch_oa_joint probe_oa_joint probe_oa_alone probe_gap",
    "sensitivity": "scene parameter value n_seeds oa_mean oa_sd d_oa d_oa_lo d_oa_hi",
    "complexity": "scene method params macs_patch macs_pixel",
    "leakage": "scene simulated split_kind method n_seeds radius n_train n_test share_overlap share_val_overlap "
    "distance_median oa_all_mean oa_all_sd oa_clean_mean oa_clean_sd oa_overlap_mean oa_overlap_sd",
    "claims": "claim scene measure effect lo hi n verdict",
    "robustness": "group method modality degradation strength n_scenes n_seeds oa_mean d_oa d_oa_lo d_oa_hi loss_mean",
    "dial": "kind dial method n_seeds oa_mean oa_sd d_oa d_oa_lo d_oa_hi "
    "modality rho probe_gap probe_gap_lo probe_gap_hi",
    "trend": "kind method measure modality n_settings n_seeds correlation correlation_lo correlation_hi",
    "published": "scene method ours_oa ours_sd published_method published_oa published_sd epoch_chosen_on source",
}
COLUMNS = {name: columns.split() for name, columns in COLUMNS.items()}
INTERVALS = (
    "95 % intervals: over three or more scenes a bootstrap over scenes, then seeds; of one scene Student's t over "
    "three or more seeds; otherwise there is none."
)
WORDS = {"oa": "OA", "aa": "AA", "cka": "CKA", "js": "JS", "eta2": "eta squared", "val": "validation"}
WORDS |= {"rho": "imbalance factor", "d": "difference in", "ours": "our"}
HEADERS = {"d_concat": "to concat", "d_prsanet": "to prsanet", "n_test": "test pixels", "n_train": "training pixels"}
HEADERS |= {"n": "pairs", "macs_patch": "MACs per patch", "macs_pixel": "MACs per pixel", "params": "parameters"}
HEADERS |= {"train_per_s": "training samples per s", "map_per_s": "map pixels per s", "memory_gb": "memory (GB)"}
ONE_DECIMAL = "oa aa kappa gap d_ rank loss accuracy".split()  # parts of the names of columns in points


def frame(name: str, rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS[name])


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text: mean and sd are "81.2 ± 0.4", a difference with interval "+1.2 [0.3, 2.1]", no value is "–".

    Rounded as the CSV file first, so that both round alike. Scenes in the table's ``attrs["leaking"]`` are marked.
    """
    leaking, table, out = table.attrs.get("leaking", ()), table.round(DECIMALS), {}
    for column in table.columns:
        if column.endswith(("_sd", "_lo", "_hi")) or column in ("lo", "hi"):
            continue  # shown with their mean or difference
        stem, values = column.removesuffix("_mean"), table[column]
        sd = f"{stem.removesuffix('_oa') if stem in ('ours_oa', 'published_oa') else stem}_sd"
        lo = "lo" if column == "effect" else f"{stem}_lo"
        decimals = 1 if any(part in column for part in ONE_DECIMAL) else 2 if column == "correlation" else DECIMALS
        if sd in table:
            cells = [number(v, 1) + (f" ± {number(s, 1)}" if pd.notna(s) else "") for v, s in zip(values, table[sd])]
        elif lo in table:
            bounds = zip(table[lo], table[f"{lo[:-2]}hi"])
            cells = [text(v, *b, decimals, "+" if stem == column else "-") for v, b in zip(values, bounds)]
        elif column == "simulated":
            cells = ["yes" if v else "no" for v in values]
        elif values.dtype.kind == "f":
            cells = [f"{v:g}" if column in ("dial", "strength") else number(v, decimals) for v in values]
        else:
            cells = [f"{v:,}" if values.dtype.kind == "i" else " ".join(str(v).split()) for v in values]
        if column in ("scene", "group"):
            cells = [f"{name} (leaking split)" if name in leaking else name for name in cells]
        header = HEADERS.get(stem) or " ".join(WORDS.get(word, word) for word in stem.removeprefix("n_").split("_"))
        out[header] = [cell or "–" for cell in cells]
    return pd.DataFrame(out)


def escaped(name) -> str:
    """Text in Markdown with what Markdown, HTML or MathJax would take for markup escaped."""
    marked = re.sub(r"[\\`*|~]|\](?=\()|(?<!\w)_|_(?!\w)", r"\\\g<0>", str(name))
    return marked.translate(str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "<span>&#36;</span>"}))


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table of the cells as they are, `escaped`."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(map(escaped, row))} |\n" for row in rows)


def latex(table: pd.DataFrame) -> str:
    """A LaTeX table of the cells as they are; names in other scripts need LuaLaTeX and a font that has them."""
    return table.to_latex(index=False, escape=True).replace("±", r"$\pm$").replace("–", "--")


def csv_text(table: pd.DataFrame) -> str:
    """CSV with `DECIMALS` decimals, empty where there is no value."""
    out = table.astype(object)
    for column in table.columns[[kind.kind == "f" for kind in table.dtypes]]:
        out[column] = [f"{v:g}" if column == "dial" else number(v, DECIMALS) for v in table[column]]
    return out.to_csv(index=False, lineterminator="\n")


def note(make: Callable) -> str:
    """What a table shows: the first paragraph of the docstring of the function that makes it."""
    return " ".join(inspect.getdoc(make).split("\n\n")[0].split())


class Shown(str):
    """Markdown text that a notebook renders when it is the value of a cell."""

    def _repr_markdown_(self) -> str:
        return self


def show(table: pd.DataFrame) -> Shown:
    """A table for a notebook: all rows and the whole text of every cell, `readable`."""
    return Shown(markdown(readable(table)) if len(table) else "*No rows with these parameters.*")


def page(table: pd.DataFrame) -> str:
    """Markdown: the notes of a table, in its ``attrs``, and the table itself, `readable`."""
    return "\n\n".join([*table.attrs.get("notes", ()), markdown(readable(table))])


def write(name: str, table: pd.DataFrame, folder: Path) -> None:
    """Write a table as .csv, .md and .tex, the latter two with its notes."""
    notes = "\n".join([*table.attrs.get("notes", ()), "needs \\usepackage{booktabs}"]).splitlines()
    write_text(csv_text(table), folder / f"{name}.csv")
    write_text(page(table), folder / f"{name}.md")
    write_text("".join(f"% {line}\n" for line in notes) + latex(readable(table)), folder / f"{name}.tex")
