r"""Tree-Ring: a key in the Fourier plane of one channel of the noise.

The low frequencies of the noise, a disc around zero, are replaced by the key's. To
rotate or rescale an image moves them little, and blurring leaves most of them.

White noise has independent Gaussian Fourier coefficients, but not all of them: those of
a real array at u and -u are conjugate. A disc is therefore written in *coordinates*
that are independent: of one of each pair, sqrt 2 times the real and the imaginary part,
and the coefficient at zero, which is real. Of unit noise all of them have mean 0 and
variance 1.

Detection compares the coordinates c of a latent with those of the key, k, and asks how
often a *fresh key* would have come as near to this latent. That is exact for any latent
that does not depend on the key, white or not (:mod:`jaxinv.apps.watermark.laws`); the
published test takes the key as fixed and the latent as white noise, and finds every key
in a latent whose band is empty and whose rest is loud.

A ring key is ``radius`` numbers: it can be told from other keys only as far as these
few numbers are recovered. A key of zeros has no secret at all: what is tested is
whether the disc is quieter than the frequencies around it, and than the same disc in
the other channels. Everybody can make a latent of that kind. And nothing binds a mark
to what a picture shows: who has a marked picture and the model can copy the disc of its
noise into other noise, and pictures made of that carry the mark, whatever the pattern.

The disc is centred on the frequency zero, as in the paper. The authors' mask is off by
one row (31 for 32 of 64), so that it is not its own mirror image and no real noise can
hold the key: marked noise is 17 to 21 away from its own key, here 1e-5. Their marks
are found nevertheless.

References:
    Wen et al. 2023, "Tree-Ring Watermarks", arXiv:2305.20030, Sections 3.2 to 3.4.
"""

import dataclasses
from typing import Literal, NamedTuple, get_args

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

Pattern = Literal["ring", "random", "zeros"]


class TreeRingScore(NamedTuple):
    """How near a noise is to a key.

    Attributes:
        distance: shape (). Mean modulus of the difference of the Fourier coefficients
            in the disc: the smaller, the nearer.
        law: the statistic, with its law.
        figures: what the noise looks like apart from the mark.
    """

    distance: Float[Array, ""]
    law: Direction | Rings | Share
    figures: NoiseFigures


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TreeRingKey:
    """A key for noise of one shape; from :func:`tree_ring_key`. A pytree.

    Attributes:
        values: shape (m,). The coordinates of the disc.
        shape: (h, w, c) of the noise (static).
        radius: of the disc, in frequencies (static).
        channel: which one is marked (static).
        pattern: how the values were drawn (static).
    """

    values: Float[Array, "m"] = dataclasses.field(repr=False)
    shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})
    radius: int = dataclasses.field(metadata={"static": True})
    channel: int = dataclasses.field(metadata={"static": True})
    pattern: Pattern = dataclasses.field(metadata={"static": True})

    def embed(self, noise: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """The noise with the key in it, otherwise as it was.

        Args:
            noise: unit noise of the key's shape.

        Returns:
            The marked noise.

        Raises:
            ValueError: for another shape.
        """
        noise = check_noise(noise, self.shape)
        plane = noise[..., self.channel]
        change = self.values - self.coordinates(noise)
        change = disc_plane(change, self.shape, self.radius)
        return noise.at[..., self.channel].set(plane + change.astype(noise.dtype))

    def coordinates(self, noise: Float[Array, "h w c"]) -> Float[Array, "m"]:
        """Those of the disc, of a noise."""
        spectrum = self._spectrum(noise)
        rows, columns = disc_pairs(self.shape, self.radius)
        pairs = spectrum[rows, columns] * 2**0.5
        zero = spectrum[0, 0].real[None]
        return jnp.concatenate([zero, pairs.real, pairs.imag])

    def score(self, noise: Float[Array, "h w c"]) -> TreeRingScore:
        """Compares a noise with the key.

        Args:
            noise: found by inversion, of the key's shape.

        Returns:
            Distance and statistic; see :func:`p_value`.

        Raises:
            ValueError: for another shape.
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
        """Of the means over the rings, in which keys are normal of variance 1/2."""
        weights = ring_weights(self.shape, self.radius)
        latent, key = weights @ found, weights @ self.values
        # Any function of the latent may take its place. No key has so much energy, and
        # the law is slow where the noncentrality is large.
        limit = (8 * self.radius) ** 0.5
        norm = jnp.linalg.norm(latent)
        latent = latent * jnp.minimum(1, limit / jnp.maximum(norm, limit / 2))
        return Distance(
            2 * jnp.sum((latent - key) ** 2),
            2 * jnp.sum(latent**2),
            jnp.asarray(self.radius, found.dtype),
        )

    def _circles(self, found: Array, power: Array) -> Array:
        """Mean square of the means over circles, over that of the rest of the disc."""
        basis = circle_basis(self.shape, self.radius)
        inside = jnp.sum((basis @ found) ** 2)
        beside = jnp.sum((found - basis.T @ (basis @ found)) ** 2)
        beside = beside / (basis.shape[1] - basis.shape[0])
        # No picture's noise is found to less than -30 dB of its power; and what is not
        # quiet needs no second look.
        ratio = inside / basis.shape[0] / jnp.maximum(beside, 1e-3 * power)
        return jnp.where(jnp.mean(found**2) < power / 2, ratio, 1)

    def _share_law(self, noise: Array) -> Share:
        """Of the disc against the ring of two frequencies around it, and others."""
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
        # Nothing anywhere is no mark.
        shares = jnp.where(total > 0, inside / jnp.where(total > 0, total, 1), 1)
        return Share(
            shares,
            jnp.asarray(disc.sum(), shares.dtype),
            jnp.asarray([count for _, count in references], shares.dtype),
        )

    def _spectrum(self, noise: Array) -> Array:
        plane = check_noise(noise, self.shape)[..., self.channel]
        return jnp.fft.fft2(plane.astype(self.values.dtype), norm="ortho")


def tree_ring_key(
    key: PRNGKeyArray,
    shape: tuple[int, int, int],
    *,
    radius: int = 10,
    channel: int = -1,
    pattern: Pattern = "ring",
) -> TreeRingKey:
    """Draws a key.

    Args:
        key: random key; whoever has it has the watermark's.
        shape: (h, w, c) of the noise.
        radius: of the disc. Published is 10 for latents of 64x64: the same share of
            smaller ones is ``ceil(10 / 64 * min(h, w))``.
        channel: the channel that is marked; negative counts from the last.
        pattern: ``"ring"``: one real value for each ring around zero, which rotations
            keep, but of which two with a small radius are alike;
            ``"random"``: every coefficient by itself; ``"zeros"``: all 0, a mark
            without a secret.

    Returns:
        The key.

    Raises:
        ValueError: for a radius that does not fit, or an unknown channel or pattern.

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
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"expected the shape (h, w, c) of a noise, got {shape}")
    shape = (int(shape[0]), int(shape[1]), int(shape[2]))
    if not 1 <= radius < min(shape[:2]) / 2:
        raise ValueError(
            f"the radius must be at least 1 and less than half of {min(shape[:2])}, "
            f"got {radius}"
        )
    if not -shape[2] <= channel < shape[2]:
        raise ValueError(f"there are {shape[2]} channels, got channel {channel}")
    if pattern not in get_args(Pattern):
        raise ValueError(
            f"unknown pattern {pattern!r}; expected one of "
            f"{', '.join(get_args(Pattern))}"
        )
    count = len(disc_pairs(shape, radius)[0])
    if pattern == "zeros":
        values = jnp.zeros(1 + 2 * count)
    elif pattern == "random":
        values = jax.random.normal(key, (1 + 2 * count,))
    else:
        # The real part of a Fourier coefficient of unit noise has the variance 1/2.
        drawn = jax.random.normal(key, (radius,)) / 2**0.5
        real = 2**0.5 * drawn[ring_numbers(shape, radius) - 1]
        values = jnp.concatenate([drawn[:1], real, jnp.zeros(count)])
    return TreeRingKey(values, shape, int(radius), channel % shape[2], pattern)


def check_noise(noise: Array, shape: tuple[int, int, int]) -> Array:
    """The noise as an array; ValueError unless it has the key's shape."""
    if jnp.shape(noise) != shape:
        raise ValueError(
            f"this key is for noise of shape {shape}, got {jnp.shape(noise)}"
            + (" (use jax.vmap for a batch)" if jnp.ndim(noise) > 3 else "")
        )
    return jnp.asarray(noise)
