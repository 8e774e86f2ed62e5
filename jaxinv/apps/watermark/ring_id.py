r"""RingID: rings of few values in some channels, and noise in another.

RingID improves on Tree-Ring (:mod:`jaxinv.apps.watermark.tree_ring`) in four ways.

* Every ring between two radii carries one of a few *levels*, -1 and +1 by default, so
  that keys differ as much as they can, and many keys can be told apart.
* The mark is *imprinted without loss*: only the real part of a Fourier coefficient is
  set, which is the part of the pattern that real noise can hold.
* It is *shifted* by half of the noise. The transform of rings is concentrated at one
  point, which is at the center then, where rotations and crops keep it.
* Another channel, of a *heterogeneous* mark, carries white noise in the same
  frequencies: it is lost by rotations but tells keys apart in everything else.

The real and the imaginary part of a Fourier coefficient of unit noise have variance
1/2. A coefficient of a ring is real and ±1, so that marked noise has the power of
any other. But its coefficients are not Gaussian: the mark is not hidden from who looks
for rings.

The p-value is the probability that a *fresh key* comes as close to a latent. The levels
are independent coin tosses, and all keys are counted; the direction of the noise
channel has the law of random Tree-Ring keys (:mod:`jaxinv.apps.watermark.laws`). Both
are exact for any latent that does not depend on the key, and independent, so that
``1 - (1 - p)**2`` of the smaller one is exact, too. The rings alone show no p-value
below ``2 / levels**rings``.

Departures from the published code. Its two channels are compared by the smaller mean
distance (``channel_min``), against a threshold from unmarked images; here both get
p-values. Its masks are digital circles that are made by rotating a row of numbers; here
a ring holds the frequencies whose modulus rounds up to its number. Where the published
code writes a value into real and imaginary part and then drops the imaginary part of
the noise, here only the real part is written, which is the same.

References:
    Ci et al. 2024, "RingID", arXiv:2404.14055, Section 4; the authors' code,
    github.com/showlab/RingID (radius 14, cutoff 3, two values of one standard
    deviation, rings in channel 3, noise in channel 0).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxinv.apps.watermark.disc import disc_pairs, disc_plane, ring_numbers
from jaxinv.apps.watermark.laws import Levels, Pair, direction
from jaxinv.apps.watermark.plausibility import NoiseFigures, noise_figures
from jaxinv.apps.watermark.tree_ring import check_noise
from jaxinv.checks import AtLeastOne, Length, Range, checked

_MAX_BITS = 40  # all keys are counted, half by half


class RingIDScore(NamedTuple):
    """Closeness of a noise to a key.

    Attributes:
        distance: The smaller of two mean moduli of the difference of the Fourier
            coefficients, in the channels of rings and in that of noise, shape ().
        law: The statistic, with its distribution.
        figures: Statistics of the noise. They include the marked frequencies, which
            have the power of noise.
    """

    distance: Float[Array, ""]
    law: Pair
    figures: NoiseFigures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RingIDKey:
    """A key for noise of one shape; from :func:`ring_id_key`. A pytree.

    Attributes:
        rings: Index of each ring's level, by channel, from the inside, shape (k, r).
        values: Coordinates of the channel of noise, sqrt 2 times the real and then the
            imaginary parts of one coefficient of each pair, shape (m,).
        shape: (h, w, c) of the noise (static).
        radius: Radius of the outermost ring, in frequencies (static).
        cutoff: Number of rings around zero that are not marked (static).
        levels: Number of values of a ring (static).
        channels: The channels of rings (static).
        noise_channel: The channel of noise (static).
    """

    rings: Int[Array, "k r"] = dataclasses.field(repr=False)
    values: Float[Array, "m"] = dataclasses.field(repr=False)
    shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    radius: int = dataclasses.field(metadata={"static": True})
    cutoff: int = dataclasses.field(metadata={"static": True})
    levels: int = dataclasses.field(metadata={"static": True})
    channels: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    noise_channel: int = dataclasses.field(metadata={"static": True})

    def embed(self, noise: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the noise with the rings and the noise of the key.

        Args:
            noise: Unit noise of the key's shape.

        Returns:
            The marked noise.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        for place, channel in enumerate((*self.channels, self.noise_channel)):
            change = self._wanted()[place] - self._coordinates(noise, channel)
            plane = self._shifted(self._plane(change), channel, 1)
            noise = noise.at[..., channel].add(plane.astype(noise.dtype))
        return noise

    def score(self, noise: Float[Array, "h w c"]) -> RingIDScore:
        """Compare a noise with the key.

        Args:
            noise: Noise of the key's shape, recovered by inversion.

        Returns:
            Distance and statistics; see :func:`p_value`.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        channels = (*self.channels, self.noise_channel)
        found = jnp.stack([self._coordinates(noise, channel) for channel in channels])
        difference = (found - self._wanted()).reshape(len(channels), 2, -1)
        moduli = jnp.sqrt(jnp.sum(difference**2, 1) / 2)
        near = jnp.minimum(jnp.mean(moduli[:-1]), jnp.mean(moduli[-1]))
        law = Pair(self._levels(found[:-1]), direction(found[-1], self.values))
        return RingIDScore(near, law, noise_figures(noise))

    def _levels(self, found: Array) -> Levels:
        """Compare the mean of each ring with each level."""
        real = found.reshape(len(found), 2, -1)[:, 0] / 2**0.5
        members = self._members()
        counts = members.sum(1)
        means = real @ members.T / counts
        off = means[..., None] - _level_values(self.levels)
        terms = counts[:, None] * off**2
        return Levels(terms.reshape(-1, self.levels), self.rings.reshape(-1))

    def _wanted(self) -> Array:
        """Return the coordinates of the mark by channel, noise last."""
        members = jnp.asarray(self._members())
        real = 2**0.5 * _level_values(self.levels)[self.rings] @ members
        rings = jnp.concatenate([real, jnp.zeros_like(real)], axis=1)
        return jnp.concatenate([rings, self.values[None]])

    def _coordinates(self, noise: Array, channel: int) -> Array:
        plane = self._shifted(noise[..., channel], channel, -1)
        spectrum = jnp.fft.fft2(plane.astype(self.values.dtype), norm="ortho")
        rows, columns = disc_pairs(self.shape, self.radius)
        marked = ring_numbers(self.shape, self.radius) > self.cutoff
        pairs = spectrum[rows[marked], columns[marked]] * 2**0.5
        return jnp.concatenate([pairs.real, pairs.imag])

    def _plane(self, change: Array) -> Array:
        """Return the real array with these coordinates and zeros elsewhere."""
        marked = np.flatnonzero(ring_numbers(self.shape, self.radius) > self.cutoff)
        count = len(ring_numbers(self.shape, self.radius))
        whole = jnp.zeros(1 + 2 * count, change.dtype)
        places = np.concatenate([1 + marked, 1 + count + marked])
        return disc_plane(whole.at[places].set(change), self.shape, self.radius)

    def _shifted(self, plane: Array, channel: int, sign: int) -> Array:
        """Return a plane, of rings shifted by half of its size."""
        if channel == self.noise_channel:
            return plane
        return jnp.roll(plane, [sign * (n // 2) for n in plane.shape], (0, 1))

    def _members(self) -> np.ndarray:
        """Return which pairs each ring holds, shape (r, m / 2)."""
        ring = ring_numbers(self.shape, self.radius)
        ring = ring[ring > self.cutoff]
        numbers = np.arange(self.cutoff + 1, self.radius + 1)
        return np.asarray(ring == numbers[:, None], np.float32)


@checked
def ring_id_key(
    key: PRNGKeyArray,
    shape: Annotated[Sequence[AtLeastOne], Length(3, 3)],
    *,
    radius: int = 14,
    cutoff: int = 3,
    levels: Annotated[int, Range(2, 64)] = 2,
    channels: Sequence[int] = (-1,),
    noise_channel: int = 0,
) -> RingIDKey:
    """Draw a key.

    Args:
        key: Random key, which must be kept as secret as the watermark's key.
        shape: (h, w, c) of the noise.
        radius: Radius of the outermost ring. The published code has 14 for latents of
            64x64.
        cutoff: Number of unmarked rings around zero; 3 in the published code.
        levels: Number of values of a ring, between -1 and 1.
        channels: The channels of rings; negative numbers count from the last. The
            published code has one. More channels give more keys to tell apart.
        noise_channel: The channel of noise.

    Returns:
        The key.

    Raises:
        ValueError: For radii that do not fit, unknown channels or one named twice, or
            more than 2**40 keys.

    Example:
        >>> import jax
        >>> from jaxinv.apps import watermark
        >>> shape = (32, 32, 4)
        >>> key = watermark.ring_id_key(jax.random.key(0), shape, radius=7, cutoff=1)
        >>> marked = key.embed(jax.random.normal(jax.random.key(1), shape))
        >>> bool(watermark.p_value(key.score(marked)) < 1e-6)
        True

    References:
        Ci et al. 2024, arXiv:2404.14055, Section 4.
    """
    height, width, depth = (int(size) for size in shape)
    if not 1 <= radius < min(height, width) / 2:
        raise ValueError(
            f"the radius must be at least 1 and less than half of "
            f"{min(height, width)}, got {radius}"
        )
    if not 0 <= cutoff < radius:
        raise ValueError(f"the cutoff must be 0 to {radius - 1}, got {cutoff}")
    named = [*channels, noise_channel]
    places = [channel % depth for channel in named]
    if any(not -depth <= channel < depth for channel in named):
        raise ValueError(f"there are {depth} channels, got channels {named}")
    if len(set(places)) < len(places) or len(places) < 2:
        raise ValueError(
            "expected one channel of rings or more, and another of noise, each named "
            f"once; got channels {list(channels)} and noise_channel {noise_channel}"
        )
    rings = (len(places) - 1, radius - cutoff)
    if math.prod(rings) * math.log2(levels) > _MAX_BITS:
        raise ValueError(
            f"expected at most 2**{_MAX_BITS} keys, got {levels} levels of "
            f"{math.prod(rings)} rings"
        )
    seeds = jax.random.split(key)
    drawn = jax.random.randint(seeds[0], rings, 0, levels)
    shape = (height, width, depth)
    count = int(np.sum(ring_numbers(shape, radius) > cutoff))
    values = jax.random.normal(seeds[1], (2 * count,))
    return RingIDKey(
        drawn, values, shape, radius, cutoff, levels, tuple(places[:-1]), places[-1]
    )


def _level_values(levels: int) -> Array:
    return jnp.linspace(-1.0, 1.0, levels)
