r"""Inversion of a stream of samples: continuous batching of :func:`jaxinv.invert`.

The stages of a plan (:mod:`jaxinv.inversion.stages`) and their verification become
machines with separate lanes (:mod:`jaxinv.scale.lanes`). A sample that does not
converge in the first stage waits for a lane of the second, and no other sample waits
for it.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from jaxinv.callables import check_finite
from jaxinv.checks import AtLeastOne, checked
from jaxinv.diffusion.denoiser import ConditionalModel, Denoiser, with_condition
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import InversionResult
from jaxinv.inversion.invert import OnStage, check_rtol
from jaxinv.inversion.machine import Sample, StageMachine
from jaxinv.inversion.result import wrap_up
from jaxinv.inversion.stages import UNLIMITED, Solved, Stage
from jaxinv.inversion.strategies import check_max_evals, make_plan, stage_names
from jaxinv.inversion.verification import (
    Verified,
    needs_states,
    refines,
    verify_in_place,
    weigh,
)
from jaxinv.loops import Loop, once
from jaxinv.mesh import make_mesh, place_model
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.state import labeled, unlabeled
from jaxinv.sampling.steps import in_dtype
from jaxinv.scale.lanes import Lanes
from jaxinv.scale.stations import NextStage, Station, flow
from jaxinv.solvers import Solver


class StageOutcome(NamedTuple):
    """A sample between a stage and its verification.

    Attributes:
        sample: The sample as it entered the stage; for the first stage with ``found``
            as known result, at no cost.
        stage: The number of the stage in the plan, shape ().
        found: The result of the stage.
    """

    sample: Sample
    stage: Int[np.ndarray, ""]
    found: Solved


class Found(NamedTuple):
    """The result of a sample after a verification.

    Attributes:
        result: The result, with the certificate and the cost of all stages so far.
        verified: The result for the next stage; None if there is no next stage.
        runs: Which stages of the plan should run next, shape (stages,).
    """

    result: InversionResult
    verified: Verified | None = None
    runs: Bool[Array, "stages"] | None = None


@dataclasses.dataclass(frozen=True)
class VerificationMachine:
    """Factory of the verification of a stage's result, a :class:`StageOutcome`.

    Attributes:
        verify: Whether to sample at all.
        rtol: Largest relative error of the reconstruction; None for the default.
        refining: Whether each stage of the plan can start from a verification.
        least: The evaluations without which each stage of the plan is not started.
    """

    verify: bool
    rtol: float | None
    refining: tuple[bool, ...]
    least: tuple[int, ...]

    @property
    def keep(self) -> bool:
        """Whether another stage may follow."""
        return len(self.refining) > 1 or any(self.refining)

    def __call__(self, model: Any, item: StageOutcome) -> Loop:
        """Return the loop."""
        return once(lambda: self._found(model, item))

    def _found(self, model: Any, item: StageOutcome) -> Found:
        """Return the better of the results of this stage and earlier stages."""
        sample, x0 = item.sample, item.sample.x0
        table = in_dtype(model[0], x0.dtype)
        denoise = with_condition(model[1], sample.condition)
        rtol = check_rtol(self.verify, self.rtol, x0.dtype)
        new = verify_in_place(
            table, denoise, x0, item.found, rtol, keep=any(self.refining)
        )
        assert sample.known is not None
        # The known result before the first stage is its own result, at no cost.
        stage = jnp.asarray(item.stage)
        best, runs = weigh(
            sample.known, new, stage, self.refining, self.least, sample.max_evals
        )
        result = wrap_up(table, x0, best.solved.states, best, keep=False)
        if not self.keep:
            return Found(result)
        return Found(result, best, runs)


def inversion_stations(
    sampler: SamplerTable,
    denoise: Denoiser | ConditionalModel,
    *,
    first: int,
    lanes: int,
    iterations: int,
    mesh: Mesh,
    plan: tuple[Stage, ...],
    verify: bool = True,
    reconstruction_rtol: float | None = None,
    on_stage: OnStage | None = None,
) -> list[Station]:
    """Return the stations of an inversion: the stages of its plan, and verification.

    Args:
        sampler: The sampler.
        denoise: See :func:`jaxinv.invert_stream`.
        first: Index of the first of these stations in the flow.
        lanes: Number of lanes of each station.
        iterations: Number of iterations in a turn.
        mesh: The devices.
        plan: The stages.
        verify: See :func:`jaxinv.invert`.
        reconstruction_rtol: See :func:`jaxinv.invert`.
        on_stage: See :func:`jaxinv.invert_stream`.

    Returns:
        One station for each stage, for the verification, and for repeats of a first
        stage that refines. Their items are a :class:`Sample`, and their results pairs
        of the :class:`~jaxinv.InversionResult` and the number of stages that ran.

    Raises:
        ValueError: For settings that cannot be combined, before anything is compiled.
    """
    check_rtol(verify, reconstruction_rtol, np.float32)
    sampler, network = matched(sampler, denoise)
    model = unlabeled(sampler), place_model(network, mesh)
    announced: set[str] = set()

    def station(machine: Any, route: Any, name: str | None = None) -> Station:
        def make() -> Lanes:
            if on_stage is not None and name is not None and name not in announced:
                announced.add(name)
                on_stage(name)
            return Lanes(machine, model, lanes=lanes, iterations=iterations, mesh=mesh)

        return Station(make, route)

    last = len(plan) - 1

    def tried(k: int) -> Any:
        def route(key: Any, item: Sample, found: Solved) -> NextStage:
            if item.known is None:
                item = item._replace(
                    known=_nothing_known(found, verify and needs_states(plan))
                )
            return NextStage(
                first + last + 1, StageOutcome(item, np.asarray(k, np.int32), found)
            )

        return route

    def verified(key: Any, item: StageOutcome, found: Found) -> Any:
        k = int(item.stage)
        left = () if found.runs is None else np.flatnonzero(found.runs).tolist()
        if not left:
            return labeled(found.result, sampler), k + 1
        # The lanes of the first stage have samples without a known result.
        where = left[0] or last + 2
        return NextStage(first + where, item.sample._replace(known=found.verified))

    refining = tuple(refines(stage) for stage in plan)
    least = tuple(stage.least_evals(sampler) for stage in plan)
    way_back = VerificationMachine(verify, reconstruction_rtol, refining, least)
    stations = [
        station(StageMachine(stage), tried(k), name)
        for k, (stage, name) in enumerate(zip(plan, stage_names(plan), strict=True))
    ]
    repeats = [station(StageMachine(plan[0]), tried(0))] if refining[0] else []
    return [*stations, station(way_back, verified), *repeats]


def _nothing_known(found: Solved, keep: bool) -> Verified:
    """Return the result of the first stage as a known result without cost."""
    zero: Any = np.zeros_like
    nan: Any = np.full_like(found.errors[0], np.nan)
    none, no = zero(found.num_evals), zero(found.solved)
    solved = found._replace(
        iterations=zero(found.iterations),
        num_evals=none,
        depth=none,
        stopped=no,
    )
    states = found.states if keep else None
    return Verified(solved, nan, nan, no, no, states, np.int32(1))


@checked
def invert_stream(
    sampler: SamplerTable,
    denoise: Denoiser | ConditionalModel,
    samples: Iterable[Any],
    *,
    conditional: bool = False,
    lanes: int = 8,
    iterations: int = 4,
    mesh: Mesh | None = None,
    strategy: str | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    verify: bool = True,
    reconstruction_rtol: float | None = None,
    max_evals: AtLeastOne | None = None,
    on_stage: OnStage | None = None,
) -> Iterator[tuple[int, InversionResult]]:
    """Find the noises of any number of samples, by continuous batching.

    Each result equals that of :func:`jaxinv.invert` on its sample up to rounding; the
    number of evaluations may differ where a verification is repeated. A lane is
    refilled as soon as its sample is finished, so that devices do not wait for the
    slowest sample of a batch.

    Args:
        sampler: The sampler.
        denoise: Callable pytree ``(x, t) -> f`` on one sample; with ``conditional``
            ``(x, t, condition) -> f``. Arrays on the mesh are used in place; others are
            copied to all devices.
        samples: The data, one array each, of equal shape and dtype; with
            ``conditional`` pairs of the data and its condition. They are pulled as
            lanes become free.
        conditional: Whether samples have conditions.
        lanes: Number of samples at a time, on the whole mesh.
        iterations: Number of solver iterations between refills of free lanes: fewer
            reduce the waiting of lanes, more reduce communication with the host.
        mesh: Devices of this process; all its devices if None.
        strategy: See :func:`jaxinv.invert`. Stages that are not loops (Algorithm 2,
            Newton's method) run in one piece.
        solver: See :func:`jaxinv.invert`.
        schedule: See :func:`jaxinv.invert`.
        verify: See :func:`jaxinv.invert`.
        reconstruction_rtol: See :func:`jaxinv.invert`.
        max_evals: The limit for each sample; see :func:`jaxinv.invert`.
        on_stage: Function that receives the name of each stage before it is compiled,
            when the first sample needs it.

    Yields:
        The number of each sample, from 0, and its result as NumPy arrays, in the order
        of completion.

    Raises:
        ValueError: If :func:`jaxinv.invert` raises it; for samples of different shapes,
            with the number of the sample; for lanes that the mesh does not divide.

    Example:
        >>> import jax, jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: 0.9 * x
        >>> data = jax.random.normal(jax.random.key(0), (5, 4, 3))
        >>> found = dict(ji.invert_stream(sampler, denoise, data, lanes=2))
        >>> sorted(found), all(bool(r.converged) for r in found.values())
        ([0, 1, 2, 3, 4], True)
    """
    mesh = make_mesh(devices=jax.local_devices()) if mesh is None else mesh
    plan = make_plan(sampler, strategy, solver, schedule)
    limit = check_max_evals(max_evals, plan, sampler)
    stations = inversion_stations(
        sampler,
        denoise,
        first=0,
        lanes=lanes,
        iterations=iterations,
        mesh=mesh,
        plan=plan,
        verify=verify,
        reconstruction_rtol=reconstruction_rtol,
        on_stage=on_stage,
    )
    stations[0].lanes()  # raises for invalid settings before samples are pulled
    for key, (result, _) in flow(stations, numbered(samples, conditional, limit)):
        yield key, result


def numbered(
    samples: Iterable[Any],
    conditional: bool,
    max_evals: np.integer = UNLIMITED,
) -> Iterator[tuple[int, NextStage]]:
    """Yield the numbered samples, or raise ValueError for samples that do not fit."""
    like: Any = None
    for k, given in enumerate(samples):
        x0, condition = given if conditional else (given, None)
        sample = Sample(x0, condition, max_evals=max_evals)
        sample = jax.tree.map(np.asarray, sample)
        check_finite(jnp.asarray(sample.x0), f"data of sample {k}")
        kind = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), sample)
        if like is not None and kind != like:
            raise ValueError(
                f"all samples must have the shapes and dtypes of the first, {like}; "
                f"sample {k} has {kind}"
            )
        like = kind
        yield k, NextStage(0, sample)
