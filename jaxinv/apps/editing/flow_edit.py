r"""FlowEdit: a direct path between two prompts' flows, without inversion.

The image's own noisy state at time t is ``x + t (e - x)`` for a noise e. FlowEdit moves
the edited state z by the difference of two velocities, at the noisy state of the image
and at the same displacement from z:

    d        = tau[i] (e - x)                                   e: fresh noise
    z[i-1]   = z[i] + (tau[i-1] - tau[i]) mean_e (v_target(z[i] + d) - v_source(x + d))

It starts from ``z = x`` at the level ``n_max``, counted from the data, and so leaves
out the noisiest steps, which decide the layout. The last ``n_min`` steps are ordinary
sampling of the target from ``z + d``, which changes textures more.

No noise is recovered: the result depends on the key.

References:
    Kulikov et al. 2024, "FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained
    Flow Models", arXiv:2412.08629, Algorithm 1; their code,
    https://github.com/fallenshock/FlowEdit (``FlowEdit_utils.py``, ``SD3_exp.yaml``,
    ``FLUX_exp.yaml``).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.apps.editing.method import Share
from jaxinv.apps.editing.pair import reads_negative
from jaxinv.callables import check_finite
from jaxinv.checks import AtLeastOne, checked
from jaxinv.diffusion.denoiser import ConditionalModel
from jaxinv.pipeline.conditions import Condition
from jaxinv.pipeline.pipeline import Pipeline
from jaxinv.pipeline.prompts import Prompt
from jaxinv.samplers.table import SamplerTable


class FlowEditSettings(NamedTuple):
    """The published settings for a model.

    Attributes:
        num_steps: Steps of the whole sampler.
        start: Share of the steps that edit, ``n_max / N``.
        source_guidance: Guidance scale of the source.
        target_guidance: Guidance scale of the target.
    """

    num_steps: int
    start: float
    source_guidance: float
    target_guidance: float


#: ``SD3_exp.yaml`` and ``FLUX_exp.yaml`` of the authors' repository; ``n_min`` is 0 and
#: ``n_avg`` is 1 in both.
SD3 = FlowEditSettings(50, 33 / 50, 3.5, 13.5)
FLUX = FlowEditSettings(28, 24 / 28, 1.5, 5.5)


@checked
def flow_edit(
    pipe: Pipeline,
    sampler: SamplerTable,
    latent: Float[Array, "*shape"],
    source: Prompt,
    target: Prompt,
    key: PRNGKeyArray,
    *,
    source_guidance: float = SD3.source_guidance,
    target_guidance: float = SD3.target_guidance,
    negative_prompt: Prompt = "",
    start: Share = SD3.start,
    end: Share = 0.0,
    num_average: AtLeastOne = 1,
    **options: Any,
) -> Float[Array, "*shape"]:
    """Edit a latent of a flow model from a source prompt to a target prompt.

    Args:
        pipe: A flow model.
        sampler: Euler's method on its times, such as ``pipe.sampler(50)`` or
            :func:`jaxinv.euler`.
        latent: The latent to edit.
        source: The prompt that describes it, or its encoding.
        target: The prompt that should describe the result, or its encoding.
        key: Random key of the noises.
        source_guidance: Guidance scale of the source.
        target_guidance: Guidance scale of the target.
        negative_prompt: Negative prompt of both.
        start: Share of the steps that are taken, from the data end: ``n_max / N``.
        end: Share of the steps, from the data end, that sample the target:
            ``n_min / N``.
        num_average: Number of noises whose differences are averaged in each step,
            ``n_avg``.
        **options: Options of :meth:`jaxinv.Pipeline.denoiser`.

    Returns:
        The edited latent. With equal prompts and equal guidance, and ``end=0``, it is
        the latent itself, bit for bit.

    Raises:
        ValueError: For a model that is not a flow, a sampler that is not Euler's, an
            ``end`` above ``start``, or a prompt that the model refuses.

    Example:
        ::

            edited = editing.flow_edit(
                pipe, pipe.sampler(50), latent, "a cat", "a dog", jax.random.key(0))

    References:
        Kulikov et al. 2024, arXiv:2412.08629, Algorithm 1.
    """
    latent = jnp.asarray(latent)
    check_finite(latent, "latent")
    _check_flow(pipe, sampler)
    if end > start:
        raise ValueError(f"end must be at most start={start:g}, got {end:g}")
    first, last = (round(share * sampler.num_rows) for share in (start, end))
    conditions = [
        pipe.condition(prompt, negative_prompt, scale, **options)
        for prompt, scale in ((source, source_guidance), (target, target_guidance))
    ]
    both = jax.tree.map(lambda *x: jnp.stack(x), *conditions)
    tau, times = (
        jnp.asarray(values, latent.dtype)
        for values in (sampler.tau, sampler.model_time)
    )
    guided = reads_negative(pipe, source_guidance, target_guidance)
    model = pipe.conditional_denoiser(guided=guided)
    return _edited(model, both, latent, key, tau, times, (first, last, num_average))


@jax.jit(static_argnames="counts")
def _edited(
    model: ConditionalModel,
    conditions: Condition,
    latent: Array,
    key: Array,
    tau: Array,
    times: Array,
    counts: tuple[int, int, int],
) -> Array:
    first, last, draws = counts

    def velocities(states: Array, time: Array) -> Array:
        # One after the other, so that equal inputs give equal bits.
        return jax.lax.map(
            lambda each: model(each[0], time, each[1]), (states, conditions)
        )

    def displacement(key: Array, level: Array) -> Array:
        return tau[level] * (
            jax.random.normal(key, latent.shape, latent.dtype) - latent
        )

    def move(edited: Array, level: Array) -> tuple[Array, None]:
        def difference(key: Array) -> Array:
            states = jnp.stack([latent, edited]) + displacement(key, level)
            of_source, of_target = velocities(states, times[level])
            return of_target - of_source

        keys = jax.random.split(jax.random.fold_in(key, level), draws)
        mean = jnp.mean(jax.lax.map(difference, keys), axis=0)
        return edited + (tau[level - 1] - tau[level]) * mean, None

    def sample(state: Array, level: Array) -> tuple[Array, None]:
        target = jax.tree.map(lambda x: x[1], conditions)
        velocity = model(state, times[level], target)
        return state + (tau[level - 1] - tau[level]) * velocity, None

    edited, _ = jax.lax.scan(move, latent, jnp.arange(first, last, -1))
    if last:
        state = edited + displacement(jax.random.fold_in(key, 0), jnp.asarray(last))
        edited, _ = jax.lax.scan(sample, state, jnp.arange(last, 0, -1))
    return edited


def _check_flow(pipe: Pipeline, sampler: SamplerTable) -> None:
    """Raise ValueError unless a sampler is Euler's method of a flow model."""
    if pipe.schedule.family != "flow":
        raise ValueError(
            f"flow_edit edits with flow models; {pipe.name} has a schedule of the "
            f"family {pipe.schedule.family!r}"
        )
    rows = np.concatenate([sampler.a, sampler.b], axis=1)
    if sampler.history > 1 or not np.allclose(rows, sampler.ode.euler, atol=1e-6):
        raise ValueError(
            "flow_edit takes Euler's steps: pass jaxinv.euler(grid), not "
            f"{sampler.name!r}"
        )
