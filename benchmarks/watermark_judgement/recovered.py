"""Noises recovered from pictures of emoji64, for :mod:`benchmarks.watermark_judgement`.

Pictures are made from unmarked and from marked noise (a key of its own for each), with
the command line's defaults (DDIM, 20 steps, log-SNR grid, guidance 3), rounded to 8
bits, attacked, and inverted. The noises are kept in a file, so that they are scored by
any statistic without inverting anything twice.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.samples import PROMPTS
from benchmarks.watermark_judgement.latents import CHANNEL, DISC, RADIUS, SHAPE
from jaxinv.apps import watermark
from jaxinv.apps.attacks import ATTACKS
from jaxinv.files.image_reading import to_uint8

GUIDANCE = 3.0
SCHEMES = ("plain", "random", "ring", "zeros", "shading")
UNKNOWN, UNGUIDED = "prompt unknown", "prompt, guidance 1"
COPIED, REPLAYED = "disc copied", "noise copied"
#: For each inverse: strategy, decoder inversion, and what happens to the pictures.
PLANS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "naive": ("naive", "anderson", (*ATTACKS, UNKNOWN, UNGUIDED)),
    "naive, encoder": ("naive", "encoder", ("none",)),
    "auto": (
        *("auto", "anderson"),
        ("none", UNKNOWN, UNGUIDED, COPIED, REPLAYED),
    ),
}


class Recovered(NamedTuple):
    """Noises that were found in pictures.

    Attributes:
        inverse: A name of ``PLANS``.
        hardship: What happened to the pictures.
        schemes: Of each picture's mark.
        indices: Of each picture, and of its key.
        noises: Found by inversion.
        truth: From which the pictures were made.
    """

    inverse: str
    hardship: str
    schemes: np.ndarray
    indices: np.ndarray
    noises: np.ndarray
    truth: np.ndarray


def make_key(scheme: str, index: int) -> Any:
    """Return the key of a picture; None for an unmarked one."""
    if scheme == "plain":
        return None
    if scheme == "shading":
        rng = np.random.default_rng(index)
        return watermark.gaussian_shading_key(
            SHAPE,
            blocks=(4, 4, 1),
            message=rng.integers(0, 2, 64),
            secret=rng.bytes(48),
        )
    seed = jax.random.key(1_000 + index)
    return watermark.tree_ring_key(seed, SHAPE, radius=RADIUS, pattern=scheme)  # type: ignore[arg-type]


class Setting:
    """The model, the sampler, and the pictures."""

    def __init__(self, count: int) -> None:
        self.pipe = ji.load("emoji64")
        self.sampler = ji.ddim(ji.time_grid(self.pipe.schedule, 20, "log_snr"))
        self.vectors = jnp.stack([self.pipe.encode_prompt(text) for text in PROMPTS])
        self.empty = self.pipe.encode_prompt("")
        self.schemes = np.repeat(SCHEMES, count)
        self.indices = np.tile(np.arange(count), len(SCHEMES))
        drawn = [
            jax.random.normal(jax.random.fold_in(jax.random.key(77), i), SHAPE)
            for i in range(count)
        ]
        marked = []
        for scheme, index in zip(self.schemes, self.indices, strict=True):
            key = make_key(scheme, int(index))
            marked.append(drawn[index] if key is None else key.embed(drawn[index]))
        self.truth = np.stack(marked)

    def prompts(self, offset: int = 0) -> Any:
        """Vectors of the pictures' prompts, or of others."""
        return self.vectors[(self.indices + offset) % len(PROMPTS)]

    def pictures(self, noises: np.ndarray, vectors: Any) -> np.ndarray:
        """Eight bits."""
        return to_uint8(np.asarray(self._make(self.pipe, jnp.asarray(noises), vectors)))

    def _make(self, pipe: Any, noises: Any, vectors: Any) -> Any:
        return _made(pipe, self.sampler, noises, vectors, self.empty)

    def recover(
        self, plan: str, hardship: str, copies: np.ndarray | None = None
    ) -> Recovered:
        """Attack and invert all pictures.

        Args:
            plan: A name of ``PLANS``.
            hardship: What happens to the pictures.
            copies: Noises that were recovered from the pictures, of which a forger
                makes other ones, with other prompts.
        """
        strategy, decoder, _ = PLANS[plan]
        noises, vectors = self.truth, self.prompts()
        if hardship in (COPIED, REPLAYED):
            noises, vectors = forged(hardship, copies), self.prompts(3)
        pixels = self.pictures(noises, vectors)
        if hardship in ATTACKS:
            pixels = np.stack([ATTACKS[hardship](picture) for picture in pixels])
        if hardship == UNKNOWN:
            vectors = jnp.broadcast_to(self.empty, vectors.shape)
        guidance = 1.0 if hardship in (UNKNOWN, UNGUIDED) else GUIDANCE
        scales = jnp.full(len(pixels), guidance)
        found = _inverted(
            self.pipe, self.sampler, pixels, vectors, scales, self.empty,
            strategy=strategy, decoder=decoder,
        )  # fmt: skip
        return Recovered(
            plan, hardship, self.schemes, self.indices, np.asarray(found), noises
        )


def forged(hardship: str, copies: np.ndarray | None) -> np.ndarray:
    """Fresh noise with the disc of other noises; or these noises as they are."""
    assert copies is not None
    if hardship == REPLAYED:
        return copies
    noise = np.random.default_rng(0).standard_normal(copies.shape)
    spectrum = np.fft.fft2(noise, axes=(1, 2))
    copied = np.fft.fft2(copies, axes=(1, 2))
    spectrum[:, DISC, CHANNEL] = copied[:, DISC, CHANNEL]
    return np.fft.ifft2(spectrum, axes=(1, 2)).real.astype(np.float32)


@jax.jit
def _made(pipe: Any, sampler: Any, noises: Any, vectors: Any, empty: Any) -> Any:
    def one(pair: Any) -> Any:
        noise, vector = pair
        denoise = pipe.denoiser(vector, empty, jnp.float32(GUIDANCE))
        return pipe.decode(ji.sample(sampler, denoise, noise))

    return jax.lax.map(one, (noises, vectors))


def _inverted(
    pipe: Any,
    sampler: Any,
    pixels: Any,
    vectors: Any,
    scales: Any,
    empty: Any,
    *,
    strategy: str,
    decoder: str,
) -> Any:
    @jax.jit
    def run(pipe: Any, *batch: Any) -> Any:
        def one(item: Any) -> Any:
            picture, vector, scale = item
            latent = pipe.invert_decoder(picture, decoder).latent
            denoise = pipe.denoiser(vector, empty, scale)
            schedule = pipe.schedule
            return ji.invert(
                sampler, denoise, latent, schedule=schedule, strategy=strategy
            ).noise

        return jax.lax.map(one, batch)

    return run(pipe, jnp.asarray(pixels), vectors, scales)


def recover_all(
    folder: Path, counts: dict[str, int], *, missing: bool
) -> list[Recovered]:
    """Return all noises; those that are in the folder already are read from there.

    Args:
        folder: Of the noises.
        counts: Pictures of each scheme, for each plan.
        missing: Whether those that are not there are made.

    Returns:
        The noises, plan by plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for plan, (_, _, hardships) in PLANS.items():
        setting, copies = None, None
        for hardship in hardships:
            name = f"{plan} {hardship} {counts[plan]}".replace(",", "")
            path = folder / f"{name.replace(' ', '-')}.npz"
            if not (path.exists() or missing):
                continue
            if not path.exists():
                setting = setting or Setting(counts[plan])
                one = setting.recover(plan, hardship, copies)
                np.savez(path, **one._asdict())
                print(plan, hardship, flush=True)
            with np.load(path) as file:
                one = Recovered(*(file[field] for field in Recovered._fields))
            one = one._replace(inverse=plan, hardship=hardship)
            copies = one.noises if hardship == "none" else copies
            found.append(one)
    return found
