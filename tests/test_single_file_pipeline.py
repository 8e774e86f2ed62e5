"""``ji.load`` of one file: the pipeline of the folder, and of diffusers."""

import json
import shutil
from types import SimpleNamespace

import diffusers
import jax
import numpy as np
import original_layout
import pytest
import torch
from cli_cases import expect_one_clear_line, run
from safetensors.torch import load_file
from sdxl_cases import edit, run_pipeline
from single_files import AUTOENCODER, GENERATIONS, write, write_both

import jaxinv as ji
import weights_convert
from jaxinv.cli import options
from jaxinv.cli.other_files import other_files
from jaxinv.cli.prepare import prepare


@pytest.fixture(scope="module", params=GENERATIONS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / request.param
    write_both(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single") / "sd1"
    write_both(folder, "sd1")
    return folder


def assert_same(found, wanted):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


def test_a_file_is_the_pipeline_of_its_folder_and_of_diffusers(folder):
    file = folder / "model.safetensors"
    pipe, whole = ji.load(file, tokenizer=folder / "tokenizer"), ji.load(folder)
    assert_same(pipe, whole)
    for name in ("family", "image_size", "pipeline", "flags"):
        assert getattr(pipe, name) == getattr(whole, name)
    for number in range(len(pipe.text_encoders)):
        ids = [each.tokenize("red", number).tolist() for each in (pipe, whole)]
        assert ids[0] == ids[1]
    assert pipe.name == "model.safetensors"


@pytest.mark.parametrize("folder", ["sd1", "sdxl"], indirect=True)
def test_two_guided_steps_are_those_of_diffusers_on_the_file(folder):
    file = folder / "model.safetensors"
    pipe = ji.load(file, tokenizer=folder / "tokenizer").at_size((16, 16))
    kind = getattr(diffusers, pipe.pipeline)
    theirs = kind.from_single_file(str(file), config=str(folder))
    theirs.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(0).standard_normal((8, 8, 4), np.float32)
    options = {"prompt": "red cat", "negative_prompt": "blue", "guidance_scale": 5.0}
    ours = generated(pipe.sampler(2), pipe.denoiser(**options), noise)
    size = {"height": 16, "width": 16}
    wanted = run_pipeline(theirs, noise, **options, **size, num_inference_steps=2)
    rms = np.sqrt(np.mean(wanted**2))
    assert np.abs(np.asarray(ours) - wanted).max() < 1e-4 * rms


def test_options_and_parts_of_files_that_do_not_fit_are_named(sd1, tmp_path):
    file, tokenizer = sd1 / "model.safetensors", sd1 / "tokenizer"
    with pytest.raises(ValueError, match="config= is for models in one file"):
        ji.load(sd1, config=sd1)
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        ji.load(file, config=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no tokenizer 'nowhere': tried a file"
    ):
        ji.load(file, tokenizer="nowhere")
    tensors = load_file(file)
    for part, prefix in (
        ("unet", "model."),
        ("vae", "first_"),
        ("text_encoder", "con"),
    ):
        some = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
        write(tmp_path / "some.safetensors", some)
        with pytest.raises(ValueError, match=f"holds no {part}, only"):
            ji.load(tmp_path / "some.safetensors", tokenizer=tokenizer)


def test_the_prediction_type_can_be_another(sd1):
    pipe = ji.load(sd1, prediction_type="v_prediction")
    assert pipe.schedule.prediction_type == "v_prediction"
    assert pipe.sampler(2).num_steps == 2


def test_a_folder_of_configurations_counts_in_place_of_inference(sd1, tmp_path):
    file = tmp_path / "model.safetensors"
    shutil.copytree(sd1, tmp_path / "config", ignore=lambda *_: ["model.safetensors"])
    shutil.copy(sd1 / "model.safetensors", file)
    edit(tmp_path / "config/unet/config.json", attention_head_dim=4)
    edit(tmp_path / "config/scheduler/scheduler_config.json", beta_end=0.02)
    pipe = ji.load(file, config=tmp_path / "config")
    assert set(pipe.network.config.heads) == {4}
    assert json.loads(pipe.scheduler)["beta_end"] == 0.02
    assert_same(pipe, ji.load(sd1))


def test_a_folder_of_configurations_of_other_parts_is_refused(sd1, tmp_path):
    file = tmp_path / "model.safetensors"
    shutil.copy(sd1 / "model.safetensors", file)
    config = tmp_path / "config"
    shutil.copytree(sd1, config, ignore=lambda *_: ["model.safetensors"])
    for part, kind in (("motion_adapter", "MotionAdapter"), ("controlnet", None)):
        name = kind or "ControlNetModel"
        edit(config / "model_index.json", **{part: ["diffusers", name]})
        with pytest.raises(ValueError, match=f"has a {part}.* does not hold"):
            ji.load(file, config=config)
        edit(config / "model_index.json", **{part: [None, None]})
    unet = diffusers.UNet2DModel(block_out_channels=(32,) * 4)
    unet.save_config(config / "unet")
    with pytest.raises(ValueError, match="hold a UNet2DConditionModel"):
        ji.load(file, config=config)


def test_an_instaflow_in_one_file_is_one_by_its_name(sd1, tmp_path):
    file, tokenizer = tmp_path / "instaflow_0_9B.safetensors", sd1 / "tokenizer"
    shutil.copy(sd1 / "model.safetensors", file)
    with pytest.warns(UserWarning, match="InstaFlow by its name"):
        pipe = ji.load(file, tokenizer=tokenizer)
    assert pipe.schedule.prediction_type == "rectified_flow"
    other = ji.load(file, tokenizer=tokenizer, schedule=ji.scaled_linear())
    assert other.schedule.family == "vp"


def test_options_without_effect_are_refused(sd1):
    file, tokenizer = sd1 / "model.safetensors", sd1 / "tokenizer"
    with pytest.raises(ValueError, match="variant='fp16' is for folders"):
        ji.load(file, tokenizer=tokenizer, variant="fp16")
    schedule = ji.scaled_linear()
    with pytest.raises(ValueError, match="does not fit the schedule"):
        ji.load(sd1, prediction_type="sample", schedule=schedule)
    pipe = ji.load(sd1, prediction_type="epsilon", schedule=schedule)
    assert pipe.schedule.prediction_type == "epsilon"


def test_links_out_of_folders_that_are_named_besides_the_file_are_refused(
    sd1, tmp_path
):
    file, outside = sd1 / "model.safetensors", tmp_path / "outside"
    for part, option in (("vae", "config"), ("tokenizer", "tokenizer"), ("vae", "vae")):
        folder = tmp_path / f"{part}-{option}"
        shutil.copytree(sd1, folder, ignore=lambda *_: ["model.safetensors"])
        shutil.copytree(sd1 / part, outside / option)
        shutil.rmtree(folder / part)
        (folder / part).symlink_to(outside / option)
        given = {"tokenizer": sd1 / "tokenizer", option: folder}
        with pytest.raises(ValueError, match=f"{part} is a link that leads out"):
            ji.load(file, **given)


# --- autoencoders -------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another autoencoder, as a folder and as a file in the original layout."""
    folder = tmp_path_factory.mktemp("vae") / "vae"
    torch.manual_seed(1)
    model = diffusers.AutoencoderKL(**AUTOENCODER, sample_size=512)
    model.save_pretrained(folder)
    file = folder.parent / "vae-original.safetensors"
    write(file, original_layout.autoencoder(model) | {"loss.logvar": torch.ones(())})
    return folder, file


def test_an_autoencoder_is_a_folder_a_file_or_a_component(sd1, other):
    folder, file = other
    wanted = weights_convert.load_component(folder)
    same = folder / "diffusion_pytorch_model.safetensors"
    for vae in (folder, file, same, wanted):
        pipe = ji.load(sd1, vae=vae)
        assert pipe.vae.config == wanted.config
        assert_same(pipe.vae, wanted)
    plain = ji.load(sd1)
    assert_same(pipe.network, plain.network)
    kernels = [each.vae.encoder.conv_in.kernel for each in (pipe, plain)]
    assert not np.array_equal(*kernels)


def test_a_file_without_an_autoencoder_takes_another(sd1, other, tmp_path):
    tensors = load_file(sd1 / "model.safetensors")
    some = {k: v for k, v in tensors.items() if not k.startswith("first_stage")}
    write(tmp_path / "some.safetensors", some)
    pipe = ji.load(
        tmp_path / "some.safetensors", tokenizer=sd1 / "tokenizer", vae=other[1]
    )
    assert_same(pipe.vae, weights_convert.load_component(other[0]))


def test_an_autoencoder_that_does_not_fit_is_refused(sd1, other, tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("weights_convert.component.read_tensor", read)
    folder = shutil.copytree(other[0], tmp_path / "vae")
    edit(folder / "config.json", scaling_factor=0.13025)
    with pytest.raises(ValueError, match=r"latent space: its scaling_factor is 0\.13"):
        ji.load(sd1, vae=folder)
    edit(folder / "config.json", scaling_factor=0.18215, latent_channels=8)
    with pytest.raises(ValueError, match="the autoencoder's latents have 8"):
        ji.load(sd1, vae=folder)
    with pytest.raises(ValueError, match="holds a UNet2DConditionModel, not an auto"):
        ji.load(sd1, vae=sd1 / "unet")
    with pytest.raises(ValueError, match="is not an autoencoder: it holds unet, vae"):
        ji.load(sd1, vae=sd1 / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no autoencoder 'nowhere'"):
        ji.load(sd1, vae="nowhere")
    with pytest.raises(ValueError, match="vae must be"):
        ji.load(sd1, vae=3)


def test_the_vocabulary_and_an_autoencoder_come_from_the_hub(sd1, other, monkeypatch):
    repositories = {
        "openai/clip-vit-large-patch14": sd1 / "tokenizer",
        "somebody/vae": other[0],
    }
    asked = {}

    def fake_download(name, *, allow_patterns, token, cache_dir):
        asked[name] = sorted(allow_patterns), token, cache_dir
        return str(repositories[name])

    def fake_info(self, name):
        names = [path.name for path in repositories[name].iterdir()]
        names += ["model.safetensors", "pytorch_model.bin", "tf_model.h5"]
        files = [SimpleNamespace(rfilename=each) for each in names]
        return SimpleNamespace(siblings=files)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_download)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fake_info)
    pipe = ji.load(
        sd1 / "model.safetensors", vae="somebody/vae", token="t", cache_dir="c"
    )
    assert_same(pipe.vae, weights_convert.load_component(other[0]))
    assert pipe.tokenize("red").tolist() == ji.load(sd1).tokenize("red").tolist()
    vocabulary = sorted(path.name for path in (sd1 / "tokenizer").iterdir())
    weights = ["config.json", "diffusion_pytorch_model.safetensors"]
    assert asked == {
        "openai/clip-vit-large-patch14": (vocabulary, "t", "c"),
        "somebody/vae": (weights, "t", "c"),
    }


# --- the command line ---------------------------------------------------------------


def test_the_command_line_takes_a_file_its_configurations_and_an_autoencoder(
    sd1, other, tmp_path
):
    asked = options.Sampling(
        model=str(sd1 / "model.safetensors"), config=sd1, vae=str(other[1])
    )
    ready = prepare(asked)
    assert_same(ready.pipe.vae, weights_convert.load_component(other[0]))
    assert_same(ready.pipe.network, ji.load(sd1).network)
    record = ready.record()
    assert (record["model"], record["vae"]) == ("model.safetensors", str(other[1]))
    for name, digest in other_files(asked).items():
        assert record[f"{name}_sha256"] == digest
    plain = prepare(options.Sampling(model=str(sd1))).record()
    assert not {"vae", "vae_sha256", "config_sha256"} & plain.keys()

    command = ("sample", "--model", sd1, "--prompt", "a", "--out", tmp_path / "a.png")
    expect_one_clear_line(run(*command, "--vae", "none"), "no autoencoder 'none'")
    expect_one_clear_line(run(*command, "--config", sd1), "models in one file")
    file = sd1 / "model.safetensors"
    expect_one_clear_line(run("convert", file, tmp_path / "out"), "only folders are")


def test_a_job_depends_on_the_contents_of_what_is_from_elsewhere(sd1, other, tmp_path):
    def digests(vae, config):
        return other_files(options.Sampling(vae=str(vae), config=config))

    folder = shutil.copytree(other[0], tmp_path / "vae")
    config = shutil.copytree(sd1, tmp_path / "config")
    before = digests(other[0], sd1)
    assert before.keys() == {"vae", "config"}
    assert digests(folder, config) == before
    assert digests(other[1], config)["vae"] != before["vae"]
    edit(folder / "config.json", sample_size=64)
    edit(config / "unet/config.json", attention_head_dim=4)
    after = digests(folder, config)
    assert all(after[name] != before[name] for name in before)
