"""PIE-Bench: editing methods on top of inversions, with the published metrics.

    python -m benchmarks.pie FOLDER --model M --inversions naive_ddim exact_ddim \
        --methods prompt_swap --images 40 --resume FILE --out REPORT

FOLDER has the published layout (:mod:`benchmarks.pie.layout`); one made of emoji comes
from ``python -m benchmarks.pie.emoji``. Every picture goes through all cells before the
next, so that a run can be stopped at any time with equal numbers of pictures; with
``--resume FILE`` it continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.pie import tables
from benchmarks.pie.inversions import INVERSIONS, SKIPPED
from benchmarks.pie.runs import DECODER, Setting
from benchmarks.pie.sheet import sheet
from benchmarks.report import parse, parser, provenance, save
from jaxinv.apps.editing import METHODS
from jaxinv.files.images import write_image


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("pie", __doc__, model=True)
    add = found.add_argument
    add("folder", type=Path, metavar="FOLDER", help="of PIE-Bench's layout")
    inversions = f"{', '.join(INVERSIONS)}; with @W for guidance W of the inversion"
    add("--inversions", nargs="+", default=list(INVERSIONS), help=inversions)
    add("--methods", nargs="+", default=list(METHODS), help=", ".join(METHODS))
    add("--images", type=int, help="at most so many, the types in turn")
    add("--steps", type=int, default=50)
    add("--guidance", type=float, default=7.5, help="of the edit")
    add("--inversion-guidance", type=float, default=1.0)
    add("--decoder", default=DECODER, help="inverse of the decoder; or encoder")
    add("--pictures", type=Path, default=Path("pie-pictures"), help="edited pictures")
    add("--lpips", type=Path, help="folder of SqueezeNet's weights")
    add("--clip", type=Path, help="folder of CLIPModel")
    add("--dino", type=Path, help="folder of ViTModel")
    add("--report-only", action="store_true", help="measure nothing")
    arguments = parse(found, argv)
    if arguments.images is not None and arguments.images < 1:
        found.error(f"--images must be at least 1, got {arguments.images}")
    try:
        arguments.setting = Setting(arguments)
    except (ValueError, OSError) as error:
        found.error(str(error))
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    setting = arguments.setting
    with jax.default_matmul_precision("highest"):
        if not arguments.report_only:
            setting.measure()
    picture = arguments.out.with_suffix(".png")
    write_image(picture, sheet(setting))
    save(arguments.out, report(setting, picture.name))


def described(name: str) -> str:
    """Return an editing method with its paper and its options."""
    method = METHODS[name]
    options = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value!r}"
        for key, value in method.options.items()
    )
    return f"{name} ({method.paper}{'; ' if options else ''}{options})"


def report(setting: Setting, picture: str) -> str:
    """Return the report."""
    arguments = setting.arguments
    names = dict.fromkeys(base for base, _ in setting.of_inversion.values())
    papers = "; ".join(
        f"{INVERSIONS[name].title}: {INVERSIONS[name].paper}" for name in names
    )
    methods = "; ".join(described(name) for name in setting.methods)
    done = len(setting.complete())
    return f"""# PIE-Bench on {arguments.model}

{provenance(arguments.command, arguments.model)}

Float32, seed {arguments.seed}, {arguments.steps} steps on the default grid. Guidance
{arguments.guidance:g} for the edit and {arguments.inversion_guidance:g} for the
inversion where the table names no other (published: 7.5 and 1, 50 steps). Latents from
the inverted decoder (`{arguments.decoder}`). Inversions: {papers}. DDPM inversion
leaves out the first {SKIPPED:.0%} of the steps, as in PIE-Bench's script of it.

Methods with their own options: {methods}. (PIE-Bench's script runs Prompt-to-Prompt
with 0.4 for cross- and 0.6 for self-attention, and weighs the edited word by 2 and
blends by it; this does not.)

{done} of {len(setting.entries)} wanted pictures have gone through all cells; every row
says how many are behind it.

Metrics as in the published evaluator (`benchmarks/pie/metrics.py`), of the written
8-bit pictures: PSNR, SSIM, MSE and LPIPS of the pictures times (1 - mask), over all
pixels, the mask's outermost pixels set to 1; CLIP similarity with the target prompt of
the whole picture and of the picture times the mask; structure distance of the whole
pictures. Where it departs: a mask that leaves its picture is refused, not cut off; the
encoder is replaced by the inverted decoder; DINO's pictures are made smaller with
antialiasing, which depended on torchvision's version.

Means over pictures with 95 % intervals (bootstrap, 2000 resamples). Undefined values (a
mask that covers everything, or nothing), the infinite PSNR of equal pictures, and cells
that failed are left out of a mean, and the mean then says of how many pictures it is.
*Target preferred* runs here in place of CLIP and is not comparable to it: the share of
edits after which the model's own loss prefers the target prompt to the source prompt
(95 %, Wilson). *Reconstruction*: median error of sampling again with the source prompt
and the inversion's guidance, relative to the latent. *Evaluations*: median, of the
inversion with its verification.

{tables.faults(setting)}

{tables.sections(setting)}

![Edits]({picture})
"""


if __name__ == "__main__":
    main()
