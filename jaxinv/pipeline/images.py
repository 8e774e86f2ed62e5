"""Between the images of a pipeline and the latents that its network sees."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import checked
from jaxinv.decoder_inversion import DecoderInversion, Method, invert_decoder
from jaxinv.diffusion.denoiser import (
    Denoiser,
)
from jaxinv.inversion import InversionResult, invert
from jaxinv.models import AutoencoderKLWan
from jaxinv.pipeline.latents import (
    Autoencoder,
    Image,
    check_image,
    check_latent,
    decode,
    encode,
)
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState


class ImageInversion(NamedTuple):
    """The noise of an image, with a certificate for each of the two inversions.

    Attributes:
        decoder: Inversion of the decoder, from image to latent.
        sampler: Inversion of the sampler, from latent to noise.
    """

    decoder: DecoderInversion
    sampler: InversionResult

    @property
    def noise(self) -> Float[Array, "*f h w c"]:
        """The noise."""
        return self.sampler.noise

    @property
    def state(self) -> Float[Array, "*f h w c"] | SamplerState:
        """Noise or state, for :meth:`Pipeline.generate` to make the image."""
        return self.sampler.state


class ImageMethods:
    """The methods of :class:`jaxinv.Pipeline` that take or return images."""

    network: Any
    vae: Autoencoder | None
    image_size: tuple[int, int]
    frames: int | None

    @property
    def factor(self) -> int:
        """Ratio of image height to latent height, and of the widths."""
        return 1 if self.vae is None else self.vae.config.downsampling_factor

    @property
    def latent_channels(self) -> int:
        """Number of channels of latents."""
        if self.vae is not None:
            return self.vae.config.latent_channels
        return self.network.config.in_channels

    @property
    def image_channels(self) -> int:
        """Number of channels of images."""
        return self.latent_channels if self.vae is None else 3

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape (h, w, c) of the latent of an image of ``image_size``.

        That of a video is (f, h, w, c), where f is ``frames``, or 1 + (``frames`` - 1)
        / 4 if the autoencoder also shortens videos (Wan).
        """
        return self.latent_shape_of(self.image_size)

    def latent_shape_of(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of the latent of an image or video of another size."""
        rows, columns = (each // self.factor for each in image_size)
        frames = () if self.frames is None else (self.frames,)
        if isinstance(self.vae, AutoencoderKLWan):
            frames = tuple(map(self.vae.config.latent_frames, frames))
        return *frames, rows, columns, self.latent_channels

    def _check_image(self, image: Any) -> None:
        """Raise ValueError unless an image, or a video, can be encoded."""
        check_image(image, self.factor, self.image_channels, self.frames)
        if isinstance(self.vae, AutoencoderKLWan):
            self.vae.config.check_frames(len(image))

    @checked
    def encode(self, image: Image) -> Float[Array, "*f h w c"]:
        """Encode an image as a latent of the diffusion model.

        The latent is the mean of the encoder's posterior, and so reproducible.

        Args:
            image: (h, w, 3), floats in [0, 1] or ``uint8``. Height and width must be
                multiples of ``factor``; the model was trained on ``image_size``.

        Returns:
            The latent (h / factor, w / factor, c), shifted and scaled.

        Raises:
            ValueError: If the image has another shape, dtype, range, or NaNs. Under
                ``jax.jit`` and ``jax.vmap`` only shape and dtype are known and checked.
        """
        self._check_image(image)
        return encode(self.vae, image)

    @checked
    def decode(self, latent: Float[Array, "*f h w c"]) -> Float[Array, "*f H W k"]:
        """Decode a latent to an image, clipped to [0, 1].

        Args:
            latent: A latent (h, w, c) from :meth:`encode` or sampling.

        Returns:
            The image (factor h, factor w, 3). Autoencoders overshoot black and white a
            little; :meth:`decode_unclipped` returns their output unchanged.

        Raises:
            ValueError: If the latent has another shape or dtype.
        """
        return jnp.clip(self.decode_unclipped(latent), 0, 1)

    @checked
    def decode_unclipped(
        self, latent: Float[Array, "*f h w c"]
    ) -> Float[Array, "*f H W k"]:
        """Decode a latent to an image without clipping, which is differentiable.

        Args:
            latent: A latent (h, w, c) from :meth:`encode` or sampling.

        Returns:
            The image (factor h, factor w, 3), mostly within [0, 1].

        Raises:
            ValueError: If the latent has another shape or dtype.
        """
        check_latent(latent, self.latent_channels, self.frames)
        return decode(self.vae, latent)

    @checked
    def invert_decoder(
        self, image: Image, method: str | Method = "anderson", **options: Any
    ) -> DecoderInversion:
        """Find a latent whose decoding matches an image.

        Args:
            image: The image; see :meth:`encode`.
            method: Name or value; see :func:`jaxinv.invert_decoder`.
            **options: Options of :func:`jaxinv.invert_decoder`.

        Returns:
            The latent with its certificate.

        Raises:
            ValueError: If :meth:`encode` or :func:`jaxinv.invert_decoder` raises it.
        """
        self._check_image(image)
        return invert_decoder(
            jax.tree_util.Partial(encode, self.vae),
            jax.tree_util.Partial(decode, self.vae),
            image,
            method,
            **options,
        )

    @checked
    def invert(
        self,
        image: Image,
        sampler: SamplerTable,
        denoise: Denoiser,
        *,
        decoder: str | Method = "anderson",
        **options: Any,
    ) -> ImageInversion:
        """Find the noise of an image: decoder inversion, then sampler inversion.

        Args:
            image: The image; see :meth:`encode`.
            sampler: The sampler that generated the image, or that shall reproduce it.
            denoise: The denoiser, from :meth:`denoiser`.
            decoder: Method of the decoder inversion; ``"encoder"`` for the encoder
                alone.
            **options: Options of :func:`jaxinv.invert`.

        Returns:
            The noise with both certificates.

        Raises:
            ValueError: If :meth:`invert_decoder` or :func:`jaxinv.invert` raises it.
        """
        latent = self.invert_decoder(image, decoder)
        return ImageInversion(
            latent, invert(sampler, denoise, latent.latent, **options)
        )

    @checked
    def generate(
        self,
        sampler: SamplerTable,
        denoise: Denoiser,
        noise: Float[Array, "*f h w c"] | SamplerState,
    ) -> Float[Array, "*f H W k"]:
        """Generate an image from noise, the reverse of :meth:`invert`.

        Args:
            sampler: The sampler.
            denoise: The denoiser, from :meth:`denoiser`.
            noise: Noise of ``latent_shape``, or ``state`` of an inversion.

        Returns:
            The image, clipped to [0, 1].

        Raises:
            ValueError: If :func:`jaxinv.sample` raises it.
        """
        return self.decode(sample(sampler, denoise, noise))
