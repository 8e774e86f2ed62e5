"""Values against annotations: whether a value conforms, and an annotation in words.

An annotation declares the type and range of a value: ``Annotated[int, Range(1, 100)]``.
The checks cover numbers, booleans, strings, ``Literal`` names, classes, callables,
tuples, sequences and mappings of these, and whether a value is an array of real
numbers.
"""

import collections.abc
import contextlib
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
from jaxtyping import AbstractArray, PRNGKeyArray

from jaxinv.checks.limits import Length, Range
from jaxinv.checks.words import shown

_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


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
    elif _is_key_hint(hint):
        conforms = _is_key(value) or _is_raw_key(value)
    elif _is_array(hint) and _is_key(value):
        conforms = False
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


def _is_raw_key(value: Any) -> bool:
    """Return whether a value is the array inside of a random key, of either size."""
    if not isinstance(value, jax.Array | np.ndarray):
        return False
    return value.dtype == np.uint32 and value.shape in ((2,), (4,))


def _is_key_hint(hint: Any) -> bool:
    """Return whether an annotation is one of those that ``PRNGKeyArray`` unites."""
    return _is_array(hint) and hint in typing.get_args(PRNGKeyArray)


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
        # NumPy's strings and enumerations of strings are converted, as numbers are.
        text = isinstance(value, str)
        alike = [e for e in args if type(e) is (str if text else type(value))]
        same = [each for each in alike if value == each]
        return same[0] if same else refused
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
        listed = isinstance(value, dialect.lists[origin])
        if not listed or isinstance(value, str | bytes):
            return refused
        if isinstance(value, np.ndarray | jax.Array) and value.ndim != 1:
            # As an argument, the function itself judges the shape.
            whole = dialect is ARGUMENTS and value.ndim > 1 and is_real(value)
            return value if whole else refused
        if not _fits(value, limits):
            return refused
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
    if _is_key_hint(hint):
        return "a random key (jax.random.key)"
    if _is_array(hint):
        return "an array of real numbers"
    name = hint.__name__
    made_by = f" (made by {hint.made_by})" if hasattr(hint, "made_by") else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{made_by}"
