"""Newton-Krylov: its rate, its safeguards, what it costs, and what it solves alone.

The claims that all solvers share are in test_solvers.py.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES
from gaussian_mixture import SHAPE, gaussian_mixture

import jaxinv as ji

SIZE = 16


def solve(solver, residual, guess, reference=1.0, slope=1.0):
    """One compiled solve of a problem of the guess's dtype."""
    scalars = (jnp.asarray(a, guess.dtype) for a in (slope, reference))
    return jax.jit(
        lambda z, slope, reference: solver(
            residual, z, slope=slope, reference=reference
        )
    )(guess, *scalars)


def orthogonal(seed=0, size=SIZE):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def indefinite(z):
    """A root at 1/2; the Jacobian there has eigenvalues all around the unit circle.

    ``z - R(z)`` expands in most directions, and no damping makes it contract.
    """
    matrix = jnp.asarray(orthogonal(), z.dtype)
    flat = z.ravel() - 0.5
    return (matrix @ flat + 0.1 * flat**3).reshape(z.shape)


# --- rate ---------------------------------------------------------------------------


@jax.jit
@jax.vmap
def exact_steps(iterations):
    """Solutions after so many iterates, with linear systems solved exactly."""
    solver = ji.NewtonKrylov(max_iterations=iterations, rtol=1e-15, forcing=1e-14)
    guess = jnp.full(SIZE, 1.2)
    return solver(indefinite, guess, slope=jnp.ones(()), reference=jnp.ones(()))


def test_with_exact_steps_the_iterates_are_those_of_newton(float64):
    matrix = orthogonal()
    z = np.full(SIZE, 1.2)
    for value in exact_steps(jnp.arange(1, 7)).value[:4]:
        np.testing.assert_allclose(value, z, rtol=1e-12)
        flat = z - 0.5
        jacobian = matrix + np.diag(0.3 * flat**2)
        z = z - np.linalg.solve(jacobian, matrix @ flat + 0.1 * flat**3)


def test_convergence_is_quadratic_in_float64(float64):
    errors = exact_steps(jnp.arange(1, 7)).residual
    assert errors[-1] <= 1e-14
    # R'' is at most 0.6 |z - 1/2| and R' nearly orthogonal: the constant is below 1.
    for before, after in itertools.pairwise(errors):
        assert after <= max(before**2, 1e-15)


def test_inexact_steps_reach_the_tolerance_for_fewer_evaluations(float64):
    guess = jnp.full(SIZE, 1.2, float64)
    exact, inexact = (
        solve(ji.NewtonKrylov(rtol=1e-13, forcing=f), indefinite, guess)
        for f in (1e-14, 0.3)
    )
    assert bool(exact.converged)
    assert bool(inexact.converged)
    assert int(inexact.num_evals) < int(exact.num_evals)


# --- what others do not solve -------------------------------------------------------


@pytest.mark.parametrize("other", [ji.FixedPoint(), ji.Anderson()])
def test_it_solves_what_has_no_contraction(other, float64):
    guess = jnp.full((4, 4), 1.2, float64)
    solution = solve(ji.NewtonKrylov(), indefinite, guess)
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.value, 0.5, atol=1e-12)
    assert not bool(solve(other, indefinite, guess).converged)


def test_it_solves_a_whole_trajectory_at_once(float64):
    # All states of a sampling are one unknown; every row couples two of them.
    schedule = SCHEDULES["vp"]
    denoise = gaussian_mixture(schedule)
    table = ji.ddim(ji.time_grid(schedule, 10))
    noise = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), float64)
    states = ji.sample_trajectory(table, denoise, noise)
    parts = table.scale, table.a[:, 0], table.b[:, 0]
    scale, a, b = (jnp.asarray(part, float64) for part in parts)
    times = jnp.asarray(table.model_time[1:], float64)

    def column(values):
        return values.reshape(-1, *(1,) * noise.ndim)

    def residual(xs):
        us, outputs = xs / column(scale[1:]), jax.vmap(denoise)(xs, times)
        stepped = column(scale[:-1]) * (column(a) * us + column(b) * outputs)
        return stepped - jnp.concatenate([states[:1], xs[:-1]])

    # From naive inversion, as a first guess should be.
    naive = ji.invert(
        table, denoise, states[0], strategy="naive", return_trajectory=True
    )
    solver = ji.NewtonKrylov(krylov=60)
    solution = solve(
        solver, residual, naive.trajectory[1:], jnp.linalg.norm(states[:-1])
    )
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.value, states[1:], atol=1e-9)


# --- safeguards ---------------------------------------------------------------------


@pytest.mark.parametrize(("backtracks", "converges"), [(8, True), (0, False)])
def test_backtracking_saves_where_a_full_step_diverges(backtracks, converges, float64):
    # Newton's method on the arctangent diverges from beyond 1.39.
    solver = ji.NewtonKrylov(backtracks=backtracks)
    solution = solve(solver, jnp.arctan, jnp.array([3.0], float64))
    assert bool(solution.converged) == converges


@pytest.mark.parametrize(
    "guess", [1.0, 1.4], ids=["at the minimum", "near the minimum"]
)
def test_a_local_minimum_is_reported(guess, float64):
    # z^3 - 3 z + 3 has a local minimum of 1 at z = 1, and a root beyond the hill.
    solution = solve(
        ji.NewtonKrylov(), lambda z: z**3 - 3 * z + 3, jnp.array([guess], float64)
    )
    assert not bool(solution.converged)
    assert float(solution.residual) == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(solution.value, 1, atol=0.2)


def test_a_jacobian_that_is_not_finite_stops_it_at_the_best_iterate(float64):
    # The square root has a residual, but no derivative, at zero.
    solution = solve(
        ji.NewtonKrylov(), lambda z: jnp.sqrt(z) + 1, jnp.zeros(3, float64)
    )
    assert not bool(solution.converged)
    assert float(solution.residual) == pytest.approx(3**0.5)
    np.testing.assert_array_equal(solution.value, np.zeros(3))
    assert int(solution.iterations) == 1


def test_steps_to_where_nothing_is_defined_are_shortened(float64):
    # The full first step leads to a negative number, whose logarithm is NaN.
    solution = solve(ji.NewtonKrylov(), jnp.log, jnp.array([3.0], float64))
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.value, 1, rtol=1e-12)


# --- cost ---------------------------------------------------------------------------


def counted(function, calls):
    """Adds 1 to the calls for an evaluation and 2 for a Jacobian-vector product."""

    @jax.custom_jvp
    def wrapped(z):
        jax.debug.callback(lambda: calls.append(1))
        return function(z)

    @wrapped.defjvp
    def _product(primals, tangents):
        jax.debug.callback(lambda: calls.append(2))
        return jax.jvp(function, primals, tangents)

    return wrapped


@pytest.mark.parametrize(
    ("function", "guess"),
    [(indefinite, 1.2), (jnp.arctan, 3.0), (lambda z: 1 + z**2, 0.5)],
    ids=["full steps", "backtracking", "no root"],
)
def test_every_evaluation_is_counted(function, guess, float64):
    calls = []
    residual = counted(function, calls)
    solution = solve(ji.NewtonKrylov(), residual, jnp.full(SIZE, guess, float64))
    jax.block_until_ready(solution)
    jax.effects_barrier()
    assert sum(calls) == int(solution.num_evals)
    assert {1, 2} == set(calls)


def test_only_forward_mode_is_used(float64):
    # A while_loop can be pushed forward, not pulled back.
    def residual(z):
        def body(carry):
            k, y = carry
            return k + 1, y + 0.1 * jnp.sin(y)

        return jax.lax.while_loop(lambda c: c[0] < 3, body, (0, z))[1] - 1.0

    guess = jnp.zeros(4, float64)
    with pytest.raises(ValueError, match="everse-mode"):
        jax.vjp(residual, guess)[1](guess)
    assert bool(solve(ji.NewtonKrylov(), residual, guess).converged)


def test_lanes_of_a_batch_are_solved_as_if_alone(float64):
    # An easy, a hard, a hopeless, an undefined and an already solved problem.
    def residual(z, kind):
        functions = (jnp.arctan(z), 1 + z**2, z * jnp.nan, indefinite(z))
        return sum(jnp.where(kind == k, f, 0) for k, f in enumerate(functions))

    kinds = jnp.array([3, 0, 1, 2, 3])
    guesses = jnp.array([1.2, 3.0, 0.5, 1.0, 0.5], float64)

    def one(kind, guess):
        return ji.NewtonKrylov()(
            lambda z: residual(z, kind),
            jnp.full(SIZE, guess),
            slope=jnp.ones(()),
            reference=jnp.ones(()),
        )

    batch = jax.jit(jax.vmap(one))(kinds, guesses)
    np.testing.assert_array_equal(batch.converged, [True, True, False, False, True])
    single = jax.jit(one)
    for k in range(5):
        alone = single(kinds[k], guesses[k])
        assert int(batch.iterations[k]) == int(alone.iterations)
        assert int(batch.num_evals[k]) == int(alone.num_evals)
        np.testing.assert_allclose(batch.value[k], alone.value, atol=1e-9)
