"""A model's parameters as a flat mapping, and back.

A parameter's path is its chain of attribute names and list indices joined by dots, such
as ``down_blocks.0.resnets.1.conv1.kernel``.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from flax import nnx

_Module = TypeVar("_Module", bound=nnx.Module)


def parameters(module: nnx.Module) -> dict[str, Any]:
    """Return a model's parameters by path.

    Args:
        module: The model; it may be abstract.

    Returns:
        Arrays, or ``jax.ShapeDtypeStruct`` if the model is abstract.
    """
    flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {_dotted(path): param.get_value() for path, param in flat}


def with_parameters(module: _Module, values: Mapping[str, Any]) -> _Module:
    """Return the model with all of its parameters replaced.

    Args:
        module: The model; it may be abstract. It is not changed.
        values: One value for each path that :func:`parameters` returns.

    Returns:
        A new model.

    Raises:
        KeyError: If a path is missing.
    """
    graph, state = nnx.split(module)
    flat = [
        (path, param.replace(values[_dotted(path)]))
        for path, param in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))
