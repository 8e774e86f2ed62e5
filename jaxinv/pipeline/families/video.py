"""Text-to-video models whose networks extend Stable Diffusion: AnimateDiff and LaVie.

The diffusion runs on the latents of all frames, (f, h, w, c), of which the autoencoder
sees one at a time. One prompt is for the whole video.

References:
    Guo et al., "AnimateDiff: Animate Your Personalized Text-to-Image Diffusion Models
    without Specific Tuning", 2023. https://arxiv.org/abs/2307.04725
    Wang et al., "LaVie: High-Quality Video Generation with Cascaded Latent Diffusion
    Models", 2023. https://arxiv.org/abs/2309.15103
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from jaxinv.files.json_fields import naming
from jaxinv.models.registry import Component
from jaxinv.models.unet.motion import UNetMotionModel
from jaxinv.models.unet.motion_config import UNetMotionConfig
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion

#: Frames of a video unless another number is asked for: those of training.
FRAMES = 16


class Video(StableDiffusion):
    """What the families of videos share."""

    def frames(self, network: Component) -> int:
        """Return the number of frames of training, or as many as there can be."""
        longest = _longest(network)
        return FRAMES if longest is None else min(FRAMES, longest)

    def check_frames(self, network: Component, frames: int) -> None:
        """Raise ValueError unless the network takes videos of so many frames."""
        longest = _longest(network)
        if longest is not None and frames > longest:
            raise ValueError(
                f"videos of this {self.name} have at most {longest} frames "
                f"(motion_max_seq_length), got {frames}"
            )


class AnimateDiff(Video):
    """Stable Diffusion's UNet and a motion adapter, which are joined."""

    name = "AnimateDiff"
    parts: ClassVar = {**StableDiffusion.parts, "motion_adapter": ("MotionAdapter",)}

    def check(self, where: Path, configs: Mapping[str, Any]) -> tuple[int, int]:
        """Check that the adapter fits the UNet, and the rest as of an image model."""
        size = super().check(where, configs)
        with naming(where):
            UNetMotionConfig.join(configs["unet"], configs["motion_adapter"])
        return size

    def network(self, parts: Mapping[str, Component]) -> Component:
        """Return the UNet joined with the adapter."""
        unet, adapter = parts["unet"], parts["motion_adapter"]
        return UNetMotionModel.from_unet2d(unet, adapter)  # type: ignore[arg-type]


class JoinedAnimateDiff(Video):
    """AnimateDiff as diffusers saves it: the UNet is joined already."""

    name = "AnimateDiff, joined"
    parts: ClassVar = {**StableDiffusion.parts, "unet": ("UNetMotionModel",)}
    unused = ("motion_adapter",)


class LaVie(Video):
    """LaVie's base model."""

    name = "LaVie"
    pipelines = ("VideoGenPipeline",)
    parts: ClassVar = {**StableDiffusion.parts, "unet": ("UNet3DConditionModel",)}


def _longest(network: Any) -> int | None:
    """Return the largest number of frames; None for no limit."""
    return getattr(network.config, "motion_max_seq_length", None)
