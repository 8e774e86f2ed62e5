r"""Editing: invert with one prompt, sample with another.

Invert an image with a prompt that describes it, and sample its noise with another
prompt: the result preserves what both prompts share. Two options preserve more:

* **Freezing.** The first steps, closest to the noise, determine the layout. If they use
  the source prompt, only the other steps follow the target.
* **A mask.** Outside the mask, the states of every step are replaced by those of the
  inverted trajectory, which ends in the image itself. No states of the original
  sampling are needed, and nothing outside the mask drifts. The better the inversion,
  the better the edited part fits the preserved part.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387, Section 5
    (background-preserving editing without the original latents).
    Wang et al. 2024, "BELM", arXiv:2410.07273, Section 5 (prompt swap, freezing).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion import InversionResult, invert
from jaxinv.inversion.row_residuals import per_level
from jaxinv.loops import Loop, run
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import all_matched
from jaxinv.sampling.sample import descent
from jaxinv.sampling.state import SamplerState, unlabeled
from jaxinv.sampling.steps import Rows


class Edit(NamedTuple):
    """An edited latent and the inversion of the source.

    Attributes:
        latent: The edited latent.
        inversion: The inversion of the source, with its trajectory.
    """

    latent: Float[Array, "*shape"]
    inversion: InversionResult

    def __repr__(self) -> str:
        """Return the verdict on its inversion, without the arrays."""
        return f"Edit: {self.inversion!r}"


@checked
def edit(
    sampler: SamplerTable,
    source: Denoiser,
    target: Denoiser,
    latent: Float[Array, "*shape"],
    *,
    mask: ArrayLike | None = None,
    freeze: int = 0,
    **options: Any,
) -> Edit:
    """Edit a latent from a source prompt to a target prompt.

    Args:
        sampler: A table, bidirectional or not.
        source: The model with the prompt that describes the latent.
        target: The model with the prompt that should describe the result.
        latent: The latent to edit.
        mask: 1 where the latent may change, 0 where it must not; values in between
            blend. Broadcast to the latent. None allows changes everywhere. See
            :mod:`jaxinv.apps.masks`.
        freeze: Number of first steps, from the noise end, that use the source. In a
            bidirectional sampler with k states, the first k - 1 rows always do,
            because its state at the noise end is that of the source.
        **options: Options of :func:`jaxinv.invert`.

    Returns:
        The edited latent with the inversion. Without a mask, the certificate of the
        inversion shows whether the source prompt reproduces the latent; with a mask,
        the latent outside is preserved in any case.

    Raises:
        ValueError: For a mask of another shape or with values outside of [0, 1], a
            freeze outside of ``0 .. sampler.num_steps``, or if :func:`jaxinv.invert`
            raises it.

    Example:
        Editing with equal prompts changes nothing:

        >>> import jax, jaxinv as ji
        >>> from jaxinv.apps import editing
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> model = lambda x, t: x / (1 + t / 1000)
        >>> latent = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> same = editing.edit(sampler, model, model, latent).latent
        >>> bool(ji.nmse_db(same, latent) < -100)
        True
    """
    latent = jnp.asarray(latent)
    check_finite(latent, "latent")
    if not 0 <= freeze <= sampler.num_steps:
        raise ValueError(f"freeze must be 0 to {sampler.num_steps} steps, got {freeze}")
    weights = None if mask is None else _checked(mask, latent)
    check_denoiser(target, latent)
    inversion = invert(sampler, source, latent, return_trajectory=True, **options)
    sampler, models = all_matched(sampler, latent.shape, source, target)
    program, start = unlabeled(sampler, counted=True), inversion.state
    start = unlabeled(start) if isinstance(start, SamplerState) else start
    edited = _regenerate(program, models, start, inversion.trajectory, weights, freeze)
    return Edit(edited, inversion)


def _checked(mask: ArrayLike, latent: Array) -> Array:
    """Return the mask as an array that broadcasts, or raise ValueError."""
    weights = jnp.asarray(mask, latent.dtype)
    try:
        fits = jnp.broadcast_shapes(weights.shape, latent.shape) == latent.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the mask of shape {weights.shape} does not fit a latent of shape "
            f"{latent.shape}; jaxinv.apps.masks.latent_mask converts masks of pixels"
        )
    check_finite(weights, "mask")
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("the values of a mask must lie in [0, 1]")
    return weights


@jax.jit(static_argnames="freeze")
def _regenerate(
    sampler: SamplerTable,
    models: tuple[Function, Function],
    start: Array | SamplerState,
    trajectory: Array,
    mask: Array | None,
    freeze: int,
) -> Array:
    """Sample from the noise end: first with the source, then with the target."""
    bidirectional = isinstance(start, SamplerState)
    level = sampler.num_rows - (sampler.history - 1 if bidirectional else 0)
    between = min(level, sampler.level_after(freeze))

    def sampling(denoise: Denoiser) -> Loop:
        rows = Rows(sampler, denoise, trajectory.dtype)
        loop = descent(rows, level, keep=False)
        if mask is None:
            return loop
        edited, kept = mask, trajectory / per_level(rows.table.scale, trajectory)

        def advance(state: Any) -> Any:
            i, window, _ = loop.advance(state)
            mixed = edited * window.states[0] + (1 - edited) * kept[i]
            return i, window._replace(states=window.states.at[0].set(mixed)), None

        return loop._replace(advance=advance)

    source, target = map(sampling, models)
    begin = source.begin if freeze else target.begin
    state = run(
        source._replace(begin=begin, finish=_same, length=level - between), start
    )
    return run(target._replace(begin=_same, length=between), state)[0][0]


def _same(state: Any) -> Any:
    return state
