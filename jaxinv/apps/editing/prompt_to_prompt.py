r"""Prompt-to-Prompt: the target attends to words where the source did.

Cross-attention maps say which pixels belong to which word, and so where things are. In
the first steps, the target's maps M* are made of the source's maps M:

    replacement    M*_j <- sum_i M_i A_ij     a word swap: A maps old to new tokens
    refinement     M*_j <- M_A(j)             for tokens that both prompts have
    reweighting    M*_j <- c_j M*_j           a stronger or weaker word

In fewer of the first steps, the maps of self-attention are those of the source, in
layers of up to 16 x 16 positions, which keeps shapes. The negative prompt's maps are
not changed.

References:
    Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control",
    arXiv:2208.01626, Section 3. The shares and the limit of 16 x 16 are those of its
    code's examples for Stable Diffusion with 64 x 64 latents. Tokens are aligned here
    by Python's ``difflib``. Its local blending is not implemented.
"""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxinv.apps.editing.alignment import alignment, factors
from jaxinv.apps.editing.method import Share, Task, method
from jaxinv.apps.editing.pair import Moment, steps_of
from jaxinv.checks import AtLeastOne
from jaxinv.models import Hook, Place, UNet2DConditionModel


@method("Hertz et al. 2022, arXiv:2208.01626", (UNet2DConditionModel,))
def prompt_to_prompt(
    task: Task,
    *,
    cross_steps: Share = 0.8,
    self_steps: Share = 0.4,
    self_size: AtLeastOne = 16,
    kind: Literal["auto", "replace", "refine"] = "auto",
    reweight: Mapping[str, float] | None = None,
) -> Float[Array, "*shape"]:
    """Let the target attend to words where the source did (Prompt-to-Prompt).

    Args:
        task: The task; both prompts must be texts.
        cross_steps: Share of the steps with the source's cross-attention maps.
        self_steps: Share of the steps with the source's self-attention maps.
        self_size: Largest side of a square of positions with shared self-attention.
        kind: Whether new words inherit the maps of the words that they replace.
            ``"auto"`` replaces if both prompts have the same number of words.
        reweight: Words of the target with factors of their maps.
    """
    pipe, texts = task.pipe, (task.source, task.target)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("prompt_to_prompt aligns words: both prompts must be texts")
    source, target = map(pipe.tokenize, texts)
    if kind == "auto":
        counts = {len(text.split()) for text in texts}
        kind = "replace" if len(counts) == 1 else "refine"
    sharing = Partial(
        _hook,
        jnp.asarray(alignment(source, target, kind), jnp.float32),
        jnp.asarray(factors(pipe.tokenizers[0], target, reweight or {}), jnp.float32),
        jnp.asarray(steps_of(cross_steps, task.sampler)),
        jnp.asarray(steps_of(self_steps, task.sampler)),
        jnp.asarray(self_size**2),
    )
    return task.pair(sharing)[1]


def _hook(
    aligned: Float[Array, "l m"],
    scale: Float[Array, " m"],
    cross_steps: Int[Array, ""],
    self_steps: Int[Array, ""],
    largest: Int[Array, ""],
    moment: Moment,
) -> Hook:
    """Return the hook of one moment."""
    matched = aligned.sum(0) > 0

    def weights(place: Place, own: Float[Array, "n q k"]) -> Float[Array, "n q k"]:
        here = moment.is_target & moment.is_prompted
        source = moment.source(own)
        if place.kind == "self":
            when = here & moment.during(0, self_steps) & (own.shape[-1] <= largest)
            return jnp.where(when, source, own)
        mapped = jnp.where(matched, source @ aligned.astype(own.dtype), own)
        when = here & moment.during(0, cross_steps)
        return jnp.where(when, mapped * scale.astype(own.dtype), own)

    return Hook(weights=weights)
