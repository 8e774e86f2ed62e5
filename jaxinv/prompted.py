"""The model of a pipeline with its prompt as an argument, for batches of prompts.

A denoiser has its prompt filled in. In a batch every sample has a prompt, a negative
prompt and a guidance scale of its own, which are arrays with an axis of the batch, and
what all samples share is a model ``(z, t, condition) -> f``.
"""

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Float

from jaxinv.denoiser import as_denoiser, conditioned, guided
from jaxinv.models import UNet2DConditionModel
from jaxinv.schedule import NoiseSchedule


class Condition(NamedTuple):
    """What differs from sample to sample; with a leading axis, of a batch.

    Attributes:
        prompt: shape (l, d). What ``encode_prompt`` makes of the text.
        negative_prompt: shape (l, d). Likewise.
        guidance_scale: shape (). Weight of classifier-free guidance.
    """

    prompt: Float[Array, "l d"]
    negative_prompt: Float[Array, "l d"]
    guidance_scale: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PromptedModel:
    """A UNet as ``(z, t, condition) -> f``.

    Attributes:
        unet: the network.
        schedule: noise levels and prediction type (static).
        guided: whether both branches of guidance are evaluated. If not, the negative
            prompt and the scale have no effect (static).
    """

    unet: UNet2DConditionModel
    schedule: NoiseSchedule = dataclasses.field(metadata={"static": True})
    guided: bool = dataclasses.field(metadata={"static": True})

    def __call__(
        self, z: Float[Array, "h w c"], t: Float[Array, ""], condition: Condition
    ) -> Float[Array, "h w c"]:
        """Evaluate the model for one sample."""
        if self.guided:
            return as_denoiser(guided(self.unet, *condition), self.schedule)(z, t)
        model = conditioned(self.unet, condition.prompt)
        return as_denoiser(model, self.schedule)(z, t)
