"""The options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

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
MAX_SEED = 2**32 - 1
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
