"""The residual block of UNets and autoencoders.

    h = conv1(act(norm1(x)));  h = h + W act(time)   ("default")
    h = conv2(act(norm2(h)));  y = (shortcut(x) + h) / output_scale

With ``"scale_shift"`` the time embedding scales and shifts the result of the second
normalization instead of being added before it. A block that resamples halves or doubles
x and the input of conv1.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from jaxinv.models.layers.basic import LayerFactory, halved, nearest
from jaxinv.models.layers.hook import Kind, LayerHook
from jaxinv.models.layers.remat import PRODUCT, Remat, rematerialized


class ResnetBlock2D(nnx.Module):
    """A residual block, optionally conditioned on a time embedding.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; a 1x1 shortcut is made if they differ.
        time_features: Size of the time embedding, or None for no conditioning.
        groups: Number of groups of both normalizations.
        epsilon: Added to the variances.
        activation: Non-linearity.
        time_scale_shift: ``"default"`` or ``"scale_shift"``.
        output_scale: Divisor of the output.
        resample: ``"down"`` halves height and width (averages of 2 by 2 pixels),
            ``"up"`` doubles them (repetition), None keeps them.
        make: Layer factory.

    The attribute ``hook`` is set by :func:`jaxinv.models.with_hook`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_features: int | None,
        groups: int,
        epsilon: float,
        activation: Callable[[Array], Array],
        time_scale_shift: str = "default",
        output_scale: float = 1.0,
        resample: Literal["down", "up"] | None = None,
        make: LayerFactory,
    ):
        self.resample = resample
        self.remat: Remat = "none"
        self.kind: Kind = "residual"
        self.hook: LayerHook | None = None
        self.activation = activation
        self.scale_shift = time_scale_shift == "scale_shift"
        self.output_scale = output_scale
        self.norm1 = make.group_norm(groups, in_channels, epsilon=epsilon)
        self.conv1 = make.conv(in_channels, out_channels)
        width = out_channels * (2 if self.scale_shift else 1)
        self.time_emb_proj = (
            None if time_features is None else make.linear(time_features, width)
        )
        self.norm2 = make.group_norm(groups, out_channels, epsilon=epsilon)
        self.conv2 = make.conv(out_channels, out_channels)
        self.conv_shortcut = (
            None
            if in_channels == out_channels
            else make.conv(in_channels, out_channels, kernel=1)
        )

    @rematerialized
    def __call__(
        self,
        x: Float[Array, "h w c"],
        time: Float[Array, " d"] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Float[Array, "h2 w2 c2"]:
        """Apply the block; ``time`` is required if the block is conditioned.

        ``size`` is that of the output of a block that doubles, twice the input's by
        default; pass it by name.
        """
        h = self.activation(self.norm1(x))
        if self.resample == "down":
            x, h = halved(x), halved(h)
        elif self.resample == "up":
            size = (2 * x.shape[-3], 2 * x.shape[-2]) if size is None else size
            x, h = nearest(x, size), nearest(h, size)
        h = self.conv1(h)
        h = checkpoint_name(h, PRODUCT)
        if self.time_emb_proj is None:
            h = self.norm2(h)
        elif time is None:
            raise ValueError("this block requires a time embedding")
        else:
            projected = self.time_emb_proj(self.activation(time))
            if self.scale_shift:
                scale, shift = jnp.split(projected, 2)
                h = self.norm2(h) * (1 + scale) + shift
            else:
                h = self.norm2(h + projected)
        h = self.conv2(self.activation(h))
        if self.hook is not None:
            h = self.hook.features(h)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        y = x + h
        return y if self.output_scale == 1 else y / self.output_scale
