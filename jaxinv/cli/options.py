"""Options of the command line, each declared once.

A command takes one value, a frozen dataclass. Its fields are the options, in the order
in which ``--help`` lists them. What several commands share is declared here: fields,
and dataclasses that may be fields of others. :func:`unfold` shows Typer the fields.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_type_hints

import typer

from jaxinv.cli.console import listed
from jaxinv.cli.samplers import EXACT_NAMES, ONE_ARRAY_NAMES
from jaxinv.decoder_inversion import METHODS
from jaxinv.files.image_reading import MAX_PIXELS
from jaxinv.samplers.registry import SAMPLERS

MAX_SEED = 2**32 - 1

_NOTES = {name: named.note for name, named in SAMPLERS.items()}

#: What ``--help`` says of options that several commands have, and their short names.
_SHARED = {
    "prompt": ("What the image shows, in words.", "-p"),
    "negative_prompt": ("What guidance pushes away from.",),
    "model": (
        "'emoji64' (inside this package), a diffusers folder, a folder made by 'jaxinv "
        "convert', or a Hugging Face hub name.",
        "-m",
    ),
    "revision": ("Branch, tag or commit on the hub.",),
    "steps": ("Sampler steps.", "-n"),
    "guidance": (
        "Classifier-free guidance scale; as in diffusers, at most 1 is no guidance, "
        "and the prompt counts.",
        "-g",
    ),
    "sampler": (
        f"{listed(ONE_ARRAY_NAMES, _NOTES)}; or one that is exact by construction, "
        f"whose noise is a pair of arrays: {listed(EXACT_NAMES, _NOTES)}.",
    ),
    "spacing": (
        "Time grid: log-snr (keeps the noise; alias exponential), karras, or, for "
        "images made with diffusers: leading, trailing, linspace. On these, samplers "
        "that diffusers has step as its scheduler of that name does by default.",
    ),
    "decoder_inversion": (
        f"How the image becomes a latent: {listed(METHODS)}. Never worse than the "
        "encoder alone, by image.",
    ),
    "resize": (
        "Crop and resample an image of another size to the model's.",
        "--resize",
    ),
    "max_pixels": (
        "Larger pictures are refused; decoding takes up to 24 bytes a pixel.",
    ),
    "seed": ("Seed of the random noise.",),
    "out": ("The image to write.", "-o"),
    "as_json": ("Print one JSON object on standard output, no table.", "--json"),
}


def option(
    default: Any = ..., help: str | None = None, *names: str, **settings: Any
) -> Any:
    """Return a field that is an option.

    Args:
        default: Its value if it is not given; ``...`` if it has to be.
        help: What ``--help`` says of it; None for an option that is shared.
        *names: Its names, if they are not the field's; or a short one beside it.
        **settings: More of :func:`typer.Option`.
    """

    def show(field: str) -> Any:
        text, *given = _SHARED[field] if help is None else (help, *names)
        if not any(name.startswith("--") for name in given):
            given.insert(0, f"--{field.replace('_', '-')}")
        return typer.Option(*given, help=text, **settings)

    value = {} if default is ... else {"default": default}
    return dataclasses.field(metadata={"show": show}, **value)


def argument(help: str, **settings: Any) -> Any:
    """Return a field that is an argument.

    Args:
        help: What ``--help`` says of it.
        **settings: More of :func:`typer.Argument`.
    """
    shown = typer.Argument(help=help, **settings)
    return dataclasses.field(metadata={"show": lambda _: shown})


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A model and how it samples: the options that nearly all commands have."""

    negative_prompt: str = option("")
    model: str = option("emoji64")
    revision: str | None = option(None)
    steps: int = option(20)
    guidance: float = option(3.0)
    sampler: str = option("ddim")
    spacing: str = option("log_snr")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read."""

    resize: bool = option(False)
    max_pixels: int = option(MAX_PIXELS, min=1)


def unfold(command: Callable[[Any], None]) -> Callable[..., None]:
    """Return a command as Typer wants it: one parameter for each field.

    Args:
        command: Takes one annotated argument, an instance of a dataclass.

    Returns:
        The command with the fields as its parameters, and for fields that are
        dataclasses themselves theirs.
    """
    (kind,) = (
        hint for name, hint in get_type_hints(command).items() if name != "return"
    )

    def unfolded(**options: Any) -> None:
        command(_folded(kind, options))

    unfolded.__name__, unfolded.__doc__ = command.__name__, command.__doc__
    unfolded.__signature__ = inspect.Signature(list(_parameters(kind)))  # type: ignore[attr-defined]
    return unfolded


def _parameters(kind: type) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _parameters(hint)  # type: ignore[arg-type]
            continue
        default = field.default
        if default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[hint, field.metadata["show"](name)],
        )


def _folded(kind: Any, options: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass made of those options that it has."""
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _folded(hints[field.name], options)
            if dataclasses.is_dataclass(hints[field.name])
            else options[field.name]
            for field in dataclasses.fields(kind)
        }
    )
