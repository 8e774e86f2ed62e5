"""ControlNet: a second first half of a UNet that reads an image.

    x         = conv_in(sample) + embed(image)
    states    = first half of a UNet (unet.encoder) of x, the time and the text
    residuals = scale * zero_convolution(state), for each state

The UNet adds the residuals to its own states. They depend on the sample and the time,
so a UNet with ControlNets (:class:`ControlledUNet`) is a network like any other: the
map that it defines is inverted as exactly as that of the UNet alone. The embedding of
the image depends on neither, and is computed once.

Attributes have diffusers' names, so that weights map by rule.

References:
    Zhang, Rao & Agrawala, "Adding Conditional Control to Text-to-Image Diffusion
    Models", 2023. https://arxiv.org/abs/2302.05543
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import LayerFactory
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.controlnet_config import ControlNetConfig
from jaxinv.models.unet.encoder import UNetEncoder
from jaxinv.models.unet.time import time_vector
from jaxinv.models.unet.unet import UNet2DConditionModel


class ControlledCondition(NamedTuple):
    """The inputs of a :class:`ControlledUNet` for one sample.

    Attributes:
        unet: What the UNet alone is given.
        features: For each ControlNet, the embedding of its control image, from
            :meth:`ControlNetModel.embed`.
        scales: For each ControlNet, the factor of its residuals.
    """

    unet: Float[Array, "l d"] | UNetCondition
    features: tuple[Float[Array, "h w e"], ...]
    scales: tuple[Float[Array, ""], ...]


class ConditioningEmbedding(nnx.Module):
    """The layers that bring a control image to the size of the latent.

    Args:
        config: Settings of the ControlNet.
        make: Layer factory.
    """

    def __init__(self, config: ControlNetConfig, make: LayerFactory):
        channels = config.conditioning_embedding_out_channels
        self.conv_in = make.conv(config.conditioning_channels, channels[0])
        blocks = []
        for before, after in itertools.pairwise(channels):
            blocks += [
                make.conv(before, before),
                make.conv(before, after, stride=2, padding=(1, 1)),
            ]
        self.blocks = nnx.List(blocks)
        self.conv_out = _zeroed(make.conv(channels[-1], config.block_out_channels[0]))

    def __call__(self, image: Float[Array, "H W k"]) -> Float[Array, "h w e"]:
        """Embed an image."""
        x = jax.nn.silu(self.conv_in(image))
        for block in self.blocks:
            x = jax.nn.silu(block(x))
        return self.conv_out(x)


class ControlNetModel(UNetEncoder):
    """A network that computes residuals for a UNet from a control image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = ControlNetConfig(
        ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        ...     block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        ...     cross_attention_dim=8, attention_head_dim=2,
        ...     conditioning_embedding_out_channels=(4, 4))
        >>> def residuals(image, x, text):
        ...     net = ControlNetModel(config, rngs=nnx.Rngs(0))
        ...     return net(x, 500.0, text, net.embed(image))
        >>> shapes = [(16, 16, 3), (8, 8, 4), (5, 8)]
        >>> inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        >>> [x.shape for x in jax.eval_shape(residuals, *inputs)]
        [(8, 8, 8), (8, 8, 8), (4, 4, 8), (4, 4, 16), (4, 4, 16)]
    """

    @property
    def image_config(self) -> UNet2DConditionConfig:
        """Settings of a UNet whose first half is that of this model."""
        config: UNet2DConditionConfig = self.config.image_config
        return config

    def build(self, config: ControlNetConfig, make: LayerFactory) -> None:  # type: ignore[override]
        """Make the layers."""
        super().build(config.image_config, make)
        channels = config.block_out_channels
        widths = [channels[0]]
        for i, width in enumerate(channels):
            last = i == len(channels) - 1
            widths += [width] * (config.layers_per_block + (not last))
        self.controlnet_cond_embedding = ConditioningEmbedding(config, make)
        self.controlnet_down_blocks = nnx.List(
            [_zeroed(make.conv(width, width, kernel=1)) for width in widths]
        )
        self.controlnet_mid_block = _zeroed(
            make.conv(channels[-1], channels[-1], kernel=1)
        )

    def embed(self, image: Float[Array, "H W k"]) -> Float[Array, "h w e"]:
        """Embed a control image.

        Args:
            image: Values in [0, 1], as large as the generated image.

        Returns:
            The embedding, as large as the latent, in the compute dtype.

        Raises:
            ValueError: If the image has another number of channels.
        """
        channels = self.config.conditioning_channels
        if jnp.ndim(image) != 3 or image.shape[-1] != channels:
            raise ValueError(
                f"expected a control image of shape (h, w, {channels}), got "
                f"{jnp.shape(image)}"
            )
        if self.config.controlnet_conditioning_channel_order == "bgr":
            image = image[..., ::-1]
        return self.controlnet_cond_embedding(image.astype(self.dtype))

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: Float[Array, "l d"] | UNetCondition,
        features: Float[Array, "h w e"],
    ) -> tuple[Float[Array, "..."], ...]:
        """Return the residuals of the UNet's states.

        Args:
            sample: One noisy latent.
            timestep: Model time.
            condition: What the UNet is given. Inputs for which this network has no
                layers are ignored.
            features: The embedding of the control image, from :meth:`embed`.

        Returns:
            One residual for each skip, and one for the state after the mid block, in
            the compute dtype.

        Raises:
            ValueError: If the embedding is not that of an image of the sample's size.
        """
        config = self.image_config
        if not isinstance(condition, UNetCondition):
            condition = UNetCondition(condition)
        added = config.addition_embed_type is not None
        own = UNetCondition(
            condition.text,
            pooled=condition.pooled if added else None,
            time_ids=condition.time_ids if added else None,
        )
        time = time_vector(self, config, timestep, own)
        x = self.conv_in(sample.astype(self.dtype))
        if features.shape != x.shape:
            factor = self.config.downsampling_factor
            height, width, _ = sample.shape
            raise ValueError(
                f"the control image must have {factor * height}x{factor * width} "
                f"pixels (height x width), {factor} for each of the latent's, so that "
                f"its embedding has shape {x.shape}; got {features.shape}"
            )
        states = self.states(
            x + features.astype(x.dtype), time, own.text.astype(self.dtype)
        )
        layers = [*self.controlnet_down_blocks, self.controlnet_mid_block]
        return tuple(layer(state) for layer, state in zip(layers, states, strict=True))


class ControlledUNet(nnx.Module):
    """A UNet to whose states one or more ControlNets add their residuals.

    Args:
        unet: The UNet.
        controlnets: The ControlNets, whose residuals are summed.
    """

    def __init__(
        self, unet: UNet2DConditionModel, controlnets: Sequence[ControlNetModel]
    ):
        self.unet = unet
        self.controlnets = nnx.List(list(controlnets))

    @property
    def config(self) -> UNet2DConditionConfig:
        """Settings of the UNet."""
        config: UNet2DConditionConfig = self.unet.config
        return config

    @property
    def dtype(self) -> jnp.dtype:
        """Data type of the UNet's computation."""
        return self.unet.dtype

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: ControlledCondition,
    ) -> Float[Array, "h w k"]:
        """Predict noise, velocity or data, depending on how the UNet was trained.

        Args:
            sample: One noisy latent.
            timestep: Model time.
            condition: The UNet's condition, and an embedded image and a scale for each
                ControlNet.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If there is not one image and one scale for each ControlNet.
        """
        inner, features, scales = condition
        if not len(self.controlnets) == len(features) == len(scales):
            raise ValueError(
                f"expected an image and a scale for each of {len(self.controlnets)} "
                f"ControlNets, got {len(features)} images and {len(scales)} scales"
            )
        if not isinstance(inner, UNetCondition):
            inner = UNetCondition(inner)
        total: tuple[Array, ...] | None = None
        for net, image, scale in zip(self.controlnets, features, scales, strict=True):
            found = net(sample, timestep, inner, image)
            found = tuple(scale.astype(x.dtype) * x for x in found)
            if total is not None:
                found = tuple(a + b for a, b in zip(total, found, strict=True))
            total = found
        return self.unet(sample, timestep, inner._replace(residuals=total))


def _zeroed(layer: nnx.Conv) -> nnx.Conv:
    """Return a layer whose output is zero until it is trained or loaded."""
    for param in (layer.kernel, layer.bias):
        assert param is not None
        value = param.get_value()
        if isinstance(value, jax.Array):
            param.set_value(jnp.zeros_like(value))
    return layer
