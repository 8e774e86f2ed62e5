"""SDXL, from a folder that diffusers saved, against diffusers' own pipeline."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sdxl_cases import (
    PLAYGROUND_SCHEDULER,
    PLAYGROUND_VAE,
    SCHEDULER,
    diffusers_pipeline,
    edit,
    run_pipeline,
    write_index,
    write_json,
    write_sdxl_pipeline,
)

import jaxinv as ji
from jaxinv.apps.editing import METHODS
from jaxinv.loading.find import wanted_files

PROMPT, NEGATIVE = "red cat", "blue"
SIZES = {
    "original_size": (20, 48),
    "crops_coords_top_left": (3, 16),
    "target_size": (64, 24),
}
APART = {
    "negative_original_size": (10, 11),
    "negative_crops_coords_top_left": (5, 0),
    "negative_target_size": (12, 13),
}
# Prompts with their options, as both pipelines take them.
PROMPTS = {
    "nothing given": {"prompt": PROMPT},
    "negative": {"prompt": PROMPT, "negative_prompt": NEGATIVE},
    "empty": {"prompt": "", "negative_prompt": NEGATIVE},
    "second prompts": {
        "prompt": PROMPT,
        "prompt_2": "a",
        "negative_prompt": NEGATIVE,
        "negative_prompt_2": "b",
    },
    "sizes": {"prompt": PROMPT, **SIZES},
    "sizes apart": {"prompt": PROMPT, "negative_prompt": NEGATIVE, **SIZES, **APART},
}


def relative_error(ours, theirs):
    """Largest error relative to the reference's root mean square."""
    theirs = np.asarray(theirs)
    assert np.shape(ours) == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.sqrt(np.mean(theirs**2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl") / "tiny"
    write_sdxl_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return ji.load(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    return diffusers_pipeline(folder)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).standard_normal((8, 8, 4), np.float32)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


@jax.jit
def evaluated(model, z, *condition):
    return model(z, 500.0, *condition)


def one_step(pipe, theirs, noise, options, guidance=5.0):
    """What both make of noise in one step: the guided prediction, times a number."""
    table = pipe.sampler(1)
    ours = generated(table, pipe.denoiser(**options, guidance_scale=guidance), noise)
    asked = {"guidance_scale": guidance, "num_inference_steps": 1}
    return ours, run_pipeline(theirs, noise, **options, **asked)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_guided_prediction_is_that_of_diffusers(
    pipe, theirs, noise, copy, name, zeros
):
    if not zeros:
        write_index(copy, force_zeros_for_empty_prompt=False)
        pipe, theirs = ji.load(copy), diffusers_pipeline(copy)
    ours, wanted = one_step(pipe, theirs, noise, PROMPTS[name])
    assert relative_error(ours, wanted) < 1e-4


def test_ten_steps_of_euler_are_those_of_diffusers(pipe, theirs, noise):
    options = PROMPTS["negative"]
    ours = generated(
        pipe.sampler(10), pipe.denoiser(**options, guidance_scale=5.0), noise
    )
    wanted = run_pipeline(
        theirs, noise, **options, num_inference_steps=10, guidance_scale=5.0
    )
    assert relative_error(ours, wanted) < 1e-4


def test_everything_that_is_given_has_an_effect(pipe):
    def change(**options):
        negative = any(name.startswith("negative") for name in options)
        plain = pipe.encode_prompt(PROMPT, negative=negative)
        found = pipe.encode_prompt(PROMPT, negative=negative, **options)
        return [bool((a != b).any()) for a, b in zip(found[:3], plain[:3], strict=True)]

    assert change(prompt_2="a") == [True, True, False]
    assert change(negative_prompt_2="a") == [True, True, False]
    for name, value in SIZES.items():
        assert change(**{name: value}) == [False, False, True]
    assert change(**APART) == [False, False, True]
    large = pipe.at_size((64, 48)).encode_prompt(PROMPT)
    np.testing.assert_array_equal(large.time_ids, [64, 48, 0, 0, 64, 48])


def test_an_empty_negative_prompt_is_zeros_and_its_encoding_is_not(pipe):
    zeros = pipe.encode_prompt("", negative=True)
    assert not zeros.text.any()
    assert not zeros.pooled.any()
    text = pipe.encode_prompt("")
    assert text.text.any()
    given = pipe.condition(PROMPT, text, 5.0).negative_prompt
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), given, text))


@pytest.mark.parametrize(
    ("name", "class_name", "steps"),
    [
        ("Turbo", "EulerAncestralDiscreteScheduler", 1),
        ("Lightning", "EulerDiscreteScheduler", 4),
    ],
)
def test_models_distilled_without_guidance_run_with_their_schedulers(
    copy, noise, name, class_name, steps
):
    scheduler = SCHEDULER | {"_class_name": class_name, "timestep_spacing": "trailing"}
    write_json(copy / "scheduler/scheduler_config.json", scheduler)
    write_index(copy, scheduler=["diffusers", class_name])
    pipe, asked = ji.load(copy), {"guidance_scale": 0.0, "num_inference_steps": steps}
    denoise = pipe.denoiser(PROMPT, guidance_scale=0)
    ours = generated(pipe.sampler(steps), denoise, noise)
    wanted = run_pipeline(diffusers_pipeline(copy), noise, prompt=PROMPT, **asked)
    assert relative_error(ours, wanted) < 1e-4


def test_images_of_playground_are_those_of_diffusers(copy, noise):
    write_json(copy / "scheduler/scheduler_config.json", PLAYGROUND_SCHEDULER)
    write_index(copy, scheduler=["diffusers", PLAYGROUND_SCHEDULER["_class_name"]])
    edit(copy / "vae/config.json", **PLAYGROUND_VAE)
    pipe, options = ji.load(copy), PROMPTS["negative"]
    denoise = pipe.denoiser(**options, guidance_scale=3.0)
    asked = {**options, "guidance_scale": 3.0, "num_inference_steps": 5}
    theirs = diffusers_pipeline(copy)
    latent = generated(pipe.sampler(5), denoise, noise)
    assert relative_error(latent, run_pipeline(theirs, noise, **asked)) < 1e-4
    wanted = run_pipeline(theirs, noise, **asked, output_type="pt")
    assert relative_error(pipe.decode(latent), wanted) < 1e-4
    # The encoder's side is the reverse of the decoder's.
    raw = pipe.vae.encode(2 * jnp.asarray(wanted) - 1).mode()
    values = (np.asarray(PLAYGROUND_VAE[f"latents_{key}"]) for key in ("mean", "std"))
    mean, std = values
    assert relative_error(pipe.encode(wanted), 0.5 * (raw - mean) / std) < 1e-5


@pytest.mark.parametrize("guidance", [8.0, 1.0])
def test_a_guidance_scale_may_be_an_input(tmp_path, noise, guidance):
    write_sdxl_pipeline(tmp_path, time_cond_proj_dim=6)
    pipe, theirs = ji.load(tmp_path), diffusers_pipeline(tmp_path)
    ours, wanted = one_step(pipe, theirs, noise, {"prompt": PROMPT}, guidance)
    assert relative_error(ours, wanted) < 1e-4
    condition = pipe.condition(PROMPT, guidance_scale=guidance)
    batched = evaluated(pipe.conditional_denoiser(), noise, condition)
    alone = evaluated(pipe.denoiser(PROMPT, guidance_scale=guidance), noise)
    assert relative_error(batched, alone) < 1e-5


def test_a_guided_latent_s_noise_is_found_and_certified(pipe, noise):
    table = pipe.sampler(10)
    denoise = pipe.denoiser(PROMPT, NEGATIVE, 5.0, **SIZES)
    latent = generated(table, denoise, noise)
    result = ji.invert(table, denoise, latent, strategy="stepwise")
    assert bool(result.converged)
    assert ji.nmse_db(result.noise, noise) < -80


def test_samples_of_a_batch_have_their_own_prompts_and_sizes(pipe, noise):
    conditions = [
        pipe.condition(PROMPT, NEGATIVE, 5.0, **SIZES),
        pipe.condition("a", "", 1.0),
    ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *conditions)
    model = pipe.conditional_denoiser()
    found = jax.jit(jax.vmap(evaluated, (None, None, 0)))(model, noise, stacked)
    alone = [
        evaluated(pipe.denoiser(PROMPT, NEGATIVE, 5.0, **SIZES), noise),
        evaluated(pipe.denoiser("a"), noise),
    ]
    assert relative_error(found, np.stack(alone)) < 1e-5


def test_options_of_a_prompt_that_is_encoded_are_refused(pipe):
    with pytest.raises(ValueError, match="target_size would have no effect"):
        pipe.denoiser(pipe.encode_prompt(PROMPT), target_size=(64, 64))
    negative = {"negative_original_size": (8, 8), "negative_target_size": (8, 8)}
    with pytest.raises(ValueError, match="negative_target_size would have no effect"):
        pipe.denoiser(PROMPT, pipe.encode_prompt(""), 3.0, **negative)


def test_both_encoders_are_fetched_from_the_hub_and_nothing_twice():
    wanted = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors",
        "tokenizer_2/vocab.json",
        "tokenizer_2/merges.txt",
    ]
    others = [
        "sd_xl_base_1.0.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "text_encoder_2/flax_model.msgpack",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    ]
    assert sorted(wanted_files(wanted + others)) == sorted(wanted)


def test_the_refiner_is_refused_by_name(copy):
    write_index(
        copy,
        _class_name="StableDiffusionXLImg2ImgPipeline",
        requires_aesthetics_score=True,
        text_encoder=[None, None],
        tokenizer=[None, None],
    )
    with pytest.raises(ValueError, match="SDXL's refiner"):
        ji.load(copy)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("text_encoder_2", {"projection_dim": 9}, "pooled text vector of size 10"),
        ("text_encoder_2", {"max_position_embeddings": 8}, "equally many tokens"),
        ("text_encoder", {"hidden_size": 4}, "text vectors of size 20"),
        (
            "unet",
            {
                "addition_embed_type": None,
                "addition_time_embed_dim": None,
                "projection_class_embeddings_input_dim": None,
            },
            "takes no pooled text",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(copy, part, changes, message):
    edit(copy / part / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        ji.load(copy)


def test_a_unet_of_sdxl_without_a_second_encoder_is_refused(copy):
    write_index(copy, text_encoder_2=[None, None], tokenizer_2=[None, None])
    index = copy / "model_index.json"
    edit(index, force_zeros_for_empty_prompt=False)
    edit(copy / "unet/config.json", cross_attention_dim=8)
    with pytest.raises(ValueError, match="has a second text encoder"):
        ji.load(copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aesthetic_score": 6.0}, "has no option 'aesthetic_score'"),
        ({"target_size": (64,)}, "target_size"),
        ({"target_size": (64, 0)}, "target_size"),
        ({"original_size": 64}, "original_size"),
        ({"prompt_2": 3}, "prompt_2"),
        ({"negative_target_size": (64, 64)}, "must be given together"),
    ],
)
def test_wrong_options_are_refused(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe.denoiser(PROMPT, NEGATIVE, 5.0, **options)


@pytest.mark.parametrize("name", ["prompt_to_prompt", "masactrl", "plug_and_play"])
def test_editing_methods_share_nothing_between_equal_prompts(pipe, name):
    sampler = ji.ddim(ji.time_grid(pipe.schedule, 2))
    noise = jax.random.normal(jax.random.key(0), pipe.latent_shape)
    empty = dict.fromkeys(ji.InversionResult._fields)
    found = ji.InversionResult(**empty | {"noise": noise, "state": noise})
    denoise = pipe.denoiser(PROMPT, guidance_scale=3.0)
    wanted = ji.sample(sampler, denoise, noise)
    method = METHODS[name]
    same = method(pipe, sampler, found, PROMPT, PROMPT, guidance_scale=3.0)
    assert relative_error(same, wanted) < 1e-4
    other = method(pipe, sampler, found, PROMPT, NEGATIVE, guidance_scale=3.0)
    assert relative_error(other, wanted) > 1e-3
