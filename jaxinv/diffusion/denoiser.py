r"""Denoisers: from a network's prediction to the f of ``dy/dtau = f``.

A *denoiser* is any callable pytree ``(x, t) -> f`` on one sample: x is the state, t the
model's time (a scalar), and f the noise prediction (VP and VE) or the velocity (flow
matching). Plain functions are denoisers, and so are Flax NNX modules, Equinox modules
and ``jax.tree_util.Partial(fn, params)``, whose arrays become arguments of the compiled
program rather than constants.

Networks predict different things. With ``y = x / scale`` and the data prediction D,

    f = (y - D) / tau                                  (all families)
    f = alpha v + sigma x                              (v-prediction, VP)
    f = c (sigma c x - sigma_data F(c x))              (EDM, with c = c_in)

Classifier-free guidance needs a *conditional* model ``(x, t, cond) -> prediction`` and
extrapolates from the unconditional to the conditional output,

    f = f_uncond + s (f_cond - f_uncond).

Guidance is linear, so it commutes with the conversion between prediction types.

References:
    Salimans & Ho 2022, arXiv:2202.00512, Section 4 (v-prediction).
    Ho & Salimans 2022, arXiv:2207.12598, Eq. 6 (guidance, in the form with s = 1 + w).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxinv.checks import checked
from jaxinv.diffusion.schedule import NoiseSchedule, PredictionType

Denoiser = Callable[[Array, Array], Array]
ConditionalModel = Callable[[Array, Array, Any], Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Conditioned:
    """A conditional model with its condition filled in: ``(x, t) -> prediction``."""

    model: ConditionalModel
    cond: PyTree

    def __call__(self, x: Float[Array, "..."], t: Float[Array, ""]) -> Array:
        """Evaluate ``model(x, t, cond)``."""
        return self.model(x, t, self.cond)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Guided:
    """Classifier-free guidance with both branches in one batched call of the model."""

    model: ConditionalModel
    cond: PyTree
    uncond: PyTree
    guidance_scale: Float[Array, ""] | float

    def __call__(self, x: Float[Array, "..."], t: Float[Array, ""]) -> Array:
        """Evaluate both branches at ``(x, t)`` and extrapolate."""
        branches = jax.tree.map(lambda u, c: jnp.stack([u, c]), self.uncond, self.cond)
        out = jax.vmap(lambda branch: self.model(x, t, branch))(branches)
        scale = jnp.asarray(self.guidance_scale, out.dtype)
        return out[0] + scale * (out[1] - out[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _FromPrediction:
    """A model of another prediction type, with a schedule's table of noise levels.

    The noise level of a time is the inverse of ``NoiseSchedule.model_time``. Between
    training times, log tau is linear for VP, and tau is linear for the other families.
    """

    model: Denoiser
    times: Float[Array, "t"]
    levels: Float[Array, "t"]
    convert: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    log_levels: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Float[Array, "..."], t: Float[Array, ""]) -> Array:
        times, levels = (
            jnp.asarray(table, x.dtype) for table in (self.times, self.levels)
        )
        level = jnp.interp(jnp.asarray(t, x.dtype), times, levels)
        tau = jnp.exp(level) if self.log_levels else level
        return self.convert(x, tau, self.model(x, t))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Preconditioned:
    """EDM's network as a denoiser; sigma_data is negative if ``c_out`` is."""

    model: Denoiser
    sigma_data: Float[Array, ""]

    def __call__(self, x: Float[Array, "..."], t: Float[Array, ""]) -> Array:
        data = jnp.asarray(self.sigma_data, x.dtype)
        sigma = jnp.exp(4 * jnp.asarray(t, x.dtype))
        c_in = 1 / jnp.sqrt(sigma**2 + data**2)
        return c_in * (sigma * c_in * x - data * self.model(c_in * x, t))


@checked
def conditioned(model: ConditionalModel, cond: PyTree) -> Conditioned:
    """Fill in the condition of a model, without guidance (guidance scale 1).

    Args:
        model: Callable pytree ``(x, t, cond) -> prediction``.
        cond: The condition, any pytree of arrays (a text embedding, say).

    Returns:
        A callable pytree ``(x, t) -> prediction``.
    """
    return Conditioned(model, cond)


def with_condition(model: Denoiser | ConditionalModel, cond: PyTree) -> Denoiser:
    """Return a model as a denoiser, with its condition filled in unless it is None."""
    return model if cond is None else conditioned(model, cond)  # type: ignore[return-value, arg-type]


@checked
def guided(
    model: ConditionalModel,
    cond: PyTree,
    uncond: PyTree,
    guidance_scale: Float[Array, ""] | float,
) -> Guided:
    """Wrap a model in classifier-free guidance.

    Args:
        model: Callable pytree ``(x, t, cond) -> prediction``.
        cond: The condition, any pytree of arrays.
        uncond: The empty or negative condition, same structure and shapes.
        guidance_scale: s; 1 gives the conditional, 0 the unconditional model. The
            formula holds for every s, whereas :meth:`jaxinv.LatentDiffusion.denoiser`
            follows diffusers' pipelines: s at most 1 gives the conditional model.

    Returns:
        A callable pytree ``(x, t) -> prediction`` that evaluates both branches in one
        call, batched over the branch.

    Raises:
        ValueError: If the two conditions differ in structure or shapes.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, Eq. 6.
    """
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (cond, uncond)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the condition and the negative condition must agree in structure and "
            f"shapes, got {shapes[0]} and {shapes[1]}"
        )
    # Always an array: an integer would be a constant of the compiled program.
    return Guided(model, cond, uncond, jnp.asarray(guidance_scale, float))


@checked
def from_x0(model: Denoiser, schedule: NoiseSchedule) -> Denoiser:
    """Turn a data-predicting model into a denoiser.

    Args:
        model: Callable pytree ``(x, t) -> x0``.
        schedule: The schedule that the model was trained with.

    Returns:
        A callable pytree ``(x, t) -> f`` with ``f = (x / scale - x0) / tau``.
    """
    if schedule.sigma_data is not None:
        raise ValueError(
            "EDM's networks predict F; a data-predicting model needs a schedule such "
            "as variance_exploding"
        )
    convert = _vp_x0_to_f if schedule.family == "vp" else _x0_to_f
    return _from_prediction(model, schedule, convert)


@checked
def from_v(model: Denoiser, schedule: NoiseSchedule) -> Denoiser:
    """Turn a v-predicting model of a VP schedule into a denoiser.

    Args:
        model: Callable pytree ``(x, t) -> v`` with ``v = alpha e - sigma x0``.
        schedule: The VP schedule that the model was trained with.

    Returns:
        A callable pytree ``(x, t) -> e`` with ``e = alpha v + sigma x``.

    Raises:
        ValueError: If the schedule is not variance preserving.

    References:
        Salimans & Ho 2022, arXiv:2202.00512, Section 4.
    """
    if schedule.family != "vp":
        raise ValueError(
            "v-prediction is defined for variance-preserving schedules, not for "
            f"{schedule.family!r} (a flow-matching velocity is 'flow')"
        )
    return _from_prediction(model, schedule, _v_to_f)


@checked
def as_denoiser(
    model: Denoiser,
    schedule: NoiseSchedule,
    prediction_type: PredictionType | None = None,
) -> Denoiser:
    """Turn a model of any prediction type into a denoiser.

    Args:
        model: Callable pytree ``(x, t) -> prediction``.
        schedule: The schedule that the model was trained with.
        prediction_type: ``"epsilon"``, ``"v_prediction"``, ``"sample"`` (data),
            ``"flow"`` (velocity, noise minus data) or ``"rectified_flow"`` (the
            opposite sign), ``"edm"`` (EDM's network F) or ``"edm_negative"`` (the
            opposite sign); by default the schedule's own.

    Returns:
        A callable pytree ``(x, t) -> f``.

    Raises:
        ValueError: For a prediction type that the schedule's family does not have.
    """
    kind = prediction_type or schedule.prediction_type
    if kind == "sample":
        return from_x0(model, schedule)
    if kind == "v_prediction":
        return from_v(model, schedule)
    fits = {
        "epsilon": schedule.family != "flow" and schedule.sigma_data is None,
        "flow": schedule.family == "flow",
        "rectified_flow": schedule.family == "flow",
    }
    if not fits.get(kind, schedule.sigma_data is not None):
        raise ValueError(
            f"prediction type {kind!r} does not fit a {schedule.family!r} schedule"
        )
    if kind == "rectified_flow":
        return _from_prediction(model, schedule, _negated)
    if schedule.sigma_data is not None:
        sign = 1 if kind == "edm" else -1
        return _Preconditioned(model, jnp.asarray(sign * schedule.sigma_data, float))
    return model


def _from_prediction(
    model: Denoiser, schedule: NoiseSchedule, convert: Callable[..., Array]
) -> _FromPrediction:
    log_levels = schedule.in_log_levels
    levels: Any = np.log(schedule.taus) if log_levels else schedule.taus
    times: Any = schedule.model_times
    return _FromPrediction(model, times, levels, convert, log_levels)


def _x0_to_f(x: Array, tau: Array, x0: Array) -> Array:
    return (x - x0) / tau


def _vp_x0_to_f(x: Array, tau: Array, x0: Array) -> Array:
    return (x * jnp.sqrt(1 + tau**2) - x0) / tau


def _negated(x: Array, tau: Array, v: Array) -> Array:
    return -v


def _v_to_f(x: Array, tau: Array, v: Array) -> Array:
    return (v + tau * x) / jnp.sqrt(1 + tau**2)
