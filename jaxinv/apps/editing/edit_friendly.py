"""DDPM inversion for editing: noises that retrace the latent, as an inversion.

DDPM inversion (:func:`jaxinv.ddpm_inversion`) finds noises of a stochastic sampler that
lead to a given latent. An edit leaves out the noisiest steps and starts from the state
of a later level: the noises that follow carry the structure of the latent, and the
target prompt changes the rest. Here, both are brought into the form that the editing
methods take: a deterministic sampler that begins at that level, and an
:class:`~jaxinv.InversionResult` whose state it starts from.

The noises were found with the guidance of the source. The target may have another one:
the published settings are 100 steps of which 36 are skipped, and the guidance scales
3.5 and 15.

References:
    Huberman-Spiegelglas et al. 2024, "An Edit Friendly DDPM Noise Space: Inversion and
    Manipulations", arXiv:2304.06140; https://github.com/inbarhub/DDPM_inversion
    (``main_run.py``: 100 steps, guidance 3.5 and 15).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxinv.apps.editing.method import Share
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion import InversionResult
from jaxinv.inversion.ddpm_inversion import ddpm_inversion
from jaxinv.inversion.verification import MARGIN, default_reconstruction_rtol
from jaxinv.norms import relative
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.sample import sample


class EditFriendly(NamedTuple):
    """A sampler that retraces a latent.

    Attributes:
        sampler: The steps that are not skipped, with their noises.
        inversion: The state that they start from, with the states of the levels.
    """

    sampler: SamplerTable
    inversion: InversionResult


@checked
def edit_friendly(
    sampler: SamplerTable,
    denoise: Denoiser,
    latent: Float[Array, "*shape"],
    key: PRNGKeyArray,
    *,
    skip: Share = 0.36,
) -> EditFriendly:
    """Find noises that retrace a latent, in the form that editing methods take.

    Args:
        sampler: A stochastic sampler with a memory of one state
            (:func:`jaxinv.ancestral`).
        denoise: The model with the prompt and the guidance of the source.
        latent: The latent to edit.
        key: Random key of the states.
        skip: Share of the steps, from the noise, that are left out.

    Returns:
        The sampler of the other steps and its inversion. Sampling the state with the
        same model gives the latent.

    Raises:
        ValueError: If no step is left, for a sampler with a longer memory, or if
            :func:`jaxinv.ddpm_inversion` raises it.

    Example:
        ::

            sampler = ji.ancestral(ji.time_grid(pipe.schedule, 100))
            found = editing.edit_friendly(
                sampler, pipe.denoiser(source, guidance_scale=3.5), latent, key)
            edited = editing.METHODS["prompt_swap"](
                pipe, *found, source, target, guidance_scale=15.0)

    References:
        Huberman-Spiegelglas et al. 2024, arXiv:2304.06140, Algorithm 1 and Section 4.
    """
    level = sampler.num_rows - round(skip * sampler.num_rows)
    if level < 1:
        raise ValueError(f"skip={skip:g} leaves no step of {sampler.num_rows}")
    if sampler.history > 1:
        raise ValueError(
            f"the state of one level determines the rest only for samplers with a "
            f"memory of one state, got {sampler.name!r} with {sampler.history}"
        )
    found = ddpm_inversion(sampler, denoise, latent, key)
    rest = sampler.with_noises(found.noises).part(0, level)
    # The state itself is what sampling starts from.
    rest = dataclasses.replace(
        rest, init_noise_scale=np.ones_like(rest.init_noise_scale)
    )
    state = found.trajectory[level]
    error = relative(sample(rest, denoise, state) - latent, latent)
    good = error <= MARGIN * default_reconstruction_rtol(latent.dtype)
    good = good & found.converged
    errors = found.step_residuals[:level]
    count = found.num_evals + level
    inversion = InversionResult(
        noise=state,
        state=state,
        trajectory=found.trajectory[: level + 1],
        residual=jnp.max(errors),
        step_residuals=errors,
        iterations=jnp.zeros((level,), jnp.int32),
        num_evals=count,
        depth=count,
        converged=good,
        reconstruction=error,
        solved=found.converged,
        state_converged=good,
        state_reconstruction=error,
        stages=jnp.ones((), jnp.int32),
        stopped=jnp.asarray(False),
        rounding=jnp.zeros_like(error),
    )
    return EditFriendly(rest, inversion)
