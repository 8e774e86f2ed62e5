"""Options of the command line, each declared once.

A command takes one value, a frozen dataclass. Its fields are the options, in the order
of ``--help``. This module declares the options that several commands share: fields, and
dataclasses for fields of other dataclasses. :func:`unfold` passes the fields to Typer.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from jaxinv.cli.console import listed
from jaxinv.cli.samplers import EXACT_NAMES, ONE_ARRAY_NAMES
from jaxinv.decoder_inversion import METHODS
from jaxinv.files.image_reading import MAX_PIXELS
from jaxinv.inversion.strategies import EVALS_PER_ROW
from jaxinv.samplers.registry import SAMPLERS

MAX_SEED = 2**32 - 1

_NOTES = {name: named.note for name, named in SAMPLERS.items()}

#: Help texts and short names of options that several commands have.
_SHARED = {
    "prompt": (
        "Prompt that describes the image; required by models that take one.",
        "-p",
    ),
    "prompt_embeddings": (
        "File of 'jaxinv encode': prompts are looked up in it by their texts, and the "
        "text encoders are not loaded. Without --prompt, its only prompt.",
    ),
    "negative_prompt": ("Prompt from which guidance pushes away.",),
    "model": (
        "'emoji64' or 'emoji16' (inside this package), a diffusers folder, a folder "
        "made by 'jaxinv convert', a safetensors file in the original layout, or a "
        "Hugging Face hub name.",
        "-m",
    ),
    "revision": ("Branch, tag or commit on the hub.",),
    "lora": (
        "LoRA file (safetensors) to add to the model, with its scale: "
        "style.safetensors:0.8. Without a number the scale is 1; can be repeated.",
    ),
    "textual_inversion": (
        "File of textual inversion (safetensors) with its word in prompts: "
        "cat.safetensors:<cat>. Without a word it is that of the file; can be "
        "repeated.",
    ),
    "prompt_chunks": (
        "Number of chunks that prompts are read in; each holds as many tokens as the "
        "text encoder reads.",
    ),
    "config": (
        "For a model in one file: a diffusers folder with its configurations, "
        "tokenizers and scheduler [those that diffusers takes for it].",
    ),
    "vae": (
        "Autoencoder in place of the model's: a folder, a safetensors file or a hub "
        "name.",
    ),
    "steps": ("Number of sampler steps.", "-n"),
    "guidance": (
        "Classifier-free guidance scale; at most 1 disables guidance, as in diffusers "
        "[3; 1 for models without guidance]. FLUX.1 dev takes the scale as an "
        "input [3.5].",
        "-g",
    ),
    "sampler": (
        f"In place of --scheduler: {listed(ONE_ARRAY_NAMES, _NOTES)}; or one that is "
        "exact by construction, whose noise is a pair of arrays: "
        f"{listed(EXACT_NAMES, _NOTES)}. With --spacing alone it is ddim.",
    ),
    "spacing": (
        "Time grid of --sampler: log-snr (its default; preserves the noise; alias "
        "exponential), karras, or, for images from diffusers: leading, trailing, "
        "linspace. On the latter, samplers that exist in diffusers step like its "
        "scheduler with default options.",
    ),
    "scheduler": (
        "Take the steps of a diffusers scheduler: a scheduler_config.json, the folder "
        "that holds it, or 'own' for the model's [own; for the embedded model, whose "
        "images come from this program, --sampler ddim --spacing log-snr].",
    ),
    "height": ("Height of the image in pixels [the model's].",),
    "width": ("Width of the image in pixels [the model's].",),
    "decoder_inversion": (
        f"Method for the latent of the image: {listed(METHODS)}. By image error, never "
        "worse than the encoder alone.",
    ),
    "max_evals": (
        "Largest number of evaluations of the network to invert the sampler for an "
        "image; the verification of the result comes on top "
        f"[{EVALS_PER_ROW} per step].",
    ),
    "resize": (
        "Crop and resample images of other sizes to the model's size.",
        "--resize",
    ),
    "max_pixels": (
        "Limit on the pixels of an image; decoding takes up to 24 bytes per pixel.",
    ),
    "seed": ("Seed of the random noise.",),
    "out": ("The image to write.", "-o"),
    "as_json": ("Print one JSON object instead of a table.", "--json"),
}


def option(
    default: Any = ..., help: str | None = None, *names: str, **settings: Any
) -> Any:
    """Return a field that is an option.

    Args:
        default: The default value; ``...`` for a required option.
        help: The help text; None for a shared option.
        *names: The names if they differ from the field's, or an additional short name.
        **settings: Further arguments of :func:`typer.Option`.
    """

    def show(field: str) -> Any:
        text, *given = _SHARED[field] if help is None else (help, *names)
        if not any(name.startswith("--") for name in given):
            given.insert(0, f"--{field.replace('_', '-')}")
        # Brackets enclose defaults in words: they are no markup.
        return typer.Option(*given, help=escape(text), **settings)

    value = {} if default is ... else {"default": default}
    return dataclasses.field(metadata={"show": show}, **value)


def argument(help: str, **settings: Any) -> Any:
    """Return a field that is an argument.

    Args:
        help: The help text.
        **settings: Further arguments of :func:`typer.Argument`.
    """
    shown = typer.Argument(help=escape(help), **settings)
    return dataclasses.field(metadata={"show": lambda _: shown})


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Options for the model and how it reads prompts, which most commands have."""

    prompt_chunks: int = option(1, min=1, max=64)
    model: str = option("emoji64")
    revision: str | None = option(None)
    config: Path | None = option(None)
    lora: list[str] | None = option(None)
    textual_inversion: list[str] | None = option(None)


@dataclasses.dataclass(frozen=True)
class Sampling(Encoding):
    """Options for the model and the sampler, which most commands have."""

    negative_prompt: str = option("")
    prompt_embeddings: Path | None = option(None)
    vae: str | None = option(None)
    steps: int = option(20)
    guidance: float | None = option(None)
    sampler: str | None = option(None)
    spacing: str | None = option(None)
    scheduler: str | None = option(None)


@dataclasses.dataclass(frozen=True)
class Control:
    """Options for ControlNets and their images."""

    controlnet: list[str] | None = option(
        None,
        "Folder or hub name of a ControlNet to add to the model; can be repeated.",
    )
    control_image: list[Path] | None = option(
        None,
        "Image for the ControlNet, as large as the generated one; once for each "
        "ControlNet, in their order.",
    )
    control_scale: list[float] | None = option(
        None, "Factor of what a ControlNet adds [1]; once for each control image."
    )


@dataclasses.dataclass(frozen=True)
class Size:
    """Options for the size of a generated image."""

    height: int | None = option(None, min=1)
    width: int | None = option(None, min=1)


@dataclasses.dataclass(frozen=True)
class Reading:
    """Options for reading images."""

    resize: bool = option(False)
    max_pixels: int = option(MAX_PIXELS, min=1)


def unfold(command: Callable[[Any], None]) -> Callable[..., None]:
    """Turn a command into a function for Typer with one parameter for each field.

    Args:
        command: A function of one annotated argument, an instance of a dataclass.

    Returns:
        The command with the fields as parameters; fields that are dataclasses are
        replaced by their own fields.
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
    """Return an instance of a dataclass from its options among those given."""
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _folded(hints[field.name], options)
            if dataclasses.is_dataclass(hints[field.name])
            else options[field.name]
            for field in dataclasses.fields(kind)
        }
    )
