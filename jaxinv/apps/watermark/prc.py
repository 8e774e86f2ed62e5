r"""PRC: the signs of the noise are a codeword of a pseudorandom code.

The magnitudes of the noise stay, and its signs become a codeword: + for 0, - for 1.
Every codeword is another one, also of the same message, and without the key codewords
are conjectured to look like coin tosses (:mod:`jaxinv.apps.watermark.prc_code`): images
with the same key do not show that they are related, which they do with Gaussian
Shading.

The holder of the key expects of every number z of a recovered noise the sign

    s(z) = erf( z / sqrt(2 v (1 + v)) ),     v = 1.5,

multiplied by 1 - 2 (noise rate) and by the sign of the pad. The product P of these over
a parity check is positive if the check holds. The statistic is the sum of atanh P over
all checks.

The p-value is a proven bound. The pad consists of fair coins, and the checks are
linearly independent, so that for any latent that does not depend on the key the signs
of all P are independent fair coins. The bound is Hoeffding's, which gives the published
threshold exactly, or Bentkus and Dzindzalieta's where that is smaller
(:class:`jaxinv.apps.watermark.laws.Parities`). It is conservative: of white noise, less
than a share p has a p-value of at most p. It says nothing of latents that depend on
the key, and the mark is not bound to the content of an image.

Departures from the published code. Secrets are expanded by ChaCha20, and a key can be
made again from its secret, instead of NumPy's generator and a pickled matrix. The
randomness of a codeword comes from the signs of the noise that it replaces, so that
:meth:`PRCKey.embed` is a pure function. Ordered statistics take the first independent
rows exactly. The message has n / 32 bits by default, which is the published 512 for
n = 16384.

References:
    Gunn, Zhao, Song 2024, "An undetectable watermark for generative image models",
    arXiv:2410.07369, Section 4 and Algorithms 1 to 4; the authors' code,
    github.com/XuandongZhao/PRC-Watermark (t = 3, false positive rate 1e-5 of the test
    bits, variance 1.5).
"""

import dataclasses
import math
import secrets
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxinv.apps.watermark.keystream import read_secret
from jaxinv.apps.watermark.laws import Parities
from jaxinv.apps.watermark.plausibility import NoiseFigures, noise_figures
from jaxinv.apps.watermark.prc_code import Sizes, make_code
from jaxinv.apps.watermark.prc_decoding import propagate, solve_most_certain
from jaxinv.apps.watermark.tree_ring import check_noise
from jaxinv.checks import AtLeastOne, Length, Range, checked

#: Variance of recovered noise around the original, as published.
VARIANCE = 1.5
# Signs of the noise that choose the codeword: the seed of a generator.
_SEED_BITS = 64


class PRCScore(NamedTuple):
    """The parity checks of a noise.

    Attributes:
        satisfied: Fraction of the parity checks that hold, shape (); 1/2 for noise
            without the mark.
        law: The statistic, with its distribution.
        figures: Statistics of the noise.
    """

    satisfied: Float[Array, ""]
    law: Parities
    figures: NoiseFigures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PRCKey:
    """A message and a code; from :func:`prc_key`. A pytree.

    Attributes:
        message: The bits, shape (m,).
        generator: The generator of the code, shape (n, k).
        checks: Positions of its parity checks, shape (r, t).
        pad: Bits that are added to every codeword, shape (n,).
        tests: The first bits of every payload, shape (f,).
        secret: The secret of the code, shape (48,).
        shape: (h, w, c) of the noise, with n numbers (static).
    """

    message: Bool[Array, "m"] = dataclasses.field(repr=False)
    generator: UInt8[Array, "n k"] = dataclasses.field(repr=False)
    checks: Int[Array, "r t"] = dataclasses.field(repr=False)
    pad: Bool[Array, "n"] = dataclasses.field(repr=False)
    tests: Bool[Array, "f"] = dataclasses.field(repr=False)
    secret: UInt8[Array, "48"] = dataclasses.field(repr=False)
    shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})

    @property
    def sizes(self) -> Sizes:
        """The parameters of the code."""
        message, tests = len(self.message), len(self.tests)
        return Sizes(math.prod(self.shape), message, tests, self.checks.shape[1])

    def embed(self, noise: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the noise with the signs of a codeword.

        Args:
            noise: Unit noise of the key's shape, independent of everything else. Its
                signs choose one of the codewords.

        Returns:
            The marked noise, with the magnitudes of ``noise``.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        signs = (noise.reshape(-1)[:_SEED_BITS] > 0).astype(jnp.uint32)
        words = signs.reshape(2, -1) << jnp.arange(_SEED_BITS // 2, dtype=jnp.uint32)
        seed = jax.random.wrap_key_data(jnp.sum(words, 1, dtype=jnp.uint32))
        fresh_seed, error_seed = jax.random.split(seed)
        count = self.generator.shape[1] - len(self.tests) - len(self.message)
        fresh = jax.random.bernoulli(fresh_seed, 0.5, (count,))
        error = jax.random.bernoulli(
            error_seed, self.sizes.noise_rate, (len(self.pad),)
        )
        payload = jnp.concatenate([self.tests, fresh, self.message])
        word = (self.generator.astype(jnp.int32) @ payload.astype(jnp.int32)) % 2
        ones = (word.astype(bool) ^ self.pad ^ error).reshape(self.shape)
        return jnp.where(ones, -jnp.abs(noise), jnp.abs(noise))

    def score(self, noise: Float[Array, "h w c"]) -> PRCScore:
        """Check the parities.

        Args:
            noise: Noise of the key's shape, recovered by inversion.

        Returns:
            The statistic; see :func:`p_value`.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        products = jnp.prod(self._expected_signs(noise)[self.checks], axis=1)
        weights = jnp.arctanh(products)
        law = Parities(jnp.sum(weights), jnp.sum(weights**2))
        satisfied = jnp.mean(jnp.where(products == 0, 0.5, products > 0))
        satisfied = jnp.where(jnp.all(jnp.isfinite(noise)), satisfied, jnp.nan)
        return PRCScore(satisfied, law, noise_figures(noise))

    def decode(self, noise: Float[Array, "h w c"]) -> Bool[np.ndarray, "m"] | None:
        """Read the message, on the host.

        Args:
            noise: Noise of the key's shape, recovered by inversion.

        Returns:
            The bits, or None if the test bits are wrong or the noise is not finite. For
            a latent that does not depend on the key, each test bit is right by the toss
            of a coin: it has a message with probability at most 2**-f.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        expected = np.asarray(self._expected_signs(noise), np.float64)
        if not np.all(np.isfinite(expected)):
            return None
        # As published, so many iterations as paths need to reach all positions.
        iterations = int(math.log(len(expected)) / math.log(self.checks.shape[1]))
        ratios = propagate(
            2 * np.arctanh(expected), np.asarray(self.checks), iterations
        )
        found = solve_most_certain(
            np.asarray(self.generator), ratios < 0, np.abs(ratios)
        )
        tests = np.asarray(self.tests)
        if found is None or not np.array_equal(found[: len(tests)], tests):
            return None
        return found[len(found) - len(self.message) :]

    def _expected_signs(self, noise: Array) -> Array:
        """Return the expected sign of each number, without the pad; shape (n,)."""
        noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32)).reshape(-1)
        signs = erf(noise / (2 * VARIANCE * (1 + VARIANCE)) ** 0.5)
        return (1 - 2 * self.sizes.noise_rate) * jnp.where(self.pad, -signs, signs)


@checked
def prc_key(
    shape: Annotated[tuple[AtLeastOne, ...], Length(3, 3)],
    *,
    message: ArrayLike | None = None,
    secret: bytes | None = None,
    tests: Annotated[int, Range(1, 64)] = 17,
    sparsity: Annotated[int, Range(2, 8)] = 3,
) -> PRCKey:
    """Make a key.

    Args:
        shape: (h, w, c) of the noise.
        message: The bits; n / 32 bits drawn by the operating system's generator if
            None.
        secret: ChaCha20's key and nonce, 48 bytes; drawn by the operating system's
            generator if None. Two messages must not share a secret.
        tests: Number of test bits: a latent without the mark has a message with
            probability ``2**-tests``. The published code has 17, for 1e-5.
        sparsity: Positions of a parity check. The published code has 3; more of them
            are harder to guess, and tolerate fewer errors.

    Returns:
        The key.

    Raises:
        ValueError: For a message or secret of the wrong form, or a noise that is too
            small for them.

    Example:
        >>> import jax
        >>> from jaxinv.apps import watermark
        >>> key = watermark.prc_key((32, 32, 4))
        >>> marked = key.embed(jax.random.normal(jax.random.key(1), (32, 32, 4)))
        >>> len(key.message), bool((key.decode(marked) == key.message).all())
        (128, True)

    References:
        Gunn, Zhao, Song 2024, arXiv:2410.07369, Algorithm 1.
    """
    height, width, channels = (int(size) for size in shape)
    length = height * width * channels
    secret = read_secret(secret)
    if message is None:
        drawn = np.frombuffer(secrets.token_bytes(length // 32), np.uint8)
        message = drawn % 2
    bits = np.asarray(message)
    if bits.ndim != 1 or not np.all((bits == 0) | (bits == 1)):
        raise ValueError(
            f"expected a message of bits (0 or 1), got shape {bits.shape}, of "
            f"{bits.dtype}"
        )
    if length < max(_SEED_BITS, sparsity):
        raise ValueError(f"noise of shape {shape} is too small: it has {length} signs")
    sizes = Sizes(length, len(bits), tests, sparsity)
    if sizes.checks < 1:
        raise ValueError(
            f"noise of shape {shape} is too small for a message of {len(bits)} bits: "
            f"the code needs {sizes.payload + sizes.security} of {length} signs, and "
            "more for its checks"
        )
    code = make_code(secret, sizes)
    return PRCKey(
        message=jnp.asarray(bits.astype(bool)),
        generator=jnp.asarray(code.generator),
        checks=jnp.asarray(code.checks),
        pad=jnp.asarray(code.pad),
        tests=jnp.asarray(code.tests),
        secret=jnp.asarray(np.frombuffer(secret, np.uint8)),
        shape=(height, width, channels),
    )
