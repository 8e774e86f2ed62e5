"""Bidirectional samplers: coefficients, exact round trips, states, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import BIDIRECTIONAL, SCHEDULES, each, relative_error
from gaussian_mixture import SHAPE, gaussian_mixture
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.analysis import zero_stability
from jaxinv.diffusion.grid import make_grid
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.samplers.units import in_tau

VP = SCHEDULES["vp"]
STEPS = 20
REVERSIBLE = {key: case.build for key, case in BIDIRECTIONAL.items()} | {
    "o_belm_4": lambda schedule, n: ji.o_belm(make_grid(schedule, n), 4),
}


def stretched(gain, x, t):
    """A smooth model whose only parameter is data."""
    return gain * jnp.sin(x + 0.001 * t)


DENOISE = Partial(stretched, 0.5)
BITS = {"arithmetic": "bits"}


def data(dtype, seed=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((3, 4)), dtype)


# --- coefficients -------------------------------------------------------------------


def test_o_belm_has_the_published_coefficients():
    grid = make_grid(VP, STEPS, "karras")
    table = in_tau(ji.o_belm(grid))
    h = np.diff(grid.tau)
    before, after = h[:-1], h[1:]
    a = np.array([(after**2 - before**2) / after**2, before**2 / after**2])
    np.testing.assert_allclose(table.a[:-1], a.T, rtol=1e-13)
    b = -before * (before + after) / after
    np.testing.assert_allclose(table.b[:-1, 0], b, rtol=1e-13)


def test_belm_of_two_states_is_o_belm():
    grid = make_grid(VP, STEPS, "karras")
    np.testing.assert_allclose(ji.belm(grid, 2).a, ji.o_belm(grid).a, atol=1e-13)
    np.testing.assert_allclose(ji.belm(grid, 2).b, ji.o_belm(grid).b, rtol=1e-12)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_a_row_of_bdia_is_its_two_ddim_steps(schedule):
    grid, gamma, i = make_grid(schedule, STEPS), 0.7, 7
    table = in_tau(ji.bdia(grid, gamma))
    y, f = np.array([0.3, -1.1]), 0.4
    scale, tau = grid.scale, grid.tau

    def ddim(to):
        return scale[to] * (y[0] + (tau[to] - tau[i]) * f)

    x = ddim(i - 1) + gamma * (scale[i + 1] * y[1] - ddim(i + 1))
    row = table.a[i - 1] @ y + table.b[i - 1, 0] * f
    np.testing.assert_allclose(scale[i - 1] * row, x, rtol=1e-13)


def test_bdia_without_gamma_is_ddim():
    # Its table is linear in gamma, and DDIM's where that vanishes.
    grid = make_grid(VP, STEPS)
    ddim = ji.ddim(grid)
    small, twice = ji.bdia(grid, 1e-3), ji.bdia(grid, 2e-3)
    limit = 2 * small.a - twice.a
    np.testing.assert_allclose(limit, np.pad(ddim.a, ((0, 0), (0, 1))), atol=1e-12)
    np.testing.assert_allclose((2 * small.b - twice.b)[:, :1], ddim.b, rtol=1e-12)
    assert not ddim.bidirectional


def test_the_row_of_o_belm_log_snr_is_the_one_written_out():
    grid = make_grid(VP, STEPS, "karras")
    table, n = in_tau(ji.o_belm_log_snr(grid)), STEPS
    h, g = -np.diff(grid.log_snr)[: n - 1], -np.diff(grid.log_snr)[1:]
    oldest = (1 - (1 + h) * np.exp(-h)) / (1 - (1 - g) * np.exp(g))
    slope = grid.tau[1:n] * (np.exp(-h) - (1 - oldest) - oldest * np.exp(g))
    np.testing.assert_allclose(table.a[:-1, 1], oldest, rtol=1e-10)
    np.testing.assert_allclose(table.b[:-1, 0], slope, rtol=1e-10)


def test_even_steps_make_milnes_predictor():
    tau = np.linspace(1.0, 2.0, 11)
    grid = ji.TimeGrid(tau, np.ones(11), tau, 1.0, "ve")
    table = in_tau(ji.o_belm(grid, 4))
    np.testing.assert_allclose(table.a[0], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(table.b[0], -0.1 * np.array([8, -4, 8, 0]) / 3)


def stretched_numpy(x, t):
    return 0.5 * np.sin(x + 0.001 * t)


def paper_edict(grid, p, noise):
    """EDICT line by line, in the state x; the pairs (x, y), and the inner x, by level.

    Wallace et al. 2023, Eq. 13 (each sequence with the other's output) and Eq. 14
    (mixing).
    """
    alpha, sigma = grid.scale, grid.tau * grid.scale
    x = y = noise
    pairs, inner = {grid.num_steps: (x, y)}, {}
    for i in range(grid.num_steps, 0, -1):
        a = alpha[i - 1] / alpha[i]
        b = sigma[i - 1] - a * sigma[i]
        x = inner[i] = a * x + b * stretched_numpy(y, grid.model_time[i])
        y = a * y + b * stretched_numpy(x, grid.model_time[i])
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        pairs[i - 1] = x, y
    return pairs, inner


def undo_paper_edict(grid, p, x, y):
    """The noise end of EDICT by its lines undone, last first (Eq. 15)."""
    alpha, sigma = grid.scale, grid.tau * grid.scale
    for i in range(1, grid.num_steps + 1):
        a = alpha[i - 1] / alpha[i]
        b = sigma[i - 1] - a * sigma[i]
        y = (y - (1 - p) * x) / p
        x = inner = (x - (1 - p) * y) / p
        y = (y - b * stretched_numpy(x, grid.model_time[i])) / a
        x = (x - b * stretched_numpy(y, grid.model_time[i])) / a
    return inner, y


@pytest.mark.parametrize("p", [0.5, 0.93, 1.0])
@pytest.mark.parametrize("spacing", ["log_snr", "leading"])
def test_edict_is_the_lines_of_its_paper_in_both_directions(spacing, p, float64):
    grid = make_grid(VP, STEPS, spacing)
    sampler, noise = ji.edict(grid, p), np.asarray(data(float64))
    pairs, inner = paper_edict(grid, p, noise)
    wanted = [pairs[0][1]]
    for i in range(1, STEPS + 1):
        wanted += [inner[i], pairs[i][1]]
    found = ji.sample_trajectory(sampler, DENOISE, noise)
    assert relative_error(found, np.stack(wanted)) < 1e-13
    assert (sampler.num_steps, sampler.num_rows) == (STEPS, 2 * STEPS)
    # From data that both sequences start with, as the paper does; p^-2 of rounding
    # grows with every step.
    x0 = wanted[0]
    state = ji.invert(sampler, DENOISE, x0).state
    there = np.stack(undo_paper_edict(grid, p, x0, x0))
    assert relative_error(state.values, there) < 1e-14 * p ** (-2 * STEPS)


# --- round trips --------------------------------------------------------------------


def growth(sampler):
    """By how much the rows may multiply rounding errors, the worse of both ways."""
    stability = zero_stability(sampler)
    return max(stability.growth, stability.inverse_growth)


@pytest.mark.parametrize("build", each(REVERSIBLE))
def test_states_return_exactly_in_both_directions(build, dtype):
    sampler = build(VP, STEPS)
    x0 = data(dtype)
    result = ji.invert(sampler, DENOISE, x0)
    assert bool(result.state_converged)
    there = ji.sample(sampler, DENOISE, result.state, return_state=True)
    again = ji.invert(sampler, DENOISE, there)
    # Each of the steps rounds, by eps times the largest state of the trajectory, and
    # the rows multiply that by at most their growth; the model's slope stays below 1.
    largest = max(1.0, float(jnp.max(jnp.abs(result.state.values))))
    bound = 10 * STEPS * float(jnp.finfo(dtype).eps) * growth(sampler) * largest
    assert float(jnp.max(jnp.abs(there.x - x0))) < bound
    values = result.state.values
    assert float(jnp.max(jnp.abs(again.state.values - values))) < bound
    assert (there.end, again.state.end) == ("data", "noise")


@pytest.mark.parametrize("name", ["o_belm", "o_belm_log_snr", "bdia_1", "edict"])
@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_data_is_reproduced_from_the_state_and_not_from_one_array(
    schedule, name, float64
):
    sampler, denoise = REVERSIBLE[name](schedule, STEPS), gaussian_mixture(schedule)
    spread = np.random.default_rng(5).standard_normal(SHAPE)
    x0 = jnp.asarray(denoise.centres[0] + 0.2 * spread)
    result = ji.invert(sampler, denoise, x0)
    assert relative_error(ji.sample(sampler, denoise, result.state), x0) < 1e-12
    assert relative_error(ji.sample(sampler, denoise, result.noise), x0) > 1e-6
    # The certificate says so, of each answer: exact rows, but for those that start from
    # one array.
    assert bool(result.state_converged)
    assert not bool(result.converged)
    assert float(result.state_reconstruction) < 1e-12
    again = ji.sample(sampler, denoise, result.noise)
    np.testing.assert_allclose(
        result.reconstruction, relative_error(again, x0), rtol=1e-6
    )
    assert np.max(result.step_residuals[:-1]) < 1e-13 < result.step_residuals[-1]


def test_one_array_reproduces_the_data_if_all_rows_are_solved(float64):
    sampler, x0 = ji.o_belm(make_grid(VP, STEPS)), data(float64)
    result = ji.invert(sampler, DENOISE, x0, strategy="trajectory")
    assert bool(result.converged)
    assert relative_error(ji.sample(sampler, DENOISE, result.noise), x0) < 1e-11
    assert relative_error(ji.sample(sampler, DENOISE, result.state), x0) < 1e-11


@pytest.mark.parametrize("name", ["o_belm", "o_belm_4"])
def test_the_states_at_the_data_end_can_be_made_by_eulers_steps(name, float64):
    sampler, x0 = REVERSIBLE[name](VP, STEPS), data(float64)
    scale = in_tau(sampler).scale
    y, made = x0 / scale[0], [x0]
    for i in range(1, sampler.history):
        f = DENOISE(scale[i - 1] * y, sampler.model_time[i - 1])
        y = y + (sampler.tau[i] - sampler.tau[i - 1]) * f
        made.append(scale[i] * y)
    strategy = ji.Explicit(start="euler")
    found = ji.invert(sampler, DENOISE, x0, strategy=strategy, return_trajectory=True)
    ends = found.trajectory[: sampler.history]
    assert relative_error(ends, jnp.stack(made)) < 1e-13
    # Whatever the start, the state makes the round trip.
    assert relative_error(ji.sample(sampler, DENOISE, found.state), x0) < 1e-10
    implicit = ji.invert(sampler, DENOISE, x0)
    assert relative_error(found.noise, implicit.noise) > 1e-6
    assert int(found.num_evals) < int(implicit.num_evals)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("o_belm", "implicit"),
        ("o_belm", "euler"),
        ("o_belm_4", "implicit"),
        ("o_belm_4", "euler"),
        ("edict", "implicit"),
    ],
)
def test_evaluations_of_an_explicit_inversion_are_counted(name, start):
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda _: calls.append(1), t)
        return stretched(0.5, x, t)

    strategy = "auto" if start == "implicit" else ji.Explicit(start=start)
    sampler, x0 = REVERSIBLE[name](VP, 6), data(jnp.float32)
    result = ji.invert(sampler, denoise, x0, strategy=strategy)
    jax.effects_barrier()
    assert len(calls) == int(result.num_evals)


@pytest.mark.parametrize("name", ["o_belm_log_snr", "edict"])
def test_explicit_inversion_under_vmap_is_a_loop(name):
    sampler = REVERSIBLE[name](VP, STEPS)
    x0s = jnp.stack([data(jnp.float32, seed) for seed in range(3)])
    together = jax.jit(jax.vmap(lambda x: ji.invert(sampler, DENOISE, x).state))(x0s)
    back = jax.vmap(lambda s: ji.sample(sampler, DENOISE, s))(together)
    alone = ji.invert(sampler, DENOISE, x0s[1]).state
    assert relative_error(together.values[1], alone.values) < 1e-4
    assert relative_error(back, x0s) < 1e-5


@pytest.mark.parametrize("name", ["o_belm", "o_belm_log_snr_4"])
def test_an_explicit_inversion_is_differentiable(name, float64):
    sampler, x0, way = REVERSIBLE[name](VP, 6), data(float64), data(float64, 4)

    def loss(gain, x):
        result = ji.invert(sampler, Partial(stretched, gain), x)
        return jnp.sum(jnp.sin(result.state.values))

    gain, step = jnp.asarray(0.5), 1e-5
    of_gain, of_x = jax.grad(loss, argnums=(0, 1))(gain, x0)
    ahead = loss(gain + step, x0 + step * way)
    behind = loss(gain - step, x0 - step * way)
    slope = float(of_gain + jnp.sum(of_x * way))
    # The first states are solved, and differentiated, to 1e-12, and rows amplify what
    # is wrong with them; central differences are off by step^2.
    bound = 1e-12 * zero_stability(sampler).inverse_growth / step + 100 * step**2
    assert float(ahead - behind) / (2 * step) == pytest.approx(slope, abs=bound)
    assert bound < 1e-2 * abs(slope)


def test_a_trajectory_can_be_kept_from_a_state(float64):
    for name in ("o_belm_4", "edict"):
        sampler = REVERSIBLE[name](VP, STEPS)
        result = ji.invert(sampler, DENOISE, data(float64), return_trajectory=True)
        states = ji.sample_trajectory(sampler, DENOISE, result.state)
        assert states.shape == result.trajectory.shape
        assert len(states) == sampler.num_rows + 1
        assert relative_error(states, result.trajectory) < 1e-9


# --- bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constructor", "options", "message"),
    [
        (ji.o_belm, {}, "at least 2 steps, got 1"),
        (ji.belm, {"k": 2}, "at least 2 steps, got 1"),
        (ji.bdia, {}, "at least 2 steps, got 1"),
        (ji.o_belm_log_snr, {"k": 4}, "at least 4 steps, got 1"),
        (ji.o_belm, {"k": 3}, "o_belm has k = 2 or 4"),
        (ji.belm, {"k": 5}, "belm has k = 2, 3, 4 states per row, got 5"),
        (ji.bdia, {"gamma": 0.0}, "gamma = 0 is ddim"),
        (ji.bdia, {"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        (ji.o_belm_log_snr, {"prediction": "v"}, "one of data, noise, got 'v'"),
        (ji.edict, {"p": 0.0}, "0 < p <= 1"),
    ],
)
def test_what_cannot_be_a_bidirectional_sampler_is_refused(
    constructor, options, message
):
    with pytest.raises(ValueError, match=message):
        constructor(make_grid(VP, 1), **options)


@pytest.mark.parametrize("constructor", [ji.o_belm, ji.belm, ji.bdia])
def test_equal_neighbouring_levels_are_refused(constructor):
    schedule = ji.scaled_linear(set_alpha_to_one=False)
    with pytest.raises(ValueError, match=r"tau\[0\] = tau\[1\]"):
        constructor(make_grid(schedule, STEPS, "linspace"))


def test_states_of_another_kind_are_refused():
    sampler = ji.o_belm(make_grid(VP, 6))
    state = ji.invert(sampler, DENOISE, data(jnp.float32)).state
    for other, message in (
        (ji.bdia(make_grid(VP, 6)), "state of 'o_belm' with 6 steps does not fit"),
        (ji.o_belm(make_grid(VP, 7)), "does not fit 'o_belm' with 7 steps"),
        (ji.ddim(make_grid(VP, 6)), "'ddim' starts from one array"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.sample(other, DENOISE, state)
    mixed = ji.invert(ji.edict(make_grid(VP, 6), 0.8), DENOISE, data(jnp.float32))
    with pytest.raises(ValueError, match=r"state of 'edict\(0.8\)' with 6 steps"):
        ji.sample(ji.edict(make_grid(VP, 6)), DENOISE, mixed.state)
    with pytest.raises(ValueError, match="got one at the noise end"):
        ji.invert(sampler, DENOISE, state)
    for values, message in (
        (state.values[:1], "holds 2 arrays, got values of shape"),
        (state.values.at[0, 0, 0].set(jnp.nan), "state must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.sample(sampler, DENOISE, dataclasses.replace(state, values=values))


def test_strategies_that_a_sampler_does_not_have_are_refused():
    grid, x0 = make_grid(VP, 6), data(jnp.float32)
    state = ji.sample(ji.edict(grid), DENOISE, x0, return_state=True)
    with pytest.raises(ValueError, match="inverted explicitly"):
        ji.invert(ji.edict(grid), DENOISE, state, strategy="trajectory")
    for sampler, options, message in (
        (ji.ddim(grid), {"strategy": "explicit"}, "not bidirectional"),
        (ji.ddim(grid), {"strategy": ji.Explicit()}, "not bidirectional"),
        (ji.dpmpp_2m(grid), {"strategy": ji.Explicit()}, "not bidirectional"),
        (ji.dpmpp_2m(grid), {"strategy": Stepwise()}, "memory of one state"),
        (ji.o_belm(grid), {"strategy": Stepwise()}, "memory of one state"),
        (ji.o_belm(grid), {"strategy": ji.Algorithm1()}, "memory of one state"),
        (ji.o_belm(grid), {"strategy": "stepwise"}, "bidirectional: use 'explicit'"),
        (ji.edict(grid), {"strategy": "stepwise"}, "bidirectional: use 'explicit'"),
        (ji.edict(grid), BITS | {"report": print}, "report needs data and"),
        (ji.edict(grid), {"solver": "anderson"}, "does not use solver='anderson'"),
        (ji.edict(grid), BITS | {"strategy": "trajectory"}, "inverted explicitly"),
        (ji.edict(grid), BITS | {"solver": "anderson"}, "inverted explicitly"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.invert(sampler, DENOISE, x0, **options)
    with pytest.raises(ValueError, match="omit return_state"):
        ji.sample(ji.ddim(grid), DENOISE, x0, return_state=True)
    with pytest.raises(ValueError, match="sampler must be a SamplerTable"):
        ji.sample("ddim", DENOISE, x0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ji.Explicit(start="midpoint"), "start must be"),
        (lambda: ji.Naive(evaluate_at="middle"), "evaluate_at must be"),
    ],
)
def test_flavours_that_do_not_exist_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
