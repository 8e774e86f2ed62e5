"""The blocks that Stable Diffusion 3 and FLUX share, for one sample.

A *joint block* keeps two sequences, the image's tokens and the text's. Each has its own
norms, projections and position-wise network, and both attend to the two together. The
time, with the pooled text, shifts, scales and gates every part:

    x <- x + gate_1 * attention(norm(x) (1 + scale_1) + shift_1, ...)
    x <- x + gate_2 * network(norm(x) (1 + scale_2) + shift_2)

References:
    Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", arXiv:2212.09748
    (adaLN-Zero).
    Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image
    Synthesis", arXiv:2403.03206, Figure 2 (joint attention).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxinv.models.layers.attention import Implementation, dot_product_attention
from jaxinv.models.layers.basic import LayerFactory, Placeholder, gelu_tanh
from jaxinv.models.layers.hook import Kind, LayerHook
from jaxinv.models.layers.remat import Remat, rematerialized
from jaxinv.models.layers.rotary import Rotary, rotated

#: Added to the variances of all norms of these models.
EPSILON = 1e-6


def modulated(
    x: Float[Array, "l d"], shift: Float[Array, " d"], scale: Float[Array, " d"]
) -> Float[Array, "l d"]:
    """Return ``x (1 + scale) + shift``."""
    return x * (1 + scale) + shift


class AdaLayerNormZero(nnx.Module):
    """A layer norm whose shift and scale come from the time, with further vectors.

    Args:
        features: Size of the tokens and of the time's vector.
        parts: Number of vectors that the time gives: shift and scale of this norm, and
            those of later parts of the block.
        make: Layer factory.
    """

    def __init__(self, features: int, *, parts: int, make: LayerFactory):
        self.parts = parts
        self.linear = make.linear(features, parts * features)
        self.norm = make.layer_norm(features, epsilon=EPSILON, affine=False)

    def __call__(
        self, x: Float[Array, "l d"], time: Float[Array, " d"]
    ) -> tuple[Float[Array, "l d"], list[Float[Array, " d"]]]:
        """Return the normalized tokens, and the time's vectors beyond the first two."""
        shift, scale, *others = jnp.split(self.linear(jax.nn.silu(time)), self.parts)
        return modulated(self.norm(x), shift, scale), others


class AdaLayerNormContinuous(nnx.Module):
    """A layer norm whose scale and shift come from the time, in this order."""

    def __init__(self, features: int, *, make: LayerFactory):
        self.linear = make.linear(features, 2 * features)
        self.norm = make.layer_norm(features, epsilon=EPSILON, affine=False)

    def __call__(
        self, x: Float[Array, "l d"], time: Float[Array, " d"]
    ) -> Float[Array, "l d"]:
        """Return the normalized tokens."""
        scale, shift = jnp.split(self.linear(jax.nn.silu(time)), 2)
        return modulated(self.norm(x), shift, scale)


class _Projected(nnx.Module):
    """A dense layer and GELU, approximated by a hyperbolic tangent."""

    def __init__(self, in_features: int, out_features: int, *, make: LayerFactory):
        self.proj = make.linear(in_features, out_features)

    def __call__(self, x: Float[Array, "l c"]) -> Float[Array, "l c2"]:
        return gelu_tanh(self.proj(x))


class FeedForward(nnx.Module):
    """Position-wise network of two layers.

    Args:
        features: Size of the tokens.
        inner: Size between the layers; four times ``features`` if None.
        make: Layer factory.
    """

    def __init__(self, features: int, *, inner: int | None = None, make: LayerFactory):
        inner = 4 * features if inner is None else inner
        self.net = nnx.List(
            [
                _Projected(features, inner, make=make),
                Placeholder(),
                make.linear(inner, features),
            ]
        )

    def __call__(self, x: Float[Array, "l c"]) -> Float[Array, "l c"]:
        """Apply the network to every token."""
        return self.net[2](self.net[0](x))


class JointAttention(nnx.Module):
    """Attention of one sequence, or of two to both together.

    Args:
        features: Size of the tokens.
        heads: Number of heads; must divide ``features``.
        joint: Whether there is a second sequence, the text's.
        text_output: Whether the second sequence has an output.
        output: Whether the first sequence's output is projected.
        qk_norm: Whether queries and keys are divided by their root mean square.
        make: Layer factory.

    The attribute ``implementation`` is set by :func:`jaxinv.models.with_options`,
    ``hook`` by :func:`jaxinv.models.with_hook`.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        joint: bool = False,
        text_output: bool = True,
        output: bool = True,
        qk_norm: bool = True,
        make: LayerFactory,
    ):
        self.heads = heads
        self.joint = joint
        self.implementation: Implementation = None
        self.kind: Kind = "joint" if joint else "self"
        self.hook: LayerHook | None = None

        def norm():
            size = features // heads
            return make.rms_norm(size, epsilon=EPSILON) if qk_norm else None

        self.to_q = make.linear(features, features)
        self.to_k = make.linear(features, features)
        self.to_v = make.linear(features, features)
        self.norm_q, self.norm_k = norm(), norm()
        self.to_out = nnx.List([make.linear(features, features)]) if output else None
        if joint:
            self.add_q_proj = make.linear(features, features)
            self.add_k_proj = make.linear(features, features)
            self.add_v_proj = make.linear(features, features)
            self.norm_added_q, self.norm_added_k = norm(), norm()
            self.to_add_out = make.linear(features, features) if text_output else None

    def __call__(
        self,
        x: Float[Array, "l c"],
        text: Float[Array, "k c"] | None = None,
        rotary: Rotary | None = None,
        text_length: int = 0,
    ) -> tuple[Float[Array, "l c"], Float[Array, "k c"] | None]:
        """Let both sequences attend to the text's tokens followed by the image's.

        Args:
            x: Tokens of the image.
            text: Tokens of the text, if ``joint``.
            rotary: Rotations of the tokens of both, the text's first.
            text_length: Number of text tokens in ``x``, which come first, for hooks.

        Returns:
            The outputs of both; None for the text's if it has none.
        """
        query, key, value = (
            self._by_head(layer(x)) for layer in (self.to_q, self.to_k, self.to_v)
        )
        query, key = _normed(self.norm_q, query), _normed(self.norm_k, key)
        if text is not None:
            q, k, v = (
                self._by_head(layer(text))
                for layer in (self.add_q_proj, self.add_k_proj, self.add_v_proj)
            )
            q, k = _normed(self.norm_added_q, q), _normed(self.norm_added_k, k)
            query, key, value = (
                jnp.concatenate(both) for both in ((q, query), (k, key), (v, value))
            )
        if rotary is not None:
            query, key = rotated(query, rotary), rotated(key, rotary)
        length = 0 if text is None else text.shape[0]
        hook = self.hook and self.hook.moved(text_length=length or text_length)
        y = dot_product_attention(
            query, key, value, implementation=self.implementation, hook=hook
        )
        y = y.reshape(y.shape[0], -1)
        y, y_text = y[length:], y[:length]
        y = y if self.to_out is None else self.to_out[0](y)
        if text is None or self.to_add_out is None:
            return y, None
        return y, self.to_add_out(y_text)

    def _by_head(self, x: Float[Array, "l c"]) -> Float[Array, "l n d"]:
        return x.reshape(x.shape[0], self.heads, -1)


def _normed(norm: nnx.RMSNorm | None, x: Float[Array, "l n d"]) -> Float[Array, "..."]:
    return x if norm is None else norm(x)


class JointTransformerBlock(nnx.Module):
    """A joint block.

    Args:
        features: Size of the tokens, of the text and of the time's vector.
        heads: Number of heads.
        qk_norm: Whether queries and keys are divided by their root mean square.
        dual: Whether the image's tokens also attend to themselves alone (SD3.5).
        context_pre_only: Whether the text ends here: it is attended to, and not changed
            (SD3's last block).
        make: Layer factory.
    """

    def __init__(
        self,
        features: int,
        *,
        heads: int,
        qk_norm: bool = True,
        dual: bool = False,
        context_pre_only: bool = False,
        make: LayerFactory,
    ):
        self.remat: Remat = "none"
        self.norm1 = AdaLayerNormZero(features, parts=9 if dual else 6, make=make)
        self.norm1_context: Any = (
            AdaLayerNormContinuous(features, make=make)
            if context_pre_only
            else AdaLayerNormZero(features, parts=6, make=make)
        )
        self.attn = JointAttention(
            features,
            heads=heads,
            joint=True,
            text_output=not context_pre_only,
            qk_norm=qk_norm,
            make=make,
        )
        self.attn2 = (
            JointAttention(features, heads=heads, qk_norm=qk_norm, make=make)
            if dual
            else None
        )
        self.norm2 = make.layer_norm(features, epsilon=EPSILON, affine=False)
        self.ff = FeedForward(features, make=make)
        self.norm2_context = (
            None
            if context_pre_only
            else make.layer_norm(features, epsilon=EPSILON, affine=False)
        )
        self.ff_context: Any = (
            None if context_pre_only else FeedForward(features, make=make)
        )

    @rematerialized
    def __call__(
        self,
        carry: tuple[Float[Array, "l d"], Float[Array, "k d"]],
        time: Float[Array, " d"],
        rotary: Rotary | None = None,
    ) -> tuple[Float[Array, "l d"], Float[Array, "k d"]]:
        """Return the tokens of the image and of the text after the block.

        Args:
            carry: Tokens of the image and of the text.
            time: Vector of the time and of the whole text.
            rotary: Rotations of all tokens, the text's first.
        """
        x, text = carry
        y, changes = self.norm1(x, time)
        if self.ff_context is None:
            y_text, text_changes = self.norm1_context(text, time), []
        else:
            y_text, text_changes = self.norm1_context(text, time)
        attended, attended_text = self.attn(y, y_text, rotary)
        gate, shift2, scale2, gate2, *dual = changes
        after = x + gate * attended
        if self.attn2 is not None:
            shift, scale, gate = dual
            attended, _ = self.attn2(modulated(self.norm1.norm(x), shift, scale))
            after = after + gate * attended
        x = after + gate2 * self.ff(modulated(self.norm2(after), shift2, scale2))
        if attended_text is None or self.norm2_context is None:
            return x, text
        gate, shift2, scale2, gate2 = text_changes
        text = text + gate * attended_text
        y_text = modulated(self.norm2_context(text), shift2, scale2)
        return x, text + gate2 * self.ff_context(y_text)
