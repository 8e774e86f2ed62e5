"""Errors in place of derivatives that do not exist, which would otherwise be zero."""

from typing import Any

import jax
from jaxtyping import PyTree


def first_order_only(tree: PyTree, what: str) -> PyTree:
    """Return a pytree of arrays whose derivative is an error.

    Apply it to the inputs of a gradient to make second derivatives an error. Otherwise,
    the constant parts of a gradient, such as the solution of an implicit equation,
    would contribute zeros to them.

    Args:
        tree: The inputs of a backward pass.
        what: Name of the function with a first derivative only, for the error.

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
