"""RingID and PRC: what their marks are made of, and what they withstand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from jaxinv.apps import watermark
from jaxinv.apps.watermark.prc_code import Sizes, make_code
from jaxinv.apps.watermark.prc_decoding import solve_most_certain

SHAPE = (16, 16, 4)


@jax.jit
def embed(key, noises):
    return jax.vmap(key.embed)(noises)


@jax.jit
def score(key, noises):
    return jax.vmap(key.score)(noises)


def noises(count, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, *SHAPE))


def ring_id(seed=5):
    key = jax.random.key(seed)
    return watermark.ring_id_key(key, SHAPE, radius=4, cutoff=1, channels=(2, 3))


def prc(seed=5):
    rng = np.random.default_rng(seed)
    message = rng.integers(0, 2, 32)
    return watermark.prc_key(SHAPE, message=message, secret=rng.bytes(48))


# --- RingID -------------------------------------------------------------------------


def test_rings_hold_their_levels_and_nothing_else_of_the_noise_changes():
    key, noise = ring_id(), noises(1)[0]
    marked = key.embed(noise)
    np.testing.assert_array_equal(marked[..., 1], noise[..., 1])
    u, v = (np.fft.fftfreq(16) * 16 for _ in range(2))
    moduli = np.hypot(u[:, None], v[None, :])
    inside = (moduli > 1) & (moduli <= 4)
    for place, channel in enumerate(key.channels):
        # The mark is at the center of the noise: there its coefficients are real.
        plane = np.roll(marked[..., channel], (-8, -8), (0, 1))
        found = np.fft.fft2(plane, norm="ortho")
        wanted = np.linspace(-1, 1, 2)[key.rings[place]]
        rings = np.ceil(moduli[inside] - 1e-9).astype(int) - 2
        np.testing.assert_allclose(found[inside], wanted[rings], atol=1e-5)
    before, after = (np.fft.fft2(x, axes=(0, 1)) for x in (noise, marked))
    np.testing.assert_allclose(after[~inside], before[~inside], atol=1e-3)


def test_marked_noise_has_the_power_of_noise_over_keys():
    made = [ring_id(seed).embed(noise) for seed, noise in enumerate(noises(60))]
    assert np.mean(np.square(made)) == pytest.approx(1, abs=0.02)


def test_p_values_of_rings_count_the_keys_that_are_as_close():
    key, latents = ring_id(), noises(40)
    found = score(key, latents).law.rings
    levels = np.array(np.meshgrid(*[[0, 1]] * 6, indexing="ij")).reshape(6, -1).T
    for terms, own, p in zip(found.terms, found.found, found.p_value(), strict=True):
        sums = np.take_along_axis(np.asarray(terms), levels.T, 1).sum(0)
        mine = np.asarray(terms)[np.arange(6), own].sum()
        assert p == pytest.approx(np.mean(sums <= mine + 1e-5))


def test_rings_survive_a_turn_that_the_noise_channel_does_not():
    marked = ring_id().embed(noises(1)[0])
    # A quarter turn about the center between pixels, as of an image.
    plane = np.rot90(np.asarray(marked), 1, (0, 1))
    plane = np.roll(plane, 1, 0)
    law = ring_id().score(jnp.asarray(plane)).law
    assert law.rings.p_value() == 1 / 64
    assert law.noise.p_value() > 0.01


def test_the_embedded_key_of_many_is_nearest():
    keys = [ring_id(seed) for seed in range(20)]
    marked = keys[7].embed(noises(1)[0]) + noises(1, seed=1)[0]
    assert int(jnp.argmin(watermark.classify(keys, marked))) == 7
    with pytest.raises(ValueError, match="only ring-id keys"):
        watermark.classify([prc()], marked)
    with pytest.raises(ValueError, match="share scheme"):
        watermark.classify([keys[0], dataclasses.replace(keys[1], levels=3)], marked)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"radius": 8}, "radius"),
        ({"cutoff": 4}, "cutoff must be 0 to 3"),
        ({"channels": (4,)}, "there are 4 channels"),
        ({"channels": (0,)}, "each named once"),
        ({"channels": ()}, "each named once"),
        ({"levels": 1}, "levels"),
        ({"levels": 64, "channels": (1, 2, 3)}, "keys"),
    ],
)
def test_a_bad_ring_id_is_refused(options, match):
    settings = {"radius": 4, "cutoff": 1, **options}
    with pytest.raises(ValueError, match=match):
        watermark.ring_id_key(jax.random.key(0), SHAPE, **settings)


# --- PRC ----------------------------------------------------------------------------


def test_parities_of_codewords_hold_and_the_generator_is_as_published():
    sizes = Sizes(1024, 32, 17, 3)
    # floor(log2 binom(1024, 3)) = 27; 17 + 27 + 32 columns; what is left are checks.
    assert (sizes.security, sizes.payload, sizes.checks) == (27, 76, 921)
    published = Sizes(4 * 64 * 64, 512, 17, 3)  # of the authors' script
    assert (published.security, published.checks) == (39, 15777)
    code = make_code(bytes(range(48)), sizes)
    assert code.checks.shape == (921, 3)
    assert all(len(set(row)) == 3 for row in code.checks.tolist())
    assert not np.any(np.bitwise_xor.reduce(code.generator[code.checks], axis=1))
    # Each check has a position of its own: the checks are linearly independent.
    assert len(np.unique(code.checks[:, -1])) == 921
    again = make_code(bytes(range(48)), sizes)
    np.testing.assert_array_equal(code.generator, again.generator)


def test_marked_noise_is_normal_and_its_signs_are_coins():
    marked = np.asarray(embed(prc(), noises(400)))
    assert kstest(marked.ravel(), "norm").pvalue > 1e-3
    signs = np.sign(marked.reshape(400, -1))
    # Gaussian Shading fails here: with one key, all images have the same signs.
    together = signs[:200] * signs[200:]
    assert abs(together.mean()) < 5 / together.size**0.5
    assert abs(signs.mean()) < 5 / signs.size**0.5
    share = (signs > 0).sum(0)
    z = (share - 200) / 10
    assert (
        kstest(z + np.random.default_rng(0).uniform(-0.05, 0.05, len(z)), "norm")[1]
        > 1e-3
    )


@jax.jit
def scored_with(key, pads, latents):
    return jax.vmap(lambda pad, x: dataclasses.replace(key, pad=pad).score(x))(
        pads, latents
    )


def test_the_bound_holds_for_white_and_for_biased_and_colored_latents():
    white = noises(3_000)
    latents = {
        "white": white,
        "biased": white + 1.0,
        "colored": white + jnp.roll(white, 1, 1) + jnp.roll(white, 1, 2),
    }
    key = prc()
    for name, latent in latents.items():
        # Each latent gets a pad of its own.
        pads = jax.random.bernoulli(jax.random.key(1), 0.5, (3_000, key.pad.size))
        found = scored_with(key, pads, latent).law.p_value()
        for rate in (0.001, 0.01, 0.1):
            share = np.mean(found <= rate)
            assert share <= rate + 4 * (rate / 3_000) ** 0.5, (name, rate)
        # The bound is not empty: it is about three times the probability.
        assert np.mean(found <= 0.1) > 0.01, name


@pytest.mark.parametrize(("flipped", "decoded"), [(0.0, 20), (0.1, 18)])
def test_messages_are_read_from_noise_with_flipped_signs(flipped, decoded):
    key = prc()
    marked = embed(key, noises(20))
    wrong = jax.random.uniform(jax.random.key(2), marked.shape) < flipped
    received = jnp.where(wrong, -marked, marked)
    assert np.max(score(key, received).law.p_value()) < 1e-4
    read = [key.decode(noise) for noise in received]
    right = [bits is not None and np.array_equal(bits, key.message) for bits in read]
    assert sum(right) >= decoded


def test_a_fifth_of_the_signs_can_be_wrong_for_detection():
    key = watermark.prc_key((32, 32, 4), message=[0, 1] * 64, secret=bytes(48))
    noise = jax.random.normal(jax.random.key(0), (20, 32, 32, 4))
    marked = embed(key, noise)
    wrong = jax.random.uniform(jax.random.key(2), marked.shape) < 0.2
    found = score(key, jnp.where(wrong, -marked, marked)).law.p_value()
    assert np.mean(found <= 0.01) >= 0.9


def test_noise_without_the_mark_or_numbers_has_no_message():
    key = prc()
    assert all(key.decode(noise) is None for noise in noises(10))
    assert key.decode(jnp.full(SHAPE, jnp.nan)) is None
    lost = key.score(jnp.full(SHAPE, jnp.nan))
    assert lost.law.p_value() == 1
    assert np.isnan(lost.satisfied)


def test_the_most_certain_independent_bits_give_the_payload():
    rng = np.random.default_rng(0)
    generator = rng.integers(0, 2, (40, 8), dtype=np.uint8)
    generator[1] = generator[0]  # dependent, and the second most certain
    payload = rng.integers(0, 2, 8).astype(bool)
    word = (generator @ payload % 2).astype(bool)
    certainty = -np.arange(40.0)
    word[30:] ^= True  # the least certain are wrong
    np.testing.assert_array_equal(
        solve_most_certain(generator, word, certainty), payload
    )
    assert solve_most_certain(generator[:4], word[:4], certainty[:4]) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"message": [2] * 32}, "bits"),
        ({"message": [[0]]}, "bits"),
        ({"message": [0] * 1_000}, "too small for a message of 1000 bits"),
        ({"secret": b"short"}, "48 bytes"),
        ({"shape": (2, 2, 4)}, "too small"),
        ({"sparsity": 1}, "sparsity"),
        ({"tests": 0}, "tests"),
    ],
)
def test_a_bad_prc_is_refused(options, match):
    settings = {"shape": SHAPE, **options}
    with pytest.raises(ValueError, match=match):
        watermark.prc_key(settings.pop("shape"), **settings)
