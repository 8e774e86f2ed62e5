r"""A pseudorandom error-correcting code: sparse parity checks that only a key knows.

A codeword is ``x = G p + e`` with arithmetic modulo 2: G a secret matrix of n rows, p
the payload, e a few random errors. Payload: test bits, which the key knows; random
bits, new for every codeword; the message. Each of the r last rows of G is the sum of
t - 1 earlier ones, which gives r parity checks of t positions each; then all rows are
permuted. Without the checks, codewords are conjectured to be indistinguishable from
coin tosses, for the published parameters at a cost of about 2**``security`` trials.

The parameters follow from the length n, the length of the message and the number of
test bits, as published:

    security = floor(log2 binom(n, t)),          random bits = security,
    noise rate = 1 - 2**(-1 / security),
    k = test bits + random bits + message,       r = n - k - security.

References:
    Christ and Gunn 2024, "Pseudorandom Error-Correcting Codes", arXiv:2402.09370;
    Gunn, Zhao, Song 2024, arXiv:2410.07369, Section 4 and Algorithms 1 and 2; the
    authors' code, github.com/XuandongZhao/PRC-Watermark (``src/prc.py``).
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jaxinv.apps.watermark.keystream import keystream


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The parameters of a code.

    Attributes:
        length: Length n of a codeword.
        message: Bits of the message.
        tests: Bits that the key knows.
        sparsity: Positions t of a parity check.
    """

    length: int
    message: int
    tests: int
    sparsity: int

    @property
    def security(self) -> int:
        """Logarithm of the number of possible parity checks."""
        return int(math.log2(math.comb(self.length, self.sparsity)))

    @property
    def payload(self) -> int:
        """Number k of columns of the generator."""
        return self.tests + self.security + self.message

    @property
    def checks(self) -> int:
        """Number r of parity checks."""
        return self.length - self.payload - self.security

    @property
    def noise_rate(self) -> float:
        """Share of errors that are added to a codeword."""
        return 1 - 2 ** (-1 / self.security)


class Code(NamedTuple):
    """A code and its key.

    Attributes:
        generator: The matrix G, shape (n, k).
        checks: Positions of each parity check, shape (r, t). Any t of these rows of G
            add up to zero.
        pad: Bits that are added to every codeword, shape (n,).
        tests: The first bits of every payload.
    """

    generator: UInt8[np.ndarray, "n k"]
    checks: Int[np.ndarray, "r t"]
    pad: Bool[np.ndarray, "n"]
    tests: Bool[np.ndarray, "f"]


def make_code(secret: bytes, sizes: Sizes) -> Code:
    """Expand a secret into a code.

    Args:
        secret: 48 bytes; see :func:`jaxinv.apps.watermark.keystream.keystream`.
        sizes: The parameters; ``sizes.checks`` must be positive.

    Returns:
        The code; the same for the same secret.
    """
    n, k, r, t = sizes.length, sizes.payload, sizes.checks, sizes.sparsity
    free = n - r
    words = [r * (t - 1), n]  # of 8 bytes each
    bits = [free * k, n, sizes.tests]
    length = 8 * sum(words) + sum(-(-count // 8) for count in bits)
    stream = keystream(secret, length)
    numbers, rest = np.split(stream, [8 * sum(words)])
    choices, order = np.split(numbers.view(np.uint64), words[:1])
    ends = np.cumsum([-(-count // 8) for count in bits])[:-1]
    packed, pad, tests = np.split(rest, ends)
    earlier = _distinct(choices.reshape(r, t - 1), free + np.arange(r))
    checks = np.concatenate([earlier, (free + np.arange(r))[:, None]], axis=1)
    generator = np.zeros((n, -(-k // 8)), np.uint8)
    first = np.unpackbits(packed)[: free * k].reshape(free, k)
    generator[:free] = np.packbits(first, axis=1)
    for row, chosen in enumerate(earlier):
        generator[free + row] = np.bitwise_xor.reduce(generator[chosen], axis=0)
    moved = np.argsort(order, kind="stable")
    place = np.empty(n, int)
    place[moved] = np.arange(n)
    return Code(
        np.unpackbits(generator[moved], axis=1)[:, :k],
        place[checks].astype(np.int32),
        np.unpackbits(pad)[:n].astype(bool),
        np.unpackbits(tests)[: sizes.tests].astype(bool),
    )


def _distinct(
    drawn: UInt8[np.ndarray, "r m"], bounds: Int[np.ndarray, "r"]
) -> Int[np.ndarray, "r m"]:
    """Return m different numbers below each bound, from 64 random bits each."""
    chosen = np.zeros((len(drawn), 0), int)
    for column in range(drawn.shape[1]):
        left = (bounds - column).astype(np.uint64)
        number = (drawn[:, column] % left).astype(int)
        # Skip those that were chosen before, from the smallest.
        for taken in np.sort(chosen, axis=1).T:
            number = number + (number >= taken)
        chosen = np.concatenate([chosen, number[:, None]], axis=1)
    return chosen
