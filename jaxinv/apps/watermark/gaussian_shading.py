r"""Gaussian Shading: a message in the signs of the noise.

Every bit of the message is repeated over a block of the noise. A stream cipher encrypts
the repeated bits, so that they are distributed like coin tosses, and each sets the sign
of one number of the noise. Marked noise has the distribution of any other noise:
without the secret, one image reveals nothing, but two images with the same key share
their signs. To read the message, the signs are decrypted, and each block's majority is
taken.

A latent that does not depend on the secret matches each bit with probability 1/2,
whatever its distribution. The probability of at least m matches out of k is

    P(m) = sum_{i >= m} binom(k, i) / 2^k.

The mark is not bound to the content of the image: anybody with the noise of a marked
image can generate another image from it, which then carries the message. A message that
identifies its image (and a secret of its own) reveals which image was copied.

References:
    Yang et al. 2024, "Gaussian Shading", arXiv:2404.04956, Sections 3.2 to 3.4.
"""

import dataclasses
import secrets
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxinv.apps.watermark.keystream import keystream_bits, read_secret
from jaxinv.apps.watermark.plausibility import NoiseFigures, noise_figures
from jaxinv.apps.watermark.tree_ring import check_noise


class GaussianShadingScore(NamedTuple):
    """The message read from a noise, compared with the key.

    Attributes:
        bits: The message as read, shape (k,).
        matches: Number of bits that equal the key's, shape ().
        accuracy: Fraction of these bits, shape (); NaN, with no matches, for noise that
            is not finite.
        figures: Statistics of the noise.
    """

    bits: Bool[Array, "k"]
    matches: Int[Array, ""]
    accuracy: Float[Array, ""]
    figures: NoiseFigures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianShadingKey:
    """A message and its secret; from :func:`gaussian_shading_key`. A pytree.

    Attributes:
        message: The bits, shape (k,).
        keystream: The cipher's bits, of the noise's shape.
        secret: The cipher's key (32 bytes) and nonce (16), shape (48,).
        blocks: (h, w, c) of the block over which a bit is repeated (static).
    """

    message: Bool[Array, "k"] = dataclasses.field(repr=False)
    keystream: Bool[Array, "h w c"] = dataclasses.field(repr=False)
    secret: UInt8[Array, "48"] = dataclasses.field(repr=False)
    blocks: tuple[int, int, int] = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (h, w, c) of the noise."""
        h, w, c = self.keystream.shape
        return h, w, c

    def embed(self, noise: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the noise with the signs of the message.

        Args:
            noise: Unit noise of the key's shape, independent of everything else.

        Returns:
            The marked noise, with the magnitudes of ``noise``.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        signs = _spread(self.message, self.shape, self.blocks) ^ self.keystream
        return jnp.where(signs, jnp.abs(noise), -jnp.abs(noise))

    def score(self, noise: Float[Array, "h w c"]) -> GaussianShadingScore:
        """Read the message.

        Args:
            noise: Noise of the key's shape, recovered by inversion.

        Returns:
            The bits, and the number of matches; see :func:`false_positive_rate`.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        # Every decision depends on signs that the keystream flips, also for zeros, so
        # that the complement of the keystream gives the complement of every bit: for
        # any noise, both are equally likely.
        signs = jnp.where((noise > 0) ^ self.keystream, 1.0, -1.0)
        votes = _gather(signs, self.blocks)
        # Ties in blocks of even size are broken by the magnitudes, and if these are
        # tied, as in constant noise, by the first number.
        sums = _gather(signs * jnp.abs(noise), self.blocks)
        sums = jnp.where(sums == 0, _first(signs, self.blocks), sums)
        bits = jnp.where(votes == 0, sums, votes) > 0
        matches = jnp.sum(bits == self.message)
        # Comparisons with NaN are false, which would count as a bit.
        known = jnp.all(jnp.isfinite(noise))
        share = jnp.where(known, matches / len(self.message), jnp.nan)
        matches = jnp.where(known, matches, 0)
        return GaussianShadingScore(bits, matches, share, noise_figures(noise))


def gaussian_shading_key(
    shape: tuple[int, int, int],
    *,
    blocks: tuple[int, int, int] = (8, 8, 1),
    message: ArrayLike | None = None,
    secret: bytes | None = None,
) -> GaussianShadingKey:
    """Make a key.

    Args:
        shape: (h, w, c) of the noise.
        blocks: (h, w, c) of the block over which a bit is repeated. The paper uses (8,
            8, 1), which gives 256 bits in a latent of 64x64x4.
        message: One bit for each block; drawn by the operating system's generator if
            None.
        secret: ChaCha20's key and nonce, 48 bytes; drawn by the operating system's
            generator if None. Images with the same secret share all their signs, which
            shows that they are related without revealing the message. Two messages must
            not share a secret.

    Returns:
        The key.

    Raises:
        ValueError: For blocks that do not divide the shape, or a message or secret of
            the wrong length.

    Example:
        >>> import jax
        >>> from jaxinv.apps import watermark
        >>> key = watermark.gaussian_shading_key((16, 16, 4), blocks=(4, 4, 1))
        >>> marked = key.embed(jax.random.normal(jax.random.key(1), (16, 16, 4)))
        >>> len(key.message), int(key.score(marked).matches)
        (64, 64)

    References:
        Yang et al. 2024, arXiv:2404.04956, Section 3.2; ChaCha20: RFC 8439.
    """
    if len(shape) != 3 or len(blocks) != 3 or min(*shape, *blocks) < 1:
        raise ValueError(f"expected two shapes (h, w, c), got {shape} and {blocks}")
    if any(n % b for n, b in zip(shape, blocks, strict=True)):
        raise ValueError(f"blocks of {blocks} do not divide noise of shape {shape}")
    size = int(np.prod(shape))
    count = size // int(np.prod(blocks))
    if message is None:
        drawn = np.frombuffer(secrets.token_bytes(count), np.uint8)
        message = drawn % 2
    bits = np.asarray(message)
    if bits.shape != (count,) or not np.all((bits == 0) | (bits == 1)):
        raise ValueError(
            f"expected a message of {count} bits (0 or 1), got shape {bits.shape}"
        )
    secret = read_secret(secret)
    stream = keystream_bits(secret, size)
    return GaussianShadingKey(
        jnp.asarray(bits.astype(bool)),
        jnp.asarray(stream.astype(bool).reshape(shape)),
        jnp.asarray(np.frombuffer(secret, np.uint8)),
        (int(blocks[0]), int(blocks[1]), int(blocks[2])),
    )


def false_positive_rate(matches: ArrayLike, bits: int) -> Float[np.ndarray, "..."]:
    """Return the probability of at least this many matches in an unmarked latent.

    Args:
        matches: Number of matching bits.
        bits: Length of the message.

    Returns:
        The probability, which holds for any latent.

    Raises:
        ValueError: Unless ``0 <= matches <= bits``.

    References:
        Yang et al. 2024, arXiv:2404.04956, Eq. 8.
    """
    from scipy.stats import binom

    matches = np.asarray(matches)
    if bits < 1 or np.any(matches < 0) or np.any(matches > bits):
        raise ValueError(f"expected 0 to {bits} matches of {bits} bits, got {matches}")
    return binom.sf(matches - 1, bits, 0.5)


def matches_for(rate: float, bits: int) -> int:
    """Return the smallest number of matches with at most a given false positive rate.

    Args:
        rate: The false positive rate, between 0 and 1.
        bits: Length of the message.

    Returns:
        The number of matches from which an image counts as marked.

    Raises:
        ValueError: If even a match of all bits has a larger rate.

    >>> matches_for(1e-6, 64), matches_for(1e-6, 256)
    (51, 167)
    """
    enough = np.flatnonzero(false_positive_rate(np.arange(bits + 1), bits) <= rate)
    if not len(enough):
        raise ValueError(f"{bits} bits are too few for a false positive rate of {rate}")
    return int(enough[0])


def _spread(bits: Array, shape: tuple[int, ...], blocks: tuple[int, ...]) -> Array:
    """Repeat every bit over its block."""
    spread = bits.reshape([n // b for n, b in zip(shape, blocks, strict=True)])
    for axis, block in enumerate(blocks):
        spread = jnp.repeat(spread, block, axis)
    return spread


def _first(values: Array, blocks: tuple[int, ...]) -> Array:
    """Return the first number of every block."""
    i, j, k = blocks
    return values[::i, ::j, ::k].reshape(-1)


def _gather(values: Array, blocks: tuple[int, ...]) -> Array:
    """Return the sum of every block."""
    (h, w, c), (i, j, k) = values.shape, blocks
    split = values.reshape(h // i, i, w // j, j, c // k, k)
    return jnp.sum(split, (1, 3, 5)).reshape(-1)
