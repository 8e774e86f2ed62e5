"""Stable Diffusion 3, from a folder that diffusers saved, beside its pipeline there."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sd3_cases import (
    CHANNELS,
    PUBLISHED,
    SIZE,
    run_sd3,
    sd3_pipeline,
    write_sd3_pipeline,
)
from sdxl_cases import edit
from test_sdxl import relative_error

import jaxinv as ji
import weights_convert
from jaxinv.models.parameters import parameters

# Those of Stable Diffusion 3.5 medium: every kind of block.
OPTIONS = PUBLISHED["sd35_medium"]
PROMPTS = {
    "prompt": "red cat",
    "prompt_2": "a",
    "prompt_3": "b",
    "negative_prompt": "blue",
    "negative_prompt_2": "c",
    "negative_prompt_3": "d",
    "max_sequence_length": 5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd3") / "tiny"
    write_sd3_pipeline(folder, **OPTIONS)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return ji.load(folder)


@pytest.fixture(scope="module", params=[False, True], ids=["without T5", "with T5"])
def both(request, folder, tmp_path_factory):
    """Our pipeline and that of diffusers."""
    if request.param:
        folder = tmp_path_factory.mktemp("sd3") / "whole"
        write_sd3_pipeline(folder, t5=True, **OPTIONS)
    return ji.load(folder), sd3_pipeline(folder)


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return rng.standard_normal((SIZE, SIZE, CHANNELS), np.float32)


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


def vectors_of_diffusers(theirs, options):
    """Text and pooled vectors of the prompt and of the negative prompt."""
    given = {"prompt_2": None, "prompt_3": None} | options
    text, negative, pooled, negative_pooled = theirs.encode_prompt(**given)
    pairs = (text, pooled), (negative, negative_pooled)
    return [[each[0].detach().numpy() for each in pair] for pair in pairs]


@pytest.mark.parametrize(
    "options", [{"prompt": "red cat"}, PROMPTS], ids=["one", "all"]
)
def test_prompt_vectors_are_those_of_diffusers(both, options):
    pipe, theirs = both
    wanted = vectors_of_diffusers(theirs, options)
    given = {"negative_prompt": ""} | options
    prompts = given.pop("prompt"), given.pop("negative_prompt")
    for prompt, pair, negative in zip(prompts, wanted, (False, True), strict=True):
        found = pipe.encode_prompt(prompt, negative=negative, **given)
        for name, ours, reference in zip(found._fields, found, pair, strict=True):
            error = relative_error(ours, reference)
            print(f"{name}: largest error {error:.1e} of the RMS")
            assert error < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_eight_steps_are_those_of_diffusers(both, noise, guidance):
    pipe, theirs = both
    asked = {"guidance_scale": guidance}
    ours = generated(pipe.sampler(8), pipe.denoiser(**PROMPTS, **asked), noise)
    wanted = run_sd3(theirs, noise, **PROMPTS, **asked, num_inference_steps=8)
    error = relative_error(ours, wanted)
    print(f"8 steps at guidance {guidance}: largest error {error:.1e} of the RMS")
    assert error < 1e-4


def test_every_text_has_an_effect(both):
    pipe, _ = both
    whole = pipe.text_encoders[2] is not None

    def change(**options):
        negative = any(name.startswith("negative") for name in options)
        plain = pipe.encode_prompt("red cat", negative=negative)
        found = pipe.encode_prompt("red cat", negative=negative, **options)
        return [bool((a != b).any()) for a, b in zip(found, plain, strict=True)]

    assert change(prompt_2="a") == change(negative_prompt_2="a") == [True, True]
    assert change(prompt_3="a") == change(negative_prompt_3="a") == [whole, False]
    lengths = [
        len(pipe.encode_prompt("red cat", max_sequence_length=n).text) for n in (0, 5)
    ]
    assert lengths == [16, 16 + 5]


@pytest.fixture
def copy(tmp_path):
    write_sd3_pipeline(tmp_path, t5=True)
    return tmp_path


@pytest.mark.parametrize("patch_size", [1, 2])
def test_levels_are_shifted_by_the_number_of_tokens(tmp_path, patch_size):
    write_sd3_pipeline(tmp_path, patch_size=patch_size, pos_embed_max_size=16)
    path = tmp_path / "scheduler/scheduler_config.json"
    edit(path, use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64)
    theirs = sd3_pipeline(tmp_path)
    noise = np.zeros((SIZE, SIZE + 4, CHANNELS), np.float32)
    run_sd3(theirs, noise, prompt="a", num_inference_steps=8, height=16, width=24)
    sampler = ji.load(tmp_path).sampler(8, (16, 24))
    times = sampler.model_time[:0:-1]
    np.testing.assert_allclose(times, theirs.scheduler.timesteps, rtol=1e-5)


def test_a_negative_prompt_counts_above_guidance_1(pipe):
    assert [pipe.family.reads_negative(pipe, scale) for scale in (1, 1.1)] == [0, 1]


def test_sizes_that_the_table_of_positions_does_not_cover_are_refused(pipe):
    assert pipe.image_size == (2 * SIZE, 2 * SIZE)
    assert pipe.at_size((24, 20)).latent_shape == (12, 10, CHANNELS)
    with pytest.raises(ValueError, match="at most 12"):
        pipe.at_size((28, 20))
    with pytest.raises(ValueError, match=r"20x18 pixels do not fit .* of \(2, 2\)"):
        pipe.at_size((18, 20))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("text_encoder", {"hidden_size": 14}, "side by side"),
        ("text_encoder_3", {"d_model": 20}, "T5's have 20"),
        ("text_encoder_2", {"projection_dim": 9}, "pooled text vector of size 16"),
        ("text_encoder_2", {"max_position_embeddings": 8}, "equally many tokens"),
        ("transformer", {"in_channels": 4}, "4 input channels"),
        ("transformer", {"out_channels": 32}, "32 output channels"),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, part, changes, message):
    edit(copy / part / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        ji.load(copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_size": (64, 64)}, "has no option 'target_size'"),
        ({"prompt_3": 3}, "prompt_3"),
        ({"max_sequence_length": 513}, "max_sequence_length"),
        ({"max_sequence_length": 2.0}, "max_sequence_length"),
    ],
)
def test_wrong_options_are_refused(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe.encode_prompt("red", **options)


# Layers in every run of stacked blocks, and outside of them: inputs and outputs.
LAYERS = {
    "transformer_blocks.0.attn.to_q": (16, 16),
    "transformer_blocks.0.attn2.to_out.0": (16, 16),
    "transformer_blocks.1.attn.add_k_proj": (16, 16),
    "transformer_blocks.1.norm1_context.linear": (16, 96),
    "transformer_blocks.2.ff.net.0.proj": (16, 64),
    "context_embedder": (24, 16),
}


def lora_file(path, name_of, ends):
    """Write a LoRA of some layers under the names of one program."""
    rng = np.random.default_rng(0)
    save_file(
        {
            name_of(name) + end: 0.3 * rng.standard_normal(shape, np.float32)
            for name, (inputs, outputs) in LAYERS.items()
            for end, shape in zip(ends, [(2, inputs), (outputs, 2)], strict=True)
        },
        path,
    )


def test_a_lora_of_stacked_blocks_is_that_of_diffusers(folder, pipe, tmp_path):
    file, peft = tmp_path / "lora.safetensors", (".lora_A.weight", ".lora_B.weight")
    lora_file(file, "transformer.{}".format, peft)
    theirs = sd3_pipeline(folder)
    theirs.load_lora_weights(tmp_path, weight_name=file.name)
    theirs.fuse_lora(components=["transformer"], lora_scale=0.7)
    theirs.unload_lora_weights()
    wanted = theirs.transformer.state_dict()
    styled = ji.load(folder, lora=[(file, 0.7)]).network
    weights_convert.save_component(styled, tmp_path / "styled")
    found = load_file(tmp_path / "styled/diffusion_pytorch_model.safetensors")
    before = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
        changed = name.removesuffix(".weight") in LAYERS
        assert changed == (np.abs(found[name] - before[name]).max() > 1e-3)

    # Kohya's programs name the same layers with underscores.
    for prefix in ("lora_transformer_", "lora_unet_"):
        kohya = (".lora_down.weight", ".lora_up.weight")
        lora_file(file, lambda name, p=prefix: p + name.replace(".", "_"), kohya)
        again = parameters(ji.merge_lora(pipe, [(file, 0.7)]).network)
        for path, value in parameters(styled).items():
            np.testing.assert_array_equal(again[path], value)
