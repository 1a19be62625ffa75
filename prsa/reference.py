"""What git keeps of a full run: small tables and the README's figures, and the README block made from them.

`make reference` runs this after `make reproduce`; a test compares the README with ``results/reference``.
"""

import shutil
import sys

import pandas as pd

from . import paths, tables
from .errors import PrsaError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
REFERENCE = paths.ROOT / "results" / "reference"
FIGURES = ("accuracy_ranking.png",)


def block(accuracy: pd.DataFrame) -> str:
    """The README's results block: one row per method, a pair of columns per scene."""
    seeds = sorted(set(accuracy["n_seeds"]))
    return (f"{BEGIN}\nTest OA in points, mean ± sd over {' or '.join(map(str, seeds))} seeds, and its difference to `concat` paired by seed "
            f"with a 95 % interval.\n\n{tables.markdown_accuracy(accuracy)}{END}")


def with_block(readme: str, accuracy: pd.DataFrame) -> str:
    """The README's text with its results block replaced. Raises `PrsaError` when the two markers are not there once each."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise PrsaError(f"README.md: expected {BEGIN} and {END} once each. Put them back around the results table.")
    head, rest = readme.split(BEGIN)
    return head + block(accuracy) + rest.split(END)[1]


def read_accuracy() -> pd.DataFrame:
    """The committed accuracy table."""
    return pd.read_csv(REFERENCE / "tables" / "accuracy.csv")


def main() -> int:
    """Copy tables and figures of the last full run to ``results/reference`` and renew the README block; returns the exit code."""
    results = paths.results("full")
    sources = sorted((results / "tables").glob("*.csv")) + [results / "figures" / name for name in FIGURES]
    missing = [str(path) for path in sources if not path.is_file()]
    if missing or len(sources) == len(FIGURES):
        print(f"error: expected the tables and figures of a full run, {missing or results / 'tables'} not found. Fix: make reproduce", file=sys.stderr)
        return 2
    for path in sources:
        target = REFERENCE / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    readme = paths.ROOT / "README.md"
    readme.write_text(with_block(readme.read_text(encoding="utf-8"), read_accuracy()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
