"""BELM's generation quality: distance between samples and real pictures, by steps.

A cell stores features of its pictures, image by image; distances are computed when the
table is shown. The reference cell stores eight pictures for each image of the others.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxinv as ji
from benchmarks.papers.belm import features
from benchmarks.papers.belm.pictures import real_picture
from benchmarks.papers.belm.samplers import STEPS, denoiser_of, sampler_of
from benchmarks.papers.belm.text import counts
from benchmarks.papers.protocol import Cell, Found, Measures, Table
from benchmarks.papers.setting import Setting
from benchmarks.report import table
from jaxinv.files.image_reading import to_uint8

#: Of scripts/sd_sampling.py; models without text take none.
GUIDANCE = 4.0
#: Sampler and grid: the paper's with the settings of its scripts, and ours.
ROWS = (
    ("DDIM", "linspace"),
    ("EDICT(0.93)", "linspace"),
    ("BDIA(0.96)", "linspace"),
    ("BDIA(0.5)", "linspace"),
    ("O-BELM", "linspace"),
    ("O-BELM", "log_snr"),
    ("O-BELM log-SNR", "log_snr"),
)
REFERENCES = 8
#: The row that others are compared with.
PAIRED = ("O-BELM", "linspace")


def cells(setting: Setting) -> Sequence[Cell]:
    """Return real pictures, and all samplers and steps."""
    real = [
        {"sampler": role, "grid": None, "steps": 0} for role in ("reference", "floor")
    ]
    return real + [
        {"sampler": sampler, "grid": grid, "steps": steps}
        for sampler, grid in ROWS
        for steps in STEPS
    ]


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return the features of one picture, or of eight of the reference."""
    if cell["sampler"] == "reference":
        first = REFERENCES * index
        numbers = range(first, first + REFERENCES)
        images = [real_picture(setting, "reference", k).pixels for k in numbers]
    elif cell["sampler"] == "floor":
        images = [real_picture(setting, "floor", index).pixels]
    else:
        images = [_sample(setting, cell, index)]
    pictures = [to_uint8(np.asarray(image)) for image in images]
    found: dict[str, Any] = {"thumbnails": [features.thumbnail(p) for p in pictures]}
    if path := setting.folders.get("inception"):
        network = setting.shared(
            ("inception", path), lambda: features.inception_network(path)
        )
        found["inception"] = [network(picture) for picture in pictures]
    return found


def _sample(setting: Setting, cell: Cell, index: int) -> np.ndarray:
    """Return a sample with the caption of a real picture and a noise of its own."""
    prompt = ""
    if setting.pipe.text_encoders:
        prompt = setting.shared(
            ("image", "caption", index),
            lambda: real_picture(setting, "floor", index).caption,
        )
    sampler = sampler_of(setting, cell["sampler"], cell["grid"], cell["steps"], 2)
    denoise = denoiser_of(setting, prompt, GUIDANCE)
    return np.asarray(
        setting.pipe.decode(ji.sample(sampler, denoise, setting.noise(index)))
    )


def _of(found: Found, kind: str, **values: Any) -> list[str]:
    return [text for one in found.of(**values) for text in one.get(kind, ())]


def show(found: Found) -> str:
    """Return a table in each feature space."""
    parts = []
    reference = _of(found, "thumbnails", sampler="reference")
    title = "Frechet distance of thumbnails times 1000"
    parts.append(
        f"{title} ({len(reference)} real pictures):\n\n"
        + _distances(found, "thumbnails", reference)
    )
    reference = _of(found, "inception", sampler="reference")
    if reference:
        parts.append(
            f"FID ({len(reference)} real pictures):\n\n"
            + _distances(found, "inception", reference)
        )
    parts.append(
        f"Thumbnails: the means of red, green and blue over a raster of "
        f"{features.RASTER} x {features.RASTER}, {features.NUMBERS} numbers in [0, 1], "
        f"on the first {features.COMPONENTS} principal components of the reference; "
        "they see colors and layout, and no objects. ± is the standard error of a "
        "bootstrap over both sets; in brackets the difference to O-BELM on linspace "
        "with its own standard error, paired: all samplers share noises and captions. "
        "*floor*: other real pictures, as many as there are "
        "samples: the smallest distance that so many can have. Reference and floor are "
        f"drawn as in training; prompts are the captions of the floor, guidance "
        f"{GUIDANCE:g} (models without text: none). EDICT evaluates the model twice a "
        "step."
    )
    return "\n\n".join(parts)


def _distances(found: Found, kind: str, reference: list[str]) -> str:
    rows: dict[tuple[Any, Any], dict[int, list[str]]] = {}
    for cell, _ in found.cells:
        if cell["sampler"] != "reference" and (texts := _of(found, kind, **cell)):
            row = rows.setdefault((cell["sampler"], cell["grid"]), {})
            row[cell["steps"]] = texts
    steps = sorted({n for row in rows.values() for n in row if n})
    header = ["sampler", "grid", "images", *(f"{n} steps" for n in steps)]
    shown = []
    for (sampler, grid), row in rows.items():
        values = {
            n: _text(kind, texts, reference, rows.get(PAIRED, {}).get(n))
            for n, texts in row.items()
        }
        line = [values[0]] * len(steps) if 0 in values else None
        shown.append(
            [
                sampler,
                grid or "-",
                counts({len(texts) for texts in row.values()}),
                *(line or [values.get(n, "-") for n in steps]),
            ]
        )
    return table(header, shown)


def _text(
    kind: str, own: list[str], reference: list[str], paired: list[str] | None
) -> str:
    if kind == "inception":
        enough = min(len(own), len(reference)) > 1
        return f"{features.fid(own, reference):.2f}" if enough else "too few pictures"
    real = features.thumbnails(reference) if reference else np.zeros((0, 1))
    found = features.distance(features.thumbnails(own), real)
    if found is None:
        return "too few pictures"
    text = _with_error(*found)
    if paired is None or len(paired) != len(own) or paired == own:
        return text
    other = features.distance(features.thumbnails(paired), real)
    assert other is not None
    return f"{text} ({_with_error(found[0] - other[0], found[1] - other[1], '+')})"


def _with_error(value: float, again: np.ndarray, sign: str = "") -> str:
    return f"{1000 * value:{sign}.1f} ± {1000 * np.std(again):.1f}"


GENERATION = Table(
    "belm-generation",
    "Generation quality (number of the table not found here)",
    "distance between samples and real pictures by sampler and steps",
    None,
    cells,
    measure,
    show,
    """The paper's tables could not be read here: its FID values are not found here. By
the authors' scripts they are of `ddpm_ema_cifar10` (`scripts/cifar10.py`) and
`ddpm-ema-celebahq-256` (`scripts/celeba.py`) without prompts, and of Stable Diffusion
1.5 (`scripts/sd_sampling.py`, guidance 4 by default).""",
    """FID needs the published Inception network, and thousands of pictures; with fewer
it is biased upwards, for all samplers alike. The distance of thumbnails is another
number, on another scale. The authors' CelebA script evaluates the wrong one of EDICT's
two states (`scripts/celeba.py`), and has p = 0.5 and gamma = 0.5 by default; the one of
Stable Diffusion has p = 0.93 and gamma = 0.96. EDICT is the paper's here, p = 0.93.""",
    options="--data FOLDER_OF_PICTURES --prompts FILE "
    "--inception inception-2015-12-05.pt --images 10000",
    models=(
        "google/ddpm-cifar10-32",
        "google/ddpm-ema-celebahq-256",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
)
