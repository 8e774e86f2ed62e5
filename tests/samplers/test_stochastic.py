"""Stochastic samplers: laws, round trips with given noises, noises that retrace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES, each, relative_error
from gaussian_mixture import SHAPE, gaussian_mixture
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.diffusion.grid import make_grid

VP = SCHEDULES["vp"]
STEPS = 20


def stretched(gain, x, t):
    return gain * jnp.sin(x + 0.001 * t)


# Gentle enough that the long last steps of 20 have one preimage.
DENOISE = Partial(stretched, 0.2)


def from_config(name, **options):
    def make(schedule, n):
        config = {
            "_class_name": name,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
        }
        return ji.sampler_from_diffusers(config | options, n)

    return make


STOCHASTIC = {
    "ancestral": lambda schedule, n: ji.ancestral(make_grid(schedule, n)),
    "eta": lambda schedule, n: ji.ancestral(make_grid(schedule, n), 0.4),
    "sde_1": lambda schedule, n: ji.sde_dpm_solver(make_grid(schedule, n), 1),
    "sde_2": lambda schedule, n: ji.sde_dpm_solver(make_grid(schedule, n)),
    "sde_3": lambda schedule, n: ji.sde_dpm_solver(make_grid(schedule, n), 3),
}
SCHEDULERS = {
    "ddpm": from_config("DDPMScheduler", clip_sample=False),
    "ddpm_large": from_config(
        "DDPMScheduler", clip_sample=False, variance_type="fixed_large"
    ),
    "euler_ancestral": from_config("EulerAncestralDiscreteScheduler"),
    "lcm": from_config("LCMScheduler"),
    "tcd": from_config("TCDScheduler"),
}
VP_VE = {name: SCHEDULES[name] for name in ("vp", "ve")}


def normal(*shape, seed=0, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


# --- the law --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ancestral", "sde_1", "sde_2", "sde_3", "eta"])
@pytest.mark.parametrize("schedule", each(VP_VE))
def test_samples_of_gaussian_data_have_its_variance(schedule, name, float64):
    # D = s^2 y / (s^2 + tau^2) is linear, so that variances pass through the rows.
    deviation, n = 0.6, 300
    table = STOCHASTIC[name](schedule, n)
    signal, noise = np.asarray(table.ode.signal), np.asarray(table.ode.noise)
    gain = deviation**2 * signal / (deviation**2 * signal**2 + noise**2)
    (p, q) = np.asarray(table.ode.of_data).T
    slope = (gain - p) / q
    # The covariance of the last k states.
    k = table.history
    covariance = np.zeros((k, k))
    covariance[0, 0] = (table.init_noise_scale / table.scale[-1]) ** 2
    for i in range(n, 0, -1):
        used = min(k, n + 1 - i)
        row = np.zeros(k)
        row[:used] = table.a[i - 1, :used]
        row[:used] += table.b[i - 1, :used] * slope[i : i + used]
        step = np.vstack([row, np.eye(k)[:-1]])
        covariance = step @ covariance @ step.T
        covariance[0, 0] += table.noise[i - 1] ** 2
    found = np.sqrt(covariance[0, 0]) / np.asarray(table.ode.unit)[0]
    wanted = np.hypot(deviation, np.asarray(table.tau)[0])
    assert found == pytest.approx(
        wanted, rel=0.02 if "2" in name or "3" in name else 0.05
    )


def test_ddpms_posterior_is_the_ancestral_step_written_out():
    grid = make_grid(VP, STEPS)
    table = ji.ancestral(grid)
    product = grid.scale**2
    alpha = product[1:] / product[:-1]
    variance = (1 - product[:-1]) / (1 - product[1:]) * (1 - alpha)
    np.testing.assert_allclose(table.noise, np.sqrt(variance), rtol=1e-10)
    # Ho et al. 2020, Eq. 7 and 15, with a prediction of the noise.
    of_x0 = np.sqrt(product[:-1]) * (1 - alpha) / (1 - product[1:])
    of_x = np.sqrt(alpha) * (1 - product[:-1]) / (1 - product[1:])
    of_e = -of_x0 * np.sqrt(1 - product[1:]) / np.sqrt(product[1:])
    np.testing.assert_allclose(table.b[:, 0], of_e, rtol=1e-9)
    a = of_x + of_x0 / np.sqrt(product[1:])
    np.testing.assert_allclose(table.a[:, 0], a, rtol=1e-12)


def test_first_orders_and_no_noise_are_the_samplers_that_they_reduce_to():
    grid = make_grid(VP, STEPS)
    sde, ancestral = ji.sde_dpm_solver(grid, 1), ji.ancestral(grid)
    for name in ("a", "b", "noise"):
        np.testing.assert_allclose(
            getattr(sde, name), getattr(ancestral, name), rtol=1e-12
        )
    silent, ddim = ji.ancestral(grid, 0.0), ji.ddim(grid)
    assert silent.noise is None
    np.testing.assert_allclose(silent.a, ddim.a, rtol=1e-13)
    np.testing.assert_allclose(silent.b, ddim.b, rtol=1e-13)


# --- round trips with given noises ----------------------------------------------------


@pytest.mark.parametrize("name", [*STOCHASTIC, *SCHEDULERS])
@pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")
def test_given_noises_make_a_deterministic_sampler_that_is_inverted(name, float64):
    table = (STOCHASTIC | SCHEDULERS)[name](VP, STEPS)
    noise, noises = normal(3, 4), normal(table.num_rows, 3, 4, seed=1)
    sampler = table.with_noises(noises)
    x0 = ji.sample(sampler, DENOISE, noise)
    silent = ji.sample(table.with_noises(0 * noises), DENOISE, noise)
    assert relative_error(silent, x0) > 0.01
    for strategy in ("auto", "trajectory"):
        found = ji.invert(sampler, DENOISE, x0, strategy=strategy)
        assert bool(found.converged), strategy
        assert relative_error(found.noise, noise) < 1e-10
    states = ji.sample_trajectory(sampler, DENOISE, noise)
    assert np.max(ji.certify(sampler, DENOISE, states)) < 1e-14


@pytest.mark.parametrize("name", ["ancestral", "eta", "ddpm"])
@pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")
def test_naive_inversion_takes_the_given_noises_away(name, float64):
    table = (STOCHASTIC | SCHEDULERS)[name](VP, STEPS)
    noise, noises = normal(3, 4), normal(table.num_rows, 3, 4, seed=1)
    x0 = ji.sample(table.with_noises(noises), DENOISE, noise)

    def error(noises):
        sampler = table.with_noises(noises)
        found = ji.invert(sampler, DENOISE, x0, strategy="naive")
        return relative_error(found.noise, noise)

    assert error(noises) < 0.3 < error(-noises)


def test_the_mixture_is_inverted_at_machine_precision(float64):
    denoise = gaussian_mixture(VP)
    sampler = ji.ancestral(make_grid(VP, 20)).with_noises(normal(20, *SHAPE, seed=1))
    noise = normal(*SHAPE)
    found = ji.invert(sampler, denoise, ji.sample(sampler, denoise, noise))
    assert relative_error(found.noise, noise) < 1e-11


def test_noises_are_batched_and_differentiated(float64):
    table = ji.ancestral(make_grid(VP, 6))
    noises, x0 = normal(2, 6, 5, seed=1), normal(2, 5, seed=2)

    def inverted(x0, noises):
        return ji.invert(table.with_noises(noises), DENOISE, x0).noise

    batch = jax.vmap(inverted)(x0, noises)
    one = [inverted(x, z) for x, z in zip(x0, noises, strict=True)]
    np.testing.assert_allclose(batch, jnp.stack(one), rtol=1e-10)
    np.testing.assert_allclose(jax.jit(inverted)(x0[0], noises[0]), one[0], rtol=1e-10)
    gradient = jax.grad(lambda z: jnp.sum(inverted(x0[0], z) ** 2))(noises[0])
    step = 1e-6 * normal(6, 5, seed=3)
    there, back = (jnp.sum(inverted(x0[0], noises[0] + s) ** 2) for s in (step, -step))
    assert float(jnp.sum(gradient * step)) == pytest.approx(
        float(there - back) / 2, rel=1e-6
    )


def test_missing_and_wrong_noises_are_refused_before_anything_runs():
    table, x = ji.ancestral(make_grid(VP, 6)), jnp.ones((3, 4))
    for call in (ji.sample, ji.invert, ji.sample_trajectory):
        with pytest.raises(ValueError, match="is stochastic: give it the noises"):
            call(table, DENOISE, x)
    with pytest.raises(ValueError, match="takes 6 noises, one for each row"):
        table.with_noises(jnp.ones((5, 3, 4)))
    with pytest.raises(ValueError, match=r"needs \(6, 3, 4\)"):
        ji.sample(table.with_noises(jnp.ones((6, 4))), DENOISE, x)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        table.with_noises(np.ones((6, 3, 4), int))
    other = table.with_noises(jnp.ones((6, 4)))
    with pytest.raises(ValueError, match=r"samples of shape \(4,\)"):
        next(ji.invert_stream(other, DENOISE, [x], lanes=1, strategy="naive"))
    with pytest.raises(ValueError, match="deterministic: it takes no noises"):
        ji.ddim(make_grid(VP, 6)).with_noises(jnp.ones((6, 3)))
    for make in (ji.ancestral, ji.sde_dpm_solver):
        with pytest.raises(ValueError, match="not for flows"):
            make(make_grid(SCHEDULES["flow"], 6))
    given = ji.sde_dpm_solver(make_grid(VP, 6)).with_noises(jnp.ones((6, 3, 4)))
    with pytest.raises(ValueError, match="Algorithm 2 does not invert"):
        ji.invert(given, DENOISE, x, strategy=ji.Algorithm2(VP))


@pytest.mark.parametrize("strategy", ["stepwise", "trajectory"])
def test_noises_have_the_unit_of_large_data(strategy, float64):
    sampler = ji.ancestral(make_grid(VP, 6)).with_noises(5e3 * normal(6, 3, 4))
    noise = 5e3 * normal(3, 4, seed=1)
    x0 = ji.sample(sampler, DENOISE, noise)
    found = ji.invert(sampler, DENOISE, x0, strategy=strategy)
    assert bool(found.converged)
    assert relative_error(found.noise, noise) < 1e-9


# --- clipped data predictions ---------------------------------------------------------


def test_a_clipped_model_is_sampled_and_inverted_where_the_scheduler_clips(float64):
    table = from_config("DDPMScheduler", clip_sample_range=0.8)(VP, STEPS)
    assert table.output.clip == 0.8
    with pytest.raises(ValueError, match=r"pass jaxinv.clipped\(denoiser"):
        ji.sample(table.with_noises(jnp.ones((STEPS, 3, 4))), DENOISE, jnp.ones((3, 4)))
    schedule = ji.scaled_linear()
    denoise = ji.clipped(DENOISE, schedule, 0.8)
    sampler = table.with_noises(0.05 * normal(STEPS, 3, 4, seed=1))
    x0 = ji.sample(sampler, denoise, normal(3, 4))
    assert np.max(np.abs(x0)) <= 0.8 + 1e-12
    # Without a scheduler that clips: the same model, by any sampler.
    ddim = ji.ddim(make_grid(schedule, 20))
    state = normal(3, 4) * 0.3
    same = ji.sample(ddim, ji.clipped(DENOISE, schedule, 1e6), state)
    np.testing.assert_allclose(same, ji.sample(ddim, DENOISE, state), rtol=1e-7)


# --- noises that retrace given data ---------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ancestral", "eta", "sde_1", "ddpm", "euler_ancestral", "tcd"]
)
@pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")
def test_ddpm_inversion_retraces_any_data(name, float64):
    table = (STOCHASTIC | SCHEDULERS)[name](VP, STEPS)
    x0 = 0.4 * normal(3, 4)
    found = ji.ddpm_inversion(table, DENOISE, x0, jax.random.key(0))
    assert bool(found.converged)
    assert float(found.residual) < 1e-12
    sampler = table.with_noises(found.noises)
    again = ji.sample_trajectory(sampler, DENOISE, found.noise)
    assert relative_error(again[0], x0) < 1e-11
    assert relative_error(again, found.trajectory) < 1e-11
    # The states are independent: noises of unit variance would not be these.
    other = ji.ddpm_inversion(table, DENOISE, x0, jax.random.key(1))
    assert relative_error(other.noises, found.noises) > 0.1


def test_edit_friendly_noises_are_larger_than_the_samplers_own(float64):
    # The paper's finding: independent states need noises of a larger variance.
    table = ji.ancestral(make_grid(VP, 40))
    found = ji.ddpm_inversion(table, DENOISE, normal(16, 16), jax.random.key(0))
    assert float(jnp.std(found.noises)) > 1.1


def test_ddpm_inversion_needs_a_stochastic_sampler():
    with pytest.raises(ValueError, match="is deterministic"):
        ji.ddpm_inversion(
            ji.ddim(make_grid(VP, 6)), DENOISE, jnp.ones(3), jax.random.key(0)
        )
