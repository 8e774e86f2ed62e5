r"""Invertibility of a decoder, with and without gradients.

**Cocoercivity.** The forward step method ``z <- z - rho (T(z) - T(z*))`` with ``T =
E(D(.))`` approaches the latent z* in every step if

    <T(z) - T(z*), z - z*>  >=  beta |T(z) - T(z*)|^2    and    0 < rho < 2 beta,

since then ``|z' - z*|^2 <= |z - z*|^2 - rho (2 beta - rho) |T(z) - T(z*)|^2``. The
condition is only needed along the iteration. The largest beta that satisfies it at an
iterate is the quotient of the two sides; if it is negative, the step leads away from
z*.

**Conditioning.** No method can distinguish two latents that decode to the same image.
The singular values of the decoder's Jacobian show how close a decoder comes to that: 8
bits leave an error of 0.0011 in every pixel, and a direction with the singular value s
is determined to about ``0.0011 / s``.

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
from jaxinv.callables import Function, check_finite
from jaxinv.checks import AtLeastOne, checked
from jaxinv.decoder_inversion.gradient_free import ForwardStep, InertialKM
from jaxinv.decoder_inversion.invert import as_pixels, check_networks
from jaxinv.decoder_inversion.problem import Limits, Problem
from jaxinv.norms import at_least_tiny, norm
from jaxinv.solvers.iteration import dot


class Cocoercivity(NamedTuple):
    """Cocoercivity of ``E(D(.))`` along an iteration of n iterates.

    Attributes:
        beta: The quotient at every iterate, shape (n,); infinite if T(z) = T(z*).
        smallest: The smallest quotient, shape ().
        largest_step: ``2 smallest``, shape (). Smaller step sizes provably converge
            along this iteration; none does if this is not positive.
        satisfied: Whether the step size of the iteration is smaller, shape ().
        errors: ``|z - z*| / |z*|`` of every iterate, shape (n,).
        differences: ``|E(D(z)) - E(x)| / |E(x)|`` of every iterate, shape (n,).
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
    """Measure the cocoercivity of ``E(D(.))`` along a gradient-free inversion.

    Args:
        encode: See :func:`jaxinv.invert_decoder`.
        decode: See :func:`jaxinv.invert_decoder`.
        image: The image.
        solution: The latent z* that the iteration should find: the original latent of
            the image, or the best known approximation.
        method: The complete iteration; by default the forward step method.
        limits: See :func:`jaxinv.invert_decoder`.

    Returns:
        The quotient of each iteration, and the resulting limit on the step size. Apply
        ``jax.vmap`` over samples to find those that are not ``satisfied``.

    Raises:
        ValueError: If :func:`jaxinv.invert_decoder` raises it; for a solution that is
            not finite or has another shape than the encoder's latents.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 1.
    """
    method = ForwardStep() if method is None else method
    if not isinstance(method, ForwardStep | InertialKM):
        raise ValueError(
            "cocoercivity is defined for the forward step method and the inertial KM "
            f"iteration, got {type(method).__name__}"
        )
    pixels = as_pixels(image, limits)
    solution = jnp.asarray(solution)
    check_finite(solution, "solution")
    networks = Function.of(encode), Function.of(decode)
    return _along(pixels, solution, networks, method, limits)


@jax.jit(static_argnames=("method", "limits"))
def _along(
    image: Array,
    solution: Array,
    networks: tuple[Function, Function],
    method: ForwardStep | InertialKM,
    limits: Limits,
) -> Cocoercivity:
    encode, decode = networks
    latent, _ = check_networks(encode, decode, image)
    if latent.shape != solution.shape:
        raise ValueError(
            f"the encoder's latent has shape {latent.shape}, but the solution has "
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
        # Unit vectors keep both inner products within the range of float32.
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
    """Compute the extreme singular values of a decoder's Jacobian at a latent.

    Args:
        decode: Callable pytree, one latent to one image, differentiable in both modes,
            without clipping.
        latent: The latent.
        num_vectors: Size of the Krylov space. Each vector costs one linearized forward
            and one reverse pass.
        key: Random key of the start vector; fixed by default.

    Returns:
        The singular values, each field of shape ().

    Raises:
        ValueError: For a latent that is not finite.
    """
    latent = jnp.asarray(latent)
    check_finite(latent, "latent")
    key = jax.random.key(0) if key is None else key
    return _conditioned(Function.of(decode), latent, num_vectors, key)


@jax.jit(static_argnames="num_vectors")
def _conditioned(
    decode: Function, latent: Array, num_vectors: int, key: Array
) -> Conditioning:
    start = jax.random.normal(key, latent.shape, latent.dtype)

    def function(z: Array) -> Array:
        return decode(z).astype(z.dtype)

    return of_function(function, latent, None, num_vectors, start)
