"""The inversions that editing methods start from: one registry.

An inversion is a sampler with a way to invert it. RF-Solver and FireFlow were published
for rectified flows; here they run on any model, because their tables are written for
states ``y = x / scale`` and levels ``tau``, on which every diffusion model's ODE has
the form of a flow's. On a flow this is the published method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import jaxinv as ji
from jaxinv.apps.editing import edit_friendly

#: Function of schedule and steps.
Make = Callable[[ji.NoiseSchedule, int], Any]
#: Share of the steps that DDPM inversion leaves out: 12 of 50 in
#: ``run_editing_edit_friendly_p2p.py`` of PIE-Bench's repository.
SKIPPED = 12 / 50


class Inversion(NamedTuple):
    """A sampler and how it is inverted.

    Attributes:
        title: In tables.
        paper: Where it was published.
        sampler: Map from the schedule and the number of steps to the table.
        strategy: Map from the same to :func:`jaxinv.invert`'s strategy; None for
            edit-friendly DDPM inversion, which finds noises for a stochastic sampler.
    """

    title: str
    paper: str
    sampler: Make
    strategy: Make | None


def _on_grid(make: Callable[[ji.TimeGrid], Any]) -> Make:
    return lambda schedule, steps: make(ji.time_grid(schedule, steps))


def _middles(schedule: ji.NoiseSchedule, steps: int) -> ji.TimeGrid:
    return ji.with_midpoints(schedule, ji.time_grid(schedule, steps))


def _midpoints(make: Callable[[ji.TimeGrid], Any]) -> Make:
    return lambda schedule, steps: make(_middles(schedule, steps))


def _backward(make: Callable[[ji.TimeGrid], Any]) -> Make:
    return lambda schedule, steps: ji.Backward(make, _middles(schedule, steps))


def _fixed(strategy: Any) -> Make:
    return lambda schedule, steps: strategy


INVERSIONS = {
    "naive_ddim": Inversion(
        "naive DDIM",
        "arXiv:2010.02502, Section 4.3",
        _on_grid(ji.ddim),
        _fixed("naive"),
    ),
    "algorithm_2": Inversion(
        "Algorithm 2 (2M)",
        "arXiv:2311.18387, Algorithm 2",
        _on_grid(ji.dpmpp_2m),
        lambda schedule, steps: ji.Algorithm2(schedule),
    ),
    "rf_solver": Inversion(
        "RF-Solver",
        "arXiv:2411.04746",
        _midpoints(ji.rf_solver),
        _backward(ji.rf_solver),
    ),
    "fireflow": Inversion(
        "FireFlow",
        "arXiv:2412.07517",
        _midpoints(ji.fireflow),
        _backward(ji.fireflow),
    ),
    "ddpm": Inversion(
        "DDPM inversion",
        "arXiv:2304.06140, Algorithm 1",
        _on_grid(ji.ancestral),
        None,
    ),
    "o_belm": Inversion(
        "O-BELM", "arXiv:2410.07273", _on_grid(ji.o_belm), _fixed("auto")
    ),
    "exact_ddim": Inversion(
        "exact DDIM", "this library", _on_grid(ji.ddim), _fixed("auto")
    ),
    "exact_2m": Inversion(
        "exact 2M", "this library", _on_grid(ji.dpmpp_2m), _fixed("auto")
    ),
}


class Inverted(NamedTuple):
    """What an editing method starts from.

    Attributes:
        sampler: The table that it samples with.
        result: The inversion, with its trajectory.
    """

    sampler: ji.SamplerTable
    result: Any


class Prepared(NamedTuple):
    """An inversion at a number of steps, made once: it selects a compiled program.

    Attributes:
        sampler: The table.
        strategy: The strategy; None for edit-friendly DDPM inversion.
    """

    sampler: ji.SamplerTable
    strategy: Any


def prepare(name: str, schedule: ji.NoiseSchedule, steps: int) -> Prepared:
    """Make an inversion of :data:`INVERSIONS`.

    Args:
        name: Its name.
        schedule: The model's.
        steps: Of the sampler.
    """
    found = INVERSIONS[name]
    strategy = None if found.strategy is None else found.strategy(schedule, steps)
    return Prepared(found.sampler(schedule, steps), strategy)


def invert(
    prepared: Prepared, denoise: Any, latent: jax.Array, key: jax.Array
) -> Inverted:
    """Invert a latent.

    Args:
        prepared: From :func:`prepare`.
        denoise: The model with the source prompt.
        latent: The latent.
        key: Of the random states of DDPM inversion.
    """
    sampler, strategy = prepared
    if strategy is None:
        return Inverted(*edit_friendly(sampler, denoise, latent, key, skip=SKIPPED))
    found = ji.invert(
        sampler, denoise, latent, strategy=strategy, return_trajectory=True
    )
    return Inverted(sampler, found)
