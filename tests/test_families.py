"""Every family of models is used by the same lines of Python."""

import json
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flux_cases import write_flux_pipeline
from pixart_cases import write_pixart_pipeline
from sd3_cases import write_sd3_pipeline
from sdxl_cases import (
    POOLED,
    SIZE_FEATURES,
    WIDTHS,
    write_sdxl_pipeline,
)
from test_controlnet_pipeline import write_controlnet
from test_pixels import write_pixel_model
from video_cases import animatediff, save_parts
from wan_cases import write_wan_pipeline

import jaxinv as ji
from jaxinv.loading.convert import convert
from jaxinv.pipeline.families import FAMILIES
from jaxinv.pipeline.families.controlnet import (
    StableDiffusionControlNet,
    StableDiffusionXLControlNet,
)
from jaxinv.pipeline.families.flux import Flux
from jaxinv.pipeline.families.instaflow import InstaFlow
from jaxinv.pipeline.families.pixart import PixArt, PixArtAlpha
from jaxinv.pipeline.families.pixels import Pixels
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion
from jaxinv.pipeline.families.stable_diffusion_3 import StableDiffusion3
from jaxinv.pipeline.families.stable_diffusion_xl import StableDiffusionXL
from jaxinv.pipeline.families.video import AnimateDiff, JoinedAnimateDiff, LaVie
from jaxinv.pipeline.families.wan import Wan

CONTROL = {"control_image": np.full((32, 32, 3), 0.5, np.float32)}
#: What each family's denoiser is given besides a negative prompt and a scale.
GIVEN = {
    StableDiffusion: {"prompt": "red"},
    InstaFlow: {"prompt": "red"},
    StableDiffusionXL: {"prompt": "red"},
    StableDiffusion3: {"prompt": "red", "max_sequence_length": 4},
    Flux: {"prompt": "red", "max_sequence_length": 4},
    PixArt: {"prompt": "red", "max_sequence_length": 4},
    AnimateDiff: {"prompt": "red"},
    JoinedAnimateDiff: {"prompt": "red"},
    Wan: {"prompt": "red", "max_sequence_length": 4},
    Pixels: {},
    StableDiffusionControlNet: {"prompt": "red", **CONTROL},
    StableDiffusionXLControlNet: {"prompt": "red", **CONTROL},
}
#: Folders of LaVie are made from its published file (test_lavie_folder.py);
#: PixArt-alpha is in test_pixart.py.
ELSEWHERE = {LaVie, PixArtAlpha}


def with_controlnet(folder, name, **options):
    """Add a ControlNet to the folder of a pipeline."""
    write_controlnet(folder / "controlnet", **options)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": name, "controlnet": ["diffusers", "ControlNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def write(family, folder, diffusers_folder, instaflow_folder):
    """Save a small random model of a family."""
    if family in (StableDiffusion, StableDiffusionControlNet):
        shutil.copytree(diffusers_folder, folder)
    elif family is InstaFlow:
        shutil.copytree(instaflow_folder, folder)
    elif family in (StableDiffusionXL, StableDiffusionXLControlNet):
        write_sdxl_pipeline(folder)
    elif family is StableDiffusion3:
        write_sd3_pipeline(folder)
    elif family is PixArt:
        write_pixart_pipeline(folder)
    elif family is Flux:
        write_flux_pipeline(folder)
    elif family is Wan:
        write_wan_pipeline(folder)
    elif family is Pixels:
        write_pixel_model(folder, diffusers.DDIMScheduler(clip_sample=False))
    else:
        pipe, unet = animatediff(diffusers_folder)
        pipe.save_pretrained(folder)
        if family is AnimateDiff:
            save_parts(pipe, unet, folder)
    if family is StableDiffusionControlNet:
        with_controlnet(folder, "StableDiffusionControlNetPipeline")
    if family is StableDiffusionXLControlNet:
        with_controlnet(
            folder,
            "StableDiffusionXLControlNetPipeline",
            cross_attention_dim=sum(WIDTHS),
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZE_FEATURES,
            projection_class_embeddings_input_dim=POOLED + 6 * SIZE_FEATURES,
        )


@pytest.fixture(scope="module", params=GIVEN, ids=lambda family: family.__name__)
def model(request, diffusers_folder, instaflow_folder, tmp_path_factory):
    """A family with a folder of it."""
    folder = tmp_path_factory.mktemp("families") / request.param.__name__
    write(request.param, folder, diffusers_folder, instaflow_folder)
    return request.param, folder


def loaded(folder):
    """The model; videos of few frames, and FLUX and Wan below their sizes."""
    pipe = ji.load(folder)
    if pipe.image_size[0] > 32:
        pipe = pipe.at_size((16, 16))
    if pipe.frames is None:
        return pipe
    return pipe.at_frames(5 if type(pipe.family) is Wan else 3)


def test_every_family_is_tried():
    assert {type(family) for family in FAMILIES} == {*GIVEN} | ELSEWHERE


@pytest.mark.filterwarnings("ignore::jaxinv.LossyGridWarning")
def test_the_same_lines_sample_invert_and_certify(model):
    family, folder = model
    pipe = loaded(folder)
    assert type(pipe.family) is family
    sampler = pipe.sampler(10)
    denoise = pipe.denoiser(**GIVEN[family])
    noise = jax.random.normal(jax.random.key(0), pipe.latent_shape)
    latent = ji.sample(sampler, denoise, noise)
    found = ji.invert(sampler, denoise, latent)
    assert bool(found.converged)
    assert float(found.reconstruction) < 1e-4
    assert float(ji.nmse_db(found.noise, noise)) < -60
    assert pipe.decode(latent).shape[-3:-1] == pipe.image_size


def test_conditions_are_an_argument_of_one_model(model, tmp_path):
    family, folder = model
    pipe = loaded(folder)
    given, guidable = GIVEN[family], pipe.family.guidable
    z, t = jax.random.normal(jax.random.key(1), pipe.latent_shape), jnp.float32(500)
    call = jax.jit(lambda denoise, z, t, *condition: denoise(z, t, *condition))
    wanted = call(pipe.denoiser(**given), z, t)

    # With a condition, as a batch of two, and through a pytree.
    alone = pipe.condition(**given)
    model = pipe.conditional_denoiser(guided=guidable)
    np.testing.assert_allclose(call(model, z, t, alone), wanted, atol=1e-5)
    if guidable:
        strong = {**given, "negative_prompt": "blue", "guidance_scale": 3.0}
        pair = [alone, pipe.condition(**strong)]
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
        found = jax.jit(jax.vmap(model, (None, None, 0)))(z, t, both)
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)
        guided = call(pipe.denoiser(**strong), z, t)
        np.testing.assert_allclose(found[1], guided, atol=2e-5)
        assert float(jnp.max(jnp.abs(guided - wanted))) > 1e-4
    again = jax.tree.unflatten(*jax.tree.flatten(pipe)[::-1])
    np.testing.assert_array_equal(call(again.denoiser(**given), z, t), wanted)

    # And after conversion, the same numbers.
    converted = loaded(convert(folder, tmp_path / "converted"))
    assert converted.family == pipe.family
    np.testing.assert_array_equal(call(converted.denoiser(**given), z, t), wanted)


def test_a_prompt_must_be_given_where_there_are_text_encoders(model):
    family, folder = model
    if family is Pixels:
        with pytest.raises(ValueError, match="takes no prompt"):
            loaded(folder).denoiser("red")
        return
    prompts = {**GIVEN[family], "prompt": None}
    with pytest.raises(ValueError, match="a prompt must be given"):
        loaded(folder).denoiser(**prompts)
