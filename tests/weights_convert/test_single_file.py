"""Files in the original layout give the models of diffusers' folders, bit by bit."""

import inspect
import shlex
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from sdxl_cases import PLAYGROUND_SCHEDULER
from single_files import GENERATIONS, PREFIXES, SCHEDULERS, write, write_both

import weights_convert
from jaxinv.models.parameters import parameters
from weights_convert import WeightsError
from weights_convert.single_file import open_single_file


@pytest.fixture(scope="module", params=GENERATIONS)
def saved(request, tmp_path_factory):
    """(generation, diffusers' folder, file in the original layout, PyTorch's models)"""
    generation = request.param
    folder = tmp_path_factory.mktemp(generation)
    models = write_both(folder, generation)
    return generation, folder, folder / "model.safetensors", models


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


V = {"prediction_type": "v_prediction"}
NOISE = {"prediction_type": "epsilon"}


@pytest.mark.parametrize(
    ("saved", "extra", "changes"),
    [
        ("sd1", {}, {}),
        ("sd2", {}, {}),
        ("sd2", {"global_step": torch.tensor(875000)}, NOISE),
        ("sd2", {"global_step": torch.tensor(1)}, {}),
        ("sdxl", {}, {}),
        ("sdxl", {"v_pred": torch.tensor(1)}, V),
        ("sdxl", {"ztsnr": torch.tensor(1)}, {"rescale_betas_zero_snr": True}),
    ],
    indirect=["saved"],
)
def test_the_scheduler_is_the_published_one(saved, tmp_path, extra, changes):
    path = tmp_path / "model.safetensors"
    write(path, load_file(saved[2]) | extra)
    published = SCHEDULERS[saved[0]] | changes
    scheduler = getattr(diffusers, published["_class_name"])
    found = open_single_file(path).scheduler
    assert found["_class_name"] == published["_class_name"]
    ours, theirs = scheduler.from_config(found), scheduler.from_config(published)
    keys = inspect.signature(scheduler).parameters
    assert [ours.config[key] for key in keys] == [theirs.config[key] for key in keys]


@pytest.mark.parametrize("saved", ["sdxl"], indirect=True)
def test_playground_is_sdxl_with_normalized_latents(saved, tmp_path):
    path = tmp_path / "model.safetensors"
    latents = {"edm_mean": torch.arange(4.0), "edm_std": 1 + torch.arange(4.0)}
    shaped = {name: value[None, :, None, None] for name, value in latents.items()}
    write(path, load_file(saved[2]) | shaped)
    opened = open_single_file(path)
    vae = opened.configs["vae"]
    assert (vae.latents_mean, vae.latents_std) == ((0, 1, 2, 3), (1, 2, 3, 4))
    assert vae.scaling_factor == 0.5
    assert opened.scheduler == PLAYGROUND_SCHEDULER
