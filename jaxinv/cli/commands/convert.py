"""``jaxinv convert``: convert a diffusers model to a checkpoint for JAX."""

import dataclasses
import time
from pathlib import Path

from rich.markup import escape

from jaxinv.cli import options
from jaxinv.cli.console import Output, check_choice, explained
from jaxinv.cli.options import argument, option

_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv convert``."""

    source: str = argument(
        "A diffusers folder, a hub name, or 'emoji64'.", metavar="SRC"
    )
    target: Path = argument("The folder to write.", metavar="DST")
    dtype: str | None = option(
        None, f"Stored data type: {', '.join(_DTYPES)} [that of SRC]."
    )
    force: bool = option(False, "Replace DST if it exists.", "--force")
    revision: str | None = option(None)
    as_json: bool = option(False)


@options.unfold
def convert(asked: Options) -> None:
    """Convert a diffusers model to an Orbax checkpoint, without PyTorch."""
    output = Output(asked.as_json)
    start = time.perf_counter()
    with explained(output):
        if asked.dtype is not None:
            check_choice("data type", asked.dtype, _DTYPES)

        from jaxinv.loading.convert import convert as to_checkpoint

        folder = to_checkpoint(
            asked.source,
            asked.target,
            dtype=asked.dtype,
            force=asked.force,
            revision=asked.revision,
        )
    seconds = time.perf_counter() - start
    output.done(f"converted {asked.source}", seconds)
    output.show(escape(str(folder)))
    record = {"source": asked.source, "target": folder, "seconds": round(seconds, 3)}
    output.finish(record)
