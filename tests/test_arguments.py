"""Arguments of the public functions: what they must be is said in one line."""

import enum
import importlib
import inspect
import random
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PRNGKeyArray

import jaxinv as ji
from jaxinv import checks
from jaxinv.decoder_inversion import METHODS

SCHEDULE = ji.scaled_linear()
GRID = ji.time_grid(SCHEDULE, 20)
TABLE = ji.ddim(GRID)
STOCHASTIC = ji.ancestral(GRID)


def half(x, t):
    return 0.5 * x


X = jnp.ones((2, 2))
CONFIG = {"_class_name": "DDIMScheduler"}

# A call of every public function that computes nothing large.
CALLS = {
    "as_denoiser": {"model": half, "schedule": SCHEDULE},
    "bdia": {"grid": GRID},
    "belm": {"grid": GRID},
    "certify": {"sampler": TABLE, "denoise": half, "trajectory": jnp.ones((21, 2))},
    "conditioned": {"model": half, "cond": 1.0},
    "cosine": {"num_train_timesteps": 10, "max_beta": 0.9},
    "ddim": {"grid": GRID},
    "ddim_diffusers": {"schedule": SCHEDULE, "num_steps": 20, "spacing": "leading"},
    "deis": {"grid": GRID, "order": 2, "lower_order_final": True},
    "dpm_solver_2m": {"grid": GRID, "euler_at_final": False},
    "dpm_solver_singlestep": {"grid": GRID, "order": 2, "prediction": "data"},
    "dpmpp_2m": {"grid": GRID, "lower_order_final": True},
    "dpmpp_3m": {"grid": GRID, "euler_at_final": True},
    "dpmpp_3m_diffusers": {"grid": GRID, "lower_order_final": True},
    "edict": {"grid": GRID, "p": 0.9},
    "edm": {"sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 0.5},
    "euler": {"grid": GRID},
    "fireflow": {"grid": GRID},
    "flow_matching": {"num_train_timesteps": 10, "shift": 2.0},
    "from_v": {"model": half, "schedule": SCHEDULE},
    "from_x0": {"model": half, "schedule": SCHEDULE},
    "grid_from_diffusers": {"config": CONFIG, "num_steps": 20},
    "heun": {"grid": GRID},
    "guided": {"model": half, "cond": 1.0, "uncond": 0.0, "guidance_scale": 3.0},
    "interpolate": {"first": X, "second": X, "t": 0.5},
    "invert": {
        "sampler": TABLE, "denoise": half, "x0": X, "strategy": "auto", "solver": None,
        "schedule": None, "return_trajectory": False, "arithmetic": "float",
        "verify": True, "reconstruction_rtol": None, "max_evals": 600,
    },
    "invert_batch": {"sampler": TABLE, "denoise": half, "x0": X},
    "invert_decoder": {"encode": half, "decode": half, "image": X},
    "invert_stream": {"sampler": TABLE, "denoise": half, "samples": X, "lanes": 2},
    "ancestral": {"grid": GRID, "eta": 0.5},
    "clipped": {"denoise": half, "schedule": SCHEDULE, "clip": 1.0},
    "thresholded": {
        "denoise": half,
        "schedule": SCHEDULE,
        "ratio": 0.99,
        "largest": 2.0,
    },
    "ddim_inverse_diffusers": {"schedule": SCHEDULE, "num_steps": 20},
    "ddpm_inversion": {
        "sampler": STOCHASTIC, "denoise": half, "x0": X, "key": jax.random.key(0),
    },
    "sde_dpm_solver": {"grid": GRID, "order": 2, "lower_order_final": True},
    "ipndm": {"grid": GRID, "order": 4},
    "largest_batch": {
        "limit_bytes": 1000, "sampler": TABLE, "denoise": half, "shape": (2,),
    },
    "kdpm2": {"grid": GRID},
    "lms": {"grid": GRID, "order": 4},
    "linear": {"beta_start": 1e-3, "beta_end": 1e-2, "num_train_timesteps": 10},
    "make_mesh": {"model": 1},
    "nmse_db": {"x": X, "reference": X},
    "noise_plausibility": {"noise": jnp.ones((4, 4, 2))},
    "o_belm": {"grid": GRID, "k": 2},
    "o_belm_log_snr": {"grid": GRID, "k": 2, "prediction": "noise"},
    "pndm": {"schedule": SCHEDULE, "num_steps": 20, "skip_prk_steps": True},
    "predict_memory": {"sampler": TABLE, "denoise": half, "shape": (2,), "batch": 1},
    "preimages": {
        "sampler": TABLE, "denoise": half, "x0": X, "key": jax.random.key(0),
        "num_starts": 2, "distance": 0.01,
    },
    "psnr": {"a": X, "b": X, "data_range": 1.0},
    "rex": {"grid": GRID, "coupling": 0.9},
    "rf_solver": {"grid": GRID},
    "sample": {"sampler": TABLE, "denoise": half, "noise": X, "arithmetic": "float"},
    "sample_batch": {"sampler": TABLE, "denoise": half, "noise": X},
    "sample_trajectory": {"sampler": TABLE, "denoise": half, "noise": X},
    "sampler_from_diffusers": {"config": CONFIG, "num_steps": 20},
    "scaled_linear": {"beta_start": 1e-3, "num_train_timesteps": 10},
    "schedule_from_diffusers": {"config": CONFIG, "mu": None},
    "time_grid": {"schedule": SCHEDULE, "num_steps": 20, "spacing": "log_snr"},
    "unip": {"grid": GRID, "order": 2, "variant": "bh2", "prediction": "data"},
    "unipc": {"grid": GRID, "order": 2, "variant": "bh2", "uncorrected": (0,)},
    "variance_exploding": {"sigma_min": 0.1, "sigma_max": 10.0},
    "with_midpoints": {"schedule": SCHEDULE, "grid": GRID},
}  # fmt: skip
LOAD_MODELS = {"add_textual_inversion", "load", "merge_lora", "save_prompts"}
SETTINGS = (
    ji.AIDI, ji.Algorithm1, ji.Algorithm2, ji.Anderson, ji.Explicit, ji.FixedPoint,
    ji.ForwardStep, ji.Gradient, ji.Naive, ji.NewtonKrylov, ji.NewtonTrajectory,
    ji.NoiseSchedule, ji.ReNoise, ji.TimeGrid, ji.Trajectory, ji.UniInv,
    *(type(m) for m in METHODS.values()),
)  # fmt: skip

JUNK = (
    None, "something", "", b"bytes", -1, 0, 1.5, float("nan"), float("inf"), -1e308,
    10**12, 10**30, True, 1j, [1], ["a"], [[1], [2, 3]], (), {}, {"a": 1}, {1},
    object(), int, type(None), half, print, SCHEDULE, GRID, TABLE, ji.Anderson(),
    1j * jnp.ones((2, 2)), np.array([{}], object), np.array(["a"]), np.zeros((0, 3)),
    np.datetime64("2026-01-01"), np.array(["2026-01-01"], "datetime64[D]"),
)  # fmt: skip


def test_every_public_function_has_a_call_here():
    functions = {n for n in ji.__all__ if inspect.isfunction(getattr(ji, n))}
    assert functions - LOAD_MODELS == set(CALLS)


def answer(call, name, value):
    """The error of a call with an argument of another type; what else is wrong."""
    try:
        call()
    except ValueError as error:
        text = str(error)
        if "\n" in text or len(text) > 600 or name not in text:
            return text
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{name}={checks.shown(value)} was accepted"


def refused(hint, value):
    return isinstance(checks.conform(value, hint), checks.Refused)


@pytest.mark.parametrize("value", [
    0, 7, -1.5, True, jnp.zeros(2), np.zeros(2, np.int32), np.zeros(3, np.uint32),
    jnp.zeros((2, 2), jnp.uint32), [0, 1],
])  # fmt: skip
def test_numbers_are_no_random_keys(value):
    assert refused(PRNGKeyArray, value)
    assert refused(PRNGKeyArray | None, value)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_random_keys_are(make):
    assert not refused(PRNGKeyArray, make(0))
    assert not refused(PRNGKeyArray | None, np.asarray(jax.random.PRNGKey(1)))
    jax.jit(lambda key: refused(PRNGKeyArray, key) and 1 / 0)(make(0))


@pytest.mark.parametrize("name", CALLS)
def test_arguments_of_other_types_are_refused_in_one_line(name):
    function, arguments = getattr(ji, name), CALLS[name]
    hints = typing.get_type_hints(function, include_extras=True)
    count = 0
    for key in arguments:
        for value in JUNK:
            if refused(hints[key], value):
                call = lambda: function(**(arguments | {key: value}))  # noqa: B023, E731
                assert answer(call, key, value) is None
                count += 1
    assert count > 0


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda cls: cls.__qualname__)
def test_settings_of_other_types_are_refused_in_one_line(settings):
    hints = typing.get_type_hints(settings.__init__, include_extras=True)
    like = SCHEDULE if settings is ji.NoiseSchedule else GRID
    required = {
        key: {"schedule": SCHEDULE}.get(key, getattr(like, key, None))
        for key, parameter in inspect.signature(settings).parameters.items()
        if parameter.default is parameter.empty
    }
    for key, hint in hints.items():
        for value in JUNK:
            if key != "return" and refused(hint, value):
                call = lambda: settings(**(required | {key: value}))  # noqa: B023, E731
                assert answer(call, key, value) is None


MODULES = (
    "jaxinv.analysis.conditioning", "jaxinv.analysis.convergence",
    "jaxinv.analysis.decoder", "jaxinv.analysis.tables", "jaxinv.apps.attacks",
    "jaxinv.apps.editing.edit_friendly", "jaxinv.apps.editing.flow_edit",
    "jaxinv.apps.editing.masked", "jaxinv.apps.masks", "jaxinv.loading.load",
    "jaxinv.loading.lora", "jaxinv.loading.textual_inversion",
    "jaxinv.scale.jobs.engine", "jaxinv.scale.jobs.job",
    "jaxinv.scale.jobs.manifest",
)  # fmt: skip


def is_checked(function, module):
    return hasattr(function, "__wrapped__") and function.__module__ == module


def functions_beyond_the_core():
    """The checked functions of other modules, and the pipeline's methods."""
    for name in MODULES:
        for key, value in vars(importlib.import_module(name)).items():
            if inspect.isfunction(value) and is_checked(value, name):
                yield pytest.param(value, (), id=key)
    for key, value in vars(ji.LatentDiffusion).items():
        if inspect.isfunction(value) and hasattr(value, "__wrapped__"):
            yield pytest.param(value, (None,), id=f"LatentDiffusion.{key}")


@pytest.mark.parametrize(("function", "before"), functions_beyond_the_core())
def test_first_arguments_of_other_types_are_refused_everywhere(function, before):
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters
    required = {
        key: object()
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key != "self"
    }
    key = next((key for key in parameters if key in hints and key != "self"), None)
    for value in JUNK:
        if key is not None and refused(hints[key], value):
            call = lambda: function(*before, **(required | {key: value}))  # noqa: B023, E731
            assert answer(call, key, value) is None


CHEAP = [
    n for n in CALLS
    if n not in {
        "certify", "interpolate", "invert", "invert_batch", "invert_decoder",
        "invert_stream", "largest_batch", "nmse_db", "predict_memory", "psnr",
        "sample", "sample_batch", "sample_trajectory",
    }
]  # fmt: skip


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")
def test_numbers_at_random_end_in_a_value_or_one_line(name):
    rng = random.Random(name)
    function, arguments = getattr(ji, name), CALLS[name]
    numbers = [k for k, v in arguments.items() if isinstance(v, int | float)]
    for _ in range(30 * bool(numbers)):
        key = rng.choice(numbers)
        value = rng.choice([1, -1]) * 10 ** rng.uniform(-320, 320 * rng.random())
        value = rng.choice([value, int(min(value, 1e300)), -0.0, 2**63])
        call = lambda: function(**(arguments | {key: value}))  # noqa: B023, E731
        found = answer(call, "", value)
        assert found is None or found.endswith("was accepted")


def test_arguments_in_another_order_are_told_the_order():
    def model(x, t):
        return 0.5 * x

    with pytest.raises(
        ValueError,
        match=r"sampler must be a SamplerTable .*got the "
        r"function model; the order is \(sampler, denoise, x0\)",
    ):
        ji.invert(model, TABLE, X)
    with pytest.raises(ValueError, match="denoise must be callable, got an array"):
        ji.sample(TABLE, X, model)


def test_arguments_that_are_missing_or_unknown_are_named_with_their_function():
    with pytest.raises(TypeError, match=r"time_grid\(\) missing 1 .*'num_steps'"):
        ji.time_grid(SCHEDULE)
    with pytest.raises(TypeError, match=r"Anderson\.__init__\(\) got an unexp.*'size'"):
        ji.Anderson(size=3)


def test_numbers_of_numpy_and_jax_are_numbers():
    grid = ji.time_grid(SCHEDULE, np.int64(20))
    assert grid.num_steps == 20
    assert ji.edict(grid, np.float32(0.5)).a[0, 0] == 0.25
    assert type(ji.Anderson(history=np.int32(3)).history) is int
    assert type(ji.Anderson(history=jnp.int32(3)).history) is int
    assert ji.edict(grid, jnp.float32(0.5)).a[0, 0] == 0.25
    with pytest.raises(ValueError, match="history must be an integer"):
        ji.Anderson(history=jnp.float32(3.5))


class Spacing(enum.StrEnum):
    LOG_SNR = "log_snr"


@pytest.mark.parametrize("name", [np.str_("log_snr"), Spacing.LOG_SNR])
def test_texts_of_numpy_and_enumerations_are_names(name):
    grid = ji.time_grid(SCHEDULE, 5, name)
    np.testing.assert_array_equal(grid.tau, ji.time_grid(SCHEDULE, 5, "log_snr").tau)
    with pytest.raises(ValueError, match="spacing must be one of"):
        ji.time_grid(SCHEDULE, 5, np.str_("other"))


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.int32, bool])
@pytest.mark.parametrize("call", ["sample", "invert", "certify"])
def test_a_denoiser_that_returns_no_real_numbers_is_refused(call, dtype):
    def wrong(x, t):
        return x.astype(dtype)

    data = jnp.ones((21, 2)) if call == "certify" else X
    with pytest.raises(ValueError, match="real floating-point numbers, got"):
        getattr(ji, call)(TABLE, wrong, data)


@pytest.mark.parametrize("call", ["sample", "sample_trajectory", "invert"])
def test_an_empty_array_is_refused(call):
    with pytest.raises(ValueError, match=r"must not be empty, got shape \(0,"):
        getattr(ji, call)(TABLE, half, jnp.ones((0, 3)))
