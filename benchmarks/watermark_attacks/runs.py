"""The images and single inversions of :mod:`benchmarks.watermark_attacks`.

The noise of every inversion is kept: keys are compared with it afterwards, its own and
others.
"""

import argparse
import base64
import dataclasses
import functools
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import Kept
from benchmarks.samples import PROMPTS, named_key, weights_of
from jaxinv.apps import watermark
from jaxinv.apps.attacks import TOOLKIT_ATTACKS
from jaxinv.files.image_reading import to_uint8

GUIDANCE = 3.0
#: Published radii are shares of a latent of 64 x 64.
PUBLISHED_SIDE = 64
MARKS = ("tree ring", "RingID", "Gaussian Shading", "PRC")
REGENERATION = "regeneration 0.3"
ATTACKS = (
    *(name for name in TOOLKIT_ATTACKS if name not in ("JPEG 95", "rotation 75")),
    REGENERATION,
)
INVERSES = {"naive": "naive", "Algorithm 2": "stepwise", "exact": "trajectory"}


class Run(NamedTuple):
    """One inversion of one image.

    Attributes:
        side: Side of the latent.
        steps: Steps of the sampler.
        inverse: How the sampler is inverted.
        latent: ``"encoder"`` or ``"decoder"`` (inverted).
        known: Whether the inversion has the prompt and the guidance.
        attack: What happened to the image.
        mark: Its scheme.
        index: Which image; each has its own key.
    """

    side: int
    steps: int
    inverse: str
    latent: str
    known: bool
    attack: str
    mark: str
    index: int


def plan(arguments: argparse.Namespace) -> list[Run]:
    """Return all runs: image by image, so that they can be stopped at any time."""
    images = range(arguments.images)
    runs = [run for index in images for run in _of_image(arguments, index)]
    # The most expensive come last.
    runs += [run for index in images[2:8:4] for run in _slow(arguments, index)]
    return [
        run
        for run in runs
        if run.inverse in arguments.inverses and run.attack in arguments.attacks
    ]


def _of_image(arguments: argparse.Namespace, index: int) -> Iterator[Run]:
    side, few = arguments.side, arguments.few_steps
    # One scheme of each second image in turn, by other inverses.
    mark, hard = _in_turn(index), arguments.hard_attack
    if index % 4 == 0:
        for attack in ("none", hard):
            yield Run(side, few, "naive", "encoder", True, attack, mark, index)
            for inverse in ("naive", "exact"):
                yield Run(side, few, inverse, "decoder", True, attack, mark, index)
            yield Run(side, few, "naive", "decoder", False, attack, mark, index)
    if index % 4 == 2:
        for attack in ("none", hard):
            for known in (True, False):
                many = arguments.many_steps
                yield Run(side, many, "naive", "encoder", known, attack, mark, index)
        for inverse in ("naive", "exact"):
            yield Run(side, few, inverse, "decoder", False, "none", mark, index)
    for mark in MARKS:
        for attack in ATTACKS:
            yield Run(side, few, "naive", "encoder", False, attack, mark, index)


def _in_turn(index: int) -> str:
    return MARKS[-(index // 4) % len(MARKS)]


def _slow(arguments: argparse.Namespace, index: int) -> Iterator[Run]:
    mark = _in_turn(index)
    few, many = arguments.few_steps, arguments.many_steps
    for steps, inverse in (
        (many, "naive"),
        (many, "exact"),
        (few, "naive"),
        (few, "exact"),
        (few, "Algorithm 2"),
    ):
        yield Run(arguments.side, steps, inverse, "decoder", True, "none", mark, index)


def make_key(mark: str, shape: tuple[int, int, int], number: int) -> Any:
    """Return one of many independent keys of a scheme."""
    seed = named_key(number, mark)
    share = min(shape[:2]) / PUBLISHED_SIDE
    rng = np.random.default_rng([MARKS.index(mark), number])
    if mark == "tree ring":
        return watermark.tree_ring_key(seed, shape, radius=int(np.ceil(10 * share)))
    if mark == "RingID":
        # Two channels of rings, where the published code has one: with half as many
        # rings, there are about as many keys.
        return watermark.ring_id_key(
            seed,
            shape,
            radius=max(2, round(14 * share)),
            cutoff=round(3 * share - 0.01),
            channels=(-1,) if share >= 1 else (-2, -1),
        )
    secret = rng.bytes(48)
    if mark == "Gaussian Shading":
        block = min(8, min(shape[:2]))
        count = int(np.prod(shape)) // block**2
        return watermark.gaussian_shading_key(
            shape,
            blocks=(block, block, 1),
            message=rng.integers(0, 2, count),
            secret=secret,
        )
    count = int(np.prod(shape)) // 32
    return watermark.prc_key(shape, message=rng.integers(0, 2, count), secret=secret)


class Setting:
    """The model, its images, and what was measured before."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        pipe = ji.load(arguments.model)
        side = arguments.side * pipe.factor
        self.pipe = pipe.at_size((side, side))
        given = {
            "model": arguments.model,
            "weights": weights_of(arguments.model),
            "seed": arguments.seed,
            "keys": "named",  # results without it have keys that noises share
        }
        self.kept = Kept(arguments.resume, "run", **given)

    @property
    def found(self) -> dict[Run, dict[str, Any]]:
        """What is known of the runs of this size."""
        runs = {Run(*run): found for run, found in self.kept.found.items()}
        side = self.arguments.side
        return {run: found for run, found in runs.items() if run.side == side}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the noise."""
        return watermark.key_shape(self.pipe)

    @functools.cache  # noqa: B019
    def key(self, mark: str, number: int) -> Any:
        """Return the key of an image; those of unmarked ones have larger numbers."""
        return make_key(mark, self.shape, 1_000_000 * self.arguments.seed + number)

    @functools.cache  # noqa: B019
    def sampler(self, steps: int) -> ji.SamplerTable:
        """DPM-Solver++(2M); lossy grids are tested on purpose."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ji.LossyGridWarning)
            return ji.dpmpp_2m(ji.time_grid(self.pipe.schedule, steps, "log_snr"))

    @functools.cache  # noqa: B019
    def vectors(self, prompt: str) -> Any:
        """Of a prompt."""
        return self.pipe.encode_prompt(prompt)

    def denoiser(self, index: int, known: bool) -> Any:
        """Of the prompt of an image; of none without guidance if it is not known."""
        if not self.pipe.text_encoders:
            return self.pipe.denoiser()
        empty = self.vectors("")
        if not known:
            return self.pipe.denoiser(empty)
        prompt = self.vectors(PROMPTS[index % len(PROMPTS)])
        return self.pipe.denoiser(prompt, empty, jnp.float32(GUIDANCE))

    @functools.lru_cache(maxsize=16)  # noqa: B019
    def image(self, steps: int, mark: str, index: int) -> Any:
        """Noise and 8-bit image. All schemes mark the same noise, at all steps."""
        seed = named_key(self.arguments.seed, "noise", index)
        noise = self.key(mark, index).embed(jax.random.normal(seed, self.shape))
        denoise = self.denoiser(index, True)
        made = _generate(self.pipe, self.sampler(steps), denoise, noise)
        return noise, to_uint8(np.asarray(made))

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def latent(self, steps: int, how: str, attack: str, mark: str, index: int) -> Any:
        """Return the latent of an attacked image."""
        method = {"encoder": "encoder", "decoder": "anderson"}[how]
        pixels = self.attacked(steps, attack, mark, index)
        return _latent(self.pipe, pixels, method)

    def attacked(self, steps: int, attack: str, mark: str, index: int) -> np.ndarray:
        """Return an image after its attack."""
        _, pixels = self.image(steps, mark, index)
        if attack != REGENERATION:
            return TOOLKIT_ATTACKS[attack](pixels)
        seed = named_key(self.arguments.seed, "regeneration", index)
        made = regenerate(
            self.pipe,
            pixels,
            self.denoiser(index, False),
            jax.random.normal(seed, self.shape),
        )
        return to_uint8(np.asarray(made))

    def measure(self, runs: list[Run]) -> None:
        """Find all that is not known yet."""
        began = time.monotonic()
        for run in runs:
            if time.monotonic() - began > 60 * self.arguments.minutes:
                break
            self.kept(run, lambda run=run: self.once(run))

    def once(self, run: Run) -> dict[str, Any]:
        """Invert one image."""
        noise, _ = self.image(run.steps, run.mark, run.index)
        asked = run.steps, run.latent, run.attack, run.mark, run.index
        latent = self.latent(*asked)
        began = time.monotonic()
        sampler, denoise = self.sampler(run.steps), self.denoiser(run.index, run.known)
        if run.inverse == "naive":
            result = _naive(sampler, denoise, latent)
        else:
            result = ji.invert(
                sampler,
                denoise,
                latent,
                schedule=self.pipe.schedule,
                strategy=INVERSES[run.inverse],
            )
        jax.block_until_ready(result)
        return {
            "noise": write_noise(result.noise),
            "noise_db": float(ji.nmse_db(result.noise, noise)),
            # A naive inverse is not verified.
            "reconstruction": None
            if run.inverse == "naive"
            else float(result.reconstruction),
            "converged": bool(result.converged),
            "evals": int(result.num_evals),
            "seconds": time.monotonic() - began,
        }


def write_noise(noise: Any) -> str:
    """Return a noise as text, in 16 bits."""
    return base64.b64encode(np.asarray(noise, np.float16).tobytes()).decode()


def read_noise(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the noise of :func:`write_noise`."""
    values = np.frombuffer(base64.b64decode(text), np.float16)
    return values.reshape(shape).astype(np.float32)


def regenerate(
    pipe: Any, pixels: Any, denoise: Any, noise: Any, steps: int = 10
) -> Any:
    """Encode an image, add noise, and remove it again.

    Of the steps of DDIM on linearly spaced timesteps, the last 0.3 are taken
    (MarkDiffusion's ``DiffusionPurification`` at its default strength).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ji.LossyGridWarning)
        grid = ji.time_grid(pipe.schedule, steps, "linspace")
        kept = slice(round(0.3 * steps) + 1)
        part = dataclasses.replace(
            grid,
            tau=grid.tau[kept],
            scale=grid.scale[kept],
            model_time=grid.model_time[kept],
            init_noise_scale=1.0,
        )
        sampler = ji.ddim(part)
    clean = _latent(pipe, pixels, "encoder")
    noisy = part.scale[-1] * (clean + part.tau[-1] * noise)
    return _generate(pipe, sampler, denoise, noisy.astype(noise.dtype))


@functools.partial(jax.jit, static_argnames="method")
def _latent(pipe: Any, pixels: Any, method: str) -> Any:
    return pipe.invert_decoder(pixels, method).latent


@jax.jit
def _generate(pipe: Any, sampler: Any, denoise: Any, noise: Any) -> Any:
    return pipe.generate(sampler, denoise, noise)


@jax.jit
def _naive(sampler: Any, denoise: Any, latent: Any) -> Any:
    return ji.invert(sampler, denoise, latent, strategy="naive", verify=False)
