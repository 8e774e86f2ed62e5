"""A plan of inversion: stages, each for the samples that the earlier ones left.

A *stage* is a hashable value with a method ``solve``. It gets the table, the denoiser,
``y[0]``, what is known so far, and whether this sample still needs it; it returns a
trajectory with its certificate and its cost. A plan is a tuple of stages: the best
trajectory by worst residual is kept, costs add up, and a sample that has converged
passes later stages at no cost. Under ``jax.vmap`` this happens per sample.

Most stages are loops, and those whose pieces are known (:class:`LoopStage`) can be left
after any iteration and taken up again, which is what lets the lanes of a batch work on
without waiting for one another (:mod:`jaxinv.lanes`).
"""

import abc
import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.denoiser import Denoiser
from jaxinv.samplers.table import LinearMultistep


class Solved(NamedTuple):
    """A trajectory with its certificate and its cost.

    Attributes:
        states: shape (N, ...). ``y[1] .. y[N]``; ``y[0]`` is given.
        errors: shape (N,). Relative residuals of the rows; NaN if not measured.
        iterations: shape (N,). Iterations that worked on each level.
        num_evals: shape (). Evaluations of the model.
        depth: shape (). How many of them had to wait for one another.
        converged: shape (). Whether every row met the tolerance.
    """

    states: Float[Array, "n *shape"]
    errors: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, ""]
    depth: Int[Array, ""]
    converged: Bool[Array, ""]


class Stage(Protocol):
    """A hashable value that finds trajectories."""

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Solved:
        """Find ``y[1] .. y[N]`` for ``y[0] = start``.

        Args:
            table: the table, in the dtype of the states.
            denoise: the denoiser.
            start: ``y[0]``.
            known: the best of the earlier stages; None for the first.
            active: whether the sample needs this stage; if not, whatever is returned
                is ignored, but must cost nothing.

        Returns:
            The best that was found.
        """
        ...


class LoopStage(abc.ABC):
    """A stage in pieces; what makes it a :class:`Stage` is here."""

    @abc.abstractmethod
    def begin(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Any:
        """Before the first iteration; the arguments are those of ``solve``."""

    @abc.abstractmethod
    def running(
        self, table: LinearMultistep, start: Float[Array, "*shape"], carry: Any
    ) -> Bool[Array, ""]:
        """Whether there is more to do; never, if the sample is not active."""

    @abc.abstractmethod
    def advance(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        carry: Any,
    ) -> Any:
        """One iteration."""

    @abc.abstractmethod
    def finish(
        self, table: LinearMultistep, start: Float[Array, "*shape"], carry: Any
    ) -> Solved:
        """What was found up to here."""

    def solve(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Solved:
        """All iterations; see :class:`Stage`."""
        carry = jax.lax.while_loop(
            lambda carry: self.running(table, start, carry),
            lambda carry: self.advance(table, denoise, start, carry),
            self.begin(table, denoise, start, known, active),
        )
        return self.finish(table, start, carry)


@dataclasses.dataclass(frozen=True)
class InOnePiece(LoopStage):
    """Any stage as a loop of one iteration.

    Attributes:
        stage: the stage.
    """

    stage: Stage

    def begin(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        known: Solved | None,
        active: Bool[Array, ""],
    ) -> Any:
        """Nothing found yet."""
        shapes = jax.eval_shape(
            lambda: self.stage.solve(table, denoise, start, known, active)
        )
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return active, known, nothing

    def running(
        self, table: LinearMultistep, start: Float[Array, "*shape"], carry: Any
    ) -> Bool[Array, ""]:
        """Once."""
        return carry[0]

    def advance(
        self,
        table: LinearMultistep,
        denoise: Denoiser,
        start: Float[Array, "*shape"],
        carry: Any,
    ) -> Any:
        """All of it."""
        active, known, _ = carry
        found = self.stage.solve(table, denoise, start, known, active)
        return jnp.zeros_like(active), known, found

    def finish(
        self, table: LinearMultistep, start: Float[Array, "*shape"], carry: Any
    ) -> Solved:
        """What it found."""
        return carry[2]


def run_plan(
    plan: tuple[Stage, ...],
    table: LinearMultistep,
    denoise: Denoiser,
    start: Float[Array, "*shape"],
    known: Solved | None = None,
) -> Solved:
    """Run the stages of a plan, each for the samples that still need it.

    Args:
        plan: the stages, at least one.
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        start: ``y[0]``.
        known: what stages before these found.

    Returns:
        The best trajectory, with the cost of all stages.
    """
    for stage in plan:
        if known is None:
            known = stage.solve(table, denoise, start, None, jnp.array(True))
        else:
            known = _improve(stage, table, denoise, start, known)
    assert known is not None, "a plan has at least one stage"
    return known


def _improve(
    stage: Stage,
    table: LinearMultistep,
    denoise: Denoiser,
    start: Array,
    known: Solved,
) -> Solved:
    """Run one more stage, if the sample (or any of a batch) needs it.

    The loop runs once or not at all. A conditional would, in a batch, run always.
    """

    def body(carry: tuple[Array, Solved]) -> tuple[Array, Solved]:
        active, known = carry
        found = stage.solve(table, denoise, start, known, active)
        return jnp.array(False), better_of(known, found)

    return jax.lax.while_loop(lambda c: c[0], body, (~known.converged, known))[1]


def better_of(known: Solved, found: Solved) -> Solved:
    """The better one of what two stages found, by worst residual, at the cost of both.

    Args:
        known: what there was.
        found: what a later stage made of it.
    """
    better = jnp.max(found.errors) < jnp.max(known.errors)
    better |= jnp.isfinite(jnp.max(found.errors)) & jnp.any(jnp.isnan(known.errors))
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), found, known)
    return best._replace(
        iterations=known.iterations + found.iterations,
        num_evals=known.num_evals + found.num_evals,
        depth=known.depth + found.depth,
    )
