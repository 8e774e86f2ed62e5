"""The small flow model of the benchmark: a transformer of half a million weights.

It predicts the velocity ``e - x_0`` of 16 x 16 pixels, conditioned on the time (0 to
1000) and on the kind of drawing; kind 0 is the empty condition of guidance. Its weights
are beside this file, in half precision (:mod:`benchmarks.flows.train` makes them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

WEIGHTS = Path(__file__).parent / "weights.npz"
SHAPE = (16, 16, 3)
#: Icon names of :mod:`training.drawings`, conditions 1 to 12.
KINDS = (
    "red-heart", "pizza", "soccer-ball", "dog-face", "cat-face", "frog", "penguin",
    "sun", "rainbow", "tulip", "red-apple", "house-with-garden",
)  # fmt: skip
#: Side of a patch, number of features, heads and blocks.
PATCH, WIDTH, HEADS, DEPTH = 4, 96, 6, 3


class Block(nnx.Module):
    """Attention and two layers on every token; the condition scales, shifts and gates.

    Args:
        rngs: Random numbers of the weights.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        zeros = nnx.initializers.zeros
        self.norm = nnx.LayerNorm(WIDTH, use_scale=False, use_bias=False, rngs=rngs)
        self.condition = nnx.Linear(WIDTH, 6 * WIDTH, kernel_init=zeros, rngs=rngs)
        self.mixed = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.joined = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.wide = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(3 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: Any, condition: Any) -> Any:
        """Return the tokens (b, n, features), from those before and the condition."""
        changes = jnp.split(self.condition(condition)[:, None], 6, -1)
        shift, scale, gate, shift2, scale2, gate2 = changes
        qkv = self.mixed(self.norm(x) * (1 + scale) + shift)
        qkv = qkv.reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS)
        seen = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        x = x + gate * self.joined(seen.reshape(x.shape))
        h = self.wide(self.norm(x) * (1 + scale2) + shift2)
        return x + gate2 * self.narrow(nnx.gelu(h))


class FlowNetwork(nnx.Module):
    """The transformer, with learned positions.

    Args:
        rngs: Random numbers of the weights.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        tokens, pixels = (SHAPE[0] // PATCH) ** 2, PATCH**2 * SHAPE[2]
        self.enter = nnx.Linear(pixels, WIDTH, rngs=rngs)
        self.places = nnx.Param(0.1 * rngs.normal((tokens, WIDTH)))
        self.time = nnx.Linear(32, WIDTH, rngs=rngs)
        self.kind = nnx.Embed(len(KINDS) + 1, WIDTH, rngs=rngs)
        self.joined = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.leave = nnx.Linear(WIDTH, pixels, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Any, t: Any, kind: Any) -> Any:
        """Return the velocity of pictures (b, 16, 16, 3), or of one without b."""
        if x.ndim == 3:
            return self(x[None], jnp.reshape(t, (1,)), jnp.reshape(kind, (1,)))[0]
        angles = t[:, None] * jnp.geomspace(1e-3, 0.3, 16)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
        condition = self.time(waves.astype(x.dtype)) + self.kind(kind)
        condition = nnx.silu(self.joined(nnx.silu(condition)))
        tokens = self.enter(_patches(x)) + self.places[...]
        for block in self.blocks:
            tokens = block(tokens, condition)
        return _pixels(self.leave(self.norm(tokens)))


def _patches(x: Any) -> Any:
    """Return pictures as tokens, (b, tokens, pixels of a patch)."""
    b, side, _, channels = x.shape
    x = x.reshape(b, side // PATCH, PATCH, side // PATCH, PATCH, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, PATCH**2 * channels)


def _pixels(tokens: Any) -> Any:
    """Undo :func:`_patches`."""
    side, _, channels = SHAPE
    x = tokens.reshape(-1, side // PATCH, side // PATCH, PATCH, PATCH, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *SHAPE)


def load_network(path: Path = WEIGHTS) -> FlowNetwork:
    """Return the trained network, in float32."""
    network = FlowNetwork(nnx.Rngs(0))
    state = nnx.state(network)
    leaves, structure = jax.tree.flatten(state)
    with np.load(path) as found:
        known = [found[f"arr_{i}"] for i in range(len(leaves))]
    values = [jnp.asarray(value, jnp.float32) for value in known]
    nnx.update(network, jax.tree.unflatten(structure, values))
    return network


def save_weights(state: Any, path: Path = WEIGHTS) -> None:
    """Write the weights, a state of the network, in half precision."""
    leaves = [np.asarray(leaf, np.float16) for leaf in jax.tree.leaves(state)]
    np.savez_compressed(path, *leaves)
