"""Flax NNX modules: UNet, autoencoder and text encoder, for one sample each.

Modules are pytrees. They take one sample in channels-last layout without a batch axis;
use ``jax.vmap`` for a batch. Their attributes have the names that diffusers and
transformers use.
"""

from jaxinv.models.autoencoders.kl import AutoencoderKL, DiagonalGaussian
from jaxinv.models.autoencoders.kl_config import AutoencoderKLConfig
from jaxinv.models.autoencoders.tiny import AutoencoderTiny
from jaxinv.models.autoencoders.tiny_config import AutoencoderTinyConfig
from jaxinv.models.autoencoders.wan import AutoencoderKLWan
from jaxinv.models.autoencoders.wan_config import AutoencoderKLWanConfig
from jaxinv.models.layers.hook import Hook, Place, with_hook
from jaxinv.models.options import with_options
from jaxinv.models.registry import abstract_component, component_config
from jaxinv.models.text_encoders.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextOutput,
    CLIPTextWithProjectionConfig,
)
from jaxinv.models.text_encoders.t5 import T5EncoderModel, UMT5EncoderModel
from jaxinv.models.text_encoders.t5_config import T5Config, UMT5Config
from jaxinv.models.transformers.flux import FluxCondition, FluxTransformer2DModel
from jaxinv.models.transformers.flux_config import FluxTransformer2DConfig
from jaxinv.models.transformers.pixart import (
    PixArtCondition,
    PixArtTransformer2DModel,
)
from jaxinv.models.transformers.pixart_config import PixArtTransformerConfig
from jaxinv.models.transformers.sd3 import SD3Condition, SD3Transformer2DModel
from jaxinv.models.transformers.sd3_config import SD3TransformerConfig
from jaxinv.models.transformers.wan import WanTransformer3DModel
from jaxinv.models.transformers.wan_config import WanTransformer3DConfig
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.config_2d import UNet2DConfig
from jaxinv.models.unet.controlnet import (
    ControlledCondition,
    ControlledUNet,
    ControlNetModel,
)
from jaxinv.models.unet.controlnet_config import ControlNetConfig
from jaxinv.models.unet.lavie import LaVieUNet
from jaxinv.models.unet.lavie_config import LaVieUNetConfig
from jaxinv.models.unet.motion import MotionAdapter, UNetMotionModel
from jaxinv.models.unet.motion_config import MotionAdapterConfig, UNetMotionConfig
from jaxinv.models.unet.unet import UNet2DConditionModel
from jaxinv.models.unet.unet_2d import UNet2DModel

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "AutoencoderKLWan",
    "AutoencoderKLWanConfig",
    "AutoencoderTiny",
    "AutoencoderTinyConfig",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTextOutput",
    "CLIPTextWithProjectionConfig",
    "ControlNetConfig",
    "ControlNetModel",
    "ControlledCondition",
    "ControlledUNet",
    "DiagonalGaussian",
    "FluxCondition",
    "FluxTransformer2DConfig",
    "FluxTransformer2DModel",
    "Hook",
    "LaVieUNet",
    "LaVieUNetConfig",
    "MotionAdapter",
    "MotionAdapterConfig",
    "PixArtCondition",
    "PixArtTransformer2DModel",
    "PixArtTransformerConfig",
    "Place",
    "SD3Condition",
    "SD3Transformer2DModel",
    "SD3TransformerConfig",
    "T5Config",
    "T5EncoderModel",
    "UMT5Config",
    "UMT5EncoderModel",
    "UNet2DConditionConfig",
    "UNet2DConditionModel",
    "UNet2DConfig",
    "UNet2DModel",
    "UNetCondition",
    "UNetMotionConfig",
    "UNetMotionModel",
    "WanTransformer3DConfig",
    "WanTransformer3DModel",
    "abstract_component",
    "component_config",
    "with_hook",
    "with_options",
]
