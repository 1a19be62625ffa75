"""Progress that suits where it is read: the same bar on a terminal and in JupyterLab, lines everywhere else."""

import os
import sys

from tqdm import tqdm


class _Lines:
    """A log instead of a terminal: every state of a progress bar is a line of its own; in a notebook no error."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            print(text, file=sys.stdout if _kernel() else sys.stderr, flush=True)


def _kernel() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def bar(total: int, done: int = 0, unit: str = "run", show: bool | None = True) -> tqdm:
    """A bar, there from the first moment. In JupyterLab a widget: what is written to stderr there looks like an error.

    In a log, and in the driver's notebooks, a line every half minute. ``show`` None: only where somebody watches, on a
    terminal or in JupyterLab.
    """
    terminal, jupyter = sys.stderr.isatty(), _kernel() and "PRSA_LOG" not in os.environ
    kind, where = tqdm, {"dynamic_ncols": True} if terminal else {"file": _Lines(), "mininterval": 30, "ncols": 100}
    if jupyter:
        from tqdm.notebook import tqdm as kind

        where = {}
    show = terminal or jupyter if show is None else show
    return kind(total=total, initial=done, unit=unit, disable=not show, **where)
