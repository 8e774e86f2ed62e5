"""A scheme of watermarks: how its keys are drawn, kept in files, and reported."""

import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from jaxinv.apps.watermark.message import as_hex, as_text
from jaxinv.checks import Length, Range

Shape = tuple[int, int, int]
MAX_SIZE = 2**22  # limit on the numbers of a noise
Side = Annotated[int, Range(1, 2**16)]
Sides = tuple[Side, Side, Side]
Channel = Annotated[int, Range(-(2**16), 2**16)]
Radius = Annotated[int, Range(1, 2**15)]
Numbers = Annotated[tuple[float, ...], Length(1, MAX_SIZE)]
Bits = Annotated[tuple[Annotated[int, Range(0, 1)], ...], Length(1, MAX_SIZE)]
Secret = Annotated[str, Length(96, 96)]


class Scheme(NamedTuple):
    """A scheme of watermarks.

    Attributes:
        name: Its name in key files and on the command line.
        kind: The type of its keys.
        has_message: Whether its keys carry a message.
        fields: The fields of its key files, with their types.
        record: The values of these fields, of a key.
        read: The key with these fields.
        draw: A new key for noise of a shape, with secrets of the operating system's
            generator, from the options ``pattern`` (of tree-rings) and ``message``
            (text; see :func:`read_message`).
        report: What is told of a key and a noise beside the verdict, as values for
            JSON.
    """

    name: str
    kind: type
    has_message: bool
    fields: Mapping[str, Any]
    record: Callable[[Any], dict[str, Any]]
    read: Callable[[dict[str, Any]], Any]
    draw: Callable[[Shape, str, str | None], Any]
    report: Callable[[Any, Any, Array], dict[str, Any]]


def fresh_seed() -> PRNGKeyArray:
    """Return a random key, drawn by the operating system's generator."""
    drawn = np.frombuffer(secrets.token_bytes(8), np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(drawn), impl="threefry2x32")


def scaled_radius(published: int, shape: Shape) -> int:
    """Return a radius that is published for 64x64, as a share of a noise, rounded up.

    It is limited to what fits.
    """
    size = min(shape[:2])
    return max(1, min(-(-published * size // 64), (size - 1) // 2))


def finite_numbers(values: Any, count: int) -> np.ndarray:
    """Return numbers of a key file as an array, or raise ValueError."""
    with np.errstate(over="ignore"):
        found = np.asarray(values, np.float32)
    if found.shape != (count,) or not np.all(np.isfinite(found)):
        raise ValueError(f"expected {count} finite values")
    return found


def report_distance(key: Any, score: Any, noise: Array) -> dict[str, Any]:
    """Return what is told of keys without a message."""
    return {"distance": float(score.distance)}


def report_message(bits: np.ndarray | None) -> dict[str, Any]:
    """Return a message in all its forms; None for one that was not read."""
    if bits is None:
        return {"message": None, "message_hex": None, "message_text": None}
    return {
        "message": "".join(str(int(bit)) for bit in bits),
        "message_hex": as_hex(bits),
        "message_text": as_text(bits),
    }
