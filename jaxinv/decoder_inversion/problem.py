r"""The problem of decoder inversion: a latent whose decoding matches an image.

With the encoder E, the decoder D and the image x, the *misfit* of a latent z is

    r(z) = D(z) - x,

pixel by pixel. An image has limits (0 and 1) and is usually a clipped decoding: a pixel
at a limit only implies that D(z) was there or beyond. A white pixel of x is therefore
met by any larger value, and the methods without gradients encode the clipped decoding,
because x was clipped, too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Limits = tuple[float, float] | None

#: Root mean square error of rounding the range 0 to 1 to 8 bits.
QUANTIZATION = 1 / 255 / 12**0.5


@dataclasses.dataclass(frozen=True)
class Problem:
    """One image and the autoencoder that inverts it, inside a compiled program.

    Attributes:
        encode: Map from image to latent.
        decode: Map from latent to image, not clipped.
        image: x.
        latent: E(x).
        limits: Smallest and largest value of a pixel, or None.
        half_precision: Whether the networks compute in 16 bits.
    """

    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    image: Float[Array, "*image"]
    latent: Float[Array, "*latent"]
    limits: Limits
    half_precision: bool

    def decoded(self, z: Float[Array, "*latent"]) -> Float[Array, "*image"]:
        """Return D(z) in the precision of the image."""
        return self.decode(z).astype(self.image.dtype)

    def encoded(self, image: Float[Array, "*image"]) -> Float[Array, "*latent"]:
        """Return E of an image in the precision of the latent."""
        return self.encode(image).astype(self.latent.dtype)

    def misfit(self, decoded: Float[Array, "*image"]) -> Float[Array, "*image"]:
        """Return D(z) - x, with zeros where x is at a limit and D(z) beyond."""
        return jnp.where(self.met(decoded), 0, decoded - self.image)

    def met(self, decoded: Float[Array, "*image"]) -> Array:
        """Return a mask of pixels at which x is at a limit and D(z) there or beyond."""
        if self.limits is None:
            return jnp.zeros(decoded.shape, bool)
        low, high = self.limits
        return ((self.image <= low) & (decoded <= low)) | (
            (self.image >= high) & (decoded >= high)
        )

    def tolerance(self, given: float | None) -> Array:
        """Return the largest misfit of a converged result, in units of the image.

        Args:
            given: The user's tolerance; None for 1.2 times the 8-bit rounding error of
                the range between the limits, or without limits of the largest
                magnitude.
        """
        if given is not None:
            return jnp.asarray(given, self.image.dtype)
        if self.limits is None:
            reach = jnp.max(jnp.abs(self.image), initial=0)
        else:
            reach = jnp.asarray(self.limits[1] - self.limits[0], self.image.dtype)
        return 1.2 * QUANTIZATION * reach

    def difference(self, decoded: Float[Array, "*image"]) -> Float[Array, "*latent"]:
        """Return E(D(z)) - E(x) for the clipped decoding."""
        clipped = decoded if self.limits is None else jnp.clip(decoded, *self.limits)
        return self.encoded(clipped) - self.latent


@dataclasses.dataclass(frozen=True)
class Count:
    """Exact numbers of evaluations in one iteration.

    Attributes:
        decodes: Evaluations of D.
        encodes: Evaluations of E.
        products: Products of a vector with the Jacobian of D or its transpose.
    """

    decodes: int = 1
    encodes: int = 0
    products: int = 0

    def times(self, iterations: Int[Array, ""]) -> Int[Array, "3"]:
        """Return the three numbers for a number of iterations."""
        return iterations * jnp.array([self.decodes, self.encodes, self.products])


#: The memory of a method between iterates, any pytree.
Memory = Any
