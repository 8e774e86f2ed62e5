"""GMRES against dense linear algebra, and on systems that have no solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv.solvers.krylov import gmres

SHAPE = (2, 2, 3)
SIZE = 12


def system(dtype, spread=0.5, seed=0):
    """A matrix whose singular values lie in [1 - spread, 1 + spread], and b."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
    # Not normal, eigenvalues near 1: u v^T is a rotation by small angles.
    v = np.linalg.qr(u + 0.1 * v)[0] * np.sign(np.diag(np.linalg.qr(u + 0.1 * v)[1]))
    matrix = u @ np.diag(1 + spread * np.linspace(-1, 1, SIZE)) @ v.T
    return jnp.asarray(matrix, dtype), jnp.asarray(rng.standard_normal(SHAPE), dtype)


def product(matrix):
    return lambda v: (matrix @ v.ravel()).reshape(v.shape)


@jax.jit(static_argnames=("max_vectors", "restarts"))
def solve(matrix, b, rtol, max_vectors=30, restarts=0):
    options = {"max_vectors": max_vectors, "restarts": restarts}
    return gmres(product(matrix), b, rtol=rtol, **options)


def true_residual(matrix, b, x):
    matrix, b, x = (np.asarray(a, np.float64) for a in (matrix, b, x))
    return np.linalg.norm(b.ravel() - matrix @ x.ravel()) / np.linalg.norm(b)


def test_a_system_is_solved_as_by_a_direct_solver(dtype):
    matrix, b = system(dtype)
    solution = solve(matrix, b, rtol=0.0)
    exact = np.linalg.solve(*(np.asarray(a, np.float64) for a in (matrix, b.ravel())))
    # A condition number of 3, and sums of 12 terms.
    bound = 3 * SIZE * float(jnp.finfo(dtype).eps) * np.linalg.norm(exact)
    assert np.linalg.norm(solution.value.ravel() - exact) <= bound
    assert int(solution.num_matvecs) <= SIZE
    assert solution.value.shape == SHAPE
    assert solution.value.dtype == dtype


@pytest.mark.parametrize("vectors", [1, 3, 7])
def test_the_residual_is_the_least_over_the_krylov_space(vectors, float64):
    matrix, b = (np.asarray(a) for a in system(float64, spread=0.9))
    powers = [b.ravel()]
    for _ in range(vectors):
        powers.append(matrix @ powers[-1])
    image = np.stack(powers[1:], axis=1)
    least = b.ravel() - image @ np.linalg.lstsq(image, b.ravel())[0]
    solution = solve(matrix, b, rtol=0.0, max_vectors=vectors)
    expected = np.linalg.norm(least) / np.linalg.norm(b)
    # The powers are independent up to a condition number of less than 1e4.
    np.testing.assert_allclose(solution.residual, expected, rtol=1e-11)
    np.testing.assert_allclose(true_residual(matrix, b, solution.value), expected)
    assert int(solution.num_matvecs) == vectors


@pytest.mark.parametrize("rtol", [1e-1, 1e-2, 1e-4])
def test_it_stops_at_the_first_vector_that_meets_the_tolerance(rtol, dtype):
    matrix, b = system(dtype)
    solution = solve(matrix, b, rtol=rtol)
    used = int(solution.num_matvecs)
    assert 1 < used < SIZE
    assert float(solution.residual) <= rtol
    fewer = solve(matrix, b, rtol=rtol, max_vectors=used - 1)
    assert float(fewer.residual) > rtol


def test_as_many_products_as_there_are_distinct_eigenvalues(float64):
    matrix = jnp.diag(jnp.asarray([1.0, -2.0, 5.0] * 4, float64))
    solution = solve(matrix, jnp.ones(SHAPE, float64), rtol=1e-12)
    assert int(solution.num_matvecs) == 3
    assert true_residual(matrix, np.ones(SHAPE), solution.value) < 1e-12


def test_products_are_counted_as_they_are_made(float64):
    matrix, b = system(float64)
    calls = []

    def matvec(v):
        jax.debug.callback(lambda: calls.append(1))
        return product(matrix)(v)

    for options in ({}, {"max_vectors": 3, "restarts": 4}):
        calls.clear()
        solution = jax.jit(lambda b, o=options: gmres(matvec, b, rtol=1e-6, **o))(b)
        jax.block_until_ready(solution)
        jax.effects_barrier()
        assert len(calls) == int(solution.num_matvecs) > 0


def test_the_residual_is_true_for_a_badly_conditioned_matrix_in_float32():
    # One pass of Gram-Schmidt would lose the orthogonality of the basis here.
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
    matrix = jnp.asarray(u @ np.diag(np.geomspace(1, 1e-4, SIZE)) @ v.T, jnp.float32)
    b = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    solution = solve(matrix, b, rtol=1e-3)
    # Backward stable: off by a few roundings of |A| |x|.
    size = float(jnp.linalg.norm(solution.value) / jnp.linalg.norm(b))
    slack = SIZE * float(jnp.finfo(jnp.float32).eps) * size
    found = true_residual(matrix, b, solution.value)
    assert found == pytest.approx(float(solution.residual), abs=slack)


# --- systems that are no systems ----------------------------------------------------


def test_a_right_hand_side_of_zero_costs_nothing(dtype):
    solution = solve(system(dtype)[0], jnp.zeros(SHAPE, dtype), rtol=1e-6)
    assert float(solution.residual) == 0
    assert int(solution.num_matvecs) == 0
    np.testing.assert_array_equal(solution.value, np.zeros(SHAPE))


@pytest.mark.parametrize(
    ("diagonal", "b", "residual"),
    [
        ([1, 2, 0], [1, 1, 0], 0),
        ([1, 2, 0], [1, 1, 1], 3**-0.5),
        ([0, 0, 0], [1, 1, 1], 1),
    ],
    ids=["solvable", "not solvable", "zero"],
)
def test_a_singular_system_is_solved_as_far_as_it_can_be(diagonal, b, residual, dtype):
    matrix = jnp.diag(jnp.asarray(diagonal, dtype))
    solution = solve(matrix, jnp.asarray(b, dtype), rtol=0.0)
    eps = float(jnp.finfo(dtype).eps)
    assert float(solution.residual) == pytest.approx(residual, abs=10 * eps)
    assert true_residual(matrix, b, solution.value) == pytest.approx(
        residual, abs=10 * eps
    )


def test_a_cyclic_shift_needs_all_vectors_and_shows_no_progress_before(float64):
    # The classical worst case: b, A b, ... are orthogonal, and only the last helps.
    matrix = jnp.roll(jnp.eye(SIZE, dtype=float64), 1, axis=0)
    b = jnp.zeros(SIZE, float64).at[0].set(1.0)
    before = solve(matrix, b, rtol=1e-12, max_vectors=SIZE - 1)
    assert float(before.residual) == 1
    assert true_residual(matrix, b, solve(matrix, b, rtol=1e-12).value) < 1e-14


def test_a_nilpotent_matrix_is_given_up(float64):
    matrix = jnp.eye(SIZE, k=-1, dtype=float64)
    b = jnp.zeros(SIZE, float64).at[0].set(1.0)
    solution = solve(matrix, b, rtol=1e-12)
    assert float(solution.residual) == 1
    assert np.all(np.isfinite(solution.value))
    assert int(solution.num_matvecs) == SIZE


@pytest.mark.parametrize("good", [0, 1, 4])
@pytest.mark.parametrize("restarts", [0, 5])
def test_a_product_that_is_not_finite_ends_it_with_what_was_found(good, restarts):
    # From e_0 the Krylov space reaches one more e_k with every product.
    matrix = 2 * jnp.eye(SIZE) + jnp.eye(SIZE, k=-1)

    def matvec(v):
        return jnp.where(v[good] != 0, jnp.nan, matrix @ v)

    b = jnp.zeros(SIZE).at[0].set(1.0)
    solution = jax.jit(lambda b: gmres(matvec, b, rtol=1e-6, restarts=restarts))(b)
    assert np.all(np.isfinite(solution.value))
    assert 1e-6 < float(solution.residual) <= 1
    # A restart measures the residual, meets the NaN at once, and measures again that
    # this has not helped; after no good product there is nothing to measure.
    repeated = 1 if good == 0 else 3
    assert int(solution.num_matvecs) == good + 1 + (repeated if restarts else 0)


@pytest.mark.parametrize("restarts", [0, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_right_hand_side_that_is_not_finite_is_reported(bad, restarts, dtype):
    b = jnp.ones(SHAPE, dtype).at[0].set(bad)
    solution = solve(system(dtype)[0], b, rtol=1e-6, restarts=restarts)
    assert float(solution.residual) == np.inf
    assert int(solution.num_matvecs) == 0
    np.testing.assert_array_equal(solution.value, np.zeros(SHAPE))


# --- restarts, batches, pytrees -----------------------------------------------------


def test_restarts_reach_a_tolerance_that_one_cycle_does_not(dtype):
    matrix, b = system(dtype)
    assert float(solve(matrix, b, rtol=1e-5, max_vectors=3).residual) > 1e-5
    solution = solve(matrix, b, rtol=1e-5, max_vectors=3, restarts=20)
    assert float(solution.residual) <= 1e-5
    slack = 3 * SIZE * float(jnp.finfo(dtype).eps)
    found = true_residual(matrix, b, solution.value)
    assert found == pytest.approx(float(solution.residual), abs=slack)


def test_restarts_end_when_they_stall(float64):
    matrix = jnp.roll(jnp.eye(SIZE, dtype=float64), 1, axis=0)
    b = jnp.zeros(SIZE, float64).at[0].set(1.0)
    solution = solve(matrix, b, rtol=1e-12, max_vectors=4, restarts=50)
    assert float(solution.residual) == 1
    assert int(solution.num_matvecs) == 5


@pytest.mark.parametrize("restarts", [0, 3])
def test_every_lane_of_a_batch_stops_by_itself(restarts, float64):
    lanes = [system(float64, spread) for spread in (0.01, 0.5, 0.9)]
    matrices = jnp.stack([a for a, _ in lanes] + [lanes[0][0]] * 2)
    bs = jnp.stack([b for _, b in lanes] + [jnp.zeros(SHAPE), jnp.full(SHAPE, jnp.nan)])

    def one(matrix, b):
        return gmres(product(matrix), b, rtol=1e-8, max_vectors=7, restarts=restarts)

    batch = jax.jit(jax.vmap(one))(matrices, bs)
    for k in range(5):
        single = jax.jit(one)(matrices[k], bs[k])
        assert int(batch.num_matvecs[k]) == int(single.num_matvecs)
        np.testing.assert_allclose(batch.value[k], single.value, atol=1e-13)
        np.testing.assert_allclose(batch.residual[k], single.residual, rtol=1e-4)


def test_a_pytree_is_solved_as_its_concatenation(float64):
    matrix, b = system(float64)
    flat = solve(matrix, b.ravel(), rtol=1e-10)

    def matvec(tree):
        v = matrix @ jnp.concatenate([tree["a"].ravel(), tree["b"]])
        return {"a": v[:8].reshape(2, 4), "b": v[8:]}

    tree = {"a": b.ravel()[:8].reshape(2, 4), "b": b.ravel()[8:]}
    solution = jax.jit(lambda t: gmres(matvec, t, rtol=1e-10))(tree)
    assert int(solution.num_matvecs) == int(flat.num_matvecs)
    found = np.concatenate([solution.value["a"].ravel(), solution.value["b"]])
    np.testing.assert_allclose(found, flat.value, rtol=1e-12)


def test_the_transposed_system_is_solved_through_a_pullback(float64):
    matrix, b = system(float64)
    _, pull = jax.vjp(product(matrix), jnp.zeros(SHAPE, float64))
    solution = jax.jit(lambda b: gmres(lambda u: pull(u)[0], b, rtol=1e-12))(b)
    exact = np.linalg.solve(np.asarray(matrix).T, b.ravel())
    np.testing.assert_allclose(solution.value.ravel(), exact, rtol=1e-10)
