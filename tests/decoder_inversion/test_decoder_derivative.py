"""Derivatives through decoder inversion: right, NaN, or an error; never zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import jaxinv as ji
from jaxinv.decoder_inversion import METHODS, GaussNewton, framewise, tilewise

# To the end: finite differences divide what is left by their step.
METHOD = GaussNewton(iterations=30, patience=None)
SHAPE = (3, 4, 2)


def decode(w, z):
    """Latent (h, w, 2) to image (h, w, 12)."""
    patches = z @ w
    return 0.5 + 0.3 * jnp.tanh(patches + 0.2 * patches**2)


def encode(w, x):
    return ((x - 0.5) / 0.3) @ w.T


class Draw:
    """A decoder, an image that it need not be able to make, and directions."""

    def __init__(self, seed, dtype):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return jnp.asarray(rng.standard_normal(shape), dtype)

        self.w = jnp.linalg.qr(draw(12, 12))[0][:2]
        clean = decode(self.w, 0.8 * draw(*SHAPE))
        self.image = jnp.clip(clean + 0.01 * draw(*clean.shape), 0, 1)
        self.weights = draw(*SHAPE)
        self.inputs = self.w, self.image
        self.ways = [(draw(2, 12), draw(*clean.shape)) for _ in range(2)]

    def moved(self, step, way):
        return jax.tree.map(lambda x, v: x + step * v, self.inputs, way)


def found(w, image, method=METHOD, limits=None):
    encoder, decoder = Partial(encode, w), Partial(decode, w)
    return ji.invert_decoder(encoder, decoder, image, method, limits=limits)


@jax.jit(static_argnames="limits")
def loss(inputs, weights, limits):
    return jnp.sum(jnp.sin(found(*inputs, limits=limits).latent) * weights)


@jax.jit(static_argnames="limits")
def slope(inputs, weights, way, limits):
    return jax.jvp(lambda p: loss(p, weights, limits), (inputs,), (way,))[1]


@jax.jit(static_argnames="limits")
def gradients(inputs, weights, way, limits):
    """Of the loss, and of its slope along a direction."""
    first = jax.grad(loss)(inputs, weights, limits)
    return first, jax.grad(slope)(inputs, weights, way, limits)


def along(gradient, way):
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
    return sum(float(jnp.vdot(g, v)) for g, v in pairs)


# Central differences of step 1e-5 are off by 1e-10 times a third derivative, and by
# what 1e-13 of rounding makes of it.
@pytest.mark.parametrize("limits", [None, (0.2, 0.8)])
@pytest.mark.parametrize("seed", range(3))
def test_first_and_second_derivatives_are_those_of_finite_differences(
    seed, limits, float64
):
    case, h = Draw(seed, float64), 1e-5
    if limits:
        case.image = jnp.clip(case.image, *limits)
        case.inputs = case.w, case.image
        # A pixel at a limit may move away from it: into the limits only.
        ways = [
            (v, jnp.where(case.image == jnp.clip(case.image, 0.21, 0.79), x, 0))
            for v, x in case.ways
        ]
        case.ways = ways
    way, other = case.ways
    ahead, behind = case.moved(h, way), case.moved(-h, way)
    rise = loss(ahead, case.weights, limits) - loss(behind, case.weights, limits)
    wanted = float(rise) / (2 * h)
    first, second = gradients(case.inputs, case.weights, way, limits)
    mine = float(slope(case.inputs, case.weights, way, limits))
    assert along(first, way) == pytest.approx(mine, rel=1e-9)
    assert mine == pytest.approx(wanted, rel=1e-5)

    ahead, behind = case.moved(h, other), case.moved(-h, other)
    wanted = (
        slope(ahead, case.weights, way, limits)
        - slope(behind, case.weights, way, limits)
    ) / (2 * h)
    assert along(second, other) == pytest.approx(float(wanted), rel=1e-5)
    assert abs(float(wanted)) > 1e-3  # not the zeros of a derivative that is not there


def test_a_hessian_is_right(float64):
    case, h = Draw(7, float64), 1e-4
    way = case.ways[0]

    def of(step):
        return loss(case.moved(step, way), case.weights, None)

    hessian = float(jax.hessian(of)(jnp.zeros((), float64)))
    wanted = float(of(h) - 2 * of(0.0) + of(-h)) / h**2
    assert hessian == pytest.approx(wanted, rel=1e-4)


def test_single_precision_has_the_gradient_of_double_precision():
    case = Draw(0, jnp.float32)
    single, _ = gradients(case.inputs, case.weights, case.ways[0], None)
    with jax.enable_x64(True):
        exact = Draw(0, jnp.float64)
        double, _ = gradients(exact.inputs, exact.weights, exact.ways[0], None)
    for mine, wanted in zip(single, double, strict=True):
        wanted = np.asarray(wanted)
        error = np.linalg.norm(np.asarray(mine) - wanted) / np.linalg.norm(wanted)
        assert error < 1e-3


def test_a_latent_that_is_no_minimum_yet_has_no_derivative():
    case = Draw(1, jnp.float32)

    def of(image):
        return jnp.sum(found(case.w, image, GaussNewton(iterations=1)).latent)

    assert np.all(np.isnan(jax.grad(of)(case.image)))


def test_a_rounded_image_has_a_derivative_where_its_latent_is_a_minimum():
    case = Draw(1, jnp.float32)
    image = jnp.round(255 * case.image) / 255
    gradient = jax.grad(lambda x: jnp.sum(found(case.w, x).latent))(image)
    assert np.all(np.isfinite(gradient))


def test_a_latent_that_the_image_does_not_determine_has_no_derivative():
    case = Draw(1, jnp.float32)
    blind = case.w.at[1].set(0)  # the second channel is not seen
    gradient = jax.grad(lambda x: jnp.sum(found(blind, x).latent))(case.image)
    assert np.all(np.isnan(gradient))


@pytest.mark.parametrize("field", ["residual", "encoder_residual", "history"])
def test_the_certificate_has_no_derivative_and_does_not_spoil_that_of_the_latent(field):
    case = Draw(2, jnp.float32)

    def of(image):
        result = found(case.w, image)
        return jnp.sum(result.latent), jnp.nanmax(getattr(result, field))

    assert np.all(np.isnan(jax.grad(lambda x: of(x)[1])(case.image)))
    tangents = jax.jvp(of, (case.image,), (case.ways[0][1],))[1]
    assert np.isfinite(tangents[0])
    assert np.isnan(tangents[1])

    def carried(image):  # the cotangent of the certificate is an array of zeros
        def step(total, _):
            latent, certificate = of(image)
            return total + latent, certificate

        return jax.lax.scan(step, 0.0, None, length=1)[0]

    assert np.all(np.isfinite(jax.grad(carried)(case.image)))


WITHOUT = [name for name in METHODS if name not in ("encoder", "gauss_newton")]
ASKED = {
    "grad": jax.grad,
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    "hessian": jax.hessian,
    "grad of jit": lambda f: jax.grad(jax.jit(f)),
    "grad of vmap": lambda f: jax.grad(lambda x: jnp.sum(jax.vmap(f)(x[None]))),
}


# All methods refuse in one place: one way to ask for each, and each way for one.
@pytest.mark.parametrize(
    ("name", "ask"),
    [(name, "grad") for name in WITHOUT]
    + [("anderson", ask) for ask in ASKED if ask != "grad"],
)
def test_differentiating_other_methods_is_an_error_that_says_what_to_do(name, ask):
    case = Draw(3, jnp.float32)

    def of_image(image):
        return jnp.sum(found(case.w, image, name).latent)

    def of_parameters(w):
        return jnp.sum(found(w, case.image, name).residual)

    def of_closure(w):
        result = ji.invert_decoder(
            lambda x: encode(w, x), lambda z: decode(w, z), case.image, name
        )
        return jnp.sum(result.latent)

    for of, at in [
        (of_image, case.image),
        (of_parameters, case.w),
        (of_closure, case.w),
    ]:
        with pytest.raises(ValueError, match="GaussNewton"):
            ASKED[ask](of)(at)


def test_what_is_not_differentiated_is_no_error():
    case = Draw(3, jnp.float32)

    def of(image):
        fixed = jax.lax.stop_gradient(image)
        return jnp.sum(found(case.w, fixed, "anderson").latent * jnp.mean(image))

    assert np.all(np.isfinite(jax.grad(of)(case.image)))


def test_the_encoders_latent_has_the_derivative_of_the_encoder():
    case = Draw(4, jnp.float32)

    def of(image):
        return jnp.sum(jnp.sin(found(case.w, image, "encoder").latent))

    wanted = jax.grad(lambda x: jnp.sum(jnp.sin(encode(case.w, x))))(case.image)
    np.testing.assert_allclose(jax.grad(of)(case.image), wanted, rtol=1e-5)


WRAPPED = {
    "frames": (lambda f: framewise(f, 2), (5, 2)),
    "tiles": (lambda f: tilewise(f, tile=3), None),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_derivative_goes_through_frames_and_tiles(name, float64):
    wrap, frame = WRAPPED[name]
    rng, h = np.random.default_rng(5), 1e-5
    w = Draw(5, float64).w
    z = jnp.asarray(0.5 * rng.standard_normal((5, *(frame or (4, 2)))), float64)
    image = wrap(Partial(decode, w))(z)
    way, weights = (jnp.asarray(rng.standard_normal(s)) for s in (image.shape, z.shape))

    @jax.jit
    def of(image):
        encoder, decoder = wrap(Partial(encode, w)), wrap(Partial(decode, w))
        result = ji.invert_decoder(encoder, decoder, image, METHOD, limits=None)
        return jnp.sum(jnp.sin(result.latent) * weights)

    wanted = float(of(image + h * way) - of(image - h * way)) / (2 * h)
    found = float(jnp.vdot(jax.jit(jax.grad(of))(image), way))
    assert found == pytest.approx(wanted, rel=1e-5)
