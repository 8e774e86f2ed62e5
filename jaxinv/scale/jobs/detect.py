"""Watermarks over a data set: every noise is scored with every key.

A test at the rate r calls about r of the images marked that are not. Over a data set
that is many: of 10,000 images at 1e-3, ten. The summary says how many to expect, for
each key; with several keys an image has as many chances.
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
from jaxtyping import Float

from jaxinv.apps import watermark
from jaxinv.apps.watermark.detection import Key

#: The test that verdicts are made by.
TEST = "random keys, plausible noise"


@dataclasses.dataclass(frozen=True)
class Detector:
    """Keys to look for; from :func:`read_detector`.

    Attributes:
        names: what the keys are called in the results.
        keys: the keys.
        digests: SHA-256 of their files.
        rate: share of unmarked images, of white noise, that may be called marked.
        compared: whether an image is nearest to one of them: there are several, all
            tree-ring keys of one kind.
    """

    names: tuple[str, ...]
    keys: tuple[Key, ...]
    digests: tuple[str, ...]
    rate: float
    compared: bool

    def settings(self) -> dict[str, Any]:
        """Return what of it changes results."""
        # A job that was begun with another test must not go on with this one.
        return {"keys": list(self.digests), "rate": self.rate, "test": TEST}

    def verdict(self, noise: Float[np.ndarray, "h w c"]) -> dict[str, Any]:
        """What the keys say of a noise.

        Args:
            noise: Found by inversion.

        Returns:
            ``watermarks``, an object for each key, and ``nearest``, the name of the
            nearest key, if they can be compared.
        """
        found = [
            {"key": name, **verdict(key, _score(key, jnp.asarray(noise)), self.rate)}
            for name, key in zip(self.names, self.keys, strict=True)
        ]
        record: dict[str, Any] = {"watermarks": found}
        if self.compared:
            record["nearest"] = min(found, key=lambda each: each["distance"])["key"]
        return record


class Tally:
    """Counts verdicts.

    Args:
        detector: Whose verdicts.
    """

    def __init__(self, detector: Detector):
        self._detector = detector
        self._images = 0
        self._marked = 0
        self._detected: Counter[str] = Counter()
        self._doubtful: Counter[str] = Counter()
        self._nearest: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts the record of an image; one that failed has no verdict."""
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
        # Of an image that carries none of them, one is nearest all the same.
        if hits and "nearest" in record:
            self._nearest[record["nearest"]] += 1

    def summary(self) -> dict[str, Any]:
        """The counts by key, and how many false alarms to expect."""
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


def read_detector(
    paths: Sequence[Path], rate: float, shape: tuple[int, int, int]
) -> Detector:
    """Reads the keys to look for.

    Args:
        paths: Key files; see :func:`jaxinv.apps.watermark.read_key`.
        rate: Share of unmarked images that may be called marked, between 0 and 1.
        shape: Of a noise.

    Returns:
        The detector.

    Raises:
        FileNotFoundError: If there is no such key.
        ValueError: If one is no key, is for other noise, or is given twice; for a rate
            that is none.
    """
    if not 0 < rate < 1:
        raise ValueError(f"the rate must lie between 0 and 1, got {rate}")
    keys = tuple(watermark.read_key(path) for path in paths)
    names = tuple(str(path) for path in paths)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    for number, (name, key) in enumerate(zip(names, keys, strict=True)):
        if key.shape != shape:
            raise ValueError(
                f"{name} is a key for noise of shape {key.shape}, but that of this "
                f"model has {shape}"
            )
        if digests[number] in digests[:number]:
            raise ValueError(f"{name} holds a key that was given before")
    kinds = {
        (key.radius, key.channel) if isinstance(key, watermark.TreeRingKey) else None
        for key in keys
    }
    compared = len(keys) > 1 and len(kinds) == 1 and None not in kinds
    return Detector(names, keys, digests, rate, compared)


def verdict(key: Key, score: Any, rate: float) -> dict[str, Any]:
    """Return what a score means.

    Args:
        key: The key.
        score: From its ``score``.
        rate: Share of unmarked images that may be called marked.

    Returns:
        ``verdict`` ("found", "not found" or "cannot judge"), ``detected`` (true, false,
        null), ``reason`` why it cannot be judged or null, ``p_value``; of a tree-ring,
        the ``distance``; of a message its number of ``bits``, the ``matches``, their
        share ``accuracy``, and the ``message`` that was read, also as ``message_hex``
        and, if it is one, as ``message_text``.
    """
    found = watermark.judge(score, rate)
    record = {
        "verdict": found.answer,
        "detected": {"found": True, "not found": False}.get(found.answer),
        "reason": found.reason,
        "p_value": found.p_value,
    }
    if isinstance(key, watermark.TreeRingKey):
        return record | {"distance": float(score.distance)}
    bits = np.asarray(score.bits)
    return record | {
        "bits": len(bits),
        "matches": int(score.matches),
        "accuracy": float(score.accuracy),
        "message": "".join(str(int(bit)) for bit in bits),
        "message_hex": watermark.as_hex(bits),
        "message_text": watermark.as_text(bits),
    }


@jax.jit
def _score(key: Key, noise: jax.Array) -> Any:
    return key.score(noise)
