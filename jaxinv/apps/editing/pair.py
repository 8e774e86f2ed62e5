"""Source and target sampled together, so that the target can see into the source.

A state of the pair holds two samples, (2, ...): number 0 follows the source prompt,
number 1 the target prompt. Both run through the network in one call, ``jax.vmap`` over
an axis with the name :data:`BRANCH`. A hook of the network
(:mod:`jaxinv.models.layers.hook`) is called for both at once, and gets what the source
computes by ``jax.lax.all_gather`` over that axis. With classifier-free guidance, there
is a second axis inside of it, for the negative prompt and the prompt.

A *sharing* makes the hook: a callable pytree ``moment -> Hook``, such as
``jax.tree_util.Partial(function, *arrays)``, where :class:`Moment` says which step the
pair is at. Its arrays are arguments of the compiled program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinv.diffusion.denoiser import GUIDANCE, Conditioned, Guided
from jaxinv.models import Hook, with_hook
from jaxinv.pipeline import Pipeline
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.prompts import Prompt
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import sample
from jaxinv.sampling.state import SamplerState

#: Name of the axis of source and target.
BRANCH = "branch"


class Moment(NamedTuple):
    """What a hook is told of the call of the network that it is in.

    Attributes:
        step: Number of the sampler's step, from 0 at the noise end: the number of
            levels of its grid that are noisier than this one, up to N - 1 for a grid of
            N steps. Stages belong to the step of their noise level.
        guided: Whether there is an axis for the negative prompt and the prompt.
    """

    step: Int[Array, ""]
    guided: bool

    def during(self, first: Any, end: Any) -> Bool[Array, ""]:
        """Return whether the step is one of ``first``, ..., ``end - 1``."""
        return (self.step >= first) & (self.step < end)

    @property
    def is_target(self) -> Bool[Array, ""]:
        """Whether a layer computes the target's branch; to be called in a hook."""
        return jax.lax.axis_index(BRANCH) == 1

    @property
    def is_prompted(self) -> Bool[Array, ""]:
        """Whether a layer sees the prompt rather than the negative prompt."""
        if not self.guided:
            return jnp.asarray(True)
        return jax.lax.axis_index(GUIDANCE) == 1

    def source(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return what the source's branch has in place of x; to be called in a hook."""
        return jax.lax.all_gather(x, BRANCH)[0]

    def shared(
        self, x: Float[Array, "*shape"], when: Bool[Array, ""] | bool = True
    ) -> Float[Array, "*shape"]:
        """Return x with the source's values in the target's branch, while ``when``."""
        return jnp.where(self.is_target & when, self.source(x), x)


#: A callable pytree that makes the hook of a moment.
Sharing = Callable[[Moment], Hook]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PairModel:
    """A network with the prompts of source and target, ``(x, t) -> predictions``.

    Attributes:
        network: The network of one sample.
        condition: Both conditions along a leading axis.
        levels: Times of the sampler's levels 1 .. N.
        sharing: Function that makes the hook; None for two independent samples.
        guided: Whether the negative prompts have an effect (static).
    """

    network: Any
    condition: Condition
    levels: Float[Array, " n"]
    sharing: Sharing | None
    guided: bool = dataclasses.field(metadata={"static": True})

    def __call__(
        self, x: Float[Array, "2 *shape"], t: Float[Array, ""]
    ) -> Float[Array, "2 *shape"]:
        """Evaluate the network for both samples."""
        network = self.network
        if self.sharing is not None:
            moment = Moment(step_at(self.levels, t), self.guided)
            network = with_hook(network, self.sharing(moment))

        def branch(z: Array, condition: Condition) -> Array:
            if self.guided:
                return Guided(network, *condition)(z, t)
            return Conditioned(network, condition.prompt)(z, t)

        return jax.vmap(branch, axis_name=BRANCH)(x, self.condition)


def step_at(levels: Float[Array, " n"], t: Float[Array, ""]) -> Int[Array, ""]:
    """Return the number of the step that a time belongs to, from the noise end.

    Args:
        levels: Times of the levels 1 .. N of a grid.
        t: The time.
    """
    levels = jnp.asarray(levels).astype(t.dtype)
    noisier = jnp.where(levels[-1] >= levels[0], levels > t, levels < t)
    return jnp.minimum(jnp.sum(noisier), len(levels) - 1)


def steps_of(share: float, sampler: SamplerTable) -> int:
    """Return the number of steps that is nearest to a share of a sampler's steps."""
    return round(share * sampler.num_steps)


def pair_denoiser(
    pipe: Pipeline,
    sampler: SamplerTable,
    source: Prompt,
    target: Prompt,
    sharing: Sharing | None = None,
    *,
    negative_prompt: Prompt = "",
    guidance_scale: float | Float[Array, ""] = 1.0,
) -> Any:
    """Return the denoiser of a pair of samples.

    Args:
        pipe: The model.
        sampler: The sampler, whose levels number the steps.
        source: Prompt of sample 0; see :meth:`jaxinv.Pipeline.denoiser`.
        target: Prompt of sample 1.
        sharing: What the target takes from the source; None for nothing.
        negative_prompt: Negative prompt of both.
        guidance_scale: Guidance scale of both.

    Returns:
        A callable pytree ``(x, t) -> f`` on states (2, ...).

    Raises:
        ValueError: If :meth:`jaxinv.Pipeline.denoiser` raises it.
    """
    both = [
        pipe.condition(prompt, negative_prompt, guidance_scale)
        for prompt in (source, target)
    ]
    ends = np.asarray(sampler.ends or range(sampler.num_rows + 1))[1:]
    model = PairModel(
        pipe.network,
        jax.tree.map(lambda *x: jnp.stack(x), *both),
        jnp.asarray(np.asarray(sampler.model_time)[ends], float),
        sharing,
        reads_negative(pipe, guidance_scale),
    )
    return pipe.family.denoiser(pipe, model)


def reads_negative(pipe: Pipeline, *scales: float | Float[Array, ""]) -> bool:
    """Return whether one of some guidance scales makes the negative prompt count.

    Args:
        pipe: The model.
        *scales: The scales; one whose value is not known yet may be above 1.
    """
    known = (
        np.inf if isinstance(scale, jax.core.Tracer) else float(scale)
        for scale in scales
    )
    return pipe.family.reads_negative(pipe, max(known))


def sample_pair(
    sampler: SamplerTable,
    denoise: Any,
    start: Float[Array, "*shape"] | SamplerState,
) -> Float[Array, "2 *shape"]:
    """Sample source and target from the same start.

    Args:
        sampler: The sampler.
        denoise: The denoiser of the pair, from :func:`pair_denoiser`.
        start: The noise or the state of one sample; see :func:`jaxinv.sample`.

    Returns:
        The source's sample and the target's.
    """
    if sampler.shift is not None:
        noises = jnp.stack([sampler.shift] * 2, axis=1)
        sampler = dataclasses.replace(sampler, shift=noises)
    if isinstance(start, SamplerState):
        values = jnp.stack([start.values] * 2, axis=1)
        return sample(sampler, denoise, dataclasses.replace(start, values=values))
    return sample(sampler, denoise, jnp.stack([start] * 2))
