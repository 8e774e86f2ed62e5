"""Plausibility of noises: calibrated on white noise, and small for other noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxinv as ji

COUNT = 2000
SHAPES = [(16, 16, 4), (64, 64, 4), (8, 8, 3), (4, 4, 4), (3, 8, 8, 2), (32, 4)]
judge = jax.jit(jax.vmap(ji.noise_plausibility))


def white(shape, count=COUNT, dtype=jnp.float32):
    count = min(count, 4_000_000 // int(np.prod(shape)))
    return jax.random.normal(jax.random.key(1), (count, *shape), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_p_values_of_white_noise_are_uniform(shape):
    for name, values in judge(white(shape))._asdict().items():
        # Of 24 distributions, a millionth of all cases has one with a smaller value.
        assert stats.kstest(np.asarray(values), "uniform").pvalue > 1e-6 / 24, name


def test_both_precisions_agree(float64):
    noise = white((16, 16, 4), 50, float64)
    for single, double in zip(
        judge(noise.astype(jnp.float32)), judge(noise), strict=True
    ):
        assert double.dtype == float64
        np.testing.assert_allclose(single, double, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_noise_of_16_bits_is_judged_in_float32(dtype):
    found = ji.noise_plausibility(white((16, 16, 4), 1)[0].astype(dtype))
    assert all(value.dtype == jnp.float32 for value in found)
    assert float(found.p_value) > 1e-3


def blurred(z):
    """A little of each neighbor, with the norm of white noise."""
    smooth = z + 0.3 * (jnp.roll(z, 1, 1) + jnp.roll(z, 1, 2))
    return smooth * jnp.sqrt(z.size / jnp.sum(smooth**2))


@pytest.mark.parametrize(
    ("spoil", "test"),
    [
        (lambda z: 1.25 * z, "norm"),
        (lambda z: 0.8 * z, "norm"),
        (blurred, "spectrum"),
        (lambda z: z - 0.5 * jnp.roll(z, 1, 1), "spectrum"),
        (lambda z: z.at[..., 1].set(0.6 * z[..., 0] + 0.8 * z[..., 1]), "channels"),
    ],
    ids=["large", "small", "blurred", "sharpened", "correlated"],
)
def test_noise_that_is_not_white_is_rejected_by_its_test(spoil, test):
    found = judge(spoil(white((16, 16, 4), 50)))
    assert float(jnp.max(getattr(found, test))) < 1e-4
    assert float(jnp.max(found.p_value)) < 3e-4
    if test != "norm":
        spared = {"spectrum": "channels", "channels": "spectrum"}[test]
        assert float(jnp.median(getattr(found, spared))) > 0.1


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e30])
def test_sizes_far_from_one_are_rejected_without_overflow(factor):
    found = ji.noise_plausibility(factor * white((8, 8, 3), 1)[0])
    assert float(found.norm) == float(found.p_value) == 0


def test_values_that_are_not_finite_have_no_p_value():
    noise = white((8, 8, 3), 1)[0].at[0, 0, 0].set(jnp.nan)
    assert np.isnan(float(ji.noise_plausibility(noise).p_value))


def test_one_channel_has_no_correlations():
    found = judge(white((9, 7, 1)))
    np.testing.assert_array_equal(found.channels, 1)
    assert stats.kstest(np.asarray(found.p_value), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("shape", [(), (100,), (2, 2), (1, 1, 64), (0, 4, 4)])
def test_arrays_too_small_for_a_spectrum_are_refused(shape):
    with pytest.raises(ValueError, match="noise must have at least two axes"):
        ji.noise_plausibility(jnp.ones(shape))
