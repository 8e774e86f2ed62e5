"""RF-Solver, FireFlow and Rex: the papers' loops, state for state."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES
from gaussian_mixture import SHAPE, gaussian_mixture

import jaxinv as ji
from jaxinv.samplers.registry import sampler_on_spacing

FLOW = ji.flow_matching(shift=3.0)
STEPS = 8
NOISE = np.random.default_rng(1).standard_normal(SHAPE)


def flux_grid(steps=STEPS, end=0.0):
    """Uniform times, shifted, from noise to data."""
    t = np.linspace(end, 1, steps + 1)
    tau = FLOW.shift * t / (1 + (FLOW.shift - 1) * t)
    return ji.TimeGrid(tau, np.ones_like(tau), 1000 * tau, family="flow")


def rf_solver_by_hand(velocity, x, times):
    for t, after in itertools.pairwise(times):
        h, v = after - t, velocity(x, t)
        middle = velocity(x + h / 2 * v, t + h / 2)
        x = x + h * v + h**2 / 2 * (middle - v) / (h / 2)
    return x


def fireflow_by_hand(velocity, x, times):
    v = velocity(x, times[0])
    for t, after in itertools.pairwise(times):
        h = after - t
        v = velocity(x + h / 2 * v, t + h / 2)
        x = x + h * v
    return x


BY_HAND = {"rf_solver": rf_solver_by_hand, "fireflow": fireflow_by_hand}


def rex_by_hand(velocity, x, times, coupling):
    """In the paper's coordinates: x / sigma, a function of alpha / sigma."""

    def data(x, t):
        return x - t * velocity(x, t)

    w = x
    for t, after in itertools.pairwise(times):
        h = (1 - after) / after - (1 - t) / t
        mixed = coupling * x + (1 - coupling) * w
        x = after / t * mixed + after * h * data(w, t)
        w = after / t * w + after * h * data(x, after)
    return x


def exact_velocity(schedule):
    model = gaussian_mixture(schedule)
    return model, lambda x, t: model(x, jnp.asarray(1000 * t))


@pytest.mark.parametrize("name", BY_HAND)
def test_midpoint_methods_take_the_papers_steps_in_both_directions(name, float64):
    model, velocity = exact_velocity(FLOW)
    grid = flux_grid()
    middles, noise = ji.with_midpoints(FLOW, grid), jnp.asarray(NOISE)
    table = getattr(ji, name)(middles)
    x0 = ji.sample(table, model, noise)
    expected = BY_HAND[name](velocity, noise, grid.tau[::-1])
    np.testing.assert_allclose(x0, expected, atol=1e-14)
    backward = ji.Backward(getattr(ji, name), middles)
    found = ji.invert(table, model, x0, strategy=backward)
    expected = BY_HAND[name](velocity, x0, grid.tau)
    np.testing.assert_allclose(found.noise, expected, atol=1e-14)


@pytest.mark.parametrize(("name", "evaluations"), [("rf_solver", 16), ("fireflow", 9)])
def test_midpoint_methods_evaluate_nothing_in_vain(name, evaluations):
    table = sampler_on_spacing(name, FLOW, STEPS, "log_snr")
    assert (table.num_steps, table.num_rows) == (STEPS, evaluations)


@pytest.mark.parametrize("coupling", [0.999, 0.5, 1.0])
def test_rex_takes_the_papers_steps(coupling, float64):
    model, velocity = exact_velocity(FLOW)
    grid = flux_grid(end=0.02)
    table = ji.rex(grid, coupling)
    assert table.num_rows == 2 * STEPS - 1
    x0 = ji.sample(table, model, jnp.asarray(NOISE))
    expected = rex_by_hand(velocity, jnp.asarray(NOISE), grid.tau[::-1], coupling)
    np.testing.assert_allclose(x0, expected, atol=1e-13)


def test_rex_refuses_grids_on_which_it_cannot_go_back():
    with pytest.raises(ValueError, match=r"ends above tau = 0; got 8 steps"):
        ji.rex(flux_grid())
    with pytest.raises(ValueError, match="at least 2 steps"):
        ji.rex(ji.time_grid(SCHEDULES["vp"], 1))
    with pytest.raises(ValueError, match="going back divides by it"):
        ji.rex(ji.time_grid(SCHEDULES["vp"], 20), 0.0)


@pytest.mark.parametrize(("name", "rows"), [("rf_solver", 5), ("fireflow", 4)])
def test_an_odd_level_is_left_for_a_step_of_euler(name, rows, float64):
    schedule = SCHEDULES["flow"]
    grid, model = ji.time_grid(schedule, 5), gaussian_mixture(schedule)
    table = getattr(ji, name)(grid)
    assert (table.num_steps, table.num_rows) == (3, rows)
    states = ji.sample_trajectory(table, model, jnp.asarray(NOISE))
    output = model(states[1], jnp.asarray(grid.model_time[1]))
    euler = states[1] + (grid.tau[0] - grid.tau[1]) * output
    np.testing.assert_allclose(states[0], euler, atol=1e-13)


def test_fireflow_needs_a_midpoint():
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        ji.fireflow(ji.time_grid(SCHEDULES["vp"], 1))


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_midpoints_keep_the_levels_and_know_the_schedule(name):
    schedule = SCHEDULES[name]
    grid = ji.time_grid(schedule, 6)
    fine = ji.with_midpoints(schedule, grid)
    assert fine.num_steps == 12
    for field in ("tau", "scale", "model_time"):
        np.testing.assert_array_equal(getattr(fine, field)[::2], getattr(grid, field))
    np.testing.assert_allclose(fine.tau[1::2], (grid.tau[1:] + grid.tau[:-1]) / 2)
    np.testing.assert_allclose(
        fine.model_time[1::2], schedule.model_time(fine.tau[1::2])
    )


def test_a_last_step_of_length_zero_has_no_midpoint():
    schedule = ji.scaled_linear(set_alpha_to_one=False)
    grid = ji.time_grid(schedule, 20, "linspace")
    assert grid.tau[0] == grid.tau[1]
    fine = ji.with_midpoints(schedule, grid)
    assert fine.num_steps == 39
    assert (ji.rf_solver(fine).num_steps, ji.fireflow(fine).num_steps) == (20, 20)
