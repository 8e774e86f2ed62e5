"""Stacks of identical blocks, run by a loop instead of written out one after another.

A transformer repeats one block dozens of times. Here neighbors of one kind are a single
module whose parameters have a leading axis, one entry per block, and ``jax.lax.scan``
runs over it. The compiled program contains the block once per run of equal kinds, so
that tracing and compiling take the same time whatever the depth.

The parameters of blocks 0 to 12 have the path ``blocks.0:13.attn.to_q.kernel``, where
PyTorch has ``blocks.0.attn.to_q.weight`` to ``blocks.12.attn.to_q.weight``.
:func:`jaxinv.paths.members` translates; conversion, LoRA and sharding need nothing
else.
"""

import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from jaxinv.models.layers.basic import LayerFactory, ShapesOnly
from jaxinv.models.layers.hook import is_hooked, numbered
from jaxinv.models.parameters import parameters, with_parameters

_Kind = TypeVar("_Kind", bound=Hashable)
_Carry = TypeVar("_Carry", bound=PyTree)


class Span(NamedTuple):
    """Numbers of the blocks of one run: ``first``, ..., ``end - 1``."""

    first: int
    end: int

    def __str__(self) -> str:
        """Return the name of the run's module."""
        return f"{self.first}:{self.end}"


class Stack(nnx.Module):
    """Blocks in a row; equal neighbors are one module with stacked parameters.

    Args:
        kinds: What distinguishes the blocks, one hashable value per block. Neighbors of
            equal kind are stacked.
        build: Function of a kind and a layer factory that returns a block: a module
            called as ``block(carry, *shared)``, which returns a carry of the same
            structure, shapes and dtypes.
        make: Layer factory.

    Example:
        >>> from flax import nnx
        >>> make = LayerFactory(jnp.dtype("float32"), jnp.dtype("float32"), nnx.Rngs(0))
        >>> stack = Stack("aab", lambda kind, make: make.linear(3, 3), make)
        >>> {path: x.shape for path, x in parameters(stack).items() if "bias" in path}
        {'0:2.bias': (2, 3), '2:3.bias': (1, 3)}
        >>> stack(jnp.ones(3)).shape
        (3,)
    """

    def __init__(
        self,
        kinds: Sequence[_Kind],
        build: Callable[[_Kind, LayerFactory], nnx.Module],
        make: LayerFactory,
    ):
        first, spans = 0, []
        for kind, run in itertools.groupby(kinds):
            span = Span(first, first + len(list(run)))
            setattr(self, str(span), _stacked(span, kind, build, make))
            spans.append(span)
            first = span.end
        self.spans = tuple(spans)

    def __call__(self, carry: _Carry, *shared: PyTree, **static: Any) -> _Carry:
        """Apply all blocks in order.

        Args:
            carry: What the first block takes and every block returns.
            *shared: Further arguments, which are the same for all blocks.
            **static: Further arguments that are not traced.

        Returns:
            What the last block returns.
        """

        def body(carry: _Carry, item: tuple[Any, Any]) -> tuple[_Carry, None]:
            block, index = item
            block = block if index is None else numbered(block, index)
            return block(carry, *shared, **static), None

        for span in self.spans:
            block = getattr(self, str(span))
            count = span.end - span.first
            indices = jnp.arange(count) if is_hooked(block) else None
            carry, _ = jax.lax.scan(body, carry, (block, indices))
        return carry

    def __len__(self) -> int:
        """Return the number of blocks."""
        return self.spans[-1].end if self.spans else 0


def _stacked(
    span: Span,
    kind: _Kind,
    build: Callable[[_Kind, LayerFactory], nnx.Module],
    make: LayerFactory,
) -> nnx.Module:
    """Return the blocks of one run as one module."""
    count = span.end - span.first
    block = build(kind, make)
    values = [parameters(block)]
    if isinstance(make.rngs, ShapesOnly):
        shapes = {
            path: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
            for path, x in values[0].items()
        }
        return with_parameters(block, shapes)
    values += [parameters(build(kind, make)) for _ in range(count - 1)]
    stacked = jax.tree.map(lambda *blocks: jnp.stack(blocks), *values)
    return with_parameters(block, stacked)
