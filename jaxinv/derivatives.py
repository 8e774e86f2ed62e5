"""Derivatives that there are none of are errors, never zeros."""

from typing import Any

import jax
from jaxtyping import PyTree


def first_order_only(tree: PyTree, what: str) -> PyTree:
    """Return a pytree of arrays whose derivative is an error.

    Passing what a gradient is computed from through this function makes a second
    derivative an error. Without, the parts of a gradient that are held constant, such
    as the solution of an implicit equation, would contribute zeros to it.

    Args:
        tree: what a backward pass computes with.
        what: which derivative there is only one of, for the error.

    Returns:
        The same values. Differentiating them raises ValueError while tracing.
    """

    @jax.custom_jvp
    def same(tree: PyTree) -> PyTree:
        return tree

    @same.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise ValueError(
            f"{what} can be differentiated once, in reverse mode: jax.hessian, or a "
            "jax.grad of a jax.grad, through it is not supported (its implicit "
            "solution would count as a constant). For curvature along a direction, "
            "take differences of two gradients"
        )

    return same(tree)
