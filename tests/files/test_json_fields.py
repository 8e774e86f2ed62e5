"""JSON that somebody else wrote is bounded, and values are what was declared."""

import dataclasses
import json
import math
import os
import re
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinv.checks import Length, Range, describe
from jaxinv.files.json_fields import (
    JSON as FIELDS,
)
from jaxinv.files.json_fields import (
    MAX_BYTES,
    MAX_DEPTH,
    check_field,
    check_record,
    parse_json,
    read_json,
)

NUMBERS = st.integers() | st.floats() | st.booleans() | st.just(10**400)
SCALARS = st.none() | NUMBERS | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
PROPERTY = settings(max_examples=200, derandomize=True, database=None, deadline=None)


def accepted(value, kind):
    try:
        check_field("key", value, kind)
    except ValueError as error:
        text = str(error)
    else:
        return True
    assert text.startswith("key")
    assert "\n" not in text
    return False


def is_integer(value, low, high):
    return type(value) is int and low <= value <= high


HINTS = {
    "integer": (Annotated[int, Range(0, 9)], lambda v: is_integer(v, 0, 9)),
    "number": (
        float,
        lambda v: (
            math.isfinite(v) if type(v) is float else is_integer(v, -1e300, 1e300)
        ),
    ),
    "bool": (bool, lambda v: type(v) is bool),
    "text": (str, lambda v: type(v) is str and "\0" not in v),
    "null or text": (
        str | None,
        lambda v: v is None or (type(v) is str and "\0" not in v),
    ),
    "one of": (
        Literal["a", 1, None],
        lambda v: v in ("a", None) or is_integer(v, 1, 1),
    ),
    "list": (
        Annotated[tuple[Annotated[int, Range(0, 9)], ...], Length(1, 2)],
        lambda v: (
            type(v) is list and 1 <= len(v) <= 2 and all(is_integer(x, 0, 9) for x in v)
        ),
    ),
    "pair": (
        tuple[str | None, bool],
        lambda v: (
            type(v) is list
            and len(v) == 2
            and (v[0] is None or (type(v[0]) is str and "\0" not in v[0]))
            and type(v[1]) is bool
        ),
    ),
    "object": (
        dict[str, Annotated[int, Range(0, 9)]],
        lambda v: (
            type(v) is dict
            and all("\0" not in k and is_integer(x, 0, 9) for k, x in v.items())
        ),
    ),
}


@pytest.mark.parametrize("name", HINTS)
def test_a_hint_accepts_what_it_says_and_nothing_else(name):
    kind, belongs = HINTS[name]

    @PROPERTY
    @given(JSON | st.lists(st.integers(-1, 10), max_size=3) | st.integers(-1, 10))
    def check(value):
        value = 0 if isinstance(value, float) and value != value else value
        assert accepted(value, kind) == belongs(value)

    check()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**400, True, "1", None]
)
def test_what_is_no_finite_number_is_refused(value):
    assert not accepted(value, float)
    assert not accepted(value, Annotated[float, Range(-1e300, 1e300)])


def test_infinity_is_read_where_the_range_includes_it():
    kind = Annotated[float, Range(-math.inf, 0)]
    assert accepted(parse_json("-Infinity", "x"), kind)
    assert not accepted(math.nan, kind)


def test_numbers_of_numpy_are_numbers():
    assert accepted(np.int64(3), Annotated[int, Range(1, 4)])
    assert accepted(np.float32(3), float)
    assert not accepted(np.bool_(True), int)
    assert accepted(np.linspace(0, 1, 5), tuple[float, ...])


def test_the_place_inside_of_a_list_is_named():
    kind = int | Annotated[tuple[Annotated[int, Range(1, 64)], ...], Length(1, 4)]
    with pytest.raises(
        ValueError,
        match=r"heads\[1\]: expected an integer of at least 1 and at most 64",
    ):
        check_field("heads", [8, 0], kind)


def test_values_are_shown_on_one_short_line():
    for value in ("x\n" * 10**6, [[0] * 1000] * 100, 10**4000):
        with pytest.raises(ValueError, match="expected true or false") as error:
            check_field("key", value, bool)
        assert len(str(error.value)) < 200
        assert "\n" not in str(error.value)


def test_every_hint_says_what_it_allows():
    for kind, _ in HINTS.values():
        assert describe(kind, FIELDS) not in ("anything", "something else")


@dataclasses.dataclass(frozen=True)
class Record:
    steps: Annotated[int, Range(1, 10)]
    names: tuple[str, ...] = ()


def test_a_record_has_tuples_and_ignores_what_it_does_not_know():
    found = check_record(Record, {"steps": 3, "names": ["a", "b"], "other": {}})
    assert found == Record(3, ("a", "b"))


@pytest.mark.parametrize("data", [{}, {"steps": 0}, {"steps": 1, "names": "ab"}])
def test_a_record_that_is_not_as_declared_is_refused(data):
    with pytest.raises(ValueError, match=r"steps|names"):
        check_record(Record, data)


# --- files --------------------------------------------------------------------------


def refusal(path):
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read_json(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[1]", "does not hold a JSON object"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        ('{"a": ' + "[" * 10**5 + "]" * 10**5 + "}", "levels deep"),
        ('{"a":' * (MAX_DEPTH + 1) + "0" + "}" * (MAX_DEPTH + 1), "levels deep"),
        ('{"a": "' + "x" * MAX_BYTES + '"}', "is larger than"),
        ('{"a": ' + "1" * 5000 + "}", "cannot be read as JSON"),
        ("\udcff{}", "cannot be read as JSON"),
    ],
    ids=range(9),
)
def test_what_is_no_bounded_object_is_refused(text, reason, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert reason in refusal(path)


def test_the_deepest_that_is_allowed_is_read():
    text = '{"a":' * MAX_DEPTH + "0" + "}" * MAX_DEPTH
    assert parse_json(text, "x") == json.loads(text)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_what_is_no_file_is_refused_before_it_is_opened(kind, tmp_path):
    path: Any = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    refusal(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.json is missing"):
        read_json(tmp_path / "gone.json")


@pytest.mark.parametrize("shape", [(), (3, 2), (1, 1, 4), (0, 2)])
def test_only_arrays_of_one_axis_are_lists(shape):
    for kind in (tuple[float, ...], tuple[str, ...], list[float]):
        with pytest.raises(ValueError, match="key: expected"):
            check_field("key", np.ones(shape), kind)
    assert check_field("key", np.ones(3), tuple[float, ...]) is None
