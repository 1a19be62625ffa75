"""Progress that suits where it is read: the same bar on a terminal and in JupyterLab, lines everywhere else."""

import os
import sys

from tqdm import tqdm
from tqdm.notebook import tqdm as notebook_tqdm


class _Lines:
    """A log instead of a terminal: every state of a progress bar is a line of its own, and no error."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            print(text, flush=True)

    def flush(self) -> None:
        sys.stdout.flush()


def in_jupyter() -> bool:
    """Whether somebody works in a notebook: a kernel, and not one that the driver has started."""
    return "JPY_PARENT_PID" in os.environ and "PRSA_LOG" not in os.environ and "ipykernel" in sys.modules


def bar(total: int, done: int = 0, unit: str = "run", show: bool | None = True) -> tqdm:
    """A bar, there from the first moment. In JupyterLab a widget: what is written to stderr there looks like an error.

    In a log, and in the driver's notebooks, a line every half minute on stdout. ``show`` None: only where somebody
    watches, on a terminal or in JupyterLab.
    """
    terminal, kernel = sys.stderr.isatty(), in_jupyter()
    where = {"dynamic_ncols": True} if terminal else {"file": _Lines(), "mininterval": 30, "ncols": 100}
    show = terminal or kernel if show is None else show
    kind, where = (notebook_tqdm, {}) if kernel else (tqdm, where)
    return kind(total=total, initial=done, unit=unit, disable=not show, **where)
