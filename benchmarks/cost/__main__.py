"""What exact inversion costs: time, memory, and where the time goes.

    python -m benchmarks.cost

The library beside the published algorithms in PyTorch (same weights, samples, machine
and run), its overhead over the model's own calls, the memory of every strategy, and
what a call of the model costs by batch size, which turns sequential depth into time.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import body, parse, parser, provenance, save, table
from benchmarks.samples import inverter, make_sampler, make_samples, true_states
from benchmarks.timing import CallTimes, model_call, seconds
from jaxinv.files import open_atomically
from jaxinv.inversion import NewtonTrajectory

SECTIONS = ("wall", "overhead", "memory", "batch")


def overhead(pipe: Any, calls: CallTimes, arguments: argparse.Namespace) -> str:
    """Wall time over the time of the model calls that a batch really makes."""
    rows = []
    for batch in arguments.batches:
        samples = make_samples(pipe, batch, arguments.seed)
        for name, strategy in (
            ("DDIM", "stepwise"),
            ("DDIM", "auto"),
            ("2M", "trajectory"),
            ("2M", "auto"),
        ):
            sampler = make_sampler(pipe, name, "log_snr", arguments.steps)
            guidance = arguments.overhead_guidance
            truth = true_states(pipe, sampler, samples, guidance, batch)
            scale = jnp.float32(guidance)
            run = functools.partial(
                inverter(strategy=strategy), pipe, sampler, samples, scale, truth
            )
            spent = seconds(run, arguments.repeats)
            result, _ = run()
            if name == "DDIM":
                # A step of the batch ends when its slowest sample is solved.
                number = int(jnp.sum(jnp.max(result.iterations, axis=0)))
                size = batch
            else:
                number, size = int(jnp.max(result.depth)), batch * arguments.steps
            rows.append(
                (
                    name,
                    strategy,
                    batch,
                    f"{np.mean(result.solved):.0%}",
                    int(jnp.sum(result.num_evals)),
                    f"{number} x {size}",
                    f"{1000 * calls[size]:.0f}",
                    f"{spent:.2f}",
                    f"{spent / (number * calls[size]):.2f}",
                )
            )
            print(f"overhead: {rows[-1]}", flush=True)
    header = (
        "sampler | strategy | samples | solved | evaluations | "
        "model calls x batch | one such call, ms | seconds | over its model calls"
    )
    return table(header, rows)


def strategies(pipe: Any) -> dict[str, Any]:
    """Ways to invert 2M, as arguments of ``invert``."""
    return {
        "naive": {"strategy": "naive"},
        "Algorithm 2": {"strategy": "stepwise", "schedule": pipe.schedule},
        "trajectory": {"strategy": "trajectory"},
        "trajectory, history 5": {"strategy": ji.Trajectory(history=5)},
        "trajectory, chunks of 5": {"strategy": ji.Trajectory(chunk=5)},
        "Newton on the trajectory": {"strategy": NewtonTrajectory()},
        "auto": {"strategy": "auto"},
    }


def memory(pipe: Any, arguments: argparse.Namespace) -> str:
    """Memory that the compiled programs ask for, beside parameters and results."""
    samples = make_samples(pipe, 1, arguments.seed)
    x0, cond = samples.noises[0], samples.conds[0]
    scale = jnp.float32(5)
    rows = []
    for batch in (1, *arguments.memory_steps):
        some = make_samples(pipe, batch, arguments.seed)
        inputs = (pipe, some, scale, some.noises, jnp.zeros((batch,)))
        rows.append(("one model call", f"batch {batch}", *_needs(model_call, inputs)))
    for steps in arguments.memory_steps:
        sampler = make_sampler(pipe, "2M", "log_snr", steps)
        for name, options in strategies(pipe).items():

            def run(
                pipe: Any,
                sampler: Any,
                cond: Any,
                uncond: Any,
                scale: Any,
                x0: Any,
                options: Any = options,
            ) -> Any:
                denoise = pipe.denoiser(cond, uncond, scale)
                return ji.invert(sampler, denoise, x0, **options)

            inputs = (pipe, sampler, cond, samples.uncond, scale, x0)
            needs = _needs(jax.jit(run), inputs)
            rows.append((name, f"{steps} steps", *needs))
            print(f"memory: {rows[-1]}", flush=True)
    return table(("program | size | MiB | compiling, s"), rows)


def _needs(run: Any, inputs: tuple[Any, ...]) -> tuple[str, str]:
    """MiB of temporaries and results of a program, and seconds to compile it."""
    began = time.perf_counter()
    analysis = run.lower(*inputs).compile().memory_analysis()
    compiling = time.perf_counter() - began
    if analysis is None:
        return "unknown", f"{compiling:.0f}"
    size = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return f"{size / 2**20:.1f}", f"{compiling:.0f}"


def by_batch(calls: CallTimes, arguments: argparse.Namespace) -> str:
    """Time of one model call by batch size."""
    rows = [
        (
            batch,
            f"{1000 * calls[batch]:.1f}",
            f"{1000 * calls[batch] / batch:.1f}",
            f"{calls[batch] / calls[1]:.1f}",
        )
        for batch in arguments.call_batches
    ]
    header = "batch | one call, ms | per sample, ms | times batch 1"
    return table(header, rows)


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("cost", __doc__)
    add, cpu = found.add_argument, jax.default_backend() == "cpu"
    add("--model", default="emoji64")
    add("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    add("--steps", type=int, default=20)
    add("--guidance", type=float, default=5.0, help="of the wall times")
    # Where every sample converges in the first stage the number of calls is known.
    add("--overhead-guidance", type=float, default=3.0)
    add("--batches", type=int, nargs="+", default=[1, 4 if cpu else 16])
    add("--memory-steps", type=int, nargs="+", default=[20, 50])
    add("--call-batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    add("--repeats", type=int, default=3)
    add("--seed", type=int, default=0)
    return parse(found, argv)


def section(name: str, pipe: Any, calls: CallTimes, arguments: Any) -> str:
    """Measure one section and describe what it shows."""
    if name == "wall":
        # Only here is PyTorch needed.
        from benchmarks.cost.wall import wall_time

        return f"""## Beside PyTorch

One sample, {arguments.steps} steps, guidance {arguments.guidance:g}, the log-SNR grid,
the same latent. Compiled programs, without the time to compile them, which stands
beside; medians of {arguments.repeats}, the published algorithms once. The evaluations
of the two frameworks' Algorithm 2 may differ: step sizes and stopping are the same.

{wall_time(pipe, calls, arguments)}"""
    if name == "overhead":
        return f"""## Overhead

Wall time over the time of the model calls that the batch really makes, guidance
{arguments.overhead_guidance:g}. Stepwise, a step of a vmapped batch lasts until its
slowest sample is solved: the sum over steps of the largest number of iterations,
calls of the batch's size. For the trajectory: the largest number of sweeps, calls of
batch x steps. Where not all are solved, auto's later stages are not counted.

{overhead(pipe, calls, arguments)}"""
    if name == "memory":
        return f"""## Memory

What the compiled programs ask for beside their arguments (the model's parameters, the
data): temporaries and results, one sample, 2M. As XLA reports it for this device.

{memory(pipe, arguments)}"""
    return f"""## The model's call by batch size

What sequential depth is worth: where a call of a batch of N costs as much as a call of
one, a sweep over N levels takes the time of one evaluation.

{by_batch(calls, arguments)}"""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    # Sections measured in other runs are kept, each with what made it.
    kept = arguments.out.with_suffix(".json")
    parts = json.loads(kept.read_text()) if kept.exists() else {}
    with jax.default_matmul_precision("highest"):
        # Accelerators may compute float32 products with ten bits; exactness needs all.
        pipe = ji.load(arguments.model)
        calls = CallTimes(pipe, arguments.repeats)
        for name in arguments.sections:
            text = section(name, pipe, calls, arguments)
            parts[name] = f"{text}\n\n{provenance(arguments.command, arguments.model)}"
            with open_atomically(kept) as file:
                file.write(json.dumps(parts, indent=1).encode())
    sections = (chr(10) * 2).join(parts[name] for name in SECTIONS if name in parts)
    text = f"""# The cost of exact inversion on {arguments.model}

{body(__doc__)}

One evaluation is one call of the guided model (both branches) for one sample.

{sections}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()
