r"""Inverting a stream of samples: continuous batching of :func:`jaxinv.invert`.

The stages of a plan (:mod:`jaxinv.inversion.stages`) become machines with lanes of
their own (:mod:`jaxinv.lanes`): a sample that the first stage leaves unconverged waits
for a lane of the second, and nobody waits for it.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from jaxinv.compilation import check_finite, split_callable
from jaxinv.denoiser import ConditionalModel, Denoiser, with_condition
from jaxinv.flow import Onward, Station, flow
from jaxinv.inversion import InversionResult, Strategy
from jaxinv.inversion.explicit import unwind
from jaxinv.inversion.invert import check_explicit
from jaxinv.inversion.result import wrap_up
from jaxinv.inversion.stages import (
    InOnePiece,
    LoopStage,
    Solved,
    Stage,
    better_of,
)
from jaxinv.inversion.strategies import make_plan
from jaxinv.lanes import Lanes
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import Sampler, in_dtype
from jaxinv.schedule import NoiseSchedule
from jaxinv.sharding import make_mesh, place_model
from jaxinv.solvers import Solver


class Sample(NamedTuple):
    """A sample as it goes through the stages.

    Attributes:
        x0: the data.
        condition: of the model; None if it has none.
        known: what earlier stages found; None before the first.
    """

    x0: Float[Array, "*shape"]
    condition: PyTree = None
    known: Solved | None = None


class Found(NamedTuple):
    """What a stage made of a sample.

    Attributes:
        result: with the certificate and the cost of all stages so far.
        solved: the same for the next stage; None after the last.
    """

    result: InversionResult
    solved: Solved | None


@dataclasses.dataclass(frozen=True)
class StageMachine:
    """One stage of an inversion; see :class:`jaxinv.lanes.Machine`.

    The model is the pair of the table and the denoiser's arrays, the item a
    :class:`Sample`.

    Attributes:
        rebuild: makes the denoiser from its arrays.
        stage: the stage.
        last: whether no other stage follows.
    """

    rebuild: Any
    stage: LoopStage
    last: bool

    def begin(self, model: Any, item: Sample) -> Any:
        """Before the first iteration."""
        table, start = _table(model, item)
        denoise = self._denoise(model, item)
        return self.stage.begin(table, denoise, start, item.known, jnp.array(True))

    def running(self, model: Any, item: Sample, state: Any) -> Bool[Array, ""]:
        """As the stage says."""
        return self.stage.running(*_table(model, item), state)

    def advance(self, model: Any, item: Sample, state: Any) -> Any:
        """One iteration of the stage."""
        table, start = _table(model, item)
        return self.stage.advance(table, self._denoise(model, item), start, state)

    def finish(self, model: Any, item: Sample, state: Any) -> Found:
        """The better one of what this stage and those before it found."""
        table, start = _table(model, item)
        solved = self.stage.finish(table, start, state)
        if item.known is not None:
            solved = better_of(item.known, solved)
        result = wrap_up(table, item.x0, solved.states, solved, keep=False)
        return Found(result, None if self.last else solved)

    def _denoise(self, model: Any, item: Sample) -> Denoiser:
        return with_condition(self.rebuild(model[1]), item.condition)


@dataclasses.dataclass(frozen=True)
class UnwindingMachine:
    """The explicit inverse of a sampler that is no table, EDICT, in one piece."""

    rebuild: Any

    def begin(self, model: Any, item: Sample) -> Any:
        """Nothing found yet."""
        shapes = jax.eval_shape(self._unwound, model, item)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jnp.array(True), nothing

    def running(self, model: Any, item: Sample, state: Any) -> Bool[Array, ""]:
        """Once."""
        return state[0]

    def advance(self, model: Any, item: Sample, state: Any) -> Any:
        """All of it."""
        return jnp.array(False), self._unwound(model, item)

    def finish(self, model: Any, item: Sample, state: Any) -> Found:
        """What it found."""
        return Found(state[1], None)

    def _unwound(self, model: Any, item: Sample) -> InversionResult:
        denoise = with_condition(self.rebuild(model[1]), item.condition)
        return unwind(model[0], denoise, item.x0, False)


def _table(model: Any, item: Sample) -> tuple[LinearMultistep, Array]:
    """The table in the sample's dtype, and ``y[0]``."""
    table = in_dtype(model[0], item.x0.dtype)
    return table, item.x0 / table.scale[0]


def inversion_stations(
    sampler: Sampler,
    denoise: Denoiser | ConditionalModel,
    *,
    first: int,
    lanes: int,
    iterations: int,
    mesh: Mesh,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
) -> list[Station]:
    """The stations of an inversion, one for each stage of its plan.

    Args:
        sampler: the sampler.
        denoise: as of :func:`jaxinv.invert_stream`.
        first: number of the first of them in the flow.
        lanes: of each station.
        iterations: of a turn.
        mesh: the devices.
        strategy: as of :func:`jaxinv.invert`.
        solver: as of :func:`jaxinv.invert`.
        schedule: as of :func:`jaxinv.invert`.

    Returns:
        Stations whose items are a :class:`Sample`, and which are left with a pair of
        the :class:`~jaxinv.InversionResult` and the number of stages that ran.

    Raises:
        ValueError: for what cannot be combined, before anything is compiled.
    """
    arrays, rebuild = split_callable(denoise)
    machines: list[Any]
    if isinstance(sampler, LinearMultistep):
        plan = make_plan(sampler, strategy, solver, schedule)
        machines = [
            StageMachine(
                rebuild,
                stage if isinstance(stage, LoopStage) else InOnePiece(stage),
                k == len(plan) - 1,
            )
            for k, stage in enumerate(plan)
        ]
    else:
        check_explicit(sampler, strategy, solver)
        machines = [UnwindingMachine(rebuild)]
    model = sampler, place_model(arrays, mesh)

    def station(k: int, machine: Any) -> Station:
        def route(key: Any, item: Sample, found: Found) -> Any:
            if found.solved is None or bool(found.result.converged):
                return found.result, k + 1
            return Onward(first + k + 1, item._replace(known=found.solved))

        def make() -> Lanes:
            return Lanes(machine, model, lanes=lanes, iterations=iterations, mesh=mesh)

        return Station(make, route)

    return [station(k, machine) for k, machine in enumerate(machines)]


def invert_stream(
    sampler: Sampler,
    denoise: Denoiser | ConditionalModel,
    samples: Iterable[Any],
    *,
    conditional: bool = False,
    lanes: int = 8,
    iterations: int = 4,
    mesh: Mesh | None = None,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
) -> Iterator[tuple[int, InversionResult]]:
    """Find the noises of any number of samples, by continuous batching.

    Each result is that of :func:`jaxinv.invert` on its own sample. A lane is refilled
    as soon as its sample is done, so that the devices do not wait for the slowest
    sample of a batch.

    Args:
        sampler: the sampler.
        denoise: callable pytree ``(x, t) -> f`` on one sample; with ``conditional``
            ``(x, t, condition) -> f``. Its arrays stay where they are if they are on
            the mesh, and are copied to all devices if not.
        samples: the data, one array each, of one shape and dtype; with ``conditional``
            pairs of the data and its condition. They are pulled as lanes get free.
        conditional: whether samples have conditions.
        lanes: samples at a time, on the whole mesh.
        iterations: after how many iterations of the solver to look for free lanes:
            fewer let lanes wait less, more let the host talk to the device less often.
        mesh: devices of this process; one of all its devices if None.
        strategy: as of :func:`jaxinv.invert`. Stages that are no loops (``"naive"``,
            ``"explicit"``, Algorithm 2, Newton's method) run in one piece.
        solver: as of :func:`jaxinv.invert`.
        schedule: as of :func:`jaxinv.invert`.

    Yields:
        The number of each sample, from 0, and its result as NumPy arrays, in the order
        in which they finish.

    Raises:
        ValueError: as :func:`jaxinv.invert`; for samples of different shapes, with the
            number of the sample; for lanes that the mesh does not divide.

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
    stations = inversion_stations(
        sampler,
        denoise,
        first=0,
        lanes=lanes,
        iterations=iterations,
        mesh=mesh,
        strategy=strategy,
        solver=solver,
        schedule=schedule,
    )
    stations[0].lanes()  # raises for what cannot be, before samples are pulled
    for key, (result, _) in flow(stations, numbered(samples, conditional)):
        yield key, result


def numbered(samples: Iterable[Any], conditional: bool) -> Iterator[tuple[int, Onward]]:
    """The samples as they enter; ValueError for those that do not fit."""
    like: Any = None
    for k, given in enumerate(samples):
        x0, condition = given if conditional else (given, None)
        sample = jax.tree.map(np.asarray, Sample(x0, condition))
        check_finite(jnp.asarray(sample.x0), f"data of sample {k}")
        kind = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), sample)
        if like is not None and kind != like:
            raise ValueError(
                f"all samples must have the shapes and dtypes of the first, {like}; "
                f"sample {k} has {kind}"
            )
        like = kind
        yield k, Onward(0, sample)
