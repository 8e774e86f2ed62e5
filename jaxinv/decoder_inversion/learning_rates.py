r"""The learning rates of the published decoder inversions.

Both warm up over ``w = n // 10`` of n iterations, counted from ``i = 0``, and follow

    rate(i) = peak (1 + cos(pi (i - w) / (n - w))) / 2,    i >= w.

They differ in the warm-up and the end. Both follow the papers' code:

======================  ===================  =========================================
method                  warm-up, i < w       end
======================  ===================  =========================================
gradient                ``peak i / w``       the cosine's, zero at ``i = n``
gradient-free Adam      ``peak (i+1) / w``   held from the last i below ``0.8 n`` on
======================  ===================  =========================================

The published gradient method therefore does not move in its first iteration if there is
a warm-up (as in ``transformers.get_cosine_schedule_with_warmup``). The gradient-free
method computes its rate with ``min(n, 100)`` instead of n.

References:
    Hong et al. 2024, arXiv:2311.18387 (gradient) and arXiv:2409.18442 (gradient-free),
    the repositories of both papers.
"""

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array


def held_cosine(peak: float, iterations: int) -> optax.Schedule:
    """Return the rate of gradient-free Adam: a warm-up, a cosine, then a constant.

    Args:
        peak: The largest learning rate.
        iterations: n; more than 100 only extend the end.

    Returns:
        The learning rate as a function of the iteration, counted from 0.
    """
    length = min(iterations, 100)
    warm_up = length // 10
    # The last iteration below 0.8 n, in integers.
    held = (4 * length - 1) // 5

    def rate(i: ArrayLike) -> Array:
        at = jnp.minimum(_real(i), held)
        rising = (at + 1) / max(warm_up, 1)
        falling = _cosine(at, warm_up, length)
        return peak * jnp.where(at < warm_up, rising, falling)

    return rate


def warm_cosine(peak: float, iterations: int) -> optax.Schedule:
    """Return the rate of the gradient method: warm-up from zero, cosine to zero.

    Args:
        peak: The largest learning rate.
        iterations: n.

    Returns:
        The learning rate as a function of the iteration, counted from 0.
    """
    warm_up = iterations // 10

    def rate(i: ArrayLike) -> Array:
        at = _real(i)
        rising = at / max(warm_up, 1)
        falling = _cosine(at, warm_up, iterations)
        return peak * jnp.where(at < warm_up, rising, falling)

    return rate


def _cosine(at: Array, warm_up: int, iterations: int) -> Array:
    return (1 + jnp.cos(jnp.pi * (at - warm_up) / max(iterations - warm_up, 1))) / 2


def _real(i: ArrayLike) -> Array:
    # Cast before dividing: int32 divides in float32, also in double precision.
    return jnp.asarray(i).astype(jnp.result_type(float))
