"""Progress that suits where it is read."""

import os
import sys

from tqdm import tqdm


class _Lines:
    """A log instead of a terminal: every state of a progress bar is a line of its own."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def bar(total: int, done: int = 0, unit: str = "run", show: bool = True) -> tqdm:
    """A bar on a terminal and in JupyterLab; a line every half minute elsewhere (the driver's notebooks, a log)."""
    live = sys.stderr.isatty() or ("JPY_PARENT_PID" in os.environ and "PRSA_LOG" not in os.environ)
    where = {"dynamic_ncols": True} if live else {"file": _Lines(), "mininterval": 30, "ncols": 100}
    return tqdm(total=total, initial=done, unit=unit, disable=not show, **where)
