"""Plans of inversion: stages, each for samples that did not converge before.

A *stage* is a hashable value with a method ``solve``. Its arguments are the table, the
denoiser, ``y[0]``, the result so far, and whether this sample still needs it; it
returns a trajectory with the residuals of its rows and its cost. A plan is a tuple of
stages. :mod:`jaxinv.inversion.verification` runs it and samples from the result of each
stage.

Most stages are loops (:class:`LoopStage`), which can be interrupted after any iteration
and resumed: the lanes of a batch do not wait for each other
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
        states: ``y[1] .. y[N]``, shape (N, ...).
        errors: Relative residuals of the rows, shape (N,); NaN if not measured.
        iterations: Iterations for each level, shape (N,).
        num_evals: Evaluations of the model, shape ().
        depth: Number of sequential evaluations, shape ().
        solved: Whether every row that the noise depends on met the tolerance, shape ().
        state_solved: Whether every row that the *state* at the noise end of a
            bidirectional sampler depends on met the tolerance, shape (); None if these
            are all rows.
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

    A stage with a true attribute ``refines`` is repeated from the states of its own
    verification (:mod:`jaxinv.inversion.verification`).
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
            table: The table, in the dtype of the states.
            denoise: The denoiser.
            start: ``y[0]``.
            known: The best result of earlier stages; None for the first. If its rows
                were ``solved`` but sampling missed the data, its states are those of
                sampling.
            active: Whether the sample needs this stage. If not, the result is ignored,
                and must cost nothing.

        Returns:
            The best result.
        """
        ...


class LoopStage(abc.ABC):
    """A stage that is a loop, which can be interrupted after any iteration."""

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

        The arguments are those of :meth:`Stage.solve`. The end should be cheap, because
        it runs in all lanes.
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
    """A denoiser of states in another unit.

    Attributes:
        denoise: The denoiser.
        unit: A power of two, shape ().
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
        stage: The stage.
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        x0: The data.
        known: The best result of earlier stages.
        active: Whether the sample needs this stage.

    Returns:
        The result of the stage.
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
    """Return a stage as a loop, with one iteration if the stage is not a loop.

    Args:
        stage: The stage.
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        x0: The data.
        known: The best result of earlier stages.
        active: Whether the sample needs this stage.

    Returns:
        A loop whose result is that of the stage.
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
    """Return ``y[0]``, denoiser and known states in the unit of the data, and the unit.

    The unit is 1 for ordinary data (:func:`jaxinv.norms.natural_unit`). It gives
    tolerances, step sizes and first guesses the same meaning for data of any size.
    Units are powers of two, so that a change of the unit is exact.
    """
    unit = natural_unit(jax.lax.stop_gradient(x0))
    if known is not None:
        known = known._replace(states=known.states / unit)
    return x0 / unit / table.scale[0], InUnits(denoise, unit), known, unit
