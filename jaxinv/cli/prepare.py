"""Preparation of a command: check names, load the model, and read images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jaxinv as ji
from jaxinv.cli import options
from jaxinv.cli.console import Output, check_choice, check_guidance
from jaxinv.cli.samplers import (
    EXACT_NAMES,
    SAMPLER_NAMES,
    SPACINGS,
    Sampler,
    make_sampler,
    scheduler_sampler,
)
from jaxinv.decoder_inversion import METHODS
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.files.image_reading import ReadImage
from jaxinv.files.images import fit_image
from jaxinv.inversion import STRATEGIES
from jaxinv.inversion.strategies import check_max_evals, make_plan
from jaxinv.solvers import SOLVERS


class Prepared(NamedTuple):
    """A model, a sampler and settings of their inversion that fit each other.

    Attributes:
        pipe: The model.
        sampler: The sampler.
        asked: The options, with names in the library's spelling.
        strategy: A name in ``STRATEGIES``.
        solver: A name in ``SOLVERS``, or None for the strategy's default.
        decoder: Name of the decoder inversion's method, in ``METHODS``.
        scheduler: The configuration of ``--scheduler``, or None.
        max_evals: The limit on evaluations; None for the default.
    """

    pipe: "ji.LatentDiffusion"  # imports Flax where it is evaluated
    sampler: Sampler
    asked: options.Sampling
    strategy: str
    solver: str | None
    decoder: str
    scheduler: dict[str, Any] | None = None
    max_evals: int | None = None

    def denoiser(self, prompt: str) -> Denoiser:
        """Return the model with a prompt filled in."""
        return self.pipe.denoiser(
            prompt, self.asked.negative_prompt, self.asked.guidance
        )

    def fit(
        self, output: Output, path: Path, read: ReadImage, resize: bool
    ) -> ReadImage:
        """Return an image at the model's size, and print notes about changes."""
        read = fit_image(read, path, self.pipe.image_size, self.pipe.name, resize)
        for change in read.changes:
            output.note(f"{path}: {change}")
        return read

    def record(self) -> dict[str, Any]:
        """Return the model and sampling settings, for a JSON file."""
        record = dataclasses.asdict(self.asked) | {"model": self.pipe.name}
        del record["revision"], record["scheduler"]
        if self.scheduler is not None:
            # Its content: a file of the same name may hold another one.
            record |= {"sampler": self.sampler.name, "spacing": None}
            record["scheduler"] = self.scheduler
        return record


def prepare(
    asked: options.Sampling,
    *,
    samplers: Sequence[str] = SAMPLER_NAMES,
    strategy: str = "auto",
    solver: str | None = None,
    decoder: str = "encoder",
    max_evals: int | None = None,
    **loading: Any,
) -> Prepared:
    """Check the names in a command, load its model and make its sampler.

    Args:
        asked: The options.
        samplers: Names of the samplers that the command can use.
        strategy: The strategy as typed.
        solver: The solver as typed.
        decoder: The method of decoder inversion as typed.
        max_evals: See :func:`jaxinv.invert`.
        **loading: Further options of :func:`jaxinv.load`.

    Returns:
        The model and the sampler.

    Raises:
        ValueError: For names that are unknown or do not fit each other.
    """
    check_guidance(asked.guidance)
    asked = dataclasses.replace(
        asked,
        sampler=check_choice("sampler", asked.sampler, samplers),
        spacing=check_choice("spacing", asked.spacing, SPACINGS),
    )
    if asked.scheduler is not None and set(samplers) <= set(EXACT_NAMES):
        raise ValueError(
            "--scheduler does not fit this command, which needs a sampler that is "
            "exact by construction"
        )
    strategy = check_choice("strategy", strategy, STRATEGIES)
    decoder = check_choice("decoder inversion", decoder, METHODS)
    if solver is not None:
        solver = check_choice("solver", solver, SOLVERS)
        if strategy != "stepwise":
            raise ValueError(
                f"--solver needs --strategy stepwise; {strategy} has no choice of "
                "solvers"
            )
    pipe = ji.load(asked.model, revision=asked.revision, **loading)
    config = None
    if asked.scheduler is None:
        sampler = make_sampler(pipe.schedule, asked.sampler, asked.steps, asked.spacing)
    else:
        sampler, config = scheduler_sampler(pipe, asked.scheduler, asked.steps)
    plan = make_plan(sampler.table, strategy, solver, pipe.schedule)
    check_max_evals(max_evals, plan, sampler.table)
    return Prepared(pipe, sampler, asked, strategy, solver, decoder, config, max_evals)
