"""The command line: ``jaxinv demo``, ``invert``, ``sample``, ``edit`` and the others.

Exit codes: 0 done; 2 bad input, explained in one line; 3 the inversion did not converge
(its files are written, and say so); 1 an unexpected failure, with its traceback.
"""

import typer

from jaxinv.cli.convert import convert
from jaxinv.cli.demo import demo
from jaxinv.cli.edit import edit
from jaxinv.cli.interpolate import interpolate
from jaxinv.cli.invert import invert
from jaxinv.cli.sample import sample
from jaxinv.cli.watermark import app as watermark

app = typer.Typer(
    name="jaxinv",
    help="Exact inversion of diffusion models: an image to its noise and back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, invert, sample, edit, interpolate, convert):
    app.command()(command)
app.add_typer(watermark)


def main() -> None:
    """Runs the command line."""
    app()
