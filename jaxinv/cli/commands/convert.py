"""``jaxinv convert``: a diffusers model to a checkpoint that JAX reads directly."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from jaxinv.cli import options
from jaxinv.cli.console import Output, check_choice, explained

_DTYPES = ("float32", "bfloat16", "float16")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A diffusers folder, a hub name, or 'emoji64'."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            help=f"Stored data type: {', '.join(_DTYPES)}; as in SRC if none.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace DST if it exists.")
    ] = False,
    revision: options.Revision = None,
    as_json: options.AsJson = False,
) -> None:
    """Convert a diffusers model to an Orbax checkpoint, without PyTorch."""
    output = Output(as_json)
    start = time.perf_counter()
    with explained(output):
        if dtype is not None:
            check_choice("data type", dtype, _DTYPES)

        from jaxinv.loading.convert import convert as to_checkpoint

        folder = to_checkpoint(
            source, target, dtype=dtype, force=force, revision=revision
        )
    seconds = time.perf_counter() - start
    output.done(f"converted {source}", seconds)
    output.show(escape(str(folder)))
    output.finish({"source": source, "target": folder, "seconds": round(seconds, 3)})
