r"""Measured order, on a differential equation with a known solution.

The coefficients of a row determine the functions for which it is exact. Its error on a
model is measured:

* the *local error* of a row is its error if all states that it uses are exact. A method
  of order p has local errors of size ``h^(p+1)``;
* the *global error* is that of a whole trajectory, of size ``h^p`` for a stable method.

Both use a denoiser with an exact solution, for data from a normal distribution of
variance s^2. For schedules with signal 1, its ODE has the closed form

    f = tau y / (s^2 + tau^2),          y = c sqrt(s^2 + tau^2),

and for a flow, with ``V = (1 - tau)^2 s^2 + tau^2``, ``f = (tau - (1 - tau) s^2) y /
V`` and ``y = c sqrt(V)``. Neither y nor the prediction in log-SNR is a polynomial, so
that every coefficient of a table matters.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.diffusion.schedule import Family
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import in_tau
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import state_of

#: Standard deviation s of the data of the analytic model.
DEVIATION = 0.5


class Convergence(NamedTuple):
    """Errors on refined grids.

    Attributes:
        order: Slope of log error over log number of steps.
        num_steps: Numbers of steps, shape (m,).
        errors: Errors relative to the exact solution, shape (m,).
    """

    order: float
    num_steps: np.ndarray
    errors: Float[np.ndarray, "m"]


@checked
def local_error(table: SamplerTable, flow: bool = False) -> Float[np.ndarray, "n"]:
    """Return the local error of every row of a table on the analytic model.

    Args:
        table: The table, on the host.
        flow: Whether the table is for a flow-matching schedule.

    Returns:
        The relative error of ``y[i-1]``, computed from exact states, at index i - 1.
    """
    table, tau = in_tau(table), np.asarray(table.tau, np.float64)
    y, f = analytic_solution(tau, flow)
    seen, x = levels_seen(table), np.asarray(table.scale) * y
    f = f[seen] * (x / x[seen])  # the model is linear
    errors = []
    for i in range(1, table.num_rows + 1):
        used = min(table.history, table.num_rows + 1 - i)
        row = slice(i, i + used)
        made = table.a[i - 1, :used] @ y[row] + table.b[i - 1, :used] @ f[row]
        errors.append(made / y[i - 1] - 1)
    return np.array(errors)


def levels_seen(table: SamplerTable) -> np.ndarray:
    """Return the level whose noise level the model takes each state to have.

    It is the state's own but where a table gives the model the time of a higher one.
    """
    times = np.asarray(table.model_time)
    return np.searchsorted(times, times, side="right") - 1


def analytic_solution(
    tau: Float[np.ndarray, "n"], flow: bool
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return the analytic model's y and its slope f at noise levels."""
    s = 1 - tau if flow else np.ones_like(tau)
    variance = s**2 * DEVIATION**2 + tau**2
    slope = tau - s * DEVIATION**2 if flow else tau
    return np.sqrt(variance), slope / np.sqrt(variance)


@checked
def local_order(
    make: Callable[[int], SamplerTable],
    num_steps: Sequence[int] = (64, 128, 256),
    *,
    flow: bool = False,
) -> Convergence:
    """Measure the power of h with which the local errors of full rows vanish.

    Args:
        make: Function from a number of steps to a table, on grids of one family.
        num_steps: The numbers of steps.
        flow: Whether the tables are for a flow-matching schedule.

    Returns:
        The power (p + 1 for a method of order p), and the largest local errors.
    """
    errors = []
    for n in num_steps:
        table = make(n)
        full = table.num_rows + 1 - table.history
        errors.append(np.max(np.abs(local_error(table, flow)[:full])))
    return _fit(num_steps, errors)


@checked
def convergence_order(
    make: Callable[[int], SamplerTable],
    num_steps: Sequence[int] = (64, 128, 256),
    *,
    family: Family = "vp",
    exact_start: bool = False,
) -> Convergence:
    """Measure the order of a sampler's trajectories on the analytic model.

    The computation uses the enabled precision; enable float64 (``jax.enable_x64``) for
    orders above two.

    Args:
        make: Function from a number of steps to a sampler, on grids of one family.
        num_steps: The numbers of steps.
        family: The family of the schedule.
        exact_start: Whether a bidirectional sampler starts from its exact state rather
            than from one array, whose start-up rows have a lower order.

    Returns:
        The order, and the errors of the samples.
    """
    errors = []
    for n in num_steps:
        sampler = make(n)
        tau = np.asarray(sampler.tau, np.float64)
        x = (
            np.asarray(in_tau(sampler).scale)
            * analytic_solution(tau, family == "flow")[0]
        )
        denoise = analytic_denoiser(sampler, family)
        if exact_start:
            state = state_of(sampler, jnp.asarray(x[-sampler.history :]), "noise")
            found = sample(sampler, denoise, state)
        else:
            noise = jnp.asarray(x[-1] / sampler.init_noise_scale)
            found = sample(sampler, denoise, noise)
        errors.append(abs(float(found) / x[0] - 1))
    return _fit(num_steps, errors)


def analytic_denoiser(sampler: SamplerTable, family: Family) -> Denoiser:
    """Return the analytic model at the noise levels of a sampler.

    Args:
        sampler: The sampler, for its times and noise levels.
        family: The family of the schedule, which defines the scale of a state.

    Returns:
        A denoiser that is exact at the sampler's own times.
    """
    levels = np.unique(levels_seen(sampler))
    times, tau = (
        jnp.asarray(np.asarray(values)[levels])
        for values in (sampler.model_time, sampler.tau)
    )
    return jax.tree_util.Partial(_slope, times, tau, family)


def _slope(times: Array, levels: Array, family: Family, x: Array, t: Array) -> Array:
    tau = jnp.interp(t, times, levels)
    y = x * jnp.sqrt(1 + tau**2) if family == "vp" else x
    s = 1 - tau if family == "flow" else jnp.ones_like(tau)
    ahead = tau - s * DEVIATION**2 if family == "flow" else tau
    return ahead / (s**2 * DEVIATION**2 + tau**2) * y


def _fit(num_steps: Sequence[int], errors: Sequence[float]) -> Convergence:
    slope = np.polyfit(np.log(num_steps), np.log(errors), 1)[0]
    return Convergence(-float(slope), np.array(num_steps), np.array(errors))
