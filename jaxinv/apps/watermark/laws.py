r"""Exact p-values, for a fixed latent and a random key.

A detector that assumes the latent to be white noise of known variance finds every key
in some other latents: an empty band in loud surroundings is close to all keys. But the
key was drawn at random, and unknown to whoever made the latent. The p-value is
therefore the probability that a *fresh* key comes as close to *this* latent,

    p = P_{k'} ( T(c, k') <= T(c, k) ),

which is uniform on [0, 1] (a randomization test) for every latent that does not depend
on the key: white, constant, smooth, checkered, or made by an adversary. Nothing is
estimated. For normal keys the probability has a closed form:

* all coordinates free (``random`` keys of m values): the direction of k' is uniform on
  the sphere, so that a quarter of the squared chord between the directions of c and k'
  is Beta((m - 1)/2, (m - 1)/2). This is the one-sided t-test of their correlation, and
  independent of the scale of the latent. (:class:`Direction`)
* few values, each on a whole ring (``ring`` keys of r values of variance 1/2): if a are
  the means of the latent over the rings, 2 |a - d'|^2 is noncentral chi-squared with r
  degrees of freedom and noncentrality 2 |a|^2. (:class:`Distance`)

The first is also uniform for white noise of any variance and a *fixed* key, because the
direction of c is then uniform. The second is not: a weak ring key is close to many
noises. The p-value of a ring key is therefore the larger of the two, with the direction
in all coordinates of the disc, which is conservative in both settings. (:class:`Rings`)

* few values out of a list (``RingIDKey``): all keys are counted. (:class:`Levels`)
* signs of a codeword (``PRCKey``): each parity check holds or fails by the toss of a
  coin. (:class:`Parities`)

A key of zeros is not random. The latent alone can only show whether a band is quieter
than its neighbors: the band's share of the energy of both is a Beta variable for white
noise of any variance, and for no other noise. (:class:`Share`)

References:
    Lehmann and Romano 2005, "Testing Statistical Hypotheses", Section 15.2
    (randomization tests); Muller 1959 (uniform directions).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Direction(NamedTuple):
    """The angle between a latent and a key whose coordinates are all free.

    Attributes:
        chord: A quarter of the squared chord between the unit vectors, shape (): 0 for
            equal, 1 for opposite directions.
        size: Number of coordinates, shape ().
    """

    chord: Float[Array, ""]
    size: Float[Array, ""]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the probability that a fresh key is as close in direction."""
        from scipy.special import betainc

        chord, half = _float64(self.chord), (_float64(self.size) - 1) / 2
        return betainc(half, half, np.clip(chord, 0.0, 1.0))


class Distance(NamedTuple):
    """The distance between the rings of a latent and of a key.

    Attributes:
        squared: Twice the squared distance, shape ().
        noncentrality: Twice the squared norm of the latent's rings, shape ().
        size: Number of rings, shape ().
    """

    squared: Float[Array, ""]
    noncentrality: Float[Array, ""]
    size: Float[Array, ""]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the probability that a fresh key is as close."""
        from scipy.stats import ncx2

        # A noncentrality of exactly 0 is outside SciPy's domain.
        noncentrality = np.maximum(_float64(self.noncentrality), 1e-12)
        return ncx2.cdf(_float64(self.squared), _float64(self.size), noncentrality)


class Rings(NamedTuple):
    """Direction and distance, for a key of rings.

    Attributes:
        direction: Statistic of all coordinates of the disc.
        distance: Statistic of the means over its rings.
    """

    direction: Direction
    distance: Distance

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the larger p-value."""
        return np.maximum(self.direction.p_value(), self.distance.p_value())


class Share(NamedTuple):
    """The energy of a band, as a share of the energy of the band and a reference.

    Attributes:
        shares: The share for each reference, shape (k,).
        inside: Degrees of freedom of the band, shape ().
        references: Degrees of freedom of each reference, shape (k,).
    """

    shares: Float[Array, "k"]
    inside: Float[Array, ""]
    references: Float[Array, "k"]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the largest probability over references of a band this quiet."""
        from scipy.special import betainc

        inside = _float64(self.inside)[..., None] / 2
        shares = np.clip(_float64(self.shares), 0.0, 1.0)
        return np.max(betainc(inside, _float64(self.references) / 2, shares), axis=-1)


class Levels(NamedTuple):
    """The distance between rings and their values, which come from a list.

    All keys are counted: the distance is a sum over rings, so that the sums over each
    half of the rings are sorted and compared.

    Attributes:
        terms: Squared distance of each ring to each value, shape (m, l).
        found: The index of the key's value in each ring, shape (m,).
    """

    terms: Float[Array, "m l"]
    found: Int[Array, "m"]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the fraction of all keys that are at least as close."""
        terms, found = _float64(self.terms), np.asarray(self.found)
        result = np.ones(found.shape[:-1])
        for place in np.ndindex(result.shape):
            if np.all(np.isfinite(terms[place])):
                result[place] = _share_as_close(terms[place], found[place])
        return result


class Pair(NamedTuple):
    """Two independent parts of a key, either of which is enough.

    Attributes:
        rings: The statistic of the rings.
        noise: The statistic of the channel of noise.
    """

    rings: Levels
    noise: Direction

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the probability that the smaller of two p-values is this small."""
        smaller = np.minimum(self.rings.p_value(), self.noise.p_value())
        # 1 - (1 - p)**2, also for small p.
        return smaller * (2 - smaller)


class Parities(NamedTuple):
    """The parity checks that hold, with weights.

    For fair coins s and weights w with ``x = sum s w / |w|``, Hoeffding's inequality
    gives ``P(X >= x) <= exp(-x**2 / 2)``, and Bentkus and Dzindzalieta's (which is
    sharp) ``P(X >= x) <= P(Z >= x) / (4 P(Z >= sqrt 2))`` for a standard normal Z.

    Attributes:
        total: Sum of the weights of the checks that hold, minus that of the others,
            shape ().
        squares: Sum of the squared weights, shape ().

    References:
        Bentkus and Dzindzalieta 2015, "A tight Gaussian bound for weighted sums of
        Rademacher random variables", Bernoulli 21(2), Theorem 1.1.
    """

    total: Float[Array, ""]
    squares: Float[Array, ""]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the smaller of the two bounds, at most 1."""
        from scipy.stats import norm

        total, squares = _float64(self.total), _float64(self.squares)
        # Without a weight, or with NaN, nothing is known.
        known = np.isfinite(total) & (squares > 0)
        x = np.where(known, total, 0) / np.sqrt(np.where(known, squares, 1))
        x = np.maximum(x, 0)
        return np.minimum(np.exp(-(x**2) / 2), norm.sf(x) / (4 * norm.sf(2**0.5)))


def direction(
    latent: Float[Array, "m"], key: Float[Array, "m"], axis: int = -1
) -> Direction:
    """Compare the directions of a latent and a key.

    Args:
        latent: Coordinates of the latent.
        key: Coordinates of the key.
        axis: Axis of the coordinates.

    Returns:
        The statistic; a latent of zeros counts as opposite.
    """
    norm = jnp.linalg.norm(latent, axis=axis, keepdims=True)
    unit = latent / jnp.where(norm > 0, norm, 1)
    unit_key = key / jnp.linalg.norm(key, axis=axis, keepdims=True)
    chord = jnp.sum((unit - unit_key) ** 2, axis) / 4
    chord = jnp.where(jnp.squeeze(norm, axis) == 0, 1.0, chord)
    return Direction(chord, jnp.asarray(latent.shape[axis], chord.dtype))


def _float64(values: Array) -> np.ndarray:
    return np.asarray(values, np.float64)


def _share_as_close(terms: np.ndarray, found: np.ndarray) -> float:
    """Return the fraction of all keys whose sum of terms is at most the key's."""
    half = len(terms) // 2
    first, second = (_all_sums(part) for part in (terms[:half], terms[half:]))
    own = np.sum(terms[np.arange(len(terms)), found])
    # A tie counts as close, whatever the rounding of the sums.
    limit = own + 1e-9 * np.sum(terms)
    counts = np.searchsorted(np.sort(first), limit - second, side="right")
    return float(np.sum(counts) / (len(first) * len(second)))


def _all_sums(rows: np.ndarray) -> np.ndarray:
    """Return the sums of one number of each row, for all choices."""
    sums = np.zeros(1)
    for row in rows:
        sums = (sums[:, None] + row).ravel()
    return sums
