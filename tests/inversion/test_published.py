"""Algorithms 1 and 2: better than naive, and honest about what they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import MULTISTEP, SCHEDULES, each, relative_error
from gaussian_mixture import SHAPE, gaussian_mixture

import jaxinv as ji
from jaxinv.inversion.algorithm_2 import Algorithm2, algorithm_2
from jaxinv.sampling.sample import in_dtype

STEPS = 10
VP = SCHEDULES["vp"]
NOISE = np.random.default_rng(1).standard_normal(SHAPE)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_the_noise_is_found_better_than_by_naive_inversion(schedule, float64):
    table = MULTISTEP["dpmpp_2m"].build(schedule, STEPS)
    denoise = gaussian_mixture(schedule)
    noise = jnp.asarray(NOISE)
    x0 = ji.sample(table, denoise, noise)
    found = ji.invert(table, denoise, x0, strategy="stepwise", schedule=schedule)
    naive = ji.invert(table, denoise, x0, strategy="naive")
    assert relative_error(found.noise, noise) < 0.5 * relative_error(naive.noise, noise)


@pytest.mark.parametrize("solver", [ji.Anderson(), ji.Gradient()])
def test_solving_its_equations_well_does_not_make_it_exact(solver, float64):
    # The high-order term stays as it was estimated.
    table = in_dtype(MULTISTEP["dpmpp_2m"].build(VP, STEPS), float64)
    denoise = gaussian_mixture(VP)
    x0 = ji.sample(table, denoise, jnp.asarray(NOISE))
    found = algorithm_2(table, denoise, x0, Algorithm2(VP, solver=solver))
    rows = ji.certify(table, denoise, jnp.concatenate([x0[None], found.states]))
    assert np.max(found.residuals) < 1e-5
    assert np.max(rows) > 1e-3


def test_no_certificate_is_claimed_that_was_not_measured():
    table, denoise = MULTISTEP["dpmpp_2m"].build(VP, STEPS), gaussian_mixture(VP)
    x0 = ji.sample(table, denoise, jnp.float32(NOISE))
    result = ji.invert(table, denoise, x0, strategy="stepwise", schedule=VP)
    assert np.all(np.isnan(result.step_residuals))
    assert not bool(result.converged)


def test_algorithm_1_starts_from_the_naive_inverse():
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    x0 = ji.sample(table, denoise, jnp.float32(NOISE))
    # Of a single iteration the start itself is what is left.
    only = ji.Algorithm1(ji.ForwardStep(max_iterations=1))
    found = ji.invert(table, denoise, x0, strategy=only)
    naive = ji.invert(table, denoise, x0, strategy="naive")
    assert relative_error(found.noise, naive.noise) < 1e-6
    assert not bool(found.converged)


def test_algorithm_1_stops_where_the_sum_of_squares_is_below_the_published_bound():
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    x0 = ji.sample(table, denoise, jnp.float32(NOISE))
    found = ji.invert(
        table, denoise, x0, strategy=ji.Algorithm1(), return_trajectory=True
    )
    squares = jnp.sum(found.trajectory[:-1] ** 2, axis=tuple(range(1, 1 + len(SHAPE))))
    assert np.max(found.step_residuals**2 * squares) < 1e-3
    # It stops there, and does not go on to what float32 can hold.
    assert np.max(found.step_residuals**2 * squares) > 1e-6


@pytest.mark.parametrize("name", ["algorithm 1", "algorithm 2"])
def test_evaluations_are_counted_exactly(name):
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return 0.7 * jnp.sin(x + 0.001 * t)

    table = MULTISTEP["dpmpp_3m"].build(VP, 5)
    strategy = ji.Algorithm2(VP)
    if name == "algorithm 1":
        table, strategy = ji.ddim(ji.time_grid(VP, STEPS)), ji.Algorithm1()
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    result = ji.invert(table, denoise, x0, strategy=strategy)
    jax.effects_barrier()
    assert len(calls) == int(result.num_evals)


def test_algorithm_2_is_refused_for_methods_with_stages():
    table = ji.heun(ji.time_grid(VP, 20))
    with pytest.raises(ValueError, match="stages within its steps"):
        ji.invert(
            table, lambda x, t: x, jnp.ones((2, 2)), strategy="stepwise", schedule=VP
        )


def test_algorithm_2_gives_with_edms_network_what_it_gives_with_f():
    schedule = ji.edm()
    table = ji.dpmpp_2m(ji.time_grid(schedule, STEPS))
    network = ji.as_denoiser(lambda x, t: 0.3 * jnp.tanh(x), schedule)
    x0 = 0.4 * jax.random.normal(jax.random.key(3), (3, 3))

    def noise(denoise):
        found = ji.invert(table, denoise, x0, strategy="stepwise", schedule=schedule)
        return found.noise

    assert relative_error(noise(network), noise(lambda x, t: network(x, t))) < 1e-4
