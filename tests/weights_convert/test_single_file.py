"""Files in the original layout give the models of diffusers' folders, bit by bit."""

import shlex
import subprocess
import sys

import diffusers
import numpy as np
import original_layout
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file

import weights_convert
from jaxinv.models.parameters import parameters
from weights_convert import WeightsError
from weights_convert.single_file import open_single_file

# Every channel number is a multiple of 32 groups and of the heads that a generation
# has: what the tensors do not show has the published value.
UNETS = {
    "sd1": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "cross_attention_dim": 64,
        "sample_size": 64,
    },
    "sd2": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "upcast_attention": True,
        "transformer_layers_per_block": (1, 2),
        "sample_size": 96,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "cross_attention_dim": 192,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "upcast_attention": None,
        "transformer_layers_per_block": (1, 2),
        "sample_size": 128,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 96,
    },
}
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
}
TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_attention_heads": 1,
    "max_position_embeddings": 16,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
OPEN_CLIP = TEXT | {"hidden_act": "gelu"}
# What each generation has besides: image size, scale of the latents, text encoders.
GENERATIONS = {
    "sd1": (512, 0.18215, [TEXT | {"num_hidden_layers": 2, "projection_dim": 64}]),
    "sd2": (768, 0.18215, [OPEN_CLIP | {"num_hidden_layers": 23}]),
    "sdxl": (
        1024,
        0.13025,
        [
            TEXT | {"num_hidden_layers": 2, "projection_dim": 64},
            OPEN_CLIP
            | {
                "hidden_size": 128,
                "num_attention_heads": 2,
                "num_hidden_layers": 2,
                "projection_dim": 96,
            },
        ],
    ),
}


def modules(generation):
    """A small random model of diffusers and transformers, by parts."""
    torch.manual_seed(0)
    pixels, scaling_factor, texts = GENERATIONS[generation]
    models = {
        "unet": diffusers.UNet2DConditionModel(**UNETS[generation]),
        "vae": diffusers.AutoencoderKL(
            **AUTOENCODER, sample_size=pixels, scaling_factor=scaling_factor
        ),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**texts[0])
        ),
    }
    for text in texts[1:]:
        models["text_encoder_2"] = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**text)
        )
    return models


PREFIXES = {
    "sd1": ("cond_stage_model.transformer.", original_layout.clip),
    "sd2": ("cond_stage_model.model.", original_layout.open_clip),
    "sdxl": ("conditioner.embedders.0.transformer.", original_layout.clip),
}


def original(models, generation):
    """The tensors of a model in the original layout."""
    prefix, write_text = PREFIXES[generation]
    parts = {
        "model.diffusion_model.": original_layout.unet(models["unet"]),
        "first_stage_model.": original_layout.autoencoder(models["vae"]),
        prefix: write_text(models["text_encoder"]),
    }
    if "text_encoder_2" in models:
        second = original_layout.open_clip(models["text_encoder_2"])
        parts["conditioner.embedders.1.model."] = second
    return {
        prefix + name: value
        for prefix, tensors in parts.items()
        for name, value in tensors.items()
    }


def extra(generation):
    """Tensors of published files that no network of a pipeline has."""
    one = torch.ones(4)
    found = {
        "alphas_cumprod": one,
        "model_ema.decay": one,
        "model_ema.diffusion_modelinput_blocks00weight": one,
        "first_stage_model.loss.logvar": one,
        "cond_stage_model.logit_scale": one,
    }
    if generation == "sd1":
        at = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        return found | {at: torch.arange(16)[None]}
    if generation == "sdxl":
        scale = "conditioner.embedders.1.model.logit_scale"
        return found | {scale: one[0], "denoiser.sigmas": one}
    last = "cond_stage_model.model.transformer.resblocks.23"
    return found | {
        "cond_stage_model.model.text_projection": torch.ones(64, 64),
        f"{last}.ln_1.weight": one,
        f"{last}.attn.in_proj_weight": one,
    }


@pytest.fixture(scope="module", params=GENERATIONS)
def saved(request, tmp_path_factory):
    """(generation, diffusers' folder, file in the original layout, PyTorch's models)"""
    generation = request.param
    folder = tmp_path_factory.mktemp(generation)
    models = modules(generation)
    for part, model in models.items():
        model.save_pretrained(folder / part)
    tensors = original(models, generation) | extra(generation)
    write(folder / "model.safetensors", tensors)
    return generation, folder, folder / "model.safetensors", models


def write(path, tensors):
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, path)


def assert_same(found, wanted):
    assert found.config == wanted.config
    found, wanted = parameters(found), parameters(wanted)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_every_part_is_that_of_the_folder_with_the_inferred_configuration(saved):
    _, folder, file, models = saved
    opened = open_single_file(file)
    assert opened.configs.keys() == models.keys()
    for part in models:
        assert_same(opened.load(part), weights_convert.load_component(folder / part))


def test_diffusers_reads_the_same_weights_from_the_file(saved):
    _, folder, file, models = saved
    for part, model in models.items():
        if part.startswith("text_encoder"):
            read = single_file_utils.create_diffusers_clip_model_from_ldm(
                type(model), load_file(file), subfolder=part, config=str(folder)
            )
        else:
            read = type(model).from_single_file(
                str(file), config=str(folder), subfolder=part
            )
        found, wanted = read.state_dict(), model.state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


OWN_PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": tuple(prefix for prefix, _ in PREFIXES.values()),
}


@pytest.mark.parametrize("part", OWN_PREFIXES)
def test_a_file_of_one_part_has_no_prefix(saved, tmp_path, part):
    _, folder, file, _ = saved
    tensors = {
        name.removeprefix(prefix): value
        for name, value in load_file(file).items()
        for prefix in OWN_PREFIXES[part]
        if name.startswith(prefix)
    }
    path = tmp_path / "part.safetensors"
    write(path, tensors)
    wanted = weights_convert.load_component(folder / part)
    # An autoencoder does not show its generation: diffusers assumes the first.
    given = {part: wanted.config} if part == "vae" else {}
    opened = open_single_file(path, given)
    assert list(opened.configs) == [part]
    assert_same(opened.load(part), wanted)


A = "model.diffusion_model."
DAMAGES = {
    "missing": (
        {f"{A}out.2.bias": None},
        r"'model\.diffusion_model\.out\.2\.bias' is missing, which is conv_out\.bias",
    ),
    "without blocks": (
        {f"{A}input_blocks.1.0.out_layers.3.weight": None},
        r"the unet is incomplete: .*input_blocks",
    ),
    "unknown in a part": (
        {"first_stage_model.decoder.extra.weight": torch.ones(2, 3)},
        r"'first_stage_model\.decoder\.extra\.weight' of shape \(2, 3\) has no place",
    ),
    "of no part": (
        {"some_model.weight": torch.ones(2)},
        r"'some_model\.weight' belongs to none of the parts unet, vae, text_encoder",
    ),
    "wrong shape": (
        {f"{A}out.0.bias": torch.ones(5)},
        r"'model\.diffusion_model\.out\.0\.bias' has shape \(5,\).*requires",
    ),
    "not finite": (
        {f"{A}out.0.bias": torch.full((32,), torch.nan)},
        r"'model\.diffusion_model\.out\.0\.bias' has 32 of 32 values that are NaN",
    ),
    "the same part twice": (
        {"vae.encoder.norm_out.weight": torch.ones(2)},
        r"holds two parts vae: tensors 'first_stage_model\.enc.*'vae\.enc",
    ),
    "refiner": (
        {"conditioner.embedders.0.model.ln_final.bias": torch.ones(5)},
        "refiner",
    ),
}


@pytest.mark.parametrize("saved", ["sd1"], indirect=True)
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_with_a_file_is_named(saved, tmp_path, name):
    changes, message = DAMAGES[name]
    tensors = load_file(saved[2]) | changes
    path = tmp_path / "model.safetensors"
    write(path, {key: value for key, value in tensors.items() if value is not None})
    with pytest.raises(WeightsError, match=message):
        open_single_file(path).load("unet")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("double_blocks.0.img_attn.norm.key_norm.scale", "a model of FLUX"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.weight", "Diffusion 3"),
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA"),
        ("control_model.time_embed.0.weight", "a ControlNet"),
        ("emb_params", "a textual inversion"),
        ("first", r"no known model \(1 tensors, the first are 'first'\)"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path, tensor, message):
    write(tmp_path / "other.safetensors", {tensor: torch.ones(2, 2)})
    with pytest.raises(WeightsError, match=message):
        open_single_file(tmp_path / "other.safetensors")


@pytest.mark.parametrize("saved", ["sd1"], indirect=True)
@pytest.mark.parametrize("end", ["ckpt", "pt"])
def test_a_pickle_is_refused_with_the_line_that_converts_it(saved, tmp_path, end):
    file = saved[2]
    pickle = tmp_path / f"model.{end}"
    torch.save({"state_dict": load_file(file), "epoch": 3}, pickle)
    with pytest.raises(WeightsError, match="is a pickle, which can run code") as caught:
        open_single_file(pickle)
    line = str(caught.value).partition("PyTorch: python -c ")[2]
    _, code, *names = shlex.split("-c " + line)
    assert names == ["model.ckpt", "model.safetensors"]
    if end == "ckpt":
        converted = tmp_path / "model.safetensors"
        subprocess.run([sys.executable, "-c", code, pickle, converted], check=True)
        assert_same(
            open_single_file(converted).load("unet"),
            open_single_file(file).load("unet"),
        )


@pytest.mark.parametrize(
    ("saved", "extra", "expected"),
    [
        ("sd1", {}, ("PNDMScheduler", "epsilon")),
        ("sd2", {}, ("DDIMScheduler", "v_prediction")),
        ("sd2", {"global_step": torch.tensor(875000)}, ("DDIMScheduler", "epsilon")),
        ("sd2", {"global_step": torch.tensor(1)}, ("DDIMScheduler", "v_prediction")),
        ("sdxl", {}, ("EulerDiscreteScheduler", "epsilon")),
        (
            "sdxl",
            {"v_pred": torch.tensor(1), "ztsnr": torch.tensor(1)},
            ("EulerDiscreteScheduler", "v_prediction"),
        ),
    ],
    indirect=["saved"],
)
def test_the_scheduler_is_that_of_the_generation(saved, tmp_path, extra, expected):
    path = tmp_path / "model.safetensors"
    write(path, load_file(saved[2]) | extra)
    scheduler = open_single_file(path).scheduler
    assert (scheduler["_class_name"], scheduler["prediction_type"]) == expected
    # diffusers accepts every option.
    kind = getattr(diffusers, scheduler["_class_name"])
    built = kind.from_config(scheduler)
    options = {key: value for key, value in scheduler.items() if key[0] != "_"}
    assert options.items() <= dict(built.config).items()
