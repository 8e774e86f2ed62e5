"""Editing methods on exact inversions: contact sheets to look at.

    python -m benchmarks.editing_methods

Every row is a picture that the model generates from a source prompt, inverted with
DPM-Solver++(2M) and edited by every method to a target prompt. Each method has two
columns: its published shares of steps and layers, and shares that were chosen by eye
for `emoji64`. Layer numbers that were published for Stable Diffusion do not apply to
this network of three levels, which has four layers of self-attention instead of 16 and
six layers in its decoder instead of 12; the methods therefore take shares.

The table gives the distance of the edited latent from the source's, as NMSE in dB:
lower means that more of the source is kept, not that the edit is better.

Read by eye, four prompts and one seed (3): for a new background, Prompt-to-Prompt and
Plug-and-Play keep the dog, where a prompt swap makes another dog. For a new color,
Plug-and-Play keeps the outline and follows the prompt; Prompt-to-Prompt mixes the two
colors, less so with the smaller shares. MasaCtrl keeps the source's colors by design,
so with its published start neither color nor background changes fully. For an object of
another shape, sharing little or nothing looks best: what is shared is the old shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxinv as ji
from benchmarks.report import body, parse, parser, provenance, save, table
from jaxinv.apps.editing import METHODS
from jaxinv.plotting import Row, Tile, panel, save_figure

GUIDANCE = 3.0
#: Source and target prompts: color, object, background, object of another shape.
PROMPTS = (
    ("red heart on a light blue background", "green heart on a light blue background"),
    ("pizza on a white background", "soccer ball on a white background"),
    ("dog face on a white background", "dog face on a dark blue background"),
    ("red apple on a yellow background", "sun with face on a yellow background"),
)


class Column(NamedTuple):
    """A method with its options.

    Attributes:
        method: Its name.
        title: Title of its pictures.
        options: Options other than the published ones.
    """

    method: str
    title: str
    options: dict[str, Any]


#: Shares of emoji64, chosen by eye on these prompts at 20 steps.
COLUMNS = (
    Column("prompt_swap", "prompt swap", {}),
    Column("prompt_to_prompt", "Prompt-to-Prompt", {}),
    Column(
        "prompt_to_prompt",
        "P2P, 0.2 and 0.2",
        {"cross_steps": 0.2, "self_steps": 0.2},
    ),
    Column("masactrl", "MasaCtrl", {}),
    Column("masactrl", "MasaCtrl, from 0.5", {"first_step": 0.5}),
    Column("plug_and_play", "Plug-and-Play", {}),
    Column(
        "plug_and_play",
        "PnP, 0.3 and 0.5",
        {"attention_steps": 0.3, "feature_steps": 0.5},
    ),
)


class Edited(NamedTuple):
    """A source and what the methods made of it.

    Attributes:
        picture: The source's picture.
        pictures: The edited pictures, a column each.
        changes: Their distances from the source, in dB.
        reconstruction: Relative error of the inversion's reconstruction.
        converged: Whether the inversion converged.
    """

    picture: np.ndarray
    pictures: list[np.ndarray]
    changes: list[float]
    reconstruction: float
    converged: bool


def edit(pipe: ji.Pipeline, source: str, target: str, steps: int, seed: int) -> Edited:
    """Generate a picture, invert it exactly, and edit it by every method."""
    sampler = ji.dpmpp_2m(ji.time_grid(pipe.schedule, steps))
    denoise = pipe.denoiser(source, guidance_scale=GUIDANCE)
    noise = jax.random.normal(jax.random.key(seed), pipe.latent_shape)
    latent = ji.sample(sampler, denoise, noise)
    inversion = ji.invert(sampler, denoise, latent, return_trajectory=True)
    given: tuple[Any, ...] = (pipe, sampler, inversion, source, target)
    latents = [
        METHODS[each.method](*given, guidance_scale=GUIDANCE, **each.options)
        for each in COLUMNS
    ]
    return Edited(
        _picture(pipe, latent),
        [_picture(pipe, each) for each in latents],
        [float(ji.nmse_db(each, latent)) for each in latents],
        float(inversion.reconstruction),
        bool(inversion.converged),
    )


def _picture(pipe: ji.Pipeline, latent: Any) -> np.ndarray:
    return np.clip(np.asarray(_decode(pipe, latent)), 0, 1)


@jax.jit
def _decode(pipe: ji.Pipeline, latent: Any) -> Any:
    return pipe.decode(latent)


def main(argv: Sequence[str] | None = None) -> None:
    """Edit, and write the sheets and the report."""
    found = parser("editing_methods", __doc__)
    found.add_argument("--model", default="emoji64")
    found.add_argument("--seed", type=int, default=3)
    found.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    found.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many")
    arguments = parse(found, argv)
    pipe = ji.load(arguments.model)
    text = ["# Editing methods on exact inversions", body(__doc__)]
    for steps in arguments.steps:
        prompts = PROMPTS[: arguments.prompts]
        edits = [edit(pipe, *each, steps, arguments.seed) for each in prompts]
        file = arguments.out.with_name(f"{arguments.out.stem}-{steps}-steps.png")
        save_figure(_sheet(prompts, edits, f"{pipe.name}, {steps} steps"), file)
        text += _section(prompts, edits, steps, file.name)
    text.append(provenance(arguments.command, arguments.model))
    save(arguments.out, "\n\n".join(text) + "\n")


def _sheet(
    prompts: Sequence[tuple[str, str]], edits: Sequence[Edited], title: str
) -> Any:
    rows = []
    for (source, target), found in zip(prompts, edits, strict=True):
        tiles = [Tile(found.picture, "source")]
        for column, picture in zip(COLUMNS, found.pictures, strict=True):
            tiles.append(Tile(picture, column.title))
        words = f"{source}\nto: {target}".replace(" on a ", "\non a ")
        rows.append(Row(words, tiles))
    return panel(rows, title, f"guidance {GUIDANCE:g}, DPM-Solver++(2M), exact inverse")


def _section(
    prompts: Sequence[tuple[str, str]], edits: Sequence[Edited], steps: int, file: str
) -> list[str]:
    solved = sum(each.converged for each in edits)
    worst = max(each.reconstruction for each in edits)
    rows = [
        [target, *(f"{change:.1f}" for change in found.changes)]
        for (_, target), found in zip(prompts, edits, strict=True)
    ]
    return [
        f"## {steps} steps",
        f"{solved} of {len(edits)} inversions converged; the largest error of a "
        f"reconstruction is {worst:.1e}.",
        f"![Sources and edits]({file})",
        table(["target", *(column.title for column in COLUMNS)], rows),
    ]


if __name__ == "__main__":
    main()
