"""InstaFlow: Stable Diffusion's parts, trained as a rectified flow.

Its folders name a diffusion scheduler, which its pipeline does not use: N Euler steps
go through the flow times 1, 1 - 1/N, ..., 1/N, and the network gives data minus noise.
InstaFlow itself takes one step, 2-Rectified Flow a few.

References:
    Liu et al. 2024, "InstaFlow: One Step is Enough for High-Quality Diffusion-Based
    Text-to-Image Generation", arXiv:2309.06380, Eq. 3 and Section 4; the published
    ``pipeline_rf.py``.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxinv.diffusion.schedule import NoiseSchedule, flow_matching
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion

#: Names under which the models are published and copied:
#: ``XCLiu/instaflow_0_9B_from_sd_1_5``, ``XCLiu/2_rectified_flow_from_sd_1_5``.
_NAME = re.compile(r"instaflow|rectified[-_ ]?flow", re.IGNORECASE)


class InstaFlow(StableDiffusion):
    """A rectified flow with Stable Diffusion's parts."""

    name = "InstaFlow"
    pipelines = ("RectifiedFlowPipeline", "InstaFlowPipeline")
    scheduler: ClassVar = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
    }

    def schedule(self, scheduler: Mapping[str, Any]) -> NoiseSchedule:
        """Return a rectified flow, whatever the scheduler."""
        return flow_matching(prediction_type="rectified_flow")


def is_instaflow(name: str) -> bool:
    """Return whether a model's folder or hub name says that it is InstaFlow."""
    return bool(_NAME.search(name.rstrip("/").rpartition("/")[2]))
