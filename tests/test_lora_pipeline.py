"""LoRA files of a pipeline: predictions as in diffusers, and a record of what is in."""

import hashlib

import diffusers
import jax
import numpy as np
import pytest
import torch
from cli_cases import OK, expect_one_clear_line, only_json, run
from safetensors.numpy import save_file
from video_cases import animatediff, save_parts

import jaxinv as ji
from jaxinv.models.parameters import parameters


@pytest.fixture(scope="module")
def files(diffusers_folder, tmp_path_factory):
    """Two files, of PEFT for both networks and of Kohya for the UNet."""
    rng = np.random.default_rng(0)
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    text = "text_model.encoder.layers.1"

    def factors(inputs, outputs, rank, kernel=()):
        ones = (1,) * len(kernel)
        shapes = (rank, inputs, *kernel), (outputs, rank, *ones)
        return [0.3 * rng.normal(size=s).astype(np.float32) for s in shapes]

    peft = {
        f"unet.{block}.attn2.to_k": factors(16, 16, 2),
        f"unet.{block}.ff.net.0.proj": factors(16, 128, 4),
        f"text_encoder.{text}.self_attn.v_proj": factors(16, 16, 3),
        f"text_encoder.{text}.mlp.fc1": factors(16, 32, 3),
    }
    kohya = {
        f"{block}.attn1.to_out.0": factors(16, 16, 2),
        "up_blocks.0.resnets.1.conv2": factors(16, 16, 2, (3, 3)),
    }
    folder = tmp_path_factory.mktemp("lora")
    save_file(
        {
            f"{name}.lora_{role}.weight": value
            for name, pair in peft.items()
            for role, value in zip("AB", pair, strict=True)
        },
        folder / "peft.safetensors",
    )
    tensors = {}
    for name, (down, up) in kohya.items():
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = down
        tensors[f"{stem}.lora_up.weight"] = up
        tensors[f"{stem}.alpha"] = np.ones((), np.float32)
    save_file(tensors, folder / "kohya.safetensors")
    return [(folder / "peft.safetensors", 0.8), (folder / "kohya.safetensors", -0.5)]


@jax.jit
def call(model, *args):
    return model(*args)


def test_a_guided_prediction_with_two_files_is_that_of_diffusers(
    diffusers_folder, tiny, files
):
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(diffusers_folder)
    for path, _ in files:
        theirs.load_lora_weights(
            path.parent, weight_name=path.name, adapter_name=path.stem
        )
    names = [path.stem for path, _ in files]
    theirs.set_adapters(names, [scale for _, scale in files])
    theirs.fuse_lora(components=["unet", "text_encoder"], adapter_names=names)

    z = np.random.default_rng(1).normal(size=tiny.latent_shape).astype(np.float32)
    with torch.no_grad():
        text = theirs.encode_prompt("red cat", "cpu", 1, True, "blue")
        sample = torch.from_numpy(np.moveaxis(z, -1, 0)[None].copy())
        noises = [theirs.unet(sample, 321, each).sample for each in text]
    wanted = noises[1] + 4.0 * (noises[0] - noises[1])
    wanted = np.moveaxis(wanted.numpy()[0], 0, -1)

    ours = ji.load(diffusers_folder, lora=files)
    found = call(ours.denoiser("red cat", "blue", 4.0), z, 321.0)
    rms = np.sqrt(np.mean(wanted**2))
    assert np.abs(found - wanted).max() < 1e-4 * rms
    plain = call(tiny.denoiser("red cat", "blue", 4.0), z, 321.0)
    assert np.abs(plain - wanted).max() > 0.1 * rms


def test_a_pipeline_records_what_is_in_its_parameters(tiny, files):
    styled = ji.merge_lora(tiny, files)
    assert styled.lora == tuple(
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest(), scale)
        for path, scale in files
    )
    assert tiny.lora == ()
    (first, scale), second = files
    less = ji.merge_lora(styled, [(first, -scale)])
    assert [each.file for each in less.lora] == [second[0].name]
    only = ji.merge_lora(tiny, [second])
    for found, wanted in (
        (less.network, only.network),
        (less.text_encoders[0], tiny.text_encoders[0]),
    ):
        found, wanted = parameters(found), parameters(wanted)
        for path in wanted:
            np.testing.assert_allclose(found[path], wanted[path], atol=1e-6)


def test_scales_that_cancel_leave_no_record(tiny, files):
    ((file, _), _), pipe = files, tiny
    for scale in (0.1, 0.2, -0.3):
        pipe = ji.merge_lora(pipe, [(file, scale)])
    assert pipe.lora == ()


@pytest.mark.parametrize("joined", [False, True])
def test_files_for_motion_modules_are_taken_when_a_model_is_loaded(
    diffusers_folder, tmp_path, joined
):
    folder, file = tmp_path / "video", tmp_path / "motion.safetensors"
    pipe, unet = animatediff(diffusers_folder)
    pipe.save_pretrained(folder)
    if not joined:
        save_parts(pipe, unet, folder)
    name = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    rng = np.random.default_rng(0)
    down, up = rng.normal(size=(2, 16)), rng.normal(size=(16, 2))
    tensors = {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    save_file({key: x.astype(np.float32) for key, x in tensors.items()}, file)
    plain, pipe = ji.load(folder), ji.load(folder, lora=[(file, 0.5)])
    kernels = [parameters(each.network)[f"{name}.kernel"] for each in (plain, pipe)]
    change = 0.5 * (up @ down).T
    np.testing.assert_allclose(kernels[1] - kernels[0], change, atol=1e-6)


def test_files_that_do_not_fit_are_refused_before_the_weights_are_read(
    diffusers_folder, files, tmp_path, monkeypatch
):
    file = tmp_path / "sdxl.safetensors"
    save_file({"lora_te2_x.lora_down.weight": np.ones((1, 2), np.float32)}, file)

    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("weights_convert.load_component", read)
    with pytest.raises(ValueError, match=r"lora_te2_x.* no place"):
        ji.load(diffusers_folder, lora=[*files, (file, 1.0)])


def test_the_command_line_adds_files_and_records_them(
    diffusers_folder, files, tmp_path
):
    (path, _), (other, _) = files
    common = ("sample", "--model", diffusers_folder, "--prompt", "red", "--steps", 3)
    common += ("--out", tmp_path / "a.png", "--json")
    result = run(*common, "--lora", f"{path}:-2", "--lora", other)
    assert result.exit_code == OK, result.output
    found = [(each["file"], each["scale"]) for each in only_json(result)["lora"]]
    assert found == [(path.name, -2.0), (other.name, 1.0)]
    assert "lora" not in only_json(run(*common))
    expect_one_clear_line(run(*common, "--lora", "none:0.5"), "none is missing")
    expect_one_clear_line(run(*common, "--lora", f"{path}:nan"), "finite number")
