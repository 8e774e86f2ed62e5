"""Reading model configurations in diffusers' own format.

Every model is described by the ``config.json`` that diffusers saves with its weights. A
configuration here is a frozen dataclass whose fields carry the same names, so that the
file is read by name. Reading is strict: an option that is set to something this library
does not implement is an error that names the option, never a silently different model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

_Config = TypeVar("_Config")


def config_from_dict(
    cls: type[_Config],
    data: Mapping[str, Any],
    unsupported: Mapping[str, tuple[Any, ...]],
) -> _Config:
    """Builds a configuration dataclass from a diffusers ``config.json``.

    Args:
        cls: The dataclass to build.
        data: The parsed JSON. Keys that begin with an underscore (diffusers' own
            bookkeeping, such as ``_class_name``) are ignored.
        unsupported: Options that diffusers knows and this library does not implement,
            each with the values that leave it switched off.

    Returns:
        The configuration, with JSON lists as tuples so that it is hashable.

    Raises:
        ValueError: If an option is unknown, or set to something not implemented.
    """
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        if key.startswith("_"):
            continue
        value = as_tuple(value)
        if key in fields:
            values[key] = value
        elif key in unsupported:
            if value not in unsupported[key]:
                raise ValueError(
                    f"{cls.__name__}: option {key}={value!r} is not implemented "
                    f"(implemented: {', '.join(map(repr, unsupported[key]))})"
                )
        elif value is not None:
            raise ValueError(f"{cls.__name__}: unknown option {key}={value!r}")
    return cls(**values)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration dataclass as JSON-ready values (tuples as lists)."""
    return {
        field.name: as_list(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def as_tuple(value: Any) -> Any:
    """Turns lists into tuples, at every depth."""
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value


def as_list(value: Any) -> Any:
    """Turns tuples into lists, at every depth."""
    return list(map(as_list, value)) if isinstance(value, list | tuple) else value


def per_block(name: str, value: Any, num_blocks: int) -> tuple[Any, ...]:
    """Spreads an option that is given once, or once per block, over all blocks.

    Args:
        name: The option's name, for the error message.
        value: A single value or a tuple with one value per block.
        num_blocks: Number of blocks.

    Returns:
        A tuple of ``num_blocks`` values.

    Raises:
        ValueError: If a tuple of another length is given.
    """
    if not isinstance(value, tuple):
        return (value,) * num_blocks
    if len(value) != num_blocks:
        raise ValueError(
            f"{name} has {len(value)} values, but block_out_channels describes "
            f"{num_blocks} blocks"
        )
    return value
