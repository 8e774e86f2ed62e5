"""Configuration of the conditional UNet, in diffusers' vocabulary."""

import dataclasses
from typing import Annotated, Any, Literal, Self

from jaxinv.checks import Range
from jaxinv.models.config import (
    Activation,
    Blocks,
    Channels,
    Epsilon,
    Factor,
    Groups,
    Heads,
    Layers,
    ModelConfig,
    Size,
    check_num_layers,
    per_block,
)

_Down = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
_Up = Literal["UpBlock2D", "CrossAttnUpBlock2D"]
_Mid = Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"]
# Kernels of even size would change the size of the latent.
_Kernel = Literal[1, 3, 5, 7, 9, 11, 13, 15]
# Transformer blocks: for a block of the network, or for each of its layers.
_Depth = Annotated[int, Range(0, 64)]
_Depths = Annotated[tuple[_Depth | tuple[_Depth, ...], ...], Blocks]
#: Number of sizes and coordinates that the condition ``text_time`` adds.
NUM_TIME_IDS = 6

_PER_BLOCK = (
    "down_block_types",
    "up_block_types",
    "only_cross_attention",
    "layers_per_block",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "attention_head_dim",
)

# Options of diffusers for parts that are not implemented here (Kandinsky, DeepFloyd,
# GLIGEN and others), with the values that turn them off.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "addition_embed_type_num_heads": (64, None),
    "attention_type": ("default",),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False, None),
    "cross_attention_norm": (None,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "num_class_embeds": (None,),
    "resnet_out_scale_factor": (1.0, None),
    "resnet_skip_time_act": (False, None),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}


@dataclasses.dataclass(frozen=True)
class UNet2DConditionConfig(ModelConfig):
    """Settings of a :class:`~jaxinv.models.UNet2DConditionModel`.

    The fields and defaults are those of diffusers' ``config.json``. Options "per block"
    take one value, or one for each down block (up blocks use the reverse).

    Attributes:
        sample_size: Height and width of the latents the model was trained on.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        center_input_sample: Whether inputs in [0, 1] are mapped to [-1, 1] first.
        flip_sin_to_cos: Whether cosines come first in the timestep embedding.
        freq_shift: Shift of the timestep embedding's frequencies.
        down_block_types: ``DownBlock2D`` or ``CrossAttnDownBlock2D``, per block.
        mid_block_type: ``UNetMidBlock2DCrossAttn``, ``UNetMidBlock2D`` or None.
        up_block_types: ``UpBlock2D`` or ``CrossAttnUpBlock2D``, from the bottom up.
        only_cross_attention: Per block; whether self-attention also looks at the text.
        block_out_channels: Channels, per block.
        layers_per_block: Residual blocks per down block (up blocks have one more).
        downsample_padding: 1, or 0 for padding below and to the right only.
        mid_block_scale_factor: Divisor of the outputs of residual blocks in the middle.
        dropout: Stored but not used: inference has no dropout.
        act_fn: Activation function.
        norm_num_groups: Groups of all group normalizations.
        norm_eps: Added to the variances of the residual blocks' normalizations.
        cross_attention_dim: Size of the text vectors, per block.
        transformer_layers_per_block: Transformer blocks per spatial transformer; per
            block, or per block and layer.
        reverse_transformer_layers_per_block: The same for the up blocks, in their own
            order; the reverse of the above if None.
        attention_head_dim: Number of attention heads, per block. The misleading name is
            kept because published configurations use it.
        num_attention_heads: Number of attention heads, per block; takes precedence.
        use_linear_projection: Dense (SD 2) or convolutional (SD 1) projections.
        addition_embed_type: ``text_time`` (SDXL) for a pooled text vector and six image
            sizes and coordinates, whose embedding is added to that of the time.
        addition_time_embed_dim: Size of the embedding of each of the six.
        projection_class_embeddings_input_dim: Size of the pooled vector plus six times
            ``addition_time_embed_dim``.
        upcast_attention: Whether attention is computed in float32 for every dtype; None
            for False.
        resnet_time_scale_shift: ``default`` or ``scale_shift``.
        time_embedding_dim: Size of the time embedding; four times the first block's
            channels if None.
        time_cond_proj_dim: Size of the embedding of a guidance scale that is an input
            (LCM); None for models without it.
        conv_in_kernel: Kernel size of the first convolution.
        conv_out_kernel: Kernel size of the last convolution.
    """

    class_name = "UNet2DConditionModel"
    unsupported = _UNSUPPORTED

    sample_size: Size | None = None
    in_channels: Channels = 4
    out_channels: Channels = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Range(-1e3, 1e3)] = 0
    down_block_types: Annotated[tuple[_Down, ...], Blocks] = (
        "CrossAttnDownBlock2D",
    ) * 3 + ("DownBlock2D",)
    mid_block_type: _Mid | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Annotated[tuple[_Up, ...], Blocks] = ("UpBlock2D",) + (
        "CrossAttnUpBlock2D",
    ) * 3
    only_cross_attention: bool | Annotated[tuple[bool, ...], Blocks] = False
    block_out_channels: Annotated[tuple[Channels, ...], Blocks] = (
        320, 640, 1280, 1280,
    )  # fmt: skip
    layers_per_block: Layers | Annotated[tuple[Layers, ...], Blocks] = 2
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: Factor = 1.0
    dropout: Annotated[float, Range(0, 1)] = 0.0
    act_fn: Activation = "silu"
    norm_num_groups: Groups = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Channels | Annotated[tuple[Channels, ...], Blocks] = 1280
    transformer_layers_per_block: _Depth | _Depths = 1
    reverse_transformer_layers_per_block: _Depths | None = None
    attention_head_dim: Heads | Annotated[tuple[Heads, ...], Blocks] = 8
    num_attention_heads: Heads | Annotated[tuple[Heads, ...], Blocks] | None = None
    use_linear_projection: bool = False
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Channels | None = None
    projection_class_embeddings_input_dim: Channels | None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    time_embedding_dim: Channels | None = None
    time_cond_proj_dim: Annotated[int, Range(4, 2**16)] | None = None
    conv_in_kernel: _Kernel = 3
    conv_out_kernel: _Kernel = 3

    def __post_init__(self):
        """Check that the options describe a model that can be built."""
        super().__post_init__()
        blocks = len(self.block_out_channels)
        for name in _PER_BLOCK:
            per_block(name, getattr(self, name), blocks)
        for channels, heads in zip(self.block_out_channels, self.heads, strict=True):
            if channels % heads or channels % self.norm_num_groups:
                raise ValueError(
                    f"a block of {channels} channels cannot have {heads} attention "
                    f"heads (attention_head_dim) and {self.norm_num_groups} groups"
                )
        depth = self.transformer_layers_per_block
        nested = isinstance(depth, tuple) and any(isinstance(d, tuple) for d in depth)
        if nested and self.reverse_transformer_layers_per_block is None:
            raise ValueError(
                "transformer_layers_per_block with a value per layer also needs "
                "reverse_transformer_layers_per_block"
            )
        self._check_depths()
        self._check_added()
        half = self.block_out_channels[0] // 2
        if self.freq_shift >= max(half, 1):
            raise ValueError(
                f"freq_shift={self.freq_shift!r} must be less than the {half} "
                "frequencies of the timestep embedding (half of block_out_channels[0])"
            )

    def _check_depths(self) -> None:
        """Check the numbers of layers, per transformer and in total."""
        blocks = len(self.block_out_channels)
        layers = per_block("layers_per_block", self.layers_per_block, blocks)
        down_name = "transformer_layers_per_block"
        down = per_block(down_name, self.transformer_layers_per_block, blocks)
        up_name = f"reverse_{down_name}"
        up = self.reverse_transformer_layers_per_block
        if up is None:
            up, up_name = down[::-1], down_name
        count = 0
        for name, depths, numbers in (
            (down_name, down, layers),
            (up_name, per_block(up_name, up, blocks), [n + 1 for n in layers[::-1]]),
        ):
            for depth, number in zip(depths, numbers, strict=True):
                each = depth if isinstance(depth, tuple) else (depth,) * number
                if len(each) != number:
                    raise ValueError(
                        f"{name} has {len(each)} values for a block of {number} layers"
                    )
                count += number + sum(each)
        check_num_layers(count)

    def _check_added(self) -> None:
        """Check the sizes of the added condition."""
        sizes = {
            name: getattr(self, name)
            for name in (
                "addition_time_embed_dim", "projection_class_embeddings_input_dim",
            )
        }  # fmt: skip
        if self.addition_embed_type is None:
            for name, size in sizes.items():
                if size is not None:
                    raise ValueError(
                        f"{name}={size} is not implemented without "
                        "addition_embed_type='text_time'"
                    )
            return
        missing = [name for name, size in sizes.items() if size is None]
        if missing:
            raise ValueError(
                f"addition_embed_type='text_time' also needs {' and '.join(missing)}"
            )
        each, total = sizes.values()
        if self.pooled_width < 1:
            raise ValueError(
                f"projection_class_embeddings_input_dim={total} leaves no room for a "
                f"text vector beside {NUM_TIME_IDS} embeddings of size {each} "
                "(addition_time_embed_dim)"
            )
        if each // 2 <= self.freq_shift:
            raise ValueError(
                f"addition_time_embed_dim={each} must be more than twice "
                f"freq_shift={self.freq_shift!r}"
            )

    @property
    def pooled_width(self) -> int:
        """Size of the pooled text vector of the added condition; 0 without one."""
        total = self.projection_class_embeddings_input_dim or 0
        return total - NUM_TIME_IDS * (self.addition_time_embed_dim or 0)

    @property
    def time_features(self) -> int:
        """Size of the time embedding."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of attention heads of each down block."""
        heads = self.num_attention_heads
        heads = self.attention_head_dim if heads is None else heads
        return per_block("attention_head_dim", heads, len(self.block_out_channels))

    @property
    def context_widths(self) -> set[int]:
        """Sizes of the text vectors that the blocks with attention use."""
        sizes = per_block(
            "cross_attention_dim",
            self.cross_attention_dim,
            len(self.block_out_channels),
        )
        found = {
            size
            for types in (self.down_block_types, self.up_block_types[::-1])
            for size, kind in zip(sizes, types, strict=True)
            if kind.startswith("CrossAttn")
        }
        mid = self.mid_block_type == "UNetMidBlock2DCrossAttn"
        return found | ({sizes[-1]} if mid else set())

    def to_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` that diffusers reads."""
        values = super().to_dict()
        if values["num_attention_heads"] is not None:
            # diffusers rejects this option and reads the other one with this meaning.
            values["attention_head_dim"] = values["num_attention_heads"]
            values["num_attention_heads"] = None
        return values

    @classmethod
    def sd15(cls) -> Self:
        """Return the settings of Stable Diffusion 1.1 to 1.5."""
        return cls(sample_size=64, cross_attention_dim=768)

    @classmethod
    def sd21(cls) -> Self:
        """Return the settings of Stable Diffusion 2.1 at 768 pixels (v-prediction)."""
        return cls(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
            upcast_attention=True,
        )

    @classmethod
    def sdxl(cls) -> Self:
        """Return the settings of Stable Diffusion XL, Turbo, Lightning, Playground."""
        return cls(
            sample_size=128,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            block_out_channels=(320, 640, 1280),
            cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            upcast_attention=None,
        )

    @classmethod
    def ssd1b(cls) -> Self:
        """Return the settings of Segmind's SSD-1B: SDXL with fewer transformer blocks.

        References:
            Gupta et al., "Progressive Knowledge Distillation Of Stable Diffusion XL
            Using Layer Level Loss", 2024. https://arxiv.org/abs/2401.02677
        """
        return dataclasses.replace(
            cls.sdxl(),
            mid_block_type="UNetMidBlock2D",
            transformer_layers_per_block=(1, (2, 2), (4, 4)),
            reverse_transformer_layers_per_block=((4, 4, 10), (2, 1, 1), 1),
        )
