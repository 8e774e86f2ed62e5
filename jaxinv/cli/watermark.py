"""``jaxinv watermark``: mark an image while it is made, and find the mark again."""

import secrets
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
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import fit_image, image_suffix, write_image

app = typer.Typer(
    name="watermark",
    help="Watermarks in the noise: mark an image while it is made, and find the mark.",
    no_args_is_help=True,
)
SCHEMES = ("tree_ring", "gaussian_shading")

_KeyFile = Annotated[
    Path, typer.Option("--key", "-k", help="The key file; keep it to yourself.")
]
_AnyPrompt = Annotated[
    str,
    typer.Option(
        "--prompt",
        "-p",
        help="What the image was made from, if that is known; with its --guidance.",
    ),
]
_OneGuidance = Annotated[
    float,
    typer.Option(
        "--guidance",
        "-g",
        help="Of the prompt, 1 if it is not known; as in diffusers, at most 1 is no "
        "guidance, and the prompt counts.",
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
            "sees the mark without its key.",
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
        check_writable_file(out)
        check_writable_file(key)

        import jax

        import jaxinv as ji
        from jaxinv.apps import watermark
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Observed, Progress

        sampler = check_choice("sampler", sampler, samplers.ONE_ARRAY_NAMES)
        spacing = check_choice("spacing", spacing, samplers.SPACINGS)
        wanted = check_choice("scheme", scheme or SCHEMES[0], SCHEMES)
        new = not key.exists()
        found = None if new else watermark.read_key(key)
        pipe = ji.load(model, revision=revision)
        chosen = samplers.make_sampler(pipe.schedule, sampler, steps, spacing)
        if found is None:
            found = _new_key(wanted, pattern, pipe.latent_shape)
        elif scheme and _scheme(found) != wanted.replace("_", "-"):
            raise ValueError(f"{key} is a {_scheme(found)} key, not {scheme}")
        if seed is None:
            seed = secrets.randbits(63)
        plain = jax.random.normal(
            jax.random.fold_in(jax.random.key(seed >> 32), seed & 0xFFFFFFFF),
            pipe.latent_shape,
        )
        noise = found.embed(plain)
        denoise = pipe.denoiser(prompt, negative_prompt, guidance)
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
            "seed": seed,
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
            help="Of unmarked images whose noise is white, about this share is called "
            "marked.",
        ),
    ] = 1e-3,
    resize: options.Resize = False,
    as_json: options.AsJson = False,
) -> None:
    """Say whether an image carries a key's watermark."""
    output = Output(as_json)
    with explained(output):
        if not 0 < rate < 1:
            raise ValueError(f"--rate must lie between 0 and 1, got {rate}")
        noise, record, found = _inverted(
            output, image, [key], prompt, negative_prompt, model, revision, steps,
            guidance, sampler, spacing, strategy, decoder_inversion, resize,
        )  # fmt: skip

    from jaxinv.jobs.detect import verdict

    record |= verdict(found[0], found[0].score(noise), rate) | {"rate": rate}
    yes = record["detected"]
    word = "[green]marked[/]" if yes else "no watermark found"
    output.show(
        f"{escape(str(image))}: {word} (white noise without the mark comes as near "
        f"with the probability {record['p_value']:.2g})"
    )
    output.finish(record)


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
    as_json: options.AsJson = False,
) -> None:
    """Say which of several tree-ring keys an image is nearest to."""
    output = Output(as_json)
    with explained(output):
        noise, record, found = _inverted(
            output, image, key, prompt, negative_prompt, model, revision, steps,
            guidance, sampler, spacing, strategy, decoder_inversion, resize, True,
        )  # fmt: skip

    from jaxinv.apps import watermark

    distances = np.asarray(watermark.classify(found, noise))
    nearest = int(np.argmin(distances))
    # Of several keys one is the nearest by chance, too.
    p = float(watermark.p_value(found[nearest].score(noise)))
    record |= {
        "nearest": key[nearest],
        "distances": {str(k): float(d) for k, d in zip(key, distances, strict=True)},
        "p_value": min(1.0, len(found) * p),
    }
    for path, distance in record["distances"].items():
        mark = "[green]←[/]" if path == str(key[nearest]) else ""
        output.show(f"{distance:.3f}  {escape(path)} {mark}")
    output.finish(record)


def _scheme(key: Any) -> str:
    from jaxinv.apps import watermark

    return SCHEMES[isinstance(key, watermark.GaussianShadingKey)].replace("_", "-")


def _new_key(scheme: str, pattern: str, shape: tuple[int, int, int]) -> Any:
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
    return watermark.gaussian_shading_key(shape, blocks=(block, block, 1))


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
    compared: bool = False,
) -> tuple[Any, dict[str, Any], list[Any]]:
    """The noise of an image, the record so far, and the keys."""
    check_guidance(guidance)
    read = read_image(image)

    import jax.numpy as jnp

    import jaxinv as ji
    from jaxinv.apps import watermark
    from jaxinv.cli import runs, samplers
    from jaxinv.cli.progress import Observed, Progress
    from jaxinv.decoder import METHODS
    from jaxinv.inversion import STRATEGIES
    from jaxinv.jobs.one_by_one import decoder_record

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
