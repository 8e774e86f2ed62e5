r"""EDICT: two coupled sequences, each stepped with the other's model output.

In the coordinate y, with the pair (u, v) of states at level i, the step
``d = tau[i-1] - tau[i]``, and f(w, t[i]) the model's output at a state w,

    u' = u + d f(v, t[i]),           v' = v + d f(u', t[i]),
    u[i-1] = p u' + (1 - p) v',      v[i-1] = p v' + (1 - p) u[i-1].

Every line changes one of the two by a function of the other, so the lines can be undone
one by one, last first. The mixing (p < 1) keeps the pair together; undoing it
multiplies their difference by ``1 / p^2`` per step.

EDICT is a bidirectional table in disguise. Take the sequence of all states at which the
model is evaluated, ``v[N], u'[N], v[N-1], u'[N-1], ..``. Eliminating u and v' leaves
one row of two states for each of its members, with ``q = 1 - p + p^2``,

    u'     = ((1 - p) v + p^2 u'_before) / q + d f(v),
    v[i-1] = p (1 - p) u' + q v[i] + q d f(u'),

where ``u'_before`` is the one of the step before (:func:`rows_of_edict`). Every row is
of first order only: it uses a slope at one end of what it spans, and f(u') is even
evaluated with the time of the other level.

These are the paper's equations. The authors' code swaps the two sequences after every
step; here they keep their places. BELM's repository, which compares with EDICT, gives
the model x where y is meant in its CelebA script; that is not this.

References:
    Wallace, Gokul & Naik 2023, "EDICT: Exact Diffusion Inversion via Coupled
    Transformations", arXiv:2211.12446, Eq. 13 to 15.
    Wang et al. 2024, "BELM", arXiv:2410.07273 (EDICT as a bidirectional row).
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.norms import relative
from jaxinv.samplers.table import Coefficients, LinearMultistep
from jaxinv.sampling.steps import in_dtype, stepper


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Edict:
    """A coupled pair of sequences; a pytree, as a table is.

    Attributes:
        p: shape (). The mixing weight.
        scale: shape (N + 1,). ``x[i] = scale[i] * y[i]``.
        tau: shape (N + 1,). Noise levels, increasing.
        model_time: shape (N + 1,). What the model is given at each level.
        init_noise_scale: shape (). Standard deviation of ``x[N]``.
        name: the sampler's name (static).
        order: order of accuracy (static).
    """

    bidirectional: ClassVar[bool] = True
    coupled: ClassVar[bool] = True
    history: ClassVar[int] = 2

    p: Coefficients
    scale: Coefficients
    tau: Coefficients
    model_time: Coefficients
    init_noise_scale: Coefficients
    name: str = dataclasses.field(default="edict", metadata={"static": True})
    order: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def num_steps(self) -> int:
        """Number of steps, N; each evaluates the model twice."""
        return self.tau.shape[0] - 1


@checked
def edict(grid: TimeGrid, p: float = 0.93) -> Edict:
    """EDICT(p).

    Args:
        grid: the noise levels.
        p: mixing weight in (0, 1]; 1 does not mix.

    Returns:
        The sampler, for :func:`jaxinv.sample` and :func:`jaxinv.invert`. Its state is a
        pair of arrays at one level.

    Raises:
        ValueError: for another p.

    References:
        Wallace et al. 2023, arXiv:2211.12446, Eq. 13 to 15; p = 0.93 is theirs.
    """
    if not 0 < p <= 1:
        raise ValueError(
            f"edict needs 0 < p <= 1, got {p!r}: undoing the mixing divides by p"
        )
    return Edict(
        np.asarray(p, np.float64),
        grid.scale,
        grid.tau,
        grid.model_time,
        np.asarray(grid.init_noise_scale),
    )


def rows_of_edict(sampler: Edict) -> LinearMultistep:
    """EDICT as a bidirectional table over the states at which it runs the model.

    Level ``2 i`` of the table is v[i], level ``2 i - 1`` is the u' of the step from
    level i; that one is a state of level i - 1 which the model is given with the time
    of level i. The first row, from one array, is Euler's.

    Args:
        sampler: the sampler.

    Returns:
        A table of 2 N rows. Sampling with it gives EDICT's v[0].
    """
    n, p = sampler.num_steps, float(np.asarray(sampler.p))
    q = 1 - p + p**2
    d = np.diff(np.asarray(sampler.tau))
    a, b = np.zeros((2 * n, 2)), np.zeros((2 * n, 2))
    a[0::2] = p * (1 - p), q
    b[0::2, 0] = -q * d
    a[1::2] = (1 - p) / q, p**2 / q
    b[1::2, 0] = -d
    a[-1] = 1, 0
    own, given = np.arange(2 * n + 1) // 2, np.arange(1, 2 * n + 2) // 2
    return LinearMultistep(
        a,
        b,
        np.asarray(sampler.scale)[own],
        np.asarray(sampler.tau)[own],
        np.asarray(sampler.model_time)[given],
        np.asarray(sampler.init_noise_scale),
        name="edict_rows",
        order=1,
        bidirectional=True,
    )


Pair = tuple[Array, Array]


class CoupledSteps:
    """The steps of EDICT; see :class:`jaxinv.sampling.steps.Stepper`.

    A window is the pair (u, v).
    """

    def __init__(self, sampler: Edict, denoise: Denoiser, dtype: Any) -> None:
        self.sampler: Edict = in_dtype(sampler, dtype)
        self.denoise = denoise
        self.num_steps = self.top = sampler.num_steps
        self.undo_evals = 2 * sampler.num_steps

    def begin(self, noise: Array) -> Pair:
        """Both sequences start alike."""
        start = noise * self.sampler.init_noise_scale / self.sampler.scale[-1]
        return start, start

    def resume(self, values: Array, level: int) -> Pair:
        """The pair as it is."""
        u, v = values / self.sampler.scale[level]
        return u, v

    def values(self, window: Pair, level: int) -> Array:
        """In the state x."""
        return self.sampler.scale[level] * jnp.stack(window)

    def newest(self, window: Pair) -> Array:
        """The first of the pair."""
        return window[0]

    def older(self, window: Pair) -> Array:
        """None: a pair belongs to one level."""
        return jnp.zeros((0, *window[0].shape), window[0].dtype)

    def down(self, i: Array, window: Pair) -> Pair:
        """Two evaluations, then the mixing."""
        p = jnp.asarray(self.sampler.p)
        u, v = window
        u = u + self._change(i, i, v)
        v = v + self._change(i, i - 1, u)
        u = p * u + (1 - p) * v
        return u, p * v + (1 - p) * u

    def up(self, i: Array, window: Pair) -> tuple[Pair, Array]:
        """The lines of :meth:`down`, last first."""
        p = jnp.asarray(self.sampler.p)
        u_mixed, v_mixed = window
        v_after = (v_mixed - (1 - p) * u_mixed) / p
        u_after = (u_mixed - (1 - p) * v_after) / p
        of_u = self._change(i, i - 1, u_after)
        v = v_after - of_u
        of_v = self._change(i, i, v)
        u = u_after - of_v
        again = p * (u + of_v) + (1 - p) * (v + of_u)
        return (u, v), relative(again - u_mixed, u_mixed)

    def start_up(self, window: Pair, errors: Array) -> Array:
        """A start from one array is off by what the pair differs at the noise end."""
        u, v = window
        return errors.at[-1].max(relative(v - u, u))

    def _change(self, i: Array, level: Array, y: Array) -> Array:
        """What a state y of some level, seen at the time of level i, adds to a step."""
        s = self.sampler
        f = self.denoise(s.scale[level] * y, s.model_time[i]).astype(y.dtype)
        return (s.tau[i - 1] - s.tau[i]) * f


@stepper.register
def _(sampler: Edict, denoise: Denoiser, dtype: Any) -> CoupledSteps:
    return CoupledSteps(sampler, denoise, dtype)
