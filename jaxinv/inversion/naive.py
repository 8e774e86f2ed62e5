r"""Naive inversion, the baseline known as DDIM inversion.

It does not solve the implicit step, but evaluates the model once, at ``x[i-1]`` instead
of ``x[i]``. For samplers with a memory it is the inverse of DDIM on the same grid,
which is common practice. There are two versions, which differ in the time given to the
network:

``"upper"``
    the time of level i, as in the step itself: the exact inverse of the step except for
    the state at which the model is evaluated. diffusers' ``DDIMInverseScheduler`` and
    Algorithm 1 (line 5) of Hong et al. use this version.
``"lower"``
    the time of level i - 1, as for the state: Euler's step of the ODE from the data to
    the noise. BELM's repository calls this DDIM inversion. At the data end it gives the
    network t = 1 on every grid; here it is the grid's own ``model_time[0]``.

References:
    Dhariwal & Nichol 2021, arXiv:2105.05233, and Song et al. 2021, arXiv:2010.02502,
    Section 4.3.
    Hong et al. 2024, arXiv:2311.18387, Algorithm 1; Wang et al. 2024, "BELM",
    arXiv:2410.07273, and its repository.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.stages import Solved, Stage, Task
from jaxinv.loops import Loop
from jaxinv.samplers.table import SamplerTable

EvaluatedAt = Literal["upper", "lower"]


@checked
@dataclasses.dataclass(frozen=True)
class Naive(Stage):
    """Naive inversion: one evaluation per step, without residuals.

    Attributes:
        evaluate_at: The level whose time is given to the network with the state of the
            lower level: ``"upper"``, or ``"lower"`` as in BELM's repository.
    """

    evaluate_at: EvaluatedAt = "upper"

    def loop(self, task: Task) -> Loop:
        """Return the walk; see :class:`jaxinv.inversion.stages.Stage`."""
        table, start = task.table, task.start
        n = table.num_rows

        def begin() -> tuple[Array, Array, Array]:
            first = jnp.where(task.active, jnp.ones((), jnp.int32), n + 1)
            return first, start, jnp.zeros((n, *start.shape), start.dtype)

        def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            i, u, states = state
            u = naive_step(table, task.denoise, i, u, self.evaluate_at)
            return i + 1, u, states.at[i - 1].set(u)

        return Loop(
            begin,
            running=lambda state: state[0] <= n,
            advance=advance,
            finish=lambda state: walked(state[2]),
            length=n,
            steps=lambda state: state[0] - 1,
        )

    def upwards(self, table: SamplerTable, dtype: Any) -> SamplerTable:
        """Return the table whose sampling is this inversion, from data to noise.

        Args:
            table: The table.
            dtype: Data type of the states.

        Returns:
            A table of the same shapes, so that the program of sampling runs it.
        """
        times = np.asarray(table.model_time)
        a, b = (
            np.asarray(w, dtype)[::-1, None]
            for w in naive_rows(table, self.evaluate_at, np)
        )
        column = np.arange(table.history) == 0
        shift: Any = None
        if table.shift is not None:
            shift = np.asarray(table.shift)[::-1]
            weights = a if table.history == 1 else np.zeros_like(a)
            shift = -weights.reshape((-1,) + (1,) * (shift.ndim - 1)) * shift
        seen = times[1:] if self.evaluate_at == "upper" else times[:-1]
        return dataclasses.replace(
            table,
            a=np.where(column, a, 0),
            b=np.where(column, b, 0),
            scale=np.asarray(table.scale)[::-1],
            tau=np.asarray(table.tau)[::-1],
            model_time=np.concatenate([times[:1], seen[::-1]]),
            init_noise_scale=np.ones_like(table.init_noise_scale),
            ends=tuple(table.num_rows - level for level in reversed(table.ends)),
            shift=shift,
        )


@jax.jit
def walked(states: Float[Array, "n *shape"]) -> Solved:
    """Return the states ``u[1] .. u[N]`` of naive inversion with their cost."""
    n = len(states)
    count = jnp.full((), n, jnp.int32)
    return Solved(
        states,
        jnp.full((n,), jnp.nan, states.dtype),
        jnp.ones((n,), jnp.int32),
        count,
        count,
        jnp.array(False),
    )


def naive_step(
    table: SamplerTable,
    denoise: Denoiser,
    i: Int[Array, ""],
    u: Float[Array, "*shape"],
    evaluate_at: EvaluatedAt = "upper",
) -> Float[Array, "*shape"]:
    """Return ``u[i]``, using f at ``u[i-1]`` for that at ``u[i]``.

    Args:
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        i: The level to compute, from 1 to N.
        u: ``u[i-1]``.
        evaluate_at: See :class:`Naive`.

    Returns:
        The state of level i, by the row of a table with a memory of one state,
        otherwise by DDIM's row.
    """
    x = table.scale[i - 1] * u
    time = table.model_time[i if evaluate_at == "upper" else i - 1]
    a, b = naive_rows(table, evaluate_at, jnp)
    if table.shift is not None and table.history == 1:
        u = u - table.shift[i - 1]
    return a[i - 1] * u + b[i - 1] * denoise(x, time).astype(x.dtype)


def naive_rows(table: SamplerTable, evaluate_at: EvaluatedAt, xp: Any) -> Any:
    """Return the weights of ``u[i-1]`` and of the output there in ``u[i]``.

    A row is undone with f, which the output gives for a state of the level whose time
    the network is given.

    Args:
        table: The table.
        evaluate_at: See :class:`Naive`.
        xp: NumPy or ``jax.numpy``.
    """
    scale, of_f, naive = map(xp.asarray, (table.scale, table.ode.of_f, table.ode.naive))
    if evaluate_at == "upper":
        of_f = of_f[1:] * xp.stack([scale[:-1] / scale[1:], xp.ones_like(scale[1:])], 1)
    else:
        of_f = of_f[:-1]
    of_u, of_f_itself = naive[:, 0], naive[:, 1]
    return of_u + of_f_itself * of_f[:, 0], of_f_itself * of_f[:, 1]
