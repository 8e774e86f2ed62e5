"""Progress of compiled programs: a denoiser that reports every evaluation.

Sampling and inversion are single compiled programs, so nothing outside of them can
count steps. The model is called inside of them, though, with the time of the step: a
callable pytree around the denoiser tells the host that time at each call, and the host
maps it to the step. The numerical core knows nothing of it.

What works on all steps together has no step to show, and nobody knows beforehand how
many sweeps it takes: its bar only moves, beside the number of evaluations so far. (The
model is evaluated at all levels in one call then, which counts one for each.)
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from jaxinv.diffusion.denoiser import Denoiser

# The function that compiled programs call is part of what selects them. It is the same
# for all, so that a second run does not compile again; who listens can change.
_listeners: list["Progress"] = []


def _report(t: Any) -> None:
    for listener in _listeners:
        listener.notify(float(t))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """A denoiser that reports the model's time at every evaluation.

    Attributes:
        denoise: the denoiser.
    """

    denoise: Denoiser

    def __call__(self, x: Array, t: Array) -> Array:
        """Evaluates the denoiser."""
        jax.debug.callback(_report, t)
        return self.denoise(x, t)


@dataclasses.dataclass
class Phase:
    """What is known of a running computation.

    Attributes:
        evaluations: of the model so far, one for each state.
        step: steps begun so far; 0 where they are not walked one by one.
        seconds: wall time, once it is over; compilation included.
    """

    evaluations: int = 0
    step: int = 0
    seconds: float = 0.0


class Progress:
    """Shows computations as bars while they run, on a terminal.

    Args:
        console: Where to show them; nothing is shown unless it is a terminal.
    """

    def __init__(self, console: Console):
        self._console = console
        self._times = np.zeros(0)
        self._phase = Phase()
        self._bars: Bars | None = None

    @contextlib.contextmanager
    def phase(self, title: str, times: np.ndarray | None) -> Iterator[Phase]:
        """Shows one computation.

        Args:
            title: What is being computed.
            times: The model times of its steps, in the order in which it walks them;
                None if it works on all of them together.

        Yields:
            The counts, final when the block is left.
        """
        self._times = np.zeros(0) if times is None else np.asarray(times, np.float64)
        self._phase = Phase()
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        start = time.perf_counter()
        with Bars(
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as self._bars:
            self._bars.add_task(
                title, total=len(self._times) or None, state="compiling"
            )
            _listeners.append(self)
            try:
                yield self._phase
                jax.effects_barrier()  # the last reports may still be on their way
            finally:
                _listeners.remove(self)
        self._phase.seconds = time.perf_counter() - start

    def notify(self, t: float) -> None:
        """Takes note of an evaluation at a model time."""
        phase, steps = self._phase, len(self._times)
        phase.evaluations += 1
        state = f"{phase.evaluations} evaluations"
        if steps:
            # Reports can overtake one another: the furthest step counts.
            step = int(np.argmin(np.abs(self._times - t))) + 1
            phase.step = max(phase.step, step)
            state = f"step {phase.step} of {steps}, {state}"
        if self._bars is not None:
            for task in self._bars.task_ids:
                self._bars.update(task, completed=phase.step, state=state)
