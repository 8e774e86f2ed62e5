"""Stable Diffusion 2.1's UNet with random weights, the same in JAX and PyTorch.

Weights are uniform, of the variance that keeps activations at theirs. The last layer is
a tenth of that: a trained denoiser changes slowly with its input, and a random one that
does not cannot be inverted.
"""

import dataclasses
import zlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch

from jaxinv.models import (
    UNet2DConditionConfig,
    UNet2DConditionModel,
    abstract_component,
)
from jaxinv.models.parameters import parameters, with_parameters
from weights_convert.rules import tensor_name, to_torch


class Size(NamedTuple):
    """A model and what it is run on.

    Attributes:
        name: Of the size, in tables.
        config: Of the UNet.
        latent: Height and width of a latent.
        tokens: Number of text vectors.
    """

    name: str
    config: UNet2DConditionConfig
    latent: int
    tokens: int


_SD21 = dataclasses.replace(UNet2DConditionConfig.sd21(), sample_size=64)
FULL = Size("Stable Diffusion 2.1, 512 x 512 pixels", _SD21, 64, 77)
SMALL = Size(
    "two levels of 32 and 64 channels, 128 x 128 pixels",
    dataclasses.replace(
        _SD21,
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=64,
    ),
    16,
    77,
)


class Inputs(NamedTuple):
    """What a batch of calls is given, channels last, float32.

    Attributes:
        x: Noisy latents, shape (b, h, w, 4).
        t: Model times, shape (b,).
        texts: Text vectors, shape (b, l, d).
        uncond: Text vectors of the empty prompt, shape (l, d).
    """

    x: np.ndarray
    t: np.ndarray
    texts: np.ndarray
    uncond: np.ndarray


def make_inputs(size: Size, batch: int) -> Inputs:
    """Random inputs; those of a smaller batch come first in a larger one."""
    rngs = [np.random.default_rng((0, k)) for k in range(batch + 1)]
    width = size.config.cross_attention_dim
    latent, text = (size.latent, size.latent, 4), (size.tokens, width)
    return Inputs(
        np.stack([rng.standard_normal(latent, np.float32) for rng in rngs[1:]]),
        np.asarray([rng.uniform(10, 990) for rng in rngs[1:]], np.float32),
        np.stack([rng.standard_normal(text, np.float32) for rng in rngs[1:]]),
        rngs[0].standard_normal(text, np.float32),
    )


def random_value(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a float32 parameter of the JAX model, determined by its path and shape."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    value = 2 * rng.random(shape, np.float32) - 1
    if len(shape) == 1:
        return 0.1 * value + path.endswith("scale")
    value *= np.sqrt(3 / np.prod(shape[:-1]))
    return 0.1 * value if path.startswith("conv_out") else value


def jax_unet(size: Size, dtype: Any) -> UNet2DConditionModel:
    """Return the UNet of this library, parameters and computation in ``dtype``."""
    unet = abstract_component(size.config, dtype=dtype, param_dtype=dtype)
    values = {
        path: jnp.asarray(random_value(path, x.shape), dtype)
        for path, x in parameters(unet).items()
    }
    return with_parameters(unet, values)


def torch_unet(size: Size, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Diffusers' UNet with the same weights; channels last, without gradients."""
    import diffusers

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(size.config.to_dict())
    shapes = parameters(abstract_component(size.config))
    state = {
        tensor_name(path, size.config): torch.from_numpy(
            np.ascontiguousarray(to_torch(path, random_value(path, x.shape)))
        ).to(device, dtype)
        for path, x in shapes.items()
    }
    unet.load_state_dict(state, assign=True)
    unet = unet.to(memory_format=torch.channels_last)
    return unet.eval().requires_grad_(False)
