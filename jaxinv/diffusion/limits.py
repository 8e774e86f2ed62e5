"""Limits of a model's data prediction, for models of pixels.

diffusers calls them ``clip_sample`` and ``thresholding``, and applies them in its
schedulers. Here they are functions of the denoiser: a limited model is a model like any
other, on which every sampler and every inverse works.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.checks import Positive, Range, checked
from jaxinv.diffusion.denoiser import (
    ConditionalModel,
    Denoiser,
    Predicts,
    TrainingLevels,
    network_of,
)
from jaxinv.diffusion.prediction import (
    Output,
    prediction_weights,
)
from jaxinv.diffusion.schedule import NoiseSchedule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Limited:
    """A network's data prediction, clipped or thresholded.

    Attributes:
        model: The network.
        levels: The noise levels of its times.
        output: What it predicts (static).
        limit: Its output with the limit (static).
        gains: Times, and weights at them of what the limit changes; None for ones. See
            :func:`keeping_noise`.
    """

    model: Callable[..., Array]
    levels: TrainingLevels
    output: Output | None = dataclasses.field(metadata={"static": True})
    limit: Output = dataclasses.field(metadata={"static": True})
    gains: tuple[Array | np.ndarray, Array | np.ndarray] | None = None

    def __call__(
        self, x: Float[Array, "..."], t: Float[Array, ""], *condition: Any
    ) -> Array:
        unit, *level = self.levels.at(t, x.dtype, self.output)
        weights = prediction_weights(self.output, self.levels.family, *level).data
        of_u, of_output = map(jnp.asarray, weights)
        data = of_u * unit * x + of_output * self.model(x, t, *condition)
        limited = _limited(data, self.limit)
        if self.gains is None:
            return limited
        times, gains = (jnp.asarray(v, x.dtype) for v in self.gains)
        gain = jnp.interp(jnp.asarray(t, x.dtype), times, gains)
        return data + gain * (limited - data)


def _limited(data: Float[Array, "*shape"], limit: Output) -> Float[Array, "*shape"]:
    """Clip or threshold a data prediction."""
    if limit.threshold is None:
        assert limit.clip is not None, "one of them is given"
        return jnp.clip(data, -limit.clip, limit.clip)
    ratio, largest = limit.threshold
    # Quantiles of float16 lose digits, and float64 stays.
    sizes = jnp.abs(data).astype(jnp.promote_types(data.dtype, jnp.float32))
    s = jnp.clip(jnp.quantile(sizes, ratio), 1.0, largest).astype(data.dtype)
    return jnp.clip(data, -s, s) / s


def keeping_noise(
    network: Any, times: Array | np.ndarray, gains: Array | np.ndarray
) -> Any:
    r"""Return a limited network for steps that take the noise from before the limit.

    diffusers' DDIM steps with the limited data L(D) and the noise e of the network
    itself. With the weights of a table, ``u' = a u + b D = p D + q e``, that is

        u' = p L(D) + q e = a u + b (D + g (L(D) - D)),    g = p / b.

    Args:
        network: From :func:`clipped` or :func:`thresholded`, by :func:`network_of`.
        times: Times of the rows, increasing.
        gains: g of each row.
    """
    if isinstance(network, _Limited):
        return dataclasses.replace(network, gains=(times, gains))
    inner = keeping_noise(network.model, times, gains)
    return dataclasses.replace(network, model=inner)


@checked
def clipped(
    denoise: Denoiser | ConditionalModel, schedule: NoiseSchedule, clip: Positive = 1.0
) -> Denoiser:
    """Clip a model's data prediction, for models of pixels.

    diffusers calls this ``clip_sample``. A clipped model is a model like any other,
    with a derivative of zero where it clips: every sampler and every inverse works on
    it.

    Args:
        denoise: A denoiser of the schedule, from :func:`as_denoiser` unless it returns
            f.
        schedule: The schedule that the model was trained with.
        clip: The data prediction is clipped to [-clip, clip].

    Returns:
        A denoiser that predicts the clipped data, for samplers of
        :func:`jaxinv.sampler_from_diffusers` that clip, and for all others.
    """
    return _limiting(denoise, schedule, Output("sample", clip=float(clip)))


@checked
def thresholded(
    denoise: Denoiser | ConditionalModel,
    schedule: NoiseSchedule,
    ratio: Annotated[float, Range(0, 1)] = 0.995,
    largest: Positive = 1.0,
) -> Denoiser:
    """Threshold a model's data prediction dynamically, for models of pixels.

    With s the quantile of the absolute values of the data prediction, at least 1, the
    data is clipped to [-s, s] and divided by s. diffusers calls this ``thresholding``.
    A thresholded model is a model like any other: every sampler and every inverse works
    on it.

    Args:
        denoise: See :func:`clipped`.
        schedule: The schedule that the model was trained with.
        ratio: Which quantile; diffusers' ``dynamic_thresholding_ratio``.
        largest: The largest s; diffusers' ``sample_max_value``. At 1, its default, this
            is :func:`clipped`.

    Returns:
        A denoiser that predicts the thresholded data.

    References:
        Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models", Section
        2.3, arXiv:2205.11487.
    """
    limit = Output("sample", threshold=(float(ratio), float(largest)))
    return _limiting(denoise, schedule, limit)


def limited(
    denoise: Denoiser | ConditionalModel, schedule: NoiseSchedule, limit: Output
) -> Denoiser:
    """Return a denoiser with a scheduler's limit on its data prediction."""
    if limit.threshold is not None:
        return thresholded(denoise, schedule, *limit.threshold)
    assert limit.clip is not None, "one of them is given"
    return clipped(denoise, schedule, limit.clip)


def _limiting(denoise: Any, schedule: NoiseSchedule, limit: Output) -> Denoiser:
    network, output = network_of(denoise)
    levels = TrainingLevels.of(schedule)
    return Predicts(_Limited(network, levels, output, limit), levels, limit)
