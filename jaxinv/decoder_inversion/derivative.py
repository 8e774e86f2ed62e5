r"""Derivatives of a decoder inversion, by the implicit function theorem.

Gauss-Newton's result is a minimum of the misfit. With p for the image and the
decoder's parameters, the latent z solves

    F(z, p) = d/dz |D(z) - x|^2 / 2 = 0,

independent of the iterations, and is therefore a function of p with

    (dF/dz) dz/dp + dF/dp = 0.

GMRES solves this linear system from products with the Hessian dF/dz, instead of
differentiating the iterations. ``jax.lax.custom_root`` turns that into a derivative of
any order, in both modes.

This is the derivative of the minimum. At any other iterate, the formula would give
plausible but wrong numbers. Newton's correction ``(dF/dz)^{-1} F``, an estimate of the
error of z, is therefore also computed, and all derivatives are NaN if it exceeds
:data:`LARGEST_CORRECTION`, relative to z, or if the linear system was not solved (it is
singular if the image does not determine the latent). More iterations without patience,
``GaussNewton(iterations=50, patience=None)``, approach the minimum further.

Only the latent of the result has a derivative. Derivatives of the certificate, which
depends on the iterations, are NaN.

Differentiating other methods is an error. Both versions of Adam run for a number of
iterations, after which no equation holds. The other methods without gradients iterate
toward ``E(D(z)) = E(x)``, but return the iterate of least misfit, which differs from
the solution for images that are not decodable: on a small autoencoder, the implicit
derivative of that equation has an error of 6 to 11 % (measured), and Gauss-Newton's
derivative an error of 1e-7.

References:
    Krantz & Parks 2013, "The Implicit Function Theorem", Theorem 3.3.1.
    Blondel et al. 2022, "Efficient and Modular Implicit Differentiation",
    arXiv:2105.15183.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, linear_call
from jaxtyping import Array, Float

from jaxinv.decoder_inversion.loop import DecoderInversion
from jaxinv.norms import relative
from jaxinv.solvers.krylov import gmres

#: Derivatives are NaN if the latent is further than this from the solution, relative to
#: itself, or if the linear system has a larger relative residual.
LARGEST_CORRECTION = 1e-3

#: Largest number of Krylov vectors, each of the size of the latent, which is small
#: compared with the decoder's activations. On the first version of emoji64
#: (1,024 unknowns), 120 vectors reach a residual of 7e-3, and GMRES with restarts every
#: 30 stalls at 0.1.
VECTORS = 300

Equation = Callable[[Any, Array], Array]


def attach_derivative(
    equation: Equation, inputs: Any, found: DecoderInversion
) -> DecoderInversion:
    """Make the latent that solves an equation a differentiable function of its inputs.

    Args:
        equation: F, a function of the inputs and the latent with symmetric Jacobian.
        inputs: p, a pytree of arrays.
        found: The result for inputs that were passed through
            ``jax.lax.stop_gradient``.

    Returns:
        The same values.
    """
    latent = jax.lax.stop_gradient(found.latent)
    fixed = jax.lax.stop_gradient(inputs)
    rtol = 1e-12 if jnp.finfo(latent.dtype).bits == 64 else 1e-4

    def tangent_solve(push: Callable[[Array], Array], y: Array) -> Array:
        def solve(hessian: Callable[[Array], Array], b: Array) -> Array:
            newton = equation(fixed, latent)
            off = gmres(hessian, newton, rtol=1e-2, max_vectors=VECTORS).value
            x = gmres(hessian, b, rtol=rtol, max_vectors=VECTORS).value
            # Measure the residual: for a singular matrix, that of GMRES is wrong.
            trusted = (
                (relative(off, latent) <= LARGEST_CORRECTION)
                & (relative(hessian(off) - newton, newton) <= 0.1)
                & (relative(hessian(x) - b, b) <= LARGEST_CORRECTION)
            )
            return jnp.where(trusted, x, jnp.nan)

        return jax.lax.custom_linear_solve(push, y, solve, symmetric=True)

    root = jax.lax.custom_root(
        lambda z: equation(inputs, z),
        latent,
        lambda _, guess: guess,
        tangent_solve,
    )
    poisoned = {
        name: _without_derivative(value, _inexact(inputs))
        for name, value in found._asdict().items()
        if jnp.issubdtype(value.dtype, jnp.inexact)
    }
    return found._replace(**{**poisoned, "latent": root})


def refuse_derivative(
    why: str, inputs: Any, found: DecoderInversion
) -> DecoderInversion:
    """Make differentiating a result an error.

    Args:
        why: The message of the error.
        inputs: The inputs of the result, a pytree of arrays.
        found: The result for inputs passed through ``jax.lax.stop_gradient``.

    Returns:
        The same values.
    """

    @jax.custom_jvp
    def same(found: DecoderInversion, inputs: list[Array]) -> DecoderInversion:
        del inputs
        return found

    @same.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise ValueError(why)

    return same(found, _inexact(inputs))


def _inexact(tree: Any) -> list[Array]:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]


@jax.custom_jvp
def _without_derivative(
    value: Float[Array, "..."], inputs: list[Array]
) -> Float[Array, "..."]:
    """Return a value whose derivatives with respect to the inputs are NaN."""
    del inputs
    return value


def _spoil(primals: Any, tangents: Any) -> Any:
    value, _ = primals
    asked = [
        tangent
        for tangent in jax.tree.leaves(tangents)
        if not isinstance(tangent, SymbolicZero)
    ]

    def spoilt(like: Array, by: list[Array]) -> Array:
        wanted = jnp.any(jnp.array([jnp.any(x != 0) for x in by]))
        return jnp.full(like.shape, jnp.where(wanted, jnp.nan, 0), like.dtype)

    def forward(_: Any, tangents: list[Array]) -> Array:
        return spoilt(value, tangents)

    def backward(_: Any, cotangent: Array) -> list[Array]:
        return [spoilt(x, [cotangent]) for x in asked]

    return value, linear_call(forward, backward, (), asked)


_without_derivative.defjvp(_spoil, symbolic_zeros=True)
