"""Models whose folders do without parts that their family can do without."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxinv as ji
from jaxinv.loading.convert import convert
from jaxinv.loading.folder import loaded_files, read_parts
from jaxinv.pipeline.families import registry
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion


class TwoEncoders(StableDiffusion):
    """Stable Diffusion with a second text encoder whose vectors are added."""

    name = "two encoders"
    pipelines = ("TwoEncodersPipeline",)
    parts = {  # noqa: RUF012
        **StableDiffusion.parts,
        "text_encoder_2": ("CLIPTextModel",),
        "tokenizer_2": StableDiffusion.parts["tokenizer"],
    }
    text_encoders = {  # noqa: RUF012
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
    }
    optional = ("text_encoder_2",)


@pytest.fixture
def folder(diffusers_folder, tmp_path, monkeypatch):
    """A model of this family without the second text encoder."""
    monkeypatch.setattr(registry, "FAMILIES", (TwoEncoders(), *registry.FAMILIES))
    shutil.copytree(diffusers_folder, tmp_path / "model")
    name_parts(tmp_path / "model", text_encoder_2=[None, None])
    return tmp_path / "model"


def name_parts(folder, **entries):
    """Change entries of a model's index."""
    path = folder / "model_index.json"
    index = json.loads(path.read_text()) | {"_class_name": "TwoEncodersPipeline"}
    path.write_text(json.dumps(index | entries))


def test_a_model_without_an_optional_part_is_used_like_any_other(
    folder, tiny, tmp_path
):
    save_file({"<w>": np.ones((1, 16), np.float32)}, tmp_path / "w.safetensors")
    layer = "unet.down_blocks.0.attentions.0.proj_in.lora_{}.weight"
    factors = {layer.format("A"): (2, 16, 1, 1), layer.format("B"): (16, 2, 1, 1)}
    save_file(
        {name: np.ones(shape, np.float32) for name, shape in factors.items()},
        tmp_path / "lora.safetensors",
    )
    pipe = ji.load(
        folder,
        lora=[(tmp_path / "lora.safetensors", 0.1)],
        textual_inversion=[(tmp_path / "w.safetensors", None)],
    )
    assert pipe.text_encoders[1] is pipe.tokenizers[1] is None
    assert list(pipe.present_text_encoders) == ["text_encoder"]
    assert str(pipe).startswith("Pipeline: ")
    assert pipe.num_chunks("red " * 20) == 2
    assert len(pipe.tokenize("a <w>")) == len(tiny.tokenize("a <w>"))
    with pytest.raises(ValueError, match="was loaded without text_encoder_2"):
        pipe.tokenize("a", encoder=1)
    converted = convert(folder, tmp_path / "converted")
    for each in (folder, converted):
        assert not any("_2" in name for name in loaded_files(each))
        found, wanted = (jax.tree.leaves(x) for x in (ji.load(each), tiny))
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_tokenizer_without_its_text_encoder_is_not_read(folder):
    name_parts(folder, tokenizer_2=["transformers", "CLIPTokenizer"])
    assert read_parts(folder).index.classes.keys() == StableDiffusion.parts.keys()


def test_a_part_that_the_index_names_must_be_there(folder):
    name_parts(folder, text_encoder_2=["transformers", "CLIPTextModel"])
    with pytest.raises(ValueError, match="names no tokenizer_2"):
        ji.load(folder)
    name_parts(folder, tokenizer_2=["transformers", "CLIPTokenizer"])
    with pytest.raises(ValueError, match="incomplete: the folder text_encoder_2 is mi"):
        ji.load(folder)


def test_a_part_that_is_not_optional_cannot_be_null(folder):
    name_parts(folder, text_encoder=[None, None])
    with pytest.raises(ValueError, match=r"names no text_encoder \(null\)"):
        ji.load(folder)
