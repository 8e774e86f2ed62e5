"""Status of a running job: a small file and log lines.

The file is replaced atomically, at most every few seconds, and at the end:

    {"state": "running", "images": 5000, "done": 812, "converged": 790,
     "unconverged": 12, "failed": 10, "images_per_second": 2.1,
     "seconds_per_image": 0.48, "seconds_left": 1994.3, "started": "2026-...",
     "updated": "2026-...", "process": 0, "processes": 1, "pid": 4711, "host": "..."}

``state`` is ``running``, ``complete`` (every image of this process has a result),
``stopped`` (by a signal) or ``failed`` (with a ``reason``). After a ``kill -9`` it is
still ``running``: check ``updated``.
"""

import contextlib
import datetime
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from jaxinv.checks import one_line
from jaxinv.files import write_json
from jaxinv.scale.jobs.recorder import Counts

LOGGER = logging.getLogger("jaxinv.scale.jobs")

_WINDOW_SECONDS = 60.0  # window of the measured rate
_FILE_SECONDS = 2.0  # time between two updates of the file
_LOG_SECONDS = 30.0  # time between two lines of the log


class Rate:
    """Recent rate of images per second.

    The first result, after compilation, starts the clock.
    """

    def __init__(self) -> None:
        self._history: deque[tuple[float, int]] = deque()

    def update(self, counts: Counts) -> None:
        """Update the rate with new counts."""
        now = time.monotonic()
        if counts.new and (not self._history or self._history[-1][1] != counts.new):
            self._history.append((now, counts.new))
        while len(self._history) > 2 and now - self._history[0][0] > _WINDOW_SECONDS:
            self._history.popleft()

    def __call__(self) -> float | None:
        """Return the images per second, or None if not yet known."""
        if not self._history:
            return None
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) / (end - start) if last > first and end > start else None


class Status:
    """The status file of one process of a job, and its log.

    Args:
        path: The file.
        process: Index of this process.
        processes: Number of processes.
    """

    def __init__(self, path: Path, process: int, processes: int):
        self._path = path
        self._about = {
            "process": process,
            "processes": processes,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": _now(),
        }
        self._counts: Counts | None = None
        self._rate = Rate()
        self._written = self._logged = -float("inf")
        self._says_so = _is_complete(path)  # from an earlier start

    def update(self, counts: Counts) -> None:
        """Record new counts, and report them if it is time."""
        self._counts = counts
        self._rate.update(counts)
        if self._says_so and counts.done == counts.total:
            return
        now = time.monotonic()
        if now - self._written >= _FILE_SECONDS:
            self._write("running")
            self._written = now
        if now - self._logged >= _LOG_SECONDS or counts.new == 1:
            LOGGER.info("%s", self._line())
            self._logged = now

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record how the block ends.

        Yields:
            Nothing.
        """
        try:
            yield
        except Exception as error:
            self._end("failed", one_line(error))
            raise
        except BaseException as error:  # a signal in any form
            self._end("stopped", type(error).__name__)
            raise
        else:
            self._end("complete")

    def _end(self, state: str, reason: str | None = None) -> None:
        if self._counts is None or (self._says_so and self._written < 0):
            return
        self._write(state, reason)
        level = logging.INFO if state == "complete" else logging.ERROR
        LOGGER.log(level, "%s: %s", reason or state, self._line())

    def _write(self, state: str, reason: str | None = None) -> None:
        assert self._counts is not None
        counts, rate = self._counts, self._rate()
        left = counts.total - counts.done
        record = {
            "state": state,
            "reason": reason,
            **counts.record(),
            "images_per_second": rate,
            "seconds_per_image": None if rate is None else 1 / rate,
            "seconds_left": None if rate is None else left / rate,
            "updated": _now(),
        }
        # Errors of this file must not affect the results.
        with contextlib.suppress(OSError):
            write_json(self._path, record | self._about)

    def _line(self) -> str:
        assert self._counts is not None
        counts = self._counts
        said = describe(counts, self._rate())
        return f"{counts.done} of {counts.total} images{'; ' if said else ''}{said}"


def _is_complete(path: Path) -> bool:
    try:
        return '"state": "complete"' in path.read_text()
    except (OSError, ValueError):
        return False


def describe(counts: Counts, rate: float | None) -> str:
    """Describe the progress of a running job.

    >>> describe(Counts(100, 40, 37, 2, 1, 40, 1), 2.0)
    '2 images/s, 0:00:30 left, 1 failed, 2 not converged'
    >>> describe(Counts(100, 0, 0, 0, 0), None)
    'compiling'
    """
    if rate is None:
        said = ["compiling"] if counts.new == 0 and counts.done < counts.total else []
    else:
        left = round((counts.total - counts.done) / rate)
        minutes, seconds = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        said = [f"{rate:.3g} images/s", f"{hours}:{minutes:02d}:{seconds:02d} left"]
    if counts.failed:
        said.append(f"{counts.failed} failed")
    if counts.unconverged:
        said.append(f"{counts.unconverged} not converged")
    return ", ".join(said)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
