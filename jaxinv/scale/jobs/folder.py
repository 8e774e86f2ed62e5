"""The folder of a job: what is in it, whose it is, and that nobody else writes there.

    job.json            what makes the results what they are; another job is refused
    manifest.jsonl      the rows: what row i of everything else is about
    noise.zarr          the noises; see jaxinv.scale.jobs.array
    certificates/       parts: what became of every image; see jaxinv.scale.jobs.records
    certificates.jsonl  all of them by row, and
    summary.json        in numbers, once every image has a result
    status-P.json       how far process P is; see jaxinv.scale.jobs.status
    .lock-P-of-N        held by process P of N while it runs

A file of these names is whole. Names that start with a dot, or end in ``.__lock``, are
temporary files of a writer at work, or of one that was killed; the next start removes
those.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxinv.checks import shown
from jaxinv.files import check_writable_folder, open_atomically, to_json, write_json
from jaxinv.files.json_fields import parse_json, read_json
from jaxinv.scale.jobs.array import create_array
from jaxinv.scale.jobs.manifest import Manifest

FORMAT = "jaxinv job 2"
_PROBE = 1.0  # seconds in which a lock that somebody only looks at is free again
_POLL = 0.2  # seconds between looks at what another process makes
_SHOWN = 10  # differences that an error names


class Folder(NamedTuple):
    """The files of a job.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def job(self) -> Path:
        """The settings."""
        return self.root / "job.json"

    @property
    def manifest(self) -> Path:
        """The rows."""
        return self.root / "manifest.jsonl"

    @property
    def noise(self) -> Path:
        """The array."""
        return self.root / "noise.zarr"

    @property
    def parts(self) -> Path:
        """The folder of records."""
        return self.root / "certificates"

    @property
    def certificates(self) -> Path:
        """All records, by row."""
        return self.root / "certificates.jsonl"

    def status(self, process: int) -> Path:
        """How far a process is."""
        return self.root / f"status-{process:05d}.json"

    @property
    def summary(self) -> Path:
        """All records, in numbers."""
        return self.root / "summary.json"


@contextlib.contextmanager
def claim(root: Path, process: int, count: int) -> Iterator[Folder]:
    """Makes a folder this process' own while the block runs.

    The operating system holds the lock: it is free again once the process ends, however
    it ends.

    Args:
        root: The folder; made if need be.
        process: Which of the job's processes this is.
        count: How many there are.

    Yields:
        The folder.

    Raises:
        ValueError: If another job runs on it, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    check_writable_folder(root)
    lock = FileLock(root / f".lock-{process:05d}-of-{count:05d}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another job is running on {root} (as process {process} of {count}): wait "
            "for it, stop it, or write elsewhere"
        ) from None
    try:
        # First the own lock, then a look at the others': of two that start at the same
        # time, one at least sees the other.
        for other in sorted(root.glob(".lock-*-of-*")):
            if not other.name.endswith(f"-of-{count:05d}"):
                try:
                    FileLock(other).acquire(timeout=_PROBE).lock.release()
                except Timeout:
                    raise ValueError(
                        f"another job with another number of processes is running on "
                        f"{root} ({other.name}): wait for it, stop it, or write "
                        "elsewhere"
                    ) from None
        yield Folder(root)
    finally:
        lock.release()


def prepare(
    folder: Folder,
    job: Mapping[str, Any],
    manifest: Manifest,
    shape: tuple[int, ...],
    chunk_rows: int | None,
) -> None:
    """Writes what a job starts with, or proves that the folder is this job's.

    Args:
        folder: Claimed.
        job: Its description; see :func:`check`.
        manifest: The images.
        shape: Of a row of the array.
        chunk_rows: Of the array; None for a job that keeps none.

    Raises:
        ValueError: As :func:`check`; if the folder holds anything else.
        OSError: If something cannot be written.
    """
    if not folder.job.exists():
        _check_not_foreign(folder)
        write_json(folder.job, job)
    check(folder, job)
    remove_temporaries(folder.job, folder.manifest)
    if not folder.manifest.exists():
        with open_atomically(folder.manifest) as file:
            file.writelines(manifest.lines())
    folder.parts.mkdir(exist_ok=True)
    if chunk_rows is not None:
        create_array(folder.noise, len(manifest.rows), shape, chunk_rows)


def wait_until_prepared(folder: Folder, has_array: bool, seconds: float) -> None:
    """Returns when process 0 has prepared the folder, or had in an earlier start.

    Args:
        folder: Claimed.
        has_array: Whether the job keeps an array.
        seconds: How long to wait.

    Raises:
        ValueError: If the folder holds something else, or after so many seconds.
    """
    needed = [folder.job, folder.manifest, folder.parts]
    needed += [folder.noise / "zarr.json"] if has_array else []
    end = time.monotonic() + seconds
    while not all(path.exists() for path in needed):
        if not folder.job.exists():
            _check_not_foreign(folder)
        if time.monotonic() > end:
            raise ValueError(
                f"{folder.root} holds no job after {seconds:.0f} s: process 0 makes "
                "it, so start that, or see what it says; all processes need one and "
                "the same folder"
            )
        time.sleep(_POLL)


def _check_not_foreign(folder: Folder) -> None:
    """Raises for files in a folder without a job; what it has comes after job.json."""
    foreign = [p.name for p in folder.root.iterdir() if not p.name.startswith(".")]
    if foreign and not folder.job.exists():
        raise ValueError(
            f"{folder.root} is not empty and holds no job ({foreign[0]} is in it): "
            "give a new or empty folder"
        )


def check(folder: Folder, job: Mapping[str, Any]) -> None:
    """Raises unless the folder holds this job.

    Args:
        folder: Claimed.
        job: Its description. All of it but ``about`` has to agree.

    Raises:
        ValueError: If it holds another, or none; names every difference.
    """
    try:
        found = read_json(folder.job)
    except FileNotFoundError:
        raise ValueError(
            f"{folder.root} holds no job: process 0 makes it, so start that first"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{folder.job} is not a job of this version of jaxinv: {error}"
        ) from None
    if found.get("format") != FORMAT:
        raise ValueError(f"{folder.job} is not a job of this version of jaxinv")
    wanted = parse_json(to_json(job), folder.job)
    there, here = dict(_flat(found)), dict(_flat(wanted))
    differences = [
        f"{name} is {shown(there.get(name))} there and {shown(here.get(name))} now"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differences:
        more = len(differences) - _SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        raise ValueError(
            f"{folder.root} holds the results of another job: "
            f"{'; '.join(differences[:_SHOWN])}{rest}. Write to another folder, or "
            "repeat that job's options to go on with it"
        )


def remove_temporaries(*paths: Path) -> None:
    """Removes what was left of files that nobody else writes now."""
    for path in paths:
        for temporary in path.parent.glob(f".{path.name}.*"):
            temporary.unlink(missing_ok=True)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name, without what is only said."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            if key != "about":
                yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
