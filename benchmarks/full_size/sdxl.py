"""The programs of SDXL and of models with its parts."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp

import jaxinv as ji
from benchmarks.full_size.measure import Program, shape
from jaxinv.diffusion.denoiser import conditioned, guided
from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextWithProjectionConfig,
    UNet2DConditionConfig,
    UNetCondition,
    abstract_component,
)

STEPS, GUIDANCE = 20, 5.0


class Model(NamedTuple):
    """The configurations of a model's parts.

    Attributes:
        unet: Of the network.
        vae: Of the autoencoder.
        text: Of the text encoders.
    """

    unet: UNet2DConditionConfig
    vae: AutoencoderKLConfig
    text: tuple[CLIPTextConfig, CLIPTextWithProjectionConfig]


SDXL = Model(
    UNet2DConditionConfig.sdxl(),
    AutoencoderKLConfig.sdxl(),
    (CLIPTextConfig.sd15(), CLIPTextWithProjectionConfig.sdxl()),
)
MODELS = {
    "sdxl": SDXL,
    "ssd1b": SDXL._replace(unet=UNet2DConditionConfig.ssd1b()),
    # Two layers, for tests.
    "tiny": Model(
        dataclasses.replace(
            UNet2DConditionConfig.sdxl(), sample_size=8, block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
            mid_block_type=None, layers_per_block=1, norm_num_groups=4,
            transformer_layers_per_block=1, attention_head_dim=2,
            cross_attention_dim=8, addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=28,
        ),
        AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16),
        (CLIPTextConfig(hidden_size=4, intermediate_size=4, num_hidden_layers=1,
            num_attention_heads=1, vocab_size=9),
        CLIPTextWithProjectionConfig(hidden_size=4, intermediate_size=4,
            num_hidden_layers=1, num_attention_heads=1, vocab_size=9,
            projection_dim=4)),
    ),
}  # fmt: skip


def programs(model: Model, dtype: Any) -> Iterator[Program]:
    """Return the programs of a model in one data type."""
    unet, vae, *encoders = (
        abstract_component(config, dtype=dtype, param_dtype=dtype)
        for config in (model.unet, model.vae, *model.text)
    )
    tokens = model.text[0].max_position_embeddings
    condition = UNetCondition(
        shape(tokens, model.unet.cross_attention_dim),
        shape(model.unet.pooled_width),
        shape(6),
    )
    size = model.unet.sample_size
    latent = shape(size, size, model.unet.in_channels)
    schedule = ji.scaled_linear()
    sampler = ji.ddim(ji.time_grid(schedule, STEPS))

    def inverse(strategy: str) -> Callable[..., Any]:
        def function(unet: Any, z: Any, prompt: Any, negative: Any) -> Any:
            network = guided(unet, prompt, negative, GUIDANCE)
            denoise = ji.as_denoiser(network, schedule)
            return ji.invert(sampler, denoise, z, strategy=strategy)

        return function

    def call(unet: Any, z: Any, t: Any, prompt: Any) -> Any:
        return conditioned(unet, prompt)(z, t)

    def guided_call(unet: Any, z: Any, t: Any, prompt: Any, negative: Any) -> Any:
        return guided(unet, prompt, negative, GUIDANCE)(z, t)

    yield Program("UNet, one call", call, (unet, latent, shape(), condition))
    yield Program(
        "UNet, guided call", guided_call, (unet, latent, shape(), condition, condition)
    )
    for strategy in ("naive", "stepwise"):
        name = f"{strategy} inversion, {STEPS} guided steps"
        yield Program(name, inverse(strategy), (unet, latent, condition, condition))
    pixels = model.vae.downsampling_factor * size
    yield Program("encoder", type(vae).encode, (vae, shape(pixels, pixels, 3)))
    yield Program("decoder", type(vae).decode, (vae, latent))
    for number, encoder in enumerate(encoders, 1):
        ids = shape(tokens, dtype=jnp.int32)
        yield Program(f"text encoder {number}", type(encoder).__call__, (encoder, ids))
