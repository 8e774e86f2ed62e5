r"""Rematerialization: recompute activations instead of storing them.

Reverse-mode derivatives need the activations of the forward pass. A *policy* selects
what is stored of each block of a network (a residual block, a spatial transformer, a
layer of the text encoder); the backward pass recomputes the rest.

=========  =========================================================  =================
policy     stored of a block                                          recomputed
=========  =========================================================  =================
"none"     all activations                                            nothing
"dots"     its input, outputs of convolutions and dense layers        norms, attention
"blocks"   its input                                                  the whole block
=========  =========================================================  =================

Outputs, inference and forward-mode derivatives are those of the same program.

References:
    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    https://arxiv.org/abs/1604.06174
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax

Remat = Literal["none", "blocks", "dots"]

#: Name of the convolution outputs that the policy "dots" stores. Policies do not see
#: into this library's convolutions, which have a custom derivative.
PRODUCT = "jaxinv.product"

_kept = jax.checkpoint_policies
_POLICIES: dict[str, Callable[..., Any] | None] = {
    "blocks": None,
    # Dense layers have no batch axes; products of activations (attention) have heads.
    "dots": _kept.save_from_both_policies(
        _kept.dots_with_no_batch_dims_saveable, _kept.save_only_these_names(PRODUCT)
    ),
}

_Call = TypeVar("_Call", bound=Callable[..., Any])


def rematerialized(call: _Call) -> _Call:
    """Make a module's ``__call__`` follow the policy in its attribute ``remat``.

    Args:
        call: The method.

    Returns:
        A method with the same signature. Keyword arguments are static.
    """

    @functools.wraps(call)
    def wrapped(self: Any, *args: Any, **static: Any) -> Any:
        if self.remat == "none":
            return call(self, *args, **static)
        block = functools.partial(call, self, **static)
        return jax.checkpoint(block, policy=_POLICIES[self.remat])(*args)

    return wrapped  # type: ignore[return-value]
