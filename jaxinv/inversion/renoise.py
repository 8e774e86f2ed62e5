r"""ReNoise: the last outputs of a fixed-point iteration are averaged.

Each step is iterated as in :mod:`jaxinv.inversion.aidi`; the row is then solved with
the average of the last outputs of the model. Close to the data, where the iteration
need not converge, there are fewer iterations and all of their outputs count.

The authors' code makes one more evaluation close to the data, whose output it does not
use. Its optimization of the outputs toward the statistics of noise, for editing, and
its corrections of samplers with random noise are not here.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.checks import AtLeastOne, checked
from jaxinv.inversion.walk import Row, Walk


@checked
@dataclasses.dataclass(frozen=True)
class ReNoise(Walk):
    """ReNoise without noise regularization, with the settings of its repository.

    Attributes:
        iterations: Evaluations of the model per step.
        averaged: Number of the last outputs that are averaged.
        early_iterations: Evaluations per step close to the data; all are averaged.
        early_time: Model time below which a level is close to the data.

    Raises:
        ValueError: If more outputs are averaged than there are.

    References:
        Garibi et al. 2024, "ReNoise: Real Image Inversion Through Iterative Noising",
        arXiv:2403.14602, Algorithm 1, and the defaults of ``RunConfig`` in its code.
    """

    iterations: AtLeastOne = 10
    averaged: AtLeastOne = 2
    early_iterations: AtLeastOne = 5
    early_time: float = 250.0

    def __post_init__(self) -> None:
        if self.averaged > self.iterations:
            raise ValueError(
                f"ReNoise cannot average {self.averaged} of {self.iterations} outputs"
            )

    @property
    def level_evals(self) -> int:
        """Return the larger number of iterations."""
        return max(self.iterations, self.early_iterations)

    def rule(
        self, row: Row, carry: tuple
    ) -> tuple[Float[Array, "*shape"], tuple, Int[Array, ""]]:
        """Iterate and average; see :class:`jaxinv.inversion.walk.Walk`."""
        early = row.table.model_time[row.i] < self.early_time
        count = jnp.where(early, self.early_iterations, self.iterations)
        averaged = jnp.where(early, self.early_iterations, self.averaged)

        def iterate(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            y, total = state
            f = row.f(y)
            counts = k >= count - averaged
            return row.solved(f), total + jnp.where(counts, f, 0)

        start = row.start, jnp.zeros_like(row.start)
        _, total = jax.lax.fori_loop(0, count, iterate, start)
        return row.solved(total / averaged), carry, count
