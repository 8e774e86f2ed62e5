"""The samplers of BELM's tables, on the authors' grid and on ours.

The authors' scripts give DDIM's scheduler of diffusers ``timestep_spacing='linspace'``
(``scripts/reconstruction.py``), and the samplers of their own end at ``alpha = 1``
(``samplers/BELM.py``), whatever the scheduler says: a last step of length zero could
not be undone. ``log_snr`` is our default grid. With equal steps EDICT
evaluates the model twice as often as the others.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jaxinv as ji
from benchmarks.belm.setting import alike
from benchmarks.papers.setting import Setting
from jaxinv.diffusion.grid import make_grid

#: By name in the tables: p of EDICT and gamma of BDIA in brackets.
SAMPLERS: Mapping[str, Callable[[ji.TimeGrid], ji.SamplerTable]] = {
    "DDIM": ji.ddim,
    "2M": ji.dpmpp_2m,
    **{
        f"EDICT({p:g})": functools.partial(ji.edict, p=p)
        for p in (0.5, 0.8, 0.93, 0.97, 1.0)
    },
    **{
        f"BDIA({gamma:g})": functools.partial(ji.bdia, gamma=gamma)
        for gamma in (0.1, 0.5, 0.8, 0.96, 1.0)
    },
    "O-BELM": ji.o_belm,
    "O-BELM log-SNR": ji.o_belm_log_snr,
}
GRIDS = ("linspace", "log_snr")
#: The numbers of steps of the papers' tables.
STEPS = (10, 20, 50, 100)
#: What made the samples that are inverted, and what stands for the exact solution.
MADE, CONVERGED = ("2M", "log_snr", 20), ("2M", "log_snr", 200)


def sampler_of(
    setting: Setting, name: str, grid: str, steps: int, history: int | None = None
) -> Any:
    """Return a sampler, made once.

    Args:
        setting: The setting.
        name: A name of :data:`SAMPLERS`.
        grid: Spacing of the grid.
        steps: Number of steps.
        history: Of samplers to sample with only: fill up to so many states, so that
            tables of one size are one program.
    """

    def make() -> Any:
        schedule = setting.pipe.schedule
        if grid == "linspace":
            schedule = dataclasses.replace(schedule, set_alpha_to_one=True)
        return alike(SAMPLERS[name](make_grid(schedule, steps, grid)), history)

    return setting.shared(("belm sampler", name, grid, steps, history), make)


def denoiser_of(setting: Setting, prompt: str, guidance: float) -> Any:
    """Return the model with a prompt; without guidance it runs one branch only."""
    if guidance != 1 or not setting.pipe.text_encoders:
        return setting.denoiser(prompt, guidance)
    return setting.pipe.denoiser(setting.condition(prompt))


def sampled(setting: Setting, index: int, prompt: str, guidance: float) -> Any:
    """Return a latent of the model's own, made once for an image."""
    return setting.shared(
        ("image", "sampled", index, prompt, guidance),
        lambda: ji.sample(
            sampler_of(setting, *MADE, history=2),
            denoiser_of(setting, prompt, guidance),
            setting.noise(index),
        ),
    )
