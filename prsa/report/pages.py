"""Executed notebooks as HTML pages that need no network, with an index and the tables; and as slides.

Formulas become MathML, figures are in the page with their alternative text, code is folded, and a line below figures
and tables says of which runs they were made. What notebooks print holds names from users' files: it is text here and
runs nothing.
"""

import base64
import html
import os
import re
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert.filters import Highlight2HTML, strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from .. import files
from ..study import provenance, teaching
from .layout import SCRIPT, SLIDES, document, page
from .text import COLUMNS

# Opening brackets that become text: of Markdown all but those that `text.escaped` writes, of HTML those of tags that
# tables and data sets are not made of.
_PLAIN = "b|br|caption|code|dd|div|dl|dt|em|i|input|label|li|p|path|pre|span|strong|style|svg|symbol|t[rdh]|table|use"
_PLAIN += "|thead|tbody|tfoot|title|ul|defs|h[1-6]"
UNSAFE = {"text/markdown": re.compile(r"<(?!/?span>)")}
UNSAFE["text/html"] = re.compile(rf"<(?!/?({_PLAIN})\b[^<]*>)|<(?=[^>]*\son\w+\s*=)", re.IGNORECASE)
LEAD = (
    "A network that learns from several sensors at once can leave some of them behind what they reach alone. These "
    "pages measure when that happens, and whether rebalancing helps. All numbers are of our reconstruction of "
    "PRSANet: only the abstract of its paper is public."
)
GLOSSARY = "GLOSSARY"  # beside the notebooks
SKIPPED = 'id="(what-you-can-change|tools|the-runs)"'  # sections that are no slides
WIDGET = "application/vnd.jupyter.widget-view+json"


def formula(latex: str, block: bool = False) -> str:
    """LaTeX as MathML; as code where it cannot be converted, so that nothing is lost."""
    spaced = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad (\1)", latex.strip())  # MathML has no numbers of equations
    try:
        made = convert(spaced, display="block" if block else "inline")
    except Exception:  # every error of the converter is of a kind of its own
        return f"<code>{html.escape(latex)}</code>"
    return made.replace("<math ", f'<math alttext="{html.escape(latex.strip())}" ', 1)


class _Renderer(IPythonRenderer):
    """Markdown to HTML; headings have an id, formulas are MathML; ``blocks``: what stands at the top level."""

    def render_tokens(self, tokens, state):
        self.blocks = [self.render_token(token, state) for token in tokens]
        return "".join(self.blocks)

    def inline_math(self, body):
        return formula(body)

    def block_math(self, body):
        return formula(body, block=True)

    def latex_environment(self, name, body):
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

    def heading(self, text, level, **_):
        name = re.sub(r"\W+", "-", html.unescape(re.sub("<[^>]*>", "", text)).lower()).strip("-")
        return f'<h{level} id="{html.escape(name)}">{text}</h{level}>\n'


def blocks(text: str) -> list[str]:
    """Markdown with formulas to HTML, a string per paragraph, list, table; trusted, see `UNSAFE` for what is not."""
    renderer = _Renderer(escape=False, exclude_anchor_links=True)
    MarkdownWithMath(renderer).render(text)
    made: list[str] = []
    for block in renderer.blocks:
        if made and made[-1].count("<details") > made[-1].count("</details"):  # what is folded stays together
            made[-1] += block
        elif block.startswith("<table"):
            block = re.sub(r"<thead>(\s*<tr>\s*(<th[^>]*></th>\s*)+</tr>\s*)</thead>", "", block)  # without words
            made.append(f'<div class="wide">{scoped(block)}</div>\n')
        elif block.strip():
            made.append(block)
    return made


def markdown(text: str) -> str:
    """`blocks` in one string."""
    return "".join(blocks(text))


def scoped(table: str) -> str:
    """The headers of an HTML table say whether they are of a column or of a row."""

    def headers(part: re.Match, of: str) -> str:
        more = r"<th(?![^>]*\bscope=)(?=[\s>])([^>]*)>"
        many = rf'{of[:3]}span="?(?:[2-9]|1\d)'

        def one(th):
            return f'<th scope="{of}{"group" * bool(re.search(many, th[1]))}"{th[1]}>'

        return re.sub(more, one, part[0])

    table = re.sub(r"<thead.*?</thead>", partial(headers, of="col"), table, flags=re.DOTALL)
    return re.sub(r"<tbody.*?</tbody>", partial(headers, of="row"), table, flags=re.DOTALL)


def picture(data: str, alt: str) -> str:
    """An ``img`` of a base64 PNG, with its size, so that the page does not jump while it loads."""
    width, height = struct.unpack(">II", base64.b64decode(data[:44])[16:24])
    data = re.sub(r"\s", "", data)
    size = f'width="{width}" height="{height}"'
    return f'<img src="data:image/png;base64,{data}" {size} alt="{html.escape(" ".join(alt.split()))}">'


def alt_of(png: bytes) -> str:
    """The description in a PNG file, as `prsa.figures.save` writes it, or nothing."""
    place = 8
    while place + 8 < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        chunk, place = png[place + 8 : place + 8 + length], place + 12 + length
        if kind in (b"tEXt", b"iTXt") and chunk.startswith(b"Description\0"):
            value = chunk.removeprefix(b"Description\0")
            return value.decode("latin-1") if kind == b"tEXt" else value[2:].split(b"\0", 2)[2].decode("utf-8")
    return ""


def shown(output: dict, source: str) -> str:
    """HTML of one output of a cell; ``source``: the line below a figure or table that says where it comes from."""
    if output.output_type == "stream":
        return f'<pre class="output">{html.escape(strip_ansi(output.text))}</pre>'
    if output.output_type == "error":
        return f'<pre class="output">{html.escape(strip_ansi(chr(10).join(output.traceback)))}</pre>'
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output.data.items()}
    for kind, unsafe in UNSAFE.items():
        if kind in data:
            data[kind] = unsafe.sub("&lt;", data[kind])
    caption = f"<figcaption>{html.escape(source)}</figcaption>"
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt") or data.get("text/plain", "a figure")
        return f"<figure>{picture(data['image/png'], alt)}{caption}</figure>"
    if WIDGET in data:
        return '<p class="output">Controls to turn: they work in JupyterLab (<code>make lab</code>).</p>'
    if "text/html" in data:
        made = scoped(data["text/html"])
        return f'<figure><div class="wide">{made}</div>{caption if "<table" in made else ""}</figure>'
    if "text/markdown" in data:
        made = markdown(data["text/markdown"])
        return f"<figure>{made}{caption}</figure>" if "<table" in made else made
    return f'<pre class="output">{html.escape(strip_ansi(data.get("text/plain", "")))}</pre>'


def cells(nb, name: str, source: str) -> Iterator[tuple[dict, str, list[str]]]:
    """Every cell that a reader sees: itself, its HTML, and that of its outputs; code is folded."""
    highlight = Highlight2HTML(pygments_lexer="python")
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "markdown":
            yield cell, markdown(cell.source), []
        elif cell.cell_type == "code" and cell.source.strip():
            count = len(cell.source.splitlines())
            code = (
                f"<details><summary>Code, {count} line{'s' * (count > 1)}</summary>{highlight(cell.source)}</details>"
            )
            yield cell, code, [shown(output, f"{name}, cell {number} · {source}") for output in cell.outputs]


def linked(made: str, names: list[str], out: Path) -> str:
    """Names of notebooks become links to their pages; links to files of the repository lead there from ``out``."""
    made = re.sub(
        rf"<code>({'|'.join(map(re.escape, names)) or '(?!)'})</code>", r'<a href="\1.html"><code>\1</code></a>', made
    )

    def there(link):
        target, _, place = link[1].partition("#")
        if re.match(r"[a-z]+:|#|$", link[1]) or target.removesuffix(".html") in names:
            return link[0]
        if (stem := Path(target).stem) in names:
            target = f"{stem}.html"
        else:
            target = Path(os.path.relpath(files.NOTEBOOKS / target, out.parent)).as_posix()
        return f'href="{target}{"#" * bool(place)}{place}"'

    return re.sub(r'href="([^"]*)"', there, made)


def facts(nb, name: str) -> dict:
    """What the index says of a notebook: title, goal, minutes, first point of its summary, first figure (HTML)."""
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    seconds = nb.metadata.get("papermill", {}).get("duration")
    pictures = (
        shown(output, "")
        for cell in nb.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    )
    points = re.search(r"^## Summary\s+(?:[^*\n-].*\n+)*[*-] +((?:.+\n?)(?:  .+\n?)*)", text, re.MULTILINE)
    return {
        "title": re.sub(r"^#+ *", "", text.split("\n", 1)[0]) or name,
        "goal": " ".join((re.search(r"\*\*Goal\.\*\*((?:.+\n?)+)", text) or ("", ""))[1].split()),
        "finding": " ".join(points[1].split()) if points else "",
        "minutes": "" if seconds is None else f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min",
        "picture": re.sub(r"<figcaption>.*", "", next(pictures, "")).removeprefix("<figure>"),
    }


def line(name: str, results: Path) -> str:
    """The runs that a table or figure was made of, in one line; only the code where nothing was written down."""
    known = provenance.recorded(results / "tables").get("of", {})
    there = name in known or f"figures/{name}" in known
    return provenance.line(provenance.runs_of(name, results)) if there else provenance.commit()


def source(nb, results: Path) -> str:
    """The same for what an executed notebook shows: the runs of the study that it was given, or its default."""
    groups = provenance.recorded(results / "tables").get("groups", {})
    given = nb.metadata.get("papermill", {}).get("parameters", {})
    if {"seeds", "study"} & set(given) and groups:
        return provenance.line(results / "runs" / name for runs in groups.values() for name in runs)
    if any("parameters" in c.metadata.get("tags", []) and 'study = "teaching"' in c.source for c in nb.cells):
        return f"teaching results, {provenance.line(teaching.FOLDER.glob('*.slim.nc'))}"
    return f"computed in this notebook, {provenance.commit()}"


def write_all(results: Path, names: list[str]) -> list[Path]:
    """Write the report of a results folder: a page for every executed notebook in it, the tables, ``index.html``.

    ``names``: of the notebooks, in order; those without an executed copy are left out, and their old pages removed.
    Returns the paths. Raises `PrsaError` when the disk does not take them.
    """
    report, glossary = results / "report", files.NOTEBOOKS / f"{GLOSSARY}.md"
    there = [name for name in names if (results / "notebooks" / f"{name}.ipynb").is_file()]
    for old in report.glob("*.html"):
        if old.stem not in (*there, "index", "tables", GLOSSARY):
            old.unlink()
    books = {name: nbformat.read(results / "notebooks" / f"{name}.ipynb", as_version=4) for name in there}
    known = {name: facts(nb, name) for name, nb in books.items()}
    linked_to = [*there, *([GLOSSARY] * glossary.is_file())]
    order, paths = [(), *((f"{name}.html", known[name]["title"]) for name in there), ("tables.html", "Tables")], []
    for i, (name, nb) in enumerate(books.items(), 1):
        paths.append(to_html(nb, report / f"{name}.html", source(nb, results), linked_to, order[i - 1], order[i + 1]))
    if glossary.is_file():
        words = linked(markdown(glossary.read_text(encoding="utf-8")), linked_to, report / "index.html")
        paths.append(files.write_text(page("Glossary", words), report / f"{GLOSSARY}.html"))
    paths.append(files.write_text(tables(results, order[-2]), report / "tables.html"))
    return [*paths, files.write_text(index(results, known), report / "index.html")]


def to_html(nb, out: Path, source: str = "", names: list[str] = (), before: tuple = (), after: tuple = ()) -> Path:
    """Write an executed notebook (of nbformat) as one HTML page.

    ``source``: the line below every figure and table; ``names``: of the notebooks that have a page beside ``out``;
    ``before`` and ``after``: (file, title) of its neighbours.
    """
    parts = [part for _, one, outputs in cells(nb, out.stem, source) for part in (one, *outputs)]
    body = linked("\n".join(parts), list(names), out)
    return files.write_text(page(facts(nb, out.stem)["title"], body, before, after), out)


def tables(results: Path, before: tuple = ()) -> str:
    """The page of all tables of a study, each with its notes and its files."""
    there = [name for name in COLUMNS if (results / "tables" / f"{name}.md").is_file()]
    parts = ["<h1>Tables</h1>", "<p>" + " · ".join(f'<a href="#{name}">{name}</a>' for name in there) + "</p>"]
    for name in there:
        text = (results / "tables" / f"{name}.md").read_text(encoding="utf-8")
        links = ", ".join(f'<a href="../tables/{name}.{kind}">{kind}</a>' for kind in ("csv", "md", "tex"))
        parts += [f'<h2 id="{name}">{name}</h2>', f"<figure>{markdown(UNSAFE['text/markdown'].sub('&lt;', text))}"]
        parts += [f"<figcaption>{links} · {html.escape(line(name, results))}</figcaption></figure>"]
    return page("Tables", "\n".join(parts), before)


def index(results: Path, known: dict[str, dict]) -> str:
    """The first page: what was found in pictures, a card per notebook, and the tables."""
    parts = ["<h1>Modality imbalance and PRSANet: the report of a study</h1>", f'<p class="lead">{LEAD}</p>']
    parts.append('<div class="pictures">')
    for stem in ("first_look_*", "group_differences"):
        for path in sorted((results / "figures").glob(f"{stem}.png")):
            png = path.read_bytes()
            image = picture(base64.b64encode(png).decode(), alt_of(png) or path.stem)
            caption = f"{path.relative_to(results).as_posix()} · {line(path.stem, results)}"
            parts.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    parts += ["</div>", "<h2>The notebooks, in the order of the data</h2>", '<div class="cards">']
    for name, of in known.items():
        finding = f"<p><strong>In short.</strong> {_line(of['finding'])}</p>" if of["finding"] else ""
        title = f'<h3><a href="{name}.html">{html.escape(of["title"])}</a></h3><p>{_line(of["goal"])}</p>'
        time = f'<p class="minutes">{of["minutes"]} to run</p>' if of["minutes"] else ""
        parts.append(f'<article class="card">{title}{of["picture"]}{finding}{time}</article>')
    parts += ["</div>", "<h2>Tables</h2>", "<ul>"]
    for name in COLUMNS:
        if (path := results / "tables" / f"{name}.md").is_file():
            note = path.read_text(encoding="utf-8").split("\n\n", 1)[0]
            parts.append(
                f'<li><a href="tables.html#{name}">{name}</a>: {_line(UNSAFE["text/markdown"].sub("&lt;", note))}</li>'
            )
    return page("Modality imbalance and PRSANet", "\n".join([*parts, "</ul>"]), kind="index")


def _line(text: str) -> str:
    """Markdown of one paragraph as HTML without its ``p``."""
    return re.sub(r"^<p>|</p>\s*$", "", markdown(text))


def slides(nb, out: Path, source: str = "") -> Path:
    """Write an executed notebook as slides: one HTML file, arrow keys, and ``n`` for the notes of who speaks.

    A heading opens a slide, and every figure or table of a cell has its own. Of the prose, the first paragraph of a
    section, lists, formulas and what asks to predict are shown; the rest are notes. Code is left out.
    """
    deck = [["", "", ""]]  # of [heading, shown, notes]
    for cell, _, outputs in cells(nb, out.stem, source):
        if cell.cell_type == "code":
            deck += [[deck[-1][0], output, ""] for output in outputs if re.search("<img|<table", output)]
            continue
        for block in blocks(cell.source):
            heading, text, _ = deck[-1]
            figure, predict = "<figure" in text, "<strong>Predict" in block
            if re.match("<h[1-3] ", block):
                deck.append([block, "", ""])
            elif figure and predict:
                deck.append([heading, block, ""])
            else:
                plain = text and block.startswith("<p>") and not predict and '"block"' not in block
                opening = "<table" in block and heading.startswith("<h1")  # what the notebook reads and writes
                deck[-1][2 if figure or plain or opening else 1] += block
    parts = [
        f"<section>{heading}{text}<aside>{notes}</aside></section>"
        for heading, text, notes in deck
        if (text or notes) and not re.search(SKIPPED, heading)
    ]
    body = "<main>" + "\n".join(parts) + '</main><div class="place"></div>'
    return files.write_text(document(facts(nb, out.stem)["title"], body, SLIDES, SCRIPT), out)
