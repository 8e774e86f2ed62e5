"""Progress of a computation as a bar, on a terminal.

Sampling and inversion say how many steps are behind, between the turns of their loops
(:func:`jaxinv.loops.run_in_turns`). No compiled program calls back, so that programs
can be kept between runs (:mod:`jaxinv.cli.programs`).
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
        show: Shows a number of steps.
        step: The largest number so far.
        seconds: Wall time, once it is over; compilation included.
    """

    show: Callable[[int], None]
    step: int = 0
    seconds: float = 0.0

    def report(self, step: int) -> None:
        """Take note of how many steps are behind."""
        # The way back walks the steps a second time: the furthest counts.
        self.step = max(self.step, step)
        self.show(self.step)


@contextlib.contextmanager
def phase(console: Console, title: str, steps: int | None = None) -> Iterator[Phase]:
    """Show one computation as a bar while it runs.

    Args:
        console: Where to show it; nothing is shown unless it is a terminal.
        title: What is being computed.
        steps: How many steps it has; None if it reports none.

    Yields:
        Who takes the reports; its time is known when the block is left.
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

        running, start = Phase(show), time.perf_counter()
        yield running
        running.seconds = time.perf_counter() - start
