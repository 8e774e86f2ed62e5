"""T5's encoders equal transformers', and read and write its files."""

import random

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from t5_cases import T5_OPTIONS, write_t5_encoder
from torch_models import relative_error
from transformers.models.t5.modeling_t5 import T5Attention

import weights_convert
from jaxinv.models import T5Config, UMT5Config
from jaxinv.models.text_encoders.t5 import relative_position_buckets

TOLERANCE = 1e-4
VALUES = {
    "d_model": [8, 12, 16],
    "d_kv": [4, 6, 8],
    "d_ff": [8, 20],
    "num_layers": [1, 2, 3],
    "num_heads": [1, 2, 3],
    "relative_attention_num_buckets": [4, 8, 32],
    "relative_attention_max_distance": [9, 12, 128],
    "layer_norm_epsilon": [1e-6, 1e-2],
    "feed_forward_proj": ["gated-gelu", "relu"],
}
# The published config.json, without what concerns training and generation.
XXL = {
    "architectures": ["T5EncoderModel"],
    "classifier_dropout": 0.0,
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "num_heads": 64,
    "num_layers": 24,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
UMT5_XXL = XXL | {
    "architectures": ["UMT5EncoderModel"],
    "model_type": "umt5",
    "scalable_attention": True,
    "vocab_size": 256384,
}


@jax.jit
def run(model, *args):
    """Runs our encoder."""
    return model(*args)


def torch_run(model, ids, mask):
    """Runs transformers' encoder on one prompt."""
    mask = None if mask is None else torch.from_numpy(mask)[None].long()
    with torch.no_grad():
        found = model(torch.from_numpy(ids)[None].long(), attention_mask=mask)
    return found.last_hidden_state[0].numpy()


def inputs(model, length, seed=0):
    """Token ids, and a mask that hides the last ones."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(model.config.vocab_size, size=length, dtype=np.int32)
    return ids, np.arange(length) < length - 3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["T5", "UMT5"])
def test_random_encoders_equal_transformers(kind, seed, tmp_path):
    drawn = random.Random(f"{kind} {seed}")
    options = {name: drawn.choice(values) for name, values in VALUES.items()}
    theirs = write_t5_encoder(tmp_path / "encoder", kind=kind, **options)
    ours = weights_convert.load_component(tmp_path / "encoder")
    ids, mask = inputs(ours, length=drawn.randint(9, 14), seed=seed)
    for given in (None, mask):
        wanted = torch_run(theirs, ids, given)
        assert relative_error(run(ours, ids, given), wanted) < TOLERANCE, options


@pytest.mark.parametrize("kind", ["T5", "UMT5"])
def test_a_saved_encoder_is_read_by_transformers(kind, tmp_path):
    theirs = write_t5_encoder(tmp_path / "theirs", kind=kind, num_layers=3)
    ours = weights_convert.load_component(tmp_path / "theirs")
    weights_convert.save_component(ours, tmp_path / "ours")
    again = getattr(transformers, f"{kind}EncoderModel").from_pretrained(
        tmp_path / "ours"
    )
    wanted, found = theirs.state_dict(), again.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("names", [["embed_tokens"], ["embed_tokens", "shared"]])
def test_both_published_names_of_the_embeddings_are_read(names, tmp_path):
    write_t5_encoder(tmp_path)
    wanted = weights_convert.load_component(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors.pop("shared.weight")
    full = {"embed_tokens": "encoder.embed_tokens.weight", "shared": "shared.weight"}
    tensors |= {full[name]: table for name in names}
    save_file(tensors, tmp_path / "model.safetensors")
    found = weights_convert.load_component(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_buckets_are_those_of_transformers():
    rng = np.random.default_rng(0)
    drawn = [(4 * a, a + b) for a, b in rng.integers(1, 99, (9, 2)).tolist()]
    for buckets, longest in [(32, 128), *drawn]:
        relative = torch.arange(512)[None] - torch.arange(512)[:, None]
        wanted = T5Attention._relative_position_bucket(
            relative, num_buckets=buckets, max_distance=longest
        )
        found = relative_position_buckets(512, buckets, longest)
        exact, distance = buckets // 4, np.maximum(np.abs(relative.numpy()), 1)
        place = exact * np.log(distance / exact) / np.log(longest / exact)
        # Between two buckets, logarithms decide that differ in their last bit. The
        # published encoders were trained with float32's.
        tie = np.abs(place - np.round(place)) < 1e-5
        tie &= (buckets, longest) != (32, 128)
        np.testing.assert_array_equal(found[~tie], wanted.numpy()[~tie])


@pytest.mark.parametrize(
    ("data", "config", "size"),
    [
        (XXL, T5Config.xxl(), 4_762_310_656),
        (UMT5_XXL, UMT5Config.xxl(), 5_680_910_336),
    ],
)
def test_every_tensor_of_the_published_layout_maps(data, config, size):
    assert type(config).from_dict(data) == config
    kind = data["architectures"][0]
    with torch.device("meta"):
        theirs = getattr(transformers, kind)(
            getattr(transformers, kind.replace("EncoderModel", "Config"))(**data)
        )
    wanted = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    del wanted["encoder.embed_tokens.weight"]  # the same tensor as shared.weight
    layout = weights_convert.tensor_shapes(config)
    assert layout == wanted
    assert sum(map(np.prod, layout.values())) == size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj"),
        ({"model_type": "umt5"}, "model_type='umt5' does not fit.*T5EncoderModel"),
        ({"is_decoder": True}, "is_decoder"),
        ({"relative_attention_num_buckets": 6}, "multiple of 4"),
        ({"relative_attention_max_distance": 2}, "more than a quarter"),
    ],
)
def test_other_encoders_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        T5Config.from_dict(T5_OPTIONS | change)
