"""Arguments are what their annotations say, or one line says what was expected.

A public function, or a frozen dataclass of settings, is decorated with
:func:`checked`: before anything else happens, each argument is compared with its own
annotation. Ranges stand there, too: ``Annotated[int, Range(1, 100)]``.

What is compared: numbers, booleans, strings, ``Literal`` names, classes, callables,
tuples and sequences of these, and whether something is an array of real numbers at all.
Shapes and values of arrays are the function's own affair, as are pytrees.
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_Refused = object()  # what no value conforms to


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers, in an annotation: ``Annotated[float, Range(0, above=True)]``.

    Attributes:
        least: The smallest; None for no limit.
        most: The largest; None for no limit.
        above: Whether ``least`` itself is not allowed.
        below: Whether ``most`` itself is not allowed.
    """

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number is allowed."""
        if self.least is not None and not (
            value > self.least if self.above else value >= self.least
        ):
            return False
        return self.most is None or (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        """Return the limits, in words that follow "a number"."""
        words = []
        if self.least is not None:
            words.append(f"{'above' if self.above else 'of at least'} {self.least:g}")
        if self.most is not None:
            words.append(f"{'below' if self.below else 'at most'} {self.most:g}")
        return " and ".join(words)


AtLeastOne = Annotated[int, Range(1, 10**9)]
"""A positive number of things."""

Whole = Annotated[int, Range(0, 10**9)]
"""A number of things that may be zero."""

Tolerance = Annotated[float, Range(0)]
"""A number that is not negative."""

Positive = Annotated[float, Range(0, above=True)]
"""A number above zero."""


def checked(target: _Decorated) -> _Decorated:
    """Compare the arguments of a function, or of a dataclass, with their annotations.

    Numbers of other types (NumPy's) arrive as Python's, everything else as it was.

    Args:
        target: A function, or a class made by ``dataclasses.dataclass``.

    Returns:
        The same, with the comparison in front. It raises ValueError with one line that
        names the argument, what it must be and what it was.
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
            conforming = conform(value, hints()[key])
            if conforming is _Refused:
                mixed_up = kind is _EITHER and not isinstance(value, _SCALARS)
                order = _order(signature) if mixed_up else ""
                expected = f"{key} must be {describe(hints()[key])}"
                raise ValueError(f"{name}: {expected}, got {shown(value)}{order}")
            bound.arguments[key] = conforming
        return target(*bound.args, **bound.kwargs)

    return call


_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD
_SCALARS = (str, bytes, int, float, complex, types.NoneType)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _order(signature: inspect.Signature) -> str:
    """Return a hint at the order of the arguments, where it can be mixed up."""
    names = [p.name for p in signature.parameters.values() if p.kind is _EITHER]
    if len(names) < 2:
        return ""
    return f"; the order is ({', '.join(name for name in names if name != 'self')})"


def conform(value: Any, hint: Any) -> Any:
    """Return the value as its annotation has it, or a marker that nothing else is."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin is Annotated:
        found = conform(value, args[0])
        ranges = [each for each in args[1:] if isinstance(each, Range)]
        inside = all(found is _Refused or _inside(found, each) for each in ranges)
        return found if inside else _Refused
    if origin in (Union, types.UnionType):
        if float in args and isinstance(value, int | float):
            args = tuple(each for each in args if not _is_array(each))
        found = (conform(value, each) for each in args)
        return next((each for each in found if each is not _Refused), _Refused)
    if origin is Literal:
        hashable = isinstance(value, str | int | None)
        return value if hashable and value in args else _Refused
    if origin is tuple:
        return _conform_tuple(value, args)
    if origin in (collections.abc.Sequence, list):
        return _conform_sequence(value, args[0])
    if origin is not None and not isinstance(origin, type):
        return value
    return _conform_class(value, origin or hint)


def _conform_class(value: Any, hint: Any) -> Any:
    """The same for an annotation without parts."""
    if hint in (None, type(None)):
        return None if value is None else _Refused
    if not isinstance(hint, type):
        return value
    if hint is bool:
        return bool(value) if isinstance(value, bool | np.bool) else _Refused
    if hint in (int, float) and isinstance(value, jax.Array) and value.shape == ():
        if isinstance(value, jax.core.Tracer):  # its value is not known yet
            kind = jnp.integer if hint is int else jnp.number
            return value if jnp.issubdtype(value.dtype, kind) else _Refused
        value = value.item()
    if hint is int:
        integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return int(value) if integer else _Refused
    if hint is float:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return _finite(value) if real else _Refused
    if hint is collections.abc.Callable:
        return value if callable(value) else _Refused
    if getattr(hint, "_is_protocol", False) and "__call__" in hint.__dict__:
        return value if _takes(value, hint.__dict__["__call__"]) else _Refused
    if _is_array(hint):
        if _is_key(value):
            return value if "prng_key" in getattr(hint, "dtypes", ()) else _Refused
        return value if is_real(value) else _Refused
    try:
        return value if isinstance(value, hint) else _Refused
    except TypeError:  # a protocol that cannot be asked
        return value


def _takes(value: Any, call: Callable[..., Any]) -> bool:
    """Return whether something can be called as a protocol's ``__call__``."""
    if not callable(value) or isinstance(value, type):
        return False
    _, *parameters = inspect.signature(call).parameters.values()
    by_place = [p.name for p in parameters if p.kind is _EITHER]
    by_name = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(value).bind(*by_place, **by_name)
    except (TypeError, ValueError):
        return False
    return True


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(
        hint, AbstractArray | jax.Array | np.ndarray
    )


def _is_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )


def _finite(value: Any) -> Any:
    try:
        value = float(value)
    except OverflowError:
        return _Refused
    return value if math.isfinite(value) else _Refused


def _conform_tuple(value: Any, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, tuple):
        return _Refused
    kinds = args[:1] * len(value) if args[1:] == (...,) else args
    if len(kinds) != len(value):
        return _Refused
    found = [conform(each, kind) for each, kind in zip(value, kinds, strict=True)]
    return _Refused if any(each is _Refused for each in found) else tuple(found)


def _conform_sequence(value: Any, kind: Any) -> Any:
    if isinstance(value, str | bytes) or not isinstance(
        value, collections.abc.Sequence | np.ndarray | jax.Array
    ):
        return _Refused
    if isinstance(value, np.ndarray | jax.Array):
        return value if is_real(value) else _Refused
    refused = any(conform(each, kind) is _Refused for each in value)
    return _Refused if refused else value


def _inside(value: Any, limits: Range) -> bool:
    """Return whether a number is inside; what is no number has no limits."""
    return not isinstance(value, int | float) or limits.holds(value)


def is_real(value: Any) -> bool:
    """Return whether something is, or can become, an array of real numbers."""
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        dtype = value.dtype
        if not jnp.issubdtype(dtype, jnp.number) and dtype != np.bool_:
            return False
        return not jnp.issubdtype(dtype, jnp.complexfloating)
    if isinstance(value, bool | str | bytes | None) or callable(value):
        return False
    if isinstance(value, list | tuple) and any(
        isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)
    ):
        return all(is_real(leaf) for leaf in jax.tree.leaves(value))
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        return False
    # JAX's integers have 32 bits unless told otherwise.
    return array.dtype.kind == "f" or (
        array.dtype.kind in "iu" and bool(np.all(np.abs(array) < 2**31))
    )


def describe(hint: Any) -> str:
    """Return an annotation in words.

    >>> describe(Annotated[int, Range(1, 5)] | None)
    'an integer of at least 1 and at most 5 or None'
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [str(each) for each in args[1:] if isinstance(each, Range)]
        return " ".join([describe(args[0]), *ranges])
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(describe(each) for each in args))
        return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        return f"a tuple of {describe(args[0])}"
    if origin in (collections.abc.Sequence, list):
        return f"a sequence, each of them {describe(args[0])}"
    return _WORDS.get(origin or hint) or _described_class(origin or hint)


_WORDS: dict[Any, str] = {
    None: "None",
    type(None): "None",
    bool: "True or False",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    pathlib.Path: "a path",
    collections.abc.Callable: "callable",
}


def _described_class(hint: Any) -> str:
    if not isinstance(hint, type):
        return "something else"
    if _is_array(hint):
        return "an array of real numbers"
    name = hint.__name__
    made_by = getattr(hint, "made_by", None)
    origin = f" (made by {made_by})" if made_by else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{origin}"


def shown(value: Any) -> str:
    """Return what a value is, in a few words on one line.

    >>> shown(np.zeros((2, 3)))
    'an array of shape (2, 3) and type float64'
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, str | int | float | complex | bytes | None):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '')}".rstrip()
    return f"a value of type {type(value).__name__}"
