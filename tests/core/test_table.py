"""The table of a sampler: coefficients in float64, and tables that cannot be."""

import jax
import numpy as np
import pytest
from core_cases import SAMPLERS, SCHEDULES, TIMESTEP_SAMPLERS, each

import jaxinv as ji
from jaxinv.samplers.table import from_rows


@pytest.fixture
def grid():
    return ji.time_grid(ji.scaled_linear(), 4)


@pytest.mark.parametrize("schedule", each(SCHEDULES))
@pytest.mark.parametrize("sampler", each(SAMPLERS))
def test_a_table_satisfies_the_conditions_of_its_order(sampler, schedule):
    # A method of order p is exact for polynomials of degree p in tau; in the worst
    # case of the monomial tau^p, rounding is relative to the largest level.
    table = sampler.build(schedule, 20)
    k = table.history
    for i in range(k, table.num_steps + 1 - k):
        levels = table.tau[i : i + k]
        for p in range(table.order + 1):
            slope = p * levels ** max(p - 1, 0)
            value = table.a[i - 1] @ levels**p + table.b[i - 1] @ slope
            bound = 1e-14 * max(1.0, levels[-1] ** p)
            assert abs(value - table.tau[i - 1] ** p) <= bound


@pytest.mark.parametrize("sampler", each(SAMPLERS | TIMESTEP_SAMPLERS))
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
