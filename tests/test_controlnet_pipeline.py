"""Pipelines with ControlNets: diffusers' predictions and images, and exact inverses."""

import json
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cli_cases import OK, expect_one_clear_line, only_json, run
from safetensors.numpy import save_file
from sdxl_cases import (
    POOLED,
    SIZE_FEATURES,
    WIDTHS,
    write_index,
    write_sdxl_pipeline,
)

import jaxinv as ji
import weights_convert
from jaxinv.files.digests import file_digests
from jaxinv.files.images import write_image
from jaxinv.loading.convert import convert
from jaxinv.models.parameters import parameters

PROMPT, NEGATIVE = "red cat", "blue"
NET = {
    "block_out_channels": (16,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "conditioning_embedding_out_channels": (4, 4, 8),
}


def write_controlnet(folder, seed=0, **options):
    """Saves a ControlNet whose residuals matter, and leave few steps invertible."""
    torch.manual_seed(seed)
    net = diffusers.ControlNetModel(**NET | options)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "controlnet" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    net.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(diffusers_folder, tmp_path_factory):
    """The random pipeline with a ControlNet, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("controlnet") / "tiny"
    shutil.copytree(diffusers_folder, folder)
    write_controlnet(folder / "controlnet")
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionControlNetPipeline"
    index["controlnet"] = ["diffusers", "ControlNetModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return ji.load(folder)


@pytest.fixture(scope="module")
def image():
    """A control image of 32x32 pixels."""
    return np.random.default_rng(2).random((32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def noise(pipe):
    return np.random.default_rng(1).standard_normal(pipe.latent_shape, np.float32)


def their_latent(pipe, noise, image, **options):
    """The latent that diffusers' pipeline makes, channels last."""
    pipe.set_progress_bar_config(disable=True)
    latents, image = (np.moveaxis(x, -1, 0)[None].copy() for x in (noise, image))
    found = pipe(
        PROMPT,
        image=torch.from_numpy(image),
        negative_prompt=NEGATIVE,
        latents=torch.from_numpy(latents),
        output_type="latent",
        **options,
    )
    return np.moveaxis(found.images.numpy()[0], 0, -1)


def relative_error(found, wanted):
    return np.abs(np.asarray(found) - wanted).max() / np.sqrt(np.mean(wanted**2))


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


@pytest.mark.parametrize(("steps", "scale"), [(1, 1.0), (6, 0.7)])
def test_guided_steps_with_a_control_image_are_those_of_diffusers(
    folder, pipe, noise, image, steps, scale
):
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(folder)
    options = {"controlnet_conditioning_scale": scale}
    wanted = their_latent(
        theirs, noise, image, num_inference_steps=steps, guidance_scale=4.0, **options
    )
    denoise = pipe.denoiser(PROMPT, NEGATIVE, 4.0, control_image=image, **options)
    found = generated(pipe.sampler(steps), denoise, noise)
    assert relative_error(found, wanted) < 1e-4
    black = pipe.denoiser(PROMPT, NEGATIVE, 4.0, control_image=0 * image, **options)
    # In one step the prediction counts for little.
    assert relative_error(generated(pipe.sampler(steps), black, noise), wanted) > 1e-3


def test_the_inverse_with_a_control_image_is_exact(pipe, noise, image):
    # The scheduler of diffusers' own grid may lose the noise; this one keeps it.
    table = ji.ddim(ji.time_grid(pipe.schedule, 18))
    denoise = pipe.denoiser(PROMPT, NEGATIVE, 2.0, control_image=image)
    latent = generated(table, denoise, noise)
    found = ji.invert(table, denoise, latent)
    assert found.converged
    assert ji.nmse_db(found.noise, noise) < -80
    # Another image is another map, whose inverse is another noise.
    other = pipe.denoiser(PROMPT, NEGATIVE, 2.0, control_image=0 * image)
    assert ji.nmse_db(ji.invert(table, other, latent).noise, noise) > -60


def test_controlnets_are_added_to_a_model_that_has_none(
    folder, pipe, diffusers_folder, noise, image
):
    plain = ji.load(diffusers_folder)
    net = weights_convert.load_component(folder / "controlnet")
    added = plain.with_controlnet(net)
    call = jax.jit(lambda denoise, z: denoise(z, 500.0))
    one = call(pipe.denoiser(PROMPT, control_image=image), noise)
    np.testing.assert_array_equal(
        call(added.denoiser(PROMPT, control_image=image), noise), one
    )
    # 8 bits are read as the rest of the pipeline reads them.
    pixels = np.round(255 * image).astype(np.uint8)
    again, wanted = (
        call(added.denoiser(PROMPT, control_image=each), noise)
        for each in (pixels, np.float32(pixels / 255))
    )
    assert relative_error(again, np.asarray(wanted)) < 1e-5
    # Two, one of which does not count.
    both = plain.with_controlnet([net, net])
    options = {"controlnet_conditioning_scale": [0.0, 1.0]}
    two = call(
        both.denoiser(PROMPT, control_image=[1 - image, image], **options), noise
    )
    assert relative_error(two, np.asarray(one)) < 1e-5
    loaded = ji.load(diffusers_folder, controlnet=[folder / "controlnet"] * 2)
    np.testing.assert_array_equal(
        call(
            loaded.denoiser(PROMPT, control_image=[1 - image, image], **options), noise
        ),
        two,
    )


def test_a_folder_is_converted_and_takes_a_lora(folder, pipe, noise, image, tmp_path):
    again = ji.load(convert(folder, tmp_path / "converted"))
    call = jax.jit(lambda denoise, z: denoise(z, 500.0))
    np.testing.assert_array_equal(
        call(again.denoiser(PROMPT, control_image=image), noise),
        call(pipe.denoiser(PROMPT, control_image=image), noise),
    )
    file, name = tmp_path / "style.safetensors", "unet.time_embedding.linear_1"
    down, up = np.ones((1, 16), np.float32), np.ones((64, 1), np.float32)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, file)
    styled = ji.merge_lora(pipe, [(file, 2.0)]).network
    change = styled.unet.time_embedding.linear_1.kernel[...]
    change -= pipe.network.unet.time_embedding.linear_1.kernel[...]
    np.testing.assert_allclose(change, 2.0, atol=1e-6)
    own = parameters(pipe.network.controlnets[0])
    for path, value in parameters(styled.controlnets[0]).items():
        assert value is own[path]


def test_a_batch_has_a_control_image_for_each_sample(pipe, noise, image):
    conditions = [
        pipe.condition(PROMPT, NEGATIVE, 3.0, control_image=each)
        for each in (image, 0 * image)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *conditions)
    model = pipe.conditional_denoiser()
    found = jax.jit(jax.vmap(model, (None, None, 0)))(noise, 500.0, stacked)
    alone = pipe.denoiser(PROMPT, NEGATIVE, 3.0, control_image=0 * image)
    wanted = jax.jit(lambda denoise, z: denoise(z, 500.0))(alone, noise)
    assert relative_error(found[1], np.asarray(wanted)) < 1e-5
    assert relative_error(found[0], np.asarray(wanted)) > 1e-3


def test_control_images_that_do_not_fit_are_refused(pipe, noise, image):
    with pytest.raises(ValueError, match="a control_image must be given"):
        pipe.denoiser(PROMPT)
    with pytest.raises(ValueError, match=r"image values must lie in \[0, 1\]"):
        pipe.denoiser(PROMPT, control_image=2 * image - 1)
    with pytest.raises(ValueError, match="each of 1 ControlNets, got 2"):
        pipe.denoiser(PROMPT, control_image=[image, image])
    for scale in (float("nan"), "1", None):
        with pytest.raises(ValueError, match="scale must be a finite number"):
            pipe.denoiser(
                PROMPT, control_image=image, controlnet_conditioning_scale=scale
            )
    with pytest.raises(ValueError, match=r"encode_prompt\(text, control_image"):
        pipe.denoiser(pipe.encode_prompt(PROMPT, control_image=image).unet)
    small = pipe.denoiser(PROMPT, control_image=image[:16])
    with pytest.raises(ValueError, match="32x32 pixels"):
        small(noise, 500.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 3}, "in_channels is 3, that of the UNet 4"),
        ({"block_out_channels": (8,)}, "block_out_channels"),
        ({"layers_per_block": 2}, "layers_per_block"),
        ({"cross_attention_dim": 12}, "cross_attention_dim"),
        ({"conditioning_embedding_out_channels": (4, 8)}, "2x2 pixels .* 4x4"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 29,
            },
            "pooled text vector of size 5",
        ),
    ],
)
def test_a_controlnet_of_another_model_is_refused_before_weights_are_read(
    diffusers_folder, tmp_path, options, message, monkeypatch
):
    write_controlnet(tmp_path / "net", **options)

    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("weights_convert.load_component", read)
    with pytest.raises(ValueError, match=message):
        ji.load(diffusers_folder, controlnet=tmp_path / "net")


def test_sdxl_with_a_control_image_predicts_what_diffusers_predicts(
    tmp_path, noise, image
):
    write_sdxl_pipeline(tmp_path)
    sizes = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_FEATURES,
        "projection_class_embeddings_input_dim": POOLED + 6 * SIZE_FEATURES,
    }
    write_controlnet(
        tmp_path / "controlnet",
        cross_attention_dim=sum(WIDTHS),
        use_linear_projection=True,
        **sizes,
    )
    write_index(
        tmp_path,
        _class_name="StableDiffusionXLControlNetPipeline",
        controlnet=["diffusers", "ControlNetModel"],
    )
    theirs = diffusers.StableDiffusionXLControlNetPipeline.from_pretrained(
        tmp_path, add_watermarker=False
    )
    options = {"num_inference_steps": 2, "guidance_scale": 4.0}
    wanted = their_latent(theirs, noise, image, **options)
    ours = ji.load(tmp_path)
    denoise = ours.denoiser(PROMPT, NEGATIVE, 4.0, control_image=image)
    found = generated(ours.sampler(2), denoise, noise)
    assert relative_error(found, wanted) < 1e-4
    black = ours.denoiser(PROMPT, NEGATIVE, 4.0, control_image=0 * image)
    assert relative_error(generated(ours.sampler(2), black, noise), wanted) > 1e-2


def test_the_command_line_samples_and_inverts_with_a_control_image(
    diffusers_folder, folder, image, tmp_path
):
    path, net = tmp_path / "edges.png", folder / "controlnet"
    write_image(path, image)
    common = ("--model", diffusers_folder, "--prompt", "red", "--steps", 3, "--json")
    common += ("--controlnet", net, "--control-image", path, "--control-scale", 0.5)
    result = run("sample", *common, "--out", tmp_path / "a.png")
    assert result.exit_code == OK, result.output
    record = only_json(result)
    ((name, digest),) = [tuple(each.values()) for each in record["controlnet"]]
    assert name == str(net)
    assert len(digest) == 64
    assert record["control"] == [
        {"file": path.name, "sha256": next(file_digests([path])), "scale": 0.5}
    ]
    back = run(
        "invert",
        tmp_path / "a.png",
        *common,
        *("--decoder-inversion", "encoder", "--out", tmp_path / "found"),
    )
    assert back.exit_code == OK, back.output
    assert only_json(back)["control"] == record["control"]


def test_mistakes_with_control_images_are_explained(
    diffusers_folder, folder, image, tmp_path
):
    path, small = tmp_path / "edges.png", tmp_path / "small.png"
    write_image(path, image)
    write_image(small, image[:, :28])
    plain = ("sample", "--model", diffusers_folder, "--prompt", "red")
    own = ("sample", "--model", folder, "--prompt", "red")
    expect_one_clear_line(run(*plain, "--control-image", path), "--controlnet")
    expect_one_clear_line(run(*own), "has a ControlNet", "--control-image")
    both = ("--control-image", path, "--control-image", path)
    expect_one_clear_line(run(*own, *both), "once for each ControlNet", "got 2")
    size = ("--height", 32, "--width", 32)
    expect_one_clear_line(run(*own, *size, "--control-image", small), "28x32", "32x32")
    lone = ("--control-scale", 1, "--control-image", path, "--control-scale", 2)
    expect_one_clear_line(run(*own, *lone), "got 2 for 1")
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images/a.png", image)
    batch = ("batch", tmp_path / "images", tmp_path / "out", "--model", folder)
    expect_one_clear_line(run(*batch), "has a ControlNet")


def test_a_job_is_refused_at_once_because_its_images_have_no_control_image(pipe):
    from jaxinv.scale import jobs

    with pytest.raises(ValueError, match="a control_image must be given"):
        jobs.continuous(pipe, ji.ddim(ji.time_grid(pipe.schedule, 20)), lanes=2)
