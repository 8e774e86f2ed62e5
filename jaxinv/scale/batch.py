r"""Batches on many devices: the vmapped core on a mesh.

The core, a function of one sample, is vmapped over a device's part of the batch inside
``jax.shard_map`` over ``data``: a loop runs as long as the slowest sample *on that
device*, and the program has no collectives. If the parameters are divided, the core is
vmapped over the whole batch and partitioned by the compiler.

On CPUs with virtual devices, jaxlib 0.10 can hang if as many devices as its pool has
threads solve batched linear systems at the same time, as the strategy ``"trajectory"``
(also within ``"auto"``) does with more than one sample per device. Use a mesh of fewer
devices than JAX has.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from jaxinv.callables import Function, check_finite
from jaxinv.checks import AtLeastOne, checked
from jaxinv.diffusion.denoiser import ConditionalModel, Denoiser, with_condition
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import InversionResult, invert
from jaxinv.inversion.invert import check_rtol
from jaxinv.inversion.stages import Stage
from jaxinv.inversion.strategies import check_max_evals, make_plan
from jaxinv.mesh import DATA, check_mesh, make_mesh, over_data, place_model
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState, labeled, unlabeled
from jaxinv.solvers import Solver


@checked
def sample_batch(
    sampler: SamplerTable,
    denoise: Denoiser | ConditionalModel,
    noise: Float[Array, "b *shape"],
    conditions: PyTree = None,
    *,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
) -> Float[Array, "b *shape"]:
    """Sample from a batch of noises on all devices of a mesh.

    Args:
        sampler: The sampler.
        denoise: Callable pytree ``(x, t) -> f`` on one sample; with ``conditions``
            ``(x, t, condition) -> f``.
        noise: Unit noises. They are copied to the devices and neither changed nor
            donated.
        conditions: A pytree of arrays, each with a leading axis of the batch.
        mesh: A mesh from :func:`make_mesh`; all devices if None.
        batch_size: Number of samples at a time on the whole mesh; all if None.

    Returns:
        The data on the mesh, sharded over ``data`` if it divides evenly.

    Raises:
        ValueError: If :func:`jaxinv.sample` raises it, for empty or unequal batches, or
            a batch size that the mesh does not divide.
    """
    return _over_batches(
        Sampling(), sampler, denoise, noise, conditions, mesh, batch_size
    )


@checked
def invert_batch(
    sampler: SamplerTable,
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
    max_evals: AtLeastOne | None = None,
) -> InversionResult:
    """Find the noises of a batch on all devices of a mesh.

    Each result equals that of :func:`jaxinv.invert` on its sample. Batches are padded
    with the last sample to a multiple of the mesh, and the padding is dropped. There is
    one compilation per shape and number of steps. For more samples than fit in a batch,
    with different numbers of iterations, use :func:`jaxinv.invert_stream`.

    Args:
        sampler: The sampler.
        denoise: Callable pytree ``(x, t) -> f`` on one sample; with ``conditions``
            ``(x, t, condition) -> f``, such as
            :meth:`jaxinv.Pipeline.conditional_denoiser`. Arrays on the mesh
            (:func:`shard_parameters`) are used in place; others are copied to all
            devices.
        x0: The data. They are copied to the devices and neither changed nor donated.
        conditions: A pytree of arrays, each with a leading axis of the batch.
        mesh: A mesh from :func:`make_mesh`; all devices if None.
        batch_size: Number of samples at a time on the whole mesh; all if None.
        strategy: See :func:`jaxinv.invert`.
        solver: See :func:`jaxinv.invert`.
        schedule: See :func:`jaxinv.invert`.
        return_trajectory: See :func:`jaxinv.invert`.
        verify: See :func:`jaxinv.invert`.
        reconstruction_rtol: See :func:`jaxinv.invert`.
        max_evals: The limit for each sample; see :func:`jaxinv.invert`.

    Returns:
        The result on the mesh, with a leading batch axis on every array.

    Raises:
        ValueError: If :func:`jaxinv.invert` raises it, for empty or unequal batches, or
            a batch size that the mesh does not divide.
    """
    plan = make_plan(sampler, strategy, solver, schedule)
    check_rtol(verify, reconstruction_rtol, jnp.result_type(x0))
    check_max_evals(max_evals, plan, sampler)
    task = Inversion(plan, return_trajectory, verify, reconstruction_rtol, max_evals)
    found = _over_batches(task, sampler, denoise, x0, conditions, mesh, batch_size)
    return labeled(found, sampler)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The task of sampling each sample of a batch."""

    def __call__(self, sampler: SamplerTable, denoise: Denoiser, x: Array) -> Any:
        """Sample."""
        return sample(sampler, denoise, x)


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The task of inverting each sample of a batch."""

    plan: Any
    keep: bool
    verify: bool = True
    rtol: float | None = None
    max_evals: int | None = None

    def __call__(self, sampler: SamplerTable, denoise: Denoiser, x: Array) -> Any:
        """Invert."""
        return invert(
            sampler,
            denoise,
            x,
            strategy=self.plan,
            return_trajectory=self.keep,
            verify=self.verify,
            reconstruction_rtol=self.rtol,
            max_evals=self.max_evals,
        )


@jax.jit(static_argnames=("task", "mesh"), donate_argnames="x")
def on_mesh(
    sampler: SamplerTable,
    denoise: Function,
    x: Array,
    conditions: PyTree,
    *,
    task: Any,
    mesh: Mesh,
) -> Any:
    """Run the program of :func:`sample_batch` and :func:`invert_batch` on one batch.

    Args:
        sampler: The sampler.
        denoise: The model.
        x: The samples, shape (b, ...), donated.
        conditions: A pytree of arrays with the same leading axis.
        task: :class:`Sampling` or :class:`Inversion` (static).
        mesh: The devices (static).
    """

    def part(
        sampler: SamplerTable, denoise: Function, x: Array, conditions: PyTree
    ) -> Any:
        def one(x: Array, condition: PyTree) -> Any:
            return task(sampler, with_condition(denoise, condition), x)

        return jax.vmap(one)(x, conditions)

    return over_data(part, mesh, shared=2)(sampler, denoise, x, conditions)


def _over_batches(
    task: Any,
    sampler: SamplerTable,
    denoise: Any,
    x: Any,
    conditions: PyTree,
    mesh: Mesh | None,
    batch_size: int | None,
) -> Any:
    """Run all batches sequentially and concatenate their results."""
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
    sampler, network = matched(sampler, denoise, x.shape[1:])
    model = place_model(network, mesh)
    spread = NamedSharding(mesh, P(DATA))

    def padded(leaf: Any, first: int) -> Array:
        piece = leaf[first : first + batch_size]
        missing = batch_size - len(piece)
        if missing:
            repeated = [(0, missing)] + [(0, 0)] * (piece.ndim - 1)
            piece = jnp.pad(piece, repeated, mode="edge")
        # A new buffer, because it is donated.
        return jax.device_put(piece, spread, may_alias=False)

    found = []
    for first in range(0, count, batch_size):
        result = on_mesh(
            unlabeled(sampler),
            model,
            padded(x, first),
            jax.tree.map(lambda leaf, first=first: padded(leaf, first), conditions),
            task=task,
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
    """Return the samples and their number, or raise ValueError."""
    if isinstance(x, SamplerState):
        raise ValueError("a batch must be one array of samples, not a sampler's state")
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
