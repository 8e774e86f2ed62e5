"""Watermarks: what is embedded is found, and what is not, is not."""

import functools
import json
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

import jaxinv as ji
from jaxinv.apps import watermark
from jaxinv.apps.attacks import (
    ATTACKS,
    brightness,
    crop_and_rescale,
    gaussian_noise,
    jpeg,
)
from jaxinv.files.image_reading import to_uint8

SHAPE = (16, 16, 4)  # emoji64's noise
PATTERNS = ["ring", "random", "zeros"]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _noises(count, shape, seed):
    return jax.random.normal(jax.random.key(seed), (count, *shape))


def noises(count, shape=SHAPE, seed=0):
    return _noises(count, shape, seed)


@jax.jit
def embed(key, noise):
    """One program for all keys of a kind, not one for each operation."""
    return key.embed(noise)


@jax.jit
def score(key, noise):
    return key.score(noise)


@jax.jit
def coordinates(key, noise):
    return key.coordinates(noise)


def tree_ring(pattern="ring", shape=SHAPE, radius=3, seed=5):
    key = jax.random.key(seed)
    return watermark.tree_ring_key(key, shape, radius=radius, pattern=pattern)


def shading(blocks=(4, 4, 1), shape=SHAPE):
    count = int(np.prod(shape) / np.prod(blocks))
    message = np.random.default_rng(1).integers(0, 2, count)
    return watermark.gaussian_shading_key(
        shape, blocks=blocks, message=message, secret=bytes(range(48))
    )


# --- Tree-Ring ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16, 4), (9, 12, 2), (64, 64, 4)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_key_is_in_the_fourier_plane_and_nothing_else_is_changed(pattern, shape):
    key = tree_ring(pattern, shape, radius=4)
    noise = noises(1, shape)[0]
    marked = embed(key, noise)
    assert marked.dtype == noise.dtype
    others = [c for c in range(shape[2]) if c != key.channel]
    np.testing.assert_array_equal(marked[..., others], noise[..., others])
    before, after = (np.fft.fft2(x[..., key.channel]) for x in (noise, marked))
    u, v = (np.abs(np.fft.fftfreq(n) * n) for n in shape[:2])
    inside = np.hypot(u[:, None], v[None, :]) <= 4
    np.testing.assert_allclose(after[~inside], before[~inside], atol=1e-3)
    np.testing.assert_allclose(coordinates(key, marked), key.values, atol=1e-5)
    assert np.sum(inside) == len(key.values)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_coordinates_of_unit_noise_are_independent_and_of_variance_1(pattern):
    found = jax.vmap(coordinates, (None, 0))(tree_ring(pattern), noises(20_000))
    covariance = np.cov(np.asarray(found).T)
    np.testing.assert_allclose(covariance, np.eye(len(covariance)), atol=0.05)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_p_values_of_unmarked_noise_are_uniform_and_those_of_marked_tiny(pattern):
    key = tree_ring(pattern)
    scores = jax.vmap(score, (None, 0))
    found = watermark.p_value(scores(key, noises(4_000)))
    assert kstest(found, "uniform").pvalue > 1e-3
    marked = jax.vmap(embed, (None, 0))(key, noises(100, seed=2))
    found = watermark.p_value(scores(key, marked + 0.3 * noises(100, seed=3)))
    assert found.max() < 1e-6


@pytest.mark.parametrize("pattern", ["random", "ring"])
def test_noise_with_another_key_is_as_any_noise_unless_both_are_rings(pattern):
    def p_of_another(seed):
        other = tree_ring(pattern, seed=1000 + seed)
        marked = embed(other, noises(1, seed=seed)[0])
        return score(tree_ring(pattern, seed=seed), marked)

    scores = [p_of_another(seed) for seed in range(200)]
    found = watermark.p_value(jax.tree.map(lambda *x: np.stack(x), *scores))
    if pattern == "random":
        assert kstest(found, "uniform").pvalue > 1e-3
    else:  # as p_value's docstring says
        assert 0.3 < np.mean(found <= 0.01) < 0.7


@pytest.mark.parametrize("key", [tree_ring(), shading()], ids=["ring", "shading"])
def test_printing_a_key_does_not_print_its_secret(key):
    text = repr(key)
    assert type(key).__name__ in text
    assert "Array" not in text
    assert "values" not in text
    assert "secret" not in text


def test_rings_are_kept_by_a_turn_of_the_plane_and_random_keys_are_not():
    def turned(pattern):
        key = tree_ring(pattern)
        noise = jnp.rot90(key.embed(noises(1)[0]), axes=(0, 1))
        # rot90 turns about the middle of the pixels; put pixel 0 back to its place.
        return key.score(jnp.roll(noise, 1, axis=0))

    assert watermark.p_value(turned("ring")) < 1e-6
    assert watermark.p_value(turned("random")) > 1e-3


def test_the_nearest_of_several_keys_is_the_embedded_one():
    keys = [tree_ring(seed=seed) for seed in range(5)]
    for k, key in enumerate(keys):
        noise = embed(key, noises(1, seed=k)[0]) + 0.5 * noises(1, seed=9)[0]
        distances = watermark.classify(keys, noise)
        assert int(jnp.argmin(distances)) == k
        assert distances[k] == pytest.approx(float(key.score(noise).distance))


def test_scores_of_a_batch_are_those_of_its_samples():
    for key in (tree_ring(), shading()):
        batch = noises(3)
        together = jax.jit(jax.vmap(key.score))(batch)
        for k in range(3):
            one = key.score(batch[k])
            jax.tree.map(
                lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-5),
                together,
                one,
            )


# --- Gaussian Shading ---------------------------------------------------------------


@pytest.mark.parametrize("blocks", [(4, 4, 1), (8, 8, 2), (1, 1, 1), (2, 2, 1)])
def test_a_message_is_read_through_noise(blocks):
    key = shading(blocks)
    marked = embed(key, noises(1)[0])
    found = score(key, marked)
    assert int(found.matches) == len(key.message)
    np.testing.assert_array_equal(found.bits, key.message)
    if np.prod(blocks) >= 16:
        spoilt = marked + noises(1, seed=4)[0]
        assert float(score(key, spoilt).accuracy) > 0.95


def test_marked_noise_looks_like_any_other_without_the_secret():
    key = shading()
    marked = jax.vmap(embed, (None, 0))(key, noises(300))
    # Each with a secret of its own: images that share one share all their signs.
    rng = np.random.default_rng(7)
    values = [
        embed(
            watermark.gaussian_shading_key(
                SHAPE, blocks=(4, 4, 1), message=key.message, secret=rng.bytes(48)
            ),
            noise,
        )
        for noise in noises(60)
    ]
    assert kstest(np.ravel(values), "norm").pvalue > 1e-3
    other = watermark.gaussian_shading_key(
        SHAPE, blocks=(4, 4, 1), message=key.message, secret=bytes(48)
    )
    accuracy = jax.vmap(other.score)(marked).accuracy
    assert abs(float(jnp.mean(accuracy)) - 0.5) < 0.1


def test_the_false_positive_rate_is_that_of_unmarked_noise():
    key = shading((8, 8, 2))  # 8 bits: all counts happen
    matches = np.asarray(jax.vmap(key.score)(noises(20_000)).matches)
    for least in range(9):
        wanted = watermark.false_positive_rate(least, 8)
        assert np.mean(matches >= least) == pytest.approx(wanted, abs=0.015)
    assert watermark.matches_for(1 / 256, 8) == 8


def test_the_cipher_is_chacha20():
    # RFC 8439, 2.4.2: key 00 .. 1f, block counter 1, a nonce of 12 bytes.
    nonce = bytes([1, 0, 0, 0]) + bytes.fromhex("000000000000004a00000000")
    key = watermark.gaussian_shading_key(
        (8, 8, 1), blocks=(8, 8, 1), message=[0], secret=bytes(range(32)) + nonce
    )
    stream = np.packbits(np.asarray(key.keystream).reshape(-1)).tobytes()
    assert stream.hex() == "224f51f3401bd9e1"


# --- images -------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_a_marked_image_is_detected_and_another_is_not(emoji64, known):
    key = tree_ring("random")
    sampler = ji.ddim(ji.time_grid(emoji64.schedule, 10))
    prompt = "pizza on a white background"
    denoise = emoji64.denoiser(prompt)
    plain = noises(1)[0]
    found = {}
    for name, noise in {"marked": key.embed(plain), "plain": plain}.items():
        pixels = to_uint8(emoji64.generate(sampler, denoise, noise))
        found[name] = watermark.detect(
            emoji64,
            key,
            pixels,
            sampler,
            prompt=prompt if known else "",
            strategy="stepwise",
        )
    assert watermark.p_value(found["marked"].score) < 1e-3
    assert watermark.p_value(found["plain"].score) > 1e-3
    if known:
        assert watermark.p_value(found["marked"].score) < 1e-12
        assert float(ji.nmse_db(found["plain"].inversion.noise, plain)) < -10


# --- files --------------------------------------------------------------------------


@pytest.mark.parametrize("key", [tree_ring(), shading()], ids=["ring", "shading"])
def test_a_key_file_gives_the_key_back_is_private_and_never_overwritten(key, tmp_path):
    path = tmp_path / "key.json"
    watermark.write_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = watermark.read_key(path)
    assert jax.tree.structure(again) == jax.tree.structure(key)
    jax.tree.map(np.testing.assert_array_equal, again, key)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="never overwritten"):
        watermark.write_key(path, key)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["key.json"]


def test_a_key_is_written_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links on this drive")

    monkeypatch.setattr("os.link", refused)
    test_a_key_file_gives_the_key_back_is_private_and_never_overwritten(
        tree_ring(), tmp_path
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-30],
        lambda text: text.replace('"radius": 3', '"radius": 2'),
        lambda text: "{}",
        lambda text: "[1, 2]",
        lambda text: json.dumps(json.loads(text) | {"scheme": "other"}),
        lambda text: "\udcff",
    ],
)
def test_a_corrupt_key_file_is_refused(spoil, tmp_path):
    path = tmp_path / "key.json"
    watermark.write_key(path, tree_ring())
    path.write_text(spoil(path.read_text()), errors="surrogateescape")
    with pytest.raises(ValueError, match="is not a watermark key"):
        watermark.read_key(path)


# --- attacks ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_keep_the_shape_and_do_something(name):
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * x % 256, 5 * y, (x * y) % 256], -1).astype(np.uint8)
    found = ATTACKS[name](pixels)
    assert (found.shape, found.dtype) == (pixels.shape, np.uint8)
    assert np.array_equal(found, pixels) == (name == "none")
    np.testing.assert_array_equal(found, ATTACKS[name](pixels))


def test_noise_is_another_for_another_image_and_the_same_for_the_same():
    first, second = np.full((2, 32, 32, 3), 128, np.uint8)
    second[0, 0] += 1
    noise = [gaussian_noise(image, 0.05).astype(int) - 128 for image in (first, second)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    np.testing.assert_array_equal(
        noise[0], gaussian_noise(first, 0.05).astype(int) - 128
    )


def test_stronger_attacks_are_stronger():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

    def error(image):
        return np.mean((image.astype(float) - pixels) ** 2)

    assert error(jpeg(pixels, 25)) > error(jpeg(pixels, 75)) > error(jpeg(pixels, 95))
    assert error(gaussian_noise(pixels, 0.1)) > error(gaussian_noise(pixels, 0.01))
    assert np.array_equal(crop_and_rescale(pixels, 1.0), pixels)
    assert np.array_equal(brightness(pixels, 1.0), pixels)


# --- bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"radius": 0}, "radius"),
        ({"radius": 8}, "radius"),
        ({"channel": 4}, "channel"),
        ({"pattern": "star"}, "pattern"),
        ({"shape": (16, 16)}, "shape"),
    ],
)
def test_a_bad_tree_ring_is_refused(options, match):
    settings = {"shape": SHAPE, "radius": 3, **options}
    with pytest.raises(ValueError, match=match):
        watermark.tree_ring_key(jax.random.key(0), **settings)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"blocks": (3, 4, 1)}, "divide"),
        ({"blocks": (0, 4, 1)}, "expected"),
        ({"message": [0, 1]}, "64 bits"),
        ({"message": [2] * 64}, "64 bits"),
        ({"secret": b"short"}, "48 bytes"),
    ],
)
def test_a_bad_shading_is_refused(options, match):
    settings = {"blocks": (4, 4, 1), **options}
    with pytest.raises(ValueError, match=match):
        watermark.gaussian_shading_key(SHAPE, **settings)


@pytest.mark.parametrize("key", [tree_ring(), shading()], ids=["ring", "shading"])
def test_noise_or_an_image_of_another_size_is_refused(key, tiny):
    for function in (key.embed, key.score):
        with pytest.raises(ValueError, match="noise of shape"):
            function(jnp.zeros((8, 8, 4)))
    with pytest.raises(ValueError, match="noise of shape"):
        function(jnp.zeros((2, *SHAPE)))
    sampler = ji.ddim(ji.time_grid(tiny.schedule, 4))
    with pytest.raises(ValueError, match="noise of shape"):
        watermark.detect(tiny, key, np.zeros((32, 32, 3), np.uint8), sampler)


def test_other_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one key"):
        watermark.classify([], noises(1)[0])
    with pytest.raises(ValueError, match="share shape"):
        watermark.classify([tree_ring(), tree_ring(radius=4)], noises(1)[0])
    with pytest.raises(ValueError, match="0 to 8"):
        watermark.false_positive_rate(9, 8)
    with pytest.raises(ValueError, match="too few"):
        watermark.matches_for(1e-6, 8)
    with pytest.raises(ValueError, match="quality"):
        jpeg(np.zeros((8, 8, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="share"):
        crop_and_rescale(np.zeros((8, 8, 3), np.uint8), 0)
