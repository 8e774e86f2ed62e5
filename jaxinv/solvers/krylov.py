r"""GMRES: solve a linear system ``A x = b`` from products ``A v``.

The Krylov space ``span{b, A b, A^2 b, ...}`` has an orthonormal basis V, which costs
one product per vector. In it A is a Hessenberg matrix H, ``A V_k = V_{k+1} H``, and

    x = V_k y,    y = argmin | |b| e_1 - H y |,    |b - A x| = the minimum:

the best x of the space, and its residual without a further product. A rotation per
column keeps H triangular, so that the residual is known after every product, and the
loop stops when it is small enough. In exact arithmetic the number of products is at
most the dimension of b, and much smaller if the eigenvalues of A cluster.

Each product is orthogonalized against all of V at once, twice. Two passes of classical
Gram-Schmidt are orthogonal up to rounding, like two of the modified variant, and are
two matrix-vector products instead of a long chain of small steps. One pass does not
suffice in float32. For the same reason the rotations are stored as one small orthogonal
matrix.

``jax.scipy.sparse.linalg.gmres`` does not report the residual, the number of products,
and stagnation, which a certificate needs.

References:
    Saad & Schultz 1986, "GMRES: A Generalized Minimal Residual Algorithm for Solving
    Nonsymmetric Linear Systems", SIAM J. Sci. Stat. Comput. 7(3), Section 3.
    Giraud, Langou & Rozloznik 2005, "The Loss of Orthogonality in the Gram-Schmidt
    Orthogonalization Process", Comput. Math. Appl. 50 (two passes are enough).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxinv.norms import tree_norm

MatVec = Callable[[Any], Any]


class LinearSolution(NamedTuple):
    """The approximate solution of a linear system.

    Attributes:
        value: x, of the structure of b; always finite.
        residual: ``|b - A x| / |b|``, shape (); 0 if b is 0, infinite if b is not
            finite (x is 0 in both cases). With restarts it is measured. For a single
            cycle it comes from the recurrence, which rounding can make smaller than the
            true residual once that is close to ``eps |A| |x| / |b|``.
        num_matvecs: Products with A, shape ().
    """

    value: PyTree[Float[Array, "..."]]
    residual: Float[Array, ""]
    num_matvecs: Int[Array, ""]


def gmres(
    matvec: MatVec,
    b: PyTree[Float[Array, "..."]],
    *,
    rtol: float | Float[Array, ""],
    max_vectors: int = 30,
    restarts: int = 0,
    max_products: int | Int[Array, ""] | None = None,
) -> LinearSolution:
    """Solve ``A x = b`` by GMRES from ``x = 0``.

    The iteration stops at the tolerance, if the space is invariant under A (no Krylov
    method can improve x then), or if a product is not finite. A singular A is allowed:
    x minimizes the residual over the space. Under ``jax.vmap`` every lane stops by
    itself.

    Args:
        matvec: ``v -> A v`` on arrays, or pytrees of arrays, like b. It need not be
            differentiable or transposable.
        b: The right-hand side, an array of any shape or a pytree of arrays.
        rtol: Relative residual at which to stop; 1 or more requires nothing.
        max_vectors: m, the largest number of basis vectors, each of the size of b.
        restarts: Number of restarts from the residual if m vectors do not suffice. Each
            cycle then costs another product, which measures the residual; a cycle that
            does not reduce it is the last.
        max_products: Largest number of products; None for no other limit. It may depend
            on arrays, and no memory depends on it.

    Returns:
        The solution with its residual and cost.

    Example:
        >>> import jax.numpy as jnp
        >>> solution = gmres(lambda v: 2 * v, jnp.ones((2, 3)), rtol=1e-6)
        >>> float(solution.value[0, 0]), int(solution.num_matvecs)
        (0.5, 1)
    """
    m = min(max_vectors, sum(leaf.size for leaf in jax.tree.leaves(b)))
    limit = jnp.iinfo(jnp.int32).max if max_products is None else max_products
    if not restarts:
        return _cycle(matvec, b, rtol, m, limit)

    class State(NamedTuple):
        x: Any
        r: Any
        residual: Array
        cycles: Array
        products: Array
        stalled: Array

    size = tree_norm(b)
    known = jnp.isfinite(size)

    def running(s: State) -> Array:
        going = (s.cycles <= restarts) & (s.residual > rtol) & known & ~s.stalled
        return going & (s.products + 1 < limit)

    def body(s: State) -> State:
        step = _cycle(matvec, s.r, rtol / s.residual, m, limit - s.products - 1)
        x = jax.tree.map(jnp.add, s.x, step.value)
        r = jax.tree.map(jnp.subtract, b, matvec(x))
        residual = tree_norm(r) / size
        better = residual < s.residual
        x, r = _where(better, (x, r), (s.x, s.r))
        products = s.products + step.num_matvecs + 1
        residual = jnp.where(better, residual, s.residual)
        return State(x, r, residual, s.cycles + 1, products, ~better)

    zero = jnp.zeros((), jnp.int32)
    start = State(
        jax.tree.map(jnp.zeros_like, b), b, _start(size), zero, zero, jnp.array(False)
    )
    end = jax.lax.while_loop(running, body, start)
    return LinearSolution(end.x, end.residual, end.products)


def _cycle(
    matvec: MatVec, b: Any, rtol: float | Array, m: int, limit: int | Array
) -> LinearSolution:
    """Run GMRES with at most m vectors and a limit on the products."""
    size = tree_norm(b)
    dtype, eps = size.dtype, jnp.finfo(size.dtype).eps
    usable = jnp.isfinite(size) & (size > 0)
    inverse = jnp.where(usable, 1 / size, 0)
    basis = jax.tree.map(
        lambda leaf: (
            jnp.zeros((m + 1, *leaf.shape), leaf.dtype)
            .at[0]
            .set(jnp.where(usable, leaf * inverse, 0))
        ),
        b,
    )

    class State(NamedTuple):
        k: Array  # columns in use
        basis: Any  # V; rows above k are zero
        rotation: Array  # Q, the product of all rotations
        triangle: Array  # Q H; columns from k on are columns of the identity
        residual: Array
        products: Array
        going: Array

    def running(s: State) -> Array:
        return (s.k < m) & (s.products < limit) & (s.residual > rtol) & s.going

    def body(s: State) -> State:
        k = s.k
        product = matvec(jax.tree.map(lambda rows: rows[k], s.basis))
        w, length, h = orthonormalize(s.basis, product)
        new = length > 0
        column = jnp.sum(s.rotation * h.at[k + 1].set(length), axis=1)
        diagonal = jnp.hypot(column[k], length)
        # A column that depends on earlier ones cannot reduce the residual.
        useful = (diagonal > 10 * eps * tree_norm(product)) & jnp.isfinite(diagonal)
        cos, sin = column[k] / diagonal, length / diagonal
        upper, lower = s.rotation[k], s.rotation[k + 1]
        rotation = s.rotation.at[k].set(cos * upper + sin * lower)
        rotation = rotation.at[k + 1].set(cos * lower - sin * upper)
        triangle = s.triangle.at[:, k].set(column[:m].at[k].set(diagonal))
        basis = jax.tree.map(lambda rows, x: rows.at[k + 1].set(x), s.basis, w)
        return State(
            jnp.where(useful, k + 1, k),
            basis,
            jnp.where(useful, rotation, s.rotation),
            jnp.where(useful, triangle, s.triangle),
            jnp.where(useful, jnp.abs(rotation[k + 1, 0]), s.residual).astype(dtype),
            s.products + 1,
            useful & new,
        )

    zero = jnp.zeros((), jnp.int32)
    start = State(
        zero,
        basis,
        jnp.eye(m + 1, dtype=dtype),
        jnp.eye(m, dtype=dtype),
        _start(size),
        zero,
        usable,
    )
    end = jax.lax.while_loop(running, body, start)
    target = jnp.where(jnp.arange(m) < end.k, size * end.rotation[:m, 0], 0)
    y = jax.scipy.linalg.solve_triangular(end.triangle, target)
    x = _combine(y, jax.tree.map(lambda rows: rows[:m], end.basis))
    # An almost zero A can require an x that is too large to represent.
    found = jnp.isfinite(tree_norm(x))
    x = _where(found, x, jax.tree.map(jnp.zeros_like, x))
    residual = jnp.where(found, end.residual, _start(size))
    return LinearSolution(x, residual, end.products)


def orthonormalize(basis: Any, w: Any) -> tuple[Any, Array, Array]:
    """Return the part of w that is orthogonal to a basis, as a unit vector.

    Args:
        basis: m orthonormal or zero rows, an array or pytree of arrays (m, ...).
        w: A vector, of the structure of one row.

    Returns:
        The unit vector, its original length, and the inner products of w with the rows,
        shape (m,). Length and vector are 0 if only rounding remains, or if w is not
        finite.
    """
    before = tree_norm(w)
    inner = jnp.zeros((), before.dtype)
    for _ in range(2):
        inside = _project(basis, w)
        w = jax.tree.map(jnp.subtract, w, _combine(inside, basis))
        inner = inner + inside
    length = tree_norm(w)
    # This form of the condition also treats NaN as no new direction.
    new = length > 10 * jnp.finfo(before.dtype).eps * before
    w = jax.tree.map(lambda x: jnp.where(new, x / length, 0), w)
    return w, jnp.where(new, length, 0), inner


def _start(size: Array) -> Array:
    """Return the relative residual of ``x = 0``."""
    one = jnp.where(size > 0, jnp.ones_like(size), 0)
    return jnp.where(jnp.isfinite(size), one, jnp.inf)


def _project(basis: Any, w: Any) -> Array:
    """Return the inner products of w with all rows, as sums in full precision."""
    products = jax.tree.map(
        lambda rows, x: jnp.sum(rows * x, axis=tuple(range(1, rows.ndim))), basis, w
    )
    return jnp.asarray(sum(jax.tree.leaves(products)))


def _combine(weights: Array, basis: Any) -> Any:
    """Return the weighted sum of the rows."""
    return jax.tree.map(
        lambda rows: jnp.sum(
            weights.reshape((-1,) + (1,) * (rows.ndim - 1)) * rows, axis=0
        ),
        basis,
    )


def _where(condition: Array, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)
