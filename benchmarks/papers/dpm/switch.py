"""A prompt that is switched in mid-inversion.

The authors' inversion takes two prompts and a number of steps: from the image, the
first ``use_old_emb_i`` steps (25 of 50) have the old prompt and all others the new one.
Here images are made in this way, with the new prompt near the noise and the old one
near the image, and inverted with the same switch, or with the old prompt alone.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.papers.dpm.reconstruction import (
    COMMAND,
    DDIM,
    FAST,
    GUIDANCE,
    MADE,
    NOT_FOUND,
    OTHERS,
    REGULAR,
    cell_of,
)
from benchmarks.papers.dpm.round_trip import (
    EVALS_PER_STEP,
    image_of,
    nmse,
    sampler_of,
    strategy_of,
    unit,
)
from benchmarks.papers.dpm.text import round_trips
from benchmarks.papers.protocol import Cell, Found, Measures, Table, needs_prompts
from benchmarks.papers.setting import Setting


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Switched:
    """A model with two prompts. A pytree.

    Attributes:
        pipe: The model.
        old: Condition of the prompt at times up to ``time``.
        new: Condition of the prompt above it.
        empty: Condition of the negative prompt.
        guidance: Guidance scale.
        time: The last time with the old prompt.
    """

    pipe: Any
    old: Any
    new: Any
    empty: Any
    guidance: Any
    time: Any

    def __call__(self, x: Any, t: Any) -> Any:
        """Return the guided prediction of one sample."""
        old = t <= self.time
        cond = jax.tree.map(lambda a, b: jnp.where(old, a, b), self.old, self.new)
        return self.pipe.denoiser(cond, self.empty, self.guidance)(x, t)


def _cells(setting: Setting) -> Sequence[Cell]:
    return [
        cell_of(made, GUIDANCE, inverse, made[2], "none") | {"known": known}
        for made in (DDIM, FAST, REGULAR)
        for known in (True, False)
        for inverse in ("naive", "published", "ours")
    ]


def switched(setting: Setting, cell: Cell, index: int) -> Switched:
    """Return the model whose prompt is switched after half of the steps."""
    sampler = sampler_of(setting, cell["sampler"], cell["grid"], cell["steps"])
    old, new = (setting.condition(setting.prompt(index + k)) for k in (0, 1))
    empty = setting.condition(setting.negative)
    time = jnp.float32(sampler.model_time[cell["steps"] // 2])
    return Switched(setting.pipe, old, new, empty, jnp.float32(cell["guidance"]), time)


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Make an image with two prompts, invert it, and make it again."""
    sampler = sampler_of(setting, cell["sampler"], cell["grid"], cell["steps"])
    model = switched(setting, cell, index)
    # With the old prompt up to the largest time, it is the old prompt alone.
    way = model if cell["known"] else dataclasses.replace(model, time=jnp.float32(1e9))
    noise = setting.noise(index)
    latent = setting.shared(
        ("image", cell["sampler"], cell["grid"], cell["steps"]),
        lambda: ji.sample(sampler, model, noise),
    )
    began = time.monotonic()
    if cell["inverse"] == "ours":
        limit = EVALS_PER_STEP * cell["steps"]
        result = ji.invert(sampler, way, latent, max_evals=limit)
    else:
        number = {"DDIM": "algorithm 1", "2M": "algorithm 2"}[cell["sampler"]]
        inverse = "naive" if cell["inverse"] == "naive" else number
        strategy = strategy_of(setting, inverse)
        result = ji.invert(sampler, way, latent, strategy=strategy, verify=False)
    jax.block_until_ready(result.noise)
    seconds = time.monotonic() - began
    again = ji.sample(sampler, model, result.noise)
    images = [unit(image_of(setting, x)) for x in (latent, again)]
    return {
        "noise": nmse(noise, result.noise),
        "image": nmse(*images),
        "evals": int(result.num_evals),
        "seconds": seconds,
    }


def _show(found: Found) -> str:
    columns = MADE | {"inverse": "inverse", "known": "switch known"}
    return round_trips(found, columns)


SWITCH = (
    Table(
        "dpm-switch",
        "Prompt switched in mid-inversion (number not found here)",
        "images made with two prompts, inverted with the same two or with one",
        None,
        _cells,
        measure,
        _show,
        f"""{NOT_FOUND} The switch is in the authors' code
(`src/stable_diffusion/inverse_stable_diffusion.py`, `forward_diffusion`:
`use_old_emb_i=25`, `old_text_embeddings`, `new_text_embeddings`).""",
        f"{OTHERS} The two prompts of an image are consecutive ones of the list. "
        "*published* is Algorithm 1 for DDIM and Algorithm 2 for 2M.",
        options=COMMAND,
        refuse=needs_prompts,
    ),
)
