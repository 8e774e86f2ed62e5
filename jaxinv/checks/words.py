"""Values in a few words, on one line."""

import inspect
from typing import Any

import jax
import numpy as np


def shown(value: Any) -> str:
    """Describe a value in a few words on one line.

    >>> shown(np.zeros((2, 3)))
    'an array of shape (2, 3) and type float64'
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, str | int | float | complex | bytes | None) or (
        type(value) in (list, tuple, dict)
    ):
        text = one_line(repr(value))
        return text if len(text) <= 60 else f"{text[:57]}..."
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '')}".rstrip()
    return f"a value of type {type(value).__name__}"


def figures(value: Any, spec: str = "") -> str:
    """Return a number, or the range of several, as text; "?" for tracers.

    >>> figures(np.float32(2.5e-7), ".1e"), figures(np.array([1, 5]))
    ('2.5e-07', '1 to 5')
    """
    if not _has_values(value):
        return "?"
    numbers = np.asarray(value)
    low, high = (f"{each:{spec}}" for each in (numbers.min(), numbers.max()))
    return low if low == high else f"{low} to {high}"


def verdict(converged: Any) -> str:
    """Return whether a sample converged, or how many of a batch did, as text.

    >>> verdict(np.array(True)), verdict(np.array([True, False]))
    ('converged', '1 of 2 converged')
    """
    if not _has_values(converged):
        return "convergence not known"
    flags = np.asarray(converged)
    if flags.ndim == 0:
        return "converged" if flags else "not converged"
    return f"{flags.sum()} of {flags.size} converged"


def _has_values(value: Any) -> bool:
    array = isinstance(value, jax.Array | np.ndarray | np.generic)
    return array and not isinstance(value, jax.core.Tracer) and value.size > 0


def one_line(said: object, most: int | None = None) -> str:
    """Return a text or an error's message without line breaks and not too long."""
    text = " ".join(str(said).split())
    if not text and isinstance(said, BaseException):
        return type(said).__name__
    return text if most is None or len(text) <= most else f"{text[:most]}..."
