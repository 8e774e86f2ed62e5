r"""Meshes of devices: the placement of parameters and samples.

A mesh has two axes. Samples are divided over ``data``: every device works on its own
part of a batch. Each sample has its own stopping test, so devices need not communicate.
Parameters are divided over ``model`` if they do not fit on one device, each array along
its largest dimension that divides evenly. XLA's partitioner gathers the parts where
they are used.

References:
    Xu et al. 2021, "GSPMD", arXiv:2105.04663 (partitioning over ``model``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from jaxinv.checks import AtLeastOne, checked
from jaxinv.paths import stacked_axes

#: Names of the mesh's axes: samples, and parts of parameters.
DATA, MODEL = "data", "model"

#: Placement of parameters: one sharding for all, a mapping from paths, a function of
#: path and shape, or a mesh, which means :func:`parameter_rule` on it.
ShardingRule = (
    Sharding
    | Mesh
    | Mapping[str, Sharding]
    | Callable[[str, tuple[int, ...]], Sharding]
)
_Tree = TypeVar("_Tree")


@checked
def make_mesh(
    model: AtLeastOne = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Return a mesh of devices: samples over ``data``, parameters over ``model``.

    Args:
        model: Number of devices that share one copy of the parameters.
        devices: The devices; all devices of all processes if None.

    Returns:
        A mesh of shape (devices / model, model).

    Raises:
        ValueError: If the number of devices is not a multiple of ``model``.

    Example:
        >>> dict(make_mesh().shape)["model"]
        1
    """
    found = list(jax.devices() if devices is None else devices)
    if not found or len(found) % model:
        divisors = [n for n in range(1, len(found) + 1) if len(found) % n == 0]
        raise ValueError(
            f"{len(found)} devices cannot be divided into groups of {model}; model "
            f"must be one of {', '.join(map(str, divisors))}"
        )
    # Automatic: the compiler places the activations of models.
    grid = np.asarray(found).reshape(-1, model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def parameter_rule(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Return a rule that divides each parameter's largest dimension over ``model``.

    Only dimensions that divide evenly are considered, and not the one that counts
    stacked blocks, which a loop runs over. Among equally large dimensions the last is
    chosen, the output of a layer. A parameter without such a dimension is copied to
    every device. All parameters are copied over ``data``.

    Args:
        mesh: A mesh with an axis ``model``; without one, every device gets a copy.

    Returns:
        A function of a parameter's path and shape, for :func:`jaxinv.load` and
        :func:`jaxinv.loading.checkpoint.load_component`.
    """
    parts = dict(mesh.shape).get(MODEL, 1)

    def rule(path: str, shape: tuple[int, ...]) -> NamedSharding:
        first = stacked_axes(path)
        divisible = [
            (n, axis)
            for axis, n in enumerate(shape)
            if axis >= first and n and n % parts == 0
        ]
        if parts == 1 or not divisible:
            return NamedSharding(mesh, P())
        spec: list[str | None] = [None] * len(shape)
        spec[max(divisible)[1]] = MODEL
        return NamedSharding(mesh, P(*spec))

    return rule


def sharding_function(
    sharding: ShardingRule | None,
) -> Callable[[str, tuple[int, ...]], Sharding]:
    """Return any form of :data:`ShardingRule` as a function of path and shape.

    Args:
        sharding: The rule; the first local device if None.
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
    """Place the arrays of a model that is already in memory.

    Args:
        tree: A model, or any pytree; leaves that are not arrays are left unchanged.
        sharding: Placement of the arrays, usually a mesh. Paths are those of
            ``jax.tree_util.keystr``.

    Returns:
        The same model with placed arrays. (``jaxinv.load(..., sharding=mesh)`` never
        holds the whole checkpoint on one device.)
    """
    place = sharding_function(sharding)

    def put(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return jax.device_put(leaf, place(name, leaf.shape))

    return jax.tree_util.tree_map_with_path(put, tree)


def place_model(model: PyTree, mesh: Mesh) -> PyTree:
    """Return arrays on a mesh: unchanged if they are on it, otherwise copied to it."""
    everywhere = NamedSharding(mesh, P())
    devices = set(mesh.devices.flat)

    def place(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return jax.device_put(jnp.asarray(leaf), everywhere)

    return jax.tree.map(place, model)


def check_mesh(mesh: Mesh) -> int:
    """Return the number of parts that a mesh divides samples into.

    Raises:
        ValueError: If the mesh has no axis ``data``.
    """
    if DATA not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis {DATA!r} for the samples, such as that of "
            f"jaxinv.mesh.make_mesh(); it has {tuple(mesh.axis_names)}"
        )
    return mesh.shape[DATA]


def over_data(part: Callable[..., Any], mesh: Mesh, shared: int) -> Callable[..., Any]:
    """Turn a function of one device's samples into one of the whole mesh's samples.

    If every device holds all parameters, each device runs the function by itself. If
    the parameters are divided, gathering them takes collectives, also within loops, and
    all devices must run these equally often: the partitioner then combines the loops of
    all samples into one loop, whose predicate is a collective, too.

    Args:
        part: The function. Its first arguments are the same on all devices; its other
            arguments and its results have a leading axis of samples.
        mesh: A mesh with an axis ``data``.
        shared: Number of arguments that are the same on all devices.
    """
    if math.prod(mesh.shape.values()) > check_mesh(mesh):
        return part

    def whole(*arguments: Any) -> Any:
        specs = tuple(P() if k < shared else P(DATA) for k in range(len(arguments)))
        return jax.shard_map(
            part, mesh=mesh, in_specs=specs, out_specs=P(DATA), check_vma=False
        )(*arguments)

    return whole
