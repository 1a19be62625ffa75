"""What all figures share: fonts and sizes, who has which colour, dash and marker, a figure that shows itself, saving.

Figures are made and drawn under matplotlib's defaults and `STYLE`, whatever the user's matplotlibrc says. Lines and
marks that can meet in one figure differ in dash or marker, for readers who see red and green alike. Class maps have
neither, so class colours keep a distance for every eye (``tests/test_figures.py`` measures both).
"""

import functools
import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from .. import files

DPI = 150  # of a PNG
WIDTH = 4.5  # inches; shrunk to half a page (85 mm), 9-point text is 6.7 points
FONT = "DejaVu Sans"  # comes with matplotlib
STYLE = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 9),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize", "legend.title_fontsize"), 8),
    **dict.fromkeys(("legend.frameon", "axes.spines.top", "axes.spines.right"), False),
    **{"legend.handlelength": 2.4, "legend.handletextpad": 0.5, "legend.columnspacing": 1.2},  # dashes are told apart
    **{"axes.grid": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.6, "axes.axisbelow": True},
    **{"lines.linewidth": 1.6, "lines.markersize": 4.5},
    **{"figure.dpi": 110, "pdf.fonttype": 42, "svg.hashsalt": "prsa"},
}
DASHES, DENSE = ("-", "--", "-.", ":"), (0, (3, 1))
MARKERS = "osD^vPX<>phd"
INK, FAINT, NONE_COLOUR = "#222222", "#666666", "#F4F4F4"  # lines that help to read; unlabelled or without data


def look(colour: str, dash="none", marker: str = "") -> dict:
    """Keyword arguments of ``plot``."""
    return {"color": colour, "linestyle": dash, "marker": marker}


FUSED = look("#000000", "-")
METHODS = {
    "late": look("#95928D", ":", "s"),
    "concat": look("#0C77DC", "--", "o"),
    "pmr": look("#763E5D", (0, (5, 1, 1, 1, 1, 1)), "^"),
    "concat+prm": look("#6BCAFD", "-.", "D"),
    "sagf": look("#D1AF00", DENSE, "v"),
    "prsanet": look("#C23B0E", "-", "P"),
}
MODALITIES = {
    **dict.fromkeys(("hsi", "ms"), look("#3E8D07", "-", "o")),
    "sar": look("#645293", "--", "s"),
    **dict.fromkeys(("lidar", "dsm", "chm"), look("#E9B338", "-.", "^")),
    "dem": look("#594233", DENSE, "v"),
    "rgb": look("#D96F92", ":", "D"),
}
FAMILIES = {  # of methods -> look, words
    "single": (look("#4EB1D5", marker="o"), "one modality"),
    "late": (look("#95928D", marker="s"), "late fusion"),
    "study": (look("#C23B0E", marker="P"), "fusions of the study"),
    "ablation": (look("#000000", marker="X"), "prsanet without a part"),
    "rebalancing": (look("#763E5D", marker="^"), "rebalancing methods"),
    "network": (look("#0C77DC", marker="v"), "published networks"),
    "classical": (look("#D1AF00", marker="D"), "classical classifiers"),
    "other": (look("#444444", marker="h"), "other methods"),
}
SPARE = ("#117733", "#AA4499", "#4EB1D5", "#661100", "#332288", "#DDAA33", "#44AA99", "#444444")
CLASSES = {  # words of a class name -> colours that mean it, used up in this order; the first line that fits counts
    "shadow|cloud": ("#26263A",),
    "water|river|lake|sea|ocean": ("#2F68C2", "#8FADC6"),
    "conifer|evergreen|pine|spruce|fir": ("#003502",),
    "tree|forest|wood|mangrove": ("#32905C", "#356E4D"),
    "shrub|bush|range|low plant|vineyard|flooded": ("#A3A633", "#687436"),
    "grass|meadow|pasture|turf|lawn|moss": ("#AAEC99", "#85A964"),
    "crop|field|allotment|wheat|corn|maize|soy|rice": ("#FFF328", "#ECCB54"),
    "soil|earth|ground|sand|dirt|bare|dry|unpaved": ("#794728", "#DAAC71"),
    "sidewalk|concrete|curb|crosswalk|railway": ("#ABAEB6", "#C8BEB9"),
    "road|asphalt|highway|street|major|parking|runway|paved": ("#6E7073", "#4E5A64"),
    "tile|residential|building|village|built|urban": ("#CA2E0D", "#B36E46"),
    "metal|stadium|car|train": ("#DD8C90", "#E2C7D8"),
    "bitumen|commercial|industrial|non-residential|roof": ("#732744", "#DD5391"),
}
DEUTAN = np.array(  # what a deuteranope sees of linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009)
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
GRID = [to_hex(c) for c in itertools.product((0, 0.25, 0.5, 0.75, 1), repeat=3)]


def _eyes(colours: Iterable[str]) -> np.ndarray:
    """Colours as everyone and as a deuteranope sees them, (2, n, 3), in roughly even steps."""
    linear = np.array([to_rgb(c) for c in colours]) ** 2.2
    return np.sqrt(np.clip([linear, linear @ DEUTAN.T], 0, 1))


def class_colours(names: Iterable[str]) -> list[str]:
    """One colour per class: one that means it (`CLASSES`), else that of a coarse grid that is least like the others."""
    names = [str(name).lower() for name in names]
    chosen: dict[int, str] = {}
    for k, name in enumerate(names):
        means = (own for words, own in CLASSES.items() if re.search(rf"\b(?<!not )({words})", name))
        for colour in [c for c in next(means, ()) if c not in chosen.values()][:1]:
            chosen[k] = colour
    for k in range(len(names)):
        if k not in chosen:
            taken = _eyes([NONE_COLOUR, "#000000", *chosen.values()])
            apart = np.linalg.norm(_eyes(GRID)[:, :, None] - taken[:, None], axis=-1)  # (2, grid, taken)
            chosen[k] = GRID[apart.min((0, 2)).argmax()]
    return [chosen[k] for k in range(len(names))]


def class_looks(names: Iterable[str], dash: bool = True) -> dict[str, dict]:
    """Class -> look; dash and marker repeat after 12 classes only."""
    colours = class_colours(names := list(names))
    dashes = DASHES if dash else ["none"]
    return {n: look(c, dashes[k % len(dashes)], MARKERS[k % 12]) for k, (n, c) in enumerate(zip(names, colours))}


def looks_of(names: Iterable[str]) -> dict[str, dict]:
    """Method or modality -> look, its own where that is free, else a spare one; no two share both dash and marker."""
    known = METHODS | MODALITIES
    pairs = zip(itertools.product(DASHES, MARKERS[::-1]), itertools.cycle(SPARE))
    kept = [(of["linestyle"], of["marker"]) for of in known.values()]
    spare = (look(colour, dash, marker) for (dash, marker), colour in pairs if (dash, marker) not in kept)
    taken: dict[str, dict] = {}
    for name in dict.fromkeys(names):
        own = known.get(name)
        taken[name] = own if own and own not in taken.values() else next(spare, look(FAINT, "-", "."))
    return taken


def style():
    """Context: matplotlib's defaults and `STYLE` in the place of the user's settings."""
    return matplotlib.style.context(STYLE, after_reset=True)


class Picture(Figure):
    """A figure that is drawn in `style` and shows itself in a notebook; ``alt``: its text for who cannot see it."""

    alt = ""

    def draw(self, renderer):
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # `_fonts` said so once
            super().draw(renderer)

    def savefig(self, *args, **options):
        with style():
            super().savefig(*args, **options)

    def _repr_mimebundle_(self, **_):
        image = io.BytesIO()
        self.savefig(image, format="png", bbox_inches="tight")
        return {"image/png": image.getvalue(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


@functools.cache
def _fonts(glyphs: frozenset[int]) -> list[str]:
    """`FONT` and installed fonts that have these characters; one warning for those that no font has."""
    fonts, missing = [FONT], set(glyphs)
    for font in font_manager.fontManager.ttflist if glyphs else ():
        found = missing and missing & font_manager.get_font(font.fname).get_charmap().keys()
        if found and "resort" not in font.name.lower():  # the font of last resort has a box for everything
            fonts.append(font.name)
            missing -= found
    if missing:
        text = "".join(map(chr, sorted(missing)))
        warnings.warn(
            f"no installed font has {text!r}: figures show boxes. Fix: install Noto Sans CJK or the like", stacklevel=2
        )
    return fonts


def describe(figure: Figure, sentence: str) -> str:
    """Text for who cannot see a figure: a sentence, its panels and axes, and what its legends and rows name."""
    legends = [*figure.legends, *filter(None, (ax.get_legend() for ax in figure.axes))]
    ticks = [t.get_text() for ax in figure.axes for t in (*ax.get_yticklabels(), *ax.get_xticklabels())]
    shown = [t.get_text() for legend in legends for t in legend.get_texts()]
    parts = {
        "Panels": [ax.get_title() for ax in figure.axes],
        "Axes": [*(s for ax in figure.axes for s in (ax.get_xlabel(), ax.get_ylabel())), figure.get_supxlabel()],
        "Shown": [*shown, *(t for t in ticks if re.search(r"[^\W\d_]{2}", t))],
        "Note": [legend.get_title().get_text() for legend in legends],
    }
    lists = {
        key: "; ".join(dict.fromkeys(filter(None, (" ".join(t.split()) for t in texts))))
        for key, texts in parts.items()
    }
    return " ".join([sentence, *(f"{key}: {text}." for key, text in lists.items() if text)])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Make a figure in `style`, in fonts that have its characters, with a text from the first words of its function."""

    @functools.wraps(draw)
    def inner(*args, **options):
        with style():
            figure = draw(*args, **options)
            texts = figure.findobj(Text)
            own = font_manager.get_font(font_manager.findfont(FONT)).get_charmap().keys() | {ord("\n")}
            if glyphs := frozenset(ord(c) for text in texts for c in text.get_text()) - own:
                for text in texts:
                    text.set_fontfamily(_fonts(glyphs))
            figure.alt = describe(figure, (draw.__doc__ or "").split("\n\n")[0].replace("`", "").strip())
        return figure

    return inner


def save(figure: Figure, stem) -> list[Path]:
    """Write ``stem``.png (`DPI`; its description is the figure's text) and ``stem``.pdf, both without dates, from one
    layout: finding it costs as much as drawing."""
    stem, dates = Path(stem), dict.fromkeys(("CreationDate", "Creator", "Producer"))
    paths = [stem.parent / f"{stem.name}.{kind}" for kind in ("png", "pdf")]
    words = {"Software": None, "Description": getattr(figure, "alt", "")}
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    with style():
        box = figure.get_tightbbox().padded(0.05)  # inches
        figure.set_layout_engine(None)  # what is found stays
    for path, metadata in zip(paths, (words, dates)):
        image = io.BytesIO()  # on a full disk, the PDF writer's own clean-up fails
        figure.savefig(image, format=path.suffix[1:], dpi=DPI, bbox_inches=box, metadata=metadata)
        with files.whole(path) as part:
            part.write_bytes(image.getvalue())
    return paths


def panels(rows: int, cols: int, height: float, width: float = WIDTH, layout: str = "constrained", **options):
    """A figure and its axes (rows, cols), inches; ``layout`` "compressed" for panels of fixed aspect."""
    figure = Picture(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, cols, squeeze=False, **options)


def legend_below(figure: Figure, entries, title: str | None = None):
    """The one legend of a figure, below all panels: ``entries`` are handles, or a dict of name -> look."""
    if isinstance(entries, dict):
        entries = [Line2D([], [], label=name, **of) for name, of in entries.items()]
    longest = max((len(entry.get_label()) for entry in entries), default=1)
    columns = max(1, min(len(entries), int((figure.get_figwidth() - 0.2) / (0.055 * longest + 0.52))))
    legend = figure.legend(handles=entries, loc="outside lower center", ncols=columns, title=title)
    legend.get_title().set_multialignment("center")
