r"""PNDM as diffusers implements it: Adams-Bashforth of order 4 with a warm-up.

Every transfer of a state from a timestep t to a timestep s with a noise prediction e is
that of DDIM, ``y' = y + (tau[s] - tau[t]) e``. The predictions e are weighted sums of
the network's outputs:

* PLMS (``skip_prk_steps``, Stable Diffusion's setting): the first step is Heun's, whose
  second evaluation is at the end of Euler's step; the steps after it have the
  coefficients of Adams and Bashforth of orders 2, 3 and 4, for even steps.
* PRK: the first three steps are those of the classical Runge-Kutta method of order 4.

References:
    Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds",
    arXiv:2202.09778, Eq. 9, 12 and 13, and Algorithm 2; diffusers' ``PNDMScheduler``.
"""

from typing import NamedTuple

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import check_num_steps, check_trailing, make_grid
from jaxinv.diffusion.schedule import NoiseSchedule, TimestepSpacing
from jaxinv.samplers.adams import ADAMS_BASHFORTH
from jaxinv.samplers.table import Levels, SamplerTable, Weights, from_evaluations


class Transfer(NamedTuple):
    """One row: what follows an evaluation of the network.

    Attributes:
        time: Timestep of the evaluation.
        start: Number of the evaluation whose state is transferred.
        source: Timestep that the transfer starts from.
        target: Timestep that it ends at; below 0 for the end of the schedule.
        outputs: Weights of the network's outputs, by the number of their evaluation.
        stage: Whether the state of the evaluation is an intermediate one.
    """

    time: int
    start: int
    source: int
    target: int
    outputs: dict[int, float]
    stage: bool = False


@checked
def pndm(
    schedule: NoiseSchedule,
    num_steps: int,
    spacing: TimestepSpacing | None = None,
    *,
    skip_prk_steps: bool = True,
) -> SamplerTable:
    """Return PNDM as implemented by diffusers' ``PNDMScheduler``, to invert its images.

    That scheduler steps from timestep t to ``t - T // N`` on every grid, like
    DDIMScheduler (:func:`jaxinv.ddim_diffusers`).

    Args:
        schedule: A variance-preserving schedule of a network that predicts noise or v.
        num_steps: N.
        spacing: ``"leading"``, ``"trailing"`` or ``"linspace"``; by default the
            schedule's own.
        skip_prk_steps: Whether to warm up with one step of Heun's method in place of
            three of Runge and Kutta's.

    Returns:
        A table with ``N + 1`` rows, or ``N + 9`` with Runge-Kutta steps.

    Raises:
        ValueError: If the schedule is not VP, or for a grid on which diffusers' own
            steps leave the training range.
    """
    spacing = spacing or schedule.timestep_spacing
    known = ("epsilon", "v_prediction")
    if schedule.family != "vp" or schedule.prediction_type not in known:
        raise ValueError(
            "diffusers' PNDMScheduler needs a VP schedule of a network that predicts "
            f"epsilon or v_prediction, got {schedule.family!r} and "
            f"{schedule.prediction_type!r}"
        )
    check_num_steps(schedule, num_steps)
    check_trailing(schedule, num_steps, spacing, name="PNDMScheduler")
    grid = make_grid(schedule, num_steps, spacing)
    times = np.round(grid.model_time[:0:-1]).astype(int)
    jump = schedule.num_train_timesteps // num_steps
    plan = _plms(times, jump) if skip_prk_steps else _prk(times, jump)
    return _table(schedule, plan, "plms" if skip_prk_steps else "pndm")


def _plms(times: np.ndarray, jump: int) -> list[Transfer]:
    """Return the transfers of PLMS."""
    first = int(times[0])
    plan = [Transfer(first, 0, first, first - jump, {0: 1.0})]
    if len(times) == 1:
        return plan
    second = int(times[1])
    plan.append(Transfer(second, 0, second + jump, second, {0: 0.5, 1: 0.5}, True))
    return plan + _adams_bashforth(times[1:], jump, len(plan), [0])


def _prk(times: np.ndarray, jump: int) -> list[Transfer]:
    """Return the transfers of PNDM with Runge-Kutta steps."""
    if len(times) < 4:
        raise ValueError(
            "PNDM's three Runge-Kutta steps need at least 4 steps, also in diffusers; "
            f"got {len(times)}; skip_prk_steps=True has none"
        )
    half = jump // 2
    # diffusers' list of evaluations: four for each of the first three steps.
    lattice = (np.repeat(times[3::-1], 2) + np.tile([0, half], 4))[:-1]
    told = np.repeat(lattice, 2)[1:-1][::-1]
    plan: list[Transfer] = []
    for e, time in enumerate(told.tolist()):
        start, part = e // 4 * 4, e % 4
        outputs = {e: 1.0}
        if part == 3:
            shares = zip(range(start, e + 1), (1, 2, 2, 1), strict=True)
            outputs = {known: share / 6 for known, share in shares}
        target = time - (0 if part % 2 else half)
        plan.append(Transfer(time, start, told[start], target, outputs, part > 0))
    return plan + _adams_bashforth(times[3:], jump, len(plan), [0, 4, 8])


def _adams_bashforth(
    times: np.ndarray, jump: int, done: int, kept: list[int]
) -> list[Transfer]:
    """Return the remaining transfers, with the outputs of these earlier evaluations."""
    plan = []
    for e, time in enumerate(times.tolist(), start=done):
        kept = [*kept[-3:], e]
        weights = ADAMS_BASHFORTH[len(kept) - 1].tolist()
        outputs = dict(zip(reversed(kept), weights, strict=True))
        plan.append(Transfer(time, e, time, time - jump, outputs))
    return plan


def _table(schedule: NoiseSchedule, plan: list[Transfer], name: str) -> SamplerTable:
    """Return the table of a list of transfers."""
    total = schedule.num_train_timesteps
    largest = max(max(each.source, each.time) for each in plan)
    if largest >= total:
        raise ValueError(
            f"with this spacing and number of steps, PNDMScheduler reads timestep "
            f"{largest}, past the last training timestep {total - 1}, also in diffusers"
        )
    end = 0.0 if schedule.set_alpha_to_one else float(schedule.taus[0])

    def tau_at(time: int) -> float:
        return float(schedule.taus[time]) if time >= 0 else end

    # The sample is the state at the target of the last transfer.
    tau = np.array([tau_at(each.time) for each in plan] + [tau_at(plan[-1].target)])
    alpha = schedule.scale(tau)
    rows: list[Weights] = []
    for e, each in enumerate(plan):
        source, target = tau_at(each.source), tau_at(each.target)
        of_source, of_target = schedule.scale(np.array([source, target]))
        # A state x is taken over unchanged at the time of the next evaluation.
        out = of_target / alpha[e + 1]
        step = out * (target - source)
        row = {each.start: np.array([out * alpha[each.start] / of_source, 0, 0, 0])}
        for known, weight in each.outputs.items():
            weights = row.setdefault(known, np.zeros(4))
            if schedule.prediction_type == "v_prediction":
                # The sum of predictions v = alpha e - sigma D, not of noises, is
                # converted at the source.
                v = np.array([0, 0, -alpha[known] * tau[known], alpha[known]])
                weights += step * weight * of_source * v
            else:
                weights[3] += step * weight
        if schedule.prediction_type == "v_prediction":
            row[each.start][0] += step * source * of_source * alpha[each.start]
        rows.append({known: tuple(weights) for known, weights in row.items()})
    times = np.array([float(each.time) for each in plan])
    levels = Levels(
        tau[::-1],
        alpha[::-1],
        np.append(schedule.model_time(tau[-1:]), times[::-1]),
        schedule.init_noise_scale,
        schedule.family,
        schedule.output,
    )
    stages = {e for e, each in enumerate(plan) if each.stage}
    return from_evaluations(levels, rows, name=name, order=2, stages=stages)
