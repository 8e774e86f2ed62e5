r"""Rex: a reversible method from Euler's, by coupling two sequences.

McCallum and Foster make a reversible method from any explicit one, ``y + Phi_h(y)``,
with two sequences, a coupling z in (0, 1] and time from t to t + h,

    y' = z y + (1 - z) w + Phi_h(w, t),         w' = w - Phi_{-h}(y', t + h),

which can be solved for w and then for y. Rex applies this to the ODE in the coordinates
in which the linear part of a diffusion is solved exactly: the state ``y / tau`` as a
function of ``s / tau`` (signal s over noise), whose derivative is the data prediction
``D = y - tau f``. Steps of Euler's method in these coordinates are those of DDIM.

The model is evaluated at w (for y') and at y' (for w'), in turns: ``w[N], y[N-1],
w[N-1], y[N-2], ..``. With ``r = tau[i-1] / tau[i]`` the rows are, in the coordinates of
:mod:`jaxinv.samplers.table`,

    y[i-1] = (1 - z r) w[i] + z r y[i] - (1 - r) tau[i] f(w[i], t[i]),
    w[i-1] = (1 - r) y[i-1] + r w[i] - (1 - r) tau[i-1] f(y[i-1], t[i-1]),

for all families: a bidirectional table. It starts from one array, ``y[N] = w[N]``, with
DDIM's row, and ends with y[0]: w[0] would cost an evaluation and is not needed to go
back.

The paper also couples Runge-Kutta methods of higher order. Their stages are states that
the step back does not pass: it goes through other stages, starting from y'. Such a row
is not explicit both ways, and these variants are not here.

References:
    Blasingame & Liu 2025, "Rex: Reversible Solvers for Diffusion Models",
    arXiv:2502.08834; McCallum & Foster 2024, "Efficient, Accurate and Stable Gradients
    for Neural ODEs", arXiv:2410.11648.
"""

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.table import Levels, SamplerTable, from_rows

#: The coupling of the paper's experiments.
PUBLISHED = 0.999


@checked
def rex(grid: TimeGrid, coupling: float = PUBLISHED) -> SamplerTable:
    """Return Rex of Euler's method, as the table of the states that it evaluates.

    Level 0 of the table is y[0], the sample; level ``2 i - 1`` is w[i] and level ``2
    i`` is y[i], for i above 0. A :class:`~jaxinv.SamplerState` holds ``(y[0], w[1])``
    at the data end and ``(y[N-1], w[N])`` at the noise end.

    Args:
        grid: The noise levels, at least two steps, the last not to ``tau = 0``.
        coupling: z in (0, 1]; 1 means that the sequences do not mix. The way back
            multiplies errors by up to ``1 / z`` per step.

    Returns:
        A bidirectional table of first order with ``2 N - 1`` rows.

    Raises:
        ValueError: For another coupling, a single step, or a grid that ends at 0, where
            the last step forgets y[1].

    References:
        Blasingame & Liu 2025, arXiv:2502.08834, with their coupling of 0.999.
    """
    if not 0 < coupling <= 1:
        raise ValueError(
            f"rex needs 0 < coupling <= 1, got {coupling!r}: going back divides by it"
        )
    n, tau = grid.num_steps, grid.tau
    if n < 2 or tau[0] == 0:
        raise ValueError(
            "rex needs a grid of at least 2 steps that ends above tau = 0; got "
            f"{n} steps to tau = {tau[0]:g}"
        )
    kept = tau[:-1] / tau[1:]
    # Rows by their level: an even one makes y from w, an odd one makes w from y.
    a, b = np.zeros((2 * n - 1, 2)), np.zeros((2 * n - 1, 2))
    a[0::2] = np.stack([1 - coupling * kept, coupling * kept], 1)
    b[0::2, 0] = tau[:-1] - tau[1:]
    a[1::2] = np.stack([1 - kept[1:], kept[1:]], 1)
    b[1::2, 0] = -(1 - kept[1:]) * tau[1:-1]
    a[-1] = 1, 0
    levels = Levels.of(grid, np.arange(1, 2 * n + 1) // 2)
    ends = (0, *range(1, 2 * n, 2))
    name = "rex" if coupling == PUBLISHED else f"rex({coupling:g})"
    return from_rows(levels, a, b, name=name, order=1, ends=ends)
