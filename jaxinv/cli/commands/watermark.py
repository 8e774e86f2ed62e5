"""``jaxinv watermark``: generate an image with a watermark, and detect watermarks."""

import contextlib
import dataclasses
import enum
import secrets
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.markup import escape

from jaxinv.cli import options, record, runs
from jaxinv.cli.console import Output, check_choice, explained
from jaxinv.cli.options import argument, option
from jaxinv.cli.prepare import Prepared, prepare
from jaxinv.cli.samplers import ONE_ARRAY_NAMES
from jaxinv.files import check_writable_file
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import image_suffix

app = typer.Typer(
    name="watermark",
    help="Watermarks in the noise: generate marked images, and detect watermarks.",
    no_args_is_help=True,
)
_IMAGE, _KEY = "The image to examine.", "The key file, which must be kept secret."


class DetectionCode(enum.IntEnum):
    """Exit codes of ``detect``; 2 is invalid input, as for all commands."""

    FOUND = 0
    NOT_FOUND = 1
    CANNOT_JUDGE = 3
    FAILED = 70
    INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Sampling(options.Sampling):
    """Sampling options for an image of unknown prompt."""

    guidance: float = option(
        1.0,
        "Guidance scale of the image, 1 if unknown; the default of 'embed' is 3. At "
        "most 1 disables guidance, as in diffusers.",
        "-g",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recovering:
    """Options for recovering the noise of an image."""

    prompt: str = option(
        "",
        "Prompt of the image, if known, with its --guidance. Without it, marks of "
        "guided images are weaker, and rings and zeros are mostly missed.",
        "-p",
    )
    sampling: Sampling
    strategy: str = option("auto", "See 'jaxinv invert': auto, naive, ...")
    decoder_inversion: str = option("anderson")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed:
    """The options of ``jaxinv watermark embed``."""

    prompt: str | None = option(None)
    key: Path = option(..., _KEY, "-k")
    scheme: str | None = option(
        None,
        "Scheme of a new key: tree-ring (default), ring-id, gaussian-shading (default "
        "with --message), or prc. The last two have bits; images with one prc key do "
        "not show that they are related.",
    )
    pattern: str = option(
        "random",
        "Pattern of a new tree-ring key: random (default), ring (survives rotations; "
        "keys resemble each other), or zeros (no secret).",
    )
    message: str | None = option(
        None,
        "Message of a new gaussian-shading or prc key: text, hex:6A61..., or "
        "bits:0110... [drawn]. A message that identifies the image reveals copies of "
        "its mark.",
    )
    sampling: options.Sampling
    size: options.Size
    seed: int | None = option(
        None,
        "Seed of the noise under the mark [drawn, neither shown nor kept]. It reveals "
        "the mark without the key.",
        min=0,
    )
    out: Path = option(Path("marked.png"))
    as_json: bool = option(False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detect:
    """The options of ``jaxinv watermark detect``."""

    image: Path = argument(_IMAGE)
    key: Path = option(..., _KEY, "-k")
    recovering: Recovering
    rate: float = option(
        1e-3,
        "Largest fraction, approximately, of unmarked images that are called marked.",
    )
    reading: options.Reading
    as_json: bool = option(False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify:
    """The options of ``jaxinv watermark classify``."""

    image: Path = argument(_IMAGE)
    key: list[Path] = option(..., "A key file; repeat for each key.", "-k")
    recovering: Recovering
    reading: options.Reading
    as_json: bool = option(False)


@app.command()
@options.unfold
def embed(asked: Embed) -> None:
    """Generate an image with a watermark.

    The key is read from its file. If the file does not exist, a key is drawn and
    written to it, readable by its owner only; keys are never overwritten.
    """
    output = Output(asked.as_json)
    with explained(output):
        image_suffix(asked.out)
        for path in (asked.out, asked.key):
            check_writable_file(path, make=False)
        ready, key, new = _prepare_key(asked)
        # A seed has 63 bits, more than a JAX key accepts at once.
        drawn = secrets.randbits(63) if asked.seed is None else asked.seed
        seed = jax.random.fold_in(jax.random.key(drawn >> 32), drawn & 0xFFFFFFFF)
        noise = key.embed(jax.random.normal(seed, ready.pipe.latent_shape))
        denoise = ready.denoiser(asked.prompt)
        for path in (asked.out, asked.key):
            check_writable_file(path)
        _keep(output, asked.key, key, new)
    latent, seconds = runs.draw(output, ready, denoise, noise)
    image = ready.pipe.decode(latent)
    with explained(output):
        record.save_image(asked.out, image, "marked")
    output.done(f"sampled in {ready.sampler.table.num_steps} steps", seconds)
    output.show(
        f"{escape(str(asked.out))}, marked with {escape(str(asked.key))}: "
        f"{escape(ready.sampler.description)}"
    )
    output.finish(
        ready.record()
        | {
            "image": asked.out,
            "key": asked.key,
            "new_key": new,
            "scheme": _scheme(key),
            "prompt": asked.prompt,
            "seed": asked.seed,  # None if it was drawn, because it is a secret
        }
    )


def _prepare_key(asked: Embed) -> tuple[Prepared, Any, bool]:
    """Return the model, the key, and whether the key is new."""
    from jaxinv.apps import watermark
    from jaxinv.apps.watermark import tree_ring

    default = "tree-ring" if asked.message is None else "gaussian-shading"
    names = [name.replace("-", "_") for name in watermark.SCHEMES]
    name = check_choice("scheme", asked.scheme or default, names)
    wanted = watermark.SCHEMES[name.replace("_", "-")]
    if asked.message is not None and not wanted.has_message:
        raise ValueError(
            "--message needs --scheme gaussian-shading or prc: rings have none"
        )
    found = watermark.read_key(asked.key) if asked.key.exists() else None
    ready = prepare(asked.sampling, samplers=ONE_ARRAY_NAMES, size=asked.size)
    if found is None:
        shape = watermark.key_shape(ready.pipe)
        pattern = check_choice("pattern", asked.pattern, get_args(tree_ring.Pattern))
        return ready, wanted.draw(shape, pattern, asked.message), True
    kept = watermark.scheme_of(found)
    if asked.scheme and kept != wanted:
        raise ValueError(f"{asked.key} is a {kept.name} key, not {asked.scheme}")
    if asked.message is not None:
        _check_message(asked.key, found, asked.message)
    _check_shape(asked.key, found, ready)
    return ready, found, False


def _keep(output: Output, path: Path, key: Any, new: bool) -> None:
    """Write a new key, or warn about the reuse of an existing one."""
    from jaxinv.apps import watermark

    if new:
        watermark.write_key(path, key)
    elif isinstance(key, watermark.GaussianShadingKey):
        output.note(
            "images with the same Gaussian Shading key share all signs of their noise: "
            "anybody who inverts several images sees that they are related"
        )


@app.command()
@options.unfold
def detect(asked: Detect) -> None:
    """Detect a key's watermark in an image.

    The exit code is 0 if the watermark is found, 1 if not, 3 if it cannot be judged
    because the recovered noise is not plausible for an image, 2 for invalid input, and
    70 for an unexpected failure.
    """
    output = Output(asked.as_json)
    with _failures_apart():
        with explained(output):
            if not 0 < asked.rate < 1:
                raise ValueError(f"--rate must lie between 0 and 1, got {asked.rate}")
            noise, report, (key,) = _recover(output, asked, [asked.key])

        from jaxinv.scale.jobs.detect import verdict

        report |= verdict(key, noise, asked.rate) | {"rate": asked.rate}
        output.show(f"{escape(str(asked.image))}: {_answer(report)}")
        output.show(_sampler_line(report))
        output.finish(report)
    code = {"found": DetectionCode.FOUND, "not found": DetectionCode.NOT_FOUND}
    raise typer.Exit(code.get(report["verdict"], DetectionCode.CANNOT_JUDGE))


def _answer(report: dict[str, Any]) -> str:
    """Return the verdict as text."""
    if report["verdict"] == "cannot judge":
        return (
            f"[yellow]cannot judge[/]: the result is not the noise of an image; "
            f"{report['reason']}"
        )
    word = "[green]marked[/]" if report["detected"] else "no watermark found"
    text = f"{word} (another key is as close with probability {report['p_value']:.2g}"
    if "matches" in report:
        text += f"; {report['matches']} of {report['bits']} bits are the key's"
    if "satisfied" in report:
        text += f"; {report['satisfied']:.1%} of the parity checks hold"
    names = ("message_text", "message_hex", "message")
    read = next((report[name] for name in names if report.get(name)), None)
    return f"{text})" if read is None else f"{text}), message {escape(read)}"


def _sampler_line(report: dict[str, Any]) -> str:
    return f"[dim]noise recovered with[/] {escape(report['sampler_description'])}"


@contextlib.contextmanager
def _failures_apart() -> Iterator[None]:
    """Map unexpected failures to an exit code that differs from the verdicts."""
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
@options.unfold
def classify(asked: Classify) -> None:
    """Find the closest of several keys of rings to an image."""
    output = Output(asked.as_json)
    with explained(output):
        noise, report, keys = _recover(output, asked, asked.key)

    from jaxinv.apps import watermark

    distances = np.asarray(watermark.classify(keys, noise))
    nearest = int(np.argmin(distances))
    # One of several keys is always the closest, also by chance.
    verdict = watermark.judge(keys[nearest].score(noise))
    if verdict.reason is not None:
        output.note(
            f"cannot judge: the result is not the noise of an image; {verdict.reason}"
        )
    report |= {
        "nearest": asked.key[nearest],
        "distances": dict(zip(map(str, asked.key), distances, strict=True)),
        "p_value": min(1.0, len(keys) * verdict.p_value),
        "reason": verdict.reason,
    }
    for path, distance in report["distances"].items():
        mark = "[green]←[/]" if path == str(asked.key[nearest]) else ""
        output.show(f"{distance:.3f}  {escape(path)} {mark}")
    output.show(_sampler_line(report))
    output.finish(report)


def _scheme(key: Any) -> str:
    from jaxinv.apps import watermark

    return watermark.scheme_of(key).name


def unguided_note(prompt: str, guidance: float) -> str | None:
    """Return a warning about inverting without prompt or guidance, or None."""
    if prompt and guidance > 1:
        return None
    how = "with the prompt at guidance 1" if prompt else "without the prompt"
    # benchmarks/results/watermark_judgement.md
    return (
        f"inverting {how}: if the image was made with guidance (by 'embed': 3), its "
        "mark may be missed. Of 8 images of each kind of key by emoji64, 8 (random), 6 "
        "(ring), 8 (zeros) and 8 (gaussian-shading) are found with --prompt and "
        "--guidance 3; 8, 1, 5 and 8 with the prompt at guidance 1; 8, 1, 1 and 8 "
        "without the prompt"
    )


def _check_message(path: Path, key: Any, message: str) -> None:
    """Raise ValueError unless a key has this message."""
    from jaxinv.apps import watermark

    scheme = watermark.scheme_of(key)
    if not scheme.has_message:
        raise ValueError(f"{path} is a {scheme.name} key, which has no --message")
    wanted = watermark.read_message(message, len(key.message))
    if not np.array_equal(wanted, np.asarray(key.message)):
        raise ValueError(
            f"{path} holds another message, and two messages must not share a secret; "
            "name a new key file"
        )


def _check_shape(path: Path, key: Any, ready: Prepared) -> None:
    """Raise ValueError if a key does not have the shape of the noise."""
    pipe, factor = ready.pipe, ready.pipe.factor
    if key.shape == pipe.latent_shape:
        return
    (height, width), (rows, columns, _) = pipe.image_size, key.shape
    raise ValueError(
        f"{path} is a key for noise of shape {key.shape}, of images of "
        f"{columns * factor}x{rows * factor}, but the noise of {pipe.name} for images "
        f"of {width}x{height} has {pipe.latent_shape}"
    )


def _recover(
    output: Output, asked: Detect | Classify, paths: Sequence[Path]
) -> tuple[jax.Array, dict[str, Any], list[Any]]:
    """Return the noise of an image, its record, and the keys."""
    from jaxinv.apps import watermark

    image, how = asked.image, asked.recovering
    read = read_image(image, asked.reading.max_pixels)
    keys: list[Any] = [watermark.read_key(path) for path in paths]
    if isinstance(asked, Classify):
        # This raises early for keys that cannot be compared.
        watermark.classify(keys, jnp.zeros(keys[0].shape))
    ready = prepare(
        how.sampling,
        samplers=ONE_ARRAY_NAMES,
        strategy=how.strategy,
        decoder=how.decoder_inversion,
        image=None if asked.reading.resize else read,
    )
    for path, key in zip(paths, keys, strict=True):
        _check_shape(path, key, ready)
    read = ready.fit(output, image, read, asked.reading.resize)
    note = unguided_note(how.prompt, how.sampling.guidance)
    if note and ready.pipe.family.guidable:
        output.note(note)
    denoise = ready.denoiser(how.prompt)
    decoder = runs.find_latent(output, ready, read.pixels)
    outcome = runs.find_noise(output, ready, denoise, decoder.latent)
    result = outcome.result
    if not bool(jnp.all(jnp.isfinite(result.noise))):
        raise ValueError(f"the inversion of {image} overflowed: there is no noise")
    if not (bool(result.converged) and bool(decoder.converged)):
        output.note(
            "the inversion did not converge: the image may come from another model or "
            "sampler, or may have been changed; a watermark may be missed"
        )
    report = ready.record() | {
        "image": image,
        "changes": read.changes,
        "keys": paths,
        "schemes": [_scheme(key) for key in keys],
        "prompt": how.prompt,
        "strategy": ready.strategy,
        "decoder_inversion": record.decoder(ready, decoder),
        "certificate": record.certificate(outcome),
    }
    return result.noise, report, keys
