"""Prompt swap: sample the noise of the source with the target prompt."""

from jaxtyping import Array, Float

from jaxinv.apps.editing.method import Task, method
from jaxinv.sampling.sample import sample


@method("Wang et al. 2024, arXiv:2410.07273, Section 5")
def prompt_swap(task: Task) -> Float[Array, "*shape"]:
    """Sample the source's noise with the target prompt, and share nothing else."""
    denoise = task.pipe.denoiser(task.target, task.negative_prompt, task.guidance_scale)
    return sample(task.sampler, denoise, task.inversion.state)
