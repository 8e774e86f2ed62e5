r"""How many noises lead to the same data, found from many starts.

Where steps are few, or guidance is strong, the map from noise to data folds: several
noises have one image, and an inverse that converges has found one of them. Here the
equation

    sample(z) = x0

is solved for the noise z itself, from the data and from starts drawn from N(0, I), by
Newton's method with backtracking, which finds a solution near its start if there is
one. A solution is certified by the sampler: the equation's residual is the error of
the reconstruction. Two solutions are different noises if their distance is many times
the solver's error. Their number is a lower bound: there may be preimages that no start
reached.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import AtLeastOne, Positive, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.verification import MARGIN, default_reconstruction_rtol
from jaxinv.norms import norm
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.sample import descend
from jaxinv.sampling.state import unlabeled
from jaxinv.sampling.steps import in_dtype
from jaxinv.solvers import NewtonKrylov

SOLVER = NewtonKrylov(max_iterations=60)


class Preimages(NamedTuple):
    """The noises that were found from ``s`` starts, and how many of them differ.

    Attributes:
        found: Number of different noises among the converged ones.
        noises: The noise that each start led to, (s, ...).
        converged: Whether the sampler turns each into the data, to the tolerance of
            :func:`jaxinv.invert`.
        reconstruction: Relative error of the data sampled from each.
        same_as: For each start the first start that led to the same noise; -1 if it did
            not converge.
        num_evals: Number of evaluations of the denoiser, of all starts together; a
            derivative in one direction counts as two.
    """

    found: Int[Array, ""]
    noises: Float[Array, "s *shape"]
    converged: Bool[Array, " s"]
    reconstruction: Float[Array, " s"]
    same_as: Int[Array, " s"]
    num_evals: Int[Array, ""]


@checked
def preimages(
    sampler: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    key: PRNGKeyArray,
    num_starts: AtLeastOne = 8,
    *,
    distance: Positive = 0.01,
) -> Preimages:
    """Search for all noises that the sampler turns into ``x0``.

    Args:
        sampler: The sampler; not a bidirectional one, whose state is unique.
        denoise: Callable pytree ``(x, t) -> f`` on one sample.
        x0: The data, one sample.
        key: Key of ``jax.random`` for the starts after the first, the data.
        num_starts: Number of starts.
        distance: Two noises differ if their distance is more than this fraction of the
            norm of one of them.

    Returns:
        The noises with their certificates. Which of them is plausible as white noise,
        :func:`jaxinv.noise_plausibility` tells.

    Raises:
        ValueError: If :func:`jaxinv.invert` raises it for the data or the denoiser, or
            for a bidirectional sampler.

    Example:
        One step of a flow that ends at ``z^3 - 3 z`` has up to three noises for one
        number:

        >>> import jax, jax.numpy as jnp, jaxinv as ji
        >>> flow = ji.flow_matching(prediction_type="rectified_flow")
        >>> sampler = ji.sampler_from_diffusers(
        ...     {"_class_name": "FlowMatchEulerDiscreteScheduler"}, 1, sigmas=[1.0])
        >>> denoise = ji.as_denoiser(lambda z, t: z**3 - 4 * z, flow)
        >>> x0 = jnp.array([0.5])
        >>> int(ji.preimages(sampler, denoise, x0, jax.random.key(0), 32).found)
        3

    References:
        Liu et al. 2024, arXiv:2309.06380 (generators of one step).
    """
    if sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} has one state for each data by construction: preimages "
            "are searched for the other samplers"
        )
    x0 = jnp.asarray(x0)
    check_finite(x0, "data x0")
    sampler, model = matched(sampler, denoise, x0.shape)
    keys = jax.random.split(key, num_starts)
    return _search(unlabeled(sampler), model, x0, keys, float(distance))


@jax.jit(static_argnames="distance")
def _search(
    sampler: SamplerTable, denoise: Function, x0: Array, keys: Array, distance: float
) -> Preimages:
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)

    def from_start(start: Array) -> Any:
        return SOLVER(
            lambda z: descend(table, denoise, z, keep=False)[0][0] - x0,
            start,
            slope=jnp.ones((), x0.dtype),
            reference=norm(x0),
        )

    draws = jax.vmap(lambda key: jax.random.normal(key, x0.shape, x0.dtype))(keys)
    found = jax.lax.map(from_start, draws.at[0].set(x0 / table.scale[0]))
    noises, errors = found.value, found.residual
    converged = errors <= MARGIN * default_reconstruction_rtol(x0.dtype)
    same = _first_equal(noises, converged, distance)
    return Preimages(
        jnp.sum(same == jnp.arange(len(keys))),
        noises,
        converged,
        errors,
        same,
        table.num_rows * jnp.sum(found.num_evals),
    )


def _first_equal(noises: Array, converged: Array, distance: float) -> Array:
    """Return for each noise the first one that is the same, -1 where none converged."""
    norms = jax.vmap(norm)(noises)

    def same(i: Array) -> Array:
        apart = jax.vmap(lambda other: norm(noises[i] - other))(noises)
        near = apart <= distance * jnp.minimum(norms[i], norms)
        return jnp.argmax(near & converged)

    first = jax.lax.map(same, jnp.arange(len(noises)))
    return jnp.where(converged, first, -1)
