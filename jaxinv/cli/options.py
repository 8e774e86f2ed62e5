"""Options of the command line, each declared once.

A command takes one value, a frozen dataclass whose fields are its options, in the order
in which ``--help`` lists them. Fields may be such dataclasses in turn: what several
commands share is declared here. :func:`unfold` shows Typer the fields one by one.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from jaxinv.files.image_reading import MAX_PIXELS

MAX_SEED = 2**32 - 1

ImageArgument = Annotated[Path, typer.Argument(help="The image to invert.")]
Prompt = Annotated[
    str, typer.Option("--prompt", "-p", help="What the image shows, in words.")
]
NegativePrompt = Annotated[
    str, typer.Option("--negative-prompt", help="What guidance pushes away from.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="'emoji64' (inside this package), a diffusers folder, a folder made by "
        "'jaxinv convert', or a Hugging Face hub name.",
    ),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")
]
Steps = Annotated[int, typer.Option("--steps", "-n", help="Sampler steps.")]
Guidance = Annotated[
    float,
    typer.Option(
        "--guidance",
        "-g",
        help="Classifier-free guidance scale; as in diffusers, at most 1 is no "
        "guidance, and the prompt counts.",
    ),
]
SamplerName = Annotated[
    str,
    typer.Option(
        "--sampler",
        help="ddim, dpmpp-2m, dpmpp-3m (DPM-Solver++), dpm-solver-2m, deis, ipndm, "
        "unip (UniPC without its corrector), euler; or one that is exact by "
        "construction, whose noise is a pair of arrays: o-belm, o-belm-log-snr (for "
        "few steps), bdia, edict.",
    ),
]
Grid = Annotated[
    str,
    typer.Option(
        "--spacing",
        help="Time grid: log-snr (keeps the noise; alias exponential), karras, or, for "
        "images made with diffusers: leading, trailing, linspace. On these, samplers "
        "that diffusers has step as its scheduler of that name does by default.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output, no table."),
]
Seed = Annotated[
    int,
    typer.Option("--seed", help="Seed of the random noise.", min=0, max=MAX_SEED),
]
ImageFile = Annotated[Path, typer.Option("--out", "-o", help="The image to write.")]
DecoderInversion = Annotated[
    str,
    typer.Option(
        "--decoder-inversion",
        help="How the image becomes a latent: encoder (alone), anderson, "
        "forward-step, inertial-km, adam (these need no gradient), gradient or "
        "gauss-newton. Never worse than the encoder, by image.",
    ),
]
Resize = Annotated[
    bool,
    typer.Option(
        "--resize", help="Crop and resample an image of another size to the model's."
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        help="Larger pictures are refused; decoding takes up to 24 bytes a pixel.",
        min=1,
    ),
]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A model and how it samples: the options that nearly all commands have."""

    negative_prompt: NegativePrompt = ""
    model: Model = "emoji64"
    revision: Revision = None
    steps: Steps = 20
    guidance: Guidance = 3.0
    sampler: SamplerName = "ddim"
    spacing: Grid = "log_snr"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read."""

    resize: Resize = False
    max_pixels: MaxPixels = MAX_PIXELS


def unfold(command: Callable[[Any], None]) -> Callable[..., None]:
    """Return a command as Typer wants it: one parameter for each field.

    Args:
        command: Takes one annotated argument, an instance of a dataclass.

    Returns:
        The same command with the fields as its parameters, and those of fields that
        are dataclasses themselves in their place.
    """
    (settings,) = get_type_hints(command).keys() - {"return"}
    kind = get_type_hints(command)[settings]

    def unfolded(**options: Any) -> None:
        command(_folded(kind, options))

    unfolded.__name__, unfolded.__doc__ = command.__name__, command.__doc__
    unfolded.__signature__ = inspect.Signature(list(_parameters(kind)))  # type: ignore[attr-defined]
    return unfolded


def _parameters(kind: type, default: Any = None) -> Iterator[inspect.Parameter]:
    """Yield the fields of a dataclass; their defaults are those of an instance."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, value = hints[field.name], getattr(default, field.name, field.default)
        if dataclasses.is_dataclass(hint):
            yield from _parameters(hint, value)  # type: ignore[arg-type]
        else:
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty
                if value is dataclasses.MISSING
                else value,
                annotation=hint,
            )


def _folded(kind: Any, options: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass made of all options that it has."""
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _folded(hints[field.name], options)
            if dataclasses.is_dataclass(hints[field.name])
            else options[field.name]
            for field in dataclasses.fields(kind)
        }
    )
