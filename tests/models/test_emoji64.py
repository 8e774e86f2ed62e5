"""The embedded model equals PyTorch's, part by part, on the weights that ship."""

from pathlib import Path

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from torch_models import from_torch, relative_error, to_torch

import jaxinv
import weights_convert
from jaxinv.models import AutoencoderKL

FOLDER = Path(jaxinv.__file__).parent / "zoo" / "emoji64"
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def tokens():
    """Token ids of a prompt and of no prompt."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    ids = tokenizer(
        ["red heart on a light blue background", ""],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
    ).input_ids
    return np.asarray(ids, np.int32)


@pytest.fixture(scope="module")
def theirs():
    """PyTorch's text encoder, autoencoder and UNet, in float32."""
    classes = {
        "text_encoder": transformers.CLIPTextModel,
        "vae": diffusers.AutoencoderKL,
        "unet": diffusers.UNet2DConditionModel,
    }
    return {
        name: cls.from_pretrained(FOLDER / name, dtype=torch.float32).eval()
        if name == "text_encoder"
        else cls.from_pretrained(FOLDER / name, torch_dtype=torch.float32).eval()
        for name, cls in classes.items()
    }


def test_text_encoder_equals_pytorch(theirs, tokens):
    ours = weights_convert.load_component(FOLDER / "text_encoder")
    with torch.no_grad():
        wanted = theirs["text_encoder"](torch.from_numpy(tokens).long())
    encode = jax.jit(lambda model, ids: jax.vmap(model)(ids))
    found = encode(ours, tokens)
    assert relative_error(found.last_hidden_state, wanted.last_hidden_state) < TOLERANCE
    assert relative_error(found.pooled, wanted.pooler_output) < TOLERANCE


def test_encoder_and_decoder_equal_pytorch(theirs):
    ours = weights_convert.load_component(FOLDER / "vae")
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
    image = np.stack([rows, columns, np.sign(0.5 - np.hypot(rows, columns))], -1)
    with torch.no_grad():
        posterior = theirs["vae"].encode(to_torch(image)).latent_dist
        decoded = theirs["vae"].decode(posterior.mode()).sample
    found = jax.jit(AutoencoderKL.encode)(ours, image)
    assert relative_error(found.mean, from_torch(posterior.mean)) < TOLERANCE
    assert relative_error(found.log_var, from_torch(posterior.logvar)) < TOLERANCE
    again = jax.jit(AutoencoderKL.decode)(ours, from_torch(posterior.mode()))
    assert relative_error(again, from_torch(decoded)) < TOLERANCE


def test_guided_unet_prediction_equals_pytorch(theirs, tokens):
    ours = weights_convert.load_component(FOLDER / "unet")
    config = ours.config
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((16, 16, config.in_channels), np.float32)
    with torch.no_grad():
        texts = theirs["text_encoder"](torch.from_numpy(tokens).long())
        texts = texts.last_hidden_state
    batched = jax.jit(jax.vmap(lambda unet, *args: unet(*args), (None, None, None, 0)))
    for timestep in (0.0, 20.5, 999.0):
        with torch.no_grad():
            batch = to_torch(sample).expand(2, -1, -1, -1)
            wanted = theirs["unet"](batch, torch.tensor(timestep), texts).sample
        right, empty = (from_torch(x[None]) for x in wanted)
        found = batched(ours, sample, timestep, texts.numpy())
        assert relative_error(found, np.stack([right, empty])) < TOLERANCE
        guided = empty + 7.5 * (right - empty)
        ours_guided = found[1] + 7.5 * (found[0] - found[1])
        assert relative_error(ours_guided, guided) < TOLERANCE
