"""Plug-and-Play: the target takes the source's layout as features.

In the first steps, two things in the decoder of the UNet are those of the source: the
features of one residual block, and the queries and keys of self-attention from that
layer on, whose products say which positions belong together.

References:
    Tumanyan et al. 2022, "Plug-and-Play Diffusion Features for Text-Driven
    Image-to-Image Translation", arXiv:2211.12572, Section 4. The decoder of Stable
    Diffusion has 12 layers, numbered from 0: the features are those of layer 4 (block
    1, second residual block), and attention is that of the layers 4 to 11. In the
    authors' code for diffusers (github.com/MichalGeyer/pnp-diffusers), the source has
    an empty prompt and no guidance, its states are those of the inversion, and both
    branches of the target's guidance take its features. Here the source is sampled with
    its own prompt and the target's guidance, as in the other methods, and each branch
    takes the features of its own kind.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxinv.apps.editing.method import Share, Task, method
from jaxinv.apps.editing.pair import Moment, steps_of
from jaxinv.models import Hook, Place, UNet2DConditionModel


@method("Tumanyan et al. 2022, arXiv:2211.12572", (UNet2DConditionModel,))
def plug_and_play(
    task: Task,
    *,
    attention_steps: Share = 0.5,
    feature_steps: Share = 0.8,
    first_layer: Share = 4 / 12,
) -> Float[Array, "*shape"]:
    """Take the source's layout from features of the decoder (Plug-and-Play).

    Args:
        task: The task.
        attention_steps: Share of the steps with the source's queries and keys.
        feature_steps: Share of the steps with the source's residual features.
        first_layer: Share of the decoder's layers before the first one that is shared;
            the only one whose features are.
    """
    sizes = tuple(len(block.resnets) for block in task.pipe.network.up_blocks)
    first = min(round(first_layer * sum(sizes)), sum(sizes) - 1)
    steps = [steps_of(s, task.sampler) for s in (attention_steps, feature_steps)]
    return task.pair(Partial(_hook, *map(jnp.asarray, (*steps, first)), sizes))[1]


def _hook(
    attention_steps: Int[Array, ""],
    feature_steps: Int[Array, ""],
    first: Int[Array, ""],
    sizes: tuple[int, ...],
    moment: Moment,
) -> Hook:
    """Return the hook of one moment, for blocks of these numbers of layers."""

    def number(place: Place) -> int | None:
        """Return the number of a decoder's layer, from 0; None for other layers."""
        part, *rest = place.path.split(".")
        if part != "up_blocks" or rest[1] not in ("resnets", "attentions"):
            return None
        return sum(sizes[: int(rest[0])]) + int(rest[2])

    def inputs(
        place: Place, query: Array, key: Array, value: Array
    ) -> tuple[Array, Array, Array]:
        layer = number(place)
        if place.kind != "self" or layer is None:
            return query, key, value
        when = moment.during(0, attention_steps) & (layer >= first)
        return moment.shared(query, when), moment.shared(key, when), value

    def features(place: Place, x: Array) -> Array:
        layer = number(place)
        if layer is None:
            return x
        return moment.shared(x, moment.during(0, feature_steps) & (layer == first))

    return Hook(inputs=inputs, features=features)
