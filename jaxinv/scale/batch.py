r"""Batches on many devices: the vmapped core on a mesh.

The core stays what it is, a function of one sample. It is vmapped over a device's part
of the batch, inside ``jax.shard_map`` over ``data``: a loop runs as long as the slowest
sample *on that device*, and the program has no collective at all. With parameters in
parts it is vmapped over the whole batch and partitioned by the compiler.

On CPUs with virtual devices jaxlib 0.10 can hang where as many devices as its pool has
threads solve batched linear systems at the same time, as the strategy ``"trajectory"``
does (also within ``"auto"``) with more than one sample on a device. A mesh of fewer
devices than JAX was given does not.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from jaxinv.callables import check_finite, split_callable
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import ConditionalModel, Denoiser, with_condition
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import InversionResult, invert
from jaxinv.inversion.invert import check_rtol
from jaxinv.inversion.stages import Stage
from jaxinv.inversion.strategies import make_plan
from jaxinv.mesh import DATA, check_mesh, make_mesh, over_data, place_model
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState, labelled, unlabelled
from jaxinv.solvers import Solver


@checked
def sample_batch(
    sampler: LinearMultistep,
    denoise: Denoiser | ConditionalModel,
    noise: Float[Array, "b *shape"],
    conditions: PyTree = None,
    *,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
) -> Float[Array, "b *shape"]:
    """Turn a batch of noises into data, on all devices of a mesh.

    Args:
        sampler: the sampler.
        denoise: callable pytree ``(x, t) -> f`` on one sample; with ``conditions``
            ``(x, t, condition) -> f``.
        noise: unit noises. Not changed, and not donated: the copies on the devices are.
        conditions: a pytree of arrays, each with a leading axis of the batch.
        mesh: from :func:`make_mesh`; one of all devices if None.
        batch_size: samples that are computed at a time on the whole mesh; all if None.

    Returns:
        The data, on the mesh, sharded over ``data`` where it divides evenly.

    Raises:
        ValueError: as :func:`jaxinv.sample`, for empty or unequal batches, or a batch
            size that the mesh does not divide.
    """
    return _over_batches(
        Sampling(), sampler, denoise, noise, conditions, mesh, batch_size
    )


@checked
def invert_batch(
    sampler: LinearMultistep,
    denoise: Denoiser | ConditionalModel,
    x0: Float[Array, "b *shape"],
    conditions: PyTree = None,
    *,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    strategy: str | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    return_trajectory: bool = False,
    verify: bool = True,
    reconstruction_rtol: float | None = None,
) -> InversionResult:
    """Find the noises of a batch, on all devices of a mesh.

    Each result is that of :func:`jaxinv.invert` on its own sample. A batch is padded
    with its last sample up to a multiple of the mesh, and what was padded is dropped.
    There is one compilation per shape and number of steps. For more samples than fit
    into a batch, of which some take longer than others, see
    :func:`jaxinv.invert_stream`.

    Args:
        sampler: the sampler.
        denoise: callable pytree ``(x, t) -> f`` on one sample; with ``conditions``
            ``(x, t, condition) -> f``, as :func:`jaxinv.guided` and
            :meth:`jaxinv.LatentDiffusion.conditional_denoiser` are made of. Its arrays
            stay where they are if they are on the mesh (:func:`shard_parameters`), and
            are copied to all devices if not.
        x0: the data. Not changed, and not donated: the copies on the devices are.
        conditions: a pytree of arrays, each with a leading axis of the batch.
        mesh: from :func:`make_mesh`; one of all devices if None.
        batch_size: samples that are computed at a time on the whole mesh; all if None.
        strategy: as of :func:`jaxinv.invert`.
        solver: as of :func:`jaxinv.invert`.
        schedule: as of :func:`jaxinv.invert`.
        return_trajectory: as of :func:`jaxinv.invert`.
        verify: as of :func:`jaxinv.invert`.
        reconstruction_rtol: as of :func:`jaxinv.invert`.

    Returns:
        The result with a leading axis of the batch on every array, on the mesh.

    Raises:
        ValueError: as :func:`jaxinv.invert`, for empty or unequal batches, or a batch
            size that the mesh does not divide.
    """
    plan = make_plan(sampler, strategy, solver, schedule)
    check_rtol(verify, reconstruction_rtol, jnp.result_type(x0))
    task = Inversion(plan, return_trajectory, verify, reconstruction_rtol)
    found = _over_batches(task, sampler, denoise, x0, conditions, mesh, batch_size)
    return labelled(found, sampler)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is done to each sample."""

    def __call__(self, sampler: LinearMultistep, denoise: Denoiser, x: Array) -> Any:
        """Samples."""
        return sample(sampler, denoise, x)


@dataclasses.dataclass(frozen=True)
class Inversion:
    """What is done to each sample."""

    plan: Any
    keep: bool
    verify: bool = True
    rtol: float | None = None

    def __call__(self, sampler: LinearMultistep, denoise: Denoiser, x: Array) -> Any:
        """Invert."""
        return invert(
            sampler,
            denoise,
            x,
            strategy=self.plan,
            return_trajectory=self.keep,
            verify=self.verify,
            reconstruction_rtol=self.rtol,
        )


@jax.jit(static_argnames=("task", "rebuild", "mesh"), donate_argnames="x")
def on_mesh(
    sampler: LinearMultistep,
    arrays: list[Any],
    x: Array,
    conditions: PyTree,
    *,
    task: Any,
    rebuild: Any,
    mesh: Mesh,
) -> Any:
    """One batch: the program of :func:`sample_batch` and :func:`invert_batch`.

    Args:
        sampler: the sampler.
        arrays: of the model.
        x: shape (b, ...), donated.
        conditions: a pytree of arrays with the same leading axis.
        task: :class:`Sampling` or :class:`Inversion` (static).
        rebuild: makes the model from its arrays (static).
        mesh: the devices (static).
    """

    def part(
        sampler: LinearMultistep, arrays: list[Any], x: Array, conditions: PyTree
    ) -> Any:
        def one(x: Array, condition: PyTree) -> Any:
            return task(sampler, with_condition(rebuild(arrays), condition), x)

        return jax.vmap(one)(x, conditions)

    return over_data(part, mesh, shared=2)(sampler, arrays, x, conditions)


def _over_batches(
    task: Any,
    sampler: LinearMultistep,
    denoise: Any,
    x: Any,
    conditions: PyTree,
    mesh: Mesh | None,
    batch_size: int | None,
) -> Any:
    """All batches, one after the other."""
    mesh = make_mesh() if mesh is None else mesh
    parts = check_mesh(mesh)
    x, count = _checked(x, conditions)
    if batch_size is None:
        batch_size = parts * math.ceil(count / parts)
    if batch_size < 1 or batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of the {parts} parts that the mesh divides "
            f"samples into, got {batch_size}"
        )
    arrays, rebuild = split_callable(denoise)
    arrays = place_model(arrays, mesh)
    spread = NamedSharding(mesh, P(DATA))

    def padded(leaf: Any, first: int) -> Array:
        piece = leaf[first : first + batch_size]
        missing = batch_size - len(piece)
        if missing:
            repeated = [(0, missing)] + [(0, 0)] * (piece.ndim - 1)
            piece = jnp.pad(piece, repeated, mode="edge")
        # Never the caller's own buffer: this one is donated.
        return jax.device_put(piece, spread, may_alias=False)

    found = []
    for first in range(0, count, batch_size):
        result = on_mesh(
            unlabelled(sampler),
            arrays,
            padded(x, first),
            jax.tree.map(lambda leaf, first=first: padded(leaf, first), conditions),
            task=task,
            rebuild=rebuild,
            mesh=mesh,
        )
        kept = min(batch_size, count - first)
        if kept < batch_size:
            result = jax.tree.map(lambda leaf, kept=kept: leaf[:kept], result)
        found.append(result)
    if len(found) == 1:
        return found[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _checked(x: Any, conditions: PyTree) -> tuple[Array, int]:
    """The samples, and how many; ValueError if they make no batch."""
    if isinstance(x, SamplerState):
        raise ValueError("a batch is one array of samples, not a sampler's state")
    x = jnp.asarray(x)
    if x.ndim < 1 or not len(x):
        raise ValueError(
            f"expected a batch of samples with a leading axis, got shape {x.shape}"
        )
    check_finite(x, "batch")
    for path, leaf in jax.tree_util.tree_leaves_with_path(conditions):
        if jnp.ndim(leaf) < 1 or len(leaf) != len(x):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"conditions{name} must have the batch's leading axis of {len(x)}, got "
                f"shape {jnp.shape(leaf)}"
            )
    return x, len(x)
