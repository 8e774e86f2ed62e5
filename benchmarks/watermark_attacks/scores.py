"""The p-values of kept noises: of their own keys, and of others.

Negatives cost no image. A key that was drawn independently of a noise is a key of
another image, whatever else the noise carries: a noise with one scheme's mark is
unmarked to the others, and to every other key of the same scheme. So all noises of a
condition are held against the same other keys. These negatives are pairs; those of one
noise share it, so that they are worth less than as many images if the p-values depend
on the noise.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.watermark_attacks.runs import MARKS, Run, Setting, read_noise
from jaxinv.apps import watermark
from jaxinv.apps.watermark.plausibility import doubts

RATES = (0.01, 0.001)
_FIRST_OTHER = 1_000  # number of the first key that no image carries


class Condition(NamedTuple):
    """What happened to an image between its noise and the recovered one."""

    steps: int
    inverse: str
    latent: str
    known: bool
    attack: str


class Scored(NamedTuple):
    """The scores of one scheme in one condition.

    Attributes:
        images: Numbers of the marked images.
        own: Their p-values, for their own keys.
        plausible: Whether the noises are plausible; :func:`watermark.judge` gives no
            answer otherwise.
        noise_db: NMSE of the noises.
        converged: Whether the inversions converged.
        evals: Their evaluations.
        decoded: Whether the message was read, for PRC; None for the others.
        others: P-values for keys that no image carries, of all noises of the condition.
    """

    images: np.ndarray
    own: np.ndarray
    plausible: np.ndarray
    noise_db: np.ndarray
    converged: np.ndarray
    evals: np.ndarray
    decoded: np.ndarray | None
    others: np.ndarray

    def found(self, rate: float) -> int:
        """Return the number of images with a p-value of at most a rate."""
        return int(np.sum(self.own <= rate))

    def found_empirically(self, rate: float) -> int | None:
        """Return the number of images above the threshold of the negatives.

        At most the given share of the negatives have a smaller p-value; None for too
        few of them.
        """
        if len(self.others) * rate < 1:
            return None
        limit = np.sort(self.others)[int(len(self.others) * rate)]
        return int(np.sum(self.own < limit))


def condition(run: Run) -> Condition:
    """Return the condition of a run."""
    return Condition(run.steps, run.inverse, run.latent, run.known, run.attack)


def score_all(setting: Setting) -> dict[tuple[Condition, str], Scored]:
    """Return the scores of all kept noises, by condition and scheme."""
    by_condition: dict[Condition, list[tuple[Run, dict[str, Any]]]] = {}
    for run, found in setting.found.items():
        by_condition.setdefault(condition(run), []).append((run, found))
    return {
        (where, mark): _scored(setting, mark, cells)
        for where, cells in by_condition.items()
        for mark in MARKS
        if any(run.mark == mark for run, _ in cells)
    }


def _scored(
    setting: Setting, mark: str, cells: list[tuple[Run, dict[str, Any]]]
) -> Scored:
    marked = [(run, found) for run, found in cells if run.mark == mark]
    keys = [setting.key(mark, run.index) for run, _ in marked]
    noises = [_noise(setting, found) for _, found in marked]
    scores = [_score(key, x) for key, x in zip(keys, noises, strict=True)]
    implausible = [
        any(bool(holds) for holds in doubts(score.figures).values()) for score in scores
    ]
    all_noises = jnp.stack([_noise(setting, found) for _, found in cells])
    numbers = range(_FIRST_OTHER, _FIRST_OTHER + setting.arguments.other_keys)
    others = [
        watermark.p_value(_scores(setting.key(mark, number), all_noises))
        for number in numbers
    ]
    return Scored(
        np.array([run.index for run, _ in marked]),
        np.array([float(watermark.p_value(score)) for score in scores]),
        ~np.array(implausible),
        _column(marked, "noise_db"),
        _column(marked, "converged"),
        _column(marked, "evals"),
        np.array([_reads(key, x) for key, x in zip(keys, noises, strict=True)])
        if mark == "PRC"
        else None,
        np.concatenate(others),
    )


def _column(cells: Iterable[tuple[Run, dict[str, Any]]], name: str) -> np.ndarray:
    return np.array([found[name] for _, found in cells])


def _noise(setting: Setting, found: dict[str, Any]) -> jax.Array:
    return jnp.asarray(read_noise(found["noise"], setting.shape))


def _reads(key: Any, noise: Any) -> bool:
    bits = key.decode(noise)
    return bits is not None and np.array_equal(bits, key.message)


@jax.jit
def _score(key: Any, noise: Any) -> Any:
    return key.score(noise)


@jax.jit
def _scores(key: Any, noises: Any) -> Any:
    return jax.vmap(key.score)(noises)
