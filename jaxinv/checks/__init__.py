"""Checks of values against their annotations, with one-line errors.

Two kinds of values are checked:

* arguments of public functions and of frozen dataclasses of settings, by
  :func:`checked`;
* fields of untrusted JSON (:mod:`jaxinv.files.json_fields`).

Functions themselves check pytrees and the shapes and values of arrays.
"""

from jaxinv.checks.annotations import (
    ARGUMENTS,
    Dialect,
    Refused,
    conform,
    describe,
    is_real,
    plain,
)
from jaxinv.checks.arguments import checked
from jaxinv.checks.limits import AtLeastOne, Length, Positive, Range, Tolerance, Whole
from jaxinv.checks.names import by_name, unknown
from jaxinv.checks.words import figures, one_line, shown, verdict

__all__ = [
    "ARGUMENTS",
    "AtLeastOne",
    "Dialect",
    "Length",
    "Positive",
    "Range",
    "Refused",
    "Tolerance",
    "Whole",
    "by_name",
    "checked",
    "conform",
    "describe",
    "figures",
    "is_real",
    "one_line",
    "plain",
    "shown",
    "unknown",
    "verdict",
]
