"""How edits are shown: a table and a figure."""

from typing import Any

import numpy as np

from benchmarks.papers.dpm.editing import (
    THRESHOLD,
    cells_of,
    first,
    measure,
    pixels_of,
    prompts,
)
from benchmarks.papers.dpm.reconstruction import COMMAND, NOT_FOUND, OTHERS, PROJECT
from benchmarks.papers.dpm.round_trip import image_of
from benchmarks.papers.protocol import (
    Found,
    Table,
    needs_autoencoder,
    needs_prompts,
)
from benchmarks.report import interval, table
from jaxinv import plotting


def _show(found: Found) -> str:
    rows = []
    for cell, measures in found.cells:
        kept, changed = ([x[name] for x in measures] for name in ("kept", "changed"))
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
        made, latent, mask = first(setting, cell)
        name = f"{cell['sampler']}\n{cell['steps']} steps"
        if name not in rows:
            shade = pixels_of(setting, mask)
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
        cells_of,
        measure,
        _show,
        f"""{NOT_FOUND} {PROJECT} that exact inversion "improves
the background-preserving image editing of Patashnik et al.".""",
        f"{OTHERS} The paper edits with the method of Patashnik et al. "
        "(localizing object-level shape variations, ICCV 2023), whose masks come "
        "from attention; here the prompt is swapped, and the mask is DiffEdit's.",
        options=COMMAND,
        refuse=_refuse,
        draw=_draw,
    ),
)
