"""Configurations of T5's encoders, in the format of transformers."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from jaxinv.checks import Range, shown
from jaxinv.files.json_fields import check_record
from jaxinv.models.config import Channels, Epsilon, Heads, Layers, ModelConfig


@dataclasses.dataclass(frozen=True)
class T5Config(ModelConfig):
    """Settings of a :class:`~jaxinv.models.text_encoders.t5.T5EncoderModel`.

    Attributes:
        vocab_size: Number of tokens.
        d_model: Size of the text vectors.
        d_kv: Size of each attention head, independent of ``d_model``.
        d_ff: Width of the feed-forward layers.
        num_layers: Number of blocks.
        num_heads: Number of attention heads.
        relative_attention_num_buckets: Number of classes of relative positions.
        relative_attention_max_distance: Distance from which on all positions are in the
            last class.
        layer_norm_epsilon: Added to the mean squares.
        feed_forward_proj: ``"gated-gelu"`` (T5 1.1 and UMT5) or ``"relu"`` (T5 1.0).

    Example:
        >>> T5Config.xxl().d_model
        4096
    """

    class_name = "T5EncoderModel"
    model_type: ClassVar[str] = "t5"

    vocab_size: Annotated[int, Range(1, 2**24)] = 32128
    d_model: Channels = 512
    d_kv: Channels = 64
    d_ff: Channels = 2048
    num_layers: Layers = 6
    num_heads: Heads = 8
    relative_attention_num_buckets: Annotated[int, Range(4, 2**12)] = 32
    relative_attention_max_distance: Annotated[int, Range(2, 2**20)] = 128
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["relu", "gated-gelu"] = "relu"

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        buckets = self.relative_attention_num_buckets
        if buckets % 4 or self.relative_attention_max_distance <= buckets // 4:
            raise ValueError(
                "relative_attention_num_buckets must be a multiple of 4, and "
                "relative_attention_max_distance more than a quarter of it, got "
                f"{buckets} and {self.relative_attention_max_distance}"
            )

    @property
    def hidden_size(self) -> int:
        """Size of the text vectors."""
        return self.d_model

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a transformers ``config.json``.

        Options that are not fields of this class are ignored: transformers writes
        dozens that do not affect the encoder. It derives ``dense_act_fn`` and
        ``is_gated_act`` from ``feed_forward_proj``.

        Raises:
            ValueError: If this is another kind of model, or not implemented.
        """
        kind = data.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"model_type={shown(kind)} does not fit the class {cls.class_name} "
                f"(implemented: {cls.model_type!r})"
            )
        if data.get("is_decoder"):
            raise ValueError("is_decoder=True is not implemented")
        return check_record(cls, data)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` that transformers reads."""
        options = super().to_dict()
        name = options.pop("_class_name")
        return {"architectures": [name], "model_type": self.model_type, **options}

    @classmethod
    def xxl(cls) -> Self:
        """Return the settings of T5 1.1 XXL, in Stable Diffusion 3, FLUX and PixArt."""
        return cls(
            d_model=4096,
            d_ff=10240,
            num_layers=24,
            num_heads=64,
            feed_forward_proj="gated-gelu",
        )


@dataclasses.dataclass(frozen=True)
class UMT5Config(T5Config):
    """Settings of a :class:`~jaxinv.models.text_encoders.t5.UMT5EncoderModel`.

    See :class:`T5Config`.

    Example:
        >>> UMT5Config.xxl().vocab_size
        256384
    """

    class_name = "UMT5EncoderModel"
    model_type = "umt5"

    vocab_size: Annotated[int, Range(1, 2**24)] = 250112
    d_ff: Channels = 1024
    num_layers: Layers = 8
    num_heads: Heads = 6
    feed_forward_proj: Literal["relu", "gated-gelu"] = "gated-gelu"

    @classmethod
    def xxl(cls) -> Self:
        """Return the settings of UMT5 XXL, in Wan."""
        return dataclasses.replace(super().xxl(), vocab_size=256384)
