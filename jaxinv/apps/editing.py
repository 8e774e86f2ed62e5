r"""Editing: invert with one prompt, sample with another.

The noise of an image under the prompt that describes it, sampled with another prompt,
keeps what both prompts have in common. Two things keep more:

* **Freezing.** The first steps, nearest to the noise, decide the layout. If they are
  done with the source prompt, only the rest follows the target.
* **A mask.** Outside of it the states are replaced, at every step, by those of the
  inverted trajectory, which ends in the image itself: no states of its making are
  needed, and nothing outside of the mask drifts. The better the inversion, the better
  what is made inside of the mask fits to what is kept.

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

from jaxinv.callables import check_denoiser, check_finite, split_callable
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion import InversionResult, invert
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.state import SamplerState
from jaxinv.sampling.steps import Rows


class Edit(NamedTuple):
    """An edited latent, and the inversion that it rests on.

    Attributes:
        latent: the edited one.
        inversion: of the source; with its trajectory.
    """

    latent: Float[Array, "*shape"]
    inversion: InversionResult


@checked
def edit(
    sampler: LinearMultistep,
    source: Denoiser,
    target: Denoiser,
    latent: Float[Array, "*shape"],
    *,
    mask: ArrayLike | None = None,
    freeze: int = 0,
    **options: Any,
) -> Edit:
    """Changes a latent from what one prompt says to what another does.

    Args:
        sampler: a table, bidirectional or not.
        source: the model with the prompt that the latent shows.
        target: the model with the prompt that it shall show.
        latent: what to edit.
        mask: 1 where the latent may change, 0 where it has to stay, values between
            blend; broadcast to the latent. None changes everything. See
            :mod:`jaxinv.apps.masks`.
        freeze: number of first steps, from the noise end, that follow the source. Of a
            bidirectional sampler of k states, the first k - 1 always do: its state at
            the noise end is that of the source.
        **options: of :func:`jaxinv.invert`.

    Returns:
        The edited latent with the inversion. Without a mask its certificate says
        whether the source prompt would lead back; with one, the latent outside is
        kept in any case.

    Raises:
        ValueError: for a sampler that is not a table, a mask of another shape or with
            values outside of [0, 1], a freeze outside of ``0 .. N``, or as
            :func:`jaxinv.invert`.

    Example:
        The same prompt twice edits nothing:

        >>> import jax, jaxinv as ji
        >>> from jaxinv.apps import editing
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> model = lambda x, t: x / (1 + t / 1000)
        >>> latent = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> same = editing.edit(sampler, model, model, latent).latent
        >>> bool(ji.nmse_db(same, latent) < -100)
        True
    """
    if not isinstance(sampler, LinearMultistep):
        raise ValueError(
            "editing works on the states of a table such as jaxinv.o_belm(grid); "
            f"{getattr(sampler, 'name', type(sampler).__name__)!r} is none"
        )
    latent = jnp.asarray(latent)
    check_finite(latent, "latent")
    if not 0 <= freeze <= sampler.num_steps:
        raise ValueError(f"freeze counts steps, 0 to {sampler.num_steps}, got {freeze}")
    weights = None if mask is None else _checked(mask, latent)
    check_denoiser(target, latent)
    inversion = invert(sampler, source, latent, return_trajectory=True, **options)
    parts = split_callable(source), split_callable(target)
    arrays, rebuilds = zip(*parts, strict=True)
    state = inversion.state
    values = state.values if isinstance(state, SamplerState) else state
    edited = _regenerate(
        sampler, arrays, rebuilds, values, inversion.trajectory, weights, freeze
    )
    return Edit(edited, inversion)


def _checked(mask: ArrayLike, latent: Array) -> Array:
    """The mask as an array that broadcasts; ValueError if it cannot be one."""
    weights = jnp.asarray(mask, latent.dtype)
    try:
        fits = jnp.broadcast_shapes(weights.shape, latent.shape) == latent.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the mask of shape {weights.shape} does not fit a latent of shape "
            f"{latent.shape}; jaxinv.apps.masks.latent_mask makes one of pixels"
        )
    check_finite(weights, "mask")
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("the values of a mask must lie in [0, 1]")
    return weights


@jax.jit(static_argnames=("rebuilds", "freeze"))
def _regenerate(
    sampler: LinearMultistep,
    arrays: tuple[list[Any], ...],
    rebuilds: tuple[Any, ...],
    values: Array,
    trajectory: Array,
    mask: Array | None,
    freeze: int,
) -> Array:
    """Samples from the noise end: first with the source, then with the target."""
    source, target = (r(a) for r, a in zip(rebuilds, arrays, strict=True))
    dtype = trajectory.dtype
    at_source, at_target = (Rows(sampler, d, dtype) for d in (source, target))
    table = at_source.table
    scale = table.scale.reshape((-1,) + (1,) * (trajectory.ndim - 1))
    kept = trajectory / scale
    level = at_source.top if sampler.bidirectional else table.num_steps
    between = min(level, table.num_steps - freeze)
    first = at_source if freeze else at_target
    if sampler.bidirectional:
        window = first.resume(values, level)
    else:
        window = first.begin(values)

    def step(rows: Rows) -> Any:
        def down(window: Any, i: Array) -> tuple[Any, None]:
            window = rows.down(i, window)
            if mask is None:
                return window, None
            mixed = mask * window.states[0] + (1 - mask) * kept[i - 1]
            return window._replace(states=window.states.at[0].set(mixed)), None

        return down

    window, _ = jax.lax.scan(step(at_source), window, jnp.arange(level, between, -1))
    window, _ = jax.lax.scan(step(at_target), window, jnp.arange(between, 0, -1))
    return table.scale[0] * window.states[0]
