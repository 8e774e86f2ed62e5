"""Stable Diffusion 3, from a folder that diffusers saved, beside its pipeline there."""

import jax
import numpy as np
import pytest
from sd3_cases import (
    CHANNELS,
    SIZE,
    run_sd3,
    sd3_pipeline,
    write_sd3_pipeline,
)
from test_sdxl import relative_error

import jaxinv as ji

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
    write_sd3_pipeline(folder, qk_norm="rms_norm", dual_attention_layers=(0,))
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return ji.load(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return sd3_pipeline(folder)


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
def test_prompt_vectors_are_those_of_diffusers(pipe, theirs, options):
    named = {name: value for name, value in options.items() if "prompt_" in name}
    named = {name: value for name, value in named.items() if name != "negative_prompt"}
    if "max_sequence_length" in options:
        named["max_sequence_length"] = options["max_sequence_length"]
    wanted = vectors_of_diffusers(theirs, options)
    negative = options.get("negative_prompt", "")
    for prompt, pair, is_negative in zip(
        (options["prompt"], negative), wanted, (False, True), strict=True
    ):
        found = pipe.encode_prompt(prompt, negative=is_negative, **named)
        for ours, reference in zip(found, pair, strict=True):
            assert relative_error(ours, reference) < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_eight_steps_are_those_of_diffusers(pipe, theirs, noise, guidance):
    asked = {"guidance_scale": guidance}
    ours = generated(pipe.sampler(8), pipe.denoiser(**PROMPTS, **asked), noise)
    wanted = run_sd3(theirs, noise, **PROMPTS, **asked, num_inference_steps=8)
    error = relative_error(ours, wanted)
    print(f"8 steps at guidance {guidance}: largest error {error:.1e} of the RMS")
    assert error < 1e-4
