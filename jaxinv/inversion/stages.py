"""Plans of inversion: stages, each for samples that did not converge before.

A *stage* is a hashable value that solves a :class:`Task`: it returns a trajectory with
the residuals of its rows and its cost. A plan is a tuple of stages.
:mod:`jaxinv.inversion.verification` runs it and samples from the result of each stage.

Most stages are loops, which can be interrupted after any iteration and resumed: the
lanes of a batch do not wait for each other (:mod:`jaxinv.scale.lanes`).
"""

import dataclasses
import functools
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.row_residuals import default_row_rtol
from jaxinv.loops import Loop, once, run
from jaxinv.norms import natural_unit
from jaxinv.samplers.table import SamplerTable
from jaxinv.solvers.rounding import ROUNDINGS

#: Relative rounding of a row that networks of 32 bits do not have.
COARSE = 2.0**-14

#: A number of evaluations.
Evals = Int[Array, ""] | np.integer | int

#: A number of evaluations that no inversion reaches.
UNLIMITED = np.int32(2**31 - 1)


class Solved(NamedTuple):
    """A trajectory with its certificate and its cost.

    Attributes:
        states: ``u[1] .. u[N]``, shape (N, ...).
        errors: Relative residuals of the rows, shape (N,); NaN if not measured.
        iterations: Iterations for each level, shape (N,).
        num_evals: Evaluations of the model, shape ().
        depth: Number of sequential evaluations, shape ().
        solved: Whether every row that the noise depends on met the tolerance, or is
            within :data:`~jaxinv.solvers.rounding.ROUNDINGS` of its rounding, shape ().
        state_solved: Whether every row that the *state* at the noise end of a
            bidirectional sampler depends on met the tolerance, shape (); None if these
            are all rows.
        stopped: Whether the limit on evaluations ended a stage, or kept one that was
            needed from starting, shape ().
        rounding: The measured rounding of the rows, relative like ``errors``, shape
            (N,); 0 for rows where no solver stagnated; None where none was measured.
    """

    states: Float[Array, "n *shape"]
    errors: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, ""]
    depth: Int[Array, ""]
    solved: Bool[Array, ""]
    state_solved: Bool[Array, ""] | None = None
    stopped: Bool[Array, ""] | bool = False
    rounding: Float[Array, "n"] | None = None

    @property
    def limited(self) -> Bool[Array, ""]:
        """Whether rounding forbids a later stage to solve the rows more exactly.

        Rows that are solved more exactly than their measured rounding were not limited
        by it: a smooth function that bends strongly has a second difference, too.
        """
        if self.rounding is None:
            return jnp.zeros((), bool)
        least = default_row_rtol(self.rounding.dtype)
        large = (ROUNDINGS * self.rounding > least) & (self.errors > least)
        return jnp.asarray(self.solved) & jnp.any(large)

    @property
    def coarse(self) -> Bool[Array, ""]:
        """Whether the network rounds as one of 16 bits does, even if rows are solved.

        In few dimensions, rows of such a network can retrace their roundings.
        """
        if self.rounding is None:
            return jnp.zeros((), bool)
        return jnp.asarray(self.solved) & (jnp.max(self.rounding) > COARSE)


class Task(NamedTuple):
    """What a stage solves.

    Attributes:
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        start: ``u[0]``.
        known: The best result of earlier stages; None for the first. If its rows were
            ``solved`` but sampling missed the data, its states are those of sampling.
        active: Whether the sample needs this stage. If not, the result is ignored, and
            must cost nothing.
        unit: The unit of ``start`` and of the states that the stage returns.
        max_evals: The number of evaluations that the stage may use.
    """

    table: SamplerTable
    denoise: Denoiser
    start: Float[Array, "*shape"]
    known: Solved | None = None
    active: Bool[Array, ""] | bool = True
    unit: Float[Array, ""] | float = 1.0
    max_evals: Evals = UNLIMITED

    @classmethod
    def of(
        cls,
        table: SamplerTable,
        denoise: Denoiser,
        x0: Float[Array, "*shape"],
        known: Solved | None = None,
        active: Bool[Array, ""] | bool = True,
        max_evals: Evals = UNLIMITED,
    ) -> Self:
        """Return the task for data ``x0``, in the unit of the data.

        The unit is 1 for ordinary data (:func:`jaxinv.norms.natural_unit`). It gives
        tolerances, step sizes and first guesses the same meaning for data of any size.
        Units are powers of two, so that a change of the unit is exact.

        ``max_evals`` includes the evaluations of earlier stages, those of ``known``.
        """
        unit = natural_unit(jax.lax.stop_gradient(x0))
        if known is not None:
            known = known._replace(states=known.states / unit)
            max_evals = max_evals - known.num_evals
        if table.shift is not None:
            if table.shift.shape[1:] != x0.shape:
                raise ValueError(
                    f"the sampler's noises are for samples of shape "
                    f"{table.shift.shape[1:]}, got a sample of shape {x0.shape}"
                )
            table = dataclasses.replace(table, shift=table.shift / unit)
        start = x0 / unit / table.scale[0]
        return cls(table, InUnits(denoise, unit), start, known, active, unit, max_evals)


class Stage:
    """A hashable value that finds trajectories.

    A stage defines ``loop``, or ``solve`` if it cannot be interrupted. A stage with a
    true attribute ``refines`` is repeated from the states of its own verification
    (:mod:`jaxinv.inversion.verification`).
    """

    def least_evals(self, table: SamplerTable) -> int:
        """Return the number of evaluations without which the stage is not started."""
        return table.num_rows

    def solve(self, task: Task) -> Solved:
        """Find ``u[1] .. u[N]`` for ``u[0] = task.start``."""
        return run(self.loop(task))

    def loop(self, task: Task) -> Loop:
        """Return the loop whose result is that of ``solve``.

        Its end should be cheap, because it runs in all lanes.
        """
        return once(functools.partial(self.solve, task), jnp.asarray(task.active))


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


def run_stage(stage: Stage, task: Task) -> Solved:
    """Run a stage, and return its result with states in the unit of the data."""
    return _in_data_unit(task, stage.solve(task))


def stage_loop(stage: Stage, task: Task) -> Loop:
    """Return the loop whose result is that of :func:`run_stage`."""
    loop = stage.loop(task)
    return loop._replace(finish=lambda state: _in_data_unit(task, loop.finish(state)))


def _in_data_unit(task: Task, found: Solved) -> Solved:
    return found._replace(states=found.states * task.unit)
