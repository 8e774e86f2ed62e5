"""``jaxinv batch``: find the noise of every image of a data set, with resumption."""

import contextlib
import dataclasses
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import typer
from rich.markup import escape

from jaxinv.checks import shown
from jaxinv.cli import options, record
from jaxinv.cli.commands.watermark import unguided_note
from jaxinv.cli.console import ExitCode, Output, check_choice, check_guidance, explained
from jaxinv.cli.options import argument, option
from jaxinv.cli.prepare import GUIDANCE, Prepared, prepare
from jaxinv.cli.programs import keep_programs
from jaxinv.cli.samplers import ONE_ARRAY_NAMES, SAMPLER_NAMES, lossy_note
from jaxinv.files.json_fields import naming
from jaxinv.mesh import make_mesh
from jaxinv.scale import hosts

if TYPE_CHECKING:
    from jaxinv.cli.batch_progress import JobProgress
    from jaxinv.pipeline import Pipeline
    from jaxinv.scale.jobs.manifest import Manifest

_DTYPES = ("float32", "bfloat16")


class _StoppedError(BaseException):
    """Exception for a stop by a signal; a BaseException, so that nothing catches it."""

    def __init__(self, number: int):
        self.number = number


@dataclasses.dataclass(frozen=True)
class Sampling(options.Sampling):
    """Sampling options of a job, whose images may have their own guidance."""

    guidance: float | None = option(
        None,
        "Guidance scale of images without their own [3; with --detect 1]; at most 1 "
        "disables guidance, as in diffusers.",
        "-g",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Options for several processes."""

    distributed: bool = option(
        False,
        "Run as one of several processes, of a cluster that JAX detects (Slurm, Open "
        "MPI, Kubernetes, Cloud TPU) or that the next three options describe.",
        "--distributed",
    )
    coordinator: str | None = option(None, "host:port of the first process.")
    processes: int | None = option(None, "Number of processes.")
    process: int | None = option(None, "Index of this process, from 0.")

    def join(self) -> hosts.Processes:
        """Return this process and the number of processes of the job."""
        where = (self.coordinator, self.processes, self.process)
        if self.distributed:
            return hosts.join(*where)
        if any(each is not None for each in where):
            raise ValueError(
                "--coordinator, --processes and --process need --distributed"
            )
        return hosts.alone()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv batch``."""

    manifest: Path = argument(
        "JSONL or CSV file with a path for each image (relative to the file) and, "
        "optionally, its prompt, negative_prompt and guidance; or a folder of images."
    )
    out: Path = argument("Folder for the results: new, or of a job to resume.")
    prompt: str = option("", "Prompt of images without their own.", "-p")
    sampling: Sampling
    strategy: str = option("auto", "See 'jaxinv invert'.")
    max_evals: int | None = option(None, min=1)
    decoder_inversion: str = option("anderson")
    size: options.Size
    dtype: str = option("float32", "Data type of the networks: float32 or bfloat16.")
    extra_columns: bool = option(
        False,
        "Allow unknown columns in the manifest, and keep them.",
        "--extra-columns",
    )
    reading: options.Reading
    max_failures: int | None = option(
        None, "Stop after more failures than this in one start [no limit].", min=0
    )
    retry_failures: bool = option(
        False, "Retry images that failed before.", "--retry-failures"
    )
    detect: list[Path] | None = option(
        None, "Key file of a watermark to look for; can be repeated."
    )
    rate: float = option(
        1e-3, "For --detect: about this fraction of unmarked images is called marked."
    )
    no_noise: bool = option(
        False, "Write certificates but no noise.zarr.", "--no-noise"
    )
    chunk_rows: int = option(64, "Number of noises in one file.", min=1)
    batch_size: int = option(
        8,
        "Images per device at a time (per group with --model-parallel).",
        "-b",
        min=1,
    )
    model_parallel: int = option(
        1, "Number of devices that share one copy of the parameters.", min=1
    )
    hosts: Processes
    compilation_cache: str | None = option(
        None, "Folder for compiled programs, or off; see jaxinv --help."
    )
    as_json: bool = option(False)


@options.unfold
def batch(asked: Options) -> None:
    """Find the noise of every image of a data set.

    Writes noise.zarr (row i for row i of the manifest; NaN for missing noises),
    certificates.jsonl, summary.json and manifest.jsonl. After any interruption, the
    same command resumes the job; other settings, models or manifests are refused.
    Images whose content has changed are inverted again, and results of deleted images
    are kept; a note counts both. If an image cannot be read or inverted, the reason is
    recorded and the job continues.

    The exit code is 0 if all images were inverted and converged, 3 if some failed or
    (without --detect) did not converge, 2 for invalid input or a full disk, 1 after
    more than --max-failures failures, and 130 or 143 if stopped by a signal.
    """
    from jaxinv.cli.batch_progress import JobProgress

    output = Output(asked.as_json)
    progress = JobProgress(output.messages)
    with _stoppable(output, progress.done):
        with explained(output):
            ready, job = _prepare(output, asked)
        start = time.perf_counter()
        summary = _run(output, asked.out, job, progress)
        output.done("job", time.perf_counter() - start)
        said = ready.sampler.description
        _show(output, summary, asked.out, said)
        output.finish(summary | {"out": asked.out, "sampler_description": said})
        if summary["failed"] or (summary["unconverged"] and not asked.detect):
            raise typer.Exit(ExitCode.NOT_CONVERGED)


def _settings(asked: Options, ready: Prepared, dtype: str) -> dict[str, Any]:
    """Return what results depend on, besides the images: contents in place of names."""
    from jaxinv.loading.find import find_model
    from jaxinv.pipeline.families.instaflow import InstaFlow
    from jaxinv.scale import jobs

    sampling, pipe = asked.sampling, ready.pipe
    # The files that were just loaded: a branch on the hub may have moved since.
    folder = find_model(
        sampling.model, revision=sampling.revision, local_files_only=True
    )
    settings = ready.record() | {
        "model_sha256": jobs.model_fingerprint(
            folder, text_encoders=pipe.prompts is None
        ),
        "dtype": dtype,
        "strategy": ready.strategy,
        "decoder_inversion": ready.decoder,
        "prompt": asked.prompt,
    }
    # One model or part may have two names, and one sampler two descriptions.
    for name in ("model", "vae", "sampler_description"):
        settings.pop(name, None)
    if pipe.family == InstaFlow():  # which a name alone may say
        settings["family"] = pipe.family.name
    if pipe.lora:
        settings["lora"] = [[each.sha256, each.scale] for each in pipe.lora]
    if pipe.words:
        settings["words"] = [[each.token, each.sha256] for each in pipe.words]
    if asked.max_evals is not None:
        settings["max_evals"] = asked.max_evals
    return settings


def _check_rows(pipe: "Pipeline", manifest: "Manifest") -> None:
    """Raise ValueError for a row with what the model does not take."""
    for row in manifest.rows:
        prompt = row.prompt or row.negative_prompt
        if prompt and not pipe.text_encoders:
            raise ValueError(
                f"{pipe.name} has no text encoder and takes no prompt, got "
                f"{shown(prompt)} for {row.path}"
            )
        with naming(row.path):
            pipe.family.check_guidance(pipe, row.guidance)
        if pipe.prompts is not None:  # raises for texts that are not among them
            pipe.encode_prompt(row.prompt)
            if pipe.family.reads_negative(pipe, row.guidance):
                pipe.encode_prompt(row.negative_prompt, negative=True)


def _prepare(
    output: Output, asked: Options
) -> tuple[Prepared, Callable[..., dict[str, Any]]]:
    """Return the model, and the job as a function of its progress callback."""
    from jaxinv.scale import jobs

    keys = list(asked.detect or [])
    guidance = asked.sampling.guidance
    if guidance is None and keys:
        guidance = 1.0
    sampling = dataclasses.replace(asked.sampling, guidance=guidance)
    if asked.no_noise and not keys:
        output.note("without --detect, --no-noise leaves only certificates")
    read = functools.partial(
        jobs.read_manifest,
        asked.manifest,
        prompt=asked.prompt,
        negative_prompt=sampling.negative_prompt,
        extra_columns=asked.extra_columns,
    )
    rows = read(guidance=GUIDANCE if guidance is None else check_guidance(guidance))
    dtype = check_choice("dtype", asked.dtype, _DTYPES)
    if asked.compilation_cache is not None:
        keep_programs(asked.compilation_cache)
    me = asked.hosts.join()
    mesh = make_mesh(asked.model_parallel, devices=jax.local_devices())
    ready = prepare(
        sampling,
        samplers=ONE_ARRAY_NAMES if keys else SAMPLER_NAMES,
        strategy=asked.strategy,
        decoder=asked.decoder_inversion,
        max_evals=asked.max_evals,
        dtype=dtype,
        sharding=mesh,
        size=asked.size,
    )
    pipe, table = ready.pipe, ready.sampler.table
    default = ready.asked.guidance
    if guidance is None and default is not None and default != GUIDANCE:
        rows = read(guidance=default)  # the model has another default
    _check_rows(pipe, rows)
    detector = None
    if keys:
        from jaxinv.apps.watermark import key_shape

        detector = jobs.read_detector(keys, asked.rate, key_shape(pipe))
        notes = [unguided_note(row.prompt, row.guidance) for row in rows.rows]
        said = [note for note in notes if note and pipe.family.guidable]
        if said:
            output.note(f"{len(said)} of {len(notes)} images: {said[0]}")
    if note := lossy_note(ready.sampler, pipe.schedule):
        output.note(note)
    settings = _settings(asked, ready, dtype)
    engine = jobs.continuous(
        pipe,
        table,
        strategy=ready.strategy,
        decoder=ready.decoder,
        guided=any(pipe.family.reads_negative(pipe, row.guidance) for row in rows.rows),
        lanes=asked.batch_size * mesh.shape["data"],
        mesh=mesh,
        max_evals=ready.max_evals,
    )
    states = (table.history,) if table.bidirectional else ()
    job = functools.partial(
        jobs.run_job,
        rows,
        asked.out,
        engine,
        settings=settings,
        image_size=pipe.image_size,
        row_shape=(*states, *pipe.latent_shape),
        model=pipe.name,
        resize=asked.reading.resize,
        max_pixels=asked.reading.max_pixels,
        keep_noise=not asked.no_noise,
        detector=detector,
        chunk_rows=asked.chunk_rows,
        max_failures=asked.max_failures,
        retry_failures=asked.retry_failures,
        process_index=me.index,
        process_count=me.count,
        on_note=output.note,
        about={
            "manifest": str(asked.manifest),
            "model": pipe.name,
            "sampler_description": ready.sampler.description,
        },
    )
    return ready, job


def _run(
    output: Output,
    out: Path,
    job: Callable[..., dict[str, Any]],
    progress: "JobProgress",
) -> dict[str, Any]:
    """Run a job and return its summary."""
    from jaxinv.cli.batch_progress import logged
    from jaxinv.scale.jobs import TooManyFailuresError

    try:
        with explained(output), logged(output.messages), progress:
            return job(on_progress=progress.update)
    except TooManyFailuresError as error:
        output.messages.print(
            f"[bold red]given up:[/] {error}; {progress.done()}, see "
            f"{escape(str(out))}/certificates. The same command resumes from here; "
            "--retry-failures retries the failed images",
            soft_wrap=True,
        )
        raise typer.Exit(1) from None


@contextlib.contextmanager
def _stoppable(output: Output, how_far: Callable[[], str]) -> Iterator[None]:
    """End the block at SIGINT and SIGTERM after writing all finished results.

    A second signal also stops the writing.

    Args:
        output: The output for messages.
        how_far: Function that returns the progress in words.

    Yields:
        Nothing.

    Raises:
        typer.Exit: 128 and the signal's number, after a signal.
    """

    def stop(number: int, _frame: Any) -> None:
        raise _StoppedError(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread only
        return
    signals = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    except _StoppedError as stopped:
        name = signal.Signals(stopped.number).name
        output.note(
            f"stopped by {name}, {how_far()}; the same command resumes from here"
        )
        raise typer.Exit(128 + stopped.number) from None
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _show(output: Output, summary: dict[str, Any], out: Path, sampler: str) -> None:
    """Show the summary to people."""
    rows = [
        ("converged", str(summary["converged"]), "solved at every step"),
        ("not converged", str(summary["unconverged"]), "the best result is kept"),
        ("failed", str(summary["failed"]), "no noise: see below"),
    ]
    if summary["complete"]:
        seconds = summary["seconds"]
        speed = f"{summary['images'] / seconds:.3g} images/s" if seconds else ""
        rows += [
            ("seconds", f"{seconds:.1f}", f"in all starts; {speed}"),
            ("evaluations", str(summary["num_evals"]), "of the network"),
        ]
    else:
        rest = str(summary["images"] - summary["done"])
        rows.append(("missing", rest, "other processes are still working on them"))
    output.show(record.table(f"{summary['images']} images → noise", rows))
    for kind, count in summary.get("failures", {}).items():
        output.show(f"{count:>8} failed: {escape(kind)}")
    if found := summary.get("watermarks"):
        for key, count in found["detected"].items():
            output.show(f"{count:>8} marked with {escape(key)}")
            if doubtful := found["cannot_judge"][key]:
                output.show(
                    f"{doubtful:>8} cannot be judged: not the noise of an image"
                )
        output.show(
            f"By chance, {found['expected_false_alarms_per_key']:.3g} of "
            f"{found['images']} unmarked images are called marked, for each key."
        )
    output.show(f"[dim]sampler:[/] {escape(sampler)}")
    output.show(f"[dim]results in[/] {escape(str(out))}")
