r"""Representations of states in which additions can be undone without loss.

A bidirectional sampler undoes ``y <- y + increment`` by subtracting the same increment.
In floating point the result is only almost equal. Two representations improve it:

* :data:`COMPENSATED`: an unevaluated sum of two floats, high and low, which doubles the
  digits (2^-48 in float32). An addition stores its own rounding error (Knuth's
  two-sum), at the cost of a few additions and no evaluation of the model.
* :class:`Bits`: a 64-bit integer, a multiple of a fixed unit. Integer addition wraps
  and never rounds: subtracting the increment always returns the identical bits. JAX has
  no 64-bit integers by default, so there are two words of 32 bits.

Both are pairs of arrays of the state's shape, so that one loop serves both
(:mod:`jaxinv.sampling.lossless_rows`).

References:
    Knuth 1997, "The Art of Computer Programming" vol. 2, 4.2.2 (two-sum).
    Dekker 1971, Numer. Math. 18, 224-242 (double-length arithmetic).
"""

import dataclasses
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

Words = tuple[Array, Array]

#: Integer states are below 2 to this power, which leaves room for a sum.
LARGEST_BITS = 62


class Arithmetic(Protocol):
    """A representation of states; hashable."""

    def encode(self, value: Float[Array, "*shape"]) -> Words:
        """Represent a float."""
        ...

    def decode(self, words: Words, dtype: jnp.dtype) -> Float[Array, "*shape"]:
        """Return a float that is about the nearest one."""
        ...

    def add(self, words: Words, increment: Float[Array, "*shape"]) -> Words:
        """Add a float; adding its negative undoes it."""
        ...

    def holds(self, words: Words) -> Array:
        """Return whether all values are in range, a boolean scalar."""
        ...


@dataclasses.dataclass(frozen=True)
class Compensated:
    """Sums of two floats, ``|low| <= ulp(high) / 2``."""

    def encode(self, value: Array) -> Words:
        """Return the value and zeros."""
        return value, jnp.zeros_like(value)

    def decode(self, words: Words, dtype: jnp.dtype) -> Array:
        """Return the high part, which is the rounded sum."""
        return words[0].astype(dtype)

    def add(self, words: Words, increment: Array) -> Words:
        """Add exactly up to the rounding of the low part."""
        high, low = words
        total, error = two_sum(high, increment)
        return _fast_two_sum(total, low + error)

    def holds(self, words: Words) -> Array:
        """Return whether all values are finite."""
        return jnp.all(jnp.isfinite(words[0]) & jnp.isfinite(words[1]))


@dataclasses.dataclass(frozen=True)
class Bits:
    """Integers of 64 bits in units of ``2**-places``: (high, low) words.

    The high word is an int32, the low one a uint32, together in two's complement.

    Attributes:
        places: Number of binary places after the point.
    """

    places: int

    def encode(self, value: Array) -> Words:
        """Round to the nearest unit; exact for a float that is a multiple of it."""
        return _to_words(value * jnp.asarray(2.0**self.places, value.dtype))

    def decode(self, words: Words, dtype: jnp.dtype) -> Array:
        """Convert sign and each word exactly, and round their sum once."""
        negative = words[0] < 0
        high, low = _select(negative, _negate(words), words)
        # The two halves of the low word, and most high words, are exact floats.
        upper = high.astype(dtype) * 65536 + (low >> 16).astype(dtype)
        total = upper * 65536 + (low & 0xFFFF).astype(dtype)
        total = total * jnp.asarray(2.0**-self.places, dtype)
        return jnp.where(negative, -total, total)

    def add(self, words: Words, increment: Array) -> Words:
        """Add modulo 2^64, rounding only the increment to units."""
        return _add_words(words, self.encode(increment))

    def holds(self, words: Words) -> Array:
        """Return whether all magnitudes are below ``2**62`` units."""
        limit = 2 ** (LARGEST_BITS - 32)
        return jnp.all((words[0] >= -limit) & (words[0] < limit))


COMPENSATED = Compensated()


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the rounded sum of two floats and its exact error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _fast_two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return :func:`two_sum` if ``|a| >= |b|`` (Dekker)."""
    total = a + b
    return total, b - (total - a)


def _to_words(value: Array) -> Words:
    """Return the integer nearest to a float, as two words.

    A value that is not finite, or not below 2^62 in magnitude, becomes the most
    negative integer, which is out of range.
    """
    size = jnp.round(jnp.abs(value))
    fits = size < 2.0**LARGEST_BITS
    size = jnp.where(fits, size, 0)
    # Only powers of two, so that every operation is exact.
    high = jnp.floor(size * 2.0**-32)
    rest = size - high * 2.0**32
    words = high.astype(jnp.int32), rest.astype(jnp.uint32)
    words = _select(value < 0, _negate(words), words)
    lost = jnp.full_like(words[0], -(2**31)), jnp.zeros_like(words[1])
    return _select(fits, words, lost)


def _add_words(a: Words, b: Words) -> Words:
    low = a[1] + b[1]
    carry = (low < a[1]).astype(jnp.int32)
    return a[0] + b[0] + carry, low


def _negate(words: Words) -> Words:
    high, low = ~words[0], ~words[1]
    return _add_words((high, low), (jnp.zeros_like(high), jnp.ones_like(low)))


def _select(condition: Array, a: Words, b: Words) -> Words:
    return jnp.where(condition, a[0], b[0]), jnp.where(condition, a[1], b[1])
