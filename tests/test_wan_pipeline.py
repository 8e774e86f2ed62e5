"""Wan, from a folder that diffusers saved, beside its pipeline there."""

import json
import shutil

import diffusers
import jax
import numpy as np
import pytest
from test_sdxl import relative_error
from typer.testing import CliRunner
from wan_cases import CHANNELS, from_torch, to_torch, write_wan_pipeline

import jaxinv as ji
from jaxinv.cli import app
from jaxinv.files.videos import read_video
from jaxinv.pipeline.families.wan import Wan, cleaned

SIZE, FRAMES, LATENT_FRAMES = (32, 48), 17, 5
LENGTH = {"max_sequence_length": 12}
GIVEN = {"negative_prompt": "blue", "guidance_scale": 5.0} | LENGTH


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder, and diffusers' pipeline."""
    folder = tmp_path_factory.mktemp("wan") / "tiny"
    return folder, write_wan_pipeline(folder)


@pytest.fixture(scope="module")
def pipe(both):
    return ji.load(both[0]).at_size(SIZE).at_frames(FRAMES)


@pytest.fixture(scope="module")
def noise(pipe):
    return jax.random.normal(jax.random.key(0), pipe.latent_shape)


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


def test_defaults_are_those_of_diffusers(both):
    pipe = ji.load(both[0])
    assert type(pipe.family) is Wan
    assert pipe.image_size == (480, 832)
    assert pipe.frames == 81
    assert pipe.latent_shape == (21, 60, 104, CHANNELS)
    assert pipe.at_frames(1).at_size(SIZE).latent_shape == (1, 4, 6, CHANNELS)


@pytest.mark.parametrize("prompt", ["red cat", "", " a  &amp;lt;dog \n", "cat " * 20])
@pytest.mark.filterwarnings("ignore:the prompt has")
def test_prompt_vectors_are_those_of_diffusers(both, pipe, prompt):
    wanted, _ = both[1].encode_prompt(
        prompt, do_classifier_free_guidance=False, **LENGTH
    )
    found = pipe.encode_prompt(prompt, **LENGTH)
    error = relative_error(found, wanted[0].detach().numpy())
    print(f"prompt vectors: largest error {error:.1e} of the RMS")
    assert error < 1e-4
    assert pipe.encode_prompt("red").shape[0] == 512


@pytest.mark.parametrize("kind", ["UniPC", "Euler"])
def test_eight_steps_are_those_of_diffusers(both, pipe, noise, kind):
    _, theirs = both
    scheduler = theirs.scheduler
    if kind == "Euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs = diffusers.WanPipeline(**theirs.components | {"scheduler": scheduler})
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        "red cat",
        num_inference_steps=8,
        num_frames=FRAMES,
        height=SIZE[0],
        width=SIZE[1],
        latents=to_torch(noise),
        output_type="latent",
        **GIVEN,
    ).frames
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    sampler = pipe.sampler(8, scheduler=config)
    found = generated(sampler, pipe.denoiser("red cat", **GIVEN), noise)
    error = relative_error(found, from_torch(wanted))
    print(f"8 steps of {kind}: largest error {error:.1e} of the RMS")
    assert error < 1e-4


def test_five_latent_frames_are_inverted_exactly_and_certified(pipe, noise):
    assert noise.shape[0] == LATENT_FRAMES
    sampler, denoise = pipe.sampler(8), pipe.denoiser("red cat", **GIVEN)
    found = ji.invert(sampler, denoise, generated(sampler, denoise, noise))
    print(found, ji.nmse_db(found.noise, noise))
    assert found.converged
    assert found.reconstruction < 1e-4
    assert ji.nmse_db(found.noise, noise) < -80


def test_numbers_of_frames_and_sizes_are_refused_by_name(pipe):
    rng = np.random.default_rng(0)
    for frames in rng.integers(1, 100, 6).tolist():
        if frames % 4 == 1:
            assert pipe.at_frames(frames).latent_shape[0] == frames // 4 + 1
            continue
        with pytest.raises(ValueError, match=rf"multiple of 4 .*got {frames}"):
            pipe.at_frames(frames)
        with pytest.raises(ValueError, match=rf"multiple of 4 .*got {frames}"):
            pipe.invert_decoder(np.zeros((frames, *SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match="size of a patch"):
        pipe.at_size((40, 48))
    with pytest.raises(ValueError, match="rope_max_seq_len"):
        pipe.at_frames(4 * 1024 + 1)


def changed(folder, target, edit):
    """A copy of a folder with another index."""
    shutil.copytree(folder, target)
    path = target / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    return target


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"boundary_ratio": 0.875}, r"boundary_ratio=0.875 \(Wan 2.2"),
        ({"expand_timesteps": True}, r"expand_timesteps=True \(Wan 2.2"),
        (
            {"transformer_2": ["diffusers", "WanTransformer3DModel"]},
            "extra part, 'transformer_2'",
        ),
    ],
)
def test_models_of_wan_22_are_refused_by_name(both, tmp_path, edit, reason):
    with pytest.raises(ValueError, match=reason):
        ji.load(changed(both[0], tmp_path / "copy", edit))


def test_a_model_without_its_text_encoder_takes_vectors(both, pipe, tmp_path):
    edit = {"text_encoder": [None, None], "tokenizer": [None, None]}
    alone = ji.load(changed(both[0], tmp_path / "copy", edit))
    with pytest.raises(ValueError, match="loaded without text encoders"):
        alone.denoiser("red", **LENGTH)
    vectors = pipe.encode_prompt("red", **LENGTH)
    one, two = pipe.denoiser(vectors), alone.denoiser(vectors)
    for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_autoencoder_of_the_same_latents_is_chosen(both, diffusers_folder):
    folder, _ = both
    pipe = ji.load(folder, vae=folder / "vae")
    assert ji.load(folder, vae=pipe.vae).vae.config == pipe.vae.config
    with pytest.raises(ValueError, match=r"holds a AutoencoderKL$"):
        ji.load(folder, vae=diffusers_folder / "vae")


def test_prompts_are_cleaned():
    assert cleaned("\ta &amp;lt; b\n\n c ") == "a < b c"
    # As ftfy.fix_text 6.3 has it.
    assert cleaned("\u201ccat\u2019s\u201d \ufb01n\uff0c\uff21 e\u0301") == (
        '"cat\'s" fin,A \u00e9'
    )
    assert cleaned("caf\u00e9 \u8272\u8c03") == "caf\u00e9 \u8272\u8c03"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Anderson", "Gradient"])
def test_the_decoder_is_inverted_for_a_whole_video(pipe, method):
    # A random autoencoder: nothing converges, and iterates are better or left out.
    pipe = pipe.at_frames(5)
    video = pipe.decode(jax.random.normal(jax.random.key(1), pipe.latent_shape))
    settings = getattr(ji.decoder, method)(iterations=3)
    found = pipe.invert_decoder(video, settings)
    assert found.latent.shape == pipe.latent_shape
    assert found.residual <= found.encoder_residual
    again = pipe.decode_unclipped(found.latent)
    met = ((video <= 0) & (again <= 0)) | ((video >= 1) & (again >= 1))
    misfit = np.where(met, 0, again - video)
    np.testing.assert_allclose(found.residual, np.sqrt(np.mean(misfit**2)), rtol=1e-3)


@pytest.mark.slow
def test_the_command_line_samples_and_inverts_videos(both, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    out, folder = tmp_path / "video.png", tmp_path / "inverted"
    own = ("--scheduler", both[0] / "scheduler")
    same = ("-m", both[0], "-p", "red", "--steps", 8, *own, "-g", 1)
    small = ("--height", 32, "--width", 32)
    made = run("sample", *same, *small, "--frames", 5, "-o", out)
    assert made.exit_code == 0, made.stderr
    assert read_video(out).pixels.shape == (5, 32, 32, 3)
    found = run("invert", out, *same, "--decoder-inversion", "encoder", "-o", folder)
    assert found.exit_code == 0, found.stderr
    assert np.load(folder / "noise.npy").shape == (2, 4, 4, CHANNELS)
    wrong = run("sample", *same, "--frames", 6)
    assert wrong.exit_code == 2
    assert "1 more than a multiple of 4" in wrong.stderr
