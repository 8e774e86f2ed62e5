"""What the sections of :mod:`benchmarks.belm` share: samplers and pictures.

Samplers are compared at equal *evaluations* of the model, on grids uniform in log-SNR
over the same range: EDICT, which evaluates twice per step, takes half of the steps.

Real pictures are those of ``training/``: packages of drawings, of which some are held
out: no part of the model has seen them. The packages are no part of this repository:
sections that need them are skipped without ``--data``.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.samples import Samples, each, groups
from jaxinv.diffusion.grid import make_grid, over_training_range
from training.drawings import (
    HELD_OUT,
    HOW_TO_GET,
    KINDS,
    PACKAGES,
    Drawings,
    read_drawings,
)
from training.scenes import random_scene, scene_caption

SAMPLERS: dict[str, Callable[[ji.TimeGrid], Any]] = {
    "DDIM": ji.ddim,
    "2M": ji.dpmpp_2m,
    "BDIA": ji.bdia,
    "BDIA(1)": functools.partial(ji.bdia, gamma=1.0),
    "EDICT": ji.edict,
    "O-BELM": ji.o_belm,
    "O-BELM log-SNR": ji.o_belm_log_snr,
}
#: Those of the quality sections whose trajectories cannot be undone exactly.
NOT_EXACT = ("DDIM", "2M")

#: How to get the pictures.
NO_DATA = (
    f"Skipped: real pictures are needed. To get them {HOW_TO_GET}; give the folder as "
    "`--data`."
)


class Pictures(NamedTuple):
    """Pictures and what they show.

    Attributes:
        images: Shape (n, 64, 64, 3), in [0, 1].
        captions: n captions, of the drawing and its background.
    """

    images: np.ndarray
    captions: list[str]


@dataclasses.dataclass(eq=False)
class Setting:
    """The arguments, and what is loaded when it is first used."""

    arguments: argparse.Namespace

    @functools.cached_property
    def pipe(self) -> Any:
        """The model."""
        return ji.load(self.arguments.model)

    @functools.cached_property
    def empty(self) -> Any:
        """Text vectors of the empty prompt."""
        return self.pipe.encode_prompt("")

    def held_out(self, count: int) -> Pictures:
        """Held-out drawings, placed at random, each on a background of its own."""
        rng = np.random.default_rng(self.arguments.seed)
        drawings = read_drawings(self.arguments.data, HELD_OUT)
        chosen = rng.permutation(len(HELD_OUT))[:count]
        return _scenes(rng, drawings, chosen, background_share=1.0)

    def training_set(self, count: int, seed: int) -> Pictures:
        """Pictures and captions as the model was trained on."""
        rng = np.random.default_rng([self.arguments.seed, seed])
        chosen = rng.integers(len(KINDS), size=count)
        return _scenes(rng, self.trained, chosen, background_share=0.5)

    @functools.cached_property
    def trained(self) -> Drawings:
        """The drawings that the model was trained on."""
        return read_drawings(self.arguments.data, tuple(KINDS))


def _scenes(
    rng: np.random.Generator,
    drawings: Drawings,
    chosen: np.ndarray,
    background_share: float,
) -> Pictures:
    scenes = [random_scene(rng, drawings, int(kind)) for kind in chosen]
    captions = [scene_caption(scene, rng, background_share) for scene in scenes]
    return Pictures(np.stack([scene.image for scene in scenes]), captions)


def data_folder(arguments: argparse.Namespace) -> Path | None:
    """Return the folder of the packages of drawings, if there is one."""
    folder = arguments.data
    return folder if folder and (folder / next(iter(PACKAGES))).exists() else None


def steps_of(name: str, evaluations: int) -> int:
    """Return the steps that a sampler can take with a number of evaluations."""
    return evaluations // 2 if name == "EDICT" else evaluations


def make(name: str, schedule: ji.NoiseSchedule, steps: int) -> Any:
    """Return a sampler by its name in the tables."""
    return SAMPLERS[name](log_snr_grid(schedule, steps))


def log_snr_grid(schedule: ji.NoiseSchedule, steps: int) -> ji.TimeGrid:
    """Return the default grid with any number of steps, without a warning."""
    if steps <= schedule.num_train_timesteps:
        return make_grid(schedule, steps)
    tau = over_training_range(schedule, np.geomspace, steps)
    return ji.TimeGrid(
        tau,
        schedule.scale(tau),
        schedule.model_time(tau),
        schedule.init_noise_scale,
        schedule.family,
    )


def alike(sampler: Any, history: int | None = None) -> Any:
    """Return the same sampler under one name: programs are compiled per name and shape.

    Args:
        sampler: The sampler.
        history: Of tables, to sample with only: fill rows up with zeros to so many
            states. All tables of so many steps are then one program.
    """
    sampler = dataclasses.replace(sampler, name="table", order=1)
    if history is None:
        return sampler
    more = ((0, 0), (0, history - sampler.history))
    return dataclasses.replace(
        sampler,
        a=np.pad(sampler.a, more),
        b=np.pad(sampler.b, more),
        bidirectional=False,
    )


def sample_all(
    setting: Setting, sampler: Any, samples: Samples, guidance: float
) -> np.ndarray:
    """Return what a sampler makes of all samples, some at a time; (b, h, w, c)."""
    sampler = alike(sampler, history=2)
    # Without guidance the model runs one branch only, which is another program.
    scale = None if guidance == 1 else jnp.float32(guidance)
    found = [
        np.asarray(_sample_group(setting.pipe, sampler, samples.some(part), scale))
        for part in groups(len(samples.conds), setting.arguments.batch)
    ]
    return np.concatenate(found)


@jax.jit
def _sample_group(pipe: Any, sampler: Any, samples: Samples, scale: Any) -> Any:
    def one(cond: Any, noise: Any) -> Any:
        weight = 1.0 if scale is None else scale
        return ji.sample(sampler, pipe.denoiser(cond, samples.uncond, weight), noise)

    return each(one, samples.conds, samples.noises)
