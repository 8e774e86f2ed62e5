"""Order conditions, zero-stability and measured orders of tables; interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core_cases import SCHEDULES, grid_of

import jaxinv as ji
from jaxinv import analysis
from jaxinv.diffusion.grid import make_grid
from jaxinv.samplers.units import in_tau

VP = SCHEDULES["vp"]
SD = ji.scaled_linear(set_alpha_to_one=False, steps_offset=1)
GRIDS = [(n, spacing) for n in (50, 200) for spacing in ("log_snr", "leading")]


def family(constructor, **options):
    return lambda n: constructor(make_grid(VP, n), **options)


# --- order --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constructor", "options", "orders"),
    [
        (ji.ddim, {}, [1]),
        (ji.bdia, {"gamma": 0.5}, [1]),
        (ji.o_belm, {}, [2, 1]),
        (ji.o_belm, {"k": 4}, [4, 2, 2, 1]),
        (ji.belm, {"k": 3}, [4, 2, 1]),
        (ji.belm, {"k": 4}, [6, 4, 2, 1]),
    ],
)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_rows_meet_the_order_conditions_that_they_claim(
    schedule, constructor, options, orders
):
    grid = make_grid(schedule, 20, "log_snr")
    found = analysis.row_orders(constructor(grid, **options))
    # Full rows first, then those that start up.
    expected = orders[:1] * (20 + 1 - len(orders)) + orders[1:]
    np.testing.assert_array_equal(found, expected)


def test_edicts_rows_are_of_first_order_where_the_two_states_are_of_one_level_too():
    rows = ji.edict(make_grid(VP, 20))
    np.testing.assert_array_equal(rows.tau[0::2][:-1], rows.tau[1::2])
    assert np.all(np.isfinite(analysis.order_conditions(rows)))
    assert np.all(analysis.row_orders(rows) >= 1)


def test_the_first_condition_that_fails_is_the_error_on_a_power():
    table = in_tau(ji.o_belm(make_grid(VP, 20)))
    cubic = analysis.order_conditions(table)[:, 3]
    for i in range(1, 19):
        tau = table.tau - table.tau[i]
        h = -tau[i - 1]
        row = table.a[i - 1] @ tau[i : i + 2] ** 3
        assert (tau[i - 1] ** 3 - row) / h**3 == pytest.approx(cubic[i - 1])


# Of the paper: local order 3 for O-BELM, 2 for DDIM and BDIA.
@pytest.mark.parametrize(
    ("make", "order"),
    [
        (family(ji.ddim), 1),
        (family(ji.bdia, gamma=0.5), 1),
        (family(ji.edict), 1),
        (family(ji.o_belm), 2),
        (family(ji.o_belm_log_snr), 2),
        (family(ji.o_belm_log_snr, prediction="data"), 2),
        (family(ji.o_belm, k=4), 4),
        (family(ji.o_belm_log_snr, k=4), 4),
        (family(ji.belm, k=3), 4),
    ],
)
def test_measured_local_errors_have_one_order_more_than_the_table(make, order):
    measured = analysis.local_order(make, (256, 512, 1000))
    assert abs(measured.order - (order + 1)) < 0.1, measured
    assert make(20).order == order


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (family(ji.bdia, gamma=0.5), 1),
        (family(ji.o_belm), 2),
        (family(ji.o_belm, k=4), 4),
        (family(ji.o_belm_log_snr, k=4), 4),
    ],
)
def test_trajectories_from_an_exact_state_have_the_order_of_the_table(
    make, order, float64
):
    measured = analysis.convergence_order(make, (128, 256), exact_start=True)
    assert abs(measured.order - order) < 0.15, measured


def test_edict_is_of_first_order(float64):
    def make(n):
        tau = np.linspace(1e-3, 1.0, n + 1)
        return ji.edict(grid_of(SCHEDULES["flow"], tau))

    measured = analysis.convergence_order(make, (128, 256), family="flow")
    assert abs(measured.order - 1) < 0.1, measured


# --- zero-stability -----------------------------------------------------------------


@pytest.mark.parametrize(("steps", "spacing"), GRIDS)
def test_verdicts_on_stable_diffusions_schedule_are_those_of_the_theory(steps, spacing):
    grid = make_grid(SD, steps, spacing)
    stable = [ji.o_belm(grid), ji.o_belm_log_snr(grid), ji.edict(grid)]
    stable += [ji.bdia(grid, gamma) for gamma in (0.5, 0.96, 1.0)]
    for table in stable:
        assert analysis.zero_stability(table).stable, table.name
    for k in (3, 4):
        found = analysis.zero_stability(ji.belm(grid, k))
        assert not found.stable
        # Exponential in the number of steps.
        assert found.growth > 4.0 ** (steps - k)


def test_growth_of_o_belm_is_the_square_of_the_ratio_of_steps():
    # The product of its extraneous roots, -(h[i] / h[i+1])^2, over all full rows.
    table = ji.o_belm(make_grid(VP, 50))
    h = np.diff(table.tau)
    found = analysis.zero_stability(table)
    assert found.growth == pytest.approx(1, rel=1e-9)
    ratio = (h[-1] / h[0]) ** 2
    # Two of its partial sums make the norm.
    assert ratio < found.inverse_growth < 2 * ratio


def test_growth_does_not_depend_on_the_number_of_steps_of_a_stable_table():
    growths = [
        analysis.zero_stability(ji.o_belm_log_snr(make_grid(VP, n))).inverse_growth
        for n in (100, 400)
    ]
    assert growths[1] < 1.1 * growths[0]


def test_a_flow_uniform_in_log_snr_is_a_grid_on_which_o_belm_amplifies():
    flow = SCHEDULES["flow"]
    assert not analysis.zero_stability(ji.o_belm(make_grid(flow, 200))).stable
    assert analysis.zero_stability(ji.o_belm(make_grid(flow, 200, "linspace"))).stable


def test_no_stable_row_of_three_states_and_even_steps_beats_two():
    # a[2] = d and extraneous roots of z^2 + c z + d: the error of order 2, normalised.
    c, d = np.meshgrid(np.linspace(-2, 2, 401), np.linspace(-1, 1, 201))
    stable = np.abs(c) <= 1 + d
    a1, a2 = c - d, d
    b1 = (a1 + 4 * a2 - 1) / 2
    b0 = 1 + a1 + 2 * a2 - b1
    error, total = 1 + a1 + 8 * a2 - 3 * b1, b0 + b1
    convergent = stable & (total > 1e-9)
    assert np.min(error[convergent] / total[convergent]) > 1 - 1e-9
    # Leapfrog's is 1: d = 0 and c = 1.
    table = ji.o_belm(grid_of(SCHEDULES["ve"], np.linspace(1.0, 2.0, 11)))
    total = np.sum(in_tau(table).b[0])
    leapfrog = analysis.order_conditions(table)[0, 3] / total * -1
    assert abs(leapfrog * np.diff(table.tau)[0]) == pytest.approx(1)


# --- interpolation ------------------------------------------------------------------


def states(dtype):
    sampler = ji.o_belm(make_grid(VP, 6))
    values = np.random.default_rng(0).standard_normal((2, 2, 3, 4))
    return [
        ji.SamplerState(jnp.asarray(v, dtype), sampler.name, 6, "noise") for v in values
    ]


def test_both_ends_of_an_interpolation_are_the_identical_states(dtype):
    first, second = states(dtype)
    for t, end in ((0.0, first), (1.0, second)):
        np.testing.assert_array_equal(
            ji.interpolate(first, second, t).values, end.values
        )


def test_the_way_between_two_noises_keeps_to_the_sphere(float64):
    a, b = jax.random.normal(jax.random.key(0), (2, 50), float64)
    a, b = a / jnp.linalg.norm(a), b / jnp.linalg.norm(b)
    path = jax.vmap(lambda t: ji.interpolate(a, b, t))(jnp.linspace(0, 1, 9))
    np.testing.assert_allclose(jnp.linalg.norm(path, axis=1), 1, rtol=1e-12)
    # At even speed: equal t, equal angles.
    np.testing.assert_allclose(jnp.sum(path[1:] * path[:-1], 1), path[0] @ path[1])


def test_equal_noises_have_nothing_between_them(dtype):
    a = jnp.ones((3, 4), dtype)
    np.testing.assert_allclose(ji.interpolate(a, a, 0.3), a, rtol=1e-6)


def test_what_cannot_be_interpolated_is_refused():
    first, second = states(jnp.float32)
    data = ji.SamplerState(first.values, "o_belm", 6, "data")
    other = ji.SamplerState(first.values, "bdia", 6, "noise")
    for pair, message in (
        ((first, second.values), "between a state and an array"),
        ((first, data), "at the noise end, got a state at the data end"),
        ((first, other), "states of different samplers"),
        ((first.values, first.values[0]), "cannot interpolate between shape"),
        ((first.values, first.values * jnp.nan), "second end must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            ji.interpolate(*pair, 0.5)
