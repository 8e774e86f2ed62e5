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
:class:`jaxinv.checks.Range` for numbers and a :class:`jaxinv.checks.Length` for texts,
lists and objects. A value is never converted: 8.0 and true are no integers.

msgspec 0.22 was compared: it takes the last of two equal keys, does not read -Infinity,
accepts NaN for a number without limits, and does not say what a ``Literal`` may be.
"""

import contextlib
import dataclasses
import functools
import json
import os
import types
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxinv.checks import (
    Dialect,
    Length,
    Refused,
    conform,
    describe,
    one_line,
    plain,
    shown,
)
from jaxinv.files.folders import read_regular

#: More than any configuration, index or scheduler needs.
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 32
_TEXT = Length(0, 1000)  # of a text that declares no Length

_Record = TypeVar("_Record")


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
        raise ValueError(f"{where} cannot be read as JSON: {one_line(error)}") from None
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
                f"{field.name} is missing: expected {describe(hints[field.name], JSON)}"
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
        >>> check_field("heads", [8, 0.5], tuple[int, ...])
        Traceback (most recent call last):
        ValueError: heads[1]: expected an integer, got 0.5
    """
    found = conform(value, kind, JSON)
    if isinstance(found, Refused):
        raise ValueError(
            f"{name}{found.place}: expected {describe(found.hint, JSON)}, got "
            f"{shown(found.value)}"
        )


def _plain(value: Any, kind: Any, limits: tuple[Any, ...]) -> Any:
    """Return a value of a type that is no list or object; NotImplemented if not."""
    if kind is str:
        length = next((x for x in limits if isinstance(x, Length)), _TEXT)
        text = isinstance(value, str) and length.holds(value) and is_text(value)
        return value if text else NotImplemented
    known = kind in (None, types.NoneType, bool, int, float)
    return plain(value, kind, limits) if known else NotImplemented


JSON = Dialect(
    _plain,
    {tuple: (list, tuple, np.ndarray)},
    {
        types.NoneType: "null",
        bool: "true or false",
        float: "a finite number",
        str: "text",
        tuple: "a list",
        dict: "an object",
        Any: "anything",
    },
)
"""Fields of JSON, as ``json.loads`` gives them."""


def is_text(value: str) -> bool:
    """Return whether a text can be written: JSON can hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
