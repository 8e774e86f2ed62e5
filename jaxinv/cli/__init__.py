"""The command line: ``jaxinv demo``, ``invert``, ``batch``, ``sample`` and more.

Exit codes: 0 success; 1 an unexpected failure, with its traceback, or a ``batch`` that
exceeded ``--max-failures``; 2 invalid input (or a full disk), explained in one line; 3
an inversion that did not converge (its files are written with ``converged`` false), or
a ``batch`` with images that failed or did not converge; 130 and 143 a ``batch`` that
was stopped by SIGINT and SIGTERM and can be resumed with the same command. The exit
code of ``watermark detect`` is the verdict: 0 found, 1 not found, 3 cannot judge; 2 is
invalid input, 70 an unexpected failure.
"""

from typing import Annotated

import typer

from jaxinv import __version__
from jaxinv.cli.commands.batch import batch
from jaxinv.cli.commands.convert import convert
from jaxinv.cli.commands.demo import demo
from jaxinv.cli.commands.edit import edit
from jaxinv.cli.commands.encode import encode
from jaxinv.cli.commands.interpolate import interpolate
from jaxinv.cli.commands.invert import invert
from jaxinv.cli.commands.sample import sample
from jaxinv.cli.commands.watermark import app as watermark
from jaxinv.cli.programs import keep_programs

app = typer.Typer(name="jaxinv", no_args_is_help=True, pretty_exceptions_enable=False)
for command in (demo, invert, batch, sample, edit, interpolate, encode, convert):
    app.command()(command)
app.add_typer(watermark)


# As a program, the command line keeps compiled programs even if it is not asked to.
_AS_A_PROGRAM = "as a program"


def _print_version(asked: bool) -> None:
    if asked:
        print(f"jaxinv {__version__}")
        raise typer.Exit


@app.callback()
def about(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
    compilation_cache: Annotated[
        str | None,
        typer.Option(
            "--compilation-cache",
            metavar="FOLDER|off",
            help="Where compiled programs are kept between runs [in the user's cache "
            "folder, or in JAX_COMPILATION_CACHE_DIR].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Exact inversion of diffusion models: from an image to its noise and back."""
    if compilation_cache is not None or context.obj is _AS_A_PROGRAM:
        try:
            keep_programs(compilation_cache)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None


def main() -> None:
    """Run the command line."""
    app(obj=_AS_A_PROGRAM)
