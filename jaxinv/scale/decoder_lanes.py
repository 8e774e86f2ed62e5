"""Decoder inversion in lanes: :mod:`jaxinv.decoder_inversion.loop` as a machine."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxinv.callables import split_callable
from jaxinv.decoder_inversion import loop
from jaxinv.decoder_inversion.invert import as_method, as_pixels, as_tolerance
from jaxinv.decoder_inversion.loop import DecoderInversion
from jaxinv.decoder_inversion.method import Method
from jaxinv.decoder_inversion.problem import Limits, Problem


class _State(NamedTuple):
    latent: Array  # E(x)
    carry: Any
    seen: Array  # whether the last iterate was decoded: there is no more to do


@dataclasses.dataclass(frozen=True)
class DecoderMachine:
    """Inverts the decoder for one image; see :class:`jaxinv.scale.lanes.Machine`.

    The model is the pair of lists of arrays of :func:`decoder_machine`, the item is an
    image, ``uint8`` or floats. The last iterate is seen by one more iteration like the
    others, whose encoding is not counted: a loop has one body.

    Attributes:
        rebuilds: make encoder and decoder from their arrays.
        method: of decoder inversion.
        limits: as of :func:`jaxinv.invert_decoder`.
        tolerance: as there.
    """

    rebuilds: tuple[Any, Any]
    method: Method
    limits: Limits
    tolerance: float | None

    def begin(self, model: Any, item: Array) -> _State:
        """Encodes the image."""
        encode = self.rebuilds[0](model[0])
        image = as_pixels(item, self.limits)
        latent = encode(image).astype(image.dtype)
        carry = loop.begin(self._problem(model, item, latent), self.method)
        return _State(latent, carry, jnp.array(False))

    def running(self, model: Any, item: Array, state: _State) -> Bool[Array, ""]:
        """Until the last iterate was seen."""
        return ~state.seen

    def advance(self, model: Any, item: Array, state: _State) -> _State:
        """One iterate is seen, and the next one made if there is to be one."""
        problem = self._problem(model, item, state.latent)
        goes_on = loop.running(self.method, state.carry)
        moved, decoded = loop.advance(problem, self.method, state.carry)
        seen = loop.judged(problem, self.method, state.carry, decoded)
        carry = jax.tree.map(lambda a, b: jnp.where(goes_on, a, b), moved, seen)
        return _State(state.latent, carry, ~goes_on)

    def finish(self, model: Any, item: Array, state: _State) -> DecoderInversion:
        """The best iterate."""
        problem = self._problem(model, item, state.latent)
        return loop.finish(problem, self.method, state.carry, self.tolerance)

    def _problem(self, model: Any, item: Array, latent: Array) -> Problem:
        encode, decode = (r(a) for r, a in zip(self.rebuilds, model, strict=True))
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
) -> tuple[DecoderMachine, tuple[list[Any], list[Any]]]:
    """The machine of :func:`jaxinv.invert_decoder`, and its model.

    Args:
        encode: as there.
        decode: as there.
        method: as there.
        limits: as there.
        tolerance: as there.

    Returns:
        The machine, and the arrays of both networks.

    Raises:
        ValueError: for an unknown method or a tolerance that is not positive.
    """
    (of_encode, encoder), (of_decode, decoder) = (
        split_callable(encode),
        split_callable(decode),
    )
    machine = DecoderMachine(
        (encoder, decoder), as_method(method), limits, as_tolerance(tolerance)
    )
    return machine, (of_encode, of_decode)
