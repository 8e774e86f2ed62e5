"""Manifests: the images of a job, checked before it starts.

A manifest is a JSONL or CSV file, or a folder of images. A row names an image, relative
to the manifest's folder, and may have its own prompt, negative prompt and guidance;
missing values (an absent or empty CSV cell, ``null``) take the default. The position of
a row identifies it: row i of the results belongs to row i of the manifest.
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

#: Suffixes of the images of a folder; other files are ignored.
IMAGE_SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
_SHOWN = 5  # limit on the invalid lines that an error names
_MAX_LINE = 2**20  # limit on the characters of a row
_Prompt = Annotated[str, Length(0, _MAX_LINE)]
_FIELDS = {"prompt": _Prompt, "negative_prompt": _Prompt, "guidance": float}
_KNOWN = ("path", *_FIELDS)


class Row(NamedTuple):
    """One image of a job.

    Attributes:
        path: Path in the manifest: absolute, or relative to ``Manifest.root``.
        prompt: Prompt that describes the image.
        negative_prompt: Prompt from which guidance pushes away.
        guidance: Finite classifier-free guidance scale; at most 1 disables guidance.
        extra: Unknown columns, which are kept; None if there are none.
    """

    path: str
    prompt: str
    negative_prompt: str
    guidance: float
    extra: dict[str, Any] | None = None


class Manifest(NamedTuple):
    """All images of a job.

    Attributes:
        root: The folder of relative paths.
        rows: The images, in order.
    """

    root: Path
    rows: list[Row]

    def lines(self) -> Iterator[bytes]:
        """Return the rows as JSON, one line each, for ``manifest.jsonl``."""
        for index, row in enumerate(self.rows):
            record = {"index": index, **row._asdict()}
            if row.extra is None:
                del record["extra"]
            yield to_json(record).encode() + b"\n"

    def fingerprint(self) -> str:
        """Return the SHA-256 of the rows, independent of the folder's location."""
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
    """Read a manifest, or list a folder.

    A folder stands for all images below it, sorted by path, without hidden files and
    folders and files with suffixes other than ``IMAGE_SUFFIXES``. In a manifest every
    row counts: files that cannot be read as images are failures of the job.

    Args:
        path: A ``.jsonl`` or ``.csv`` file, UTF-8, or a folder. A CSV file starts with
            the names of its columns.
        prompt: Prompt of rows without one.
        negative_prompt: Negative prompt of rows without one.
        guidance: Guidance scale of rows without one.
        extra_columns: Whether unknown columns are allowed, and kept. Otherwise a
            misspelled name is an error.

    Returns:
        The rows. Several rows may have the same path.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If it is not a manifest, has no rows, or has invalid rows; the
            message names the first few, by line.
    """
    path = Path(path)
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        check_field(name, text, _FIELDS[name])
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
            f"{path} is not a manifest: expected a .jsonl or .csv file, or a folder of "
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
    """Yield line numbers with rows, or with a ValueError for rows that are not JSON."""
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
    """Return a CSV record with its guidance as a number."""
    if "guidance" not in record:
        return record
    try:
        return record | {"guidance": float(record["guidance"])}
    except ValueError:
        text = record["guidance"]
        return ValueError(f"guidance: expected a finite number, got {shown(text)}")


def _row(record: Any, default: Row, extra_columns: bool) -> Row:
    """Return the row of a record.

    Raises:
        ValueError: If the record is not a row; ``record`` itself if it is an error.
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
        raise ValueError("path is missing")
    for key, value in given.items():
        if key != "path":
            check_field(key, value, _FIELDS[key])
    if "guidance" in given:
        given["guidance"] = float(given["guidance"])
    if not _is_name(given["path"]):
        raise ValueError(f"path must name a file, got {shown(given['path'])}")
    return default._replace(**given, extra=extra or None)


def _unknown(column: str) -> str:
    """Return the message for an unknown column."""
    spelled = column.strip().lower().replace(" ", "_").replace("-", "_")
    close = difflib.get_close_matches(spelled, _KNOWN, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown column {shown(column)}{hint} (there are {', '.join(_KNOWN)}; "
        "--extra-columns, or extra_columns=True, allows others)"
    )


def _is_name(path: Any) -> bool:
    """Return whether the file system allows a file of this name."""
    try:  # it may have bytes that are no text, which JSON's texts may not
        return bool(path) and b"\0" not in os.fsencode(path)
    except (TypeError, UnicodeEncodeError):
        return False
