r"""The watermark keys of the papers' code, with their masks.

A key replaces part of the centered Fourier spectrum of a noise (*complex*), or of the
noise itself (*seed*), and is recognized by the mean modulus of the difference within
its mask. This is the published form: the mask is a disc or a square, in one channel or
in all. The published disc is centered one row off (31 of 64), and squares of an even
side have no center, so that no real noise can contain the key exactly: with six rings,
noises with the first of the published keys are nearest to the second one, even if they
are known exactly. A disc can therefore also be *centered* at frequency zero, as in
:mod:`jaxinv.apps.watermark`, which has a test with a known distribution, too.

The spectrum is orthonormal here. The code's numbers belong to unnormalized spectra of
latents of 64x64, which are 64 times as large; so are its distances.

References:
    Wen et al. 2023, "Tree-Ring Watermarks", arXiv:2305.20030, and its repository,
    YuxinWenRick/tree-ring-watermark (patterns, masks, measure).
    Hong et al. 2024, arXiv:2311.18387 and arXiv:2409.18442, and their repositories,
    smhongok/inv-dpm and smhongok/dec-inv, main_watermark_detection.py (ring numbers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PATTERNS = ("zeros", "const", "rand", "ring", "seed_zeros", "seed_rand", "seed_ring")
#: Side of the latents that the published numbers belong to.
SIDE = 64
#: What the numbers of rings are multiplied by, in unnormalized spectra.
CONST = 80
RADIUS = 6
#: smhongok/inv-dpm: numbers of three keys, from the smallest ring to the largest.
INV_DPM = (
    (1.1, 0.8, 1.2, 0.9, 0.6, 1.4, 1.2, 0.8, 1.1, 0.9),
    (1.1, 0.6, 1.1, 1.2, 0.8, 1.2, 1.1, 0.9, 0.9, 1.1),
    (0.7, 1.2, 1.3, 0.8, 0.9, 1.1, 0.8, 1.2, 1.3, 0.7),
)
#: smhongok/dec-inv: the same numbers for six rings, twice as far from 1.
DEC_INV = tuple(tuple(2 * n - 1 for n in numbers[:RADIUS]) for numbers in INV_DPM)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PublishedKey:
    """A key as in the papers' code. A pytree.

    Attributes:
        values: The pattern, shape (h, w, c): complex, or real for *seed* patterns.
        mask: Where it is, shape (h, w, c).
    """

    values: Any
    mask: Any

    def embed(self, noise: Any) -> Any:
        """Return a noise of shape (h, w, c) with the key in its place."""
        plane = jnp.where(self.mask, self.values, self._plane(noise))
        return plane if self._seed else _noise_of(plane).astype(noise.dtype)

    def distance(self, noise: Any) -> Any:
        """Return the mean modulus of the difference in the mask, shape ()."""
        return jnp.mean(jnp.abs(self._plane(noise) - self.values), where=self.mask)

    @property
    def _seed(self) -> bool:
        return not jnp.iscomplexobj(self.values)

    def _plane(self, noise: Any) -> Any:
        return noise if self._seed else _spectrum(noise)


def published_key(
    pattern: str,
    key: Any,
    shape: tuple[int, int, int],
    *,
    radius: int = RADIUS,
    square: bool = False,
    channel: int = 0,
    const: float = 0.0,
) -> PublishedKey:
    """Return a key with one of the published patterns.

    Args:
        pattern: One of ``PATTERNS``: in the spectrum 0, a constant, that of another
            noise, or its rings; *seed*: the same in the noise itself.
        key: Random key of the other noise.
        shape: (h, w, c) of the noises.
        radius: Of the disc; half of the side of the square.
        square: Whether the mask is a square.
        channel: The marked channel; -1 for all.
        const: The constant, as in the code: in unnormalized spectra of 64x64.

    Raises:
        ValueError: For an unknown pattern.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"expected a pattern of {', '.join(PATTERNS)}, got {pattern}")
    noise = jax.random.normal(key, shape)
    values = noise if pattern.startswith("seed") else _spectrum(noise)
    if pattern.endswith("zeros"):
        values = 0 * values
    elif pattern == "const":
        values = jnp.full_like(values, const / SIDE)
    elif pattern.endswith("ring"):
        # As published: the numbers of each channel's first row.
        rings = jnp.stack([values[0, i] for i in range(1, radius + 1)])
        values = _rings(values, rings)
    plane = (_square if square else disc)(shape[0], radius)
    return PublishedKey(values, _in_channels(plane, shape[2], channel))


def ring_key(
    numbers: Sequence[float],
    shape: tuple[int, int, int],
    *,
    channel: int = 0,
    centered: bool = False,
) -> PublishedKey:
    """Return a key of rings of given numbers, such as those of ``DEC_INV``.

    Args:
        numbers: One for each ring, from the smallest.
        shape: (h, w, c) of the noises.
        channel: The marked channel; -1 for all.
        centered: Whether the disc is centered at frequency zero, not as published.
    """
    rings = jnp.asarray(numbers, jnp.complex64)[:, None] * (CONST / SIDE)
    values = _rings(jnp.zeros(shape, jnp.complex64), rings, centered)
    plane = disc(shape[0], len(numbers), centered)
    return PublishedKey(values, _in_channels(plane, shape[2], channel))


def disc(size: int, radius: int, centered: bool = False) -> np.ndarray:
    """Return a disc; the published one is one row above the center of the spectrum."""
    rows, columns = np.ogrid[:size, :size]
    rows = rows if centered else rows[::-1]
    return (columns - size // 2) ** 2 + (rows - size // 2) ** 2 <= radius**2


def _rings(values: Any, rings: Any, centered: bool = False) -> Any:
    """Return values with one number for each ring and channel, shape (r, c)."""
    for i in range(len(rings), 0, -1):
        inside = disc(len(values), i, centered)[..., None]
        values = jnp.where(inside, rings[i - 1], values)
    return values


def _square(size: int, radius: int) -> np.ndarray:
    found = np.zeros((size, size), bool)
    middle = slice(size // 2 - radius, size // 2 + radius)
    found[middle, middle] = True
    return found


def _in_channels(plane: np.ndarray, channels: int, channel: int) -> np.ndarray:
    every = np.ones(channels, bool)
    return plane[..., None] & (every if channel < 0 else np.arange(channels) == channel)


def _spectrum(noise: Any) -> Any:
    return jnp.fft.fftshift(jnp.fft.fft2(noise, axes=(0, 1), norm="ortho"), axes=(0, 1))


def _noise_of(spectrum: Any) -> Any:
    plane = jnp.fft.ifftshift(spectrum, axes=(0, 1))
    return jnp.fft.ifft2(plane, axes=(0, 1), norm="ortho").real
