"""What EDICT's p and BDIA's gamma cost: quality against a stable inverse."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxinv as ji
from benchmarks.belm.round_trip import there_and_back
from benchmarks.papers.belm.reconstruction import mse
from benchmarks.papers.belm.samplers import (
    CONVERGED,
    SAMPLERS,
    denoiser_of,
    sampler_of,
)
from benchmarks.papers.belm.text import by_steps
from benchmarks.papers.protocol import Cell, Found, Measures, Table
from benchmarks.papers.setting import Setting

GUIDANCE = 1.0
STEPS = (10, 50)


def cells(setting: Setting) -> Sequence[Cell]:
    """Return all values of p and gamma, and O-BELM, which has no parameter."""
    names = [name for name in SAMPLERS if name.startswith(("EDICT", "BDIA"))]
    return [
        {"sampler": name, "grid": "linspace", "steps": steps}
        for name in (*names, "O-BELM")
        for steps in STEPS
    ]


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return a sample's distance to the converged one, and its round trip."""
    denoise = denoiser_of(setting, setting.prompt(index), GUIDANCE)
    noise = setting.noise(index)
    converged = setting.shared(
        ("image", "converged", index),
        lambda: ji.sample(sampler_of(setting, *CONVERGED, history=2), denoise, noise),
    )
    sampler = sampler_of(setting, cell["sampler"], cell["grid"], cell["steps"])
    own = ji.sample(sampler, denoise, noise)
    _, again = there_and_back(sampler, denoise, converged, "float", verify=False)
    return {
        "quality": _finite(mse(own, converged)),
        "round trip": None if again is None else _finite(mse(again, converged)),
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def show(found: Found) -> str:
    """Return both tables."""
    names = ("sampler", "grid")
    return f"""MSE of a sample to the converged sample of its noise:

{by_steps(found, names, "quality")}

MSE of the converged sample after a trip to noise and back, float32:

{by_steps(found, names, "round trip")}

Converged: 2M with {CONVERGED[2]} steps. Both are on latents (pixels in [-1, 1] of
models of pixels), guidance {GUIDANCE:g}, in brackets 95 % by bootstrap. EDICT has p in
brackets, BDIA gamma; EDICT evaluates the model twice a step."""


PARAMETERS = Table(
    "belm-parameters",
    "Parameters of EDICT and BDIA (number not found here)",
    "quality and round trip by EDICT's p and BDIA's gamma",
    None,
    cells,
    measure,
    show,
    """The paper's numbers are not found here. Its scripts have these values by default:
p = 0.5 and gamma = 0.5 in `scripts/celeba.py`; p = 0.93 and gamma = 0.96 in
`scripts/sd_sampling.py` and `scripts/image_editing.py`; p = 0.93 and gamma = 0.5 in the
functions of `samplers/`, which `scripts/reconstruction.py` calls.""",
    """The distance to the converged sample of the same noise is ours: it needs no
thousands of pictures.""",
    options="--images 100",
    models=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
)
