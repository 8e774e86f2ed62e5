"""Latents without a key's mark, for :mod:`benchmarks.watermark_judgement`.

Every kind is a function of a NumPy generator, a number of latents and the pictures;
none of them knows the keys that the latents will be held against. Where they know the
mark's place (its channel and radius), as an adversary does, they are told.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

SHAPE = (16, 16, 4)
RADIUS = 3
CHANNEL = 3

Latents = np.ndarray
_ROWS, _COLUMNS = (np.rint(np.fft.fftfreq(n) * n) for n in SHAPE[:2])
_MODULUS = np.hypot(_ROWS[:, None], _COLUMNS)
DISC = _MODULUS <= RADIUS


def white(rng: np.random.Generator, count: int) -> Latents:
    return rng.standard_normal((count, *SHAPE))


def _amplitudes(rng: np.random.Generator, count: int, low: float, high: float) -> Any:
    return np.exp(rng.uniform(np.log(low), np.log(high), (count, 1, 1, 1)))


def _filtered(latents: Latents, gain: np.ndarray) -> Latents:
    """Multiply the Fourier coefficients; of unit power again."""
    spectrum = np.fft.fft2(latents, axes=(1, 2)) * gain[..., None]
    found = np.fft.ifft2(spectrum, axes=(1, 2)).real
    return found / np.sqrt(np.mean(found**2, (1, 2, 3), keepdims=True))


def constant(rng: np.random.Generator, count: int) -> Latents:
    """Each channel a number, from 0.1 to 100."""
    values = rng.standard_normal((count, 1, 1, SHAPE[2]))
    return np.broadcast_to(values * _amplitudes(rng, count, 0.1, 100), (count, *SHAPE))


def smooth(rng: np.random.Generator, count: int) -> Latents:
    """Blurred noise, from 0.3 to 3."""
    width = rng.uniform(0.7, 6, (count, 1, 1))
    gain = np.exp(-((_MODULUS / width) ** 2) / 2)
    return _filtered(white(rng, count), gain) * _amplitudes(rng, count, 0.3, 3)


def checkered(rng: np.random.Generator, count: int) -> Latents:
    """Squares of 1 to 4, from 0.1 to 10, in up to as much noise."""
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    size = rng.choice([1, 2, 4], (count, 1, 1))
    board = 1.0 - 2 * ((row // size + column // size) % 2)
    signs = rng.choice([-1, 1], (count, 1, 1, SHAPE[2]))
    noise = rng.uniform(0, 1, (count, 1, 1, 1)) * white(rng, count)
    return (board[..., None] * signs + noise) * _amplitudes(rng, count, 0.1, 10)


def one_frequency(rng: np.random.Generator, count: int) -> Latents:
    """Return a wave in each channel, from 0.1 to 100."""
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]][:2]
    u, v = rng.integers(0, 9, (2, count, 1, 1, SHAPE[2]))
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, SHAPE[2]))
    wave = np.cos(2 * np.pi * (u * row / SHAPE[0] + v * column / SHAPE[1]) + phase)
    return wave * _amplitudes(rng, count, 0.1, 100)


def step_edges(rng: np.random.Generator, count: int) -> Latents:
    """Half planes in each channel, from 0.1 to 10, in up to a tenth of noise."""
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]][:2]
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1, SHAPE[2]))
    place = rng.uniform(-4, 4, (count, 1, 1, SHAPE[2]))
    height = np.cos(angle) * (row - 7.5) + np.sin(angle) * (column - 7.5)
    noise = rng.uniform(0, 0.1, (count, 1, 1, 1)) * white(rng, count)
    return (np.sign(height - place) + noise) * _amplitudes(rng, count, 0.1, 10)


def empty_band(rng: np.random.Generator, count: int) -> Latents:
    """Noise without the disc, too loud (1.8 to 100) or too faint (0.1 to 0.55)."""
    loud = rng.random((count, 1, 1, 1)) < 0.7
    amplitudes = np.where(
        loud, _amplitudes(rng, count, 1.8, 100), _amplitudes(rng, count, 0.1, 0.55)
    )
    return empty_marked_band(rng, count) * amplitudes


def empty_marked_band(rng: np.random.Generator, count: int) -> Latents:
    """Noise without the disc, in the marked channel or (half of them) in all.

    With a key of zeros the first *are* the mark.
    """
    noise = white(rng, count)
    kept = _filtered_disc(noise, 0.0)
    alone = rng.random(count) < 0.5
    kept[alone, ..., :CHANNEL] = noise[alone, ..., :CHANNEL]
    return kept


def _filtered_disc(latents: Latents, gain: float) -> Latents:
    spectrum = np.fft.fft2(latents, axes=(1, 2))
    spectrum[:, DISC] *= gain
    return np.fft.ifft2(spectrum, axes=(1, 2)).real


def blue(rng: np.random.Generator, count: int) -> Latents:
    """Noise whose power rises with the frequency, from 0.3 to 3."""
    power = rng.uniform(0.3, 3, (count, 1, 1))
    gain = (np.maximum(_MODULUS, 0.1) / 8) ** power
    return _filtered(white(rng, count), gain) * _amplitudes(rng, count, 0.3, 3)


def other_rings(rng: np.random.Generator, count: int) -> Latents:
    """Noise with a real number on each circle of the disc, of 0.2 to 1.5.

    Weaker ones are a band of zeros, as well as that is ever found again.
    """
    circles, which = np.unique(np.hypot(_ROWS[:, None], _COLUMNS), return_inverse=True)
    strength = rng.uniform(0.2, 1.5, (count, 1))
    values = strength * rng.standard_normal((count, len(circles)))
    spectrum = np.fft.fft2(white(rng, count), axes=(1, 2), norm="ortho")
    rings = values[:, which.reshape(_MODULUS.shape)]
    spectrum[:, DISC, CHANNEL] = rings[:, DISC]
    return np.fft.ifft2(spectrum, axes=(1, 2), norm="ortho").real


def quantized(rng: np.random.Generator, count: int) -> Latents:
    """Noise in 3 to 8 bits."""
    levels = 2.0 ** rng.integers(3, 9, (count, 1, 1, 1))
    return np.round(np.clip(white(rng, count), -4, 4) / 8 * levels) * 8 / levels


def sparse(rng: np.random.Generator, count: int) -> Latents:
    """Return a few spikes of unit power, some without the disc."""
    share = rng.uniform(0.002, 0.2, (count, 1, 1, 1))
    spikes = (rng.random((count, *SHAPE)) < share) * rng.choice(
        [-1, 1], (count, *SHAPE)
    )
    return _emptied(rng, spikes / np.sqrt(share))


def signs(rng: np.random.Generator, count: int) -> Latents:
    """Plus and minus 1, some without the disc."""
    return _emptied(rng, rng.choice([-1.0, 1.0], (count, *SHAPE)))


def _emptied(rng: np.random.Generator, latents: Latents) -> Latents:
    empty = rng.random(len(latents)) < 0.25
    latents[empty] = _filtered_disc(latents[empty], 0.0) * 2
    return latents


def shifted(rng: np.random.Generator, count: int) -> Latents:
    """Noise and a constant, from 0.1 to 10."""
    offset = rng.standard_normal((count, 1, 1, SHAPE[2]))
    return white(rng, count) + offset * _amplitudes(rng, count, 0.1, 10)


def scaled(rng: np.random.Generator, count: int) -> Latents:
    """Noise from 0.1 to 10."""
    return white(rng, count) * _amplitudes(rng, count, 0.1, 10)


def pictures_as_latents(
    rng: np.random.Generator, count: int, arrays: np.ndarray
) -> Latents:
    """Turn, mirror, shift and scale a latent."""
    chosen = arrays[rng.integers(0, len(arrays), count)]
    latents = []
    for latent in chosen:
        turned = np.rot90(latent, rng.integers(4))[:, :: rng.choice([-1, 1])]
        latents.append(np.roll(turned, rng.integers(0, 16, 2), (0, 1)))
    found = np.stack(latents)
    # Centered or not; of unit power or their own.
    mean = np.mean(found, (1, 2), keepdims=True)
    found = found - mean * rng.integers(0, 2, (count, 1, 1, 1))
    own = rng.random((count, 1, 1, 1)) < 0.5
    power = np.sqrt(np.mean(found**2, (1, 2, 3), keepdims=True))
    return np.where(own, found, found / power)


KINDS: dict[str, Callable[[np.random.Generator, int], Latents]] = {
    "white": white,
    "white, 0.1 to 10": scaled,
    "white and a constant": shifted,
    "white in 3 to 8 bits": quantized,
    "constant": constant,
    "smooth": smooth,
    "checkered": checkered,
    "one frequency": one_frequency,
    "step edges": step_edges,
    "blue": blue,
    "spikes": sparse,
    "signs": signs,
    "empty band, loud or faint rest": empty_band,
    "empty band, plausible rest": empty_marked_band,
    "circles in the disc": other_rings,
}


def all_kinds(
    seed: int, count: int, arrays: dict[str, np.ndarray]
) -> Iterator[tuple[str, Latents]]:
    """Every kind, drawn by a generator of its own.

    Args:
        seed: Of the generators.
        count: Of each kind.
        arrays: Pictures in the shape of latents, by name.

    Yields:
        Names and latents, of shape (count, 16, 16, 4), float32.
    """
    for number, (name, draw) in enumerate(KINDS.items()):
        rng = np.random.default_rng([seed, number])
        yield name, draw(rng, count).astype(np.float32)
    for number, (name, some) in enumerate(arrays.items()):
        rng = np.random.default_rng([seed, 1_000 + number])
        yield name, pictures_as_latents(rng, count, some).astype(np.float32)
