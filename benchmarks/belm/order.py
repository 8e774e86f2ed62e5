"""Orders and stability, on a problem with a known solution, in float64.

The data are a mixture of Gaussians (:mod:`benchmarks.mixture`). The exact trajectory is
that of classical Runge-Kutta steps in log tau, many between two levels. *Local*: what a
row makes of exact states. *Global*: what whole trajectories make of an exact state at
the noise end.
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.belm.setting import SAMPLERS, Setting, log_snr_grid
from benchmarks.mixture import COMPONENTS, DIMENSIONS, VARIANCE, mixture, solution
from benchmarks.report import table
from jaxinv.analysis.tables import LARGEST_GROWTH
from jaxinv.diffusion.grid import make_grid
from jaxinv.sampling.state import state_of

TITLE = "Order and stability"


class Expected(NamedTuple):
    """What theory says of a sampler.

    Attributes:
        make: The sampler.
        order: Of a stable trajectory. Local errors have one order more.
        roots: Those of the characteristic polynomial of a row, in the limit of small
            steps.
        stable: Whether the root condition holds: none outside of the unit circle, none
            repeated on it.
    """

    make: Any
    order: int
    roots: str
    stable: bool


THEORY = {
    "DDIM": Expected(SAMPLERS["DDIM"], 1, "1", True),
    "2M": Expected(SAMPLERS["2M"], 2, "1, 0", True),
    "BDIA": Expected(SAMPLERS["BDIA"], 1, "1, -gamma", True),
    "BDIA(1)": Expected(SAMPLERS["BDIA(1)"], 2, "1, -1", True),
    "EDICT": Expected(SAMPLERS["EDICT"], 1, "1, p^2", True),
    "O-BELM": Expected(SAMPLERS["O-BELM"], 2, "1, -1", True),
    "O-BELM log-SNR": Expected(SAMPLERS["O-BELM log-SNR"], 2, "1, -1", True),
    "O-BELM k = 4": Expected(
        functools.partial(ji.o_belm, k=4), 4, "1, i, -1, -i", True
    ),
    "BELM k = 3": Expected(
        functools.partial(ji.belm, k=3), 4, "1, -5 +- sqrt(24)", False
    ),
}


def add_arguments(group: Any) -> None:
    group.add_argument("--order-samplers", nargs="+", choices=THEORY, default=[*THEORY])
    group.add_argument(
        "--order-steps", type=int, nargs="+", default=[100, 200, 400, 800, 1600]
    )
    group.add_argument(
        "--stability-steps", type=int, nargs="+", default=[10, 50, 200, 999]
    )


def cells(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    orders = tuple(arguments.order_steps)
    steps, names = tuple(arguments.stability_steps), arguments.order_samplers
    return [
        *(("order", name, orders) for name in names),
        *(("stability", name, steps) for name in names),
    ]


def measure(setting: Setting, what: tuple[Any, ...], found: Any) -> dict[str, Any]:
    kind, name, steps = what
    if kind == "stability":
        return {"grids": stability(THEORY[name], steps)}
    with jax.enable_x64(True):
        return orders(THEORY[name], steps, setting.arguments.seed)


def orders(expected: Expected, steps: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Errors on finer and finer grids, and their slopes."""
    schedule = ji.scaled_linear()
    model = mixture(schedule, seed)
    noise = jax.random.normal(jax.random.key(seed), (4, DIMENSIONS))
    local, whole = [], []
    for n in steps:
        sampler = expected.make(log_snr_grid(schedule, n))
        exact = jax.vmap(lambda x: solution(model, sampler, x))  # noqa: B023
        x = np.asarray(exact(noise))
        local.append(float(np.max(local_errors(sampler, model, x))))
        whole.append(global_error(sampler, model, jnp.asarray(x)))
    full = sampler.num_rows + 1 - sampler.history
    row_order = int(np.min(ji.analysis.row_orders(sampler)[:full]))
    analytic = ji.analysis.convergence_order(
        lambda n: expected.make(log_snr_grid(schedule, n)),
        steps[-2:],
        exact_start=sampler.bidirectional,
    )
    return {
        "row_order": row_order,
        "local": local,
        "global": whole,
        "local_order": slope(steps, local),
        "global_order": slope(steps, whole),
        "analytic_order": analytic.order,
    }


def slope(steps: tuple[int, ...], errors: list[float]) -> float:
    """Order: minus the slope of log error over log number of steps.

    Over the finest two grids: BDIA and EDICT forget an error only after 25 and 7 steps,
    and are in the limit of small steps where the solution does not change over these.
    """
    steps = steps[-2:]
    with np.errstate(all="ignore"):
        logs = np.log(errors[-2:])
    if not np.all(np.isfinite(logs)):
        return float("nan")
    return -float(np.polyfit(np.log(steps), logs, 1)[0])


def stability(expected: Expected, steps: tuple[int, ...]) -> list[list[Any]]:
    """Growth of errors by the rows alone, on Stable Diffusion's schedule."""
    schedule = ji.scaled_linear(set_alpha_to_one=False, steps_offset=1)
    found = []
    for spacing in ("log_snr", "leading"):
        for n in steps:
            sampler = expected.make(make_grid(schedule, n, spacing))
            verdict = ji.analysis.zero_stability(sampler)
            growths = verdict.growth, verdict.inverse_growth
            found.append([spacing, n, *map(float, growths)])
    return found


def verdict(grids: list[list[Any]]) -> tuple[str, bool]:
    """Return the library's verdict on all grids, and the growth per step on the finest.

    The finest whose growth is a number: it is the rate that tells a growth with the
    ratios of the steps from one with their number.
    """
    growths = {steps: growth for _, steps, growth, _ in grids}
    stable = max(growths.values()) <= LARGEST_GROWTH
    finest = max(steps for steps, growth in growths.items() if np.isfinite(growth))
    per_step = growths[finest] ** (1 / finest)
    return f"{'stable' if stable else 'not stable'}, {per_step:.3f} a step", stable


def local_errors(rows: ji.SamplerTable, model: Any, x: np.ndarray) -> np.ndarray:
    """Return the error of every full row for exact states, shape (samples, rows)."""
    y = x / np.asarray(rows.scale)[:, None]
    times = jnp.asarray(rows.model_time)
    f = np.asarray(jax.vmap(jax.vmap(model), (0, None))(jnp.asarray(x), times))
    errors, k = [], rows.history
    for i in range(1, rows.num_rows + 2 - k):
        used = slice(i, i + k)
        made = np.einsum("j,bjd->bd", rows.a[i - 1], y[:, used])
        made += np.einsum("j,bjd->bd", rows.b[i - 1], f[:, used])
        size = np.linalg.norm(y[:, i - 1], axis=1)
        errors.append(np.linalg.norm(made - y[:, i - 1], axis=1) / size)
    return np.array(errors)


def global_error(sampler: Any, model: Any, x: Any) -> float:
    """Relative error of samples, root mean square, from exact states where possible."""

    def one(x: Any) -> Any:
        if sampler.bidirectional:
            start = state_of(sampler, x[-sampler.history :], "noise")
        else:
            start = x[-1] / sampler.init_noise_scale
        return ji.sample(sampler, model, start)

    with np.errstate(all="ignore"):
        error = jax.vmap(one)(x) - x[:, 0]
        return float(jnp.sqrt(jnp.sum(error**2) / jnp.sum(x[:, 0] ** 2)))


def report(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Two tables: orders and stability."""
    rows, verdicts, differ = [], [], []
    for (kind, name, _), value in found.items():
        theory = THEORY[name]
        if kind == "order":
            whole = value["global"]
            rows.append(
                (
                    name,
                    value["row_order"],
                    f"{value['local_order']:.2f} ({theory.order + 1})",
                    f"{value['global_order']:.2f} "
                    + (f"({theory.order})" if theory.stable else "(none)"),
                    f"{value['analytic_order']:.2f}",
                    f"{value['local'][-1]:.1e}",
                    f"{whole[0]:.1e} / {whole[-1]:.1e}",
                )
            )
            continue
        for spacing in ("log_snr", "leading"):
            own = [grid for grid in value["grids"] if grid[0] == spacing]
            said, stable = verdict(own)
            if stable != theory.stable:
                differ.append(f"{name} on {spacing}")
            verdicts.append(
                (
                    name,
                    spacing,
                    ", ".join(f"{grid[2]:.3g}" for grid in own),
                    ", ".join(f"{grid[3]:.3g}" for grid in own),
                    said,
                    f"{'stable' if theory.stable else 'not stable'}: {theory.roots}",
                )
            )
    first, last = arguments.order_steps[0], arguments.order_steps[-1]
    orders = table(
        (
            "sampler | degree its rows are exact for | local order (theory) | "
            "global order (theory) | the same, one Gaussian | "
            f"largest local error, {last} steps | error, {first} / {last} steps"
        ),
        rows,
    )
    steps = ", ".join(map(str, arguments.stability_steps))
    stable = table(
        (
            f"sampler | grid | growth in sampling, {steps} steps | "
            "growth in inversion | verdict | theory: roots of a row"
        ),
        verdicts,
    )
    matches = (
        f"differ from the theory for {', '.join(differ)}: there the growth rises from "
        "grid to grid, though by next to nothing a step"
        if differ
        else "agree with the theory"
    )
    return f"""A mixture of {COMPONENTS} Gaussians in {DIMENSIONS} dimensions, variance
{VARIANCE:g}, float64, 4 trajectories over the whole range of Stable Diffusion's
schedule; orders are slopes over the finest two grids. Exponential rows (2M, log-SNR)
are exact for other functions than polynomials. EDICT's local error is that of its two
rows, its global one starts from two equal states. "One Gaussian" is
`jaxinv.analysis.convergence_order`.

{orders}

Zero-stability: the largest norm of a product of companion matrices
(`jaxinv.analysis.zero_stability`; infinite where it overflows), on Stable Diffusion's
own schedule and end. Where roots lie on the unit circle and steps vary, products follow
the ratios of the steps, squared for O-BELM: they are 1 on the grid uniform in log-SNR,
and on leading timesteps as large as its ratios become. The verdict is the library's,
growth of at most {LARGEST_GROWTH:g} on every grid, with the growth per step on the
finest grid where it does not overflow. The verdicts {matches}.

{stable}"""
