"""What a conditional UNet is given besides the sample and the time."""

from typing import NamedTuple

from jaxtyping import Array, Float


class UNetCondition(NamedTuple):
    """The inputs of a :class:`~jaxinv.models.UNet2DConditionModel` for one sample.

    A model that reads text vectors alone takes them as an array, too.

    Attributes:
        text: Text vectors that the blocks attend to, (l, d).
        pooled: Vector of the whole text, (p,), of models with the added condition
            ``text_time`` (SDXL).
        time_ids: Their image sizes and crop, (6,): original height and width, top and
            left of the crop, target height and width, in pixels.
        guidance: Guidance scale as an input, (), of models that were distilled with one
            (``time_cond_proj_dim``: LCM).
        residuals: Arrays that are added to the skips, in their order, and to the state
            after the mid block, as the last one (ControlNet).
    """

    text: Float[Array, "l d"]
    pooled: Float[Array, " p"] | None = None
    time_ids: Float[Array, " 6"] | None = None
    guidance: Float[Array, ""] | None = None
    residuals: tuple[Float[Array, "..."], ...] | None = None
