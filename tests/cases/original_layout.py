"""Diffusers' modules written in the layout in which Stable Diffusion was published.

The original code numbers its layers in the order in which they are built. Here, the
modules are visited in that order; no name is computed from a configuration.
"""

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
MLP = {"linear_1": "0", "linear_2": "2"}


def put(tensors, prefix, module, renamed=None):
    for key, value in module.state_dict().items():
        first, _, rest = key.partition(".")
        first = (renamed or {}).get(first, first)
        tensors[f"{prefix}.{first}.{rest}" if rest else f"{prefix}.{first}"] = value


def unet(model):
    """Tensors of a UNet2DConditionModel by original names without prefix."""
    tensors = {}
    put(tensors, "time_embed", model.time_embedding, MLP)
    if getattr(model, "add_embedding", None) is not None:
        put(tensors, "label_emb.0", model.add_embedding, MLP)
    inputs = [[("", model.conv_in)]]
    for block in model.down_blocks:
        inputs += layers(block)
        for sampler in block.downsamplers or ():
            inputs.append([("op", sampler.conv)])
    outputs = []
    for block in model.up_blocks:
        outputs += layers(block)
        for sampler in block.upsamplers or ():
            outputs[-1].append(("conv", sampler.conv))
    middle = [model.mid_block.resnets[0]]
    for attention, resnet in zip(
        model.mid_block.attentions, model.mid_block.resnets[1:], strict=True
    ):
        middle += [attention, resnet]
    numbered = {"input_blocks": inputs, "output_blocks": outputs}
    for name, places in numbered.items():
        for number, modules in enumerate(places):
            for index, (inner, module) in enumerate(modules):
                at = f"{name}.{number}.{index}" + (f".{inner}" if inner else "")
                put(tensors, at, module, RESNET)
    for index, module in enumerate(middle):
        put(tensors, f"middle_block.{index}", module, RESNET)
    put(tensors, "out.0", model.conv_norm_out)
    put(tensors, "out.2", model.conv_out)
    return tensors


def layers(block):
    found = [[("", resnet)] for resnet in block.resnets]
    for modules, attention in zip(
        found, getattr(block, "attentions", ()), strict=False
    ):
        modules.append(("", attention))
    return found


def autoencoder(model):
    """Tensors of an AutoencoderKL by original names without prefix."""
    tensors = {}
    for name in ("quant_conv", "post_quant_conv"):
        if getattr(model, name) is not None:
            put(tensors, name, getattr(model, name))
    ups = list(model.decoder.up_blocks)[::-1]
    for side, network, name, blocks in (
        ("encoder", model.encoder, "down", model.encoder.down_blocks),
        ("decoder", model.decoder, "up", ups),
    ):
        put(tensors, f"{side}.conv_in", network.conv_in)
        put(tensors, f"{side}.norm_out", network.conv_norm_out)
        put(tensors, f"{side}.conv_out", network.conv_out)
        shortcut = {"conv_shortcut": "nin_shortcut"}
        for i, block in enumerate(blocks):
            for j, resnet in enumerate(block.resnets):
                put(tensors, f"{side}.{name}.{i}.block.{j}", resnet, shortcut)
            for sampler in getattr(block, f"{name}samplers") or ():
                put(tensors, f"{side}.{name}.{i}.{name}sample.conv", sampler.conv)
        mid = network.mid_block
        put(tensors, f"{side}.mid.block_1", mid.resnets[0], shortcut)
        put(tensors, f"{side}.mid.block_2", mid.resnets[1], shortcut)
        attention = mid.attentions[0]
        put(tensors, f"{side}.mid.attn_1.norm", attention.group_norm)
        for old, linear in (
            ("q", attention.to_q),
            ("k", attention.to_k),
            ("v", attention.to_v),
            ("proj_out", attention.to_out[0]),
        ):
            tensors[f"{side}.mid.attn_1.{old}.weight"] = linear.weight[:, :, None, None]
            tensors[f"{side}.mid.attn_1.{old}.bias"] = linear.bias
    return tensors


def clip(model):
    """Tensors of a CLIPTextModel under the names of older transformers."""
    return {
        "text_model." + key.removeprefix("text_model."): value
        for key, value in model.state_dict().items()
    }


def open_clip(model):
    """Tensors of a text encoder in OpenCLIP's layout."""
    text = getattr(model, "text_model", model)
    tensors = {
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
    }
    put(tensors, "ln_final", text.final_layer_norm)
    for number, layer in enumerate(text.encoder.layers):
        at = f"transformer.resblocks.{number}"
        put(tensors, f"{at}.ln_1", layer.layer_norm1)
        put(tensors, f"{at}.ln_2", layer.layer_norm2)
        put(tensors, f"{at}.attn.out_proj", layer.self_attn.out_proj)
        put(tensors, f"{at}.mlp", layer.mlp, {"fc1": "c_fc", "fc2": "c_proj"})
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        for leaf in ("weight", "bias"):
            values = [getattr(each, leaf) for each in projections]
            tensors[f"{at}.attn.in_proj_{leaf}"] = torch.cat(values)
    if getattr(model, "text_projection", None) is not None:
        tensors["text_projection"] = model.text_projection.weight.T
    return tensors
