"""The library's inverses beside the published algorithms in PyTorch, by the clock."""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import torch

import benchmarks.torch_reference as ref
import jaxinv as ji
from benchmarks.report import table
from benchmarks.samples import (
    PROMPTS,
    inverter,
    make_sampler,
    make_samples,
    run_all,
    true_states,
)
from benchmarks.timing import CallTimes, seconds
from jaxinv.loading.find import find_model

#: The published algorithm for each sampler.
PAPER = {"2M": "Algorithm 2", "DDIM": "Algorithm 1"}


class Row(NamedTuple):
    """One way to invert one sample."""

    sampler: str
    method: str
    framework: str
    evaluations: int
    seconds: float
    compiling: float
    noise_db: float
    reconstruction_db: float


def wall_time(pipe: Any, calls: CallTimes, arguments: argparse.Namespace) -> str:
    """Return a table, and how fast the model is in both frameworks."""
    model = ref.TorchModel.load(find_model(arguments.model))
    per_call = set_best_threads(model, pipe.latent_shape)
    rows: list[tuple[Any, ...]] = []
    for name in ("2M", "DDIM"):
        found = jax_rows(pipe, name, arguments) + torch_rows(
            pipe, model, name, arguments
        )
        auto = next(row.seconds for row in found if row.method == "auto")
        rows += [
            (
                *row[:4],
                f"{row.seconds:.2f}",
                f"{row.seconds / auto:.2f}",
                f"{row.compiling:.0f}" if row.compiling else "-",
                f"{row.noise_db:.1f}",
                f"{row.reconstruction_db:.1f}",
            )
            for row in found
        ]
    header = (
        "sampler | method | framework | evaluations | seconds | times auto | "
        "compiling, s | noise NMSE, dB | reconstruction NMSE, dB"
    )
    times = ", ".join(
        f"{1000 * spent:.1f} ms with {n} thread{'s' * (n > 1)}"
        for n, spent in per_call.items()
    )
    return f"""{table(header, rows)}

One guided call for one sample: JAX {1000 * calls[1]:.1f} ms; PyTorch {times}, of which
the faster was used."""


def jax_rows(pipe: Any, name: str, arguments: argparse.Namespace) -> list[Row]:
    """Return the library: naive, the published algorithm, and the default."""
    sampler = make_sampler(pipe, name, "log_snr", arguments.steps)
    samples = make_samples(pipe, 1, arguments.seed)
    guidance = arguments.guidance
    truth = true_states(pipe, sampler, samples, guidance, 1)
    published = (
        {"solver": ji.ForwardStep.paper}
        if sampler.history == 1
        else {"schedule": pipe.schedule}
    )
    ways: dict[str, tuple[dict[str, Any], int]] = {
        "naive": ({"strategy": "naive"}, arguments.repeats),
        PAPER[name]: ({"strategy": "stepwise", **published}, 1),
        "auto": ({"strategy": "auto"}, arguments.repeats),
    }
    rows = []
    for method, (options, repeats) in ways.items():
        inputs = (pipe, sampler, samples, jnp.float32(guidance), truth)
        began = time.perf_counter()
        run = inverter(**options).lower(*inputs).compile()  # type: ignore[attr-defined]
        compiling = time.perf_counter() - began
        spent = seconds(lambda run=run, inputs=inputs: run(*inputs), repeats)
        outcome = run_all(run, pipe, sampler, samples, guidance, truth, 1)
        rows.append(
            Row(
                name,
                method,
                "JAX",
                int(outcome.evals[0]),
                spent,
                compiling,
                float(outcome.noise_db[0]),
                float(outcome.reconstruction_db[0]),
            )
        )
        print(f"wall time: {rows[-1]}", flush=True)
    return rows


def torch_rows(
    pipe: Any, model: ref.TorchModel, name: str, arguments: argparse.Namespace
) -> list[Row]:
    """PyTorch: naive and the published algorithm, on the latent that JAX sampled."""
    grid = ji.time_grid(pipe.schedule, arguments.steps)
    sampler = make_sampler(pipe, name, "log_snr", arguments.steps)
    samples = make_samples(pipe, 1, arguments.seed)
    truth = true_states(pipe, sampler, samples, arguments.guidance, 1)
    noise, x0 = (ref.to_channels_first(x) for x in (samples.noises, truth[:, 0]))

    def published(eps: ref.GuidedEps) -> ref.Inversion:
        if sampler.history == 1:
            return ref.algorithm_1(grid, eps, x0)
        return ref.algorithm_2(grid, pipe.schedule, eps, x0, order=sampler.order)

    ways: dict[str, tuple[Callable[[ref.GuidedEps], ref.Inversion], int]] = {
        "naive": (lambda eps: ref.naive(grid, eps, x0), arguments.repeats),
        PAPER[name]: (published, 1),
    }
    rows = []
    for method, (invert, repeats) in ways.items():
        results: list[ref.Inversion] = []

        def run(invert: Any = invert, results: Any = results) -> None:
            results.append(invert(model.guided(PROMPTS[:1], arguments.guidance)))

        spent = seconds(run, repeats)
        found = results[-1]
        eps = model.guided(PROMPTS[:1], arguments.guidance)
        again = ref.dpmpp(grid, eps, found.noise, order=sampler.order)[0]
        errors = (
            float(ji.nmse_db(a.numpy(), b.numpy()))
            for a, b in ((found.noise, noise), (again, x0))
        )
        evaluations = int(found.evaluations[0])
        rows.append(Row(name, method, "PyTorch", evaluations, spent, 0.0, *errors))
        print(f"wall time: {rows[-1]}", flush=True)
    return rows


def set_best_threads(
    model: ref.TorchModel, shape: tuple[int, int, int]
) -> dict[int, float]:
    """Set the number of threads with which PyTorch is fastest; seconds of each."""
    height, width, channels = shape
    x = torch.randn(1, channels, height, width)
    times = {}
    with torch.no_grad():
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            eps = model.guided(PROMPTS[:1], 5.0)
            times[threads] = seconds(lambda eps=eps: eps(x, 500.0), 9)
    torch.set_num_threads(min(times, key=lambda n: times[n]))
    return times
