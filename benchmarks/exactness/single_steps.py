"""Where the rest is lost, and what can be done about it, step by step.

A state that is recovered wrongly, though every step's residual is at the tolerance,
was lost by an ill-conditioned step: the first part puts the conditioning of every step
of 2M beside the error of the recovered state. The second part takes DDIM's hardest
steps alone, from the exact state after them, and compares solvers there: what even a
Newton method does not find is not in the state.
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import table
from benchmarks.samples import (
    Samples,
    inverter,
    make_sampler,
    make_samples,
    run_all,
    true_states,
)

#: Samples of which the hardest steps are looked for, and how many of these to solve.
SAMPLES, HARDEST = 2, 3


def section(pipe: Any, arguments: argparse.Namespace) -> str:
    """Return the part of the report on single steps; empty without cases."""
    if not arguments.cases:
        return ""
    cases = [case.split(":") for case in arguments.cases]
    samples = make_samples(pipe, min(SAMPLES, arguments.samples), arguments.seed)
    parts, rows = [], []
    for spacing, steps, guidance in cases:
        case = spacing, int(steps), float(guidance)
        parts.append(
            conditioning(pipe, samples.some(slice(1)), *case, arguments.vectors)
        )
        rows += hardest(pipe, samples, *case)
        print(
            f"single steps: {spacing}, {steps} steps, guidance {guidance}", flush=True
        )
    header = (
        "grid | guidance | sample | step i | tau[i-1] / tau[i] | "
        "Anderson: state, dB | residual | evaluations | Newton-Krylov: state, dB | "
        "residual | evaluations"
    )
    return f"""## Where the rest is lost

2M, sample 0: what the trajectory recovers of every state, beside the conditioning of
the step from it. An error of the state after the step is magnified by up to
1 / sigma_min, relative errors by up to the amplification; what one step has magnified,
later ones magnify again. From {arguments.vectors} Lanczos vectors: sigma_min is an
upper bound, the amplification a lower one.

{(chr(10) * 2).join(parts)}

## The hardest steps alone

DDIM, one step from the exact state after it: the {HARDEST} steps on which Anderson's
state is furthest from the truth, of {len(samples.conds)} samples, and Newton-Krylov
there. Both start from the state after the step. A state of small residual that is far
from the truth is another preimage, or nearly one.

{table(header, rows)}"""


def conditioning(
    pipe: Any, sample: Samples, spacing: str, steps: int, guidance: float, vectors: int
) -> str:
    """Conditioning of every step, and the error of every recovered state."""
    sampler = make_sampler(pipe, "2M", spacing, steps)
    truth = true_states(pipe, sampler, sample, guidance, 1)
    denoise = pipe.denoiser(sample.conds[0], sample.uncond, jnp.float32(guidance))
    report = jax.device_get(
        ji.analysis.step_conditioning(sampler, denoise, truth[0], num_vectors=vectors)
    )
    found = run_all(
        inverter(strategy="trajectory"), pipe, sampler, sample, guidance, truth, 1
    )
    rows = [
        (
            i,
            f"{sampler.model_time[i]:.1f}",
            f"{sampler.tau[i - 1] / sampler.tau[i]:.3f}",
            f"{report.largest[i - 1]:.2f}",
            f"{report.smallest[i - 1]:.2g} ({report.smallest_error[i - 1]:.0e})",
            f"{report.amplification[i - 1]:.3g}",
            f"{found.state_db[0, i]:.1f}",
        )
        for i in range(1, steps + 1)
    ]
    header = (
        "step i | model time | tau[i-1] / tau[i] | sigma_max | sigma_min (error) | "
        "amplification | state NMSE, dB"
    )
    title = (
        f"### {spacing}, {steps} steps, guidance {guidance:g}: reconstruction "
        f"{found.reconstruction_db[0]:.1f} dB, "
        f"{'' if found.converged[0] else 'not '}converged"
    )
    return f"{title}\n\n{table(header, rows)}"


def hardest(
    pipe: Any, samples: Samples, spacing: str, steps: int, guidance: float
) -> list[tuple[Any, ...]]:
    """Rows for the steps on which Anderson's state is furthest from the truth."""
    sampler = make_sampler(pipe, "DDIM", spacing, steps)
    truth = true_states(pipe, sampler, samples, guidance, 1)
    scale = jnp.float32(guidance)
    anderson, newton = (
        inverter(strategy="stepwise", solver=solver)
        for solver in (ji.Anderson(), ji.NewtonKrylov())
    )

    def solve(run: Any, k: int, i: int) -> Any:
        pair = truth[k : k + 1, i - 1 : i + 1]
        some = samples.some(slice(k, k + 1))
        step = single_step(sampler, i)
        return jax.device_get(run(pipe, step, some, scale, pair))

    found = {
        (k, i): solve(anderson, k, i)
        for k in range(len(samples.conds))
        for i in range(1, steps + 1)
    }

    def error(where: tuple[int, int]) -> float:
        return float(np.nan_to_num(found[where][1][0, 1], nan=np.inf))

    rows = []
    for k, i in sorted(found, key=error, reverse=True)[:HARDEST]:
        both = (found[k, i], solve(newton, k, i))
        cells = [
            cell
            for result, state_db in both
            for cell in (
                f"{state_db[0, 1]:.1f}",
                f"{result.residual[0]:.1e}",
                int(result.num_evals[0]),
            )
        ]
        ratio = f"{sampler.tau[i - 1] / sampler.tau[i]:.3f}"
        rows.append((spacing, f"{guidance:g}", k, i, ratio, *cells))
    return rows


def single_step(sampler: ji.SamplerTable, i: int) -> ji.SamplerTable:
    """One step of a sampler without memory, from level i to i - 1, as a sampler."""
    return dataclasses.replace(sampler.part(i - 1, i), init_noise_scale=np.ones(()))
