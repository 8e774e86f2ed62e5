"""Decibels of known errors, and arrays that cannot be compared."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji


def test_nmse_of_a_relative_error_of_one_percent_is_minus_40_db(dtype):
    reference = jnp.linspace(1.0, 2.0, 12, dtype=dtype).reshape(3, 4)
    # 1.01 x - x cancels two digits.
    tolerance = 8.7 * 100 * float(jnp.finfo(dtype).eps)
    assert ji.nmse_db(1.01 * reference, reference) == pytest.approx(-40, abs=tolerance)


def test_nmse_does_not_depend_on_the_scale_of_the_reference():
    x, reference = jnp.array([1.0, 2.5]), jnp.array([1.0, 2.0])
    scaled = ji.nmse_db(1024 * x, 1024 * reference)
    assert float(scaled) == float(ji.nmse_db(x, reference))


def test_nmse_of_equal_arrays_is_minus_infinity():
    assert float(ji.nmse_db(jnp.ones(3), jnp.ones(3))) == -np.inf


def test_psnr_is_the_range_over_the_rms_error(dtype):
    a = jnp.zeros((4, 4, 3), dtype)
    assert ji.psnr(a, a + 0.1) == pytest.approx(20, abs=1e-5)
    assert ji.psnr(a, a + 0.1, data_range=2.0) == pytest.approx(26.0206, abs=1e-4)


def test_the_range_of_8_bit_images_is_theirs():
    a = np.full((2, 2, 3), 100, np.uint8)
    assert ji.psnr(a, a + np.uint8(10)) == pytest.approx(28.1308, abs=1e-3)
    with pytest.raises(ValueError, match="convert both to one range"):
        ji.psnr(a, a / np.float32(255))


def test_psnr_of_a_part_counts_nothing_else():
    a = np.zeros((4, 4, 3), np.float32)
    b = a.copy()
    b[:2] = 0.1
    b[2:] = 0.7
    upper = np.arange(4)[:, None, None] < 2
    assert ji.psnr(a, b, where=upper) == pytest.approx(20, abs=1e-4)
    assert ji.psnr(a, b, where=np.ones(a.shape)) == ji.psnr(a, b)
    assert np.isnan(ji.psnr(a, b, where=upper & False))


def test_psnr_of_8_bit_images_does_not_wrap_around():
    a, b = np.full((2, 2), 10, np.uint8), np.full((2, 2), 11, np.uint8)
    expected = 20 * np.log10(255)
    assert ji.psnr(a, b, data_range=255) == pytest.approx(expected, rel=1e-6)
    assert ji.psnr(b, a, data_range=255) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", [ji.nmse_db, ji.psnr])
def test_arrays_of_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"equal shape, got \(2,\) and \(2, 1\)"):
        metric(jnp.ones(2), jnp.ones((2, 1)))
