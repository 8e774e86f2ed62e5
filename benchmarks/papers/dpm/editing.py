"""Background-preserving editing of generated images, without their original latents.

An image is made with the source prompt, decoded to 8 bits, and inverted with it; the
target prompt then starts from the recovered noise. Outside of a mask, states are
replaced by those of the inverted trajectory. *True states* is the same edit with the
original latents, which the inverse has to replace: those that the exact inverse finds
from the latent that was sampled.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxinv as ji
from benchmarks.papers.dpm.reconstruction import (
    DDIM,
    GUIDANCE,
    REGULAR,
    cell_of,
)
from benchmarks.papers.dpm.round_trip import (
    EVALS_PER_STEP,
    Made,
    image_of,
    latent_of,
    make,
    sampler_of,
    strategy_of,
)
from benchmarks.papers.protocol import (
    Cell,
    Measures,
)
from benchmarks.papers.setting import Setting
from benchmarks.samples import PROMPTS
from jaxinv.apps import editing, masks

#: From which share of the largest disagreement of two prompts the mask is 1.
THRESHOLD = 0.3
TRUE = "true states"


def cells_of(setting: Setting) -> Sequence[Cell]:
    """Return the cells: inverses, with and without kept states."""
    cells: list[Cell] = []
    for made in (DDIM, REGULAR):
        published = "algorithm 1" if made == DDIM else "algorithm 2"
        ways = [(TRUE, "none"), ("naive", "encoder"), ("naive", "gradient")]
        ways += [(published, "gradient"), ("ours", "gradient")]
        cells += [
            cell_of(made, GUIDANCE, inverse, made[2], decoder) | {"mask": mask}
            for inverse, decoder in ways
            for mask in (False, True)
        ]
    return cells


def prompts(setting: Setting, index: int) -> tuple[str, str]:
    """Return the source, and the target: another subject on the same background."""
    source = setting.prompt(index)
    subject, background = setting.prompt(index + 1), ""
    if setting.prompts == PROMPTS:
        background = " on " + source.split(" on ")[1]
        subject = subject.split(" on ", maxsplit=1)[0]
    return source, subject + background


def edited(setting: Setting, cell: Cell, index: int) -> tuple[Made, Any, Any]:
    """Return the image, the edited latent and the mask."""
    how = (cell["sampler"], cell["grid"], cell["steps"])
    source, target = prompts(setting, index)
    made = setting.shared(
        ("image", *how), lambda: make(setting, cell, setting.noise(index), source)
    )
    latent = setting.shared(
        ("image", cell["decoder"], *how),
        lambda: latent_of(setting, made, cell["decoder"]),
    )
    old, new = (setting.denoiser(text, cell["guidance"]) for text in (source, target))
    mask = setting.shared(
        ("image", "mask", *how),
        lambda: masks.prediction_mask(
            setting.pipe.schedule,
            old,
            new,
            made.latent,
            setting.key("mask", index),
            threshold=THRESHOLD,
        ),
    )
    options: dict[str, Any] = {"max_evals": EVALS_PER_STEP * cell["steps"]}
    if cell["inverse"] not in (TRUE, "ours"):
        options = {"strategy": strategy_of(setting, cell["inverse"])}
    edit = editing.edit(
        sampler_of(setting, *how),
        old,
        new,
        latent,
        mask=mask if cell["mask"] else None,
        **options,
    )
    return made, edit.latent, mask


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return what is kept outside of the mask, and what changes in it."""
    made, latent, mask = (
        first(setting, cell) if not index else edited(setting, cell, index)
    )
    before, after = made.image / 255, image_of(setting, latent) / 255
    inside = pixels_of(setting, mask) > 0
    kept = ~inside[..., None]
    return {
        "kept": float(ji.psnr(after, before, where=kept)) if kept.any() else None,
        "changed": _rms((after - before)[inside]) if inside.any() else None,
        "share": float(inside.mean()),
    }


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(values**2)))


def pixels_of(setting: Setting, mask: Any) -> np.ndarray:
    """Return a latent's mask in pixels."""
    return np.kron(np.asarray(mask)[..., 0], np.ones((setting.pipe.factor,) * 2))


def first(setting: Setting, cell: Cell) -> tuple[Made, Any, Any]:
    """Return the edit of image 0, which the figure shows, made once."""
    return setting.shared(("first", *cell.values()), lambda: edited(setting, cell, 0))
