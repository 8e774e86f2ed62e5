r"""Denoisers: from a network's prediction to the f of ``dy/dtau = f``.

A *denoiser* is any callable pytree ``(x, t) -> f`` on one sample: x is the state, t the
model's time (a scalar), and f the noise prediction (VP and VE) or the velocity (flow
matching). Plain functions are denoisers, and so are Flax NNX modules, Equinox modules
and ``jax.tree_util.Partial(fn, params)``, whose arrays become arguments of the compiled
program rather than constants.

Networks predict different things (:mod:`jaxinv.diffusion.prediction`). With ``y = x /
scale`` and the data prediction D,

    f = (y - D) / tau                                  (all families)
    f = alpha v + sigma x                              (v-prediction, VP)
    f = c (sigma c x - sigma_data F(c x))              (EDM, with c = c_in)

:func:`as_denoiser` returns a denoiser that still holds the network (:class:`Predicts`).
A sampler on a grid of the same prediction type evaluates the network itself, so that no
digit is lost in f.

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
from jaxinv.diffusion.prediction import (
    Family,
    Output,
    PredictionType,
    f_weights,
)
from jaxinv.diffusion.schedule import NoiseSchedule

# Finite, for an infinite level of the schedule.
_PURE_NOISE = 1e12

#: Name of the axis of the negative prompt (0) and the prompt (1), for collectives.
GUIDANCE = "guidance"

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
        out = jax.vmap(lambda c: self.model(x, t, c), axis_name=GUIDANCE)(branches)
        scale = jnp.asarray(self.guidance_scale, out.dtype)
        return out[0] + scale * (out[1] - out[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Predicts:
    """A network with what it predicts: a denoiser ``(x, t, ...) -> f``.

    Samplers of the same prediction type weigh the network's own output
    (:func:`network_of`) and do not call this object. Called by other code, it converts
    at the noise level of the time.

    Attributes:
        model: The network, of a state x, a time, and possibly a condition.
        levels: The noise levels of its times.
        output: What it predicts (static).
    """

    model: Callable[..., Array]
    levels: "TrainingLevels"
    output: Output = dataclasses.field(metadata={"static": True})

    def __call__(
        self, x: Float[Array, "..."], t: Float[Array, ""], *condition: Any
    ) -> Array:
        """Evaluate f."""
        return self.levels.f(self.output, x, t, self.network()(x, t, *condition))

    def network(self) -> Callable[..., Array]:
        """Return the function from a state x and a time to the network's output."""
        if self.output.sigma_data is None:
            return self.model
        return _Preconditioned(self.model, self.output.sigma_data)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrainingLevels:
    """The noise levels of times, the inverse of ``NoiseSchedule.model_time``.

    Between training times, log tau is linear for VP, and tau is linear for the other
    families.

    Attributes:
        times: Training times, shape (T,).
        levels: Their tau, or its logarithm, shape (T,).
        family: The family of the schedule (static).
        logarithms: Whether the levels are logarithms (static).
    """

    times: Float[Array, "t"]
    levels: Float[Array, "t"]
    family: Family = dataclasses.field(metadata={"static": True})
    logarithms: bool = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, schedule: NoiseSchedule) -> "TrainingLevels":
        """Return the levels of a schedule."""
        # An infinite level, of which float32 knows no more than that it is pure noise.
        levels: Any = np.minimum(schedule.taus, _PURE_NOISE)
        times: Any = schedule.model_times
        logs = schedule.in_log_levels
        return cls(times, np.log(levels) if logs else levels, schedule.family, logs)

    def at(
        self, t: Float[Array, ""], dtype: Any, output: Output | None
    ) -> tuple[Array, Array, Array]:
        """Return ``u / x`` at a time, and the weights of data and noise in u."""
        times, levels = (jnp.asarray(v, dtype) for v in (self.times, self.levels))
        level = jnp.interp(jnp.asarray(t, dtype), times, levels)
        tau = jnp.exp(level) if self.logarithms else level
        if self.family == "flow":
            return jnp.ones_like(tau), 1 - tau, tau
        d = (output and output.sigma_data) or 1.0
        signal = 1 / jnp.sqrt(d**2 + tau**2)
        unit = jnp.ones_like(tau) if self.family == "vp" else signal
        return unit, signal, tau * signal

    def f(
        self,
        output: Output | None,
        x: Float[Array, "*shape"],
        t: Float[Array, ""],
        value: Float[Array, "*shape"],
    ) -> Float[Array, "*shape"]:
        """Return f at a state x and a time from the value of the network's output."""
        unit, *level = self.at(t, x.dtype, output)
        of_u, of_output = map(jnp.asarray, f_weights(output, self.family, *level))
        return of_u * unit * x + of_output * value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Preconditioned:
    """EDM's network F of a state that is not scaled; its time is log(sigma) / 4."""

    model: Callable[..., Array]
    sigma_data: float = dataclasses.field(metadata={"static": True})

    def __call__(
        self, x: Float[Array, "..."], t: Float[Array, ""], *condition: Any
    ) -> Array:
        sigma = jnp.exp(4 * jnp.asarray(t, x.dtype))
        return self.model(x / jnp.sqrt(sigma**2 + self.sigma_data**2), t, *condition)


def network_of(denoise: Any) -> tuple[Callable[..., Array], Output | None]:
    """Return the network inside a denoiser, and what it predicts if that is not f.

    Args:
        denoise: A denoiser, or a model of a state, a time and a condition.
    """
    network = getattr(denoise, "network", None)
    if network is not None and isinstance(getattr(denoise, "output", None), Output):
        return network(), denoise.output
    if isinstance(denoise, Conditioned | Guided):
        model, output = network_of(denoise.model)
        if output is not None and output.is_limited and isinstance(denoise, Guided):
            # Guidance leaves the range again: what remains is f.
            return denoise, None
        return dataclasses.replace(denoise, model=model), output
    output = getattr(denoise, "output", None)
    return denoise, output if isinstance(output, Output) else None


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
            formula holds for every s, whereas :meth:`jaxinv.Pipeline.denoiser`
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
def from_x0(model: Denoiser | ConditionalModel, schedule: NoiseSchedule) -> Denoiser:
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
    return _predicts(model, schedule, "sample")


@checked
def from_v(model: Denoiser | ConditionalModel, schedule: NoiseSchedule) -> Denoiser:
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
    return _predicts(model, schedule, "v_prediction")


@checked
def as_denoiser(
    model: Denoiser | ConditionalModel,
    schedule: NoiseSchedule,
    prediction_type: PredictionType | None = None,
) -> Denoiser:
    """Turn a model of any prediction type into a denoiser.

    Args:
        model: Callable pytree ``(x, t) -> prediction``, or ``(x, t, condition) ->
            prediction``.
        schedule: The schedule that the model was trained with.
        prediction_type: ``"epsilon"``, ``"v_prediction"``, ``"sample"`` (data),
            ``"flow"`` (velocity, noise minus data) or ``"rectified_flow"`` (the
            opposite sign), ``"edm"`` (EDM's network F) or ``"edm_negative"`` (the
            opposite sign); by default the schedule's own.

    Returns:
        A callable pytree ``(x, t) -> f`` (or with a condition) that holds the model:
        samplers of its prediction type evaluate the model itself.

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
    return _predicts(model, schedule, kind)


def _predicts(
    model: Callable[..., Array], schedule: NoiseSchedule, kind: PredictionType
) -> Denoiser:
    output = Output.of(kind, schedule.sigma_data)
    if output is None:
        return model
    if network_of(model)[1] is not None:
        raise ValueError(
            f"the model is a denoiser already, of {network_of(model)[1]}: pass the "
            "network itself"
        )
    return Predicts(model, TrainingLevels.of(schedule), output)
