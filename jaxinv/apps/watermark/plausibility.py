r"""Plausibility: whether a latent can be the noise of an image.

A p-value measures the closeness of a latent to a key. It does not show that the latent
is the noise of any image, and for a key of zeros it is meaningless if it is not. A few
figures of the *unmarked* coefficients are therefore checked first, by channel (except
the mean of a channel, which depends on the brightness of the image):

* the mean power (1 for unit noise);
* the spectral flatness, geometric over arithmetic mean of the power |F|^2, as its
  logarithm (-0.577, minus Euler's constant, for white noise; far below for smooth or
  periodic arrays; 0 for a single spike);
* the kurtosis of the values (3 for Gaussian noise);
* the power of the marked band over that of the rest of its channel;
* for a key of zeros and a quiet band, the share of the remaining power in circles: the
  band of a weak ring key is quiet, too.

Recovered noise is not perfectly white, least of all for edited images. The bounds are
therefore wide. They contain all but one, marked by a key of zeros, of 720 noises that
were recovered from marked and unmarked images of ``emoji64``, by exact and naive
inversion, with known and unknown prompts, after JPEG, blur, noise, crops, rotations and
brightening (``benchmarks/results/watermark_judgement.md``). Other models have not been
measured.
The bounds are only a sanity check: a latent within them may still not be noise, and the
p-values of keys that were drawn at random do not depend on them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxinv.analysis.plausibility import power_spectrum

#: Bounds of the mean power of a channel, outside the mark.
POWER = (0.25, 6.0)
#: The same bounds for the channel that carries a Tree-Ring.
MARKED_POWER = (0.4, 2.5)
#: Bounds of the logarithm of the flatness, relative to white noise, without chance.
FLATNESS = (-0.577 - 1.0, -0.577)
#: Standard deviation of the logarithm of an exponential variable, pi / sqrt 6.
_LOG_DEVIATION = 1.283
_DEVIATIONS = 3.5
KURTOSIS = (1.4, 20.0)
#: Bounds of the band's power relative to its surroundings; the lower times the key's.
BAND = (0.05, 100.0)
#: Bound of the mean square in circles relative to the rest, in a band of zeros.
CIRCLES = 20.0


class NoiseFigures(NamedTuple):
    """Statistics of a latent apart from its mark.

    Attributes:
        power: Mean power of the unmarked coefficients of each channel, shape (c,).
        log_flatness: Logarithm of their spectral flatness, shape (c,).
        kurtosis: Kurtosis of each channel's values, shape (c,).
        unmarked: Number of unmarked coefficients, shape (c,).
        marked: Whether a channel carries a band, shape (c,).
        band: Power of the band relative to the rest of its channel, shape (); 1 without
            a band.
        key: Power of the key, at most 1, shape (); 0 for a key of zeros and without a
            band.
        circles: In a quiet band and for a key of zeros, the mean square of the part
            that only depends on the modulus of the frequency, relative to the rest,
            shape (); 1 otherwise.
    """

    power: Float[Array, "c"]
    log_flatness: Float[Array, "c"]
    kurtosis: Float[Array, "c"]
    unmarked: Float[Array, "c"]
    marked: Bool[Array, "c"]
    band: Float[Array, ""]
    key: Float[Array, ""]
    circles: Float[Array, ""]


def noise_figures(
    noise: Float[Array, "h w c"],
    inside: Bool[np.ndarray, "h w"] | None = None,
    channel: int | None = None,
    key_power: Float[Array, ""] | float = 0.0,
) -> NoiseFigures:
    """Compute the statistics of a latent.

    Args:
        noise: The latent.
        inside: The Fourier coefficients that carry the mark, or None.
        channel: The channel of the mark.
        key_power: Mean square of the key's coordinates.

    Returns:
        The figures; see :func:`doubts`.
    """
    height, width, channels = noise.shape
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    outside = np.ones((height, width, channels), bool)
    outside[0, 0] = False  # this depends on the brightness of the image
    marked = np.zeros(channels, bool)
    if inside is not None and channel is not None:
        outside[..., channel] = ~inside
        marked[channel] = True
    power = power_spectrum(noise)
    count = outside.sum((0, 1))
    mean = jnp.sum(power, (0, 1), where=outside) / count
    tiny = np.finfo(np.float32).tiny
    logs = jnp.log(jnp.maximum(power, tiny))
    log_flatness = jnp.sum(logs, (0, 1), where=outside) / count
    log_flatness -= jnp.log(jnp.maximum(mean, tiny))
    centered = noise - jnp.mean(noise, (0, 1))
    # In units of the largest value, so that nothing overflows.
    centered /= jnp.maximum(jnp.max(jnp.abs(centered), (0, 1)), tiny)
    second, fourth = (jnp.mean(centered**n, (0, 1)) for n in (2, 4))
    band, key = jnp.ones((), mean.dtype), jnp.zeros((), mean.dtype)
    if inside is not None and channel is not None:
        found = jnp.mean(power[..., channel], where=inside)
        band = found / jnp.maximum(mean[channel], tiny)
        key = jnp.minimum(jnp.asarray(key_power, mean.dtype), 1)
    return NoiseFigures(
        mean,
        log_flatness,
        fourth / second**2,
        jnp.asarray(count, mean.dtype),
        jnp.asarray(marked),
        band,
        key,
        jnp.ones((), mean.dtype),
    )


def doubts(figures: NoiseFigures) -> dict[str, Bool[np.ndarray, "..."]]:
    """List the reasons against a latent being noise, and whether they apply.

    Args:
        figures: The result of :func:`noise_figures`, or a batch of results.

    Returns:
        Whether each reason applies, in the order of precedence. NaN counts as a reason.
    """
    power, flat, kurtosis, unmarked, marked, band, key, circles = (
        np.asarray(part, np.float64) for part in figures
    )
    chance = _DEVIATIONS * _LOG_DEVIATION / np.sqrt(unmarked / 2)
    low = np.where(marked > 0, MARKED_POWER[0], POWER[0])
    high = np.where(marked > 0, MARKED_POWER[1], POWER[1])
    return {
        "its power is not that of unit noise": _beyond(power, low, high),
        "its spectrum is not that of white noise": _beyond(
            flat, FLATNESS[0] - chance, FLATNESS[1] + chance
        ),
        "its values are not distributed like noise": _beyond(
            kurtosis, np.asarray(KURTOSIS[0]), np.asarray(KURTOSIS[1])
        ),
        "the marked band is far quieter than noise or this key would be": ~(
            band >= BAND[0] * key
        ),
        "the marked band is far louder than noise and keys are": ~(band <= BAND[1]),
        "the marked band holds rings, as of another key": ~(circles <= CIRCLES),
    }


def _beyond(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.any(~((values >= low) & (values <= high)), axis=-1)
