"""Measure the embedded model: exact inversion, naive inversion, memorisation.

    python -m benchmarks.embedded [--model emoji64] [--seed 0] [--training latents.pt]

Sixteen prompts, one noise each, 20 steps of equal log-SNR. Inversions are appended to
the file of cells one by one; a run that was stopped continues from it.
"""

import argparse
from pathlib import Path

import jaxinv as ji
from benchmarks.embedded import inversion, memorisation, whole_way
from benchmarks.report import RESULTS, provenance, save

SECTIONS = ("inversion", "memorisation", "whole-way")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="emoji64")
    add("--label", help="name of the model in the file of cells")
    add("--seed", type=int, default=0)
    add("--steps", type=int, default=20)
    add("--prompts", type=int, default=len(inversion.PROMPTS))
    add("--samplers", nargs="+", default=inversion.SAMPLERS)
    add("--guidance", nargs="+", type=float, default=[1.0, 3.0, 5.0, 7.5])
    add("--methods", nargs="+", default=list(inversion.METHODS))
    add("--training", type=Path, help="cache of training latents")
    add("--fold-prompts", type=int, default=4, help="for the singular values")
    add("--vectors", type=int, default=20, help="Lanczos vectors of each step")
    add("--samples", type=int, default=8, help="pictures for the whole way")
    add("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    add("--cells", type=Path, default=RESULTS / "embedded-cells.jsonl")
    add("--whole-way-cells", type=Path, help="file that the whole way continues from")
    add("--out", type=Path, default=RESULTS / "embedded.md")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, then write the report."""
    arguments = parse(argv)
    pipe = ji.load(arguments.model)
    made = provenance("python -m benchmarks.embedded", arguments.model)
    parts = [
        "# The embedded model",
        f"{made} Float32, seed {arguments.seed}, {arguments.prompts} prompts.",
    ]
    if "inversion" in arguments.sections:
        parts += [
            f"## Inversion, {arguments.steps} steps of equal log-SNR",
            "One noise for each prompt; NMSE of the recovered noise. *Naive* is DDIM "
            "inversion, *exact* the default, `auto`.",
            inversion.report(inversion.measure(pipe, arguments)),
        ]
    if "memorisation" in arguments.sections:
        parts += ["## Memorisation", memorisation.report(pipe, arguments)]
    if "whole-way" in arguments.sections:
        parts += ["## From 8-bit pictures", whole_way.report(arguments)]
    save(arguments.out, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
