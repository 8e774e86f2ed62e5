"""Prompts that are encoded once: the same latents without text encoders."""

import shutil
from hashlib import sha256

import jax
import numpy as np
import pytest
from cli_cases import expect_one_clear_line, only_json, run
from pixart_cases import write_pixart_pipeline
from safetensors.numpy import load_file, save_file
from sdxl_cases import write_sdxl_pipeline

import jaxinv as ji
from jaxinv.loading.find import wanted_files
from weights_convert.reader import file_metadata

PROMPTS = ["red", "a cat"]


@pytest.fixture(scope="module")
def folders(diffusers_folder, tmp_path_factory):
    """A model whose condition is one array, one of several arrays, and one of T5."""
    folder = tmp_path_factory.mktemp("prompts")
    write_sdxl_pipeline(folder / "sdxl")
    write_pixart_pipeline(folder / "pixart")
    named = {"arrays": folder / "sdxl", "t5": folder / "pixart"}
    return {"array": diffusers_folder} | named


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory):
    """Files of prompts that models without networks wrote."""
    files = {}
    for name, folder in folders.items():
        files[name] = tmp_path_factory.mktemp("saved") / f"{name}.safetensors"
        encoder = ji.load(folder, network=False)
        leaves = jax.tree.leaves(encoder.network)
        assert all(isinstance(each, jax.ShapeDtypeStruct) for each in leaves)
        ji.save_prompts(encoder, files[name], PROMPTS, ["", "blue"])
    return files


def test_a_file_that_cannot_be_written_is_refused_first(folders, tmp_path, monkeypatch):
    pipe = ji.load(folders["array"], network=False)
    monkeypatch.setattr(type(pipe), "encode_prompt", None)  # nothing is encoded
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "prompts.safetensors"):
        with pytest.raises(ValueError, match="cannot write"):
            ji.save_prompts(pipe, path, ["red"])


@pytest.mark.parametrize("name", ["array", "arrays", "t5"])
def test_latents_without_text_encoders_are_the_same_bit_for_bit(name, folders, saved):
    whole = ji.load(folders[name])
    less = ji.load(folders[name], text_encoders=False, prompts=saved[name])
    assert not less.present_text_encoders
    sampler = whole.sampler(2)
    noise = jax.random.normal(jax.random.key(0), whole.latent_shape)
    for given in [("red", "", 3.0), ("a cat", "blue", 2.0)]:
        wanted, found = (
            ji.sample(sampler, pipe.denoiser(*given), noise) for pipe in (whole, less)
        )
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="prompt 'blue' is not among the saved ones"):
        less.denoiser("blue")


def test_prompts_for_other_models_are_refused(folders, saved, tmp_path):
    with pytest.raises(ValueError, match=r"of Stable Diffusion XL .* is a model of"):
        ji.load(folders["array"], text_encoders=False, prompts=saved["arrays"])
    narrow = tmp_path / "narrow.safetensors"
    tensors = {name: x[:, :5] for name, x in load_file(saved["array"]).items()}
    save_file(tensors, narrow, metadata=file_metadata(saved["array"]))
    with pytest.raises(ValueError, match="do not fit the network of"):
        ji.load(folders["array"], text_encoders=False, prompts=narrow)
    larger = ji.load(folders["arrays"], text_encoders=False, prompts=saved["arrays"])
    with pytest.raises(ValueError, match=r"for images of 32x32 .* again for 64x64"):
        larger.at_size((64, 64)).denoiser("red")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("1"), "tensor '1' is missing"),
        (lambda found: found.update({"0": np.zeros(2, np.int32)}), "I32"),
        (lambda found: found.update({"0": np.full((2, 16), np.nan)}), "NaN"),
    ],
)
def test_damaged_files_are_refused(change, message, folders, saved, tmp_path):
    tensors = load_file(saved["array"])
    change(tensors)
    file = tmp_path / "damaged.safetensors"
    save_file(tensors, file, metadata=file_metadata(saved["array"]))
    with pytest.raises(ValueError, match=message):
        ji.load(folders["array"], text_encoders=False, prompts=file)
    save_file(tensors, file)
    with pytest.raises(ValueError, match="holds no prompts"):
        ji.load(folders["array"], text_encoders=False, prompts=file)


def test_what_needs_a_part_that_was_left_out_says_so(folders):
    less = ji.load(folders["arrays"], text_encoders=["text_encoder_2"])
    assert list(less.present_text_encoders) == ["text_encoder_2"]
    with pytest.raises(ValueError, match="was loaded without text_encoder"):
        less.encode_prompt("red")
    with pytest.raises(ValueError, match="pass what encode_prompt"):
        ji.load(folders["array"], text_encoders=False).denoiser("red")
    with pytest.raises(ValueError, match="was loaded without its network"):
        ji.load(folders["array"], network=False).denoiser("red")
    with pytest.raises(ValueError, match="no text encoder 'text_encoder_3'"):
        ji.load(folders["array"], text_encoders=["text_encoder_3"])
    with pytest.raises(ValueError, match="needs text_encoders=False"):
        ji.load(folders["array"], prompts="some.safetensors")


def test_lora_files_change_the_parts_that_are_there(folders, tmp_path):
    names = {
        "unet.down_blocks.0.attentions.0.proj_in": (16, 16, 1, 1),
        "text_encoder.text_model.encoder.layers.1.mlp.fc1": (32, 16),
    }
    tensors = {}
    for name, (outputs, inputs, *kernel) in names.items():
        tensors[f"{name}.lora_A.weight"] = np.ones((2, inputs, *kernel), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ones((outputs, 2, *kernel), np.float32)
    save_file(tensors, tmp_path / "lora.safetensors")
    lora = [(tmp_path / "lora.safetensors", 0.1)]
    whole = ji.load(folders["array"], lora=lora)
    same = np.testing.assert_array_equal
    encoder = ji.load(folders["array"], lora=lora, network=False)
    jax.tree.map(same, encoder.text_encoders, whole.text_encoders)
    denoiser = ji.load(folders["array"], lora=lora, text_encoders=False)
    jax.tree.map(same, denoiser.network, whole.network)
    assert encoder.lora == denoiser.lora == whole.lora


def test_prompts_of_a_text_encoder_with_other_lora_files_are_refused(
    folders, saved, tmp_path
):
    files = {}
    for name, (outputs, inputs) in {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (16, 16),
        "text_encoder.text_model.encoder.layers.1.mlp.fc1": (32, 16),
    }.items():
        files[name.split(".")[0]] = file = tmp_path / f"{name[:4]}.safetensors"
        factors = np.ones((2, inputs), np.float32), np.ones((outputs, 2), np.float32)
        pairs = zip("AB", factors, strict=True)
        save_file({f"{name}.lora_{k}.weight": x for k, x in pairs}, file)
    network, text = ((files[part], 0.5) for part in ("unet", "text_encoder"))
    file = tmp_path / "prompts.safetensors"
    encoder = ji.load(folders["array"], lora=[text], network=False)
    ji.save_prompts(encoder, file, ["red"])

    def load(prompts, *lora):
        options = {"text_encoders": False, "prompts": prompts, "lora": lora}
        return ji.load(folders["array"], **options)

    load(saved["array"], network)
    load(file, text, network)
    for prompts, lora in (
        (saved["array"], [text]),
        (file, []),
        (file, [network]),
        (file, [(text[0], 0.4)]),
    ):
        with pytest.raises(ValueError, match="other LoRA files or scales"):
            load(prompts, *lora)
    with pytest.raises(ValueError, match="no effect on saved prompts"):
        load(saved["array"]).with_chunks(2)


def test_weights_of_what_is_left_out_are_not_downloaded():
    parts = ("text_encoder", "text_encoder_2", "unet", "vae")
    files = [
        f"{part}/{name}"
        for part in parts
        for name in ("config.json", "model.safetensors")
    ]

    def weights(**options):
        wanted = wanted_files(files, **options)
        assert {f"{part}/config.json" for part in parts} <= set(wanted)
        return {file.split("/")[0] for file in wanted if file.endswith(".safetensors")}

    assert weights() == set(parts)
    assert weights(text_encoders=False) == {"unet", "vae"}
    assert weights(text_encoders=["text_encoder"]) == set(parts) - {"text_encoder_2"}
    assert weights(network=False) == set(parts) - {"unet"}


def test_the_command_line_encodes_once_and_samples_without_text_encoders(
    folders, saved, tmp_path
):
    folder, file = folders["array"], tmp_path / "prompts.safetensors"
    model = ("-m", folder, "-n", 2, "--json")
    made = run("encode", "-p", "red", "-m", folder, "-o", file, "--json")
    assert only_json(made)["negative_prompts"] == [""]
    several = run("sample", "--prompt-embeddings", saved["array"], *model)
    expect_one_clear_line(several, "--prompt", "the saved prompts are 'red', 'a cat'")
    saved = ("--prompt-embeddings", file)
    out = [tmp_path / f"{name}.png" for name in ("text", "saved")]
    run("sample", "-p", "red", *model, "-o", out[0])
    record = only_json(run("sample", *saved, *model, "-o", out[1]))
    assert record["prompt_embeddings_sha256"] == sha256(file.read_bytes()).hexdigest()
    assert out[0].read_bytes() == out[1].read_bytes()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"path": "text.png", "prompt": "a dog"}\n')
    failed = run("batch", rows, tmp_path / "out", *saved, *model)
    expect_one_clear_line(failed, "the prompt 'a dog' is not among", "'red'")
    # The weights of the text encoder need not be there.
    less = shutil.copytree(folder, tmp_path / "less")
    for weights in (less / "text_encoder").glob("*.safetensors"):
        weights.unlink()
    rows.write_text('{"path": "no.png", "prompt": "red", "guidance": 1}\n')
    missing = run("batch", rows, tmp_path / "out", *saved, "-m", less, *model[2:])
    assert only_json(missing)["failed"] == 1
