"""The joined model, against diffusers' own on the same weights, and its checks."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from jaxinv.models import UNetCondition

PROMPT, NEGATIVE = "red cat", "blue"


@pytest.fixture(scope="module")
def torch_parts(diffusers_folder):
    """The same weights in diffusers and transformers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    return {
        "vae": AutoencoderKL.from_pretrained(diffusers_folder / "vae"),
        "unet": UNet2DConditionModel.from_pretrained(diffusers_folder / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(
            diffusers_folder / "text_encoder"
        ),
        "tokenizer": CLIPTokenizer.from_pretrained(diffusers_folder / "tokenizer"),
    }


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def latent(tiny):
    return jax.random.normal(jax.random.key(1), tiny.latent_shape)


def relative_error(ours, theirs):
    """Largest error relative to the reference's root mean square."""
    theirs = np.asarray(theirs)
    return np.abs(np.asarray(ours) - theirs).max() / np.sqrt(np.mean(theirs**2))


def to_torch(array):
    """(h, w, c) to diffusers' (1, c, h, w)."""
    import torch

    return torch.from_numpy(np.moveaxis(np.array(array), -1, 0)[None])


def from_torch(tensor):
    return np.moveaxis(tensor.detach().numpy()[0], 0, -1)


def test_encoding_equals_diffusers_with_shift_and_scale(tiny, torch_parts, image):
    vae = torch_parts["vae"]
    mode = vae.encode(to_torch(2 * image - 1)).latent_dist.mode()
    theirs = (mode - vae.config.shift_factor) * vae.config.scaling_factor
    assert relative_error(tiny.encode(image), from_torch(theirs)) < 1e-4


def test_decoding_equals_diffusers_with_shift_and_scale(tiny, torch_parts, latent):
    vae = torch_parts["vae"]
    raw = to_torch(latent) / vae.config.scaling_factor + vae.config.shift_factor
    theirs = from_torch(vae.decode(raw).sample) / 2 + 0.5
    assert relative_error(tiny.decode_unclipped(latent), theirs) < 1e-4
    assert relative_error(tiny.decode(latent), theirs.clip(0, 1)) < 1e-4


def test_prompt_vectors_equal_transformers(tiny, torch_parts):
    theirs = torch_vectors(torch_parts, PROMPT)
    assert relative_error(tiny.encode_prompt(PROMPT), theirs[0].numpy()) < 1e-4


def torch_vectors(parts, prompt):
    import torch

    ids = parts["tokenizer"](
        prompt, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        return parts["text_encoder"](ids).last_hidden_state


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_guided_prediction_equals_diffusers(tiny, torch_parts, latent, guidance):
    import torch

    t = 321.0
    with torch.no_grad():
        cond, uncond = (
            torch_parts["unet"](
                to_torch(latent), t, torch_vectors(torch_parts, prompt)
            ).sample
            for prompt in (PROMPT, NEGATIVE)
        )
    theirs = from_torch(uncond + guidance * (cond - uncond))
    denoise = tiny.denoiser(PROMPT, NEGATIVE, guidance)
    ours = jax.jit(lambda f, x: f(x, t))(denoise, latent)
    assert relative_error(ours, theirs) < 1e-4


def test_guidance_of_one_evaluates_one_branch(tiny, latent):
    single = jax.make_jaxpr(tiny.denoiser(PROMPT))(latent, 1.0)
    double = jax.make_jaxpr(tiny.denoiser(PROMPT, guidance_scale=2.0))(latent, 1.0)

    def largest_batch(closed):
        batches = [0]
        for equation in closed.jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                batches.append(equation.outvars[0].aval.shape[0])
            for name in ("jaxpr", "call_jaxpr"):
                if name in equation.params:
                    batches.append(largest_batch(equation.params[name]))
        return max(batches)

    assert largest_batch(single) == 1
    assert largest_batch(double) == 2


def test_changing_prompt_and_scale_does_not_compile_again(tiny, latent):
    traces = []

    @jax.jit
    def run(denoise, x):
        traces.append(1)
        return denoise(x, 500.0)

    run(tiny.denoiser("red", guidance_scale=2.0), latent)
    run(tiny.denoiser("a", NEGATIVE, guidance_scale=7.0), latent)
    assert len(traces) == 1


def test_a_prompt_may_be_given_as_its_vectors(tiny, latent):
    vectors = tiny.encode_prompt(PROMPT)
    run = jax.jit(lambda denoise, x: denoise(x, 500.0))
    by_text = run(tiny.denoiser(PROMPT), latent)
    by_vectors = run(tiny.denoiser(vectors), latent)
    np.testing.assert_array_equal(by_text, by_vectors)


def test_the_noise_behind_a_sample_is_found_and_gives_the_sample(tiny, latent):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 20))
    denoise = tiny.denoiser(PROMPT, guidance_scale=2.0)
    data = ji.sample(sampler, denoise, latent)
    result = ji.invert(sampler, denoise, data)
    assert bool(result.converged)
    assert ji.nmse_db(result.noise, latent) < -90
    assert ji.nmse_db(ji.sample(sampler, denoise, result.noise), data) < -90


def test_an_image_goes_the_whole_way_to_noise_and_back(tiny, latent):
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 12))
    denoise = tiny.denoiser(PROMPT)
    image = tiny.generate(sampler, denoise, latent)

    @jax.jit
    def invert(pipe, image):
        denoise = pipe.denoiser(PROMPT)
        return pipe.invert(image, sampler, denoise, strategy="stepwise")

    found = invert(tiny, image)
    np.testing.assert_array_equal(found.noise, found.sampler.noise)
    assert bool(found.sampler.converged)
    # Both halves are those of the functions called one after the other.
    alone = tiny.invert_decoder(image)
    np.testing.assert_allclose(found.decoder.latent, alone.latent, atol=1e-4)
    again = tiny.generate(sampler, denoise, found.state)
    np.testing.assert_allclose(again, tiny.decode(alone.latent), atol=1e-3)
    assert float(found.decoder.residual) <= float(found.decoder.encoder_residual)


def test_frames_of_a_video_are_inverted_with_the_image_autoencoder(tiny):
    # As LaVie's: a video model whose autoencoder is Stable Diffusion's.
    latents = jax.random.normal(jax.random.key(2), (3, *tiny.latent_shape))
    decoder = ji.decoder.framewise(tiny.decode_unclipped, chunk=2)
    video = jnp.clip(decoder(latents), 0, 1)
    encoder = ji.decoder.framewise(tiny.encode, chunk=2)
    method = ji.decoder.Gradient(iterations=60)
    found = ji.invert_decoder(encoder, decoder, video, method)
    assert found.latent.shape == latents.shape
    assert float(found.residual) < 0.5 * float(found.encoder_residual)


def test_one_euler_step_of_a_rectified_flow_is_inverted(diffusers_folder, latent):
    # As InstaFlow: a Stable Diffusion UNet that gives data minus noise; its folder
    # names a diffusion scheduler, which says nothing of that.
    schedule = ji.flow_matching(prediction_type="rectified_flow")
    pipe = ji.load(diffusers_folder, schedule=schedule)
    sampler = ji.euler(ji.time_grid(schedule, 1, "linspace"))
    denoise = pipe.denoiser(PROMPT)
    made = ji.sample(sampler, denoise, latent)
    run = jax.jit(lambda unet, *args: unet(*args))
    velocity = run(pipe.network, latent, 1000.0, pipe.encode_prompt(PROMPT))
    np.testing.assert_allclose(made, latent + velocity, atol=1e-5)
    found = ji.invert(sampler, denoise, made)
    assert bool(found.converged)
    assert float(ji.nmse_db(found.noise, latent)) < -90


def test_bytes_and_floats_of_one_image_encode_alike(tiny, image):
    pixels = np.round(image * 255).astype(np.uint8)
    floats = pixels.astype(np.float32) / 255
    assert relative_error(tiny.encode(pixels), tiny.encode(floats)) < 1e-5


def test_encode_maps_and_jits_without_looking_at_values(tiny, image):
    both = jnp.stack([image, image[::-1]])
    mapped = jax.jit(jax.vmap(tiny.encode))(both)
    for one, latent in zip(both, mapped, strict=True):
        assert relative_error(latent, tiny.encode(one)) < 1e-5


def test_the_pipeline_is_a_pytree_of_its_parameters(tiny, image):
    leaves, structure = jax.tree.flatten(tiny)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(structure, leaves)
    encode = jax.jit(lambda pipe, image: pipe.encode(image))
    assert relative_error(encode(again, image), tiny.encode(image)) < 1e-5


def test_decode_is_clipped_and_decode_unclipped_is_not(tiny, latent):
    unclipped = tiny.decode_unclipped(30 * latent)
    clipped = tiny.decode(30 * latent)
    assert unclipped.min() < 0
    np.testing.assert_array_equal(clipped, np.clip(unclipped, 0, 1))


def test_any_multiple_of_the_factor_is_encoded(tiny):
    assert tiny.factor == 4
    assert tiny.encode(np.zeros((8, 12, 3), np.float32)).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((32, 32), np.float32), r"shape \(h, w, 3\), got \(32, 32\)"),
        (np.zeros((32, 32, 4), np.float32), r"got \(32, 32, 4\)"),
        (np.zeros((3, 32, 32), np.float32), "channels come last"),
        (np.zeros((2, 32, 32, 3), np.float32), "jax.vmap"),
        (np.zeros((32, 30, 3), np.float32), "multiples of 4, got 32 and 30"),
        (np.zeros((0, 32, 3), np.float32), "multiples of 4, got 0 and 32"),
        (np.zeros((32, 32, 3), np.int32), "uint8, got int32"),
        (np.full((32, 32, 3), np.nan, np.float32), "3072 of its 3072 values are NaN"),
        (np.full((32, 32, 3), 200.0, np.float32), "divide by 255"),
        (np.full((32, 32, 3), -1.0, np.float32), "map \\[-1, 1\\]"),
    ],
)
def test_a_wrong_image_is_explained(tiny, image, message):
    with pytest.raises(ValueError, match=message):
        tiny.encode(image)


def test_a_wrong_shape_is_explained_under_jit_too(tiny):
    with pytest.raises(ValueError, match="multiples of 4"):
        jax.jit(tiny.encode)(jnp.zeros((30, 32, 3)))


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"shape \(h, w, 4\), got \(8, 8, 3\)"),
        (np.zeros((2, 8, 8, 4), np.float32), "jax.vmap"),
        (np.zeros((8, 8, 4), np.int32), "floats, got int32"),
    ],
)
def test_a_wrong_latent_is_explained(tiny, latent, message):
    with pytest.raises(ValueError, match=message):
        tiny.decode(latent)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_guidance_scale_that_is_not_finite_is_refused(tiny, scale):
    with pytest.raises(ValueError, match="guidance_scale must be a finite number"):
        tiny.denoiser(PROMPT, guidance_scale=scale)


@pytest.mark.parametrize("prompt", [["red"], 3, None, np.zeros(4)])
def test_a_prompt_that_is_no_text_is_refused(tiny, prompt):
    with pytest.raises(ValueError, match="prompt must be"):
        tiny.denoiser(prompt)


def test_a_prompt_may_be_the_condition_of_a_network(tiny, latent):
    text = tiny.encode_prompt(PROMPT)
    found = tiny.denoiser(UNetCondition(text))(latent, 300.0)
    np.testing.assert_array_equal(found, tiny.denoiser(text)(latent, 300.0))


def test_half_a_character_is_refused(tiny):
    for call in (tiny.denoiser, tiny.encode_prompt, tiny.num_chunks):
        with pytest.raises(ValueError, match="a prompt must be Unicode text"):
            call("red \ud83d")


def test_a_prompt_that_does_not_fit_is_cut_with_a_warning(tiny):
    with pytest.warns(UserWarning, match="but the text encoder reads only 16"):
        ids = tiny.tokenize("a b c d e f g h i j k l m n o p q")
    assert ids.shape == (16,)


def test_an_empty_prompt_is_a_prompt(tiny):
    assert tiny.encode_prompt("").shape == (16, 16)


def test_the_sampler_of_a_pipeline_is_its_scheduler_s(tiny):
    assert tiny.pipeline == "StableDiffusionPipeline"
    config = json.loads(tiny.scheduler)
    with warnings.catch_warnings(action="ignore", category=ji.LossyGridWarning):
        for given, table in (
            ({}, tiny.sampler(7)),
            (
                {"_class_name": "UniPCMultistepScheduler"},
                tiny.sampler(
                    7, scheduler=config | {"_class_name": "UniPCMultistepScheduler"}
                ),
            ),
        ):
            expected = ji.sampler_from_diffusers(config | given, 7)
            for ours, theirs in zip(
                *map(jax.tree.leaves, (table, expected)), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "changed",
    [
        {"beta_start": 1e-4, "beta_end": 0.02},
        {"prediction_type": "v_prediction"},
        {"num_train_timesteps": 500},
    ],
)
def test_a_scheduler_of_another_model_is_refused(tiny, changed):
    config = json.loads(tiny.scheduler) | changed
    with pytest.raises(ValueError, match="does not fit the model"):
        tiny.sampler(7, scheduler=config)
