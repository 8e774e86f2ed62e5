r"""The gradient of an inversion, by the implicit function theorem.

A solver finds a trajectory ``U = (u[1], ..., u[N])`` that satisfies all rows of the
table (:mod:`jaxinv.inversion.row_residuals`). The rows depend on ``p``: the table, the
model's parameters, and the data ``u[0]``. So the trajectory is a function of p,

    R(U(p), p) = 0,    and therefore    (dR/dU) dU/dp + dR/dp = 0,

independent of the solver and its iterations. A loss l of the trajectory, with the
cotangent ``v = dl/dU``, has the gradient

    dl/dp = v^T dU/dp = -w^T dR/dp,    where    (dR/dU)^T w = v.

This linear system, with as many unknowns as the trajectory, replaces a reverse pass
through the iterations. With ``o[i]`` the model's output at level i, and its Jacobian
``J[i] = do[i] / du[i]``, a product with the matrix is

    (dR/dU)^T w  =  L_U^T w  +  J^T (L_O^T w),

where ``L_U`` and ``L_O`` hold the coefficients a and b of the rows: cheap, and the only
coupling between levels. ``J^T`` is one reverse pass through the model at each level.
Levels are processed sequentially, each with its own forward pass, so that memory only
holds the activations of one level for any length of the trajectory. The last step,
``w^T dR/dp``, accumulates the cotangent of the parameters over the levels in the same
way.

GMRES solves the system, preconditioned by the inverse of the same matrix with one
number per level instead of ``J[i]``: N times N numbers, including older states. The
number is measured at the solution, as the quotient ``<z, J z> / <z, z>`` for a vector z
of random signs, whose mean is the mean of the eigenvalues of J (Hutchinson). On a
Gaussian mixture with 20 steps, about 15 products then reach 1e-12, at any order.

Second derivatives raise an error, because the solution U, whose derivative is defined
here, would count as a constant in them.

A gradient that does not exist is NaN, never a plausible number. This is the case if the
trajectory does not satisfy the rows (in particular for naive inversion and Algorithm
2), if the linear system was not solved (it is singular if a step is about to lose the
noise), or if the model's derivative is not finite.

References:
    Krantz & Parks 2013, "The Implicit Function Theorem", Theorem 3.3.1.
    Bai, Kolter & Koltun 2019, "Deep Equilibrium Models", arXiv:1909.01377, Theorem 1.
    Hutchinson 1990, "A Stochastic Estimator of the Trace of the Influence Matrix",
    Commun. Stat. Simul. Comput. 19(2).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.callables import Function, first_order_only
from jaxinv.inversion.row_residuals import residuals, rows_matrix
from jaxinv.inversion.trajectory_secants import clipped
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import evaluate
from jaxinv.solvers.krylov import gmres

#: A gradient is NaN if the residual of any row, relative to its result, or that of the
#: linear system, relative to the cotangent, exceeds this.
LARGEST_RESIDUAL = 1e-2


@dataclasses.dataclass(frozen=True)
class AdjointSolve:
    """Settings of the linear solve of the gradient.

    Attributes:
        rtol: Relative residual at which to stop; None for 1e-6 in float32 and 1e-12
            in float64.
        max_vectors: Number of Krylov vectors, each of the size of a trajectory.
        restarts: Number of restarts of GMRES from the residual.
        levels: Number of levels to differentiate in one batched call: more are faster
            on an accelerator and need proportionally more memory.
    """

    rtol: float | None = None
    max_vectors: int = 30
    restarts: int = 3
    levels: int = 1


def attach_gradient(
    table: SamplerTable,
    denoise: Function,
    start: Float[Array, "*shape"],
    states: Float[Array, "n *shape"],
    settings: AdjointSolve = AdjointSolve(),
) -> Float[Array, "n *shape"]:
    """Make a trajectory that solves the rows a differentiable function of its inputs.

    The value is ``states``, unchanged and without derivative: compute them from inputs
    that were passed through ``jax.lax.stop_gradient``. In reverse mode, every product
    with the matrix of the linear system costs one forward and one reverse pass of the
    model at each of the N levels; there is no forward mode.

    Args:
        table: The table, in the dtype of the states.
        denoise: The denoiser; its arrays of integers have no derivative.
        start: ``u[0]``.
        states: ``u[1] .. u[N]``, a solution of the rows.
        settings: Settings of the linear solve.

    Returns:
        The states. Their cotangents flow to the table, the denoiser's arrays (and other
        values that it closes over) and the start. They are NaN if a row's relative
        residual, or that of the linear system, exceeds :data:`LARGEST_RESIDUAL` or is
        NaN.
    """
    states = jax.lax.stop_gradient(states)
    weights, others, join = denoise.parted()

    def model(
        weights: list[Any],
        others: list[Any],
        table: SamplerTable,
        i: Array,
        y: Array,
    ) -> Array:
        return evaluate(table, join(weights, others), i, y)

    # A denoiser may close over differentiated values.
    level = jnp.ones((), jnp.int32)
    model, hidden = jax.closure_convert(model, weights, others, table, level, start)

    @jax.custom_vjp
    def attach(inputs: Any, others: list[Any], states: Array) -> Array:
        del inputs, others
        return states

    def forward(inputs: Any, others: list[Any], states: Array) -> tuple[Array, Any]:
        return states, (inputs, others, states)

    def backward(saved: Any, cotangent: Array) -> tuple[Any, None, None]:
        (inputs, others, states), cotangent = first_order_only(
            (saved, cotangent), "jaxinv.invert"
        )

        def of_level(inputs: Any, i: Array, y: Array) -> Array:
            table, weights, hidden, _ = inputs
            return model(weights, others, table, i, y, *hidden)

        return _pull_back(of_level, inputs, states, cotangent, settings), None, None

    attach.defvjp(forward, backward)
    return attach((table, weights, hidden, start), others, states)


def _pull_back(
    of_level: Callable[[Any, Array, Array], Array],
    inputs: Any,
    states: Array,
    cotangent: Array,
    settings: AdjointSolve,
) -> Any:
    """Return the cotangent of table, arrays, closed-over values and start."""
    table, _, _, start = inputs
    steps = jnp.arange(1, states.shape[0] + 1, dtype=jnp.int32)

    def through_model(vectors: Array) -> tuple[Array, Array]:
        """Return the model's outputs and the products of its Jacobians."""

        def at(level: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            i, y, vector = level
            f, pull = jax.vjp(lambda y: of_level(inputs, i, y), y)
            return f, pull(vector)[0]

        batch = settings.levels if settings.levels > 1 else None
        return jax.lax.map(at, (steps, states, vectors), batch_size=batch)

    signs = jax.random.rademacher(jax.random.key(0), start.shape, start.dtype)
    signs = jnp.broadcast_to(signs, states.shape)
    outputs, products = through_model(signs)
    slopes = jnp.mean(signs * products, axis=tuple(range(1, states.ndim)))

    _, through_rows, errors = jax.vjp(
        residuals, table, start, states, outputs, has_aux=True
    )
    precondition = _preconditioner(table, slopes)

    def matvec(w: Array) -> Array:
        _, _, of_states, of_outputs = through_rows(precondition(w))
        return of_states + through_model(of_outputs)[1]

    rtol = settings.rtol
    if rtol is None:
        rtol = 1e-12 if jnp.finfo(states.dtype).bits == 64 else 1e-6
    solution = gmres(
        matvec,
        cotangent,
        rtol=rtol,
        max_vectors=settings.max_vectors,
        restarts=settings.restarts,
    )
    u = precondition(solution.value)
    of_table, of_start, _, of_outputs = through_rows(-u)
    of_inputs = _add_up(of_level, inputs, steps, states, of_outputs)
    direct = jax.tree.map(jnp.zeros_like, inputs[1:3])
    total = jax.tree.map(jnp.add, of_inputs, (of_table, *direct, of_start))
    found = (jnp.max(errors) <= LARGEST_RESIDUAL) & (
        solution.residual <= LARGEST_RESIDUAL
    )
    return jax.tree.map(lambda g: jnp.where(found, g, jnp.nan), total)


def _preconditioner(table: SamplerTable, slopes: Array) -> Callable[[Array], Array]:
    """Return the inverse of the transposed matrix, with one number per level for J.

    The bounds admit Jacobians dD/dy of the data prediction from 0.1 to 1.5 and keep the
    diagonal away from zero.
    """
    # Without noise the state is the data, and its slope has no bound to go by.
    noisy = jnp.asarray(table.ode.noise)[1:] > 0
    slopes = jnp.where(noisy, clipped(table, slopes, 0.1, 1.5), 0)
    inverse = jnp.linalg.inv(rows_matrix(table, slopes).T)

    def apply(w: Array) -> Array:
        # In full precision, because GMRES requires a linear map.
        product = jnp.matmul(inverse, w.reshape(len(slopes), -1), precision="highest")
        return product.reshape(w.shape)

    return apply


def _add_up(
    of_level: Callable[[Any, Array, Array], Array],
    inputs: Any,
    steps: Array,
    states: Array,
    cotangents: Array,
) -> Any:
    """Return the sum over levels of the cotangents of the model's inputs.

    Levels are processed sequentially, because a copy of the parameters' cotangent per
    level would not fit. The sum has at least 32 bits.
    """

    def add(total: Any, level: tuple[Array, Array, Array]) -> tuple[Any, None]:
        i, y, cotangent = level
        _, pull = jax.vjp(lambda inputs: of_level(inputs, i, y), inputs)
        return jax.tree.map(jnp.add, total, pull(cotangent)[0]), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(
            np.shape(x), jnp.promote_types(jnp.result_type(x), jnp.float32)
        ),
        inputs,
    )
    total, _ = jax.lax.scan(add, zeros, (steps, states, cotangents))
    return jax.tree.map(lambda g, x: g.astype(jnp.result_type(x)), total, inputs)
