r"""Exact p-values: the latent is held fixed, and the key is what is random.

A detector that trusts the latent to be white noise of a known variance finds every key
in a latent that is not: an empty band in loud surroundings is near to all of them. But
the key was drawn at random, and whoever made the latent did not know it. So ask instead
how often a *fresh* key would have come as near to *this* latent,

    p = P_{k'} ( T(c, k') <= T(c, k) ),

which is uniform on [0, 1] (a randomization test) for every latent that does not depend
on the key: white, constant, smooth, checkered, or made by an adversary. Nothing is
estimated. For normal keys the probability has a closed form:

* all coordinates free (``random`` keys of m values): the direction of k' is uniform on
  the sphere, so that a quarter of the squared chord between the directions of c and k'
  is Beta((m - 1)/2, (m - 1)/2): the one-sided t-test of their correlation. The scale of
  the latent drops out. (:class:`Direction`)
* few values, each on a whole ring (``ring`` keys of r values of variance 1/2): with a,
  the means of the latent over the rings, 2 |a - d'|^2 is noncentral chi-squared with r
  degrees of freedom and the noncentrality 2 |a|^2. (:class:`Distance`)

The first is uniform for white noise of any variance and a *fixed* key, too, as then the
direction of c is uniform. The second is not: a weak ring key is near to much noise. A
ring key's p-value is therefore the larger of the two, with the direction taken in all
coordinates of the disc: it errs to the safe side either way. (:class:`Rings`)

A key of zeros has nothing random. Of the latent alone it can be tested only whether a
band is quieter than its neighbors: the band's share of the energy of both is a Beta
variable for white noise of any variance, and for no other noise. (:class:`Share`)

References:
    Lehmann and Romano 2005, "Testing Statistical Hypotheses", Section 15.2
    (randomization tests); Muller 1959 (uniform directions).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Direction(NamedTuple):
    """The angle between a latent and a key whose coordinates are all free.

    Attributes:
        chord: shape (). A quarter of the squared chord between the unit vectors: 0 for
            one direction, 1 for opposite ones.
        size: shape (). Number of coordinates.
    """

    chord: Float[Array, ""]
    size: Float[Array, ""]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the probability that a fresh key lies as near in direction."""
        from scipy.special import betainc

        chord, half = _float64(self.chord), (_float64(self.size) - 1) / 2
        return betainc(half, half, np.clip(chord, 0.0, 1.0))


class Distance(NamedTuple):
    """The distance between a latent's rings and a key's.

    Attributes:
        squared: shape (). Twice the squared distance.
        noncentrality: shape (). Twice the squared norm of the latent's rings.
        size: shape (). Number of rings.
    """

    squared: Float[Array, ""]
    noncentrality: Float[Array, ""]
    size: Float[Array, ""]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the probability that a fresh key lies as near."""
        from scipy.stats import ncx2

        # A noncentrality of exactly 0 is outside of SciPy's domain.
        noncentrality = np.maximum(_float64(self.noncentrality), 1e-12)
        return ncx2.cdf(_float64(self.squared), _float64(self.size), noncentrality)


class Rings(NamedTuple):
    """Both, for a key of rings.

    Attributes:
        direction: of all coordinates of the disc.
        distance: of the means over its rings.
    """

    direction: Direction
    distance: Distance

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the larger p-value."""
        return np.maximum(self.direction.p_value(), self.distance.p_value())


class Share(NamedTuple):
    """The energy of a band, as a share of it and a reference together.

    Attributes:
        shares: shape (k,). One for each reference.
        inside: shape (). Degrees of freedom of the band.
        references: shape (k,). Degrees of freedom of each reference.
    """

    shares: Float[Array, "k"]
    inside: Float[Array, ""]
    references: Float[Array, "k"]

    def p_value(self) -> Float[np.ndarray, "..."]:
        """Return the largest probability, of all references, of a band so quiet."""
        from scipy.special import betainc

        inside = _float64(self.inside)[..., None] / 2
        shares = np.clip(_float64(self.shares), 0.0, 1.0)
        return np.max(betainc(inside, _float64(self.references) / 2, shares), axis=-1)


def direction(
    latent: Float[Array, "m"], key: Float[Array, "m"], axis: int = -1
) -> Direction:
    """Compare directions.

    Args:
        latent: coordinates of the latent.
        key: coordinates of the key.
        axis: of the coordinates.

    Returns:
        The statistic; a latent of zeros has no direction, and counts as opposite.
    """
    norm = jnp.linalg.norm(latent, axis=axis, keepdims=True)
    unit = latent / jnp.where(norm > 0, norm, 1)
    unit_key = key / jnp.linalg.norm(key, axis=axis, keepdims=True)
    chord = jnp.sum((unit - unit_key) ** 2, axis) / 4
    chord = jnp.where(jnp.squeeze(norm, axis) == 0, 1.0, chord)
    return Direction(chord, jnp.asarray(latent.shape[axis], chord.dtype))


def _float64(values: Array) -> np.ndarray:
    return np.asarray(values, np.float64)
