r"""UniPC: a predictor (UniP) and a corrector (UniC) that costs no model call.

The predictor of a step is an exponential multistep row. Once the model has been
evaluated at its result p, the corrector repeats the step with the new prediction as a
further node, and the next step starts from the corrected state c. In a step to level i,

    p[i] = E + sum_j P[j] D[i+1+j],         c[i] = E + sum_j C[j] D[i+j],

with the same part E that depends on c[i+1]. Therefore ``c[i] - p[i]`` is a sum of
predictions, which a step multiplies by ``tau[i-1] / tau[i]`` (by ``s[i-1] / s[i]`` in
the noise form). The corrected states, which the model never sees, can be eliminated,
and UniPC is a table of the predicted states.
"""

from collections.abc import Collection
from typing import Any, Literal

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.exponential import (
    Prediction,
    SecondOrder,
    check_order,
    corrections,
    exponential_rows,
    multistep_orders,
)
from jaxinv.samplers.table import SamplerTable, from_predictions

Variant = Literal["bh1", "bh2"]

# B(h) = h or e^h - 1 weighs the difference linearly, or like DPM-Solver's midpoint.
_SECOND_ORDER: dict[Variant, SecondOrder] = {"bh1": "linear", "bh2": "midpoint"}


@checked
def unip(
    grid: TimeGrid,
    order: int = 2,
    *,
    variant: Variant = "bh2",
    prediction: Prediction = "data",
    lower_order_final: bool = True,
) -> SamplerTable:
    """Return UniP of order 1 to 3, with either choice of the function B(h).

    With order 2, ``"bh2"`` has the rows of :func:`dpmpp_2m`. Order 3 solves for the
    weights that integrate a parabola exactly, which leaves no choice of B(h): its rows
    of full order are those of :func:`dpmpp_3m`.

    Args:
        grid: The noise levels.
        order: 1 (then this is DDIM) to 3.
        variant: ``"bh1"`` for B(h) = h, ``"bh2"`` for ``B(h) = e^h - 1``.
        prediction: The interpolated prediction, ``"data"`` or ``"noise"``.
        lower_order_final: Whether the order of the last steps is at most the number of
            remaining steps, as in the paper and diffusers. This reduces order 3,
            because a step of order 1 has an error of ``O(h^2)``.

    Returns:
        A table of this order with a memory of ``order`` states (fewer on a grid with
        fewer steps).

    Raises:
        ValueError: For another order, variant or prediction.

    References:
        Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast
        Sampling of Diffusion Models", arXiv:2302.04867, Eq. 3, 7 and 12.
    """
    rows = exponential_rows(
        grid,
        _orders("unip", grid, order, lower_order_final),
        prediction=prediction,
        second_order=_SECOND_ORDER[variant],
    )
    return from_predictions(grid, *rows, name=f"unip_{order}_{variant}", order=order)


def _orders(name: str, grid: TimeGrid, order: int, lower_order_final: bool) -> Any:
    check_order(name, order, 3)
    last = tuple(range(1, order)) if lower_order_final else ()
    return multistep_orders(grid, order, last=last)


@checked
def unipc(
    grid: TimeGrid,
    order: int = 2,
    *,
    variant: Variant = "bh2",
    prediction: Prediction = "data",
    lower_order_final: bool = True,
    uncorrected: Collection[int] = (),
) -> SamplerTable:
    """Return UniPC: :func:`unip` of order 1 to 3 with its corrector.

    The states of the table are the predicted ones, at which the model is evaluated;
    the sample is predicted, not corrected.

    Args:
        grid: The noise levels.
        order: 1 to 3.
        variant: See :func:`unip`.
        prediction: See :func:`unip`.
        lower_order_final: See :func:`unip`.
        uncorrected: Steps whose result is not corrected, counted from 0 at the noise
            end, as in diffusers' ``disable_corrector``.

    Returns:
        A table with a memory of ``order + 1`` states (fewer on a grid with fewer
        steps). The corrector adds one to its order, if the start and the last steps,
        which have lower orders, are short.

    Raises:
        ValueError: For another order, variant or prediction.

    References:
        Zhao et al. 2023, arXiv:2302.04867, Algorithms 1 and 2; diffusers'
        ``UniPCMultistepScheduler``.
    """
    orders = _orders("unipc", grid, order, lower_order_final)
    rule: dict[str, Any] = {
        "prediction": prediction,
        "second_order": _SECOND_ORDER[variant],
    }
    n = grid.num_steps
    data, noise = (
        np.pad(v, ((0, 0), (0, n - v.shape[1])))
        for v in exponential_rows(grid, orders, **rule)
    )
    # The interpolated prediction, and what Euler's step has of it.
    whole, euler, kept = (
        (data, grid.signal[:-1], grid.tau)
        if prediction == "data"
        else (noise, grid.tau[:-1], grid.signal)
    )
    predicted = whole.copy()
    predicted[:, 0] -= euler
    for i in range(n - 1, 0, -1):
        # The corrector of the step to level i, and then the step from there.
        q = orders[i]
        if n - 1 - i in uncorrected or not np.isfinite(grid.log_snr[i + 1]):
            continue
        nodes = np.array([i + 1, i, *range(i + 2, i + 1 + q)])
        factor = kept[i - 1] / kept[i]
        whole[i - 1, nodes - i] += factor * corrections(grid, nodes, i, **rule)
        whole[i - 1, 1:] -= factor * predicted[i, :-1]
    k = min(order + 1, n)
    return from_predictions(
        grid,
        data[:, :k],
        noise[:, :k],
        name=f"unipc_{order}_{variant}",
        order=order + 1,
    )
