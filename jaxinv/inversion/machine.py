"""A stage of an inversion as a loop made from arrays, for lanes or turns."""

import dataclasses
from typing import Any, NamedTuple

from jaxtyping import Array, Float, PyTree

from jaxinv.callables import check_denoiser
from jaxinv.diffusion.denoiser import with_condition
from jaxinv.inversion.stages import UNLIMITED, Evals, Stage, Task, stage_loop
from jaxinv.inversion.verification import Verified, start_of_next, with_both
from jaxinv.loops import Loop
from jaxinv.sampling.steps import in_dtype


class Sample(NamedTuple):
    """A sample as it enters a stage.

    Attributes:
        x0: The data.
        condition: The condition of the model, or None.
        known: The result of earlier stages; None before the first.
        max_evals: See :func:`jaxinv.invert`.
    """

    x0: Float[Array, "*shape"]
    condition: PyTree = None
    known: Verified | None = None
    max_evals: Evals = UNLIMITED


@dataclasses.dataclass(frozen=True)
class StageMachine:
    """Factory of the loop of a stage (:data:`jaxinv.loops.Machine`).

    The model is the pair of the table and the denoiser.

    Attributes:
        stage: The stage.
    """

    stage: Stage

    def __call__(self, model: Any, item: Sample) -> Loop:
        """Return the loop, whose result is that of the stage."""
        denoise = with_condition(model[1], item.condition)
        table = in_dtype(model[0], item.x0.dtype)
        known = None if item.known is None else start_of_next(item.known)
        task = Task.of(table, denoise, item.x0, known, max_evals=item.max_evals)
        loop = stage_loop(self.stage, task)

        def begin() -> Any:
            check_denoiser(denoise, item.x0)
            return loop.begin()

        def steps(state: Any) -> Array:
            assert loop.steps is not None
            return model[0].steps_below(loop.steps(state))

        return loop._replace(
            begin=begin,
            finish=lambda state: with_both(loop.finish(state)),
            steps=loop.steps and steps,
        )
