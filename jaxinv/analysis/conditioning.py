r"""Conditioning of the inversion of a sampler: the steps that lose the noise.

A residual certifies a *reconstruction*: the recovered noise leads to the data. It does
not show that this is the noise that generated the data. That depends on the Jacobian of
the step,

    J_i = d x[i-1] / d x[i]    (older states held fixed),

and on its singular values. An error e of ``x[i-1]`` becomes an error of up to
``|e| / sigma_min(J_i)`` in ``x[i]``, the solution. If sigma_min is small, the sampler
maps different noises to almost the same state, and the error of this step grows in all
later ones. If it is zero, several noises can lead to the same data. Errors multiply
along the trajectory, so many mediocre steps lose as much as one bad step. Remedies are
a grid without small noise-level ratios, less guidance, or double precision; a better
solver does not help.

The extreme singular values come from Golub-Kahan bidiagonalization. From a random unit
vector v_1, products with J and J^T build orthonormal U and V with

    J V = U B,    J^T U = V B^T + beta v e^T,    B upper bidiagonal,

and the singular values of the small B approximate the extreme ones of J *from inside*:
``sigma_max(B) <= sigma_max(J)`` and ``sigma_min(B) >= sigma_min(J)``. The largest value
converges within a few vectors; a tiny smallest value, close to many others, converges
slowly. The result is an upper bound of sigma_min: the step can be worse conditioned
than it shows, but not better. The part of ``J^T U p - sigma V q`` outside the space has
norm ``beta |p_m|``, which is the usual error bound: some singular value of J lies
within it. Both bases are fully re-orthogonalized, and J^T J, which would square the
condition number, is never formed.

References:
    Golub & Kahan 1965, "Calculating the Singular Values and Pseudo-Inverse of a
    Matrix", SIAM J. Numer. Anal. 2(2).
    Golub & Van Loan 2013, "Matrix Computations", 4th ed., Section 10.4.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import AtLeastOne, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.norms import norm
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.sample import evaluate, in_dtype, sample
from jaxinv.solvers.krylov import orthonormalize


class Conditioning(NamedTuple):
    """Extreme singular values of a map, or of several maps along an axis of all fields.

    Attributes:
        largest: Lower bound of the largest singular value, shape (...).
        smallest: Upper bound of the smallest singular value, shape (...). Values below
            ``eps * largest`` are rounding errors of zero.
        largest_error: A singular value lies this close to ``largest``, shape (...).
        smallest_error: A singular value lies this close to ``smallest``, shape (...).
            If it is large in comparison, use more vectors: smaller values may exist.
        condition: ``largest / smallest``, shape (...).
        amplification: ``|output| / (|input| smallest)``, shape (...): a lower bound of
            the factor by which the inverse can magnify a *relative* error.
    """

    largest: Float[Array, "..."]
    smallest: Float[Array, "..."]
    largest_error: Float[Array, "..."]
    smallest_error: Float[Array, "..."]
    condition: Float[Array, "..."]
    amplification: Float[Array, "..."]


@checked
def step_conditioning(
    sampler: SamplerTable,
    denoise: Denoiser,
    trajectory: Float[Array, "n+1 *shape"],
    *,
    num_vectors: AtLeastOne = 40,
    key: PRNGKeyArray | None = None,
) -> Conditioning:
    """Compute the extreme singular values of every step of a trajectory.

    Index ``i - 1`` of a field belongs to the step from ``x[i]`` to ``x[i-1]``. The step
    with the largest ``amplification`` loses most of the noise.

    Args:
        sampler: The table.
        denoise: Callable pytree ``(x, t) -> f`` on one sample, differentiable in both
            modes.
        trajectory: The states x at all noise levels, data first, from
            :func:`jaxinv.sample_trajectory` or ``invert(return_trajectory=True)``.
        num_vectors: Size of the Krylov spaces. Each step costs one linearized forward
            and one reverse pass per vector, and memory for two such sets of states in
            addition to the activations of one reverse pass.
        key: Random key of the start vectors; fixed by default.

    Returns:
        The singular values, each field of shape (N,).

    Raises:
        ValueError: If the trajectory does not have N + 1 finite states of float32 or
            float64, if there is less than one vector, or if the denoiser does not map
            a state's shape to itself.

    Example:
        If the data are always 0, the model predicts x itself, and DDIM scales all
        states by the ratio of the noise levels:

        >>> import jax, jaxinv as ji
        >>> sampler = ji.euler(ji.time_grid(ji.variance_exploding(0.02, 20.0), 10))
        >>> denoise = lambda x, t: x / t
        >>> states = ji.sample_trajectory(sampler, denoise, jax.numpy.ones((4, 4)))
        >>> report = ji.analysis.step_conditioning(sampler, denoise, states)
        >>> round(float(report.smallest[0]), 3), round(float(report.condition[0]), 3)
        (0.501, 1.0)
    """
    trajectory = jnp.asarray(trajectory)
    check_finite(trajectory, "trajectory")
    if trajectory.ndim < 1 or trajectory.shape[0] != sampler.num_rows + 1:
        raise ValueError(
            f"expected the {sampler.num_rows + 1} states of a sampler with "
            f"{sampler.num_rows} rows, got an array of shape {trajectory.shape}"
        )
    key = jax.random.key(0) if key is None else key
    sampler, model = matched(sampler, denoise, trajectory.shape[1:])
    return _steps(sampler, model, trajectory, num_vectors, key)


@checked
def trajectory_conditioning(
    sampler: SamplerTable,
    denoise: Denoiser,
    noise: Float[Array, "*shape"],
    *,
    num_vectors: AtLeastOne = 40,
    key: PRNGKeyArray | None = None,
) -> Conditioning:
    """Compute the extreme singular values of the whole map from noise to data.

    Args:
        sampler: The table.
        denoise: Callable pytree ``(x, t) -> f`` on one sample, differentiable in both
            modes.
        noise: The noise at which the map is linearized, as for :func:`jaxinv.sample`.
        num_vectors: Size of the Krylov space. Each vector costs about six samplings;
            the memory is that of all states and one reverse pass through the model.
        key: Random key of the start vector; fixed by default.

    Returns:
        The singular values, each field of shape (). The smallest is often below the
        resolution of the dtype. The upper bound ``smallest`` then suffices to show that
        the noise is lost.

    Raises:
        ValueError: For a noise or denoiser that :func:`jaxinv.sample` refuses, or less
            than one vector.
    """
    noise = jnp.asarray(noise)
    check_finite(noise, "noise")
    key = jax.random.key(0) if key is None else key
    sampler, model = matched(sampler, denoise, noise.shape)
    return _whole(sampler, model, noise, num_vectors, key)


@jax.jit(static_argnames="num_vectors")
def _steps(
    sampler: SamplerTable,
    denoise: Function,
    trajectory: Array,
    num_vectors: int,
    key: Array,
) -> Conditioning:
    check_denoiser(denoise, trajectory[0])
    table = in_dtype(sampler, trajectory.dtype)

    def one(pair: tuple[Array, Array]) -> Conditioning:
        i, x = pair

        def step(x: Array) -> Array:
            # Terms of older states are constant and have no derivative.
            u = x / table.scale[i]
            o = evaluate(table, denoise, i, u)
            return table.scale[i - 1] * (table.a[i - 1, 0] * u + table.b[i - 1, 0] * o)

        after = norm(trajectory[i - 1])
        start = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
        return of_function(step, x, after, num_vectors, start)

    steps = jnp.arange(1, table.num_rows + 1)
    return jax.lax.map(one, (steps, trajectory[1:]))


@jax.jit(static_argnames="num_vectors")
def _whole(
    sampler: SamplerTable,
    denoise: Function,
    noise: Array,
    num_vectors: int,
    key: Array,
) -> Conditioning:
    # Without the checkpoint the activations of all steps would be stored. It accepts
    # only functions, not every callable.
    recomputed = jax.checkpoint(lambda x, t: denoise(x, t))

    def whole(noise: Array) -> Array:
        return sample(sampler, recomputed, noise)

    start = jax.random.normal(key, noise.shape, noise.dtype)
    return of_function(whole, noise, None, num_vectors, start)


def of_function(
    function: Callable[[Array], Array],
    x: Array,
    size_after: Array | None,
    num_vectors: int,
    start: Array,
) -> Conditioning:
    """Compute the extreme singular values of the Jacobian of a function at x."""
    value, push = jax.linearize(function, x)
    size_after = norm(value) if size_after is None else size_after
    pull = jax.linear_transpose(push, x)
    small, beta = bidiagonalize(push, lambda u: pull(u)[0], start, num_vectors)
    left, sigma, _ = jnp.linalg.svd(small)
    # Half of the squared residual, because the pair (U p, V q) has norm sqrt(2).
    errors = beta * jnp.abs(left[-1]) / 2**0.5
    return Conditioning(
        largest=sigma[0],
        smallest=sigma[-1],
        largest_error=errors[0],
        smallest_error=errors[-1],
        condition=sigma[0] / sigma[-1],
        amplification=size_after / (norm(x) * sigma[-1]),
    )


def bidiagonalize(
    push: Callable[[Array], Array],
    pull: Callable[[Array], Array],
    start: Float[Array, "*shape"],
    num_vectors: int,
) -> tuple[Float[Array, "m m"], Float[Array, ""]]:
    """Bidiagonalize a linear map (Golub-Kahan) with full re-orthogonalization.

    Args:
        push: ``v -> J v``, of any shape.
        pull: ``u -> J^T u``.
        start: The first right vector, of any positive length.
        num_vectors: Size of the spaces, limited to the number of unknowns.

    Returns:
        The upper bidiagonal B, shape (m, m), and the norm of the part of ``J^T u_m``
        outside the space. If the space is invariant before it has m vectors, B is
        padded with a value between its extreme singular values, and the norm is 0.
    """
    m = min(num_vectors, start.size)
    after = jax.eval_shape(push, start)
    left = jnp.zeros((m, *after.shape), start.dtype)
    right = jnp.zeros((m + 1, *start.shape), start.dtype)
    right = right.at[0].set(start / norm(start))

    def extend(
        k: Array, carry: tuple[Array, Array, Array, Array]
    ) -> tuple[Array, Array, Array, Array]:
        left, right, diagonal, above = carry
        u, alpha, _ = orthonormalize(left, push(right[k]))
        v, beta, _ = orthonormalize(right, pull(u))
        return (
            left.at[k].set(u),
            right.at[k + 1].set(v),
            # Without a new right vector there is no column. |J v_1| lies between the
            # extreme singular values, so padding with it changes neither.
            diagonal.at[k].set(jnp.where(jnp.any(right[k] != 0), alpha, diagonal[0])),
            above.at[k].set(beta),
        )

    numbers = jnp.zeros((m,), start.dtype)
    _, _, diagonal, above = jax.lax.fori_loop(
        0, m, extend, (left, right, numbers, numbers)
    )
    return jnp.diag(diagonal) + jnp.diag(above[:-1], 1), above[-1]
