"""The table of a sampler: coefficients in float64, and tables that cannot be."""

import jax
import numpy as np
import pytest
from core_cases import MULTISTEP, SAMPLERS, SCHEDULES, TIMESTEP_SAMPLERS, each

import jaxinv as ji
from jaxinv.diffusion.grid import make_grid
from jaxinv.samplers.exponential import phi
from jaxinv.samplers.table import from_rows
from jaxinv.samplers.units import in_tau


@pytest.fixture
def grid():
    return ji.time_grid(ji.scaled_linear(), 4)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("sampler", each(SAMPLERS | MULTISTEP))
def test_every_row_is_exact_for_a_constant_model_output(sampler, schedule):
    # y = c + tau: both predictions move, but f = 1 and the data c do not. Rounding is
    # relative to the largest term, which cancels.
    table = in_tau(sampler.build(schedule, 20))
    k = table.history
    for i in range(1, table.num_rows + 1):
        used = min(k, table.num_rows + 1 - i)
        a, b = table.a[i - 1, :used], table.b[i - 1, :used]
        y = 2.0 + table.tau[i : i + used]
        size = np.abs(a * y).sum() + np.abs(b).sum()
        assert abs(a @ y + b.sum() - (2.0 + table.tau[i - 1])) <= 2e-14 * size


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_published_2m_coefficients(name):
    # Lu et al. 2022, DPM-Solver++, Algorithm 2, line 7, written out.
    grid = ji.time_grid(SCHEDULES[name], 20, "karras")
    table = in_tau(ji.dpmpp_2m(grid))
    log_snr = -np.log(grid.tau)
    h = log_snr[:-1] - log_snr[1:]
    r = h[1:] / h[:-1]
    decay, newest = np.exp(-h[:-1]), 1 + 1 / (2 * r)
    b = (1 - decay) * np.array([-newest * grid.tau[1:-1], grid.tau[2:] / (2 * r)])
    np.testing.assert_allclose(table.b[:-1], b.T, rtol=1e-11)
    a = np.array([decay + (1 - decay) * newest, -(1 - decay) / (2 * r)])
    np.testing.assert_allclose(table.a[:-1], a.T, rtol=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("constructor", [ji.deis, ji.ipndm, ji.unip])
def test_first_orders_are_ddim_and_higher_ones_start_with_it(constructor, order):
    grid = ji.time_grid(ji.scaled_linear(), 20)
    table, ddim = constructor(grid, order), ji.ddim(grid)
    rows = slice(None) if order == 1 else slice(-1, None)
    # iPNDM weighs f, and DDIM the data and the noise.
    np.testing.assert_allclose(table.a[rows, :1], ddim.a[rows], rtol=1e-13)
    np.testing.assert_allclose(table.b[rows, :1], ddim.b[rows], rtol=1e-13)


def test_unip_of_bh2_is_dpmpp_2m_and_of_order_3_is_3m():
    grid = ji.time_grid(ji.scaled_linear(), 20)
    for unip, dpm in (
        (ji.unip(grid, 2, lower_order_final=False), ji.dpmpp_2m(grid)),
        (ji.unip(grid, 3, lower_order_final=False), ji.dpmpp_3m(grid)),
    ):
        np.testing.assert_array_equal(unip.a, dpm.a)
        np.testing.assert_array_equal(unip.b, dpm.b)


ENDS = {"zero": 0.0, "nowhere": None}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize(
    "constructor", [ji.dpmpp_2m, ji.dpmpp_3m, ji.dpm_solver_2m, ji.deis, ji.unip]
)
def test_last_steps_of_infinite_or_no_length_are_of_first_order(constructor, end):
    grid = ji.time_grid(ji.scaled_linear(), 20)
    tau = np.append(grid.tau[0] if end is None else end, grid.tau)
    grid = ji.TimeGrid(tau, 1 / np.sqrt(1 + tau**2), np.arange(22.0))
    table, ddim = constructor(grid), ji.ddim(grid)
    np.testing.assert_array_equal(table.a[0, :1], ddim.a[0])
    np.testing.assert_array_equal(table.b[0, :1], ddim.b[0])
    np.testing.assert_array_equal(table.a[0, 1:], 0)
    assert np.any(table.b[1, 1:] != 0)


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("sampler", each(MULTISTEP))
def test_tables_of_few_steps_remember_no_more_states_than_there_are(sampler, num_steps):
    table = sampler.build(ji.scaled_linear(), num_steps)
    assert (table.num_steps, table.a.shape) == (num_steps, table.b.shape)
    assert 1 <= table.history <= num_steps


@pytest.mark.parametrize("order", [0, 5, 2.5, "2"])
@pytest.mark.parametrize("constructor", [ji.deis, ji.ipndm, ji.unip])
def test_orders_that_do_not_exist_are_refused(constructor, order):
    known = r"has the orders 1 to \d|order must be an integer, got"
    with pytest.raises(ValueError, match=known):
        constructor(ji.time_grid(ji.scaled_linear(), 20), order)


@pytest.mark.parametrize("option", [{"variant": "bh3"}, {"prediction": "v"}])
def test_variants_of_unip_that_do_not_exist_are_refused(option):
    with pytest.raises(ValueError, match=r"one of (bh1, bh2|data, noise), got"):
        ji.unip(ji.time_grid(ji.scaled_linear(), 20), **option)


@pytest.mark.parametrize("spacing", ["log_snr", "karras", "linspace"])
@pytest.mark.parametrize("constructor", [ji.dpmpp_3m, ji.dpm_solver_2m, ji.deis])
def test_flow_tables_are_finite_from_pure_noise_on(constructor, spacing):
    # At t = 1 the log-SNR is infinite; from_rows refuses what is not finite.
    table = constructor(make_grid(ji.flow_matching(), 20, spacing))
    assert table.tau[-1] == 1
    np.testing.assert_array_equal(table.b[-2, 1:], 0)


def test_phi_is_accurate_on_both_sides_of_its_series():
    for k in (1, 2, 3):
        for z in (-0.999999, 0.999999):
            assert phi(k, z) == pytest.approx(phi(k, z * 1.000002), rel=1e-5)
        assert phi(k, 0.0) == pytest.approx([1, 1 / 2, 1 / 6][k - 1], rel=1e-15)
    assert phi(2, -2.0) == pytest.approx((np.exp(-2) - 1 + 2) / 4, rel=1e-14)


@pytest.mark.parametrize("sampler", each(SAMPLERS | MULTISTEP | TIMESTEP_SAMPLERS))
def test_coefficients_are_made_in_float64(sampler):
    table = sampler.build(ji.scaled_linear(), 20)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(table))


def test_euler_is_ddim_by_another_name(grid):
    for ours, theirs in zip(
        jax.tree.leaves(ji.euler(grid)), jax.tree.leaves(ji.ddim(grid)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_that_use_states_from_before_the_start_are_refused(grid):
    a = np.ones((4, 2))
    with pytest.raises(ValueError, match="before the start of the grid"):
        from_rows(grid, a, a, name="two", order=1)


def test_rows_may_use_all_of_the_history_that_there_is(grid):
    a = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert from_rows(grid, a, a, name="two", order=1).history == 2


@pytest.mark.parametrize("shape", [(3, 1), (4,), (4, 5)])
def test_rows_that_do_not_fit_the_grid_are_refused(grid, shape):
    a = np.zeros(shape)
    with pytest.raises(ValueError, match=r"shape \(4, k\) with k <= 4"):
        from_rows(grid, a, a, name="misfit", order=1)


def test_rows_of_states_and_outputs_must_have_one_shape(grid):
    with pytest.raises(ValueError, match="expected coefficients of shape"):
        from_rows(grid, np.ones((4, 1)), np.ones((4, 2)), name="misfit", order=1)


def test_coefficients_that_are_not_finite_are_refused(grid):
    a = np.full((4, 1), np.nan)
    with pytest.raises(ValueError, match="coefficients of 'nan' are not finite"):
        from_rows(grid, a, a, name="nan", order=1)
