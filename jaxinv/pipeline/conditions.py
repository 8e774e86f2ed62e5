"""The model of a pipeline with its prompt as an argument, for batches of prompts.

A denoiser has its prompt filled in. In a batch, every sample has its own prompt,
negative prompt and guidance scale, which are arrays with a batch axis, and all samples
share a model ``(z, t, condition) -> f``.

Guidance scales have the meaning of diffusers' pipelines: a scale of at most 1 disables
guidance and gives the conditional model. Models that were distilled with guidance
(SD-Turbo, LCM) use 0. The formula itself, :func:`jaxinv.guided`, gives the
unconditional model at 0.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.diffusion.denoiser import (
    ConditionalModel,
    as_denoiser,
    conditioned,
    guided,
    network_of,
)
from jaxinv.diffusion.prediction import Output
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.models import UNet2DConditionModel


class Condition(NamedTuple):
    """The prompts and guidance of one sample, or of a batch along a leading axis.

    Attributes:
        prompt: Vectors of the prompt, from ``encode_prompt``, shape (l, d).
        negative_prompt: Vectors of the negative prompt, shape (l, d).
        guidance_scale: Weight of classifier-free guidance, shape (); none up to 1.
    """

    prompt: Float[Array, "l d"]
    negative_prompt: Float[Array, "l d"]
    guidance_scale: Float[Array, ""]


@jax.jit
def as_in_diffusers(condition: Condition) -> Condition:
    """Return a condition whose formula gives the result of diffusers' pipelines.

    If the scale is at most 1, the result has the scale 1 and the prompt in place of the
    negative prompt: both branches are then the conditional model, to the last bit.

    Args:
        condition: The condition of one sample, or with leading axes.

    Returns:
        A condition for :func:`jaxinv.guided`. A scale that is NaN stays NaN.

    Raises:
        ValueError: If the vectors of the two prompts differ in shape.
    """
    prompt, negative_prompt, scale = condition
    if jnp.shape(prompt) != jnp.shape(negative_prompt):
        raise ValueError(
            "the prompt and the negative prompt must have vectors of one shape, got "
            f"{jnp.shape(prompt)} and {jnp.shape(negative_prompt)}"
        )
    scale = jnp.asarray(scale)
    return Condition(
        prompt,
        jnp.where((scale > 1)[..., None, None], negative_prompt, prompt),
        jnp.maximum(scale, 1),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PromptedModel:
    """A UNet as ``(z, t, condition) -> f``.

    Attributes:
        unet: The network.
        schedule: Noise levels and prediction type (static).
        guided: Whether both branches of guidance are evaluated (static). If not, the
            negative prompt and the scale have no effect.
    """

    unet: UNet2DConditionModel
    schedule: NoiseSchedule = dataclasses.field(metadata={"static": True})
    guided: bool = dataclasses.field(metadata={"static": True})

    def __call__(
        self, z: Float[Array, "h w c"], t: Float[Array, ""], condition: Condition
    ) -> Float[Array, "h w c"]:
        """Evaluate the model for one sample."""
        network = _Prompted(self.unet, self.guided)
        return as_denoiser(network, self.schedule)(z, t, condition)  # type: ignore[call-arg]

    @property
    def output(self) -> Output | None:
        """What the network predicts, if it is not f."""
        return self.schedule.output

    def network(self) -> ConditionalModel:
        """Return the model of the network's own output."""
        model = _Prompted(self.unet, self.guided)
        return network_of(as_denoiser(model, self.schedule))[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Prompted:
    """A UNet as ``(z, t, condition) -> prediction``."""

    unet: UNet2DConditionModel
    guided: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, z: Array, t: Array, condition: Condition) -> Array:
        if self.guided:
            return guided(self.unet, *as_in_diffusers(condition))(z, t)
        return conditioned(self.unet, condition.prompt)(z, t)
