"""Run-time options: other programs for the same function of the same parameters."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as fused
from test_modules import make, make_text_encoder, make_unet, run, unet_batch
from torch_models import AUTOENCODERS, UNETS, relative_error

import jaxinv
from jaxinv.models import (
    AutoencoderKLConfig,
    UNet2DConditionConfig,
    abstract_component,
    with_options,
)
from jaxinv.models.layers.attention import Attention, dot_product_attention
from jaxinv.models.layers.flash import flash_attention, flash_takes
from jaxinv.models.layers.remat import Remat

FUSED = "__cudnn$fmhaSoftmax"
# As few layers as there can be: compiling is what takes the time.
SMALL = UNETS["plain_mid"] | {"mid_block_type": None, "up_block_types": ("UpBlock2D",)}
OTHER_REMATS = [name for name in get_args(Remat) if name != "none"]


def make_small(**kwargs):
    return make(UNet2DConditionConfig(**SMALL), **kwargs)


def kept_bytes(function, *args):
    """Bytes that reverse mode keeps between its passes, beside the arguments."""
    _, pull = jax.eval_shape(lambda *args: jax.vjp(function, *args), *args)

    def size(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    return size(pull) - size(args)


@jax.jit
def derivatives(unet, x, t, context):
    """Value and gradient by both modes: of the input, a prompt and a parameter."""

    def loss(x, context, bias):
        copy = jax.tree.map(lambda leaf: leaf, unet)
        copy.down_blocks[0].resnets[0].norm1.bias.set_value(bias)
        return jnp.sum(copy(x, t, context) ** 2)

    arguments = x, context, unet.down_blocks[0].resnets[0].norm1.bias.get_value()
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(*arguments)
    _, slope = jax.jvp(loss, arguments, gradients)
    return value, slope, gradients


def unet_derivatives(remat):
    (x,), (t,), (context,) = unet_batch(1)
    return derivatives(with_options(make_small(), remat=remat), x, t, context)


@pytest.fixture(scope="module")
def plain_derivatives():
    return unet_derivatives("none")


@pytest.mark.parametrize("remat", OTHER_REMATS)
def test_derivatives_of_both_modes_are_those_without_remat(remat, plain_derivatives):
    # The same operations in other fusions: float32 rounding, after some 20 layers.
    pairs = zip(
        jax.tree.leaves(unet_derivatives(remat)),
        jax.tree.leaves(plain_derivatives),
        strict=True,
    )
    for found, wanted in pairs:
        assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted)


def test_every_policy_keeps_less_of_a_unet_than_the_one_before():
    (x,), (t,), (context,) = unet_batch(1)
    unet = make_small()

    def kept(remat):
        def function(x, context):
            return with_options(unet, remat=remat)(x, t, context)

        return kept_bytes(function, jnp.asarray(x), jnp.asarray(context))

    none, dots, blocks = map(kept, ("none", "dots", "blocks"))
    assert blocks < dots < none / 2


@pytest.mark.parametrize("remat", OTHER_REMATS)
def test_autoencoder_and_text_encoder_keep_less_of_their_blocks(remat):
    vae = make(AutoencoderKLConfig(**AUTOENCODERS["sd1"]))
    latent = jnp.asarray(
        np.random.default_rng(0).standard_normal((4, 4, 4)), jnp.float32
    )
    text_encoder = make_text_encoder()
    ids = jnp.arange(7)
    other_vae = with_options(vae, remat=remat)
    other_text = with_options(text_encoder, remat=remat)
    blocks = other_vae.decoder.mid_block
    assert {blocks.attentions[0].remat, blocks.resnets[0].remat} == {remat}
    assert kept_bytes(other_vae.decode, latent) < kept_bytes(vae.decode, latent) / 2

    def pooled(text_encoder):
        return text_encoder(ids).pooled

    assert kept_bytes(pooled, other_text) < kept_bytes(pooled, text_encoder)
    found, wanted = (run(text, ids).pooled for text in (other_text, text_encoder))
    assert relative_error(found, wanted) < 1e-6


def test_options_share_parameters_and_leave_the_model_alone():
    unet = make_unet()
    other = with_options(unet, attention="xla", remat="blocks")
    layers = [m.down_blocks[0].attentions[0] for m in (unet, other)]
    inner = [layer.transformer_blocks[0].attn1 for layer in layers]
    assert [layer.remat for layer in layers] == ["none", "blocks"]
    assert [layer.implementation for layer in inner] == [None, "xla"]
    assert inner[1].remat == "none"  # its block is computed again as a whole
    for old, new in zip(jax.tree.leaves(unet), jax.tree.leaves(other), strict=True):
        assert old is new


def test_xla_attention_is_the_default_and_the_option_selects_the_program():
    samples, times, texts = unet_batch(2)
    unet = make_small()
    batched = jax.jit(jax.vmap(lambda unet, *args: unet(*args), (None, 0, 0, 0)))
    wanted = batched(unet, samples, times, texts)
    found = batched(with_options(unet, attention="xla"), samples, times, texts)
    assert batched._cache_size() == 2
    np.testing.assert_array_equal(found, wanted)


def test_upcast_attention_in_float32_is_better_than_in_16_bits():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in rng.standard_normal((3, 64, 2, 8)))
    exact = dot_product_attention(*(x.astype(jnp.float32) for x in (q, k, v)))
    wide = dot_product_attention(q, k, v, upcast=True)
    assert wide.dtype == jnp.bfloat16
    np.testing.assert_array_equal(wide, exact.astype(jnp.bfloat16))
    narrow = dot_product_attention(q, k, v, implementation="xla")
    assert jnp.any(narrow != wide)


def test_load_takes_options(diffusers_folder):
    pipe = jaxinv.load(diffusers_folder, attention="xla", remat="dots")
    block = pipe.network.down_blocks[0].attentions[0]
    assert block.remat == pipe.vae.decoder.mid_block.resnets[0].remat == "dots"
    assert block.transformer_blocks[0].attn2.implementation == "xla"
    assert pipe.text_encoders[0].encoder.layers[0].self_attn.implementation == "xla"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash"}, "attention( must be one of xla, .*|=)'flash'"),
        ({"remat": "all"}, "remat( must be one of none, blocks, .*|=)'all'"),
        ({"attention": "cudnn"}, "computes in 16 bits only.*in float32"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        with_options(make_unet(), **options)
    with pytest.raises(ValueError, match=message):
        jaxinv.load("a folder that does not exist", **options)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there is a GPU here")
def test_cudnn_needs_an_nvidia_gpu():
    unet = make_unet(dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match=r"needs an NVIDIA GPU.*backend is 'cpu'"):
        with_options(unet, attention="cudnn")


# cuDNN's kernel cannot run here, but JAX can write programs for machines that are not:
# these tests look at what would be compiled for an NVIDIA GPU of the Hopper kind.


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(
        fused, "is_cuda_compute_capability_equal", lambda capability: False
    )
    for name in ("has_cudnn", "_compute_capability"):
        monkeypatch.setattr(
            f"jaxinv.models.layers.flash.{name}",
            lambda name=name: name[0] == "h" or (9, 0),
        )
    monkeypatch.setattr("jaxinv.models.options.has_cudnn", lambda: True)


def cuda_program(function, *args):
    traced = jax.jit(function).trace(*args)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def heads(*shape):
    return jax.ShapeDtypeStruct((*shape, 2, 8), jnp.bfloat16)


def attend(query, key, value):
    return flash_attention(query, key, value, False)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (attend, (heads(6), heads(5), heads(5))),
        (jax.vmap(attend), (heads(3, 6), heads(3, 5), heads(3, 5))),
        # One image and two prompts: guidance. JAX's own kernel refuses it.
        (jax.vmap(attend, (None, 0, 0)), (heads(6), heads(2, 5), heads(2, 5))),
        (jax.vmap(attend, (0, None, None)), (heads(3, 6), heads(5), heads(5))),
        (
            jax.vmap(jax.vmap(attend, (None, 0, 0)), (0, None, None)),
            (heads(4, 6), heads(2, 5), heads(2, 5)),
        ),
        (lambda *x: jax.jvp(attend, x, x), (heads(6), heads(5), heads(5))),
        (lambda *x: jax.vjp(attend, *x)[0], (heads(6), heads(5), heads(5))),
    ],
)
def test_flash_attention_is_one_kernel_under_every_transformation(
    hopper, function, args
):
    assert cuda_program(function, *args).count(f"@{FUSED}") == 1


def test_derivatives_of_flash_attention_are_those_of_attention(monkeypatch):
    # The kernel's part is played by XLA: the rules around it are what is tested.
    plain = jax.nn.dot_product_attention

    def stand_in(*args, implementation, **options):
        return plain(*args, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.standard_normal((n, 2, 8)), jnp.float32) for n in (6, 5, 5)
    )
    k2, v2 = jnp.stack([k, 2 * k]), jnp.stack([v, -v])
    guided, wanted = (
        jax.vmap(functools.partial(function, is_causal=False), (None, 0, 0))
        for function in (
            lambda *x, is_causal: flash_attention(*x, is_causal),
            plain,
        )
    )
    np.testing.assert_allclose(guided(q, k2, v2), wanted(q, k2, v2), atol=1e-6)
    direction = (v[:1] * jnp.ones_like(q), v2, k2)
    for mode in (
        lambda f: jax.jvp(f, (q, k2, v2), direction),
        lambda f: jax.grad(lambda *x: jnp.sum(f(*x) ** 2), (0, 1, 2))(q, k2, v2),
    ):
        for found, expected in zip(mode(guided), mode(wanted), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "dtype", "takes"),
    [
        (64, jnp.bfloat16, True),
        (40, jnp.float16, True),
        (160, jnp.bfloat16, True),  # Stable Diffusion 1's coarsest, from Hopper on
        (64, jnp.float32, False),
        (12, jnp.bfloat16, False),
        (512, jnp.bfloat16, False),  # the autoencoder's
    ],
)
def test_the_kernel_takes_16_bits_and_heads_of_some_sizes(hopper, size, dtype, takes):
    assert flash_takes(size, dtype) == takes


def test_older_gpus_take_smaller_heads(monkeypatch):
    monkeypatch.setattr(
        "jaxinv.models.layers.flash._compute_capability", lambda: (8, 6)
    )
    assert flash_takes(128, jnp.bfloat16)
    assert not flash_takes(160, jnp.bfloat16)


def test_all_attentions_of_a_guided_sd2_unet_are_fused(hopper):
    # With upcast_attention; heads are of 8 as the kernel wants them.
    config = UNet2DConditionConfig(**UNETS["sd2"])
    unet = abstract_component(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    unet = with_options(unet, attention="cudnn")
    number = sum(
        layer.implementation == "cudnn"
        for _, layer in nnx.iter_modules(unet)
        if isinstance(layer, Attention)
    )
    x = jax.ShapeDtypeStruct((8, 8, 4), jnp.float32)
    texts = jax.ShapeDtypeStruct((2, 5, config.cross_attention_dim), jnp.float32)
    guided = jax.vmap(lambda unet, x, text: unet(x, 500.0, text), (None, None, 0))
    assert cuda_program(guided, unet, x, texts).count(f"@{FUSED}") == number == 14
