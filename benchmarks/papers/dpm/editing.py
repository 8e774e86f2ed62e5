"""Background-preserving editing of generated images, without their original latents.

An image is made with the source prompt, decoded to 8 bits, and inverted with it; the
target prompt then starts from the recovered noise. Outside of a mask, states are
replaced by those of the inverted trajectory. *True states* is the same edit from the
original noise and latents, which the inverse has to replace.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxinv as ji
from benchmarks.papers.dpm.reconstruction import (
    DDIM,
    GUIDANCE,
    NOT_FOUND,
    OTHERS,
    PROJECT,
    REGULAR,
    cell_of,
)
from benchmarks.papers.dpm.round_trip import (
    Made,
    image_of,
    latent_of,
    make,
    sampler_of,
    strategy_of,
)
from benchmarks.papers.protocol import (
    Cell,
    Found,
    Measures,
    Table,
    needs_autoencoder,
    needs_prompts,
)
from benchmarks.papers.setting import Setting
from benchmarks.report import interval, table
from benchmarks.samples import PROMPTS
from jaxinv import plotting
from jaxinv.apps import editing, masks

#: From which share of the largest disagreement of two prompts the mask is 1.
THRESHOLD = 0.3
TRUE = "true states"


def _cells(setting: Setting) -> Sequence[Cell]:
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
    mask = masks.prediction_mask(
        setting.pipe.schedule,
        old,
        new,
        latent,
        setting.key("mask", index),
        threshold=THRESHOLD,
    )
    if cell["inverse"] in (TRUE, "ours"):
        # The exact inverse of what was sampled finds the true states.
        options: dict[str, Any] = {}
    else:
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
        _first(setting, cell) if not index else edited(setting, cell, index)
    )
    before, after = made.image / 255, image_of(setting, latent) / 255
    inside = np.kron(np.asarray(mask)[..., 0], np.ones((setting.pipe.factor,) * 2)) > 0
    kept = ~inside[..., None]
    return {
        "kept": float(ji.psnr(after, before, where=kept)) if kept.any() else None,
        "changed": _rms((after - before)[inside]) if inside.any() else None,
        "share": float(inside.mean()),
    }


def _rms(values: Any) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _first(setting: Setting, cell: Cell) -> tuple[Made, Any, Any]:
    return setting.shared(("first", *cell.values()), lambda: edited(setting, cell, 0))


def _show(found: Found) -> str:
    rows = []
    for cell, measures in found.cells:
        kept, changed = (
            [x[name] for x in measures if x[name] is not None]
            for name in ("kept", "changed")
        )
        rows.append(
            [
                f"{cell['sampler']} {cell['steps']} {cell['grid']}",
                f"{cell['inverse']}, {cell['decoder']}",
                "yes" if cell["mask"] else "no",
                len(measures),
                interval(kept, 1),
                interval(changed, 2),
            ]
        )
    share = np.mean([one["share"] for _, all_ in found.cells for one in all_])
    header = "sampler|inverse, decoder|states kept|images|background PSNR, dB|changed"
    return (
        table(header + ", RMS", rows)
        + f"""

The mask is where the two prompts' predictions differ (DiffEdit's, threshold
{THRESHOLD}), {share:.0%} of an image on average. Background: PSNR outside of the mask
against the image before the edit, whether states were kept there or not; *changed*: the
difference inside of it."""
    )


def _draw(found: Found) -> Any:
    setting = found.setting
    source, target = prompts(setting, 0)
    rows: dict[str, list[Any]] = {}
    for cell, measures in found.cells:
        made, latent, mask = _first(setting, cell)
        name = f"{cell['sampler']}\n{cell['steps']} steps"
        if name not in rows:
            shade = np.kron(
                np.asarray(mask)[..., 0], np.ones((setting.pipe.factor,) * 2)
            )
            rows[name] = [
                plotting.Tile(made.image / 255, "image"),
                plotting.Tile(np.repeat(shade[..., None], 3, -1), "mask"),
            ]
        way = f"{cell['inverse']},\n{cell['decoder']}{', mask' if cell['mask'] else ''}"
        kept = measures[0]["kept"]
        caption = "" if kept is None else f"kept {kept:.1f} dB"
        rows[name].append(plotting.Tile(image_of(setting, latent) / 255, way, caption))
    return plotting.panel(
        [plotting.Row(name, tiles) for name, tiles in rows.items()],
        f"{source} -> {target}",
        "Bright in the mask: what may change.",
    )


def _refuse(pipe: Any) -> str | None:
    return needs_prompts(pipe) or needs_autoencoder(pipe)


EDITING = (
    Table(
        "dpm-editing",
        "Background-preserving editing (number of the figure not found here)",
        "what an edit keeps of the background, by inverse",
        None,
        _cells,
        measure,
        _show,
        f"""{NOT_FOUND} {PROJECT[4:].capitalize()} says that exact inversion "improves
the background-preserving image editing of Patashnik et al.".""",
        f"{OTHERS} The paper edits with the method of Patashnik et al. "
        "(localizing object-level shape variations, ICCV 2023), whose masks come "
        "from attention; here the prompt is swapped, and the mask is DiffEdit's.",
        refuse=_refuse,
        draw=_draw,
    ),
)
