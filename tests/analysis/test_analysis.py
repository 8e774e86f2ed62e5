"""Conditioning of steps and of trajectories, against dense singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES
from gaussian_mixture import SHAPE, gaussian_mixture

import jaxinv as ji
from jaxinv.analysis import (
    bidiagonalize,
    step_conditioning,
    trajectory_conditioning,
)

VP = SCHEDULES["vp"]
STEPS = 20
SIZE = int(np.prod(SHAPE))


@pytest.fixture
def noise(float64):
    return jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), float64)


def singular_values(jacobian):
    """Of a Jacobian with the axes of the output and of the input, descending."""
    return np.linalg.svd(np.reshape(jacobian, (SIZE, SIZE)), compute_uv=False)


def step_of(table, denoise, states, i):
    """The step ``x[i] -> x[i-1]``, with all older states where they are."""

    def step(x):
        total = 0.0
        for j in range(min(table.history, table.num_steps - i + 1)):
            older = x if j == 0 else states[i + j]
            f = denoise(older, jnp.asarray(table.model_time[i + j], x.dtype))
            total = total + table.a[i - 1, j] * older / table.scale[i + j]
            total = total + table.b[i - 1, j] * f
        return table.scale[i - 1] * total

    return step


# --- steps --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constructor", "schedule"),
    [(ji.ddim, name) for name in SCHEDULES] + [(ji.dpmpp_3m, "vp")],
)
def test_singular_values_of_steps_are_those_of_the_dense_jacobian(
    constructor, schedule, noise
):
    schedule = SCHEDULES[schedule]
    table = constructor(ji.time_grid(schedule, STEPS))
    denoise = gaussian_mixture(schedule)
    states = ji.sample_trajectory(table, denoise, noise)
    # As many vectors as unknowns: nothing is left out.
    report = step_conditioning(table, denoise, states, num_vectors=SIZE)
    some = (1, STEPS // 2, STEPS)
    steps = [step_of(table, denoise, states, i) for i in some]
    jacobians = jax.jit(
        lambda xs: [jax.jacfwd(f)(xs[i]) for f, i in zip(steps, some, strict=True)]
    )(states)
    for i, jacobian in zip(some, jacobians, strict=True):
        sigma = singular_values(jacobian)
        # Rounding is relative to the largest singular value.
        slack = 100 * np.finfo(float).eps * sigma[0]
        np.testing.assert_allclose(report.largest[i - 1], sigma[0], atol=slack)
        np.testing.assert_allclose(report.smallest[i - 1], sigma[-1], atol=slack)


def spectrum(values):
    """A model whose DDIM step has given singular values, with rotated bases."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((len(values),) * 2))[0] for _ in range(2))
    return u @ np.diag(values) @ v.T


def linear_model(matrix):
    """An Euler step of size 1 from tau = 2 to tau = 1 that multiplies by a matrix."""
    grid = ji.TimeGrid(np.array([1.0, 2.0]), np.ones(2), np.array([1.0, 2.0]))
    return ji.euler(grid), lambda x, _t: x - jnp.asarray(matrix, x.dtype) @ x


@pytest.mark.parametrize("smallest", [1e-1, 1e-5, 1e-9])
def test_a_tiny_singular_value_is_not_lost_to_squaring(smallest, float64):
    # The eigenvalue of J^T J would be 1e-18, below the rounding of the others.
    table, denoise = linear_model(spectrum([1.5, 1.0, 0.7, 0.5, 0.3, smallest]))
    report = step_conditioning(table, denoise, jnp.ones((2, 6), float64))
    np.testing.assert_allclose(report.largest, [1.5], rtol=1e-13)
    np.testing.assert_allclose(report.smallest, [smallest], atol=1e-14)
    np.testing.assert_allclose(
        report.condition, [1.5 / smallest], rtol=1e-14 / smallest
    )


def test_a_step_that_forgets_a_direction_has_a_singular_value_of_zero(dtype):
    table, denoise = linear_model(spectrum([1.5, 1.0, 0.7, 0.0]))
    report = step_conditioning(table, denoise, jnp.ones((2, 4), dtype))
    assert float(report.smallest[0]) <= 10 * float(jnp.finfo(dtype).eps)


def test_values_of_a_small_space_are_bounds_with_true_errors(float64):
    # 200 unknowns, 12 vectors: the edges of the spectrum are not resolved.
    sigma = np.linspace(1.5, 0.01, 200)
    table, denoise = linear_model(spectrum(sigma))
    states = jnp.ones((2, 200), float64)
    for seed in range(3):
        report = step_conditioning(
            table, denoise, states, num_vectors=12, key=jax.random.key(seed)
        )
        assert float(report.largest[0]) <= sigma[0] * (1 + 1e-14)
        assert float(report.smallest[0]) >= sigma[-1]
        for value, error in (
            (report.largest[0], report.largest_error[0]),
            (report.smallest[0], report.smallest_error[0]),
        ):
            assert 0 < np.min(np.abs(sigma - float(value))) <= float(error)
    more = step_conditioning(table, denoise, states, num_vectors=40)
    assert float(more.smallest[0]) < float(report.smallest[0])
    assert float(more.smallest_error[0]) < float(report.smallest_error[0])


def test_an_invariant_space_ends_early_without_spoiling_the_values(dtype):
    # A multiple of the identity: one vector spans an invariant space.
    table, denoise = linear_model(0.25 * np.eye(8))
    report = step_conditioning(table, denoise, jnp.ones((2, 8), dtype))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(report.largest, [0.25], rtol=10 * eps)
    np.testing.assert_allclose(report.smallest, [0.25], rtol=10 * eps)
    assert float(report.smallest_error[0]) == 0


def test_amplification_is_what_an_error_does_to_the_inverse(float64):
    matrix = spectrum([2.0, 1.0, 0.5, 0.01])
    table, denoise = linear_model(matrix)
    x = jnp.asarray([1.0, -2.0, 0.5, 3.0], float64)
    states = jnp.stack([jnp.asarray(matrix) @ x, x])
    report = step_conditioning(table, denoise, states)
    # An error in the direction that the step squeezes most.
    left = np.linalg.svd(matrix)[0][:, -1]
    wrong = np.linalg.solve(matrix, np.asarray(states[0]) + 1e-6 * left)
    relative_before = 1e-6 / np.linalg.norm(states[0])
    relative_after = np.linalg.norm(wrong - x) / np.linalg.norm(x)
    np.testing.assert_allclose(
        report.amplification, [relative_after / relative_before], rtol=1e-8
    )


def test_the_report_points_at_the_step_that_loses_the_noise(float64):
    # Of three steps only the second (from tau = 3 to 2) squeezes a direction.
    grid = ji.TimeGrid(np.arange(1.0, 5.0), np.ones(4), np.arange(1.0, 5.0))
    squeeze = spectrum([1.0, 1.0, 1e-3])

    def denoise(x, t):
        matrix = jnp.where(t == 3.0, jnp.asarray(squeeze), jnp.eye(3))
        return x - matrix @ x

    report = step_conditioning(ji.ddim(grid), denoise, jnp.ones((4, 3), float64))
    assert int(np.argmax(report.amplification)) == 1
    np.testing.assert_allclose(report.smallest, [1, 1e-3, 1], rtol=1e-10)


# --- whole trajectories -------------------------------------------------------------


@pytest.mark.parametrize("constructor", [ji.ddim, ji.dpmpp_3m])
def test_singular_values_of_a_sampling_are_those_of_the_dense_jacobian(
    constructor, noise
):
    table, denoise = constructor(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    report = trajectory_conditioning(table, denoise, noise, num_vectors=SIZE)
    jacobian = jax.jit(jax.jacfwd(lambda z: ji.sample(table, denoise, z)))(noise)
    sigma = singular_values(jacobian)
    slack = 1000 * np.finfo(float).eps * sigma[0]
    np.testing.assert_allclose(report.largest, sigma[0], atol=slack)
    np.testing.assert_allclose(report.smallest, sigma[-1], atol=slack)
    x0 = ji.sample(table, denoise, noise)
    relative = jnp.linalg.norm(x0) / jnp.linalg.norm(noise)
    np.testing.assert_allclose(report.amplification * report.smallest, relative)


# --- interface ----------------------------------------------------------------------


def test_the_start_vector_is_fixed_unless_a_key_is_given(noise):
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    states = ji.sample_trajectory(table, denoise, noise)
    first, again, other = (
        step_conditioning(table, denoise, states, num_vectors=3, key=key).smallest
        for key in (None, None, jax.random.key(7))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_batch_is_as_one_by_one(noise):
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    noises = jnp.stack([noise, 2 * noise])
    states = jax.vmap(lambda z: ji.sample_trajectory(table, denoise, z))(noises)
    batch = jax.jit(jax.vmap(lambda s: step_conditioning(table, denoise, s)))(states)
    for k in range(2):
        single = step_conditioning(table, denoise, states[k])
        np.testing.assert_allclose(batch.smallest[k], single.smallest, rtol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trajectory": jnp.ones((4, 3))}, "expected the 2 states"),
        ({"trajectory": jnp.ones(())}, "expected the 2 states"),
        ({"trajectory": jnp.full((2, 3), jnp.nan)}, "must be finite"),
        ({"trajectory": jnp.ones((2, 3), int)}, "floating-point"),
        ({"num_vectors": 0}, "at least 1"),
        ({"denoise": lambda x, t: x[:1]}, "must return the shape"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(change, message):
    table, denoise = linear_model(np.eye(3))
    good = {"denoise": denoise, "trajectory": jnp.ones((2, 3)), "num_vectors": 3}
    with pytest.raises(ValueError, match=message):
        step_conditioning(table, **(good | change))


def test_bidiagonalization_reproduces_the_matrix_in_orthonormal_bases(float64):
    matrix = jnp.asarray(spectrum([3.0, 2.0, 1.0, 0.5, 0.25]))
    start = jnp.arange(1.0, 6.0)
    small, beta = bidiagonalize(
        lambda v: matrix @ v, lambda u: matrix.T @ u, start, num_vectors=9
    )
    assert small.shape == (5, 5)
    assert float(beta) == 0
    np.testing.assert_array_equal(small, np.triu(np.tril(small, 1)))
    np.testing.assert_allclose(
        np.linalg.svd(small, compute_uv=False), [3, 2, 1, 0.5, 0.25], rtol=1e-13
    )
