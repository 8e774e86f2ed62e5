"""The limit on evaluations: every stage stops at it, and counts are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.inversion.stages import Stage
from jaxinv.inversion.strategies import EVALS_PER_ROW, FINISH
from jaxinv.solvers.krylov import gmres

ROWS = 6
GRID = ji.time_grid(SCHEDULES["vp"], ROWS)
X0 = jax.random.normal(jax.random.key(3), (3, 3))
TABLES = {"ddim": ji.ddim(GRID), "dpmpp_2m": ji.dpmpp_2m(GRID)}
# So steep a model that nothing converges.
GAIN = 40.0


def steep(gain, x, t):
    return gain * jnp.sin(x + 0.001 * t)


def counting(calls):
    """A steep model that counts how often it is run."""

    def denoise(x, t):
        jax.debug.callback(lambda _: calls.append(1), t)
        return steep(GAIN, x, t)

    return denoise


@pytest.mark.parametrize("limit", [ROWS, 3 * ROWS + 2])
@pytest.mark.parametrize(
    ("name", "stage", "each"),
    [
        ("ddim", "stepwise", 1),
        ("dpmpp_2m", ji.Trajectory(), ROWS),
        ("dpmpp_2m", ji.Trajectory(chunk=2), ROWS),
    ],
    ids=["stepwise", "trajectory", "chunks"],
)
def test_a_stage_uses_all_evaluations_of_the_limit_and_no_more(
    name, stage, each, limit
):
    calls = []
    result = ji.invert(
        TABLES[name], counting(calls), X0, strategy=stage, max_evals=limit
    )
    jax.effects_barrier()
    way_back = ROWS
    assert len(calls) == int(result.num_evals) == limit - limit % each + way_back
    assert bool(result.stopped)
    assert not bool(result.converged)
    assert int(result.stages) == 1


@pytest.mark.parametrize("calls", [5, 7, 12, 30])
def test_newton_stays_within_the_limit(calls):
    """Far from a solution; fewer than three calls cannot be of use to it."""
    limit = calls * ROWS
    result = ji.invert(
        TABLES["dpmpp_2m"],
        Partial(steep, GAIN),
        X0,
        strategy=ji.NewtonTrajectory(max_iterations=50),
        max_evals=limit,
    )
    assert limit - 4 * ROWS < int(result.num_evals) - ROWS <= limit
    assert bool(result.stopped)


def test_a_limit_that_is_not_reached_changes_nothing():
    table, denoise = TABLES["dpmpp_2m"], Partial(steep, 0.5)
    x0 = ji.sample(table, denoise, X0)
    plan = (ji.Trajectory(history=4, max_sweeps=2), ji.NewtonTrajectory())
    free, limited = (
        ji.invert(table, denoise, x0, strategy=plan, max_evals=limit)
        for limit in (None, 150 * ROWS)
    )
    assert bool(free.converged)
    assert int(free.stages) == 2
    assert not bool(free.stopped)
    jax.tree.map(np.testing.assert_array_equal, free, limited)


def test_the_default_is_a_number_for_each_row():
    plan = (ji.Trajectory(max_sweeps=10**6, restarts=10**6),)
    denoise = Partial(steep, GAIN)
    result = ji.invert(TABLES["dpmpp_2m"], denoise, X0, strategy=plan)
    assert int(result.num_evals) == (EVALS_PER_ROW + 1) * ROWS
    assert bool(result.stopped)


def test_a_stage_without_evaluations_is_not_even_compiled():
    class Unwanted(Stage):
        def solve(self, task):
            raise AssertionError("traced")

    plan = (ji.Trajectory(max_sweeps=3), Unwanted())
    run = lambda limit: ji.invert(  # noqa: E731
        TABLES["ddim"], Partial(steep, GAIN), X0, strategy=plan, max_evals=limit
    )
    # Three sweeps and the way back leave less than the next stage needs.
    result = run(5 * ROWS - 1)
    assert bool(result.stopped)
    assert (int(result.stages), int(result.num_evals)) == (1, 4 * ROWS)
    with pytest.raises(AssertionError, match="traced"):
        run(5 * ROWS)


def test_a_plan_that_ends_by_itself_was_not_stopped():
    plan = (ji.Trajectory(max_sweeps=3), ji.Trajectory(max_sweeps=2))
    result = ji.invert(TABLES["ddim"], Partial(steep, GAIN), X0, strategy=plan)
    assert not bool(result.converged)
    assert not bool(result.stopped)
    assert int(result.stages) == 2


@pytest.mark.parametrize("limit", [2 * ROWS, 12 * ROWS, 30 * ROWS])
def test_the_limit_holds_in_programs_batches_and_streams(limit):
    """Each sample has its own, and gets the result that it gets alone."""
    table = TABLES["dpmpp_2m"]
    plan = (ji.Trajectory(history=4, max_sweeps=8), ji.NewtonTrajectory(20, 5))
    gains = jnp.array([0.5, GAIN], jnp.float32)
    data = jnp.stack([X0, X0])
    options = {"strategy": plan, "max_evals": limit}
    alone = [
        ji.invert(table, Partial(steep, gain), x0, **options)
        for gain, x0 in zip(gains, data, strict=True)
    ]
    model = lambda x, t, gain: steep(gain, x, t)  # noqa: E731
    batch = ji.invert_batch(table, model, data, gains, **options)
    pairs = list(zip(data, gains, strict=True))
    stream = ji.invert_stream(table, model, pairs, conditional=True, lanes=2, **options)
    assert [bool(result.stopped) for result in alone] == [limit < 30 * ROWS, True]
    for k, found in stream:
        for result in (found, jax.tree.map(lambda leaf, k=k: leaf[k], batch)):
            for name in ("stopped", "converged", "stages", "num_evals"):
                assert getattr(result, name) == getattr(alone[k], name), name


def test_every_stage_is_announced_before_it_runs():
    said = []
    ji.invert(
        TABLES["ddim"],
        Partial(steep, GAIN),
        X0,
        strategy=(ji.Trajectory(max_sweeps=2), ji.NewtonTrajectory(1, 2)),
        on_stage=said.append,
    )
    assert said == ["trajectory", "newtontrajectory"]
    streamed = []
    found = ji.invert_stream(
        TABLES["ddim"],
        Partial(steep, 0.5),
        [X0],
        lanes=1,
        strategy=FINISH,
        on_stage=streamed.append,
    )
    assert len(list(found)) == 1
    assert streamed == ["trajectory"]


def test_limits_that_make_no_sense_are_refused():
    run = lambda **options: ji.invert(  # noqa: E731
        TABLES["ddim"], Partial(steep, 0.5), X0, **options
    )
    with pytest.raises(ValueError, match="max_evals must be at least 6"):
        run(max_evals=ROWS - 1)
    with pytest.raises(ValueError, match="max_evals must be at least 30"):
        run(max_evals=5 * ROWS - 1, strategy=ji.NewtonTrajectory())
    with pytest.raises(ValueError, match="on_stage needs values"):
        jax.jit(lambda x: run(on_stage=print))(X0)


@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_gmres_stays_within_its_products(limit, restarts):
    matrix = jax.random.normal(jax.random.key(0), (20, 20))
    run = jax.jit(
        lambda limit: gmres(
            lambda v: matrix @ v,
            jnp.ones(20),
            rtol=1e-6,
            max_vectors=4,
            restarts=restarts,
            max_products=limit,
        )
    )
    solution = run(limit)
    assert int(solution.num_matvecs) <= limit
    if not restarts:
        assert int(solution.num_matvecs) == min(limit, 4)
