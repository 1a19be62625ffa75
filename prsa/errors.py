"""The one exception users meet: what was expected, what was got, how to fix it; and the check of a whole number."""

from numbers import Integral


class PrsaError(ValueError):
    """A problem the user can fix. Command lines print it as ``error: ...`` and exit with code 2."""


def check_whole(**values) -> None:
    """Raise `PrsaError` for the first of these that is no whole number, 0 or more."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < 0:
            raise PrsaError(f"{name}: expected a whole number, 0 or more, got {value!r}.")
