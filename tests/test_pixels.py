"""Models of pixels: no autoencoder, no prompt, and everything else as usual."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxinv as ji
from jaxinv.cli import app
from jaxinv.loading.convert import convert
from jaxinv.loading.find import wanted_files
from jaxinv.loading.folder import loaded_files

STEPS = 10
LIMITS = {
    "none": {"clip_sample": False},
    "clip": {"clip_sample_range": 0.5},
    "threshold": {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.8,
        "sample_max_value": 1.5,
    },
}
LOSSY = pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")


def write_pixel_model(folder, scheduler, **options):
    """Saves a small random pipeline with diffusers' own classes, and returns it."""
    import diffusers
    import torch

    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "down_block_types": ("AttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (8,),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    unet = diffusers.UNet2DModel(**config | options).eval()
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        unet.conv_out.weight *= 0.3
    ddim = isinstance(scheduler, diffusers.DDIMScheduler)
    kind = diffusers.DDIMPipeline if ddim else diffusers.DDPMPipeline
    pipe = kind(unet, scheduler)
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """diffusers' pipeline and its folder."""
    import diffusers

    folder = tmp_path_factory.mktemp("pixels") / "tiny"
    scheduler = diffusers.DDIMScheduler(clip_sample=False, beta_end=0.01)
    return write_pixel_model(folder, scheduler), folder


@pytest.fixture(scope="module")
def tiny_pixels(pair):
    return ji.load(pair[1])


@pytest.fixture(scope="module")
def flat_folder(pair, tmp_path_factory):
    """The same model with all files in one folder and without an index."""
    folder = tmp_path_factory.mktemp("flat")
    pair[0].unet.save_pretrained(folder)
    pair[0].scheduler.save_pretrained(folder)
    return folder


def noise_of(pipe):
    return jax.random.normal(jax.random.key(0), pipe.latent_shape)


def pictures(pipeline, monkeypatch, *noises, **options):
    """What diffusers' pipeline draws from given noises, (h, w, c)."""
    import sys

    import torch

    given = [torch.from_numpy(np.moveaxis(np.array(n), -1, 0)[None]) for n in noises]
    for part in (pipeline, pipeline.scheduler):
        module = sys.modules[type(part).__module__]
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: given.pop(0))
    drawn = pipeline(num_inference_steps=STEPS, output_type="np", **options).images[0]
    assert not given
    return drawn


@LOSSY
@pytest.mark.parametrize("limit", LIMITS)
def test_a_trajectory_of_ddim_is_that_of_diffusers_pipeline(
    limit, tmp_path, monkeypatch
):
    import diffusers

    theirs = write_pixel_model(tmp_path, diffusers.DDIMScheduler(**LIMITS[limit]))
    pipe = ji.load(tmp_path)
    noise = noise_of(pipe)
    wanted = pictures(theirs, monkeypatch, noise)
    sampler, denoise = pipe.sampler(STEPS), pipe.denoiser()
    found = pipe.generate(sampler, denoise, noise)
    assert np.abs(found - wanted).max() < 1e-5
    plain = ji.as_denoiser(pipe.network, pipe.schedule)
    if limit == "none":
        np.testing.assert_array_equal(pipe.generate(sampler, plain, noise), found)
    else:
        with pytest.raises(ValueError, match="data predictions"):
            pipe.generate(sampler, plain, noise)


@pytest.mark.parametrize("limit", ["clip", "threshold"])
def test_limited_data_are_inverted_with_a_certificate(tiny_pixels, limit):
    pipe = tiny_pixels
    denoise = ji.as_denoiser(pipe.network, pipe.schedule)
    if limit == "clip":
        denoise = ji.clipped(denoise, pipe.schedule, 0.5)
    else:
        denoise = ji.thresholded(denoise, pipe.schedule, 0.8, 1.5)
    sampler = ji.ddim(ji.time_grid(pipe.schedule, 16))
    data = ji.sample(sampler, denoise, noise_of(pipe))
    found = ji.invert(sampler, denoise, data)
    assert found.converged
    again = ji.sample(sampler, denoise, found.noise)
    assert ji.nmse_db(again, data) < -80


@LOSSY
def test_a_clipped_trajectory_of_ddpm_is_that_of_diffusers_pipeline(
    tmp_path, monkeypatch
):
    import diffusers

    theirs = write_pixel_model(tmp_path, diffusers.DDPMScheduler(clip_sample_range=0.5))
    pipe = ji.load(tmp_path)
    sampler = pipe.sampler(STEPS)
    noises = jax.random.normal(jax.random.key(1), (STEPS, *pipe.latent_shape))
    # The step from timestep 0 adds none.
    wanted = pictures(theirs, monkeypatch, noise_of(pipe), *noises[1:][::-1])
    given = sampler.with_noises(noises)
    found = pipe.generate(given, pipe.denoiser(), noise_of(pipe))
    assert np.abs(found - wanted).max() < 1e-5


def test_an_image_goes_to_noise_and_back(tiny_pixels):
    pipe = tiny_pixels
    sampler, denoise = ji.ddim(ji.time_grid(pipe.schedule, 16)), pipe.denoiser()
    noise = noise_of(pipe)
    data = ji.sample(sampler, denoise, noise)
    image = pipe.decode_unclipped(data)
    np.testing.assert_allclose(
        pipe.encode(jnp.clip(image, 0, 1)), np.clip(data, -1, 1), atol=1e-6
    )
    found = ji.invert(sampler, denoise, data)
    assert found.converged
    assert ji.nmse_db(found.noise, noise) < -80


def test_the_decoder_is_inverted_exactly_at_once(tiny_pixels):
    image = np.random.default_rng(0).random((8, 8, 3), np.float32)
    found = tiny_pixels.invert_decoder(image)
    assert found.converged
    np.testing.assert_allclose(tiny_pixels.decode(found.latent), image, atol=1e-6)


@LOSSY
def test_a_flat_folder_is_the_same_model(tiny_pixels, flat_folder, tmp_path):
    names = {"config.json", "scheduler_config.json"}
    weights = "diffusion_pytorch_model.safetensors"
    assert set(loaded_files(flat_folder)) == names | {weights}
    convert(flat_folder, tmp_path / "converted")
    noise = noise_of(tiny_pixels)
    wanted = tiny_pixels.denoiser()(noise, jnp.asarray(500.0))
    for folder in (flat_folder, tmp_path / "converted"):
        pipe = ji.load(folder)
        assert pipe.sampler(STEPS).name == "ddim_diffusers"
        np.testing.assert_array_equal(
            pipe.denoiser()(noise, jnp.asarray(500.0)), wanted
        )


def test_the_files_of_a_flat_repository_are_downloaded_and_no_checkpoints():
    files = [
        "README.md", "config.json", "scheduler_config.json", "model_index.json",
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin",
    ]  # fmt: skip
    assert set(wanted_files(files)) == set(files) - {files[0], files[-1]}
    latent = ["config.json", "model_index.json", "diffusion_pytorch_model.safetensors"]
    assert wanted_files([*latent, "v1-5-pruned.safetensors"]) == ["model_index.json"]


def test_ddims_pipeline_makes_every_scheduler_a_ddim(pair, tmp_path):
    shutil.copytree(pair[1], tmp_path / "model")
    file = tmp_path / "model/scheduler/scheduler_config.json"
    config = json.loads(file.read_text()) | {"_class_name": "DDPMScheduler"}
    file.write_text(json.dumps(config))
    assert json.loads(ji.load(tmp_path / "model").scheduler)["_class_name"] == (
        "DDIMScheduler"
    )


def test_gray_images_of_a_class_without_the_predicted_variance(tmp_path):
    import diffusers
    import torch

    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    options = {"in_channels": 1, "out_channels": 2, "num_class_embeds": 4}
    theirs = write_pixel_model(tmp_path, scheduler, **options).unet
    pipe = ji.load(tmp_path)
    assert pipe.latent_shape == (8, 8, 1)
    noise = noise_of(pipe)
    with torch.no_grad():
        given = torch.from_numpy(np.moveaxis(np.array(noise), -1, 0)[None])
        wanted = theirs(given, 500, torch.tensor([3])).sample[0, :1]
    found = pipe.denoiser(class_label=3)(noise, jnp.asarray(500))
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), wanted, atol=1e-5)
    assert pipe.encode(np.zeros((8, 8, 1), np.uint8)).shape == (8, 8, 1)
    for label in (None, 4, -1, 2.0, "3"):
        with pytest.raises(ValueError, match="an integer from 0 to 3"):
            pipe.denoiser(class_label=label)
    encoded = pipe.denoiser(pipe.encode_prompt("", class_label=3))
    np.testing.assert_array_equal(encoded(noise, jnp.asarray(500)), found)
    for label in (np.asarray(4), np.asarray(1.0), np.asarray([1])):
        with pytest.raises(ValueError, match="an integer from 0 to 3"):
            pipe.denoiser(label)


def test_prompts_labels_and_guidance_are_refused(tiny_pixels):
    with pytest.raises(ValueError, match="takes no prompt, got 'cat'"):
        tiny_pixels.denoiser("cat")
    with pytest.raises(ValueError, match="has no class labels, got 3"):
        tiny_pixels.denoiser(class_label=3)
    with pytest.raises(ValueError, match="has no classifier-free guidance"):
        tiny_pixels.denoiser(guidance_scale=2.0)
    with pytest.raises(ValueError, match="no negative prompt, got 'cat'"):
        tiny_pixels.denoiser(negative_prompt="cat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 4, "out_channels": 4}, "images have 3, or 1 if gray"),
        ({"out_channels": 1}, "or twice as many with a variance"),
        ({"sample_size": None}, "does not state the size"),
        ({"class_embed_type": "timestep"}, "a pipeline takes class labels"),
    ],
)
def test_a_network_of_something_else_is_refused(pair, tmp_path, options, message):
    shutil.copytree(pair[1], tmp_path / "model")
    file = tmp_path / "model/unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    with pytest.raises(ValueError, match=message):
        ji.load(tmp_path / "model")


def command(*words):
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(word) for word in words])


def test_the_command_line_needs_no_prompt(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ("-m", pair[1], "-n", 16, "--spacing", "log-snr")
    found = command("sample", *model, "--out", "a.png", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["guidance"] == 1.0
    found = command("invert", "a.png", *model, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["prompt"] is None
    (tmp_path / "a.csv").write_text("path\na.png\n")
    found = command("batch", "a.csv", "out", *model)
    assert found.exit_code == 0, found.output
    kept = json.loads((tmp_path / "out/manifest.jsonl").read_text())
    assert kept["guidance"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "-p", "cat"), "has no text encoder and takes no prompt"),
        (("sample", "-g", "3"), "has no classifier-free guidance"),
        (("edit", "a.png", "-p", "cat", "--target", "dog"), "images without prompts"),
        (("batch", ".", "out", "-p", "cat"), "takes no prompt, got 'cat' for a.png"),
        (("batch", ".", "out", "--negative-prompt", "x"), "takes no prompt, got 'x'"),
        (("batch", ".", "out", "-g", "3"), "a.png: pixel-space diffusion has no"),
    ],
)
def test_the_command_line_refuses_prompts(pair, tmp_path, monkeypatch, words, message):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    found = command(*words, "-m", pair[1], "-n", 16, "--spacing", "log-snr")
    assert found.exit_code == 2
    assert message in found.stderr
    assert not (tmp_path / "out").exists()
