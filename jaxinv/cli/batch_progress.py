"""How far a job has come: a bar on a terminal, else a line now and then."""

import time
from collections import deque
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxinv.jobs.recorder import Counts

_LINE_SECONDS = 30.0
_WINDOW_SECONDS = 60.0  # over which the rate is measured


class JobProgress:
    """Shows the counts of a job.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console):
        self._console = console
        self._counts: Counts | None = None
        self._history: deque[tuple[float, int]] = deque()
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.completed:.0f} of {task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, state="", start=True)

    def __enter__(self) -> "JobProgress":
        """Starts to show."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops to show."""
        self._bar.stop()

    def update(self, counts: Counts) -> None:
        """Takes note of new counts."""
        now = time.monotonic()
        self._counts = counts
        if counts.new:  # the first result comes after everything has been compiled
            self._history.append((now, counts.new))
        while len(self._history) > 2 and now - self._history[0][0] > _WINDOW_SECONDS:
            self._history.popleft()
        if self._console.is_terminal:
            state = describe(counts, self._rate())
            self._bar.update(
                self._task, completed=counts.done, total=counts.total, state=state
            )
        elif now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            state = describe(counts, self._rate())
            line = f"{counts.done} of {counts.total} images; {state}"
            self._console.print(line, soft_wrap=True)

    def done(self) -> str:
        """How far it has come, in words."""
        if self._counts is None:
            return "no image done"
        return f"{self._counts.done} of {self._counts.total} images done"

    def _rate(self) -> float | None:
        """Images a second, lately; None if that is not known yet."""
        if not self._history:
            return None
        (start, first), (end, last) = self._history[0], self._history[-1]
        return (last - first) / (end - start) if last > first and end > start else None


def describe(counts: Counts, rate: float | None) -> str:
    """What there is to say of a running job.

    >>> describe(Counts(100, 40, 37, 2, 1, 40, 1), 2.0)
    '2 images/s, 0:00:30 left, 1 failed, 2 not converged'
    >>> describe(Counts(100, 0, 0, 0, 0), None)
    'starting'
    """
    if rate is None:
        said = ["starting"] if counts.new == 0 else []
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
