r"""Meshes of devices: where parameters and samples live.

A mesh has two axes. Samples are spread over ``data``: every device works on its own
part of a batch, and since each sample has its own stopping test, devices need not
communicate. Parameters are spread over ``model`` if one device cannot hold them all:
each array along its largest dimension that divides evenly. XLA's partitioner then
brings the parts together where they are used.

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
from jaxtyping import Array

from jaxinv.checks import AtLeastOne, checked

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


@checked
def make_mesh(
    model: AtLeastOne = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Return a mesh of devices: samples over ``data``, parameters over ``model``.

    Args:
        model: number of devices that share one copy of the parameters.
        devices: the devices; all devices of all processes if None.

    Returns:
        A mesh of shape (devices / model, model).

    Raises:
        ValueError: if the number of devices is no multiple of ``model``.

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
    # Automatic: models leave it to the compiler where their activations go.
    grid = np.asarray(found).reshape(-1, model)
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def parameter_rule(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """Return a rule that divides each parameter's largest dimension over ``model``.

    Only dimensions that divide evenly count. Of equally large ones the last is taken,
    which is the output of a layer. A parameter without such a dimension is copied to
    every device. Over ``data`` all parameters are copied.

    Args:
        mesh: a mesh with an axis ``model``, or without one for copies everywhere.

    Returns:
        A function of a parameter's path and shape, for :func:`jaxinv.load` and
        :func:`jaxinv.loading.checkpoint.load_component`.
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
    """Return any form of :data:`ShardingRule` as a function of path and shape.

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
    """Place the arrays of a model that is already in memory.

    Args:
        tree: a model, or any pytree; leaves that are not arrays are left unchanged.
        sharding: where the arrays go, usually a mesh. Paths are those of
            ``jax.tree_util.keystr``.

    Returns:
        The same model with its arrays in their places. Reading a checkpoint with
        ``jaxinv.load(..., sharding=mesh)`` never holds it whole on one device.
    """
    place = sharding_function(sharding)

    def put(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return jax.device_put(leaf, place(name, leaf.shape))

    return jax.tree_util.tree_map_with_path(put, tree)


def place_model(arrays: list[Any], mesh: Mesh) -> list[Array]:
    """Return arrays on a mesh: unchanged if they are on it, otherwise copied to it."""
    everywhere = NamedSharding(mesh, P())
    devices = set(mesh.devices.flat)

    def place(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return jax.device_put(jnp.asarray(leaf), everywhere)

    return [place(leaf) for leaf in arrays]


def check_mesh(mesh: Mesh) -> int:
    """Return the number of parts that a mesh divides samples into.

    Raises:
        ValueError: if the mesh has no axis ``data``.
    """
    if DATA not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis {DATA!r} for the samples, as that of "
            f"jaxinv.mesh.make_mesh(); it has {tuple(mesh.axis_names)}"
        )
    return mesh.shape[DATA]


def over_data(part: Callable[..., Any], mesh: Mesh, shared: int) -> Callable[..., Any]:
    """Return a function of one device's samples as one of the whole mesh's samples.

    If every device holds all parameters, each device runs the function by itself. If
    the parameters are in parts, bringing them together takes collectives, also within
    loops, and all devices have to run these equally often: the partitioner then sees
    the loops of all samples as one loop, whose predicate is a collective, too.

    Args:
        part: the function. Its first arguments are the same on all devices; its other
            arguments and its results have a leading axis of samples.
        mesh: a mesh with an axis ``data``.
        shared: number of arguments that are the same on all devices.
    """
    if math.prod(mesh.shape.values()) > check_mesh(mesh):
        return part

    def whole(*arguments: Any) -> Any:
        specs = tuple(P() if k < shared else P(DATA) for k in range(len(arguments)))
        return jax.shard_map(
            part, mesh=mesh, in_specs=specs, out_specs=P(DATA), check_vma=False
        )(*arguments)

    return whole
