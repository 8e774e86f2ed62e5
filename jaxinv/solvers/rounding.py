r"""The rounding of a function, measured where a solver stagnates.

No iterate solves ``R(z) = 0`` more exactly than R is rounded. In float32 this is far
below every tolerance. A network that computes in 16 bits is a step function of its
input: two states that differ by less than its resolution give the same output, and
others outputs that differ by rounding, about 1e-3 of their size. The second difference

    R(z + d) + R(z - d) - 2 R(z)

vanishes for a linear function, and is of second order in d for a smooth one, however
steep it is. Three independent roundings of size r make it ``sqrt(6) r``. So two more
evaluations, close to the best iterate, measure r. An iterate whose residual is at most
:data:`ROUNDINGS` of it is solved as exactly as the function allows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.norms import norm

#: A residual of at most this number of roundings cannot be improved: Anderson mixing
#: combines several residuals, each with its own rounding.
ROUNDINGS = 4.0

#: Iterations without a better iterate after which rounding is measured.
PATIENCE = 3

# Distance of the evaluations relative to the state, in residuals: far enough for other
# roundings, and close enough for a second difference of smooth functions that is small
# beside the residual. At most the resolution of bfloat16, the coarsest type that
# networks compute in.
_DISTANCE, _FARTHEST = 4.0, 2.0**-9


def beside(
    z: Float[Array, "*shape"], error: Float[Array, ""], sign: Float[Array, ""] | float
) -> Float[Array, "*shape"]:
    """Return a state close to z, on one of two opposite sides.

    Args:
        z: The state.
        error: The relative residual at z.
        sign: 1 or -1, the side.
    """
    signs = jax.random.rademacher(jax.random.key(1), z.shape, z.dtype)
    distance = jnp.minimum(_DISTANCE * error, _FARTHEST)
    return z * (1 + sign * distance * signs)


def rounding_of(
    at: Float[Array, "*shape"],
    plus: Float[Array, "*shape"],
    minus: Float[Array, "*shape"],
    axis: tuple[int, ...] | None = None,
) -> Float[Array, "..."]:
    """Return the size of a function's rounding, from its values at three states.

    Args:
        at: The value at z.
        plus: The value on one side of z (:func:`beside`).
        minus: The value on the other side.
        axis: The axes of one value; None for all.

    Returns:
        The norm of one rounding.
    """
    return norm((plus - at) + (minus - at), axis) / 6**0.5
