r"""Walks: published inversions that go up level by level, each by a rule of its own.

With f at ``u[i]`` known, the row of a sampler with a memory of one state gives ``u[i]``
from ``u[i-1]`` (:meth:`Row.solved`). A rule guesses f from some evaluations, and the
walk continues from the resulting state. Rules are published for f, which depends on the
prediction type: an output is converted at the state where the model was evaluated.

Rules do not measure whether the row holds. The walk does so at its end, with one more
evaluation of the model per row, so that every result has a certificate.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.certificate import ROWS_AT_ONCE, row_errors
from jaxinv.inversion.row_residuals import default_row_rtol
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.steps import evaluate


class Walk(Stage):
    """A stage for samplers with a memory of one state, defined by its ``rule``.

    Attributes:
        first_evals: Evaluations before the first level.
    """

    first_evals: ClassVar[int] = 0

    @property
    def level_evals(self) -> int:
        """Return the largest number of evaluations of the rule at a level."""
        return 1

    def least_evals(self, table: SamplerTable) -> int:
        """Return all evaluations, which a walk needs to begin."""
        return self.first_evals + (self.level_evals + 1) * table.num_rows

    def begin(self, task: Task) -> Any:
        """Return what the rule of the first level is given."""
        return ()

    def rule(
        self, row: "Row", carry: Any
    ) -> tuple[Float[Array, "*shape"], Any, Int[Array, ""] | int]:
        """Return ``u[i]``, what is given to the next level, and the evaluations."""
        raise NotImplementedError

    def solve(self, task: Task) -> Solved:
        """Walk up the grid; see :class:`jaxinv.inversion.stages.Stage`."""
        table = jax.tree.map(jnp.asarray, task.table)

        def step(state: tuple[Array, Any], i: Array) -> Any:
            y, carry, spent = self.rule(Row(table, task.denoise, i, state[0]), state[1])
            return (y, carry), (y, jnp.asarray(spent, jnp.int32))

        carry = self.begin(task)
        levels = jnp.arange(1, table.num_rows + 1, dtype=jnp.int32)
        _, (states, spent) = jax.lax.scan(step, (task.start, carry), levels)
        return measured(task, states, spent, self.first_evals)


class Row:
    """The row to level i - 1, with the result of the step known.

    Args:
        table: The table, with a memory of one state.
        denoise: The denoiser.
        i: The level above the step.
        after: ``u[i-1]``.

    Attributes:
        start: ``u[i]`` for the same state x as below, from which rules begin.
    """

    def __init__(
        self,
        table: SamplerTable,
        denoise: Denoiser,
        i: Int[Array, ""],
        after: Float[Array, "*shape"],
    ) -> None:
        self.table, self.denoise, self.i, self.after = table, denoise, i, after
        self.start = table.scale[i - 1] * after / table.scale[i]

    def f(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Evaluate f at a guess of ``u[i]``."""
        return f_at(self.table, self.denoise, self.i, u)

    def solved(self, f: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return the ``u[i]`` of a known f."""
        of_after, of_f = self.table.ode.naive[self.i - 1]
        shift = self.table.shift
        after = self.after if shift is None else self.after - shift[self.i - 1]
        return of_after * after + of_f * f


def f_at(
    table: SamplerTable,
    denoise: Denoiser,
    i: Int[Array, ""],
    u: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """Evaluate f at a state of level i, from what the network predicts."""
    of_u, of_output = table.ode.of_f[i]
    return of_u * u + of_output * evaluate(table, denoise, i, u)


def measured(
    task: Task,
    states: Float[Array, "n *shape"],
    spent: Int[Array, "n"],
    first: int = 0,
) -> Solved:
    """Return a trajectory with the residuals of its rows, from N more evaluations.

    Args:
        task: What was solved.
        states: ``u[1] .. u[N]``.
        spent: Evaluations at each level.
        first: Evaluations before the first level.
    """
    errors = row_errors(task.table, task.denoise, task.start, states)
    walked = first + jnp.sum(spent)
    return Solved(
        states,
        errors,
        spent,
        walked + len(states),
        walked - (-len(states) // ROWS_AT_ONCE),
        jnp.all(errors <= default_row_rtol(states.dtype)),
    )
