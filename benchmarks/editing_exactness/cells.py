"""One measurement: an edit of one picture, or a chain of edits."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.editing.preference import preference
from benchmarks.editing_exactness.setting import (
    MAX_EVALS,
    Drawings,
    Model,
    Picture,
    background,
    decode,
    encoding,
    generated,
)
from benchmarks.flows.methods import nmse_db

#: Noisings of a judgement of the model.
DRAWS = 8
#: A background smaller than this share of the picture is not measured.
LEAST = 0.1
#: Edits of a chain.
LINKS = 4


class Cell(NamedTuple):
    """One group of measurements, over several pictures.

    Attributes:
        model: Key of ``setting.MODELS``.
        what: ``"edit"`` of generated pictures, ``"chain"`` of edits there and back, or
            ``"drawing"``, an edit of held-out drawings.
        kind: ``"near"`` or ``"far"``, the new object; ``"same"``, a chain of
            reconstructions.
        steps: Steps of the sampler.
        guidance: Of inversion and edit alike.
        inversion: ``"naive"``, ``"published"``, ``"exact"``, or ``"truth"``: the noise
            that the picture was made of.
    """

    model: str
    what: str
    kind: str
    steps: int
    guidance: float
    inversion: str


class Subject(NamedTuple):
    """A picture with what its edits are compared with.

    Attributes:
        picture: Latent and prompts.
        before: Its pixels.
        kept: Pixels that the edit should keep, (H, W).
        true: The edit from the true noise; None where that is not known.
    """

    picture: Picture
    before: np.ndarray
    kept: np.ndarray
    true: Any


class Bench:
    """A model with one sampler, and the pictures."""

    def __init__(self, model: Model, steps: int, seed: int, drawings: Any) -> None:
        self.model, self.seed = model, seed
        self.drawings: Drawings | None = drawings
        self.sampler, self.inversions = model.make(steps)
        self._pictures: dict[Any, Subject] = {}
        self._inverted: dict[Any, Any] = {}

    def subject(self, cell: Cell, index: int) -> Subject:
        """Return what a cell edits; cells that differ in the inversion share it."""
        key = cell._replace(inversion=""), index
        if key not in self._pictures:
            self._pictures[key] = self._subject(cell, index)
        return self._pictures[key]

    def _subject(self, cell: Cell, index: int) -> Subject:
        if cell.what == "drawing":
            assert self.drawings is not None, "the folder of drawings is missing"
            picture = self.drawings(self.model, index)
            return Subject(picture, self.shown(picture.latent), picture.kept, None)
        given = cell.kind, cell.guidance, index, self.seed
        picture = generated(self.model, self.sampler, *given)
        before = self.shown(picture.latent)
        true = self.sample(cell, picture.target, picture.noise)
        return Subject(picture, before, background(before), true)

    def measure(self, cell: Cell, index: int) -> dict[str, Any]:
        """Return the figures of one picture."""
        subject = self.subject(cell, index)
        if cell.what == "chain":
            return self.chain(cell, subject)
        return self.edit(cell, subject, index)

    def invert(self, cell: Cell, prompt: str, latent: Any) -> ji.InversionResult:
        """Invert a latent by the inversion of a cell."""
        strategy = self.inversions[cell.inversion]
        limit = MAX_EVALS if cell.inversion == "exact" else None
        denoise = self.model.denoiser(prompt, cell.guidance)
        return ji.invert(
            self.sampler,
            denoise,
            latent,
            strategy=strategy,
            verify=False,
            max_evals=limit,
        )

    def sample(self, cell: Cell, prompt: str, noise: Any) -> Any:
        """Sample a prompt."""
        denoise = self.model.denoiser(prompt, cell.guidance)
        return ji.sample(self.sampler, denoise, noise)

    def shown(self, latent: Any) -> np.ndarray:
        """Return the picture of a latent."""
        return np.asarray(decode(self.model.pipe, latent))

    def edit(self, cell: Cell, subject: Subject, index: int) -> dict[str, Any]:
        """Return the figures of one edit."""
        picture, true = subject.picture, subject.true
        found: dict[str, Any] = {}
        if cell.inversion == "truth":
            edited = true
        else:
            # An inversion does not depend on the target.
            known = cell.inversion, picture.source, index, cell.what, cell.guidance
            if known not in self._inverted:
                result = self.invert(cell, picture.source, picture.latent)
                again = self.sample(cell, picture.source, result.noise)
                self._inverted[known] = result, nmse_db(again, picture.latent)
            result, found["round_trip"] = self._inverted[known]
            found["evals"] = int(result.num_evals)
            found["solved"] = bool(result.solved)
            if picture.noise is not None:
                found["noise"] = nmse_db(result.noise, picture.noise)
            edited = self.sample(cell, picture.target, result.noise)
            if true is not None:
                found["to_truth"] = nmse_db(edited, true)
        found["background"] = self.psnr(edited, subject)
        both = (encoding(self.model, p) for p in (picture.source, picture.target))
        gain = preference(
            self.model.pipe, edited, *both, jax.random.key(index), draws=DRAWS
        )
        found["gain"] = _number(gain)
        return found

    def chain(self, cell: Cell, subject: Subject) -> dict[str, Any]:
        """Return the figures after every edit of a chain, there and back."""
        picture = subject.picture
        here, there = picture.source, picture.target
        latent, distances, backgrounds, evals = picture.latent, [], [], 0
        for _ in range(LINKS):
            result = self.invert(cell, here, latent)
            latent = self.sample(cell, there, result.noise)
            distances.append(nmse_db(latent, picture.latent))
            backgrounds.append(self.psnr(latent, subject))
            evals += int(result.num_evals)
            here, there = there, here
        return {"distance": distances, "background": backgrounds, "evals": evals}

    def psnr(self, latent: Any, subject: Subject) -> float | None:
        """Return the PSNR of the kept pixels; None for too few of them."""
        if subject.kept.mean() < LEAST:
            return None
        after, before = (jnp.asarray(x) for x in (self.shown(latent), subject.before))
        return _number(ji.psnr(after, before, where=subject.kept[..., None]))


def _number(value: Any) -> float | None:
    """Return a figure, or None if it is not finite."""
    return round(float(value), 4) if np.isfinite(value) else None
