"""CLIP's text encoders, for one prompt.

It is a causal transformer over token embeddings. Stable Diffusion 1 reads the output of
the last layer after the final normalization. Stable Diffusion 2 was trained on the
penultimate layer; its published encoder therefore omits the last one. SDXL reads the
penultimate layers of two encoders without the normalization
(``penultimate_hidden_state``), and the second one's pooled vector after a projection.

References:
    Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", 2021. https://arxiv.org/abs/2103.00020
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxinv.checks import Range, shown
from jaxinv.files.json_fields import check_record
from jaxinv.models.config import Activation, Channels, Epsilon, Heads, ModelConfig
from jaxinv.models.layers.attention import Implementation, dot_product_attention
from jaxinv.models.layers.basic import LayerFactory, Model, activation
from jaxinv.models.layers.remat import Remat, rematerialized

# The end-of-text token id that older configurations contain by mistake.
_LEGACY_EOS = 2

_Token = Annotated[int, Range(0, 2**24)]


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig(ModelConfig):
    """Settings of a :class:`CLIPTextModel`, as in transformers' ``config.json``.

    Attributes:
        vocab_size: Number of tokens.
        hidden_size: Size of the text vectors.
        intermediate_size: Width of the feed-forward layers.
        num_hidden_layers: Number of transformer layers.
        num_attention_heads: Number of attention heads.
        max_position_embeddings: Longest sequence.
        hidden_act: ``quick_gelu`` (OpenAI's CLIP) or ``gelu`` (OpenCLIP).
        layer_norm_eps: Added to the variances.
        projection_dim: Size of the projected pooled vector; stored but not used by
            models without projection.
        bos_token_id: Token that starts a text.
        eos_token_id: Token that ends a text.
        pad_token_id: Token that pads a text.
    """

    class_name = "CLIPTextModel"

    vocab_size: Annotated[int, Range(1, 2**24)] = 49408
    hidden_size: Channels = 512
    intermediate_size: Channels = 2048
    num_hidden_layers: Annotated[int, Range(1, 64)] = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Annotated[int, Range(1, 2**20)] = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    projection_dim: Channels = 512
    bos_token_id: _Token | None = 49406
    eos_token_id: _Token = 49407
    pad_token_id: Annotated[int, Range(-1, 2**24)] | None = 1

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} cannot be split into "
                f"{self.num_attention_heads} heads"
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a transformers ``config.json``.

        Options that are not fields of this class are ignored: transformers writes
        dozens that do not affect the model.

        Raises:
            ValueError: If this is another kind of model, or not implemented.
        """
        kind = data.get("model_type", "clip_text_model")
        if kind != "clip_text_model":
            raise ValueError(f"model_type={shown(kind)} is not implemented")
        if data.get("use_attention_mask"):
            raise ValueError("use_attention_mask=True is not implemented")
        return check_record(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` that transformers reads."""
        options = super().to_dict()
        name = options.pop("_class_name")
        return {"architectures": [name], "model_type": "clip_text_model", **options}

    @classmethod
    def sd15(cls) -> Self:
        """Return the settings of Stable Diffusion 1: OpenAI's CLIP ViT-L/14."""
        return cls(
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            projection_dim=768,
            bos_token_id=0,
            eos_token_id=_LEGACY_EOS,
        )

    @classmethod
    def sd21(cls) -> Self:
        """Return the settings of Stable Diffusion 2: OpenCLIP ViT-H/14, 23 layers."""
        return cls(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            bos_token_id=0,
            eos_token_id=_LEGACY_EOS,
        )


@dataclasses.dataclass(frozen=True)
class CLIPTextWithProjectionConfig(CLIPTextConfig):
    """Settings of a :class:`CLIPTextModelWithProjection`; see :class:`CLIPTextConfig`.

    Example:
        >>> CLIPTextWithProjectionConfig.sdxl().projection_dim
        1280
    """

    class_name = "CLIPTextModelWithProjection"

    @classmethod
    def sdxl(cls) -> Self:
        """Return the settings of SDXL's second encoder: OpenCLIP ViT-bigG/14."""
        return cls(
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
            bos_token_id=0,
            eos_token_id=_LEGACY_EOS,
        )


class CLIPTextOutput(NamedTuple):
    """Output of the text encoder.

    Attributes:
        last_hidden_state: Last layer after the final normalization; (l, d).
        penultimate_hidden_state: Penultimate layer, not normalized; (l, d).
        pooled: ``last_hidden_state`` at the end-of-text token, (d,); after the
            projection, if the model has one, (projection_dim,).
    """

    last_hidden_state: Float[Array, "l d"]
    penultimate_hidden_state: Float[Array, "l d"]
    pooled: Float[Array, " p"]


class CLIPAttention(nnx.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: CLIPTextConfig, make: LayerFactory):
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.implementation: Implementation = None
        self.q_proj = make.linear(d, d)
        self.k_proj = make.linear(d, d)
        self.v_proj = make.linear(d, d)
        self.out_proj = make.linear(d, d)

    def __call__(self, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
        """Apply attention of every token to itself and the tokens before it."""
        query, key, value = (
            projection(x).reshape(x.shape[0], self.heads, -1)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = dot_product_attention(
            query, key, value, is_causal=True, implementation=self.implementation
        )
        return self.out_proj(y.reshape(x.shape))


class CLIPMLP(nnx.Module):
    """Position-wise network."""

    def __init__(self, config: CLIPTextConfig, make: LayerFactory):
        self.activation = activation(config.hidden_act)
        self.fc1 = make.linear(config.hidden_size, config.intermediate_size)
        self.fc2 = make.linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
        """Apply the network to every token."""
        return self.fc2(self.activation(self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """Attention and position-wise network, each residual on a normalized input."""

    def __init__(self, config: CLIPTextConfig, make: LayerFactory):
        d, epsilon = config.hidden_size, config.layer_norm_eps
        self.remat: Remat = "none"
        self.layer_norm1 = make.layer_norm(d, epsilon=epsilon)
        self.self_attn = CLIPAttention(config, make)
        self.layer_norm2 = make.layer_norm(d, epsilon=epsilon)
        self.mlp = CLIPMLP(config, make)

    @rematerialized
    def __call__(self, x: Float[Array, "l d"]) -> Float[Array, "l d"]:
        """Apply the layer."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: CLIPTextConfig, make: LayerFactory):
        self.layers = nnx.List(
            [CLIPEncoderLayer(config, make) for _ in range(config.num_hidden_layers)]
        )


class CLIPTextEmbeddings(nnx.Module):
    """Token embeddings plus learned position embeddings."""

    def __init__(self, config: CLIPTextConfig, make: LayerFactory):
        d = config.hidden_size
        self.token_embedding = make.embedding(config.vocab_size, d)
        self.position_embedding = make.embedding(config.max_position_embeddings, d)

    def __call__(self, input_ids: Int[Array, " l"]) -> Float[Array, "l d"]:
        """Embed a sequence of tokens."""
        positions = jnp.arange(input_ids.shape[0])
        return self.token_embedding(input_ids) + self.position_embedding(positions)


class CLIPTextModel(Model):
    """CLIP's text encoder, without projection."""

    def build(self, config: CLIPTextConfig, make: LayerFactory) -> None:
        """Make the layers."""
        self.embeddings = CLIPTextEmbeddings(config, make)
        self.encoder = CLIPEncoder(config, make)
        self.final_layer_norm = make.layer_norm(
            config.hidden_size, epsilon=config.layer_norm_eps
        )

    def __call__(self, input_ids: Int[Array, " l"]) -> CLIPTextOutput:
        """Encode one prompt.

        Args:
            input_ids: Token ids, padded to the tokenizer's length.

        Returns:
            Hidden states and the pooled vector, in the compute dtype.

        Raises:
            ValueError: If the sequence is longer than the model allows.
        """
        longest = self.config.max_position_embeddings
        if input_ids.shape[0] > longest:
            raise ValueError(
                f"{input_ids.shape[0]} tokens given, but the text encoder takes "
                f"at most {longest}"
            )
        x = self.embeddings(input_ids)
        penultimate = x
        for layer in self.encoder.layers:
            penultimate = x
            x = layer(x)
        last = self.final_layer_norm(x)
        # The id 2 means "unknown": the end token is then the largest id.
        eos = self.config.eos_token_id
        ends = input_ids if eos == _LEGACY_EOS else input_ids == eos
        return CLIPTextOutput(last, penultimate, last[jnp.argmax(ends)])


class CLIPTextModelWithProjection(CLIPTextModel):
    """CLIP's text encoder with a projection of the pooled vector (SDXL's second)."""

    def build(self, config: CLIPTextConfig, make: LayerFactory) -> None:
        """Make the layers."""
        super().build(config, make)
        self.text_projection = make.linear(
            config.hidden_size, config.projection_dim, use_bias=False
        )

    def __call__(self, input_ids: Int[Array, " l"]) -> CLIPTextOutput:
        """Encode one prompt; see :class:`CLIPTextModel`.

        Args:
            input_ids: Token ids, padded to the tokenizer's length.

        Returns:
            Hidden states and the projected pooled vector, in the compute dtype.

        Raises:
            ValueError: If the sequence is longer than the model allows.
        """
        output = super().__call__(input_ids)
        return output._replace(pooled=self.text_projection(output.pooled))
