"""LoRA files of FLUX, in diffusers' names and in those of the original code."""

import diffusers
import numpy as np
import pytest
from flux_cases import TINY, flux_transformer
from safetensors.numpy import save_file

import weights_convert
from jaxinv.models.parameters import parameters
from weights_convert import WeightsError
from weights_convert.lora import merge_lora

SIZE = TINY["num_attention_heads"] * TINY["attention_head_dim"]
# Layers of the original code, with the sizes of their outputs and inputs. The first
# layer of a single block is apart: diffusers knows it only at full size.
ORIGINAL = {
    f"double_blocks.1.{stream}_{name}": shape
    for stream in ("img", "txt")
    for name, shape in {
        "attn.qkv": (3 * SIZE, SIZE),
        "attn.proj": (SIZE, SIZE),
        "mlp.0": (4 * SIZE, SIZE),
        "mlp.2": (SIZE, 4 * SIZE),
        "mod.lin": (6 * SIZE, SIZE),
    }.items()
} | {
    "single_blocks.0.linear2": (SIZE, 5 * SIZE),
    "single_blocks.0.modulation.lin": (3 * SIZE, SIZE),
}
LINEAR1 = {"single_blocks.1.linear1": (7 * SIZE, SIZE)}
PARTS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Our transformer and diffusers', with the same weights."""
    folder = tmp_path_factory.mktemp("lora") / "transformer"
    theirs = flux_transformer(TINY)
    theirs.save_pretrained(folder)
    return weights_convert.load_component(folder), folder


def factors(layers, style, alpha=None, rank=2):
    """Random tensors of a file."""
    rng = np.random.default_rng(0)
    ends = ("lora_down", "lora_up") if style == "kohya" else ("lora_A", "lora_B")
    tensors = {}
    for name, (outputs, inputs) in layers.items():
        stem = f"{style}.{name}"
        if style == "kohya":
            stem = "lora_unet_" + name.replace(".", "_")
        for end, shape in zip(ends, ((rank, inputs), (outputs, rank)), strict=True):
            tensors[f"{stem}.{end}.weight"] = rng.normal(size=shape)
        if alpha is not None:
            tensors[f"{stem}.alpha"] = np.array(alpha)
    return {key: value.astype(np.float32) for key, value in tensors.items()}


def merged(models, tensors, path, scale=0.7):
    """Our parameters with a file's changes."""
    save_file(tensors, path)
    found = merge_lora({"transformer": models[0]}, [(path, scale)])["transformer"]
    return parameters(found)


def fused_by_diffusers(models, path, folder, scale=0.7):
    """The parameters after diffusers has merged a file."""
    transformer = diffusers.FluxTransformer2DModel.from_pretrained(models[1])
    parts = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    pipe = diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        **dict.fromkeys(parts),
    )
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    pipe.fuse_lora(components=["transformer"], lora_scale=scale)
    pipe.unload_lora_weights()
    pipe.transformer.save_pretrained(folder)
    return parameters(weights_convert.load_component(folder))


def assert_same(found, wanted, before):
    """All parameters agree; returns the paths of those that were changed."""
    for path, value in wanted.items():
        error = np.abs(np.asarray(found[path]) - value).max()
        # Both sides round a few sums, in another order.
        assert error <= 4 * np.finfo(np.float32).eps * np.abs(value).max(), path
    return {path for path in before if (found[path] != before[path]).any()}


@pytest.mark.parametrize("style", ["kohya", "transformer"])
def test_merged_parameters_are_those_of_fuse_lora(models, tmp_path, style):
    layers = ORIGINAL
    if style == "transformer":
        layers = {
            key.removesuffix(".weight"): shape
            for key, shape in weights_convert.tensor_shapes(models[0].config).items()
            if len(shape) == 2 and "blocks" in key
        }
    path = tmp_path / "lora.safetensors"
    alpha = 3.0 if style == "kohya" else None
    found = merged(models, factors(layers, style, alpha), path)
    wanted = fused_by_diffusers(models, path, tmp_path / "fused")
    changed = assert_same(found, wanted, parameters(models[0]))
    assert len(changed) == (16 if style == "kohya" else 20)


@pytest.mark.parametrize("style", ["kohya", "diffusion_model"])
def test_a_layer_that_is_several_here_changes_each_by_its_rows(models, tmp_path, style):
    tensors = factors(LINEAR1, style, alpha=1.0)
    found = merged(models, tensors, tmp_path / "lora.safetensors", scale=2.0)
    before = parameters(models[0])
    down, up, alpha = tensors.values()
    change = 2.0 * alpha / len(down) * (up @ down)
    for name in PARTS:
        path = f"single_transformer_blocks.0:2.{name}.kernel"
        rows = found[path].shape[-1]
        np.testing.assert_allclose(
            found[path][1] - before[path][1], change[:rows].T, atol=1e-5
        )
        np.testing.assert_array_equal(found[path][0], before[path][0])
        change = change[rows:]
    assert not len(change)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (factors({"single_blocks.2.linear1": (112, 16)}, "kohya"), "no place"),
        (factors({"single_blocks.1.linear1": (96, 16)}, "kohya"), "112 outputs"),
        (factors({"single_blocks.1.linear1": (112, 8)}, "kohya"), "requires"),
        (
            factors({"final_layer.adaLN_modulation.1": (32, 16)}, "kohya"),
            "no place",
        ),
        (
            factors(LINEAR1, "kohya")
            | factors(
                {"single_transformer_blocks.1.attn.to_k": (16, 16)}, "transformer"
            ),
            "same layer",
        ),
        (
            factors(LINEAR1, "lora_te3"),
            "no place",
        ),
    ],
)
def test_what_cannot_be_merged_is_named(models, tmp_path, tensors, message):
    with pytest.raises(WeightsError, match=message):
        merged(models, tensors, tmp_path / "lora.safetensors")
