"""The HTML report in a real browser without a network, and the slides. Skipped where no Chromium is installed."""

import base64
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from html.parser import HTMLParser

import nbformat
import pandas as pd
import pytest
import websocket
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from prsa import files
from prsa.figures.style import panels, save, styled
from prsa.report import pages, text
from prsa.report.layout import document

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BAD = "<script>document.title = 'hacked'</script><img src=x onerror=alert(1)>"
OFFLINE = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
OFFLINE += ("--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,720")


class Browser:
    """A Chromium that reaches nothing but files, driven by its DevTools protocol; what it complains about is kept."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [CHROMIUM, *OFFLINE, f"--remote-debugging-port={port}", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                tabs = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5))
                break
            except OSError:
                time.sleep(0.1)
        tab = next(tab for tab in tabs if tab["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], suppress_origin=True, timeout=60)
        self.number, self.events = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url):
        """Load a page to its end; returns its complaints and the addresses that it asked for."""
        self.events.clear()
        self.call("Page.navigate", url=str(url))
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        self.run("1")  # what came with the load has arrived
        found = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["params"] for event in self.events if event["method"] in found], asked

    def run(self, code):
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine. Debian: apt-get install chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.socket.close()
    found.process.terminate()
    found.process.wait()


@styled
def drawn():
    """A line that rises, for a reader who cannot see it."""
    figure, ((ax,),) = panels(1, 1, 2)
    ax.plot([0, 1], [0, 1])
    ax.set(xlabel="epoch", ylabel="accuracy (%)")
    return figure


def executed():
    """A notebook with an output of every kind that ours have, as papermill leaves it."""
    figure = drawn()
    table = pd.DataFrame({"n": [1, 2]}, index=[BAD, "field"])
    image, metadata = figure._repr_mimebundle_()
    encoded = {"image/png": base64.b64encode(image["image/png"]).decode(), "text/plain": "a figure"}
    outputs = [
        new_output("display_data", encoded, metadata=metadata),
        new_output("display_data", {"text/html": table._repr_html_(), "text/plain": "table"}),
        new_output("display_data", {"text/html": table.style.to_html(), "text/plain": "not escaped"}),
        new_output("display_data", {"text/markdown": str(text.show(table.reset_index())), "text/plain": "table"}),
        new_output("display_data", {pages.WIDGET: {"model_id": "1"}, "text/plain": "IntSlider()"}),
        new_output("stream", text=f"\x1b[31m{BAD}\x1b[0m"),
        new_output("execute_result", {"text/plain": BAD}),
    ]
    words = (
        "# 99 Made\n\n**Goal.** See all outputs, $\\rho_m > 1$.\n\n| | |\n|---|---|\n| reads | `02_model_and_losses` |"
    )
    words += "\n\n[the data](01_data.ipynb#summary), [sources](../data/README.md), [a paper](https://doi.org/10.1/x)"
    folded = "## Summary\n\n* The first point,\n  in two lines.\n* Another.\n\n"
    folded += "<details><summary>Answer</summary>\n\n42\n\n</details>"
    code = new_code_cell("print(1)\nprint(2)", outputs=outputs, execution_count=1)
    nb = new_notebook(cells=[new_markdown_cell(words), code, new_markdown_cell(folded)])
    nb.metadata["papermill"] = {"duration": 12.3, "parameters": {"seeds": 3}}
    return nb


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of every notebook of the repository (without outputs) and of one with all kinds of outputs."""
    results = tmp_path_factory.mktemp("results (1) & co")
    for path in files.NOTEBOOKS.glob("*.ipynb"):
        (results / "notebooks").mkdir(exist_ok=True)
        shutil.copy(path, results / "notebooks")
    nbformat.write(executed(), results / "notebooks" / "99_made.ipynb")
    groups = {"study": ["a.nc"], "dial": ["a.nc", "b.nc"]}
    made_of = {"groups": groups, "of": {"accuracy": "study", "figures/group_differences": "study"}}
    for name in groups["dial"]:
        files.write_text(name, results / "runs" / name)
    files.write_text(json.dumps(made_of), results / "tables" / "runs.json")
    accuracy = text.frame("accuracy", [(BAD, 1, "concat", "study", 3, *[70.123] * 9)])
    accuracy.attrs["notes"] = ["What it *shows*."]
    text.write("accuracy", accuracy, results / "tables")
    save(drawn(), results / "figures" / "group_differences")
    names = sorted(path.stem for path in (results / "notebooks").iterdir())
    (results / "report").mkdir()
    (results / "report" / "98_old.html").touch()
    made = pages.write_all(results, [*names, "77_failed"])
    there = {*names, "index", "tables", "GLOSSARY"}
    assert {path.stem for path in made} == there == {path.stem for path in made[0].parent.iterdir()}
    return made[0].parent


CHECK = """(() => {
  const size = e => { const box = e.getBoundingClientRect(); return Math.min(box.width, box.height); };
  const all = s => [...document.querySelectorAll(s)];
  return {
    title: document.title,
    formulas: all("math").map(size),
    broken: all("merror").length,
    images: all("img").map(i => [i.alt, i.complete ? i.naturalWidth : 0]),
    links: all("a").map(a => a.getAttribute("href")),
    ids: all("[id]").map(e => e.id),
    headers: all("th:not([scope])").map(e => e.outerHTML),
    open: all("details[open]").length,
    code: all("details").length,
    wide: document.documentElement.scrollWidth - innerWidth,
    next: all("[rel=next]").map(a => a.getAttribute("href"))[0] || "",
    before: all("[rel=prev]").map(a => a.getAttribute("href"))[0] || "",
  };
})()"""


def test_every_page_reads_offline(browser, report):
    found = {}
    for path in sorted(report.glob("*.html")):
        said, asked = browser.open(path.as_uri())
        assert not said, f"{path.name}: {said}"
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()], "a page is one file"
        page = found[path.name] = browser.run(CHECK)
        assert page["title"] and not page["broken"] and min(page["formulas"], default=9) > 3, path.name
        assert all(alt and width for alt, width in page["images"]), path.name
        assert not page["headers"] and not page["open"] and page["wide"] <= 0, (path.name, page)
    sources = "".join(path.read_text(encoding="utf-8") for path in files.NOTEBOOKS.glob("*.ipynb"))
    assert sum(len(page["formulas"]) for page in found.values()) > 70 and "\\\\rho" in sources
    for name, page in found.items():
        for link in page["links"]:
            target, _, place = link.partition("#")
            if not link.startswith("https://"):
                assert (report / (target or name)).exists(), f"{name}: {link}"
            if place and not link.startswith("https://"):
                assert place in found[target or name]["ids"], f"{name}: {link}"
    order = [*sorted({*found} - {"index.html", "tables.html", "GLOSSARY.html"}), "tables.html"]
    assert [found[name]["next"] for name in order] == [*order[1:], ""]
    assert [found[name]["before"] for name in order] == ["", *order[:-1]]
    assert {*order} <= {link.partition("#")[0] for link in found["index.html"]["links"]}
    assert found["99_made.html"]["title"] == "99 Made", "a name that is a script has run"


def test_a_page_that_asks_or_fails_is_noticed(browser, tmp_path):
    plain = "<!doctype html><title>x</title><img src='http://example.org/a.png'><script>nothing()</script>"
    (tmp_path / "bad.html").write_text(plain)
    said, asked = browser.open((tmp_path / "bad.html").as_uri())
    assert any("nothing" in str(one) for one in said) and "http://example.org/a.png" in asked
    (tmp_path / "kept.html").write_text(document("kept", plain))
    said, _ = browser.open((tmp_path / "kept.html").as_uri())
    assert len(said) == 2 and str(said).count("violates the following Content Security Policy") == 2
    assert browser.run("document.title") == "kept"


def test_what_a_page_says_of_its_outputs(report):
    page = (report / "99_made.html").read_text(encoding="utf-8")
    assert 'alt="A line that rises, for a reader who cannot see it. Axes: epoch; accuracy (%)."' in page
    assert page.count("99_made, cell 2 · 2 runs, set ") == 4, "below the figure and the three tables"
    assert page.count("&lt;script&gt;") + page.count("&lt;script>") == 5 and "<script" not in page
    assert '<th scope="row">field</th>' in page and '<th scope="col"' in page
    assert "make lab" in page and "IntSlider" not in page and "\x1b" not in page
    assert "<summary>Code, 2 lines</summary>" in page and '<a href="02_model_and_losses.html">' in page
    assert 'href="01_data.html#summary"' in page and "<thead>\n<tr>\n  <th></th>" not in page
    index = (report / "index.html").read_text(encoding="utf-8")
    card = next(part for part in index.split('<article class="card">') if "99_made.html" in part)
    for words in (
        "99 Made",
        "See all outputs, <math",
        "The first point, in two lines.",
        "12 s to run",
        "A line that rises",
    ):
        assert words in card, words
    assert "What it <em>shows</em>." in index and "figures/group_differences.png · 1 runs, set " in index
    assert index.count('alt="A line that rises') == 2, "a PNG file brings its text"


class Tags(HTMLParser):
    """What is open at the end, and what was closed that was not open."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "input", "hr", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open[-1:] == [tag]:
            self.open.pop()
        else:
            self.wrong.append(tag)


def test_tags_are_balanced(report):
    for path in report.glob("*.html"):
        tags = Tags()
        tags.feed(path.read_text(encoding="utf-8"))
        assert not tags.wrong and not tags.open, (path.name, tags.wrong[:5], tags.open)


def test_a_notebook_that_reads_the_teaching_runs_says_so(tmp_path):
    reads, own = (nbformat.read(files.NOTEBOOKS / name, 4) for name in ("06_imbalance.ipynb", "00_start_here.ipynb"))
    assert re.match(r"teaching results, \d+ runs, set [0-9a-f]{8}, ", pages.source(reads, tmp_path))
    assert pages.source(own, tmp_path).startswith("computed in this notebook")


def test_every_formula_of_the_notebooks_becomes_mathml():
    count = 0
    for path in [*files.NOTEBOOKS.rglob("*.ipynb"), *files.NOTEBOOKS.rglob("*.md")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(text, as_version=4).cells
            text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        made = pages.markdown(text)
        left = re.sub(r"<(code|math|pre).*?</\1>", "", made, flags=re.DOTALL)
        assert "$" not in left and "<code>\\" not in made, path.name
        count += made.count("<math")
    assert count > 70
    assert pages.formula("x^1^2") == "<code>x^1^2</code>", "what cannot be converted is shown as it is"


def test_slides_move_with_the_keys_and_fit(browser, tmp_path):
    out = pages.slides(executed(), tmp_path / "99_made.html", "2 runs")
    said, asked = browser.open(out.as_uri())
    assert not said and [url for url in asked if not url.startswith("data:")] == [out.as_uri()]
    shown = "[...document.querySelectorAll('section')].findIndex(s => getComputedStyle(s).display != 'none')"
    fits = "(() => { const s = document.querySelector('.now'); return s.scrollHeight <= s.clientHeight; })()"
    count = browser.run("document.querySelectorAll('section').length")
    assert count == 6, "title, figure, three tables, summary"
    for place in range(count):
        assert browser.run(shown) == place and browser.run(fits), place
        browser.press("ArrowRight")
    assert browser.run("document.querySelector('.place').textContent") == "6 / 6"
    browser.press("Home")
    browser.press("n")
    assert browser.run("document.body.className") == "notes" and browser.run(shown) == 0
