r"""Inversion: from data back to the noise that the sampler turns into it.

Sampling applies the rows of a table from the noise end to the data end. Inverting one
row means finding the state before the step, ``x[i]``, from the one after it,

    R(x[i]) = step_i(x[i]) - x[i-1] = 0,

an implicit equation, because the model is evaluated at the unknown. Two strategies:

``stepwise``
    solve it, step by step from the data end, with one of :mod:`jaxinv.solvers`. Exact
    up to the tolerance. The first guess extrapolates the outputs of the model along the
    trajectory found so far, and costs nothing.
``naive``
    do not solve it: evaluate the model once, at ``x[i-1]`` in place of ``x[i]``. The
    baseline known as DDIM inversion; its error grows with guidance and step size.

The certificate is the residual of every step, relative to the state that the step has
to reproduce. It proves the *reconstruction*: a small residual means that the sampler
turns this noise into this data. Whether it is the *same* noise that once made the data
depends on the grid: a step with a small ratio ``tau[i-1] / tau[i]`` can have several
preimages, or nearly so.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 1 (stepwise, first order).
    Dhariwal & Nichol 2021, arXiv:2105.05233, and Song et al. 2021, arXiv:2010.02502,
    Section 4.3 (naive DDIM inversion).
"""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.compilation import check_denoiser, check_finite, split_callable
from jaxinv.denoiser import Denoiser
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import apply_row, evaluate, in_dtype
from jaxinv.solvers import Anderson, FixedPoint, ForwardStep, Gradient, Solver
from jaxinv.solvers.common import norm

Strategy = Literal["stepwise", "naive"]

SOLVERS: dict[str, Solver] = {
    "anderson": Anderson(),
    "fixed_point": FixedPoint(),
    "forward_step": ForwardStep(),
    "gradient": Gradient(),
}


class InversionResult(NamedTuple):
    """The noise, and the proof of how exact it is.

    Attributes:
        noise: unit noise, of the data's shape and dtype: what ``sample`` turns into
            the data.
        state: what ``sample`` needs for an exact round trip. For samplers with a
            memory of one state it is the noise.
        trajectory: shape (N + 1, ...). The states x, data first; None unless asked for.
        residual: shape (). The largest of ``step_residuals``.
        step_residuals: shape (N,). ``|step_i(x[i]) - x[i-1]| / |x[i-1]|`` for
            i = 1 .. N. NaN where it was not measured (``naive``; see :func:`certify`).
        iterations: shape (N,). Solver iterations of each step.
        num_evals: shape (). Total evaluations of the denoiser for this sample.
        depth: shape (). How many of them had to wait for one another.
        converged: shape (). Whether every step met its solver's tolerance. If not,
            the best iterate of each step was carried on.
    """

    noise: Float[Array, "*shape"]
    state: Float[Array, "*shape"]
    trajectory: Float[Array, "n+1 *shape"] | None
    residual: Float[Array, ""]
    step_residuals: Float[Array, "n"]
    iterations: Int[Array, "n"]
    num_evals: Int[Array, ""]
    depth: Int[Array, ""]
    converged: Bool[Array, ""]


def invert(
    sampler: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    *,
    strategy: Strategy = "stepwise",
    solver: str | Solver = "anderson",
    return_trajectory: bool = False,
) -> InversionResult:
    """Find the noise that the sampler turns into ``x0``.

    Args:
        sampler: the table that samples, from :func:`jaxinv.ddim` and its like.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        x0: the data, one sample of any shape without a batch axis.
        strategy: ``"stepwise"`` (exact) or ``"naive"`` (the baseline).
        solver: for ``"stepwise"``: ``"anderson"``, ``"fixed_point"``,
            ``"forward_step"``, ``"gradient"`` or a solver value such as
            ``Anderson(history=8)``.
        return_trajectory: keep the states of all noise levels.

    Returns:
        The noise with its certificate. Failing to converge is not an error: the result
        says so and carries the best that was found.

    Raises:
        ValueError: for data that is not a finite float32 or float64 array, a denoiser
            that does not map its shape to itself, an unknown strategy or solver, or a
            sampler that the strategy cannot invert.

    Example:
        >>> import jax, jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: 0.9 * x
        >>> noise = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> x0 = ji.sample(sampler, denoise, noise)
        >>> result = ji.invert(sampler, denoise, x0)
        >>> bool(result.converged), float(ji.nmse_db(result.noise, noise)) < -90
        (True, True)

    References:
        Hong et al. 2024, arXiv:2311.18387, Algorithm 1.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(
            f"unknown strategy {strategy!r}; expected one of "
            f"{', '.join(get_args(Strategy))}"
        )
    if sampler.history != 1:
        raise ValueError(
            f"strategy {strategy!r} inverts samplers with a memory of one state; "
            f"{sampler.name!r} remembers {sampler.history}"
        )
    x0 = jnp.asarray(x0)
    check_finite(x0, "data x0")
    arrays, rebuild = split_callable(denoise)
    if strategy == "naive":
        return _naive(sampler, arrays, rebuild, x0, return_trajectory)
    chosen = _solver(solver)
    return _stepwise(sampler, arrays, rebuild, x0, chosen, return_trajectory)


def certify(
    sampler: LinearMultistep, denoise: Denoiser, trajectory: Float[Array, "n+1 *shape"]
) -> Float[Array, "n"]:
    """Residual of every step of a trajectory, however it was found.

    Args:
        sampler: the table.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        trajectory: states x at all noise levels, data first.

    Returns:
        ``|step_i(x[i]) - x[i-1]| / |x[i-1]|`` for i = 1 .. N, from N evaluations.

    Raises:
        ValueError: if the trajectory does not have N + 1 states.
    """
    trajectory = jnp.asarray(trajectory)
    if trajectory.ndim < 1 or trajectory.shape[0] != sampler.num_steps + 1:
        raise ValueError(
            f"expected the {sampler.num_steps + 1} states of a sampler with "
            f"{sampler.num_steps} steps, got an array of shape {trajectory.shape}"
        )
    arrays, rebuild = split_callable(denoise)
    return _certify(sampler, arrays, rebuild, trajectory)


class _Certificate(NamedTuple):
    """What a solve proves, without the state that it found."""

    residual: Array
    iterations: Array
    converged: Array


def _solver(solver: str | Solver) -> Solver:
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]
    if isinstance(solver, str | type) or not callable(solver):
        raise ValueError(
            f"unknown solver {solver!r}; expected one of {', '.join(SOLVERS)}, or a "
            "solver value such as Anderson(history=8)"
        )
    return solver


def _step(table: LinearMultistep, denoise: Denoiser, i: Array, x: Array) -> Array:
    """One step of a one-state sampler, in the state x: ``x[i] -> x[i-1]``."""
    y = x / table.scale[i]
    f = evaluate(table, denoise, i, y)
    return table.scale[i - 1] * apply_row(table, i, y[None], f[None])


@jax.jit(static_argnames=("rebuild", "solver", "keep"))
def _stepwise(
    sampler: LinearMultistep,
    arrays: list[Any],
    rebuild: Any,
    x0: Array,
    solver: Solver,
    keep: bool,
) -> InversionResult:
    denoise = rebuild(arrays)
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)

    def solve(
        carry: tuple[Array, Array, Array], i: Array
    ) -> tuple[tuple[Array, Array, Array], tuple[Array | None, _Certificate]]:
        x_after, f1, f2 = carry
        a, b = table.a[i - 1, 0], table.b[i - 1, 0]
        y_after = x_after / table.scale[i - 1]
        guess = table.scale[i] * (y_after - b * _extrapolate(table, i, f1, f2)) / a
        solution = solver(
            lambda x: _step(table, denoise, i, x) - x_after,
            guess,
            slope=a * table.scale[i - 1] / table.scale[i],
            reference=norm(x_after),
        )
        x = solution.value
        # The row itself gives the model's output at the solution: no evaluation.
        f = (y_after - a * x / table.scale[i]) / jnp.where(b == 0, 1, b)
        f = jnp.where(b == 0, f1, f)
        certificate = _Certificate(
            solution.residual, solution.iterations, solution.converged
        )
        return (x, f, jnp.where(i == 1, f, f1)), (x if keep else None, certificate)

    steps = jnp.arange(1, table.num_steps + 1)
    zeros = jnp.zeros_like(x0)
    end, (xs, steps_done) = jax.lax.scan(solve, (x0, zeros, zeros), steps)
    noise = end[0] / table.init_noise_scale
    evals = jnp.sum(steps_done.iterations)
    return InversionResult(
        noise=noise,
        state=noise,
        trajectory=None if xs is None else jnp.concatenate([x0[None], xs]),
        residual=jnp.max(steps_done.residual),
        step_residuals=steps_done.residual,
        iterations=steps_done.iterations,
        num_evals=evals,
        depth=evals,
        converged=jnp.all(steps_done.converged),
    )


def _extrapolate(table: LinearMultistep, i: Array, f1: Array, f2: Array) -> Array:
    """The model's output at level i from those at i - 1 and i - 2, in log tau.

    Before there are two, the last one; before there is one, zero, which makes the
    state after the step the first guess.
    """
    log_tau = jnp.log(table.tau)
    last = log_tau[i - 1] - log_tau[i - 2]
    weight = (log_tau[i] - log_tau[i - 1]) / last
    usable = (i > 2) & jnp.isfinite(weight)
    return f1 + jnp.where(usable, weight, 0) * (f1 - f2)


@jax.jit(static_argnames=("rebuild", "keep"))
def _naive(
    sampler: LinearMultistep, arrays: list[Any], rebuild: Any, x0: Array, keep: bool
) -> InversionResult:
    denoise = rebuild(arrays)
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)

    def step(x: Array, i: Array) -> tuple[Array, Array | None]:
        f = denoise(x, table.model_time[i]).astype(x.dtype)
        y = x / table.scale[i - 1]
        y = (y - table.b[i - 1, 0] * f) / table.a[i - 1, 0]
        x = table.scale[i] * y
        return x, x if keep else None

    n = table.num_steps
    x, xs = jax.lax.scan(step, x0, jnp.arange(1, n + 1))
    return InversionResult(
        noise=x / table.init_noise_scale,
        state=x / table.init_noise_scale,
        trajectory=None if xs is None else jnp.concatenate([x0[None], xs]),
        residual=jnp.full((), jnp.nan, x.dtype),
        step_residuals=jnp.full((n,), jnp.nan, x.dtype),
        iterations=jnp.ones((n,), jnp.int32),
        num_evals=jnp.full((), n, jnp.int32),
        depth=jnp.full((), n, jnp.int32),
        converged=jnp.array(False),
    )


@jax.jit(static_argnames="rebuild")
def _certify(
    sampler: LinearMultistep, arrays: list[Any], rebuild: Any, trajectory: Array
) -> Array:
    denoise = rebuild(arrays)
    check_denoiser(denoise, trajectory[0])
    table = in_dtype(sampler, trajectory.dtype)

    def residual(pair: tuple[Array, Array, Array]) -> Array:
        i, x_after, x = pair
        return norm(_step(table, denoise, i, x) - x_after) / norm(x_after)

    steps = jnp.arange(1, table.num_steps + 1)
    return jax.lax.map(residual, (steps, trajectory[:-1], trajectory[1:]))
