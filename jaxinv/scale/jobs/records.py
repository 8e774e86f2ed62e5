"""What became of every image: small files, each written once and whole.

A *part* holds the records of one commit, a line of JSON for each image; an image is
done when it is in a part. Parts are numbered, and where an image is in several
(failures can be tried again), the one with the highest number counts. A start goes on
above the highest number that it finds: later starts win, whatever process runs them.
Where a picture has changed, a record that is ``outdated`` takes back the one before.

The first line of a part is about the part itself: the seconds of work in it.
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

# What is read of a record, and what it may be; see state_of.
_FIELDS: dict[str, Any] = {
    "index": Annotated[int, Range(0, 2**31 - 1)],
    "path": str | None,
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
    """What is known of all images of a job.

    Attributes:
        states: ``MISSING``, ``CONVERGED``, ``UNCONVERGED`` or ``FAILED``.
        part: which of ``parts`` holds the record that counts.
        line: and in which of its lines, from 0.
        parts: the files, lowest number first.
        seconds: of work in all of them, by every process.
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
        """The records that count, by row of the manifest: lines of JSON."""

        # Images are done nearly in order, and so are the files that are looked into.
        @lru_cache(maxsize=64)
        def lines(part: int) -> list[bytes]:
            return self.parts[part].read_bytes().splitlines()

        for index in np.flatnonzero(self.states != MISSING):
            yield lines(int(self.part[index]))[self.line[index]]


def state_of(record: Mapping[str, Any]) -> int:
    """What a record says became of its image."""
    if record.get("outdated"):
        return MISSING
    if record.get("failure") is not None:
        return FAILED
    # The state is what a job keeps: one array of noise but for bidirectional samplers.
    good = record.get("state_converged", record.get("converged"))
    return CONVERGED if good else UNCONVERGED


def read_ledger(folder: Path, rows: int) -> Ledger:
    """Reads all parts, of whatever process.

    Args:
        folder: Where they are.
        rows: Of the manifest.

    Returns:
        What is known.

    Raises:
        ValueError: If a part is none.
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
                    raise ValueError(f"line {line + 1}: there is no row {index}")
                states[index] = state_of(record)
                place[:, index] = number, line
    return Ledger(states, place[0], place[1], parts, seconds)


def parse_record(line: bytes, where: str) -> dict[str, Any]:
    """Read the record of an image.

    Args:
        line: JSON.
        where: What to call it in errors.

    Returns:
        The record.

    Raises:
        ValueError: If it is not a record.
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
    """Writes the records of one commit, whole or not at all.

    Args:
        folder: Where parts are.
        process: Which process writes.
        number: Of the part, higher than that of what it replaces.
        records: Of the images, each with its ``index``.
        seconds: Of work in them.

    Raises:
        OSError: If it cannot be written.
    """
    head = {"process": process, "part": number, "seconds": round(seconds, 3)}
    with open_atomically(folder / f"{process:05d}-{number:06d}.jsonl") as file:
        file.writelines(to_json(line).encode() + b"\n" for line in (head, *records))


def remove_temporaries(folder: Path, process: int, count: int) -> None:
    """Removes what writers that were killed have left.

    Args:
        folder: Where parts are.
        process: This process.
        count: Number of processes; the first also cleans up after those that are no
            more.
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
