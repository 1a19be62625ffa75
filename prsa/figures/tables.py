"""Figures of tables as they are written: CSV files are enough to draw them. Bars: 95 % intervals unless said."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ..data.simulate import CONFIGS
from ..report.claims import ALL, SMALLEST, matrix, unit
from ..report.intervals import critical_difference
from ..report.robustness import CLEAN, MISSING, dominant
from .shapes import one, points, ratio_axis, row_panels, zero
from .style import FAINT, FAMILIES, INK, METHODS, WIDTH, class_looks, legend_below, look, looks_of, panels, styled

VERDICTS = {  # verdict -> look of its mark, colour of its cell
    "supported": (look("#0C77DC", marker="o"), "#BFDCF5"),
    "not supported": (look("#7F7F7F", marker="s"), "#EDEDED"),
    "reversed": (look("#C23B0E", marker="D"), "#F5B89E"),
}
STRENGTH = {
    "cloud shadow": "direct light taken",
    "noise": "sd of noise (training sd)",
    "band loss": "bands lost (share)",
}
DIAL = {  # column of the dial table -> label, interval, value of no difference
    "oa_mean": ("fused OA (%)", (), None),
    "d_oa": ("OA minus concat (points)", ("d_oa_lo", "d_oa_hi"), 0),
    "probe_gap": ("probe gap (points):\nOA alone - inside", ("probe_gap_lo", "probe_gap_hi"), 0),
    "rho": ("imbalance factor ρ\n(1 = balanced)", (), 1),
}
SPLITS = {"random (leaking)": look("#C23B0E", "-", "X"), "blocks": look("#0C77DC", "--", "o"), "": look(INK, ":", "s")}
LINE = 0.175  # inches: height of a row of a dense table


def _parts(table: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    return dict(list(table.groupby(column, sort=False)))


def _over(table: pd.DataFrame) -> str:
    """What numbers are means over."""
    counts = {
        what: int(table[f"n_{what}"].max()) for what in ("scenes", "seeds") if f"n_{what}" in table and len(table)
    }
    return " and ".join(f"{n} {what}" for what, n in counts.items() if n > 1) or "one seed"


def _by_family(parts: dict, columns: tuple, words: str, **options) -> Figure:
    """`row_panels` of methods with the colour and marker of their family."""
    there = {row for part in parts.values() for row in part["family"]}
    entries = {name: of for family, (of, name) in FAMILIES.items() if family in there}
    return row_panels(parts, columns, lambda row: FAMILIES[row.family][0], words, entries, **options)


@styled
def accuracy_rankings(table: pd.DataFrame) -> Figure:
    """Overall accuracy of every method, best on top, a panel per scene, from the accuracy table."""
    table = table.assign(lo=table["oa_mean"] - table["oa_sd"], hi=(table["oa_mean"] + table["oa_sd"]).clip(upper=100))
    parts = {}
    for name, part in _parts(table, "scene").items():
        title = f"{name} (simulated)" if part["simulated"].iloc[0] else name
        parts[title] = part.sort_values("oa_mean", ascending=False, kind="stable")
    words = "overall accuracy (%)" + ", mean ± sd over seeds" * bool(table["n_seeds"].max() > 1)
    return _by_family(parts, ("method", "oa_mean", "lo", "hi"), words, sharex=False)


@styled
def group_differences(table: pd.DataFrame) -> Figure:
    """Difference in overall accuracy to concat of every fused method, a panel per group of scenes, on one scale."""
    table = table[table["family"].ne("single") & table["method"].ne("concat")]
    methods, parts = table.drop_duplicates("method")[["method", "family"]], {}
    for name, part in _parts(table, "group").items():
        kind = "simulated" if part["simulated"].iloc[0] else "real"
        parts[f"{name}\n({kind}, {_over(part)})"] = methods.merge(part.drop(columns="family"), "left", "method")
    words = "difference in OA to concat (points), mean and 95 % interval"
    figure = _by_family(parts, ("method", "d_oa", "d_oa_lo", "d_oa_hi"), words, sharey=True)
    zero(figure.axes)
    return figure


@styled
def rank_intervals(table: pd.DataFrame) -> Figure:
    """Mean rank of every method within scene and seed, best on top, from the ranking table.

    Grey: nearer to the best than the critical difference of a Nemenyi test (0.05; Demsar, JMLR 2006), with scenes as
    its unit. Ranks are means over seeds, which makes this test cautious.
    """
    words = f"mean rank of OA (1 = best), 95 % interval over {_over(table)}"
    figure = _by_family({"": table} if len(table) else {}, ("method", "rank_mean", "rank_lo", "rank_hi"), words)
    (ax,) = figure.axes
    if len(table) > 2 and (n := int(table["n_scenes"].max())) > 1:
        distance, best = critical_difference(len(table), n), table["rank_mean"].min()
        ax.axvspan(best, best + distance, color="#999999", alpha=0.2, linewidth=0)
        ax.set_title(f"grey: less than the critical difference ({distance:.1f} ranks) behind the best", fontsize=8)
    ax.set_xlim(0.5, max(2, len(table)) + 0.5)
    return figure


@styled
def ablation_bars(table: pd.DataFrame, scene: str | None = None, reference: str = "concat") -> Figure:
    """Difference in overall accuracy to concat of every variant, or to prsanet of those that lack a part of it.

    From the ablation table, a panel per scene.
    """
    table = one(table, "scene", scene) if scene else table
    less = table["variant"].str.startswith("prsanet-no-")
    table = table[less if reference == "prsanet" else ~less & table["variant"].ne("concat")]
    looks = looks_of(table["variant"])
    columns = "variant", f"d_{reference}", f"d_{reference}_lo", f"d_{reference}_hi"
    words = f"difference in OA to {reference} (points), mean and 95 % interval"
    figure = row_panels(_parts(table, "scene"), columns, lambda row: looks[row.variant], words)
    zero(figure.axes)
    return figure


@styled
def probe_gap(table: pd.DataFrame, group: str | None = None) -> Figure:
    """Probe accuracy of every branch alone minus inside each method (recovery table); one scale for all its groups."""
    ends, table = table[["gap", "gap_lo", "gap_hi"]].stack(), one(table, "group", group)
    looks = looks_of(table["method"])
    parts = {f"{m} ({part['role'].iloc[0]} in concat)": part for m, part in _parts(table, "modality").items()}
    words = f"probe OA alone minus inside (points),\nmean and 95 % interval over {_over(table)}"
    columns = "method", "gap", "gap_lo", "gap_hi"
    figure = row_panels(parts, columns, lambda row: looks[row.method], words, sharey=True)
    figure.suptitle(table["group"].iloc[0], fontsize=9)
    figure.axes[0].set_xlim(min(ends.min(), 0) - 1, max(ends.max(), 0) + 1)
    zero(figure.axes)
    return figure


@styled
def sensitivity_curves(table: pd.DataFrame, scene: str | None = None) -> Figure:
    """Difference in overall accuracy to the default setting, a panel per parameter, from the sensitivity table."""
    parts = _parts(one(table, "scene", scene), "parameter")
    words = "difference in OA to the default (points), mean and 95 % interval"
    figure = row_panels(parts, ("value", "d_oa", "d_oa_lo", "d_oa_hi"), lambda row: METHODS["prsanet"], words)
    zero(figure.axes)
    return figure


def _claim_lines(table: pd.DataFrame, column: str) -> list[tuple[str, str]]:
    """(claim, "") and then (claim, value of the column) for all its rows, claim by claim."""
    parts = _parts(table, "claim").items()
    return [line for claim, part in parts for line in ((claim, ""), *dict.fromkeys(zip(part["claim"], part[column])))]


def _claim_labels(ax, place, labels: list[str], lines: list):
    ax.set_yticks(place, labels)
    ax.tick_params(length=0)
    for label, (_, row) in zip(ax.get_yticklabels(), lines):
        label.set_fontweight("normal" if row else "bold")


@styled
def verdicts(ledger: pd.DataFrame) -> Figure:
    """The whole ledger of claims: a row per effect, a column per group of scenes, each cell coloured by its verdict."""
    table = matrix(ledger)
    names, lines = list(dict.fromkeys(table["scene"])), _claim_lines(table, "row")
    figure, ((ax,),) = panels(1, 1, LINE * (len(lines) + 3) + 0.4, 4.4 + 0.72 * len(names))
    for cell in table.itertuples():
        x, y, decimals = names.index(cell.scene), lines.index((cell.claim, cell.row)), 1 + (unit(cell.row) != "points")
        words = f"{round(cell.effect, decimals) + 0.0:+.{decimals}f}"  # + 0.0: no negative zero
        weight = "normal" if cell.verdict == "not supported" else "bold"
        ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=VERDICTS[cell.verdict][1], linewidth=0))
        ax.text(x, y, words, ha="center", va="center", fontsize=7.5, fontweight=weight)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(lines) - 0.5, -0.5))
    ax.set_xticks(range(len(names)), names)
    ax.xaxis.tick_top()
    _claim_labels(ax, range(len(lines)), [row or claim for claim, row in lines], lines)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    found = [Patch(color=pale, label=v) for v, (_, pale) in VERDICTS.items() if v in set(ledger["verdict"])]
    legend_below(figure, found, "effect, positive where the claim holds; bold: supported or reversed")
    return figure


@styled
def forest(ledger: pd.DataFrame, scene: str | None = None) -> Figure:
    """Effect and interval of every row of the ledger of claims, a panel per unit; dotted: the smallest that matters."""
    ledger = ledger[ledger["scene"].isin([scene, ALL])] if scene else ledger
    named = ledger["scene"] + "   " + ledger["measure"]
    ledger = ledger.assign(unit=ledger["measure"].map(unit))
    ledger["row"] = named.where(ledger["scene"].ne(scene), ledger["measure"])
    parts = {u: _claim_lines(ledger[ledger["unit"].eq(u)], "row") for u in SMALLEST if u in set(ledger["unit"])}
    cells = {(cell.claim, cell.row): cell for cell in ledger.itertuples()}
    heights = [len(lines) + 2.6 for lines in parts.values()]  # 2.6 lines for the axis below
    figure, axes = panels(
        max(1, len(parts)), 1, LINE * sum(heights) + 0.5, 7.0, gridspec_kw={"height_ratios": heights or [1]}
    )
    for (ax,), (u, lines) in zip(axes, parts.items()):
        drawn = [(i, cells[line]) for i, line in enumerate(reversed(lines)) if line in cells]
        for y, cell in drawn:
            bar = [[cell.effect - cell.lo], [cell.hi - cell.effect]]
            ax.errorbar(cell.effect, y, xerr=bar, capsize=2, linewidth=1.3, **VERDICTS[cell.verdict][0])
        labels = [row.rsplit(" (", 1)[0] or claim for claim, row in lines]
        _claim_labels(ax, range(len(lines))[::-1], labels, lines)
        ax.set(xlabel=f"effect ({u})", ylim=(-0.7, len(lines) - 0.3))
        ax.locator_params(axis="x", nbins=6)  # more would overlap in the smallest units
        ax.grid(axis="y", visible=False)
        ax.axvline(SMALLEST[u], color=INK, linewidth=0.9, linestyle=":", zorder=1)
    zero(axes)
    legend_below(figure, {v: mark for v, (mark, _) in VERDICTS.items() if v in set(ledger["verdict"])})
    return figure


def _per_method(ax, table: pd.DataFrame, x: str, columns: tuple, looks: dict, spread: float, **options):
    """A line per method over ``x``, side by side within ``spread``, so that bars can be read."""
    for i, (method, of) in enumerate(looks.items()):
        own = table[table["method"].eq(method)].sort_values(x)
        if own[columns[0]].notna().any():
            place = own[x] + spread * ((i + 0.5) / len(looks) - 0.5)
            points(ax, place, of | options, *(own[c] for c in columns))


@styled
def robustness(table: pd.DataFrame, group: str | None = None) -> Figure:
    """Accuracy with a degraded or missing modality, without training again (above), and difference to concat (below).

    From the robustness table, ablations left out, and with more than eight methods all but those of the study.
    """
    table = one(table, "group", group)
    table = table[~table["method"].str.startswith("prsanet-no-")]
    if table["method"].nunique() > 8:
        table = table[table["method"].isin(METHODS)]
    name, looks, kinds = table["group"].iloc[0], looks_of(table["method"]), list(dict.fromkeys(table["degradation"]))
    kinds = [kind for kind in kinds if kind not in (CLEAN, MISSING)]
    sensors = list(dict.fromkeys(table.loc[table["degradation"].eq(MISSING), "modality"]))
    widths = {"width_ratios": [1] * len(kinds) + [0.3 + 0.35 * len(sensors)]}
    figure, axes = panels(2, len(kinds) + 1, 4.8, 8.0, sharey="row", sharex="col", gridspec_kw=widths)
    for (above, below), kind in zip(axes.T, [*kinds, MISSING]):
        gone = kind == MISSING
        part = table[table["degradation"].isin([kind] if gone else [CLEAN, kind])]
        part = part.assign(place=part["modality"].map(sensors.index) if gone else part["strength"])
        ticks, options = sorted(set(part["place"])), {"linestyle": "none"} if gone else {}
        spread = 0.6 if gone else 0.09 * max(ticks)
        _per_method(above, part, "place", ("oa_mean",), looks, spread, **options)
        part = part.assign(d_oa=part["d_oa"].where(part["method"].ne("concat")))  # concat is the line at 0
        _per_method(below, part, "place", ("d_oa", "d_oa_lo", "d_oa_hi"), looks, spread, **options)
        below.set_xticks(ticks, sensors if gone else [f"{v:g}" for v in ticks])
        below.set_xlabel(STRENGTH.get(kind, f"modality {kind}"))
        above.set_title(kind if gone else f"{dominant(table, name)}: {kind}")
    zero(axes[1], across=True)
    axes[0, 0].set_ylabel("overall accuracy (%)")
    axes[1, 0].set_ylabel("difference to concat\n(points)")
    legend_below(figure, looks, f"{name}; mean over {_over(table)}, bars: 95 % intervals")
    return figure


@styled
def curves(table: pd.DataFrame, kind: str | None = None) -> Figure:
    """Accuracy, lead over concat, probe gap and imbalance factor of every branch over the imbalance dial.

    A line per method, from the dial table; the dotted line is the default setting.
    """
    table = one(table, "kind", kind)
    kind, looks = table["kind"].iloc[0], looks_of(table["method"])
    names = [m for m in dict.fromkeys(table["modality"]) if m]
    lines = [[("oa_mean", ""), ("d_oa", "")], *([(value, m) for m in names] for value in ("probe_gap", "rho"))]
    lines = [line for line in lines if line and table[line[0][0]].notna().any()]
    figure, axes = panels(len(lines), max(2, len(names)), 1.8 * len(lines) + 0.8, 2.4 * max(2, len(names)), sharex=True)
    for place, line in zip(axes, lines):
        for ax, (value, m) in zip(place, line):
            label, bounds, even = DIAL[value]
            part = table[table["modality"].eq(m)] if m else table.drop_duplicates(["dial", "method"])
            _per_method(ax, part, "dial", (value, *bounds), looks, 0.05)
            if m and ax is not place[0]:
                ax.sharey(place[0])  # branches are compared
            if even is not None:
                zero(ax, even, across=True)
            ax.axvline(CONFIGS[kind].dial, color=FAINT, linestyle=":", linewidth=0.9, zorder=1)
            ax.set(xlim=(-0.06, 1.06), xlabel="dial (0 weak, 1 strong)", xticks=[0, 0.5, 1])
            ax.set(ylabel=label, title=f"{m} branch" if m else "")
            ax.label_outer() if m else ax.set_xlabel("")
        for ax in place[len(line) :]:
            ax.remove()
        if line[0][0] == "rho":
            ratio_axis(place[0])
    note = "bars: 95 % intervals" if table["n_seeds"].min() > 1 else "one seed, no intervals"
    legend_below(figure, looks | {"default setting": look(FAINT, ":")}, f"{kind} (simulated), {_over(table)}; {note}")
    return figure


@styled
def drift_plot(drift: pd.DataFrame) -> Figure:
    """How far every class moves from the training to the test area, a row per modality; bars: medians."""
    looks = class_looks(drift.drop_duplicates("code").sort_values("code")["class"], dash=False)
    parts = _parts(drift, "modality")
    figure, ((ax,),) = panels(1, 1, 0.45 * len(parts) + 2.2)
    for y, part in enumerate(parts.values()):
        for name, code, value in zip(part["class"], part["code"], part["drift"]):
            ax.plot(value, y + 0.05 * (code % 5 - 2), **looks[name])
        ax.plot([part["drift"].median()] * 2, [y - 0.32, y + 0.32], color=INK, linewidth=2)
    ax.set_yticks(range(len(parts)), parts)
    ax.set(xlabel="drift from training to test area (sd within the class)", xlim=(0, None))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    legend_below(figure, looks | {"median": look(INK, "-")})
    return figure


@styled
def confidence_plot(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy against confidence, a line per method, marks as large as the share of pixels they stand for.

    ``tables``: method -> `prsa.report.diagnostics.calibration`. Below the diagonal a network is surer than it is right.
    """
    figure, ((ax,),) = panels(1, 1, 4.4)
    looks = looks_of(tables)
    for table, of in zip(tables.values(), looks.values()):
        many = table[table["share"].ge(0.01)]  # a handful of pixels is no curve
        ax.plot(many["confidence"], many["accuracy"], **of | {"marker": "", "linewidth": 1})
        marks = table["confidence"], table["accuracy"], 200 * table["share"], of["color"]
        ax.scatter(*marks, marker=of["marker"], alpha=0.7, clip_on=False)
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.9, zorder=1)
    ax.set(xlabel="confidence: highest probability (0 to 1)", ylabel="share of test pixels that are right (0 to 1)")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    legend_below(figure, looks, "size of a mark: share of the pixels\ndiagonal: confidence = accuracy")
    return figure


@styled
def warning(
    table: pd.DataFrame, distances: pd.DataFrame, scene: str | None = None, method: str | None = None
) -> Figure:
    """Test accuracy of one network with two splits: of all test pixels, and by distance to the training pixels.

    ``table`` and ``distances``: of `prsa.report.leakage`. Bars: sd over seeds; grey: the window holds training pixels.
    """
    table, distances = (one(one(t, "scene", scene), "method", method) for t in (table, distances))
    figure, ((left, right),) = panels(1, 2, 3.1, 1.25 * WIDTH, sharey=True, gridspec_kw={"width_ratios": [1, 2]})
    looks = {kind: SPLITS.get(kind, SPLITS[""]) for kind in sorted(table["split_kind"], reverse=True)}
    for i, (kind, of) in enumerate(looks.items()):
        row = table[table["split_kind"].eq(kind)].iloc[0]
        mean, sd = row["oa_all_mean"], row["oa_all_sd"]
        points(left, [i], of, [mean], [mean - sd], [min(mean + sd, 100)])
        left.annotate(
            f"{mean:.1f}\n({100 * row['share_overlap']:.3g} % leak)", (i + 0.12, mean), fontsize=7, va="center"
        )
        part = distances[distances["split_kind"].eq(kind)]
        mean, sd = part["oa_mean"], part["oa_sd"]
        points(right, part["nearest"], of, mean, mean - sd, (mean + sd).clip(upper=100))
    left.set_xticks(range(len(looks)), [kind.replace(" ", "\n") for kind in looks])
    left.set(xlim=(-0.3, len(looks) - 0.1), ylabel="test OA (points)", title="all test pixels")
    right.axvspan(0.8, distances["radius"].iloc[0] + 0.5, color="#999999", alpha=0.2, linewidth=0)
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:g}")
    right.set(xlabel="distance to nearest training pixel", title="by distance")
    legend_below(figure, looks, "bars: sd over seeds; grey: the test window holds training pixels")
    return figure
