"""Checks of values against their annotations, with one-line errors.

An annotation declares the type and range of a value: ``Annotated[int, Range(1, 100)]``.
:func:`conform` checks a value against it, and :func:`describe` puts it into words. Two
kinds of values are checked:

* arguments of public functions and of frozen dataclasses of settings, by
  :func:`checked`;
* fields of untrusted JSON (:mod:`jaxinv.files.json_fields`).

The checks cover numbers, booleans, strings, ``Literal`` names, classes, callables,
tuples, sequences and mappings of these, and whether a value is an array of real
numbers. Functions themselves check pytrees and the shapes and values of arrays.
"""

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import math
import numbers
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers, in an annotation: ``Annotated[float, Range(0, above=True)]``.

    Attributes:
        least: The smallest number; None for no limit.
        most: The largest number; None for no limit.
        above: Whether ``least`` itself is excluded.
        below: Whether ``most`` itself is excluded.
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
        """Return the limits in words that follow "a number"."""
        words = []
        if self.least is not None:
            words.append(f"{'above' if self.above else 'of at least'} {self.least:g}")
        if self.most is not None:
            words.append(f"{'below' if self.below else 'at most'} {self.most:g}")
        return " and ".join(words)


class Length(NamedTuple):
    """Allowed lengths of a text, a list or an object, in an annotation.

    Attributes:
        least: The smallest length.
        most: The largest length.
    """

    least: int
    most: int

    def holds(self, value: Any) -> bool:
        """Return whether a length is allowed."""
        return self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"{self.least}" + (f" to {self.most}" if self.most > self.least else "")


AtLeastOne = Annotated[int, Range(1, 10**9)]
"""A count of at least one."""

Whole = Annotated[int, Range(0, 10**9)]
"""A count of at least zero."""

Tolerance = Annotated[float, Range(0)]
"""A number that is not negative."""

Positive = Annotated[float, Range(0, above=True)]
"""A number above zero."""


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


class Refused(NamedTuple):
    """The reason why a value does not conform.

    Attributes:
        place: Position inside the value, such as ``[1]``; empty for the value itself.
        hint: The annotation at that position.
        value: The value at that position.
    """

    place: str
    hint: Any
    value: Any


class Dialect(NamedTuple):
    """Rules that differ between arguments and fields of JSON.

    Attributes:
        plain: Function that returns a value that conforms to a class with limits, or
            ``NotImplemented``.
        lists: The classes that count as tuples and sequences.
        words: Names of classes.
    """

    plain: Callable[[Any, Any, tuple[Any, ...]], Any]
    lists: Mapping[Any, tuple[type, ...]]
    words: Mapping[Any, str]


def plain(value: Any, hint: Any, limits: tuple[Any, ...]) -> Any:
    """Return a value that conforms to a class with limits, or ``NotImplemented``."""
    conforms = True
    if hint in (None, types.NoneType):
        conforms = value is None
    elif hint in (int, float):
        return _number(value, hint, limits)
    elif hint is bool:
        return bool(value) if isinstance(value, bool | np.bool) else NotImplemented
    elif hint is collections.abc.Callable:
        conforms = callable(value)
    elif getattr(hint, "_is_protocol", False) and "__call__" in hint.__dict__:
        conforms = _takes(value, hint.__dict__["__call__"])
    elif _is_array(hint) and _is_key(value):
        conforms = "prng_key" in getattr(hint, "dtypes", ())
    elif _is_array(hint):
        conforms = is_real(value)
    elif isinstance(hint, type):
        with contextlib.suppress(TypeError):  # a protocol without runtime checks
            conforms = isinstance(value, hint)
    return value if conforms else NotImplemented


def _number(value: Any, kind: type, limits: tuple[Any, ...]) -> Any:
    """Return a conforming number; without a range it is finite and has 64 bits."""
    if isinstance(value, jax.Array) and value.shape == ():
        if isinstance(value, jax.core.Tracer):  # its value is not yet known
            wanted = jnp.integer if kind is int else jnp.number
            return value if jnp.issubdtype(value.dtype, wanted) else NotImplemented
        value = value.item()
    abstract = numbers.Integral if kind is int else numbers.Real
    if isinstance(value, bool) or not isinstance(value, abstract):
        return NotImplemented
    try:
        value = kind(value)
    except (OverflowError, ValueError):
        return NotImplemented
    largest = sys.float_info.max if kind is float else 2**63 - 1
    ranges = [each for each in limits if isinstance(each, Range)]
    for each in ranges or [Range(-largest, largest)]:
        infinite = abs(value) == math.inf  # allowed only if declared
        if not each.holds(value) or (infinite and value not in (each.least, each.most)):
            return NotImplemented
    return value


def _takes(value: Any, call: Callable[..., Any]) -> bool:
    """Return whether a value can be called like a protocol's ``__call__``."""
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


def is_real(value: Any) -> bool:
    """Return whether a value is, or can become, an array of real numbers."""
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
    # JAX's integers have 32 bits by default.
    return array.dtype.kind == "f" or (
        array.dtype.kind in "iu" and bool(np.all(np.abs(array) < 2**31))
    )


_LISTS = (collections.abc.Sequence, np.ndarray, jax.Array)
ARGUMENTS = Dialect(
    plain,
    {tuple: (tuple,), list: _LISTS, collections.abc.Sequence: _LISTS},
    {
        types.NoneType: "None",
        bool: "True or False",
        float: "a finite number",
        str: "a string",
        tuple: "a tuple",
        list: "a sequence",
        collections.abc.Sequence: "a sequence",
        pathlib.Path: "a path",
        collections.abc.Callable: "callable",
    },
)
"""Arguments of functions."""


def conform(
    value: Any,
    hint: Any,
    dialect: Dialect = ARGUMENTS,
    *,
    limits: tuple[Any, ...] = (),
    place: str = "",
) -> Any:
    """Return a value converted to its annotated type, or :class:`Refused`.

    Args:
        value: Any value.
        hint: The annotation.
        dialect: The kind of value.
        limits: Further annotations of the value.
        place: Position of the value in a larger one.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    refused = Refused(place, hint, value)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin is Annotated:
        found = conform(value, args[0], dialect, limits=args[1:], place=place)
        itself = isinstance(found, Refused) and found.place == place
        return refused if itself else found
    if origin in (Union, types.UnionType):
        if float in args and isinstance(value, int | float):
            args = tuple(each for each in args if not _is_array(each))
        tried = [conform(value, each, dialect, place=place) for each in args]
        good = [each for each in tried if not isinstance(each, Refused)]
        # A fault inside a list is more specific than the list of alternatives.
        inside = [] if good else [each for each in tried if each.place != place]
        return [*good, *inside, refused][0]
    if origin is Literal:
        same = any(type(value) is type(each) and value == each for each in args)
        return value if same else refused
    if origin in (dict, collections.abc.Mapping) and args:
        if not isinstance(value, Mapping) or not _fits(value, limits):
            return refused
        keys = [conform(key, args[0], dialect, place=place) for key in value]
        items = [
            conform(item, args[1], dialect, place=f"{place}[{shown(key)}]")
            for key, item in value.items()
        ]
        return _first_fault([*keys, *items], value)
    if args and origin in dialect.lists:
        fits = isinstance(value, dialect.lists[origin]) and _fits(value, limits)
        if not fits or isinstance(value, str | bytes):
            return refused
        if isinstance(value, np.ndarray | jax.Array) and value.ndim != 1:
            return value if is_real(value) else refused
        kinds = args
        if origin is not tuple or args[1:] == (...,):
            kinds = args[:1] * len(value)
        if len(kinds) != len(value):
            return refused
        found = [
            conform(each, kind, dialect, place=f"{place}[{i}]")
            for i, (each, kind) in enumerate(zip(value, kinds, strict=True))
        ]
        return _first_fault(found, tuple(found) if type(value) is tuple else value)
    found = dialect.plain(value, origin or hint, limits)
    return refused if found is NotImplemented else found


def _fits(value: Any, limits: tuple[Any, ...]) -> bool:
    return all(each.holds(value) for each in limits if isinstance(each, Length))


def _first_fault(found: list[Any], value: Any) -> Any:
    return next((each for each in found if isinstance(each, Refused)), value)


def describe(
    hint: Any, dialect: Dialect = ARGUMENTS, limits: tuple[Any, ...] = ()
) -> str:
    """Return an annotation in words.

    >>> describe(Annotated[int, Range(1, 5)] | None)
    'an integer of at least 1 and at most 5 or None'
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    name = dialect.words.get(origin or hint)
    if origin is Annotated:
        return describe(args[0], dialect, args[1:])
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(describe(each, dialect) for each in args))
        return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    if origin is Literal:
        null = {None: dialect.words[types.NoneType]}
        return f"one of {', '.join(null.get(each, str(each)) for each in args)}"
    if hint in (int, float):
        ranges = [str(each) for each in limits if isinstance(each, Range)]
        what = "an integer" if hint is int else "a number" if ranges else str(name)
        return " ".join([what, *ranges])
    length = "".join(f" of {each}" for each in limits if isinstance(each, Length))
    if name and args and origin is not collections.abc.Callable:
        if origin is tuple and args[1:] != (...,):
            length = f" of {len(args)}"
        return f"{name}{length}, each {describe(args[origin is dict], dialect)}"
    if name:
        return f"{name}{length} characters" if length else name
    hint = origin or hint
    if not isinstance(hint, type):
        return "something else"
    if _is_array(hint):
        return "an array of real numbers"
    name = hint.__name__
    made_by = f" (made by {hint.made_by})" if hasattr(hint, "made_by") else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{made_by}"


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
