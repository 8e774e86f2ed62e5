r"""How exact inversion is when the network computes in less than float32.

Rounding makes the model a step function: whatever is solved, is solved up to the jumps
of the model. An inverse can then be exact only if it calls the model as the sampler
did, in batches of the same shape; programs of other shapes round differently. On an
accelerator float32 products may also be computed with ten bits, the fast default.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import decibels, table
from benchmarks.samples import (
    inverter,
    make_sampler,
    make_samples,
    run_all,
    true_states,
)


def precision(arguments: argparse.Namespace) -> str:
    """How exact inversion is when the network computes in less than float32."""
    modes = [("float32", jnp.float32, "highest"), ("bfloat16", jnp.bfloat16, "highest")]
    if jax.default_backend() != "cpu":
        modes.insert(1, ("float32, fast products", jnp.float32, "default"))
    batch, steps, guidance = arguments.precision_batch, arguments.steps, 3.0
    chunk = {"strategy": ji.Trajectory(chunk=1)}
    methods = (
        ("DDIM", "stepwise", {"strategy": "stepwise"}, batch, "the same"),
        ("DDIM", "stepwise", {"strategy": "stepwise"}, 1, "1"),
        ("2M", "trajectory, chunks of 1", chunk, batch, "the same"),
        ("2M", "trajectory", {"strategy": "trajectory"}, batch, f"{steps} times"),
    )
    rows = []
    for mode, dtype, products in modes:
        with jax.default_matmul_precision(products):
            pipe = ji.load(arguments.model, dtype=dtype)
            samples = make_samples(pipe, batch, arguments.seed)
            for name, method, options, size, shape in methods:
                sampler = make_sampler(pipe, name, "log_snr", steps)
                truth = true_states(pipe, sampler, samples, guidance, batch)
                outcome = run_all(
                    inverter(**options), pipe, sampler, samples, guidance, truth, size
                )
                rows.append(
                    (
                        mode,
                        name,
                        method,
                        shape,
                        decibels(outcome.noise_db),
                        decibels(outcome.reconstruction_db),
                        f"{np.median(outcome.residual):.1e}",
                        f"{np.mean(outcome.converged):.0%}",
                        f"{np.mean(outcome.evals) / steps:.1f}",
                    )
                )
                print(f"precision: {rows[-1]}", flush=True)
    header = (
        "network",
        "sampler",
        "method",
        "batch of a model call",
        "noise NMSE, dB (median / worst)",
        "reconstruction NMSE, dB (median / worst)",
        "residual",
        "converged",
        "evaluations per step",
    )
    return table(header, rows)
