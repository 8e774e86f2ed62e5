"""Video models: against diffusers' pipeline, exact inversion, and their folders."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from video_cases import FRAMES, SIZE, animatediff, save_parts

import jaxinv as ji
from jaxinv.cli import app
from jaxinv.files.images import write_image
from jaxinv.files.videos import read_video
from jaxinv.pipeline.latents import decode

PROMPT, NEGATIVE, GUIDANCE = "red cat", "blue", 4.0


@pytest.fixture(scope="module")
def theirs(diffusers_folder):
    """The pipeline of diffusers, and the image UNet that it was made of."""
    return animatediff(diffusers_folder)


@pytest.fixture(scope="module")
def joined(theirs, tmp_path_factory):
    """The folder that diffusers saves, whose UNet has the motion modules."""
    folder = tmp_path_factory.mktemp("video") / "joined"
    theirs[0].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def apart(theirs, tmp_path_factory):
    """A folder with an image UNet and a motion adapter."""
    folder = tmp_path_factory.mktemp("video") / "apart"
    save_parts(*theirs, folder)
    return folder


@pytest.fixture(scope="module")
def pipe(apart):
    return ji.load(apart).at_frames(FRAMES)


@pytest.fixture(scope="module")
def noise(pipe):
    return jax.random.normal(jax.random.key(0), pipe.latent_shape)


@pytest.fixture(scope="module")
def problem(pipe):
    """The sampler of ten steps and the guided denoiser."""
    with pytest.warns(ji.LossyGridWarning):
        sampler = pipe.sampler(10)
    return sampler, pipe.denoiser(PROMPT, NEGATIVE, GUIDANCE)


def error(found, wanted):
    """Largest error relative to the reference's root mean square."""
    return np.abs(np.asarray(found) - wanted).max() / np.sqrt(np.mean(wanted**2))


def decibels(found, wanted):
    return 10 * np.log10(np.sum((found - wanted) ** 2) / np.sum(np.square(wanted)))


def to_torch(latents):
    return torch.from_numpy(np.moveaxis(np.array(latents), -1, 0)[None])


def test_ten_steps_equal_those_of_diffusers(pipe, theirs, noise, problem):
    found = ji.sample(*problem, noise)
    wanted = theirs[0](
        PROMPT,
        negative_prompt=NEGATIVE,
        guidance_scale=GUIDANCE,
        num_inference_steps=10,
        num_frames=FRAMES,
        latents=to_torch(noise),
        height=4 * SIZE,
        width=4 * SIZE,
        output_type="latent",
    ).frames
    assert error(found, np.moveaxis(wanted[0].numpy(), 0, -1)) < 1e-4


def test_the_inverse_is_exact_and_certified(noise, problem):
    found = ji.invert(*problem, ji.sample(*problem, noise))
    assert found.converged
    assert decibels(found.noise, noise) < -80


def test_a_joined_unet_is_the_same_model(pipe, joined, noise):
    other = ji.load(joined).at_frames(FRAMES)
    one, two = (
        jax.tree.leaves(p.denoiser(PROMPT, NEGATIVE, GUIDANCE)) for p in (pipe, other)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.latent_shape == noise.shape


def test_frames_are_encoded_and_decoded_one_by_one(pipe, tiny):
    video = np.random.default_rng(0).random((FRAMES, 32, 32, 3), dtype=np.float32)
    latents = pipe.encode(video)
    assert latents.shape == pipe.latent_shape
    np.testing.assert_allclose(latents[1], tiny.encode(video[1]), rtol=1e-5, atol=1e-5)
    frames = pipe.decode(latents)
    np.testing.assert_allclose(frames[1], tiny.decode(latents[1]), rtol=1e-5, atol=1e-5)


def test_memory_of_decoding_does_not_grow_with_the_number_of_frames(pipe):
    def temporary(frames):
        latents = jax.ShapeDtypeStruct((frames, 8, 8, 4), jnp.float32)
        compiled = jax.jit(decode).lower(pipe.vae, latents).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(16) < 1.1 * temporary(2) + 16 * 32 * 32 * 3 * 4


def test_a_video_is_inverted_and_regenerated(pipe, emoji64, problem):
    """With a trained autoencoder, since a random one does not decode to pictures."""
    pipe = dataclasses.replace(pipe, vae=emoji64.vae)
    rows, columns = np.mgrid[:32, :32] / 32
    frames = np.stack(
        [
            np.stack([rows, columns, np.hypot(rows - 0.5, columns - at) < 0.3], -1)
            for at in (0.3, 0.5, 0.7)
        ]
    ).astype(np.float32)
    video = pipe.decode(pipe.encode(frames))
    found = pipe.invert(video, *problem)
    assert found.decoder.converged
    assert found.sampler.converged
    assert found.noise.shape == pipe.latent_shape
    again = pipe.generate(*problem, found.state)
    assert decibels(again, video) < -40


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_samples_and_inverts_videos(apart, tmp_path):
    out, again = tmp_path / "video.png", tmp_path / "again.png"
    folder = tmp_path / "inverted"
    # Exact by construction: nothing is solved, and little is compiled.
    same = ("-m", apart, "-p", PROMPT, "--steps", 4, "--sampler", "o-belm")
    made = run("sample", *same, "--frames", FRAMES, "-o", out)
    assert made.exit_code == 0, made.stderr
    assert read_video(out).pixels.shape == (FRAMES, 32, 32, 3)
    found = run("invert", out, *same, "--decoder-inversion", "encoder", "-o", folder)
    assert found.exit_code == 0, found.stderr
    written = np.load(folder / "noise.npy")
    assert written.shape == (2, FRAMES, SIZE, SIZE, 4)  # the state of this sampler
    rest = ("--frames", FRAMES, "--noise", folder / "noise.npy", "-o", again)
    assert run("sample", *same, *rest).exit_code == 0
    rebuilt = read_video(folder / "reconstruction.png").pixels.astype(int)
    assert np.abs(read_video(again).pixels - rebuilt).max() <= 1


def test_commands_say_what_they_do_not_do_with_videos(
    apart, diffusers_folder, tmp_path
):
    frames = tmp_path / "frames"
    frames.mkdir()
    image = frames / "0.png"
    write_image(image, np.zeros((32, 32, 3), np.uint8))
    for reason, model, *command in (
        ("makes videos", apart, "edit", image, "-t", "blue"),
        ("makes videos", apart, "batch", frames, tmp_path / "out"),
        ("animated PNG", apart, "sample", "-o", tmp_path / "video.gif"),
        ("at most 6 frames", apart, "sample", "--frames", 7),
        ("which have no frames", diffusers_folder, "sample", "--frames", 2),
        ("as the frames of a video", diffusers_folder, "invert", frames),
    ):
        result = run(*command, "-m", model, "-p", PROMPT)
        assert result.exit_code == 2
        assert reason in result.stderr
        assert result.stderr.count("\n") == 1


def test_numbers_of_frames(pipe, apart, tiny):
    assert ji.load(apart).frames == 6  # fewer than 16, which is the limit here
    assert pipe.at_frames(5).latent_shape == (5, SIZE, SIZE, 4)
    with pytest.raises(ValueError, match=r"at most 6 frames .*got 7"):
        pipe.at_frames(7)
    with pytest.raises(ValueError, match="images, which have no frames"):
        tiny.at_frames(2)
    with pytest.raises(ValueError, match=r"video of shape \(frames, h, w, 3\)"):
        pipe.encode(np.zeros((32, 32, 3), np.float32))


def test_an_adapter_that_does_not_fit_is_refused(apart, tmp_path):
    folder = shutil.copytree(apart, tmp_path / "copy")
    path = folder / "motion_adapter/config.json"
    data = json.loads(path.read_text()) | {"block_out_channels": [32]}
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="does not fit the UNet: its block_out"):
        ji.load(folder)
