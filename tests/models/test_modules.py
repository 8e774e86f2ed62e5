"""How modules behave in JAX: as pytrees, under transformations, in other dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import AUTOENCODERS, TEXT_ENCODERS, UNETS, relative_error

from jaxinv.models import (
    AutoencoderKL,
    AutoencoderKLConfig,
    CLIPTextConfig,
    DiagonalGaussian,
    UNet2DConditionConfig,
    abstract_component,
)
from jaxinv.models.layers.attention import dot_product_attention
from jaxinv.models.layers.basic import GroupNorm, nearest, sinusoidal_embedding
from jaxinv.models.parameters import parameters, with_parameters


def make(config, **kwargs):
    """A model with random parameters, made without compiling an initialiser."""
    module = abstract_component(config, **kwargs)
    rng = np.random.default_rng(0)
    values = {}
    for path, x in parameters(module).items():
        spread = 1 / np.sqrt(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.1
        values[path] = spread * rng.standard_normal(x.shape)
        values[path] = jnp.asarray(values[path] + path.endswith("scale"), x.dtype)
    return with_parameters(module, values)


def make_unet(**kwargs):
    return make(UNet2DConditionConfig(**UNETS["plain_mid"]), **kwargs)


def make_autoencoder(**kwargs):
    return make(AutoencoderKLConfig(**AUTOENCODERS["no_attention"]), **kwargs)


def make_text_encoder(**kwargs):
    return make(CLIPTextConfig(**TEXT_ENCODERS["gelu"]), **kwargs)


@jax.jit
def run(unet, *args):
    return unet(*args)


def unet_batch(number=3, size=8, context=8):
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((number, size, size, 4), np.float32)
    times = rng.uniform(0, 999, number).astype(np.float32)
    texts = rng.standard_normal((number, 5, context), np.float32)
    return samples, times, texts


def test_vmap_over_samples_equals_a_loop_and_jit_equals_eager():
    # Samples differ in scale, so a statistic shared across the batch would show.
    unet = make_unet()
    samples, times, texts = unet_batch()
    samples *= np.array([0.1, 1, 10], np.float32)[:, None, None, None]
    looped = [run(unet, *args) for args in zip(samples, times, texts, strict=True)]
    batched = jax.jit(jax.vmap(lambda unet, *args: unet(*args), (None, 0, 0, 0)))
    for found, wanted in zip(batched(unet, samples, times, texts), looped, strict=True):
        assert relative_error(found, wanted) < 1e-5
    eager = unet(jnp.asarray(samples[0]), times[0], jnp.asarray(texts[0]))
    assert relative_error(eager, looped[0]) < 1e-5


def test_autoencoder_under_vmap_equals_a_loop():
    vae = make_autoencoder()
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    images[1] *= 0.01
    encode = jax.jit(AutoencoderKL.encode)
    batched = jax.jit(jax.vmap(AutoencoderKL.encode, (None, 0)))(vae, images)
    for i, image in enumerate(images):
        assert relative_error(batched.mean[i], encode(vae, image).mean) < 1e-5
    decoded = jax.jit(jax.vmap(AutoencoderKL.decode, (None, 0)))(vae, batched.mean)
    wanted = jax.jit(AutoencoderKL.decode)(vae, batched.mean[1])
    assert relative_error(decoded[1], wanted) < 1e-5


def test_a_module_is_a_pytree_and_compiles_once_for_equal_shapes():
    samples, times, texts = unet_batch(1)
    unet = make_unet()
    doubled = jax.tree.map(lambda x: 2 * x, unet)
    one = run(unet, samples[0], times[0], texts[0])
    compiled = run._cache_size()
    other = run(doubled, samples[0], times[0], texts[0])
    assert run._cache_size() == compiled
    assert relative_error(one, other) > 0.01


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
def test_bfloat16_unet_is_close_to_float32(param_dtype):
    samples, times, texts = unet_batch(1)
    wanted = run(make_unet(), samples[0], times[0], texts[0])
    unet = make_unet(dtype=jnp.bfloat16, param_dtype=param_dtype)
    assert {x.dtype for x in jax.tree.leaves(unet)} == {jnp.dtype(param_dtype)}
    found = run(unet, samples[0], times[0], texts[0])
    # The state keeps its own dtype. bfloat16 has 8 bits: 0.4 % per rounding.
    assert found.dtype == jnp.float32
    assert 1e-4 < relative_error(found, wanted) < 0.1


def test_bfloat16_autoencoder_and_text_encoder_run():
    vae = make_autoencoder(dtype=jnp.bfloat16)
    latent = jax.jit(AutoencoderKL.encode)(vae, jnp.ones((8, 8, 3))).mode()
    image = jax.jit(AutoencoderKL.decode)(vae, latent)
    assert latent.dtype == image.dtype == jnp.float32
    assert jnp.isfinite(image).all()
    text = run(make_text_encoder(dtype=jnp.bfloat16), jnp.arange(7))
    assert text.pooled.dtype == jnp.bfloat16
    assert jnp.isfinite(text.pooled).all()


def test_posterior_samples_have_the_posterior_mean_and_deviation():
    mean, log_var = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    posterior = DiagonalGaussian(mean, log_var)
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = jax.vmap(posterior.sample)(keys)
    error = 5 * posterior.std / np.sqrt(len(keys))
    assert (jnp.abs(draws.mean(0) - posterior.mode()) < error).all()
    np.testing.assert_allclose(draws.std(0), posterior.std, rtol=0.1)


def test_group_norm_statistics_are_those_of_one_sample_in_float32():
    norm = GroupNorm(2, 6, epsilon=0.0, dtype=jnp.float32, param_dtype=jnp.float32)
    # A mean of 1000 with a deviation of 1: one-pass variances lose all digits.
    x = 1000 + np.random.default_rng(0).standard_normal((5, 7, 6), np.float32)
    y = np.asarray(norm(jnp.asarray(x)))
    for group in (slice(0, 3), slice(3, 6)):
        values = x[..., group].astype(np.float64)
        wanted = (values - values.mean()) / values.std()
        np.testing.assert_allclose(y[..., group], wanted, atol=1e-3)


def test_groups_that_do_not_divide_the_channels_are_an_error():
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 groups"):
        GroupNorm(4, 10, epsilon=0.0, dtype=jnp.float32, param_dtype=jnp.float32)


def test_nearest_resize_repeats_or_picks_the_nearest_lower_row():
    x = jnp.arange(6.0).reshape(2, 3, 1)
    np.testing.assert_array_equal(
        nearest(x, (4, 6))[..., 0], np.repeat(np.repeat(x[..., 0], 2, 0), 2, 1)
    )
    np.testing.assert_array_equal(nearest(x, (3, 5))[:, 0, 0], [0, 0, 3])
    np.testing.assert_array_equal(nearest(x, (3, 5))[0, :, 0], [0, 0, 1, 1, 2])


def test_timestep_embedding_is_smooth_in_a_fractional_timestep():
    def embed(t):
        return sinusoidal_embedding(t, 8, flip_sin_to_cos=True, freq_shift=0)

    np.testing.assert_allclose(embed(0.0), [1, 1, 1, 1, 0, 0, 0, 0])
    derivative = jax.jvp(embed, (2.5,), (1.0,))[1]
    np.testing.assert_allclose(derivative[0], -np.sin(2.5), rtol=1e-5)


@pytest.mark.parametrize("is_causal", [False, True])
def test_float64_attention_keeps_float64(is_causal):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        q, k, v = rng.standard_normal((3, 5, 2, 4))
        found = dot_product_attention(*map(jnp.asarray, (q, k, v)), is_causal=is_causal)
        logits = np.einsum("qnd,knd->nqk", q, k) / 2
        if is_causal:
            logits[:, ~np.tri(5, dtype=bool)] = -np.inf
        weights = np.exp(logits)
        weights /= weights.sum(-1, keepdims=True)
        wanted = np.einsum("nqk,knd->qnd", weights, v)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_a_float64_unet_agrees_with_float32_to_float32_accuracy():
    samples, times, texts = unet_batch(1)
    wanted = run(make_unet(), samples[0], times[0], texts[0])
    with jax.enable_x64(True):
        unet = make_unet(dtype=jnp.float64)
        found = run(unet, jnp.asarray(samples[0], jnp.float64), times[0], texts[0])
        assert found.dtype == jnp.float64
        assert 0 < relative_error(found, wanted) < 1e-5


def test_gradients_flow_through_the_decoder():
    vae = make_autoencoder()
    latent = jnp.ones((4, 4, 4))
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(vae.decode(z) ** 2)))(latent)
    assert jnp.isfinite(gradient).all()
    assert (gradient != 0).any()
