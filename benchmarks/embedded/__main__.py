"""Measure the embedded model: exact inversion, naive inversion, memorisation.

    python -m benchmarks.embedded [--model emoji64] [--seed 0] [--training latents.pt]

Sixteen prompts, one noise each, 20 steps of equal log-SNR. Inversions are appended to
the file of cells one by one; a run that was stopped continues from it.
"""

import argparse
from pathlib import Path

import jaxinv as ji
from benchmarks.embedded import inversion, memorisation
from benchmarks.report import RESULTS, provenance, save


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
    add("--only-inversion", action="store_true")
    add("--cells", type=Path, default=RESULTS / "embedded-cells.jsonl")
    add("--out", type=Path, default=RESULTS / "embedded.md")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, then write the report."""
    arguments = parse(argv)
    pipe = ji.load(arguments.model)
    found = inversion.measure(pipe, arguments)
    parts = [
        "# The embedded model",
        provenance("python -m benchmarks.embedded"),
        f"## Inversion, {arguments.steps} steps of equal log-SNR",
        inversion.report(found),
    ]
    if not arguments.only_inversion:
        parts += [
            "## Memorisation",
            memorisation.report(
                pipe, arguments.prompts, 6, arguments.seed, arguments.training
            ),
        ]
    save(arguments.out, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
