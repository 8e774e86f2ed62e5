"""Watermark detection over a data set: every noise is scored with every key.

A test at rate r calls about a fraction r of the unmarked images marked, for example ten
of 10,000 images at 1e-3, and this for each key. The summary states the expected number
of false alarms for each key.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.apps import watermark
from jaxinv.apps.watermark import Key
from jaxinv.apps.watermark.verdict import Rate
from jaxinv.checks import checked

#: Name of the test that determines verdicts.
TEST = "random keys, plausible noise"


@dataclasses.dataclass(frozen=True)
class Detector:
    """Keys to look for; from :func:`read_detector`.

    Attributes:
        names: Names of the keys in the results.
        keys: The keys.
        digests: SHA-256 of their files.
        rate: Fraction of unmarked images, with white noise, that may be called marked.
        compared: Whether the closest key is reported, which needs several keys
            of rings of one kind.
    """

    names: tuple[str, ...]
    keys: tuple[Key, ...]
    digests: tuple[str, ...]
    rate: float
    compared: bool

    def settings(self) -> dict[str, Any]:
        """Return the settings that affect results."""
        # A job that was started with another test must not resume with this one.
        return {"keys": list(self.digests), "rate": self.rate, "test": TEST}

    def verdict(self, noise: Float[np.ndarray, "h w c"]) -> dict[str, Any]:
        """Return the verdicts of all keys on a noise.

        Args:
            noise: Noise recovered by inversion.

        Returns:
            ``watermarks``, an object for each key, and ``nearest``, the name of the
            closest key, if keys can be compared.
        """
        found = [
            {"key": name, **verdict(key, jnp.asarray(noise), self.rate)}
            for name, key in zip(self.names, self.keys, strict=True)
        ]
        record: dict[str, Any] = {"watermarks": found}
        if self.compared:
            record["nearest"] = min(found, key=lambda each: each["distance"])["key"]
        return record


class Tally:
    """Counter of verdicts.

    Args:
        detector: The detector of the verdicts.
    """

    def __init__(self, detector: Detector):
        self._detector = detector
        self._images = 0
        self._marked = 0
        self._detected: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()
        self._nearest: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        """Count the record of an image; failed images have no verdict."""
        if "watermarks" not in record:
            return
        hits = [found["key"] for found in record["watermarks"] if found["detected"]]
        doubtful = [
            found["key"]
            for found in record["watermarks"]
            if found["verdict"] == "cannot judge"
        ]
        self._images += 1
        self._marked += bool(hits)
        self._detected.update(hits)
        self._doubtful.update(doubtful)
        # Unmarked images also have a closest key.
        if hits and "nearest" in record:
            self._nearest[record["nearest"]] += 1

    def summary(self) -> dict[str, Any]:
        """Return the counts by key, and the expected number of false alarms."""
        names, rate = self._detector.names, self._detector.rate
        result = {
            "images": self._images,
            "marked": self._marked,
            "rate": rate,
            "expected_false_alarms_per_key": rate * self._images,
            "expected_false_alarms": rate * self._images * len(names),
            "detected": {name: self._detected[name] for name in names},
            "cannot_judge": {name: self._doubtful[name] for name in names},
        }
        if self._detector.compared:
            result["nearest_of_marked"] = {name: self._nearest[name] for name in names}
        return result


@checked
def read_detector(
    paths: Sequence[Path], rate: Rate, shape: tuple[int, int, int]
) -> Detector:
    """Read the keys to look for.

    Args:
        paths: Key files; see :func:`jaxinv.apps.watermark.read_key`.
        rate: Fraction of unmarked images that may be called marked, between 0 and 1.
        shape: Shape of a noise.

    Returns:
        The detector.

    Raises:
        FileNotFoundError: If a key file does not exist.
        ValueError: If a file is not a key, is for noise of another shape, or is given
            twice; for an invalid rate.
    """
    keys = tuple(watermark.read_key(path) for path in paths)
    names = tuple(str(path) for path in paths)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    for number, (name, key) in enumerate(zip(names, keys, strict=True)):
        if key.shape != shape:
            raise ValueError(
                f"{name} is a key for noise of shape {key.shape}, but this model's has "
                f"shape {shape}"
            )
        if digests[number] in digests[:number]:
            raise ValueError(f"{name} holds a key that was given twice")
    compared = len(keys) > 1 and watermark.comparable(keys)
    return Detector(names, keys, digests, rate, compared)


def verdict(key: Key, noise: Float[Array, "h w c"], rate: float) -> dict[str, Any]:
    """Return the verdict of a key on a noise as values for JSON.

    Args:
        key: The key.
        noise: Noise recovered by inversion.
        rate: Fraction of unmarked images that may be called marked.

    Returns:
        ``verdict`` ("found", "not found" or "cannot judge"), ``detected`` (true, false,
        null), ``reason`` why it cannot be judged or null, ``p_value``; for rings, the
        ``distance``; for a message, its number of ``bits`` and the ``message`` as read,
        also as ``message_hex`` and, if possible, as ``message_text``; for Gaussian
        Shading, the ``matches`` and their fraction ``accuracy``; for PRC, the fraction
        ``satisfied`` of its parity checks.
    """
    score = _score(key, noise)
    found = watermark.judge(score, rate)
    return {
        "verdict": found.answer,
        "detected": {"found": True, "not found": False}.get(found.answer),
        "reason": found.reason,
        "p_value": found.p_value,
        **watermark.scheme_of(key).report(key, score, noise),
    }


@jax.jit
def _score(key: Key, noise: jax.Array) -> Any:
    return key.score(noise)
