"""Flax NNX modules: UNet, autoencoder and text encoder, for one sample each.

Modules are pytrees. They take one sample in channels-last layout and no batch axis; use
``jax.vmap`` for many. Their attributes carry diffusers' and transformers' names.
"""

from jaxinv.models.autoencoder_config import AutoencoderKLConfig
from jaxinv.models.autoencoder_kl import AutoencoderKL, DiagonalGaussian
from jaxinv.models.autoencoder_tiny import AutoencoderTiny
from jaxinv.models.autoencoder_tiny_config import AutoencoderTinyConfig
from jaxinv.models.clip_text import CLIPTextConfig, CLIPTextModel, CLIPTextOutput
from jaxinv.models.options import with_options
from jaxinv.models.registry import abstract_component, component_config
from jaxinv.models.unet import UNet2DConditionModel
from jaxinv.models.unet_config import UNet2DConditionConfig

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextOutput",
    "DiagonalGaussian",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "abstract_component",
    "component_config",
    "with_options",
]
