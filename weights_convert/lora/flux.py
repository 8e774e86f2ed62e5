"""Names of FLUX's layers in Black Forest Labs' own code, which many LoRA files use.

There, queries, keys and values are one dense layer, and in a block of one stream the
position-wise network's first layer is part of it, too: its outputs are those of several
layers here, one after another.
"""

from collections.abc import Iterator

from jaxinv.models import FluxTransformer2DConfig

_DOUBLE: dict[str, dict[str, tuple[str, ...]]] = {
    "{0}_attn.qkv": {
        "img": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "{0}_attn.proj": {"img": ("attn.to_out.0",), "txt": ("attn.to_add_out",)},
    "{0}_mlp.0": {"img": ("ff.net.0.proj",), "txt": ("ff_context.net.0.proj",)},
    "{0}_mlp.2": {"img": ("ff.net.2",), "txt": ("ff_context.net.2",)},
    "{0}_mod.lin": {"img": ("norm1.linear",), "txt": ("norm1_context.linear",)},
}
_SINGLE: dict[str, tuple[str, ...]] = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
# The last layer's modulation is left out: its two halves are the other way round.
_ONCE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in": "time_text_embed.timestep_embedder",
    "guidance_in": "time_text_embed.guidance_embedder",
    "vector_in": "time_text_embed.text_embedder",
    "final_layer.linear": "proj_out",
}
_TWO_LAYERS = {"in_layer": "linear_1", "out_layer": "linear_2"}


def original_layers(
    config: FluxTransformer2DConfig,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the layers of the original code.

    Args:
        config: Configuration of the transformer.

    Yields:
        The layer's original name, and the names in diffusers of the layers that its
        outputs belong to, in order.
    """
    for i in range(config.num_layers):
        for name, streams in _DOUBLE.items():
            for stream, layers in streams.items():
                own = tuple(f"transformer_blocks.{i}.{layer}" for layer in layers)
                yield f"double_blocks.{i}.{name.format(stream)}", own
    for i in range(config.num_single_layers):
        for name, layers in _SINGLE.items():
            own = tuple(f"single_transformer_blocks.{i}.{layer}" for layer in layers)
            yield f"single_blocks.{i}.{name}", own
    for name, layer in _ONCE.items():
        if not layer.startswith("time_text_embed"):
            yield name, (layer,)
        elif config.guidance_embeds or name != "guidance_in":
            for theirs, ours in _TWO_LAYERS.items():
                yield f"{name}.{theirs}", (f"{layer}.{ours}",)
