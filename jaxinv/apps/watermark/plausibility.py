r"""Could this be noise that inverting a picture gives?

A p-value says how near a latent is to a key. It does not say that the latent is the
noise of any picture, and against a key of zeros it means nothing unless it is. So a few
figures of the *unmarked* coefficients are looked at first, by channel (the mean of a
channel apart, which a brighter picture shifts):

* the mean power (1 for unit noise);
* the spectral flatness, geometric over arithmetic mean of the power |F|^2, as its
  logarithm (-0.577, minus Euler's constant, for white noise; far below for smooth or
  periodic arrays; 0 for a single spike);
* the kurtosis of the values (3 for Gaussian noise);
* the power of the marked band over that of the rest of its channel;
* and, for a key of zeros and a quiet band, how much of what is left in it is in
  circles: a weak ring key is quiet, too.

What inversion finds is not perfectly white, least of all in pictures that were edited.
The bounds are therefore wide. They were set after looking at 1,240 noises recovered
from marked and unmarked pictures of ``emoji64``, by exact and naive inverses, with
prompts known and unknown, after JPEG, blur, noise, crops, turns and brightening, so
that all marked ones lie within them (``benchmarks/results/watermark_judgement.md``).
Other models have not been measured. They are bounds of sanity: what lies within may
still not be noise, and the p-values of keys that were drawn at random do not rely on
them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

#: Mean power of a channel, outside of the mark.
POWER = (0.25, 6.0)
#: Of the channel that carries a Tree-Ring.
MARKED_POWER = (0.4, 2.5)
#: Logarithm of the flatness around that of white noise, beside what chance adds.
FLATNESS = (-0.577 - 1.0, -0.577)
#: Standard deviation of the logarithm of an exponential variable, pi / sqrt 6.
_LOG_DEVIATION = 1.283
_DEVIATIONS = 3.5
KURTOSIS = (1.4, 20.0)
#: Power of the band over that of its surroundings; the lower bound times the key's.
BAND = (0.05, 100.0)
#: Mean square in circles over that beside them, in a band of zeros.
CIRCLES = 20.0


class NoiseFigures(NamedTuple):
    """What a latent looks like, apart from its mark.

    Attributes:
        power: shape (c,). Mean power of the unmarked coefficients of each channel.
        log_flatness: shape (c,). Logarithm of their spectral flatness.
        kurtosis: shape (c,). Of each channel's values.
        unmarked: shape (c,). Number of unmarked coefficients.
        marked: shape (c,). Whether a channel carries a band.
        band: shape (). Power of the band over that of the rest of its channel; 1 where
            there is no band.
        key: shape (). The key's, at most 1; 0 for a key of zeros and where there is no
            band.
        circles: shape (). In a quiet band and for a key of zeros, the mean square of
            what depends on the modulus of the frequency alone, over that of the rest; 1
            otherwise.
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
    """Measure a latent.

    Args:
        noise: the latent.
        inside: the Fourier coefficients that carry the mark; None if none does.
        channel: of the mark.
        key_power: mean square of the key's coordinates.

    Returns:
        The figures; see :func:`doubts`.
    """
    height, width, channels = noise.shape
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    outside = np.ones((height, width, channels), bool)
    outside[0, 0] = False  # a brighter picture is no less noisy
    marked = np.zeros(channels, bool)
    if inside is not None and channel is not None:
        outside[..., channel] = ~inside
        marked[channel] = True
    power = jnp.abs(jnp.fft.fft2(noise, axes=(0, 1), norm="ortho")) ** 2
    count = outside.sum((0, 1))
    mean = jnp.sum(power, (0, 1), where=outside) / count
    tiny = np.finfo(np.float32).tiny
    logs = jnp.log(jnp.maximum(power, tiny))
    log_flatness = jnp.sum(logs, (0, 1), where=outside) / count
    log_flatness -= jnp.log(jnp.maximum(mean, tiny))
    centered = noise - jnp.mean(noise, (0, 1))
    # In units of the largest value: no overflow, whatever the scale.
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
    """Say what speaks against a latent being noise.

    Args:
        figures: from :func:`noise_figures`; a batch of them, too.

    Returns:
        For each reason, in the order in which they count, whether it holds. Figures
        that are not numbers are a reason.
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
        "its values are not distributed as noise is": _beyond(
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
