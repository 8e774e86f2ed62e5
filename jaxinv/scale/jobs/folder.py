"""The folder of a job: its files, its owner, and its lock.

    job.json            the settings that determine results; other jobs are refused
    manifest.jsonl      the rows, which define row i of all other files
    noise.zarr          the noises; see jaxinv.scale.jobs.array
    certificates/       parts: the record of every image; see jaxinv.scale.jobs.records
    certificates.jsonl  all records by row, once every image has a result
    summary.json        statistics of all records, once every image has a result
    status-P.json       the progress of process P; see jaxinv.scale.jobs.status
    .lock-P-of-N        held by process P of N while it runs

Files of these names are complete. Names that start with a dot, or end in ``.__lock``,
are temporary files of a running or killed writer; the next start removes the latter.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxinv.checks import shown
from jaxinv.files import check_writable_folder, open_atomically, to_json, write_json
from jaxinv.files.json_fields import parse_json, read_json
from jaxinv.scale.jobs.array import create_array
from jaxinv.scale.jobs.manifest import Manifest

FORMAT = "jaxinv job 3"
_PROBE = 1.0  # seconds within which a lock that is only probed is free again
_POLL = 0.2  # seconds between checks for files of another process
_SHOWN = 10  # limit on the differences that an error names


class Folder:
    """The files of a job; see the module for what they hold.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self.job = root / "job.json"
        self.manifest = root / "manifest.jsonl"
        self.noise = root / "noise.zarr"
        self.parts = root / "certificates"
        self.certificates = root / "certificates.jsonl"
        self.summary = root / "summary.json"

    def status(self, process: int) -> Path:
        """Return the status file of a process."""
        return self.root / f"status-{process:05d}.json"


@contextlib.contextmanager
def claim(root: Path, process: int, count: int) -> Iterator[Folder]:
    """Lock a folder for this process while the block runs.

    The operating system holds the lock and releases it when the process ends, for any
    reason.

    Args:
        root: The folder, which is created if necessary.
        process: Index of this process.
        count: Number of processes.

    Yields:
        The folder.

    Raises:
        ValueError: If another job is running on the folder, or it is not writable.
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
        # Take the own lock before checking others: of two processes that start at the
        # same time, at least one sees the other.
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
    """Write the initial files of a job, or check that the folder belongs to this job.

    Args:
        folder: The claimed folder.
        job: The description of the job; see :func:`check`.
        manifest: The images.
        shape: Shape of a row of the array.
        chunk_rows: Number of rows in a file of the array; None for no array.

    Raises:
        ValueError: If :func:`check` raises it, or the folder holds other files.
        OSError: If a file cannot be written.
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
    """Wait until process 0 has prepared the folder, in this or an earlier start.

    Args:
        folder: The claimed folder.
        has_array: Whether the job has an array.
        seconds: Time limit.

    Raises:
        ValueError: If the folder holds other files, or after the time limit.
    """
    needed = [folder.job, folder.manifest, folder.parts]
    needed += [folder.noise / "zarr.json"] if has_array else []
    end = time.monotonic() + seconds
    while not all(path.exists() for path in needed):
        if not folder.job.exists():
            _check_not_foreign(folder)
        if time.monotonic() > end:
            raise ValueError(
                f"{folder.root} holds no job after {seconds:.0f} s: process 0 creates "
                "it, so start process 0 or see its messages; all processes need the "
                "same folder"
            )
        time.sleep(_POLL)


def _check_not_foreign(folder: Folder) -> None:
    """Raise ValueError if a folder has files but no job, whose job.json is first."""
    foreign = [p.name for p in folder.root.iterdir() if not p.name.startswith(".")]
    if foreign and not folder.job.exists():
        raise ValueError(
            f"{folder.root} is not empty and holds no job (it contains {foreign[0]}): "
            "use a new or empty folder"
        )


def check(folder: Folder, job: Mapping[str, Any]) -> None:
    """Raise ValueError unless the folder holds this job.

    Args:
        folder: The claimed folder.
        job: The description of the job, which must agree except for ``about``.

    Raises:
        ValueError: If it holds another job or none; the message lists differences.
    """
    try:
        found = read_json(folder.job)
    except FileNotFoundError:
        raise ValueError(
            f"{folder.root} holds no job: process 0 creates it, so start that first"
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
            "repeat the options of that job to resume it"
        )


def remove_temporaries(*paths: Path) -> None:
    """Remove temporary files left by killed writers of files."""
    for path in paths:
        for temporary in path.parent.glob(f".{path.name}.*"):
            temporary.unlink(missing_ok=True)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted name, without informative ones."""
    for key, item in value.items():
        if isinstance(item, dict) and item:
            if key != "about":
                yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
