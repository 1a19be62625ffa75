"""The frame of the HTML pages and slides: one font stack, light or dark as the system is, nothing from outside."""

import base64
import hashlib
import html

STYLE = """
:root {
  --ink: #1d2126; --soft: #59626d; --line: #d7dce2; --back: #ffffff; --panel: #f5f7f9; --link: #0b5cad;
  --string: #216e3a; --word: #8a3ffc; --number: #9a4d00; color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7eb; --soft: #a3adb8; --line: #3a424c; --back: #15181c; --panel: #1e2329; --link: #7fb8ff;
    --string: #7fce9a; --word: #c8a6ff; --number: #f0b070;
  }
}
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--back); }
body { font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, nav { max-width: 54rem; margin: 0 auto; padding: 0 1.2rem; }
.index main { max-width: 74rem; }
nav { display: flex; gap: 1.5rem; justify-content: space-between; padding-top: .8rem; padding-bottom: .8rem; }
nav { font-size: .88rem; color: var(--soft); }
nav:first-child { border-bottom: 1px solid var(--line); }
main + nav { border-top: 1px solid var(--line); margin-top: 3rem; }
main { padding-bottom: 2rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 1.8rem 0 1rem; }
h2 { font-size: 1.4rem; line-height: 1.25; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1.12rem; margin: 1.8rem 0 .4rem; }
a { color: var(--link); }
p, ul, ol { margin: .7rem 0; }
li { margin: .2rem 0; }
pre, code { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", Consolas, monospace; font-size: .86em; }
code { background: var(--panel); padding: .08em .3em; border-radius: 3px; }
pre { background: var(--panel); padding: .7rem .9rem; border-radius: 5px; line-height: 1.4; margin: .4rem 0; }
pre { overflow: auto; max-height: 28rem; }
pre code { padding: 0; background: none; }
pre.output { border-left: 3px solid var(--line); border-radius: 0; background: none; white-space: pre-wrap; }
details { margin: .7rem 0; }
summary { cursor: pointer; color: var(--soft); font-size: .88rem; }
.highlight .k, .highlight .kn, .highlight .ow, .highlight .kc { color: var(--word); }
.highlight .s1, .highlight .s2, .highlight .sa, .highlight .si { color: var(--string); }
.highlight .mi, .highlight .mf { color: var(--number); }
.highlight .c1 { color: var(--soft); font-style: italic; }
figure { margin: 1.1rem 0; }
figcaption { color: var(--soft); font-size: .78rem; margin-top: .3rem; }
figure img, .card img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; padding: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; border: 0; font-size: .86rem; line-height: 1.35; margin: .4rem 0; }
table { font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: left; border: 0; vertical-align: top; }
th, td { border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--soft); }
tbody th { font-weight: 600; }
.dataframe td, .dataframe thead th { text-align: right; }
math { font-size: 1.08em; }
math[display=block] { margin: .8rem 0; overflow-x: auto; padding: .1rem 0; }
blockquote { margin: .8rem 0; padding: 0 1rem; border-left: 3px solid var(--line); color: var(--soft); }
.lead { font-size: 1.08rem; max-width: 48rem; }
.pictures { display: grid; gap: 1.4rem; align-items: start; }
.pictures { grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); }
.cards { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1rem; background: var(--panel); }
.card { display: flex; flex-direction: column; gap: .5rem; }
.card h3 { margin: 0; font-size: 1.08rem; }
.card p { margin: 0; font-size: .9rem; }
.card img { width: 100%; height: 9.5rem; object-fit: contain; }
.card .minutes { color: var(--soft); font-size: .8rem; margin-top: auto; }
@media print { nav, details:not([open]) { display: none; } }
"""
SLIDES = """
body { font-size: 38px; line-height: 1.4; }
main { max-width: none; padding: 0; }
section { display: none; height: 100vh; overflow: hidden; padding: 4vh 5vw 6vh; }
section.now { display: block; }
section h1 { font-size: 1.9em; margin: 24vh 0 .4em; }
section:has(figure) h1 { font-size: 1.2em; margin: 0 0 .4em; }
section h2 { font-size: 1.2em; margin: 0 0 .7em; }
section h3 { font-size: 1.1em; margin: 0 0 .4em; }
section table { font-size: .85em; }
section summary { font-size: .8em; }
section figure { margin: .4em 0; text-align: center; }
section figure .wide { display: flex; justify-content: center; }
section figure img { max-width: 90vw; width: auto; height: 72vh; object-fit: contain; }
section figcaption { font-size: 13px; }
aside { display: none; font-size: .7em; color: var(--soft); border-top: 1px solid var(--line); margin-top: 1em; }
.notes aside { display: block; }
.place { position: fixed; right: 1.2rem; bottom: .8rem; color: var(--soft); font-size: 15px; }
@media print {
  @page { size: 320mm 180mm; margin: 0; }
  .place { display: none; }
  section, section.now { display: block; break-after: page; height: 179mm; }
}
"""
SCRIPT = """
const all = [...document.querySelectorAll("section")], place = document.querySelector(".place");
let now = 0;
function fit(s) {
  for (let size = 38; size > 13; size--) {
    s.style.fontSize = size + "px";
    if (s.scrollHeight <= s.clientHeight && s.scrollWidth <= s.clientWidth) break;
  }
}
function go(n) {
  now = Math.max(0, Math.min(all.length - 1, n));
  all.forEach((s, i) => s.classList.toggle("now", i === now));
  fit(all[now]);
  place.textContent = (now + 1) + " / " + all.length;
  history.replaceState(null, "", "#" + (now + 1));
}
addEventListener("keydown", e => {
  if (["ArrowRight", "ArrowDown", "PageDown", " ", "Enter"].includes(e.key)) go(now + 1);
  else if (["ArrowLeft", "ArrowUp", "PageUp", "Backspace"].includes(e.key)) go(now - 1);
  else if (e.key === "Home") go(0);
  else if (e.key === "End") go(all.length - 1);
  else if (e.key === "n") { document.body.classList.toggle("notes"); go(now); return; }
  else return;
  e.preventDefault();
});
addEventListener("click", e => {
  if (e.target.closest("a, summary, details") || getSelection().toString()) return;
  go(now + (e.clientX < innerWidth / 3 ? -1 : 1));
});
addEventListener("resize", () => go(now));
addEventListener("hashchange", () => go(parseInt(location.hash.slice(1) || "1") - 1));
addEventListener("beforeprint", () => all.forEach(s => { s.classList.add("now"); fit(s); }));
addEventListener("afterprint", () => go(now));
go(parseInt(location.hash.slice(1) || "1") - 1);
"""


def document(title: str, body: str, style: str = "", script: str = "", kind: str = "") -> str:
    """A whole HTML page whose content security policy allows no request, and no script but this one."""
    policy, tail = "default-src 'none'; style-src 'unsafe-inline'; img-src data:", ""
    if script:
        allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, tail = f"{policy}; script-src 'sha256-{allowed}'", f"<script>{script}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n"
        f'<body class="{kind}">\n{body}\n{tail}</body>\n</html>\n'
    )


def page(title: str, body: str, before: tuple = (), after: tuple = (), kind: str = "") -> str:
    """`document` with previous and next above and below; ``before`` and ``after``: (file, title), or none."""
    if kind == "index":
        return document(title, f"<main>\n{body}\n</main>", kind=kind)
    left = f'<a rel="prev" href="{before[0]}">&larr; {html.escape(before[1])}</a>' if before else "<span></span>"
    right = f'<a rel="next" href="{after[0]}">{html.escape(after[1])} &rarr;</a>' if after else "<span></span>"
    nav = f'<nav>{left}<a href="index.html">All pages</a>{right}</nav>'
    return document(title, f"{nav}\n<main>\n{body}\n</main>\n{nav}", kind=kind)
