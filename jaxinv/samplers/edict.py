r"""EDICT: two coupled sequences, each advanced by the model's output at the other.

In the coordinate y, with the pair (u, v) of states at level i, the step
``d = tau[i-1] - tau[i]``, and f(w, t[i]) the model's output at a state w,

    u' = u + d f(v, t[i]),           v' = v + d f(u', t[i]),
    u[i-1] = p u' + (1 - p) v',      v[i-1] = p v' + (1 - p) u[i-1].

Every line changes one state by a function of the other, so the lines can be undone one
by one, last first. The mixing (p < 1) keeps the pair close; undoing it multiplies their
difference by ``1 / p^2`` per step.

The model is only evaluated at v and u'. Consider the sequence of these states,
``v[N], u'[N], v[N-1], u'[N-1], ..``. Eliminating u and v' gives one row of two states
for each of its members, with ``q = 1 - p + p^2``,

    u'     = ((1 - p) v + p^2 u'_before) / q + d f(v),
    v[i-1] = p (1 - p) u' + q v[i] + q d f(u'),

where ``u'_before`` belongs to the previous step: a bidirectional table of 2 N rows. It
starts from one array with Euler's row, because EDICT starts with u[N] = v[N]. Every row
has first order: it uses a slope at one end of its span, and f(u') is even evaluated
with the time of the other level.

These are the paper's equations. The authors' code swaps the two sequences after every
step; here they keep their places. The CelebA script of BELM's repository, which
compares with EDICT, differs: it passes x to the model in place of y.

References:
    Wallace, Gokul & Naik 2023, "EDICT: Exact Diffusion Inversion via Coupled
    Transformations", arXiv:2211.12446, Eq. 13 to 15.
    Wang et al. 2024, "BELM", arXiv:2410.07273 (EDICT as a bidirectional row).
"""

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.table import Levels, SamplerTable, from_rows

#: The mixing weight of the paper.
PUBLISHED = 0.93


@checked
def edict(grid: TimeGrid, p: float = PUBLISHED) -> SamplerTable:
    """Return EDICT(p), as the table of the states at which it evaluates the model.

    Level ``2 i`` of the table is v[i]. Level ``2 i - 1`` is u'[i], the u' of the step
    from level i of the grid: a state of level i - 1, evaluated with the time of level
    i. A trajectory has ``2 N + 1`` states, the sample is v[0], and a
    :class:`~jaxinv.SamplerState` holds ``(v[0], u'[1])`` at the data end and
    ``(u'[N], v[N])`` at the noise end.

    Args:
        grid: The noise levels.
        p: Mixing weight in (0, 1]; 1 means no mixing.

    Returns:
        A bidirectional table with two rows for each of its N steps.

    Raises:
        ValueError: For another p.

    References:
        Wallace et al. 2023, arXiv:2211.12446, Eq. 13 to 15, with their p = 0.93.
    """
    if not 0 < p <= 1:
        raise ValueError(
            f"edict needs 0 < p <= 1, got {p!r}: undoing the mixing divides by p"
        )
    n, p = grid.num_steps, float(p)
    q, d = 1 - p + p**2, np.diff(grid.tau)
    a, b = np.zeros((2 * n, 2)), np.zeros((2 * n, 2))
    a[0::2] = p * (1 - p), q
    b[0::2, 0] = -q * d
    a[1::2] = (1 - p) / q, p**2 / q
    b[1::2, 0] = -d
    a[-1] = 1, 0
    own, given = np.arange(2 * n + 1) // 2, np.arange(1, 2 * n + 2) // 2
    levels = Levels.of(grid, own)._replace(
        model_time=grid.model_time[given], seen=grid.tau[given]
    )
    name = "edict" if p == PUBLISHED else f"edict({p:g})"
    ends = tuple(range(0, 2 * n + 1, 2))
    return from_rows(levels, a, b, name=name, order=1, ends=ends)
