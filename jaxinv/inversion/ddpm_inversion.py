r"""Edit-friendly inversion of stochastic samplers: noises that retrace given data.

A stochastic sampler adds a noise z in every step. For *any* states ``x[1] .. x[N]``
there are noises that lead through them: row i, solved for its noise, is

    z[i-1] = (u[i-1] - sum_j (a[i,j] u[i+j] + b[i,j] o[i+j])) / c[i],

without an implicit equation. Edit-friendly inversion takes states with independent
noises, ``u[i] = signal[i] D + noise[i] e[i]``, for which the noises z are larger, and
correlated: they carry the image's structure. Rows that add no noise (the last step of
most samplers) must hold by themselves. The states before them are found by solving
these rows, from the data upward.

References:
    Huberman-Spiegelglas et al. 2024, "An Edit Friendly DDPM Noise Space",
    arXiv:2304.06140, Eq. 6 and Algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.row_residuals import level_norms, per_level, residuals, row_sums
from jaxinv.inversion.stages import Task
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.sample import evaluate, in_dtype

# Levels that are evaluated in one call.
_BATCH = 8


class DDPMInversion(NamedTuple):
    """Noises that retrace given data.

    Attributes:
        noise: The first state as unit noise, shape (...).
        noises: The noises of all rows, data first, shape (N, ...), for ``with_noises``.
        trajectory: The states x, data first, shape (N + 1, ...).
        step_residuals: Relative residuals of all rows, shape (N,).
        residual: The largest, shape ().
        num_evals: Evaluations of the model, shape ().
        converged: Whether the rows without noise are solved, shape (). The other rows
            hold by construction.
    """

    noise: Float[Array, "*shape"]
    noises: Float[Array, "n *shape"]
    trajectory: Float[Array, "n+1 *shape"]
    step_residuals: Float[Array, "n"]
    residual: Float[Array, ""]
    num_evals: Int[Array, ""]
    converged: Bool[Array, ""]


@checked
def ddpm_inversion(
    sampler: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    key: PRNGKeyArray,
) -> DDPMInversion:
    """Find noises of a stochastic sampler that retrace given data.

    Args:
        sampler: A stochastic sampler (:func:`jaxinv.ancestral`,
            :func:`jaxinv.sde_dpm_solver`, or a scheduler such as DDPM from
            :func:`jaxinv.sampler_from_diffusers`), of which only the last rows may add
            no noise.
        denoise: Callable pytree ``(x, t) -> f`` on one sample.
        x0: The data, one sample without a batch axis.
        key: Random key of the independent noises of the states.

    Returns:
        The noises, with the residuals of all rows.
        ``sample(sampler.with_noises(found.noises), denoise, found.noise)`` retraces the
        data, up to the rounding of as many steps.

    Raises:
        ValueError: For a deterministic sampler, for one with a row without noise before
            one that adds noise, or for data or a denoiser that :func:`jaxinv.invert`
            refuses.

    Example:
        >>> import jax, jaxinv as ji
        >>> sampler = ji.ancestral(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: 0.9 * x
        >>> x0 = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> found = ji.ddpm_inversion(sampler, denoise, x0, jax.random.key(1))
        >>> again = ji.sample(sampler.with_noises(found.noises), denoise, found.noise)
        >>> bool(ji.nmse_db(again, x0) < -100)
        True

    References:
        Huberman-Spiegelglas et al. 2024, arXiv:2304.06140, Eq. 6 and Algorithm 1.
    """
    x0 = jnp.asarray(x0)
    check_finite(x0, "data x0")
    if sampler.noise is None:
        raise ValueError(
            f"{sampler.name!r} is deterministic: ddpm_inversion is for stochastic "
            "samplers such as ancestral; use invert"
        )
    if isinstance(sampler.noise, jax.core.Tracer):
        raise ValueError("make the sampler outside of jax.jit and close over it")
    silent = np.asarray(sampler.noise) == 0
    fixed = int(np.argmin(silent)) if not silent.all() else sampler.num_rows
    if silent[fixed:].any():
        raise ValueError(
            f"{sampler.name!r} has rows without noise before rows that add noise"
        )
    longer = np.abs(sampler.a) + np.abs(sampler.b)
    if np.any(np.asarray(longer)[:fixed, 1:] != 0):
        raise ValueError(
            f"the rows of {sampler.name!r} without noise use several states: "
            "ddpm_inversion needs them to be of first order"
        )
    given = sampler.with_noises(jnp.zeros((sampler.num_rows, *x0.shape), x0.dtype))
    table, model = matched(given, denoise, x0.shape)
    return _found(table, model, x0, key, fixed)


@jax.jit(static_argnames="fixed")
def _found(
    table: SamplerTable, denoise: Function, x0: Array, key: Array, fixed: int
) -> DDPMInversion:
    check_denoiser(denoise, x0)
    table = in_dtype(table, x0.dtype)
    n, start = table.num_rows, x0 / table.scale[0]
    independent = jax.random.normal(key, (n, *x0.shape), x0.dtype)
    signal, noise = (per_level(v[1:], independent) for v in table.ode[1:3])
    data = start / table.ode.signal[0]
    states = signal * data + noise * independent
    # The rows without noise hold by themselves.
    evals, solved = jnp.zeros((), jnp.int32), jnp.array(True)
    if fixed:
        below = Stepwise().solve(Task(table.part(0, fixed), denoise, start))
        states = states.at[:fixed].set(below.states)
        evals, solved = below.num_evals, below.solved
    outputs = jax.lax.map(
        lambda pair: evaluate(table, denoise, *pair),
        (jnp.arange(1, n + 1), states),
        batch_size=_BATCH,
    )
    after = jnp.concatenate([start[None], states[:-1]])
    missing = after - row_sums(table, states, outputs)
    weights = per_level(jnp.asarray(table.noise), states)
    noises = jnp.where(weights != 0, missing / jnp.where(weights == 0, 1, weights), 0)
    errors = residuals(table.with_noises(noises), start, states, outputs)[1]
    trajectory = per_level(table.scale, states) * jnp.concatenate([start[None], states])
    return DDPMInversion(
        trajectory[-1] / table.init_noise_scale,
        noises,
        trajectory,
        errors,
        jnp.max(errors),
        evals + n,
        solved & jnp.all(jnp.isfinite(level_norms(noises))),
    )
