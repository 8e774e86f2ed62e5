"""jaxinv: exact inversion of diffusion models in JAX.

From an image back to the noise that the model's own sampler turns into it, with a
certificate of how exact the answer is. See the README for a first example.
"""

from jaxinv.denoiser import as_denoiser, conditioned, from_v, from_x0, guided
from jaxinv.inversion import InversionResult, certify, invert
from jaxinv.metrics import nmse_db, psnr
from jaxinv.samplers.multistep import ddim, ddim_diffusers, euler
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import sample, sample_trajectory
from jaxinv.schedule import (
    NoiseSchedule,
    TimeGrid,
    cosine,
    flow_matching,
    linear,
    scaled_linear,
    schedule_from_diffusers,
    time_grid,
    variance_exploding,
)
from jaxinv.solvers import Anderson, FixedPoint, ForwardStep, Gradient

__all__ = [
    "Anderson",
    "FixedPoint",
    "ForwardStep",
    "Gradient",
    "InversionResult",
    "LinearMultistep",
    "NoiseSchedule",
    "TimeGrid",
    "as_denoiser",
    "certify",
    "conditioned",
    "cosine",
    "ddim",
    "ddim_diffusers",
    "euler",
    "flow_matching",
    "from_v",
    "from_x0",
    "guided",
    "invert",
    "linear",
    "nmse_db",
    "psnr",
    "sample",
    "sample_trajectory",
    "scaled_linear",
    "schedule_from_diffusers",
    "time_grid",
    "variance_exploding",
]
