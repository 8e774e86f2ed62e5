r"""A diffusers scheduler as a table, from its configuration.

An image that a diffusers pipeline made is inverted on the table of the scheduler that
made it: same levels, same timesteps for the network, same coefficients, with every
peculiarity (lowered orders, second-order "3M", steps that end at ``tau = 0``).

One of them concerns networks that do not predict noise. With Karras or exponential
levels the network is given an integer timestep next to the level, and diffusers turns
its prediction into noise at the *level*, while a denoiser of this library
(:func:`jaxinv.as_denoiser`), which sees the timestep only, does so at the timestep's
own level ``tau'``. Both are linear in the same prediction, so the noise that diffusers
uses is ``u f + w y`` with known u and w, and the table takes that in.

References:
    diffusers 0.42, ``src/diffusers/schedulers``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinv.grid import TimeGrid, warn_if_lossy
from jaxinv.grid_from_diffusers import DEIS, DPM, UNIPC, make_diffusers_grid
from jaxinv.samplers.adams import deis
from jaxinv.samplers.dpm_solver import PUBLISHED_CURVATURE
from jaxinv.samplers.exponential import (
    SecondOrder,
    exponential_rows,
    lowered_last,
    multistep_orders,
)
from jaxinv.samplers.multistep import ddim_diffusers, euler
from jaxinv.samplers.table import LinearMultistep, from_rows
from jaxinv.samplers.unipc import unip
from jaxinv.schedule import (
    NoiseSchedule,
    read_scheduler_config,
    schedule_from_diffusers,
)

SUPPORTED = (
    "DDIMScheduler",
    DPM,
    DEIS,
    UNIPC,
    "FlowMatchEulerDiscreteScheduler",
)

# Options that change the method into something that is no table, or another grid.
_REFUSED = {
    "thresholding": "a sample's own quantiles decide the step",
    "use_beta_sigmas": "this spacing is not supported",
    "use_dynamic_shifting": "the shift depends on the image size",
    "shift_terminal": "this grid is not supported",
    "invert_sigmas": "this grid is not supported",
    "stochastic_sampling": "the sampler is not deterministic",
    "solver_p": "another solver takes the steps",
    "variance_type": "the network predicts a variance as well",
}


def sampler_from_diffusers(
    config: Mapping[str, Any] | str | Path, num_steps: int
) -> LinearMultistep:
    """The sampler that a diffusers ``scheduler_config.json`` describes.

    Supported: DDIMScheduler; DPMSolverMultistepScheduler (dpmsolver++ and dpmsolver,
    orders 1 to 3, midpoint and heun); DEISMultistepScheduler (orders 1 to 3);
    UniPCMultistepScheduler without its corrector (orders 1 to 3, bh1 and bh2);
    FlowMatchEulerDiscreteScheduler with a fixed shift. All timestep spacings, Karras,
    exponential, Lu's and flow levels.

    Args:
        config: the parsed JSON, the file, or the folder that holds it. To invert what
            another scheduler class made with these options, change ``_class_name``.
        num_steps: N.

    Returns:
        The table, on :func:`jaxinv.grid_from_diffusers` of the same arguments. Use it
        with denoisers of the schedule :func:`jaxinv.schedule_from_diffusers` reads.

    Raises:
        ValueError: for anything that is not supported, naming what is.
        FileNotFoundError: if the file does not exist.

    Warns:
        LossyGridWarning: as :func:`jaxinv.time_grid`.

    Example:
        >>> import warnings
        >>> config = {"_class_name": "DPMSolverMultistepScheduler",
        ...           "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        ...           "beta_end": 0.012, "use_karras_sigmas": True}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     sampler_from_diffusers(config, 20).name
        'dpmsolver++2M'
    """
    config = read_scheduler_config(config)
    name = config.get("_class_name")
    if name not in SUPPORTED:
        raise ValueError(
            f"the scheduler {name!r} is not supported; supported are "
            f"{', '.join(SUPPORTED)}. For any schedule, schedule_from_diffusers and a "
            "sampler of this library (dpmpp_2m, ipndm, ...) can be used, but not to "
            "invert what that scheduler made"
        )
    _refuse_options(config)
    schedule = schedule_from_diffusers(config)
    grid = make_diffusers_grid(config, num_steps)
    warn_if_lossy(schedule, grid, stacklevel=3)
    if name == "FlowMatchEulerDiscreteScheduler":
        return euler(grid)
    if name == "DDIMScheduler":
        return ddim_diffusers(schedule, num_steps)
    table = {DPM: _dpm_solver, DEIS: _deis, UNIPC: _unip}[name](config, grid)
    return _converting_at_the_level(table, schedule, grid)


def _dpm_solver(config: Mapping[str, Any], grid: TimeGrid) -> LinearMultistep:
    algorithm = _choice(
        config,
        "algorithm_type",
        {"dpmsolver++": "dpmsolver++", "dpmsolver": "dpmsolver", "deis": "dpmsolver++"},
    )
    if algorithm == "dpmsolver" and grid.tau[0] == 0:
        raise ValueError(
            'algorithm_type "dpmsolver" cannot end at zero, in diffusers neither: set '
            'final_sigmas_type to "sigma_min"'
        )
    second_order: SecondOrder = _choice(
        config,
        "solver_type",
        {
            "midpoint": "midpoint",
            "heun": "exact",
            "logrho": "midpoint",
            "bh1": "midpoint",
            "bh2": "midpoint",
        },
    )
    order = _order(config)
    last = lowered_last(
        grid,
        few=config.get("lower_order_final", True),
        always=config.get("euler_at_final", False),
    )
    a, b = exponential_rows(
        grid,
        multistep_orders(grid, order, last=last),
        prediction="data" if algorithm == "dpmsolver++" else "noise",
        second_order=second_order,
        curvature=PUBLISHED_CURVATURE,
    )
    return from_rows(grid, a, b, name=f"{algorithm}{order}M", order=min(order, 2))


def _deis(config: Mapping[str, Any], grid: TimeGrid) -> LinearMultistep:
    _choice(config, "algorithm_type", dict.fromkeys(("deis", *_DPM_TYPES), "deis"))
    _choice(config, "solver_type", dict.fromkeys(("logrho", *_SOLVER_TYPES), "logrho"))
    lowered = config.get("lower_order_final", True)
    return deis(grid, _order(config), lower_order_final=lowered)


def _unip(config: Mapping[str, Any], grid: TimeGrid) -> LinearMultistep:
    # The corrector of step index s works at the start of step s + 1: none is needed
    # after the last step.
    disabled = set(config.get("disable_corrector", ()))
    if missing := [s for s in range(grid.num_steps - 1) if s not in disabled]:
        raise ValueError(
            "UniPC's corrector changes the state after the network has seen it, which "
            "is no linear multistep method: only the predictor is supported. Set "
            f"disable_corrector to list(range({grid.num_steps - 1})), in diffusers as "
            f"well; it is enabled for step {missing[0]}"
        )
    variant = _choice(
        config,
        "solver_type",
        {"bh2": "bh2", "bh1": "bh1"} | dict.fromkeys(_SOLVER_TYPES[:3], "bh2"),
    )
    return unip(
        grid,
        _order(config),
        variant=variant,
        prediction="data" if config.get("predict_x0", True) else "noise",
        lower_order_final=config.get("lower_order_final", True),
    )


# Names of other schedulers' options that a diffusers class takes for its own.
_DPM_TYPES = ("dpmsolver", "dpmsolver++")
_SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")


def _choice(config: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    """The meaning of an option; its default is the first that is known."""
    value = config.get(key, next(iter(known)))
    if value not in known:
        raise ValueError(
            f"{key} {value!r} is not supported; supported are {', '.join(known)}"
        )
    return known[value]


def _order(config: Mapping[str, Any]) -> int:
    order = config.get("solver_order", 2)
    if order not in (1, 2, 3):
        raise ValueError(f"solver_order must be 1, 2 or 3, got {order!r}")
    return order


def _refuse_options(config: Mapping[str, Any]) -> None:
    """Raise ValueError for options under which the scheduler is not such a table."""
    options = dict(config)
    name, flow = options["_class_name"], bool(options.get("use_flow_sigmas"))
    if name == "DDIMScheduler" and options.get("clip_sample", True):
        raise ValueError(
            "clip_sample (True by default in DDIMScheduler) clips every data "
            "prediction, which is no linear multistep method: only clip_sample=False "
            "is supported"
        )
    for key, reason in _REFUSED.items():
        if options.get(key):
            raise ValueError(f"{key}={options[key]!r} is not supported: {reason}")
    spacings = [
        key
        for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas")
        if options.get(key)
    ]
    if spacings and (flow or name.startswith("FlowMatch")):
        raise ValueError(f"{spacings[0]} is not supported for flow matching")
    if (
        name == UNIPC
        and spacings
        and (options.get("sigma_min") or options.get("sigma_max"))
    ):
        raise ValueError("sigma_min and sigma_max of UniPC are not supported")
    if (options.get("prediction_type") == "flow_prediction") != flow:
        raise ValueError(
            'prediction_type "flow_prediction" and use_flow_sigmas are supported '
            "together only"
        )
    _choice(options, "final_sigmas_type", {"zero": 0, "sigma_min": 0})
    if flow and name == DPM and options.get("final_sigmas_type") == "sigma_min":
        raise ValueError(
            'final_sigmas_type "sigma_min" ends a flow at a level of the VP schedule '
            "in DPMSolverMultistepScheduler: not supported"
        )


def _converting_at_the_level(
    table: LinearMultistep, schedule: NoiseSchedule, grid: TimeGrid
) -> LinearMultistep:
    """The table for f as converted at the level of the (rounded) model time.

    With alpha, sigma of the level and alpha', sigma' of the model time, eliminating the
    prediction from ``e = alpha v + sigma x`` or ``x = alpha D + sigma e`` gives the
    noise at the level, ``u f + w y``.
    """
    kind = schedule.prediction_type
    if kind not in ("v_prediction", "sample"):
        return table
    times, levels = schedule.model_times, np.log(schedule.taus)
    seen = np.exp(np.interp(grid.model_time, times, levels))
    alpha, alpha_seen = schedule.scale(grid.tau), schedule.scale(seen)
    sigma, sigma_seen = alpha * grid.tau, alpha_seen * seen
    if kind == "v_prediction":
        u = alpha / alpha_seen
        w = alpha * (sigma - u * sigma_seen)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            u = alpha * sigma_seen / (alpha_seen * sigma)
            w = alpha * (1 - alpha / alpha_seen) / sigma
    n, k = table.a.shape
    a, b = np.array(table.a), np.array(table.b)
    for i in range(1, n + 1):
        window = slice(i, min(i + k, n + 1))
        used = window.stop - i
        a[i - 1, :used] += b[i - 1, :used] * w[window]
        b[i - 1, :used] *= u[window]
    return from_rows(grid, a, b, name=table.name, order=table.order)
