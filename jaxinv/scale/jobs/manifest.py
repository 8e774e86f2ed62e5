"""What a job works on: the rows of a manifest, checked before anything starts.

A manifest is a JSONL or CSV file, or a folder of images. A row names an image, relative
to the manifest's folder, and may have a prompt, a negative prompt and a guidance of its
own; what a row does not say (an absent or empty CSV cell, ``null``) is the default. The
position of a row is its name for ever: row i of the results belongs to it.
"""

import csv
import difflib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from jaxinv.checks import Length, checked, shown
from jaxinv.files import to_json
from jaxinv.files.json_fields import check_field, parse_json

#: Files of these endings are the images of a folder; others in it are ignored.
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
_SHOWN = 5  # wrong lines that an error names
_MAX_LINE = 2**20  # characters of a row
_Prompt = Annotated[str, Length(0, _MAX_LINE)]
_FIELDS = {"prompt": _Prompt, "negative_prompt": _Prompt, "guidance": float}
_KNOWN = ("path", *_FIELDS)


class Row(NamedTuple):
    """One image of a job.

    Attributes:
        path: as the manifest has it: absolute, or relative to ``Manifest.root``.
        prompt: what the image shows.
        negative_prompt: what guidance pushes away from.
        guidance: classifier-free guidance scale; finite; at most 1 is none.
        extra: columns that mean nothing here, kept; None if there are none.
    """

    path: str
    prompt: str
    negative_prompt: str
    guidance: float
    extra: dict[str, Any] | None = None


class Manifest(NamedTuple):
    """All images of a job.

    Attributes:
        root: the folder that relative paths start from.
        rows: the images, in order.
    """

    root: Path
    rows: list[Row]

    def lines(self) -> Iterator[bytes]:
        """The rows as JSON, one line each: what ``manifest.jsonl`` holds."""
        for index, row in enumerate(self.rows):
            record = {"index": index, **row._asdict()}
            if row.extra is None:
                del record["extra"]
            yield to_json(record).encode() + b"\n"

    def fingerprint(self) -> str:
        """SHA-256 of the rows; where the folder lies is no part of it."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line)
        return digest.hexdigest()


@checked
def read_manifest(
    path: str | os.PathLike[str],
    *,
    prompt: str = "",
    negative_prompt: str = "",
    guidance: float = 1.0,
    extra_columns: bool = False,
) -> Manifest:
    """Reads a manifest, or lists a folder.

    Of a folder, all images below it are taken, sorted by path; hidden files and folders
    and files with other endings than ``IMAGE_SUFFIXES`` are ignored. In a manifest
    every row counts: what cannot be read as an image becomes a failure of the job.

    Args:
        path: A ``.jsonl`` or ``.csv`` file, UTF-8, or a folder. A CSV file starts with
            the names of its columns.
        prompt: Of rows that have none.
        negative_prompt: Likewise.
        guidance: Likewise.
        extra_columns: Whether other columns may stand in the manifest; they are kept
            and mean nothing. Without, a misspelt name is an error.

    Returns:
        The rows. One path may occur in several.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If it is no manifest, has no rows, or has wrong ones: the message
            names the first few, by line.
    """
    path = Path(path)
    default = Row("", prompt, negative_prompt, guidance)
    if path.is_dir():
        return _check_rows(Manifest(path, list(_rows_of_folder(path, default))), path)
    if not path.exists():
        raise FileNotFoundError(f"no such manifest: {path}")
    readers: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]]
    readers = {
        ".jsonl": _read_jsonl,
        ".csv": functools.partial(_read_csv, extra_columns=extra_columns),
    }
    if not path.is_file() or path.suffix.lower() not in readers:
        raise ValueError(
            f"{path} is no manifest: expected a .jsonl or .csv file, or a folder of "
            "images"
        )
    rows, wrong = [], []
    try:
        for line, record in readers[path.suffix.lower()](path):
            try:
                rows.append(_row(record, default, extra_columns))
            except ValueError as error:
                wrong.append(f"line {line}: {error}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(f"{path}: {'; '.join(wrong[:_SHOWN])}{more}")
    return _check_rows(Manifest(path.parent, rows), path)


def _check_rows(manifest: Manifest, path: Path) -> Manifest:
    if not manifest.rows:
        what = "holds no images" if path.is_dir() else "has no rows"
        raise ValueError(f"{path} {what}: there is nothing to do")
    return manifest


def _rows_of_folder(folder: Path, default: Row) -> Iterator[Row]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                found.append(os.path.relpath(os.path.join(parent, name), folder))
    for path in sorted(found):
        yield default._replace(path=path)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows with their line numbers; a reason in place of one that is no JSON."""
    with open(path, encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(_MAX_LINE + 1):
            number += 1
            if len(line) > _MAX_LINE:
                raise ValueError(
                    f"{path}: line {number} has more than {_MAX_LINE:,} characters"
                )
            if line.strip():
                try:
                    yield number, parse_json(line, "not JSON:")
                except ValueError as error:
                    yield number, error


def _read_csv(path: Path, extra_columns: bool) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = reader.fieldnames or []
            if "path" not in names or len(set(names)) < len(names):
                raise ValueError(
                    f"{path} must start with the names of its columns, each once and "
                    f"path among them; it starts with {', '.join(names) or 'nothing'}"
                )
            unknown = [name for name in names if name not in _KNOWN]
            if unknown and not extra_columns:
                raise ValueError(f"{path}: {_unknown(unknown[0])}")
            for record in reader:
                if None in record or None in record.values():
                    reason = f"expected {len(names)} cells, as in the first line"
                    yield reader.line_num, ValueError(reason)
                else:
                    given = {name: cell for name, cell in record.items() if cell}
                    yield reader.line_num, _with_number(given)
        except csv.Error as error:
            raise ValueError(
                f"{path}: line {reader.reader.line_num}: {error}"
            ) from None


def _with_number(record: dict[str, Any]) -> dict[str, Any] | ValueError:
    """A CSV record with its guidance as a number."""
    if "guidance" not in record:
        return record
    try:
        return record | {"guidance": float(record["guidance"])}
    except ValueError:
        text = record["guidance"]
        return ValueError(f"guidance: expected a finite number, got {shown(text)}")


def _row(record: Any, default: Row, extra_columns: bool) -> Row:
    """A row of a record.

    Raises:
        ValueError: If it is none; ``record`` itself, where that is the reason.
    """
    if isinstance(record, ValueError):
        raise record
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    extra = {key: record[key] for key in record if key not in _KNOWN}
    if extra and not extra_columns:
        raise ValueError(_unknown(next(iter(extra))))
    given = {key: record[key] for key in _KNOWN if record.get(key) is not None}
    if "path" not in given:
        raise ValueError("there is no path")
    for key, value in given.items():
        if key != "path":
            check_field(key, value, _FIELDS[key])
    if "guidance" in given:
        given["guidance"] = float(given["guidance"])
    if not _is_name(given["path"]):
        raise ValueError(f"path must name a file, got {shown(given['path'])}")
    return default._replace(**given, extra=extra or None)


def _unknown(column: str) -> str:
    """Return what to say of a column that means nothing."""
    spelled = column.strip().lower().replace(" ", "_").replace("-", "_")
    close = difflib.get_close_matches(spelled, _KNOWN, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown column {shown(column)}{hint} (there are {', '.join(_KNOWN)}; "
        "--extra-columns, or extra_columns=True, allows others)"
    )


def _is_name(path: Any) -> bool:
    """Return whether the file system can have a file of this name."""
    try:  # it may have bytes that are no text, which JSON's texts may not
        return bool(path) and b"\0" not in os.fsencode(path)
    except (TypeError, UnicodeEncodeError):
        return False
