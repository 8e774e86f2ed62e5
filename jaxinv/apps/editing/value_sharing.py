r"""Value sharing: in its first steps, a flow attends to the values of the source.

RF-Edit keeps an image's structure by the values V of attention. In the last blocks of
FLUX with one stream, and in the first steps from the noise, the target attends with its
own queries and keys to the source's values. FireFlow's code has further strategies,
which replace or add any of queries, keys and values:

    replace_v    V <- V_source                 add_v    V <- V + V_source
    replace_k    K <- K_source                 add_k    K <- K + K_source
    replace_q    Q <- Q_source                 add_q    Q <- Q + Q_source

All positions are shared, of the text and of the image, as in both codes. There the
source's features are those of the inversion; here the source is sampled beside the
target (:mod:`jaxinv.apps.editing.pair`), which gives the same if the inversion is
exact. Stable Diffusion 3, for which neither has code, has no blocks with one stream:
its last joint blocks take their place.

References:
    Wang et al. 2024, "Taming Rectified Flow for Inversion and Editing",
    arXiv:2411.04746, Section 3.3; https://github.com/wangjiangshan0725/RF-Solver-Edit.
    Deng et al. 2024, "FireFlow: Fast Inversion of Rectified Flow for Image Semantic
    Editing", arXiv:2412.07517, and its code's ``editing_strategy``.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxinv.apps.editing.method import Share, Task, method
from jaxinv.apps.editing.pair import Moment, Sharing, steps_of
from jaxinv.models import (
    FluxTransformer2DModel,
    Hook,
    Place,
    SD3Transformer2DModel,
)

Strategy = Literal["replace_v", "replace_k", "replace_q", "add_v", "add_k", "add_q"]

#: RF-Solver-Edit's README: ``inject`` 2 to 8 of 30 steps.
STEPS = 5 / 30
#: Its ``layers.py``: blocks with one stream from number 20 on, 18 of FLUX's 57 blocks.
LAYERS = 18 / 57


@method(
    "Wang et al. 2024, arXiv:2411.04746; Deng et al. 2024, arXiv:2412.07517",
    (SD3Transformer2DModel, FluxTransformer2DModel),
)
def value_sharing(
    task: Task,
    *,
    steps: Share = STEPS,
    layers: Share = LAYERS,
    strategies: tuple[Strategy, ...] = ("replace_v",),
) -> Float[Array, "*shape"]:
    """Sample the target with the source's values in the last layers of first steps.

    Args:
        task: The edit.
        steps: Share of the steps, from the noise, in which features are shared.
        layers: Share of the layers of joint attention, from the last.
        strategies: What is shared, and whether it replaces the target's own or is added
            to it; each of queries, keys and values at most once.

    Raises:
        ValueError: If a strategy is given for the same features twice.
    """
    shared = [strategy.split("_")[1] for strategy in strategies]
    if len(set(shared)) < len(shared):
        raise ValueError(
            "strategies must share each of queries, keys and values once, got "
            f"{', '.join(strategies)}"
        )
    sharing = sharing_of(steps_of(steps, task.sampler), layers, strategies)
    return task.pair(sharing)[1]


def sharing_of(steps: int, layers: float, strategies: tuple[str, ...]) -> Sharing:
    """Return what the target takes from the source.

    Args:
        steps: Number of steps from the noise.
        layers: Share of the layers, from the last.
        strategies: See :func:`value_sharing`.
    """
    # Weights of the target's own and of the source's queries, keys and values.
    weights = np.tile(np.array([1, 0], np.float32), (3, 1))
    for strategy in strategies:
        how, what = strategy.split("_")
        weights["qkv".index(what)] = (how == "add", 1)
    arrays = jnp.asarray(steps), jnp.float32(layers), jnp.asarray(weights)
    return jax.tree_util.Partial(_hook, *arrays)


def _hook(
    steps: Int[Array, ""],
    layers: Float[Array, ""],
    weights: Float[Array, "3 2"],
    moment: Moment,
) -> Hook:
    def inputs(
        place: Place, query: Array, key: Array, value: Array
    ) -> tuple[Array, Array, Array]:
        if place.kind != "joint":
            return query, key, value
        first = place.total - jnp.round(layers * place.total)
        here = moment.is_target & moment.during(0, steps) & (place.number >= first)

        def mixed(x: Array, own: Array, other: Array) -> Array:
            both = own.astype(x.dtype) * x + other.astype(x.dtype) * moment.source(x)
            return jnp.where(here, both, x)

        q, k, v = (
            mixed(x, *pair)
            for x, pair in zip((query, key, value), weights, strict=True)
        )
        return q, k, v

    return Hook(inputs=inputs)
