"""A small random model of every family of networks, with the family's own condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinv as ji
from jaxinv.models import (
    ControlledCondition,
    ControlledUNet,
    ControlNetConfig,
    ControlNetModel,
    FluxCondition,
    FluxTransformer2DConfig,
    FluxTransformer2DModel,
    LaVieUNet,
    LaVieUNetConfig,
    PixArtCondition,
    PixArtTransformer2DModel,
    PixArtTransformerConfig,
    SD3Condition,
    SD3Transformer2DModel,
    SD3TransformerConfig,
    UNet2DConditionConfig,
    UNet2DConditionModel,
    UNet2DConfig,
    UNet2DModel,
    UNetCondition,
    UNetMotionConfig,
    UNetMotionModel,
    WanTransformer3DConfig,
    WanTransformer3DModel,
)
from jaxinv.models.parameters import parameters, with_parameters

WIDTH, POOLED, SIZE_FEATURES, FRAMES = 16, 8, 4, 3


class Model(NamedTuple):
    """A network to invert.

    Attributes:
        title: What it is, for the table.
        network: The network.
        shape: Shape of its samples.
        schedule: Its schedule.
        branch: Function from a key to a prompt's condition; None for a network that
            takes no prompt.
        samplers: Names of the samplers to invert; all if None.
        distilled: Whether the guidance scale is an input of the network.
    """

    title: str
    network: Any
    shape: tuple[int, ...]
    schedule: ji.NoiseSchedule
    branch: Callable[[jax.Array], Any] | None
    samplers: tuple[str, ...] | None = None
    distilled: bool = False


#: One block down and one up: what is compiled for each row are the loops around it.
BLOCKS: dict[str, Any] = {
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
DIFFUSION = ji.scaled_linear()
#: Shift of the times of flows, as SD3 has it.
SHIFT = 3.0
#: Factor of the outputs: at guidance 5, steps of larger random outputs fold.
OUTPUT = 0.3


def made(model: Any, config: Any, seed: int = 0) -> Any:
    """Return a network with random parameters and a small output."""
    network = model(config, rngs=nnx.Rngs(seed))
    last = network.conv_out if hasattr(network, "conv_out") else network.proj_out
    kernel = last.kernel
    kernel.set_value(OUTPUT * kernel.get_value())
    return network


def image_config(**options: Any) -> UNet2DConditionConfig:
    """Return the configuration of a small text-to-image UNet."""
    return UNet2DConditionConfig(
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        **BLOCKS,
        **options,
    )


def text(key: jax.Array) -> jax.Array:
    """Return the vectors of a random prompt."""
    return jax.random.normal(key, (7, WIDTH))


def stable_diffusion() -> Model:
    """Return a UNet like that of Stable Diffusion."""
    network = made(UNet2DConditionModel, image_config())
    return Model("Stable Diffusion", network, (8, 8, 4), DIFFUSION, text)


def sdxl() -> Model:
    """Return a UNet like that of SDXL, given pooled vectors and image sizes."""
    config = image_config(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE_FEATURES,
        projection_class_embeddings_input_dim=POOLED + 6 * SIZE_FEATURES,
    )

    def branch(key: jax.Array) -> UNetCondition:
        sizes = jnp.array([64.0, 64, 0, 0, 64, 64])
        return UNetCondition(text(key), jax.random.normal(key, (POOLED,)), sizes)

    network = made(UNet2DConditionModel, config)
    return Model("SDXL", network, (8, 8, 4), DIFFUSION, branch)


def controlnet() -> Model:
    """Return a UNet with a ControlNet whose residuals are not zero."""
    config = ControlNetConfig(
        down_block_types=("CrossAttnDownBlock2D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        conditioning_embedding_out_channels=(4, 4, 8),
        **BLOCKS,
    )
    net = ControlNetModel(config, rngs=nnx.Rngs(1))
    zero = {name for name in parameters(net) if "controlnet" in name}
    values = {
        name: 0.3 * jax.random.normal(jax.random.key(k), value.shape)
        if name in zero
        else value
        for k, (name, value) in enumerate(parameters(net).items())
    }
    net = with_parameters(net, values)
    network = ControlledUNet(made(UNet2DConditionModel, image_config()), [net])
    image = jax.random.uniform(jax.random.key(2), (32, 32, 3))

    def branch(key: jax.Array) -> ControlledCondition:
        return ControlledCondition(text(key), (net.embed(image),), (jnp.ones(()),))

    return Model("ControlNet", network, (8, 8, 4), DIFFUSION, branch)


def instaflow() -> Model:
    """Return the UNet of a rectified flow."""
    flow = ji.flow_matching(prediction_type="rectified_flow")
    network = made(UNet2DConditionModel, image_config())
    names = ("one step", "4 steps")
    return Model("InstaFlow", network, (8, 8, 4), flow, text, names)


def pixels() -> Model:
    """Return an unconditional UNet of pixels."""
    config = UNet2DConfig(
        in_channels=3,
        out_channels=3,
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        attention_head_dim=8,
        **BLOCKS,
    )
    schedule = ji.linear(1e-4, 0.02)
    return Model("DDPM, pixels", made(UNet2DModel, config), (8, 8, 3), schedule, None)


def animatediff() -> Model:
    """Return a UNet of video frames with motion modules."""
    config = UNetMotionConfig(
        down_block_types=("CrossAttnDownBlockMotion",),
        up_block_types=("CrossAttnUpBlockMotion",),
        cross_attention_dim=WIDTH,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        **BLOCKS,
    )
    network = made(UNetMotionModel, config)
    shape = FRAMES, 8, 8, 4
    return Model("AnimateDiff", network, shape, ji.linear(8.5e-4, 0.012), text)


def lavie() -> Model:
    """Return LaVie's UNet of video frames."""
    config = LaVieUNetConfig(
        down_block_types=("CrossAttnDownBlock3D",),
        up_block_types=("CrossAttnUpBlock3D",),
        cross_attention_dim=WIDTH,
        attention_head_dim=1,
        **BLOCKS | {"block_out_channels": (32,)},
    )
    shape = FRAMES, 8, 8, 4
    return Model("LaVie", made(LaVieUNet, config), shape, ji.linear(1e-4, 0.02), text)


EULER = ("Euler, 8 steps", "Euler, 28 steps")
TRANSFORMER: dict[str, Any] = {
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": POOLED,
}


def sd3() -> Model:
    """Return a transformer like that of Stable Diffusion 3.5 medium."""
    config = SD3TransformerConfig(
        sample_size=8,
        pos_embed_max_size=8,
        caption_projection_dim=32,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
        **TRANSFORMER,
    )
    network = made(SD3Transformer2DModel, config)

    def branch(key: jax.Array) -> SD3Condition:
        return SD3Condition(text(key), jax.random.normal(key, (POOLED,)))

    flow = ji.flow_matching(shift=SHIFT)
    return Model("SD3", network, (8, 8, 16), flow, branch, EULER)


def flux() -> Model:
    """Return a transformer like that of FLUX.1 dev."""
    config = FluxTransformer2DConfig(
        num_single_layers=3,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
        **TRANSFORMER,
    )
    network = made(FluxTransformer2DModel, config)

    def branch(key: jax.Array) -> FluxCondition:
        return FluxCondition(text(key), jax.random.normal(key, (POOLED,)))

    flow = ji.flow_matching(shift=SHIFT)
    return Model("FLUX.1", network, (8, 8, 16), flow, branch, EULER, distilled=True)


def wan() -> Model:
    """Return a transformer of video latents like that of Wan 2.1."""
    config = WanTransformer3DConfig(
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=WIDTH,
        ffn_dim=64,
    )
    network = made(WanTransformer3DModel, config)
    shape, flow = (FRAMES, 8, 8, 16), ji.flow_matching(shift=SHIFT)
    return Model("Wan", network, shape, flow, text, EULER)


def pixart() -> Model:
    """Return a transformer like that of PixArt-Sigma."""
    config = PixArtTransformerConfig(
        sample_size=8,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=WIDTH,
    )
    network = made(PixArtTransformer2DModel, config)

    def branch(key: jax.Array) -> PixArtCondition:
        return PixArtCondition(text(key), jnp.ones(7))

    schedule = ji.linear(1e-4, 0.02)
    return Model("PixArt-Sigma", network, (8, 8, 4), schedule, branch)


MODELS = {
    each.__name__: each
    for each in (
        stable_diffusion,
        sdxl,
        controlnet,
        instaflow,
        pixels,
        animatediff,
        lavie,
        sd3,
        flux,
        wan,
        pixart,
    )
}
