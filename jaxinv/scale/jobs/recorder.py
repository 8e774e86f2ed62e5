"""Writing of results to disk in commits.

A commit writes the rows of the array before the records, so that the noise of every
image with a record is on disk. If a job is killed in between, the image is inverted and
its row written again.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxinv.scale.jobs.array import NoiseArray
from jaxinv.scale.jobs.records import (
    CONVERGED,
    FAILED,
    UNCONVERGED,
    state_of,
    write_part,
)


class WriteError(OSError):
    """Error for results that cannot be written, as on a full disk."""


class Counts(NamedTuple):
    """The progress of a process in numbers of images.

    Attributes:
        total: All images of this process.
        done: Images with a result, including earlier starts.
        converged: Finished images that converged.
        unconverged: Finished images that did not converge.
        failed: Finished images that failed.
        new: Images finished by this start.
        new_failed: Images that failed in this start.
    """

    total: int
    done: int
    converged: int
    unconverged: int
    failed: int
    new: int = 0
    new_failed: int = 0

    @classmethod
    def of(cls, states: Int[np.ndarray, " n"]) -> "Counts":
        """Return the counts of images in these states, none of them new."""
        converged, unconverged, failed = (
            int(np.sum(states == state)) for state in (CONVERGED, UNCONVERGED, FAILED)
        )
        done = converged + unconverged + failed
        return cls(len(states), done, converged, unconverged, failed)

    def record(self) -> dict[str, int]:
        """Return the counts for a JSON file."""
        return {
            "images": self.total,
            "done": self.done,
            "converged": self.converged,
            "unconverged": self.unconverged,
            "failed": self.failed,
        }

    def plus(self, state: int) -> "Counts":
        """Return the counts after another result."""
        return self._replace(
            done=self.done + 1,
            converged=self.converged + (state == CONVERGED),
            unconverged=self.unconverged + (state == UNCONVERGED),
            failed=self.failed + (state == FAILED),
            new=self.new + 1,
            new_failed=self.new_failed + (state == FAILED),
        )


class Recorder:
    """Recorder that takes results from any thread and commits them.

    Args:
        parts: Folder of the records.
        array: Array for the noises, or None to discard them.
        row_shape: Shape of a noise.
        process: Index of this process.
        number: Number of the first part.
        counts: Counts of earlier starts.
        commit_every: Number of results after which to commit.
        commit_seconds: Time after which to commit.
        on_progress: Function that receives the counts after every result.
    """

    def __init__(
        self,
        parts: Path,
        array: NoiseArray | None,
        row_shape: tuple[int, ...],
        *,
        process: int,
        number: int,
        counts: Counts,
        commit_every: int,
        commit_seconds: float,
        on_progress: Callable[[Counts], None],
    ):
        self.counts = counts
        self._parts, self._array, self._row_shape = parts, array, row_shape
        self._process, self._number = process, number
        self._every, self._seconds = commit_every, commit_seconds
        self._on_progress = on_progress
        self._lock = threading.RLock()
        self._waiting: list[tuple[dict[str, Any], np.ndarray | None]] = []
        self._since = time.monotonic()

    def add(
        self, record: dict[str, Any], row: Float[np.ndarray, "*shape"] | None
    ) -> None:
        """Add the result of an image, and commit if it is time.

        Args:
            record: A record with ``index``, and ``failure`` or ``converged``.
            row: The row of the array; None for NaN.

        Raises:
            WriteError: If a commit cannot be written.
        """
        with self._lock:
            self._waiting.append((record, row))
            self.counts = self.counts.plus(state_of(record))
            self._on_progress(self.counts)
            waited = time.monotonic() - self._since
            if len(self._waiting) >= self._every or waited >= self._seconds:
                self.commit()

    def commit(self) -> None:
        """Write all results added so far.

        After an interruption, another commit writes the same records again.

        Raises:
            WriteError: If they cannot be written. None of them counts as done then.
        """
        with self._lock:
            if not self._waiting:
                return
            now = time.monotonic()
            try:
                self._write(now - self._since)
            except OSError as error:
                # The remedy is the same for all files.
                reason = os.strerror(error.errno) if error.errno else str(error)
                raise WriteError(
                    error.errno,
                    f"cannot write results: {reason}; earlier results are kept, and "
                    "the same job resumes from there",
                ) from error
            self._number += 1
            self._since = now
            self._waiting.clear()

    def _write(self, seconds: float) -> None:
        records = [record for record, _ in self._waiting]
        if self._array is not None:
            missing = np.full(self._row_shape, np.nan, np.float32)
            rows = [missing if row is None else row for _, row in self._waiting]
            self._array.write([record["index"] for record in records], np.stack(rows))
        write_part(self._parts, self._process, self._number, records, seconds)
