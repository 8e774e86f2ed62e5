"""A disc in the Fourier plane of a real array: its coefficients, pairs and rings."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def disc_pairs(
    shape: tuple[int, int, int], radius: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of one coefficient of each conjugate pair, without zero."""
    u, v = np.mgrid[-radius : radius + 1, 0 : radius + 1]
    chosen = (u**2 + v**2 <= radius**2) & ((v > 0) | (u > 0))
    return u[chosen] % shape[0], v[chosen] % shape[1]


def modulus(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the modulus of every frequency of the plane."""
    u, v = ((np.arange(n) + n // 2) % n - n // 2 for n in shape[:2])
    return np.hypot(u[:, None], v[None, :])


def ring_numbers(shape: tuple[int, int, int], radius: int) -> np.ndarray:
    """Return the number of each pair's ring, starting from 1."""
    moduli = modulus(shape)[disc_pairs(shape, radius)]
    return np.maximum(np.ceil(moduli - 1e-9).astype(int), 1)


def ring_weights(shape: tuple[int, int, int], radius: int) -> np.ndarray:
    """Return the matrix that maps the coordinates of a disc to means over rings.

    A coordinate that is sqrt 2 times a real part counts twice, because it stands for a
    pair of coefficients.
    """
    ring = ring_numbers(shape, radius)
    weights = np.zeros((radius, 1 + 2 * len(ring)))
    weights[0, 0] = 1
    weights[ring - 1, 1 + np.arange(len(ring))] = 2**0.5
    counts = np.bincount(ring - 1, minlength=radius) * 2.0
    counts[0] += 1
    return np.asarray(weights / counts[:, None], np.float32)


def circle_basis(shape: tuple[int, int, int], radius: int) -> np.ndarray:
    """Return orthonormal rows that are real and constant on each circle."""
    rows, columns = disc_pairs(shape, radius)
    moduli = np.concatenate([[0.0], modulus(shape)[rows, columns]])
    same = np.unique(moduli)[:, None] == moduli
    rows_of = np.concatenate([same, np.zeros((len(same), len(rows)))], axis=1)
    basis = rows_of / np.linalg.norm(rows_of, axis=1, keepdims=True)
    return np.asarray(basis, np.float32)


def disc_plane(values: Array, shape: tuple[int, int, int], radius: int) -> Array:
    """Return the real array with these coordinates and zeros outside the disc."""
    rows, columns = disc_pairs(shape, radius)
    count = len(rows)
    pairs = jax.lax.complex(values[1 : 1 + count], values[1 + count :]) / 2**0.5
    spectrum = jnp.zeros(shape[:2], pairs.dtype)
    spectrum = spectrum.at[0, 0].set(values[0])
    spectrum = spectrum.at[rows, columns].set(pairs)
    spectrum = spectrum.at[-rows % shape[0], -columns % shape[1]].set(pairs.conj())
    return jnp.fft.ifft2(spectrum, norm="ortho").real
