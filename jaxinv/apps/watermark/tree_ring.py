r"""Tree-Ring: a key in the Fourier plane of one channel of the noise.

The low frequencies of the noise, a disc around zero, are replaced by the key's. To
rotate or rescale an image moves them little, and blurring leaves most of them.

White noise has independent Gaussian Fourier coefficients, but not all of them: those of
a real array at u and -u are conjugate. A disc is therefore written in *coordinates*
that are independent: of one of each pair, sqrt 2 times the real and the imaginary part,
and the coefficient at zero, which is real. Of unit noise all of them have mean 0 and
variance 1, so that

    |c - k|^2 / sigma^2,        c: coordinates of the noise, k: those of the key,

is, for white noise that was never marked, noncentral chi-squared with as many degrees
of freedom as there are coordinates and the noncentrality ``|k|^2 / sigma^2``; the
p-value is its distribution function there. (The paper counts the two of a pair twice,
which makes p-values too small.) sigma^2 is estimated from the frequencies outside of
the disc: from those inside, as published, it would depend on what is tested.

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
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Pattern = Literal["ring", "random", "zeros"]


class TreeRingScore(NamedTuple):
    """How near a noise is to a key.

    Attributes:
        distance: shape (). Mean modulus of the difference of the Fourier coefficients
            in the disc: the smaller, the nearer.
        statistic: shape (). ``|c - k|^2 / sigma^2``.
        noncentrality: shape (). ``|k|^2 / sigma^2``.
        dof: shape (). Degrees of freedom.
    """

    distance: Float[Array, ""]
    statistic: Float[Array, ""]
    noncentrality: Float[Array, ""]
    dof: Float[Array, ""]


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
        change = _plane(self.values - self.coordinates(noise), self.shape, self.radius)
        return noise.at[..., self.channel].set(plane + change.astype(noise.dtype))

    def coordinates(self, noise: Float[Array, "h w c"]) -> Float[Array, "m"]:
        """Those of the disc, of a noise."""
        spectrum = self._spectrum(noise)
        rows, columns = _pairs(self.shape, self.radius)
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
        difference = self.coordinates(noise) - self.values
        dof = len(self.values)
        spectrum = self._spectrum(noise)
        power = jnp.sum(jnp.abs(spectrum) ** 2)
        inside = jnp.sum(self.coordinates(noise) ** 2)
        variance = (power - inside) / (spectrum.size - dof)
        zero, pairs = jnp.abs(difference[0]), difference[1:].reshape(2, -1)
        moduli = jnp.sqrt(jnp.sum(pairs**2, 0) / 2)
        return TreeRingScore(
            distance=(zero + 2 * jnp.sum(moduli)) / dof,
            statistic=jnp.sum(difference**2) / variance,
            noncentrality=jnp.sum(self.values**2) / variance,
            dof=jnp.asarray(dof, self.values.dtype),
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
            keep, but of which two with a small radius are alike (see :func:`p_value`);
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
    rows, columns = _pairs(shape, radius)
    count = len(rows)
    if pattern == "zeros":
        values = jnp.zeros(1 + 2 * count)
    elif pattern == "random":
        values = jax.random.normal(key, (1 + 2 * count,))
    else:
        signed = _signed(rows, shape[0]), _signed(columns, shape[1])
        ring = np.maximum(np.ceil(np.hypot(*signed) - 1e-9).astype(int), 1)
        # The real part of a Fourier coefficient of unit noise has the variance 1/2.
        drawn = jax.random.normal(key, (radius,)) / 2**0.5
        real = 2**0.5 * drawn[ring - 1]
        values = jnp.concatenate([drawn[:1], real, jnp.zeros(count)])
    return TreeRingKey(values, shape, int(radius), channel % shape[2], pattern)


def p_value(score: TreeRingScore) -> Float[np.ndarray, "..."]:
    """How probable it is that white noise without the key comes as near to it.

    Computed on the host, in float64. Two things bend it: sigma is estimated, from some
    hundred coefficients of a latent of 16x16, so that one in a thousand is in truth
    1.4; and the noise found in an image that this model and sampler did not make, or
    found by an inexact inversion, is not white. Mostly it then has more energy in the
    disc than outside, and p is too large: marks are missed. With less energy in the
    disc it is too small. Measure it on images of your own before you rely on it.

    Noise with *another* key is not white. Of two ``"random"`` keys that makes no
    difference. Two ``"ring"`` keys, of as many values as the radius and zero imaginary
    parts, are so alike that for radius 3 every second pair has a p below 0.01: to tell
    such keys apart, compare distances (:func:`classify`).

    Args:
        score: of :meth:`TreeRingKey.score`; a batch of them, too.

    Returns:
        The p-value, uniform on [0, 1] for white noise.

    References:
        Wen et al. 2023, arXiv:2305.20030, Eq. 5.
    """
    from scipy.stats import ncx2

    statistic, noncentrality, dof = (
        np.asarray(part, np.float64)
        for part in (score.statistic, score.noncentrality, score.dof)
    )
    return ncx2.cdf(statistic, dof, np.maximum(noncentrality, 1e-12))


def check_noise(noise: Array, shape: tuple[int, int, int]) -> Array:
    """The noise as an array; ValueError unless it has the key's shape."""
    if jnp.shape(noise) != shape:
        raise ValueError(
            f"this key is for noise of shape {shape}, got {jnp.shape(noise)}"
            + (" (use jax.vmap for a batch)" if jnp.ndim(noise) > 3 else "")
        )
    return jnp.asarray(noise)


def _pairs(shape: tuple[int, int, int], radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of one coefficient of each conjugate pair in the disc, zero left out."""
    u, v = np.mgrid[-radius : radius + 1, 0 : radius + 1]
    chosen = (u**2 + v**2 <= radius**2) & ((v > 0) | (u > 0))
    return u[chosen] % shape[0], v[chosen] % shape[1]


def _signed(index: np.ndarray, size: int) -> np.ndarray:
    return np.where(index > size // 2, index - size, index)


def _plane(values: Array, shape: tuple[int, int, int], radius: int) -> Array:
    """The real array of these coordinates; its other coefficients are 0."""
    rows, columns = _pairs(shape, radius)
    count = len(rows)
    pairs = jax.lax.complex(values[1 : 1 + count], values[1 + count :]) / 2**0.5
    spectrum = jnp.zeros(shape[:2], pairs.dtype)
    spectrum = spectrum.at[0, 0].set(values[0])
    spectrum = spectrum.at[rows, columns].set(pairs)
    spectrum = spectrum.at[-rows % shape[0], -columns % shape[1]].set(pairs.conj())
    return jnp.fft.ifft2(spectrum, norm="ortho").real
