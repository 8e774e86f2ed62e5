"""Our models equal PyTorch's on the same weights.

The bar is a maximal error of 1e-4 of the output's root mean square, in float32.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_models import (
    AUTOENCODERS,
    CASES,
    TEXT_ENCODERS,
    UNETS,
    from_torch,
    relative_error,
    save,
    to_torch,
    torch_unet,
)

import weights_convert
from jaxinv.models import UNetCondition
from jaxinv.models.config import as_tuple

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Returns a function that gives (PyTorch's model, ours) for a case, cached."""
    cache = {}

    def pair(kind, name):
        if (kind, name) not in cache:
            folder = tmp_path_factory.mktemp(f"{kind}-{name}") / kind
            torch_model = save(kind, name, folder)
            cache[kind, name] = torch_model, weights_convert.load_component(folder)
        return cache[kind, name]

    return pair


def unet_inputs(config, size=(16, 16), length=7, seed=0):
    """Random latent and text vectors."""
    rng = np.random.default_rng(seed)
    context = config.cross_attention_dim
    if isinstance(context, tuple):
        context = context[-1]  # the only block with attention in these models
    sample = rng.standard_normal((*size, config.in_channels), np.float32)
    condition = UNetCondition(rng.standard_normal((length, context), np.float32))
    if config.addition_embed_type is not None:
        sizes = np.array([1024, 768, 0, 16, 512, 1000], np.float32)
        pooled = rng.standard_normal(config.pooled_width, np.float32)
        condition = condition._replace(pooled=pooled, time_ids=sizes)
    if config.time_cond_proj_dim is not None:
        condition = condition._replace(guidance=np.float32(8.5))
    return sample, condition


@jax.jit
def run(model, *args):
    """Runs our UNet or text encoder."""
    return model(*args)


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("timestep", [0.0, 321.75, 999.0])
def test_unet_equals_pytorch_at_whole_and_fractional_times(pairs, name, timestep):
    theirs, ours = pairs("unet", name)
    sample, context = unet_inputs(ours.config)
    wanted = torch_unet(theirs, sample, timestep, context)
    found = run(ours, sample, timestep, context)
    assert found.shape == wanted.shape
    assert relative_error(found, wanted) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "size"), [("sd1", (8, 12)), ("sd1", (9, 11)), ("sd2", (9, 11))]
)
def test_unet_equals_pytorch_at_other_sizes(pairs, name, size):
    # Odd sizes are rounded up on the way down and restored on the way up.
    theirs, ours = pairs("unet", name)
    sample, context = unet_inputs(ours.config, size=size, length=3)
    wanted = torch_unet(theirs, sample, 500.0, context)
    found = run(ours, sample, 500.0, context)
    assert relative_error(found, wanted) < TOLERANCE


def test_different_times_and_texts_give_different_outputs(pairs):
    _, ours = pairs("unet", "sd1")
    sample, context = unet_inputs(ours.config)
    one = run(ours, sample, 100.0, context)
    assert relative_error(run(ours, sample, 700.0, context), one) > 0.01
    text = context.text
    backward, doubled = UNetCondition(text[::-1]), UNetCondition(2 * text)
    assert relative_error(run(ours, sample, 100.0, backward), one) < 1e-4
    assert relative_error(run(ours, sample, 100.0, doubled), one) > 0.01
    assert (run(ours, sample, 100.0, text) == one).all()  # the vectors alone


@pytest.mark.parametrize("name", ["pooled", "time_ids", "guidance"])
def test_every_added_condition_is_used_and_asked_for(pairs, name):
    _, ours = pairs("unet", "ssd1b")
    sample, condition = unet_inputs(ours.config)
    one = run(ours, sample, 100.0, condition)
    more = condition._replace(**{name: getattr(condition, name) + 3})
    assert relative_error(run(ours, sample, 100.0, more), one) > 0.01
    lacking = condition._replace(**{name: None})
    with pytest.raises(ValueError, match=f"the condition lacks {name} of shape"):
        ours(sample, 100.0, lacking)
    longer = condition._replace(**{name: np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=f"{name} must have shape .* got .3,"):
        ours(sample, 100.0, longer)
    _, plain = pairs("unet", "sd1")
    given = UNetCondition(condition.text, **{name: getattr(condition, name)})
    with pytest.raises(ValueError, match=f"the condition has {name}, for which"):
        plain(sample, 100.0, given)


@pytest.mark.parametrize(
    ("name", "size"), [*((name, (16, 16)) for name in AUTOENCODERS), ("sd1", (24, 40))]
)
def test_encoder_equals_pytorch(pairs, name, size):
    theirs, ours = pairs("vae", name)
    image = np.random.default_rng(1).uniform(-1, 1, (*size, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs.encode(to_torch(image)).latent_dist
    found = jax.jit(type(ours).encode)(ours, image)
    assert relative_error(found.mode(), from_torch(wanted.mode())) < TOLERANCE
    assert relative_error(found.log_var, from_torch(wanted.logvar)) < TOLERANCE
    assert relative_error(found.std, from_torch(wanted.std)) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "size"), [*((name, (8, 8)) for name in AUTOENCODERS), ("sd1", (4, 10))]
)
def test_decoder_equals_pytorch(pairs, name, size):
    theirs, ours = pairs("vae", name)
    rng = np.random.default_rng(2)
    latent = rng.standard_normal((*size, ours.config.latent_channels), np.float32)
    with torch.no_grad():
        wanted = theirs.decode(to_torch(latent)).sample
    found = jax.jit(type(ours).decode)(ours, latent)
    factor = ours.config.downsampling_factor
    assert found.shape == (factor * size[0], factor * size[1], 3)
    assert relative_error(found, from_torch(wanted)) < TOLERANCE


def prompt_tokens(length=16):
    """Token ids as a tokenizer makes them: text, end token, padding with end tokens."""
    tokens = np.random.default_rng(3).integers(0, 97, length)
    tokens[0], tokens[6:] = 97, 98
    return tokens.astype(np.int32)


@pytest.mark.parametrize(
    ("name", "length"), [*((name, 16) for name in TEXT_ENCODERS), ("gelu", 9)]
)
def test_text_encoder_equals_pytorch(pairs, name, length):
    theirs, ours = pairs("text_encoder", name)
    tokens = prompt_tokens(length)
    with torch.no_grad():
        wanted = theirs(
            torch.from_numpy(tokens)[None].long(), output_hidden_states=True
        )
    found = run(ours, tokens)
    last = wanted.last_hidden_state[0]
    penultimate = wanted.hidden_states[-2][0]
    assert relative_error(found.last_hidden_state, last) < TOLERANCE
    assert relative_error(found.penultimate_hidden_state, penultimate) < TOLERANCE
    pooled = wanted.text_embeds if "projection" in name else wanted.pooler_output
    assert relative_error(found.pooled, pooled[0]) < TOLERANCE


def test_pooling_takes_the_first_end_token(pairs):
    _, ours = pairs("text_encoder", "gelu")
    tokens = prompt_tokens()
    found = run(ours, tokens)
    np.testing.assert_array_equal(found.pooled, found.last_hidden_state[6])


def test_text_encoder_is_causal(pairs):
    _, ours = pairs("text_encoder", "gelu")
    tokens = prompt_tokens()
    changed = tokens.copy()
    changed[10:] = 5
    one, other = run(ours, tokens), run(ours, changed)
    before = one.last_hidden_state[:10], other.last_hidden_state[:10]
    assert relative_error(*before) < 1e-5
    assert relative_error(one.last_hidden_state, other.last_hidden_state) > 0.01


def test_a_text_that_is_too_long_is_an_error(pairs):
    _, ours = pairs("text_encoder", "gelu")
    with pytest.raises(ValueError, match=r"17 tokens.*at most 16"):
        ours(jnp.zeros(17, jnp.int32))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_stored_configuration_is_read_back_by_the_library(pairs, kind, name):
    theirs, ours = pairs(kind, name)
    written = ours.config.to_dict()
    original = theirs.config.to_dict() if kind == "text_encoder" else theirs.config
    for key, value in written.items():
        if key in original and not key.startswith("_"):
            assert as_tuple(value) == as_tuple(original[key]), key
