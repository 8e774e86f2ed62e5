r"""Videos: networks for one image, applied to many, a few frames at a time."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class framewise:  # noqa: N801
    """A network for one image, for the frames of a video.

    Chunks are evaluated one after the other, so that memory does not grow with the
    number of frames; also backwards, where each chunk is evaluated anew. Inverted in
    this way the video is one image: its frames stop, and are judged, together.

    Args:
        network: callable pytree on one frame.
        chunk: frames at a time (static).

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
        """Frames in, frames out."""
        network = self.network
        return jax.lax.map(
            jax.checkpoint(lambda frame: network(frame)),
            frames,
            batch_size=self.chunk,
        )
