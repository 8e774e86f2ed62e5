r"""The noise levels that diffusers' schedulers visit, from their configurations.

DDIMScheduler visits the grids of :func:`jaxinv.time_grid`. The multistep schedulers
(DPM-Solver, DEIS, UniPC) differ:

* they space N + 1 timesteps and drop the one nearest to the data;
* the step to the data ends at ``tau = 0`` or at the smallest training level
  (``final_sigmas_type``; DEIS has its own rule);
* with Karras, exponential or Lu's levels, the network is given a *rounded* timestep
  (or a truncated one), while the step uses the exact level;
* with flow levels, t runs over another range than in FlowMatchEulerDiscreteScheduler;
* with "trailing" and some N they take N + 1 steps, the last one at timestep -1.

All of it is reproduced here, since an image can only be inverted on the levels on which
it was made. Where diffusers computes in float32, so does this module, because a
truncated timestep hangs on the last bit (:mod:`jaxinv.schedule_from_diffusers`). Where
that bit depends on the machine on which diffusers runs, nothing is returned.

References:
    diffusers 0.42, ``DPMSolverMultistepScheduler``, ``DEISMultistepScheduler``,
    ``UniPCMultistepScheduler`` and ``FlowMatchEulerDiscreteScheduler``,
    ``set_timesteps``.
    Karras et al. 2022, arXiv:2206.00364, Eq. 5.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinv.grid import (
    KARRAS_RHO,
    TimeGrid,
    check_num_steps,
    check_trailing,
    make_grid,
    trailing_timesteps,
    warn_if_lossy,
)
from jaxinv.prediction import check_digits
from jaxinv.schedule import NoiseSchedule, shifted
from jaxinv.schedule_from_diffusers import schedule_of_options
from jaxinv.scheduler_config import (
    DDIM,
    DEIS,
    DPM,
    FLOW_MATCH_EULER,
    UNIPC,
    scheduler_options,
)

# Levels and the times told to the network, noise first as diffusers has them.
Levels = tuple[np.ndarray, np.ndarray]


class Request(NamedTuple):
    """What a pipeline asks of ``set_timesteps``.

    Attributes:
        num_steps: N.
        sigmas: levels of its own, noise first.
        timesteps: timesteps of its own, noise first.
        mu: the shift of the image's size.
    """

    num_steps: int
    sigmas: Sequence[float] | np.ndarray | None = None
    timesteps: Sequence[float] | np.ndarray | None = None
    mu: float | None = None


def grid_from_diffusers(
    config: Mapping[str, Any] | str | Path,
    num_steps: int,
    *,
    sigmas: Sequence[float] | np.ndarray | None = None,
    timesteps: Sequence[float] | np.ndarray | None = None,
    mu: float | None = None,
) -> TimeGrid:
    """The grid on which a diffusers scheduler takes ``num_steps`` steps.

    Args:
        config: the parsed ``scheduler_config.json``, a scheduler's ``config``, the
            file, or the folder that holds it. ``_class_name`` decides the rules.
        num_steps: N, as ``set_timesteps`` is asked for it.
        sigmas: as for :func:`jaxinv.sampler_from_diffusers`.
        timesteps: as for :func:`jaxinv.sampler_from_diffusers`.
        mu: as for :func:`jaxinv.sampler_from_diffusers`.

    Returns:
        The grid, ``N + 1`` levels (or as many as diffusers visits); ``model_time`` is
        what diffusers gives the network.

    Raises:
        ValueError: for a scheduler or an option that is not supported, a number of
            steps that the schedule does not have, or levels that coincide.
        FileNotFoundError: if the file does not exist.

    Warns:
        LossyGridWarning: as :func:`jaxinv.time_grid`.

    Example:
        >>> import warnings
        >>> config = {"_class_name": "DPMSolverMultistepScheduler",
        ...           "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     grid_from_diffusers(config, 4).model_time
        array([  0.,   0., 301., 775., 999.])
    """
    options = scheduler_options(config)
    schedule = schedule_of_options(options, mu)
    request = Request(num_steps, sigmas, timesteps, mu)
    grid = make_diffusers_grid(options, schedule, request)
    warn_if_lossy(schedule, grid, stacklevel=3)
    return grid


def make_diffusers_grid(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> TimeGrid:
    """:func:`grid_from_diffusers` of resolved options, without its warning."""
    name = options["_class_name"]
    if name not in (DDIM, DPM, DEIS, UNIPC, FLOW_MATCH_EULER):
        raise ValueError(
            f"the time grid of the scheduler {name!r} is not supported; supported are "
            f"{', '.join((DDIM, DPM, DEIS, UNIPC, FLOW_MATCH_EULER))}"
        )
    check_num_steps(schedule, request.num_steps)
    _check_request(options, schedule, request)
    if name == DDIM:
        check_trailing(schedule, request.num_steps)
        return make_grid(schedule, request.num_steps, schedule.timestep_spacing)
    if name == FLOW_MATCH_EULER:
        levels, times = _flow_match_levels(options, schedule, request)
    elif schedule.family == "flow":
        levels, times = _flow_levels(options, schedule, request)
    elif rule := _level_rule(options):
        levels, times = _spaced_levels(options, schedule, request.num_steps, rule)
    else:
        times = _timesteps(options, schedule, request)
        levels = _training_sigmas(schedule)[np.maximum(times, 0).astype(int)]
    # The levels of a scheduler are kept in float32.
    levels = levels.astype(np.float32).astype(np.float64)
    if np.any(np.diff(levels) >= 0):
        raise ValueError(
            f"with {request.num_steps} steps two of the scheduler's noise levels "
            "coincide (or are out of order); use fewer steps"
        )
    levels, times = levels[::-1], times[::-1].astype(np.float64)
    end = _last_level(options, schedule, levels)
    tau = np.append(end, levels)
    check_digits(schedule, tau)
    return TimeGrid(
        tau,
        schedule.scale(tau),
        np.append(schedule.model_time(np.asarray(end)), times),
        schedule.init_noise_scale,
        schedule.family,
    )


def _check_request(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> None:
    """Raise ValueError for what this class's ``set_timesteps`` does not take."""
    name, flow = options["_class_name"], schedule.family == "flow"
    dynamic = bool(options.get("use_dynamic_shifting"))
    plain = name == DPM and not flow and not _level_rule(options)
    taken = {
        "sigmas": name == FLOW_MATCH_EULER or (name == UNIPC and flow),
        "timesteps": name == FLOW_MATCH_EULER or plain,
        "mu": name in (FLOW_MATCH_EULER, UNIPC),
    }
    if name in (DPM, DEIS) and dynamic:
        raise ValueError(
            f"use_dynamic_shifting is not supported for {name}: it does not take mu"
        )
    if name == UNIPC and dynamic and not flow:
        raise ValueError(
            f"use_dynamic_shifting of {name} does not take effect without flow levels: "
            "it is supported with use_flow_sigmas only"
        )
    for key, is_taken in taken.items():
        value = getattr(request, key)
        if value is None:
            continue
        if not is_taken:
            raise ValueError(
                f"{name} with these options does not take {key}; it takes "
                f"{', '.join(k for k, yes in taken.items() if yes) or 'num_steps only'}"
            )
        if key == "mu":
            continue
        values = np.asarray(value, np.float64)
        last = schedule.num_train_timesteps - (0 if flow else 1)
        high = 1 if key == "sigmas" else last
        inside = np.all((values >= 0) & (values <= high) & ((values > 0) | (not flow)))
        if values.shape != (request.num_steps,) or not (
            inside and np.all(np.diff(values) < 0)
        ):
            raise ValueError(
                f"expected {key} to be {request.num_steps} decreasing values, from at "
                f"most {high} to {'above' if flow else 'at least'} 0, got "
                f"{np.array2string(values, threshold=6)}"
            )


def _training_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    """``sigma / alpha`` of the training timesteps, computed in float32."""
    return np.sqrt(_squared_sigmas(schedule))


def _squared_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    alpha_squared = (schedule.scale(schedule.taus) ** 2).astype(np.float32)
    return (np.float32(1) - alpha_squared) / alpha_squared


def _other_root(schedule: NoiseSchedule) -> np.ndarray:
    """:func:`_training_sigmas` as a machine may have it whose roots are not rounded.

    PyTorch's square root (MKL's) is off by up to 0.75 units in the last place on some
    processors. It can be the second nearest number where that is no further away.
    """
    squared = _squared_sigmas(schedule)
    nearest = np.sqrt(squared)
    exact = np.sqrt(squared.astype(np.float64))
    offset = (exact - nearest) / np.spacing(nearest)
    toward = np.where(offset > 0, np.float32(np.inf), np.float32(0))
    return np.where(np.abs(offset) > 0.25, np.nextafter(nearest, toward), nearest)


def _timesteps(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> np.ndarray:
    """Decreasing integer timesteps, without the one nearest the data."""
    times: np.ndarray
    n, total = request.num_steps, schedule.num_train_timesteps
    if request.timesteps is not None:
        return np.trunc(np.asarray(request.timesteps, np.float64))
    last = total
    if options["_class_name"] == DPM:
        alpha_squared = (schedule.scale(schedule.taus) ** 2).astype(np.float32)
        half_log_snr = np.log(np.sqrt(alpha_squared))
        half_log_snr -= np.log(np.sqrt(np.float32(1) - alpha_squared))
        clip = float(options["lambda_min_clipped"])
        last -= int(np.searchsorted(half_log_snr[::-1], clip))
    if schedule.timestep_spacing == "linspace":
        times = np.linspace(0, last - 1, n + 1).round()[:0:-1]
    elif schedule.timestep_spacing == "leading":
        times = np.arange(n, 0, -1) * (last // (n + 1)) + schedule.steps_offset
    else:
        times = trailing_timesteps(total, n, last)[::-1]
    if len(times) == 0 or times[0] >= total:
        raise ValueError(
            f"steps_offset {schedule.steps_offset} moves the last of {n} timesteps "
            f"past the last training timestep {total - 1}, or lambda_min_clipped "
            "leaves none"
        )
    return times


# Noise levels by a rule of their own, over a range, noise first: use_<rule> in the
# configuration. diffusers asks in this order, which matters where two are set.
def _karras(low: float, high: float, count: int) -> np.ndarray:
    ends = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
    return (ends[0] + np.linspace(0, 1, count) * (ends[1] - ends[0])) ** KARRAS_RHO


def _exponential(low: float, high: float, count: int) -> np.ndarray:
    return np.exp(np.linspace(math.log(high), math.log(low), count))


_LEVELS: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "karras_sigmas": _karras,
    "lu_lambdas": _exponential,
    "exponential_sigmas": _exponential,
}


def _level_rule(options: Mapping[str, Any]) -> str | None:
    return next((rule for rule in _LEVELS if options.get(f"use_{rule}")), None)


def _level_range(options: Mapping[str, Any], levels: np.ndarray) -> tuple[float, float]:
    """The range of spaced levels: the options', or that of levels, noise first."""
    low, high = options["sigma_min"], options["sigma_max"]
    return (
        float(levels[-1] if low is None else low),
        float(levels[0] if high is None else high),
    )


def _spaced_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, num_steps: int, rule: str
) -> Levels:
    """Noise levels over the training range, and the integer times next to them."""
    training = _training_sigmas(schedule)
    levels, times = _levels_and_times(options, training, num_steps, rule)
    cosine = options["beta_schedule"] == "squaredcos_cap_v2"
    if rule != "exponential_sigmas" and (options["_class_name"] != DPM or not cosine):
        return levels, times.round()
    others = _levels_and_times(options, _other_root(schedule), num_steps, rule)[1]
    times, others = np.trunc(times), np.trunc(others)
    if np.any(hangs := times != others):
        raise ValueError(
            f"diffusers tells the network timestep {int(times[hangs][0])} or "
            f"{int(others[hangs][0])} for the level {levels[hangs][0]:.6g}, depending "
            "on how the machine rounds a square root in float32: with these betas and "
            f"use_{rule}, which truncates timesteps, what it did is not known"
        )
    return levels, times


def _levels_and_times(
    options: Mapping[str, Any], training: np.ndarray, num_steps: int, rule: str
) -> Levels:
    """Spaced levels, and the times between training times next to them."""
    logs = np.log(training)
    if rule == "lu_lambdas":
        # Spaced between logarithms in float32.
        ends = float(logs[-1]), float(logs[0])
        levels = np.exp(ends[0] + np.linspace(0, 1, num_steps) * (ends[1] - ends[0]))
    else:
        low, high = _level_range(options, training[::-1])
        levels = _LEVELS[rule](low, high, num_steps)
    return levels, _interpolated_times(levels, logs)


def _interpolated_times(levels: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Times between training times by log-SNR, float32 where diffusers is."""
    log_levels = np.log(np.maximum(levels, 1e-10))
    below = np.searchsorted(logs, log_levels, side="right") - 1
    below = np.clip(below, 0, len(logs) - 2)
    low, high = logs[below], logs[below + 1]
    weight = np.clip((low - log_levels) / (low - high), 0, 1)
    return (1 - weight) * below + weight * (below + 1)


def _flow_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> Levels:
    """Flow times: from pure noise in UniPC, from 1 - 1/T in DPM-Solver and DEIS."""
    n, total = request.num_steps, schedule.num_train_timesteps
    t = np.linspace(1, 1 / total, n + 1)
    if options["_class_name"] != UNIPC:
        levels = shifted(1.0 - t, schedule.shift)[:0:-1]
        return levels, np.trunc(levels * total)
    t = t[:-1] if request.sigmas is None else np.asarray(request.sigmas, np.float64)
    levels = _to_terminal(options, _shift(options, schedule, t)).copy()
    # diffusers avoids the infinite log-SNR of pure noise by this much.
    if abs(levels[0] - 1) < 1e-6:
        levels[0] -= 1e-6
    return levels, np.trunc(levels * total)


def _flow_match_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> Levels:
    """Flow times of FlowMatchEuler: its own, or the pipeline's, shifted."""
    total = schedule.num_train_timesteps
    given = request.timesteps
    t: np.ndarray
    if request.sigmas is not None:
        t = np.asarray(request.sigmas, np.float32)
    elif given is not None:
        t = np.asarray(given, np.float32) / total
    else:
        # diffusers shifts the already shifted end points once more.
        ends = np.array([total, 1], np.float32) / np.float32(total)
        if not options["use_dynamic_shifting"]:
            ends = _shift(options, schedule, ends)
        t = np.linspace(
            float(ends[0]) * total, float(ends[1]) * total, request.num_steps
        )
        t = t / total
    levels = _to_terminal(options, _shift(options, schedule, t))
    if rule := _level_rule(options):
        low, high = _level_range(options, levels)
        levels = _LEVELS[rule](low, high, request.num_steps)
    levels = levels.astype(np.float32)
    if given is not None:
        return levels, np.asarray(given, np.float32)
    return levels, levels * np.float32(total)


def _shift(
    options: Mapping[str, Any], schedule: NoiseSchedule, t: np.ndarray
) -> np.ndarray:
    """The resolution shift, in the form that diffusers computes."""
    if options["use_dynamic_shifting"]:
        return schedule.shift / (schedule.shift + (1 / t - 1))
    return shifted(t, schedule.shift)


def _to_terminal(options: Mapping[str, Any], t: np.ndarray) -> np.ndarray:
    """Flow times stretched such that the last is ``shift_terminal``, if it is set."""
    terminal = options["shift_terminal"]
    if not terminal:
        return t
    return 1 - (1 - t) / ((1 - t[-1]) / (1 - terminal))


def _last_level(
    options: Mapping[str, Any], schedule: NoiseSchedule, levels: np.ndarray
) -> float:
    """The level at which the last step ends."""
    name = options["_class_name"]
    spaced = schedule.family == "flow" or _level_rule(options) is not None
    if name == FLOW_MATCH_EULER or (
        name != DEIS and options["final_sigmas_type"] == "zero"
    ):
        return 0.0
    # DEIS and UniPC end such grids with a step that goes nowhere.
    return float(levels[0] if spaced and name != DPM else _training_sigmas(schedule)[0])
