"""FLUX, from folders that diffusers saved, against diffusers' own pipeline."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flux_cases import flux_pipeline, run_flux, write_flux_pipeline

import jaxinv as ji
from jaxinv.apps.editing import edit

PROMPT = "a photo of a red cat"
#: Height and width of images and latents.
SIZE, LATENT = (12, 16), (6, 8)


def relative_error(ours, theirs):
    """Largest error relative to the reference's root mean square."""
    theirs = np.asarray(theirs)
    assert np.shape(ours) == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.sqrt(np.mean(theirs**2))


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux") / request.param
    write_flux_pipeline(folder, dev=request.param == "dev")
    return folder


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux") / "dev"
    write_flux_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((*LATENT, 16), np.float32)


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


@jax.jit
def evaluated(model, z, *condition):
    return model(z, 500.0, *condition)


def test_eight_steps_are_those_of_diffusers(folder, noise):
    pipe = ji.load(folder)
    assert pipe.image_size == (256, 256)  # of 128 x 128 latents, as in diffusers
    pipe = pipe.at_size(SIZE)
    options = {"prompt": PROMPT, "prompt_2": "a blue house", "max_sequence_length": 9}
    if folder.name == "dev":
        options["guidance_scale"] = 3.5
    ours = generated(pipe.sampler(8), pipe.denoiser(**options), noise)
    wanted = run_flux(flux_pipeline(folder), noise, num_inference_steps=8, **options)
    assert relative_error(ours, wanted) < 1e-4


def test_prompts_and_guidance_are_those_of_diffusers(dev, noise):
    pipe, theirs = ji.load(dev).at_size(SIZE), flux_pipeline(dev)
    found = pipe.encode_prompt(PROMPT)
    assert found.text.shape == (512, 16)
    with torch.no_grad():
        text, pooled, _ = theirs.encode_prompt(PROMPT, max_sequence_length=512)
    assert relative_error(found.text, text[0]) < 1e-4
    assert relative_error(found.pooled, pooled[0]) < 1e-4

    with pytest.warns(UserWarning, match="16: only T5 reads the rest"):
        assert pipe.tokenize(" ".join(20 * ["red"])).shape == (16,)

    # The guidance scale and the one of the negative prompt are apart.
    options = {
        "prompt": PROMPT, "negative_prompt": "blue", "negative_prompt_2": "a dog",
        "guidance_scale": 1.0, "true_cfg_scale": 2.5, "max_sequence_length": 9,
    }  # fmt: skip
    ours = generated(pipe.sampler(1), pipe.denoiser(**options), noise)
    wanted = run_flux(theirs, noise, num_inference_steps=1, **options)
    assert relative_error(ours, wanted) < 1e-4
    del options["guidance_scale"]  # 1 is the default
    again = generated(pipe.sampler(1), pipe.denoiser(**options), noise)
    np.testing.assert_array_equal(again, ours)
    condition = pipe.condition(**options)
    in_a_batch = evaluated(pipe.conditional_denoiser(), noise, condition)
    alone = evaluated(pipe.denoiser(**options), noise)
    np.testing.assert_allclose(in_a_batch, alone, atol=1e-5)
    options["true_cfg_scale"] = 1.0
    plain = evaluated(pipe.denoiser(**options), noise)
    assert float(jnp.abs(plain - alone).max()) > 1e-3


def test_an_edit_has_a_guidance_number_for_each_prompt(dev, noise):
    pipe = ji.load(dev).at_size(SIZE)
    short = {"max_sequence_length": 9}
    source = pipe.denoiser("a red cat", guidance_scale=1.5, **short)
    target = pipe.denoiser("a red cat", guidance_scale=3.5, **short)
    sampler = pipe.sampler(4)
    latent = ji.sample(sampler, source, noise)
    edited = edit(sampler, source, target, latent)
    assert bool(edited.inversion.converged)
    wanted = ji.sample(sampler, target, noise)
    assert float(ji.nmse_db(edited.latent, wanted)) < -60
    assert float(ji.nmse_db(edited.latent, latent)) > -60


def test_what_the_model_does_not_take_is_refused_first(folder):
    pipe = ji.load(folder)
    for size in ((14, 16), (16, 14), (13, 16)):
        match = "pixels do not fit|multiples of 2, got"
        with pytest.raises(ValueError, match=match):
            pipe.at_size(size)
    if pipe.network.config.guidance_embeds:
        assert pipe.family.usual_guidance(pipe) == 3.5
        assert not pipe.family.reads_negative(pipe, 3.5)
        filled = pipe.condition(PROMPT, guidance_scale=2.0).prompt
        with pytest.raises(ValueError, match="without its guidance"):
            pipe.denoiser(filled)
    else:
        with pytest.raises(ValueError, match="true_cfg_scale"):
            pipe.denoiser(PROMPT, guidance_scale=3.5)
    for option, value in (("max_sequence_length", 513), ("true_cfg_scale", "big")):
        with pytest.raises(ValueError, match=option):
            pipe.denoiser(PROMPT, **{option: value})
    with pytest.raises(ValueError, match=r"options: max_sequence_length.*true_cfg"):
        pipe.denoiser(PROMPT, size=3)
    with pytest.raises(ValueError, match="encode_prompt"):
        pipe.denoiser(np.ones((9, 16), np.float32))


@pytest.mark.parametrize(
    ("part", "values", "reason"),
    [
        ("transformer", {"in_channels": 384, "out_channels": 64}, "Fill"),
        ("transformer", {"in_channels": 60}, "latents of 15 channels"),
        ("transformer", {"joint_attention_dim": 20}, "joint_attention_dim"),
        ("text_encoder", {"hidden_size": 12}, "pooled_projection_dim"),
    ],
)
def test_parts_that_do_not_fit_are_refused(dev, tmp_path, part, values, reason):
    copy = shutil.copytree(dev, tmp_path / "copy")
    file = copy / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(ValueError, match=reason):
        ji.load(copy)


def test_a_model_without_t5_takes_prompts_encoded_with_it(dev, noise, tmp_path):
    whole = ji.load(dev).at_size(SIZE)
    copy = shutil.copytree(dev, tmp_path / "copy")
    file = copy / "model_index.json"
    none = {part: [None, None] for part in ("text_encoder_2", "tokenizer_2")}
    file.write_text(json.dumps(json.loads(file.read_text()) | none))
    pipe = ji.load(copy).at_size(SIZE)
    with pytest.raises(ValueError, match="text_encoder_2"):
        pipe.denoiser(PROMPT)
    short = {"max_sequence_length": 9}
    prompt = whole.encode_prompt(PROMPT, **short)
    found = pipe.denoiser(prompt, guidance_scale=3.5)
    wanted = whole.denoiser(PROMPT, guidance_scale=3.5, **short)
    np.testing.assert_array_equal(evaluated(found, noise), evaluated(wanted, noise))
