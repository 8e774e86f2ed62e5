r"""Uni-Inv: one evaluation per step, at the state that the last output predicts.

From ``u[i-1]``, the row solved with the output of the level below predicts ``u[i]``.
The model is evaluated there, and the row is solved again with its output, which the
next level gets. It is one fixed-point iteration from a better start than the naive
inverse, and costs one evaluation more in all, at the data.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import checked
from jaxinv.inversion.stages import Task
from jaxinv.inversion.walk import Row, Walk, f_at


@checked
@dataclasses.dataclass(frozen=True)
class UniInv(Walk):
    """Uni-Inv, the inversion of UniEdit-Flow.

    References:
        Jiao et al. 2025, "UniEdit-Flow: Unleashing Inversion and Editing in the Era of
        Flow Models", arXiv:2504.13109, Algorithm 1, and the scheduler in its code.
    """

    first_evals: ClassVar[int] = 1

    def begin(self, task: Task) -> Float[Array, "*shape"]:
        """Return f at the data; see :class:`jaxinv.inversion.walk.Walk`."""
        data = jnp.zeros((), jnp.int32)
        return f_at(task.table, task.denoise, data, task.start)

    def rule(
        self, row: Row, carry: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], int]:
        """Predict and correct; see :class:`jaxinv.inversion.walk.Walk`."""
        f = row.f(row.solved(carry))
        return row.solved(f), f, 1
