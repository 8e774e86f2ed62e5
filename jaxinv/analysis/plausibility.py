r"""Plausibility: p-values of a noise under the hypothesis of white noise, N(0, I).

The certificate of an inversion proves that the sampler generates the data from a
noise, not that the noise is the original one: steps can have several preimages. Noise
drawn from N(0, I) is white, and another preimage often is not. Three tests measure
this, each with a p-value that is uniform on [0, 1] for white noise:

``norm``
    ``|z|^2`` has the chi-square distribution with as many degrees of freedom as there
    are values. The test is two-sided.
``spectrum``
    The orthonormal Fourier transform of white noise is white: the energy of a band of
    frequencies is chi-square with as many degrees of freedom as the band has
    coefficients. Bartlett's test compares the mean powers of bands. Each is an eighth
    of a cycle per value wide; all frequencies from the Nyquist frequency of an axis on
    are one band.
``channels``
    The channels of white noise are not correlated. Bartlett's test of sphericity
    compares the determinant of their correlation matrix R with 1.

With d[b] degrees of freedom and mean power s[b] in band b, their sum D, the mean power
s of all coefficients, B bands, and m values in each of c channels,

    spectrum:  (D log s - sum_b d[b] log s[b]) / C  ~  chi-square(B - 1),
               C = 1 + (sum_b 1/d[b] - 1/D) / (3 (B - 1)),
    channels:  -(m - 1 - (2 c + 5) / 6) log det R  ~  chi-square(c (c - 1) / 2).

The tests are nearly independent, so that of k of them the smallest p-value is combined
by Sidak's formula, ``1 - (1 - p)^k``.

Small p-values are evidence against a noise. Large ones prove nothing: another preimage
can be as white as the original (``benchmarks/results/preimages.md``).

References:
    Bartlett 1937, "Properties of Sufficiency and Statistical Tests", Proc. R. Soc. A
    160 (spectrum); Bartlett 1951, "The Effect of Standardization on a chi-square
    Approximation in Factor Analysis", Biometrika 38 (channels).
    Sidak 1967, "Rectangular Confidence Regions for the Means of Multivariate Normal
    Distributions", J. Am. Stat. Assoc. 62.
    Wilson & Hilferty 1931, "The Distribution of Chi-Square", PNAS 17 (norm).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc, ndtr
from jaxtyping import Array, Float

from jaxinv.checks import checked
from jaxinv.norms import at_least_tiny

# The width of a band and the last one's beginning, in cycles per value; and the least
# number of values in a band, with which Bartlett's approximation is accurate.
_BAND, _NYQUIST, _LEAST = 0.125, 0.5, 8


class NoisePlausibility(NamedTuple):
    """The p-values of a noise; each is uniform on [0, 1] for noise from N(0, I).

    Attributes:
        p_value: The smallest of the others, corrected for their number, shape ().
        norm: Of the norm, shape ().
        spectrum: Of the powers of frequency bands, shape ().
        channels: Of the correlations of channels, shape (); 1 for one channel.
    """

    p_value: Float[Array, ""]
    norm: Float[Array, ""]
    spectrum: Float[Array, ""]
    channels: Float[Array, ""]


@checked
def noise_plausibility(noise: Float[Array, "*shape"]) -> NoisePlausibility:
    """Test whether a noise can be a draw from N(0, I).

    Args:
        noise: One unit noise of at least two axes, channels last. Every other axis has
            frequencies. Use ``jax.vmap`` for several noises.

    Returns:
        The p-values, in float32 at least; NaN if any value is not finite.

    Raises:
        ValueError: For fewer than two axes, or too few values for two bands.

    Example:
        >>> import jax, jaxinv as ji
        >>> noise = jax.random.normal(jax.random.key(0), (16, 16, 4))
        >>> bool(ji.noise_plausibility(noise).p_value > 0.01)
        True
        >>> bool(ji.noise_plausibility(1.2 * noise).p_value < 1e-6)
        True
    """
    noise = jnp.asarray(noise)
    bands = _bands(noise.shape)
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    # The other tests do not depend on the size: in this unit nothing overflows.
    shape = noise / at_least_tiny(jnp.max(jnp.abs(noise)))
    tests = [_norm(noise), _spectrum(shape, bands)]
    channels = jnp.ones_like(tests[0])
    if noise.shape[-1] > 1:
        channels = _channels(shape)
        tests.append(channels)
    least = jnp.min(jnp.stack(tests))
    combined = -jnp.expm1(len(tests) * jnp.log1p(-least))
    return NoisePlausibility(combined, tests[0], tests[1], channels)


def power_spectrum(values: Float[Array, "*grid c"]) -> Float[Array, "*grid c"]:
    """Return ``|F|^2`` of the orthonormal transform over all axes but the last.

    Its mean is the mean square of the values, and 1 for white noise.
    """
    axes = tuple(range(values.ndim - 1))
    return jnp.abs(jnp.fft.fftn(values, axes=axes, norm="ortho")) ** 2


def _norm(noise: Array) -> Array:
    """Return the p-value of the norm, by the cube root of the mean square."""
    variance = 2 / (9 * noise.size)
    root = jnp.cbrt(jnp.mean(noise**2))
    return 2 * ndtr(-jnp.abs(root - (1 - variance)) / variance**0.5)


def _spectrum(noise: Array, bands: np.ndarray) -> Array:
    """Return the p-value of the powers of frequency bands."""
    power = jnp.mean(power_spectrum(noise), -1).reshape(-1)
    sizes = np.bincount(bands.reshape(-1)) * noise.shape[-1]
    count, total = len(sizes), sizes.sum()
    sums = jnp.zeros(count, power.dtype).at[bands.reshape(-1)].add(power)
    shares = sums * noise.shape[-1] / sizes
    pooled = at_least_tiny(jnp.sum(shares * sizes) / total)
    # Relative to the pooled power: the logarithms are then small, and so are roundings.
    statistic = -jnp.sum(sizes * jnp.log(shares / pooled))
    correction = 1 + (np.sum(1 / sizes) - 1 / total) / (3 * (count - 1))
    return _chi_square(statistic / correction, count - 1)


def _channels(noise: Array) -> Array:
    """Return the p-value of the correlations of channels."""
    c = noise.shape[-1]
    values = noise.reshape(-1, c)
    values = values - jnp.mean(values, 0)
    values = values / at_least_tiny(jnp.sqrt(jnp.sum(values**2, 0)))
    correlations = jnp.matmul(values.T, values, precision="highest")
    _, log_det = jnp.linalg.slogdet(correlations)
    factor = len(values) - 1 - (2 * c + 5) / 6
    return _chi_square(-factor * log_det, c * (c - 1) // 2)


def _chi_square(statistic: Array, degrees: int) -> Array:
    """Return the upper tail of the chi-square distribution."""
    half = jnp.asarray(degrees / 2, statistic.dtype)
    # Rounding can make a statistic of zero negative.
    return gammaincc(half, jnp.where(statistic < 0, 0, statistic) / 2)


def _bands(shape: tuple[int, ...]) -> np.ndarray:
    """Return the number of the band of every coefficient.

    Raises:
        ValueError: If there are fewer than two bands.
    """
    bands = np.zeros(shape[:-1], int)
    if len(shape) > 1 and min(shape) > 0:
        squares = np.zeros(shape[:-1])
        for axis, size in enumerate(shape[:-1]):
            line = [1] * (len(shape) - 1)
            line[axis] = size
            squares += np.fft.fftfreq(size).reshape(line) ** 2
        widths = np.minimum(np.sqrt(squares), _NYQUIST) / _BAND
        bands = _merged(np.floor(widths + 1e-9).astype(int), shape[-1])
    if bands.size == 0 or bands.max() < 1:
        raise ValueError(
            "noise must have at least two axes, channels last, and enough values for "
            f"two bands of {_LEAST}, got shape {shape}"
        )
    return bands


def _merged(bands: np.ndarray, channels: int) -> np.ndarray:
    """Return bands of at least ``_LEAST`` values, numbered from 0."""
    number, found = -1, np.zeros_like(bands)
    inside = _LEAST
    for band in range(int(bands.max()) + 1):
        here = bands == band
        if inside >= _LEAST:
            number, inside = number + 1, 0
        found[here] = number
        inside += int(here.sum()) * channels
    if inside < _LEAST and number > 0:
        found[found == number] = number - 1
    return found
