"""LaVie from its published file: the folder, the pipeline, and its inverse."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch_lavie import LaVie
from video_cases import randomized

import jaxinv as ji
import weights_convert
from jaxinv.loading.lavie import lavie_folder
from jaxinv.models import LaVieUNetConfig, UNet2DConditionConfig

IMAGE_MODEL = UNet2DConditionConfig(
    sample_size=8,
    block_out_channels=(32,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("UpBlock2D",),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=16,
    attention_head_dim=1,
)
FRAMES, PROMPT, NEGATIVE, GUIDANCE = 3, "red cat", "blue", 4.0


@pytest.fixture(scope="module")
def unet():
    """The random UNet in PyTorch."""
    config = LaVieUNetConfig.from_image(IMAGE_MODEL)
    model = randomized(LaVie(dataclasses.asdict(config)))
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        model.conv_out.weight *= 0.05
    return model


@pytest.fixture(scope="module")
def published(unet, diffusers_folder, tmp_path_factory):
    """A folder with LaVie's file, and one of the image model that it extends."""
    folder = tmp_path_factory.mktemp("pretrained_models")
    save_file(unet.state_dict(), folder / "lavie_base.safetensors")
    shutil.copytree(diffusers_folder, folder / "stable-diffusion")
    config = folder / "stable-diffusion/unet/config.json"
    config.write_text(json.dumps(IMAGE_MODEL.to_dict()))
    return folder


@pytest.fixture(scope="module")
def pipe(published):
    weights, image_model = "lavie_base.safetensors", "stable-diffusion"
    made = lavie_folder(
        published / weights, published / image_model, published / "lavie"
    )
    return ji.load(made).at_frames(FRAMES)


@pytest.fixture(scope="module")
def noise(pipe):
    return jax.random.normal(jax.random.key(0), pipe.latent_shape)


def test_the_guided_prediction_equals_pytorch(pipe, unet, noise):
    sample = torch.from_numpy(np.moveaxis(np.array(noise), -1, 1).copy())
    with torch.no_grad():
        cond, uncond = (
            unet(sample, 321.0, torch.from_numpy(np.array(pipe.encode_prompt(text))))
            for text in (PROMPT, NEGATIVE)
        )
    wanted = np.moveaxis((uncond + GUIDANCE * (cond - uncond)).numpy(), 1, -1)
    denoise = pipe.denoiser(PROMPT, NEGATIVE, GUIDANCE)
    found = jax.jit(lambda f, x: f(x, 321.0))(denoise, noise)
    error = np.abs(found - wanted).max() / np.sqrt(np.mean(wanted**2))
    assert error < 1e-4


def test_the_inverse_is_exact_and_certified(pipe, noise):
    with pytest.warns(ji.LossyGridWarning):
        sampler = pipe.sampler(5)
    denoise = pipe.denoiser(PROMPT, NEGATIVE, GUIDANCE)
    found = ji.invert(sampler, denoise, ji.sample(sampler, denoise, noise))
    assert found.converged
    difference = np.sum((found.noise - noise) ** 2) / np.sum(noise**2)
    assert 10 * np.log10(difference) < -80


def test_the_schedule_is_that_of_the_published_settings(pipe):
    wanted = ji.linear(1e-4, 0.02, 1000)
    # diffusers, and so the model, has these numbers in float32: 1 - beta is rounded.
    rounding = np.finfo(np.float32).eps / 1e-4
    np.testing.assert_allclose(pipe.schedule.taus, wanted.taus, rtol=rounding)
    assert (pipe.schedule.family, pipe.schedule.prediction_type) == ("vp", "epsilon")


def test_the_pickle_is_refused_with_a_line_that_converts_it(
    unet, published, monkeypatch
):
    path = published / "lavie_base.pt"
    torch.save({"ema": unet.state_dict(), "steps": 3}, path)
    config = LaVieUNetConfig.from_image(IMAGE_MODEL)
    with pytest.raises(weights_convert.WeightsError, match="can run code") as caught:
        weights_convert.load_lavie(path, config)
    with pytest.raises(ValueError, match="can run code"):
        lavie_folder(path, published / "stable-diffusion", published / "other")
    assert not (published / "other").exists()
    _, _, line = str(caught.value).partition('python -c "')
    program, _, names = line.partition('" ')
    assert names == "lavie_base.pt lavie_base.safetensors"
    files = ["-c", str(path), str(published / "again.safetensors")]
    monkeypatch.setattr("sys.argv", files)
    exec(program, {})  # what the line runs in Python
    again = weights_convert.load_lavie(files[2], config)
    wanted = weights_convert.load_lavie(published / "lavie_base.safetensors", config)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_folder_of_published_files_says_how_to_make_a_model(published):
    with pytest.raises(ValueError, match=r"has no model_index\.json; .*lavie_folder"):
        ji.load(published)


def test_weights_of_another_model_are_refused_before_anything_is_written(published):
    with pytest.raises(ValueError, match=r"has shape \(32,\), but"):
        weights_convert.load_lavie(published / "lavie_base.safetensors")
    other = shutil.copytree(published / "stable-diffusion", published / "wider")
    wider = dataclasses.replace(IMAGE_MODEL, layers_per_block=2)
    (other / "unet/config.json").write_text(json.dumps(wider.to_dict()))
    with pytest.raises(ValueError, match="is missing"):
        lavie_folder(published / "lavie_base.safetensors", other, published / "never")
    assert not (published / "never").exists()
