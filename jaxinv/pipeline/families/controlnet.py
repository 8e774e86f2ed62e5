"""Models with ControlNets: the condition also holds control images.

A family with ControlNets is a family of images with one more part, whose network is a
:class:`~jaxinv.models.ControlledUNet`. Its residuals are computed at every evaluation,
so that samplers and inverses see a network like any other.

Further options of :meth:`jaxinv.Pipeline.denoiser`:

* ``control_image``: (h, w, 3), floats in [0, 1] or ``uint8``, as large as the generated
  image; a sequence of them for several ControlNets.
* ``controlnet_conditioning_scale``: Factor of the residuals, 1 by default; a sequence
  of them for several ControlNets.

References:
    Zhang, Rao & Agrawala 2023, "Adding Conditional Control to Text-to-Image Diffusion
    Models", arXiv:2302.05543.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxinv.models import ControlledCondition, ControlledUNet, ControlNetModel
from jaxinv.models.config import per_block
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion
from jaxinv.pipeline.families.stable_diffusion_xl import StableDiffusionXL
from jaxinv.pipeline.latents import check_image, floats

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_IMAGE, _SCALE = "control_image", "controlnet_conditioning_scale"
_PART: dict[str, tuple[str, ...]] = {"controlnet": ("ControlNetModel",)}


class _Controlled(StableDiffusion):
    """What ControlNets add to a family."""

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check the family's own parts, and that the ControlNet fits the UNet."""
        own = {part: each for part, each in configs.items() if part != "controlnet"}
        size = super().check(where, own)
        check_controlnet(
            f"{where}: ", configs["unet"], configs["vae"], configs["controlnet"]
        )
        return size

    def network(self, parts: Mapping[str, Any]) -> Any:
        """Return the UNet with its ControlNet."""
        return ControlledUNet(parts["unet"], [parts["controlnet"]])

    def encode(
        self, pipe: "Pipeline", prompt: str, *, negative: bool, **options: Any
    ) -> Any:
        """Return a :class:`~jaxinv.models.ControlledCondition`: images are embedded."""
        nets = pipe.network.controlnets
        images = _each(options.pop(_IMAGE, None), len(nets), _IMAGE)
        scales = _each(options.pop(_SCALE, 1.0), len(nets), _SCALE)
        features = []
        for net, image in zip(nets, images, strict=True):
            if image is None:
                raise ValueError(
                    f"{pipe.name} has a ControlNet: a {_IMAGE} must be given"
                )
            check_image(image, pipe.factor, net.config.conditioning_channels)
            features.append(_embedded(net, image))
        return ControlledCondition(
            super().encode(pipe, prompt, negative=negative, **options),
            tuple(features),
            tuple(_one_scale(scale) for scale in scales),
        )

    def condition(
        self,
        pipe: "Pipeline",
        prompt: PyTree,
        negative_prompt: PyTree,
        guidance_scale: Any,
    ) -> Condition:
        """Return the family's own condition, with the images of the prompts."""
        for each in (prompt, negative_prompt):
            if not isinstance(each, ControlledCondition | None):
                raise ValueError(
                    "a prompt of a model with ControlNets must be a string, or what "
                    f"encode_prompt(text, {_IMAGE}=...) returns; got "
                    f"{type(each).__name__}"
                )
        negative = None if negative_prompt is None else negative_prompt.unet
        found = super().condition(pipe, prompt.unet, negative, guidance_scale)
        if found.negative_prompt is not None:
            negative = negative_prompt._replace(unet=found.negative_prompt)
        else:
            negative = None
        return found._replace(
            prompt=prompt._replace(unet=found.prompt), negative_prompt=negative
        )


class StableDiffusionControlNet(_Controlled):
    """Stable Diffusion 1 and 2 with ControlNets."""

    name = "Stable Diffusion with ControlNet"
    parts: ClassVar = StableDiffusion.parts | _PART
    options = StableDiffusion.options | {_IMAGE, _SCALE}


class StableDiffusionXLControlNet(_Controlled, StableDiffusionXL):
    """Stable Diffusion XL with ControlNets."""

    name = "Stable Diffusion XL with ControlNet"
    parts: ClassVar = StableDiffusionXL.parts | _PART
    options = StableDiffusionXL.options | {_IMAGE, _SCALE}


_WITH_CONTROLNETS: dict[type[Family], Family] = {
    StableDiffusion: StableDiffusionControlNet(),
    StableDiffusionXL: StableDiffusionXLControlNet(),
}


def controlled_family(family: Family) -> Family:
    """Return a family with ControlNets.

    Args:
        family: The family, which may have them already.

    Raises:
        ValueError: If ControlNets of the family's models are not implemented.
    """
    if isinstance(family, _Controlled):
        return family
    if type(family) not in _WITH_CONTROLNETS:
        known = ", ".join(kind.name for kind in _WITH_CONTROLNETS)
        raise ValueError(
            f"ControlNets of {family} are not implemented (implemented: {known})"
        )
    return _WITH_CONTROLNETS[type(family)]


def check_controlnet(where: str, unet: Any, vae: Any, controlnet: Any) -> None:
    """Raise ValueError unless a ControlNet fits a UNet and an autoencoder.

    Args:
        where: Beginning of the message.
        unet: Configuration of the UNet.
        vae: Configuration of the autoencoder.
        controlnet: Configuration of the ControlNet.
    """
    net = controlnet.image_config
    same: dict[str, list[Any]] = {
        name: [getattr(config, name) for config in (net, unet)]
        for name in ("in_channels", "block_out_channels")
    }
    same["layers_per_block"] = [
        per_block("", config.layers_per_block, len(config.block_out_channels))
        for config in (net, unet)
    ]
    if not net.context_widths <= unet.context_widths:
        same["cross_attention_dim"] = [net.context_widths, unet.context_widths]
    for name, (found, wanted) in same.items():
        if found != wanted:
            raise ValueError(
                f"{where}the ControlNet does not fit the UNet: its {name} is {found}, "
                f"that of the UNet {wanted}"
            )
    if net.pooled_width not in (0, unet.pooled_width):
        raise ValueError(
            f"{where}the ControlNet does not fit the UNet: it takes a pooled text "
            f"vector of size {net.pooled_width} "
            "(projection_class_embeddings_input_dim), the UNet one of size "
            f"{unet.pooled_width}"
        )
    factor = controlnet.downsampling_factor
    if factor != vae.downsampling_factor:
        raise ValueError(
            f"{where}the ControlNet maps {factor}x{factor} pixels of its image to one "
            "of a latent (conditioning_embedding_out_channels), the autoencoder "
            f"{vae.downsampling_factor}x{vae.downsampling_factor}"
        )


def _each(value: Any, number: int, name: str) -> Sequence[Any]:
    """Return one value for each of several ControlNets."""
    if isinstance(value, list | tuple):
        if len(value) != number:
            raise ValueError(
                f"{name} must be given for each of {number} ControlNets, got "
                f"{len(value)}"
            )
        return value
    if number > 1 and name == _IMAGE and value is not None:
        raise ValueError(f"{name} must be a sequence of {number}, one per ControlNet")
    return [value] * number


def _one_scale(scale: Any) -> Float[Array, ""]:
    if isinstance(scale, jax.core.Tracer):
        return scale
    fits = np.ndim(scale) == 0 and not isinstance(scale, str | bytes | bool | None)
    if not fits or not np.isfinite(scale):
        raise ValueError(f"{_SCALE} must be a finite number, got {scale!r}")
    return jnp.asarray(scale, jnp.float32)


@jax.jit
def _embedded(net: ControlNetModel, image: Any) -> Float[Array, "h w e"]:
    """Return the embedding of a control image."""
    return net.embed(floats(image))
