"""Networks with random weights, the same in JAX and PyTorch.

Weights are uniform, of the variance that keeps activations at theirs. The last layer is
a tenth of that: a trained denoiser changes slowly with its input, and a random one that
does not cannot be inverted.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxinv as ji
from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
    SD3Condition,
    SD3TransformerConfig,
    UNet2DConditionConfig,
    abstract_component,
)
from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.paths import members, stacked_axes
from weights_convert.rules import tensor_name, to_torch

#: The scale that FLUX is given as an input.
DISTILLED_GUIDANCE = 3.5
_OUTPUT_LAYERS = ("conv_out.", "proj_out.")


class Size(NamedTuple):
    """A network and what it is run on.

    Attributes:
        name: Of the size, in tables.
        config: Of the network.
        latent: Height and width of a latent.
        tokens: Number of text vectors.
        schedule: Of the diffusion or flow.
    """

    name: str
    config: Any
    latent: int
    tokens: int
    schedule: ji.NoiseSchedule

    @property
    def kind(self) -> Kind:
        """What distinguishes the network from others."""
        return KINDS[type(self.config)]


class Kind(NamedTuple):
    """What distinguishes networks of one class.

    Attributes:
        channels: Function from a configuration to the number of a latent's channels.
        shapes: Function from a size to the condition, each array as its shape.
        torch_inputs: Function from a condition of tensors, with a batch axis, and a
            latent to keyword arguments of diffusers' class.
        guidable: Whether guidance takes a second evaluation.
        packed: Whether diffusers' class takes a latent as tokens of 2 by 2 pixels.
    """

    channels: Callable[[Any], int]
    shapes: Callable[[Size], Any]
    torch_inputs: Callable[[Any, torch.Tensor], dict[str, torch.Tensor]]
    guidable: bool = True
    packed: bool = False


def _unet_inputs(text: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": text}


def _sd3_inputs(condition: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "encoder_hidden_states": condition.text,
        "pooled_projections": condition.pooled,
    }


def _flux_inputs(condition: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    places = torch.zeros(rows, columns, 3, device=x.device)
    places[..., 1] = torch.arange(rows, device=x.device)[:, None]
    places[..., 2] = torch.arange(columns, device=x.device)
    return _sd3_inputs(condition, x) | {
        "guidance": condition.guidance,
        "img_ids": places.reshape(-1, 3),
        "txt_ids": torch.zeros(condition.text.shape[1], 3, device=x.device),
    }


KINDS: dict[type[Any], Kind] = {
    UNet2DConditionConfig: Kind(
        lambda config: config.in_channels,
        lambda size: (size.tokens, size.config.cross_attention_dim),
        _unet_inputs,
    ),
    SD3TransformerConfig: Kind(
        lambda config: config.in_channels,
        lambda size: SD3Condition(
            (size.tokens, size.config.joint_attention_dim),
            (size.config.pooled_projection_dim,),
        ),
        _sd3_inputs,
    ),
    FluxTransformer2DConfig: Kind(
        lambda config: config.in_channels // 4,
        lambda size: FluxCondition(
            (size.tokens, size.config.joint_attention_dim),
            (size.config.pooled_projection_dim,),
            (),
        ),
        _flux_inputs,
        guidable=False,
        packed=True,
    ),
}

_SD21 = dataclasses.replace(UNet2DConditionConfig.sd21(), sample_size=64)
_SMALL_SD21 = dataclasses.replace(
    _SD21,
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=(2, 4),
    layers_per_block=1,
    norm_num_groups=8,
    cross_attention_dim=64,
)
_TRANSFORMER: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
}
_SMALL_SD3 = dataclasses.replace(
    SD3TransformerConfig.sd35_medium(),
    sample_size=16,
    pos_embed_max_size=16,
    caption_projection_dim=64,
    dual_attention_layers=(0,),
    **_TRANSFORMER,
)
_SMALL_FLUX = dataclasses.replace(
    FluxTransformer2DConfig.dev(),
    num_single_layers=2,
    axes_dims_rope=(4, 6, 6),
    **_TRANSFORMER,
)

#: Published sizes, each with a small one of the same kind.
SIZES: Mapping[str, tuple[Size, Size]] = {
    "sd21": (
        Size(
            "Stable Diffusion 2.1, 512 x 512 pixels", _SD21, 64, 77, ji.scaled_linear()
        ),
        Size(
            "Stable Diffusion 2.1 with two levels of 32 and 64 channels, "
            "128 x 128 pixels",
            _SMALL_SD21,
            16,
            77,
            ji.scaled_linear(),
        ),
    ),
    "sd3": (
        Size(
            "Stable Diffusion 3.5 medium, 1024 x 1024 pixels",
            SD3TransformerConfig.sd35_medium(),
            128,
            333,
            ji.flow_matching(),
        ),
        Size(
            "Stable Diffusion 3.5 with 2 blocks of 64 features, 128 x 128 pixels",
            _SMALL_SD3,
            16,
            77,
            ji.flow_matching(),
        ),
    ),
    "flux": (
        Size(
            "FLUX.1 dev, 1024 x 1024 pixels",
            FluxTransformer2DConfig.dev(),
            128,
            512,
            ji.flow_matching(),
        ),
        Size(
            "FLUX.1 with 2 + 2 blocks of 64 features, 128 x 128 pixels",
            _SMALL_FLUX,
            16,
            77,
            ji.flow_matching(),
        ),
    ),
}


class Inputs(NamedTuple):
    """What a batch of calls is given, channels last, float32.

    Attributes:
        x: Noisy latents, shape (b, h, w, c).
        t: Model times, shape (b,).
        conditions: The network's conditions, every array with a leading axis b.
        uncond: The condition of the empty prompt, without that axis.
    """

    x: np.ndarray
    t: np.ndarray
    conditions: Any
    uncond: Any


def make_inputs(size: Size, batch: int) -> Inputs:
    """Random inputs; those of a smaller batch come first in a larger one."""
    rngs = [np.random.default_rng((0, k)) for k in range(batch + 1)]
    latent = (size.latent, size.latent, size.kind.channels(size.config))
    shapes = size.kind.shapes(size)

    def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if shape == ():
            return np.float32(DISTILLED_GUIDANCE)  # type: ignore[return-value]
        return rng.standard_normal(shape, np.float32)

    def condition(rng: np.random.Generator) -> Any:
        is_shape = lambda s: type(s) is tuple  # noqa: E731
        return jax.tree.map(lambda s: drawn(rng, s), shapes, is_leaf=is_shape)

    return Inputs(
        np.stack([rng.standard_normal(latent, np.float32) for rng in rngs[1:]]),
        np.asarray([rng.uniform(10, 990) for rng in rngs[1:]], np.float32),
        jax.tree.map(lambda *each: np.stack(each), *map(condition, rngs[1:])),
        condition(rngs[0]),
    )


def random_value(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 parameter of the JAX model, determined by its path and shape.

    That of a block that is stacked with others depends on the block's path alone.
    """
    if stacked_axes(path):
        return np.stack([random_value(each, shape[1:]) for each in members(path)])
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    value = 2 * rng.random(shape, np.float32) - 1
    if len(shape) == 1:
        return 0.1 * value + path.endswith("scale")
    value *= np.sqrt(3 / np.prod(shape[:-1]))
    return 0.1 * value if path.startswith(_OUTPUT_LAYERS) else value


def jax_network(size: Size, dtype: Any) -> Any:
    """Return the network of this library, parameters and computation in ``dtype``."""
    network = abstract_component(size.config, dtype=dtype, param_dtype=dtype)
    values = {
        path: jnp.asarray(random_value(path, x.shape), dtype)
        for path, x in parameters(network).items()
    }
    return with_parameters(network, values)


def torch_network(size: Size, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Diffusers' network with the same weights; channels last, without gradients."""
    import diffusers

    with torch.device("meta"):
        kind = getattr(diffusers, size.config.class_name)
        network = kind.from_config(size.config.to_dict())
    state = {}
    for path, x in parameters(abstract_component(size.config)).items():
        shape = x.shape[stacked_axes(path) :]
        for member in members(path):
            value = np.ascontiguousarray(to_torch(path, random_value(member, shape)))
            name = tensor_name(member, size.config)
            state[name] = torch.from_numpy(value).to(device, dtype)
    network.load_state_dict(state, assign=True)
    network = network.to(memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)
