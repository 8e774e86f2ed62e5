"""Inversion: exactness, its certificate, isolation of samples, and bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import (
    EXACT_SOLVERS,
    EXACT_STRATEGIES,
    SAMPLERS,
    SCHEDULES,
    SOLVERS,
    TIMESTEP_SAMPLERS,
    each,
    relative_error,
)
from gaussian_mixture import SHAPE, VARIANCE, gaussian_mixture
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.inversion.stages import Stage
from jaxinv.solvers import SOLVERS as SOLVERS_BY_NAME

VP = SCHEDULES["vp"]
STEPS = 20

# What a sweep costs at this size is its linear system, of history times levels
# unknowns; the default of 20 sweeps is run below, in both precisions.
SHORT_HISTORY = ji.Trajectory(history=6)

# BDIA with gamma = 1, started from one array, is the one table whose rows do not have
# one solution that is found: another noise leads to the same data (VP), or none is
# found (VE). It is inverted explicitly (test_bidirectional.py).
INVERTIBLE = {name: case for name, case in SAMPLERS.items() if name != "bdia_1"}


def round_trip(table, denoise, dtype, **options):
    """Relative errors of the noise and of the reconstruction, and the result."""
    noise = jnp.asarray(np.random.default_rng(1).standard_normal(SHAPE), dtype)
    x0 = ji.sample(table, denoise, noise)
    result = ji.invert(table, denoise, x0, **options)
    again = ji.sample(table, denoise, result.noise)
    return relative_error(result.noise, noise), relative_error(again, x0), result


def stretched(gain, x, t):
    """A smooth model, as steep as its gain; its only parameter is data."""
    return gain * jnp.sin(x + 0.001 * t)


# --- exactness ----------------------------------------------------------------------


@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("sampler", each(INVERTIBLE))
def test_every_table_is_inverted_to_machine_precision(sampler, schedule, float64):
    table, denoise = sampler.build(schedule, STEPS), gaussian_mixture(schedule)
    noise, reconstruction, result = round_trip(
        table, denoise, float64, strategy=SHORT_HISTORY
    )
    assert bool(result.converged)
    assert float(result.residual) < 1e-12
    # Errors relative to the state grow by at most |x0| / (s |noise|) on the way up,
    # the standard deviation of a component being s; they add up over the steps.
    assert noise < STEPS * 1e-12 / VARIANCE**0.5
    assert reconstruction < STEPS * 1e-12


# Every strategy on the table with the longest memory, and the two that need most on
# the others; one strategy on every table is the test above.
STRATEGIES_AND_TABLES = [
    ("dpmpp_3m", "auto"),
    ("dpmpp_3m", "trajectory-chunked"),
    ("dpmpp_3m", "trajectory-naive-start"),
    ("dpmpp_3m", "newton"),
    ("dpmpp_2m", "newton"),
    ("ddim", "auto"),
    ("ddim", "trajectory-chunked"),
    ("ddim", "newton"),
]


@pytest.mark.parametrize(("name", "strategy"), STRATEGIES_AND_TABLES)
def test_every_exact_strategy_inverts_every_order(name, strategy, float64):
    table, denoise = SAMPLERS[name].build(VP, STEPS), gaussian_mixture(VP)
    strategy = EXACT_STRATEGIES[strategy]
    noise, reconstruction, result = round_trip(
        table, denoise, float64, strategy=strategy
    )
    assert bool(result.converged)
    assert noise < STEPS * 1e-12 / VARIANCE**0.5
    assert reconstruction < STEPS * 1e-12


@pytest.mark.parametrize("solver", EXACT_SOLVERS)
@pytest.mark.parametrize("schedule", each(SCHEDULES))
def test_stepwise_inversion_is_exact_in_float64(schedule, solver, float64):
    table, denoise = ji.ddim(ji.time_grid(schedule, STEPS)), gaussian_mixture(schedule)
    noise, reconstruction, result = round_trip(
        table, denoise, float64, strategy="stepwise", solver=solver
    )
    assert bool(result.converged)
    assert noise < 1e-12
    assert reconstruction < 1e-12


@pytest.mark.parametrize("sampler", each(TIMESTEP_SAMPLERS))
def test_inversion_is_exact_on_the_grids_of_diffusers(sampler, float64):
    schedule = ji.scaled_linear(set_alpha_to_one=True)
    table, denoise = sampler.build(schedule, STEPS), gaussian_mixture(schedule)
    noise, reconstruction, result = round_trip(table, denoise, float64)
    assert bool(result.converged)
    assert noise < 1e-12
    assert reconstruction < 1e-12


def test_a_grid_whose_last_step_goes_nowhere_is_inverted(float64):
    schedule = ji.scaled_linear(set_alpha_to_one=False)
    table = ji.ddim(ji.time_grid(schedule, STEPS, "linspace"))
    assert table.tau[0] == table.tau[1]
    noise, reconstruction, result = round_trip(
        table, gaussian_mixture(schedule), float64
    )
    assert bool(result.converged)
    assert max(noise, reconstruction) < 1e-12


@pytest.mark.parametrize(
    "strategy", ["auto", pytest.param(SHORT_HISTORY, id="trajectory")]
)
@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "dpmpp_3m"])
def test_inversion_in_float32_is_as_exact_as_its_tolerance(name, schedule, strategy):
    table, denoise = SAMPLERS[name].build(schedule, STEPS), gaussian_mixture(schedule)
    noise, reconstruction, result = round_trip(
        table, denoise, jnp.float32, strategy=strategy
    )
    assert bool(result.converged)
    # Every step may be off by the tolerance of 1e-6. A component of data with standard
    # deviation s becomes noise of standard deviation 1: errors relative to the state
    # grow by at most |x0| / (s |noise|) on the way up, and not at all on the way down.
    bound = STEPS * 1e-6
    assert reconstruction < bound
    assert noise < bound / VARIANCE**0.5


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_inversion_is_exact_for_other_prediction_types(prediction, float64):
    convert = {"v": ji.from_v, "x0": ji.from_x0}[prediction]
    denoise = convert(gaussian_mixture(VP).predicting(prediction), VP)
    table = ji.ddim(ji.time_grid(VP, STEPS))
    noise, reconstruction, _ = round_trip(table, denoise, float64)
    assert max(noise, reconstruction) < 1e-11


@pytest.mark.parametrize("solver", each(SOLVERS))
def test_every_solver_meets_its_tolerance_at_every_step(solver, float64):
    table = ji.ddim(ji.time_grid(VP, STEPS))
    _, reconstruction, result = round_trip(
        table, gaussian_mixture(VP), float64, strategy="stepwise", solver=solver
    )
    assert bool(result.solved)
    assert np.all(result.step_residuals <= 1e-6)
    assert reconstruction < STEPS * 1e-6


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("anderson", ji.Anderson()),
        ("fixed_point", ji.FixedPoint()),
        ("forward_step", ji.ForwardStep.paper),
        ("gradient", ji.Gradient()),
        ("newton_krylov", ji.NewtonKrylov()),
    ],
)
def test_a_named_solver_is_the_one_with_its_default_settings(name, solver):
    assert SOLVERS_BY_NAME[name] == solver


def test_naive_inversion_is_far_less_exact(float64):
    # A first-order error: large beside any tolerance, small beside the noise itself.
    table = ji.ddim(ji.time_grid(VP, STEPS))
    noise, _, _ = round_trip(table, gaussian_mixture(VP), float64, strategy="naive")
    assert 1e-3 < noise < 1


@pytest.mark.parametrize(
    ("strategy", "ahead"),
    [("naive", 0), (ji.Naive(), 0), (ji.Naive(evaluate_at="lower"), 1)],
)
def test_naive_inversion_evaluates_the_model_at_the_state_that_it_has(
    strategy, ahead, float64
):
    grid = ji.time_grid(VP, STEPS)
    denoise = gaussian_mixture(VP)
    x = x0 = jax.random.normal(jax.random.key(2), SHAPE, float64)
    states = [x]
    for i in range(1, STEPS + 1):
        f = denoise(x, grid.model_time[i - ahead])
        y = x / grid.scale[i - 1] + (grid.tau[i] - grid.tau[i - 1]) * f
        x = grid.scale[i] * y
        states.append(x)
    result = ji.invert(
        ji.ddim(grid), denoise, x0, strategy=strategy, return_trajectory=True
    )
    np.testing.assert_allclose(result.trajectory, jnp.stack(states), rtol=1e-11)
    assert int(result.num_evals) == 2 * STEPS  # and back


def test_data_that_the_sampler_never_made_is_inverted_as_well(float64):
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    # A draw from the data's own distribution.
    noise = np.random.default_rng(5).standard_normal(SHAPE)
    x0 = jnp.asarray(denoise.centres[0] + VARIANCE**0.5 * noise)
    result = ji.invert(table, denoise, x0)
    assert bool(result.converged)
    assert relative_error(ji.sample(table, denoise, result.noise), x0) < 1e-12


# --- the certificate ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "solver"),
    [("vp", "anderson"), ("flow", "fixed_point"), ("ve", "forward_step")],
)
def test_the_residuals_are_those_of_the_returned_trajectory(schedule, solver, float64):
    schedule = SCHEDULES[schedule]
    table, denoise = ji.ddim(ji.time_grid(schedule, STEPS)), gaussian_mixture(schedule)
    x0 = jax.random.normal(jax.random.key(2), SHAPE, float64)
    result = ji.invert(
        table,
        denoise,
        x0,
        strategy="stepwise",
        solver=solver,
        return_trajectory=True,
    )
    measured = ji.certify(table, denoise, result.trajectory)
    # Two programs round a step differently, each of its dozen operations by eps.
    eps = float(jnp.finfo(float64).eps)
    np.testing.assert_allclose(measured, result.step_residuals, atol=50 * eps)
    assert float(result.residual) == float(np.max(result.step_residuals))


def test_the_trajectory_runs_from_the_data_to_the_noise(dtype):
    schedule = SCHEDULES["ve"]
    table, denoise = ji.ddim(ji.time_grid(schedule, STEPS)), gaussian_mixture(schedule)
    x0 = jax.random.normal(jax.random.key(2), SHAPE, dtype)
    result = ji.invert(
        table, denoise, x0, strategy=SHORT_HISTORY, return_trajectory=True
    )
    assert result.trajectory.shape == (STEPS + 1, *SHAPE)
    assert result.trajectory.dtype == result.noise.dtype == dtype
    np.testing.assert_array_equal(result.trajectory[0], x0)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        result.trajectory[-1], result.noise * schedule.init_noise_scale, rtol=4 * eps
    )


def test_the_trajectory_is_left_out_unless_asked_for():
    table = ji.ddim(ji.time_grid(VP, 2))
    x0 = jnp.ones((2, 2))
    result = ji.invert(table, Partial(stretched, 0.5), x0, strategy="naive")
    assert result.trajectory is None


@pytest.mark.parametrize("seed", range(3))
def test_naive_inversion_with_progress_is_naive_inversion(seed):
    rng = np.random.default_rng(seed)
    names = sorted(SAMPLERS)
    table = SAMPLERS[names[rng.integers(len(names))]].build(VP, 6)
    if table.history == 1:  # no sampler has such weights; a table of a user may
        weights = rng.uniform(0.8, 1.2, table.a.shape)
        table = dataclasses.replace(table, a=table.a * weights)
    strategy = ji.Naive(evaluate_at=str(rng.choice(["upper", "lower"])))
    x0 = jax.random.normal(jax.random.key(seed), (3, 2))
    run = functools.partial(
        ji.invert, table, Partial(stretched, 0.5), x0, strategy=strategy
    )
    seen = []
    assert relative_error(run(report=seen.append).noise, run().noise) < 1e-5
    assert seen[-1] == table.num_steps


def test_naive_inversion_claims_nothing():
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    x0 = jax.random.normal(jax.random.key(2), SHAPE)
    result = ji.invert(table, denoise, x0, strategy="naive")
    assert not bool(result.converged)
    assert np.isnan(result.residual)
    assert np.all(np.isnan(result.step_residuals))
    assert result.step_residuals.shape == (STEPS,)


def test_a_naive_trajectory_can_be_certified_afterwards(float64):
    table, denoise = ji.ddim(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    x0 = jax.random.normal(jax.random.key(2), SHAPE, float64)
    naive = ji.invert(table, denoise, x0, strategy="naive", return_trajectory=True)
    residuals = ji.certify(table, denoise, naive.trajectory)
    assert np.all(np.isfinite(residuals))
    assert 1e-4 < float(jnp.max(residuals)) < 1


def counting_denoiser(calls):
    """A model that counts how often it is run, not how often it is traced."""

    def denoise(x, t):
        # The argument makes it one call for each level of a batch.
        jax.debug.callback(lambda _: calls.append(1), t)
        return stretched(0.7, x, t)

    return denoise


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "stepwise", "solver": "anderson"},
        {"strategy": "stepwise", "solver": "fixed_point"},
        {"strategy": "stepwise", "solver": "forward_step"},
        {"strategy": "stepwise", "solver": ji.Gradient(max_iterations=5)},
        {"strategy": "naive"},
    ],
    ids=["anderson", "fixed_point", "forward_step", "gradient", "naive"],
)
def test_evaluations_are_counted_exactly(options):
    calls = []
    table = ji.ddim(ji.time_grid(VP, 5))
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    result = ji.invert(table, counting_denoiser(calls), x0, **options)
    jax.effects_barrier()
    way_back = 5
    spent = int(np.sum(result.iterations)) + way_back
    assert len(calls) == int(result.num_evals) == spent
    assert int(result.depth) == int(result.num_evals)


@pytest.mark.parametrize(
    ("strategy", "levels", "extra"),
    [
        (ji.Trajectory(), 6, 0),
        (ji.Trajectory(start="naive"), 6, 6),
        (ji.Trajectory(chunk=2), 2, 0),
    ],
    ids=["all at once", "naive start", "chunks"],
)
def test_a_sweep_costs_one_evaluation_per_level(strategy, levels, extra):
    calls = []
    table = ji.dpmpp_2m(ji.time_grid(VP, 6))
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    result = ji.invert(table, counting_denoiser(calls), x0, strategy=strategy)
    jax.effects_barrier()
    assert bool(result.converged)
    assert len(calls) == int(result.num_evals)
    in_turn = extra + 6  # the way back
    assert int(result.num_evals) - in_turn == levels * (int(result.depth) - in_turn)


def test_levels_below_which_all_rows_hold_are_not_evaluated_again():
    table = ji.dpmpp_2m(ji.time_grid(VP, STEPS))
    x0 = jax.random.normal(jax.random.key(3), SHAPE)
    settings = ji.Trajectory(history=6, chunk=5)
    model = gaussian_mixture(VP)
    result = ji.invert(table, model, x0, strategy=settings, verify=False)
    assert bool(result.solved)
    assert int(result.iterations[0]) < int(result.iterations[-1])
    assert int(result.num_evals) < STEPS * int(result.iterations[-1])


def test_a_plan_goes_on_only_with_samples_that_have_not_converged():
    calls = []
    table, denoise = ji.ddim(ji.time_grid(VP, 6)), counting_denoiser(calls)
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    alone = ji.invert(table, denoise, x0, strategy=ji.Trajectory())
    jax.effects_barrier()
    calls.clear()
    plan = (ji.Trajectory(), ji.Trajectory(), ji.NewtonTrajectory())
    planned = ji.invert(table, denoise, x0, strategy=plan)
    jax.effects_barrier()
    assert bool(alone.converged)
    assert len(calls) == int(planned.num_evals) == int(alone.num_evals)
    np.testing.assert_array_equal(planned.noise, alone.noise)


def test_a_stage_that_is_not_needed_is_not_even_compiled():
    class Unwanted(Stage):
        def solve(self, task):
            raise AssertionError("traced")

    table, denoise = ji.ddim(ji.time_grid(VP, 6)), Partial(stretched, 0.5)
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    plan = (ji.Trajectory(), Unwanted())
    assert bool(ji.invert(table, denoise, x0, strategy=plan).converged)
    with pytest.raises(AssertionError, match="traced"):
        jax.jit(lambda x: ji.invert(table, denoise, x, strategy=plan))(x0)


def test_a_model_that_closes_over_a_tracer_is_inverted_with_known_data():
    table = ji.ddim(ji.time_grid(VP, 6))
    x0 = jax.random.normal(jax.random.key(3), (3, 3))

    def noise(gain):
        denoise = lambda x, t: stretched(gain, x, t)  # noqa: E731
        return ji.invert(table, denoise, x0, strategy="stepwise").noise

    gains = jnp.array([0.3, 0.5])
    together = jax.vmap(noise)(gains)
    assert relative_error(together[1], noise(gains[1])) < 1e-5


def test_a_later_stage_takes_over_what_the_first_one_left(float64):
    table, denoise = ji.dpmpp_2m(ji.time_grid(VP, STEPS)), gaussian_mixture(VP)
    noise = jax.random.normal(jax.random.key(2), SHAPE, float64)
    x0 = ji.sample(table, denoise, noise)
    short = ji.Trajectory(history=6, max_sweeps=3)
    left = ji.invert(table, denoise, x0, strategy=short)
    plan = (short, ji.NewtonTrajectory())
    finished = ji.invert(table, denoise, x0, strategy=plan)
    assert not bool(left.converged)
    assert bool(finished.converged)
    assert int(finished.num_evals) > int(left.num_evals)
    assert float(finished.residual) < 1e-12 < float(left.residual)


def test_certifying_costs_one_evaluation_per_step():
    calls = []
    table = ji.ddim(ji.time_grid(VP, 5))
    ji.certify(table, counting_denoiser(calls), jnp.ones((6, 3, 3)))
    jax.effects_barrier()
    assert len(calls) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "stepwise", "solver": ji.Anderson(max_iterations=3)},
        {"strategy": ji.Trajectory(max_sweeps=3)},
        {"strategy": (ji.Trajectory(max_sweeps=3), ji.NewtonTrajectory(1, 2))},
    ],
    ids=["stepwise", "trajectory", "newton"],
)
def test_not_converging_is_reported_and_carries_the_best_found(options):
    table = ji.ddim(ji.time_grid(VP, STEPS))
    denoise = Partial(stretched, 40.0)
    x0 = jax.random.normal(jax.random.key(3), (3, 3))
    result = ji.invert(table, denoise, x0, return_trajectory=True, **options)
    assert not bool(result.converged)
    assert np.isfinite(result.residual)
    assert float(result.residual) > 1e-3
    measured = ji.certify(table, denoise, result.trajectory)
    np.testing.assert_allclose(measured, result.step_residuals, rtol=1e-2, atol=1e-5)


# --- many samples -------------------------------------------------------------------


@jax.jit(static_argnames="strategy")
def invert_all(table, x0s, gains, strategy):
    """Inverts with a gain per sample: the models differ in their data only."""
    return jax.vmap(
        lambda x, g: ji.invert(table, Partial(stretched, g), x, strategy=strategy)
    )(x0s, gains)


MANY = {
    "ddim, stepwise": (ji.ddim, "stepwise"),
    "ddim, auto": (ji.ddim, "auto"),
    "2m, trajectory": (ji.dpmpp_2m, SHORT_HISTORY),
    "2m, chunked": (ji.dpmpp_2m, ji.Trajectory(history=6, chunk=4)),
    "2m, newton": (
        ji.dpmpp_2m,
        (ji.Trajectory(history=6, max_sweeps=3), ji.NewtonTrajectory(20)),
    ),
}


@pytest.fixture(params=[pytest.param(case, id=name) for name, case in MANY.items()])
def eight(request):
    """Eight samples, and the gain of the model of each."""
    sampler, strategy = request.param
    table = sampler(ji.time_grid(VP, 10))
    x0s = np.random.default_rng(4).standard_normal((8, 4, 4))
    x0s = np.float32(x0s * np.geomspace(0.1, 4.0, 8)[:, None, None])
    gains = jnp.asarray(np.float32(np.linspace(0.2, 0.9, 8)))
    return table, strategy, jnp.asarray(x0s), gains


def test_vmap_is_a_loop_that_stops_every_sample_on_its_own(eight):
    table, strategy, x0s, gains = eight
    together = invert_all(table, x0s, gains, strategy)
    assert np.all(together.converged)
    assert len(set(together.num_evals.tolist())) > 1
    for k in range(0, 8, 3):
        denoise = Partial(stretched, gains[k])
        alone = ji.invert(table, denoise, x0s[k], strategy=strategy)
        # Both meet the tolerance of 1e-6 at each of 10 steps, and are not the same.
        assert relative_error(together.noise[k], alone.noise) < 1e-5
        # Rounding may decide on which side of the tolerance the last sweep falls, and
        # whether sampling is tried a second time: 10 evaluations in a row.
        apart = abs(int(together.depth[k]) - int(alone.depth))
        assert min(apart, abs(apart - 10)) <= 0.2 * int(alone.depth)


@pytest.mark.parametrize("gain", [np.nan, 1e30])
def test_one_failing_sample_does_not_touch_the_others(eight, gain):
    table, strategy, x0s, gains = eight
    healthy = invert_all(table, x0s, gains, strategy)
    mixed = invert_all(table, x0s, gains.at[3].set(gain), strategy)
    others = np.arange(8) != 3
    for before, after in zip(
        jax.tree.leaves(healthy), jax.tree.leaves(mixed), strict=True
    ):
        np.testing.assert_array_equal(after[others], before[others])
    assert not bool(mixed.converged[3])
    assert not float(mixed.residual[3]) <= 1e-6


def test_a_nan_among_batched_data_is_reported_for_its_sample_only(eight):
    table, strategy, x0s, gains = eight
    mixed = invert_all(table, x0s.at[5, 0, 0].set(np.nan), gains, strategy)
    np.testing.assert_array_equal(mixed.converged, np.arange(8) != 5)
    assert np.all(np.isfinite(mixed.noise[np.arange(8) != 5]))


# --- programs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("ddim", "auto"),
        ("dpmpp_2m", SHORT_HISTORY),
        ("dpmpp_2m", EXACT_STRATEGIES["newton"]),
    ],
    ids=["auto", "trajectory", "newton"],
)
def test_jit_of_invert_is_invert(name, strategy, float64):
    table, denoise = SAMPLERS[name].build(VP, STEPS), gaussian_mixture(VP)
    noise = np.random.default_rng(1).standard_normal(SHAPE)
    x0 = ji.sample(table, denoise, jnp.asarray(noise))
    plain = ji.invert(table, denoise, x0, strategy=strategy)
    jitted = jax.jit(lambda *args: ji.invert(*args, strategy=strategy))(
        table, denoise, x0
    )
    np.testing.assert_allclose(jitted.noise, plain.noise, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(jitted.iterations, plain.iterations)


def test_inversion_compiles_once_for_new_data_and_new_parameters():
    traces = []

    def network(params, x, t, cond):
        traces.append(1)
        return params["gain"] * jnp.tanh(x + 0.001 * t) + jnp.mean(cond)

    def denoiser(gain, prompt, scale):
        model = Partial(network, {"gain": jnp.float32(gain)})
        return ji.guided(model, jnp.full((2, 3), prompt), jnp.zeros((2, 3)), scale)

    def run(seed, steps=5, gain=0.5, prompt=0.1, scale=2.0, shape=(3, 3)):
        table = ji.ddim(ji.time_grid(VP, steps))
        x0 = jax.random.normal(jax.random.key(seed), shape)
        denoise = denoiser(gain, prompt, scale)
        return ji.invert(table, denoise, x0, strategy="stepwise", solver="fixed_point")

    first = run(0)
    count = len(traces)
    assert count > 0
    changed = [run(1), run(0, gain=0.3), run(0, prompt=0.2), run(0, scale=3)]
    assert len(traces) == count
    assert all(np.any(first.noise != other.noise) for other in changed)
    # Another program for another number of steps: the network is not traced again.
    run(0, steps=6)
    assert len(traces) == count
    run(0, shape=(2, 3))
    assert len(traces) > count


def test_sampling_compiles_once_for_new_noise_and_new_grids_of_one_length():
    traces = []

    def denoise(x, t):
        traces.append(1)
        return stretched(0.5, x, t)

    noise = jnp.ones((3, 3))
    ji.sample(ji.ddim(ji.time_grid(VP, 5)), denoise, noise)
    count = len(traces)
    ji.sample(ji.ddim(ji.time_grid(ji.linear(), 5, "trailing")), denoise, 2 * noise)
    assert len(traces) == count


# --- bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x0", "message"),
    [
        (np.ones((2, 2), np.int32), "data x0 must be a floating-point array"),
        (np.ones((2, 2), np.uint8), "data x0 must be a floating-point array"),
        (np.ones((2, 2), np.float16), "data x0 must be float32 or float64"),
        (np.array([1.0, np.nan]), "data x0 must be finite, but 1 of its 2 values"),
    ],
    ids=["integer", "8-bit", "half precision", "nan"],
)
def test_data_that_is_no_data_is_refused(x0, message):
    table = ji.ddim(ji.time_grid(VP, 4))
    with pytest.raises(ValueError, match=message):
        ji.invert(table, Partial(stretched, 0.5), x0)


@pytest.mark.parametrize("strategy", ["auto", "trajectory", "stepwise", "naive"])
def test_data_of_another_shape_than_the_model_takes_is_refused(strategy):
    table = ji.ddim(ji.time_grid(VP, 4))
    denoise = Partial(lambda w, x, t: x @ w, jnp.ones((4, 4)))
    with pytest.raises(ValueError, match=r"sample of shape \(1, 4, 3\) \(no batch"):
        ji.invert(table, denoise, jnp.ones((1, 4, 3)), strategy=strategy)


@pytest.mark.parametrize("strategy", ["exact", None, 3, ji.Trajectory, (), ("auto",)])
def test_an_unknown_strategy_is_refused(strategy):
    message = (
        r"strategy.* must be a .*Stage|unknown strategy .*there are auto, explicit"
    )
    with pytest.raises(ValueError, match=message):
        ji.invert(
            ji.ddim(ji.time_grid(VP, 4)), stretched, jnp.ones(3), strategy=strategy
        )


@pytest.mark.parametrize("solver", ["newton", 3, ji.Anderson])
def test_an_unknown_solver_is_refused(solver):
    with pytest.raises(ValueError, match="solver"):
        ji.invert(
            ji.ddim(ji.time_grid(VP, 4)),
            stretched,
            jnp.ones(3),
            strategy="stepwise",
            solver=solver,
        )


@pytest.mark.parametrize("strategy", ["auto", "trajectory", "naive"])
def test_a_solver_that_would_be_ignored_is_refused(strategy):
    with pytest.raises(ValueError, match="only strategy 'stepwise' has a solver"):
        ji.invert(
            ji.ddim(ji.time_grid(VP, 4)),
            stretched,
            jnp.ones(3),
            strategy=strategy,
            solver="anderson",
        )


def test_the_published_algorithm_asks_for_the_schedule():
    with pytest.raises(ValueError, match=r"needs schedule=.*'trajectory'"):
        ji.invert(
            ji.dpmpp_2m(ji.time_grid(VP, 4)),
            Partial(stretched, 0.5),
            jnp.ones(3),
            strategy="stepwise",
        )


@pytest.mark.parametrize("length", [4, 6])
def test_a_trajectory_of_another_length_is_refused(length):
    table = ji.ddim(ji.time_grid(VP, 4))
    with pytest.raises(ValueError, match="expected the 5 states"):
        ji.certify(table, Partial(stretched, 0.5), jnp.ones((length, 3)))


@pytest.mark.parametrize("solver", ["anderson", "newton_krylov"])
@pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")
def test_a_last_step_that_is_all_data_prediction_is_inverted_stepwise(solver):
    schedule = ji.scaled_linear(prediction_type="sample")
    table = ji.ddim(ji.time_grid(schedule, 6, "leading"))
    assert table.a[0, 0] == 0
    denoise = ji.as_denoiser(lambda x, t: 0.3 * jnp.tanh(x) + 0.1 * x, schedule)
    x0 = 0.1 * jax.random.normal(jax.random.key(0), (3, 3))
    found = ji.invert(table, denoise, x0, strategy="stepwise", solver=solver)
    assert bool(found.converged)
