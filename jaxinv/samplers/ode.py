r"""What inverses know of the ODE at the levels of a table.

A solver of a table's rows starts from guesses: states of Gaussian data, Euler's step,
an output that hardly changes. These need the weights of data and noise in the states of
a table, and what its outputs mean, level by level.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxinv.diffusion.prediction import (
    Family,
    Output,
    f_weights,
    prediction_weights,
    signal_and_noise,
    unit_factor,
)

# NumPy float64 initially; tracers or JAX arrays inside compiled programs.
Coefficients = Array | np.ndarray


class Ode(NamedTuple):
    """The ODE at the levels of a table, with states u and outputs o; a pytree.

    Attributes:
        unit: c of ``u = c y``, shape (N + 1,); 0 at an infinite level.
        signal: Weights of the data in u, shape (N + 1,).
        noise: Weights of the noise in u, shape (N + 1,).
        of_data: Weights of u and o in the data prediction, shape (N + 1, 2).
        of_noise: Weights of u and o in the noise prediction, shape (N + 1, 2).
        of_f: Weights of u and o in f, shape (N + 1, 2).
        euler: Euler's rows: weights of ``u[i]`` and o there, shape (N, 2).
        naive: The inverse of each row (of Euler's rows, if rows use several states),
            ``u[i] = g u[i-1] + d f``: g and d, shape (N, 2).
        slopes: Typical derivatives of o by u, shape (N + 1,).
    """

    unit: Coefficients
    signal: Coefficients
    noise: Coefficients
    of_data: Coefficients
    of_noise: Coefficients
    of_f: Coefficients
    euler: Coefficients
    naive: Coefficients
    slopes: Coefficients

    def part(self, low: int, high: int) -> "Ode":
        """Return the levels from ``low`` to ``high``."""
        per_row = {"euler": self.euler[low:high], "naive": self.naive[low:high]}
        levels = {
            name: value[low : high + 1]
            for name, value in self._asdict().items()
            if name not in per_row
        }
        return Ode(**levels, **per_row)


def ode_of(
    family: Family,
    tau: Float[np.ndarray, "n+1"],
    output: Output | None,
    seen: Float[np.ndarray, "n+1"] | None = None,
) -> Ode:
    """Return the ODE at noise levels, data first, with the inverses of Euler's rows.

    Args:
        family: The family of the schedule.
        tau: The levels; the last may be infinite.
        output: What the network predicts; None for f.
        seen: The levels for which the network takes the states, whose outputs are
            converted there; None for their own.
    """
    sigma_data = None if output is None else output.sigma_data
    unit = unit_factor(family, tau, sigma_data)
    signal, noise = signal_and_noise(family, tau, sigma_data)
    read = signal, noise
    if seen is not None:
        read = signal_and_noise(family, seen, sigma_data)
    data, e = prediction_weights(output, family, *read)
    f = f_weights(output, family, *read)
    if seen is not None and family == "ve":
        # The state that the network takes is x in the unit of the other level.
        of_u = unit_factor(family, seen, sigma_data) / unit
        data, e, f = ((part[0] * of_u, part[1]) for part in (data, e, f))
    if output is not None and output.kind == "sample" and noise[0] == 0:
        # The data say nothing of the noise where there is none: naive inversion takes
        # the weights of the next level.
        f = np.append(f[0][1], f[0][1:]), np.append(f[1][1], f[1][1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        if seen is None:
            euler = [
                signal[:-1] * of_data[1:] + noise[:-1] * of_noise[1:]
                for of_data, of_noise in zip(data, e, strict=True)
            ]
        else:
            step = unit[:-1] * (tau[:-1] - tau[1:])
            euler = [unit[:-1] / unit[1:] + step * f[0][1:], step * f[1][1:]]
        naive = [unit[1:] / unit[:-1], noise[1:] - unit[1:] * tau[:-1]]
        # That of Gaussian data of the network's unit; 0 for f, v and EDM's F.
        slopes = np.zeros_like(tau)
        if output is not None and output.kind == "sample":
            slopes = signal / (signal**2 + noise**2)
    return Ode(
        unit,
        signal,
        noise,
        np.stack(data, axis=1),
        np.stack(e, axis=1),
        np.stack(f, axis=1),
        np.stack(euler, axis=1),
        np.stack(naive, axis=1),
        slopes,
    )


def inverse_rows(
    family: Family,
    tau: Float[np.ndarray, "n+1"],
    ode: Ode,
    weights: tuple[Float[np.ndarray, "n"], ...],
) -> Float[np.ndarray, "n 2"]:
    """Return g and d of ``u[i] = g u[i-1] + d f`` for rows of one state.

    Args:
        family: The family of the schedule.
        tau: The levels.
        ode: The ODE there.
        weights: Weights of y, f, D and e at level i in the row to ``y[i-1]``.
    """
    of_y, of_f, of_data, of_noise = weights
    # D = y - tau f, and e = f but for flows: e = y + (1 - tau) f.
    a = of_y + of_data + (of_noise if family == "flow" else 0)
    unit, noise, signal = ode.unit[1:], ode.noise[1:], ode.signal[1:]
    # b in the unit of the states: it is finite at an infinite level.
    b = of_f * unit + of_noise * signal - of_data * noise
    return np.stack([unit / (a * ode.unit[:-1]), -b / a], axis=1)


def of_f_only(ode: Any, xp: Any) -> Any:
    """Return the ODE for outputs that are f.

    Args:
        ode: The ODE for other outputs.
        xp: NumPy or ``jax.numpy``.
    """
    of_u, of_o = ode.of_f[:, 0], ode.of_f[:, 1]

    def converted(weights: Any, at: Any) -> Any:
        # u and o with o = (f - P u) / Q.
        ratio = weights[:, 1] / of_o[at]
        return xp.stack([weights[:, 0] - ratio * of_u[at], ratio], axis=1)

    everywhere = slice(None)
    zero = xp.zeros_like(of_u)
    return ode._replace(
        of_data=converted(ode.of_data, everywhere),
        of_noise=converted(ode.of_noise, everywhere),
        euler=converted(ode.euler, slice(1, None)),
        of_f=xp.stack([zero, zero + 1], axis=1),
        slopes=zero,
    )
