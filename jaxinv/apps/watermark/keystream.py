"""The keystream of ChaCha20, from which secrets are expanded."""

import secrets

import numpy as np
from jaxtyping import UInt8

#: Bytes of a secret: the cipher's key and its nonce.
SECRET_BYTES = 48


def read_secret(secret: bytes | None) -> bytes:
    """Return a secret, drawn by the operating system's generator if it is None.

    Raises:
        ValueError: For a secret of another length than 48 bytes.
    """
    secret = secrets.token_bytes(SECRET_BYTES) if secret is None else secret
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of 48 bytes, got {len(secret)}")
    return secret


def keystream(secret: bytes, length: int) -> UInt8[np.ndarray, "n"]:
    """Return the first bytes of the stream.

    Args:
        secret: The key (32 bytes), the block counter and the nonce (16).
        length: Number of bytes.

    References:
        RFC 8439, Section 2.4.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    cipher = Cipher(ChaCha20(secret[:32], secret[32:]), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(length)), np.uint8)


def keystream_bits(secret: bytes, length: int) -> UInt8[np.ndarray, "n"]:
    """Return the first bits of the stream, as zeros and ones."""
    return np.unpackbits(keystream(secret, -(-length // 8)))[:length]
