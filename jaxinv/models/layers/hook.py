"""Hooks: see and change what happens inside a network's layers.

A hook is three pure functions. An attention layer calls two of them, with its place in
the network:

    query, key, value = inputs(place, query, key, value)      before the products
    weights           = weights(place, weights)               after the softmax

A residual block calls the third, ``features(place, features)``, on the result of its
second convolution, before its input is added to it.

Hooks belong to a copy of the network (:func:`with_hook`). Make the copy inside of the
compiled function: a hook may then use arrays of the program (such as the noise level,
or arrays of other samples through ``jax.lax.all_gather``), and there is nothing to
collect afterwards. Without a hook, the network's program is the same as ever.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxinv.checks import checked, shown
from jaxinv.paths import members

#: What a layer does: attention of positions to each other, to a context, of two
#: sequences to both, or across frames; or a residual block.
Kind = Literal["self", "cross", "joint", "frames", "residual"]

_Network = TypeVar("_Network", bound=nnx.Module)


class Place(NamedTuple):
    """The place of a layer in its network.

    Attributes:
        path: Names of attributes and numbers, joined by dots, such as
            ``up_blocks.1.attentions.0.transformer_blocks.0.attn1``. The layers of a
            stack share a path, ``transformer_blocks.0:13.attn``.
        kind: What the layer does.
        number: Number of the layer among those of its kind, from 0, in the order of
            evaluation. In a stack, which runs in a loop, it is a traced array.
        total: Number of layers of its kind.
        text_length: Number of the text's positions, which come first, if the kind is
            ``"joint"``; otherwise 0.
    """

    path: str
    kind: Kind
    number: int | Int[Array, ""]
    total: int
    text_length: int = 0


Inputs = tuple[Float[Array, "q n d"], Float[Array, "k n d"], Float[Array, "k n d"]]


class Hook(NamedTuple):
    """The functions that layers call; None for those that are not needed.

    Every function returns arrays of the shapes and dtypes that it receives, except that
    the numbers of keys and values may change together.

    Attributes:
        inputs: ``(place, query, key, value) -> (query, key, value)`` of attention, with
            one vector per position and head, (q, n, d) and (k, n, d).
        weights: ``(place, weights) -> weights`` of attention, of shape (n, q, k) and in
            float32 at least. The layer then computes them explicitly, with XLA.
        features: ``(place, features) -> features`` of a residual block, (h, w, c).
    """

    inputs: Callable[[Place, Array, Array, Array], Inputs] | None = None
    weights: Callable[[Place, Array], Array] | None = None
    features: Callable[[Place, Array], Array] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class LayerHook:
    """A hook at its place: the attribute ``hook`` of a layer.

    Attributes:
        hook: The hook.
        place: The layer's place.
    """

    hook: Hook
    place: Place

    def inputs(self, query: Array, key: Array, value: Array) -> Inputs:
        """Return the inputs of attention, changed by the hook."""
        if self.hook.inputs is None:
            return query, key, value
        found = self.hook.inputs(self.place, query, key, value)
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise ValueError(
                f"a hook's inputs must return a query, a key and a value, got "
                f"{shown(found)} at {self.place.path}"
            )
        new_query, new_key, new_value = found
        count = jnp.shape(new_key)[:1]  # keys and values may change in number
        return (
            self._same("query", new_query, query),
            self._same("key", new_key, key, count),
            self._same("value", new_value, value, count),
        )

    @property
    def sees_weights(self) -> bool:
        """Whether the layer has to compute the weights explicitly."""
        return self.hook.weights is not None

    def weights(self, weights: Float[Array, "n q k"]) -> Float[Array, "n q k"]:
        """Return the weights of attention, changed by the hook."""
        if self.hook.weights is None:
            return weights
        return self._same("weights", self.hook.weights(self.place, weights), weights)

    def features(self, features: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        """Return the features of a residual block, changed by the hook."""
        if self.hook.features is None:
            return features
        found = self.hook.features(self.place, features)
        return self._same("features", found, features)

    def _same(
        self, name: str, found: Any, given: Array, count: tuple[int, ...] | None = None
    ) -> Array:
        """Return what a hook returned, of the shape and dtype of what it was given.

        Args:
            name: What it is.
            found: What the hook returned.
            given: What it was given.
            count: The first axis, if it may have changed.

        Raises:
            ValueError: If it has another shape or dtype.
        """
        shape = given.shape if count is None else (*count, *given.shape[1:])
        got = (getattr(found, "shape", None), getattr(found, "dtype", None))
        if got != (shape, given.dtype):
            of = f"{got[1]} {got[0]}" if got[1] is not None else shown(found)
            raise ValueError(
                f"a hook must return a {name} of {given.dtype} {shape}, got {of} at "
                f"{self.place.path}"
            )
        return cast(Array, found)

    def moved(self, **changes: Any) -> "LayerHook":
        """Return the same hook at another place."""
        return LayerHook(self.hook, self.place._replace(**changes))


@checked
def with_hook(network: _Network, hook: Hook) -> _Network:
    """Return a copy of a network whose layers call a hook.

    Args:
        network: The network; it is not changed.
        hook: The hook.

    Returns:
        A network of the same class with the same parameters.

    Raises:
        ValueError: If the network has no layer that calls hooks. The network raises it
            if a function returns arrays of other shapes or dtypes than it received.

    Example:
        Record the places of the layers that attend to the text:

        >>> import jax, jax.numpy as jnp, jaxinv as ji
        >>> places = []
        >>> def record(place, weights):
        ...     places.append(place)
        ...     return weights
        >>> pipe = ji.load("emoji64")
        >>> network = with_hook(pipe.network, Hook(weights=record))
        >>> text = pipe.encode_prompt("red heart")
        >>> _ = jax.eval_shape(network, jnp.ones(pipe.latent_shape), 500.0, text)
        >>> [place.path for place in places if place.kind == "cross"][0]
        'down_blocks.1.attentions.0.transformer_blocks.0.attn2'
    """
    if not isinstance(network, nnx.Module):
        raise ValueError(
            "with_hook: network must be a network, such as pipe.network, got "
            f"{shown(network)}"
        )
    new: _Network = jax.tree.map(lambda x: x, network)  # new objects, same arrays
    layers = hooked_layers(new)
    if not layers:
        raise ValueError(
            f"a hook must have layers that call it; {type(network).__name__} has none"
        )
    counts: dict[str, int] = {}
    for path, layer in layers:
        number = counts.get(layer.kind, 0)
        layer.hook = LayerHook(hook, Place(path, layer.kind, number, 0))
        counts[layer.kind] = number + len(members(path))
    for _, layer in layers:
        layer.hook = layer.hook.moved(total=counts[layer.kind])
    return new


def hooked_layers(network: nnx.Module) -> list[tuple[str, Any]]:
    """Return the layers that can call a hook with their paths, in their order."""
    found = [
        (path, layer)
        for path, layer in nnx.iter_modules(network)
        if hasattr(layer, "hook")
    ]
    # FLUX's single blocks follow its double blocks, against the alphabet.
    found.sort(key=lambda pair: any(str(p).startswith("single") for p in pair[0]))
    return [(".".join(map(str, path)), layer) for path, layer in found]


def is_hooked(block: nnx.Module) -> bool:
    """Return whether a block has a layer with a hook."""
    return any(layer.hook is not None for _, layer in hooked_layers(block))


def numbered(block: Any, index: Int[Array, ""]) -> Any:
    """Return a block of a stack, whose layers know which of the stacked ones they are.

    Args:
        block: The block, inside of the loop that runs over the stack. It is changed.
        index: Its number in the stack.
    """
    for _, layer in hooked_layers(block):
        if layer.hook is not None:
            number = layer.hook.place.number + index
            layer.hook = layer.hook.moved(number=number)
    return block
