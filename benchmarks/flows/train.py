"""Train the small flow model of the benchmark, in minutes on a CPU.

    python -m benchmarks.flows.train --data FOLDER

The folder holds the drawings of :mod:`training.drawings`, which says where to get them.
Scenes of twelve kinds are drawn as for emoji64 and reduced to 16 x 16 pixels; every
training example gets new grain (standard deviation 0.1 where pixels are in [-1, 1]),
the noise floor of the data. The loss is that of flow matching with times uniform
between 0 and 1; one condition in eight is empty. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.flows.network import KINDS, SHAPE, WEIGHTS, FlowNetwork, save_weights

GRAIN = 0.1
BATCH = 64
DROPPED = 1 / 8
#: Decay of the average of the weights that is kept.
AVERAGED = 0.998


def pictures(folder: Path, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures in [-1, 1], (n, 16, 16, 3) float32, and their kinds from 1."""
    from training.drawings import read_drawings
    from training.scenes import random_scene

    rng = np.random.default_rng(0)
    drawings = read_drawings(folder, KINDS)
    kinds = np.repeat(np.arange(len(KINDS)), each)
    images = np.stack([random_scene(rng, drawings, int(k)).image for k in kinds])
    side = SHAPE[0]
    reduced = images.reshape(len(kinds), side, 64 // side, side, 64 // side, 3)
    return (2 * reduced.mean((2, 4)) - 1).astype(np.float32), kinds + 1


def loss_of(network: Any, data: Any, kinds: Any, key: Any) -> Any:
    """Return the mean squared error of the velocity."""
    keys = jax.random.split(key, 4)
    data = data + GRAIN * jax.random.normal(keys[0], data.shape)
    noise = jax.random.normal(keys[1], data.shape)
    t = jax.random.uniform(keys[2], (len(data),))
    kinds = jnp.where(jax.random.uniform(keys[3], t.shape) < DROPPED, 0, kinds)
    level = t[:, None, None, None]
    found = network((1 - level) * data + level * noise, 1000 * t, kinds)
    return jnp.mean((found - (noise - data)) ** 2)


def train(data: np.ndarray, kinds: np.ndarray, steps: int) -> Any:
    """Return the averaged weights after some steps."""
    structure, state = nnx.split(FlowNetwork(nnx.Rngs(0)))
    rate = optax.cosine_onecycle_schedule(steps, 2e-3, 0.1)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    images, labels = jnp.asarray(data), jnp.asarray(kinds)

    @jax.jit
    def step(state: Any, memory: Any, average: Any, k: Any) -> Any:
        key, pick = jax.random.split(jax.random.fold_in(jax.random.key(1), k))
        some = jax.random.randint(pick, (BATCH,), 0, len(images))

        def loss(state: Any) -> Any:
            network = nnx.merge(structure, state)
            return loss_of(network, images[some], labels[some], key)

        value, slope = jax.value_and_grad(loss)(state)
        change, memory = rule.update(slope, memory, state)
        state = optax.apply_updates(state, change)
        decay = jnp.minimum(AVERAGED, (1 + k) / (10 + k))
        average = optax.incremental_update(state, average, 1 - decay)
        return state, memory, average, value

    memory, average, began, values = rule.init(state), state, time.monotonic(), []
    for k in range(steps):
        state, memory, average, value = step(state, memory, average, k)
        values.append(value)
        if (k + 1) % 100 == 0:
            mean, values = float(jnp.mean(jnp.stack(values))), []
            print(
                f"{k + 1}: loss {mean:.4f}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
    return average


def main() -> None:
    """Write the weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--each", type=int, default=400, help="pictures of a kind")
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    data, kinds = pictures(arguments.data, arguments.each)
    save_weights(train(data, kinds, arguments.steps), arguments.out)


if __name__ == "__main__":
    main()
