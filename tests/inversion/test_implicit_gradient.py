"""Gradients of an inversion: right, cheap in memory, and never plausible nonsense."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import MULTISTEP, SAMPLERS, SCHEDULES
from gaussian_mixture import SHAPE, VARIANCE, gaussian_mixture
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.callables import Function
from jaxinv.inversion import Trajectory
from jaxinv.inversion.implicit_gradient import AdjointSolve, attach_gradient
from jaxinv.sampling.sample import in_dtype

VP = SCHEDULES["vp"]
STEPS = 10
CASES = SAMPLERS | MULTISTEP
RNG = np.random.default_rng(0)
WEIGHTS, CENTRES = RNG.standard_normal(SHAPE), RNG.standard_normal((3, *SHAPE))


def mixture_of(mixture, x, t, centres):
    """A conditional model: the condition is where the data lies."""
    return dataclasses.replace(mixture, centres=centres)(x, t)


def guided_loss(inputs, table, strategy):
    """A scalar of the noise, of everything that the inverse depends on."""
    mixture = dataclasses.replace(gaussian_mixture(VP), variance=inputs["variance"])
    uncond = jnp.asarray(CENTRES)
    model = Partial(mixture_of, mixture)
    denoise = ji.guided(model, inputs["cond"], uncond, inputs["guidance_scale"])
    result = ji.invert(table, denoise, inputs["x0"], strategy=strategy)
    return jnp.sum(WEIGHTS * jnp.sin(result.noise))


def scaled(gain, x, t):
    """A linear model."""
    del t
    return gain * x


def stretched(gain, x, t):
    return gain * jnp.sin(x + 0.001 * t)


# Few sweeps are kept: what the other tests are about is not how it was solved.
SOLVED = Trajectory(history=6)


def sum_of_noise(gain, x0, table, strategy=SOLVED):
    result = ji.invert(table, Partial(stretched, gain), x0, strategy=strategy)
    return jnp.sum(jnp.sin(result.noise))


@pytest.mark.parametrize(
    ("sampler", "strategy"),
    [
        ("ddim", "stepwise"),
        ("dpmpp_2m", SOLVED),
        ("dpmpp_3m", "auto"),
    ],
)
def test_the_gradient_is_that_of_finite_differences(sampler, strategy, float64):
    table = CASES[sampler].build(VP, STEPS)
    inputs = {
        "x0": jnp.asarray(CENTRES[0] + VARIANCE**0.5 * RNG.standard_normal(SHAPE)),
        "cond": jnp.asarray(CENTRES + 0.2),
        "guidance_scale": jnp.asarray(1.5, float64),
        "variance": jnp.asarray(VARIANCE, float64),
    }
    gradient = jax.grad(guided_loss)(inputs, table, strategy)
    for name, value in inputs.items():
        direction = RNG.standard_normal(value.shape)

        def along(h, name=name, value=value, direction=direction):
            moved = inputs | {name: value + h * direction}
            return float(guided_loss(moved, table, strategy))

        # Fourth order in h: what remains is the inverse's own 1e-13, over h.
        h = 1e-3 * VARIANCE
        difference = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (
            12 * h
        )
        found = float(jnp.sum(gradient[name] * direction))
        assert found == pytest.approx(difference, rel=1e-6), name


def test_the_gradient_of_a_linear_model_is_exact(float64):
    # u[i-1] = (a[i] + b[i] g scale[i]) u[i], so the noise is the data over a product.
    table, gain = ji.ddim(ji.time_grid(VP, STEPS)), jnp.asarray(0.8, float64)
    x0 = jnp.asarray(RNG.standard_normal(SHAPE))
    b, scale = table.b[:, 0], table.scale[1:]
    factors = table.a[:, 0] + b * 0.8 * scale
    noise = x0 * (table.scale[-1] / table.scale[0]) / np.prod(factors)

    def total(table, gain, x0):
        return jnp.sum(
            ji.invert(table, Partial(scaled, gain), x0, strategy=SOLVED).noise
        )

    of_table, of_gain, of_x0 = jax.grad(total, (0, 1, 2))(table, gain, x0)
    close = {"rtol": 1e-11, "atol": 0}
    np.testing.assert_allclose(of_x0, noise / x0, **close)
    log_derivative = np.sum(b * scale / factors)
    np.testing.assert_allclose(of_gain, -jnp.sum(noise) * log_derivative, **close)
    wanted = -jnp.sum(noise) * 0.8 * scale / factors
    np.testing.assert_allclose(of_table.b[:, 0], wanted, **close)
    np.testing.assert_array_equal(of_table.model_time, 0)


def test_every_state_of_the_trajectory_can_be_differentiated(float64):
    table, gain = ji.ddim(ji.time_grid(VP, STEPS)), jnp.asarray(0.8, float64)
    x0 = jnp.asarray(RNG.standard_normal(SHAPE))
    level = STEPS // 2

    def middle(gain):
        denoise = Partial(scaled, gain)
        result = ji.invert(table, denoise, x0, strategy=SOLVED, return_trajectory=True)
        return jnp.sum(result.trajectory[level])

    value, gradient = jax.value_and_grad(middle)(gain)
    steps = table.b[:level, 0] * table.scale[1 : level + 1]
    slopes = steps / (table.a[:level, 0] + 0.8 * steps)
    np.testing.assert_allclose(gradient, -value * np.sum(slopes), rtol=1e-11)


def test_a_float32_gradient_is_as_exact_as_float32():
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    x0 = RNG.standard_normal(SHAPE)
    with jax.enable_x64(True):
        wanted = jax.grad(sum_of_noise)(0.6, jnp.asarray(x0), table)
    found = jax.grad(sum_of_noise)(jnp.float32(0.6), jnp.float32(x0), table)
    assert found.dtype == jnp.float32
    # Ten steps, each off by 1e-6, times the curvature of the loss.
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_a_batch_of_gradients_is_a_loop_of_gradients(float64):
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    x0s = jnp.asarray(RNG.standard_normal((3, *SHAPE)))
    gains = jnp.asarray([0.2, 0.5, 0.9])
    gradient = jax.grad(sum_of_noise, (0, 1))
    together = jax.jit(jax.vmap(lambda g, x: gradient(g, x, table)))(gains, x0s)
    for k in range(3):
        alone = gradient(gains[k], x0s[k], table)
        # Both stop at a relative residual of 1e-12.
        for found, wanted in zip(together, alone, strict=True):
            np.testing.assert_allclose(found[k], wanted, rtol=1e-9, atol=1e-9)


def test_a_sample_without_a_gradient_does_not_touch_the_others(float64):
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    x0s = jnp.asarray(RNG.standard_normal((3, *SHAPE)))
    gradient = jax.vmap(lambda g, x: jax.grad(sum_of_noise, 1)(g, x, table))
    healthy = gradient(jnp.asarray([0.2, 0.5, 0.9]), x0s)
    mixed = gradient(jnp.asarray([0.2, jnp.nan, 0.9]), x0s)
    np.testing.assert_array_equal(mixed[::2], healthy[::2])
    assert np.all(np.isnan(mixed[1]))
    assert np.all(np.isfinite(healthy))


def test_an_unconverged_inverse_has_no_gradient(float64):
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    x0 = jnp.asarray(RNG.standard_normal(SHAPE))
    strategy = Trajectory(max_sweeps=2)
    result = ji.invert(table, Partial(stretched, 0.9), x0, strategy=strategy)
    assert float(result.residual) > 1e-2
    gradients = jax.grad(sum_of_noise, (0, 1))(0.9, x0, table, strategy=strategy)
    assert all(np.all(np.isnan(g)) for g in gradients)


def attached(settings):
    """The gradient from a trajectory that is known, with settings of its solve."""
    table = in_dtype(ji.dpmpp_2m(ji.time_grid(VP, STEPS)), jnp.float64)
    noise = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE))
    denoise = Function.of(gaussian_mixture(VP))
    states = ji.sample_trajectory(table, denoise, noise)
    states = states / table.scale.reshape((-1,) + (1,) * noise.ndim)

    def loss(table, denoise, start, states):
        found = attach_gradient(table, denoise, start, states, settings)
        return jnp.sum(WEIGHTS * jnp.sin(found[-1])) + jnp.sum(found[0])

    gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3)))
    return gradient(table, denoise, states[0], states[1:])


def test_a_linear_solve_that_fails_gives_no_gradient(float64):
    *gradients, of_states = attached(AdjointSolve(max_vectors=1, restarts=0))
    assert all(np.all(np.isnan(g)) for g in jax.tree.leaves(gradients))
    assert not np.any(of_states)


def test_restarts_and_batches_of_levels_do_not_change_the_gradient(float64):
    wanted = attached(AdjointSolve(max_vectors=60, restarts=0))
    for settings in (
        AdjointSolve(max_vectors=8, restarts=30),
        AdjointSolve(levels=4),
    ):
        found = attached(settings)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            scale = np.max(np.abs(b), initial=1)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * scale)


def lookup(parameters, x, t):
    """A model whose arrays are of all kinds."""
    rows = parameters["table"][parameters["rows"]]
    shift = jnp.where(parameters["mask"], jnp.real(parameters["phase"]), 0.0)
    return parameters["gain"] * jnp.sin(x + 0.001 * t) * rows.sum() + shift.sum()


def test_integers_have_no_gradient_and_complex_numbers_have_one(float64):
    table = ji.ddim(ji.time_grid(VP, STEPS))
    x0 = jnp.asarray(RNG.standard_normal(SHAPE))
    parameters = {
        "table": jnp.linspace(0.1, 0.3, 4),
        "rows": jnp.asarray([1, 2]),
        "mask": jnp.asarray([True, False]),
        "phase": jnp.asarray([0.1 + 0.2j, 0.3]),
        "gain": 0.9,
        "key": jax.random.key(0),
    }

    def loss(parameters):
        denoise = Partial(lookup, parameters)
        return jnp.sum(ji.invert(table, denoise, x0, strategy="stepwise").noise)

    def moved(name, step):
        return float(loss(parameters | {name: parameters[name] + step}))

    gradient = jax.grad(loss, allow_int=True)(parameters)
    assert gradient["rows"].dtype == gradient["mask"].dtype == jax.dtypes.float0
    np.testing.assert_array_equal(np.asarray(gradient["table"]) != 0, [0, 1, 1, 0])
    h = 1e-4
    for name, step in [("gain", h), ("phase", np.array([h, 0]))]:
        difference = (moved(name, step) - moved(name, -step)) / (2 * h)
        found = np.real(gradient[name]).ravel()[0]
        assert found == pytest.approx(difference, rel=1e-6)


def test_what_a_denoiser_closes_over_has_a_gradient_too(float64):
    table = ji.ddim(ji.time_grid(VP, STEPS))
    x0 = jnp.asarray(RNG.standard_normal(SHAPE))

    def closed(gain):
        denoise = lambda x, t: stretched(gain, x, t)  # noqa: E731
        return jnp.sum(jnp.sin(ji.invert(table, denoise, x0, strategy=SOLVED).noise))

    found = jax.grad(closed)(0.7)
    wanted = jax.grad(sum_of_noise)(0.7, x0, table)
    assert float(found) == pytest.approx(float(wanted), rel=1e-10)


WIDTH = 20_000


def wide(weights, x, t):
    """A model with much more inside of it than it returns."""
    hidden = jnp.sin(x.sum() * weights + 0.001 * t)
    return 0.5 * x * jnp.mean(jnp.cos(hidden))


def temporary_memory(steps, sweeps):
    """Bytes of the compiled gradient, beyond its arguments and results."""
    table = ji.ddim(ji.time_grid(VP, steps))
    strategy = Trajectory(history=3, max_sweeps=sweeps, chunk=1)

    def loss(weights, x):
        result = ji.invert(table, Partial(wide, weights), x, strategy=strategy)
        return jnp.sum(result.noise)

    arguments = (jnp.ones(WIDTH), jnp.ones(SHAPE))
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.users_compiler
def test_memory_does_not_grow_with_the_iterations_of_the_solver():
    # But for a number that says how many there may be.
    assert abs(temporary_memory(10, 10) - temporary_memory(10, 1000)) < 64


@pytest.mark.users_compiler
def test_memory_does_not_grow_with_the_activations_of_all_levels():
    # Trajectories and Krylov vectors grow with N; they are small beside activations.
    growth = temporary_memory(40, 10) - temporary_memory(10, 10)
    assert growth < 30 * WIDTH * 4 / 4


@pytest.mark.parametrize("p", [0.93, 0.8])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_grids_that_end_without_noise_have_gradients(p, spacing, float64):
    """EDICT has two levels there."""
    config = {
        "_class_name": "DDIMScheduler",
        "set_alpha_to_one": True,
        "timestep_spacing": spacing,
    }
    for table in (
        ji.edict(ji.grid_from_diffusers(config, 4), p),
        ji.ddim(ji.grid_from_diffusers(config, 4)),
    ):
        assert table.tau[0] == 0
        x0 = jnp.asarray(CENTRES[0], float64)

        def loss(gain, x0=x0, table=table):
            return sum_of_noise(gain, x0, table, "auto")

        slope, step = jax.grad(loss)(jnp.asarray(0.3, float64)), 1e-5
        rise = (loss(0.3 + step) - loss(0.3 - step)) / (2 * step)
        assert abs(slope - rise) < 1e-5 * abs(rise)
