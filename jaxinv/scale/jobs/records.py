"""Records of all images: small files that are each written once, atomically.

A *part* holds the records of one commit, a line of JSON for each image; an image is
done once it is in a part. Parts are numbered. If an image is in several parts (failures
can be retried), the highest number counts. A start continues above the highest existing
number, so that later starts take precedence, independent of the process. If a picture
has changed, an ``outdated`` record cancels the previous one.

The first line of a part describes the part itself: the seconds of work in it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxinv.checks import Length, Range
from jaxinv.files import open_atomically, to_json
from jaxinv.files.folders import check_regular
from jaxinv.files.json_fields import check_field, naming, parse_json

MISSING, CONVERGED, UNCONVERGED, FAILED = range(4)
_PART = re.compile(r"(\d{5,})-(\d{6,})\.jsonl")
# A temporary file of open_atomically.
_TEMPORARY = re.compile(r"\.(\d{5,})-\d{6,}\.jsonl\..+")

# The fields of a record that are read, and their types; see state_of.
_FIELDS: dict[str, Any] = {
    "index": Annotated[int, Range(0, 2**31 - 1)],
    "path": Any,  # names of files may be long, and of bytes that are no text
    "picture_sha256": str | None,
    "outdated": bool | None,
    "failure": Annotated[str, Length(0, 2**20)] | None,
    "converged": bool | None,
    "state_converged": bool | None,
    "num_evals": Annotated[int, Range(0, 2**53)] | None,
    "changes": Any,
    "decoder": dict[str, Any] | None,
}
_Seconds = Annotated[float, Range(0, 1e12)]


class Ledger(NamedTuple):
    """The states and records of all images of a job.

    Attributes:
        states: ``MISSING``, ``CONVERGED``, ``UNCONVERGED`` or ``FAILED``.
        part: Index in ``parts`` of the record that counts.
        line: Line of that record in its part, from 0.
        parts: The files, lowest number first.
        seconds: Seconds of work in all parts, of all processes.
    """

    states: Int[np.ndarray, " rows"]
    part: Int[np.ndarray, " rows"]
    line: Int[np.ndarray, " rows"]
    parts: tuple[Path, ...]
    seconds: float

    @property
    def next_number(self) -> int:
        """The number above all others."""
        return _numbers(self.parts[-1])[0] + 1 if self.parts else 0

    def records(self) -> Iterator[bytes]:
        """Yield the current records by row of the manifest, as lines of JSON."""

        # Images finish nearly in order, so a few cached files suffice.
        @lru_cache(maxsize=64)
        def lines(part: int) -> list[bytes]:
            return self.parts[part].read_bytes().splitlines()

        for index in np.flatnonzero(self.states != MISSING):
            yield lines(int(self.part[index]))[self.line[index]]


def state_of(record: Mapping[str, Any]) -> int:
    """Return the recorded status of an image."""
    if record.get("outdated"):
        return MISSING
    if record.get("failure") is not None:
        return FAILED
    # A job keeps the state, which is one array of noise except in bidirectional
    # samplers.
    good = record.get("state_converged", record.get("converged"))
    return CONVERGED if good else UNCONVERGED


def read_ledger(folder: Path, rows: int) -> Ledger:
    """Read the parts of all processes.

    Args:
        folder: The folder of the parts.
        rows: Number of rows of the manifest.

    Returns:
        The ledger.

    Raises:
        ValueError: If a part is damaged.
    """
    paths = [path for path in folder.iterdir() if _PART.fullmatch(path.name)]
    parts = tuple(sorted(paths, key=_numbers))
    states = np.full(rows, MISSING, np.int8)
    place = np.zeros((2, rows), np.int32)
    seconds = 0.0
    for number, path in enumerate(parts):
        check_regular(path)
        with naming(f"{path} is damaged"):
            first, *lines = path.read_bytes().splitlines() or [b""]
            head = parse_json(first, "line 1")
            check_field("line 1", head, dict[str, Any])
            check_field("seconds", head.get("seconds"), _Seconds)
            seconds += float(head["seconds"])
            for line, text in enumerate(lines, 1):
                record = parse_record(text, f"line {line + 1}")
                index = record["index"]
                if index >= rows:
                    raise ValueError(f"line {line + 1}: row {index} does not exist")
                states[index] = state_of(record)
                place[:, index] = number, line
    return Ledger(states, place[0], place[1], parts, seconds)


def parse_record(line: bytes, where: str) -> dict[str, Any]:
    """Read the record of an image.

    Args:
        line: The line of JSON.
        where: Name of the line in errors.

    Returns:
        The record.

    Raises:
        ValueError: If the line is not a record.
    """
    record = parse_json(line, where)
    check_field(where, record, dict[str, Any])
    for name, kind in _FIELDS.items():
        check_field(f"{where}: {name}", record.get(name), kind)
    if not record.get("outdated") and record.get("failure") is None:
        known = {"state_converged", "converged"} & record.keys()
        if not known or any(record[name] is None for name in known):
            raise ValueError(f"{where}: converged is missing: expected true or false")
    return record


def write_part(
    folder: Path,
    process: int,
    number: int,
    records: Iterable[Mapping[str, Any]],
    seconds: float,
) -> None:
    """Write the records of one commit atomically.

    Args:
        folder: The folder of the parts.
        process: Index of the process.
        number: Number of the part, higher than that of the records it replaces.
        records: Records of images, each with its ``index``.
        seconds: Seconds of work in them.

    Raises:
        OSError: If the part cannot be written.
    """
    head = {"process": process, "part": number, "seconds": round(seconds, 3)}
    with open_atomically(folder / f"{process:05d}-{number:06d}.jsonl") as file:
        file.writelines(to_json(line).encode() + b"\n" for line in (head, *records))


def remove_temporaries(folder: Path, process: int, count: int) -> None:
    """Remove temporary files left by killed writers.

    Args:
        folder: The folder of the parts.
        process: Index of this process.
        count: Number of processes. The first process also cleans up after processes
            beyond this number.
    """
    for path in folder.iterdir():
        if match := _TEMPORARY.fullmatch(path.name):
            owner = int(match[1])
            if (owner if owner < count else 0) == process:
                path.unlink(missing_ok=True)


def _numbers(path: Path) -> tuple[int, int]:
    match = _PART.fullmatch(path.name)
    assert match is not None
    return int(match[2]), int(match[1])
