"""Models that cannot work are refused when they are loaded, with the reason."""

import inspect
import json
import random
import shutil
import typing

import diffusers
import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

import jaxinv as ji
import weights_convert
from jaxinv.cli import app
from jaxinv.loading.convert import convert
from jaxinv.pipeline.families import read_index

# diffusers' pipelines that run a family's parts, whatever they do with them. Some have
# other networks in fact: of those, the configurations tell.
SAME_PARTS = {
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "AnimateDiffPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
}
# What all models of latents have that are accepted, and all flow transformers.
LATENT = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
TRANSFORMER = LATENT - {"unet"} | {"transformer"}
OTHER_PARTS = (
    "StableDiffusionUpscalePipeline", "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionImageVariationPipeline",
    "AnimateDiffSDXLPipeline", "StableVideoDiffusionPipeline",
    "LDMTextToImagePipeline", "LDMSuperResolutionPipeline", "KandinskyV22Pipeline",
    "IFPipeline", "StableUnCLIPPipeline", "AltDiffusionPipeline",
    "TextToVideoSDPipeline", "VersatileDiffusionPipeline", "WuerstchenPriorPipeline",
)  # fmt: skip


@pytest.fixture
def copy(diffusers_folder, tmp_path):
    """A copy of the random model that a test may change."""
    return shutil.copytree(diffusers_folder, tmp_path / "copy")


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """Makes reading weights a failure: reasons come before that."""

    def read(*_, **__):
        pytest.fail("weights were read")

    monkeypatch.setattr(weights_convert, "load_component", read)
    monkeypatch.setattr("jaxinv.loading.convert.load_component", read)


def edit(path, **changes):
    """Changes keys of a JSON file; None removes them."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def refused(folder, match, tmp_path):
    """Checks that loading, converting and the command line say the same."""
    with pytest.raises(ValueError, match=match) as caught:
        ji.load(folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=match):
        convert(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    return str(caught.value)


def test_the_model_itself_is_not_refused(copy):
    with pytest.raises(pytest.fail.Exception, match="weights were read"):
        ji.load(copy)


def pipelines():
    """Every pipeline of diffusers with the parts that it must have."""
    for name in sorted(n for n in dir(diffusers) if n.endswith("Pipeline")):
        try:
            cls = getattr(diffusers, name)
        except RuntimeError:  # it needs a newer version of transformers
            continue
        index = {}
        for part, parameter in inspect.signature(cls.__init__).parameters.items():
            kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
            kinds = [kind.__name__ for kind in kinds if inspect.isclass(kind)]
            if part in ("self", "args", "kwargs") or kinds[:1] in (["bool"], ["int"]):
                continue
            if parameter.default is inspect.Parameter.empty:
                index[part] = ["some", kinds[0] if kinds else "Unknown"]
        if index:
            yield name, index


def test_every_pipeline_of_diffusers_is_judged_by_its_parts():
    accepted, refusals = set(), {}
    for name, index in pipelines():
        try:
            read_index("model_index.json", {"_class_name": name, **index})
            accepted.add(name)
        except ValueError as error:
            refusals[name] = str(error)
    assert accepted >= SAME_PARTS
    assert not accepted & set(OTHER_PARTS)
    assert len(refusals) > 100
    for name, message in refusals.items():
        assert f"so this {name} is not implemented" in message
        assert "Stable Diffusion (unet, vae, text_encoder, tokenizer" in message
    for name in accepted:
        parts = set(inspect.signature(getattr(diffusers, name).__init__).parameters)
        latent = parts >= LATENT or parts >= TRANSFORMER
        assert latent or parts - {"self"} == {"unet", "scheduler"}


@pytest.mark.parametrize("seed", range(12))
def test_one_part_more_less_or_other_is_named(seed, copy, tmp_path):
    rng = random.Random(seed)
    part = rng.choice(["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
    more = rng.choice(
        ["text_encoder_2", "transformer", "controlnet", "low_res_scheduler", "prior",
         "motion_module", "depth_estimator", "unet_2", "vqvae", "image_normalizer"]
    )  # fmt: skip
    other = rng.choice(
        ["UNet3DConditionModel", "T5Tokenizer", "VQModel", "UNet2DModel"]
    )
    kind = rng.choice(["SomePipeline", "StableDiffusionPipeline"])
    what = ("null", "gone", "other", "more", "option")[seed % 5]
    if what == "other" and part == "scheduler":
        part = "unet"
    index = copy / "model_index.json"
    data = json.loads(index.read_text()) | {"_class_name": kind}
    if what == "gone":
        del data[part]
    else:
        data |= {
            "null": {part: [None, None]},
            "other": {part: ["diffusers", other]},
            "more": {more: ["diffusers", "Something"]},
            "option": {"force_zeros_for_empty_prompt": True},
        }[what]
    index.write_text(json.dumps(data))
    expected = {
        "null": f"names no {part} .null.",
        "gone": f"names no {part}",
        "other": f"names a {part} of class {other}",
        "more": f"an extra part, '{more}' .Something.",
        "option": "force_zeros_for_empty_prompt=True",
    }[what]
    assert kind in refused(copy, expected, tmp_path)


def test_parts_that_generation_does_without_are_no_reason(copy):
    edit(
        copy / "model_index.json",
        _class_name="StableDiffusionDiffEditPipeline",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        inverse_scheduler=["diffusers", "DDIMInverseScheduler"],
        image_encoder=[None, None],
        requires_safety_checker=True,
    )
    with pytest.raises(pytest.fail.Exception, match="weights were read"):
        ji.load(copy)


MISMATCHES = {
    "inpainting": (
        "unet",
        lambda rng: {"in_channels": 9},
        r"9 input channels .*\(inpainting\)",
    ),
    "input": (
        "unet",
        lambda rng: {"in_channels": rng.choice([1, 2, 3, 5, 6, 7, 8, 10, 16, 32])},
        "input channels .*latents have 4",
    ),
    "output": (
        "unet",
        lambda rng: {"out_channels": rng.choice([1, 2, 3, 5, 9, 16])},
        "output channels .*latents have 4",
    ),
    "variance": ("unet", lambda rng: {"out_channels": 8}, "learned variance"),
    "latents": (
        "vae",
        lambda rng: {"latent_channels": rng.choice([1, 3, 8, 16])},
        "latents have",
    ),
    "colours": (
        "vae",
        lambda rng: {
            rng.choice(["in_channels", "out_channels"]): rng.choice([1, 4, 6])
        },
        "images have 3",
    ),
    "width": (
        "unet",
        lambda rng: {"cross_attention_dim": rng.choice([4, 8, 32, 768, [24]])},
        r"cross_attention_dim.*text encoder's have 16",
    ),
    "text": (
        "text_encoder",
        lambda rng: {"hidden_size": rng.choice([8, 32, 64])},
        r"size 16 .*hidden_size",
    ),
    "vocabulary": (
        "text_encoder",
        lambda rng: {"vocab_size": rng.choice([10, 100, 191])},
        "tokenizer has 192 tokens",
    ),
    "mask": (
        "text_encoder",
        lambda rng: {"use_attention_mask": True},
        "use_attention_mask",
    ),
    "size": (
        "unet",
        lambda rng: {"sample_size": rng.choice([0, -8, [8], [8, 8, 8], "8", 8.0])},
        "is not a height and width",
    ),
    "time": (
        "unet",
        lambda rng: rng.choice(
            [
                {"class_embed_type": "timestep"},
                {"addition_embed_type": "text_time"},
                {"num_class_embeds": 7},
                {"encoder_hid_dim": 3},
                {"attention_type": "gated"},
            ]
        ),
        r"unet.*(class_embed|addition_embed|encoder_hid|attention_type)",
    ),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", MISMATCHES)
def test_parts_that_do_not_fit_are_refused(kind, seed, copy, tmp_path):
    part, changes, match = MISMATCHES[kind]
    edit(copy / part / "config.json", **changes(random.Random(seed)))
    if kind == "vocabulary":  # a checkpoint of it can be made, and is not loaded
        with pytest.raises(ValueError, match=match):
            ji.load(copy)
    else:
        refused(copy, match, tmp_path)


def test_widths_of_text_count_where_there_is_attention(copy):
    edit(
        copy / "unet/config.json",
        block_out_channels=[16, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=[99, 16],
    )
    with pytest.raises(pytest.fail.Exception, match="weights were read"):
        ji.load(copy)


def test_a_size_that_nobody_says_is_asked_for(copy, tmp_path):
    edit(copy / "unet/config.json", sample_size=None)
    edit(copy / "vae/config.json", sample_size=30)
    refused(copy, "30 by 30, is not a multiple of 4", tmp_path)
    tiny = {"_class_name": "AutoencoderTiny", "latent_channels": 4}
    (copy / "vae/config.json").write_text(json.dumps(tiny))
    refused(copy, "neither .* states the size", tmp_path)


def test_parts_in_one_anothers_folders_are_refused(copy, tmp_path):
    shutil.copy(copy / "unet/config.json", copy / "vae/config.json")
    refused(copy, "the folder vae holds a UNet2DCondition", tmp_path)


DTYPES = {
    "float16": r"float16 is not supported on CPUs .*float32 or dtype=jnp\.bfloat16",
    "int8": "int8 is not a data type for models",
    "bool": "bool is not a data type",
    "complex64": "complex64 is not a data type",
    "float8_e4m3fn": "float8_e4m3fn is not a data type",
    "float64": "float64 needs .*jax_enable_x64",
}


@pytest.mark.parametrize("name", DTYPES)
def test_a_data_type_that_cannot_be_computed_is_refused(name, copy):
    given = random.Random(name).choice(
        [name, jnp.dtype(name), getattr(jnp, name, name)]
    )
    with pytest.raises(ValueError, match=DTYPES[name]):
        ji.load(copy, dtype=given)
    mesh = ji.make_mesh(devices=jax.devices("cpu"))
    with pytest.raises(ValueError, match=DTYPES[name]):
        ji.load(copy, dtype=given, param_dtype="float32", sharding=mesh)


def test_parameters_in_float16_are_no_reason_on_a_cpu(copy):
    with pytest.raises(pytest.fail.Exception, match="weights were read"):
        ji.load(copy, dtype="float32", param_dtype="float16")


def test_the_command_line_says_the_reason_in_one_line(copy):
    edit(copy / "unet/config.json", in_channels=9)
    result = CliRunner().invoke(app, ["sample", "-m", str(copy), "-p", "cat"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "inpainting" in result.stderr
