r"""Noise schedules: the coordinates in which every sampler is linear.

A diffusion model describes a path from data to noise, ``x_t = alpha_t x0 + sigma_t e``.
If the state is divided by a known ``scale`` and time is measured by a noise level
``tau``, its probability-flow ODE becomes trivial,

    y = x / scale(t),    dy / dtau = f(x, t),

with three functions for every family of models:

======  ==========================  ==================  ===============
family  scale                       tau                 f
======  ==========================  ==================  ===============
vp      alpha_t                     sigma_t / alpha_t   noise prediction
flow    1                           t                   velocity
ve      1                           sigma_t             noise prediction
======  ==========================  ==================  ===============

The data prediction of all three families is ``y - tau f``. A :class:`NoiseSchedule` is
the map between the model's own time, the input of the network, and ``tau``;
:mod:`jaxinv.diffusion.grid` chooses the noise levels that a sampler visits. Both
compute on the host in float64; nothing here is traced.

References:
    Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv:2010.02502, Eq. 14.
    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
    Models", arXiv:2206.00364, Eq. 4.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float

from jaxinv.checks import Positive, Range, checked, figures
from jaxinv.diffusion.prediction import Family, Output, PredictionType

TimestepSpacing = Literal["leading", "trailing", "linspace"]
Spacing = Literal["log_snr", "exponential", "karras", "leading", "trailing", "linspace"]
EDMPredictionType = Literal["edm", "edm_negative"]
FlowPredictionType = Literal["flow", "rectified_flow", "sample"]

# Predictions that determine the data from pure noise.
ZERO_SNR_PREDICTIONS = ("v_prediction", "sample")

# Limit on the levels of a schedule: arrays of this size are allocated.
Timesteps = Annotated[int, Range(1, 10**6)]


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The map between a model's time and the noise level ``tau``.

    Attributes:
        family: ``"vp"``, ``"flow"`` or ``"ve"``; defines ``scale`` and f.
        model_times: Times seen in training, shape (T,), float64, increasing.
        taus: Their noise levels, shape (T,), float64, increasing, positive. The last
            may be infinite (zero terminal SNR) for VP networks that predict v or data.
        prediction_type: The output of a network trained with this schedule.
        timestep_spacing: The spacing in the model's own configuration.
        steps_offset: Added to the timesteps of the ``"leading"`` spacing.
        set_alpha_to_one: Whether timestep spacings end at ``tau = 0`` rather than at
            the smallest training noise level.
        shift: Resolution shift of a flow-matching schedule (1 for none).
        sigma_data: Standard deviation of the data in EDM's preconditioning
            (:func:`edm`), which :func:`jaxinv.as_denoiser` applies; None without it.
    """

    made_by: ClassVar[str] = "jaxinv.scaled_linear and the other schedules"

    family: Family
    model_times: Float[np.ndarray, "t"]
    taus: Float[np.ndarray, "t"]
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    shift: float = 1.0
    sigma_data: Positive | None = None

    def __repr__(self) -> str:
        """Return its family, noise levels and what its networks predict."""
        return (
            f"NoiseSchedule: {self.family}, {len(self.taus)} levels, "
            f"tau {figures(self.taus, '.3g')}, predicts {self.prediction_type}"
        )

    def __post_init__(self) -> None:
        taus = self.taus
        if not (np.all(np.isfinite(taus[:-1])) and np.all(taus > 0)):
            raise ValueError(
                "every training noise level tau = sigma / alpha must be positive, and "
                "finite but for the last (zero terminal SNR)"
            )
        known = self.family == "vp" and self.prediction_type in ZERO_SNR_PREDICTIONS
        if not (np.isfinite(taus[-1]) or known):
            raise ValueError(
                "zero terminal SNR (alpha = 0, an infinite tau) needs a VP network "
                f"that predicts {' or '.join(ZERO_SNR_PREDICTIONS)}, got "
                f"{self.family!r} and {self.prediction_type!r}: from pure noise, a "
                "prediction of the noise says nothing of the data"
            )
        if np.any(np.diff(taus) <= 0) or np.any(np.diff(self.model_times) <= 0):
            raise ValueError("noise levels and model times must strictly increase")
        if (self.sigma_data is not None) != (
            self.prediction_type in get_args(EDMPredictionType)
        ):
            raise ValueError(
                "sigma_data and the prediction types "
                f"{', '.join(get_args(EDMPredictionType))} belong together, got "
                f"{self.sigma_data!r} and {self.prediction_type!r}"
            )

    @property
    def num_train_timesteps(self) -> int:
        """Number of noise levels seen in training, T."""
        return len(self.taus)

    @property
    def output(self) -> Output | None:
        """What the networks predict, if it is not f."""
        return Output.of(self.prediction_type, self.sigma_data)

    @property
    def zero_snr(self) -> bool:
        """Whether the last training level is pure noise, with an infinite tau."""
        return bool(np.isinf(self.taus[-1]))

    def scale(self, tau: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the ratio of the state x to the coordinate ``y = x / scale``."""
        tau = np.asarray(tau, np.float64)
        return 1 / np.hypot(1, tau) if self.family == "vp" else np.ones_like(tau)

    @property
    def in_log_levels(self) -> bool:
        """Whether times between training times belong to levels linear in ``log tau``.

        Otherwise they are linear in tau.
        """
        return self.family == "vp" or self.sigma_data is not None

    def model_time(self, tau: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Return the model time of a noise level, interpolated in log-SNR.

        Args:
            tau: Noise levels, clamped to the training range.

        Returns:
            Fractional times in the unit of the network's training.
        """
        tau = np.clip(np.asarray(tau, np.float64), self.taus[0], self.taus[-1])
        if self.in_log_levels:
            # The last interval of zero terminal SNR is infinite: its levels but for the
            # last belong to its lower end.
            finite = len(self.taus) - self.zero_snr
            log_taus = np.log(self.taus[:finite])
            times = np.interp(np.log(tau), log_taus, self.model_times[:finite])
            return np.where(np.isinf(tau), self.model_times[-1], times)
        return tau * (self.model_times[-1] / self.taus[-1])

    @property
    def init_noise_scale(self) -> float:
        """Standard deviation of the state from which sampling starts."""
        return float(self.taus[-1]) if self.family == "ve" else 1.0


def _vp(betas: Float[np.ndarray, "t"], **options: Any) -> NoiseSchedule:
    """Return the variance-preserving schedule with alpha^2 = cumprod(1 - beta)."""
    return vp_schedule(np.cumprod(1 - betas), **options)


def vp_schedule(
    alphas_cumprod: Float[np.ndarray, "t"], **options: Any
) -> NoiseSchedule:
    """Return the variance-preserving schedule of ``alpha^2`` at the times 0 .. T - 1.

    Args:
        alphas_cumprod: ``alpha_t^2``, shape (T,), decreasing.
        **options: Further fields of :class:`NoiseSchedule`.

    Raises:
        ValueError: If the noise levels do not increase from above 0.
    """
    alpha_squared = np.asarray(alphas_cumprod, np.float64)
    with np.errstate(divide="ignore"):
        taus = np.sqrt((1 - alpha_squared) / alpha_squared)
    times = np.arange(len(taus), dtype=np.float64)
    return NoiseSchedule("vp", times, taus, **options)


@checked
def linear(
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    num_train_timesteps: Timesteps = 1000,
    **options: Any,
) -> NoiseSchedule:
    """Return DDPM's schedule: beta is linear in the timestep.

    Args:
        beta_start: Beta of the first timestep.
        beta_end: Beta of the last timestep.
        num_train_timesteps: T.
        **options: Further fields of :class:`NoiseSchedule`.

    Returns:
        A variance-preserving schedule with model times 0 .. T - 1.

    Raises:
        ValueError: For betas outside of (0, 1) or an unknown prediction type.

    References:
        Ho et al. 2020, arXiv:2006.11239, Section 4.
    """
    check_betas(beta_start, beta_end, num_train_timesteps)
    return _vp(np.linspace(beta_start, beta_end, num_train_timesteps), **options)


@checked
def scaled_linear(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    num_train_timesteps: Timesteps = 1000,
    **options: Any,
) -> NoiseSchedule:
    """Return Stable Diffusion's schedule: sqrt(beta) is linear in the timestep.

    Args:
        beta_start: Beta of the first timestep.
        beta_end: Beta of the last timestep.
        num_train_timesteps: T.
        **options: Further fields of :class:`NoiseSchedule`.

    Returns:
        A variance-preserving schedule with model times 0 .. T - 1.

    Raises:
        ValueError: For betas outside of (0, 1) or an unknown prediction type.

    References:
        Rombach et al. 2022, arXiv:2112.10752; values of Stable Diffusion 1 and 2.
    """
    check_betas(beta_start, beta_end, num_train_timesteps)
    roots = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps)
    return _vp(roots**2, **options)


@checked
def cosine(
    num_train_timesteps: Timesteps = 1000, *, max_beta: float = 0.999, **options: Any
) -> NoiseSchedule:
    """Return Improved DDPM's schedule: alpha^2 is a squared cosine of time.

    Args:
        num_train_timesteps: T.
        max_beta: Cap on beta near the noise end.
        **options: Further fields of :class:`NoiseSchedule`.

    Returns:
        A variance-preserving schedule with model times 0 .. T - 1.

    Raises:
        ValueError: For T below 1 or an unknown prediction type.

    References:
        Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. 17.
    """
    check_betas(0.5, 0.5, num_train_timesteps)
    return _vp(cosine_betas(num_train_timesteps, max_beta), **options)


def cosine_betas(num_train_timesteps: int, max_beta: float = 0.999) -> np.ndarray:
    """Return the betas of :func:`cosine`."""
    t = np.arange(num_train_timesteps + 1) / num_train_timesteps
    alpha_bar = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


@checked
def flow_matching(
    num_train_timesteps: Timesteps = 1000,
    *,
    shift: Positive = 1.0,
    prediction_type: FlowPredictionType = "flow",
) -> NoiseSchedule:
    """Return flow matching's schedule on straight lines: ``x_t = (1 - t) x_0 + t e``.

    Args:
        num_train_timesteps: T; the network is given ``T t``.
        shift: Resolution shift s, ``t -> s t / (1 + (s - 1) t)`` (3 for SD3).
        prediction_type: The network's output: ``"flow"`` for ``e - x_0`` (SD3, FLUX),
            ``"rectified_flow"`` for ``x_0 - e`` (InstaFlow), ``"sample"`` for ``x_0``.

    Returns:
        A flow schedule with tau = t in (0, 1].

    References:
        Liu et al. 2023, arXiv:2209.03003, Eq. 1; Liu et al. 2024, arXiv:2309.06380
        (InstaFlow: one Euler step from t = 1 to 0); Esser et al. 2024,
        arXiv:2403.03206, Eq. 23 (shift).
    """
    t = np.arange(1, num_train_timesteps + 1) / num_train_timesteps
    taus = shifted(t, shift)
    return NoiseSchedule(
        "flow",
        taus * num_train_timesteps,
        taus,
        prediction_type=prediction_type,
        timestep_spacing="linspace",
        shift=shift,
    )


@checked
def variance_exploding(
    sigma_min: float = 0.02,
    sigma_max: float = 100.0,
    num_train_timesteps: Timesteps = 1000,
    **options: Any,
) -> NoiseSchedule:
    """Return the variance-exploding schedule ``x = x_0 + sigma e``, sigma geometric.

    Args:
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
        num_train_timesteps: T.
        **options: Further fields of :class:`NoiseSchedule`.

    Returns:
        A VE schedule; the network's time is sigma itself.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max.

    References:
        Song et al. 2021, arXiv:2011.13456, Eq. 31.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )
    sigmas = np.geomspace(sigma_min, sigma_max, num_train_timesteps)
    return NoiseSchedule("ve", sigmas, sigmas, **options)


@checked
def edm(
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    num_train_timesteps: Timesteps = 1000,
    *,
    sigma_data: Positive = 0.5,
    prediction_type: EDMPredictionType = "edm",
) -> NoiseSchedule:
    """Return EDM's schedule: ``x_0 + sigma e``, with the network preconditioned.

    The network F is given ``c_in x`` and the time ``log(sigma) / 4``, and the data
    prediction is ``c_skip x + c_out F``. States x are not scaled: use networks through
    :func:`jaxinv.as_denoiser`.

    Args:
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
        num_train_timesteps: T; noise levels are continuous in training.
        sigma_data: Standard deviation of the data.
        prediction_type: ``"edm"``, or ``"edm_negative"`` if ``c_out`` has the opposite
            sign (diffusers' "v_prediction" of EDM schedulers).

    Returns:
        A VE schedule of T levels, uniform in ``log sigma``.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max.

    References:
        Karras et al. 2022, arXiv:2206.00364, Table 1 and Eq. 7.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )
    sigmas = np.geomspace(sigma_min, sigma_max, num_train_timesteps)
    return NoiseSchedule(
        "ve",
        np.log(sigmas) / 4,
        sigmas,
        prediction_type=prediction_type,
        sigma_data=float(sigma_data),
    )


def shifted(t: np.ndarray, shift: float) -> np.ndarray:
    """Apply the resolution shift to flow times: ``s t / (1 + (s - 1) t)``."""
    return shift * t / (1 + (shift - 1) * t)


def check_betas(start: float, end: float, num_train_timesteps: int) -> None:
    """Raise ValueError unless ``0 < start <= end < 1`` and T is positive."""
    if not (0 < start <= end < 1 and num_train_timesteps >= 1):
        raise ValueError(
            "expected 0 < beta_start <= beta_end < 1 and num_train_timesteps >= 1; got "
            f"{start}, {end} and {num_train_timesteps}"
        )
