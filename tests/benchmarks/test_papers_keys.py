"""The papers' watermark keys, as their code has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import keys

SHAPE = (64, 64, 4)


def noise(seed=0):
    return jax.random.normal(jax.random.key(seed), SHAPE)


@pytest.mark.parametrize("pattern", keys.PATTERNS)
@pytest.mark.parametrize("square", [False, True])
def test_a_marked_noise_is_nearer_to_its_key_than_an_unmarked_one(pattern, square):
    key = keys.published_key(
        pattern, jax.random.key(7), SHAPE, square=square, channel=-1, const=80.0
    )
    marked = key.embed(noise())
    assert marked.shape == SHAPE
    assert marked.dtype == jnp.float32
    assert float(key.distance(marked)) < 0.75 * float(key.distance(noise()))
    # A key in the noise itself stays there; in the spectrum, its mirror image differs.
    assert (float(key.distance(marked)) < 1e-6) == pattern.startswith("seed")
    outside = np.abs(np.where(key.mask, 0, marked - noise())).max()
    assert (outside == 0) == pattern.startswith("seed")


def test_the_rings_are_those_of_the_code():
    key = keys.ring_key(keys.DEC_INV[0], SHAPE)
    assert key.mask[..., 0].sum() == 113  # points of the grid within a radius of 6
    assert not key.mask[..., 1:].any()
    # Centered at row 31; from there outwards, one number for each ring.
    found = np.asarray(key.values[31, 32:39, 0]) * keys.SIDE / keys.CONST
    numbers = np.array([1.2, 1.2, 0.6, 1.4, 0.8, 0.2, 1.8])
    np.testing.assert_allclose(found, numbers, atol=1e-6)
    assert not key.mask[31, 39, 0]


@pytest.mark.parametrize("centered", [False, True])
def test_the_first_published_key_is_taken_for_the_second(centered):
    three = [
        keys.ring_key(numbers, SHAPE, centered=centered) for numbers in keys.DEC_INV
    ]
    nearest = []
    for k, key in enumerate(three):
        marked = key.embed(noise(k))
        nearest.append(int(np.argmin([other.distance(marked) for other in three])))
    # Although the noise is known exactly; in a centered disc it is its own key's.
    assert nearest == ([0, 1, 2] if centered else [1, 1, 2])


def test_a_constant_is_in_the_units_of_the_code():
    key = keys.published_key(
        "const", jax.random.key(0), (32, 32, 4), square=True, radius=3, const=64.0
    )
    np.testing.assert_allclose(key.values[16, 16, 0], 1)
    assert key.mask[13:19, 13:19, 0].all()
    assert key.mask.sum() == 36
    with pytest.raises(ValueError, match="expected a pattern of zeros"):
        keys.published_key("stars", jax.random.key(0), SHAPE)
