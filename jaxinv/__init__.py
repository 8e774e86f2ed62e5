"""jaxinv: exact inversion of diffusion models in JAX.

It recovers the noise from which a model's sampler generates an image, with a
certificate: numbers that state how exact the result is. See the README for a first
example.

The numerical core needs neither models nor Flax: ``load`` and ``LatentDiffusion`` are
imported on first use.
"""

from typing import TYPE_CHECKING, Any

from jaxinv import analysis
from jaxinv import decoder_inversion as decoder
from jaxinv import solvers as _solvers
from jaxinv.analysis.plausibility import NoisePlausibility, noise_plausibility
from jaxinv.analysis.preimages import Preimages, preimages
from jaxinv.apps.interpolation import interpolate
from jaxinv.decoder_inversion import DecoderInversion, invert_decoder
from jaxinv.diffusion.denoiser import (
    as_denoiser,
    conditioned,
    from_v,
    from_x0,
    guided,
)
from jaxinv.diffusion.diffusers_schedule import schedule_from_diffusers
from jaxinv.diffusion.grid import LossyGridWarning, TimeGrid, time_grid
from jaxinv.diffusion.limits import clipped, thresholded
from jaxinv.diffusion.schedule import (
    NoiseSchedule,
    cosine,
    edm,
    flow_matching,
    linear,
    scaled_linear,
    variance_exploding,
)
from jaxinv.inversion import (
    AIDI,
    Algorithm1,
    Algorithm2,
    Backward,
    Explicit,
    InversionResult,
    Naive,
    NewtonTrajectory,
    ReNoise,
    Trajectory,
    UniInv,
    certify,
    invert,
)
from jaxinv.inversion.ddpm_inversion import DDPMInversion, ddpm_inversion
from jaxinv.mesh import make_mesh
from jaxinv.metrics import nmse_db, psnr
from jaxinv.samplers import registry as _samplers
from jaxinv.samplers.diffusers_grid import grid_from_diffusers
from jaxinv.samplers.registry import *  # noqa: F403
from jaxinv.sampling.sample import sample, sample_trajectory
from jaxinv.sampling.state import SamplerState
from jaxinv.scale.batch import invert_batch, sample_batch
from jaxinv.scale.memory import largest_batch, predict_memory
from jaxinv.scale.stream import invert_stream
from jaxinv.solvers import *  # noqa: F403

if TYPE_CHECKING:
    from jaxinv.loading.load import load
    from jaxinv.loading.lora import merge_lora
    from jaxinv.loading.prompts import save_prompts
    from jaxinv.loading.textual_inversion import add_textual_inversion
    from jaxinv.pipeline import LatentDiffusion, Pipeline

__all__ = [
    "AIDI",
    "Algorithm1",
    "Algorithm2",
    "Backward",
    "DDPMInversion",
    "DecoderInversion",
    "Explicit",
    "InversionResult",
    "LatentDiffusion",
    "LossyGridWarning",
    "Naive",
    "NewtonTrajectory",
    "NoisePlausibility",
    "NoiseSchedule",
    "Pipeline",
    "Preimages",
    "ReNoise",
    "SamplerState",
    "TimeGrid",
    "Trajectory",
    "UniInv",
    "add_textual_inversion",
    "analysis",
    "as_denoiser",
    "certify",
    "clipped",
    "conditioned",
    "cosine",
    "ddpm_inversion",
    "decoder",
    "edm",
    "flow_matching",
    "from_v",
    "from_x0",
    "grid_from_diffusers",
    "guided",
    "interpolate",
    "invert",
    "invert_batch",
    "invert_decoder",
    "invert_stream",
    "largest_batch",
    "linear",
    "load",
    "make_mesh",
    "merge_lora",
    "nmse_db",
    "noise_plausibility",
    "predict_memory",
    "preimages",
    "psnr",
    "sample",
    "sample_batch",
    "sample_trajectory",
    "save_prompts",
    "scaled_linear",
    "schedule_from_diffusers",
    "thresholded",
    "time_grid",
    "variance_exploding",
]
# A sampler or a solver is named where it is declared.
__all__ += _samplers.__all__
__all__ += _solvers.__all__


def __getattr__(name: str) -> Any:
    """Import what needs Flax on first use."""
    if name == "load":
        from jaxinv.loading.load import load

        return load
    if name == "merge_lora":
        from jaxinv.loading.lora import merge_lora

        return merge_lora
    if name == "save_prompts":
        from jaxinv.loading.prompts import save_prompts

        return save_prompts
    if name == "add_textual_inversion":
        from jaxinv.loading.textual_inversion import add_textual_inversion

        return add_textual_inversion
    if name in ("LatentDiffusion", "Pipeline"):
        from jaxinv.pipeline import Pipeline

        return Pipeline
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("jaxinv")
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            return "0+unknown"
    raise AttributeError(f"module 'jaxinv' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, including those that are imported on first use."""
    return [*__all__, "__version__"]
