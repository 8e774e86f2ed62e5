r"""Decoder inversion: from an image to a latent whose decoding matches it.

The encoder of a latent diffusion model is not the inverse of its decoder: the latent of
a generated image differs from the encoder's. Even an exact inversion of the sampler
then starts from the wrong latent.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from jaxinv.callables import Function
from jaxinv.checks import checked, unknown
from jaxinv.decoder_inversion.derivative import attach_derivative, refuse_derivative
from jaxinv.decoder_inversion.gradient_free import Encoder
from jaxinv.decoder_inversion.loop import DecoderInversion, whole
from jaxinv.decoder_inversion.method import Method
from jaxinv.decoder_inversion.methods import METHODS
from jaxinv.decoder_inversion.problem import Limits, Problem
from jaxinv.loops import run


@checked
def invert_decoder(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    image: Shaped[Array | np.ndarray, "*image"],
    method: str | Method = "anderson",
    *,
    limits: Limits = (0.0, 1.0),
    tolerance: float | None = None,
) -> DecoderInversion:
    """Find a latent whose decoding matches an image.

    The result of ``"encoder"`` is differentiable like any function. The latent of
    Gauss-Newton is differentiable with respect to the image and the decoder's
    parameters, by the implicit function theorem and to any order; derivatives are NaN
    if it is not a minimum of the misfit, and always for the certificate.
    Differentiating other methods is an error
    (:mod:`jaxinv.decoder_inversion.derivative`).

    Args:
        encode: Callable pytree from one image to one latent, for the first guess and
            for the methods without gradients.
        decode: Callable pytree from one latent to one image, preferably without
            clipping (:meth:`jaxinv.Pipeline.decode_unclipped`).
        image: One image, or one video with its frames first, without a batch axis (use
            ``jax.vmap``): floats within the limits, or ``uint8`` for the range 0 to 1.
        method: ``"encoder"``, ``"gradient"``, ``"forward_step"``, ``"inertial_km"``,
            ``"adam"``, ``"anderson"``, ``"gauss_newton"``, or a value with settings
            from :mod:`jaxinv.decoder_inversion`, such as ``Adam(iterations=50)``.
        limits: The smallest and largest value of a pixel, where decodings are clipped;
            None for unclipped images.
        tolerance: Largest root mean square misfit of a converged result, in units of
            the image; by default 1.2 times the 8-bit rounding error of the range
            between the limits (without limits: of the image's largest magnitude).

    Returns:
        The best iterate by image misfit, never worse than the encoder's.

    Raises:
        ValueError: For an image that is not finite or outside the limits, networks that
            do not map its shape to a latent and back, an unknown method, less than one
            iteration, or derivatives of a method that has none.

    Example:
        >>> import jax.numpy as jnp, jaxinv as ji
        >>> decode = lambda z: jnp.tanh(jnp.repeat(z, 2, axis=0)) / 2 + 0.5
        >>> encode = lambda x: 2 * x[::2] - 1  # not quite the inverse
        >>> latent = jnp.linspace(-1, 1, 12).reshape(4, 3)
        >>> result = ji.invert_decoder(encode, decode, decode(latent))
        >>> bool(result.converged), float(ji.nmse_db(result.latent, latent)) < -80
        (True, True)

    References:
        Hong et al. 2024, "Gradient-free Decoder Inversion in Latent Diffusion Models",
        arXiv:2409.18442; "On Exact Inversion of DPM-Solvers", arXiv:2311.18387.
    """
    chosen = as_method(method)
    limits = None if limits is None else (float(limits[0]), float(limits[1]))
    pixels = as_pixels(image, limits)
    for name, network in (("encode", encode), ("decode", decode)):
        if not callable(network):
            raise ValueError(f"{name} must be callable, got {type(network).__name__}")
    tolerance = as_tolerance(tolerance)
    networks = Function.of(encode), Function.of(decode)
    return _invert(pixels, networks, chosen, limits, tolerance)


def as_method(method: str | Method) -> Method:
    """Return the method of a name, or the method itself; raise ValueError otherwise."""
    if isinstance(method, str):
        if method not in METHODS:
            instead = "a value such as jaxinv.decoder.Anderson(iterations=10)"
            raise ValueError(unknown("method", method, METHODS, instead))
        return METHODS[method]
    if not all(hasattr(method, name) for name in ("begin", "step", "count")):
        raise ValueError(
            f"expected a method's name or a value such as jaxinv.decoder.Anderson(), "
            f"got {type(method).__name__}"
        )
    least = 0 if isinstance(method, Encoder) else 1
    if method.iterations < least:
        raise ValueError(f"iterations must be at least 1, got {method.iterations}")
    if method.patience is not None and method.patience < 1:
        raise ValueError(f"patience must be at least 1, or None, got {method.patience}")
    return method


def as_tolerance(tolerance: float | None) -> float | None:
    """Return the tolerance as a float, or raise ValueError if it is not positive."""
    if tolerance is None:
        return None
    if not tolerance > 0:
        raise ValueError(f"the tolerance must be positive, got {tolerance!r}")
    return float(tolerance)


def as_pixels(image: Any, limits: Limits) -> Array:
    """Return the image as floats, or raise ValueError if it is not an image."""
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"limits must be (smallest, largest), got {limits!r}")
    pixels = jnp.asarray(image)
    if pixels.dtype == jnp.uint8:
        if limits is not None and tuple(limits) != (0.0, 1.0):
            raise ValueError(
                f"8-bit images have the range 0 to 1, but limits are {limits!r}; pass "
                "floats"
            )
        return pixels.astype(jnp.float32) / 255
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ValueError(
            f"expected an image of floats or uint8, got dtype {pixels.dtype}"
        )
    if pixels.dtype.itemsize < 4:
        pixels = pixels.astype(jnp.float32)
    if isinstance(pixels, jax.core.Tracer):
        return pixels
    values = np.asarray(pixels)
    if not np.all(np.isfinite(values)):
        raise ValueError("the image has values that are NaN or infinite")
    if limits is not None and not (
        limits[0] <= values.min() and values.max() <= limits[1]
    ):
        raise ValueError(
            f"expected values within {limits}, got {values.min():.3g} to "
            f"{values.max():.3g}; for a decoder without limits pass limits=None"
        )
    return pixels


def check_networks(encode: Any, decode: Any, image: Array) -> tuple[Any, Any]:
    """Return the abstract latent and decoding, or raise ValueError on a mismatch."""
    try:
        latent = jax.eval_shape(encode, image)
    except Exception as error:
        raise ValueError(
            f"the encoder does not accept one image of shape {image.shape} (no batch "
            f"axis: use jax.vmap for more): {error}"
        ) from error
    state = jax.ShapeDtypeStruct(latent.shape, image.dtype)
    try:
        decoded = jax.eval_shape(decode, state)
    except Exception as error:
        raise ValueError(
            f"the decoder does not accept the encoder's latent of shape "
            f"{latent.shape}: {error}"
        ) from error
    if decoded.shape != image.shape:
        raise ValueError(
            f"decoding the latent of an image of shape {image.shape} gives "
            f"{decoded.shape}: height and width must be multiples of the autoencoder's "
            "factor"
        )
    return latent, decoded


@jax.jit(static_argnames="method")
def _invert(
    image: Array,
    networks: tuple[Function, Function],
    method: Method,
    limits: Limits,
    tolerance: float | None,
) -> DecoderInversion:
    latent, decoded = check_networks(*networks, image)
    half = min(latent.dtype.itemsize, decoded.dtype.itemsize) < 4

    def problem(inputs: Any) -> Problem:
        image, (encode, decode) = inputs
        first = encode(image).astype(image.dtype)
        return Problem(encode, decode, image, first, limits, half)

    inputs = (image, networks)
    if not method.iterations:  # only the encoder: ordinary differentiation
        loop = whole(problem(inputs), method, tolerance)
        return loop.finish(loop.begin())
    found = run(whole(problem(jax.lax.stop_gradient(inputs)), method, tolerance))
    equation = getattr(method, "equation", None)
    if equation is None:
        why = (
            f"the result of {type(method).__name__} solves no equation and has no "
            "derivative: use jaxinv.decoder.GaussNewton, whose result is a minimum of "
            "the misfit, or apply jax.lax.stop_gradient to the arguments"
        )
        return refuse_derivative(why, inputs, found)
    return attach_derivative(lambda p, z: equation(problem(p), z), inputs, found)
