r"""Continuous batching: lanes that are refilled as soon as they are free.

Under ``jax.vmap`` a batch waits for its slowest sample, and samples may differ by a
factor of three in their iterations. Here a batch is a number of *lanes*. A compiled
call, a *turn*, advances every lane by a fixed number of iterations; finished samples
leave their lanes, and the next samples take their places, as in servers of language
models. The program does not depend on the samples in the lanes, so it is compiled once,
and a sample's result does not depend on its neighbors.

Each lane runs a :class:`jaxinv.loops.Loop`, which a machine makes from the arrays that
all samples share and from the sample itself. :class:`Lanes` manages the lanes on the
host, and :mod:`jaxinv.scale.stations` passes samples through several.

References:
    Yu et al. 2022, "Orca", OSDI (iteration-level scheduling).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int, PyTree

from jaxinv.loops import Machine, advance_at_most
from jaxinv.mesh import DATA, check_mesh, over_data


class Lane(NamedTuple):
    """The contents of a lane, or of all lanes along a leading axis.

    Attributes:
        busy: Whether the lane has a sample.
        item: The sample.
        state: The state of its loop.
    """

    busy: Bool[Array, ""]
    item: PyTree
    state: PyTree


@jax.jit(static_argnames=("machine", "iterations", "mesh"), donate_argnames="lanes")
def _turn(
    machine: Machine,
    model: PyTree,
    lanes: Lane,
    fresh: PyTree,
    refill: Bool[Array, "l"],
    *,
    iterations: int,
    mesh: Mesh,
) -> tuple[Lane, Bool[Array, "l"], Int[Array, "d"]]:
    """Refill some lanes, and advance all.

    Returns:
        The lanes, whether each is still running, and the iterations of each device.
    """

    def part(
        model: PyTree, lanes: Lane, fresh: PyTree, refill: Array
    ) -> tuple[Lane, Array, Array]:
        def replaced(lanes: Lane) -> Lane:
            def one(lane: Lane, item: PyTree, refill: Array) -> Lane:
                new = Lane(jnp.array(True), item, machine(model, item).begin())
                return jax.tree.map(lambda a, b: jnp.where(refill, a, b), new, lane)

            return jax.vmap(one)(lanes, fresh, refill)

        # The begin of a loop may cost an evaluation, and is only conditional outside
        # vmap.
        lanes = jax.lax.cond(jnp.any(refill), replaced, lambda lanes: lanes, lanes)

        def advanced(lane: Lane) -> tuple[Array, PyTree, Array]:
            # Only the state changes in the loop, not the item.
            loop = machine(model, lane.item)
            busy = loop._replace(running=lambda s: lane.busy & loop.running(s))
            count, state = advance_at_most(busy, lane.state, iterations)
            return count, state, busy.running(state)

        count, state, running = jax.vmap(advanced)(lanes)
        return lanes._replace(state=state), running, jnp.max(count)[None]

    return over_data(part, mesh, shared=1)(model, lanes, fresh, refill)


@jax.jit(static_argnames=("machine", "mesh"))
def _results(machine: Machine, model: PyTree, lanes: Lane, *, mesh: Mesh) -> PyTree:
    """Return the results of all lanes, finished or not."""

    def part(model: PyTree, lanes: Lane) -> PyTree:
        return jax.vmap(lambda lane: machine(model, lane.item).finish(lane.state))(
            lanes
        )

    return over_data(part, mesh, shared=1)(model, lanes)


class Lanes:
    """The lanes of one machine, which take samples and return their results.

    Args:
        machine: Function that makes the loop of a lane from the model and an item.
        model: Arrays that all samples share, on the mesh.
        lanes: Number of lanes on the whole mesh.
        iterations: Number of iterations in a turn; finished lanes wait for its end.
        mesh: The devices of this process, with an axis ``data`` that divides the lanes.

    Attributes:
        evaluated: Number of iterations on all devices, including free and waiting
            lanes.

    Raises:
        ValueError: If the mesh does not divide the lanes, or there are none.
    """

    def __init__(
        self,
        machine: Machine,
        model: PyTree,
        *,
        lanes: int,
        iterations: int = 4,
        mesh: Mesh,
    ) -> None:
        parts = check_mesh(mesh)
        if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
            raise ValueError(f"lanes must be a positive number, got {lanes!r}")
        if lanes % parts:
            raise ValueError(
                f"{lanes} lanes cannot be divided over the {parts} parts of the mesh; "
                f"use a multiple of {parts}"
            )
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.machine, self.model = machine, model
        self.iterations, self.mesh = iterations, mesh
        self.count = lanes
        self.evaluated = 0
        self._inside: list[tuple[Any, PyTree] | None] = [None] * lanes
        self._lanes: Lane | None = None
        self._fresh: PyTree = None

    @property
    def free(self) -> int:
        """Number of empty lanes."""
        return sum(slot is None for slot in self._inside)

    def turn(
        self, arriving: Sequence[tuple[Any, PyTree]] = ()
    ) -> list[tuple[Any, PyTree, PyTree]]:
        """Put samples into free lanes and advance all lanes.

        Args:
            arriving: Pairs of a key and an item, at most one for each free lane; all
                items must have the same structure, shapes and dtypes.

        Returns:
            Key, item and result (NumPy arrays) of each finished sample.

        Raises:
            ValueError: For more samples than there are free lanes.
        """
        if len(arriving) > self.free:
            raise ValueError(f"{len(arriving)} samples for {self.free} free lanes")
        if not arriving and self.free == self.count:
            return []
        refill = np.zeros(self.count, bool)
        waiting = iter(arriving)
        for k, slot in enumerate(self._inside):
            if slot is None and (new := next(waiting, None)) is not None:
                self._inside[k], refill[k] = new, True
        if arriving:
            self._fresh = self._items(refill)
        fresh = self._fresh
        if self._lanes is None:
            self._lanes = self._empty(fresh)
        self._lanes, running, spent = _turn(
            self.machine,
            self.model,
            self._lanes,
            fresh,
            self._put(refill),
            iterations=self.iterations,
            mesh=self.mesh,
        )
        per_part = self.count // len(spent)
        self.evaluated += per_part * int(np.sum(np.asarray(spent)))
        done = [
            k
            for k, goes_on in enumerate(np.asarray(running))
            if not goes_on and self._inside[k] is not None
        ]
        if not done:
            return []
        results = jax.device_get(
            _results(self.machine, self.model, self._lanes, mesh=self.mesh)
        )
        finished = []
        for k in done:
            slot = self._inside[k]
            assert slot is not None
            own = jax.tree.map(lambda leaf, k=k: np.array(leaf[k]), results)
            finished.append((*slot, own))
            self._inside[k] = None
        return finished

    def _items(self, refill: np.ndarray) -> PyTree:
        """Return the items of the lanes to refill, and zeros in other lanes."""
        places = np.flatnonzero(refill)
        items = [slot[1] for k in places if (slot := self._inside[k]) is not None]

        def stacked(*leaves: Any) -> Array:
            whole = np.zeros((self.count, *np.shape(leaves[0])), leaves[0].dtype)
            whole[places] = leaves
            return self._put(whole)

        return jax.tree.map(stacked, *items)

    def _empty(self, fresh: PyTree) -> Lane:
        """Return empty lanes."""
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), fresh)
        state = jax.eval_shape(lambda *of: self.machine(*of).begin(), self.model, one)
        busy: Any = jax.ShapeDtypeStruct((), bool)
        empty = Lane(busy, one, state)
        return jax.tree.map(
            lambda x: self._put(np.zeros((self.count, *x.shape), x.dtype)), empty
        )

    def _put(self, values: np.ndarray) -> Array:
        return jax.device_put(values, NamedSharding(self.mesh, P(DATA)))
