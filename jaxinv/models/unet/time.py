"""The vector of a UNet's time and of the conditions that are added to it.

    time = MLP(sinusoidal(timestep) + P sinusoidal(1000 (guidance - 1)))
           + MLP'([pooled, sinusoidal(time_ids)])

P, ``cond_proj``, belongs to models that were distilled with a guidance scale as an
input (LCM). MLP', ``add_embedding``, belongs to models with the added condition
``text_time`` (SDXL), which have a vector of the whole text and six image sizes and
coordinates.

References:
    Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image
    Synthesis", 2023, section 2.2. https://arxiv.org/abs/2307.01952
    Luo et al., "Latent Consistency Models", 2023. https://arxiv.org/abs/2310.04378
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import (
    LayerFactory,
    TimestepEmbedding,
    activation,
    sinusoidal_embedding,
)
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import NUM_TIME_IDS, UNet2DConditionConfig

# Guidance scales are embedded as multiples of 1/1000, as times are.
_GUIDANCE_UNITS = 1000.0


class _TimeModel(Protocol):
    """A model with a time embedding and, perhaps, an added condition."""

    dtype: jnp.dtype
    time_embedding: TimestepEmbedding
    add_embedding: TimestepEmbedding | None


def time_embedding(
    config: UNet2DConditionConfig, make: LayerFactory
) -> TimestepEmbedding:
    """Return the layers that embed the time, and a guidance scale if it is an input."""
    return TimestepEmbedding(
        config.block_out_channels[0],
        config.time_features,
        condition_features=config.time_cond_proj_dim,
        activation=activation(config.act_fn),
        make=make,
    )


def added_embedding(
    config: UNet2DConditionConfig, make: LayerFactory
) -> TimestepEmbedding | None:
    """Return the layers of the added condition ``text_time``, or None without it."""
    if config.addition_embed_type is None:
        return None
    size = config.projection_class_embeddings_input_dim
    assert size is not None  # the configuration checks it
    # diffusers does not use act_fn here.
    return TimestepEmbedding(
        size, config.time_features, activation=activation("silu"), make=make
    )


def time_vector(
    model: _TimeModel,
    config: UNet2DConditionConfig,
    timestep: Float[Array, ""] | float,
    condition: UNetCondition,
) -> Float[Array, " d"]:
    """Return the vector of time and added conditions, in the model's dtype.

    Args:
        model: The model, whose layers have diffusers' names.
        config: Settings of the UNet.
        timestep: Model time.
        condition: The model's condition.

    Raises:
        ValueError: If the condition lacks an input that the configuration asks for, has
            one that it does not, or one of another shape.
    """
    _check(config, condition)
    embedding = sinusoidal_embedding(
        timestep,
        config.block_out_channels[0],
        flip_sin_to_cos=config.flip_sin_to_cos,
        freq_shift=config.freq_shift,
    )
    guidance = None
    if condition.guidance is not None:
        assert config.time_cond_proj_dim is not None
        guidance = guidance_embedding(condition.guidance, config.time_cond_proj_dim)
        guidance = guidance.astype(model.dtype)
    time = model.time_embedding(embedding.astype(model.dtype), guidance)
    if model.add_embedding is None:
        return time
    size = config.addition_time_embed_dim
    assert size is not None
    assert condition.pooled is not None
    ids = jax.vmap(
        lambda number: sinusoidal_embedding(
            number,
            size,
            flip_sin_to_cos=config.flip_sin_to_cos,
            freq_shift=config.freq_shift,
        )
    )(jnp.asarray(condition.time_ids))
    added = jnp.concatenate([condition.pooled, ids.ravel()])
    return time + model.add_embedding(added.astype(model.dtype))


def guidance_embedding(
    scale: Float[Array, ""] | float, dim: int
) -> Float[Array, " dim"]:
    """Embed a guidance scale, for models that have one as an input.

    Args:
        scale: Guidance scale as in diffusers' pipelines: 1 is no guidance.
        dim: Number of features.

    Returns:
        Features, at least float32.
    """
    return sinusoidal_embedding(
        _GUIDANCE_UNITS * (jnp.asarray(scale, jnp.float32) - 1),
        dim,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def _check(config: UNet2DConditionConfig, condition: UNetCondition) -> None:
    """Raise ValueError unless a condition has exactly the inputs of a configuration."""
    added = config.addition_embed_type is not None
    option = "addition_embed_type='text_time'"
    for name, wanted, shape, reason in (
        ("pooled", added, (config.pooled_width,), option),
        ("time_ids", added, (NUM_TIME_IDS,), option),
        (
            "guidance",
            config.time_cond_proj_dim is not None,
            (),
            f"time_cond_proj_dim={config.time_cond_proj_dim}",
        ),
    ):
        value = getattr(condition, name)
        if wanted and value is None:
            raise ValueError(
                f"the condition lacks {name} of shape {shape}, which a model with "
                f"{reason} needs: pass UNetCondition(text, {name}=...)"
            )
        if not wanted and value is not None:
            raise ValueError(
                f"the condition has {name}, for which this model has no input "
                f"(its configuration has not set {reason.split('=')[0]})"
            )
        if wanted and jnp.shape(value) != shape:
            raise ValueError(
                f"the condition's {name} must have shape {shape}, got "
                f"{jnp.shape(value)}"
            )
