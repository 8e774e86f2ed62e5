r"""Interpolation between two samples, on the states that made them.

Noise of n numbers lies near a sphere of radius ``sqrt(n)``: the straight line between
two draws leaves it, and a model has never seen what lies there. Spherical interpolation
stays on it. With the angle omega between the two,

    w_a = sin((1 - t) omega) / sin(omega),      w_b = sin(t omega) / sin(omega).

A bidirectional sampler starts from a state of several arrays that belong together, one
trajectory after all. They are mixed with *the same* weights, those of the outermost
array, which is the noise: so the mixture is again close to a trajectory, and at t = 0
and t = 1 it is the state of either end, bit for bit. Sampling it gives both ends back
as exactly as the sampler's round trip does.

References:
    Shoemake 1985, "Animating Rotation with Quaternion Curves", SIGGRAPH (slerp).
    Wang et al. 2024, "BELM", arXiv:2410.07273 (interpolation of states).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import check_finite
from jaxinv.checks import checked
from jaxinv.sampling.state import SamplerState


@checked
def interpolate(
    first: Float[Array, "*shape"] | SamplerState,
    second: Float[Array, "*shape"] | SamplerState,
    t: float | Float[Array, ""],
) -> Float[Array, "*shape"] | SamplerState:
    """A point between two noises, or between two states at the noise end.

    Args:
        first: the noise or state at t = 0.
        second: the noise or state at t = 1.
        t: where between them; beyond 0 and 1 it extrapolates. Use ``jax.vmap`` for
            more than one.

    Returns:
        What :func:`jaxinv.sample` turns into a sample between theirs; at t = 0 and 1
        exactly what was given.

    Raises:
        ValueError: for two that do not belong to one sampler, have different shapes or
            dtypes, are not finite, or are states at the data end.

    Example:
        >>> import jax, jaxinv as ji
        >>> a, b = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
        >>> between = ji.interpolate(a, b, 0.5)
        >>> bool((ji.interpolate(a, b, 1.0) == b).all()), between.shape
        (True, (4, 4, 3))
    """
    if isinstance(first, SamplerState) and isinstance(second, SamplerState):
        _check_states(first, second)
        values = _mix(first.values, second.values, first.x, second.x, t)
        words, arithmetic = None, "float"
        if first.arithmetic == second.arithmetic and first.words is not None:
            # Words are kept where the values are still theirs: at both ends.
            assert second.words is not None
            arithmetic = first.arithmetic
            words = (
                jnp.where(t == 1, second.words[0], first.words[0]),
                jnp.where(t == 1, second.words[1], first.words[1]),
            )
        return dataclasses.replace(
            first, values=values, words=words, arithmetic=arithmetic
        )
    if isinstance(first, SamplerState) or isinstance(second, SamplerState):
        raise ValueError("cannot interpolate between a state and an array")
    first, second = jnp.asarray(first), jnp.asarray(second)
    return _mix(first, second, first, second, t)


def _mix(
    first: Array, second: Array, x: Array, x_other: Array, t: float | Array
) -> Array:
    """Spherical weights of x and x_other, applied to first and second."""
    if first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            f"cannot interpolate between shape {first.shape}, {first.dtype} and shape "
            f"{second.shape}, {second.dtype}"
        )
    check_finite(first, "first end")
    check_finite(second, "second end")
    t = jnp.asarray(t, first.dtype)
    cosine = jnp.sum(x * x_other)
    cosine /= jnp.sqrt(jnp.sum(x * x) * jnp.sum(x_other * x_other))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    sine = jnp.sin(angle)
    # Two that point the same way (or opposite ways, where no way between them is
    # shorter than another): a straight line.
    parallel = sine < jnp.sqrt(jnp.finfo(first.dtype).eps)
    safe = jnp.where(parallel, 1, sine)
    weight = jnp.where(parallel, 1 - t, jnp.sin((1 - t) * angle) / safe)
    weight_other = jnp.where(parallel, t, jnp.sin(t * angle) / safe)
    mixed = weight * first + weight_other * second
    # Rounding would leave the ends a little off.
    return jnp.where(t == 0, first, jnp.where(t == 1, second, mixed))


def _check_states(first: SamplerState, second: SamplerState) -> None:
    for state in (first, second):
        if state.end != "noise":
            raise ValueError(
                "states are interpolated at the noise end; this one is at the "
                f"{state.end} end"
            )
    kinds = [(state.sampler, state.num_steps) for state in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"cannot interpolate between states of different samplers: {kinds[0]} and "
            f"{kinds[1]} (name, number of steps)"
        )
