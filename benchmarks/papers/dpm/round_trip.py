"""One image there and back: made by a sampler, inverted, made again.

A cell names how the image is made (``sampler``, ``grid``, ``steps``, ``guidance``) and
how it is inverted (``inverse``, ``inverse_steps``, ``decoder``). The inverses:

* ``naive``: DDIM inversion on a grid of ``inverse_steps``, whatever made the image;
* ``algorithm 1``: each DDIM step solved by the forward step method, published settings;
* ``algorithm 1, gradient``: the same equation solved by gradient descent (Adam);
* ``algorithm 2``: 2M with its high-order term frozen at an estimate, as published;
* ``ours``: ``ji.invert`` on the sampler's own rows.

Decoders: ``none`` inverts the latent that was sampled; ``encoder`` begins from the
8-bit image's encoding; ``gradient`` is the paper's decoder inversion (Adam, 0.1, cosine
decay, 100 steps); ``ours`` is Anderson's method.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.papers.protocol import Cell, Measures
from benchmarks.papers.setting import Setting
from benchmarks.samples import make_sampler
from jaxinv.files.image_reading import to_uint8
from jaxinv.solvers import Gradient

#: The sampler that each inverse inverts; None for the one that made the image.
INVERSES = {
    "naive": "DDIM",
    "algorithm 1": "DDIM",
    "algorithm 1, gradient": "DDIM",
    "algorithm 2": "2M",
    "ours": None,
}
DECODERS = {"encoder": "encoder", "gradient": "gradient", "ours": "anderson"}
#: A solution below this sum of squares stops the published algorithms.
SUM_OF_SQUARES = 1e-3
#: Limit of "ours", for images that no noise leads to.
EVALS_PER_STEP = 60


class Made(NamedTuple):
    """An image and how it was made.

    Attributes:
        noise: Unit noise, (h, w, c).
        latent: What was sampled.
        image: 8 bits, or the state itself of a model of pixels.
    """

    noise: Any
    latent: Any
    image: Any


def make(setting: Setting, cell: Cell, noise: Any, prompt: str) -> Made:
    """Sample an image from a noise, as a cell says."""
    latent = ji.sample(
        sampler_of(setting, cell["sampler"], cell["grid"], cell["steps"]),
        setting.denoiser(prompt, cell["guidance"]),
        noise,
    )
    return Made(noise, latent, image_of(setting, latent))


def image_of(setting: Setting, latent: Any) -> np.ndarray:
    """Return the 8-bit image of a latent, or the state of a model of pixels."""
    if setting.pipe.vae is None:
        return np.asarray(latent)
    return np.asarray(to_uint8(np.asarray(_decode(setting.pipe, latent))))


def latent_of(setting: Setting, made: Made, decoder: str) -> Any:
    """Return the latent from which the inversion starts."""
    if decoder == "none":
        return made.latent
    return _latent(setting.pipe, made.image, DECODERS[decoder])


def invert(
    setting: Setting, cell: Cell, latent: Any, prompt: str, guidance: float
) -> ji.InversionResult:
    """Invert a latent, as a cell says."""
    name = INVERSES[cell["inverse"]] or cell["sampler"]
    steps = cell["inverse_steps"]
    sampler = sampler_of(setting, name, cell["grid"], steps)
    denoise = setting.denoiser(prompt, guidance)
    if cell["inverse"] == "ours":
        return ji.invert(sampler, denoise, latent, max_evals=EVALS_PER_STEP * steps)
    strategy = strategy_of(setting, cell["inverse"])
    return ji.invert(sampler, denoise, latent, strategy=strategy, verify=False)


def strategy_of(setting: Setting, inverse: str) -> Any:
    """Return the strategy of a published inverse."""
    strategies: dict[str, Any] = {
        "naive": "naive",
        "algorithm 1": ji.Algorithm1(),
        "algorithm 1, gradient": ji.Algorithm1(Gradient(sum_of_squares=SUM_OF_SQUARES)),
        "algorithm 2": ji.Algorithm2(setting.pipe.schedule),
    }
    return strategies[inverse]


class Trip(NamedTuple):
    """An image, what is made again from its noise, and the cost of the inversion."""

    made: Made
    again: Made
    evals: int
    seconds: float


def trip(setting: Setting, cell: Cell, index: int) -> Trip:
    """Make an image, invert it, and make it again."""
    prompt = setting.prompt(index)
    made, latent = start(setting, cell, index)
    began = time.monotonic()
    result = invert(setting, cell, latent, prompt, cell["guidance"])
    jax.block_until_ready(result.noise)
    seconds = time.monotonic() - began
    again = make(setting, cell, result.noise, prompt)
    return Trip(made, again, int(result.num_evals), seconds)


def first_trip(setting: Setting, cell: Cell) -> Trip:
    """Return the trip of image 0, which figures show, made once."""
    return setting.shared(("first", *cell.values()), lambda: trip(setting, cell, 0))


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return the errors of an image's trip."""
    found = trip(setting, cell, index) if index else first_trip(setting, cell)
    made, again = found.made, found.again
    return {
        "noise": nmse(made.noise, again.noise),
        "image": nmse(unit(made.image), unit(again.image)),
        "evals": found.evals,
        "seconds": found.seconds,
    }


def start(setting: Setting, cell: Cell, index: int) -> tuple[Made, Any]:
    """Return an image and the latent that is inverted, each computed once."""
    names = ("sampler", "grid", "steps", "guidance")
    how = tuple(cell[name] for name in names)
    made = setting.shared(
        ("image", *how),
        lambda: make(setting, cell, setting.noise(index), setting.prompt(index)),
    )
    latent = setting.shared(
        ("image", "latent", cell["decoder"], *how),
        lambda: latent_of(setting, made, cell["decoder"]),
    )
    return made, latent


def sampler_of(setting: Setting, name: str, grid: str, steps: int) -> ji.SamplerTable:
    """Return a sampler, made once."""
    return setting.shared(
        ("sampler", name, grid, steps),
        lambda: make_sampler(setting.pipe, name, grid, steps),
    )


def nmse(true: Any, found: Any) -> float | None:
    """Return ``|found - true|^2 / |true|^2``; None if it is not finite."""
    true, found = (np.asarray(part, np.float64) for part in (true, found))
    value = float(np.sum((found - true) ** 2) / np.sum(true**2))
    return value if np.isfinite(value) else None


def fits(pipe: Any, cell: Cell) -> bool:
    """Return whether a model has the decoder of a cell: models of pixels have none."""
    return pipe.vae is not None or cell["decoder"] == "none"


def unit(image: np.ndarray) -> np.ndarray:
    """Return 8 bits in [0, 1], and states of models of pixels as they are."""
    return image / np.float64(255) if image.dtype == np.uint8 else image


@jax.jit
def _decode(pipe: Any, latent: Any) -> Any:
    return jnp.clip(pipe.decode(latent), 0, 1)


@functools.partial(jax.jit, static_argnames="decoder")
def _latent(pipe: Any, image: Any, decoder: str) -> Any:
    return pipe.invert_decoder(image, decoder).latent
