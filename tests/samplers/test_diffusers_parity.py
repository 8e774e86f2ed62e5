"""Whole trajectories of diffusers' schedulers, state by state, from one configuration.

The same configuration makes the scheduler and the table; the same smooth nonlinear
function stands for the network. diffusers computes in float32: its levels carry a
relative error of about 1e-6 (a product of 1000 factors), which its differences over
levels amplify by at most the number of steps.
"""

import json
import math
import warnings
from pathlib import Path

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxinv as ji
from benchmarks.schedules import compare as comparison
from benchmarks.schedules.__main__ import float32_case, run
from benchmarks.schedules.compare import NOISE, TOLERANCE, compare, in_diffusers
from benchmarks.schedules.draw import CLASSES, DDIM, DEIS, DPM, EDM_DPM, UNIPC, Case
from jaxinv.samplers.units import matched

SCALED_LINEAR = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def network(xp, x, t):
    """A smooth nonlinear stand-in for a network, in any array library."""
    return 0.8 * xp.tanh(1.3 * x + 0.3) + 0.2 * xp.sin(2.0 * x + 0.004 * t)


def initial_noise():
    return np.random.default_rng(0).standard_normal((8, 8, 4)).astype(np.float32)


def table_trajectory(table, denoise):
    """What ``ji.sample_trajectory`` computes, with no program to compile."""
    table, model = matched(table, denoise)
    denoise = model.rebuild(model.arrays)
    scale, times = table.scale, table.model_time
    u, out = {table.num_steps: initial_noise() / scale[-1]}, {}
    for i in range(table.num_steps, 0, -1):
        out[i] = np.asarray(denoise(jnp.float32(scale[i] * u[i]), times[i]))
        ages = range(min(table.history, table.num_steps + 1 - i))
        row = table.a[i - 1], table.b[i - 1]
        u[i - 1] = sum(row[0][j] * u[i + j] + row[1][j] * out[i + j] for j in ages)
    return np.stack([scale[i] * u[i] for i in range(table.num_steps + 1)])


def assert_trajectories_agree(config, steps, tolerance=TOLERANCE):
    """Every state of the table is that of the scheduler, relative to its RMS."""
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    scheduler.set_timesteps(steps)
    x = torch.from_numpy(initial_noise())
    if config["_class_name"] == DEIS and ("use_flow_sigmas" in config or steps > 20):
        # DEIS takes 1/alpha - 1/alpha' near t = 1 and, in order 3, differences of
        # integrals that cancel as 1/h^3: float32 does not have either (50 Karras steps
        # are 4e-4 off). Its arithmetic follows the levels' dtype.
        scheduler.sigmas, x = scheduler.sigmas.double(), x.double()
    states = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(network(torch, x, float(t)), t, x).prev_sample
        states.append(x)
    theirs = torch.stack(states[::-1]).numpy()

    table = ji.sampler_from_diffusers(config, steps)
    schedule = ji.schedule_from_diffusers(config)
    denoise = ji.as_denoiser(lambda x, t: network(jnp, x, t), schedule)
    ours = table_trajectory(table, denoise)
    assert ours.shape == theirs.shape
    rms = np.sqrt(np.mean(theirs**2, axis=(1, 2, 3)))
    error = np.abs(ours - theirs).max(axis=(1, 2, 3)) / rms
    assert np.all(error <= tolerance), error


def case(name, **options):
    return SCALED_LINEAR | {"_class_name": name} | options


SPACINGS = ("leading", "trailing", "linspace")
LEVELS = ("use_karras_sigmas", "use_exponential_sigmas")
N = pytest.mark.parametrize("steps", [5, 20])
ORDERS = pytest.mark.parametrize("order", [1, 2, 3])


@N
@ORDERS
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpm_solver_plus_plus_on_every_spacing(spacing, final, order, steps):
    config = case(DPM, solver_order=order, steps_offset=1)
    config |= {"timestep_spacing": spacing, "final_sigmas_type": final}
    assert_trajectories_agree(config, steps)


@N
@ORDERS
@pytest.mark.parametrize("levels", [*LEVELS, "use_lu_lambdas"])
def test_dpm_solver_plus_plus_on_karras_exponential_and_lu_levels(levels, order, steps):
    assert_trajectories_agree(case(DPM, solver_order=order, **{levels: True}), steps)


@pytest.mark.parametrize("steps", [5, 14, 15])
@pytest.mark.parametrize(
    "options",
    [
        {"lower_order_final": False},
        {"lower_order_final": True},
        {"lower_order_final": False, "euler_at_final": True},
        {"solver_type": "heun"},
    ],
    ids=["kept", "lowered", "euler", "heun"],
)
@pytest.mark.parametrize("order", [2, 3])
def test_last_steps_are_lowered_as_diffusers_lowers_them(order, options, steps):
    config = case(DPM, solver_order=order, final_sigmas_type="sigma_min", **options)
    assert_trajectories_agree(config, steps)


@N
@ORDERS
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_dpm_solver_of_the_noise_prediction(solver_type, order, steps):
    config = case(DPM, solver_order=order, solver_type=solver_type)
    config |= {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
    assert_trajectories_agree(config, steps)


@N
@ORDERS
@pytest.mark.parametrize("spacing", SPACINGS)
def test_deis_on_every_spacing(spacing, order, steps):
    config = case(DEIS, solver_order=order, timestep_spacing=spacing)
    assert_trajectories_agree(config, steps)


@N
@ORDERS
@pytest.mark.parametrize("levels", LEVELS)
def test_deis_on_karras_and_exponential_levels(levels, order, steps):
    assert_trajectories_agree(case(DEIS, solver_order=order, **{levels: True}), steps)


@N
@ORDERS
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
@pytest.mark.parametrize("uncorrected", ["none", "some", "all"])
def test_unipc(uncorrected, solver_type, predict_x0, order, steps):
    disabled = {"none": [], "some": [0, 3], "all": list(range(steps))}[uncorrected]
    config = case(UNIPC, solver_order=order, solver_type=solver_type)
    config |= {"disable_corrector": disabled}
    config |= {"predict_x0": predict_x0, "final_sigmas_type": "sigma_min"}
    assert_trajectories_agree(config, steps)


@N
@pytest.mark.parametrize(
    "options",
    [
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
        {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"use_exponential_sigmas": True},
    ],
    ids=["kept", "karras", "exponential"],
)
def test_unipc_on_other_levels(options, steps):
    assert_trajectories_agree(case(UNIPC, solver_order=3, **options), steps)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", [DPM, DEIS, UNIPC])
def test_prediction_types_convert_at_the_level_of_the_step(
    name, prediction_type, options
):
    # Karras' levels lie between timesteps: the network is told a rounded one.
    config = case(name, prediction_type=prediction_type, **options)
    assert_trajectories_agree(config, 20)


@N
@ORDERS
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", [DPM, DEIS, UNIPC])
def test_flow_levels(name, shift, order, steps):
    config = case(name, solver_order=order, flow_shift=shift, **FLOW)
    assert_trajectories_agree(config, steps)


ON_K_LEVELS = [
    {},
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True, "prediction_type": "v_prediction"},
    {"prediction_type": "v_prediction"},
]
ON_EDM_LEVELS = [
    {},
    {"sigma_schedule": "exponential"},
    {"prediction_type": "v_prediction", "final_sigmas_type": "sigma_min"},
    {"sigma_data": 1.2, "sigma_max": 120.0, "sigma_min": 0.01, "rho": 3.0},
]
# Schedulers whose tables have stages, or whose states and times are k-diffusion's.
STAGED = {
    "EulerDiscreteScheduler": [
        *ON_K_LEVELS,
        {"final_sigmas_type": "sigma_min"},
        {"interpolation_type": "log_linear"},
        {"interpolation_type": "log_linear", "use_karras_sigmas": True},
        {"prediction_type": "sample"},
    ],
    "HeunDiscreteScheduler": [*ON_K_LEVELS, {"prediction_type": "sample"}],
    "KDPM2DiscreteScheduler": ON_K_LEVELS,
    "LMSDiscreteScheduler": ON_K_LEVELS,
    "EDMEulerScheduler": ON_EDM_LEVELS,
    EDM_DPM: [
        {"solver_order": order, **options}
        for order in (1, 2, 3)
        for options in (*ON_EDM_LEVELS, {"solver_type": "heun"})
    ],
    "PNDMScheduler": [
        {"skip_prk_steps": skipped, "timestep_spacing": spacing, **options}
        for skipped in (True, False)
        for spacing in SPACINGS
        for options in ({"steps_offset": 1}, {"prediction_type": "v_prediction"})
    ],
    "DPMSolverSinglestepScheduler": [
        {"solver_order": order, **options}
        for order in (1, 2, 3)
        for options in (
            {},
            {"solver_type": "heun", "use_karras_sigmas": True},
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            {"use_beta_sigmas": True, "prediction_type": "v_prediction"},
            {"flow_shift": 3.0, **FLOW},
        )
    ],
}


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 21])
@pytest.mark.parametrize("name", STAGED)
def test_methods_with_stages_and_levels_of_k_diffusion(name, steps):
    diffusers.logging.set_verbosity_error()
    kinds = set()
    for options in STAGED[name]:
        outcome = compare(Case(name, case(name, **options), steps, {}))
        assert outcome.kind in ("agrees", "refused"), (options, outcome)
        assert not outcome.silent, (options, outcome)
        # diffusers' levels are float32.
        assert outcome.error < 3e-6, (options, outcome)
        kinds.add(outcome.kind)
    assert "agrees" in kinds
    # PNDM needs four steps or leaves the training range; diffusers' order 3 returns NaN
    # for a last step of no length.
    assert kinds == {"agrees"} or name in ("PNDMScheduler", EDM_DPM)


ON_TIMESTEPS = [
    {"timestep_spacing": spacing, "prediction_type": prediction, **options}
    for spacing in SPACINGS
    for prediction, options in (
        ("epsilon", {"steps_offset": 1}),
        ("v_prediction", {"rescale_betas_zero_snr": True, "set_alpha_to_one": False}),
        ("sample", {"rescale_betas_zero_snr": True}),
    )
]
NO_CLIP = {"clip_sample": False}
# Zero terminal SNR, CogVideoX's shift of it, and stochastic schedulers with the noises
# that they add.
LIMITS = [
    NO_CLIP,
    {"clip_sample": True, "clip_sample_range": 0.5},
    {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5},
]
ADDED = {
    DDIM: [options | limit for options in ON_TIMESTEPS for limit in LIMITS],
    "CogVideoXDDIMScheduler": [
        options | NO_CLIP | {"snr_shift_scale": shift}
        for options in ON_TIMESTEPS
        for shift in (1.0, 3.0)
    ],
    "CogVideoXDPMScheduler": [options | NO_CLIP for options in ON_TIMESTEPS],
    "DDIMInverseScheduler": [options | NO_CLIP for options in ON_TIMESTEPS],
    "DDPMScheduler": [
        options | limit | {"variance_type": variance}
        for options in ON_TIMESTEPS
        for variance in ("fixed_small", "fixed_small_log", "fixed_large")
        for limit in LIMITS
    ],
    "EulerAncestralDiscreteScheduler": [
        options for options in ON_TIMESTEPS if options["prediction_type"] != "sample"
    ],
    "EulerDiscreteScheduler": [
        *ON_TIMESTEPS,
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    ],
    DPM: [
        options | {"algorithm_type": kind, "solver_order": order, "solver_type": rule}
        for options in (*ON_TIMESTEPS[:3], {"use_karras_sigmas": True}, LIMITS[2])
        for kind in ("dpmsolver++", "sde-dpmsolver++")
        for order in (1, 2, 3)
        for rule in ("midpoint", "heun")
    ],
    DEIS: [LIMITS[2]],
    "DPMSolverSinglestepScheduler": [LIMITS[2]],
    UNIPC: [*ON_TIMESTEPS, LIMITS[2], LIMITS[2] | {"predict_x0": False}],
    "LCMScheduler": [options | limit for options in ON_TIMESTEPS for limit in LIMITS],
    "TCDScheduler": ON_TIMESTEPS,
    "IPNDMScheduler": [{}],
    "SCMScheduler": [
        {"prediction_type": "trigflow"},
        {"prediction_type": "trigflow", "sigma_data": 1.0},
    ],
    "FlowMatchHeunDiscreteScheduler": [{"shift": 1.0}, {"shift": 3.0}],
}


@pytest.mark.parametrize("steps", [1, 2, 8, 20])
@pytest.mark.parametrize("name", ADDED)
def test_zero_terminal_snr_and_schedulers_that_add_noise(name, steps):
    diffusers.logging.set_verbosity_error()
    kinds = set()
    for options in ADDED[name]:
        outcome = compare(Case(name, case(name, **options), steps, {}))
        assert outcome.kind in ("agrees", "refused", "diffusers NaN"), (
            options,
            outcome,
        )
        assert not outcome.silent, (options, outcome)
        # At zero terminal SNR the levels are products of inexact roots in float32.
        assert outcome.error < 5e-5, (options, outcome)
        kinds.add(outcome.kind)
    # One step of iPNDM from pure noise is zero.
    assert "agrees" in kinds or (name == "IPNDMScheduler" and steps == 1)


def test_stable_diffusion_2_1_with_zero_terminal_snr_makes_the_round_trip():
    config = case(
        DDIM,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        set_alpha_to_one=False,
        steps_offset=1,
    )
    with warnings.catch_warnings(action="ignore", category=ji.LossyGridWarning):
        table = ji.sampler_from_diffusers(config, 20)
    assert np.isinf(table.tau[-1])
    schedule = ji.schedule_from_diffusers(config)
    denoise = ji.as_denoiser(lambda x, t: 0.3 * jnp.tanh(x + 1e-3 * t), schedule)
    noise = jnp.asarray(initial_noise())
    found = ji.invert(table, denoise, ji.sample(table, denoise, noise))
    assert bool(found.converged)
    assert float(ji.nmse_db(found.noise, noise)) < -90


@pytest.mark.parametrize(
    ("name", "steps", "rows"),
    [
        ("EulerDiscreteScheduler", 20, 20),
        ("HeunDiscreteScheduler", 20, 39),
        ("KDPM2DiscreteScheduler", 20, 39),
        ("PNDMScheduler", 20, 29),
        ("DPMSolverSinglestepScheduler", 20, 20),
    ],
)
def test_tables_with_stages_count_steps_and_evaluations(name, steps, rows):
    table = ji.sampler_from_diffusers(case(name), steps)
    assert table.num_rows == rows
    assert table.num_steps == steps
    counted = [int(table.steps_above(level)) for level in range(rows, -1, -1)]
    assert counted[0] == 0
    assert counted[-1] == table.num_steps
    assert counted == sorted(counted)
    assert [table.level_after(k) for k in (0, table.num_steps)] == [rows, 0]


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler", "clip_sample": False},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        case(DPM, beta_schedule="linear"),
        case(DPM, beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1),
        case(DPM, beta_schedule="linear", beta_start=1e-4, use_karras_sigmas=True),
    ],
    ids=["ddim", "flow", "linear", "cosine", "linear-karras"],
)
def test_other_schedulers_and_schedules(config):
    assert_trajectories_agree(config, 20)


@ORDERS
@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("name", [DPM, DEIS, UNIPC])
def test_fifty_steps(name, options, order):
    assert_trajectories_agree(case(name, solver_order=order, **options), 50)


@pytest.mark.parametrize("name", [DPM, DEIS, UNIPC])
def test_fewer_steps_than_the_order(name):
    assert_trajectories_agree(case(name, solver_order=3), 2)


def test_ipndm_with_the_coefficients_of_ipndm_scheduler():
    # That scheduler's own grid starts where alpha = 0; trained_betas gives it another
    # (it takes them for sigma). It reads the network as a v-prediction.
    grid = ji.time_grid(ji.scaled_linear(), 20)
    sigma, alpha = grid.tau * grid.scale, grid.scale
    scheduler = diffusers.IPNDMScheduler(trained_betas=sigma[::-1].tolist())
    scheduler.set_timesteps(20)
    x = torch.from_numpy(initial_noise())
    states = [x]
    for i, t in zip(range(20, 0, -1), scheduler.timesteps, strict=True):
        f = network(torch, x, grid.model_time[i])
        v = (f - sigma[i] * x) / alpha[i]
        x = scheduler.step(v, t, x).prev_sample
        states.append(x)
    theirs = torch.stack(states[::-1]).numpy()
    ours = table_trajectory(ji.ipndm(grid), lambda x, t: network(jnp, x, t))
    rms = np.sqrt(np.mean(theirs**2, axis=(1, 2, 3)))
    # alpha = sqrt(1 - sigma^2) in float32 has a relative error of eps / alpha^2 = 3e-5.
    assert np.all(np.abs(ours - theirs).max(axis=(1, 2, 3)) <= TOLERANCE * rms)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", [DPM, UNIPC])
def test_a_thresholded_denoiser_takes_the_steps_of_diffusers(name, prediction, float64):
    # The other tests limit data themselves, at the levels of the table.
    config = case(name, prediction_type=prediction, **LIMITS[2])
    table, schedule = (
        ji.sampler_from_diffusers(config, 8),
        ji.schedule_from_diffusers(config),
    )
    model = ji.as_denoiser(lambda x, t: comparison.network(jnp, x, t), schedule)
    ours = ji.sample(
        table, ji.thresholded(model, schedule, 0.8, 1.5), jnp.asarray(NOISE)
    )
    theirs = in_diffusers(Case(name, config, 8, {}))[1][-1]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_trajectories_of_these_tests_are_those_of_sample_trajectory():
    config = case(DPM, solver_order=3, timestep_spacing="trailing")
    table = ji.sampler_from_diffusers(config, 20)

    def denoise(x, t):
        return network(jnp, x, t)

    ours = ji.sample_trajectory(table, denoise, initial_noise())
    # float32 against float64 states: a few roundings for each of 20 steps.
    np.testing.assert_allclose(ours, table_trajectory(table, denoise), atol=3e-5)


# --- at random ----------------------------------------------------------------------


def random_cases(count, first=500_000):
    """The first cases of the benchmark's kind from a seed of this file's own."""
    with warnings.catch_warnings(action="ignore"):
        return run(range(first, first + count))


def test_no_random_configuration_differs_in_silence():
    results = random_cases(300)
    assert [(case, outcome) for case, outcome in results if outcome.silent] == []
    # Enough of them are samplers at all.
    assert sum(outcome.kind == "agrees" for _, outcome in results) > 150


def test_random_configurations_agree_in_float32_as_diffusers_does():
    found = [float32_case(seed) for seed in range(600_001, 600_061, 3)]
    errors = np.array([errors for kind, *errors in filter(None, found)])
    ours, theirs = errors[~np.isnan(errors[:, 0])].T
    assert len(ours) >= 5
    assert np.all(ours <= np.maximum(TOLERANCE, 10 * theirs)), errors


PUBLISHED = Path(__file__).parents[3] / "shared" / "published_schedulers.json"


def published():
    return json.loads(PUBLISHED.read_text()) if PUBLISHED.exists() else {}


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"{PUBLISHED} is not here")
@pytest.mark.parametrize("steps", [1, 20, 61])
def test_no_published_configuration_differs_in_silence(steps):
    results = {}
    for title, config in published().items():
        cases = [config]
        if config["_class_name"] not in CLASSES:
            # As its users load it into another class.
            given = {**config, "clip_sample": False}
            cases = [given | {"_class_name": name} for name in CLASSES[:2]]
        for each in cases:
            case = Case(each["_class_name"], each, steps, {})
            results[title, case.name] = compare(case)
    assert {key: o for key, o in results.items() if o.silent} == {}


@pytest.mark.parametrize("source", ["PNDMScheduler", "DDIMScheduler"])
def test_defaults_of_the_class_that_a_live_configuration_came_from_do_not_count(source):
    live = getattr(diffusers, source)(**SCALED_LINEAR)
    config = dict(live.config)
    assert config["timestep_spacing"] == "leading"  # the default of another class
    assert compare(Case(DPM, config | {"_class_name": DPM}, 20, {})).kind == "agrees"


def test_cosine_betas_with_v_keep_their_digits_in_the_networks_own_units():
    config = case(
        DPM, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    outcome = compare(Case(DPM, config, 20, {}))
    assert outcome.kind == "agrees"
    assert outcome.error < 1e-6
    # In float32, from almost pure noise (tau = 2e4): diffusers' own state, no worse.
    assert_trajectories_agree(config, 20, tolerance=1e-5)


def test_f_of_a_v_network_is_refused_where_float32_does_not_have_its_digits():
    config = case(
        DPM, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )
    table = ji.sampler_from_diffusers(config, 20)
    with pytest.raises(ValueError, match=r"error of about \de-0[34] in float32"):
        ji.sample(table, lambda x, t: x, jnp.ones(3))


@pytest.mark.parametrize("name", [DPM, DEIS, UNIPC])
def test_the_first_timestep_of_exponential_levels_is_diffusers(name):
    ddpm = {"_class_name": name, "use_exponential_sigmas": True}
    assert ji.grid_from_diffusers(ddpm, 20).model_time[-1] == 999
    assert ji.grid_from_diffusers(SCALED_LINEAR | ddpm, 20).model_time[-1] == 998


def test_a_truncated_timestep_that_depends_on_the_machine_is_refused():
    betas = {"beta_start": 0.005719557084562008, "beta_end": 0.02605249615666791}
    config = case(DPM, beta_schedule="linear", use_exponential_sigmas=True, **betas)
    with pytest.raises(ValueError, match="timestep 999 or 998"):
        ji.sampler_from_diffusers(config, 20)


@pytest.mark.parametrize("name", [DPM, DEIS, UNIPC])
def test_a_trailing_grid_has_as_many_steps_as_diffusers_takes(name):
    config = case(name, timestep_spacing="trailing")
    assert ji.sampler_from_diffusers(config, 61).num_steps == 62
    assert compare(Case(name, config, 61, {})).kind == "agrees"


# --- what a pipeline passes ---------------------------------------------------------

SCHNELL = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0}
FLUX_DEV = SCHNELL | {"shift": 3.0, "use_dynamic_shifting": True}


def test_flux_schnell_needs_the_sigmas_of_its_pipeline():
    alone = ji.sampler_from_diffusers(SCHNELL, 4)
    passed = ji.sampler_from_diffusers(SCHNELL, 4, sigmas=np.linspace(1, 0.25, 4))
    np.testing.assert_allclose(alone.tau[::-1], [1, 0.667, 0.334, 0.001, 0], atol=1e-6)
    np.testing.assert_array_equal(passed.tau[::-1], [1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("shift_type", ["exponential", "linear"])
def test_mu_shifts_as_diffusers_does_and_the_schedule_takes_it_too(shift_type):
    config = FLUX_DEV | {"time_shift_type": shift_type}
    request = {"mu": 1.15, "sigmas": np.linspace(1, 1 / 28, 28)}
    assert compare(Case(SCHNELL["_class_name"], config, 28, request)).kind == "agrees"
    shift = ji.schedule_from_diffusers(config, mu=1.15).shift
    assert shift == (math.exp(1.15) if shift_type == "exponential" else 1.15)


@pytest.mark.parametrize(
    ("config", "request_", "message"),
    [
        (FLUX_DEV, {}, "needs mu"),
        (
            case("DDIMScheduler", clip_sample=False),
            {"sigmas": [0.5]},
            "not take sigmas",
        ),
        (case(DPM), {"mu": 1.0}, "not take mu; it takes timesteps"),
        (case(DEIS), {"timesteps": [9]}, "not take timesteps; it takes num_steps only"),
        (case(DPM, use_karras_sigmas=True), {"timesteps": [9]}, "not take timesteps"),
        (SCHNELL, {"sigmas": [1.0, 0.5]}, "expected sigmas to be 1 decreasing"),
        (SCHNELL, {"sigmas": [1.5]}, "expected sigmas to be 1 decreasing"),
        (case(DPM), {"timesteps": [1000]}, "from at most 999 to at least 0"),
    ],
)
def test_what_set_timesteps_does_not_take_is_refused(config, request_, message):
    with pytest.raises(ValueError, match=message):
        ji.sampler_from_diffusers(config, 1, **request_)


# --- reading and refusing -----------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_sampler_is_read_from_a_file_or_a_folder(form, tmp_path):
    config = case(DPM, use_karras_sigmas=True)
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(config))
    read = ji.sampler_from_diffusers(tmp_path if form == "folder" else file, 20)
    np.testing.assert_array_equal(read.b, ji.sampler_from_diffusers(config, 20).b)


@pytest.mark.parametrize("name", [DPM, DEIS, "DDIMScheduler"])
def test_the_grid_is_that_of_the_sampler(name):
    config = case(name, clip_sample=False)
    grid = ji.grid_from_diffusers(config, 20)
    table = ji.sampler_from_diffusers(config, 20)
    np.testing.assert_array_equal(table.tau, grid.tau)
    np.testing.assert_array_equal(table.model_time, grid.model_time)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (case("SASolverScheduler"), "supported are DPMSolverMultistepScheduler, DEIS"),
        (SCALED_LINEAR, "the scheduler None is not supported"),
        (case("HeunDiscreteScheduler", clip_sample=True), "only clip_sample=False"),
        (case("DDIMScheduler", set_alpha_to_one=False), "a step of length zero"),
        (case("TCDScheduler", thresholding=True), "thresholding=True is not supported"),
        (case(DPM, thresholding=True, **FLOW), "is not supported in a flow"),
        *(
            (case(name, thresholding=True, **{spaced: True}), "between timesteps")
            for name in (DPM, DEIS, UNIPC, "DPMSolverSinglestepScheduler")
            for spaced in ("use_karras_sigmas", "use_exponential_sigmas")
        ),
        (case("KDPM2DiscreteScheduler", prediction_type="sample"), "predict the data"),
        (case("PNDMScheduler", prediction_type="sample"), "predict the data"),
        (case("EulerDiscreteScheduler", interpolation_type="cubic"), "log_linear"),
        (case(DPM, use_beta_sigmas=True, use_karras_sigmas=True), "only one of"),
        (case(DPM, algorithm_type="sde-dpmsolver"), "'sde-dpmsolver' is not"),
        (case(DPM, algorithm_type="dpmsolver"), "cannot end at zero"),
        (case(DPM, solver_type="rk4"), "solver_type 'rk4' is not supported"),
        (case(DPM, solver_order=4), "solver_order must be 1, 2 or 3, got 4"),
        (case(DPM, final_sigmas_type="one"), "final_sigmas_type 'one' is not"),
        (case(DDIM, rescale_betas_zero_snr=True), "says nothing of the data"),
        (case(UNIPC, use_karras_sigmas=True, **FLOW), "for flow matching"),
        (case(DPM, variance_type="learned_range"), "predicts a variance"),
        (case(DPM, timestep_spacing="karras"), "unknown timestep_spacing"),
        (case(DPM, prediction_type="flow_prediction"), "only supported together"),
        (case(DPM, use_flow_sigmas=True), "only supported together"),
        (case(DPM, use_karras_sigmas=True, **FLOW), "for flow matching"),
        (case(DPM, final_sigmas_type="sigma_min", **FLOW), "ends a flow at a level"),
        (case(DEIS, solver_type="rk4"), "solver_type 'rk4' is not supported"),
        (
            case(UNIPC, final_sigmas_type="zero", lower_order_final=False),
            "returns NaN",
        ),
        (case(UNIPC, solver_p={"any": 1}), "another solver takes the steps"),
        (case(DPM, steps_offset=60, timestep_spacing="leading"), "steps_offset 60"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas=True is not supported",
        ),
    ],
)
def test_what_is_no_table_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ji.sampler_from_diffusers(config, 20)


@pytest.mark.parametrize("steps", [0, 1001])
def test_numbers_of_steps_that_the_schedule_lacks_are_refused(steps):
    with pytest.raises(ValueError, match="between 1 and the 1000"):
        ji.sampler_from_diffusers(case(DPM), steps)


def test_levels_that_coincide_are_refused():
    with pytest.raises(ValueError, match="noise levels coincide"):
        ji.sampler_from_diffusers(case(DPM), 1000)
