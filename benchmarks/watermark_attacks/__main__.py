"""Watermarks after attacks: which scheme is found, and by which inversion.

    python -m benchmarks.watermark_attacks --resume FILE

Images are generated from marked noise (Tree-Ring, RingID, Gaussian Shading, PRC; a new
key for each image), attacked, and inverted: by naive DDIM inversion, by Algorithm 2 of
"On Exact Inversion of DPM-Solvers", and by all steps together (``trajectory``), from
the encoder's latent and from the inverted decoder's, with and without the prompt. With
``--resume FILE`` an interrupted run continues where it was; images are in the outer
loop, so that it can be stopped at any time.
"""

import argparse
from collections.abc import Sequence

import jax

from benchmarks.report import parse, parser, save
from benchmarks.watermark_attacks import tables
from benchmarks.watermark_attacks.runs import ATTACKS, INVERSES, Setting, plan
from jaxinv.plotting import save_figure


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("watermark_attacks", __doc__, model=True)
    add = found.add_argument
    add("--report-only", action="store_true", help="measure nothing")
    add("--side", type=int, default=32, help="of the latent")
    add("--images", type=int, default=40, help="of each scheme")
    add("--minutes", type=float, default=40, help="after which no inversion begins")
    add("--few-steps", type=int, default=10)
    add("--many-steps", type=int, default=50)
    add("--inverses", nargs="+", choices=INVERSES, default=[*INVERSES])
    add("--attacks", nargs="+", choices=ATTACKS, default=[*ATTACKS])
    add("--hard-attack", choices=ATTACKS, default="JPEG 50", help="of the exact ones")
    add("--other-keys", type=int, default=20, help="held against every noise")
    return parse(found, argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    setting = Setting(arguments)
    if not arguments.report_only:
        with jax.default_matmul_precision("highest"):
            setting.measure(plan(arguments))
    text, figure = tables.report(setting)
    path = arguments.out.with_suffix(".png")
    save_figure(figure, path)
    save(arguments.out, f"{text}\n![Found after attacks]({path.name})\n")


if __name__ == "__main__":
    main()
