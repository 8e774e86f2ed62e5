"""Preparation of a command: check names, load the model, and read images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jaxinv as ji
from jaxinv.cli import options
from jaxinv.cli.console import Output, check_choice, check_guidance
from jaxinv.cli.control import Control, check_control, read_control
from jaxinv.cli.other_files import other_files
from jaxinv.cli.samplers import (
    EXACT_NAMES,
    OWN,
    SAMPLER_NAMES,
    SPACINGS,
    Sampler,
    make_sampler,
    scheduler_sampler,
)
from jaxinv.decoder_inversion import METHODS
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.files.image_reading import MAX_PIXELS, ReadImage
from jaxinv.files.images import fit_image
from jaxinv.inversion import STRATEGIES
from jaxinv.inversion.strategies import check_max_evals, make_plan
from jaxinv.solvers import SOLVERS

#: The guidance scale where there is guidance and none is given.
GUIDANCE = 3.0


class Prepared(NamedTuple):
    """A model, a sampler and settings of their inversion that fit each other.

    Attributes:
        pipe: The model, at the size of the image.
        sampler: The sampler.
        asked: The options, with names in the library's spelling.
        strategy: A name in ``STRATEGIES``.
        solver: A name in ``SOLVERS``, or None for the strategy's default.
        decoder: Name of the decoder inversion's method, in ``METHODS``.
        scheduler: The configuration of the scheduler, or None for a named sampler.
        trained_size: (height, width) of the images that the model was trained on.
        max_evals: The limit on evaluations; None for the default.
        control: Control images, for models with ControlNets.
    """

    pipe: "ji.Pipeline"  # imports Flax where it is evaluated
    sampler: Sampler
    asked: options.Sampling
    strategy: str
    solver: str | None
    decoder: str
    scheduler: dict[str, Any] | None
    trained_size: tuple[int, int]
    max_evals: int | None = None
    control: Control = Control()

    def denoiser(self, prompt: str | None) -> Denoiser:
        """Return the model with a prompt filled in, if it takes one."""
        guidance = self.asked.guidance
        assert guidance is not None, "prepare() fills it in"
        return self.pipe.denoiser(
            self.prompt(prompt),
            self.asked.negative_prompt,
            guidance,
            **self.control.arguments(),
        )

    def prompt(self, typed: str | None) -> str:
        """Return a prompt as typed, which models without text do not need.

        Raises:
            ValueError: If it is missing.
        """
        saved = self.pipe.prompts
        if typed is None and saved is not None:
            texts = saved.texts(negative=False)
            if len(texts) == 1:
                return texts[0]
            raise ValueError(
                "Missing option '--prompt' (or -p): the saved prompts are "
                f"{saved.shown(negative=False)}"
            )
        if typed is None and self.pipe.text_encoders:
            raise ValueError(
                f"Missing option '--prompt' (or -p): {self.pipe.name} makes images of "
                "texts; '' is the empty one"
            )
        return typed or ""

    def fit(
        self, output: Output, path: Path, read: ReadImage, resize: bool
    ) -> ReadImage:
        """Return an image at the model's size, and print notes about changes."""
        pipe = self.pipe
        read = fit_image(read, path, pipe.image_size, pipe.name, resize, pipe.factor)
        for change in read.changes:
            output.note(f"{path}: {change}")
        if pipe.image_size != self.trained_size:
            (height, width), (rows, columns) = self.trained_size, pipe.image_size
            output.note(
                f"{path} is {columns}x{rows} and {pipe.name} was trained at "
                f"{width}x{height}; with --resize, the image is changed to that size"
            )
        return read

    def record(self) -> dict[str, Any]:
        """Return the model and sampling settings, for a JSON file."""
        record = dataclasses.asdict(self.asked) | {"model": self.pipe.name}
        for name in ("revision", "config", "scheduler", "lora", "textual_inversion"):
            del record[name]
        for name, default in (("vae", None), ("prompt_chunks", 1)):
            if record[name] == default:
                del record[name]
        del record["prompt_embeddings"]
        if self.pipe.prompts is not None:
            record["prompt_embeddings_sha256"] = self.pipe.prompts.sha256
        if self.pipe.lora:
            record["lora"] = [each._asdict() for each in self.pipe.lora]
        if self.pipe.words:
            record["words"] = [each._asdict() for each in self.pipe.words]
        for name, digest in other_files(self.asked).items():
            record[f"{name}_sha256"] = digest
        record |= self.control.record()
        record["sampler_description"] = self.sampler.description
        if self.pipe.image_size != self.trained_size:
            record["image_size"] = self.pipe.image_size
        if self.pipe.frames is not None:
            record["frames"] = self.pipe.frames
        if self.scheduler is not None:
            # Its content: a file of the same name may hold another one.
            record |= {"sampler": self.sampler.name, "spacing": None}
            record["scheduler"] = self.scheduler
        return record


def prepare(
    asked: options.Sampling,
    *,
    samplers: Sequence[str] = SAMPLER_NAMES,
    sampler: str | None = None,
    strategy: str = "auto",
    solver: str | None = None,
    decoder: str = "encoder",
    max_evals: int | None = None,
    size: options.Size | None = None,
    image: ReadImage | None = None,
    control: options.Control | None = None,
    videos: bool = False,
    frames: int | None = None,
    **loading: Any,
) -> Prepared:
    """Check the names in a command, load its model and make its sampler.

    Args:
        asked: The options.
        samplers: Names of the samplers that the command can use.
        sampler: The command's default sampler; None for the model's own scheduler.
        strategy: The strategy as typed.
        solver: The solver as typed.
        decoder: The method of decoder inversion as typed.
        max_evals: See :func:`jaxinv.invert`.
        size: The size of generated images as typed.
        image: An image whose size is taken if the model can, unless it is resized;
            the first control image's if there is none and no size is typed.
        control: ControlNets and control images as typed.
        videos: Whether the command takes models of videos.
        frames: Number of frames as typed.
        **loading: Further options of :func:`jaxinv.load`.

    Returns:
        The model and the sampler.

    Raises:
        ValueError: For names that are unknown or do not fit each other, or a size that
            the model cannot have.
    """
    if asked.guidance is not None:
        check_guidance(asked.guidance)
    asked = _with_names(asked, samplers)
    strategy = check_choice("strategy", strategy, STRATEGIES)
    decoder = check_choice("decoder inversion", decoder, METHODS)
    if solver is not None:
        solver = check_choice("solver", solver, SOLVERS)
        if strategy != "stepwise":
            raise ValueError(
                f"--solver needs --strategy stepwise; {strategy} has no choice of "
                "solvers"
            )
    loading |= model_options(asked)
    if asked.vae is not None:
        loading["vae"] = asked.vae
    if asked.prompt_embeddings is not None:
        loading |= {"prompts": asked.prompt_embeddings, "text_encoders": False}
    images = Control()
    if control is not None:
        images = read_control(control)
        if images.added:
            loading["controlnet"] = images.added
        if image is None and size in (None, options.Size()) and images.images:
            image = images.images[0]
    trained = ji.load(**loading)
    flow = trained.schedule.family == "flow"
    asked = _with_sampler(asked, samplers, sampler, flow)
    if asked.guidance is None:
        usual = trained.family.usual_guidance(trained)
        guidance = GUIDANCE if usual is None else usual
        asked = dataclasses.replace(asked, guidance=guidance)
    if trained.frames is not None and not videos:
        raise ValueError(
            f"{trained.name} makes videos, but this command works on images; jaxinv "
            "sample and jaxinv invert take videos, and so does Python"
        )
    if frames is not None:
        trained = trained.at_frames(frames)
    pipe = at_size(trained, size or options.Size())
    if asked.prompt_chunks > 1:
        pipe = pipe.with_chunks(asked.prompt_chunks)
    if image is not None and not any(n % pipe.factor for n in image.size):
        pipe = pipe.at_size(image.size)
    check_control(pipe, images)
    config = None
    if asked.scheduler is None:
        found = make_sampler(
            pipe.schedule, str(asked.sampler), asked.steps, str(asked.spacing)
        )
    else:
        found, config = scheduler_sampler(pipe, asked.scheduler, asked.steps)
    plan = make_plan(found.table, strategy, solver, pipe.schedule)
    check_max_evals(max_evals, plan, found.table)
    return Prepared(
        pipe=pipe,
        sampler=found,
        asked=asked,
        strategy=strategy,
        solver=solver,
        decoder=decoder,
        scheduler=config,
        trained_size=trained.image_size,
        max_evals=max_evals,
        control=images,
    )


def model_options(asked: options.Encoding) -> dict[str, Any]:
    """Return the arguments of :func:`jaxinv.load` for options as typed."""
    loading: dict[str, Any] = {"name_or_path": asked.model, "revision": asked.revision}
    if lora := [_lora_file(each) for each in asked.lora or ()]:
        loading["lora"] = lora
    if words := [_word(each) for each in asked.textual_inversion or ()]:
        loading["textual_inversion"] = words
    if asked.config is not None:
        loading["config"] = asked.config
    return loading


def _word(typed: str) -> tuple[str, str | None]:
    """Return a file and its word, typed as ``cat.safetensors:<cat>``."""
    path, _, word = typed.rpartition(":")
    return (path, word) if path and "/" not in word else (typed, None)


def _lora_file(typed: str) -> tuple[str, float]:
    """Return a LoRA file and its scale, typed as ``style.safetensors:0.8``."""
    path, _, scale = typed.rpartition(":")
    try:
        return (path, float(scale)) if path else (typed, 1.0)
    except ValueError:  # a colon in the path
        return typed, 1.0


def _with_names(asked: options.Sampling, samplers: Sequence[str]) -> options.Sampling:
    """Return the options with the names of sampler and spacing, if they fit."""
    sampler, spacing = asked.sampler, asked.spacing
    if sampler is not None:
        sampler = check_choice("sampler", sampler, samplers)
    if spacing is not None:
        spacing = check_choice("spacing", spacing, SPACINGS)
    if asked.scheduler is not None and (sampler is not None or spacing is not None):
        raise ValueError(
            "--scheduler excludes --sampler and --spacing: the scheduler has its own "
            "method and time grid"
        )
    if asked.scheduler is not None and _exact_only(samplers):
        raise ValueError(
            "--scheduler does not fit this command, which needs a sampler that is "
            "exact by construction"
        )
    return dataclasses.replace(asked, sampler=sampler, spacing=spacing)


def _exact_only(samplers: Sequence[str]) -> bool:
    return set(samplers) <= set(EXACT_NAMES)


def _with_sampler(
    asked: options.Sampling,
    samplers: Sequence[str],
    default: str | None,
    flow: bool,
) -> options.Sampling:
    """Return the options with either a sampler and a spacing or a scheduler.

    Samplers of a state of several arrays are not stable on the steps of a flow's
    log-SNR grid, whose lengths differ widely. A flow is edited with its own sampler.
    """
    sampler, spacing, scheduler = asked.sampler, asked.spacing, asked.scheduler
    if sampler is None and spacing is None and scheduler is None:
        if default is None:
            # Images of an embedded model come from this program, on a grid that keeps
            # the noise.
            scheduler = None if _is_embedded(asked.model) else OWN
        elif flow and not _exact_only(samplers):
            scheduler = OWN
    if scheduler is None:
        sampler = sampler or default or "ddim"
        even = flow and sampler in EXACT_NAMES
        spacing = spacing or ("linspace" if even else "log_snr")
    return dataclasses.replace(
        asked, sampler=sampler, spacing=spacing, scheduler=scheduler
    )


def _is_embedded(model: str) -> bool:
    from jaxinv.loading.find import embedded_models  # imports Flax

    return model in embedded_models()


def at_size(pipe: "ji.Pipeline", size: options.Size) -> "ji.Pipeline":
    """Return a model for images of a size, of which parts may be missing."""
    height, width = (
        given or own
        for given, own in zip((size.height, size.width), pipe.image_size, strict=True)
    )
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"an image of {width}x{height} has more than {MAX_PIXELS} pixels"
        )
    if (height, width) == pipe.image_size:
        return pipe
    try:
        return pipe.at_size((height, width))
    except ValueError as error:
        raise ValueError(f"--height, --width: {error}") from None
