r"""A diffusers scheduler as a table, from its configuration.

An image from a diffusers pipeline is inverted with the table of the scheduler that
generated it: the same levels, timesteps for the network, and coefficients, including
all peculiarities (lowered orders, second-order "3M", steps that end at ``tau = 0``).

On Karras or exponential levels, the network is given an integer timestep close to the
level, and its prediction is converted to noise at the *level*, as in diffusers.

References:
    diffusers 0.42, ``src/diffusers/schedulers``.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxinv.checks import checked, shown
from jaxinv.diffusion.diffusers_config import (
    COG_DDIM,
    COG_DPM,
    DDIM,
    DDIM_INVERSE,
    DDIM_PARALLEL,
    DDPM,
    DDPM_PARALLEL,
    DEIS,
    DPM,
    EDM_DPM,
    EDM_EULER,
    EULER,
    EULER_ANCESTRAL,
    FLOW_MATCH_EULER,
    FLOW_MATCH_HEUN,
    HEUN,
    IPNDM,
    KDPM2,
    LCM,
    LMS,
    PNDM,
    SCM,
    SINGLESTEP,
    TCD,
    UNIPC,
    naming_scheduler,
    read_scheduler_config,
    scheduler_class,
    scheduler_options,
)
from jaxinv.diffusion.diffusers_levels import Request
from jaxinv.diffusion.diffusers_schedule import schedule_of_options
from jaxinv.diffusion.grid import TimeGrid, warn_if_lossy
from jaxinv.diffusion.prediction import Output
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.samplers.adams import deis, lms
from jaxinv.samplers.diffusers_grid import SUPPORTED, make_diffusers_grid
from jaxinv.samplers.diffusers_ipndm import ipndm_diffusers
from jaxinv.samplers.diffusers_stochastic import consistency, ddpm, scm
from jaxinv.samplers.dpm_solver import (
    PUBLISHED_CURVATURE,
    singlestep,
    singlestep_orders,
)
from jaxinv.samplers.exponential import (
    Prediction,
    SecondOrder,
    exponential_rows,
    lowered_last,
    multistep_orders,
)
from jaxinv.samplers.multistep import ddim_inverse_diffusers, ddim_limited, euler
from jaxinv.samplers.pndm import pndm
from jaxinv.samplers.runge_kutta import heun, kdpm2
from jaxinv.samplers.stochastic import ancestral, sde_dpm_solver
from jaxinv.samplers.table import SamplerTable, from_predictions
from jaxinv.samplers.unipc import unipc

# Options that turn the method into something other than a table, or change the grid.
_REFUSED = {
    "invert_sigmas": "this grid is not supported",
    "stochastic_sampling": "the sampler is not deterministic",
    "solver_p": "another solver takes the steps",
}


@checked
def sampler_from_diffusers(
    config: Mapping[str, Any] | str | Path,
    num_steps: int,
    *,
    sigmas: Sequence[float] | np.ndarray | None = None,
    timesteps: Sequence[float] | np.ndarray | None = None,
    mu: float | None = None,
) -> SamplerTable:
    """Return the sampler that a diffusers ``scheduler_config.json`` describes.

    Supported are DDIMScheduler (and its Parallel version) and DDIMInverseScheduler;
    PNDMScheduler; EulerDiscreteScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler
    and LMSDiscreteScheduler; EDMEulerScheduler and EDMDPMSolverMultistepScheduler;
    DPMSolverMultistepScheduler and DPMSolverSinglestepScheduler (dpmsolver++ and
    dpmsolver, orders 1 to 3, midpoint and heun); DEISMultistepScheduler (orders 1 to
    3); UniPCMultistepScheduler (orders 1 to 3, bh1 and bh2, with and without its
    corrector); FlowMatchEulerDiscreteScheduler and FlowMatchHeunDiscreteScheduler;
    CogVideoXDDIMScheduler; IPNDMScheduler; with all timestep spacings, Karras,
    exponential, beta, Lu's and flow levels, zero terminal SNR, and dynamic shifts.

    Stochastic, and therefore to be given noises (``with_noises``), are DDPMScheduler
    (and its Parallel version), EulerAncestralDiscreteScheduler, LCMScheduler,
    SCMScheduler (of states as its pipeline has them), TCDScheduler,
    CogVideoXDPMScheduler, and DPMSolverMultistepScheduler with ``sde-dpmsolver++``. A
    single step to the data adds no noise: its table is deterministic (``noise`` is
    None).

    Where the scheduler clips or thresholds the data prediction (``clip_sample``:
    DDPMScheduler, DDIMScheduler, LCMScheduler; ``thresholding``: those, both DPMSolver
    schedulers, DEIS and UniPC), the sampler takes a denoiser of :func:`jaxinv.clipped`
    or :func:`jaxinv.thresholded`. DDIMScheduler then steps with the noise from before,
    as in diffusers. Thresholding on levels between timesteps (Karras and the like) is
    refused unless the network predicts the data.

    The keyword arguments are those of the class's ``set_timesteps``. Pass the arguments
    that *the pipeline* of the image passed. Pipelines of Stable Diffusion pass none.
    Pipelines of flow models pass their own levels, so that the configuration alone
    describes another sampler: FLUX's pass ``sigmas=np.linspace(1, 1 / N, N)``
    (FLUX.1-schnell in 4 steps visits 1, 0.75, 0.5, 0.25, 0, where the scheduler alone
    visits 1, 0.667, 0.334, 0.001, 0), and for checkpoints with ``use_dynamic_shifting``
    also ``mu`` for the image size. See the pipeline's call of ``retrieve_timesteps``;
    :meth:`jaxinv.Pipeline.sampler` does the same for the pipelines it knows.

    Args:
        config: The parsed JSON, a scheduler's ``config``, the file, or the folder that
            holds it; read like ``from_config`` of the class in ``_class_name``. Change
            ``_class_name`` to invert images of another scheduler class with these
            options.
        num_steps: N, the argument of ``set_timesteps``. The table has as many steps as
            diffusers takes: N + 1 for some N in the spacing "trailing". Methods with
            stages evaluate the model more often (``num_rows``).
        sigmas: N decreasing noise levels in (0, 1], before any shift
            (FlowMatchEulerDiscreteScheduler; UniPC with flow levels).
        timesteps: N decreasing timesteps (both DPMSolver schedulers,
            EulerDiscreteScheduler and HeunDiscreteScheduler, without spaced levels;
            FlowMatchEulerDiscreteScheduler, also with ``sigmas``).
        mu: The shift for the image size, for ``use_dynamic_shifting``
            (FlowMatchEulerDiscreteScheduler; UniPC with flow levels); ignored
            otherwise, as in diffusers.

    Returns:
        The table, on :func:`jaxinv.grid_from_diffusers` of the same arguments. Use it
        with denoisers of the schedule :func:`jaxinv.schedule_from_diffusers` reads.

    Raises:
        ValueError: For unsupported schedulers or options, and for arguments that the
            class does not take.
        FileNotFoundError: If the file does not exist.

    Warns:
        LossyGridWarning: See :func:`jaxinv.time_grid`.

    Example:
        >>> import warnings
        >>> config = {"_class_name": "DPMSolverMultistepScheduler",
        ...           "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        ...           "beta_end": 0.012, "use_karras_sigmas": True}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     sampler_from_diffusers(config, 20).name
        'dpmsolver++2M'
    """
    with naming_scheduler(config):
        config = read_scheduler_config(config)
        name = scheduler_class(config)
        if name not in SUPPORTED:
            raise ValueError(
                f"the scheduler {shown(name)} is not supported; supported are "
                f"{', '.join(SUPPORTED)}. schedule_from_diffusers and a sampler of "
                "this library (dpmpp_2m, ipndm, ...) work for any schedule, but do not "
                "invert images of that scheduler"
            )
        options = scheduler_options(config)
        schedule = schedule_of_options(options, mu)
        request = Request(num_steps, sigmas, timesteps, mu)
        table, grid = table_from_options(options, schedule, request)
    # The stack level of the caller of a checked function.
    warn_if_lossy(schedule, grid, stacklevel=4)
    return table


def table_from_options(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> tuple[SamplerTable, TimeGrid]:
    """Return :func:`sampler_from_diffusers` of resolved options without its warning.

    Args:
        options: From :func:`jaxinv.diffusion.diffusers_config.scheduler_options`.
        schedule: The schedule; it need not be that of the options.
        request: Arguments that a pipeline passes to ``set_timesteps``.

    Returns:
        The table and its grid.
    """
    _refuse_options(options, schedule)
    name = options["_class_name"]
    grid = make_diffusers_grid(options, schedule, request)
    limit = data_limit(options)
    if name in (DDIM, DDIM_PARALLEL, COG_DDIM):
        return ddim_limited(schedule, request.num_steps, None, limit), grid
    if limit is not None:
        _refuse_levels_between(options, schedule, grid)
        grid = dataclasses.replace(grid, output=limit)
    if name == DDIM_INVERSE:
        return ddim_inverse_diffusers(schedule, request.num_steps), grid
    if name == SCM:
        return scm(grid), grid
    if name == IPNDM:
        return ipndm_diffusers(grid), grid
    if name in (LCM, TCD):
        return consistency(options, schedule, grid), grid
    if name == PNDM:
        skipped = options["skip_prk_steps"]
        return pndm(schedule, request.num_steps, skip_prk_steps=skipped), grid
    return _METHODS[name](options, grid), grid


def data_limit(options: Mapping[str, Any]) -> Output | None:
    """Return how a scheduler limits the data prediction; None if it does not.

    Args:
        options: From :func:`jaxinv.diffusion.diffusers_config.scheduler_options`.
    """
    # UniPC limits the data only where it steps with it.
    if options.get("thresholding") and options.get("predict_x0", True):
        values = (options["dynamic_thresholding_ratio"], options["sample_max_value"])
        ratio, largest = map(float, values)
        return Output("sample", threshold=(ratio, largest))
    if options.get("clip_sample"):
        return Output("sample", clip=float(options["clip_sample_range"]))
    return None


def _algorithm(
    config: Mapping[str, Any], grid: TimeGrid
) -> tuple[str, Prediction, SecondOrder]:
    """Return the meaning of DPM-Solver's options."""
    algorithm = _choice(
        config,
        "algorithm_type",
        {"dpmsolver++": "dpmsolver++", "dpmsolver": "dpmsolver", "deis": "dpmsolver++"},
    )
    if config["algorithm_type"] != "dpmsolver++" and grid.tau[0] == 0:
        raise ValueError(
            f"algorithm_type {config['algorithm_type']!r} cannot end at zero, also not "
            'in diffusers: set final_sigmas_type to "sigma_min"'
        )
    second_order: SecondOrder = _choice(config, "solver_type", _SECOND_ORDER)
    prediction: Prediction = "data" if algorithm == "dpmsolver++" else "noise"
    return algorithm, prediction, second_order


def _dpm_solver(config: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    if config["algorithm_type"] == "sde-dpmsolver++":
        return _sde(config, grid)
    algorithm, prediction, second_order = _algorithm(config, grid)
    order = _order(config)
    last = lowered_last(
        grid,
        few=config["lower_order_final"],
        always=config["euler_at_final"],
    )
    last_order = 1 if last else min(order, grid.num_steps)
    heun = second_order == "exact" and last_order == 2
    _refuse_nan(grid, at_zero=False, standing=heun or last_order == 3)
    rows = exponential_rows(
        grid,
        multistep_orders(grid, order, last=last),
        prediction=prediction,
        second_order=second_order,
        curvature=PUBLISHED_CURVATURE,
    )
    return from_predictions(
        grid, *rows, name=f"{algorithm}{order}M", order=min(order, 2)
    )


def _sde(config: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    return sde_dpm_solver(
        grid,
        _order(config),
        second_order=_choice(config, "solver_type", _SECOND_ORDER),
        lower_order_final=config["lower_order_final"],
        euler_at_final=config["euler_at_final"],
    )


def _cog_dpm(config: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    jump, times = config["num_train_timesteps"] // grid.num_steps, grid.model_time[1:]
    if np.any(np.diff(times) != jump) or times[0] >= jump:
        raise ValueError(
            f"{COG_DPM} steps to timestep t - T // N, which with these options is not "
            "the next timestep: not supported; use a number of steps that divides T"
        )
    return sde_dpm_solver(grid, 2, lower_order_final=False, euler_at_final=True)


def _singlestep(config: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    algorithm, prediction, second_order = _algorithm(config, grid)
    order, n = _order(config), grid.num_steps
    at_zero = config["final_sigmas_type"] == "zero"
    lowered = config["lower_order_final"] or n % order > 0 or at_zero
    orders = singlestep_orders(n, order, lowered=lowered)
    if at_zero:
        orders[-1] = 1
    _refuse_nan(grid, at_zero=False, standing=orders[-1] > 1)
    return singlestep(
        grid,
        orders,
        prediction=prediction,
        second_order=second_order,
        name=f"{algorithm}{order}S",
    )


def _deis(config: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    _choice(config, "algorithm_type", dict.fromkeys(("deis", *_DPM_TYPES), "deis"))
    _choice(config, "solver_type", dict.fromkeys(("logrho", *_SOLVER_TYPES), "logrho"))
    return deis(grid, _order(config), lower_order_final=config["lower_order_final"])


def _unipc(config: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    variant = _choice(
        config,
        "solver_type",
        {"bh2": "bh2", "bh1": "bh1"} | dict.fromkeys(_SOLVER_TYPES[:3], "bh2"),
    )
    order, data = _order(config), bool(config["predict_x0"])
    last_order = 1 if config["lower_order_final"] else min(order, grid.num_steps)
    at_zero = last_order > 1 or variant == "bh1" or not data
    _refuse_nan(grid, at_zero=at_zero, standing=last_order == 3)
    return unipc(
        grid,
        order,
        variant=variant,
        prediction="data" if data else "noise",
        lower_order_final=config["lower_order_final"],
        uncorrected=config["disable_corrector"],
    )


def _refuse_nan(grid: TimeGrid, *, at_zero: bool, standing: bool) -> None:
    """Raise ValueError where diffusers' last step divides zero by zero.

    Args:
        grid: The grid.
        at_zero: Whether it does so if the step ends at ``tau = 0``.
        standing: Whether it does so if the step has length zero.
    """
    where = "ends at zero" if grid.tau[0] == 0 else "has length zero"
    if (grid.tau[0] == 0 and at_zero) or (grid.tau[0] == grid.tau[1] and standing):
        raise ValueError(
            f"diffusers returns NaN with these options: its last step {where}, for "
            "which its formula of this order is undefined"
        )


_SECOND_ORDER: dict[str, SecondOrder] = {
    "midpoint": "midpoint",
    "heun": "exact",
    "logrho": "midpoint",
    "bh1": "midpoint",
    "bh2": "midpoint",
}
# Option names of other schedulers that a diffusers class accepts as its own.
_DPM_TYPES = ("dpmsolver", "dpmsolver++")
_SOLVER_TYPES = ("midpoint", "heun", "logrho", "bh1", "bh2")


def _choice(config: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    """Return the meaning of an option."""
    value = config[key]
    if value not in known:
        raise ValueError(
            f"{key} {shown(value)} is not supported; supported are {', '.join(known)}"
        )
    return known[value]


def _order(config: Mapping[str, Any]) -> int:
    order = config["solver_order"]
    if order not in (1, 2, 3):
        raise ValueError(f"solver_order must be 1, 2 or 3, got {order!r}")
    return order


def _refuse_options(options: Mapping[str, Any], schedule: NoiseSchedule) -> None:
    """Raise ValueError for options that make the scheduler something else."""
    name, flow = options["_class_name"], schedule.family == "flow"
    if options.get("clip_sample") and name not in _CLIPS:
        raise ValueError(
            f"clip_sample is not supported in {name}: only clip_sample=False is"
        )
    if options.get("thresholding") and (name not in _THRESHOLDS or flow):
        where = "a flow" if flow else name
        raise ValueError(
            f"thresholding={shown(options['thresholding'])} is not supported in {where}"
        )
    for key, reason in _REFUSED.items():
        if options.get(key):
            raise ValueError(f"{key}={shown(options[key])} is not supported: {reason}")
    if name in (KDPM2, PNDM) and options["prediction_type"] == "sample":
        raise ValueError(
            f"{name} does not take networks that predict the data, also in diffusers"
        )
    variance = str(options.get("variance_type"))
    if variance.startswith("learned") and name not in (DDPM, DDPM_PARALLEL):
        raise ValueError(
            f"variance_type={variance!r} is not supported: the network also predicts a "
            "variance"
        )
    spacings = [key for key in _SPACINGS if options.get(key)]
    if len(set(spacings) - {"use_lu_lambdas"}) > 1:
        raise ValueError(f"only one of {', '.join(spacings)} can be used")
    if spacings and flow and name != FLOW_MATCH_EULER:
        raise ValueError(f"{spacings[0]} is not supported for flow matching")
    if "final_sigmas_type" in options:
        _choice(options, "final_sigmas_type", {"zero": 0, "sigma_min": 0})
        to_level = options["final_sigmas_type"] == "sigma_min"
        if flow and name in (DPM, SINGLESTEP) and to_level:
            raise ValueError(
                'final_sigmas_type "sigma_min" ends a flow at a level of the VP '
                f"schedule in {name}: not supported"
            )
    noise = options.get("algorithm_type") == "dpmsolver" and name in (DPM, SINGLESTEP)
    if flow and (noise or not options.get("predict_x0", True)):
        raise ValueError(
            "a flow is sampled by its data prediction only (algorithm_type "
            '"dpmsolver++", predict_x0=True), also in diffusers'
        )


def _refuse_levels_between(
    options: Mapping[str, Any], schedule: NoiseSchedule, grid: TimeGrid
) -> None:
    """Raise ValueError for limited data on levels that are not those of their times.

    A limited model has the data at the level of its time, diffusers at the level of the
    step, which differ where spaced levels are between timesteps.
    """
    output = schedule.output
    if output is not None and output.kind == "sample":
        return  # the network's data are the same at every level
    known = np.interp(grid.model_time[1:], schedule.model_times, schedule.taus)
    with np.errstate(invalid="ignore"):  # an infinite level is a time's own
        wrong = np.abs(grid.tau[1:] - known) > _LEVEL_TOLERANCE * known
    if np.any(wrong):
        raise ValueError(
            f"thresholding={shown(options['thresholding'])} is not supported on noise "
            "levels between timesteps (use_karras_sigmas and the like), unless the "
            "network predicts the data"
        )


# Of a level, relative to that of its time; diffusers has float32.
_LEVEL_TOLERANCE = 1e-4
# The schedulers that limit data predictions as they say.
_CLIPS = (DDPM, DDPM_PARALLEL, DDIM, DDIM_PARALLEL, LCM)
_THRESHOLDS = (*_CLIPS, DPM, SINGLESTEP, DEIS, UNIPC)
_SPACINGS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)


_METHODS: dict[str, Callable[[Mapping[str, Any], TimeGrid], SamplerTable]] = {
    DPM: _dpm_solver,
    DEIS: _deis,
    UNIPC: _unipc,
    SINGLESTEP: _singlestep,
    FLOW_MATCH_EULER: lambda _, grid: euler(grid),
    FLOW_MATCH_HEUN: lambda _, grid: heun(grid),
    DDPM: ddpm,
    DDPM_PARALLEL: ddpm,
    COG_DPM: _cog_dpm,
    EULER_ANCESTRAL: lambda _, grid: ancestral(grid),
    EULER: lambda _, grid: euler(grid),
    HEUN: lambda _, grid: heun(grid),
    KDPM2: lambda _, grid: kdpm2(grid),
    LMS: lambda _, grid: lms(grid),
    EDM_EULER: lambda _, grid: euler(grid),
    EDM_DPM: _dpm_solver,
}
