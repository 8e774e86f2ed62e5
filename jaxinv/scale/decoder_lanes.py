"""Decoder inversion in lanes: a machine of :mod:`jaxinv.decoder_inversion.loop`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from jaxinv.callables import Function
from jaxinv.decoder_inversion.invert import as_method, as_pixels, as_tolerance
from jaxinv.decoder_inversion.loop import in_lanes
from jaxinv.decoder_inversion.method import Method
from jaxinv.decoder_inversion.problem import Limits, Problem
from jaxinv.loops import Loop


@dataclasses.dataclass(frozen=True)
class DecoderMachine:
    """Factory of the loop that inverts the decoder for one image (:class:`Machine`).

    The model is the pair of encoder and decoder; the item is an image, ``uint8`` or
    floats. The state begins with the encoder's latent.

    Attributes:
        method: The method of decoder inversion.
        limits: See :func:`jaxinv.invert_decoder`.
        tolerance: See :func:`jaxinv.invert_decoder`.
    """

    method: Method
    limits: Limits
    tolerance: float | None

    def __call__(self, model: Any, item: Array) -> Loop:
        """Return the loop."""

        def inner(latent: Array) -> Loop:
            problem = self._problem(model, item, latent)
            return in_lanes(problem, self.method, self.tolerance)

        def begin() -> tuple[Array, Any]:
            image = as_pixels(item, self.limits)
            latent = model[0](image).astype(image.dtype)
            return latent, inner(latent).begin()

        return Loop(
            begin,
            running=lambda state: inner(state[0]).running(state[1]),
            advance=lambda state: (state[0], inner(state[0]).advance(state[1])),
            finish=lambda state: inner(state[0]).finish(state[1]),
        )

    def _problem(self, model: Any, item: Array, latent: Array) -> Problem:
        encode, decode = model
        image = as_pixels(item, self.limits)
        decoded = jax.eval_shape(decode, latent)
        half = min(jax.eval_shape(encode, image).dtype.itemsize, decoded.dtype.itemsize)
        return Problem(encode, decode, image, latent, self.limits, half < 4)


def decoder_machine(
    encode: Callable[[Array], Array],
    decode: Callable[[Array], Array],
    method: str | Method = "anderson",
    *,
    limits: Limits = (0.0, 1.0),
    tolerance: float | None = None,
) -> tuple[DecoderMachine, tuple[Function, Function]]:
    """Return the machine of :func:`jaxinv.invert_decoder`, and its model.

    Args:
        encode: See :func:`jaxinv.invert_decoder`.
        decode: See :func:`jaxinv.invert_decoder`.
        method: See :func:`jaxinv.invert_decoder`.
        limits: See :func:`jaxinv.invert_decoder`.
        tolerance: See :func:`jaxinv.invert_decoder`.

    Returns:
        The machine, and both networks.

    Raises:
        ValueError: For an unknown method or a tolerance that is not positive.
    """
    machine = DecoderMachine(as_method(method), limits, as_tolerance(tolerance))
    return machine, (Function.of(encode), Function.of(decode))
