"""The README fits on two screens, its code runs as printed, and its links lead to what the repository holds."""

import re
import subprocess

import pytest

import prsa
from prsa.files import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "data/README.md", "prsa/study/README.md", "results/reference/README.md")


def test_it_is_short_and_says_first_whose_numbers_these_are():
    assert len(README.splitlines()) <= 110
    first = README[: README.index("![")]
    assert "Whose numbers these are" in first and "make reproduce" in first and "minutes" in first


def test_the_four_calls(monkeypatch):
    (code,) = (b for b in re.findall(r"^```python\n(.*?)^```$", README, re.S | re.M) if "prsa.fit(" in b)
    fit, taken, quick = prsa.fit, {}, {"preset": "quick", "epochs": 1, "device": "cpu"}
    monkeypatch.setattr(prsa, "fit", lambda *a, **k: fit(*a, **(k | quick)))
    exec(code, taken)
    assert taken["run"].attrs["schema"] == "prsa-run-1" and taken["land_cover"].dims == ("y", "x")


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_are_in_the_repository(page):
    text, folder = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    named = re.findall(r"`((?:prsa|tests|notebooks|bench|tables)/[\w./-]+\.\w+)`", text)
    paths = [(folder if (folder / name).exists() else ROOT) / name for name in links + named]
    assert all(path.exists() for path in paths), [str(path) for path in paths if not path.exists()]
    if (ROOT / ".git").exists():
        ignored = subprocess.run(
            ["git", "check-ignore", *map(str, paths), "x"], cwd=ROOT, capture_output=True, text=True
        )
        assert not ignored.stdout


def test_every_notebook_is_in_the_tables():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert names == set(re.findall(r"^\| `([0-9A]\d_\w+)` \|", README, re.M))
