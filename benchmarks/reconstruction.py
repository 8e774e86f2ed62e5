"""How exactly a first-order sampler is inverted, on the embedded model.

    python -m benchmarks.reconstruction

Noise -> DDIM -> latent -> inversion -> noise -> DDIM -> latent, with 20 and 50 steps,
guidance 1, 3 and 7.5, on the default grid (uniform in log-SNR) and on diffusers'
leading grid. The latents are inverted as the sampler made them: no image, no decoder.
Writes ``benchmarks/results/reconstruction.md``.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import RESULTS, decibels, provenance, save, table

PROMPTS = (
    "red heart on a light blue background",
    "pizza on a white background",
    "dog face on a green background",
    "soccer ball on a yellow background",
    "red apple on a light gray background",
    "sun with face on a blue background",
    "grinning face on a purple background",
    "house with garden on a pink background",
)


class Run(NamedTuple):
    """One cell of the table: all samples with one method."""

    method: str
    steps: int
    guidance: float
    spacing: str
    noise_db: np.ndarray
    reconstruction_db: np.ndarray
    evals_per_step: float
    converged: np.ndarray
    step_residuals: np.ndarray
    state_db: np.ndarray
    iterations: np.ndarray


METHODS: dict[str, dict[str, Any]] = {
    "naive": {"strategy": "naive"},
    "fixed point": {"solver": ji.FixedPoint()},
    "forward step (paper)": {"solver": ji.ForwardStep.paper},
    "Anderson": {"solver": ji.Anderson()},
}
#: These take tens to hundreds of evaluations per step: fewer samples.
SLOW = ("fixed point", "forward step (paper)")


def grid_for(schedule: ji.NoiseSchedule, steps: int, spacing: str) -> ji.TimeGrid:
    return ji.time_grid(schedule, steps, spacing)  # type: ignore[arg-type]


@jax.jit
def make(pipe: Any, sampler: Any, conds: Any, guidance: Any, noises: Any) -> Any:
    """The states of all noise levels, for every sample."""

    def one(cond: Any, noise: Any) -> Any:
        return ji.sample_trajectory(
            sampler, pipe.denoiser(cond, pipe_uncond(pipe), guidance), noise
        )

    return jax.vmap(one)(conds, noises)


def pipe_uncond(pipe: Any) -> Any:
    return pipe.encode_prompt("")


def inverter(options: dict[str, Any]) -> Any:
    """A compiled function: invert and reconstruct every sample of a batch."""

    @jax.jit
    def run(pipe: Any, sampler: Any, conds: Any, guidance: Any, truth: Any) -> Any:
        uncond = pipe_uncond(pipe)

        def one(cond: Any, states: Any) -> Any:
            denoise = pipe.denoiser(cond, uncond, guidance)
            result = ji.invert(
                sampler, denoise, states[0], return_trajectory=True, **options
            )
            again = ji.sample(sampler, denoise, result.noise)
            state_db = jax.vmap(ji.nmse_db)(result.trajectory, states)
            return result, ji.nmse_db(again, states[0]), state_db

        return jax.vmap(one)(conds, truth)

    return run


def runs(
    pipe: Any, arguments: argparse.Namespace, done: set[tuple[Any, ...]]
) -> Iterator[Run]:
    """Measure every combination that is not done yet."""
    conds = jnp.stack([pipe.encode_prompt(p) for p in PROMPTS[: arguments.samples]])
    noises = jax.random.normal(
        jax.random.key(arguments.seed), (len(conds), *pipe.latent_shape)
    )
    compiled = {name: inverter(METHODS[name]) for name in arguments.methods}
    for spacing in ("log_snr", "leading"):
        for steps in arguments.steps:
            grid = grid_for(pipe.schedule, steps, spacing)
            sampler = ji.ddim(grid)
            for guidance in arguments.guidance:
                scale = jnp.float32(guidance)
                missing = [
                    method
                    for method in compiled
                    if (method, steps, guidance, spacing) not in done
                ]
                if not missing:
                    continue
                truth = make(pipe, sampler, conds, scale, noises)
                for method in missing:
                    run = compiled[method]
                    n = arguments.slow_samples if method in SLOW else len(conds)
                    result, reconstruction, state_db = jax.device_get(
                        run(pipe, sampler, conds[:n], scale, truth[:n])
                    )
                    yield Run(
                        method,
                        steps,
                        guidance,
                        spacing,
                        state_db[:, -1],
                        reconstruction,
                        float(np.mean(result.num_evals)) / steps,
                        result.converged,
                        result.step_residuals,
                        state_db,
                        result.iterations,
                    )


def read_cells(path: Path | None) -> list[Run]:
    """The cells that an interrupted run left behind."""
    if path is None or not path.exists():
        return []
    cells = []
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        arrays = {
            name: np.asarray(value)
            for name, value in fields.items()
            if isinstance(value, list)
        }
        cells.append(Run(**{**fields, **arrays}))
    return cells


def append_cell(path: Path | None, cell: Run) -> None:
    """Add a cell to the file that an interrupted run continues from."""
    if path is not None:
        fields = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in cell._asdict().items()
        }
        with path.open("a") as file:
            file.write(json.dumps(fields) + "\n")


def in_order(cells: list[Run]) -> list[Run]:
    """The cells in the order of the table."""
    methods = list(METHODS)
    return sorted(
        cells,
        key=lambda c: (
            c.spacing != "log_snr",
            c.steps,
            c.guidance,
            methods.index(c.method),
        ),
    )


def summary(cells: list[Run]) -> str:
    """The main table."""
    header = (
        "grid",
        "steps",
        "guidance",
        "method",
        "samples",
        "noise NMSE, dB (median / worst)",
        "reconstruction NMSE, dB (median / worst)",
        "evaluations per step",
        "converged",
    )
    rows = [
        (
            c.spacing,
            c.steps,
            c.guidance,
            c.method,
            len(c.noise_db),
            decibels(c.noise_db),
            decibels(c.reconstruction_db),
            f"{c.evals_per_step:.1f}",
            "not measured" if c.method == "naive" else f"{np.mean(c.converged):.0%}",
        )
        for c in cells
    ]
    return table(header, rows)


def not_measured(cells: list[Run], arguments: argparse.Namespace) -> str:
    """A sentence that names what the table lacks; empty if it lacks nothing."""
    done = {(c.method, c.spacing, c.steps, c.guidance) for c in cells}
    missing = {
        f"{method} on {spacing} with {steps} steps"
        for method in METHODS
        for spacing in ("log_snr", "leading")
        for steps in arguments.steps
        for guidance in arguments.guidance
        if (method, spacing, steps, guidance) not in done
    }
    return f"Not (all) measured: {'; '.join(sorted(missing))}." if missing else ""


def per_step(pipe: Any, cells: list[Run], steps: int, guidance: float) -> str:
    """Where along the trajectory the exact inversion loses the noise."""
    parts = []
    for c in cells:
        if (c.method, c.steps, c.guidance) != ("Anderson", steps, guidance):
            continue
        grid = grid_for(pipe.schedule, steps, c.spacing)
        rows = [
            (
                i,
                f"{grid.model_time[i]:.1f}",
                f"{grid.ratio[i - 1]:.3f}",
                f"{np.median(c.step_residuals[:, i - 1]):.1e}",
                f"{np.max(c.step_residuals[:, i - 1]):.1e}",
                f"{np.mean(c.iterations[:, i - 1]):.1f}",
                decibels(c.state_db[:, i]),
            )
            for i in range(1, steps + 1)
        ]
        header = (
            "step i",
            "model time",
            "tau[i-1] / tau[i]",
            "residual, median",
            "residual, worst",
            "evaluations",
            "state NMSE, dB (median / worst)",
        )
        title = f"### {c.spacing} grid, {steps} steps, guidance {guidance}"
        parts.append(f"{title}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--samples", type=int, default=8, help="at most 8")
    parser.add_argument("--slow-samples", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 7.5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS / "reconstruction.md")
    parser.add_argument(
        "--resume", type=Path, help="file of finished cells to continue from"
    )
    arguments = parser.parse_args(argv)
    pipe = ji.load(arguments.model)
    cells = read_cells(arguments.resume)
    done = {(c.method, c.steps, c.guidance, c.spacing) for c in cells}
    for cell in runs(pipe, arguments, done):
        cells.append(cell)
        append_cell(arguments.resume, cell)
        print(
            f"{cell.spacing} {cell.steps} steps, guidance {cell.guidance}, "
            f"{cell.method}: noise {decibels(cell.noise_db)} dB, reconstruction "
            f"{decibels(cell.reconstruction_db)} dB, {cell.evals_per_step:.1f}",
            flush=True,
        )
    cells = in_order(cells)
    steps, guidance = arguments.steps[0], arguments.guidance[-1]
    text = f"""# Inverting DDIM on {arguments.model}

{__doc__.split(chr(10) * 2, 2)[2].strip()}

{provenance("python -m benchmarks.reconstruction")} Float32, {arguments.samples} samples
({arguments.slow_samples} for the slow methods), seed {arguments.seed}. NMSE is
`|x - reference|^2 / |reference|^2`, median and worst of the samples. One evaluation is
one call of the guided model (both branches). The naive inverse does not measure its
own residual, so it has no certificate.

{summary(cells)}

{not_measured(cells, arguments)}

## Where the rest is lost

Every step of the exact inversion (Anderson): the ratio of neighbouring noise levels,
the residual of the step (the certificate), and how far the recovered state is from the
true state of that level. Where the state error jumps while the residual is at the
tolerance, the step is ill-conditioned or has several preimages: it reproduces the state
after it, and yet is another one. Later steps then start from a state that the sampler
may never reach, and may have no solution.

{per_step(pipe, cells, steps, guidance)}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()
