r"""Batches over many devices: a mesh, parameters on it, and the vmapped core on it.

A mesh has two axes. Samples are spread over ``data``: every device works on its own
part of a batch, and because each sample stops on its own certificate, no device has
anything to tell another. Parameters are spread over ``model``, if a device cannot hold
them all: each array along its largest dimension that divides evenly, which leaves it to
XLA's partitioner to bring the parts together where they are used.

The core stays what it is, a function of one sample. It is vmapped over a device's part
of the batch, inside ``jax.shard_map`` over ``data``: a loop runs as long as the slowest
sample *on that device*, and the program has no collective at all. With parameters in
parts it is vmapped over the whole batch and partitioned by the compiler.

On CPUs with virtual devices jaxlib 0.10 can hang where as many devices as its pool has
threads solve batched linear systems at the same time, as the strategy ``"trajectory"``
does (also within ``"auto"``) with more than one sample on a device. A mesh of fewer
devices than JAX was given does not.

References:
    Xu et al. 2021, "GSPMD", arXiv:2105.04663 (partitioning over ``model``).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from jaxinv.compilation import check_finite, split_callable
from jaxinv.denoiser import ConditionalModel, Denoiser, conditioned
from jaxinv.inversion import InversionResult, Strategy, invert
from jaxinv.inversion.invert import check_explicit
from jaxinv.inversion.stages import Stage
from jaxinv.inversion.strategies import make_plan
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import Sampler, sample
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import Solver
from jaxinv.state import SamplerState

#: Names of the mesh's axes: samples, and parts of parameters.
DATA, MODEL = "data", "model"

#: Where parameters go: one place for all, a place for each parameter's path, a function
#: of path and shape, or a mesh, for :func:`parameter_rule` on it.
ShardingRule = (
    Sharding
    | Mesh
    | Mapping[str, Sharding]
    | Callable[[str, tuple[int, ...]], Sharding]
)
_Tree = TypeVar("_Tree")


def make_mesh(model: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices: samples over ``data``, parameters over ``model``.

    Args:
        model: devices that share one copy of the parameters.
        devices: which devices; all of all processes if None.

    Returns:
        A mesh of shape (devices / model, model).

    Raises:
        ValueError: if the devices cannot be divided so.

    Example:
        >>> dict(make_mesh().shape)["model"]
        1
    """
    found = list(jax.devices() if devices is None else devices)
    if isinstance(model, bool) or not isinstance(model, int) or model < 1:
        raise ValueError(f"model must be a positive number of devices, got {model!r}")
    if not found or len(found) % model:
        divisors = [n for n in range(1, len(found) + 1) if len(found) % n == 0]
        raise ValueError(
            f"{len(found)} devices cannot be divided into groups of {model}; model "
            f"must be one of {', '.join(map(str, divisors))}"
        )
    # Automatic: models leave it to the compiler where their activations go.
    grid = np.asarray(found).reshape(-1, model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def parameter_rule(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Where each parameter goes: its largest divisible dimension over ``model``.

    Of equal ones the last, which is the output of a layer. What no dimension of divides
    evenly is on every device. Over ``data`` parameters are copied.

    Args:
        mesh: with an axis ``model``, or without one for copies everywhere.

    Returns:
        A function of a parameter's path and shape, for :func:`jaxinv.load` and
        :func:`jaxinv.checkpoint.load_component`.
    """
    parts = dict(mesh.shape).get(MODEL, 1)

    def rule(path: str, shape: tuple[int, ...]) -> NamedSharding:
        del path
        divisible = [(n, axis) for axis, n in enumerate(shape) if n and n % parts == 0]
        if parts == 1 or not divisible:
            return NamedSharding(mesh, P())
        spec: list[str | None] = [None] * len(shape)
        spec[max(divisible)[1]] = MODEL
        return NamedSharding(mesh, P(*spec))

    return rule


def sharding_function(
    sharding: ShardingRule | None,
) -> Callable[[str, tuple[int, ...]], Sharding]:
    """Any form of :data:`ShardingRule` as a function of path and shape.

    Args:
        sharding: the rule; the first local device if None.
    """
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if isinstance(sharding, Mesh):
        return parameter_rule(sharding)
    if isinstance(sharding, Sharding):
        return lambda path, shape: sharding
    if isinstance(sharding, Mapping):
        return lambda path, shape: sharding[path]
    return sharding


def shard_parameters(tree: _Tree, sharding: ShardingRule) -> _Tree:
    """Places the arrays of a model that is in memory already.

    Args:
        tree: a model, or any pytree; leaves that are not arrays stay as they are.
        sharding: where they go, usually a mesh. Paths are those of
            ``jax.tree_util.keystr``.

    Returns:
        The same model with its arrays there. Reading a checkpoint with
        ``jaxinv.load(..., sharding=mesh)`` never holds it whole on one device.
    """
    place = sharding_function(sharding)

    def put(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return jax.device_put(leaf, place(name, leaf.shape))

    return jax.tree_util.tree_map_with_path(put, tree)


def sample_batch(
    sampler: Sampler,
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


def invert_batch(
    sampler: Sampler,
    denoise: Denoiser | ConditionalModel,
    x0: Float[Array, "b *shape"],
    conditions: PyTree = None,
    *,
    mesh: Mesh | None = None,
    batch_size: int | None = None,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    return_trajectory: bool = False,
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

    Returns:
        The result with a leading axis of the batch on every array, on the mesh.

    Raises:
        ValueError: as :func:`jaxinv.invert`, for empty or unequal batches, or a batch
            size that the mesh does not divide.
    """
    plan: Any = strategy
    if isinstance(sampler, LinearMultistep):
        plan = make_plan(sampler, strategy, solver, schedule)
    else:
        check_explicit(sampler, strategy, solver)
    task = Inversion(plan, return_trajectory)
    return _over_batches(task, sampler, denoise, x0, conditions, mesh, batch_size)


def with_condition(denoise: Any, condition: PyTree) -> Denoiser:
    """A denoiser on one sample, its condition filled in if there is one."""
    return denoise if condition is None else conditioned(denoise, condition)


def place_model(arrays: list[Any], mesh: Mesh) -> list[Array]:
    """A model's arrays on a mesh: where they are, or copied to all of its devices."""
    everywhere = NamedSharding(mesh, P())
    devices = set(mesh.devices.flat)

    def place(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return jax.device_put(jnp.asarray(leaf), everywhere)

    return [place(leaf) for leaf in arrays]


def check_mesh(mesh: Mesh) -> int:
    """The number of parts that samples are divided into.

    Raises:
        ValueError: if the mesh has no axis for them.
    """
    if DATA not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis {DATA!r} for the samples, as that of "
            f"jaxinv.sharding.make_mesh(); it has {tuple(mesh.axis_names)}"
        )
    return mesh.shape[DATA]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is done to each sample."""

    def __call__(self, sampler: Sampler, denoise: Denoiser, x: Array) -> Any:
        """Samples."""
        return sample(sampler, denoise, x)


@dataclasses.dataclass(frozen=True)
class Inversion:
    """What is done to each sample."""

    plan: Any
    keep: bool

    def __call__(self, sampler: Sampler, denoise: Denoiser, x: Array) -> Any:
        """Inverts."""
        return invert(
            sampler, denoise, x, strategy=self.plan, return_trajectory=self.keep
        )


@jax.jit(static_argnames=("task", "rebuild", "mesh"), donate_argnames="x")
def on_mesh(
    sampler: Sampler,
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

    def part(sampler: Sampler, arrays: list[Any], x: Array, conditions: PyTree) -> Any:
        def one(x: Array, condition: PyTree) -> Any:
            return task(sampler, with_condition(rebuild(arrays), condition), x)

        return jax.vmap(one)(x, conditions)

    return over_data(part, mesh, shared=2)(sampler, arrays, x, conditions)


def over_data(part: Callable[..., Any], mesh: Mesh, shared: int) -> Callable[..., Any]:
    """A function of a device's samples as a function of those of the whole mesh.

    Where parameters are whole on every device, each device runs the function by itself.
    Where they are in parts, bringing these together takes collectives, also within
    loops, and all devices have to run through these equally often: the partitioner then
    sees the loops of all samples as one, whose predicate is a collective, too.

    Args:
        part: its first arguments are the same on all devices, the others and its
            results have a leading axis of samples.
        mesh: with an axis ``data``.
        shared: how many arguments are the same on all devices.
    """
    if math.prod(mesh.shape.values()) > check_mesh(mesh):
        return part

    def whole(*arguments: Any) -> Any:
        specs = tuple(P() if k < shared else P(DATA) for k in range(len(arguments)))
        return jax.shard_map(
            part, mesh=mesh, in_specs=specs, out_specs=P(DATA), check_vma=False
        )(*arguments)

    return whole


def _over_batches(
    task: Any,
    sampler: Sampler,
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
            sampler,
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
