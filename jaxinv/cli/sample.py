"""``jaxinv sample``: an image from a prompt, or from a noise that was found before."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from jaxinv.cli import options
from jaxinv.cli.console import Output, check_choice, check_guidance, explained
from jaxinv.files import check_writable_file, read_array
from jaxinv.files.images import image_suffix, write_image


def sample(
    prompt: options.Prompt,
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
            "--seed", help="Seed of the noise (default 0).", min=0, max=options.MAX_SEED
        ),
    ] = None,
    noise: Annotated[
        Path | None,
        typer.Option(
            "--noise",
            help="noise.npy of 'jaxinv invert' with the same sampler and steps, in "
            "place of a seed.",
        ),
    ] = None,
    out: options.ImageFile = Path("sample.png"),
    as_json: options.AsJson = False,
) -> None:
    """Make an image from a prompt, deterministically given the noise."""
    output = Output(as_json)
    with explained(output):
        if seed is not None and noise is not None:
            raise ValueError("--seed and --noise exclude each other")
        check_guidance(guidance)
        image_suffix(out)
        check_writable_file(out, make=False)
        given = None if noise is None else read_array(noise)

        import jax

        import jaxinv as ji
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Observed, Progress

        sampler = check_choice("sampler", sampler, samplers.SAMPLER_NAMES)
        spacing = check_choice("spacing", spacing, samplers.SPACINGS)
        pipe = ji.load(model, revision=revision)
        chosen = samplers.make_sampler(pipe.schedule, sampler, steps, spacing)
        start = _start(given, seed, pipe.latent_shape, chosen.table)
        denoise = pipe.denoiser(prompt, negative_prompt, guidance)
        check_writable_file(out)
    progress = Progress(output.messages)
    latent, seconds = runs.draw(progress, "sampling", chosen, Observed(denoise), start)
    image = np.asarray(jax.device_get(pipe.decode(latent)))
    with explained(output):
        write_image(out, image)
    output.done(f"sampled in {steps} steps", seconds)
    output.show(escape(str(out)))
    output.finish(
        {
            "image": out,
            "model": pipe.name,
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "steps": steps,
            "guidance": guidance,
            "sampler": sampler,
            "spacing": spacing,
            "seed": None if noise is not None else seed or 0,
            "noise": noise,
            "seconds": round(seconds, 3),
        }
    )


def _start(
    given: np.ndarray | None, seed: int | None, shape: tuple[int, ...], sampler: Any
) -> Any:
    """The noise or state to start from; a given one is checked against the model."""
    import jax
    import jax.numpy as jnp

    from jaxinv.sampling.state import state_of

    if given is None:
        return jax.random.normal(jax.random.key(seed or 0), shape)
    whole = (sampler.history, *shape) if sampler.bidirectional else shape
    if given.shape not in (shape, whole):
        raise ValueError(
            f"the noise has shape {given.shape}, but this model's is {shape}"
            + ("" if whole == shape else f", and {sampler.name}'s state has {whole}")
        )
    if not np.all(np.isfinite(given)):
        raise ValueError("the noise has values that are NaN or infinite")
    noise = jnp.asarray(given.astype(np.float32))
    return noise if given.shape == shape else state_of(sampler, noise, "noise")
