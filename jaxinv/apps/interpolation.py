r"""Interpolation between two samples, through their noises or states.

Noise of n numbers lies near a sphere of radius ``sqrt(n)``. The straight line between
two noises leaves the sphere, for points that a model has never seen. Spherical
interpolation stays on it. With the angle omega between the two noises,

    w_a = sin((1 - t) omega) / sin(omega),      w_b = sin(t omega) / sin(omega).

A bidirectional sampler starts from a state of several arrays of one trajectory. They
are mixed with *the same* weights, those of the outermost array, which is the noise. The
mixture is again close to a trajectory, and equals the given states at t = 0 and t = 1
bit for bit. Sampling then reproduces both ends as exactly as the sampler's round trip.

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
    """Interpolate between two noises, or between two states at the noise end.

    Args:
        first: The noise or state at t = 0.
        second: The noise or state at t = 1.
        t: The position; values outside [0, 1] extrapolate. Use ``jax.vmap`` for several
            positions.

    Returns:
        A noise or state for :func:`jaxinv.sample`, exactly the given ones for t = 0 and
        t = 1.

    Raises:
        ValueError: For states of different samplers, different shapes or dtypes, values
            that are not finite, or states at the data end.

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
            # The integer words are only valid for unchanged values, at both ends.
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
    """Apply the spherical weights of x and x_other to first and second."""
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
    # A straight line for equal directions, and for opposite directions, which have no
    # unique shortest arc.
    parallel = sine < jnp.sqrt(jnp.finfo(first.dtype).eps)
    safe = jnp.where(parallel, 1, sine)
    weight = jnp.where(parallel, 1 - t, jnp.sin((1 - t) * angle) / safe)
    weight_other = jnp.where(parallel, t, jnp.sin(t * angle) / safe)
    mixed = weight * first + weight_other * second
    # Without this, rounding would change the ends.
    return jnp.where(t == 0, first, jnp.where(t == 1, second, mixed))


def _check_states(first: SamplerState, second: SamplerState) -> None:
    for state in (first, second):
        if state.end != "noise":
            raise ValueError(
                "states are interpolated at the noise end, got a state at the "
                f"{state.end} end"
            )
    kinds = [(state.sampler, state.num_steps) for state in (first, second)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"cannot interpolate between states of different samplers: {kinds[0]} and "
            f"{kinds[1]} (name, number of steps)"
        )
