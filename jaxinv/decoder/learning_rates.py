"""The learning rates of the published decoder inversions."""

import jax.numpy as jnp
import optax


def held_cosine(peak: float, iterations: int) -> optax.Schedule:
    """Warm-up, cosine, and the same rate from four fifths on.

    Args:
        peak: the largest learning rate.
        iterations: how many there will be; more than 100 change nothing but the end.

    Returns:
        The learning rate as a function of the iteration.

    References:
        Hong et al. 2024, arXiv:2409.18442, settings of the experiments.
    """
    length = min(iterations, 100)
    curve = warm_cosine(peak, length)
    return lambda k: curve(jnp.minimum(k, int(0.8 * length)))


def warm_cosine(peak: float, iterations: int) -> optax.Schedule:
    """A tenth of the iterations of linear warm-up, then a cosine down to zero."""
    warm_up = iterations // 10
    if not warm_up:
        return optax.cosine_decay_schedule(peak, max(iterations, 1))
    return optax.warmup_cosine_decay_schedule(0.0, peak, warm_up, iterations)
