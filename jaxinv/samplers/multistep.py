r"""Multistep samplers: constructors of :class:`~jaxinv.samplers.table.SamplerTable`.

Each is a formula for a table of coefficients on a grid.
"""

import dataclasses
from typing import get_args

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid, check_num_steps, check_trailing, make_grid
from jaxinv.diffusion.prediction import Output
from jaxinv.diffusion.schedule import NoiseSchedule, TimestepSpacing
from jaxinv.samplers.table import Levels, SamplerTable, from_predictions


@checked
def ddim(grid: TimeGrid) -> SamplerTable:
    """Return deterministic DDIM: Euler's method in ``tau``.

    ``y[i-1] = y[i] + (tau[i-1] - tau[i]) f[i]``, which is ``D[i] + tau[i-1] e[i]`` for
    VP and VE and ``(1 - t[i-1]) D[i] + t[i-1] e[i]`` for flow matching.

    Args:
        grid: The noise levels.

    Returns:
        A first-order table with a memory of one state.

    References:
        Song et al. 2021, arXiv:2010.02502, Eq. 13 with sigma = 0, and Eq. 14.
    """
    data, noise = grid.signal[:-1, None], grid.tau[:-1, None]
    return from_predictions(grid, data, noise, name="ddim", order=1)


@checked
def euler(grid: TimeGrid) -> SamplerTable:
    """Return Euler's method: :func:`ddim` under its name in flow matching.

    Args:
        grid: The noise levels.

    Returns:
        A first-order table with a memory of one state.

    References:
        Liu et al. 2023, arXiv:2209.03003, Algorithm 1.
    """
    return ddim(grid)


@checked
def ddim_diffusers(
    schedule: NoiseSchedule, num_steps: int, spacing: TimestepSpacing | None = None
) -> SamplerTable:
    """Return DDIM as implemented by diffusers' ``DDIMScheduler``, to invert its images.

    That scheduler steps from timestep t to ``t - T // N`` on every grid. If the next
    time of the grid is another one (``"linspace"``; ``"trailing"`` if N does not divide
    T), it reuses the state x unchanged at that time. In the coordinate y this is a
    factor ``scale(t - T // N) / scale[i-1]`` on the whole row; on all other grids the
    factor is 1, and the result is :func:`ddim`.

    Args:
        schedule: A variance-preserving schedule.
        num_steps: N.
        spacing: ``"leading"``, ``"trailing"`` or ``"linspace"``; by default the
            schedule's own.

    Returns:
        A table with a memory of one state, of first order if the factor is 1.

    Raises:
        ValueError: If the schedule is not VP, or for a spacing or number of steps that
            diffusers does not have; also for spacing ``"trailing"`` with an N for which
            diffusers takes one more step, from the data as if it were noise.
    """
    return ddim_limited(schedule, num_steps, spacing, None)


def ddim_limited(
    schedule: NoiseSchedule,
    num_steps: int,
    spacing: TimestepSpacing | None,
    limit: Output | None,
) -> SamplerTable:
    """Return :func:`ddim_diffusers` of clipped or thresholded data.

    Raises:
        ValueError: If the last step has length zero, where diffusers limits the data
            nevertheless.
    """
    spacing = spacing or schedule.timestep_spacing
    if schedule.family != "vp" or spacing not in get_args(TimestepSpacing):
        raise ValueError(
            "diffusers' DDIMScheduler needs a VP schedule and the spacing leading, "
            f"trailing or linspace; got {schedule.family!r} and {spacing!r}"
        )
    check_num_steps(schedule, num_steps)
    check_trailing(schedule, num_steps, spacing)
    grid = make_grid(schedule, num_steps, spacing)
    jump = schedule.num_train_timesteps // num_steps
    previous = np.round(grid.model_time[1:]).astype(int) - jump
    end = 0.0 if schedule.set_alpha_to_one else schedule.taus[0]
    target = np.where(previous >= 0, schedule.taus[np.maximum(previous, 0)], end)
    factor = schedule.scale(target) / grid.scale[:-1]
    data, noise = factor[:, None], (factor * target)[:, None]
    if limit is not None:
        if np.any(target == grid.tau[1:]):
            raise ValueError(
                "clip_sample and thresholding are not supported with a step of length "
                "zero, from timestep 0 with set_alpha_to_one=False"
            )
        output = dataclasses.replace(limit, keeps_noise=True)
        grid = dataclasses.replace(grid, output=output)
    return from_predictions(grid, data, noise, name="ddim_diffusers", order=1)


@checked
def ddim_inverse_diffusers(
    schedule: NoiseSchedule, num_steps: int, spacing: TimestepSpacing | None = None
) -> SamplerTable:
    """Return diffusers' ``DDIMInverseScheduler``: the published naive inversion.

    It runs from data to noise. As a table it has the data at its noise end: sampling
    from the latent of an image gives the noise that diffusers finds, and inverting that
    noise gives the latent.

    Args:
        schedule: A variance-preserving schedule.
        num_steps: N.
        spacing: ``"leading"`` or ``"trailing"``; by default the schedule's own.

    Returns:
        A table of first order with a memory of one state, whose level 0 is the noise.

    Raises:
        ValueError: If the schedule is not VP, or for a spacing that the scheduler does
            not have.

    References:
        Song et al. 2021, arXiv:2010.02502, Section 4.3; diffusers'
        ``DDIMInverseScheduler``.
    """
    spacing = spacing or schedule.timestep_spacing
    if schedule.family != "vp" or spacing not in ("leading", "trailing"):
        raise ValueError(
            "diffusers' DDIMInverseScheduler needs a VP schedule and the spacing "
            f"leading or trailing; got {schedule.family!r} and {spacing!r}"
        )
    check_num_steps(schedule, num_steps)
    check_trailing(schedule, num_steps, spacing, name="DDIMInverseScheduler")
    times = np.round(make_grid(schedule, num_steps, spacing).model_time[1:]).astype(int)
    before = times - schedule.num_train_timesteps // num_steps
    start = 0.0 if schedule.set_alpha_to_one else schedule.taus[0]
    source = np.where(before >= 0, schedule.taus[np.maximum(before, 0)], start)
    target = schedule.taus[times]
    # A state x is taken over unchanged at the level of the next evaluation.
    tau = np.append(target[-1], source[::-1])
    levels = Levels(
        tau,
        schedule.scale(tau),
        np.append(times[-1], times[::-1]).astype(np.float64),
        family=schedule.family,
        output=schedule.output,
    )
    factor = schedule.scale(target) / schedule.scale(np.append(source[1:], target[-1]))
    data, noise = factor[::-1, None], (factor * target)[::-1, None]
    return from_predictions(levels, data, noise, name="ddim_inverse", order=1)
