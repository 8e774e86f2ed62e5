"""The PyTorch references agree with the library where both do the same."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import benchmarks.torch_reference as ref
import jaxinv as ji
from benchmarks.torch_reference.inversion import solve, substeps
from benchmarks.torch_reference.samplers import levels

FOLDER = Path(ji.__file__).parent / "zoo" / "emoji64"
PROMPT = "red heart on a light blue background"
# Two float32 programs of the same formulas; one evaluation differs by a few 1e-6.
TOLERANCE = 1e-4
GUIDANCE = 3.0


@pytest.fixture(scope="module")
def model():
    return ref.TorchModel.load(FOLDER)


RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((2, 16, 16, 4), np.float32)
# Text vectors for the small model below: two prompts and the empty one.
TEXT = RNG.standard_normal((3, 2, 5), np.float32)


def small_torch(x, t, text):
    """A stand-in for the UNet: a gentle function of its three arguments."""
    shift = text.sum((1, 2))[:, None, None, None]
    return SimpleNamespace(sample=torch.sin(x + shift) * (0.1 + t / 10_000))


def small_jax(x, t, text):
    return jnp.sin(x + text.sum()) * (0.1 + t / 10_000)


def small_eps(rows=slice(0, 2)):
    text = torch.from_numpy(TEXT)
    return ref.GuidedEps(small_torch, text[rows], text[2:], GUIDANCE)


SMALL_DENOISERS = [ji.guided(small_jax, TEXT[k], TEXT[2], GUIDANCE) for k in range(2)]


def lowest(grid, levels):
    """The data end of a grid: further up ten timesteps and 10 / t are short steps."""
    return ji.TimeGrid(*(x[:levels] for x in (grid.tau, grid.scale, grid.model_time)))


@pytest.fixture(scope="module")
def low(emoji64, model):
    """Five of ten steps, up to t = 233, guidance 1, and a state to start them from."""
    grid = ji.time_grid(emoji64.schedule, 10)
    eps = model.guided([PROMPT], 1.0)
    states = ref.ddim(grid, eps, ref.to_channels_first(NOISE[:1]))
    return lowest(grid, 6), states[5], eps


def distance(found, wanted):
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_guided_noise_prediction_equals_the_denoiser(emoji64, model):
    @jax.jit
    def predict(pipe, cond, uncond, guidance, x, t):
        return pipe.denoiser(cond, uncond, guidance)(x, t)

    vectors = [emoji64.encode_prompt(text) for text in (PROMPT, "")]
    for guidance in (1.0, 5.0):
        eps = model.guided(["pizza", PROMPT], guidance)
        with torch.no_grad():
            found = eps(ref.to_channels_first(NOISE[1:]), 20.7, torch.tensor([1]))
        wanted = predict(emoji64, *vectors, jnp.float32(guidance), NOISE[1], 20.7)
        assert distance(ref.to_channels_last(found)[0], wanted) < TOLERANCE
        assert eps.evaluations.tolist() == [0, 1]


def test_sampling_with_the_network_equals_the_library(emoji64, model):
    grid = ji.time_grid(emoji64.schedule, 10)
    eps = model.guided([PROMPT], GUIDANCE)
    found = ref.dpmpp(grid, eps, ref.to_channels_first(NOISE[:1]), order=2)
    denoise = emoji64.denoiser(PROMPT, "", GUIDANCE)
    wanted = ji.sample_trajectory(ji.dpmpp_2m(grid), denoise, NOISE[0])
    assert distance(ref.to_channels_last(found[:, 0]), wanted) < TOLERANCE


@pytest.mark.filterwarnings("ignore:the step from tau")
@pytest.mark.parametrize("spacing", ["log_snr", "linspace"])
@pytest.mark.parametrize("steps", [10, 16])
@pytest.mark.parametrize("make", [ji.ddim, ji.dpmpp_2m, ji.dpmpp_3m])
def test_sampling_equals_the_library(emoji64, make, steps, spacing):
    grid = ji.time_grid(emoji64.schedule, steps, spacing)
    sampler = make(grid)
    eps = small_eps()
    noise = ref.to_channels_first(NOISE)
    found = ref.to_channels_last(ref.dpmpp(grid, eps, noise, order=sampler.order))
    for k, denoise in enumerate(SMALL_DENOISERS):
        wanted = ji.sample_trajectory(sampler, denoise, NOISE[k])
        assert distance(found[:, k], wanted) < TOLERANCE
    assert eps.evaluations.tolist() == [steps, steps]


def test_naive_inversion_equals_the_library(emoji64):
    grid = ji.time_grid(emoji64.schedule, 10)
    result = ref.naive(grid, small_eps(), ref.to_channels_first(NOISE))
    for k, denoise in enumerate(SMALL_DENOISERS):
        wanted = ji.invert(ji.ddim(grid), denoise, NOISE[k], strategy="naive")
        assert distance(ref.to_channels_last(result.noise)[k], wanted.noise) < TOLERANCE
    assert result.evaluations.tolist() == [10, 10]


@pytest.mark.parametrize("method", [ref.forward_step, ref.gradient_descent])
def test_algorithm_1_finds_the_noise_better_than_naive(low, method):
    grid, start, eps = low
    x0 = ref.ddim(grid, eps, start)[0]
    result = ref.algorithm_1(grid, eps, x0, method=method)
    naive = ref.naive(grid, eps, x0)
    assert result.converged.all()
    assert distance(result.noise, start) < 0.3 * distance(naive.noise, start)


def test_algorithm_2_finds_the_noise_better_than_naive(emoji64, low):
    grid, start, eps = low
    x0 = ref.dpmpp(grid, eps, start, order=2, lower_order_final=False)[0]
    result = ref.algorithm_2(grid, emoji64.schedule, eps, x0, lower_order_final=False)
    naive = ref.naive(grid, eps, x0)
    assert result.converged.all()
    assert distance(result.noise, start) < 0.3 * distance(naive.noise, start)


def test_reported_residuals_are_those_that_the_library_certifies(emoji64):
    grid = ji.time_grid(emoji64.schedule, 20)
    noise = ref.to_channels_first(NOISE)
    x0 = ref.ddim(grid, small_eps(), noise)[0]
    result = ref.algorithm_1(grid, small_eps(), x0)
    states = ref.to_channels_last(result.states)
    for k, denoise in enumerate(SMALL_DENOISERS):
        wanted = ji.certify(ji.ddim(grid), denoise, states[:, k])
        # Absolute: a residual is the difference of states that are rounded to 1e-7.
        np.testing.assert_allclose(result.step_residuals[k], wanted, atol=1e-5)
    assert result.step_residuals.max() > 1e-4


def test_samples_of_a_batch_neither_wait_nor_pay_for_one_another(emoji64):
    grid = lowest(ji.time_grid(emoji64.schedule, 20), 12)
    x0 = ref.dpmpp(grid, small_eps(), ref.to_channels_first(NOISE), order=2)[0]
    eps = small_eps()
    both = ref.algorithm_2(grid, emoji64.schedule, eps, x0)
    assert eps.evaluations.tolist() == both.evaluations.tolist()
    assert both.step_evaluations[0].tolist() != both.step_evaluations[1].tolist()
    for k in range(2):
        rows = slice(k, k + 1)
        alone = ref.algorithm_2(grid, emoji64.schedule, small_eps(rows), x0[rows])
        assert alone.step_evaluations[0].tolist() == both.step_evaluations[k].tolist()
        assert distance(alone.noise[0], both.noise[k]) < TOLERANCE


def test_a_tighter_tolerance_finds_the_noise_more_exactly(emoji64):
    grid = ji.time_grid(emoji64.schedule, 20)
    noise = ref.to_channels_first(NOISE)
    x0 = ref.ddim(grid, small_eps(), noise)[0]
    tight = ref.Settings(sum_of_squares=1e-7)
    coarse, fine = (
        distance(ref.algorithm_1(grid, small_eps(), x0, settings).noise, noise)
        for settings in (None, tight)
    )
    assert fine < 0.1 * coarse


@pytest.mark.parametrize("slope", [0.4, 5.0])
def test_step_size_is_halved_when_torch_would_halve_it(slope):
    settings = ref.Settings(sum_of_squares=1e-12)
    start = torch.ones(1, 1, 1, 1)
    calls = 0

    def step(z, rows):
        nonlocal calls
        calls += 1
        return slope * z

    # On F(z) = 5 z, rho = 0.5 overshoots by half every time; 0.25 converges.
    result = solve(step, 0 * start + 1, start, 0.5, settings, ref.forward_step)
    parameter = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.SGD([parameter], lr=0.5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=20
    )
    z, k = 1.0, 0
    while (slope * z - 1) ** 2 >= 1e-12:
        rho = optimiser.param_groups[0]["lr"] * min((k + 1) / 20, 1)
        scheduler.step((slope * z - 1) ** 2)
        z, k = z - rho * (slope * z - 1), k + 1
    assert result.converged.all()
    assert abs(calls - (k + 1)) <= 1
    assert float(result.value) == pytest.approx(1 / slope, rel=1e-5)


def test_a_solve_that_fails_stops_and_keeps_its_best_iterate():
    settings = ref.Settings(max_iterations=40, plateau=1000)
    start = torch.ones(2, 1, 1, 1)

    def step(z, rows):
        return torch.where(rows[:, None, None, None] == 0, -z, torch.nan * z)

    # Moving along the residual of F(z) = -z leads away from its root, -0.5.
    result = solve(step, 0 * start + 0.5, start, 0.5, settings, ref.forward_step)
    assert result.converged.tolist() == [False, False]
    assert torch.equal(result.value, start)


def test_substeps_are_at_most_ten_timesteps_and_end_on_the_grid(emoji64):
    points = levels(ji.time_grid(emoji64.schedule, 20))
    for target, source in itertools.pairwise(points):
        fine = substeps(target, source, emoji64.schedule, 10.0)
        times = [at.time for at in fine]
        assert (fine[0], fine[-1]) == (target, source)
        assert np.all(np.diff(times) > 0)
        assert np.diff(times).max() <= 10 + 1e-6
        assert len(fine) - 2 < (source.time - target.time) / 10
        taus = np.array([at.sigma / at.alpha for at in fine])
        np.testing.assert_allclose(emoji64.schedule.model_time(taus), times, rtol=1e-9)


def test_grids_that_are_not_variance_preserving_are_refused():
    grid = ji.time_grid(ji.flow_matching(), 20)
    with pytest.raises(ValueError, match="variance-preserving"):
        ref.ddim(grid, small_eps(), ref.to_channels_first(NOISE))
