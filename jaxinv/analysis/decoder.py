r"""Whether a decoder can be inverted without gradients, and whether it can be at all.

**Cocoercivity.** The forward step method ``z <- z - rho (T(z) - T(z*))`` with ``T =
E(D(.))`` comes closer to the latent z* with every step as long as

    <T(z) - T(z*), z - z*>  >=  beta |T(z) - T(z*)|^2    and    0 < rho < 2 beta,

since then ``|z' - z*|^2 <= |z - z*|^2 - rho (2 beta - rho) |T(z) - T(z*)|^2``. It need
hold along the iteration only. The largest beta for which it holds at an iterate is the
quotient of the two sides; where it is negative, the step leads away from z*.

**Conditioning.** Two latents whose decodings are the same image cannot be told apart
from it by any method. The singular values of the decoder's Jacobian say how nearly that
is the case: 8 bits leave an error of 0.0011 in every pixel, and a direction with the
singular value s is known to about ``0.0011 / s``.

References:
    Hong et al. 2024, "Gradient-free Decoder Inversion in Latent Diffusion Models",
    arXiv:2409.18442, Theorem 1 and Figure 4.
    Golub & Kahan 1965 (:mod:`jaxinv.analysis.conditioning`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxinv.analysis.conditioning import Conditioning, of_function
from jaxinv.callables import check_finite, split_callable
from jaxinv.checks import AtLeastOne, checked
from jaxinv.decoder_inversion.gradient_free import ForwardStep, InertialKM
from jaxinv.decoder_inversion.invert import as_pixels, check_networks
from jaxinv.decoder_inversion.problem import Limits, Problem
from jaxinv.norms import at_least_tiny, norm
from jaxinv.solvers.iteration import dot


class Cocoercivity(NamedTuple):
    """How cocoercive ``E(D(.))`` was along an iteration.

    Attributes:
        beta: shape (n,). The quotient at every iterate; infinite where T(z) = T(z*).
        smallest: shape (). The least of them.
        largest_step: shape (). ``2 smallest``: step sizes below it are proved to
            converge along this iteration; none if it is not positive.
        satisfied: shape (). Whether the step size that was taken is below it.
        errors: shape (n,). ``|z - z*| / |z*|`` of every iterate.
        differences: shape (n,). ``|E(D(z)) - E(x)| / |E(x)|`` of every iterate.
    """

    beta: Float[Array, "n"]
    smallest: Float[Array, ""]
    largest_step: Float[Array, ""]
    satisfied: Bool[Array, ""]
    errors: Float[Array, "n"]
    differences: Float[Array, "n"]


@checked
def cocoercivity(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    image: ArrayLike,
    solution: Float[Array, "*latent"],
    method: ForwardStep | InertialKM | None = None,
    *,
    limits: Limits = (0.0, 1.0),
) -> Cocoercivity:
    """Cocoercivity of ``E(D(.))`` along a gradient-free inversion.

    Args:
        encode: as for :func:`jaxinv.invert_decoder`.
        decode: likewise.
        image: the image.
        solution: the latent z* that the iteration should find: the one that the image
            was made from, or the best that is known.
        method: the iteration, all of it; by default the forward step method.
        limits: as for :func:`jaxinv.invert_decoder`.

    Returns:
        The quotients, one for each iteration, and what follows for the step size.
        ``jax.vmap`` it over samples and look at ``satisfied`` to see who violates it.

    Raises:
        ValueError: as :func:`jaxinv.invert_decoder`; for a solution that is not finite
            or of another shape than the encoder's latents.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 1.
    """
    method = ForwardStep() if method is None else method
    if not isinstance(method, ForwardStep | InertialKM):
        raise ValueError(
            "cocoercivity is about the forward step method and the inertial KM "
            f"iteration, got {type(method).__name__}"
        )
    pixels = as_pixels(image, limits)
    solution = jnp.asarray(solution)
    check_finite(solution, "solution")
    parts = split_callable(encode), split_callable(decode)
    arrays, rebuilds = zip(*parts, strict=True)
    return _along(pixels, solution, arrays, rebuilds, method, limits)


@jax.jit(static_argnames=("rebuilds", "method", "limits"))
def _along(
    image: Array,
    solution: Array,
    arrays: tuple[list[Any], ...],
    rebuilds: tuple[Any, ...],
    method: ForwardStep | InertialKM,
    limits: Limits,
) -> Cocoercivity:
    encode, decode = (r(a) for r, a in zip(rebuilds, arrays, strict=True))
    latent, _ = check_networks(encode, decode, image)
    if latent.shape != solution.shape:
        raise ValueError(
            f"the encoder's latent has shape {latent.shape}, the solution "
            f"{solution.shape}"
        )
    first = encode(image).astype(image.dtype)
    problem = Problem(encode, decode, image, first, limits, False)

    def difference(z: Array) -> Array:
        return problem.difference(problem.decoded(z))

    def step(carry: Any, k: Array) -> tuple[Any, Array]:
        z, memory = carry
        _, after, memory = method.step(problem, k, z, memory)
        return (after, memory), z

    start = first, method.begin(problem, first)
    _, iterates = jax.lax.scan(step, start, jnp.arange(method.iterations))
    found = jax.lax.map(difference, iterates)
    target = difference(solution)

    def quotient(z: Array, r: Array) -> Array:
        moved, error = r - target, z - solution
        # Of unit vectors: neither inner product leaves float32's range.
        long, far = norm(moved), norm(error)
        cosine = dot(moved / at_least_tiny(long), error / at_least_tiny(far))
        return cosine * far / long

    beta = jax.vmap(quotient)(iterates, found)
    beta = jnp.where(jnp.isnan(beta), jnp.inf, beta)
    smallest = jnp.min(beta)
    return Cocoercivity(
        beta=beta,
        smallest=smallest,
        largest_step=2 * smallest,
        satisfied=method.step_size < 2 * smallest,
        errors=jax.vmap(norm)(iterates - solution) / norm(solution),
        differences=jax.vmap(norm)(found) / norm(first),
    )


@checked
def decoder_conditioning(
    decode: Callable[[Array], Array],
    latent: Float[Array, "*latent"],
    *,
    num_vectors: AtLeastOne = 40,
    key: PRNGKeyArray | None = None,
) -> Conditioning:
    """Extreme singular values of a decoder's Jacobian at a latent.

    Args:
        decode: callable pytree, one latent to one image, differentiable in both modes,
            without clipping.
        latent: where to look.
        num_vectors: size of the Krylov space; each costs one linearised pass forwards
            and one backwards.
        key: for the start vector; by default a fixed one.

    Returns:
        The singular values, each field of shape ().

    Raises:
        ValueError: for a latent that is not finite.
    """
    latent = jnp.asarray(latent)
    check_finite(latent, "latent")
    arrays, rebuild = split_callable(decode)
    key = jax.random.key(0) if key is None else key
    return _conditioned(arrays, rebuild, latent, num_vectors, key)


@jax.jit(static_argnames=("rebuild", "num_vectors"))
def _conditioned(
    arrays: list[Any], rebuild: Any, latent: Array, num_vectors: int, key: Array
) -> Conditioning:
    start = jax.random.normal(key, latent.shape, latent.dtype)
    decode = rebuild(arrays)

    def function(z: Array) -> Array:
        return decode(z).astype(z.dtype)

    return of_function(function, latent, None, num_vectors, start)
