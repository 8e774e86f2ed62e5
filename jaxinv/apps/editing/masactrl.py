"""MasaCtrl: the target's self-attention looks at the source.

In later steps and later layers, the target keeps its queries, and takes keys and values
of self-attention from the source: it arranges the content of the source anew, as its
own prompt says. Earlier steps and layers are left alone, so that the arrangement can
change.

References:
    Cao et al. 2023, "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent
    Image Synthesis and Editing", arXiv:2304.08465, Section 4.1, with S = 4 of 50 steps
    and L = 10 of 16 layers. The masks of its Section 4.2 are not implemented.
"""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxinv.apps.editing.method import Share, Task, method
from jaxinv.apps.editing.pair import Moment, steps_of
from jaxinv.models import Hook, Place, UNet2DConditionModel


@method("Cao et al. 2023, arXiv:2304.08465", (UNet2DConditionModel,))
def masactrl(
    task: Task, *, first_step: Share = 4 / 50, first_layer: Share = 10 / 16
) -> Float[Array, "*shape"]:
    """Let the target's self-attention look at the source (MasaCtrl).

    Args:
        task: The task.
        first_step: Share of the steps before the first one that looks at the source.
        first_layer: Share of the layers before the first one that does.
    """
    start = jnp.asarray(steps_of(first_step, task.sampler))
    return task.pair(Partial(_hook, start, jnp.asarray(first_layer)))[1]


def _hook(start: Int[Array, ""], share: Float[Array, ""], moment: Moment) -> Hook:
    """Return the hook of one moment."""

    def inputs(
        place: Place, query: Array, key: Array, value: Array
    ) -> tuple[Array, Array, Array]:
        if place.kind != "self":
            return query, key, value
        when = (moment.step >= start) & (place.number >= jnp.round(share * place.total))
        return query, moment.shared(key, when), moment.shared(value, when)

    return Hook(inputs=inputs)
