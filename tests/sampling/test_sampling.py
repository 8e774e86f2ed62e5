"""Sampling: diffusers' numbers, the claimed order, and every kind of denoiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from core_cases import (
    MULTISTEP,
    REX_FOR_ITS_ORDER,
    SAMPLERS,
    SCHEDULES,
    each,
    relative_error,
)
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from gaussian_mixture import SHAPE, gaussian_mixture, ode_solution, ode_trajectory

import jaxinv as ji
from jaxinv.samplers.units import in_tau

ORDERS = SAMPLERS | MULTISTEP | REX_FOR_ITS_ORDER
STARTED = {
    key: case
    for key, case in ORDERS.items()
    if case.order > 2 and case.build_started is not None
}
UP_TO_TWO = {key: case for key, case in ORDERS.items() if case.order <= 2}

SCALED_LINEAR = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


# --- parity with diffusers ----------------------------------------------------------


def network(xp, x, t, cond=0.3):
    """A smooth nonlinear stand-in for a network, in any array library."""
    return 0.8 * xp.tanh(1.3 * x + cond) + 0.2 * xp.sin(2.0 * x + 0.004 * t)


def guided_network(xp, x, t):
    uncond, cond = network(xp, x, t, 0.0), network(xp, x, t, 0.3)
    return uncond + 5.0 * (cond - uncond)


def initial_noise():
    return np.random.default_rng(0).standard_normal((8, 8, 4)).astype(np.float32)


def diffusers_trajectory(scheduler, steps, model):
    """The states that a diffusers scheduler passes through, data first."""
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(initial_noise())
    states = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(model(torch, x, float(t)), t, x).prev_sample
        states.append(x)
    return torch.stack(states[::-1]).numpy()


def assert_states_agree(ours, theirs, tolerance=1e-4):
    """The largest error of every state is within a tolerance of the state's RMS."""
    axes = tuple(range(1, theirs.ndim))
    rms = np.sqrt(np.mean(theirs**2, axis=axes))
    error = np.max(np.abs(np.asarray(ours) - theirs), axis=axes)
    assert ours.shape == theirs.shape
    assert np.all(error <= tolerance * rms), (error / rms).max()


def ddim_pair(spacing, prediction_type="epsilon", **config):
    config = SCALED_LINEAR | {
        "timestep_spacing": spacing,
        "prediction_type": prediction_type,
        "clip_sample": False,
        **config,
    }
    return ji.schedule_from_diffusers(config), DDIMScheduler(**config)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_state_of_20_steps_is_that_of_ddim_scheduler(
    spacing, set_alpha_to_one, prediction_type
):
    schedule, scheduler = ddim_pair(
        spacing, prediction_type, set_alpha_to_one=set_alpha_to_one, steps_offset=1
    )
    denoise = ji.as_denoiser(lambda x, t: network(jnp, x, t), schedule)
    ours = ji.sample_trajectory(
        ji.ddim_diffusers(schedule, 20), denoise, initial_noise()
    )
    assert_states_agree(ours, diffusers_trajectory(scheduler, 20, network))


@pytest.mark.parametrize("steps", [1, 7, 30])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_numbers_of_steps_that_do_not_divide_1000_agree_with_ddim_scheduler(
    spacing, steps
):
    schedule, scheduler = ddim_pair(spacing)
    ours = ji.sample_trajectory(
        ji.ddim_diffusers(schedule, steps),
        lambda x, t: network(jnp, x, t),
        initial_noise(),
    )
    assert_states_agree(ours, diffusers_trajectory(scheduler, steps, network))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_guided_samples_agree_with_ddim_scheduler(spacing):
    schedule, scheduler = ddim_pair(spacing, set_alpha_to_one=False, steps_offset=1)
    denoise = ji.guided(
        lambda x, t, cond: network(jnp, x, t, cond), 0.3, 0.0, guidance_scale=5.0
    )
    ours = ji.sample_trajectory(
        ji.ddim_diffusers(schedule, 20), denoise, initial_noise()
    )
    assert_states_agree(ours, diffusers_trajectory(scheduler, 20, guided_network))


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 30), ("trailing", 20)])
def test_ddim_is_ddim_diffusers_where_its_steps_end_on_the_grid(spacing, steps):
    schedule = ji.scaled_linear(steps_offset=1, set_alpha_to_one=False)
    grid = ji.time_grid(schedule, steps, spacing)
    ours, theirs = ji.ddim(grid), ji.ddim_diffusers(schedule, steps, spacing)
    np.testing.assert_allclose(ours.a, theirs.a, rtol=1e-12)
    np.testing.assert_allclose(ours.b, theirs.b, rtol=1e-9)


@pytest.mark.parametrize("steps", [7, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_state_is_that_of_flow_match_euler(shift, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    grid = ji.time_grid(ji.flow_matching(shift=shift), steps, "linspace")
    ours = ji.sample_trajectory(
        ji.euler(grid), lambda x, t: network(jnp, x, t), initial_noise()
    )
    assert_states_agree(ours, diffusers_trajectory(scheduler, steps, network))


def test_ddim_diffusers_refuses_what_diffusers_does_not_have():
    for schedule, spacing in (
        (ji.flow_matching(), "linspace"),
        (ji.variance_exploding(), "leading"),
        (ji.scaled_linear(), "log_snr"),
    ):
        with pytest.raises(ValueError, match=r"VP schedule and|one of leading"):
            ji.ddim_diffusers(schedule, 10, spacing)


# --- convergence --------------------------------------------------------------------


# The rows of singlestep methods alternate between orders 1 and 2.
OF_ONE_ORDER = {k: v for k, v in ORDERS.items() if k != "dpm_solver_singlestep"}


@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("sampler", each(OF_ONE_ORDER))
def test_rows_with_full_history_have_the_claimed_order(sampler, schedule, float64):
    # Rows that are given the exact solution are off by C h^(p + 1) each; there are 1/h.
    numbers = np.array([128, 256, 512])
    tables = [sampler.build(schedule, int(n)) for n in numbers]
    errors = [sum_of_truncation_errors(table, schedule) for table in tables]
    slope = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
    # With error C h^p (1 + c h) the slope is p + O(c h); orders are integers, so a
    # deviation of 0.1 leaves no doubt which it is.
    assert abs(slope - sampler.order) < 0.1, (slope, errors)
    assert {table.order for table in tables} == {sampler.order}


def sum_of_truncation_errors(table, schedule):
    table, k = in_tau(table), table.history
    y, f = exact_solution(schedule, tuple(table.tau), tuple(table.model_time))
    return sum(
        np.linalg.norm(
            y[i - 1]
            - np.tensordot(table.a[i - 1], y[i : i + k], 1)
            - np.tensordot(table.b[i - 1], f[i : i + k], 1)
        )
        for i in range(1, table.num_rows + 2 - k)
        if not table.ends or i - 1 in table.ends  # stages have order 1
    )


@functools.cache
def exact_solution(schedule, taus, times):
    """The ODE's states y and the model's outputs at them; most samplers share one."""
    denoise, tau = gaussian_mixture(schedule), np.array(taus)
    x = ode_trajectory(schedule, denoise, start_of(schedule), tau[::-1])[::-1]
    f = slopes_along(denoise, x, jnp.asarray(times))
    return np.asarray(x) / np.reshape(schedule.scale(tau), (-1, 1, 1, 1)), np.asarray(f)


@jax.jit
def slopes_along(denoise, x, t):
    return jax.vmap(denoise)(x, t)


def start_of(schedule):
    return unit_noise() * schedule.init_noise_scale


def unit_noise():
    return jax.random.normal(jax.random.key(0), SHAPE, jnp.float64)


@functools.cache
def exact_sample(schedule, start, end):
    denoise = gaussian_mixture(schedule)
    return np.asarray(ode_solution(schedule, denoise, start_of(schedule), start, end))


def slope_of_the_final_error(build, schedule):
    """Measured order of whole trajectories, and their errors."""
    denoise = gaussian_mixture(schedule)
    tables = [build(schedule, n) for n in (256, 512)]
    exact = exact_sample(schedule, tables[0].tau[-1], tables[0].tau[0])
    errors = [
        relative_error(ji.sample(table, denoise, unit_noise()), exact)
        for table in tables
    ]
    return np.log2(errors[0] / errors[1]), errors


@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("sampler", each(STARTED))
def test_samples_have_orders_above_2_once_started(sampler, schedule, float64):
    # With a first step of length h^2 the order 1 of starting up does not show. The
    # constants of order 3 are small enough for two terms of the error to interfere.
    slope, errors = slope_of_the_final_error(sampler.build_started, schedule)
    assert abs(slope - sampler.order) < 0.5, (slope, errors)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("sampler", each(UP_TO_TWO))
def test_samples_on_the_default_grid_have_orders_up_to_2(sampler, schedule, float64):
    slope, errors = slope_of_the_final_error(sampler.build, schedule)
    assert abs(slope - sampler.order) < 0.1, (slope, errors)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_the_published_3m_is_of_second_order(schedule, float64):
    def build(schedule, n):
        return ji.dpmpp_3m_diffusers(ji.time_grid(schedule, n))

    slope, errors = slope_of_the_final_error(build, schedule)
    assert abs(slope - 2) < 0.1, (slope, errors)
    assert build(schedule, 20).order == 2


@pytest.mark.parametrize("order", [3, 4])
def test_ipndm_is_of_second_order_where_steps_are_not_even(order, float64):
    def build(schedule, n):
        return ji.ipndm(ji.time_grid(schedule, n), order)

    schedule = SCHEDULES["vp"]
    slope, errors = slope_of_the_final_error(build, schedule)
    assert abs(slope - 2) < 0.1, (slope, errors)
    assert build(schedule, 20).order == 2


def test_sampling_is_exact_when_the_model_output_is_constant(dtype):
    # With f constant the ODE is linear in tau, and Euler's method is exact.
    grid = ji.time_grid(ji.variance_exploding(0.1, 10.0), 20)
    noise = jax.random.normal(jax.random.key(0), (3, 5), dtype)
    x0 = ji.sample(ji.ddim(grid), lambda x, t: jnp.full_like(x, 0.25), noise)
    exact = grid.tau[-1] * noise - (grid.tau[-1] - grid.tau[0]) * 0.25
    # 20 steps of three roundings each, on values of up to tau[N] times 4.
    bound = 60 * jnp.finfo(dtype).eps * grid.tau[-1] * 4
    np.testing.assert_allclose(x0, exact, atol=float(bound))


# --- prediction types ---------------------------------------------------------------


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_a_data_prediction_gives_the_samples_of_the_model_itself(schedule, float64):
    mixture = gaussian_mixture(schedule)
    table = ji.ddim(ji.time_grid(schedule, 20))
    noise = jax.random.normal(jax.random.key(0), SHAPE, float64)
    direct = ji.sample(table, mixture, noise)
    data = ji.from_x0(mixture.predicting("x0"), schedule)
    # (x - D) / tau loses log10(tau_max / tau_min) of the 16 digits, about 4.
    assert relative_error(ji.sample(table, data, noise), direct) < 1e-11


def test_a_v_prediction_gives_the_samples_of_the_noise_prediction(float64):
    schedule = ji.scaled_linear(prediction_type="v_prediction")
    mixture = gaussian_mixture(schedule)
    table = ji.ddim(ji.time_grid(schedule, 20))
    noise = jax.random.normal(jax.random.key(0), SHAPE, float64)
    direct = ji.sample(table, mixture, noise)
    v = ji.as_denoiser(mixture.predicting("v"), schedule)
    assert relative_error(ji.sample(table, v, noise), direct) < 1e-12


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_the_noise_level_of_a_fractional_time_is_the_one_of_the_grid(schedule, float64):
    # from_x0 of a model that predicts 0 returns y / tau: it shows the tau it uses.
    grid = ji.time_grid(schedule, 37)
    denoise = ji.from_x0(lambda x, t: jnp.zeros_like(x), schedule)
    for i in range(1, 38):
        f = denoise(jnp.asarray(grid.scale[i]), jnp.asarray(grid.model_time[i]))
        np.testing.assert_allclose(1 / f, grid.tau[i], rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "schedule", "message"),
    [
        ("score", ji.scaled_linear(), "prediction_type must be one of epsilon"),
        ("flow", ji.scaled_linear(), "does not fit a 'vp' schedule"),
        ("epsilon", ji.flow_matching(), "does not fit a 'flow' schedule"),
        ("v_prediction", ji.flow_matching(), "variance-preserving"),
        ("v_prediction", ji.variance_exploding(), "variance-preserving"),
    ],
)
def test_prediction_types_that_do_not_exist_are_refused(kind, schedule, message):
    with pytest.raises(ValueError, match=message):
        ji.as_denoiser(lambda x, t: x, schedule, kind)


# --- the sampler as a program -------------------------------------------------------


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_a_trajectory_runs_from_the_sample_to_the_scaled_noise(schedule, dtype):
    table = ji.ddim(ji.time_grid(schedule, 5))
    denoise = gaussian_mixture(schedule)
    noise = jax.random.normal(jax.random.key(0), SHAPE, dtype)
    states = ji.sample_trajectory(table, denoise, noise)
    assert states.shape == (6, *SHAPE)
    assert states.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    # Two programs, each with a few roundings per step.
    assert relative_error(states[0], ji.sample(table, denoise, noise)) < 100 * eps
    np.testing.assert_allclose(
        states[-1], noise * schedule.init_noise_scale, rtol=2 * eps
    )


def test_vmap_of_sample_is_a_loop_over_samples():
    schedule = SCHEDULES["vp"]
    table = ji.ddim(ji.time_grid(schedule, 20))
    denoise = gaussian_mixture(schedule)
    noises = jax.random.normal(jax.random.key(0), (8, *SHAPE))
    together = jax.vmap(lambda x: ji.sample(table, denoise, x))(noises)
    for noise, sample in zip(noises, together, strict=True):
        assert relative_error(sample, ji.sample(table, denoise, noise)) < 1e-5


def test_a_sampler_is_a_pytree_that_passes_through_jit():
    schedule = SCHEDULES["vp"]
    table = ji.ddim(ji.time_grid(schedule, 20))
    denoise = gaussian_mixture(schedule)
    noise = jax.random.normal(jax.random.key(0), SHAPE)
    inside = jax.jit(lambda s, d, x: ji.sample(s, d, x))(table, denoise, noise)
    assert relative_error(inside, ji.sample(table, denoise, noise)) < 1e-6


def test_what_a_callers_jit_closes_over_is_checked_when_it_is_traced():
    table = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
    noise = jax.random.normal(jax.random.key(0), SHAPE)

    def there_and_back(weight, noise):
        denoise = jax.tree_util.Partial(lambda w, x, t: w * x, weight)
        other = ji.interpolate(noise, -noise[::-1], weight)
        x0 = ji.sample(table, denoise, noise)
        return ji.invert(table, denoise, x0, strategy="stepwise").noise, other

    weight = jnp.float32(0.9)
    found, other = jax.jit(lambda w: there_and_back(w, noise))(weight)
    assert relative_error(found, noise) < 1e-4
    assert relative_error(other, there_and_back(weight, noise)[1]) < 1e-6
    nothing = noise * jnp.nan
    with pytest.raises(ValueError, match="must be finite"):
        jax.jit(lambda w: there_and_back(w, nothing))(weight)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (np.ones((2, 2), np.int32), "floating-point array, got dtype int32"),
        (np.array([1.0, np.nan], np.float32), "1 of its 2 values are NaN"),
        (np.array([np.inf, np.inf], np.float32), "2 of its 2 values are NaN"),
    ],
    ids=["integer", "nan", "infinite"],
)
def test_noise_that_is_no_noise_is_refused(noise, message):
    table = ji.ddim(ji.time_grid(ji.scaled_linear(), 4))
    with pytest.raises(ValueError, match=message):
        ji.sample(table, lambda x, t: x, noise)


def test_a_network_for_another_latent_shape_is_refused():
    table = ji.ddim(ji.time_grid(ji.scaled_linear(), 4))
    weight = jnp.ones((4, 4))
    denoise = jax.tree_util.Partial(lambda w, x, t: x @ w, weight)
    with pytest.raises(ValueError, match=r"one sample of shape \(8, 8, 3\)"):
        ji.sample(table, denoise, jnp.ones((8, 8, 3)))


def test_a_network_that_returns_another_shape_is_refused():
    table = ji.ddim(ji.time_grid(ji.scaled_linear(), 4))
    with pytest.raises(ValueError, match=r"input, \(8, 3\); it returned \(1, 8, 3\)"):
        ji.sample(table, lambda x, t: x[None], jnp.ones((8, 3)))


def test_what_is_not_callable_is_refused_as_a_denoiser():
    table = ji.ddim(ji.time_grid(ji.scaled_linear(), 4))
    with pytest.raises(ValueError, match="must be callable"):
        ji.sample(table, jnp.ones(3), jnp.ones((8, 3)))
