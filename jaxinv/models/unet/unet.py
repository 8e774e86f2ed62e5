"""The text-conditional UNet of Stable Diffusion 1, 2 and XL, for one sample.

    first half: time embedding, conv_in, down and mid blocks (unet.encoder)
    skips, x += residuals of ControlNets, if any
    up:   residual (+ attention) blocks that each concatenate one skip, upsampling
    out = conv_out(act(norm(x)))

Attributes have diffusers' names, so that weights map by rule (see ``weights_convert``).

References:
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models",
    2022. https://arxiv.org/abs/2112.10752
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.config import per_block
from jaxinv.models.layers.basic import LayerFactory, activation
from jaxinv.models.unet.blocks import TransformerSpec, UpBlock
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.config import UNet2DConditionConfig
from jaxinv.models.unet.encoder import UNetEncoder
from jaxinv.models.unet.time import time_vector


class UNet2DConditionModel(UNetEncoder):
    """A UNet conditioned on a timestep and a sequence of text vectors.

    The module is a pytree: pass it as an argument to jitted or vmapped functions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> config = UNet2DConditionConfig(
        ...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        ...     up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ...     block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        ...     cross_attention_dim=8, attention_head_dim=2)
        >>> make = lambda: UNet2DConditionModel(config, rngs=nnx.Rngs(0))
        >>> x, text = jnp.ones((8, 8, 4)), jnp.ones((5, 8))
        >>> jax.eval_shape(lambda: make()(x, 500.0, text)).shape  # nothing is computed
        (8, 8, 4)
    """

    # Networks for videos make it differently.
    up_block: Any = UpBlock

    def build(self, config: UNet2DConditionConfig, make: LayerFactory) -> None:
        """Make the layers."""
        super().build(config, make)
        channels = config.block_out_channels
        n = len(channels)
        blocks = self.blocks(config, make)
        layers = per_block("layers_per_block", config.layers_per_block, n)
        specs = _up_transformer_specs(config)
        self.activation = activation(config.act_fn)
        self.up_blocks = nnx.List(
            [
                self.up_block(
                    channels[min(i + 1, n - 1)],
                    channels[i],
                    skip_channels=channels[max(i - 1, 0)],
                    num_layers=layers[i] + 1,
                    transformer=specs[n - 1 - i],
                    upsample=i > 0,
                    blocks=blocks,
                )
                for i in reversed(range(n))
            ]
        )
        self.conv_norm_out = make.group_norm(
            config.norm_num_groups, channels[0], epsilon=config.norm_eps
        )
        self.conv_out = make.conv(
            channels[0], config.out_channels, kernel=config.conv_out_kernel
        )

    def __call__(
        self,
        sample: Float[Array, "h w c"],
        timestep: Float[Array, ""] | float,
        condition: Float[Array, "l d"] | UNetCondition,
    ) -> Float[Array, "h w k"]:
        """Predict noise, velocity or data, depending on how the model was trained.

        Args:
            sample: One noisy latent. Any size works; models are trained on multiples of
                ``2 ** (blocks - 1)``.
            timestep: Model time, 0 to 999 for Stable Diffusion; may be fractional.
            condition: Text vectors, alone or with other inputs.

        Returns:
            The prediction, in the dtype of ``sample``.

        Raises:
            ValueError: If the condition lacks an input that the configuration asks for,
                has one that it does not, or one of another shape.
        """
        config = self.image_config
        if not isinstance(condition, UNetCondition):
            condition = UNetCondition(condition)
        time = time_vector(self, config, timestep, condition)
        context = condition.text.astype(self.dtype)
        x = sample.astype(self.dtype)
        if config.center_input_sample:
            x = 2 * x - 1

        *skips, x = _added(
            self.states(self.conv_in(x), time, context), condition.residuals
        )
        for up in self.up_blocks:
            taken = len(up.resnets)
            skips, own = skips[:-taken], skips[-taken:]
            # Downsampling rounds odd sizes up: return to the size of the skip.
            size = skips[-1].shape[-3:-1] if skips else None
            x = up(x, time, context, own, size)
        return self.output(x).astype(sample.dtype)

    def output(self, x: Float[Array, "h w c"]) -> Float[Array, "h w k"]:
        """Return the prediction from the last state."""
        return self.conv_out(self.activation(self.conv_norm_out(x)))


def _added(
    states: list[Float[Array, "..."]], residuals: tuple[Float[Array, "..."], ...] | None
) -> list[Float[Array, "..."]]:
    """Return the states of the first half of a UNet with residuals added to them."""
    if residuals is None:
        return states
    shapes = [[x.shape for x in arrays] for arrays in (states, residuals)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the condition's residuals must have the shapes {shapes[0]}, those of the "
            f"skips and of the state after the mid block, got {shapes[1]}"
        )
    return [
        x + residual.astype(x.dtype)
        for x, residual in zip(states, residuals, strict=True)
    ]


def _up_transformer_specs(
    config: UNet2DConditionConfig,
) -> list[TransformerSpec | None]:
    """Return the attention settings of the up blocks."""
    n = len(config.block_out_channels)
    heads = config.heads
    context = per_block("cross_attention_dim", config.cross_attention_dim, n)
    only_cross = per_block("only_cross_attention", config.only_cross_attention, n)
    depths = config.reverse_transformer_layers_per_block
    if depths is None:
        down = config.transformer_layers_per_block
        depths = per_block("transformer_layers_per_block", down, n)[::-1]
    depths = per_block("reverse_transformer_layers_per_block", depths, n)
    return [
        TransformerSpec(heads[-1 - i], depths[i], context[-1 - i], only_cross[-1 - i])
        if config.up_block_types[i] == "CrossAttnUpBlock2D"
        else None
        for i in range(n)
    ]
