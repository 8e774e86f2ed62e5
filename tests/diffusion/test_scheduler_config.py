"""A scheduler's configuration means what diffusers' ``from_config`` makes of it."""

import inspect

import diffusers
import numpy as np
import pytest

import jaxinv as ji
from benchmarks.schedules.draw import CLASSES, draw
from jaxinv.diffusion.diffusers_config import DEFAULTS, scheduler_options

EVERY = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))


def signature(name):
    """The defaults of a class; none of one that needs a package that is missing."""
    found = inspect.signature(getattr(diffusers, name).__init__).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD,)
    values = {k: p.default for k, p in found.items() if p.kind in kinds}
    return {key: value for key, value in values.items() if key != "self"}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_of_a_class_are_those_of_its_signature(name):
    theirs = signature(name)
    if not theirs:
        pytest.skip(f"diffusers has {name} with another package only")
    ours = DEFAULTS[name]
    assert {key: theirs[key] for key in ours} == ours


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_that_takes_steps_has_all_of_its_options(name):
    assert set(DEFAULTS[name]) == set(signature(name))


@pytest.mark.parametrize("name", sorted(set(EVERY) - set(DEFAULTS)))
def test_any_other_class_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"the scheduler '{name}' is not known"):
        ji.schedule_from_diffusers({"_class_name": name})


def test_random_configurations_are_resolved_as_from_config_resolves_them():
    for seed in range(700_000, 700_400):
        case = draw(seed)
        given, *_ = getattr(diffusers, case.name).extract_init_dict(dict(case.config))
        options = scheduler_options(case.config)
        for key, default in DEFAULTS[case.name].items():
            assert options[key] == given.get(key, default), (seed, key)


def random_schedule(rng, name):
    """Options that make a schedule, some of them left over or not counted."""
    choices = {
        "num_train_timesteps": [1000, 1000, 300],
        "beta_start": [1e-4, 0.00085, 0.003],
        "beta_end": [0.012, 0.02, 0.05],
        "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2", "exp"],
        "prediction_type": ["epsilon", "v_prediction", "sample"],
        "timestep_spacing": ["leading", "trailing", "linspace"],
        "set_alpha_to_one": [True, False],
        "rescale_betas_zero_snr": [False, False, True],
        "steps_offset": [0, 1],
        "timestep_type": ["discrete", "discrete", "continuous"],
        "use_flow_sigmas": [False, False, True],
        "shift": [1.0, 3.0],
        "snr_shift_scale": [3.0],
        "sigma_data": [0.5],
    }
    config = {
        k: v[rng.integers(len(v))] for k, v in choices.items() if rng.random() < 0.5
    }
    listed = [key for key in config if rng.random() < 0.15]
    return config | {"_class_name": name, "_use_default_values": listed}


def test_random_schedules_of_every_class_are_diffusers_or_refused():
    rng, read = np.random.default_rng(0), set()
    for name in EVERY * 6:
        config = random_schedule(rng, name)
        try:
            ours = ji.schedule_from_diffusers(config)
        except ValueError:
            continue
        if not signature(name):  # a placeholder
            continue
        theirs = getattr(diffusers, name).from_config(config)
        read.add(name)
        if ours.family == "flow":
            sigmas = theirs.sigmas.numpy()
            sigmas = np.sort(sigmas[sigmas > 0])[-len(ours.taus) :]
            np.testing.assert_allclose(np.unique(sigmas), ours.taus, rtol=1e-6)
            continue
        if ours.sigma_data is not None:
            ends = theirs.config["sigma_min"], theirs.config["sigma_max"]
            np.testing.assert_allclose(ours.taus[[0, -1]], ends)
            assert ours.sigma_data == theirs.config["sigma_data"]
            continue
        found = ours.scale(ours.taus) ** 2
        if name == "IPNDMScheduler":
            np.testing.assert_allclose(found[::-1], theirs.alphas[:-1] ** 2, atol=1e-6)
            continue
        if name == "SCMScheduler":
            # Even angles up to pure noise: it holds no levels of its own.
            np.testing.assert_allclose(
                np.sqrt(found), np.cos(ours.model_times), atol=1e-9
            )
            continue
        alphas = theirs.alphas_cumprod.numpy()
        if getattr(theirs.config, "rescale_betas_zero_snr", False):
            # Products of square roots, whose last bit depends on the machine.
            np.testing.assert_allclose(found, alphas, atol=2e-6, err_msg=str(config))
        else:
            found = found.astype(alphas.dtype)
            same = np.testing.assert_array_equal
            if alphas.dtype == np.float64:  # CogVideoX
                same = np.testing.assert_allclose
            same(found, alphas, err_msg=str(config))
        for key in ("prediction_type", "timestep_spacing", "set_alpha_to_one"):
            if key in signature(name):
                assert getattr(ours, key) == theirs.config[key], config
    assert len(read) >= 20


def test_a_configuration_without_a_class_is_read_as_ddims():
    bare = {"beta_start": 0.001, "steps_offset": 1}
    ours, ddim = (
        ji.schedule_from_diffusers(bare | more)
        for more in ({}, {"_class_name": "DDIMScheduler"})
    )
    np.testing.assert_array_equal(ours.taus, ddim.taus)
    assert ours.timestep_spacing == ddim.timestep_spacing == "leading"
    assert ji.schedule_from_diffusers({"trained_betas": [0.1, 0.2]}).taus.shape == (2,)


@pytest.mark.parametrize("betas", [np.full((1000, 2), 1e-3), np.array(1e-3)])
def test_betas_are_a_list(betas):
    config = {"_class_name": "DDIMScheduler", "trained_betas": betas}
    with pytest.raises(ValueError, match="trained_betas"):
        ji.schedule_from_diffusers(config)
