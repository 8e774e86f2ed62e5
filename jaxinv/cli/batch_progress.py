"""Progress of a job: a bar on a terminal, otherwise log lines with the time."""

import contextlib
import logging
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxinv.scale.jobs.recorder import Counts
from jaxinv.scale.jobs.status import LOGGER, Rate, describe


class JobProgress:
    """Display of the counts of a job.

    Args:
        console: The console.
    """

    def __init__(self, console: Console):
        self._counts: Counts | None = None
        self._rate = Rate()
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
        """Start the display."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the display."""
        self._bar.stop()

    def update(self, counts: Counts) -> None:
        """Display new counts."""
        self._counts = counts
        self._rate.update(counts)
        state = describe(counts, self._rate())
        self._bar.update(
            self._task, completed=counts.done, total=counts.total, state=state
        )

    def done(self) -> str:
        """Return the progress in words."""
        if self._counts is None:
            return "no image done"
        return f"{self._counts.done} of {self._counts.total} images done"


@contextlib.contextmanager
def logged(console: Console) -> Iterator[None]:
    """Write the job's log to standard error, unless a bar is shown there.

    Existing settings of logging take precedence.

    Yields:
        Nothing.
    """
    if console.is_terminal or LOGGER.hasHandlers():
        yield
        return
    handler = logging.StreamHandler(console.file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
