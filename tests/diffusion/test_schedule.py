"""Schedules and grids: diffusers' numbers, exact interpolation, clear refusals."""

import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES, each
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

import jaxinv as ji
from jaxinv.diffusion.grid import INVERTIBLE_RATIO, make_grid
from jaxinv.diffusion.schedule import vp_schedule

EPS32 = np.finfo(np.float32).eps
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")

BETAS = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled_linear": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "trained_betas": {"trained_betas": list(np.linspace(0.001, 0.03, 200) ** 1.1)},
}

# As published with the weights.
SD_1_5 = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SD_2_1 = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SD_3 = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.29.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}


def alpha_squared(schedule):
    return schedule.scale(schedule.taus) ** 2


# --- noise levels -------------------------------------------------------------------


@pytest.mark.parametrize("betas", each(BETAS))
def test_noise_levels_are_those_of_diffusers(betas):
    ours = alpha_squared(ji.schedule_from_diffusers(betas)).astype(np.float32)
    theirs = DDIMScheduler(**betas).alphas_cumprod.numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_this_librarys_own_constructors_differ_by_the_rounding_of_float32():
    # Each factor 1 - beta is rounded; the first noise level is the square root of beta.
    ours, theirs = ji.scaled_linear(), ji.schedule_from_diffusers(SD_1_5)
    np.testing.assert_allclose(theirs.taus, ours.taus, rtol=EPS32 / 0.00085 / 2)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_model_time_is_exact_at_training_times(schedule):
    np.testing.assert_allclose(
        schedule.model_time(schedule.taus), schedule.model_times, rtol=1e-13, atol=1e-9
    )


@pytest.mark.parametrize("schedule", each(SCHEDULES | {"cosine": ji.cosine()}))
def test_model_time_increases_with_noise(schedule):
    levels = np.geomspace(schedule.taus[0], schedule.taus[-1], 5001)
    assert np.all(np.diff(schedule.model_time(levels)) > 0)


def test_vp_model_time_is_linear_in_log_snr_between_training_times():
    schedule = ji.scaled_linear()
    middle = np.sqrt(schedule.taus[:-1] * schedule.taus[1:])
    expected = schedule.model_times[:-1] + 0.5
    np.testing.assert_allclose(schedule.model_time(middle), expected, rtol=1e-10)


def test_model_time_is_clamped_to_the_training_range():
    schedule = ji.scaled_linear()
    outside = np.array([0.0, 1e9])
    np.testing.assert_array_equal(schedule.model_time(outside), [0.0, 999.0])


def test_scale_is_alpha_for_vp_and_one_otherwise():
    tau = np.array([0.0, 0.5, 2.0])
    alpha = 1 / np.sqrt(1 + tau**2)
    np.testing.assert_allclose(ji.scaled_linear().scale(tau), alpha, rtol=1e-15)
    for schedule in (ji.flow_matching(), ji.variance_exploding()):
        np.testing.assert_array_equal(schedule.scale(tau), np.ones(3))


def test_sampling_starts_from_sigma_max_for_ve_and_from_unit_noise_otherwise():
    scales = [s.init_noise_scale for s in SCHEDULES.values()]
    np.testing.assert_allclose(scales, [1.0, 1.0, 20.0], rtol=1e-15)


# --- grids --------------------------------------------------------------------------


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_timesteps_are_those_of_ddim_scheduler(spacing, offset, set_alpha_to_one):
    config = {
        "steps_offset": offset,
        "set_alpha_to_one": set_alpha_to_one,
        "timestep_spacing": spacing,
    }
    schedule = ji.schedule_from_diffusers(BETAS["scaled_linear"] | config)
    scheduler = DDIMScheduler(**BETAS["scaled_linear"], **config)
    for steps in (1, 2, 7, 10, 20, 30, 50, 96, 128, 333, 999):
        scheduler.set_timesteps(steps)
        grid = ji.time_grid(schedule, steps, spacing)
        # Integers, but for the rounding of the interpolation.
        np.testing.assert_allclose(
            grid.model_time[1:], scheduler.timesteps.numpy()[::-1], atol=1e-9
        )
        final = float(scheduler.final_alpha_cumprod)
        np.testing.assert_allclose(grid.scale[0] ** 2, final, rtol=EPS32)


@pytest.mark.parametrize("steps", [61, 62])
def test_ddim_that_goes_on_from_its_own_data_is_refused(steps):
    schedule = ji.linear(timestep_spacing="trailing")
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    if len(scheduler.timesteps) == steps:
        assert ji.ddim_diffusers(schedule, steps).num_steps == steps
        return
    with pytest.raises(ValueError, match="at timestep -1"):
        ji.ddim_diffusers(schedule, steps)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_float32_has_the_digits_of_steps_from_almost_pure_noise(kind):
    # tau = 2e4: f would have lost three digits of the prediction.
    schedule = ji.cosine(prediction_type=kind)
    sampler = ji.dpmpp_2m(make_grid(schedule, 20, "linspace"))
    denoise = ji.as_denoiser(lambda x, t: jnp.sin(2 * x + 1e-3 * t), schedule)
    noise = np.random.default_rng(0).standard_normal((4, 4))
    single = ji.sample_trajectory(sampler, denoise, noise.astype(np.float32))
    with jax.enable_x64(True):
        double = ji.sample_trajectory(sampler, denoise, noise)
    np.testing.assert_allclose(single, double, atol=1e-5)


@pytest.mark.parametrize("make", [ji.ddim, ji.dpmpp_2m, ji.dpmpp_3m, ji.unipc])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_zero_terminal_snr_is_sampled_and_inverted(kind, make, float64):
    alphas = np.linspace(0.9999, 0, 1000)
    schedule = vp_schedule(alphas, prediction_type=kind)
    sampler = make(make_grid(schedule, 12, "trailing"))
    assert np.isinf(sampler.tau[-1])
    denoise = ji.as_denoiser(lambda x, t: jnp.tanh(0.4 * x + 1e-3 * t), schedule)
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
    x0 = ji.sample(sampler, denoise, noise)
    found = ji.invert(sampler, denoise, x0)
    assert bool(found.converged)
    np.testing.assert_allclose(found.noise, noise, atol=1e-11)


def test_zero_terminal_snr_is_refused_for_predictions_of_the_noise():
    with pytest.raises(ValueError, match="says nothing of the data"):
        vp_schedule(np.linspace(0.9999, 0, 1000))
    schedule = vp_schedule(np.linspace(0.9999, 0, 1000), prediction_type="sample")
    with pytest.raises(ValueError, match="cannot start at zero terminal SNR"):
        ji.time_grid(schedule, 20)


def test_trailing_grid_has_n_steps_for_every_n():
    # diffusers returns one timestep too many, -1, for 62 of the first 1000 numbers.
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert scheduler.timesteps.tolist()[-1] == -1
    schedule = ji.linear()
    for steps in range(1, 1001):
        grid = ji.time_grid(schedule, steps, "trailing")
        assert grid.num_steps == steps
        assert grid.model_time[-1] == 999


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_grid_is_that_of_flow_match_euler(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = ji.flow_matching(shift=shift)
    for steps in (1, 4, 20, 28, 50):
        scheduler.set_timesteps(steps)
        grid = ji.time_grid(schedule, steps, "linspace")
        sigmas = scheduler.sigmas.double().numpy()[::-1]
        times = scheduler.timesteps.double().numpy()[::-1]
        # A dozen float32 operations lead to a sigma.
        np.testing.assert_allclose(grid.tau, sigmas, rtol=12 * EPS32)
        np.testing.assert_allclose(grid.model_time[1:], times, rtol=12 * EPS32)


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_log_snr_grid_has_one_noise_level_ratio_over_the_training_range(name):
    schedule = SCHEDULES[name]
    grid = ji.time_grid(schedule, 20)
    ratio = (schedule.taus[0] / schedule.taus[-1]) ** (1 / 20)
    np.testing.assert_allclose(grid.ratio, ratio, rtol=1e-12)
    np.testing.assert_allclose(grid.tau[[0, -1]], schedule.taus[[0, -1]], rtol=1e-12)


def test_flow_log_snr_grid_is_uniform_up_to_pure_noise():
    schedule = ji.flow_matching()
    tau = ji.time_grid(schedule, 20).tau
    steps = np.diff(np.log(tau[:-1] / (1 - tau[:-1])))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-10)
    np.testing.assert_allclose(tau[[0, -1]], schedule.taus[[0, -1]], rtol=1e-12)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_log_snr_grid_exists_for_every_number_of_steps(schedule):
    for steps in (1, 2, 3, 10, 999, 1000):
        grid = ji.time_grid(schedule, steps)
        assert grid.num_steps == steps
        assert np.all(np.diff(grid.model_time) > 0)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_karras_grid_is_uniform_in_the_seventh_root_over_the_training_range(schedule):
    grid = ji.time_grid(schedule, 20, "karras")
    # In a flow the last level is pure noise, whose sigma / alpha is infinite.
    inner = slice(None, -1) if schedule.family == "flow" else slice(None)
    root = (grid.tau[inner] / grid.signal[inner]) ** (1 / 7)
    np.testing.assert_allclose(np.diff(root), np.diff(root)[0], rtol=1e-10)
    ends = schedule.taus[[0, -1]]
    np.testing.assert_allclose(grid.tau[[0, -1]], ends, rtol=1e-15)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_exponential_is_another_name_for_log_snr(schedule):
    ours, theirs = (ji.time_grid(schedule, 20, s) for s in ("exponential", "log_snr"))
    np.testing.assert_array_equal(ours.tau, theirs.tau)


# --- warnings -----------------------------------------------------------------------


def lossy(make):
    """The messages of a call's grid warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    assert all(w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught if w.category is ji.LossyGridWarning]


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_the_number_of_steps_in_the_warning_is_the_smallest_without_one(schedule):
    (message,) = lossy(lambda: ji.time_grid(schedule, 4))
    steps = int(re.search(r"time_grid\(schedule, (\d+)\)", message)[1])
    assert not lossy(lambda: ji.time_grid(schedule, steps))
    assert len(lossy(lambda: ji.time_grid(schedule, steps - 1))) == 1
    assert ji.time_grid(schedule, steps).ratio.min() >= INVERTIBLE_RATIO


def test_the_warning_names_the_worst_step():
    schedule = ji.scaled_linear(set_alpha_to_one=False, steps_offset=1)
    grid = ji.time_grid(schedule, 20, "leading")
    (message,) = lossy(lambda: ji.time_grid(schedule, 20, "leading"))
    assert f"keeps only {grid.ratio.min():.2g} of the noise level" in message


def test_the_warning_of_a_step_to_zero_says_what_the_others_keep():
    schedule = ji.scaled_linear()
    grid = ji.time_grid(schedule, 20, "trailing")
    (message,) = lossy(lambda: ji.time_grid(schedule, 20, "trailing"))
    assert "to 0, keeps nothing of the noise" in message
    assert f"the smallest other ratio is {grid.ratio[1:].min():.2g}" in message


def test_reading_a_sampler_or_a_grid_from_diffusers_warns_once():
    config = SD_2_1 | {"_class_name": "DPMSolverMultistepScheduler"}
    for read in (ji.sampler_from_diffusers, ji.grid_from_diffusers):
        assert len(lossy(lambda read=read: read(config, 20))) == 1


# --- from diffusers -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["dict", "file", "folder", "string"])
def test_schedule_is_read_from_a_dict_a_file_or_a_folder(form, tmp_path):
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(SD_1_5))
    source = {"dict": SD_1_5, "file": file, "folder": tmp_path, "string": str(file)}
    schedule = ji.schedule_from_diffusers(source[form])
    expected = DDIMScheduler.from_config(SD_1_5).alphas_cumprod.numpy()
    np.testing.assert_array_equal(alpha_squared(schedule).astype("f4"), expected)


def test_sd_1_5_configuration_keeps_its_offset_and_end():
    schedule = ji.schedule_from_diffusers(SD_1_5)
    assert schedule.prediction_type == "epsilon"
    assert schedule.timestep_spacing == "leading"
    assert (schedule.steps_offset, schedule.set_alpha_to_one) == (1, False)


def test_sd_2_1_configuration_predicts_v():
    schedule = ji.schedule_from_diffusers(SD_2_1)
    assert schedule.prediction_type == "v_prediction"


def test_sd_3_configuration_is_a_shifted_flow():
    schedule = ji.schedule_from_diffusers(SD_3)
    assert (schedule.family, schedule.prediction_type) == ("flow", "flow")
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(schedule.taus, 3 * t / (1 + 2 * t), rtol=1e-14)


def test_a_missing_file_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        ji.schedule_from_diffusers(tmp_path / "nowhere.json")


# --- refusals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True},
            "says nothing of the data",
        ),
        (
            {"trained_betas": [0.1, 0.5, 1.0], "num_train_timesteps": 3},
            "says nothing of the data",
        ),
        ({"trained_betas": [0.1, 0.5]}, "2 values, but num_train_timesteps is 1000"),
        ({"prediction_type": "flow_prediction"}, "only supported together"),
        ({"beta_schedule": "sigmoid"}, "unknown beta_schedule 'sigmoid'"),
        (
            {"prediction_type": "score"},
            "predict.*type.*score",
        ),
        ({"timestep_spacing": "karras"}, "unknown timestep_spacing 'karras'"),
        ({"beta_start": 0.0}, "0 < beta_start"),
        (
            {"num_train_timesteps": 0},
            "num_train_timesteps: expected an integer of at least 1",
        ),
    ],
)
def test_configurations_that_cannot_be_used_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ji.schedule_from_diffusers(SD_1_5 | change)


def test_a_shift_that_depends_on_the_image_size_is_refused():
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        ji.schedule_from_diffusers(SD_3 | {"use_dynamic_shifting": True})


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_numbers_of_steps_outside_of_training_are_refused(steps):
    with pytest.raises(ValueError, match="between 1 and the 1000"):
        ji.time_grid(ji.scaled_linear(), steps)


def test_an_offset_past_the_last_timestep_is_refused():
    schedule = ji.scaled_linear(steps_offset=1)
    with pytest.raises(ValueError, match="past the last training timestep"):
        ji.time_grid(schedule, 1000, "leading")


def test_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match=r"spacing must be one of log_snr, .*'cosmic'"):
        ji.time_grid(ji.scaled_linear(), 10, "cosmic")


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_timestep_spacings_that_flow_matching_lacks_are_refused(spacing):
    with pytest.raises(ValueError, match="not defined for flow matching"):
        ji.time_grid(ji.flow_matching(), 10, spacing)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ji.linear(0.02, 1e-4),
        lambda: ji.scaled_linear(0.1, 1.5),
        lambda: ji.cosine(0),
        lambda: ji.flow_matching(shift=0.0),
        lambda: ji.flow_matching(0),
        lambda: ji.variance_exploding(1.0, 0.5),
        lambda: ji.variance_exploding(0.0, 1.0),
        lambda: ji.scaled_linear(prediction_type="noise"),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(ValueError, match=r"expected|needs|must be"):
        make()


@pytest.mark.parametrize(
    "tau",
    [
        [0.1],
        [0.2, 0.1],
        [0.1, 0.5, 0.5],
        [-0.1, 0.5],
        [0.1, np.nan, 0.5],
        [0.1, np.inf],
    ],
    ids=["one level", "decreasing", "constant", "negative", "nan", "infinite"],
)
def test_grids_that_do_not_increase_are_refused(tau):
    tau = np.array(tau)
    with pytest.raises(ValueError, match="strictly increase"):
        ji.TimeGrid(tau, np.ones_like(tau), tau)
