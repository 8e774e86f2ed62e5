r"""UniP: the predictor of UniPC, as a table.

UniPC's corrector needs no additional model call: it repeats a step once the output at
its end is known, and thereby changes the *state* after the model has seen it. This is
not a linear multistep method in the states, so only the predictor is implemented.
"""

from typing import Literal, get_args

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.exponential import (
    Prediction,
    SecondOrder,
    check_order,
    exponential_rows,
    multistep_orders,
)
from jaxinv.samplers.table import LinearMultistep, from_rows

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
) -> LinearMultistep:
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
    check_order("unip", order, 3)
    if variant not in _SECOND_ORDER or prediction not in get_args(Prediction):
        raise ValueError(
            "unip has the variants bh1 and bh2 and the predictions data and noise; got "
            f"{variant!r} and {prediction!r}"
        )
    last = tuple(range(1, order)) if lower_order_final else ()
    a, b = exponential_rows(
        grid,
        multistep_orders(grid, order, last=last),
        prediction=prediction,
        second_order=_SECOND_ORDER[variant],
    )
    return from_rows(grid, a, b, name=f"unip_{order}_{variant}", order=order)
