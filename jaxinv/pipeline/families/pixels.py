"""Diffusion of pixels: no autoencoder and no text, possibly a class label.

The pipelines of these models clip the data prediction as their scheduler says
(``clip_sample``, ``thresholding``), and so do the denoisers made here: a function of
the data prediction, whatever the sampler. ``as_denoiser(pipe.network, pipe.schedule)``
is the model without it.

A network that predicts a variance as well (twice as many output channels) is used
without it, as in the deterministic samplers of diffusers.

References:
    Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239.
    Nichol & Dhariwal 2021, arXiv:2102.09672 (learned variances).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxinv.checks import shown
from jaxinv.diffusion.denoiser import (
    ConditionalModel,
    Denoiser,
    as_denoiser,
)
from jaxinv.diffusion.diffusers_config import DDIM, scheduler_options
from jaxinv.diffusion.limits import limited
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.fit import check_classes, size_pair
from jaxinv.samplers.diffusers_sampler import data_limit

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_IMAGE_CHANNELS = (1, 3)


class Pixels(Family):
    """Unconditional or class-conditional diffusion of pixels (DDPM)."""

    name = "pixel-space diffusion"
    parts: ClassVar = {"unet": ("UNet2DModel",), "scheduler": ()}
    options = frozenset({"class_label"})
    guidable = False

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check channels and return the image size of training."""
        check_classes(where, configs, self.parts)
        unet = configs["unet"]
        if unet.in_channels not in _IMAGE_CHANNELS:
            raise ValueError(
                f"{where}: the UNet2DModel takes {unet.in_channels} channels "
                "(in_channels); images have 3, or 1 if gray"
            )
        if unet.out_channels not in (unet.in_channels, 2 * unet.in_channels):
            raise ValueError(
                f"{where}: the UNet2DModel returns {unet.out_channels} channels "
                f"(out_channels); expected the {unet.in_channels} of the image, or "
                "twice as many with a variance"
            )
        if unet.class_embed_type is not None:
            raise ValueError(
                f"{where}: class_embed_type={unet.class_embed_type!r} is implemented "
                "for the network alone; a pipeline takes class labels "
                "(num_class_embeds)"
            )
        if unet.sample_size is None:
            raise ValueError(
                f"{where}: the UNet2DModel's configuration does not state the size "
                "that the model was trained on (sample_size)"
            )
        return size_pair(where, unet.sample_size)

    def scheduler_config(
        self, pipeline: str, config: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the scheduler's configuration: DDIM's pipeline makes it a DDIM."""
        if pipeline == "DDIMPipeline":
            return {**config, "_class_name": DDIM}
        return config

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> PyTree:
        """Return the class label as an array, or None for an unconditional model."""
        if prompt:
            raise ValueError(
                f"{pipe.name} has no text encoder and takes no prompt, got "
                f"{shown(prompt)}"
            )
        return _label(pipe, options.get("class_label"))

    def condition(
        self,
        pipe: "Pipeline",
        prompt: PyTree,
        negative_prompt: PyTree,
        guidance_scale: Any,
    ) -> Condition:
        """Return the condition, whose label is checked: it may be anybody's array."""
        return Condition(_label(pipe, prompt), negative_prompt, guidance_scale)

    def denoiser(
        self, pipe: "Pipeline", model: Denoiser | ConditionalModel
    ) -> Denoiser | ConditionalModel:
        """Return a denoiser without a variance, clipped as the scheduler says."""
        config = pipe.network.config
        if config.out_channels != config.in_channels:
            model = _Mean(model, config.in_channels)
        denoise = as_denoiser(model, pipe.schedule)
        limit = data_limit(scheduler_options(json.loads(pipe.scheduler)))
        return denoise if limit is None else limited(denoise, pipe.schedule, limit)


def _label(pipe: "Pipeline", label: Any) -> Array | None:
    """Return a class label as an array, or None for an unconditional model."""
    count = pipe.network.config.num_class_embeds
    if count is None:
        if label is not None:
            raise ValueError(f"{pipe.name} has no class labels, got {shown(label)}")
        return None
    if not isinstance(label, jax.core.Tracer):
        array = isinstance(label, jax.Array | np.ndarray) and label.ndim == 0
        value = label.item() if array else label
        if not (type(value) is int or isinstance(value, np.integer)) or not (
            0 <= value < count
        ):
            raise ValueError(
                f"{pipe.name} takes a class_label, an integer from 0 to {count - 1}, "
                f"got {shown(label)}"
            )
    return jnp.asarray(label)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Mean:
    """A network without the variance that it predicts, in the last channels."""

    model: Any
    channels: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Float[Array, "h w c"], t: Array, *condition: Any) -> Array:
        return self.model(x, t, *condition)[..., : self.channels]
