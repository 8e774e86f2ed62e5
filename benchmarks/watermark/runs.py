"""The images and single runs of :mod:`benchmarks.watermark`."""

import argparse
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
from benchmarks.samples import PROMPTS
from benchmarks.watermark.paper import paper_p_values
from jaxinv.apps import watermark
from jaxinv.apps.attacks import ATTACKS
from jaxinv.files.image_reading import to_uint8
from training.drawings import HELD_OUT, read_drawings
from training.scenes import random_scene

GUIDANCE = 3.0
KEYS = 3
#: Of a message.
BITS = 64
# The published radius is 10 of 64; here the same share, rounded up.
SHARE = 10 / 64
#: Sampler settings: steps and spacing of DPM-Solver++(2M).
CASES = {"10 steps, linspace": (10, "linspace"), "20 steps, log_snr": (20, "log_snr")}
METHODS = {
    "naive": {"strategy": "naive"},
    "algorithm 2": {"strategy": "stepwise"},
    "trajectory": {"strategy": "trajectory"},
}
DECODERS = ("encoder", "anderson")
PARTS = ("clean", "attacks", "shading", "foreign")
#: Not an attack: who looks for the mark does not know what the image was made from.
UNKNOWN = "prompt unknown"
#: Pictures that no sampler made: held-out drawings. Nobody knows a prompt of theirs.
FOREIGN = "foreign"
HARDSHIPS = (*(attack for attack in ATTACKS if attack != "none"), UNKNOWN)


class Run(NamedTuple):
    """One inversion of one image.

    Attributes:
        case: Sampler setting.
        method: How the sampler is inverted.
        decoder: How the decoder is inverted.
        attack: What happened to the image, or ``UNKNOWN`` or ``FOREIGN``.
        scheme: Of the key.
        key: Which one; -1 for an unmarked image.
        index: Which image.
    """

    case: str
    method: str
    decoder: str
    attack: str
    scheme: str
    key: int
    index: int


def plan(arguments: argparse.Namespace) -> list[Run]:
    """Return all runs that are wanted: the cheap ones first, keys in turn."""
    images = [(k, i) for i in range(arguments.per_key) for k in range(KEYS)]
    unmarked = [(-1, i) for i in range(arguments.unmarked)]
    mixed = list(_interleaved(images, unmarked))
    counts = {
        "naive": len(mixed),
        "trajectory": arguments.exact_images,
        "algorithm 2": arguments.algorithm_2_images,
    }
    attacked = {"naive": arguments.attacked, "trajectory": arguments.exact_attacked}
    runs = []
    if "clean" in arguments.parts:
        runs += [
            Run(case, method, decoder, "none", "tree ring", *image)
            for case in arguments.cases
            for method in arguments.methods
            for image in mixed[: counts[method]]
            for decoder in arguments.decoders
        ]
    case = arguments.cases[-1]
    for method in [name for name in attacked if name in arguments.methods]:
        if "shading" in arguments.parts:
            runs += [
                Run(case, method, decoder, "none", "shading", 0, i)
                for i in range(arguments.shading)
                for decoder in arguments.decoders
            ]
        if "foreign" in arguments.parts and arguments.data is not None:
            runs += [
                Run(case, method, "anderson", FOREIGN, "tree ring", -1, i)
                for i in range(arguments.foreign)
            ]
        if "attacks" in arguments.parts:
            count = attacked[method]
            runs += [
                Run(case, method, "anderson", attack, "tree ring", *image)
                for image in _interleaved(images[:count], unmarked[:count])
                for attack in HARDSHIPS
            ]
    return sorted(runs, key=lambda run: (run.method != "naive", run.attack != "none"))


def _interleaved(first: list[Any], second: list[Any]) -> Iterator[Any]:
    """Both, evenly mixed, so that a run that is cut has some of each."""
    total = len(first) + len(second)
    taken = 0
    for n in range(total):
        if (taken + 1) * total <= (n + 1) * len(first) and taken < len(first):
            yield first[taken]
            taken += 1
        else:
            yield second[n - taken]


class Setting:
    """The model, its images, and what was measured before."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.pipe = ji.load(arguments.model)
        given = {"model": arguments.model, "seed": arguments.seed}
        self.kept = Kept(arguments.resume, "run", **given)

    @property
    def found(self) -> dict[Run, dict[str, Any]]:
        """What is known of the runs."""
        return {Run(*run): found for run, found in self.kept.found.items()}

    @functools.cached_property
    def keys(self) -> list[watermark.TreeRingKey]:
        """Three ring keys."""
        shape = self.pipe.latent_shape
        radius = int(np.ceil(SHARE * min(shape[:2])))
        return [
            watermark.tree_ring_key(jax.random.key(1_000 + k), shape, radius=radius)
            for k in range(KEYS)
        ]

    @functools.cached_property
    def shading(self) -> watermark.GaussianShadingKey:
        """One message."""
        shape = self.pipe.latent_shape
        rng = np.random.default_rng(self.arguments.seed)
        side = int((np.prod(shape) / BITS) ** 0.5)
        blocks = (side, side, 1)
        count = int(np.prod(shape)) // side**2
        return watermark.gaussian_shading_key(
            shape, blocks=blocks, message=rng.integers(0, 2, count), secret=bytes(48)
        )

    @functools.cache  # noqa: B019
    def sampler(self, case: str) -> ji.SamplerTable:
        """DPM-Solver++(2M) on a grid; lossy grids are tested on purpose."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ji.LossyGridWarning)
            return ji.dpmpp_2m(ji.time_grid(self.pipe.schedule, *CASES[case]))

    @functools.cache  # noqa: B019
    def vectors(self, prompt: str) -> Any:
        """Of a prompt."""
        return self.pipe.encode_prompt(prompt)

    def denoiser(self, index: int, known: bool = True) -> Any:
        """Of the prompt of an image; of none without guidance if it is not known."""
        if not known:
            return self.pipe.denoiser(self.vectors(""))
        vectors = self.vectors(PROMPTS[index % len(PROMPTS)])
        return self.pipe.denoiser(vectors, self.vectors(""), jnp.float32(GUIDANCE))

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def image(self, case: str, scheme: str, key: int, index: int) -> Any:
        """Noise and 8-bit image."""
        seed = jax.random.key(self.arguments.seed)
        for part in (scheme == "shading", key + 1, index):
            seed = jax.random.fold_in(seed, int(part))
        noise = jax.random.normal(seed, self.pipe.latent_shape)
        if scheme == "shading":
            noise = self.shading.embed(noise)
        elif key >= 0:
            noise = self.keys[key].embed(noise)
        made = self.pipe.generate(self.sampler(case), self.denoiser(index), noise)
        return noise, to_uint8(np.asarray(made))

    @functools.cached_property
    def foreign(self) -> np.ndarray:
        """Held-out drawings on backgrounds of their own, 8 bits."""
        drawings = read_drawings(self.arguments.data, HELD_OUT)
        seed = self.arguments.seed
        made = [
            random_scene(np.random.default_rng([seed, n]), drawings).image
            for n in range(self.arguments.foreign)
        ]
        return np.round(255 * np.stack(made)).astype(np.uint8)

    def measure(self, runs: list[Run]) -> None:
        """Return all that is not known yet."""
        for run in runs:
            self.kept(run, lambda run=run: self.once(run))

    def once(self, run: Run) -> dict[str, Any]:
        """Invert one image and score it."""
        known = run.attack in ATTACKS
        if run.attack == FOREIGN:
            noise, pixels = None, self.foreign[run.index]
        else:
            noise, pixels = self.image(run.case, run.scheme, run.key, run.index)
        latent = self.latent(
            run.decoder, ATTACKS[run.attack](pixels) if known else pixels
        )
        began = time.monotonic()
        sampler = self.sampler(run.case)
        result = ji.invert(
            sampler,
            self.denoiser(run.index, known),
            latent,
            schedule=self.pipe.schedule,
            **METHODS[run.method],
        )
        jax.block_until_ready(result)
        found = {
            # None for a picture that was not made from noise.
            "noise_db": None
            if run.attack == FOREIGN
            else float(ji.nmse_db(result.noise, noise)),
            "converged": bool(result.converged),
            "evals": int(result.num_evals) - sampler.num_rows,  # less the way back
            "seconds": time.monotonic() - began,
        }
        if run.scheme == "shading":
            score = self.shading.score(result.noise)
            return {**found, "matches": int(score.matches)}
        scores = [key.score(result.noise) for key in self.keys]
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *self.keys)
        noises = jnp.broadcast_to(result.noise, (KEYS, *result.noise.shape))
        return {
            **found,
            "distances": [float(score.distance) for score in scores],
            "p": [float(p) for p in paper_p_values(stacked, noises)],
        }

    def latent(self, decoder: str, pixels: Any) -> Any:
        """Of an image."""
        return _latent(self.pipe, pixels, decoder)


@functools.partial(jax.jit, static_argnames="decoder")
def _latent(pipe: Any, pixels: Any, decoder: str) -> Any:
    return pipe.invert_decoder(pixels, decoder).latent
