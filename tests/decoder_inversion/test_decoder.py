"""Decoder inversion, on autoencoders whose latents are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv import analysis
from jaxinv.callables import LAYER
from jaxinv.decoder_inversion import (
    METHODS,
    QUANTIZATION,
    Adam,
    Anderson,
    ForwardStep,
    GaussNewton,
    Gradient,
    InertialKM,
    framewise,
    tilewise,
)
from jaxinv.decoder_inversion.learning_rates import held_cosine, warm_cosine
from jaxinv.decoder_inversion.problem import Problem

RNG = np.random.default_rng(2)
ITERATIVE = {
    "gradient": Gradient(iterations=100),
    "forward_step": ForwardStep(iterations=100),
    "inertial_km": InertialKM(iterations=100),
    "adam": Adam(iterations=100, learning_rate=0.05),
    "anderson": Anderson(iterations=20),
    "gauss_newton": GaussNewton(iterations=10),
}
# What each reaches of a latent from an image that was not rounded, in dB.
REACHED = {
    "gradient": -40,
    "forward_step": -60,
    "inertial_km": -60,
    "adam": -35,
    "anderson": -80,
    "gauss_newton": -80,
}


def weights(seed=0, dtype=np.float32):
    """An orthogonal map of 2 x 2 pixels of 3 colours to 2 channels, and its inverse."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((12, 12)))
    return q[:2].astype(dtype)


def decode(w, z, shift=0.0):
    """Latent (h, w, 2) to image (2 h, 2 w, 3) within 0.2 and 0.8, or so."""
    patches = 0.5 + shift + 0.3 * jnp.tanh(z @ w + 0.2 * (z @ w) ** 2)
    h, width, _ = z.shape
    return (
        patches.reshape(h, width, 2, 2, 3).swapaxes(1, 2).reshape(2 * h, 2 * width, 3)
    )


def encode(w, x, shift=0.0):
    """Nearly its inverse."""
    h, width, _ = x.shape
    patches = x.reshape(h // 2, 2, width // 2, 2, 3).swapaxes(1, 2)
    return ((patches.reshape(h // 2, width // 2, 12) - 0.5 - shift) / 0.3) @ w.T


def shifted_decode(w, shift, z):
    return decode(w, z, shift)


def shifted_encode(w, shift, x):
    return encode(w, x, shift)


def latent(seed=1, dtype=np.float32, shape=(4, 6, 2)):
    values = 0.8 * np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(values.astype(dtype))


E, D = Partial(encode, weights()), Partial(decode, weights())


def shifted(shift, seed=0, encoder=1):
    """An encoder and a decoder of images that are brighter: all share one program."""
    shift = np.float32(shift)
    return (
        Partial(shifted_encode, encoder * weights(seed), shift),
        Partial(shifted_decode, weights(), shift),
    )


@pytest.mark.parametrize("name", ITERATIVE)
def test_the_latent_is_found_and_the_encoder_alone_does_not_find_it(name):
    z, (encoder, decoder) = latent(), shifted(0.0)
    image = D(z)
    result = ji.invert_decoder(encoder, decoder, image, ITERATIVE[name])
    alone = ji.invert_decoder(encoder, decoder, image, "encoder")
    assert float(ji.nmse_db(alone.latent, z)) > -25
    assert float(ji.nmse_db(result.latent, z)) < REACHED[name]
    assert bool(result.converged)
    assert not bool(alone.converged)
    assert float(result.encoder_residual) == float(alone.residual)


@pytest.mark.parametrize("name", ["encoder", *ITERATIVE])
def test_no_method_is_worse_than_the_encoder(name):
    # An encoder that has nothing to do with the decoder leads most methods astray.
    wrong, decoder = shifted(0.0, seed=7, encoder=-1)
    image = D(latent())
    result = ji.invert_decoder(wrong, decoder, image, ITERATIVE.get(name, name))
    assert float(result.residual) <= float(result.encoder_residual)
    assert np.all(np.isfinite(result.latent))
    again = np.sqrt(np.mean((np.asarray(D(result.latent)) - image) ** 2))
    assert again == pytest.approx(float(result.residual), rel=1e-3, abs=1e-7)


CALLS = {"encode": 0, "decode": 0}


def counting(key, network):
    """A network that counts how often it is run."""

    def tick():
        CALLS[key] += 1

    def run(x):
        jax.debug.callback(tick)
        return network(x)

    return run


COUNTED = counting("encode", E), counting("decode", D)


@pytest.mark.parametrize("name", METHODS)
def test_an_8_bit_image_is_inverted_to_its_quantisation_noise(name):
    image = np.uint8(np.round(255 * np.asarray(D(latent()))))
    result = ji.invert_decoder(*COUNTED, image, name)
    if name == "adam":  # its learning rate allows it to move by 0.7 in all
        assert float(result.residual) < 0.5 * float(result.encoder_residual)
    elif name != "encoder":
        assert float(result.residual) < 1.2 * QUANTIZATION
        assert bool(result.converged)


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_are_counted_exactly(name):
    jax.effects_barrier()
    CALLS.update(encode=0, decode=0)
    # Products with the Jacobian are not evaluations, so they must not tick; the two
    # methods that linearise are counted by hand.
    result = ji.invert_decoder(*COUNTED, D(latent()), name)
    jax.effects_barrier()
    assert int(result.num_encodes) == CALLS["encode"]
    assert int(result.num_decodes) == CALLS["decode"]
    n = int(result.iterations)
    expected = {"gradient": n, "gauss_newton": 64 * n}.get(name, 0)
    assert int(result.num_products) == expected


@pytest.mark.parametrize("name", ITERATIVE)
def test_pixels_at_a_limit_say_only_that_the_decoding_was_there_or_beyond(name):
    dark, bright = shifted(0.4)
    image = np.clip(bright(latent()), 0, 1)
    assert 0.02 < np.mean(image == 1) < 0.4

    def misfit(limits):
        result = ji.invert_decoder(dark, bright, image, ITERATIVE[name], limits=limits)
        return float(result.residual)

    # Limits that no pixel reaches are none.
    assert misfit((0.0, 1.0)) < 0.3 * misfit((-10.0, 10.0))


def test_limits_that_no_pixel_reaches_are_none():
    image, (encoder, decoder) = D(latent()), shifted(0.0)
    far, without = (
        ji.invert_decoder(encoder, decoder, image, "forward_step", limits=limits)
        for limits in ((-10.0, 10.0), None)
    )
    np.testing.assert_allclose(far.latent, without.latent, atol=1e-6)


@pytest.mark.parametrize("name", ["encoder", *ITERATIVE])
def test_a_batch_is_its_samples_and_each_stops_by_itself(name):
    images = jax.vmap(D)(np.stack([latent(seed) for seed in range(3)]))
    encoder, decoder = shifted(0.0)

    def invert(image):
        return ji.invert_decoder(encoder, decoder, image, ITERATIVE.get(name, name))

    batch = jax.vmap(invert)(images)
    for i in range(3):
        one = invert(images[i])
        np.testing.assert_allclose(batch.latent[i], one.latent, atol=2e-4)
        assert float(batch.residual[i]) == pytest.approx(float(one.residual), abs=1e-6)


@pytest.mark.parametrize("name", ["anderson", "gauss_newton"])
def test_double_precision_reaches_what_it_can_hold(name):
    with jax.enable_x64(True):
        w = weights(dtype=np.float64)
        z = latent(dtype=np.float64)
        encoder, decoder = Partial(encode, w), Partial(decode, w)
        method = (
            Anderson(iterations=60) if name == "anderson" else GaussNewton(inner=30)
        )
        result = ji.invert_decoder(encoder, decoder, decoder(z), method)
        assert result.latent.dtype == np.float64
        assert float(ji.nmse_db(result.latent, z)) < -180


HALVES = [jnp.bfloat16, jnp.float16]
# Both with the method that has a setting of its own for them, and with the default.
METHODS_IN_HALF = [*((name, jnp.bfloat16) for name in METHODS)]
METHODS_IN_HALF += [("adam", jnp.float16), ("anderson", jnp.float16)]


def in_half(half):
    """Encoder and decoder that compute in 16 bits."""
    w = jnp.asarray(weights(), half)
    return (
        Partial(lambda w, x: encode(w, x.astype(half)), w),
        Partial(lambda w, z: decode(w, z.astype(half)), w),
    )


@pytest.mark.parametrize(("name", "half"), METHODS_IN_HALF)
def test_networks_of_16_bits_have_a_state_of_32_and_gain_on_the_encoder(name, half):
    encoder, decoder = in_half(half)
    z = latent()
    image = jnp.clip(D(z), 0, 1)
    result = ji.invert_decoder(encoder, decoder, image, name)
    assert result.latent.dtype == result.residual.dtype == jnp.float32
    if name != "encoder":
        # What the decoder's own rounding leaves is 0.002 in bfloat16.
        left = 0.8 if name == "adam" else 0.3
        assert float(result.residual) < left * float(result.encoder_residual)


@pytest.mark.parametrize("half", HALVES, ids=lambda dtype: dtype.__name__)
def test_adam_has_another_epsilon_for_16_bits(half):
    encoder, decoder = in_half(half)
    image = jnp.clip(D(latent()), 0, 1)

    def found(eps):
        return ji.invert_decoder(encoder, decoder, image, Adam(eps=eps)).latent

    assert np.array_equal(found(None), found(1e-4))
    assert not np.array_equal(found(None), found(1e-8))


def test_the_history_has_the_residual_of_every_iterate():
    result = ji.invert_decoder(E, D, D(latent()), ForwardStep(iterations=30))
    n = int(result.iterations)
    history = np.asarray(result.history)
    assert history.shape == (31,)
    assert np.all(np.isfinite(history[: n + 1]))
    assert np.all(np.isnan(history[n + 1 :]))
    assert history[0] == float(result.encoder_residual)
    assert history[int(result.best_iteration)] == float(result.residual)
    assert np.nanmin(history) == float(result.residual)


LENGTHS = sorted({1, 9, 10, 12, 100, 101, *RNG.integers(1, 400, 12).tolist()})


@pytest.mark.parametrize("n", LENGTHS)
def test_the_rates_of_gradient_free_adam_are_the_published_ones(n):
    """In NumPy, as the paper's code goes through its iterations: it carries a rate."""
    peak, m = np.random.default_rng(n).uniform(1e-3, 1.0), min(n, 100)
    w, rates = m // 10, []
    for i in range(n):
        if i < 0.8 * m and i < w:
            carried = peak * (i + 1) / w
        elif i < 0.8 * m:
            carried = peak * np.cos(0.5 * np.pi * (i - w) / (m - w)) ** 2
        rates.append(carried)
    found = jax.vmap(held_cosine(peak, n))(jnp.arange(LENGTHS[-1]))[:n]
    np.testing.assert_allclose(found, rates, rtol=1e-5)


@pytest.mark.parametrize("n", LENGTHS)
def test_the_rates_of_the_gradient_method_are_the_published_ones(n):
    """In NumPy, as transformers' cosine schedule with a warm-up of n // 10."""
    peak, w = np.random.default_rng(n).uniform(1e-3, 1.0), n // 10
    i = np.arange(n)
    falling = np.cos(0.5 * np.pi * (i - w) / (n - w)) ** 2
    rates = peak * np.where(i < w, i / max(w, 1), falling)
    found = jax.vmap(warm_cosine(peak, n))(jnp.arange(LENGTHS[-1]))[:n]
    np.testing.assert_allclose(found, rates, rtol=1e-4, atol=1e-6 * peak)


def test_gradient_free_adam_wastes_no_iteration():
    result = ji.invert_decoder(E, D, D(latent()), Adam(iterations=100))
    assert result.history[1] < result.history[0]


def test_any_optax_transformation_descends():
    method = Gradient(optimizer=optax.sgd(2.0, momentum=0.5), iterations=60)
    z = latent()
    result = ji.invert_decoder(E, D, D(z), method)
    assert float(ji.nmse_db(result.latent, z)) < -40


def test_rematerialisation_changes_memory_only():
    image = D(latent())
    plain = ji.invert_decoder(E, D, image, Gradient(iterations=20))
    remat = ji.invert_decoder(E, D, image, Gradient(iterations=20, remat=True))
    np.testing.assert_allclose(plain.latent, remat.latent, atol=1e-5)


def test_rematerialisation_keeps_only_what_the_decoder_names():
    def deep(w, z):
        for _ in range(6):
            for _ in range(4):
                z = jnp.sin(jnp.cumsum(w * z, axis=0))
            z = checkpoint_name(z, LAYER)
        return z

    decoder = Partial(deep, jnp.float32(0.1))
    image = jnp.full((8, 8, 3), 0.5)
    problem = Problem(lambda x: x, decoder, image, image, None, False)

    def images_kept(remat):
        decode = Gradient(remat=remat).differentiated(problem)
        _, pull = jax.vjp(decode, image)
        return sum(leaf.size for leaf in jax.tree.leaves(pull)) / image.size

    # One of each of 24 sums at least; the outputs of 6 layers and the input.
    assert images_kept(False) >= 24
    assert images_kept(True) < 8


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_video_is_its_frames(chunk):
    zs = jnp.stack([latent(seed) for seed in range(5)])
    frames = jax.vmap(D)(zs)
    method = ForwardStep(iterations=40, patience=None)
    together = ji.invert_decoder(
        framewise(E, chunk), framewise(D, chunk), frames, method
    )
    for i in range(5):
        one = ji.invert_decoder(E, D, frames[i], method)
        assert float(ji.nmse_db(together.latent[i], one.latent)) < -60


@pytest.mark.users_compiler
def test_the_memory_of_a_video_does_not_grow_with_its_frames():
    def wide(w, x):
        """An image of hidden values 30 times as large as itself."""
        hidden = jnp.repeat(jnp.sin(jnp.cumsum(x, axis=0)), 30, axis=2)
        return jnp.cumsum(jnp.cos(hidden), axis=1)[..., :3] * w

    network = Partial(wide, jnp.float32(0.1))

    def beside_the_frames(count, chunk):
        def run(frames):
            both = framewise(network, chunk)
            return ji.invert_decoder(
                both, both, frames, ForwardStep(), limits=None
            ).residual

        frames = jnp.zeros((count, 64, 64, 3))
        sizes = jax.jit(run).lower(frames).compile().memory_analysis()
        return sizes.temp_size_in_bytes / frames[0].nbytes

    # Some copies of the video are held, but the hidden values of one chunk only.
    assert beside_the_frames(32, 32) > 2 * beside_the_frames(32, 1)
    per_frame = (beside_the_frames(32, 1) - beside_the_frames(8, 1)) / 24
    assert per_frame < 15


# --- scales ---------------------------------------------------------------------------

EQUIVARIANT = [name for name in ITERATIVE if name not in ("adam", "gradient")]
SCALES = [*10.0 ** RNG.uniform(-30, 30, 3), 1e-30, 1e-19, 1e19, 1e30]


def bent(w, z):
    """A decoder with ``D(c z) = c D(z)`` for c > 0 that is not linear."""
    patches = z @ w
    return patches + 0.2 * jnp.abs(jnp.roll(patches, 1, -1))


def unbent(w, x):
    """Nearly its inverse."""
    return x @ w.T


BENT, UNBENT = Partial(bent, weights()), Partial(unbent, weights())


@jax.jit(static_argnums=(1, 2))
def scaled(image, method, limits):
    return ji.invert_decoder(UNBENT, BENT, image, method, limits=limits)


@pytest.mark.parametrize("c", SCALES)
@pytest.mark.parametrize("name", ["encoder", *EQUIVARIANT])
def test_an_inversion_does_not_depend_on_the_scale_of_the_image(name, c):
    image = BENT(latent())
    wanted = scaled(image, name, None)
    found = scaled(jnp.float32(c) * image, name, None)
    assert float(wanted.encoder_residual) > 1e-2  # there is something to find
    np.testing.assert_allclose(found.latent / c, wanted.latent, atol=2e-5)
    # Relative to an image of order one, all that float32 says of a misfit is 1e-6.
    for field in ("residual", "encoder_residual"):
        mine, other = getattr(found, field) / c, getattr(wanted, field)
        assert float(mine) == pytest.approx(float(other), rel=1e-4, abs=1e-6)
    assert bool(found.converged) == bool(wanted.converged) == (name != "encoder")


@pytest.mark.parametrize("c", SCALES)
@pytest.mark.parametrize("name", METHODS)
def test_what_is_reported_is_true_at_every_scale(name, c):
    image = np.asarray(jnp.float32(c) * BENT(latent()))
    found = scaled(jnp.asarray(image), name, None)
    misfit = np.asarray(BENT(found.latent), np.float64) - image
    true = np.sqrt(np.mean((misfit / c) ** 2))
    assert float(found.residual) / c == pytest.approx(true, rel=1e-4, abs=1e-6)
    tolerance = 1.2 * QUANTIZATION * np.max(np.abs(image)) / c
    assert bool(found.converged) == (true <= tolerance)
    assert np.all(np.isfinite(found.latent))


@pytest.mark.parametrize("c", SCALES)
def test_the_default_tolerance_is_a_share_of_the_range_between_the_limits(c):
    low, high = -c, c
    image = jnp.clip(jnp.float32(c) * BENT(latent()), low, high)
    found = ji.invert_decoder(UNBENT, BENT, image, "encoder", limits=(low, high))
    misfit = 1.2 * QUANTIZATION * 2 * c
    assert bool(found.converged) == (float(found.residual) <= misfit)
    assert not bool(found.converged)
    near = ji.invert_decoder(UNBENT, BENT, image, "anderson", limits=(low, high))
    assert bool(near.converged)


@pytest.mark.parametrize("c", SCALES)
def test_cocoercivity_does_not_depend_on_the_scale_of_the_image(c):
    def report(scale):
        z = jnp.float32(scale) * latent()
        method = ForwardStep(iterations=5)
        return analysis.cocoercivity(UNBENT, BENT, BENT(z), z, method, limits=None)

    np.testing.assert_allclose(report(c).beta, report(1.0).beta, rtol=1e-2)


def magnified(a, z):
    return a * bent(weights(), z)


def ignorant(x):
    return jnp.zeros((*x.shape[:2], 2))


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e10, 1e25])
def test_gauss_newton_does_not_depend_on_the_units_of_the_latent(scale):
    # The image is of order one, the latent is not, and the encoder knows nothing of it.
    decoder = Partial(magnified, np.float32(1 / scale))
    z, image = scale * latent(), BENT(latent())
    found = ji.invert_decoder(ignorant, decoder, image, "gauss_newton", limits=None)
    assert float(ji.nmse_db(found.latent / scale, z / scale)) < -60


def product(w, z):
    return w @ z


def constant(z, x):
    return z


def badly_scaled(scale):
    w = np.random.default_rng(0).standard_normal((12, 12))
    return Partial(product, np.float32(scale * w))


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("inner", [30, 100])
def test_gauss_newton_solves_what_is_linear_whatever_its_scale(scale, inner):
    decoder = badly_scaled(scale)
    z = np.float32(np.linspace(-1, 1, 12) / scale)
    method = GaussNewton(inner=inner, iterations=6, damping=1e-6)
    encoder = Partial(constant, np.float32(0.9) * z)
    result = ji.invert_decoder(encoder, decoder, decoder(z), method, limits=None)
    history = np.asarray(result.history)[: int(result.iterations) + 1]
    assert np.all(np.isfinite(history))
    assert float(result.residual) < 1e-4 * float(result.encoder_residual)


def test_gauss_newton_steps_back_from_where_the_decoder_overflows():
    z = jnp.linspace(-1.0, 1.0, 8)
    result = ji.invert_decoder(
        lambda x: jnp.full(8, -5.0),
        jnp.exp,
        jnp.exp(z),
        GaussNewton(iterations=60, patience=None),
        limits=None,
    )
    assert np.any(np.isinf(result.history))
    assert float(ji.nmse_db(result.latent, z)) < -60


# --- large images -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((4, 6), 8, None),
        ((16, 6), 8, 0),
        ((6, 17), 5, 4),
        ((20, 31), 8, None),
        ((20, 31), 8, 0),
        ((20, 31), 5, 4),
    ],
)
def test_a_network_that_sees_single_patches_is_the_same_in_tiles(size, tile, overlap):
    z = latent(shape=(*size, 2))
    pixels, pixels_overlap = 2 * tile, overlap and 2 * overlap

    @jax.jit
    def whole_and_in_tiles(z):
        image = D(z)
        inverse = tilewise(E, pixels, pixels_overlap)
        return (image, E(image)), (tilewise(D, tile, overlap)(z), inverse(image))

    whole, tiled = whole_and_in_tiles(z)
    np.testing.assert_allclose(tiled[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(tiled[1], whole[1], atol=1e-5)


def test_tiles_overlap_at_least_as_asked_and_are_blended_without_seams():
    def position(tile):  # what only a tile can know: where in it a pixel lies
        return tile + jnp.linspace(-1, 1, tile.shape[0])[:, None, None]

    made = np.asarray(tilewise(position, 16, 8)(jnp.zeros((40, 16, 1))))[:, 0, 0]
    assert np.abs(np.diff(made)).max() < 0.3
    butted = np.asarray(tilewise(position, 16, 0)(jnp.zeros((48, 16, 1))))[:, 0, 0]
    assert np.abs(np.diff(butted)).max() > 1.9


@pytest.mark.parametrize("name", ["anderson", "gauss_newton"])
def test_what_was_decoded_in_tiles_is_inverted_in_tiles(name):
    def shaded(w, z):  # depends on the whole tile, as normalisation does
        return decode(w, z * (1 + 0.05 * jnp.mean(z, axis=(0, 1))))

    large = latent(shape=(20, 12, 2))
    inner = Partial(shaded, weights())
    encoder, decoder = tilewise(E, 16), tilewise(inner, 8)
    image = jax.jit(decoder)(large)
    result = ji.invert_decoder(encoder, decoder, image, name)
    assert float(ji.nmse_db(result.latent, large)) < -70
    assert bool(result.converged)
    whole = ji.invert_decoder(E, inner, image, name)
    assert float(ji.nmse_db(whole.latent, large)) > -60


@pytest.mark.users_compiler
def test_the_memory_of_tiles_does_not_grow_with_the_image():
    def wide(x):
        """Hidden values 30 times as large as the image."""
        hidden = jnp.repeat(jnp.sin(jnp.cumsum(x, axis=0)), 30, axis=2)
        return jnp.cumsum(jnp.cos(hidden), axis=1)[..., :3]

    def beside_the_image(size, network):
        image = jnp.zeros((size, size, 3))
        sizes = jax.jit(network).lower(image).compile().memory_analysis()
        return sizes.temp_size_in_bytes / image.nbytes

    tiled = tilewise(wide, 64)
    assert beside_the_image(512, wide) > 25
    assert beside_the_image(512, tiled) < 5
    assert beside_the_image(1024, tiled) < beside_the_image(512, tiled)


@pytest.mark.parametrize(
    ("options", "shape", "match"),
    [
        ({"tile": 0}, (4, 4, 3), "tile"),
        ({"tile": 8, "overlap": 8}, (4, 4, 3), "overlap"),
        ({"tile": 8, "overlap": -1}, (4, 4, 3), "overlap"),
        ({"tile": 8}, (2, 16, 16, 3), "h, w, c"),
        ({"tile": 8}, (16, 15, 3), "multiples of 2"),
        ({"tile": 8, "overlap": 7}, (16, 16, 3), "overlap must be smaller"),
    ],
)
def test_bad_tiles_are_refused(options, shape, match):
    with pytest.raises(ValueError, match=match):
        tilewise(E, **options)(jnp.zeros(shape))


def test_a_tile_that_the_factor_does_not_divide_is_refused():
    def eighth(x):  # as a strided network: rounds down what is left over
        return x[: x.shape[0] // 8 * 8 : 8, : x.shape[1] // 8 * 8 : 8]

    with pytest.raises(ValueError, match="multiple of its factor"):
        tilewise(eighth, tile=60)(jnp.zeros((120, 120, 3)))


# --- analysis -----------------------------------------------------------------------


def test_the_forward_step_method_converges_below_the_bound_and_not_far_above():
    z = latent()
    image = D(z)
    report = analysis.cocoercivity(E, D, image, z, ForwardStep(0.5, iterations=40))
    assert float(report.smallest) > 0
    assert bool(report.satisfied)
    errors = np.asarray(report.errors)
    assert np.all(np.diff(errors[errors > 1e-5]) < 0)
    assert errors[-1] < 0.02 * errors[0]
    far = ForwardStep(4 * float(report.largest_step), iterations=40, patience=None)
    wild = analysis.cocoercivity(E, D, image, z, far)
    assert not bool(wild.satisfied)
    assert float(wild.errors[-1]) > float(errors[0])


def test_a_linear_autoencoder_has_the_cocoercivity_of_its_eigenvalues():
    scale = jnp.array([0.5, 2.0])
    report = analysis.cocoercivity(
        lambda x: x,
        lambda z: scale * z,
        jnp.array([[0.1, 0.2]]),
        jnp.array([[0.2, 0.1]]),
        ForwardStep(0.1, iterations=5),
        limits=None,
    )
    # <A e, e> / |A e|^2 lies between the inverses of A's eigenvalues.
    assert np.all(report.beta >= 0.5 - 1e-5)
    assert np.all(report.beta <= 2.0 + 1e-5)
    assert float(report.largest_step) == pytest.approx(2 * float(report.smallest))


def test_the_conditioning_of_a_decoder_is_that_of_its_jacobian():
    z = latent()
    report = analysis.decoder_conditioning(D, z, num_vectors=48)
    jacobian = np.asarray(jax.jit(jax.jacobian(D))(z)).reshape(-1, z.size)
    sigma = np.linalg.svd(jacobian, compute_uv=False)
    assert float(report.largest) == pytest.approx(sigma[0], rel=1e-3)
    assert float(report.smallest) == pytest.approx(sigma[-1], rel=1e-2)


# --- bad input ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "options", "match"),
    [
        (np.full((8, 12, 3), np.nan, np.float32), {}, "NaN"),
        (np.full((8, 12, 3), 1.5, np.float32), {}, "within"),
        (np.zeros((8, 12, 3), np.int32), {}, "uint8"),
        (np.zeros((7, 12, 3), np.float32), {}, "shape"),
        (np.zeros((8, 12, 4), np.float32), {}, "shape"),
        (np.zeros((2, 8, 12, 3), np.float32), {}, "jax.vmap"),
        (np.zeros((8, 12, 3), np.float32), {"method": "newton"}, "unknown method"),
        (np.zeros((8, 12, 3), np.float32), {"method": 3}, "method"),
        (np.zeros((8, 12, 3), np.float32), {"limits": (1.0, 0.0)}, "limits"),
        (np.zeros((8, 12, 3), np.uint8), {"limits": (-1.0, 1.0)}, "8-bit"),
        (np.zeros((8, 12, 3), np.float32), {"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_input_is_refused(image, options, match):
    with pytest.raises(ValueError, match=match):
        ji.invert_decoder(E, D, image, **options)


@pytest.mark.parametrize(
    ("method", "setting"), [(Adam, "iterations"), (Anderson, "patience")]
)
def test_methods_that_would_do_nothing_are_refused(method, setting):
    with pytest.raises(ValueError, match=f"{setting} must be an integer of at least 1"):
        method(**{setting: 0})


def test_what_becomes_nan_stops_with_the_best_that_was_there():
    broken = Partial(
        lambda w, z: jnp.where(jnp.max(z) > 1, jnp.nan, decode(w, z)), weights()
    )
    z = 0.2 * latent()
    # Far too long steps leave the region in which this decoder works.
    result = ji.invert_decoder(E, broken, D(z), ForwardStep(30.0))
    assert np.all(np.isfinite(result.latent))
    assert np.isfinite(float(result.residual))
    assert int(result.iterations) < 10
    assert np.isnan(np.asarray(result.history)[int(result.iterations)])
