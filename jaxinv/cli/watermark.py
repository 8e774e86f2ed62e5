"""``jaxinv watermark``: mark an image while it is made, and find the mark again."""

import contextlib
import enum
import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from jaxinv.cli import options
from jaxinv.cli.console import (
    Output,
    check_choice,
    check_finite_image,
    check_guidance,
    explained,
)
from jaxinv.files import check_writable_file
from jaxinv.files.image_reading import MAX_PIXELS, read_image
from jaxinv.files.images import fit_image, image_suffix, write_image

app = typer.Typer(
    name="watermark",
    help="Watermarks in the noise: mark an image while it is made, and find the mark.",
    no_args_is_help=True,
)
SCHEMES = ("tree_ring", "gaussian_shading")


class DetectionCode(enum.IntEnum):
    """Exit codes of ``detect``; 2 is bad input, as everywhere."""

    FOUND = 0
    NOT_FOUND = 1
    CANNOT_JUDGE = 3
    FAILED = 70
    INTERRUPTED = 130


_KeyFile = Annotated[
    Path, typer.Option("--key", "-k", help="The key file; keep it to yourself.")
]
_AnyPrompt = Annotated[
    str,
    typer.Option(
        "--prompt",
        "-p",
        help="What the image was made from, if that is known; with its --guidance. "
        "Without it marks of guided images are weaker, rings and zeros mostly missed.",
    ),
]
_OneGuidance = Annotated[
    float,
    typer.Option(
        "--guidance",
        "-g",
        help="Of the prompt, 1 if it is not known; images of 'embed' have 3 unless it "
        "was told otherwise. As in diffusers, at most 1 is no guidance, and the prompt "
        "counts.",
    ),
]
_Strategy = Annotated[
    str,
    typer.Option("--strategy", help="As of 'jaxinv invert': auto, naive, ..."),
]


@app.command()
def embed(
    prompt: options.Prompt,
    key: _KeyFile,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            help="Of a new key: tree-ring (default), or gaussian-shading (carries "
            "bits).",
        ),
    ] = None,
    pattern: Annotated[
        str,
        typer.Option(
            "--pattern",
            help="Of a new tree-ring: random (default), ring (survives rotations; two "
            "are alike), or zeros (no secret).",
        ),
    ] = "random",
    message: Annotated[
        str | None,
        typer.Option(
            "--message",
            help="Of a new gaussian-shading key: text, hex:6A61..., or bits:0110... "
            "Drawn if not given. One that names this image tells copies of its mark.",
        ),
    ] = None,
    negative_prompt: options.NegativePrompt = "",
    model: options.Model = "emoji64",
    revision: options.Revision = None,
    steps: options.Steps = 20,
    guidance: options.Guidance = 3.0,
    sampler: options.SamplerName = "ddim",
    spacing: options.Grid = "log_snr",
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            help="Of the noise under the mark. Drawn if not given: whoever knows it "
            "sees the mark without its key. A drawn one is neither shown nor kept.",
            min=0,
        ),
    ] = None,
    out: options.ImageFile = Path("marked.png"),
    as_json: options.AsJson = False,
) -> None:
    """Make an image with a watermark.

    The key is read from its file. If there is none, a key is drawn and written there,
    for its owner only; no key is ever overwritten.
    """
    output = Output(as_json)
    with explained(output):
        check_guidance(guidance)
        image_suffix(out)
        check_writable_file(out, make=False)
        check_writable_file(key, make=False)

        import jax

        import jaxinv as ji
        from jaxinv.apps import watermark
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Observed, Progress

        sampler = check_choice("sampler", sampler, samplers.ONE_ARRAY_NAMES)
        spacing = check_choice("spacing", spacing, samplers.SPACINGS)
        wanted = check_choice("scheme", scheme or SCHEMES[message is not None], SCHEMES)
        if message is not None and wanted != "gaussian_shading":
            raise ValueError(
                "--message needs --scheme gaussian-shading: rings have none"
            )
        new = not key.exists()
        found = None if new else watermark.read_key(key)
        pipe = ji.load(model, revision=revision)
        chosen = samplers.make_sampler(pipe.schedule, sampler, steps, spacing)
        if found is None:
            found = _new_key(wanted, pattern, pipe.latent_shape, message)
        elif scheme and _scheme(found) != wanted.replace("_", "-"):
            raise ValueError(f"{key} is a {_scheme(found)} key, not {scheme}")
        elif message is not None:
            _check_message(key, found, message)
        drawn = secrets.randbits(63) if seed is None else seed
        plain = jax.random.normal(
            jax.random.fold_in(jax.random.key(drawn >> 32), drawn & 0xFFFFFFFF),
            pipe.latent_shape,
        )
        noise = found.embed(plain)
        denoise = pipe.denoiser(prompt, negative_prompt, guidance)
        check_writable_file(out)
        check_writable_file(key)
        if new:
            watermark.write_key(key, found)
        elif isinstance(found, watermark.GaussianShadingKey):
            output.note(
                "images that share a Gaussian Shading key share all signs of their "
                "noise: anybody who inverts several sees that they are alike"
            )
    progress = Progress(output.messages)
    latent, seconds = runs.draw(progress, "sampling", chosen, Observed(denoise), noise)
    image = np.asarray(jax.device_get(pipe.decode(latent)))
    with explained(output):
        check_finite_image(image, "marked")
        write_image(out, image)
    output.done(f"sampled in {steps} steps", seconds)
    output.show(f"{escape(str(out))}, marked with {escape(str(key))}")
    output.finish(
        {
            "image": out,
            "key": key,
            "new_key": new,
            "scheme": _scheme(found),
            "model": pipe.name,
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "steps": steps,
            "guidance": guidance,
            "sampler": sampler,
            "spacing": spacing,
            "seed": seed,  # None if it was drawn: it is a secret
        }
    )


@app.command()
def detect(
    image: Annotated[Path, typer.Argument(help="The image to look at.")],
    key: _KeyFile,
    prompt: _AnyPrompt = "",
    negative_prompt: options.NegativePrompt = "",
    model: options.Model = "emoji64",
    revision: options.Revision = None,
    steps: options.Steps = 20,
    guidance: _OneGuidance = 1.0,
    sampler: options.SamplerName = "ddim",
    spacing: options.Grid = "log_snr",
    strategy: _Strategy = "auto",
    decoder_inversion: options.DecoderInversion = "anderson",
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            help="Of images made without the key, at most about this share is called "
            "marked.",
        ),
    ] = 1e-3,
    resize: options.Resize = False,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    as_json: options.AsJson = False,
) -> None:
    """Say whether an image carries a key's watermark.

    The exit code is 0 if it is found, 1 if not, 3 if it cannot be judged because what
    the inversion found does not look like the noise of an image, 2 for bad input, and
    70 for an unexpected failure.
    """
    output = Output(as_json)
    with _failures_apart():
        with explained(output):
            if not 0 < rate < 1:
                raise ValueError(f"--rate must lie between 0 and 1, got {rate}")
            noise, record, found = _inverted(
                output, image, [key], prompt, negative_prompt, model, revision, steps,
                guidance, sampler, spacing, strategy, decoder_inversion, resize,
                max_pixels,
            )  # fmt: skip

        from jaxinv.scale.jobs.detect import verdict

        record |= verdict(found[0], found[0].score(noise), rate) | {"rate": rate}
        output.show(f"{escape(str(image))}: {_answer(record)}")
        output.finish(record)
    code = {"found": DetectionCode.FOUND, "not found": DetectionCode.NOT_FOUND}
    raise typer.Exit(code.get(record["verdict"], DetectionCode.CANNOT_JUDGE))


def _answer(record: dict[str, Any]) -> str:
    """The verdict for people."""
    if record["verdict"] == "cannot judge":
        return (
            f"[yellow]cannot judge[/]: what was found is not the noise of an image; "
            f"{record['reason']}"
        )
    word = "[green]marked[/]" if record["detected"] else "no watermark found"
    text = f"{word} (another key comes as near with probability {record['p_value']:.2g}"
    if "bits" in record:
        text += f"; {record['matches']} of {record['bits']} bits are the key's"
        read = record["message_text"] or record["message_hex"] or record["message"]
        return f"{text}), message {escape(read)}"
    return f"{text})"


@contextlib.contextmanager
def _failures_apart() -> Iterator[None]:
    """Give unexpected failures an exit code that no verdict has."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise typer.Exit(DetectionCode.INTERRUPTED) from None
    except Exception:
        traceback.print_exc()
        raise typer.Exit(DetectionCode.FAILED) from None


@app.command()
def classify(
    image: Annotated[Path, typer.Argument(help="The image to look at.")],
    key: Annotated[
        list[Path], typer.Option("--key", "-k", help="A key file; give several.")
    ],
    prompt: _AnyPrompt = "",
    negative_prompt: options.NegativePrompt = "",
    model: options.Model = "emoji64",
    revision: options.Revision = None,
    steps: options.Steps = 20,
    guidance: _OneGuidance = 1.0,
    sampler: options.SamplerName = "ddim",
    spacing: options.Grid = "log_snr",
    strategy: _Strategy = "auto",
    decoder_inversion: options.DecoderInversion = "anderson",
    resize: options.Resize = False,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    as_json: options.AsJson = False,
) -> None:
    """Say which of several tree-ring keys an image is nearest to."""
    output = Output(as_json)
    with explained(output):
        noise, record, found = _inverted(
            output, image, key, prompt, negative_prompt, model, revision, steps,
            guidance, sampler, spacing, strategy, decoder_inversion, resize,
            max_pixels, True,
        )  # fmt: skip

    from jaxinv.apps import watermark

    distances = np.asarray(watermark.classify(found, noise))
    nearest = int(np.argmin(distances))
    # Of several keys one is the nearest by chance, too.
    verdict = watermark.judge(found[nearest].score(noise))
    if verdict.reason is not None:
        output.note(
            f"cannot judge: what was found is not the noise of an image; "
            f"{verdict.reason}"
        )
    record |= {
        "nearest": key[nearest],
        "distances": {str(k): float(d) for k, d in zip(key, distances, strict=True)},
        "p_value": min(1.0, len(found) * verdict.p_value),
        "reason": verdict.reason,
    }
    for path, distance in record["distances"].items():
        mark = "[green]←[/]" if path == str(key[nearest]) else ""
        output.show(f"{distance:.3f}  {escape(path)} {mark}")
    output.finish(record)


def _scheme(key: Any) -> str:
    from jaxinv.apps import watermark

    return SCHEMES[isinstance(key, watermark.GaussianShadingKey)].replace("_", "-")


def unguided_note(prompt: str, guidance: float) -> str | None:
    """Return what it costs to invert without prompt and guidance; None with both."""
    if prompt and guidance > 1:
        return None
    how = "with the prompt at guidance 1" if prompt else "without the prompt"
    # benchmarks/results/watermark_judgement.md
    return (
        f"inverting {how}: if the image was made with guidance (by 'embed': 3), its "
        "mark may be missed. Of 8 images of each kind of key by emoji64, 6 (random), 3 "
        "(ring), 3 (zeros) and 8 (gaussian-shading) are found with --prompt and "
        "--guidance 3; 7, 0, 1 and 8 with the prompt at guidance 1; 6, 0, 1 and 8 "
        "without the prompt"
    )


def _check_message(path: Path, key: Any, message: str) -> None:
    """Raise ValueError unless a key's message is this one."""
    from jaxinv.apps import watermark

    if not isinstance(key, watermark.GaussianShadingKey):
        raise ValueError(f"{path} is a tree-ring key, which has no --message")
    wanted = watermark.read_message(message, len(key.message))
    if not np.array_equal(wanted, np.asarray(key.message)):
        raise ValueError(
            f"{path} holds another message, and two messages must not share a secret; "
            "name a new key file"
        )


def _new_key(
    scheme: str, pattern: str, shape: tuple[int, int, int], message: str | None
) -> Any:
    """A key drawn by the operating system's generator."""
    import jax

    from jaxinv.apps import watermark

    size = min(shape[:2])
    if scheme == "tree_ring":
        seed = jax.random.wrap_key_data(
            jax.numpy.asarray(np.frombuffer(secrets.token_bytes(8), np.uint32)),
            impl="threefry2x32",
        )
        # The published radius is 10 of 64.
        radius = max(1, -(-10 * size // 64))
        return watermark.tree_ring_key(seed, shape, radius=radius, pattern=pattern)  # type: ignore[arg-type]
    # The published blocks are 8x8 of 64x64; 4x4 leave 64 bits in 16x16.
    block = 8 if size >= 64 else 4
    blocks = (block, block, 1)
    count = int(np.prod(shape)) // block**2
    bits = None if message is None else watermark.read_message(message, count)
    return watermark.gaussian_shading_key(shape, blocks=blocks, message=bits)


def _inverted(
    output: Output,
    image: Path,
    keys: list[Path],
    prompt: str,
    negative_prompt: str,
    model: str,
    revision: str | None,
    steps: int,
    guidance: float,
    sampler: str,
    spacing: str,
    strategy: str,
    decoder_inversion: str,
    resize: bool,
    max_pixels: int,
    compared: bool = False,
) -> tuple[Any, dict[str, Any], list[Any]]:
    """The noise of an image, the record so far, and the keys."""
    check_guidance(guidance)
    read = read_image(image, max_pixels)

    import jax.numpy as jnp

    import jaxinv as ji
    from jaxinv.apps import watermark
    from jaxinv.cli import runs, samplers
    from jaxinv.cli.progress import Observed, Progress
    from jaxinv.decoder_inversion import METHODS
    from jaxinv.inversion import STRATEGIES
    from jaxinv.scale.jobs.one_by_one import decoder_record

    sampler = check_choice("sampler", sampler, samplers.ONE_ARRAY_NAMES)
    spacing = check_choice("spacing", spacing, samplers.SPACINGS)
    strategy = check_choice("strategy", strategy, STRATEGIES)
    method = check_choice("decoder inversion", decoder_inversion, METHODS)
    found: list[Any] = [watermark.read_key(path) for path in keys]
    if compared:
        # Raises for keys that cannot be compared, before there is anything to compare.
        watermark.classify(found, jnp.zeros(found[0].shape))
    pipe = ji.load(model, revision=revision)
    for path, key in zip(keys, found, strict=True):
        if key.shape != pipe.latent_shape:
            raise ValueError(
                f"{path} is a key for noise of shape {key.shape}, but that of "
                f"{pipe.name} has {pipe.latent_shape}"
            )
    chosen = samplers.make_sampler(pipe.schedule, sampler, steps, spacing)
    read = fit_image(read, image, pipe.image_size, pipe.name, resize)
    for change in read.changes:
        output.note(f"{image}: {change}")
    runs.check_strategy(chosen, strategy, None, pipe.schedule)
    if note := unguided_note(prompt, guidance):
        output.note(note)
    denoise = Observed(pipe.denoiser(prompt, negative_prompt, guidance))
    progress = Progress(output.messages)
    decoder, seconds = runs.find_latent(progress, pipe, read.pixels, method)
    output.done("decoder inversion", seconds)
    outcome = runs.find_noise(
        progress,
        "inversion",
        chosen,
        denoise,
        decoder.latent,
        schedule=pipe.schedule,
        strategy=strategy,
    )
    output.done("inversion", outcome.seconds)
    if not bool(jnp.all(jnp.isfinite(outcome.result.noise))):
        raise ValueError(f"the inversion of {image} overflowed: there is no noise")
    if not (bool(outcome.result.converged) and bool(decoder.converged)):
        output.note(
            "the inversion did not converge: this model and sampler may not have made "
            "the image, or not as it is now; a watermark may be missed"
        )
    record = {
        "image": image,
        "changes": read.changes,
        "keys": keys,
        "schemes": [_scheme(key) for key in found],
        "model": pipe.name,
        "prompt": prompt,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "spacing": spacing,
        "strategy": strategy,
        "decoder_inversion": decoder_record(method, decoder),
        "certificate": outcome.record(),
    }
    return outcome.result.noise, record, found
