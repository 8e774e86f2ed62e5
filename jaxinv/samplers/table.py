r"""The table of every sampler: an explicit linear method on a variable grid.

A sampler with a memory of k states is a table of coefficients,

    u[i-1] = sum_{j=0}^{k-1}  a[i,j] u[i+j] + b[i,j] o[i+j]  +  c[i] z[i],   i = N .. 1,

of states u of unit variance and the network's own outputs o
(:mod:`jaxinv.diffusion.prediction`), so that all numbers are of order one. Formulas are
written as they are published, in the coordinates of :mod:`jaxinv.diffusion.schedule`,
where ``dy/dtau = f``, or with predictions of data and noise; :func:`from_rows` brings
them into these units. Only stochastic samplers add noises z, which are a constant of
the row once they are given (:meth:`SamplerTable.with_noises`).

There is one row per evaluation of the model. A *linear multistep* method has one
evaluation per step of a grid, and level i of the table is level i of the grid. Methods
with *stages* evaluate the model at intermediate states as well (Runge-Kutta methods,
PNDM's warm-up, EDICT): a stage is a state like any other, with a level of its own,
which may repeat a noise level, and a row that starts from the beginning of a step
weighs the state of that age. States that the model never sees (those of UniPC's
corrector) are eliminated from the rows. Rows near the noise end have zeros for missing
history, so that the start needs no special code. The coefficients are computed once, in
float64, and the same table defines sampling and inversion.

The *order* of a table is that of a row with full history, whose error is ``O(h^(order +
1))`` for exact history. Rows near the noise end have a lower order. The first, Euler's,
has an error of ``O(h^2)``; for a table of order 3 or more this limits the error of the
whole trajectory unless the first step is short.

Inverting a multistep sampler means solving rows for ``u[i]``, with all older states
known. This equation is implicit, because o[i] depends on ``u[i]``.

A table is *bidirectional* if its rows use the oldest state, but not the model's output
there: ``a[i,k-1] != 0`` and ``b[i,k-1] = 0`` with k > 1. Then the same row, solved for
the oldest state, is explicit as well,

    u[i+k-1] = (u[i-1] - sum_{j < k-1} (a[i,j] u[i+j] + b[i,j] o[i+j])) / a[i,k-1],

and inversion needs no solver. This does not hold for rows without full history: the
first one is Euler's.

References:
    Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential Equations I", III.5.
    Wang et al. 2024, "BELM", arXiv:2410.07273 (the bidirectional constraint).
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.diffusion.grid import TimeGrid
from jaxinv.diffusion.prediction import Family, Output
from jaxinv.samplers.ode import Coefficients, Ode, inverse_rows, ode_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SamplerTable:
    """A sampler: coefficients on a grid. A pytree, so it passes through ``jax.jit``.

    Attributes:
        a: Row i - 1 weighs the states of the step to ``u[i-1]``, shape (N, k).
        b: The same for the outputs o, shape (N, k).
        scale: ``x[i] = scale[i] * u[i]``, shape (N + 1,).
        tau: Noise levels, shape (N + 1,). The last may be infinite.
        model_time: Times given to the model with each state, shape (N + 1,).
        init_noise_scale: Standard deviation of ``x[N]``, shape ().
        ode: What inverses know of the ODE.
        name: The sampler's name (static).
        order: Order of accuracy of its rows with full history (static).
        bidirectional: Whether its rows with full history are explicit both ways
            (static, because coefficients are not known inside a compiled program).
        ends: Levels of the table at the ends of the steps of its grid, data first: 0 ..
            N, without the stages in between (static); () if every level is one.
        output: What the network predicts (static); None for f.
        noise: Weights of a stochastic sampler's noises in ``u[i-1]``, shape (N,); None
            for a deterministic sampler.
        shift: The noises with their weights, shape (N, ...), from :meth:`with_noises`.
    """

    #: Origin of such values, for error messages.
    made_by: ClassVar[str] = "jaxinv.ddim and the other samplers"

    a: Coefficients
    b: Coefficients
    scale: Coefficients
    tau: Coefficients
    model_time: Coefficients
    init_noise_scale: Coefficients
    ode: Ode
    name: str = dataclasses.field(metadata={"static": True})
    order: int = dataclasses.field(metadata={"static": True})
    bidirectional: bool = dataclasses.field(default=False, metadata={"static": True})
    ends: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    output: Output | None = dataclasses.field(default=None, metadata={"static": True})
    noise: Coefficients | None = None
    shift: Float[Array, "n *shape"] | None = None

    def __repr__(self) -> str:
        """Return the name, number of steps and order."""
        steps = self.num_steps if hasattr(self.a, "shape") else "?"
        return f"{self.name or 'table'}: {steps} steps, order {self.order}"

    @property
    def num_rows(self) -> int:
        """Number of rows, N, which is the number of evaluations in sampling."""
        return self.a.shape[0]

    @property
    def num_steps(self) -> int:
        """Number of steps of the grid."""
        return len(self.ends) - 1 if self.ends else self.num_rows

    def level_after(self, steps: int) -> int:
        """Return the level of the state after some of the steps, from the noise end."""
        level = self.num_steps - steps
        return self.ends[level] if self.ends else level

    def steps_above(self, level: Int[Array, ""]) -> Int[Array, ""]:
        """Return the number of steps that are finished at a level of the table."""
        if not self.ends:
            return self.num_rows - level
        return jnp.sum(jnp.asarray(self.ends[:-1]) >= level)

    def steps_below(self, level: Int[Array, ""]) -> Int[Array, ""]:
        """Return the number of steps that lie at or below a level of the table."""
        if not self.ends:
            return level
        return jnp.sum(jnp.asarray(self.ends[1:]) <= level)

    def with_noises(self, noises: Float[Array, "n *shape"]) -> "SamplerTable":
        """Return a stochastic sampler with its noises, which is a deterministic one.

        Args:
            noises: One array of unit noise for each row, data first: ``noises[i-1]``
                is added in the step to ``x[i-1]``.

        Raises:
            ValueError: If the sampler adds no noise, for another number of noises, or
                for noises that are not float32 or float64.
        """
        if self.noise is None:
            raise ValueError(f"{self.name!r} is deterministic: it takes no noises")
        noises = jnp.asarray(noises)
        if noises.ndim < 1 or noises.shape[0] != self.num_rows:
            raise ValueError(
                f"{self.name!r} takes {self.num_rows} noises, one for each row, got an "
                f"array of shape {noises.shape}"
            )
        if noises.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(
                f"the noises must be float32 or float64, got {noises.dtype}"
            )
        weights = jnp.asarray(self.noise, noises.dtype)
        weights = weights.reshape((-1,) + (1,) * (noises.ndim - 1))
        return dataclasses.replace(self, shift=weights * noises)

    def part(self, low: int, high: int) -> "SamplerTable":
        """Return the steps from level ``high`` to ``low``, without older states."""
        inside, rows = slice(low, high + 1), slice(low, high)
        return dataclasses.replace(
            self,
            a=self.a[rows, :1],
            b=self.b[rows, :1],
            scale=self.scale[inside],
            tau=self.tau[inside],
            model_time=self.model_time[inside],
            ode=self.ode.part(low, high),
            bidirectional=False,
            ends=(),
            noise=None if self.noise is None else self.noise[rows],
            shift=None if self.shift is None else self.shift[rows],
        )

    @property
    def history(self) -> int:
        """Number of states that a row uses, k."""
        return self.a.shape[1]


class Levels(NamedTuple):
    """The levels of a table's states, where they are not those of a grid.

    Attributes:
        tau: Noise levels, data first; stages may repeat a level.
        scale: Scales of the states x.
        model_time: Times given to the model.
        init_noise_scale: Standard deviation of the first state x.
        family: The schedule's family.
        output: What the model predicts; None for f.
        seen: Noise levels for which the network is told to take the states; None for
            their own.
    """

    tau: Float[np.ndarray, "n+1"]
    scale: Float[np.ndarray, "n+1"]
    model_time: Float[np.ndarray, "n+1"]
    init_noise_scale: float = 1.0
    family: Family = "vp"
    output: Output | None = None
    seen: Float[np.ndarray, "n+1"] | None = None

    @classmethod
    def of(cls, grid: TimeGrid, which: Sequence[int] | np.ndarray) -> "Levels":
        """Return some levels of a grid, possibly repeated, data first."""
        index = np.asarray(which)
        values = grid.tau[index], grid.scale[index], grid.model_time[index]
        return cls(*values, grid.init_noise_scale, grid.family, grid.output)

    @property
    def num_steps(self) -> int:
        """Number of rows between the levels."""
        return len(self.tau) - 1


def from_rows(
    grid: TimeGrid | Levels,
    a: Float[np.ndarray, "n k"],
    b: Float[np.ndarray, "n k"],
    *,
    name: str,
    order: int,
    ends: tuple[int, ...] = (),
    data: Float[np.ndarray, "n k"] | None = None,
    noise: Float[np.ndarray, "n k"] | None = None,
    added: Float[np.ndarray, "n"] | None = None,
) -> SamplerTable:
    """Make a sampler from its coefficients on a grid, in the coordinates y and f.

    Row i - 1 gives ``y[i-1] = sum_j a y[i+j] + b f[i+j] + data D[i+j] + noise e[i+j]``.
    Each of y, f, the data prediction D and the noise prediction e is a sum of the state
    u and the network's output o (:mod:`jaxinv.diffusion.prediction`), which the table
    weighs.

    Args:
        grid: The noise levels of the rows.
        a: Weights of the states y, row i - 1 for the step to ``y[i-1]``.
        b: Weights of the model outputs f.
        name: The sampler's name, for reports.
        order: Nominal order of accuracy.
        ends: Levels at the ends of steps, if there are stages.
        data: Weights of the data predictions; None for zeros.
        noise: Weights of the noise predictions; None for zeros.
        added: Weights of a stochastic sampler's noises in ``y[i-1]``. If all are zero,
            the sampler is deterministic.

    Returns:
        The table, in float64.

    Raises:
        ValueError: If the table does not fit the grid, is not finite, or uses states
            from before the start.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n = grid.num_steps
    if a.shape != b.shape or a.ndim != 2 or a.shape[0] != n or a.shape[1] > n:
        raise ValueError(
            f"expected coefficients of shape ({n}, k) with k <= {n} for a grid of {n} "
            f"steps, got {a.shape} and {b.shape}"
        )
    d, e = (np.zeros_like(a) if w is None else w for w in (data, noise))
    step, age = np.indices(a.shape)
    if np.any((a != 0) | (b != 0) | (d != 0) | (e != 0), where=step + 1 + age > n):
        raise ValueError(f"{name!r} uses states from before the start of the grid")
    seen = grid.seen if isinstance(grid, Levels) else None
    ode = ode_of(grid.family, grid.tau, grid.output, seen)
    at = np.minimum(step + 1 + age, n)
    of_u, of_o = np.zeros_like(a), np.zeros_like(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_y = np.stack([1 / ode.unit, np.zeros(n + 1)], axis=1)
        scale = np.where(ode.unit == 0, 1, grid.scale / ode.unit)
    for weights, what in (
        (a, of_y),
        (b, ode.of_f),
        (d, ode.of_data),
        (e, ode.of_noise),
    ):
        for total, part in ((of_u, what[:, 0]), (of_o, what[:, 1])):
            used = weights != 0
            total[used] += weights[used] * part[at[used]]
    if added is not None and not np.any(added):
        added = None  # one step to the data (SDXL-Turbo) adds no noise
    target = ode.unit[:n, None]
    of_u, of_o = of_u * target, of_o * target
    if not (np.all(np.isfinite(of_u)) and np.all(np.isfinite(of_o))):
        raise ValueError(f"the coefficients of {name!r} are not finite on this grid")
    if a.shape[1] == 1:
        columns = tuple(w[:, 0] for w in (a, b, d, e))
        ode = ode._replace(naive=inverse_rows(grid.family, grid.tau, ode, columns))
    return SamplerTable(
        of_u,
        of_o,
        scale,
        grid.tau,
        grid.model_time,
        np.asarray(grid.init_noise_scale),
        ode,
        name=name,
        order=order,
        bidirectional=added is None and _reads_both_ways(of_u, of_o),
        ends=ends,
        output=grid.output,
        noise=None if added is None else added * ode.unit[:n],
    )


def from_predictions(
    grid: TimeGrid | Levels,
    data: Float[np.ndarray, "n k"],
    noise: Float[np.ndarray, "n k"],
    *,
    name: str,
    order: int,
    added: Float[np.ndarray, "n"] | None = None,
) -> SamplerTable:
    """Make a sampler whose states are sums of predictions of the data and the noise.

    Args:
        grid: The noise levels of the rows.
        data: Weights of the data predictions in ``y[i-1]``.
        noise: Weights of the noise predictions.
        name: The sampler's name, for reports.
        order: Nominal order of accuracy.
        added: Weights of a stochastic sampler's noises in ``y[i-1]``.

    Returns:
        The table; see :func:`from_rows`.
    """
    zeros = np.zeros_like(data)
    parts: Any = {"data": data, "noise": noise, "added": added}
    return from_rows(grid, zeros, zeros, name=name, order=order, **parts)


def _reads_both_ways(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether full rows use the oldest state, but not the output at it."""
    n, k = a.shape
    full = slice(0, n - k + 1)
    return k > 1 and bool(np.all(a[full, -1] != 0) and np.all(b[full, -1] == 0))


#: A row by the numbers of the evaluations that it weighs, from 0 for the noise: the
#: weights of y and f, or of y, f, the data and the noise.
Weights = Mapping[int, tuple[float, float] | tuple[float, float, float, float]]


def from_evaluations(
    levels: TimeGrid | Levels,
    rows: Sequence[Weights],
    *,
    name: str,
    order: int,
    stages: Collection[int] = (),
) -> SamplerTable:
    """Make a sampler with stages from its evaluations of the model, in their order.

    Args:
        levels: The levels of all evaluations, and of the data, data first.
        rows: One row for each evaluation, noise first: row e makes the state that
            evaluation ``e + 1`` sees, or the data.
        name: The sampler's name, for reports.
        order: Nominal order of accuracy.
        stages: The evaluations at intermediate states.

    Returns:
        The table, with a memory as long as its rows need.
    """
    n = len(rows)
    ages = [max(e - known for known in row) for e, row in enumerate(rows)]
    parts = np.zeros((4, n, max(ages) + 1))
    for e, row in enumerate(rows):
        for known, weights in row.items():
            parts[: len(weights), n - 1 - e, e - known] = weights
    a, b, data, noise = parts
    ends = tuple(n - e for e in range(n, -1, -1) if e not in stages) if stages else ()
    table = from_rows(
        levels, a, b, name=name, order=order, ends=ends, data=data, noise=noise
    )
    # A single step may look like a row that is explicit both ways (the midpoint rule).
    return dataclasses.replace(table, bidirectional=False)
