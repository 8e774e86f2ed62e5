"""What sweeps measure of a model's Jacobians, and the step that follows from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from jaxinv.inversion.row_residuals import residuals
from jaxinv.inversion.trajectory_secants import (
    MAX_UNKNOWNS,
    forget,
    newton_step,
    no_secants,
    record,
)
from jaxinv.sampling.sample import in_dtype

VP = ji.scaled_linear()
STEPS, SIZE = 5, 3


@pytest.fixture(params=[ji.ddim, ji.dpmpp_2m, ji.dpmpp_3m], ids=["1", "2", "3"])
def linear(request, float64):
    """A table, a linear model per level, and a trajectory that does not fit them."""
    table = in_dtype(request.param(ji.time_grid(VP, STEPS, "karras")), float64)
    rng = np.random.default_rng(0)
    jacobians = jnp.asarray(rng.standard_normal((STEPS, SIZE, SIZE)) / 4)
    start = jnp.asarray(rng.standard_normal(SIZE))
    states = jnp.asarray(rng.standard_normal((STEPS, SIZE)))
    return table, jacobians, start, states


def outputs(jacobians, states):
    return jnp.einsum("nij,nj->ni", jacobians, states)


def measured(table, jacobians, start, states, directions):
    """Secants along as many random directions as asked for."""
    secants = no_secants(table, start, 10)
    for seed in range(directions):
        key = jax.random.key(seed)
        change = jax.random.normal(key, states.shape, states.dtype)
        secants = record(table, secants, change, outputs(jacobians, change))
    return secants


def residual_after(table, jacobians, start, states, secants, open_rows=True):
    before, _ = residuals(table, start, states, outputs(jacobians, states))
    rows = jnp.broadcast_to(open_rows, (STEPS,))
    states = states + newton_step(table, secants, before, rows)
    after, _ = residuals(table, start, states, outputs(jacobians, states))
    return float(jnp.linalg.norm(after) / jnp.linalg.norm(before))


def test_directions_that_span_the_space_give_newtons_step(linear):
    secants = measured(*linear, directions=SIZE)
    # Exact but for the damping, eps^(3/4) = 2e-12, times the condition.
    assert residual_after(*linear, secants) < 1e-8


def test_every_direction_helps(linear):
    left = [residual_after(*linear, measured(*linear, directions=m)) for m in (0, 2, 3)]
    assert left[0] > 1e-2 > left[2]
    assert left[1] > left[2]


def test_states_of_closed_rows_do_not_move(linear):
    table, jacobians, start, states = linear
    secants = measured(*linear, directions=2)
    residual, _ = residuals(table, start, states, outputs(jacobians, states))
    step = newton_step(table, secants, residual, jnp.arange(STEPS) >= 2)
    assert np.all(step[:2] == 0)
    assert np.all(step[2:] != 0)


def test_the_oldest_measurement_makes_room(linear):
    table, jacobians, start, states = linear
    secants = no_secants(table, start, 2)
    for k in range(3):
        change = jnp.full_like(states, float(k + 1))
        secants = record(table, secants, change, outputs(jacobians, change))
    assert sorted(secants.d_states[0, :, 0].tolist()) == [2.0, 3.0]


def test_what_cannot_be_used_is_not_recorded(linear):
    table, _, start, states = linear
    secants = no_secants(table, start, 3)
    for change, output in ((0.0, 1.0), (1.0, jnp.nan), (jnp.nan, 1.0)):
        after = record(
            table, secants, jnp.full_like(states, change), jnp.full_like(states, output)
        )
        np.testing.assert_array_equal(after.slopes, secants.slopes)
        assert np.all(after.d_states == 0)
        assert np.all(after.d_outputs == 0)


def test_a_restart_forgets_directions_and_keeps_slopes(linear):
    secants = measured(*linear, directions=3)
    forgotten = forget(secants, jnp.array(True))
    assert np.all(forgotten.d_states == 0)
    np.testing.assert_array_equal(forgotten.slopes, secants.slopes)
    kept = forget(secants, jnp.array(False))
    np.testing.assert_array_equal(kept.d_states, secants.d_states)


def test_many_levels_keep_fewer_directions():
    table = ji.ddim(ji.time_grid(VP, 500))
    kept = no_secants(table, jnp.ones(SIZE, jnp.float32), 20).d_states.shape[1]
    assert kept == MAX_UNKNOWNS // 500
