r"""What decoder inversion solves: the latent whose decoding is a given image.

With the encoder E, the decoder D and the image x, a latent z is judged by its *misfit*

    r(z) = D(z) - x,

pixel by pixel. An image has limits (0 and 1) and is usually a clipped decoding: a pixel
at a limit says of D(z) only that it was there or beyond. So a pixel of x that is white
counts as met by anything whiter, and what is encoded again, in the methods that need no
gradient, is the clipped decoding, as x itself was.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Limits = tuple[float, float] | None

#: What rounding to 8 bits does to the range 0 to 1, root mean square.
QUANTISATION = 1 / 255 / 12**0.5


@dataclasses.dataclass(frozen=True)
class Problem:
    """One image and the autoencoder it is inverted with; lives inside of a program.

    Attributes:
        encode: image to latent.
        decode: latent to image, not clipped.
        image: x.
        latent: E(x).
        limits: least and greatest value of a pixel; None if there are none.
        half_precision: whether the networks compute in 16 bits.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    image: Float[Array, "*image"]
    latent: Float[Array, "*latent"]
    limits: Limits
    half_precision: bool

    def decoded(self, z: Float[Array, "*latent"]) -> Float[Array, "*image"]:
        """D(z), in the image's precision whatever the network's is."""
        return self.decode(z).astype(self.image.dtype)

    def encoded(self, image: Float[Array, "*image"]) -> Float[Array, "*latent"]:
        """E of an image, in the latent's precision."""
        return self.encode(image).astype(self.latent.dtype)

    def misfit(self, decoded: Float[Array, "*image"]) -> Float[Array, "*image"]:
        """D(z) - x, zero where x is at a limit and D(z) beyond."""
        return jnp.where(self.met(decoded), 0, decoded - self.image)

    def met(self, decoded: Float[Array, "*image"]) -> Array:
        """Where x is at a limit and D(z) there or beyond."""
        if self.limits is None:
            return jnp.zeros(decoded.shape, bool)
        low, high = self.limits
        return ((self.image <= low) & (decoded <= low)) | (
            (self.image >= high) & (decoded >= high)
        )

    def tolerance(self, given: float | None) -> Array:
        """The misfit up to which an image counts as reached, in units of the image.

        Args:
            given: as it was asked for; None for 1.2 times what 8 bits leave of the
                range between the limits, or without limits of the largest magnitude.
        """
        if given is not None:
            return jnp.asarray(given, self.image.dtype)
        if self.limits is None:
            reach = jnp.max(jnp.abs(self.image), initial=0)
        else:
            reach = jnp.asarray(self.limits[1] - self.limits[0], self.image.dtype)
        return 1.2 * QUANTISATION * reach

    def difference(self, decoded: Float[Array, "*image"]) -> Float[Array, "*latent"]:
        """E(D(z)) - E(x), of the clipped decoding."""
        clipped = decoded if self.limits is None else jnp.clip(decoded, *self.limits)
        return self.encoded(clipped) - self.latent


@dataclasses.dataclass(frozen=True)
class Count:
    """What one iteration evaluates; exact.

    Attributes:
        decodes: evaluations of D.
        encodes: evaluations of E.
        products: products of a vector with the Jacobian of D or its transpose.
    """

    decodes: int = 1
    encodes: int = 0
    products: int = 0

    def times(self, iterations: Int[Array, ""]) -> Int[Array, "3"]:
        """The three numbers for so many iterations."""
        return iterations * jnp.array([self.decodes, self.encodes, self.products])


#: Anything that a method remembers from one iterate to the next.
Memory = Any
