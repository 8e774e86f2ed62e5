"""Model configurations, read from diffusers' own format.

Every model is described by the ``config.json`` that diffusers saves with its weights. A
configuration here is a frozen dataclass whose fields have the same names. Reading is
strict: an option value that this library does not implement raises an error that names
the option.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from jaxinv.checks import Length, Range, shown
from jaxinv.files.json_fields import as_tuple, check_fields

# Bounds on the numbers that describe a model: a few times the largest published values.
# Values beyond them are mistakes, and any accepted model can be built abstractly within
# seconds and in little memory.
Channels = Annotated[int, Range(1, 2**16)]
Heads = Annotated[int, Range(1, 2**12)]
Groups = Annotated[int, Range(1, 2**12)]
Layers = Annotated[int, Range(1, 64)]
Pixels = Annotated[int, Range(1, 2**16)]
Epsilon = Annotated[float, Range(0, 1)]
Factor = Annotated[float, Range(1e-6, 1e6)]
Shift = Annotated[float, Range(-1e6, 1e6)]
#: The activations of :func:`jaxinv.models.layers.basic.activation`.
Activation = Literal["gelu", "mish", "quick_gelu", "relu", "silu", "swish"]
Size = Pixels | tuple[Pixels, Pixels]
#: Number of blocks, and so the length of an option "per block".
Blocks = Length(1, 16)
# What training code that averages weights (diffusers' EMAModel) adds to config.json.
_TRAINING = (
    "decay", "inv_gamma", "min_decay", "optimization_step", "power",
    "update_after_step", "use_ema_warmup",
)  # fmt: skip
#: Limit on a model's number of layers. SDXL's UNet has 80; building 128 takes 10 s.
MAX_LAYERS = 128


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Base of all configurations: the fields that diffusers saves, and their checks.

    Subclasses are frozen dataclasses that extend ``__post_init__``.
    """

    #: The class that the file names.
    class_name: ClassVar[str]
    #: Options that diffusers knows and this library does not implement, each with the
    #: values that turn it off.
    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    def __post_init__(self) -> None:
        """Raise ValueError, naming the class, unless all fields have their types."""
        try:
            check_fields(self)
        except ValueError as error:
            kind, text = type(self).__name__.removesuffix("Config"), str(error)
            if text.startswith("sample_size"):
                given = f"sample_size={shown(self.sample_size)}"  # type: ignore[attr-defined]
                text = f"{given} is not a height and width: {error}"
            raise ValueError(f"{kind}: {text}") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a ``config.json``.

        Args:
            data: The parsed JSON. Keys that begin with an underscore (diffusers' own
                bookkeeping, such as ``_class_name``) and those of averaged weights
                (``decay``) are ignored.

        Returns:
            The configuration, with JSON lists as tuples so that it is hashable.

        Raises:
            ValueError: If an option is unknown, not implemented, or inconsistent.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        values = {}
        for key, value in data.items():
            if not isinstance(key, str) or key.startswith("_") or key in _TRAINING:
                continue
            value = as_tuple(value)
            if key in fields:
                values[key] = value
            elif key in cls.unsupported:
                if value not in cls.unsupported[key]:
                    known = ", ".join(map(repr, cls.unsupported[key]))
                    raise ValueError(
                        f"{cls.__name__}: option {key}={shown(value)} is not "
                        f"implemented (implemented: {known})"
                    )
            elif value is not None:
                raise ValueError(
                    f"{cls.__name__}: unknown option {shown(key)}={shown(value)}"
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the ``config.json`` that diffusers reads, as JSON-ready values."""
        return {
            "_class_name": self.class_name,
            **{
                field.name: as_list(getattr(self, field.name))
                for field in dataclasses.fields(self)
            },
        }


def as_list(value: Any) -> Any:
    """Turn tuples into lists, at every depth."""
    return list(map(as_list, value)) if isinstance(value, list | tuple) else value


def check_num_layers(count: int) -> None:
    """Raise ValueError for a model of more than :data:`MAX_LAYERS` layers."""
    if count > MAX_LAYERS:
        raise ValueError(
            f"the model would have {count} layers; at most {MAX_LAYERS} are supported"
        )


def per_block(name: str, value: Any, num_blocks: int) -> tuple[Any, ...]:
    """Spread an option that is given once, or once per block, over all blocks.

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
