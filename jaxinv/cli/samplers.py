"""The samplers that commands name, on any of the time grids."""

from typing import NamedTuple, get_args

import numpy as np

import jaxinv as ji
from jaxinv.diffusion.grid import INVERTIBLE_RATIO, steps_that_keep_the_noise
from jaxinv.diffusion.schedule import NoiseSchedule, Spacing
from jaxinv.samplers.registry import SAMPLERS, sampler_on_spacing

SPACINGS: tuple[str, ...] = get_args(Spacing)

SAMPLER_NAMES = tuple(SAMPLERS)
#: Those that turn one array of noise into data, and those whose state is several.
ONE_ARRAY_NAMES = tuple(name for name, named in SAMPLERS.items() if not named.exact)
EXACT_NAMES = tuple(name for name, named in SAMPLERS.items() if named.exact)


class Sampler(NamedTuple):
    """A sampler and what is known of the grid it is on.

    Attributes:
        name: a name among ``SAMPLER_NAMES``.
        title: how it is called in print.
        table: the sampler itself.
        worst_ratio: smallest ``tau[i-1] / tau[i]``.
    """

    name: str
    title: str
    table: ji.LinearMultistep
    worst_ratio: float


def make_sampler(
    schedule: NoiseSchedule, name: str, steps: int, spacing: str
) -> Sampler:
    """Makes a sampler; on diffusers' spacings, one that steps as diffusers does.

    Args:
        schedule: The model's schedule.
        name: A name among ``SAMPLER_NAMES``.
        steps: Number of steps.
        spacing: A name among ``SPACINGS``.

    Returns:
        The sampler.

    Raises:
        ValueError: For a number of steps or a spacing that the schedule does not have.
    """
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise ValueError(
            f"--steps must be between 1 and {schedule.num_train_timesteps}, the number "
            f"of steps that the model was trained with, got {steps}"
        )
    table = sampler_on_spacing(name, schedule, steps, spacing)  # type: ignore[arg-type]
    tau = np.unique(table.tau)
    worst = float((tau[:-1] / tau[1:]).min(initial=1))
    return Sampler(name, SAMPLERS[name].title, table, worst)


def lossy_note(sampler: Sampler, schedule: NoiseSchedule) -> str | None:
    """What to say of a grid on which the noise may not be found; None if it may."""
    if sampler.worst_ratio >= INVERTIBLE_RATIO:
        return None
    enough = steps_that_keep_the_noise(schedule)
    advice = f"; --spacing log-snr with --steps {enough} or more keeps it"
    return (
        f"one step keeps only {sampler.worst_ratio:.2g} of the noise level, less than "
        f"{INVERTIBLE_RATIO}: several noises may give this image, and the one found "
        "need not be the one it was made from" + (advice if enough else "")
    )
