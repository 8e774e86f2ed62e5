"""BELM's editing: another prompt, with the first steps frozen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.papers.belm.reconstruction import mse
from benchmarks.papers.belm.samplers import denoiser_of, sampled, sampler_of
from benchmarks.papers.belm.text import errors
from benchmarks.papers.protocol import Cell, Found, Measures, Table, needs_prompts
from benchmarks.papers.setting import Setting
from benchmarks.report import table
from jaxinv import plotting
from jaxinv.apps import editing

#: Of scripts/image_editing.py.
GUIDANCE = 2.0
#: Steps and frozen steps: the script's, and with a quarter of both.
STEPS = ((200, 50), (50, 12), (50, 0))
#: Sampler, inverse: the script's, and ours.
ROWS = (
    ("DDIM", "naive"),
    ("EDICT(0.93)", "rows"),
    ("BDIA(0.96)", "rows"),
    ("O-BELM", "rows"),
    ("DDIM", "ours"),
)
EVALS_PER_STEP = 40
SHOWN = 3


def cells(setting: Setting) -> Sequence[Cell]:
    """Return samplers and steps."""
    return [
        {"sampler": name, "inverse": inverse, "steps": steps, "freeze": freeze}
        for steps, freeze in STEPS
        for name, inverse in ROWS
    ]


def target_of(setting: Setting, index: int) -> str:
    """Return the prompt of an edit: the next one's object on the same background."""
    words = " on "
    own, other = setting.prompt(index), setting.prompt(index + 1)
    if words in own and words in other:
        return other.split(words)[0] + words + own.split(words, 1)[1]
    return other


def edited(setting: Setting, cell: Cell, index: int) -> tuple[Any, Any]:
    """Return the image of the source and the edited one, in [0, 1]."""

    def make() -> tuple[Any, Any]:
        source = setting.prompt(index)
        latent = sampled(setting, index, source, GUIDANCE)
        options: dict[str, Any] = {}
        if cell["inverse"] == "naive":
            options = {"strategy": "naive"}
        elif cell["inverse"] == "ours":
            options = {"max_evals": EVALS_PER_STEP * cell["steps"]}
        found = editing.edit(
            sampler_of(setting, cell["sampler"], "linspace", cell["steps"]),
            denoiser_of(setting, source, GUIDANCE),
            denoiser_of(setting, target_of(setting, index), GUIDANCE),
            latent,
            freeze=cell["freeze"],
            verify=False,
            **options,
        )
        before, after = (setting.pipe.decode(x) for x in (latent, found.latent))
        return np.asarray(before), np.asarray(after)

    return setting.shared(("edit", *cell.values(), index), make)


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return how much the picture and its border changed."""
    before, after = edited(setting, cell, index)
    if not np.all(np.isfinite(after)):
        return {"picture": None, "border": None}
    outer = border(before.shape)
    return {"picture": mse(after, before), "border": mse(after[outer], before[outer])}


def border(shape: tuple[int, ...]) -> np.ndarray:
    """Return where the outer eighth of a picture is, on every side."""
    outer = np.ones(shape[:2], bool)
    height, width = (size // 8 for size in shape[:2])
    outer[height:-height, width:-width] = False
    return outer


def show(found: Found) -> str:
    """Return a row per cell."""
    rows = [
        [
            *cell.values(),
            len(measures),
            errors([one["picture"] for one in measures]),
            errors([one["border"] for one in measures]),
        ]
        for cell, measures in found.cells
    ]
    header = "sampler | inverse | steps | frozen | images | picture, MSE | border, MSE"
    return f"""{table(header, rows)}

How much of the picture changes, pixels in [0, 1]: all of it, and its border (the outer
eighth), which shows the background that both prompts name and should stay. Small
numbers for the whole picture also come from edits that do nothing: look at the figure.
The sources are samples of the model's own, guidance {GUIDANCE:g}; the target is the
next prompt's object on the same background. *Frozen*: first steps with the source's
prompt. *rows*: the bidirectional sampler's own inverse, from its state; *naive* and
*ours*: DDIM's, as in `belm-reconstruction`."""


def draw(found: Found) -> Any:
    """Draw the first images of every cell: the source, the edited one."""
    setting, rows = found.setting, []
    for cell, measures in found.cells:
        tiles = []
        for index in range(min(SHOWN, len(measures))):
            before, after = edited(setting, cell, index)
            source = setting.prompt(index).split(" on ")[0]
            target = target_of(setting, index).split(" on ")[0]
            tiles.append(plotting.Tile(before, source))
            value = measures[index]["border"]
            caption = "failed" if value is None else f"border {value:.1e}"
            shown = np.clip(np.nan_to_num(after), 0, 1)
            tiles.append(plotting.Tile(shown, target, caption))
        label = f"{cell['sampler']}\n{cell['inverse']}\n{cell['steps']} steps"
        rows.append(plotting.Row(f"{label}\n{cell['freeze']} frozen", tiles))
    return plotting.panel(
        rows,
        f"Another object on the same background: {setting.label}",
        f"Guidance {GUIDANCE:g}. Border: MSE of the outer eighth, which should stay.",
    )


EDITING = Table(
    "belm-editing",
    "Editing (number of the figure not found here)",
    "another prompt with the first steps frozen, by sampler",
    None,
    cells,
    measure,
    show,
    """A figure without numbers, which could not be read here. The authors' script
(`scripts/image_editing.py`, README) has 200 steps, 50 of them frozen, guidance 2, "A
dog" to "A Dalmatian" by default, p = 0.93 and gamma = 0.96.""",
    """The paper's pictures are photographs; here they are the model's own samples. The
authors' freezing leaves the steps nearest to the noise out, in both directions; ours
samples them with the source's prompt, which is the same but for rounding where the
inverse is exact.""",
    options="--prompts FILE --images 8",
    models=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
    refuse=needs_prompts,
    draw=draw,
)
