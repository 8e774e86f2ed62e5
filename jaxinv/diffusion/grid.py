r"""Time grids: the noise levels that a sampler visits.

The index convention of the library: grid index ``i = 0`` is the data end, ``i = N`` the
noise end. Sampling goes from N to 0, inversion from 0 to N.

The choice of the grid matters. A step from ``tau[i]`` to ``tau[i-1]`` can lose the
noise if the ratio ``tau[i-1] / tau[i]`` is small: the network may then discard it, so
that several noises lead to one image. Grids linear in the timestep end with a ratio of
0.2 to 0.4 (or 0). The default grid, uniform in log-SNR, has one ratio for all steps.
:func:`time_grid` issues a :class:`LossyGridWarning` for grids whose smallest ratio is
below :data:`INVERTIBLE_RATIO`.

The grids of diffusers' multistep schedulers, which end and round differently, are in
:mod:`jaxinv.samplers.diffusers_grid`.

References:
    Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv:2010.02502, Eq. 14.
    Lin et al. 2024, arXiv:2305.08891, Table 2 (leading, trailing, linspace).
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jaxinv.checks import checked, figures
from jaxinv.diffusion.prediction import Family, Output
from jaxinv.diffusion.schedule import NoiseSchedule, Spacing, shifted

# A step with a smaller ratio of noise levels may lose the noise. Measured with
# benchmarks/exactness on a model that was not trained against it (the first version of
# emoji64), DPM-Solver++(2M) at guidance 5, the median NMSE of the noise is -96 dB for a
# ratio of 0.73 (20 steps), but only -7 dB for 0.54 (10 steps).
INVERTIBLE_RATIO = 0.7

# Exponent of Karras' grid: Karras et al. 2022, Section 3.
KARRAS_RHO = 7.0


class LossyGridWarning(UserWarning):
    """Warning that inversion may find another noise on some step of a grid."""


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class TimeGrid:
    """``N + 1`` noise levels, from data (index 0) to noise (index N), in float64.

    Attributes:
        tau: Noise levels, shape (N + 1,), increasing. ``tau[0]`` may be 0, and may
            equal ``tau[1]``: diffusers' linspace grid with ``set_alpha_to_one=False``
            ends in such a step of length zero. ``tau[N]`` may be infinite (zero
            terminal SNR).
        scale: Factors of ``x[i] = scale[i] * y[i]``, shape (N + 1,).
        model_time: Times given to the network, shape (N + 1,).
        init_noise_scale: Standard deviation of ``x[N]``; unit noise is multiplied by
            it (1 for VP and flow matching, ``tau[N]`` for VE).
        family: The schedule's family, which defines the signal-to-noise ratio.
        output: What the schedule's networks predict; None for f (noise, or a flow's
            velocity).
    """

    made_by: ClassVar[str] = "jaxinv.time_grid"

    tau: Float[np.ndarray, "n+1"]
    scale: Float[np.ndarray, "n+1"]
    model_time: Float[np.ndarray, "n+1"]
    init_noise_scale: float = 1.0
    family: Family = "vp"
    output: Output | None = None

    def __repr__(self) -> str:
        """Return its family, number of steps and noise levels."""
        levels = figures(self.tau, ".3g")
        return f"TimeGrid: {self.family}, {self.num_steps} steps, tau {levels}"

    def __post_init__(self) -> None:
        steps = np.diff(self.tau)
        # This form of the condition also fails for NaN.
        increasing = len(steps) >= 1 and steps[0] >= 0 and np.all(steps[1:] > 0)
        finite = np.all(np.isfinite(self.tau[:-1])) and not np.isnan(self.tau[-1])
        # The noise does not determine the data there.
        pure = np.isinf(self.tau[-1]) and self.output is None
        if not (increasing and self.tau[0] >= 0 and finite) or pure:
            raise ValueError(
                "noise levels of a grid must be non-negative and strictly increase "
                f"from data (index 0) to noise; got tau = {np.array2string(self.tau)}"
            )

    @property
    def num_steps(self) -> int:
        """Number of sampler steps, N."""
        return len(self.tau) - 1

    @property
    def ratio(self) -> Float[np.ndarray, "n"]:
        """Noise-level ratio ``tau[i-1] / tau[i]`` of the steps i = 1 .. N.

        A step is safely invertible while this stays above about 0.7.
        """
        return self.tau[:-1] / self.tau[1:]

    @property
    def signal(self) -> Float[np.ndarray, "n+1"]:
        """Weight s of the data in ``y = s x0 + tau e``: 1, or ``1 - t`` for flows."""
        return 1 - self.tau if self.family == "flow" else np.ones_like(self.tau)

    @property
    def log_snr(self) -> Float[np.ndarray, "n+1"]:
        """``lambda = log(signal / tau)``, half the log-SNR; infinite at pure data."""
        with np.errstate(divide="ignore"):
            return np.log(self.signal) - np.log(self.tau)


@checked
def time_grid(
    schedule: NoiseSchedule,
    num_steps: int,
    spacing: Spacing = "log_snr",
) -> TimeGrid:
    """Return the noise levels of a sampler with ``num_steps`` steps.

    Args:
        schedule: The model's schedule.
        num_steps: N, between 1 and the number of training timesteps.
        spacing: ``"log_snr"`` (default), also called ``"exponential"``: uniform in
            log-SNR over the training range, with fractional model times, so that every
            step has the same noise-level ratio. ``"karras"``: over the same range,
            uniform in ``(sigma / alpha)^(1/7)``. ``"leading"``, ``"trailing"``,
            ``"linspace"``: integer timesteps spaced as in diffusers' DDIMScheduler
            (only ``"linspace"`` for flow matching), with the end that the schedule's
            ``set_alpha_to_one`` selects.

    Returns:
        The grid, ``N + 1`` levels.

    Raises:
        ValueError: For an invalid number of steps or an unknown spacing; and for a
            spacing in sigma / alpha of a schedule with zero terminal SNR, where that is
            infinite.

    Warns:
        LossyGridWarning: If a step keeps less than :data:`INVERTIBLE_RATIO` of the
            noise level. The message states a sufficient number of steps.

    Example:
        >>> from jaxinv import scaled_linear
        >>> grid = time_grid(scaled_linear(), 20)
        >>> float(grid.ratio.min().round(3)), float(grid.ratio.max().round(3))
        (0.733, 0.733)
        >>> time_grid(scaled_linear(), 20, "karras").ratio[[0, -1]].round(2)
        array([0.62, 0.81])

    References:
        Lin et al. 2024, arXiv:2305.08891, Table 2 (leading, trailing, linspace); Lu et
        al. 2022, arXiv:2206.00927, Section 3.3 (uniform log-SNR); Karras et al. 2022,
        arXiv:2206.00364, Eq. 5.
    """
    grid = make_grid(schedule, num_steps, spacing)
    # The stack level of the caller of a checked function.
    warn_if_lossy(schedule, grid, stacklevel=4)
    return grid


def make_grid(
    schedule: NoiseSchedule, num_steps: int, spacing: Spacing = "log_snr"
) -> TimeGrid:
    """Return :func:`time_grid` without its warning."""
    check_num_steps(schedule, num_steps)
    if spacing in ("log_snr", "exponential"):
        tau = over_training_range(schedule, np.geomspace, num_steps)
    elif spacing == "karras":
        tau = over_training_range(schedule, karras_levels, num_steps)
    elif schedule.family == "flow":
        tau = _flow_grid(schedule, num_steps, spacing)
    else:
        timesteps = _diffusers_timesteps(schedule, num_steps, spacing)
        end = 0.0 if schedule.set_alpha_to_one else schedule.taus[0]
        tau = np.append(end, schedule.taus[timesteps])
    return TimeGrid(
        tau,
        schedule.scale(tau),
        schedule.model_time(tau),
        schedule.init_noise_scale,
        schedule.family,
        schedule.output,
    )


def steps_that_keep_the_noise(
    schedule: NoiseSchedule, ratio: float = INVERTIBLE_RATIO
) -> int | None:
    """Return the smallest N whose log-SNR grid keeps a ratio at every step.

    Args:
        schedule: The model's schedule.
        ratio: Smallest allowed ``tau[i-1] / tau[i]``.

    Returns:
        N, or None if no number of steps of the schedule suffices.
    """
    if schedule.zero_snr:
        return None
    for n in range(1, schedule.num_train_timesteps + 1):
        tau = over_training_range(schedule, np.geomspace, n)
        if np.min(tau[:-1] / tau[1:]) >= ratio:
            return n
    return None


def warn_if_lossy(schedule: NoiseSchedule, grid: TimeGrid, *, stacklevel: int) -> None:
    """Issue one warning if a step of the grid keeps too little of the noise level."""
    ratio = grid.ratio
    if np.isinf(grid.tau[-1]):
        # From pure noise, x' = sigma' x + alpha' D(x) keeps the noise.
        ratio = ratio[:-1]
    if len(ratio) == 0:
        return
    worst = int(np.argmin(ratio))
    if ratio[worst] >= INVERTIBLE_RATIO:
        return
    what = (
        f"the step from tau = {grid.tau[worst + 1]:.3g} to {grid.tau[worst]:.3g} keeps "
        f"only {ratio[worst]:.2g} of the noise level"
    )
    if ratio[worst] == 0:
        what = (
            f"the last step, from tau = {grid.tau[1]:.3g} to 0, keeps nothing of the "
            "noise"
        )
        if len(ratio) > 1:
            what += f" (the smallest other ratio is {ratio[1:].min():.2g})"
    steps = steps_that_keep_the_noise(schedule)
    advice = ""
    if steps is not None:
        advice = (
            f"; time_grid(schedule, {steps}), uniform in log-SNR, does (or more steps)"
        )
    warnings.warn(
        f"{what}. Several noises may then lead to one image, and inversion may find a "
        f"noise other than the original. Every step should keep {INVERTIBLE_RATIO}"
        f"{advice}",
        LossyGridWarning,
        stacklevel=stacklevel,
    )


def over_training_range(
    schedule: NoiseSchedule,
    levels: Callable[[float, float, int], np.ndarray],
    num_steps: int,
) -> np.ndarray:
    """Return ``N + 1`` values of tau, spaced in ``sigma / alpha`` by a function."""
    low, high = schedule.taus[0], schedule.taus[-1]
    if schedule.zero_snr:
        raise ValueError(
            "a grid that is spaced in sigma / alpha cannot start at zero terminal SNR, "
            "where it is infinite: use the spacing 'trailing', 'linspace' or 'leading'"
        )
    if schedule.family != "flow":
        return levels(low, high, num_steps + 1)
    # sigma / alpha = t / (1 - t) is infinite at t = 1: space up to the previous level,
    # and start from pure noise as in training.
    high = schedule.taus[-2] if len(schedule.taus) > 1 else 0.5
    ratio = levels(low / (1 - low), high / (1 - high), num_steps + 1)
    return np.append(ratio[:-1] / (1 + ratio[:-1]), schedule.taus[-1])


def karras_levels(low: float, high: float, count: int) -> np.ndarray:
    """Return ``count`` increasing levels, uniform in their seventh root, with ends."""
    roots = np.linspace(low ** (1 / KARRAS_RHO), high ** (1 / KARRAS_RHO), count)
    levels = roots**KARRAS_RHO
    # The ends are the exact training levels, without rounding.
    levels[[0, -1]] = low, high
    return levels


def check_num_steps(schedule: NoiseSchedule, num_steps: int) -> None:
    """Raise ValueError unless the schedule has this number of steps."""
    if not 1 <= num_steps <= schedule.num_train_timesteps:
        raise ValueError(
            f"num_steps must be between 1 and the {schedule.num_train_timesteps} "
            f"training timesteps, got {num_steps}"
        )


def trailing_timesteps(
    total: int, num_steps: int, last: int | None = None
) -> np.ndarray:
    """Return the increasing timesteps of diffusers' "trailing" spacing.

    For 62 of the N up to 1000 (first for 61) rounding makes diffusers' range one too
    long: it has N + 1 timesteps, and the one closest to the data is -1.

    Args:
        total: Number of training timesteps, T.
        num_steps: N.
        last: The end of the timesteps; by default T.
    """
    last = total if last is None else last
    return np.arange(last, 0, -total / num_steps).round()[::-1] - 1


def check_trailing(
    schedule: NoiseSchedule,
    num_steps: int,
    spacing: str | None = None,
    *,
    name: str = "DDIMScheduler",
) -> None:
    """Raise ValueError where a scheduler takes a step N + 1, from data as if noise.

    Args:
        schedule: The model's schedule.
        num_steps: N.
        spacing: The spacing; by default the schedule's own.
        name: The scheduler.
    """
    total = schedule.num_train_timesteps
    trailing = (spacing or schedule.timestep_spacing) == "trailing"
    if trailing and len(trailing_timesteps(total, num_steps)) > num_steps:
        raise ValueError(
            f"{name} takes {num_steps + 1} steps when it is asked for "
            f"{num_steps} in the spacing 'trailing': the last, at timestep -1, treats "
            "the finished data as the noisiest state, and its result is not a "
            "sample; use another number of steps"
        )


def _flow_grid(schedule: NoiseSchedule, num_steps: int, spacing: str) -> np.ndarray:
    if spacing != "linspace":
        raise ValueError(
            f"spacing {spacing!r} is not defined for flow matching; use 'linspace' "
            "(as in diffusers' FlowMatchEulerDiscreteScheduler) or 'log_snr'"
        )
    levels = np.linspace(schedule.taus[0], schedule.taus[-1], num_steps)
    levels = levels if num_steps > 1 else schedule.taus[-1:]
    # diffusers shifts the end points, which are shifted already, once more. So does
    # this function, so that its images are inverted on the grid that generated them.
    return np.append(0.0, shifted(levels, schedule.shift))


def _diffusers_timesteps(
    schedule: NoiseSchedule, num_steps: int, spacing: str
) -> np.ndarray:
    """Return increasing integer timesteps, spaced as in diffusers' DDIMScheduler."""
    total = schedule.num_train_timesteps
    timesteps: np.ndarray
    if spacing == "leading":
        timesteps = np.arange(num_steps) * (total // num_steps) + schedule.steps_offset
    elif spacing == "trailing":
        # For some N (61) rounding makes the range one too long: cut it.
        timesteps = trailing_timesteps(total, num_steps)[-num_steps:]
    else:
        timesteps = np.linspace(0, total - 1, num_steps).round()
    if timesteps[-1] >= total:
        raise ValueError(
            f"steps_offset {schedule.steps_offset} moves the last of {num_steps} "
            f"timesteps to {int(timesteps[-1])}, past the last training timestep "
            f"{total - 1}; use fewer steps or a smaller offset"
        )
    return timesteps.astype(int)
