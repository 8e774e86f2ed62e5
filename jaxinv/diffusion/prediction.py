r"""The units of a table: states of unit variance, and a network's own output.

A state is ``u = signal D + noise e`` with the data D and the noise e. Its weights have
the size of one at every noise level,

======  =========================  ==========================  ======================
family  signal                     noise                       y of
                                                               :mod:`.schedule`
======  =========================  ==========================  ======================
vp      alpha                      sigma                       u / signal
flow    1 - t                      t                           u
ve      1 / sqrt(d^2 + sigma^2)    sigma / sqrt(d^2 + sigma^2)  u / signal
======  =========================  ==========================  ======================

(d = sigma_data, or 1). A network predicts D, e, or a sum of both, and its output o and
the state together determine both,

    D = p u + q o,      e = r u + t o.

For a network that predicts v, ``p = signal, q = -noise, r = noise, t = signal``: all
numbers are of order one, also where the signal is zero. That is not so for e as an
intermediate result (``D = (u - noise e) / signal``), which loses digits of v near pure
noise. Tables therefore weigh u and o, with coefficients that are computed in float64.

References:
    Salimans & Ho 2022, arXiv:2202.00512, Section 4 and Appendix D (v-prediction).
    Karras et al. 2022, arXiv:2206.00364, Eq. 7 (preconditioning).
    Lin et al. 2024, arXiv:2305.08891, Section 3.1 (zero terminal SNR).
"""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float

Family = Literal["vp", "flow", "ve"]
PredictionType = Literal[
    "epsilon", "v_prediction", "sample", "flow", "rectified_flow", "edm", "edm_negative"
]


@dataclasses.dataclass(frozen=True)
class Output:
    """What a network predicts, if it is not f itself (epsilon, or a flow's velocity).

    Attributes:
        kind: The prediction type.
        sigma_data: The standard deviation of the data in EDM's preconditioning.
        clip: The data prediction is clipped to [-clip, clip]; None for no clipping.
        threshold: The quantile of dynamic thresholding and its largest value; None for
            no thresholding.
        keeps_noise: Whether steps take the noise from before the limit: diffusers'
            DDIM. Only tables have this.
    """

    kind: PredictionType
    sigma_data: float | None = None
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    keeps_noise: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether the data prediction is clipped or thresholded."""
        return self.clip is not None or self.threshold is not None

    @classmethod
    def of(
        cls, kind: PredictionType, sigma_data: float | None = None
    ) -> "Output | None":
        """Return the output of a prediction type; None for f."""
        return None if kind in ("epsilon", "flow") else cls(kind, sigma_data)


# NumPy on the host, JAX inside compiled programs.
Levels = Array | np.ndarray


class Weights(NamedTuple):
    """The data and the noise as sums of the state u and the output o, per level.

    Attributes:
        data: p and q.
        noise: r and t.
    """

    data: tuple[Levels, Levels]
    noise: tuple[Levels, Levels]


def unit_factor(
    family: Family, tau: Float[np.ndarray, "n"], sigma_data: float | None = None
) -> Float[np.ndarray, "n"]:
    """Return the factor c of ``u = c y`` at noise levels."""
    if family == "flow":
        return np.ones_like(tau)
    return 1 / np.hypot(sigma_data or 1.0, tau)


def signal_and_noise(
    family: Family, tau: Float[np.ndarray, "n"], sigma_data: float | None = None
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return the weights of data and noise in u; 0 and 1 at an infinite level."""
    if family == "flow":
        return 1 - tau, tau
    signal = unit_factor(family, tau, sigma_data)
    infinite = np.isinf(tau)
    return signal, np.where(infinite, 1, np.where(infinite, 0, tau) * signal)


def prediction_weights(
    output: Output | None,
    family: Family,
    signal: Levels,
    noise: Levels,
) -> Weights:
    """Return p, q, r and t of an output at noise levels.

    Args:
        output: The output; None for f.
        family: The family of the schedule.
        signal: Weights of the data in u.
        noise: Weights of the noise in u.
    """
    zero, one = 0 * signal, 0 * signal + 1
    kind = output.kind if output is not None else "flow" if family == "flow" else "e"
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "e":
            return Weights((1 / signal, -noise / signal), (zero, one))
        if kind == "sample":
            return Weights((zero, one), (1 / noise, -signal / noise))
        if kind in ("flow", "rectified_flow"):
            sign = 1 if kind == "flow" else -1
            return Weights((one, -sign * noise), (one, sign * signal))
        if kind == "v_prediction":
            return Weights((signal, -noise), (noise, signal))
    assert output is not None, f"{kind} is f"
    d = float(output.sigma_data or 1.0)
    c = d if kind == "edm" else -d
    return Weights((d**2 * signal, c * noise), (noise, -c * signal))


def f_weights(
    output: Output | None,
    family: Family,
    signal: Levels,
    noise: Levels,
) -> tuple[Levels, Levels]:
    """Return P and Q of ``f = P u + Q o`` at noise levels.

    Args:
        output: The output; None for f.
        family: The family of the schedule.
        signal: Weights of the data in u.
        noise: Weights of the noise in u.
    """
    if output is None:
        return 0 * signal, 0 * signal + 1
    data, e = prediction_weights(output, family, signal, noise)
    if family == "flow":  # f = e - D
        return e[0] - data[0], e[1] - data[1]
    return e
