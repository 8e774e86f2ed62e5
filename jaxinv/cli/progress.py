"""Progress of a computation as a bar, on a terminal.

Sampling and inversion report the number of finished steps between the turns of their
loops (:func:`jaxinv.loops.run_in_turns`). No compiled program calls back, so that
programs can be cached between runs (:mod:`jaxinv.cli.programs`).
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@dataclasses.dataclass
class Phase:
    """A running computation.

    Attributes:
        show: Function that displays a number of steps.
        begin: Function that displays another title.
        step: The largest number so far.
        seconds: Wall time after the end, including compilation.
    """

    show: Callable[[int], None]
    begin: Callable[[str], None]
    step: int = 0
    seconds: float = 0.0

    def report(self, step: int) -> None:
        """Report the number of finished steps."""
        # The verification repeats the steps: the largest number counts.
        self.step = max(self.step, step)
        self.show(self.step)


@contextlib.contextmanager
def phase(console: Console, title: str, steps: int | None = None) -> Iterator[Phase]:
    """Show one computation as a bar while it runs.

    Args:
        console: The console; nothing is shown unless it is a terminal.
        title: Title of the computation.
        steps: Number of steps; None if it reports none.

    Yields:
        The receiver of reports, whose time is known after the block.
    """
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        bar = bars.add_task(title, total=steps, state="")

        def show(step: int) -> None:
            bars.update(bar, completed=step, state=f"step {step} of {steps}")

        def begin(title: str) -> None:
            bars.update(bar, description=title)

        running, start = Phase(show, begin), time.perf_counter()
        yield running
        running.seconds = time.perf_counter() - start
