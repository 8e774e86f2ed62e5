"""BELM's interpolation: eleven points between two noises, or between two pictures."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import jaxinv as ji
from benchmarks.papers.belm.reconstruction import mse
from benchmarks.papers.belm.samplers import denoiser_of, sampled, sampler_of
from benchmarks.papers.belm.text import errors
from benchmarks.papers.protocol import Cell, Found, Measures, Table
from benchmarks.papers.setting import Setting
from benchmarks.report import interval, table
from jaxinv import plotting

#: Of scripts/interpolate.py.
POINTS = 11
STEPS = 100
GUIDANCE = 1.0
SAMPLERS = ("DDIM", "EDICT(0.93)", "BDIA(0.96)", "O-BELM")


def cells(setting: Setting) -> Sequence[Cell]:
    """Return what lies at the ends, and the samplers."""
    return [
        {"ends": ends, "sampler": name, "steps": STEPS}
        for ends in ("noises", "pictures")
        for name in SAMPLERS
    ]


def path(setting: Setting, cell: Cell, index: int) -> tuple[Any, Any]:
    """Return the latents of all points, and the two pictures' latents or None."""

    def make() -> tuple[Any, Any]:
        sampler = sampler_of(setting, cell["sampler"], "linspace", cell["steps"])
        denoise = denoiser_of(setting, setting.prompt(0), GUIDANCE)
        ends: Any = [setting.noise(2 * index), setting.noise(2 * index + 1)]
        latents = None
        if cell["ends"] == "pictures":
            prompt = setting.prompt(0)
            latents = [
                sampled(setting, 2 * index + k, prompt, GUIDANCE) for k in (0, 1)
            ]
            strategy = "auto" if sampler.bidirectional else "naive"
            ends = [
                ji.invert(sampler, denoise, x, strategy=strategy, verify=False).state
                for x in latents
            ]
        points = [
            ji.sample(sampler, denoise, ji.interpolate(*ends, t))
            for t in np.linspace(0, 1, POINTS)
        ]
        return jax.device_get((points, latents))

    return setting.shared(("path", *cell.values(), index), make)


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return the errors of the ends, and the largest step of the path."""
    points, latents = path(setting, cell, index)
    lengths = [np.linalg.norm(b - a) for a, b in itertools.pairwise(points)]
    largest = float(max(lengths) / sum(lengths))
    found: dict[str, Any] = {"largest": largest if np.isfinite(largest) else None}
    if latents is not None:
        found["ends"] = mse([points[0], points[-1]], latents)
    return found


def show(found: Found) -> str:
    """Return a row per cell."""
    rows = []
    for cell, measures in found.cells:
        known = [one["largest"] for one in measures if one["largest"] is not None]
        ends = [one["ends"] for one in measures if "ends" in one]
        rows.append(
            [
                cell["ends"],
                cell["sampler"],
                cell["steps"],
                len(measures),
                interval(known, 2),
                errors(ends),
            ]
        )
    header = "ends | sampler | steps | pairs | largest step | MSE of the ends"
    return f"""{table(header, rows)}

*Largest step*: its share of the length of the path through {POINTS} points, 0.1 if all
are equal. *Ends*: the MSE of the two pictures' latents to both ends of the path.
Spherical between the noises; of bidirectional samplers all of the state is mixed with
the noise's weights (`jaxinv.interpolate`), in the script the noise alone. DDIM is
inverted naively. Pictures are samples of the model's own. In brackets 95 % by bootstrap
over the pairs."""


def draw(found: Found) -> Any:
    """Draw the first pair of every cell."""
    setting, rows = found.setting, []
    for cell, measures in found.cells:
        points, _ = path(setting, cell, 0)
        tiles = [
            plotting.Tile(np.asarray(setting.pipe.decode(x)), f"t = {t:.1f}")
            for x, t in zip(points, np.linspace(0, 1, POINTS), strict=True)
        ]
        if "ends" in measures[0]:
            caption = f"ends {measures[0]['ends']:.1e}"
            tiles[0] = tiles[0]._replace(caption=caption)
        rows.append(plotting.Row(f"{cell['sampler']}\n{cell['ends']}", tiles))
    return plotting.panel(
        rows,
        f"Between two noises, and between two pictures: {setting.label}",
        f"{STEPS} steps. Ends: MSE of both pictures' latents.",
    )


INTERPOLATION = Table(
    "belm-interpolation",
    "Interpolation (number of the figure not found here)",
    "eleven points between two noises and between two pictures",
    None,
    cells,
    measure,
    show,
    """A figure without numbers, which could not be read here. The authors' script
(`scripts/interpolate.py`, README) mixes two random noises spherically at 0, 0.1, ..., 1
and samples them with O-BELM and 100 steps, without prompts.""",
    """The authors' model makes faces (`ddpm-ema-celebahq-256`); here are emoji. Models
with text take their first prompt for all points.""",
    options="--images 10",
    models=("google/ddpm-ema-celebahq-256",),
    draw=draw,
)
