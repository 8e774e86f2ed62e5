r"""Naive inversion, the baseline known as DDIM inversion.

Do not solve the implicit step: evaluate the model once, at ``x[i-1]`` in place of
``x[i]``, with the time of level i. For samplers with a memory it is the inverse of
DDIM on the same grid, as it is used in practice.

References:
    Dhariwal & Nichol 2021, arXiv:2105.05233, and Song et al. 2021, arXiv:2010.02502,
    Section 4.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxinv.denoiser import Denoiser
from jaxinv.inversion.stages import Solved
from jaxinv.samplers.table import LinearMultistep


@dataclasses.dataclass(frozen=True)
class Naive:
    """One evaluation per step, no certificate."""

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Array,
        known: Solved | None,
        active: Array,
    ) -> Solved:
        """Walk up the grid; see :class:`jaxinv.inversion.stages.Stage`."""
        del known, active
        n = table.num_steps

        def step(y: Array, i: Array) -> tuple[Array, Array]:
            x = table.scale[i - 1] * y
            f = denoise(x, table.model_time[i]).astype(x.dtype)
            if table.history == 1:
                y = (y - table.b[i - 1, 0] * f) / table.a[i - 1, 0]
            else:
                y = y + (table.tau[i] - table.tau[i - 1]) * f
            return y, y

        states = jax.lax.scan(step, start, jnp.arange(1, n + 1))[1]
        count = jnp.full((), n, jnp.int32)
        return Solved(
            states,
            jnp.full((n,), jnp.nan, start.dtype),
            jnp.ones((n,), jnp.int32),
            count,
            count,
            jnp.array(False),
        )
