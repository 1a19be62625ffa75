"""What git keeps of a full run: small tables, figures and measurements, and the README blocks made from them.

`make reference` runs this after `make reproduce` and `make bench`; a test compares the README with ``results/reference``.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

from . import paths, tables
from .errors import PrsaError

REFERENCE = paths.ROOT / "results" / "reference"
KEPT = ("tables/*.csv", "figures/accuracy_ranking.png", "timing.json", "bench/training.json", "bench/mapping.json")


def results_block(reference: Path) -> str:
    """OA per method and its difference to concat, a pair of columns per scene."""
    accuracy = pd.read_csv(reference / "tables" / "accuracy.csv")
    seeds = " or ".join(str(n) for n in sorted(set(accuracy["n_seeds"])))
    return (f"Test OA in points, mean ± sd over {seeds} seeds, and its difference to `concat`, paired by seed, with its 95 % interval.\n\n"
            f"{tables.markdown_accuracy(accuracy)}")


def speed_block(reference: Path) -> str:
    """What the two commands and the network cost, from the timing file and the benchmark."""
    timing = json.loads((reference / "timing.json").read_text())
    bench = {name: json.loads((reference / "bench" / f"{name}.json").read_text()) for name in ("training", "mapping")}

    def best(name: str, column: str) -> str:
        machine = bench[name]["machine"]
        return f"{max(r[column] for r in bench[name]['rows'] if r['method'] == 'prsanet' and r['threads'] == machine['cores']):,}"

    bands = " + ".join(str(n) for n in bench["training"]["bands"].values())
    return (f"Measured on {timing['cores']} CPU cores ({timing['device']}) after installation: `make reproduce` {timing['minutes']:.0f} minutes for "
            f"{timing['runs']} runs, the first table after {timing['first_table_minutes']} minutes. `prsanet` at {bands} bands trains "
            f"{best('training', 'samples_per_s')} patches of 7 x 7 per second and maps {best('mapping', 'pixels_per_s')} pixels per second "
            f"({bench['training']['machine']['cores']} threads).\n")


BLOCKS = {"results": results_block, "speed": speed_block}


def with_blocks(readme: str, reference: Path = REFERENCE) -> str:
    """The README's text with its generated blocks renewed. Raises `PrsaError` when a pair of markers is not there exactly once."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        if readme.count(begin) != 1 or readme.count(end) != 1:
            raise PrsaError(f"README.md: expected {begin.strip()} and {end} once each. Put them back around the generated text.")
        head, rest = readme.split(begin)
        readme = head + begin + make(reference) + end + rest.split(end)[1]
    return readme


def main() -> int:
    """Copy what is kept of the last full run and benchmark to ``results/reference``, renew the README; returns the exit code."""
    results = paths.results("full")
    found = {pattern: sorted(results.glob(pattern)) for pattern in KEPT}
    missing = [pattern for pattern, files in found.items() if not files]
    if missing:
        print(f"error: expected {', '.join(missing)} in {results}, found none. Fix: make reproduce, make bench", file=sys.stderr)
        return 2
    for path in (path for files in found.values() for path in files):
        target = REFERENCE / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    readme = paths.ROOT / "README.md"
    readme.write_text(with_blocks(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
