"""What the sections of :mod:`benchmarks.belm` share: samplers and pictures.

Samplers are compared at equal *evaluations* of the model, on grids uniform in log-SNR
over the same range: EDICT, which evaluates twice per step, takes half of the steps.

Real pictures are those of ``training/``: the emoji package, whose held-out drawings no
part of the model has seen. It is no part of this repository: sections that need it are
skipped without ``--data``.
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
from training.first.backgrounds import composite, random_background
from training.first.captions import caption
from training.first.emoji import EmojiSet, load_emoji

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
    "Skipped: real pictures are needed. Run `npm pack emoji-datasource-google@16.0.0`, "
    "unpack it, and give its folder `package` as `--data`."
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
    def emoji(self) -> EmojiSet:
        """The drawings."""
        return load_emoji(self.arguments.data)

    @functools.cached_property
    def empty(self) -> Any:
        """Text vectors of the empty prompt."""
        return self.pipe.encode_prompt("")

    def held_out(self, count: int) -> Pictures:
        """Held-out drawings, each on a background of its own."""
        rng = np.random.default_rng(self.arguments.seed)
        chosen = rng.choice(self.emoji.test_indices, count, replace=False)
        return self._composites(chosen, rng, background_share=1.0)

    def training_set(self, count: int, seed: int) -> Pictures:
        """Pictures and captions as the model was trained on."""
        rng = np.random.default_rng([self.arguments.seed, seed])
        data = self.emoji
        chosen = rng.choice(data.train_indices, count, p=data.train_probabilities)
        return self._composites(chosen, rng, background_share=0.8)

    def _composites(
        self, indices: np.ndarray, rng: np.random.Generator, background_share: float
    ) -> Pictures:
        images, captions = [], []
        for index in indices:
            background = random_background(rng)
            entry = self.emoji.entries[index]
            images.append(composite(self.emoji.rgba[index], background.pixels, rng))
            captions.append(caption(entry, background.colours, rng, background_share))
        return Pictures(np.stack(images), captions)


def data_folder(arguments: argparse.Namespace) -> Path | None:
    """Return the folder of the emoji package, if there is one."""
    folder = arguments.data
    return folder if folder and (folder / "emoji.json").exists() else None


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
