"""Wall times, and what one call of the model costs."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.samples import Samples, make_samples


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median wall time of some runs; of several, after one that is not counted."""
    if repeats > 1:
        jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@jax.jit
def model_call(pipe: Any, samples: Samples, scale: Any, x: Any, t: Any) -> Any:
    """One call of the guided model for a batch, each sample at its own time."""

    def one(cond: Any, x: Any, t: Any) -> Any:
        return pipe.denoiser(cond, samples.uncond, scale)(x, t)

    return jax.vmap(one)(samples.conds, x, t)


class CallTimes:
    """Median seconds of one model call by batch size, each measured once."""

    def __init__(self, pipe: Any, repeats: int) -> None:
        self.pipe, self.repeats = pipe, repeats
        self.known: dict[int, float] = {}

    def __getitem__(self, batch: int) -> float:
        if batch not in self.known:
            samples = make_samples(self.pipe, batch, 0)
            t = jnp.linspace(10.0, 990.0, batch)
            arguments = self.pipe, samples, jnp.float32(5), samples.noises, t
            jax.block_until_ready(model_call(*arguments))  # compiled here
            self.known[batch] = seconds(lambda: model_call(*arguments), self.repeats)
        return self.known[batch]
