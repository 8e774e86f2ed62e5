"""AIDI, ReNoise, Uni-Inv and Backward: the papers' loops, and their certificates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES, relative_error
from gaussian_mixture import SHAPE, gaussian_mixture

import jaxinv as ji

STEPS = 10
NOISE = np.random.default_rng(1).standard_normal(SHAPE)
WALKS = {
    "aidi": ji.AIDI(7),
    "anderson": ji.AIDI(7, history=3),
    "renoise": ji.ReNoise(),
    "uni_inv": ji.UniInv(),
}


@functools.cache
def problem(name):
    """A sampler of one state with a model, and data from a noise."""
    schedule = SCHEDULES[name]
    table, denoise = ji.ddim(ji.time_grid(schedule, STEPS)), gaussian_mixture(schedule)
    return table, denoise, jax.jit(ji.sample)(table, denoise, jnp.float32(NOISE))


def by_hand(grid, denoise, x0, rule, carry):
    """A walk in the coordinate y, as published: DDIM's row with a known output."""
    scale, times, tau = (
        jnp.float32(v) for v in (grid.scale, grid.model_time, grid.tau)
    )
    y = x0 / scale[0]
    for i in range(1, STEPS + 1):

        def known(output, i=i, y=y):
            return y + (tau[i] - tau[i - 1]) * output

        def output(y, i=i):
            return denoise(scale[i] * y, times[i])

        first = scale[i - 1] * y / scale[i]
        y, carry = rule(known, output, first, float(times[i]), carry)
    return scale[-1] * y


def aidi(known, output, y, time, carry):
    for _ in range(7):
        y = known(output(y))
    return y, carry


def renoise(known, output, y, time, carry):
    outputs = []
    for _ in range(5 if time < 250 else 10):
        outputs.append(output(y))
        y = known(outputs[-1])
    return known(np.mean(outputs if time < 250 else outputs[8:10], axis=0)), carry


def uni_inv(known, output, y, time, carry):
    carry = output(known(carry))
    return known(carry), carry


@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.parametrize("rule", [aidi, renoise, uni_inv], ids=lambda f: f.__name__)
def test_the_noise_is_that_of_the_papers_loop(rule, name):
    table, denoise, x0 = problem(name)
    grid = ji.time_grid(SCHEDULES[name], STEPS)
    found = ji.invert(table, denoise, x0, strategy=WALKS[rule.__name__])
    first = denoise(x0, jnp.float32(grid.model_time[0]))
    expected = by_hand(grid, denoise, x0, rule, first)
    assert relative_error(found.noise, expected) < 1e-5


def test_one_iteration_of_aidi_is_naive_inversion():
    table, denoise, x0 = problem("vp")
    found = ji.invert(table, denoise, x0, strategy=ji.AIDI(1))
    naive = ji.invert(table, denoise, x0, strategy="naive")
    assert relative_error(found.noise, naive.noise) < 1e-6


def test_acceleration_and_iterations_bring_aidi_closer():
    table, denoise, x0 = problem("vp")

    def error(strategy):
        found = ji.invert(table, denoise, x0, strategy=strategy)
        return relative_error(found.noise, NOISE)

    assert error(WALKS["anderson"]) < 0.5 * error(WALKS["aidi"]) < 0.5 * error("naive")


def test_an_iteration_that_ends_at_the_solution_is_certified():
    table, denoise, x0 = problem("vp")
    found = ji.invert(table, denoise, x0, strategy=ji.AIDI(30, history=5))
    assert bool(found.converged)
    assert float(found.residual) < 5e-6


@pytest.mark.parametrize("name", WALKS)
def test_rows_are_measured_and_evaluations_counted_exactly(name):
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return 0.7 * jnp.sin(x + 0.001 * t)

    grid = ji.time_grid(SCHEDULES["vp"], STEPS)
    table = ji.ddim(grid)
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    result = ji.invert(table, denoise, x0, strategy=WALKS[name], return_trajectory=True)
    jax.effects_barrier()
    early = int(np.sum(grid.model_time[1:] < 250))
    own = {
        "aidi": 7 * STEPS,
        "anderson": 7 * STEPS,
        "renoise": 5 * early + 10 * (STEPS - early),
        "uni_inv": STEPS + 1,
    }
    # Those of the rule, of the residuals of the rows, and of the way back. Rows are
    # measured in two calls, for 8 and for 2 of them.
    assert int(result.num_evals) == own[name] + 2 * STEPS
    assert len(calls) == int(result.depth) == own[name] + 2 + STEPS
    rows = ji.certify(table, denoise, result.trajectory)
    np.testing.assert_allclose(result.step_residuals, rows, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", WALKS)
def test_a_batch_is_inverted_as_its_samples_are(name, float64):
    schedule = SCHEDULES["flow"]
    table, denoise = ji.ddim(ji.time_grid(schedule, STEPS)), gaussian_mixture(schedule)
    data = jnp.asarray(np.stack([problem("flow")[2], 0.9 * problem("flow")[2]]), float)

    def one(x):
        return ji.invert(table, denoise, x, strategy=WALKS[name])

    batch = jax.jit(jax.vmap(one))(data)
    for k in range(2):
        assert relative_error(batch.noise[k], one(data[k]).noise) < 1e-9
        assert int(batch.num_evals[k]) == int(one(data[k]).num_evals)


@pytest.mark.parametrize("name", WALKS)
def test_samplers_with_a_longer_memory_are_refused(name):
    table = ji.dpmpp_2m(ji.time_grid(SCHEDULES["vp"], 20))
    with pytest.raises(ValueError, match="samplers with a memory of one state"):
        ji.invert(table, lambda x, t: x, jnp.ones(3), strategy=WALKS[name])


@pytest.mark.parametrize(("name", "least"), [("aidi", 80), ("uni_inv", 21)])
def test_a_limit_below_the_known_cost_is_refused(name, least):
    table, denoise, x0 = problem("vp")
    with pytest.raises(ValueError, match=f"max_evals must be at least {least},"):
        ji.invert(table, denoise, x0, strategy=WALKS[name], max_evals=least - 1)


def test_renoise_cannot_average_more_than_there_is():
    with pytest.raises(ValueError, match="cannot average 3 of 2 outputs"):
        ji.ReNoise(2, averaged=3)


@pytest.mark.parametrize("method", [ji.rf_solver, ji.fireflow, ji.kdpm2])
def test_backward_costs_what_sampling_costs_and_beats_naive_inversion(method):
    schedule = SCHEDULES["flow"]
    grid = ji.with_midpoints(schedule, ji.time_grid(schedule, STEPS))
    table, denoise = method(grid), gaussian_mixture(schedule)
    x0 = ji.sample(table, denoise, jnp.float32(NOISE))
    found = ji.invert(table, denoise, x0, strategy=ji.Backward(method, grid))
    assert int(found.num_evals) == 3 * table.num_rows
    assert np.all(np.isfinite(found.step_residuals))
    assert not bool(found.converged)
    naive = ji.invert(table, denoise, x0, strategy="naive")
    assert relative_error(found.noise, NOISE) < relative_error(naive.noise, NOISE)


def test_backward_of_euler_evaluates_at_the_lower_level():
    table, denoise, x0 = problem("flow")
    grid = ji.time_grid(SCHEDULES["flow"], STEPS)
    found = ji.invert(table, denoise, x0, strategy=ji.Backward(ji.euler, grid))
    lower = ji.invert(table, denoise, x0, strategy=ji.Naive("lower"))
    assert relative_error(found.noise, lower.noise) < 1e-6


def test_backward_refuses_another_method_than_the_samplers():
    table, denoise, x0 = problem("flow")
    grid = ji.time_grid(SCHEDULES["flow"], 2 * STEPS)
    with pytest.raises(ValueError, match="has 10 rows, the method has 11"):
        ji.invert(table, denoise, x0, strategy=ji.Backward(ji.fireflow, grid))


OWN_OUTPUTS = {
    "v": ji.scaled_linear(prediction_type="v_prediction"),
    "edm": ji.edm(),
}


@pytest.mark.parametrize("strategy", [*WALKS, "backward"])
@pytest.mark.parametrize("name", OWN_OUTPUTS)
def test_a_networks_own_output_gives_the_noise_that_f_gives(name, strategy):
    schedule = OWN_OUTPUTS[name]
    grid = ji.time_grid(schedule, STEPS)
    network = ji.as_denoiser(lambda x, t: 0.3 * jnp.tanh(x), schedule)
    x0 = 0.4 * jax.random.normal(jax.random.key(3), (3, 3))
    strategy = ji.Backward(ji.ddim, grid) if strategy == "backward" else WALKS[strategy]

    def noise(denoise):
        return ji.invert(ji.ddim(grid), denoise, x0, strategy=strategy).noise

    assert relative_error(noise(network), noise(lambda x, t: network(x, t))) < 1e-5


def test_backward_refuses_a_grid_of_another_prediction_type():
    grids = [ji.time_grid(s, STEPS) for s in (SCHEDULES["vp"], OWN_OUTPUTS["v"])]
    network = ji.as_denoiser(lambda x, t: 0.3 * jnp.tanh(x), OWN_OUTPUTS["v"])
    strategy = ji.Backward(ji.ddim, grids[0])
    with pytest.raises(ValueError, match="grid of Backward"):
        ji.invert(ji.ddim(grids[1]), network, jnp.ones((3, 3)), strategy=strategy)
