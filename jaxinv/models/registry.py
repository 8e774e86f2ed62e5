"""The class that implements a component, found from its ``config.json``."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.checks import shown
from jaxinv.models.autoencoders.kl import AutoencoderKL
from jaxinv.models.autoencoders.kl_config import AutoencoderKLConfig
from jaxinv.models.autoencoders.tiny import AutoencoderTiny
from jaxinv.models.autoencoders.tiny_config import AutoencoderTinyConfig
from jaxinv.models.autoencoders.wan import AutoencoderKLWan
from jaxinv.models.autoencoders.wan_config import AutoencoderKLWanConfig
from jaxinv.models.layers.basic import ShapesOnly
from jaxinv.models.text_encoders.clip import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTextWithProjectionConfig,
)
from jaxinv.models.text_encoders.t5 import T5EncoderModel, UMT5EncoderModel
from jaxinv.models.text_encoders.t5_config import T5Config, UMT5Config
from jaxinv.models.transformers.flux import FluxTransformer2DModel
from jaxinv.models.transformers.flux_config import FluxTransformer2DConfig
from jaxinv.models.transformers.pixart import PixArtTransformer2DModel
from jaxinv.models.transformers.pixart_config import PixArtTransformerConfig
from jaxinv.models.transformers.sd3 import SD3Transformer2DModel
from jaxinv.models.transformers.sd3_config import SD3TransformerConfig
from jaxinv.models.transformers.wan import WanTransformer3DModel
from jaxinv.models.transformers.wan_config import WanTransformer3DConfig
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.config_2d import UNet2DConfig
from jaxinv.models.unet.controlnet import ControlNetModel
from jaxinv.models.unet.controlnet_config import ControlNetConfig
from jaxinv.models.unet.lavie import LaVieUNet
from jaxinv.models.unet.lavie_config import LaVieUNetConfig
from jaxinv.models.unet.motion import MotionAdapter, UNetMotionModel
from jaxinv.models.unet.motion_config import MotionAdapterConfig, UNetMotionConfig
from jaxinv.models.unet.unet import UNet2DConditionModel
from jaxinv.models.unet.unet_2d import UNet2DModel

Component = (
    UNet2DConditionModel
    | UNetMotionModel
    | MotionAdapter
    | LaVieUNet
    | ControlNetModel
    | UNet2DModel
    | FluxTransformer2DModel
    | SD3Transformer2DModel
    | PixArtTransformer2DModel
    | AutoencoderKL
    | AutoencoderTiny
    | AutoencoderKLWan
    | WanTransformer3DModel
    | CLIPTextModel
    | T5EncoderModel
)
ComponentConfig = (
    UNet2DConditionConfig
    | UNetMotionConfig
    | MotionAdapterConfig
    | LaVieUNetConfig
    | ControlNetConfig
    | UNet2DConfig
    | FluxTransformer2DConfig
    | SD3TransformerConfig
    | PixArtTransformerConfig
    | AutoencoderKLConfig
    | AutoencoderTinyConfig
    | AutoencoderKLWanConfig
    | WanTransformer3DConfig
    | CLIPTextConfig
    | T5Config
)

_MODELS: dict[type[ComponentConfig], Any] = {
    UNet2DConditionConfig: UNet2DConditionModel,
    UNetMotionConfig: UNetMotionModel,
    MotionAdapterConfig: MotionAdapter,
    LaVieUNetConfig: LaVieUNet,
    ControlNetConfig: ControlNetModel,
    UNet2DConfig: UNet2DModel,
    FluxTransformer2DConfig: FluxTransformer2DModel,
    SD3TransformerConfig: SD3Transformer2DModel,
    PixArtTransformerConfig: PixArtTransformer2DModel,
    AutoencoderKLConfig: AutoencoderKL,
    AutoencoderTinyConfig: AutoencoderTiny,
    AutoencoderKLWanConfig: AutoencoderKLWan,
    WanTransformer3DConfig: WanTransformer3DModel,
    CLIPTextConfig: CLIPTextModel,
    CLIPTextWithProjectionConfig: CLIPTextModelWithProjection,
    T5Config: T5EncoderModel,
    UMT5Config: UMT5EncoderModel,
}
_CONFIGS = {config.class_name: config for config in _MODELS}
# A class that published configurations name, and what it is now by its norm_type.
_FORMER = "Transformer2DModel"
_SUCCESSORS = {"ada_norm_single": PixArtTransformerConfig.class_name}


def component_config(data: Mapping[str, Any]) -> ComponentConfig:
    """Read a component's ``config.json``.

    Args:
        data: The parsed JSON. diffusers names the class in ``_class_name``,
            transformers in ``architectures``.

    Returns:
        The configuration of the named class.

    Raises:
        ValueError: If no class is named, or if the class or one of its options is not
            implemented.
    """
    name = data.get("_class_name")
    if "_class_name" not in data:
        found = data.get("architectures")
        if not isinstance(found, list | tuple) or not found:
            raise ValueError(
                "config.json names no class (_class_name, or architectures: a list)"
            )
        name = found[0]
    if name == _FORMER and isinstance(norm := data.get("norm_type"), str):
        name = _SUCCESSORS.get(norm, name)
    if not isinstance(name, str) or name not in _CONFIGS:
        raise ValueError(
            f"class {shown(name)} is not implemented "
            f"(implemented: {', '.join(sorted(_CONFIGS))})"
        )
    return _CONFIGS[name].from_dict(data)


def abstract_component(
    config: ComponentConfig,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Component:
    """Build a model whose parameters are shapes, without computing or allocating them.

    Args:
        config: Configuration of the model.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.

    Returns:
        The module, every parameter being a ``jax.ShapeDtypeStruct``.
    """
    model = _MODELS[type(config)]
    return model(config, dtype=dtype, param_dtype=param_dtype, rngs=ShapesOnly())
