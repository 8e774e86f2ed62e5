r"""Noise levels and timesteps, rounded exactly as in diffusers.

Each function is one branch of ``set_timesteps``, ordered from noise to data as in
diffusers. Arithmetic is in float32 where it is in diffusers, in the same order: a
truncated timestep depends on the last bit of its level.

References:
    diffusers 0.42, ``DPMSolverMultistepScheduler``, ``DEISMultistepScheduler``,
    ``UniPCMultistepScheduler`` and ``FlowMatchEulerDiscreteScheduler``.
    Karras et al. 2022, arXiv:2206.00364, Eq. 5.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxinv.diffusion.diffusers_config import (
    DEIS,
    DPM,
    EDM_DPM,
    FLOW_MATCH_EULER,
    FLOW_MATCH_HEUN,
    KDPM2,
    LMS,
    SINGLESTEP,
    UNIPC,
)
from jaxinv.diffusion.diffusers_schedule import linspace32
from jaxinv.diffusion.grid import KARRAS_RHO, trailing_timesteps
from jaxinv.diffusion.schedule import NoiseSchedule, shifted

# Noise levels, and the times given to the network.
Levels = tuple[np.ndarray, np.ndarray]


# Timesteps are known up to this where levels are products of inexact roots.
_UNCERTAIN_TIME = 1e-2


class Request(NamedTuple):
    """Arguments that a pipeline passes to ``set_timesteps``.

    Attributes:
        num_steps: N.
        sigmas: Explicit levels, noise first.
        timesteps: Explicit timesteps, noise first.
        mu: The shift for the image size.
    """

    num_steps: int
    sigmas: Sequence[float] | np.ndarray | None = None
    timesteps: Sequence[float] | np.ndarray | None = None
    mu: float | None = None


def training_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    """Return ``sigma / alpha`` of the training timesteps, computed in float32."""
    return np.sqrt(_squared_sigmas(schedule))


def _squared_sigmas(schedule: NoiseSchedule) -> np.ndarray:
    alpha_squared = (schedule.scale(schedule.taus) ** 2).astype(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        squared = (np.float32(1) - alpha_squared) / alpha_squared
    if not np.all(np.isfinite(squared)):
        raise ValueError("the largest noise level overflows: terminal SNR is zero")
    return squared


def _other_root(schedule: NoiseSchedule) -> np.ndarray:
    """Return :func:`training_sigmas` for a machine with inexactly rounded roots.

    PyTorch's square root (MKL's) is off by up to 0.75 units in the last place on some
    processors: it may be the second nearest number if that is within this distance.
    """
    squared = _squared_sigmas(schedule)
    nearest = np.sqrt(squared)
    exact = np.sqrt(squared.astype(np.float64))
    offset = (exact - nearest) / np.spacing(nearest)
    toward = np.where(offset > 0, np.float32(np.inf), np.float32(0))
    return np.where(np.abs(offset) > 0.25, np.nextafter(nearest, toward), nearest)


def training_timesteps(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> np.ndarray:
    """Return decreasing integer timesteps, without the one closest to the data."""
    times: np.ndarray
    n, total = request.num_steps, schedule.num_train_timesteps
    if request.timesteps is not None:
        return np.trunc(np.asarray(request.timesteps, np.float64))
    last, spacing = total, schedule.timestep_spacing
    if options["_class_name"] == SINGLESTEP:
        spacing = "linspace"
    if options["_class_name"] in (DPM, SINGLESTEP):
        alpha_squared = (schedule.scale(schedule.taus) ** 2).astype(np.float32)
        half_log_snr = np.log(np.sqrt(alpha_squared))
        half_log_snr -= np.log(np.sqrt(np.float32(1) - alpha_squared))
        clip = float(options["lambda_min_clipped"])
        last -= int(np.searchsorted(half_log_snr[::-1], clip))
    if spacing == "linspace":
        times = np.linspace(0, last - 1, n + 1).round()[:0:-1]
    elif spacing == "leading":
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


# Rules that space noise levels over a range, noise first: use_<rule> in the
# configuration. The order is that of diffusers, which matters if several are set.
def _karras(low: float, high: float, count: int) -> np.ndarray:
    ends = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
    return (ends[0] + np.linspace(0, 1, count) * (ends[1] - ends[0])) ** KARRAS_RHO


def _exponential(low: float, high: float, count: int) -> np.ndarray:
    return np.exp(np.linspace(math.log(high), math.log(low), count))


def _beta(low: float, high: float, count: int) -> np.ndarray:
    from scipy.special import betaincinv

    # Lee et al. 2024, "Beta Sampling is All You Need", arXiv:2407.12173.
    return low + betaincinv(0.6, 0.6, 1 - np.linspace(0, 1, count)) * (high - low)


_LEVELS: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "karras_sigmas": _karras,
    "lu_lambdas": _exponential,
    "exponential_sigmas": _exponential,
    "beta_sigmas": _beta,
}


def level_rule(options: Mapping[str, Any]) -> str | None:
    """Return the rule by which levels are spaced, or None for timesteps."""
    return next((rule for rule in _LEVELS if options.get(f"use_{rule}")), None)


def _level_range(options: Mapping[str, Any], levels: np.ndarray) -> tuple[float, float]:
    """Return the range of spaced levels, from the options or the levels."""
    low, high = options["sigma_min"], options["sigma_max"]
    low = float(levels[-1] if low is None else low)
    high = float(levels[0] if high is None else high)
    if not 0 < low <= high:
        raise ValueError(
            f"spaced levels need 0 < sigma_min <= sigma_max, got {low} and {high}"
        )
    return low, high


def spaced_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, num_steps: int, rule: str
) -> Levels:
    """Return noise levels over the training range, and integer model times."""
    training = training_sigmas(schedule)
    levels, times = _levels_and_times(options, training, num_steps, rule)
    cosine = options["beta_schedule"] == "squaredcos_cap_v2"
    truncated = rule in ("exponential_sigmas", "beta_sigmas")
    rescaled = bool(options.get("rescale_betas_zero_snr"))
    if not truncated and (options["_class_name"] != DPM or not cosine):
        # The levels of zero terminal SNR are themselves products of roots.
        halfway = np.abs(times - np.floor(times) - 0.5) < _UNCERTAIN_TIME
        if np.any(hangs := halfway & rescaled):
            raise _ambiguous(levels[hangs][0], times[hangs][0], rule)
        return levels, times.round()
    others = _levels_and_times(options, _other_root(schedule), num_steps, rule)[1]
    hangs = np.trunc(times) != np.trunc(others)
    hangs |= rescaled & (np.abs(times - times.round()) < _UNCERTAIN_TIME)
    if np.any(hangs):
        raise _ambiguous(levels[hangs][0], np.maximum(times, others)[hangs][0], rule)
    return levels, np.trunc(times)


def _ambiguous(level: float, time: float, rule: str) -> ValueError:
    """Return the error for a timestep that depends on the machine."""
    upper = int(np.floor(time + _UNCERTAIN_TIME))
    return ValueError(
        f"diffusers gives the network timestep {upper} or {upper - 1} for the level "
        f"{level:.6g}, depending on how the machine rounds a square root in float32: "
        f"with these betas and use_{rule}, which makes timesteps whole, the timestep "
        "is ambiguous"
    )


def _levels_and_times(
    options: Mapping[str, Any], training: np.ndarray, num_steps: int, rule: str
) -> Levels:
    """Return spaced levels and their times, interpolated between training times."""
    logs = np.log(training)
    if rule == "lu_lambdas":
        # The logarithms of the limits are in float32.
        ends = float(logs[-1]), float(logs[0])
        levels = np.exp(ends[0] + np.linspace(0, 1, num_steps) * (ends[1] - ends[0]))
    else:
        low, high = _level_range(options, training[::-1])
        levels = _LEVELS[rule](low, high, num_steps)
    return levels, _interpolated_times(levels, logs)


def _interpolated_times(levels: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Interpolate training times by log-SNR, in float32 where diffusers is."""
    log_levels = np.log(np.maximum(levels, 1e-10))
    below = np.searchsorted(logs, log_levels, side="right") - 1
    below = np.clip(below, 0, len(logs) - 2)
    low, high = logs[below], logs[below + 1]
    weight = np.clip((low - log_levels) / (low - high), 0, 1)
    return (1 - weight) * below + weight * (below + 1)


def k_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the levels and fractional times of k-diffusion's schedulers, and the end.

    Those of KDPM2 include its midpoints.
    """
    n, name = request.num_steps, options["_class_name"]
    training = training_sigmas(schedule)
    logs = np.log(training)
    times = _k_timesteps(schedule, request).astype(np.float32)
    interpolation = options.get("interpolation_type", "linear")
    at_level = options.get("final_sigmas_type") == "sigma_min"
    end = float(training[0]) if at_level else 0.0
    levels = np.interp(times, np.arange(len(training)), training)
    if interpolation == "log_linear":
        # There may be more levels than times: the last step ends at the next one.
        levels = np.exp(np.linspace(logs[-1], logs[0], n + 1))
    elif interpolation != "linear":
        raise ValueError(
            "interpolation_type must be 'linear' or 'log_linear', got "
            f"{interpolation!r}"
        )
    if rule := level_rule(options):
        low, high = float(levels[-1]), float(levels[0])
        if not (name == LMS and rule == "karras_sigmas"):
            low, high = _level_range(options, levels)
        levels = _LEVELS[rule](low, high, n)
        times = _interpolated_times(levels, logs)
        if name == KDPM2 and rule == "karras_sigmas":
            times = times.round()
    levels = np.append(levels, end)
    levels, end = levels[: len(times)], float(levels[len(times)])
    levels, times = levels.astype(np.float32), times.astype(np.float32)
    if name == KDPM2 and len(levels) > 1:
        above, below = np.log(levels[:-1]), np.log(levels[1:])
        # PyTorch's lerp, in float32.
        middle = np.exp(above - (above - below) * np.float32(0.5))
        between = _interpolated_times(middle, logs).astype(np.float32)
        levels, times = _alternating(levels, middle), _alternating(times, between)
    return levels, times, end


def edm_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, num_steps: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the levels of EDM's schedulers, their times, and the end."""
    # The multistep scheduler computes its levels in float32.
    kind: Any = np.float32 if options["_class_name"] == EDM_DPM else np.float64
    low, high, rho = options["sigma_min"], options["sigma_max"], options["rho"]
    levels: np.ndarray
    if options["sigma_schedule"] == "karras":
        ends = high ** (1 / rho), low ** (1 / rho)
        ramp = np.linspace(0, 1, num_steps)
        if kind is np.float32:
            ramp = linspace32(0, 1, num_steps)
        levels = (kind(ends[0]) + ramp * kind(ends[1] - ends[0])) ** kind(rho)
    elif options["sigma_schedule"] == "exponential":
        levels = np.geomspace(low, high, num_steps)[::-1]
    else:
        raise ValueError(
            "sigma_schedule must be 'karras' or 'exponential', got "
            f"{options['sigma_schedule']!r}"
        )
    levels = levels.astype(np.float32)
    end = 0.0
    if options["final_sigmas_type"] == "sigma_min":
        end = float(np.float32(low) if kind is np.float32 else levels[-1])
    return levels, np.log(levels.astype(np.float64)) / 4, end


def _alternating(these: np.ndarray, between: np.ndarray) -> np.ndarray:
    found = np.empty(len(these) + len(between), these.dtype)
    found[::2], found[1::2] = these, between
    return found


def _k_timesteps(schedule: NoiseSchedule, request: Request) -> np.ndarray:
    """Return decreasing timesteps, of which linspace's are not rounded."""
    n, total = request.num_steps, schedule.num_train_timesteps
    if request.timesteps is not None:
        return np.asarray(request.timesteps, np.float64)
    if schedule.timestep_spacing == "linspace":
        return np.linspace(0, total - 1, n, dtype=np.float32)[::-1]
    if schedule.timestep_spacing == "leading":
        return np.arange(n - 1, -1, -1) * (total // n) + schedule.steps_offset
    return trailing_timesteps(total, n)[::-1]


def flow_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> Levels:
    """Return flow times, starting from pure noise in UniPC, otherwise from 1 - 1/T."""
    n, total = request.num_steps, schedule.num_train_timesteps
    t = np.linspace(1, 1 / total, n + 1)
    if options["_class_name"] != UNIPC:
        levels = shifted(1.0 - t, schedule.shift)[:0:-1]
        return levels, np.trunc(levels * total)
    t = t[:-1] if request.sigmas is None else np.asarray(request.sigmas, np.float64)
    levels = _to_terminal(options, _shift(options, schedule, t)).copy()
    # diffusers subtracts this to avoid the infinite log-SNR of pure noise.
    if abs(levels[0] - 1) < 1e-6:
        levels[0] -= 1e-6
    return levels, np.trunc(levels * total)


def flow_match_levels(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> Levels:
    """Return the shifted flow times of FlowMatchEuler, its own or the pipeline's."""
    total = schedule.num_train_timesteps
    given = request.timesteps
    t: np.ndarray
    if request.sigmas is not None:
        t = np.asarray(request.sigmas, np.float32)
    elif given is not None:
        t = np.asarray(given, np.float32) / total
    else:
        # diffusers shifts the end points, which are shifted already, once more.
        ends = np.array([total, 1], np.float32) / np.float32(total)
        if not options.get("use_dynamic_shifting"):
            ends = _shift(options, schedule, ends)
        t = np.linspace(
            float(ends[0]) * total, float(ends[1]) * total, request.num_steps
        )
        t = t / total
    levels = _to_terminal(options, _shift(options, schedule, t))
    if rule := level_rule(options):
        low, high = _level_range(options, levels)
        levels = _LEVELS[rule](low, high, request.num_steps)
    levels = levels.astype(np.float32)
    if given is not None:
        return levels, np.asarray(given, np.float32)
    return levels, levels * np.float32(total)


def _shift(
    options: Mapping[str, Any], schedule: NoiseSchedule, t: np.ndarray
) -> np.ndarray:
    """Apply the resolution shift in the form that diffusers computes."""
    if options.get("use_dynamic_shifting"):
        return schedule.shift / (schedule.shift + (1 / t - 1))
    return shifted(t, schedule.shift)


def _to_terminal(options: Mapping[str, Any], t: np.ndarray) -> np.ndarray:
    """Stretch flow times such that the last is ``shift_terminal``, if it is set."""
    terminal = options.get("shift_terminal")
    if not terminal:
        return t
    if t[-1] == 1:
        raise ValueError(
            "diffusers returns NaN with these options: shift_terminal cannot stretch "
            "levels that end at 1 (a single step)"
        )
    return 1 - (1 - t) / ((1 - t[-1]) / (1 - terminal))


def last_level(
    options: Mapping[str, Any], schedule: NoiseSchedule, levels: np.ndarray
) -> float:
    """Return the noise level at which the last step ends."""
    name = options["_class_name"]
    spaced = schedule.family == "flow" or level_rule(options) is not None
    if name in (FLOW_MATCH_EULER, FLOW_MATCH_HEUN) or (
        name != DEIS and options["final_sigmas_type"] == "zero"
    ):
        return 0.0
    # DEIS and UniPC end such grids with a step of length zero.
    to_level = spaced and name not in (DPM, SINGLESTEP)
    return float(levels[0] if to_level else training_sigmas(schedule)[0])
