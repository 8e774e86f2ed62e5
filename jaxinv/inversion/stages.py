"""A plan of inversion: stages, each for the samples that the earlier ones left.

A *stage* is a hashable value with a method ``solve``. It gets the table, the denoiser,
``y[0]``, what is known so far, and whether this sample still needs it; it returns a
trajectory with the residuals of its rows and its cost. A plan is a tuple of stages, run
by :mod:`jaxinv.inversion.verification`, which samples from what each of them found.

Most stages are loops (:class:`LoopStage`), which can be left after any iteration and
taken up again: the lanes of a batch do not wait for one another
(:mod:`jaxinv.scale.lanes`).
"""

import abc
import dataclasses
import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Bool, Float, Int

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.loops import Loop, once, run
from jaxinv.norms import natural_unit
from jaxinv.samplers.table import LinearMultistep


class Solved(NamedTuple):
    """A trajectory with its certificate and its cost.

    Attributes:
        states: shape (N, ...). ``y[1] .. y[N]``; ``y[0]`` is given.
        errors: shape (N,). Relative residuals of the rows; NaN if not measured.
        iterations: shape (N,). Iterations that worked on each level.
        num_evals: shape (). Evaluations of the model.
        depth: shape (). How many of them had to wait for one another.
        solved: shape (). Whether every row that the noise relies on met the tolerance.
        state_solved: shape (). The same for the rows that the *state* at the noise end
            of a bidirectional sampler relies on; None where these are all rows.
    """

    states: Float[Array, "n *shape"]
    errors: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, ""]
    depth: Int[Array, ""]
    solved: Bool[Array, ""]
    state_solved: Bool[Array, ""] | None = None


@runtime_checkable
class Stage(Protocol):
    """A hashable value that finds trajectories.

    A stage with an attribute ``refines`` that is true is repeated from its own way back
    (:mod:`jaxinv.inversion.verification`).
    """

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Solved:
        """Find ``y[1] .. y[N]`` for ``y[0] = start``.

        Args:
            table: the table, in the dtype of the states.
            denoise: the denoiser.
            start: ``y[0]``.
            known: the best of the earlier stages; None for the first. Where its rows
                were ``solved`` and sampling missed the data all the same, its states
                are those that sampling went through.
            active: whether the sample needs this stage; if not, whatever is returned
                is ignored, but must cost nothing.

        Returns:
            The best that was found.
        """
        ...


class LoopStage(abc.ABC):
    """A stage that is a loop, which can be left after any iteration."""

    @abc.abstractmethod
    def loop(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Loop:
        """Return the loop whose result is a :class:`Solved`.

        The arguments are those of :meth:`Stage.solve`. Lanes finish all together:
        what finishing evaluates should be little.
        """

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Solved:
        """Run all iterations; see :class:`Stage`."""
        return run(self.loop(table, denoise, start, known, active))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class InUnits:
    """A denoiser of states that are measured in another unit.

    Attributes:
        denoise: the denoiser.
        unit: shape (). A power of two.
    """

    denoise: Denoiser
    unit: Float[Array, ""]

    def __call__(self, x: Float[Array, "*shape"], t: Float[Array, ""]) -> Array:
        """Evaluate the denoiser at ``unit * x``."""
        return self.denoise(self.unit * x, t).astype(x.dtype) / self.unit


def run_stage(
    stage: Stage,
    table: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    known: Solved | None,
    active: Bool[Array, ""],
) -> Solved:
    """Run one stage.

    Args:
        stage: the stage.
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        x0: the data.
        known: the best of the earlier stages.
        active: whether the sample needs this stage.

    Returns:
        What it found.
    """
    start, denoise, known, unit = _in_units(table, denoise, x0, known)
    found = stage.solve(table, denoise, start, known, active)
    return found._replace(states=found.states * unit)


def stage_loop(
    stage: Stage,
    table: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    known: Solved | None,
    active: Bool[Array, ""],
) -> Loop:
    """Return one stage as a loop: of one iteration where the stage is no loop.

    Args:
        stage: the stage.
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        x0: the data.
        known: the best of the earlier stages.
        active: whether the sample needs this stage.

    Returns:
        A loop whose result is what it found.
    """
    start, denoise, known, unit = _in_units(table, denoise, x0, known)
    if isinstance(stage, LoopStage):
        loop = stage.loop(table, denoise, start, known, active)
    else:
        solve = functools.partial(stage.solve, table, denoise, start, known, active)
        loop = once(solve, active)

    def finish(state: Any) -> Solved:
        found = loop.finish(state)
        return found._replace(states=found.states * unit)

    return loop._replace(finish=finish)


def _in_units(
    table: LinearMultistep, denoise: Denoiser, x0: Array, known: Solved | None
) -> tuple[Array, Denoiser, Solved | None, Array]:
    """``y[0]``, denoiser and known states in the unit of the data, and this unit.

    It is 1 for ordinary data (:func:`jaxinv.norms.natural_unit`). Tolerances, step
    sizes and first guesses then mean the same for data of any size. Units are powers of
    two: a change of the unit rounds nothing.
    """
    unit = natural_unit(jax.lax.stop_gradient(x0))
    if known is not None:
        known = known._replace(states=known.states / unit)
    return x0 / unit / table.scale[0], InUnits(denoise, unit), known, unit
