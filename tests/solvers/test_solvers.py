"""Implicit solvers on problems whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from core_cases import SOLVERS, each
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.callables import Function
from jaxinv.solvers import anderson
from jaxinv.solvers.rounding import PATIENCE

SHAPE = (2, 3)
SLOPE = 0.8

least_squares = jax.jit(anderson.least_squares)


def rotation(seed=0, size=6):
    """A random orthogonal matrix."""
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return np.linalg.qr(matrix)[0]


# R(z) = slope (z - M(z) - c) with |M'| <= 1/2: the fixed-point map contracts by 1/2,
# and R' has singular values in [slope / 2, 3 slope / 2].
# What is chosen is data, so that all problems of one solver share a compiled program.
def contracting(matrix, bend, offset, scale, z):
    """Scaled in and out, as units are; ``bend`` 1 for M = tanh, 0 for M = identity."""
    flat = z.ravel() / scale
    image = matrix @ flat
    image = 0.5 * jnp.where(bend > 0, jnp.tanh(image), image)
    return scale * SLOPE * (flat - image - offset).reshape(z.shape)


def problem(dtype, *, bend, offset=None, scale=1.0):
    offset = np.linspace(-1, 2, 6) if offset is None else offset
    arrays = (rotation(), bend, offset, scale)
    return Partial(contracting, *(jnp.asarray(a, dtype) for a in arrays))


def linear(dtype):
    return problem(dtype, bend=0.0)


def nonlinear(dtype, **options):
    return problem(dtype, bend=1.0, **options)


@jax.jit(static_argnames="solver")
def _solve(solver, residual, guess, slope, reference):
    return solver(residual, guess, slope=slope, reference=reference)


def solve(solver, residual, guess, slope=SLOPE, reference=1.0):
    slope, reference = (jnp.asarray(a, guess.dtype) for a in (slope, reference))
    return _solve(solver, Function.of(residual), guess, slope, reference)


# --- every solver -------------------------------------------------------------------


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_a_nonlinear_contraction_is_solved_to_the_tolerance(solver, dtype):
    residual = nonlinear(dtype)
    solution = solve(solver, residual, jnp.zeros(SHAPE, dtype), reference=3.0)
    assert bool(solution.converged)
    eps = float(jnp.finfo(dtype).eps)
    remaining = float(jnp.linalg.norm(residual(solution.value))) / 3.0
    # The certificate is the residual of what is returned, up to the rounding of R,
    # whose terms are of the size of the reference.
    assert remaining == pytest.approx(float(solution.residual), abs=20 * eps)
    assert float(solution.residual) <= 1e-6


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_a_linear_contraction_is_solved_as_by_a_direct_solver(solver, float64):
    residual = linear(float64)
    solution = solve(solver, residual, jnp.zeros(SHAPE, float64), reference=3.0)
    exact = np.linalg.solve(np.eye(6) - 0.5 * rotation(), np.linspace(-1, 2, 6))
    # |z - z*| <= |R| / (smallest singular value of R').
    bound = 3.0 * 1e-6 / (SLOPE / 2)
    assert np.linalg.norm(solution.value.ravel() - exact) <= bound


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_a_guess_that_solves_the_problem_costs_one_evaluation(solver, float64):
    residual = linear(float64)
    exact = np.linalg.solve(np.eye(6) - 0.5 * rotation(), np.linspace(-1, 2, 6))
    solution = solve(solver, residual, jnp.asarray(exact).reshape(SHAPE))
    assert int(solution.iterations) == int(solution.num_evals) == 1
    assert bool(solution.converged)


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_nan_at_the_guess_stops_at_once_and_is_reported(solver, dtype):
    guess = jnp.ones(SHAPE, dtype)
    solution = solve(solver, nonlinear(dtype, offset=np.full(6, np.nan)), guess)
    assert int(solution.iterations) == int(solution.num_evals) == 1
    assert not bool(solution.converged)
    assert float(solution.residual) == np.inf
    np.testing.assert_array_equal(solution.value, guess)


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_no_solution_is_reported_with_the_best_of_all_evaluations(solver, float64):
    seen = []

    def residual(z):
        jax.debug.callback(lambda z: seen.append(np.array(z)), z, ordered=True)
        return 1.0 + z**2

    solution = solve(solver, residual, jnp.full((3,), 0.5, float64), slope=1.0)
    jax.effects_barrier()
    assert not bool(solution.converged)
    if not isinstance(solver, ji.NewtonKrylov):  # see test_newton_krylov.py
        assert len(seen) == int(solution.num_evals)
    norms = [np.linalg.norm(1.0 + z**2) for z in seen]
    if isinstance(solver, ji.Anderson | ji.FixedPoint):
        # Two evaluations measure rounding, beside the best iterate.
        best = np.fmin.accumulate(norms)
        first = next(
            k + 1 for k in range(PATIENCE, len(norms)) if best[k] == best[k - PATIENCE]
        )
        del seen[first : first + 2], norms[first : first + 2]
    assert float(solution.residual) == pytest.approx(np.nanmin(norms), rel=1e-14)
    np.testing.assert_array_equal(solution.value, seen[int(np.nanargmin(norms))])


# --- fixed point --------------------------------------------------------------------


def test_fixed_point_takes_as_many_iterations_as_its_contraction_says(float64):
    residual = linear(float64)
    solution = solve(ji.FixedPoint(rtol=1e-10), residual, jnp.zeros(SHAPE, float64))
    # An orthogonal map halves the residual at every iteration, exactly.
    start = SLOPE * np.linalg.norm(np.linspace(-1, 2, 6))
    assert int(solution.iterations) == 1 + np.ceil(np.log2(start / 1e-10))


def diverging(z):
    """A residual whose fixed-point iteration falls in one direction, grows in other."""
    return z - jnp.array([0.1, -1.3], z.dtype) * z


def test_the_best_iterate_of_a_diverging_iteration_is_returned(float64):
    z = np.array([1.0, 1e-3])
    iterates = [z * np.array([0.1, -1.3]) ** k for k in range(40)]
    norms = [np.linalg.norm(np.array([0.9, 2.3]) * z) for z in iterates]
    best = int(np.argmin(norms))
    assert 0 < best < 10
    solver = ji.FixedPoint(rtol=1e-8, patience=6)
    solution = solve(solver, diverging, jnp.asarray(z), slope=1.0)
    np.testing.assert_allclose(solution.value, iterates[best], rtol=1e-12)
    np.testing.assert_allclose(solution.residual, norms[best], rtol=1e-12)
    assert int(solution.iterations) == best + 1 + 6
    assert not bool(solution.converged)


def test_nan_on_the_way_stops_and_returns_the_best_finite_iterate(float64):
    def residual(z):
        return jnp.where(jnp.abs(z[1]) > 0.01, jnp.nan, diverging(z))

    z = np.array([1.0, 1e-3])
    # 1.3 ** 9 > 10: the iterate of index 9 is the first to give NaN.
    solver = ji.FixedPoint(rtol=1e-8, patience=100)
    solution = solve(solver, residual, jnp.asarray(z), slope=1.0)
    assert int(solution.iterations) == 10
    assert not bool(solution.converged)
    assert np.all(np.isfinite(solution.value))
    assert np.isfinite(solution.residual)


def test_damping_scales_the_step(float64):
    residual = linear(float64)
    guess = jnp.ones(SHAPE, float64)
    one_step = ji.FixedPoint(max_iterations=2, damping=0.25, rtol=0.0)
    solution = solve(one_step, residual, guess)
    expected = guess - 0.25 * residual(guess) / SLOPE
    np.testing.assert_allclose(solution.value, expected, rtol=1e-14)


# --- forward step -------------------------------------------------------------------


def published_forward_step(residual, z, rho=0.5):
    """Algorithm 1 of arXiv:2311.18387 with its published settings, in NumPy.

    The step size is governed by torch's own ``ReduceLROnPlateau``.
    """
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=rho)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=20
    )
    iterates = []
    for k in range(500):
        iterates.append(z)
        r = residual(z)
        if np.sum(r**2) < 1e-3:
            break
        step = rho * (k + 1) / 20 if k < 20 else optimiser.param_groups[0]["lr"]
        z = z - step * r
        plateau.step(float(np.sum(r**2)))
    return iterates


@pytest.mark.parametrize(
    "slopes",
    [[1.0, 0.7, 0.4], [5.0, 0.4, 0.1], [0.9, 0.02, 0.001], [30.0, 0.1, 0.1]],
    ids=["easy", "overshoots once", "too slow", "overshoots often"],
)
def test_the_paper_preset_walks_through_the_published_iterates(slopes, float64):
    slopes = np.array(slopes)
    start, seen = np.array([3.0, -2.0, 4.0]), []

    def residual(z):
        jax.debug.callback(lambda z: seen.append(np.array(z)), z, ordered=True)
        return jnp.asarray(slopes) * z

    solution = solve(ji.ForwardStep.paper, residual, jnp.asarray(start))
    jax.effects_barrier()
    reference = published_forward_step(lambda z: slopes * z, start)
    assert len(reference) == len(seen) == int(solution.iterations)
    np.testing.assert_allclose(seen, reference, rtol=1e-9, atol=1e-12)


def test_the_paper_preset_halves_its_step_in_these_problems():
    # The tests above would show little if no plateau ever occurred.
    slopes = np.array([30.0, 0.1, 0.1])
    z = np.array(published_forward_step(lambda z: slopes * z, np.ones(3)))
    steps = (1 - z[1:, 1] / z[:-1, 1]) / 0.1
    np.testing.assert_allclose(sorted(set(steps.round(6)))[-1], 0.5)
    assert steps[-1] < 0.2


# --- Anderson -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_anderson_solves_a_linear_problem_in_as_many_evaluations_as_unknowns(
    size, float64
):
    # Equivalent to GMRES (Walker & Ni 2011, Theorem 2.2), which ends after `size`
    # steps; one evaluation starts it and one sees that the residual is zero.
    matrix = np.eye(size) + 0.9 * rotation(1, size)
    offset = np.arange(1.0, size + 1)
    solution = solve(
        ji.Anderson(rtol=1e-10),
        Partial(lambda m, c, z: m @ z - c, matrix, offset),
        jnp.zeros(size, float64),
        slope=1.0,
        reference=np.linalg.norm(offset),
    )
    assert bool(solution.converged)
    assert int(solution.iterations) <= size + 2


def test_anderson_solves_what_the_fixed_point_iteration_diverges_on(float64):
    solution = solve(
        ji.Anderson(rtol=1e-10), diverging, jnp.array([1.0, 1e-3]), slope=1.0
    )
    assert bool(solution.converged)


def test_anderson_needs_fewer_evaluations_than_the_fixed_point_iteration(float64):
    # A contraction of 0.9: the plain iteration gains a digit in 22 evaluations.
    def residual(z):
        return z - 0.9 * jnp.sin(rotation() @ z) - 0.1

    guess = jnp.zeros(6, float64)
    plain, mixed = (
        solve(kind(max_iterations=500, rtol=1e-8), residual, guess, slope=1.0)
        for kind in (ji.FixedPoint, ji.Anderson)
    )
    assert bool(plain.converged)
    assert bool(mixed.converged)
    assert int(mixed.iterations) < int(plain.iterations) / 3


def test_anderson_without_enough_unknowns_for_its_history_still_solves(dtype):
    solution = solve(
        ji.Anderson(history=20, rtol=1e-6),
        lambda z: z + 0.5 * jnp.sin(z) - 1.0,
        jnp.zeros((1,), dtype),
        slope=1.0,
    )
    assert bool(solution.converged)


def test_anderson_does_not_depend_on_the_scale_of_the_problem():
    # Powers of two scale exactly: the iterates must, too, down to residuals whose
    # squares are close to the smallest float32.
    runs = []
    for scale in (1.0, 2.0**-40):
        solution = solve(
            ji.Anderson(rtol=1e-5),
            nonlinear(jnp.float32, scale=scale),
            jnp.zeros(SHAPE, jnp.float32),
            reference=scale,
        )
        runs.append((int(solution.iterations), np.asarray(solution.value) / scale))
    assert runs[1][0] == runs[0][0]
    np.testing.assert_allclose(runs[1][1], runs[0][1], rtol=1e-5)


# --- least squares ------------------------------------------------------------------


def random_rows(count, dtype, shape=(5, 8)):
    rng = np.random.default_rng(2)
    rows, target = rng.standard_normal((count, *shape)), rng.standard_normal(shape)
    return jnp.asarray(rows, dtype), jnp.asarray(target, dtype)


def lstsq(rows, target):
    matrix = np.asarray(rows, np.float64).reshape(len(rows), -1).T
    return np.linalg.lstsq(matrix, np.asarray(target, np.float64).ravel())[0]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_least_squares_is_that_of_numpy(count, dtype):
    rows, target = random_rows(count, dtype)
    # Five random directions in 40 dimensions: a condition number of at most 3.
    tolerance = 3 * 40 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        least_squares(rows, target), lstsq(rows, target), atol=tolerance
    )


@pytest.mark.parametrize("place", [0, 1, 3])
def test_zero_rows_get_no_weight_and_change_nothing(place, dtype):
    rows, target = map(np.asarray, random_rows(3, dtype))
    padded = np.insert(rows, place, 0, axis=0)
    weights = np.asarray(least_squares(padded, target))
    assert weights[place] == 0
    tolerance = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.delete(weights, place), least_squares(rows, target), atol=tolerance
    )


def test_duplicate_rows_get_no_weight_and_change_nothing(dtype):
    rows, target = random_rows(3, dtype)
    repeated = jnp.concatenate([rows, 2 * rows[:1], rows[1:2]])
    weights = least_squares(repeated, target)
    np.testing.assert_array_equal(weights[3:], np.zeros(2))
    tolerance = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(weights[:3], least_squares(rows, target), atol=tolerance)


def test_badly_scaled_rows_keep_their_accuracy_in_float32():
    # Normal equations would square the ratio of 1e10 between the rows.
    rows, target = random_rows(4, jnp.float32)
    scales = np.array([1e-7, 1.0, 1e3, 1e-4], np.float32)
    scaled = rows * scales[:, None, None]
    weights = np.asarray(least_squares(scaled, target), np.float64) * scales
    tolerance = 3 * 40 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(weights, lstsq(rows, target), atol=tolerance)


def test_nearly_parallel_rows_still_give_the_best_fit_in_float32():
    # The coefficients are ill conditioned (1e4), the fit is not.
    rows, target = random_rows(2, jnp.float32)
    close = jnp.stack([rows[0], rows[0] + 1e-4 * rows[1]])
    weights = np.asarray(least_squares(close, target), np.float64)
    best = lstsq(close, target)
    flat = np.asarray(close, np.float64).reshape(2, -1)
    misfit, least = (
        np.linalg.norm(np.asarray(target, np.float64).ravel() - c @ flat)
        for c in (weights, best)
    )
    assert misfit <= least * (1 + 1e-5)


# --- gradient -----------------------------------------------------------------------

TRANSFORMATIONS = {
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.1, momentum=0.8, nesterov=True),
    "adam": optax.adam(0.05),
    "default": None,
    "schedule": optax.adam(optax.exponential_decay(0.2, 50, 0.5)),
    "rmsprop": optax.rmsprop(optax.cosine_decay_schedule(0.05, 400)),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3)),
    "lbfgs": optax.lbfgs(0.3, linesearch=None),
    "polyak": optax.polyak_sgd(max_learning_rate=1.0, f_min=0.0),
    "plateau": optax.chain(
        optax.sgd(0.3), optax.contrib.reduce_on_plateau(patience=20)
    ),
}


@pytest.mark.parametrize("transformation", each(TRANSFORMATIONS))
def test_gradient_descent_works_with_any_optax_transformation(transformation, float64):
    solver = ji.Gradient(transformation, max_iterations=400, rtol=1e-3)
    residual = nonlinear(float64)
    solution = solve(solver, residual, jnp.zeros(SHAPE, float64), reference=3.0)
    assert bool(solution.converged)
    assert solution.value.dtype == float64


def test_gradient_descent_follows_the_gradient_of_the_sum_of_squares(float64):
    residual, guess = nonlinear(float64), jnp.ones(SHAPE, float64)
    solver = ji.Gradient(optax.sgd(0.1), max_iterations=2, rtol=0.0)
    gradient = jax.grad(lambda z: jnp.sum(residual(z) ** 2))(guess)
    np.testing.assert_allclose(
        solve(solver, residual, guess).value, guess - 0.1 * gradient, rtol=1e-13
    )
