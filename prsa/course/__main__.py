"""``python -m prsa.course``: write the copies of the exercises, or grade what was handed in."""

import argparse
import sys

from ..errors import PrsaError
from .copies import write
from .grading import grade


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code: 0, or 2 for a problem the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m prsa.course", description=__doc__.splitlines()[0])
    parser.add_argument("--out", help="folder of the copies (default: course in the results folder)")
    again = "execute FOLDER/<student>/E*.ipynb again with the checks of the source; writes FOLDER/scores.csv"
    parser.add_argument("--grade", metavar="FOLDER", help=again)
    given = parser.parse_args(arguments)
    try:
        if given.grade:
            print(grade(given.grade).to_string(index=False))
        else:
            *_, archive = write(given.out)
            print(f"In {archive.parent}:\n  student/     the exercises, to work in or to hand out")
            print("  instructor/  the same with solutions\n  prsa-course.zip: student copies and all that they need")
    except PrsaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
