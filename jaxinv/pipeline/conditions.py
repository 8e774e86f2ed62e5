"""The condition of a sample, and the model with its condition as an argument.

A denoiser has its prompt filled in. In a batch, every sample has its own prompt,
negative prompt and guidance scale, which are arrays with a batch axis, and all samples
share a model ``(z, t, condition) -> f``.

Guidance scales have the meaning of diffusers' pipelines: a scale of at most 1 disables
guidance and gives the conditional model. Models that were distilled with guidance
(SD-Turbo, LCM) use 0. The formula itself, :func:`jaxinv.guided`, gives the
unconditional model at 0.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxinv.diffusion.denoiser import conditioned, guided


class Condition(NamedTuple):
    """The prompts and guidance of one sample, or of a batch along a leading axis.

    Attributes:
        prompt: What the network takes as its condition, from ``encode_prompt``: text
            vectors (l, d), or a pytree.
        negative_prompt: The same for the negative prompt.
        guidance_scale: Weight of classifier-free guidance, shape (); none up to 1.
    """

    prompt: PyTree
    negative_prompt: PyTree
    guidance_scale: Float[Array, ""]


def with_negative(condition: Condition) -> Condition:
    """Return a condition that has a negative prompt: without guidance, its prompt."""
    if condition.negative_prompt is not None:
        return condition
    return Condition(condition.prompt, condition.prompt, jnp.ones((), float))


@jax.jit
def as_in_diffusers(condition: Condition) -> Condition:
    """Return a condition whose formula gives the result of diffusers' pipelines.

    If the scale is at most 1, the result has the scale 1 and the prompt in place of the
    negative prompt: both branches are then the conditional model, to the last bit.

    Args:
        condition: The condition of one sample, or with leading axes.

    Returns:
        A condition for :func:`jaxinv.guided`. A scale that is NaN stays NaN.

    Raises:
        ValueError: If the two prompts differ in structure or shapes.
    """
    prompt, negative_prompt, scale = condition
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (prompt, negative_prompt)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "the prompt and the negative prompt must have vectors of one shape, got "
            f"{shapes[0]} and {shapes[1]}"
        )
    scale = jnp.asarray(scale)
    on = scale > 1

    def chosen(negative: Array, positive: Array) -> Array:
        axes = range(on.ndim, jnp.ndim(positive))
        return jnp.where(jnp.expand_dims(on, tuple(axes)), negative, positive)

    return Condition(
        prompt,
        jax.tree.map(chosen, negative_prompt, prompt),
        jnp.maximum(scale, 1),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PromptedModel:
    """A network as ``(z, t, condition) -> prediction``.

    Attributes:
        model: The network, ``(z, t, prompt) -> prediction``.
        guided: Whether both branches of guidance are evaluated (static). If not, the
            negative prompt and the scale have no effect.
    """

    model: Any
    guided: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, z: Array, t: Array, condition: Condition) -> Array:
        """Evaluate the network for one sample."""
        if self.guided:
            return guided(self.model, *as_in_diffusers(condition))(z, t)
        return conditioned(self.model, condition.prompt)(z, t)
