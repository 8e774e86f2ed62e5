"""Detection of pictures that changed since their inversion, by content.

The record of an image holds the SHA-256 of its file. A later start reads the files of
all images with a result, and repeats those whose content has changed, independent of
their dates. Until then these images have no result, which is recorded before anything
else is written.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxinv.checks import shown
from jaxinv.scale.jobs.manifest import Manifest
from jaxinv.scale.jobs.records import FAILED, MISSING, Ledger, parse_record, state_of

_THREADS = 8
_AT_A_TIME = 4096  # number of records whose pictures are read in one go


class Changes(NamedTuple):
    """Changes of the pictures of finished images.

    Attributes:
        outdated: New records of images whose picture has changed, which remove their
            results.
        failed: Number of failed images whose picture has changed. They remain failures
            until failures are retried.
        gone: Number of images with a result whose picture can no longer be read. Their
            results are kept.
    """

    outdated: list[dict[str, Any]]
    failed: int
    gone: int

    def notes(self) -> Iterator[str]:
        """Yield a note to the user for each kind of change."""
        if self.outdated:
            yield (
                f"{_pictures(len(self.outdated))} changed since the inversion and will "
                "be inverted again"
            )
        if self.failed:
            yield (
                f"{_pictures(self.failed)} changed since the recorded failure; retry "
                "failures to invert the current content"
            )
        if self.gone:
            yield (
                f"{_pictures(self.gone)} become unreadable since the inversion; the "
                "results are kept"
            )


def picture_digest(path: Path) -> str | None:
    """Return the SHA-256 of a picture's file, or None if it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None  # reading a pipe could block forever
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None


def find_changes(manifest: Manifest, ledger: Ledger, rows: range) -> Changes:
    """Compare the pictures of all finished images with the inverted content.

    The files are read in several threads and hashed, which takes 0.1 ms of a core for a
    picture of 100 kB (measured).

    Args:
        manifest: All images.
        ledger: Their records.
        rows: The rows to compare.

    Returns:
        The changes.
    """
    states = ledger.states.copy()
    states[: rows.start] = states[rows.stop :] = MISSING
    lines = ledger._replace(states=states).records()
    records = (parse_record(line, "record") for line in lines)
    outdated, failed, gone = [], 0, 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while some := list(itertools.islice(records, _AT_A_TIME)):
            for record in some:
                if not isinstance(record.get("path"), str):
                    raise ValueError(
                        "path of a record: expected text, got "
                        f"{shown(record.get('path'))}"
                    )
            paths = [Path(manifest.root, record["path"]) for record in some]
            for record, now in zip(some, pool.map(picture_digest, paths), strict=True):
                if now == record.get("picture_sha256"):
                    continue
                if state_of(record) == FAILED:
                    failed += now is not None
                elif now is None:
                    gone += 1
                else:
                    kept = {key: record[key] for key in ("index", "path")}
                    outdated.append(kept | {"outdated": True})
    return Changes(outdated, failed, gone)


def _pictures(count: int) -> str:
    return "1 picture has" if count == 1 else f"{count} pictures have"
