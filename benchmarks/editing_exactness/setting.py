"""The two models with their inversions, and the pictures that are edited."""

from __future__ import annotations

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
from benchmarks.editing.runs import Setting
from benchmarks.flows.problems import load_emoflow, shifted_grid
from benchmarks.samples import make_sampler

#: Evaluations after which an exact inversion gives up.
MAX_EVALS = 300
#: Solver of Algorithm 2's equations: it meets them in a tenth of the evaluations of the
#: published solver, and what is frozen in them stays frozen.
SOLVER = ji.Anderson(max_iterations=20)
#: Objects with one that is near and one that is far.
OBJECTS = (
    ("red heart", "blue heart", "pizza"),
    ("red apple", "green apple", "dog face"),
    ("soccer ball", "basketball", "red heart"),
    ("dog face", "fox face", "red apple"),
    ("grinning face", "angry face", "house"),
    ("sun with face", "full moon", "soccer ball"),
    ("tulip", "rose", "rocket"),
    ("rabbit face", "cat face", "banana"),
)
COLORS = ("light blue", "white", "green", "yellow", "light gray", "pink")
#: Distance from the background's color that makes a pixel one of the object.
NEAR = 0.15
#: Pixels of the frame in which the background's color is read.
FRAME = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model with its sampler and the inversions that are compared.

    Attributes:
        title: In the report.
        pipe: The pipeline.
        make: Map from a number of steps to the sampler and the inversions by name.
        options: Of its prompts.
    """

    title: str
    pipe: Any
    make: Callable[[int], tuple[ji.SamplerTable, dict[str, Any]]]
    options: dict[str, Any]

    def denoiser(self, prompt: str, guidance: float) -> Any:
        """Return the model with a prompt, guided."""
        encoded, empty = (encoding(self, text) for text in (prompt, ""))
        return self.pipe.denoiser(encoded, empty, jnp.float32(guidance))


@functools.cache
def encoding(model: Model, prompt: str) -> Any:
    """Return the encoding of a prompt."""
    return model.pipe.encode_prompt(prompt, **model.options)


def emoji64() -> Model:
    """Return emoji64 with DPM-Solver++(2M) on the default grid."""
    pipe = ji.load("emoji64")

    def make(steps: int) -> tuple[ji.SamplerTable, dict[str, Any]]:
        published = ji.Algorithm2(pipe.schedule, solver=SOLVER)
        inversions = {"naive": "naive", "published": published, "exact": "auto"}
        return make_sampler(pipe, "2M", "log_snr", steps), inversions

    return Model("emoji64", pipe, make, {})


def emoflow() -> Model:
    """Return the small Stable Diffusion 3 with Euler's method on uniform times."""

    def make(steps: int) -> tuple[ji.SamplerTable, dict[str, Any]]:
        grid = shifted_grid(steps, 1.0)
        naive = ji.Backward(ji.euler, grid)
        inversions = {"naive": naive, "published": ji.UniInv(), "exact": "auto"}
        return ji.euler(grid), inversions

    return Model("small SD3", load_emoflow(), make, {"max_sequence_length": 0})


MODELS = {each.__name__: each for each in (emoji64, emoflow)}


class Picture(NamedTuple):
    """A latent to edit.

    Attributes:
        latent: (h, w, c).
        source: Its prompt.
        target: The other prompt.
        noise: The noise that it was made of; None for a drawing.
        kept: Pixels that the edit should keep, (H, W); None where the true edit shows
            them.
    """

    latent: Any
    source: str
    target: str
    noise: Any
    kept: Any


def prompts(kind: str, index: int) -> tuple[str, str]:
    """Return source and target of a generated picture.

    Args:
        kind: ``"near"`` or ``"far"``, the new object; ``"same"`` for no edit.
        index: Of the picture.
    """
    which = ("same", "near", "far").index(kind)
    objects = OBJECTS[index % len(OBJECTS)]
    where = f"on a {COLORS[index % len(COLORS)]} background"
    return f"{objects[0]} {where}", f"{objects[which]} {where}"


def generated(
    model: Model, sampler: Any, kind: str, guidance: float, index: int, seed: int
) -> Picture:
    """Return a picture that the sampler made of a known noise."""
    source, target = prompts(kind, index)
    key = jax.random.fold_in(jax.random.key(seed), index)
    noise = jax.random.normal(key, model.pipe.latent_shape)
    latent = ji.sample(sampler, model.denoiser(source, guidance), noise)
    return Picture(latent, source, target, noise, None)


class Drawings:
    """Held-out drawings, as in :mod:`benchmarks.editing`, to become other objects."""

    def __init__(self, data: Path, pictures: int, seed: int) -> None:
        given = argparse.Namespace(
            model="emoji64", data=data, pictures=pictures, seed=seed, steps=0,
            resume=None,
        )  # fmt: skip
        self.setting = Setting(given)

    def __call__(self, model: Model, index: int) -> Picture:
        """Return a drawing with its latent from the inverted decoder."""
        task = self.setting.task("object", index)
        kept = ~self.setting.pixels(task.mask)
        latent = self._latent(model, index)
        return Picture(latent, task.source, task.target, None, kept)

    @functools.cache  # noqa: B019
    def _latent(self, model: Model, index: int) -> Any:
        return _inverted(model.pipe, self.setting.task("object", index).image)


@jax.jit
def _inverted(pipe: Any, image: Any) -> Any:
    return pipe.invert_decoder(image).latent


@jax.jit
def decode(pipe: Any, latent: Any) -> Any:
    """Return the picture of a latent."""
    return pipe.decode(latent)


def background(picture: np.ndarray) -> np.ndarray:
    """Return the pixels near the median color of a picture's frame, (H, W)."""
    inside = np.ones(picture.shape[:2], bool)
    inside[FRAME:-FRAME, FRAME:-FRAME] = False
    color = np.median(picture[inside], axis=0)
    return np.sqrt(np.mean((picture - color) ** 2, axis=-1)) < NEAR
