"""How far a job has come: a bar on a terminal, else log lines with the time."""

import contextlib
import logging
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxinv.scale.jobs.recorder import Counts
from jaxinv.scale.jobs.status import LOGGER, Rate, describe


class JobProgress:
    """Shows the counts of a job.

    Args:
        console: Where to.
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
        """Start to show."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop to show."""
        self._bar.stop()

    def update(self, counts: Counts) -> None:
        """Take note of new counts."""
        self._counts = counts
        self._rate.update(counts)
        state = describe(counts, self._rate())
        self._bar.update(
            self._task, completed=counts.done, total=counts.total, state=state
        )

    def done(self) -> str:
        """Return how far it has come, in words."""
        if self._counts is None:
            return "no image done"
        return f"{self._counts.done} of {self._counts.total} images done"


@contextlib.contextmanager
def logged(console: Console) -> Iterator[None]:
    """Write the job's log to standard error, unless a bar is shown there.

    Where the program that imports jaxinv has set up logging, that is what counts.

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
