"""Arguments of functions and of settings, checked against their annotations."""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from jaxinv.checks.annotations import Refused, conform, describe
from jaxinv.checks.words import shown

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def checked(target: _Decorated) -> _Decorated:
    """Check the arguments of a function or dataclass against their annotations.

    NumPy's numbers are converted to Python's; all other values are unchanged.

    Args:
        target: A function, or a class made by ``dataclasses.dataclass``.

    Returns:
        The function or class with checks. They raise a ValueError of one line that
        names the argument, the expected value and the given one.
    """
    if isinstance(target, type):
        target.__init__ = _checked_call(target.__init__, target.__name__)  # type: ignore[misc]
        return target
    return typing.cast(_Decorated, _checked_call(target, target.__name__))


def _checked_call(target: Callable[..., Any], name: str) -> Callable[..., Any]:
    signature = inspect.signature(target)
    hints = functools.cache(lambda: typing.get_type_hints(target, include_extras=True))

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return target(*args, **kwargs)  # Python's own error names the function
        for key, value in bound.arguments.items():
            kind = signature.parameters[key].kind
            if key not in hints() or kind in _VARIADIC:
                continue
            found = conform(value, hints()[key])
            if isinstance(found, Refused):
                mixed_up = kind is _EITHER and not isinstance(value, _SCALARS)
                order = _order(signature) if mixed_up else ""
                expected = f"{key}{found.place} must be {describe(found.hint)}"
                raise ValueError(f"{name}: {expected}, got {shown(found.value)}{order}")
            bound.arguments[key] = found
        return target(*bound.args, **bound.kwargs)

    return call


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
_SCALARS = (str, bytes, int, float, complex, types.NoneType)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _order(signature: inspect.Signature) -> str:
    """Return a hint about the order of arguments that can be confused."""
    names = [p.name for p in signature.parameters.values() if p.kind is _EITHER]
    if len(names) < 2:
        return ""
    return f"; the order is ({', '.join(name for name in names if name != 'self')})"
