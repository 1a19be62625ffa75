"""The one exception users meet: what was expected, what was got, how to fix it."""


class PrsaError(ValueError):
    """A problem the user can fix. Command lines print it as ``error: ...`` and exit with code 2."""
