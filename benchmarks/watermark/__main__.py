"""Watermarks: which inversion finds the key again, and after what.

    python -m benchmarks.watermark

Images are made from noise with a Tree-Ring key, one of three, or with none; then
inverted, with the prompt known, by naive DDIM inversion, by Algorithm 2 of "On Exact
Inversion of DPM-Solvers" and by all steps together (``trajectory``, the first stage of
this library's default: its second tries on where an image, rounded to 8 bits, is none
that the sampler can make), each from the encoder's latent and from the inverted
decoder's. Then after attacks; Gaussian Shading; and pictures that no sampler made,
which need ``--data``. With ``--resume FILE`` an interrupted run continues where it was.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.report import parse, parser, save
from benchmarks.watermark import tables
from benchmarks.watermark.runs import (
    CASES,
    DECODERS,
    METHODS,
    PARTS,
    Setting,
    plan,
)


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("watermark", __doc__, model=True)
    add = found.add_argument
    add("--report-only", action="store_true", help="measure nothing")
    add("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    add("--cases", nargs="+", choices=CASES, default=[*CASES])
    add("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    add("--decoders", nargs="+", choices=DECODERS, default=[*DECODERS])
    add("--per-key", type=int, default=40, help="images for each of three keys")
    add("--unmarked", type=int, default=120)
    add("--exact-images", type=int, default=48, help="of all these, for the exact one")
    add("--algorithm-2-images", type=int, default=12, help="likewise; it is slow")
    add("--attacked", type=int, default=15, help="marked, and as many unmarked")
    add("--exact-attacked", type=int, default=6, help="likewise, for the exact one")
    add("--shading", type=int, default=20, help="images with Gaussian Shading")
    add("--data", type=Path, help="folder of the drawings, for foreign pictures")
    add("--foreign", type=int, default=60, help="held-out pictures")
    return parse(found, argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    setting = Setting(arguments)
    if not arguments.report_only:
        with jax.default_matmul_precision("highest"):
            setting.measure(plan(arguments))
    text, figures = tables.report(setting)
    for path, figure in figures.items():
        tables.save_figure(figure, path)
    save(arguments.out, text)


if __name__ == "__main__":
    main()
