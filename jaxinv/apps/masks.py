r"""Masks: the part of an image that an edit may change.

A mask is 1 where the image may change and 0 where it must not. It can be given in
pixels, or computed from two prompts: noise is added to the image's latent, the model
predicts the noise with each prompt, and the mask is 1 where the predictions differ.

References:
    Couairon et al. 2023, "DiffEdit", arXiv:2210.11427, Section 3.2.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import AtLeastOne, Range, checked
from jaxinv.diffusion.denoiser import Denoiser, network_of
from jaxinv.diffusion.prediction import signal_and_noise, unit_factor
from jaxinv.diffusion.schedule import NoiseSchedule

_Share = Annotated[float, Range(0, 1, above=True, below=True)]


@checked
def latent_mask(mask: ArrayLike, factor: int) -> Float[np.ndarray, "h w 1"]:
    """Convert a mask of pixels to a mask of latents, by the maximum over each block.

    Args:
        mask: (H, W) or (H, W, 1), booleans or values in [0, 1].
        factor: The autoencoder's downsampling factor, which divides height and width.

    Returns:
        The largest value of each block.

    Raises:
        ValueError: For another shape, values out of range, or a factor that does not
            divide the shape.
    """
    values = np.asarray(mask, np.float32)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise ValueError(f"expected a mask of shape (h, w), got {values.shape}")
    height, width = values.shape
    if height % factor or width % factor:
        raise ValueError(
            f"height and width of a mask must be multiples of {factor}, got {height} "
            f"and {width}"
        )
    if not (np.all(np.isfinite(values)) and values.min() >= 0 and values.max() <= 1):
        raise ValueError("the values of a mask must lie in [0, 1]")
    blocks = values.reshape(height // factor, factor, width // factor, factor)
    return blocks.max((1, 3))[..., None]


@checked
def prediction_mask(
    schedule: NoiseSchedule,
    source: Denoiser,
    target: Denoiser,
    latent: Float[Array, "h w c"],
    key: PRNGKeyArray,
    *,
    strength: _Share = 0.5,
    samples: AtLeastOne = 10,
    threshold: _Share = 0.5,
) -> Float[Array, "h w 1"]:
    """Return a mask of the positions where two denoisers disagree about a latent.

    Args:
        schedule: The schedule of the model.
        source: The model with the prompt that describes the image.
        target: The model with another prompt.
        latent: The latent of the image.
        key: Random key of the noises.
        strength: Amount of noise, as a fraction of the schedule's training times.
        samples: Number of noises to average over.
        threshold: Fraction of the largest disagreement from which the mask is 1.
            Disagreements are first clipped to three times their mean.

    Returns:
        The mask, of zeros and ones.

    Raises:
        ValueError: For denoisers that do not fit the latent.

    References:
        Couairon et al. 2023, arXiv:2210.11427, Section 3.2 and Appendix A.
    """
    latent = jnp.asarray(latent)
    check_finite(latent, "latent")
    for denoise in (source, target):
        check_denoiser(denoise, latent)
    level = round(strength * (schedule.num_train_timesteps - 1))
    tau, time = schedule.taus[level], schedule.model_times[level]
    signal, noise = signal_and_noise(schedule.family, tau, schedule.sigma_data)
    # States of unit variance, in the scale of x: VP's are x, also without a signal.
    unit = unit_factor(schedule.family, tau, schedule.sigma_data)
    scale = 1.0 if schedule.family == "vp" else 1 / unit
    numbers = tuple(
        jnp.asarray(v, latent.dtype) for v in (scale * signal, scale * noise, time)
    )
    # Differences of the networks' own outputs are those of f, up to a factor that is
    # zero at pure noise.
    (first, output), (second, other) = network_of(source), network_of(target)
    if output != other:
        first, second = source, target
    models = Function.of(first), Function.of(second)
    return _disagreement(numbers, models, latent, key, samples, threshold)


@jax.jit(static_argnames="samples")
def _disagreement(
    numbers: tuple[Array, Array, Array],
    models: tuple[Function, Function],
    latent: Array,
    key: Array,
    samples: int,
    threshold: float,
) -> Array:
    source, target = models
    of_data, of_noise, time = numbers

    def difference(key: Array) -> Array:
        noise = jax.random.normal(key, latent.shape, latent.dtype)
        x = of_data * latent + of_noise * noise
        return jnp.mean(jnp.abs(source(x, time) - target(x, time)), -1, keepdims=True)

    mean = jnp.mean(jax.lax.map(difference, jax.random.split(key, samples)), 0)
    cut = jnp.minimum(mean, 3 * jnp.mean(mean))
    return (cut > threshold * jnp.max(cut)).astype(latent.dtype)
