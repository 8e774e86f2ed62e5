"""Untrusted JSON: bounded in size, with every field checked against its declared type.

Configurations, indices, manifests, keys and records come from other people's disks. Two
steps precede their use:

1. :func:`parse_json` bounds the size and depth, and refuses what JSON leaves undefined
   (duplicate keys);
2. :func:`check_field` compares a value with the type that is declared *where the field
   is used*: a hint such as ``Annotated[int, Range(1, 4096)]`` of a dataclass, or an
   entry of a table of options.

The hints are ``int``, ``float`` (finite unless a range allows otherwise), ``bool``,
``str``, ``None``, ``Any``, ``Literal``, unions, ``tuple`` and ``dict`` of them, with a
:class:`jaxinv.checks.Range` for numbers and a :class:`jaxinv.checks.Length` for texts,
lists and objects. Values are never converted: 8.0 and true are not integers.

The alternative msgspec 0.22 uses the last of two equal keys, does not read -Infinity,
accepts NaN for a number without limits, and does not name the options of a ``Literal``.
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

#: Default limit on the size of a file: more than any configuration or index needs.
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 32
_TEXT = Length(0, 1000)  # for texts without a declared Length

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
        root: The folder that links must not leave, from
            :func:`jaxinv.files.folders.model_root`; None for a file that the user
            named.
        max_bytes: The largest size allowed.

    Returns:
        The object, with unchecked values.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file does not hold a JSON object; the message names the file.
    """
    value = parse_json(read_regular(path, max_bytes, root), path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object: it holds {shown(value)}")
    return value


def parse_json(text: str | bytes, where: str | os.PathLike[str]) -> Any:
    """Parse JSON of bounded depth without duplicate keys.

    ``NaN``, ``Infinity`` and ``-Infinity`` are not JSON, but Python writes them, and
    diffusers' schedulers contain them: they are read here, and refused by fields unless
    their range includes them.

    Args:
        text: The text to parse; bytes are UTF-8.
        where: Name of the source, for errors.

    Returns:
        The value.

    Raises:
        ValueError: If the text is not JSON, or nested too deeply.
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
    return f"{where} is nested more than {MAX_DEPTH} levels deep"


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"duplicate key {shown(twice)}")
    return found


def shown_text(text: str) -> str:
    """Return a name as text for an error, without quotes unless they are needed."""
    return shown(text) if repr(text) != f"'{text}'" else shown(text)[1:].rstrip("'")


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Prepend a file's name to the ValueErrors of a block that do not contain it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if os.fspath(path) in text:
            raise
        raise ValueError(f"{path}: {text}") from None


def check_record(kind: type[_Record], data: Mapping[str, Any]) -> _Record:
    """Check the values of a JSON object and return them as a dataclass.

    Args:
        kind: The dataclass; the hints of its fields declare the allowed values.
        data: The object. Keys that are not fields are ignored.

    Returns:
        The dataclass, with tuples in place of lists.

    Raises:
        ValueError: If a value is missing or does not match its hint.
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
    """Raise ValueError unless the fields of a dataclass match their hints."""
    for name, kind in field_types(type(record)).items():
        check_field(name, getattr(record, name), kind)


def field_types(kind: Any) -> dict[str, Any]:
    """Return the type hints of a dataclass's fields, with annotations."""
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
    """Raise ValueError unless a value matches a type hint.

    Args:
        name: The key, for the message.
        value: The value; tuples and one-dimensional arrays count as lists.
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
    """Return a value that is not a list or object, or NotImplemented."""
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
    """Return whether a text can be encoded: JSON can hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
