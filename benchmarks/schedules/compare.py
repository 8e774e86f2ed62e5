"""One configuration in diffusers and here: whole trajectories, and the times told.

diffusers computes its noise levels in float32 and is left to; its steps are then taken
in float64 (its levels cast, and ``torch.float32`` standing for float64 within
``step``), so that what remains between the two is no rounding. The network is a smooth
function of the state and of the time, the same on both sides; the configuration's
``prediction_type`` decides what its output is taken for.
"""

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import diffusers
import jax
import numpy as np
import torch

import jaxinv as ji
from benchmarks.schedules.draw import FLOW, Case
from jaxinv.diffusion import diffusers_schedule
from jaxinv.diffusion.diffusers_config import COG_DPM, SCALING, SCM
from jaxinv.samplers.ode import ode_of

#: Largest difference of a state, relative to its RMS, that counts as agreement.
TOLERANCE = 1e-4
# Times are integers, or float32 in flow matching.
TIME_TOLERANCE = 3e-6
# Fractional times at zero terminal SNR, interpolated between levels that depend on the
# machine.
RESCALED_TIME_TOLERANCE = 2e-2

NOISE = np.random.default_rng(0).standard_normal((2, 4, 3))


def added_noise(step: int) -> np.ndarray:
    """Return the noise that a stochastic scheduler adds in a step, counted from 0."""
    return np.random.default_rng(step + 1).standard_normal(NOISE.shape)


# All that this library may answer instead of a sampler, by what its message says.
REFUSALS = {
    "the class is not supported": "the scheduler '.*' is not supported",
    "clip_sample": "clip_sample",
    "thresholding": "thresholding=",
    "zero terminal SNR": "rescale_betas_zero_snr|terminal SNR",
    "levels and continuous times that differ in number": "has more continuous times",
    "stochastic": "stochastic_sampling|sde-dpmsolver",
    "inverted levels": "invert_sigmas",
    "learned variance": "variance_type",
    "order above 3": "solver_order",
    "flow levels without flow prediction, or the reverse": "only supported together",
    "spaced levels of a flow": "not supported for flow matching",
    "flow ending at a VP level": "ends a flow at a level",
    "dynamic shifting without mu": "use_dynamic_shifting",
    "mu, sigmas or timesteps that the class does not take": "does not take",
    "sigmas or timesteps of another length or order": "expected (sigmas|timesteps)",
    "more steps than training timesteps": "num_steps must be",
    "offset past the last timestep": "steps_offset",
    "levels that coincide": "coincide|strictly increase",
    "a 'trailing' step at timestep -1 of DDIM": "timestep -1",
    "a step to zero of the noise prediction": "cannot end at zero",
    "betas": "beta_start|trained_betas",
    "options that EDM does not have": "EDM's (networks|schedulers)",
    "NaN in diffusers": "returns NaN|is NaN in diffusers",
    "zeros in diffusers": "returns zeros",
    "noise levels without digits of the data": "no digits of the data",
    "a next timestep that is not t - T // N": "which with these options is not",
    "a spacing that the class does not have": "the spacing leading or trailing; got",
    "more steps than the model was distilled from": "original_inference_steps",
    "a prediction type that the class does not have": "predict the data, also in|"
    "prediction_type must be one of",
    "too few steps for Runge and Kutta": "three Runge-Kutta steps",
    "a timestep past the last": "reads timestep",
    "timestep that depends on the machine": "rounds a square root",
    "noise prediction of a flow": "data prediction only",
    "an SDE of a flow": "not for flows",
    "two spaced levels at once": "only one of",
    "coefficients that overflow": "not finite",
}


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
        kind: ``"agrees"``, ``"refused"``, ``"diffusers raises"``, ``"diffusers NaN"``,
            ``"states differ"``, ``"times differ"`` or ``"steps differ"``.
        detail: The reason of a refusal, or diffusers' exception.
        error: Largest difference of a state, relative to its RMS.
    """

    kind: str
    detail: str = ""
    error: float = 0.0

    @property
    def silent(self) -> bool:
        """Whether this library gave a sampler that is not diffusers'."""
        return self.kind.endswith("differ") or self.detail.startswith("unlisted")


def network(xp: Any, x: Any, t: Any) -> Any:
    """Return a smooth nonlinear stand-in for a network, in any array library."""
    return 0.8 * xp.tanh(1.3 * x + 0.3) + 0.2 * xp.sin(2.0 * x + 0.01 * t)


def compare(case: Case) -> Outcome:
    """Run a case on both sides."""
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore")
        try:
            table, schedule = read(case)
        except ValueError as error:
            return Outcome("refused", reason(str(error)))
        try:
            times, theirs = in_diffusers(case)
        except Exception as error:  # whatever diffusers raises
            return Outcome("diffusers raises", type(error).__name__)
        if not np.all(np.isfinite(theirs)):
            return Outcome("diffusers NaN")
        if len(times) != table.num_rows:
            return Outcome("steps differ", f"{len(times)}, {table.num_rows} here")
        allowed = TIME_TOLERANCE * (1 + np.abs(times))
        other = on_another_machine(case)
        if other is not None and other.num_rows == table.num_rows:
            moved = np.abs(other.model_time - table.model_time)[:0:-1]
            allowed += RESCALED_TIME_TOLERANCE + 10 * moved
        wrong = np.abs(table.model_time[:0:-1] - times) > allowed
        if np.any(wrong):
            here = table.model_time[:0:-1]
            return Outcome("times differ", f"{here[wrong][0]} for {times[wrong][0]}")
        ours = in_their_units(case, table, trajectory(table, schedule, NOISE))
        error, allowed = relative_error(ours, theirs), TOLERANCE
        if other is not None and other.num_rows == table.num_rows:
            theirs_there = trajectory(other, schedule, NOISE)
            theirs_there = in_their_units(case, other, theirs_there)
            allowed += 10 * relative_error(theirs_there, ours)
        if error > allowed:
            # Levels are rounded to float32, and a root in them depends on the machine:
            # what does one rounding do to this trajectory?
            moved = trajectory(table, schedule, NOISE * (1 + 2.0**-23))
            moved = in_their_units(case, table, moved)
            allowed = max(allowed, 10 * relative_error(moved, ours))
        kind = "agrees" if error <= allowed else "states differ"
        return Outcome(kind, error=error)


def read(case: Case) -> tuple[Any, Any]:
    """Return the table and the schedule of a case."""
    config, request = case.config, case.request
    mu = {key: request[key] for key in ("mu",) if key in request}
    table = ji.sampler_from_diffusers(config, case.num_steps, **request)
    return table, ji.schedule_from_diffusers(config, **mu)


def on_another_machine(case: Case) -> Any:
    """Return the table where square roots are rounded otherwise, or None.

    At zero terminal SNR the noise levels are products of square roots in float32, whose
    last bit depends on the machine on which diffusers runs.
    """
    if not case.config.get("rescale_betas_zero_snr"):
        return None

    def other_root(values: np.ndarray) -> np.ndarray:
        roots = np.sqrt(values)
        return np.where(np.arange(len(roots)) % 2, np.nextafter(roots, 2), roots)

    known, diffusers_schedule.rounded_root = (
        diffusers_schedule.rounded_root,
        other_root,
    )
    try:
        return read(case)[0]
    except ValueError:
        return None
    finally:
        diffusers_schedule.rounded_root = known


def reason(message: str) -> str:
    """Return the listed reason of a refusal."""
    for name, pattern in REFUSALS.items():
        if re.search(pattern, message):
            return name
    return f"unlisted: {message}"


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of any state, relative to the state's RMS."""
    axes = tuple(range(1, theirs.ndim))
    rms = np.sqrt(np.mean(theirs**2, axis=axes))
    error = np.abs(ours - theirs).max(axis=axes) / rms
    return float("inf") if np.any(np.isnan(error)) else float(error.max())


def in_their_units(case: Case, table: Any, states: np.ndarray) -> np.ndarray:
    """Return states x, noise first, in the units of the case's scheduler."""
    if case.name not in SCALING:
        return states
    scale = (table.scale * table.ode.unit)[::-1]
    return states / scale.reshape(-1, *[1] * (states.ndim - 1))


def trajectory(table: Any, schedule: Any, noise: np.ndarray) -> np.ndarray:
    """Return all states x of a table, noise first, in NumPy and float64."""
    scale, times, n = table.scale, table.model_time, table.num_rows
    u, out = {n: noise * table.init_noise_scale / scale[n]}, {}
    for i in range(n, 0, -1):
        out[i] = float64_network(schedule, scale[i] * u[i], times[i])
        if table.output is not None and table.output.is_limited:
            # The data prediction of the network, clipped or thresholded.
            ode = ode_of(schedule.family, table.tau, schedule.output)
            data = ode.of_data[i] @ np.stack([u[i].ravel(), out[i].ravel()])
            data = data.reshape(u[i].shape)
            out[i] = limited(data, table.output)
            if table.output.keeps_noise:
                # p L(D) + q e = a u + b D + p (L(D) - D)
                a, b = table.a[i - 1, 0], table.b[i - 1, 0]
                gain = (b + a * ode.signal[i]) / b
                out[i] = data + gain * (out[i] - data)
        ages = range(min(table.history, n + 1 - i))
        u[i - 1] = sum(
            table.a[i - 1, j] * u[i + j] + table.b[i - 1, j] * out[i + j] for j in ages
        )
        if table.noise is not None:
            u[i - 1] = u[i - 1] + table.noise[i - 1] * added_noise(n - i)
    return np.stack([scale[i] * u[i] for i in range(n, -1, -1)])


def limited(data: np.ndarray, limit: Any) -> np.ndarray:
    """Return a data prediction as a scheduler limits it."""
    if limit.threshold is None:
        return np.clip(data, -limit.clip, limit.clip)
    ratio, largest = limit.threshold
    s = np.clip(np.quantile(np.abs(data), ratio), 1, largest)
    return np.clip(data, -s, s) / s


def float64_network(schedule: Any, x: np.ndarray, t: float) -> np.ndarray:
    """Return the network's own output, of EDM's with its input scaled."""
    if schedule.sigma_data is not None:  # EDM's
        x = x / np.hypot(np.exp(4 * t), schedule.sigma_data)
    return network(np, x, t)


def in_diffusers(case: Case, *, double: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the timesteps and all states of diffusers' own scheduler, noise first."""
    try:
        return _in_diffusers(case, double, None)
    except (AssertionError, IndexError):
        # Where its first two timesteps are the same, it has to be told where it is.
        return _in_diffusers(case, double, 0)


def _in_diffusers(
    case: Case, double: bool, begin_index: int | None
) -> tuple[np.ndarray, np.ndarray]:
    scheduler = getattr(diffusers, case.name).from_config(case.config)
    request = dict(case.request)
    if case.name == FLOW or "timesteps" not in request:
        request["num_inference_steps"] = case.num_steps
    if case.name == SCM and case.num_steps != 2:
        request["intermediate_timesteps"] = None  # as its pipeline
    scheduler.set_timesteps(**request)
    if begin_index is not None:
        scheduler.set_begin_index(begin_index)
    for name in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):
        if double and hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())
    # A batch of one: quantiles of thresholding are those of a sample.
    x = torch.from_numpy(NOISE if double else NOISE.astype(np.float32))[None]
    x = x * float(getattr(scheduler, "init_noise_sigma", 1))
    timesteps = scheduler.timesteps
    if case.name == SCM:
        # Its pipeline scales the noise, and does not evaluate at the last time.
        x, timesteps = x * scheduler.config.sigma_data, timesteps[:-1]
    as_seen = getattr(scheduler, "scale_model_input", lambda x, t: x)
    states, old, before = [x], None, None
    with float64_steps(scheduler) if double else contextlib.nullcontext():
        for step, t in enumerate(timesteps):
            out = network(torch, as_seen(x, t), t.to(x.dtype))
            noise = torch.from_numpy(added_noise(step))[None].to(x.dtype)
            with adding(scheduler, noise):
                if case.name == COG_DPM:
                    x, old = scheduler.step(out, old, t, before, x)
                    before = t
                else:
                    x = scheduler.step(out, t, x).prev_sample
            states.append(x)
    return timesteps.double().numpy(), torch.cat(states).double().numpy()


@contextlib.contextmanager
def adding(scheduler: Any, noise: torch.Tensor) -> Iterator[None]:
    """Let a scheduler add this noise."""
    module = sys.modules[type(scheduler).__module__]
    drawn = getattr(module, "randn_tensor", None)
    module.randn_tensor = lambda *_, **__: noise
    try:
        yield
    finally:
        module.randn_tensor = drawn


class _Float64Torch:
    """torch, where float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def float64_steps(scheduler: Any) -> Iterator[None]:
    """Let a scheduler's ``step`` compute in float64."""
    module = sys.modules[type(scheduler).__module__]
    default = torch.get_default_dtype()
    module.torch = _Float64Torch()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        module.torch = torch
        torch.set_default_dtype(default)
