"""JSON that somebody else wrote: bounded, and every field as it was declared.

Configurations, indices, manifests, keys and records come from other people's disks.
Two steps stand between them and the code that uses them:

1. :func:`parse_json` bounds what is read, its size and its depth, and refuses what JSON
   leaves open (a key that is there twice);
2. :func:`check_field` compares a value with the type that is declared *where the field
   is used*: a hint such as ``Annotated[int, Range(1, 4096)]`` of a dataclass, or an
   entry of a table of options.

The hints are ``int``, ``float`` (finite unless a range says otherwise), ``bool``,
``str``, ``None``, ``Any``, ``Literal``, unions, ``tuple`` and ``dict`` of them, with a
:class:`jaxinv.checks.Range` (of two limits) for numbers and a :class:`Length` for
texts, lists and objects. A value is never converted: 8.0 and true are no integers.

msgspec 0.22 was compared: it takes the last of two equal keys, does not read -Infinity,
accepts NaN for a number without limits, and does not say what a ``Literal`` may be.
"""

import contextlib
import dataclasses
import functools
import json
import numbers
import os
import sys
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np

from jaxinv.checks import Range
from jaxinv.files.folders import read_regular

#: More than any configuration, index or scheduler needs.
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 32
_MAX_TEXT = 1000  # characters of a text that declares no Length
_SHOWN = 60  # characters of a value that an error shows

_Record = TypeVar("_Record")


class Length(NamedTuple):
    """The smallest and the largest length of a text, a list or an object."""

    low: int
    high: int


def read_json(
    path: str | os.PathLike[str],
    *,
    root: Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Args:
        path: The file.
        root: The folder that the file may not leave by a link, from
            :func:`jaxinv.files.folders.model_root`; None for a file that the user
            named.
        max_bytes: The most that it may hold.

    Returns:
        The object; its values are not checked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file; the message names it.
    """
    value = parse_json(read_regular(path, max_bytes, root), path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object: it holds {shown(value)}")
    return value


def parse_json(text: str | bytes, where: str | os.PathLike[str]) -> Any:
    """Parse JSON of bounded depth, in which no object has a key twice.

    ``NaN``, ``Infinity`` and ``-Infinity``, which Python writes and JSON does not have,
    are read: diffusers' schedulers hold them. Fields refuse them unless their range
    includes them.

    Args:
        text: What to parse; bytes are UTF-8.
        where: What to call it in errors.

    Returns:
        The value.

    Raises:
        ValueError: If it is not JSON, or nested too deeply.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_once_each)
    except RecursionError:
        raise ValueError(_too_deep(where)) from None
    except ValueError as error:
        raise ValueError(
            f"{where} cannot be read as JSON: {' '.join(str(error).split())}"
        ) from None
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    if level:
        raise ValueError(_too_deep(where))
    return value


def _too_deep(where: str | os.PathLike[str]) -> str:
    return f"{where} is nested more than {MAX_DEPTH} levels deep: it is not read"


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {shown(twice)} is there twice")
    return found


def shown(value: Any) -> str:
    """Return a value for an error: on one line, and never long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def shown_text(text: str) -> str:
    """Return a name for an error, without quotes unless they hide something."""
    return shown(text) if repr(text) != f"'{text}'" else shown(text)[1:].rstrip("'")


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put a file's name before the ValueErrors of a block that do not name it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if os.fspath(path) in text:
            raise
        raise ValueError(f"{path}: {text}") from None


def check_record(kind: type[_Record], data: Mapping[str, Any]) -> _Record:
    """Make a dataclass of the values of a JSON object, after checking them.

    Args:
        kind: The dataclass; the hints of its fields say what the values may be.
        data: The object. Keys that are no fields are ignored.

    Returns:
        The dataclass, with tuples in place of lists.

    Raises:
        ValueError: If a value is missing or not what is declared.
    """
    values, hints = {}, field_types(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in data:
            values[field.name] = as_tuple(data[field.name])
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ValueError(
                f"{field.name} is missing: expected {expected(hints[field.name])}"
            )
    for name, value in values.items():
        check_field(name, value, hints[name])
    return kind(**values)


def check_fields(record: Any) -> None:
    """Raise ValueError unless the fields of a dataclass are what their hints say."""
    for name, kind in field_types(type(record)).items():
        check_field(name, getattr(record, name), kind)


def field_types(kind: Any) -> dict[str, Any]:
    """Return the hints of a dataclass's fields, with what annotates them."""
    return _field_types(kind)


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = dataclasses.fields(kind)
    return {field.name: hints[field.name] for field in fields}


def as_tuple(value: Any) -> Any:
    """Return a value with tuples in place of lists, at every depth."""
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value


def check_field(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless a value is what is declared.

    Args:
        name: The key, for the message.
        value: The value; of a list, tuples and one-dimensional arrays are lists, too.
        kind: A type hint; see the module.

    Example:
        >>> check_field("heads", 8, int | None)
        >>> check_field("heads", [8, 0], tuple[Annotated[int, Range(1, 64)], ...])
        Traceback (most recent call last):
        ValueError: heads[1]: expected an integer from 1 to 64, got 0
    """
    if fault := _fault(name, value, kind, ()):
        raise ValueError(fault)


def _fault(name: str, value: Any, kind: Any, limits: tuple[Any, ...]) -> str | None:
    """The first thing that is wrong with a value."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _fault(name, value, arguments[0], arguments[1:])
    if origin in (typing.Union, types.UnionType):
        options = [_fault(name, value, each, ()) for each in arguments]
        if None in options:
            return None
        # What is wrong inside of a list says more than what else there could be.
        inside = [fault for fault in options if fault and f"{name}: " not in fault]
        return inside[0] if inside else _expected(name, value, kind, ())
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if origin is tuple and isinstance(value, list | tuple):
        many = arguments[-1] is Ellipsis
        if _length(limits, value) and (many or len(value) == len(arguments)):
            kinds = arguments[:1] * len(value) if many else arguments
            faults = (
                _fault(f"{name}[{i}]", item, each, ())
                for i, (item, each) in enumerate(zip(value, kinds, strict=True))
            )
            return next(filter(None, faults), None)
    elif origin is dict and isinstance(value, Mapping):
        if _length(limits, value):
            faults = (
                _fault(name, key, arguments[0], ())
                or _fault(f"{name}[{shown(key)}]", item, arguments[1], ())
                for key, item in value.items()
            )
            return next(filter(None, faults), None)
    elif _plain(value, kind, limits):
        return None
    return _expected(name, value, kind, limits)


def _plain(value: Any, kind: Any, limits: tuple[Any, ...]) -> bool:
    """Whether a value is of a type that is no list or object."""
    if kind is Any:
        return True
    if kind in (None, types.NoneType):
        return value is None
    if typing.get_origin(kind) is Literal:
        return any(type(value) is type(o) and value == o for o in typing.get_args(kind))
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is str:
        return isinstance(value, str) and _length(limits, value) and is_text(value)
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        real = isinstance(value, number) and not isinstance(value, bool)
        return real and bool(_range(kind, limits).holds(value))
    return False


def is_text(value: str) -> bool:
    """Return whether a text can be written: JSON can hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _range(kind: type, limits: tuple[Any, ...]) -> Range:
    for limit in limits:
        if isinstance(limit, Range):
            return limit
    largest = sys.float_info.max if kind is float else 2**63 - 1
    return Range(-largest, largest)


def _length(limits: tuple[Any, ...], value: Any) -> bool:
    default = Length(0, _MAX_TEXT if isinstance(value, str) else sys.maxsize)
    low, high = next((x for x in limits if isinstance(x, Length)), default)
    return low <= len(value) <= high


def _expected(name: str, value: Any, kind: Any, limits: tuple[Any, ...]) -> str:
    return f"{name}: expected {expected(kind, limits)}, got {shown(value)}"


def expected(kind: Any, limits: tuple[Any, ...] = ()) -> str:
    """Return in words what a type hint allows.

    >>> expected(Annotated[float, Range(0, 1)] | None)
    'a number from 0 to 1 or null'
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return expected(arguments[0], arguments[1:])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(expected, arguments))
    if origin is Literal:
        return "one of " + ", ".join(map(_name, arguments))
    if kind in (int, float):
        what = "an integer" if kind is int else "a number"
        if not any(isinstance(limit, Range) for limit in limits):
            return what if kind is int else "a finite number"
        limit = _range(kind, limits)
        return f"{what} from {limit.least:g} to {limit.most:g}"
    length = next((x for x in limits if isinstance(x, Length)), None)
    few = "" if length is None else f" of {_bounds(length)}"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list{few}, each {expected(arguments[0])}"
        return f"a list of {len(arguments)}, each {expected(arguments[0])}"
    if origin is dict:
        return f"an object{few}, each {expected(arguments[1])}"
    if kind is str:
        return "text" if length is None else f"text{few} characters"
    return {bool: "true or false", None: "null", types.NoneType: "null"}.get(
        kind, "anything"
    )


def _bounds(length: Length) -> str:
    low, high = length
    return f"{low}" if low == high else f"{low} to {high}"


def _name(option: Any) -> str:
    return "null" if option is None else repr(option)
