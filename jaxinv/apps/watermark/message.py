"""Messages of Gaussian Shading, written as bits, hexadecimal digits or text."""

import re

import numpy as np
from jaxtyping import Bool


def read_message(text: str, bits: int) -> Bool[np.ndarray, "k"]:
    """Return the bits of a message.

    Args:
        text: ``"bits:0110..."`` or ``"hex:6a61..."`` of the exact length; or any other
            text, optionally after ``"text:"``, which is encoded as UTF-8 and padded
            with zeros.
        bits: Number of bits of the message.

    Returns:
        The bits, the most significant bit of each byte first.

    Raises:
        ValueError: For an empty message, other digits, or a length that does not fit.

    >>> "".join(str(int(bit)) for bit in read_message("hex:5a", 8))
    '01011010'
    """
    kind, found, body = text.partition(":")
    if not found or kind not in ("bits", "hex", "text"):
        kind, body = "text", text
    if kind == "text":
        if not body or "\0" in body:
            raise ValueError("expected a message of at least one letter and no NUL")
        code = body.encode()
        if 8 * len(code) > bits:
            raise ValueError(
                f"this key's message has {bits} bits, {bits // 8} bytes of text; got "
                f"{len(code)} bytes"
            )
        written = np.unpackbits(np.frombuffer(code, np.uint8))
        return np.concatenate([written, np.zeros(bits - len(written))]).astype(bool)
    if kind == "bits":
        if not re.fullmatch("[01]+", body) or len(body) != bits:
            raise ValueError(
                f"expected 'bits:' and {bits} zeros and ones, got {body[:80]!r} "
                f"({len(body)} characters)"
            )
        return np.array([digit == "1" for digit in body])
    if not re.fullmatch("[0-9a-fA-F]+", body) or 4 * len(body) != bits:
        raise ValueError(
            f"expected 'hex:' and {bits / 4:g} hexadecimal digits, got {body[:80]!r} "
            f"({len(body)} characters)"
        )
    digits = [int(digit, 16) for digit in body]
    places = (3, 2, 1, 0)
    return np.array([digit >> place & 1 for digit in digits for place in places], bool)


def as_hex(bits: Bool[np.ndarray, "k"]) -> str | None:
    """Return bits as hexadecimal digits, or None unless there are 4 for each digit."""
    if len(bits) % 4:
        return None
    nibbles = np.asarray(bits, int).reshape(-1, 4) @ np.array([8, 4, 2, 1])
    return "".join(f"{nibble:x}" for nibble in nibbles)


def as_text(bits: Bool[np.ndarray, "k"]) -> str | None:
    """Return bits as text without zeros at the end, or None if it is not printable.

    >>> as_text(read_message("fox 7", 64)), as_text(np.ones(64, bool))
    ('fox 7', None)
    """
    whole = np.asarray(bits, bool)
    body, rest = np.split(whole, [len(whole) // 8 * 8])
    try:
        text = np.packbits(body).tobytes().rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() and not np.any(rest) else None
