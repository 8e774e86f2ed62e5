"""Samplers by name, on any of the time grids."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

import jaxinv as ji
from jaxinv.checks import shown
from jaxinv.diffusion.diffusers_config import read_scheduler_config
from jaxinv.diffusion.grid import INVERTIBLE_RATIO, steps_that_keep_the_noise
from jaxinv.diffusion.schedule import NoiseSchedule, Spacing
from jaxinv.samplers.registry import SAMPLERS, sampler_on_spacing
from jaxinv.samplers.scheduler_title import scheduler_title

SPACINGS: tuple[str, ...] = get_args(Spacing)

#: The name for the scheduler in the model's folder.
OWN = "own"

SAMPLER_NAMES = tuple(SAMPLERS)
#: Samplers that start from one array of noise, and samplers with a state of several.
ONE_ARRAY_NAMES = tuple(name for name, named in SAMPLERS.items() if not named.exact)
EXACT_NAMES = tuple(name for name, named in SAMPLERS.items() if named.exact)


class Sampler(NamedTuple):
    """A sampler, its name, and a property of its grid.

    Attributes:
        name: A name in ``SAMPLER_NAMES``, or a class of diffusers.
        title: The name in print.
        source: Origin of the steps, in print.
        table: The sampler itself.
        worst_ratio: Smallest ``tau[i-1] / tau[i]``.
    """

    name: str
    title: str
    source: str
    table: ji.SamplerTable
    worst_ratio: float

    @property
    def description(self) -> str:
        """The name, the number of steps and their origin, in print."""
        return f"{self.title}, {self.table.num_steps} steps, {self.source}"


def make_sampler(
    schedule: NoiseSchedule, name: str, steps: int, spacing: str
) -> Sampler:
    """Make a sampler, with the steps of diffusers on diffusers' spacings.

    Args:
        schedule: The model's schedule.
        name: A name in ``SAMPLER_NAMES``.
        steps: Number of steps.
        spacing: A name in ``SPACINGS``.

    Returns:
        The sampler.

    Raises:
        ValueError: For a number of steps or a spacing that the schedule does not have.
    """
    _check_steps(steps, schedule)
    table = sampler_on_spacing(name, schedule, steps, spacing)  # type: ignore[arg-type]
    source = f"on the {spacing.replace('_', '-')} grid"
    return Sampler(name, SAMPLERS[name].title, source, table, _worst_ratio(table))


def scheduler_sampler(
    pipe: "ji.Pipeline", scheduler: str, steps: int
) -> tuple[Sampler, dict[str, Any]]:
    """Make the sampler of a diffusers scheduler.

    Args:
        pipe: The model.
        scheduler: A file, a folder, or :data:`OWN` for the model's.
        steps: Number of steps.

    Returns:
        The sampler, and the scheduler's configuration.

    Raises:
        ValueError: If :meth:`jaxinv.Pipeline.sampler` raises it; for the model's
            own scheduler with advice on what to pass instead.
        FileNotFoundError: If the file does not exist.
    """
    _check_steps(steps, pipe.schedule)
    own = scheduler == OWN
    config = read_scheduler_config(json.loads(pipe.scheduler) if own else scheduler)
    kind = config.get("_class_name")
    try:
        with warnings.catch_warnings(action="ignore", category=ji.LossyGridWarning):
            table = pipe.sampler(steps, scheduler=config)
        if table.noise is not None:
            raise ValueError(
                f"{shown(kind)} is stochastic, and the noises that it added are not in "
                "the image"
            )
    except ValueError as error:
        if not own:
            raise
        raise ValueError(
            f"the steps of {pipe.name}'s own scheduler, {shown(kind)}, cannot be "
            f"inverted: {error}. Pass --sampler ddim (or another name) for other "
            "steps, or --scheduler FILE for the scheduler that made the image"
        ) from None
    source = "from the model's folder" if own else f"from {Path(scheduler).name}"
    title = scheduler_title(config)
    return Sampler(str(kind), title, source, table, _worst_ratio(table)), config


def _check_steps(steps: int, schedule: NoiseSchedule) -> None:
    """Raise ValueError for a number of steps that the schedule does not have."""
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise ValueError(
            f"--steps must be between 1 and {schedule.num_train_timesteps}, the number "
            f"of training timesteps, got {steps}"
        )


def _worst_ratio(table: ji.SamplerTable) -> float:
    """Return the smallest ratio of the noise levels after and before a step."""
    tau = np.unique(table.tau[list(table.ends)] if table.ends else table.tau)
    # A step from pure noise keeps it.
    tau = tau[np.isfinite(tau)]
    return float((tau[:-1] / tau[1:]).min(initial=1))


def lossy_note(sampler: Sampler, schedule: NoiseSchedule) -> str | None:
    """Return a warning about a grid that may lose the noise, or None."""
    if sampler.worst_ratio >= INVERTIBLE_RATIO:
        return None
    enough = steps_that_keep_the_noise(schedule)
    advice = f"; --spacing log-snr with --steps {enough} or more keeps it"
    return (
        f"one step keeps only {sampler.worst_ratio:.2g} of the noise level, less than "
        f"{INVERTIBLE_RATIO}: several noises may lead to this image, and the recovered "
        "one may not be the original" + (advice if enough else "")
    )
