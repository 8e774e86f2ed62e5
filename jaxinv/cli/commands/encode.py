"""``jaxinv encode``: encode prompts once, for commands without text encoders."""

import dataclasses
import time
from pathlib import Path

from rich.markup import escape

import jaxinv as ji
from jaxinv.cli import options
from jaxinv.cli.console import Output, explained
from jaxinv.cli.options import option
from jaxinv.cli.prepare import at_size, model_options
from jaxinv.files import check_writable_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv encode``."""

    prompt: list[str] = option(..., "Prompt to encode; can be repeated.", "-p")
    negative_prompt: list[str] | None = option(
        None, "Negative prompt to encode; can be repeated [the empty one]."
    )
    encoding: options.Encoding
    size: options.Size
    out: Path = option(Path("prompts.safetensors"), "The file to write.", "-o")
    as_json: bool = option(False)


@options.unfold
def encode(asked: Options) -> None:
    """Encode prompts once, without the network, for --prompt-embeddings.

    Commands with --prompt-embeddings do not load the text encoders, so that text
    encoders and network are never in memory together.
    """
    output = Output(asked.as_json)
    start = time.perf_counter()
    negative = [""] if asked.negative_prompt is None else asked.negative_prompt
    with explained(output):
        check_writable_file(asked.out, make=False)
        loading = model_options(asked.encoding)
        pipe = at_size(ji.load(network=False, **loading), asked.size)
        if asked.encoding.prompt_chunks > 1:
            pipe = pipe.with_chunks(asked.encoding.prompt_chunks)
        ji.save_prompts(pipe, asked.out, asked.prompt, negative)
    seconds = time.perf_counter() - start
    output.done(f"encoded {len(asked.prompt)} prompts", seconds)
    output.show(escape(str(asked.out)))
    output.finish(
        {
            "file": asked.out,
            "model": pipe.name,
            "prompts": asked.prompt,
            "negative_prompts": negative if pipe.family.guidable else [],
            "seconds": round(seconds, 3),
        }
    )
