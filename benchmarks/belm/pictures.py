"""Pictures: between two held-out emoji, and all samplers side by side."""

import argparse
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.belm.setting import SAMPLERS, Setting, alike, make, sample_all, steps_of
from benchmarks.samples import PROMPTS, make_samples
from jaxinv.plotting import Row, Tile, panel, save_figure

TITLE = "Pictures"


def add_arguments(group: Any) -> None:
    group.add_argument("--between-steps", type=int, default=50)
    group.add_argument("--between-points", type=int, default=7)
    group.add_argument("--sheet-evaluations", type=int, default=20)
    group.add_argument("--sheet-samples", type=int, default=len(PROMPTS))
    group.add_argument(
        "--sheet-converged",
        type=int,
        default=200,
        help="steps of 2M whose samples stand for the converged ones",
    )


def cells(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    return [
        ("interpolation", arguments.between_steps, arguments.between_points),
        ("contact sheet", arguments.sheet_evaluations, arguments.sheet_samples),
    ]


def measure(setting: Setting, what: tuple[Any, ...], found: Any) -> dict[str, Any]:
    kind, number, count = what
    out = setting.arguments.out
    path = out.with_name(f"{out.stem}-{kind.replace(' ', '-')}.png")
    if kind == "interpolation":
        figure, facts = between(setting, number, count)
    else:
        figure, facts = contact_sheet(setting, number, count), {}
    save_figure(figure, path)
    return {"file": path.name, **facts}


def between(setting: Setting, steps: int, points: int) -> tuple[Any, dict[str, Any]]:
    """Two held-out emoji, and what lies between their states at the noise end.

    The prompts' vectors are mixed along a straight line: at either end each emoji has
    the prompt with which it was inverted. Integers keep the ends to the bit.
    """
    pipe = setting.pipe
    pictures = setting.held_out(2)
    sampler = alike(make("O-BELM", pipe.schedule, steps))
    latents = [pipe.encode(image) for image in pictures.images]
    vectors = [pipe.encode_prompt(caption) for caption in pictures.captions]
    weight = jnp.float32(1)  # an array: one program with the other sections
    states = [
        ji.invert(
            sampler, pipe.denoiser(v, setting.empty, weight), x, arithmetic="bits"
        ).state
        for x, v in zip(latents, vectors, strict=True)
    ]
    tiles, found = [], []
    for t in np.linspace(0, 1, points):
        vector = (1 - t) * vectors[0] + t * vectors[1]
        denoise = pipe.denoiser(vector, setting.empty, weight)
        state = end_state(states, t)
        x = ji.sample(sampler, denoise, state, arithmetic="bits")
        found.append(x)
        tiles.append(Tile(pipe.decode(x), f"t = {t:.2f}"))
    ends = [float(ji.nmse_db(found[k], latents[k])) for k in (0, -1)]
    real = [
        Tile(np.asarray(image, np.float64), "held-out picture")
        for image in pictures.images
    ]
    empty = [None] * (points - 2)
    figure = panel(
        [Row("real", [real[0], *empty, real[1]]), Row("O-BELM", tiles)],
        "Between two held-out emoji: spherical, on the pair of states",
        f"Ends to their encoded latents: {ends[0]:.0f} and {ends[1]:.0f} dB; "
        + " - ".join(pictures.captions),
    )
    return figure, {"ends_db": ends}


def end_state(states: list[Any], t: float) -> Any:
    """Return the state between two, which are themselves at the ends, with integers."""
    if t in (0, 1):
        return states[int(t)]
    # Between, integers are made anew of the mixed values.
    floats = [
        dataclasses.replace(state, words=None, arithmetic="float") for state in states
    ]
    return ji.interpolate(*floats, t)


def contact_sheet(setting: Setting, evaluations: int, count: int) -> Any:
    """Return a row per sampler, a column per prompt."""
    pipe, converged = setting.pipe, setting.arguments.sheet_converged
    samples = make_samples(pipe, count, setting.arguments.seed)
    problems = [(name, evaluations) for name in SAMPLERS] + [("2M", converged)]
    found = {
        problem: sample_all(
            setting,
            make(problem[0], pipe.schedule, steps_of(*problem)),
            samples,
            3.0,
        )
        for problem in problems
    }
    reference = found["2M", converged]
    rows = []
    for name, number in problems:
        tiles = []
        for k, x in enumerate(found[name, number]):
            nmse = float(ji.nmse_db(x, reference[k]))
            caption = "" if number == converged else f"{nmse:.1f} dB"
            title = PROMPTS[k % len(PROMPTS)].split(" on ")[0]
            tiles.append(Tile(np.asarray(pipe.decode(x)), title, caption))
        label = name.replace(" ", "\n")
        rows.append(Row(f"{label}\n{number} eval.", tiles))
    return panel(
        rows,
        f"{evaluations} evaluations, guidance 3, the same noises",
        f"dB: latent NMSE to 2M with {converged} steps.",
    )


def report(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Show them."""
    parts = []
    for (kind, number, _), value in found.items():
        if kind == "interpolation":
            ends = " and ".join(f"{db:.1f}" for db in value["ends_db"])
            parts.append(
                f"Between two held-out emoji, O-BELM, {number} steps, integer "
                f"arithmetic, guidance 1. The ends return with an NMSE of {ends} dB of "
                "their latents (-inf: identical bits)."
            )
        parts.append(f"![{kind}]({value['file']})")
    return "\n\n".join(parts)
