"""Registries of values by name, and the message for an unknown name."""

import difflib
import re
from collections.abc import Iterable
from typing import TypeVar

_Value = TypeVar("_Value")


def by_name(*values: _Value) -> dict[str, _Value]:
    """Return a mapping from class names, in snake case, to instances.

    Args:
        *values: Instances of classes.

    Example:
        >>> import jaxinv as ji
        >>> list(by_name(ji.Anderson(), ji.NewtonKrylov()))
        ['anderson', 'newton_krylov']
    """
    names = [re.sub("(?<=[a-z])(?=[A-Z])", "_", type(v).__name__) for v in values]
    return dict(zip(map(str.lower, names), values, strict=True))


def unknown(what: str, name: object, known: Iterable[str], instead: str = "") -> str:
    """Return the message for a name that does not exist.

    Args:
        what: The kind of object that was named.
        name: The unknown name.
        known: The known names, in the user's spelling.
        instead: A description of other accepted values.

    Example:
        >>> print(unknown("solver", "andersen", ["anderson", "gradient"]))
        unknown solver 'andersen'; did you mean anderson? (there are anderson, gradient)
    """
    known = list(known)
    # "dpm++" is in print what "dpmpp" is in names.
    typed = str(name).strip().lower().replace("+", "p")
    close = difflib.get_close_matches(typed, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    accepted = ", ".join(known) + (f"; or {instead}" if instead else "")
    return f"unknown {what} {name!r}{hint} (there are {accepted})"
