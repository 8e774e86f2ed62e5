r"""Videos: networks for one image, applied to many frames in chunks."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class framewise:  # noqa: N801
    """A network for one image, applied to the frames of a video.

    Chunks are evaluated sequentially, so that memory does not grow with the number of
    frames; the reverse pass recomputes each chunk. Decoder inversion treats the video
    as one image: all frames stop together and share a certificate.

    Args:
        network: Callable pytree on one frame.
        chunk: Number of frames in a chunk (static).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxinv.decoder_inversion import framewise
        >>> framewise(lambda frame: frame[::2], chunk=2)(jnp.zeros((5, 8, 3))).shape
        (5, 4, 3)
    """

    network: Callable[[Array], Array]
    chunk: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self) -> None:
        """Check the chunk."""
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 frame, got {self.chunk}")

    def __call__(self, frames: Float[Array, "n *frame"]) -> Float[Array, "n *other"]:
        """Apply the network to every frame."""
        network = self.network
        return jax.lax.map(
            jax.checkpoint(lambda frame: network(frame)),
            frames,
            batch_size=self.chunk,
        )
