"""Checks of a transformer's latent and condition, before it is traced further."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp


def check_latent(shape: Sequence[int], patch: Sequence[int], channels: int) -> None:
    """Raise ValueError unless a latent of a shape can be cut into patches.

    Args:
        shape: Shape of the latent.
        patch: Size of a patch along each axis but the channels'.
        channels: Number of channels.
    """
    *sizes, found = (0, *shape)[-len(patch) - 1 :]
    if (
        len(shape) == len(patch) + 1
        and found == channels
        and all(n > 0 and n % size == 0 for n, size in zip(sizes, patch, strict=True))
    ):
        return
    axes = ", ".join("fhw"[-len(patch) :])
    multiples = ", ".join(map(str, patch))
    raise ValueError(
        f"expected one latent of shape ({axes}, {channels}) with ({axes}) multiples of "
        f"({multiples}), the size of a patch, got {tuple(shape)}"
    )


def check_condition(
    condition: Any, kind: type, **shapes: tuple[str | int, ...]
) -> None:
    """Raise ValueError unless a condition has the fields that a network takes.

    Args:
        condition: The condition.
        kind: Its class, a ``NamedTuple``.
        **shapes: Shapes of its fields. A name stands for a length that is the same in
            all of them.
    """
    if not isinstance(condition, kind):
        fields = ", ".join(shapes)
        raise ValueError(
            f"the condition must be a {kind.__name__} with {fields}, got "
            f"{type(condition).__name__}"
        )
    lengths: dict[str | int, int] = {}
    for name, wanted in shapes.items():
        value = getattr(condition, name)
        found = None if value is None else jnp.shape(value)
        expected = tuple(lengths.get(each, each) for each in wanted)
        if (
            found is None
            or len(found) != len(expected)
            or any(
                isinstance(n, int) and n != size
                for n, size in zip(expected, found, strict=True)
            )
        ):
            shown = str(expected).replace("'", "")
            raise ValueError(
                f"the condition's {name} must have shape {shown}, got {found}"
            )
        lengths |= zip(wanted, found, strict=True)
