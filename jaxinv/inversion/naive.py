r"""Naive inversion, the baseline known as DDIM inversion.

Do not solve the implicit step: evaluate the model once, at ``x[i-1]`` in place of
``x[i]``. For samplers with a memory it is the inverse of DDIM on the same grid, as it
is used in practice. There are two flavours, which differ in the time that the network
is given:

``"upper"``
    the time of level i, at which the step was made: the exact inverse of the step, but
    for the state at which the model is evaluated. It is what diffusers'
    ``DDIMInverseScheduler`` and Algorithm 1 (line 5) of Hong et al. do.
``"lower"``
    the time of level i - 1, which the state has: Euler's step of the ODE from the data
    to the noise. BELM's repository calls this DDIM inversion. At the data end it gives
    the network t = 1, whatever the grid; here it is the grid's own ``model_time[0]``.

References:
    Dhariwal & Nichol 2021, arXiv:2105.05233, and Song et al. 2021, arXiv:2010.02502,
    Section 4.3.
    Hong et al. 2024, arXiv:2311.18387, Algorithm 1; Wang et al. 2024, "BELM",
    arXiv:2410.07273, and its repository.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.stages import Solved
from jaxinv.samplers.table import LinearMultistep

EvaluatedAt = Literal["upper", "lower"]


@checked
@dataclasses.dataclass(frozen=True)
class Naive:
    """One evaluation per step, no certificate.

    Attributes:
        evaluate_at: the level whose time the network is given with the state of the
            lower level: ``"upper"``, or ``"lower"`` as in BELM's repository.
    """

    evaluate_at: EvaluatedAt = "upper"

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
        n = table.num_rows

        def step(y: Array, i: Array) -> tuple[Array, Array]:
            y = naive_step(table, denoise, i, y, self.evaluate_at)
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


def naive_step(
    table: LinearMultistep,
    denoise: Denoiser,
    i: Int[Array, ""],
    y: Float[Array, "*shape"],
    evaluate_at: EvaluatedAt = "upper",
) -> Float[Array, "*shape"]:
    """Return ``y[i]``, with the model's output at ``y[i-1]`` for that at ``y[i]``.

    Args:
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        i: the level that is sought, from 1 to N.
        y: ``y[i-1]``.
        evaluate_at: as of :class:`Naive`.

    Returns:
        The state of level i: by the row of a table that remembers one state, else by
        DDIM's.
    """
    x = table.scale[i - 1] * y
    time = table.model_time[i if evaluate_at == "upper" else i - 1]
    f = denoise(x, time).astype(x.dtype)
    if table.history == 1:
        return (y - table.b[i - 1, 0] * f) / table.a[i - 1, 0]
    return y + (table.tau[i] - table.tau[i - 1]) * f
