r"""Tree-Ring: a key in the Fourier plane of one channel of the noise.

The key replaces the low frequencies of the noise, in a disc around zero. Rotating or
rescaling an image moves them little, and blurring preserves most of them.

The Fourier coefficients of white noise are Gaussian and independent except that those
of a real array at u and -u are conjugate. A disc is therefore described by independent
*coordinates*: sqrt 2 times the real and the imaginary part of one coefficient of each
pair, and the coefficient at zero, which is real. For unit noise, all coordinates have
mean 0 and variance 1.

Detection compares the coordinates c of a latent with the coordinates k of the key. The
p-value is the probability that a *fresh key* comes as close to this latent. It is exact
for any latent that does not depend on the key, white or not
(:mod:`jaxinv.apps.watermark.laws`). The published test assumes a fixed key and a latent
of white noise, and finds every key in a latent with an empty band and a loud rest.

A ring key consists of ``radius`` numbers, and can be distinguished from other keys only
as well as these are recovered. A key of zeros has no secret: the test is whether the
disc is quieter than the frequencies around it and the same disc in the other channels.
Anybody can make such a latent. No mark is bound to the content of an image: anybody
with a marked image and the model can copy the disc of its noise into other noise, and
the images generated from it carry the mark, whatever the pattern.

The disc is centered at frequency zero, as in the paper. The authors' mask is off by one
row (31 for 32 of 64), so that it is not symmetric, and no real noise can contain the
key: marked noise has a distance of 17 to 21 to its own key (1e-5 here). Their marks are
found nevertheless.

References:
    Wen et al. 2023, "Tree-Ring Watermarks", arXiv:2305.20030, Sections 3.2 to 3.4.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.apps.watermark.disc import (
    circle_basis,
    disc_pairs,
    disc_plane,
    modulus,
    ring_numbers,
    ring_weights,
)
from jaxinv.apps.watermark.laws import Direction, Distance, Rings, Share, direction
from jaxinv.apps.watermark.plausibility import NoiseFigures, noise_figures
from jaxinv.checks import AtLeastOne, Length, checked

Pattern = Literal["ring", "random", "zeros"]


class TreeRingScore(NamedTuple):
    """Closeness of a noise to a key.

    Attributes:
        distance: Mean modulus of the difference of the Fourier coefficients in the
            disc, shape ().
        law: The statistic, with its distribution.
        figures: Statistics of the noise apart from the mark.
    """

    distance: Float[Array, ""]
    law: Direction | Rings | Share
    figures: NoiseFigures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TreeRingKey:
    """A key for noise of one shape; from :func:`tree_ring_key`. A pytree.

    Attributes:
        values: The coordinates of the disc, shape (m,).
        shape: (h, w, c) of the noise (static).
        radius: Radius of the disc, in frequencies (static).
        channel: The marked channel (static).
        pattern: The distribution of the values (static).
    """

    values: Float[Array, "m"] = dataclasses.field(repr=False)
    shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    radius: int = dataclasses.field(metadata={"static": True})
    channel: int = dataclasses.field(metadata={"static": True})
    pattern: Pattern = dataclasses.field(metadata={"static": True})

    def embed(self, noise: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the noise with its disc replaced by the key.

        Args:
            noise: Unit noise of the key's shape.

        Returns:
            The marked noise.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        plane = noise[..., self.channel]
        change = self.values - self.coordinates(noise)
        change = disc_plane(change, self.shape, self.radius)
        return noise.at[..., self.channel].set(plane + change.astype(noise.dtype))

    def coordinates(self, noise: Float[Array, "h w c"]) -> Float[Array, "m"]:
        """Return the coordinates of a noise in the disc."""
        spectrum = self._spectrum(noise)
        rows, columns = disc_pairs(self.shape, self.radius)
        pairs = spectrum[rows, columns] * 2**0.5
        zero = spectrum[0, 0].real[None]
        return jnp.concatenate([zero, pairs.real, pairs.imag])

    def score(self, noise: Float[Array, "h w c"]) -> TreeRingScore:
        """Compare a noise with the key.

        Args:
            noise: Noise of the key's shape, recovered by inversion.

        Returns:
            Distance and statistic; see :func:`p_value`.

        Raises:
            ValueError: For another shape.
        """
        noise = check_noise(noise, self.shape)
        found = self.coordinates(noise)
        difference = found - self.values
        zero, pairs = jnp.abs(difference[0]), difference[1:].reshape(2, -1)
        moduli = jnp.sqrt(jnp.sum(pairs**2, 0) / 2)
        law: Direction | Rings | Share
        if self.pattern == "random":
            law = direction(found, self.values)
        elif self.pattern == "ring":
            law = Rings(direction(found, self.values), self._ring_distance(found))
        else:
            law = self._share_law(noise)
        figures = noise_figures(
            noise.astype(self.values.dtype),
            modulus(self.shape) <= self.radius,
            self.channel,
            jnp.mean(self.values**2),
        )
        if self.pattern == "zeros":
            left = self._circles(found, figures.power[self.channel])
            figures = figures._replace(circles=left)
        return TreeRingScore((zero + 2 * jnp.sum(moduli)) / len(found), law, figures)

    def _ring_distance(self, found: Array) -> Distance:
        """Return the distance of means over rings, where keys have variance 1/2."""
        weights = ring_weights(self.shape, self.radius)
        latent, key = weights @ found, weights @ self.values
        # Any function of the latent is allowed here. No key has this much energy, and
        # the distribution is slow to compute for a large noncentrality.
        limit = (8 * self.radius) ** 0.5
        norm = jnp.linalg.norm(latent)
        latent = latent * jnp.minimum(1, limit / jnp.maximum(norm, limit / 2))
        return Distance(
            2 * jnp.sum((latent - key) ** 2),
            2 * jnp.sum(latent**2),
            jnp.asarray(self.radius, found.dtype),
        )

    def _circles(self, found: Array, power: Array) -> Array:
        """Return the mean square of the means over circles, relative to the rest."""
        basis = circle_basis(self.shape, self.radius)
        inside = jnp.sum((basis @ found) ** 2)
        beside = jnp.sum((found - basis.T @ (basis @ found)) ** 2)
        beside = beside / (basis.shape[1] - basis.shape[0])
        # No image's noise is recovered to less than -30 dB of its power, and a band
        # that is not quiet needs no further test.
        ratio = inside / basis.shape[0] / jnp.maximum(beside, 1e-3 * power)
        return jnp.where(jnp.mean(found**2) < power / 2, ratio, 1)

    def _share_law(self, noise: Array) -> Share:
        """Compare the disc with the surrounding ring and the other channels."""
        noise = noise.astype(self.values.dtype)
        power = jnp.abs(jnp.fft.fft2(noise, axes=(0, 1), norm="ortho")) ** 2
        disc = modulus(self.shape) <= self.radius
        around = ~disc & (modulus(self.shape) <= self.radius + 2)
        inside = jnp.sum(power[..., self.channel], where=disc)
        references = [(jnp.sum(power[..., self.channel], where=around), around.sum())]
        if others := self.shape[2] - 1:
            discs = jnp.sum(jnp.sum(power, (0, 1), where=disc[..., None])) - inside
            references.append((discs, others * disc.sum()))
        energy = jnp.stack([energy for energy, _ in references])
        total = inside + energy
        # A latent of zeros has no mark.
        shares = jnp.where(total > 0, inside / jnp.where(total > 0, total, 1), 1)
        return Share(
            shares,
            jnp.asarray(disc.sum(), shares.dtype),
            jnp.asarray([count for _, count in references], shares.dtype),
        )

    def _spectrum(self, noise: Array) -> Array:
        plane = check_noise(noise, self.shape)[..., self.channel]
        return jnp.fft.fft2(plane.astype(self.values.dtype), norm="ortho")


@checked
def tree_ring_key(
    key: PRNGKeyArray,
    shape: Annotated[Sequence[AtLeastOne], Length(3, 3)],
    *,
    radius: int = 10,
    channel: int = -1,
    pattern: Pattern = "ring",
) -> TreeRingKey:
    """Draw a key.

    Args:
        key: Random key, which must be kept as secret as the watermark's key.
        shape: (h, w, c) of the noise.
        radius: Radius of the disc. The paper uses 10 for latents of 64x64; the same
            share of smaller latents is ``ceil(10 / 64 * min(h, w))``.
        channel: The marked channel; negative numbers count from the last.
        pattern: ``"ring"``: one real value for each ring around zero, which is
            invariant under rotations, but keys of small radius resemble each other;
            ``"random"``: an independent value for every coefficient; ``"zeros"``: all
            0, a mark without a secret.

    Returns:
        The key.

    Raises:
        ValueError: For a radius that does not fit, or an unknown channel or pattern.

    Example:
        >>> import jax
        >>> from jaxinv.apps import watermark
        >>> key = watermark.tree_ring_key(jax.random.key(0), (16, 16, 4), radius=3)
        >>> marked = key.embed(jax.random.normal(jax.random.key(1), (16, 16, 4)))
        >>> bool(watermark.p_value(key.score(marked)) < 1e-6)
        True

    References:
        Wen et al. 2023, arXiv:2305.20030, Section 3.3 (Zeros, Rand, Rings).
    """
    height, width, channels = (int(size) for size in shape)
    shape = (height, width, channels)
    if not 1 <= radius < min(shape[:2]) / 2:
        raise ValueError(
            f"the radius must be at least 1 and less than half of {min(shape[:2])}, "
            f"got {radius}"
        )
    if not -shape[2] <= channel < shape[2]:
        raise ValueError(f"there are {shape[2]} channels, got channel {channel}")
    count = len(disc_pairs(shape, radius)[0])
    if pattern == "zeros":
        values = jnp.zeros(1 + 2 * count)
    elif pattern == "random":
        values = jax.random.normal(key, (1 + 2 * count,))
    else:
        # The real part of a Fourier coefficient of unit noise has variance 1/2.
        drawn = jax.random.normal(key, (radius,)) / 2**0.5
        real = 2**0.5 * drawn[ring_numbers(shape, radius) - 1]
        values = jnp.concatenate([drawn[:1], real, jnp.zeros(count)])
    return TreeRingKey(values, shape, radius, channel % shape[2], pattern)


def check_noise(noise: Array, shape: tuple[int, int, int]) -> Array:
    """Return the noise as an array, or raise ValueError for another shape."""
    if jnp.shape(noise) != shape:
        raise ValueError(
            f"this key is for noise of shape {shape}, got {jnp.shape(noise)}"
            + (" (use jax.vmap for a batch)" if jnp.ndim(noise) > 3 else "")
        )
    return jnp.asarray(noise)
