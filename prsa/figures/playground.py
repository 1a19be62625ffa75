"""The playground of notebook 13: the teaching runs by a few controls, and a small training with live curves.

Widgets of ipywidgets around plain figures, so that everything is there without a browser, too.
"""

import html
import io
from collections.abc import Callable, Iterable

import ipywidgets as widgets
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.scene import modalities
from ..errors import PrsaError
from ..report.dial import setting
from ..report.intervals import POINTS, summarise, text
from ..report.scores import branches, by_run, defaults, probe_oa
from ..study.teaching import open_study
from .shapes import ratio_axis, rows, zero
from .style import FUSED, legend_below, looks_of, panels, styled
from .tables import _over

PARTS = {  # column -> title of its panel, decimals, value of no difference
    "oa": ("fused network:\ntest OA (%)", 1, None),
    "gap": ("{} branch: probe gap\n(points, alone - inside)", 1, 0),
    "rho": ("{} branch: imbalance\nfactor ρ (1 = balanced)", 2, 1),
}


def numbers(runs: Iterable[xr.Dataset]) -> pd.DataFrame:
    """One row per kind, dial, method and modality: oa, gap and rho, each with the ends of its 95 % interval over seeds.

    ``modality`` is empty for a method without branches inside, whose gap and rho are NaN. Measures: ours.
    """
    table, found = defaults(runs), []
    inside = branches(table)
    for (scene, method), part in table[table["family"].ne("single")].groupby(["scene", "method"], sort=False):
        if (at := setting(scene)) is None:
            continue
        own = inside[inside["scene"].eq(scene) & inside["method"].eq(method)]
        oa = summarise(by_run(part), (0, 100)).numbers
        for m, branch in own.groupby("modality", sort=False) if len(own) else [("", None)]:
            gap = rho = (np.nan,) * 3
            if m:
                gap, rho = (summarise(by_run(branch, c), b).numbers for c, b in (("gap", POINTS), ("rho", (0, np.inf))))
            found.append((*at, method, m, len(part), *oa, *gap, *rho))
    ends = [f"{column}{end}" for column in PARTS for end in ("", "_lo", "_hi")]
    return pd.DataFrame(found, columns=["kind", "dial", "method", "modality", "n_seeds", *ends])


def of_study(study: str) -> pd.DataFrame:
    """`numbers` of a study by its word, see `prsa.study.teaching.open_study`; of the teaching runs where it has none of
    the scenes that the dial turns."""
    for word in (study, "teaching"):
        plan = open_study(word)
        table = numbers(plan.open(dict.fromkeys([*plan.specs, *plan.dial])))
        if len(table):
            return table
        print("This study has no scene that the dial turns: the teaching runs are shown instead.")


def _one(table: pd.DataFrame, kind: str, dial: float, modality: str) -> pd.DataFrame:
    """A row per method: of this modality, or of none for a method without branches."""
    here = table[table["kind"].eq(kind) & table["dial"].eq(dial) & table["modality"].isin([modality, ""])]
    if modality not in set(here["modality"]):
        raise PrsaError(f"expected a kind, dial and modality of these runs, got {kind}, {dial:g}, {modality}.")
    return here.reset_index(drop=True)


def _draw(axes, here: pd.DataFrame, everything: pd.DataFrame, modality: str, method: str | None = None):
    """OA, gap and factor of every method; ``everything``: what the scales have to hold, so that they stay."""
    looks = looks_of(dict.fromkeys(everything["method"]))
    for ax, (column, (title, _, even)) in zip(axes, PARTS.items()):
        low, high = everything[[column, f"{column}_lo"]].min().min(), everything[[column, f"{column}_hi"]].max().max()
        values = [here[name] for name in (column, f"{column}_lo", f"{column}_hi")]
        rows(ax, here["method"], *values, [looks[m] for m in here["method"]])
        pad = 0.06 * max(high - low, 1e-3)
        ax.set(xlim=(min(low, even or low) - pad, max(high, even or high) + pad))
        ax.set_title(title.format(modality), fontsize=8)
        if even is not None:
            zero(ax, even)
        for k, name in enumerate(here["method"]):
            if name == method:
                ax.axhspan(len(here) - 1.4 - k, len(here) - 0.6 - k, color="#0C77DC", alpha=0.12, linewidth=0)


@styled
def view(table: pd.DataFrame, kind: str, dial: float, method: str, modality: str) -> Figure:
    """Accuracy, probe gap and imbalance factor of every method at one setting, on the scales of all settings.

    ``table``: of `numbers`; the chosen method is underlaid.
    """
    here = _one(table, kind, dial, modality)
    figure, (axes,) = panels(1, 3, 0.26 * len(here) + 1.5, 8.0, sharey=True)
    _draw(axes, here, table[table["kind"].eq(kind)], modality, method)
    legend_below(figure, {}, f"{kind} (simulated) at dial {dial:g}; mean and 95 % interval over {_over(here)}")
    return figure


@styled
def overview(table: pd.DataFrame) -> Figure:
    """Accuracy, probe gap and imbalance factor of every method, a row per kind and modality, at its own setting."""
    own = table[table["modality"].ne("") & table["dial"].eq(table["kind"].map(lambda kind: setting(kind)[1]))]
    lines = list(dict.fromkeys(zip(own["kind"], own["dial"], own["modality"])))
    count, seen = table["method"].nunique(), set()
    figure, axes = panels(len(lines), 3, len(lines) * (0.17 * count + 0.3) + 1.0, 8.0, sharey="row", sharex="col")
    for n, (place, (kind, at, m)) in enumerate(zip(axes, lines)):
        _draw(place, _one(table, kind, at, m), table, "")
        for ax, (title, *_) in zip(place, PARTS.values()):
            ax.set_title("" if n else title.format("").strip(), fontsize=8)
        place[0].set_ylabel(f"{kind}\n{m}")
        if kind in seen:  # its fused networks stand above
            place[0].set_facecolor("#f4f4f4")
        seen.add(kind)
    legend_below(figure, {}, f"simulated; mean and 95 % interval over {_over(own)}; grey: as above")
    return figure


@styled
def training_curves(history: list[dict], names: list[str], epochs: int, before: list[dict] = ()) -> Figure:
    """Validation accuracy of the fused network and of every branch, and imbalance factors, over the epochs so far.

    ``history``: records of ``prsa.fit(on_epoch=...)``; ``before``: those of the last training, drawn pale.
    """
    figure, ((left, right),) = panels(1, 2, 3.0, 7.0)
    looks = looks_of(names)
    for records, alpha in ((before, 0.3), (history, 1.0)):
        x = range(1, len(records) + 1)
        left.plot(x, [100 * r["accuracy"][1] for r in records], **FUSED | {"alpha": alpha})
        for k, of in enumerate(looks.values()):
            left.plot(x, [100 * r["branch_accuracy"][1][k] for r in records], **of | {"alpha": alpha})
            right.plot(x, [r["rho"][k] for r in records], **of | {"alpha": alpha})
    left.set(xlabel="epoch", ylabel="validation accuracy (%)", xlim=(0.5, epochs + 0.5), ylim=(0, 100))
    right.set(xlabel="epoch", ylabel="imbalance factor ρ", xlim=(0.5, epochs + 0.5), ylim=(0.5, 2))
    ratio_axis(right)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    entries = {"fused": FUSED} | {f"{name} branch": of for name, of in looks.items()}
    legend_below(figure, entries, "pale: the training before" if before else None)
    return figure


def _png(figure: Figure) -> bytes:
    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight")
    return image.getvalue()


def _note(words: str) -> str:
    return f"<p style='max-width: 50em'>{html.escape(words)}</p>"


class Browse(widgets.VBox):
    """Tab 1: kind, dial, method and sensor of finished runs -> OA, probe gap and imbalance factor, at once.

    ``table``: of `numbers`.
    """

    def __init__(self, table: pd.DataFrame):
        self.table = table
        self.kind = widgets.Dropdown(options=list(dict.fromkeys(table["kind"])), description="kind")
        self.dial = widgets.SelectionSlider(options=[0.0], description="dial")
        self.method = widgets.Dropdown(options=list(dict.fromkeys(table["method"])), description="method")
        self.sensor = widgets.ToggleButtons(options=[""], description="sensor")
        self.words, self.picture = widgets.HTML(), widgets.Image(format="png")
        self.method.value = self.method.options[-1]
        self._kind_changed()
        for control in (self.kind, self.dial, self.method, self.sensor):
            control.observe(self._changed, "value")
        super().__init__([widgets.HBox([self.kind, self.method]), self.dial, self.sensor, self.words, self.picture])

    def _kind_changed(self):
        own = self.table[self.table["kind"].eq(self.kind.value)]
        settings, usual = sorted(set(own["dial"])), setting(self.kind.value)[1]
        self.dial.options = [(f"{value:g}", value) for value in settings]
        self.dial.value = usual if usual in settings else settings[-1]
        self.sensor.options = [m for m in dict.fromkeys(own["modality"]) if m]
        self.show()

    def _changed(self, change):
        self._kind_changed() if change["owner"] is self.kind else self.show()

    def show(self):
        """Bring words and picture up to the controls."""
        if self.dial.value is None or not self.sensor.value:  # between two kinds
            return
        here = _one(self.table, self.kind.value, self.dial.value, self.sensor.value)
        self.words.value = _note(self.sentence(here))
        self.picture.value = _png(
            view(self.table, self.kind.value, self.dial.value, self.method.value, self.sensor.value)
        )

    def sentence(self, here: pd.DataFrame) -> str:
        """The numbers of the chosen method."""
        found = here[here["method"].eq(self.method.value)]
        if found.empty:
            return f"{self.method.value} was not trained at this setting."
        row = found.iloc[0]
        oa, gap, rho = (text(row[c], row[f"{c}_lo"], row[f"{c}_hi"], PARTS[c][1], "-") for c in PARTS)
        if not row["modality"]:
            return f"{row['method']}: test OA {oa} %. Its branches are trained alone: gap 0, no factor."
        ahead = "ahead of" if row["rho"] > 1 else "behind"
        pays = "loses by joint training" if row["gap"] > 0 else "does not lose by joint training"
        if row["gap_lo"] <= 0 <= row["gap_hi"]:
            pays = "may lose or gain: the interval holds 0"
        return (
            f"{row['method']}: test OA {oa} %. Its {row['modality']} branch: gap {gap} points ({pays}); factor {rho} "
            f"({ahead} the others on training pixels). Means over {row['n_seeds']} seeds, 95 % intervals in brackets."
        )


class Train(widgets.VBox):
    """Tab 2: lambda_p, base, epochs and noise on one sensor, then a training of ``concat+prm`` with live curves.

    ``fit``: `prsa.fit`. With lambda_p = 0 the network is ``concat``. Noise: standard deviations of each band, drawn
    once from a fixed stream, so that two trainings see the same pixels.
    """

    def __init__(self, scene: xr.Dataset, split: xr.DataArray, fit: Callable, device: str = "auto"):
        self.scene, self.split, self.fit, self.device = scene, split, fit, device
        self.names, self.history, self.before, self.run = modalities(scene), [], [], None
        wide = {"style": {"description_width": "7em"}}
        self.lambda_p = widgets.FloatSlider(1.0, min=0, max=3, step=0.1, description="lambda_p", **wide)
        self.base = widgets.FloatSlider(1.0, min=0, max=3, step=0.1, description="base", **wide)
        self.epochs = widgets.IntSlider(6, min=1, max=20, description="epochs", **wide)
        self.noise = widgets.FloatSlider(0.0, min=0, max=3, step=0.25, description="noise (sd)", **wide)
        self.sensor = widgets.ToggleButtons(options=self.names, description="noise on")
        self.button = widgets.Button(description="Train", button_style="primary", icon="play")
        self.progress = widgets.IntProgress(0, 0, 1, description="epoch 0")
        self.words, self.picture = widgets.HTML(), widgets.Image(format="png")
        self.button.on_click(self.train)
        controls = widgets.HBox([widgets.VBox([self.lambda_p, self.base]), widgets.VBox([self.epochs, self.noise])])
        line = widgets.HBox([self.button, self.progress])
        super().__init__([controls, self.sensor, line, self.words, self.picture])

    def noisy(self) -> xr.Dataset:
        """The scene with the noise that is set."""
        name = self.sensor.value
        if not self.noise.value:
            return self.scene
        band = self.scene[name]
        drawn = band.copy(data=np.random.default_rng(0).normal(size=band.shape) * self.noise.value)
        noisy = band + drawn * band.std(band.dims[1:])
        return self.scene.assign({name: noisy.astype(band.dtype).assign_attrs(band.attrs)})

    def train(self, _=None):
        """Train with the settings of the controls; what goes wrong is said in their place."""
        self.before, self.history, self.button.disabled = self.history, [], True
        self.progress.value, self.progress.max, self.progress.bar_style = 0, self.epochs.value, ""
        self.progress.description, self.words.value = "starting", ""
        chosen = {"lambda_p": self.lambda_p.value, "base": self.base.value, "epochs": self.epochs.value}
        try:
            about = self.noisy(), "concat+prm", self.split, 0, "quick", self.device, self._epoch, False
            self.run, _ = self.fit(*about, **chosen)
            self.words.value, self.progress.bar_style = _note(self.sentence()), "success"
        except Exception as error:
            self.words.value, self.progress.bar_style = _note(f"error: {error}"), "danger"
            if not isinstance(error, PrsaError):
                raise
        finally:
            self.button.disabled = False

    def _epoch(self, number: int, record: dict):
        self.history.append(record)
        self.progress.value, self.progress.description = number, f"epoch {number}"
        self.picture.value = _png(training_curves(self.history, self.names, self.epochs.value, self.before))

    def sentence(self) -> str:
        """What came out, on test pixels."""
        counts = self.run["confusion"].sel(part="test", head="fused").values
        probes = ", ".join(f"{m} {probe_oa(self.run, m):.1f} %" for m in self.names)
        return (
            f"Test OA {100 * np.trace(counts) / counts.sum():.1f} %; linear probes on the branches: {probes}. One "
            "seed: an example. The same settings give the same numbers."
        )


def playground(browse: Browse, train: Train) -> widgets.Tab:
    """Both tabs."""
    return widgets.Tab([browse, train], titles=["Look at runs", "Train a network"])
