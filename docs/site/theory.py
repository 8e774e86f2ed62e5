"""Write the theory pages: the lecture notes at the beginning of modules."""

import re
from pathlib import Path

import griffe
import mkdocs_gen_files

ROOT = Path(__file__).parents[2]
#: The pages in reading order: a title, and the modules whose notes it has.
PAGES = {
    "Coordinates": ["diffusion.schedule", "diffusion.prediction"],
    "Samplers as tables": ["samplers.table", "samplers.exponential"],
    "The implicit equation": ["solvers.iteration", "inversion.stepwise"],
    "The whole trajectory": [
        "inversion.trajectory",
        "inversion.trajectory_secants",
        "inversion.trajectory_newton",
    ],
    "Bidirectional samplers": [
        "samplers.bidirectional",
        "samplers.bidirectional_log_snr",
        "samplers.edict",
        "samplers.rex",
    ],
    "Lossless arithmetic": ["sampling.lossless_rows", "sampling.lossless_numbers"],
    "The gradient of an inversion": ["inversion.implicit_gradient"],
    "Decoder inversion": [
        "decoder_inversion.problem",
        "decoder_inversion.gradient_free",
        "decoder_inversion.gradient_based",
        "analysis.decoder",
    ],
    "Verification and rounding": ["inversion.verification", "solvers.rounding"],
    "Conditioning and preimages": ["analysis.conditioning", "analysis.preimages"],
    "Order and stability": ["analysis.tables", "analysis.convergence"],
    "Watermark statistics": ["apps.watermark.tree_ring", "apps.watermark.laws"],
}
REFERENCES = re.compile(r"^References:\n((?:    .*\n?)+)", re.MULTILINE)


def notes(package: griffe.Module, name: str) -> str:
    """Return the notes of a module as Markdown, below a heading of the second level."""
    module = package[name]
    text = module.docstring.value
    title, _, rest = text.partition("\n")
    rest = REFERENCES.sub(
        lambda match: "**References.** " + " ".join(match[1].split()), rest
    )
    return (
        f"## {title.rstrip('.')}\n\n{rest.strip()}\n\nModule [`{name}`][jaxinv.{name}]."
    )


package = griffe.load(
    "jaxinv",
    search_paths=[str(ROOT)],
    extensions=griffe.load_extensions(str(Path(__file__).parent / "docstrings.py")),
)
lines = []
for title, modules in PAGES.items():
    page = f"{title.lower().replace(' ', '-')}.md"
    text = "\n\n".join(notes(package, name) for name in modules)
    with mkdocs_gen_files.open(f"theory/{page}", "w") as file:
        file.write(f"# {title}\n\n{text}\n")
    lines.append(f"* [{title}]({page})")
with mkdocs_gen_files.open("theory/SUMMARY.md", "w") as file:
    file.write("\n".join(["* [Overview](index.md)", *lines]) + "\n")
with mkdocs_gen_files.open("theory/index.md", "w") as file:
    file.write(
        "# Theory\n\nEach page is the notes with which modules of the library begin: "
        "the equation, the symbols, the paper.\n\n" + "\n".join(lines) + "\n"
    )
