"""Measure whether other starts find the true noise, and whether p-values tell it apart.

    python -m benchmarks.preimages [--resume FILE] [--cells DDIM:log_snr:10:7.5 ...]

A step can have several preimages. An inversion with a good certificate then need not
find the noise that the data was sampled from. Each sample is inverted from several
starts, and each result is compared with the true noise:

* *auto*: the default of `ji.invert`;
* *scaled*: the whole trajectory, from the scaled data (the default start);
* *noised 1*, *noised 2*: from the data with white noise of each level's size;
* *guidance*: from the solution at a lower guidance, in four stages from 1;
* *steps*: from the solution with twice the steps, at the same levels;
* *near the truth*: from the true trajectory with 3 % of white noise, which nobody has.

*Most plausible* is the certified result of the first six with the largest p-value
(`ji.noise_plausibility`), at the cost of all six; *closest* is the one that is closest
to the truth, the best that any choice could reach. Float32, one sample at a time.
"""

import functools
import itertools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import Kept, body, parse, parser, provenance, save, table
from benchmarks.samples import make_sampler, make_samples
from jaxinv.callables import Function
from jaxinv.inversion.stages import Solved, Task, run_stage
from jaxinv.inversion.trajectory import first_guess
from jaxinv.inversion.verification import MARGIN, default_reconstruction_rtol, misfit
from jaxinv.sampling.steps import in_dtype

CELLS = (
    "DDIM:log_snr:10:7.5",
    "DDIM:log_snr:8:7.5",
    "3M:log_snr:20:7.5",
    "DDIM:leading:20:7.5",
)
STARTS = ("auto", "scaled", "noised 1", "noised 2", "guidance", "steps")
NEAR = "near the truth"
#: A noise is recovered if its NMSE is at most this, in dB.
RECOVERED_DB = -60.0
STAGE = ji.Trajectory(start="known", max_sweeps=60, restarts=1)
#: Of white noise, this fraction has a smaller p-value.
LEVEL = 0.01


class Problem(NamedTuple):
    """A sample to invert.

    Attributes:
        sampler: The sampler.
        fine: The sampler of twice the steps.
        model: Function from a guidance scale to the denoiser.
        guidance: The guidance scale.
        noise: The true noise.
        x0: The data.
        key: Seed of the starts.
    """

    sampler: ji.SamplerTable
    fine: ji.SamplerTable
    model: Any
    guidance: float
    noise: Any
    x0: Any
    key: Any


class Found(NamedTuple):
    """Where a start leads: the states ``y[1] .. y[N]``, and the evaluations so far."""

    states: Any
    evals: int
    solved: bool = False


@functools.partial(jax.jit, static_argnames="stage")
def solve(stage: Any, sampler: Any, denoise: Any, x0: Any, states: Any) -> Solved:
    """Solve all rows from given states."""
    rows, zero = len(states), jnp.zeros((), jnp.int32)
    infinite, counts = jnp.full((rows,), jnp.inf), jnp.zeros((rows,), jnp.int32)
    known = Solved(states, infinite, counts, zero, zero, jnp.array(False))
    table = in_dtype(sampler, x0.dtype)
    return run_stage(stage, Task.of(table, denoise, x0, known))


def solved_from(problem: Problem, start: Found, guidance: float | None = None) -> Found:
    """Return the solution from a start, at the problem's guidance or another."""
    scale = problem.guidance if guidance is None else guidance
    denoise = problem.model(scale)
    found = solve(STAGE, problem.sampler, denoise, problem.x0, start.states)
    evals = start.evals + int(found.num_evals)
    return Found(found.states, evals, bool(found.solved))


def scaled(problem: Problem) -> Found:
    """Return the scaled data."""
    sampler = in_dtype(problem.sampler, jnp.float32)
    return Found(first_guess(sampler, problem.x0 / sampler.scale[0]), 0)


def levels(sampler: Any, values: Any) -> Any:
    """Return a number for each level above the data as a factor of states."""
    return jnp.asarray(values, jnp.float32)[1:].reshape(-1, 1, 1, 1)


def noised(problem: Problem, draw: int) -> Found:
    """Return the data with white noise of each level's size."""
    sampler = problem.sampler
    noise = jax.random.normal(jax.random.fold_in(problem.key, draw), problem.x0.shape)
    data = problem.x0 / jnp.float32(sampler.scale[0])
    return Found(data + levels(sampler, sampler.tau) * noise, 0)


def by_guidance(problem: Problem) -> Found:
    """Return the solution at the last guidance below the problem's."""
    found = scaled(problem)
    for part in range(3):
        scale = 1 + (problem.guidance - 1) * part / 3
        found = solved_from(problem, found, scale)
    return found


def by_steps(problem: Problem) -> Found:
    """Return the solution with twice the steps, at the nearest levels."""
    sampler, fine = problem.sampler, problem.fine
    result = ji.invert(
        fine,
        problem.model(problem.guidance),
        problem.x0,
        return_trajectory=True,
        verify=False,
    )
    logs = [np.log(np.maximum(table.tau, 1e-9)) for table in (sampler, fine)]
    nearest = np.argmin(np.abs(logs[0][1:, None] - logs[1]), axis=1)
    states = result.trajectory[nearest] / levels(sampler, sampler.scale)
    return Found(states, int(result.num_evals))


def near(problem: Problem) -> Found:
    """Return the true trajectory with 3 % of white noise."""
    sampler = problem.sampler
    denoise = problem.model(problem.guidance)
    truth = ji.sample_trajectory(sampler, denoise, problem.noise)[1:]
    truth /= levels(sampler, sampler.scale)
    size = jnp.sqrt(jnp.mean(truth**2, (1, 2, 3), keepdims=True))
    noise = jax.random.normal(jax.random.fold_in(problem.key, 9), truth.shape)
    return Found(truth + 0.03 * size * noise, 0)


MADE = {
    "scaled": scaled,
    "noised 1": functools.partial(noised, draw=1),
    "noised 2": functools.partial(noised, draw=2),
    "guidance": by_guidance,
    "steps": by_steps,
    NEAR: near,
}


def inverted(problem: Problem, start: str) -> dict[str, Any]:
    """Invert a sample from a start, and compare the noise with the true one."""
    rows = problem.sampler.num_rows
    denoise = problem.model(problem.guidance)
    if start == "auto":
        result = ji.invert(problem.sampler, denoise, problem.x0)
        noise, evals, good = result.noise, int(result.num_evals), bool(result.converged)
    else:
        found = solved_from(problem, MADE[start](problem))
        sampler = problem.sampler
        scale = sampler.scale[-1] / sampler.init_noise_scale
        noise = found.states[-1] * jnp.float32(scale)
        error = misfit(ji.sample(sampler, denoise, noise), problem.x0)
        limit = MARGIN * default_reconstruction_rtol(jnp.float32)
        good = found.solved and float(error) <= limit
        evals = found.evals + rows
    return {
        "noise_db": round(float(ji.nmse_db(noise, problem.noise)), 1),
        "certified": good,
        "per_row": round(evals / rows, 1),
        "p": p_value(noise),
    }


_judge = jax.jit(ji.noise_plausibility)


def p_value(noise: Any) -> float:
    """Return the p-value of a noise, to two digits."""
    return float(f"{float(_judge(noise).p_value):.2g}")


def make_problem(pipe: Any, cell: str, seed: int, k: int) -> Problem:
    """Return a sample of a cell."""
    name, grid, steps, guidance = cell.split(":")

    def sampler(count: int) -> ji.SamplerTable:
        if grid == "log_snr":
            return make_sampler(pipe, name, grid, count)
        return ji.ddim_diffusers(pipe.schedule, count, grid)

    samples = make_samples(pipe, k + 1, seed)
    cond, noise = samples.conds[k], samples.noises[k]

    def model(scale: float) -> Function:
        return Function.of(pipe.denoiser(cond, samples.uncond, jnp.float32(scale)))

    scale, table = float(guidance), sampler(int(steps))
    x0 = ji.sample(table, model(scale), noise)
    key = jax.random.fold_in(jax.random.key(seed + 1), k)
    return Problem(table, sampler(2 * int(steps)), model, scale, noise, x0, key)


def measure(pipe: Any, arguments: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the results of the samples of every cell, by start."""
    kept = Kept(arguments.resume, "what", seed=arguments.seed, model=arguments.model)
    results: dict[str, list[dict[str, Any]]] = {cell: [] for cell in arguments.cells}
    began = time.monotonic()
    for k in range(arguments.samples):
        for cell in arguments.cells:
            starts = (*STARTS, NEAR, "true")
            late = time.monotonic() - began > 60 * arguments.minutes
            if late and not all((cell, k, start) in kept.found for start in starts):
                continue  # only what was measured before
            problem = functools.cache(
                lambda cell=cell, k=k: make_problem(pipe, cell, arguments.seed, k)
            )
            found = {
                start: kept(
                    [cell, k, start],
                    lambda start=start, problem=problem: inverted(problem(), start),
                )
                for start in (*STARTS, NEAR)
            }
            found["true"] = kept(
                [cell, k, "true"],
                lambda problem=problem: {"p": p_value(problem().noise)},
            )
            results[cell].append(found)
    return results


def chosen(found: dict[str, Any], closest: bool = False) -> dict[str, Any]:
    """Return the most plausible certified result, or the closest, with its cost."""
    tried = [found[start] for start in STARTS]
    good = [one for one in tried if one["certified"]] or tried
    best = (
        min(good, key=lambda one: one["noise_db"])
        if closest
        else max(good, key=lambda one: one["p"])
    )
    return best | {"per_row": sum(one["per_row"] for one in tried)}


def summary(name: str, runs: list[dict[str, Any]]) -> list[str]:
    """Return a row of the table of starts."""
    decibels = np.array([run["noise_db"] for run in runs])
    count = len(runs)
    return [
        name,
        f"{int(np.sum(decibels <= RECOVERED_DB))} of {count}",
        f"{np.median(decibels):.1f}",
        f"{np.min(decibels):.1f}",
        f"{sum(run['certified'] for run in runs)} of {count}",
        f"{np.mean([run['per_row'] for run in runs]):.0f}",
    ]


def report(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables of starts and of p-values."""
    parts = []
    header = (
        f"start | noise at {RECOVERED_DB:.0f} dB or better | median [dB] | best [dB] | "
        "certified | evaluations per row"
    )
    for cell, samples in results.items():
        if not samples:
            continue
        name, grid, steps, guidance = cell.split(":")
        rows = [
            summary(start, [found[start] for found in samples])
            for start in (*STARTS, NEAR)
        ]
        rows += [
            summary("most plausible", [chosen(found) for found in samples]),
            summary("closest", [chosen(found, closest=True) for found in samples]),
        ]
        title = f"## {name}, {grid}, {steps} steps, guidance {guidance}"
        parts += [title, table(header, rows)]
    parts += ["## P-values", p_values(results), "## In short", in_short(results)]
    return "\n\n".join(parts)


def in_short(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return what the starts and the choice gain over all cells."""
    found = [one for samples in results.values() for one in samples]
    ways = {
        "auto": [one["auto"] for one in found],
        "the most plausible result": [chosen(one) for one in found],
        "the closest result": [chosen(one, closest=True) for one in found],
        f"the start {NEAR}": [one[NEAR] for one in found],
    }
    usual = np.mean([run["per_row"] for run in ways["auto"]])
    return "\n".join(
        f"* {name}: {sum(run['noise_db'] <= RECOVERED_DB for run in runs)} of "
        f"{len(runs)} noises at {RECOVERED_DB:.0f} dB or better, median "
        f"{np.median([run['noise_db'] for run in runs]):.1f} dB, with "
        f"{np.mean([run['per_row'] for run in runs]) / usual:.1f} times the "
        "evaluations of auto;"
        for name, runs in ways.items()
    )


def p_values(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of p-values of certified noises, by their error."""
    found = [
        one[start]
        for samples in results.values()
        for one, start in itertools.product(samples, STARTS)
        if one[start]["certified"]
    ]
    true = [one["true"]["p"] for samples in results.values() for one in samples]
    edges = [-np.inf, RECOVERED_DB, -15, -10, -7.5, np.inf]
    groups = {"the true noise": true}
    for low, high in itertools.pairwise(edges):
        name = f"{low:g} to {high:g} dB".replace("-inf to", "up to")
        inside = [one["p"] for one in found if low < one["noise_db"] <= high]
        groups[name.replace(" to inf dB", " dB or worse")] = inside
    rows = [
        [
            name,
            len(values),
            f"{np.median(values):.2g}" if values else "-",
            f"{sum(p < LEVEL for p in values)}",
        ]
        for name, values in groups.items()
    ]
    return table(f"noise | results | median p | p below {LEVEL}", rows)


def main(argv: list[str] | None = None) -> None:
    """Measure, then write the report."""
    found = parser("preimages", __doc__, model=True)
    found.add_argument("--cells", nargs="+", default=CELLS)
    found.add_argument("--samples", type=int, default=8)
    found.add_argument(
        "--minutes",
        type=float,
        default=np.inf,
        help="begin no further sample after so many minutes",
    )
    arguments = parse(found, argv)
    pipe = ji.load(arguments.model)
    results = measure(pipe, arguments)
    text = [
        "# Other preimages",
        body(__doc__),
        f"{provenance(arguments.command, arguments.model)}",
        report(results),
    ]
    save(arguments.out, "\n\n".join(text) + "\n")


if __name__ == "__main__":
    main()
